"""dipy_compare_rnn on files: tracking, existing tractograms, and errors of users."""

import json
from pathlib import Path
import re
import sys
from zipfile import ZipFile

from commands import VTK, Subject, load
from dipy.io.image import save_nifti
from dipy.io.peaks import load_pam
from dipy.io.stateful_tractogram import Space, StatefulTractogram
from dipy.io.streamline import save_tractogram
import h5py
import nibabel as nib
import numpy as np
import numpy.testing as npt
import pytest

from dipy_rnn import report
from dipy_rnn._dipy_compat import dipy_is_at_least
from dipy_rnn.evaluation import comparison
from dipy_rnn.evaluation.load_bundles import load_truth, name_bundles
from dipy_rnn.workflows import cli, compare

ALL = ("candidate.trx", "metrics.json", "reference.trx", "report.html", "yardstick.trx")
STEP = ("--step_size", 1.0, "--nbr_threads", 1)


@pytest.fixture
def subject(tmp_path):
    return Subject(tmp_path)


@pytest.fixture
def no_page(monkeypatch):
    """Do not write the page, which takes seconds and has its own tests."""

    def write_report(path, metrics, streamlines, image, affine, distances, pairs=None):
        assert set(streamlines) == set(metrics["trackers"])
        path.write_text(metrics["title"])

    monkeypatch.setattr(report, "write_report", write_report)


def command(*arguments):
    sys.argv = ["dipy_compare_rnn", *map(str, arguments)]
    cli.compare()


def refusal(*arguments):
    """Return the one-line error message of the command."""
    with pytest.raises(SystemExit) as caught:
        command(*arguments)
    line = caught.value.code
    assert isinstance(line, str) and line.startswith("dipy_compare_rnn: error: ")
    assert "\n" not in line and "please report" not in line
    return line


def compared(folder, *arguments):
    """Run the command; return the content of metrics.json, and values by name."""
    command(*arguments, "--out_dir", folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    values = {
        (metric["name"], key): metric[key]["value"]
        for metric in metrics["between"] + metrics["each"]
        for key in ("candidate", "reference", "yardstick")
        if key in metric
    }
    return metrics, values


def save_lines(path, lines, image, **data):
    tractogram = StatefulTractogram(
        lines, str(image), Space.RASMM, data_per_streamline=data
    )
    save_tractogram(tractogram, str(path), bbox_valid_check=False)


def test_all_trackers_are_run_and_all_files_written(subject):
    out = subject.folder / "out"
    known = subject.folder / "across.nii.gz"
    labels = subject.phantom.mask().astype(np.int16)
    labels[:4, :, :] *= 2
    labels[16:, :, :] *= 3
    save_nifti(known, labels, subject.phantom.affine)
    metrics, values = compared(
        out, *subject.inputs, *STEP, "--bundle_files", known, "--label_file", known
    )
    assert sorted(path.name for path in out.iterdir()) == list(ALL)
    for key, tracker in metrics["trackers"].items():
        lines = load(out / f"{key}.trx", subject.stopping)
        assert len(lines) == tracker["n_streamlines"]
        assert sum(map(len, lines)) == tracker["n_points"]
        assert tracker["seconds"] > 0
        assert values["valid", key] > 0.5
    assert list(metrics["trackers"]) == ["candidate", "reference", "yardstick"]
    assert 0 < values["alike", "candidate"] <= 1
    assert values["connectivity_correlation", "candidate"] is None  # a single pair
    assert metrics["bundles"][0]["name"] == "across"
    assert metrics["title"].endswith("peaks.pam5")
    assert metrics["command"].startswith("dipy_compare_rnn ")
    assert metrics["options"]["step_size"] == 1.0
    assert (
        metrics["model"]["name"] == "default" and len(metrics["model"]["sha256"]) == 64
    )
    assert {"dipy_rnn", "dipy", "torch", "numpy"} <= set(metrics["versions"])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert metrics["title"] in page and metrics["model"]["sha256"] in page


def test_metrics_are_reproducible(subject, no_page):
    first, second = (
        compared(subject.folder / name, *subject.inputs, *STEP, "--seed_count", 6)[1]
        for name in ("one", "two")
    )
    assert first == second


def test_a_trx_folder_is_compared_like_a_file(subject, no_page):
    lines = subject.phantom.streamlines(6)[0][:6]  # of one bundle
    for name in ("a", "b"):
        save_lines(subject.folder / f"{name}.trx", lines, subject.stopping)
        with ZipFile(subject.folder / f"{name}.trx") as archive:
            archive.extractall(subject.folder / name)

    def values(a, b):
        inputs = (subject.folder / a, subject.folder / b, subject.stopping)
        bundles = ("--bundle_files", subject.folder / a)
        return compared(subject.folder / "out", *inputs, *bundles, "--force")[1]

    of_folders = values("a", "b")
    assert of_folders["alike", "candidate"] == 1
    assert of_folders["valid", "candidate"] == 1
    assert of_folders == values("a.trx", "b.trx")


def test_two_existing_tractograms_are_compared(subject):
    lines, _ = subject.phantom.streamlines(6)
    ours, theirs = subject.folder / "ours.trk", subject.folder / "theirs.tck"
    save_lines(ours, [line + [0, 0, 2] for line in lines[::-1]], subject.stopping)
    save_lines(theirs, lines, subject.stopping)
    out = subject.folder / "out"
    metrics, values = compared(out, ours, theirs, subject.stopping)
    assert sorted(path.name for path in out.iterdir()) == [
        "metrics.json",
        "report.html",
    ]
    labels = [tracker["label"] for tracker in metrics["trackers"].values()]
    assert labels == ["ours.trk", "theirs.tck"]
    assert "seconds" not in metrics["trackers"]["candidate"]
    assert "yardstick" not in metrics["trackers"] and "model" not in metrics
    # The order of streamlines does not matter. The nearest streamline may be another
    # one that is within 2 mm.
    assert 0 < values["hausdorff", "candidate"] <= 2.001
    assert values["length", "candidate"] == pytest.approx(
        values["length", "reference"], rel=1e-5
    )


@pytest.mark.filterwarnings("ignore:'where' used without 'out'")  # of fury
@pytest.mark.parametrize("suffix", [VTK[0], ".dpy"])
def test_tractograms_that_only_dipy_reads_are_compared(subject, suffix, no_page):
    lines, _ = subject.phantom.streamlines(3)
    path = subject.folder / f"ours{suffix}"
    save_lines(path, lines, subject.stopping)
    _, values = compared(subject.folder / "out", path, path, subject.stopping)
    assert values["hausdorff", "candidate"] == 0 and values["dice", "candidate"] == 1


@pytest.mark.parametrize("suffix", [".trk", ".trx"])
def test_streamlines_of_the_same_seeds_are_partners(subject, suffix, no_page):
    lines, _ = subject.phantom.streamlines(3)
    seeds = np.array([line[5] for line in lines])
    ours, theirs = (subject.folder / f"{name}{suffix}" for name in ("a", "b"))
    save_lines(ours, lines, subject.stopping, seeds=seeds)
    # The other file lacks the last streamline and has another order.
    moved = [line + [0, 0, 3] for line in lines[:-1]][::-1]
    save_lines(theirs, moved, subject.stopping, seeds=seeds[:-1][::-1])
    _, values = compared(subject.folder / "out", ours, theirs, subject.stopping)
    assert values["end_point", "candidate"] == pytest.approx(3, abs=1e-3)
    _, values = compared(subject.folder / "same", ours, ours, subject.stopping)
    assert values["alike", "candidate"] == 1 and values["dice", "candidate"] == 1


def test_known_bundles_may_be_tractograms(subject, no_page):
    lines, _ = subject.phantom.streamlines(40)
    names = ("cst.left", "cst.right")
    for name, bundle in zip(names, (lines[:40], lines[40:])):
        # Every second streamline is reversed.
        turned = [line[:: (-1) ** i] for i, line in enumerate(bundle)]
        save_lines(subject.folder / f"{name}.trk", turned, subject.stopping)
    metrics, values = compared(
        subject.folder / "out",
        subject.folder / "cst.left.trk",
        subject.folder / "cst.right.trk",
        subject.stopping,
        "--bundle_files",
        subject.folder / "*.trk",
    )
    assert tuple(bundle["name"] for bundle in metrics["bundles"]) == names
    assert values["valid", "candidate"] == values["valid", "reference"] == 1
    assert values["valid_bundles", "candidate"] == 1
    assert (
        values["overlap", "reference"] == 0.5 and values["overreach", "reference"] == 0
    )


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["x/cst.left.trk", "x/cst.right.TRX"], ["cst.left", "cst.right"]),
        (["x/af.nii.gz", "x/cst.v2.nii"], ["af", "cst.v2"]),
        (["x/left/cst.trk", "x/right/cst.trk"], ["left/cst", "right/cst"]),
        (["cst.trk", "old/cst.trk"], ["cst", "old/cst"]),
    ],
)
def test_each_bundle_has_its_own_name(files, names):
    paths = [Path(file) for file in files]
    assert name_bundles(paths) == dict(zip(names, paths))


def test_bundles_with_one_name_are_refused(subject):
    for name in ("cst.trk", "cst.nii.gz"):
        (subject.folder / name).touch()
    line = refusal(*subject.inputs, "--bundle_files", subject.folder / "cst.*")
    assert "cst.nii.gz and " in line and "cst.trk, whose bundles" in line


@pytest.mark.parametrize("label", [1.4, -1, np.nan, np.inf, 2.0**31])
def test_invalid_labels_are_refused(subject, label, monkeypatch):
    monkeypatch.setattr(compare, "_track", None)  # before anything is tracked
    labels = np.ones(subject.mask.shape)
    labels[2, 2, 2] = label
    path = subject.folder / "regions.nii.gz"
    save_nifti(path, labels, subject.phantom.affine)
    out = ("--out_dir", subject.folder / "out")
    for option in ("--label_file", "--bundle_files"):
        line = refusal(*subject.inputs, *STEP, option, path, *out)
        assert f"regions.nii.gz holds {label:g}; labels are whole numbers" in line


def test_labels_stored_with_a_scale_factor_are_rounded(subject):
    labels = np.linspace(0, 100, 20).round().reshape(-1, 1, 1) * subject.mask
    image = nib.Nifti1Image(labels, subject.phantom.affine, dtype=np.int16)
    path = subject.folder / "regions.nii.gz"
    nib.save(image, path)
    assert (image.get_fdata() == labels).all()
    assert 0 < np.abs(nib.load(path).get_fdata() - labels).max() < 0.01
    grid = subject.stopping, subject.mask, subject.phantom.affine
    _, regions = load_truth({}, path, *grid, radius_mm=0.0, end_mm=4.0)
    npt.assert_array_equal(regions[0], labels)


def without(path, *names):
    """Remove the version and some arrays from a peaks and metrics file."""
    with h5py.File(path, "r+") as file:
        del file.attrs["version"]
        for name in names:
            del file["pam"][name]


def test_a_pam5_file_needs_peaks_for_eudx_only_and_seeds_may_be_a_list(
    subject, no_page
):
    without(subject.pam, "peak_dirs", "peak_values", "peak_indices", "gfa")
    inputs = [*subject.inputs[:2], subject.folder / "list.txt"]
    np.savetxt(inputs[2], [[-3.0, 0, 0], [3.0, 0, 0]])
    metrics, _ = compared(subject.folder / "out", *inputs, *STEP)
    trackers = metrics["trackers"].values()
    assert [tracker["n_streamlines"] for tracker in trackers] == [2, 2, 2]
    line = refusal(
        *subject.inputs,
        *("--tracking_method", "eudx", "--out_dir", subject.folder / "eudx"),
    )
    assert "peaks.pam5 holds no peaks that eudx can follow" in line


@pytest.mark.skipif(not dipy_is_at_least(1, 12), reason="eudx needs DIPY 1.12")
def test_eudx_follows_the_peaks_that_dipy_reads(subject, monkeypatch):
    with h5py.File(subject.pam, "r+") as file:
        file["pam/peak_indices"][3, 4, 5] = [7, 361, -1, -1, -1]
        file["pam/peak_values"][3, 4, 5] = [0.5, 0.25, 0, 0, 0]
    given = []

    def track_beside(*arguments, pam, **options):
        given.append(pam)
        raise ValueError("end of this test")

    options = ("--tracking_method", "eudx", "--out_dir", subject.folder / "out")
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "track_beside", track_beside)
        assert "end of this test" in refusal(*subject.inputs, *options)
    (ours,), theirs = given, load_pam(subject.pam)
    for name in ("peak_indices", "peak_values"):
        npt.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    npt.assert_allclose(ours.sphere.vertices, theirs.sphere.vertices)
    # The sphere has 362 vertices, so index 362 is invalid.
    with h5py.File(subject.pam, "r+") as file:
        file["pam/peak_indices"][3, 4, 5] = [7, 362, -1, -1, -1]
    line = refusal(*subject.inputs, *options)
    assert "peaks.pam5 holds no peaks that eudx can follow" in line


def test_tractograms_in_the_output_folder_can_be_compared(subject, no_page):
    lines, _ = subject.phantom.streamlines(3)
    for name in ("candidate.trx", "reference.trx"):
        save_lines(subject.folder / name, lines, subject.stopping)
    paths = [subject.folder / name for name in ("candidate.trx", "reference.trx")]
    before = paths[0].read_bytes()
    compared(subject.folder, *paths, subject.stopping)
    assert paths[0].read_bytes() == before
    line = refusal(*paths, subject.stopping, "--out_dir", subject.folder)
    assert "report.html exists already; add --force" in line


ERRORS = {
    "method": (["--tracking_method", "pft"], "method is pft"),
    "random seed": (["--random_seed", 0], "random_seed is 0; 1 or more"),
    "suffix": (["--out_reference", "x.doc"], "out_reference is x.doc; it must"),
    "no bundles": (["--bundle_files", "no/*.trk"], "which matches no file"),
    "radius": (["--bundle_radius", -1], "bundle_radius is -1"),
    "no number": (["--bundle_radius", "nan"], "bundle_radius is nan"),
    "model": (["--model_file", "nothing.pt"], "nothing.pt"),
    "step": (["--step_size", 0], "step_size is 0"),
    "eudx": (
        ["--tracking_method", "eudx"],
        "eudx follows peaks",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_invalid_option_is_refused_before_anything_is_written(subject, name):
    options, message = ERRORS[name]
    inputs = subject.inputs
    if name == "eudx":
        inputs[0] = subject.folder / "sh.nii.gz"
        save_nifti(inputs[0], subject.fodf, subject.phantom.affine)
    out = subject.folder / "out"
    assert message in refusal(*inputs, *options, "--out_dir", out)
    assert not out.exists() or not list(out.iterdir())


def test_without_the_packages_for_the_page_nothing_is_tracked(subject, monkeypatch):
    monkeypatch.setattr("dipy_rnn._checks.find_spec", lambda name: None)
    monkeypatch.setattr(compare, "_track", None)
    line = refusal(*subject.inputs, "--out_dir", subject.folder / "out")
    assert "The report needs jinja2, matplotlib, plotly; install it with" in line


def test_bundles_on_another_grid_or_without_ends_are_refused(subject, monkeypatch):
    monkeypatch.setattr(compare, "_track", None)  # before anything is tracked
    labels = np.ones((3, 3, 3), dtype=np.int16)
    known = subject.folder / "known.nii.gz"
    save_nifti(known, labels, subject.phantom.affine)
    options = ("--bundle_files", known, "--out_dir", subject.folder / "out")
    assert "known.nii.gz" in refusal(*subject.inputs, *STEP, *options)
    save_nifti(known, np.ones(subject.mask.shape), subject.phantom.affine)
    assert "known.nii.gz: " in refusal(*subject.inputs, *STEP, *options)
    known = subject.folder / "elsewhere.trk"
    save_lines(known, [np.full((5, 3), 1e3)], subject.stopping)
    options = ("--bundle_files", known, *options[2:])
    line = refusal(*subject.inputs, *STEP, *options)
    assert "5 of 5 points of" in line and "elsewhere.trk lie outside the image" in line


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda lines: [line + 500 for line in lines], "lie outside the image"),
        (lambda lines: [line * [-1, -1, 1] for line in lines], "They fit in LPS+"),
        (lambda lines: [line[:1] for line in lines], "holds only single points"),
        (lambda lines: [], "holds no streamline"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_tractogram_that_is_not_in_the_image_is_refused(
    subject, change, text, place, messages
):
    affine = subject.phantom.affine.copy()
    affine[:3, 3] += 200
    save_nifti(subject.stopping, subject.mask.astype(np.float32), affine)
    lines = [line + 200 for line in subject.phantom.streamlines(3)[0]]
    wrong, right = subject.folder / "wrong.trk", subject.folder / "right.trk"
    save_lines(right, lines, subject.stopping)
    save_lines(wrong, change(lines), subject.stopping)
    out = subject.folder / "out"
    files = (wrong, right) if place == 0 else (right, wrong)
    line = refusal(*files, subject.stopping, "--out_dir", out)
    assert "wrong.trk" in line and text in line and not list(out.iterdir())


def test_if_no_tracker_finds_a_streamline_nothing_is_compared(subject):
    out = subject.folder / "out"
    options = ("--minlen", 400, "--out_dir", out)
    line = refusal(*subject.inputs, *STEP, *options)
    assert "No tracker found a streamline of 400 to 500 mm from 8 seeds; check" in line
    assert not list(out.iterdir())


def test_a_compressed_tractogram_is_refused(subject):
    path = subject.folder / "a.trk.gz"
    path.touch()
    line = refusal(path, path, subject.stopping, "--out_dir", subject.folder)
    assert f"{path} is a compressed tractogram; decompress it with gunzip" in line
    options = ("--bundle_files", path, "--out_dir", subject.folder / "out")
    assert "decompress it with gunzip" in refusal(*subject.inputs, *options)


def test_a_broken_tractogram_is_refused(subject):
    broken = subject.folder / "broken.trk"
    broken.write_bytes(b"TRACK" + bytes(100))
    line = refusal(broken, broken, subject.stopping, "--out_dir", subject.folder)
    assert "broken.trk cannot be read as a tractogram" in line


def test_every_option_is_documented():
    from inspect import signature

    parameters = signature(compare.RNNComparisonFlow.run).parameters
    for name in parameters.keys() - {"self"}:
        documented = compare.RNNComparisonFlow.run.__doc__
        assert re.search(rf"^ *{name} : ", documented, re.M), name
    npt.assert_equal(
        tuple(name for name in parameters if name.startswith("out_"))[1:],
        compare._OUTPUTS,
    )
