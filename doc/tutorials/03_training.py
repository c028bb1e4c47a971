"""
Train on your own tractogram
============================

`dipy_train_rnn` trains a network on streamlines that you trust, such as bundles that an
expert has dissected. `dipy_track_rnn` then tracks with it. The training in this
tutorial takes seconds, on one simulated scan. Its network is not good enough for other
data. A real training takes minutes to an hour.
"""

# %%
# A subject
# ---------
#
# Training needs an fODF, here a NIfTI image of spherical harmonics, and streamlines. As
# this is a simulation, the streamlines are the true ones.

from pathlib import Path
import shlex
import subprocess
import tempfile

from dipy.io.image import save_nifti
import numpy as np

from dipy_rnn.io import write_tractogram
from dipy_rnn.phantom import crossing_phantom

folder = Path(tempfile.mkdtemp())
phantom = crossing_phantom(75, shape=(20, 20, 8))
mask = np.float32(phantom.mask())
fodf = phantom.fodf(noise=0.05)
save_nifti(folder / "fodf.nii.gz", fodf, phantom.affine)
known, _ = phantom.streamlines(60, random_seed=1)
write_tractogram(
    folder / "bundles.trk", ((line, {}) for line in known), phantom.affine, mask.shape
)


def run(command):
    """Run a command in the folder, as in a terminal, and print its output."""
    print("$", command)
    done = subprocess.run(
        shlex.split(command), cwd=folder, text=True, capture_output=True, check=True
    )
    for line in (done.stdout + done.stderr).splitlines():
        print(line.split("[dipy] ")[-1])  # without the time of day


# %%
# Training
# --------
#
# A tenth of the streamlines is held out. *followed* is the share of these that the
# network follows from end to end when it tracks freely. It is the most important
# metric. The error of the next step stops improving early and says little.

run(
    "dipy_train_rnn fodf.nii.gz bundles.trk --n_updates 30 --validate_every 15 "
    "--hidden 16 --batch_size 32 --min_step 0.25 --nbr_threads 1"
)

# %%
# Beside `model.pt`, there is a folder with the log, its curves and a checkpoint:

print(*sorted(path.name for path in (folder / "model_training").iterdir()))

# %%
# Tracking with it
# ----------------
#
# The model file is used in Python, as here, or in a terminal with
# `dipy_track_rnn --model_file model.pt`:

from dipy_rnn import fodf_features, rnn_tracking
from dipy_rnn.report import draw_tractograms
from dipy_rnn.stopping import BinaryStoppingCriterion

seeds = [line[len(line) // 2] for line in known]
streamlines = list(
    rnn_tracking(
        seeds,
        BinaryStoppingCriterion(mask),
        phantom.affine,
        features=fodf_features(fodf),
        model=folder / "model.pt",
        step_size=1.0,
    )
)
figure = draw_tractograms({"model.pt": streamlines}, mask, phantom.affine)

# %%
# The metadata of a model file describe the network and its training:

from dipy_rnn.model import read_metadata

metadata = read_metadata(folder / "model.pt")
print(metadata.architecture, metadata.hidden, metadata.step_vox)
print(metadata.provenance["data"])

# %%
# On your own data
# ----------------
#
# - Leave out the options that make the training small here: `dipy_train_rnn csd.pam5
#   bundles.trk`. To train for an hour, add `--max_minutes 60`.
# - For several subjects: `dipy_train_rnn "sub-*/csd.pam5" "sub-*/bundles.trk"
#   --validation_subjects 1`. Fit all fODFs like those that will be tracked.
# - Some thousand streamlines of each subject are enough; more do no harm.
# - After an interruption, continue with `--resume`. To use a GPU, add `--device cuda`.
#   For several GPUs, see :doc:`/training`.
# - Then compare the network with DIPY's tracking: :doc:`04_comparing`.
