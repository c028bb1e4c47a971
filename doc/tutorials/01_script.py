"""
Track in a script
=================

From a diffusion scan to streamlines in Python: a fibre orientation distribution (fODF),
a stopping criterion, seeds, and the network as the direction getter of DIPY's
`LocalTracking`; then the same, faster, with `rnn_tracking`.
"""

# %%
# A scan
# ------
#
# Two bundles that cross at 60 degrees, seen by a scanner with 60 directions. With a
# scan of your own, `load_nifti`, `read_bvals_bvecs` and a brain mask take the place of
# this.

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
# What the network looks at
# -------------------------
#
# A fODF by constrained spherical deconvolution :cite:p:`tournier2007`, fitted by DIPY
# as ever. The response of a single fibre is known here; on a brain, take that of
# `auto_response_ssst`.

from dipy.reconst.csdeconv import ConstrainedSphericalDeconvModel
from dipy.reconst.dti import TensorModel

response = (np.array([1.7e-3, 3e-4, 3e-4]), 100.0)
model = ConstrainedSphericalDeconvModel(gtab, response, sh_order_max=8)
shm_coeff = model.fit(dwi, mask=mask).shm_coeff

# %%
# Where to start and where to stop
# --------------------------------

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
# The network is a direction getter as any of DIPY's. It needs the affine, too: it must
# know how the voxel axes lie in the head (:doc:`more </local_tracking>`). The seeds are
# for speed: given them, it tracks many ahead of being asked.

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
# All at once
# -----------
#
# `rnn_tracking` has the keywords of DIPY's `deterministic_tracking`, tracks many
# streamlines at a time, and gives the same ones.

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
# In three planes over FA; red runs from left to right, green from back to front.

from dipy_rnn.pictures import draw_tractograms

figure = draw_tractograms({"rnn_tracking": together}, fa, affine)

# %%
# A file
# ------
#
# `write_tractogram` writes streamlines as they come, so a tractogram never has to fit
# into memory; it takes the generator itself. DIPY's `save_tractogram` does as well,
# from a list.

from pathlib import Path
import tempfile

from dipy_rnn.tractogram_file import write_tractogram

path = Path(tempfile.mkdtemp()) / "streamlines.trx"
lines = rnn_tracking(seeds, criterion, affine, sh=shm_coeff, step_size=0.5)
write_tractogram(path, ((line, {}) for line in lines), affine, mask.shape)
print(path.name, path.stat().st_size, "bytes")

# %%
# On your own data
# ----------------
#
# - Load the scan: `load_nifti("dwi.nii.gz")`, `read_bvals_bvecs`, `gradient_table`. Or
#   load a fODF that is there: `load_pam("csd.pam5")` for `rnn_tracking(..., pam=pam)`;
#   for images of MRtrix3 see :doc:`/features`.
# - `sh_order_max` by the number of directions: 8 from 60 or so, 6 from 30, 4 from 20.
# - Stop where FA is low (0.15 to 0.2), at the border of a mask
#   (`BinaryStoppingCriterion`), or by tissue (:doc:`06_anatomy`).
# - Seed all over the white matter: `seeds_count` for each voxel, or with
#   `seed_count_per_voxel=False` in all.
# - If streamlines look wrong, ask :doc:`whether the gradients are right </gradients>`
#   first.
