"""Compare anatomically constrained tracking (ACT) with MRtrix3.

Run it by ``python benchmarks/act.py``. It prints tables in Markdown and saves plots to
``--pictures`` (doc/images). Its parts are:

rules
    Small simulated volumes, one for each rule of ACT. In each, a straight bundle runs
    along x from cortical grey matter into the tissue of the rule. Both trackers get
    the same seeds, which are voxel centres.
interface
    Seeds on the interface between a ball of white matter and the grey matter around
    it. The uniformity of the seeds is measured over 200 patches of equal area by the
    chi-squared statistic divided by its degrees of freedom. It is 1 for independent
    uniform seeds.
brain
    A simulated brain with a cortex, two balls of sub-cortical grey matter, ventricles,
    a layer of fluid and a brain stem. Bundles connect points of the cortex, or the
    cortex and sub-cortical grey matter. Partial volumes follow from the geometry.
    fODFs are fitted to a noisy simulated scan. Seeds are centres of white matter
    voxels, or lie on the interface.

If MRtrix3 is not installed, the rows of tckgen are left out. All random numbers come
from fixed seeds.
"""

import argparse
from collections import Counter
import contextlib
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from itertools import product
import os
from pathlib import Path
import re
import shutil
import subprocess
import tempfile
import time
import warnings

from dipy.core.gradients import generate_bvecs, gradient_table
from dipy.reconst.csdeconv import ConstrainedSphericalDeconvModel
from dipy.reconst.shm import convert_sh_descoteaux_tournier
from dipy.tracking.streamline import length
import matplotlib

matplotlib.use("Agg")

from matplotlib.collections import LineCollection
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from PIL import Image
from scipy.ndimage import map_coordinates

from dipy_rnn import load_model, sampling, spatial
from dipy_rnn.evaluation import known_bundles, score
from dipy_rnn.phantom import Ball, Bundle, Phantom
from dipy_rnn.pipeline import interface_seeds
from dipy_rnn.stopping import ThresholdStoppingCriterion, Tissues, format_fates
from dipy_rnn.tracking import track

CGM, SGM, WM, CSF, PATHOLOGY = range(5)  # volumes of a 5TT image
STEP_MM, MAX_ANGLE = 0.5, 45.0
SEEDED = {**os.environ, "MRTRIX_RNG_SEED": "1"}
HAS_MRTRIX = shutil.which("tckgen") is not None


@dataclass(frozen=True, eq=False)
class World:
    """The input of both trackers.

    Parameters
    ----------
    fodf : ndarray of shape (X, Y, Z, C)
        In the default basis of DIPY 1.
    five : ndarray of shape (X, Y, Z, 5)
        A 5TT image.
    affine : ndarray of shape (4, 4)
        Voxel to mm, without rotation: voxel axes are those of the scanner.
    """

    fodf: np.ndarray
    five: np.ndarray
    affine: np.ndarray

    @cached_property
    def tissues(self):
        """The tissue fractions as three maps."""
        return Tissues.from_5tt(self.five)

    @cached_property
    def features(self):
        """The features of the fODF."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about unusual fODFs
            return sampling.fodf_features(self.fodf)

    def centres(self, where):
        """Return the centres of voxels (N, 3) in mm."""
        return spatial.to_mm(np.argwhere(where), self.affine)

    def track(self, seeds, criterion, model="default", **options):
        """Track with a network, and return the records of the streamlines."""
        return list(
            track(
                seeds,
                criterion,
                self.affine,
                features=self.features,
                model=load_model(model),
                step_size=STEP_MM,
                max_angle=MAX_ANGLE,
                **options,
            )
        )

    def tckgen(self, *options, algorithm="SD_Stream", where=None, **images):
        """Track with MRtrix3.

        Parameters
        ----------
        options : str
            Options of tckgen.
        algorithm : str, optional
        where : ndarray of shape (X, Y, Z), optional
            Seeds are the centres of these voxels.
        images : ndarray of shape (X, Y, Z)
            Options whose value is an image.

        Returns
        -------
        streamlines : list of ndarrays of shape (M, 3)
        rejections : Counter
            Number of rejected streamlines for each reason that tckgen gives.
        """
        with tempfile.TemporaryDirectory() as folder:

            def write(name, volume):
                path = f"{folder}/{name}.nii"
                image = nib.Nifti1Image(np.asarray(volume, np.float32), self.affine)
                nib.save(image, path)
                return path

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PendingDeprecationWarning)
                fodf = write("fod", convert_sh_descoteaux_tournier(self.fodf))
            command = ["tckgen", fodf, f"{folder}/out.tck", "-algorithm", algorithm]
            command += ["-act", write("5tt", self.five), *map(str, options)]
            if where is not None:
                grid = ["-seed_grid_per_voxel", write("where", where), "1"]
                command += [*grid, "-select", "0"]
            for option, volume in images.items():
                command += [f"-{option}", write(option, volume)]
            command += ["-step", str(STEP_MM), "-angle", str(MAX_ANGLE)]
            command += ["-info", "-nthreads", "0"]  # keeps the order of seeds
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, env=SEEDED
            )
            lines = list(nib.streamlines.load(f"{folder}/out.tck").streamlines)
        return [np.array(line) for line in lines], rejections_of(done.stderr)


def rejections_of(log):
    """Parse the rejection counts from the output of tckgen -info."""
    log = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", log).partition("Track rejection counts")
    found = re.findall(r"\[INFO\]   (.+): (\d+)$", log[2], re.MULTILINE)
    return Counter({reason: int(n) for reason, n in found if int(n)})


# Rules

RULES_SHAPE, RULES_VOXEL_MM = (25, 9, 5), 2.0
RULES_HALF_MM = 25.0
CORTEX_MM = -20.0  # x below which every volume has cortex
LOBE_DEG = 15.0  # a narrow lobe, so that tckgen finds its first direction


@dataclass(frozen=True, eq=False)
class Rule:
    """A volume for one rule, made of layers along x.

    Parameters
    ----------
    title : str
    layers : sequence of (float, dict)
        The x in mm at which a layer begins, and its tissue fraction for each volume
        of the 5TT image. White matter is to the left of the first layer.
    seeds_mm : float, optional
        x of the seeds.
    turn_mm : float, optional
        Beyond this x, fibres run along y.
    weak_mm, strength : float, optional
        Beyond `weak_mm`, the fODF is multiplied by `strength`.
    max_len : float, optional
        In mm.
    """

    title: str
    layers: tuple
    seeds_mm: float = 0.0
    turn_mm: float = np.inf
    weak_mm: float = np.inf
    strength: float = 0.0
    max_len: float = 200.0

    @cached_property
    def world(self):
        """The fODF of the bundle, and the tissue fractions of each voxel."""
        affine = np.diag([RULES_VOXEL_MM] * 3 + [1.0])
        affine[:3, 3] = -RULES_VOXEL_MM * (np.array(RULES_SHAPE) - 1) / 2
        x_mm = spatial.to_mm(np.indices(RULES_SHAPE).reshape(3, -1).T, affine)[:, 0]
        low, high = x_mm - RULES_VOXEL_MM / 2, x_mm + RULES_VOXEL_MM / 2
        layers = [(-np.inf, {CGM: 1}), (CORTEX_MM, {WM: 1}), *self.layers]
        begins = [begin for begin, _ in layers]
        five = np.zeros((len(x_mm), 5))
        for (begin, shares), end in zip(layers, [*begins[1:], np.inf], strict=True):
            overlap = np.clip(np.minimum(high, end) - np.maximum(low, begin), 0, None)
            for volume, share in shares.items():
                five[:, volume] += share * overlap / RULES_VOXEL_MM
        along_x, along_y = (
            fodf_of([Bundle(np.array([-far, far]), 40.0)], affine, RULES_SHAPE)
            for far in 60.0 * np.eye(3)[:2]
        )
        x_mm = x_mm.reshape(*RULES_SHAPE, 1)
        fodf = np.where(x_mm > self.turn_mm, along_y, along_x)
        fodf = np.where(x_mm > self.weak_mm, self.strength * fodf, fodf)
        return World(fodf, five.reshape(*RULES_SHAPE, 5), affine)


def fodf_of(bundles, affine, shape):
    """Return the fODF of bundles, scaled so that the lobe of a fibre is 1 high."""
    fodf = Phantom(bundles, affine, shape).fodf(lobe_deg=LOBE_DEG)
    orders = np.array([0] + [2] * 5 + [4] * 9 + [6] * 13 + [8] * 17)
    smoothing = np.exp(-(np.radians(LOBE_DEG) ** 2) * orders * (orders + 1) / 2)
    # The squares of the harmonics of order l sum to (2 l + 1) / (4 pi).
    return fodf / (smoothing.sum() / (4 * np.pi))


RULES = (
    Rule("into cortical grey matter", ((16, {CGM: 1}), (20, {CSF: 1}))),
    Rule("into fluid", ((16, {CSF: 1}),)),
    Rule("over the edge of the image", ()),
    Rule("into the background", ((16, {}),)),
    Rule("sub-cortical grey matter, then fluid", ((10, {SGM: 1}), (16, {CSF: 1}))),
    Rule(
        "sub-cortical grey matter, then white matter",
        ((10, {SGM: 1}), (16, {WM: 1}), (20, {CGM: 1})),
    ),
    Rule(
        "seeds in sub-cortical grey matter",
        ((-4, {SGM: 1}), (4, {WM: 1}), (20, {CGM: 1})),
    ),
    Rule(
        "seeds in cortical grey matter",
        ((-4, {CGM: 1}), (4, {WM: 1}), (20, {CGM: 1})),
    ),
    Rule("seeds in fluid", ((-4, {CSF: 1}), (4, {WM: 1}), (20, {CGM: 1}))),
    Rule(
        "40 % grey, 35 % white, 25 % fluid, then fluid",
        ((10, {CGM: 0.4, WM: 0.35, CSF: 0.25}), (18, {CSF: 1})),
    ),
    Rule(
        "40 % fluid, 35 % white, 25 % grey, then grey",
        ((10, {CSF: 0.4, WM: 0.35, CGM: 0.25}), (18, {CGM: 1})),
    ),
    Rule("a sharp turn in white matter", (), turn_mm=10),
    Rule("a sharp turn in pathological tissue", ((4, {PATHOLOGY: 1}),), turn_mm=10),
    Rule("fODF of 2 % of the height", (), weak_mm=10, strength=0.02),
    Rule("fODF of zero", (), weak_mm=10),
    Rule("longer than the maximum, 30 mm", ((16, {CGM: 1}),), max_len=30),
)


@dataclass(frozen=True)
class Outcome:
    """The result of tracking the seeds of a rule.

    Parameters
    ----------
    lines : list of ndarray of shape (M, 3)
        In mm. tckgen does not return those that it rejects.
    reason : str
        Why the streamlines are rejected, or empty if they are kept.
    """

    lines: list
    reason: str

    def __str__(self):
        if self.reason:
            return f"rejected: {self.reason}"
        first, last = sorted(self.lines[0][[0, -1], 0])
        if first == last:
            return "kept: a point"
        return f"kept, from {first:.1f} to {last:.1f} mm"


def outcomes(rule):
    """Track the seeds of a rule with both trackers.

    Returns
    -------
    ours, theirs : Outcome
        `theirs` is None if MRtrix3 is not installed.
    """
    world = rule.world
    x = round((rule.seeds_mm - world.affine[0, 3]) / RULES_VOXEL_MM)
    where = np.zeros(RULES_SHAPE, dtype=bool)
    where[x, 1:-1, RULES_SHAPE[2] // 2] = True
    records = world.track(
        world.centres(where),
        world.tissues.act_criterion(),
        max_len=rule.max_len,
    )
    fates = {
        min(r for r in (line.forward_stop, line.backward_stop) if not r.is_valid_end)
        for line in records
        if not line.has_valid_ends
    }
    reason = " and ".join(fate.message for fate in fates)
    ours = Outcome([line.points_mm for line in records], reason)
    if not HAS_MRTRIX:
        return ours, None
    options = ["-seed_direction", "1,0,0", "-minlength", 2 * STEP_MM]
    lines, rejections = world.tckgen(*options, "-maxlength", rule.max_len, where=where)
    return ours, Outcome(lines, " and ".join(map(str.lower, rejections)))


TISSUE_COLOURS = {  # for each volume of a 5TT image
    CGM: (0.95, 0.62, 0.62),
    SGM: (0.98, 0.78, 0.45),
    WM: (0.97, 0.96, 0.92),
    CSF: (0.55, 0.75, 0.95),
    PATHOLOGY: (0.80, 0.70, 0.88),
}
TISSUE_NAMES = {
    CGM: "cortical grey matter",
    SGM: "sub-cortical grey matter",
    WM: "white matter",
    CSF: "cerebrospinal fluid",
    PATHOLOGY: "pathological tissue",
}
OURS_COLOUR, THEIRS_COLOUR = "#b3261e", "#0b4f9e"


def tissue_picture(five):
    """Mix the colours of tissues by their fractions: (X, Y, 5) becomes (X, Y, 3)."""
    return np.clip(five @ np.array([TISSUE_COLOURS[i] for i in range(5)]), 0, 1)


def show_tissues(axis, world, z, aspect="equal"):
    """Draw the tissues of a slice along z, seen from above."""
    shape = np.array(world.five.shape[:2])
    low = spatial.to_mm(np.array([-0.5, -0.5, 0]), world.affine)
    high = spatial.to_mm(np.array([*(shape - 0.5), 0]), world.affine)
    axis.imshow(
        tissue_picture(world.five[:, :, z]).swapaxes(0, 1),
        origin="lower",
        aspect=aspect,
        extent=(low[0], high[0], low[1], high[1]),
        interpolation="nearest",
    )
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))


def draw_rules(results, path):
    """Draw a panel for each rule, with dipy_rnn above and tckgen below."""
    figure, axes = plt.subplots(4, 4, figsize=(15, 10.5), layout="constrained")
    for axis, (rule, ours, theirs) in zip(axes.flat, results, strict=True):
        show_tissues(axis, rule.world, RULES_SHAPE[2] // 2, aspect="auto")
        axis.axhline(0, color="0.4", lw=0.8, ls=(0, (1, 2)))
        for outcome, sign, colour in (
            (ours, 1, OURS_COLOUR),
            (theirs, -1, THEIRS_COLOUR),
        ):
            if outcome is None:
                continue
            rows_mm = sign * RULES_VOXEL_MM * np.arange(1, 4)
            for line in outcome.lines:
                at_seed = line[np.argmin(np.abs(line[:, 0] - rule.seeds_mm))]
                if not np.isclose(rows_mm, at_seed[1], atol=0.1).any():
                    continue
                style = (0, (3, 1.5)) if outcome.reason else "-"
                axis.plot(line[:, 0], line[:, 1], color=colour, lw=1.6, ls=style)
                if not outcome.reason:
                    ends = line[[0, -1]]
                    axis.plot(*ends.T[:2], "o", ms=4, color=colour, clip_on=False)
            axis.plot(
                np.full(3, rule.seeds_mm),
                rows_mm,
                "x" if outcome.reason else "D",
                ms=6 if outcome.reason else 3.5,
                mew=2,
                color=colour,
                mfc="white",
            )
        axis.set_title(rule.title, fontsize=10.5, fontweight="bold")
        axis.set_yticks([])
        axis.set_xlabel(
            f"dipy_rnn {ours}\ntckgen {theirs or 'is not installed'}", fontsize=8
        )
        axis.tick_params(labelsize=8)
    handles = [
        plt.Rectangle((0, 0), 1, 1, fc=TISSUE_COLOURS[i], ec="0.5", label=name)
        for i, name in TISSUE_NAMES.items()
    ]
    handles.append(plt.Rectangle((0, 0), 1, 1, fc="black", label="background"))
    for colour, name in ((OURS_COLOUR, "dipy_rnn"), (THEIRS_COLOUR, "tckgen")):
        handles.append(plt.Line2D([], [], color=colour, lw=2, label=name))
    handles += [
        plt.Line2D([], [], color="k", marker="o", ms=4, label="kept: ends"),
        plt.Line2D([], [], color="k", ls=(0, (3, 1.5)), label="rejected"),
        plt.Line2D([], [], color="k", marker="D", mfc="w", ms=4, ls="", label="seed"),
        plt.Line2D(
            [], [], color="k", marker="x", ms=6, mew=2, ls="", label="seed, rejected"
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=9)
    figure.get_layout_engine().set(hspace=0.06, wspace=0.02)
    save(figure, path)


def save(figure, path):
    """Save a figure with a palette, which reduces the file to a third of the size."""
    figure.savefig(path, dpi=110)
    plt.close(figure)
    with Image.open(path) as picture:
        palette = picture.convert("RGB").quantize(192)
    palette.save(path, optimize=True)


def rules(pictures):
    """Print and draw the outcome of each rule for both trackers."""
    print("| the bundle goes | dipy_rnn | tckgen -act |\n|---|---|---|")
    results = []
    for rule in RULES:
        ours, theirs = outcomes(rule)
        print(f"| {rule.title} | {ours} | {theirs or ''} |", flush=True)
        results.append((rule, ours, theirs))
    draw_rules(results, pictures / "act_rules.png")


# Interface

BALL_RADIUS_MM, SHELL_MM = 16.0, 4.0
N_INTERFACE = 40_000


def shares_of(inside, affine, shape, n_per_axis=5):
    """Return the fractions of tissues in voxels.

    Parameters
    ----------
    inside : callable
        Takes points (N, 3) in mm and returns the tissue fractions (N, T) there.
    """
    centres_vox = np.indices(shape).reshape(3, -1).T.astype(float)
    offsets = (np.arange(n_per_axis) + 0.5) / n_per_axis - 0.5
    total = 0
    for shift in product(offsets, repeat=3):
        total = total + inside(spatial.to_mm(centres_vox + shift, affine))
    return (total / n_per_axis**3).reshape(*shape, -1)


def ball(sizes_mm):
    """Make a ball of white matter in a shell of grey matter, surrounded by fluid."""
    shape = tuple(int(n) for n in 2 * np.ceil(24 / np.array(sizes_mm)) + 1)
    affine = np.diag([*sizes_mm, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)

    def inside(points_mm):
        distance_mm = np.linalg.norm(points_mm, axis=1)
        layer = np.searchsorted(
            [BALL_RADIUS_MM, BALL_RADIUS_MM + SHELL_MM], distance_mm
        )
        return np.eye(5)[np.array([WM, CGM, CSF])[layer]]

    fodf = np.zeros((*shape, 15))
    fodf[..., 0] = 1.0
    return World(fodf, shares_of(inside, affine, shape), affine)


def unevenness(points_mm):
    """Return chi-squared over its degrees of freedom, for 10 x 20 equal areas."""
    unit = points_mm / np.linalg.norm(points_mm, axis=1, keepdims=True)
    counts, _, _ = np.histogram2d(
        unit[:, 2],
        np.arctan2(unit[:, 1], unit[:, 0]),
        bins=(10, 20),
        range=((-1, 1), (-np.pi, np.pi)),
    )
    return np.sum((counts - counts.mean()) ** 2) / counts.mean() / (counts.size - 1)


def interface():
    """Print how uniform seeds are on the interface of a ball."""
    print("| voxels, mm | seeds by | seeds | from the centre, mm | chi2 / dof |")
    print("|---|---|---|---|---|")
    for sizes_mm in ((2.0, 2.0, 2.0), (1.0, 2.0, 3.0)):
        world = ball(sizes_mm)
        seeds = interface_seeds(world.tissues, world.affine, N_INTERFACE)
        rows = [("interface_seeds", seeds)]
        if HAS_MRTRIX:
            lines, _ = world.tckgen(
                *("-select", N_INTERFACE, "-seeds", 0),
                algorithm="Seedtest",
                seed_gmwmi=gmwmi(world),
            )
            rows.append(("tckgen -seed_gmwmi", np.array([line[0] for line in lines])))
        for label, points_mm in rows:
            distance_mm = np.linalg.norm(points_mm, axis=1)
            print(
                f"| {' x '.join(f'{size:g}' for size in sizes_mm)} | {label} "
                f"| {len(points_mm)} | {distance_mm.mean():.2f} +- "
                f"{distance_mm.std():.2f} | {unevenness(points_mm):.1f} |",
                flush=True,
            )


def gmwmi(world):
    """Return the interface mask that 5tt2gmwmi computes from the 5TT image."""
    with tempfile.TemporaryDirectory() as folder:
        image, mask = f"{folder}/5tt.nii", f"{folder}/gmwmi.nii"
        nib.save(nib.Nifti1Image(np.float32(world.five), world.affine), image)
        subprocess.run(["5tt2gmwmi", image, mask, "-quiet"], check=True)
        return nib.load(mask).get_fdata()


# Brain

BRAIN_SHAPE, BRAIN_VOXEL_MM = (36, 36, 36), 2.5
WHITE_MM, BUNDLE_END_MM, GREY_MM, HEAD_MM = 33.0, 36.0, 38.0, 42.0  # radii
VENTRICLES = (Ball((-7.0, 0.0, 7.0), 8.0), Ball((7.0, 0.0, 7.0), 8.0))
THALAMI = (Ball((-12.0, -3.0, -9.0), 9.0), Ball((12.0, -3.0, -9.0), 9.0))
N_CORTICAL, N_THALAMIC = 24, 8
BRAIN_SEED, SNR = 2027, 20
N_DIRECTIONS, B_VALUE = 64, 2000
EVALS, S0 = (1.7e-3, 3e-4, 3e-4), 100.0
N_SEEDS, N_KNOWN = 2000, 1000
SEED_THR = 0.5  # fraction of fibres
MIN_MM, MAX_MM = 10.0, 250.0
STOPPING_THR = 0.2  # fraction of fibres, for tracking without ACT
SLAB_MM = 10.0  # thickness of the slab that is drawn
MODELS = ("default", "deterministic")


def curve(first, middle, last):
    """Return points along a quadratic Bezier curve, in mm."""
    t = np.linspace(0, 1, 400)[:, None]
    return (1 - t) ** 2 * first + 2 * t * (1 - t) * middle + t**2 * last


def make_bundles():
    """Make a brain stem and random bundles from cortex to cortex and to the thalami."""
    rng = np.random.default_rng(BRAIN_SEED)

    def on_cortex():
        point = rng.standard_normal(3)
        point[2] = np.abs(point[2]) - 0.3
        return BUNDLE_END_MM * point / np.linalg.norm(point)

    def keeps_clear(line, radius_mm, thalamus):
        # Between its ends, the bundle stays below the cortex.
        if np.linalg.norm(line[80:-80], axis=1).max() > WHITE_MM - radius_mm:
            return False
        obstacles = [*VENTRICLES, *(t for t in THALAMI if t is not thalamus)]
        return all(
            np.linalg.norm(line - each.centre_mm, axis=1).min()
            > each.radius_mm + 0.2 * radius_mm
            for each in obstacles
        )

    top, bottom = np.array([0, -4.0, 36]), np.array([0, 0, -44.0])
    stem = curve(top, np.array([0, -26.0, 0]), bottom)
    bundles = [Bundle(stem, 5.0)]
    wanted = [None] * N_CORTICAL + [THALAMI[i % 2] for i in range(N_THALAMIC)]
    while wanted:
        thalamus, radius_mm = wanted[-1], rng.uniform(4.0, 6.5)
        first, last = on_cortex(), on_cortex()
        middle = 0.35 * (first + last) + rng.normal(0, 8, 3)
        if thalamus is not None:
            inward = first - thalamus.centre_mm
            inward *= (thalamus.radius_mm - 4) / np.linalg.norm(inward)
            last, radius_mm = thalamus.centre_mm + inward, 4.0
            middle = (first + last) / 2 + rng.normal(0, 5, 3)
        line = curve(first, middle, last)
        if np.linalg.norm(first - last) < 32 or not keeps_clear(
            line, radius_mm, thalamus
        ):
            continue
        with contextlib.suppress(ValueError):  # the tube would overlap itself
            bundles.append(Bundle(line, radius_mm))
            wanted.pop()
    return bundles


def make_brain():
    """Simulate a scan of the brain, and fit fODFs to it.

    Returns
    -------
    world : World
    fraction : ndarray of shape (X, Y, Z)
        Fibre fraction.
    bundles : list of KnownBundle
    """
    affine = np.diag([BRAIN_VOXEL_MM] * 3 + [1.0])
    affine[:3, 3] = -BRAIN_VOXEL_MM * (np.array(BRAIN_SHAPE) - 1) / 2
    phantom = Phantom(make_bundles(), affine, BRAIN_SHAPE, csf=VENTRICLES)

    def inside(points_mm):
        distance_mm = np.linalg.norm(points_mm, axis=1)
        thalamus = np.max([each.fraction(points_mm) for each in THALAMI], axis=0)
        water = np.max([each.fraction(points_mm) for each in VENTRICLES], axis=0)
        thalamus *= 1 - water
        stem = phantom.bundles[0].directions(points_mm)[1] * (points_mm[:, 2] < 0)
        # White matter, grey matter, fluid, background. The stem crosses all of them.
        layer = np.searchsorted([WHITE_MM, GREY_MM, HEAD_MM], distance_mm)
        shares = np.zeros((len(points_mm), 5))
        shares[:, WM] = np.where(layer == 0, 1 - water - thalamus, stem)
        shares[:, SGM] = np.where(layer == 0, thalamus, 0)
        shares[:, CGM] = np.where(layer == 1, 1 - stem, 0)
        shares[:, CSF] = np.where(layer == 2, 1 - stem, np.where(layer == 0, water, 0))
        return shares

    five = shares_of(inside, affine, BRAIN_SHAPE, n_per_axis=3)
    fraction = phantom.peaks()[0].sum(axis=-1)

    bvecs = generate_bvecs(N_DIRECTIONS, rng=np.random.default_rng(0))
    gtab = gradient_table(
        np.r_[0, np.full(N_DIRECTIONS, B_VALUE)], bvecs=np.r_[np.zeros((1, 3)), bvecs]
    )
    dwi = phantom.dwi(gtab, snr=SNR, evals=EVALS, s0=S0, random_seed=BRAIN_SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a future change of the default basis
        model = ConstrainedSphericalDeconvModel(
            gtab, (np.array(EVALS), S0), sh_order_max=8
        )
        fodf = model.fit(dwi, mask=five.sum(axis=-1) > 0.5).shm_coeff
    world = World(fodf, five, affine)
    known, ids = phantom.streamlines(N_KNOWN)
    known = [without_grey_ends(line, world) for line in known]
    bundles = known_bundles(
        [known[start : start + N_KNOWN] for start in range(0, len(ids), N_KNOWN)],
        affine,
        BRAIN_SHAPE,
        end_mm=5.0,
    )
    return world, fraction, bundles


def without_grey_ends(line, world):
    """Cut off the ends of a true streamline that lie in grey matter."""
    points_vox = spatial.to_voxels(line, world.affine).T
    white = map_coordinates(world.tissues.gm, points_vox, order=1) <= 0.5
    first, last = np.flatnonzero(white)[[0, -1]]
    return line[first : last + 1]


@dataclass(frozen=True, eq=False)
class Row:
    """The result of one tracker."""

    label: str
    n_seeds: int
    kept: list
    rejected: list
    reasons: str
    seconds: float


def ours(world, label, seeds, criterion, model, keep_all=False):
    """Track with a network, and reject streamlines by the reasons why they end."""
    start = time.perf_counter()
    records = world.track(
        seeds, criterion, model=model, max_len=MAX_MM, random_seed=1, nbr_threads=1
    )
    seconds = time.perf_counter() - start
    fates = Counter((line.forward_stop, line.backward_stop) for line in records)
    print(f"\n{label}, of {len(seeds)} seeds:\n\n```\n{format_fates(fates)}\n```")
    long = [line for line in records if length(line.points_mm) >= MIN_MM]
    kept = [line for line in long if keep_all or line.has_valid_ends]
    rejected = [line.points_mm for line in records if not line.has_valid_ends]
    reasons = f"{len(records) - len(long)} short"
    return Row(
        label,
        len(seeds),
        [line.points_mm for line in kept],
        [] if keep_all else rejected,
        reasons,
        seconds,
    )


def theirs(world, label, n_seeds, *options, algorithm="SD_Stream", **more):
    """Track with tckgen."""
    start = time.perf_counter()
    lengths = ("-minlength", MIN_MM, "-maxlength", MAX_MM)
    lines, rejections = world.tckgen(*lengths, *options, algorithm=algorithm, **more)
    seconds = time.perf_counter() - start
    print(f"\n{label}, of {n_seeds} seeds:\n\n```")
    for reason, n in rejections.most_common():
        print(f"rejected {100 * n / n_seeds:5.1f} % {n:9d}  {reason.lower()}")
    print("```")
    return Row(label, n_seeds, lines, [], "", seconds)


def ends_in_grey(lines, world):
    """Return the share of streamlines with both ends in grey matter.

    An end is in grey matter if grey matter or background has the largest fraction at
    the end point or one step beyond it. dipy_rnn stops before that point, tckgen at it.
    """
    shares = np.moveaxis(
        np.stack([world.tissues.wm, world.tissues.gm, world.tissues.csf], -1), 3, 0
    )
    grey = np.ones((len(lines), 2), dtype=bool)
    for e, (end, before) in enumerate(((0, 1), (-1, -2))):
        last = np.array([line[end] for line in lines])
        step = last - np.array([line[before] for line in lines])
        found = np.zeros(len(lines), dtype=bool)
        for points_mm in (last, last + step):
            points = spatial.to_voxels(points_mm, world.affine).T
            here = np.array([map_coordinates(s, points, order=1) for s in shares])
            found |= (here.argmax(axis=0) == 1) | (here.sum(axis=0) < 0.5)
        grey[:, e] = found
    return grey.all(axis=1).mean()


def print_rows(rows, world, bundles):
    """Print the table of all trackers."""
    print(
        "\n| tracker | seeds | kept | mean length, mm | both ends in grey matter "
        "| valid | invalid | none | bundles | overlap | overreach | F1 |"
    )
    print("|---|" + "---|" * 11)
    for row in rows:
        scores = score(row.kept, bundles, world.affine)
        print(
            f"| {row.label} | {row.n_seeds} | {len(row.kept) / row.n_seeds:.3f} "
            f"| {np.mean(length(row.kept)):.1f} "
            f"| {ends_in_grey(row.kept, world):.3f} "
            f"| {scores.valid_connections:.3f} | {scores.invalid_connections:.3f} "
            f"| {scores.no_connections:.3f} "
            f"| {scores.valid_bundles} of {scores.n_bundles} | {scores.overlap:.3f} "
            f"| {scores.overreach:.3f} | {scores.f1:.3f} |",
            flush=True,
        )


def brain(pictures):
    """Print and draw the results of all trackers in the brain."""
    world, fraction, bundles = make_brain()
    rng = np.random.default_rng(1)
    seedable = fraction > SEED_THR
    voxels = np.argwhere((world.tissues.wm > 0.5) & seedable)
    voxels = voxels[np.sort(rng.permutation(len(voxels))[:N_SEEDS])]
    where = np.zeros(BRAIN_SHAPE, dtype=bool)
    where[tuple(voxels.T)] = True
    in_white = world.centres(where)
    on_interface = interface_seeds(
        world.tissues, world.affine, N_SEEDS, mask=seedable, random_seed=1
    )
    act = world.tissues.act_criterion()
    cmc = world.tissues.cmc_criterion(STEP_MM, spatial.voxel_sizes(world.affine))
    threshold = ThresholdStoppingCriterion(fraction, STOPPING_THR)
    algorithms = ("SD_Stream", "iFOD2") if HAS_MRTRIX else ()

    rows = [ours(world, "`default`, threshold", in_white, threshold, "default", True)]
    rows += [ours(world, f"`{m}`, ACT", in_white, act, m) for m in MODELS]
    rows.insert(2, ours(world, "`default`, CMC", in_white, cmc, "default"))
    rows += [
        theirs(world, f"tckgen {a} -act", len(in_white), algorithm=a, where=where)
        for a in algorithms
    ]
    print_rows(rows, world, bundles)
    draw_brain(world, rows, pictures / "act_brain.png")

    rows = [ours(world, "`default`, ACT", on_interface, act, "default")]
    rows += [ours(world, "`default`, CMC", on_interface, cmc, "default")]
    rows += [ours(world, "`deterministic`, ACT", on_interface, act, "deterministic")]
    rows += [
        theirs(
            world,
            f"tckgen {a} -act -seed_gmwmi",
            N_SEEDS,
            *("-seeds", N_SEEDS, "-select", 0),
            algorithm=a,
            seed_gmwmi=gmwmi(world) * seedable,
        )
        for a in algorithms
    ]
    print_rows(rows, world, bundles)


def draw_brain(world, rows, path):
    """Draw a slice of the tissues, and the streamlines of each tracker near it."""
    middle = BRAIN_SHAPE[1] // 2
    low = spatial.to_mm(np.full(3, -0.5), world.affine)
    high = spatial.to_mm(np.array(BRAIN_SHAPE) - 0.5, world.affine)
    picture = tissue_picture(world.five[:, middle]).swapaxes(0, 1)
    y_mm = spatial.to_mm(np.full(3, middle), world.affine)[1]
    figure, axes = plt.subplots(2, 4, figsize=(15, 8.2), layout="constrained")
    for axis, row in zip(axes.flat, [None, *rows], strict=False):
        axis.imshow(
            picture if row is None else 0.3 * picture,
            origin="lower",
            extent=(low[0], high[0], low[2], high[2]),
        )
        if row is None:
            axis.set_title("tissues", fontsize=12)
            continue
        for lines, is_kept in ((row.rejected, False), (row.kept, True)):
            segments = [np.stack([line[:-1], line[1:]], axis=1) for line in lines]
            segments = np.concatenate([np.empty((0, 2, 3)), *segments])
            near = np.abs(segments[:, :, 1] - y_mm).max(axis=1) < SLAB_MM / 2
            segments = segments[near]
            along = np.abs(segments[:, 1] - segments[:, 0])
            along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
            axis.add_collection(
                LineCollection(
                    segments[..., [0, 2]],
                    colors=along if is_kept else "white",
                    linewidths=0.7 if is_kept else 0.4,
                    alpha=None if is_kept else 0.5,
                )
            )
        axis.set(xlim=(low[0], high[0]), ylim=(low[2], high[2]))
        share = 100 * len(row.kept) / row.n_seeds
        label = row.label.replace("`", "")
        axis.set_title(f"{label}: {share:.0f} % kept", fontsize=12)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for axis in axes.flat[1 + len(rows) :]:
        axis.axis("off")
    handles = [
        plt.Rectangle((0, 0), 1, 1, fc=TISSUE_COLOURS[i], label=TISSUE_NAMES[i])
        for i in (CGM, SGM, WM, CSF)
    ]
    ways = {"left to right": "r", "front to back": "lime", "up and down": "b"}
    handles += [
        plt.Line2D([], [], color=colour, lw=2, label=f"kept, {way}")
        for way, colour in ways.items()
    ]
    handles.append(plt.Line2D([], [], color="white", lw=2, label="rejected"))
    axes.flat[-1].legend(
        handles=handles, loc="center", fontsize=12, facecolor="0.3", labelcolor="white"
    )
    save(figure, path)


def main():
    """Run the selected parts of the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=("rules", "interface", "brain"))
    parser.add_argument("--pictures", type=Path, default=Path("doc/images"))
    arguments = parser.parse_args()
    versions = [
        f"{name} {metadata.version(name)}" for name in ("dipy", "torch", "numpy")
    ]
    if HAS_MRTRIX:
        out = subprocess.run(["tckgen", "-version"], capture_output=True, text=True)
        versions.append(f"MRtrix3 {out.stdout.split()[2]}")
    else:
        versions.append("MRtrix3 is not installed: its rows are left out")
    print(f"{time.strftime('%Y-%m-%d')}, {', '.join(versions)}")
    for name, part in (("rules", rules), ("brain", brain)):
        if name in arguments.only:
            print(f"\n## {name}\n")
            part(arguments.pictures)
    if "interface" in arguments.only:
        print("\n## interface\n")
        interface()


if __name__ == "__main__":
    main()
