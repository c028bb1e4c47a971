"""Networks with random weights, and random volumes and points for them."""

import numpy as np
import torch

from dipy_rnn.model import ModelMetadata, MovingFrameGRU, as_model

SHAPE = (4, 3, 5)
COEFFS = {4: 15, 6: 28, 8: 45}  # by order


def network(order=8, hidden=12, layers=1, depth=2, gain=1.0, kind=MovingFrameGRU):
    """Return a module in which no weight is zero."""
    module = kind(order, hidden, layers, depth)
    generator = torch.Generator().manual_seed(order + hidden + layers + depth)
    with torch.no_grad():
        for parameter in module.parameters():
            size = parameter.shape[1] if parameter.ndim == 2 else 16
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(gain * drawn / size**0.5)
        module.head.weight *= 5.0
    return module.eval()


def metadata_of(module, architecture="moving_frame", **changes):
    """Return the metadata of a network with some changes, by default local."""
    entries = {
        "kind": "sh",
        "channels": COEFFS[module.order],
        "frame": "local",
        "layers": module.layers,
        "hidden": module.hidden,
        "orders": tuple(range(4, module.order + 1, 2)),
        "normalisation": "power",
        "inputs": module.inputs,
        "architecture": architecture,
    }
    return ModelMetadata(**entries | changes)


def deterministic(order=8, architecture="moving_frame"):
    """Return an untrained model: deterministic tracking."""
    module = MovingFrameGRU(order, hidden=8)
    return as_model(module, metadata_of(module, architecture))


def random_volume(order=8, seed=0):
    """Return a volume of noise in which the first voxel is empty."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(*SHAPE, COEFFS[order])).astype(np.float32)
    values[0, 0, 0] = 0.0
    return values


def random_points(n, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, np.array(SHAPE) - 0.5, (n, 3))


def random_path(random_frames, n, n_steps=4, handedness=1.0):
    """Return points (T, n, 3) and frames (T, n, 3, 3) of a given handedness."""
    points = random_points(n_steps * n).reshape(n_steps, n, 3)
    frames = random_frames(n_steps * n, handedness).reshape(n_steps, n, 3, 3)
    return points, frames
