from collections.abc import Mapping

from typing_extensions import Buffer, disjoint_base

from dipy_rnn._typing import AnyArray, ByteArray, Float32Array, FloatArray
from dipy_rnn.interpolate import Turns
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
        # Refused where one is not float32.
        weights: Mapping[str, AnyArray],
        compasses: Compasses,
        depth: int,
        layers: int,
        hidden: int,
    ) -> CompiledPropagator: ...
    def init_state(self, n: int) -> Float32Array: ...
    # Points and frames may be the views of SlotArrays.
    def turn(
        self,
        volume: Float32Array,
        volume_order: int,
        turns: Turns,
        points: FloatArray | Buffer,
        frames: FloatArray | Buffer,
        handedness: float,
        state: Float32Array,
        directions: Float32Array,
        found: ByteArray,
    ) -> None: ...
