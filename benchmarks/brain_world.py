"""Compare simulated brains with scans of heads, and trackers with oracles.

Run it by ``python benchmarks/brain_world.py``. It prints tables in Markdown. With
``--picture FILE`` it draws a brain. Each head of ``--heads`` is a folder with
``dwi.nii.gz``, ``dwi.bval``, ``dwi.bvec`` and ``mask.nii.gz``. Its parts are:

heads
    Numbers of simulated brains and of heads: shares of voxels with 1, 2 and 3 peaks,
    lengths and turns of streamlines, fractional anisotropy, and amplitudes of fODFs. A
    brain is simulated on each head's grid spacing with the head's gradient table. All
    are fitted by DIPY's constrained spherical deconvolution, and tracked by its
    deterministic tracking where the fractional anisotropy is above 0.2.
oracle
    Scores of the oracles beside those of DIPY's deterministic tracking on a fitted
    fODF, with the same seeds. Streamlines stay in white matter.
trackers
    Scores of models (``--models``) beside those of DIPY's deterministic tracking and of
    the oracle that knows its bundle, for two levels of noise and three `max_angle`. All
    have the same seeds and options, and the trackers the same first directions: the
    largest peaks. Steps are 0.5 mm. "way" is the share of the way from deterministic
    tracking to the oracle. "se" is the standard error of the difference from
    deterministic tracking, paired over seeds. A model that knows when it is lost has a
    second row, in which streamlines end there (``--lost_thr``). With ``--msmt`` the
    scan has three shells, and the fODF is that of multi-shell multi-tissue
    deconvolution by MRtrix3, which must be installed. (That of DIPY takes ten minutes
    for a brain.)

All random numbers come from fixed seeds.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
import subprocess
import tempfile
import time
import warnings

from dipy.core.gradients import GradientTable, gradient_table
from dipy.core.sphere import HemiSphere, disperse_charges
from dipy.data import default_sphere
from dipy.direction import peak_directions
from dipy.io.gradients import read_bvals_bvecs
from dipy.io.image import load_nifti_data, save_nifti
from dipy.reconst.csdeconv import ConstrainedSphericalDeconvModel
from dipy.reconst.dti import TensorModel, color_fa
from dipy.reconst.shm import sh_to_sf
from dipy.tracking.stopping_criterion import (
    BinaryStoppingCriterion,
    ThresholdStoppingCriterion,
)
from dipy.tracking.tracker import deterministic_tracking
import matplotlib

matplotlib.use("Agg")

from matplotlib.collections import LineCollection
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from scipy.ndimage import binary_dilation
from shipped_models import Case

from dipy_rnn import load_model, sampling, spatial
from dipy_rnn._typing import AnyArray, BoolArray, FloatArray
from dipy_rnn.evaluation import KnownBundle, Scores, paired_difference, score
from dipy_rnn.phantom import BrainWorld, brain_world
from dipy_rnn.phantom.brain import KNOWLEDGE, oracle_seeds, oracle_streamlines

N_PEAK_VOXELS = 2000
N_SEEDS = 3000
LEAST_FA = 0.2
SNRS, MAX_ANGLES = (12, 25), (30.0, 45.0, 60.0)
# Directions and b-value (s/mm^2) of each shell.
SHELLS = ((30, 1000), (45, 2000), (60, 3000))
# Eigenvalues of the response function: those of a dispersed population.
DISPERSED_EVALS = (1.5e-3, 4e-4, 4e-4)


def main() -> None:
    """Print the tables of the chosen parts, and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["heads", "oracle"])
    parser.add_argument("--heads", nargs="*", default=[], type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--random_seeds", nargs="*", default=[1], type=int)
    parser.add_argument("--models", nargs="*", default=["default", "fast"])
    parser.add_argument("--lost_thr", default=0.6, type=float)
    parser.add_argument("--msmt", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    scans = []
    if "heads" in arguments.parts:
        scans = compare_with_heads(arguments.heads, arguments.random_seeds)
    if arguments.picture:
        draw(arguments.picture, scans)
    if "oracle" in arguments.parts:
        print_scores(arguments.random_seeds)
    if "trackers" in arguments.parts:
        fit = scan_multi_shell if arguments.msmt else scan_single_shell
        print_trackers(
            arguments.random_seeds, arguments.models, arguments.lost_thr, fit
        )


def make_gtab(n_directions: int, b_value: float, random_seed: int) -> GradientTable:
    """Return a gradient table with directions spread over the sphere."""
    rng = np.random.default_rng(random_seed)
    anywhere = rng.normal(size=(n_directions, 3))
    anywhere /= np.linalg.norm(anywhere, axis=1, keepdims=True)
    bvecs = disperse_charges(HemiSphere(xyz=anywhere), 500)[0].vertices
    bvals = np.r_[0, np.full(n_directions, b_value)]
    return gradient_table(bvals, bvecs=np.r_[np.zeros((1, 3)), bvecs])


class Scan:
    """A scan, its tensors, its fODF, and its deterministic streamlines."""

    def __init__(
        self,
        name: str,
        dwi: AnyArray,
        gtab: GradientTable,
        affine: FloatArray,
        mask: BoolArray,
        order: int,
    ) -> None:
        self.name, self.affine = name, affine
        tensors = TensorModel(gtab).fit(dwi, mask=mask)
        self.fa = np.nan_to_num(tensors.fa)
        self.colours = color_fa(self.fa, tensors.evecs)
        # The response is that of the most anisotropic voxels in the middle of the head.
        quarter = np.array(self.fa.shape) // 4
        centre = tuple(slice(q, -q) for q in quarter)
        middle = np.zeros_like(self.fa)
        middle[centre] = self.fa[centre]
        single = np.unravel_index(np.argsort(middle, axis=None)[-300:], middle.shape)
        evals = tensors.evals[single].mean(axis=0)
        response = (
            np.array([evals[0], evals[1:].mean(), evals[1:].mean()]),
            dwi[single][:, gtab.b0s_mask].mean(),
        )
        self.white = (self.fa > LEAST_FA) & mask
        model = ConstrainedSphericalDeconvModel(gtab, response, sh_order_max=order)
        self.coeffs = model.fit(dwi, mask=self.white).shm_coeff
        rng = np.random.default_rng(0)
        voxels = np.argwhere(self.white)
        seeds = voxels[rng.integers(len(voxels), size=N_SEEDS)]
        seeds_mm = spatial.to_mm(seeds + rng.uniform(-0.5, 0.5, seeds.shape), affine)
        self.lines = track(self.coeffs, self.white, affine, seeds_mm)

    def row(self) -> str:
        """Return a row of the table."""
        rng = np.random.default_rng(0)
        voxels = np.argwhere(self.white)
        voxels = voxels[rng.permutation(len(voxels))[:N_PEAK_VOXELS]]
        coeffs = self.coeffs[tuple(voxels.T)]
        order = sampling.sh_order(coeffs.shape[1])
        fodf = sh_to_sf(coeffs, default_sphere, sh_order_max=order, legacy=True)
        n_peaks = np.array(
            [
                len(peak_directions(f, default_sphere, relative_peak_threshold=0.5)[0])
                for f in fodf.astype(np.float64)
            ]
        )
        shares = [np.mean(n_peaks == n) for n in (1, 2, 3)]
        lengths = np.array([length(line) for line in self.lines])
        long = [line for line, mm in zip(self.lines, lengths) if mm > 20]
        turns = np.concatenate([turns_per_mm(line) for line in long])
        amplitudes = fodf.max(axis=1)
        amplitudes = amplitudes / np.median(amplitudes)
        numbers = [
            *(f"{share:.2f}" for share in shares),
            f"{np.median(lengths):.0f} ({np.percentile(lengths, 90):.0f})",
            f"{np.median(turns):.1f} ({np.percentile(turns, 90):.1f})",
            _percentiles(self.fa[self.white]),
            _percentiles(amplitudes),
        ]
        return f"| {self.name} | " + " | ".join(numbers) + " |"


def _percentiles(values: FloatArray) -> str:
    return ", ".join(f"{v:.2f}" for v in np.percentile(values, [10, 25, 50, 75, 90]))


def length(line: FloatArray) -> float:
    """Return the length of a streamline in mm."""
    return float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())


def turns_per_mm(line: FloatArray) -> FloatArray:
    """Return the turns of a streamline over 2 mm, in degrees per mm."""
    steps = np.diff(line, axis=0)
    ahead, back = steps[4:], steps[:-4]
    norms = np.linalg.norm(ahead, axis=1) * np.linalg.norm(back, axis=1)
    cosines = np.clip((ahead * back).sum(axis=1) / norms, -1, 1)
    return np.degrees(np.arccos(cosines)) / 2


def track(
    coeffs: AnyArray, white: BoolArray, affine: FloatArray, seeds_mm: FloatArray
) -> list[FloatArray]:
    """Track with DIPY, with steps of 0.5 mm and turns of up to 30 degrees."""
    streamlines = deterministic_tracking(
        seeds_mm,
        ThresholdStoppingCriterion(white.astype(np.float64), 0.5),
        affine,
        sh=np.ascontiguousarray(coeffs, dtype=np.float64),
        step_size=0.5,
        max_angle=30,
        sphere=default_sphere,
        max_len=500,
        nbr_threads=1,
    )
    return [np.asarray(line, dtype=np.float64) for line in streamlines]


def load_head(folder: Path) -> tuple[AnyArray, GradientTable, FloatArray, BoolArray]:
    """Load the scan of a head."""
    image = nib.load(folder / "dwi.nii.gz")
    bvals, bvecs = read_bvals_bvecs(str(folder / "dwi.bval"), str(folder / "dwi.bvec"))
    mask = np.asarray(nib.load(folder / "mask.nii.gz").dataobj) > 0
    return (
        np.asarray(image.dataobj),
        gradient_table(bvals, bvecs=bvecs),
        image.affine,
        mask,
    )


def on_voxels_of(world: BrainWorld, voxel_size_mm: FloatArray) -> BrainWorld:
    """Return a brain on a centred grid with other voxels."""
    extent_mm = np.array(world.shape) * spatial.voxel_sizes(world.affine)
    shape = np.round(extent_mm / voxel_size_mm).astype(int)
    affine = np.diag([*voxel_size_mm, 1.0])
    affine[:3, 3] = -voxel_size_mm * (shape - 1) / 2
    x, y, z = (int(n) for n in shape)
    return world.on_grid(affine, (x, y, z))


def compare_with_heads(heads: list[Path], random_seeds: list[int]) -> list[Scan]:
    """Print numbers of heads and of brains with their gradient tables."""
    print(
        "| Scan | 1 peak | 2 | 3 | length, mm: median (90 %) | turn, deg/mm | FA: "
        "10, 25, 50, 75, 90 % | amplitude / median |\n|---|---|---|---|---|---|---|---|"
    )
    scans = []
    tables = [(folder.name, *load_head(folder)) for folder in heads]
    if not tables:
        tables = [("", None, make_gtab(60, 1500, 0), np.diag([2.0, 2, 2, 1]), None)]
    for name, dwi, gtab, affine, mask in tables:
        n_unique = len(np.unique(np.abs(gtab.bvecs[~gtab.b0s_mask]).round(2), axis=0))
        order = 8 if n_unique >= 45 else 4
        if dwi is not None:
            scans.append(Scan(name, dwi, gtab, affine, mask, order))
            print(scans[-1].row(), flush=True)
        for random_seed in random_seeds:
            world = on_voxels_of(brain_world(random_seed), spatial.voxel_sizes(affine))
            simulated = world.dwi(gtab, snr=15, random_seed=random_seed)
            head = world.tissues()[..., :3].sum(axis=-1) > 0.5
            label = f"brain {random_seed}, as {name}".removesuffix(", as ")
            scans.append(Scan(label, simulated, gtab, world.affine, head, order))
            print(scans[-1].row(), flush=True)
    return scans


def print_scores(random_seeds: list[int]) -> None:
    """Print scores of the oracles and of deterministic tracking."""
    print(
        "| Brain | Tracker | valid | invalid | none | valid bundles | overlap | "
        "overreach | F1 |\n|---|---|---|---|---|---|---|---|---|"
    )
    for random_seed in random_seeds:
        start = time.process_time()
        world = brain_world(random_seed)
        print(f"<!-- {time.process_time() - start:.1f} s of CPU time -->")
        bundles = [KnownBundle(*volumes) for volumes in world.bundle_volumes()]
        seeds_mm, ids = oracle_seeds(world, N_SEEDS, random_seed=random_seed)
        lines = {
            f"oracle, {knows}": oracle_streamlines(world, seeds_mm, ids, knows=knows)
            for knows in KNOWLEDGE
        }
        white = world.mask()
        lines["deterministic, true fODF"] = track(
            world.fodf(8), white, world.affine, seeds_mm
        )
        gtab = make_gtab(60, 1500, random_seed)
        for snr in (20,):
            coeffs = fitted_fodf(world, gtab, snr, white, random_seed)
            lines[f"deterministic, CSD, SNR {snr}"] = track(
                coeffs, white, world.affine, seeds_mm
            )
        for name, streamlines in lines.items():
            s = score(streamlines, bundles, world.affine)
            print(
                f"| {random_seed} | {name} | {s.valid_connections:.3f} | "
                f"{s.invalid_connections:.3f} | {s.no_connections:.3f} | "
                f"{s.valid_bundles} of {s.n_bundles} | {s.overlap:.3f} | "
                f"{s.overreach:.3f} | {s.f1:.3f} |",
                flush=True,
            )


def fitted_fodf(
    world: BrainWorld,
    gtab: GradientTable,
    snr: float,
    mask: BoolArray,
    random_seed: int,
) -> AnyArray:
    """Return the fODF of a simulated scan, in the default basis of DIPY 1."""
    return csd(world.dwi(gtab, snr=snr, random_seed=random_seed), gtab, mask)


def csd(dwi: AnyArray, gtab: GradientTable, mask: BoolArray) -> AnyArray:
    """Fit the fODF of a simulated scan, in the default basis of DIPY 1."""
    response = (np.array(DISPERSED_EVALS), 100.0)
    model = ConstrainedSphericalDeconvModel(gtab, response)
    return model.fit(dwi, mask=mask).shm_coeff


def scan_single_shell(
    world: BrainWorld, snr: float, mask: BoolArray, random_seed: int
) -> AnyArray:
    """Return the fODF of a scan with one shell."""
    return fitted_fodf(world, make_gtab(60, 2000, random_seed), snr, mask, random_seed)


def scan_multi_shell(
    world: BrainWorld, snr: float, mask: BoolArray, random_seed: int
) -> AnyArray:
    """Return the fODF of a scan with three shells, fitted by MRtrix3.

    The responses are those of the algorithm ``dhollander``.
    """
    shells = [make_gtab(n, b_value, random_seed) for n, b_value in SHELLS]
    gtab = gradient_table(
        np.concatenate([shell.bvals for shell in shells]),
        bvecs=np.concatenate([shell.bvecs for shell in shells]),
    )
    dwi = world.dwi(gtab, snr=snr, random_seed=random_seed)
    head = world.tissues().any(axis=3)
    names = ("wm", "gm", "csf")
    with tempfile.TemporaryDirectory() as folder:

        def run(*command: str) -> None:
            subprocess.run([*command, "-quiet"], cwd=folder, check=True)

        save_nifti(f"{folder}/dwi.nii", dwi, world.affine)
        save_nifti(f"{folder}/head.nii", head.astype(np.uint8), world.affine)
        save_nifti(f"{folder}/mask.nii", mask.astype(np.uint8), world.affine)
        # FSL's gradients have x reversed if the voxel axes are right-handed.
        np.savetxt(f"{folder}/bvecs", (gtab.bvecs * [-1, 1, 1]).T)
        np.savetxt(f"{folder}/bvals", gtab.bvals[None])
        gradients = ("-fslgrad", "bvecs", "bvals")
        responses = [f"{name}.txt" for name in names]
        run("dwi2response", "dhollander", "dwi.nii", *responses, "-mask", "head.nii",
            *gradients)  # fmt: skip
        outputs = [part for name in names for part in (f"{name}.txt", f"{name}.nii")]
        run("dwi2fod", "msmt_csd", "dwi.nii", *outputs, "-mask", "mask.nii",
            *gradients)  # fmt: skip
        coeffs = load_nifti_data(f"{folder}/wm.nii")
    # The scanner's axes are those of the voxels. To the default basis of DIPY 1:
    order = sampling.sh_order(coeffs.shape[3])
    places, factors = sampling.to_package_basis(order, "descoteaux07_legacy")
    legacy = np.empty_like(coeffs)
    legacy[..., places] = coeffs / factors
    return legacy


def print_trackers(
    random_seeds: list[int],
    models: list[str],
    lost_thr: float,
    fit: Callable[[BrainWorld, float, BoolArray, int], AnyArray],
) -> None:
    """Print scores of models, averaged over brains."""
    brains = []
    for random_seed in random_seeds:
        world = brain_world(random_seed)
        bundles = [KnownBundle(*volumes) for volumes in world.bundle_volumes()]
        seeds_mm, ids = oracle_seeds(world, N_SEEDS, random_seed=random_seed)
        brains.append((world, bundles, seeds_mm, ids))
    print(
        "| SNR | `max_angle` | Tracker | valid (se) | way | invalid | way | valid "
        "bundles | overlap | overreach | F1 |\n" + 11 * "|---" + "|"
    )
    oracles = {}
    for angle in MAX_ANGLES:
        oracles[angle] = [
            score(
                oracle_streamlines(
                    world, seeds_mm, ids, knows="bundle", max_angle_deg=angle
                ),
                bundles,
                world.affine,
            )
            for world, bundles, seeds_mm, ids in brains
        ]
        _print_row("", f"{angle:g}", "oracle, bundle", oracles[angle], None, None)
    for snr in SNRS:
        cases = []
        for random_seed, (world, bundles, seeds_mm, _) in zip(random_seeds, brains):
            white = world.mask()
            coeffs = fit(world, snr, binary_dilation(white), random_seed)
            criterion = BinaryStoppingCriterion(white)
            cases.append((Case.of(coeffs, world.affine, criterion, seeds_mm), bundles))
        for angle in MAX_ANGLES:
            theirs = [
                score(case.theirs(0.5, angle), bundles, case.affine)
                for case, bundles in cases
            ]
            _print_row(snr, f"{angle:g}", "deterministic", theirs, None, None)
            for name in models:
                model = load_model(name)
                rows: dict[str, dict[str, float]] = {f"`{name}`": {}}
                if "lost" in model.metadata.outputs:
                    rows[f"`{name}`, `lost_thr` {lost_thr}"] = {"lost_thr": lost_thr}
                for label, options in rows.items():
                    ours = [
                        score(
                            case.ours(model, 0.5, angle, **options),
                            bundles,
                            case.affine,
                        )
                        for case, bundles in cases
                    ]
                    _print_row(snr, f"{angle:g}", label, ours, theirs, oracles[angle])


def _print_row(
    snr: float | str,
    angle: str,
    name: str,
    scores: list[Scores],
    theirs: list[Scores] | None,
    oracles: list[Scores] | None,
) -> None:
    def mean(of: list[Scores], metric: str) -> float:
        return float(np.mean([getattr(s, metric) for s in of]))

    se, ways = "", ["", ""]
    if theirs and oracles:
        valid = [np.concatenate([s.labels >= 0 for s in of]) for of in (scores, theirs)]
        se = f" ({paired_difference(*valid).standard_error:.3f})"
        ways = []
        for metric in ("valid_connections", "invalid_connections"):
            start, end = mean(theirs, metric), mean(oracles, metric)
            ways.append(f"{(mean(scores, metric) - start) / (end - start):.2f}")
    n_bundles = sum(s.n_bundles for s in scores)
    print(
        f"| {snr} | {angle} | {name} | {mean(scores, 'valid_connections'):.3f}{se} | "
        f"{ways[0]} | {mean(scores, 'invalid_connections'):.3f} | {ways[1]} | "
        f"{sum(s.valid_bundles for s in scores)} of {n_bundles} | "
        + " | ".join(f"{mean(scores, m):.3f}" for m in ("overlap", "overreach", "f1"))
        + " |",
        flush=True,
    )


def draw(path: Path, scans: list[Scan]) -> None:
    """Draw three slices and a slab of streamlines of each scan."""
    figure, axes = plt.subplots(
        len(scans), 4, figsize=(16, 4 * len(scans)), squeeze=False
    )
    for row, scan in zip(axes, scans, strict=True):
        middle = np.argwhere(scan.white).mean(axis=0).round().astype(int)
        sizes = spatial.voxel_sizes(scan.affine)
        image = np.clip(
            scan.colours / 255 if scan.colours.max() > 1 else scan.colours, 0, 1
        )
        for axis, cell in zip((2, 1, 0), row, strict=False):
            others = [i for i in range(3) if i != axis]
            cell.imshow(
                np.moveaxis(np.take(image, middle[axis], axis), 0, 1),
                origin="lower",
                aspect=sizes[others[1]] / sizes[others[0]],
            )
        draw_slab(row[3], scan, middle[1])
        row[0].set_ylabel(scan.name)
        for cell in row:
            cell.set(xticks=[], yticks=[])
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def draw_slab(cell: plt.Axes, scan: Scan, slice_vox: int) -> None:
    """Draw the streamlines within 4 mm of a coronal slice, in colours of direction."""
    segments, colours = [], []
    for line in scan.lines:
        places = spatial.to_voxels(line, scan.affine)
        pairs = np.stack([line[:-1], line[1:]], axis=1)
        near = (
            np.abs(places[:-1, 1] - slice_vox) * spatial.voxel_sizes(scan.affine)[1] < 4
        )
        segments.append(pairs[near][:, :, [0, 2]])
        steps = np.abs(np.diff(line, axis=0))
        lengths = np.linalg.norm(steps, axis=1, keepdims=True)
        colours.append((steps / np.maximum(lengths, 1e-9))[near])
    cell.add_collection(
        LineCollection(
            np.concatenate(segments),
            colors=np.clip(np.concatenate(colours), 0, 1),
            linewidths=0.5,
        )
    )
    cell.autoscale()
    cell.set_aspect("equal")
    cell.set_facecolor("black")


if __name__ == "__main__":
    main()
