"""A bundle of fibres around a centreline, and a ball of free water.

Inside a bundle the fibres are the curves ::

    p(s; u) = c(s) + rho(s) (f^1/2 u1 n1(s) + f^-1/2 u2 n2(s)),    |(u1, u2)| <= 1

where c is the centreline, rho the radius, f the flatness, and n1 and n2 are normals,
transported along c without rotation about its tangent [1]_.  The cross-section is an
ellipse with the area of a disc of radius rho.  It is f times as wide along n1 as along
n2.  As n_i' = -(kappa . n_i) t, the fibre through the point x = c(s) + r has the
tangent ::

    p'(s) = t (1 - kappa . r) + (rho' / rho) r

with the unit tangent t and the curvature vector kappa of the centreline.  This does not
depend on the flatness.

References
----------
.. [1] Bishop RL. There is more than one way to frame a curve. The American
   Mathematical Monthly 82(3), 1975.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

from dipy_rnn import _checks
from dipy_rnn._typing import AnyArray, ArrayLike, BoolArray, FloatArray, IntArray
from dipy_rnn.phantom.geometry import (
    REACH_SAMPLE_MM,
    SAMPLE_MM,
    arc_lengths,
    check_positive,
    dot,
    parallel_transport,
    ramp,
    reach,
    unit,
)

EDGE = 0.2  # outer share of the radius over which the fraction falls to 0


@dataclass(frozen=True, eq=False, init=False)
class Bundle:
    """A tube or a sheet of fibres around a centreline.

    Parameters
    ----------
    centreline_mm : ndarray of shape (K, 3)
        Points along a smooth curve in mm (RAS), about 0.25 to 0.5 mm apart where it
        bends.  If the last point equals the first, the tube is closed.
    radius_mm : float or ndarray of shape (K,)
        Radius of the tube in mm, at all points or at each.  Where it grows, the fibres
        fan out.
    weight : float, optional
        Volume fraction of fibres inside the bundle, in (0, 1].
    flatness : float, optional
        Width divided by thickness.  The cross-section is an ellipse with the half-axes
        ``radius_mm * sqrt(flatness)`` and ``radius_mm / sqrt(flatness)``.
    wide_along : sequence of 3 floats, optional
        Direction (RAS) of the first half-axis at the first point; only its part across
        the centreline counts.  The half-axes are transported along the centreline
        without rotation about it.  Default: the world axis that is most nearly
        perpendicular to the centreline.

    Attributes
    ----------
    curve : scipy.interpolate.CubicSpline
        Centreline and radius (x, y, z, rho) in mm, as a function of the arc length.
    arc_mm : ndarray of shape (S,)
        Arc lengths at which the centreline is sampled.
    half_axes : ndarray of shape (2,)
        Half-axes of the cross-section as multiples of the radius.

    Raises
    ------
    ValueError
        If an argument is invalid, or if the tube folds or meets itself.

    Notes
    -----
    The larger half-axis must be below the radius of curvature of the centreline, and
    below half of the gap to its other parts.

    Examples
    --------
    >>> import numpy as np
    >>> from dipy_rnn.phantom import Bundle
    >>> bundle = Bundle(np.array([[0.0, 0, 0], [20, 0, 0]]), 3.0)
    >>> directions, fraction = bundle.directions(np.array([[10.0, 1, 0], [10, 4, 0]]))
    >>> print(directions.round(3))
    [[1. 0. 0.]
     [0. 0. 0.]]
    >>> print(fraction)
    [1. 0.]

    A sheet of 12 mm by 3 mm:

    >>> line = np.array([[0.0, 0, 0], [20, 0, 0]])
    >>> sheet = Bundle(line, 3.0, flatness=4.0, wide_along=(0, 0, 1))
    >>> print(sheet.directions(np.array([[10.0, 0, 4], [10, 4, 0]]))[1])
    [1. 0.]
    """

    centreline_mm: FloatArray
    radius_mm: FloatArray
    weight: float
    flatness: float
    wide_along: FloatArray | None
    curve: CubicSpline = field(init=False, repr=False)
    arc_mm: FloatArray = field(init=False, repr=False)
    half_axes: FloatArray = field(init=False, repr=False)
    _tree: cKDTree = field(init=False, repr=False)  # of the samples

    def __init__(
        self,
        centreline_mm: AnyArray,
        radius_mm: float | AnyArray,
        weight: float = 1.0,
        flatness: float = 1.0,
        wide_along: Sequence[float] | FloatArray | None = None,
    ) -> None:
        # Not generated: the arguments may be of more types than the fields.
        centreline = np.array(centreline_mm, dtype=np.float64)
        if centreline.ndim != 2 or centreline.shape[1] != 3 or len(centreline) < 2:
            raise ValueError(
                f"centreline_mm has the shape {centreline.shape}; (K, 3) with K > 1 is "
                "needed."
            )
        if np.ndim(radius_mm) and np.shape(radius_mm) != centreline.shape[:1]:
            raise ValueError(
                f"radius_mm has the shape {np.shape(radius_mm)}; one number is needed, "
                f"or one for each point of the centreline, ({len(centreline)},)."
            )
        check_positive("radius_mm", radius_mm)
        radius = np.full(len(centreline), radius_mm, dtype=np.float64)
        if not 0 < weight <= 1:
            raise ValueError(f"weight is {weight}; a number in (0, 1] is needed.")
        check_positive("flatness", flatness)

        arc = arc_lengths(centreline)
        if not np.all(np.diff(arc) > 0):
            raise ValueError(
                "centreline_mm has a repeated or infinite point; the steps between "
                "points must be finite and longer than 0 mm."
            )
        closed = np.allclose(centreline[0], centreline[-1], rtol=0, atol=1e-6)
        if closed:
            if not np.isclose(radius[0], radius[-1]):
                raise ValueError(
                    f"radius_mm of a closed tube is {radius[0]} at the first point and "
                    f"{radius[-1]} at the last; the same radius at both is needed."
                )
            centreline[-1], radius[-1] = centreline[0], radius[0]

        curve = CubicSpline(
            arc,
            np.column_stack([centreline, radius]),
            bc_type="periodic" if closed else "not-a-knot",
        )
        coarse = np.linspace(0, arc[-1], 2 + int(arc[-1] / REACH_SAMPLE_MM))[:-1]
        reach_mm = reach(curve(coarse)[:, :3], unit(curve(coarse, 1)[:, :3]))
        half_axes = np.sqrt([flatness, 1 / flatness])
        if np.any(half_axes.max() * curve(coarse)[:, 3] >= reach_mm):
            raise ValueError(
                f"radius_mm and flatness give half-axes of up to "
                f"{half_axes.max() * radius.max():.3g} mm, but the centreline allows "
                f"only {reach_mm.min():.3g} mm; a tube must not fold or meet itself."
            )
        if wide_along is not None:
            wide_along = _check_wide_along(wide_along, unit(curve(0.0, 1)[:3]))
        fine = np.linspace(0, arc[-1], 2 + int(arc[-1] / SAMPLE_MM))
        centreline.setflags(write=False)
        radius.setflags(write=False)
        for name, value in (
            ("centreline_mm", centreline),
            ("radius_mm", radius),
            ("weight", weight),
            ("flatness", flatness),
            ("wide_along", wide_along),
            ("curve", curve),
            ("arc_mm", fine),
            ("half_axes", half_axes),
            ("_tree", cKDTree(curve(fine)[:, :3])),
        ):
            object.__setattr__(self, name, value)
        self._check_closure()

    @property
    def _is_closed(self) -> bool:
        return bool(self.curve.extrapolate == "periodic")

    def _check_closure(self) -> None:
        """Check that the ends of a closed sheet match."""
        if self._is_closed and self.flatness != 1:
            # An ellipse that is rotated by 180 degrees is the same ellipse.
            if abs(self.frames[-1, 1] @ self.frames[0, 2]) > 1e-3:
                raise ValueError(
                    f"flatness is {self.flatness}, but the ends of this closed sheet "
                    "do not match; the flatness must be 1 unless the centreline is "
                    "planar."
                )

    @cached_property
    def frames(self) -> FloatArray:
        """Tangent t and normals n1 and n2 at each sample, as rows: (S, 3, 3)."""
        tangents = unit(self.curve(self.arc_mm, 1)[:, :3])
        start = self.wide_along
        if start is None:
            start = np.eye(3)[np.argmin(np.abs(tangents[0]))]
        normals = parallel_transport(start, tangents)
        return np.stack([tangents, normals, np.cross(tangents, normals)], axis=1)

    @property
    def _bound_mm(self) -> float:
        """Largest distance of a point of the tube from the nearest sample."""
        return float(self.half_axes.max() * self.radius_mm.max()) + SAMPLE_MM

    def distance_mm(self, point_mm: FloatArray) -> float:
        """Return the distance (mm) of a point from the centreline's samples."""
        return float(self._tree.query(point_mm)[0])

    def is_near(self, points_mm: FloatArray, margin_mm: float) -> BoolArray:
        """Return whether points may be within a margin (mm) of the tube.

        A point within the margin is always found; some others are found too.
        """
        distance, _ = self._tree.query(
            points_mm, distance_upper_bound=self._bound_mm + margin_mm
        )
        near: BoolArray = np.isfinite(distance)
        return near

    def _foot(self, points_mm: FloatArray, nearest: IntArray) -> FloatArray:
        """Return the arc lengths of the centreline's points nearest to given points.

        Newton's method on (x - c(s)) . c'(s) = 0, from the nearest sample and within
        one sample of it.  Beyond the end of an open tube the result stays beyond.
        """
        start = self.arc_mm[nearest]
        spacing = self.arc_mm[1]
        foot = start.copy()
        for _ in range(3):
            offset = points_mm - self.curve(foot)[:, :3]
            velocity = self.curve(foot, 1)[:, :3]
            bend = self.curve(foot, 2)[:, :3]
            slope = dot(velocity, velocity) - dot(offset, bend)
            foot += dot(offset, velocity) / np.maximum(slope, 0.01)
            foot = np.clip(foot, start - spacing, start + spacing)
        return foot

    def directions(self, points_mm: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return the direction and the fraction of the fibres at points.

        Parameters
        ----------
        points_mm : array_like of shape (N, 3)
            In mm (RAS).

        Returns
        -------
        directions : ndarray of shape (N, 3)
            Unit vectors in world axes, from the first to the last point of the
            centreline; zero outside the tube.
        fraction : ndarray of shape (N,)
            1 inside and 0 outside.  Over the outer fifth of the radius it falls
            smoothly from 1 to 0.  It does not include `weight`.

        Examples
        --------
        >>> import numpy as np
        >>> from dipy_rnn.phantom import Bundle
        >>> fan = Bundle(np.array([[0.0, 0, 0], [20, 0, 0]]), np.array([2.0, 4]))
        >>> print(fan.directions(np.array([[20.0, 2, 0]]))[0].round(3))
        [[0.999 0.05  0.   ]]
        """
        points_mm = _checks.as_points(points_mm, "points_mm")
        directions = np.zeros(points_mm.shape)
        fraction = np.zeros(len(points_mm))

        _, nearest = self._tree.query(points_mm, distance_upper_bound=self._bound_mm)
        near = np.flatnonzero(nearest < self._tree.n)
        if self.flatness != 1:
            # Most points near a thin sheet are above or below it.
            thin = self.half_axes.argmin()
            normals = self.frames[nearest[near], 1 + thin]
            offset = points_mm[near] - self._tree.data[nearest[near]]
            limit_mm = self.half_axes[thin] * self.radius_mm.max() + SAMPLE_MM
            near = near[np.abs(dot(offset, normals)) <= limit_mm]
        foot = self._foot(points_mm[near], nearest[near])
        if not self._is_closed:
            rounding = 1e-9 * self.arc_mm[-1]
            within = (foot >= -rounding) & (foot <= self.arc_mm[-1] + rounding)
            near, foot = near[within], foot[within]

        centre, radius = np.split(self.curve(foot), [3], axis=1)
        velocity, growth = np.split(self.curve(foot, 1), [3], axis=1)
        bend = self.curve(foot, 2)[:, :3]
        # The parameter is the arc length only approximately, so the speed is kept:
        # p' = c' - (t' . r) t + (rho' / rho) r, where t' . r = c'' . r / |c'|.
        offset = points_mm[near] - centre
        speed = np.linalg.norm(velocity, axis=1, keepdims=True)
        turn = dot(bend, offset)[:, None] / speed
        along = velocity * (1 - turn / speed) + growth / radius * offset

        squared = dot(offset, offset)
        if self.flatness != 1:
            # n1 is transported from the nearest sample to the foot.
            old, normal, _ = np.moveaxis(self.frames[nearest[near]], 1, 0)
            new = velocity / speed
            turn = dot(normal, new) / (1 + dot(old, new))
            along_n1 = dot(offset, normal) - turn * dot(offset, old + new)
            squared = squared * self.flatness + along_n1**2 * (
                1 / self.flatness - self.flatness
            )
        # Now squared is (rho |u|)^2; rounding may have made it negative.
        depth = 1 - np.sqrt(np.maximum(squared, 0)) / radius[:, 0]
        fraction[near] = ramp(depth / EDGE)
        directions[near] = unit(along) * (fraction[near] > 0)[:, None]
        return directions, fraction

    def fibre(self, u1: float, u2: float) -> FloatArray:
        """Return the fibre at a place (u1, u2) of the cross-section.

        Parameters
        ----------
        u1, u2 : float
            Coordinates along the two half-axes; the rim is at
            ``|(u1, u2)| = 1``.

        Returns
        -------
        fibre : ndarray of shape (S, 3)
            In mm (RAS), one point for each sample of the centreline.
        """
        centre, radius = np.split(self.curve(self.arc_mm), [3], axis=1)
        aside = self.half_axes * (u1, u2) @ self.frames[:, 1:]
        return centre + radius * aside

    def streamlines(
        self, n: int, *, step_mm: float, rng: np.random.Generator
    ) -> list[FloatArray]:
        """Draw fibres from one end of the tube to the other.

        They are distributed evenly over the part of each cross-section in which the
        fraction is above one half.

        Parameters
        ----------
        n : int
            Number of streamlines.
        step_mm : float
            Distance between neighbouring points in mm, rounded so that all steps of a
            fibre are equal.
        rng : numpy.random.Generator
            Draws the places in the cross-section.

        Returns
        -------
        streamlines : list of n ndarrays of shape (M, 3)
            In mm (RAS), float64, along the centreline.

        Notes
        -----
        In a closed tube each fibre makes one turn.  If the centreline is planar, the
        fibre ends where it started.  Otherwise its end is rotated about the centreline
        by the curve's holonomy, in agreement with the directions.

        Examples
        --------
        >>> import numpy as np
        >>> from dipy_rnn.phantom import Bundle
        >>> bundle = Bundle(np.array([[0.0, 0, 0], [20, 0, 0]]), 3.0)
        >>> rng = np.random.default_rng(0)
        >>> [fibre.shape for fibre in bundle.streamlines(2, step_mm=0.5, rng=rng)]
        [(41, 3), (41, 3)]
        """
        n = _checks.check_count(n, "n")
        check_positive("step_mm", step_mm)
        place = (1 - EDGE / 2) * np.sqrt(rng.random(n))
        angle = 2 * np.pi * rng.random(n)
        streamlines = []
        for u1, u2 in zip(place * np.cos(angle), place * np.sin(angle), strict=True):
            fibre = self.fibre(u1, u2)
            arc = arc_lengths(fibre)
            n_steps = max(1, round(arc[-1] / step_mm))
            equal = np.linspace(0, arc[-1], n_steps + 1)
            streamlines.append(CubicSpline(arc, fibre)(equal))
        return streamlines


@dataclass(frozen=True, eq=False, init=False)
class Ball:
    """A ball of free water, such as cerebrospinal fluid.

    Parameters
    ----------
    centre_mm : sequence of 3 floats
        In mm (RAS).
    radius_mm : float
        In mm.

    Raises
    ------
    ValueError
        If an argument is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from dipy_rnn.phantom import Ball
    >>> ventricle = Ball((0.0, 0.0, 10.0), 5.0)
    >>> print(ventricle.fraction(np.array([[0.0, 0, 8], [0, 4.5, 10], [0, 0, 0]])))
    [1.  0.5 0. ]
    """

    centre_mm: FloatArray
    radius_mm: float

    def __init__(
        self, centre_mm: Sequence[float] | FloatArray, radius_mm: float
    ) -> None:
        centre = np.array(centre_mm, dtype=np.float64)
        if centre.shape != (3,) or not np.all(np.isfinite(centre)):
            raise ValueError(
                f"centre_mm is {centre_mm}; three finite numbers are needed."
            )
        check_positive("radius_mm", radius_mm)
        centre.setflags(write=False)
        object.__setattr__(self, "centre_mm", centre)
        object.__setattr__(self, "radius_mm", radius_mm)

    def is_near(self, points_mm: FloatArray, margin_mm: float) -> BoolArray:
        """Return whether points are within a margin (mm) of the ball."""
        distance = np.linalg.norm(points_mm - self.centre_mm, axis=1)
        near: BoolArray = distance <= self.radius_mm + margin_mm
        return near

    def fraction(self, points_mm: ArrayLike) -> FloatArray:
        """Return the fraction of free water at points.

        Parameters
        ----------
        points_mm : array_like of shape (N, 3)
            In mm (RAS).

        Returns
        -------
        fraction : ndarray of shape (N,)
            1 inside and 0 outside.  Over the outer fifth of the radius it falls
            smoothly from 1 to 0.

        Examples
        --------
        >>> from dipy_rnn.phantom import Ball
        >>> print(Ball((0, 0, 0), 5.0).fraction([[1, 2, 3], [4, 5, 6]]))
        [1. 0.]
        """
        offset = _checks.as_points(points_mm, "points_mm") - self.centre_mm
        depth = 1 - np.linalg.norm(offset, axis=1) / self.radius_mm
        return ramp(depth / EDGE)


def _check_wide_along(
    wide_along: Sequence[float] | FloatArray, tangent: FloatArray
) -> FloatArray:
    """Return a checked direction as a read-only array."""
    along = np.array(wide_along, dtype=np.float64)
    if along.shape != (3,) or not np.all(np.isfinite(along)):
        raise ValueError(
            f"wide_along is {wide_along}; three finite numbers are needed."
        )
    if np.linalg.norm(np.cross(along, tangent)) <= 1e-6 * np.linalg.norm(along):
        raise ValueError(
            f"wide_along is {wide_along}, which is parallel to the centreline; a "
            "direction with a part across it is needed."
        )
    along.setflags(write=False)
    return along
