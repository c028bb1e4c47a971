"""Connectomes and density maps of some streamlines that can be counted by hand."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
from scipy.stats import binom

from dipy_rnn.connectivity import Connectome, DensityMap, connectome

# Regions 3, 5 and 9 at the ends of a row of ten voxels of 2 mm.
LABELS = np.zeros((10, 1, 1), int)
LABELS[[0, 1, 5, 9], 0, 0] = 3, 3, 5, 9
AFFINE = np.diag([2.0, 2, 2, 1])


def line(start, end):
    """Return a streamline from one voxel to another, with points in each."""
    x = np.arange(start, end + np.sign(end - start), np.sign(end - start))
    return np.column_stack([x, 0 * x, 0 * x]) * 2.0


LINES = [line(0, 5), line(5, 1), line(9, 0), line(0, 1), line(2, 9), line(1, 5)]


def test_counts_and_lengths_are_those_of_a_count_by_hand():
    found = connectome(LINES, AFFINE, LABELS)
    assert found.regions.tolist() == [3, 5, 9]
    assert found.pairs.tolist() == [[3, 5], [3, 9]]
    assert found.counts.tolist() == [3, 1]
    assert_allclose(found.lengths_mm, [(10 + 8 + 8) / 3, 18])
    assert found.matrix.tolist() == [[0, 3, 1], [3, 0, 0], [1, 0, 0]]
    assert found.n_seeds == 6


def test_intervals_of_independent_seeds_are_binomial():
    n, n_connecting = 400, 60
    lines = n_connecting * [line(0, 5)] + (n - n_connecting) * [line(0, 1)]
    found = connectome(lines, AFFINE, LABELS, n_resamples=4000)
    expected = binom.ppf([0.025, 0.975], n, n_connecting / n)
    assert_allclose(found.count_intervals[0], expected, atol=1.5)
    assert_allclose(found.length_intervals[0], 10)


def test_streamlines_of_equal_seeds_are_resampled_together():
    # Each of 40 seeds has ten streamlines, and ten of the seeds connect.
    lines = 100 * [line(0, 5)] + 300 * [line(0, 1)]
    seeds = np.repeat(np.arange(40.0), 10)[:, None] * [1, 0, 0]
    found = connectome(lines, AFFINE, LABELS, seeds=seeds, n_resamples=4000)
    expected = 10 * binom.ppf([0.025, 0.975], 40, 10 / 40)
    assert found.n_seeds == 40
    assert_allclose(found.count_intervals[0], expected, atol=11)
    alone = connectome(lines, AFFINE, LABELS, n_resamples=500)
    assert np.ptp(found.count_intervals) > 2.5 * np.ptp(alone.count_intervals)


def test_the_interval_of_a_mean_length_is_that_of_its_seeds():
    rng = np.random.default_rng(0)
    lines = [np.array([[0.0, 0, 0], [5, h, 0], [10, 0, 0]]) for h in rng.random(200)]
    found = connectome(lines, AFFINE, LABELS, n_resamples=2000)
    lengths = np.array([2 * np.hypot(5, each[1, 1]) for each in lines])
    error = lengths.std() / 200**0.5
    expected = lengths.mean() + np.array([-1.96, 1.96]) * error
    assert_allclose(found.length_intervals[0], expected, atol=0.2 * error)


def test_a_random_seed_gives_the_same_intervals():
    one, same, other = (
        connectome(50 * LINES, AFFINE, LABELS, n_resamples=50, random_seed=seed)
        for seed in (1, 1, 2)
    )
    assert_array_equal(one.count_intervals, same.count_intervals)
    assert not np.array_equal(one.count_intervals, other.count_intervals)


def test_rows_come_with_most_streamlines_first():
    rows = connectome([*LINES, line(9, 1), *3 * [line(5, 9)]], AFFINE, LABELS).rows()
    pairs = [(row["region_1"], row["region_2"], row["streamlines"]) for row in rows]
    assert pairs == [(3, 5, 3), (5, 9, 3), (3, 9, 2)]
    assert tuple(rows[0]) == Connectome.columns


def test_without_a_connection_the_table_is_empty():
    found = connectome([line(0, 1)], AFFINE, LABELS)
    assert found.rows() == [] and not found.matrix.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": 0 * LABELS}, "no region"),
        ({"seeds": np.zeros((2, 3))}, r"seeds is of shape \(2, 3\); give \(6, 3\)"),
        ({"n_resamples": 0}, "n_resamples is 0"),
        ({"labels": LABELS + 0.5}, r"labels holds 3\.5; labels are whole"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    options = {"labels": LABELS} | options
    with pytest.raises(ValueError, match=message):
        connectome(LINES, AFFINE, **options)


def test_a_density_map_counts_each_streamline_once_in_a_voxel():
    lines = [*LINES, np.repeat(LINES[0], 2, 0)]
    lengths = np.array([len(line) for line in lines])
    batches = [
        (np.concatenate(lines[:3]), lengths[:3], {"a": 1}),
        (np.concatenate(lines[3:]), lengths[3:], {"a": 2}),
    ]
    density = DensityMap(AFFINE, LABELS.shape)
    passed = list(density.count(iter(batches)))
    assert all(one is other for one, other in zip(passed, batches, strict=True))
    assert density.counts[:, 0, 0].tolist() == [4, 6, 6, 6, 6, 6, 2, 2, 2, 2]


def test_a_density_map_takes_one_batch_at_a_time():
    taken = []

    def batches():
        for i in range(3):
            taken.append(i)
            yield LINES[0], np.array([len(LINES[0])]), {}

    density = DensityMap(AFFINE, LABELS.shape)
    passing = density.count(batches())
    next(passing)
    assert taken == [0] and density.counts[3, 0, 0] == 1
    assert len(list(passing)) == 2
    assert density.counts[3, 0, 0] == 3
