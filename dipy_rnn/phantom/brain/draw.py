"""Function that draws a simulated brain."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_dilation, distance_transform_edt

from dipy_rnn import _checks, spatial
from dipy_rnn._typing import ArrayLike, BoolArray, Float32Array, FloatArray, IntArray
from dipy_rnn.phantom.brain.anatomy import FINE_MM, WHITE, Anatomy, draw_anatomy
from dipy_rnn.phantom.brain.plans import Plan, first_plans, plans_through
from dipy_rnn.phantom.brain.routes import N_POINTS, route
from dipy_rnn.phantom.brain.world import BrainWorld
from dipy_rnn.phantom.bundles import Ball
from dipy_rnn.phantom.fibre_fields import FibreFields
from dipy_rnn.phantom.geometry import dot, unit
from dipy_rnn.phantom.worlds import centred_affine, grid_sides_mm

_SPARE = 1.3  # as many streamlines are drawn; the least parallel ones are left out
_LEAST_PARALLEL = 0.6  # mean cosine to the bundle, below which a bundle is left out
_ROUNDS = 4  # of bundles through places without fibres
_MOST_EMPTY = 0.04  # share of white matter
_ROUND_SHARE = 0.2  # of the number of bundles, in a round


def brain_world(
    random_seed: int,
    *,
    shape: tuple[int, int, int] = (60, 70, 60),
    voxel_size_mm: ArrayLike = 2.0,
    n_bundles: int = 100,
    n_streamlines: int = 300,
) -> BrainWorld:
    """Draw a simulated brain. No data of a real head is used.

    The brain has a folded cortex, white matter, six deep nuclei, ventricles, fluid
    around it, and a stem. About a third of its bundles are association bundles, a third
    are U-fibres, and the others are commissural sheets and projections to nuclei and
    the stem. Further bundles are added where white matter has no fibres, until 96 % of
    it has some. Half of the brains have lesions.

    The brain fills the field of view. If a side of the field of view is not 120 mm, its
    lengths are scaled. The cortex is scaled less.

    Parameters
    ----------
    random_seed : int
        The same seed and arguments give the same brain.
    shape : tuple of 3 ints, optional
        Number of voxels along each axis.
    voxel_size_mm : float or sequence of 3 floats, optional
        Voxel size in mm.
    n_bundles : int, optional
        Number of bundles, before further ones are added.
    n_streamlines : int, optional
        Number of streamlines that define a bundle.

    Returns
    -------
    world : BrainWorld
        Centred at 0 mm.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> from dipy_rnn.phantom import brain_world
    >>> world = brain_world(0, shape=(16, 18, 16), voxel_size_mm=3, n_bundles=12)
    >>> world.tissues().shape, sorted(set(world.kinds))
    ((16, 18, 16, 5), ['association', 'commissural', 'projection', 'u'])
    """
    sides_mm = grid_sides_mm(shape, voxel_size_mm)
    if sides_mm.min() < 40:
        raise ValueError(
            f"shape and voxel_size_mm give a field of view of {sides_mm.min():.3g} mm; "
            "40 mm or more is needed."
        )
    n_bundles = _checks.check_count(n_bundles, "n_bundles", 4)
    n_streamlines = _checks.check_count(n_streamlines, "n_streamlines", 10)
    rng = np.random.default_rng(random_seed)
    # A hemisphere has a patch for each 2.5 bundles.
    n_patches = 2 * max(4, round(n_bundles / 2.5))
    anatomy = draw_anatomy(rng, sides_mm, n_patches=n_patches)

    plans, lines = _parallel_bundles(
        anatomy, first_plans(anatomy, n_bundles, rng), n_streamlines, rng
    )
    white = anatomy.tissue == WHITE
    visited = np.zeros(white.shape, dtype=bool)
    _visit(anatomy, lines, visited)
    for _ in range(_ROUNDS):
        empty = white & ~binary_dilation(visited)
        if empty.sum() <= _MOST_EMPTY * white.sum():
            break
        most = max(1, round(_ROUND_SHARE * n_bundles))
        places_mm = _middles(anatomy, empty, most)
        further, their_lines = _parallel_bundles(
            anatomy, plans_through(anatomy, places_mm, rng), n_streamlines, rng
        )
        _visit(anatomy, their_lines, visited)
        plans, lines = plans + further, np.concatenate([lines, their_lines])
    return BrainWorld(
        anatomy,
        plans,
        lines,
        FibreFields(lines, anatomy.affine),
        centred_affine(shape, voxel_size_mm),
        shape,
        lesions=_lesions(anatomy, rng),
    )


def _parallel_bundles(
    anatomy: Anatomy,
    plans: Sequence[Plan],
    n_streamlines: int,
    rng: np.random.Generator,
) -> tuple[list[Plan], Float32Array]:
    """Draw bundles, without streamlines and bundles that are not parallel."""
    lines = route(anatomy, plans, int(np.ceil(_SPARE * n_streamlines)), rng)
    fields = FibreFields(lines, anatomy.affine)
    n_drawn = lines.shape[1]
    ids = np.repeat(np.arange(len(plans)), n_drawn)
    points = np.arange(4, N_POINTS - 2, 4)
    cosines = np.zeros(len(ids))
    for i in points:
        along = unit((lines[:, :, i + 1] - lines[:, :, i - 1]).astype(np.float64))
        here = lines[:, :, i].reshape(-1, 3).astype(np.float64)
        directions = fields.at(ids, here).directions
        cosines += dot(directions, along.reshape(-1, 3)) / len(points)
    of_lines = cosines.reshape(len(plans), n_drawn)
    best = np.argsort(-of_lines, axis=1, kind="stable")[:, :n_streamlines]
    each = np.arange(len(plans))[:, None]
    kept = of_lines[each, best].mean(axis=1) >= _LEAST_PARALLEL
    chosen = [plan for plan, keep in zip(plans, kept, strict=True) if keep]
    return chosen, lines[each, np.sort(best, axis=1)][kept]


def _visit(anatomy: Anatomy, lines: Float32Array, visited: BoolArray) -> None:
    """Set the voxels of the fine grid that streamlines pass, in place."""
    places = (lines.reshape(-1, 3) - anatomy.affine[:3, 3]) / FINE_MM
    voxels: IntArray = np.round(places).astype(np.int64)
    voxels = np.clip(voxels, 0, np.array(visited.shape) - 1)
    visited[tuple(voxels.T)] = True


def _middles(anatomy: Anatomy, empty: BoolArray, most: int) -> FloatArray:
    """Return points (N, 3) in mm in the middle of the largest empty places."""
    depth = distance_transform_edt(empty)
    voxels = np.argwhere(empty)
    order = np.argsort(-depth[empty], kind="stable")
    points = spatial.to_mm(voxels[order].astype(np.float64), anatomy.affine)
    chosen: list[FloatArray] = []
    while len(points) and len(chosen) < most:
        chosen.append(points[0])
        apart = np.linalg.norm(points - points[0], axis=1) > 9 * anatomy.scale + FINE_MM
        points = points[apart]
    return np.array(chosen)


def _lesions(anatomy: Anatomy, rng: np.random.Generator) -> list[Ball]:
    """Draw lesions in white matter; half of the brains have none."""
    white = anatomy.clearance_mm > 2.0 * anatomy.scale
    points = spatial.to_mm(np.argwhere(white).astype(np.float64), anatomy.affine)
    n_lesions = int(rng.integers(1, 5)) if rng.random() < 0.5 else 0
    centres = points[rng.integers(len(points), size=n_lesions)]
    return [Ball(c, anatomy.scale * rng.uniform(3, 9)) for c in centres]
