"""Losses between unit directions."""

import math

from torch import Tensor


def cosine_loss(
    predicted: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    width_deg: float | None = None,
) -> Tensor:
    """Return the weighted mean of one minus the cosine between directions.

    Parameters
    ----------
    predicted, target : torch.Tensor of shape (N, 3)
        Unit vectors.
    weight : torch.Tensor of shape (N,), optional
        What each point counts; alike where None.
    width_deg : float, optional
        Errors far above this angle count alike, as in Welsch's loss. Where a fibre
        may go on in two ways, the plain loss teaches the way between them; this one
        teaches the likelier of the two.

    Returns
    -------
    loss : torch.Tensor
        Scalar from 0 to 2.

    Notes
    -----
    With a width s in radians and the distance d = 1 - cos the loss of a point is
    s^2 (1 - exp(-d / s^2)), about d where d is small.

    Examples
    --------
    >>> import torch
    >>> x, y = torch.eye(3)[:1], torch.eye(3)[1:2]
    >>> cosine_loss(x, y).item(), cosine_loss(x, -x).item()
    (1.0, 2.0)
    """
    distance = 1.0 - (predicted * target).sum(dim=1)
    if width_deg is not None:
        square = math.radians(width_deg) ** 2
        distance = square * (1.0 - (-distance / square).exp())
    if weight is None:
        return distance.mean()
    return (distance * weight).sum() / weight.sum()
