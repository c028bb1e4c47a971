"""Recurrent propagators: from what a streamline sees to where it goes.

Both networks follow the contract of a model file (:mod:`dipy_rnn.model_file`)::

    init_state(n) -> state                                   (layers, n, hidden), zeros
    forward(features, direction, state) -> direction, state  (n, C), (n, 3), ...

and split a step into ``encode``, a GRU and ``decode``, so that training can run the
GRU over whole packed sequences while tracking runs it point by point.
"""

from dataclasses import dataclass
import math
from typing import Self, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from dipy_rnn._typing import Float32Array, FloatArray

# Spread of the lobe for which an untrained RecurrentPropagator is Newton's method.
_LOBE_DEG = 9.0
# How far (about the angle to the peak) the fODF must rise for its roll to count.
_FADE_DEG = 3.0


class RecurrentPropagator(nn.Module):
    """A GRU in the moving frame that does not depend on the frame's roll.

    Seen along the tangent, coefficients of order m turn by m times the roll. The
    network sees their powers, and themselves turned to the angles of two compasses,
    so that nothing it sees depends on roll. One compass points where the fODF rises,
    the other where its coarsest part (l = 2) does: at a peak the first goes astray, but
    the second still points to where else there are fibres. (Where a compass hardly
    points anywhere its angle means nothing; there what is turned by it fades out, or
    rounding would decide what the network sees.)

    Its answers are factors for the slopes of the orders l = 2, 4 .. of the fODF across
    the tangent, and a way along and across each compass: they all turn with the roll as
    a direction must. With all answers at zero the step is Newton's step towards the
    peak of a single fibre; the network learns when to do otherwise. A straight bundle
    is therefore tracked without drift, whatever the weights are.

    Parameters
    ----------
    order : int, optional
        Spherical harmonic order of the features.
    hidden : int, optional
        Width of all layers.
    layers : int, optional
        Number of stacked GRU layers.
    depth : int, optional
        Number of layers between the input layer and the GRU.

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

    # Buffers: places of coefficients and of powers of a turn, the orders m, factors.
    even: Tensor
    plus: Tensor
    minus: Tensor
    m_of_pair: Tensor
    m: Tensor
    slope: Tensor

    def __init__(
        self, order: int = 8, hidden: int = 64, layers: int = 1, depth: int = 2
    ) -> None:
        super().__init__()
        ls = np.arange(0, order + 1, 2)
        middle = ls * (ls + 1) // 2
        pairs = [(c, m) for m in range(1, order + 1) for c in middle[ls >= m]]
        centre, m = np.array(pairs).T
        compasses = Compasses.of(order)
        self.order = order
        self.n_slopes = len(ls) - 1
        self.layers = layers
        self.hidden = hidden
        self.coarse = compasses.coarse
        self.fade = compasses.fade
        for name, value in (
            ("even", torch.as_tensor(middle)),
            ("plus", torch.as_tensor(centre + m)),
            ("minus", torch.as_tensor(centre - m)),
            ("m_of_pair", torch.as_tensor(m - 1)),
            ("m", torch.arange(1.0, order + 1)),
            ("slope", torch.as_tensor(compasses.slope)),
        ):
            self.register_buffer(name, value, persistent=False)
        self.input = nn.Linear(compasses.n_seen, hidden)
        self.deeper = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(depth))
        self.gru = nn.GRU(hidden, hidden, layers)
        self.joined = nn.Linear(2 * hidden, hidden)
        self.head = nn.Linear(hidden, 2 * self.n_slopes + 4)
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
        seen, vectors = self.look(features)
        factors, state = self.think(seen, state)
        return self.steer(factors, vectors), state

    def encode(self, features: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the GRU sees (n, hidden), and vectors (n, 2, K + 2)."""
        seen, vectors = self.look(features)
        return self.embed(seen), vectors

    def decode(self, seen: Tensor, memory: Tensor, vectors: Tensor) -> Tensor:
        """Return unit directions (n, 3) in the frame."""
        return self.steer(self.answer(seen, memory), vectors)

    def look(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return what does not depend on roll (n, S), and vectors (n, 2, K + 2).

        The vectors lie across the tangent: the slopes, and the two compasses. There
        is nothing to learn here.
        """
        plus = features.index_select(1, self.plus)
        minus = features.index_select(1, self.minus)
        # The pairs of m = 1 come first.
        first = torch.stack([plus[:, : self.n_slopes], minus[:, : self.n_slopes]], 1)
        slopes = first * self.slope
        rise = torch.stack([slopes.sum(2), slopes[:, :, 0] * self.coarse], 2)
        square = (rise * rise).sum(1)
        fade = square / (square + self.fade)
        angle = torch.atan2(rise[:, 1], rise[:, 0]).unsqueeze(2) * self.m
        cosine, sine = torch.cos(angle), torch.sin(angle)
        compasses = torch.stack([cosine[:, :, 0], sine[:, :, 0]], 1) * fade.unsqueeze(1)
        cosine = cosine.index_select(2, self.m_of_pair) * fade.unsqueeze(2)
        sine = sine.index_select(2, self.m_of_pair) * fade.unsqueeze(2)
        p, q = plus.unsqueeze(1), minus.unsqueeze(1)
        seen = torch.cat(
            [
                features.index_select(1, self.even),
                plus * plus + minus * minus,
                (p * cosine + q * sine).flatten(1),
                (q * cosine - p * sine).flatten(1),
            ],
            dim=1,
        )
        return seen, torch.cat([slopes, compasses], dim=2)

    @torch.jit.export
    def think(self, seen: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return factors (n, 2 K + 4) for the vectors, and the state."""
        seen = self.embed(seen)
        memory, state = self.gru(seen.unsqueeze(0), state)
        return self.answer(seen, memory[0]), state

    def embed(self, seen: Tensor) -> Tensor:
        """Return what the GRU sees (n, hidden)."""
        seen = nn.functional.leaky_relu(self.input(seen), 0.1)
        for layer in self.deeper:
            seen = seen + nn.functional.leaky_relu(layer(seen), 0.1)
        return seen

    def answer(self, seen: Tensor, memory: Tensor) -> Tensor:
        """Return factors (n, 2 K + 4): along the vectors, then across them."""
        joined = self.joined(torch.cat([seen, memory], dim=1))
        factors: Tensor = self.head(nn.functional.leaky_relu(joined, 0.1))
        return factors

    def steer(self, factors: Tensor, vectors: Tensor) -> Tensor:
        """Return unit directions (n, 3) in the frame."""
        along, across = factors[:, : self.n_slopes + 2], factors[:, self.n_slopes + 2 :]
        x, y = vectors[:, 0], vectors[:, 1]
        deviation = torch.stack(
            [
                (along * x - across * y).sum(1) + x[:, : self.n_slopes].sum(1),
                (along * y + across * x).sum(1) + y[:, : self.n_slopes].sum(1),
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

    def __init__(self, order: int = 8, hidden: int = 512, layers: int = 2) -> None:
        super().__init__()
        n_features = (order + 1) * (order + 2) // 2
        self.order = order
        self.layers = layers
        self.hidden = hidden
        blocks: list[nn.Module] = [nn.Linear(n_features + 3, hidden)]
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


#: A network of one of the architectures.
Network: TypeAlias = RecurrentPropagator | CaiPropagator

#: Architectures by the name they have in commands and model files.
ARCHITECTURES: dict[str, type[Network]] = {
    "moving_frame": RecurrentPropagator,
    "cai2023": CaiPropagator,
}


def untrained(architecture: str, order: int, random_seed: int, **shape: int) -> Network:
    """Make a network to train.

    Parameters
    ----------
    architecture : str
        One of ``ARCHITECTURES``.
    order : int
        Spherical harmonic order of the features.
    random_seed : int
        Draws the weights.
    **shape
        ``hidden`` and ``layers``, where they are to be others than the architecture's.

    Returns
    -------
    module : nn.Module

    Examples
    --------
    >>> untrained("moving_frame", 4, random_seed=1, hidden=8).hidden
    8
    """
    torch.manual_seed(random_seed)
    return ARCHITECTURES[architecture](order, **shape)


@dataclass(frozen=True, eq=False)
class Compasses:
    """Constants of what a RecurrentPropagator sees, for an order.

    Parameters
    ----------
    order : int
        Even spherical harmonic order.
    slope : ndarray of shape (order / 2,)
        float32, :func:`newton_slopes`.
    coarse : float
        The factor of l = 2 when it is the only one, over its factor among all.
    fade : float
        Square of the rise (radians) at which a compass counts by half.

    Examples
    --------
    >>> Compasses.of(8).n_seen
    105
    """

    order: int
    slope: Float32Array
    coarse: float
    fade: float

    @classmethod
    def of(cls, order: int) -> Self:
        """Return the constants for an order."""
        slope, coarse = newton_slopes(order), newton_slopes(2)
        return cls(
            order,
            slope.astype(np.float32),
            float(coarse[0] / slope[0]),
            math.radians(_FADE_DEG) ** 2,
        )

    @property
    def n_vectors(self) -> int:
        """Slopes and compasses."""
        return self.order // 2 + 2

    @property
    def n_seen(self) -> int:
        """The coefficients of m = 0, and five for each pair of +m and -m."""
        n_pairs = (self.order // 2) * (self.order // 2 + 1)
        return self.order // 2 + 1 + 5 * n_pairs


def newton_slopes(order: int) -> FloatArray:
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
    factors: FloatArray = -np.sqrt((2 * ls + 1) * ladder / (8 * np.pi)) / curvature
    return factors


def architecture_of(module: nn.Module) -> str:
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
