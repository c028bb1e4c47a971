"""Masks and spheres contain the points that they should."""

import numpy as np
import pytest
from worlds import OBLIQUE_ROTATION, affine_of

from dipy_rnn import spatial
from dipy_rnn.stopping import MaskRegion, Sphere

AFFINE = affine_of((2.0, 3.0, 5.0), OBLIQUE_ROTATION)


def test_a_mask_contains_its_voxels_up_to_their_borders():
    mask = np.zeros((4, 5, 3))
    mask[1, 2, 1] = mask[0, 0, 0] = 0.1
    mask[3, 4, 2] = -1
    region = MaskRegion(mask, AFFINE)
    near = 1e-6
    inside = np.array([[1, 2, 1], [1.5 - near, 1.5 + near, 1], [-0.5 + near, 0, 0]])
    outside = [[1.5 + near, 2, 1], [1, 1.5 - near, 1], [-0.5 - near, 0, 0], [3, 4, 2]]
    outside = np.array([*outside, [1e9, 0, 0], [np.nan, 2, 1]])
    assert region.contains(spatial.to_mm(inside, AFFINE)).all()
    assert not region.contains(spatial.to_mm(outside, AFFINE)).any()
    assert region.contains(np.empty((0, 3))).shape == (0,)


def test_a_sphere_contains_the_points_up_to_its_radius():
    sphere = Sphere((1, 2, 3), 5)
    points = np.array([[1, 2, 3], [4, 6, 3], [4, 6, 3.1], [np.nan, 2, 3]])
    assert sphere.contains(points).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sphere((1, 2, 3), 0), "radius_mm is 0"),
        (lambda: Sphere((1, 2, 3), np.nan), "radius_mm is nan"),
        (lambda: Sphere((1, 2, np.inf), 1), "centre_mm"),
        (lambda: Sphere((1, 2), 1), "centre_mm"),
        (lambda: MaskRegion(np.zeros((2, 2, 2)), AFFINE), "mask is an empty region"),
        (lambda: MaskRegion(np.ones((2, 2)), AFFINE), r"mask has the shape \(2, 2\)"),
        (lambda: MaskRegion(np.ones((2, 2, 2)), np.eye(3)), "affine has the shape"),
    ],
)
def test_an_invalid_region_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
