"""The compiled slots, phase by phase, and their limits."""

from types import SimpleNamespace

import numpy as np
import numpy.testing as npt
import pytest
from stubs import Recorder
from worlds import (
    OBLIQUE_ROTATION,
    STEPS,
    affine_of,
    ends_beyond,
    everywhere,
    row_of_points,
    track_from,
)

from dipy_rnn import draws, sampling, spatial, stopping
from dipy_rnn.model import load_model
from dipy_rnn.sampling import DATA
from dipy_rnn.spatial import frames
from dipy_rnn.stopping import BinaryStoppingCriterion, StopReason
from dipy_rnn.tracking import TrackingConfig
from dipy_rnn.tracking.predictor import Predictor
from dipy_rnn.tracking.seed_queue import SeedQueue
from dipy_rnn.tracking.slots._compiled import SlotArrays
from dipy_rnn.tracking.slots.compiled import CompiledSlots

X = np.array([1.0, 0.0, 0.0])
LONG = (2000, 3, 3)


# Phases


@pytest.mark.parametrize(
    ("warm_up_points", "warm_up"),
    [
        (None, [23, 22, 21]),
        (0, []),
        (1, [21]),
        (2, [22, 21]),
        (3, [23, 22, 21]),
        (5, [23, 22, 21]),
    ],
)
def test_the_network_sees_the_forward_half_the_warm_up_pass_and_the_backward_half(
    warm_up_points, warm_up
):
    predictor = Recorder()
    mask = np.zeros((40, 3, 3))
    mask[18:24] = 1
    (line,) = track_from(
        predictor,
        BinaryStoppingCriterion(mask),
        [[20, 1, 1]],
        X,
        warm_up_points=warm_up_points,
    )
    # From a seed at 20 to the ends of the mask, at 23 and at 18.
    forward, backward = [20, 21, 22, 23], [20, 19, 18]
    assert predictor.xs == [*forward, "reset", *warm_up, *backward, "reset"]
    assert (line.seed_index, line.n_forward) == (0, 4)
    npt.assert_array_equal(line.points_mm, row_of_points(18, 23))
    assert line.forward_stop == line.backward_stop == StopReason.ENDPOINT
    incoming = [frame[2, 0] for frame in predictor.frames]
    assert incoming == [1.0] * 4 + [-1.0] * (len(warm_up) + 3)


@pytest.mark.parametrize(
    ("warm_up_points", "n_seen"), [(0, 0), (1, 1), (5, 5), (6, 6), (9, 6), (None, 6)]
)
@pytest.mark.parametrize("n_slots", [1, 3])
def test_the_backward_half_starts_with_the_hidden_state_of_the_warm_up_pass(
    counter, warm_up_points, n_seen, n_slots
):
    # The network stops when it has seen 20 points. The backward half has as many steps
    # as the warm-up pass leaves. Each slot tracks several streamlines in turn.
    features = sampling.raw_features(np.full((60, 3, 3, 3), 20.0))
    predictor = Predictor(features, load_model(counter), np.eye(3), 1)
    lines = track_from(
        predictor,
        ends_beyond(36, (60, 3, 3)),
        [[30, 1, 1]] * 8,
        X,
        n_slots=n_slots,
        warm_up_points=warm_up_points,
    )
    assert [line.seed_index for line in lines] == list(range(8))
    for line in lines:
        npt.assert_array_equal(line.points_mm, row_of_points(30 - (20 - n_seen), 36))
        assert line.n_forward == 7
        assert line.forward_stop == StopReason.ENDPOINT
        assert line.backward_stop == StopReason.NO_DIRECTION


@pytest.mark.parametrize("warm_up_points", [None, 0, 1, 4, 9])
def test_frames_are_transported_and_reversed_for_the_warm_up_pass(warm_up_points):
    # A circle of 24 degrees a step in an oblique plane, on anisotropic voxels.
    predictor = Recorder((40, 40, 40), turn_deg=24.0)
    direction = np.array([0.6, 0.0, 0.8])
    (line,) = track_from(
        predictor,
        everywhere((40, 40, 40)),
        [[20, 20, 20]],
        direction,
        affine=np.diag([1.0, 2.0, 4.0, 1.0]),
        max_half_points=12,
        warm_up_points=warm_up_points,
    )
    assert (line.n_forward, len(line.points_mm)) == (12, 23)
    forward, shown = predictor.frames[:11], predictor.frames[11:]
    npt.assert_allclose(forward[0], frames.from_tangents(direction[None], np.eye(3))[0])
    steps = np.diff(line.forward_half, axis=0)
    for before, after, step in zip(forward, forward[1:], steps):
        carried = frames.transport(before[None], step[None])[0]
        npt.assert_allclose(after, carried, atol=1e-12)
    # The last frame of the forward half is not shown, because the half is full.
    forward.append(frames.transport(forward[-1][None], steps[-1:])[0])
    n_seen = 11 if warm_up_points is None else warm_up_points
    # At the first point of the warm-up pass the frame is reversed. At every later point
    # its tangent is that of the step to the point, also at the seed.
    back = frames.reverse(np.array(forward))[n_seen:0:-1]
    expected = [*back[:1], *back] if n_seen else frames.reverse(forward[0])[None]
    npt.assert_allclose(shown[: len(expected)], expected, atol=1e-9)
    # The Recorder has no hidden state, so the circle is the same for any warm-up pass.
    steps = np.diff(line.points_mm, axis=0)
    npt.assert_allclose(np.linalg.norm(steps, axis=1), 1, atol=1e-9)


def test_points_are_numbered_from_the_seed_for_criteria_that_draw_at_random():
    evaluated = []

    class Records(stopping.CmcStoppingCriterion):
        def check_points(self, points_vox, reasons, seed_keys, point_numbers):
            rows = np.flatnonzero(reasons == StopReason.RUNNING)
            evaluated.extend(
                zip(points_vox[rows, 0], point_numbers[rows], seed_keys[rows])
            )
            super().check_points(points_vox, reasons, seed_keys, point_numbers)

    never = Records(*np.zeros((2, 12, 3, 3)), 1.0, 1.0)
    seeds = np.array([[8.0, 1, 1], [2.0, 1, 1]])
    track_from(Recorder(shape=(12, 3, 3)), never, seeds, X, random_seed=7)
    keys = draws.seed_keys(7, seeds).tolist()
    assert len(set(keys)) == 2
    assert evaluated == [
        *((x, x - 8, keys[0]) for x in (9, 10, 11, 12)),
        *((x, x - 8, keys[0]) for x in range(7, -2, -1)),
        *((x, x - 2, keys[1]) for x in range(3, 13)),
        *((x, x - 2, keys[1]) for x in range(1, -2, -1)),
    ]


# Reasons


def arrays_at_their_seeds(n_slots, **settings):
    """Return slots whose streamlines start in the middle of the image, along z."""
    defaults = {"step_size": 1.0, "max_angle": 60.0, "max_points": 9}
    config = TrackingConfig.of(np.eye(4), **defaults | settings)
    arrays = SlotArrays(n_slots, config, has_cone=False)
    rows = np.arange(n_slots)
    first_frames = np.tile(np.eye(3), (n_slots, 1, 1))
    keys = np.zeros(n_slots, np.uint64)
    arrays.admit(rows, rows, np.full((n_slots, 3), 9.0), first_frames, keys)
    return arrays


def take_a_step(arrays, answers, status, in_frame=True):
    """Advance slots by one step, without a criterion. Return the finished ones."""
    states = SimpleNamespace(
        predict=lambda points, frames: (np.float32(answers), np.uint8(status)),
        reset=lambda rows: None,
    )
    finished = np.empty(len(arrays), np.int64)
    options = (None, lambda *points: None, None, [], in_frame)
    n_steps, n_finished = arrays.advance(states, *options, 1, len(arrays), finished)
    assert n_steps == 1
    return finished[:n_finished]


@pytest.mark.parametrize("in_frame", [True, False])
def test_the_kernel_classifies_steps_with_the_numbers_of_the_enumeration(in_frame):
    answers, status, expected = zip(*STEPS)
    arrays = arrays_at_their_seeds(len(STEPS))
    take_a_step(arrays, answers, status, in_frame)
    found = [StopReason(reason) for reason in np.asarray(arrays.reasons)]
    assert found == list(expected)


@pytest.mark.parametrize("limit", [{"max_half_points": 2}, {"max_points": 1}])
def test_the_kernel_ends_streamlines_at_the_largest_length(limit):
    arrays = arrays_at_their_seeds(1, unidirectional=True, **limit)
    finished = take_a_step(arrays, [[0, 0, 1]], [DATA])
    assert finished.tolist() == [0]
    *_, points_mm, forward_stop, backward_stop = arrays.collect(finished)
    npt.assert_array_equal(points_mm, [[9, 9, 9], [9, 9, 10]])
    assert forward_stop == backward_stop == StopReason.MAX_LENGTH


# Limits


@pytest.mark.parametrize("max_half_points", [2, 5, 60])
def test_a_half_ends_when_it_has_the_largest_number_of_points(max_half_points):
    (line,) = track_from(
        Recorder(),
        everywhere(LONG),
        [[1000, 1, 1]],
        X,
        max_half_points=max_half_points,
    )
    assert line.n_forward == max_half_points
    expected = row_of_points(1001 - max_half_points, 999 + max_half_points)
    npt.assert_array_equal(line.points_mm, expected)
    assert line.forward_stop == line.backward_stop == StopReason.MAX_LENGTH


def test_without_a_backward_half_a_streamline_begins_at_the_seed():
    predictor = Recorder()
    (line,) = track_from(
        predictor, ends_beyond(25), [[20, 1, 1]], X, unidirectional=True
    )
    npt.assert_array_equal(line.points_mm, row_of_points(20, 25))
    assert (line.n_forward, line.forward_stop) == (6, StopReason.ENDPOINT)
    assert predictor.xs == [*range(20, 26), "reset"]


@pytest.mark.parametrize("max_points", [1, 4, 6, 7, 30])
def test_a_streamline_with_too_many_points_ends_one_point_later(max_points):
    # The forward half has six points, with the seed.
    (line,) = track_from(
        Recorder(), ends_beyond(25), [[20, 1, 1]], X, max_points=max_points
    )
    n_forward, stops = line.n_forward, (line.forward_stop, line.backward_stop)
    assert n_forward == min(6, max_points + 1)
    assert len(line.points_mm) == min(26, max_points + 1)
    npt.assert_array_equal(
        line.points_mm,
        row_of_points(19 + n_forward - max_points, 19 + n_forward)
        if max_points < 30
        else row_of_points(0, 25),
    )
    if max_points == 30:
        assert stops == (StopReason.ENDPOINT, StopReason.OUTSIDE_IMAGE)
    else:
        assert stops[1] == StopReason.MAX_LENGTH
        assert (stops[0] == StopReason.MAX_LENGTH) == (max_points < 6)


@pytest.mark.parametrize("max_points", [253, 254, 255, 256, 257, 511, 512, 4000])
def test_there_is_room_for_long_streamlines_beside_short_ones(max_points):
    xs = [500, 3, 1998, 1000, 700, 5]
    lines = track_from(
        Recorder(),
        everywhere(LONG),
        [[x, 1, 1] for x in xs],
        np.array([(-1.0) ** np.arange(6)] * 3).T * X,
        max_points=max_points,
        n_slots=3,
    )
    for line, x, sign in zip(lines, xs, [1, -1] * 3, strict=True):
        ahead = min(max_points, 1999 - x if sign > 0 else x)
        behind = min(max_points - ahead, x if sign > 0 else 1999 - x)
        assert line.n_forward == ahead + 1
        expected = x + sign * np.arange(-behind, ahead + 1.0)
        npt.assert_array_equal(line.points_mm[:, 0], expected)


def test_points_are_returned_in_mm():
    affine = affine_of((1.0, 2.0, 4.0), OBLIQUE_ROTATION)
    (line,) = track_from(Recorder(), ends_beyond(25), [[20, 1, 1]], X, affine=affine)
    expected = spatial.to_mm(row_of_points(0, 25), affine)
    npt.assert_allclose(line.points_mm, expected, atol=1e-12)


def test_slots_without_a_seed_are_not_busy():
    predictor, none = Recorder(), np.empty((0, 3))
    slots = CompiledSlots(
        predictor,
        ends_beyond(9),
        SeedQueue(predictor, none, np.eye(4), none),
        TrackingConfig.of(np.eye(4), step_size=1.0, max_angle=60.0, max_points=9),
        n_slots=4,
    )
    assert not slots.busy
    assert slots.advance(10) == []
