"""The engine: what streamlines do not depend on, and its threads."""

from collections import Counter
import gc
from threading import Barrier, Lock, current_thread, get_ident
from threading import enumerate as threads
from time import sleep
from types import SimpleNamespace

from dipy.tracking import stopping_criterion as dipy_criteria
import numpy as np
import numpy.testing as npt
import pytest
from stubs import Recorder
import torch
from worlds import (
    OBLIQUE_ROTATION,
    NoisyWorld,
    affine_of,
    ends_beyond,
    everywhere,
    run_engine,
    track_from,
)

from dipy_rnn import sampling, spatial
from dipy_rnn.model import load_model
from dipy_rnn.sampling import DATA
from dipy_rnn.stopping import BinaryStoppingCriterion, StopReason
from dipy_rnn.tracking.predictor import Predictor
from dipy_rnn.tracking.seed_queue import SeedQueue

X = np.array([1.0, 0.0, 0.0])
LONG = (2000, 3, 3)
SHORT = (200, 3, 3)


# What streamlines do not depend on


@pytest.fixture(scope="module")
def noisy():
    world = NoisyWorld(affine_of((2.0, 3.0, 4.0), OBLIQUE_ROTATION))
    world.criterion = BinaryStoppingCriterion(world.mask)
    return world


def run_noisy(world, model="default", criterion=None, **options):
    axes = spatial.axes(world.affine)
    predictor = Predictor(world.features, load_model(model), axes, 1)
    directions = np.random.default_rng(0).normal(size=(len(world.seeds), 3))
    return run_engine(
        predictor,
        world.criterion if criterion is None else criterion,
        SeedQueue(predictor, world.seeds, world.affine, directions),
        affine=world.affine,
        max_angle=60.0,
        **options,
    )


def assert_same(ours, theirs):
    """Compare two lists of streamlines, every field, bit for bit."""
    for line, other in zip(ours, theirs, strict=True):
        assert line.seed_index == other.seed_index
        assert line.n_forward == other.n_forward
        assert line.forward_stop is other.forward_stop
        assert line.backward_stop is other.backward_stop
        npt.assert_array_equal(line.points_mm, other.points_mm)
        npt.assert_array_equal(line.seed_mm, other.seed_mm)


@pytest.mark.parametrize("model", ["default", "counter"])
def test_streamlines_do_not_depend_on_slots_or_threads(noisy, counter, model):
    if model == "counter":
        noisy = SimpleNamespace(**vars(noisy))
        limits = np.random.default_rng(0).integers(0, 30, noisy.mask.shape)
        noisy.features = sampling.raw_features(limits[..., None] * np.ones(3))
        model = counter
    expected = list(run_noisy(noisy, model, n_slots=64))
    assert len(expected) == 60
    assert len({len(line.points_mm) for line in expected}) > 10
    for n_slots, nbr_threads in ((1, 1), (7, 2), (5, 5), (60, 2), (1000, 5), (0, 1)):
        lines = run_noisy(noisy, model, n_slots=n_slots, nbr_threads=nbr_threads)
        assert_same(expected, lines)


@pytest.mark.parametrize("criterion", ["ours", "dipys", "python"])
def test_a_finished_streamline_keeps_its_reasons_until_it_is_handed_over(
    noisy, criterion
):
    # With 64 slots or more, several streamlines are handed over together.
    many = SimpleNamespace(**vars(noisy))
    many.seeds = np.repeat(noisy.seeds, 5, axis=0)
    if criterion == "dipys":
        many.criterion = dipy_criteria.BinaryStoppingCriterion(noisy.mask)
    elif criterion == "python":
        check = noisy.criterion.check_point
        many.criterion = SimpleNamespace(check_point=lambda point: check(point))
    expected = list(run_noisy(many, n_slots=1))
    assert len({line.backward_stop for line in expected}) > 1
    for n_slots in (64, 128, 300):
        assert_same(expected, run_noisy(many, n_slots=n_slots))


@pytest.mark.parametrize("nbr_threads", [1, 2, 5])
@pytest.mark.parametrize("n_slots", [1, 4, 100])
def test_streamlines_come_in_the_order_of_the_queue(n_slots, nbr_threads):
    # The first streamlines take longest. Every third seed is outside and is skipped.
    xs = np.linspace(390, 3, 40)
    seeds = np.column_stack([xs, np.ones(40), np.ones(40)])
    seeds[::3, 1] = 9.0
    lines = track_from(
        Recorder(),
        everywhere(LONG),
        seeds,
        -X,
        n_slots=n_slots,
        nbr_threads=nbr_threads,
        unidirectional=True,
    )
    assert [line.seed_index for line in lines] == [i for i in range(40) if i % 3]
    begins = [line.points_mm[0, 0] for line in lines]
    npt.assert_array_equal(begins, np.delete(xs, np.arange(0, 40, 3)))
    for line in lines:
        npt.assert_array_equal(line.seed_mm, seeds[line.seed_index])


def test_streamlines_share_no_memory(noisy):
    lines = [line.points_mm for line in run_noisy(noisy, n_slots=64, nbr_threads=2)]
    kept = [line.copy() for line in lines]
    for i, line in enumerate(lines):
        assert line.flags.writeable and line.dtype == np.float64
        line[:] = i
    for i, (line, before) in enumerate(zip(lines, kept, strict=True)):
        assert line.shape == before.shape
        assert (line == i).all()


@pytest.mark.parametrize("nbr_threads", [1, 3])
def test_without_a_seed_inside_the_image_there_is_no_streamline(nbr_threads):
    options = {"nbr_threads": nbr_threads, "n_slots": 8}
    for seeds in (np.empty((0, 3)), np.full((5, 3), -9.0)):
        assert track_from(Recorder(), ends_beyond(9), seeds, X, **options) == []


# Threads


@pytest.fixture
def torch_threads():
    """Set torch to 3 threads, a number that is no default, and return it."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


class Meeting(Recorder):
    """A predictor whose groups wait at their first step until all threads are there."""

    def __init__(self, n_threads):
        super().__init__(SHORT)
        self.barrier, self.idents, self.n_calls = Barrier(n_threads), set(), 0
        self.torch_threads = set()
        self.lock = Lock()

    def states(self, n, config):
        return MeetingGroup(self)


class MeetingGroup:
    """The hidden states of a group of slots."""

    def __init__(self, meeting):
        self.meeting, self.met = meeting, False

    def predict(self, points_vox, frames):
        meeting = self.meeting
        if not self.met:
            meeting.barrier.wait(30)
            self.met = True
        with meeting.lock:
            meeting.idents.add(get_ident())
            meeting.torch_threads.add(torch.get_num_threads())
            meeting.n_calls += 1
        n = len(points_vox)
        return np.tile(meeting.answer, (n, 1)), np.full(n, DATA, np.uint8)

    def reset(self, rows):
        pass

    keep = reset


def seeds_along_x(n):
    return np.column_stack([np.linspace(20, 100, n), np.ones((n, 2))])


def track_seeds(meeting, n_seeds, criterion=None, **options):
    """Return the streamlines of some seeds, all along x."""
    criterion = everywhere(SHORT) if criterion is None else criterion
    return track_from(meeting, criterion, seeds_along_x(n_seeds), X, **options)


def run_seeds(meeting, n_seeds, **options):
    """Return the generator of the same streamlines."""
    seeds, directions = seeds_along_x(n_seeds), np.tile(X, (n_seeds, 1))
    queue = SeedQueue(meeting, seeds, np.eye(4), directions)
    return run_engine(meeting, everywhere(SHORT), queue, **options)


def test_each_thread_has_a_group_of_its_own(torch_threads):
    meeting = Meeting(3)
    assert len(track_seeds(meeting, 9, n_slots=7, nbr_threads=3)) == 9
    assert len(meeting.idents) == 3 and get_ident() not in meeting.idents


@pytest.mark.parametrize("nbr_threads", [1, 2])
def test_torch_has_one_thread_in_each_thread_of_the_engine(torch_threads, nbr_threads):
    meeting = Meeting(nbr_threads)
    assert track_seeds(meeting, 4, n_slots=2, nbr_threads=nbr_threads)
    assert meeting.torch_threads == {1}
    assert torch.get_num_threads() == torch_threads


def test_there_are_no_more_threads_than_slots():
    meeting = Meeting(2)
    lines = track_seeds(meeting, 2, n_slots=100, nbr_threads=64)
    assert len(lines) == len(meeting.idents) == 2


def test_a_single_thread_is_that_of_the_caller():
    meeting = Meeting(1)
    track_seeds(meeting, 5, n_slots=2, nbr_threads=1)
    assert meeting.idents == {get_ident()}


def test_a_criterion_that_may_hold_a_state_is_evaluated_by_one_thread(noisy):
    idents = Counter()

    class Mine(dipy_criteria.BinaryStoppingCriterion):
        def check_point(self, point):
            idents[get_ident()] += 1
            return dipy_criteria.BinaryStoppingCriterion.check_point(self, point)

    mask = noisy.mask.astype(np.uint8)
    lines = run_noisy(noisy, criterion=Mine(mask), n_slots=16, nbr_threads=4)
    assert_same(lines, run_noisy(noisy, n_slots=16))
    assert set(idents) == {get_ident()} and idents.total() > 60


class BatchedBox:
    """A criterion of a user: streamlines end outside of a box. It records its calls."""

    draws_at_random = False

    def __init__(self):
        self.calls = []

    def check_point(self, point):
        raise AssertionError("check_points is to be called")

    def check_points(self, points_vox, reasons):
        running = reasons == StopReason.RUNNING
        self.calls.append((get_ident(), int(running.sum())))
        outside = ((points_vox < 1) | (points_vox > 150)).any(axis=1)
        reasons[running & outside] = StopReason.ENDPOINT


@pytest.mark.parametrize(
    "criterion",
    [
        dipy_criteria.BinaryStoppingCriterion(np.ones(SHORT, np.uint8)),
        BinaryStoppingCriterion(np.ones(SHORT)),
        BatchedBox(),
    ],
    ids=["dipys", "ours", "batched"],
)
def test_a_criterion_without_a_state_is_evaluated_by_several_threads(criterion):
    meeting = Meeting(2)
    track_seeds(meeting, 4, criterion, n_slots=4, nbr_threads=2, max_half_points=20)
    assert len(meeting.idents) == 2
    if isinstance(criterion, BatchedBox):
        assert {ident for ident, _ in criterion.calls} == meeting.idents


def test_a_batched_criterion_of_a_user_is_called_once_a_step_with_all_points():
    criterion = BatchedBox()
    lines = track_from(
        Recorder(SHORT),
        criterion,
        [[140, 2, 2], [145, 2, 2], [148, 2, 2]],
        X,
        n_slots=3,
        unidirectional=True,
    )
    for line, first in zip(lines, (140, 145, 148), strict=True):
        assert line.forward_stop is StopReason.ENDPOINT
        npt.assert_array_equal(line.points_mm[:, 0], np.arange(first, 151))
    # Steps to 151: 11, 6 and 3 of them.
    assert [n for _, n in criterion.calls] == [3] * 3 + [2] * 3 + [1] * 5


@pytest.mark.parametrize("end", ["close", "forget", "exhaust"])
def test_no_thread_outlives_its_generator(torch_threads, end):
    before = set(threads())
    meeting = Meeting(3)
    lines = run_seeds(meeting, 50, n_slots=6, nbr_threads=3)
    assert set(threads()) <= before  # tracking has not begun
    next(lines)
    assert len(set(threads()) - before) == 3
    assert torch.get_num_threads() == torch_threads
    if end == "close":
        lines.close()
    elif end == "exhaust":
        assert len(list(lines)) == 49
    del lines
    gc.collect()
    assert set(threads()) <= before
    assert torch.get_num_threads() == torch_threads


def test_nothing_is_tracked_while_the_caller_processes_a_streamline():
    meeting = Meeting(2)
    lines = run_seeds(meeting, 20, n_slots=4, nbr_threads=2)
    for _ in range(5):
        next(lines)
        n_calls = meeting.n_calls
        sleep(0.01)
        assert meeting.n_calls == n_calls
    lines.close()


def test_an_error_of_a_criterion_reaches_the_caller(noisy, torch_threads):
    class Broken(dipy_criteria.BinaryStoppingCriterion):
        def check_point(self, point):
            if point[0] > 5:
                raise ZeroDivisionError("of the criterion")
            return dipy_criteria.StreamlineStatus.TRACKPOINT

    before = set(threads())
    criterion = Broken(noisy.mask.astype(np.uint8))
    with pytest.raises(ZeroDivisionError, match="of the criterion"):
        list(run_noisy(noisy, criterion=criterion, n_slots=8, nbr_threads=3))
    assert set(threads()) <= before
    assert torch.get_num_threads() == torch_threads


def test_an_error_in_one_thread_ends_all(torch_threads):
    class Breaks(Meeting):
        def states(self, n, config):
            group = super().states(n, config)
            if not self.idents:
                self.idents.add("the first group")
                group.predict = self.fail
            return group

        def fail(self, points_vox, frames):
            self.barrier.wait(30)
            assert current_thread().name != "MainThread"
            raise ZeroDivisionError("of a thread")

    before = set(threads())
    meeting = Breaks(3)
    with pytest.raises(ZeroDivisionError, match="of a thread"):
        track_seeds(meeting, 90, n_slots=6, nbr_threads=3)
    assert set(threads()) <= before
    assert torch.get_num_threads() == torch_threads
    # The other threads did not track all of their seeds first.
    assert meeting.n_calls < 1000
