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

def judge_all(
    answers: Float32Array,
    frames: FloatArray,
    found: ByteArray,
    in_frame: bool,
    min_cosine: float,
    tangents: FloatArray,
    reasons: IntArray,
) -> None: ...

@disjoint_base
class SlotArrays:
    # Views of memory: numpy.asarray makes an array of one without a copy.
    position: Buffer
    frame: Buffer
    proposal: Buffer
    reasons: Buffer
    numbers: Buffer
    seed_keys: Buffer
    index: Buffer
    n_points: Buffer
    n_forward: Buffer
    replayed: Buffer
    forward_stop: Buffer
    phase: Buffer
    tangent: Buffer
    far_frame: Buffer
    points: Buffer
    def __init__(
        self,
        n_slots: int,
        step_vox: FloatArray,
        to_mm: FloatArray,
        max_points: int,
        max_half: int,
        replay_points: int,
        unidirectional: bool,
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
    def propose(
        self,
        answers: Float32Array,
        found: ByteArray,
        in_frame: bool,
        min_cosine: float,
    ) -> None: ...
    def settle(self, reset: IntArray, finished: IntArray) -> tuple[int, int]: ...
    def collect(
        self, rows: IntArray
    ) -> tuple[IntArray, IntArray, IntArray, FloatArray, IntArray, IntArray]: ...
