"""Losses between unit directions."""


def cosine_loss(predicted, target, weight=None):
    """Return the weighted mean of one minus the cosine between directions.

    Parameters
    ----------
    predicted, target : torch.Tensor of shape (N, 3)
        Unit vectors.
    weight : torch.Tensor of shape (N,), optional
        What each point counts; alike where None.

    Returns
    -------
    loss : torch.Tensor
        Scalar from 0 to 2.

    Examples
    --------
    >>> import torch
    >>> x, y = torch.eye(3)[:1], torch.eye(3)[1:2]
    >>> cosine_loss(x, y).item(), cosine_loss(x, -x).item()
    (1.0, 2.0)
    """
    distance = 1.0 - (predicted * target).sum(dim=1)
    if weight is None:
        return distance.mean()
    return (distance * weight).sum() / weight.sum()
