"""Placing seeds: in a mask, at random or on a grid, or where grey meets white matter.

`Seeding` holds the options that set the number and the places of seeds.
`interface_seeds` places seeds on the interface of grey and white matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from dipy_rnn import _checks, sampling, spatial
from dipy_rnn._typing import AnyArray, AnyPath, ArrayLike, BoolArray, FloatArray
from dipy_rnn.pipeline.random_seeds import random_seeds_from_mask
from dipy_rnn.stopping import MaskRegion

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dipy_rnn._typing import Float32Array
    from dipy_rnn.stopping import Tissues

# Random seeds per batch; fewer if tracking ends at a number of streamlines.
_BATCH_SIZE = 100_000
_BATCH_SIZE_SELECT = 10_000
# Largest number of seeds per streamline, if `select` is given without a number of
# seeds.
_SEEDS_PER_SELECTED = 100
_MAX_SEEDS = 10**9
# DIPY adds an integer to random_seed for each voxel and repetition. The random seeds of
# consecutive batches differ by this number. It is a prime above the number of batches,
# so that no seed is drawn twice.
_RANDOM_SEED_STRIDE = 1_000_003

# If the sum of the partial volumes is below this, a point is outside of the head, as in
# the ACT of MRtrix3.
_MIN_TISSUE = 0.5
_NEIGHBOURHOOD = np.ones((3, 3, 3), dtype=bool)
# At a seed, white matter exceeds grey matter by this much, which is more than rounding
# errors.
_WHITE_MARGIN = 1e-6
_N_BISECTIONS = 20
_SEGMENTS_PER_BATCH = 100_000
_MAX_EMPTY_BATCHES = 20


def _draw_random_seed() -> int:
    return int(np.random.default_rng().integers(1, 2**31))


@dataclass(frozen=True)
class Seeding:
    """How many seeds to place, and where.

    If none of `seed_count`, `seeds_per_voxel`, `seeds_per_mm3` and `select` is given,
    seeds are placed on a regular grid by `seed_density`. Otherwise they are random.

    Parameters
    ----------
    seed_density : int, optional
        Number of seeds on a regular grid along each dimension of a voxel: 2 gives 8
        seeds.
    seed_count : int, optional
        Total number of random seeds.
    seeds_per_voxel : int, optional
        Number of random seeds in each voxel.
    seeds_per_mm3 : float, optional
        Mean number of random seeds per mm3.
    seed_at_interface : bool, optional
        Whether to place the random seeds on the interface of grey and white matter.
    select : int, optional
        If above 0, seeds are random, and tracking ends when this number of streamlines
        is selected. If no number of seeds is given, at most 100 seeds per streamline to
        select are placed.
    random_seed : int, optional
        Seed of the random numbers. If 0, a seed is drawn when the object is made:
        all uses of one object give the same seeds, and another object gives other
        seeds.

    Raises
    ------
    ValueError
        If an option is out of range, or two options contradict each other.

    Examples
    --------
    >>> mask = np.zeros((3, 3, 3))
    >>> mask[1, 1, 1] = 1
    >>> n_seeds, batches = Seeding().place(mask, np.eye(4), "mask.nii.gz")
    >>> n_seeds, [seeds.tolist() for seeds in batches]
    (1, [[[1.0, 1.0, 1.0]]])
    """

    seed_density: int = 1
    seed_count: int = 0
    seeds_per_voxel: int = 0
    seeds_per_mm3: float = 0.0
    seed_at_interface: bool = False
    select: int = 0
    random_seed: int = 1
    # Used if random_seed is 0. It is pickled with the object, so all processes that
    # track parts of the seeds place the same seeds.
    _drawn_random_seed: int = field(
        default_factory=_draw_random_seed, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for name, least in (
            ("seed_density", 1),
            ("seed_count", 0),
            ("seeds_per_voxel", 0),
            ("select", 0),
            ("random_seed", 0),
        ):
            _checks.check_count(getattr(self, name), name, least)
        if not 0 <= _checks.check_number(self.seeds_per_mm3, "seeds_per_mm3") < np.inf:
            raise ValueError(
                f"seeds_per_mm3 is {self.seeds_per_mm3}; 0 or more is needed."
            )
        given = self._given("seed_count", "seeds_per_voxel", "seeds_per_mm3")
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)} are given; each sets the number of seeds: "
                "give one of them."
            )
        if self.seed_at_interface and given not in ([], ["seed_count"]):
            raise ValueError(
                f"seed_at_interface is given with {given[0]}; give seed_count instead."
            )
        if self.seed_at_interface and not (self.seed_count or self.select):
            raise ValueError(
                "seed_at_interface needs seed_count, the number of seeds, or select."
            )
        if self.select and self.seed_density > 1:
            raise ValueError(
                "select draws seeds at random, and seed_density places them on a grid; "
                "give one of them."
            )

    def _given(self, *names: str) -> list[str]:
        return [name for name in names if getattr(self, name)]

    def place(
        self,
        seeding: AnyArray,
        affine: FloatArray,
        path: AnyPath,
        tissues: Tissues | None = None,
        tissue_affine: FloatArray | None = None,
    ) -> tuple[int, Iterator[FloatArray]]:
        """Place seeds.

        Parameters
        ----------
        seeding : ndarray of shape (X, Y, Z) or (N, 3)
            A mask, whose voxels above 0 are seeded; or a list of seeds in mm.
        affine : ndarray of shape (4, 4)
            Voxel to mm, of the mask. It may be on another grid than the fODF.
        path : str or Path
            File of the mask or the list, for error messages.
        tissues : dipy_rnn.stopping.Tissues, optional
            Needed for `seed_at_interface`.
        tissue_affine : ndarray of shape (4, 4), optional
            Voxel to mm, of `tissues`. If None, they are on the grid of the mask.

        Returns
        -------
        n_seeds : int
            Number of seeds. With `select`, it is an upper limit: tracking may end
            earlier.
        batches : iterator of ndarray of shape (N, 3)
            Seeds in mm.

        Raises
        ------
        ValueError
            If the mask has no voxel above 0, if there are no or too many seeds, or if
            options that place seeds are given with a list of seeds.
        """
        if seeding.ndim == 2:
            if given := self._given(
                "seed_count", "seeds_per_voxel", "seeds_per_mm3", "seed_at_interface"
            ):
                raise ValueError(
                    f"{path} is a list of seeds, but {given[0]} needs a mask; leave "
                    f"{given[0]} out, or give a mask."
                )
            return len(seeding), iter([seeding])
        if not np.isfinite(seeding).all():
            raise ValueError(
                f"{path} contains NaN or infinity; a mask of 0 and 1 is needed."
            )
        mask = seeding > 0
        n_voxels = int(mask.sum())
        if not n_voxels:
            raise ValueError(f"{path} is an empty seed mask; it needs voxels above 0.")
        n_random = self._count_random_seeds(n_voxels, affine, path)
        n_seeds = n_random or n_voxels * self.seed_density**3
        if n_seeds > _MAX_SEEDS:
            raise ValueError(
                f"there would be {n_seeds} seeds in {path}; {_MAX_SEEDS} are allowed."
            )
        if not n_random:
            from dipy.tracking.utils import seeds_from_mask

            # DIPY does not apply an affine if the only seed is at (0, 0, 0).
            seeds_vox = seeds_from_mask(mask, np.eye(4), density=self.seed_density)
            return n_seeds, iter([spatial.to_mm(seeds_vox, affine)])
        draw: Callable[..., FloatArray]
        if self.seed_at_interface:
            assert tissues is not None, "seed_at_interface needs tissues"
            draw = partial(
                interface_seeds,
                tissues,
                affine if tissue_affine is None else tissue_affine,
                mask=mask,
                mask_affine=None if tissue_affine is None else affine,
            )
        else:
            draw = partial(self._draw, mask, affine, n_voxels)
        batches = self._batches(n_random, n_voxels, draw)
        first = next(batches)  # raise an error here, not when the first seed is used
        return n_seeds, chain([first], batches)

    def _count_random_seeds(
        self, n_voxels: int, affine: FloatArray, path: AnyPath
    ) -> int:
        """Return the number of random seeds, or 0 for seeds on a regular grid."""
        volume_mm3 = n_voxels * abs(np.linalg.det(affine[:3, :3]))
        n_random = (
            self.seed_count
            or self.seeds_per_voxel * n_voxels
            or round(self.seeds_per_mm3 * volume_mm3)
        )
        if self.seeds_per_mm3 and not n_random:
            raise ValueError(
                f"seeds_per_mm3 is {self.seeds_per_mm3}, which gives no seed in {path}."
            )
        if self.select:
            return n_random or _SEEDS_PER_SELECTED * self.select
        return n_random

    def _draw(
        self,
        mask: BoolArray,
        affine: FloatArray,
        n_voxels: int,
        n_seeds: int,
        random_seed: int,
    ) -> FloatArray:
        each = self.seeds_per_voxel > 0
        return random_seeds_from_mask(
            mask,
            affine,
            seeds_count=n_seeds // n_voxels if each else n_seeds,
            seed_count_per_voxel=each,
            random_seed=random_seed,
        )

    @property
    def seed_of_run(self) -> int:
        """``random_seed``, or a number drawn for this object if that is 0."""
        return self.random_seed or self._drawn_random_seed

    def _batches(
        self, n_seeds: int, n_voxels: int, draw: Callable[..., FloatArray]
    ) -> Iterator[FloatArray]:
        """Draw seeds in batches, to limit memory."""
        size = _BATCH_SIZE_SELECT if self.select else _BATCH_SIZE
        if self.seeds_per_voxel:  # the same number of seeds in each voxel
            size = max(size // n_voxels, 1) * n_voxels
        random_seed = self.seed_of_run
        for start in range(0, n_seeds, size):
            yield draw(n_seeds=min(size, n_seeds - start), random_seed=random_seed)
            random_seed += _RANDOM_SEED_STRIDE


def slice_batches(
    batches: Iterable[FloatArray], begin: int, end: int
) -> Iterator[FloatArray]:
    """Return the seeds from one index up to another, across batches.

    Parameters
    ----------
    batches : iterable of ndarray of shape (N, 3)
    begin, end : int
        Indices of the first seed and of the one after the last, over all batches.

    Yields
    ------
    batch : ndarray of shape (M, 3)

    Examples
    --------
    >>> batches = [np.zeros((2, 3)), np.ones((4, 3))]
    >>> [batch[:, 0].tolist() for batch in slice_batches(batches, 1, 4)]
    [[0.0], [1.0, 1.0]]
    """
    for batch in batches:
        yield batch[max(begin, 0) : max(end, 0)]
        begin, end = begin - len(batch), end - len(batch)
        if end <= 0:
            return


def interface_seeds(
    tissues: Tissues,
    affine: ArrayLike,
    n_seeds: int,
    *,
    mask: ArrayLike | None = None,
    mask_affine: ArrayLike | None = None,
    random_seed: int = 0,
) -> FloatArray:
    """Place seeds at random on the interface of grey and white matter.

    Parameters
    ----------
    tissues : dipy_rnn.stopping.Tissues
    affine : array_like of shape (4, 4)
        Voxel to mm, of `tissues`, with up to 0.1 degrees of shear.
    n_seeds : int
        Number of seeds.
    mask : array_like of shape (X, Y, Z), optional
        If given, seeds are placed only in its voxels above 0.
    mask_affine : array_like of shape (4, 4), optional
        Voxel to mm, of `mask`. If None, it is on the grid of `tissues`.
    random_seed : int, optional
        Seed of the random numbers: the same value gives the same seeds.

    Returns
    -------
    seeds_mm : ndarray of shape (n_seeds, 3)

    Raises
    ------
    ValueError
        If an argument is invalid, or no interface is found.

    Notes
    -----
    All partial volumes are interpolated (trilinear). The interface is where those of
    grey and white matter are equal, neither is below that of cerebrospinal fluid, and
    the three add up to at least 0.5. Sub-cortical grey matter is part of grey matter,
    as for MRtrix3's ``5tt2gmwmi`` and ``-seed_gmwmi``: fibres also end in the thalamus,
    and images of three tissues do not distinguish the two. A seed is on the white
    matter side, about a millionth of a voxel from the interface.

    Seeds are distributed uniformly over the area of the interface. Line segments of
    random position and random direction are drawn, whose length is the shortest side of
    a voxel. Each crossing of a segment with the interface is a seed. The expected
    number of such segments that cross a piece of a surface depends only on its area,
    not on its position or orientation [1]_. The crossing on a segment is found by
    bisection. Within one voxel of the border of the image there are fewer seeds,
    because no segment starts outside of the image.

    References
    ----------
    .. [1] Santalo LA. Integral geometry and geometric probability. Addison-Wesley,
       1976, chapter 14.

    Examples
    --------
    >>> from dipy_rnn.stopping import Tissues
    >>> wm = np.zeros((6, 5, 5))
    >>> wm[:3] = 1
    >>> tissues = Tissues(wm, 1 - wm, 0 * wm)
    >>> seeds_mm = interface_seeds(tissues, np.diag([2.0, 2, 2, 1]), 100)
    >>> print(seeds_mm.shape, np.abs(seeds_mm[:, 0] - 5).max() < 1e-5)
    (100, 3) True
    """
    affine = spatial.check_affine(affine)
    n_seeds = _checks.check_count(n_seeds, "n_seeds", 1)
    random_seed = _checks.check_count(random_seed, "random_seed")
    shape = tissues.wm.shape
    where, region = np.ones(shape, dtype=bool), None
    if mask is not None:
        where = _checks.check_numbers(mask, "mask") > 0
        if mask_affine is None and where.shape != shape:
            raise ValueError(
                f"mask has the shape {where.shape} and the tissues {shape}; give "
                "mask_affine for a mask on another grid."
            )
        own = spatial.check_affine(affine if mask_affine is None else mask_affine)
        if where.shape != shape or not spatial.is_same_grid(affine, own):
            region = MaskRegion(where, own)
            where = _touched_voxels(where, own, shape, affine)
    maps = np.stack([tissues.wm, tissues.gm, tissues.csf], axis=-1)
    starts = _voxels_near_interface(tissues, where)
    length_mm = spatial.voxel_sizes(affine).min()
    rng = np.random.default_rng(random_seed)
    found: list[FloatArray] = []
    n_found = 0
    while n_found < n_seeds:
        if not len(starts) or (not n_found and len(found) == _MAX_EMPTY_BATCHES):
            raise ValueError(
                "no interface of grey and white matter was found"
                f"{'' if mask is None else ' inside the mask'}; look at the tissue "
                "maps, and check their order."
            )
        one, other = _random_segments(starts, length_mm, affine, rng)
        crossings = _crossings(maps, one, other)
        crossings = crossings[where[*np.floor(crossings + 0.5).astype(int).T]]
        if region is not None:
            crossings = crossings[region.contains(spatial.to_mm(crossings, affine))]
        found.append(crossings)
        n_found += len(crossings)
    return spatial.to_mm(np.concatenate(found)[:n_seeds], affine)


def _touched_voxels(
    mask: BoolArray, mask_affine: FloatArray, shape: tuple[int, ...], affine: FloatArray
) -> BoolArray:
    """Return which voxels of a grid may overlap with voxels of a mask on another one.

    Each voxel of the mask is replaced by the box around it along the axes of the grid.
    """
    to_grid = np.linalg.inv(affine) @ mask_affine
    centres = spatial.map_points(np.argwhere(mask).astype(float), to_grid)
    half = np.abs(to_grid[:3, :3]).sum(axis=1) / 2
    first = np.floor(centres - half + 0.5).astype(int)
    touched = np.zeros(shape, dtype=bool)
    for offset in np.ndindex(*np.ceil(2 * half).astype(int) + 1):
        voxels = first + offset
        inside = ((voxels >= 0) & (voxels < shape)).all(axis=1)
        touched[*voxels[inside].T] = True
    return touched


def _voxels_near_interface(tissues: Tissues, where: BoolArray) -> NDArray[np.intp]:
    """Return the voxels (N, 3) in which segments that cross the interface may start."""
    from scipy.ndimage import binary_dilation, maximum_filter, minimum_filter

    more_grey = tissues.gm - tissues.wm
    near = where & (minimum_filter(more_grey, 3, mode="nearest") < 0)
    near &= maximum_filter(more_grey, 3, mode="nearest") > 0
    # A segment is no longer than a voxel. So it starts in the voxel in which it crosses
    # the interface, or in a neighbour of it.
    return np.argwhere(binary_dilation(near, _NEIGHBOURHOOD))


def _random_segments(
    starts: NDArray[np.intp],
    length_mm: float,
    affine: FloatArray,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """Draw segments of random direction; return their two ends in voxels (N, 3)."""
    voxels = starts[rng.integers(len(starts), size=_SEGMENTS_PER_BATCH)]
    one = voxels + rng.uniform(-0.5, 0.5, voxels.shape)
    segments_mm = rng.standard_normal(one.shape)
    segments_mm *= length_mm / np.linalg.norm(segments_mm, axis=1, keepdims=True)
    other = spatial.to_voxels(spatial.to_mm(one, affine) + segments_mm, affine)
    return one, other


def _crossings(maps: Float32Array, one: FloatArray, other: FloatArray) -> FloatArray:
    """Return where segments cross the interface, on its white matter side (voxels)."""
    excess, other_excess = _white_excess(maps, one), _white_excess(maps, other)
    forth = (excess > _WHITE_MARGIN) & (other_excess < 0)
    back = (excess < 0) & (other_excess > _WHITE_MARGIN)
    white = np.concatenate([one[forth], other[back]])
    rest = np.concatenate([other[forth], one[back]])
    for _ in range(_N_BISECTIONS):
        middle = (white + rest) / 2
        is_white = _white_excess(maps, middle) > _WHITE_MARGIN
        white[is_white], rest[~is_white] = middle[is_white], middle[~is_white]
    wm, gm, csf = sampling.sample(maps, white)[0].T
    crossings: FloatArray = white[(csf <= gm) & (wm + gm + csf >= _MIN_TISSUE)]
    return crossings


def _white_excess(maps: Float32Array, points_vox: FloatArray) -> Float32Array:
    """Return white matter minus grey matter at points; 0 outside the image."""
    wm, gm, _ = sampling.sample(maps, points_vox)[0].T
    excess: Float32Array = wm - gm
    return excess
