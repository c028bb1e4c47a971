"""Draws: keys of seeds, and errors of directions that last along a streamline."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
import torch

from dipy_rnn.draws import CORRELATION_EDGES, DirectionErrors, count_equal, seed_keys
from dipy_rnn.draws.draws_torch import add_errors
from dipy_rnn.draws.errors import FREEDOM

MANY = 40_000
KEYS = seed_keys(0, np.arange(3 * MANY).reshape(-1, 3) / 64)


def errors_of(keys, numbers, step_edges=0.5, spread=0.1, scale=1.0):
    """Return the errors (N, 2) that are added to straight directions."""
    answers = np.tile(np.float32([0, 0, 1, 9, spread]), (len(keys), 1))
    numbers = np.broadcast_to(numbers, len(keys)).astype(np.int64)
    DirectionErrors(4, scale, step_edges).add(answers, keys, numbers)
    assert_array_equal(
        answers[:, 2:], np.tile(np.float32([1, 9, spread]), (len(keys), 1))
    )
    return answers[:, :2]


# Errors


def test_errors_have_the_same_variance_at_each_place():
    # The variance of a Student distribution is that of a Gaussian times f / (f - 2).
    expected = 0.15 * (FREEDOM / (FREEDOM - 2)) ** 0.5
    for number in (1, 2, 3, 4, -1, -6, 40):
        errors = errors_of(KEYS, number, step_edges=0.4, spread=0.1, scale=1.5)
        assert_allclose(errors.mean(axis=0), 0, atol=5 * expected / MANY**0.5)
        assert_allclose(errors.std(axis=0), expected, rtol=0.05)
        assert abs(np.corrcoef(errors.T)[0, 1]) < 0.03


def test_errors_at_a_knot_have_the_distribution_of_the_docstring():
    knots = CORRELATION_EDGES
    errors = np.concatenate([errors_of(KEYS, n, step_edges=knots) for n in (1, 2, -3)])
    radius = np.linalg.norm(errors, axis=1) / 0.1
    for r in (0.5, 1.0, 1.287, 3.0, 6.0):
        expected = (1 + r**2 / FREEDOM) ** (-FREEDOM / 2)
        error = (expected * (1 - expected) / len(radius)) ** 0.5
        assert_allclose((radius > r).mean(), expected, atol=4 * error)
    angles = np.arctan2(errors[:, 1], errors[:, 0]) / (2 * np.pi) + 0.5
    assert_allclose(np.histogram(angles, 8, (0, 1))[0] / len(angles), 1 / 8, atol=0.005)


def test_errors_last_for_the_distance_between_knots():
    # At a quarter of the way between two knots, the weights are the cosine and the sine
    # of an eighth of half a turn. They are the correlations with the two knots.
    quarter_edges = CORRELATION_EDGES / 4
    at_knot, quarter, next_knot, beyond = (
        errors_of(KEYS, number, step_edges=quarter_edges) for number in (1, 2, 5, 9)
    )
    for one, other, expected in (
        (at_knot, quarter, np.cos(np.pi / 8)),
        (quarter, next_knot, np.sin(np.pi / 8)),
        (at_knot, next_knot, 0.0),
        (next_knot, beyond, 0.0),
    ):
        correlation = np.corrcoef(one[:, 0], other[:, 0])[0, 1]
        assert_allclose(correlation, expected, atol=0.04)


def test_errors_depend_on_the_place_and_not_on_the_step():
    for half in (1, -1):
        coarse = errors_of(KEYS[:50], half * 4, step_edges=0.5)  # at 1.5 edges
        fine = errors_of(KEYS[:50], half * 16, step_edges=0.1)
        assert_allclose(coarse, fine, atol=1e-6)


def test_halves_and_seeds_have_errors_of_their_own():
    forward, backward = errors_of(KEYS, 2), errors_of(KEYS, -2)
    shuffled = errors_of(KEYS[::-1].copy(), 2)
    for other in (backward, shuffled):
        assert abs(np.corrcoef(forward[:, 0], other[:, 0])[0, 1]) < 0.02
    assert_array_equal(shuffled[::-1], forward)


def test_errors_are_those_of_the_formula():
    """One error, by integers of Python and the formula in the docstring."""
    key, step, number = 12345, 0.3 * CORRELATION_EDGES, 6
    bits = 2**64

    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % bits
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % bits
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    base = mix(key + 1)

    def knot(place):
        state = mix((base + golden * place) % bits)
        first, second = (
            (mix((state + golden * k) % bits) >> 11) / 2**53 for k in (1, 2)
        )
        radius = np.sqrt(FREEDOM * ((1 - first) ** (-2 / FREEDOM) - 1))
        return radius * np.array(
            [np.cos(2 * np.pi * second), np.sin(2 * np.pi * second)]
        )

    for sign, half in ((1, 0), (-1, 1)):  # at 1.5 distances between knots
        expected = 0.1 * np.sqrt(0.5) * (knot(2 + half) + knot(4 + half))
        error = errors_of(np.array([key], np.uint64), sign * number, step_edges=step)
        assert_allclose(error[0], expected, rtol=1e-5)


def test_torch_adds_the_same_errors():
    errors = DirectionErrors(4, 1.3, 0.37)
    rng = np.random.default_rng(0)
    answers = rng.random((MANY, 6)).astype(np.float32)
    numbers = rng.integers(-90, 90, MANY)
    keys = torch.from_numpy(KEYS.view(np.int64))
    result = add_errors(
        errors, torch.from_numpy(answers), keys, torch.from_numpy(numbers)
    )
    expected = answers.copy()
    errors.add(expected, KEYS, numbers)
    assert_allclose(result.numpy(), expected, atol=1e-6)
    assert np.ptp(expected - answers) > 1


# Numbers of equal seeds


def test_equal_seeds_are_numbered_in_their_order():
    a, b, c = [1.0, 2, 3], [1.0, 2, 4], [-5.0, 0, 0]
    assert count_equal([a, b, a, c, b, a]).tolist() == [0, 0, 1, 0, 1, 2]
    # Rounding errors do not make seeds different.
    assert count_equal([a, np.nextafter(a, 9)]).tolist() == [0, 1]
    assert count_equal(np.empty((0, 3))).shape == (0,)


def test_the_number_of_a_seed_changes_its_key_and_zero_does_not():
    seeds = np.array([[1.0, 2, 3], [4, 5, 6], [1, 2, 3]])
    without = seed_keys(7, seeds)
    assert_array_equal(seed_keys(7, seeds, [0, 0, 0]), without)
    numbered = seed_keys(7, seeds, [0, 3, 1])
    assert (
        numbered[0] == without[0] and len({*numbered.tolist(), *without.tolist()}) == 4
    )
    # The key depends on the random seed for later numbers, too.
    assert seed_keys(8, seeds, [0, 3, 1])[1] != numbered[1]


@pytest.mark.parametrize("numbers", [[0, 1], [[0], [0], [0]]])
def test_numbers_of_another_shape_are_refused(numbers):
    with pytest.raises(ValueError, match="seed_numbers is of shape"):
        seed_keys(0, np.zeros((3, 3)), numbers)
