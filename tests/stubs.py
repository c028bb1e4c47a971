"""Networks whose streamlines can be computed by hand."""

import torch
from torch import Tensor, nn

from dipy_rnn.model import ModelMetadata, MovingFrameGRU, save_model


class FieldFollower(nn.Module):
    """Answers with its features: a volume of directions is followed as it is."""

    @torch.jit.export
    def init_state(self, n: int) -> Tensor:
        return torch.zeros(1, n, 1)

    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return features, state


class StepCounter(nn.Module):
    """Goes straight on for as many steps as its first feature says, then stops.

    Its state counts the points it was shown, so that it tells how a hidden state
    came about.
    """

    @torch.jit.export
    def init_state(self, n: int) -> Tensor:
        return torch.zeros(1, n, 1)

    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        going = (state[0, :, :1] < features[:, :1]).to(direction.dtype)
        return direction * going, state + 1.0


def save_stub(module, path, channels=3):
    """Write a network of the above as a model file."""
    save_model(module, ModelMetadata("raw", channels, "voxel", 1, 1), path)
    return path


def save_untrained(path, order=8):
    """Write an untrained network: Newton's step to the peak, at every step."""
    network = MovingFrameGRU(order, hidden=8)
    channels = (order + 1) * (order + 2) // 2
    metadata = ModelMetadata(
        "sh", channels, "local", 1, 8, orders=(4, 6, 8), normalisation="power"
    )
    save_model(network, metadata, path)
    return path
