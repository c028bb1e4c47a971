"""Checks of arguments: valid values are returned, others are named in the error."""

import re

import numpy as np
from numpy.testing import assert_array_equal
import pytest

from dipy_rnn import _checks, spatial

# Numbers and shapes


@pytest.mark.parametrize("value", [None, "0.5", [1.0], 1j, {}, np.ones(1), object()])
def test_a_value_that_is_not_a_number_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^step_size is of type .*a number is needed"):
        _checks.check_number(value, "step_size")


def test_integers_stay_integers_and_floats_stay_floats():
    assert _checks.check_number(np.int8(3), "n") == 3
    assert isinstance(_checks.check_number(np.int8(3), "n"), int)
    assert isinstance(_checks.check_number(np.float16(0.5), "n"), float)
    with pytest.raises(ValueError, match="n is too large"):
        _checks.check_number(10**400, "n")


@pytest.mark.parametrize(
    "values", [[[0, 1], [2]], ["a"], [None], [1j], np.zeros(2, "M8[s]"), object()]
)
def test_values_that_are_not_real_numbers_are_refused_by_name(values):
    for check in (_checks.check_numbers, _checks.as_points, spatial.check_affine):
        with pytest.raises(ValueError, match=r"^seeds is .*real numbers"):
            check(values, "seeds")


@pytest.mark.parametrize("value", [3, 3.0, np.int8(3), np.float32(3)])
def test_a_count_is_a_whole_number_of_any_type(value):
    count = _checks.check_count(value, "n_seeds", 1, 3)
    assert count == 3 and type(count) is int


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "n_seeds is 0; a whole number from 1 to 5 is needed."),
        (6, "n_seeds is 6; a whole number from 1 to 5 is needed."),
        (2.5, "n_seeds is 2.5; a whole number from 1 to 5 is needed."),
        (np.nan, "n_seeds is nan; a whole number"),
        ("3", "n_seeds is of type str; a number is needed."),
    ],
)
def test_other_counts_are_refused_by_name_and_value(value, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        _checks.check_count(value, "n_seeds", 1, 5)


def test_a_count_without_an_upper_limit_must_be_finite():
    assert _checks.check_count(2**70, "n_seeds") == 2**70
    with pytest.raises(ValueError, match="n_seeds is inf; a whole number from 0 is"):
        _checks.check_count(np.inf, "n_seeds")


def test_a_shape_is_three_numbers_of_voxels():
    assert _checks.check_shape(np.array([3, 4, 5])) == (3, 4, 5)
    for shape, message in (
        ((3, 4), "grid is (3, 4); three numbers of voxels"),
        (3, "grid is 3; three numbers of voxels"),
        ((3, 0, 5), "grid along an axis is 0; a whole number from 1"),
        ((3, 4, 10), "grid along an axis is 10; a whole number from 1 to 9"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            _checks.check_shape(shape, "grid", 9)


# Arrays


def test_arrays_that_fit_are_not_copied():
    floats = np.zeros((4, 3))
    assert _checks.as_float64(floats, "seeds") is floats
    assert _checks.as_points(floats, "seeds") is floats
    assert _checks.as_contiguous(floats, "seeds", np.float64) is floats
    every_second = floats[::2]
    assert _checks.as_contiguous(every_second, "seeds", np.float64).flags.c_contiguous


def test_a_value_too_large_for_the_type_becomes_infinite_without_a_warning():
    assert _checks.as_contiguous([1e300], "sh", np.float32)[0] == np.inf
    assert _checks.as_contiguous([1e300], "sh", np.float64)[0] == 1e300


# Points


def test_points_are_rows_of_three_in_float64():
    points = _checks.as_points([[1, 2, 3]], "seeds")
    assert points.dtype == np.float64
    assert_array_equal(points, [[1, 2, 3]])
    for empty in ([], np.zeros((0, 3)), np.zeros((0, 2))):
        assert _checks.as_points(empty, "seeds").shape == (0, 3)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([1, 2, 3], "seeds has the shape (3,); (N, 3) is needed."),
        (np.zeros((2, 4)), "seeds has the shape (2, 4)"),
        ([[0, 0, np.nan]], "seeds holds NaN or infinity."),
        ([[0, -np.inf, 0]], "seeds holds NaN or infinity."),
    ],
)
def test_other_points_are_refused_by_name(points, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        _checks.as_points(points, "seeds")


@pytest.mark.parametrize("far", [1e7, 1e300, -1e300])
def test_points_beyond_a_kilometre_are_refused(far):
    with pytest.raises(ValueError, match=r"seeds holds .*check the units"):
        _checks.as_points([[0, far, 0]], "seeds")
