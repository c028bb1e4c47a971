"""Quality of the shipped models: ``python benchmarks/shipped_models.py FOLDER``.

FOLDER is as for real_data.py: a folder for each head, and one named fibercup. The fODF
of a head is fitted once and kept in ``--work``. dipy_rnn and DIPY's
`deterministic_tracking` get the same seeds, first directions and options. Each row of
``agreement`` and ``truth`` has one ``max_angle`` for all trackers. All tables compare
whole streamlines.

agreement
    On heads, and on unseen phantoms with a simulated scan: the share of streamlines
    that agree with DIPY's within 2 mm (Hausdorff distance). DIPY uses its default
    sphere. The self-agreement baseline is the agreement of DIPY's streamlines on this
    sphere with those on another sphere.
truth
    On unseen phantoms and on the FiberCup, whose bundles are known: the shares of
    streamlines that connect the two ends of a bundle (valid), ends of different bundles
    (invalid) or neither (none); the number of bundles found; and the means of their
    overlap, overreach and F1 (`dipy_rnn.evaluation.score`).
volume
    On heads: Dice coefficient of the visited voxels, and correlation of the density
    maps, both with DIPY's. "other" seeds are random points in the voxels of the "same"
    seeds.

All metrics come from fixed random seeds. "se" is the standard error of the difference
in the column before it, paired over seeds.
"""

import argparse
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from itertools import product
import os
from pathlib import Path
import platform
import time
import warnings

from dipy.core.gradients import generate_bvecs, gradient_table
from dipy.data import default_sphere, get_sphere
from dipy.io.gradients import read_bvals_bvecs
from dipy.io.image import load_nifti, load_nifti_data
from dipy.io.peaks import load_pam
from dipy.io.streamline import load_trk
from dipy.reconst.csdeconv import (
    ConstrainedSphericalDeconvModel,
    response_from_mask_ssst,
)
from dipy.reconst.dti import TensorModel
from dipy.tracking.stopping_criterion import (
    BinaryStoppingCriterion,
    ThresholdStoppingCriterion,
)
from dipy.tracking.tracker import deterministic_tracking
from dipy.tracking.utils import random_seeds_from_mask, seeds_from_mask
import numpy as np
from real_data import SEED_THR, STOPPING_THR, prepare

from dipy_rnn import load_model, rnn_tracking, sampling, spatial
from dipy_rnn.evaluation import (
    agreement,
    density_correlation,
    dice,
    known_bundles,
    paired_difference,
    score,
    visits,
)
from dipy_rnn.evaluation.comparison import by_seed
from dipy_rnn.phantom import random_phantom

HEADS = ("canon61", "siemens2mm")
SNRS = (30, 15, 8)
# Seeds of phantoms that no model is trained on; training uses those near 1000 * 2026.
AGREEMENT_SEEDS = range(910_000, 910_004)
TRUTH_SEEDS = range(940_000, 940_006)
N_DIRECTIONS, B_VALUE = 64, 2000
EVALS, S0 = (1.7e-3, 3e-4, 3e-4), 100.0
PHANTOM_SEED_THR, PHANTOM_STOPPING_THR = 0.5, 0.1  # fraction of fibres
# True streamlines that define a bundle of a phantom; 300 miss a tenth of its voxels.
N_KNOWN = 3000

B_VALUES_OF_FIBERCUP = (650, 1500, 2000)
FIBERCUP_ORDER = 6
N_OF_RESPONSE = 100  # voxels with the highest FA, for the response function
# Bundles are about 15 mm wide and 9 mm high, and end up to 6 mm beyond their
# centrelines.
FIBERCUP_RADIUS_MM, FIBERCUP_END_MM = 7.5, 9.0

MAX_LEN = 500


@dataclass(frozen=True, eq=False)
class Case:
    """Inputs of both trackers."""

    coefficients: np.ndarray  # fODF in the default basis of DIPY 1
    features: sampling.FeatureVolume
    affine: np.ndarray
    criterion: object
    seeds: np.ndarray
    directions: np.ndarray

    @classmethod
    def of(cls, coefficients, affine, criterion, seeds, directions=None):
        """Make a case; by default the first directions are the largest peaks."""
        with warnings.catch_warnings():
            # Very noisy scans cause a warning that the data may not be an fODF.
            warnings.simplefilter("ignore", UserWarning)
            features = sampling.fodf_features(coefficients)
        case = cls(coefficients, features, affine, criterion, seeds, directions)
        return case if directions is not None else case.from_seeds(seeds)

    def from_seeds(self, seeds):
        """Return the case with other seeds, those that have a first direction."""
        directions = sampling.first_directions(
            self.features.data,
            spatial.to_voxels(seeds, self.affine),
            spatial.axes(self.affine),
            max_peaks=1,
        )[:, 0]
        found = directions.any(axis=1)
        return replace(self, seeds=seeds[found], directions=directions[found])

    def ours(self, model, step_mm, max_angle, **options):
        """Track with a network."""
        return by_seed(
            rnn_tracking(
                self.seeds,
                self.criterion,
                self.affine,
                features=self.features,
                seed_directions=self.directions,
                model=model,
                step_size=step_mm,
                max_angle=max_angle,
                min_len=0,
                max_len=MAX_LEN,
                save_seeds=True,
                **options,
            ),
            self.seeds,
        )

    def theirs(
        self,
        step_mm,
        max_angle,
        sphere=default_sphere,
        tracker=deterministic_tracking,
        random_seed=1,
    ):
        """Track with an algorithm of DIPY, by default the deterministic one."""
        return by_seed(
            tracker(
                self.seeds,
                self.criterion,
                self.affine,
                sh=self.coefficients,
                legacy=True,
                seed_directions=self.directions,
                sphere=sphere,
                step_size=step_mm,
                max_angle=max_angle,
                min_len=0,
                max_len=MAX_LEN,
                random_seed=random_seed,
                save_seeds=True,
            ),
            self.seeds,
        )


def mean_length_mm(lines, step_mm):
    """Return the mean length of streamlines with equal steps."""
    return np.mean([max(len(line) - 1, 0) for line in lines]) * step_mm


def fit_csd(dwi, gtab, response, order, mask):
    """Fit an fODF; return its coefficients in the default basis of DIPY 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the default basis may change in the future
        model = ConstrainedSphericalDeconvModel(gtab, response, sh_order_max=order)
        return model.fit(dwi, mask=mask).shm_coeff


def response_of(dwi, gtab, mask):
    """Return the response function of the voxels of a mask with the highest FA."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fa = np.where(mask, TensorModel(gtab).fit(dwi, mask=mask).fa, 0)
        most = fa >= np.sort(fa[mask])[-N_OF_RESPONSE]
        return response_from_mask_ssst(gtab, dwi, most)[0]


def random_points(points, n):
    """Return n of the points, drawn without replacement."""
    return points[np.random.default_rng(0).permutation(len(points))[:n]]


def head_case(folder, name, work, n_seeds):
    """Return a case of a head; seeds are voxel centres in white matter."""
    fa, affine = prepare(folder / name, work / name)
    seeds = random_points(seeds_from_mask(fa > SEED_THR, affine), n_seeds)
    criterion = ThresholdStoppingCriterion(fa, STOPPING_THR)
    pam = load_pam(work / name / "peaks.pam5")
    return Case.of(np.asarray(pam.shm_coeff), affine, criterion, seeds)


@cache
def gradients():
    """Return the gradients of the simulated scans."""
    bvecs = generate_bvecs(N_DIRECTIONS, rng=np.random.default_rng(0))
    return gradient_table(
        np.r_[0, np.full(N_DIRECTIONS, B_VALUE)], bvecs=np.r_[np.zeros((1, 3)), bvecs]
    )


def scan(phantom, snr, random_seed):
    """Simulate and fit a scan of a phantom; return the fODF and the fibre fraction."""
    gtab = gradients()
    dwi = phantom.dwi(gtab, snr=snr, evals=EVALS, s0=S0, random_seed=random_seed)
    fraction = phantom.peaks()[0].sum(axis=-1).astype(float)
    response = np.array(EVALS), S0
    coefficients = fit_csd(dwi, gtab, response, 8, fraction > PHANTOM_STOPPING_THR / 2)
    return coefficients, fraction


def phantom_case(random_seed, snr, n_seeds):
    """Return a case of a phantom; seeds are voxel centres in bundles."""
    phantom = random_phantom(random_seed)
    coefficients, fraction = scan(phantom, snr, random_seed)
    seeds = seeds_from_mask(fraction > PHANTOM_SEED_THR, phantom.affine)
    criterion = ThresholdStoppingCriterion(fraction, PHANTOM_STOPPING_THR)
    return Case.of(
        coefficients, phantom.affine, criterion, random_points(seeds, n_seeds)
    )


def known_phantom_cases(random_seed, n_seeds):
    """Yield (SNR, case, known bundles) of a phantom.

    Seeds are points of true streamlines, whose directions are the first directions.
    """
    phantom = random_phantom(random_seed)
    known, ids = phantom.streamlines(N_KNOWN)
    bundles = known_bundles(
        [known[start : start + N_KNOWN] for start in range(0, len(ids), N_KNOWN)],
        phantom.affine,
        phantom.shape,
    )
    n_each = max(1, n_seeds // len(phantom.bundles))
    lines, _ = phantom.streamlines(n_each, random_seed=1)
    rng = np.random.default_rng(random_seed)
    seeds, directions = [], []
    for line in lines:
        i = rng.integers(len(line) // 4, 3 * len(line) // 4)
        seeds.append(line[i])
        directions.append((line[i + 1] - line[i]) * rng.choice((-1, 1)))
    # True streamlines are in mm; first directions are along the voxel axes.
    directions = np.array(directions) @ spatial.axes(phantom.affine)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for snr in SNRS:
        coefficients, fraction = scan(phantom, snr, random_seed)
        criterion = ThresholdStoppingCriterion(fraction, PHANTOM_STOPPING_THR)
        case = Case.of(
            coefficients, phantom.affine, criterion, np.array(seeds), directions
        )
        yield snr, case, bundles


def fibercup_case(folder, b_value, n_seeds):
    """Return a case of the FiberCup and its bundles; seeds are random in the mask."""
    mask, affine = load_nifti(folder / "wm_mask.nii.gz")
    mask = mask > 0
    dwi = load_nifti_data(folder / f"dwi_b{b_value}.nii.gz")
    bvals, bvecs = read_bvals_bvecs(
        str(folder / f"dwi_b{b_value}.bval"), str(folder / "dirs_voxel.bvec")
    )
    gtab = gradient_table(bvals, bvecs=bvecs)
    coefficients = fit_csd(
        dwi, gtab, response_of(dwi, gtab, mask), FIBERCUP_ORDER, mask
    )
    seeds = random_seeds_from_mask(
        mask, affine, seeds_count=n_seeds, seed_count_per_voxel=False, random_seed=0
    )
    centrelines = load_trk(
        str(folder / "centrelines.trk"), "same", bbox_valid_check=False
    ).streamlines
    bundles = known_bundles(
        [[line] for line in centrelines],
        affine,
        mask.shape,
        radius_mm=FIBERCUP_RADIUS_MM,
        end_mm=FIBERCUP_END_MM,
        mask=mask,
    )
    return Case.of(coefficients, affine, BinaryStoppingCriterion(mask), seeds), bundles


def show_agreement(models, arguments):
    """Print the share of streamlines that agree with deterministic tracking."""
    width = max(map(len, (*models, "tracker")))
    print("\nagreement: share within 2 mm of deterministic_tracking")
    print(
        f"{'data':16} {'step':>4} {'angle':>5} {'tracker':{width}} {'seeds':>6} "
        f"{'agree':>6} "
        f"{'baseline':>9} {'difference':>10} {'se':>6} {'length':>6}"
    )
    n = arguments.n_seeds
    groups = [
        (name, [head_case(arguments.folder, name, arguments.work, n)])
        for name in arguments.heads
    ]
    for snr in SNRS:
        n_each = -(-n // len(AGREEMENT_SEEDS))
        groups.append(
            (
                f"phantoms SNR {snr}",
                [phantom_case(seed, snr, n_each) for seed in AGREEMENT_SEEDS],
            )
        )
    finer = get_sphere(name="symmetric724")
    for name, cases in groups:
        for step, angle in product((1.0, 0.5), arguments.max_angles):
            theirs = [x for case in cases for x in case.theirs(step, angle)]
            again = [x for case in cases for x in case.theirs(step, angle, finer)]
            baseline = agreement(theirs, again)
            for label, model in models.items():
                ours = [x for c in cases for x in c.ours(model, step, angle)]
                same = agreement(theirs, ours)
                difference = paired_difference(same, baseline)
                ratio = mean_length_mm(ours, step) / mean_length_mm(theirs, step)
                print(
                    f"{name:16} {step:4.1f} {angle:5g} {label:{width}} {len(same):6} "
                    f"{same.mean():6.3f} {baseline.mean():9.3f} "
                    f"{difference.value:+10.3f} {difference.standard_error:6.3f} "
                    f"{ratio:6.3f}",
                    flush=True,
                )


def show_truth(models, arguments):
    """Print how well known bundles are reconstructed."""
    width = max(map(len, (*models, "tracker")))
    print("\ntruth: streamlines and known bundles, steps of 1 mm")
    print(
        f"{'data':16} {'angle':>5} {'tracker':{width}} {'seeds':>6} {'valid':>6} "
        f"{'invalid':>7} "
        f"{'none':>6} {'found':>7} {'overlap':>7} {'overreach':>9} {'F1':>6} "
        f"{'difference':>10} {'se':>6}"
    )
    n_of_fibercup = 15 * arguments.n_seeds  # few of its streamlines connect two ends
    groups = {f"phantoms SNR {snr}": [] for snr in SNRS}
    for seed in TRUTH_SEEDS:
        for snr, *known in known_phantom_cases(seed, arguments.n_seeds):
            groups[f"phantoms SNR {snr}"].append(known)
    for b_value in B_VALUES_OF_FIBERCUP:
        groups[f"fibercup b {b_value}"] = [
            fibercup_case(arguments.folder / "fibercup", b_value, n_of_fibercup)
        ]

    def scores_of(cases, track):
        return [score(track(case), known, case.affine) for case, known in cases]

    for (name, cases), angle in product(groups.items(), arguments.max_angles):
        rows = {"DIPY": scores_of(cases, lambda c, a=angle: c.theirs(1.0, a))}
        for label, model in models.items():
            rows[label] = scores_of(
                cases, lambda c, m=model, a=angle: c.ours(m, 1.0, a)
            )
        valid = {
            label: np.concatenate([s.labels >= 0 for s in scores])
            for label, scores in rows.items()
        }
        for label, scores in rows.items():

            def mean(what, scores=scores):
                return np.mean([getattr(s, what) for s in scores])

            found = (
                f"{sum(s.valid_bundles for s in scores)}/"
                f"{sum(s.n_bundles for s in scores)}"
            )
            row = (
                f"{name:16} {angle:5g} {label:{width}} {len(valid[label]):6} "
                f"{mean('valid_connections'):6.3f} "
                f"{mean('invalid_connections'):7.3f} {mean('no_connections'):6.3f} "
                f"{found:>7} {mean('overlap'):7.3f} {mean('overreach'):9.3f} "
                f"{mean('f1'):6.3f}"
            )
            if label != "DIPY":
                difference = paired_difference(valid[label], valid["DIPY"])
                row += f" {difference.value:+10.3f} {difference.standard_error:6.3f}"
            print(row, flush=True)


def show_volume(models, arguments):
    """Print how well the visited volume agrees with that of deterministic tracking."""
    width = max(map(len, (*models, "tracker")))
    angle = arguments.max_angles[0]
    print(
        "\nvolume: visited voxels, compared with deterministic_tracking, 1 mm, "
        f"max_angle {angle:g}"
    )
    print(f"{'data':16} {'tracker':{width}} {'seeds':>6} {'':5} {'Dice':>6} {'r':>6}")
    for name in arguments.heads:
        case = head_case(arguments.folder, name, arguments.work, 5 * arguments.n_seeds)
        voxel_vox = spatial.to_voxels(case.seeds, case.affine)
        offset_vox = np.random.default_rng(1).uniform(-0.5, 0.5, voxel_vox.shape)
        other = case.from_seeds(spatial.to_mm(voxel_vox + offset_vox, case.affine))

        def density(lines, case=case):
            return visits(lines, case.affine, case.coefficients.shape[:3])

        reference = density(case.theirs(1.0, angle))
        rows = [("DIPY", "other", other.theirs(1.0, angle))]
        for label, model in models.items():
            for which, chosen in (("same", case), ("other", other)):
                rows.append((label, which, chosen.ours(model, 1.0, angle)))
        for label, which, lines in rows:
            visited = density(lines)
            print(
                f"{name:16} {label:{width}} {len(lines):6} {which:5} "
                f"{dice(visited > 0, reference > 0):6.3f} "
                f"{density_correlation(visited, reference):6.3f}",
                flush=True,
            )


TABLES = {"agreement": show_agreement, "truth": show_truth, "volume": show_volume}


def main():
    """Print the selected tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, default=Path("real_data"))
    parser.add_argument("--heads", nargs="*", default=HEADS)
    parser.add_argument(
        "--models", nargs="+", default=["default"], help="names or files"
    )
    parser.add_argument(
        "--n_seeds",
        type=int,
        default=1000,
        help="number of seeds for a row of agreement and for each phantom of truth; "
        "five times as many for volume, 15 times as many for the FiberCup",
    )
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument(
        "--max_angles",
        type=float,
        nargs="+",
        default=[30.0, 45.0, 60.0],
        help="of all trackers (degrees); volume uses the first one",
    )
    parser.add_argument(
        "--warm_up_points",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="also track with each model with these numbers of warm-up points",
    )
    arguments = parser.parse_args()
    versions = ", ".join(
        f"{n} {metadata.version(n)}"
        for n in ("dipy_rnn", "dipy", "torch", "numpy", "scipy")
    )
    print(
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, "
        f"{len(os.sched_getaffinity(0))} cores, {versions}"
    )
    angles = " ".join(f"{angle:g}" for angle in arguments.max_angles)
    print(f"--n_seeds {arguments.n_seeds} --max_angles {angles}")
    models = {model: load_model(model) for model in arguments.models}
    for name, n_points in product(arguments.models, arguments.warm_up_points):
        changed = models[f"{name}, {n_points}"] = load_model(name)
        changed.metadata = replace(changed.metadata, replay_points=n_points)
    for name in arguments.only:
        start = time.perf_counter()
        TABLES[name](models, arguments)
        print(f"{name}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
