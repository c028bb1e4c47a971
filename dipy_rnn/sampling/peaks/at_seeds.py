"""First directions: the peaks of the fODF at a seed.

DIPY's peaks are vertices of a fixed sphere. If the head is rotated, such peaks do not
rotate by exactly the same angle. In this module each peak is therefore refined to the
maximum of the continuous function. A peak has two opposite directions. The one that
points up in RAS+ is used. If both are horizontal, the one that points forward is used.
If they point exactly left and right, the right one is used.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from dipy_rnn._typing import BoolArray, Float32Array, FloatArray, Int32Array
from dipy_rnn.sampling.interpolate import sample
from dipy_rnn.sampling.peaks.maxima import local_maxima, refine_maxima
from dipy_rnn.sampling.rotation import sh_order

#: Largest number of first directions at a seed, as in DIPY's peaks.
MAX_PEAKS = 5

_BLOCK = 8192  # seeds at a time
# A maximum is at most 6.3 degrees from a vertex. At this angle the sharpest lobe of
# order 16 still has more than this share of its height.
_NEARLY = 0.5
_ROUNDING = 1e-7  # of a component of a direction: coefficients are float32


def first_directions(
    volume: Float32Array,
    points_vox: FloatArray,
    axes: FloatArray,
    *,
    max_peaks: int = MAX_PEAKS,
    relative_peak_threshold: float = 0.5,
    min_separation_angle: float = 25.0,
    nbr_threads: int = 1,
) -> FloatArray:
    """Find the directions in which streamlines may start.

    Parameters
    ----------
    volume : ndarray of shape (X, Y, Z, C)
        fODF in the package's basis, along the voxel axes
        (:mod:`dipy_rnn.sampling.features`), float32.
    points_vox : ndarray of shape (N, 3)
        Seeds in voxel coordinates.
    axes : ndarray of shape (3, 3)
        The voxel axes in RAS+ (:func:`dipy_rnn.spatial.axes`).
    max_peaks : int, optional
        Largest number of directions for a seed. The largest peak comes first.
    relative_peak_threshold, min_separation_angle : float, optional
        As for :func:`dipy.direction.peak_directions`. The angle is in degrees.
    nbr_threads : int, optional
        0 for every core.

    Returns
    -------
    directions : ndarray of shape (N, max_peaks, 3)
        Unit vectors, in components along the voxel axes. Rows are zero if a seed has
        fewer peaks, or is outside the image.

    Examples
    --------
    >>> volume = np.zeros((1, 1, 1, 15), np.float32)
    >>> volume[..., [0, 3, 10]] = 1.0, 2.0, 2.5  # one lobe along z
    >>> first_directions(volume, np.zeros((1, 3)), np.eye(3))[0, 0].round(3).tolist()
    [0.0, 0.0, 1.0]
    """
    directions = np.zeros((len(points_vox), max_peaks, 3))
    for start in range(0, len(points_vox), _BLOCK):
        block = slice(start, start + _BLOCK)
        coeffs, inside = sample(volume, points_vox[block], nbr_threads=nbr_threads)
        directions[block] = _directions_of(
            coeffs,
            inside,
            axes,
            max_peaks,
            relative_peak_threshold,
            min_separation_angle,
            nbr_threads,
        )
    return directions


def _directions_of(
    coeffs: Float32Array,
    inside: BoolArray,
    axes: FloatArray,
    max_peaks: int,
    relative_peak_threshold: float,
    min_separation_angle: float,
    nbr_threads: int,
) -> FloatArray:
    directions = np.zeros((len(coeffs), max_peaks, 3))
    seen = np.flatnonzero(inside & coeffs[:, 1:].any(axis=1))
    seeds, candidates, least = _candidates(coeffs[seen], max_peaks)
    if not len(seeds):
        return directions
    values, refined = refine_maxima(
        coeffs[seen[seeds]], candidates, axes, nbr_threads=nbr_threads
    )

    # Sort by seed, then by value, the largest first. Then select by DIPY's two rules:
    # the threshold and the separation angle.
    order = np.lexsort((-values, seeds))
    seeds, values, refined = seeds[order], values[order], refined[order]
    first = np.searchsorted(seeds, seeds)
    threshold = least[seeds] + relative_peak_threshold * (values[first] - least[seeds])
    found = np.zeros(len(seen), dtype=int)
    cosine = np.cos(np.deg2rad(min_separation_angle))
    for rank in range((np.arange(len(seeds)) - first).max() + 1):
        pick = np.flatnonzero(np.arange(len(seeds)) - first == rank)
        seed = seeds[pick]
        close = np.abs(np.einsum("npi,ni->np", directions[seen[seed]], refined[pick]))
        good = (
            (values[pick] > 0)
            & (values[pick] >= threshold[pick])
            & (close <= cosine).all(axis=1)
            & (found[seed] < max_peaks)
        )
        seed, pick = seed[good], pick[good]
        directions[seen[seed], found[seed]] = refined[pick]
        found[seed] += 1
    directions[np.abs(directions) < _ROUNDING] = 0.0
    return directions * _upward(directions, axes)


def _candidates(
    coeffs: Float32Array, max_peaks: int
) -> tuple[NDArray[np.intp], FloatArray, Float32Array]:
    """Return local maxima on the vertices of a sphere, and the minimum of each fODF.

    For each maximum: the row of its fODF in ``coeffs``, and its direction. A negative
    minimum counts as zero, as in DIPY.
    """
    vertices, harmonics, neighbours = _sphere(sh_order(coeffs.shape[1]))
    # If one peak is enough, maxima that cannot become the largest are not refined.
    least_share = _NEARLY if max_peaks == 1 else 0.0
    found, least = local_maxima(
        coeffs, harmonics, neighbours, 2 * MAX_PEAKS, least_share
    )
    rows, place = np.nonzero(found >= 0)
    return rows, vertices[found[rows, place]], np.maximum(least, 0.0)


@cache
def _sphere(order: int) -> tuple[FloatArray, Float32Array, Int32Array]:
    """Return a half sphere: its vertices, the harmonics there, and neighbours.

    It has one vertex of each antipodal pair.
    """
    from dipy.data import get_sphere
    from dipy.reconst.shm import real_sh_tournier

    sphere = get_sphere(name="symmetric724")
    half = np.flatnonzero(_upward(sphere.vertices, np.eye(3))[:, 0] > 0)
    harmonics = real_sh_tournier(
        order, sphere.theta[half], sphere.phi[half], legacy=False
    )[0]
    # The antipode of a neighbour in the other half is in this half.
    closeness = np.abs(sphere.vertices @ sphere.vertices[half].T)
    in_half = np.argmax(closeness, axis=1)
    lists: list[set[np.intp]] = [set() for _ in sphere.vertices]
    for a, b in sphere.edges:
        lists[a].add(in_half[b])
        lists[b].add(in_half[a])
    most = max(map(len, lists))
    neighbours = [sorted(near) + [min(near)] * (most - len(near)) for near in lists]
    return (
        sphere.vertices[half],
        np.ascontiguousarray(harmonics.T, dtype=np.float32),
        np.array(neighbours, dtype=np.int32)[half],
    )


def _upward(directions: FloatArray, axes: FloatArray) -> FloatArray:
    """Return signs that make directions point up, or forward, or to the right."""
    x, y, z = np.moveaxis(np.round(directions @ axes.T, 6), -1, 0)
    sign = np.where(z != 0, np.sign(z), np.where(y != 0, np.sign(y), np.sign(x)))
    return np.where(sign == 0, 1.0, sign)[..., None]
