"""Loading the files of one subject: fODF, stopping image, seeds and tissue maps."""

from __future__ import annotations

from dataclasses import dataclass
import logging
from pathlib import Path
from typing import TYPE_CHECKING
import warnings

import numpy as np

from dipy_rnn._typing import AnyArray, BoolArray, FloatArray
from dipy_rnn.io.files import check_is_file, first_line, shown
from dipy_rnn.io.fodf import load_features
from dipy_rnn.io.images import (
    check_finite,
    check_same_grid,
    is_on_grid,
    load_mask,
    load_volume,
    sample_on_grid,
)
from dipy_rnn.spatial import (
    check_affine,
    corners_mm,
    describe_apart,
    describe_outside,
    is_inside,
    to_mm,
    to_voxels,
)

if TYPE_CHECKING:
    from dipy_rnn.sampling import FeatureVolume
    from dipy_rnn.stopping import StoppingCriterion, Tissues

logger = logging.getLogger("dipy")  # DIPY's commands show and save its messages

# Suffixes of text files with seeds, and what separates their columns.
_SEPARATORS = {
    ".txt": (None, "spaces"),
    ".csv": (",", "commas"),
    ".tsv": ("\t", "tabs"),
}
POINT_SUFFIXES = (*_SEPARATORS, ".npy")  # suffixes of lists of seeds


@dataclass(frozen=True, eq=False)
class TrackingInputs:
    """The fODF, the stopping image and the seeds of a subject.

    Each image may be on a grid of its own. If an image is on the grid of the fODF, its
    affine is `affine`.

    Parameters
    ----------
    features : dipy_rnn.sampling.FeatureVolume
    affine : ndarray of shape (4, 4)
        Voxel to mm, of `features`.
    stopping : ndarray of shape (X, Y, Z) or (X, Y, Z, T)
    stopping_affine : ndarray of shape (4, 4)
        Voxel to mm, of `stopping`.
    seeding : ndarray of shape (X, Y, Z) or (N, 3)
        A mask, or a list of seeds in mm.
    seeding_affine : ndarray of shape (4, 4)
        Voxel to mm, of a mask.
    """

    features: FeatureVolume
    affine: FloatArray
    stopping: AnyArray
    stopping_affine: FloatArray
    seeding: AnyArray
    seeding_affine: FloatArray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels of the fODF along each axis."""
        x, y, z, _ = self.features.data.shape
        return x, y, z

    def on_fodf_grid(self, criterion: StoppingCriterion) -> StoppingCriterion:
        """Return a criterion for points in voxels of the fODF.

        Parameters
        ----------
        criterion : dipy_rnn.stopping.StoppingCriterion
            Made from `stopping`. It is returned unchanged if `stopping` is on the grid
            of the fODF.

        Returns
        -------
        criterion : dipy_rnn.stopping.StoppingCriterion
        """
        from dipy_rnn.stopping import OwnGridCriterion

        if self.stopping_affine is self.affine:
            return criterion
        return OwnGridCriterion(
            criterion, self.stopping_affine, self.affine, self.shape
        )

    def stopping_on_fodf_grid(self, *, is_nearest: bool = False) -> AnyArray:
        """Return the stopping image on the grid of the fODF, for trackers of DIPY.

        DIPY's trackers do not call criteria that are written in Python, such as
        :class:`dipy_rnn.stopping.OwnGridCriterion`.

        Parameters
        ----------
        is_nearest : bool, optional
            If True, take the value of the nearest voxel. If False, interpolate.

        Returns
        -------
        stopping : ndarray of shape (X, Y, Z)
            `stopping` itself if it is on this grid. Otherwise its values at the voxel
            centres of the fODF (:func:`dipy_rnn.io.sample_on_grid`).
        """
        if self.stopping_affine is self.affine:
            return self.stopping
        logger.info(
            "The stopping image is sampled at the voxel centres of the fODF, because "
            "DIPY's trackers need one grid. All trackers use these values."
        )
        return sample_on_grid(
            self.stopping,
            self.stopping_affine,
            self.shape,
            self.affine,
            is_nearest=is_nearest,
        )


def load_subject(
    pam_path: Path,
    stopping_path: Path,
    seeding_path: Path,
    kind: str,
    sh_format: tuple[str | None, str],
    *,
    n_stopping_axes: int = 3,
) -> TrackingInputs:
    """Load the inputs of tracking, and check that they overlap.

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
    inputs : TrackingInputs

    Raises
    ------
    ValueError
        If a file cannot be read, if the stopping image or a mask holds infinity, if an
        image does not overlap with the fODF, or if all seeds are outside the image of
        the fODF. Also if the stopping image is on another grid and the fODF has no
        affine.
    """
    features, pam_affine = load_features(pam_path, kind, *sh_format)
    wanted = ""
    if n_stopping_axes == 4:
        wanted = (
            ": an image of tissues, either a 5TT image of MRtrix3 or three volumes "
            "(csf, gm, wm); or give three maps, with gm_files and csf_files"
        )
    stopping, stopping_affine = load_volume(
        stopping_path, n_stopping_axes, wanted=wanted
    )
    if n_stopping_axes == 3:
        check_finite(stopping_path, stopping, "Streamlines stop there.")
    shape = features.data.shape[:3]
    if pam_affine is None:
        check_same_grid(
            stopping_path,
            stopping.shape[:3],
            stopping_affine,
            pam_path,
            shape,
            pam_affine,
        )
        pam_affine = stopping_affine
    pam_affine = check_affine(pam_affine, f"the affine of {shown(pam_path)}")
    # Affines that differ by rounding only are of one grid: that of the stopping image.
    affine = stopping_affine
    own_grid = stopping_path, stopping.shape[:3], stopping_affine
    if not is_on_grid(*own_grid, pam_path, shape, pam_affine):
        affine = pam_affine
    if seeding_path.suffix.lower() in POINT_SUFFIXES:
        seeds_mm = load_points(seeding_path)
        n_outside, text = describe_outside(seeds_mm, affine, shape)
        if n_outside == len(seeds_mm):
            raise ValueError(f"Of the seeds in {shown(seeding_path)}, {text}")
        if n_outside:
            logger.warning(f"Of the seeds in {shown(seeding_path)}, {text}")
        if affine is not stopping_affine:
            _check_in_stopping_image(seeding_path, seeds_mm, *own_grid)
        return TrackingInputs(
            features, affine, stopping, stopping_affine, seeds_mm, affine
        )
    mask, mask_affine = load_mask(seeding_path, "seeded")
    if is_on_grid(seeding_path, mask.shape, mask_affine, pam_path, shape, affine):
        mask_affine = affine
    else:
        check_inside(seeding_path, mask, mask_affine, shape, affine)
    if affine is not stopping_affine:
        centres_mm = to_mm(np.argwhere(mask > 0), mask_affine)
        _check_in_stopping_image(seeding_path, centres_mm, *own_grid)
    return TrackingInputs(
        features, affine, stopping, stopping_affine, mask, mask_affine
    )


def check_inside(
    path: Path,
    mask: AnyArray,
    mask_affine: FloatArray,
    shape: tuple[int, ...],
    affine: FloatArray,
) -> None:
    """Raise ValueError if no voxel of a mask has its centre in the image of the fODF.

    Parameters
    ----------
    path : Path
        Of the mask, for the message.
    mask : ndarray of shape (X, Y, Z)
        Voxels above 0 are in the mask. An empty mask is not an error here.
    mask_affine : ndarray of shape (4, 4)
        Voxel to mm, of the mask.
    shape, affine : tuple of 3 int, ndarray of shape (4, 4)
        Of the fODF.

    Examples
    --------
    >>> mask = np.zeros((9, 9, 9))
    >>> mask[2, 2, 2] = 1
    >>> check_inside(Path("roi.nii"), mask, np.eye(4), (4, 4, 4), np.eye(4))
    >>> check_inside(Path("roi.nii"), mask, np.eye(4), (2, 2, 2), np.eye(4))
    Traceback (most recent call last):
    ValueError: No voxel above 0 of roi.nii is in the image of the fODF: ...
    """
    centres_mm = to_mm(np.argwhere(mask > 0), mask_affine)
    if len(centres_mm) and not is_inside(to_voxels(centres_mm, affine), shape).any():
        apart = describe_apart(centres_mm, corners_mm(shape, affine))
        raise ValueError(
            f"No voxel above 0 of {shown(path)} is in the image of the fODF: they "
            f"reach over {apart}"
        )


def _check_in_stopping_image(
    path: Path,
    points_mm: FloatArray,
    stopping_path: Path,
    shape: tuple[int, ...],
    affine: FloatArray,
) -> None:
    """Warn if seeds, or centres of seed voxels, are outside of the stopping image.

    Raise ValueError if all of them are.
    """
    inside = is_inside(to_voxels(points_mm, affine), shape)
    if inside.all():
        return
    n_outside = np.count_nonzero(~inside)
    where = f"outside of the stopping image {shown(stopping_path)}"
    if n_outside == len(points_mm):
        apart = describe_apart(
            points_mm, corners_mm(shape, affine), "the stopping image"
        )
        raise ValueError(
            f"All seeds of {shown(path)} are {where}: they reach over {apart}"
        )
    logger.warning(
        f"{n_outside} of {len(points_mm)} seeds or voxels of {shown(path)} are {where}."
        " No streamline starts there."
    )


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
        image = _without_nan_voxels(stopping, stopping_path)
        return Tissues.from_image(image, name=str(stopping_path))
    assert csf_path is not None, "gm_path is given without csf_path"
    maps = [stopping]
    for path in (gm_path, csf_path):
        data, other = load_volume(path)
        check_same_grid(stopping_path, stopping.shape, affine, path, data.shape, other)
        maps.append(data)
    wm, gm, csf = np.moveaxis(
        _without_nan_voxels(np.stack(maps, axis=-1), stopping_path), -1, 0
    )
    return Tissues(wm, gm, csf)


def _without_nan_voxels(volumes: AnyArray, path: Path) -> AnyArray:
    """Set voxels to zero in which all volumes (X, Y, Z, T) are NaN, and log it.

    Programs that resample images write such voxels outside of the brain.
    """
    is_empty: BoolArray = np.asarray(np.isnan(volumes).all(axis=-1))
    if not is_empty.any():
        return volumes
    logger.warning(
        f"{shown(path)} holds NaN in {np.count_nonzero(is_empty)} of {is_empty.size} "
        "voxels. They count as voxels without tissue."
    )
    return np.where(is_empty[..., None], 0, volumes)


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
            delimiter, _ = _SEPARATORS[suffix]
            with warnings.catch_warnings():  # NumPy warns of empty files
                warnings.simplefilter("ignore", UserWarning)
                # Excel marks UTF-8 files by a first character, which -sig removes.
                points = np.loadtxt(
                    path, delimiter=delimiter, ndmin=2, encoding="utf-8-sig"
                )
    except Exception as error:  # damaged files raise many kinds of error
        how = ""
        if suffix in _SEPARATORS:
            how = f", separated by {_SEPARATORS[suffix][1]}, and # before a header"
        raise ValueError(
            f"{shown(path)} cannot be read as a list of seeds ({first_line(error)}); "
            f"give x, y and z in mm in each row{how}."
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
