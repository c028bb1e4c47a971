"""Tractogram files in all formats of DIPY, written and read in batches of streamlines.

`write_tractogram` takes streamlines one after the other and holds one batch of them,
so memory does not grow with the number of streamlines, except for VTK and DPY files.
`downsample` removes points of streamlines before they are written. `read_tractogram`
yields one streamline at a time.

nibabel writes and reads ``.trk`` and ``.tck``; :mod:`dipy_rnn.io.trx` does so for
``.trx``, and :mod:`dipy_rnn.io.vtk_dpy` for the other formats.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from numbers import Integral
from pathlib import Path
import re
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from dipy_rnn import _checks, spatial
from dipy_rnn._atomic import atomic_write
from dipy_rnn._typing import AnyArray, AnyPath, ArrayLike, FloatArray
from dipy_rnn.io.files import (
    SUFFIXES,
    VTK_SUFFIXES,
    check_distance,
    check_is_file,
    first_line,
    is_trx_folder,
    shown,
)
from dipy_rnn.io.trx import Batch, DataTypes, read_trx, write_trx
from dipy_rnn.io.vtk_dpy import (
    check_can_use_vtk,
    read_dpy,
    read_vtk,
    write_dpy,
    write_vtk,
)

# Streamlines per batch: enough that the cost of Python calls per batch is negligible.
_BATCH_SIZE = 1024
# Readers convert points to voxels in single precision, and round the affine to it.
_BORDER_VOX = 1e-4
# A .trk file has 20 bytes for a name, the number of its values and a separator.
_MAX_NAME_LENGTH = 20

_Values = TypeVar("_Values")


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
    check_format(path, data_types=data_types, dtype=dtype)
    affine = spatial.check_affine(affine)
    shape = _checks.check_shape(shape, most=2**15 - 1)  # 16 bits of a header
    kind = np.dtype(dtype).newbyteorder("<")

    def round_points(points_mm: AnyArray) -> AnyArray:
        return _round_points(points_mm, kind, affine, shape)

    batches = _batches(streamlines, data_types, round_points)
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


def downsample(
    streamlines: Iterable[tuple[AnyArray, _Values]],
    *,
    every: int = 1,
    tolerance_mm: float = 0.0,
) -> Iterator[tuple[AnyArray, _Values]]:
    """Remove points of streamlines.

    Parameters
    ----------
    streamlines : iterable of (ndarray of shape (M, 3), object)
        Points in mm, and an object that is passed on unchanged.
    every : int, optional
        If n, keep the first point, every n-th point after it, and the last point.
        ``tckgen -downsample`` counts differently: from the seed in both directions.
    tolerance_mm : float, optional
        If above 0, a second pass removes points that are within this distance of the
        remaining streamline, with
        :func:`dipy.tracking.streamlinespeed.compress_streamlines`. 0.1 mm removes most
        points. Consecutive points may then be up to 10 mm apart, so a streamline may
        cross a voxel without a point in it.

    Returns
    -------
    streamlines : iterator of (ndarray of shape (K, 3), object)

    Raises
    ------
    ValueError
        If an argument is invalid; this is checked before the first streamline is taken.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [2, 1, 0]])
    >>> [points.tolist() for points, _ in downsample([(line, None)], every=2)]
    [[[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [2.0, 1.0, 0.0]]]
    >>> [len(points) for points, _ in downsample([(line, None)], every=3)]
    [2]
    >>> [len(points) for points, _ in downsample([(line, None)], tolerance_mm=0.1)]
    [3]
    """
    step = _checks.check_count(every, "every", 1)
    if not 0 <= _checks.check_number(tolerance_mm, "tolerance_mm") < np.inf:
        raise ValueError(f"tolerance_mm is {tolerance_mm}; 0 mm or more is needed.")
    if step > 1:
        streamlines = (
            (np.concatenate([points[:-1:step], points[-1:]]), values)
            for points, values in streamlines
        )
    return _compress(streamlines, tolerance_mm) if tolerance_mm else iter(streamlines)


def _compress(
    streamlines: Iterable[tuple[AnyArray, _Values]], tolerance_mm: float
) -> Iterator[tuple[AnyArray, _Values]]:
    from dipy.tracking.streamlinespeed import compress_streamlines

    streamlines = iter(streamlines)
    while batch := list(islice(streamlines, _BATCH_SIZE)):
        lines = [np.asarray(points, np.float64) for points, _ in batch]
        compressed = compress_streamlines(lines, tol_error=tolerance_mm)
        yield from zip(compressed, (values for _, values in batch))


def _batches(
    streamlines: Iterable[tuple[AnyArray, Mapping[str, ArrayLike]]],
    data_types: DataTypes,
    round_points: Callable[[AnyArray], AnyArray],
) -> Iterator[Batch]:
    """Join streamlines into batches of little-endian, C-contiguous arrays."""
    streamlines = (line for line in streamlines if len(line[0]))
    while batch := list(islice(streamlines, _BATCH_SIZE)):
        points, values = zip(*batch)
        points_mm = round_points(_join_points(points))
        if not np.isfinite(points_mm).all():
            name = points_mm.dtype.name
            raise ValueError(f"a streamline has a point that is not finite in {name}.")
        lengths = np.fromiter(map(len, points), np.int64, len(points))
        yield (
            points_mm,
            lengths,
            {
                name: _join_values(values, name, *data_type)
                for name, data_type in data_types.items()
            },
        )


def _join_points(streamlines: Sequence[AnyArray]) -> AnyArray:
    """Return the points of all streamlines of a batch, (sum of lengths, 3)."""
    try:
        points_mm = np.concatenate(streamlines)
        fits = points_mm.shape[1:] == (3,) and points_mm.dtype.kind in "biuf"
    except (TypeError, ValueError):
        fits = False
    if fits:
        return points_mm
    # Each streamline is checked only after an error: nearly all batches are valid.
    shapes = (_checks.check_numbers(line, "a streamline").shape for line in streamlines)
    wrong = next(shape for shape in shapes if len(shape) != 2 or shape[1] != 3)
    raise ValueError(f"a streamline has the shape {wrong}; (M, 3) is needed.")


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
    centre = (np.array(shape) - 1) / 2

    def beyond(points_mm: AnyArray) -> FloatArray:  # the border of the image, in voxels
        with np.errstate(invalid="ignore"):  # infinity
            from_centre = np.abs(spatial.to_voxels(points_mm, affine) - centre)
        excess = from_centre - np.array(shape) / 2
        largest: FloatArray = excess.max(axis=1, initial=-np.inf)
        return largest

    (outside,) = np.nonzero(beyond(rounded) > -_BORDER_VOX)
    outside = outside[beyond(points_mm[outside]) < _BORDER_VOX]
    if len(outside):
        spacing_mm = np.spacing(np.abs(rounded[outside])).astype(float)
        spacing_vox = spacing_mm @ np.abs(np.linalg.inv(affine[:3, :3])).T
        reach = np.maximum(np.array(shape) / 2 - spacing_vox - _BORDER_VOX, 0)
        points_vox = spatial.to_voxels(points_mm[outside], affine)
        points_vox = np.clip(points_vox, centre - reach, centre + reach)
        rounded = rounded.copy()
        rounded[outside] = spatial.to_mm(points_vox, affine)
    return rounded


def _join_values(
    values: Sequence[Mapping[str, ArrayLike]], name: str, width: int, dtype: DTypeLike
) -> AnyArray:
    """Return the values of all streamlines of a batch under one name, (N, W)."""
    dtype = np.dtype(dtype)
    try:
        rows = [of_line[name] for of_line in values]
    except (KeyError, TypeError):
        raise ValueError(
            f"a streamline has no {name}, which data_types names; give each "
            f"streamline a value, or remove {name} from data_types."
        ) from None
    try:
        table = np.array(rows, dtype=dtype.newbyteorder("<"))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{name} of a streamline is not {width} of {dtype}, as data_types says."
        ) from None
    if table.shape != (len(rows), width):
        raise ValueError(
            f"{name} has the shape {table.shape[1:]}; data_types says ({width},)."
        )
    return table


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
        for points_mm, lengths, values in batches:
            begins = np.cumsum(lengths)[:-1]
            for line, *of_line in zip(np.split(points_mm, begins), *values.values()):
                row = dict(zip(values, of_line))
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
