from collections.abc import Mapping

from typing_extensions import Buffer, disjoint_base

from dipy_rnn._typing import AnyArray, ByteArray, Float32Array, FloatArray
from dipy_rnn.model.kernels._layers import CompiledRun
from dipy_rnn.sampling import Cone, Context

@disjoint_base
class CompiledContextGRU:
    def __new__(
        cls,
        # Raises ValueError if one is not float32.
        weights: Mapping[str, AnyArray],
        order: int,
        context: Context,
        constants: Mapping[str, float],
    ) -> CompiledContextGRU: ...
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
