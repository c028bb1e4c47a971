"""Types of arrays for signatures. Docstrings give their shapes and units."""

from os import PathLike
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike as ArrayLike
from numpy.typing import NDArray

AnyArray: TypeAlias = NDArray[Any]
BoolArray: TypeAlias = NDArray[np.bool_]
IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float64]
Float32Array: TypeAlias = NDArray[np.float32]
Int32Array: TypeAlias = NDArray[np.int32]
ByteArray: TypeAlias = NDArray[np.uint8]
KeyArray: TypeAlias = NDArray[np.uint64]
AnyPath: TypeAlias = str | PathLike[str]
