"""
Anatomical constraints
======================

With maps of white matter, grey matter and cerebrospinal fluid (CSF), tracking stops in
grey matter. Streamlines that end elsewhere are rejected :cite:p:`smith2012`. The stop
reasons say why. Seeds can be placed on the interface of grey and white matter.
"""

# %%
# Tissue maps
# -----------
#
# The phantom has two crossing bundles in white matter, grey matter at their ends, and a
# ventricle in the course of the second bundle. For maps of your own, use
# `Tissues.from_image(load_nifti("5tt.nii.gz")[0])`, or `Tissues` with three images.

import numpy as np

from dipy_rnn.phantom import crossing_phantom
from dipy_rnn.stopping import Tissues

phantom = crossing_phantom(90, shape=(24, 24, 10))
affine = phantom.affine
x, y, z = np.moveaxis(np.indices(phantom.shape), 0, 0)
fibres = np.float32(phantom.peaks()[0].sum(axis=-1))
csf = np.float32((x - 11.5) ** 2 + (y - 17) ** 2 + (z - 4.5) ** 2 < 9)
gm = np.where((x < 3) | (x > 20) | (y < 3) | (y > 20), fibres, 0) * (1 - csf)
wm = np.clip(fibres - gm - csf, 0, 1)
tissues = Tissues(wm=wm, gm=gm, csf=csf)

# %%
# Tracking
# --------
#
# `act_criterion` returns a stopping criterion, which every tracker of DIPY takes.
# `track` returns the stop reasons with the streamlines.

from collections import Counter

from dipy_rnn import fodf_features
from dipy_rnn.pipeline import interface_seeds
from dipy_rnn.stopping import format_fates
from dipy_rnn.tracking import track

features = fodf_features(phantom.fodf())
seeds = interface_seeds(tissues, affine, 200, random_seed=1)
records = list(
    track(
        seeds,
        tissues.act_criterion(),
        affine,
        features=features,
        step_size=0.5,
        max_angle=30.0,
    )
)
print(format_fates(Counter((r.forward_stop, r.backward_stop) for r in records)))

# %%
# A streamline is kept if both its ends are valid. `rnn_tracking` and `LocalTracking`
# return only these if `return_all=False`.

kept = [r.points_mm for r in records if r.has_valid_ends and len(r.points_mm) > 20]
rejected = [r.points_mm for r in records if not r.has_valid_ends]

# %%
# Kept and rejected streamlines, seen from above, over the tissues. White matter is
# white, grey matter grey, CSF blue. The dots are the seeds.

import matplotlib.pyplot as plt

middle = phantom.shape[2] // 2
colours = wm[..., None] * [0.96, 0.94, 0.9] + gm[..., None] * [0.6, 0.6, 0.6]
colours = colours + csf[..., None] * [0.55, 0.75, 0.95]
extent = [affine[0, 3] - 1, -affine[0, 3] + 1] * 2
figure, axes = plt.subplots(1, 2, figsize=(9, 5), layout="constrained", sharey=True)
for axis, (title, lines) in zip(
    axes, ((f"{len(kept)} kept", kept), (f"{len(rejected)} rejected", rejected))
):
    axis.imshow(colours[:, :, middle].swapaxes(0, 1), origin="lower", extent=extent)
    for line in lines:
        axis.plot(*line[:, :2].T, color="#c0392b", linewidth=0.5)
    axis.plot(*seeds[:, :2].T, ".", color="black", markersize=2)
    axis.set(title=title, xlabel="x (mm)", xlim=extent[:2], ylim=extent[:2])
axes[0].set_ylabel("y (mm)")

# %%
# On your own data
# ----------------
#
# In a terminal, use a 5TT image of MRtrix3 or the image of `dipy_classify_tissue`::
#
#     dipy_track_rnn csd.pam5 5tt.nii.gz mask.nii.gz --act --seed_at_interface \
#         --seed_count 100000
#
# - The maps may be on another grid than the fODF. They must be aligned with it: check
#   them in an overlay.
# - With `--cmc` in place of `--act`, tracking stops at random. The probability depends
#   on the shares of the tissues :cite:p:`girard2014`.
# - :doc:`/anatomy` lists the differences from the rules of MRtrix3.
