"""Tractograms must lie in the image that they are used with."""

import numpy as np
import pytest

from dipy_rnn.io import check_placement
from dipy_rnn.spatial import to_mm

IMAGE = np.zeros((40, 30, 10))
IMAGE[5:15, 10:20, 2:8] = 0.5


@pytest.fixture
def affine(oblique_affine):
    return oblique_affine(-1.0)


@pytest.fixture
def lines(affine):
    rng = np.random.default_rng(0)
    points_vox = rng.uniform([5, 10, 2], [14.4, 19.4, 7.4], (20, 10, 3))
    return list(to_mm(points_vox, affine))


def check(lines, affine, image=IMAGE):
    check_placement(lines, affine, image, name="a.trk", image_name="fa.nii")


def test_a_tractogram_in_the_image_is_accepted_without_a_word(lines, affine, messages):
    check(lines, affine)
    assert not messages.records


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda lines: [], "a.trk holds no streamline"),
        (lambda lines: [line[:0] for line in lines], "a.trk holds no streamline"),
        (lambda lines: [line[:1] for line in lines], "a.trk holds only single points"),
        (
            lambda lines: [line[:1].repeat(3, axis=0) for line in lines],
            "a.trk holds only single points",
        ),
        (
            lambda lines: [line + 500 for line in lines],
            "200 of 200 points of a.trk lie outside the image fa.nii. Points in mm",
        ),
    ],
)
def test_a_tractogram_that_does_not_lie_in_the_image_is_refused(
    lines, affine, change, text
):
    with pytest.raises(ValueError, match=text):
        check(change(lines), affine)


def test_a_tractogram_in_another_space_is_refused_and_the_space_is_named(lines):
    affine = np.eye(4)
    affine[:3, 3] = 50, 60, -9
    lines = [to_mm(line, affine) for line in np.full((9, 4, 3), 7.0)]
    with pytest.raises(ValueError, match="fit in LPS"):
        check([line * [-1, -1, 1] for line in lines], affine)
    with pytest.raises(ValueError, match="fit as voxel coordinates"):
        check([line - affine[:3, 3] for line in lines], affine)


def test_parts_that_do_not_fit_are_a_warning(lines, affine, messages):
    lines[3] = lines[3] + 500
    lines[4] = lines[4][:1]
    check(lines, affine)
    assert "10 of 191 points of a.trk lie outside the image fa.nii." in messages.text
    assert "1 of 20 streamlines of a.trk are single points." in messages.text


def test_a_tractogram_that_fits_the_mask_better_in_lps_is_a_warning(messages):
    affine = np.eye(4)
    affine[:3, 3] = -19.5, -14.5, 0  # symmetric: all points are inside in LPS, too
    along_z = [[0, 5, 0.1 * i] for i in range(4)]
    lines = [to_mm(np.full((4, 3), 7.0) + along_z, affine) * [-1, -1, 1]]
    check(lines, affine)
    assert (
        "Only 0 % of the points of a.trk lie where fa.nii is above 0. They fit in LPS"
        in (messages.text)
    )


def test_a_tractogram_in_metres_is_a_warning(lines, affine, messages):
    centre = to_mm([10.0, 15, 5], affine)
    check([centre + (line - centre) / 1000 for line in lines], affine)
    assert "All points of a.trk lie within" in messages.text
    assert "mm, less than a voxel of fa.nii" in messages.text
