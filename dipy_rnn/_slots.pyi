import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer, disjoint_base

_Indices = npt.NDArray[np.int64]
_Keys = npt.NDArray[np.uint64]
_Floats = npt.NDArray[np.float32]
_Doubles = npt.NDArray[np.float64]

def judge_all(
    answers: _Floats,
    frames: _Doubles,
    found: npt.NDArray[np.uint8],
    in_frame: bool,
    min_cosine: float,
    tangents: _Doubles,
    reasons: _Indices,
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
        step_vox: _Doubles,
        to_mm: _Doubles,
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
        rows: _Indices,
        index: _Indices,
        seeds: _Doubles,
        frames: _Doubles,
        seed_keys: _Keys,
    ) -> None: ...
    def propose(
        self,
        answers: _Floats,
        found: npt.NDArray[np.uint8],
        in_frame: bool,
        min_cosine: float,
    ) -> None: ...
    def settle(self, reset: _Indices, finished: _Indices) -> tuple[int, int]: ...
    def collect(
        self, rows: _Indices
    ) -> tuple[_Indices, _Indices, _Indices, _Doubles, _Indices, _Indices]: ...
