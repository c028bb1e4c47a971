"""The training loop, and a function that prepares subjects and trains a network."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
import shutil
import signal
import threading
from types import FrameType

import torch
from tqdm import tqdm

from dipy_rnn._checks import check_count
from dipy_rnn._threads import torch_threads
from dipy_rnn._typing import AnyPath
from dipy_rnn.model import ModelMetadata, Network, untrained
from dipy_rnn.sampling import sh_order
from dipy_rnn.training.log import TrainingLog, remove_log, row_text
from dipy_rnn.training.processes import (
    from_first,
    process_group,
    rank,
    wait_for_all,
)
from dipy_rnn.training.recipe import Recipe, describe
from dipy_rnn.training.selection import SubjectData, hold_out, prepare_subject
from dipy_rnn.training.sequences import Batch
from dipy_rnn.training.state import (
    TrainingState,
    best_row,
    load_checkpoint,
    save_checkpoint,
)
from dipy_rnn.training.subjects import TrainingSubject, load_subject
from dipy_rnn.training.validation import FreeRunning


class Interrupted(Exception):
    """A training was stopped by a signal; its checkpoint was saved."""


def fit(
    module: Network,
    subjects: list[TrainingSubject],
    recipe: Recipe,
    *,
    validate: Callable[[Network], Mapping[str, float]] | None = None,
    checkpoint: AnyPath | None = None,
    resume: bool = False,
    report: Callable[[list[dict[str, float]]], object] | None = None,
    nbr_threads: int = 1,
) -> list[dict[str, float]]:
    """Train a network on the streamlines of subjects.

    In a process group of :mod:`torch.distributed`, the processes share each batch: a
    process draws the sequences of some of its subjects. The weights equal those of one
    process up to rounding.

    Parameters
    ----------
    module : nn.Module
        One of :data:`dipy_rnn.model.NETWORKS`; trained in place, on its device. At
        the end it has the weights of the best validation
        (:func:`dipy_rnn.training.state.best_row`).
    subjects : list of dipy_rnn.training.subjects.TrainingSubject
    recipe : dipy_rnn.training.recipe.Recipe
    validate : callable, optional
        Takes the module and returns a dict of metrics, such as
        :class:`dipy_rnn.training.validation.FreeRunning`. The best validation is found
        by its values ``"followed"`` and ``"followed_se"``. If None, the last weights
        are kept.
    checkpoint : str or Path, optional
        File that is saved at each validation, every minute, and when SIGINT or SIGTERM
        stops the training.
    resume : bool, optional
        Whether to continue from ``checkpoint``. The resulting weights are the same as
        without the interruption.
    report : callable, optional
        Called after each validation with the history so far, a list of dicts.
    nbr_threads : int, optional
        Number of threads that draw batches. The network runs in torch's own threads.

    Returns
    -------
    history : list of dict
        One row for each validation: update, minutes, learning_rate, loss, error_deg and
        the metrics of the validation.

    Raises
    ------
    FloatingPointError
        If the loss is not finite; the checkpoint is not changed.
    Interrupted
        If a signal stopped the training.
    ValueError
        If there is no subject, or the checkpoint belongs to another training.

    Examples
    --------
    >>> import numpy as np
    >>> from dipy_rnn.model import MovingFrameGRU
    >>> from dipy_rnn.training import Recipe, TrainingSubject, fit
    >>> line = np.column_stack([np.linspace(1, 9, 30), np.full(30, 5), np.full(30, 5)])
    >>> data = np.random.default_rng(0).normal(size=(10, 10, 10, 15))
    >>> subject = TrainingSubject.of(data.astype(np.float32), np.eye(4), [line])
    >>> history = fit(MovingFrameGRU(4, 8), [subject], Recipe(n_updates=2))
    >>> history[-1]["update"], history[-1]["error_deg"] < 90
    (2, True)
    """
    if not subjects:
        raise ValueError("subjects is empty; at least one subject is needed.")
    if recipe.patience and validate is None:
        raise ValueError(
            f"patience is {recipe.patience}, but nothing is held out for validation."
        )
    if resume and checkpoint is None:
        raise ValueError("checkpoint is None; resume needs a checkpoint.")
    state = TrainingState(module, subjects, recipe)
    if resume and checkpoint is not None:
        state.restore(load_checkpoint(checkpoint))

    def save() -> None:
        if checkpoint:
            snapshot = state.snapshot()  # in all processes
            from_first(lambda: save_checkpoint(snapshot, checkpoint))

    def report_history() -> None:
        if report:
            report(state.history)

    batches = _batches(state, max(1, nbr_threads))
    with (
        _stop_signals() as stop,
        batches as next_batch,
        # Only the first process has a progress bar, and only in a terminal.
        tqdm(
            total=recipe.n_updates,
            initial=state.update,
            unit=" updates",
            disable=None if rank() == 0 else True,
        ) as bar,
    ):
        while state.row_is_due or not state.is_over:
            minute = state.minute
            if not state.row_is_due:
                state.update_weights(next_batch(), stop)
                bar.update(state.update - bar.n)
                bar.set_postfix(state.means(), refresh=False)
            if state.stopped:
                save()
                raise Interrupted(f"update {state.update} of {recipe.n_updates}")
            if state.row_is_due:
                state.close_row(validate)
                save()
                from_first(report_history)
            elif state.minute > minute:
                save()
    if state.best is not None:
        module.load_state_dict(state.best)
    module.eval()
    return state.history


def train_network(
    sources: Sequence[Callable[[], SubjectData]],
    recipe: Recipe,
    checkpoint: Path,
    *,
    architecture: str = "moving_frame",
    hidden: int = 0,
    layers: int = 0,
    validation_subjects: int = 0,
    validation_fraction: float = 0.1,
    resume: bool = False,
    device: str = "cpu",
    nbr_threads: int = 1,
    notify: Callable[[str], object] | None = None,
) -> tuple[Network, ModelMetadata] | None:
    """Prepare subjects, hold some out for validation, and train a network.

    The folder of the checkpoint also receives the log
    (:class:`dipy_rnn.training.log.TrainingLog`) and, during the training, the prepared
    subjects. If torchrun started several processes, all must call this function.

    Parameters
    ----------
    sources : sequence of callable
        Each loads one subject (:class:`dipy_rnn.training.selection.SubjectData`). Only
        the first process calls them, one after the other.
    recipe : dipy_rnn.training.recipe.Recipe
    checkpoint : Path
    architecture : str, optional
        One of :data:`dipy_rnn.model.NETWORKS`.
    hidden, layers : int, optional
        Width and number of recurrent layers; 0 for the architecture's default.
    validation_subjects, validation_fraction : int, float, optional
        Number of subjects to hold out: the last ones. If it is 0, the share
        `validation_fraction` of the streamlines of each subject is held out.
    resume : bool, optional
        Whether to continue from the checkpoint. If False, the files of an earlier
        training are removed.
    device : str, optional
        Default: the CPU.
    nbr_threads : int, optional
        Half of these threads draw batches, the other half run the network.
    notify : callable, optional
        Called in the first process with lines of text about the progress.

    Returns
    -------
    trained : tuple of (nn.Module, dipy_rnn.model.ModelMetadata) or None
        In the first process; None in the others.

    Raises
    ------
    FloatingPointError, Interrupted, OSError, ValueError
        As :func:`prepare_subject` and :func:`fit`. Also if the size of the network or
        the hold-out is out of range, or if the subjects have different spherical
        harmonic orders.

    Examples
    --------
    >>> import tempfile
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.sampling import fodf_features
    >>> def load():
    ...     phantom = crossing_phantom(90, shape=(12, 12, 6))
    ...     return SubjectData("fODF", "bundles", fodf_features(phantom.fodf(4)).data,
    ...                        phantom.affine, phantom.streamlines(5)[0])
    >>> module, metadata = train_network(
    ...     [load], Recipe(n_updates=2), Path(tempfile.mkdtemp()) / "checkpoint.pt",
    ...     hidden=8)
    >>> metadata.hidden, metadata.provenance["training"]["update"]
    (8, 2)
    """
    size = {
        name: n
        for name, value in (("hidden", hidden), ("layers", layers))
        if (n := check_count(value, name))
    }
    check_count(validation_subjects, "validation_subjects")
    if validation_subjects >= len(sources):
        raise ValueError(
            f"validation_subjects is {validation_subjects}, but there are "
            f"{len(sources)} subjects; at least one must be left for training."
        )
    if not 0 <= validation_fraction < 1:
        raise ValueError(
            f"validation_fraction is {validation_fraction}; a share from 0 to below 1 "
            "is needed."
        )
    folder = checkpoint.parent
    stores = [folder / f"subject_{i:04d}" for i in range(len(sources))]

    def say(line: str) -> None:
        if notify:
            notify(line)

    def prepare() -> int:
        """Write the prepared subjects; return their spherical harmonic order."""
        folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            remove_log(folder)
            checkpoint.unlink(missing_ok=True)
        orders: dict[str, int] = {}
        for load, store in zip(sources, stores):
            name, order = _prepare_source(load, store, recipe.step_vox[1], say)
            orders[name] = order
            first = next(iter(orders))
            if order != orders[first]:
                raise ValueError(
                    f"{name} is of spherical harmonic order {order}, but {first} of "
                    f"order {orders[first]}; fit all subjects with the same order."
                )
        return order

    with (
        process_group(torch.device(device)) as own_device,
        torch_threads(nbr_threads - nbr_threads // 2),
    ):
        try:
            order = from_first(prepare)
            module = untrained(architecture, order, recipe.random_seed, **size)
            module = module.to(own_device)
            subjects = [load_subject(store) for store in stores]
            metadata = describe(
                module,
                recipe,
                orders=(order,),
                data=f"{sum(map(len, subjects))} streamlines of {len(subjects)} "
                "subjects",
            )
            training, validation = hold_out(
                subjects,
                recipe.random_seed,
                n_subjects=validation_subjects,
                fraction=validation_fraction,
            )
            validate = None
            if validation:
                validate = FreeRunning(
                    validation, metadata, recipe, nbr_threads=nbr_threads
                )
            with closing(TrainingLog(folder)) as log:

                def report(history: list[dict[str, float]]) -> None:
                    log(history)
                    say(row_text(history[-1]))

                history = fit(
                    module,
                    training,
                    recipe,
                    validate=validate,
                    checkpoint=checkpoint,
                    resume=resume,
                    report=report,
                    nbr_threads=max(1, nbr_threads // 2),
                )
            wait_for_all()
        finally:
            # The prepared subjects are as large as the data. A resumed training writes
            # them again.
            if rank() == 0:
                for store in stores:
                    shutil.rmtree(store, ignore_errors=True)
                with suppress(OSError):  # removed only if it is empty
                    folder.rmdir()
        if rank() != 0:
            return None
        metadata.provenance["training"] = best_row(history)
        return module, metadata


def _prepare_source(
    load: Callable[[], SubjectData],
    store: Path,
    max_step_vox: float,
    notify: Callable[[str], object],
) -> tuple[str, int]:
    """Prepare a subject; return the name and the order of its fODF.

    The subject is released on return, so that only one is in memory at a time.
    """
    source = load()
    prepare_subject(source, store, max_step_vox=max_step_vox, notify=notify)
    return source.fodf_name, sh_order(source.data.shape[3])


@contextmanager
def _batches(state: TrainingState, n_threads: int) -> Iterator[Callable[[], Batch]]:
    """Draw the next batches in threads while the network trains."""
    with ThreadPoolExecutor(n_threads) as pool:
        first = state.update + 1
        waiting = deque(
            pool.submit(state.draw_batch, first + i) for i in range(n_threads)
        )

        def next_batch() -> Batch:
            batch = waiting.popleft().result()
            waiting.append(pool.submit(state.draw_batch, state.update + 1 + n_threads))
            return batch

        try:
            yield next_batch
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Let SIGINT and SIGTERM set an event. A second signal has its usual effect."""
    stop = threading.Event()
    # Python lets only the main thread set handlers.
    in_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
    before = {int(number): signal.getsignal(number) for number in numbers}

    def note(number: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
