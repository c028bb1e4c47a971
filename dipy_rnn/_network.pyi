from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer, disjoint_base

from dipy_rnn._interp import _Doubles, _Floats, _Turns
from dipy_rnn.model import Compasses

@disjoint_base
class CompiledPropagator:
    @property
    def depth(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    def __new__(
        cls,
        weights: Mapping[str, _Floats],
        compasses: Compasses,
        depth: int,
        layers: int,
        hidden: int,
    ) -> CompiledPropagator: ...
    def init_state(self, n: int) -> _Floats: ...
    # Points and frames may be the views of SlotArrays.
    def turn(
        self,
        volume: _Floats,
        volume_order: int,
        turns: _Turns,
        points: _Doubles | Buffer,
        frames: _Doubles | Buffer,
        handedness: float,
        state: _Floats,
        directions: _Floats,
        found: npt.NDArray[np.uint8],
    ) -> None: ...
