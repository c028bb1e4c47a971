"""The training loop."""

import time

import numpy as np
import torch

from dipy_rnn.training.losses import cosine_loss
from dipy_rnn.training.sequences import draw_batch


def fit(
    module,
    references,
    *,
    n_updates,
    step_range_mm=(0.2, 1.5),
    n_references=8,
    n_sequences=32,
    max_points=48,
    learning_rate=2e-3,
    random_seed=0,
    width_deg=None,
    blur=None,
    teacher=None,
    report=None,
):
    """Train a propagator on reference streamlines.

    Parameters
    ----------
    module : nn.Module
        One of :data:`dipy_rnn.model.ARCHITECTURES`; trained in place.
    references : list of dipy_rnn.training.sequences.Reference
    n_updates : int
        Optimiser steps: a fixed number, so that a training can be repeated.
    step_range_mm : tuple of float, optional
        Each update draws its step from this range, log-uniformly.
    n_references, n_sequences : int, optional
        References in a batch, and sequences from each.
    max_points : int, optional
        Longest sequence.
    learning_rate : float, optional
        Of Adam, at the start; it falls to zero as half a cosine.
    random_seed : int, optional
        The same seed gives the same weights on the same machine and threads.
    width_deg : tuple of float, optional
        Of :func:`dipy_rnn.training.losses.cosine_loss`, at the start and at the end;
        None for the plain loss. For a network that answers well already, as an
        untrained ``RecurrentPropagator`` does: large errors teach it nothing.
    blur, teacher : optional
        As for :func:`dipy_rnn.training.sequences.draw_batch`.
    report : callable, optional
        Called with a line of text every 200 updates.

    Returns
    -------
    error_deg : float
        Mean angular error of the last 200 updates.

    Raises
    ------
    FloatingPointError
        If the loss is not finite; the module is left as it was before the update.

    Examples
    --------
    >>> from dipy_rnn.model import RecurrentPropagator
    >>> from dipy_rnn.training.sequences import Reference
    >>> line = np.column_stack([np.linspace(1, 9, 30), np.full(30, 5), np.full(30, 5)])
    >>> data = np.random.default_rng(0).normal(size=(10, 10, 10, 15))
    >>> reference = Reference(data.astype(np.float32), np.eye(4), [line])
    >>> error = fit(RecurrentPropagator(4, 8), [reference], n_updates=2)
    >>> error < 90
    True
    """
    torch.manual_seed(random_seed)
    rng = np.random.default_rng(random_seed)
    optimiser = torch.optim.Adam(module.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_updates)
    module.train()
    recent, start = [], time.perf_counter()
    for update in range(1, n_updates + 1):
        chosen = rng.choice(len(references), min(n_references, len(references)), False)
        step_mm = float(np.exp(rng.uniform(*np.log(step_range_mm))))
        batch = draw_batch(
            [references[i] for i in chosen],
            n_sequences,
            frame=module.frame,
            step_mm=step_mm,
            max_points=max_points,
            rng=rng,
            blur=blur,
            teacher=teacher,
        )
        predicted = predict(module, batch)
        width = width_deg and np.interp(update, [1, n_updates], width_deg)
        loss = cosine_loss(predicted, batch.target, width_deg=width)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"The loss is {loss.item()} at update {update}; lower learning_rate."
            )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            cosine = (predicted * batch.target).sum(dim=1).clamp(-1, 1)
            recent.append(torch.rad2deg(torch.arccos(cosine)).mean().item())
        if report and update % 200 == 0:
            report(
                f"update {update} of {n_updates}: "
                f"error {np.mean(recent[-200:]):.2f} degrees, "
                f"{time.perf_counter() - start:.0f} s"
            )
    module.eval()
    return float(np.mean(recent[-200:]))


def predict(module, batch):
    """Run a propagator over a batch of packed sequences.

    Parameters
    ----------
    module : nn.Module
        One of :data:`dipy_rnn.model.ARCHITECTURES`.
    batch : dipy_rnn.training.sequences.Batch

    Returns
    -------
    directions : torch.Tensor of shape (N, 3)
        Unit vectors in the order of the batch.

    Examples
    --------
    >>> from dipy_rnn.model import RecurrentPropagator
    >>> from dipy_rnn.training.sequences import Batch
    >>> x = torch.zeros(3, 3)
    >>> batch = Batch(torch.ones(3, 15), x, x, torch.tensor([2, 1]))
    >>> predict(RecurrentPropagator(4, 8), batch).shape
    torch.Size([3, 3])
    """
    seen, context = module.encode(batch.features, batch.incoming)
    memory, _ = module.gru(batch.pack(seen))
    return module.decode(seen, memory.data, context)
