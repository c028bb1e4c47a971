"""
Compare with DIPY's tracking
============================

This tutorial tracks the same seeds three times: with the network, with DIPY's
deterministic tracking, and with DIPY's deterministic tracking on another sphere. On
another sphere, an algorithm does not agree fully with itself. This self-agreement is
the baseline for every metric of the network.
"""

# %%
# Data
# ----
#
# The phantom has random bundles that cross, bend and fan out. Its true streamlines are
# known.

import numpy as np

from dipy_rnn.phantom import random_phantom
from dipy_rnn.sampling import fodf_features
from dipy_rnn.stopping import BinaryStoppingCriterion

phantom = random_phantom(7, shape=(24, 24, 24), n_bundles=5)
affine = phantom.affine
features = fodf_features(phantom.fodf(noise=0.1, random_seed=1))
mask = phantom.peaks()[0].sum(axis=-1) > 0.2  # the share of fibres in a voxel
criterion = BinaryStoppingCriterion(mask)
known, bundle_of = phantom.streamlines(40, random_seed=1)
rng = np.random.default_rng(1)
seeds = np.array([line[rng.integers(len(line))] for line in known])

# %%
# Tracking
# --------
#
# `track_beside` tracks the seeds three times.

from dipy_rnn.evaluation.comparison import track_beside
from dipy_rnn.evaluation.metrics import measure, partner_distances

tracked = track_beside(
    seeds, criterion, affine, features=features, step_size=1.0, nbr_threads=1
)
for by in tracked.values():
    facts = by.facts()
    print(
        f"{by.label:32} {facts['n_streamlines']} streamlines, {facts['seconds']:.2f} s"
    )

# %%
# Metrics
# -------
#
# Each metric has two values: the network compared with DIPY's tracking (`candidate`),
# and DIPY's tracking compared with itself (`yardstick`, the self-agreement baseline).
# The first metric is the agreement within 2 mm: the share of streamlines that are
# nowhere more than 2 mm apart. `measure` also returns the standard error of the mean
# over seeds.

distances = partner_distances(tracked)
metrics = measure(tracked, distances, affine, mask)
for metric in metrics["between"]:
    for key in ("candidate", "yardstick"):
        print(f"{metric.label:45} {key:10} {metric.estimates[key].value:.3f}")

# %%
# Known bundles
# -------------
#
# If the true bundles are known, as here, each tractogram can be scored as the
# Tractometer does :cite:p:`cote2013`.

from dipy_rnn.evaluation import known_bundles, score

bundles = known_bundles(
    [[line for line, b in zip(known, bundle_of) if b == i] for i in range(5)],
    affine,
    mask.shape,
    radius_mm=1.0,
)
for by in tracked.values():
    scores = score([line for line in by.streamlines if len(line)], bundles, affine)
    print(f"{by.label:32} valid connections {scores.valid_connections:.2f}", end="")
    print(f"  bundles {scores.valid_bundles} of {len(bundles)}  F1 {scores.f1:.2f}")

# %%
# A picture
# ---------
#
# The streamlines of the network and of DIPY's deterministic tracking, side by side.

from dipy_rnn.report import draw_tractograms

figure = draw_tractograms(
    {by.label: by.streamlines for by in list(tracked.values())[:2]}, mask, affine
)

# %%
# On your own data
# ----------------
#
# One command does all of this. It writes a page that you can send to a colleague, with
# the definition of each metric beside it (:doc:`/compare`)::
#
#     dipy_compare_rnn csd.pam5 fa.nii.gz seeds.nii.gz --seed_count 5000
#
# - `--bundle_files "truth/*.trk"` scores against known bundles.
# - `--model_file` selects another network.
# - To compare two existing tractograms without tracking, give them in place of the fODF
#   and the seeds.
