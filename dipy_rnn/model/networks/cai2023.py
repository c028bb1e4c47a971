"""The network of Cai et al. (MIDL 2023), with directions along the voxel axes.

It follows the contract of a model file (:mod:`dipy_rnn.model.file`). A step is split
into ``encode``, a GRU and ``decode``, as in ``moving_frame.py``.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


class Cai2023(nn.Module):
    """The network of Cai et al. (MIDL 2023), with directions along the voxel axes.

    It has an input layer, four hidden layers of width 512 with leaky rectifiers, and
    two GRU layers of width 512. A head computes azimuth and elevation from the outputs
    of the hidden layers and of the GRU. Two things differ from the published code.
    LayerNorm replaces a BatchNorm that uses the statistics of the batch, because with
    BatchNorm a streamline depends on the other streamlines of its batch. The incoming
    direction is an input, because without it the sign of the first step is undefined.

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
    >>> model = Cai2023(order=4, hidden=8)
    >>> direction, state = model(torch.zeros(2, 15), torch.zeros(2, 3),
    ...                          model.init_state(2), torch.zeros(2, 0))
    >>> direction.shape, state.shape
    (torch.Size([2, 3]), torch.Size([2, 2, 8]))
    """

    #: Frame of its features and directions, as in the metadata of a model file.
    frame = "voxel"
    #: Its declared inputs, as in the metadata of a model file.
    inputs = ()
    #: It returns nothing beside a direction.
    outputs = ()
    #: It gets no fODF around its point.
    context = None
    #: Warm-up points before the backward half: all points of the forward half.
    replay_points: ClassVar[int | None] = None
    #: Differences from the defaults of :class:`dipy_rnn.training.Recipe`. An untrained
    #: network has large errors, where the gradient of the robust loss vanishes.
    recipe: ClassVar[dict[str, Any]] = {"learning_rate": 3e-4, "width_deg": None}

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
        self, features: Tensor, direction: Tensor, state: Tensor, inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the next directions of n streamlines. ``inputs`` (n, 0) is empty."""
        encoded, context = self.encode(features, direction, inputs)
        memory, state = self.gru(encoded.unsqueeze(0), state)
        return self.decode(encoded, memory[0], context), state

    def encode(
        self, features: Tensor, direction: Tensor, inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the input of the GRU (n, hidden), and the given direction (n, 3)."""
        return self.mlp(torch.cat([features, direction], dim=1)), direction

    def recall(self, encoded: Tensor, inputs: Tensor, batch_sizes: Tensor) -> Tensor:
        """Run the GRU over packed sequences, from fresh states. Only for training.

        ``encoded`` and the result are (N, hidden), packed
        (:class:`torch.nn.utils.rnn.PackedSequence`).
        """
        memory: PackedSequence = self.gru(PackedSequence(encoded, batch_sizes))[0]
        return memory.data

    def decode(self, encoded: Tensor, memory: Tensor, context: Tensor) -> Tensor:
        """Return unit directions (n, 3), in components along the voxel axes.

        ``encoded`` and ``memory`` are the input and the output of the GRU (n, hidden).
        ``context`` is the second output of ``encode``. It is not used here.
        """
        angles = self.head(torch.cat([encoded, memory], dim=1))
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
