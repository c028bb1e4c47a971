"""The criteria of ``criteria.py``, and ``OwnGridCriterion``, as torch operations.

They run on any device of torch. Any other criterion is evaluated on the host. This is
slow on a GPU, as all points are copied at each step.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from dipy_rnn.draws.draws_torch import GOLDEN, draw, mix
from dipy_rnn.sampling.interpolate_torch import TorchVolume
from dipy_rnn.stopping.criteria import (
    ActStoppingCriterion,
    BinaryStoppingCriterion,
    CmcStoppingCriterion,
    ThresholdStoppingCriterion,
    decompose,
)
from dipy_rnn.stopping.evaluate import StoppingCriterion, evaluate_criterion
from dipy_rnn.stopping.reasons import StopReason
from dipy_rnn.stopping.wrappers import OwnGridCriterion

#: A criterion on a device. Its arguments are points in voxels (n, 3), a mask of the
#: points to evaluate (n,), and seed keys (n,) and point numbers (n,) as in
#: evaluate_criterion. It returns reasons (n,), which are valid only inside the mask.
TorchCriterion: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def criterion_on(device: torch.device, criterion: StoppingCriterion) -> TorchCriterion:
    """Return a function that evaluates a criterion at tensors on a device.

    Parameters
    ----------
    device : torch.device
    criterion : dipy_rnn.stopping.StoppingCriterion

    Returns
    -------
    evaluate : callable
        A ``TorchCriterion``.

    Examples
    --------
    >>> criterion = BinaryStoppingCriterion(np.ones((2, 2, 2)))
    >>> evaluate = criterion_on(torch.device("cpu"), criterion)
    >>> points, ones = torch.tensor([[0.0, 0, 0], [9.0, 0, 0]]), torch.ones(2).long()
    >>> [StopReason(r).name for r in evaluate(points, ones > 0, ones, ones).tolist()]
    ['RUNNING', 'OUTSIDE_IMAGE']
    """
    kind, maps, parameters = decompose(criterion)
    if kind is not None and all(each.shape == maps[0].shape for each in maps):
        volume = TorchVolume(np.stack(maps, axis=3), device)
        return partial(_CHECKS[kind], volume, *parameters)
    if type(criterion) is OwnGridCriterion:
        matrix = torch.as_tensor(criterion.to_own_grid[:3], device=device)
        last = torch.as_tensor(criterion.shape, device=device) - 0.5
        own = criterion_on(device, criterion.criterion)
        return partial(_check_on_own_grid, own, matrix, last)
    return partial(_check_on_host, criterion)


def _check_threshold(
    volume: TorchVolume,
    threshold: float,
    points: Tensor,
    running: Tensor,
    seed_keys: Tensor,
    numbers: Tensor,
) -> Tensor:
    value, inside = volume.sample(points)
    ends = ~(value[:, 0] > threshold)  # also for NaN
    return ends.long().masked_fill(~inside, StopReason.OUTSIDE_IMAGE)


def _check_binary(
    volume: TorchVolume,
    points: Tensor,
    running: Tensor,
    seed_keys: Tensor,
    numbers: Tensor,
) -> Tensor:
    value, inside = volume.nearest(points)
    return (value[:, 0] == 0).long().masked_fill(~inside, StopReason.OUTSIDE_IMAGE)


def _check_act(
    volume: TorchVolume,
    points: Tensor,
    running: Tensor,
    seed_keys: Tensor,
    numbers: Tensor,
) -> Tensor:
    shares, inside = volume.sample(points)
    include, exclude = (shares > 0.5).unbind(1)
    reasons = torch.zeros_like(numbers)
    reasons = reasons.masked_fill(exclude, StopReason.INVALID_POINT)
    reasons = reasons.masked_fill(include, StopReason.ENDPOINT)
    return reasons.masked_fill(~inside, StopReason.OUTSIDE_IMAGE)


def _check_cmc(
    volume: TorchVolume,
    exponent: float,
    points: Tensor,
    running: Tensor,
    seed_keys: Tensor,
    numbers: Tensor,
) -> Tensor:
    shares, inside = volume.sample(points)
    include, exclude = shares.unbind(1)
    tissue = include + exclude
    rest = (1.0 - include - exclude).clamp(min=0)
    state = mix(seed_keys + GOLDEN * numbers)
    first, second = draw(state + GOLDEN), draw(state + GOLDEN + GOLDEN)
    # A comparison with NaN is false, so such a point becomes invalid.
    continues = (tissue <= 0) | (
        first < (rest / (rest + include + exclude)) ** exponent
    )
    reasons = torch.full_like(numbers, StopReason.INVALID_POINT)
    reasons = reasons.masked_fill(second < include / tissue, StopReason.ENDPOINT)
    reasons = reasons.masked_fill(continues, StopReason.RUNNING)
    return reasons.masked_fill(~inside, StopReason.OUTSIDE_IMAGE)


def _check_on_own_grid(
    own: TorchCriterion,
    matrix: Tensor,
    last: Tensor,
    points: Tensor,
    running: Tensor,
    seed_keys: Tensor,
    numbers: Tensor,
) -> Tensor:
    inside = ((points >= -0.5) & (points < last)).all(dim=1)
    points = points.to(matrix.dtype) @ matrix[:, :3].T + matrix[:, 3]
    reasons = own(points, running & inside, seed_keys, numbers)
    return reasons.masked_fill(~inside, StopReason.OUTSIDE_IMAGE)


def _check_on_host(
    criterion: StoppingCriterion,
    points: Tensor,
    running: Tensor,
    seed_keys: Tensor,
    numbers: Tensor,
) -> Tensor:
    reasons = (~running).long().cpu().numpy()
    evaluate_criterion(
        criterion,
        points.cpu().numpy(),
        reasons,
        seed_keys.cpu().numpy().view(np.uint64),
        numbers.cpu().numpy(),
    )
    return torch.from_numpy(reasons).to(points.device)


_CHECKS: dict[type[StoppingCriterion], Callable[..., Tensor]] = {
    ThresholdStoppingCriterion: _check_threshold,
    BinaryStoppingCriterion: _check_binary,
    ActStoppingCriterion: _check_act,
    CmcStoppingCriterion: _check_cmc,
}
