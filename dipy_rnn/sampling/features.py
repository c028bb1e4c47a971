"""The input of a network: volumes of fODF coefficients, or of any other features.

Inside the package, coefficients of spherical harmonics are float32, in MRtrix3's basis
(``tournier07``, not legacy), with the voxel axes as x, y and z. This basis is called
*the package's basis*. Coefficients in another basis, or with the scanner axes (RAS+) as
x, y and z, are converted once, in this module, before tracking starts.

The *order* of spherical harmonics is the largest l of their coefficients.
"""

from dataclasses import dataclass, replace
from typing import Any
import warnings

import numpy as np

from dipy_rnn._checks import as_contiguous, check_numbers
from dipy_rnn._typing import AnyArray, ArrayLike, Float32Array
from dipy_rnn.sampling.fodf.basis import (
    MOST_NEGATIVE,
    better_basis,
    looks_like_fodf,
    negative_shares,
    pam_basis,
    sharpest_voxels,
)
from dipy_rnn.sampling.fodf.convert import convert_volume, without_nan
from dipy_rnn.sampling.fodf.peaks_to_sh import (
    are_diffusivities,
    are_to_one_side,
    peaks_to_sh,
    principal_directions,
)
from dipy_rnn.sampling.rotation import BASES, rotate_all, sh_order
from dipy_rnn.spatial import axes, check_affine

#: Axes along which coefficients can be given.
SH_FRAMES = ("voxel", "scanner")

# Largest share of coefficients above 0, of all in voxels with data. It is 0.51 and 0.53
# for two brains. In diffusion-weighted images all values are above 0.
_MOST_POSITIVE = 0.9

#: In place of a basis: the coefficients were made of peaks.
PEAKS = "peaks"


@dataclass(frozen=True)
class SHFormat:
    """The basis and the axes in which coefficients, or peaks, were given.

    Parameters
    ----------
    basis : str
        One of ``SH_BASES``, or ``PEAKS``.
    frame : str
        One of ``SH_FRAMES``.
    is_known : bool, optional
        Whether the data themselves say so: a peaks and metrics file with a matrix B.
        Otherwise the user said so, or it is the default.

    Examples
    --------
    >>> SHFormat("tournier07", "scanner").is_known
    False
    """

    basis: str
    frame: str
    is_known: bool = False


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
    sh_format : SHFormat, optional
        How the coefficients were given. None if they were given as they are here.

    Examples
    --------
    >>> FeatureVolume(np.zeros((2, 2, 2, 3), np.float32), "raw").data.shape
    (2, 2, 2, 3)
    """

    data: Float32Array
    kind: str
    name: str = "features"
    sh_format: SHFormat | None = None


def raw_features(data: ArrayLike, *, name: str = "features") -> FeatureVolume:
    """Make a feature volume from any volume, without conversion.

    Parameters
    ----------
    data : array_like of shape (X, Y, Z, C)
        A voxel that holds NaN has no data.
    name : str, optional
        Its name in error messages.

    Returns
    -------
    features : FeatureVolume

    Raises
    ------
    ValueError
        If it does not have four axes, is empty, or holds infinity.

    Warns
    -----
    UserWarning
        If voxels hold NaN, with their number. They are set to zero.

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
    nbr_threads: int = 1,
) -> FeatureVolume:
    """Convert fODF coefficients to the package's basis and axes.

    Parameters
    ----------
    shcoeff : array_like of shape (X, Y, Z, C)
        Coefficients of an even order, 4 or higher. A voxel that holds NaN has no data.
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
    nbr_threads : int, optional
        0 for every core.

    Returns
    -------
    features : FeatureVolume
        Of kind ``"sh"``.

    Raises
    ------
    ValueError
        If shape, number of coefficients, basis or axes differ from the above. If the
        affine is invalid, or is missing for scanner axes. If the volume holds
        infinity, or only zeros except for l = 0.

    Warns
    -----
    UserWarning
        If the coefficients look like a diffusion ODF (CSA, Q-ball, GQI) and not like
        a fibre ODF. If they are negative in every basis, or seem to be in another
        basis. If voxels hold NaN, with their
        number. They are set to zero.

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
    volume = _as_volume(shcoeff, name)
    try:
        order = sh_order(volume.shape[3])
    except ValueError as error:
        raise ValueError(
            f"{name} is not a volume of spherical harmonics: {error}"
        ) from None
    if order < 4:
        raise ValueError(
            f"{name} is of order {order}; order 4 (15 coefficients) or more is needed."
        )
    sh_basis = basis + ("_legacy" if legacy else "")
    coeffs, n_positive, n_filled = convert_volume(
        volume, order, sh_basis, name, nbr_threads
    )
    if not any(slab[..., 1:].any() for slab in coeffs):
        raise ValueError(
            f"{name} has no direction anywhere: it holds only zeros above order 0."
        )
    if n_positive > _MOST_POSITIVE * n_filled * coeffs.shape[3]:
        raise ValueError(
            f"{name} has hardly any negative value, but spherical harmonics have both "
            "signs. Is it a diffusion-weighted image? Fit an fODF first, for example "
            "with dipy_fit_csd."
        )
    sharpest = sharpest_voxels(coeffs)
    if looks_like_fodf(coeffs, sharpest):
        _check_basis(negative_shares(coeffs, sh_basis, sharpest), sh_basis, name)
    else:
        warnings.warn(
            f"{name} does not look like a fibre ODF (is it a CSA, Q-ball or GQI ODF?); "
            "the shipped models expect one, for example from dipy_fit_csd.",
            stacklevel=2,
        )
    if sh_frame == "scanner":
        if affine is None:
            raise ValueError("sh_frame='scanner' needs the affine; pass affine.")
        coeffs = rotate_all(coeffs, axes(check_affine(affine)).T)
    return FeatureVolume(coeffs, "sh", name, SHFormat(sh_basis, sh_frame))


def _check_basis(shares: dict[str, float], sh_basis: str, name: str) -> None:
    """Warn if coefficients seem to be in another basis."""
    if shares and min(shares.values()) > MOST_NEGATIVE:
        warnings.warn(
            f"{name} does not look like a fibre ODF: {min(shares.values()):.0%} or "
            "more of the energy of its lobes is negative in every basis. Are these "
            "volumes spherical harmonics? For peaks, add --sh_basis peaks (in Python: "
            "peaks_features).",
            stacklevel=3,
        )
        return
    better = better_basis(shares, sh_basis)
    if better:
        mrtrix = ", with --sh_frame scanner if MRtrix3 wrote it"
        warnings.warn(
            f"{name} seems to be in the basis {better}, not in {sh_basis}: "
            f"{shares[sh_basis]:.1%} of the energy of its lobes is negative, in "
            f"{better} {shares[better]:.1%}; try --sh_basis {better}"
            f"{mrtrix if better == 'tournier07' else ''} (in Python: basis_type and "
            "legacy).",
            stacklevel=3,
        )


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

    Warns
    -----
    UserWarning
        If only the first eigenvectors of tensors are used. If hardly any value is
        negative, as in images of other kinds.

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
    if are_to_one_side(np.asarray(directions).reshape(-1, 3)):
        warnings.warn(
            f"{name} has hardly any negative value, but peaks point to all sides. Is "
            "it an image of tissues, of colours, or diffusion-weighted?",
            stacklevel=2,
        )
    features = fodf_features(coeffs, sh_frame=frame, affine=affine, name=name)
    return replace(features, sh_format=SHFormat(PEAKS, frame))


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
    is_known = basis_type is None
    if basis_type is None:
        basis_type, legacy = pam_basis(pam, name=name)
    features = fodf_features(
        pam.shm_coeff, basis_type=basis_type, legacy=legacy, name=name
    )
    sh_basis = basis_type + ("_legacy" if legacy else "")
    return replace(features, sh_format=SHFormat(sh_basis, SH_FRAMES[0], is_known))


def _as_volume(volume: ArrayLike, name: str) -> AnyArray:
    """Return real numbers as an array (X, Y, Z, C), or raise ValueError."""
    volume = check_numbers(volume, name)
    if volume.ndim == 4 and volume.size:
        return volume
    raise ValueError(
        f"{name} has the shape {volume.shape}; (X, Y, Z, number of coefficients) is "
        "needed."
    )


def _checked(volume: ArrayLike, name: str) -> Float32Array:
    """Return a volume (X, Y, Z, C) as float32, or raise ValueError."""
    volume = as_contiguous(_as_volume(volume, name), name, np.float32)
    return volume if np.isfinite(volume).all() else without_nan(volume, name)
