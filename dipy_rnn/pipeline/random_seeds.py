"""Random seeds in a mask: the places of DIPY's function, computed for many at a time.

:func:`dipy.tracking.utils.random_seeds_from_mask` makes a random generator of NumPy for
each seed, which takes nearly all of its time. Here the first three numbers of these
generators are computed for all seeds together: their state from a SeedSequence [1]_,
and their numbers by PCG64 [2]_. NumPy does not change either of them [3]_.

References
----------
.. [1] O'Neill ME. Developing a seed_seq alternative. 2015.
   https://www.pcg-random.org/posts/developing-a-seed_seq-alternative.html
.. [2] O'Neill ME. PCG: a family of simple fast space-efficient statistically good
   algorithms for random number generation. Harvey Mudd College, 2014.
.. [3] https://numpy.org/doc/stable/reference/random/compatibility.html
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dipy_rnn._typing import BoolArray, FloatArray, IntArray

    _Words = NDArray[np.uint32]
    _Words64 = NDArray[np.uint64]

# Constants of SeedSequence, 32 bits.
_INIT_A, _MULTIPLIER_A = 0x43B0D7E5, 0x931E8875
_INIT_B, _MULTIPLIER_B = 0x8B51F9DD, 0x58F38DED
_MIX_LEFT, _MIX_RIGHT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)
_POOL_SIZE = 4
# The multiplier of PCG64 (128 bits): its upper and its lower half.
_UPPER, _LOWER = np.uint64(2549297995355413924), np.uint64(4865540595714422341)

_HALF, _BITS = np.uint64(32), np.uint64(2**32 - 1)


def random_seeds_from_mask(
    mask: BoolArray,
    affine: FloatArray,
    *,
    seeds_count: int,
    seed_count_per_voxel: bool,
    random_seed: int,
) -> FloatArray:
    """Place seeds at random in a mask, as DIPY's function of the same name.

    Parameters
    ----------
    mask : ndarray of shape (X, Y, Z)
        bool, with at least one voxel.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    seeds_count : int
        Number of seeds, in total or in each voxel.
    seed_count_per_voxel : bool
        Whether `seeds_count` is the number in each voxel.
    random_seed : int
        Seed of the random numbers, from 0 to 2**62.

    Returns
    -------
    seeds_mm : ndarray of shape (N, 3)
        Equal to those of DIPY's function, bit for bit.

    Examples
    --------
    >>> from dipy.tracking import utils
    >>> mask, options = np.ones((2, 2, 2), dtype=bool), {
    ...     "seeds_count": 20, "seed_count_per_voxel": False, "random_seed": 1}
    >>> seeds_mm = random_seeds_from_mask(mask, np.eye(4), **options)
    >>> theirs = utils.random_seeds_from_mask(mask, np.eye(4), **options)
    >>> seeds_mm.tobytes() == theirs.tobytes()
    True
    """
    order = np.arange(mask.size)
    np.random.default_rng(random_seed).shuffle(order)
    order = order[mask.ravel()[order]]
    voxels = np.stack(np.unravel_index(order, mask.shape), axis=1)
    n_seeds = seeds_count * (len(voxels) if seed_count_per_voxel else 1)
    turn, row = np.divmod(np.arange(n_seeds), len(voxels))
    voxels = voxels[row]
    numbers = (voxels.sum(axis=1) + 1) * (turn + 1) + random_seed
    numbers %= sys.hash_info.modulus  # Python's hash of an integer
    seeds: FloatArray = voxels + _first_three(numbers % (2**32 - 1))
    seeds -= 0.5
    if seeds.any():  # DIPY does not apply an affine to a single seed at (0, 0, 0)
        seeds = np.dot(seeds, affine[:3, :3].T)
        seeds += affine[:3, 3]
    return seeds


def _first_three(random_seeds: IntArray) -> FloatArray:
    """Return the first three numbers of default_rng for each seed below 2**32, (N, 3).

    Pairs of arrays are the upper and the lower 64 bits of numbers of 128 bits.
    """
    words = _seed_words(random_seeds.astype(np.uint32))
    start, increment = (words[0], words[1]), (words[2], words[3])
    one, top = np.uint64(1), np.uint64(63)
    increment = (increment[0] << one | increment[1] >> top, increment[1] << one | one)
    state = _next_state(_add(increment, start), increment)
    numbers = np.empty((len(random_seeds), 3))
    for k in range(3):
        state = _next_state(state, increment)
        mixed, turn = state[0] ^ state[1], state[0] >> np.uint64(58)
        turned = mixed >> turn | mixed << (-turn & top)
        numbers[:, k] = (turned >> np.uint64(11)) * 2.0**-53
    return numbers


def _seed_words(random_seeds: _Words) -> list[_Words64]:
    """Return SeedSequence(seed).generate_state(4, uint64) for each seed."""
    factor = _INIT_A

    def hashed(words: _Words) -> _Words:
        nonlocal factor
        words = words ^ np.uint32(factor)
        factor = factor * _MULTIPLIER_A % 2**32
        return _folded(words * np.uint32(factor))

    pool = [hashed(random_seeds)]
    pool += [hashed(np.zeros_like(random_seeds)) for _ in range(1, _POOL_SIZE)]
    for i in range(_POOL_SIZE):
        for k in range(_POOL_SIZE):
            if i != k:
                mixed = pool[k] * _MIX_LEFT - hashed(pool[i]) * _MIX_RIGHT
                pool[k] = _folded(mixed)
    factor, words = _INIT_B, []
    for i in range(2 * _POOL_SIZE):
        word = pool[i % _POOL_SIZE] ^ np.uint32(factor)
        factor = factor * _MULTIPLIER_B % 2**32
        words.append(_folded(word * np.uint32(factor)).astype(np.uint64))
    return [low | high << _HALF for low, high in zip(words[::2], words[1::2])]


def _folded(words: _Words) -> _Words:
    return words ^ words >> np.uint32(16)


def _next_state(
    state: tuple[_Words64, _Words64], increment: tuple[_Words64, _Words64]
) -> tuple[_Words64, _Words64]:
    """Multiply the states of PCG64 by its multiplier, and add the increments."""
    upper, lower = state
    product = upper * _LOWER + lower * _UPPER + _upper_half(lower), lower * _LOWER
    return _add(product, increment)


def _add(
    one: tuple[_Words64, _Words64], other: tuple[_Words64, _Words64]
) -> tuple[_Words64, _Words64]:
    lower = one[1] + other[1]
    carry = (lower < one[1]).astype(np.uint64)
    return one[0] + other[0] + carry, lower


def _upper_half(words: _Words64) -> _Words64:
    """Return the upper 64 bits of each word times the lower half of the multiplier."""
    high, low = words >> _HALF, words & _BITS
    of_high, of_low = _LOWER >> _HALF, _LOWER & _BITS
    middle = high * of_low + (low * of_low >> _HALF)
    rest = low * of_high + (middle & _BITS)
    upper: _Words64 = high * of_high + (middle >> _HALF) + (rest >> _HALF)
    return upper
