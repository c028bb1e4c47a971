"""The samplers as torch operations, on CPU tensors: the results of the kernels."""

import numpy as np
import numpy.testing as npt
import pytest
import torch
from worlds import border_points

from dipy_rnn import sampling
from dipy_rnn.sampling.interpolate_torch import TorchRotation, TorchVolume

CPU = torch.device("cpu")


def test_a_volume_is_sampled_as_by_the_kernel():
    values = np.random.default_rng(0).normal(size=(5, 1, 4, 15)).astype(np.float32)
    points = border_points(values.shape[:3])
    expected, inside = sampling.sample(values, points)
    sampled, found = TorchVolume(values, CPU).sample(torch.from_numpy(points))
    npt.assert_array_equal(found, inside)
    npt.assert_allclose(sampled, expected, atol=1e-6)
    assert not sampled[~found].any()


@pytest.mark.parametrize("order", [2, 4, 8, 16])
@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_harmonics_are_rotated_as_by_the_kernel(
    random_frames, cube_rotations, order, handedness
):
    given = np.concatenate(
        [random_frames(200, handedness), cube_rotations * handedness]
    )
    n_coeffs = (order + 1) * (order + 2) // 2
    coeffs = np.random.default_rng(0).normal(size=(len(given), n_coeffs))
    coeffs = coeffs.astype(np.float32)
    expected = sampling.rotate(coeffs, given, handedness=handedness)
    rotated = TorchRotation(order, handedness, CPU)(
        torch.from_numpy(coeffs), torch.from_numpy(given)
    )
    npt.assert_allclose(rotated, expected, atol=2e-5)
