from dipy_rnn._typing import Float32Array, FloatArray, Int32Array

def convert(
    rows: Float32Array | FloatArray,
    places: Int32Array,
    factors: Float32Array,
    out: Float32Array,
) -> tuple[int, int, bool]: ...
