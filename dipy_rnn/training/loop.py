"""The training loop."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
import math
import signal
import threading
import time
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from dipy_rnn._typing import AnyPath
from dipy_rnn.model import Network, architecture_of
from dipy_rnn.training.state import load_checkpoint, save_checkpoint
from dipy_rnn.training.losses import cosine_loss
from dipy_rnn.training.processes import (
    from_first,
    rank,
    sum_over_processes,
    world_size,
)
from dipy_rnn.training.recipe import TEACHERS, Recipe
from dipy_rnn.training.subjects import Reference
from dipy_rnn.training.sequences import Batch, draw, pack

_LARGEST_GRADIENT = 1.0


class Interrupted(Exception):
    """A training was stopped by a signal; its checkpoint was saved."""


def fit(
    module: Network,
    references: list[Reference],
    recipe: Recipe,
    *,
    validate: Callable[[Network], Mapping[str, float]] | None = None,
    checkpoint: AnyPath | None = None,
    resume: bool = False,
    report: Callable[[list[dict[str, float]]], object] | None = None,
    nbr_threads: int = 1,
) -> list[dict[str, float]]:
    """Train a propagator on reference streamlines.

    In a process group of :mod:`torch.distributed` each process draws its share of the
    references of a batch; the weights are those of one process, but for rounding.

    Parameters
    ----------
    module : nn.Module
        One of :data:`dipy_rnn.model.ARCHITECTURES`; trained in place, where it is. In
        the end it has the weights of the best validation.
    references : list of dipy_rnn.training.subjects.Reference
    recipe : dipy_rnn.training.recipe.Recipe
    validate : callable, optional
        Takes the module; returns a dict of figures, of which ``"followed"`` is to
        become large, with its standard error
        (:class:`dipy_rnn.training.validation.FreeRunning`). None: the last weights are
        the best.
    checkpoint : str or Path, optional
        Saved at each validation, every minute, and when SIGINT or SIGTERM end the
        training.
    resume : bool, optional
        Go on from ``checkpoint``: the weights become those of a run without a break.
    report : callable, optional
        Called with the history so far, a list of dicts, after each validation.
    nbr_threads : int, optional
        Threads that draw batches beside the network, which runs in torch's own.

    Returns
    -------
    history : list of dict
        A row for each validation: update, minutes, learning_rate, loss, error_deg and
        the figures of the validation.

    Raises
    ------
    FloatingPointError
        If the loss is not finite; the checkpoint is as it was.
    Interrupted
        If a signal ended it.
    ValueError
        If there is no reference, or the checkpoint belongs to another training.

    Examples
    --------
    >>> from dipy_rnn.model import RecurrentPropagator
    >>> from dipy_rnn.training.recipe import Recipe
    >>> from dipy_rnn.training.subjects import Reference
    >>> line = np.column_stack([np.linspace(1, 9, 30), np.full(30, 5), np.full(30, 5)])
    >>> data = np.random.default_rng(0).normal(size=(10, 10, 10, 15))
    >>> reference = Reference.of(data.astype(np.float32), np.eye(4), [line])
    >>> history = fit(RecurrentPropagator(4, 8), [reference], Recipe(n_updates=2))
    >>> history[-1]["update"], history[-1]["error_deg"] < 90
    (2, True)
    """
    if not references:
        raise ValueError("references is empty; give one at least.")
    if recipe.patience and validate is None:
        raise ValueError(
            f"patience is {recipe.patience}, but nothing is held out to validate on."
        )
    if resume and checkpoint is None:
        raise ValueError("resume needs the checkpoint to go on from.")
    training = _Training(module, references, recipe)
    if resume and checkpoint is not None:
        training.restore(load_checkpoint(checkpoint))

    def save() -> None:
        if checkpoint:
            snapshot = training.snapshot()  # all processes take part
            from_first(lambda: save_checkpoint(snapshot, checkpoint))

    def tell() -> None:
        if report:
            report(training.history)

    batches = _batches(training, max(1, nbr_threads))
    with (
        _signals() as stop,
        batches as next_batch,
        # Silent where nobody looks on.
        tqdm(
            total=recipe.n_updates,
            initial=training.update,
            unit=" updates",
            disable=None if rank() == 0 else True,
        ) as bar,
    ):
        while training.row_is_due or not training.is_over:
            minute = training.minute
            if not training.row_is_due:
                training.update_weights(next_batch(), stop)
                bar.update(training.update - bar.n)
                bar.set_postfix(training.means(), refresh=False)
            if training.stopped:
                save()
                raise Interrupted(f"update {training.update} of {recipe.n_updates}")
            if training.row_is_due:
                training.close_row(validate)
                save()
                from_first(tell)
            elif training.minute > minute:
                save()
    if training.best is not None:
        module.load_state_dict(training.best)
    module.eval()
    return training.history


class _Training:
    """What a training has come to; all of it is in a checkpoint."""

    def __init__(
        self, module: Network, references: list[Reference], recipe: Recipe
    ) -> None:
        self.module = module
        self.references = references
        self.recipe = recipe
        self.device = next(module.parameters()).device
        if world_size() > recipe.n_references:
            raise ValueError(
                f"There are {world_size()} processes, but a batch has parts for "
                f"{recipe.n_references} (n_references of its recipe); start no more."
            )
        self.optimiser = torch.optim.Adam(module.parameters(), lr=recipe.learning_rate)
        self.network: nn.Module = _Network(module)
        if world_size() > 1:
            self.network = nn.parallel.DistributedDataParallel(self.network)
        self.update = 0
        self.earlier_s = 0.0
        self.start = time.monotonic()
        self.elapsed_s = 0.0
        self.progress = 0.0
        self.sums = torch.zeros(3, dtype=torch.float64)  # loss, degrees, weight
        self.history: list[dict[str, float]] = []
        self.best: dict[str, torch.Tensor] | None = None
        self.stopped = False
        module.train()

    @property
    def is_over(self) -> bool:
        patience = self.recipe.patience
        impatient = patience and _rows_since_most(self.history) >= patience
        return self.progress >= 1 or bool(impatient)

    @property
    def row_is_due(self) -> bool:
        # Also in a training that was stopped before it could validate.
        last = self.history[-1]["update"] if self.history else 0
        validates_now = self.update % self.recipe.validate_every == 0
        return self.update > last and (validates_now or self.is_over)

    @property
    def minute(self) -> int:
        """Minutes so far, the same in all processes."""
        return int(self.elapsed_s / 60)

    def means(self) -> dict[str, str]:
        """Return loss and error in degrees since the last row, as text."""
        loss, degrees, n = self.sums.tolist()
        return {"loss": f"{loss / n:.4f}", "degrees": f"{degrees / n:.2f}"}

    def draw(self, update: int) -> Batch:
        """Draw this process's share of a batch; it depends on the update alone."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.random_seed, update])
        # Each reference once before any comes twice.
        chosen = np.resize(rng.permutation(len(self.references)), recipe.n_references)
        step_mm = float(np.exp(rng.uniform(*np.log(recipe.step_mm))))
        parts = [
            draw(
                self.references[chosen[i]],
                recipe.n_sequences,
                frame=self.module.frame,
                step_mm=step_mm,
                max_points=recipe.max_points,
                rng=np.random.default_rng([recipe.random_seed, update, i]),
                blur=recipe.blur,
                teacher=TEACHERS[recipe.teacher],
            )
            for i in range(rank(), len(chosen), world_size())
        ]
        return pack(parts)

    def update_weights(self, batch: Batch, stop: threading.Event) -> None:
        """Make one step of the optimiser."""
        recipe = self.recipe
        batch = batch.to(self.device)
        weight = torch.ones_like(batch.lengths, dtype=torch.float32)
        if recipe.weight == "streamline":
            weight = weight / batch.lengths
        # All processes agree on these.
        elapsed_s = self.earlier_s + time.monotonic() - self.start
        weight_sum, stopped, elapsed_s = sum_over_processes(
            float(weight.sum()), float(stop.is_set()), elapsed_s / world_size()
        )
        share = float(weight.sum()) / weight_sum * world_size()
        self.network.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate()
        predicted = self.network(batch)
        loss = cosine_loss(predicted, batch.target, weight, width_deg=self._width_deg())
        self.optimiser.zero_grad()
        torch.autograd.backward(share * loss)
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), _LARGEST_GRADIENT)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"The loss is {loss.item():g} and its gradient {norm.item():g} at "
                f"update {self.update + 1}; lower learning_rate."
            )
        self.optimiser.step()
        with torch.no_grad():
            cosine = (predicted * batch.target).sum(dim=1).clamp(-1, 1)
            degrees = torch.rad2deg(torch.arccos(cosine))
            mean = (degrees * weight).sum() / weight.sum()
            rows = torch.stack([loss * share, mean * share]).double().cpu()
        self.sums += torch.cat([rows, torch.ones(1, dtype=torch.float64)])
        self.update += 1
        self.elapsed_s = elapsed_s
        self.progress = self.update / recipe.n_updates
        if recipe.max_minutes:
            self.progress = max(self.progress, elapsed_s / 60 / recipe.max_minutes)
        self.progress = min(self.progress, 1.0)
        self.stopped = bool(stopped)

    def _learning_rate(self) -> float:
        return self.recipe.learning_rate * (1 + math.cos(math.pi * self.progress)) / 2

    def _width_deg(self) -> float | None:
        if self.recipe.width_deg is None:
            return None
        return float(np.interp(self.progress, [0, 1], self.recipe.width_deg))

    def close_row(
        self, validate: Callable[[Network], Mapping[str, float]] | None
    ) -> None:
        """Validate, and add a row to the history."""
        loss, degrees, n = sum_over_processes(*self.sums.tolist())
        row: dict[str, float] = {
            "update": self.update,
            "minutes": round(self.elapsed_s / 60, 3),
            "learning_rate": self._learning_rate(),
            "loss": loss / n,
            "error_deg": degrees / n,
        }
        self.sums.zero_()
        if validate:
            # The figures of one process, so that all go the same way.
            row |= from_first(
                lambda: {k: float(value) for k, value in validate(self.module).items()}
            )
            self.module.train()
        self.history.append(row)
        if best_row(self.history) is row:
            weights = self.module.state_dict()
            self.best = {name: value.clone() for name, value in weights.items()}

    def snapshot(self) -> dict[str, Any]:
        """Return all that is needed to go on, as tensors and plain values."""
        return {
            "identity": self._identity,
            "update": self.update,
            "elapsed_s": self.elapsed_s,
            "progress": self.progress,
            "sums": self._shared_sums(),
            "history": self.history,
            "best": self.best,
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go back to where a snapshot was taken."""
        theirs, ours = snapshot.get("identity", {}), self._identity
        for name in ours:
            if theirs.get(name) != ours[name]:
                raise ValueError(
                    f"The checkpoint belongs to another training: its {name} is "
                    f"{theirs.get(name)}, here it is {ours[name]}. Give the same "
                    "files and options, or start anew without resume."
                )
        self.update = snapshot["update"]
        self.earlier_s = self.elapsed_s = snapshot["elapsed_s"]
        self.progress = snapshot["progress"]
        self.sums = snapshot["sums"]
        self.history = snapshot["history"]
        self.best = snapshot["best"]
        self.module.load_state_dict(snapshot["module"])
        self.optimiser.load_state_dict(snapshot["optimiser"])

    def _shared_sums(self) -> torch.Tensor:
        """Return sums that are right in whichever process they are restored."""
        sums = sum_over_processes(*self.sums.tolist())
        return torch.tensor(sums, dtype=torch.float64) / world_size()

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What makes this training this one; its checksums read all references."""
        recipe = asdict(self.recipe)
        recipe |= recipe.pop("blur")
        return {
            "architecture": architecture_of(self.module),
            "layers": self.module.layers,
            "hidden": self.module.hidden,
            "sh_order": self.module.order,
            "streamlines": [len(reference) for reference in self.references],
            "references (checksums)": [r.checksum() for r in self.references],
        } | {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in recipe.items()
        }


class _Network(nn.Module):
    """A propagator over whole batches, as one call that torch can distribute."""

    def __init__(self, module: Network) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Batch) -> torch.Tensor:
        return predict(self.module, batch)


def predict(module: Network, batch: Batch) -> torch.Tensor:
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
    >>> batch = Batch(torch.ones(3, 15), x, x, torch.tensor([2, 2, 1]),
    ...               torch.tensor([2, 1]))
    >>> predict(RecurrentPropagator(4, 8), batch).shape
    torch.Size([3, 3])
    """
    seen, context = module.encode(batch.features, batch.incoming)
    memory, _ = module.gru(batch.pack(seen))
    return module.decode(seen, memory.data, context)


def best_row(history: list[dict[str, float]]) -> dict[str, float]:
    """Return the row of the best validation.

    That is the last one of which as much is followed as of any before, but for a
    standard error: weights of a lower learning rate are the more precise ones, and the
    largest of many noisy figures says little.

    Parameters
    ----------
    history : list of dict
        As :func:`fit` returns it, with a row at least; without validation the last
        row is the best.

    Returns
    -------
    row : dict

    Examples
    --------
    >>> shares = 0.5, 0.7, 0.68, 0.6
    >>> best_row([{"followed": share, "followed_se": 0.03} for share in shares])
    {'followed': 0.68, 'followed_se': 0.03}
    """
    best, most = history[0], -math.inf
    for row in history:
        followed = row.get("followed", most)
        if followed >= most - row.get("followed_se", 0.0):
            best = row
        most = max(most, followed)
    return best


def _rows_since_most(history: list[dict[str, float]]) -> int:
    """Return how many rows have come since the first of the most followed."""
    followed = [row.get("followed", i) for i, row in enumerate(history)]
    return len(history) - 1 - int(np.argmax(followed)) if history else 0


@contextmanager
def _batches(training: _Training, n_threads: int) -> Iterator[Callable[[], Batch]]:
    """Draw the next batches while the network works on this one."""
    with ThreadPoolExecutor(n_threads) as pool:
        first = training.update + 1
        waiting = deque(pool.submit(training.draw, first + i) for i in range(n_threads))

        def next_batch() -> Batch:
            batch = waiting.popleft().result()
            waiting.append(pool.submit(training.draw, training.update + 1 + n_threads))
            return batch

        try:
            yield next_batch
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Let SIGINT and SIGTERM set an event instead of breaking off."""
    stop = threading.Event()
    # Python lets the main thread alone set handlers.
    in_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
    before = {int(number): signal.getsignal(number) for number in numbers}

    def note(number: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[number])  # a second one breaks off

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
