"""Voxels that streamlines visit and regions that they connect.

:func:`visits` counts streamlines in each voxel. Two tractograms are compared by their
voxels with :func:`dice`, :func:`weighted_dice` and :func:`density_correlation`;
:func:`coverage` compares one tractogram with a mask. :func:`connections` tells which
regions each streamline connects.

A streamline visits a voxel if one of its points lies in it, so points should be closer
together than a voxel. A voxel with index ``i`` owns ``[i - 0.5, i + 0.5)`` along each
axis.
"""

from collections.abc import Iterable

import numpy as np
from scipy.sparse import csr_array

from dipy_rnn import _checks, spatial
from dipy_rnn._typing import AnyArray, BoolArray, FloatArray, IntArray
from dipy_rnn.evaluation.distances import as_streamlines
from dipy_rnn.evaluation.statistics import LARGEST, check_same_shape

_MOST_REGIONS = 2**15
# An image stored as integers with a scale factor returns labels that are not exactly
# whole.
_LABEL_TOLERANCE = 0.01


def voxels_of(
    points_mm: AnyArray, affine: FloatArray, shape: tuple[int, ...]
) -> tuple[IntArray, BoolArray]:
    """Find the voxels that points lie in.

    Parameters
    ----------
    points_mm : ndarray of shape (N, 3)
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    shape : tuple of 3 ints
        Number of voxels along each axis.

    Returns
    -------
    voxels : ndarray of shape (N, 3), int
    is_inside : ndarray of shape (N,), bool
        Whether the voxel is on the grid.

    Examples
    --------
    >>> voxels, is_inside = voxels_of(np.array([[0.6, 0, 0]]), np.eye(4), (2, 1, 1))
    >>> voxels.tolist(), is_inside.tolist()
    ([[1, 0, 0]], [True])
    """
    voxels = np.floor(spatial.to_voxels(points_mm, affine) + 0.5).astype(int)
    return voxels, np.all((voxels >= 0) & (voxels < shape), axis=1)


def end_voxels(
    lines: list[FloatArray],
    end: int,
    affine: FloatArray,
    shape: tuple[int, ...],
) -> tuple[IntArray, IntArray]:
    """Find the voxels that streamlines begin or end in.

    Parameters
    ----------
    lines : list of ndarrays of shape (M, 3)
        In mm.
    end : int
        0 for first points, -1 for last points.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    shape : tuple of 3 ints
        Number of voxels along each axis.

    Returns
    -------
    indices : ndarray of shape (P,), int
        The streamlines whose point at this end is on the grid.
    voxels : ndarray of shape (P, 3), int
        The voxels of these points.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0]])
    >>> indices, voxels = end_voxels([line, line + 5], -1, np.eye(4), (3, 1, 1))
    >>> indices.tolist(), voxels.tolist()
    ([0], [[1, 0, 0]])
    """
    with_points = np.flatnonzero([len(line) > 0 for line in lines])
    tips_mm = np.array([lines[i][end] for i in with_points]).reshape(-1, 3)
    voxels, is_inside = voxels_of(tips_mm, affine, shape)
    return with_points[is_inside], voxels[is_inside]


def visited_voxels(
    streamlines: Iterable[AnyArray], affine: FloatArray, shape: tuple[int, ...]
) -> csr_array:
    """Mark the voxels that each streamline visits.

    Parameters
    ----------
    streamlines : iterable of N ndarrays of shape (M, 3)
        In mm.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    shape : tuple of 3 ints
        Number of voxels along each axis.

    Returns
    -------
    visited : scipy.sparse.csr_array of shape (N, X * Y * Z), int
        1 where the streamline has a point in the voxel. Points outside the grid are
        left out. A vector of weights, one for each streamline, times this matrix gives
        the weighted visits; :func:`bootstrapped` takes this matrix.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [0.4, 0, 0], [1, 0, 0], [9, 0, 0]])
    >>> visited_voxels([line, line[:2]], np.eye(4), (3, 1, 1)).toarray().tolist()
    [[1, 1, 0], [1, 0, 0]]
    """
    lines = as_streamlines(streamlines, "streamlines")
    affine, shape = spatial.check_affine(affine), _checks.check_shape(shape)
    rows = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    points_mm = np.concatenate([np.empty((0, 3)), *lines])
    voxels, is_inside = voxels_of(points_mm, affine, shape)
    columns = np.ravel_multi_index(tuple(voxels[is_inside].T), shape)
    visited = csr_array(
        (np.ones(len(columns), dtype=int), (rows[is_inside], columns)),
        shape=(len(lines), np.prod(shape)),
    )
    visited.sum_duplicates()
    visited.data[:] = 1
    return visited


def visits(
    streamlines: Iterable[AnyArray], affine: FloatArray, shape: tuple[int, ...]
) -> IntArray:
    """Count the streamlines in each voxel.

    The counts are those of :func:`dipy.tracking.utils.density_map`. Points outside the
    grid are left out here, but raise an error there.

    Parameters
    ----------
    streamlines : iterable of ndarrays of shape (M, 3)
        In mm.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    shape : tuple of 3 ints
        Number of voxels along each axis.

    Returns
    -------
    visits : ndarray of shape (X, Y, Z), int
        Number of streamlines with a point in the voxel; each counts once.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [0.4, 0, 0], [1, 0, 0], [9, 0, 0]])
    >>> visits([line, line[:2]], np.eye(4), (3, 1, 1)).ravel().tolist()
    [2, 1, 0]
    """
    visited = visited_voxels(streamlines, affine, shape)
    counts: IntArray = visited.sum(axis=0).reshape(shape)
    return counts


def dice(mask: BoolArray, other: BoolArray) -> float:
    """Compute the Dice coefficient of two masks.

    Parameters
    ----------
    mask, other : ndarray of shape (X, Y, Z), bool

    Returns
    -------
    dice : float
        ``2 |A and B| / (|A| + |B|)``: 1 for equal masks, two empty ones included; 0
        for masks that share no voxel.

    Examples
    --------
    >>> dice(np.array([True, True, False]), np.array([False, True, False]))
    0.6666666666666666
    """
    mask, other = (image != 0 for image in check_same_shape(mask=mask, other=other))
    total = np.count_nonzero(mask) + np.count_nonzero(other)
    return float(2 * np.count_nonzero(mask & other) / total) if total else 1.0


def weighted_dice(visits: AnyArray, other: AnyArray) -> float:
    """Compute the Dice coefficient of two density maps, weighted by their values.

    Parameters
    ----------
    visits, other : ndarray of shape (X, Y, Z)
        Result of :func:`visits` for two tractograms.

    Returns
    -------
    dice : float
        Share of the visits of a tractogram that lies in voxels visited by both,
        averaged over the two tractograms. 1 if both visit the same voxels, or none; 0
        if they share no voxel. A voxel with few streamlines has little weight, unlike
        in :func:`dice`.

    Notes
    -----
    Over all voxels v, and over the voxels v' where both w_a and w_b are above 0,
    [1]_ ::

        sum_v' (w_a + w_b) / sum_v (w_a + w_b)

    Each map w is divided by its sum first, so that both tractograms have the same
    weight.

    References
    ----------
    .. [1] Cousineau M, Jodoin PM, Garyfallidis E, et al. A test-retest study on
       Parkinson's PPMI dataset yields statistically significant white matter
       fascicles. NeuroImage: Clinical 16, 2017.

    Examples
    --------
    >>> weighted_dice(np.array([3, 1, 0]), np.array([1, 0, 1]))  # 3 / 4 and 1 / 2
    0.625
    """
    visits, other = check_same_shape(visits=visits, other=other)
    both = (visits > 0) & (other > 0)
    if not both.any():
        return 0.0 if visits.any() or other.any() else 1.0
    return float(np.mean([w[both].sum() / w.sum() for w in (visits, other)]))


def density_correlation(visits: AnyArray, other: AnyArray) -> float:
    """Correlate two density maps over the voxels that either tractogram visits.

    Parameters
    ----------
    visits, other : ndarray of shape (X, Y, Z)
        Result of :func:`visits` for two tractograms.

    Returns
    -------
    correlation : float
        Pearson's correlation; NaN if one of the maps is constant in these voxels.

    Examples
    --------
    >>> round(density_correlation(np.array([0, 1, 2, 3]), np.array([0, 1, 2, 6])), 3)
    0.945
    """
    visits, other = check_same_shape(visits=visits, other=other)
    either = (visits > 0) | (other > 0)
    maps = visits[either], other[either]
    if not either.any() or min(map(np.ptp, maps)) == 0:
        return float("nan")
    return float(np.corrcoef(*maps)[0, 1])


def coverage(visits: AnyArray, mask: BoolArray) -> float:
    """Compute the share of a mask that streamlines visit.

    Parameters
    ----------
    visits : ndarray of shape (X, Y, Z)
        Result of :func:`visits`.
    mask : ndarray of shape (X, Y, Z), bool
        For example the white matter.

    Returns
    -------
    coverage : float
        From 0 to 1; NaN for an empty mask.

    Examples
    --------
    >>> coverage(np.array([2, 0, 1, 1]), np.array([True, True, True, False]))
    0.6666666666666666
    """
    visits, mask = check_same_shape(visits=visits, mask=mask)
    mask = mask != 0
    return float((visits[mask] > 0).mean()) if mask.any() else np.nan


def round_labels(labels: AnyArray, name: str = "labels") -> IntArray:
    """Round the values of a label image to whole numbers.

    An image that is stored as integers with a scale factor returns values that differ
    a little from whole numbers.

    Parameters
    ----------
    labels : ndarray of shape (X, Y, Z)
    name : str, optional
        Name of the image in errors.

    Returns
    -------
    labels : ndarray of shape (X, Y, Z), int

    Raises
    ------
    ValueError
        If a value is negative, 2**31 or more, NaN, or differs from a whole number by
        more than 0.01.

    Examples
    --------
    >>> round_labels(np.array([0.0, 1.004, 2.0])).tolist()
    [0, 1, 2]
    """
    values = _checks.check_numbers(labels, name).astype(float)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        whole = np.rint(values)
        deviation = np.abs(values - whole)
    # Negated, so that NaN is invalid.
    is_invalid = ~((deviation <= _LABEL_TOLERANCE) & (whole >= 0) & (whole < 2**31))
    if is_invalid.any():
        raise ValueError(
            f"{name} holds {values[is_invalid][0]:g}; labels are whole numbers of 0 or "
            "more."
        )
    rounded: IntArray = whole.astype(int)
    return rounded


def _as_integers(labels: AnyArray) -> AnyArray:
    labels = _checks.check_numbers(labels, "labels")
    if labels.dtype.kind == "f":
        with np.errstate(over="ignore"):
            labels = labels.astype(float)
        if not (np.abs(labels) < LARGEST).all() or (labels != np.rint(labels)).any():
            raise ValueError(
                "labels holds other values than whole numbers; round them first."
            )
        labels = labels.astype(np.int64)
    return labels


def connections(
    streamlines: Iterable[AnyArray], affine: FloatArray, labels: AnyArray
) -> csr_array:
    """Find the two regions that each streamline connects.

    Parameters
    ----------
    streamlines : sequence of N ndarrays of shape (M, 3)
        In mm.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    labels : ndarray of shape (X, Y, Z), int
        Regions 1 to R. A voxel with a value of 0 or less belongs to no region.

    Returns
    -------
    connections : scipy.sparse.csr_array of shape (N, R * R), int
        1 in column (a - 1) * R + b - 1 if the two end points of a streamline lie in
        the regions a < b, in either order. A streamline with both ends in one region
        connects nothing.

    Raises
    ------
    ValueError
        If labels is not a 3D image of whole numbers up to 32768, or streamlines or
        affine are invalid.

    Notes
    -----
    The sum over the streamlines, reshaped to (R, R), is the part of the connectivity
    matrix above its diagonal (:func:`dipy.tracking.utils.connectivity_matrix`). An end
    outside the grid belongs to no region here, but raises an error there.
    :func:`density_correlation` of the sums of two tractograms is Pearson's correlation
    of their connectivity matrices over the pairs of regions that either connects;
    :func:`bootstrapped` adds its standard error.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> labels = np.array([1, 0, 2]).reshape(3, 1, 1)
    >>> connected = connections([line, line[::-1], line[:2]], np.eye(4), labels)
    >>> connected.sum(axis=0).reshape(2, 2).tolist()
    [[0, 2], [0, 0]]
    """
    lines, labels = as_streamlines(streamlines, "streamlines"), _as_integers(labels)
    affine = spatial.check_affine(affine)
    if labels.ndim != 3 or not labels.size or labels.max() > _MOST_REGIONS:
        raise ValueError(
            f"labels has the shape {labels.shape} and goes up to "
            f"{labels.max(initial=0)}; a 3D image (X, Y, Z) of at most {_MOST_REGIONS} "
            "regions is needed, whose connectivity matrix fits into memory."
        )
    ends = np.zeros((2, len(lines)), dtype=int)
    for regions, end in zip(ends, (0, -1)):
        indices, voxels = end_voxels(lines, end, affine, labels.shape)
        regions[indices] = labels[*voxels.T]
    lower, upper = np.sort(ends, axis=0)
    connecting = np.flatnonzero((lower > 0) & (lower < upper))
    n_regions = int(labels.max())
    pairs = (lower[connecting] - 1) * n_regions + upper[connecting] - 1
    return csr_array(
        (np.ones(len(connecting), dtype=int), (connecting, pairs)),
        shape=(len(lines), n_regions**2),
    )
