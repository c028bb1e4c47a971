"""A rounded affine has a small shear. Tracking on it is that on the exact affine."""

from dipy.tracking.local_tracking import LocalTracking
from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
import numpy as np
from numpy.testing import assert_allclose
import pytest

from dipy_rnn import RNNDirectionGetter, load_model, rnn_tracking, sampling, spatial
from dipy_rnn.phantom import crossing_phantom
from dipy_rnn.sampling.rotation import rotate_all

# Two in the bundle along x and one in the other, outside of the crossing.
SEEDS_VOX = np.array([[3.6, 7.3, 3.4], [12.2, 7.8, 4.1], [9.3, 11.0, 3.6]])

# Voxel sizes in mm, number of decimals, step in mm.
GRIDS = {
    "2 mm": ([2.0, 2.0, 2.0], 4, 0.5),
    "0.1 mm": ([0.1, 0.1, 0.1], 5, 0.05),
    "anisotropic": ([1.2, 2.0, 2.9], 4, 0.5),
    "anisotropic 0.1 mm": ([0.1, 0.16, 0.13], 5, 0.05),
}


@pytest.fixture(scope="module")
def world():
    """Return the fODF, the criterion and the model of a crossing of 60 degrees."""
    phantom = crossing_phantom(60, shape=(16, 16, 8))
    features = sampling.fodf_features(phantom.fodf())
    return features, BinaryStoppingCriterion(phantom.mask()), load_model("default")


def oblique(sizes_mm, handedness, rng):
    """Return a random exact affine."""
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation[:, 0] *= handedness * np.linalg.det(rotation)
    affine = np.eye(4)
    affine[:3, :3] = rotation * sizes_mm
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return affine


def track(world, affine, step_mm, features=None):
    """Return the streamlines of the seeds in voxels."""
    own, criterion, model = world
    lines = rnn_tracking(
        spatial.to_mm(SEEDS_VOX, affine),
        criterion,
        affine,
        features=features or own,
        model=model,
        step_size=step_mm,
        min_len=0,
        nbr_threads=1,
    )
    return [spatial.to_voxels(line, affine) for line in lines]


def check_same(lines, others):
    assert len(lines) == len(others) == len(SEEDS_VOX)
    for line, other in zip(lines, others):
        assert_allclose(line, other, rtol=0, atol=0.01)


@pytest.mark.parametrize("handedness", [1.0, -1.0])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_rounded_affine_tracks_as_the_exact_one(world, grid, handedness):
    (sizes_mm, decimals, step_mm), rng = GRIDS[grid], np.random.default_rng(0)
    for _ in range(5):
        exact = oblique(sizes_mm, handedness, rng)
        rounded = np.round(exact, decimals)
        units = rounded[:3, :3] / spatial.voxel_sizes(rounded)
        assert np.abs(np.triu(units.T @ units, 1)).max() > 1e-6  # it has a shear
        check_same(track(world, exact, step_mm), track(world, rounded, step_mm))


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_coefficients_along_scanner_axes_are_tracked_on_a_rounded_affine(
    world, handedness
):
    exact = oblique([1.2, 2.0, 2.9], handedness, np.random.default_rng(1))
    rounded = np.round(exact, 4)
    in_scanner = sampling.fodf_features(
        rotate_all(world[0].data, spatial.axes(exact)),
        basis_type="tournier07",
        legacy=False,
        sh_frame="scanner",
        affine=rounded,
    )
    check_same(track(world, exact, 0.5), track(world, rounded, 0.5, in_scanner))


@pytest.mark.parametrize("ahead", [False, True], ids=["one by one", "look-ahead"])
@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_local_tracking_takes_a_rounded_affine_without_its_shear(
    world, handedness, ahead
):
    features, criterion, model = world
    exact = oblique([1.2, 2.0, 2.9], handedness, np.random.default_rng(2))
    rounded = np.round(exact, 4)

    def in_local_tracking(affine):
        seeds = spatial.to_mm(SEEDS_VOX, affine)
        getter = RNNDirectionGetter(
            features, affine=affine, model=model, seeds=seeds if ahead else None
        )
        lines = LocalTracking(getter, criterion, seeds, affine, 0.5, max_cross=1)
        return [spatial.to_voxels(line, affine) for line in lines]

    # DIPY refuses the affine before it calls the direction getter.
    with pytest.raises(ValueError, match="shear"):
        in_local_tracking(rounded)
    lines = in_local_tracking(spatial.without_shear(rounded))
    check_same(in_local_tracking(exact), lines)
    check_same(track(world, rounded, 0.5), lines)


def test_positions_of_a_rounded_affine_are_those_of_its_image(world):
    exact = oblique([2.0, 2.0, 2.0], 1.0, np.random.default_rng(3))
    rounded = np.round(exact, 4)
    features, criterion, model = world
    seeds = spatial.to_mm(SEEDS_VOX, rounded)
    tracked = rnn_tracking(
        seeds,
        criterion,
        rounded,
        features=features,
        model=model,
        step_size=0.5,
        save_seeds=True,
    )
    for (line, seed), expected in zip(tracked, seeds, strict=True):
        assert_allclose(seed, expected)
        assert np.linalg.norm(line - expected, axis=1).min() < 1e-10
