"""The queue of seeds: order, skipped seeds, first frames, and threads."""

import sys
from threading import Barrier, Thread

import numpy as np
import numpy.testing as npt
import pytest
from stubs import Recorder
from worlds import OBLIQUE_ROTATION, NoisyWorld, affine_of

from dipy_rnn import spatial
from dipy_rnn.model import load_model
from dipy_rnn.tracking.predictor import Predictor
from dipy_rnn.tracking.seed_queue import SeedQueue


def queue_of(seeds, directions, **options):
    predictor = Recorder(shape=(30, 3, 3))
    return SeedQueue(predictor, seeds, np.eye(4), directions, **options)


def take_all(queue, n):
    """Take n seeds at a time until none is left, and join the parts of all."""
    parts = []
    while not parts or len(parts[-1][0]):
        parts.append(queue.take(n))
        assert len(parts[-1][0]) <= n
    return tuple(map(np.concatenate, zip(*parts)))


@pytest.mark.parametrize("n_ahead", [1, 2, 3, 1000])
@pytest.mark.parametrize("n", [1, 2, 100])
def test_seeds_come_in_their_order_without_skipped_ones(n, n_ahead):
    xs = [4.0, -0.51, -0.5, 29.49, 29.5, 5.0, 6.0, np.nan]
    seeds = np.column_stack([xs, np.ones((8, 2))])
    directions = np.tile([0.0, 3.0, 4.0], (8, 1))
    directions[5] = 0.0
    keys = np.arange(100, 108, dtype=np.uint64)
    queue = queue_of(seeds, directions, n_ahead=n_ahead, seed_keys=keys)
    assert len(queue) == 8
    index, seeds_vox, first_frames, keys = take_all(queue, n)
    assert len(queue) == 0
    assert index.tolist() == [0, 2, 3, 6]
    assert queue.first_left == 8
    npt.assert_array_equal(seeds_vox, seeds[[0, 2, 3, 6]])
    npt.assert_allclose(first_frames[:, 2], [[0.0, 0.6, 0.8]] * 4, atol=1e-15)
    assert keys.tolist() == [100, 102, 103, 106]


def test_taking_no_seed_and_taking_from_an_empty_queue():
    queue = queue_of(np.ones((2, 3)), np.ones((2, 3)))
    shapes = [(0,), (0, 3), (0, 3, 3), (0,)]
    assert [part.shape for part in queue.take(0)] == shapes
    assert queue.take(5)[0].tolist() == [0, 1]
    for empty in (queue, queue_of(np.empty((0, 3)), np.empty((0, 3)))):
        assert [part.shape for part in empty.take(5)] == shapes
        assert len(empty) == 0


class FewPeaks(Recorder):
    """A predictor for which a seed at x has x first directions, of length 1, 2 .."""

    def first_directions(self, points_vox, max_peaks):
        numbers = np.arange(1.0, max_peaks + 1)
        found = numbers <= points_vox[:, :1]
        return np.where(found, numbers, 0)[..., None] * [1.0, 0.0, 0.0]


@pytest.mark.parametrize("n_ahead", [1, 3])
def test_the_first_start_left_is_not_taken_and_all_before_it_are(n_ahead):
    seeds = np.column_stack([np.arange(9.0), np.ones((9, 2))])
    queue = queue_of(seeds, np.ones((9, 3)), n_ahead=n_ahead)
    for n in range(10):
        assert queue.first_left == n
        queue.take(1)


@pytest.mark.parametrize("n_ahead", [1, 3])
@pytest.mark.parametrize("n", [1, 100])
def test_each_first_direction_of_a_seed_is_a_start(n, n_ahead):
    xs = [2.0, 0.0, 1.0, 40.0, 7.0]
    seeds = np.column_stack([xs, np.ones((5, 2))])
    predictor = FewPeaks(shape=(30, 3, 3))
    queue = SeedQueue(predictor, seeds, np.eye(4), max_peaks=3, n_ahead=n_ahead)
    assert len(queue) == 15
    index, seeds_vox, first_frames, _ = take_all(queue, n)
    assert len(queue) == 0
    # Of the seed number i, the starts are 3 i, 3 i + 1 and 3 i + 2.
    assert index.tolist() == [0, 1, 6, 12, 13, 14]
    assert queue.first_left == 15
    assert seeds_vox[:, 0].tolist() == [2, 2, 1, 7, 7, 7]
    npt.assert_allclose(first_frames[:, 2], [[1.0, 0, 0]] * 6)


@pytest.mark.parametrize("peaks", [True, False])
def test_seeds_and_frames_do_not_depend_on_how_many_are_prepared_at_a_time(peaks):
    world = NoisyWorld(affine_of((2.0, 3.0, 4.0), OBLIQUE_ROTATION))
    axes = spatial.axes(world.affine)
    predictor = Predictor(world.features, load_model("default"), axes, 1)
    directions = None if peaks else np.random.default_rng(0).normal(size=(60, 3))
    arguments = predictor, world.seeds, world.affine, directions
    together = take_all(SeedQueue(*arguments), 7)
    expected = spatial.to_voxels(world.seeds, world.affine)
    npt.assert_array_equal(together[1], expected)
    for n_ahead in (1, 5):
        index, seeds_vox, first_frames, _ = take_all(
            SeedQueue(*arguments, n_ahead=n_ahead), 7
        )
        npt.assert_array_equal(index, together[0])
        npt.assert_array_equal(seeds_vox, together[1])
        npt.assert_array_equal(first_frames, together[2])


def test_threads_that_take_at_once_get_every_seed_once():
    n = 3000
    seeds = np.column_stack([np.linspace(0, 29, n), np.ones((n, 2))])
    queue = queue_of(seeds, np.tile([1.0, 0.0, 0.0], (n, 1)), n_ahead=7)
    taken, barrier = [], Barrier(8)

    def take(size):
        barrier.wait(10)
        while True:
            part = queue.take(size)
            if not len(part[0]):
                return
            taken.append(part)

    workers = [Thread(target=take, args=(1 + i,)) for i in range(8)]
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
    finally:
        sys.setswitchinterval(switching)
    index, seeds_vox, first_frames, _ = map(np.concatenate, zip(*taken))
    assert len(index) == len(first_frames) == n
    assert queue.first_left == n
    order = np.argsort(index)
    npt.assert_array_equal(index[order], np.arange(n))
    npt.assert_array_equal(seeds_vox[order], seeds)
