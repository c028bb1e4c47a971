"""Density maps: how many streamlines visit each voxel."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np

from dipy_rnn._typing import AnyArray, FloatArray, IntArray
from dipy_rnn.evaluation import visits

# Streamlines that are counted at a time.
_BLOCK = 1000

_Values = TypeVar("_Values")


class DensityMap:
    """Counts the streamlines in each voxel, while they pass by.

    It keeps the counts only, and up to 1000 streamlines.

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
    >>> line = np.array([[0.0, 0, 0], [0.4, 0, 0], [1, 0, 0]])
    >>> passed = list(density.count([(line, {}), (line[:2], {"a": 1})]))
    >>> density.counts.ravel().tolist(), passed[1][1]
    ([2, 1, 0], {'a': 1})
    """

    def __init__(self, affine: FloatArray, shape: tuple[int, int, int]) -> None:
        self.affine = affine
        self.counts: IntArray = np.zeros(shape, dtype=np.int32)

    def count(
        self, lines: Iterable[tuple[AnyArray, _Values]]
    ) -> Iterator[tuple[AnyArray, _Values]]:
        """Yield streamlines with their values unchanged, and count them.

        Parameters
        ----------
        lines : iterable of tuple of (ndarray of shape (M, 3), object)
            Points in mm.

        Yields
        ------
        line : tuple of (ndarray of shape (M, 3), object)
        """
        remaining = iter(lines)
        while block := list(islice(remaining, _BLOCK)):
            points = [line for line, _ in block]
            self.counts += visits(points, self.affine, self.counts.shape)
            yield from block
