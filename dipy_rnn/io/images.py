"""What the commands read: fODFs, images, and whether they lie on one grid.

What takes long to import is imported where it is used, so that a help text does not
wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from glob import escape, glob
import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast
import warnings
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from dipy_rnn._typing import AnyArray, AnyPath, FloatArray
from dipy_rnn.sh import SH_FRAMES

if TYPE_CHECKING:
    from dipy.direction.peaks import PeaksAndMetrics
    from nibabel.spatialimages import SpatialImage

    from dipy_rnn.sh import FeatureVolume
    from dipy_rnn.stopping import StoppingCriterion
    from dipy_rnn.tissues import Tissues

logger = logging.getLogger("dipy")  # whose messages DIPY shows and files

#: Files of an option: a path or a pattern, or many of them.
Files: TypeAlias = str | Path | list[str]

POINT_SUFFIXES = (".txt", ".csv", ".tsv", ".npy")  # of lists of seeds
_RESAMPLE = (
    "resample one onto the other's grid (nibabel.processing.resample_from_to, or "
    "mrgrid of MRtrix3)."
)
# deflate makes at most this of a byte: 258 bytes take two bits.
_MOST_COMPRESSED = 1032
SH_BASES = (
    "descoteaux07_legacy",
    "descoteaux07",
    "tournier07_legacy",
    "tournier07",
)


def check_sh_format(sh_basis: str | None, sh_frame: str) -> None:
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


def check_least(name: str, value: float, least: float) -> None:
    """Refuse a number that is too small, infinite or NaN.

    Parameters
    ----------
    name : str
        Of the option.
    value, least : float

    Raises
    ------
    ValueError

    Examples
    --------
    >>> check_least("seed_count", 3, 0)
    >>> check_least("seed_count", -3, 0)
    Traceback (most recent call last):
    ValueError: seed_count is -3; 0 or more is needed.
    """
    if not least <= value < math.inf:  # written so that NaN is refused
        raise ValueError(f"{name} is {value}; {least} or more is needed.")


def find_files(files: Files, name: str) -> list[Path]:
    """Find the files of an option.

    Parameters
    ----------
    files : str or Path, or list of str
        A file, whatever its name; a folder, for all files in it; or a pattern.
    name : str
        Of the option.

    Returns
    -------
    paths : list of Path
        Sorted by the parts of the paths, as DIPY does since 1.12.

    Raises
    ------
    FileNotFoundError
        If there is none.

    Examples
    --------
    >>> find_files("nothing-*.pam5", "pam_files")
    Traceback (most recent call last):
    FileNotFoundError: pam_files is nothing-*.pam5, which matches no file.
    """
    if isinstance(files, list):
        return [path for each in files for path in find_files(each, name)]
    if os.path.isfile(files):
        return [Path(files)]
    pattern = str(files)
    if os.path.isdir(files):
        pattern = os.path.join(escape(pattern), "*")
    paths = sorted(map(Path, glob(pattern)))
    if not paths:
        raise FileNotFoundError(f"{name} is {files}, which matches no file.")
    return paths


def pair_files(**inputs: Files) -> list[list[str]]:
    """Find the files of all subjects, in one order.

    Parameters
    ----------
    **inputs : str or Path, or list of str
        Files of each input, by its name. One file alone is that of all subjects.

    Returns
    -------
    files : list of list of str
        Those of each input, of equal number. DIPY takes patterns, in an order that
        depends on its version: they are escaped, so that it finds these.

    Raises
    ------
    ValueError, FileNotFoundError
        If an input has no file, or there are not as many of each.
    """
    found = {name: find_files(files, name) for name, files in inputs.items()}
    n_subjects = max(map(len, found.values()))
    if any(len(paths) not in (1, n_subjects) for paths in found.values()):
        counts = ", ".join(f"{name} {len(paths)}" for name, paths in found.items())
        raise ValueError(
            f"The inputs match different numbers of files ({counts}); give one of each "
            "for every subject."
        )
    for name, paths in found.items():
        if len(paths) < n_subjects:
            logger.warning(f"{name} is {paths[0]} for all {n_subjects} subjects")
    return [
        [escape(str(path)) for path in paths * (n_subjects // len(paths))]
        for paths in found.values()
    ]


def load_features(
    path: Path, kind: str, sh_basis: str | None, sh_frame: str
) -> tuple[FeatureVolume, FloatArray | None]:
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
        return raw_features(data, name=shown(path)), affine
    if path.suffix.lower() == ".pam5":
        pam = load_pam(path, "shm_coeff", "affine", "B")
        if sh_frame != SH_FRAMES[0]:
            raise ValueError(
                f"sh_frame is {sh_frame}, but {path} is a peaks and metrics file, "
                "which is along the voxels; leave sh_frame out."
            )
        if sh_basis is None or pam.shm_coeff is None:
            return pam_features(pam, name=shown(path)), pam.affine
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
        name=shown(path),
    )
    return features, affine


def load_pam(path: Path, *names: str) -> PeaksAndMetrics:
    """Load the sphere of peaks and metrics, and what else is asked for.

    DIPY's load_pam loads everything, and the version: a string, and where those are in
    a file a flipped bit can lead HDF5 in a circle for ever.

    Parameters
    ----------
    path : Path
    *names : str
        Such as ``"shm_coeff"``.

    Returns
    -------
    pam : dipy.direction.peaks.PeaksAndMetrics
        What the file does not hold is None.

    Raises
    ------
    ValueError
        If it is no such file, or holds other than real numbers there.
    """
    from dipy.core.sphere import Sphere
    from dipy.direction.peaks import PeaksAndMetrics
    import h5py

    from dipy_rnn.spaces import check_affine

    def read(group: h5py.Group, name: str) -> AnyArray | None:
        if name not in group:
            return None
        data = group[name]
        if data.dtype.kind not in "biuf":
            raise ValueError(f"{name} is of type {data.dtype}, not of real numbers")
        _check_size(path, data.size * data.dtype.itemsize, data.compression, name)
        values: AnyArray = data[:]
        return values

    _check_is_file(path)
    pam = PeaksAndMetrics()
    try:
        with h5py.File(path, "r") as file:
            group = file["pam"]
            for name in names:
                setattr(pam, name, read(group, name))
            vertices = read(group, "sphere_vertices")
        if vertices is not None:
            pam.sphere = Sphere(xyz=vertices.astype(float))
    except Exception as error:  # HDF5 has its own for every way a file can be broken
        raise ValueError(
            f"{shown(path)} is no peaks and metrics file ({first_line(error)}); make "
            "it with dipy_fit_csd."
        ) from None
    if getattr(pam, "affine", None) is not None:
        pam.affine = check_affine(pam.affine, f"the affine of {shown(path)}")
    return pam


def load_volume(
    path: Path, n_axes: int = 3, *, wanted: str = ""
) -> tuple[AnyArray, FloatArray]:
    """Load a NIfTI image with a given number of axes.

    Parameters
    ----------
    path : Path
    n_axes : int, optional
    wanted : str, optional
        What an image with other axes might have been meant to be.

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
    import nibabel as nib

    from dipy_rnn.spaces import check_affine, check_numbers

    _check_is_file(path)
    try:
        # What a header claims may be more than the machine's memory.
        image = cast("SpatialImage", nib.load(path))  # what is none fails below
        on_disk = image.file_map.get("image") or image.file_map["header"]
        name = str(on_disk.filename)
        _check_size(
            name,
            math.prod(image.shape) * image.get_data_dtype().itemsize,
            not name.lower().endswith((".nii", ".img")),
        )
        with np.errstate(all="ignore"):  # scaled beyond its type, it is infinite
            data, affine = load_nifti(path)
    except Exception as error:  # nibabel passes on what zlib, struct and others raise
        raise ValueError(
            f"{shown(path)} is no readable NIfTI image ({first_line(error)})."
        ) from None
    affine = check_affine(affine, f"the affine of {shown(path)}")
    data = check_numbers(data, shown(path))
    if not data.size:
        raise ValueError(f"{shown(path)} has no voxel: its shape is {data.shape}.")
    if data.ndim == n_axes + 1 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != n_axes:
        raise ValueError(
            f"{shown(path)} has {data.ndim} axes {data.shape}; an image with {n_axes} "
            f"is needed here{wanted}."
        )
    return data, affine


def load_subject(
    pam_path: Path,
    stopping_path: Path,
    seeding_path: Path,
    kind: str,
    sh_format: tuple[str | None, str],
    *,
    n_stopping_axes: int = 3,
) -> tuple[FeatureVolume, AnyArray, AnyArray, FloatArray]:
    """Load what tracking takes, and refuse what does not lie on one grid.

    Parameters
    ----------
    pam_path, stopping_path, seeding_path : Path
    kind : str
        As for :func:`load_features`.
    sh_format : tuple of (str or None, str)
        ``sh_basis`` and ``sh_frame``.
    n_stopping_axes : int, optional
        4 for an image of tissues.

    Returns
    -------
    features : dipy_rnn.sh.FeatureVolume
    stopping : ndarray of shape (X, Y, Z) or (X, Y, Z, T)
    seeding : ndarray of shape (X, Y, Z) or (N, 3)
        A mask, or a list of seeds in mm.
    affine : ndarray of shape (4, 4)

    Raises
    ------
    ValueError
        If a file cannot be read, or lies on another grid than the stopping image.
    """
    features, pam_affine = load_features(pam_path, kind, *sh_format)
    wanted = ""
    if n_stopping_axes == 4:
        wanted = (
            ": of tissues, as MRtrix3's 5ttgen or with three volumes (csf, gm, wm); or "
            "give three maps, with gm_files and csf_files"
        )
    stopping, affine = load_volume(stopping_path, n_stopping_axes, wanted=wanted)
    grid = stopping_path, stopping.shape[:3], affine
    check_same_grid(*grid, pam_path, features.data.shape[:3], pam_affine)
    if seeding_path.suffix.lower() in POINT_SUFFIXES:
        return features, stopping, load_points(seeding_path), affine
    mask, mask_affine = load_volume(seeding_path)
    check_same_grid(*grid, seeding_path, mask.shape, mask_affine)
    if not ((mask == 0) | (mask == mask.max())).all():
        logger.warning(
            f"{shown(seeding_path)} is no mask: it has values from {mask.min():g} to "
            f"{mask.max():g}. Seeds go wherever it is above 0."
        )
    return features, stopping, mask, affine


def load_tissues(
    stopping_path: Path,
    stopping: AnyArray,
    affine: FloatArray,
    gm_path: Path | None = None,
    csf_path: Path | None = None,
) -> Tissues:
    """Make tissues of an image of all of them, or of three maps.

    Parameters
    ----------
    stopping_path : Path
    stopping : ndarray of shape (X, Y, Z, T) or (X, Y, Z)
        An image of all tissues, or the map of white matter.
    affine : ndarray of shape (4, 4)
        Of that image.
    gm_path, csf_path : Path, optional
        Maps of the other two: both or none.

    Returns
    -------
    tissues : dipy_rnn.tissues.Tissues

    Raises
    ------
    ValueError
        If a file cannot be read, lies on another grid, or holds no shares of tissues.
    """
    from dipy_rnn.tissues import Tissues

    if gm_path is None:
        return Tissues.from_image(stopping, name=str(stopping_path))
    assert csf_path is not None, "a map of grey matter needs one of fluid"
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
        A text file with x, y and z in mm in each row, apart by blanks, commas
        (``.csv``) or tabs (``.tsv``), where ``#`` begins a comment; or a NumPy array.

    Returns
    -------
    points_mm : ndarray of shape (N, 3)

    Raises
    ------
    ValueError
        If it cannot be read, or has another shape, or is not finite.
    """
    from dipy_rnn.spaces import check_numbers, check_points

    _check_is_file(path)
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            # Mapped, an array that is longer than its file takes no memory.
            points = np.load(path, mmap_mode="r", allow_pickle=False)
            points = check_numbers(points, "the array").astype(np.float64)
        else:
            delimiter = {".csv": ",", ".tsv": "\t"}.get(suffix)
            with warnings.catch_warnings():  # of empty files: refused below
                warnings.simplefilter("ignore", UserWarning)
                points = np.loadtxt(path, delimiter=delimiter, ndmin=2)
    except Exception as error:  # whatever comes of a file that is none
        raise ValueError(
            f"{shown(path)} is no readable list of seeds ({first_line(error)}); give "
            "x, y and z in mm in each row."
        ) from None
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise ValueError(
            f"{shown(path)} is a list of seeds of shape {points.shape}; give x, y and "
            "z in mm in each row."
        )
    if not np.isfinite(points).all():
        raise ValueError(
            f"{shown(path)} holds NaN or infinity; seeds in mm are needed."
        )
    return check_points(points, shown(path))


def match_files(files: Files, n_subjects: int, name: str) -> list[Path]:
    """Find the files of an option that has one for each subject.

    Parameters
    ----------
    files : str or Path, or list of str
        As for :func:`find_files`.
    n_subjects : int
    name : str
        Of the option, for errors.

    Returns
    -------
    paths : list of Path
        In the order of :func:`pair_files`.

    Raises
    ------
    ValueError, FileNotFoundError
        If it does not match one file for each subject.
    """
    paths = find_files(files, name)
    if len(paths) != n_subjects:
        raise ValueError(
            f"{name} is {files}, which matches {len(paths)} files for {n_subjects} "
            "subjects; give one for each."
        )
    return paths


def check_same_grid(
    path: Path,
    shape: tuple[int, ...],
    affine: FloatArray,
    other_path: Path,
    other_shape: tuple[int, ...],
    other_affine: FloatArray | None,
) -> None:
    """Refuse images that do not lie on one grid.

    Parameters
    ----------
    path, shape, affine : Path, tuple of int, ndarray of shape (4, 4)
        Of an image.
    other_path, other_shape, other_affine : Path, tuple of int, ndarray of shape (4, 4)
        Of another one, whose affine may be None: not known.

    Raises
    ------
    ValueError
        If the shapes or the affines differ; it names both files.
    """
    if shape != other_shape:
        raise ValueError(
            f"{other_path} has the shape {other_shape} and {path} {shape}; {_RESAMPLE}"
        )
    if other_affine is not None and not np.allclose(affine, other_affine, atol=1e-3):
        raise ValueError(f"{other_path} and {path} have different affines; {_RESAMPLE}")


def make_criterion(
    image: AnyArray, use_binary_mask: bool, stopping_thr: float
) -> StoppingCriterion:
    """Make the stopping criterion that dipy_track makes.

    Parameters
    ----------
    image : ndarray of shape (X, Y, Z)
    use_binary_mask : bool
    stopping_thr : float

    Returns
    -------
    criterion : dipy_rnn.stopping.StoppingCriterion
    """
    from dipy_rnn.stopping import BinaryStoppingCriterion, ThresholdStoppingCriterion

    if use_binary_mask:
        return BinaryStoppingCriterion(image > stopping_thr)
    return ThresholdStoppingCriterion(image, stopping_thr)


def read_tractogram(
    path: Path, *, check_points: bool = True
) -> Iterator[tuple[AnyArray, dict[str, AnyArray]]]:
    """Read the streamlines of a tractogram; they are never all in memory.

    Parameters
    ----------
    path : Path
        Ends in one of ``SUFFIXES``.
    check_points : bool, optional
        Whether to refuse points that are not finite, or too far away to be in a head.

    Yields
    ------
    streamline : ndarray of shape (M, 3)
        In mm.
    values : dict of str to ndarray
        What the file holds for the streamline, such as its ``"seeds"`` in mm.

    Raises
    ------
    ValueError
        If it is no readable tractogram.
    """
    from nibabel.streamlines import load

    checked: Callable[[AnyArray], AnyArray]
    checked = _check_streamline if check_points else np.asarray
    _check_is_file(path)
    try:
        if path.suffix.lower() == ".trx":
            from trx.trx_file_memmap import load as load_trx

            _check_zip(path)
            trx = load_trx(str(path))
            try:
                values = trx.data_per_streamline
                for i, line in enumerate(trx.streamlines):
                    yield (
                        checked(np.array(line)),
                        {name: np.array(each[i]) for name, each in values.items()},
                    )
            finally:
                trx.close()
        else:
            file = load(path, lazy_load=True)
            tractogram = file.tractogram
            # The items themselves are not yet in mm.
            for line, item in zip(tractogram.streamlines, tractogram, strict=True):
                yield checked(line), dict(item.data_for_streamline)
    except Exception as error:  # the readers check little of what they take from a file
        raise ValueError(
            f"{shown(path)} is no readable tractogram ({first_line(error)})."
        ) from None


def _check_is_file(path: Path) -> None:
    """Refuse what cannot be read from its beginning again, such as a pipe."""
    if not path.is_file():
        raise ValueError(
            f"{shown(path)} is no file; a folder or a pipe cannot be read."
        )


def _check_size(
    path: AnyPath, n_bytes: int, is_compressed: bool, what: str = "it"
) -> None:
    """Refuse a file that claims to hold more than it can, before memory is taken."""
    n_most = os.path.getsize(path) * (_MOST_COMPRESSED if is_compressed else 1)
    if n_bytes > n_most:
        raise ValueError(f"{what} should take {n_bytes} bytes; the file is shorter")


def _check_zip(path: Path) -> None:
    """Refuse a zip file that is damaged: trx-python opens it to be written to."""
    with ZipFile(path) as archive:
        for entry in archive.infolist():
            is_compressed = entry.compress_type != ZIP_STORED
            if not is_compressed and entry.file_size != entry.compress_size:
                raise ValueError(f"{entry.filename} has two sizes")
            _check_size(path, entry.file_size, is_compressed, entry.filename)
        damaged = archive.testzip()
        if damaged:
            raise ValueError(f"the checksum of {damaged} is wrong")


def _check_streamline(points_mm: AnyArray) -> AnyArray:
    from dipy_rnn.spaces import FARTHEST_MM

    # Written so that NaN is refused.
    if len(points_mm) and not np.abs(points_mm).max() <= FARTHEST_MM:
        raise ValueError(f"a point is not finite, or farther than {FARTHEST_MM:g} mm")
    return points_mm


def shown(path: AnyPath) -> str:
    """Return a path, or a text with one, as a line that any terminal takes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))


def one_line(error: Exception) -> str:
    """Return an error as one line: its text, or its name where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: Exception) -> str:
    """Return the first line of an error, or its name where it says nothing."""
    return shown((str(error).strip() or type(error).__name__).splitlines()[0])
