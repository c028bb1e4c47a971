"""
Train on your own tractogram
============================

`dipy_train_rnn` trains a network on streamlines you trust, such as bundles that an
expert has dissected; `dipy_track_rnn` then tracks with it. This training lasts for
seconds, and its network shows for it: a real one takes minutes to an hour.
"""

# %%
# A subject
# ---------
#
# Its fODF as a NIfTI image of spherical harmonics, and the streamlines to learn from:
# the true ones, as this is a simulation.

from pathlib import Path
import shlex
import subprocess
import tempfile

from dipy.io.image import save_nifti
import numpy as np

from dipy_rnn.phantom import crossing_phantom
from dipy_rnn.tractogram_file import write_tractogram

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
    """Run a command in the folder, as in a terminal, and show what it says."""
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
# network follows from end to end when it tracks freely, and the figure to look at; the
# error of the next step stops telling much early.

run(
    "dipy_train_rnn fodf.nii.gz bundles.trk --n_updates 30 --validate_every 15 "
    "--hidden 16 --batch_size 32 --min_step 0.5 --nbr_threads 1"
)

# %%
# Beside `model.pt` is a folder with the log, its curves and a checkpoint:

print(*sorted(path.name for path in (folder / "model_training").iterdir()))

# %%
# Tracking with it
# ----------------
#
# In Python, or in a terminal with `dipy_track_rnn --model_file model.pt`:

from dipy_rnn import fodf_features, rnn_tracking
from dipy_rnn.pictures import draw_tractograms
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
# Which network is in a file, and how it came about, is written in it:

from dipy_rnn.model_file import read_metadata

metadata = read_metadata(folder / "model.pt")
print(metadata.architecture, metadata.hidden, metadata.step_mm)
print(metadata.provenance["data"])

# %%
# On your own data
# ----------------
#
# - Leave out the options that make it small here: `dipy_train_rnn csd.pam5
#   bundles.trk`, or `--max_minutes 60` for an hour.
# - Several subjects: `dipy_train_rnn "sub-*/csd.pam5" "sub-*/bundles.trk"
#   --validation_subjects 1`. Fit all fODFs as those on which the network is to track.
# - Some thousand streamlines of each subject are enough; more do no harm.
# - `--resume` goes on after an interruption. On a GPU: `--device cuda`. On several: see
#   :doc:`/training`.
# - Then ask whether it is any good: :doc:`04_comparing`.
