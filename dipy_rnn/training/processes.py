"""Training in several processes, one for each GPU, started by torchrun."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from datetime import timedelta
import os
import pickle
from typing import Any, TypeVar

import torch
from torch import distributed

from dipy_rnn.model import check_device

_T = TypeVar("_T")


def is_distributed() -> bool:
    """Return whether this process belongs to a process group."""
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """Return the number of this process; 0 without a process group."""
    return distributed.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return the number of processes; 1 without a process group."""
    return distributed.get_world_size() if is_distributed() else 1


def sum_over_processes(*values: float) -> tuple[float, ...]:
    """Return the sums of numbers over all processes.

    All processes must call it, and all get the same sums.

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
    """Call a function in the first process, and return its value in all processes.

    Parameters
    ----------
    make : callable
        Takes no arguments and returns a picklable value. If it raises an error, all
        processes raise it. If the error cannot be pickled, the other processes raise a
        RuntimeError that quotes it.

    Returns
    -------
    value : object

    Examples
    --------
    >>> from_first(lambda: 3)
    3
    """
    if not is_distributed():
        return make()
    answer: list[Any] = [None, None]  # value, error
    own: Exception | None = None
    if rank() == 0:
        try:
            answer[0] = make()
            pickle.dumps(answer[0])
        except Exception as error:
            own, answer = error, [None, _picklable(error)]
    # The other processes wait here, so the first one must reach this line even after an
    # error.
    distributed.broadcast_object_list(answer)
    if own is not None:
        raise own
    if answer[1] is not None:
        raise answer[1]
    value: _T = answer[0]
    return value


def _picklable(error: Exception) -> Exception:
    """Return the error if other processes can unpickle it, else one that quotes it."""
    try:
        pickle.dumps(copy(error))  # copying rebuilds the error as unpickling does
    except Exception:
        return RuntimeError(repr(error))
    return error


def wait_for_all() -> None:
    """Wait until all processes have called this function."""
    if is_distributed():
        distributed.barrier()


def share_of_threads(n_threads: int) -> int:
    """Return this process's share of the threads of its machine.

    Parameters
    ----------
    n_threads : int
        Threads of the machine, for all its processes.

    Returns
    -------
    n_threads : int
        1 or more.

    Examples
    --------
    >>> share_of_threads(4)
    4
    """
    return max(1, n_threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the process group, if torchrun started one.

    Parameters
    ----------
    device : torch.device
        Device of the network. CUDA tensors are exchanged by NCCL, others by gloo.

    Yields
    ------
    device : torch.device
        Device of this process. Each process has a GPU of its own.

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
        device = torch.device(check_device(f"cuda:{os.environ['LOCAL_RANK']}"))
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    # The timeout is long because the other processes wait while the first one reads all
    # subjects.
    distributed.init_process_group(backend, timeout=timedelta(days=2))
    try:
        yield device
    finally:
        distributed.destroy_process_group()
