"""Track a simulated brain slab with dipy_track_rnn and with dipy_track.

Run it by ``make demo``. The script simulates a diffusion scan of bundles that cross,
bend and fan out, and runs the commands that one would run on measured data. It writes
all files to ``demo/``, with a plot of both results beside the ground truth and the page
of dipy_compare_rnn.
"""

import argparse
from pathlib import Path
import subprocess
import sys
import time

from dipy.core.gradients import gradient_table
from dipy.io.gradients import read_bvals_bvecs
from dipy.io.image import save_nifti
from dipy.io.stateful_tractogram import Space, StatefulTractogram
from dipy.io.streamline import load_tractogram, save_tractogram
import matplotlib

matplotlib.use("Agg")

from matplotlib.collections import LineCollection
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from dipy_rnn.phantom import Bundle, Phantom

SHAPE = (40, 40, 20)
VOXEL_SIZE_MM = 2.0
N_DIRECTIONS = 60
N_B0 = 6
B_VALUE = 1500
SNR = 20
RANDOM_SEED = 2026

OPTIONS = [
    *("--step_size", "1.0"),
    *("--stopping_thr", "0.15"),
    *("--minlen", "20"),
]
BUNDLES = ("straight", "winding", "arch", "fan")
N_KNOWN = 1000  # true streamlines of each bundle, enough to fill it
N_DRAWN = 400  # streamlines in a panel


def make_phantom():
    """Make a phantom of four bundles in and near the plane z = 0.

    Returns
    -------
    phantom : dipy_rnn.phantom.Phantom
        A straight and a winding bundle along x, an arch that crosses the straight
        one, and a fan along y that crosses all of them.
    """
    t = np.linspace(0, 1, 400)
    zero = np.zeros_like(t)
    straight = np.stack([-37 + 74 * t, zero - 20, zero], axis=1)
    winding = np.stack([-37 + 74 * t, 25 - 7 * np.sin(2 * np.pi * t), zero], axis=1)
    arch = np.stack(
        [-25 * np.cos(np.pi * t), -37 + 39 * np.sin(np.pi * t), zero], axis=1
    )
    fan = np.stack([zero, -37 + 74 * t, zero], axis=1)
    bundles = [
        Bundle(straight, 5.0),
        Bundle(winding, 4.5),
        Bundle(arch, 4.5),
        Bundle(fan, 3.0 + 13.0 * t**2),
    ]
    affine = np.diag([VOXEL_SIZE_MM] * 3 + [1.0])
    affine[:3, 3] = -VOXEL_SIZE_MM * (np.array(SHAPE) - 1) / 2
    return Phantom(bundles, affine, SHAPE)


def write_scan(phantom, folder):
    """Simulate a scan of a phantom and write its files.

    Parameters
    ----------
    phantom : dipy_rnn.phantom.Phantom
    folder : Path
        Folder for dwi.nii.gz, dwi.bval, dwi.bvec, mask.nii.gz and seeds.nii.gz.
    """
    # Gradient directions on a spiral, spread evenly over the half sphere.
    turn = np.arange(N_DIRECTIONS)
    z = (turn + 0.5) / N_DIRECTIONS
    azimuth = np.pi * (3 - np.sqrt(5)) * turn
    radius = np.sqrt(1 - z**2)
    directions = np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], 1)
    np.savetxt(folder / "dwi.bvec", np.r_[np.zeros((N_B0, 3)), directions].T, "%.6f")
    b_values = np.repeat([0, B_VALUE], [N_B0, N_DIRECTIONS])
    np.savetxt(folder / "dwi.bval", b_values[None], "%d")

    bvals, bvecs = read_bvals_bvecs(str(folder / "dwi.bval"), str(folder / "dwi.bvec"))
    dwi = phantom.dwi(
        gradient_table(bvals, bvecs=bvecs), snr=SNR, random_seed=RANDOM_SEED
    )
    mask = phantom.mask()
    seeds = mask.copy()
    middle = SHAPE[2] // 2
    seeds[..., :middle] = seeds[..., middle + 1 :] = False
    for name, volume in (("dwi", dwi), ("mask", mask), ("seeds", seeds)):
        save_nifti(
            str(folder / f"{name}.nii.gz"), volume.astype(np.float32), phantom.affine
        )


def write_truth(phantom, folder):
    """Write the true streamlines of each bundle.

    Parameters
    ----------
    phantom : dipy_rnn.phantom.Phantom
    folder : Path
        Folder for truth/, which gets a tractogram for each of ``BUNDLES``.
    """
    (folder / "truth").mkdir(exist_ok=True)
    lines, _ = phantom.streamlines(N_KNOWN, random_seed=RANDOM_SEED)
    for i, name in enumerate(BUNDLES):
        tractogram = StatefulTractogram(
            lines[i * N_KNOWN : (i + 1) * N_KNOWN],
            str(folder / "mask.nii.gz"),
            Space.RASMM,
        )
        save_tractogram(
            tractogram, str(folder / "truth" / f"{name}.trk"), bbox_valid_check=False
        )


def run(command, *arguments, folder):
    """Run a command of this Python environment.

    Parameters
    ----------
    command : str
    arguments : str
    folder : Path
        Working directory. The output of the command goes to ``<command>.log`` in it.

    Returns
    -------
    seconds : float
    """
    log = folder / f"{command}.log"
    start = time.perf_counter()
    with log.open("w") as file:
        status = subprocess.run(
            [str(Path(sys.executable).parent / command), *arguments, "--force"],
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
        ).returncode
    if status:
        sys.exit(f"{command} failed:\n{log.read_text()[-2000:]}")
    seconds = time.perf_counter() - start
    print(f"  {seconds:5.1f} s  {command}", flush=True)
    return seconds


def draw(panels, path):
    """Draw tractograms beside each other, in a view along z.

    Parameters
    ----------
    panels : list of (str, list of ndarray of shape (M, 3))
        Titles and streamlines in mm.
    path : Path
        PNG file to write.
    """
    half = VOXEL_SIZE_MM * SHAPE[0] / 2
    figure, axes = plt.subplots(1, len(panels), figsize=(12, 4.2), layout="constrained")
    for axis, (title, streamlines) in zip(axes, panels, strict=True):
        rng = np.random.default_rng(RANDOM_SEED)
        drawn = rng.permutation(len(streamlines))[:N_DRAWN]
        lines = [np.asarray(streamlines[i]) for i in drawn]
        segments = [np.stack([line[:-1], line[1:]], axis=1) for line in lines]
        segments = np.concatenate(segments) if segments else np.empty((0, 2, 3))
        along = np.abs(segments[:, 1] - segments[:, 0])
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        axis.add_collection(
            LineCollection(segments[..., :2], colors=along, linewidths=0.6)
        )
        axis.set(
            xlim=(-half, half),
            ylim=(-half, half),
            aspect="equal",
            facecolor="black",
            xlabel="x (mm)",
            ylabel="y (mm)" if axis is axes[0] else None,
        )
        axis.set_title(title, fontsize=11)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    # With a palette, the file has a third of the size.
    with Image.open(path) as picture:
        palette = picture.convert("RGB").quantize(128)
    palette.save(path, optimize=True)


def main():
    """Simulate the scan, run the commands, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out_dir", default="demo", type=Path)
    parser.add_argument("--model_file", default="default", help="as for dipy_track_rnn")
    arguments = parser.parse_args()
    folder = arguments.out_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    model_file = arguments.model_file
    if Path(model_file).is_file():
        model_file = str(Path(model_file).resolve())

    print("Simulating a scan and tracking it:")
    start = time.perf_counter()
    phantom = make_phantom()
    write_scan(phantom, folder)
    write_truth(phantom, folder)
    print(f"  {time.perf_counter() - start:5.1f} s  simulation", flush=True)

    scan = ["dwi.nii.gz", "dwi.bval", "dwi.bvec", "mask.nii.gz"]
    fa = ["--save_metrics", "fa", "--out_pam", "dti.pam5"]
    run("dipy_fit_dti", *scan, *fa, folder=folder)
    fodf = ["--sh_order_max", "8", "--out_pam", "csd.pam5"]
    run("dipy_fit_csd", *scan, *fodf, folder=folder)
    data = ["csd.pam5", "fa.nii.gz", "seeds.nii.gz", "--seed_density", "2", *OPTIONS]
    model, out = ["--model_file", model_file], "--out_tractogram"
    seconds_rnn = run("dipy_track_rnn", *data, *model, out, "rnn.trk", folder=folder)
    seconds_dipy = run("dipy_track", *data, out, "deterministic.trk", folder=folder)
    # Seeds in the whole mask, because those of one slice would not fill the bundles.
    data = ["csd.pam5", "fa.nii.gz", "mask.nii.gz", "--seed_count", "5000", *OPTIONS]
    known = ["--bundle_files", "truth/*.trk", "--out_dir", "comparison"]
    run("dipy_compare_rnn", *data, *model, *known, folder=folder)

    truth, _ = phantom.streamlines(100, step_mm=1.0, random_seed=RANDOM_SEED)
    rnn, dipy = (
        load_tractogram(
            str(folder / name), str(folder / "seeds.nii.gz"), bbox_valid_check=False
        ).streamlines
        for name in ("rnn.trk", "deterministic.trk")
    )
    draw(
        [
            (f"truth: {len(truth)} streamlines", truth),
            (f"dipy_track_rnn: {len(rnn)} in {seconds_rnn:.1f} s", rnn),
            (f"dipy_track: {len(dipy)} in {seconds_dipy:.1f} s", dipy),
        ],
        folder / "demo.png",
    )
    print(f"""
In {folder}:
  dwi.nii.gz, dwi.bval, dwi.bvec   the simulated scan; mask.nii.gz, seeds.nii.gz
  truth/                           the true streamlines of each bundle
  fa.nii.gz, csd.pam5              FA and fODF fitted to the scan
  rnn.trk                          {len(rnn)} streamlines of dipy_track_rnn
  deterministic.trk                {len(dipy)} streamlines of dipy_track
  demo.png                         both beside the true streamlines
  comparison/report.html           how both differ, and how well each fits the truth
(Times are of whole commands, start-up included.)

For your own data with a brain mask, run in a terminal after . .venv/bin/activate:
  dipy_fit_dti dwi.nii.gz dwi.bval dwi.bvec mask.nii.gz --save_metrics fa \\
      --out_pam dti.pam5
  dipy_fit_csd dwi.nii.gz dwi.bval dwi.bvec mask.nii.gz --out_pam csd.pam5
  dipy_mask fa.nii.gz 0.3 --out_mask seeds.nii.gz
  dipy_track_rnn csd.pam5 fa.nii.gz seeds.nii.gz --out_tractogram streamlines.trx
  dipy_compare_rnn csd.pam5 fa.nii.gz seeds.nii.gz --seed_count 5000""")


if __name__ == "__main__":
    main()
