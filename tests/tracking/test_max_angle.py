"""``max_angle`` is a cone, and ``pmf_threshold`` a share, as in DIPY."""

from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
import numpy as np
import numpy.testing as npt
import pytest
from worlds import everywhere

from dipy_rnn import RNNDirectionGetter, raw_features, sampling
from dipy_rnn.stopping import StopReason
from dipy_rnn.tracking import track
from dipy_rnn.tracking.reference import bend

SHAPE = (24, 24, 3)
SEED, ALONG_X = [[2.0, 12, 1]], [[1.0, 0, 0]]


def direction_at(degrees):
    """Return a unit vector in the x-y plane at an angle to x."""
    turn = np.deg2rad(degrees)
    return np.array([np.cos(turn), np.sin(turn), 0.0])


def streamline(features, model, criterion=None, **options):
    """Track forward from the seed along x; return points and why it ended."""
    options = {"max_angle": 30.0, "step_size": 0.5} | options
    (line,) = track(
        SEED,
        criterion or everywhere(SHAPE),
        np.eye(4),
        features=features,
        model=model,
        seed_directions=ALONG_X,
        unidirectional=True,
        **options,
    )
    return line.points_mm, line.forward_stop


def volume_of(lobes, directions, weights=None, lobe_deg=9.0):
    """Return the same fODF everywhere: lobes of given weights."""
    weights = np.ones(len(directions)) if weights is None else np.array(weights)
    each = lobes(directions, lobe_deg=lobe_deg)
    coeffs = (weights[:, None] * each).sum(axis=0)
    return sampling.FeatureVolume(
        np.broadcast_to(coeffs, (*SHAPE, 45)).astype(np.float32).copy(), "sh"
    )


@pytest.mark.parametrize("max_angle", [20.0, 30.0, 45.0, 60.0, 90.0])
def test_a_lobe_outside_the_cone_is_reached_by_turns_of_max_angle(
    lobes, newton, max_angle
):
    # A wide lobe increases towards its peak from every direction.
    features = volume_of(lobes, [direction_at(70)], lobe_deg=25.0)
    points, _ = streamline(features, newton, max_angle=max_angle, pmf_threshold=0.0)
    steps = np.diff(points, axis=0) / 0.5
    turned = np.rad2deg(np.arctan2(steps[:, 1], steps[:, 0]))
    expected = np.minimum(max_angle * np.arange(1, len(steps) + 1), 70)
    npt.assert_allclose(turned, expected, atol=0.5)


@pytest.mark.parametrize(
    ("pmf_threshold", "reason"),
    [(0.1, StopReason.OUTSIDE_IMAGE), (0.7, StopReason.NOTHING_AHEAD)],
)
def test_a_streamline_ends_where_the_cone_has_no_value_above_the_threshold(
    lobes, newton, pmf_threshold, reason
):
    # Straight ahead is half as much as across.
    features = volume_of(lobes, [direction_at(0), direction_at(90)], [0.5, 1.0])
    points, ended = streamline(features, newton, pmf_threshold=pmf_threshold)
    assert ended is reason
    assert len(points) == (1 if reason is StopReason.NOTHING_AHEAD else 43)
    npt.assert_allclose(points[:, 1:], [[12.0, 1.0]] * len(points), atol=0.05)


def test_of_two_lobes_in_the_cone_the_larger_one_is_followed(lobes, newton):
    features = volume_of(lobes, [direction_at(0), direction_at(50)], [0.8, 1.0])
    for max_angle, expected_deg in ((30, 0), (60, 50)):
        points, _ = streamline(features, newton, max_angle=max_angle)
        last = points[-1] - points[-2]
        assert abs(np.rad2deg(np.arctan2(last[1], last[0])) - expected_deg) < 2


@pytest.mark.parametrize("model", ["default", "deterministic"])
@pytest.mark.parametrize("max_angle", [15.0, 30.0, 60.0])
def test_no_step_leaves_the_cone_and_no_turn_ends_a_streamline(lobes, model, max_angle):
    # A quarter of a circle, in lobes along its tangents.
    x, y = np.indices(SHAPE[:2]) - np.array([2.0, 2.0])[:, None, None]
    degrees = np.rad2deg(np.arctan2(-x, y))
    coeffs = lobes(np.stack([direction_at(d) for d in degrees.ravel()]))
    data = coeffs.reshape(24, 24, 1, 45).repeat(3, axis=2).astype(np.float32)
    ring = np.abs(np.hypot(x, y) - 10) < 3
    criterion = BinaryStoppingCriterion(np.repeat(ring[..., None], 3, axis=2))
    features = sampling.FeatureVolume(data, "sh")
    points, ended = streamline(features, model, criterion, max_angle=max_angle)
    assert ended is not StopReason.NOTHING_AHEAD
    steps = np.diff(points, axis=0) / 0.5
    cosines = np.sum(steps[1:] * steps[:-1], axis=1)
    assert cosines.min() > np.cos(np.deg2rad(max_angle)) - 1e-9
    assert len(points) > 25  # a quarter has 31 steps


def test_a_model_of_format_1_ends_where_it_turns_by_more(follower):
    field = np.broadcast_to(direction_at(50), (*SHAPE, 3))
    for max_angle, n_points in ((45, 1), (60, 24)):
        points, ended = streamline(raw_features(field), follower, max_angle=max_angle)
        assert len(points) >= n_points
        assert (ended is StopReason.NOTHING_AHEAD) == (max_angle == 45)


def test_a_direction_outside_the_cone_moves_to_its_border():
    frame = np.eye(3)
    for degrees in (0, 10, 29.9):
        inside = np.array(
            [0.0, np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))]
        )
        npt.assert_array_equal(bend(inside, frame, 30.0), inside)
    border = [0.0, 0.5, np.sqrt(0.75)]
    npt.assert_allclose(
        bend(np.array([0.0, 3.0, 0.0]), frame, 30.0), border, atol=1e-12
    )
    npt.assert_allclose(bend(np.array([0.0, 1.0, -5]), frame, 30.0), border, atol=1e-12)
    npt.assert_array_equal(bend(np.array([0.0, 0, -1]), frame, 30.0), [0, 0, 1])
    npt.assert_array_equal(bend(np.zeros(3), frame, 30.0), np.zeros(3))


@pytest.mark.parametrize("pmf_threshold", [-0.1, 1.5, float("nan"), "much"])
def test_a_threshold_out_of_range_is_refused(lobes, newton, pmf_threshold):
    features = volume_of(lobes, [direction_at(0)])
    with pytest.raises(ValueError, match="pmf_threshold is"):
        streamline(features, newton, pmf_threshold=pmf_threshold)
    with pytest.raises(ValueError, match="pmf_threshold is"):
        RNNDirectionGetter(features, model=newton, pmf_threshold=pmf_threshold)


def test_a_step_outside_the_range_of_the_training_gives_a_warning(lobes, newton):
    features = volume_of(lobes, [direction_at(0)])
    with pytest.warns(UserWarning, match="was trained for 0.05 to 1 edges"):
        points, _ = streamline(features, "default", step_size=1.5)
    npt.assert_allclose(np.diff(points[:, 0]), 1.5, atol=1e-4)
