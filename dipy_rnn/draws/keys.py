"""Keys of seeds."""

import numpy as np

from dipy_rnn._checks import as_points, check_number, check_numbers
from dipy_rnn._typing import ArrayLike, IntArray, KeyArray
from dipy_rnn.draws import _draws

# Before hashing, coordinates of seeds are rounded to this many steps per voxel. It is
# fine enough to distinguish seeds, and coarse enough to remove rounding errors of the
# affine.
_STEPS_PER_VOXEL = 2.0**20


def seed_keys(
    random_seed: int, seeds_vox: ArrayLike, numbers: ArrayLike | None = None
) -> KeyArray:
    """Hash seeds into keys, on which all draws for their streamlines depend.

    Parameters
    ----------
    random_seed : int
        Any whole number. Different numbers give different keys.
    seeds_vox : array_like of shape (N, 3)
        In voxel coordinates. They are rounded to 2**-20 voxels, so that rounding errors
        have no effect.
    numbers : array_like of shape (N,), optional
        Numbers of the seeds among equal ones (:func:`count_equal`). Zeros if None.

    Returns
    -------
    keys : ndarray of shape (N,)
        uint64. They are the same on every machine.

    Raises
    ------
    ValueError
        If ``seeds_vox`` or ``numbers`` has another shape, or ``seeds_vox`` holds NaN,
        infinity or values beyond 1e6.
        Also if ``random_seed`` is not a whole number.

    Examples
    --------
    >>> keys = seed_keys(1, [[0.1, 2, 3], [0.1 + 1e-15, 2, 3], [0.2, 2, 3]])
    >>> len(set(keys.tolist()))
    2
    """
    shape = check_numbers(seeds_vox, "seeds_vox").shape
    if len(shape) != 2 or shape[1] != 3:
        raise ValueError(f"seeds_vox is of shape {shape}; give (N, 3).")
    seeds_vox = np.ascontiguousarray(as_points(seeds_vox, "seeds_vox"))
    number = check_number(random_seed, "random_seed")
    if not isinstance(number, int):
        raise ValueError(f"random_seed is {number}; a whole number is needed.")
    # Adding zero turns -0.0 into 0.0. The bits are hashed, and theirs differ.
    rounded = np.rint(seeds_vox * _STEPS_PER_VOXEL) + 0.0
    keys = np.empty(len(seeds_vox), dtype=np.uint64)
    _draws.hash_rows(number % 2**64, rounded.view(np.uint64), keys)
    if numbers is not None:
        numbers = np.asarray(numbers)
        if numbers.shape != keys.shape:
            raise ValueError(
                f"seed_numbers is of shape {numbers.shape}; give {keys.shape}."
            )
        numbers = numbers.astype(np.uint64)
        later = np.flatnonzero(numbers)
        rows = np.column_stack([keys[later], numbers[later]])
        again = np.empty(len(later), dtype=np.uint64)
        _draws.hash_rows(number % 2**64, rows, again)
        keys[later] = again
    return keys


def count_equal(seeds: ArrayLike) -> IntArray:
    """Number equal seeds: 0, 1, 2 .. in their order.

    Parameters
    ----------
    seeds : array_like of shape (N, 3)

    Returns
    -------
    numbers : ndarray of shape (N,)
        int64. 0 for a seed that is not equal to an earlier one. Seeds are equal if
        their coordinates are, apart from rounding errors (:func:`seed_keys`).

    Examples
    --------
    >>> count_equal([[1.0, 2, 3], [0, 0, 0], [1.0, 2, 3], [1.0, 2, 3]]).tolist()
    [0, 0, 1, 2]
    """
    keys = seed_keys(0, seeds)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    is_first = np.ones(len(keys), dtype=bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    places = np.arange(len(keys))
    numbers: IntArray = np.empty(len(keys), dtype=np.int64)
    numbers[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return numbers
