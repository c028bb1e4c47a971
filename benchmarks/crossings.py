"""Crossings that trackers resolve: ``python benchmarks/crossings.py FOLDER``.

FOLDER holds the phantom of TrackerYoga: ``dwi_b3000.nii.gz`` and its gradients (also
``b1000``), ``mask.nii.gz``, and true streamlines with the number of their bundle
(``truth.trk``). Bundles 6 to 17 are pairs that cross at 15, 30, 45, 60, 75 and 90
degrees.

Seeds are points of true streamlines, a fifth of their length from an end. The first
direction is the true one, towards the crossing. All trackers get the same seeds, first
directions and options. The table has the share of streamlines that leave the crossing
by the opposite arm: they end within 3 mm of the far end of their bundle, and nearer to
it than to the far end of the other bundle. A crossing is resolved (``*``) if the share
is at least one half in each of the two bundles. The share of the worse bundle is shown.
Tracking stops one voxel outside of the mask.
"""

import argparse
from itertools import product
from pathlib import Path

from dipy.core.gradients import gradient_table
from dipy.io.gradients import read_bvals_bvecs
from dipy.io.image import load_nifti, load_nifti_data
from dipy.io.streamline import load_trk
from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
import numpy as np
from scipy.ndimage import binary_dilation
from shipped_models import Case, fit_csd, response_of

from dipy_rnn import load_model, spatial

ANGLES_DEG = (15, 30, 45, 60, 75, 90)
FIRST_BUNDLE = 6  # the bundles before it are arcs
PLACE = 0.2  # of a seed, as a share of the length of its streamline
END_MM = 3.0
ORDER = 8


def load_case(folder, b_value):
    """Return a case, and the bundle and the true far end of each seed."""
    mask, affine = load_nifti(folder / "mask.nii.gz")
    mask = mask > 0
    wider = binary_dilation(mask)  # the bundles are 2 to 4 voxels thick
    dwi = load_nifti_data(folder / f"dwi_b{b_value}.nii.gz")
    bvals, bvecs = read_bvals_bvecs(
        str(folder / f"dwi_b{b_value}.bval"), str(folder / f"dwi_b{b_value}.bvec")
    )
    gtab = gradient_table(bvals, bvecs=bvecs)
    coefficients = fit_csd(dwi, gtab, response_of(dwi, gtab, mask), ORDER, wider)
    truth = load_trk(str(folder / "truth.trk"), "same", bbox_valid_check=False)
    bundles = np.ravel(truth.data_per_streamline["bundle"]).astype(int)
    seeds, directions, of_seeds, ends = [], [], [], []
    for line, bundle in zip(truth.streamlines, bundles):
        if bundle < FIRST_BUNDLE:
            continue
        for way in (line, line[::-1]):
            i = int(PLACE * len(way))
            seeds.append(way[i])
            directions.append(way[i + 1] - way[i])
            of_seeds.append(bundle)
            ends.append(way[-1])
    directions = np.array(directions, float) @ spatial.axes(affine)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    criterion = BinaryStoppingCriterion(wider)
    case = Case.of(coefficients, affine, criterion, np.array(seeds, float), directions)
    return case, np.array(of_seeds), np.array(ends, float)


def leave_opposite(lines, case, bundles, ends):
    """Tell which streamlines leave by the opposite arm."""
    towards = case.directions @ spatial.axes(case.affine).T
    opposite = np.zeros(len(lines), bool)
    for i, line in enumerate(lines):
        if not len(line):
            continue
        tips = line[[0, -1]]
        tip = tips[np.argmax((tips - case.seeds[i]) @ towards[i])]
        # Streamlines of even and odd index run in opposite ways. Bundles 6 and 7 are a
        # pair, 8 and 9 the next one; both bundles of a pair run in similar ways.
        same_way = np.arange(len(ends)) % 2 == i % 2
        to_own, to_other = (
            np.linalg.norm(tip - ends[(bundles == bundle) & same_way].mean(axis=0))
            for bundle in (bundles[i], bundles[i] ^ 1)
        )
        opposite[i] = to_own <= END_MM and to_own < to_other
    return opposite


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=["default", "fast"])
    parser.add_argument("--b_values", nargs="+", type=int, default=[1000, 3000])
    parser.add_argument("--max_angles", nargs="+", type=float, default=[30, 45, 60])
    parser.add_argument("--steps", nargs="+", type=float, default=[0.5], help="mm")
    arguments = parser.parse_args()
    models = {name: load_model(name) for name in arguments.models}
    print("crossings: share that leaves by the opposite arm; * resolved")
    print(
        f"{'b':>5} {'step':>5} {'angle':>5} {'tracker':16}"
        + "".join(f"{angle:>7}" for angle in ANGLES_DEG)
    )
    for b_value in arguments.b_values:
        case, bundles, ends = load_case(arguments.folder, b_value)
        for step_mm, max_angle in product(arguments.steps, arguments.max_angles):
            for name in (*models, "DIPY det."):
                if name in models:
                    lines = case.ours(models[name], step_mm, max_angle)
                else:
                    lines = case.theirs(step_mm, max_angle)
                opposite = leave_opposite(lines, case, bundles, ends)
                shares = [
                    min(opposite[bundles == bundle + k].mean() for k in (0, 1))
                    for bundle in range(FIRST_BUNDLE, bundles.max(), 2)
                ]
                print(
                    f"{b_value:5} {step_mm:5.2f} {max_angle:5.0f} {name:16}"
                    + "".join(f"{s:6.2f}{'*' if s >= 0.5 else ' '}" for s in shares),
                    flush=True,
                )


if __name__ == "__main__":
    main()
