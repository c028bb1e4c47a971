"""Functions that make phantoms: random bundles, a crossing, a circle.

All randomness comes from a `random_seed`: the same seed gives the same phantom.
"""

from collections.abc import Sequence
from itertools import islice

import numpy as np
from scipy.interpolate import CubicSpline

from dipy_rnn import _checks
from dipy_rnn._typing import ArrayLike, FloatArray
from dipy_rnn.phantom.bundles import Ball, Bundle
from dipy_rnn.phantom.geometry import (
    REACH_SAMPLE_MM,
    SAMPLE_MM,
    arc_lengths,
    check_positive,
    parallel_transport,
    ramp,
    reach,
    unit,
)
from dipy_rnn.phantom.phantom import Phantom


def centred_affine(shape: tuple[int, int, int], voxel_size_mm: ArrayLike) -> FloatArray:
    """Return the affine of an axis-aligned grid centred at 0 mm."""
    sizes = np.full(3, voxel_size_mm, dtype=np.float64)
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = -sizes * (np.asarray(shape) - 1) / 2
    return affine


def grid_sides_mm(shape: tuple[int, int, int], voxel_size_mm: ArrayLike) -> FloatArray:
    """Check a grid and return the lengths of its sides in mm."""
    check_positive("voxel_size_mm", voxel_size_mm)
    return np.array(_checks.check_shape(shape)) * np.full(
        3, voxel_size_mm, dtype=np.float64
    )


def _random_centreline(
    rng: np.random.Generator, half_mm: FloatArray, least_reach_mm: float
) -> tuple[FloatArray, float]:
    """Draw a smooth curve in the box from -half_mm to half_mm.

    The curve is a spline between two distant ends, through one or two points in the
    inner third of the box, where curves meet.  It is straightened step by step until
    it stays in the box and its reach is at least `least_reach_mm`.

    Returns
    -------
    centreline_mm : ndarray of shape (K, 3)
    reach_mm : float
    """
    while True:
        start, end = rng.uniform(-half_mm, half_mm, (2, 3))
        if np.linalg.norm(end - start) >= 1.4 * half_mm.max():
            break
    n_inner = rng.integers(1, 3)
    along = np.arange(1, n_inner + 1)[:, None] / (n_inner + 1)
    straight = start + along * (end - start)
    deviation = rng.uniform(-half_mm / 3, half_mm / 3, (n_inner, 3)) - straight
    while True:
        controls = np.vstack([start, straight + deviation, end])
        arc = arc_lengths(controls)
        curve = CubicSpline(arc, controls, bc_type="natural")
        samples = np.linspace(0, arc[-1], 2 + int(arc[-1] / REACH_SAMPLE_MM))
        points = curve(samples)
        reach_mm = reach(points, unit(curve(samples, 1))).min()
        if reach_mm >= least_reach_mm and np.all(np.abs(points) <= half_mm):
            fine = np.linspace(0, arc[-1], 2 + int(arc[-1] / SAMPLE_MM))
            return curve(fine), reach_mm
        deviation *= 0.85


def _random_flatness(rng: np.random.Generator, most: float) -> float:
    """Draw a flatness up to `most`; one in three bundles is a sheet."""
    return min(rng.uniform(1.5, 4), most) if rng.random() < 1 / 3 else 1.0


def _random_bundle(
    rng: np.random.Generator, half_mm: FloatArray, scale: float
) -> Bundle:
    """Draw a bundle between two distant places in the box."""
    centreline_mm, reach_mm = _random_centreline(
        rng, half_mm, scale * rng.uniform(4, 10)
    )
    ratio = 2.5 ** rng.uniform(-1, 1) if rng.random() < 0.5 else 1.0
    profile = ratio ** ramp(np.linspace(0, 1, len(centreline_mm)))
    profile /= profile.max()

    # At the wide end: smallest allowed thin half-axis, and largest allowed wide one.
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


def _bend_away(
    rng: np.random.Generator,
    points: FloatArray,
    aside: FloatArray,
    half_mm: FloatArray,
    scale: float,
) -> FloatArray:
    """Extend a path from the second of two points: a bend, then a straight part.

    The path turns towards `aside` and ends at the border of the box at the latest.

    Returns
    -------
    path : ndarray of shape (K, 3)
        Without the two points.
    """
    outwards = unit(points[1] - points[0])
    aside = unit(aside - (aside @ outwards) * outwards)
    turn = np.radians(rng.uniform(30, 75))
    bend_mm = turn * scale * rng.uniform(10, 25)
    along_mm = np.arange(SAMPLE_MM, scale * rng.uniform(15, 60), SAMPLE_MM)
    # The curvature starts and ends at 0; a jump would make a kink.
    angle = turn * ramp(along_mm / bend_mm)[:, None]
    steps = np.cos(angle) * outwards + np.sin(angle) * aside
    path: FloatArray = points[1] + SAMPLE_MM * np.cumsum(steps, axis=0)
    inside = np.all(np.abs(path) <= half_mm, axis=1)
    return path[np.logical_and.accumulate(inside)]


def _kissing_bundle(
    rng: np.random.Generator, first: Bundle, half_mm: FloatArray, scale: float
) -> Bundle | None:
    """Draw a bundle that touches another one along a part of its side.

    The contact is 10 to 25 mm long, near the middle of the first bundle.  There, the
    second centreline is the first one displaced along one of its half-axes.

    Returns
    -------
    second : Bundle or None
        None if the second bundle leaves the box early, bends too tightly, or enters
        the first one.
    """
    middle_mm = first.arc_mm[-1] * rng.uniform(0.35, 0.65)
    contact_mm = scale * rng.uniform(10, 25)
    contact = np.flatnonzero(np.abs(first.arc_mm - middle_mm) <= contact_mm / 2)
    if len(contact) < 2:
        return None
    centre, first_radius = np.split(first.curve(first.arc_mm[contact]), [3], axis=1)
    frames = first.frames[contact]

    flatness = _random_flatness(rng, 4)
    radius_mm = scale * rng.uniform(max(2, 1.2 * np.sqrt(flatness)), 4)
    half_axes_mm = radius_mm * np.sqrt([flatness, 1 / flatness])
    axis = rng.integers(2)
    aside = rng.choice([-1, 1]) * frames[:, 1 + axis]
    gap_mm = first.half_axes[axis] * first_radius + half_axes_mm[axis]
    touching = centre + gap_mm * aside
    before = _bend_away(rng, touching[1::-1], aside[0], half_mm, scale)[::-1]
    after = _bend_away(rng, touching[-2:], aside[-1], half_mm, scale)
    least = 10 * scale / SAMPLE_MM
    if min(len(before), len(after)) < least or np.any(np.abs(touching) > half_mm):
        return None

    centreline_mm = np.concatenate([before, touching, after])
    tangents = unit(np.gradient(centreline_mm, axis=0))
    reach_mm = reach(centreline_mm[::4], tangents[::4]).min()
    # Bends of a smaller radius would be too abrupt at the ends of the contact.
    if reach_mm < max(6 * scale, half_axes_mm.max() / 0.8):
        return None

    # In the middle of the contact both bundles have the same normals.
    middle = len(touching) // 2
    backwards = tangents[len(before) + middle :: -1]
    second = Bundle(
        centreline_mm,
        radius_mm,
        rng.uniform(0.2, 1.0),
        flatness=flatness,
        wide_along=parallel_transport(frames[middle, 1], backwards)[-1],
    )
    for angle in np.arange(0, 2 * np.pi, np.pi / 4):
        fibre = second.fibre(0.9 * np.cos(angle), 0.9 * np.sin(angle))
        if np.any(first.directions(fibre[::4])[1] > 0):
            return None
    return second


def _random_ball(
    rng: np.random.Generator,
    bundles: Sequence[Bundle],
    half_mm: FloatArray,
    scale: float,
) -> Ball | None:
    """Draw a ball of water that contains no centreline; None if there is no room."""
    centre_mm = rng.uniform(-half_mm, half_mm)
    free_mm = min(bundle.distance_mm(centre_mm) for bundle in bundles)
    radius_mm = min(scale * rng.uniform(3, 10), free_mm)
    return Ball(centre_mm, radius_mm) if radius_mm >= scale * 3 else None


def random_phantom(
    random_seed: int,
    *,
    shape: tuple[int, int, int] = (32, 32, 32),
    voxel_size_mm: ArrayLike = 2.0,
    n_bundles: int = 8,
) -> Phantom:
    """Draw a phantom of bundles that bend, cross, touch and fan out, with free water.

    - Most bundles connect two distant places of the field of view and pass through its
      inner third.  Their radius of curvature is at least 4 to 10 mm.
    - Their own radius is 2 to 8 mm, less where the curve is tight.
    - In half of the bundles the radius changes along the bundle by a factor of up to
      2.5, so that fibres fan out or converge.
    - A third of the bundles are sheets: up to four times as wide as thick, with a thin
      half-axis of at least 1.2 mm.
    - In about half of the phantoms the last bundle kisses another one: it runs beside
      the other bundle for 10 to 25 mm without entering it, and then bends away again.
    - Weights are from 0.2 to 1.
    - Up to three balls of free water, of 3 to 10 mm radius, lie off the centrelines.

    If a side of the field of view is shorter than 40 mm, all lengths are scaled down.

    Parameters
    ----------
    random_seed : int
        The same seed and arguments give the same phantom.
    shape : tuple of 3 ints, optional
        Number of voxels along each axis.
    voxel_size_mm : float or sequence of 3 floats, optional
        Voxel size in mm.
    n_bundles : int, optional
        Number of bundles.

    Returns
    -------
    phantom : Phantom
        Centred at 0 mm.

    Examples
    --------
    >>> from dipy_rnn.phantom import random_phantom
    >>> phantom = random_phantom(0, shape=(16, 16, 16), voxel_size_mm=3, n_bundles=2)
    >>> phantom.fodf(4).shape
    (16, 16, 16, 15)
    """
    field_of_view_mm = grid_sides_mm(shape, voxel_size_mm)
    n_bundles = _checks.check_count(n_bundles, "n_bundles", 1)
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
    return Phantom(bundles, centred_affine(shape, voxel_size_mm), shape, csf=csf)


def crossing_phantom(
    angle_deg: float = 60.0,
    *,
    shape: tuple[int, int, int] = (24, 24, 12),
    voxel_size_mm: ArrayLike = 2.0,
) -> Phantom:
    """Make two straight bundles that cross in the middle of the field of view.

    Both lie in the x-y plane, the first one along x.  Their length is 90 % of the
    shorter side of the field of view in this plane.  Their radius is a quarter of the
    shortest side of the field of view.

    Parameters
    ----------
    angle_deg : float, optional
        Angle from the first to the second bundle in degrees, between 0 and 180.
    shape : tuple of 3 ints, optional
        Number of voxels along each axis.
    voxel_size_mm : float or sequence of 3 floats, optional
        Voxel size in mm.

    Returns
    -------
    phantom : Phantom
        Centred at 0 mm, where the bundles cross.

    Examples
    --------
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> len(crossing_phantom(45).bundles)
    2
    """
    field_of_view_mm = grid_sides_mm(shape, voxel_size_mm)
    if not 0 < angle_deg < 180:
        raise ValueError(
            f"angle_deg is {angle_deg}; an angle between 0 and 180 is needed."
        )
    half_mm = 0.45 * field_of_view_mm[:2].min()
    along_mm = np.linspace(-half_mm, half_mm, 2 + int(2 * half_mm / SAMPLE_MM))
    bundles = []
    for angle in (0.0, np.radians(angle_deg)):
        direction = np.array([np.cos(angle), np.sin(angle), 0.0])
        bundles.append(
            Bundle(along_mm[:, None] * direction, field_of_view_mm.min() / 4)
        )
    return Phantom(bundles, centred_affine(shape, voxel_size_mm), shape)


def circle_phantom(
    radius_mm: float = 20.0, *, voxel_size_mm: ArrayLike = 2.0, tube_mm: float = 6.0
) -> Phantom:
    """Make one bundle, closed to a circle in the x-y plane.

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
        Centred at 0 mm.  The field of view exceeds the tube by a voxel or more.

    Examples
    --------
    >>> from dipy_rnn.phantom import circle_phantom
    >>> circle_phantom(10, tube_mm=3).shape
    (15, 15, 5)
    """
    check_positive("radius_mm", radius_mm)
    check_positive("voxel_size_mm", voxel_size_mm)
    check_positive("tube_mm", tube_mm)
    if tube_mm >= radius_mm:
        raise ValueError(
            f"tube_mm is {tube_mm}; less than radius_mm, {radius_mm}, is needed."
        )
    angle = np.linspace(0, 2 * np.pi, 8 + int(2 * np.pi * radius_mm / SAMPLE_MM))
    circle = np.column_stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)])
    extent_mm = 2 * np.array([radius_mm + tube_mm, radius_mm + tube_mm, tube_mm])
    x, y, z = (int(n) for n in np.ceil(extent_mm / np.asarray(voxel_size_mm)) + 2)
    bundle = Bundle(radius_mm * circle, tube_mm)
    return Phantom([bundle], centred_affine((x, y, z), voxel_size_mm), (x, y, z))
