"""Many subjects: the engines that work on them, and the table of how it went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, partial
from itertools import islice
import os
import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from dipy_rnn.stopping import StopReason

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")

ENGINES = ("serial", "joblib", "ray")

# An engine is given so many jobs for each process at a time: their outcomes come when
# the last is done, and if a process dies they are all done again.
_JOBS_PER_PROCESS = 4

_LOOK_FOR_PARENT_S = 0.5


@dataclass(frozen=True)
class Outcome:
    """What became of a subject: a row of the table, and what the log says.

    Parameters
    ----------
    fodf, tractogram : str
        Paths.
    status : str
        ``"tracked"``, ``"skipped"`` as its tractogram was there, or ``"failed"``.
    seeds, streamlines : int
    mean_length_mm : float
    seconds : float
    error : str
        Why it failed, in one line.
    ends : collections.Counter of tuple of 2 dipy_rnn.stopping.StopReason
        How many streamlines, written or not, stopped for which two reasons (forward,
        backward); not in the table.

    Examples
    --------
    >>> Outcome("csd.pam5", "lines.trx", "skipped").streamlines
    0
    """

    fodf: str
    tractogram: str
    status: str
    seeds: int = 0
    streamlines: int = 0
    mean_length_mm: float = 0.0
    seconds: float = 0.0
    error: str = ""
    ends: Counter[tuple[StopReason, StopReason]] = field(default_factory=Counter)

    def row(self) -> dict[str, str | int]:
        """Return the values of its row, by column."""
        values: dict[str, str | int] = {name: getattr(self, name) for name in COLUMNS}
        values["mean_length_mm"] = f"{self.mean_length_mm:.2f}"
        values["seconds"] = f"{self.seconds:.1f}"
        if self.status == "skipped":  # not counted
            values |= dict.fromkeys(("seeds", "streamlines", "mean_length_mm"), "")
        return values


COLUMNS = tuple(each.name for each in fields(Outcome) if each.name != "ends")


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """Join the outcomes of the parts of one subject.

    Parameters
    ----------
    outcomes : sequence of Outcome
        All tracked.

    Returns
    -------
    outcome : Outcome
        Its seconds are those of all parts together.

    Examples
    --------
    >>> one = Outcome("csd.pam5", "lines.trx", "tracked", 2, 1, 10.0)
    >>> other = Outcome("csd.pam5", "lines.trx", "tracked", 4, 3, 2.0)
    >>> joined([one, other]).mean_length_mm
    4.0
    """
    n = sum(outcome.streamlines for outcome in outcomes)
    length = sum(outcome.streamlines * outcome.mean_length_mm for outcome in outcomes)
    return Outcome(
        outcomes[0].fodf,
        outcomes[0].tractogram,
        outcomes[0].status,
        seeds=sum(outcome.seeds for outcome in outcomes),
        streamlines=n,
        mean_length_mm=length / max(n, 1),
        seconds=sum(outcome.seconds for outcome in outcomes),
        ends=sum((outcome.ends for outcome in outcomes), Counter()),
    )


def work_on(
    jobs: Sequence[_Job],
    function: Callable[[_Job], _Result],
    *,
    engine: str = "serial",
    num_processes: int = 1,
    scheduler: str = "",
) -> Iterator[tuple[_Job, _Result | Exception]]:
    """Call a function for each job, with an engine.

    Parameters
    ----------
    jobs : sequence
    function : callable
        Of a job. Both, and what it returns, are pickled, but for ``"serial"``.
    engine : str, optional
        Of :func:`dipy.utils.parallel.paramap`: one of ``ENGINES``.
    num_processes : int, optional
        For joblib and ray.
    scheduler : str, optional
        Address of a running dask scheduler, whose workers are used then.

    Yields
    ------
    job : object
    outcome : object
        What the function returned, or the exception that it raised. A process that
        dies makes a RuntimeError for the job that it dies of, and for no other.

    Raises
    ------
    ValueError
        If no scheduler answers.
    """
    if scheduler:
        yield from _on_dask(jobs, function, scheduler)
        return
    from dipy.utils.parallel import paramap

    if engine == "ray":
        _start_ray(num_processes)
    # Ray wants a function of a module, and no partial one.
    with_engine = partial(
        paramap,
        _call,
        func_args=[function, os.getpid() if engine == "joblib" else None],
        engine=engine,
        clean_spill=False,  # DIPY removes its folder twice; ray was started above
    )
    due = iter(jobs)
    size = 1 if engine == "serial" else _JOBS_PER_PROCESS * num_processes
    try:
        while batch := list(islice(due, size)):
            try:
                outcomes = with_engine(batch, n_jobs=num_processes)
            except Exception:  # a process died, and with it what the others returned
                outcomes = [_alone(with_engine, job) for job in batch]
            yield from zip(batch, outcomes)
    finally:
        if engine == "ray":
            _stop_ray()


def _call(
    job: _Job, function: Callable[[_Job], _Result], parent: int | None
) -> _Result | Exception:
    """Call a function of a job; `parent` is the process to live no longer than."""
    if parent not in (None, os.getpid()) and os.name == "posix":
        _end_with(parent)
    try:
        return function(job)
    except Exception as error:
        return error


def _alone(
    with_engine: Callable[..., list[_Result | Exception]], job: _Job
) -> _Result | Exception:
    try:
        # joblib starts a process even for one job if there could be two.
        return with_engine([job], n_jobs=2)[0]
    except Exception as error:
        return _died(error)


def _died(error: BaseException) -> RuntimeError:
    lines = str(error).strip().splitlines()
    return RuntimeError(
        f"its process died ({type(error).__name__}{': ' if lines else ''}"
        f"{''.join(lines[:1])}); was there enough memory?"
    )


@cache  # once in each process
def _end_with(parent: int) -> None:
    """End this process when its parent was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_FOR_PARENT_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start_ray(num_processes: int) -> None:
    """Start ray before paramap does, which would take every core."""
    import logging

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine
    import ray

    if not ray.is_initialized():
        ray.init(
            num_cpus=num_processes,
            include_dashboard=False,
            logging_level=logging.WARNING,
            log_to_driver=False,
        )


def _stop_ray() -> None:
    import ray

    ray.shutdown()


def _on_dask(
    jobs: Sequence[_Job], function: Callable[[_Job], _Result], scheduler: str
) -> Iterator[tuple[_Job, _Result | Exception]]:
    from distributed import Client, as_completed

    try:
        client = Client(scheduler, timeout="20s")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"scheduler is {scheduler}, where no dask scheduler answers "
            f"({str(error).splitlines()[0]}); give the address that it shows when it "
            "starts, such as tcp://host:8786."
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
