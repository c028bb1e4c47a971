from typing_extensions import Buffer, disjoint_base

from dipy_rnn._typing import ByteArray, Float32Array, FloatArray
from dipy_rnn.sampling import Cone

@disjoint_base
class CompiledRun:
    def __new__(
        cls,
        volume: Float32Array,
        handedness: float,
        cone: Cone,
        step_vox: float,
        max_angle_deg: float,
        pmf_threshold: float,
        edge_vox: tuple[float, ...],
        context_order: int | None,
    ) -> CompiledRun: ...

@disjoint_base
class CompiledNetwork:
    def prepare(
        self,
        volume: Float32Array,
        handedness: float,
        cone: Cone,
        step_vox: float,
        max_angle_deg: float,
        pmf_threshold: float,
        edge_vox: tuple[float, ...],
    ) -> CompiledRun: ...
    def init_state(self, n: int) -> Float32Array: ...
    # Points and frames may be the views of SlotArrays.
    def next_directions(
        self,
        run: CompiledRun,
        points: FloatArray | Buffer,
        frames: FloatArray | Buffer,
        state: Float32Array,
        answers: Float32Array,
        status: ByteArray,
    ) -> None: ...
