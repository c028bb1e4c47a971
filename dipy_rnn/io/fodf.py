"""Loading the fODF that a network tracks on, from peaks and metrics or NIfTI files.

The files contain spherical harmonics, or peaks, which are made into an fODF.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from dipy_rnn._typing import AnyArray, FloatArray
from dipy_rnn.io.files import check_is_file, check_size, first_line, shown
from dipy_rnn.io.images import load_volume
from dipy_rnn.sampling import PEAKS, SH_BASES, SH_FRAMES

if TYPE_CHECKING:
    import h5py

    from dipy_rnn.sampling import FeatureVolume

_UNIT_TOLERANCE = 1e-3  # of the length of a unit vector


def check_sh_format(sh_basis: str | None, sh_frame: str) -> None:
    """Raise ValueError if the basis or the axes of spherical harmonics are unknown.

    Parameters
    ----------
    sh_basis : str or None
    sh_frame : str

    Raises
    ------
    ValueError
        If `sh_basis` is not None, ``PEAKS`` or one of ``SH_BASES``, or `sh_frame` is
        not one of ``SH_FRAMES``.

    Examples
    --------
    >>> check_sh_format("tournier07", "scanner")
    """
    if sh_basis is not None and sh_basis not in (*SH_BASES, PEAKS):
        allowed = ", ".join((*SH_BASES, PEAKS))
        raise ValueError(f"sh_basis is {sh_basis}; {allowed} are allowed.")
    if sh_frame not in SH_FRAMES:
        raise ValueError(
            f"sh_frame is {sh_frame}; {' or '.join(SH_FRAMES)} is allowed."
        )


def load_features(
    path: Path, kind: str, sh_basis: str | None, sh_frame: str
) -> tuple[FeatureVolume, FloatArray | None]:
    """Load the fODF of a peaks and metrics file or of a NIfTI file.

    Parameters
    ----------
    path : Path
    kind : str
        Features that the model takes: ``"sh"`` for spherical harmonics, or ``"raw"``
        for the values of a NIfTI file as they are.
    sh_basis : str or None
        One of ``SH_BASES``, or ``PEAKS``. If None, the basis is detected in a peaks and
        metrics file; for a NIfTI file it is ``"descoteaux07_legacy"``. If None, the
        file contains peaks if it is a peaks and metrics file without spherical
        harmonics, a NIfTI file with five axes, (X, Y, Z, N, 3), or one with 3 N volumes
        whose number is not that of spherical harmonics.
    sh_frame : str
        Axes of the spherical harmonics or peaks: ``"voxel"`` or ``"scanner"``.

    Returns
    -------
    features : dipy_rnn.sampling.FeatureVolume
    affine : ndarray of shape (4, 4) or None
        Voxel to mm; None if the file does not contain it.

    Raises
    ------
    ValueError
        If the file cannot be read or does not contain an fODF. If `sh_basis` is None
        and the basis cannot be detected in a peaks and metrics file. If `sh_basis` or
        `sh_frame` is given with `kind` ``"raw"``, or the frame ``"scanner"`` with a
        peaks and metrics file. If spherical harmonics are expected, but the volumes
        look like peaks.
    """
    from dipy_rnn.sampling import (
        fodf_features,
        pam_features,
        peaks_features,
        raw_features,
    )

    if kind == "raw":
        if sh_basis is not None or sh_frame != SH_FRAMES[0]:
            raise ValueError(
                "sh_basis and sh_frame describe spherical harmonics, but the model "
                "takes other features; leave them out."
            )
        data, affine = load_volume(path, n_axes=4)
        return raw_features(data, name=shown(path)), affine
    if path.suffix.lower() == ".pam5":
        pam = load_pam(path, "shm_coeff", "affine", "B")
        if sh_frame != SH_FRAMES[0]:
            raise ValueError(
                f"sh_frame is {sh_frame}, but {path} is a peaks and metrics file, "
                "whose spherical harmonics are along the voxel axes; leave sh_frame "
                "out."
            )
        has_sh = pam.shm_coeff is not None
        if not has_sh and sh_basis not in (None, PEAKS):
            raise ValueError(
                f"sh_basis is {sh_basis}, but {path} contains no spherical harmonics; "
                "leave sh_basis out to track on its peaks."
            )
        if not has_sh or sh_basis == PEAKS:
            pam = load_pam(path, "peak_dirs", "peak_values", "affine")
        if not has_sh or sh_basis in (None, PEAKS):
            return pam_features(pam, name=shown(path)), pam.affine
        coeffs, affine = pam.shm_coeff, pam.affine
    else:
        coeffs, affine = load_volume(path, n_axes=(4, 5))
        if sh_basis == PEAKS or (sh_basis is None and not _may_be_sh(coeffs)):
            name = shown(path)
            return peaks_features(
                coeffs, frame=sh_frame, affine=affine, name=name
            ), affine
        if sh_basis is None and _look_like_peaks(coeffs):
            raise ValueError(
                f"{shown(path)} has {coeffs.shape[3]} volumes, which look like "
                f"{coeffs.shape[3] // 3} peaks; add sh_basis peaks to track on them, "
                "or name the basis if they are spherical harmonics."
            )
    sh_basis = sh_basis or SH_BASES[0]
    features = fodf_features(
        coeffs,
        basis_type=sh_basis.removesuffix("_legacy"),
        legacy=sh_basis.endswith("_legacy"),
        sh_frame=sh_frame,
        affine=affine,
        name=shown(path),
    )
    return features, affine


def _may_be_sh(data: AnyArray) -> bool:
    """Tell whether the number of volumes is that of spherical harmonics, or no 3 N."""
    from dipy_rnn.sampling import sh_order

    if data.ndim == 5:
        return False
    try:
        sh_order(data.shape[3])
    except ValueError:
        return bool(data.shape[3] % 3)
    return True


def _look_like_peaks(data: AnyArray) -> bool:
    """Tell whether volumes are the x, y and z of peaks; zero or NaN: no peak.

    All peaks are unit vectors. Or none is longer than the one before it, and the last
    one is missing in most voxels.
    """
    if data.shape[3] % 3:
        return False
    with np.errstate(over="ignore", invalid="ignore"):  # then a length is infinite
        lengths = np.linalg.norm(data.reshape(-1, data.shape[3] // 3, 3), axis=2)
    lengths = np.where(np.isnan(lengths), 0, lengths)
    lengths = lengths[lengths.any(axis=1)]
    if not len(lengths):
        return False
    are_unit = (np.abs(lengths - 1) < _UNIT_TOLERANCE) | (lengths == 0)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        are_sorted = np.diff(lengths, axis=1) <= _UNIT_TOLERANCE * lengths[:, :1]
    most_lack_last = np.mean(lengths[:, -1] == 0) > 0.5
    return bool(are_unit.all() or (are_sorted.all() and most_lack_last))


def load_pam(path: Path, *names: str) -> SimpleNamespace:
    """Load the sphere and the named arrays of a peaks and metrics file.

    Parameters
    ----------
    path : Path
    *names : str
        Names of arrays, such as ``"shm_coeff"``.

    Returns
    -------
    pam : SimpleNamespace
        With the attributes of DIPY's PeaksAndMetrics, which is in ``dipy.direction``
        and may move in DIPY 2. An array that the file does not contain is None.

    Raises
    ------
    ValueError
        If the file is not a peaks and metrics file, or an array is not of real
        numbers.

    Notes
    -----
    :func:`dipy.io.peaks.load_pam` also reads the version, which is a string. If the
    part of a file in which HDF5 stores strings is damaged, HDF5 may loop forever. So no
    string is read here.
    """
    from dipy.core.sphere import Sphere
    import h5py

    from dipy_rnn.spatial import check_affine

    check_is_file(path)
    pam = SimpleNamespace(sphere=None)
    try:
        with h5py.File(path, "r") as file:
            group = file["pam"]
            for name in names:
                setattr(pam, name, _read_array(path, group, name))
            vertices = _read_array(path, group, "sphere_vertices")
        if vertices is not None:
            pam.sphere = Sphere(xyz=vertices.astype(float))
    except Exception as error:  # HDF5 raises many kinds of error for a damaged file
        raise ValueError(
            f"{shown(path)} cannot be read as a peaks and metrics file "
            f"({first_line(error)}); make it with dipy_fit_csd."
        ) from None
    if getattr(pam, "affine", None) is not None:
        pam.affine = check_affine(pam.affine, f"the affine of {shown(path)}")
    return pam


def _read_array(path: Path, group: h5py.Group, name: str) -> AnyArray | None:
    if name not in group:
        return None
    data = group[name]
    if data.dtype.kind not in "biuf":
        raise ValueError(f"{name} is of type {data.dtype}, not of real numbers")
    check_size(path, data.size * data.dtype.itemsize, data.compression, name)
    values: AnyArray = data[:]
    return values
