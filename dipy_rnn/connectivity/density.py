"""Density maps: how many streamlines visit each voxel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from dipy_rnn._typing import FloatArray, IntArray
from dipy_rnn.evaluation import visits

if TYPE_CHECKING:
    from dipy_rnn.io import Batch


class DensityMap:
    """Counts the streamlines in each voxel, while they pass by.

    It keeps the counts only.

    Parameters
    ----------
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    shape : tuple of 3 ints
        Number of voxels along each axis.

    Attributes
    ----------
    counts : ndarray of shape (X, Y, Z), int
        Number of streamlines with a point in the voxel. Each counts once.

    Examples
    --------
    >>> density = DensityMap(np.eye(4), (3, 1, 1))
    >>> points_mm = np.array([[0.0, 0, 0], [0.4, 0, 0], [1, 0, 0], [0, 0, 0]])
    >>> passed = list(density.count([(points_mm, np.array([3, 1]), {})]))
    >>> density.counts.ravel().tolist(), len(passed)
    ([2, 1, 0], 1)
    """

    def __init__(self, affine: FloatArray, shape: tuple[int, int, int]) -> None:
        self.affine = affine
        self.counts: IntArray = np.zeros(shape, dtype=np.int32)

    def count(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches of streamlines unchanged, and count them.

        Parameters
        ----------
        batches : iterable of dipy_rnn.io.Batch

        Yields
        ------
        batch : dipy_rnn.io.Batch
        """
        for batch in batches:
            points_mm, lengths, _ = batch
            lines = np.split(points_mm, np.cumsum(lengths)[:-1])
            self.counts += visits(lines, self.affine, self.counts.shape)
            yield batch
