"""Spherical harmonics: bases, orders, and rotation into local frames.

Coefficients are in MRtrix3's basis (``tournier07``, not legacy). This is *the package's
basis*. Functions that rotate check arguments and allocate results. The kernel in
``_interp.pyx`` rotates.
"""

from functools import cache
from typing import TypeAlias
import warnings

import numpy as np
from numpy.typing import NDArray

from dipy_rnn import _interp
from dipy_rnn._checks import as_contiguous, check_number
from dipy_rnn._threads import count_threads
from dipy_rnn._typing import AnyArray, ArrayLike, Float32Array, FloatArray, Int32Array
from dipy_rnn.spatial import handedness as handedness_of

Turns: TypeAlias = tuple[  # what quarter_turns returns
    Int32Array, Int32Array, Float32Array, Int32Array, Int32Array, Float32Array
]

#: Bases that DIPY can write, each in a legacy and a new form.
BASES = ("descoteaux07", "tournier07")

#: Names of these bases and forms; the first one is the default of DIPY 1.
SH_BASES = (
    "descoteaux07_legacy",
    "descoteaux07",
    "tournier07_legacy",
    "tournier07",
)

#: The highest spherical harmonic order that the rotation kernel takes.
MAX_ORDER = 16


def sh_order(n_coeffs: int) -> int:
    """Return the order (largest l) that belongs to a number of coefficients.

    Only even l are counted, as an fODF is symmetric.

    Parameters
    ----------
    n_coeffs : int
        15 for order 4, 28 for order 6, 45 for order 8.

    Returns
    -------
    order : int
        Even.

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
def to_package_basis(
    order: int, sh_basis: str
) -> tuple[NDArray[np.intp], Float32Array]:
    """Return how coefficients of one of DIPY's bases become those of the package's.

    Each of DIPY's bases differs from the package's only in the sequence, the signs and
    the scales of the coefficients. They are read from DIPY's conversion of unit
    vectors.

    Parameters
    ----------
    order : int
        Even spherical harmonic order.
    sh_basis : str
        One of ``SH_BASES``.

    Returns
    -------
    places : ndarray of shape (C,)
        Index, in DIPY's basis, of each coefficient of the package's basis.
    factors : ndarray of shape (C,)
        Factors of these coefficients.

    Examples
    --------
    >>> places, factors = to_package_basis(2, "descoteaux07_legacy")
    >>> places.tolist(), factors.tolist()
    ([0, 5, 4, 3, 2, 1], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    """
    from dipy.reconst.shm import (
        convert_sh_descoteaux_tournier,
        convert_sh_from_legacy,
        convert_sh_to_legacy,
    )

    basis, legacy = sh_basis.removesuffix("_legacy"), sh_basis.endswith("_legacy")
    units = np.eye((order + 1) * (order + 2) // 2)
    with warnings.catch_warnings():  # DIPY warns of the legacy bases it writes
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        if basis == "descoteaux07":
            if not legacy:
                units = convert_sh_to_legacy(units, basis)
            units = convert_sh_descoteaux_tournier(units)
        elif legacy:
            units = convert_sh_from_legacy(units, basis)
    places = np.argmax(np.abs(units), axis=0)
    return places, units[places, np.arange(len(places))].astype(np.float32)


def with_order(coeffs: AnyArray, order: int) -> AnyArray:
    """Change the order of coefficients: pad with zeros, or drop those of higher l.

    Parameters
    ----------
    coeffs : ndarray of shape (..., C)
        Coefficients of an even order.
    order : int
        The order to return.

    Returns
    -------
    coeffs : ndarray of shape (..., (order + 1) (order + 2) / 2)
        The same array if it has this order already, else C-contiguous.

    Examples
    --------
    >>> float(with_order(np.ones((1, 15)), 6).sum())
    15.0
    """
    wanted = (order + 1) * (order + 2) // 2
    have = coeffs.shape[-1]
    if have > wanted:
        return np.ascontiguousarray(coeffs[..., :wanted])
    if have < wanted:
        padding = [(0, 0)] * (coeffs.ndim - 1) + [(0, wanted - have)]
        return np.pad(coeffs, padding)
    return coeffs


@cache
def quarter_turns(order: int) -> Turns:
    """Return the rotations by -90 and +90 degrees about x, as sparse matrices.

    Parameters
    ----------
    order : int
        Even spherical harmonic order.

    Returns
    -------
    tables : tuple of ndarray
        For -90 degrees and then for +90 degrees: starts, columns and values of a sparse
        matrix (CSR). If X is the rotation, the matrix times the coefficients of f(y) is
        the coefficients of f(X y), a function of the directions y (``tournier07``). The
        matrices are computed by least squares from harmonics at rotated directions.

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
    """Return a matrix in CSR form: starts, columns and values.

    Entries up to 1e-9 are rounding errors, and are left out.
    """
    rows, columns = np.nonzero(np.abs(matrix) > 1e-9)
    starts = np.searchsorted(rows, np.arange(len(matrix) + 1))
    return (
        starts.astype(np.int32),
        columns.astype(np.int32),
        matrix[rows, columns].astype(np.float32),
    )


def rotate(
    coeffs: ArrayLike,
    frames: ArrayLike,
    *,
    handedness: float = 1.0,
    nbr_threads: int = 1,
) -> Float32Array:
    """Rotate each function on the sphere into a frame of its own.

    Parameters
    ----------
    coeffs : array_like of shape (N, C)
        Spherical harmonics in MRtrix3's basis (``tournier07``, not legacy).
    frames : array_like of shape (N, 3, 3)
        Rows ``e1, e2, e3`` of each frame, in components along the axes of ``coeffs``.
    handedness : float, optional
        Handedness of the axes of ``coeffs``: 1 or -1. The determinant of the frames has
        this sign.
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
        If a shape differs from the above, or ``handedness`` is neither 1 nor -1.

    Notes
    -----
    The rotation is split into rotations about z and quarter turns about x
    (Z X Z X Z), so that no Wigner matrix is needed. A rotation about z mixes only the
    coefficients of +m and -m. A quarter turn about x is one sparse matrix for all
    points.

    Examples
    --------
    >>> coeffs = np.zeros((1, 15)); coeffs[0, 3] = 1.0  # a lobe along z
    >>> frame = np.array([[[0, 1, 0], [0, 0, 1], [1, 0, 0]]])  # e3 along x
    >>> turned = rotate(coeffs, frame)
    >>> np.allclose(turned[0, 1:6], [0, 0, -0.5, 0, -0.866], atol=1e-3)
    True
    """
    rotated: Float32Array = as_contiguous(coeffs, "coeffs", np.float32).copy()
    if rotated.ndim != 2:
        raise ValueError(f"coeffs has the shape {rotated.shape}; give (N, C).")
    check_handedness(handedness)
    order = order_of(rotated, "coeffs")
    frames = check_frames(frames, len(rotated))
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


def rotate_all(coeffs: Float32Array, rotation: FloatArray) -> Float32Array:
    """Rotate all functions by the same rotation.

    Parameters
    ----------
    coeffs : ndarray of shape (..., C)
        float32, spherical harmonics in the package's basis.
    rotation : ndarray of shape (3, 3)
        Orthogonal. It may contain a mirror.

    Returns
    -------
    rotated : ndarray of shape (..., C)
        float32. If ``f`` is a given function, these are the coefficients of the
        function ``g`` with ``g(rotation @ u) = f(u)`` for all directions ``u``.

    Raises
    ------
    ValueError
        If no even order has that many coefficients.

    Examples
    --------
    >>> coeffs = np.zeros((1, 15), np.float32); coeffs[0, 3] = 1.0  # a lobe along z
    >>> to_x = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    >>> np.allclose(rotate_all(coeffs, to_x)[0, 1:6], [0, 0, -0.5, 0, 0.866], atol=1e-3)
    True
    """
    n_coeffs = coeffs.shape[-1]
    # As g(-u) = g(u), a mirror has the effect of its negative, which is a rotation.
    frame = handedness_of(rotation) * rotation
    matrix = rotate(np.eye(n_coeffs), np.broadcast_to(frame, (n_coeffs, 3, 3)))
    with np.errstate(over="ignore", invalid="ignore"):  # as in the kernel
        result: Float32Array = coeffs @ matrix
    return result


def order_of(coeffs: AnyArray, name: str) -> int:
    """Return the order of coefficients, or raise an error that names them.

    Parameters
    ----------
    coeffs : ndarray of shape (..., C)
    name : str
        Their name in error messages.

    Returns
    -------
    order : int

    Raises
    ------
    ValueError
        As :func:`sh_order`.

    Examples
    --------
    >>> order_of(np.zeros((2, 15)), "coeffs")
    4
    """
    try:
        return sh_order(coeffs.shape[-1])
    except ValueError as error:
        raise ValueError(f"{name} holds no spherical harmonics: {error}") from None


def check_handedness(handedness: float) -> None:
    """Raise ValueError if a handedness is neither 1 nor -1.

    Parameters
    ----------
    handedness : float

    Raises
    ------
    ValueError

    Examples
    --------
    >>> check_handedness(-1.0)
    """
    if check_number(handedness, "handedness") not in (1, -1):
        raise ValueError(f"handedness is {handedness}; 1 or -1 is needed.")


def check_frames(frames: ArrayLike, n_points: int) -> FloatArray:
    """Return one frame for each point as float64.

    Parameters
    ----------
    frames : array_like of shape (N, 3, 3)
    n_points : int
        N.

    Returns
    -------
    frames : ndarray of shape (N, 3, 3)

    Raises
    ------
    ValueError
        If the shape differs.

    Examples
    --------
    >>> check_frames(np.eye(3)[None], 1).shape
    (1, 3, 3)
    """
    frames = as_contiguous(frames, "frames", np.float64)
    if frames.shape != (n_points, 3, 3):
        raise ValueError(
            f"frames has the shape {frames.shape}; ({n_points}, 3, 3) is needed."
        )
    return frames
