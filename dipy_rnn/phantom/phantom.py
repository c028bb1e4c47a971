"""Worlds of crossing, bending and fanning bundles whose streamlines are known.

A `Bundle` is a tube or a sheet of fibres around a centreline, given in millimetres
(RAS), and a `Ball` is filled with free water, as the ventricles are; a `Phantom` is
some of both, in grey matter, seen on a voxel grid.  They do not know the grid:
`Phantom.on_grid` shows the same world to an oblique, flipped or anisotropic scanner.
From one world come the true streamlines (in mm), the true peaks, an fODF as
spherical harmonics and a diffusion-weighted series; these three are along the voxel
axes, as everywhere in DIPY.

Inside a tube the fibres are the curves ::

    p(s; u) = c(s) + rho(s) (f^1/2 u1 n1(s) + f^-1/2 u2 n2(s)),    |(u1, u2)| <= 1

where c is the centreline, rho the radius, f the flatness, and n1 and n2 are normals
carried along c without turning about it [1]_.  The cross-section is an ellipse with
the area of a disc of radius rho, f times as wide along n1 as along n2.  As
n_i' = -(kappa . n_i) t, the fibre through the point x = c(s) + r runs along ::

    p'(s) = t (1 - kappa . r) + (rho' / rho) r

with the unit tangent t and the curvature vector kappa of the centreline, whatever
the flatness.

All randomness comes from a `random_seed`: the same seed, the same world.

References
----------
.. [1] Bishop RL. There is more than one way to frame a curve. The American
   Mathematical Monthly 82(3), 1975.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, product
from typing import Any
import warnings

from dipy.reconst.shm import real_sh_descoteaux
from dipy.sims.voxel import add_noise
import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

from dipy_rnn import spaces
from dipy_rnn._typing import (
    AnyArray,
    ArrayLike,
    BoolArray,
    Float32Array,
    FloatArray,
    IntArray,
)

__all__ = [
    "Ball",
    "Bundle",
    "Phantom",
    "circle_phantom",
    "crossing_phantom",
    "random_phantom",
]

EDGE = 0.2  # the outer share of the radius over which the fraction falls to 0
SAMPLE_MM = 0.25  # spacing at which a centreline is searched and fibres are drawn
REACH_SAMPLE_MM = 1.0  # spacing at which a centreline is searched for folds
REMAINDER_DIFFUSIVITY = 0.7e-3  # mm^2/s, isotropic, about that of grey matter
CSF_DIFFUSIVITY = 3.0e-3  # mm^2/s, isotropic, that of water at 37 degrees Celsius
SUBVOXELS: FloatArray = np.array(list(product((-0.25, 0.25), repeat=3)))  # in voxels


def _check_positive(name: str, values: ArrayLike) -> None:
    for value in np.ravel(values):
        if not 0 < value < np.inf:
            raise ValueError(f"{name} is {value}: it must be positive and finite")


def _check_points(points: ArrayLike) -> FloatArray:
    points_mm = np.asarray(points, dtype=np.float64)
    if points_mm.ndim != 2 or points_mm.shape[1] != 3:
        raise ValueError(f"points_mm has shape {points_mm.shape}: it must be (N, 3)")
    return points_mm


def _check_wide_along(
    wide_along: Sequence[float] | FloatArray, tangent: FloatArray
) -> FloatArray:
    """Return it as an array that cannot be written to."""
    along = np.array(wide_along, dtype=np.float64)
    if along.shape != (3,) or not np.all(np.isfinite(along)):
        raise ValueError(f"wide_along is {wide_along}: it must be three finite numbers")
    if np.linalg.norm(np.cross(along, tangent)) <= 1e-6 * np.linalg.norm(along):
        raise ValueError(
            f"wide_along is {wide_along}: it must point across the centreline, at "
            "least in part"
        )
    along.setflags(write=False)
    return along


def _unit(vectors: FloatArray) -> FloatArray:
    """Scale to length one; a vector of length zero stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units = np.zeros_like(vectors)
    np.divide(vectors, lengths, out=units, where=lengths > 0)
    return units


def _dot(a: FloatArray, b: FloatArray) -> FloatArray:
    products: FloatArray = np.einsum("...i,...i->...", a, b)
    return products


def _arc_lengths(points: FloatArray) -> FloatArray:
    """Distance along a polyline from its first point to each of its points."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _ramp(x: FloatArray) -> FloatArray:
    """Rise smoothly from 0, up to x = 0, to 1, from x = 1 on."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _carried(normal: FloatArray, tangents: FloatArray) -> FloatArray:
    """Carry a vector across the first tangent along all, without turning about them.

    From each tangent to the next by the smallest rotation; also made a unit vector.
    """
    turns = (tangents[:-1] + tangents[1:]) / (
        1 + _dot(tangents[:-1], tangents[1:])[:, None]
    )
    normals = [_unit(normal - (normal @ tangents[0]) * tangents[0])]
    for tangent, turn in zip(tangents[1:], turns, strict=True):
        normals.append(normals[-1] - (normals[-1] @ tangent) * turn)
    return np.array(normals)


def _reach(points: FloatArray, tangents: FloatArray) -> FloatArray:
    """Radius up to which a tube around a curve neither folds nor meets itself.

    This is Federer's reach, at each point p the smallest |q - p|^2 / (2 d) over
    the other points q, with d the distance of q from the tangent line at p: the
    radius of the circle that touches the curve in p and goes through q.
    """
    chords = points[None] - points[:, None]
    squared = _dot(chords, chords)
    along = np.einsum("pqi,pi->pq", chords, tangents)
    aside = np.sqrt(np.maximum(squared - along**2, 0))
    # Neighbours on a straight line are aside by rounding alone.
    bent = aside > 1e-6 * np.sqrt(squared)
    radii = np.full_like(squared, np.inf)
    reach: FloatArray = np.divide(squared, 2 * aside, out=radii, where=bent).min(axis=1)
    return reach


@dataclass(frozen=True, eq=False, init=False)
class Bundle:
    """A tube or a sheet of fibres around a centreline.

    Parameters
    ----------
    centreline_mm : ndarray of shape (K, 3)
        Points along a smooth curve in mm (RAS); about 0.25 to 0.5 mm apart where
        it bends.  If the last point is the first, the tube is closed.
    radius_mm : float or ndarray of shape (K,)
        Radius of the tube at these points in mm.  Where it grows, fibres fan out.
    weight : float, optional
        Volume fraction in (0, 1] that the bundle claims in its inside.
    flatness : float, optional
        Width over thickness: the cross-section is an ellipse with half-axes of
        ``radius_mm * sqrt(flatness)`` and ``radius_mm / sqrt(flatness)``.
    wide_along : sequence of 3 floats, optional
        Where the first of these half-axes points (RAS) at the first point, as far as
        that is across the centreline; from there it goes along without turning about
        it.  By default the axis of the world that is least along the centreline.

    Notes
    -----
    The tube must not fold or meet itself: its larger half-axis has to stay below the
    radius of curvature of the centreline and below half of the gap to its other parts.

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
    # c and rho as one spline of the arc length, where it was sampled, a tree of
    # these samples, and the half-axes in units of rho.
    _curve: CubicSpline = field(init=False, repr=False)
    _arc_mm: FloatArray = field(init=False, repr=False)
    _tree: cKDTree = field(init=False, repr=False)
    _half_axes: FloatArray = field(init=False, repr=False)

    def __init__(
        self,
        centreline_mm: AnyArray,
        radius_mm: float | AnyArray,
        weight: float = 1.0,
        flatness: float = 1.0,
        wide_along: Sequence[float] | FloatArray | None = None,
    ) -> None:
        # Written out, as it takes more types than the fields have.
        centreline = np.array(centreline_mm, dtype=np.float64)
        if centreline.ndim != 2 or centreline.shape[1] != 3 or len(centreline) < 2:
            raise ValueError(
                f"centreline_mm has shape {centreline.shape}: it must be (K, 3), K > 1"
            )
        if np.ndim(radius_mm) and np.shape(radius_mm) != centreline.shape[:1]:
            raise ValueError(
                f"radius_mm has shape {np.shape(radius_mm)}: it must be a number "
                f"or one per point of the centreline, ({len(centreline)},)"
            )
        _check_positive("radius_mm", radius_mm)
        radius = np.full(len(centreline), radius_mm, dtype=np.float64)
        if not 0 < weight <= 1:
            raise ValueError(f"weight is {weight}: it must be in (0, 1]")
        _check_positive("flatness", flatness)

        arc = _arc_lengths(centreline)
        if not np.all(np.diff(arc) > 0):
            raise ValueError(
                "centreline_mm has a repeated or infinite point: all steps must be "
                "finite and longer than 0"
            )
        closed = np.allclose(centreline[0], centreline[-1], rtol=0, atol=1e-6)
        if closed:
            if not np.isclose(radius[0], radius[-1]):
                raise ValueError(
                    f"radius_mm of a closed tube goes from {radius[0]} to "
                    f"{radius[-1]}: it must be the same at both ends"
                )
            centreline[-1], radius[-1] = centreline[0], radius[0]

        curve = CubicSpline(
            arc,
            np.column_stack([centreline, radius]),
            bc_type="periodic" if closed else "not-a-knot",
        )
        coarse = np.linspace(0, arc[-1], 2 + int(arc[-1] / REACH_SAMPLE_MM))[:-1]
        reach = _reach(curve(coarse)[:, :3], _unit(curve(coarse, 1)[:, :3]))
        half_axes = np.sqrt([flatness, 1 / flatness])
        if np.any(half_axes.max() * curve(coarse)[:, 3] >= reach):
            raise ValueError(
                f"radius_mm and flatness make half-axes of up to "
                f"{half_axes.max() * radius.max():.3g} mm where the centreline leaves "
                f"{reach.min():.3g} mm: a tube must not fold or meet itself"
            )
        if wide_along is not None:
            wide_along = _check_wide_along(wide_along, _unit(curve(0.0, 1)[:3]))
        fine = np.linspace(0, arc[-1], 2 + int(arc[-1] / SAMPLE_MM))
        centreline.setflags(write=False)
        radius.setflags(write=False)
        for name, value in (
            ("centreline_mm", centreline),
            ("radius_mm", radius),
            ("weight", weight),
            ("flatness", flatness),
            ("wide_along", wide_along),
            ("_curve", curve),
            ("_arc_mm", fine),
            ("_tree", cKDTree(curve(fine)[:, :3])),
            ("_half_axes", half_axes),
        ):
            object.__setattr__(self, name, value)
        self._check_closure()

    @property
    def _is_closed(self) -> bool:
        return bool(self._curve.extrapolate == "periodic")

    def _check_closure(self) -> None:
        """Check that a closed sheet comes back to itself."""
        if self._is_closed and self.flatness != 1:
            # Turned by half a turn, an ellipse is itself again.
            if abs(self._frames[-1, 1] @ self._frames[0, 2]) > 1e-3:
                raise ValueError(
                    f"flatness is {self.flatness}, but along this closed centreline a "
                    "sheet does not come back to itself: it must be 1 unless the "
                    "centreline is planar"
                )

    @cached_property
    def _frames(self) -> FloatArray:
        """The tangent t and the normals n1 and n2 at each sample, as rows."""
        tangents = _unit(self._curve(self._arc_mm, 1)[:, :3])
        start = self.wide_along
        if start is None:
            start = np.eye(3)[np.argmin(np.abs(tangents[0]))]
        normals = _carried(start, tangents)
        return np.stack([tangents, normals, np.cross(tangents, normals)], axis=1)

    @property
    def _bound_mm(self) -> float:
        """How far a point of the tube may be from the nearest sample."""
        return float(self._half_axes.max() * self.radius_mm.max()) + SAMPLE_MM

    def _is_near(self, points_mm: FloatArray, margin_mm: float) -> BoolArray:
        """Whether points could be within a margin of the tube (never a false no)."""
        distance, _ = self._tree.query(
            points_mm, distance_upper_bound=self._bound_mm + margin_mm
        )
        near: BoolArray = np.isfinite(distance)
        return near

    def _foot(self, points_mm: FloatArray, nearest: IntArray) -> FloatArray:
        """Arc length of the centreline's points nearest to given points.

        Newton's method on (x - c(s)) . c'(s) = 0 from the nearest sample, within
        one sample of it; beyond the end of an open tube it stays beyond.
        """
        start = self._arc_mm[nearest]
        spacing = self._arc_mm[1]
        foot = start.copy()
        for _ in range(3):
            offset = points_mm - self._curve(foot)[:, :3]
            velocity = self._curve(foot, 1)[:, :3]
            bend = self._curve(foot, 2)[:, :3]
            slope = _dot(velocity, velocity) - _dot(offset, bend)
            foot += _dot(offset, velocity) / np.maximum(slope, 0.01)
            foot = np.clip(foot, start - spacing, start + spacing)
        return foot

    def directions(self, points_mm: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Directions of the fibres at points, and how full of fibres these are.

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
            1 inside, falling smoothly to 0 over the outer fifth of the radius, and
            0 outside.  `weight` is not part of it.

        Examples
        --------
        >>> import numpy as np
        >>> from dipy_rnn.phantom import Bundle
        >>> fan = Bundle(np.array([[0.0, 0, 0], [20, 0, 0]]), np.array([2.0, 4]))
        >>> print(fan.directions(np.array([[20.0, 2, 0]]))[0].round(3))
        [[0.999 0.05  0.   ]]
        """
        points_mm = _check_points(points_mm)
        directions = np.zeros(points_mm.shape)
        fraction = np.zeros(len(points_mm))

        _, nearest = self._tree.query(points_mm, distance_upper_bound=self._bound_mm)
        near = np.flatnonzero(nearest < self._tree.n)
        if self.flatness != 1:
            # Most points around a thin sheet are above or below it.
            thin = self._half_axes.argmin()
            normals = self._frames[nearest[near], 1 + thin]
            offset = points_mm[near] - self._tree.data[nearest[near]]
            limit_mm = self._half_axes[thin] * self.radius_mm.max() + SAMPLE_MM
            near = near[np.abs(_dot(offset, normals)) <= limit_mm]
        foot = self._foot(points_mm[near], nearest[near])
        if not self._is_closed:
            rounding = 1e-9 * self._arc_mm[-1]
            within = (foot >= -rounding) & (foot <= self._arc_mm[-1] + rounding)
            near, foot = near[within], foot[within]

        centre, radius = np.split(self._curve(foot), [3], axis=1)
        velocity, growth = np.split(self._curve(foot, 1), [3], axis=1)
        bend = self._curve(foot, 2)[:, :3]
        # The parameter is the arc length only nearly, so the speed is kept:
        # p' = c' - (t' . r) t + (rho' / rho) r, where t' . r = c'' . r / |c'|.
        offset = points_mm[near] - centre
        speed = np.linalg.norm(velocity, axis=1, keepdims=True)
        turn = _dot(bend, offset)[:, None] / speed
        along = velocity * (1 - turn / speed) + growth / radius * offset

        squared = _dot(offset, offset)
        if self.flatness != 1:
            # n1 is carried from the nearest sample to the foot, as by `_carried`.
            old, normal, _ = np.moveaxis(self._frames[nearest[near]], 1, 0)
            new = velocity / speed
            turn = _dot(normal, new) / (1 + _dot(old, new))
            along_n1 = _dot(offset, normal) - turn * _dot(offset, old + new)
            squared = squared * self.flatness + along_n1**2 * (
                1 / self.flatness - self.flatness
            )
        # Now squared is (rho |u|)^2, but for rounding not below 0.
        depth = 1 - np.sqrt(np.maximum(squared, 0)) / radius[:, 0]
        fraction[near] = _ramp(depth / EDGE)
        directions[near] = _unit(along) * (fraction[near] > 0)[:, None]
        return directions, fraction

    def _fibre(self, u1: float, u2: float) -> FloatArray:
        """The fibre at a place in the cross-section, one point for each sample."""
        centre, radius = np.split(self._curve(self._arc_mm), [3], axis=1)
        aside = self._half_axes * (u1, u2) @ self._frames[:, 1:]
        return centre + radius * aside

    def streamlines(
        self, n: int, *, step_mm: float, rng: np.random.Generator
    ) -> list[FloatArray]:
        """Draw fibres from one end of the tube to the other.

        They are spread evenly over that part of each cross-section in which the
        fraction is above one half.

        Parameters
        ----------
        n : int
            How many.
        step_mm : float
            Distance of neighbouring points along the fibre in mm, up to what makes
            the steps of one fibre equal.
        rng : numpy.random.Generator
            Where the fibres' places in the cross-section come from.

        Returns
        -------
        streamlines : list of n ndarrays of shape (M, 3)
            In mm (RAS), float64, along the centreline.

        Notes
        -----
        In a closed tube each fibre makes one turn.  It comes back to where it
        started if the centreline is planar; else it arrives turned about the
        centreline by the curve's holonomy, as the directions require.

        Examples
        --------
        >>> import numpy as np
        >>> from dipy_rnn.phantom import Bundle
        >>> bundle = Bundle(np.array([[0.0, 0, 0], [20, 0, 0]]), 3.0)
        >>> rng = np.random.default_rng(0)
        >>> [fibre.shape for fibre in bundle.streamlines(2, step_mm=0.5, rng=rng)]
        [(41, 3), (41, 3)]
        """
        n = spaces.check_count(n, "n")
        _check_positive("step_mm", step_mm)
        place = (1 - EDGE / 2) * np.sqrt(rng.random(n))
        angle = 2 * np.pi * rng.random(n)
        streamlines = []
        for u1, u2 in zip(place * np.cos(angle), place * np.sin(angle), strict=True):
            fibre = self._fibre(u1, u2)
            arc = _arc_lengths(fibre)
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
                f"centre_mm is {centre_mm}: it must be three finite numbers"
            )
        _check_positive("radius_mm", radius_mm)
        centre.setflags(write=False)
        object.__setattr__(self, "centre_mm", centre)
        object.__setattr__(self, "radius_mm", radius_mm)

    def _is_near(self, points_mm: FloatArray, margin_mm: float) -> BoolArray:
        """Whether points are within a margin of the ball."""
        distance = np.linalg.norm(points_mm - self.centre_mm, axis=1)
        near: BoolArray = distance <= self.radius_mm + margin_mm
        return near

    def fraction(self, points_mm: ArrayLike) -> FloatArray:
        """How full of water points are.

        Parameters
        ----------
        points_mm : array_like of shape (N, 3)
            In mm (RAS).

        Returns
        -------
        fraction : ndarray of shape (N,)
            1 inside, falling smoothly to 0 over the outer fifth of the radius, and
            0 outside.

        Examples
        --------
        >>> from dipy_rnn.phantom import Ball
        >>> print(Ball((0, 0, 0), 5.0).fraction([[1, 2, 3], [4, 5, 6]]))
        [1. 0.]
        """
        offset = _check_points(points_mm) - self.centre_mm
        depth = 1 - np.linalg.norm(offset, axis=1) / self.radius_mm
        return _ramp(depth / EDGE)


class Phantom:
    """Bundles, and free water, on a voxel grid.

    Parameters
    ----------
    bundles : sequence of Bundle
        At least one; B of them.
    affine : ndarray of shape (4, 4)
        Voxels to mm (RAS); voxel i is centred on coordinate i.  No shear.
    shape : tuple of 3 ints
        Voxels along each axis, (X, Y, Z).
    csf : sequence of Ball, optional
        Free water.  It takes the place of what else would be there, of fibres and of
        grey matter alike.

    Examples
    --------
    >>> import numpy as np
    >>> from dipy_rnn.phantom import Bundle, Phantom
    >>> bundle = Bundle(np.array([[0.0, 4, 4], [8, 4, 4]]), 3.0)
    >>> phantom = Phantom([bundle], np.diag([2.0, 2, 2, 1]), (5, 5, 5))
    >>> fractions, directions = phantom.peaks()
    >>> print(fractions[2, 2, 2], directions[2, 2, 2])
    [1.] [[1. 0. 0.]]
    """

    def __init__(
        self,
        bundles: Sequence[Bundle],
        affine: FloatArray,
        shape: tuple[int, int, int],
        *,
        csf: Sequence[Ball] = (),
    ) -> None:
        self.bundles = tuple(bundles)
        self.csf = tuple(csf)
        if not self.bundles:
            raise ValueError("bundles is empty: a phantom has at least one bundle")
        self.affine = spaces.check_affine(affine).copy()
        self.shape = spaces.check_shape(shape)

    def on_grid(self, affine: FloatArray, shape: tuple[int, int, int]) -> "Phantom":
        """Return the same world on another grid.

        Parameters
        ----------
        affine : ndarray of shape (4, 4)
            Voxels to mm (RAS).
        shape : tuple of 3 ints
            Voxels along each axis.

        Returns
        -------
        Phantom

        Examples
        --------
        >>> import numpy as np
        >>> from dipy_rnn.phantom import circle_phantom
        >>> circle = circle_phantom()
        >>> circle.on_grid(np.diag([-1.0, 1, 3, 1]), (10, 10, 4)).shape
        (10, 10, 4)
        """
        return Phantom(self.bundles, affine, shape, csf=self.csf)

    def _near(
        self, thing: Bundle | Ball, centres_vox: FloatArray
    ) -> tuple[IntArray, FloatArray]:
        """Voxels that a bundle or a ball may reach, and their subvoxels in mm."""
        margin_mm = float(np.linalg.norm(spaces.voxel_sizes(self.affine))) / 2
        centres_mm = spaces.to_mm(centres_vox, self.affine)
        near = np.flatnonzero(thing._is_near(centres_mm, margin_mm))
        points_vox = centres_vox[near, None] + SUBVOXELS
        return near, spaces.to_mm(points_vox.reshape(-1, 3), self.affine)

    def _centres_vox(self) -> FloatArray:
        return np.indices(self.shape, dtype=np.float64).reshape(3, -1).T

    def _csf_of_subvoxels(self) -> FloatArray:
        centres_vox = self._centres_vox()
        csf = np.zeros((len(centres_vox), len(SUBVOXELS)))
        for ball in self.csf:
            near, points_mm = self._near(ball, centres_vox)
            water = ball.fraction(points_mm).reshape(-1, len(SUBVOXELS))
            csf[near] = np.maximum(csf[near], water)
        return csf

    def peaks(self) -> tuple[Float32Array, Float32Array]:
        """Fraction and direction of each bundle in each voxel.

        Returns
        -------
        fractions : ndarray of shape (X, Y, Z, B), float32
            Volume fractions, averaged over eight points of the voxel.  Where the
            bundles together claim more than free water leaves, they share it.
        directions : ndarray of shape (X, Y, Z, B, 3), float32
            The fibres' mean directions, unit vectors along the voxel axes; zero
            where the fraction is.

        Examples
        --------
        >>> from dipy_rnn.phantom import crossing_phantom
        >>> fractions, _ = crossing_phantom(90, shape=(15, 15, 9)).peaks()
        >>> print(fractions[7, 7, 4])
        [0.5 0.5]
        """
        centres_vox, csf = self._centres_vox(), self._csf_of_subvoxels()
        axes = spaces.axes(self.affine)
        fractions = np.zeros((len(centres_vox), len(self.bundles)))
        directions = np.zeros((*fractions.shape, 3), dtype=np.float32)
        for b, bundle in enumerate(self.bundles):
            near, points_mm = self._near(bundle, centres_vox)
            along, fraction = bundle.directions(points_mm)
            fraction = fraction.reshape(-1, len(SUBVOXELS)) * (1 - csf[near])
            # Fibres of one bundle agree about the sign, so vectors can be added.
            along = along.reshape(*fraction.shape, 3)
            mean = np.einsum("np,npi->ni", fraction, along)
            fractions[near, b] = bundle.weight * fraction.mean(axis=1)
            directions[near, b] = _unit(mean) @ axes
        room = 1 - csf.mean(axis=1)
        claimed = fractions.sum(axis=1)
        crowded = claimed > room
        fractions[crowded] *= (room[crowded] / claimed[crowded])[:, None]
        return (
            fractions.astype(np.float32).reshape(*self.shape, -1),
            directions.reshape(*self.shape, -1, 3),
        )

    def csf_fraction(self) -> Float32Array:
        """Volume fraction of free water.

        Returns
        -------
        fraction : ndarray of shape (X, Y, Z), float32
            Averaged over eight points of the voxel.

        Examples
        --------
        >>> import numpy as np
        >>> from dipy_rnn.phantom import Ball, Bundle, Phantom
        >>> bundle = Bundle(np.array([[0.0, 4, 4], [8, 4, 4]]), 3.0)
        >>> ball = Ball((4, 4, 4), 3.0)
        >>> phantom = Phantom([bundle], np.eye(4), (9, 9, 9), csf=[ball])
        >>> print(phantom.csf_fraction()[4, 4, [0, 4]], phantom.peaks()[0][4, 4, 4])
        [0. 1.] [0.]
        """
        fraction: FloatArray = self._csf_of_subvoxels().mean(axis=1)
        return fraction.astype(np.float32).reshape(self.shape)

    def mask(self) -> BoolArray:
        """Voxels of which more than half is fibres.

        Returns
        -------
        mask : ndarray of shape (X, Y, Z), bool

        Notes
        -----
        A bundle of `weight` up to 0.5 is in it only where others join it.

        Examples
        --------
        >>> from dipy_rnn.phantom import crossing_phantom
        >>> mask = crossing_phantom(90, shape=(15, 15, 9)).mask()
        >>> print(mask[7, 7, 4], mask[0, 0, 0])
        True False
        """
        fractions, _ = self.peaks()
        mask: BoolArray = fractions.sum(axis=-1) > 0.5
        return mask

    def fodf(
        self,
        sh_order_max: int = 8,
        *,
        lobe_deg: float = 9.0,
        noise: float = 0.0,
        random_seed: int = 0,
    ) -> Float32Array:
        r"""Fibre orientation distribution as spherical harmonics.

        A fibre along v is a delta function smoothed on the sphere [1]_: its
        coefficients are :math:`e^{-\sigma^2 l (l + 1) / 2}\, Y_l^m(v)`.

        Parameters
        ----------
        sh_order_max : int, optional
            Highest order, even, from 2 to 98: 4950 coefficients a voxel.
        lobe_deg : float, optional
            Width sigma of a fibre's lobe in degrees, before the truncation.
        noise : float, optional
            Standard deviation of Gaussian noise on the coefficients of l >= 2, in
            units of their root mean square in a voxel full of one fibre.
        random_seed : int, optional
            Seed of the noise.

        Returns
        -------
        sh : ndarray of shape (X, Y, Z, C), float32
            Coefficients in DIPY's default basis (``descoteaux07`` [2]_, legacy),
            along the voxel axes.  The integral over the sphere is the sum of the
            fractions.

        References
        ----------
        .. [1] Bulow T. Spherical diffusion for 3D surface smoothing. IEEE
           Transactions on Pattern Analysis and Machine Intelligence 26(12), 2004.
        .. [2] Descoteaux M, Angelino E, Fitzgibbons S, Deriche R. Regularized,
           fast, and robust analytical Q-ball imaging. Magnetic Resonance in
           Medicine 58(3), 2007.

        Examples
        --------
        >>> from dipy_rnn.phantom import crossing_phantom
        >>> crossing_phantom(90, shape=(15, 15, 9)).fodf(6).shape
        (15, 15, 9, 28)
        """
        if sh_order_max not in range(2, 100, 2):
            raise ValueError(
                f"sh_order_max is {sh_order_max}: it must be even, from 2 to 98"
            )
        if not (np.isfinite(lobe_deg) and lobe_deg >= 0):
            raise ValueError(f"lobe_deg is {lobe_deg}: it must be 0 or more")
        if not (np.isfinite(noise) and noise >= 0):
            raise ValueError(f"noise is {noise}: it must be 0 or more")
        fractions, directions = self.peaks()
        fibres = fractions > 0
        x, y, z = directions[fibres].astype(np.float64).T
        with warnings.catch_warnings():
            # DIPY announces that its default basis may change one day.
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            deltas, _, orders = real_sh_descoteaux(
                sh_order_max, np.arctan2(np.hypot(x, y), z), np.arctan2(y, x)
            )
        smoothing = np.exp(-(np.radians(lobe_deg) ** 2) * orders * (orders + 1) / 2)

        sh = np.zeros((*self.shape, len(orders)), dtype=np.float32)
        where = np.nonzero(fibres)[:3]
        np.add.at(sh, where, fractions[fibres][:, None] * (deltas * smoothing))
        if noise > 0:
            # Each order's sum of squares of Y_l^m(v) over m is (2 l + 1) / (4 pi),
            # so each coefficient's mean square is 1 / (4 pi), times the smoothing's.
            mean_square = np.mean(smoothing[1:] ** 2) / (4 * np.pi)
            rng = np.random.default_rng(random_seed)
            scale = noise * np.sqrt(mean_square)
            sh[..., 1:] += scale * rng.standard_normal(sh[..., 1:].shape)
        return sh

    def dwi(
        self,
        gtab: Any,
        *,
        snr: float | None = None,
        evals: tuple[float, float, float] = (1.7e-3, 3e-4, 3e-4),
        s0: float = 100,
        random_seed: int = 0,
    ) -> Float32Array:
        """Diffusion-weighted series, one tensor per bundle in each voxel.

        Without noise this is `dipy.sims.voxel.multi_tensor` in every voxel, with
        two more, isotropic tensors: free water's (3.0e-3 mm^2/s), and grey matter's
        (0.7e-3 mm^2/s) in the room that water and fibres leave.

        Parameters
        ----------
        gtab : dipy.core.gradients.GradientTable
            N b-values (s/mm^2) with directions along the voxel axes, or b-tensors.
        snr : float, optional
            `s0` over the standard deviation of the noise in each channel of the
            Rician noise; None for no noise.
        evals : tuple of 3 floats, optional
            Diffusivities of a fibre in mm^2/s, along it and twice across it.
        s0 : float, optional
            Signal without diffusion weighting.
        random_seed : int, optional
            Seed of the noise.

        Returns
        -------
        dwi : ndarray of shape (X, Y, Z, N), float32

        Examples
        --------
        >>> import numpy as np
        >>> from dipy.core.gradients import gradient_table
        >>> from dipy_rnn.phantom import crossing_phantom
        >>> gtab = gradient_table(np.array([0, 1000.0]), bvecs=np.eye(3)[:2])
        >>> crossing_phantom(90, shape=(15, 15, 9)).dwi(gtab, snr=20).shape
        (15, 15, 9, 2)
        """
        if len(evals) != 3 or evals[1] != evals[2]:
            raise ValueError(
                f"evals is {evals}: it must be three, the last two equal, as a fibre "
                "is the same all around"
            )
        _check_positive("evals", evals)
        _check_positive("s0", s0)
        if snr is not None:
            _check_positive("snr", snr)

        # A fibre's tensor D is evals[1] I + (evals[0] - evals[1]) v v^T; the signal
        # is s0 exp(-B : D), and B = b g g^T unless the b-tensors are given.
        b_tensors = gtab.btens
        if b_tensors is None:
            b_tensors = np.einsum("n,ni,nj->nij", gtab.bvals, gtab.bvecs, gtab.bvecs)
        isotropic = np.trace(b_tensors, axis1=1, axis2=2)

        fractions, directions = self.peaks()
        csf = self.csf_fraction()[..., None].astype(np.float64)
        rest = 1 - csf - fractions.sum(axis=-1, keepdims=True, dtype=np.float64)
        signal = s0 * csf * np.exp(-isotropic * CSF_DIFFUSIVITY)
        signal += s0 * np.maximum(rest, 0) * np.exp(-isotropic * REMAINDER_DIFFUSIVITY)
        for b in range(len(self.bundles)):
            inside = fractions[..., b] > 0
            along = directions[inside, b].astype(np.float64)
            dyadic = along[:, :, None] * along[:, None, :]
            weighting = np.einsum("vij,nij->vn", dyadic, b_tensors, optimize=True)
            attenuation = evals[1] * isotropic + (evals[0] - evals[1]) * weighting
            signal[inside] += s0 * fractions[inside, b, None] * np.exp(-attenuation)
        rng = np.random.default_rng(random_seed)
        dwi: Float32Array = add_noise(signal, snr, s0, rng=rng).astype(np.float32)
        return dwi

    def streamlines(
        self, n_per_bundle: int, *, step_mm: float = 0.5, random_seed: int = 0
    ) -> tuple[list[FloatArray], IntArray]:
        """Draw the true streamlines, those of the first bundle first.

        Parameters
        ----------
        n_per_bundle : int
            How many of each bundle.
        step_mm : float, optional
            Distance of neighbouring points in mm.
        random_seed : int, optional
            Seed of their places in the bundle.

        Returns
        -------
        streamlines : list of ndarrays of shape (M, 3)
            In mm (RAS), float64, end to end, also where the grid is smaller.
        bundle_ids : ndarray of ints, one per streamline
            Which of `bundles` each belongs to.

        Examples
        --------
        >>> from dipy_rnn.phantom import crossing_phantom
        >>> streamlines, bundle_ids = crossing_phantom().streamlines(2)
        >>> print(len(streamlines), bundle_ids)
        4 [0 0 1 1]
        """
        n_per_bundle = spaces.check_count(n_per_bundle, "n_per_bundle")
        rng = np.random.default_rng(random_seed)
        streamlines: list[FloatArray] = []
        for bundle in self.bundles:
            streamlines += bundle.streamlines(n_per_bundle, step_mm=step_mm, rng=rng)
        return streamlines, np.repeat(np.arange(len(self.bundles)), n_per_bundle)


def _centred_affine(
    shape: tuple[int, int, int], voxel_size_mm: ArrayLike
) -> FloatArray:
    """Affine of a straight grid whose centre is at 0 mm."""
    sizes = np.full(3, voxel_size_mm, dtype=np.float64)
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = -sizes * (np.asarray(shape) - 1) / 2
    return affine


def _field_of_view_mm(
    shape: tuple[int, int, int], voxel_size_mm: ArrayLike
) -> FloatArray:
    """Check a grid and return the lengths of its sides."""
    _check_positive("voxel_size_mm", voxel_size_mm)
    return np.array(spaces.check_shape(shape)) * np.full(
        3, voxel_size_mm, dtype=np.float64
    )


def _random_centreline(
    rng: np.random.Generator, half_mm: FloatArray, least_reach_mm: float
) -> tuple[FloatArray, float]:
    """Draw a smooth curve in the box from -half_mm to half_mm.

    A spline from end to far end, by way of one or two points in the inner third of
    the box, where curves meet; it is straightened little by little until it stays in
    the box and has the reach asked for.
    """
    while True:
        start, end = rng.uniform(-half_mm, half_mm, (2, 3))
        if np.linalg.norm(end - start) >= 1.4 * half_mm.max():
            break
    n_between = rng.integers(1, 3)
    along = np.arange(1, n_between + 1)[:, None] / (n_between + 1)
    straight = start + along * (end - start)
    deviation = rng.uniform(-half_mm / 3, half_mm / 3, (n_between, 3)) - straight
    while True:
        controls = np.vstack([start, straight + deviation, end])
        arc = _arc_lengths(controls)
        curve = CubicSpline(arc, controls, bc_type="natural")
        samples = np.linspace(0, arc[-1], 2 + int(arc[-1] / REACH_SAMPLE_MM))
        points = curve(samples)
        reach_mm = _reach(points, _unit(curve(samples, 1))).min()
        if reach_mm >= least_reach_mm and np.all(np.abs(points) <= half_mm):
            fine = np.linspace(0, arc[-1], 2 + int(arc[-1] / SAMPLE_MM))
            return curve(fine), reach_mm
        deviation *= 0.85


def _random_flatness(rng: np.random.Generator, most: float) -> float:
    """Draw a flatness: one in three bundles is a sheet."""
    return min(rng.uniform(1.5, 4), most) if rng.random() < 1 / 3 else 1.0


def _random_bundle(
    rng: np.random.Generator, half_mm: FloatArray, scale: float
) -> Bundle:
    """Draw a bundle from somewhere to somewhere far in the box."""
    centreline_mm, reach_mm = _random_centreline(
        rng, half_mm, scale * rng.uniform(4, 10)
    )
    ratio = 2.5 ** rng.uniform(-1, 1) if rng.random() < 0.5 else 1.0
    profile = ratio ** _ramp(np.linspace(0, 1, len(centreline_mm)))
    profile /= profile.max()

    # At the wide end, what the thin half-axis needs to have and the wide one may have.
    thin_mm = scale * 1.2 / profile.min()
    wide_mm = min(scale * 12, 0.8 * reach_mm)
    flatness = _random_flatness(rng, wide_mm / thin_mm)
    root = np.sqrt(flatness)
    least_mm = max(scale * 2 / profile.min(), thin_mm * root)
    radius_mm = min(rng.uniform(least_mm, scale * 8), wide_mm / root)
    return Bundle(
        centreline_mm,
        radius_mm * profile,
        rng.uniform(0.2, 1.0),
        flatness=flatness,
        wide_along=rng.standard_normal(3),
    )


def _bending_away(
    rng: np.random.Generator,
    points: FloatArray,
    aside: FloatArray,
    half_mm: FloatArray,
    scale: float,
) -> FloatArray:
    """Go on from the last of two points: a bend that turns aside, then straight on.

    As far as the box goes; the result starts after the last of the points.
    """
    outwards = _unit(points[1] - points[0])
    aside = _unit(aside - (aside @ outwards) * outwards)
    turn = np.radians(rng.uniform(30, 75))
    bend_mm = turn * scale * rng.uniform(10, 25)
    along_mm = np.arange(SAMPLE_MM, scale * rng.uniform(15, 60), SAMPLE_MM)
    # The curvature grows from 0 and goes back to it, as a jump would make a kink.
    angle = turn * _ramp(along_mm / bend_mm)[:, None]
    steps = np.cos(angle) * outwards + np.sin(angle) * aside
    path: FloatArray = points[1] + SAMPLE_MM * np.cumsum(steps, axis=0)
    inside = np.all(np.abs(path) <= half_mm, axis=1)
    return path[np.logical_and.accumulate(inside)]


def _kissing_bundle(
    rng: np.random.Generator, first: Bundle, half_mm: FloatArray, scale: float
) -> Bundle | None:
    """Draw a bundle that comes to another's side, runs along it, and leaves again.

    Both touch over 10 to 25 mm about the middle of the first, if that is long enough:
    there, the second is the first displaced along one of its half-axes.  None where
    the second leaves the box early, is too tight, or runs into the first after all.
    """
    middle_mm = first._arc_mm[-1] * rng.uniform(0.35, 0.65)
    contact_mm = scale * rng.uniform(10, 25)
    contact = np.flatnonzero(np.abs(first._arc_mm - middle_mm) <= contact_mm / 2)
    if len(contact) < 2:
        return None
    centre, first_radius = np.split(first._curve(first._arc_mm[contact]), [3], axis=1)
    frames = first._frames[contact]

    flatness = _random_flatness(rng, 4)
    radius_mm = scale * rng.uniform(max(2, 1.2 * np.sqrt(flatness)), 4)
    half_axes_mm = radius_mm * np.sqrt([flatness, 1 / flatness])
    axis = rng.integers(2)
    aside = rng.choice([-1, 1]) * frames[:, 1 + axis]
    gap_mm = first._half_axes[axis] * first_radius + half_axes_mm[axis]
    touching = centre + gap_mm * aside
    before = _bending_away(rng, touching[1::-1], aside[0], half_mm, scale)[::-1]
    after = _bending_away(rng, touching[-2:], aside[-1], half_mm, scale)
    least = 10 * scale / SAMPLE_MM
    if min(len(before), len(after)) < least or np.any(np.abs(touching) > half_mm):
        return None

    centreline_mm = np.concatenate([before, touching, after])
    tangents = _unit(np.gradient(centreline_mm, axis=0))
    reach_mm = _reach(centreline_mm[::4], tangents[::4]).min()
    # Tighter turns would end too suddenly where the contact does.
    if reach_mm < max(6 * scale, half_axes_mm.max() / 0.8):
        return None

    # In the middle of the contact both have the same normals.
    middle = len(touching) // 2
    backwards = tangents[len(before) + middle :: -1]
    second = Bundle(
        centreline_mm,
        radius_mm,
        rng.uniform(0.2, 1.0),
        flatness=flatness,
        wide_along=_carried(frames[middle, 1], backwards)[-1],
    )
    for angle in np.arange(0, 2 * np.pi, np.pi / 4):
        fibre = second._fibre(0.9 * np.cos(angle), 0.9 * np.sin(angle))
        if np.any(first.directions(fibre[::4])[1] > 0):
            return None
    return second


def _random_ball(
    rng: np.random.Generator,
    bundles: Sequence[Bundle],
    half_mm: FloatArray,
    scale: float,
) -> Ball | None:
    """Draw a ball of water beside all centrelines, or None."""
    centre_mm = rng.uniform(-half_mm, half_mm)
    free_mm = min(bundle._tree.query(centre_mm)[0] for bundle in bundles)
    radius_mm = min(scale * rng.uniform(3, 10), free_mm)
    return Ball(centre_mm, radius_mm) if radius_mm >= scale * 3 else None


def random_phantom(
    random_seed: int,
    *,
    shape: tuple[int, int, int] = (32, 32, 32),
    voxel_size_mm: ArrayLike = 2.0,
    n_bundles: int = 8,
) -> Phantom:
    """Draw a world of bundles that bend, cross, touch and fan out, and some water.

    Most bundles go from somewhere to somewhere far in the field of view by way of its
    inner third, and bend with a radius of no less than 4 to 10 mm.  Their own radius is
    2 to 8 mm, thinner where the curve is tight; half of them fan out (or in) by a
    factor of up to 2.5; a third are sheets, up to four times as wide as thick, and
    1.2 mm thick to each side at the least.  In about half of the worlds the last
    bundle kisses another: it comes to its side, runs along it for 10 to 25 mm, and
    leaves to the side it came from.  Weights are from 0.2 to 1.  Up to three balls of
    free water of 3 to 10 mm radius lie beside the centrelines.  A field of view of
    less than 40 mm makes all of it smaller.

    Parameters
    ----------
    random_seed : int
        The same seed and arguments, the same world.
    shape : tuple of 3 ints, optional
        Voxels along each axis.
    voxel_size_mm : float or sequence of 3 floats, optional
        Voxel size in mm.
    n_bundles : int, optional
        How many bundles.

    Returns
    -------
    phantom : Phantom
        Its field of view is centred at 0 mm.

    Examples
    --------
    >>> from dipy_rnn.phantom import random_phantom
    >>> phantom = random_phantom(0, shape=(16, 16, 16), voxel_size_mm=3, n_bundles=2)
    >>> phantom.fodf(4).shape
    (16, 16, 16, 15)
    """
    field_of_view_mm = _field_of_view_mm(shape, voxel_size_mm)
    n_bundles = spaces.check_count(n_bundles, "n_bundles", 1)
    rng = np.random.default_rng(random_seed)
    half_mm = 0.45 * field_of_view_mm
    scale = min(1.0, field_of_view_mm.min() / 40)

    bundles = [_random_bundle(rng, half_mm, scale) for _ in range(n_bundles)]
    if n_bundles > 1 and rng.random() < 0.5:
        kissing = (
            _kissing_bundle(rng, bundles[i], half_mm, scale)
            for i in rng.integers(n_bundles - 1, size=20)
        )
        bundles[-1] = next(filter(None, kissing), bundles[-1])
    csf: list[Ball] = []
    for _ in range(rng.integers(4)):
        tries = (_random_ball(rng, bundles, half_mm, scale) for _ in range(20))
        csf.extend(islice(filter(None, tries), 1))
    return Phantom(bundles, _centred_affine(shape, voxel_size_mm), shape, csf=csf)


def crossing_phantom(
    angle_deg: float = 60.0,
    *,
    shape: tuple[int, int, int] = (24, 24, 12),
    voxel_size_mm: ArrayLike = 2.0,
) -> Phantom:
    """Let two straight bundles cross in the middle of the field of view.

    Both lie in the x-y plane, the first along x; they are as long as the shorter
    side of the field of view in this plane, less a tenth, and their radius is a
    quarter of its shortest side.

    Parameters
    ----------
    angle_deg : float, optional
        Angle from the first to the second bundle in degrees, above 0 to below 180.
    shape : tuple of 3 ints, optional
        Voxels along each axis.
    voxel_size_mm : float or sequence of 3 floats, optional
        Voxel size in mm.

    Returns
    -------
    phantom : Phantom
        Its field of view is centred at 0 mm, where the bundles cross.

    Examples
    --------
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> len(crossing_phantom(45).bundles)
    2
    """
    field_of_view_mm = _field_of_view_mm(shape, voxel_size_mm)
    if not 0 < angle_deg < 180:
        raise ValueError(f"angle_deg is {angle_deg}: it must be between 0 and 180")
    half_mm = 0.45 * field_of_view_mm[:2].min()
    along_mm = np.linspace(-half_mm, half_mm, 2 + int(2 * half_mm / SAMPLE_MM))
    bundles = []
    for angle in (0.0, np.radians(angle_deg)):
        direction = np.array([np.cos(angle), np.sin(angle), 0.0])
        bundles.append(
            Bundle(along_mm[:, None] * direction, field_of_view_mm.min() / 4)
        )
    return Phantom(bundles, _centred_affine(shape, voxel_size_mm), shape)


def circle_phantom(
    radius_mm: float = 20.0, *, voxel_size_mm: ArrayLike = 2.0, tube_mm: float = 6.0
) -> Phantom:
    """Close one bundle to a circle in the x-y plane.

    Parameters
    ----------
    radius_mm : float, optional
        Radius of the circle in mm.
    voxel_size_mm : float or sequence of 3 floats, optional
        Voxel size in mm.
    tube_mm : float, optional
        Radius of the tube in mm, below `radius_mm`.

    Returns
    -------
    phantom : Phantom
        Its field of view is centred at 0 mm, as is the circle, and ends a voxel or
        more outside the tube.

    Examples
    --------
    >>> from dipy_rnn.phantom import circle_phantom
    >>> circle_phantom(10, tube_mm=3).shape
    (15, 15, 5)
    """
    _check_positive("radius_mm", radius_mm)
    _check_positive("voxel_size_mm", voxel_size_mm)
    _check_positive("tube_mm", tube_mm)
    if tube_mm >= radius_mm:
        raise ValueError(
            f"tube_mm is {tube_mm}: it must be below radius_mm, {radius_mm}"
        )
    angle = np.linspace(0, 2 * np.pi, 8 + int(2 * np.pi * radius_mm / SAMPLE_MM))
    circle = np.column_stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)])
    extent_mm = 2 * np.array([radius_mm + tube_mm, radius_mm + tube_mm, tube_mm])
    x, y, z = (int(n) for n in np.ceil(extent_mm / np.asarray(voxel_size_mm)) + 2)
    bundle = Bundle(radius_mm * circle, tube_mm)
    return Phantom([bundle], _centred_affine((x, y, z), voxel_size_mm), (x, y, z))
