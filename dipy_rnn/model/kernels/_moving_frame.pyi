from collections.abc import Mapping

from typing_extensions import disjoint_base

from dipy_rnn._typing import AnyArray
from dipy_rnn.model.architectures import FrameConstants
from dipy_rnn.model.kernels._layers import CompiledNetwork

@disjoint_base
class CompiledMovingFrameGRU(CompiledNetwork):
    @property
    def depth(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    def __new__(
        cls,
        # Raises ValueError if one is not float32.
        weights: Mapping[str, AnyArray],
        constants: FrameConstants,
        depth: int,
        layers: int,
        hidden: int,
    ) -> CompiledMovingFrameGRU: ...
