"""dipy_track_rnn on files of a phantom: options, mistakes, and shared help texts."""

from inspect import getdoc, signature
import logging
from pathlib import Path
import subprocess
import sys

from commands import VTK, Subject, command, load, refusal, write_pam
from dipy.io.image import load_nifti, save_nifti
from dipy.io.streamline import load_tractogram
from dipy.reconst.shm import convert_sh_descoteaux_tournier
from dipy.workflows.docstring_parser import NumpyDocString
import h5py
import numpy as np
import numpy.testing as npt
from PIL import Image
import pytest
from scipy import ndimage
from stubs import FieldFollower, save_stub
from test_imports import WITHOUT_DIPYS_TRACKERS
from worlds import OBLIQUE_ROTATION, share_identical, share_within

from dipy_rnn import sampling, spatial
from dipy_rnn.evaluation import METRICS, streamline_metrics
from dipy_rnn.stopping import StopReason
from dipy_rnn.workflows import compare, connectome, gradients, track, train


@pytest.fixture
def subject(tmp_path):
    return Subject(tmp_path)


def lengths_mm(streamlines):
    return np.array(
        [np.linalg.norm(np.diff(s, axis=0), axis=1).sum() for s in streamlines]
    )


def test_every_seed_is_tracked(subject, messages):
    streamlines = subject.run("--step_size", 1.0)
    assert len(streamlines) == subject.n_seeds
    assert (lengths_mm(streamlines) > 10).all()
    inverse = np.linalg.inv(subject.phantom.affine)
    for line in streamlines:
        voxels = np.round(line @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
        assert (voxels >= 0).all() and (voxels < subject.mask.shape).all()
    text = messages.text
    assert f"{subject.n_seeds} seeds, 0 without a fibre direction" in text
    assert "the stopping criterion was met" in text


@pytest.mark.parametrize("suffix", ["trx", "trk", "tck"])
def test_the_suffix_of_the_output_sets_its_format(subject, suffix):
    streamlines = subject.run("--step_size", 1.0, out=f"lines.{suffix}")
    assert len(streamlines) == subject.n_seeds
    assert [p.name for p in (subject.folder / "out").iterdir()] == [f"lines.{suffix}"]


def test_files_are_the_same_in_every_run_and_for_any_number_of_threads(subject):
    for out, options in (
        ("a.trk", ("--nbr_threads", 1, "--batch_size", 3)),
        ("b.trk", ("--nbr_threads", 1, "--batch_size", 3)),
    ):
        subject.run("--step_size", 1.0, *options, out=out)
    out = subject.folder / "out"
    assert (out / "a.trk").read_bytes() == (out / "b.trk").read_bytes()
    one = load(out / "a.trk", subject.stopping)
    two = subject.run("--step_size", 1.0, "--nbr_threads", 2)
    assert share_identical(list(one), list(two)) == 1


def test_seeds_are_dense_or_random_and_can_be_saved(subject):
    assert len(subject.run("--seed_density", 2)) == 8 * subject.n_seeds

    def seeds(*options):
        subject.run("--seed_count", 7, "--save_seeds", *options)
        tractogram = load_tractogram(
            str(subject.folder / "out" / "out.trk"),
            str(subject.stopping),
            bbox_valid_check=False,
        )
        return np.array(tractogram.data_per_streamline["seeds"])

    first, again, other = seeds(), seeds(), seeds("--random_seed", 5)
    assert first.shape == (7, 3)
    npt.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(seeds("--random_seed", 0), seeds("--random_seed", 0))


def test_seeds_are_read_from_a_list(subject):
    places = np.array([[-3.0, 0, 0], [3.0, 0, 0]])
    np.savetxt(subject.folder / "list.txt", places)
    inputs = [*subject.inputs[:2], subject.folder / "list.txt"]
    subject.run("--save_seeds", inputs=inputs)
    tractogram = load_tractogram(
        str(subject.folder / "out" / "out.trk"),
        str(subject.stopping),
        bbox_valid_check=False,
    )
    npt.assert_allclose(tractogram.data_per_streamline["seeds"], places, atol=1e-5)
    assert "list of seeds" in refusal(*inputs, "--seed_count", 3, "--force")


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        (lambda mm, vox: vox, "They fit as voxel coordinates: convert them to mm"),
        (lambda mm, vox: mm * [-1, -1, 1], "They fit in LPS+: negate x and y"),
        (lambda mm, vox: mm + 500, "these may be of another subject or space"),
    ],
)
def test_seeds_outside_the_image_are_counted_and_explained(
    subject, messages, change, advice
):
    affine = subject.phantom.affine.copy()
    affine[:3, 3] = 100, 200, 300
    write_pam(subject.pam, subject.fodf, affine)
    save_nifti(subject.stopping, subject.mask.astype(np.float32), affine)
    seeds_vox = np.argwhere(load_nifti(subject.seeding)[0]).astype(float)
    right = spatial.to_mm(seeds_vox, affine)
    wrong = change(right, seeds_vox)
    path = subject.folder / "list.txt"
    inputs = [*subject.inputs[:2], path]
    np.savetxt(path, wrong)
    line = refusal(*inputs, "--out_dir", subject.folder / "out")
    n = subject.n_seeds
    assert f"Of the seeds in {path}, {n} of {n} lie outside the image. " in line
    assert advice in line and not list((subject.folder / "out").iterdir())
    np.savetxt(path, np.concatenate([right, wrong]))
    assert len(subject.run("--step_size", 1.0, inputs=inputs)) == n
    assert f"Of the seeds in {path}, {n} of {2 * n} lie outside the" in messages.text
    counts = f"{2 * n} seeds, {n} outside the image, 0 without a fibre direction, "
    assert counts in messages.text and advice in messages.text


def test_nan_outside_of_the_brain_counts_as_no_data(subject, messages):
    fodf = subject.folder / "csd.nii.gz"
    far = ~ndimage.binary_dilation(subject.mask, iterations=2)
    coeffs = np.where(far[..., None], 0.0, subject.phantom.fodf()).astype(np.float32)
    lines = []
    for outside in (0.0, np.nan):
        coeffs[far] = outside
        save_nifti(fodf, coeffs, subject.phantom.affine)
        lines.append(subject.run(inputs=[fodf, *subject.inputs[1:]]))
    assert share_identical(*map(list, lines)) == 1
    assert f"csd.nii.gz holds NaN in {far.sum()} of {far.size} voxels" in messages.text
    assert far.any()


def test_an_fodf_in_another_basis_gives_a_warning_with_the_option(subject, messages):
    fodf = subject.folder / "wmfod.nii.gz"
    coeffs = convert_sh_descoteaux_tournier(subject.phantom.fodf())
    save_nifti(fodf, coeffs.astype(np.float32), subject.phantom.affine)
    inputs = [fodf, *subject.inputs[1:]]
    subject.run(inputs=inputs)
    assert "try --sh_basis tournier07, with --sh_frame scanner if" in messages.text
    messages.clear()
    subject.run("--sh_basis", "tournier07", inputs=inputs)
    assert "seems to be" not in messages.text


@pytest.mark.parametrize("at_most", [10_000, 4])
def test_tracking_ends_when_enough_are_selected(subject, messages, at_most):
    lines = subject.run("--select", 5, "--seed_count", at_most)
    n = min(5, at_most)
    assert len(lines) == n
    assert f" {n} seeds, 0 without" in messages.text
    more = subject.run("--select", 9, "--seed_count", at_most)
    assert share_identical(list(lines), list(more)[:n]) == 1


def tissues(subject):
    """Split the mask: the bundle along x ends in grey matter, that along y in csf."""
    wm, gm = subject.mask.astype(np.float32), np.zeros(subject.mask.shape, np.float32)
    gm[:4], gm[16:] = wm[:4], wm[16:]
    wm -= gm
    csf = np.zeros_like(gm)
    csf[:, :4], csf[:, 16:] = subject.mask[:, :4], subject.mask[:, 16:]
    return wm - csf * wm, gm - csf * gm, csf


def test_with_tissues_streamlines_end_in_grey_matter_or_are_rejected(subject, messages):
    wm, gm, csf = tissues(subject)
    affine = subject.phantom.affine
    zero = np.zeros_like(gm)
    save_nifti(subject.stopping, np.stack([gm, zero, wm, csf, zero], 3), affine)
    seeds = np.zeros(wm.shape, np.uint8)
    seeds[8:12, 8:12, 5] = 1  # in both bundles
    save_nifti(subject.seeding, seeds, affine)
    messages.clear()
    kept = subject.run("--act", "--step_size", 1.0, "--save_stops")
    text = messages.text
    assert "both ends are valid" in text
    assert "it entered tissue that the criterion excludes" in text
    assert 0 < len(kept) < seeds.sum()
    inverse = np.linalg.inv(affine)
    for line in kept:
        ends = np.rint(line[[0, -1]] @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
        # At the ends of the bundle along x, in the grey matter or one step before it.
        assert sorted(ends[:, 0])[0] <= 5 and sorted(ends[:, 0])[1] >= 14
    every = subject.run("--act", "--step_size", 1.0, "--keep_rejected", "--save_stops")
    assert len(every) == seeds.sum()
    # Three maps, and an image of the three, give the same streamlines.
    for name, data in (("wm", wm), ("gm", gm), ("csf", csf)):
        save_nifti(subject.folder / f"{name}.nii.gz", data, affine)
    maps = ("--gm_files", subject.folder / "gm.nii.gz")
    maps += ("--csf_files", subject.folder / "csf.nii.gz")
    inputs = [subject.pam, subject.folder / "wm.nii.gz", subject.seeding]
    of_maps = subject.run("--act", "--step_size", 1.0, *maps, inputs=inputs)
    assert share_identical(list(kept), list(of_maps)) == 1
    save_nifti(subject.stopping, np.stack([csf, gm, wm], 3), affine)
    of_one = subject.run("--act", "--step_size", 1.0, "--save_picture")
    assert share_identical(list(kept), list(of_one)) == 1
    assert subject.run("--cmc", "--step_size", 1.0)
    save_nifti(subject.seeding, subject.mask.astype(np.uint8), affine)
    at_interface = ("--seed_at_interface", "--seed_count", 6)
    assert 0 < len(subject.run("--act", *at_interface)) <= 6


def test_options_remove_points_or_store_half_precision(subject):
    whole = subject.run("--step_size", 0.5, out="a.trx")
    fifth = subject.run("--step_size", 0.5, "--downsample", 5, out="b.trx")
    few = subject.run("--step_size", 0.5, "--compress", 0.1, out="c.trx")
    half = subject.run("--step_size", 0.5, "--float16", out="d.trx")
    for line, sparse, straight, rough in zip(whole, fifth, few, half):
        npt.assert_array_equal(sparse[[0, 1, -1]], line[[0, 5, -1]])
        npt.assert_array_equal(straight[[0, -1]], line[[0, -1]])
        assert len(straight) < len(line)
        npt.assert_allclose(rough, line, atol=0.02)  # 30 mm from the origin
    sizes = [(subject.folder / "out" / f"{n}.trx").stat().st_size for n in "abcd"]
    assert sizes[0] > max(sizes[1:])


@pytest.mark.parametrize(
    "options",
    [
        ("a.trx", "--float16"),
        ("a.trx", "--float16", "--compress", 0.1, "--downsample", 2),
        ("a.trx", "--compress", 0.1),
        *(pytest.param(f"a{s.values[0]}", marks=s.marks) for s in VTK),
        *(["a.trx"], ["a.trk"], ["a.tck"], ["a.dpy"]),
    ],
    ids=str,
)
def test_dipy_loads_streamlines_that_leave_the_image_with_its_default_checks(
    subject, options
):
    # Streamlines end at the border of the image, which float16 does not resolve.
    affine = subject.phantom.affine.copy()
    affine[:3, 3] += [-100.03, 63.01, 0.007]
    write_pam(subject.pam, subject.fodf, affine)
    save_nifti(subject.stopping, np.ones(subject.mask.shape, np.float32), affine)
    save_nifti(subject.seeding, subject.mask.astype(np.uint8), affine)
    name, *options = options if not isinstance(options, str) else [options]
    subject.run("--step_size", 0.5, *options, out=name)
    path = subject.folder / "out" / name
    tractogram = load_tractogram(str(path), str(subject.stopping))
    assert tractogram and len(tractogram) == subject.mask.sum()


@pytest.mark.parametrize("suffix", [*VTK, ".dpy"])
def test_every_format_of_dipy_holds_the_same_streamlines(subject, suffix):
    whole = subject.run("--step_size", 1.0, out="a.trx")
    same = subject.run("--step_size", 1.0, "--save_picture", out=f"b{suffix}")
    assert share_identical(list(whole), list(same)) == 1
    assert len(whole) == len(same) == subject.n_seeds
    assert (subject.folder / "out" / "b.png").exists()


def test_an_image_of_peaks_is_tracked(subject):
    fractions, directions = subject.phantom.peaks()
    peaks = subject.folder / "peaks.nii.gz"
    save_nifti(peaks, fractions[..., None] * directions, subject.phantom.affine)
    inputs = [peaks, subject.stopping, subject.seeding]
    streamlines = subject.run("--step_size", 1.0, "--save_picture", inputs=inputs)
    assert len(streamlines) == subject.n_seeds
    for line in streamlines:  # the bundles are straight, along x and along y
        thickness_mm, width_mm, length_mm = np.sort(np.ptp(line, axis=0))
        assert length_mm > 30 and thickness_mm <= width_mm < 0.5


def test_the_eigenvectors_of_a_tensor_fit_are_tracked(subject, messages):
    # The first eigenvector is along y; the others have a random angle around it.
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, subject.mask.shape)
    evecs = np.zeros((*subject.mask.shape, 3, 3), np.float32)
    evecs[..., 1, 0] = 1
    evecs[..., 0, 1] = evecs[..., 2, 2] = np.cos(angle)
    evecs[..., 2, 1] = np.sin(angle)
    evecs[..., 0, 2] = -np.sin(angle)
    save_nifti(subject.folder / "evecs.nii.gz", evecs, subject.phantom.affine)
    inputs = [subject.folder / "evecs.nii.gz", subject.stopping, subject.seeding]
    streamlines = subject.run("--step_size", 1.0, inputs=inputs)
    assert len(streamlines) == subject.n_seeds
    for line in streamlines:
        x, y, z = np.ptp(line, axis=0)
        assert y > 3 and max(x, z) < 0.1
    assert "evecs.nii.gz has the eigenvectors of tensors" in messages.text


def test_the_reasons_of_stopping_are_saved(subject):
    subject.run("--step_size", 1.0, "--save_stops", "--save_seeds")
    saved = load_tractogram(
        str(subject.folder / "out" / "out.trk"),
        str(subject.stopping),
        bbox_valid_check=False,
    ).data_per_streamline
    assert set(saved) == {"seeds", "forward_stop", "backward_stop"}
    assert set(np.ravel(saved["forward_stop"])) == {StopReason.ENDPOINT}


@pytest.mark.parametrize("out", ["out.trk", "out.trx"])
def test_metrics_are_those_of_the_streamlines_as_tracked(subject, out):
    options = ("--step_size", 0.5, "--save_metrics")
    whole = subject.run("--step_size", 0.5, "--select", 9, "--seed_count", 40)
    few = subject.run(
        *options, "--select", 9, "--seed_count", 40, "--downsample", 7, out=out
    )
    saved = load_tractogram(
        str(subject.folder / "out" / out),
        str(subject.stopping),
        bbox_valid_check=False,
    ).data_per_streamline
    assert set(saved) == {*METRICS, "forward_stop", "backward_stop"}
    assert len(few) == len(whole) == 9
    npt.assert_allclose(np.ravel(saved["length_mm"]), lengths_mm(whole), rtol=1e-5)
    metrics = streamline_metrics(
        whole, sampling.fodf_features(subject.fodf), subject.phantom.affine
    )
    for name, values in metrics.items():
        npt.assert_allclose(np.ravel(saved[name]), values, rtol=1e-3, atol=1e-2)
    assert (np.ravel(saved["mean_amplitude"]) > 0.8).all()
    assert (np.ravel(saved["turn_deg"]) > 0).all()
    line = refusal(*subject.inputs, "--save_metrics", "--out_tractogram", "a.tck")
    assert "a .tck file cannot hold forward_stop, backward_stop, length_mm" in line


def test_metrics_of_features_without_an_fodf_are_an_error(subject):
    model = subject.folder / "raw.pt"
    save_stub(FieldFollower(), model)
    line = refusal(*subject.inputs, "--save_metrics", "--model_file", model)
    assert "save_metrics is given, but " in line and "use save_stops instead" in line


def test_step_and_lengths_are_in_mm(subject):
    for step in (0.2, 0.5, 1.5):
        steps = np.concatenate(
            [
                np.linalg.norm(np.diff(s, axis=0), axis=1)
                for s in subject.run("--step_size", step)
            ]
        )
        npt.assert_allclose(steps, step, atol=1e-3)
    lengths = lengths_mm(subject.run("--step_size", 1.0))
    for option, limit, n in (
        ("--maxlen", int(lengths.min()) - 1, 0),
        ("--maxlen", int(lengths.max()) + 2, len(lengths)),
        ("--minlen", int(lengths.max()) + 2, 0),
        ("--minlen", int(lengths.min()), len(lengths)),
    ):
        assert len(subject.run("--step_size", 1.0, option, limit)) == n


def test_lengths_may_have_decimals(subject, messages):
    lengths = lengths_mm(subject.run("--step_size", 0.5, "--minlen", 2, "--maxlen", 60))
    assert " streamlines of 2 to 60 mm, with steps of 0.5 mm." in messages.text
    # Lengths are counted in points, as in DIPY: n steps of 0.5 mm are n + 1 points.
    longest = lengths.max()
    assert longest % 0.5 < 1e-3 or longest % 0.5 > 0.499
    for more, n in ((0.5, 1), (1.0, 0)):
        kept = subject.run("--step_size", 0.5, "--minlen", round(longest + more, 1))
        assert (len(kept) > 0) == n


def test_the_step_may_be_in_voxels(subject, tmp_path, messages):
    # On voxels of 1 x 2 x 4 mm, the cube root of the volume is 2 mm.
    phantom = subject.phantom.on_grid(
        np.array([[1.0, 0, 0, -20], [0, 2, 0, -19], [0, 0, 4, -8], [0, 0, 0, 1]]),
        (40, 20, 5),
    )
    write_pam(subject.pam, phantom.fodf(), phantom.affine)
    mask = phantom.mask().astype(np.float32)
    save_nifti(subject.stopping, mask, phantom.affine)
    seeds = np.zeros_like(mask)
    seeds[10:30:5, 9, 2] = 1
    save_nifti(subject.seeding, seeds, phantom.affine)
    for parts in (1, 2):
        lines = subject.run("--step_vox", 0.25, "--nbr_parts", parts)
        steps = [np.linalg.norm(np.diff(line, axis=0), axis=1) for line in lines]
        npt.assert_allclose(np.concatenate(steps), 0.5, atol=1e-3)
        assert "with steps of 0.5 mm" in messages.text
        messages.clear()
    for option in (("--step_vox", 2), ("--step_size", 4)):
        subject.run(*option)
        assert messages.text.count("step_size is 4 mm, 2 edges of a voxel") == 1
        messages.clear()


def test_several_peaks_are_tracked_from_each_seed(subject, messages):
    seeds = np.zeros_like(subject.mask, np.uint8)
    seeds[10, 10, 5] = seeds[4, 10, 5] = 1  # where the bundles cross, and in one alone
    save_nifti(subject.seeding, seeds, subject.phantom.affine)
    assert len(subject.run("--save_seeds")) == 2
    assert " 2 seeds, 0 without a fibre direction, 2 streamlines" in messages.text
    for max_cross in (2, -1):
        messages.clear()
        lines = subject.run("--save_seeds", "--max_cross", max_cross)
        assert " 2 seeds, 0 without a fibre direction, 3 streamlines" in messages.text
        saved = load_tractogram(
            str(subject.folder / "out" / "out.trk"),
            str(subject.stopping),
            bbox_valid_check=False,
        ).data_per_streamline["seeds"]
        places = np.array(saved) @ np.linalg.inv(subject.phantom.affine[:3, :3]).T
        assert np.ptp(places[:, 0].round(3)) == 6
        assert (
            sorted(places[:, 0].round(3).tolist()).count(places[:, 0].max().round(3))
            == 2
        )
        along = [int(np.argmax(np.ptp(line, axis=0))) for line in lines]
        assert along[0] == 0 and sorted(along[1:]) == [0, 1]


def test_unidirectional_streamlines_start_at_their_seeds(subject, messages):
    whole = subject.run("--step_size", 1.0)
    halves = subject.run("--step_size", 1.0, "--unidirectional", "--save_seeds")
    assert len(halves) == len(whole) == subject.n_seeds
    seeds = load_tractogram(
        str(subject.folder / "out" / "out.trk"),
        str(subject.stopping),
        bbox_valid_check=False,
    ).data_per_streamline["seeds"]
    for half, line, seed in zip(halves, whole, seeds):
        npt.assert_allclose(half[0], seed, atol=1e-4)
        npt.assert_allclose(half, line[len(line) - len(half) :], atol=1e-4)
        assert len(half) < len(line)
    # Each streamline has one end, which is counted once.
    assert f" {subject.n_seeds}  the stopping criterion was met" in messages.text


def test_a_threshold_or_a_binary_mask_stops_tracking(subject):
    ramp = subject.mask * np.linspace(0, 1, 20)[:, None, None]
    save_nifti(subject.stopping, ramp.astype(np.float32), subject.phantom.affine)
    low = lengths_mm(subject.run("--step_size", 1.0, "--stopping_thr", 0.1)).sum()
    high = lengths_mm(subject.run("--step_size", 1.0, "--stopping_thr", 0.4)).sum()
    assert 0 < high < low
    binary = subject.run("--step_size", 1.0, "--use_binary_mask")
    linear = subject.run("--step_size", 1.0)
    assert share_identical(list(binary), list(linear)) < 1


def test_max_angle_is_the_largest_turn_and_ends_no_streamline(subject, messages):
    lines = subject.run("--step_size", 1.0, "--max_angle", 5)
    for line in lines:
        steps = np.diff(line, axis=0)
        cosines = np.sum(steps[1:] * steps[:-1], axis=1)
        assert cosines.min(initial=1.0) > np.cos(np.deg2rad(5.1))
    assert "no direction within max_angle" not in messages.text


def test_pmf_threshold_ends_streamlines_where_the_fodf_ahead_is_low(subject, messages):
    # Where bundles cross, noise makes one of the lobes smaller than the other.
    free = lengths_mm(subject.run("--step_size", 1.0)).sum()
    messages.clear()
    held = lengths_mm(subject.run("--step_size", 1.0, "--pmf_threshold", 0.99)).sum()
    assert held < free
    assert "there is no direction within max_angle" in messages.text


def test_seed_buffer_fraction_changes_only_how_many_seeds_are_prepared(
    subject, monkeypatch
):
    sizes, find = [], sampling.first_directions

    def recording(volume, points, *arguments, **options):
        sizes.append(len(points))
        return find(volume, points, *arguments, **options)

    whole = subject.run("--step_size", 1.0)
    monkeypatch.setattr(sampling, "first_directions", recording)
    parts = subject.run("--step_size", 1.0, "--seed_buffer_fraction", 0.25)
    assert sizes == [subject.n_seeds // 4] * 4
    assert share_identical(list(whole), list(parts)) == 1


def test_spherical_harmonics_may_have_any_basis_and_axes(subject, tmp_path):
    reference = list(subject.run("--step_size", 1.0))
    affine = subject.phantom.affine

    def from_nifti(coeffs, *options, affine=affine, others=subject.inputs[1:]):
        save_nifti(tmp_path / "sh.nii.gz", coeffs.astype(np.float32), affine)
        return list(
            subject.run(
                "--step_size", 1.0, *options, inputs=[tmp_path / "sh.nii.gz", *others]
            )
        )

    assert share_identical(reference, from_nifti(subject.fodf), 0.01) == 1
    mrtrix = convert_sh_descoteaux_tournier(subject.fodf)
    lines = from_nifti(mrtrix, "--sh_basis", "tournier07")
    assert share_identical(reference, lines, 0.01) == 1
    # On an oblique grid the coefficients of MRtrix3 are along the scanner axes.
    oblique = spatial.check_affine(affine).copy()
    oblique[:3, :3] = OBLIQUE_ROTATION @ affine[:3, :3]
    for name, volume in (("fa", subject.mask), ("seeds", None)):
        if volume is None:
            volume = load_nifti(subject.seeding)[0]
        save_nifti(tmp_path / f"{name}_o.nii.gz", volume.astype(np.float32), oblique)
    others = [tmp_path / "fa_o.nii.gz", tmp_path / "seeds_o.nii.gz"]
    in_voxels = from_nifti(
        mrtrix, "--sh_basis", "tournier07", affine=oblique, others=others
    )
    axes = spatial.axes(oblique)
    rows = mrtrix.reshape(-1, mrtrix.shape[3])
    # Rotate to scanner axes: the rows of the frame are these in voxel axes.
    scanner = sampling.rotate(
        rows,
        np.broadcast_to(axes, (len(rows), 3, 3)),
        handedness=spatial.handedness(oblique),
    ).reshape(mrtrix.shape)
    in_scanner = from_nifti(
        scanner,
        "--sh_basis",
        "tournier07",
        "--sh_frame",
        "scanner",
        affine=oblique,
        others=others,
    )
    assert share_within(in_voxels, in_scanner, 0.1) == 1


def test_images_of_one_grid_may_have_affines_that_were_rounded_differently(subject):
    turn = np.eye(4)
    turn[:3, :3] = OBLIQUE_ROTATION
    exact = turn @ subject.phantom.affine
    exact[:3, 3] += [-90.0, 60.0, 30.0]
    volumes = [(path, load_nifti(path)[0]) for path in subject.inputs[1:]]

    def points_vox(*rounded):
        write_pam(subject.pam, subject.fodf, exact)
        for (path, volume), affine in zip(volumes, rounded):
            save_nifti(path, volume, affine)
        lines = subject.run("--step_size", 1.0)
        return [spatial.to_voxels(line, rounded[0]) for line in lines]

    moved = exact.copy()
    moved[0, 3] += 0.02  # less than 0.1 % of 90 mm
    lines = points_vox(exact, exact)
    others = points_vox(np.round(exact, 4), np.round(moved, 3))
    assert share_identical(lines, others, 0.01) == 1


def test_a_pam5_is_tracked_without_dipys_trackers(subject):
    reference = subject.run("--step_size", 1.0)
    code = f"{WITHOUT_DIPYS_TRACKERS}\nfrom dipy_rnn.workflows import cli; cli.track()"
    out = ("--out_dir", subject.folder, "--out_tractogram", "alone.trk")
    arguments = map(str, (*subject.inputs, *out, "--step_size", 1.0))
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    lines = load(subject.folder / "alone.trk", subject.stopping)
    assert share_identical(list(reference), list(lines), 0.0) == 1


def delete_matrix(path):
    """Delete the matrix B of a peaks and metrics file, which tells its basis."""
    with h5py.File(path, "r+") as file:
        del file["pam/B"]


def test_a_pam5_without_its_matrix_is_tracked_if_the_basis_is_given(subject):
    reference = list(subject.run("--step_size", 1.0))
    delete_matrix(subject.pam)
    lines = list(subject.run("--step_size", 1.0, "--sh_basis", "descoteaux07_legacy"))
    assert share_identical(reference, lines, 0.0) == 1


@pytest.mark.parametrize("order", [4, 6])
def test_lower_orders_are_tracked(subject, order):
    write_pam(subject.pam, subject.phantom.fodf(order), subject.phantom.affine)
    assert (lengths_mm(subject.run("--step_size", 1.0)) > 10).all()


def test_another_model_tracks_its_own_features(subject, tmp_path):
    model = save_stub(FieldFollower(), tmp_path / "follower.pt")
    field = np.broadcast_to([0.6, 0.8, 0.0], (*subject.mask.shape, 3))
    save_nifti(
        tmp_path / "field.nii.gz", field.astype(np.float32), subject.phantom.affine
    )
    lines = subject.run(
        "--step_size",
        1.0,
        "--model_file",
        model,
        inputs=[tmp_path / "field.nii.gz", subject.stopping, subject.seeding],
    )
    assert len(lines) > 0
    for line in lines:
        npt.assert_allclose(
            np.diff(line, axis=0), [[0.6, 0.8, 0]] * (len(line) - 1), atol=1e-3
        )


def test_each_subject_needs_its_own_output(subject, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("sub-1", "sub-2"):
        (tmp_path / name).mkdir()
        for path in subject.inputs:
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    inputs = [tmp_path / "sub-*" / path.name for path in subject.inputs]
    out = tmp_path / "all"
    line = refusal(*inputs, "--out_dir", out)
    assert "2 subjects would write" in line and "--mix_names" in line
    line = refusal(*inputs, "--out_dir", out, "--mix_names")
    assert "2 subjects would write" in line and "add --out_strat append" in line
    assert not list(out.glob("*"))
    command(*inputs, "--out_dir", "tracked", "--out_strat", "append", "--step_size", 1)
    for name in ("sub-1", "sub-2"):
        saved = tmp_path / name / "tracked" / "out_tractogram.trx"
        assert len(load(saved, subject.stopping)) == subject.n_seeds
    # The table of all subjects is in the working directory.
    assert (tmp_path / "track_rnn_summary.csv").exists()
    (tmp_path / "sub-2" / subject.seeding.name).unlink()
    line = refusal(*inputs, "--out_dir", out)
    assert (
        f"seeding_files: no file for {tmp_path / 'sub-2' / subject.pam.name} " in line
    )
    (tmp_path / "sub-3").mkdir()
    (tmp_path / "sub-3" / subject.pam.name).write_bytes(subject.pam.read_bytes())
    (tmp_path / "sub-1" / subject.pam.name).unlink()
    (tmp_path / "sub-3" / subject.seeding.name).touch()
    # Two files of each argument, but of one subject all three.
    line = refusal(*inputs, "--out_dir", out)
    for name, missing in (("pam", 1), ("stopping", 3), ("seeding", 2)):
        assert f"{name}_files: no file for {tmp_path / f'sub-{missing}'}" in line


def test_mix_names_gives_each_subject_its_own_output(subject, tmp_path):
    for i in (1, 2):
        for path in subject.inputs:
            (tmp_path / f"{i}_{path.name}").write_bytes(path.read_bytes())
    command(
        *(tmp_path / f"?_{path.name}" for path in subject.inputs),
        "--out_dir",
        tmp_path / "mixed",
        "--mix_names",
        "--step_size",
        1,
    )
    assert len(list((tmp_path / "mixed").glob("*.trx"))) == 2


def test_a_file_may_have_brackets_in_its_name(subject):
    reference = subject.run("--step_size", 1.0)
    inputs = [path.with_name(f"[1]{path.name}") for path in subject.inputs]
    for before, after in zip(subject.inputs, inputs):
        before.rename(after)
    lines = subject.run("--step_size", 1.0, inputs=inputs)
    assert share_identical(list(reference), list(lines)) == 1
    gm = subject.folder / "g[m].nii.gz"
    gm.write_text("grey matter")
    line = refusal(*inputs, "--act", "--gm_files", gm, "--csf_files", gm, "--force")
    assert "g[m].nii.gz is not compressed by gzip, as its suffix says" in line


def test_a_seeding_image_that_is_not_binary_is_a_warning(subject, messages):
    subject.run("--step_size", 1.0)
    assert "is not a binary mask" not in messages.text
    values = 0.25 * subject.mask.astype(np.float32)
    values[10, 10, 5] = 0.5
    save_nifti(subject.seeding, values, subject.phantom.affine)
    subject.run("--step_size", 1.0, "--seed_count", 5)
    assert "seeds.nii.gz is not a binary mask: its values are from 0 to 0.5. " in (
        messages.text
    )


def test_voxels_of_a_seeding_mask_that_are_nan_are_not_seeded(subject, messages):
    seeds = load_nifti(str(subject.seeding))[0].astype(np.float32)
    seeds[:3] = np.nan
    save_nifti(subject.seeding, seeds, subject.phantom.affine)
    assert len(subject.run("--step_size", 1.0, "--minlen", 0)) == subject.n_seeds
    assert "seeds.nii.gz holds NaN in 600 of 4000 voxels" in messages.text
    assert "not a binary mask" not in messages.text


def test_voxels_of_a_stopping_image_that_are_nan_are_counted(subject, messages):
    fa = subject.mask.astype(np.float32)
    fa[:5] = np.nan
    save_nifti(subject.stopping, fa, subject.phantom.affine)
    subject.run()
    assert "fa.nii.gz holds NaN in 1000 of 4000 voxels. Streamlines stop there." in (
        messages.text
    )


def test_voxels_that_are_nan_in_all_tissue_maps_have_no_tissue(subject, messages):
    wm = subject.mask.astype(np.float32)
    tissues = np.stack([0 * wm, 0.3 * wm, 0.7 * wm], axis=3)
    paths = [subject.folder / f"{name}.nii.gz" for name in ("csf", "gm", "wm")]
    lines = []
    for outside in (0.0, np.nan):
        tissues[wm == 0] = outside
        save_nifti(subject.stopping, tissues, subject.phantom.affine)
        for path, data in zip(paths, np.moveaxis(tissues, 3, 0)):
            save_nifti(path, data, subject.phantom.affine)
        options = ("--act", "--step_size", 1.0, "--keep_rejected", "--minlen", 0)
        lines.append(subject.run(*options))
        options += ("--gm_files", paths[1], "--csf_files", paths[0])
        inputs = [subject.pam, paths[2], subject.seeding]
        lines.append(subject.run(*options, inputs=inputs))
    n = np.count_nonzero(wm == 0)
    assert messages.text.count(f"holds NaN in {n} of 4000 voxels. They count") >= 2
    for others in lines[1:]:
        assert len(others) == subject.n_seeds
        assert share_identical(list(lines[0]), list(others)) == 1
    # A voxel in which only one map is NaN is an error.
    tissues[10, 10, 5, 1] = np.nan
    tissues[10, 10, 5, 2] = 0.5
    save_nifti(subject.stopping, tissues, subject.phantom.affine)
    assert "contains NaN" in refusal(*subject.inputs, *options[:1], "--force")


def test_fa_times_1000_with_a_threshold_for_fa_is_a_warning(subject, messages):
    fa = 800 * subject.mask.astype(np.int16)
    fa[5] //= 2
    save_nifti(subject.stopping, fa, subject.phantom.affine)
    subject.run("--step_size", 1.0)
    assert "stopping_thr must be, too: 200." in messages.text
    messages.clear()
    subject.run("--step_size", 1.0, "--stopping_thr", 200)
    assert "stopping_thr" not in messages.text


def test_an_output_that_is_a_link_stays_one(subject):
    out = subject.folder / "out"
    store = subject.folder / "store"
    store.mkdir()
    out.mkdir()
    (out / "out.trk").symlink_to(store / "lines.trk")
    assert len(subject.run("--step_size", 1.0)) == subject.n_seeds
    assert (out / "out.trk").is_symlink() and (store / "lines.trk").exists()


def test_no_selected_streamline_is_a_warning(subject, messages):
    assert len(subject.run("--minlen", 400)) == 0
    # A set, because the logger of DIPY 1.11 passes messages on to the root logger.
    (warning,) = {r.message for r in messages.records if r.levelno == logging.WARNING}
    assert warning.startswith("No streamline was selected; check")


def test_for_act_an_image_of_one_tissue_is_an_error_that_says_what_is_needed(subject):
    line = refusal(*subject.inputs, "--act", "--out_dir", subject.folder)
    assert "an image with 4 axes is needed: an image of tissues, either a 5TT" in line
    assert "gm_files and csf_files" in line


def test_a_folder_means_all_files_in_it(subject):
    folder = subject.folder / "masks"
    folder.mkdir()
    subject.seeding.rename(folder / "seeds.nii.gz")
    (folder / ".hidden").touch()
    inputs = [*subject.inputs[:2], folder]
    assert len(subject.run("--step_size", 1.0, inputs=inputs)) == subject.n_seeds
    assert "pam_files is , which matches no file" in refusal("", *inputs[1:])


def test_the_word_none_means_the_default(subject):
    reference = subject.run()
    words = [
        f"--{name}" for name in ("seed_count", "step_size", "max_angle", "gm_files")
    ]
    lines = subject.run(*(word for name in words for word in (name, "None")))
    assert share_identical(list(reference), list(lines)) == 1
    assert "pam_files is None" in refusal("None", *subject.inputs[1:])


def test_a_folder_with_the_name_of_a_model_is_ignored(subject, monkeypatch):
    pytest.importorskip("joblib")
    monkeypatch.chdir(subject.folder)
    (subject.folder / "default").mkdir()
    joblib = ("--engine", "joblib", "--num_processes", 2)
    assert len(subject.run("--step_size", 1.0, *joblib)) == subject.n_seeds


def test_an_existing_output_is_kept_without_force(subject):
    subject.run("--step_size", 1.0)
    out = subject.folder / "out" / "out.trk"
    out.write_bytes(b"precious")
    line = refusal(
        *subject.inputs, "--out_dir", out.parent, "--out_tractogram", out.name
    )
    assert str(out) in line and "--force" in line
    assert out.read_bytes() == b"precious"


def test_log_level_and_log_file_are_applied(subject, tmp_path, messages):
    logging.getLogger().handlers.clear()  # with pytest's handlers DIPY adds none
    subject.run("--step_size", 1.0, "--log_level", "ERROR")
    assert not messages.records
    logging.getLogger().handlers.clear()
    subject.run("--step_size", 1.0, "--log_level", "INFO", "--log_file", tmp_path / "l")
    assert "Saved" in (tmp_path / "l").read_text()


def test_a_diffusion_odf_is_tracked_with_a_warning(subject, messages):
    blunt = subject.fodf.copy()
    blunt[..., 1:] *= 0.2
    write_pam(subject.pam, blunt, subject.phantom.affine)
    subject.run("--step_size", 1.0)
    assert "does not look like a fibre ODF" in messages.text


def test_progress_is_a_bar_on_a_terminal_and_log_messages_elsewhere(
    subject, messages, capsys, monkeypatch
):
    subject.run("--step_size", 1.0)
    assert f"{subject.n_seeds} of {subject.n_seeds} seeds" in messages.text
    assert "100%" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    subject.run("--step_size", 1.0)
    assert "100%" in capsys.readouterr().err


# Mistakes: (change of the files, options, part of the error).
def nothing(subject):
    pass


def sh_of(change):
    def apply(subject):
        write_pam(subject.pam, change(subject.fodf), subject.phantom.affine)

    return apply


def put(name, make):
    def apply(subject):
        data, affine = make(subject)
        save_nifti(subject.folder / name, data.astype(np.float32), affine)

    return apply


def with_nan(fodf):
    fodf = fodf.copy()
    fodf[3, 3, 3, 3] = np.nan
    return fodf


MISTAKES = {
    "missing file": (lambda s: s.stopping.unlink(), (), "fa.nii.gz"),
    "three-dimensional SH": (
        lambda s: (
            s.pam.unlink(),
            save_nifti(s.pam.with_name("p.nii.gz"), s.fodf[..., 0], s.phantom.affine),
        ),
        (),
        "p.nii.gz",
    ),
    "NaN in SH": (sh_of(with_nan), (), "NaN"),
    "empty seed mask": (
        put("seeds.nii.gz", lambda s: (0 * s.mask, s.phantom.affine)),
        (),
        "empty seed mask",
    ),
    "a shear": (
        put("fa.nii.gz", lambda s: (s.mask, s.phantom.affine + np.eye(4, k=1))),
        (),
        "fa.nii.gz contains 26.57 degrees of shear",
    ),
    "four-dimensional mask": (
        put("seeds.nii.gz", lambda s: (np.stack([s.mask] * 2, 3), s.phantom.affine)),
        (),
        "seeds.nii.gz",
    ),
    "no NIfTI": (lambda s: s.stopping.write_text("FA"), (), "fa.nii.gz"),
    "an image of MRtrix3": (
        lambda s: s.pam.rename(s.folder / "p.mif"),
        (),
        "p.mif is an image of MRtrix3; convert it with mrconvert",
    ),
    "no PAM5": (lambda s: s.pam.write_text("peaks"), (), "peaks.pam5"),
    "no such model": (nothing, ("--model_file", "best"), "best"),
    "an invalid model file": (nothing, ("--model_file", "fa.nii.gz"), "fa.nii.gz"),
    "no such device": (nothing, ("--device", "cuda:7"), "cuda"),
    "a folder as output": (
        lambda s: (s.folder / "a.trk").mkdir(),
        ("--out_tractogram", "a.trk", "--force"),
        "a.trk is a folder; give another output",
    ),
    "a file as output folder": (
        nothing,
        ("--out_dir", "fa.nii.gz"),
        "lines.trk cannot be written: fa.nii.gz is a file, not a folder",
    ),
    "unknown suffix": (nothing, ("--out_tractogram", "lines.nii"), "lines.nii"),
    "unknown basis": (nothing, ("--sh_basis", "mrtrix"), "sh_basis"),
    "unknown axes": (nothing, ("--sh_frame", "world"), "sh_frame"),
    "seeds in a tck": (
        nothing,
        ("--out_tractogram", "lines.tck", "--save_seeds"),
        "cannot hold seeds",
    ),
    "a PAM5 of an unknown basis": (
        lambda s: delete_matrix(s.pam),
        (),
        "peaks.pam5 has no matrix B",
    ),
    "half precision in a dpy": (
        nothing,
        ("--out_tractogram", "lines.dpy", "--float16"),
        "only .trx files",
    ),
    "seeds in a dpy": (
        nothing,
        ("--out_tractogram", "lines.dpy", "--save_seeds"),
        "cannot hold seeds",
    ),
    "scanner axes of a PAM5": (nothing, ("--sh_frame", "scanner"), "peaks.pam5"),
    "no step": (nothing, ("--step_size", 0), "step_size is 0"),
    "infinite FA": (
        put("fa.nii.gz", lambda s: (np.where(s.mask, np.inf, 0), s.phantom.affine)),
        (),
        "fa.nii.gz holds infinity in 512",
    ),
    "FA below the threshold": (
        put("fa.nii.gz", lambda s: (0.1 * s.mask, s.phantom.affine)),
        (),
        "No voxel of the stopping image is above stopping_thr 0.2; its largest value",
    ),
    "infinite seeds": (
        put("seeds.nii.gz", lambda s: (np.where(s.mask, np.inf, 0), s.phantom.affine)),
        (),
        "seeds.nii.gz holds infinity in 512",
    ),
    "negative seeds": (
        put("seeds.nii.gz", lambda s: (-1.0 * s.mask, s.phantom.affine)),
        (),
        "empty seed mask",
    ),
    "threshold above 1": (nothing, ("--pmf_threshold", 2), "pmf_threshold is 2"),
    "step in voxels": (nothing, ("--step_vox", -1), "step_vox is -1"),
    "two steps": (
        nothing,
        ("--step_vox", 0.5, "--step_size", 1),
        "step_size is 1 and step_vox 0.5; both set the step",
    ),
    "number of peaks": (nothing, ("--max_cross", -3), "max_cross is -3"),
    "one end of act": (nothing, ("--act", "--unidirectional"), "unidirectional"),
    "lengths crossed": (nothing, ("--minlen", 20, "--maxlen", 10), "min_len"),
    "angle": (nothing, ("--max_angle", 270), "max_angle"),
    "density": (nothing, ("--seed_density", 0), "seed_density"),
    "count": (nothing, ("--seed_count", -3), "seed_count"),
    "seed": (nothing, ("--random_seed", -3), "random_seed"),
    "threads": (nothing, ("--nbr_threads", -3), "nbr_threads"),
    "batch": (nothing, ("--batch_size", -1), "batch_size"),
    "fraction": (nothing, ("--seed_buffer_fraction", 2), "seed_buffer_fraction"),
    "two numbers of seeds": (
        nothing,
        ("--seed_count", 3, "--seeds_per_voxel", 1),
        "seed_count and seeds_per_voxel are given",
    ),
    "stops in a tck": (
        nothing,
        ("--out_tractogram", "lines.tck", "--save_stops"),
        "cannot hold forward_stop",
    ),
    "half precision in a trk": (nothing, ("--float16",), "float16"),
    "every 0th point": (nothing, ("--downsample", 0), "downsample is 0"),
    "a negative tolerance": (nothing, ("--compress", -1), "compress is -1"),
    "no such engine": (nothing, ("--engine", "slurm"), "engine is slurm"),
    "no processes": (nothing, ("--num_processes", 0), "num_processes is 0"),
    "NaN": (nothing, ("--compress", "nan"), "compress is nan"),
    "no parts": (nothing, ("--nbr_parts", 0), "nbr_parts is 0"),
    "parts of a selection": (
        nothing,
        ("--nbr_parts", 2, "--select", 5),
        "select and nbr_parts are given",
    ),
    "act and cmc": (nothing, ("--act", "--cmc"), "act and cmc"),
    "act and a mask": (nothing, ("--act", "--use_binary_mask"), "use_binary_mask"),
    "grey matter alone": (
        nothing,
        ("--act", "--gm_files", "fa.nii.gz"),
        "gm_files and csf_files",
    ),
    "grey matter without act": (nothing, ("--gm_files", "fa.nii.gz"), "gm_files is"),
    "rejected without act": (nothing, ("--keep_rejected",), "keep_rejected is"),
    "an interface without act": (
        nothing,
        ("--seed_at_interface", "--seed_count", 3),
        "seed_at_interface is",
    ),
    "act with a 3D image": (nothing, ("--act",), "fa.nii.gz"),
    "missing tissue maps": (
        nothing,
        ("--act", "--gm_files", "g.nii", "--csf_files", "c.nii"),
        "gm_files is g.nii, which matches no file",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_an_error_of_one_line_and_leaves_no_file(
    subject, mistake, monkeypatch
):
    change, options, named = MISTAKES[mistake]
    change(subject)
    monkeypatch.chdir(subject.folder)
    first = next(p for p in subject.folder.iterdir() if p.name.startswith("p"))
    inputs = [first, "fa.nii.gz", "seeds.nii.gz"]
    before = sorted(p.name for p in subject.folder.rglob("*"))
    if "--out_tractogram" not in options:
        options = ("--out_tractogram", "lines.trk", *options)
    assert named in refusal(*inputs, *options)
    assert sorted(p.name for p in subject.folder.rglob("*")) == before


def test_a_number_of_coefficients_of_no_even_order_is_an_error(subject):
    save_nifti(
        subject.folder / "sh.nii.gz",
        subject.fodf[..., :20].astype(np.float32),
        subject.phantom.affine,
    )
    line = refusal(subject.folder / "sh.nii.gz", *subject.inputs[1:])
    assert "sh.nii.gz" in line and "20 coefficients" in line


def test_the_installed_command_prints_versions_and_has_an_exit_status(subject):
    program = Path(sys.executable).parent / "dipy_track_rnn"
    version = subprocess.run([program, "--version"], capture_output=True, text=True)
    assert version.returncode == 0
    for name in ("dipy_rnn", "DIPY", "torch"):
        assert name in version.stdout
    wrong = subprocess.run(
        [program, "no.pam5", *map(str, subject.inputs[1:])],
        capture_output=True,
        text=True,
        cwd=subject.folder,
    )
    assert wrong.returncode == 1
    assert wrong.stderr.strip().splitlines() == [
        "dipy_track_rnn: error: pam_files is no.pam5, which matches no file."
    ]
    done = subprocess.run(
        [program, *map(str, subject.inputs), "--step_size", "1"],
        capture_output=True,
        text=True,
        cwd=subject.folder,
    )
    assert done.returncode == 0, done.stderr
    assert (subject.folder / "out_tractogram.trx").exists()


def test_a_picture_is_saved_beside_the_tractogram(subject):
    picture = subject.folder / "out" / "out.png"
    picture.parent.mkdir()
    picture.write_text("old")
    subject.run("--save_picture")
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    # The seeds are in the bundle along x, which is drawn in red.
    red = (pixels[..., 0] > 150) & (pixels[..., 1:] < 100).all(axis=2)
    assert red.any()
    with pytest.raises(SystemExit, match=r"out\.png exists already; add --force"):
        (subject.folder / "out" / "out.trk").unlink()
        command(
            *subject.inputs,
            *("--out_dir", subject.folder / "out", "--out_tractogram", "out.trk"),
            "--save_picture",
        )
    assert not (subject.folder / "out" / "out.trk").exists()


def test_save_picture_without_matplotlib_is_an_error_at_once(subject, monkeypatch):
    monkeypatch.setattr("dipy_rnn._checks.find_spec", lambda name: None)
    line = refusal(*subject.inputs, "--out_dir", subject.folder, "--save_picture")
    assert (
        'save_picture needs matplotlib; install it with pip install "dipy_rnn[' in line
    )


def test_options_are_those_of_dipy_track_and_some_new_ones():
    from dipy.workflows.tracking import LocalFiberTrackingPAMFlow

    theirs = signature(LocalFiberTrackingPAMFlow.run).parameters
    ours = signature(track.RNNTrackingFlow.run).parameters
    assert theirs.keys() - ours.keys() == {"sphere_name"}
    assert ours.keys() - theirs.keys() == {
        "act",
        "cmc",
        "gm_files",
        "csf_files",
        "keep_rejected",
        "seed_count",
        "seeds_per_voxel",
        "seeds_per_mm3",
        "seed_at_interface",
        "select",
        "save_stops",
        "downsample",
        "compress",
        "float16",
        "engine",
        "num_processes",
        "scheduler",
        "nbr_parts",
        "skip_existing",
        "summary_file",
        "model_file",
        "sh_basis",
        "sh_frame",
        "device",
        "batch_size",
        "save_picture",
        "step_vox",
        "max_cross",
        "unidirectional",
        "temperature",
        "ended_thr",
        "lost_thr",
        "save_density",
        "save_metrics",
        "include",
        "exclude",
        "stop_at_include",
    }
    for name in theirs.keys() & ours.keys() - {"max_angle", "out_tractogram"}:
        assert theirs[name].default == ours[name].default, name
    # The default of DIPY 1.11 is another.
    assert ours["out_tractogram"].default == "out_tractogram.trx"
    # Since DIPY 1.12 the default is None, which means 30 degrees.
    assert theirs["max_angle"].default in (None, 30) and ours["max_angle"].default == 30


@pytest.mark.parametrize(
    "flow",
    [
        compare.RNNComparisonFlow,
        connectome.RNNConnectomeFlow,
        gradients.RNNGradientCheckFlow,
        track.RNNTrackingFlow,
        train.RNNTrainingFlow,
    ],
)
def test_arguments_are_described_in_their_order(flow):
    # DIPY gives each argument the help text and the type at the same position.
    _, *names = signature(flow.run).parameters
    described = [name for name, *_ in NumpyDocString(getdoc(flow.run))["Parameters"]]
    assert described == names


@pytest.mark.parametrize(
    ("flow", "different"),
    [
        (
            gradients.RNNGradientCheckFlow,
            {"seeding_files", "seed_count", "nbr_threads", "random_seed"},
        ),
        (
            compare.RNNComparisonFlow,
            {"stopping_files", "nbr_threads", "random_seed", "tracking_method"},
        ),
        (
            train.RNNTrainingFlow,
            {"stopping_files", "nbr_threads", "batch_size", "random_seed"},
        ),
    ],
)
def test_shared_options_have_the_help_text_of_dipy_track_rnn(flow, different):
    def texts(flow):
        parameters = NumpyDocString(getdoc(flow.run))["Parameters"]
        return {name: " ".join(lines) for name, _, lines in parameters}

    ours, theirs = texts(flow), texts(track.RNNTrackingFlow)
    shared = ours.keys() & theirs.keys()
    assert {name for name in shared if ours[name] != theirs[name]} == different
    # Of these, one differs only in what follows the first statement.
    for text in (ours["nbr_threads"], theirs["nbr_threads"]):
        assert text.startswith(
            "Number of threads to use for the processing. By default, all available "
            "threads will be used"
        )
