"""fODFs made of peaks."""

from types import SimpleNamespace

from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest

from dipy_rnn import peaks_features, rnn_tracking, sampling, spatial
from dipy_rnn.phantom import crossing_phantom

NAN = np.nan


def test_an_fodf_of_peaks_is_the_weighted_sum_of_the_lobes_of_a_phantom():
    phantom = crossing_phantom(60, shape=(12, 12, 6))
    fractions, directions = phantom.peaks()
    features = peaks_features(directions, fractions)
    expected = sampling.fodf_features(phantom.fodf() / fractions.max())
    assert features.kind == "sh"
    assert_allclose(features.data, expected.data, atol=1e-6)


def test_the_largest_values_of_the_fodf_are_along_the_peaks():
    directions = np.random.default_rng(0).normal(size=(3, 4, 5, 1, 3))
    features = peaks_features(directions)
    voxels = np.argwhere(np.ones((3, 4, 5))).astype(float)
    found = sampling.first_directions(features.data, voxels, np.eye(3), max_peaks=2)
    unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    cosines = np.abs((found[:, 0] * unit.reshape(-1, 3)).sum(axis=1))
    assert_allclose(cosines, 1, atol=1e-6)
    assert not found[:, 1].any()


def test_lengths_are_values_unless_values_are_given():
    unit = np.array([[[[[1.0, 0, 0], [0, 0.6, 0.8]]]]])
    values = np.array([[[[4.0, 1.0]]]])
    expected = peaks_features(unit, values).data
    assert_allclose(peaks_features(unit * values[..., None]).data, expected, atol=1e-6)
    # Values count, lengths do not, and only the ratio of values matters.
    assert_allclose(peaks_features(3 * unit, values / 7).data, expected, atol=1e-6)
    assert_allclose(peaks_features(unit.reshape(1, 1, 1, 6), values).data, expected)
    equal = peaks_features(unit, np.ones((1, 1, 1, 2))).data
    assert_array_equal(peaks_features(unit).data, equal)


@pytest.mark.parametrize(
    ("direction", "value"),
    [
        ((0, 0, 0), 1.0),
        ((NAN, NAN, NAN), 1.0),
        ((0, 0, np.inf), 1.0),
        ((0, 0, 1), 0.0),
        ((0, 0, 1), -1.0),
        ((0, 0, 1), NAN),
    ],
)
def test_zero_and_nan_are_no_peak(direction, value):
    one = np.array([[[[[1.0, 0, 0]]]]])
    two = np.array([[[[[1.0, 0, 0], direction]]]])
    features = peaks_features(two, np.array([[[[1.0, value]]]]))
    assert_array_equal(features.data, peaks_features(one).data)


def test_a_voxel_without_peaks_is_zero():
    directions = np.zeros((2, 1, 1, 3))
    directions[0, 0, 0] = 0, 1, 0
    data = peaks_features(directions).data
    assert data[0].any() and not data[1].any()


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_peaks_along_scanner_axes_are_turned_to_the_voxel_axes(
    oblique_affine, handedness
):
    affine = oblique_affine(handedness)
    along_voxels = np.random.default_rng(0).normal(size=(2, 2, 2, 3))
    along_scanner = along_voxels @ spatial.axes(affine).T
    assert_allclose(
        peaks_features(along_scanner, frame="scanner", affine=affine).data,
        peaks_features(along_voxels).data,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("directions", "options", "said"),
    [
        (np.ones((2, 2, 3)), {}, r"peaks has the shape \(2, 2, 3\).*\(X, Y, Z, N, 3\)"),
        (np.ones((2, 2, 2, 4)), {}, r"peaks has the shape \(2, 2, 2, 4\)"),
        (np.ones((2, 2, 2, 3, 2)), {}, r"peaks has the shape \(2, 2, 2, 3, 2\)"),
        (np.ones((2, 2, 0, 3)), {}, r"peaks has the shape \(2, 2, 0, 3\)"),
        (np.zeros((2, 2, 2, 3)), {}, "peaks has no peak anywhere"),
        (np.full((2, 2, 2, 3), NAN), {}, "peaks has no peak anywhere"),
        (
            np.ones((2, 2, 2, 6)),
            {"values": np.ones((2, 2, 2, 3))},
            r"the values have the shape \(2, 2, 2, 3\); \(2, 2, 2, 2\) is needed",
        ),
        (np.ones((2, 2, 2, 3)), {"frame": "world"}, "sh_frame is 'world'"),
        (np.ones((2, 2, 2, 3)), {"frame": "scanner"}, "needs the affine"),
        ([["a"]], {}, "peaks is of type"),
    ],
)
def test_invalid_peaks_are_errors_of_one_line(directions, options, said):
    with pytest.raises(ValueError, match=said) as caught:
        peaks_features(directions, **options)
    assert "\n" not in str(caught.value)


def test_streamlines_from_the_peaks_of_a_pam_follow_the_bundles():
    phantom = crossing_phantom(90)
    fractions, directions = phantom.peaks()
    pam = SimpleNamespace(peak_dirs=directions, peak_values=fractions)
    true, _ = phantom.streamlines(20)
    seeds = np.array([line[len(line) // 4] for line in true])
    tracked = rnn_tracking(
        seeds,
        BinaryStoppingCriterion(phantom.mask()),
        phantom.affine,
        pam=pam,
        step_size=0.5,
        save_seeds=True,
    )
    n = 0
    for line, seed in tracked:
        (own,) = np.flatnonzero((seeds == seed).all(axis=1))
        apart = np.linalg.norm(line[:, None] - true[own][None], axis=2)
        assert apart.min(axis=1).max() < 1.0  # it is nowhere farther from its bundle
        n += apart.min(axis=0).mean() < 1.0  # and it follows all of it
    assert n >= 36
