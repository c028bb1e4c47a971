"""Records of finished streamlines: of one, or of many in arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from dipy_rnn._typing import BoolArray, FloatArray, IntArray
from dipy_rnn.stopping import StopReason

_REASONS = tuple(StopReason)  # Lookup by value; avoids constructing the enum.
_IS_VALID_END = np.array([reason.is_valid_end for reason in StopReason])


@dataclass(frozen=True, eq=False)
class Streamline:
    """A tracked streamline, and why its two halves ended.

    Parameters
    ----------
    points_mm : ndarray of shape (M, 3)
        From the end of the backward half, through the seed, to the end of the forward
        half.
    seed_index : int
        Index of its seed among those that were given.
    seed_mm : ndarray of shape (3,)
    forward_stop, backward_stop : StopReason
        Why each half ended. If there is no backward half, both are equal.
    n_forward : int, optional
        Number of points of the forward half, the seed included.

    Examples
    --------
    >>> line = Streamline(np.zeros((1, 3)), 0, np.zeros(3), StopReason.ENDPOINT,
    ...                   StopReason.NOTHING_AHEAD)
    >>> line.has_valid_ends
    False
    """

    points_mm: FloatArray
    seed_index: int
    seed_mm: FloatArray
    forward_stop: StopReason
    backward_stop: StopReason
    n_forward: int = 1

    @property
    def has_valid_ends(self) -> bool:
        """Whether each half ended at a valid end of the criterion or left the image."""
        return self.forward_stop.is_valid_end and self.backward_stop.is_valid_end

    @property
    def forward_half(self) -> FloatArray:
        """Points from the seed to the forward end, the seed included."""
        return self.points_mm[len(self.points_mm) - self.n_forward :]

    @property
    def backward_half(self) -> FloatArray:
        """Points from the seed to the backward end, the seed included."""
        return self.points_mm[len(self.points_mm) - self.n_forward :: -1]


@dataclass(frozen=True, eq=False)
class FinishedStreamlines:
    """A block of finished streamlines, in arrays.

    Parameters
    ----------
    index : ndarray of shape (k,)
        In a group of slots, the indices of their starts
        (:class:`dipy_rnn.tracking.seed_queue.SeedQueue`). In the blocks that leave the
        engine, the indices of their seeds.
    n_points : ndarray of shape (k,)
        Numbers of points.
    n_forward : ndarray of shape (k,)
        Numbers of points of the forward halves, the seeds included.
    points_mm : ndarray of shape (sum of n_points, 3)
        All points, streamline by streamline, each from its backward end to its forward
        end.
    forward_stop, backward_stop : ndarray of shape (k,)
        Values of :class:`dipy_rnn.stopping.StopReason`.

    Examples
    --------
    >>> FinishedStreamlines.joined([]).points_mm.shape
    (0, 3)
    """

    index: IntArray
    n_points: IntArray
    n_forward: IntArray
    points_mm: FloatArray
    forward_stop: IntArray
    backward_stop: IntArray

    @classmethod
    def joined(
        cls, blocks: Iterable[FinishedStreamlines], rows: IntArray | None = None
    ) -> Self:
        """Join blocks into one, and copy all streamlines or some.

        Parameters
        ----------
        blocks : iterable of FinishedStreamlines
        rows : ndarray of shape (n,), optional
            Numbers of streamlines, counted over all blocks, in the order in which they
            are returned. If None, all.

        Returns
        -------
        joined : FinishedStreamlines
        """
        none = np.empty(0, np.int64)
        blocks = [cls(none, none, none, np.empty((0, 3)), none, none), *blocks]
        columns = {
            name: [getattr(block, name) for block in blocks]
            for name in cls.__dataclass_fields__
        }
        points_mm = columns.pop("points_mm")
        values = {name: np.concatenate(parts) for name, parts in columns.items()}
        if rows is not None:
            # The block of each streamline, and where its points are in the block.
            sizes = [len(block.index) for block in blocks]
            number = np.repeat(np.arange(len(blocks)), sizes)[rows]
            end = np.concatenate([np.cumsum(block.n_points) for block in blocks])[rows]
            values = {name: each[rows] for name, each in values.items()}
            begin = end - values["n_points"]
            parts = zip(number.tolist(), begin.tolist(), end.tolist(), strict=True)
            points_mm = [points_mm[0], *(points_mm[i][a:b] for i, a, b in parts)]
        return cls(points_mm=np.concatenate(points_mm), **values)

    @classmethod
    def of(cls, line: Streamline) -> Self:
        """Make a block of one streamline."""
        numbers = (
            line.seed_index,
            len(line.points_mm),
            line.n_forward,
            line.forward_stop,
            line.backward_stop,
        )
        index, n_points, n_forward, *stops = np.array(numbers)[:, None]
        return cls(index, n_points, n_forward, line.points_mm, *stops)

    def select(self, rows: IntArray) -> Self:
        """Return some streamlines.

        Parameters
        ----------
        rows : ndarray of shape (n,)
            Their numbers in the block, in the order in which they are returned.

        Returns
        -------
        selected : FinishedStreamlines
            A copy. The block itself if all of its streamlines are in their places.
        """
        if np.array_equal(rows, np.arange(len(self.index))):
            return self
        return type(self).joined([self], rows)

    @property
    def has_valid_ends(self) -> BoolArray:
        """As :attr:`Streamline.has_valid_ends`, of shape (k,)."""
        valid: BoolArray = (
            _IS_VALID_END[self.forward_stop] & _IS_VALID_END[self.backward_stop]
        )
        return valid

    def each(self) -> Iterator[FloatArray]:
        """Yield the points of each streamline, (M, 3).

        They are copies, as a view would keep the whole block in memory.
        """
        for view in self._views():
            yield view.copy()

    def _views(self) -> list[FloatArray]:
        """Return the points of each streamline, (M, 3), not copied."""
        ends = np.cumsum(self.n_points).tolist()
        return [self.points_mm[begin:end] for begin, end in zip([0, *ends], ends)]

    def split(self, seeds_mm: FloatArray) -> Iterator[Streamline]:
        """Yield each streamline as a record of its own.

        Parameters
        ----------
        seeds_mm : ndarray of shape (N, 3)
            All seeds of the run. The block has left the engine.

        Yields
        ------
        streamline : Streamline
        """
        for points_mm, index, n_forward, forward_stop, backward_stop in zip(
            self.each(),
            self.index.tolist(),
            self.n_forward.tolist(),
            self.forward_stop.tolist(),
            self.backward_stop.tolist(),
        ):
            yield Streamline(
                points_mm,
                index,
                seeds_mm[index],
                _REASONS[forward_stop],
                _REASONS[backward_stop],
                n_forward,
            )
