from typing_extensions import disjoint_base

from dipy_rnn._typing import Float32Array
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
