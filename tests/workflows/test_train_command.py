"""dipy_train_rnn on files: all options, and mistakes of users."""

import csv
from pathlib import Path
import re
import shutil
import subprocess
import sys
from zipfile import ZipFile

from commands import load, write_pam
from dipy.io.image import save_nifti
from dipy.io.stateful_tractogram import Space, StatefulTractogram
from dipy.io.streamline import save_tractogram
from dipy.reconst.shm import convert_sh_descoteaux_tournier
from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
from distributed_worker import distributed, interrupt_after
import numpy as np
from numpy.testing import assert_allclose
import pytest
import torch

from dipy_rnn import rnn_tracking
from dipy_rnn.model import read_metadata
from dipy_rnn.phantom import Bundle, Phantom
from dipy_rnn.sampling import fodf_features
from dipy_rnn.training import log, processes
from dipy_rnn.training.state import load_checkpoint
from dipy_rnn.workflows import cli, train

SMALL = {
    "hidden": 4,
    "n_updates": 2,
    "validate_every": 2,
    "batch_size": 8,
    "max_points": 6,
    "validation_fraction": 0,
    "nbr_threads": 1,
}


def flat_phantom(*angles_deg, shape=(12, 12, 6)):
    """Return straight bundles of 20 mm in the x-y plane, in voxels of 2 mm."""
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = 1 - np.array(shape)
    along = np.linspace(-10, 10, 41)[:, None]
    angles = np.deg2rad(angles_deg)
    bundles = [Bundle(along * [np.cos(a), np.sin(a), 0], 3.0) for a in angles]
    return Phantom(bundles, affine, shape)


def save_lines(path, lines, image):
    tractogram = StatefulTractogram(lines, str(image), Space.RASMM)
    save_tractogram(tractogram, str(path), bbox_valid_check=False)


class Subject:
    """A subject and its files."""

    def __init__(self, folder, order=4, n_each=6, name="sub"):
        self.phantom = flat_phantom(30.0, 70.0)
        self.fodf = self.phantom.fodf(order, noise=0.05)
        self.lines, _ = self.phantom.streamlines(n_each)
        self.pam = folder / f"{name}.pam5"
        self.tractogram = folder / f"{name}.trk"
        self.fa = folder / f"{name}_fa.nii.gz"
        write_pam(self.pam, self.fodf, self.phantom.affine)
        mask = self.phantom.mask().astype(np.float32)
        save_nifti(self.fa, mask, self.phantom.affine)
        save_lines(self.tractogram, self.lines, self.fa)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return two subjects, of which the second has fewer streamlines."""
    folder = tmp_path_factory.mktemp("subjects")
    return Subject(folder, name="sub-1"), Subject(folder, name="sub-2", n_each=4)


@pytest.fixture
def subject(made, tmp_path):
    """Return a subject in a folder that the test may change."""
    folder = made[0].pam.parent
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    one = Subject.__new__(Subject)
    one.__dict__ |= made[0].__dict__
    for name in ("pam", "tractogram", "fa"):
        setattr(one, name, tmp_path / getattr(made[0], name).name)
    return one


@pytest.fixture(autouse=True)
def restore_threads_and_draw_no_curves(monkeypatch):
    n_threads = torch.get_num_threads()
    monkeypatch.setattr(log, "draw_curves", lambda *_: None)  # takes half of the time
    yield
    torch.set_num_threads(n_threads)


def flags(**options):
    """Return options as words of a command line; True gives a flag."""
    words = []
    for name, value in (SMALL | options).items():
        if value is not None:
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


def command(*arguments):
    sys.argv = ["dipy_train_rnn", *map(str, arguments)]
    cli.train()


def refusal(*arguments, **options):
    """Run the command, which must fail with one line; return the line."""
    with pytest.raises(SystemExit) as caught:
        command(*arguments, *flags(**options))
    line = caught.value.code
    assert isinstance(line, str) and line.startswith("dipy_train_rnn: ")
    assert "\n" not in line and "please report" not in line
    return line


class Trained:
    """The files that a run of the command wrote."""

    def __init__(self, out):
        self.folder = out / "model_training"
        self.path = out / "model.pt"
        self.metadata = read_metadata(self.path)
        self.weights = torch.jit.load(self.path).state_dict()
        self.snapshot = load_checkpoint(self.folder / "checkpoint.pt")
        with open(self.folder / "log.csv", encoding="utf-8") as file:
            self.rows = list(csv.DictReader(file))

    def same_as(self, other):
        return all(
            torch.equal(value, other.weights[name])
            for name, value in self.weights.items()
        )

    @property
    def n_streamlines(self):
        return self.snapshot["identity"]["streamlines"]


@pytest.fixture
def trained(subject, tmp_path):
    """Return a function that runs the command in this process."""
    n_runs = []

    def run(pam=None, tractogram=None, out=None, **options):
        n_runs.append(1)
        out = out or tmp_path / f"out{len(n_runs)}"
        inputs = (pam or subject.pam, tractogram or subject.tractogram)
        command(*inputs, *flags(out_dir=out, **options))
        return Trained(out)

    return run


def test_a_training_writes_a_log_curves_and_a_model_that_tracks(
    subject, trained, monkeypatch, messages
):
    monkeypatch.undo()
    result = trained(validation_fraction=0.25, n_updates=4)
    out = result.path.parent
    assert sorted(path.name for path in out.iterdir()) == ["model.pt", "model_training"]
    files = {path.name for path in result.folder.iterdir()}
    assert {"checkpoint.pt", "curves.png", "log.csv"} <= files
    assert not list(out.rglob("subject_*"))
    assert [row["update"] for row in result.rows] == ["2", "4"]
    assert result.n_streamlines == [9]  # a quarter of 12 is held out
    text = messages.text
    assert "sub-1.trk: 12 read, 12 kept" in text
    for words in ("update 4", "loss 0.", "degrees", "followed", "Saved"):
        assert words in text

    facts = result.metadata
    assert (facts.kind, facts.frame, facts.hidden) == ("sh", "local", 4)
    assert facts.orders == (4,) and facts.step_vox == (0.05, 1.0)
    provenance = facts.provenance
    assert provenance["data"] == "12 streamlines of 1 subjects"
    assert provenance["recipe"]["n_updates"] == 4
    assert 0 <= provenance["training"]["followed"] <= 1
    # The model tracks in the library and in dipy_track_rnn.
    lines = list(
        rnn_tracking(
            [[0.0, 0, 0], [5.0, 3.0, 0]],
            BinaryStoppingCriterion(subject.phantom.mask()),
            subject.phantom.affine,
            features=fodf_features(subject.fodf),
            model=result.path,
        )
    )
    assert [len(line) > 10 for line in lines] == [True, True]
    inputs = (subject.pam, subject.fa, subject.fa)
    options = ("--model_file", result.path, "--out_dir", out, "--step_size", 1)
    sys.argv = ["dipy_track_rnn", *map(str, inputs + options)]
    cli.track()
    assert len(load(out / "out_tractogram.trx", subject.fa)) > 10


@pytest.mark.parametrize("suffix", ["trx", "tck", "dpy"])
def test_tractograms_come_in_several_formats_and_fodfs_in_two(
    suffix, subject, trained, tmp_path
):
    other, image = tmp_path / f"lines.{suffix}", tmp_path / "sh.nii.gz"
    save_lines(other, subject.lines, subject.fa)
    save_nifti(
        image, convert_sh_descoteaux_tournier(subject.fodf), subject.phantom.affine
    )
    # With the default teacher the first loss is almost zero. Its gradient is mostly
    # rounding errors of the fODF, which Adam scales to whole updates.
    one = trained(teacher="streamline")
    two = trained(
        image, other, teacher="streamline", sh_basis="tournier07", sh_frame="scanner"
    )
    assert one.n_streamlines == two.n_streamlines == [12]
    # An update changes a weight by up to the learning rate, also if its gradient is
    # small and has rounding errors.
    least_update = 0.1 * one.metadata.provenance["recipe"]["learning_rate"]
    for name, value in one.weights.items():
        assert_allclose(value, two.weights[name], atol=least_update)


def test_many_subjects_with_some_of_them_held_out(made, trained, messages):
    folder = made[0].pam.parent
    both = folder / "sub-*.pam5", folder / "sub-*.trk"
    assert trained(*both).n_streamlines == [12, 8]
    assert "sub-2.trk: 8 read, 8 kept" in messages.text
    held_out = trained(*both, validation_subjects=1)
    assert held_out.n_streamlines == [12]
    assert "followed" in held_out.rows[0]


def test_streamlines_are_read_from_a_trx_folder(subject, trained):
    save_lines(subject.tractogram.with_suffix(".trx"), subject.lines, subject.fa)
    folder = subject.tractogram.with_name("unzipped")
    with ZipFile(subject.tractogram.with_suffix(".trx")) as archive:
        archive.extractall(folder)
    assert trained(subject.pam, folder).n_streamlines == [len(subject.lines)]


def test_the_architecture_and_its_size_are_chosen(trained):
    result = trained(architecture="cai2023", hidden=6, layers=1)
    facts = result.metadata
    assert (facts.frame, facts.hidden, facts.layers) == ("voxel", 6, 1)
    assert facts.architecture == "cai2023"
    # Options that are not given have the architecture's defaults.
    assert facts.provenance["recipe"]["learning_rate"] == 3e-4
    assert trained(hidden=None, n_updates=1).metadata.hidden == 64


def test_every_option_has_an_effect(trained):
    options = {
        "teacher": "streamline",
        "min_step": 0.5,
        "max_step": 0.8,
        "n_updates": 3,
        "max_minutes": 9.0,
        "batch_size": 17,
        "max_points": 5,
        "learning_rate": 0.01,
        "weight": "streamline",
        "validate_every": 1,
        "patience": 7,
        "validation_fraction": 0.25,
        "random_seed": 3,
    }
    result = trained(**options)
    expected = options | {"step_vox": [0.5, 0.8], "n_sequences": 3}
    recipe = result.metadata.provenance["recipe"]
    elsewhere = {"min_step", "max_step", "batch_size", "validation_fraction"}
    for name in expected.keys() - elsewhere:
        assert recipe[name] == expected[name], name
    assert result.metadata.step_vox == (0.5, 0.8)
    assert [row["update"] for row in result.rows] == ["1", "2", "3"]
    # The same options give the same weights; another value gives others.
    again = trained(**options)
    assert result.same_as(again)
    for change in ({"random_seed": 4}, {"weight": "point"}, {"teacher": "peak_along"}):
        assert not result.same_as(trained(**(options | change)))


def test_deterministic_tractograms_are_made_and_used(subject, trained, messages):
    options = {"n_streamlines": 20, "nbr_threads": 2}
    result = trained(tractogram="deterministic", **options)
    recipe = result.metadata.provenance["recipe"]
    assert recipe["teacher"] == "largest_ahead"
    assert "deterministic tractogram of" in messages.text
    assert 10 < result.n_streamlines[0] <= 20
    assert trained().metadata.provenance["recipe"]["teacher"] == "peak_along"
    # Streamlines start and stay where a stopping image is above the threshold.
    image = np.zeros(subject.fodf.shape[:3], np.float32)
    image[4:8, 4:8, 2:4] = 0.5
    save_nifti(subject.fa, image, subject.phantom.affine)
    inside = trained(tractogram="deterministic", stopping_files=subject.fa, **options)
    assert inside.n_streamlines[0] > 5
    assert not inside.same_as(result)
    line = refusal(
        subject.pam,
        "deterministic",
        stopping_files=subject.fa,
        stopping_thr=0.6,
        out_dir=subject.pam.parent / "high",
    )
    assert "no voxel above 0.6" in line and "sub-1_fa.nii.gz" in line


def test_bad_streamlines_are_counted_and_cleaned(subject, trained, messages):
    far, nan = subject.lines[0] + [500, 0, 0], subject.lines[1].copy()
    nan[3] = np.nan
    short = subject.lines[2][:3]
    save_lines(subject.tractogram, [*subject.lines, far, nan, short], subject.fa)
    assert trained().n_streamlines == [13]
    text = messages.text
    for words in ("15 read", "13 kept", "1 outside", "1 not finite", "2 too short"):
        assert words in text


def test_an_interrupted_training_is_resumed(subject, trained, tmp_path):
    options = {"n_updates": 4, "validation_fraction": 0.25}
    whole, out = trained(**options), tmp_path / "cut"
    inputs = (subject.pam, subject.tractogram)
    with interrupt_after(2):
        line = refusal(*inputs, out_dir=out, **options)
    assert "interrupted at update 3 of 4" in line and "--resume" in line
    assert [path.name for path in out.iterdir()] == ["model_training"]
    left = {path.name for path in (out / "model_training").iterdir()}
    assert {"checkpoint.pt", "log.csv"} <= left and not list(out.rglob("subject_*"))
    # Without --resume it is not started anew, and with other options it is not
    # continued.
    line = refusal(*inputs, out_dir=out, **options)
    assert "--resume" in line and "--force" in line
    line = refusal(*inputs, out_dir=out, resume=True, **options | {"n_updates": 5})
    assert "n_updates is 4, here it is 5" in line
    resumed = trained(out=out, resume=True, **options)
    assert whole.same_as(resumed)
    columns = ("update", "loss", "error_deg", "followed", "learning_rate")
    for one, two in zip(whole.rows, resumed.rows, strict=True):
        assert [one[name] for name in columns] == [two[name] for name in columns]


def test_an_existing_model_is_kept_unless_forced(subject, trained, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.pt").write_bytes(b"precious")
    line = refusal(subject.pam, subject.tractogram, out_dir=out)
    assert "model.pt exists already" in line and "--force" in line
    assert [path.read_bytes() for path in out.iterdir()] == [b"precious"]
    assert trained(out=out, force=True).metadata.hidden == 4


def test_a_loss_that_is_not_finite_gives_a_one_line_error_and_no_model(
    subject, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "dipy_rnn.training.state.cosine_loss", lambda p, *_, **__: p.sum() * np.nan
    )
    out = tmp_path / "out"
    line = refusal(subject.pam, subject.tractogram, out_dir=out)
    assert "The loss is nan" in line and "at update 1" in line
    assert not list(out.rglob("*"))


def test_a_full_disk_gives_a_one_line_error_that_names_the_folder(
    subject, tmp_path, monkeypatch
):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    out = tmp_path / "out"
    line = refusal(subject.pam, subject.tractogram, out_dir=out)
    assert "model_training" in line and "No space left on device" in line
    assert not list(out.rglob("*"))


# Mistakes: (change to the files, options, expected part of the error).
def nothing(subject):
    pass


def lines_of(change):
    def apply(subject):
        lines = [change(line) for line in subject.lines]
        save_lines(subject.tractogram, lines, subject.fa)

    return apply


def cut_in_half(subject):
    content = subject.tractogram.read_bytes()
    subject.tractogram.write_bytes(content[: len(content) // 2 + 1])


def another_order(subject):
    """Give the second subject an fODF of order 6."""
    fodf = subject.phantom.fodf(6)
    write_pam(subject.pam.with_name("sub-2.pam5"), fodf, subject.phantom.affine)


def no_lines(subject):
    save_lines(subject.tractogram, [], subject.fa)


BOTH = {"pam": "sub-*.pam5", "tractogram": "sub-*.trk"}
OWN = {"tractogram": "deterministic"}
MISTAKES = {
    "no fODF": (nothing, {"pam": "no-*.pam5"}, "no-*.pam5, which matches no file"),
    "no tractogram": (nothing, {"tractogram": "*.tck"}, "*.tck, which matches no file"),
    "one fODF": (nothing, {"tractogram": "sub-*.trk"}, "sub-1.pam5 for all 2"),
    "one fODF of images": (nothing, OWN | {"stopping_files": "*fa*"}, "for all 2"),
    "other subjects": (
        nothing,
        BOTH | {"tractogram": "sub-2*.trk"},
        "tractogram_files: no file for sub-1.pam5",
    ),
    "image without use": (nothing, {"stopping_files": "sub-1_fa.nii.gz"}, "leave them"),
    "another space": (lines_of(lambda x: x + 500.0), {}, "12 outside the image"),
    "flipped": (lines_of(lambda x: x * [-1, 1, 1]), {}, "does not fit sub-1.pam5"),
    "no streamlines": (no_lines, {}, "sub-1.trk: no streamline is left"),
    "too short": (lines_of(lambda x: x[:4]), {}, "12 too short"),
    "orders": (another_order, BOTH, "sub-2.pam5 is of spherical harmonic order 6"),
    "half a tractogram": (cut_in_half, {}, "sub-1.trk cannot be read as a tractogram"),
    "text": (lambda s: s.tractogram.write_text("x"), {}, "sub-1.trk cannot be read"),
    "text as fODF": (lambda s: s.pam.write_text("x"), {}, "sub-1.pam5 cannot be read"),
    "an image": (nothing, {"tractogram": "sub-1_fa.nii.gz"}, "is not a tractogram"),
    "a mask as fODF": (nothing, {"pam": "sub-1_fa.nii.gz"}, "an image with 4"),
    "architecture": (nothing, {"architecture": "lstm"}, "architecture is lstm"),
    "teacher": (nothing, {"teacher": "nobody"}, "teacher is 'nobody'"),
    "weight": (nothing, {"weight": "voxel"}, "weight is 'voxel'"),
    "basis": (nothing, {"sh_basis": "mrtrix"}, "sh_basis is mrtrix"),
    "frame": (nothing, {"sh_frame": "world"}, "sh_frame is world"),
    "name": (nothing, {"out_model": "model.onnx"}, "out_model is model.onnx"),
    "device": (nothing, {"device": "cuda:99"}, "device is 'cuda:99'"),
    "unknown device": (nothing, {"device": "abacus"}, "device is 'abacus'"),
    "all held out": (nothing, {"validation_subjects": 1}, "at least one must be"),
    "whole fraction": (nothing, {"validation_fraction": 1}, "validation_fraction is 1"),
    "no checkpoint": (nothing, {"resume": True}, "checkpoint.pt"),
    "steps crossed": (nothing, {"min_step": 2}, "step_vox is 2 to 1"),
    "no step": (nothing, {"min_step": 0}, "step_vox is 0 to 1"),
} | {
    name: (nothing, {name: -3}, f"{name} is -3")
    for name in (
        "hidden", "layers", "n_updates", "max_minutes", "batch_size", "max_points",
        "learning_rate", "validation_subjects", "validation_fraction",
        "validate_every", "patience", "n_streamlines", "random_seed", "nbr_threads",
    )
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gives_a_one_line_error_and_leaves_no_files(
    subject, mistake, monkeypatch
):
    change, options, named = MISTAKES[mistake]
    change(subject)
    monkeypatch.chdir(subject.pam.parent)
    options = dict(options)
    inputs = [options.pop("pam", "sub-1.pam5"), options.pop("tractogram", "sub-1.trk")]
    before = sorted(p.name for p in Path().rglob("*"))
    assert named in refusal(*inputs, **options)
    assert sorted(p.name for p in Path().rglob("*")) == before


def test_the_options_of_the_command_are_those_of_its_help():
    from inspect import signature

    parameters = signature(train.RNNTrainingFlow.run).parameters
    documented = train.RNNTrainingFlow.run.__doc__
    for name in parameters.keys() - {"self"}:
        assert re.search(rf"^ *{name} : ", documented, re.M), name


@pytest.mark.skipif(not processes.distributed.is_available(), reason="needs gloo")
def test_the_installed_command_trains_in_two_processes_as_in_one(
    subject, trained, tmp_path
):
    program = Path(sys.executable).parent / "dipy_train_rnn"
    inputs = (subject.pam, subject.tractogram)
    options = {"n_updates": 3}
    results = distributed(
        [program, *inputs, *flags(out_dir=tmp_path / "two", **options)]
    )
    assert [code for code, _, _ in results] == [0, 0], results
    # Only the first process reads and writes.
    printed = [output + errors for _, output, errors in results]
    assert "12 kept" in printed[0] and "12 kept" not in printed[1]
    one, two = trained(**options), Trained(tmp_path / "two")
    for name, value in one.weights.items():
        assert_allclose(value, two.weights[name], atol=1e-5)
    assert len(one.rows) == len(two.rows) == 2


def test_the_installed_command_returns_1_for_a_mistake(subject):
    program = Path(sys.executable).parent / "dipy_train_rnn"
    wrong = subprocess.run(
        [program, subject.pam, "none.trk"], capture_output=True, text=True
    )
    assert wrong.returncode == 1
    assert wrong.stderr.strip() == (
        "dipy_train_rnn: error: tractogram_files is none.trk, which matches no file."
    )
