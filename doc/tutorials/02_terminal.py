"""
Track in a terminal
===================

This tutorial tracks with commands, from files to files. DIPY's commands fit the fODF,
and `dipy_track_rnn` tracks. It has most flags of `dipy_track`
(:doc:`list of flags </dipy_track>`).
"""

# %%
# Files
# -----
#
# This cell simulates a scan and a brain mask and writes them into an empty folder. If
# you have data of your own, skip it.

from pathlib import Path
import shlex
import subprocess
import tempfile

from dipy.core.gradients import generate_bvecs, gradient_table
from dipy.io.image import save_nifti
import numpy as np

from dipy_rnn.phantom import crossing_phantom

folder = Path(tempfile.mkdtemp())
phantom = crossing_phantom(60, shape=(20, 20, 8))
bvals = np.r_[np.zeros(6), np.full(60, 1500)]
bvecs = np.r_[np.zeros((6, 3)), generate_bvecs(60, rng=np.random.default_rng(1))]
np.savetxt(folder / "dwi.bval", bvals[None], "%d")
np.savetxt(folder / "dwi.bvec", bvecs.T, "%.6f")
dwi = phantom.dwi(gradient_table(bvals, bvecs=bvecs), snr=20, random_seed=1)
mask = phantom.mask().astype(np.float32)
for name, volume in (("dwi", dwi), ("mask", mask), ("seeds", mask)):
    save_nifti(folder / f"{name}.nii.gz", np.float32(volume), phantom.affine)


def run(command):
    """Run a command in the folder, as in a terminal, and print its output."""
    print("$", command)
    done = subprocess.run(
        shlex.split(command), cwd=folder, text=True, capture_output=True, check=True
    )
    for line in (done.stdout + done.stderr).splitlines():
        print(line.split("[dipy] ")[-1])  # without the time of day


# %%
# fODF and stopping image
# -----------------------
#
# FA is the stopping image.

run(
    "dipy_fit_dti dwi.nii.gz dwi.bval dwi.bvec mask.nii.gz "
    "--save_metrics fa --out_pam dti.pam5"
)
run("dipy_fit_csd dwi.nii.gz dwi.bval dwi.bvec mask.nii.gz --out_pam csd.pam5")

# %%
# Tracking
# --------
#
# At the end, the command prints why streamlines stopped
# (:doc:`meaning of the reasons </conventions>`). `--save_picture` needs
# `dipy_rnn[viz]`.

run(
    "dipy_track_rnn csd.pam5 fa.nii.gz seeds.nii.gz --stopping_thr 0.15 "
    "--seed_count 300 --minlen 10 --save_seeds --save_picture "
    "--out_tractogram lines.trx"
)

# %%
# The picture that the command saved beside the tractogram:

import matplotlib.pyplot as plt

picture = plt.imread(folder / "lines.png")
plt.figure(figsize=(10.8, 10.8 * picture.shape[0] / picture.shape[1]))
plt.imshow(picture)
plt.axis("off")
plt.subplots_adjust(0, 0, 1, 1)

# %%
# Many streamlines from each seed
# -------------------------------
#
# Probabilistic tracking draws directions from the distribution that the network
# predicts (:doc:`/probabilistic`). `--save_density` saves how many streamlines visit
# each voxel.

run(
    "dipy_track_rnn csd.pam5 fa.nii.gz seeds.nii.gz --stopping_thr 0.15 "
    "--seeds_per_voxel 2 --tracking_method probabilistic --save_density "
    "--out_tractogram drawn.trx"
)

# %%
# The density in the middle slice:

import nibabel as nib

density = nib.load(folder / "drawn_density.nii.gz").get_fdata()
plt.figure(figsize=(4, 4))
plt.imshow(density[:, :, density.shape[2] // 2].T, origin="lower")
plt.axis("off")
plt.colorbar(label="streamlines")

# %%
# On your own data
# ----------------
#
# - `mask.nii.gz` is a brain mask (of `dipy_median_otsu` or of your pipeline).
#   `seeds.nii.gz` is a mask of white matter, for example where FA is above 0.3.
# - For more than about 60 directions, leave `--sh_order_max` of `dipy_fit_csd` at 8.
#   For 30 directions, give 6.
# - For images of spherical harmonics of MRtrix3, add `--sh_basis tournier07 --sh_frame
#   scanner` (:doc:`/features`).
# - For many subjects, give wildcards in quotes: `"sub-*/csd.pam5"` (:doc:`07_cohort`).
# - To give the number of streamlines instead of the number of seeds: `--select 10000`.
# - All flags: :doc:`/reference/commands`, or `dipy_track_rnn --help`.
