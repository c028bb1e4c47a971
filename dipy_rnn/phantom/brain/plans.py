"""Plans of the bundles of a simulated brain: which regions they connect, and where.

:func:`first_plans` draws bundles of all kinds. :func:`plans_through` draws bundles that
pass through places without fibres.
"""

from dataclasses import dataclass

import numpy as np

from dipy_rnn._typing import FloatArray, IntArray
from dipy_rnn.phantom.brain.anatomy import Anatomy

KINDS = ("association", "commissural", "projection", "u")

_SHARES = (0.30, 0.15, 0.27, 0.28)  # of the kinds
_FEWEST = 8  # points of an end region on the border of white matter
_NONE: FloatArray = np.zeros((0, 3))


@dataclass(frozen=True, eq=False)
class Plan:
    """What is fixed for a bundle before its streamlines are drawn.

    Parameters
    ----------
    kind : str
        ``"association"``, ``"commissural"``, ``"projection"`` or ``"u"``.
    regions : tuple of 2 ints
        Numbers of its end regions.
    via_mm : ndarray of shape (W, 3)
        Points along its core.
    radius_mm, flatness : float
        Size and shape of the cross-section of its core, as for
        :class:`dipy_rnn.phantom.Bundle`.
    weight : float
        Weight of its fibres in voxels that it shares with other bundles.
    focus_mm : tuple of 2 ndarrays of shape (3,) or None
        For each end, the point around which the bundle uses a part of the region. None
        for the whole region.
    extent : float
        Size of this part, as a share of the region.

    Examples
    --------
    >>> Plan("u", (1, 2), np.zeros((0, 3)), 3.0, 1.0, 0.5).regions
    (1, 2)
    """

    kind: str
    regions: tuple[int, int]
    via_mm: FloatArray
    radius_mm: float
    flatness: float
    weight: float
    focus_mm: tuple[FloatArray | None, FloatArray | None] = (None, None)
    extent: float = 0.5


def first_plans(
    anatomy: Anatomy, n_bundles: int, rng: np.random.Generator
) -> list[Plan]:
    """Draw bundles of all kinds between regions that are used least.

    Parameters
    ----------
    anatomy : Anatomy
    n_bundles : int
    rng : numpy.random.Generator

    Returns
    -------
    plans : list of Plan

    Examples
    --------
    >>> from dipy_rnn.phantom.brain.anatomy import draw_anatomy
    >>> rng = np.random.default_rng(0)
    >>> anatomy = draw_anatomy(rng, np.full(3, 45.0), n_patches=8)
    >>> sorted({plan.kind for plan in first_plans(anatomy, 12, rng)})
    ['association', 'commissural', 'projection', 'u']
    """
    centres = _centres(anatomy)
    uses = np.where(np.isfinite(centres[: anatomy.n_patches + 1, 0]), 0, np.inf)
    pairs: set[tuple[int, int]] = set()
    plans: list[Plan] = []
    counts = np.maximum(1, np.round(np.array(_SHARES) * n_bundles)).astype(int)
    for kind, count in zip(KINDS, counts, strict=True):
        for _ in range(count):
            for _ in range(20):
                # The patch that is used least; ties are broken at random.
                noise = rng.uniform(0, 1, anatomy.n_patches)
                first = 1 + int(np.argmin(uses[1:] + noise))
                last = _partner(anatomy, centres, kind, first, uses, rng)
                if (first, last) not in pairs and (last, first) not in pairs:
                    break
                uses[first] += 0.3
            pairs.add((first, last))
            uses[first] += 1
            if last <= anatomy.n_patches:
                uses[last] += 1
            plans.append(_plan(anatomy, centres, kind, first, last, rng))
    return plans


def plans_through(
    anatomy: Anatomy, places_mm: FloatArray, rng: np.random.Generator
) -> list[Plan]:
    """Draw a bundle for each of some places in white matter.

    A bundle through a place near the cortex ends in the nearest region. A bundle
    through a place far from it connects two regions at opposite sides.

    Parameters
    ----------
    anatomy : Anatomy
    places_mm : ndarray of shape (N, 3)
    rng : numpy.random.Generator

    Returns
    -------
    plans : list of N Plan

    Examples
    --------
    >>> from dipy_rnn.phantom.brain.anatomy import draw_anatomy
    >>> rng = np.random.default_rng(0)
    >>> anatomy = draw_anatomy(rng, np.full(3, 45.0), n_patches=8)
    >>> len(plans_through(anatomy, anatomy.interface_mm(1)[:2], rng))
    2
    """
    centres = _centres(anatomy)
    patches = _usable(centres, 1 + np.arange(anatomy.n_patches))
    plans = []
    for place in places_mm:
        nearest_mm = [
            np.linalg.norm(anatomy.interface_mm(region) - place, axis=1).min()
            for region in patches
        ]
        near = int(patches[np.argmin(nearest_mm)])
        if min(nearest_mm) < 8 * anatomy.scale:
            kind = str(rng.choice(["association", "projection", "u"]))
            last = _partner(
                anatomy, centres, kind, near, np.zeros(anatomy.n_patches + 1), rng
            )
            plans.append(_plan(anatomy, centres, kind, near, last, rng, place))
        else:
            first, last = _opposite(anatomy, centres, place, rng)
            plans.append(
                Plan(
                    "projection" if last > anatomy.n_patches else "association",
                    (first, last),
                    place[None],
                    anatomy.scale * rng.uniform(3, 5),
                    1.0,
                    rng.uniform(0.3, 1),
                )
            )
    return plans


def _centres(anatomy: Anatomy) -> FloatArray:
    """Return the centre of each region, at its number; infinity if it is too small."""
    points = [anatomy.interface_mm(region) for region in range(anatomy.stem + 1)]
    too_small = np.full(3, np.inf)
    return np.array(
        [each.mean(axis=0) if len(each) >= _FEWEST else too_small for each in points]
    )


def _usable(centres: FloatArray, regions: IntArray) -> IntArray:
    usable: IntArray = regions[np.isfinite(centres[regions, 0])]
    return usable


def _any_point(anatomy: Anatomy, region: int, rng: np.random.Generator) -> FloatArray:
    points = anatomy.interface_mm(region)
    point: FloatArray = points[rng.integers(len(points))]
    return point


def _side(anatomy: Anatomy, region: int) -> int:
    """Return 0 for a patch of the left hemisphere and 1 for the right one."""
    return int(region > anatomy.n_patches // 2)


def _patches_of_side(anatomy: Anatomy, side: int) -> IntArray:
    half = anatomy.n_patches // 2
    return 1 + half * side + np.arange(half)


def _nuclei_of_side(anatomy: Anatomy, side: int) -> IntArray:
    return anatomy.n_patches + 1 + 3 * side + np.arange(3)


def _partner(
    anatomy: Anatomy,
    centres: FloatArray,
    kind: str,
    first: int,
    uses: FloatArray,
    rng: np.random.Generator,
) -> int:
    """Choose the other end of a bundle."""
    side = _side(anatomy, first)
    if kind == "commissural":
        others = _usable(centres, _patches_of_side(anatomy, 1 - side))
        mirrored = centres[first] * [-1, 1, 1]
        return int(others[np.linalg.norm(centres[others] - mirrored, axis=1).argmin()])
    if kind == "projection":
        ends = np.array([anatomy.stem, *_nuclei_of_side(anatomy, side)])
        chances = np.isfinite(centres[ends, 0]) * [0.4, 0.3, 0.18, 0.12]
        return int(rng.choice(ends, p=chances / chances.sum()))
    others = _usable(centres, _patches_of_side(anatomy, side))
    others = others[others != first]
    distance = np.linalg.norm(centres[others] - centres[first], axis=1)
    by_distance = others[np.argsort(distance, kind="stable")]
    if kind == "u":
        choice = by_distance[:5]
    else:
        choice = by_distance[len(by_distance) // 4 :]
    return int(choice[np.argmin(uses[choice] + rng.uniform(0, 1.5, len(choice)))])


def _plan(
    anatomy: Anatomy,
    centres: FloatArray,
    kind: str,
    first: int,
    last: int,
    rng: np.random.Generator,
    focus_mm: FloatArray | None = None,
) -> Plan:
    scale, sign = anatomy.scale, 2 * _side(anatomy, first) - 1
    via, flatness = _NONE, 1.0
    radius = rng.uniform(2.5, 5.5)
    if kind == "commissural":
        y = 0.55 * centres[first, 1] / scale + rng.normal(0, 3)
        y = float(np.clip(y, -27, 27))
        z = 23.5 - 0.012 * y**2
        via = np.array([[9.0 * sign, y, z], [0, y, z + 0.5], [-9 * sign, y, z]])
        radius, flatness = rng.uniform(2.5, 4), 2.5
    elif kind == "projection":
        flatness = rng.uniform(1, 2)
        if last == anatomy.stem:
            y = float(np.clip(0.3 * centres[first, 1] / scale, -12, 8))
            via = np.array(
                [[18.5 * sign, y, 10], [18 * sign, y - 1, 2], [8 * sign, -8, -16]]
            )
            radius = rng.uniform(2, 3.2)
    if focus_mm is None:
        focus_mm = _any_point(anatomy, first, rng)
    other_mm = _any_point(anatomy, last, rng)
    extent = 0.5
    if kind == "u":
        radius, extent = rng.uniform(1.5, 3), 0.25
        # Two places on both sides of a sulcus.
        points = anatomy.interface_mm(last)
        distance = np.linalg.norm(points - focus_mm, axis=1)
        other_mm = points[np.abs(distance - 17 * anatomy.feature_scale).argmin()]
    return Plan(
        kind,
        (first, last),
        scale * via,
        scale * radius,
        flatness,
        rng.uniform(0.3, 1),
        (focus_mm, other_mm if last <= anatomy.n_patches else None),
        extent,
    )


def _opposite(
    anatomy: Anatomy, centres: FloatArray, place: FloatArray, rng: np.random.Generator
) -> tuple[int, int]:
    """Choose two regions on opposite sides of a place, of 60 random pairs."""
    side = int(place[0] > 0)
    patches = _usable(centres, _patches_of_side(anatomy, side))
    others = np.array([*patches, *_nuclei_of_side(anatomy, side), anatomy.stem])
    first, last = rng.choice(patches, 60), rng.choice(_usable(centres, others), 60)
    to_first, to_last = centres[first] - place, centres[last] - place
    longer = np.linalg.norm(to_first, axis=1) + np.linalg.norm(to_last, axis=1)
    direct = np.linalg.norm(centres[first] - centres[last], axis=1)
    detour = np.where(first == last, np.inf, longer - direct)
    best = int(detour.argmin())
    return int(first[best]), int(last[best])
