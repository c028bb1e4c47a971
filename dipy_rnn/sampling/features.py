"""The input of a network: volumes of fODF coefficients, or of any other features.

Inside the package, coefficients of spherical harmonics are float32, in MRtrix3's basis
(``tournier07``, not legacy), with the voxel axes as x, y and z. This basis is called
*the package's basis*. Coefficients in another basis, or with the scanner axes (RAS+) as
x, y and z, are converted once, in this module, before tracking starts.

The *order* of spherical harmonics is the largest l of their coefficients.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any
import warnings

import numpy as np
from numpy.typing import NDArray

from dipy_rnn._checks import as_contiguous, check_numbers
from dipy_rnn._typing import AnyArray, ArrayLike, Float32Array
from dipy_rnn.sampling.lobes import (
    are_diffusivities,
    peaks_to_sh,
    principal_directions,
)
from dipy_rnn.sampling.rotation import rotate_all, sh_order
from dipy_rnn.spatial import axes, check_affine

#: Bases that DIPY can write, each in a legacy and a new form.
BASES = ("descoteaux07", "tournier07")


#: Axes along which coefficients can be given.
SH_FRAMES = ("voxel", "scanner")


# Limit for the median ratio of the power of l = 2 to that of l = 0, in the quarter of
# voxels with the largest ratios. The median is 1.2 to 2.1 for CSD, and 0.01 to 0.4 for
# the ODFs of CSA, Q-ball, OPDT and GQI (two brains, orders 4 and 8; doc/features.md).
_FODF_RATIO = 0.7

# In background voxels the power of l = 0 is below this share of its 99th percentile.
_BACKGROUND = 0.1


@dataclass(frozen=True, eq=False)
class FeatureVolume:
    """A volume of features for a model.

    Parameters
    ----------
    data : ndarray of shape (X, Y, Z, C)
        float32, C-contiguous, finite.
    kind : str
        ``"sh"``: spherical harmonics in the package's basis, along the voxel axes (see
        above).
        ``"raw"``: any other features, which are interpolated and not rotated.
    name : str, optional
        Its name in error messages: an argument or a file.

    Examples
    --------
    >>> FeatureVolume(np.zeros((2, 2, 2, 3), np.float32), "raw").data.shape
    (2, 2, 2, 3)
    """

    data: Float32Array
    kind: str
    name: str = "features"


def raw_features(data: ArrayLike, *, name: str = "features") -> FeatureVolume:
    """Make a feature volume from any volume, without conversion.

    Parameters
    ----------
    data : array_like of shape (X, Y, Z, C)
        Finite numbers.
    name : str, optional
        Its name in error messages.

    Returns
    -------
    features : FeatureVolume

    Raises
    ------
    ValueError
        If it does not have four axes, is empty, or holds NaN or infinity.

    Examples
    --------
    >>> raw_features(np.ones((2, 2, 2, 3))).kind
    'raw'
    """
    return FeatureVolume(_checked(data, name), "raw", name)


def fodf_features(
    shcoeff: ArrayLike,
    *,
    basis_type: str | None = None,
    legacy: bool = True,
    sh_frame: str = "voxel",
    affine: ArrayLike | None = None,
    name: str = "sh",
) -> FeatureVolume:
    """Convert fODF coefficients to the package's basis and axes.

    Parameters
    ----------
    shcoeff : array_like of shape (X, Y, Z, C)
        Coefficients of an even order, 4 or higher.
    basis_type : str, optional
        ``"descoteaux07"`` (also for None, with every version of DIPY) or
        ``"tournier07"``.
    legacy : bool, optional
        Whether the basis is DIPY's legacy one. MRtrix3 writes ``tournier07`` with
        ``legacy=False``.
    sh_frame : str, optional
        Axes of the coefficients: ``"voxel"`` (DIPY) or ``"scanner"`` (MRtrix3).
    affine : array_like of shape (4, 4), optional
        Voxel to mm. Needed for scanner axes.
    name : str, optional
        Name of the volume in error messages: an argument or a file.

    Returns
    -------
    features : FeatureVolume
        Of kind ``"sh"``.

    Raises
    ------
    ValueError
        If shape, number of coefficients, basis or axes differ from the above. If the
        affine is invalid, or is missing for scanner axes. If the volume holds NaN or
        infinity, or only zeros except for l = 0.

    Warns
    -----
    UserWarning
        If the coefficients look like a diffusion ODF (CSA, Q-ball, GQI) and not like
        a fibre ODF.

    Examples
    --------
    >>> fodf = np.zeros((1, 1, 1, 15)); fodf[..., 0] = 1; fodf[..., 4] = 2
    >>> fodf[..., 12] = 2
    >>> fodf_features(fodf).data[0, 0, 0, [0, 2, 4]].tolist()
    [1.0, 2.0, 0.0]
    """
    basis = BASES[0] if basis_type is None else basis_type
    if basis not in BASES:
        raise ValueError(
            f"basis_type is {basis_type!r}; {' or '.join(map(repr, BASES))} is allowed."
        )
    if sh_frame not in SH_FRAMES:
        raise ValueError(
            f"sh_frame is {sh_frame!r}; {' or '.join(map(repr, SH_FRAMES))} is allowed."
        )
    coeffs = _checked(shcoeff, name)
    try:
        order = sh_order(coeffs.shape[3])
    except ValueError as error:
        raise ValueError(
            f"{name} is not a volume of spherical harmonics: {error}"
        ) from None
    if order < 4:
        raise ValueError(
            f"{name} is of order {order}; order 4 (15 coefficients) or more is needed."
        )
    if not coeffs[..., 1:].any():
        raise ValueError(
            f"{name} has no direction anywhere: it holds only zeros above order 0."
        )

    if (basis, legacy) != ("tournier07", False):
        places, factors = _to_package_basis(order, basis, legacy)
        coeffs = np.take(coeffs, places, axis=3)
        coeffs *= factors
    if sh_frame == "scanner":
        if affine is None:
            raise ValueError("sh_frame='scanner' needs the affine; pass affine.")
        coeffs = rotate_all(coeffs, axes(check_affine(affine)).T)
    if not looks_like_fodf(coeffs):
        warnings.warn(
            f"{name} does not look like a fibre ODF (is it a CSA, Q-ball or GQI ODF?); "
            "the shipped models expect one, for example from dipy_fit_csd.",
            stacklevel=2,
        )
    return FeatureVolume(coeffs, "sh", name)


def peaks_features(
    directions: ArrayLike,
    values: ArrayLike | None = None,
    *,
    frame: str = "voxel",
    affine: ArrayLike | None = None,
    name: str = "peaks",
) -> FeatureVolume:
    """Make an fODF of peaks: a sharp lobe along each peak, of order 8.

    If the peaks of each voxel are the three eigenvectors of a tensor, only the first
    eigenvector is used, with a warning.

    Parameters
    ----------
    directions : array_like of shape (X, Y, Z, N, 3) or (X, Y, Z, 3 * N)
        N peaks of each voxel. A peak of zeros, NaN or infinity is no peak.
    values : array_like of shape (X, Y, Z, N), optional
        Weights of the lobes. Only their ratios matter. If a value is not a number above
        0, there is no peak. If None, the values are the lengths of the directions.
    frame : str, optional
        Axes of the directions: ``"voxel"`` (DIPY) or ``"scanner"`` (MRtrix3).
    affine : array_like of shape (4, 4), optional
        Voxel to mm. Needed for scanner axes.
    name : str, optional
        Name of the peaks in error messages: an argument or a file.

    Returns
    -------
    features : FeatureVolume
        Of kind ``"sh"``.

    Raises
    ------
    ValueError
        If a shape or the frame is invalid, if there is no peak, if the affine is
        invalid, or is missing for scanner axes, or if the peaks are eigenvectors of
        tensors and it is not clear which is the first.

    Examples
    --------
    >>> directions = np.zeros((1, 1, 1, 2, 3)); directions[..., 0, :] = 0, 0, 1
    >>> features = peaks_features(directions)
    >>> features.kind, features.data.shape
    ('sh', (1, 1, 1, 45))
    """
    principal = principal_directions(directions, name=name)
    if principal is not None:
        warnings.warn(
            f"{name} has the eigenvectors of tensors as peaks. Only the first "
            "eigenvector of each voxel is used.",
            stacklevel=2,
        )
        directions, values = principal[..., None, :], None
    coeffs = peaks_to_sh(directions, values, name=name)
    return fodf_features(coeffs, sh_frame=frame, affine=affine, name=name)


@cache
def _to_package_basis(
    order: int, basis: str, legacy: bool
) -> tuple[NDArray[np.intp], Float32Array]:
    """Return the index of each coefficient in DIPY's basis, and its sign.

    Each of DIPY's bases differs from the package's only in the sequence and the signs
    of the coefficients. Both are read from DIPY's conversion of unit vectors.
    """
    from dipy.reconst.shm import (
        convert_sh_descoteaux_tournier,
        convert_sh_from_legacy,
        convert_sh_to_legacy,
    )

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


def pam_features(
    pam: Any,
    *,
    basis_type: str | None = None,
    legacy: bool = True,
    name: str = "pam",
) -> FeatureVolume:
    """Make a feature volume from the fODF or the peaks in DIPY's PeaksAndMetrics.

    Without ``shm_coeff``, the fODF is made of the peaks (:func:`peaks_features`).

    Parameters
    ----------
    pam : dipy.direction.peaks.PeaksAndMetrics
        With ``shm_coeff`` (from ``dipy_fit_csd`` or ``peaks_from_model``), or with
        ``peak_dirs`` and ``peak_values``.
    basis_type : str, optional
        ``"descoteaux07"`` or ``"tournier07"``. If None, the basis is determined by
        :func:`dipy_rnn.sampling.pam_basis`.
    legacy : bool, optional
        Whether the basis is DIPY's legacy one. Not used if `basis_type` is None.
    name : str, optional
        Its name in error messages: an argument or a file.

    Returns
    -------
    features : FeatureVolume
        Of kind ``"sh"``.

    Raises
    ------
    ValueError
        If it holds neither coefficients nor peaks, if the basis is unknown, or if its
        peaks are parts of the eigenvectors of tensors.

    Examples
    --------
    >>> from dipy.direction.peaks import PeaksAndMetrics
    >>> pam = PeaksAndMetrics()
    >>> pam.shm_coeff = np.zeros((1, 1, 1, 15))
    >>> pam.shm_coeff[..., [0, 4, 12]] = 1, 2, 2
    >>> pam_features(pam, basis_type="descoteaux07").kind
    'sh'
    """
    if getattr(pam, "shm_coeff", None) is None:
        directions = getattr(pam, "peak_dirs", None)
        if directions is None:
            raise ValueError(
                f"{name} holds neither spherical harmonics nor peaks; make it with "
                "dipy_fit_csd, or with peaks_from_model."
            )
        values = getattr(pam, "peak_values", None)
        if (
            np.ndim(directions) == 5
            and np.shape(directions)[3] < 3
            and values is not None
            and are_diffusivities(np.asarray(values))
        ):
            raise ValueError(
                f"{name} has peaks of a tensor fit, and these are not eigenvectors "
                "(DIPY 1.12); fit again with --save_metrics evec, and track on "
                "evecs.nii.gz."
            )
        return peaks_features(directions, values, name=name)
    if basis_type is None:
        basis_type, legacy = pam_basis(pam, name=name)
    return fodf_features(pam.shm_coeff, basis_type=basis_type, legacy=legacy, name=name)


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


def looks_like_fodf(coeffs: AnyArray) -> bool:
    """Tell whether coefficients have the sharp lobes of fibre ODFs.

    Parameters
    ----------
    coeffs : ndarray of shape (X, Y, Z, C)
        Spherical harmonics of order 4 or more, in any orthonormal basis.

    Returns
    -------
    sharp : bool
        Whether the median ratio of the power of l = 2 to that of l = 0 is above 0.7.
        The median is taken over the quarter of voxels with the largest ratios.
        Background is excluded: voxels in which the power of l = 0 is below 0.1 of its
        99th percentile. False if all voxels are zero.

    Examples
    --------
    >>> flat = np.zeros((1, 1, 1, 15)); flat[..., :2] = 1.0, 0.1
    >>> looks_like_fodf(flat)
    False
    """
    whole = np.square(coeffs[..., 0], dtype=np.float64)
    filled = (whole > 0) & (whole >= _BACKGROUND * np.quantile(whole, 0.99))
    if not filled.any():
        return False
    order2 = np.square(coeffs[..., 1:6], dtype=np.float64).sum(axis=-1)
    ratio = order2[filled] / whole[filled]
    return bool(np.median(ratio[ratio >= np.quantile(ratio, 0.75)]) > _FODF_RATIO)


def _checked(volume: ArrayLike, name: str) -> Float32Array:
    """Return a volume (X, Y, Z, C) as float32, or raise ValueError."""
    volume = check_numbers(volume, name)
    if volume.ndim != 4 or not volume.size:
        raise ValueError(
            f"{name} has the shape {volume.shape}; (X, Y, Z, number of coefficients) "
            "is needed."
        )
    volume = as_contiguous(volume, name, np.float32)
    n_bad = volume.size - np.count_nonzero(np.isfinite(volume))
    if n_bad:
        raise ValueError(
            f"{name} holds {n_bad} values that are NaN or infinite; "
            "correct the fit, or set them to zero with numpy.nan_to_num."
        )
    return volume
