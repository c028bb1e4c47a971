from dipy_rnn._typing import Float32Array, FloatArray, Int32Array
from dipy_rnn.sampling.rotation import Turns

def local_maxima(
    coeffs: Float32Array,
    harmonics: Float32Array,
    neighbours: Int32Array,
    least_share: float,
    found: Int32Array,
    least: Float32Array,
) -> None: ...
def refine(
    coeffs: Float32Array,
    frames: FloatArray,
    handedness: float,
    order: int,
    tables: Turns,
    weights: FloatArray,
    n_steps: int,
    last_step: float,
    max_turn: float,
    values: FloatArray,
    nbr_threads: int,
) -> None: ...
