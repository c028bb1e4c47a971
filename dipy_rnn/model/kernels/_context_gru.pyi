from collections.abc import Mapping

from typing_extensions import disjoint_base

from dipy_rnn._typing import AnyArray
from dipy_rnn.model.kernels._layers import CompiledNetwork
from dipy_rnn.sampling import Context

@disjoint_base
class CompiledContextGRU(CompiledNetwork):
    def __new__(
        cls,
        # Raises ValueError if one is not float32.
        weights: Mapping[str, AnyArray],
        order: int,
        context: Context | None,
        constants: Mapping[str, float],
    ) -> CompiledContextGRU: ...
