"""Speed and memory of trackers: ``python benchmarks/speed.py FOLDER/canon61``.

The folder is one of a head, as for real_data.py. ``--work`` keeps its fODF. Without a
folder a scan is simulated. All trackers get the same seeds: the voxels with an FA above
0.3, shuffled, the first ``--n_seeds``. Steps are of 1 mm. Streamlines end where FA is
0.15. The largest angle between two steps is ``--max_angle``, lengths are 2 to 500 mm.

``--table`` (the default) compares trackers:

seconds
    From arrays in memory to a list of streamlines in memory, in one call. Other inputs
    than the fODF and FA are made before: the fODF on DIPY's default sphere for sf, the
    peaks for eudx. tckgen reads and writes files, which are in memory if there is a
    /dev/shm. Its time is that of the whole process. Each round runs every tracker once.
    The first round does not count. The table has medians.
start
    The same call with a single seed. It includes loading the model, the change of basis
    and the first call of the network.
steps/s
    Points of the streamlines that are kept, divided by seconds. The streamlines of
    different trackers differ.
ratio
    steps/s divided by those of `default` with as many threads, the median of rounds.
memory
    Growth of the process at its peak, with a new process for each tracker. It includes
    the streamlines and the fODF on the sphere. It excludes the fODF, FA and the peaks.
    For tckgen it is the memory of the whole process.

Trackers of this package get the criteria of `dipy_rnn.stopping`, except where DIPY's
criterion is named. Those of DIPY get DIPY's own.

Trackers differ as follows:

* LocalTracking ends halves at 500 mm. Others discard streamlines of more than 500 mm.
* tckgen ends streamlines at the border of a mask: FA above 0.15 on a grid two times
  finer. Its `-cutoff` hardly ever ends one.
* tckgen has the same seeds, but draws first directions at random, once for each seed.
  One in five of the seeds of SD_Stream gives no streamline. Others start along small
  lobes.
* iFOD2 writes one point for each step. These points count.
* `cai2023` is the network of the paper, untrained. With a smaller angle its streamlines
  would soon end. Its largest angle is therefore 180 degrees, and a mask ends them.
* `cai2023`, and LocalTracking without look-ahead, are slow and get fewer seeds.

A second table compares the rate of rows that a network computed, with those of the
warm-up pass, to the rate at which torch multiplies the same matrices, and nothing else,
in batches of the size of the engine.

``--sweep`` runs `rnn_tracking` on the fODF in the package's basis, and counts points
without keeping streamlines. It varies the number of seeds (all of the above, repeated
with a random shift within the voxel), the batch size (with four times ``--n_seeds``)
and the width of an untrained network (with ``--n_seeds``). Memory is the growth of the
process.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property, partial
from importlib import metadata
import json
import multiprocessing
from pathlib import Path
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings

from dipy.core.gradients import generate_bvecs, gradient_table
from dipy.data import default_sphere
from dipy.direction import DeterministicMaximumDirectionGetter
from dipy.io.image import save_nifti
from dipy.io.peaks import load_pam
from dipy.reconst.dti import TensorModel
from dipy.reconst.shm import sh_to_sf
from dipy.tracking.local_tracking import LocalTracking
from dipy.tracking.stopping_criterion import ThresholdStoppingCriterion
from dipy.tracking.tracker import (
    deterministic_tracking,
    eudx_tracking,
    probabilistic_tracking,
)
from dipy.tracking.utils import seeds_from_mask
import nibabel as nib
import numpy as np
from real_data import SEED_THR, STOPPING_THR, prepare
from scipy.ndimage import zoom
import torch

from dipy_rnn import (
    RNNDirectionGetter,
    _threads,
    load_model,
    rnn_tracking,
    sampling,
    spatial,
    stopping,
)
from dipy_rnn.model import as_model, model_path, untrained
from dipy_rnn.phantom import random_phantom
from dipy_rnn.tracking import track
from dipy_rnn.training.recipe import Recipe, describe

STEP_MM, MIN_LEN, MAX_LEN = 1.0, 2, 500
BATCH_SIZE = 2048  # streamlines that advance together on the CPU
CUTOFF, SEED_CUTOFF = 0.01, 0.1  # of tckgen; peaks in white matter are about 1
FINER = 2  # voxels of tckgen's mask for one of the image, along each axis
N_SLOW, N_LOCAL = 2 * BATCH_SIZE, 300  # largest numbers of seeds
BATCH_SIZES = (128, 256, 512, 1024, 2048, 4096, 8192)
WIDTHS = (16, 32, 64, 128, 256)

# No model is trained on this phantom. Random seeds of training are about 2 026 000.
PHANTOM = {"random_seed": 930_000, "shape": (40, 40, 40), "n_bundles": 16}
N_B0, N_DIRECTIONS, B_VALUE, SNR = 2, 64, 2000, 30


def make_phantom(head):
    """Simulate a scan and write it as a head, unless it exists."""
    if (head / "fa.nii.gz").exists():
        return
    head.mkdir(parents=True, exist_ok=True)
    bvecs = generate_bvecs(N_DIRECTIONS, rng=np.random.default_rng(0))
    bvecs = np.r_[np.zeros((N_B0, 3)), bvecs]
    bvals = np.repeat([0, B_VALUE], [N_B0, N_DIRECTIONS])
    gtab = gradient_table(bvals, bvecs=bvecs)
    phantom = random_phantom(**PHANTOM)
    dwi = phantom.dwi(gtab, snr=SNR)
    mask = phantom.peaks()[0].sum(axis=-1) > 0.05
    fa = np.where(mask, TensorModel(gtab).fit(dwi, mask=mask).fa, 0)
    np.savetxt(head / "dwi.bval", bvals[None], "%d")
    np.savetxt(head / "dwi.bvec", bvecs.T, "%.6f")
    for name, volume in (("dwi", dwi), ("mask", mask), ("fa", fa)):
        path = str(head / f"{name}.nii.gz")
        save_nifti(path, volume.astype(np.float32), phantom.affine)


class Case:
    """A volume and its seeds. Inputs of only some trackers are made on demand."""

    def __init__(self, arguments):
        head = arguments.head or arguments.work / "phantom"
        if arguments.head is None:
            make_phantom(head)
        self.name = head.name
        self.fa, self.affine = prepare(head, arguments.work / head.name)
        self.pam = load_pam(arguments.work / head.name / "peaks.pam5")
        self.coefficients = self.pam.shm_coeff
        self.criterion = ThresholdStoppingCriterion(self.fa, STOPPING_THR)
        self.our_criterion = stopping.ThresholdStoppingCriterion(self.fa, STOPPING_THR)
        seeds = seeds_from_mask(self.fa > SEED_THR, self.affine)
        self.all_seeds = seeds[np.random.default_rng(0).permutation(len(seeds))]
        self.seeds = self.all_seeds[: arguments.n_seeds]
        self.max_angle = arguments.max_angle

    @cached_property
    def features(self):
        """The fODF in the package's basis."""
        return sampling.fodf_features(self.coefficients)

    @cached_property
    def sf(self):
        """The fODF on DIPY's default sphere."""
        order = sampling.sh_order(self.coefficients.shape[3])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            sf = sh_to_sf(
                self.coefficients, default_sphere, sh_order_max=order, legacy=True
            )
        return np.maximum(sf, 0, out=sf)

    @cached_property
    def temporary(self):
        """The folder of tckgen's files, in memory if possible."""
        where = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self._folder = tempfile.TemporaryDirectory(dir=where)
        return Path(self._folder.name)

    def write(self, name, volume, affine=None):
        """Write an image for tckgen. Return its path."""
        path = self.temporary / name
        affine = self.affine if affine is None else affine
        nib.save(nib.Nifti1Image(volume, affine), path)
        return path

    @cached_property
    def mrtrix_mask(self):
        """The voxels with an FA above the threshold, as a file.

        The grid is finer, because tckgen does not interpolate masks.
        """
        fa = zoom(self.fa, FINER, order=1, mode="nearest", grid_mode=True)
        affine = self.affine @ np.diag([1 / FINER] * 3 + [1])
        first = np.full((1, 3), 0.5 / FINER - 0.5)
        affine[:3, 3] = spatial.to_mm(first, self.affine)[0]
        return self.write("mask.nii", (fa > STOPPING_THR).astype(np.uint8), affine)

    @cached_property
    def mrtrix_fod(self):
        """The fODF as a file in MRtrix3's basis, along the scanner axes.

        The coefficients of a voxel are contiguous, as in the files of dwi2fod.
        """
        rows = self.features.data.reshape(-1, self.features.data.shape[3])
        rotated = sampling.rotate(
            rows,
            np.broadcast_to(spatial.axes(self.affine), (len(rows), 3, 3)),
            handedness=spatial.handedness(self.affine),
            nbr_threads=0,
        )
        path = self.write("fod.nii", rotated.reshape(self.features.data.shape))
        strided = path.with_suffix(".mif")
        convert = ["mrconvert", path, strided, "-strides", "0,0,0,1", "-quiet"]
        subprocess.run(convert, check=True)
        path.unlink()
        return strided

    def jittered(self, n_seeds):
        """Repeat the seeds, each time at a random place in the voxel."""
        seeds_vox = spatial.to_voxels(self.all_seeds, self.affine)
        seeds_vox = np.resize(seeds_vox, (n_seeds, 3))
        shift = np.random.default_rng(1).uniform(-0.5, 0.5, seeds_vox.shape)
        return spatial.to_mm(seeds_vox + shift, self.affine)


def in_a_model(network):
    """Return an untrained network as a model."""
    return as_model(network, describe(network, Recipe(), orders=(4, 6, 8), data="none"))


@cache
def cai2023():
    """Return the network of the paper, untrained."""
    return untrained("cai2023", 8, random_seed=1)


@cache
def cai2023_model():
    """Return the same network as a model."""
    return in_a_model(cai2023())


def rnn_options(case, name):
    """Return the arguments of `track` for a network."""
    if name == "cai2023":
        criterion = stopping.BinaryStoppingCriterion(case.fa > STOPPING_THR)
        model, angle = cai2023_model(), 180.0
    else:
        criterion, model, angle = case.our_criterion, name, case.max_angle
    return {
        "stopping_criterion": criterion,
        "affine": case.affine,
        "model": model,
        "max_angle": angle,
        "step_size": STEP_MM,
        "max_len": MAX_LEN,
    }


# Each of these functions returns the call to be timed: from arrays to streamlines.


def rnn(case, seeds, threads, name, has_dipy_criterion=False, **changes):
    """rnn_tracking."""
    options = rnn_options(case, name) | changes
    if has_dipy_criterion:
        options["stopping_criterion"] = case.criterion
    return lambda: list(
        rnn_tracking(
            seeds,
            **options,
            sh=case.coefficients,
            min_len=MIN_LEN,
            nbr_threads=threads,
        )
    )


def local(case, seeds, threads, name, look_ahead):
    """RNNDirectionGetter in DIPY's LocalTracking."""
    extra = {"seeds": seeds, "nbr_threads": threads} if look_ahead else {}

    def call():
        getter = RNNDirectionGetter.from_shcoeff(
            case.coefficients,
            affine=case.affine,
            model=name,
            max_angle=case.max_angle,
            **extra,
        )
        return local_tracking(case, case.our_criterion, seeds, getter)

    return call


def dipy_local(case, seeds, threads):
    """DIPY's deterministic tracking in LocalTracking."""

    def call():
        getter = DeterministicMaximumDirectionGetter.from_shcoeff(
            case.coefficients,
            max_angle=case.max_angle,
            sphere=default_sphere,
            legacy=True,
        )
        return local_tracking(case, case.criterion, seeds, getter)

    return call


def local_tracking(case, criterion, seeds, getter):
    """Track along one direction from each seed."""
    return list(
        LocalTracking(
            getter,
            criterion,
            seeds,
            case.affine,
            STEP_MM,
            max_cross=1,
            minlen=int(MIN_LEN / STEP_MM),
            maxlen=int(MAX_LEN / STEP_MM),
        )
    )


def dipy(case, seeds, threads, tracker, source):
    """One of DIPY's newer trackers."""
    given = {
        "sh": lambda: {"sh": case.coefficients, "legacy": True},
        "sf": lambda: {"sf": case.sf, "sphere": default_sphere},
        "pam": lambda: {"pam": case.pam, "max_cross": 1, "sphere": case.pam.sphere},
    }[source]()
    return lambda: list(
        tracker(
            seeds,
            case.criterion,
            case.affine,
            **given,
            step_size=STEP_MM,
            max_angle=case.max_angle,
            min_len=MIN_LEN,
            max_len=MAX_LEN,
            random_seed=1,
            nbr_threads=threads,
        )
    )


class Tckgen:
    """MRtrix3's tckgen. A call tracks and returns the file."""

    def __init__(self, case, seeds, threads, algorithm):
        where = np.zeros(case.fa.shape, np.uint8)
        voxels = np.round(spatial.to_voxels(seeds, case.affine)).astype(int)
        where[tuple(voxels.T)] = 1
        self.out = case.temporary / "tracks.tck"
        # Its lengths count steps, the lengths of the others count points.
        self.command = f"""
            tckgen {case.mrtrix_fod} {self.out} -algorithm {algorithm}
            -seed_grid_per_voxel {case.write("seeds.nii", where)} 1 -select 0
            -mask {case.mrtrix_mask} -step {STEP_MM} -angle {case.max_angle}
            -minlength {MIN_LEN - STEP_MM} -maxlength {MAX_LEN - STEP_MM}
            -cutoff {CUTOFF} -seed_cutoff {SEED_CUTOFF}
            -nthreads {0 if threads == 1 else threads} -quiet -force""".split()

    def __call__(self):
        """Track."""
        subprocess.run(self.command, check=True)
        return self.out

    def peak_mb(self):
        """Track. Return the largest memory of the process in MB."""
        peak, process = None, subprocess.Popen(self.command)
        while process.poll() is None:
            # A process that is about to end has no memory.
            peak = memory_mb("VmHWM", process.pid) or peak
            time.sleep(0.002)
        return peak


@dataclass(frozen=True)
class Tracker:
    """A row of the table."""

    label: str
    make: callable
    n_seeds: int | None = None  # largest number
    one_thread: bool = False


TRACKERS = {
    "default": Tracker("rnn_tracking, `default`", partial(rnn, name="default")),
    "fast": Tracker("rnn_tracking, `fast`", partial(rnn, name="fast")),
    "deterministic": Tracker(
        "rnn_tracking, `deterministic`", partial(rnn, name="deterministic")
    ),
    **{
        f"{name}_dipy_criterion": Tracker(
            f"rnn_tracking, `{name}`, DIPY's criterion",
            partial(rnn, name=name, has_dipy_criterion=True),
        )
        for name in ("default", "fast", "deterministic")
    },
    **{
        f"{name}_prob": Tracker(
            f"rnn_tracking, `{name}`, probabilistic",
            partial(rnn, name=name, tracking_method="probabilistic"),
        )
        for name in ("default", "fast")
    },
    "cai2023": Tracker(
        "rnn_tracking, `cai2023`, untrained", partial(rnn, name="cai2023"), N_SLOW
    ),
    "look_ahead": Tracker(
        "LocalTracking, `default`, look-ahead",
        partial(local, name="default", look_ahead=True),
    ),
    "fast_look_ahead": Tracker(
        "LocalTracking, `fast`, look-ahead",
        partial(local, name="fast", look_ahead=True),
    ),
    "deterministic_look_ahead": Tracker(
        "LocalTracking, `deterministic`, look-ahead",
        partial(local, name="deterministic", look_ahead=True),
    ),
    "local": Tracker(
        "LocalTracking, `default`",
        partial(local, name="default", look_ahead=False),
        N_LOCAL,
        True,
    ),
    "dipy_det_sh": Tracker(
        "DIPY deterministic_tracking, sh",
        partial(dipy, tracker=deterministic_tracking, source="sh"),
    ),
    "dipy_det_sf": Tracker(
        "DIPY deterministic_tracking, sf",
        partial(dipy, tracker=deterministic_tracking, source="sf"),
    ),
    "dipy_prob_sh": Tracker(
        "DIPY probabilistic_tracking, sh",
        partial(dipy, tracker=probabilistic_tracking, source="sh"),
    ),
    "dipy_prob_sf": Tracker(
        "DIPY probabilistic_tracking, sf",
        partial(dipy, tracker=probabilistic_tracking, source="sf"),
    ),
    "dipy_eudx": Tracker(
        "DIPY eudx_tracking, peaks", partial(dipy, tracker=eudx_tracking, source="pam")
    ),
    "dipy_local": Tracker(
        "DIPY LocalTracking, deterministic, sh", dipy_local, one_thread=True
    ),
    "sd_stream": Tracker(
        "MRtrix3 tckgen SD_Stream", partial(Tckgen, algorithm="SD_Stream")
    ),
    "ifod2": Tracker("MRtrix3 tckgen iFOD2", partial(Tckgen, algorithm="iFOD2")),
}
NETWORKS = ("default", "fast", "deterministic", "cai2023")
MRTRIX = ("sd_stream", "ifod2")
NOT_BY_DEFAULT = (
    "deterministic",
    "default_dipy_criterion",
    "fast_dipy_criterion",
    "deterministic_dipy_criterion",
    "default_prob",
    "fast_prob",
)


def why_not(key):
    """Return why a tracker cannot run here. None if it can."""
    if key in MRTRIX and not shutil.which("tckgen"):
        return "tckgen is not on the PATH"
    return None


def timed(call):
    """Return the seconds and the result of a call."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def count(result):
    """Return the numbers of streamlines and of points, of a list or a file."""
    if isinstance(result, Path):
        result = nib.streamlines.load(result).streamlines
    return len(result), sum(map(len, result))


def memory_mb(what, process="self"):
    """Return an entry of Linux's memory status of a process in MB, or None."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith(what)]
    return int(kilobytes[0]) / 1024 if kilobytes else None


def growth_mb(call):
    """Return the growth of the process during a call in MB, or None.

    The peak of getrusage cannot be reset. It includes memory that was freed before the
    call and, after an exec, the memory of the parent process.
    """
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        return None
    clear.write_text("5")  # resets the peak
    before = memory_mb("VmRSS")
    result = call()
    after = memory_mb("VmHWM")
    del result
    return after - before


def in_a_process(function, *arguments):
    """Call a function in a new process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def memory_of_tracker(arguments, key, threads):
    """Return the memory of a row of the table in MB."""
    case, tracker = Case(arguments), TRACKERS[key]
    seeds = case.seeds[: tracker.n_seeds]
    if key in MRTRIX:
        return tracker.make(case, seeds, threads).peak_mb()
    return growth_mb(lambda: tracker.make(case, seeds, threads)())


def network(name):
    """Return the module of a network."""
    if name == "cai2023":
        return cai2023()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.")
        return torch.jit.load(model_path(name))


def matrices(module):
    """Return the shapes (out, in) of the matrices of a network.

    Those that mix vectors are for both components of the vectors.
    """
    shapes = []
    for name, parameter in module.named_parameters():
        if name.startswith("to_"):
            shapes += [tuple(parameter.shape)[::-1]] * 2
        elif parameter.ndim == 2:
            shapes.append(tuple(parameter.shape))
    return shapes


def seconds_of(call, at_least=0.5):
    """Return the median seconds of a short call, repeated for `at_least` seconds."""
    for _ in range(3):
        call()
    seconds, begin = [], time.perf_counter()
    while time.perf_counter() < begin + at_least:
        seconds.append(timed(call)[0])
    return np.median(seconds)


def products(shapes, n_rows):
    """Return a call in which torch multiplies matrices of given shapes by rows."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for shape in shapes]
    inputs = [torch.randn(n_rows, n, generator=generator) for _, n in shapes]
    biases = [torch.randn(n, generator=generator) for n, _ in shapes]

    def call():
        for x, weight, bias in zip(inputs, weights, biases):
            torch.nn.functional.linear(x, weight, bias)

    return call


def count_rows(lines, model):
    """Return the number of rows that a network computed for some streamlines.

    These are the points of the forward half, of the warm-up pass and of the backward
    half, with the seed in both halves.
    """
    rows = 0
    warm_up_points = load_model(model).metadata.replay_points
    for line in lines:
        forward = line.n_forward - 1
        backward = len(line.points_mm) - line.n_forward
        warm_up = forward if warm_up_points is None else min(forward, warm_up_points)
        rows += forward + warm_up + backward + 2
    return rows


def measure_table(case, arguments):
    """Measure the trackers. Return a row for each, and a row for each network."""
    rows = []
    for key in arguments.only or [k for k in TRACKERS if k not in NOT_BY_DEFAULT]:
        if reason := why_not(key):
            print(f"skipped: {TRACKERS[key].label}: {reason}")
            continue
        n_seeds = len(case.seeds[: TRACKERS[key].n_seeds])
        for threads in (1,) if TRACKERS[key].one_thread else arguments.threads:
            about = {"key": key, "threads": threads, "n_seeds": n_seeds}
            rows.append(about | {"seconds": [], "start": []})
    networks = [
        {"key": row["key"], "threads": row["threads"], "products_per_s": []}
        for row in rows
        if row["key"] in NETWORKS
    ]
    for i in range(arguments.repeats + 1):
        began = time.perf_counter()
        for row in rows:
            seeds = case.seeds[: row["n_seeds"]]
            make = TRACKERS[row["key"]].make
            start, _ = timed(make(case, seeds[:1], row["threads"]))
            seconds, result = timed(make(case, seeds, row["threads"]))
            row["streamlines"], row["points"] = count(result)
            del result
            if i > 0:
                row["seconds"].append(seconds)
                row["start"].append(start)
        for row in networks:
            torch.set_num_threads(row["threads"])
            seconds = seconds_of(products(matrices(network(row["key"])), BATCH_SIZE))
            if i > 0:
                row["products_per_s"].append(BATCH_SIZE / seconds)
        print(f"round {i}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    for row in networks:
        tracker = next(
            r for r in rows if all(r[k] == row[k] for k in ("key", "threads"))
        )
        seeds, options = case.seeds[: tracker["n_seeds"]], rnn_options(case, row["key"])
        lines = track(seeds, features=case.features, **options)
        n_rows = count_rows(lines, options["model"])
        row["rows_per_s"] = [n_rows / s for s in tracker["seconds"]]
    if not arguments.no_memory:
        for row in rows:
            row["memory_mb"] = in_a_process(
                memory_of_tracker, arguments, row["key"], row["threads"]
            )
    return rows, networks


def ratio(row, rows):
    """Return the ratio of steps per second to the default model, or None.

    It is the median over the rounds.
    """
    for base in rows:
        if (base["key"], base["threads"]) == ("default", row["threads"]):
            return np.median(
                [
                    row["points"] / mine / (base["points"] / theirs)
                    for mine, theirs in zip(row["seconds"], base["seconds"])
                ]
            )
    return None


def number(value, digits=3):
    """Format a number with few digits and spaces between thousands."""
    if value is None:
        return ""
    if abs(value) < 10 ** (digits - 1):
        return f"{value:.{digits}g}"
    return f"{float(f'{value:.{digits}g}'):,.0f}".replace(",", " ")


def steps_per_second(row):
    """Return the steps per second of the median round."""
    return row["points"] / np.median(row["seconds"])


def print_markdown(head, lines):
    """Print a table."""
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for line in lines:
        print(f"| {' | '.join(map(str, line))} |")


def print_table(rows, networks):
    """Print the table of trackers, and the table of networks."""
    print_markdown(
        ("tracker", "threads", "seconds", "start, s", "seeds", "streamlines")
        + ("mean points", "ms a streamline", "steps/s", "ratio", "memory, MB"),
        [
            (
                TRACKERS[row["key"]].label,
                row["threads"],
                number(np.median(row["seconds"])),
                number(np.median(row["start"])),
                row["n_seeds"],
                row["streamlines"],
                number(row["points"] / max(1, row["streamlines"])),
                number(1000 * np.median(row["seconds"]) / max(1, row["streamlines"])),
                number(steps_per_second(row)),
                number(ratio(row, rows)),
                number(row.get("memory_mb")),
            )
            for row in rows
        ],
    )
    if networks:
        print_markdown(
            ("network", "threads", "rows/s", "matrix products alone, rows/s", "share"),
            [
                (
                    row["key"],
                    row["threads"],
                    number(np.median(row["rows_per_s"])),
                    number(np.median(row["products_per_s"])),
                    number(
                        np.median(np.divide(row["rows_per_s"], row["products_per_s"]))
                    ),
                )
                for row in networks
            ],
        )


def sweep_call(case, what, value, threads):
    """Return a call that tracks and counts streamlines and points."""
    options = rnn_options(case, "default") | {"nbr_threads": threads}
    seeds = case.seeds
    if what == "seeds":
        seeds = case.jittered(value)
    elif what == "batch_size":
        seeds = case.jittered(4 * len(case.seeds))
        options["batch_size"] = value
    else:
        options["model"] = in_a_model(untrained("moving_frame", 8, 1, hidden=value))

    def call(n_seeds=None):
        streamlines = points = 0
        for line in rnn_tracking(
            seeds[:n_seeds], **options, features=case.features, min_len=MIN_LEN
        ):
            streamlines, points = streamlines + 1, points + len(line)
        return streamlines, points

    return call


def memory_of_sweep(arguments, what, value, threads):
    """Return the memory of a point of the sweep in MB."""
    call = sweep_call(Case(arguments), what, value, threads)
    call(10)
    return growth_mb(call)


def measure_sweep(case, arguments):
    """Measure `rnn_tracking` at each point of the sweep."""
    values = {
        "seeds": arguments.sweep_seeds,
        "batch_size": BATCH_SIZES,
        "hidden": WIDTHS,
    }
    rows = [
        {"what": what, "value": value, "threads": threads, "seconds": []}
        for what in values
        for threads in arguments.threads
        for value in values[what]
    ]
    for i in range(arguments.repeats):
        began = time.perf_counter()
        for row in rows:
            call = sweep_call(case, row["what"], row["value"], row["threads"])
            call(100)
            seconds, (row["streamlines"], row["points"]) = timed(call)
            row["seconds"].append(seconds)
        print(f"round {i + 1}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    if not arguments.no_memory:
        for row in rows:
            row["memory_mb"] = in_a_process(
                memory_of_sweep, arguments, row["what"], row["value"], row["threads"]
            )
    return rows


def print_sweep(rows):
    """Print the table of the sweep."""
    print_markdown(
        ("", "", "threads", "streamlines", "seconds", "ms a streamline", "steps/s")
        + ("memory, MB",),
        [
            (
                row["what"],
                row["value"],
                row["threads"],
                row["streamlines"],
                number(np.median(row["seconds"])),
                number(1000 * np.median(row["seconds"]) / max(1, row["streamlines"])),
                number(steps_per_second(row)),
                number(row.get("memory_mb")),
            )
            for row in rows
        ],
    )


AXES = {
    "seeds": "seeds",
    "batch_size": "batch size",
    "hidden": "hidden units of an untrained network",
}
COLOURS = ("#c2573a", "#31688e", "#5b9a57", "#8a6bb1")


def draw(path, table, sweep, title):
    """Plot the table as bars, and the sweep as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    keys = list(dict.fromkeys(row["key"] for row in table))
    quantities = {"steps per second": steps_per_second} if sweep else {}
    if any(row.get("memory_mb") is not None for row in sweep):
        quantities["memory, MB"] = lambda row: row["memory_mb"]
    heights = [0.45 * len(keys) + 1.2] * bool(table) + [2.8, 2.2][: len(quantities)]
    figure = plt.figure(figsize=(10, sum(heights) + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=9)
    panels = iter(
        figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
    )
    counts = sorted({row["threads"] for row in (*table, *sweep)})
    colours = dict(zip(counts, COLOURS * len(counts)))
    labels = {n: f"{n} thread{'s' * (n > 1)}" for n in counts}
    if table:
        axes = next(panels)[0].subplots()
        width = 0.8 / len(counts)
        for i, n in enumerate(counts):
            rows = [row for row in table if row["threads"] == n]
            places = [keys.index(row["key"]) + width * i for row in rows]
            rates = [steps_per_second(row) for row in rows]
            bars = axes.barh(places, rates, width, color=colours[n], label=labels[n])
            axes.bar_label(bars, map(number, rates), padding=3, fontsize=7)
        axes.set_yticks(
            np.arange(len(keys)) + width * (len(counts) - 1) / 2,
            [TRACKERS[key].label.replace("`", "") for key in keys],
            fontsize=8,
        )
        axes.invert_yaxis()
        axes.set(xscale="log", xlabel="steps per second")
        low, high = axes.get_xlim()
        axes.set_xlim(low / 2, 2 * high)
        axes.legend(fontsize=8)
    for quantity, of in quantities.items():
        panel = next(panels)[0].subplots(1, len(AXES), sharey=True)
        for axes, what in zip(panel, AXES):
            for n in counts:
                rows = [r for r in sweep if (r["what"], r["threads"]) == (what, n)]
                values = [row["value"] for row in rows]
                axes.plot(
                    values,
                    [of(row) for row in rows],
                    "o-",
                    color=colours[n],
                    label=labels[n],
                )
            axes.set(xscale="log", yscale="log", xlabel=AXES[what])
            axes.grid(alpha=0.3)
            axes.set_xticks(values, [number(v, 8) for v in values], fontsize=7)
            axes.minorticks_off()
        # All panels share this axis.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: number(value))
        panel[0].set_ylabel(quantity)
        panel[0].legend(fontsize=8)
    figure.savefig(path, dpi=150)


def machine():
    """Return one line with the date, the processor and the versions."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":")[1].strip()
    versions = [f"python {platform.python_version()}"]
    versions += [
        f"{name} {metadata.version(name)}"
        for name in ("dipy_rnn", "dipy", "torch", "numpy")
    ]
    if shutil.which("tckgen"):
        out = subprocess.run(["tckgen", "-version"], capture_output=True, text=True)
        versions.append(f"MRtrix3 {out.stdout.split()[2]}")
    return (
        f"{time.strftime('%Y-%m-%d')}, {cpu}, {_threads.count_threads(0)} cores, "
        f"{', '.join(versions)}"
    )


def main():
    """Measure, print and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "head",
        type=Path,
        nargs="?",
        help="folder of a head; a simulated scan if absent",
    )
    parser.add_argument("--work", type=Path, default=Path("real_data"))
    parser.add_argument(
        "--table", action="store_true", help="needed only together with --sweep"
    )
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--n_seeds", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=sorted({1, _threads.count_threads(0)}),
    )
    parser.add_argument("--max_angle", type=float, default=45.0)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=TRACKERS,
        help=f"trackers; default: all but {', '.join(NOT_BY_DEFAULT)}",
    )
    parser.add_argument(
        "--sweep_seeds", type=int, nargs="+", default=[1000, 10_000, 100_000]
    )
    parser.add_argument(
        "--no_memory", action="store_true", help="do not measure memory"
    )
    parser.add_argument("--picture", type=Path, help="PNG to write")
    parser.add_argument("--json", type=Path, help="JSON file of all times to write")
    arguments = parser.parse_args()
    title = machine()
    print(title)
    case = Case(arguments)
    print(
        f"\n{case.name}: {case.fa.shape}, {case.coefficients.shape[3]} coefficients, "
        f"{len(case.seeds)} seeds, steps of {STEP_MM:g} mm, turns of up to "
        f"{case.max_angle:g} degrees, {arguments.repeats} rounds"
    )
    table, networks, sweep = [], [], []
    if arguments.table or not arguments.sweep:
        table, networks = measure_table(case, arguments)
        print_table(table, networks)
    if arguments.sweep:
        sweep = measure_sweep(case, arguments)
        print_sweep(sweep)
    if arguments.json:
        found = {"machine": title, "command": sys.argv[1:]}
        found |= {"table": table, "networks": networks, "sweep": sweep}
        arguments.json.write_text(json.dumps(found, indent=1))
    if arguments.picture:
        draw(arguments.picture, table, sweep, title)


if __name__ == "__main__":
    main()
