"""Selecting streamlines by the regions that they enter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dipy_rnn.stopping import ExclusionCriterion, StopReason

if TYPE_CHECKING:
    from dipy_rnn._typing import ArrayLike, FloatArray
    from dipy_rnn.stopping import Region, StoppingCriterion
    from dipy_rnn.tracking import Streamline


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
        if any(region.contains(line.seed_mm[None])[0] for region in self.exclude):
            end = StopReason.EXCLUDE_REGION
            return replace(line, forward_stop=end, backward_stop=end), False
        if not self.include:
            return line, True
        entered = np.zeros((len(self.include), 1), dtype=bool)
        for is_backward in (False, True)[:n_ends]:
            half = line.backward_half if is_backward else line.forward_half
            points_mm = np.vstack([half, *_point_beyond(line, is_backward)])
            contained = [region.contains(points_mm) for region in self.include]
            # For each region and point, whether the region is entered up to the point.
            so_far = entered | np.logical_or.accumulate(contained, axis=1)
            entered = so_far[:, -1:]
            if entered.all():
                if self.stop_at_include:
                    n_points = int(np.argmax(so_far.all(axis=0))) + 1
                    line = _cut(line, min(n_points, len(half)), is_backward)
                return line, True
        return line, False


def _point_beyond(line: Streamline, is_backward: bool) -> list[FloatArray]:
    """Return the point at which the criterion ended a half, if it did."""
    points_mm = line.points_mm[::-1] if is_backward else line.points_mm
    stop = line.backward_stop if is_backward else line.forward_stop
    if stop is not StopReason.ENDPOINT or len(points_mm) == 1:
        return []
    return [2 * points_mm[-1] - points_mm[-2]]


def _cut(line: Streamline, n_points: int, is_backward: bool) -> Streamline:
    """End a streamline after some points of one half, counted from the seed."""
    end = StopReason.ALL_INCLUDED
    if not is_backward:
        points_mm = line.forward_half[:n_points]
        return replace(
            line,
            points_mm=points_mm,
            forward_stop=end,
            backward_stop=end,
            n_forward=len(points_mm),
        )
    n_left_out = len(line.points_mm) - line.n_forward + 1 - n_points
    return replace(line, points_mm=line.points_mm[n_left_out:], backward_stop=end)
