"""The batched engine: many streamlines advance together, each in its own slot.

``reference.py`` shows what happens to one streamline. Here groups of slots do the same
for many streamlines. A streamline depends only on its seed, its first direction, the
data, the model and the settings. It does not depend on the other slots, or on their
number. (The exception is a stopping criterion with its own random generator, such as
DIPY's CMC.)

On the CPU each thread has its own group of slots, and all groups take seeds from one
queue. :func:`run` is a generator: it tracks when the caller asks for the next block of
streamlines. Several threads track up to one block ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain
import os
from typing import Protocol, TypeAlias

import numpy as np

from dipy_rnn import stopping
from dipy_rnn._threads import torch_threads
from dipy_rnn.stopping import StoppingCriterion
from dipy_rnn.tracking.config import TrackingConfig
from dipy_rnn.tracking.predictor import Predictor
from dipy_rnn.tracking.records import FinishedStreamlines
from dipy_rnn.tracking.seed_queue import SeedQueue
from dipy_rnn.tracking.slots.compiled import CompiledSlots

# Number of steps after which finished streamlines are returned to the caller.
_STEPS = 64

_AdvanceAll: TypeAlias = Callable[["list[Slots]"], Iterable[list[FinishedStreamlines]]]

# Default number of streamlines that advance together. It is so large that on the CPU
# the time of Python code in a step is negligible, and that on a GPU all cores are used.
_BATCH_SIZE = {"cpu": 2048, "cuda": 65536}


class Slots(Protocol):
    """A group of slots, on any device. A slot holds one streamline or is idle."""

    @property
    def busy(self) -> bool:
        """Whether any slot holds a streamline."""

    @property
    def first_start(self) -> int:
        """The smallest index of the starts in the slots. Not called if none is busy."""

    def advance(self, n_steps: int) -> list[FinishedStreamlines]:
        """Advance all slots by up to ``n_steps``, and return finished streamlines."""


def run(
    predictor: Predictor,
    criterion: StoppingCriterion,
    queue: SeedQueue,
    config: TrackingConfig,
    *,
    n_slots: int = 0,
    nbr_threads: int = 1,
) -> Iterator[FinishedStreamlines]:
    """Track all starts of a queue.

    Parameters
    ----------
    predictor : dipy_rnn.tracking.predictor.Predictor
    criterion : dipy_rnn.stopping.StoppingCriterion
    queue : SeedQueue
    config : TrackingConfig
    n_slots : int, optional
        Total number of slots. If 0, 2048 on the CPU and 65536 on a GPU.
    nbr_threads : int, optional
        1 or more. Only one is used on a GPU, and for a criterion for which
        :func:`dipy_rnn.stopping.is_stateless` is False.

    Yields
    ------
    block : FinishedStreamlines
        One or more streamlines. They, and the blocks, are in the order of the starts:
        by seed, then by first direction. Skipped starts have none. ``index`` is that
        of the seed.

    Raises
    ------
    RuntimeError
        If several threads track, and the process is forked before the last block.
    """
    groups = _groups(predictor, criterion, queue, config, n_slots, nbr_threads)
    finished: list[FinishedStreamlines] = []
    begin = 0  # all starts below it are handed over
    process = os.getpid()
    with ExitStack() as stack:
        advance_all: _AdvanceAll = partial(map, _advance)
        has_threads = len(groups) > 1
        if has_threads:
            pool = stack.enter_context(ThreadPoolExecutor(len(groups)))
            advance_all = partial(pool.map, _advance)
            if predictor.model.compiled is None:
                advance_all = partial(_when_asked, advance_all)
        parts = advance_all(groups)
        while groups:
            if has_threads and os.getpid() != process:
                raise RuntimeError(
                    "This process was forked while streamlines were tracked, and the "
                    "threads that track them did not survive; start tracking in this "
                    "process, or track with nbr_threads=1."
                )
            with torch_threads(1):  # each thread of the engine calls torch
                finished += chain.from_iterable(parts)
            groups = [slots for slots in groups if slots.busy]
            # All starts below this one are finished, or were skipped.
            due = min([queue.first_left, *(slots.first_start for slots in groups)])
            # Threads that run kernels track on while the caller uses what is ready.
            parts = advance_all(groups)
            ready, finished = _divide(finished, begin, due)
            begin = due
            if len(ready.index):
                yield replace(ready, index=ready.index // queue.max_peaks)


def _advance(slots: Slots) -> list[FinishedStreamlines]:
    """Advance a group of slots."""
    return slots.advance(_STEPS)


def _when_asked(
    advance_all: _AdvanceAll, groups: list[Slots]
) -> Iterator[list[FinishedStreamlines]]:
    """Advance groups when the first result is asked for, not before.

    The number of torch's threads is that of the engine only while it waits for results.
    """
    yield from advance_all(groups)


def _divide(
    blocks: list[FinishedStreamlines], begin: int, due: int
) -> tuple[FinishedStreamlines, list[FinishedStreamlines]]:
    """Return the streamlines of starts from ``begin`` to ``due``, in order.

    Also return the blocks that hold others. They are not copied.
    """
    index = np.concatenate([np.empty(0, np.int64), *(each.index for each in blocks)])
    rows = np.flatnonzero((index >= begin) & (index < due))
    ready = FinishedStreamlines.joined(blocks, rows[np.argsort(index[rows])])
    return ready, [each for each in blocks if each.index.max() >= due]


def _groups(
    predictor: Predictor,
    criterion: StoppingCriterion,
    queue: SeedQueue,
    config: TrackingConfig,
    n_slots: int,
    nbr_threads: int,
) -> list[Slots]:
    """Make the groups of slots: one for each thread, or one on the device."""
    device = predictor.model.device.partition(":")[0]  # without the number
    if device != "cpu" or not stopping.is_stateless(criterion):
        nbr_threads = 1
    n_slots = max(1, min(n_slots or _BATCH_SIZE[device], len(queue)))
    n_groups = min(nbr_threads, n_slots)
    kind: Callable[..., Slots] = CompiledSlots
    if device != "cpu":
        from dipy_rnn.tracking.slots.device import TorchSlots as kind
    return [
        kind(predictor, criterion, queue, config, n_slots=-(-n_slots // n_groups))
        for _ in range(n_groups)
    ]
