import numpy as np
import numpy.typing as npt

_Ints = npt.NDArray[np.int32]
_Floats = npt.NDArray[np.float32]
_Doubles = npt.NDArray[np.float64]
# dipy_rnn.interpolate.quarter_turns
_Turns = tuple[_Ints, _Ints, _Floats, _Ints, _Ints, _Floats]

def sample(
    volume: _Floats,
    points: _Doubles,
    frames: _Doubles,
    handedness: float,
    order: int,
    tables: _Turns,
    normalise: bool,
    out: _Floats,
    found: npt.NDArray[np.uint8],
    nbr_threads: int,
) -> None: ...
def rotate(
    coeffs: _Floats,
    frames: _Doubles,
    handedness: float,
    order: int,
    tables: _Turns,
    nbr_threads: int,
) -> None: ...
def local_maxima(
    coeffs: _Floats,
    harmonics: _Floats,
    neighbours: _Ints,
    least_share: float,
    found: _Ints,
    least: _Floats,
) -> None: ...
