from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer, disjoint_base

from dipy_rnn._typing import FloatArray, IntArray, KeyArray
from dipy_rnn.draws import DirectionErrors
from dipy_rnn.stopping import StopReason
from dipy_rnn.stopping._criteria import Decision
from dipy_rnn.tracking.config import TrackingConfig
from dipy_rnn.tracking.predictor import HiddenStates

@disjoint_base
class SlotArrays:
    # Memory views: numpy.asarray makes an array of one without a copy.
    position: Buffer
    frame: Buffer
    proposal: Buffer
    reasons: Buffer
    numbers: Buffer
    seed_keys: Buffer
    index: Buffer
    n_points: Buffer
    n_forward: Buffer
    warm_up_left: Buffer
    forward_stop: Buffer
    phase: Buffer
    tangent: Buffer
    far_frame: Buffer
    points: Buffer
    places: Buffer
    def __init__(
        self, n_slots: int, config: TrackingConfig, has_cone: bool
    ) -> None: ...
    def __len__(self) -> int: ...
    def busy(self) -> npt.NDArray[np.intp]: ...
    def keep(self, rows: npt.NDArray[np.intp]) -> None: ...
    def admit(
        self,
        rows: IntArray,
        index: IntArray,
        seeds: FloatArray,
        frames: FloatArray,
        seed_keys: KeyArray,
    ) -> None: ...
    def advance(
        self,
        states: HiddenStates,
        decision: Decision | None,
        evaluate: Callable[[FloatArray, IntArray, KeyArray, IntArray], None],
        errors: DirectionErrors | None,
        ends: list[tuple[int, float, StopReason]],
        in_frame: bool,
        n_steps: int,
        enough: int,
        finished: IntArray,
    ) -> tuple[int, int]: ...
    def collect(
        self, rows: IntArray
    ) -> tuple[IntArray, IntArray, IntArray, FloatArray, IntArray, IntArray]: ...
