from dipy_rnn._typing import ByteArray, FloatArray, IntArray, KeyArray

def check_threshold(
    metric_map: FloatArray, threshold: float, points: FloatArray, reasons: IntArray
) -> None: ...
def check_binary(mask: ByteArray, points: FloatArray, reasons: IntArray) -> None: ...
def check_act(
    include_map: FloatArray,
    exclude_map: FloatArray,
    points: FloatArray,
    reasons: IntArray,
) -> None: ...
def check_cmc(
    include_map: FloatArray,
    exclude_map: FloatArray,
    exponent: float,
    points: FloatArray,
    reasons: IntArray,
    seed_keys: KeyArray,
    point_numbers: IntArray,
) -> None: ...
def has_known_methods(base: object, criteria: list[tuple[object, object]]) -> bool: ...
def check_dipy(criterion: object, points: FloatArray, reasons: IntArray) -> None: ...
