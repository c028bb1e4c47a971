"""TRX files: a writer and a reader that hold one batch of streamlines, or one.

trx-python writes only streamlines that are all in memory. If it appends to a file, it
copies all earlier arrays each time. So this module writes the arrays of a ``.trx``
archive [1]_ itself, with the names and types that trx-python uses. Positions are
written into the archive batch by batch. Offsets and values per streamline are smaller:
they are collected in temporary files and copied into the archive at the end.

The reader takes an archive, compressed or not, or a folder with the content of one. It
reads positions streamline by streamline, and never opens a file for writing.

References
----------
.. [1] https://github.com/tee-ar-ex/trx-spec/blob/master/specifications.md
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
import json
from pathlib import Path
import re
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple, TypeAlias
from zipfile import ZIP_STORED, ZipFile, ZipInfo
from zipfile import Path as ZipPath

import numpy as np
from numpy.typing import DTypeLike

from dipy_rnn._typing import AnyArray, FloatArray, IntArray
from dipy_rnn.io.files import check_size

#: For each name, the number of values per streamline and their type.
DataTypes: TypeAlias = Mapping[str, tuple[int, DTypeLike]]
#: Points (sum of lengths, 3), lengths (N,), and for each name values (N, W).
Batch: TypeAlias = tuple[AnyArray, IntArray, dict[str, AnyArray]]

_Folder: TypeAlias = Path | ZipPath
# Name, number of columns if there are several, and type.
_ARRAY_NAME = re.compile(
    r"(.+?)\.(?:(\d+)\.)?(u?int(?:8|16|32|64)|float(?:16|32|64)|bit|bool)"
)
_BLOCK = 1 << 20  # bytes copied at a time
_MAX_UINT32_POINTS = 2**32 - 1  # up to this, trx-python writes offsets as uint32


def write_trx(
    path: Path,
    batches: Iterable[Batch],
    affine: FloatArray,
    shape: tuple[int, int, int],
    data_types: DataTypes,
    dtype: DTypeLike,
) -> int:
    """Write batches of streamlines to a TRX file.

    Parameters
    ----------
    path : Path
    batches : iterable of Batch
        Little-endian and C-contiguous arrays.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    shape : tuple of 3 int
        Shape of the image, in voxels.
    data_types : dict of str to (int, dtype)
    dtype : dtype
        Type of the positions.

    Returns
    -------
    n_streamlines : int
    """
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
        kind = np.dtype("<u4" if n_points <= _MAX_UINT32_POINTS else "<u8")
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


def read_trx(path: Path) -> Iterator[tuple[AnyArray, dict[str, AnyArray]]]:
    """Read the streamlines of a TRX file or folder, one at a time.

    Parameters
    ----------
    path : Path
        A TRX file, or a folder with its content.

    Yields
    ------
    streamline : ndarray of shape (M, 3)
        Points in mm.
    values : dict of str to ndarray
        Values of the streamline, by name.

    Raises
    ------
    ValueError
        If the zip archive is damaged, or an array is missing or has another size than
        the header says. For other faults, other errors are raised;
        :func:`dipy_rnn.io.read_tractogram` turns them into ValueError.

    Notes
    -----
    trx-python opens files for writing, so it cannot read those without the permission.
    It refuses files of its versions before 2022, whose offsets have no last element.
    """
    with ExitStack() as stack:
        root: _Folder = path
        if path.is_file():
            _check_zip(path)
            root = ZipPath(stack.enter_context(ZipFile(path)))
        header = json.loads((root / "header.json").read_bytes())
        n_streamlines, n_points = header["NB_STREAMLINES"], header["NB_VERTICES"]
        if not n_streamlines or not n_points:
            return
        arrays = _arrays(root)
        if not {"positions", "offsets"} <= set(arrays):
            raise ValueError("positions or offsets are missing")
        offsets = arrays["offsets"].load()[:, 0].astype(np.int64)
        if len(offsets) == n_streamlines:  # of a version before 2022
            offsets = np.append(offsets, n_points)
        lengths = np.diff(offsets)
        if len(lengths) != n_streamlines or offsets[0] or offsets[-1] != n_points:
            raise ValueError("the offsets contradict header.json")
        if lengths.min() < 0:
            raise ValueError("the offsets are not in ascending order")
        values = {name: array.load() for name, array in _arrays(root / "dps").items()}
        for name, table in values.items():
            if len(table) != n_streamlines:
                raise ValueError(f"{name} has {len(table)} rows, not {n_streamlines}")
        positions = arrays["positions"]
        if positions.n_columns != 3:
            raise ValueError(f"positions have {positions.n_columns} columns, not 3")
        file = stack.enter_context(positions.path.open("rb"))
        for i, length in enumerate(lengths.tolist()):
            content = file.read(length * 3 * positions.dtype.itemsize)
            points_mm = np.frombuffer(content, positions.dtype)
            if len(points_mm) != length * 3:
                raise ValueError("positions are fewer than header.json says")
            of_line = {name: table[i].copy() for name, table in values.items()}
            yield points_mm.reshape(-1, 3).copy(), of_line
        if file.read(1):
            raise ValueError("positions are more than header.json says")


class _Array(NamedTuple):
    """An array of a TRX file."""

    path: _Folder
    n_columns: int
    dtype: np.dtype[Any]

    def load(self) -> AnyArray:
        """Return the whole array, (N, n_columns)."""
        content = np.frombuffer(self.path.read_bytes(), self.dtype)
        return content.reshape(-1, self.n_columns)


def _arrays(folder: _Folder) -> dict[str, _Array]:
    """Find the arrays in a folder, by name. Other files are left out."""
    arrays: dict[str, _Array] = {}
    if not folder.is_dir():
        return arrays
    for path in folder.iterdir():
        match = _ARRAY_NAME.fullmatch(path.name)
        if match:
            name, n_columns, kind = match.groups()
            dtype = np.dtype("bool" if kind == "bit" else kind).newbyteorder("<")
            arrays[name] = _Array(path, int(n_columns or 1), dtype)
    return arrays


def _check_zip(path: Path) -> None:
    """Raise ValueError if a zip file is damaged.

    This check comes first: otherwise damage may be found only after many streamlines.
    """
    with ZipFile(path) as archive:
        for entry in archive.infolist():
            is_compressed = entry.compress_type != ZIP_STORED
            if not is_compressed and entry.file_size != entry.compress_size:
                raise ValueError(f"{entry.filename} has two different sizes")
            check_size(path, entry.file_size, is_compressed, entry.filename)
        damaged = archive.testzip()
        if damaged:
            raise ValueError(f"the checksum of {damaged} is wrong")


def _entry(archive: ZipFile, name: str, width: int, dtype: DTypeLike) -> IO[bytes]:
    """Open an array of a TRX archive for writing.

    ZipInfo has a fixed date, so the same streamlines give the same bytes.
    """
    columns = f".{width}" if width > 1 else ""
    entry = ZipInfo(f"{name}{columns}.{np.dtype(dtype).name}")
    return archive.open(entry, "w", force_zip64=True)


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    return iter(lambda: file.read(_BLOCK), b"")
