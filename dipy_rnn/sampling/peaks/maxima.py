"""Maxima of spherical functions: on the vertices of a sphere, and refined.

This module checks arguments and allocates results. The kernels (compiled functions) in
``_maxima.pyx`` compute them.
"""

import numpy as np

from dipy_rnn._checks import check_count, check_number
from dipy_rnn._threads import count_threads
from dipy_rnn._typing import Float32Array, FloatArray, Int32Array
from dipy_rnn.sampling.peaks import _maxima
from dipy_rnn.sampling.rotation import order_of, quarter_turns
from dipy_rnn.spatial import frames, handedness

_NEWTON_STEPS = 6
# Newton's method squares the error in each step, so no other step is needed after one
# below this angle in radians.
_LAST_STEP = 1e-4
_MAX_TURN = float(np.tan(np.deg2rad(8.0)))  # largest angle of a Newton step


def local_maxima(
    coeffs: Float32Array,
    harmonics: Float32Array,
    neighbours: Int32Array,
    most: int,
    least_share: float,
) -> tuple[Int32Array, Float32Array]:
    """Find the vertices at which functions are larger than at all neighbours.

    Parameters
    ----------
    coeffs : ndarray of shape (N, C)
        float32. N functions.
    harmonics : ndarray of shape (C, V)
        float32. The basis functions at V vertices of a sphere.
    neighbours : ndarray of shape (V, K)
        int32. The neighbours of each vertex.
    most : int
        Largest number of maxima to return for each function, 1 or more. If there are
        more maxima, those of the largest values are returned.
    least_share : float
        Maxima below this share of the function's largest value are not returned.

    Returns
    -------
    found : ndarray of shape (N, most)
        int32. Vertices of positive maxima, the largest value first. Unused places are
        -1.
    least : ndarray of shape (N,)
        float32. The smallest value of each function.

    Raises
    ------
    ValueError
        If shapes or types differ from the above, a neighbour is not a vertex number,
        or ``most`` is below 1.

    Examples
    --------
    >>> ring = np.array([[3, 1], [0, 2], [1, 3], [2, 0]], dtype=np.int32)
    >>> values = np.array([[1, 0, 3, 2]], np.float32)
    >>> found, least = local_maxima(values, np.eye(4, dtype=np.float32), ring, 3, 0.0)
    >>> found.tolist(), least.tolist()
    ([[2, -1, -1]], [0.0])
    """
    _check("coeffs", coeffs, "float32")
    _check("harmonics", harmonics, "float32")
    _check("neighbours", neighbours, "int32")
    n_vertices = len(neighbours)
    if harmonics.shape != (coeffs.shape[1], n_vertices) or not harmonics.size:
        raise ValueError(
            f"coeffs, harmonics and neighbours have the shapes {coeffs.shape}, "
            f"{harmonics.shape} and {neighbours.shape}; (N, C), (C, V) and (V, K) are "
            "needed, C and V above 0."
        )
    if neighbours.size and not 0 <= neighbours.min() <= neighbours.max() < n_vertices:
        raise ValueError(
            f"neighbours holds {neighbours.min()} to {neighbours.max()}; vertices from "
            f"0 to {n_vertices - 1} are needed."
        )
    most = check_count(most, "most", 1)
    found = np.empty((len(coeffs), most), dtype=np.int32)
    least = np.empty(len(coeffs), dtype=np.float32)
    _maxima.local_maxima(
        np.ascontiguousarray(coeffs),
        np.ascontiguousarray(harmonics),
        np.ascontiguousarray(neighbours),
        check_number(least_share, "least_share"),
        found,
        least,
    )
    return found, least


def refine_maxima(
    coeffs: Float32Array,
    directions: FloatArray,
    axes: FloatArray,
    *,
    nbr_threads: int = 1,
) -> tuple[FloatArray, FloatArray]:
    """Move directions to maxima of functions, by Newton's method.

    Each step is in the plane perpendicular to the direction. In a frame whose z axis is
    the direction, the value of the function at z is a weighted sum of the coefficients
    of m = 0. Its slope is a weighted sum of those of m = +1 and -1, and its curvature
    of those of m = 0, +2 and -2. Where the curvature is not that of a maximum, the
    direction stays.

    Parameters
    ----------
    coeffs : ndarray of shape (N, C)
        float32. N functions in the package's basis, along the voxel axes.
    directions : ndarray of shape (N, 3)
        Unit vectors near maxima, in components along the voxel axes.
    axes : ndarray of shape (3, 3)
        The voxel axes in RAS+ (:func:`dipy_rnn.spatial.axes`).
    nbr_threads : int, optional
        0 for every core.

    Returns
    -------
    values : ndarray of shape (N,)
        Values of the functions before the last step.
    directions : ndarray of shape (N, 3)
        Unit vectors.

    Raises
    ------
    ValueError
        If shapes or types differ from the above.

    Examples
    --------
    >>> along_z = np.zeros((1, 15), np.float32); along_z[0, [0, 3, 10]] = 1.0, 2.0, 2.5
    >>> near = np.array([[0.0, 0.06, 0.998]])
    >>> values, found = refine_maxima(along_z, near, np.eye(3))
    >>> bool(abs(found[0, 2] - 1) < 1e-9)
    True
    """
    _check("coeffs", coeffs, "float32")
    order = order_of(coeffs, "coeffs")
    if np.shape(directions) != (len(coeffs), 3):
        raise ValueError(
            f"directions has the shape {np.shape(directions)}; {(len(coeffs), 3)} is "
            "needed."
        )
    ls = np.arange(0, order + 1, 2)
    scale = np.sqrt((2 * ls + 1) / (4 * np.pi))
    ladder = ls * (ls + 1)
    weights = np.array(
        [
            scale,
            -scale * ladder / 2,
            -scale * np.sqrt(ladder / 2),
            scale * np.sqrt(ladder * np.maximum(ladder - 2, 0) / 8),
        ]
    )
    turned = np.ascontiguousarray(frames.from_tangents(directions, axes))
    values = np.empty(len(coeffs))
    _maxima.refine(
        np.ascontiguousarray(coeffs),
        turned,
        handedness(axes),
        order,
        quarter_turns(order),
        weights,
        _NEWTON_STEPS,
        _LAST_STEP,
        _MAX_TURN,
        values,
        count_threads(nbr_threads),
    )
    return values, turned[:, 2].copy()


def _check(name: str, array: object, dtype: str) -> None:
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype != dtype:
        raise ValueError(f"{name} must be an array of {dtype} with two axes.")
