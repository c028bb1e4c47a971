"""Whether coefficients look like an fODF, and in which basis."""

from functools import cache
from typing import Any, TypeAlias
import warnings

import numpy as np

from dipy_rnn._checks import check_numbers
from dipy_rnn._typing import (
    AnyArray,
    Float32Array,
    FloatArray,
    IntArray,
)
from dipy_rnn.sampling.rotation import BASES, SH_BASES, sh_order, to_package_basis

Sharpest: TypeAlias = tuple[IntArray, FloatArray]  # what sharpest_voxels returns

# Limit for the median ratio of the power of l = 2 to that of l = 0, in the quarter of
# voxels with the largest ratios. The median is 1.2 to 2.1 for CSD, and 0.01 to 0.4 for
# the ODFs of CSA, Q-ball, OPDT and GQI (two brains, orders 4 and 8; doc/features.md).
_FODF_RATIO = 0.7

# In background voxels the power of l = 0 is below this share of its 99th percentile.
_BACKGROUND = 0.1

# Of larger images, so many voxels are drawn to judge by.
_MOST_VOXELS = 40_000

# Share of negative energy: voxels that are looked at, and the fewest to judge by.
_SAMPLE = 300
_MIN_SAMPLE = 30
# A basis is wrong if the share exceeds that of another basis by this factor, and by
# this difference. Right data have up to 0.54 of the share of another basis, and wrong
# data 1.6 times the share or more (two brains, orders 4, 6 and 8; doc/features.md).
_WRONG_RATIO = 1.2
_WRONG_DIFFERENCE = 0.003
# The bases that the share tells apart. That of tournier07_legacy differs from that of
# tournier07 by its scale, which smooths or sharpens the lobes.
_SHAPES = ("descoteaux07_legacy", "descoteaux07", "tournier07")

# Largest share of an fODF in the basis that fits best. It is up to 0.04 for two brains,
# and 0.29 for a phantom with much noise. Noise has 0.48, an fODF times -1 has 0.85.
MOST_NEGATIVE = 0.4


def sharpest_voxels(coeffs: AnyArray) -> Sharpest:
    """Find the quarter of the filled voxels with the largest ratios of powers.

    Voxels are not filled if the power of l = 0 is zero, or below 0.1 of its 99th
    percentile. Of an image with more than 40 000 voxels, so many are drawn.

    Parameters
    ----------
    coeffs : ndarray of shape (X, Y, Z, C)
        Spherical harmonics of order 4 or more, in any orthonormal basis.

    Returns
    -------
    voxels : ndarray of shape (N,), int
        Flat indices of the voxels.
    ratios : ndarray of shape (N,)
        Their ratios of the power of l = 2 to that of l = 0.

    Examples
    --------
    >>> coeffs = np.ones((1, 1, 1, 15))
    >>> [found.tolist() for found in sharpest_voxels(coeffs)]
    [[0], [5.0]]
    """
    rows = coeffs.reshape(-1, coeffs.shape[-1])
    voxels = np.arange(len(rows))
    if len(rows) > _MOST_VOXELS:
        voxels = np.random.default_rng(0).integers(len(rows), size=_MOST_VOXELS)
    whole = np.square(rows[voxels, 0], dtype=np.float64)
    background = _BACKGROUND * np.quantile(whole, 0.99)
    filled = (whole > 0) & (whole >= background)
    voxels, whole = voxels[filled], whole[filled]
    order2 = np.square(rows[voxels, 1:6], dtype=np.float64).sum(axis=-1)
    ratios = order2 / whole
    used = ratios >= np.quantile(ratios, 0.75) if len(ratios) else slice(0)
    return voxels[used], ratios[used]


def looks_like_fodf(coeffs: AnyArray, sharpest: Sharpest | None = None) -> bool:
    """Tell whether coefficients have the sharp lobes of fibre ODFs.

    Parameters
    ----------
    coeffs, sharpest
        See :func:`sharpest_voxels`, and its result if it is known.

    Returns
    -------
    sharp : bool
        Whether the median ratio of the power of l = 2 to that of l = 0 is above 0.7.
        The median is taken over the sharpest voxels. False if all voxels are zero.

    Examples
    --------
    >>> flat = np.zeros((1, 1, 1, 15)); flat[..., :2] = 1.0, 0.1
    >>> looks_like_fodf(flat)
    False
    """
    _, ratios = sharpest or sharpest_voxels(coeffs)
    return bool(len(ratios) and np.median(ratios) > _FODF_RATIO)


def negative_shares(
    coeffs: AnyArray, sh_basis: str, sharpest: Sharpest | None = None
) -> dict[str, float]:
    """Return how negative an fODF is if its coefficients are read in each basis.

    An fODF has hardly any negative values. Coefficients that are read in a wrong basis
    have many.

    Parameters
    ----------
    coeffs : ndarray of shape (X, Y, Z, C)
        Converted to the package's basis from `sh_basis`, and not rotated since.
    sh_basis : str
        One of ``SH_BASES``.
    sharpest : tuple of ndarray, optional
        Result of :func:`sharpest_voxels`, if it is known.

    Returns
    -------
    shares : dict of str to float
        For each of ``SH_BASES``, the share of the energy (the squared values) that is
        in negative values: the median of up to 300 voxels with sharp lobes. Empty if
        fewer than 30 voxels have sharp lobes.

    Examples
    --------
    >>> from dipy_rnn.sampling import lobes
    >>> directions = np.random.default_rng(0).normal(size=(200, 3))
    >>> places, factors = to_package_basis(8, "descoteaux07")
    >>> wrong = lobes(directions)[:, places] * factors
    >>> shares = negative_shares(wrong[None, None], "descoteaux07")
    >>> round(shares["descoteaux07"], 2), round(shares["descoteaux07_legacy"], 2)
    (0.19, 0.02)
    """
    voxels, _ = sharpest or sharpest_voxels(coeffs)
    if len(voxels) < _MIN_SAMPLE:
        return {}
    voxels = voxels[:: -(-len(voxels) // _SAMPLE)]
    rows = coeffs.reshape(-1, coeffs.shape[-1])[voxels].astype(np.float64)
    # Scaled, so that no square overflows. Only shares matter.
    rows /= np.abs(rows).max(axis=1, keepdims=True)
    order = sh_order(rows.shape[1])
    harmonics = _harmonics(order)
    places, factors = to_package_basis(order, sh_basis)
    stored = np.empty(rows.shape, np.float32)
    stored[:, places] = rows / factors
    shares = {}
    for basis in SH_BASES:
        places, factors = to_package_basis(order, basis)
        values = np.einsum("nc,cv->nv", stored[:, places] * factors, harmonics)
        energy = np.einsum("nv,nv->n", values, values)
        np.minimum(values, 0, out=values)
        of_voxels = np.einsum("nv,nv->n", values, values) / energy
        shares[basis] = float(np.median(of_voxels))
    return shares


@cache
def _harmonics(order: int) -> Float32Array:
    """Return the basis functions (C, V) of the package on half a sphere.

    The values at a direction and its opposite are the same.
    """
    from dipy.data import get_sphere
    from dipy.reconst.shm import real_sh_tournier

    vertices = get_sphere(name="repulsion724").vertices
    x, y, z = vertices[vertices[:, 2] >= 0].T
    harmonics: FloatArray = real_sh_tournier(
        order, np.arctan2(np.hypot(x, y), z), np.arctan2(y, x), legacy=False
    )[0]
    return np.ascontiguousarray(harmonics.T, np.float32)


def better_basis(shares: dict[str, float], sh_basis: str) -> str | None:
    """Return the basis in which coefficients seem to be, if it is another one.

    Parameters
    ----------
    shares : dict of str to float
        As :func:`negative_shares` returns.
    sh_basis : str
        The basis in which the coefficients were read.

    Returns
    -------
    better : str or None
        None if the given basis fits, or if it cannot be told. ``"tournier07"`` also
        stands for ``"tournier07_legacy"``. The shares do not tell these two apart.

    Examples
    --------
    >>> shares = dict.fromkeys(SH_BASES, 0.15) | {"tournier07": 0.01}
    >>> better_basis(shares, "descoteaux07"), better_basis(shares, "tournier07")
    ('tournier07', None)
    """
    best = _best_other(shares, sh_basis)
    if best and shares[sh_basis] > _WRONG_RATIO * shares[best] + _WRONG_DIFFERENCE:
        return best
    return None


def is_clear_basis(shares: dict[str, float], sh_basis: str) -> bool:
    """Tell whether an fODF is clearly less negative in a basis than in the others.

    Parameters
    ----------
    shares : dict of str to float
        As :func:`negative_shares` returns.
    sh_basis : str
        The basis in which the coefficients were read.

    Returns
    -------
    is_clear : bool
        ``tournier07`` and its legacy form are not compared.

    Examples
    --------
    >>> shares = dict.fromkeys(SH_BASES, 0.15)
    >>> is_clear_basis(shares, "tournier07")
    False
    >>> is_clear_basis(shares | {"tournier07": 0.01}, "tournier07")
    True
    """
    best = _best_other(shares, sh_basis)
    return bool(best) and (
        shares[best] > _WRONG_RATIO * shares[sh_basis] + _WRONG_DIFFERENCE
    )


def _best_other(shares: dict[str, float], sh_basis: str) -> str:
    """Return the basis of another shape with the smallest share; "" without shares."""
    own = "tournier07" if sh_basis == "tournier07_legacy" else sh_basis
    others = [name for name in _SHAPES if name != own]
    return min(others, key=shares.__getitem__) if shares else ""


def pam_basis(pam: Any, *, name: str = "pam") -> tuple[str, bool]:
    """Determine the basis of a PeaksAndMetrics, which does not store its name.

    Parameters
    ----------
    pam : dipy.direction.peaks.PeaksAndMetrics
        ``pam.B`` holds the basis functions on ``pam.sphere``. It is compared with each
        of DIPY's bases.
    name : str, optional
        Its name in error messages.

    Returns
    -------
    basis_type : str
    legacy : bool

    Raises
    ------
    ValueError
        If ``pam.B`` or ``pam.sphere`` is missing, or ``pam.B`` matches no basis.

    Examples
    --------
    >>> from dipy.data import default_sphere
    >>> from dipy.direction.peaks import PeaksAndMetrics
    >>> from dipy.reconst.shm import sh_to_sf_matrix
    >>> pam = PeaksAndMetrics(); pam.sphere = default_sphere
    >>> pam.B = sh_to_sf_matrix(
    ...     pam.sphere, sh_order_max=8, basis_type="tournier07", legacy=False,
    ...     return_inv=False)
    >>> pam_basis(pam)
    ('tournier07', False)
    """
    from dipy.reconst.shm import sph_harm_lookup

    if getattr(pam, "B", None) is None or getattr(pam, "sphere", None) is None:
        raise ValueError(
            f"{name} has no matrix B or no sphere, so the basis of its spherical "
            "harmonics is unknown; give sh_basis (in Python: basis_type and legacy); "
            "it is descoteaux07_legacy if DIPY 1 wrote them."
        )
    harmonics = check_numbers(pam.B, f"{name}: its matrix B").T
    try:
        order = sh_order(harmonics.shape[-1] if harmonics.ndim else 0)
    except ValueError as error:
        raise ValueError(f"{name}: its matrix B has no order: {error}") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        for basis in BASES:
            for legacy in (True, False):
                theirs = sph_harm_lookup[basis](
                    order, pam.sphere.theta, pam.sphere.phi, legacy=legacy
                )[0]
                if theirs.shape == harmonics.shape and np.allclose(
                    theirs, harmonics, atol=1e-4
                ):
                    return basis, legacy
    raise ValueError(
        f"{name}: its matrix B matches none of DIPY's bases; save the coefficients as "
        "NIfTI and name their basis."
    )
