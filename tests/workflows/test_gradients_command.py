"""dipy_check_gradients_rnn on files of a phantom."""

import csv
from inspect import signature
import re
import sys

from commands import write_pam
from dipy.io.image import save_nifti
from dipy.reconst.shm import convert_sh_descoteaux_tournier
import numpy as np
import pytest
from worlds import OBLIQUE_ROTATION, affine_of

from dipy_rnn import sampling, spatial
from dipy_rnn.gradient_check import AXIS_CASES
from dipy_rnn.phantom import random_phantom
from dipy_rnn.workflows import cli, gradients

QUICK = ("--step_size", 1.0, "--nbr_threads", 1, "--seed_count", 200)


def command(*arguments):
    sys.argv = ["dipy_check_gradients_rnn", *map(str, arguments)]
    cli.check_gradients()


def refusal(*arguments):
    """Return the one-line error of the command."""
    with pytest.raises(SystemExit) as caught:
        command(*arguments)
    line = caught.value.code
    assert isinstance(line, str)
    assert line.startswith("dipy_check_gradients_rnn: error: ")
    assert "\n" not in line and "please report" not in line
    return line


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def mirrored_y(fodf):
    """Negate the coefficients, in DIPY's default basis, of functions odd in y."""
    order = sampling.sh_order(fodf.shape[3])
    is_odd = [m > 0 for n in range(0, order + 1, 2) for m in range(-n, n + 1)]
    return fodf * np.where(is_odd, -1, 1)


def write_subject(folder, affine=None, change=None):
    """Write the three files of a phantom; return paths, phantom and fODF."""
    folder.mkdir(exist_ok=True)
    phantom = random_phantom(3, shape=(20, 20, 20))
    if affine is not None:
        phantom = phantom.on_grid(affine, phantom.shape)
    fodf = phantom.fodf(noise=0.1)
    mask = phantom.mask()
    paths = [folder / name for name in ("peaks.pam5", "fa.nii.gz", "seeds.nii.gz")]
    write_pam(paths[0], fodf if change is None else change(fodf), phantom.affine)
    save_nifti(paths[1], mask.astype(np.float32), phantom.affine)
    save_nifti(paths[2], mask.astype(np.uint8), phantom.affine)
    return paths, phantom, fodf


def test_correct_gradients_are_recognised_and_the_table_is_saved(tmp_path, messages):
    paths, *_ = write_subject(tmp_path)
    command(*paths, *QUICK, "--out_dir", tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "gradients.csv")
    assert {row["case"] for row in rows} == set(AXIS_CASES)
    assert [row["case"] for row in rows if row["is_candidate"] == "True"] == ["x y z"]
    means_mm = [float(row["mean_length_mm"]) for row in rows]
    assert means_mm == sorted(means_mm, reverse=True)
    assert rows[0]["shortfall_mm"] == "0.0" and float(rows[0]["ratio"]) == 1
    text = messages.text
    assert text.index("1.00  x y z") < text.index("The gradients look right: ")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["gradients.csv"]


def test_seeds_are_read_from_a_list(tmp_path, messages):
    paths, phantom, _ = write_subject(tmp_path)
    seeds_mm = np.concatenate([line[::5] for line in phantom.streamlines(20)[0]])[:99]
    paths[2] = tmp_path / "seeds.txt"
    np.savetxt(paths[2], seeds_mm)
    command(*paths, *QUICK[:4], "--out_dir", tmp_path / "out")
    assert "with 99 seeds" in messages.text
    assert rows_of(tmp_path / "out" / "gradients.csv")[0]["case"] == "x y z"
    np.savetxt(paths[2], seeds_mm[:29])
    line = refusal(*paths, *QUICK, "--out_dir", tmp_path)
    assert "seeds.txt contains 29 seeds; 30 or more" in line


def test_a_flipped_axis_is_a_message_and_not_an_error(tmp_path, messages):
    paths, *_ = write_subject(tmp_path, change=mirrored_y)
    command(*paths, *QUICK, "--out_dir", tmp_path, "--out_table", "mine.csv")
    text = messages.text
    assert "y looks flipped: streamlines are " in text
    assert "; negate row 2 of the bvec file and fit again" in text
    assert rows_of(tmp_path / "mine.csv")[0]["case"] == "x -y z"


def write_mrtrix(folder):
    """Write a phantom on an oblique grid, and its fODF also as MRtrix3 does."""
    affine = affine_of((2.0, 2.0, 2.0), OBLIQUE_ROTATION)
    affine[:3, 3] = -affine[:3, :3] @ np.full(3, 9.5)
    paths, _, fodf = write_subject(folder, affine)
    rows = convert_sh_descoteaux_tournier(fodf).reshape(-1, fodf.shape[3])
    scanner = sampling.rotate(
        rows,
        np.broadcast_to(spatial.axes(affine), (len(rows), 3, 3)),
        handedness=spatial.handedness(affine),
    )
    harmonics = folder / "wmfod.nii.gz"
    save_nifti(harmonics, scanner.reshape(fodf.shape), affine)
    return paths, harmonics


def test_mrtrix_coefficients_in_scanner_axes_give_the_same_table(tmp_path):
    paths, harmonics = write_mrtrix(tmp_path)
    mrtrix = ("--sh_basis", "tournier07", "--sh_frame", "scanner")
    command(*paths, *QUICK, "--out_dir", tmp_path / "a")
    command(harmonics, *paths[1:], *QUICK, *mrtrix, "--out_dir", tmp_path / "b")
    a, b = (
        {
            row["case"]: row
            for row in rows_of(tmp_path / name / "gradients.csv")
            if not row["flags"]
        }
        for name in "ab"
    )
    for case in AXIS_CASES:
        assert (
            a[case]["is_candidate"] == b[case]["is_candidate"] == str(case == "x y z")
        )
        lengths_mm = [float(each[case]["mean_length_mm"]) for each in (a, b)]
        assert lengths_mm[0] == pytest.approx(lengths_mm[1], rel=0.02)


def test_options_that_are_missing_are_named_and_the_bvec_file_is_kept(
    tmp_path, messages
):
    paths, harmonics = write_mrtrix(tmp_path)
    command(harmonics, *paths[1:], *QUICK, "--out_dir", tmp_path)
    text = messages.text
    assert "wmfod.nii.gz seems to be in the basis tournier07, not in descot" in text
    assert "use --sh_basis tournier07 --sh_frame scanner and keep the bvec file" in text
    rows = rows_of(tmp_path / "gradients.csv")
    assert [row["flags"] for row in rows if row["is_candidate"] == "True"] == [
        "--sh_basis tournier07 --sh_frame scanner"
    ]


def test_each_subject_has_its_own_table(tmp_path):
    for name in ("sub-1", "sub-2"):
        paths, *_ = write_subject(tmp_path / name)
    inputs = [tmp_path / "sub-*" / path.name for path in paths]
    assert "2 subjects would write" in refusal(*inputs, "--out_dir", tmp_path / "all")
    few = (*QUICK[:4], "--seed_count", 30)
    command(*inputs, *few, "--out_strat", "append", "--out_dir", "check")
    tables = [tmp_path / f"sub-{i}" / "check" / "gradients.csv" for i in (1, 2)]
    assert rows_of(tables[0]) == rows_of(tables[1])


def test_an_existing_table_is_kept_without_force(tmp_path):
    paths, *_ = write_subject(tmp_path)
    table = tmp_path / "gradients.csv"
    table.write_text("precious")
    assert "add --force" in refusal(*paths, "--out_dir", tmp_path)
    assert table.read_text() == "precious"


MISTAKES = {
    "seeds": (("--seed_count", 29), "seed_count is 29; 30 or more"),
    "random seed": (("--random_seed", -1), "random_seed is -1"),
    "basis": (("--sh_basis", "mrtrix"), "sh_basis is mrtrix"),
    "model": (("--model_file", "nothing.pt"), "nothing.pt"),
    "step": (("--step_size", 0), "step_size is 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_an_error_of_one_line_before_tracking(tmp_path, mistake):
    options, named = MISTAKES[mistake]
    paths, *_ = write_subject(tmp_path / "in")
    assert named in refusal(*paths, *options, "--out_dir", tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))


def test_a_model_of_other_features_is_an_error(tmp_path, follower):
    paths, phantom, fodf = write_subject(tmp_path)
    field = tmp_path / "field.nii.gz"
    save_nifti(field, fodf[..., :3].astype(np.float32), phantom.affine)
    inputs = (field, *paths[1:], "--model_file", follower, "--out_dir", tmp_path)
    assert "field.nii.gz is of kind 'raw'" in refusal(*inputs)


def test_every_option_is_documented():
    run = gradients.RNNGradientCheckFlow.run
    for name in signature(run).parameters.keys() - {"self"}:
        assert re.search(rf"^ *{name} : ", run.__doc__, re.M), name
