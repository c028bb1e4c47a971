"""Moving frames as torch operations."""

import torch
from torch import Tensor


def transport(frame: Tensor, tangents: Tensor, handedness: float) -> Tensor:
    """Rotate frames to new tangents, as :func:`dipy_rnn.spatial.frames.transport`.

    Parameters
    ----------
    frame : torch.Tensor of shape (n, 3, 3)
    tangents : torch.Tensor of shape (n, 3)
        Unit vectors.
    handedness : float
        Of the frames: 1 or -1.

    Returns
    -------
    frame : torch.Tensor of shape (n, 3, 3)

    Examples
    --------
    >>> transport(torch.eye(3)[None], torch.tensor([[1.0, 0, 0]]), 1.0)[0, 2].tolist()
    [1.0, 0.0, 0.0]
    """
    e1, _, e3 = frame.unbind(1)
    closeness = (1.0 + _dot(e3, tangents)).clamp(min=1e-9)
    e1 = e1 - _dot(e1, tangents) / closeness * (e3 + tangents)
    e1 = unit(e1 - _dot(e1, tangents) * tangents)
    e2 = handedness * torch.linalg.cross(tangents, e1)
    return torch.stack([e1, e2, tangents], dim=1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=1, keepdim=True)


def unit(vectors: Tensor) -> Tensor:
    """Scale vectors (n, 3) to length 1."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / length
