"""Networks and predictors whose streamlines can be computed by hand."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from dipy_rnn.model import ModelMetadata, MovingFrameGRU, save_model
from dipy_rnn.sampling import DATA


class FieldFollower(nn.Module):
    """Returns its features as the direction, so streamlines follow a vector field."""

    @torch.jit.export
    def init_state(self, n: int) -> Tensor:
        return torch.zeros(1, n, 1)

    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return features, state


class StepCounter(nn.Module):
    """Goes straight on for as many steps as its first feature says, then stops.

    Its state counts the points that it has seen. The length of a streamline therefore
    shows how many points led to a hidden state.
    """

    @torch.jit.export
    def init_state(self, n: int) -> Tensor:
        return torch.zeros(1, n, 1)

    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        going = (state[0, :, :1] < features[:, :1]).to(direction.dtype)
        return direction * going, state + 1.0


class TurnsToNan(StepCounter):
    """Goes straight on for as many steps as its first feature says, then returns NaN.

    Its state becomes NaN as well, until it is reset.
    """

    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        bad = state[0, :, :1] >= features[:, :1]
        nan = torch.full_like(direction, float("nan"))
        return torch.where(bad, nan, direction), torch.where(
            bad.unsqueeze(0), nan[:, :1].unsqueeze(0), state + 1.0
        )


def save_stub(module, path, channels=3):
    """Write one of the networks above as a model file."""
    save_model(module, ModelMetadata("raw", channels, "voxel", 1, 1), path)
    return path


def save_untrained(path, order=8):
    """Write an untrained network as a model file.

    It is deterministic tracking: it returns the direction of the fODF's largest value
    in the cone.
    """
    network = MovingFrameGRU(order, hidden=8)
    channels = (order + 1) * (order + 2) // 2
    metadata = ModelMetadata(
        "sh",
        channels,
        "local",
        1,
        8,
        orders=(4, 6, 8),
        normalisation="power",
        inputs=MovingFrameGRU.inputs,
    )
    save_model(network, metadata, path)
    return path


class Recorder:
    """A predictor that goes straight on, or turns by a given angle at each step.

    It records the points and frames of its first slot, and "reset" where the hidden
    state of this slot is reset.
    """

    def __init__(self, shape=(2000, 3, 3), turn_deg=0.0):
        self.model = SimpleNamespace(device="cpu", compiled=None)
        self.axes, self.data = np.eye(3), np.empty((*shape, 0), np.float32)
        self.in_frame, self.has_cone = True, False
        angle = np.deg2rad(turn_deg)
        self.answer = np.float32([np.sin(angle), 0.0, np.cos(angle)])
        self.shown, self.frames = [], []

    def states(self, n, config):
        return self

    def errors(self, config):
        return None

    def ends(self, config):
        return []

    def predict(self, points_vox, frames):
        self.shown.append(np.array(points_vox[0]))
        self.frames.append(np.array(frames[0]))
        n = len(points_vox)
        return np.tile(self.answer, (n, 1)), np.full(n, DATA, np.uint8)

    def reset(self, rows):
        if 0 in rows:
            self.shown.append("reset")

    def keep(self, rows):
        pass

    @property
    def xs(self):
        """The x coordinates of the points, in voxels, and "reset"."""
        return [s if isinstance(s, str) else float(s[0]) for s in self.shown]
