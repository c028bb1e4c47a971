"""Quality of probabilistic tracking: ``python benchmarks/probabilistic.py FOLDER``.

FOLDER and ``--work`` are as for shipped_models.py. All trackers of a table have the
same seeds, first directions and options. Parts:

coverage
    On the FiberCup, on unseen phantoms with a simulated scan and on simulated brains,
    whose bundles are known: connections, bundles found, overlap, overreach and F1, as
    in shipped_models.py. There are ten random seeds in each voxel, and 20000 in each
    brain.
    ``max_angle`` is 30 degrees, the default of dipy_track.
calibration
    Streamlines start on true streamlines, along them. 99 streamlines from each start
    and the true one give a region around their mean place after 1, 5 and 20 mm, by
    their covariance. The region of 50 % has half of them. Shares of starts at which the
    true streamline is in the region of 50, 80 and 95 %. If the truth is drawn like the
    other streamlines, these shares are 0.50, 0.80 and 0.95. ``--plot FILE`` draws them.
lost
    Connections of deterministic tracking for several ``lost_thr``, on phantoms (600
    seeds each) and brains (3000 seeds each).
ended
    Connections of deterministic tracking in brains (3000 seeds each), where streamlines
    end outside white matter, where the fractional anisotropy is below 0.2, or only
    outside the tissue of the head. With the last criterion, models also end them by
    their prediction (``ended_thr``). The fODF is fitted in all tissue.
density
    Correlation of the density maps of two scans of the same object: halves of the
    directions of a scan, each with an fODF of its own.
directions
    Dice coefficient of the visited voxels and correlation of the density maps of
    canon61 with 30 and 12 of its directions, with those of all directions and the same
    tracker.

All random numbers come from fixed seeds.
"""

import argparse
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
import time
import warnings

from brain_world import csd, fitted_fodf, make_gtab
from dipy.core.gradients import gradient_table
from dipy.io.gradients import read_bvals_bvecs
from dipy.io.image import load_nifti, load_nifti_data
from dipy.reconst.csdeconv import response_from_mask_ssst
from dipy.reconst.dti import TensorModel
from dipy.tracking.stopping_criterion import (
    BinaryStoppingCriterion,
    ThresholdStoppingCriterion,
)
from dipy.tracking.tracker import probabilistic_tracking
from dipy.tracking.utils import random_seeds_from_mask
import numpy as np
from scipy.ndimage import binary_dilation
from shipped_models import (
    B_VALUES_OF_FIBERCUP,
    N_KNOWN,
    N_OF_RESPONSE,
    PHANTOM_SEED_THR,
    PHANTOM_STOPPING_THR,
    Case,
    fibercup_case,
    fit_csd,
    known_phantom_cases,
    scan,
)

from dipy_rnn import load_model, sampling, spatial
from dipy_rnn.evaluation import (
    KnownBundle,
    density_correlation,
    dice,
    known_bundles,
    score,
    visits,
)
from dipy_rnn.phantom import brain_world, random_phantom
from dipy_rnn.phantom.brain import oracle_seeds, oracle_streamlines
from dipy_rnn.tracking import track

MAX_ANGLE, STEP_MM = 30.0, 1.0
SEEDS_PER_VOXEL, N_SEEDS_OF_BRAIN = 10, 20_000
# Phantoms and brains on which no model is trained, and on which no choice was made.
PHANTOMS, BRAINS = (950_000, 950_001), (5_000_003, 5_000_004)
SNRS, SNRS_OF_BRAIN = (30, 8), (25, 12)
N_STARTS, N_SAMPLES = 1000, 99
DISTANCES_MM, SHARES = (1, 5, 20), (0.5, 0.8, 0.95)
NOISE_LEVELS = (30, 15, 8)


def main():
    """Print the selected tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, default=Path("real_data"))
    parser.add_argument("--models", nargs="+", default=["default"])
    parser.add_argument("--temperatures", nargs="+", type=float, default=[1.0, 0.5])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--phantoms", nargs="+", type=int, default=PHANTOMS)
    parser.add_argument("--brains", nargs="*", type=int, default=BRAINS)
    parser.add_argument("--plot", type=Path, help="picture of the calibration")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in arguments.only:
        start = time.perf_counter()
        PARTS[name](arguments)
        print(f"<!-- {name}: {time.perf_counter() - start:.0f} s -->", flush=True)


def random_seeds(mask, affine, n_each):
    """Return random seeds in each voxel of a mask."""
    return random_seeds_from_mask(
        mask, affine, seeds_count=n_each, seed_count_per_voxel=True, random_seed=1
    )


# Coverage


def coverage_cases(arguments):
    """Yield (name, cases with their bundles)."""
    for b_value in B_VALUES_OF_FIBERCUP:
        case, known = fibercup_case(arguments.folder / "fibercup", b_value, 1)
        mask, _ = load_nifti(arguments.folder / "fibercup" / "wm_mask.nii.gz")
        seeds = random_seeds(mask > 0, case.affine, SEEDS_PER_VOXEL)
        yield f"FiberCup, b = {b_value}", [(case.from_seeds(seeds), known)]
    for snr in SNRS:
        yield (
            f"phantoms, SNR {snr}",
            [phantom_case(number, snr) for number in arguments.phantoms],
        )
    for snr in SNRS_OF_BRAIN:
        cases = [brain_case(number, snr) for number in arguments.brains]
        if cases:
            yield f"brains, SNR {snr}", cases


def phantom_case(number, snr):
    """Return a case of a phantom and its bundles; seeds are in all its bundles."""
    phantom = random_phantom(number)
    known, ids = phantom.streamlines(N_KNOWN)
    bundles = known_bundles(
        [known[start : start + N_KNOWN] for start in range(0, len(ids), N_KNOWN)],
        phantom.affine,
        phantom.shape,
    )
    coefficients, fraction = scan(phantom, snr, number)
    criterion = ThresholdStoppingCriterion(fraction, PHANTOM_STOPPING_THR)
    seeds = random_seeds(fraction > PHANTOM_SEED_THR, phantom.affine, SEEDS_PER_VOXEL)
    return Case.of(coefficients, phantom.affine, criterion, seeds), bundles


def brain_case(number, snr, n_seeds=N_SEEDS_OF_BRAIN):
    """Return a case of a simulated brain and its bundles; seeds are in white matter."""
    world = brain_world(number)
    bundles = [KnownBundle(*volumes) for volumes in world.bundle_volumes()]
    white, gtab = world.mask(), make_gtab(60, 2000, number)
    coefficients = fitted_fodf(world, gtab, snr, binary_dilation(white), number)
    seeds = random_seeds_from_mask(
        white,
        world.affine,
        seeds_count=n_seeds,
        seed_count_per_voxel=False,
        random_seed=1,
    )
    criterion = BinaryStoppingCriterion(white)
    return Case.of(coefficients, world.affine, criterion, seeds), bundles


def show_coverage(arguments):
    """Print how well bundles are covered."""
    print(
        "| data | tracker | seeds | valid | invalid | bundles | overlap | overreach | "
        "F1 |\n" + 9 * "|---" + "|"
    )
    trackers = trackers_of(arguments)
    for data, cases in coverage_cases(arguments):
        for tracker, run in trackers.items():
            scores = [score(run(case), known, case.affine) for case, known in cases]

            def mean(what, scores=scores):
                return np.mean([getattr(s, what) for s in scores])

            print(
                f"| {data} | {tracker} | {sum(len(s.labels) for s in scores)} | "
                f"{mean('valid_connections'):.3f} | "
                f"{mean('invalid_connections'):.3f} | "
                f"{sum(s.valid_bundles for s in scores)} of "
                f"{sum(s.n_bundles for s in scores)} | "
                + " | ".join(f"{mean(w):.3f}" for w in ("overlap", "overreach", "f1"))
                + " |",
                flush=True,
            )


def trackers_of(arguments):
    """Return functions that track a case, by the name of the tracker."""
    trackers = {
        "DIPY probabilistic": lambda c: c.theirs(
            STEP_MM, MAX_ANGLE, tracker=probabilistic_tracking
        ),
        "DIPY deterministic": lambda c: c.theirs(STEP_MM, MAX_ANGLE),
    }
    for name in arguments.models:
        model = load_model(name)
        for temperature in arguments.temperatures:
            trackers[f"`{name}`, probabilistic, temperature {temperature:g}"] = partial(
                _ours, model, tracking_method="probabilistic", temperature=temperature
            )
        trackers[f"`{name}`, deterministic"] = partial(_ours, model)
    return trackers


def _ours(model, case, **options):
    return case.ours(model, STEP_MM, MAX_ANGLE, **options)


def show_lost(arguments):
    """Print connections for several thresholds of the probability of being lost."""
    print("| data | model | lost_thr | seeds | valid | invalid | bundles | F1 |")
    print(8 * "|---" + "|")
    groups = {f"phantoms, SNR {snr}": [] for snr in NOISE_LEVELS}
    for number in arguments.phantoms:
        for snr, *known in known_phantom_cases(number, 600):
            groups[f"phantoms, SNR {snr}"].append(known)
    for snr in SNRS_OF_BRAIN:
        cases = [brain_case(number, snr, 3000) for number in arguments.brains]
        groups[f"brains, SNR {snr}"] = cases
    for (data, cases), name in product(groups.items(), arguments.models):
        model = load_model(name)
        for threshold in (1.0, 0.7, 0.5, 0.3):
            scores = [
                score(
                    case.ours(model, STEP_MM, MAX_ANGLE, lost_thr=threshold),
                    known,
                    case.affine,
                )
                for case, known in cases
            ]
            if scores:
                n_seeds = sum(len(s.labels) for s in scores)
                cells = f"{data} | `{name}` | {threshold:g} | {n_seeds}"
                print(f"| {cells} | {_connections(scores)} |", flush=True)


def _connections(scores):
    """Return cells of a table: valid and invalid connections, bundles, F1."""
    valid, invalid, f1 = (
        np.mean([getattr(s, what) for s in scores])
        for what in ("valid_connections", "invalid_connections", "f1")
    )
    bundles = sum(s.valid_bundles for s in scores), sum(s.n_bundles for s in scores)
    return f"{valid:.3f} | {invalid:.3f} | {bundles[0]} of {bundles[1]} | {f1:.3f}"


def show_ended(arguments):
    """Print connections for several ways to end streamlines."""
    print("| SNR | streamlines end | tracker | valid | invalid | bundles | F1 |")
    print(7 * "|---" + "|")
    models = {name: load_model(name) for name in arguments.models}
    for snr in SNRS_OF_BRAIN:
        rows = {}
        for number in arguments.brains:
            for row, found in _ended_scores(number, snr, models):
                rows.setdefault(row, []).append(found)
        for (ends, tracker), scores in rows.items():
            cells = f"{snr} | {ends} | {tracker}"
            print(f"| {cells} | {_connections(scores)} |", flush=True)


def _ended_scores(number, snr, models):
    """Yield ((how streamlines end, tracker), scores) of a brain."""
    world = brain_world(number)
    bundles = [KnownBundle(*volumes) for volumes in world.bundle_volumes()]
    white, gtab = world.mask(), make_gtab(60, 2000, number)
    tissue = world.tissues()[..., [0, 1, 2, 4]].sum(axis=-1) > 0.5
    dwi = world.dwi(gtab, snr=snr, random_seed=number)
    coefficients = csd(dwi, gtab, tissue)
    fa = np.where(tissue, TensorModel(gtab).fit(dwi, mask=tissue).fa, 0)
    seeds = random_seeds_from_mask(
        white, world.affine, seeds_count=3000, seed_count_per_voxel=False, random_seed=1
    )
    in_tissue = BinaryStoppingCriterion(tissue)
    ways = {
        "outside white matter": (BinaryStoppingCriterion(white), 1.0),
        "FA below 0.2": (ThresholdStoppingCriterion(fa, 0.2), 1.0),
        "outside tissue": (in_tissue, 1.0),
        **{f"`ended_thr` {thr:g}": (in_tissue, thr) for thr in (0.5, 0.2, 0.1)},
    }
    in_all_tissue = Case.of(coefficients, world.affine, in_tissue, seeds)
    for ends, (criterion, ended_thr) in ways.items():
        case = replace(in_all_tissue, criterion=criterion)
        if ended_thr == 1:
            lines = case.theirs(STEP_MM, MAX_ANGLE)
            yield (ends, "DIPY deterministic"), score(lines, bundles, case.affine)
        for name, model in models.items():
            lines = case.ours(model, STEP_MM, MAX_ANGLE, ended_thr=ended_thr)
            yield (ends, f"`{name}`"), score(lines, bundles, case.affine)


# Calibration


def starts_of(streamlines, rng):
    """Return starts on streamlines, their directions, and the places further on."""
    ahead = max(DISTANCES_MM) + 1
    points, directions, places = [], [], []
    while len(points) < N_STARTS:
        line = streamlines[rng.integers(len(streamlines))]
        line = np.asarray(line, dtype=float)[:: rng.choice((-1, 1))]
        arc = np.r_[0, np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()]
        if arc[-1] < ahead + 2:
            continue

        def at(mm, line=line, arc=arc):
            return np.array([np.interp(mm, arc, line[:, k]) for k in range(3)])

        start = rng.uniform(1, arc[-1] - ahead)
        direction = at(start + 0.5) - at(start - 0.5)
        points.append(at(start))
        directions.append(direction / np.linalg.norm(direction))
        places.append([at(start + mm) for mm in DISTANCES_MM])
    return np.array(points), np.array(directions), np.array(places)


def ranks_of(model, features, criterion, affine, starts):
    """Return the share of streamlines nearer to the common mean than the truth.

    The truth counts in the mean and the covariance, as each of the streamlines does.
    Otherwise a truth that is drawn like them would be farther off than they are.

    Returns
    -------
    ranks : ndarray of shape (distances, starts)
        NaN where less than half of the streamlines are long enough.
    """
    points, directions, places = starts
    each = np.repeat(np.arange(N_STARTS), N_SAMPLES)
    samples = [[] for _ in range(N_STARTS)]
    for line in track(
        points[each],
        criterion,
        affine,
        seed_directions=(directions @ spatial.axes(affine))[each],
        features=features,
        model=model,
        step_size=STEP_MM,
        max_angle=60.0,
        unidirectional=True,
        tracking_method="probabilistic",
        random_seed=1,
        max_len=max(DISTANCES_MM) + 2,
    ):
        samples[each[line.seed_index]].append(line.points_mm)
    ranks = np.full((len(DISTANCES_MM), N_STARTS), np.nan)
    for start, lines in enumerate(samples):
        for row, distance in enumerate(DISTANCES_MM):
            n = round(distance / STEP_MM)
            there = np.array([line[n] for line in lines if len(line) > n])
            if len(there) < N_SAMPLES / 2:
                continue
            there = np.vstack([there, places[start, row]])
            # Streamlines are equally long, so the covariance has nearly no depth.
            covariance = np.cov(there.T) + 1e-4 * (0.02 + 0.05 * distance) * np.eye(3)
            off = there - there.mean(axis=0)
            squares = np.einsum("ni,ij,nj->n", off, np.linalg.inv(covariance), off)
            ranks[row, start] = (squares < squares[-1]).mean()
    return ranks


def calibration_worlds(arguments):
    """Yield (name of the world, SNR, features, criterion, affine, starts)."""
    for number in arguments.phantoms:
        phantom = random_phantom(number)
        lines, _ = phantom.streamlines(200, random_seed=2)
        starts = starts_of(lines, np.random.default_rng(number))
        for snr in NOISE_LEVELS:
            coefficients, fraction = scan(phantom, snr, number)
            criterion = ThresholdStoppingCriterion(fraction, PHANTOM_STOPPING_THR)
            features = sampling.fodf_features(coefficients)
            name = f"phantom {number}"
            yield name, snr, features, criterion, phantom.affine, starts
    for number in arguments.brains:
        world = brain_world(number)
        # The scan is simulated from the mean directions of each bundle. These lines
        # follow them. The bundle's own streamlines have other directions (median of
        # the angle: 6 degrees).
        lines = oracle_streamlines(
            world, *oracle_seeds(world, 2000, random_seed=2), knows="bundle"
        )
        starts = starts_of(lines, np.random.default_rng(number))
        white, gtab = world.mask(), make_gtab(60, 2000, number)
        for snr in NOISE_LEVELS:
            wide = binary_dilation(white)
            coefficients = fitted_fodf(world, gtab, snr, wide, number)
            features = sampling.fodf_features(coefficients)
            criterion = BinaryStoppingCriterion(white)
            yield f"brain {number}", snr, features, criterion, world.affine, starts


def show_calibration(arguments):
    """Print and draw which share of true places is in the predicted regions."""
    shares = " | ".join(f"{100 * share:g} %" for share in SHARES)
    print(f"| model | world | SNR | mm | starts | {shares} |\n" + 8 * "|---" + "|")
    models = {name: load_model(name) for name in arguments.models}
    found = {}
    for world, snr, *where, starts in calibration_worlds(arguments):
        for name, model in models.items():
            ranks = ranks_of(model, *where, starts)
            found[name, world, snr] = ranks
            _print_ranks(name, world, snr, ranks)
    for name in models:
        for kind in ("phantom", "brain"):
            for snr in NOISE_LEVELS:
                parts = [
                    ranks
                    for (n, world, noise), ranks in found.items()
                    if n == name and noise == snr and world.startswith(kind)
                ]
                if parts:
                    _print_ranks(name, f"all {kind}s", snr, np.hstack(parts))
    if arguments.plot:
        _draw_ranks(found, arguments.models[0], arguments.plot)


def _print_ranks(model, world, snr, ranks):
    for distance, row in zip(DISTANCES_MM, ranks, strict=True):
        row = row[np.isfinite(row)]
        shares = " | ".join(f"{(row < share).mean():.3f}" for share in SHARES)
        print(
            f"| `{model}` | {world} | {snr} | {distance} | {len(row)} | {shares} |",
            flush=True,
        )


def _draw_ranks(found, model, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, cells = plt.subplots(
        2, len(NOISE_LEVELS), figsize=(9, 6), sharex=True, sharey=True
    )
    predicted = np.linspace(0, 1, 41)
    for row, kind in zip(cells, ("phantom", "brain"), strict=True):
        for cell, snr in zip(row, NOISE_LEVELS, strict=True):
            parts = [
                ranks
                for (name, world, noise), ranks in found.items()
                if name == model and noise == snr and world.startswith(kind)
            ]
            cell.plot([0, 1], [0, 1], color="0.7", linewidth=1)
            for distance, ranks in zip(DISTANCES_MM, zip(*parts), strict=True):
                there = np.concatenate(ranks)
                there = there[np.isfinite(there)]
                shares = [(there < share).mean() for share in predicted]
                cell.plot(predicted, shares, label=f"after {distance} mm")
            cell.set_title(f"{kind}s, SNR {snr}")
            cell.set_aspect("equal")
    cells[0, 0].legend(frameon=False)
    for cell in cells[-1]:
        cell.set_xlabel("predicted share")
    for cell in cells[:, 0]:
        cell.set_ylabel("share of true places")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


# Density


def parts_of(folder, name, b_value=None, sizes=None):
    """Yield (affine, mask, FA, fODF) of parts of the directions of a scan.

    ``sizes`` are pairs of a number of directions and the order of the fODF. By default
    the parts are two halves.
    """
    suffix = "" if b_value is None else f"_b{b_value}"
    mask_name = "mask" if b_value is None else "wm_mask"
    bvec_name = "dwi" if b_value is None else "dirs_voxel"
    mask, affine = load_nifti(folder / name / f"{mask_name}.nii.gz")
    dwi = load_nifti_data(folder / name / f"dwi{suffix}.nii.gz")
    bvals, bvecs = read_bvals_bvecs(
        str(folder / name / f"dwi{suffix}.bval"),
        str(folder / name / f"{bvec_name}.bvec"),
    )
    mask = mask > 0
    gtab = gradient_table(bvals, bvecs=bvecs)
    fa = np.where(mask, TensorModel(gtab).fit(dwi, mask=mask).fa, 0)
    white = mask if b_value is not None else fa > 0.2
    weighted = np.flatnonzero(~gtab.b0s_mask)
    order = np.random.default_rng(0).permutation(weighted)
    half = len(order) // 2
    sh_order = 4 if b_value is not None else 6
    parts = [(order[:half], sh_order), (order[half:], sh_order)]
    if sizes:
        parts = [(order[:n], sh_order) for n, sh_order in sizes]
    for part, sh_order in parts:
        kept = np.sort(np.r_[np.flatnonzero(gtab.b0s_mask), part])
        table = gradient_table(bvals[kept], bvecs=bvecs[kept])
        most = fa >= np.sort(fa[mask])[-N_OF_RESPONSE]
        response, _ = response_from_mask_ssst(table, dwi[..., kept], most)
        coefficients = fit_csd(dwi[..., kept], table, response, sh_order, white)
        yield affine, white, fa, coefficients


def show_density(arguments):
    """Print the correlation of the density maps of two halves of a scan."""
    print("| data | tracker | correlation |\n|---|---|---|")
    for name, b_value in (("canon61", None), *(("fibercup", b) for b in (1500, 2000))):
        halves = list(parts_of(arguments.folder, name, b_value))
        cases = []
        for affine, white, fa, coefficients in halves:
            n_each = SEEDS_PER_VOXEL if b_value is not None else 1
            where = white if b_value is not None else fa > 0.3
            seeds = random_seeds(where, affine, n_each)
            criterion = BinaryStoppingCriterion(white)
            cases.append(Case.of(coefficients, affine, criterion, seeds))
        label = name if b_value is None else f"{name}, b = {b_value}"
        for tracker, run in trackers_of(arguments).items():
            maps = [
                visits(run(case), case.affine, case.coefficients.shape[:3])
                for case in cases
            ]
            print(f"| {label} | {tracker} | {density_correlation(*maps):.3f} |")


def show_directions(arguments):
    """Print how well density maps agree with those of more directions."""
    print("| directions | tracker | Dice | correlation |\n" + 4 * "|---" + "|")
    sizes = [(None, 8), (30, 6), (12, 4)]
    cases = []
    for affine, white, fa, coefficients in parts_of(
        arguments.folder, "canon61", sizes=sizes
    ):
        seeds = random_seeds(fa > 0.3, affine, 1)
        criterion = BinaryStoppingCriterion(white)
        cases.append(Case.of(coefficients, affine, criterion, seeds))
    for tracker, run in trackers_of(arguments).items():
        full, *others = (
            visits(run(case), case.affine, case.coefficients.shape[:3])
            for case in cases
        )
        for (n, _), part in zip(sizes[1:], others, strict=True):
            print(
                f"| {n} | {tracker} | {dice(full > 0, part > 0):.3f} | "
                f"{density_correlation(full, part):.3f} |",
                flush=True,
            )


PARTS = {
    "coverage": show_coverage,
    "calibration": show_calibration,
    "lost": show_lost,
    "ended": show_ended,
    "density": show_density,
    "directions": show_directions,
}


if __name__ == "__main__":
    main()
