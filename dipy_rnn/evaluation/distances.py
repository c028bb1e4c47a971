"""Distances and angles between two streamlines.

The streamlines of two trackers are compared in pairs, for example those of the same
seed: :func:`hausdorff_mm`, :func:`mean_closest_point_mm`, :func:`end_point_mm` and
:func:`angular_difference_deg` compare one pair, :func:`agreement` many.
:func:`followed` tells which known streamlines a tracker reproduced.
:func:`mean_curvature_per_mm` measures a single streamline.

Streamlines are arrays of shape (M, 3) in mm (RAS+). Distances are measured between
their points, so neighbouring points should be closer together than the distances to be
measured.
"""

from collections.abc import Iterable, Iterator

from dipy.segment.metric import mdf
from dipy.tracking.distances import mam_distances
from dipy.tracking.streamline import length
import numpy as np
from scipy.spatial import cKDTree

from dipy_rnn import _checks
from dipy_rnn._typing import AnyArray, BoolArray, FloatArray, IntArray


def as_streamlines(streamlines: Iterable[AnyArray], name: str) -> list[FloatArray]:
    """Return streamlines as a list of float arrays.

    Parameters
    ----------
    streamlines : iterable of array_like of shape (M, 3)
    name : str
        Name of the argument in errors.

    Returns
    -------
    streamlines : list of ndarrays of shape (M, 3)

    Raises
    ------
    ValueError
        If this is not an iterable of points of shape (M, 3).

    Examples
    --------
    >>> as_streamlines([[[1, 2, 3]]], "streamlines")
    [array([[1., 2., 3.]])]
    """
    try:
        lines = list(streamlines)
    except TypeError:
        raise ValueError(
            f"{name} is of type {type(streamlines).__name__}; streamlines are needed."
        ) from None
    return [_checks.as_points(line, name) for line in lines]


def with_length(streamlines: Iterable[FloatArray]) -> IntArray:
    """Find the streamlines that have a length above 0.

    Parameters
    ----------
    streamlines : iterable of ndarrays of shape (M, 3)

    Returns
    -------
    indices : ndarray of shape (P,), int

    Examples
    --------
    >>> with_length([np.zeros((2, 3)), np.eye(3)]).tolist()
    [1]
    """
    return np.flatnonzero([length(line) > 0 for line in streamlines])


def _as_pair(**streamlines: AnyArray) -> list[FloatArray]:
    return [_checks.as_points(line, name) for name, line in streamlines.items()]


def _pairs(
    streamlines: Iterable[AnyArray],
    name: str,
    others: Iterable[AnyArray],
    others_name: str,
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Return pairs of streamlines of equal index."""
    lines = as_streamlines(streamlines, name)
    partners = as_streamlines(others, others_name)
    if len(lines) != len(partners):
        raise ValueError(
            f"{name} holds {len(lines)} streamlines and {others_name} holds "
            f"{len(partners)}; equal numbers are needed."
        )
    return zip(lines, partners)


def _directed_hausdorff_mm(points: FloatArray, others: FloatArray) -> float:
    """Return the largest distance from a point to the nearest of the others."""
    if not len(points) or not len(others):
        return np.inf
    return float(cKDTree(others).query(points)[0].max())


def hausdorff_mm(streamline: AnyArray, other: AnyArray) -> float:
    """Compute the Hausdorff distance of two streamlines.

    It is the largest distance from a point of one streamline to the nearest point of
    the other one.

    Parameters
    ----------
    streamline, other : ndarray of shape (M, 3)
        In mm. M may differ.

    Returns
    -------
    distance_mm : float
        Infinite if one of the two has no points. The order of the points has no
        influence.

    Notes
    -----
    The result equals the larger of the two directed distances of
    :func:`scipy.spatial.distance.directed_hausdorff`. It is computed with k-d trees,
    which take a third of the time for streamlines of 100 points.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> print(hausdorff_mm(line, line[::-1]), hausdorff_mm(line, line[:1]))
    0.0 2.0
    """
    streamline, other = _as_pair(streamline=streamline, other=other)
    return max(
        _directed_hausdorff_mm(streamline, other),
        _directed_hausdorff_mm(other, streamline),
    )


def mean_closest_point_mm(streamline: AnyArray, other: AnyArray) -> float:
    """Compute the mean closest-point distance of two streamlines.

    Parameters
    ----------
    streamline, other : ndarray of shape (M, 3)
        In mm. M may differ.

    Returns
    -------
    distance_mm : float
        Mean distance from the points of one streamline to the nearest point of the
        other one, averaged over both directions. Infinite if one of the two has no
        points.

    Notes
    -----
    The distance is that of [1]_, made symmetric as in [2]_. It is computed by
    :func:`dipy.tracking.distances.mam_distances` in single precision.

    References
    ----------
    .. [1] Corouge I, Gouttard S, Gerig G. Towards a shape model of white matter fiber
       bundles using diffusion tensor MRI. IEEE International Symposium on Biomedical
       Imaging, 2004.
    .. [2] Zhang S, Correia S, Laidlaw DH. Identifying white-matter fiber bundles in
       DTI data using an automated proximity-based fiber-clustering method. IEEE
       Transactions on Visualization and Computer Graphics 14(5), 2008.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> mean_closest_point_mm(line, line + [0, 2, 0])
    2.0
    >>> mean_closest_point_mm(line, line[:1])  # mean of (0 + 1 + 2) / 3 and 0
    0.5
    """
    streamline, other = _as_pair(streamline=streamline, other=other)
    if not len(streamline) or not len(other):
        return np.inf
    return float(mam_distances(streamline, other, metric="avg"))


def end_point_mm(streamline: AnyArray, other: AnyArray) -> float:
    """Compute the mean distance of the end points of two streamlines.

    Parameters
    ----------
    streamline, other : ndarray of shape (M, 3)
        In mm. M may differ.

    Returns
    -------
    distance_mm : float
        Mean distance of the two pairs of end points. Of the two ways to pair the ends,
        the one with the smaller mean counts. Infinite if one of the two has no points.

    Notes
    -----
    This is the minimum average direct-flip distance [1]_ of the end points alone
    (:func:`dipy.segment.metric.mdf`).

    References
    ----------
    .. [1] Garyfallidis E, Brett M, Correia MM, Williams GB, Nimmo-Smith I.
       QuickBundles, a method for tractography simplification. Frontiers in
       Neuroscience 6:175, 2012.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> print(end_point_mm(line, line[::-1]), end_point_mm(line, line[:2]))
    0.0 0.5
    """
    streamline, other = _as_pair(streamline=streamline, other=other)
    if not len(streamline) or not len(other):
        return np.inf
    return float(mdf(*(line[[0, -1]] for line in (streamline, other))))


def agreement(
    streamlines: Iterable[AnyArray], others: Iterable[AnyArray], limit_mm: float = 2.0
) -> BoolArray:
    """Tell which pairs of streamlines agree within a distance.

    Parameters
    ----------
    streamlines, others : sequences of N ndarrays of shape (M, 3)
        In mm. Streamlines of equal index are a pair.
    limit_mm : float, optional
        Largest Hausdorff distance (:func:`hausdorff_mm`) of a pair that agrees.

    Returns
    -------
    agreement : ndarray of shape (N,), bool
        Its mean is the share of pairs that agree. False if one of the two streamlines
        has no points.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> agreement([line, line], [line + [0, 1, 0], line + [0, 3, 0]]).tolist()
    [True, False]
    """
    limit_mm = _checks.check_number(limit_mm, "limit_mm")
    return np.array(
        [
            hausdorff_mm(a, b) <= limit_mm
            for a, b in _pairs(streamlines, "streamlines", others, "others")
        ],
        dtype=bool,
    )


def followed(
    references: Iterable[AnyArray], tracked: Iterable[AnyArray], limit_mm: float = 2.0
) -> BoolArray:
    """Tell which known streamlines a tracker followed from end to end.

    Parameters
    ----------
    references : sequence of N ndarrays of shape (M, 3)
        Known streamlines, in mm.
    tracked : sequence of N ndarrays of shape (K, 3)
        For each known streamline, the streamline tracked from a seed on it, in mm.
    limit_mm : float, optional
        Largest distance from a point of the reference to the nearest tracked point.

    Returns
    -------
    followed : ndarray of shape (N,), bool
        Whether the directed Hausdorff distance from the reference to the tracked
        streamline is within the limit. A tracked streamline may continue beyond the
        ends of the reference. False if one of the two has no points.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0]])
    >>> followed([line[:3], line], [line, line[:2]]).tolist()
    [True, False]
    """
    limit_mm = _checks.check_number(limit_mm, "limit_mm")
    return np.array(
        [
            _directed_hausdorff_mm(reference, points) <= limit_mm
            for reference, points in _pairs(
                references, "references", tracked, "tracked"
            )
        ],
        dtype=bool,
    )


def _steps(
    streamline: AnyArray, name: str = "streamline"
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return mid-points, directions and lengths of the steps longer than 0."""
    points_mm = _checks.as_points(streamline, name)
    steps = np.diff(points_mm, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    is_step = lengths > 0
    middles = (points_mm[:-1] + points_mm[1:]) / 2
    return middles[is_step], steps[is_step] / lengths[is_step, None], lengths[is_step]


def angular_difference_deg(streamline: AnyArray, other: AnyArray) -> float:
    """Compute the mean angle between nearest steps of two streamlines.

    Parameters
    ----------
    streamline, other : ndarray of shape (M, 3)
        In mm. M may differ.

    Returns
    -------
    angle_deg : float
        From 0 to 90. Each step of one streamline is compared with the step of the
        other one whose mid-point is nearest; the angles are averaged over the steps,
        then over both streamlines. The direction of a streamline has no influence.
        NaN if one of the two has no step.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> print(angular_difference_deg(line, line[::-1] + [0, 2, 0]))
    0.0
    >>> corner = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0]])
    >>> print(angular_difference_deg(line, corner))  # (0 + 90) / 2 for both
    45.0
    """
    middles, directions, _ = _steps(streamline)
    other_middles, other_directions, _ = _steps(other, "other")
    if not len(middles) or not len(other_middles):
        return np.nan
    _, nearest = cKDTree(other_middles).query(middles)
    _, back = cKDTree(middles).query(other_middles)
    forth_deg = _angles_deg(directions, other_directions[nearest])
    back_deg = _angles_deg(other_directions, directions[back])
    return float(forth_deg.mean() + back_deg.mean()) / 2


def _angles_deg(directions: FloatArray, others: FloatArray) -> FloatArray:
    """Return angles between axes. arctan2 is exact for small angles, unlike arccos."""
    sines = np.linalg.norm(np.cross(directions, others), axis=1)
    cosines = np.abs(np.einsum("ij,ij->i", directions, others))
    angles_deg: FloatArray = np.rad2deg(np.arctan2(sines, cosines))
    return angles_deg


def mean_curvature_per_mm(streamline: AnyArray) -> float:
    """Compute the mean curvature of a streamline.

    Parameters
    ----------
    streamline : ndarray of shape (M, 3)
        In mm.

    Returns
    -------
    curvature_per_mm : float
        1 / R for points at equal spacing on a circle of radius R mm; 0 for a straight
        line; NaN for less than two steps.

    Notes
    -----
    Curvature is the length of dT/ds, the change of the unit tangent T over arc length
    [1]_. Here T is the direction of a step. The result is the sum of the lengths of
    all changes dT, divided by the length from the first to the last mid-point of a
    step.

    On an arc, :func:`dipy.tracking.metrics.mean_curvature` also computes 1 / R at inner
    points, but about half of that at both ends. So its mean is 1.5 % too small for 100
    points and 15 % too small for 10 points.

    References
    ----------
    .. [1] do Carmo MP. Differential geometry of curves and surfaces. Prentice-Hall,
       1976, section 1-5.

    Examples
    --------
    >>> turn = np.linspace(0, np.pi, 20)
    >>> arc = 40 * np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)
    >>> print(round(mean_curvature_per_mm(arc), 6))
    0.025
    """
    _, directions, lengths_mm = _steps(streamline)
    if len(directions) < 2:
        return np.nan
    turns = np.linalg.norm(np.diff(directions, axis=0), axis=1)
    return float(turns.sum() / (lengths_mm[:-1] + lengths_mm[1:]).sum() * 2)
