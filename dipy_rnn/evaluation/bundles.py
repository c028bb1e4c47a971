"""Known bundles, and the shape similarity of two bundles.

A :class:`KnownBundle` is a mask with two end regions. It is made from a label image
(:meth:`KnownBundle.from_labels`) or from streamlines (:func:`known_bundles`).
:func:`dipy_rnn.evaluation.score` compares streamlines with known bundles.
:func:`shape_similarity` compares any two bundles.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from dipy.segment.bundles import bundle_shape_similarity
from dipy.tracking.streamline import orient_by_streamline
import numpy as np
from scipy.spatial import cKDTree

from dipy_rnn import _checks, spatial
from dipy_rnn._typing import AnyArray, ArrayLike, BoolArray, FloatArray
from dipy_rnn.evaluation.distances import as_streamlines, with_length
from dipy_rnn.evaluation.statistics import check_same_shape
from dipy_rnn.evaluation.volumes import visits


def shape_similarity(
    streamlines: Iterable[AnyArray], others: Iterable[AnyArray], *, random_seed: int = 0
) -> float:
    """Compare the shapes of two bundles or tractograms: BUAN's bundle adjacency.

    Parameters
    ----------
    streamlines, others : sequences of ndarrays of shape (M, 3)
        In mm.
    random_seed : int, optional
        Seed of the clustering, which takes the streamlines in random order.

    Returns
    -------
    similarity : float
        From 0 to 1: the share of clusters of one bundle that are within 6 mm of a
        cluster of the other one, averaged over both bundles. 0 if one of the bundles
        has no streamline longer than 0 mm.

    Notes
    -----
    This is :func:`dipy.segment.bundles.bundle_shape_similarity` [1]_ with its default
    parameters: QuickBundlesX down to clusters of 1.5 mm.

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
        [lines[i] for i in with_length(lines)]
        for lines in (
            as_streamlines(streamlines, "streamlines"),
            as_streamlines(others, "others"),
        )
    ]
    rng = np.random.default_rng(random_seed)
    return float(bundle_shape_similarity(*bundles, rng))


@dataclass(frozen=True, eq=False)
class KnownBundle:
    """The voxels and the two end regions of a known bundle.

    Parameters
    ----------
    mask : ndarray of shape (X, Y, Z), bool
        The voxels of the bundle, at least one.
    ends : tuple of 2 ndarrays of shape (X, Y, Z), bool
        Its two end regions, which share no voxel.

    Raises
    ------
    ValueError
        If the shapes differ, the mask is empty or the end regions share a voxel.

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
                "smaller, so that no voxel is in both."
            )

    @classmethod
    def from_labels(cls, labels: AnyArray) -> Self:
        """Make a known bundle from a label image.

        Parameters
        ----------
        labels : ndarray of shape (X, Y, Z)
            1 inside the bundle, 2 and 3 in its two end regions, 0 elsewhere. The end
            regions are part of the bundle.

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
        labels = _checks.check_numbers(labels, "labels")
        found = set(np.unique(labels).tolist())
        if not {2, 3} <= found <= {0, 1, 2, 3}:
            raise ValueError(
                f"labels holds {sorted(found)[:9]}; 1 is needed inside the bundle, 2 "
                "and 3 in its two end regions and 0 elsewhere."
            )
        return cls(labels > 0, (labels == 2, labels == 3))

    @classmethod
    def from_streamlines(
        cls,
        streamlines: Sequence[AnyArray],
        affine: FloatArray,
        shape: tuple[int, int, int],
        *,
        radius_mm: float = 0.0,
        end_mm: float = 4.0,
    ) -> Self:
        """Make a known bundle from streamlines of any direction.

        Streamlines are flipped first where needed, so that all have the direction of
        the first one (:func:`dipy.tracking.streamline.orient_by_streamline`).

        Parameters
        ----------
        streamlines : sequence of ndarrays of shape (M, 3)
            In mm.
        affine, shape, radius_mm, end_mm
            As for :func:`known_bundles`.

        Returns
        -------
        bundle : KnownBundle

        Raises
        ------
        ValueError
            If there is no streamline, or no voxel of the grid is in the bundle.

        Examples
        --------
        >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
        >>> lines = [line, line[::-1]]
        >>> bundle = KnownBundle.from_streamlines(
        ...     lines, np.eye(4), (3, 1, 1), end_mm=0.5)
        >>> bundle.ends[0].ravel().tolist()
        [True, False, False]
        """
        if not len(streamlines):
            raise ValueError("streamlines is empty; a bundle needs one or more.")
        oriented = list(orient_by_streamline(streamlines, streamlines[0]))
        (bundle,) = known_bundles(
            [oriented], affine, shape, radius_mm=radius_mm, end_mm=end_mm
        )
        return cls(bundle.mask, bundle.ends)


def known_bundles(
    streamlines_of_each: Iterable[Iterable[AnyArray]],
    affine: FloatArray,
    shape: tuple[int, int, int],
    *,
    radius_mm: float = 0.0,
    end_mm: float = 4.0,
    mask: BoolArray | None = None,
) -> list[KnownBundle]:
    """Make known bundles from known streamlines or from centrelines.

    Parameters
    ----------
    streamlines_of_each : sequence of sequences of ndarrays of shape (M, 3)
        The streamlines of each bundle in mm. All streamlines of a bundle have the same
        direction, and their points are closer together than a voxel.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    shape : tuple of 3 ints
        Number of voxels along each axis.
    radius_mm : float, optional
        Distance from the streamlines up to which voxels belong to the bundle. Give 0 if
        the streamlines fill the bundle, as many true streamlines of a phantom do. For a
        centreline, give half of the width of the bundle.
    end_mm : float, optional
        Distance from the end points of the streamlines up to which voxels belong to an
        end region.
    mask : ndarray of shape (X, Y, Z), bool, optional
        Voxels that bundles may contain, such as white matter. It does not restrict the
        end regions.

    Returns
    -------
    bundles : list of KnownBundle
        The mask of each holds the voxels in which a streamline has a point, and those
        whose centre is within `radius_mm` of such a point.

    Examples
    --------
    >>> from dipy_rnn.evaluation import score
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> phantom = crossing_phantom()
    >>> streamlines, _ = phantom.streamlines(300)
    >>> bundles = known_bundles(
    ...     [streamlines[:300], streamlines[300:]], phantom.affine, phantom.shape)
    >>> score(streamlines, bundles, phantom.affine).valid_connections
    1.0
    """
    affine, bundles = spatial.check_affine(affine), []
    for streamlines in streamlines_of_each:
        lines = as_streamlines(streamlines, "streamlines_of_each")
        lines = [line for line in lines if len(line)]
        if not lines:
            raise ValueError("streamlines_of_each holds a bundle without streamlines.")
        where = visits(lines, affine, shape) > 0
        if radius_mm > 0:
            where |= _near(np.concatenate(lines), radius_mm, affine, shape)
        if mask is not None:
            _, mask = check_same_shape(streamlines=where, mask=mask)
            where &= mask != 0
        first, last = (
            _near([line[end] for line in lines], end_mm, affine, shape)
            for end in (0, -1)
        )
        bundles.append(KnownBundle(where, (first, last)))
    return bundles


def _near(
    points_mm: ArrayLike, radius_mm: float, affine: FloatArray, shape: tuple[int, ...]
) -> BoolArray:
    """Return the voxels (X, Y, Z) whose centres are within a radius of points."""
    centres_mm = spatial.to_mm(np.indices(shape).reshape(3, -1).T, affine)
    distance_mm, _ = cKDTree(points_mm).query(
        centres_mm, distance_upper_bound=np.nextafter(radius_mm, np.inf)
    )
    near: BoolArray = (distance_mm <= radius_mm).reshape(shape)
    return near
