"""A GRU in the moving frame. Its directions do not depend on the roll of the frame.

It follows the contract of a model file (:mod:`dipy_rnn.model.file`)::

    init_state(n) -> state                                   (layers, n, hidden), zeros
    forward(features, direction, state) -> direction, state  (n, C), (n, 3), ...

A step is split into ``encode``, a GRU and ``decode``. Training can then run the GRU on
whole packed sequences, while tracking runs it point by point. In shapes, n is the
number of streamlines, C the number of coefficients, K = order / 2 the number of slopes,
and S the number of invariants.

``_moving_frame.pyx`` computes the same in a kernel (a compiled function).
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

# Width of the fODF's lobe for which an untrained network takes Newton's step exactly.
_LOBE_DEG = 9.0
# If the peak is nearer than this, the direction of a reference axis is mostly noise.
_FADE_DEG = 3.0


class MovingFrameGRU(nn.Module):
    """A GRU in the moving frame. Its directions do not depend on the roll of the frame.

    **Input.** If the frame is rotated about the tangent by an angle, the pair of
    coefficients of +m and -m rotates by m times this angle. The network gets only
    numbers that do not change (*invariants*):

    - the coefficients of m = 0;
    - the power of each pair of +m and -m;
    - each pair, rotated by m times the angle of a reference axis. There are two
      reference axes.

    The *slope* of l = 2, 4 .. is its pair of m = 1, scaled: a vector perpendicular to
    the tangent, in the direction in which this part of the fODF increases. The first
    reference axis is the direction of the sum of the slopes. The second one is the
    direction of the slope of l = 2. At a peak the sum is zero and the first axis is not
    defined, but the second one still points to other fibres nearby. If the vector from
    which an axis is made is short, the angle of the axis is uncertain. The axis, and
    the pairs that are rotated to it, are therefore scaled towards zero. Otherwise
    rounding errors would change the input of the network.

    **Output.** The step is the tangent plus a vector perpendicular to it, scaled to
    length 1. This vector is the sum of the slopes, plus the slopes and the reference
    axes multiplied by *factors*. The network returns two factors for each of them: one
    for the vector itself, and one for the vector rotated by 90 degrees. The direction
    therefore rotates with the frame. If all factors are zero, the step is Newton's step
    towards the peak of a single fibre. The network learns the deviations from this
    step. In a straight bundle the tangent is at the peak of a symmetric lobe, where all
    slopes and reference axes are zero. A straight bundle is therefore tracked without
    drift for any weights.

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

    # Buffers: indices of the coefficients of m = 0, +m and -m; index of the m of each
    # pair; m = 1, 2 ..; factors of the slopes.
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
        """Return the next directions of n streamlines, and their states.

        ``direction`` is not used, as the incoming direction is z of the moving frame.
        """
        invariants, vectors = self.invariants(features)
        factors, state = self.core(invariants, state)
        return self.to_direction(factors, vectors), state

    def encode(self, features: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input of the GRU (n, hidden), and vectors (n, 2, K + 2).

        The vectors are those of :meth:`invariants`.
        """
        invariants, vectors = self.invariants(features)
        return self.embed(invariants), vectors

    def decode(self, encoded: Tensor, memory: Tensor, vectors: Tensor) -> Tensor:
        """Return unit directions (n, 3) in the moving frame.

        ``encoded`` and ``memory`` are the input and the output of the GRU (n, hidden).
        """
        return self.to_direction(self.factors(encoded, memory), vectors)

    def invariants(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return invariants of the roll (n, S), and vectors (n, 2, K + 2).

        The vectors are perpendicular to the tangent, with components along e1 and e2:
        the K slopes, and the two reference axes. This part has no weights.
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
        """Return factors (n, 2 K + 4).

        First those of the vectors, then those of the vectors rotated by 90 degrees.
        """
        joined = self.joined(torch.cat([encoded, memory], dim=1))
        factors: Tensor = self.head(nn.functional.leaky_relu(joined, 0.1))
        return factors

    def to_direction(self, factors: Tensor, vectors: Tensor) -> Tensor:
        """Return unit directions (n, 3) in the moving frame."""
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
        float32. Factors that scale pairs of m = 1 to slopes (:func:`newton_slopes`).
    coarse : float
        Factor for the slope of l = 2, from which the second reference axis is made. The
        product is Newton's step for the part l = 2 alone.
    fade : float
        Square of an angle in radians. If the vector from which a reference axis is made
        has this squared length, the axis and its pairs are scaled by one half.

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
        """Number of invariants.

        One for each coefficient of m = 0. Five for each pair of +m and -m: its power,
        and two components along each of the two reference axes.
        """
        n_pairs = (self.order // 2) * (self.order // 2 + 1)
        return self.order // 2 + 1 + 5 * n_pairs


def newton_slopes(order: int) -> FloatArray:
    """Return the factors that make slopes of the pairs of m = 1.

    The sum of the slopes is Newton's step towards the peak of a lobe.

    Parameters
    ----------
    order : int
        Even spherical harmonic order.

    Returns
    -------
    factors : ndarray of shape (order / 2,)
        One for each of l = 2, 4 .. Take a lobe of unit power whose peak is at a small
        angle from z. Multiply its coefficients of m = 1 by the factors. The sum is that
        angle in radians.

    Notes
    -----
    Newton's step is the slope at z, divided by the negative curvature there. Near z,
    the harmonic of (l, +1) is -sqrt((2l + 1) l (l + 1) / 8 pi) times the sine of the
    colatitude times the cosine of the azimuth. For (l, -1) it is the sine of the
    azimuth. At z, the curvature of the harmonic of (l, 0) is
    -sqrt((2l + 1) / 4 pi) l (l + 1) / 2.

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
