"""
Bring your own network
======================

Every network that is saved as TorchScript can be used for tracking. It needs two
methods and metadata. The package handles seeds, stopping criteria, hidden states and
files.
"""

# %%
# A network
# ---------
#
# The features are the values of the volume at a point, here the directions of two
# fibres. The network follows the fibre that is nearest to a running mean of its past
# directions. The hidden state holds this mean, so streamlines run straight on where
# fibres cross. :doc:`/model_file` defines the input and the output of the methods.

import torch


class Follower(torch.nn.Module):
    """Follow the fibre nearest to a running mean of the directions so far."""

    @torch.jit.export
    def init_state(self, n: int) -> torch.Tensor:
        return torch.zeros(1, n, 3)

    def forward(
        self,
        features: torch.Tensor,
        direction: torch.Tensor,
        state: torch.Tensor,
        inputs: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        fibres = features[:, :6].reshape(-1, 2, 3)
        is_seed = (direction == 0).all(dim=1, keepdim=True)
        mean = 0.8 * state[0] + 0.2 * direction
        mean = torch.where(is_seed, fibres[:, 0], mean)  # for the first direction
        along = (fibres * mean.unsqueeze(1)).sum(dim=2)
        nearest = along.abs().argmax(dim=1)
        rows = torch.arange(len(nearest))
        sign = torch.where(along[rows, nearest] < 0, -1.0, 1.0)
        answer = fibres[rows, nearest] * sign.unsqueeze(1)
        return answer, mean.unsqueeze(0)


# %%
# A model file
# ------------
#
# `save_model` tests the network. It refuses a network that breaks the contract: wrong
# shapes, or an output that depends on the other streamlines of the batch.

from pathlib import Path
import tempfile

from dipy_rnn.model import ModelMetadata, save_model

path = Path(tempfile.mkdtemp()) / "follower.pt"
metadata = ModelMetadata(
    kind="raw",
    channels=6,
    frame="voxel",
    layers=1,
    hidden=3,
    inputs=(),
    provenance={"network": "follows the fibre that turns least"},
)
save_model(Follower(), metadata, path)

# %%
# Tracking
# --------
#
# The volume contains the true directions of two crossing bundles.

from dipy_rnn import raw_features, rnn_tracking
from dipy_rnn.phantom import crossing_phantom
from dipy_rnn.stopping import BinaryStoppingCriterion

phantom = crossing_phantom(60, shape=(20, 20, 8))
_, directions = phantom.peaks()
volume = directions.reshape(*phantom.shape, 6)
# In voxels with one fibre, both directions are that of this fibre.
first, second = volume[..., :3], volume[..., 3:]
first[~first.any(axis=-1)] = second[~first.any(axis=-1)]
second[~second.any(axis=-1)] = first[~second.any(axis=-1)]

seeds = [line[15] for line in phantom.streamlines(25, random_seed=1)[0]]
streamlines = list(
    rnn_tracking(
        seeds,
        BinaryStoppingCriterion(phantom.mask()),
        phantom.affine,
        features=raw_features(volume),
        model=path,
        step_size=0.5,
        max_angle=45.0,
    )
)
print(f"{len(streamlines)} streamlines")

# %%
# Both bundles go straight through the crossing.

from dipy_rnn.report import draw_tractograms

figure = draw_tractograms({"follower.pt": streamlines}, phantom.mask(), phantom.affine)

# %%
# On your own network
# -------------------
#
# - The class must be in a file, because TorchScript reads its source.
# - If the methods have other names or arguments, wrap the network in a small module
#   that has the right ones.
# - For a network that takes spherical harmonics, give `kind="sh"`. With
#   `frame="local"`, the fODF is rotated into a frame that moves with the streamline
#   (:doc:`/concepts`). `normalisation="power"` removes its scale.
# - In a terminal: `dipy_track_rnn volume.nii.gz fa.nii.gz seeds.nii.gz --model_file
#   follower.pt`.
# - A model file is a program. Load only files of people that you trust.
