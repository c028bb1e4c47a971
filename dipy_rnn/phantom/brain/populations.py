"""Fibre populations of voxels: the parts of bundles that are in them."""

from itertools import product

import numpy as np

from dipy_rnn import spatial
from dipy_rnn._typing import Float32Array, FloatArray, Int32Array, IntArray
from dipy_rnn.phantom.fibre_fields import FibreFields
from dipy_rnn.phantom.geometry import unit
from dipy_rnn.phantom.phantom import centres_vox, subvoxels_mm

MAX_POPULATIONS = 5  # of a voxel; the heaviest are kept
FIBRE_SHARE = 0.75  # of white matter; the rest is isotropic

_FULL = 0.3  # summed occupancy from which fibres fill white matter
_LEAST_WEIGHT = 0.01
_LEAST_SHARE = 0.05  # of the fibres of a voxel, below which a population is left out
_CORNERS: IntArray = np.array(list(product((0, 1), repeat=3)))


def voxels_near(
    fields: FibreFields, bundle_id: int, affine: FloatArray, shape: tuple[int, int, int]
) -> IntArray:
    """Return the flat indices of the voxels that a bundle may reach."""
    places = spatial.to_voxels(fields.cells_mm(bundle_id), affine)
    first = np.floor(places).astype(np.int64)
    near = np.zeros(shape, dtype=bool)
    for corner in _CORNERS:
        voxels = first + corner
        voxels = voxels[np.all((voxels >= 0) & (voxels < shape), axis=1)]
        near[tuple(voxels.T)] = True
    return np.flatnonzero(near)


def populations(
    fields: FibreFields,
    weights: FloatArray,
    white: Float32Array,
    healthy: Float32Array,
    affine: FloatArray,
    shape: tuple[int, int, int],
) -> tuple[Float32Array, Float32Array, Int32Array]:
    """Average the bundles over eight points of each of V voxels.

    The weight of a bundle times its occupancy is its share of the fibres. They fill a
    fixed part of the healthy white matter, or less where their occupancy is small.

    Parameters
    ----------
    fields : FibreFields
        Directions of B bundles.
    weights : ndarray of shape (B,)
    white : ndarray of shape (V, 8), float32
        Share of white matter at the points of each voxel.
    healthy : ndarray of shape (V,), float32
        Share of white matter without lesions in each voxel.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    shape : tuple of 3 ints

    Returns
    -------
    fractions : ndarray of shape (X, Y, Z, K), float32
        Of the K heaviest populations, heaviest first.
    directions : ndarray of shape (X, Y, Z, K, 3), float32
        Unit vectors along the voxel axes, or zero.
    bundle_ids : ndarray of shape (X, Y, Z, K), int32
        Bundle of each population, or -1.

    Examples
    --------
    >>> import numpy as np
    >>> lines = np.zeros((1, 9, 30, 3))
    >>> lines[..., 0] = np.linspace(0, 8, 30)
    >>> white = np.ones((9, 8), np.float32)
    >>> fractions, directions, bundle_ids = populations(
    ...     FibreFields(lines, np.eye(4)), np.ones(1), white, white[:, 0], np.eye(4),
    ...     (9, 1, 1))
    >>> fractions[4, 0, 0, 0].round(2), directions[4, 0, 0, 0, 0], bundle_ids[4, 0, 0]
    (np.float32(0.75), np.float32(1.0), array([ 0, -1, -1, -1, -1], dtype=int32))
    """
    centres = centres_vox(shape)
    parts = []
    for b, weight in enumerate(weights):
        near = voxels_near(fields, b, affine, shape)
        points_mm = subvoxels_mm(centres[near], affine)
        along, occupancy, _ = fields.at(np.full(len(points_mm), b), points_mm)
        share = weight * occupancy.reshape(-1, 8) * white[near]
        mean = np.einsum("np,npi->ni", share, along.reshape(-1, 8, 3))
        share = share.mean(axis=1)
        used = share > _LEAST_WEIGHT
        n_used = np.count_nonzero(used)
        parts.append((near[used], np.full(n_used, b), share[used], unit(mean[used])))
    voxel, bundle, share, direction = (
        np.concatenate(each) for each in zip(*parts, strict=True)
    )

    # The rank of each population in its voxel, from the heaviest.
    order = np.lexsort((bundle, -share, voxel))
    starts = np.flatnonzero(np.diff(voxel[order], prepend=-1))
    counts = np.diff(starts, append=len(voxel))
    rank = np.empty(len(voxel), dtype=np.int64)
    rank[order] = np.arange(len(voxel)) - np.repeat(starts, counts)
    total = np.bincount(voxel, share, len(white))
    kept = (rank < MAX_POPULATIONS) & (share >= _LEAST_SHARE * total[voxel])
    voxel, bundle, rank = voxel[kept], bundle[kept], rank[kept]
    share, direction = share[kept], direction[kept]

    filled = np.minimum(total / _FULL, 1) * FIBRE_SHARE * healthy
    share *= filled[voxel] / np.bincount(voxel, share, len(white))[voxel]
    size = (len(white), MAX_POPULATIONS)
    fractions = np.zeros(size, dtype=np.float32)
    directions = np.zeros((*size, 3), dtype=np.float32)
    bundle_ids = np.full(size, -1, dtype=np.int32)
    fractions[voxel, rank] = share
    directions[voxel, rank] = direction @ spatial.axes(affine)
    bundle_ids[voxel, rank] = bundle
    return (
        fractions.reshape(*shape, -1),
        directions.reshape(*shape, -1, 3),
        bundle_ids.reshape(*shape, -1),
    )
