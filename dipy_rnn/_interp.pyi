from dipy_rnn._typing import ByteArray, Float32Array, FloatArray
from dipy_rnn.sampling.rotation import Turns

def sample(
    volume: Float32Array,
    points: FloatArray,
    frames: FloatArray,
    handedness: float,
    order: int,
    tables: Turns,
    normalise: bool,
    out: Float32Array,
    status: ByteArray,
    nbr_threads: int,
) -> None: ...
def rotate(
    coeffs: Float32Array,
    frames: FloatArray,
    handedness: float,
    order: int,
    tables: Turns,
    nbr_threads: int,
) -> None: ...
