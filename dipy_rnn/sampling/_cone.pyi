from typing_extensions import disjoint_base

from dipy_rnn.sampling.cone import Cone

@disjoint_base
class CompiledCone:
    def __new__(cls, cone: Cone, n_coeffs: int) -> CompiledCone: ...
