"""Loading the files of one subject: fODF, stopping image, seeds and tissue maps."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING
import warnings

import numpy as np

from dipy_rnn._typing import AnyArray, FloatArray
from dipy_rnn.io.files import check_is_file, first_line, shown
from dipy_rnn.io.fodf import load_features
from dipy_rnn.io.images import check_same_grid, load_volume
from dipy_rnn.spatial import describe_outside

if TYPE_CHECKING:
    from dipy_rnn.sampling import FeatureVolume
    from dipy_rnn.stopping import Tissues

logger = logging.getLogger("dipy")  # DIPY's commands show and save its messages

POINT_SUFFIXES = (".txt", ".csv", ".tsv", ".npy")  # suffixes of lists of seeds


def load_subject(
    pam_path: Path,
    stopping_path: Path,
    seeding_path: Path,
    kind: str,
    sh_format: tuple[str | None, str],
    *,
    n_stopping_axes: int = 3,
) -> tuple[FeatureVolume, AnyArray, AnyArray, FloatArray]:
    """Load the inputs of tracking, and check that they are on the same grid.

    Parameters
    ----------
    pam_path, stopping_path, seeding_path : Path
        fODF, stopping image, and seeding mask or list of seeds.
    kind : str
        As for :func:`dipy_rnn.io.load_features`.
    sh_format : tuple of (str or None, str)
        ``sh_basis`` and ``sh_frame`` of :func:`dipy_rnn.io.load_features`.
    n_stopping_axes : int, optional
        Number of axes of the stopping image: 3, or 4 for an image of all tissues.

    Returns
    -------
    features : dipy_rnn.sampling.FeatureVolume
    stopping : ndarray of shape (X, Y, Z) or (X, Y, Z, T)
    seeding : ndarray of shape (X, Y, Z) or (N, 3)
        A mask, or a list of seeds in mm.
    affine : ndarray of shape (4, 4)
        Voxel to mm.

    Raises
    ------
    ValueError
        If a file cannot be read, or is on another grid than the stopping image, or all
        seeds of a list are outside the image.
    """
    features, pam_affine = load_features(pam_path, kind, *sh_format)
    wanted = ""
    if n_stopping_axes == 4:
        wanted = (
            ": an image of tissues, either a 5TT image of MRtrix3 or three volumes "
            "(csf, gm, wm); or give three maps, with gm_files and csf_files"
        )
    stopping, affine = load_volume(stopping_path, n_stopping_axes, wanted=wanted)
    grid = stopping_path, stopping.shape[:3], affine
    check_same_grid(*grid, pam_path, features.data.shape[:3], pam_affine)
    if seeding_path.suffix.lower() in POINT_SUFFIXES:
        seeds_mm = load_points(seeding_path)
        n_outside, text = describe_outside(seeds_mm, affine, stopping.shape[:3])
        if n_outside == len(seeds_mm):
            raise ValueError(f"Of the seeds in {shown(seeding_path)}, {text}")
        if n_outside:
            logger.warning(f"Of the seeds in {shown(seeding_path)}, {text}")
        return features, stopping, seeds_mm, affine
    mask, mask_affine = load_volume(seeding_path)
    check_same_grid(*grid, seeding_path, mask.shape, mask_affine)
    if not ((mask == 0) | (mask == mask.max())).all():
        logger.warning(
            f"{shown(seeding_path)} is not a binary mask: its values are from "
            f"{mask.min():g} to {mask.max():g}. Voxels above 0 are seeded."
        )
    return features, stopping, mask, affine


def load_tissues(
    stopping_path: Path,
    stopping: AnyArray,
    affine: FloatArray,
    gm_path: Path | None = None,
    csf_path: Path | None = None,
) -> Tissues:
    """Make tissue maps from one image of all tissues, or from three maps.

    Parameters
    ----------
    stopping_path : Path
    stopping : ndarray of shape (X, Y, Z, T) or (X, Y, Z)
        If the other two maps are given, the map of white matter. Otherwise an image of
        all tissues: the five of MRtrix3's 5TT images, or three partial volumes in the
        order cerebrospinal fluid, grey matter, white matter. A partial volume is the
        share of a tissue in the voxel, from 0 to 1.
    affine : ndarray of shape (4, 4)
        Voxel to mm, of `stopping`.
    gm_path, csf_path : Path, optional
        Maps of grey matter and cerebrospinal fluid. Give both or none.

    Returns
    -------
    tissues : dipy_rnn.stopping.Tissues

    Raises
    ------
    ValueError
        If a file cannot be read, is on another grid, or does not contain partial
        volumes.
    """
    from dipy_rnn.stopping import Tissues

    if gm_path is None:
        return Tissues.from_image(stopping, name=str(stopping_path))
    assert csf_path is not None, "gm_path is given without csf_path"
    maps = []
    for path in (gm_path, csf_path):
        data, other = load_volume(path)
        check_same_grid(stopping_path, stopping.shape, affine, path, data.shape, other)
        maps.append(data)
    return Tissues(stopping, *maps)


def load_points(path: Path) -> FloatArray:
    """Load a list of seeds.

    Parameters
    ----------
    path : Path
        A text file with x, y and z in mm in each row, or a NumPy array (``.npy``).
        Columns are separated by commas (``.csv``), tabs (``.tsv``) or spaces; ``#``
        starts a comment.

    Returns
    -------
    points_mm : ndarray of shape (N, 3)

    Raises
    ------
    ValueError
        If the file cannot be read, the array has another shape or no rows, or a number
        is not finite.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "seeds.csv"
    >>> _ = path.write_text("1,2,3\\n4,5,6\\n")
    >>> load_points(path).tolist()
    [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    """
    from dipy_rnn._checks import as_points, check_numbers

    check_is_file(path)
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            # A memory map takes no memory for an array longer than its file.
            points = np.load(path, mmap_mode="r", allow_pickle=False)
            points = check_numbers(points, "the array").astype(np.float64)
        else:
            delimiter = {".csv": ",", ".tsv": "\t"}.get(suffix)
            with warnings.catch_warnings():  # NumPy warns of empty files
                warnings.simplefilter("ignore", UserWarning)
                points = np.loadtxt(path, delimiter=delimiter, ndmin=2)
    except Exception as error:  # damaged files raise many kinds of error
        raise ValueError(
            f"{shown(path)} cannot be read as a list of seeds ({first_line(error)}); "
            "give x, y and z in mm in each row."
        ) from None
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise ValueError(
            f"{shown(path)} is a list of seeds of shape {points.shape}; give x, y and "
            "z in mm in each row."
        )
    if not np.isfinite(points).all():
        raise ValueError(
            f"{shown(path)} contains NaN or infinity; seeds in mm are needed."
        )
    return as_points(points, shown(path))
