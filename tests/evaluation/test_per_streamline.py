"""Metrics of streamlines in volumes whose fODF is the same at every voxel."""

import numpy as np
from numpy.testing import assert_allclose
import pytest
from scipy.spatial.transform import Rotation
from scipy.special import eval_legendre
from worlds import affine_of

from dipy_rnn import spatial
from dipy_rnn.evaluation import METRICS, streamline_metrics
from dipy_rnn.sampling import fodf_features, lobes, raw_features

SHAPE = (9, 9, 9)
AFFINE = affine_of((1, 1, 1), offset_mm=(-4, -4, -4))
ALONG_X = np.linspace([-3.0, 0, 0], [3, 0, 0], 13)  # 12 steps of 0.5 mm


def uniform(*directions, weights=(1.0, 1.0)):
    """Return a volume with a lobe along each direction, given along the voxel axes."""
    coeffs = np.array(weights[: len(directions)]) @ lobes(np.array(directions, float))
    return fodf_features(np.broadcast_to(coeffs, (*SHAPE, coeffs.size)).copy())


def lobe(angle_deg):
    """Return the value of a lobe of `lobes` at an angle from its direction."""
    ls = np.arange(0, 9, 2)
    smooth = np.exp(-(np.deg2rad(9.0) ** 2) * ls * (ls + 1) / 2)
    values = eval_legendre(ls, np.cos(np.deg2rad(angle_deg)))
    return np.sum(smooth * (2 * ls + 1) / (4 * np.pi) * values)


def of_one(line, features, affine=AFFINE):
    metrics = streamline_metrics([line], features, affine)
    assert tuple(metrics) == METRICS
    return {name: values.item() for name, values in metrics.items()}


def test_a_straight_streamline_along_its_bundle_has_amplitudes_of_one():
    assert of_one(ALONG_X, uniform((1, 0, 0))) == pytest.approx(
        {
            "length_mm": 6,
            "turn_deg": 0,
            "mean_amplitude": 1,
            "least_amplitude": 1,
            "sum_log_amplitude": 0,
        },
        abs=1e-5,
    )


@pytest.mark.parametrize("angle_deg", [5, 15, 25])
def test_beside_the_peak_the_amplitude_is_that_of_the_lobe(angle_deg):
    line = Rotation.from_euler("z", angle_deg, degrees=True).apply(ALONG_X)
    metrics = of_one(line, uniform((1, 0, 0)))
    ratio = lobe(angle_deg) / lobe(0)
    assert 0.05 < ratio < 0.99
    assert metrics["mean_amplitude"] == pytest.approx(ratio, abs=1e-4)
    assert metrics["least_amplitude"] == pytest.approx(ratio, abs=1e-4)
    assert metrics["sum_log_amplitude"] == pytest.approx(12 * np.log(ratio), rel=1e-3)


def test_a_negative_amplitude_counts_as_zero_and_in_the_logarithm_as_a_hundredth():
    line = Rotation.from_euler("z", 38, degrees=True).apply(ALONG_X)
    assert lobe(38) < 0
    metrics = of_one(line, uniform((1, 0, 0)))
    assert metrics["mean_amplitude"] == metrics["least_amplitude"] == 0
    assert metrics["sum_log_amplitude"] == pytest.approx(12 * np.log(0.01))


def test_the_mean_is_weighted_by_length_and_the_least_is_of_one_step():
    # 3 mm along the large peak in one step, then 1 mm along the small one in two steps.
    line = np.array([[-2.0, 0, 0], [1, 0, 0], [1, 0.5, 0], [1, 1, 0]])
    large, small = 1 + 0.6 * lobe(90) / lobe(0), 0.6 + lobe(90) / lobe(0)
    metrics = of_one(line, uniform((1, 0, 0), (0, 1, 0), weights=(1.0, 0.6)))
    ratio = small / large
    assert metrics["mean_amplitude"] == pytest.approx((3 + ratio) / 4, abs=1e-4)
    assert metrics["least_amplitude"] == pytest.approx(ratio, abs=1e-4)
    assert metrics["sum_log_amplitude"] == pytest.approx(2 * np.log(ratio), rel=1e-3)
    assert (metrics["length_mm"], metrics["turn_deg"]) == pytest.approx((4, 90))


@pytest.mark.parametrize("n_steps", [3, 10, 100])
def test_the_turn_of_an_arc_is_its_angle_without_one_step(n_steps):
    angles = np.linspace(0, np.pi * 0.75, n_steps + 1)
    arc = 3 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    metrics = of_one(arc, uniform((1, 0, 0)))
    assert metrics["turn_deg"] == pytest.approx(135 * (n_steps - 1) / n_steps)
    step_mm = 2 * 3 * np.sin(np.pi * 0.75 / n_steps / 2)
    assert metrics["length_mm"] == pytest.approx(n_steps * step_mm)


def test_the_metrics_do_not_depend_on_direction_scale_or_grid():
    directions = np.array([[1.0, 0.8, 0.9], [0.5, 1, 1.2]])
    rng = np.random.default_rng(0)
    line = np.cumsum(rng.normal(0.4, 0.15, (10, 3)), axis=0) - 2.5
    expected = of_one(line, uniform(*directions, weights=(1.0, 0.7)))
    assert 0 < expected["least_amplitude"] < expected["mean_amplitude"] < 0.9
    assert of_one(line[::-1], uniform(*directions, weights=(1.0, 0.7))) == (
        pytest.approx(expected, rel=1e-4)
    )
    for rotation in (None, Rotation.from_euler("xyz", [30, 50, 80], degrees=True)):
        for flip in ([1, 1, 1], [-1, 1, 1]):
            affine = affine_of(
                np.array([1.0, 1, 1]),
                None if rotation is None else rotation.as_matrix(),
            )
            affine[:3, :3] *= flip
            # The same line and peaks, moved with the voxels and then mirrored.
            moved = spatial.to_mm(spatial.to_voxels(line, AFFINE), affine)
            features = uniform(*directions, weights=(5.0, 3.5))
            assert of_one(moved, features, affine) == pytest.approx(expected, rel=1e-3)


def test_many_streamlines_have_the_values_of_each_one(monkeypatch):
    monkeypatch.setattr("dipy_rnn.evaluation.per_streamline._BLOCK", 5)
    features = uniform((1, 0, 0), (0, 1, 0))
    rng = np.random.default_rng(1)
    lines = [rng.uniform(-3, 3, (n, 3)) for n in (7, 1, 2, 12)]
    lines.insert(2, np.empty((0, 3)))
    metrics = streamline_metrics(lines, features, AFFINE, nbr_threads=2)
    for i, line in enumerate(lines):
        alone = of_one(line, features)
        assert_allclose(
            [column[i] for column in metrics.values()], [*alone.values()], rtol=1e-12
        )
    assert all(
        column.shape == (0,)
        for column in streamline_metrics([], features, AFFINE).values()
    )


def test_without_a_step_the_amplitudes_are_not_defined():
    for line in (np.zeros((1, 3)), np.zeros((2, 3))):
        metrics = of_one(line, uniform((1, 0, 0)))
        assert np.isnan(
            [metrics.pop("mean_amplitude"), metrics.pop("least_amplitude")]
        ).all()
        assert set(metrics.values()) == {0}


def test_outside_of_the_image_and_without_an_fodf_the_amplitude_is_zero():
    features = uniform((1, 0, 0))
    assert of_one(ALONG_X + [0, 50, 0], features)["mean_amplitude"] == 0
    features.data[:4] = 0  # up to x = -1; between -1 and 0, the fODF is interpolated
    metrics = of_one(ALONG_X, features)
    assert metrics["least_amplitude"] == 0
    assert_allclose(metrics["mean_amplitude"], 8 / 12, atol=1e-4)


def test_features_without_an_fodf_are_an_error():
    features = raw_features(np.ones((*SHAPE, 3)), name="maps.nii.gz")
    with pytest.raises(
        ValueError, match=r"maps\.nii\.gz is of the kind 'raw', but .* fODF"
    ):
        streamline_metrics([ALONG_X], features, AFFINE)
