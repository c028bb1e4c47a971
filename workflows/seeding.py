"""Where the commands start tracking: what their options of seeds mean."""

from dataclasses import dataclass

import numpy as np

# Seeds are drawn so many at a time until enough streamlines are selected; and for each
# that is asked for at most so many, if nobody says how many.
_DRAW = 10_000
_SEEDS_FOR_EACH = 100

# DIPY draws with random_seed + an integer for each voxel and repetition: this far
# apart, two draws have no number in common.
_NEXT_SEED = 1_000_003


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
        0 for seeds that vary.

    Raises
    ------
    ValueError
        If one is out of range, or two do not go together.

    Examples
    --------
    >>> mask = np.zeros((3, 3, 3))
    >>> mask[1, 1, 1] = 1
    >>> [seeds.tolist() for seeds in Seeding().place(mask, np.eye(4), "mask.nii.gz")]
    [[[1.0, 1.0, 1.0]]]
    """

    seed_density: int = 1
    seed_count: int = 0
    seeds_per_voxel: int = 0
    seeds_per_mm3: float = 0.0
    seed_at_interface: bool = False
    select: int = 0
    random_seed: int = 1

    def __post_init__(self):
        for name, least in (
            ("seed_density", 1),
            ("seed_count", 0),
            ("seeds_per_voxel", 0),
            ("seeds_per_mm3", 0),
            ("select", 0),
            ("random_seed", 0),
        ):
            value = getattr(self, name)
            if not least <= value < np.inf:
                raise ValueError(f"{name} is {value}; {least} or more is needed.")
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

    def _given(self, *names):
        return [name for name in names if getattr(self, name)]

    def place(self, seeding, affine, path, tissues=None):
        """Place seeds.

        Parameters
        ----------
        seeding : ndarray of shape (X, Y, Z) or (N, 3)
            A mask, or seeds in mm.
        affine : ndarray of shape (4, 4)
            Voxel to mm.
        path : str or Path
            Of the mask or the seeds, for errors.
        tissues : dipy_rnn.anatomy.Tissues, optional
            For seeds on the interface.

        Returns
        -------
        batches : iterator of ndarray of shape (N, 3)
            Seeds in mm: all in one batch, or with ``select`` batches until no more
            are allowed. The first is placed before this returns.

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
            return iter([seeding])
        if not np.isfinite(seeding).all():
            raise ValueError(
                f"{path} holds NaN or infinity; a mask of 0 and 1 is needed."
            )
        mask = seeding > 0
        if not mask.any():
            raise ValueError(f"{path} is an empty seed mask; it needs voxels above 0.")
        batches = self._batches(mask, affine, tissues)
        first = next(batches)
        if not len(first):
            raise ValueError(
                f"seeds_per_mm3 is {self.seeds_per_mm3}, which makes no seed in {path}."
            )
        return _chain(first, batches)

    def _batches(self, mask, affine, tissues):
        from dipy.tracking.utils import random_seeds_from_mask, seeds_from_mask

        from dipy_rnn.anatomy import interface_seeds

        def draw(n, random_seed):
            if self.seed_at_interface:
                return interface_seeds(
                    tissues, affine, n, mask=mask, random_seed=random_seed
                )
            return random_seeds_from_mask(
                mask,
                affine,
                seeds_count=n,
                seed_count_per_voxel=False,
                random_seed=random_seed or None,
            )

        n_voxels = int(mask.sum())
        volume_mm3 = n_voxels * abs(np.linalg.det(affine[:3, :3]))
        n_seeds = (
            self.seed_count
            or self.seeds_per_voxel * n_voxels
            or round(self.seeds_per_mm3 * volume_mm3)
        )
        if self.select:
            left = n_seeds or _SEEDS_FOR_EACH * self.select
            random_seed = self.random_seed
            while left:
                n = min(left, _DRAW)
                yield draw(n, random_seed)
                left -= n
                random_seed += _NEXT_SEED if random_seed else 0
        elif self.seeds_per_voxel:
            yield random_seeds_from_mask(
                mask,
                affine,
                seeds_count=self.seeds_per_voxel,
                seed_count_per_voxel=True,
                random_seed=self.random_seed or None,
            )
        elif self.seed_count:
            yield draw(self.seed_count, self.random_seed)
        elif self.seeds_per_mm3:
            yield draw(n_seeds, self.random_seed) if n_seeds else np.empty((0, 3))
        else:
            yield seeds_from_mask(mask, affine, density=self.seed_density)


def _chain(first, others):
    yield first
    yield from others
