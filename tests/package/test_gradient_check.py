"""Flipped and swapped gradient axes: the 24 cases, and which one is correct."""

from dataclasses import replace
import re

from dipy.core.gradients import gradient_table
from dipy.core.sphere import Sphere
from dipy.data import get_sphere
from dipy.reconst.csdeconv import AxSymShResponse, ConstrainedSphericalDeconvModel
from dipy.tracking.utils import random_seeds_from_mask
import numpy as np
import numpy.testing as npt
import pytest
from worlds import OBLIQUE_ROTATION, affine_of, everywhere, signed_permutations

from dipy_rnn.gradient_check import (
    AXIS_CASES,
    GIVEN,
    CaseLength,
    GradientCheck,
    check_gradients,
    reoriented,
)
from dipy_rnn.gradient_check.cases import flags_of, other_frame, reread, same_case
from dipy_rnn.phantom import Bundle, Phantom, random_phantom
from dipy_rnn.sampling import (
    SH_BASES,
    FeatureVolume,
    SHFormat,
    fodf_features,
    peaks_features,
    raw_features,
)
from dipy_rnn.stopping import BinaryStoppingCriterion

ONE_THREAD = {"step_size": 1.0, "nbr_threads": 1}


def check_phantom(phantom, case=GIVEN, n_seeds=200):
    """Check a phantom whose gradient axes were changed by a case."""
    mask = phantom.mask()
    seeds = random_seeds_from_mask(
        mask,
        phantom.affine,
        seeds_count=n_seeds,
        seed_count_per_voxel=False,
        random_seed=1,
    )
    features = reoriented(fodf_features(phantom.fodf(noise=0.1)), case)
    criterion = BinaryStoppingCriterion(mask)
    return check_gradients(features, criterion, seeds, phantom.affine, **ONE_THREAD)


def undoing(case):
    """Return the name of the case that undoes another one."""
    (name,) = (
        name
        for name, matrix in AXIS_CASES.items()
        if abs(np.trace(matrix @ AXIS_CASES[case])) == 3
    )
    return name


def lengths(longest=GIVEN, by=1.0, n=100):
    """Return lengths of 10 mm in all cases except one, which is longer."""
    return {
        case: np.full(n, 10.0 * (by if case == longest else 1)) for case in AXIS_CASES
    }


def of_given(of_cases):
    """Return the check of lengths with the given options."""
    return GradientCheck.from_lengths({"": of_cases})


def test_there_are_24_cases_and_no_two_differ_only_by_sign():
    assert len(AXIS_CASES) == 24
    npt.assert_array_equal(AXIS_CASES[GIVEN], np.eye(3))
    for matrix in signed_permutations():
        same = [np.array_equal(each, matrix) for each in AXIS_CASES.values()]
        opposite = [np.array_equal(each, -matrix) for each in AXIS_CASES.values()]
        assert sum(same) + sum(opposite) == 1


@pytest.mark.parametrize(
    ("case", "rows"),
    [("x -y z", (1, -2, 3)), ("y x z", (2, 1, 3)), ("-y z x", (-2, 3, 1))],
)
def test_the_name_of_a_case_lists_the_new_rows(case, rows):
    assert tuple(AXIS_CASES[case] @ [1, 2, 3]) == rows


@pytest.mark.parametrize("order", [4, 8])
def test_the_fodf_is_rotated_as_the_gradients_are(order, harmonics):
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(20, 3))
    n = (order + 1) * (order + 2) // 2
    features = FeatureVolume(np.float32(rng.normal(size=(2, 3, 1, n))), "sh", "mine")
    values = features.data @ harmonics(directions, order).T
    for case, matrix in AXIS_CASES.items():
        turned = reoriented(features, case)
        at_turned = turned.data @ harmonics(directions @ matrix.T, order).T
        npt.assert_allclose(at_turned, values, atol=1e-5, err_msg=case)
        assert (turned.data.dtype, turned.name) == (np.float32, "mine")


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # for DIPY's basis
@pytest.mark.parametrize("case", ["-x y z", "x y -z", "y x z", "z -x y"])
def test_a_fit_with_rotated_gradients_gives_the_rotated_fodf(case, random_frames):
    """The result of DIPY's CSD depends a little on the axes of two other inputs.

    Here it depends only on the gradients: the sphere of its constraint is rotated with
    them, and the response is given as harmonics, not sampled at the gradients.
    """
    sphere = get_sphere(name="symmetric362")
    bvecs = np.vstack([np.zeros(3), random_frames(30, seed=4)[:, 0]])
    bvals = np.r_[0, np.full(30, 1500.0)]
    phantom = random_phantom(2, shape=(8, 8, 8), voxel_size_mm=6.0)
    signal = phantom.dwi(gradient_table(bvals, bvecs=bvecs), snr=30)
    signal = signal[phantom.mask()][:20, None, None]

    def fit(matrix):
        model = ConstrainedSphericalDeconvModel(
            gradient_table(bvals, bvecs=bvecs @ matrix.T),
            AxSymShResponse(100.0, np.array([150.0, -60.0, 15.0])),
            reg_sphere=Sphere(xyz=sphere.vertices @ matrix.T),
            sh_order_max=4,
        )
        return fodf_features(model.fit(signal).shm_coeff)

    given = fit(np.eye(3))
    again = fit(AXIS_CASES[case])
    assert np.abs(again.data - given.data).max() > 0.1
    npt.assert_allclose(again.data, reoriented(given, case).data, atol=1e-5)


def test_features_that_cannot_be_rotated_are_an_error():
    features = raw_features(np.ones((2, 2, 2, 15)), name="wm.nii.gz")
    with pytest.raises(ValueError, match=r"wm\.nii\.gz is of kind 'raw'; spherical"):
        reoriented(features, GIVEN)
    features = FeatureVolume(np.ones((2, 2, 2, 15), np.float32), "sh")
    with pytest.raises(ValueError, match=r"case is 'x y'; one of x y z, -x y z"):
        reoriented(features, "x y")


def test_the_longest_case_is_found_and_the_others_are_compared_with_it():
    of_cases = lengths()
    of_cases["x -y z"] = np.array([20.0, 40.0] * 50)
    check = of_given(of_cases)
    assert check.candidates == ("x -y z",)
    assert [row.case for row in check.rows[:2]] == ["x -y z", GIVEN]
    given = check.rows[1]
    assert (given.mean_length_mm, given.ratio, given.shortfall_mm) == (10, 1, 20)
    # The differences are 10 and 30 mm: a standard deviation of 10 mm over 100 seeds.
    assert given.standard_error_mm == pytest.approx(10 / np.sqrt(99))
    assert (check.rows[0].ratio, check.rows[0].shortfall_mm) == (3, 0)
    assert check.table().splitlines()[:2] == [
        "  30.0 mm  3.00  x -y z",
        "  10.0 mm  1.00  x y z",
    ]


def test_10_percent_and_four_standard_errors_are_needed():
    assert len(of_given(lengths(by=1.09)).candidates) == 24
    assert of_given(lengths(by=1.11)).candidates == (GIVEN,)
    # One seed of n is longer by 10 n mm: mean and standard error are 10 mm.
    of_cases = lengths()
    of_cases[GIVEN][0] += 1000
    assert len(of_given(of_cases).candidates) == 24
    # Half of the seeds are longer by 20 mm: a mean of 10 mm, standard error 1.005 mm.
    of_cases[GIVEN] = np.array([10.0, 30.0] * 50)
    assert of_given(of_cases).candidates == (GIVEN,)


def test_the_lengths_of_each_seed_are_compared():
    """Lengths vary much between seeds, but all are longer by 20 percent."""
    of_seeds = np.geomspace(1, 200, 40)
    of_cases = dict.fromkeys(AXIS_CASES, of_seeds) | {"z x y": 1.2 * of_seeds}
    assert of_given(of_cases).candidates == ("z x y",)


def test_without_streamlines_there_is_no_clear_result():
    check = of_given(dict.fromkeys(AXIS_CASES, np.zeros(50)))
    assert len(check.candidates) == 24 and check.rows[0].ratio == np.inf
    assert check.verdict.startswith("No clear answer")


VERDICTS = {
    GIVEN: "The gradients look right: streamlines are 2.0 times as long as with "
    "axes flipped or swapped",
    "x -y z": "y looks flipped: streamlines are 2.0 times as long with y negated; "
    "negate row 2 of the bvec file and fit again",
    "z y x": "x and z look swapped: streamlines are 2.0 times as long with these "
    "swapped; swap rows 1 and 3 of the bvec file and fit again",
    "y x -z": "The axes look mixed up: streamlines are 2.0 times as long with "
    "(y x -z); make row 2, row 1, minus row 3 the rows of the bvec file and fit again",
}


@pytest.mark.parametrize("case", VERDICTS)
def test_the_verdict_is_one_line_with_the_correction(case):
    check = of_given(lengths(longest=case, by=2.0))
    assert check.verdict == VERDICTS[case]


WITHOUT_OTHERS = {
    GIVEN: "The gradients look right: with axes flipped or swapped there are no "
    "streamlines",
    "x -y z": "y looks flipped: there are no streamlines with the unchanged gradients, "
    "but there are with y negated; negate row 2 of the bvec file and fit again",
    "z y x": "x and z look swapped: there are no streamlines with the unchanged "
    "gradients, but there are with these swapped; swap rows 1 and 3 of the bvec file "
    "and fit again",
    "y x -z": "The axes look mixed up: there are no streamlines with the unchanged "
    "gradients, but there are with (y x -z); make row 2, row 1, minus row 3 the rows "
    "of the bvec file and fit again",
}


@pytest.mark.parametrize("case", WITHOUT_OTHERS)
def test_there_is_no_factor_if_only_one_case_has_streamlines(case):
    of_cases = dict.fromkeys(AXIS_CASES, np.zeros(40)) | {case: np.arange(40) + 10.0}
    assert of_given(of_cases).verdict == WITHOUT_OTHERS[case]


def test_there_is_no_factor_if_several_other_cases_have_streamlines():
    of_cases = dict.fromkeys(AXIS_CASES, np.zeros(40))
    of_cases |= dict.fromkeys(["-x y z", "x -y z"], np.arange(40) + 10.0)
    assert of_given(of_cases).verdict == (
        "The gradients look wrong, but it is not clear how: there are no streamlines "
        "with the unchanged gradients, but there are with (-x y z), (x -y z)"
    )


@pytest.mark.parametrize(
    ("case", "ratio", "begin"),
    [(GIVEN, 1.0, "The gradients look right"), ("x -y z", 2.0, "y looks flipped")],
)
def test_a_check_of_one_case_has_a_verdict(case, ratio, begin):
    check = GradientCheck((CaseLength(case, 60.0, ratio, 0.0, 0.0, True),))
    assert check.verdict.startswith(begin)


def test_the_rows_of_a_verdict_are_those_of_its_case():
    n_mixed_up = 0
    for case, matrix in AXIS_CASES.items():
        verdict = of_given(lengths(longest=case, by=2.0)).verdict
        if "mixed up" in verdict:
            n_mixed_up += 1
            told = re.findall(r"(minus )?row (\d)", verdict)
            rows = [(-1 if minus else 1) * int(row) for minus, row in told]
            assert rows == list(matrix @ [1, 2, 3]), case
    assert n_mixed_up == 24 - 4 - 3


@pytest.mark.parametrize(
    ("case", "handedness"), [(GIVEN, 1), ("-x y z", -1), ("x z y", 1), ("z -x y", -1)]
)
def test_the_correct_case_is_found_on_any_grid(case, handedness):
    phantom = random_phantom(3, shape=(20, 20, 20))
    rotation = OBLIQUE_ROTATION * handedness
    affine = affine_of((2.0, 2.0, 2.5), rotation)
    affine[:3, 3] = -affine[:3, :3] @ ((20 - 1) / 2 * np.array([1, 1, 0.8]))
    phantom = phantom.on_grid(affine, (20, 20, 16))
    assert check_phantom(phantom, case).candidates == (undoing(case),)


def test_cases_that_keep_the_direction_of_a_straight_bundle_are_candidates():
    along_mm = np.linspace(-20, 20, 80)[:, None] * np.array([1.0, 0, 0])
    affine = affine_of((2.0, 2, 2), offset_mm=(-24.0, -12.0, -12.0))
    phantom = Phantom([Bundle(along_mm, 6.0)], affine, (25, 13, 13))
    keep_x = {case for case in AXIS_CASES if case.split()[0] in ("x", "-x")}
    check = check_phantom(phantom, n_seeds=100)
    assert set(check.candidates) == keep_x and len(keep_x) == 8
    named, rest = check.verdict.removeprefix("No clear answer: with ").split(" and 3 ")
    assert set(named.strip("()").split("), (")) < keep_x - {GIVEN}
    assert rest == "more streamlines are about as long as with the unchanged gradients"
    # If x and y are swapped, the axes are wrong, but several cases are possible.
    check = check_phantom(phantom, "y x z", n_seeds=100)
    assert {case.split()[0].strip("-") for case in check.candidates} == {"y"}
    assert len(check.candidates) == 8
    assert check.verdict.startswith("The gradients look wrong, but it is not clear how")


def test_a_seed_without_a_streamline_has_length_zero():
    phantom = random_phantom(3, shape=(10, 10, 10), voxel_size_mm=4.0)
    features = fodf_features(phantom.fodf())
    inside = np.argwhere(phantom.mask())[:30] * 4.0 + phantom.affine[:3, 3]
    far = np.full((30, 3), 1e4)
    criterion = everywhere(phantom.shape)

    def check(seeds):
        return check_gradients(
            features, criterion, seeds, phantom.affine, **ONE_THREAD
        ).rows[0]

    alone, diluted = check(inside), check(np.vstack([far, inside]))
    assert alone.case == diluted.case and alone.mean_length_mm > 5
    assert diluted.mean_length_mm == pytest.approx(alone.mean_length_mm / 2)


def test_too_few_seeds_are_an_error():
    phantom = random_phantom(3, shape=(8, 8, 8), voxel_size_mm=6.0)
    with pytest.raises(ValueError, match=r"seeds has 29 rows; 30 or more are needed"):
        check_gradients(
            fodf_features(phantom.fodf()),
            everywhere(phantom.shape),
            np.zeros((29, 3)),
            phantom.affine,
        )


# Options: the basis and the axes of the coefficients

MRTRIX = SHFormat("tournier07", "scanner")
OF_MRTRIX = "--sh_basis tournier07 --sh_frame scanner"


@pytest.mark.parametrize("frame", ["voxel", "scanner"])
@pytest.mark.parametrize("basis", SH_BASES)
def test_reading_again_is_the_same_as_reading_so_at_first(oblique_affine, basis, frame):
    affine = oblique_affine(-1.0)
    stored = np.random.default_rng(0).normal(size=(2, 1, 1, 28))

    def read(basis, frame):
        return fodf_features(
            stored,
            basis_type=basis.removesuffix("_legacy"),
            legacy=basis.endswith("_legacy"),
            sh_frame=frame,
            affine=affine,
        )

    expected = read(basis, frame)
    for given in (SHFormat("descoteaux07", "voxel"), MRTRIX):
        again = reread(read(given.basis, given.frame), expected.sh_format, affine)
        npt.assert_allclose(again.data, expected.data, atol=1e-5)
        assert again.sh_format == SHFormat(basis, frame)


def test_peaks_are_read_along_the_other_axes(oblique_affine):
    affine = oblique_affine(1.0)
    directions = np.random.default_rng(0).normal(size=(2, 2, 1, 1, 3))
    voxel = peaks_features(directions)
    scanner = peaks_features(directions, frame="scanner", affine=affine)
    again = reread(voxel, other_frame(voxel.sh_format), affine)
    npt.assert_allclose(again.data, scanner.data, atol=1e-5)


def test_options_are_those_that_change_one_format_into_another():
    default = SHFormat("descoteaux07_legacy", "voxel")
    assert flags_of(MRTRIX, default) == OF_MRTRIX
    assert flags_of(default, MRTRIX) == OF_MRTRIX.replace(
        "tournier07 --sh_frame scanner", "descoteaux07_legacy --sh_frame voxel"
    )
    assert flags_of(other_frame(default), default) == "--sh_frame scanner"
    assert flags_of(MRTRIX, MRTRIX) == ""


def test_a_rotation_is_one_of_the_cases_within_half_a_degree():
    for matrix in signed_permutations():
        (expected,) = (
            case
            for case, each in AXIS_CASES.items()
            if np.array_equal(each, matrix) or np.array_equal(each, -matrix)
        )
        assert same_case(matrix) == expected
    for degrees, expected in (
        (0.4, "x y z"),
        (0.6, None),
        (45, None),
        (89.7, "-y x z"),
    ):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        assert same_case(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])) == expected


def check_as_read(affine, given, case=GIVEN, *, n_seeds=100, order=8):
    """Check a phantom that was written as MRtrix3 does, and is read as if `given`."""
    phantom = random_phantom(3, shape=(20, 20, 20)).on_grid(affine, (20, 20, 20))
    mask = phantom.mask()
    seeds = random_seeds_from_mask(
        mask, affine, seeds_count=n_seeds, seed_count_per_voxel=False, random_seed=1
    )
    fodf = fodf_features(phantom.fodf(order, noise=0.1))
    written = replace(reoriented(fodf, case), sh_format=MRTRIX)
    return check_gradients(
        reread(written, given, affine),
        BinaryStoppingCriterion(mask),
        seeds,
        affine,
        **ONE_THREAD,
    )


def oblique():
    affine = affine_of((2.0, 2.0, 2.0), OBLIQUE_ROTATION)
    affine[:3, 3] = -affine[:3, :3] @ np.full(3, 9.5)
    return affine


def mirrored():
    affine = affine_of((2.0, 2.0, 2.0), np.diag([-1.0, 1, 1]))
    affine[:3, 3] = -affine[:3, :3] @ np.full(3, 9.5)
    return affine


READ_AS = {
    "no options": (SHFormat("descoteaux07_legacy", "voxel"), OF_MRTRIX),
    "basis": (SHFormat("tournier07", "voxel"), "--sh_frame scanner"),
    "frame": (SHFormat("descoteaux07", "scanner"), "--sh_basis tournier07"),
}


@pytest.mark.parametrize("mistake", READ_AS)
def test_on_an_oblique_grid_wrong_options_are_named_and_not_the_gradients(mistake):
    given, flags = READ_AS[mistake]
    check = check_as_read(oblique(), given)
    assert check.candidates == (flags,)
    assert "bvec" not in check.verdict.removesuffix(" and keep the bvec file")
    assert check.verdict.startswith("The options are wrong, not the gradients: ")
    assert f"; use {flags} and keep the bvec file" in check.verdict


def test_on_an_oblique_grid_right_options_leave_no_doubt_about_the_gradients():
    check = check_as_read(oblique(), MRTRIX)
    assert check.candidates == (GIVEN,)
    check = check_as_read(oblique(), MRTRIX, "x -y z")
    assert check.candidates == ("x -y z",)
    assert check.verdict.startswith("y looks flipped")


def test_on_an_oblique_grid_wrong_options_and_gradients_are_both_named():
    check = check_as_read(oblique(), SHFormat("tournier07", "voxel"), "x y -z")
    assert check.candidates == ("--sh_frame scanner and (x y -z)",)
    assert check.verdict.startswith("The options and the gradients are wrong: ")
    assert "use --sh_frame scanner, and negate row 3 of the bvec" in check.verdict


def test_on_a_mirrored_grid_the_options_are_named_before_the_gradients():
    """Scanner axes are voxel axes with x flipped, so both mistakes look the same."""
    check = check_as_read(mirrored(), SHFormat("tournier07", "voxel"))
    assert set(check.candidates) == {"-x y z", "--sh_frame scanner"}
    assert "it cannot be told which" in check.verdict
    assert "; use --sh_frame scanner if the fODF was written in this way" in (
        check.verdict
    )
    assert check.verdict.index("use --sh_frame") < check.verdict.index("bvec")
    # If the axes are right, nothing is wrong.
    check = check_as_read(mirrored(), MRTRIX)
    assert check.verdict.startswith("The gradients look right: streamlines are ")
    assert "--sh_frame voxel and (-x y z) would look the same" in check.verdict


def test_on_a_mirrored_grid_a_flip_has_a_second_explanation():
    check = check_as_read(mirrored(), MRTRIX, "x y -z")
    assert check.verdict.startswith("z looks flipped: ")
    assert (
        "negate row 3 of the bvec file and fit again; or, if --sh_frame voxel is "
        in (check.verdict)
    )
    # x and z flipped are y flipped.
    assert check.verdict.endswith("negate row 2 of the bvec file and fit again")


def test_a_format_that_the_file_tells_is_not_doubted():
    check = check_as_read(mirrored(), SHFormat("tournier07", "voxel", is_known=True))
    assert len(check.rows) == 24 and not any(row.flags for row in check.rows)
    assert check.verdict.startswith("x looks flipped")


def test_advice_says_if_the_basis_could_not_be_tested():
    check = GradientCheck.from_lengths(
        {"": lengths("x -y z", by=2.0)}, is_basis_clear=False
    )
    assert check.verdict.endswith(
        "fit again; make sure of --sh_basis first, which could not be tested on this "
        "fODF"
    )
    right = GradientCheck.from_lengths({"": lengths(by=2.0)}, is_basis_clear=False)
    assert "--sh_basis" not in right.verdict


def test_the_table_and_the_names_tell_the_options():
    of_cases = lengths("x -y z", by=2.0)
    check = GradientCheck.from_lengths(
        {"": of_cases, "--sh_frame scanner": {GIVEN: np.full(100, 30.0)}}
    )
    assert check.table().splitlines()[0] == "  30.0 mm  3.00  x y z  --sh_frame scanner"
    assert check.candidates == ("--sh_frame scanner",)
    assert len(check.rows) == 25
