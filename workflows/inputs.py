"""What the commands read: fODFs, images, and whether they lie on one grid.

The library is imported where it is used, so that a help text does not wait for it.
"""

import struct
from zipfile import BadZipFile

import numpy as np

SUFFIXES = (".trx", ".trk", ".tck")  # of tractograms
SH_FRAMES = ("voxel", "scanner")
SH_BASES = (
    "descoteaux07_legacy",
    "descoteaux07",
    "tournier07_legacy",
    "tournier07",
)


def check_sh_format(sh_basis, sh_frame):
    """Refuse names of bases and axes that there are not.

    Parameters
    ----------
    sh_basis : str or None
    sh_frame : str

    Raises
    ------
    ValueError
        If it is none of ``SH_BASES`` or ``SH_FRAMES``.
    """
    if sh_basis is not None and sh_basis not in SH_BASES:
        raise ValueError(f"sh_basis is {sh_basis}; {', '.join(SH_BASES)} are allowed.")
    if sh_frame not in SH_FRAMES:
        raise ValueError(
            f"sh_frame is {sh_frame}; {' or '.join(SH_FRAMES)} is allowed."
        )


def load_features(path, kind, sh_basis, sh_frame):
    """Load the fODF of a peaks and metrics or NIfTI file.

    Parameters
    ----------
    path : Path
    kind : str
        What the model takes: ``"sh"``, or ``"raw"`` for a NIfTI file as it is.
    sh_basis : str or None
        One of ``SH_BASES``; None to find it out (DIPY's default for NIfTI).
    sh_frame : str
        ``"voxel"`` or ``"scanner"``.

    Returns
    -------
    features : dipy_rnn.sh.FeatureVolume
    affine : ndarray of shape (4, 4), or None where the file has none

    Raises
    ------
    ValueError
        If the file cannot be read, or holds no fODF.
    """
    from dipy_rnn.sh import fodf_features, pam_features, raw_features

    if kind == "raw":
        if sh_basis is not None or sh_frame != SH_FRAMES[0]:
            raise ValueError(
                "sh_basis and sh_frame are for spherical harmonics, but the model "
                "takes other features; leave them out."
            )
        data, affine = load_volume(path, n_axes=4)
        return raw_features(data, name=str(path)), affine
    if path.suffix.lower() == ".pam5":
        from dipy.io.peaks import load_pam

        try:
            pam = load_pam(path)
        except (OSError, KeyError) as error:
            raise ValueError(
                f"{path} is no peaks and metrics file ({first_line(error)}); make it "
                "with dipy_fit_csd."
            ) from None
        if sh_frame != SH_FRAMES[0]:
            raise ValueError(
                f"sh_frame is {sh_frame}, but {path} is a peaks and metrics file, "
                "which is along the voxels; leave sh_frame out."
            )
        if sh_basis is None or pam.shm_coeff is None:
            return pam_features(pam, name=str(path)), pam.affine
        coeffs, affine = pam.shm_coeff, pam.affine
    else:
        coeffs, affine = load_volume(path, n_axes=4)
    sh_basis = sh_basis or SH_BASES[0]
    features = fodf_features(
        coeffs,
        basis_type=sh_basis.removesuffix("_legacy"),
        legacy=sh_basis.endswith("_legacy"),
        sh_frame=sh_frame,
        affine=affine,
        name=str(path),
    )
    return features, affine


def load_volume(path, n_axes=3):
    """Load a NIfTI image with a given number of axes.

    Parameters
    ----------
    path : Path
    n_axes : int, optional

    Returns
    -------
    data : ndarray
    affine : ndarray of shape (4, 4)

    Raises
    ------
    ValueError
        If it is no readable image, or has another number of axes.
    """
    from dipy.io.image import load_nifti
    from nibabel.filebasedimages import ImageFileError

    from dipy_rnn.spaces import check_affine

    try:
        data, affine = load_nifti(path)
    except (ImageFileError, OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} is no readable NIfTI image ({first_line(error)})."
        ) from None
    check_affine(affine, f"the affine of {path}")
    if data.ndim == n_axes + 1 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != n_axes:
        raise ValueError(
            f"{path} has {data.ndim} axes {data.shape}; an image with {n_axes} is "
            "needed here."
        )
    return data, affine


def load_subject(pam_path, stopping_path, seeding_path, kind, sh_format):
    """Load what tracking takes, and refuse what does not lie on one grid.

    Parameters
    ----------
    pam_path, stopping_path, seeding_path : Path
    kind : str
        As for :func:`load_features`.
    sh_format : tuple of (str or None, str)
        ``sh_basis`` and ``sh_frame``.

    Returns
    -------
    features : dipy_rnn.sh.FeatureVolume
    stopping, mask : ndarray of shape (X, Y, Z)
    affine : ndarray of shape (4, 4)

    Raises
    ------
    ValueError
        If a file cannot be read, or lies on another grid than the stopping image.
    """
    features, pam_affine = load_features(pam_path, kind, *sh_format)
    stopping, affine = load_volume(stopping_path)
    mask, mask_affine = load_volume(seeding_path)
    for path, shape, other in (
        (pam_path, features.data.shape[:3], pam_affine),
        (seeding_path, mask.shape, mask_affine),
    ):
        check_same_grid(stopping_path, stopping.shape, affine, path, shape, other)
    return features, stopping, mask, affine


def check_same_grid(path, shape, affine, other_path, other_shape, other_affine):
    """Refuse images that do not lie on one grid.

    Parameters
    ----------
    path, other_path : Path
    shape, other_shape : tuple of int
    affine, other_affine : ndarray of shape (4, 4)
        ``other_affine`` may be None: not known.

    Raises
    ------
    ValueError
        If the shapes or the affines differ; it names both files.
    """
    if tuple(shape) != tuple(other_shape):
        raise ValueError(
            f"{other_path} has the shape {tuple(other_shape)} and {path} "
            f"{tuple(shape)}; resample one onto the other's grid."
        )
    if other_affine is not None and not np.allclose(affine, other_affine, atol=1e-3):
        raise ValueError(
            f"{other_path} and {path} have different affines; resample one onto the "
            "other's grid (dipy_reslice, or nibabel.processing.resample_from_to)."
        )


def place_seeds(mask, affine, path, seed_density, seed_count, random_seed):
    """Place seeds in a mask.

    Parameters
    ----------
    mask : ndarray of shape (X, Y, Z)
    affine : ndarray of shape (4, 4)
    path : Path
        Of the mask, for errors.
    seed_density, seed_count, random_seed : int
        As the command's.

    Returns
    -------
    seeds_mm : ndarray of shape (N, 3)

    Raises
    ------
    ValueError
        If the mask is empty or not finite.
    """
    from dipy.tracking.utils import random_seeds_from_mask, seeds_from_mask

    if not np.isfinite(mask).all():
        raise ValueError(f"{path} holds NaN or infinity; a mask of 0 and 1 is needed.")
    mask = mask > 0
    if not mask.any():
        raise ValueError(f"{path} is an empty seed mask; it needs voxels above 0.")
    if seed_count:
        return random_seeds_from_mask(
            mask,
            affine,
            seeds_count=seed_count,
            seed_count_per_voxel=False,
            random_seed=random_seed or None,
        )
    return seeds_from_mask(mask, affine, density=seed_density)


def make_criterion(image, use_binary_mask, stopping_thr):
    """Make the stopping criterion that dipy_track makes.

    Parameters
    ----------
    image : ndarray of shape (X, Y, Z)
    use_binary_mask : bool
    stopping_thr : float

    Returns
    -------
    criterion : dipy.tracking.stopping_criterion.StoppingCriterion
    """
    from dipy_rnn.stopping import BinaryStoppingCriterion, ThresholdStoppingCriterion

    if use_binary_mask:
        return BinaryStoppingCriterion(image > stopping_thr)
    return ThresholdStoppingCriterion(image, stopping_thr)


def read_tractogram(path):
    """Read the streamlines of a tractogram; they are never all in memory.

    Parameters
    ----------
    path : Path
        Ends in one of ``SUFFIXES``.

    Yields
    ------
    streamline : ndarray of shape (M, 3)
        In mm.
    seed : ndarray of shape (3,) or None
        In mm, where the file holds seeds.

    Raises
    ------
    ValueError
        If it is no readable tractogram.
    """
    from nibabel.streamlines import load
    from nibabel.streamlines.tractogram_file import DataError, HeaderError

    try:
        if path.suffix.lower() == ".trx":
            from trx.trx_file_memmap import load as load_trx

            trx = load_trx(str(path))
            try:
                seeds = trx.data_per_streamline.get("seeds")
                for i, line in enumerate(trx.streamlines):
                    yield np.array(line), None if seeds is None else np.array(seeds[i])
            finally:
                trx.close()
        else:
            tractogram = load(path, lazy_load=True).tractogram
            # The items themselves are not yet in mm.
            for line, item in zip(tractogram.streamlines, tractogram, strict=True):
                yield line, item.data_for_streamline.get("seeds")
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        BadZipFile,
        struct.error,
        DataError,
        HeaderError,
    ) as error:
        raise ValueError(
            f"{path} is no readable tractogram ({first_line(error)})."
        ) from None


def first_line(error):
    """Return the first line of an error, or its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
