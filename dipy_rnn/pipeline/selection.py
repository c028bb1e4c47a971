"""Tracking batches of seeds, selecting streamlines, and counting both.

`track_selected` tracks seeds with a network and yields the streamlines whose length and
ends meet the conditions. An end is valid if tracking stopped there for a valid reason
(:attr:`dipy_rnn.stopping.StopReason.is_valid_end`). `TrackingCounts` counts seeds,
streamlines and the reasons why tracking stopped, also of streamlines that are not
selected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
import logging
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from dipy_rnn import spatial
from dipy_rnn.pipeline.regions import Regions
from dipy_rnn.stopping import NOT_INCLUDED, StopReason, format_fates, format_tally

if TYPE_CHECKING:
    from dipy_rnn._typing import BoolArray, FloatArray
    from dipy_rnn.stopping import StoppingCriterion
    from dipy_rnn.tracking import Streamline

_Item = TypeVar("_Item")

logger = logging.getLogger("dipy")  # DIPY's commands show and save its messages


@dataclass
class TrackingCounts:
    """Numbers of seeds and streamlines, and why tracking stopped.

    Parameters
    ----------
    step_mm : float
        Step size.
    seeds : int, optional
        Number of seeds that were tracked.
    streamlines : int, optional
        Number of selected streamlines.
    steps : int, optional
        Sum of the steps of the selected streamlines.
    ends : collections.Counter of tuple of 2 dipy_rnn.stopping.StopReason
        Number of streamlines, selected or not, for each pair of reasons (forward,
        backward).
    without_direction : int, optional
        Number of seeds in the image at which the fODF has no direction to start along.
        They are among `seeds`.
    outside : int, optional
        Number of seeds outside the image. They are among `seeds`.
    not_included : collections.Counter of tuple of 2 dipy_rnn.stopping.StopReason
        Number of those in `ends` that did not enter all include regions.

    Examples
    --------
    >>> parts = TrackingCounts(0.5, 2, 1, 20), TrackingCounts(0.5, 4, 3, 12)
    >>> (parts[0] + parts[1]).mean_length_mm
    4.0
    """

    step_mm: float
    seeds: int = 0
    streamlines: int = 0
    steps: int = 0
    ends: Counter[tuple[StopReason, StopReason]] = field(default_factory=Counter)
    without_direction: int = 0
    outside: int = 0
    not_included: Counter[tuple[StopReason, StopReason]] = field(
        default_factory=Counter
    )

    @property
    def mean_length_mm(self) -> float:
        """Mean length of the selected streamlines; 0 without streamlines."""
        return self.steps * self.step_mm / max(self.streamlines, 1)

    def table(self, *, by_streamline: bool, n_ends: int = 2) -> str:
        """Format how often tracking stopped for which reasons.

        Parameters
        ----------
        by_streamline : bool
            If True, count streamlines: those with two valid ends, and the others by
            reason, as for anatomically constrained tracking. If False, count the
            reasons at all ends.
        n_ends : int, optional
            Number of ends of a streamline at which tracking stopped: 1 if it was
            unidirectional.

        Returns
        -------
        table : str
            One line for each reason. Then one line for the streamlines that were
            rejected by exclude regions, and one by include regions, if there are any.
        """
        if by_streamline:
            return format_fates(self.ends, self.not_included)
        stops: Counter[StopReason] = Counter()
        for ends, n in self.ends.items():
            for stop in ends[:n_ends]:
                stops[stop] += n
        return "\n".join([format_tally(stops), *self._rejected_by_regions()])

    def _rejected_by_regions(self) -> Iterator[str]:
        """Yield a line for each kind of region, with the rejected streamlines."""
        excluded = StopReason.EXCLUDE_REGION
        n_excluded = sum(n for ends, n in self.ends.items() if excluded in ends)
        n_missed = sum(
            n for ends, n in self.not_included.items() if excluded not in ends
        )
        for n, why in ((n_excluded, excluded.message), (n_missed, NOT_INCLUDED)):
            if n:
                yield f"rejected {100 * n / self.ends.total():5.1f} % {n:9d}  {why}"

    def __add__(self, other: TrackingCounts) -> TrackingCounts:
        """Add the counts of two parts of the seeds of a subject."""
        return TrackingCounts(
            self.step_mm,
            self.seeds + other.seeds,
            self.streamlines + other.streamlines,
            self.steps + other.steps,
            self.ends + other.ends,
            self.without_direction + other.without_direction,
            self.outside + other.outside,
            self.not_included + other.not_included,
        )


def track_selected(
    batches: Iterable[FloatArray],
    stopping_criterion: StoppingCriterion,
    affine: FloatArray,
    counts: TrackingCounts,
    *,
    min_len: float,
    max_len: float,
    step_size: float,
    only_valid_ends: bool = False,
    regions: Regions | None = None,
    select: int = 0,
    progress_of: int = 0,
    **options: Any,
) -> Generator[Streamline, None, None]:
    """Track batches of seeds, and yield the streamlines that are selected.

    Parameters
    ----------
    batches : iterable of ndarray of shape (N, 3)
        Seeds in mm.
    stopping_criterion, affine, step_size, **options
        As for :func:`dipy_rnn.tracking.track`.
    counts : TrackingCounts
        Updated while streamlines are tracked.
    min_len, max_len : float
        Shortest and longest length in mm of a selected streamline.
    only_valid_ends : bool, optional
        Whether to select only streamlines whose two ends are valid.
    regions : dipy_rnn.pipeline.Regions, optional
        Regions that a selected streamline enters, or does not enter. Tracking uses the
        criterion of :meth:`Regions.wrap`.
    select : int, optional
        If above 0, tracking ends when this number of streamlines is selected.
    progress_of : int, optional
        If above 0, show the progress: the share of `select` if that is given, otherwise
        the share of this number of seeds.

    Returns
    -------
    streamlines : generator of dipy_rnn.tracking.Streamline

    Raises
    ------
    ValueError
        If a length or the step is out of range; before anything is tracked.

    Examples
    --------
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.sampling import fodf_features
    >>> from dipy_rnn.stopping import BinaryStoppingCriterion
    >>> phantom = crossing_phantom(90)
    >>> seeds = phantom.streamlines(1)[0][0][50:53]
    >>> counts = TrackingCounts(step_mm=1.0)
    >>> streamlines = track_selected(
    ...     [seeds], BinaryStoppingCriterion(phantom.mask()), phantom.affine, counts,
    ...     min_len=2, max_len=500, step_size=1.0, select=2,
    ...     features=fodf_features(phantom.fodf()))
    >>> len(list(streamlines)), counts.streamlines
    (2, 2)
    """
    from dipy_rnn.tracking import length_limits

    min_points, max_points = length_limits(min_len, max_len, step_size)
    options |= {"max_len": max_len, "step_size": step_size}
    regions = regions or Regions()
    criterion = regions.wrap(stopping_criterion, affine)
    n_ends = 2 - bool(options.get("unidirectional"))

    def is_selected(line: Streamline) -> bool:
        if StopReason.EXCLUDE_REGION in (line.forward_stop, line.backward_stop):
            return False
        return min_points <= len(line.points_mm) <= max_points and (
            line.has_valid_ends or not only_valid_ends
        )

    def generate() -> Generator[Streamline, None, None]:
        tracked = _track_batches(batches, criterion, affine, counts, options)
        with closing(tracked):
            lines: Iterator[Streamline] = tracked
            if progress_of and not select:
                lines = show_progress(lines, progress_of, "seeds", lambda: counts.seeds)
            with_regions = (regions.apply(line, n_ends) for line in lines)
            lines = _select(with_regions, is_selected, counts, select)
            if progress_of and select:
                lines = show_progress(
                    lines, select, "streamlines", lambda: counts.streamlines
                )
            yield from lines

    return generate()


def _track_batches(
    batches: Iterable[FloatArray],
    stopping_criterion: StoppingCriterion,
    affine: FloatArray,
    counts: TrackingCounts,
    options: dict[str, Any],
) -> Generator[Streamline, None, None]:
    from dipy_rnn.tracking import track

    def count_skipped(inside: BoolArray) -> None:
        counts.seeds += len(inside)
        counts.without_direction += int(inside.sum())
        counts.outside += int((~inside).sum())

    shape = options["features"].data.shape
    for seeds in batches:
        inside = spatial.is_inside(spatial.to_voxels(seeds, affine), shape)
        done = 0
        for line in track(seeds, stopping_criterion, affine, **options):
            if line.seed_index >= done:  # the first streamline of this seed
                count_skipped(inside[done : line.seed_index])
                counts.seeds += 1
                done = line.seed_index + 1
            yield line
        count_skipped(inside[done:])


def _select(
    lines: Iterable[tuple[Streamline, bool]],
    is_selected: Callable[[Streamline], bool],
    counts: TrackingCounts,
    select: int,
) -> Iterator[Streamline]:
    """Count streamlines, and yield those selected; a flag says if they are included."""
    for line, is_included in lines:
        ends = line.forward_stop, line.backward_stop
        counts.ends[ends] += 1
        if not is_included:
            counts.not_included[ends] += 1
        if not (is_included and is_selected(line)):
            continue
        counts.streamlines += 1
        counts.steps += len(line.points_mm) - 1
        yield line
        if counts.streamlines == select:
            return


def show_progress(
    items: Iterable[_Item], total: int, unit: str, done: Callable[[], int]
) -> Iterator[_Item]:
    """Yield items, and show the progress: a bar in a terminal, otherwise log messages.

    Parameters
    ----------
    items : iterable
    total : int
        Number that ``done`` returns at the end.
    unit : str
        What is counted, such as ``"seeds"``.
    done : callable
        Returns the number that is done.

    Yields
    ------
    item : object
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, unit=f" {unit}") as bar:
            for item in items:
                yield item
                bar.update(done() - bar.n)
            bar.update(done() - bar.n)
        return
    tenths = 0
    for item in items:
        yield item
        if 10 * done() // total > tenths:
            tenths = 10 * done() // total
            logger.info(f"{done()} of {total} {unit}")
