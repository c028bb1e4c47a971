from typing_extensions import Buffer

from dipy_rnn._typing import Float32Array, IntArray, KeyArray

def hash_rows(random_seed: int, rows: KeyArray, keys: KeyArray) -> None: ...

# Keys and numbers may be the views of SlotArrays.
def add_errors(
    answers: Float32Array,
    column: int,
    scale: float,
    keys: KeyArray | Buffer,
    numbers: IntArray | Buffer,
    step: float,
) -> None: ...
