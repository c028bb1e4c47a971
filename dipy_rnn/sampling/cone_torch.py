"""The largest value of an fODF in a cone, on a device of torch."""

import torch
from torch import Tensor

from dipy_rnn.sampling.cone import Cone


class TorchCone:
    """A cone on a device.

    Parameters
    ----------
    cone : dipy_rnn.sampling.Cone
    device : torch.device

    Examples
    --------
    >>> from dipy_rnn.sampling import cone_of
    >>> lobe = torch.zeros(1, 15); lobe[0, [3, 10]] = torch.tensor([2.0, 2.5])
    >>> cone = TorchCone(cone_of(4, 30.0), torch.device("cpu"))
    >>> directions, found = cone.largest(lobe, 0.1)
    >>> directions.round(decimals=5).tolist(), found.tolist()
    ([[0.0, 0.0, 1.0]], [True])
    """

    def __init__(self, cone: Cone, device: torch.device) -> None:
        self.cosine, self.sine, self.reach = cone.cosine, cone.sine, cone.reach
        self.n_inside = len(cone.directions)
        self.matrix = torch.from_numpy(cone.matrix).to(device)
        self.directions = torch.from_numpy(cone.directions).to(device)
        self.near = torch.from_numpy(cone.near).long().to(device)
        self.parabola = torch.from_numpy(cone.parabola).to(device)
        self.tangents = torch.from_numpy(cone.tangents).to(device)

    def largest(self, coeffs: Tensor, pmf_threshold: float) -> tuple[Tensor, Tensor]:
        """Return the direction of the largest value in the cone, and if it counts.

        Parameters
        ----------
        coeffs : torch.Tensor of shape (N, C)
            float32. The fODF in the frame of each streamline.
        pmf_threshold : float

        Returns
        -------
        directions : torch.Tensor of shape (N, 3)
        found : torch.Tensor of shape (N,), bool
            As :meth:`dipy_rnn.sampling.Cone.largest`.
        """
        values = coeffs @ self.matrix
        height, vertex = values[:, : self.n_inside].max(dim=1)
        found = (height > 0) & (height >= pmf_threshold * values.max(dim=1).values)
        rise = values.gather(1, self.near[vertex]) - height[:, None]
        terms = (self.parabola[vertex] @ rise[:, :, None])[:, :, 0]
        a, b, aa, ab, bb = terms.unbind(dim=1)
        determinant = aa * bb - ab * ab
        is_maximum = (determinant > 0) & (aa < 0)
        determinant = torch.where(is_maximum, determinant, 1.0)
        slope = torch.hypot(a, b)
        uphill = self.reach / torch.where(slope > 0, slope, 1.0)
        along = torch.where(is_maximum, (ab * b - bb * a) / determinant, a * uphill)
        across = torch.where(is_maximum, (ab * a - aa * b) / determinant, b * uphill)
        scale = self.reach / torch.hypot(along, across).clamp(min=self.reach)
        step = torch.stack([along * scale, across * scale], dim=1)
        tangents = self.tangents[vertex]
        directions = self.directions[vertex] + (step[:, :, None] * tangents).sum(dim=1)
        directions = torch.nn.functional.normalize(directions, dim=1)
        return into_cone(directions, self.cosine, self.sine), found


def into_cone(directions: Tensor, cosine: float, sine: float) -> Tensor:
    """Move directions outside a cone to its border: ``cone.into_cone`` on a device.

    Parameters
    ----------
    directions : torch.Tensor of shape (N, 3)
        Unit vectors. The axis of the cone is the third axis.
    cosine, sine : float
        Of the angle of the cone.

    Returns
    -------
    directions : torch.Tensor of shape (N, 3)
    """
    across = torch.hypot(directions[:, 0], directions[:, 1])
    outside = directions[:, 2] < cosine
    divisor = torch.where(outside & (across > 0), across, 1.0)
    scale = torch.where(outside, sine, 1.0) / divisor
    along = torch.where(outside, cosine, directions[:, 2])
    along = torch.where(across > 0, along, 1.0)
    return torch.cat([directions[:, :2] * scale[:, None], along[:, None]], dim=1)
