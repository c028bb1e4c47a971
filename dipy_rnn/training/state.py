"""State of a training: the loss, one update of the weights, and checkpoints."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
import io
import math
from pathlib import Path
import threading
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dipy_rnn._atomic import atomic_write
from dipy_rnn._typing import AnyPath
from dipy_rnn.model import ContextGRU, Network, architecture_of
from dipy_rnn.training.processes import (
    from_first,
    rank,
    sum_over_processes,
    world_size,
)
from dipy_rnn.training.recipe import TARGET_RULES, Recipe
from dipy_rnn.training.sequences import Batch, draw_sequences, pack
from dipy_rnn.training.subjects import TrainingSubject

_LARGEST_GRADIENT = 1.0


def cosine_loss(
    predicted: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    width_deg: float | None = None,
) -> Tensor:
    """Return the weighted mean of one minus the cosine between directions.

    Parameters
    ----------
    predicted, target : torch.Tensor of shape (N, 3)
        Unit vectors.
    weight : torch.Tensor of shape (N,), optional
        Weight of each point. Default: all points have the same weight.
    width_deg : float, optional
        Width of a robust loss, which resembles Welsch's: all errors far above this
        angle have the same loss. None for the plain loss. Where a fibre may continue in
        two directions, the plain loss is smallest at a direction between them. The
        robust loss is smallest at the more probable one.

    Returns
    -------
    loss : torch.Tensor
        Scalar from 0 to 2.

    Notes
    -----
    With the width s in radians and the distance d = 1 - cos, the loss of a point is
    s^2 (1 - exp(-d / s^2)), which is about d for small d.

    Examples
    --------
    >>> x, y = torch.eye(3)[:1], torch.eye(3)[1:2]
    >>> cosine_loss(x, y).item(), cosine_loss(x, -x).item()
    (1.0, 2.0)
    """
    distance = 1.0 - (predicted * target).sum(dim=1)
    if width_deg is not None:
        square = math.radians(width_deg) ** 2
        distance = square * (1.0 - (-distance / square).exp())
    if weight is None:
        return distance.mean()
    return (distance * weight).sum() / weight.sum()


def predict(module: Network, batch: Batch) -> Tensor:
    """Predict the next directions for a batch of packed sequences.

    Parameters
    ----------
    module : nn.Module
        One of :data:`dipy_rnn.model.NETWORKS`.
    batch : dipy_rnn.training.sequences.Batch

    Returns
    -------
    directions : torch.Tensor of shape (N, 3)
        Unit vectors in the order of the batch.

    Examples
    --------
    >>> from dipy_rnn.model import MovingFrameGRU
    >>> x = torch.zeros(3, 3)
    >>> batch = Batch(torch.ones(3, 15), x, torch.ones(3, 5), x,
    ...               torch.tensor([2, 2, 1]), torch.tensor([2, 1]))
    >>> predict(MovingFrameGRU(4, 8), batch).shape
    torch.Size([3, 3])
    """
    if isinstance(module, ContextGRU):
        return module.follow(batch.features, batch.inputs, batch.batch_sizes)
    encoded, vectors = module.encode(batch.features, batch.incoming, batch.inputs)
    memory = module.recall(encoded, batch.inputs, batch.batch_sizes)
    return module.decode(encoded, memory, vectors)


class _BatchNetwork(nn.Module):
    """A module whose forward pass takes a whole batch, for DistributedDataParallel."""

    def __init__(self, module: Network) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Batch) -> Tensor:
        return predict(self.module, batch)


class TrainingState:
    """All that changes during a training; a checkpoint contains all of it.

    Parameters
    ----------
    module : nn.Module
        One of :data:`dipy_rnn.model.NETWORKS`; trained in place.
    subjects : list of dipy_rnn.training.subjects.TrainingSubject
    recipe : dipy_rnn.training.recipe.Recipe

    Raises
    ------
    ValueError
        If there are more processes than subjects in a batch (``recipe.n_references``).
    """

    def __init__(
        self, module: Network, subjects: list[TrainingSubject], recipe: Recipe
    ) -> None:
        self.module = module
        self.subjects = subjects
        self.recipe = recipe
        self.device = next(module.parameters()).device
        if world_size() > recipe.n_references:
            raise ValueError(
                f"There are {world_size()} processes, but a batch has only "
                f"{recipe.n_references} parts (n_references of the recipe); start at "
                f"most {recipe.n_references} processes."
            )
        self.optimiser = torch.optim.Adam(module.parameters(), lr=recipe.learning_rate)
        self.network: nn.Module = _BatchNetwork(module)
        if world_size() > 1:
            self.network = nn.parallel.DistributedDataParallel(self.network)
        self.update = 0
        self.earlier_s = 0.0  # time before this run resumed
        self.start = time.monotonic()
        self.elapsed_s = 0.0
        self.progress = 0.0  # from 0 to 1
        # Sums since the last row: losses, errors in degrees, number of updates.
        self.sums = torch.zeros(3, dtype=torch.float64)
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] | None = None
        self.stopped = False
        module.train()

    @property
    def is_over(self) -> bool:
        """Whether updates or minutes are used up, or ``patience`` ends the training."""
        patience = self.recipe.patience
        impatient = patience and _rows_since_most(self.history) >= patience
        return self.progress >= 1 or bool(impatient)

    @property
    def row_is_due(self) -> bool:
        """Whether the next row of the history, with its validation, is due now."""
        last = self.history[-1]["update"] if self.history else 0
        validates_now = self.update % self.recipe.validate_every == 0
        return self.update > last and (validates_now or self.is_over)

    @property
    def minute(self) -> int:
        """Whole minutes of training so far; the number is the same in all processes."""
        return int(self.elapsed_s / 60)

    def means(self) -> dict[str, str]:
        """Return the mean loss and error (degrees) since the last row, as text."""
        loss, degrees, n = self.sums.tolist()
        return {"loss": f"{loss / n:.4f}", "degrees": f"{degrees / n:.2f}"}

    def draw_batch(self, update: int) -> Batch:
        """Draw this process's part of a batch, which depends only on the update."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.random_seed, update])
        # All subjects occur once before one occurs twice.
        chosen = np.resize(rng.permutation(len(self.subjects)), recipe.n_references)
        parts = []
        for i in range(rank(), len(chosen), world_size()):
            rng = np.random.default_rng([recipe.random_seed, update, i])
            parts.append(
                draw_sequences(
                    self.subjects[chosen[i]],
                    recipe.n_sequences,
                    frame=self.module.frame,
                    inputs=self.module.inputs,
                    context=self.module.context,
                    step_vox=float(np.exp(rng.uniform(*np.log(recipe.step_vox)))),
                    max_angle_deg=recipe.draw_max_angle(rng),
                    max_points=recipe.max_points,
                    rng=rng,
                    noise=recipe.blur,
                    target_rule=TARGET_RULES[recipe.teacher],
                )
            )
        return pack(parts)

    def update_weights(self, batch: Batch, stop: threading.Event) -> None:
        """Make one step of the optimiser. Set `stopped` if any process got a signal."""
        recipe = self.recipe
        batch = batch.to(self.device)
        weight = torch.ones_like(batch.lengths, dtype=torch.float32)
        if recipe.weight == "streamline":
            weight = weight / batch.lengths
        # These three values are the same in all processes.
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
        """Validate, add a row to the history, and keep the weights if they are best."""
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
            # One process validates, so that all have the same metrics.
            row |= from_first(
                lambda: {k: float(value) for k, value in validate(self.module).items()}
            )
            self.module.train()
        self.history.append(row)
        if best_row(self.history) is row:
            weights = self.module.state_dict()
            self.best = {name: value.clone() for name, value in weights.items()}

    def snapshot(self) -> dict[str, Any]:
        """Return the state as tensors and plain values. All processes must call it."""
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
        """Restore a snapshot; raise ValueError if it belongs to another training."""
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

    def _shared_sums(self) -> Tensor:
        """Return the mean of the sums over the processes; all processes restore it."""
        sums = sum_over_processes(*self.sums.tolist())
        return torch.tensor(sums, dtype=torch.float64) / world_size()

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """Values that identify this training. Cached: checksums read all subjects."""
        recipe = asdict(self.recipe)
        recipe |= recipe.pop("blur")
        return {
            "architecture": architecture_of(self.module),
            "layers": self.module.layers,
            "hidden": self.module.hidden,
            "sh_order": self.module.order,
            "streamlines": [len(subject) for subject in self.subjects],
            "references (checksums)": [s.checksum() for s in self.subjects],
        } | {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in recipe.items()
        }


def best_row(history: list[dict[str, float]]) -> dict[str, float]:
    """Return the row of the best validation.

    This is the latest row whose share of followed streamlines is at most one standard
    error below the largest share before it. There are two reasons not to take the row
    of the largest share. Later weights were trained at a lower learning rate and are
    more precise. And the largest of many noisy shares is partly due to chance.

    Parameters
    ----------
    history : list of dict
        As :func:`dipy_rnn.training.loop.fit` returns it, with at least one row.
        Without validation the last row is the best.

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
    """Return the number of rows after the row that first had the largest share."""
    followed = [row.get("followed", i) for i, row in enumerate(history)]
    return len(history) - 1 - int(np.argmax(followed)) if history else 0


def save_checkpoint(snapshot: Mapping[str, Any], path: AnyPath) -> None:
    """Write a snapshot of a training.

    Parameters
    ----------
    snapshot : dict
        Tensors and plain values.
    path : str or Path
        The file is replaced only when the new one is complete.

    Raises
    ------
    OSError
        If the file cannot be written; an existing checkpoint is kept.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "checkpoint.pt"
    >>> save_checkpoint({"update": 1}, path)
    >>> load_checkpoint(path)
    {'update': 1}
    """
    try:
        with atomic_write(path) as partial:
            torch.save(snapshot, partial)
    except RuntimeError as error:  # raised by torch if the disk is full
        reason = str(error).splitlines()[0]
        raise OSError(
            f"{path} cannot be written ({reason}); is the disk full?"
        ) from None


def load_checkpoint(path: AnyPath) -> dict[str, Any]:
    """Read a snapshot. Only tensors and plain values are unpickled.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    snapshot : dict

    Raises
    ------
    ValueError
        If the file does not exist or cannot be read.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no checkpoint {path}; start without resume.")
    content = io.BytesIO(Path(path).read_bytes())
    try:
        snapshot: dict[str, Any] = torch.load(
            content, weights_only=True, map_location="cpu"
        )
    except Exception as error:  # torch raises errors of many types
        reason = (str(error) or "it is empty").splitlines()[0]
        raise ValueError(
            f"{path} is not a valid checkpoint ({reason}); start without resume."
        ) from None
    return snapshot
