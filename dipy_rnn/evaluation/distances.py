"""How good streamlines are: beside those of another tracker, and beside the truth.

Two trackers are compared seed by seed (`alike`, `hausdorff_mm`,
`mean_closest_point_mm`, `end_point_mm`, `angular_difference_deg`), by the voxels they
visit (`visits`, `dice`, `weighted_dice`, `density_correlation`, `coverage`), by what
they connect (`connections`) and by their shape (`mean_curvature_per_mm`,
`shape_similarity`). Tractograms without seeds find their partners with
`nearest_streamlines`. Where the true bundles are known (`known_bundles`), `score`
counts the streamlines that connect the right ends and the volume that these cover
[1]_ [2]_. `followed` tells which known streamlines a tracker reproduced.

Figures come with one kind of uncertainty, the standard error: of a mean over
streamlines (`estimated_mean`), of a difference of two (`paired_difference`) and of
whatever is computed from what all streamlines visit or connect (`bootstrapped`).

Streamlines are arrays of shape (M, 3) in mm (RAS+), and what is measured are their
points: they should be closer together than a voxel, or than the distance asked about.
Their lengths are :func:`dipy.tracking.streamline.length`.

References
----------
.. [1] Cote MA, Girard G, Bore A, Garyfallidis E, Houde JC, Descoteaux M. Tractometer:
   towards validation of tractography pipelines. Medical Image Analysis 17(7), 2013.
.. [2] Maier-Hein KH, Neher PF, Houde JC, et al. The challenge of mapping the human
   connectome based on diffusion tractography. Nature Communications 8:1349, 2017.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self
import warnings

from dipy.segment.bundles import bundle_shape_similarity
from dipy.segment.metric import mdf
from dipy.tracking.distances import mam_distances
from dipy.tracking.streamline import length, set_number_of_points
import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import cKDTree
from scipy.stats import DegenerateDataWarning, bootstrap, sem

from dipy_rnn import spaces
from dipy_rnn._typing import AnyArray, ArrayLike, BoolArray, FloatArray, IntArray

INVALID_CONNECTION = -1
NO_CONNECTION = -2

_LARGEST = 1e15
_MOST_REGIONS = 2**15

# As many as FastStreamlineSearch of DIPY takes.
_N_POINTS_OF_SHAPE = 24

# Streamlines


def _checked(**streamlines: AnyArray) -> list[FloatArray]:
    """Return streamlines as arrays, or say which argument is none."""
    return [spaces.check_points(line, name) for name, line in streamlines.items()]


def _checked_all(streamlines: Iterable[AnyArray], name: str) -> list[FloatArray]:
    return [spaces.check_points(line, name) for line in _listed(streamlines, name)]


def _listed(streamlines: Iterable[AnyArray], name: str) -> list[AnyArray]:
    try:
        return list(streamlines)
    except TypeError:
        raise ValueError(
            f"{name} is of type {type(streamlines).__name__}; streamlines are needed."
        ) from None


def _partners(
    streamlines: Iterable[AnyArray],
    name: str,
    others: Iterable[AnyArray],
    others_name: str,
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Return pairs of streamlines that are partners."""
    lines = _checked_all(streamlines, name)
    partners = _checked_all(others, others_name)
    if len(lines) != len(partners):
        raise ValueError(
            f"{name} and {others_name} are {len(lines)} and {len(partners)}, but the "
            "shorter list has no partners for all; give one for each."
        )
    return zip(lines, partners)


def _farthest_mm(points: FloatArray, others: FloatArray) -> float:
    """Directed Hausdorff distance: from points to the nearest of the others."""
    if not len(points) or not len(others):
        return np.inf
    return float(cKDTree(others).query(points)[0].max())


def hausdorff_mm(streamline: AnyArray, other: AnyArray) -> float:
    """Measure how far apart two streamlines are where they are farthest apart.

    Parameters
    ----------
    streamline, other : ndarray of shape (M, 3)
        In mm. M may differ.

    Returns
    -------
    distance_mm : float
        The Hausdorff distance of the two sets of points, so the order of the points
        does not matter; infinite if there is no point in one of them.

    Notes
    -----
    The larger of the two that :func:`scipy.spatial.distance.directed_hausdorff` gives,
    found by k-d trees, which take a third of its time for streamlines of 100 points.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> print(hausdorff_mm(line, line[::-1]), hausdorff_mm(line, line[:1]))
    0.0 2.0
    """
    streamline, other = _checked(streamline=streamline, other=other)
    return max(_farthest_mm(streamline, other), _farthest_mm(other, streamline))


def mean_closest_point_mm(streamline: AnyArray, other: AnyArray) -> float:
    """Measure how far apart two streamlines are on average.

    Parameters
    ----------
    streamline, other : ndarray of shape (M, 3)
        In mm. M may differ.

    Returns
    -------
    distance_mm : float
        Mean distance from the points of one to the nearest point of the other,
        averaged over both ways; infinite if there is no point in one of them.

    Notes
    -----
    The mean closest-point distance of [1]_, made symmetric as in [2]_:
    :func:`dipy.tracking.distances.mam_distances`, which computes in single precision.

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
    >>> mean_closest_point_mm(line, line[:1])  # (0 + 1 + 2) / 3 and 0
    0.5
    """
    streamline, other = _checked(streamline=streamline, other=other)
    if not len(streamline) or not len(other):
        return np.inf
    return float(mam_distances(streamline, other, metric="avg"))


def end_point_mm(streamline: AnyArray, other: AnyArray) -> float:
    """Measure how far apart the end points of two streamlines are.

    Parameters
    ----------
    streamline, other : ndarray of shape (M, 3)
        In mm. M may differ.

    Returns
    -------
    distance_mm : float
        Mean of the two distances from an end to an end, with the ends paired in the
        better way; infinite if there is no point in one of them.

    Notes
    -----
    The minimum average direct-flip distance [1]_ of what lies between the end points:
    :func:`dipy.segment.metric.mdf`.

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
    streamline, other = _checked(streamline=streamline, other=other)
    if not len(streamline) or not len(other):
        return np.inf
    return float(mdf(*(line[[0, -1]] for line in (streamline, other))))


def alike(
    streamlines: Iterable[AnyArray], others: Iterable[AnyArray], limit_mm: float = 2.0
) -> BoolArray:
    """Tell which of two trackers' streamlines are the same within a distance.

    Parameters
    ----------
    streamlines, others : sequences of N ndarrays of shape (M, 3)
        In mm; partners have the same place.
    limit_mm : float, optional
        Largest Hausdorff distance (:func:`hausdorff_mm`).

    Returns
    -------
    alike : ndarray of shape (N,), bool
        Its mean is the share of streamlines that are alike. One without points is
        like no other.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> alike([line, line], [line + [0, 1, 0], line + [0, 3, 0]]).tolist()
    [True, False]
    """
    limit_mm = spaces.check_number(limit_mm, "limit_mm")
    return np.array(
        [
            hausdorff_mm(a, b) <= limit_mm
            for a, b in _partners(streamlines, "streamlines", others, "others")
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
        Streamlines that are known, in mm.
    tracked : sequence of N ndarrays of shape (K, 3)
        What was tracked from a seed on each, in mm.
    limit_mm : float, optional
        How far a reference's points may be from the nearest tracked one.

    Returns
    -------
    followed : ndarray of shape (N,), bool
        Whether the directed Hausdorff distance from the reference to what was
        tracked is within the limit. What runs on beyond the reference's ends does
        not count against it; False where there is no point in one of them.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0]])
    >>> followed([line[:3], line], [line, line[:2]]).tolist()
    [True, False]
    """
    limit_mm = spaces.check_number(limit_mm, "limit_mm")
    return np.array(
        [
            _farthest_mm(reference, points) <= limit_mm
            for reference, points in _partners(
                references, "references", tracked, "tracked"
            )
        ],
        dtype=bool,
    )


def nearest_streamlines(
    streamlines: Iterable[AnyArray], others: Iterable[AnyArray]
) -> tuple[IntArray, IntArray]:
    """Find partners for streamlines that were not tracked from the same seeds.

    Parameters
    ----------
    streamlines, others : sequences of ndarrays of shape (M, 3)
        In mm.

    Returns
    -------
    indices, partners : ndarrays of shape (P,), int
        ``others[partners[p]]`` is the nearest of the others to
        ``streamlines[indices[p]]``; several may have the same partner. A streamline
        that has no length has none and is nobody's, so that P is 0 if one side is
        empty.

    Notes
    -----
    The distance is the root mean square of those between 24 points at equal spacing
    along both, in the better of the two directions. As a Euclidean distance of vectors
    it is found by a k-d tree: the exact nearest, however far away, in a hundredth of
    the time that :class:`dipy.segment.fss.FastStreamlineSearch` takes for those within
    20 mm. That one averages the distances instead of their squares; of 5000 streamlines
    of a phantom 0.5 % had another partner then.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> others = [line + [0, 9, 0], line[::-1] + [0, 1, 0]]
    >>> indices, partners = nearest_streamlines([line, line[:1]], others)
    >>> indices.tolist(), partners.tolist()
    ([0], [1])
    """
    indices, shapes = _shapes(streamlines, "streamlines")
    of_others, other_shapes = _shapes(others, "others")
    if not len(indices) or not len(of_others):
        return np.empty(0, dtype=int), np.empty(0, dtype=int)
    both_ways = np.concatenate([other_shapes, other_shapes[:, ::-1]])
    tree = cKDTree(both_ways.reshape(len(both_ways), -1))
    _, nearest = tree.query(shapes.reshape(len(shapes), -1))
    return indices, of_others[nearest % len(of_others)]


def _shapes(streamlines: Iterable[AnyArray], name: str) -> tuple[IntArray, FloatArray]:
    """Return which streamlines have a length, and points (N, 24, 3) along these."""
    lines = _checked_all(streamlines, name)
    some = _with_length(lines)
    shapes = set_number_of_points([lines[i] for i in some], _N_POINTS_OF_SHAPE)
    return some, np.array(shapes)


def _with_length(streamlines: Iterable[FloatArray]) -> IntArray:
    """Return the indices of streamlines with two different points."""
    return np.flatnonzero([length(line) > 0 for line in streamlines])


# Steps


def _steps(
    streamline: AnyArray, name: str = "streamline"
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return mid-points, directions and lengths of the steps that have a length."""
    points_mm = spaces.check_points(streamline, name)
    steps = np.diff(points_mm, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    some = lengths > 0
    middles = (points_mm[:-1] + points_mm[1:]) / 2
    return middles[some], steps[some] / lengths[some, None], lengths[some]


def angular_difference_deg(streamline: AnyArray, other: AnyArray) -> float:
    """Measure by which angle two streamlines differ where they are nearest.

    Parameters
    ----------
    streamline, other : ndarray of shape (M, 3)
        In mm. M may differ.

    Returns
    -------
    angle_deg : float
        Mean over the steps of one of the angle, from 0 to 90, to the step of the other
        whose mid-point is nearest, averaged over both ways, so that the direction of a
        streamline does not matter; NaN if there is no step in one of them.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> print(angular_difference_deg(line, line[::-1] + [0, 2, 0]))
    0.0
    >>> corner = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0]])
    >>> print(angular_difference_deg(line, corner))  # (0 + 90) / 2, (0 + 90) / 2
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
    """Return angles between axes: an arccos would lose the small ones."""
    sines = np.linalg.norm(np.cross(directions, others), axis=1)
    cosines = np.abs(np.einsum("ij,ij->i", directions, others))
    angles_deg: FloatArray = np.rad2deg(np.arctan2(sines, cosines))
    return angles_deg


def mean_curvature_per_mm(streamline: AnyArray) -> float:
    """Measure how much a streamline bends.

    Parameters
    ----------
    streamline : ndarray of shape (M, 3)
        In mm.

    Returns
    -------
    curvature_per_mm : float
        Mean curvature along its length: 1 / R for points at equal spacing on a circle
        of radius R mm, 0 for a straight line; NaN for less than two steps.

    Notes
    -----
    Curvature is the length of dT/ds, the change of the unit tangent T over arc length
    [1]_. Here T are the directions of the steps, between whose mid-points a streamline
    turns: the sum of the lengths of all dT, over the length from the first to the last
    mid-point.
    :func:`dipy.tracking.metrics.mean_curvature` is 1 / R as well in the interior of a
    circle, but half of it at the ends: 1.5 % too little for 100 points, 15 % for 10.

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


# Volume


def _voxels(
    points_mm: AnyArray, affine: FloatArray, shape: tuple[int, ...]
) -> tuple[IntArray, BoolArray]:
    """Return the voxels (N, 3) that own points, and which points are on the grid."""
    voxels = np.floor(spaces.to_voxels(points_mm, affine) + 0.5).astype(int)
    return voxels, np.all((voxels >= 0) & (voxels < shape), axis=1)


def visited_voxels(
    streamlines: Iterable[AnyArray], affine: FloatArray, shape: tuple[int, ...]
) -> csr_array:
    """Tell which voxels each streamline visits.

    Parameters
    ----------
    streamlines : iterable of N ndarrays of shape (M, 3)
        In mm.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    shape : tuple of 3 ints
        Voxels along each axis.

    Returns
    -------
    visited : scipy.sparse.csr_array of shape (N, X * Y * Z), int
        1 where the streamline has a point in the voxel; points outside the grid are
        left out. Weights of the streamlines times this matrix are weighted visits,
        and that is what :func:`bootstrapped` takes.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [0.4, 0, 0], [1, 0, 0], [9, 0, 0]])
    >>> visited_voxels([line, line[:2]], np.eye(4), (3, 1, 1)).toarray().tolist()
    [[1, 1, 0], [1, 0, 0]]
    """
    lines = _checked_all(streamlines, "streamlines")
    affine, shape = spaces.check_affine(affine), spaces.check_shape(shape)
    which = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    points_mm = np.concatenate([np.empty((0, 3)), *lines])
    voxels, inside = _voxels(points_mm, affine, shape)
    where = np.ravel_multi_index(tuple(voxels[inside].T), shape)
    visited = csr_array(
        (np.ones(len(where), dtype=int), (which[inside], where)),
        shape=(len(lines), np.prod(shape)),
    )
    visited.sum_duplicates()
    visited.data[:] = 1
    return visited


def visits(
    streamlines: Iterable[AnyArray], affine: FloatArray, shape: tuple[int, ...]
) -> IntArray:
    """Count the streamlines through each voxel.

    :func:`dipy.tracking.utils.density_map`, except that points outside the grid are
    left out instead of an error.

    Parameters
    ----------
    streamlines : iterable of ndarrays of shape (M, 3)
        In mm.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    shape : tuple of 3 ints
        Voxels along each axis.

    Returns
    -------
    visits : ndarray of shape (X, Y, Z), int
        Streamlines with a point in the voxel; each counts once.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [0.4, 0, 0], [1, 0, 0], [9, 0, 0]])
    >>> visits([line, line[:2]], np.eye(4), (3, 1, 1)).ravel().tolist()
    [2, 1, 0]
    """
    visited = visited_voxels(streamlines, affine, shape)
    counts: IntArray = visited.sum(axis=0).reshape(shape)
    return counts


def _images(**images: ArrayLike) -> tuple[AnyArray, AnyArray]:
    """Return images on one grid as arrays, or say which argument is none."""
    arrays = {name: spaces.check_numbers(each, name) for name, each in images.items()}
    (name, image), (other_name, other) = arrays.items()
    if image.shape != other.shape:
        raise ValueError(
            f"{name} has the shape {image.shape} and {other_name} {other.shape}; two "
            "images on one grid are needed."
        )
    for name, each in arrays.items():
        # Squares and sums of what is smaller are finite.
        with np.errstate(over="ignore"):
            fits = (np.abs(each.astype(float)) < _LARGEST).all()
        if not fits:
            raise ValueError(f"{name} holds NaN, infinity or {_LARGEST:g} and more.")
    return image, other


def dice(mask: BoolArray, other: BoolArray) -> float:
    """Return the Dice coefficient of two masks.

    Parameters
    ----------
    mask, other : ndarray of shape (X, Y, Z), bool

    Returns
    -------
    dice : float
        ``2 |A and B| / (|A| + |B|)``: 1 for the same masks (two empty ones are the
        same), 0 for masks that share no voxel.

    Examples
    --------
    >>> dice(np.array([True, True, False]), np.array([False, True, False]))
    0.6666666666666666
    """
    mask, other = (image != 0 for image in _images(mask=mask, other=other))
    total = np.count_nonzero(mask) + np.count_nonzero(other)
    return float(2 * np.count_nonzero(mask & other) / total) if total else 1.0


def weighted_dice(visits: AnyArray, other: AnyArray) -> float:
    """Return the Dice coefficient of two maps of visits, weighted by these.

    Parameters
    ----------
    visits, other : ndarray of shape (X, Y, Z)
        What :func:`visits` counted for two sets of streamlines.

    Returns
    -------
    dice : float
        The share of all visits that lies in voxels which both sets visit, where each
        set counts for a half: 1 if both visit the same voxels (or none), 0 if they
        share none. A voxel that few streamlines visit hardly matters, unlike for
        :func:`dice`.

    Notes
    -----
    Over all voxels v, and over those v' with both w_a and w_b above 0, [1]_ ::

        sum_v' (w_a + w_b) / sum_v (w_a + w_b)

    where each map w is divided by its sum, so that the larger tractogram does not
    count for more.

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
    visits, other = _images(visits=visits, other=other)
    both = (visits > 0) & (other > 0)
    if not both.any():
        return 0.0 if visits.any() or other.any() else 1.0
    return float(np.mean([w[both].sum() / w.sum() for w in (visits, other)]))


def density_correlation(visits: AnyArray, other: AnyArray) -> float:
    """Correlate two maps of visits where there is a streamline in either.

    Parameters
    ----------
    visits, other : ndarray of shape (X, Y, Z)
        What :func:`visits` counted for two sets of streamlines.

    Returns
    -------
    correlation : float
        Pearson's, over the voxels which either set visits; NaN if one of the
        maps is constant there.

    Examples
    --------
    >>> round(density_correlation(np.array([0, 1, 2, 3]), np.array([0, 1, 2, 6])), 3)
    0.945
    """
    visits, other = _images(visits=visits, other=other)
    either = (visits > 0) | (other > 0)
    maps = visits[either], other[either]
    if not either.any() or min(map(np.ptp, maps)) == 0:
        return float("nan")
    return float(np.corrcoef(*maps)[0, 1])


def coverage(visits: AnyArray, mask: BoolArray) -> float:
    """Return the share of a mask that streamlines visit.

    Parameters
    ----------
    visits : ndarray of shape (X, Y, Z)
        What :func:`visits` counted.
    mask : ndarray of shape (X, Y, Z), bool
        Such as the white matter.

    Returns
    -------
    coverage : float
        NaN for an empty mask.

    Examples
    --------
    >>> coverage(np.array([2, 0, 1, 1]), np.array([True, True, True, False]))
    0.6666666666666666
    """
    visits, mask = _images(visits=visits, mask=mask)
    mask = mask != 0
    return float((visits[mask] > 0).mean()) if mask.any() else np.nan


# Tractogram


def _end_voxels(
    lines: list[FloatArray],
    place: int,
    affine: FloatArray,
    shape: tuple[int, ...],
) -> tuple[IntArray, IntArray]:
    """Return the streamlines whose first (0) or last (-1) point is on the grid.

    And the voxels (N, 3) that own these points.
    """
    some = np.flatnonzero([len(line) > 0 for line in lines])
    tips_mm = np.array([lines[i][place] for i in some]).reshape(-1, 3)
    voxels, inside = _voxels(tips_mm, affine, shape)
    return some[inside], voxels[inside]


def connections(
    streamlines: Iterable[AnyArray], affine: FloatArray, labels: AnyArray
) -> csr_array:
    """Tell which two regions each streamline connects.

    Parameters
    ----------
    streamlines : sequence of N ndarrays of shape (M, 3)
        In mm.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    labels : ndarray of shape (X, Y, Z), int
        Regions 1 to R; what is not above 0 is in none.

    Returns
    -------
    connections : scipy.sparse.csr_array of shape (N, R * R), int
        1 in column (a - 1) * R + b - 1 where the two end points of a streamline lie in
        the regions a < b, in whichever order. Streamlines within one region connect
        nothing.

    Notes
    -----
    The sum over the streamlines, reshaped to (R, R), is the connectivity matrix above
    its diagonal: :func:`dipy.tracking.utils.connectivity_matrix`, except that an end
    outside the grid is in no region instead of an error. :func:`density_correlation`
    of the sums is Pearson's correlation of two connectivity matrices over the pairs
    which either connects, and :func:`bootstrapped` adds its standard error.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> labels = np.array([1, 0, 2]).reshape(3, 1, 1)
    >>> connected = connections([line, line[::-1], line[:2]], np.eye(4), labels)
    >>> connected.sum(axis=0).reshape(2, 2).tolist()
    [[0, 2], [0, 0]]
    """
    lines, labels = _checked_all(streamlines, "streamlines"), _whole(labels)
    affine = spaces.check_affine(affine)
    if labels.ndim != 3 or not labels.size or labels.max() > _MOST_REGIONS:
        raise ValueError(
            f"labels has the shape {labels.shape} and goes up to "
            f"{labels.max(initial=0)}; (X, Y, Z) is needed, and at most "
            f"{_MOST_REGIONS}: the matrix of regions has to fit into memory."
        )
    ends = np.zeros((2, len(lines)), dtype=int)
    for end, place in zip(ends, (0, -1)):
        which, voxels = _end_voxels(lines, place, affine, labels.shape)
        end[which] = labels[*voxels.T]
    lower, upper = np.sort(ends, axis=0)
    which = np.flatnonzero((lower > 0) & (lower < upper))
    n_regions = int(labels.max())
    pairs = (lower[which] - 1) * n_regions + upper[which] - 1
    return csr_array(
        (np.ones(len(which), dtype=int), (which, pairs)),
        shape=(len(lines), n_regions**2),
    )


def shape_similarity(
    streamlines: Iterable[AnyArray], others: Iterable[AnyArray], *, random_seed: int = 0
) -> float:
    """Compare the shapes of two bundles or tractograms: BUAN's bundle adjacency.

    Parameters
    ----------
    streamlines, others : sequences of ndarrays of shape (M, 3)
        In mm.
    random_seed : int, optional
        Of the clustering, which goes through the streamlines in random order.

    Returns
    -------
    similarity : float
        The share of the clusters of one that are within 6 mm of a cluster of the
        other, averaged over both ways, from 0 to 1; 0 if no streamline of one has a
        length.

    Notes
    -----
    :func:`dipy.segment.bundles.bundle_shape_similarity` [1]_ as it comes, that is with
    QuickBundlesX down to clusters of 1.5 mm.

    References
    ----------
    .. [1] Chandio BQ, Risacher SL, Pestilli F, et al. Bundle analytics, a
       computational framework for investigating the shapes and profiles of brain
       pathways across populations. Scientific Reports 10:17149, 2020.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [10, 0, 0], [20, 0, 0]])
    >>> shape_similarity([line, line + [0, 50, 0]], [line[::-1]])  # 1 / 2 and 1 / 1
    0.75
    """
    bundles = [
        [lines[i] for i in _with_length(lines)]
        for lines in (
            _checked_all(streamlines, "streamlines"),
            _checked_all(others, "others"),
        )
    ]
    rng = np.random.default_rng(random_seed)
    return float(bundle_shape_similarity(*bundles, rng))


# Known bundles


@dataclass(frozen=True, eq=False)
class KnownBundle:
    """A bundle of which is known where it runs and where it ends.

    Parameters
    ----------
    mask : ndarray of shape (X, Y, Z), bool
        The voxels of the bundle, at least one.
    ends : tuple of 2 ndarrays of shape (X, Y, Z), bool
        Its two end regions, which share no voxel.

    Examples
    --------
    >>> ends = np.eye(5, dtype=bool)[[0, 4], :, None, None]
    >>> KnownBundle(np.ones((5, 1, 1), dtype=bool), tuple(ends)).mask.shape
    (5, 1, 1)
    """

    mask: BoolArray
    ends: tuple[BoolArray, BoolArray]

    def __post_init__(self) -> None:
        first, last = self.ends
        if not self.mask.ndim == 3 or not self.mask.shape == first.shape == last.shape:
            raise ValueError(
                f"mask has the shape {self.mask.shape} and ends {first.shape} and "
                f"{last.shape}; three masks of one shape (X, Y, Z) are needed."
            )
        if not self.mask.any():
            raise ValueError("mask is empty; a bundle has at least one voxel.")
        if np.any(first & last):
            raise ValueError(
                f"ends share {np.count_nonzero(first & last)} voxels; make them "
                "smaller, so that each voxel is in one of them at most."
            )

    @classmethod
    def from_labels(cls, labels: AnyArray) -> Self:
        """Make a known bundle of a label image.

        Parameters
        ----------
        labels : ndarray of shape (X, Y, Z)
            1 inside the bundle, 2 and 3 in its two end regions, which belong to the
            bundle as well; 0 elsewhere.

        Returns
        -------
        bundle : KnownBundle

        Raises
        ------
        ValueError
            If an end region is missing, or there are other labels.

        Examples
        --------
        >>> labels = np.array([0, 2, 1, 1, 3]).reshape(5, 1, 1)
        >>> KnownBundle.from_labels(labels).mask.ravel().tolist()
        [False, True, True, True, True]
        """
        labels = spaces.check_numbers(labels, "labels")
        found = set(np.unique(labels).tolist())
        if not {2, 3} <= found <= {0, 1, 2, 3}:
            raise ValueError(
                f"labels holds {sorted(found)[:9]}; 1 is needed inside the bundle, 2 "
                "and 3 in its two end regions and 0 elsewhere."
            )
        return cls(labels > 0, (labels == 2, labels == 3))


def _whole(labels: AnyArray) -> AnyArray:
    """Return labels as integers."""
    labels = spaces.check_numbers(labels, "labels")
    if labels.dtype.kind == "f":
        with np.errstate(over="ignore"):
            labels = labels.astype(float)
        if not (np.abs(labels) < _LARGEST).all() or (labels != np.rint(labels)).any():
            raise ValueError("labels holds other than whole numbers.")
        labels = labels.astype(np.int64)
    return labels


def _near(
    points_mm: ArrayLike, radius_mm: float, affine: FloatArray, shape: tuple[int, ...]
) -> BoolArray:
    """Return the voxels (X, Y, Z) whose centres are within a radius of points."""
    centres_mm = spaces.to_mm(np.indices(shape).reshape(3, -1).T, affine)
    distance_mm, _ = cKDTree(points_mm).query(
        centres_mm, distance_upper_bound=np.nextafter(radius_mm, np.inf)
    )
    near: BoolArray = (distance_mm <= radius_mm).reshape(shape)
    return near


def known_bundles(
    streamlines_of_each: Iterable[Iterable[AnyArray]],
    affine: FloatArray,
    shape: tuple[int, int, int],
    *,
    radius_mm: float = 0.0,
    end_mm: float = 4.0,
    mask: BoolArray | None = None,
) -> list[KnownBundle]:
    """Make known bundles of known streamlines: many of each, or a centreline.

    Parameters
    ----------
    streamlines_of_each : sequence of sequences of ndarrays of shape (M, 3)
        For each bundle its streamlines in mm, all in the same direction, with points
        closer together than a voxel.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    shape : tuple of 3 ints
        Voxels along each axis.
    radius_mm : float, optional
        How far a bundle reaches around its streamlines. 0 if they fill it, as the
        true streamlines of a phantom do if there are enough; half of the bundle's
        width if they are a centreline.
    end_mm : float, optional
        How far an end region reaches around the end points of its streamlines.
    mask : ndarray of shape (X, Y, Z), bool, optional
        Where bundles can be, such as white matter. End regions are not cut by it.

    Returns
    -------
    bundles : list of KnownBundle
        Their masks hold the voxels in which a streamline has a point, and those
        whose centre is within `radius_mm` of one.

    Examples
    --------
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> phantom = crossing_phantom()
    >>> streamlines, _ = phantom.streamlines(300)
    >>> bundles = known_bundles(
    ...     [streamlines[:300], streamlines[300:]], phantom.affine, phantom.shape)
    >>> score(streamlines, bundles, phantom.affine).valid_connections
    1.0
    """
    affine, bundles = spaces.check_affine(affine), []
    for streamlines in streamlines_of_each:
        lines = _checked_all(streamlines, "streamlines_of_each")
        lines = [line for line in lines if len(line)]
        if not lines:
            raise ValueError("streamlines_of_each holds a bundle without streamlines.")
        where = visits(lines, affine, shape) > 0
        if radius_mm > 0:
            where |= _near(np.concatenate(lines), radius_mm, affine, shape)
        if mask is not None:
            _, mask = _images(streamlines=where, mask=mask)
            where &= mask != 0
        first, last = (
            _near([line[end] for line in lines], end_mm, affine, shape)
            for end in (0, -1)
        )
        bundles.append(KnownBundle(where, (first, last)))
    return bundles


@dataclass(frozen=True, eq=False)
class Scores:
    """What `score` found, of N streamlines and B bundles.

    Parameters
    ----------
    labels : ndarray of shape (N,), int
        The bundle that each streamline validly connects, `INVALID_CONNECTION` (-1)
        or `NO_CONNECTION` (-2).
    overlaps, overreaches, f1s : ndarray of shape (B,)
        Of each bundle; 0 for one that was not found.

    Examples
    --------
    >>> scores = Scores(np.array([1, -1]), *np.array([[0, 0.5], [0, 0.25], [0, 0.6]]))
    >>> scores.valid_connections, scores.valid_bundles, scores.n_bundles, scores.f1
    (0.5, 1, 2, 0.3)
    """

    labels: IntArray
    overlaps: FloatArray
    overreaches: FloatArray
    f1s: FloatArray

    def _share(self, chosen: BoolArray) -> float:
        return float(chosen.mean()) if len(chosen) else 0.0

    @property
    def valid_connections(self) -> float:
        """Share of the streamlines which connect the two ends of one bundle."""
        return self._share(self.labels >= 0)

    @property
    def invalid_connections(self) -> float:
        """Share which connect end regions that belong together in no bundle."""
        return self._share(self.labels == INVALID_CONNECTION)

    @property
    def no_connections(self) -> float:
        """Share of all others."""
        return self._share(self.labels == NO_CONNECTION)

    @property
    def n_bundles(self) -> int:
        """How many bundles there are to find."""
        return len(self.overlaps)

    @property
    def valid_bundles(self) -> int:
        """How many of them have a valid connection."""
        return len(np.unique(self.labels[self.labels >= 0]))

    @property
    def overlap(self) -> float:
        """Mean overlap of the bundles."""
        return float(self.overlaps.mean())

    @property
    def overreach(self) -> float:
        """Mean overreach of the bundles."""
        return float(self.overreaches.mean())

    @property
    def f1(self) -> float:
        """Mean F1 of the bundles."""
        return float(self.f1s.mean())


def score(
    streamlines: Sequence[AnyArray], bundles: Sequence[KnownBundle], affine: FloatArray
) -> Scores:
    """Compare streamlines with known bundles: Tractometer's scores.

    Parameters
    ----------
    streamlines : sequence of N ndarrays of shape (M, 3)
        In mm.
    bundles : sequence of B KnownBundle
        All on one grid.
    affine : ndarray of shape (4, 4)
        Voxel to mm of that grid.

    Returns
    -------
    scores : Scores

    Raises
    ------
    ValueError
        If there is no bundle, or they lie on different grids, or the affine or a
        streamline is none.

    Notes
    -----
    A streamline is [1]_

    - a *valid connection* of a bundle if one of its end points lies in one end region
      and the other one in the other; if of several, then of the one whose mask holds
      most of its points (the first of these, if equally many);
    - else an *invalid connection* if both of its end points lie in end regions, but
      in none together;
    - else *no connection*: an end point is in no end region, both are in the same
      one, or there is no point at all.

    Tractometer also asks that a valid connection keeps to the mask of its bundle;
    here that is seen in the overreach. With T the voxels that the valid connections
    of a bundle have points in, and M its mask, [2]_

    - *overlap* is ``|T and M| / |M|``;
    - *overreach* is ``|T without M| / |M|``;
    - *F1* is ``2 |T and M| / (|T| + |M|)``, the harmonic mean of overlap and of the
      share of T that is in M, which is the Dice coefficient.

    All three are 0 for a bundle without valid connections.

    References
    ----------
    .. [1] Cote MA, Girard G, Bore A, Garyfallidis E, Houde JC, Descoteaux M.
       Tractometer: towards validation of tractography pipelines. Medical Image
       Analysis 17(7), 2013.
    .. [2] Maier-Hein KH, Neher PF, Houde JC, et al. The challenge of mapping the human
       connectome based on diffusion tractography. Nature Communications 8:1349, 2017.

    Examples
    --------
    >>> ends = np.eye(5, dtype=bool)[[0, 4], :, None, None]
    >>> bundle = KnownBundle(np.ones((5, 1, 1), dtype=bool), tuple(ends))
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0]])
    >>> scores = score([line, line[1:]], [bundle], np.eye(4))
    >>> scores.labels.tolist(), scores.overlap
    ([0, -2], 1.0)
    """
    lines = _checked_all(streamlines, "streamlines")
    affine = spaces.check_affine(affine)
    shapes = sorted({bundle.mask.shape for bundle in bundles})
    if len(shapes) != 1:
        raise ValueError(
            f"bundles are {len(bundles)}, of the shapes {shapes}; one or more on one "
            "grid are needed."
        )
    (shape,) = shapes
    masks = [bundle.mask != 0 for bundle in bundles]
    ends = np.array([bundle.ends for bundle in bundles], dtype=bool)

    # Whether a streamline's first and last point are in a bundle's two end regions.
    first: BoolArray = np.zeros((len(lines), len(bundles), 2), dtype=bool)
    last: BoolArray = np.zeros_like(first)
    for end, place in ((first, 0), (last, -1)):
        which, voxels = _end_voxels(lines, place, affine, shape)
        end[which] = np.moveaxis(ends[:, :, *voxels.T], -1, 0)

    anywhere = first.any(axis=(1, 2)) & last.any(axis=(1, 2))
    together = (first & last).any(axis=(1, 2))
    labels = np.where(anywhere & ~together, INVALID_CONNECTION, NO_CONNECTION)
    connects: BoolArray = np.any(first & last[..., ::-1], axis=2)
    labels = np.where(connects.any(axis=1), connects.argmax(axis=1), labels)
    for i in np.flatnonzero(connects.sum(axis=1) > 1):
        fitting = np.flatnonzero(connects[i])
        voxels, inside = _voxels(lines[i], affine, shape)
        n_points = [np.count_nonzero(masks[b][*voxels[inside].T]) for b in fitting]
        labels[i] = fitting[np.argmax(n_points)]

    volumes = np.zeros((3, len(bundles)))
    for b in np.unique(labels[labels >= 0]):
        valid = np.concatenate([lines[i] for i in np.flatnonzero(labels == b)])
        voxels, inside = _voxels(valid, affine, shape)
        traversed: BoolArray = np.zeros(shape, dtype=bool)
        traversed[*voxels[inside].T] = True
        n_traversed, size = np.count_nonzero(traversed), np.count_nonzero(masks[b])
        common = np.count_nonzero(traversed & masks[b])
        volumes[:, b] = (
            common / size,
            (n_traversed - common) / size,
            2 * common / (n_traversed + size),
        )
    return Scores(labels, *volumes)


# Uncertainty


@dataclass(frozen=True)
class Estimate:
    """A figure and how sure it is.

    Parameters
    ----------
    value : float
        Of all streamlines.
    standard_error : float
        By how much it would vary with other streamlines of the same kind; NaN where
        it is not known.

    Examples
    --------
    >>> estimate = Estimate(0.5, 0.01)
    >>> print(round(estimate.low, 4), round(estimate.high, 4))
    0.4804 0.5196
    """

    value: float
    standard_error: float

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval: 1.96 standard errors below the value."""
        return self.value - 1.96 * self.standard_error

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval: 1.96 standard errors above the value."""
        return self.value + 1.96 * self.standard_error


def estimated_mean(values: ArrayLike) -> Estimate:
    """Take the mean over streamlines or seeds, and its standard error.

    Parameters
    ----------
    values : array_like of shape (N,)
        One for each; booleans count as 0 and 1, so that their mean is a share. What is
        not finite is left out: a streamline without points has no distance.

    Returns
    -------
    mean : Estimate
        NaN where no value is left; the standard error is NaN for one.

    Notes
    -----
    The standard error is the standard deviation over the square root of N. It is what
    a bootstrap tends to as its resamples become many, but for a factor of
    sqrt((N - 1) / N) [1]_, so for a mean no resample needs to be drawn.

    References
    ----------
    .. [1] Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman and Hall,
       1993, chapter 5.

    Examples
    --------
    >>> estimated_mean([1, 2, 3, np.inf])
    Estimate(value=2.0, standard_error=0.5773502691896258)
    """
    finite = spaces.check_numbers(values, "values").astype(float)
    finite = finite[np.isfinite(finite)]
    with np.errstate(over="ignore"):  # an error that is too large is infinite
        return Estimate(
            float(finite.mean()) if len(finite) else np.nan,
            float(sem(finite)) if len(finite) > 1 else np.nan,
        )


def paired_difference(values: ArrayLike, others: ArrayLike) -> Estimate:
    """Take the difference of two means over the same seeds, and its standard error.

    Parameters
    ----------
    values, others : array_like of shape (N,)
        What was found for each seed with one tracker and with the other; booleans
        count as 0 and 1, so that their means are shares.

    Returns
    -------
    difference : Estimate
        Mean of `values` less that of `others`. The standard error is the standard
        deviation of the N differences over the square root of N, as in the paired
        t-test: seeds count as independent of each other. NaN for no seed; the standard
        error is NaN for one.

    Raises
    ------
    ValueError
        If the shapes differ, or a value is no finite number.

    Examples
    --------
    >>> difference = paired_difference([True, True, False], [True, False, False])
    >>> print(round(difference.value, 3), round(difference.standard_error, 3))
    0.333 0.333
    """
    minuend, subtrahend = _images(values=values, others=others)
    return estimated_mean(minuend.astype(float) - subtrahend.astype(float))


def bootstrapped(
    figure: Callable[..., float],
    *of_each: csr_array,
    paired: bool = True,
    n_resamples: int = 200,
    random_seed: int = 0,
) -> Estimate:
    """Compute a figure of whole tractograms, and its standard error by resampling.

    Parameters
    ----------
    figure : callable
        Takes, for each tractogram, what its streamlines add up to (an ndarray of
        shape (V,)), and returns a float: :func:`weighted_dice`, or
        ``lambda visits, other: dice(visits > 0, other > 0)``.
    of_each : scipy.sparse.csr_arrays of shape (N, V)
        For each tractogram, what its streamlines visit (:func:`visited_voxels`) or
        connect (:func:`connections`).
    paired : bool, optional
        Whether streamlines in the same place were tracked from the same seed. Then a
        seed is drawn with all of its streamlines; else N may differ.
    n_resamples : int, optional
        How often N streamlines are drawn from N, with replacement.
    random_seed : int, optional
        Of the draws.

    Returns
    -------
    estimate : Estimate
        The figure of all streamlines, and the standard deviation of that of the
        resamples [1]_; NaN where there are less than two streamlines, or where the
        figure of a resample is NaN.

    Notes
    -----
    Only the spread of the resamples is used, not their percentiles. For of the
    streamlines only a share of 1 - 1/e, 63 %, is in a resample: it visits fewer
    voxels, and overlaps and coverage are systematically lower than those of all
    streamlines, which may then lie outside an interval of percentiles.

    Voxels with few streamlines make the spread approximate: on a phantom, with 500 and
    2000 pairs, it was 0.6 to 0.9 of that over new seeds for :func:`dice`, and 1.0 to
    1.7 of it for :func:`weighted_dice`, :func:`coverage` and
    :func:`density_correlation`.

    References
    ----------
    .. [1] Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman and Hall,
       1993, chapter 6.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> visited = visited_voxels([line, line[:2], line[:1]], np.eye(4), (3, 1, 1))
    >>> mask = np.array([True, True, True])
    >>> estimate = bootstrapped(lambda visits: coverage(visits, mask), visited)
    >>> print(estimate.value, round(estimate.standard_error, 1))
    1.0 0.2
    """

    def of_resample(*chosen: IntArray) -> float:
        return figure(
            *(
                np.bincount(rows, minlength=matrix.shape[0]) @ matrix
                for rows, matrix in zip(chosen, of_each)
            )
        )

    everything = [np.arange(matrix.shape[0]) for matrix in of_each]
    value = float(of_resample(*everything))
    if min(map(len, everything)) < 2:
        return Estimate(value, np.nan)
    with warnings.catch_warnings():
        # Of percentiles, which are not looked at: that a figure is always the same.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        resampled = bootstrap(
            everything,
            of_resample,
            n_resamples=n_resamples,
            batch=1,  # resamples at a time: they need not be in memory together
            vectorized=False,
            paired=paired,
            method="percentile",
            random_state=np.random.default_rng(random_seed),
        )
    return Estimate(value, float(resampled.standard_error))
