"""
Track in a script
=================

This tutorial goes from a diffusion scan to streamlines in Python. It fits a fibre
orientation distribution (fODF), makes a stopping criterion and seeds, and uses the
network as a direction getter in DIPY's `LocalTracking`. Then it tracks the same
streamlines faster with `rnn_tracking`.
"""

# %%
# A scan
# ------
#
# The simulated scan has two bundles that cross at 60 degrees, and 60 gradient
# directions. For a scan of your own, use `load_nifti`, `read_bvals_bvecs` and a brain
# mask instead.

from dipy.core.gradients import generate_bvecs, gradient_table
import numpy as np

from dipy_rnn.phantom import crossing_phantom

phantom = crossing_phantom(60, shape=(20, 20, 8))
bvals = np.r_[np.zeros(6), np.full(60, 1500)]
bvecs = np.r_[np.zeros((6, 3)), generate_bvecs(60, rng=np.random.default_rng(1))]
gtab = gradient_table(bvals, bvecs=bvecs)
dwi = phantom.dwi(gtab, snr=20, random_seed=1)
affine = phantom.affine
mask = phantom.mask()

# %%
# The input of the network
# ------------------------
#
# The network takes an fODF. DIPY fits it by constrained spherical deconvolution
# :cite:p:`tournier2007`. The response of a single fibre is known here. For a brain,
# estimate it with `auto_response_ssst`.

from dipy.reconst.csdeconv import ConstrainedSphericalDeconvModel
from dipy.reconst.dti import TensorModel

response = (np.array([1.7e-3, 3e-4, 3e-4]), 100.0)
model = ConstrainedSphericalDeconvModel(gtab, response, sh_order_max=8)
shm_coeff = model.fit(dwi, mask=mask).shm_coeff

# %%
# Seeds and stopping criterion
# ----------------------------
#
# Seeds are placed at random in the mask. Tracking stops where FA is not above 0.15.

from dipy.tracking.stopping_criterion import ThresholdStoppingCriterion
from dipy.tracking.utils import random_seeds_from_mask

fa = np.nan_to_num(TensorModel(gtab).fit(dwi, mask=mask).fa)
criterion = ThresholdStoppingCriterion(fa, 0.15)
seeds = random_seeds_from_mask(
    mask, affine, seeds_count=200, seed_count_per_voxel=False, random_seed=1
)
print(f"{len(seeds)} seeds")

# %%
# In LocalTracking
# ----------------
#
# `RNNDirectionGetter` is used like a direction getter of DIPY. It also needs the
# affine, to know the orientation of the voxel axes in the head
# (:doc:`details </local_tracking>`). The argument `seeds` makes it faster: many
# streamlines are then tracked at once, before `LocalTracking` asks for them.

from dipy.tracking.local_tracking import LocalTracking

from dipy_rnn import RNNDirectionGetter

getter = RNNDirectionGetter.from_shcoeff(
    shm_coeff, affine=affine, max_angle=30.0, seeds=seeds
)
streamlines = list(
    LocalTracking(getter, criterion, seeds, affine, step_size=0.5, max_cross=1)
)
mean = np.mean([len(line) for line in streamlines])
print(f"{len(streamlines)} streamlines of {mean:.0f} points")

# %%
# With rnn_tracking
# -----------------
#
# `rnn_tracking` has the keywords of DIPY's `deterministic_tracking`. It tracks many
# streamlines at a time and gives the same streamlines.

from dipy_rnn import rnn_tracking

together = list(
    rnn_tracking(
        seeds, criterion, affine, sh=shm_coeff, step_size=0.5, max_angle=30.0, min_len=0
    )
)
farthest = max(abs(a - b).max() for a, b in zip(streamlines, together, strict=True))
print(f"no point is farther apart than {farthest:.3f} mm")

# %%
# A picture
# ---------
#
# The streamlines in three planes over FA. Red runs from left to right, green from back
# to front.

from dipy_rnn.report import draw_tractograms

figure = draw_tractograms({"rnn_tracking": together}, fa, affine)

# %%
# A file
# ------
#
# `write_tractogram` takes the generator and writes each streamline when it is tracked,
# so the tractogram need not fit into memory. For a list of streamlines, DIPY's
# `save_tractogram` works too.

from pathlib import Path
import tempfile

from dipy_rnn.io import write_tractogram

path = Path(tempfile.mkdtemp()) / "streamlines.trx"
lines = rnn_tracking(seeds, criterion, affine, sh=shm_coeff, step_size=0.5)
write_tractogram(path, ((line, {}) for line in lines), affine, mask.shape)
print(path.name, path.stat().st_size, "bytes")

# %%
# On your own data
# ----------------
#
# - Load the scan: `load_nifti("dwi.nii.gz")`, `read_bvals_bvecs`, `gradient_table`. Or
#   load an existing fODF: `load_pam("csd.pam5")` for `rnn_tracking(..., pam=pam)`. For
#   images of MRtrix3, see :doc:`/features`.
# - Choose `sh_order_max` by the number of directions: 8 for about 60 or more, 6 for 30
#   or more, 4 for 20 or more.
# - Stop where FA is low (0.15 to 0.2), at the border of a mask
#   (`BinaryStoppingCriterion`), or by tissue (:doc:`06_anatomy`).
# - Seed the whole white matter. `seeds_count` is the number of seeds in each voxel, or
#   in total if `seed_count_per_voxel=False`.
# - If streamlines look wrong, check :doc:`the axes of the gradients </gradients>`
#   first.
