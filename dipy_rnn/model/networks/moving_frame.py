"""A GRU in the moving frame. Its directions do not depend on the roll of the frame.

It follows the contract of a model file (:mod:`dipy_rnn.model.file`)::

    init_state(n) -> state                            (layers, n, hidden), zeros
    forward(features, direction, state, inputs)       (n, C), (n, 3), .., (n, 5)
        -> direction, state

Its declared inputs are the step size in voxel edges, ``max_angle`` in degrees, and the
direction ``ahead`` of the fODF's largest value in the cone
(:mod:`dipy_rnn.sampling.cone`).

A step is split into ``encode``, a GRU and ``decode``. Training can then encode and
decode whole batches, and run only the GRU point by point. In shapes, n is the number of
streamlines, C the number of coefficients, K = order / 2 the number of slopes, and S the
number of invariants.

``_moving_frame.pyx`` computes the same in a kernel (a compiled function).
"""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dipy_rnn.model.architectures.moving_frame import FrameConstants
from dipy_rnn.model.networks.distance_gru import DistanceGRU


class MovingFrameGRU(nn.Module):
    """A GRU in the moving frame. Its directions do not depend on the roll of the frame.

    **Input.** If the frame is rotated about the tangent by an angle, the pair of
    coefficients of +m and -m rotates by m times this angle. The network gets only
    numbers that do not change (*invariants*):

    - the coefficients of m = 0;
    - the power of each pair of +m and -m;
    - each pair, rotated by m times the angle of a reference axis. There are two
      reference axes;
    - the conditions of the run: the logarithm of the step size in voxel edges, and
      ``max_angle`` in radians;
    - the direction ``ahead`` of the fODF's largest value in the cone: its components
      along and across the tangent, and those along and across each reference axis.

    The *slope* of l = 2, 4 .. is its pair of m = 1, scaled: a vector perpendicular to
    the tangent, in the direction in which this part of the fODF increases. The first
    reference axis is the direction of the sum of the slopes. The second one is the
    direction of the slope of l = 2. At a peak the sum is zero and the first axis is not
    defined, but the second one still points to other fibres nearby. If the vector from
    which an axis is made is short, the angle of the axis is uncertain. The axis, and
    the pairs that are rotated to it, are therefore scaled towards zero. Otherwise
    rounding errors would change the input of the network.

    **Output.** The step is ``ahead`` plus a deviation, scaled to length 1. The
    deviation is the sum of these vectors, each multiplied by a *factor*: the slopes,
    the reference axes, ``ahead`` and the tangent. The part of a vector that is
    perpendicular to the tangent has a second factor, for the same vector rotated by 90
    degrees. The direction therefore rotates with the frame. If all factors are zero,
    the network is deterministic tracking. In a straight bundle, the tangent is at the
    peak of a symmetric lobe. There all vectors but the tangent and ``ahead``, which are
    equal, are zero. A straight bundle is therefore tracked without drift for any
    weights.

    **Memory.** The state of a GRU decays at each step. Here it decays with the distance
    (:class:`DistanceGRU`), so that the memory does not depend on the step size.

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
    ...                          model.init_state(1),
    ...                          torch.tensor([[0.5, 30.0, 0.0, 0.0, 1.0]]))
    >>> direction.tolist()
    [[0.0, 0.0, 1.0]]
    """

    #: Frame of its features and directions, as in the metadata of a model file.
    frame = "local"
    #: Its declared inputs, as in the metadata of a model file.
    inputs = ("step_vox", "max_angle_deg", "ahead")
    #: It returns nothing beside a direction.
    outputs = ()
    #: It gets no fODF around its point.
    context = None
    #: No warm-up points before the backward half (doc/design.md).
    replay_points: ClassVar[int | None] = 0
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
        self.n_vectors = constants.n_vectors
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
        self.gru = nn.ModuleList(DistanceGRU(hidden) for _ in range(layers))
        self.joined = nn.Linear(2 * hidden, hidden)
        self.head = nn.Linear(hidden, constants.n_factors)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @torch.jit.export
    def init_state(self, n: int) -> Tensor:
        """Return a fresh state for n streamlines."""
        return torch.zeros(self.layers, n, self.hidden, device=self.slope.device)

    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor, inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the next directions of n streamlines, and their states.

        ``direction`` is not used, as the incoming direction is z of the moving frame.
        ``inputs`` (n, 5) are the declared inputs.
        """
        encoded, context = self.encode(features, direction, inputs)
        states: list[Tensor] = []
        memory = encoded
        for k, layer in enumerate(self.gru):
            # The items of a ModuleList have no type.
            seen = layer.from_input(memory)  # type: ignore[operator]
            memory = layer(seen, state[k], inputs[:, :1])
            states.append(memory)
        return self.decode(encoded, memory, context), torch.stack(states)

    def encode(
        self, features: Tensor, direction: Tensor, inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the input of the GRU (n, hidden), and vectors (n, 3, K + 4).

        The vectors are those of :meth:`invariants`.
        """
        invariants, vectors = self.invariants(features, inputs)
        encoded = nn.functional.leaky_relu(self.input(invariants), 0.1)
        for layer in self.deeper:
            encoded = encoded + nn.functional.leaky_relu(layer(encoded), 0.1)
        return encoded, vectors

    def decode(self, encoded: Tensor, memory: Tensor, vectors: Tensor) -> Tensor:
        """Return unit directions (n, 3) in the moving frame.

        ``encoded`` and ``memory`` are the input and the output of the GRU (n, hidden).
        """
        joined = self.joined(torch.cat([encoded, memory], dim=1))
        factors = self.head(nn.functional.leaky_relu(joined, 0.1))
        along = factors[:, : self.n_vectors]
        across = factors[:, self.n_vectors :]
        x, y, z = vectors[:, 0], vectors[:, 1], vectors[:, 2]
        # The tangent has no part across, and its factor is the last one.
        turned_x, turned_y = x[:, :-1], y[:, :-1]
        direction = torch.stack(
            [
                (along * x).sum(1) - (across * turned_y).sum(1) + x[:, -2],
                (along * y).sum(1) + (across * turned_x).sum(1) + y[:, -2],
                (along * z).sum(1) + z[:, -2],
            ],
            dim=1,
        )
        return nn.functional.normalize(direction, dim=1)

    def recall(self, encoded: Tensor, inputs: Tensor, batch_sizes: Tensor) -> Tensor:
        """Run the GRU over packed sequences, from fresh states. Only for training.

        Parameters
        ----------
        encoded : torch.Tensor of shape (N, hidden)
            Points of all sequences, packed as in
            :class:`torch.nn.utils.rnn.PackedSequence`.
        inputs : torch.Tensor of shape (N, 5)
        batch_sizes : torch.Tensor of shape (T,)

        Returns
        -------
        memory : torch.Tensor of shape (N, hidden)
        """
        sizes = batch_sizes.tolist()
        steps = torch.split(inputs[:, :1], sizes)
        memory = encoded
        for layer in self.gru:
            state = encoded.new_zeros(sizes[0], self.hidden)
            states = []
            # The items of a ModuleList have no type.
            whole = layer.from_input(memory)  # type: ignore[operator]
            for seen, step, n in zip(torch.split(whole, sizes), steps, sizes):
                state = layer(seen, state[:n], step)
                states.append(state)
            memory = torch.cat(states)
        return memory

    def invariants(self, features: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return invariants of the roll (n, S), and vectors (n, 3, K + 4).

        The vectors are the K slopes, the two reference axes, ``ahead`` and the tangent.
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
        ahead = inputs[:, 2:5].unsqueeze(2)
        x, y = ahead[:, 0], ahead[:, 1]
        invariants = torch.cat(
            [
                features.index_select(1, self.even),
                plus * plus + minus * minus,
                (p * cosine + q * sine).flatten(1),
                (q * cosine - p * sine).flatten(1),
                torch.log(inputs[:, :1]),
                torch.deg2rad(inputs[:, 1:2]),
                ahead[:, 2],
                torch.sqrt(x * x + y * y),
                x * axes[:, 0] + y * axes[:, 1],
                y * axes[:, 0] - x * axes[:, 1],
            ],
            dim=1,
        )
        flat = torch.cat([slopes, axes], dim=2)
        flat = torch.cat([flat, torch.zeros_like(flat[:, :1])], dim=1)
        tangent = torch.zeros_like(ahead)
        tangent[:, 2] = 1.0
        return invariants, torch.cat([flat, ahead, tangent], dim=2)
