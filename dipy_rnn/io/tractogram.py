"""Tractogram files, written while streamlines come.

`write_tractogram` takes streamlines one after the other and holds some at a time, so
that memory does not grow with their number; `thinned` leaves out points on the way.
``.trk`` and ``.tck`` are written by nibabel. trx-python writes what is there already:
what grows it copies again and again. So the arrays of a ``.trx`` file [1]_ are written
here, under its names and types: positions into the archive as they come, what is
smaller into temporary files, and after them into the archive.

References
----------
.. [1] https://github.com/tee-ar-ex/trx-spec/blob/master/specifications.md
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice
import json
from numbers import Integral
from pathlib import Path
import re
from tempfile import TemporaryFile
from typing import IO, Any, TypeAlias, TypeVar
from zipfile import ZipFile, ZipInfo

from dipy.io.utils import create_tractogram_header
from dipy.tracking.streamlinespeed import compress_streamlines
from nibabel.orientations import aff2axcodes
from nibabel.streamlines import detect_format
from nibabel.streamlines.tractogram import LazyTractogram
import numpy as np
from numpy.typing import DTypeLike

from dipy_rnn import spaces
from dipy_rnn._atomic import atomic_write
from dipy_rnn._typing import AnyArray, AnyPath, ArrayLike, FloatArray, IntArray

#: What the names of tractogram files end in.
SUFFIXES = (".trx", ".trk", ".tck")

# Streamlines that are held at a time: enough that what Python does once for all of
# them does not count.
_BATCH_SIZE = 1024
_BLOCK = 1 << 20  # bytes that are copied at a time
_MOST_POINTS = 2**32 - 1  # for offsets as trx-python writes them, uint32
_LONGEST_NAME = 20  # of values in a .trk file, with their number and what parts the two

_Values = TypeVar("_Values")
_DataTypes: TypeAlias = Mapping[str, tuple[int, DTypeLike]]
# Points, lengths, and values by their names.
_Batch: TypeAlias = tuple[AnyArray, IntArray, dict[str, AnyArray]]


def check_format(
    path: AnyPath,
    *,
    data_types: _DataTypes | None = None,
    dtype: DTypeLike = np.float32,
    name: str = "path",
) -> None:
    """Refuse what a tractogram file cannot hold.

    Parameters
    ----------
    path : str or Path
    data_types, dtype
        As for :func:`write_tractogram`.
    name : str, optional
        What errors call `path`.

    Raises
    ------
    ValueError
        If `path` ends in none of ``SUFFIXES``, or its format has no place for such
        values or positions.

    Notes
    -----
    In capitals (``.TRK``) a name is refused, though files of such names can be read:
    DIPY and MRtrix3 would not open what is written.

    Examples
    --------
    >>> check_format("a.trx", data_types={"seeds": (3, np.float32)})
    >>> check_format("a.trk", dtype=np.float16)
    Traceback (most recent call last):
    ValueError: path is a.trk: positions in float16 are for .trx files alone; name ...
    """
    suffix, dtype, data_types = Path(path).suffix, np.dtype(dtype), data_types or {}
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{name} is {path}; a name that ends in {', '.join(SUFFIXES)}, in small "
            "letters, is needed."
        )
    if suffix == ".tck" and data_types:
        raise ValueError(
            f"{name} is {path}: a .tck file cannot hold {', '.join(data_types)}; name "
            "a .trx or .trk file, or leave them out."
        )
    if dtype not in (np.float16, np.float32):
        raise ValueError(f"dtype is {dtype}; float32 or float16 is allowed.")
    if suffix != ".trx" and dtype == np.float16:
        raise ValueError(
            f"{name} is {path}: positions in float16 are for .trx files alone; name "
            "one, or choose float32."
        )
    for key, (width, kind) in data_types.items():
        if not re.fullmatch(r"\w+", key) or len(f"{key}_{width}") > _LONGEST_NAME:
            raise ValueError(
                f"data_types names {key!r}; some letters, digits and underscores are "
                "needed, up to 18."
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
    data_types: _DataTypes | None = None,
    dtype: DTypeLike = np.float32,
) -> int:
    """Write streamlines as they come.

    Parameters
    ----------
    path : str or Path
        Ends in ``.trx``, ``.trk`` or ``.tck``. The file is there when it is complete
        (:func:`dipy_rnn._atomic.atomic_write`).
    streamlines : iterable of (ndarray of shape (M, 3), dict of str to array_like)
        Points in mm (RAS+), and of each of `data_types` the values of this streamline,
        of shape (W,). What has no points is left out.
    affine : array_like of shape (4, 4)
        Voxel to mm, without shear.
    shape : tuple of 3 int
        Of the image that the streamlines were tracked in; for the header.
    data_types : dict of str to (int, dtype), optional
        How many values W each streamline has under a name, and of which type, for
        DIPY's ``data_per_streamline``: ``{"seeds": (3, np.float32)}``. A .trk file
        stores them as float32.
    dtype : dtype, optional
        Of the positions in a .trx file: float32, or float16 for half the size, which
        rounds to 11 binary digits: 100 mm from the origin by up to 0.03 mm along each
        axis (0.06 mm at 128 mm).

    Returns
    -------
    n_streamlines : int
        How many were written.

    Raises
    ------
    ValueError
        If an argument is not as said, before the first streamline is asked for; or if
        a streamline is not.
    OSError
        If the file cannot be written: the disk is full. It names `path`, and nothing
        is left.

    Notes
    -----
    The same streamlines give the same bytes. Positions in float32 are rounded by up
    to 4e-6 mm at 100 mm. A .trk file has them from the corner of the image along its
    axes, so that they are rounded by as much as they are moved back, too. An empty
    .trk file does not tell the names of values.

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
    affine = spaces.check_affine(affine)
    shape = spaces.check_shape(shape, most=2**15 - 1)  # 16 bits of a header
    batches = _batches(streamlines, data_types, np.dtype(dtype).newbyteorder("<"))
    with atomic_write(path) as unfinished:
        if unfinished.suffix == ".trx":
            return _write_trx(unfinished, batches, affine, shape, data_types, dtype)
        return _write_with_nibabel(unfinished, batches, affine, shape, data_types)


def thinned(
    streamlines: Iterable[tuple[AnyArray, _Values]],
    *,
    every: int = 1,
    tolerance_mm: float = 0.0,
) -> Iterator[tuple[AnyArray, _Values]]:
    """Leave out points of streamlines.

    Parameters
    ----------
    streamlines : iterable of (ndarray of shape (M, 3), anything)
        Points in mm, and what is passed on with them.
    every : int, optional
        Keep every so many-th point from the first one on, and the last; tckgen's
        ``-downsample`` counts from the seed, both ways.
    tolerance_mm : float, optional
        Then leave out points that lie so close to what remains, by
        :func:`dipy.tracking.streamlinespeed.compress_streamlines`: 0.1 mm leaves out
        most. What remains is up to 10 mm apart, so that a streamline may cross a
        voxel without a point in it. 0 leaves out none.

    Returns
    -------
    streamlines : iterator of (ndarray of shape (K, 3), anything)

    Raises
    ------
    ValueError
        If an argument is not as said; before the first streamline is asked for.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [2, 1, 0]])
    >>> [points.tolist() for points, _ in thinned([(line, None)], every=2)]
    [[[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [2.0, 1.0, 0.0]]]
    >>> [len(points) for points, _ in thinned([(line, None)], every=3)]
    [2]
    >>> [len(points) for points, _ in thinned([(line, None)], tolerance_mm=0.1)]
    [3]
    """
    step = spaces.check_count(every, "every", 1)
    if not 0 <= spaces.check_number(tolerance_mm, "tolerance_mm") < np.inf:
        raise ValueError(f"tolerance_mm is {tolerance_mm}; 0 mm or more is needed.")
    if step > 1:
        streamlines = (
            (np.concatenate([points[:-1:step], points[-1:]]), values)
            for points, values in streamlines
        )
    return _compressed(streamlines, tolerance_mm) if tolerance_mm else iter(streamlines)


def _compressed(
    streamlines: Iterable[tuple[AnyArray, _Values]], tolerance_mm: float
) -> Iterator[tuple[AnyArray, _Values]]:
    streamlines = iter(streamlines)
    while batch := list(islice(streamlines, _BATCH_SIZE)):
        lines = [np.asarray(points, np.float64) for points, _ in batch]
        few = compress_streamlines(lines, tol_error=tolerance_mm)
        yield from zip(few, (values for _, values in batch))


def _batches(
    streamlines: Iterable[tuple[AnyArray, Mapping[str, ArrayLike]]],
    data_types: _DataTypes,
    dtype: np.dtype[Any],
) -> Iterator[_Batch]:
    """Yield points (sum of lengths, 3), lengths (n,), and values (n, W) by their names.

    All are little-endian and C-contiguous.
    """
    streamlines = (line for line in streamlines if len(line[0]))
    while batch := list(islice(streamlines, _BATCH_SIZE)):
        points, values = zip(*batch)
        points_mm = _joined(points, dtype)
        if not np.isfinite(points_mm).all():
            raise ValueError(
                f"streamlines have points that are no finite numbers in {dtype.name}."
            )
        lengths = np.fromiter(map(len, points), np.int64, len(points))
        yield (
            points_mm,
            lengths,
            {
                name: _table(values, name, *data_type)
                for name, data_type in data_types.items()
            },
        )


def _joined(streamlines: Sequence[AnyArray], dtype: np.dtype[Any]) -> AnyArray:
    """Return the points of some streamlines, (sum of lengths, 3)."""
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite
            points_mm = np.concatenate(streamlines, dtype=dtype, casting="same_kind")
        fits = points_mm.shape[1:] == (3,)
    except (TypeError, ValueError):
        fits = False
    if fits:
        return np.ascontiguousarray(points_mm)
    # Looked at one by one only here, as nearly all of them are fine.
    shapes = (spaces.check_numbers(line, "a streamline").shape for line in streamlines)
    wrong = next(shape for shape in shapes if len(shape) != 2 or shape[1] != 3)
    raise ValueError(f"a streamline has the shape {wrong}; (M, 3) is needed.")


def _table(
    values: Sequence[Mapping[str, ArrayLike]], name: str, width: int, dtype: DTypeLike
) -> AnyArray:
    """Return the values of some streamlines, (n, W)."""
    dtype = np.dtype(dtype)
    try:
        rows = [of_line[name] for of_line in values]
    except (KeyError, TypeError):
        raise ValueError(
            f"a streamline has no {name}, which data_types names; give it to each, or "
            "leave it out there."
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
    batches: Iterable[_Batch],
    affine: FloatArray,
    shape: tuple[int, int, int],
    data_types: _DataTypes,
) -> int:
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

    # Each column is asked after its line. Items with both, from_data_func, would not
    # be moved to where a .trk file has its origin.
    lazy = LazyTractogram(
        lines,
        data_per_streamline={name: partial(column, name) for name in data_types},
        affine_to_rasmm=np.eye(4),
    )
    file_type = detect_format(str(path))
    order = "".join(aff2axcodes(affine))
    sizes_mm = spaces.voxel_sizes(affine)
    header = create_tractogram_header(file_type, affine, shape, sizes_mm, order)
    file_type(lazy, header=header).save(str(path))
    return n_streamlines


def _write_trx(
    path: Path,
    batches: Iterable[_Batch],
    affine: FloatArray,
    shape: tuple[int, int, int],
    data_types: _DataTypes,
    dtype: DTypeLike,
) -> int:
    n_streamlines = n_points = 0
    with ExitStack() as stack:
        archive = stack.enter_context(ZipFile(path, "w"))

        def temporary() -> IO[bytes]:
            return stack.enter_context(TemporaryFile(dir=path.parent))

        ends, values = temporary(), {name: temporary() for name in data_types}
        with _entry(archive, "positions", 3, dtype) as positions:
            for points_mm, lengths, of_batch in batches:
                positions.write(points_mm.data)
                ends.write((n_points + np.cumsum(lengths)).data)
                for name, table in of_batch.items():
                    values[name].write(table.data)
                n_streamlines += len(lengths)
                n_points += len(points_mm)
        kind = np.dtype("<u4" if n_points <= _MOST_POINTS else "<u8")
        with _entry(archive, "offsets", 1, kind) as offsets:
            offsets.write(np.zeros(1, kind).data)
            for block in _blocks(ends):
                offsets.write(np.frombuffer(block, np.int64).astype(kind).data)
        for name, (width, of_values) in data_types.items():
            with _entry(archive, f"dps/{name}", width, of_values) as entry:
                for block in _blocks(values[name]):
                    entry.write(block)
        header = {
            "DIMENSIONS": [int(n) for n in shape],
            "VOXEL_TO_RASMM": affine.astype(np.float32).tolist(),
            "NB_VERTICES": n_points,
            "NB_STREAMLINES": n_streamlines,
        }
        archive.writestr(ZipInfo("header.json"), json.dumps(header))
    return n_streamlines


def _entry(archive: ZipFile, name: str, width: int, dtype: DTypeLike) -> IO[bytes]:
    """Open an array of a TRX archive for writing; its time is always the same."""
    columns = f".{width}" if width > 1 else ""
    entry = ZipInfo(f"{name}{columns}.{np.dtype(dtype).name}")
    return archive.open(entry, "w", force_zip64=True)


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    return iter(lambda: file.read(_BLOCK), b"")
