"""dipy_track_rnn with include and exclude regions, on files."""

from commands import Subject, command, load, refusal
from dipy.io.image import save_nifti
from dipy.io.streamline import load_tractogram
import numpy as np
import numpy.testing as npt
import pytest
from test_cohort import Cohort
from worlds import share_identical

from dipy_rnn import spatial

STEP = ("--step_size", 0.5)


@pytest.fixture
def subject(tmp_path):
    """Return a subject with bundles along x and y, which cross at 0 mm, and seeds."""
    subject = Subject(tmp_path)
    seeds = [[-9.3, 0, 0], [-9.3, 1, 0], [0, -9.3, 0], [0, 9.3, 0]]
    subject.seeding = subject.folder / "seeds.txt"
    np.savetxt(subject.seeding, seeds)
    return subject


def put(subject, name, data, affine):
    save_nifti(subject.folder / name, np.asarray(data, np.uint8), affine)
    return subject.folder / name


def region_on_own_grid(subject, name="roi.nii.gz"):
    """Save a mask of voxels of 0.5 mm: x from 8 to 10, y and z from -0.5 to 0.5 mm."""
    affine = np.diag([0.5, 0.5, 0.5, 1])
    affine[:3, 3] = 8.25, -0.25, -0.25
    mask = np.zeros((6, 3, 4))
    mask[:4, :2, :2] = 1
    return put(subject, name, mask, affine)


def with_stops(subject):
    tractogram = load_tractogram(
        str(subject.folder / "out" / "out.trk"), str(subject.stopping)
    )
    stops = tractogram.data_per_streamline
    return [
        (line, {int(stops[name][i][0]) for name in ("forward_stop", "backward_stop")})
        for i, line in enumerate(tractogram.streamlines)
    ]


def enters(line, low, high):
    return ((line >= low) & (line <= high)).all(axis=1).any()


def test_streamlines_enter_all_include_regions_and_no_exclude_region(subject, messages):
    every = list(subject.run(*STEP))
    assert len(every) == 4
    roi = region_on_own_grid(subject)
    # The streamline at y = 1 mm does not enter the mask.
    include = ("--include", roi, "-14,0,0,3")
    lines = list(subject.run(*STEP, *include))
    assert share_identical(lines, every[:1], 0) == 1
    assert enters(lines[0], [8, -0.5, -0.5], [10, 0.5, 0.5])
    assert "rejected  75.0 %         3  it did not enter all include" in messages.text
    messages.clear()
    # The streamlines along y enter it, with one half each.
    lines = list(subject.run(*STEP, "--exclude", "0,-14,0,3", "--save_stops"))
    assert share_identical(lines, every[:2], 0) == 1
    assert "25.0 %         2  it entered an exclude region" in messages.text
    assert "rejected  50.0 %         2  it entered an exclude region" in messages.text
    # By hand, from all streamlines.
    far = [np.linalg.norm(line - [0, -14, 0], axis=1).min() > 3 for line in every]
    assert far == [True, True, False, False]
    messages.clear()
    lines = list(subject.run(*STEP, *include, "--exclude", roi))
    assert not lines and "No streamline was selected" in messages.text


def test_with_stop_at_include_streamlines_end_in_the_last_region(subject, messages):
    every = list(subject.run(*STEP))
    roi = region_on_own_grid(subject)
    subject.run(*STEP, "--include", roi, "--stop_at_include", "--save_stops")
    ((line, stops),) = with_stops(subject)
    assert 10 in stops and "it entered the last include region" in messages.text
    assert line[:, 0].max() == pytest.approx(8.2, abs=0.01)
    shared = every[0][every[0][:, 0] < 8.3]
    n = min(len(shared), len(line))
    npt.assert_allclose(sorted(line[-n:, 0]), sorted(shared[-n:, 0]), atol=1e-3)
    both = ("--include", roi, "-14,0,0,3", "--stop_at_include")
    (line,) = subject.run(*STEP, *both)
    ends = np.sort(line[[0, -1], 0])
    # The forward half enters one region and goes on to its end. The backward half ends
    # where it enters the other one.
    low, high = np.sort(every[0][[0, -1], 0])
    assert low < -14 and high > 14
    possible = [-11.3, high], [low, 8.2]
    assert any(np.abs(ends - expected).max() < 0.01 for expected in possible)
    assert not subject.run(*STEP, *both, "--unidirectional")


def test_regions_work_with_select_parts_and_engines(subject):
    slab = np.zeros(subject.mask.shape)
    slab[14] = 1
    roi = put(subject, "slab.nii.gz", slab, subject.phantom.affine)
    mask = put(subject, "seeds.nii.gz", subject.mask, subject.phantom.affine)
    inputs = [subject.pam, subject.stopping, mask]
    options = (*STEP, "--seed_count", 40, "--include", roi, "--exclude", "0,-14,0,3")
    out = subject.folder / "out"

    def run(name, *more):
        command(*inputs, *options, *more, "--out_dir", out, "--out_tractogram", name)
        return (out / name).read_bytes()

    whole = run("whole.trx")
    parts = ("--nbr_parts", 3, "--engine", "joblib", "--num_processes", 2)
    assert run("parts.trx", *parts) == whole
    lines = load(out / "whole.trx", subject.stopping)
    assert 3 < len(lines) < 40
    run("selected.trx", "--select", 3)
    selected = load(out / "selected.trx", subject.stopping)
    assert share_identical(list(selected), list(lines[:3])) == 1


def test_counts_of_parts_are_those_of_the_whole(subject, messages):
    options = ("--include", "9,0,0,2", "--exclude", "0,-14,0,3", *STEP)
    tables = []
    for more in ((), ("--nbr_parts", 3)):
        messages.clear()
        subject.run(*options, *more)
        rows = [record.getMessage() for record in messages.records]
        tables.append([row for row in rows if " % " in row])
    assert tables[0] == tables[1] and len(tables[0]) > 2


def test_with_act_regions_of_grey_matter_select(subject, messages):
    gm = np.zeros(subject.mask.shape, np.float32)
    gm[:4] = gm[16:] = gm[:, :4] = gm[:, 16:] = 1
    tissues = np.stack([0 * gm, gm, 1 - gm], 3)
    save_nifti(subject.stopping, tissues, subject.phantom.affine)
    parcel = np.zeros(subject.mask.shape)
    parcel[16:, 8:12] = 1  # grey matter, where the bundle along x ends
    roi = put(subject, "parcel.nii.gz", parcel, subject.phantom.affine)
    lines = subject.run(*STEP, "--act", "--include", roi)
    assert len(lines) == 2 and all(np.ptp(line[:, 0]) > 20 for line in lines)
    assert "kept      50.0 %         2  both ends are valid" in messages.text
    assert "rejected  50.0 %         2  it did not enter all include" in messages.text
    messages.clear()
    lines = subject.run(*STEP, "--act", "--exclude", roi)
    assert len(lines) == 2 and all(np.ptp(line[:, 1]) > 20 for line in lines)
    assert "rejected  50.0 %         2  it entered an exclude region" in messages.text


def test_masks_are_paired_with_subjects_and_spheres_are_for_all(tmp_path):
    cohort = Cohort(tmp_path, n=2)
    affine = Subject(tmp_path).phantom.affine
    for name, x in (("sub-1", 14), ("sub-2", 4)):
        roi = np.zeros((20, 20, 10), np.uint8)
        roi[x] = 1
        save_nifti(tmp_path / name / "roi.nii.gz", roi, affine)
    pattern = tmp_path / "sub-*" / "roi.nii.gz"
    include = ("--include", pattern, "0,0,0,9", "--stop_at_include")
    command(*cohort.arguments(*include, out_dir="out"))
    for name, x in (("sub-1", 9), ("sub-2", -11)):
        lines = load(
            tmp_path / name / "out" / "out_tractogram.trx",
            tmp_path / name / "fa.nii.gz",
        )
        assert lines
        for line in lines:
            assert np.abs(line[:, 0] - x).min() < 1
    rows = cohort.rows()
    assert [row["regions"] for row in rows] == [
        str(tmp_path / name / "roi.nii.gz") for name in ("sub-1", "sub-2")
    ]
    (tmp_path / "sub-2" / "roi.nii.gz").unlink()
    line = refusal(*cohort.arguments(*include, "--force", out_dir="out"))
    assert "include 1: no file for" in line and "sub-2" in line


def test_an_image_of_labels_or_with_nan_as_a_region_is_a_warning(subject, messages):
    labels = np.zeros(subject.mask.shape, np.float32)
    labels[14], labels[4], labels[0] = 1011, 1012, np.nan
    save_nifti(subject.folder / "labels.nii.gz", labels, subject.phantom.affine)
    subject.run(*STEP, "--include", subject.folder / "labels.nii.gz")
    assert (
        "labels.nii.gz is not a binary mask: its values are from 0 to 1012. Voxels "
        "above 0 are in the region. To use one label, make a mask of it."
    ) in messages.text
    assert "labels.nii.gz holds NaN in 200 of 4000 voxels. They are not in the" in (
        messages.text
    )


def empty(subject):
    put(subject, "roi.nii.gz", np.zeros((3, 3, 3)), np.eye(4))


def far(subject):
    affine = np.eye(4)
    affine[:3, 3] = 100
    put(subject, "roi.nii.gz", np.ones((3, 3, 3)), affine)


def infinite(subject):
    data = np.full((3, 3, 3), np.inf, np.float32)
    save_nifti(subject.folder / "roi.nii.gz", data, np.eye(4))


def flat(subject):
    put(subject, "roi.nii.gz", np.ones((3, 3)), np.eye(4))


@pytest.mark.parametrize(
    ("change", "options", "named"),
    [
        (None, ("--include", "no.nii"), "include 1 is no.nii, which matches no file"),
        (empty, ("--exclude", "roi.nii.gz"), "roi.nii.gz is an empty region"),
        (
            far,
            ("--include", "roi.nii.gz"),
            "No voxel above 0 of roi.nii.gz is in the image of the fODF: they reach "
            "over x, y, z from 100, 100, 100 to 102, 102, 102 mm, and the fODF from "
            "-20, -20, -10 to 20, 20, 10 mm.",
        ),
        (flat, ("--include", "roi.nii.gz"), "roi.nii.gz has 2 axes"),
        (
            None,
            ("--include", "25,0,0,4"),
            "include is the sphere 25,0,0,4, which is outside of the image of the fODF",
        ),
        (None, ("--exclude", "1,2,3"), "exclude is 1,2,3; a sphere is x,y,z,radius"),
        (None, ("--exclude", "-1,2,3,0"), "exclude is -1,2,3,0; a sphere is"),
        (None, ("--include", "1,nan,3,4"), "include is 1,nan,3,4; a sphere is"),
        (None, ("--stop_at_include",), "stop_at_include is given, but needs include"),
        (
            None,
            ("--include", "1,2,3,4", "--include=5,6,7,8"),
            "--include is given 2 times; give all regions after one flag",
        ),
        (
            None,
            ("--inc", "1,2,3,4", "--includ=5,6,7,8"),
            "--include is given 2 times; give all regions after one flag",
        ),
        (None, ("--include", "--save_stops"), "--include is given without a region"),
        (None, ("--exclude",), "--exclude is given without a region; add one"),
        (None, ("--exclude=",), "--exclude is given without a region; add one"),
        (None, ("--include", "1,2,3,4mm"), "include is 1,2,3,4mm; a sphere is x,y,z"),
        (None, ("--include", "(1,2,3,4)"), "include is (1,2,3,4); a sphere is x,y,z"),
        (None, ("--include", "1 2 3 4"), "include is 1 2 3 4; a sphere is x,y,z"),
        (None, ("--include", "1;2;3;4"), "include is 1;2;3;4; a sphere is x,y,z"),
        (None, ("--include", "1,2,3,4,"), "include is 1,2,3,4,; a sphere is x,y,z"),
        (infinite, ("--include", "roi.nii.gz"), "roi.nii.gz holds infinity in 27"),
    ],
)
def test_a_mistake_is_an_error_of_one_line_and_leaves_no_file(
    subject, monkeypatch, change, options, named
):
    if change:
        change(subject)
    monkeypatch.chdir(subject.folder)
    before = sorted(path.name for path in subject.folder.rglob("*"))
    assert named in refusal("peaks.pam5", "fa.nii.gz", "seeds.txt", *options)
    assert sorted(path.name for path in subject.folder.rglob("*")) == before


def test_a_sphere_that_reaches_into_the_image_is_accepted(subject):
    assert len(subject.run(*STEP, "--include", "25,0,0,9")) == 2
    oblique = spatial.to_mm([0, 0, 0], subject.phantom.affine)  # the first voxel
    text = ",".join(map(str, [*oblique - 2, 5]))
    assert len(subject.run(*STEP, "--exclude", text)) == 4
