"""Streamlines end where the model predicts that the fibre ended, or that they are lost.

``test_backends.py`` compares the ways to track with the reference.
"""

from dipy.tracking.local_tracking import LocalTracking
from dipy.tracking.stopping_criterion import StreamlineStatus
import numpy as np
import pytest
import torch
from worlds import everywhere

from dipy_rnn import RNNDirectionGetter, rnn_tracking
from dipy_rnn.model import ModelFileError, ModelMetadata, as_model
from dipy_rnn.sampling import fodf_features
from dipy_rnn.stopping import StopReason
from dipy_rnn.tracking import track

SHAPE = (40, 5, 5)
SEED = np.array([[20.0, 2, 2]])


class Believer(torch.nn.Module):
    """Goes straight on. ``ended`` grows by 0.0625 in a step, ``lost`` by half of it."""

    @torch.jit.export
    def init_state(self, n: int):
        return torch.zeros(1, n, 1)

    def forward(self, features, direction, state, inputs):
        belief = state[0]
        answer = torch.cat([direction, belief, belief / 2], dim=1)
        return answer, state + 0.0625


@pytest.fixture
def world():
    fodf = np.zeros((*SHAPE, 15))
    fodf[..., 0], fodf[..., [3, 10]] = 1.0, [2.0, 2.5]
    metadata = ModelMetadata(
        "sh", 15, "local", 1, 1, inputs=(), outputs=("ended", "lost"), replay_points=0
    )
    return {
        "affine": np.eye(4),
        "stopping_criterion": everywhere(SHAPE),
        "seeds": SEED,
        "seed_directions": np.array([[1.0, 0, 0]]),
        "features": fodf_features(fodf, basis_type="tournier07", legacy=False),
        "model": as_model(Believer(), metadata),
        "step_size": 1.0,
    }


def test_a_streamline_ends_at_the_first_point_above_a_threshold(world):
    for options, n_steps, reason in (
        ({"ended_thr": 0.5}, 9, StopReason.FIBRE_END),  # 9 / 16 is above 0.5
        ({"lost_thr": 0.25}, 9, StopReason.LOST),
        ({"ended_thr": 0.25, "lost_thr": 0.25}, 5, StopReason.FIBRE_END),
        ({"ended_thr": 0.0}, 1, StopReason.FIBRE_END),
        ({}, 19, StopReason.OUTSIDE_IMAGE),
    ):
        (line,) = track(**world, **options)
        assert line.forward_stop is reason
        assert len(line.forward_half) == n_steps + 1
        # The backward half has a fresh state, so it is as long.
        assert line.backward_stop is reason
        assert len(line.backward_half) == min(n_steps, 20) + 1 + (reason == 2)


def test_the_end_of_a_fibre_is_a_valid_end_and_a_lost_streamline_is_not(world):
    for name, kept in (("ended_thr", 1), ("lost_thr", 0)):
        lines = list(rnn_tracking(**world, **{name: 0.25}, return_all=False))
        assert len(lines) == kept
    assert StopReason.FIBRE_END.status == StreamlineStatus.ENDPOINT
    assert StopReason.LOST.status == StreamlineStatus.TRACKPOINT


@pytest.mark.parametrize("look_ahead", [False, True])
def test_local_tracking_ends_streamlines_where_rnn_tracking_does(world, look_ahead):
    getter = RNNDirectionGetter(
        world["features"],
        model=world["model"],
        lost_thr=0.25,
        seeds=SEED if look_ahead else None,
    )
    tracker = LocalTracking(
        getter, world["stopping_criterion"], SEED, np.eye(4), step_size=1.0, max_cross=1
    )
    del world["seed_directions"]
    (expected,) = rnn_tracking(**world, lost_thr=0.25)
    (line,) = tracker
    np.testing.assert_allclose(line, expected, atol=1e-9)
    assert len(line) > 2


def test_a_model_without_the_output_is_refused(world):
    world["model"] = "deterministic"
    with pytest.raises(
        ModelFileError, match=r"lost_thr is 0\.5, but the model deterministic does"
    ):
        rnn_tracking(**world, lost_thr=0.5)
    assert list(rnn_tracking(**world, lost_thr=1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lost_thr": 1.5}, r"lost_thr is 1\.5; a probability from 0 to 1"),
        ({"ended_thr": np.nan}, "ended_thr is nan"),
        ({"ended_thr": "no"}, "ended_thr is of type str"),
    ],
)
def test_thresholds_that_are_no_probability_are_refused(world, options, message):
    with pytest.raises(ValueError, match=message):
        rnn_tracking(**world, **options)
