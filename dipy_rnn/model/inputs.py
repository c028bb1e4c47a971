"""Declared inputs: what a network gets in addition to features and directions."""

from collections.abc import Mapping, Sequence

import numpy as np

from dipy_rnn._typing import AnyArray, Float32Array
from dipy_rnn.model.metadata import INPUT_SIZES


def stack_inputs(
    names: Sequence[str], values: Mapping[str, float | AnyArray], n: int
) -> Float32Array:
    """Stack the declared inputs of n streamlines in the order of a model's metadata.

    Parameters
    ----------
    names : sequence of str
        ``inputs`` of the metadata.
    values : mapping of str to float or ndarray of shape (n, K)
        A number is the same for all streamlines. Others than ``names`` are not used.
    n : int

    Returns
    -------
    inputs : ndarray of shape (n, W)
        float32. W is the sum of the sizes of ``names``
        (:data:`dipy_rnn.model.metadata.INPUT_SIZES`).

    Examples
    --------
    >>> stack_inputs(("step_mm", "ahead"), {"step_mm": 0.5, "ahead": np.eye(3)}, 3)[0]
    array([0.5, 1. , 0. , 0. ], dtype=float32)
    """
    inputs = np.empty((n, sum(INPUT_SIZES[name] for name in names)), np.float32)
    column = 0
    for name in names:
        inputs[:, column : column + INPUT_SIZES[name]] = values[name]
        column += INPUT_SIZES[name]
    return inputs
