"""Connectomes: how many streamlines connect regions, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dipy_rnn._checks import check_least
from dipy_rnn._typing import AnyArray, ArrayLike, FloatArray, IntArray
from dipy_rnn.draws import seed_keys
from dipy_rnn.evaluation import connections, round_labels

# Limits of a 95 % interval.
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True, eq=False)
class Connectome:
    """The connections between regions.

    :func:`connectome` makes one. An interval has a lower and an upper limit.

    Parameters
    ----------
    regions : ndarray of shape (R,), int
        The labels of all regions of the image, in ascending order.
    pairs : ndarray of shape (E, 2), int
        The labels a < b of two regions that at least one streamline connects.
    counts, count_intervals : ndarray of shape (E,) and (E, 2)
        Number of streamlines, and its 95 % interval.
    lengths_mm, length_intervals : ndarray of shape (E,) and (E, 2)
        Mean length of these streamlines in mm, and its 95 % interval.
    n_seeds : int
        Number of seeds that were resampled.
    """

    regions: IntArray
    pairs: IntArray
    counts: IntArray
    count_intervals: FloatArray
    lengths_mm: FloatArray
    length_intervals: FloatArray
    n_seeds: int

    #: Columns of the table of :meth:`rows`.
    columns: ClassVar[tuple[str, ...]] = (
        *("region_1", "region_2"),
        *("streamlines", "streamlines_low", "streamlines_high"),
        *("length_mm", "length_mm_low", "length_mm_high"),
    )

    @property
    def matrix(self) -> IntArray:
        """The symmetric matrix (R, R) of counts, in the order of ``regions``."""
        n = len(self.regions)
        matrix: IntArray = np.zeros((n, n), dtype=int)
        a, b = np.searchsorted(self.regions, self.pairs).T
        matrix[a, b] = matrix[b, a] = self.counts
        return matrix

    def rows(self) -> list[dict[str, str | int]]:
        """Return a row of a table for each pair, those with most streamlines first."""
        order = np.lexsort((*self.pairs.T[::-1], -self.counts))
        return [
            dict(
                zip(
                    self.columns,
                    (
                        *self.pairs[i].tolist(),
                        int(self.counts[i]),
                        *(f"{limit:.1f}" for limit in self.count_intervals[i]),
                        f"{self.lengths_mm[i]:.2f}",
                        *(f"{limit:.2f}" for limit in self.length_intervals[i]),
                    ),
                )
            )
            for i in order
        ]


def connectome(
    streamlines: Sequence[AnyArray],
    affine: FloatArray,
    labels: AnyArray,
    *,
    seeds: ArrayLike | None = None,
    n_resamples: int = 1000,
    random_seed: int = 1,
) -> Connectome:
    """Count the streamlines between regions, and estimate the intervals of the counts.

    Parameters
    ----------
    streamlines : sequence of N ndarrays of shape (M, 3)
        In mm.
    affine : ndarray of shape (4, 4)
        Voxel to mm, of the labels.
    labels : ndarray of shape (X, Y, Z), int
        Regions have labels above 0.
    seeds : array_like of shape (N, 3), optional
        The seed of each streamline. Streamlines with equal seeds are resampled
        together. If None, each streamline has a seed of its own.
    n_resamples : int, optional
        Number of resamples: as many seeds as there are, drawn with replacement.
    random_seed : int, optional

    Returns
    -------
    connectome : Connectome

    Raises
    ------
    ValueError
        If labels is not a 3D image of whole numbers, if it has no region, or if the
        number of seeds differs from that of the streamlines.

    Notes
    -----
    An interval has the 2.5 and the 97.5 percentile of the resamples (the percentile
    bootstrap). It tells how much a count would differ with other seeds at random. It
    says nothing about the errors of tractography, which are the same in each resample.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> labels = np.array([7, 0, 9]).reshape(3, 1, 1)
    >>> found = connectome([line, line[::-1], line[:2]], np.eye(4), labels)
    >>> found.pairs.tolist(), found.counts.tolist(), found.lengths_mm.tolist()
    ([[7, 9]], [2], [2.0])
    >>> found.matrix.tolist(), found.count_intervals.tolist()
    ([[0, 2], [2, 0]], [[0.0, 3.0]])
    """
    check_least("n_resamples", n_resamples, 1)
    labels = round_labels(labels)
    regions, numbered = np.unique(labels, return_inverse=True)
    n_background = int((regions <= 0).sum())
    if n_background == len(regions):
        raise ValueError("The image of labels has no region: no value is above 0.")
    numbered = np.maximum(numbered.reshape(labels.shape) - n_background + 1, 0)
    regions = regions[n_background:]
    connected = connections(streamlines, affine, numbered).tocsc()
    edges = np.flatnonzero(np.diff(connected.indptr))
    connected = connected[:, edges].T.tocsr()
    lengths = np.array([_length_mm(line) for line in streamlines])
    of_seed = _number_seeds(seeds, len(streamlines))
    n_seeds = int(of_seed.max(initial=-1)) + 1

    rng = np.random.default_rng(random_seed)
    counts = np.zeros((n_resamples, len(edges)))
    sums = np.zeros((n_resamples, len(edges)))
    for row in range(n_resamples if n_seeds else 0):
        drawn = np.bincount(rng.integers(n_seeds, size=n_seeds), minlength=n_seeds)
        times = drawn[of_seed]
        counts[row] = connected @ times
        sums[row] = connected @ (times * lengths)
    with np.errstate(invalid="ignore"):  # a pair may be absent from a resample
        means = sums / counts
    total = connected.sum(axis=1)
    return Connectome(
        regions,
        regions[np.column_stack(np.divmod(edges, len(regions)))],
        total,
        np.percentile(counts, _PERCENTILES, axis=0).T,
        (connected @ lengths) / np.maximum(total, 1),
        np.nanpercentile(means, _PERCENTILES, axis=0).T,
        n_seeds,
    )


def _length_mm(line: AnyArray) -> float:
    return float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())


def _number_seeds(seeds: ArrayLike | None, n: int) -> IntArray:
    """Return the number of the seed of each streamline. Equal seeds have one number."""
    if seeds is None:
        return np.arange(n)
    seeds = np.asarray(seeds, dtype=float)
    if seeds.shape != (n, 3):
        raise ValueError(
            f"seeds is of shape {seeds.shape}; give {(n, 3)}, a seed for each of the "
            f"{n} streamlines."
        )
    numbers: IntArray = np.unique(seed_keys(0, seeds), return_inverse=True)[1]
    return numbers
