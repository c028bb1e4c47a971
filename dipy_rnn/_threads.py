"""Numbers of threads: of kernels (compiled functions), of tracking, and of torch."""

from collections.abc import Iterator
from contextlib import contextmanager
import os

from dipy_rnn._checks import check_count

# OpenMP ends the process if the system cannot create the threads.
_MOST_THREADS = 1024


def count_threads(nbr_threads: int) -> int:
    """Convert DIPY's ``nbr_threads`` to a number of threads.

    Parameters
    ----------
    nbr_threads : int
        0 for every core that this process may use.

    Returns
    -------
    n_threads : int
        1 or more.

    Raises
    ------
    ValueError
        If it is not a whole number from 0 to 1024.

    Examples
    --------
    >>> count_threads(2)
    2
    """
    n_threads = check_count(nbr_threads, "nbr_threads", 0, _MOST_THREADS)
    if n_threads:
        return n_threads
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def torch_threads(nbr_threads: int) -> Iterator[None]:
    """Limit torch's threads inside a ``with`` block.

    Parameters
    ----------
    nbr_threads : int
        1 or more.

    Notes
    -----
    The setting is global in torch. It is restored at the end of the block.

    Examples
    --------
    >>> import torch
    >>> before = torch.get_num_threads()
    >>> with torch_threads(1):
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(nbr_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
