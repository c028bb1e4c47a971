"""The loss and the loop of a training in which the network tracks worlds itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import math
import time

import numpy as np
import torch
from torch import Tensor, nn

from dipy_rnn._checks import check_installed
from dipy_rnn._typing import FloatArray
from dipy_rnn.draws import FREEDOM
from dipy_rnn.model import ContextGRU
from dipy_rnn.training.free_running.follow import (
    Conditions,
    Followed,
    Streamlines,
    follow,
)
from dipy_rnn.training.free_running.world import KnownWorld, KnownWorlds

# Weight of the loss of the two probabilities.
_OF_BELIEFS = 0.5
_LARGEST_GRADIENT = 1.0
_WARM_UP = 50  # updates in which the learning rate rises
# Of the means of gradients and of their squares.
_DECAY_RATES = 0.95, 0.98


@dataclass(frozen=True)
class FreeRunningRecipe:
    """Options of a training in which the network tracks worlds itself.

    Parameters
    ----------
    n_updates : int, optional
        Number of optimiser steps.
    n_worlds, n_each : int, optional
        Number of worlds in a batch, and of streamlines in each of them.
    n_points : int, optional
        Number of steps in a batch, through which gradients flow.
    n_batches : int, optional
        Number of batches for which streamlines go on in a world. So the network learns
        from longer memories than one batch has steps.
    step_vox : tuple of float, optional
        Range in voxel edges from which the step in a world is drawn, log-uniformly.
    max_angle_deg : tuple of float, optional
        Range in degrees from which the angle of the cone in a world is drawn, in whole
        degrees.
    learning_rate : float, optional
        Learning rate of SOAP. It falls to zero as half a cosine.
    random_seed : int, optional
        The same seed gives the same weights on the same machine.

    Examples
    --------
    >>> FreeRunningRecipe(n_updates=10).n_worlds
    8
    """

    n_updates: int = 16000
    n_worlds: int = 8
    n_each: int = 32
    n_points: int = 16
    n_batches: int = 8
    step_vox: tuple[float, float] = (0.05, 1.0)
    max_angle_deg: tuple[float, float] = (15.0, 90.0)
    learning_rate: float = 5e-3
    random_seed: int = 0

    def draw_conditions(self, rng: np.random.Generator) -> Conditions:
        """Draw the conditions of the streamlines in a world.

        Parameters
        ----------
        rng : numpy.random.Generator

        Returns
        -------
        conditions : Conditions

        Examples
        --------
        >>> rng = np.random.default_rng(0)
        >>> FreeRunningRecipe(step_vox=(0.5, 0.5)).draw_conditions(rng).step_vox
        0.5
        """
        step_vox = np.exp(rng.uniform(*np.log(self.step_vox)))
        max_angle_deg = np.round(rng.uniform(*self.max_angle_deg))
        return Conditions(float(step_vox), float(max_angle_deg))


def fit_free_running(
    module: ContextGRU,
    worlds: Sequence[KnownWorld],
    chances: FloatArray,
    recipe: FreeRunningRecipe,
    *,
    report: Callable[[dict[str, float]], object] | None = None,
    report_every: int = 50,
) -> dict[str, float]:
    """Train a network that tracks worlds itself.

    The optimiser is SOAP (Vyas et al., "SOAP: Improving and stabilizing Shampoo using
    Adam", ICLR 2025): Adam in the eigenbases of the covariances of the gradients.

    Parameters
    ----------
    module : dipy_rnn.model.ContextGRU
        Trained in place.
    worlds : sequence of W KnownWorld
    chances : ndarray of shape (W,)
        The probability of each world.
    recipe : FreeRunningRecipe
    report : callable, optional
        Called after every ``report_every`` updates with means over these updates.

    Returns
    -------
    last : dict of str to float
        The last means: ``update``, ``loss``, ``error_deg`` (of the direction, while the
        streamline follows its bundle), ``lost`` (the share of points at which it does
        not).

    Raises
    ------
    FloatingPointError
        If the loss is not finite.
    ValueError
        If pytorch_optimizer is not installed.

    Examples
    --------
    >>> from dipy_rnn import sampling
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> phantom = crossing_phantom(90)
    >>> data = sampling.with_order(sampling.fodf_features(phantom.fodf()).data, 8)
    >>> world = KnownWorld.of_phantom(phantom, data, 50, random_seed=0)
    >>> recipe = FreeRunningRecipe(n_updates=2, n_worlds=1, n_each=4, n_points=3)
    >>> last = fit_free_running(ContextGRU(), [world], np.ones(1), recipe)
    >>> last["update"]
    2
    """
    check_installed(["pytorch_optimizer"], "A free-running training", "models")
    from pytorch_optimizer import SOAP  # its import takes seconds

    rng = np.random.default_rng(recipe.random_seed)
    optimiser = SOAP(module.parameters(), betas=_DECAY_RATES, weight_decay=0.0)
    streamlines = Streamlines(
        KnownWorlds(worlds), module, recipe.n_worlds, recipe.n_each, rng
    )
    module.train()
    sums, n_sums, last = np.zeros(3), 0, {}
    start = time.process_time()
    for update in range(1, recipe.n_updates + 1):
        rate = recipe.learning_rate * min(1.0, update / _WARM_UP)
        rate *= (1 + math.cos(math.pi * (update - 1) / recipe.n_updates)) / 2
        for parameters in optimiser.param_groups:
            parameters["lr"] = rate
        for group in range(recipe.n_worlds):
            if update == 1 or (update + group) % recipe.n_batches == 0:
                number = int(rng.choice(len(worlds), p=chances))
                streamlines.enter(group, number, recipe.draw_conditions(rng))
        followed = follow(module, streamlines, recipe.n_points)
        loss = loss_of(followed)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"The loss of update {update} is not finite.")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), _LARGEST_GRADIENT)
        optimiser.step()
        sums += _metrics(followed, loss)
        n_sums += 1
        if update % report_every == 0 or update == recipe.n_updates:
            values = (sums / n_sums).tolist()
            last = {"update": update, "cpu_minutes": (time.process_time() - start) / 60}
            last |= dict(zip(("loss", "error_deg", "lost"), values, strict=True))
            sums, n_sums = np.zeros(3), 0
            if report:
                report(last)
    module.eval()
    return last


def loss_of(followed: Followed) -> Tensor:
    """Return the loss of a batch.

    Parameters
    ----------
    followed : Followed

    Returns
    -------
    loss : torch.Tensor
        The sum of two parts. The mean negative logarithm of the likelihood of the
        bundle's direction, where the streamline follows its bundle. The likelihood is
        that of the errors that probabilistic tracking draws
        (:class:`dipy_rnn.draws.DirectionErrors`). Half the mean cross entropies of the
        two probabilities, where there is an fODF.

    Examples
    --------
    >>> z, ones = torch.tensor([[0.0, 0, 1]]), torch.ones(1).bool()
    >>> beliefs = torch.tensor([[0.1, -30.0, -30.0]])
    >>> same = Followed(z, beliefs, z, ones, ~ones, ~ones, ones)
    >>> turned = Followed(z, beliefs, z.flip(1), ones, ~ones, ~ones, ones)
    >>> loss_of(same).item() < loss_of(turned).item()
    True
    """
    on = followed.on_bundle
    variance = followed.beliefs[on, 0] ** 2
    square = ((followed.directions - followed.targets)[on] ** 2).sum(dim=1)
    power = (FREEDOM + 2) / 2 * torch.log1p(square / (FREEDOM * variance))
    loss = (power + torch.log(2 * math.pi * variance)).mean()
    seen = followed.with_data
    for column, happened in ((1, followed.ended), (2, followed.lost)):
        loss = loss + _OF_BELIEFS * nn.functional.binary_cross_entropy_with_logits(
            followed.beliefs[seen, column], happened[seen].float()
        )
    return loss


@torch.no_grad()
def _metrics(followed: Followed, loss: Tensor) -> FloatArray:
    on = followed.on_bundle
    cosine = (followed.directions * followed.targets)[on].sum(dim=1).clamp(-1, 1)
    error = torch.rad2deg(torch.arccos(cosine)).mean()
    return np.array([loss.item(), error.item(), followed.lost.float().mean().item()])
