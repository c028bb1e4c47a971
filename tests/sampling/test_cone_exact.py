"""The largest value in the cone: exact cases, in NumPy, torch and the kernel."""

from networks import deterministic
import numpy as np
from numpy.testing import assert_allclose
import pytest
import torch

from dipy_rnn.sampling import FeatureVolume, cone_of
from dipy_rnn.sampling.interpolate_torch import TorchCone
from dipy_rnn.tracking.config import TrackingConfig
from dipy_rnn.tracking.predictor import Predictor

ANGLES = [5.0, 20.0, 30.0, 45.0, 60.0, 80.0, 90.0]


def in_numpy(coeffs, angle):
    return cone_of(8, angle).largest(coeffs, 0.0)[0]


def in_torch(coeffs, angle):
    cone = TorchCone(cone_of(8, angle), torch.device("cpu"))
    return cone.largest(torch.from_numpy(coeffs.astype(np.float32)), 0.0)[0].numpy()


def in_kernel(coeffs, angle):
    volume = coeffs.astype(np.float32)[:, None, None]
    n = len(volume)
    predictor = Predictor(FeatureVolume(volume, "sh"), deterministic(), np.eye(3), 1)
    config = TrackingConfig.of(np.eye(4), step_size=0.5, max_angle=angle, max_points=9)
    points = np.arange(n)[:, None] * [1.0, 0, 0]
    frames = np.tile(np.eye(3), (n, 1, 1))
    return predictor.states(n, config).predict(points, frames)[0]


everywhere = pytest.mark.parametrize("largest", [in_numpy, in_torch, in_kernel])


@everywhere
@pytest.mark.parametrize("angle", ANGLES)
def test_a_lobe_straight_ahead_is_found_exactly(lobes, largest, angle):
    assert largest(lobes([[0.0, 0, 1]]), angle).tolist() == [[0, 0, 1]]


@everywhere
def test_a_turn_of_90_degrees_is_towards_the_first_two_axes_of_the_frame(
    lobes, largest
):
    across = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    expected = np.abs(across)
    assert_allclose(largest(lobes(across), 90.0), expected, atol=1e-6)


@everywhere
def test_a_direction_near_the_border_of_a_cone_of_90_degrees_is_in_the_cone(
    lobes, largest
):
    azimuth = np.deg2rad(np.arange(0.0, 360, 7))
    directions = np.stack(
        [np.cos(azimuth), np.sin(azimuth), np.full_like(azimuth, 0.02)], axis=1
    )
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found = largest(lobes(directions), 90.0)
    assert (np.einsum("ni,ni->n", found, directions) > np.cos(np.deg2rad(1))).all()


@everywhere
def test_of_equal_values_the_nearest_to_the_axis_is_taken(lobes, largest):
    both = lobes([[0.0, 0, 1]]) + lobes([[1.0, 0, 0]])
    assert largest(both, 90.0).tolist() == [[0, 0, 1]]
