"""Recurrent propagators: from what a streamline sees to where it goes.

Both networks follow the contract of a model file (:mod:`dipy_rnn.model_file`)::

    init_state(n) -> state                                   (layers, n, hidden), zeros
    forward(features, direction, state) -> direction, state  (n, C), (n, 3), ...

and split a step into ``encode``, a GRU and ``decode``, so that training can run the
GRU over whole packed sequences while tracking runs it point by point.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

# Spread of the lobe for which an untrained RecurrentPropagator is Newton's method.
_LOBE_DEG = 9.0
# How far (about the angle to the peak) the fODF must rise for its roll to count.
_FADE_DEG = 3.0


class RecurrentPropagator(nn.Module):
    """A GRU in the moving frame that does not depend on the frame's roll.

    Seen along the tangent, coefficients of order m turn by m times the roll. The
    network sees their powers, and themselves turned to the angle at which the fODF
    rises, so that nothing it sees depends on roll. (Where the fODF hardly rises that
    angle means nothing; there the turned ones fade out, or rounding would decide what
    the network sees.) Its answers are factors for the slopes of the orders
    l = 2, 4 .. of the fODF across the tangent, which turn with the roll as a
    direction must. With all factors at one the step is Newton's step towards the
    peak of a single fibre; the network learns when to do otherwise. A straight bundle
    is therefore tracked without drift, whatever the weights are.

    Parameters
    ----------
    order : int, optional
        Spherical harmonic order of the features.
    hidden : int, optional
        Width of the input layer and of the GRU.
    layers : int, optional
        Number of stacked GRU layers.

    Examples
    --------
    >>> model = RecurrentPropagator(order=4, hidden=8)
    >>> seen = torch.zeros(1, 15); seen[0, 3] = 1.0  # a lobe straight ahead
    >>> direction, state = model(seen, torch.tensor([[0.0, 0.0, 1.0]]),
    ...                          model.init_state(1))
    >>> direction.tolist()
    [[0.0, 0.0, 1.0]]
    """

    frame = "local"

    def __init__(self, order=8, hidden=64, layers=1):
        super().__init__()
        ls = np.arange(0, order + 1, 2)
        middle = ls * (ls + 1) // 2
        pairs = [(c, m) for m in range(1, order + 1) for c in middle[ls >= m]]
        centre, m = np.array(pairs).T
        self.order = order
        self.n_slopes = len(ls) - 1
        self.layers = layers
        self.hidden = hidden
        for name, index in (
            ("even", middle),
            ("plus", centre + m),
            ("minus", centre - m),
        ):
            self.register_buffer(name, torch.as_tensor(index), persistent=False)
        # Kept as a buffer of floats: a factor of angles.
        self.register_buffer(
            "m", torch.as_tensor(m, dtype=torch.float32), persistent=False
        )
        self.register_buffer(
            "slope",
            torch.as_tensor(newton_slopes(order), dtype=torch.float32),
            persistent=False,
        )
        self.fade = math.radians(_FADE_DEG) ** 2
        self.input = nn.Linear(len(middle) + 3 * len(m), hidden)
        self.gru = nn.GRU(hidden, hidden, layers)
        self.head = nn.Linear(2 * hidden, 2 * self.n_slopes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @torch.jit.export
    def init_state(self, n: int) -> Tensor:
        """Return a fresh state for n streamlines."""
        return torch.zeros(self.layers, n, self.hidden, device=self.slope.device)

    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Propagate n streamlines by one step; direction is (0, 0, 1) and unused."""
        seen, slopes = self.encode(features, direction)
        memory, state = self.gru(seen.unsqueeze(0), state)
        return self.decode(seen, memory[0], slopes), state

    def encode(self, features: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the network sees (n, hidden) and the slopes (n, 2 K)."""
        plus = features.index_select(1, self.plus)
        minus = features.index_select(1, self.minus)
        # The pairs of m = 1 come first.
        x = plus[:, : self.n_slopes] * self.slope
        y = minus[:, : self.n_slopes] * self.slope
        rise_x, rise_y = x.sum(1, keepdim=True), y.sum(1, keepdim=True)
        rise = rise_x * rise_x + rise_y * rise_y
        fade = rise / (rise + self.fade)
        turn = torch.atan2(rise_y, rise_x) * self.m
        cosine, sine = torch.cos(turn) * fade, torch.sin(turn) * fade
        rolled = torch.cat(
            [
                features.index_select(1, self.even),
                plus * plus + minus * minus,
                plus * cosine + minus * sine,
                minus * cosine - plus * sine,
            ],
            dim=1,
        )
        seen = nn.functional.leaky_relu(self.input(rolled), 0.1)
        return seen, torch.cat([x, y], dim=1)

    def decode(self, seen: Tensor, memory: Tensor, slopes: Tensor) -> Tensor:
        """Return unit directions (n, 3) in the frame."""
        factors = self.head(torch.cat([seen, memory], dim=1))
        along, across = 1.0 + factors[:, : self.n_slopes], factors[:, self.n_slopes :]
        x, y = slopes[:, : self.n_slopes], slopes[:, self.n_slopes :]
        deviation = torch.stack(
            [
                (along * x - across * y).sum(1),
                (along * y + across * x).sum(1),
                torch.ones_like(x[:, 0]),
            ],
            dim=1,
        )
        return nn.functional.normalize(deviation, dim=1)


class CaiPropagator(nn.Module):
    """The network of Cai et al. (MIDL 2023), in voxel axes.

    An input layer and four hidden ones of 512 with leaky rectifiers, two GRU layers
    of 512, and a head that reads azimuth and elevation from both. Two things differ
    from the published code: LayerNorm stands in place of a BatchNorm that uses the
    statistics of the batch, with which a streamline depends on its batch mates; and
    the incoming direction is an input, without which the sign of the first step is
    a guess.

    Parameters
    ----------
    order : int, optional
        Spherical harmonic order of the features.
    hidden : int, optional
        Width of all layers.
    layers : int, optional
        Number of stacked GRU layers.

    References
    ----------
    Cai L. Y. et al., "Implementation considerations for deep learning with diffusion
    MRI streamline tractography", MIDL 2023.

    Examples
    --------
    >>> model = CaiPropagator(order=4, hidden=8)
    >>> direction, state = model(torch.zeros(2, 15), torch.zeros(2, 3),
    ...                          model.init_state(2))
    >>> direction.shape, state.shape
    (torch.Size([2, 3]), torch.Size([2, 2, 8]))
    """

    frame = "voxel"

    def __init__(self, order=8, hidden=512, layers=2):
        super().__init__()
        n_features = (order + 1) * (order + 2) // 2
        self.order = order
        self.layers = layers
        self.hidden = hidden
        blocks = [nn.Linear(n_features + 3, hidden)]
        for _ in range(4):
            blocks += [
                nn.Linear(hidden, hidden),
                nn.LayerNorm(hidden),
                nn.LeakyReLU(0.1),
            ]
        self.mlp = nn.Sequential(*blocks)
        self.gru = nn.GRU(hidden, hidden, layers)
        self.head = nn.Linear(2 * hidden, 2)

    @torch.jit.export
    def init_state(self, n: int) -> Tensor:
        """Return a fresh state for n streamlines."""
        return torch.zeros(self.layers, n, self.hidden, device=self.head.weight.device)

    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Propagate n streamlines by one step."""
        seen, context = self.encode(features, direction)
        memory, state = self.gru(seen.unsqueeze(0), state)
        return self.decode(seen, memory[0], context), state

    def encode(self, features: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the GRU sees (n, hidden), and the direction it came in."""
        return self.mlp(torch.cat([features, direction], dim=1)), direction

    def decode(self, seen: Tensor, memory: Tensor, context: Tensor) -> Tensor:
        """Return unit directions (n, 3) along the voxel axes."""
        angles = self.head(torch.cat([seen, memory], dim=1))
        azimuth = math.pi * torch.tanh(angles[:, 0])
        elevation = math.pi * torch.sigmoid(angles[:, 1])
        return torch.stack(
            [
                torch.sin(elevation) * torch.cos(azimuth),
                torch.sin(elevation) * torch.sin(azimuth),
                torch.cos(elevation),
            ],
            dim=1,
        )


#: Architectures by the name they have in commands and model files.
ARCHITECTURES = {"moving_frame": RecurrentPropagator, "cai2023": CaiPropagator}


def newton_slopes(order):
    """Return factors that make slopes across the tangent a step to the peak.

    Parameters
    ----------
    order : int
        Even spherical harmonic order.

    Returns
    -------
    factors : ndarray of shape (order / 2,)
        For l = 2, 4 ..: with the coefficients of m = 1 of a lobe of unit power, bent
        away by a small angle, their products sum to that angle in radians.

    Notes
    -----
    Near the pole the harmonic of (l, +-1) is -sqrt((2l + 1) l (l + 1) / 8 pi) times
    the sine of the colatitude times cos or sin of the azimuth, and the curvature of
    that of (l, 0) is -sqrt((2l + 1) / 4 pi) l (l + 1) / 2.

    Examples
    --------
    >>> newton_slopes(4).round(2)
    array([-0.15, -0.37])
    """
    ls = np.arange(2, order + 1, 2)
    ladder = ls * (ls + 1)
    damping = np.exp(-(np.deg2rad(_LOBE_DEG) ** 2) * ladder / 2)
    lobe = np.sqrt((2 * ls + 1) / (4 * np.pi)) * damping
    unit = lobe / np.sqrt(1 / (4 * np.pi) + np.sum(lobe**2))
    curvature = np.sum(np.sqrt((2 * ls + 1) / (4 * np.pi)) * ladder / 2 * unit)
    return -np.sqrt((2 * ls + 1) * ladder / (8 * np.pi)) / curvature


def architecture_of(module):
    """Return the name of a module's architecture.

    Parameters
    ----------
    module : nn.Module
        One of ``ARCHITECTURES``.

    Returns
    -------
    name : str

    Examples
    --------
    >>> architecture_of(RecurrentPropagator(order=4, hidden=8))
    'moving_frame'
    """
    return next(n for n, kind in ARCHITECTURES.items() if isinstance(module, kind))
