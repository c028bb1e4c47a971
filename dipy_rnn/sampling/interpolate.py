"""Trilinear sampling of a volume, and spherical harmonics in local frames.

The face of the kernels in ``_interp.pyx``: it checks, allocates and explains.

The border rule, on an axis of four voxels (DIPY's ``trilinear_interpolate4d``
follows the same one):

==================  ==========================================================
coordinate          value
==================  ==========================================================
below -0.5          outside: zeros, and ``inside`` is False
-0.5 up to 0        voxel 0 (clamped)
0 up to 3           linear between the two nearest voxels
3 up to 3.5         voxel 3 (clamped)
3.5 and above, NaN  outside: zeros, and ``inside`` is False
==================  ==========================================================
"""

from functools import cache
import os
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from dipy_rnn import _interp, spaces
from dipy_rnn._typing import (
    AnyArray,
    ArrayLike,
    BoolArray,
    Float32Array,
    FloatArray,
    Int32Array,
)

_Scalar = TypeVar("_Scalar", bound=np.generic)
Turns: TypeAlias = tuple[  # of quarter_turns
    Int32Array, Int32Array, Float32Array, Int32Array, Int32Array, Float32Array
]

#: The highest spherical harmonic order the rotation kernel takes.
MAX_ORDER = 16

#: What the kernels find at a point: outside of the image, nothing but zeros, or data.
OUTSIDE, EMPTY, DATA = range(3)

# More would end the process where the system has no room for that many.
_MOST_THREADS = 1024

_NO_FRAMES = np.empty((0, 3, 3))
_NO_TABLE = np.zeros(1, np.int32), np.zeros(1, np.int32), np.zeros(1, np.float32)
_NO_TABLES: Turns = (*_NO_TABLE, *_NO_TABLE)


def count_threads(nbr_threads: int) -> int:
    """Turn DIPY's ``nbr_threads`` into a number of threads.

    Parameters
    ----------
    nbr_threads : int
        0 for every core this process may use.

    Returns
    -------
    n_threads : int
        1 or more.

    Raises
    ------
    ValueError
        If it is no whole number from 0 to 1024.

    Examples
    --------
    >>> count_threads(2)
    2
    """
    n_threads = spaces.check_count(nbr_threads, "nbr_threads", 0, _MOST_THREADS)
    if n_threads:
        return n_threads
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def sh_order(n_coeffs: int) -> int:
    """Return the even order that has a number of coefficients.

    Parameters
    ----------
    n_coeffs : int
        Number of coefficients of a symmetric function: 15 for order 4, 28 for 6,
        45 for 8.

    Returns
    -------
    order : int

    Raises
    ------
    ValueError
        If no even order has that many coefficients.

    Examples
    --------
    >>> sh_order(45)
    8
    """
    for order in range(0, MAX_ORDER + 1, 2):
        if (order + 1) * (order + 2) // 2 == n_coeffs:
            return order
    raise ValueError(
        f"{n_coeffs} coefficients belong to no even order up to {MAX_ORDER}; "
        "15 (order 4), 28 (6), 45 (8), 66 (10) .. are allowed."
    )


@cache
def quarter_turns(order: int) -> Turns:
    """Make tables of the turns by -90 and +90 degrees about x, for the kernels.

    Parameters
    ----------
    order : int
        Even spherical harmonic order.

    Returns
    -------
    tables : tuple of ndarray
        Starts, columns and values of two sparse matrices (CSR) in ``tournier07``,
        found numerically: the harmonics at turned directions, expressed in themselves.

    Examples
    --------
    >>> [len(table) for table in quarter_turns(8)]
    [46, 143, 143, 46, 143, 143]
    """
    from dipy.core.sphere import Sphere
    from dipy.data import default_sphere
    from dipy.reconst.shm import real_sh_tournier

    def harmonics(directions: FloatArray) -> FloatArray:
        sphere = Sphere(xyz=directions)
        values: FloatArray = real_sh_tournier(
            order, sphere.theta, sphere.phi, legacy=False
        )[0]
        return values

    vertices = default_sphere.vertices
    turned = vertices @ np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    matrix = np.linalg.pinv(harmonics(vertices)) @ harmonics(turned)
    return (*_sparse(matrix), *_sparse(matrix.T))


def _sparse(matrix: FloatArray) -> tuple[Int32Array, Int32Array, Float32Array]:
    """Return starts, columns and values of what is not zero but for rounding."""
    rows, columns = np.nonzero(np.abs(matrix) > 1e-9)
    starts = np.searchsorted(rows, np.arange(len(matrix) + 1))
    return (
        starts.astype(np.int32),
        columns.astype(np.int32),
        matrix[rows, columns].astype(np.float32),
    )


def sample(
    volume: Float32Array,
    points_vox: ArrayLike,
    frames: ArrayLike | None = None,
    *,
    handedness: float = 1.0,
    normalise: bool = False,
    nbr_threads: int = 1,
) -> tuple[Float32Array, BoolArray]:
    """Sample a volume at points, if asked for in each point's own frame.

    Parameters
    ----------
    volume : ndarray of shape (X, Y, Z, C)
        float32, C-contiguous. With ``frames``, spherical harmonics in MRtrix3's
        basis (``tournier07``, not legacy) and in the axes of the frames.
    points_vox : array_like of shape (N, 3)
        Voxel coordinates, voxel ``i`` centred on ``i``.
    frames : array_like of shape (N, 3, 3), optional
        Rows ``e1, e2, e3`` of each frame (see :mod:`dipy_rnn.frames`).
    handedness : float, optional
        Of the axes the frames are given in (:func:`dipy_rnn.spaces.handedness`).
    normalise : bool, optional
        Divide each row by the root of its summed squares.
    nbr_threads : int, optional
        0 for every core.

    Returns
    -------
    values : ndarray of shape (N, C)
        float32; zeros outside the volume.
    inside : ndarray of shape (N,)
        bool, by the border rule above.

    Raises
    ------
    ValueError
        If a shape or the type of the volume is not as said.

    Examples
    --------
    >>> volume = np.arange(2, dtype=np.float32).reshape(2, 1, 1, 1)
    >>> values, inside = sample(volume, [[0.25, 0, 0], [1.5, 0, 0]])
    >>> values.tolist(), inside.tolist()
    ([[0.25], [0.0]], [True, False])
    """
    if (
        not isinstance(volume, np.ndarray)
        or volume.dtype != np.float32
        or volume.ndim != 4
        or not volume.size
        or not volume.flags.c_contiguous
    ):
        raise ValueError(
            "volume must be a C-contiguous float32 array of shape (X, Y, Z, C), "
            "no axis empty."
        )
    points_vox = _as_type(points_vox, "points_vox", np.float64)
    if points_vox.ndim != 2 or points_vox.shape[1] != 3:
        raise ValueError(f"points_vox has the shape {points_vox.shape}; give (N, 3).")
    _check_handedness(handedness)
    n_points = len(points_vox)
    order, tables = 0, _NO_TABLES
    if frames is None:
        frames = _NO_FRAMES
    else:
        order = _order_of(volume, "volume")
        tables = quarter_turns(order)
        frames = _check_frames(frames, n_points)
    values = np.empty((n_points, volume.shape[3]), np.float32)
    found = np.empty(n_points, np.uint8)
    if n_points:
        _interp.sample(
            volume,
            points_vox,
            frames,
            handedness,
            order,
            tables,
            normalise,
            values,
            found,
            count_threads(nbr_threads),
        )
    return values, found != OUTSIDE


def rotate(
    coeffs: ArrayLike,
    frames: ArrayLike,
    *,
    handedness: float = 1.0,
    nbr_threads: int = 1,
) -> Float32Array:
    """Express functions on the sphere in local frames.

    Parameters
    ----------
    coeffs : array_like of shape (N, C)
        Spherical harmonics in MRtrix3's basis (``tournier07``, not legacy).
    frames : array_like of shape (N, 3, 3)
        Rows ``e1, e2, e3`` of each frame.
    handedness : float, optional
        Of the axes the frames are given in.
    nbr_threads : int, optional
        0 for every core.

    Returns
    -------
    rotated : ndarray of shape (N, C)
        float32 coefficients of ``g``, where ``g(y)`` is the function's value in the
        direction ``y[0] e1 + y[1] e2 + y[2] e3``.

    Raises
    ------
    ValueError
        If a shape is not as said.

    Notes
    -----
    With the rotation split into turns about z and quarter turns about x
    (Z X Z X Z), no Wigner matrix is needed: a turn about z mixes the coefficients
    of +m and -m alone, a quarter turn about x is one sparse matrix for all points.

    Examples
    --------
    >>> coeffs = np.zeros((1, 15)); coeffs[0, 3] = 1.0  # a lobe along z
    >>> frame = np.array([[[0, 1, 0], [0, 0, 1], [1, 0, 0]]])  # e3 along x
    >>> turned = rotate(coeffs, frame)
    >>> np.allclose(turned[0, 1:6], [0, 0, -0.5, 0, -0.866], atol=1e-3)
    True
    """
    rotated = _as_type(coeffs, "coeffs", np.float32).copy()
    if rotated.ndim != 2:
        raise ValueError(f"coeffs has the shape {rotated.shape}; give (N, C).")
    _check_handedness(handedness)
    order = _order_of(rotated, "coeffs")
    frames = _check_frames(frames, len(rotated))
    if len(rotated) and order:
        _interp.rotate(
            rotated,
            frames,
            handedness,
            order,
            quarter_turns(order),
            count_threads(nbr_threads),
        )
    return rotated


def local_maxima(
    coeffs: Float32Array,
    harmonics: Float32Array,
    neighbours: Int32Array,
    most: int,
    least_share: float,
) -> tuple[Int32Array, Float32Array]:
    """Find the vertices at which functions are largest among their neighbours.

    Parameters
    ----------
    coeffs : ndarray of shape (N, C)
        float32: N functions.
    harmonics : ndarray of shape (C, V)
        float32: what the coefficients are of, at V vertices of a sphere.
    neighbours : ndarray of shape (V, K)
        int32: the neighbours of each vertex.
    most : int
        Of each function, as many are found at most: the largest. 1 or more.
    least_share : float
        Maxima below this share of the function's largest value are left out.

    Returns
    -------
    found : ndarray of shape (N, most)
        int32: vertices of positive maxima, the largest first, then -1.
    least : ndarray of shape (N,)
        float32: the smallest value of each function.

    Raises
    ------
    ValueError
        If shapes or types are not as said, a neighbour is none of the vertices, or
        ``most`` is below 1.

    Examples
    --------
    >>> ring = np.array([[3, 1], [0, 2], [1, 3], [2, 0]], dtype=np.int32)
    >>> values = np.array([[1, 0, 3, 2]], np.float32)
    >>> found, least = local_maxima(values, np.eye(4, dtype=np.float32), ring, 3, 0.0)
    >>> found.tolist(), least.tolist()
    ([[2, -1, -1]], [0.0])
    """
    for name, array, dtype in (
        ("coeffs", coeffs, "float32"),
        ("harmonics", harmonics, "float32"),
        ("neighbours", neighbours, "int32"),
    ):
        if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype != dtype:
            raise ValueError(f"{name} must be an array of {dtype} with two axes.")
    n_vertices = len(neighbours)
    if harmonics.shape != (coeffs.shape[1], n_vertices) or not n_vertices:
        raise ValueError(
            f"coeffs, harmonics and neighbours have the shapes {coeffs.shape}, "
            f"{harmonics.shape} and {neighbours.shape}; (N, C), (C, V) and (V, K) are "
            "needed, V above 0."
        )
    if neighbours.size and not 0 <= neighbours.min() <= neighbours.max() < n_vertices:
        raise ValueError(
            f"neighbours holds {neighbours.min()} to {neighbours.max()}; vertices from "
            f"0 to {n_vertices - 1} are needed."
        )
    found_of_each = spaces.check_count(most, "most", 1)
    found = np.empty((len(coeffs), found_of_each), dtype=np.int32)
    least = np.empty(len(coeffs), dtype=np.float32)
    _interp.local_maxima(
        np.ascontiguousarray(coeffs),
        np.ascontiguousarray(harmonics),
        np.ascontiguousarray(neighbours),
        spaces.check_number(least_share, "least_share"),
        found,
        least,
    )
    return found, least


def _as_type(values: ArrayLike, name: str, dtype: type[_Scalar]) -> NDArray[_Scalar]:
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        return np.ascontiguousarray(spaces.check_numbers(values, name), dtype=dtype)


def _order_of(coeffs: AnyArray, name: str) -> int:
    try:
        return sh_order(coeffs.shape[-1])
    except ValueError as error:
        raise ValueError(f"{name} holds no spherical harmonics: {error}") from None


def _check_handedness(handedness: float) -> None:
    if spaces.check_number(handedness, "handedness") not in (1, -1):
        raise ValueError(f"handedness is {handedness}; 1 or -1 is needed.")


def _check_frames(frames: ArrayLike, n_points: int) -> FloatArray:
    frames = _as_type(frames, "frames", np.float64)
    if frames.shape != (n_points, 3, 3):
        raise ValueError(
            f"frames has the shape {frames.shape}; ({n_points}, 3, 3) is needed."
        )
    return frames
