"""The largest value of an fODF in the cone ahead of a streamline.

``max_angle`` of DIPY's trackers is a cone around the incoming direction.
Deterministic tracking takes the direction of the fODF's largest value in this cone. It
ends if this value is below ``pmf_threshold`` times the largest value in any direction.
DIPY evaluates the fODF at the vertices of a fixed sphere. Here the vertices belong to
the moving frame, and a parabola gives the direction between them. The vertices are on
rings around the axis. On a ring, a spherical harmonic of phase factor m is a constant
times cos(m a) or sin(m a), with a the azimuth. The kernel first sums over the orders,
once for each ring, and then over the phase factors, once for each vertex.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from dipy_rnn._typing import (
    AnyArray,
    BoolArray,
    Float32Array,
    FloatArray,
    Int32Array,
    IntArray,
)

# Distance between vertices in the cone, and between those around it. The lobe of an
# fODF of order 8 has half of its height at 16 degrees from its peak.
_SPACING_DEG = 4.0
_SPACING_AROUND_DEG = 12.0
# Neighbours of a vertex. Those of the axis are the first ring, so that the axis is
# found exactly if the fODF is symmetric about it.
_N_NEAR = 8
_SMALLEST_DEG = 1e-3  # a smaller cone has derivatives that float32 cannot hold
#: Values (float32) that differ by less than this share, and angles in radians below it,
#: are equal up to rounding.
ROUNDING = 1e-5
_REACH = 1.2  # largest distance of a maximum from its vertex, in distances of rings


@dataclass(frozen=True, eq=False)
class Cone:
    """Directions in a cone around the third axis of a frame.

    Make it with :func:`cone_of`.

    Parameters
    ----------
    cosine, sine : float
        Of the angle of the cone, which is 90 degrees at most.
    reach : float
        Largest distance in radians of a maximum from the vertex with the largest value.
    matrix : ndarray of shape (C, V)
        float32. Coefficients times this matrix are the values at the vertices. The
        vertices in the cone come first.
    ring_sizes : ndarray of shape (R,)
        int32. The number of vertices on each ring: 1 for the axis, and a multiple of 8
        for the others. Vertices of a ring follow each other, evenly spaced.
    polar : ndarray of shape (C, R)
        float32. The factor of each spherical harmonic on each ring.
    azimuthal : ndarray of shape (2 * order + 1, V)
        float32. The factor of each phase factor at each vertex.
    directions : ndarray of shape (D, 3)
        float32. The vertices in the cone.
    near : ndarray of shape (D, 8)
        int32. The nearest vertices of each vertex in the cone, opposite ones included.
    parabola : ndarray of shape (D, 5, 8)
        float32. The differences between the values of the nearest vertices and the
        value of the vertex, times this matrix, are the slopes along two tangents, and
        the second derivatives 11, 12 and 22.
    tangents : ndarray of shape (D, 2, 3)
        float32. Two perpendicular tangents at each vertex in the cone.

    Examples
    --------
    >>> cone = cone_of(8, 30.0)
    >>> len(cone.directions), cone.matrix.shape
    (233, (45, 385))
    """

    cosine: float
    sine: float
    reach: float
    matrix: Float32Array
    ring_sizes: Int32Array
    polar: Float32Array
    azimuthal: Float32Array
    directions: Float32Array
    near: Int32Array
    parabola: Float32Array
    tangents: Float32Array

    @property
    def n_needed(self) -> int:
        """Number of rings that hold the vertices in the cone and their neighbours."""
        last = max(len(self.directions) - 1, int(self.near.max()))
        return 1 + int(np.searchsorted(np.cumsum(self.ring_sizes), last, side="right"))

    def largest(
        self, coeffs: AnyArray, pmf_threshold: float
    ) -> tuple[FloatArray, BoolArray]:
        """Return the direction of the largest value in the cone, and if it counts.

        Parameters
        ----------
        coeffs : ndarray of shape (N, C)
            The fODF in the frame of each streamline (:func:`dipy_rnn.sampling.rotate`).
        pmf_threshold : float
            A value counts if it is above 0, and at least this share of the largest
            value in any direction.

        Returns
        -------
        directions : ndarray of shape (N, 3)
            Unit vectors in the frames, exact to about half a degree. If the largest
            value is on the border of the cone, exact to about three degrees. Of values
            that are equal up to rounding, the one nearest to the axis is taken.
        found : ndarray of shape (N,), bool
            Whether the largest value in the cone counts.

        Examples
        --------
        >>> lobe = np.zeros((1, 15)); lobe[0, [3, 10]] = 2.0, 2.5  # straight ahead
        >>> directions, found = cone_of(4, 30.0).largest(lobe, 0.1)
        >>> directions.round(2).tolist(), found.tolist()
        ([[0.0, 0.0, 1.0]], [True])
        """
        values = coeffs.astype(np.float32) @ self.matrix
        inside = values[:, : len(self.directions)]
        height = inside.max(axis=1)
        least = height - np.float32(ROUNDING) * np.abs(height)
        vertex: IntArray = np.argmax(inside >= least[:, None], axis=1)
        found = (height > 0) & (height >= pmf_threshold * values.max(axis=1))
        return self.peak_near(values, vertex), found

    def peak_near(self, values: Float32Array, vertex: IntArray) -> FloatArray:
        """Return the maximum of a parabola through the values around a vertex.

        Parameters
        ----------
        values : ndarray of shape (N, V)
            float32. Values of each fODF at all vertices.
        vertex : ndarray of shape (N,)
            A vertex in the cone whose value is not below those of its neighbours in the
            cone.

        Returns
        -------
        directions : ndarray of shape (N, 3)
            Unit vectors in the cone. If the parabola has no maximum, the direction is
            uphill from the vertex. If it is beyond the border of a cone of 90 degrees,
            it is replaced by the opposite direction, in which the fODF is the same.
        """
        rows = np.arange(len(values))
        rise = values[rows[:, None], self.near[vertex]] - values[rows, vertex][:, None]
        a, b, aa, ab, bb = np.einsum("nij,nj->in", self.parabola[vertex], rise)
        determinant = aa * bb - ab * ab
        is_maximum = (determinant > 0) & (aa < 0)
        determinant = np.where(is_maximum, determinant, 1.0)
        slope = np.hypot(a, b)
        uphill = self.reach / np.where(slope > 0, slope, 1.0)
        step = np.where(
            is_maximum,
            [(ab * b - bb * a) / determinant, (ab * a - aa * b) / determinant],
            [a * uphill, b * uphill],
        )
        length = np.hypot(*step)
        scale = self.reach / np.maximum(length, self.reach)
        step *= np.where(length < ROUNDING, 0.0, scale)
        directions = self.directions[vertex].astype(np.float64)
        directions += np.einsum("in,nij->nj", step, self.tangents[vertex])
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        if self.cosine < ROUNDING:
            directions[directions[:, 2] < -ROUNDING] *= -1.0
        return into_cone(directions, self.cosine, self.sine)


def into_cone(
    directions: FloatArray, cosine: float | FloatArray, sine: float | FloatArray
) -> FloatArray:
    """Move directions outside a cone to its border.

    Parameters
    ----------
    directions : ndarray of shape (N, 3)
        Unit vectors. The axis of the cone is the third axis.
    cosine, sine : float or ndarray of shape (N,)
        Of the angle of the cone.

    Returns
    -------
    directions : ndarray of shape (N, 3)
        Unit vectors. A direction opposite to the axis has no nearest border; it becomes
        the axis.

    Examples
    --------
    >>> into_cone(np.array([[0.0, 1, 0]]), 0.8, 0.6).tolist()
    [[0.0, 0.6, 0.8]]
    """
    across = np.hypot(directions[:, 0], directions[:, 1])
    outside = directions[:, 2] < cosine
    scale = np.where(outside, sine, 1.0) / np.where(outside & (across > 0), across, 1.0)
    along = np.where(across > 0, np.where(outside, cosine, directions[:, 2]), 1.0)
    moved: FloatArray = directions * scale[:, None]
    moved[:, 2] = along
    return moved


@cache
def cone_of(order: int, max_angle_deg: float) -> Cone:
    """Return the cone for fODFs of a spherical harmonic order.

    Parameters
    ----------
    order : int
        Even spherical harmonic order.
    max_angle_deg : float
        Angle between the axis and the border, above 0. As an fODF has the same value in
        opposite directions, an angle above 90 degrees is the same as 90 degrees. An
        angle below 0.001 degrees is the same as 0.001 degrees.

    Returns
    -------
    cone : Cone

    Examples
    --------
    >>> bool(cone_of(4, 60.0).directions[:, 2].min() > 0.4999)
    True
    """
    from dipy.reconst.shm import real_sh_tournier_from_index, sph_harm_ind_list

    angle = np.deg2rad(np.clip(max_angle_deg, _SMALLEST_DEG, 90.0))
    n_rings = max(2, int(np.ceil(angle / np.deg2rad(_SPACING_DEG))))
    n_around = int(
        np.ceil((np.pi / 2 - angle) / np.deg2rad(_SPACING_AROUND_DEG) - ROUNDING)
    )
    colatitudes = np.concatenate(
        [
            np.linspace(0, angle, n_rings + 1),
            np.linspace(angle, np.pi / 2, n_around + 1)[1:],
        ]
    )
    spacing_deg = [_SPACING_DEG] * (n_rings + 1) + [_SPACING_AROUND_DEG] * n_around
    sizes = _ring_sizes(colatitudes, np.deg2rad(spacing_deg))
    rings = np.repeat(np.arange(len(sizes)), sizes)
    # The vertices of every second ring are shifted by half a spacing. The rings on the
    # border and at 90 degrees are not: their first vertex is towards the first axis.
    unshifted = np.where(rings <= n_rings, n_rings, len(sizes) - 1)
    place = np.concatenate([np.arange(n) for n in sizes]) + (unshifted - rings) % 2 / 2
    azimuth = 2 * np.pi * place / sizes[rings]
    colatitude = colatitudes[rings]
    across = np.sin(colatitude)
    vertices = np.stack(
        [across * np.cos(azimuth), across * np.sin(azimuth), np.cos(colatitude)], axis=1
    )
    # A ring at 90 degrees has both directions of each line. One is enough: the half
    # that begins with the first two axes of the frame.
    second = (colatitude > np.pi / 2 - ROUNDING) & (place >= sizes[rings] / 2)
    inside = vertices[(rings <= n_rings) & ~second]
    phase_factors, orders = sph_harm_ind_list(order)
    polar = real_sh_tournier_from_index(
        np.abs(phase_factors), orders, colatitudes[:, None], 0.0, legacy=False
    ).T
    m = np.arange(-order, order + 1)[:, None]
    azimuthal = np.where(m < 0, np.sin(-m * azimuth), np.cos(m * azimuth))
    once = np.where(second[:, None], 0.0, vertices)
    both = np.concatenate([once, -once])
    nearest = np.argsort(-inside @ both.T, axis=1, kind="stable")[:, 1 : _N_NEAR + 2]
    near = nearest[:, :-1]
    # Tangents along the meridian and along the ring.
    ring = np.stack([-np.sin(azimuth), np.cos(azimuth), np.zeros(len(azimuth))], 1)
    ring = ring[: len(inside)]
    tangents = np.stack([np.cross(ring, inside), ring], axis=1)
    closeness = np.einsum("dkj,dj->dk", both[nearest], inside)
    flat = both[near] / closeness[:, :-1, None]
    a, b = np.einsum("dij,dkj->idk", tangents, flat)
    # If the furthest neighbours are only a part of those at their distance, and the
    # others are symmetric about the vertex, only the others are used. Otherwise the
    # parabola of a symmetric lobe would have its maximum beside the vertex.
    used = closeness[:, :-1] > closeness[:, -1:] + ROUNDING
    centre = np.hypot((a * used).sum(axis=1), (b * used).sum(axis=1))
    used |= centre[:, None] > ROUNDING
    terms = np.stack([a, b, a * a / 2, a * b, b * b / 2], axis=2)
    parabola = np.linalg.pinv(terms * used[:, :, None])
    return Cone(
        cosine=float(np.cos(angle)),
        sine=float(np.sin(angle)),
        reach=_REACH * angle / n_rings,
        matrix=(polar[:, rings] * azimuthal[phase_factors + order]).astype(np.float32),
        ring_sizes=sizes.astype(np.int32),
        polar=polar.astype(np.float32, order="C"),
        azimuthal=azimuthal.astype(np.float32),
        directions=inside.astype(np.float32),
        near=(near % len(vertices)).astype(np.int32),
        parabola=parabola.astype(np.float32),
        tangents=tangents.astype(np.float32),
    )


def _ring_sizes(colatitudes: FloatArray, spacing: FloatArray) -> IntArray:
    """Return the numbers of vertices on rings, at most ``spacing`` apart (radians)."""
    around = 2 * np.pi * np.sin(colatitudes)
    parts = np.ceil(around / (_N_NEAR * spacing) - ROUNDING).astype(int)
    sizes: IntArray = _N_NEAR * np.maximum(parts, 1)
    sizes[0] = 1
    return sizes
