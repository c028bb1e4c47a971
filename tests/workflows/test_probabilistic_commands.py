"""Probabilistic tracking, density maps and connectomes, by the commands."""

import csv
import sys

from commands import Subject, command, refusal
from dipy.io.image import load_nifti, save_nifti
from dipy.io.streamline import load_tractogram
from dipy.tracking.utils import connectivity_matrix, density_map
import numpy as np
import numpy.testing as npt
import pytest

from dipy_rnn.workflows import cli

PROBABILISTIC = ("--tracking_method", "probabilistic", "--step_size", 1.0)


@pytest.fixture
def subject(tmp_path):
    return Subject(tmp_path)


def write_equal_seeds(subject, n):
    """Replace the seeds by a list in which each of four seeds stands n times."""
    affine = subject.phantom.affine
    seeds_vox = np.repeat([[5.0, 9, 5], [8, 9, 5], [9, 5, 5], [12, 9, 4]], n, axis=0)
    path = subject.folder / "seeds.txt"
    np.savetxt(path, seeds_vox @ affine[:3, :3].T + affine[:3, 3])
    return [subject.pam, subject.stopping, path]


# dipy_track_rnn


def test_equal_seeds_have_different_streamlines(subject):
    inputs = write_equal_seeds(subject, 5)
    lines = subject.run(*PROBABILISTIC, inputs=inputs)
    assert len(lines) == len({line.tobytes() for line in lines}) == 20
    deterministic = subject.run("--step_size", 1.0, inputs=inputs)
    assert len({line.tobytes() for line in deterministic}) == 4


def test_short_names_of_methods_are_those_of_dipy_track(subject):
    options = ("--step_size", 1.0, "--tracking_method")
    for short, method in (("prob", "probabilistic"), ("DET", "deterministic")):
        lines = [subject.run(*options, name) for name in (short, method)]
        for line, other in zip(*lines, strict=True):
            npt.assert_array_equal(line, other)


def test_parts_threads_and_engines_write_the_same_bytes(subject):
    inputs = write_equal_seeds(subject, 6)
    written = []
    for options in (
        ("--nbr_threads", 1),
        ("--nbr_threads", 2, "--batch_size", 5),
        ("--nbr_parts", 3),
        ("--nbr_parts", 2, "--engine", "joblib", "--num_processes", 2),
    ):
        subject.run(*PROBABILISTIC, "--random_seed", 4, *options, inputs=inputs)
        written.append((subject.folder / "out" / "out.trk").read_bytes())
    assert written.count(written[0]) == 4
    subject.run(*PROBABILISTIC, "--random_seed", 5, inputs=inputs)
    assert (subject.folder / "out" / "out.trk").read_bytes() != written[0]


def test_with_random_seed_0_each_run_draws_other_streamlines(subject):
    inputs = write_equal_seeds(subject, 3)
    one, two = (
        subject.run(*PROBABILISTIC, "--random_seed", 0, inputs=inputs) for _ in range(2)
    )
    assert len({line.tobytes() for line in [*one, *two]}) == len(one) + len(two) == 24


def test_a_higher_temperature_spreads_streamlines(subject):
    inputs = write_equal_seeds(subject, 30)
    spreads = []
    for temperature in (0.25, 1.0, 2.0):
        lines = subject.run(*PROBABILISTIC, "--temperature", temperature, inputs=inputs)
        after = np.array([line[len(line) // 2] for line in lines[:30]])
        spreads.append(after.std(axis=0).sum())
    assert spreads[0] < spreads[1] < spreads[2]


REFUSED = {
    "method": (("--tracking_method", "ptt"), "tracking_method is ptt; deterministic,"),
    "temperature": ((*PROBABILISTIC, "--temperature", 0), "temperature is 0"),
    "model": (
        (*PROBABILISTIC, "--model_file", "deterministic"),
        "deterministic predicts no spread",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_drawn_is_refused_before_tracking(subject, case):
    options, message = REFUSED[case]
    out = subject.folder / "out"
    assert message in refusal(*subject.inputs, "--out_dir", out, *options)
    assert not any(out.glob("*"))


# Density maps


@pytest.mark.parametrize("parts", [1, 2])
def test_a_density_map_counts_what_dipy_counts(subject, parts):
    lines = subject.run(
        *PROBABILISTIC, "--save_density", "--nbr_parts", parts, out="out.trx"
    )
    density, affine = load_nifti(str(subject.folder / "out" / "out_density.nii.gz"))
    npt.assert_allclose(affine, subject.phantom.affine)
    expected = density_map(lines, affine, subject.mask.shape)
    # Coordinates are rounded to float32, so a point on a border may change its voxel.
    assert (density != expected).mean() < 1e-3 and density.max() > 1


def test_a_density_map_has_the_points_that_compress_removes(subject):
    options = (*PROBABILISTIC, "--save_density")
    maps = []
    for more in ((), ("--compress", 0.5), ("--downsample", 10)):
        subject.run(*options, *more)
        maps.append(load_nifti(str(subject.folder / "out" / "out_density.nii.gz"))[0])
    npt.assert_array_equal(maps[1], maps[0])
    npt.assert_array_equal(maps[2], maps[0])


def test_an_existing_density_map_is_kept_without_force(subject):
    path = subject.folder / "out_density.nii.gz"
    path.write_bytes(b"mine")
    options = ("--out_dir", subject.folder, "--out_tractogram", "out.trk")
    line = refusal(*subject.inputs, *options, "--save_density")
    assert "out_density.nii.gz exists already" in line
    assert path.read_bytes() == b"mine"


# dipy_connectome_rnn


def connectome(*arguments):
    sys.argv = ["dipy_connectome_rnn", *map(str, arguments)]
    cli.connectome()


def refusal_of_connectome(*arguments):
    with pytest.raises(SystemExit) as caught:
        connectome(*arguments)
    line = caught.value.code
    assert line.startswith("dipy_connectome_rnn: error: ") and "\n" not in line
    return line


@pytest.fixture
def labelled(subject):
    """Return a subject with labels 10, 20 .. in blocks along x and y."""
    x, y, _ = np.indices(subject.mask.shape)
    labels = 10 * (1 + x // 5 + 4 * (y // 10)).astype(np.int16)
    subject.labels = subject.folder / "labels.nii.gz"
    save_nifti(str(subject.labels), labels, subject.phantom.affine)
    subject.label_values = labels
    return subject


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_matrix_is_that_of_dipy(labelled, messages):
    inputs = write_equal_seeds(labelled, 10)
    lines = labelled.run(*PROBABILISTIC, "--save_seeds", inputs=inputs)
    out = labelled.folder / "out"
    connectome(out / "out.trk", labelled.labels, "--out_dir", out)
    expected = connectivity_matrix(
        lines, labelled.phantom.affine, labelled.label_values
    )[10::10, 10::10]
    np.fill_diagonal(expected, 0)
    matrix = rows_of(out / "connectome.csv")
    names = [row.pop("region") for row in matrix]
    assert names == [str(label) for label in range(10, 90, 10)]
    npt.assert_array_equal([[int(v) for v in row.values()] for row in matrix], expected)
    pairs = rows_of(out / "connections.csv")
    assert sum(int(row["streamlines"]) for row in pairs) == expected.sum() // 2 > 0
    for row in pairs:
        low, high = (float(row[f"streamlines_{end}"]) for end in ("low", "high"))
        assert low <= int(row["streamlines"]) <= high
    assert "40 streamlines of 4 seeds" in messages.text


def test_connectomes_of_many_subjects_are_paired(labelled):
    for name in ("sub-1", "sub-2"):
        folder = labelled.folder / name
        labelled.run("--step_size", 1.0, out_dir=folder)
        (folder / "labels.nii.gz").write_bytes(labelled.labels.read_bytes())
    connectome(
        labelled.folder / "sub-*" / "out.trk",
        labelled.folder / "sub-*" / "labels.nii.gz",
        "--out_strat",
        "append",
        "--out_dir",
        "connectome",
    )
    for name in ("sub-1", "sub-2"):
        assert rows_of(labelled.folder / name / "connectome" / "connections.csv")


def test_what_is_not_a_connectome_is_refused(labelled):
    labelled.run("--step_size", 1.0)
    tractogram = labelled.folder / "out" / "out.trk"
    far = labelled.folder / "far.nii.gz"
    affine = labelled.phantom.affine.copy()
    affine[:3, 3] += 500
    save_nifti(str(far), labelled.label_values, affine)
    line = refusal_of_connectome(tractogram, far)
    assert "out.trk lie outside the image" in line
    save_nifti(str(far), 0 * labelled.label_values, labelled.phantom.affine)
    assert "has no region" in refusal_of_connectome(tractogram, far)
    line = refusal_of_connectome(tractogram, labelled.labels, "--n_resamples", 0)
    assert "n_resamples is 0" in line
    line = refusal_of_connectome(labelled.folder / "no.trk", labelled.labels)
    assert "no.trk" in line


def test_a_connectome_of_the_command_line_can_be_repeated(labelled):
    inputs = write_equal_seeds(labelled, 10)
    command(
        *inputs,
        *("--out_dir", labelled.folder, "--out_tractogram", "out.trk", "--save_seeds"),
        *PROBABILISTIC,
    )
    written = []
    for random_seed in (1, 1, 2):
        connectome(
            labelled.folder / "out.trk",
            labelled.labels,
            *("--out_dir", labelled.folder, "--force", "--random_seed", random_seed),
            *("--n_resamples", 40),
        )
        written.append((labelled.folder / "connections.csv").read_text())
    assert written[0] == written[1]
    seeds = load_tractogram(
        str(labelled.folder / "out.trk"), "same", bbox_valid_check=False
    ).data_per_streamline["seeds"]
    assert len(np.unique(np.round(seeds, 3), axis=0)) == 4
