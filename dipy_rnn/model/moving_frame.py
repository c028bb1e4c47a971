"""A GRU in the moving frame, whose directions do not depend on the frame's roll.

It follows the contract of a model file (:mod:`dipy_rnn.model.file`)::

    init_state(n) -> state                                   (layers, n, hidden), zeros
    forward(features, direction, state) -> direction, state  (n, C), (n, 3), ...

A step is split into ``encode``, a GRU and ``decode``. Training can then run the GRU on
whole packed sequences, while tracking runs it point by point.

``_moving_frame.pyx`` does the same as a kernel.
"""

from collections.abc import Mapping
from dataclasses import dataclass
import math
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from dipy_rnn._typing import AnyArray, Float32Array, FloatArray
from dipy_rnn.model._moving_frame import CompiledMovingFrameGRU

# Width of the lobe for which the step of an untrained network is Newton's method.
_LOBE_DEG = 9.0
# Angle to the peak below which the direction of a reference axis is mostly noise.
_FADE_DEG = 3.0


class MovingFrameGRU(nn.Module):
    """A GRU in the moving frame that does not depend on the frame's roll.

    If the frame rolls about the tangent, coefficients of order m rotate by m times the
    roll. The network sees only invariants of the roll: the coefficients of m = 0, the
    power of each pair of +m and -m, and the pairs rotated to the angles of two
    reference axes. The first reference axis points where the fODF rises. The second one
    points where the coarsest part of the fODF (l = 2) rises. At a peak the first axis
    is undefined, but the second one still points to other fibres nearby. An axis whose
    rise is small has an uncertain angle. The pairs that are rotated to it are therefore
    scaled towards zero. Otherwise rounding errors would change the input of the
    network.

    The network returns factors. They multiply vectors across the tangent: the slopes of
    the orders l = 2, 4 .. of the fODF, and the reference axes. Each vector has two
    factors, one along it and one at a right angle to it. The resulting direction
    therefore rotates with the roll. If all factors are zero, the step is Newton's step
    towards the peak of a single fibre. The network learns the deviations from it. A
    straight bundle is therefore tracked without drift for any weights.

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
    >>> model = MovingFrameGRU(order=4, hidden=8)
    >>> seen = torch.zeros(1, 15); seen[0, 3] = 1.0  # a lobe straight ahead
    >>> direction, state = model(seen, torch.tensor([[0.0, 0.0, 1.0]]),
    ...                          model.init_state(1))
    >>> direction.tolist()
    [[0.0, 0.0, 1.0]]
    """

    #: Frame of its features and directions, as in the metadata of a model file.
    frame = "local"
    #: Entries of the metadata that the architecture requires.
    required: ClassVar[dict[str, str]] = {
        "kind": "sh",
        "frame": "local",
        "normalisation": "power",
    }
    #: Differences from the defaults of :class:`dipy_rnn.training.Recipe`.
    recipe: ClassVar[dict[str, Any]] = {}

    # Buffers: indices of coefficients, of pairs and of their m; the orders m; slopes.
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
        constants = FrameConstants.of(order)
        self.order = order
        self.n_slopes = len(ls) - 1
        self.layers = layers
        self.hidden = hidden
        self.coarse = constants.coarse
        self.fade = constants.fade
        for name, value in (
            ("even", torch.as_tensor(middle)),
            ("plus", torch.as_tensor(centre + m)),
            ("minus", torch.as_tensor(centre - m)),
            ("m_of_pair", torch.as_tensor(m - 1)),
            ("m", torch.arange(1.0, order + 1)),
            ("slope", torch.as_tensor(constants.slope)),
        ):
            self.register_buffer(name, value, persistent=False)
        self.input = nn.Linear(constants.n_invariants, hidden)
        self.deeper = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(depth))
        self.gru = nn.GRU(hidden, hidden, layers)
        self.joined = nn.Linear(2 * hidden, hidden)
        self.head = nn.Linear(hidden, 2 * self.n_slopes + 4)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def compiled(
        cls,
        weights: Mapping[str, AnyArray],
        order: int,
        layers: int,
        hidden: int,
    ) -> CompiledMovingFrameGRU:
        """Make the kernel of a network with given weights.

        Parameters
        ----------
        weights : mapping of str to ndarray
            Parameters by name.
        order, layers, hidden : int

        Returns
        -------
        network : CompiledMovingFrameGRU

        Raises
        ------
        KeyError, ValueError
            If a parameter is missing, or its shape or type differs.
        """
        depth = sum(name.startswith("deeper.") for name in weights) // 2
        return CompiledMovingFrameGRU(
            weights, FrameConstants.of(order), depth, layers, hidden
        )

    @torch.jit.export
    def init_state(self, n: int) -> Tensor:
        """Return a fresh state for n streamlines."""
        return torch.zeros(self.layers, n, self.hidden, device=self.slope.device)

    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the next directions of n streamlines. ``direction`` is not used."""
        invariants, vectors = self.invariants(features)
        factors, state = self.core(invariants, state)
        return self.to_direction(factors, vectors), state

    def encode(self, features: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input of the GRU (n, hidden), and vectors (n, 2, K + 2)."""
        invariants, vectors = self.invariants(features)
        return self.embed(invariants), vectors

    def decode(self, encoded: Tensor, memory: Tensor, vectors: Tensor) -> Tensor:
        """Return unit directions (n, 3) in the frame."""
        return self.to_direction(self.factors(encoded, memory), vectors)

    def invariants(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return invariants of the roll (n, S), and vectors (n, 2, K + 2).

        The vectors are across the tangent: the slopes, and the two reference axes.
        This part has no weights.
        """
        plus = features.index_select(1, self.plus)
        minus = features.index_select(1, self.minus)
        # The pairs of m = 1 are the first ones.
        first = torch.stack([plus[:, : self.n_slopes], minus[:, : self.n_slopes]], 1)
        slopes = first * self.slope
        rise = torch.stack([slopes.sum(2), slopes[:, :, 0] * self.coarse], 2)
        square = (rise * rise).sum(1)
        fade = square / (square + self.fade)
        angle = torch.atan2(rise[:, 1], rise[:, 0]).unsqueeze(2) * self.m
        cosine, sine = torch.cos(angle), torch.sin(angle)
        axes = torch.stack([cosine[:, :, 0], sine[:, :, 0]], 1) * fade.unsqueeze(1)
        cosine = cosine.index_select(2, self.m_of_pair) * fade.unsqueeze(2)
        sine = sine.index_select(2, self.m_of_pair) * fade.unsqueeze(2)
        p, q = plus.unsqueeze(1), minus.unsqueeze(1)
        invariants = torch.cat(
            [
                features.index_select(1, self.even),
                plus * plus + minus * minus,
                (p * cosine + q * sine).flatten(1),
                (q * cosine - p * sine).flatten(1),
            ],
            dim=1,
        )
        return invariants, torch.cat([slopes, axes], dim=2)

    @torch.jit.export
    def core(self, invariants: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return factors (n, 2 K + 4) for the vectors, and the state."""
        encoded = self.embed(invariants)
        memory, state = self.gru(encoded.unsqueeze(0), state)
        return self.factors(encoded, memory[0]), state

    def embed(self, invariants: Tensor) -> Tensor:
        """Return the input of the GRU (n, hidden)."""
        encoded = nn.functional.leaky_relu(self.input(invariants), 0.1)
        for layer in self.deeper:
            encoded = encoded + nn.functional.leaky_relu(layer(encoded), 0.1)
        return encoded

    def factors(self, encoded: Tensor, memory: Tensor) -> Tensor:
        """Return factors (n, 2 K + 4): along the vectors, then across them."""
        joined = self.joined(torch.cat([encoded, memory], dim=1))
        factors: Tensor = self.head(nn.functional.leaky_relu(joined, 0.1))
        return factors

    def to_direction(self, factors: Tensor, vectors: Tensor) -> Tensor:
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


@dataclass(frozen=True, eq=False)
class FrameConstants:
    """Constants of the invariants and vectors of a MovingFrameGRU.

    Parameters
    ----------
    order : int
        Even spherical harmonic order.
    slope : ndarray of shape (order / 2,)
        float32. The factors of :func:`newton_slopes`.
    coarse : float
        The factor of l = 2 for order 2, divided by its factor for this order.
    fade : float
        Square of the rise (radians) at which a reference axis is scaled by one half.

    Examples
    --------
    >>> FrameConstants.of(8).n_invariants
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
        """Number of slopes and reference axes."""
        return self.order // 2 + 2

    @property
    def n_invariants(self) -> int:
        """Number of coefficients of m = 0, and five for each pair of +m and -m."""
        n_pairs = (self.order // 2) * (self.order // 2 + 1)
        return self.order // 2 + 1 + 5 * n_pairs


def newton_slopes(order: int) -> FloatArray:
    """Return the factors of Newton's step towards the peak of a lobe.

    Parameters
    ----------
    order : int
        Even spherical harmonic order.

    Returns
    -------
    factors : ndarray of shape (order / 2,)
        One for each of l = 2, 4 .. If a lobe of unit power is tilted from z by a small
        angle, the factors times its coefficients of m = 1 add up to that angle in
        radians.

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
