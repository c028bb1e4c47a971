"""Training on several GPUs or machines: one process each, started by torchrun."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from datetime import timedelta
import os
import pickle
from typing import Any, TypeVar

import torch
from torch import distributed

from dipy_rnn.model_file import check_device

_T = TypeVar("_T")


def is_distributed() -> bool:
    """Return whether this process belongs to a group."""
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """Return the number of this process, 0 where it is alone."""
    return distributed.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if is_distributed() else 1


def sum_over_processes(*values: float) -> tuple[float, ...]:
    """Return sums of numbers over all processes, the same in each.

    Examples
    --------
    >>> sum_over_processes(1.0, 2.0)
    (1.0, 2.0)
    """
    if not is_distributed():
        return values
    total = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(total)
    return tuple(total.tolist())


def from_first(make: Callable[[], _T]) -> _T:
    """Call a function in the first process, and return what it gives in all.

    Parameters
    ----------
    make : callable
        Without arguments. An error in it is raised in all processes: itself in the
        first, in the others too if it can be sent to them, else as a RuntimeError.
        What it gives has to be picklable.

    Examples
    --------
    >>> from_first(lambda: 3)
    3
    """
    if not is_distributed():
        return make()
    answer: list[Any] = [None, None]  # what it gave, or its error
    own: Exception | None = None
    if rank() == 0:
        try:
            answer[0] = make()
            pickle.dumps(answer[0])
        except Exception as error:
            own, answer = error, [None, _sendable(error)]
    # The others wait for it: nothing may fail in the first before it is sent.
    distributed.broadcast_object_list(answer)
    if own is not None:
        raise own
    if answer[1] is not None:
        raise answer[1]
    value: _T = answer[0]
    return value


def _sendable(error: Exception) -> Exception:
    """Return an error that other processes can read: itself, or one that quotes it."""
    try:
        pickle.dumps(copy(error))  # a copy is made as the others make theirs
    except Exception:
        return RuntimeError(repr(error))
    return error


def wait_for_all() -> None:
    """Return when every process has come here."""
    if is_distributed():
        distributed.barrier()


def share_of_threads(n_threads: int) -> int:
    """Return this process's share of the threads of its machine, 1 or more.

    Examples
    --------
    >>> share_of_threads(4)
    4
    """
    return max(1, n_threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started; alone otherwise.

    Parameters
    ----------
    device : torch.device
        Where the networks are: CUDA processes speak NCCL, others gloo.

    Yields
    ------
    device : torch.device
        Of this process: each has a GPU of its own.

    Examples
    --------
    >>> with process_group(torch.device("cpu")) as device:
    ...     world_size()
    1
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    backend = "gloo"
    if device.type == "cuda":
        device = check_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    # The others wait while the first one reads all subjects.
    distributed.init_process_group(backend, timeout=timedelta(days=2))
    try:
        yield device
    finally:
        distributed.destroy_process_group()
