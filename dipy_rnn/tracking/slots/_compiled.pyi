import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer, disjoint_base

from dipy_rnn._typing import (
    ByteArray,
    Float32Array,
    FloatArray,
    IntArray,
    KeyArray,
)
from dipy_rnn.tracking.config import TrackingConfig

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
    def number_points(self) -> None: ...
    def propose(
        self, answers: Float32Array, status: ByteArray, in_frame: bool
    ) -> None: ...
    def settle(self, reset: IntArray, finished: IntArray) -> tuple[int, int]: ...
    def collect(
        self, rows: IntArray
    ) -> tuple[IntArray, IntArray, IntArray, FloatArray, IntArray, IntArray]: ...
