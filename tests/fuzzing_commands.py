"""Random inputs of commands: many subjects, a head stored otherwise, tractograms.

`COMMANDS` lists functions, one for each kind of input, as `FILES` in ``fuzzing``. They
check more than that points are inside the image: files of different subjects are never
mixed, a head that is stored in another way has the same streamlines, and a tractogram
that is not of the image is refused.
"""

import csv
import gzip
import json
import re
import shutil
from zipfile import ZipFile

from dipy.io.stateful_tractogram import Space, StatefulTractogram
from dipy.io.streamline import load_tractogram, save_tractogram
from fuzzing import (
    ACCEPTED,
    REFUSED,
    TRACTOGRAMS,
    Subject,
    damaged,
    nifti,
    run_command,
    turn,
    world,
)
import nibabel as nib
import numpy as np
from worlds import hausdorff, index_map, reorient, reorient_sh, signed_permutations

from dipy_rnn import fodf_features, report, sampling, spatial
from dipy_rnn.io import write_tractogram

STEP = ("--step_size", "1", "--minlen", "0", "--nbr_threads", "1")


def refused(status, text, command):
    """Check that a command ended with one line, and return `REFUSED`."""
    assert "Traceback" not in text, "a traceback"
    assert isinstance(status, str) and status.startswith(f"{command}: error: "), status
    assert "\n" not in status and "please report" not in status, status
    return REFUSED


# Many subjects

LAYOUTS = (
    "{sub}/{role}",
    "{sub}/{ses}/{role}",
    "{sub}/{ses}/{sub}_{ses}_{role}",
    "{sub}_{role}",
    "{role_folder}/{sub}_{role}",
)
NAMES = {"pam": "csd.nii", "stopping": "fa.nii", "seeding": "seeds.nii"}


def fuzz_subjects(r, folder):
    """Files of several subjects, some missing, renamed, repeated or damaged.

    All subjects have the same fODF. Each one has one seed at a place of its own.
    """
    layout, n = r.choice(LAYOUTS), r.randint(2, 3)
    places = r.sample([tuple(p) for p in np.argwhere(world().mask).tolist()], n)
    seeds_of, paths = {}, {}

    def path_of(sub, role, name):
        return folder / layout.format(
            sub=sub, ses="ses-1", role=name, role_folder=f"all_{role}"
        )

    for i, place in enumerate(places):
        sub = f"sub-{i + 1}"
        mask = np.zeros(world().mask.shape, np.uint8)
        mask[place] = 1
        seeds_of[sub] = spatial.to_mm(np.array([place], float), world().affine)[0]
        for role, name in NAMES.items():
            path = paths[sub, role] = path_of(sub, role, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            content = {
                "pam": lambda: Subject.content("fodf"),
                "stopping": lambda: Subject.content("stopping"),
                "seeding": lambda mask=mask: nifti(mask, world().affine),
            }[role]()
            path.write_bytes(content)
    is_clean, changed = True, set()
    for _ in range(r.randint(0, 2)):
        sub, role = r.choice(sorted(paths))
        path = paths[sub, role]
        how = r.randrange(6)
        if not path.exists():
            continue
        is_clean = False
        if how == 0:
            path.unlink()
        elif how == 1:
            path.write_bytes(damaged(r, path.read_bytes()))
            changed.add(sub)
        elif how == 2:
            shutil.copy(path, path.with_name(path.stem + "_run-2" + path.suffix))
        elif how == 3:
            other = path_of("sub-9", role, NAMES[role])
            other.parent.mkdir(parents=True, exist_ok=True)
            path.rename(other)
        elif how == 4:
            path.rename(path.with_name(path.name.upper()))
        else:
            path.unlink()
            path.symlink_to("nowhere")
    star = {"sub": "sub-*", "ses": r.choice(("ses-1", "ses-*", "*"))}
    wide = r.choice((None, *NAMES))  # one argument has a wildcard in its own name
    patterns = [
        str(
            folder
            / layout.format(
                **star,
                role=name.replace(".", "*.") if role == wide else name,
                role_folder=f"all_{role}",
            )
        )
        for role, name in NAMES.items()
    ]
    if r.random() < 0.2:
        is_clean = False
        i = r.randrange(3)
        role = list(NAMES)[i]
        patterns[i] = str(
            r.choice(sorted(p for (_, of), p in paths.items() if of == role))
        )
    summary = folder / "track_rnn_summary.csv"
    if "{sub}/" in layout:  # each subject has a folder
        out = ["--out_strat", "append", "--out_dir", "out"]
    else:
        out = ["--mix_names", "--out_dir", str(folder / "out")]
        summary = folder / "out" / summary.name
    status, text = run_command(
        [*patterns, *out, *STEP, "--save_seeds", "--out_tractogram", "a.trk"]
    )
    rows = []
    if summary.exists():
        with summary.open() as file:
            rows = list(csv.DictReader(file))
    for row in rows:
        _check_subject(row, patterns, seeds_of, changed)
    if status:
        assert not is_clean, f"refused right files: {status}"
        return refused(status, text, "dipy_track_rnn")
    n_files = len(list(folder.rglob("*.trk")))
    assert n_files == max(len(rows), 1), f"{n_files} files, {len(rows)} rows"
    return ACCEPTED


def _check_subject(row, patterns, seeds_of, changed):
    """Check that the files of a row are of one subject, and its seed is its own."""
    words = [
        set(re.findall(r"sub-\d", row[name]))
        for name, pattern in zip(("fodf", "stopping", "seeding"), patterns)
        if "*" in pattern
    ]
    assert len({frozenset(each) for each in words}) == 1, f"mixed: {row}"
    if row["status"] != "tracked":
        assert row["error"] and "\n" not in row["error"], row
        return
    (sub,) = set(re.findall(r"sub-\d", row["seeding"]))
    if sub in changed or (sub == "sub-9" and changed):
        return  # the damaged bytes may be those of the seeds or the affine
    saved = load_tractogram(row["tractogram"], row["stopping"]).data_per_streamline
    # The file of sub-9 is that of another subject, under a new name.
    expected = seeds_of.get(sub)
    for seed in saved["seeds"] if "seeds" in saved else []:
        near = [np.allclose(seed, each, atol=1e-4) for each in seeds_of.values()]
        assert any(near), "a seed of no subject"
        assert expected is None or np.allclose(seed, expected, atol=1e-4), "mixed seeds"


# Other ways to store a head


def _expected():
    """Return the streamlines of the world, by its seeds."""
    from dipy_rnn import rnn_tracking, stopping

    if not hasattr(_expected, "lines"):
        criterion = stopping.ThresholdStoppingCriterion(world().mask * 1.0, 0.2)
        _expected.lines = list(
            rnn_tracking(
                world().seeds,
                criterion,
                world().affine,
                sh=world().fodf,
                step_size=1.0,
            )
        )
    return _expected.lines


def fuzz_storage(r, folder):
    """The same head with other axes, bases, types and files: the same streamlines."""
    axes = r.choice(signed_permutations())
    shape = world().mask.shape
    rotation = turn() if r.random() < 0.3 else np.eye(4)
    affine = rotation @ world().affine @ np.linalg.inv(index_map(shape, axes))
    coeffs = reorient_sh(fodf_features(world().fodf).data, axes)
    basis = r.choice(sampling.SH_BASES)
    frame = r.choice(sampling.SH_FRAMES)
    options = ["--sh_basis", basis, "--sh_frame", frame]
    stored = coeffs
    if frame == "scanner":
        # Rotate from the voxel axes to RAS+.
        stored = sampling.rotate_all(coeffs.copy(), spatial.axes(affine))
    order, factors = sampling.to_package_basis(8, basis)
    there = np.empty_like(stored)
    there[..., order] = stored / factors
    image = reorient(world().mask, axes)
    there *= r.choice((1.0, 1.0, 1e-3, 500.0))
    if r.random() < 0.3:
        from scipy.ndimage import binary_dilation

        there[~binary_dilation(image, iterations=2)] = np.nan
    if r.random() < 0.2:
        there = there[:, :, :, None]
    thr = 0.2
    fa = image * r.choice((1.0, 0.7))
    if r.random() < 0.3:
        fa, thr = np.round(fa * 1000).astype(np.int16), 200
        if r.random() < 0.5:
            fa = fa[..., None]
    subject = Subject(folder)
    kind = np.dtype(r.choice(("f4", "f8", ">f4")))
    gz = r.choice(("", ".gz"))
    subject.write("pam", nifti(there.astype(kind), affine), f"fodf.nii{gz}")
    fa_type = fa.dtype if fa.dtype.kind == "i" else np.dtype(r.choice(("f4", "f8")))
    subject.write("stopping", nifti(fa.astype(fa_type), affine), f"fa.nii{gz}")
    seeds = world().seeds @ rotation[:3, :3].T
    suffix = r.choice((".txt", ".csv", ".tsv", ".npy"))
    path = folder / f"seeds{suffix}"
    if suffix == ".npy":
        np.save(path, seeds.astype(r.choice((np.float32, np.float64))))
    else:
        delimiter = {".csv": ",", ".tsv": "\t"}.get(suffix, " ")
        np.savetxt(path, seeds, delimiter=delimiter)
    subject.names["seeding"] = path.name
    subject.out_name = f"lines{r.choice(('.trk', '.trx', '.tck'))}"
    subject.options += [*options, "--stopping_thr", str(thr)]
    assert subject.judge() == ACCEPTED, "refused a right input"
    reference = str(subject.path("stopping"))
    if fa.ndim == 4:  # DIPY takes a reference of three axes
        reference = nib.Nifti1Image(fa[..., 0], affine)
    out = load_tractogram(str(subject.out / subject.out_name), reference)  # and checks
    lines = [line @ rotation[:3, :3] for line in out.streamlines]
    assert len(lines) == len(_expected()), f"{len(lines)} streamlines"
    far = [hausdorff(*pair) for pair in zip(lines, _expected())]
    assert np.median(far) < 0.3, f"other streamlines: {np.round(far, 2)}"
    return ACCEPTED


# Tractograms


class OddTractogram:
    """A tractogram file with a random change.

    Parameters
    ----------
    r : random.Random
    folder : Path
    name : str
        Name of the file without suffix.

    Attributes
    ----------
    path : Path
    must_be_refused : bool
        Whether most of its points lie outside the image, or it has no streamline.
    is_clean : bool
        Whether it holds all streamlines of the world.
    """

    def __init__(self, r, folder, name, change=None):
        lines = [line.astype(np.float32) for line in world().lines]
        how = r.choice(CHANGES) if change is None else change
        suffix = r.choice(TRACTOGRAMS)
        self.how, self.must_be_refused, self.is_clean = how, False, how == "nothing"
        shift_mm = 0.0
        if how == "shifted":
            shift_mm = r.choice((0.4, 3.0, 30.0, 500.0))
            lines = [line + np.float32(shift_mm) for line in lines]
        elif how == "empty":
            lines = []
        elif how == "points":
            lines = [line[:1] for line in lines]
        elif how == "voxels":
            lines = [
                spatial.to_voxels(line, world().affine).astype(np.float32) + 20
                for line in lines
            ]
        elif how == "not finite":
            lines[0][1] = r.choice((np.nan, np.inf))
        elif how == "repeated points":
            lines = [np.repeat(line, 3, axis=0) for line in lines]
        self.must_be_refused = how in ("empty", "points", "voxels") or shift_mm > 20
        self.path = folder / f"{name}{suffix}"
        self._save(self.path, lines)
        if how == "bytes":
            self.path.write_bytes(damaged(r, self.path.read_bytes(), 1000))
        elif how == "another suffix":
            other = r.choice((*TRACTOGRAMS, ".nii.gz", ".vtk", ""))
            self.is_clean = other == suffix
            self.path = self.path.rename(self.path.with_suffix(other))
        elif how == "compressed":
            path = self.path.with_name(self.path.name + ".gz")
            path.write_bytes(gzip.compress(self.path.read_bytes()))
            self.path, self.must_be_refused = path, True
        elif how == "folder":
            self._become_folder(r, folder / f"{name}.folder", lines)

    @staticmethod
    def _save(path, lines):
        """Save streamlines with DIPY, except for what DIPY cannot save."""
        if not lines:
            write_tractogram(path, [], world().affine, world().mask.shape)
            return
        image = nib.Nifti1Image(world().mask.astype(np.uint8), world().affine)
        tractogram = StatefulTractogram(lines, image, Space.RASMM)
        with np.errstate(all="ignore"):  # for points that are not finite
            save_tractogram(tractogram, str(path), bbox_valid_check=False)

    def _become_folder(self, r, folder, lines):
        """Replace the file by a TRX folder, of which a file may be damaged."""
        path = folder.with_suffix(".trx")
        self._save(path, lines)
        with ZipFile(path) as archive:
            archive.extractall(folder)
        self.path, self.is_clean = folder, True
        if r.random() < 0.6:
            self.is_clean = False
            some = r.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
            if r.random() < 0.2:
                some.unlink()
            elif some.stat().st_size:
                some.write_bytes(damaged(r, some.read_bytes()))


CHANGES = (
    *("nothing", "shifted", "empty", "points", "voxels", "not finite", "bytes"),
    *("repeated points", "another suffix", "compressed", "folder", "folder", "bytes"),
)


def fuzz_comparison(r, folder):
    """Existing tractograms for dipy_compare_rnn: damaged, empty, of another space."""
    one, two = OddTractogram(r, folder, "a"), OddTractogram(r, folder, "b", "nothing")
    if r.random() < 0.5:
        one, two = two, one
    image = folder / "fa.nii"
    image.write_bytes(Subject.content("stopping"))
    arguments = [str(one.path), str(two.path), str(image)]
    out = ["--out_dir", str(folder / "out"), "--nbr_threads", "1"]
    before, report.write_report = report.write_report, _write_no_page
    try:
        status, text = run_command([*arguments, *out], "dipy_compare_rnn")
    finally:
        report.write_report = before
    must = one.must_be_refused or two.must_be_refused
    is_clean = one.is_clean and two.is_clean
    if status:
        assert not is_clean, f"refused right files: {status}"
        assert not list((folder / "out").glob("*")), "left behind"
        return refused(status, text, "dipy_compare_rnn")
    assert not must, f"accepted {one.how} and {two.how}"
    metrics = json.loads(
        (folder / "out" / "metrics.json").read_text(), parse_constant=_no
    )
    if is_clean:
        (alike,) = (m for m in metrics["between"] if m["name"] == "alike")
        assert alike["candidate"]["value"] == 1, "other streamlines"
    return ACCEPTED


def _write_no_page(path, *_, **__):
    path.write_text("no page")


def _no(constant):
    raise AssertionError(f"{constant} is not JSON")


def fuzz_training(r, folder):
    """Tractograms for dipy_train_rnn: damaged, empty, of another space."""
    from dipy_rnn.model import load_model

    odd = OddTractogram(r, folder, "lines")
    fodf = folder / "fodf.nii"
    fodf.write_bytes(Subject.content("fodf"))
    small = "--n_updates 1 --hidden 4 --batch_size 8 --max_points 6 --nbr_threads 1"
    small += " --validation_fraction 0"
    arguments = [str(fodf), str(odd.path), *small.split()]
    out = ["--out_dir", str(folder / "out")]
    status, text = run_command([*arguments, *out], "dipy_train_rnn")
    if status:
        assert not odd.is_clean, f"refused right files: {status}"
        assert not list((folder / "out").glob("*.pt")), "left behind"
        return refused(status, text, "dipy_train_rnn")
    assert not odd.must_be_refused, f"accepted {odd.how}"
    load_model(folder / "out" / "model.pt")
    return ACCEPTED


COMMANDS = {
    "subjects": fuzz_subjects,
    "other storage": fuzz_storage,
    "comparisons": fuzz_comparison,
    "trainings": fuzz_training,
}
