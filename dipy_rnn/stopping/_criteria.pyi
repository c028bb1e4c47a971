from typing_extensions import disjoint_base

from dipy_rnn._typing import ByteArray, FloatArray, IntArray, KeyArray

@disjoint_base
class Decision:
    def __call__(
        self,
        points: FloatArray,
        reasons: IntArray,
        seed_keys: KeyArray | None = None,
        point_numbers: IntArray | None = None,
    ) -> None: ...

@disjoint_base
class ThresholdDecision(Decision):
    def __new__(cls, metric_map: FloatArray, threshold: float) -> ThresholdDecision: ...

@disjoint_base
class BinaryDecision(Decision):
    def __new__(cls, mask: ByteArray) -> BinaryDecision: ...

@disjoint_base
class ActDecision(Decision):
    def __new__(
        cls, include_map: FloatArray, exclude_map: FloatArray, *parameters: float
    ) -> ActDecision: ...

@disjoint_base
class CmcDecision(ActDecision):
    def __new__(
        cls, include_map: FloatArray, exclude_map: FloatArray, exponent: float
    ) -> CmcDecision: ...

@disjoint_base
class DipyDecision(Decision):
    def __new__(cls, criterion: object) -> DipyDecision: ...

def has_known_methods(base: object, criteria: list[tuple[object, object]]) -> bool: ...
