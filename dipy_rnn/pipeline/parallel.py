"""Running one function for many jobs: one by one, in processes, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import islice
import logging
import os
import threading
import time
from typing import Any, TypeVar

from dipy_rnn._checks import check_installed
from dipy_rnn.io import first_line

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")

#: Engines of one machine: one job after the other, or several at a time.
ENGINES = ("serial", "joblib", "ray")

# joblib gets this many jobs per process at a time. It returns their outcomes when the
# last of these jobs has finished. If a process dies, all of these jobs are run again.
_JOBS_PER_PROCESS = 4

_PARENT_CHECK_INTERVAL_S = 0.5


def plan_workers(
    engine: str, num_processes: int, scheduler: str, nbr_threads: int
) -> tuple[int, int]:
    """Return how many processes there are, and how many threads in each.

    Parameters
    ----------
    engine, num_processes, scheduler
        As for :func:`run_jobs`. If `num_processes` is below 0, the number of cores + 1
        is added: -1 means all cores.
    nbr_threads : int
        Threads of each process. If 0, the cores are divided among the processes; a
        worker of a dask scheduler has one thread.

    Returns
    -------
    n_processes, n_threads : int

    Raises
    ------
    ValueError
        If the engine is unknown or not installed, or a number is out of range.

    Examples
    --------
    >>> plan_workers("serial", -1, "", 1)
    (1, 1)
    """
    from dipy_rnn._threads import count_cores, count_threads

    if engine not in ENGINES:
        raise ValueError(f"engine is {engine}; {', '.join(ENGINES)} are allowed.")
    if num_processes == 0:
        raise ValueError("num_processes is 0; give 1 or more, or -1 for every core.")
    n_threads = count_threads(nbr_threads)
    if scheduler:
        check_installed(("distributed",), "scheduler", "dask")
        return 1, nbr_threads or 1
    if engine == "serial":
        return 1, n_threads
    check_installed((engine,), f"engine {engine}", engine)
    n_processes = num_processes
    if num_processes < 0:
        n_processes = max(1, count_cores() + 1 + num_processes)
    share = max(1, min(n_threads, count_cores() // n_processes))
    return n_processes, n_threads if nbr_threads else share


def run_jobs(
    jobs: Sequence[_Job],
    function: Callable[[_Job], _Result],
    *,
    engine: str = "serial",
    num_processes: int = 1,
    scheduler: str = "",
) -> Iterator[tuple[_Job, _Result | Exception]]:
    """Call a function for each job.

    Parameters
    ----------
    jobs : sequence
    function : callable
        Takes a job. Except for ``"serial"``, the function, the jobs and the results
        are pickled.
    engine : str, optional
        One of ``ENGINES``.
    num_processes : int, optional
        Number of processes of joblib or ray.
    scheduler : str, optional
        Address of a running dask scheduler. If given, its workers run the jobs.

    Yields
    ------
    job : object
    outcome : object
        The result of the function, or the exception that it raised. If the process of
        a job dies, the outcome of that job is a RuntimeError; other jobs are not
        affected.

    Raises
    ------
    ValueError
        If no dask scheduler answers.

    Examples
    --------
    >>> list(run_jobs([4, 9], len))[0][1]
    TypeError("object of type 'int' has no len()")
    >>> list(run_jobs(["a", "bc"], len))
    [('a', 1), ('bc', 2)]
    """
    if scheduler:
        yield from _run_on_dask(jobs, function, scheduler)
        return
    if engine == "joblib":
        yield from _run_with_joblib(jobs, function, num_processes)
    elif engine == "ray":
        yield from _run_on_ray(jobs, function, num_processes)
    else:
        yield from ((job, _call(job, function, None)) for job in jobs)


def _call(
    job: _Job, function: Callable[[_Job], _Result], parent: int | None
) -> _Result | Exception:
    """Call a function, and end this process when the process `parent` ends."""
    if parent not in (None, os.getpid()) and os.name == "posix":
        _exit_with_parent(parent)
    try:
        return function(job)
    except Exception as error:
        return error


def _run_with_joblib(
    jobs: Sequence[_Job], function: Callable[[_Job], _Result], num_processes: int
) -> Iterator[tuple[_Job, _Result | Exception]]:
    from joblib import Parallel, delayed

    def run(batch: list[_Job], n_jobs: int) -> list[Any]:
        call = partial(delayed(_call), function=function, parent=os.getpid())
        outcomes: list[Any] = Parallel(n_jobs=n_jobs)(map(call, batch))
        return outcomes

    remaining = iter(jobs)
    while batch := list(islice(remaining, _JOBS_PER_PROCESS * num_processes)):
        try:
            outcomes = run(batch, num_processes)
        except Exception:  # a process died, so all results of the batch are lost
            outcomes = [_run_alone(run, job) for job in batch]
        yield from zip(batch, outcomes)


def _run_alone(run: Callable[[list[_Job], int], list[Any]], job: _Job) -> Any:
    try:
        # With one process joblib would run the job in this one.
        return run([job], 2)[0]
    except Exception as error:
        return _died(error)


def _died(error: BaseException) -> RuntimeError:
    line = first_line(error) if str(error).strip() else ""
    return RuntimeError(
        f"its process died ({type(error).__name__}{': ' if line else ''}{line}); was "
        "there enough memory?"
    )


@cache  # starts one thread per process
def _exit_with_parent(parent: int) -> None:
    """End this process when its parent has ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_INTERVAL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_on_ray(
    jobs: Sequence[_Job], function: Callable[[_Job], _Result], num_processes: int
) -> Iterator[tuple[_Job, _Result | Exception]]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # ray sends no statistics
    import ray

    with ray.init(
        num_cpus=num_processes,
        ignore_reinit_error=True,
        include_dashboard=False,
        logging_level=logging.WARNING,
        log_to_driver=False,
    ):
        call = ray.remote(max_retries=1)(_call)
        job_of = {call.remote(job, function, None): job for job in jobs}
        while job_of:
            (done,), _ = ray.wait(list(job_of))
            try:
                outcome = ray.get(done)
            except Exception as error:  # its process died
                outcome = _died(error)
            yield job_of.pop(done), outcome


def _run_on_dask(
    jobs: Sequence[_Job], function: Callable[[_Job], _Result], scheduler: str
) -> Iterator[tuple[_Job, _Result | Exception]]:
    from distributed import Client, as_completed

    try:
        client = Client(scheduler, timeout="20s")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"scheduler is {scheduler}, but no dask scheduler answers there "
            f"({first_line(error)}); give the address that it shows when it starts, "
            "such as tcp://host:8786."
        ) from None
    with client:
        futures = client.map(_call, jobs, function=function, parent=None, pure=False)
        job_of = dict(zip(futures, jobs))
        try:
            for future in as_completed(futures):
                death = future.exception()
                yield job_of[future], future.result() if death is None else _died(death)
        finally:
            client.cancel(futures)
