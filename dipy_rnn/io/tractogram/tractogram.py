"""Tractogram files in all formats of DIPY, written and read in batches of streamlines.

`write_tractogram` takes streamlines one after the other, and `write_batches` takes
arrays of many streamlines. They hold one batch, so memory does not grow with the number
of streamlines, except for VTK and DPY files. `read_tractogram` yields one streamline at
a time.

nibabel writes and reads ``.trk`` and ``.tck``; :mod:`dipy_rnn.io.tractogram.trx` does
so for ``.trx``, and :mod:`dipy_rnn.io.tractogram.vtk_dpy` for the other formats.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from numbers import Integral
from pathlib import Path
import re
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from dipy_rnn import _checks, spatial
from dipy_rnn._atomic import atomic_write
from dipy_rnn._typing import AnyArray, AnyPath, ArrayLike, BoolArray, FloatArray
from dipy_rnn.io.files import (
    SUFFIXES,
    VTK_SUFFIXES,
    check_distance,
    check_is_file,
    first_line,
    is_trx_folder,
    shown,
)
from dipy_rnn.io.tractogram.batches import join_streamlines, split_batches
from dipy_rnn.io.tractogram.trx import Batch, DataTypes, read_trx, write_trx
from dipy_rnn.io.tractogram.vtk_dpy import (
    check_can_use_vtk,
    read_dpy,
    read_vtk,
    write_dpy,
    write_vtk,
)

# Readers convert points to voxels in single precision, and round the affine to it.
_BORDER_VOX = 1e-4
# A .trk file has 20 bytes for a name, the number of its values and a separator.
_MAX_NAME_LENGTH = 20


def check_format(
    path: AnyPath,
    *,
    data_types: DataTypes | None = None,
    dtype: DTypeLike = np.float32,
    name: str = "path",
) -> None:
    """Raise ValueError if a tractogram file cannot hold the given data.

    Parameters
    ----------
    path : str or Path
    data_types, dtype
        See :func:`write_tractogram`.
    name : str, optional
        Name of `path` in error messages.

    Raises
    ------
    ValueError
        If `path` ends in none of ``SUFFIXES``, or if its format cannot store values
        or positions of these types. If it is a VTK file and fury is not installed.

    Notes
    -----
    Suffixes in capitals (``.TRK``) can be read but not written: DIPY and MRtrix3 would
    not open such files.

    Examples
    --------
    >>> check_format("a.trx", data_types={"seeds": (3, np.float32)})
    >>> check_format("a.trk", dtype=np.float16)
    Traceback (most recent call last):
    ValueError: path is a.trk: only .trx files store positions as float16; name a ...
    """
    suffix, dtype, data_types = Path(path).suffix, np.dtype(dtype), data_types or {}
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{name} is {path}; it must end in {', '.join(SUFFIXES)}, in lower case."
        )
    if suffix not in (".trx", ".trk") and data_types:
        raise ValueError(
            f"{name} is {path}: a {suffix} file cannot hold {', '.join(data_types)}; "
            "name a .trx or .trk file, or leave them out."
        )
    if dtype not in (np.float16, np.float32):
        raise ValueError(f"dtype is {dtype}; float32 or float16 is allowed.")
    if suffix != ".trx" and dtype == np.float16:
        raise ValueError(
            f"{name} is {path}: only .trx files store positions as float16; name a "
            ".trx file, or choose float32."
        )
    if suffix in VTK_SUFFIXES:
        check_can_use_vtk(Path(path), name)
    for key, (width, kind) in data_types.items():
        if not re.fullmatch(r"\w+", key) or len(f"{key}_{width}") > _MAX_NAME_LENGTH:
            raise ValueError(
                f"data_types has the name {key!r}; a name of up to 18 letters, digits "
                "and underscores is needed."
            )
        if (
            not isinstance(width, Integral)
            or width < 1
            or np.dtype(kind).kind not in "iuf"
        ):
            raise ValueError(
                f"data_types has {width} of {np.dtype(kind)} for {key}; one or more "
                "integers or floats are needed."
            )


def write_tractogram(
    path: AnyPath,
    streamlines: Iterable[tuple[AnyArray, Mapping[str, ArrayLike]]],
    affine: ArrayLike,
    shape: tuple[int, int, int],
    *,
    data_types: DataTypes | None = None,
    dtype: DTypeLike = np.float32,
) -> int:
    """Write streamlines to a file while they are tracked.

    Parameters
    ----------
    path : str or Path
        Ends in one of ``SUFFIXES``. The file appears when it is complete
        (:func:`dipy_rnn._atomic.atomic_write`).
    streamlines : iterable of (ndarray of shape (M, 3), dict of str to array_like)
        Points in mm (RAS+), and for each name in `data_types` an array of W values of
        the streamline. Streamlines without points are left out.
    affine : array_like of shape (4, 4)
        Voxel to mm, with up to 0.1 degrees of shear.
    shape : tuple of 3 int
        Shape of the image in which the streamlines were tracked, for the header.
    data_types : dict of str to (int, dtype), optional
        For each name, the number W of values per streamline and their type, as in
        ``{"seeds": (3, np.float32)}``. DIPY reads them as ``data_per_streamline``. A
        .trk file stores them as float32.
    dtype : dtype, optional
        Type of the positions in a .trx file: float32 or float16. float16 halves the
        size of the file. It has 11 significant binary digits: the error of a coordinate
        is at most 0.03 mm up to 128 mm from the origin, and 0.06 mm up to 256 mm. At
        the border of the image it is up to four times as large (see Notes).

    Returns
    -------
    n_streamlines : int
        Number of streamlines in the file.

    Raises
    ------
    ValueError
        If an argument is invalid (checked before the first streamline is taken), or if
        a streamline is invalid.
    OSError
        If the file cannot be written, for example because the disk is full. The error
        names `path`, and no partial file is left.

    Notes
    -----
    A point inside the image is also inside after rounding, so that DIPY loads the file
    with its check of the bounding box: a point that would be rounded to the outside is
    moved back. Points outside the image are written as they are.

    The same streamlines give the same bytes. In float32 the error of a coordinate is
    at most 4e-6 mm at 100 mm from the origin. A .trk file stores positions relative to
    the corner of the image, and reading moves them back, which rounds a second time.
    An empty .trk file does not store the names of values. All streamlines of a VTK file
    (.vtk, .vtp, .fib) or a DPY file are in memory until it is written.

    Examples
    --------
    >>> import tempfile
    >>> from dipy.io.streamline import load_tractogram
    >>> path = Path(tempfile.mkdtemp()) / "one.trk"
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0]])
    >>> write_tractogram(path, [(line, {"seeds": line[0]})], np.eye(4), (5, 5, 5),
    ...                  data_types={"seeds": (3, np.float32)})
    1
    >>> tractogram = load_tractogram(str(path), "same")
    >>> tractogram.streamlines[0].tolist()
    [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    >>> tractogram.data_per_streamline["seeds"].tolist()
    [[0.0, 0.0, 0.0]]
    """
    data_types = data_types or {}
    batches = join_streamlines(streamlines, data_types)
    return write_batches(
        path, batches, affine, shape, data_types=data_types, dtype=dtype
    )


def write_batches(
    path: AnyPath,
    batches: Iterable[Batch],
    affine: ArrayLike,
    shape: tuple[int, int, int],
    *,
    data_types: DataTypes,
    dtype: DTypeLike = np.float32,
) -> int:
    """Write streamlines that are in arrays, as :func:`write_tractogram` writes others.

    Parameters
    ----------
    path : str or Path
    batches : iterable of Batch
        Points in mm (RAS+), numbers of points, all above 0, and for each name in
        `data_types` an array of the values, one row for each streamline.
    affine, shape, data_types, dtype
        See :func:`write_tractogram`.

    Returns
    -------
    n_streamlines : int

    Raises
    ------
    ValueError, OSError
        As :func:`write_tractogram`.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two.trx"
    >>> batch = np.zeros((5, 3)), np.array([2, 3]), {}
    >>> write_batches(path, [batch], np.eye(4), (5, 5, 5), data_types={})
    2
    """
    check_format(path, data_types=data_types, dtype=dtype)
    affine = spatial.check_affine(affine)
    shape = _checks.check_shape(shape, most=2**15 - 1)  # 16 bits of a header
    batches = _as_stored(batches, data_types, np.dtype(dtype), affine, shape)
    with atomic_write(path) as partial:
        if partial.suffix == ".trx":
            return write_trx(partial, batches, affine, shape, data_types, dtype)
        if partial.suffix == ".dpy":
            return write_dpy(partial, batches)
        if partial.suffix in VTK_SUFFIXES:
            return write_vtk(partial, batches)
        return _write_with_nibabel(partial, batches, affine, shape, data_types)


def read_tractogram(
    path: Path, *, check_points: bool = True
) -> Iterator[tuple[AnyArray, dict[str, AnyArray]]]:
    """Read the streamlines of a tractogram, one at a time.

    Parameters
    ----------
    path : Path
        Ends in one of ``SUFFIXES``; capitals are allowed. Or a folder with the content
        of a TRX file.
    check_points : bool, optional
        Whether to raise ValueError for points that are not finite or farther than
        1e6 mm from the origin.

    Yields
    ------
    streamline : ndarray of shape (M, 3)
        Points in mm (RAS+).
    values : dict of str to ndarray
        Values of the streamline by name, such as ``"seeds"`` in mm.

    Raises
    ------
    ValueError
        If the file cannot be read as a tractogram.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "one.tck"
    >>> _ = write_tractogram(path, [(np.zeros((2, 3)), {})], np.eye(4), (5, 5, 5))
    >>> [streamline.shape for streamline, _ in read_tractogram(path)]
    [(2, 3)]
    """
    suffix = ".trx"
    if not is_trx_folder(path):
        check_is_file(path)
        suffix = path.suffix.lower()
    readers = {".trx": read_trx, ".dpy": read_dpy} | dict.fromkeys(
        VTK_SUFFIXES, read_vtk
    )
    read = readers.get(suffix, _read_with_nibabel)
    checked: Callable[[AnyArray], AnyArray]
    checked = check_distance if check_points else np.asarray
    try:
        for points_mm, values in read(path):
            yield checked(points_mm), values
    except Exception as error:  # a damaged file raises any kind of error in the readers
        raise ValueError(
            f"{shown(path)} cannot be read as a tractogram ({first_line(error)})."
        ) from None


def _as_stored(
    batches: Iterable[Batch],
    data_types: DataTypes,
    dtype: np.dtype[Any],
    affine: FloatArray,
    shape: tuple[int, ...],
) -> Iterator[Batch]:
    """Yield batches as little-endian, C-contiguous arrays of the types in the file."""
    kinds = {name: np.dtype(kind) for name, (_, kind) in data_types.items()}
    for points_mm, lengths, values in batches:
        rounded = _round_points(points_mm, dtype.newbyteorder("<"), affine, shape)
        if not np.isfinite(rounded).all():
            raise ValueError(
                f"a streamline has a point that is not finite in {dtype.name}."
            )
        stored = {
            name: np.ascontiguousarray(values[name], kind.newbyteorder("<"))
            for name, kind in kinds.items()
        }
        yield rounded, lengths, stored


def _round_points(
    points_mm: AnyArray,
    dtype: np.dtype[Any],
    affine: FloatArray,
    shape: tuple[int, ...],
) -> AnyArray:
    """Return points in float32 or float16. Rounding moves none out of the image.

    Points become float16 by way of float32: a file that is written from one in float32
    is the same as one that is written at once.
    """
    if dtype.itemsize < 4:
        points_mm = _round_points(points_mm, np.dtype("<f4"), affine, shape)
    with np.errstate(over="ignore"):  # a number too large becomes infinite
        rounded = np.ascontiguousarray(points_mm, dtype=dtype)
    centre, half = (np.array(shape) - 1) / 2, np.array(shape) / 2

    def is_beyond(points_mm: AnyArray, border_vox: float) -> BoolArray:
        # along any axis, farther from the centre than the border of the image
        points_vox = spatial.to_voxels(points_mm, affine)
        beyond = np.zeros(len(points_mm), bool)
        for column, middle, reach in zip(points_vox.T, centre, half + border_vox):
            beyond |= np.abs(column - middle) > reach
        return beyond

    (outside,) = np.nonzero(is_beyond(rounded, -_BORDER_VOX))
    outside = outside[~is_beyond(points_mm[outside], _BORDER_VOX)]
    if len(outside):
        spacing_mm = np.spacing(np.abs(rounded[outside])).astype(float)
        spacing_vox = spacing_mm @ np.abs(np.linalg.inv(affine[:3, :3])).T
        reach = np.maximum(half - spacing_vox - _BORDER_VOX, 0)
        points_vox = spatial.to_voxels(points_mm[outside], affine)
        points_vox = np.clip(points_vox, centre - reach, centre + reach)
        rounded = rounded.copy()
        rounded[outside] = spatial.to_mm(points_vox, affine)
    return rounded


def _write_with_nibabel(
    path: Path,
    batches: Iterable[Batch],
    affine: FloatArray,
    shape: tuple[int, int, int],
    data_types: DataTypes,
) -> int:
    from dipy.io.utils import create_tractogram_header
    from nibabel.orientations import aff2axcodes
    from nibabel.streamlines import detect_format
    from nibabel.streamlines.tractogram import LazyTractogram

    n_streamlines = 0
    row: dict[str, AnyArray] = {}

    def lines() -> Iterator[AnyArray]:
        nonlocal n_streamlines, row
        for line, values in split_batches(batches):
            row = values
            n_streamlines += 1
            yield line

    def column(name: str) -> Iterator[AnyArray]:
        while True:
            yield row[name]

    # nibabel takes the next streamline first, and then one item of each column. It
    # does not apply the origin of a .trk file to tractograms from
    # LazyTractogram.from_data_func, so that constructor cannot be used.
    lazy = LazyTractogram(
        lines,
        data_per_streamline={name: partial(column, name) for name in data_types},
        affine_to_rasmm=np.eye(4),
    )
    file_type = detect_format(str(path))
    order = "".join(aff2axcodes(affine))
    sizes_mm = spatial.voxel_sizes(affine)
    header = create_tractogram_header(file_type, affine, shape, sizes_mm, order)
    file_type(lazy, header=header).save(str(path))
    return n_streamlines


def _read_with_nibabel(path: Path) -> Iterator[tuple[AnyArray, dict[str, AnyArray]]]:
    from nibabel.streamlines import load

    tractogram = load(path, lazy_load=True).tractogram
    # The points of `tractogram.streamlines` are in mm; those of the items are not.
    pairs = zip(tractogram.streamlines, tractogram, strict=True)
    while True:
        with np.errstate(all="ignore"):  # points are checked afterwards
            pair = next(pairs, None)
        if pair is None:
            return
        yield pair[0], dict(pair[1].data_for_streamline)
