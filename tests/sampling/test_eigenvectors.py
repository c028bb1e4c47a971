"""Eigenvectors of tensors, given as peaks."""

from types import SimpleNamespace

from dipy.io.peaks import tensor_to_pam
import numpy as np
from numpy.testing import assert_allclose
import pytest

from dipy_rnn import pam_features, peaks_features

NAN = np.nan


def tensors(*, seed=0, shape=(8, 8, 8)):
    """Return first eigenvectors (X, Y, Z, 3) on a curve, and matrices of all three.

    The first eigenvector turns by 10 degrees from voxel to voxel. The others are random
    in each voxel, and so are all signs, as in a fit. Eigenvectors are columns.
    """
    rng = np.random.default_rng(seed)
    angle = np.deg2rad(20 + 10 * np.arange(shape[0]))
    first = np.zeros((*shape, 3))
    first[..., :] = np.stack(
        [np.cos(angle), np.sin(angle) * 0.6, np.sin(angle) * 0.8], axis=1
    )[:, None, None]
    second = np.cross(first, rng.normal(size=first.shape))
    second /= np.linalg.norm(second, axis=-1, keepdims=True)
    matrices = np.stack([first, second, np.cross(first, second)], axis=-1)
    return first, matrices * rng.choice([-1.0, 1.0], size=(*shape, 1, 3))


@pytest.mark.parametrize("transposed", [False, True])
def test_the_first_eigenvector_is_used_whether_they_are_columns_or_rows(transposed):
    first, matrices = tensors()
    if transposed:
        matrices = matrices.swapaxes(3, 4)
    expected = peaks_features(first[..., None, :]).data
    with pytest.warns(UserWarning, match="evecs.nii.gz has the eigenvectors of tensor"):
        features = peaks_features(matrices, name="evecs.nii.gz")
    assert_allclose(features.data, expected, atol=1e-6)


@pytest.mark.parametrize("missing", [0.0, NAN])
def test_voxels_without_a_tensor_stay_empty(missing):
    first, matrices = tensors()
    matrices[2:4] = missing
    with pytest.warns(UserWarning, match="eigenvectors"):
        data = peaks_features(matrices).data
    assert not data[2:4].any()
    assert_allclose(data[5:], peaks_features(first[..., None, :]).data[5:], atol=1e-6)


def test_the_peaks_that_dipy_makes_of_tensors():
    first, matrices = tensors()
    values = np.broadcast_to([1.7e-3, 3e-4, 2e-4], matrices.shape[:4])
    options = {"generate_peaks_indices": False}
    pam = tensor_to_pam(values, matrices, np.eye(4), npeaks=3, **options)
    with pytest.warns(UserWarning, match="Only the first eigenvector"):
        features = pam_features(pam)
    expected = peaks_features(first[..., None, :]).data
    assert_allclose(features.data, expected, atol=1e-6)
    # One row of the matrix is not enough to know the first column.
    pam = tensor_to_pam(values, matrices, np.eye(4), npeaks=1, **options)
    with pytest.raises(ValueError, match=r"peaks.pam5 has peaks of a tensor fit.*evec"):
        pam_features(pam, name="peaks.pam5")


def test_peaks_that_are_not_eigenvectors_are_left_as_they_are():
    _, matrices = tensors()
    # Three peaks that are nearly perpendicular, two that are, and a grid of crossings.
    bent = matrices + np.random.default_rng(1).normal(scale=0.01, size=matrices.shape)
    grid = np.broadcast_to(np.eye(3), matrices.shape)
    for peaks in (bent, matrices[..., :2, :], grid, 2.0 * matrices):
        weights = [1.0, 0.5, 0.2][: peaks.shape[3]]
        values = np.broadcast_to(weights, peaks.shape[:4])
        expected = sum(
            weight * peaks_features(peaks[..., [i], :], np.ones((8, 8, 8, 1))).data
            for i, weight in enumerate(weights)
        )
        assert_allclose(peaks_features(peaks, values).data, expected, atol=1e-5)
    pam = SimpleNamespace(peak_dirs=grid[..., :1, :], peak_values=np.ones((8, 8, 8, 1)))
    assert pam_features(pam).kind == "sh"


def test_eigenvectors_without_a_pattern_are_an_error_of_one_line():
    rng = np.random.default_rng(2)
    matrices = np.linalg.qr(rng.normal(size=(6, 6, 6, 3, 3)))[0]
    for peaks in (matrices, tensors(shape=(2, 2, 2))[1]):
        with pytest.raises(ValueError, match="rows or as columns; give only") as caught:
            peaks_features(peaks)
        assert "\n" not in str(caught.value)
