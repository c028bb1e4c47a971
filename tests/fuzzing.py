"""Random invalid inputs, and checks of how the package handles them.

Inputs are drawn from a :class:`random.Random`, which comes from hypothesis in the
tests, and from one seed per input in ``benchmarks/fuzz.py``. `LIBRARY` and `FILES` list
functions, one for each kind of input. Each takes the generator (and a folder), and
returns `ACCEPTED` or `REFUSED`, or raises AssertionError if the package neither accepts
nor refuses the input correctly.
"""

from collections import namedtuple
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
import gzip
import io
import os
from pathlib import Path
import re
import sys
import warnings

from dipy.data import default_sphere
from dipy.direction.peaks import PeaksAndMetrics
from dipy.io.peaks import save_pam
from dipy.io.streamline import load_tractogram
from dipy.reconst.shm import sh_to_sf_matrix
from dipy.tracking.local_tracking import LocalTracking
import h5py
import nibabel as nib
import numpy as np

from dipy_rnn import (
    RNNDirectionGetter,
    _checks,
    evaluation,
    fodf_features,
    load_model,
    pam_features,
    raw_features,
    rnn_tracking,
    sampling,
    spatial,
    stopping,
)
from dipy_rnn.draws import seed_keys
from dipy_rnn.io import load_features, load_volume, read_tractogram
from dipy_rnn.phantom import crossing_phantom
from dipy_rnn.spatial import frames
from dipy_rnn.tracking import length_limits, track

ACCEPTED, REFUSED = "accepted", "refused"


@cache
def world():
    """Return a small world: two bundles that cross in 8 x 8 x 6 voxels of 2 mm."""
    World = namedtuple("World", "fodf affine mask seeds lines")
    phantom = crossing_phantom(90.0, shape=(8, 8, 6))
    mask = phantom.mask()
    places = np.argwhere(mask)[::12].astype(float)
    lines = [line[::8] for line in phantom.streamlines(3)[0]]
    return World(
        phantom.fodf(noise=0.05),
        phantom.affine,
        mask,
        spatial.to_mm(places, phantom.affine),
        lines,
    )


@cache
def pam():
    """Return the peaks and metrics of the world, as dipy_fit_csd makes them."""
    made, shape = PeaksAndMetrics(), world().fodf.shape[:3]
    made.affine, made.sphere = world().affine, default_sphere
    made.shm_coeff = world().fodf
    with warnings.catch_warnings():  # DIPY warns of legacy bases
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        made.B = sh_to_sf_matrix(
            default_sphere, sh_order_max=8, legacy=True, return_inv=False
        )
    made.peak_dirs = np.zeros((*shape, 5, 3))
    made.peak_values = np.zeros((*shape, 5))
    made.peak_indices = np.zeros((*shape, 5), dtype=np.int32)
    made.total_weight, made.ang_thr, made.odf = 0.5, 60, None
    made.gfa, made.qa = np.zeros(shape), np.zeros((*shape, 5))
    return made


# Arguments

SPECIAL = (np.nan, np.inf, -np.inf, 1e300, -1e300, 1e38, 1e-300, 1e-40, -0.0, -1, 1e12)
NUMBERS = (
    *SPECIAL,
    *(0, 1, 2, 90, 1e-12, 2**31, 2**63, 2**70, True, None, "0.5", "", b"1", 1j, [1.0]),
    *([], {}, np.float16(0.5), np.array(0.5), np.array([0.5]), np.int8(1), object()),
)
AFFINES = {
    "singular": lambda a: a * [1, 1, 0, 1],
    "rounded": lambda a: np.round(turn() @ a, 4),
    "sheared": lambda a: a + np.eye(4, k=1) * 0.5,
    "tiny": lambda a: a * [1e-12, 1e-12, 1e-12, 1],
    "small": lambda a: a * [1e-4, 1e-4, 1e-4, 1],
    "huge": lambda a: a * [1e12, 1e12, 1e12, 1],
    "far": lambda a: a + np.outer([1e12, 0, 0, 0], [0, 0, 0, 1]),
    "farthest": lambda a: a + np.outer([1e300, 0, 0, 0], [0, 0, 0, 1]),
    "beyond": lambda a: a * 1e200,
    "flipped": lambda a: a * [-1, 1, 1, 1],
    "oblique": lambda a: turn() @ a,
    "permuted": lambda a: a[:, [1, 2, 0, 3]],
    "anisotropic": lambda a: a * [1, 1, 4, 1],
    "NaN": lambda a: a * [1, np.nan, 1, 1],
    "no last row": lambda a: a[:3],
    "another last row": lambda a: a + np.outer([0, 0, 0, 1], [1, 0, 0, 0]),
    "zero": lambda a: 0 * a,
}


def turn():
    """Return a rotation as an affine."""
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    return affine


def some_number(r, number):
    """Return another number, or an object that is not a number."""
    return r.choice((number, number * 2, number / 2, *NUMBERS))


def some_affine(r, affine):
    """Return another affine, valid or invalid."""
    return some_array(r, AFFINES[r.choice(sorted(AFFINES))](np.array(affine)))


def some_array(r, array):
    """Return an array with one or two random changes."""
    array = np.array(array)
    for _ in range(r.randint(1, 2)):
        change = r.choice(ARRAY_CHANGES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                array = change(r, array)
            except (TypeError, ValueError, OverflowError, IndexError):
                continue
        if not isinstance(array, np.ndarray):
            break
    return array


def _special(r, array):
    array = array.astype(r.choice((np.float32, np.float64)))
    for _ in range(r.randint(1, 3)):
        array.flat[r.randrange(array.size)] = r.choice(SPECIAL)
    return array


def _scaled(r, array):
    return array * r.choice((0, -1, 1e-300, 1e-40, 1e-12, 1e12, 1e35, 1e300, np.nan))


def _typed(r, array):
    kinds = "?bBhHiIqQefdgFDOUSM"
    return array.astype(np.dtype(r.choice(kinds).replace("M", "M8[s]")))


def _stored(r, array):
    """Return the same numbers with another memory layout, or read-only."""
    how = r.randrange(6)
    if how == 0:
        return np.asfortranarray(array)
    if how == 1:
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if how == 2:
        return array.astype(array.dtype.newbyteorder())
    if how == 3:
        return np.flip(np.flip(array, 0).copy(), 0)
    if how == 4:
        return np.ma.masked_array(array)
    array = array.copy()
    array.flags.writeable = False
    return array


def _shaped(r, array):
    axis = r.randrange(max(array.ndim, 1))
    how = r.randrange(8)
    if how == 0:
        return array[..., None]
    if how == 1:
        return array[None]
    if how == 2:
        return array.take([], axis=axis)
    if how == 3:
        return array.take([0], axis=axis)
    if how == 4:
        return array.take(0, axis=axis)
    if how == 5:
        return array.T
    if how == 6:
        return array.take(range(array.shape[axis] - 1), axis=axis)
    return np.repeat(array, 2, axis=axis)


def _not_an_array(r, array):
    ragged = [[0.0, 1.0, 2.0], [3.0]]
    return r.choice(
        (array.tolist(), ragged, None, "no array", 7, [], {}, object(), [None], [[]])
    )


ARRAY_CHANGES = (_special, _scaled, _typed, _stored, _shaped, _not_an_array)


class Drawn:
    """Arguments of a call, of which one or two are changed at random."""

    def __init__(self, r, **arguments):
        self.changed = set(r.sample(sorted(arguments), r.choice((1, 1, 1, 2))))
        self.given = {}
        for name, (value, another) in arguments.items():
            self.given[name] = another(r, value) if name in self.changed else value

    def __getitem__(self, name):
        return self.given[name]

    def judge(self, call, *names):
        """Check that a function returns, or raises one line that names an argument."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for said in (
                "does not look like",
                "holds NaN in",
                "seems to be in the",
                "has hardly any negative value",
            ):
                warnings.filterwarnings("ignore", message=f".* {said}")
            warnings.filterwarnings("ignore", message=".* outside the image")
            warnings.filterwarnings("ignore", message="step_size is .* was trained for")
            warnings.filterwarnings("ignore", message=".*torch.jit", append=False)
            try:
                call()
            except (ValueError, TypeError) as error:
                message = str(error)
                named = any(
                    re.search(rf"(?<!\w){re.escape(name)}(?!\w)", message)
                    for name in (*self.given, *names)
                )
                assert "\n" not in message, f"more than a line: {message}"
                assert named, f"names no argument of {self.changed}: {message}"
                return REFUSED
        return ACCEPTED


def check_streamlines(streamlines, affine, shape):
    """Assert that every point is finite and inside the image."""
    for line in streamlines:
        assert line.ndim == 2 and line.shape[1] == 3 and len(line), line.shape
        assert np.isfinite(line).all(), "a point is not finite"
        voxels = spatial.to_voxels(line, affine)
        largest = np.abs(np.asarray(affine)).max()
        slack = 1e-6 + 1e-12 * largest / spatial.voxel_sizes(affine).min()
        assert (voxels >= -0.5 - slack).all(), "a point lies outside the image"
        assert (voxels <= np.array(shape) - 0.5 + slack).all(), "a point lies outside"


@cache
def model():
    """Return the default model."""
    return load_model()


def _tracking_arguments(r):
    return Drawn(
        r,
        seeds=(world().seeds, some_array),
        affine=(world().affine, some_affine),
        sh=(world().fodf, some_array),
        seed_directions=(np.tile([0.0, 0.0, 1.0], (len(world().seeds), 1)), some_array),
        min_len=(0, some_number),
        max_len=(100, some_number),
        step_size=(1.0, some_number),
        max_angle=(60.0, some_number),
        nbr_threads=(1, some_number),
        random_seed=(1, some_number),
        seed_buffer_fraction=(1.0, some_number),
        batch_size=(0, some_number),
    )


def fuzz_rnn_tracking(r):
    """Random arguments of :func:`dipy_rnn.rnn_tracking`."""
    drawn = _tracking_arguments(r)
    criterion = stopping.BinaryStoppingCriterion(np.ones(world().mask.shape))
    given = dict(drawn.given)
    if "seed_directions" not in drawn.changed or r.random() < 0.2:
        del given["seed_directions"]

    def call():
        lines = rnn_tracking(
            given.pop("seeds"),
            criterion,
            given.pop("affine"),
            model=model(),
            save_seeds=True,
            **given,
        )
        done.append(True)
        lines = [line for line, _ in lines]
        shape = np.shape(given["sh"])[:3]
        check_streamlines(lines, np.asarray(drawn["affine"], float), shape)

    done = []
    outcome = drawn.judge(call, "stopping_criterion")
    assert outcome == ACCEPTED or not done, "refused after the first step"
    return outcome


def fuzz_track(r):
    """Random arguments of :func:`dipy_rnn.tracking.track` and stopping criteria."""
    drawn = _tracking_arguments(r)
    maps = Drawn(
        r,
        metric_map=(world().mask * 1.0, some_array),
        mask=(world().mask, some_array),
        include_map=(world().mask * 0.0, some_array),
        exclude_map=(world().mask * 0.0, some_array),
        threshold=(0.2, some_number),
        step_size=(1.0, some_number),
        average_voxel_size=(2.0, some_number),
    )
    kind = r.randrange(4)

    def make():
        if kind == 0:
            return stopping.ThresholdStoppingCriterion(
                maps["metric_map"], maps["threshold"]
            )
        if kind == 1:
            return stopping.BinaryStoppingCriterion(maps["mask"])
        if kind == 2:
            return stopping.ActStoppingCriterion(
                maps["include_map"], maps["exclude_map"]
            )
        return stopping.CmcStoppingCriterion(
            *(maps[name] for name in list(maps.given)[2:4]),
            *(maps[name] for name in list(maps.given)[5:7]),
        )

    made = []
    if maps.judge(lambda: made.append(make())) == REFUSED:
        return REFUSED
    given = dict(drawn.given)
    del given["min_len"], given["seed_directions"]
    drawn.changed -= {"min_len", "seed_directions"}
    shcoeff = given.pop("sh")
    seeds, affine = given.pop("seeds"), given.pop("affine")

    def call():
        features = fodf_features(shcoeff, name="sh")
        records = track(
            seeds, made[0], affine, features=features, model=model(), **given
        )
        lines = [record.points_mm for record in records]
        check_streamlines(lines, np.asarray(affine, float), features.data.shape[:3])

    return drawn.judge(call, "stopping_criterion")


def fuzz_direction_getter(r):
    """Random arguments of :class:`dipy_rnn.RNNDirectionGetter` in LocalTracking."""
    drawn = Drawn(
        r,
        shcoeff=(world().fodf, some_array),
        affine=(world().affine, some_affine),
        max_angle=(60.0, some_number),
        seeds=(world().seeds, some_array),
        nbr_threads=(1, some_number),
        basis_type=("descoteaux07", some_name),
        sh_frame=("voxel", some_name),
    )
    given = dict(drawn.given)
    if "seeds" not in drawn.changed and r.random() < 0.5:
        del given["seeds"]

    def call():
        getter = RNNDirectionGetter.from_shcoeff(
            given.pop("shcoeff"), model=model(), **given
        )
        affine = given["affine"]
        affine = np.eye(4) if affine is None else spatial.without_shear(affine)
        lines = LocalTracking(
            getter,
            stopping.BinaryStoppingCriterion(np.ones(np.shape(drawn["shcoeff"])[:3])),
            world().seeds,
            affine,
            step_size=1.0,
            maxlen=50,
        )
        for line in lines:
            assert np.isfinite(line).all()

    return drawn.judge(call)


def some_name(r, name):
    """Return another name, or an object that is not a name."""
    return r.choice((name, "", "scanner", "tournier07", "other", 7, None, [name]))


def fuzz_features(r):
    """Random arguments of the functions that make feature volumes."""
    drawn = Drawn(
        r,
        sh=(world().fodf, some_array),
        affine=(world().affine, some_affine),
        basis_type=("descoteaux07", some_name),
        sh_frame=(r.choice(("voxel", "scanner")), some_name),
        legacy=(True, lambda r, _: r.choice((False, None, "no", 7))),
    )
    kind = r.randrange(3)

    def call():
        if kind == 0:
            given = dict(drawn.given)
            features = fodf_features(given.pop("sh"), **given)
        elif kind == 1:
            features = raw_features(drawn["sh"], name="sh")
        else:
            mine = PeaksAndMetrics()
            mine.B, mine.sphere = pam().B, pam().sphere
            mine.shm_coeff = drawn["sh"]
            if r.random() < 0.3:
                mine.B = some_array(r, mine.B)
            features = pam_features(mine)
        assert features.data.dtype == np.float32 and features.data.ndim == 4
        assert np.isfinite(features.data).all() and features.data.flags.c_contiguous

    return drawn.judge(call, "pam")


def fuzz_interpolate(r):
    """Random arguments of sampling and rotation."""
    n = len(world().seeds)
    drawn = Drawn(
        r,
        volume=(world().fodf.astype(np.float32), some_array),
        points_vox=(spatial.to_voxels(world().seeds, world().affine), some_array),
        frames=(np.tile(np.eye(3), (n, 1, 1)), some_array),
        coeffs=(world().fodf.reshape(-1, 45)[:n], some_array),
        nbr_threads=(1, some_number),
        handedness=(1.0, some_number),
    )
    local = r.random() < 0.5
    rotates = r.random() < 0.3
    options = {name: drawn[name] for name in ("nbr_threads", "handedness")}

    def call():
        if rotates:
            sampling.rotate(drawn["coeffs"], drawn["frames"], **options)
            return
        values, inside = sampling.sample(
            drawn["volume"],
            drawn["points_vox"],
            drawn["frames"] if local else None,
            normalise=r.random() < 0.5,
            **options,
        )
        assert values.dtype == np.float32 and inside.dtype == bool
        assert not values[~inside].any()

    return drawn.judge(call)


def fuzz_stopping(r):
    """Random arguments of the evaluation of stopping criteria."""
    points = spatial.to_voxels(world().seeds, world().affine)
    drawn = Drawn(
        r,
        points_vox=(points, some_array),
        reasons=(np.zeros(len(points), dtype=np.int64), some_array),
        seed_keys=(np.arange(len(points), dtype=np.uint64), some_array),
        point_numbers=(np.ones(len(points), dtype=np.int64), some_array),
        seeds_vox=(points, some_array),
        random_seed=(1, some_number),
    )
    ones = np.ones(world().mask.shape)
    criterion = r.choice(
        (
            stopping.BinaryStoppingCriterion(ones),
            stopping.ThresholdStoppingCriterion(ones, 0.2),
            stopping.CmcStoppingCriterion(0.5 * ones, 0 * ones, 1.0, 2.0),
        )
    )
    hashes = r.random() < 0.3
    names = ("points_vox", "reasons", "seed_keys", "point_numbers")

    def call():
        if hashes:
            seed_keys(drawn["random_seed"], drawn["seeds_vox"])
        else:
            stopping.evaluate_criterion(criterion, *(drawn[name] for name in names))

    return drawn.judge(call)


def fuzz_spaces(r):
    """Random affines, points, frames and lengths."""
    drawn = Drawn(
        r,
        affine=(world().affine, some_affine),
        seeds=(world().seeds, some_array),
        min_len=(0, some_number),
        max_len=(100, some_number),
        step_size=(1.0, some_number),
    )

    def call():
        affine = spatial.check_affine(drawn["affine"])
        seeds = _checks.as_points(drawn["seeds"], "seeds")
        voxels = spatial.to_voxels(seeds, affine)
        assert np.isfinite(spatial.to_mm(voxels, affine)).all()
        axes = spatial.axes(affine)
        frame = frames.from_tangents(axes.T, axes)
        assert np.isfinite(frames.transport(frame, axes.T[::-1])).all()
        least, most = length_limits(*(drawn[n] for n in list(drawn.given)[2:]))
        assert 0 <= least <= most

    return drawn.judge(call)


def fuzz_evaluation(r):
    """Random arguments of the metrics of streamlines."""
    lines, shape = world().lines, world().mask.shape
    some = r.randrange(len(lines))
    drawn = Drawn(
        r,
        streamline=(lines[some], some_array),
        affine=(world().affine, some_affine),
        labels=(np.arange(np.prod(shape)).reshape(shape) % 5, some_array),
        mask=(world().mask, some_array),
        limit_mm=(2.0, some_number),
        visits=(np.arange(np.prod(shape)).reshape(shape) % 3, some_array),
        values=(np.arange(9.0), some_array),
    )
    line, other = drawn["streamline"], lines[some - 1]
    others = [lines[0], line]
    affine, labels, mask = drawn["affine"], drawn["labels"], drawn["mask"]
    call = r.choice(
        (
            lambda: evaluation.hausdorff_mm(line, other),
            lambda: evaluation.mean_closest_point_mm(line, other),
            lambda: evaluation.end_point_mm(line, other),
            lambda: evaluation.agreement(others, lines[:2], drawn["limit_mm"]),
            lambda: evaluation.followed(others, lines[:2], drawn["limit_mm"]),
            lambda: evaluation.nearest_streamlines(others, lines),
            lambda: evaluation.angular_difference_deg(line, other),
            lambda: evaluation.mean_curvature_per_mm(line),
            lambda: evaluation.visits(others, affine, shape),
            lambda: evaluation.connections(others, affine, labels),
            lambda: evaluation.shape_similarity(others, lines),
            lambda: evaluation.KnownBundle.from_labels(labels),
            lambda: evaluation.known_bundles([others], affine, shape, mask=mask),
            lambda: evaluation.weighted_dice(drawn["visits"], world().mask * 1),
            lambda: evaluation.density_correlation(drawn["visits"], world().mask * 1),
            lambda: evaluation.dice(mask, world().mask),
            lambda: evaluation.coverage(drawn["visits"], mask),
            lambda: evaluation.estimated_mean(drawn["values"]),
            lambda: evaluation.paired_difference(drawn["values"], np.arange(9.0)),
        )
    )
    names = "streamlines others tracked references other ends streamlines_of_each"
    return drawn.judge(call, *names.split())


def fuzz_metrics(r):
    """Random arguments of the metrics of single streamlines."""
    some = r.randrange(len(world().lines))
    drawn = Drawn(
        r,
        streamline=(world().lines[some], some_array),
        affine=(world().affine, some_affine),
        nbr_threads=(1, some_number),
    )

    def call():
        lines = [world().lines[0], drawn["streamline"]]
        metrics = evaluation.streamline_metrics(
            lines, features(), drawn["affine"], nbr_threads=drawn["nbr_threads"]
        )
        for name in ("mean_amplitude", "least_amplitude"):
            values = metrics[name][~np.isnan(metrics[name])]
            assert ((values >= 0) & (values <= 1 + 1e-12)).all(), name
        assert (metrics["turn_deg"] >= 0).all() and (metrics["length_mm"] >= 0).all()
        assert (metrics["sum_log_amplitude"] <= 1e-12).all()

    return drawn.judge(call, "streamlines")


@cache
def features():
    """Return the fODF of the world."""
    return fodf_features(world().fodf)


LIBRARY = {
    "metrics": fuzz_metrics,
    "rnn_tracking": fuzz_rnn_tracking,
    "track": fuzz_track,
    "direction getter": fuzz_direction_getter,
    "features": fuzz_features,
    "interpolate": fuzz_interpolate,
    "stopping": fuzz_stopping,
    "spaces": fuzz_spaces,
    "evaluation": fuzz_evaluation,
}


# Files

# VTK files are left out: VTK may crash if they are damaged.
TRACTOGRAMS = (".trk", ".tck", ".trx", ".dpy")
TEXTS = (b"", b"FA\n", b"\0" * 400, b"\x1f\x8b", b"\x89HDF\r\n\x1a\n", b"TRACK\0" * 200)


def flipped(r, content, n_first=352):
    """Flip some bits, half of them in the first `n_first` bytes."""
    content = bytearray(content)
    for _ in range(r.choice((1, 1, 2, 8, 64))):
        most = min(n_first, len(content)) if r.random() < 0.5 else len(content)
        content[r.randrange(most)] ^= 1 << r.randrange(8)
    return bytes(content)


def damaged(r, content, n_first=352):
    """Truncate, extend, cut, overwrite or flip bytes."""
    how = r.randrange(8)
    at = r.randrange(len(content))
    if how == 0:
        return content[:at]
    if how == 1:
        return content + bytes(r.randrange(256) for _ in range(r.randint(1, 99)))
    if how == 2:
        return content[:at] + content[at + r.randint(1, 99) :]
    if how == 3:
        n = r.randint(1, 999)
        return content[:at] + bytes(n) + content[at + n :]
    return flipped(r, content, n_first)


def nifti(data, affine, change=lambda header: None):
    """Return the bytes of an uncompressed NIfTI file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = nib.Nifti1Image(data, affine)
        change(image.header)
        with np.errstate(all="ignore"):
            return image.to_bytes()


def tractogram(suffix):
    """Return the bytes of a tractogram file of the world."""
    return _tractograms()[suffix]


@cache
def _tractograms():
    from tempfile import TemporaryDirectory

    from dipy.io.stateful_tractogram import Space, StatefulTractogram
    from dipy.io.streamline import save_tractogram

    lines = [line.astype(np.float32) for line in world().lines]
    image = nib.Nifti1Image(world().mask.astype(np.uint8), world().affine)
    contents = {}
    with TemporaryDirectory() as folder:
        for suffix in TRACTOGRAMS:
            seeds = (
                {}
                if suffix in (".tck", ".dpy")
                else {"seeds": [line[0] for line in lines]}
            )
            path = Path(folder) / f"lines{suffix}"
            save_tractogram(
                StatefulTractogram(
                    lines, image, Space.RASMM, data_per_streamline=seeds
                ),
                str(path),
                bbox_valid_check=False,
            )
            contents[suffix] = path.read_bytes()
    return contents


class Subject:
    """The files of a subject in a folder; at first all of them are valid."""

    def __init__(self, folder):
        self.folder = folder
        self.out = folder / "out"
        self.options = []
        self.out_name = "lines.trk"
        self.names = {"pam": "peaks.pam5", "stopping": "fa.nii", "seeding": "seeds.nii"}
        for role in self.names:
            self.write(role, self.content(role))

    @staticmethod
    @cache
    def content(role):
        """Return the bytes of a valid file."""
        if role == "pam":
            from tempfile import TemporaryDirectory

            with TemporaryDirectory() as folder:
                save_pam(Path(folder) / "peaks.pam5", pam())
                return (Path(folder) / "peaks.pam5").read_bytes()
        if role == "fodf":
            return nifti(world().fodf.astype(np.float32), world().affine)
        kind = {"stopping": np.float32, "seeding": np.uint8}[role]
        return nifti(world().mask.astype(kind), world().affine)

    def path(self, role):
        return self.folder / self.names[role]

    def write(self, role, content, name=None):
        """Write a file; if its name ends in .gz, compress it."""
        name = name or self.names[role]
        path = self.folder / name
        if self.path(role).is_file():
            self.path(role).unlink()
        self.names[role] = name
        path.write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)

    def takes_nifti(self, role="pam"):
        """Store the fODF in a NIfTI file."""
        if role == "pam":
            self.write("pam", self.content("fodf"), "fodf.nii")

    @property
    def arguments(self):
        return [
            *(str(self.path(role)) for role in self.names),
            *("--out_dir", str(self.out), "--out_tractogram", self.out_name),
            *("--step_size", "1", "--minlen", "0", "--nbr_threads", "1"),
            *self.options,
        ]

    def inputs(self):
        """Return the bytes of the input files, by path."""
        return {
            path: path.read_bytes()
            for path in map(self.path, self.names)
            if path.is_file()
        }

    def judge(self):
        """Check that the command saves a tractogram, or ends with one line of error."""
        before = self.inputs()
        outside = set(self.folder.iterdir())
        status, text = run_command(self.arguments)
        try:
            assert "Traceback" not in text, "a traceback"
            assert "Warning" not in text, f"a warning: {text.strip().splitlines()[-1]}"
            assert self.inputs() == before, "an input was changed"
            left = [] if not self.out.is_dir() else list(self.out.iterdir())
            new = set(self.folder.iterdir()) - outside - {self.out}
            assert not new, f"left behind: {new}"
            if not status:
                assert left == [self.out / self.out_name], f"left behind: {left}"
                self.check_output()
                return ACCEPTED
        except OSError as error:
            raise AssertionError(str(error)) from error
        assert isinstance(status, str), f"status {status}"
        assert status.startswith("dipy_track_rnn: error: "), status
        assert "\n" not in status and "\r" not in status, f"more than a line: {status}"
        assert "please report" not in status, status
        assert not left, f"left behind: {left}"
        named = [p for role in self.names for p in (self.path(role).name, role)]
        named += [word[2:] for word in self.arguments if word.startswith("--")]
        named += ["min_len", "max_len", "threshold", "No model"]
        named += [self.out_name, str(self.out)]
        named += [repr(name)[1:-1] for name in named]
        assert any(name in status for name in named), f"names nothing: {status}"
        return REFUSED

    def check_output(self):
        """Check that DIPY loads the file, and that all points are inside the image."""
        path = self.out / self.out_name
        if path.suffix in (".trk", ".trx"):
            try:
                load_tractogram(str(path), "same")  # with DIPY's default checks
            except ValueError as error:
                raise AssertionError(f"DIPY refuses the file: {error}") from None
        shape, affine = self.fodf_grid()
        largest = np.abs(affine).max()
        for line, _ in read_tractogram(path, check_points=False):
            assert np.isfinite(line).all(), "a point is not finite"
            voxels = spatial.to_voxels(line, affine)
            slack = 1e-3 + 1e-6 * largest / spatial.voxel_sizes(affine).min()
            inside = (voxels >= -0.5 - slack) & (
                voxels <= np.array(shape) - 0.5 + slack
            )
            assert inside.all(), "a point lies outside the image"

    def fodf_grid(self):
        """Return the shape and the affine of the fODF."""
        path = self.path("pam")
        if path.suffix.lower() != ".pam5":
            data, affine = load_volume(path, (4, 5))
            return data.shape[:3], affine
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            features, affine = load_features(path, "sh", None, "voxel")
        if affine is None:  # then the stopping image is on the same grid
            affine = nib.load(self.path("stopping")).affine
        return features.data.shape[:3], affine


def run_command(arguments, command="dipy_track_rnn"):
    """Run a command in this process; return its exit status and its output."""
    from dipy_rnn.workflows import cli

    before, text = sys.argv, io.StringIO()
    sys.argv = [command, *arguments]
    run = getattr(cli, command[len("dipy_") : -len("_rnn")])
    try:
        with redirect_stdout(text), redirect_stderr(text), warnings.catch_warnings():
            run()
    except SystemExit as end:
        return _one_line(end.code, text.getvalue(), command)
    finally:
        sys.argv = before
    return None, text.getvalue()


def _one_line(status, text, command):
    """For the exit status 2 of argparse, return the last line, which is the error."""
    if status != 2:
        return status, text
    last = text.strip().splitlines()[-1]
    assert last.startswith(f"{command}: error: "), last
    return last, ""


def fuzz_nifti_bytes(r, folder):
    """Images damaged before or after compression."""
    subject = Subject(folder)
    role = r.choice(("pam", "stopping", "seeding"))
    subject.takes_nifti(role)
    content = subject.path(role).read_bytes()
    how = r.randrange(3)
    stem = subject.names[role].removesuffix(".nii")
    if how == 0:
        subject.write(role, damaged(r, content))
    elif how == 1:
        subject.write(role, damaged(r, content), f"{stem}.nii.gz")
    else:
        subject.write(role, content, f"{stem}.nii.gz")
        whole = damaged(r, gzip.compress(content, 1), 20)
        subject.path(role).write_bytes(whole)
    return subject.judge()


IMAGE_TYPES = "u1 i1 i2 u2 i4 u4 i8 u8 f4 f8 f16 c8 c16".split()


def fuzz_image(r, folder):
    """Images with other types, shapes, values and affines, for one or all arguments."""
    subject = Subject(folder)
    roles = r.choice((["pam"], ["stopping"], ["seeding"], ["stopping", "seeding"], []))
    roles = roles or ["pam", "stopping", "seeding"]
    affine = np.array(world().affine)
    if r.random() < 0.5:
        affine = AFFINES[r.choice(sorted(set(AFFINES) - {"no last row"}))](affine)
    shape = r.random()
    cut = tuple(slice(r.choice((None, 1, 2, 0))) for _ in range(3))
    axis = r.randrange(3)
    changes = [_image_change(r) for _ in range(r.randint(0, 2))]
    for role in roles:
        subject.takes_nifti(role)
        data = {
            "pam": world().fodf.astype(np.float32),
            "stopping": world().mask.astype(np.float32),
            "seeding": world().mask.astype(np.uint8),
        }[role]
        if shape < 0.15:
            data = data[cut]
        elif shape < 0.25:
            data = data.take([data.shape[axis] // 2], axis=axis)
        elif shape < 0.3:
            data = r.choice((data[..., None], data[0], data[..., 0, None], data[None]))
            data = data if data.ndim < 8 else data[0]
        swap = r.random() < 0.1
        for change, value in changes:
            with np.errstate(all="ignore"):
                if change == "type":
                    data = data.astype(value)
                elif change == "value" and data.size:
                    if np.dtype(data.dtype).kind == "f":
                        data = data.copy()
                        data.flat[r.randrange(data.size)] = np.float64(value)
                elif change == "times":
                    data = data.astype(np.float64) * value

        def header(header, changes=changes):
            for change, value in changes:
                if change == "pixdim":
                    header["pixdim"][1:4] = value
                elif change == "codes":
                    header["sform_code"], header["qform_code"] = value
                elif change == "qform":
                    header["quatern_b"], header["quatern_c"] = value, 0.5
                elif change == "units":
                    header["xyzt_units"] = value

        try:
            content = nifti(data, affine, header)
        except (nib.spatialimages.HeaderDataError, ValueError, TypeError):
            continue  # nibabel cannot write this image
        content = _patched(r, content, changes)
        if swap:
            content = _swapped(content)
        suffix = r.choice((".nii", ".nii", ".nii.gz"))
        subject.write(role, content, subject.names[role].removesuffix(".nii") + suffix)
    return subject.judge()


def _patched(r, content, changes):
    """Change scale and shape in the header, which nibabel overwrites when it saves."""
    for change, value in changes:
        at = {"scl_slope": 112, "scl_inter": 116, "dim": 40}.get(change)
        if change == "dim":
            at, packed = at + 2 * r.randrange(8), np.int16(value).tobytes()
        elif at:
            packed = np.float32(value).tobytes()
        if at:
            content = content[:at] + packed + content[at + len(packed) :]
    return content


def _swapped(content):
    # The header may be damaged already.
    header = nib.Nifti1Header(content[:348], check=False).as_byteswapped()
    return header.binaryblock + content[348:]


def _image_change(r):
    change = r.choice(
        "type value times scl_slope scl_inter pixdim codes qform units dim".split()
    )
    return change, r.choice(
        {
            "type": IMAGE_TYPES,
            "value": SPECIAL,
            "times": (0, -1, 1e-300, 1e12, 1e300, np.nan, np.inf),
            "scl_slope": (0, -1, 2, 1e-30, 1e38, np.nan, np.inf),
            "scl_inter": (0, -1, 2, 1e-30, 1e38, np.nan, np.inf),
            "pixdim": (0, -2, 1e-12, 1e30, np.nan, 7),
            "codes": ((0, 0), (0, 1), (1, 0), (1, 1), (99, -1)),
            "qform": (0.5, 1, 9, np.nan),
            "units": (0, 1, 2, 3, 255),
            "dim": (0, 1, -1, 2, 32767, 7),
        }[change]
    )


def fuzz_pam_bytes(r, folder):
    """Damaged peaks and metrics files."""
    subject = Subject(folder)
    subject.write("pam", damaged(r, subject.content("pam"), 4096))
    return subject.judge()


def fuzz_pam(r, folder):
    """Peaks and metrics files with other contents."""
    subject = Subject(folder)
    with h5py.File(subject.path("pam"), "r+") as file:
        group = file["pam"]
        pam_datasets = set(group)  # that are still unchanged
        for _ in range(r.randint(1, 2)):
            name = r.choice(sorted(group) + 3 * ["shm_coeff", "affine", "B"])
            data = group.get(name) if name in pam_datasets else None
            data = None if data is None else data[:]
            pam_datasets.discard(name)
            if name in group:
                del group[name]
            how = r.randrange(11)
            if how == 0:
                continue
            if how == 1:
                group.create_group(name)
            elif how == 2:
                group[name] = h5py.SoftLink(r.choice(("/pam/" + name, "/none", "/pam")))
            elif how == 3:
                group[name] = h5py.ExternalLink("/etc/passwd", "/pam")
            elif how == 4:
                group.create_dataset(name, (2**14, 2**14, 2**12), "f8", chunks=True)
            elif how == 5:
                group[name] = r.choice(("text", b"bytes", 7, np.nan, [1.0, 2.0]))
            elif how == 6:
                group.create_dataset(
                    name, data=[b"a", b"bc"], dtype=h5py.string_dtype()
                )
            elif how == 7:
                pair = np.zeros(3, dtype=[("a", "f4"), ("b", "i4")])
                group[name] = pair
            elif how == 8:
                group[name] = h5py.Empty("f4")
            elif data is not None:
                data = some_array(r, data)
                try:
                    group[name] = data
                except (TypeError, ValueError, OSError):
                    continue
        if r.random() < 0.2:
            file.attrs["version"] = r.choice(("0.0.2", 7, b"0.0.1", [1, 2]))
        if r.random() < 0.1:
            del file["pam"]
    return subject.judge()


def fuzz_wrong_kind(r, folder):
    """A folder, pipe, link, or another kind of file instead of an input."""
    subject = Subject(folder)
    role = r.choice(sorted(subject.names))
    subject.path(role).unlink()
    if r.random() < 0.3:
        suffixes = (".pam5", ".nii.gz", ".nii", ".mgz", ".img", ".txt", "", ".trx")
        subject.names[role] = "other" + r.choice(suffixes)
    path, how = subject.path(role), r.randrange(8)
    if how == 0:
        path.mkdir()
    elif how == 1:
        os.mkfifo(path)
    elif how == 2:
        path.symlink_to(r.choice(("nowhere", path.name, "/dev/zero", "/dev/null")))
    elif how == 3:
        path.write_bytes(tractogram(r.choice(TRACTOGRAMS)))
    elif how == 4:
        path.write_bytes(r.choice(TEXTS))
    elif how == 5:
        path.write_bytes(subject.content(r.choice(("pam", "stopping", "fodf"))))
    elif how == 6:
        path.write_bytes(gzip.compress(r.choice(TEXTS)))
    else:
        path.write_bytes(r.randbytes(r.randint(1, 999)))
    return subject.judge()


WORDS = (
    "übung",
    "脳",
    "a b",
    "it's",
    "x" * 120,
    "x" * 245,
    "[a]",
    "?",
    "*",
    "-x",
    ".x",
)
WORDS += (
    "\udcff",
    "new\nline",
    "e\u0301",
    "\u202eright",
    "~",
    "$HOME",
    "%d",
    "{}",
    "a\tb",
)


def fuzz_paths(r, folder):
    """Unusual and invalid names of files and folders."""
    below = folder / r.choice(WORDS) if r.random() < 0.5 else folder
    try:
        below.mkdir(exist_ok=True)
    except OSError:
        below = folder
    subject = Subject(below)
    for role in r.sample(sorted(subject.names), r.randint(0, 2)):
        path = subject.path(role)
        name = r.choice(WORDS) + path.suffix
        try:
            path.rename(below / name)
        except OSError:
            continue
        subject.names[role] = name
    if r.random() < 0.4:
        word = r.choice(WORDS)
        subject.out_name = word + r.choice(TRACTOGRAMS)
    how = r.randrange(6)
    if how == 0:
        subject.out = below / r.choice(WORDS)
    elif how == 1:
        (below / "file").write_text("a file")
        subject.out = below / "file" / "out"
    elif how == 2:
        subject.out = Path("/proc/none")
    elif how == 3:
        subject.out = below / "a" / "b"
        with_parent = below / "a"
        with_parent.mkdir()
    elif how == 4:
        subject.out.mkdir()
        if r.random() < 0.5:
            (subject.out / subject.out_name[:200]).mkdir()
            if subject.out_name == subject.out_name[:200]:
                subject.options.append("--force")
                return _judge_over_a_folder(subject)
            (subject.out / subject.out_name[:200]).rmdir()
    return subject.judge()


def _judge_over_a_folder(subject):
    """Check that an output with the name of a folder is an error."""
    status, text = run_command(subject.arguments)
    assert isinstance(status, str) and "please report" not in status, status
    assert "\n" not in status and "Traceback" not in text
    assert (subject.out / subject.out_name).is_dir()
    assert len(list(subject.out.iterdir())) == 1, "left behind"
    return REFUSED


NUMBER_OPTIONS = {
    "stopping_thr": ("nan", "inf", "-inf", "1e300", "-1", "0", "1"),
    "minlen": ("nan", "-1", "0", "1e300", "99999999999999999999", "2"),
    "maxlen": ("nan", "-1", "0", "1", "2147483648", "99999999999999999999"),
    "step_size": ("nan", "inf", "0", "-1", "1e-300", "1e300", "0.5", "2", "1e-9"),
    "max_angle": ("nan", "inf", "0", "-1", "1e-300", "180", "181", "90"),
    "seed_density": ("-1", "0", "1", "2", "nan"),
    "seed_count": ("-1", "0", "1", "9", "nan", "1e3"),
    "nbr_threads": ("-1", "0", "1", "2", "100000", "99999999999999999999"),
    "batch_size": ("-1", "0", "1", "99999999999999999999"),
    "random_seed": ("-1", "0", "4294967295", "4294967296", "99999999999999999999"),
    "seed_buffer_fraction": ("nan", "inf", "0", "-1", "1e-300", "2", "0.1"),
    "sh_basis": ("tournier07", "none", "", "descoteaux07", "descoteaux07_legacy"),
    "sh_frame": ("scanner", "", "voxels", "voxel"),
    "device": ("gpu", "", "cuda", "meta", "cpu:7", "mps", "cpu"),
    "pmf_threshold": ("nan", "-1", "0", "1", "2", "0.5"),
    "max_cross": ("-2", "-1", "0", "1", "9", "nan"),
    "select": ("-1", "0", "1", "5", "99999999999999999999", "nan"),
    "seeds_per_voxel": ("-1", "0", "2", "nan", "99999999999999999999"),
    "seeds_per_mm3": ("nan", "inf", "-1", "0.1", "1e300"),
    "step_vox": ("nan", "inf", "-1", "0", "0.5", "1e-300", "1e300"),
    "downsample": ("-1", "0", "1", "7", "99999999999999999999"),
    "compress": ("nan", "inf", "-1", "0", "0.1", "1e300"),
    "nbr_parts": ("-1", "0", "1", "3", "nan"),
    "engine": ("serial", "", "slurm"),
    "scheduler": ("nonsense://there", "127.0.0.1:1"),
    "gm_files": ("none.nii.gz", "*", ""),
    "model_file": ("", ".", "none", "/dev/null", "default", "deterministic"),
    "out_tractogram": ("", ".", "..", "/", "a/b.trk", ".trk", "lines.TRK", "a.trk/"),
}


SWITCHES = (
    *("use_binary_mask", "unidirectional", "save_seeds", "save_stops"),
    *("save_metrics", "float16", "act", "cmc", "keep_rejected", "seed_at_interface"),
)


def fuzz_options(r, folder):
    """Options out of range, or of another type."""
    subject = Subject(folder)
    subject.options += [f"--{name}" for name in SWITCHES if r.random() < 0.08]
    if r.random() < 0.3:
        subject.out_name = "lines.trx"
    for name in r.sample(sorted(NUMBER_OPTIONS), r.choice((1, 1, 2))):
        value = r.choice(NUMBER_OPTIONS[name])
        if name == "out_tractogram":
            subject.out_name = value
        else:
            subject.options += [f"--{name}", value]
    if subject.out_name not in ("lines.trk", "lines.trx"):
        return _judge_name(subject)
    return subject.judge()


def _judge_name(subject):
    """Check that a valid output name gives one new file, an invalid one no file."""
    status, text = run_command(subject.arguments)
    assert "Traceback" not in text
    some = [path for path in subject.folder.rglob("*") if path.is_file()]
    new = len(some) - len(subject.names)
    if not status:
        assert new == 1, f"left behind: {some}"
        return ACCEPTED
    assert isinstance(status, str) and "\n" not in status, status
    assert "please report" not in status and not new, (status, some)
    return REFUSED


def fuzz_tractogram(r, folder):
    """Damaged tractogram files."""
    suffix = r.choice(TRACTOGRAMS)
    path = folder / f"lines{suffix}"
    content = tractogram(suffix)
    if r.random() < 0.1:
        content = tractogram(r.choice(TRACTOGRAMS))
    how = r.random()
    if how < 0.9:
        content = damaged(r, content, 1000 if suffix == ".trk" else 200)
    elif how < 0.95:
        content = r.choice(TEXTS)
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # readers warn of headers that they can read
        try:
            for line, _ in read_tractogram(path):
                assert line.ndim == 2 and line.shape[1] == 3
                assert np.isfinite(line).all()
        except ValueError as error:
            message = str(error)
            assert path.name in message and "\n" not in message, message
            return REFUSED
        finally:
            assert path.read_bytes() == content, "the file was changed"
    return ACCEPTED


def fuzz_seeds(r, folder):
    """Damaged lists of seeds, or lists of other arrays."""
    subject = Subject(folder)
    seeds = world().seeds
    if r.random() < 0.4:
        odd = some_array(r, seeds)
        if isinstance(odd, np.ndarray) and odd.dtype.kind != "O":
            seeds = odd
    suffix, content = r.choice((".npy", ".txt", ".csv", ".tsv")), io.BytesIO()
    delimiter = {".csv": ",", ".tsv": "\t"}.get(suffix, " ")
    try:
        if suffix == ".npy":
            np.save(content, seeds)
        else:
            np.savetxt(content, seeds, delimiter=delimiter)
    except (TypeError, ValueError):  # savetxt cannot write this array
        content.write(b"# no seeds\n")
    content = content.getvalue()
    if content and r.random() < 0.6:  # an empty array gives an empty text
        content = damaged(r, content, 128)
    subject.write("seeding", content, f"seeds{suffix}")
    return subject.judge()


FILES = {
    "damaged NIfTI": fuzz_nifti_bytes,
    "images": fuzz_image,
    "damaged PAM5": fuzz_pam_bytes,
    "PAM5": fuzz_pam,
    "other kinds of files": fuzz_wrong_kind,
    "names": fuzz_paths,
    "options": fuzz_options,
    "damaged tractograms": fuzz_tractogram,
    "lists of seeds": fuzz_seeds,
}
