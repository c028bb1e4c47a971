"""The slots, phase by phase, the queue that fills them, and who works on them."""

from collections import Counter
from dataclasses import replace
import gc
import sys
from threading import (
    Barrier,
    Lock,
    Thread,
    current_thread,
    get_ident,
)
from threading import (
    enumerate as threads,
)
from time import sleep
from types import SimpleNamespace

from dipy.tracking import stopping_criterion as dipy_criteria
import numpy as np
import numpy.testing as npt
import pytest
import torch
from worlds import OBLIQUE_ROTATION, NoisyWorld, affine_of, everywhere

from dipy_rnn import sampling, spatial, stopping
from dipy_rnn.tracking import engine
from dipy_rnn.spatial import frames
from dipy_rnn.tracking.seed_queue import SeedQueue
from dipy_rnn.tracking.slots_compiled import CompiledSlots
from dipy_rnn.sampling import DATA
from dipy_rnn.model import load_model
from dipy_rnn.model import Predictor
from dipy_rnn.stopping import BinaryStoppingCriterion, StopReason

X = np.array([1.0, 0.0, 0.0])
LONG = (2000, 3, 3)


class Recorder:
    """Stands for a propagator: it goes straight on, or turns by a given angle.

    It writes down every point and frame that it is shown, and "fresh" where a state is
    made fresh; that of the first of its slots alone.
    """

    def __init__(self, replay_points=None, shape=LONG, turn_deg=0.0):
        self.model = SimpleNamespace(
            metadata=SimpleNamespace(replay_points=replay_points),
            device=torch.device("cpu"),
        )
        self.axes, self.data = np.eye(3), np.empty((*shape, 0), np.float32)
        self.in_frame, self.min_cosine = True, -2.0
        angle = np.deg2rad(turn_deg)
        self.answered = np.float32([np.sin(angle), 0.0, np.cos(angle)])
        self.shown, self.frames = [], []

    def states(self, n):
        return self

    def answer(self, points, frames):
        self.shown.append(np.array(points[0]))
        self.frames.append(np.array(frames[0]))
        n = len(points)
        return np.tile(self.answered, (n, 1)), np.full(n, DATA, np.uint8)

    def reset(self, rows):
        if 0 in rows:
            self.shown.append("fresh")

    def keep(self, rows):
        pass

    @property
    def xs(self):
        return [s if isinstance(s, str) else float(s[0]) for s in self.shown]


def until(x, shape=LONG):
    """Return a criterion that is met beyond an x."""
    mask = np.zeros(shape)
    mask[: x + 1] = 1
    return BinaryStoppingCriterion(mask)


def tracked(propagator, criterion, seeds, directions=None, **options):
    """Track seeds in voxels with steps of one voxel; return what comes, as a list."""
    if directions is not None:
        directions = np.broadcast_to(directions, np.shape(seeds)).astype(float)
    seeds = np.array(seeds, dtype=float)
    queue = SeedQueue(propagator, seeds, np.eye(4), directions)
    return list(run(propagator, criterion, queue, **options))


def run(propagator, criterion, queue, **options):
    defaults = {
        "step_vox": np.ones(3),
        "to_mm": np.eye(4),
        "max_points": 5000,
        "max_half": 5000,
        "n_slots": 1,
        "nbr_threads": 1,
    }
    return engine.run(propagator, criterion, queue, **defaults | options)


def line_between(first, last, y=1.0):
    xs = np.arange(first, last + 1.0)
    return np.column_stack([xs, np.full((len(xs), 2), [y, 1.0])])


# Phases


@pytest.mark.parametrize(
    ("replay_points", "replayed"),
    [
        (None, [23, 22, 21]),
        (0, []),
        (1, [21]),
        (2, [22, 21]),
        (3, [23, 22, 21]),
        (5, [23, 22, 21]),
    ],
)
def test_what_is_shown_forward_in_the_replay_and_backward(replay_points, replayed):
    propagator = Recorder(replay_points)
    mask = np.zeros((40, 3, 3))
    mask[18:24] = 1
    ((index, line, n_forward, *stops),) = tracked(
        propagator, BinaryStoppingCriterion(mask), [[20, 1, 1]], X
    )
    # From a seed at 20 to the ends of the mask, at 23 and at 18.
    forward, backward = [20, 21, 22, 23], [20, 19, 18]
    assert propagator.xs == [*forward, "fresh", *replayed, *backward, "fresh"]
    assert (index, n_forward) == (0, 4)
    npt.assert_array_equal(line, line_between(18, 23))
    assert stops == [StopReason.ENDPOINT, StopReason.ENDPOINT]
    ahead = [frame[2, 0] for frame in propagator.frames]
    assert ahead == [1.0] * 4 + [-1.0] * (len(replayed) + 3)


def test_more_points_to_replay_than_there_can_be_are_all():
    lines = [
        tracked(Recorder(replay_points), until(25), [[20, 1, 1]], X)
        for replay_points in (None, 2**70)
    ]
    npt.assert_array_equal(lines[0][0][1], lines[1][0][1])


@pytest.mark.parametrize(
    ("replay_points", "n_replayed"), [(0, 0), (1, 1), (5, 5), (6, 6), (9, 6), (None, 6)]
)
@pytest.mark.parametrize("n_slots", [1, 3])
def test_the_backward_half_goes_on_with_the_state_the_replay_leaves(
    counter, replay_points, n_replayed, n_slots
):
    # The counter stops after so many points shown: 20 less those of the replay are
    # left. Every slot has several streamlines, one after the other.
    model = load_model(counter)
    model.metadata = replace(model.metadata, replay_points=replay_points)
    features = sampling.raw_features(np.full((60, 3, 3, 3), 20.0))
    propagator = Predictor(features, model, np.eye(3), 60.0, 1)
    lines = tracked(
        propagator, until(36, (60, 3, 3)), [[30, 1, 1]] * 8, X, n_slots=n_slots
    )
    assert [index for index, *_ in lines] == list(range(8))
    for _, line, n_forward, forward_stop, backward_stop in lines:
        npt.assert_array_equal(line, line_between(30 - (20 - n_replayed), 36))
        assert n_forward == 7
        assert forward_stop == StopReason.ENDPOINT
        assert backward_stop == StopReason.NO_DIRECTION


@pytest.mark.parametrize("replay_points", [None, 0, 1, 4, 9])
def test_frames_are_carried_along_and_turned_round_for_the_replay(replay_points):
    # A circle of 24 degrees a step in a plane that is askew, on anisotropic voxels.
    propagator = Recorder(replay_points, (40, 40, 40), turn_deg=24.0)
    step_vox, direction = np.array([1.0, 0.5, 0.25]), np.array([0.6, 0.0, 0.8])
    ((_, line, n_forward, *_),) = tracked(
        propagator,
        everywhere((40, 40, 40)),
        [[20, 20, 20]],
        direction,
        step_vox=step_vox,
        max_half=12,
    )
    assert (n_forward, len(line)) == (12, 23)
    forward, shown = propagator.frames[:11], propagator.frames[11:]
    npt.assert_allclose(forward[0], frames.from_tangents(direction[None], np.eye(3))[0])
    steps = np.diff(line[11:], axis=0) / step_vox
    for before, after, step in zip(forward, forward[1:], steps):
        carried = frames.transport(before[None], step[None])[0]
        npt.assert_allclose(after, carried, atol=1e-12)
    # The last frame of the forward half is not shown: it had no room for more.
    forward.append(frames.transport(forward[-1][None], steps[-1:])[0])
    n_replayed = 11 if replay_points is None else replay_points
    # At the first point of the replay, looking back the way it came; from then on at
    # each point as at the next, and at the seed as at the point after it.
    back = frames.reverse(np.array(forward))[n_replayed:0:-1]
    expected = (
        [*back[:1], *back] if n_replayed else frames.reverse(forward[0])[None]
    )
    npt.assert_allclose(shown[: len(expected)], expected, atol=1e-9)
    # No state of its own: it goes on in the same circle whatever is replayed.
    turns = np.diff(line, axis=0) / step_vox
    npt.assert_allclose(np.linalg.norm(turns, axis=1), 1, atol=1e-9)


def test_points_are_numbered_from_the_seed_for_criteria_that_draw(monkeypatch):
    asked = []

    def check_points(criterion, points, reasons, keys, numbers):
        rows = np.flatnonzero(reasons == StopReason.RUNNING)
        asked.extend(zip(points[rows, 0], numbers[rows], keys[rows]))
        original(criterion, points, reasons, keys, numbers)

    original = stopping.evaluate_criterion
    monkeypatch.setattr(stopping, "check_points", check_points)
    never = stopping.CmcStoppingCriterion(*np.zeros((2, 12, 3, 3)), 1.0, 1.0)
    seeds = np.array([[8.0, 1, 1], [2.0, 1, 1]])
    tracked(Recorder(shape=(12, 3, 3)), never, seeds, X, random_seed=7)
    keys = stopping.seed_keys(7, seeds).tolist()
    assert len(set(keys)) == 2
    assert asked == [
        *((x, x - 8, keys[0]) for x in (9, 10, 11, 12)),
        *((x, x - 8, keys[0]) for x in range(7, -2, -1)),
        *((x, x - 2, keys[1]) for x in range(3, 13)),
        *((x, x - 2, keys[1]) for x in range(1, -2, -1)),
    ]


# Limits


@pytest.mark.parametrize("max_half", [2, 5, 60])
def test_a_half_may_have_so_many_points(max_half):
    ((_, line, n_forward, *stops),) = tracked(
        Recorder(), everywhere(LONG), [[1000, 1, 1]], X, max_half=max_half
    )
    assert n_forward == max_half
    npt.assert_array_equal(line, line_between(1001 - max_half, 999 + max_half))
    assert stops == [StopReason.MAX_LENGTH, StopReason.MAX_LENGTH]


def test_without_a_backward_half_a_streamline_begins_at_the_seed():
    propagator = Recorder()
    ((_, line, n_forward, forward_stop, _),) = tracked(
        propagator, until(25), [[20, 1, 1]], X, unidirectional=True
    )
    npt.assert_array_equal(line, line_between(20, 25))
    assert (n_forward, forward_stop) == (6, StopReason.ENDPOINT)
    assert propagator.xs == [*range(20, 26), "fresh"]


@pytest.mark.parametrize("max_points", [1, 4, 6, 7, 30])
def test_a_streamline_with_too_many_points_ends_one_point_later(max_points):
    # Six points forward, the seed among them.
    ((_, line, n_forward, *stops),) = tracked(
        Recorder(), until(25), [[20, 1, 1]], X, max_points=max_points
    )
    assert n_forward == min(6, max_points + 1)
    assert len(line) == min(26, max_points + 1)
    npt.assert_array_equal(
        line,
        line_between(19 + n_forward - max_points, 19 + n_forward)
        if max_points < 30
        else line_between(0, 25),
    )
    if max_points == 30:
        assert stops == [StopReason.ENDPOINT, StopReason.OUTSIDE_IMAGE]
    else:
        assert stops[1] == StopReason.MAX_LENGTH
        assert (stops[0] == StopReason.MAX_LENGTH) == (max_points < 6)


@pytest.mark.parametrize("max_points", [253, 254, 255, 256, 257, 511, 512, 4000])
def test_long_streamlines_find_room_beside_short_ones(max_points):
    xs = [500, 3, 1998, 1000, 700, 5]
    lines = tracked(
        Recorder(),
        everywhere(LONG),
        [[x, 1, 1] for x in xs],
        np.array([(-1.0) ** np.arange(6)] * 3).T * X,
        max_points=max_points,
        n_slots=3,
    )
    for (_, line, n_forward, *_), x, sign in zip(lines, xs, [1, -1] * 3, strict=True):
        ahead = min(max_points, 1999 - x if sign > 0 else x)
        behind = min(max_points - ahead, x if sign > 0 else 1999 - x)
        assert n_forward == ahead + 1
        expected = x + sign * np.arange(-behind, ahead + 1.0)
        npt.assert_array_equal(line[:, 0], expected)


def test_points_are_handed_over_in_mm():
    affine = affine_of((1.0, 2.0, 4.0), OBLIQUE_ROTATION)
    ((_, line, *_),) = tracked(Recorder(), until(25), [[20, 1, 1]], X, to_mm=affine)
    npt.assert_allclose(line, spatial.to_mm(line_between(0, 25), affine), atol=1e-12)


# The queue


def queue_of(seeds, directions, affine=None, **options):
    propagator = Recorder(shape=(30, 3, 3))
    affine = np.eye(4) if affine is None else affine
    return SeedQueue(propagator, seeds, affine, directions, **options)


def drained(queue, n):
    """Take n at a time until there are no more; return all three parts joined."""
    parts = []
    while not parts or len(parts[-1][0]):
        parts.append(queue.take(n))
        assert len(parts[-1][0]) <= n
    return tuple(map(np.concatenate, zip(*parts)))


@pytest.mark.parametrize("n_ahead", [1, 2, 3, 1000])
@pytest.mark.parametrize("n", [1, 2, 100])
def test_seeds_come_in_their_order_without_those_left_out(n, n_ahead):
    xs = [4.0, -0.51, -0.5, 29.49, 29.5, 5.0, 6.0, np.nan]
    seeds = np.column_stack([xs, np.ones((8, 2))])
    directions = np.tile([0.0, 3.0, 4.0], (8, 1))
    directions[5] = 0.0
    queue = queue_of(seeds, directions, n_ahead=n_ahead)
    assert len(queue) == 8
    index, seeds_vox, first = drained(queue, n)
    assert len(queue) == 0
    assert index.tolist() == [0, 2, 3, 6]
    assert queue.left_out == {1, 4, 5, 7}
    npt.assert_array_equal(seeds_vox, seeds[[0, 2, 3, 6]])
    npt.assert_allclose(first[:, 2], [[0.0, 0.6, 0.8]] * 4, atol=1e-15)


def test_taking_nothing_and_taking_from_an_empty_queue():
    queue = queue_of(np.ones((2, 3)), np.ones((2, 3)))
    assert [part.shape for part in queue.take(0)] == [(0,), (0, 3), (0, 3, 3)]
    assert queue.take(5)[0].tolist() == [0, 1]
    for empty in (queue, queue_of(np.empty((0, 3)), np.empty((0, 3)))):
        assert [part.shape for part in empty.take(5)] == [(0,), (0, 3), (0, 3, 3)]
        assert len(empty) == 0


@pytest.mark.parametrize("peaks", [True, False])
def test_how_far_the_queue_looks_ahead_changes_nothing(noisy, peaks):
    propagator = propagator_of(noisy, "default")
    directions = None if peaks else np.random.default_rng(0).normal(size=(60, 3))
    arguments = propagator, noisy.seeds, noisy.affine, directions
    far = drained(SeedQueue(*arguments), 7)
    npt.assert_allclose(far[1], noisy.seeds_vox, atol=1e-12)
    for n_ahead in (1, 5):
        near = drained(SeedQueue(*arguments, n_ahead=n_ahead), 7)
        npt.assert_array_equal(near[0], far[0])
        npt.assert_allclose(near[1], far[1], atol=1e-12)
        # Peaks are sums that BLAS takes in another order if there is one alone.
        npt.assert_allclose(near[2], far[2], atol=1e-12 if peaks else 0)


def test_threads_that_take_at_once_lose_nothing_and_get_nothing_twice():
    n = 3000
    seeds = np.column_stack([np.linspace(0, 29, n), np.ones((n, 2))])
    queue = queue_of(seeds, np.tile(X, (n, 1)), n_ahead=7)
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
    index, seeds_vox, first = map(np.concatenate, zip(*taken))
    assert len(index) == len(first) == n
    assert not queue.left_out
    order = np.argsort(index)
    npt.assert_array_equal(index[order], np.arange(n))
    npt.assert_array_equal(seeds_vox[order], seeds)


# What streamlines do not depend on


@pytest.fixture(scope="module")
def noisy():
    world = NoisyWorld(affine_of((2.0, 3.0, 4.0), OBLIQUE_ROTATION))
    world.criterion = BinaryStoppingCriterion(world.mask)
    world.seeds_vox = spatial.to_voxels(world.seeds, world.affine)
    return world


def propagator_of(world, model):
    return Predictor(
        world.features, load_model(model), spatial.axes(world.affine), 60.0, 1
    )


def run_noisy(world, model="default", criterion=None, **options):
    propagator = propagator_of(world, model)
    directions = np.random.default_rng(0).normal(size=(len(world.seeds), 3))
    return run(
        propagator,
        world.criterion if criterion is None else criterion,
        SeedQueue(propagator, world.seeds, world.affine, directions),
        step_vox=1.0 / spatial.voxel_sizes(world.affine),
        to_mm=world.affine,
        **options,
    )


@pytest.mark.parametrize("model", ["default", "counter"])
def test_streamlines_are_the_same_whoever_tracks_them(noisy, counter, model):
    if model == "counter":
        noisy = SimpleNamespace(**vars(noisy))
        limits = np.random.default_rng(0).integers(0, 30, noisy.mask.shape)
        noisy.features = sampling.raw_features(limits[..., None] * np.ones(3))
        model = counter
    expected = list(run_noisy(noisy, model, n_slots=64))
    assert len(expected) == 60
    assert len({len(line) for _, line, *_ in expected}) > 10
    for n_slots, nbr_threads in ((1, 1), (7, 2), (5, 5), (60, 2), (1000, 5), (0, 1)):
        others = list(run_noisy(noisy, model, n_slots=n_slots, nbr_threads=nbr_threads))
        for ours, theirs in zip(expected, others, strict=True):
            npt.assert_array_equal(ours[1], theirs[1])
            assert (ours[0], *ours[2:]) == (theirs[0], *theirs[2:])


@pytest.mark.parametrize("nbr_threads", [1, 2, 5])
@pytest.mark.parametrize("n_slots", [1, 4, 100])
def test_streamlines_come_in_the_order_of_the_queue(n_slots, nbr_threads):
    # The first take longest; every third seed is outside and left out.
    xs = np.linspace(390, 3, 40)
    seeds = np.column_stack([xs, np.ones(40), np.ones(40)])
    seeds[::3, 1] = 9.0
    lines = tracked(
        Recorder(),
        everywhere(LONG),
        seeds,
        -X,
        n_slots=n_slots,
        nbr_threads=nbr_threads,
        unidirectional=True,
    )
    assert [i for i, *_ in lines] == [i for i in range(40) if i % 3]
    begins = [line[0, 0] for _, line, *_ in lines]
    npt.assert_array_equal(begins, np.delete(xs, np.arange(0, 40, 3)))


def test_streamlines_share_no_memory(noisy):
    lines = [line for _, line, *_ in run_noisy(noisy, n_slots=64, nbr_threads=2)]
    kept = [line.copy() for line in lines]
    for i, line in enumerate(lines):
        assert line.flags.writeable and line.dtype == np.float64
        line[:] = i
    for i, (line, before) in enumerate(zip(lines, kept, strict=True)):
        assert line.shape == before.shape
        assert (line == i).all()


def test_without_seeds_there_is_nothing_to_do():
    empty = np.empty((0, 3))
    for nbr_threads in (1, 3):
        options = {"nbr_threads": nbr_threads, "n_slots": 8}
        assert tracked(Recorder(), until(9), empty, empty, **options) == []
        outside = np.full((5, 3), -9.0)
        assert tracked(Recorder(), until(9), outside, X, **options) == []
    slots = CompiledSlots(
        Recorder(),
        until(9),
        queue_of(empty, empty),
        step_vox=np.ones(3),
        to_mm=np.eye(4),
        max_points=9,
        max_half=9,
        n_slots=4,
    )
    assert not slots.busy
    assert slots.advance(10).points_mm.shape == (0, 3)


# Threads


@pytest.fixture
def torch_threads():
    """Let torch have a number of threads that nobody would choose."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


class Meeting(Recorder):
    """Goes on when as many groups are at work at once as there are threads."""

    def __init__(self, n_threads):
        super().__init__(shape=(200, 3, 3))
        self.barrier, self.idents, self.n_calls = Barrier(n_threads), set(), 0
        self.torch_threads = set()
        self.lock = Lock()

    def states(self, n):
        return MeetingGroup(self)


class MeetingGroup:
    def __init__(self, meeting):
        self.meeting, self.met = meeting, False

    def answer(self, points, frames):
        meeting = self.meeting
        if not self.met:
            meeting.barrier.wait(30)
            self.met = True
        with meeting.lock:
            meeting.idents.add(get_ident())
            meeting.torch_threads.add(torch.get_num_threads())
            meeting.n_calls += 1
        n = len(points)
        return np.tile(meeting.answered, (n, 1)), np.full(n, DATA, np.uint8)

    def reset(self, rows):
        pass

    keep = reset


def seeds_before_the_end(n):
    return np.column_stack([np.linspace(20, 100, n), np.ones((n, 2))])


def queue_for(meeting, n):
    seeds, directions = seeds_before_the_end(n), np.tile(X, (n, 1))
    return SeedQueue(meeting, seeds, np.eye(4), directions)


def test_each_thread_has_a_group_of_its_own(torch_threads):
    meeting = Meeting(3)
    seeds = seeds_before_the_end(9)
    lines = tracked(
        meeting, everywhere((200, 3, 3)), seeds, X, n_slots=7, nbr_threads=3
    )
    assert len(lines) == 9
    assert len(meeting.idents) == 3 and get_ident() not in meeting.idents


@pytest.mark.parametrize("nbr_threads", [1, 2])
def test_torch_has_one_thread_in_each_of_ours(torch_threads, nbr_threads):
    meeting = Meeting(nbr_threads)
    seeds = seeds_before_the_end(4)
    options = {"n_slots": 2, "nbr_threads": nbr_threads}
    assert tracked(meeting, everywhere((200, 3, 3)), seeds, X, **options)
    assert meeting.torch_threads == {1}
    assert torch.get_num_threads() == torch_threads


def test_there_are_no_more_threads_than_slots():
    meeting = Meeting(2)
    seeds = seeds_before_the_end(2)
    lines = tracked(
        meeting, everywhere((200, 3, 3)), seeds, X, n_slots=100, nbr_threads=64
    )
    assert len(lines) == len(meeting.idents) == 2


def test_one_thread_is_the_callers():
    meeting = Meeting(1)
    seeds = seeds_before_the_end(5)
    tracked(meeting, everywhere((200, 3, 3)), seeds, X, n_slots=2, nbr_threads=1)
    assert meeting.idents == {get_ident()}


def test_a_criterion_that_may_hold_a_state_is_asked_from_one_thread_alone(noisy):
    idents = Counter()

    class Mine(dipy_criteria.BinaryStoppingCriterion):
        def check_point(self, point):
            idents[get_ident()] += 1
            return dipy_criteria.BinaryStoppingCriterion.check_point(self, point)

    mask = noisy.mask.astype(np.uint8)
    lines = list(run_noisy(noisy, criterion=Mine(mask), n_slots=16, nbr_threads=4))
    assert set(idents) == {get_ident()} and idents.total() > 60
    expected = list(run_noisy(noisy, n_slots=16))
    for (_, ours, *_), (_, theirs, *_) in zip(lines, expected, strict=True):
        npt.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "kind",
    [dipy_criteria.BinaryStoppingCriterion, BinaryStoppingCriterion],
    ids=["dipys", "ours"],
)
def test_a_criterion_without_a_state_is_asked_from_several(kind):
    meeting = Meeting(2)
    tracked(
        meeting,
        kind(np.ones((200, 3, 3), np.uint8)),
        seeds_before_the_end(4),
        X,
        n_slots=4,
        nbr_threads=2,
        max_half=20,
    )
    assert len(meeting.idents) == 2


@pytest.mark.parametrize("end", ["close", "forget", "exhaust"])
def test_no_thread_outlives_its_generator(torch_threads, end):
    before = set(threads())
    meeting = Meeting(3)
    queue = queue_for(meeting, 50)
    lines = run(meeting, everywhere((200, 3, 3)), queue, n_slots=6, nbr_threads=3)
    assert set(threads()) <= before  # it has not begun
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


def test_nothing_is_tracked_while_the_caller_holds_a_streamline():
    meeting = Meeting(2)
    queue = queue_for(meeting, 20)
    lines = run(meeting, everywhere((200, 3, 3)), queue, n_slots=4, nbr_threads=2)
    for _ in range(5):
        next(lines)
        n_calls = meeting.n_calls
        sleep(0.01)
        assert meeting.n_calls == n_calls
    lines.close()


def test_what_goes_wrong_in_a_criterion_reaches_the_caller(noisy, torch_threads):
    class Broken(dipy_criteria.BinaryStoppingCriterion):
        def check_point(self, point):
            if point[0] > 5:
                raise ZeroDivisionError("mine")
            return dipy_criteria.StreamlineStatus.TRACKPOINT

    before = set(threads())
    criterion = Broken(noisy.mask.astype(np.uint8))
    with pytest.raises(ZeroDivisionError, match="mine"):
        list(run_noisy(noisy, criterion=criterion, n_slots=8, nbr_threads=3))
    assert set(threads()) <= before
    assert torch.get_num_threads() == torch_threads


def test_what_goes_wrong_in_one_thread_ends_all(torch_threads):
    class Breaks(Meeting):
        def states(self, n):
            group = super().states(n)
            if not self.idents:
                self.idents.add("the first")
                group.answer = self.breaks
            return group

        def breaks(self, points, frames):
            self.barrier.wait(30)
            assert current_thread().name != "MainThread"
            raise ZeroDivisionError("theirs")

    before = set(threads())
    meeting = Breaks(3)
    with pytest.raises(ZeroDivisionError, match="theirs"):
        tracked(
            meeting,
            everywhere((200, 3, 3)),
            seeds_before_the_end(90),
            X,
            n_slots=6,
            nbr_threads=3,
        )
    assert set(threads()) <= before
    assert torch.get_num_threads() == torch_threads
    # The others did not track to the end first.
    assert meeting.n_calls < 1000
