"""Peaks as spherical harmonics: a sharp lobe along each.

The coefficients of a lobe of order 8 are polynomials in x, y and z of its direction.
All terms are of degree 8, because a direction and its opposite have the same lobe. So
the coefficients of many peaks are a product of two matrices: one of monomials, such as
``x**6 * y * z``, and one of the factors of the polynomials.

Peaks may be the eigenvectors of tensors. These are the columns of a matrix. DIPY's
tensor fits write the matrix as ``evecs.nii.gz``. DIPY 1.12 also writes its rows as the
peaks of a PAM5 file (``dipy.io.peaks.tensor_to_pam``). A row is not an eigenvector.
"""

from functools import cache
import warnings

import numpy as np

from dipy_rnn._checks import check_numbers
from dipy_rnn._typing import (
    AnyArray,
    ArrayLike,
    BoolArray,
    Float32Array,
    FloatArray,
)

_ORDER = 8  # of an fODF made of peaks: the largest that the shipped models use
_EXPONENTS = np.array(
    [(a, b, _ORDER - a - b) for a in range(_ORDER + 1) for b in range(_ORDER + 1 - a)]
)
_BLOCK = 1024  # voxels at a time: each needs about 2 kB for each of its peaks

# How far the dot products of unit vectors, stored as float32, may be from those of
# perpendicular ones.
_TOLERANCE = 1e-3
# Fewest pairs of neighbouring voxels that tell rows from columns. The standard error of
# the mean is about 0.03 for 100 pairs of random directions.
_LEAST_PAIRS = 100
_LEAST_DIFFERENCE = 0.1
# The largest eigenvalue of brain tissue and water in mm^2/s. Eigenvalues of phantoms
# and of animals ex vivo are within these limits, too.
_DIFFUSIVITY = (5e-5, 5e-3)

# Share of the peaks that point to the positive side of all three axes, above which they
# are probably no peaks. It is one of eight for random directions, and 1 for images
# without negative values: of tissues, of colours, or diffusion-weighted. The peaks of
# one straight bundle may do so, but they differ by less than this share of their
# length.
_MOST_TO_ONE_SIDE = 0.9
_LEAST_SPREAD = 0.3


def lobes(
    directions: FloatArray, order: int = _ORDER, *, lobe_deg: float = 9.0
) -> FloatArray:
    r"""Return the coefficients of one lobe along each direction.

    A lobe along v is a delta function, smoothed on the sphere [1]_. Its coefficients
    are :math:`e^{-\sigma^2 l (l + 1) / 2}\, Y_l^m(v)`. Its integral is 1.

    Parameters
    ----------
    directions : ndarray of shape (N, 3)
        Vectors of any length but zero.
    order : int, optional
        Order of the spherical harmonics, even.
    lobe_deg : float, optional
        Width sigma of the lobe in degrees, before truncation to `order`.

    Returns
    -------
    coeffs : ndarray of shape (N, C)
        In the default basis of DIPY 1 (``descoteaux07``, legacy).

    References
    ----------
    .. [1] Bulow T. Spherical diffusion for 3D surface smoothing. IEEE Transactions on
       Pattern Analysis and Machine Intelligence 26(12), 2004.

    Examples
    --------
    >>> (0.0 + lobes(np.array([[0.0, 0.0, 1.0]]), 2).round(2)).tolist()
    [[0.28, 0.0, 0.0, 0.59, 0.0, 0.0]]
    """
    from dipy.reconst.shm import real_sh_descoteaux

    x, y, z = directions.T
    with warnings.catch_warnings():
        # DIPY warns that its default basis may change in a future release.
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        deltas, _, orders = real_sh_descoteaux(
            order, np.arctan2(np.hypot(x, y), z), np.arctan2(y, x), legacy=True
        )
    smoothing = np.exp(-(np.radians(lobe_deg) ** 2) * orders * (orders + 1) / 2)
    coeffs: FloatArray = deltas * smoothing
    return coeffs


def peaks_to_sh(
    directions: ArrayLike, values: ArrayLike | None, *, name: str = "peaks"
) -> Float32Array:
    """Sum up lobes along peaks, weighted by the values of the peaks.

    Parameters
    ----------
    directions, values, name
        See :func:`dipy_rnn.sampling.peaks_features`.

    Returns
    -------
    coeffs : ndarray of shape (X, Y, Z, 45)
        Of order 8, in DIPY's default basis, along the axes of the peaks.

    Raises
    ------
    ValueError
        If a shape is invalid, or there is no peak.

    Examples
    --------
    >>> peaks_to_sh(np.ones((1, 1, 1, 6)), None).shape
    (1, 1, 1, 45)
    """
    vectors = _as_vectors(directions, name)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(vectors, axis=-1)
    weights = lengths
    if values is not None:
        weights = check_numbers(values, f"{name}: the values")
        if weights.shape != lengths.shape:
            raise ValueError(
                f"{name}: the values have the shape {weights.shape}; "
                f"{lengths.shape} is needed, one for each direction."
            )
    is_peak = np.isfinite(lengths) & (lengths > 0) & np.isfinite(weights)
    is_peak &= weights > 0
    if not is_peak.any():
        raise ValueError(f"{name} has no peak anywhere: all are zero or NaN.")
    largest = float(weights[is_peak].max())

    coeffs = np.zeros((*vectors.shape[:3], len(_EXPONENTS)), np.float32)
    voxels = np.argwhere(is_peak.any(axis=-1))
    for start in range(0, len(voxels), _BLOCK):
        at = tuple(voxels[start : start + _BLOCK].T)
        used = is_peak[at]
        unit = np.zeros((*used.shape, 3))
        unit[used] = vectors[at][used] / lengths[at][used][:, None].astype(np.float64)
        relative = np.where(used, weights[at], 0.0) / largest
        terms = np.einsum("mvn,vn->vm", _monomials(unit), relative)
        coeffs[at] = np.einsum("vm,mc->vc", terms, _factors())  # BLAS starts threads
    return coeffs


def principal_directions(
    directions: ArrayLike, *, name: str = "peaks"
) -> FloatArray | None:
    """Return the first eigenvectors if the peaks are eigenvectors of tensors.

    Parameters
    ----------
    directions, name
        See :func:`dipy_rnn.sampling.peaks_features`.

    Returns
    -------
    principal : ndarray of shape (X, Y, Z, 3), or None
        The first column or the first row of each matrix, whichever agrees better with
        that of neighbouring voxels. Zero where a voxel has no peaks. None if the peaks
        are not perpendicular unit vectors, or all of them are the same in rows and
        columns.

    Raises
    ------
    ValueError
        If the shape is invalid, or if the peaks are eigenvectors, but rows and columns
        agree equally well.

    Examples
    --------
    >>> principal_directions(np.ones((2, 2, 2, 3, 3))) is None
    True
    """
    vectors = _as_vectors(directions, name)
    if vectors.shape[3] != 3:
        return None
    matrices = np.asarray(vectors, np.float64)
    there: BoolArray = np.asarray(
        np.isfinite(matrices).all(axis=(3, 4)) & matrices.any(axis=(3, 4))
    )
    used = matrices[there]
    products = np.einsum("nij,nkj->nik", used, used)
    if not len(used) or np.abs(products - np.eye(3)).max() > _TOLERANCE:
        return None
    if np.abs(np.abs(used) - np.abs(used.swapaxes(1, 2))).max() < _TOLERANCE:
        return None
    matrices = np.where(there[..., None, None], matrices, 0.0)
    row, column = matrices[..., 0, :], matrices[..., 0]
    of_row, n_pairs = _coherence(row, there)
    of_column, _ = _coherence(column, there)
    if n_pairs < _LEAST_PAIRS or abs(of_row - of_column) < _LEAST_DIFFERENCE:
        raise ValueError(
            f"{name} has three perpendicular peaks in each voxel. They look like the "
            "eigenvectors of tensors, which may be stored as rows or as columns; "
            "give only the first eigenvector of each voxel."
        )
    return column if of_column > of_row else row


def _coherence(directions: FloatArray, there: BoolArray) -> tuple[float, int]:
    """Return the mean cosine between lines of neighbouring voxels, and their number."""
    total, n = 0.0, 0
    for axis in range(3):
        first = np.moveaxis(directions, axis, 0)
        both = np.moveaxis(there, axis, 0)
        both = both[1:] & both[:-1]
        cosines = np.abs(np.einsum("...i,...i->...", first[1:], first[:-1])[both])
        total += float(cosines.sum())
        n += len(cosines)
    return total / max(n, 1), n


def are_diffusivities(values: AnyArray) -> bool:
    """Return whether the values of peaks look like eigenvalues of tensors in mm^2/s.

    Parameters
    ----------
    values : ndarray of shape (X, Y, Z, N)
        Values of the peaks. The first one of a voxel is the largest.

    Examples
    --------
    >>> are_diffusivities(np.full((2, 2, 2, 1), 1.7e-3))
    True
    >>> are_diffusivities(np.ones((2, 2, 2, 1)))
    False
    """
    first = values[..., 0]
    first = first[np.isfinite(first) & (first > 0)]
    least, most = _DIFFUSIVITY
    return bool(len(first)) and float(np.mean((first > least) & (first < most))) > 0.9


def are_to_one_side(vectors: AnyArray) -> bool:
    """Tell whether hardly any component of different vectors (N, 3) is negative.

    False for unit vectors: they are directions, perhaps of one bundle.

    Examples
    --------
    >>> vectors = np.random.default_rng(0).normal(size=(20, 3))
    >>> are_to_one_side(vectors), are_to_one_side(abs(vectors))
    (False, True)
    """
    vectors = vectors[np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)]
    if np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=_TOLERANCE):
        return False
    positive = vectors[(vectors > 0).all(axis=1)]
    if not len(positive) > _MOST_TO_ONE_SIDE * len(vectors):
        return False
    directions = positive / positive.max(axis=1, keepdims=True)
    return bool(np.ptp(directions, axis=0).max() > _LEAST_SPREAD)


def _monomials(directions: FloatArray) -> FloatArray:
    """Return the monomials of degree 8 of vectors (..., 3), as (45, ...)."""
    powers = [np.ones_like(directions)]
    for _ in range(_ORDER):
        powers.append(powers[-1] * directions)
    x, y, z = np.moveaxis(np.array(powers), -1, 0)
    of_x, of_y, of_z = _EXPONENTS.T
    product: FloatArray = x[of_x] * y[of_y] * z[of_z]
    return product


@cache
def _factors() -> FloatArray:
    """Return the matrix (45, 45) from the monomials of a direction to its lobe."""
    from dipy.data import get_sphere

    directions = get_sphere(name="repulsion724").vertices
    monomials = _monomials(directions).T
    factors = np.linalg.lstsq(monomials, lobes(directions))[0]
    return factors.astype(np.float64)


def _as_vectors(directions: ArrayLike, name: str) -> AnyArray:
    """Return peaks as vectors (X, Y, Z, N, 3), or raise ValueError."""
    vectors = check_numbers(directions, name)
    shape = vectors.shape
    if vectors.ndim == 4 and shape[3] % 3 == 0 and vectors.size:
        vectors = vectors.reshape(*shape[:3], -1, 3)
    if vectors.ndim != 5 or vectors.shape[4] != 3 or not vectors.size:
        raise ValueError(
            f"{name} has the shape {shape}; peaks of the shape (X, Y, Z, 3 N) or "
            "(X, Y, Z, N, 3) are needed."
        )
    return vectors
