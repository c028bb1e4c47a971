"""Tracking batches of seeds, selecting streamlines, and counting both.

`select_blocks` tracks seeds with a network and yields the streamlines whose length and
ends meet the conditions, in blocks of arrays. `track_selected` yields them one by one.
An end is valid if tracking stopped there for a valid reason
(:attr:`dipy_rnn.stopping.StopReason.is_valid_end`). `TrackingCounts` counts seeds,
streamlines and the reasons why tracking stopped, also of streamlines that are not
selected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
import logging
import sys
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from dipy_rnn import spatial
from dipy_rnn.pipeline.regions import Regions
from dipy_rnn.stopping import NOT_INCLUDED, StopReason, format_fates, format_tally

if TYPE_CHECKING:
    from dipy_rnn._typing import BoolArray, FloatArray, IntArray
    from dipy_rnn.sampling import FeatureVolume
    from dipy_rnn.stopping import StoppingCriterion
    from dipy_rnn.tracking import FinishedStreamlines, Streamline

_Item = TypeVar("_Item")

#: Selected streamlines, and the seeds to which ``index`` of the block refers.
Selected: TypeAlias = "tuple[FinishedStreamlines, FloatArray]"

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

    def add(
        self, block: FinishedStreamlines, is_included: BoolArray, rows: IntArray
    ) -> None:
        """Count a block of streamlines.

        Parameters
        ----------
        block : dipy_rnn.tracking.FinishedStreamlines
        is_included : ndarray of shape (k,), bool
            Whether each streamline entered all include regions.
        rows : ndarray of shape (n,)
            Numbers of the selected streamlines.
        """
        self.streamlines += len(rows)
        self.steps += int((block.n_points[rows] - 1).sum())
        ends = np.stack([block.forward_stop, block.backward_stop], axis=1)
        self.ends += _tally(ends)
        self.not_included += _tally(ends[~is_included])

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


def _tally(ends: IntArray) -> Counter[tuple[StopReason, StopReason]]:
    """Count the pairs of reasons of streamlines, (k, 2)."""
    n = len(StopReason)
    table = np.bincount(ends @ [n, 1], minlength=n * n).reshape(n, n)
    return Counter(
        {
            (StopReason(forward), StopReason(backward)): int(table[forward, backward])
            for forward, backward in np.argwhere(table)
        }
    )


def select_blocks(
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
) -> Generator[Selected, None, None]:
    """Track batches of seeds, and yield the streamlines that are selected, in blocks.

    Parameters
    ----------
    batches : iterable of ndarray of shape (N, 3)
        Seeds in mm. Equal seeds must be in one batch: in different batches they get the
        same random numbers.
    stopping_criterion, affine, step_size, **options
        As for :func:`dipy_rnn.tracking.track_blocks`.
    counts : TrackingCounts
        Updated for each block that is tracked.
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
    blocks : generator of (dipy_rnn.tracking.FinishedStreamlines, ndarray)
        One or more streamlines, and all seeds of their batch. ``index`` of the block is
        that of the seeds.

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
    >>> blocks = select_blocks(
    ...     [seeds], BinaryStoppingCriterion(phantom.mask()), phantom.affine, counts,
    ...     min_len=2, max_len=500, step_size=1.0, select=2,
    ...     features=fodf_features(phantom.fodf()))
    >>> sum(len(block.index) for block, _ in blocks), counts.streamlines
    (2, 2)
    """
    from dipy_rnn.tracking import length_limits, track_blocks

    min_points, max_points = length_limits(min_len, max_len, step_size)
    options |= {"max_len": max_len, "step_size": step_size}
    regions = regions or Regions()
    criterion = regions.wrap(stopping_criterion, affine)
    n_ends = 2 - bool(options.get("unidirectional"))

    def is_selected(block: FinishedStreamlines) -> BoolArray:
        selected = (block.n_points >= min_points) & (block.n_points <= max_points)
        for stop in (block.forward_stop, block.backward_stop):
            selected &= stop != StopReason.EXCLUDE_REGION
        return selected & block.has_valid_ends if only_valid_ends else selected

    def generate() -> Iterator[Selected]:
        for seeds in batches:
            blocks = track_blocks(seeds, criterion, affine, **options)
            count_seeds = _seed_counter(seeds, affine, options["features"], counts)
            for block in blocks:
                seeds_mm = seeds[block.index]
                block, is_included = regions.apply_to_all(block, seeds_mm, n_ends)
                (rows,) = np.nonzero(is_included & is_selected(block))
                is_enough = 0 < select <= counts.streamlines + len(rows)
                if is_enough:  # what follows does not count
                    rows = rows[: select - counts.streamlines]
                    block = block.select(np.arange(rows[-1] + 1))
                    is_included = is_included[: rows[-1] + 1]
                count_seeds(block.index)
                counts.add(block, is_included, rows)
                yield block.select(rows), seeds
                if is_enough:
                    return
            count_seeds()

    def with_progress() -> Generator[Selected, None, None]:
        blocks = generate()
        if progress_of and select:
            blocks = show_progress(
                blocks, select, "streamlines", lambda: counts.streamlines
            )
        elif progress_of:
            blocks = show_progress(blocks, progress_of, "seeds", lambda: counts.seeds)
        yield from (block for block in blocks if len(block[0].index))

    return with_progress()


def track_selected(
    batches: Iterable[FloatArray],
    stopping_criterion: StoppingCriterion,
    affine: FloatArray,
    counts: TrackingCounts,
    **options: Any,
) -> Generator[Streamline, None, None]:
    """Track batches of seeds, and yield the streamlines that are selected.

    Parameters
    ----------
    batches, stopping_criterion, affine, counts, **options
        As for :func:`select_blocks`.

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
    >>> streamlines = track_selected(
    ...     [seeds], BinaryStoppingCriterion(phantom.mask()), phantom.affine,
    ...     TrackingCounts(step_mm=1.0), min_len=2, max_len=500, step_size=1.0,
    ...     features=fodf_features(phantom.fodf()))
    >>> len(list(streamlines))
    3
    """
    blocks = select_blocks(batches, stopping_criterion, affine, counts, **options)
    return (line for block, seeds in blocks for line in block.split(seeds))


def _seed_counter(
    seeds: FloatArray,
    affine: FloatArray,
    features: FeatureVolume,
    counts: TrackingCounts,
) -> Callable[..., None]:
    """Return a function that counts seeds up to the last one of a block, or all."""
    inside = spatial.is_inside(spatial.to_voxels(seeds, affine), features.data.shape)
    is_skipped, done = np.ones(len(seeds), bool), 0

    def count(index: IntArray | None = None) -> None:
        nonlocal done
        stop = len(seeds)
        if index is not None:
            is_skipped[index], stop = False, index[-1] + 1
        part = slice(done, stop)
        counts.seeds += stop - done
        counts.without_direction += int((is_skipped & inside)[part].sum())
        counts.outside += int((is_skipped & ~inside)[part].sum())
        done = stop

    return count


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
