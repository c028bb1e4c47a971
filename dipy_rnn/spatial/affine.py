"""Where a point is: affine, voxel and millimetre coordinates.

This is the only module that multiplies by an affine. Three spaces occur:

``mm``
    RAS+ scanner space, what ``affine`` maps voxel coordinates to. Seeds and
    streamlines come and go in it.
``vox``
    Voxel coordinates; voxel ``i`` is centred on coordinate ``i`` and owns
    ``[i - 0.5, i + 0.5)``. Tracking happens here.
``axes``
    Directions along the voxel axes, in mm and of unit length. DIPY's spherical
    harmonics and directions live in it; no offset, no scale, only a rotation
    (or a rotation and a mirror) away from RAS+.
"""

from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np

from dipy_rnn._typing import AnyArray, ArrayLike, FloatArray

# DIPY's own tolerance for shear in LocalTracking.
_SHEAR_TOLERANCE = 1e-5

#: No coordinate may be larger. A kilometre from the origin single precision, of which
#: tractograms are, still tells points apart that are 0.1 mm from each other.
FARTHEST_MM = 1e6

_SMALLEST_VOXEL = 1e-6


def check_number(value: object, name: str) -> int | float:
    """Return a real number, or say that it is none.

    Parameters
    ----------
    value : object
        An int, a float, or a scalar of numpy's that is one.
    name : str
        What errors call it.

    Returns
    -------
    value : int or float

    Raises
    ------
    ValueError
        If it is of another type, or an integer too large for a float.

    Examples
    --------
    >>> check_number(np.float32(0.5), "step_size")
    0.5
    """
    if not isinstance(value, Real):
        raise ValueError(
            f"{name} is of type {type(value).__name__}; a number is needed."
        )
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large for a number.") from None
    return int(value) if isinstance(value, Integral) else number


def check_count(value: object, name: str, least: int = 0, most: float = np.inf) -> int:
    """Return a whole number, or say that it is none.

    Parameters
    ----------
    value : int or float
        A float may be a whole number, too.
    name : str
        What errors call it.
    least : int, optional
    most : float, optional

    Returns
    -------
    count : int

    Raises
    ------
    ValueError
        If it is of another type, or no whole number of that range.

    Examples
    --------
    >>> check_count(3.0, "n_seeds", 1)
    3
    """
    number = check_number(value, name)
    if not least <= number <= most or number == np.inf or number != int(number):
        to = "" if most == np.inf else f" to {most}"
        raise ValueError(
            f"{name} is {number}; a whole number from {least}{to} is needed."
        )
    return int(number)


def check_shape(
    shape: Sequence[int], name: str = "shape", most: float = np.inf
) -> tuple[int, int, int]:
    """Return the shape of a grid, or say that it is none.

    Parameters
    ----------
    shape : sequence of 3 int
        Voxels along each axis.
    name : str, optional
        What errors call it.
    most : float, optional
        Of voxels along an axis.

    Returns
    -------
    shape : tuple of 3 int

    Raises
    ------
    ValueError
        If it is anything but three whole numbers above 0.

    Examples
    --------
    >>> check_shape([3, 4.0, 5])
    (3, 4, 5)
    """
    if np.ndim(shape) != 1 or len(shape) != 3:
        raise ValueError(f"{name} is {shape}; three numbers of voxels are needed.")
    x, y, z = (check_count(n, f"{name} along an axis", 1, most) for n in shape)
    return x, y, z


def check_numbers(values: ArrayLike, name: str) -> AnyArray:
    """Return real numbers as an array, or say that they are none.

    Parameters
    ----------
    values : array_like
    name : str
        What errors call them.

    Returns
    -------
    values : ndarray
        Of the type they came in: booleans, integers or floats.

    Raises
    ------
    ValueError
        If they are of another type, or rows of unequal length.

    Examples
    --------
    >>> check_numbers([1, 2], "seeds").tolist()
    [1, 2]
    """
    try:
        values = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # the last one is torch's
        raise ValueError(f"{name} is no array of real numbers.") from None
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} is of type {values.dtype}; real numbers are needed.")
    return values


def _as_float64(values: ArrayLike, name: str) -> FloatArray:
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        return check_numbers(values, name).astype(np.float64, copy=False)


def check_affine(affine: ArrayLike, name: str = "affine") -> FloatArray:
    """Return an affine as float64, or say what is wrong with it.

    Parameters
    ----------
    affine : array_like of shape (4, 4)
        Voxel to mm; rotation, mirror, scale and translation, no shear.
    name : str, optional
        How the error calls it: an argument or a file.

    Returns
    -------
    affine : ndarray of shape (4, 4)

    Raises
    ------
    ValueError
        If it is not a finite, invertible 4 x 4 matrix without shear, its voxels are
        smaller than 1e-6 mm or it goes beyond 1e6 mm.

    Examples
    --------
    >>> check_affine([[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]).dtype
    dtype('float64')
    """
    affine = _as_float64(affine, name)
    if affine.shape != (4, 4):
        raise ValueError(f"{name} has the shape {affine.shape}; (4, 4) is needed.")
    if not np.isfinite(affine).all():
        raise ValueError(f"{name} holds NaN or infinity; mend the image's header.")
    if not np.allclose(affine[3], [0, 0, 0, 1]):
        raise ValueError(f"{name} ends in the row {affine[3]}; 0 0 0 1 is needed.")
    if np.abs(affine).max() > FARTHEST_MM:
        raise ValueError(
            f"{name} holds {np.abs(affine).max():g}; up to {FARTHEST_MM:g} mm is "
            "allowed, check its units."
        )
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not sizes.all() or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
        raise ValueError(f"{name} is singular: its voxel axes do not span space.")
    if sizes.min() < _SMALLEST_VOXEL:
        raise ValueError(
            f"{name} has voxels of {sizes.min():g} mm; {_SMALLEST_VOXEL:g} mm or more "
            "is needed, check its units."
        )
    products = affine[:3, :3].T @ affine[:3, :3]
    # DIPY's tolerance would overlook any shear of voxels much smaller than 1 mm.
    tolerance = _SHEAR_TOLERANCE * sizes.max() * min(1.0, sizes.max())
    if not np.allclose(np.triu(products, 1), 0, atol=tolerance):
        raise ValueError(
            f"{name} contains shear; resample the data onto a grid of right angles."
        )
    return affine


def check_points(points: ArrayLike, name: str) -> FloatArray:
    """Return points, or other vectors of three, as an array.

    Parameters
    ----------
    points : array_like of shape (N, 3)
        N may be 0.
    name : str
        What errors call them.

    Returns
    -------
    points : ndarray of shape (N, 3)
        float64; the same array where nothing had to be done.

    Raises
    ------
    ValueError
        If they have another shape, or hold NaN, infinity or more than 1e6.

    Examples
    --------
    >>> check_points([[1, 2, 3]], "seeds")
    array([[1., 2., 3.]])
    """
    points = _as_float64(points, name)
    if points.size == 0:
        points = points.reshape(-1, 3)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"{name} has the shape {points.shape}; (N, 3) is needed.")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} holds NaN or infinity.")
    if points.size and np.abs(points).max() > FARTHEST_MM:
        raise ValueError(
            f"{name} holds {np.abs(points).max():g}; up to {FARTHEST_MM:g} is allowed, "
            "check the units."
        )
    return points


def voxel_sizes(affine: FloatArray) -> FloatArray:
    """Return the edge lengths of a voxel.

    Parameters
    ----------
    affine : ndarray of shape (4, 4)
        Voxel to mm.

    Returns
    -------
    sizes_mm : ndarray of shape (3,)

    Examples
    --------
    >>> voxel_sizes(np.diag([-2.0, 2.0, 3.0, 1.0])).tolist()
    [2.0, 2.0, 3.0]
    """
    sizes_mm: FloatArray = np.linalg.norm(affine[:3, :3], axis=0)
    return sizes_mm


def axes(affine: FloatArray) -> FloatArray:
    """Return the voxel axes as unit vectors in RAS+.

    Parameters
    ----------
    affine : ndarray of shape (4, 4)
        Voxel to mm.

    Returns
    -------
    axes : ndarray of shape (3, 3)
        Orthonormal; column ``i`` is voxel axis ``i``. A direction ``d`` along the
        voxel axes is ``axes @ d`` in RAS+, and ``axes.T`` leads back.

    Examples
    --------
    >>> axes(np.diag([-2.0, 2.0, 3.0, 1.0])) @ [1.0, 0.0, 0.0]
    array([-1.,  0.,  0.])
    """
    return affine[:3, :3] / voxel_sizes(affine)


def handedness(affine: FloatArray) -> float:
    """Tell whether the voxel axes form a right-handed system.

    Parameters
    ----------
    affine : ndarray of shape (4, 4) or (3, 3)
        Voxel to mm, or the axes alone (:func:`axes`).

    Returns
    -------
    sign : float
        1.0 for right-handed axes (RAS, LPS), -1.0 for left-handed ones (LAS).

    Examples
    --------
    >>> handedness(np.diag([-2.0, 2.0, 2.0, 1.0]))
    -1.0
    """
    return 1.0 if np.linalg.det(affine[:3, :3]) > 0 else -1.0


def to_voxels(points_mm: ArrayLike, affine: FloatArray) -> FloatArray:
    """Move points from mm to voxel coordinates.

    Parameters
    ----------
    points_mm : array_like of shape (..., 3)
        RAS+ points.
    affine : ndarray of shape (4, 4)
        Voxel to mm.

    Returns
    -------
    points_vox : ndarray of shape (..., 3)
        float64.

    Examples
    --------
    >>> to_voxels([4.0, 4.0, 4.0], np.diag([2.0, 2.0, 4.0, 1.0])).tolist()
    [2.0, 2.0, 1.0]
    """
    inverse = np.linalg.inv(affine)
    points_vox: FloatArray = (
        np.asarray(points_mm, np.float64) @ inverse[:3, :3].T + inverse[:3, 3]
    )
    return points_vox


def to_mm(points_vox: ArrayLike, affine: FloatArray) -> FloatArray:
    """Move points from voxel coordinates to mm.

    Parameters
    ----------
    points_vox : array_like of shape (..., 3)
        Voxel coordinates, voxel ``i`` centred on ``i``.
    affine : ndarray of shape (4, 4)
        Voxel to mm.

    Returns
    -------
    points_mm : ndarray of shape (..., 3)
        float64, RAS+.

    Examples
    --------
    >>> to_mm([2.0, 2.0, 1.0], np.diag([2.0, 2.0, 4.0, 1.0])).tolist()
    [4.0, 4.0, 4.0]
    """
    return np.asarray(points_vox, np.float64) @ affine[:3, :3].T + affine[:3, 3]
