"""Tractometer's scores of streamlines against known bundles.

:func:`score` computes the shares of valid, invalid and no connections, and overlap,
overreach and F1 of each bundle [1]_ [2]_.

References
----------
.. [1] Cote MA, Girard G, Bore A, Garyfallidis E, Houde JC, Descoteaux M. Tractometer:
   towards validation of tractography pipelines. Medical Image Analysis 17(7), 2013.
.. [2] Maier-Hein KH, Neher PF, Houde JC, et al. The challenge of mapping the human
   connectome based on diffusion tractography. Nature Communications 8:1349, 2017.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from dipy_rnn import spatial
from dipy_rnn._typing import AnyArray, BoolArray, FloatArray, IntArray
from dipy_rnn.evaluation.bundles import KnownBundle
from dipy_rnn.evaluation.distances import as_streamlines
from dipy_rnn.evaluation.volumes import end_voxels, voxels_of

#: Label of a streamline that connects end regions of different bundles.
INVALID_CONNECTION = -1
#: Label of a streamline that does not connect two end regions.
NO_CONNECTION = -2


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of N streamlines against B known bundles, made by :func:`score`.

    Parameters
    ----------
    labels : ndarray of shape (N,), int
        Index of the bundle that each streamline validly connects, or
        `INVALID_CONNECTION` (-1) or `NO_CONNECTION` (-2).
    overlaps, overreaches, f1s : ndarray of shape (B,)
        One value for each bundle; 0 for a bundle without valid connections.

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
        """Share of the streamlines that connect the two ends of one bundle."""
        return self._share(self.labels >= 0)

    @property
    def invalid_connections(self) -> float:
        """Share of the streamlines that connect end regions of different bundles."""
        return self._share(self.labels == INVALID_CONNECTION)

    @property
    def no_connections(self) -> float:
        """Share of all other streamlines."""
        return self._share(self.labels == NO_CONNECTION)

    @property
    def n_bundles(self) -> int:
        """Number of known bundles."""
        return len(self.overlaps)

    @property
    def valid_bundles(self) -> int:
        """Number of bundles with a valid connection."""
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
    """Compute Tractometer's scores of streamlines against known bundles.

    Parameters
    ----------
    streamlines : sequence of N ndarrays of shape (M, 3)
        In mm.
    bundles : sequence of B KnownBundle
        One or more, all on one grid.
    affine : ndarray of shape (4, 4)
        Voxel to mm of that grid.

    Returns
    -------
    scores : Scores

    Raises
    ------
    ValueError
        If there is no bundle, bundles lie on different grids, or the affine or a
        streamline is invalid.

    Notes
    -----
    A streamline is [1]_

    - a *valid connection* of a bundle if one of its end points lies in one end region
      of the bundle and the other end point in the other one. If this holds for several
      bundles, the one whose mask holds most points of the streamline counts (the first
      of these, if they hold equally many);
    - otherwise an *invalid connection* if both end points lie in end regions, but in
      no common one;
    - otherwise *no connection*: an end point is in no end region, both are in the same
      one, or the streamline has no points.

    Tractometer also requires that a valid connection stays inside the mask of its
    bundle. Here points outside the mask raise the overreach instead. With T the voxels
    that hold points of the valid connections of a bundle, and M its mask, [2]_

    - *overlap* is ``|T and M| / |M|``;
    - *overreach* is ``|T without M| / |M|``;
    - *F1* is ``2 |T and M| / (|T| + |M|)``: the Dice coefficient, which is the
      harmonic mean of the overlap and the share of T that is in M.

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
    lines = as_streamlines(streamlines, "streamlines")
    affine = spatial.check_affine(affine)
    shapes = sorted({bundle.mask.shape for bundle in bundles})
    if len(shapes) != 1:
        raise ValueError(
            f"bundles holds {len(bundles)} bundles of the shapes {shapes}; one or more "
            "on one grid are needed."
        )
    (shape,) = shapes
    masks = [bundle.mask != 0 for bundle in bundles]
    labels = _connected_bundles(lines, bundles, masks, affine, shape)

    volumes = np.zeros((3, len(bundles)))
    for b in np.unique(labels[labels >= 0]):
        valid = np.concatenate([lines[i] for i in np.flatnonzero(labels == b)])
        voxels, is_inside = voxels_of(valid, affine, shape)
        traversed: BoolArray = np.zeros(shape, dtype=bool)
        traversed[*voxels[is_inside].T] = True
        n_traversed, size = np.count_nonzero(traversed), np.count_nonzero(masks[b])
        common = np.count_nonzero(traversed & masks[b])
        volumes[:, b] = (
            common / size,
            (n_traversed - common) / size,
            2 * common / (n_traversed + size),
        )
    return Scores(labels, *volumes)


def _connected_bundles(
    lines: list[FloatArray],
    bundles: Sequence[KnownBundle],
    masks: list[BoolArray],
    affine: FloatArray,
    shape: tuple[int, ...],
) -> IntArray:
    """Return the labels (N,) of :class:`Scores`."""
    ends = np.array([bundle.ends for bundle in bundles], dtype=bool)
    # Whether a streamline's first and last point are in a bundle's two end regions.
    first: BoolArray = np.zeros((len(lines), len(bundles), 2), dtype=bool)
    last: BoolArray = np.zeros_like(first)
    for is_in, end in ((first, 0), (last, -1)):
        indices, voxels = end_voxels(lines, end, affine, shape)
        is_in[indices] = np.moveaxis(ends[:, :, *voxels.T], -1, 0)

    both_in_any = first.any(axis=(1, 2)) & last.any(axis=(1, 2))
    both_in_one = (first & last).any(axis=(1, 2))
    labels = np.where(both_in_any & ~both_in_one, INVALID_CONNECTION, NO_CONNECTION)
    connects: BoolArray = np.any(first & last[..., ::-1], axis=2)
    labels = np.where(connects.any(axis=1), connects.argmax(axis=1), labels)
    for i in np.flatnonzero(connects.sum(axis=1) > 1):
        fitting = np.flatnonzero(connects[i])
        voxels, is_inside = voxels_of(lines[i], affine, shape)
        n_points = [np.count_nonzero(masks[b][*voxels[is_inside].T]) for b in fitting]
        labels[i] = fitting[np.argmax(n_points)]
    return labels


class BundleVolumes:
    """Overlap, overreach and F1 of resampled streamlines, for :func:`bootstrapped`.

    Each method computes the property of the same name of :class:`Scores` for a
    resample. It takes the sum of `visited` over the streamlines of the resample, an
    ndarray of shape (V,).

    Parameters
    ----------
    labels : ndarray of shape (N,), int
        ``Scores.labels``.
    visited : scipy.sparse.csr_array of shape (N, X * Y * Z)
        :func:`visited_voxels` of the same streamlines.
    bundles : sequence of B KnownBundle

    Attributes
    ----------
    visited : scipy.sparse.csr_array of shape (N, V)
        One column for each pair of a bundle and a voxel that a valid connection of this
        bundle visits.

    Examples
    --------
    >>> from dipy_rnn.evaluation import visited_voxels
    >>> ends = np.eye(5, dtype=bool)[[0, 4], :, None, None]
    >>> bundle = KnownBundle(np.ones((5, 1, 1), dtype=bool), tuple(ends))
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [4, 0, 0]])
    >>> visited = visited_voxels([line], np.eye(4), (5, 1, 1))
    >>> volumes = BundleVolumes(np.array([0]), visited, [bundle])
    >>> volumes.overlap(volumes.visited.sum(axis=0))
    0.8
    """

    def __init__(
        self, labels: IntArray, visited: csr_array, bundles: Sequence[KnownBundle]
    ) -> None:
        masks = np.array([bundle.mask.ravel() for bundle in bundles])
        rows, voxels = visited.nonzero()
        valid = labels[rows] >= 0
        rows, voxels = rows[valid], voxels[valid]
        places, columns = np.unique(
            labels[rows] * visited.shape[1] + voxels, return_inverse=True
        )
        self.visited = csr_array(
            (np.ones(len(rows), dtype=int), (rows, columns)),
            shape=(len(labels), len(places)),
        )
        self._bundle, voxels = np.divmod(places, visited.shape[1])
        self._is_inside = masks[self._bundle, voxels]
        self._size = masks.sum(axis=1)

    def _n_voxels(self, chosen: BoolArray) -> IntArray:
        return np.bincount(self._bundle[chosen], minlength=len(self._size))

    def valid_bundles(self, visits: IntArray) -> float:
        """Return the number of bundles with a valid connection."""
        return float(np.count_nonzero(self._n_voxels(visits > 0)))

    def overlap(self, visits: IntArray) -> float:
        """Return the mean overlap of the bundles."""
        common = self._n_voxels((visits > 0) & self._is_inside)
        return float(np.mean(common / self._size))

    def overreach(self, visits: IntArray) -> float:
        """Return the mean overreach of the bundles."""
        outside = self._n_voxels((visits > 0) & ~self._is_inside)
        return float(np.mean(outside / self._size))

    def f1(self, visits: IntArray) -> float:
        """Return the mean F1 of the bundles."""
        common = self._n_voxels((visits > 0) & self._is_inside)
        return float(np.mean(2 * common / (self._n_voxels(visits > 0) + self._size)))
