"""Tissue maps, their stopping criteria, and seeds on their interface.

The interface of grey and white matter is a plane, a ball, or does not exist.
"""

from dipy.segment.tissue import TissueClassifierHMRF
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest

from dipy_rnn import spatial
from dipy_rnn.pipeline import interface_seeds
from dipy_rnn.stopping import (
    ActStoppingCriterion,
    CmcStoppingCriterion,
    StopReason,
    Tissues,
    evaluate_criterion,
)

# White matter, grey matter, cerebrospinal fluid, background, along x.
LAYERS = np.repeat(np.eye(4)[:, :3], [3, 2, 2, 2], axis=0)[:, None, None]


def layered(n=5, layers=LAYERS):
    wm, gm, csf = np.tile(layers, (1, n, n, 1)).transpose(3, 0, 1, 2)
    return Tissues(wm, gm, csf)


def ball_of_white_matter(affine, shape, radius_mm=12.0):
    """Return a ball of white matter in grey matter, with a border 2 mm wide."""
    centres_mm = spatial.to_mm(np.indices(shape).reshape(3, -1).T, affine)
    depth_mm = radius_mm - np.linalg.norm(centres_mm, axis=1)
    wm = np.clip(0.5 + depth_mm / 2, 0, 1).reshape(shape)
    return Tissues(wm, 1 - wm, 0 * wm)


def centred(sizes_mm, shape, rotation=None):
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if rotation is None else rotation) * sizes_mm
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def reasons_at(criterion, points_vox):
    reasons = np.zeros(len(points_vox), dtype=np.int64)
    evaluate_criterion(criterion, np.array(points_vox, dtype=np.float64), reasons)
    return [StopReason(reason).name for reason in reasons]


# Maps


def test_five_tissue_types_become_three():
    five = np.arange(5) / 10 * np.ones((2, 1, 1, 5))
    tissues = Tissues.from_5tt(five)
    assert_allclose(tissues.gm[0], 0.1)  # 0 + 0.1
    assert_allclose(tissues.wm[0], 0.6)  # 0.2 + 0.4
    assert_allclose(tissues.csf[0], 0.3)
    assert_array_equal(Tissues.from_image(five).wm, tissues.wm)


def test_three_volumes_are_in_the_order_of_dipys_classifier():
    # In a T1-weighted image cerebrospinal fluid is dark and white matter bright.
    rng = np.random.default_rng(0)
    t1 = np.repeat([0.0, 20, 60, 100], 8)[:, None, None] * np.ones((1, 8, 8))
    t1[t1 > 0] += rng.normal(0, 2, np.count_nonzero(t1))
    classifier = TissueClassifierHMRF(verbose=False)
    pve = classifier.classify(t1, 3, 0.1, max_iter=10)[2]
    tissues = Tissues.from_image(pve)
    for i, volumes in enumerate((tissues.csf, tissues.gm, tissues.wm), start=1):
        assert_allclose(volumes[8 * i + 2 : 8 * i + 6], 1, atol=0.01)
    # The classifier gives tiny partial volumes, not zero, in the background.
    assert 0 < pve[2:6].sum(axis=-1).max() < 1e-6
    assert reasons_at(tissues.act_criterion(), [[4, 4, 4]]) == ["ENDPOINT"]


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 2, 2, 2), (2, 2, 2, 4), (2, 3)])
def test_another_number_of_volumes_is_an_error(shape):
    with pytest.raises(ValueError, match=r"pve.nii has the shape .*3 volumes \(csf"):
        Tissues.from_image(np.ones(shape), name="pve.nii")
    with pytest.raises(ValueError, match=r"with 5 volumes \(MRtrix3's 5TT\)"):
        Tissues.from_5tt(np.ones((2, 2, 2, 3)))


@pytest.mark.parametrize(
    ("voxel", "message"),
    [
        ([np.nan, 0, 0, 0, 0], "^t.nii contains NaN"),
        ([1e300, 0, 0, 0, 0], r"^t.nii contains values from 0 to 1e\+300;"),
        ([100, 0, 0, 0, 0], "^t.nii contains values from 0 to 100;"),
        ([-0.1, 0, 1, 0, 0], "^t.nii contains values from -0.1 to 1;"),
        ([1, 1, 0, 0, 0], "^t.nii: partial volumes add up to 2 in a voxel"),
        ([0, 0, 0, 0, 0], "^t.nii: partial volumes are zero everywhere"),
        ([1, 1, 0], "^t.nii: partial volumes add up to 2 in a voxel"),
        ([0, np.inf, 0], "^t.nii contains NaN or infinity"),
        ([0, 0, 0], "^t.nii: partial volumes are zero everywhere"),
        (["a", "b", "c"], "^t.nii is of type"),
    ],
)
def test_errors_name_the_image(voxel, message):
    with pytest.raises(ValueError, match=message) as refusal:
        Tissues.from_image([[[voxel]]], name="t.nii")
    assert "\n" not in str(refusal.value)


def test_an_image_without_voxels_is_an_error():
    for n in (3, 5):
        with pytest.raises(
            ValueError, match=r"image has the shape \(0, 1, 1, .*at least"
        ):
            Tissues.from_image(np.zeros((0, 1, 1, n)))


def test_the_sum_of_both_kinds_of_grey_matter_may_be_rounded_above_1():
    image = np.array([[[[0.515, 0.515, 0, 0, 0], [0, 0, 0.515, 0, 0.515]]]])
    before = image.copy()
    tissues = Tissues.from_5tt(image)
    assert_array_equal(tissues.gm, [[[1, 0]]])
    assert_array_equal(tissues.wm, [[[0, 1]]])
    assert_array_equal(image, before)
    assert tissues.gm.flags.c_contiguous and tissues.csf.flags.c_contiguous


ZERO = np.zeros((2, 2, 2))


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ((ZERO, ZERO[1:], ZERO), r"\(2, 2, 2\), \(1, 2, 2\)"),
        ((ZERO[0], ZERO[0], ZERO[0]), r"one shape \(X, Y, Z\)"),
        ((ZERO[:0], ZERO[:0], ZERO[:0]), "at least one voxel"),
        ((ZERO, ZERO + np.nan, ZERO), "gm contains NaN"),
        ((ZERO + np.inf, ZERO, ZERO), "wm contains NaN"),
        ((ZERO, ZERO, ZERO - 0.1), "csf contains values from -0.1 to -0.1; .*linear"),
        ((ZERO + 100, ZERO, ZERO), "wm contains .*divide percentages by 100"),
        ((ZERO + 2, ZERO, ZERO), "wm contains .*make a map of each label"),
        ((ZERO, ZERO, ZERO), "zero everywhere"),
        ((ZERO + 1, ZERO + 1, ZERO), "add up to 2 in a voxel"),
        ((ZERO + 1, ZERO.astype(str), ZERO), "gm is of type"),
    ],
)
def test_invalid_partial_volumes_are_an_error(maps, message):
    with pytest.raises(ValueError, match=message):
        Tissues(*maps)


def test_small_excess_is_clipped_and_the_given_map_is_not_changed():
    wm = np.array([[[1.01, -0.01, 0.009]]])
    tissues = Tissues(wm, 0 * wm, 0 * wm)
    assert_array_equal(tissues.wm, [[[1, 0, 0]]])
    assert_array_equal(wm, [[[1.01, -0.01, 0.009]]])
    with pytest.raises(ValueError, match="read-only"):
        tissues.wm[:] = 0


def test_masks_are_partial_volumes():
    wm = np.array([[[True, False]]])
    assert_array_equal(Tissues(wm, ~wm, 0 * wm).gm, [[[0, 1]]])


# Criteria


def test_act_ends_in_grey_matter_and_background_and_excludes_csf():
    criterion = layered().act_criterion()
    assert type(criterion) is ActStoppingCriterion
    x = [0, 2.4, 2.6, 4.4, 4.6, 6.4, 6.6, 8, 9]
    assert reasons_at(criterion, [[each, 2, 2] for each in x]) == [
        *("RUNNING", "RUNNING", "ENDPOINT", "ENDPOINT"),  # half a voxel before 3
        *("INVALID_POINT", "INVALID_POINT", "ENDPOINT", "ENDPOINT"),  # background
        "OUTSIDE_IMAGE",
    ]


def test_pathological_tissue_does_not_stop_tracking():
    five = np.zeros((3, 3, 3, 5))
    five[..., 4] = 1
    assert reasons_at(Tissues.from_5tt(five).act_criterion(), [[1, 1, 1]]) == [
        "RUNNING"
    ]


def test_cmc_uses_the_ratio_of_the_step_to_the_mean_voxel_size():
    tissues = layered()
    criterion = tissues.cmc_criterion(0.5, (1, 2, 3))
    assert type(criterion) is CmcStoppingCriterion
    same = CmcStoppingCriterion.from_pve(
        *(m.astype(float) for m in (tissues.wm, tissues.gm, tissues.csf)),
        step_size=0.5,
        average_voxel_size=2.0,
    )
    for one, other in zip(criterion.maps, same.maps, strict=True):
        assert_array_equal(one, other)
    assert criterion.parameters == same.parameters == (0.25,)
    assert reasons_at(criterion, [[0, 2, 2], [4, 2, 2], [5.5, 2, 2], [8, 2, 2]]) == [
        "RUNNING",
        "ENDPOINT",
        "INVALID_POINT",
        "ENDPOINT",
    ]


# Interface


def test_seeds_are_only_where_grey_and_white_matter_are_equal():
    # In voxels of 2 mm the interface is at 2.5 voxels, or 5 mm. The borders between
    # grey matter and cerebrospinal fluid, and to the background, are no interface.
    affine = np.diag([2.0, 2, 2, 1])
    seeds_mm = interface_seeds(layered(), affine, 2000)
    assert seeds_mm.shape == (2000, 3)
    assert_allclose(seeds_mm[:, 0], 5, atol=1e-4)
    # They cover the plane, whose voxels extend from -1 to 9 mm.
    counts, _ = np.histogram(seeds_mm[:, 1], bins=5, range=(-1, 9))
    assert counts.sum() == 2000 and np.all(counts > 200)


def test_no_seed_is_in_grey_matter_already():
    rng = np.random.default_rng(4)
    wm = rng.random((6, 6, 6))
    tissues = Tissues(wm, 1 - wm, 0 * wm)
    seeds = interface_seeds(tissues, np.eye(4), 3000)
    assert reasons_at(tissues.act_criterion(), seeds) == 3000 * ["RUNNING"]
    # They are close to the interface.
    values = np.array([tissues.act_criterion().get_include(seed) for seed in seeds])
    assert_allclose(values, 0.5, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [(0, 0, 1), (0.2, 0.2, 0.6), (0, 0, 0), (0.2, 0.2, 0)],
    ids=["csf", "mostly csf", "background", "little tissue"],
)
def test_there_is_no_interface_if_a_layer_separates_the_tissues(layer):
    layers = np.array([*[(1, 0, 0)] * 3, layer, *[(0, 1, 0)] * 3])
    with pytest.raises(
        ValueError, match="no interface of grey and white matter was found"
    ):
        interface_seeds(layered(layers=layers[:, None, None]), np.eye(4), 10)


def test_where_csf_separates_the_tissues_there_are_no_seeds():
    # Cerebrospinal fluid separates them in one half of the plane.
    wm, gm, csf = (np.array(m) for m in (layered().wm, layered().gm, layered().csf))
    for volumes, value in ((wm, 0), (gm, 0), (csf, 1)):
        volumes[2:4, :2] = value
    seeds = interface_seeds(Tissues(wm, gm, csf), np.eye(4), 500)
    assert seeds[:, 1].min() > 1


def test_seeds_are_inside_the_mask():
    mask = np.zeros((9, 5, 5))
    mask[2:4, 1, 3] = 1
    seeds = interface_seeds(layered(), np.eye(4), 200, mask=mask)
    assert len(seeds) == 200
    assert_array_equal(np.floor(seeds[:, 1:] + 0.5), np.tile([1, 3], (200, 1)))
    with pytest.raises(ValueError, match="inside the mask"):
        interface_seeds(layered(), np.eye(4), 1, mask=np.roll(mask, 4, axis=0))
    with pytest.raises(ValueError, match=r"mask has the shape \(8, 5, 5\)"):
        interface_seeds(layered(), np.eye(4), 1, mask=mask[1:])


@pytest.mark.parametrize(
    ("sizes_mm", "shape"), [((2, 2, 2), (17, 17, 17)), ((1, 2, 3), (31, 17, 13))]
)
def test_seeds_are_distributed_uniformly_over_the_area(sizes_mm, shape):
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    for turned in (None, rotation):
        affine = centred(sizes_mm, shape, turned)
        seeds_mm = interface_seeds(
            ball_of_white_matter(affine, shape), affine, 20_000, random_seed=2
        )
        radii_mm = np.linalg.norm(seeds_mm, axis=1)
        assert_allclose(radii_mm, 12, atol=0.6)
        # On a sphere each coordinate is distributed uniformly (Archimedes). So the
        # count in each of ten zones along an axis is 2000, with a deviation of 42.
        along = (seeds_mm / radii_mm[:, None]) @ spatial.axes(affine)
        for axis in range(3):
            counts, _ = np.histogram(along[:, axis], bins=10, range=(-1, 1))
            assert np.abs(counts - 2000).max() < 5 * 42


def test_seeds_depend_on_the_random_seed():
    one, same, other = (
        interface_seeds(layered(), np.eye(4), 50, random_seed=seed)
        for seed in (1, 1, 2)
    )
    assert_array_equal(one, same)
    assert not np.any(one == other)
    # A larger number of seeds starts with the same ones.
    assert_array_equal(
        interface_seeds(layered(), np.eye(4), 70, random_seed=1)[:50], one
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_seeds": 0}, "n_seeds is 0"),
        ({"n_seeds": 1.5}, "n_seeds is 1.5"),
        ({"n_seeds": np.inf}, "n_seeds is inf"),
        ({"random_seed": -1}, "random_seed is -1"),
        ({"affine": np.ones((4, 4))}, "affine"),
    ],
)
def test_errors_name_the_argument(change, message):
    arguments = {"tissues": layered(), "affine": np.eye(4), "n_seeds": 5, **change}
    with pytest.raises(ValueError, match=message):
        interface_seeds(**arguments)
