"""Features: bases and axes, against DIPY's evaluation of the same coefficients."""

from functools import cache
import inspect
import re

from dipy.core.sphere import Sphere
from dipy.data import get_sphere
from dipy.direction.peaks import PeaksAndMetrics
from dipy.reconst import shm
from dipy.reconst.shm import sh_to_sf_matrix, sph_harm_lookup
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest

from dipy_rnn import sampling, spatial
from dipy_rnn.phantom import crossing_phantom, random_phantom
from dipy_rnn.sampling import to_package_basis

# DIPY warns that it may remove its legacy bases.
legacy_basis = pytest.mark.filterwarnings("ignore:The legacy")
every_basis = pytest.mark.parametrize(
    ("basis", "legacy"),
    [(basis, legacy) for basis in sampling.BASES for legacy in (True, False)],
)


def random_coeffs(order, seed=0):
    shape = (2, 1, 3, (order + 1) * (order + 2) // 2)
    return np.random.default_rng(seed).normal(size=shape)


def random_sphere(n=50):
    directions = np.random.default_rng(1).normal(size=(n, 3))
    return Sphere(xyz=directions / np.linalg.norm(directions, axis=1, keepdims=True))


# Bases


@legacy_basis
@every_basis
@pytest.mark.parametrize("order", [4, 6, 8])
def test_the_function_is_the_same_in_the_packages_basis(
    harmonics, basis, legacy, order
):
    coeffs, sphere = random_coeffs(order), random_sphere()
    features = sampling.fodf_features(coeffs, basis_type=basis, legacy=legacy)
    assert features.kind == "sh"
    assert features.data.dtype == np.float32 and features.data.flags.c_contiguous
    theirs = sph_harm_lookup[basis](order, sphere.theta, sphere.phi, legacy=legacy)[0]
    ours = harmonics(sphere.vertices, order)
    assert_allclose(features.data @ ours.T, coeffs @ theirs.T, atol=1e-5)


def test_the_default_basis_is_the_default_of_dipy_1():
    coeffs = random_coeffs(4)
    expected = sampling.fodf_features(
        coeffs, basis_type="descoteaux07", legacy=True
    ).data
    assert_array_equal(sampling.fodf_features(coeffs).data, expected)


def test_another_default_basis_of_dipy_changes_nothing(monkeypatch):
    phantom = crossing_phantom(90, shape=(9, 9, 5))
    fodf = phantom.fodf(4)
    pam = PeaksAndMetrics()
    pam.sphere = get_sphere(name="repulsion100")
    pam.shm_coeff = shm.convert_sh_descoteaux_tournier(fodf)
    pam.B = sh_to_sf_matrix(
        pam.sphere, sh_order_max=4, basis_type="tournier07", legacy=False
    )[0]
    before = sampling.fodf_features(fodf).data, sampling.pam_features(pam).data
    switched = 0
    for function in vars(shm).values():
        options = getattr(inspect.unwrap(function), "__kwdefaults__", None) or {}
        if "legacy" in options:
            monkeypatch.setitem(options, "legacy", False)
            switched += 1
    assert switched >= 5
    to_package_basis.cache_clear()
    assert_array_equal(phantom.fodf(4), fodf)
    assert_array_equal(sampling.fodf_features(fodf).data, before[0])
    assert_array_equal(sampling.pam_features(pam).data, before[1])


def test_the_given_coefficients_are_not_changed():
    coeffs = random_coeffs(4).astype(np.float32)
    before = coeffs.copy()
    for basis in sampling.BASES:
        sampling.fodf_features(coeffs, basis_type=basis, legacy=False)
    assert_array_equal(coeffs, before)


@legacy_basis
@every_basis
def test_the_basis_of_a_pam_is_determined_from_its_matrix(basis, legacy):
    pam = PeaksAndMetrics()
    pam.sphere = get_sphere(name="repulsion100")
    pam.B = sh_to_sf_matrix(
        pam.sphere, sh_order_max=6, basis_type=basis, legacy=legacy, return_inv=False
    )
    pam.shm_coeff = random_coeffs(6)
    assert sampling.pam_basis(pam) == (basis, legacy)
    expected = sampling.fodf_features(
        pam.shm_coeff, basis_type=basis, legacy=legacy
    ).data
    assert_array_equal(sampling.pam_features(pam).data, expected)


def test_a_pam_of_an_unknown_basis_or_without_coefficients_is_refused_by_name():
    pam = PeaksAndMetrics()
    pam.sphere = get_sphere(name="repulsion100")
    pam.B = np.random.default_rng(0).normal(size=(15, 100))
    pam.shm_coeff = random_coeffs(4)
    with pytest.raises(ValueError, match=r"sub-1.pam5: its matrix B matches none"):
        sampling.pam_features(pam, name="sub-1.pam5")
    pam.shm_coeff = None
    with pytest.raises(
        ValueError, match=r"sub-1.pam5 holds neither spherical harmonics nor"
    ):
        sampling.pam_features(pam, name="sub-1.pam5")


@legacy_basis
@every_basis
@pytest.mark.parametrize("missing", ["B", "sphere"])
def test_the_basis_of_a_pam_is_given_or_refused_but_never_guessed(
    basis, legacy, missing
):
    pam = PeaksAndMetrics()
    pam.sphere = get_sphere(name="repulsion100")
    pam.B = sh_to_sf_matrix(
        pam.sphere, sh_order_max=4, basis_type=basis, legacy=legacy, return_inv=False
    )
    pam.shm_coeff = random_coeffs(4)
    setattr(pam, missing, None)
    with pytest.raises(ValueError, match=r"sub-1.pam5 has no matrix B .* sh_basis"):
        sampling.pam_features(pam, name="sub-1.pam5")
    assert_array_equal(
        sampling.pam_features(pam, basis_type=basis, legacy=legacy).data,
        sampling.fodf_features(pam.shm_coeff, basis_type=basis, legacy=legacy).data,
    )


# Axes


@pytest.mark.parametrize("handedness", [1.0, -1.0])
@pytest.mark.parametrize("order", [4, 8])
def test_a_lobe_along_scanner_axes_is_rotated_to_the_voxel_axes(
    lobes, oblique_affine, handedness, order
):
    affine = oblique_affine(handedness)
    directions_ras = random_sphere(6).vertices
    features = sampling.fodf_features(
        lobes(directions_ras, order).reshape(1, 2, 3, -1),
        basis_type="tournier07",
        legacy=False,
        sh_frame="scanner",
        affine=affine,
    )
    expected = lobes([spatial.axes(affine).T @ d for d in directions_ras], order)
    assert_allclose(features.data.reshape(6, -1), expected, atol=1e-5)


def test_a_lobe_along_scanner_axes_is_mirrored_for_a_flipped_grid(lobes):
    features = sampling.fodf_features(
        lobes([[0.6, 0.8, 0.0]])[None, None],
        basis_type="tournier07",
        legacy=False,
        sh_frame="scanner",
        affine=np.diag([-2.0, 2, 2, 1]),
    )
    assert_allclose(features.data[0, 0], lobes([[-0.6, 0.8, 0.0]]), atol=1e-6)


def test_in_ras_storage_scanner_and_voxel_axes_are_the_same():
    data = [
        sampling.fodf_features(random_coeffs(6), sh_frame=frame, affine=np.eye(4)).data
        for frame in sampling.SH_FRAMES
    ]
    assert_allclose(*data, atol=1e-6)


# The basis seems to be another one

NAMED = re.compile(r"mine.nii seems to be in the basis (\w+), not in (\w+): (\S+)% of")


@cache
def noisy_fodf(order):
    phantom = random_phantom(3, shape=(14, 14, 14), voxel_size_mm=3.0)
    return phantom.fodf(order, noise=0.2)


def read_as(coeffs, written, read):
    """Read default coefficients, converted to a basis, as if in another basis."""
    order = sampling.sh_order(coeffs.shape[3])
    default, written = (
        to_package_basis(order, basis) for basis in ("descoteaux07_legacy", written)
    )
    stored = np.empty_like(coeffs)
    stored[..., written[0]] = coeffs[..., default[0]] * default[1] / written[1]
    return sampling.fodf_features(
        stored,
        basis_type=read.removesuffix("_legacy"),
        legacy=read.endswith("_legacy"),
        name="mine.nii",
    )


def test_the_share_of_negative_energy_of_two_values():
    """One voxel, by hand: 1 + a Y20 is negative around the equator."""
    coeffs = np.zeros((40, 1, 1, 15))
    coeffs[..., [0, 3]] = 1.0, 1.0
    share = sampling.negative_shares(coeffs, "tournier07")["tournier07"]
    z = (np.arange(20000) + 0.5) / 20000  # areas of equal height are equal
    values = 1 / np.sqrt(4 * np.pi) + np.sqrt(5 / (16 * np.pi)) * (3 * z**2 - 1)
    assert share == pytest.approx(
        np.sum(values[values < 0] ** 2) / np.sum(values**2), abs=2e-3
    )


@legacy_basis
@pytest.mark.parametrize("order", [4, 6, 8])
@pytest.mark.parametrize("written", sampling.SH_BASES)
@pytest.mark.parametrize("read", sampling.SH_BASES)
def test_another_basis_is_named_and_the_right_one_gives_no_warning(
    order, written, read
):
    coeffs = noisy_fodf(order)
    same = "tournier07" if written.startswith("tournier07") else written
    if written == read or {written, read} == {"tournier07", "tournier07_legacy"}:
        read_as(coeffs, written, read)  # a warning fails
        return
    with pytest.warns(UserWarning, match=NAMED) as caught:
        read_as(coeffs, written, read)
    (message,) = (str(each.message) for each in caught)
    better, given, _ = NAMED.match(message).groups()
    assert (better, given) == (same, read)
    assert f"try --sh_basis {same}" in message and "\n" not in message
    assert ("with --sh_frame scanner" in message) == (same == "tournier07")


@pytest.mark.parametrize("frame", sampling.SH_FRAMES)
def test_the_basis_is_tested_before_the_axes_are_changed(oblique_affine, frame):
    coeffs = random_phantom(3, shape=(14, 14, 14), voxel_size_mm=3.0).fodf()
    options = {"sh_frame": frame, "affine": oblique_affine(-1.0)}
    sampling.fodf_features(coeffs, **options)
    with pytest.warns(UserWarning, match="seems to be in the basis descoteaux07_leg"):
        sampling.fodf_features(coeffs, basis_type="tournier07", legacy=False, **options)


@pytest.mark.parametrize("order", [4, 8])
def test_sharp_noisy_and_smooth_fodfs_in_their_basis_give_no_warning(order):
    phantom = random_phantom(5, shape=(14, 14, 14), voxel_size_mm=3.0)
    for lobe_deg, noise in ((0.0, 0.0), (0.0, 0.5), (15.0, 0.0), (15.0, 0.5)):
        fodf = phantom.fodf(order, lobe_deg=lobe_deg, noise=noise)
        assert read_as(fodf, "tournier07", "tournier07").sh_format.basis == "tournier07"


def test_fibres_along_the_axes_look_the_same_in_two_bases_and_give_no_warning():
    """Lobes in the plane z = 0 have no odd m, whose sign differs in these bases."""
    fodf = crossing_phantom(90, shape=(15, 15, 9)).fodf()
    shares = sampling.negative_shares(
        sampling.fodf_features(fodf).data, "descoteaux07_legacy"
    )
    assert shares["descoteaux07"] == pytest.approx(shares["descoteaux07_legacy"])
    assert not sampling.is_clear_basis(shares, "descoteaux07_legacy")
    read_as(fodf, "descoteaux07_legacy", "descoteaux07")


def test_few_voxels_are_not_judged():
    fodf = crossing_phantom(60, shape=(15, 15, 9)).fodf()
    sharp = fodf[np.abs(fodf[..., 1:]).sum(axis=3) > 0][:29, None, None]
    assert read_as(sharp, "tournier07", "descoteaux07_legacy").kind == "sh"
    assert sampling.negative_shares(sharp, "tournier07") == {}
    assert sampling.better_basis({}, "tournier07") is None
    assert not sampling.is_clear_basis({}, "tournier07")


def test_features_tell_how_they_were_given():
    pam = PeaksAndMetrics()
    pam.sphere = get_sphere(name="repulsion100")
    pam.B = sh_to_sf_matrix(
        pam.sphere, sh_order_max=4, basis_type="tournier07", legacy=False
    )[0]
    pam.shm_coeff = random_coeffs(4)
    known = sampling.SHFormat("tournier07", "voxel", True)
    assert sampling.pam_features(pam).sh_format == known
    given = sampling.pam_features(pam, basis_type="descoteaux07").sh_format
    assert given == sampling.SHFormat("descoteaux07_legacy", "voxel")
    scanner = sampling.fodf_features(
        random_coeffs(4), legacy=False, sh_frame="scanner", affine=np.eye(4)
    )
    assert scanner.sh_format == sampling.SHFormat("descoteaux07", "scanner")
    peaks = sampling.peaks_features(np.ones((1, 1, 1, 3)))
    assert peaks.sh_format == sampling.SHFormat("peaks", "voxel")


# Sharpness


@pytest.mark.parametrize("order", [4, 6, 8])
def test_fibre_odfs_are_accepted_without_a_warning(order):
    phantom = crossing_phantom(60.0, shape=(8, 8, 4))
    for noise in (0.0, 0.2):
        sampling.fodf_features(phantom.fodf(order, noise=noise))  # a warning fails


@pytest.mark.parametrize("order", [4, 8])
def test_a_diffusion_odf_gives_a_warning_that_names_it(order):
    flat = crossing_phantom(60.0, shape=(8, 8, 4)).fodf(order, lobe_deg=40.0)
    with pytest.warns(UserWarning, match=r"csa.pam5 does not look like a fibre ODF"):
        sampling.fodf_features(flat, name="csa.pam5")


@pytest.mark.parametrize("n_rows", [2, 8000])  # of the larger, only some are seen
@pytest.mark.parametrize(("power2", "sharp"), [(1.5, True), (0.3, False)])
def test_a_fibre_odf_has_much_power_of_order_two(power2, sharp, n_rows):
    coeffs = np.zeros((4, n_rows, 2, 15))
    coeffs[..., 0] = 1
    coeffs[..., 3] = np.sqrt(power2)
    coeffs[0] = 0
    # Background of the other kind has no effect.
    coeffs[1] *= 1e-2
    coeffs[1, ..., 3] = 0 if sharp else 1
    assert sampling.looks_like_fodf(coeffs) == sharp


def test_coefficients_without_order_two_are_not_a_fibre_odf():
    coeffs = np.zeros((1, 1, 1, 15))
    coeffs[..., [0, 10]] = 1.0
    assert not sampling.looks_like_fodf(coeffs)


# Raw features


def test_raw_features_are_not_converted():
    volume = np.arange(24).reshape(2, 2, 2, 3)
    features = sampling.raw_features(volume, name="t1.nii")
    assert (features.kind, features.name) == ("raw", "t1.nii")
    assert features.data.dtype == np.float32
    assert_array_equal(features.data, volume)
    assert sampling.raw_features(features.data).data is features.data


# NaN


def test_a_voxel_of_nan_has_no_data_and_is_counted():
    coeffs = random_coeffs(4)
    coeffs[1, 0, [0, 2]] = np.nan
    before = coeffs.copy()
    message = r"mine.nii holds NaN in 2 of 6 voxels; they count as voxels without data"
    for features_of in (sampling.fodf_features, sampling.raw_features):
        with pytest.warns(UserWarning, match=message):
            features = features_of(coeffs, name="mine.nii")
        with_zeros = features_of(np.nan_to_num(coeffs))
        assert_array_equal(features.data, with_zeros.data)
        assert not features.data[1, 0, [0, 2]].any()
        assert features.data[0].all()
    assert_array_equal(coeffs, before)


@pytest.mark.parametrize("legacy", [True, False])
def test_the_layout_of_a_volume_in_memory_does_not_matter(legacy):
    coeffs = random_coeffs(4).astype(np.float32)
    coeffs[0] = 0
    expected = sampling.fodf_features(coeffs, legacy=legacy).data
    for same in (
        np.asfortranarray(coeffs),
        coeffs.astype(np.float64),
        coeffs.astype(">f8"),
        np.repeat(coeffs, 2, axis=1)[:, ::2],
        coeffs.tolist(),
    ):
        features = sampling.fodf_features(same, legacy=legacy)
        assert_array_equal(features.data, expected)
        assert features.data.flags.c_contiguous


def test_the_number_of_threads_does_not_matter():
    coeffs = noisy_fodf(4)
    expected = sampling.fodf_features(coeffs).data
    coeffs[3, 2] = np.nan
    for nbr_threads in (2, 5):
        with pytest.warns(UserWarning, match="NaN in 14 of 2744 voxels"):
            found = sampling.fodf_features(coeffs, nbr_threads=nbr_threads).data
        assert not found[3, 2].any()
        found[3, 2] = expected[3, 2]
        assert_array_equal(found, expected)


def test_a_voxel_with_some_nan_is_an_error_of_one_line():
    coeffs = random_coeffs(4)
    coeffs[1, 0, 0, 3] = np.nan
    coeffs[0] = np.nan
    message = r"^mine.nii holds NaN in some of the values of 1 voxels; correct the"
    for features_of in (sampling.fodf_features, sampling.raw_features):
        with pytest.raises(ValueError, match=message):
            features_of(coeffs, name="mine.nii")


def test_only_nan_is_an_error():
    with (
        pytest.warns(UserWarning, match="in 6 of 6 voxels"),
        pytest.raises(ValueError, match="sh has no direction anywhere"),
    ):
        sampling.fodf_features(np.full((2, 1, 3, 15), np.nan))


# Volumes that are refused


def spoilt(value):
    coeffs = random_coeffs(4)
    coeffs[1, 0, [0, 2], 3] = value
    return coeffs


def no_direction():
    coeffs = np.zeros((2, 2, 2, 15))
    coeffs[..., 0] = 1
    return coeffs


@pytest.mark.parametrize(
    ("coeffs", "kwargs", "message"),
    [
        (spoilt(-np.inf), {}, "sub-1.nii holds 2 values that are infinite"),
        (spoilt([np.nan, np.inf]), {}, "sub-1.nii holds 1 values that are infinite"),
        (random_coeffs(4)[0], {}, "sub-1.nii has the shape (1, 3, 15)"),
        (np.zeros((0, 2, 2, 15)), {}, "sub-1.nii has the shape (0, 2, 2, 15)"),
        (random_coeffs(4)[..., :14], {}, "sub-1.nii is not a volume of spherical"),
        (np.ones((2, 2, 2, 6)), {}, "sub-1.nii is of order 2"),
        (np.zeros((2, 2, 2, 15)), {}, "sub-1.nii has no direction anywhere"),
        (no_direction(), {}, "sub-1.nii has no direction anywhere"),
        (random_coeffs(4) * 1j, {}, "sub-1.nii is of type complex128"),
        (random_coeffs(4), {"basis_type": "dipy"}, "basis_type is 'dipy'; 'descot"),
        (random_coeffs(4), {"sh_frame": "ras"}, "sh_frame is 'ras'; 'voxel' or 'sc"),
        (random_coeffs(4), {"sh_frame": "scanner"}, "sh_frame='scanner' needs the"),
        (
            random_coeffs(4),
            {"sh_frame": "scanner", "affine": np.diag([0.0, 0, 0, 1])},
            "affine is singular",
        ),
    ],
)
def test_bad_volumes_are_refused_in_one_line(coeffs, kwargs, message):
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        sampling.fodf_features(coeffs, name="sub-1.nii", **kwargs)
    assert "\n" not in str(refusal.value)


def test_bad_raw_features_are_refused_by_name():
    for volume, message in (
        (np.zeros((2, 2, 2)), "t1.nii has the shape"),
        (spoilt(np.inf), "t1.nii holds 2 values"),
        (np.full((1, 1, 1, 1), "a"), "t1.nii is of type"),
    ):
        with pytest.raises(ValueError, match=message):
            sampling.raw_features(volume, name="t1.nii")


def test_values_within_single_precision_are_accepted_and_larger_ones_refused():
    features = sampling.fodf_features(random_coeffs(4) * 1e30)
    assert np.isfinite(features.data).all()
    with pytest.raises(ValueError, match=r"sh holds .* that are infinite"):
        sampling.fodf_features(random_coeffs(4) * 1e300)


def test_a_diffusion_weighted_image_is_no_fodf():
    # 45 volumes are also the coefficients of order 8. A signal has no negative value.
    rng = np.random.default_rng(2)
    signal = rng.rayleigh(200.0, (6, 6, 6, 45)).astype(np.float32)
    signal[0] = 0
    with pytest.raises(ValueError, match=r"dwi\.nii has hardly any negative value"):
        sampling.fodf_features(signal, name="dwi.nii")
