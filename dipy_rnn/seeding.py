"""Where the commands start tracking: what their options of seeds mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from dipy_rnn._typing import AnyArray, AnyPath, BoolArray, FloatArray
from dipy_rnn.io.images import check_least

if TYPE_CHECKING:
    from dipy_rnn.tissues import Tissues

# As many are drawn at a time; until enough streamlines are selected, fewer, and so many
# in all for each that is asked for, if nobody says how many.
_DRAW = 100_000
_DRAW_TO_SELECT = 10_000
_SEEDS_FOR_EACH = 100
_MOST_SEEDS = 10**9

# DIPY draws with random_seed + an integer for each voxel and repetition: this far
# apart, two draws have no number in common.
_NEXT_SEED = 1_000_003


def _drawn_seed() -> int:
    return int(np.random.default_rng().integers(1, 2**31))


@dataclass(frozen=True)
class Seeding:
    """The options of a command that say where to seed.

    Parameters
    ----------
    seed_density : int, optional
        Regular seeds per dimension inside a voxel, if none of the next three is given.
    seed_count : int, optional
        Random seeds in all.
    seeds_per_voxel : int, optional
        Random seeds in each voxel.
    seeds_per_mm3 : float, optional
        Random seeds in a cubic millimetre, on average.
    seed_at_interface : bool, optional
        Whether the seeds of ``seed_count`` are on the interface of grey and white
        matter.
    select : int, optional
        Draw seeds until this many streamlines are selected, 0 for all seeds.
    random_seed : int, optional
        0 for seeds that vary: from one object to another, not from one use to the next.

    Raises
    ------
    ValueError
        If one is out of range, or two do not go together.

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
    # In place of 0: the same for all processes that place parts of the seeds.
    _own_seed: int = field(
        default_factory=_drawn_seed, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for name, least in (
            ("seed_density", 1),
            ("seed_count", 0),
            ("seeds_per_voxel", 0),
            ("seeds_per_mm3", 0),
            ("select", 0),
            ("random_seed", 0),
        ):
            check_least(name, getattr(self, name), least)
        given = self._given("seed_count", "seeds_per_voxel", "seeds_per_mm3")
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)} are given; each says how many seeds there "
                "are: give one."
            )
        if self.seed_at_interface and given not in ([], ["seed_count"]):
            raise ValueError(
                f"seed_at_interface goes with seed_count, not with {given[0]}."
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
    ) -> tuple[int, Iterator[FloatArray]]:
        """Place seeds.

        Parameters
        ----------
        seeding : ndarray of shape (X, Y, Z) or (N, 3)
            A mask, or seeds in mm.
        affine : ndarray of shape (4, 4)
            Voxel to mm.
        path : str or Path
            Of the mask or the seeds, for errors.
        tissues : dipy_rnn.tissues.Tissues, optional
            For seeds on the interface.

        Returns
        -------
        n_seeds : int
            How many there are, with ``select`` at most.
        batches : iterator of ndarray of shape (N, 3)
            Seeds in mm, some at a time.

        Raises
        ------
        ValueError
            If there is no place for a seed, or a list of seeds is given along with
            options that place them.
        """
        if seeding.ndim == 2:
            if given := self._given(
                "seed_count", "seeds_per_voxel", "seeds_per_mm3", "seed_at_interface"
            ):
                raise ValueError(
                    f"{path} is a list of seeds, and {given[0]} would place others; "
                    "leave it out, or give a mask."
                )
            return len(seeding), iter([seeding])
        if not np.isfinite(seeding).all():
            raise ValueError(
                f"{path} holds NaN or infinity; a mask of 0 and 1 is needed."
            )
        mask = seeding > 0
        n_voxels = int(mask.sum())
        if not n_voxels:
            raise ValueError(f"{path} is an empty seed mask; it needs voxels above 0.")
        volume_mm3 = n_voxels * abs(np.linalg.det(affine[:3, :3]))
        n_random = (
            self.seed_count
            or self.seeds_per_voxel * n_voxels
            or round(self.seeds_per_mm3 * volume_mm3)
        )
        if self.seeds_per_mm3 and not n_random:
            raise ValueError(
                f"seeds_per_mm3 is {self.seeds_per_mm3}, which makes no seed in {path}."
            )
        if self.select:
            n_random = n_random or _SEEDS_FOR_EACH * self.select
        n_seeds = n_random or n_voxels * self.seed_density**3
        if n_seeds > _MOST_SEEDS:
            raise ValueError(
                f"there would be {n_seeds} seeds in {path}; {_MOST_SEEDS} are allowed."
            )
        if not n_random:
            from dipy.tracking.utils import seeds_from_mask

            seeds = seeds_from_mask(mask, affine, density=self.seed_density)
            return n_seeds, iter([seeds])
        draw: Callable[..., FloatArray]
        if self.seed_at_interface:
            from dipy_rnn.tissues import interface_seeds

            assert tissues is not None, "seeds on the interface need tissues"
            draw = partial(interface_seeds, tissues, affine, mask=mask)
        else:
            draw = partial(self._draw, mask, affine, n_voxels)
        batches = self._batches(n_random, n_voxels, draw)
        first = next(batches)  # what is wrong shows here
        return n_seeds, chain([first], batches)

    def _draw(
        self,
        mask: BoolArray,
        affine: FloatArray,
        n_voxels: int,
        n_seeds: int,
        random_seed: int,
    ) -> FloatArray:
        from dipy.tracking.utils import random_seeds_from_mask

        each = self.seeds_per_voxel > 0
        seeds_mm: FloatArray = random_seeds_from_mask(
            mask,
            affine,
            seeds_count=n_seeds // n_voxels if each else n_seeds,
            seed_count_per_voxel=each,
            random_seed=random_seed,
        )
        return seeds_mm

    def _batches(
        self, n_seeds: int, n_voxels: int, draw: Callable[..., FloatArray]
    ) -> Iterator[FloatArray]:
        """Draw some seeds at a time: DIPY needs half a kilobyte for each."""
        size = _DRAW_TO_SELECT if self.select else _DRAW
        if self.seeds_per_voxel:  # a seed in each voxel, or more
            size = max(size // n_voxels, 1) * n_voxels
        random_seed = self.random_seed or self._own_seed
        for start in range(0, n_seeds, size):
            yield draw(n_seeds=min(size, n_seeds - start), random_seed=random_seed)
            random_seed += _NEXT_SEED
