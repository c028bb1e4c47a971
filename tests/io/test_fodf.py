"""fODFs and peaks in peaks and metrics files and in NIfTI files."""

from commands import write_peaks
from dipy.io.image import save_nifti
import h5py
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest

from dipy_rnn import peaks_features
from dipy_rnn.io import load_features

AFFINE = np.diag([-2.0, 2, 2, 1])
SHAPE = (3, 4, 5)


@pytest.fixture
def peaks():
    """Return five peaks of each voxel, (X, Y, Z, 5, 3), some of them zero."""
    directions = np.random.default_rng(0).normal(size=(*SHAPE, 5, 3))
    directions[..., 3:, :] = 0
    return directions.astype(np.float32)


def test_a_peaks_and_metrics_file_without_spherical_harmonics_gives_its_peaks(
    peaks, tmp_path
):
    path = tmp_path / "peaks.pam5"
    write_peaks(path, peaks, AFFINE)
    for sh_basis in (None, "peaks"):
        features, affine = load_features(path, "sh", sh_basis, "voxel")
        assert_allclose(features.data, peaks_features(peaks).data, atol=1e-5)
        assert_array_equal(affine, AFFINE)
    with pytest.raises(ValueError, match="contains no spherical harmonics"):
        load_features(path, "sh", "tournier07", "voxel")


def test_peaks_are_not_read_from_a_file_with_spherical_harmonics(peaks, tmp_path):
    path = tmp_path / "peaks.pam5"
    write_peaks(path, peaks, AFFINE)
    coeffs = np.zeros((*SHAPE, 15))
    coeffs[..., [0, 3, 10]] = 1, 2, 2
    with h5py.File(path, "a") as file:
        del file["pam"]["peak_dirs"]
        file["pam"]["peak_dirs"] = "not a number"
        if "shm_coeff" in file["pam"]:
            del file["pam"]["shm_coeff"]
        file["pam"]["shm_coeff"] = coeffs
    features, _ = load_features(path, "sh", "tournier07", "voxel")
    assert_array_equal(features.data, coeffs)
    with pytest.raises(ValueError, match="peak_dirs is of type object"):
        load_features(path, "sh", "peaks", "voxel")


@pytest.mark.parametrize("n", [1, 3, 4, 5])
@pytest.mark.parametrize("sh_frame", ["voxel", "scanner"])
def test_images_of_peaks_are_found_by_their_shape(n, sh_frame, peaks, tmp_path):
    path = tmp_path / "peaks.nii.gz"
    peaks = peaks[..., :n, :]
    expected = peaks_features(peaks, frame=sh_frame, affine=AFFINE).data
    save_nifti(path, peaks, AFFINE)
    assert_allclose(load_features(path, "sh", None, sh_frame)[0].data, expected)
    save_nifti(path, peaks.reshape(*SHAPE, -1), AFFINE)
    sh_basis = "peaks" if n == 5 else None  # 15 volumes are also of order 4
    features, affine = load_features(path, "sh", sh_basis, sh_frame)
    assert_allclose(features.data, expected)
    assert_array_equal(affine, AFFINE)


def test_fifteen_volumes_are_spherical_harmonics_unless_they_are_unit_vectors(
    peaks, tmp_path
):
    path = tmp_path / "peaks.nii.gz"
    coeffs = np.zeros((*SHAPE, 15), np.float32)
    coeffs[..., [0, 3, 10]] = 1, 2, 2
    save_nifti(path, coeffs, AFFINE)
    features, _ = load_features(path, "sh", None, "voxel")
    assert features.data.shape == (*SHAPE, 15)
    unit = peaks / np.maximum(np.linalg.norm(peaks, axis=-1, keepdims=True), 1e-9)
    save_nifti(path, unit.reshape(*SHAPE, 15), AFFINE)
    with pytest.raises(ValueError, match=r"15 volumes.*add sh_basis peaks") as caught:
        load_features(path, "sh", None, "voxel")
    assert "\n" not in str(caught.value)


def test_values_too_large_for_a_length_are_not_unit_vectors(tmp_path):
    path = tmp_path / "peaks.nii.gz"
    coeffs = np.zeros((*SHAPE, 15), np.float32)
    coeffs[..., [0, 3, 10]] = 1e38
    save_nifti(path, coeffs, AFFINE)
    features, _ = load_features(path, "sh", None, "voxel")
    assert features.data.shape == (*SHAPE, 15)


@pytest.mark.parametrize("n", [5, 15])
@pytest.mark.parametrize("missing", [0, np.nan])
def test_fifteen_volumes_of_sorted_peaks_are_not_taken_for_spherical_harmonics(
    n, missing, tmp_path
):
    path = tmp_path / "peaks.nii.gz"  # as sh2peaks -num 5 of MRtrix3 writes it
    rng = np.random.default_rng(0)
    peaks = rng.normal(size=(*SHAPE, n, 3))
    peaks /= np.linalg.norm(peaks, axis=-1, keepdims=True)
    peaks *= np.sort(rng.random((*SHAPE, n)))[..., ::-1, None]
    peaks[..., 3:, :], peaks[0] = missing, missing
    save_nifti(path, peaks.reshape(*SHAPE, -1).astype(np.float32), AFFINE)
    with pytest.raises(ValueError, match=rf"{3 * n} volumes, .* {n} peaks; add sh_ba"):
        load_features(path, "sh", None, "voxel")
    features, _ = load_features(path, "sh", "peaks", "voxel")
    assert_allclose(features.data, peaks_features(peaks).data, atol=1e-5)


def test_volumes_without_negative_values_are_taken_for_peaks_with_a_warning(tmp_path):
    path = tmp_path / "colours.nii.gz"
    save_nifti(path, np.random.default_rng(0).random((*SHAPE, 12)), AFFINE)
    with pytest.warns(UserWarning, match="colours.nii.gz has hardly any negative"):
        load_features(path, "sh", None, "voxel")


@pytest.mark.parametrize(
    "make", [lambda fodf: -fodf, np.random.default_rng(0).permuted]
)
def test_volumes_that_are_no_fodf_in_any_basis_are_a_warning(make, tmp_path):
    path = tmp_path / "sh.nii.gz"
    directions = np.random.default_rng(1).normal(size=(10, 10, 10, 1, 3))
    coeffs = peaks_features(directions).data
    save_nifti(path, coeffs, AFFINE)
    load_features(path, "sh", "tournier07", "voxel")
    save_nifti(path, make(coeffs), AFFINE)
    with pytest.warns(UserWarning, match="of its lobes is negative in every basis"):
        load_features(path, "sh", "tournier07", "voxel")


def test_an_image_of_zero_peaks_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "peaks.nii.gz"
    save_nifti(path, np.zeros((*SHAPE, 9), np.float32), AFFINE)
    with pytest.raises(ValueError, match=r"peaks\.nii\.gz has no peak anywhere"):
        load_features(path, "sh", None, "voxel")


def test_peaks_with_nan_outside_the_brain_are_unit_vectors_too(peaks, tmp_path):
    path = tmp_path / "peaks.nii.gz"
    unit = peaks / np.maximum(np.linalg.norm(peaks, axis=-1, keepdims=True), 1e-9)
    unit[0] = np.nan
    save_nifti(path, unit.reshape(*SHAPE, 15), AFFINE)
    with pytest.raises(ValueError, match=r"15 volumes.*add sh_basis peaks"):
        load_features(path, "sh", None, "voxel")
