"""The batched engine: many streamlines advance together, each in a slot of its own.

A slot has a position, a frame, a hidden state and the points so far, and runs through
three phases:

1. *forward* from the seed, with a fresh hidden state;
2. *replay*: the points of the forward half are shown to the network in reverse, back
   to the seed, which prepares the hidden state;
3. *backward* from the seed, free again.

Then it hands its streamline over and takes the next seed. What happens in a slot
depends on nothing but its seed, its first direction, the data and the model: not on
the other slots, nor on how many there are. (Unless the stopping criterion draws at
random from a generator of its own, as DIPY's CMC does.)

Each thread has a group of slots to itself, and all take from one queue of seeds.
Nothing is tracked while the caller holds a streamline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, NotRequired, Self, TypeAlias, TypedDict, Unpack

import numpy as np

from dipy_rnn import frames, spaces, stopping
from dipy_rnn._slots import SlotArrays
from dipy_rnn._typing import FloatArray, IntArray
from dipy_rnn.propagator import Propagator, torch_threads
from dipy_rnn.stopping import StoppingCriterion, StopReason

if TYPE_CHECKING:
    from dipy_rnn.device_slots import DeviceSlots

# Seeds whose first directions are found at a time, and steps between two looks at what
# is finished: enough that neither costs anything, few enough that memory stays small
# and that every thread finds something to do.
_SEEDS = 1024
_STEPS = 64

# Streamlines that advance together, if nobody says otherwise: on the CPU enough that
# what Python does in a step does not count, on a GPU enough to fill it.
_BATCH_SIZE = {"cpu": 2048, "cuda": 65536}

# Idle slots are dropped, once no seeds are left, when fewer than this share are busy.
_LEAST_BUSY = 0.9

_REASONS = tuple(StopReason)  # by value, and faster than StopReason(value)

#: What slots hand over, in the order of the fields of :class:`Finished`.
Collected: TypeAlias = tuple[
    IntArray, IntArray, IntArray, FloatArray, IntArray, IntArray
]

# Places, seeds in voxels, first frames.
_Seeds: TypeAlias = tuple[IntArray, FloatArray, FloatArray]
# points_mm, n_forward, forward_stop, backward_stop
_Streamline: TypeAlias = tuple[FloatArray, int, StopReason, StopReason]


class SeedQueue:
    """Seeds in their order, with first directions, for the slots that come free.

    Parameters
    ----------
    propagator : dipy_rnn.propagator.Propagator
    seeds : ndarray of shape (N, 3)
        float64, mm.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    directions : ndarray of shape (N, 3), optional
        First directions along the voxel axes; the propagator's if None. Seeds outside
        the image or with a direction of length zero are left out.
    n_ahead : int, optional
        For how many seeds first directions are found at a time.

    Examples
    --------
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.model_file import load_model
    >>> from dipy_rnn.propagator import Propagator
    >>> from dipy_rnn.sh import fodf_features
    >>> propagator = Propagator(
    ...     fodf_features(crossing_phantom(90).fodf()), load_model(), np.eye(3), 60, 1)
    >>> seeds = np.array([[-9.0, 0, 0], [11.5, 11.5, 5.5]])
    >>> queue = SeedQueue(propagator, seeds, np.eye(4))
    >>> index, seeds_vox, first_frames = queue.take(5)
    >>> index.tolist(), first_frames.shape, queue.left_out
    ([1], (1, 3, 3), {0})
    """

    def __init__(
        self,
        propagator: Propagator,
        seeds: FloatArray,
        affine: FloatArray,
        directions: FloatArray | None = None,
        *,
        n_ahead: int = _SEEDS,
    ) -> None:
        self._propagator = propagator
        self._seeds = seeds
        self._affine = affine
        self._directions = directions
        self._n_ahead = min(n_ahead, _SEEDS)
        self._lock = Lock()
        self._next = 0
        self._ready: _Seeds = (
            np.empty(0, np.int64),
            np.empty((0, 3)),
            np.empty((0, 3, 3)),
        )
        #: Places of seeds that were left out.
        self.left_out: set[int] = set()

    def __len__(self) -> int:
        """Tell how many are left at most."""
        return len(self._seeds) - self._next + len(self._ready[0])

    def take(self, n: int) -> _Seeds:
        """Take the next seeds; several threads may.

        Parameters
        ----------
        n : int

        Returns
        -------
        index : ndarray of shape (k,)
            Their places among the seeds; k is below n where no more are left.
        seeds_vox : ndarray of shape (k, 3)
        first_frames : ndarray of shape (k, 3, 3)
            Around their first directions.
        """
        while True:
            with self._lock:
                start = self._next
                index, seeds_vox, first_frames = self._ready
                if n <= len(index) or start == len(self._seeds):
                    self._ready = index[n:], seeds_vox[n:], first_frames[n:]
                    return index[:n], seeds_vox[:n], first_frames[:n]
                self._next = stop = min(start + self._n_ahead, len(self._seeds))
            # Each thread that finds too few prepares some, beside the others.
            prepared = self._prepare(start, stop)
            with self._lock:
                index, seeds_vox, first_frames = self._ready
                self._ready = (
                    np.concatenate([index, prepared[0]]),
                    np.concatenate([seeds_vox, prepared[1]]),
                    np.concatenate([first_frames, prepared[2]]),
                )

    def _prepare(self, start: int, stop: int) -> _Seeds:
        seeds_vox = spaces.to_voxels(self._seeds[start:stop], self._affine)
        propagator = self._propagator
        if self._directions is None:
            first = propagator.first_directions(seeds_vox, 1)[:, 0]
        else:
            first = self._directions[start:stop]
        length = np.linalg.norm(first, axis=1)
        limits = np.array(propagator.data.shape[:3]) - 0.5
        inside = ((seeds_vox >= -0.5) & (seeds_vox < limits)).all(axis=1)
        good = inside & (length > 0)
        self.left_out.update((start + np.flatnonzero(~good)).tolist())
        kept = np.flatnonzero(good)
        first_frames = frames.from_tangents(
            first[kept] / length[kept, None], propagator.axes
        )
        return start + kept, seeds_vox[kept], first_frames


@dataclass(frozen=True, eq=False)
class Finished:
    """Streamlines that slots hand over.

    Parameters
    ----------
    index : ndarray of shape (k,)
        Places of their seeds among those given.
    n_points : ndarray of shape (k,)
    n_forward : ndarray of shape (k,)
        Points of the forward half among them, the seed included.
    points_mm : ndarray of shape (sum of n_points, 3)
        One after the other, each from its backward end over the seed to its forward
        end.
    forward_stop, backward_stop : ndarray of shape (k,)
        Values of :class:`dipy_rnn.stopping.StopReason`.

    Examples
    --------
    >>> Finished.of([]).points_mm.shape
    (0, 3)
    """

    index: IntArray
    n_points: IntArray
    n_forward: IntArray
    points_mm: FloatArray
    forward_stop: IntArray
    backward_stop: IntArray

    @classmethod
    def of(cls, parts: Iterable[Collected]) -> Self:
        """Join parts."""
        whole = np.empty(0, np.int64)
        empty = whole, whole, whole, np.empty((0, 3)), whole, whole
        return cls(*map(np.concatenate, zip(empty, *parts)))


class Slots:
    """A group of slots, advanced by one thread.

    Parameters
    ----------
    propagator : dipy_rnn.propagator.Propagator
    criterion : dipy_rnn.stopping.StoppingCriterion
    queue : SeedQueue
    step_vox : ndarray of shape (3,)
        The step along each voxel axis, in voxels.
    to_mm : ndarray of shape (4, 4)
        Applied to the points that are handed over.
    max_points : int
        A streamline of more points is ended, and handed over one point longer.
    max_half : int
        2 or more: as many points may a half have, the seed included.
    n_slots : int
    unidirectional : bool, optional
        Leave the backward half out.
    random_seed : int, optional
        For criteria that draw at random by keys.
    """

    def __init__(
        self,
        propagator: Propagator,
        criterion: StoppingCriterion,
        queue: SeedQueue,
        *,
        step_vox: FloatArray,
        to_mm: FloatArray,
        max_points: int,
        max_half: int,
        n_slots: int,
        unidirectional: bool = False,
        random_seed: int = 0,
    ) -> None:
        replay_points = propagator.model.metadata.replay_points
        self._propagator = propagator
        self._criterion = criterion
        self._queue = queue
        self._random_seed = random_seed
        self._draws = getattr(criterion, "draws_at_random", False)
        self._arrays = SlotArrays(
            n_slots,
            np.ascontiguousarray(step_vox, dtype=np.float64),
            np.ascontiguousarray(to_mm, dtype=np.float64),
            max_points,
            max_half,
            max_half if replay_points is None else min(replay_points, max_half),
            unidirectional,
        )
        self._states = propagator.states(n_slots)
        self._reset = np.empty(n_slots, np.int64)
        self._finished = np.empty(n_slots, np.int64)
        self._refill(np.arange(n_slots, dtype=np.int64))

    @property
    def busy(self) -> bool:
        """Whether any streamline is on its way."""
        return len(self._arrays) > 0

    def advance(self, n_steps: int) -> Finished:
        """Advance all slots, and refill those that come free.

        Parameters
        ----------
        n_steps : int
            At most.

        Returns
        -------
        finished : Finished
        """
        parts: list[Collected] = []
        while self.busy and n_steps:
            parts += self._step()
            n_steps -= 1
        return Finished.of(parts)

    def _step(self) -> list[Collected]:
        arrays = self._arrays
        answers, found = self._states.answer(arrays.position, arrays.frame)
        arrays.propose(
            answers, found, self._propagator.in_frame, self._propagator.min_cosine
        )
        stopping.check_points(
            self._criterion,
            np.asarray(arrays.proposal),
            np.asarray(arrays.reasons),
            np.asarray(arrays.seed_keys) if self._draws else None,
            np.asarray(arrays.numbers) if self._draws else None,
        )
        n_reset, n_finished = arrays.settle(self._reset, self._finished)
        if n_reset:
            self._states.reset(self._reset[:n_reset])
        if not n_finished:
            return []
        rows = self._finished[:n_finished]
        parts = [arrays.collect(rows)]
        self._refill(rows)
        return parts

    def _refill(self, rows: IntArray) -> None:
        """Give the next seeds to free slots, and drop slots for which none is left."""
        index, seeds_vox, first_frames = self._queue.take(len(rows))
        n = len(index)
        if n:
            keys = np.zeros(n, np.uint64)
            if self._draws:
                keys = stopping.seed_keys(self._random_seed, seeds_vox)
            self._arrays.admit(rows[:n], index, seeds_vox, first_frames, keys)
        if n < len(rows):
            busy = self._arrays.busy()
            if len(busy) < _LEAST_BUSY * len(self._arrays):
                self._arrays.keep(busy)
                self._states.keep(busy)


class _Options(TypedDict):
    """Options of :func:`run`: the keywords of :class:`Slots` but for ``n_slots``."""

    step_vox: FloatArray
    to_mm: FloatArray
    max_points: int
    max_half: int
    unidirectional: NotRequired[bool]
    random_seed: NotRequired[int]


def run(
    propagator: Propagator,
    criterion: StoppingCriterion,
    queue: SeedQueue,
    *,
    n_slots: int,
    nbr_threads: int,
    **options: Unpack[_Options],
) -> Iterator[tuple[int, FloatArray, int, StopReason, StopReason]]:
    """Track all seeds of a queue.

    Parameters
    ----------
    propagator, criterion, queue
        See :class:`Slots`.
    n_slots : int
        In all groups together; 0 for what suits the device.
    nbr_threads : int
        1 or more.
    **options
        The others of :class:`Slots`.

    Yields
    ------
    seed_index : int
        Place among the seeds; streamlines come in their order.
    points_mm : ndarray of shape (M, 3)
        From the backward end over the seed to the forward end.
    n_forward : int
        Points of the forward half, the seed included.
    forward_stop, backward_stop : StopReason
    """
    kind: type[Slots] | type[DeviceSlots] = Slots
    if propagator.model.device.type != "cpu":
        from dipy_rnn.device_slots import DeviceSlots as kind

        nbr_threads = 1
    if not stopping.asks_in_any_order(criterion):
        nbr_threads = 1
    n_slots = n_slots or _BATCH_SIZE[propagator.model.device.type]
    n_slots = max(1, min(n_slots, len(queue)))
    n_threads = min(nbr_threads, n_slots)
    groups = [
        kind(propagator, criterion, queue, n_slots=-(-n_slots // n_threads), **options)
        for _ in range(n_threads)
    ]
    waiting: dict[int, _Streamline] = {}
    due = 0
    with ExitStack() as stack:
        advance_all: Callable[..., Iterator[Finished]] = map
        if n_threads > 1:
            advance_all = stack.enter_context(ThreadPoolExecutor(n_threads)).map
        while groups:
            with torch_threads(1):  # in each of ours
                for done in advance_all(lambda slots: slots.advance(_STEPS), groups):
                    waiting.update(_streamlines(done))
            groups = [slots for slots in groups if slots.busy]
            while due in waiting or due in queue.left_out:
                if due in waiting:
                    yield due, *waiting.pop(due)
                queue.left_out.discard(due)
                due += 1


def _streamlines(finished: Finished) -> Iterator[tuple[int, _Streamline]]:
    """Yield (index, (points_mm, n_forward, forward_stop, backward_stop))."""
    ends = np.cumsum(finished.n_points)
    for index, n_points, n_forward, end, forward_stop, backward_stop in zip(
        finished.index.tolist(),
        finished.n_points.tolist(),
        finished.n_forward.tolist(),
        ends.tolist(),
        finished.forward_stop.tolist(),
        finished.backward_stop.tolist(),
    ):
        yield (
            index,
            (
                # A copy: a view would hold on to all that ended with it.
                finished.points_mm[end - n_points : end].copy(),
                n_forward,
                _REASONS[forward_stop],
                _REASONS[backward_stop],
            ),
        )
