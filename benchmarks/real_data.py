"""Both trackers on real heads: ``python benchmarks/real_data.py FOLDER``.

FOLDER contains a folder for each head, with dwi.nii.gz, dwi.bval, dwi.bvec, mask.nii.gz
and fa.nii.gz. For each head the fODF is fitted once and saved in ``--work``. Then

* ``dipy_track_rnn`` and ``dipy_track`` track with the same options from all voxels
  with an FA above 0.3. Printed are the number and the mean length of the streamlines,
  and the seconds of the whole process;
* both trackers track the same seeds from the same first directions, with steps of 1 mm
  and 0.5 mm. Printed is the fraction of streamlines that agree within 2 mm (Hausdorff);
* both interfaces, rnn_tracking and RNNDirectionGetter, track the same seeds. Printed is
  the fraction of streamlines that agree within 0.001 mm at every point.
"""

import argparse
from importlib import metadata
import os
from pathlib import Path
import platform
import subprocess
import sys
import time

from dipy.io.image import load_nifti, save_nifti
from dipy.io.peaks import load_pam
from dipy.io.streamline import load_tractogram
from dipy.tracking.local_tracking import LocalTracking
from dipy.tracking.stopping_criterion import ThresholdStoppingCriterion
from dipy.tracking.tracker import deterministic_tracking
from dipy.tracking.utils import seeds_from_mask
import numpy as np

from dipy_rnn import RNNDirectionGetter, pam_features, rnn_tracking, sampling, spatial
from dipy_rnn.evaluation import agreement

STOPPING_THR = 0.15
SEED_THR = 0.3
MAX_LEN_MM = 5000  # longer than any streamline, so that none is discarded
ORDER_OF_DIRECTIONS = ((45, 8), (28, 6), (15, 4))


def run(command, *arguments):
    """Run a command of this environment; return its seconds."""
    start = time.perf_counter()
    subprocess.run(
        [str(Path(sys.executable).parent / command), *map(str, arguments)],
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - start


def prepare(head, work):
    """Write the seed mask, and fit the fODF if it does not exist."""
    work.mkdir(parents=True, exist_ok=True)
    fa, affine = load_nifti(head / "fa.nii.gz")
    save_nifti(work / "seeds.nii.gz", (fa > SEED_THR).astype(np.uint8), affine)
    if not (work / "peaks.pam5").exists():
        bvecs = np.loadtxt(head / "dwi.bvec").T
        unique = np.unique(
            np.round(bvecs[np.linalg.norm(bvecs, axis=1) > 0.5], 4), axis=0
        )
        order = next(o for n, o in ORDER_OF_DIRECTIONS if len(unique) >= n)
        run(
            "dipy_fit_csd",
            *(head / f for f in ("dwi.nii.gz", "dwi.bval", "dwi.bvec", "mask.nii.gz")),
            "--sh_order_max",
            order,
            "--out_dir",
            work,
        )
    return fa, affine


def measure(head, work, model, n_seeds):
    """Print the results for one head."""
    fa, affine = prepare(head, work)
    print(f"\n{head.name}: {fa.shape}, model {model}")
    inputs = (work / "peaks.pam5", head / "fa.nii.gz", work / "seeds.nii.gz")
    options = (
        "--step_size",
        1.0,
        "--stopping_thr",
        STOPPING_THR,
        "--out_dir",
        work,
        "--force",
    )
    mean_length = {}
    for command, extra in (
        ("dipy_track_rnn", ("--model_file", model)),
        ("dipy_track", ()),
    ):
        out = work / f"{command}.trx"
        seconds = run(command, *inputs, *options, *extra, "--out_tractogram", out.name)
        tractogram = load_tractogram(str(out), str(inputs[1]), bbox_valid_check=False)
        lengths = np.array([len(line) - 1.0 for line in tractogram.streamlines])
        mean_length[command] = lengths.mean()
        inside = tractogram.is_bbox_in_vox_valid()
        print(
            f"  {command:15} {len(lengths)} streamlines, {np.sum(lengths > 10)} over "
            f"10 mm, mean {lengths.mean():.1f} mm, {seconds:.1f} s, all points inside: "
            f"{inside}"
        )
    ratio = mean_length["dipy_track_rnn"] / mean_length["dipy_track"]
    print(f"  mean length, dipy_track_rnn / dipy_track: {ratio:.3f}")

    pam = load_pam(inputs[0])
    features = pam_features(pam)
    criterion = ThresholdStoppingCriterion(fa, STOPPING_THR)
    seeds = seeds_from_mask(fa > SEED_THR, affine)
    seeds = seeds[np.random.default_rng(0).permutation(len(seeds))[:n_seeds]]
    directions = sampling.first_directions(
        features.data,
        spatial.to_voxels(seeds, affine),
        spatial.axes(affine),
        max_peaks=1,
    )[:, 0]
    found = directions.any(axis=1)
    seeds, directions = seeds[found], directions[found]

    def ours(step, **extra):
        return list(
            rnn_tracking(
                seeds,
                criterion,
                affine,
                features=features,
                seed_directions=directions,
                model=model,
                step_size=step,
                max_angle=30,
                min_len=0,
                max_len=MAX_LEN_MM,
                **extra,
            )
        )

    def theirs(step):
        return list(
            deterministic_tracking(
                seeds,
                criterion,
                affine,
                sh=pam.shm_coeff,
                legacy=True,
                seed_directions=directions,
                sphere=pam.sphere,
                max_angle=30,
                step_size=step,
                min_len=0,
                max_len=MAX_LEN_MM,
                random_seed=1,
            )
        )

    for name, tracker in (("rnn_tracking", ours), ("deterministic_tracking", theirs)):
        coarse = tracker(1.0)
        share = agreement(coarse, tracker(0.5)).mean()
        print(f"  {name}: {share:.3f} agree within 2 mm at steps of 0.5 and 1 mm")
    coarse, fine = (agreement(ours(step), theirs(step)).mean() for step in (1.0, 0.5))
    print(
        f"  rnn_tracking: {coarse:.3f} agree within 2 mm with deterministic_tracking; "
        f"steps of 0.5 mm: {fine:.3f}"
    )

    few = slice(0, min(200, len(seeds)))
    getter = RNNDirectionGetter(features, affine=affine, model=model, max_angle=30)
    local = list(
        LocalTracking(
            getter,
            criterion,
            seeds[few],
            affine,
            1.0,
            maxlen=500,
            initial_directions=directions[few, None],
        )
    )
    same = [
        len(a) == len(b) and np.abs(a - b).max() <= 1e-3
        for a, b in zip(ours(1.0)[few], local)
    ]
    print(f"  LocalTracking and rnn_tracking: {np.mean(same):.4f} agree")
    for batch_size in (1, 7, 64):
        one = list(
            rnn_tracking(
                seeds[few],
                criterion,
                affine,
                features=features,
                seed_directions=directions[few],
                model=model,
                step_size=1.0,
                max_angle=30,
                min_len=0,
                batch_size=batch_size,
            )
        )
        same = [
            len(a) == len(b) and np.abs(a - b).max() <= 1e-3
            for a, b in zip(ours(1.0)[few], one)
        ]
        print(f"  batch sizes {batch_size} and 1024: {np.mean(same):.4f} agree")


def main():
    """Measure all heads in a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, default=Path("real_data"))
    parser.add_argument(
        "--heads", nargs="*", help="folders of heads (default: all with a dwi.bvec)"
    )
    parser.add_argument("--model", default="default")
    parser.add_argument("--n_seeds", type=int, default=2000)
    arguments = parser.parse_args()
    versions = ", ".join(
        f"{n} {metadata.version(n)}" for n in ("dipy_rnn", "dipy", "torch", "numpy")
    )
    print(
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, "
        f"{len(os.sched_getaffinity(0))} cores, {versions}"
    )
    found = sorted(path.parent.name for path in arguments.folder.glob("*/dwi.bvec"))
    for head in arguments.heads or found:
        measure(
            arguments.folder / head,
            arguments.work / head,
            arguments.model,
            arguments.n_seeds,
        )


if __name__ == "__main__":
    main()
