from typing_extensions import disjoint_base

from dipy_rnn.sampling import Cone

@disjoint_base
class CompiledRun:
    def __new__(
        cls,
        cone: Cone,
        n_coeffs: int,
        step_vox: float,
        max_angle_deg: float,
        pmf_threshold: float,
        edge_vox: tuple[float, ...],
    ) -> CompiledRun: ...
