"""VTK files (.vtk, .vtp, .fib) and DPY files, written and read by DIPY.

These formats store points only. All streamlines of a file are in memory while it is
written or read. DIPY uses fury for VTK files.

Points are in mm (RAS+), as DIPY writes them by default. Older versions of DIPY, and
some other programs, write VTK files in LPS+.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
import errno
from io import BytesIO
import os
from pathlib import Path
import re
import warnings

import numpy as np

from dipy_rnn._typing import AnyArray
from dipy_rnn.io.files import check_size
from dipy_rnn.io.tractogram.trx import Batch

# The header of .vtk and .fib files.
_POINTS = re.compile(
    rb"(ASCII|BINARY)\s+DATASET POLYDATA\s+POINTS (\d+) (float|double)"
)


def check_can_use_vtk(path: Path, name: str) -> None:
    """Raise ValueError if DIPY cannot write and read VTK files.

    Parameters
    ----------
    path : Path
        The VTK file.
    name : str
        Name of `path` in the error message.

    Raises
    ------
    ValueError
        If the version of fury that DIPY needs is not installed.
    """
    from dipy.io.vtk import have_fury

    if not have_fury:
        raise ValueError(
            f"{name} is {path}: DIPY needs fury, version 0.10 or later and below 1.0, "
            f"for {path.suffix} files; install it with pip install "
            '"dipy_rnn[vtk]", or name a .trx file.'
        )


def write_vtk(path: Path, batches: Iterable[Batch]) -> int:
    """Write batches of streamlines to a VTK file.

    Parameters
    ----------
    path : Path
        Ends in one of ``VTK_SUFFIXES``.
    batches : iterable of Batch

    Returns
    -------
    n_streamlines : int

    Raises
    ------
    OSError
        If the file is incomplete, for example because the disk is full.
    """
    from dipy.io.vtk import save_polydata, save_vtk_streamlines

    lines = [line for batch in batches for line in _split(batch)]
    is_binary = path.suffix != ".vtp"  # as dipy.io.streamline.save_tractogram
    with _quiet_vtk():
        if lines:
            save_vtk_streamlines(lines, str(path), to_lps=False, binary=is_binary)
        else:  # save_vtk_streamlines raises an error
            save_polydata(_no_lines(), str(path), binary=is_binary)
    # VTK reports no error if the disk is full. (If it crashes, no file appears.)
    try:
        is_whole = [len(line) for line, _ in read_vtk(path)] == [*map(len, lines)]
    except Exception:  # the readers raise any kind of error
        is_whole = False
    if not is_whole:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
    return len(lines)


def read_vtk(path: Path) -> Iterator[tuple[AnyArray, dict[str, AnyArray]]]:
    """Read the streamlines of a VTK file.

    Parameters
    ----------
    path : Path

    Yields
    ------
    streamline : ndarray of shape (M, 3)
        Points in mm.
    values : dict
        Empty.

    Raises
    ------
    ValueError
        If fury is not installed, or the file is too short for its points. If a file is
        damaged otherwise, fury raises other errors;
        :func:`dipy_rnn.io.read_tractogram` turns them into ValueError.

    Notes
    -----
    VTK may end the process if the inside of a file is damaged.
    """
    from dipy.io.vtk import load_vtk_streamlines

    check_can_use_vtk(path, "the file")
    with path.open("rb") as file:
        header = _POINTS.search(file.read(1024))
    if header:  # VTK reads a file that is too short as an empty one
        coding, n_points, kind = header.groups()
        n_bytes = 2 if coding == b"ASCII" else {b"float": 4, b"double": 8}[kind]
        check_size(path, 3 * int(n_points) * n_bytes, False, "its points")
    with _quiet_vtk():
        lines = load_vtk_streamlines(str(path), to_lps=False)
    yield from ((line, {}) for line in lines)


def write_dpy(path: Path, batches: Iterable[Batch]) -> int:
    """Write batches of streamlines to a DPY file.

    Parameters
    ----------
    path : Path
    batches : iterable of Batch

    Returns
    -------
    n_streamlines : int
    """
    from dipy.io.dpy import Dpy
    from nibabel.streamlines.array_sequence import ArraySequence

    n_streamlines, content = 0, BytesIO()  # HDF5 crashes if the disk is full
    with closing(Dpy(content, mode="w")) as file:
        for batch in batches:
            lines = ArraySequence(_split(batch))
            file.write_tracks(lines)
            n_streamlines += len(lines)
    path.write_bytes(content.getbuffer())
    return n_streamlines


def read_dpy(path: Path) -> Iterator[tuple[AnyArray, dict[str, AnyArray]]]:
    """Read the streamlines of a DPY file.

    Parameters
    ----------
    path : Path

    Yields
    ------
    streamline : ndarray of shape (M, 3)
        Points in mm.
    values : dict
        Empty.

    Raises
    ------
    ValueError
        If the file is too short. If it is damaged otherwise, h5py raises other errors;
        :func:`dipy_rnn.io.read_tractogram` turns them into ValueError.
    """
    from dipy.io.dpy import Dpy

    with closing(Dpy(str(path), mode="r")) as file:
        for name in ("tracks", "offsets"):
            data = getattr(file, name)
            n_bytes = data.size * data.dtype.itemsize
            check_size(path, n_bytes, data.compression, name)
        yield from ((line, {}) for line in file.read_tracks())


def _split(batch: Batch) -> list[AnyArray]:
    """Return the streamlines of a batch."""
    points_mm, lengths, _ = batch
    return np.split(points_mm, np.cumsum(lengths)[:-1])


def _no_lines() -> object:
    """Return VTK's structure of an empty tractogram."""
    from vtk import vtkCellArray, vtkPoints, vtkPolyData

    polydata = vtkPolyData()
    polydata.SetPoints(vtkPoints())
    polydata.SetLines(vtkCellArray())
    return polydata


@contextmanager
def _quiet_vtk() -> Iterator[None]:
    """Hide messages of VTK, and a warning of NumPy about fury's colours of lines."""
    from vtk import vtkObject

    shown = vtkObject.GetGlobalWarningDisplay()
    vtkObject.GlobalWarningDisplayOff()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'where' used without 'out'")
            yield
    finally:
        vtkObject.SetGlobalWarningDisplay(shown)
