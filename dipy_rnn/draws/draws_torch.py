"""Draws as torch operations, on any device."""

import math

import torch
from torch import Tensor

from dipy_rnn.draws.errors import FREEDOM, DirectionErrors


def add_errors(
    errors: DirectionErrors, answers: Tensor, keys: Tensor, numbers: Tensor
) -> Tensor:
    """Return directions with random errors, as :meth:`DirectionErrors.add`.

    Parameters
    ----------
    errors : dipy_rnn.draws.DirectionErrors
    answers : torch.Tensor of shape (N, C)
    keys, numbers : torch.Tensor of shape (N,)
        int64. The bits of a key are those of the uint64.

    Returns
    -------
    answers : torch.Tensor of shape (N, C)

    Examples
    --------
    >>> answers = torch.tensor([[0.0, 0, 1, 0.1]])
    >>> one = torch.ones(1, dtype=torch.int64)
    >>> same = add_errors(DirectionErrors(3, 0.0, 0.5), answers, one, one)
    >>> same.tolist() == answers.tolist()
    True
    """
    arc = (numbers.abs() - 1).double() * errors.step_knots
    knot = torch.floor(arc)
    part = (0.5 * math.pi * (arc - knot))[:, None]
    base, place = mix(keys + 1), 2 * knot.long() + (numbers < 0)
    error = torch.cos(part) * _knot(base, place)
    error = error + torch.sin(part) * _knot(base, place + 2)
    size = errors.scale * answers[:, errors.column, None].double()
    across = answers[:, :2] + (size * error).float()
    return torch.cat([across, answers[:, 2:]], dim=1)


def _knot(base: Tensor, place: Tensor) -> Tensor:
    """Return the draw of a knot for each row (n, 2)."""
    state = mix(base + GOLDEN * place)
    power = (1.0 - draw(state + GOLDEN)) ** (-2.0 / FREEDOM)
    radius = torch.sqrt(FREEDOM * (power - 1.0))
    angle = 2.0 * math.pi * draw(state + GOLDEN + GOLDEN)
    return radius[:, None] * torch.stack([torch.cos(angle), torch.sin(angle)], dim=1)


def _signed(bits: int) -> int:
    """Return the int64 of the same 64 bits."""
    return (bits + 2**63) % 2**64 - 2**63


# SplitMix64 as in _draws.pxd. Torch has no uint64 arithmetic. int64 arithmetic gives
# the same bits, as it wraps around at an overflow.
GOLDEN = _signed(0x9E3779B97F4A7C15)


def mix(bits: Tensor) -> Tensor:
    """Mix 64 bits by a bijection."""
    bits = (bits ^ _shift(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shift(bits, 27)) * _signed(0x94D049BB133111EB)
    return bits ^ _shift(bits, 31)


def draw(state: Tensor) -> Tensor:
    """Draw from [0, 1): the top 53 bits of a state, mixed."""
    return _shift(mix(state), 11).double() * 2.0**-53


def _shift(bits: Tensor, n: int) -> Tensor:
    """Shift right, and fill with zeros."""
    return (bits >> n) & ((1 << (64 - n)) - 1)
