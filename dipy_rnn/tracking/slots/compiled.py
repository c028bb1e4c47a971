"""Slots on the CPU. Their steps are compiled (``_compiled.pyx``).

A slot holds one streamline: its frame, its hidden state and its points. When the
streamline is finished, the slot gets the next seed. Each group of slots has one thread.
"""

from __future__ import annotations

import numpy as np

from dipy_rnn import stopping
from dipy_rnn._typing import FloatArray, IntArray, KeyArray
from dipy_rnn.stopping import StoppingCriterion
from dipy_rnn.tracking.config import TrackingConfig
from dipy_rnn.tracking.predictor import Predictor
from dipy_rnn.tracking.records import FinishedStreamlines
from dipy_rnn.tracking.seed_queue import SeedQueue
from dipy_rnn.tracking.slots._compiled import SlotArrays

# Streamlines are handed over when so large a share of the slots is finished. Until then
# these slots are idle.
_MOST_FINISHED = 1 / 32

# When no seeds are left, idle slots are dropped if a smaller share than this is busy.
_LEAST_BUSY = 0.9


class CompiledSlots:
    """A group of slots on the CPU, advanced by one thread.

    Parameters
    ----------
    predictor : dipy_rnn.tracking.predictor.Predictor
    criterion : dipy_rnn.stopping.StoppingCriterion
    queue : SeedQueue
    config : TrackingConfig
    n_slots : int
        Number of slots: streamlines that advance together.

    Examples
    --------
    >>> from dipy_rnn import fodf_features
    >>> from dipy_rnn.model import load_model
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> phantom = crossing_phantom(90)
    >>> features = fodf_features(phantom.fodf())
    >>> predictor = Predictor(features, load_model(), np.eye(3), 1)
    >>> slots = CompiledSlots(
    ...     predictor,
    ...     stopping.BinaryStoppingCriterion(phantom.mask()),
    ...     SeedQueue(predictor, np.array([[11.5, 11.5, 5.5]]), np.eye(4)),
    ...     TrackingConfig.of(np.eye(4), step_size=1, max_angle=60, max_points=100),
    ...     n_slots=8)
    >>> while slots.busy:
    ...     for block in slots.advance(100):
    ...         print(block.index)
    [0]
    """

    def __init__(
        self,
        predictor: Predictor,
        criterion: StoppingCriterion,
        queue: SeedQueue,
        config: TrackingConfig,
        *,
        n_slots: int,
    ) -> None:
        self._predictor = predictor
        self._criterion = criterion
        self._decision = stopping.compiled_decision(criterion)
        self._queue = queue
        self._errors = predictor.errors(config)
        self._ends = predictor.ends(config)
        self._draws = getattr(criterion, "draws_at_random", False)
        self._arrays = SlotArrays(n_slots, config, predictor.has_cone)
        self._states = predictor.states(n_slots, config)
        self._finished = np.empty(n_slots, np.int64)
        self._refill(np.arange(n_slots, dtype=np.int64))

    @property
    def busy(self) -> bool:
        """Whether any slot holds a streamline."""
        return len(self._arrays) > 0

    @property
    def first_start(self) -> int:
        """The smallest index of the starts in the slots. Not called if none is busy."""
        return int(np.asarray(self._arrays.index)[self._arrays.busy()].min())

    def advance(self, n_steps: int) -> list[FinishedStreamlines]:
        """Advance all slots, and give new seeds to those that finish.

        Parameters
        ----------
        n_steps : int
            Largest number of steps. There are fewer if all slots become idle.

        Returns
        -------
        blocks : list of FinishedStreamlines
            Those that finished, in any order.
        """
        blocks: list[FinishedStreamlines] = []
        while self.busy and n_steps:
            n_slots = len(self._arrays)
            n_done, n_finished = self._arrays.advance(
                self._states,
                self._decision,
                self._evaluate,
                self._errors,
                self._ends,
                self._predictor.in_frame,
                n_steps,
                max(1, int(_MOST_FINISHED * n_slots)),
                self._finished,
            )
            n_steps -= n_done
            rows = self._finished[:n_finished]
            if n_finished:
                blocks.append(FinishedStreamlines(*self._arrays.collect(rows)))
                self._refill(rows)
        return blocks

    def _evaluate(
        self,
        points_vox: FloatArray,
        reasons: IntArray,
        seed_keys: KeyArray,
        point_numbers: IntArray,
    ) -> None:
        """Evaluate a criterion that is not a kernel."""
        draws = (seed_keys, point_numbers) if self._draws else ()
        stopping.evaluate_criterion(self._criterion, points_vox, reasons, *draws)

    def _refill(self, rows: IntArray) -> None:
        """Give the next seeds to free slots. If no seed is left, drop idle slots."""
        index, seeds_vox, first_frames, keys = self._queue.take(len(rows))
        n = len(index)
        if n:
            self._arrays.admit(rows[:n], index, seeds_vox, first_frames, keys)
        if n < len(rows):
            busy = self._arrays.busy()
            if len(busy) < _LEAST_BUSY * len(self._arrays):
                self._arrays.keep(busy)
                self._states.keep(busy)
