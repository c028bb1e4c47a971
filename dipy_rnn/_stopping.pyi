import numpy as np
import numpy.typing as npt

_Indices = npt.NDArray[np.int64]
_Keys = npt.NDArray[np.uint64]
_Doubles = npt.NDArray[np.float64]

def check_threshold(
    metric_map: _Doubles, threshold: float, points: _Doubles, reasons: _Indices
) -> None: ...
def check_binary(
    mask: npt.NDArray[np.uint8], points: _Doubles, reasons: _Indices
) -> None: ...
def check_act(
    include_map: _Doubles, exclude_map: _Doubles, points: _Doubles, reasons: _Indices
) -> None: ...
def check_cmc(
    include_map: _Doubles,
    exclude_map: _Doubles,
    exponent: float,
    points: _Doubles,
    reasons: _Indices,
    seed_keys: _Keys,
    point_numbers: _Indices,
) -> None: ...
def hash_rows(random_seed: int, rows: _Keys, keys: _Keys) -> None: ...
