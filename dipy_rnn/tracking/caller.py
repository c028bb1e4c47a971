"""What LocalTracking knows but does not pass to a direction getter."""

from collections import Counter
import sys
from types import FrameType

from dipy_rnn import draws
from dipy_rnn._typing import FloatArray


def tracker_of_call() -> object:
    """Return the tracker that called the method which calls this function.

    DIPY does not pass the tracker as an argument. The call comes from compiled code,
    which has no stack frame in Python. The next frame below is therefore a method of
    the tracker, and its ``self`` is the tracker.
    """
    return sys._getframe(2).f_locals.get("self")


def seed_index_of_call() -> int | None:
    """Return the index of the seed that LocalTracking is at, from its loop over seeds.

    None if the tracker has no such loop.
    """
    frame: FrameType | None = sys._getframe(2)
    tracker = sys._getframe(2).f_locals.get("self")
    while frame is not None and frame.f_locals.get("self") is tracker:
        index = frame.f_locals.get("i")
        if isinstance(index, int):
            return index
        frame = frame.f_back
    return None


class SeedCounter:
    """Numbers equal seeds of a LocalTracking, as :func:`dipy_rnn.draws.count_equal`."""

    def __init__(self) -> None:
        self._tracker: object = None
        self._index = -1
        self._counts: Counter[int] = Counter()

    def number(self, seed: FloatArray, tracker: object, index: int | None) -> int:
        """Return the number of a seed. ``index`` is that among all seeds."""
        if index is None:
            return 0
        if tracker is not self._tracker or index < self._index:  # a new run
            self._tracker, self._index = tracker, -1
            self._counts.clear()
        (key,) = draws.seed_keys(0, seed[None]).tolist()
        if index != self._index:
            self._index = index
            self._counts[key] += 1
        return self._counts[key] - 1
