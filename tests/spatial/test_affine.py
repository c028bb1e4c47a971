"""Affines, against grids whose coordinates are known."""

import re

from dipy.io.utils import is_header_compatible
from dipy.tracking.local_tracking import LocalTracking
import nibabel as nib
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest

from dipy_rnn import spatial

# x runs from right to left, voxels of 2 x 3 x 4 mm, voxel (0, 0, 0) at (90, -120, 5).
LAS = np.array([[-2.0, 0, 0, 90], [0, 3, 0, -120], [0, 0, 4, 5], [0, 0, 0, 1]])


def test_voxel_centres_are_where_the_affine_says():
    assert_array_equal(spatial.to_mm([[0, 0, 0], [10, 20, 1]], LAS)[1], [70, -60, 9])
    assert_array_equal(spatial.to_voxels([90, -120, 5], LAS), [0, 0, 0])
    assert_allclose(spatial.to_voxels([[70, -60, 9]], LAS), [[10, 20, 1]])


def test_the_image_begins_half_a_voxel_before_the_first_centre():
    assert_array_equal(spatial.to_mm([-0.5, -0.5, -0.5], LAS), [91, -121.5, 3])


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_voxels_and_mm_are_inverse_on_an_oblique_anisotropic_grid(
    oblique_affine, handedness
):
    affine = oblique_affine(handedness)
    points_vox = np.random.default_rng(0).uniform(-10, 100, (4, 5, 3))
    points_mm = spatial.to_mm(points_vox, affine)
    assert points_mm.shape == (4, 5, 3) and points_mm.dtype == np.float64
    assert_allclose(spatial.to_voxels(points_mm, affine), points_vox, atol=1e-10)


def test_a_point_does_not_depend_on_the_others(oblique_affine):
    points, affine = np.random.default_rng(0).normal(size=(7, 33, 3)), oblique_affine()
    for convert in (spatial.to_voxels, spatial.to_mm):
        together = convert(points, affine)
        for place in np.ndindex(7, 33):
            assert_array_equal(convert(points[place], affine), together[place])


def test_one_voxel_along_an_axis_is_its_size_in_mm_along_the_unit_axis(oblique_affine):
    affine = oblique_affine(-1.0)
    assert_allclose(spatial.voxel_sizes(affine), [1.5, 2, 3])
    for i in range(3):
        step_mm = spatial.to_mm(np.eye(3)[i], affine) - spatial.to_mm([0, 0, 0], affine)
        assert_allclose(
            step_mm, [1.5, 2, 3][i] * spatial.axes(affine)[:, i], atol=1e-12
        )


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_axes_are_orthonormal_and_keep_the_handedness(oblique_affine, handedness):
    affine = oblique_affine(handedness)
    axes = spatial.axes(affine)
    assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    assert_allclose(np.linalg.det(axes), handedness)
    assert spatial.handedness(affine) == handedness


def test_handedness_is_that_of_the_storage_order(cube_rotations):
    for rotation in cube_rotations:
        affine = np.eye(4)
        affine[:3, :3] = rotation
        assert spatial.handedness(affine) == 1.0
        affine[:3, 0] *= -1
        assert spatial.handedness(affine) == -1.0


def test_a_valid_affine_is_returned_as_float64(oblique_affine):
    for affine in (LAS, oblique_affine(), oblique_affine().astype(np.float32)):
        checked = spatial.check_affine(affine)
        assert checked.dtype == np.float64
        assert_array_equal(checked, affine)


def changed(row, column, value):
    affine = LAS.copy()
    affine[row, column] = value
    return affine


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.eye(3), "dwi.nii has the shape (3, 3)"),
        (changed(0, 3, np.nan), "dwi.nii holds NaN"),
        (changed(1, 1, np.inf), "dwi.nii holds NaN or infinity"),
        (changed(1, 1, 0), "dwi.nii is singular"),
        (LAS[[0, 0, 2, 3]], "dwi.nii is singular"),
        (changed(0, 1, 0.01), "dwi.nii contains 0.191 degrees of shear; up to 0.1"),
        (changed(3, 0, 5.0), "dwi.nii ends in the row"),
    ],
)
def test_invalid_affines_are_refused_in_one_line_by_name(affine, message):
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        spatial.check_affine(affine, "dwi.nii")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (1e-7, "voxels of 1e-07 mm"),
        (1e7, r"holds 1e\+07; up to 1e\+06 mm is allowed"),
        (1e200, "up to 1e"),
    ],
)
def test_voxels_too_small_or_too_large_for_a_brain_are_refused(scale, message):
    with pytest.raises(ValueError, match=f"fa.nii.*{message}"):
        spatial.check_affine(np.diag([scale, scale, scale, 1.0]), "fa.nii")


def sheared(deg, one, other, size_mm, seed=0):
    """Return an oblique affine with two axes this far from perpendicular."""
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    angle, affine = np.deg2rad(deg), np.eye(4)
    units = rotation.copy()
    units[:, one] = (
        np.cos(angle) * rotation[:, one] + np.sin(angle) * rotation[:, other]
    )
    affine[:3, :3] = units * np.array([1.0, 2.0, 3.0]) * size_mm
    return affine


@pytest.mark.parametrize("size_mm", [1.0, 0.1, 1e-3, 50.0])
@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 2), (2, 0)])
def test_shear_is_limited_as_an_angle_whatever_the_voxel_size(one, other, size_mm):
    for deg in (-0.099, 0.099):
        affine = sheared(deg, one, other, size_mm)
        assert_array_equal(spatial.check_affine(affine), affine)
    for deg in (-0.101, 0.101, 30.0):
        with pytest.raises(ValueError, match=f"{abs(deg):g} degrees of shear"):
            spatial.check_affine(sheared(deg, one, other, size_mm))


def test_the_axes_share_the_shear_between_them_equally():
    # The axes are 0.02 degrees too close: each is turned by 0.01 degrees.
    cos, sin = np.cos(np.deg2rad(0.01)), np.sin(np.deg2rad(0.01))
    affine = np.diag([0.0, 0, 4, 1])
    affine[:2, 0], affine[:2, 1] = [-2 * cos, 2 * sin], [-3 * sin, 3 * cos]
    assert_allclose(spatial.axes(affine), np.diag([-1.0, 1, 1]), atol=1e-15)
    assert_allclose(spatial.voxel_sizes(affine), [2, 3, 4])


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_axes_are_the_nearest_orthogonal_matrix(oblique_affine, handedness):
    rng = np.random.default_rng(1)
    for seed in range(20):
        affine = oblique_affine(handedness, seed)
        affine[:3, :3] += rng.uniform(-1e-3, 1e-3, (3, 3))
        spatial.check_affine(affine)
        units = affine[:3, :3] / spatial.voxel_sizes(affine)
        axes = spatial.axes(affine)
        assert_allclose(axes.T @ axes, np.eye(3), atol=1e-14)
        assert_allclose(np.linalg.det(axes), handedness)
        distance = np.linalg.norm(axes - units)
        for turn in rng.normal(size=(20, 3)) * 1e-3:
            x, y, z = turn
            near, _ = np.linalg.qr(np.eye(3) + [[0, -z, y], [z, 0, -x], [-y, x, 0]])
            near *= np.sign(np.diag(near))
            assert np.linalg.norm(axes @ near - units) > distance


def test_points_are_converted_with_the_sheared_affine_itself():
    affine = sheared(0.09, 0, 1, 2.0)
    assert_allclose(spatial.to_mm([100.0, 0, 0], affine), 100 * affine[:3, 0])
    assert_allclose(
        spatial.to_voxels(100 * affine[:3, 0], affine), [100, 0, 0], atol=1e-12
    )


def test_without_shear_the_origin_and_the_voxel_sizes_stay_and_dipy_accepts_it():
    affine = sheared(0.09, 0, 1, 2.0)
    affine[:3, 3] = [-90, 30, 7]
    with pytest.raises(ValueError, match="shear"):
        LocalTracking._get_voxel_size(affine)
    grid = spatial.without_shear(affine)
    assert_allclose(LocalTracking._get_voxel_size(grid), [2, 4, 6])
    assert_array_equal(grid[:, 3], affine[:, 3])
    assert_allclose(grid[:3, :3] / [2, 4, 6], spatial.axes(affine))
    # A column moves by half the shear at most.
    moved = np.linalg.norm((grid - affine)[:3, :3], axis=0) / [2, 4, 6]
    assert moved.max() < np.deg2rad(0.0451)


def test_without_shear_an_affine_of_right_angles_stays(oblique_affine):
    for affine in (LAS, oblique_affine(-1.0)):
        assert_allclose(spatial.without_shear(affine), affine, atol=1e-12)
    with pytest.raises(ValueError, match="degrees of shear"):
        spatial.without_shear(sheared(0.2, 0, 1, 2.0))


@pytest.mark.parametrize("scale", [0.5, 0.9, 1.1, 3.0])
@pytest.mark.parametrize("element", [(0, 0), (1, 0), (0, 3), (1, 3)])
def test_two_affines_are_of_one_grid_if_dipy_says_so(element, scale):
    # The tolerance is 0.001, plus 0.1 % of the element: 2, 0, 90 and -120.
    other = LAS.copy()
    other[element] += scale * (1e-3 + 1e-3 * abs(LAS[element]))
    images = [
        nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), affine)
        for affine in (other, LAS)
    ]
    is_same = spatial.is_same_grid(other, LAS)
    assert is_same == (scale < 1)
    assert is_same == is_header_compatible(*images)
