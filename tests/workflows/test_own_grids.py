"""Seeds, stopping images and tissue maps on other grids than that of the fODF.

Images whose values are linear in x, y and z in mm have the same interpolated values on
every grid. So the streamlines must be the same.
"""

import csv
import json
import sys

from commands import Subject, command, load, refusal
from dipy.io.image import save_nifti
from dipy.io.stateful_tractogram import Space, StatefulTractogram
from dipy.io.streamline import load_tractogram, save_tractogram
import nibabel as nib
import numpy as np
import numpy.testing as npt
import pytest
from worlds import OBLIQUE_ROTATION, affine_of, hausdorff, share_identical

from dipy_rnn import report, spatial
from dipy_rnn.workflows import cli

SHAPE = (90, 60, 50)
STEP = ("--step_size", 0.5)


@pytest.fixture
def subject(tmp_path):
    """Return a subject, with a file that has the grid of the fODF."""
    subject = Subject(tmp_path)
    subject.grid = subject.folder / "grid.nii.gz"
    subject.stopping.rename(subject.grid)
    subject.stopping.write_bytes(subject.grid.read_bytes())
    return subject


def own_affine(sizes_mm=(1.0, 2.0, 3.0), shape=SHAPE):
    """Return the affine of an oblique grid whose middle is at 0 mm."""
    affine = affine_of(sizes_mm, OBLIQUE_ROTATION, 0.0)
    affine[:3, 3] = -spatial.to_mm((np.array(shape) - 1) / 2, affine)
    return affine


def linear(affine, shape, constant, *slopes):
    """Return an image of constant + slopes . (x, y, z)."""
    points_mm = spatial.to_mm(np.indices(shape).reshape(3, -1).T, affine)
    values = constant + points_mm @ np.array(slopes)
    return values.reshape(shape).astype(np.float32)


def run(name, *arguments):
    """Run another command than dipy_track_rnn."""
    sys.argv = [f"dipy_{name}_rnn", *map(str, arguments)]
    getattr(cli, name)()


def both_grids(subject):
    return (subject.phantom.affine, subject.mask.shape), (own_affine(), SHAPE)


def put(subject, name, data, affine):
    save_nifti(subject.folder / name, data, affine)
    return subject.folder / name


def seeds_of(subject):
    return load_tractogram(
        str(subject.folder / "out" / "out.trk"), str(subject.grid)
    ).data_per_streamline["seeds"]


def test_seeds_are_placed_in_the_voxels_of_their_own_image(subject, messages):
    affine = np.eye(4)  # voxels of 1 mm; those of the fODF have 2 mm
    affine[:3, 3] = -14.7, -1.7, -0.7
    roi = np.zeros((30, 4, 4), np.uint8)
    roi[2:17, 1:3, 1] = 1
    expected = spatial.to_mm(np.argwhere(roi), affine)
    assert len(expected) == 30
    inputs = [*subject.inputs[:2], put(subject, "roi.nii.gz", roi, affine)]
    lines = subject.run("--save_seeds", inputs=inputs, grid=subject.grid)
    assert len(lines) == 30
    assert "30 seeds, 0 without a fibre direction" in messages.text
    assert "roi.nii.gz is on its own grid (1 x 1 x 1 mm)" in messages.text
    npt.assert_allclose(seeds_of(subject), expected, atol=1e-5)
    for option, n in (("--seed_density 2", 240), ("--seeds_per_mm3 2", 60)):
        subject.run(
            "--save_seeds",
            "--minlen",
            0,
            *option.split(),
            inputs=inputs,
            grid=subject.grid,
        )
        assert len(seeds_of(subject)) == n
        voxels = np.rint(spatial.to_voxels(seeds_of(subject), affine)).astype(int)
        assert roi[*voxels.T].all()


def test_the_one_seed_of_a_mask_may_be_in_its_first_voxel(subject):
    affine = np.eye(4)
    affine[:3, 3] = -3, 0.5, 0.25
    roi = put(subject, "roi.nii.gz", np.ones((1, 1, 1), np.uint8), affine)
    subject.run("--save_seeds", inputs=[*subject.inputs[:2], roi], grid=subject.grid)
    npt.assert_allclose(seeds_of(subject), [[-3, 0.5, 0.25]], atol=1e-5)


def test_a_stopping_image_on_its_own_grid_gives_the_same_streamlines(subject, messages):
    # Above 0.2 for x from -11.3 to the border of the image.
    lines = []
    for affine, shape in both_grids(subject):
        data = linear(affine, shape, 0.2 + 0.113, 0.01, 0.0001, -0.0002)
        path = put(subject, f"fa{len(lines)}.nii.gz", data, affine)
        inputs = [subject.pam, path, subject.seeding]
        lines.append(
            subject.run(*STEP, "--save_picture", inputs=inputs, grid=subject.grid)
        )
    assert len(lines[0]) == subject.n_seeds
    along = [line for line in lines[0] if np.ptp(line[:, 0]) > 5]  # others are along y
    ends = np.array([sorted(line[[0, -1], 0]) for line in along])
    # One end is at the threshold, the other where the fODF ends.
    assert (np.abs(ends[:, 0] + 11.3) < 0.6).all() and (ends[:, 1] > 16).all()
    assert len(along) == 6
    assert share_identical(*map(list, lines)) == 1
    assert "fa1.nii.gz is on its own grid (1 x 2 x 3 mm)" in messages.text
    # With the header of the fODF, DIPY loads the file with its default checks.
    assert load_tractogram(str(subject.folder / "out" / "out.trk"), str(subject.grid))


def test_streamlines_do_not_leave_the_fodf_if_the_stopping_image_is_larger(subject):
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = -100
    everywhere = put(subject, "t1.nii.gz", np.ones((50, 50, 50), np.float32), affine)
    inputs = [subject.pam, everywhere, subject.seeding]
    lines = subject.run(*STEP, inputs=inputs, grid=subject.grid)
    for line in lines:
        assert spatial.is_inside(
            spatial.to_voxels(line, subject.phantom.affine), subject.mask.shape
        ).all()


@pytest.mark.parametrize("criterion", ["act", "cmc"])
def test_tissues_on_their_own_grid_give_the_same_streamlines(subject, criterion):
    # Grey matter is above a half where x is above 9.1 mm. The mean size of the voxels,
    # which CMC uses, is 2 mm on both grids.
    lines = []
    slope = {"act": 0.01, "cmc": 0.002}[criterion]
    for affine, shape in both_grids(subject):
        gm = linear(affine, shape, 0.5 - 9.1 * slope, slope, 0, 0)
        gm = np.clip(gm, 0, 0.95)
        csf = np.full_like(gm, 0.01)
        wm = 1 - gm - csf
        path = put(
            subject, f"tissues{len(lines)}.nii.gz", np.stack([csf, gm, wm], 3), affine
        )
        inputs = [subject.pam, path, subject.seeding]
        options = (*STEP, f"--{criterion}", "--keep_rejected", "--minlen", 0)
        lines.append(subject.run(*options, inputs=inputs, grid=subject.grid))
        for name, data in (("wm", wm), ("gm", gm), ("csf", csf)):
            put(subject, f"{name}.nii.gz", data, affine)
        maps = ("--gm_files", subject.folder / "gm.nii.gz")
        maps += ("--csf_files", subject.folder / "csf.nii.gz")
        inputs[1] = subject.folder / "wm.nii.gz"
        lines.append(subject.run(*options, *maps, inputs=inputs, grid=subject.grid))
    first = list(lines[0])
    assert len(first) == subject.n_seeds
    for other in lines[1:]:
        assert share_identical(first, list(other)) == 1
    along = [line for line in first if np.ptp(line[:, 0]) > 5]  # others are along y
    highest = np.array([line[:, 0].max() for line in along])
    if criterion == "act":
        assert len(along) == 6 and (np.abs(highest - 9.1) < 0.6).all()
    else:
        assert len(set(highest.round(3).tolist())) > 1
    # The three maps have one grid.
    gm = put(subject, "gm.nii.gz", subject.mask.astype(np.float32), grid_of(subject))
    line = refusal(*inputs, "--force", *options, *maps)
    assert "gm.nii.gz has the shape (20, 20, 10)" in line and "order=1 for maps" in line


def grid_of(subject):
    return subject.phantom.affine


def test_seeds_on_the_interface_of_tissues_on_their_own_grid(subject):
    affine = own_affine((1.0, 1.1, 1.2))
    gm = np.clip(linear(affine, SHAPE, 0.5 - 0.05, 0.02, 0, 0), 0, 1)  # half at 2.5 mm
    tissues = np.stack([0 * gm, gm, 1 - gm], 3)
    mask = np.zeros(subject.mask.shape, np.uint8)
    mask[9:12, 8:10, 4:6] = 1
    inputs = [subject.pam, put(subject, "pve.nii.gz", tissues, affine)]
    inputs.append(put(subject, "mask.nii.gz", mask, subject.phantom.affine))
    options = ("--act", "--keep_rejected", "--save_seeds", "--minlen", 0)
    subject.run(
        *options,
        "--seed_at_interface",
        "--seed_count",
        40,
        inputs=inputs,
        grid=subject.grid,
    )
    seeds = seeds_of(subject)
    assert len(seeds) == 40
    npt.assert_allclose(seeds[:, 0], 2.5, atol=0.01)
    voxels = np.rint(spatial.to_voxels(seeds, subject.phantom.affine)).astype(int)
    assert mask[*voxels.T].all()
    # They cover the part of the plane that is in the mask: 4 x 4 mm.
    assert (np.ptp(seeds[:, 1:], axis=0) > 3).all()


def test_parts_give_the_same_file_if_no_image_is_on_the_grid_of_the_fodf(subject):
    affine = own_affine()
    fa = put(subject, "fa1.nii.gz", linear(affine, SHAPE, 0.4, 0.01, 0, 0), affine)
    inputs, out = [subject.pam, fa, subject.seeding], subject.folder / "out"
    for name, options in (("a", ()), ("b", ("--nbr_parts", 3))):
        command(*inputs, "--out_dir", out, "--out_tractogram", f"{name}.trx", *options)
    assert (out / "a.trx").read_bytes() == (out / "b.trx").read_bytes()


def test_images_that_do_not_overlap_are_refused_with_both_places(subject):
    affine = subject.phantom.affine.copy()  # the fODF reaches from -20 to 20 mm
    affine[0, 3] += 50
    far = subject.folder / "far.nii.gz"
    save_nifti(far, subject.mask.astype(np.float32), affine)
    for inputs in (
        [subject.pam, far, subject.seeding],
        [*subject.inputs[:2], far],
    ):
        line = refusal(*inputs, "--out_dir", subject.folder)
        assert "far.nii.gz does not overlap with" in line
        assert "from 30, -20, -10 to 70, 20, 10 mm" in line
        assert "peaks.pam5 from -20, -20, -10 to 20, 20, 10 mm" in line
        assert "different subjects or spaces" in line
    # The images overlap, but the seeds are outside.
    roi = np.zeros((40, 20, 10), np.uint8)
    roi[30:, 5, 5] = 1
    save_nifti(subject.seeding, roi, subject.phantom.affine)
    line = refusal(*subject.inputs, "--out_dir", subject.folder)
    assert "No voxel above 0 of" in line and "from 41, -9, 1 to 59, -9, 1 mm" in line


def test_seeds_outside_of_the_fodf_are_counted(subject, messages):
    roi = np.zeros((40, 20, 10), np.uint8)
    roi[15:23, 9, 5] = 1  # five of eight are inside
    save_nifti(subject.seeding, roi, subject.phantom.affine)
    subject.run()
    assert "8 seeds, 3 outside the image, 0 without a fibre direction" in messages.text


@pytest.mark.parametrize("suffix", ["nii.gz", "txt"])
def test_seeds_outside_of_the_stopping_image_are_told(subject, suffix, messages):
    # The stopping image covers the fODF where x is above 1 mm.
    shape, affine = (9, 20, 10), subject.phantom.affine.copy()
    affine[0, 3] = 2
    fa = put(subject, "half.nii.gz", np.ones(shape, np.float32), affine)
    mask = np.zeros(subject.mask.shape, np.uint8)
    path = subject.folder / f"some.{suffix}"
    for voxels, told in (
        ([8, 9, 12], "2 of 3 seeds or voxels of"),
        ([12], None),
        ([8, 9], "All seeds of"),
    ):
        mask[:] = 0
        mask[voxels, 9, 5] = 1
        if suffix == "txt":
            np.savetxt(path, spatial.to_mm(np.argwhere(mask), subject.phantom.affine))
        else:
            save_nifti(path, mask, subject.phantom.affine)
        inputs = [subject.pam, fa, path]
        messages.clear()
        if told == "All seeds of":
            line = refusal(*inputs, "--out_dir", subject.folder / "none")
            assert told in line and "half.nii.gz: they reach over" in line
            continue
        subject.run("--minlen", 0, inputs=inputs, grid=subject.grid)
        where = "are outside of the stopping image"
        assert (where in messages.text) == (told is not None)
        assert told is None or told in messages.text


def test_as_many_voxels_with_another_affine_is_a_warning(subject, messages):
    affine = subject.phantom.affine.copy()
    affine[0, 3] += 1
    save_nifti(subject.seeding, subject.mask.astype(np.uint8), affine)
    subject.run()
    assert "seeds.nii.gz has as many voxels as" in messages.text
    assert "peaks.pam5, but another affine" in messages.text


def linear_on_both_grids(subject):
    """Save an image of linear values on both grids, and return the paths."""
    return [
        put(
            subject,
            f"fa{i}.nii.gz",
            linear(affine, shape, 0.2 + 0.113, 0.01, 0.0001, -0.0002),
            affine,
        )
        for i, (affine, shape) in enumerate(both_grids(subject))
    ]


@pytest.mark.parametrize("mask", [(), ("--use_binary_mask",)])
def test_a_comparison_takes_a_stopping_image_on_its_own_grid(
    subject, mask, messages, monkeypatch
):
    monkeypatch.setattr(report, "write_report", lambda path, *_: path.touch())
    files = linear_on_both_grids(subject)
    if mask:  # of 1 in the nearest voxel, with edges between voxels of both grids
        for path in files:
            image = nib.load(path)
            above = (image.get_fdata() > 0.2).astype(np.uint8)
            save_nifti(path, above, image.affine)
        assert 0 < above.mean() < 1
    tractograms = []
    for i, path in enumerate(files):
        out = subject.folder / str(i)
        inputs = [subject.pam, path, subject.seeding]
        run("compare", *inputs, *STEP, *mask, "--nbr_threads", 1, "--out_dir", out)
        tractograms.append(
            [
                load(out / f"{name}.trx", subject.grid)
                for name in ("candidate", "reference", "yardstick")
            ]
        )
    assert "fa1.nii.gz is on its own grid (1 x 2 x 3 mm)" in messages.text
    assert "sampled at the voxel centres of the fODF" in messages.text
    for first, second in zip(*tractograms):
        ends = [min(line[[0, -1], 0]) for line in first if np.ptp(line[:, 0]) > 5]
        assert len(ends) == 6 and np.ptp(ends) < 2.1  # the edge of the image
        if not mask:
            assert share_identical(list(first), list(second)) == 1
            continue
        # The edges of the two masks differ by less than a voxel.
        assert len(first) == len(second) == subject.n_seeds
        for lines in zip(first, second):
            assert hausdorff(*lines) < 3


def test_training_takes_a_stopping_image_on_its_own_grid(subject, messages):
    losses = []
    small = "--n_updates 1 --hidden 4 --batch_size 8 --max_points 6 --nbr_threads 1"
    for path in linear_on_both_grids(subject):
        out = subject.folder / path.name.partition(".")[0]
        options = ("--stopping_files", path, "--n_streamlines", 20, "--out_dir", out)
        run("train", subject.pam, "deterministic", *options, *small.split())
        with (out / "model_training" / "log.csv").open() as file:
            (row,) = csv.DictReader(file)
        losses.append(float(row["loss"]))
    # Another tractogram, or none of the image, would have another loss.
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert "fa1.nii.gz is sampled at the voxel centres of" in messages.text


def test_labels_of_a_comparison_may_be_on_their_own_grid(subject, monkeypatch):
    monkeypatch.setattr(report, "write_report", lambda path, *_: path.touch())
    lines = subject.phantom.streamlines(20)[0][:30]  # 20 along x, 10 along y
    path = subject.folder / "lines.trk"
    save_tractogram(
        StatefulTractogram(lines, str(subject.grid), Space.RASMM),
        str(path),
        bbox_valid_check=False,
    )
    shape, affine = (80, 80, 40), np.diag([0.5, 0.5, 0.5, 1])
    affine[:3, 3] = -19.75, -19.75, -9.75
    points_mm = spatial.to_mm(np.indices(shape).reshape(3, -1).T, affine)
    x, y, z = points_mm.T.reshape(3, *shape)
    # Regions at the ends of both bundles, and the bundle along x with its ends.
    regions = np.select([x < -10, x > 10, y < -10, y > 10], [3, 7, 4, 9]).astype("i2")
    bundle = np.select([np.hypot(y, z) > 7, x < -12, x > 12], [0, 2, 3], 1).astype("i2")
    out = ("--out_dir", subject.folder / "out")
    run(
        *("compare", path, path, subject.grid, *out),
        *("--label_file", put(subject, "regions.nii.gz", regions, affine)),
        *("--bundle_files", put(subject, "along_x.nii.gz", bundle, affine)),
    )
    metrics = json.loads((subject.folder / "out" / "metrics.json").read_text())
    (valid,) = (m for m in metrics["each"] if m["name"] == "valid")
    assert valid["candidate"]["value"] == pytest.approx(20 / 30)
    name = "connectivity_correlation"
    (connected,) = (m for m in metrics["between"] if m["name"] == name)
    assert connected["candidate"]["value"] == pytest.approx(1)
    affine[:3, 3] += 300
    far = put(subject, "far.nii.gz", regions, affine)
    for option in ("--label_file", "--bundle_files"):
        with pytest.raises(SystemExit) as caught:
            run("compare", path, path, subject.grid, option, far, *out, "--force")
        assert "far.nii.gz does not overlap with" in str(caught.value.code)
