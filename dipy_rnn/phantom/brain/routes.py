"""Routes of bundles through the white matter of a simulated brain.

Each streamline has three parts. Two of them lead from an end point inwards, along the
field lines of `Anatomy.inward`. The third part follows the core of the bundle. There
the places of the streamlines in the cross-section are ordered as at the ends, so that
few streamlines of a bundle cross. At last all streamlines are smoothed, and pushed into
white matter.
"""

from collections.abc import Sequence

import numpy as np

from dipy_rnn._typing import Float32Array, FloatArray, IntArray
from dipy_rnn.phantom.brain.anatomy import FINE_MM, Anatomy
from dipy_rnn.phantom.brain.plans import Plan
from dipy_rnn.phantom.geometry import parallel_transport, ramp, unit

N_POINTS = 64  # of a streamline

_CORE_POINTS = 48
_CORE_ROUNDS = 120
_SMOOTHING_ROUNDS = 4
_SMOOTHING = 8  # of each point with its neighbours, in a round
_STEP_MM = 1.0  # of the parts that lead inwards
_MOST_INWARDS_MM = 20.0
_MOST_INWARDS_U_MM = 9.0
_IN_CORTEX_MM = 0.8  # how far streamlines enter grey matter
_FAN = 0.38  # share of the core over which the streamlines of an end converge


def route(
    anatomy: Anatomy,
    plans: Sequence[Plan],
    n_streamlines: int,
    rng: np.random.Generator,
) -> Float32Array:
    """Draw the streamlines of bundles.

    Parameters
    ----------
    anatomy : Anatomy
    plans : sequence of B Plan
    n_streamlines : int
        Number of streamlines of each bundle, N.
    rng : numpy.random.Generator

    Returns
    -------
    streamlines : ndarray of shape (B, N, 64, 3), float32
        In mm (RAS), from the first to the second region. The points of a streamline
        are equally spaced.

    Examples
    --------
    >>> import numpy as np
    >>> from dipy_rnn.phantom.brain.anatomy import draw_anatomy
    >>> rng = np.random.default_rng(0)
    >>> anatomy = draw_anatomy(rng, np.full(3, 45.0), n_patches=8)
    >>> plans = [Plan("association", (1, 2), np.zeros((0, 3)), 2.0, 1.0, 0.5)]
    >>> route(anatomy, plans, 5, rng).shape
    (1, 5, 64, 3)
    """
    inwards = [_ends_inwards(anatomy, plans, end, n_streamlines, rng) for end in (0, 1)]
    first, last = (tracks[:, :, -1] for tracks in inwards)  # (B, N, 3)
    cores = _cores(anatomy, plans, first.mean(axis=1), last.mean(axis=1))
    middles = np.empty((len(plans), n_streamlines, _CORE_POINTS, 3))
    for b, plan in enumerate(plans):
        order, places = _places(cores[b], first[b], last[b], plan, rng)
        inwards[1][b] = inwards[1][b, order]
        middles[b] = _around(cores[b], first[b], last[b, order], places, plan)
    lines = np.concatenate(
        [inwards[0][:, :, :-1], middles, inwards[1][:, :, -2::-1]], axis=2
    ).reshape(len(plans) * n_streamlines, -1, 3)
    lines = _relax(anatomy, resample(lines, N_POINTS))
    lines = resample(lines, N_POINTS)
    return lines.reshape(len(plans), n_streamlines, N_POINTS, 3).astype(np.float32)


def resample(lines: FloatArray, n_points: int) -> FloatArray:
    """Place points at equal distances along polylines.

    Parameters
    ----------
    lines : ndarray of shape (N, K, 3)
        Points may repeat.
    n_points : int

    Returns
    -------
    lines : ndarray of shape (N, n_points, 3)

    Examples
    --------
    >>> print(resample(np.array([[[0.0, 0, 0], [1, 0, 0], [4, 0, 0]]]), 3)[0, :, 0])
    [0. 2. 4.]
    """
    steps = np.linalg.norm(np.diff(lines, axis=1), axis=2)
    arc = np.concatenate([np.zeros((len(lines), 1)), np.cumsum(steps, axis=1)], axis=1)
    # One increasing sequence for all lines: line i covers [2 i, 2 i + 1].
    start = 2.0 * np.arange(len(lines))[:, None]
    arc = arc / np.maximum(arc[:, -1:], 1e-9) + start
    target = np.linspace(0, 1, n_points) + start
    flat = lines.reshape(-1, 3)
    placed = [np.interp(target.ravel(), arc.ravel(), flat[:, i]) for i in range(3)]
    return np.stack(placed, axis=-1).reshape(len(lines), n_points, 3)


def _ends_inwards(
    anatomy: Anatomy,
    plans: Sequence[Plan],
    end: int,
    n: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Return the parts (B, N, K, 3) of streamlines from an end to the core.

    A part that is complete repeats its last point.
    """
    regions = [plan.regions[end] for plan in plans]
    points = np.array([_end_points(anatomy, plan, end, n, rng) for plan in plans])
    points += rng.uniform(-0.5, 0.5, points.shape) * FINE_MM
    in_stem = np.array([region == anatomy.stem for region in regions])
    cortical = np.array([region <= anatomy.n_patches for region in regions])
    fold = anatomy.feature_scale
    is_u = np.array([plan.kind == "u" for plan in plans])
    enough_mm = np.where(is_u, 3.5 * fold, 6.5 * anatomy.scale)
    enough_mm[~cortical] = 2.0 * anatomy.scale
    most_mm = np.where(is_u, _MOST_INWARDS_U_MM, _MOST_INWARDS_MM) * fold

    outside = points[~in_stem]
    for _ in range(3):
        # To the border of white matter, and a little beyond.
        excess = anatomy.sample(anatomy.clearance_mm, outside) + _IN_CORTEX_MM * fold
        uphill = unit(anatomy.sample(anatomy.clearance_gradient, outside))
        outside = outside - np.clip(excess, -1, 1)[..., None] * uphill
    points[~in_stem] = outside

    parts = [points]
    stopped = np.zeros(points.shape[:2], dtype=bool)
    up = np.array([0.0, 0.12, 1.0]) / np.linalg.norm([0.12, 1])
    cortical, in_stem, enough_mm, most_mm = (
        np.broadcast_to(each[:, None], stopped.shape)
        for each in (cortical, in_stem, enough_mm, most_mm)
    )
    for step in range(int(most_mm.max() / _STEP_MM)):
        go = ~stopped
        here = parts[-1][go]
        along = np.where(
            cortical[go, None],
            anatomy.sample(anatomy.inward, here),
            anatomy.sample(anatomy.clearance_gradient, here),
        )
        here = here + _STEP_MM * np.where(in_stem[go, None], up, unit(along))
        parts.append(parts[-1].copy())
        parts[-1][go] = here
        is_deep = anatomy.sample(anatomy.clearance_mm, here) > enough_mm[go]
        is_deep |= (step + 1) * _STEP_MM >= most_mm[go]
        is_high = step > 8 * anatomy.scale
        stopped[go] = np.where(in_stem[go], is_high, is_deep)
    return np.stack(parts, axis=2)


def _end_points(
    anatomy: Anatomy, plan: Plan, end: int, n: int, rng: np.random.Generator
) -> FloatArray:
    """Draw end points (N, 3) of a bundle in one of its regions."""
    points = anatomy.interface_mm(plan.regions[end])
    target = plan.focus_mm[end]
    if anatomy.n_patches < plan.regions[end] < anatomy.stem:
        # The side of a nucleus that faces the other end.
        target = anatomy.interface_mm(plan.regions[1 - end]).mean(axis=0)
    if plan.regions[end] == anatomy.stem:
        # The part of the stem on the side of the other end.
        target = anatomy.interface_mm(plan.regions[1 - end]).mean(axis=0)
        target = points.mean(axis=0) + 4 * anatomy.scale * unit(target * [1, 1, 0])
    if target is not None:
        nearest = np.argsort(np.linalg.norm(points - target, axis=1), kind="stable")
        points = points[nearest[: max(6, int(plan.extent * len(points)))]]
    return points[rng.integers(len(points), size=n)]


def _cores(
    anatomy: Anatomy, plans: Sequence[Plan], starts: FloatArray, ends: FloatArray
) -> FloatArray:
    """Return the cores (B, K, 3): curves that keep their distance from the border."""
    corners = [
        np.vstack([start, plan.via_mm, end])[None]
        for plan, start, end in zip(plans, starts, ends, strict=True)
    ]
    cores = np.concatenate([resample(each, _CORE_POINTS) for each in corners])
    anchors = cores.copy()
    via = np.array([len(plan.via_mm) > 0 for plan in plans])[:, None, None]
    margin_mm = np.array([plan.radius_mm / np.sqrt(plan.flatness) for plan in plans])
    for _ in range(_CORE_ROUNDS):
        inner = 0.5 * (cores[:, :-2] + cores[:, 2:])
        # A core with waypoints stays near them.
        inner = np.where(via, 0.97 * inner + 0.03 * anchors[:, 1:-1], inner)
        cores[:, 1:-1] = anatomy.push_inside(inner, margin_mm[:, None])
    return resample(cores, _CORE_POINTS)


def _tangents(lines: FloatArray) -> FloatArray:
    return unit(np.gradient(lines, axis=-2))


def _frame(core: FloatArray, plan: Plan, rng: np.random.Generator) -> FloatArray:
    """Return two normals at each point of a core: (K, 2, 3)."""
    tangents = _tangents(core)
    wide = rng.normal(size=3)
    if plan.kind == "commissural":
        wide = np.array([0.0, 1, 0])  # the sheets of the corpus callosum
    normals = parallel_transport(wide, tangents)
    return np.stack([normals, np.cross(tangents, normals)], axis=1)


def _disc(places: FloatArray) -> FloatArray:
    """Spread points (N, 2) evenly over the unit disc, keeping their order."""
    centred = places - places.mean(axis=0)
    centred = centred / np.maximum(centred.std(axis=0), 1e-6)
    radius = np.linalg.norm(centred, axis=1)
    ranks = radius.argsort(kind="stable").argsort(kind="stable")
    even = np.sqrt((ranks + 0.5) / len(ranks))
    disc: FloatArray = centred * (even / np.maximum(radius, 1e-9))[:, None]
    return disc


def _by_strips(places: FloatArray) -> IntArray:
    """Return an order of points (N, 2): strip after strip, and along each strip."""
    n = len(places)
    strips = np.empty(n, dtype=np.int64)
    strips[places[:, 0].argsort(kind="stable")] = np.arange(n) // int(np.ceil(n**0.5))
    return np.lexsort((places[:, 1], strips))


def _places(
    core: FloatArray,
    first: FloatArray,
    last: FloatArray,
    plan: Plan,
    rng: np.random.Generator,
) -> tuple[IntArray, FloatArray]:
    """Pair the streamlines of both ends; return their places in the cross-section.

    Returns
    -------
    order : ndarray of shape (N,)
        Index of the last part that continues each first part.
    offsets : ndarray of shape (K, N, 3)
        From the core, in mm.
    """
    frame = _frame(core, plan, rng)
    start = _disc((first - core[0]) @ frame[0].T)
    end = _disc((last - core[-1]) @ frame[-1].T)
    order = np.empty(len(start), dtype=np.int64)
    order[_by_strips(start)] = _by_strips(end)
    along = np.linspace(0, 1, len(core))[:, None, None]
    places = start * (1 - along) + end[order] * along
    half_axes = plan.radius_mm * np.sqrt([plan.flatness, 1 / plan.flatness])
    return order, (places * half_axes) @ frame


def _around(
    core: FloatArray,
    first: FloatArray,
    last: FloatArray,
    offsets: FloatArray,
    plan: Plan,
) -> FloatArray:
    """Return the middle parts (N, K, 3) of streamlines, from `first` to `last`."""
    along = np.linspace(0, 1, len(core))[:, None, None]
    fan = 0.5 if plan.kind == "u" else _FAN
    at_first, at_last = ramp(1 - along / fan), ramp(1 - (1 - along) / fan)
    lines = core[:, None] + at_first * (first - core[0]) + at_last * (last - core[-1])
    lines += (1 - at_first) * (1 - at_last) * offsets
    return np.moveaxis(lines, 0, 1)


def _relax(anatomy: Anatomy, lines: FloatArray) -> FloatArray:
    """Smooth streamlines (N, K, 3) with fixed ends, and push them into white matter."""
    n = lines.shape[1]
    from_end = np.minimum(np.arange(n), np.arange(n)[::-1])
    margin_mm = np.minimum(0.35 * from_end - 1.0, 0.9) * anatomy.feature_scale
    smooth = 0.5 * np.eye(n) + 0.25 * (np.eye(n, k=1) + np.eye(n, k=-1))
    smooth[[0, -1]] = np.eye(n)[[0, -1]]
    smooth = np.linalg.matrix_power(smooth, _SMOOTHING)
    for _ in range(_SMOOTHING_ROUNDS):
        pushed = anatomy.push_inside(lines, margin_mm)
        lines[:, 1:-1] = pushed[:, 1:-1]
        lines = smooth @ lines
    return lines
