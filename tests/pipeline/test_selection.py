"""Tracking batches of seeds with conditions, and the counts of what was tracked."""

import numpy as np
import pytest

from dipy_rnn.phantom import crossing_phantom
from dipy_rnn.pipeline import (
    TrackingCounts,
    select_blocks,
    show_progress,
    track_selected,
)
from dipy_rnn.sampling import fodf_features
from dipy_rnn.stopping import BinaryStoppingCriterion, StopReason
from dipy_rnn.tracking import track

STEP_MM = 1.0


@pytest.fixture(scope="module")
def inputs():
    """Return batches of seeds, criterion, affine and the options of tracking.

    The last seed of the second batch is outside the image.
    """
    phantom = crossing_phantom(90, shape=(20, 20, 10))
    seeds = phantom.streamlines(2)[0][0][20:50:5]
    batches = [seeds[:4], np.vstack([seeds[4:], [[1e3, 0, 0]]])]
    criterion = BinaryStoppingCriterion(phantom.mask())
    options = {
        "features": fodf_features(phantom.fodf(noise=0.05)),
        "step_size": STEP_MM,
    }
    return batches, criterion, phantom.affine, options


def select(inputs, **conditions):
    """Return the selected streamlines and the counts."""
    batches, criterion, affine, options = inputs
    counts = TrackingCounts(STEP_MM)
    conditions = {"min_len": 0, "max_len": 500} | conditions
    lines = track_selected(batches, criterion, affine, counts, **options, **conditions)
    return list(lines), counts


def test_all_batches_are_tracked_as_one(inputs):
    batches, criterion, affine, options = inputs
    together = list(track(np.vstack(batches), criterion, affine, **options))
    lines, counts = select(inputs)
    assert len(lines) == len(together) == 6
    for line, expected in zip(lines, together):
        np.testing.assert_array_equal(line.points_mm, expected.points_mm)
    assert (counts.seeds, counts.streamlines, counts.outside) == (7, 6, 1)
    assert counts.without_direction == 0
    steps = [len(line.points_mm) - 1 for line in together]
    assert counts.mean_length_mm == np.mean(steps) * STEP_MM


@pytest.mark.parametrize(("n", "n_seeds"), [(0, 4), (3, 3)])
def test_seeds_are_counted_once_if_they_have_several_streamlines(inputs, n, n_seeds):
    # Outside, one peak, two peaks where the bundles cross, and outside.
    outside, alone, crossing = [1e3, 0, 0], [-12.0, 0, 0], [0.0, 0, 0]
    batches = [np.array([outside, alone]), np.array([crossing, outside])]
    lines, counts = select((batches, *inputs[1:]), max_cross=2, select=n)
    assert len(lines) == counts.streamlines == sum(counts.ends.values()) == 3
    assert (counts.seeds, counts.outside) == (n_seeds, n_seeds - 2)
    assert counts.without_direction == 0
    assert [line.seed_mm.tolist() for line in lines] == [alone, crossing, crossing]


def test_the_one_end_of_a_unidirectional_streamline_is_counted_once(inputs):
    lines, counts = select(inputs, unidirectional=True)
    table = counts.table(by_streamline=False, n_ends=1)
    assert [int(row.split()[2]) for row in table.splitlines()] == [len(lines)] == [6]


def test_streamlines_outside_of_the_limits_are_counted_but_not_selected(inputs):
    lengths = [len(line.points_mm) for line in select(inputs)[0]]
    for conditions in ({"min_len": max(lengths) + 1}, {"max_len": min(lengths) - 1}):
        lines, counts = select(inputs, **conditions)
        assert not lines and counts.streamlines == 0
        assert sum(counts.ends.values()) == 6


def test_only_streamlines_with_valid_ends_are_selected(inputs):
    # Where bundles cross, the fODF ahead is seldom the largest one.
    lines, counts = select(inputs, pmf_threshold=1.0, only_valid_ends=True)
    invalid = sum(
        n for ends, n in counts.ends.items() if StopReason.NOTHING_AHEAD in ends
    )
    assert len(lines) == 6 - invalid and invalid > 0


@pytest.mark.parametrize("n", [0, 3])
def test_blocks_have_the_streamlines_that_are_yielded_one_by_one(inputs, n):
    batches, criterion, affine, options = inputs
    conditions = {"min_len": 0, "max_len": 500, "select": n, "max_cross": 2}
    lines, expected = select(inputs, **conditions)
    counts = TrackingCounts(STEP_MM)
    blocks = select_blocks(batches, criterion, affine, counts, **options, **conditions)
    same = [line for block, seeds in blocks for line in block.split(seeds)]
    assert len(lines) == len(same) > 0 and counts == expected
    for line, other in zip(lines, same):
        np.testing.assert_array_equal(line.points_mm, other.points_mm)
        np.testing.assert_array_equal(line.seed_mm, other.seed_mm)


def test_tracking_ends_when_enough_are_selected(inputs):
    lines, counts = select(inputs, select=2)
    assert len(lines) == counts.streamlines == counts.seeds == 2


def test_invalid_lengths_are_an_error_before_tracking(inputs):
    _, criterion, affine, options = inputs
    with pytest.raises(ValueError, match="min_len is 3 and max_len 2"):
        track_selected(
            iter(lambda: pytest.fail("tracked"), None),
            criterion,
            affine,
            TrackingCounts(STEP_MM),
            min_len=3,
            max_len=2,
            **options,
        )


def test_progress_is_logged_in_tenths(messages):
    messages.set_level("INFO", logger="dipy")
    done = []
    for item in show_progress(range(40), 40, "seeds", lambda: len(done)):
        done.append(item)
    texts = [record.getMessage() for record in messages.records]
    assert list(dict.fromkeys(texts))[:2] == ["4 of 40 seeds", "8 of 40 seeds"]
    assert "40 of 40 seeds" in texts
