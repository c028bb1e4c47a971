"""Checks of arguments. If an argument is invalid, the error names it."""

from collections.abc import Sequence
from importlib.util import find_spec
import math
from numbers import Integral, Real

import numpy as np
from numpy.typing import DTypeLike

from dipy_rnn._typing import AnyArray, ArrayLike, FloatArray

#: Largest coordinate that is accepted, in mm: one kilometre. Up to there single
#: precision, as in tractogram files, resolves 0.1 mm.
FARTHEST_MM = 1e6


def check_number(value: object, name: str) -> int | float:
    """Return a real number.

    Parameters
    ----------
    value : object
        An int, a float, or a NumPy scalar of such a type.
    name : str
        Its name in error messages.

    Returns
    -------
    value : int or float

    Raises
    ------
    ValueError
        If the type is not numeric, or an integer is too large for a float.

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
        raise ValueError(f"{name} is too large for a float.") from None
    return int(value) if isinstance(value, Integral) else number


def check_count(value: object, name: str, least: int = 0, most: float = np.inf) -> int:
    """Return a whole number within a range.

    Parameters
    ----------
    value : int or float
        A float is accepted if it has no fraction.
    name : str
        Its name in error messages.
    least : int, optional
    most : float, optional

    Returns
    -------
    count : int

    Raises
    ------
    ValueError
        If it is not a number, has a fraction, or is out of range.

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
    """Return the shape of a grid.

    Parameters
    ----------
    shape : sequence of 3 int
        Number of voxels along each axis.
    name : str, optional
        Its name in error messages.
    most : float, optional
        Largest number of voxels along an axis.

    Returns
    -------
    shape : tuple of 3 int

    Raises
    ------
    ValueError
        If it is not three whole numbers above 0.

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
    """Return real numbers as an array.

    Parameters
    ----------
    values : array_like
    name : str
        Their name in error messages.

    Returns
    -------
    values : ndarray
        The type is kept: booleans, integers or floats.

    Raises
    ------
    ValueError
        If the type is not numeric, or rows have unequal lengths.

    Examples
    --------
    >>> check_numbers([1, 2], "seeds").tolist()
    [1, 2]
    """
    try:
        values = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # torch raises RuntimeError
        raise ValueError(f"{name} is not an array of real numbers.") from None
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} is of type {values.dtype}; real numbers are needed.")
    return values


def as_contiguous(values: ArrayLike, name: str, dtype: DTypeLike) -> AnyArray:
    """Return real numbers as a C-contiguous array of a type.

    Parameters
    ----------
    values : array_like
    name : str
        Their name in error messages.
    dtype : data type
        A type of floats. A value that is too large for it becomes infinite.

    Returns
    -------
    values : ndarray
        The given array if it already has the type and layout.

    Raises
    ------
    ValueError
        As :func:`check_numbers`.

    Examples
    --------
    >>> as_contiguous([1, 2], "seeds", np.float32).dtype
    dtype('float32')
    """
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(check_numbers(values, name), dtype=dtype)


def as_float64(values: ArrayLike, name: str) -> FloatArray:
    """Return real numbers as float64.

    Parameters
    ----------
    values : array_like
    name : str
        Their name in error messages.

    Returns
    -------
    values : ndarray
        The given array if it already has the type.

    Raises
    ------
    ValueError
        As :func:`check_numbers`.

    Examples
    --------
    >>> as_float64([1, 2], "seeds").dtype
    dtype('float64')
    """
    with np.errstate(over="ignore"):  # a value that is too large becomes infinite
        return check_numbers(values, name).astype(np.float64, copy=False)


def as_points(points: ArrayLike, name: str) -> FloatArray:
    """Return points, or other vectors with three components, as an array.

    Parameters
    ----------
    points : array_like of shape (N, 3)
        N may be 0.
    name : str
        Their name in error messages.

    Returns
    -------
    points : ndarray of shape (N, 3)
        float64. The given array if it already has the type and shape.

    Raises
    ------
    ValueError
        If the shape differs, or a value is NaN, infinite, above 1e6 or below -1e6.

    Examples
    --------
    >>> as_points([[1, 2, 3]], "seeds")
    array([[1., 2., 3.]])
    """
    points = as_float64(points, name)
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


def check_least(name: str, value: float, least: float) -> None:
    """Raise ValueError if a number is below a limit, infinite or NaN.

    Parameters
    ----------
    name : str
        Name of the value in error messages.
    value, least : float
        The number, and the smallest number that is allowed.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> check_least("seed_count", 3, 0)
    >>> check_least("seed_count", -3, 0)
    Traceback (most recent call last):
    ValueError: seed_count is -3; 0 or more is needed.
    """
    if not least <= value < math.inf:  # False for NaN
        raise ValueError(f"{name} is {value}; {least} or more is needed.")


def check_installed(packages: Sequence[str], what: str, extra: str) -> None:
    """Raise ValueError if one of the packages is not installed.

    Parameters
    ----------
    packages : sequence of str
        Their names as in an ``import``.
    what : str
        Option or output that needs them, for the error message.
    extra : str
        Optional dependencies of dipy_rnn (``pip install "dipy_rnn[extra]"``) that
        contain them.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> check_installed(["numpy"], "The table", "viz")
    >>> check_installed(["no_such_package"], "The table", "viz")
    Traceback (most recent call last):
    ValueError: The table needs no_such_package; install it with pip install ...
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{what} needs {', '.join(missing)}; install it with "
            f'pip install "dipy_rnn[{extra}]".'
        )
