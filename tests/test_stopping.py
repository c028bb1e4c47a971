"""Reasons and criteria, against DIPY's own answers."""

from dipy.tracking.stopping_criterion import (
    ActStoppingCriterion,
    BinaryStoppingCriterion,
    StreamlineStatus,
    ThresholdStoppingCriterion,
)
import numpy as np
from numpy.testing import assert_array_equal
import pytest

from dipy_rnn.stopping import StopReason, check_points, format_tally


def random_map(seed=0):
    return np.random.default_rng(seed).random((4, 5, 3))


def random_points(n=300):
    points = np.random.default_rng(1).uniform(-1.5, [5.5, 6.5, 4.5], (n, 3))
    # Ties of rounding and the very borders, too.
    points[:100] = np.round(2 * points[:100]) / 2
    return points


# The table


def test_every_reason_has_its_own_message_and_a_status_of_dipys():
    messages = {reason.message for reason in StopReason}
    assert len(messages) == len(StopReason) and all(messages)
    for reason in StopReason:
        assert isinstance(reason.status, StreamlineStatus)


def test_reasons_count_up_from_running_so_that_they_index_a_tally():
    assert [int(reason) for reason in StopReason] == list(range(len(StopReason)))
    assert StopReason.RUNNING == 0


def test_only_dipys_own_valid_ends_are_kept():
    kept = {reason for reason in StopReason if reason.is_valid_end}
    assert kept == {StopReason.ENDPOINT, StopReason.OUTSIDE_IMAGE}
    assert {reason.status for reason in kept} == {
        StreamlineStatus.ENDPOINT,
        StreamlineStatus.OUTSIDEIMAGE,
    }


# Criteria


def test_a_drawn_row_of_voxels_stops_where_it_is_drawn():
    # Tissue in voxels 1 and 2 of four.
    criterion = BinaryStoppingCriterion(np.array([0, 1, 1, 0]).reshape(4, 1, 1))
    x = [-0.6, -0.5, 0.0, 0.6, 1.0, 2.4, 2.6, 3.4, 3.6]
    points = np.column_stack([x, np.zeros((9, 2))])
    names = [StopReason(r).name for r in check_points(criterion, points)]
    assert names == (
        ["OUTSIDE_IMAGE"]
        + 2 * ["ENDPOINT"]
        + 3 * ["RUNNING"]
        + 2 * ["ENDPOINT"]
        + ["OUTSIDE_IMAGE"]
    )


@pytest.mark.parametrize(
    "criterion",
    [
        BinaryStoppingCriterion(random_map() > 0.4),
        ThresholdStoppingCriterion(random_map(), 0.5),
        ActStoppingCriterion(random_map(2), random_map(3)),
    ],
    ids=lambda criterion: type(criterion).__name__,
)
def test_many_points_at_once_are_as_each_alone(criterion):
    points = random_points()
    reasons = check_points(criterion, points)
    assert reasons.dtype == np.int64
    expected = [criterion.check_point(p) for p in points]
    assert len(set(expected)) >= 3
    assert_array_equal([StopReason(r).status for r in reasons], expected)


def test_no_points_have_no_reasons():
    criterion = BinaryStoppingCriterion(np.ones((1, 1, 1)))
    assert check_points(criterion, np.zeros((0, 3))).shape == (0,)


def test_a_criterion_that_only_looks_like_dipys_is_asked():
    class EverythingIsExcluded:
        def check_point(self, point):
            return StreamlineStatus.INVALIDPOINT

    reasons = check_points(EverythingIsExcluded(), np.zeros((2, 3)))
    assert_array_equal(reasons, [StopReason.INVALID_POINT] * 2)


# The tally


def test_a_tally_is_laid_out_commonest_first_without_what_never_happened():
    counts = {
        StopReason.NOT_FINITE: 0,
        StopReason.SHARP_TURN: 30,
        StopReason.ENDPOINT: 1169,
        StopReason.NO_DATA: 1,
    }
    assert format_tally(counts).splitlines() == [
        " 97.4 %      1169  the stopping criterion was met",
        "  2.5 %        30  a step would turn by more than max_angle",
        "  0.1 %         1  the features are zero there",
    ]


def test_a_tally_takes_plain_numbers_for_reasons():
    assert format_tally({2: 4}) == "100.0 %         4  it left the image"


@pytest.mark.parametrize("counts", [{}, {StopReason.ENDPOINT: 0}])
def test_a_tally_of_nothing_says_so(counts):
    assert format_tally(counts) == "no streamline was tracked"
