"""Stopping criteria that wrap another one: on its own grid, or with exclude regions.

Use them with ``rnn_tracking``, or with ``RNNDirectionGetter`` in ``LocalTracking``.
DIPY's own direction getters do not call criteria that are written in Python: with them,
each streamline is a single point.
"""

from collections.abc import Sequence
from typing import Any

from dipy.tracking import stopping_criterion as dipy_criteria
import numpy as np

from dipy_rnn import spatial
from dipy_rnn._checks import check_shape
from dipy_rnn._typing import AnyArray, ArrayLike, FloatArray, IntArray
from dipy_rnn.stopping.evaluate import (
    StoppingCriterion,
    evaluate_criterion,
    is_stateless,
)
from dipy_rnn.stopping.reasons import StopReason
from dipy_rnn.stopping.regions import Region


class _WrappingCriterion(
    dipy_criteria.StoppingCriterion  # type: ignore[misc]  # DIPY has no types
):
    """A criterion that changes the decision of another one, or the place of its points.

    Subclasses have the method ``check_points``.

    Parameters
    ----------
    criterion : dipy_rnn.stopping.StoppingCriterion
        Wrapped. Several threads evaluate it.
    fodf_affine : array_like of shape (4, 4)
        Voxel to mm, of the fODF.
    """

    def __init__(self, criterion: StoppingCriterion, fodf_affine: ArrayLike) -> None:
        if not is_stateless(criterion):
            raise ValueError(
                f"criterion is of type {type(criterion).__name__}, whose decisions may "
                "depend on earlier points; use a criterion of dipy_rnn.stopping, or "
                "one with check_points."
            )
        self.criterion = criterion
        self.draws_at_random = bool(getattr(criterion, "draws_at_random", False))
        self.affine = spatial.check_affine(fodf_affine, "fodf_affine")

    def check_point(self, point: FloatArray) -> dipy_criteria.StreamlineStatus:
        """Return a value of ``StreamlineStatus`` for a point in voxels of the fODF."""
        reasons = np.array([StopReason.RUNNING], dtype=np.int64)
        self.check_points(np.array([point], dtype=np.float64), reasons)
        return StopReason(reasons[0]).status


class OwnGridCriterion(_WrappingCriterion):
    """A stopping criterion on the grid of its own image.

    The engine works in voxel coordinates of the fODF. Each point is converted to voxel
    coordinates of the image. The image is not resampled.

    A point that is outside the fODF, or outside the image, ends the streamline with
    OUTSIDE_IMAGE, which is a valid end.

    Parameters
    ----------
    criterion : dipy_rnn.stopping.StoppingCriterion
        Made from an image on any grid.
    affine : array_like of shape (4, 4)
        Voxel to mm, of this image.
    fodf_affine : array_like of shape (4, 4)
        Voxel to mm, of the fODF.
    fodf_shape : sequence of 3 int
        Number of voxels of the fODF along each axis.

    Raises
    ------
    ValueError
        If `criterion` may hold a state (:func:`dipy_rnn.stopping.is_stateless`), such
        as DIPY's CMC criterion. Also if an affine or the shape is invalid.

    Examples
    --------
    The image has voxels of 1 mm and the fODF voxels of 2 mm.

    >>> from dipy_rnn.stopping import BinaryStoppingCriterion
    >>> mask = np.ones((8, 1, 1))
    >>> mask[5:] = 0
    >>> criterion = OwnGridCriterion(
    ...     BinaryStoppingCriterion(mask), np.eye(4), np.diag([2, 2, 2, 1]), (4, 1, 1))
    >>> [criterion.check_point(np.array([x, 0, 0])).name for x in (2.0, 3.0, 4.0)]
    ['TRACKPOINT', 'ENDPOINT', 'OUTSIDEIMAGE']
    """

    def __init__(
        self,
        criterion: StoppingCriterion,
        affine: ArrayLike,
        fodf_affine: ArrayLike,
        fodf_shape: Sequence[int],
    ) -> None:
        super().__init__(criterion, fodf_affine)
        self.own_affine = spatial.check_affine(affine)
        self.shape = check_shape(fodf_shape, "fodf_shape")
        #: From voxels of the fODF to voxels of the image.
        self.to_own_grid: FloatArray = np.linalg.inv(self.own_affine) @ self.affine

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments of the constructor."""
        arguments = self.criterion, self.own_affine, self.affine, self.shape
        return type(self), arguments

    def check_points(
        self, points_vox: FloatArray, reasons: IntArray, *draws: AnyArray
    ) -> None:
        """As :meth:`dipy_rnn.stopping.BatchedStoppingCriterion.check_points`."""
        running = reasons == StopReason.RUNNING
        inside = spatial.is_inside(points_vox, self.shape)
        reasons[running & ~inside] = StopReason.OUTSIDE_IMAGE
        own = spatial.map_points(points_vox, self.to_own_grid)
        evaluate_criterion(self.criterion, own, reasons, *draws)


class ExclusionCriterion(_WrappingCriterion):
    """A stopping criterion, and regions that end streamlines.

    A step into a region ends the streamline with EXCLUDE_REGION, which is not a valid
    end. The criterion is not asked there. The seed itself is not tested.

    Parameters
    ----------
    criterion : dipy_rnn.stopping.StoppingCriterion
    regions : sequence of Region
    affine : array_like of shape (4, 4)
        Voxel to mm, of the fODF.

    Raises
    ------
    ValueError
        If `criterion` may hold a state (:func:`dipy_rnn.stopping.is_stateless`), such
        as DIPY's CMC criterion. Also if the affine is invalid.

    Examples
    --------
    >>> from dipy_rnn.stopping import BinaryStoppingCriterion, Sphere
    >>> criterion = ExclusionCriterion(
    ...     BinaryStoppingCriterion(np.ones((9, 1, 1))), [Sphere((8, 0, 0), 3)],
    ...     np.diag([2, 2, 2, 1]))
    >>> [criterion.check_point(np.array([x, 0, 0])).name for x in (2.0, 3.0)]
    ['TRACKPOINT', 'INVALIDPOINT']
    """

    def __init__(
        self,
        criterion: StoppingCriterion,
        regions: Sequence[Region],
        affine: ArrayLike,
    ) -> None:
        super().__init__(criterion, affine)
        self.regions = tuple(regions)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments of the constructor."""
        return type(self), (self.criterion, self.regions, self.affine)

    def check_points(
        self, points_vox: FloatArray, reasons: IntArray, *draws: AnyArray
    ) -> None:
        """As :meth:`dipy_rnn.stopping.BatchedStoppingCriterion.check_points`."""
        rows = np.flatnonzero(reasons == StopReason.RUNNING)
        points_mm = spatial.to_mm(points_vox[rows], self.affine)
        for region in self.regions:
            reasons[rows[region.contains(points_mm)]] = StopReason.EXCLUDE_REGION
        evaluate_criterion(self.criterion, points_vox, reasons, *draws)
