"""The check that a stopping criterion is on the grid of the fODF.

A criterion gets points in voxel coordinates. On another grid, these are other places,
and streamlines end where they should not. For an image on another grid there is
:class:`dipy_rnn.stopping.OwnGridCriterion`.
"""

from dipy.tracking import stopping_criterion as dipy_criteria
from dipy.tracking.stopping_criterion import StreamlineStatus
import numpy as np

from dipy_rnn._typing import FloatArray
from dipy_rnn.spatial import check_affine, is_same_grid
from dipy_rnn.stopping.criteria import decompose
from dipy_rnn.stopping.evaluate import StoppingCriterion
from dipy_rnn.stopping.wrappers import ExclusionCriterion

_OF_DIPY = (
    dipy_criteria.ThresholdStoppingCriterion,
    dipy_criteria.BinaryStoppingCriterion,
    dipy_criteria.ActStoppingCriterion,
    dipy_criteria.CmcStoppingCriterion,
)
_WRAP = "wrap it in dipy_rnn.stopping.OwnGridCriterion, with the affine of its image."


def check_criterion_grid(
    criterion: StoppingCriterion, shape: tuple[int, ...], affine: FloatArray
) -> None:
    """Raise ValueError if a criterion is known to be on another grid.

    Parameters
    ----------
    criterion : dipy_rnn.stopping.StoppingCriterion
        The shape of the maps of DIPY's criteria, and of those of this package, is
        compared. These do not know their affine. DIPY's ACT and CMC show only where
        both of their maps end, so one map that is larger is not detected. Of any other
        criterion, the attributes ``shape`` and ``affine`` are compared, if it has them;
        those of :class:`dipy_rnn.stopping.OwnGridCriterion` are of the fODF.
    shape : tuple of 3 int
        Of the fODF.
    affine : ndarray of shape (4, 4)
        Voxel to mm, of the fODF.

    Raises
    ------
    ValueError
        If the shape or the affine differs.

    Examples
    --------
    >>> from dipy_rnn.stopping import BinaryStoppingCriterion
    >>> criterion = BinaryStoppingCriterion(np.ones((90, 90, 60)))
    >>> check_criterion_grid(criterion, (90, 90, 60), np.eye(4))
    >>> check_criterion_grid(criterion, (30, 30, 20), np.eye(4))
    Traceback (most recent call last):
    ValueError: stopping_criterion is on a grid of (90, 90, 60) voxels and the fODF ...
    """
    if isinstance(criterion, ExclusionCriterion):
        check_criterion_grid(criterion.criterion, shape, affine)
    kind, maps, _ = decompose(criterion)
    grids = [each.shape for each in maps]  # ACT and CMC have two maps
    if not kind and (own := getattr(criterion, "shape", None)) is not None:
        grids = [own]
    for theirs in grids:
        if tuple(theirs)[:3] != tuple(shape):
            raise ValueError(
                f"stopping_criterion is on a grid of {tuple(theirs)[:3]} voxels and "
                f"the fODF on one of {tuple(shape)}; {_WRAP}"
            )
    if type(criterion) in _OF_DIPY and not _has_shape(criterion, shape):
        raise ValueError(
            "the image of stopping_criterion has another number of voxels than the "
            f"fODF, which has {tuple(shape)}; {_WRAP}"
        )
    other = getattr(criterion, "affine", None)
    if other is not None and not is_same_grid(
        affine, check_affine(other, "stopping_criterion.affine")
    ):
        raise ValueError(
            f"stopping_criterion.affine differs from that of the fODF; {_WRAP}"
        )


def _has_shape(criterion: StoppingCriterion, shape: tuple[int, ...]) -> bool:
    """Tell whether the map of one of DIPY's criteria has a shape.

    DIPY hides the map. A criterion answers OUTSIDEIMAGE outside of it.
    """
    outside = StreamlineStatus.OUTSIDEIMAGE
    last = np.array(shape, dtype=float) - 1
    if criterion.check_point(last) == outside:
        return False
    for axis in range(3):
        beyond = np.zeros(3)
        beyond[axis] = last[axis] + 1
        if criterion.check_point(beyond) != outside:
            return False
    return True
