"""Numbers of threads: of kernels (compiled functions), of tracking, and of torch.

Threads do not survive a fork. OpenMP, which the kernels and torch use, does not notice
that, and waits for ever. So a process that was forked after this package used several
threads uses one.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import math
import os
from pathlib import Path
import sys

from dipy_rnn._checks import check_count

# OpenMP ends the process if the system cannot create the threads.
_MOST_THREADS = 1024
# Where Linux lists the control groups of this process, and their limits.
_GROUPS = Path("/proc/self/cgroup")
_LIMITS = Path("/sys/fs/cgroup")

_has_used_threads = False
_is_forked = False  # after threads were used


def _after_fork() -> None:
    global _is_forked
    if not _has_used_threads:
        return
    _is_forked = True
    torch = sys.modules.get("torch")
    if torch is not None:  # as torch's DataLoader does in its processes
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def count_cores() -> int:
    """Return the number of cores that this process may use.

    Returns
    -------
    n_cores : int
        The smallest of: the cores on which the process may run (its affinity), those
        that Slurm gave to it (``SLURM_CPUS_PER_TASK``), and the quota of its container
        or control group (version 1 or 2), rounded up.

    Examples
    --------
    >>> 1 <= count_cores() <= os.cpu_count()
    True
    """
    limits = [_positive_integer("SLURM_CPUS_PER_TASK"), *_quotas()]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    else:
        limits.append(os.cpu_count())
    return min((limit for limit in limits if limit), default=1)


def _positive_integer(name: str) -> int | None:
    """Return the value of an environment variable; None if it is no number above 0."""
    first = os.environ.get(name, "").partition(",")[0].strip()  # one for each level
    return int(first) if first.isdecimal() and int(first) > 0 else None


def _quotas() -> Iterator[int]:
    """Yield the limits of the control groups that this process is in, in cores."""
    try:
        lines = _GROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _LIMITS / controllers
        # In a container, the path may be that of the host, and the limits at the root.
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if controllers:
                names = ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
            else:
                names = ["cpu.max"]
            with suppress(OSError, ValueError):  # no such file, or "max"
                words = " ".join((folder / name).read_text() for name in names).split()
                quota, period = map(int, words)
                if quota > 0 and period > 0:
                    yield math.ceil(quota / period)
            if folder == root:
                break


def count_threads(nbr_threads: int) -> int:
    """Convert DIPY's ``nbr_threads`` to a number of threads.

    Parameters
    ----------
    nbr_threads : int
        0 for every core that this process may use (:func:`count_cores`), or for
        ``OMP_NUM_THREADS`` if that is smaller.

    Returns
    -------
    n_threads : int
        1 or more. Always 1 in a process that was forked after this function returned
        more.

    Raises
    ------
    ValueError
        If it is not a whole number from 0 to 1024.

    Examples
    --------
    >>> count_threads(2)
    2
    """
    global _has_used_threads
    n_threads = check_count(nbr_threads, "nbr_threads", 0, _MOST_THREADS)
    if not n_threads:
        n_threads = min(count_cores(), _positive_integer("OMP_NUM_THREADS") or 2**31)
    if _is_forked:
        return 1
    _has_used_threads |= n_threads > 1
    return n_threads


@contextmanager
def torch_threads(nbr_threads: int) -> Iterator[None]:
    """Limit torch's threads inside a ``with`` block. Nothing happens without torch.

    Parameters
    ----------
    nbr_threads : int
        1 or more.

    Notes
    -----
    The setting is global in torch. It is restored at the end of the block. If torch is
    not imported yet, the block does not import it.

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
    if sys.modules.get("torch") is None:
        yield
        return
    import torch  # waits if another thread is importing it

    before = torch.get_num_threads()
    torch.set_num_threads(nbr_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
