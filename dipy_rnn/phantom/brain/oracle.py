"""Oracles: trackers that know the true directions of a simulated brain.

Their scores say what a tracker can reach at all, so they end where trackers end: where
less than half of a voxel is white matter or a lesion, or at a turn beyond the largest
angle. They
differ in what they know:

``"local"``
    At each point, the true directions of all bundles there. The streamline takes the
    one nearest to its own direction.
``"memory"``
    The same, and its own turns so far. The streamline takes the direction nearest to
    the continuation of its curve.
``"bundle"``
    The bundle that it follows.
"""

import numpy as np

from dipy_rnn import _checks, spatial
from dipy_rnn._typing import ArrayLike, BoolArray, FloatArray, IntArray
from dipy_rnn.phantom.brain.world import BrainWorld
from dipy_rnn.phantom.geometry import check_positive, dot, unit

KNOWLEDGE = ("local", "memory", "bundle")

_MEMORY_MM = 8.0  # over which turns are averaged
_LEAST_OCCUPANCY = 0.05  # of a bundle that is followed; fans are thin at their ends


def oracle_seeds(
    world: BrainWorld, n_seeds: int, *, random_seed: int = 0
) -> tuple[FloatArray, IntArray]:
    """Draw random points in white matter, and a bundle that passes each of them.

    Parameters
    ----------
    world : BrainWorld
    n_seeds : int
    random_seed : int, optional

    Returns
    -------
    seeds_mm : ndarray of shape (n_seeds, 3)
        In mm (RAS).
    bundle_ids : ndarray of shape (n_seeds,), int
        Drawn with the fractions of the bundles in the voxel.

    Examples
    --------
    >>> from dipy_rnn.phantom import brain_world
    >>> world = brain_world(0, shape=(16, 18, 16), voxel_size_mm=3, n_bundles=12)
    >>> oracle_seeds(world, 5)[0].shape
    (5, 3)
    """
    n_seeds = _checks.check_count(n_seeds, "n_seeds")
    rng = np.random.default_rng(random_seed)
    fractions, _ = world.peaks()
    voxels = np.argwhere(world.mask() & (fractions[..., 0] > 0))
    voxels = voxels[rng.integers(len(voxels), size=n_seeds)]
    upto = np.cumsum(fractions[tuple(voxels.T)], axis=1, dtype=np.float64)
    drawn = rng.random(n_seeds) * upto[:, -1]
    # A fraction of 0 is never drawn.
    which = np.minimum((upto <= drawn[:, None]).sum(axis=1), upto.shape[1] - 1)
    bundle_ids = world.bundle_ids()[(*voxels.T, which)].astype(np.int64)
    points_vox = voxels + rng.uniform(-0.5, 0.5, voxels.shape)
    return spatial.to_mm(points_vox, world.affine), bundle_ids


def oracle_streamlines(
    world: BrainWorld,
    seeds_mm: ArrayLike,
    bundle_ids: ArrayLike,
    *,
    knows: str,
    step_mm: float = 0.5,
    max_angle_deg: float = 30.0,
    max_len_mm: float = 250.0,
) -> list[FloatArray]:
    """Track a simulated brain with its true directions.

    Streamlines stay where more than half of the voxel is white matter or a lesion
    (:meth:`BrainWorld.mask`). They also end where there are no fibres that they could
    follow.

    Parameters
    ----------
    world : BrainWorld
    seeds_mm : array_like of shape (N, 3)
        In mm (RAS).
    bundle_ids : array_like of shape (N,), int
        The bundle whose direction a streamline has at its seed.
    knows : str
        What the oracle knows: ``"local"``, ``"memory"`` or ``"bundle"``.
    step_mm : float, optional
    max_angle_deg : float, optional
        Largest angle of a step to the one before.
    max_len_mm : float, optional
        Length at which a half of a streamline ends.

    Returns
    -------
    streamlines : list of N ndarrays of shape (M, 3)
        In mm (RAS).

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> from dipy_rnn.phantom import brain_world
    >>> world = brain_world(0, shape=(16, 18, 16), voxel_size_mm=3, n_bundles=12)
    >>> seeds_mm, bundle_ids = oracle_seeds(world, 5)
    >>> len(oracle_streamlines(world, seeds_mm, bundle_ids, knows="bundle"))
    5
    """
    if knows not in KNOWLEDGE:
        raise ValueError(f"knows is {knows!r}; one of {KNOWLEDGE} is needed.")
    check_positive("step_mm", step_mm)
    check_positive("max_len_mm", max_len_mm)
    check_positive("max_angle_deg", max_angle_deg)
    seeds = _checks.as_points(seeds_mm, "seeds_mm")
    start, _ = world.bundle_directions(bundle_ids, seeds)
    ids: IntArray = np.asarray(bundle_ids, dtype=np.int64)
    n = len(seeds)
    heading = np.concatenate([start, -start])
    ids = np.concatenate([ids, ids])
    here = np.concatenate([seeds, seeds])
    turn = np.zeros_like(here)
    going: IntArray = np.arange(2 * n)
    parts: list[list[FloatArray]] = [[] for _ in range(2 * n)]
    mask = world.mask()
    keep = np.exp(-step_mm / _MEMORY_MM)
    least_cosine = np.cos(np.radians(max_angle_deg))
    for _ in range(int(max_len_mm / step_mm)):
        if not len(going):
            break
        points, along = here[going], heading[going]
        expected = unit(along + turn[going]) if knows == "memory" else along
        if knows == "bundle":
            chosen, found = _oriented(world, ids[going], points, expected)
        else:
            chosen, found = _nearest(world, points, expected)
        found &= dot(chosen, along) >= least_cosine
        points = points + step_mm * chosen
        found &= _is_inside(mask, points, world.affine)
        going, chosen, points = going[found], chosen[found], points[found]
        turn[going] = keep * turn[going] + (1 - keep) * (chosen - heading[going])
        heading[going], here[going] = chosen, points
        for i, point in zip(going, points, strict=True):
            parts[i].append(point)
    return [np.array([*parts[n + i][::-1], seeds[i], *parts[i]]) for i in range(n)]


def _oriented(
    world: BrainWorld, ids: IntArray, points: FloatArray, along: FloatArray
) -> tuple[FloatArray, BoolArray]:
    """Return directions of bundles, turned to `along`, and whether they are there."""
    directions, occupancy, _ = world.fields.at(ids, points)
    directions *= np.where(dot(directions, along) < 0, -1.0, 1.0)[:, None]
    return directions, occupancy > _LEAST_OCCUPANCY


def _nearest(
    world: BrainWorld, points: FloatArray, along: FloatArray
) -> tuple[FloatArray, BoolArray]:
    """Return the true direction nearest to `along`, and whether there is one."""
    voxels = np.round(spatial.to_voxels(points, world.affine)).astype(np.int64)
    voxels = np.clip(voxels, 0, np.array(world.shape) - 1)
    candidates = world.bundle_ids()[tuple(voxels.T)].astype(np.int64)
    rows, ranks = np.nonzero(candidates >= 0)
    directions, inside = _oriented(
        world, candidates[rows, ranks], points[rows], along[rows]
    )
    cosines = np.full(candidates.shape, -2.0)
    cosines[rows, ranks] = np.where(inside, dot(directions, along[rows]), -2.0)
    every = np.zeros((*candidates.shape, 3))
    every[rows, ranks] = directions
    best = cosines.argmax(axis=1)
    each = np.arange(len(points))
    return every[each, best], cosines[each, best] > -2


def _is_inside(mask: BoolArray, points: FloatArray, affine: FloatArray) -> BoolArray:
    voxels = np.round(spatial.to_voxels(points, affine)).astype(np.int64)
    in_grid = np.all((voxels >= 0) & (voxels < mask.shape), axis=1)
    inside: BoolArray = in_grid.copy()
    inside[in_grid] = mask[tuple(voxels[in_grid].T)]
    return inside
