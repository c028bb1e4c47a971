"""Conversion of volumes of coefficients to the package's basis."""

from concurrent.futures import ThreadPoolExecutor
import warnings

import numpy as np

from dipy_rnn._checks import as_contiguous
from dipy_rnn._threads import count_threads
from dipy_rnn._typing import AnyArray, Float32Array
from dipy_rnn.sampling.fodf import _convert
from dipy_rnn.sampling.rotation import to_package_basis


def convert_volume(
    volume: AnyArray, order: int, sh_basis: str, name: str, nbr_threads: int = 1
) -> tuple[Float32Array, int, int]:
    """Convert coefficients to the package's basis.

    Parameters
    ----------
    volume : ndarray of shape (X, Y, Z, C)
        Real numbers of any type. Voxels of NaN are set to zero, with a warning.
    order : int
        Spherical harmonic order of its C coefficients.
    sh_basis : str
        One of ``dipy_rnn.sampling.SH_BASES``.
    name : str
        Name of the volume in messages.
    nbr_threads : int, optional
        0 for every core.

    Returns
    -------
    coeffs : ndarray of shape (X, Y, Z, C), float32
    n_positive, n_filled : int
        Number of given values above 0, and of voxels that are not zero.

    Raises
    ------
    ValueError
        As :func:`without_nan`.

    Examples
    --------
    >>> given = np.zeros((1, 1, 2, 6)); given[0, 0, 1, 1] = 2
    >>> coeffs, n_positive, n_filled = convert_volume(
    ...     given, 2, "descoteaux07_legacy", "sh")
    >>> coeffs[0, 0, 1].tolist(), n_positive, n_filled
    ([0.0, 0.0, 0.0, 0.0, 0.0, 2.0], 1, 1)
    """
    from_places, factors = to_package_basis(order, sh_basis)
    places = from_places.astype(np.int32)
    n_coeffs = volume.shape[3]
    coeffs = np.empty(volume.shape, np.float32)

    def convert_slab(slab: AnyArray, converted: Float32Array) -> tuple[int, int, bool]:
        if slab.dtype not in (np.float32, np.float64) or not slab.flags.c_contiguous:
            slab = as_contiguous(slab, name, np.float32)
        return _convert.convert(
            slab.reshape(-1, n_coeffs), places, factors, converted.reshape(-1, n_coeffs)
        )

    with ThreadPoolExecutor(count_threads(nbr_threads)) as pool:
        counts = list(pool.map(convert_slab, volume, coeffs))  # slabs fit in the cache
    if not all(is_finite for *_, is_finite in counts):
        volume = without_nan(volume, name)
        return convert_volume(volume, order, sh_basis, name, nbr_threads)
    n_positive, n_filled, _ = (sum(numbers) for numbers in zip(*counts, strict=True))
    return coeffs, n_positive, n_filled


def without_nan(volume: AnyArray, name: str) -> Float32Array:
    """Set voxels of NaN to zero, with a warning.

    Parameters
    ----------
    volume : ndarray of shape (X, Y, Z, C)
    name : str
        Its name in messages.

    Returns
    -------
    volume : ndarray of shape (X, Y, Z, C), float32

    Raises
    ------
    ValueError
        If the volume holds infinity, or voxels that are partly NaN.

    Warns
    -----
    UserWarning
        With the number of voxels of NaN.

    Examples
    --------
    >>> volume = np.ones((1, 1, 2, 3)); volume[0, 0, 1] = np.nan
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     without_nan(volume, "volume")[0, 0].tolist()
    [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """
    volume = as_contiguous(volume, name, np.float32)
    advice = "correct the fit, or set them to zero with numpy.nan_to_num."
    n_infinite = np.count_nonzero(np.isinf(volume))
    if n_infinite:
        raise ValueError(
            f"{name} holds {n_infinite} values that are infinite; {advice}"
        )
    is_nan = np.isnan(volume)
    has_nan = np.asarray(is_nan.any(axis=3))
    n_partly = int(np.count_nonzero(has_nan & ~is_nan.all(axis=3)))
    if n_partly:
        raise ValueError(
            f"{name} holds NaN in some of the values of {n_partly} voxels; {advice}"
        )
    warnings.warn(
        f"{name} holds NaN in {np.count_nonzero(has_nan)} of {has_nan.size} voxels; "
        "they count as voxels without data.",
        stacklevel=4,
    )
    return np.where(has_nan[..., None], np.float32(0), volume)
