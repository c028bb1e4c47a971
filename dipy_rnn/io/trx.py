"""TRX files: a writer that holds one batch of streamlines, and a reader.

trx-python writes only streamlines that are all in memory. If it appends to a file, it
copies all earlier arrays each time. So this module writes the arrays of a ``.trx``
archive [1]_ itself, with the names and types that trx-python uses. Positions are
written into the archive batch by batch. Offsets and values per streamline are smaller:
they are collected in temporary files and copied into the archive at the end.

References
----------
.. [1] https://github.com/tee-ar-ex/trx-spec/blob/master/specifications.md
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
import json
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TypeAlias
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np
from numpy.typing import DTypeLike

from dipy_rnn._typing import AnyArray, FloatArray, IntArray
from dipy_rnn.io.files import check_size

#: For each name, the number of values per streamline and their type.
DataTypes: TypeAlias = Mapping[str, tuple[int, DTypeLike]]
#: Points (sum of lengths, 3), lengths (N,), and for each name values (N, W).
Batch: TypeAlias = tuple[AnyArray, IntArray, dict[str, AnyArray]]

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
    """Read the streamlines of a TRX file, one at a time.

    Parameters
    ----------
    path : Path

    Yields
    ------
    streamline : ndarray of shape (M, 3)
        Points in mm.
    values : dict of str to ndarray
        Values of the streamline, by name.

    Raises
    ------
    ValueError
        If the zip archive is damaged. For other faults trx-python raises other errors;
        :func:`dipy_rnn.io.read_tractogram` turns them into ValueError.
    """
    from trx.trx_file_memmap import load

    _check_zip(path)
    trx = load(str(path))
    try:
        columns = trx.data_per_streamline
        for i, line in enumerate(trx.streamlines):
            values = {name: np.array(column[i]) for name, column in columns.items()}
            yield np.array(line), values
    finally:
        trx.close()


def _check_zip(path: Path) -> None:
    """Raise ValueError if a zip file is damaged.

    This check comes first, because trx-python maps the file into memory for writing: it
    would extend a file that is too short.
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
