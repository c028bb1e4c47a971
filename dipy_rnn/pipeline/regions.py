"""Selecting streamlines by the regions that they enter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dipy_rnn.stopping import ExclusionCriterion, StopReason

if TYPE_CHECKING:
    from dipy_rnn._typing import ArrayLike, BoolArray, FloatArray, IntArray
    from dipy_rnn.stopping import Region, StoppingCriterion
    from dipy_rnn.tracking import FinishedStreamlines, Streamline

_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Regions:
    """Regions that streamlines must enter, or must not enter.

    A streamline enters a region if one of its points is in it, the seed included. The
    point at which the stopping criterion ends a half is not part of the streamline. It
    counts as well, so that a region of grey matter can be entered with ACT. For include
    regions it is taken straight ahead, one step after the last point.

    Parameters
    ----------
    include : sequence of dipy_rnn.stopping.Region, optional
        A streamline is kept only if it enters all of them, in any order.
    exclude : sequence of dipy_rnn.stopping.Region, optional
        A streamline is kept only if it enters none of them.
    stop_at_include : bool, optional
        If True, a streamline ends where it enters the last of the include regions.

    Raises
    ------
    ValueError
        If `stop_at_include` is True without include regions.

    Examples
    --------
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.sampling import fodf_features
    >>> from dipy_rnn.stopping import BinaryStoppingCriterion, Sphere
    >>> from dipy_rnn.tracking import track
    >>> phantom = crossing_phantom(90)
    >>> regions = Regions([Sphere((9, 0, 0), 3)], exclude=[Sphere((0, 9, 0), 3)])
    >>> criterion = regions.wrap(
    ...     BinaryStoppingCriterion(phantom.mask()), phantom.affine)
    >>> lines = track([[-9, 0, 0], [0, -9, 0]], criterion, phantom.affine,
    ...     features=fodf_features(phantom.fodf()), step_size=1.0)
    >>> for line in lines:
    ...     line, is_included = regions.apply(line)
    ...     print(line.forward_stop.name, is_included)
    ENDPOINT True
    EXCLUDE_REGION False
    """

    include: Sequence[Region] = ()
    exclude: Sequence[Region] = ()
    stop_at_include: bool = False

    def __post_init__(self) -> None:
        if self.stop_at_include and not self.include:
            raise ValueError(
                "stop_at_include needs include regions; give some, or leave it out."
            )

    def wrap(
        self, criterion: StoppingCriterion, affine: ArrayLike
    ) -> StoppingCriterion:
        """Return a criterion that ends streamlines in exclude regions.

        Parameters
        ----------
        criterion : dipy_rnn.stopping.StoppingCriterion
        affine : array_like of shape (4, 4)
            Voxel to mm, of the fODF.

        Returns
        -------
        criterion : dipy_rnn.stopping.StoppingCriterion
            `criterion` itself if there are no exclude regions.
        """
        if not self.exclude:
            return criterion
        return ExclusionCriterion(criterion, self.exclude, affine)

    def apply(self, line: Streamline, n_ends: int = 2) -> tuple[Streamline, bool]:
        """Apply the regions to a streamline.

        Parameters
        ----------
        line : dipy_rnn.tracking.Streamline
            Tracked with the criterion of :meth:`wrap`.
        n_ends : int, optional
            Number of ends at which tracking stopped: 1 if it was unidirectional.

        Returns
        -------
        line : dipy_rnn.tracking.Streamline
            With EXCLUDE_REGION as a reason if it entered an exclude region. With
            `stop_at_include`, it ends with ALL_INCLUDED where it enters the last
            include region. If this is in the forward half, there is no backward half.
        is_included : bool
            Whether it entered all include regions.
        """
        from dipy_rnn.tracking import FinishedStreamlines

        block = FinishedStreamlines.of(line)
        after, is_included = self.apply_to_all(block, line.seed_mm[None], n_ends)
        if after is block:
            return line, bool(is_included[0])
        changed = replace(
            line,
            points_mm=after.points_mm,
            forward_stop=StopReason(after.forward_stop[0]),
            backward_stop=StopReason(after.backward_stop[0]),
            n_forward=int(after.n_forward[0]),
        )
        return changed, bool(is_included[0])

    def apply_to_all(
        self, block: FinishedStreamlines, seeds_mm: FloatArray, n_ends: int = 2
    ) -> tuple[FinishedStreamlines, BoolArray]:
        """Apply the regions to a block of streamlines, as :meth:`apply` does to one.

        Parameters
        ----------
        block : dipy_rnn.tracking.FinishedStreamlines
        seeds_mm : ndarray of shape (k, 3)
            The seed of each streamline.
        n_ends : int, optional

        Returns
        -------
        block : dipy_rnn.tracking.FinishedStreamlines
        is_included : ndarray of shape (k,), bool
        """
        is_excluded = np.zeros(len(seeds_mm), bool)
        for region in self.exclude:
            is_excluded |= region.contains(seeds_mm)
        is_included = ~is_excluded
        if self.include:
            entered = _entries(block, self.include, n_ends)
            is_included &= entered < _NEVER
            if self.stop_at_include and is_included.any():
                block = _cut(block, np.where(is_included, entered, _NEVER))
        if is_excluded.any():
            end = StopReason.EXCLUDE_REGION
            block = replace(
                block,
                forward_stop=np.where(is_excluded, end, block.forward_stop),
                backward_stop=np.where(is_excluded, end, block.backward_stop),
            )
        return block, is_included


def _entries(
    block: FinishedStreamlines, regions: Sequence[Region], n_ends: int
) -> IntArray:
    """Return when each streamline has entered all regions, of shape (k,).

    Points are numbered as they were tracked: the seed is 0, then come the points of the
    forward half and the point beyond it, and then those of the backward half, from the
    seed on, and the point beyond it.
    """
    n_points, n_forward = block.n_points, block.n_forward
    ends = np.cumsum(n_points)
    begins, seeds = ends - n_points, ends - n_forward
    from_seed = np.arange(len(block.points_mm)) - np.repeat(seeds, n_points)
    numbers = np.where(
        from_seed >= 0, from_seed, np.repeat(n_forward + 1, n_points) - from_seed
    )
    # For each end, the points before it, whether there is one beyond, and its number.
    tips = [(ends - 1, ends - 2, block.forward_stop, n_forward)]
    tips += [(begins, begins + 1, block.backward_stop, n_points + 2)][: n_ends - 1]
    last = np.zeros(len(n_points), np.int64)
    for region in regions:
        contained = region.contains(block.points_mm)
        first = np.minimum.reduceat(np.where(contained, numbers, _NEVER), begins)
        for tip, before, stop, number in tips:
            is_met = (stop == StopReason.ENDPOINT) & (n_points > 1)
            beyond_mm = 2 * block.points_mm[tip] - block.points_mm[before % ends[-1]]
            is_met &= region.contains(beyond_mm)
            first = np.minimum(first, np.where(is_met, number, _NEVER))
        last = np.maximum(last, first)
    return last


def _cut(block: FinishedStreamlines, entered: IntArray) -> FinishedStreamlines:
    """End streamlines at the point with the number of :func:`_entries`, if any."""
    n_points, n_forward = block.n_points, block.n_forward
    n_backward = n_points - n_forward + 1
    in_forward = entered <= n_forward
    in_backward = ~in_forward & (entered < _NEVER)
    kept_forward = np.where(in_forward, np.minimum(entered + 1, n_forward), n_forward)
    kept_backward = np.minimum(entered - n_forward, n_backward)
    kept_backward = np.where(in_backward, kept_backward, n_backward)
    kept_backward[in_forward] = 1
    # For each point, its place in the streamline, and whether it is kept.
    places = np.arange(len(block.points_mm))
    places -= np.repeat(np.cumsum(n_points) - n_points, n_points)
    first = n_backward - kept_backward
    kept = kept_backward + kept_forward - 1
    is_kept = places >= np.repeat(first, n_points)
    is_kept &= places < np.repeat(first + kept, n_points)
    end = StopReason.ALL_INCLUDED
    return replace(
        block,
        n_points=kept,
        n_forward=kept_forward,
        points_mm=block.points_mm[is_kept],
        forward_stop=np.where(in_forward, end, block.forward_stop),
        backward_stop=np.where(in_forward | in_backward, end, block.backward_stop),
    )
