"""A GRU that also sees the fODF around its point (*context*).

It follows the contract of a model file (:mod:`dipy_rnn.model.file`)::

    init_state(n) -> state                            (1, n, n_state), zeros
    forward(features, direction, state, inputs)       (n, C), (n, 3), .., (n, 5)
        -> answer, state                              (n, 3) or (n, 6)

``features`` are the coefficients at the point and at the places of the context
(:class:`dipy_rnn.sampling.Context`, :func:`dipy_rnn.sampling.join_context`). The
declared inputs are those of :mod:`dipy_rnn.model.networks.moving_frame`.

``_context_gru.pyx`` computes the same in a kernel (a compiled function).
"""

import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dipy_rnn.model.architectures.context import OUTPUTS, SHORT, SPREAD
from dipy_rnn.model.architectures.moving_frame import newton_slopes
from dipy_rnn.model.networks.distance_gru import DistanceGRU
from dipy_rnn.sampling import Context
from dipy_rnn.sampling.interpolate_torch import compass

# Two places ahead, and two rings.
_CONTEXT = Context(
    ahead=(1.5, 3.0), rings=((0.0, 1.0), (1.5, 1.5)), n_around=6, order=4
)


class ContextGRU(nn.Module):
    """A GRU with context. Its directions hardly depend on the roll of the frame.

    **Parts.** If the frame is rolled about the tangent by an angle, a coefficient of
    order m turns by m times this angle. A Fourier part of order m over the places of a
    ring has the angle m times that of the compass, at which the ring begins. The
    network splits its features accordingly:

    - *scalars*, which do not turn: coefficients of m = 0 at the point and ahead, means
      over each ring, the size of each pair of +m and -m from m = 3, and the conditions
      of the run;
    - *vectors*, which turn by the angle: pairs of m = 1 at the point and ahead, and
      parts of order 1 over each ring;
    - *double vectors*, which turn by twice the angle: pairs of m = 2, and parts of
      order 2.

    Under a mirror image, coefficients of -m change their sign. Their Fourier parts are
    turned by a quarter, so that all vectors are mirrored alike.

    **Mixing.** Vectors and double vectors are mixed linearly. ``ahead`` (the direction
    of the fODF's largest value in the cone) and the remembered vectors are vectors,
    too. The layers get the scalars, the inner products of all vectors, and the inner
    products of the double vectors with the squares of the vectors as complex numbers.
    None of these depends on the roll, except that the places of a ring give its Fourier
    parts only approximately.

    **Memory.** The state has a GRU whose memory lasts for a distance
    (:class:`DistanceGRU`), and vectors that move towards mixed vectors at rates that
    the layers compute. The moving frame does not roll about the tangent on its way
    (:func:`dipy_rnn.spatial.frames.transport`), so a remembered vector keeps its
    direction.

    **Output.** The part of the next direction across the tangent is that of ``ahead``
    plus the sum of all vectors, each multiplied by a factor. The part along the tangent
    is that of ``ahead`` times a positive factor. The result is scaled to length 1. In
    a straight bundle all vectors are zero, and so it is tracked without drift. Further
    outputs are functions of the layers: the spread of the direction, and two
    probabilities.

    Parameters
    ----------
    order : int, optional
        Spherical harmonic order of the features at the point.
    context : dipy_rnn.sampling.Context or None, optional
        If None, the network only sees the fODF at its point.
    hidden : int, optional
        Width of the layers.
    memory : int, optional
        Width of the GRU.
    n_vectors, n_double, n_remembered : int, optional
        Number of mixed vectors, mixed double vectors and remembered vectors.
    declared : bool, optional
        Whether ``forward`` also returns the spread and the two probabilities
        (``outputs`` in the metadata of a model file). They are only useful if they were
        trained (:mod:`dipy_rnn.training.free_running`).

    Examples
    --------
    >>> model = ContextGRU(order=4, hidden=8, memory=4)
    >>> seen = torch.zeros(1, 15 + model.context.n_values); seen[0, 3] = 1.0
    >>> direction, state = model(seen, torch.tensor([[0.0, 0.0, 1.0]]),
    ...                          model.init_state(1),
    ...                          torch.tensor([[0.5, 30.0, 0.0, 0.0, 1.0]]))
    >>> direction.tolist()
    [[0.0, 0.0, 1.0]]
    """

    #: Frame of its features and directions, as in the metadata of a model file.
    frame = "local"
    #: Its declared inputs, as in the metadata of a model file.
    inputs = ("step_vox", "max_angle_deg", "ahead")
    #: No warm-up points before the backward half (doc/design.md).
    replay_points: ClassVar[int | None] = 0
    #: Differences from the defaults of :class:`dipy_rnn.training.Recipe`.
    recipe: ClassVar[dict[str, Any]] = {"learning_rate": 3e-3}
    #: Number of layers of states, as in the metadata of a model file.
    layers = 1

    # Buffers: indices of coefficients, Fourier factors of a ring, pairs of vectors.
    scalar: Tensor
    single: Tensor
    twofold: Tensor
    higher: Tensor
    even: Tensor
    odd: Tensor
    first: Tensor
    second: Tensor
    couples: Tensor

    def __init__(
        self,
        order: int = 8,
        context: Context | None = _CONTEXT,
        hidden: int = 64,
        memory: int = 48,
        n_vectors: int = 10,
        n_double: int = 5,
        n_remembered: int = 5,
        declared: bool = False,
    ) -> None:
        super().__init__()
        #: Its declared outputs, as in the metadata of a model file.
        self.outputs = OUTPUTS if declared else ()
        self.declared = declared
        self.order = order
        self.context = context
        self.memory = memory
        self.n_remembered = n_remembered
        self.n_state = memory + 2 * n_remembered
        self.hidden = hidden
        self.n_around = context.n_around if context else 0
        self.n_coeffs = context.n_coeffs if context else 0
        self.n_rings = len(context.rings) if context else 0
        self.spread_range = SPREAD
        self.short = SHORT
        self.n_own = (order + 1) * (order + 2) // 2
        parts = self._register_parts()
        # ``ahead`` and the remembered vectors are vectors, too.
        self.n_all = n_vectors + 1 + n_remembered
        a, b = np.triu_indices(self.n_all)
        couples = torch.tensor(a * self.n_all + b)
        self.register_buffer("couples", couples, persistent=False)
        n_products = len(couples) + self.n_all * n_double + n_double
        self.to_vectors = nn.Parameter(_random(parts["vectors"], n_vectors, 2.0))
        self.to_twofold = nn.Parameter(_random(parts["double"], n_double, 2.0))
        self.input = nn.Linear(parts["scalars"] + n_products, hidden)
        self.deeper = nn.Linear(hidden, hidden)
        self.gru = DistanceGRU(memory, hidden)
        self.to_remembered = nn.Parameter(_random(n_vectors + 1, n_remembered, 1.0))
        self.forgets = nn.Linear(hidden, n_remembered)
        self.joined = nn.Linear(hidden + memory, hidden)
        # Factors of the vectors, of the tangent, the spread, and two probabilities.
        self.head = nn.Linear(hidden, self.n_all + 4)
        self._initialise()

    def _register_parts(self) -> dict[str, int]:
        """Register the indices of the parts; return how many there are of each kind."""
        scalar: list[int] = []
        pairs: dict[int, list[tuple[int, int]]] = {1: [], 2: [], 3: []}
        start = 0
        orders, angles = [self.order], np.zeros(0)
        signs: list[int] = []
        if self.context:
            orders += [self.context.order] * len(self.context.ahead)
            angles = self.context.angles
            ells = range(0, self.context.order + 1, 2)
            signs = [m for ell in ells for m in range(-ell, ell + 1)]
        for order in orders:
            for ell in range(0, order + 1, 2):
                middle = start + ell * (ell + 1) // 2
                scalar.append(middle)
                for m in range(1, ell + 1):
                    pairs[min(m, 3)].append((middle + m, middle - m))
            start += (order + 1) * (order + 2) // 2
        self.first_of_rings = start
        for name, value in (
            ("scalar", scalar),
            ("single", np.array(pairs[1]).T),
            ("twofold", np.array(pairs[2]).T),
            ("higher", np.array(pairs[3]).reshape(-1, 2).T),
            ("even", [i for i, m in enumerate(signs) if m >= 0]),
            ("odd", [i for i, m in enumerate(signs) if m < 0]),
        ):
            indices = torch.tensor(value, dtype=torch.int64)
            self.register_buffer(name, indices, persistent=False)
        for name, m in (("first", 1), ("second", 2)):
            factors = np.stack([np.cos(m * angles), np.sin(m * angles)])
            factors = (factors / max(self.n_around, 1)).astype(np.float32)
            self.register_buffer(name, torch.tensor(factors), persistent=False)
        of_rings = self.n_rings * self.n_coeffs
        return {
            "scalars": len(scalar) + len(pairs[3]) + self.n_rings * len(self.even) + 3,
            "vectors": len(pairs[1]) + of_rings,
            "double": len(pairs[2]) + of_rings,
        }

    @torch.no_grad()
    def _initialise(self) -> None:
        """Make the first steps nearly those of deterministic tracking."""
        # The first vector is Newton's step to the peak.
        self.to_vectors[:, 0] = 0.0
        n_slopes = self.order // 2
        self.to_vectors[:n_slopes, 0] = torch.tensor(
            newton_slopes(self.order), dtype=torch.float32
        )
        self.input.weight *= 0.7
        self.head.weight *= 0.1
        self.head.bias.zero_()
        self.head.bias[-3:] = torch.tensor([-2.0, -3.0, -3.0])
        # Memory lasts for about seven voxel edges.
        self.gru.from_state.bias[self.memory : 2 * self.memory] = -2.0
        self.forgets.bias.fill_(-2.0)

    @torch.jit.export
    def init_state(self, n: int) -> Tensor:
        """Return a fresh state for n streamlines."""
        return torch.zeros(1, n, self.n_state, device=self.head.bias.device)

    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor, inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the next directions of n streamlines, and their states.

        ``direction`` is not used, as the incoming direction is z of the moving frame.
        """
        answer, beliefs, state = self.believe(features, state, inputs)
        if self.declared:
            chances = torch.sigmoid(beliefs[:, 1:])
            answer = torch.cat([answer, beliefs[:, :1], chances], dim=1)
        return answer, state

    def believe(
        self, features: Tensor, state: Tensor, inputs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return directions and beliefs at n points.

        Parameters
        ----------
        features : torch.Tensor of shape (n, C)
        state : torch.Tensor of shape (1, n, n_state)
        inputs : torch.Tensor of shape (n, 5)

        Returns
        -------
        direction : torch.Tensor of shape (n, 3)
            Unit vectors in the moving frames.
        beliefs : torch.Tensor of shape (n, 3)
            The spread of the direction: the scale in radians of its errors
            (:class:`dipy_rnn.draws.DirectionErrors`). The logit of the probability that
            the fibre has ended. The logit of the probability that the streamline has
            left its bundle.
        state : torch.Tensor of shape (1, n, n_state)
        """
        step, ahead = inputs[:, :1], inputs[:, 2:5]
        scalars, vectors, double = self.split(features)
        vectors = torch.cat([vectors @ self.to_vectors, ahead[:, :2, None]], dim=2)
        double = self._shorten(double @ self.to_twofold)
        known = state[0, :, : self.memory]
        remembered = state[0, :, self.memory :].reshape(-1, 2, self.n_remembered)

        # Numbers that do not depend on the roll.
        short = self._shorten(torch.cat([vectors, remembered], dim=2))
        x, y = short[:, 0], short[:, 1]
        inner = x[:, :, None] * x[:, None] + y[:, :, None] * y[:, None]
        inner = inner.flatten(1).index_select(1, self.couples)
        squared = torch.stack([x * x - y * y, 2 * x * y], dim=1)
        twice = torch.einsum("nka,nkb->nab", squared, double).flatten(1)
        lengths = (double * double).sum(1)
        conditions = torch.cat(
            [torch.log(step), torch.deg2rad(inputs[:, 1:2]), ahead[:, 2:]], dim=1
        )
        invariants = torch.cat([scalars, conditions, inner, twice, lengths], dim=1)

        seen = nn.functional.leaky_relu(self.input(invariants), 0.1)
        seen = seen + nn.functional.leaky_relu(self.deeper(seen), 0.1)
        known = self.gru(self.gru.from_input(seen), known, step)
        rate = torch.exp(torch.clamp(self.forgets(seen), max=self.gru.rate_limit))
        kept = torch.exp(-rate * step).unsqueeze(1)
        new = vectors @ self.to_remembered
        remembered = new + kept * (remembered - new)

        joined = self.joined(torch.cat([seen, known], dim=1))
        factors = self.head(nn.functional.leaky_relu(joined, 0.1))
        everything = torch.cat([vectors, remembered], dim=2)
        across = (factors[:, None, : self.n_all] * everything).sum(2)
        along = torch.exp(torch.clamp(factors[:, self.n_all], -2.0, 2.0))
        direction = torch.cat(
            [ahead[:, :2] + across, ahead[:, 2:] * along[:, None]], dim=1
        )
        low, high = self.spread_range
        spread = low + (high - low) * torch.sigmoid(factors[:, -3:-2])
        return (
            nn.functional.normalize(direction, dim=1),
            torch.cat([spread, factors[:, -2:]], dim=1),
            torch.cat([known, remembered.flatten(1)], dim=1).unsqueeze(0),
        )

    def follow(self, features: Tensor, inputs: Tensor, batch_sizes: Tensor) -> Tensor:
        """Return directions along packed sequences, from fresh states. For training.

        Parameters
        ----------
        features : torch.Tensor of shape (N, C)
            Points of all sequences, packed as in
            :class:`torch.nn.utils.rnn.PackedSequence`.
        inputs : torch.Tensor of shape (N, 5)
        batch_sizes : torch.Tensor of shape (T,)

        Returns
        -------
        directions : torch.Tensor of shape (N, 3)
        """
        sizes = batch_sizes.tolist()
        state = self.init_state(sizes[0])
        directions = []
        for seen, given, n in zip(
            torch.split(features, sizes), torch.split(inputs, sizes), sizes
        ):
            direction, _, state = self.believe(seen, state[:, :n], given)
            directions.append(direction)
        return torch.cat(directions)

    def split(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split features (n, C) into scalars, vectors and double vectors.

        Returns
        -------
        scalars : torch.Tensor of shape (n, number of scalars)
        vectors, double : torch.Tensor of shape (n, 2, number of vectors)
            Components x and y across the tangent. The angle of a double vector is twice
            that of a direction across.
        """
        n = features.shape[0]
        higher = features[:, self.higher]
        scalars = [
            features[:, self.scalar],
            torch.sqrt(higher[:, 0] ** 2 + higher[:, 1] ** 2 + 1e-6),
        ]
        vectors = [features[:, self.single].reshape(n, 2, -1)]
        double = [features[:, self.twofold].reshape(n, 2, -1)]
        # Parts over a ring have their angle from the compass.
        x, y = compass(features[:, : self.n_own])
        n_values = self.n_around * self.n_coeffs
        for ring in range(self.n_rings):
            start = self.first_of_rings + ring * n_values
            around = features[:, start : start + n_values]
            around = around.reshape(n, self.n_around, self.n_coeffs)
            scalars.append(around.index_select(2, self.even).mean(1))
            vectors += self._fourier_parts(around, self.first, x, y)
            double += self._fourier_parts(around, self.second, x * x - y * y, 2 * x * y)
        return torch.cat(scalars, 1), torch.cat(vectors, 2), torch.cat(double, 2)

    def _fourier_parts(
        self, around: Tensor, factors: Tensor, cosine: Tensor, sine: Tensor
    ) -> list[Tensor]:
        """Return Fourier parts over a ring, turned by an angle: two tensors (n, 2, ..).

        ``cosine`` and ``sine`` (n,) are those of the angle.
        """
        parts = torch.einsum("ck,nkj->ncj", factors, around)
        c, s = cosine[:, None], sine[:, None]
        x, y = parts[:, 0], parts[:, 1]
        parts = torch.stack([c * x - s * y, c * y + s * x], dim=1)
        odd = parts.index_select(2, self.odd)
        return [
            parts.index_select(2, self.even),
            torch.stack([-odd[:, 1], odd[:, 0]], dim=1),
        ]

    def _shorten(self, vectors: Tensor) -> Tensor:
        """Replace lengths of vectors (n, 2, k) by their square roots, nearly."""
        square = (vectors * vectors).sum(1, keepdim=True)
        return vectors / (square + self.short) ** 0.25


def _random(n_in: int, n_out: int, scale: float) -> Tensor:
    return torch.randn(n_in, n_out) * (scale / math.sqrt(n_in))
