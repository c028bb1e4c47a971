"""Streamlines, and the blocks of them that slots hand over."""

import numpy as np
import numpy.testing as npt
import pytest

from dipy_rnn.stopping import StopReason
from dipy_rnn.tracking import Streamline
from dipy_rnn.tracking.records import FinishedStreamlines

ENDPOINT, OUTSIDE, TURN = (
    StopReason.ENDPOINT,
    StopReason.OUTSIDE_IMAGE,
    StopReason.NOTHING_AHEAD,
)


def points(*xs):
    return np.column_stack([xs, np.zeros((len(xs), 2))])


def streamline(xs, n_forward):
    return Streamline(points(*xs), 0, np.zeros(3), ENDPOINT, ENDPOINT, n_forward)


@pytest.mark.parametrize(
    ("xs", "n_forward", "forward", "backward"),
    [
        ([-2.0, -1, 0, 1], 2, [0, 1], [0, -1, -2]),
        ([0.0, 1, 2], 3, [0, 1, 2], [0]),
        ([-2.0, -1, 0], 1, [0], [0, -1, -2]),
        ([0.0], 1, [0], [0]),
    ],
    ids=["both halves", "no backward half", "no forward half", "only the seed"],
)
def test_both_halves_of_a_streamline_begin_at_the_seed(
    xs, n_forward, forward, backward
):
    line = streamline(xs, n_forward)
    npt.assert_array_equal(line.forward_half, points(*forward))
    npt.assert_array_equal(line.backward_half, points(*backward))
    assert len(line.points_mm) == len(forward) + len(backward) - 1


@pytest.mark.parametrize("reason", StopReason)
def test_both_ends_of_a_streamline_must_be_valid(reason):
    for stops in ((reason, ENDPOINT), (OUTSIDE, reason)):
        line = Streamline(points(0.0), 0, np.zeros(3), *stops)
        assert line.has_valid_ends == reason.is_valid_end


def block(*lines):
    """Make a block of (start index, x coordinates, n_forward, both stops)."""
    index, xs, n_forward, forward_stop, backward_stop = zip(*lines)
    return FinishedStreamlines(
        np.array(index),
        np.array([len(x) for x in xs]),
        np.array(n_forward),
        points(*np.concatenate(xs)),
        np.array(forward_stop, np.int64),
        np.array(backward_stop, np.int64),
    )


SEEDS = np.arange(30.0).reshape(10, 3)
FIRST = (7, [5.0, 6, 7], 2, TURN, ENDPOINT)
SECOND = (0, [1.0], 1, OUTSIDE, TURN)
THIRD = (3, [8.0, 9], 1, ENDPOINT, OUTSIDE)


def assert_is(line, index, xs, n_forward, forward_stop, backward_stop):
    npt.assert_array_equal(line.points_mm, points(*xs))
    npt.assert_array_equal(line.seed_mm, SEEDS[index])
    assert (line.seed_index, line.n_forward) == (index, n_forward)
    assert line.forward_stop is forward_stop
    assert line.backward_stop is backward_stop


def test_streamlines_are_selected_in_the_order_of_the_rows():
    selected = block(FIRST, SECOND, THIRD).select(np.array([2, 0]))
    assert len(selected.points_mm) == 5
    for line, expected in zip(selected.split(SEEDS), (THIRD, FIRST), strict=True):
        assert_is(line, *expected)
    nothing = block(FIRST).select(np.empty(0, np.int64))
    assert nothing.points_mm.shape == (0, 3)
    assert list(nothing.each()) == []


def test_a_block_is_returned_as_it_is_if_all_are_selected_in_their_order():
    whole = block(FIRST, SECOND)
    assert whole.select(np.array([0, 1])) is whole
    assert whole.select(np.array([0])) is not whole


def test_a_streamline_becomes_a_block():
    (line,) = block(FIRST).split(SEEDS)
    (same,) = FinishedStreamlines.of(line).split(SEEDS)
    assert_is(same, *FIRST)


def test_ends_of_a_block_are_valid_if_those_of_the_records_are():
    whole = block(
        *((0, [1.0], 1, one, other) for one in StopReason for other in StopReason)
    )
    expected = [line.has_valid_ends for line in whole.split(SEEDS)]
    assert whole.has_valid_ends.tolist() == expected
    assert set(expected) == {True, False}


def test_a_block_is_split_into_records():
    lines = list(block(FIRST, SECOND, THIRD).split(SEEDS))
    assert len(lines) == 3
    for line, expected in zip(lines, (FIRST, SECOND, THIRD)):
        assert_is(line, *expected)


@pytest.mark.parametrize("reason", StopReason)
def test_every_reason_is_found_by_its_number(reason):
    (line,) = block((0, [1.0], 1, reason, reason)).split(SEEDS)
    assert line.forward_stop is line.backward_stop is reason


def test_records_keep_no_block_in_memory():
    whole = block(FIRST, THIRD)
    lines = list(whole.split(SEEDS))
    whole.points_mm[:] = np.nan
    for line, expected in zip(lines, (FIRST, THIRD), strict=True):
        assert line.points_mm.base is None
        assert_is(line, *expected)


def test_blocks_are_joined_in_their_order():
    joined = FinishedStreamlines.joined([block(FIRST), block(SECOND, THIRD)])
    expected = block(FIRST, SECOND, THIRD)
    for name in FinishedStreamlines.__dataclass_fields__:
        npt.assert_array_equal(getattr(joined, name), getattr(expected, name))
        assert getattr(joined, name).dtype == getattr(expected, name).dtype


def test_chosen_streamlines_of_several_blocks_are_joined():
    blocks = [block(FIRST, SECOND), block(THIRD)]
    joined = FinishedStreamlines.joined(blocks, np.array([2, 0]))
    expected = block(THIRD, FIRST)
    for name in FinishedStreamlines.__dataclass_fields__:
        npt.assert_array_equal(getattr(joined, name), getattr(expected, name))


def test_no_block_gives_an_empty_block():
    joined = FinishedStreamlines.joined([])
    assert joined.points_mm.shape == (0, 3)
    assert len(joined.index) == len(joined.n_points) == 0
    assert list(joined.split(SEEDS)) == []
