"""Loading NIfTI images, and images that are on different grids."""

from __future__ import annotations

from contextlib import suppress
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from dipy_rnn._atomic import atomic_write
from dipy_rnn._typing import AnyArray, FloatArray
from dipy_rnn.io.files import check_is_file, check_size, first_line, shown
from dipy_rnn.io.formats import check_is_image
from dipy_rnn.spatial import (
    check_affine,
    corners_mm,
    describe_apart,
    do_overlap,
    is_inside,
    is_same_grid,
    map_points,
    voxel_sizes,
)

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

logger = logging.getLogger("dipy")  # DIPY's commands show and save its messages

_RESAMPLE = (
    "resample one onto the other's grid (mrgrid of MRtrix3, or "
    "nibabel.processing.resample_from_to: with order=0 for masks and labels, and "
    "order=1 for maps)."
)


def load_volume(
    path: Path, n_axes: int | tuple[int, ...] = 3, *, wanted: str = ""
) -> tuple[AnyArray, FloatArray]:
    """Load a NIfTI image with a given number of axes.

    Parameters
    ----------
    path : Path
    n_axes : int or tuple of int, optional
        Number of axes, or the numbers that are allowed. Last axes of length 1 beyond
        these are removed. If four are allowed, an axis of time of length 1 before the
        volumes, (X, Y, Z, 1, N), is removed, as ITK writes it.
    wanted : str, optional
        Text that says which image is expected. It ends the error message for an image
        with another number of axes.

    Returns
    -------
    data : ndarray
    affine : ndarray of shape (4, 4)
        Voxel to mm.

    Raises
    ------
    ValueError
        If the file cannot be read as an image, or the image has another number of
        axes, no voxels, or an invalid affine.
    """
    from dipy.io.image import load_nifti
    import nibabel as nib

    from dipy_rnn._checks import check_numbers

    check_is_file(path)
    check_is_image(path)
    try:
        # load_nifti allocates memory for the data that the header announces.
        image = cast("SpatialImage", nib.load(path))  # other kinds of file fail below
        on_disk = image.file_map.get("image") or image.file_map["header"]
        name = str(on_disk.filename)
        check_size(
            name,
            math.prod(image.shape) * image.get_data_dtype().itemsize,
            not name.lower().endswith((".nii", ".img")),
        )
        with np.errstate(all="ignore"):  # scaled values that overflow become infinite
            data, affine = load_nifti(path)
    except Exception as error:  # nibabel passes on errors of zlib, struct and others
        raise ValueError(
            f"{shown(path)} cannot be read as a NIfTI image ({first_line(error)})."
        ) from None
    affine = check_affine(affine, f"the affine of {shown(path)}")
    _warn_of_header(image, path)
    data = check_numbers(data, shown(path))
    if not data.size:
        raise ValueError(f"{shown(path)} has no voxel: its shape is {data.shape}.")
    allowed = (n_axes,) if isinstance(n_axes, int) else n_axes
    if data.ndim == 5 and data.shape[3] == 1 and 4 in allowed:
        data = data[:, :, :, 0]
    while data.ndim > max(allowed) and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim not in allowed:
        raise ValueError(
            f"{shown(path)} has {data.ndim} axes, its shape is {data.shape}; an image "
            f"with {' or '.join(map(str, allowed))} axes is needed{wanted}."
        )
    return data, affine


def _warn_of_header(image: SpatialImage, path: Path) -> None:
    """Log a warning if other programs may use another affine, or another unit."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.spatialimages import HeaderDataError

    header = image.header
    if not isinstance(header, Nifti1Header):
        return
    unit = ""
    with suppress(KeyError):  # nibabel does not know the code
        unit = header.get_xyzt_units()[0]
    if unit in ("meter", "micron"):
        logger.warning(
            f"{shown(path)} has {unit} as the unit in its header. This is not used: "
            "its affine is read in mm, as DIPY and nibabel do."
        )
    sform = header.get_sform(coded=True)[0]
    qform = None
    with suppress(ValueError, HeaderDataError):  # an invalid quaternion
        qform = header.get_qform(coded=True)[0]
    if sform is None and qform is None:
        logger.warning(
            f"{shown(path)} has no affine in its header, only voxel sizes. Its centre "
            "is taken as 0 mm, and its first axis as pointing to the left, as DIPY and "
            "nibabel do."
        )
    elif sform is not None and qform is not None and not is_same_grid(sform, qform):
        logger.warning(
            f"{shown(path)} has two affines in its header that differ (sform and "
            "qform). The sform is used, as in DIPY and nibabel."
        )


def check_finite(path: Path, data: AnyArray, consequence: str) -> None:
    """Raise ValueError if an image holds infinity; log a warning if it holds NaN.

    Parameters
    ----------
    path : Path
        Of the image, for the message.
    data : ndarray
    consequence : str
        Sentence about the voxels that are NaN, for the warning.

    Examples
    --------
    >>> check_finite(Path("fa.nii.gz"), np.array([0.3, np.inf]), "They are not seeded.")
    Traceback (most recent call last):
    ValueError: fa.nii.gz holds infinity in 1 of 2 voxels; set them to zero with ...
    """
    n_infinite = np.count_nonzero(np.isinf(data))
    if n_infinite:
        raise ValueError(
            f"{shown(path)} holds infinity in {n_infinite} of {data.size} voxels; set "
            "them to zero with numpy.nan_to_num."
        )
    n_nan = np.count_nonzero(np.isnan(data))
    if n_nan:
        logger.warning(
            f"{shown(path)} holds NaN in {n_nan} of {data.size} voxels. {consequence}"
        )


def load_mask(path: Path, verb: str) -> tuple[AnyArray, FloatArray]:
    """Load an image of which the voxels above 0 are used, and log if it is not binary.

    Parameters
    ----------
    path : Path
    verb : str
        What is done with voxels of the mask, for messages, such as ``"seeded"``.

    Returns
    -------
    mask : ndarray of shape (X, Y, Z)
        The values of the image. NaN is replaced by 0.
    affine : ndarray of shape (4, 4)
        Voxel to mm.

    Raises
    ------
    ValueError
        As :func:`load_volume`, or if a voxel is infinite.
    """
    mask, affine = load_volume(path)
    check_finite(path, mask, f"They are not {verb}.")
    mask = np.where(np.isnan(mask), 0, mask)
    if not ((mask == 0) | (mask == mask.max())).all():
        labels = ""
        if (mask == np.rint(mask)).all() and mask.max() > 1:
            labels = " To use one label, make a mask of it."
        logger.warning(
            f"{shown(path)} is not a binary mask: its values are from {mask.min():g} "
            f"to {mask.max():g}. Voxels above 0 are {verb}.{labels}"
        )
    return mask, affine


def check_same_grid(
    path: Path,
    shape: tuple[int, ...],
    affine: FloatArray,
    other_path: Path,
    other_shape: tuple[int, ...],
    other_affine: FloatArray | None,
) -> None:
    """Raise ValueError if two images are not on the same grid.

    Parameters
    ----------
    path, shape, affine : Path, tuple of int, ndarray of shape (4, 4)
        Of one image.
    other_path, other_shape, other_affine : Path, tuple of int, ndarray of shape (4, 4)
        Of the other image. If `other_affine` is None, affines are not compared.

    Raises
    ------
    ValueError
        If the shapes differ, or the affines differ by more than
        :func:`dipy_rnn.spatial.is_same_grid` allows. The error names both files.

    Examples
    --------
    >>> grid = (4, 5, 6), np.eye(4)
    >>> check_same_grid(Path("fa.nii.gz"), *grid, Path("seeds.nii.gz"), *grid)
    """
    if shape != other_shape:
        raise ValueError(
            f"{other_path} has the shape {other_shape} and {path} {shape}; {_RESAMPLE}"
        )
    if other_affine is not None and not is_same_grid(affine, other_affine):
        raise ValueError(f"{other_path} and {path} have different affines; {_RESAMPLE}")


def is_on_grid(
    path: Path,
    shape: tuple[int, ...],
    affine: FloatArray,
    grid_path: Path,
    grid_shape: tuple[int, ...],
    grid_affine: FloatArray,
) -> bool:
    """Tell whether an image is on the grid of another one; if not, log it.

    Parameters
    ----------
    path, shape, affine : Path, tuple of int, ndarray of shape (4, 4)
        Of the image.
    grid_path, grid_shape, grid_affine : Path, tuple of int, ndarray of shape (4, 4)
        Of the other one.

    Returns
    -------
    is_on_grid : bool

    Raises
    ------
    ValueError
        If the two do not overlap.

    Examples
    --------
    >>> grid = (4, 5, 6), np.eye(4)
    >>> is_on_grid(Path("fa.nii.gz"), *grid, Path("csd.pam5"), *grid)
    True
    """
    grid_name = shown(grid_path)
    if shape == grid_shape and is_same_grid(affine, grid_affine):
        return True
    if not do_overlap(shape, affine, grid_shape, grid_affine):
        apart = describe_apart(
            corners_mm(shape, affine), corners_mm(grid_shape, grid_affine), grid_name
        )
        raise ValueError(
            f"{shown(path)} does not overlap with {grid_name}: it reaches over {apart}"
        )
    sizes = (
        " x ".join(f"{size:.3g}" for size in voxel_sizes(each))
        for each in (affine, grid_affine)
    )
    logger.info(
        f"{shown(path)} is on its own grid ({next(sizes)} mm), and {grid_name} on "
        f"another ({next(sizes)} mm). Positions in mm are compared."
    )
    if shape == grid_shape:
        logger.warning(
            f"{shown(path)} has as many voxels as {grid_name}, but another affine. "
            "Check that both headers are right."
        )
    return False


def load_on_grid(
    path: Path,
    grid_path: Path,
    grid_shape: tuple[int, ...],
    grid_affine: FloatArray,
    *,
    is_nearest: bool = False,
) -> AnyArray:
    """Load a NIfTI image as an array on the grid of another image.

    Parameters
    ----------
    path : Path
    grid_path, grid_shape, grid_affine : Path, tuple of int, ndarray of shape (4, 4)
        Of the other image.
    is_nearest : bool, optional
        As for :func:`sample_on_grid`, which is used if the grids differ.

    Returns
    -------
    data : ndarray
        Of the shape of the other image.

    Raises
    ------
    ValueError
        If the file cannot be read as an image of three axes, if the two do not overlap,
        or if an image that is interpolated holds infinity.
    """
    data, affine = load_volume(path)
    if not is_nearest:
        check_finite(path, data, "They count as voxels without data.")
    grid = grid_shape, grid_affine
    if is_on_grid(path, data.shape, affine, grid_path, *grid):
        return data
    logger.info(f"{shown(path)} is sampled at the voxel centres of {shown(grid_path)}.")
    return sample_on_grid(data, affine, *grid, is_nearest=is_nearest)


def sample_on_grid(
    data: AnyArray,
    affine: FloatArray,
    grid_shape: tuple[int, ...],
    grid_affine: FloatArray,
    *,
    is_nearest: bool = False,
) -> AnyArray:
    """Take the values of an image at the voxel centres of another grid.

    Parameters
    ----------
    data : ndarray of shape (X, Y, Z)
    affine : ndarray of shape (4, 4)
        Voxel to mm, of `data`.
    grid_shape, grid_affine : tuple of int, ndarray of shape (4, 4)
        Of the other grid.
    is_nearest : bool, optional
        If True, take the value of the nearest voxel (masks and labels). If False,
        interpolate linearly.

    Returns
    -------
    values : ndarray
        Of the shape of the other grid; 0 outside of `data`.

    Examples
    --------
    >>> finer = np.diag([0.5, 1, 1, 1])
    >>> data = np.arange(3.0).reshape(3, 1, 1)
    >>> sample_on_grid(data, np.eye(4), (6, 1, 1), finer).ravel().tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0, 0.0]
    """
    from scipy.ndimage import map_coordinates

    voxels = np.indices(grid_shape, np.float64).reshape(3, -1).T
    points_vox = map_points(voxels, np.linalg.inv(affine) @ grid_affine)
    inside = is_inside(points_vox, data.shape)
    values = np.zeros(len(voxels), data.dtype if is_nearest else np.float64)
    # The border rule of sampling.interpolate: values are clamped in the outer half of a
    # border voxel.
    values[inside] = map_coordinates(
        data,
        points_vox[inside].T,
        values.dtype,
        order=0 if is_nearest else 1,
        mode="nearest",
    )
    return values.reshape(grid_shape)


def save_volume(path: Path, data: AnyArray, affine: FloatArray) -> None:
    """Save a NIfTI image.

    Parameters
    ----------
    path : Path
        Ends in ``.nii`` or ``.nii.gz``. An existing file is replaced when the image is
        complete.
    data : ndarray of shape (X, Y, Z)
    affine : ndarray of shape (4, 4)
        Voxel to mm.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "counts.nii.gz"
    >>> save_volume(path, np.ones((2, 2, 2), np.int32), np.eye(4))
    >>> load_volume(path)[0].shape
    (2, 2, 2)
    """
    from dipy.io.image import save_nifti

    with atomic_write(path) as partial:
        save_nifti(str(partial), data, affine)
