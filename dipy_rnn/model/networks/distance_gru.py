"""A GRU cell whose memory lasts for a distance, not for a number of steps."""

import torch
from torch import Tensor, nn

from dipy_rnn.model.architectures.moving_frame import RATE_LIMIT


class DistanceGRU(nn.Module):
    """A GRU cell whose state decays with the distance, not with the number of steps.

    A GRU moves its state towards a candidate, and keeps a share of the old state. Here
    the share is exp(-rate * step). The network computes the rate. While rate and
    candidate are constant, two steps of half the size give the same state as one step.
    The reset gate and the candidate are those of :class:`torch.nn.GRUCell`.

    Parameters
    ----------
    hidden : int
        Width of the state.
    n_in : int, optional
        Width of the input. Default: that of the state.

    Examples
    --------
    >>> cell = DistanceGRU(8)
    >>> seen, state = cell.from_input(torch.ones(1, 8)), torch.zeros(1, 8)
    >>> cell(seen, state, torch.tensor([[0.5]])).shape
    torch.Size([1, 8])
    """

    def __init__(self, hidden: int, n_in: int | None = None) -> None:
        super().__init__()
        self.rate_limit = RATE_LIMIT
        self.from_input = nn.Linear(hidden if n_in is None else n_in, 3 * hidden)
        self.from_state = nn.Linear(hidden, 3 * hidden)

    def forward(self, seen: Tensor, state: Tensor, step: Tensor) -> Tensor:
        """Return the new states (n, hidden).

        ``seen`` (n, 3 hidden) is ``from_input`` of the cell's input, and ``step``
        (n, 1) is the step size in voxel edges.
        """
        kept = self.from_state(state)
        of_seen, of_kept = seen.chunk(3, dim=1), kept.chunk(3, dim=1)
        reset = torch.sigmoid(of_seen[0] + of_kept[0])
        rate = torch.exp(torch.clamp(of_seen[1] + of_kept[1], max=self.rate_limit))
        candidate = torch.tanh(of_seen[2] + reset * of_kept[2])
        return candidate + torch.exp(-rate * step) * (state - candidate)
