"""Sampling, rotation and cones (``interpolate.py`` ..) as torch operations.

They run on any device of torch. No tensor is indexed by a mask, and no number is read
from a tensor. Both would make the host wait for the device.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from dipy_rnn._typing import AnyArray
from dipy_rnn.sampling.cone import ROUNDING, Cone
from dipy_rnn.sampling.context import LARGEST, STEADY, Context
from dipy_rnn.sampling.rotation import quarter_turns


class TorchVolume:
    """A volume on a device. Borders are as in :mod:`dipy_rnn.sampling.interpolate`.

    Parameters
    ----------
    values : ndarray of shape (X, Y, Z, C)
    device : torch.device

    Examples
    --------
    >>> volume = TorchVolume(np.ones((2, 2, 2, 3)), torch.device("cpu"))
    >>> values, inside = volume.sample(torch.tensor([[0.5, 0.5, 0.5]]).double())
    >>> values.tolist(), inside.tolist()
    ([[1.0, 1.0, 1.0]], [True])
    """

    def __init__(self, values: AnyArray, device: torch.device) -> None:
        _, ny, nz, _ = values.shape
        self.size = torch.tensor(values.shape[:3], dtype=torch.float64, device=device)
        self.stride = torch.tensor([ny * nz, nz, 1], device=device)
        self.values = torch.tensor(values, device=device).flatten(0, 2)

    def sample(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return interpolated values (n, C), and which points (n,) are inside.

        Values outside are zero.
        """
        inside = ((points >= -0.5) & (points < self.size - 0.5)).all(dim=1)
        low = points.floor()
        part = points - low
        # Both ends of the cell on each axis, and their weights: (n, 2, 3).
        ends = torch.stack([low, low + 1.0], dim=1).masked_fill(
            ~inside[:, None, None], 0
        )
        ends = ends.clamp(min=0).minimum(self.size - 1).long() * self.stride
        weights = torch.stack([1.0 - part, part], dim=1)
        weights = weights * inside[:, None, None]
        x, y, z = ends.unbind(2)
        corners = x[:, :, None, None] + y[:, None, :, None] + z[:, None, None, :]
        x, y, z = weights.unbind(2)
        weights = x[:, :, None, None] * y[:, None, :, None] * z[:, None, None, :]
        # An "embedding bag" is a weighted sum of rows of a table.
        values = embedding_bag(
            corners.flatten(1),
            self.values,
            per_sample_weights=weights.flatten(1).to(self.values.dtype),
            mode="sum",
        )
        return values, inside

    def nearest(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return values (n, C) of the nearest voxels, and which points (n,) are inside.

        Values outside have no meaning.
        """
        voxel = points.round()  # halves to even
        inside = ((voxel >= 0) & (voxel < self.size)).all(dim=1)
        voxel = voxel.masked_fill(~inside[:, None], 0).long()
        return self.values[(voxel * self.stride).sum(dim=1)], inside


class TorchRotation:
    """Rotation of spherical harmonics into frames: :func:`dipy_rnn.sampling.rotate`.

    The rotation is split into rotations about z and quarter turns about x (Z X Z X Z).
    The coefficients of +m and -m are the real and imaginary part of a complex number.
    A rotation about z multiplies it by exp(-i m angle). A quarter turn about x is a
    product with a matrix.

    Parameters
    ----------
    order : int
        Even spherical harmonic order.
    handedness : float
        Handedness of the voxel axes: 1 or -1.
    device : torch.device

    Examples
    --------
    >>> rotation = TorchRotation(4, 1.0, torch.device("cpu"))
    >>> rotation(torch.ones(2, 15), torch.eye(3).double().repeat(2, 1, 1)).shape
    torch.Size([2, 15])
    """

    def __init__(self, order: int, handedness: float, device: torch.device) -> None:
        pairs = [
            (ell * (ell + 1) // 2, m)
            for ell in range(0, order + 1, 2)
            for m in range(ell + 1)
        ]
        centre, m = np.array(pairs).T
        # For m = 0 the imaginary part is a copy of the real one, which is not used.
        parts = np.column_stack([centre + m, centre - m]).ravel()
        is_copy = np.column_stack([m < 0, m == 0]).ravel()
        tables = quarter_turns(order)
        n_coeffs = (order + 1) * (order + 2) // 2
        self.turns_about_x: list[Tensor] = []
        for starts, columns, values in (tables[:3], tables[3:]):
            matrix = np.zeros((n_coeffs, n_coeffs), np.float32)
            matrix[np.repeat(np.arange(n_coeffs), np.diff(starts)), columns] = values
            matrix = matrix[parts][:, parts] * ~is_copy
            self.turns_about_x.append(torch.tensor(matrix.T.copy(), device=device))
        self.order = order
        self.handedness = handedness
        self.m = torch.tensor(m, device=device)
        self.parts = torch.tensor(parts, device=device)
        # The first place of each coefficient among the parts is never a copy.
        self.back = torch.tensor(np.unique(parts, return_index=True)[1], device=device)

    def __call__(self, coeffs: Tensor, frame: Tensor) -> Tensor:
        """Return coefficients (n, C) in the frames (n, 3, 3)."""
        about_z = self._turns_about_z(frame)
        down, up = self.turns_about_x
        turned = _as_complex(coeffs.index_select(1, self.parts)) * about_z[0]
        turned = _as_complex(_as_real(turned) @ down) * about_z[1]
        turned = _as_complex(_as_real(turned) @ up) * about_z[2]
        return _as_real(turned).index_select(1, self.back)

    def _turns_about_z(self, frame: Tensor) -> Tensor:
        """Return exp(-i m angle) of the three rotations: (3, n, pairs of +m and -m)."""
        e1, e3 = self.handedness * frame[:, 0], self.handedness * frame[:, 2]
        across = torch.hypot(e3[:, 0], e3[:, 1])
        along_z = across == 0
        cos_a = (e3[:, 0] / across).masked_fill(along_z, self.handedness)
        sin_a = (e3[:, 1] / across).masked_fill(along_z, 0.0)
        cos_b, sin_b = e3[:, 2], across
        # After rotations by -a and -b, e1 lies in the x-y plane at the angle c.
        cos_c = cos_b * (cos_a * e1[:, 0] + sin_a * e1[:, 1]) - sin_b * e1[:, 2]
        sin_c = cos_a * e1[:, 1] - sin_a * e1[:, 0]
        cosine = torch.stack([cos_a, cos_b, cos_c])
        sine = torch.stack([sin_a, sin_b, sin_c])
        length = torch.hypot(cosine, sine)
        turns = torch.complex(cosine / length, -sine / length)
        powers = turns[:, :, None].expand(-1, -1, self.order).cumprod(dim=2)
        powers = torch.cat([torch.ones_like(turns)[:, :, None], powers], dim=2)
        return powers.to(torch.complex64).index_select(2, self.m)


class TorchContext:
    """The fODF around points: :func:`dipy_rnn.sampling.sample_context` on a device.

    Parameters
    ----------
    context : dipy_rnn.sampling.Context
    volume : ndarray of shape (X, Y, Z, C)
        It has at least the coefficients of the context.
    edge_vox : array_like of shape (3,)
        A voxel edge along each voxel axis, in voxel coordinates.
    handedness : float
        Handedness of the voxel axes: 1 or -1.
    device : torch.device

    Examples
    --------
    >>> context = TorchContext(Context((1.0,), (), 6, 4), np.ones((2, 2, 4, 15)),
    ...                        np.ones(3), 1.0, torch.device("cpu"))
    >>> features = context.join(torch.ones(5, 45), torch.ones(5, 3).double(),
    ...                         torch.eye(3).double().repeat(5, 1, 1))
    >>> features.shape
    torch.Size([5, 60])
    """

    def __init__(
        self,
        context: Context,
        volume: AnyArray,
        edge_vox: AnyArray,
        handedness: float,
        device: torch.device,
    ) -> None:
        self.n_places = context.n_places
        low = np.ascontiguousarray(volume[..., : context.n_coeffs], np.float32)
        self.volume = TorchVolume(low, device)
        self.rotation = TorchRotation(context.order, handedness, device)
        self.offsets = torch.tensor(context.offsets, device=device)
        self.edge_vox = torch.tensor(edge_vox, dtype=torch.float64, device=device)
        rolls = torch.tensor(context.rolls, device=device)[:, None]
        self.cosine, self.sine = torch.cos(rolls), torch.sin(rolls)
        places = torch.arange(context.n_places, device=device)
        self.is_ahead = (places < len(context.ahead))[:, None]

    def join(self, own: Tensor, points: Tensor, frames: Tensor) -> Tensor:
        """Return the features (n, C + n_values) of a network with context.

        As :func:`dipy_rnn.sampling.join_context`. ``own`` (n, C) are the coefficients
        at the points (n, 3) in the moving frames (n, 3, 3).
        """
        n = len(points)
        power = torch.linalg.vector_norm(own, dim=1, dtype=torch.float64)
        e1, e2, e3 = frames[:, None].unbind(2)
        # The axes of a frame whose x is along the compass.
        cosine, sine = (part[:, None, None] for part in compass(own.double()))
        x, y = cosine * e1 + sine * e2, cosine * e2 - sine * e1
        offset = self.offsets[:, :, None]
        places = offset[:, 0] * x + offset[:, 1] * y + offset[:, 2] * e3
        places = points[:, None] + places * self.edge_vox
        values, _ = self.volume.sample(places.flatten(0, 1))
        rolled = torch.stack(
            [
                torch.where(self.is_ahead, e1, self.cosine * x + self.sine * y),
                torch.where(self.is_ahead, e2, self.cosine * y - self.sine * x),
                e3.expand(n, self.n_places, 3),
            ],
            dim=2,
        )
        around = self.rotation(values, rolled.flatten(0, 1))
        around = around.reshape(n, self.n_places, -1)
        beside = torch.linalg.vector_norm(around, dim=2, dtype=torch.float64)
        scale = power.maximum(0.5 * beside.mean(dim=1)).masked_fill(power == 0, np.inf)
        divisor = scale[:, None].float()
        flat = (around.flatten(1) / divisor).clamp(-LARGEST, LARGEST)
        return torch.cat([own / divisor, flat], dim=1)


def compass(own: Tensor, steady: float = STEADY) -> tuple[Tensor, Tensor]:
    """Return cosine and sine (n,) of the compass: :func:`dipy_rnn.sampling.compass`.

    Parameters
    ----------
    own : torch.Tensor of shape (n, C)
        Coefficients at each point in its moving frame, of any scale.
    steady : float, optional
        Length of the vector that is added, as a share of the power.

    Returns
    -------
    cosine, sine : torch.Tensor of shape (n,)
    """
    x = own[:, 4] + steady * torch.linalg.vector_norm(own, dim=1)
    y = own[:, 2]
    length = torch.hypot(x, y)
    zero = length == 0
    return (x / length).masked_fill(zero, 1.0), (y / length).masked_fill(zero, 0.0)


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
        self.places = torch.arange(self.n_inside, device=device)
        self.matrix = torch.tensor(cone.matrix, device=device)
        self.directions = torch.tensor(cone.directions, device=device)
        self.near = torch.tensor(cone.near, device=device).long()
        self.parabola = torch.tensor(cone.parabola, device=device)
        self.tangents = torch.tensor(cone.tangents, device=device)

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
        inside = values[:, : self.n_inside]
        height = inside.amax(dim=1)
        # torch's argmax returns any of several equal values: take the first.
        close = inside >= (height - ROUNDING * height.abs())[:, None]
        vertex = torch.where(close, self.places, self.n_inside - 1).amin(dim=1)
        found = (height > 0) & (height >= pmf_threshold * values.max(dim=1).values)
        rise = values.gather(1, self.near[vertex]) - values.gather(1, vertex[:, None])
        terms = (self.parabola[vertex] @ rise[:, :, None])[:, :, 0]
        a, b, aa, ab, bb = terms.unbind(dim=1)
        determinant = aa * bb - ab * ab
        is_maximum = (determinant > 0) & (aa < 0)
        determinant = torch.where(is_maximum, determinant, 1.0)
        slope = torch.hypot(a, b)
        uphill = self.reach / torch.where(slope > 0, slope, 1.0)
        along = torch.where(is_maximum, (ab * b - bb * a) / determinant, a * uphill)
        across = torch.where(is_maximum, (ab * a - aa * b) / determinant, b * uphill)
        length = torch.hypot(along, across)
        scale = self.reach / length.clamp(min=self.reach)
        scale = torch.where(length < ROUNDING, 0.0, scale)
        step = torch.stack([along * scale, across * scale], dim=1)
        tangents = self.tangents[vertex]
        directions = self.directions[vertex] + (step[:, :, None] * tangents).sum(dim=1)
        directions = torch.nn.functional.normalize(directions, dim=1)
        if self.cosine < ROUNDING:
            beyond = directions[:, 2:] < -ROUNDING
            directions = torch.where(beyond, -directions, directions)
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


def _as_real(numbers: Tensor) -> Tensor:
    return torch.view_as_real(numbers).flatten(1)


def _as_complex(parts: Tensor) -> Tensor:
    return torch.view_as_complex(torch.unflatten(parts, 1, (-1, 2)))
