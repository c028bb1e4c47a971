"""In which space points fit an image."""

import numpy as np
import pytest

from dipy_rnn.spatial import Placement, describe_outside, is_inside, to_mm

SHAPE = (20, 30, 10)


@pytest.fixture
def affine(oblique_affine):
    affine = oblique_affine(-1.0)
    affine[:3, 3] = [200.0, 150.0, -40.0]
    return affine


def test_points_are_inside_from_border_to_border():
    points = [[-0.5, 0, 0], [19.49, 29, 9], [-0.51, 0, 0], [0, 29.5, 0], [0, 0, np.nan]]
    assert is_inside(points, (*SHAPE, 45)).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("change", "shares", "word"),
    [
        (lambda mm, vox: mm, (1.0, 0.0, 0.0), "another subject"),
        (lambda mm, vox: mm * [-1, -1, 1], (0.0, 1.0, 0.0), "negate x and y"),
        (lambda mm, vox: vox, (0.0, 0.0, 1.0), "as voxel coordinates"),
        (lambda mm, vox: mm + 900, (0.0, 0.0, 0.0), "another subject or space"),
    ],
)
def test_the_advice_names_the_space_in_which_points_fit(affine, change, shares, word):
    points_vox = np.random.default_rng(0).uniform(0, 9, (50, 3))
    points = change(to_mm(points_vox, affine), points_vox)
    placed = Placement.of(points, affine, np.ones(SHAPE, bool))
    assert (placed.ras, placed.lps, placed.voxels) == shares
    assert word in placed.advice()


def test_points_outside_are_counted_and_the_advice_is_about_these(affine):
    right = to_mm([[1.0, 2, 3], [2, 3, 4]], affine)
    assert describe_outside(right, affine, SHAPE) == (0, "")
    mixed = np.concatenate([right, [[5.0, 5, 5]]])
    n_outside, text = describe_outside(mixed, affine, SHAPE)
    assert n_outside == 1
    assert text.startswith("1 of 3 lie outside the image. They fit as voxel coord")


def test_points_may_be_expected_in_some_voxels_only():
    affine = np.eye(4)
    affine[:3, 3] = -5, -5, 0  # symmetric: as LPS, points are inside, too
    fitting = np.zeros((11, 11, 3), bool)
    fitting[:4] = True
    points = np.array([[-4.0, 1, 1], [-3, 2, 1], [-2, 3, 1], [3, 0, 0]])
    placed = Placement.of(points, affine, fitting)
    assert (placed.ras, placed.lps) == (0.75, 0.25)
    assert not placed.is_better_elsewhere
    assert Placement.of(points * [-1, -1, 1], affine, fitting).is_better_elsewhere
