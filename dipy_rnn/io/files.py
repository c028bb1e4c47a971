"""Checks of files that all readers use, and text of paths and errors for messages."""

import os
from pathlib import Path

import numpy as np

from dipy_rnn._checks import FARTHEST_MM
from dipy_rnn._typing import AnyArray, AnyPath

# Deflate compresses at most 258 bytes into 2 bits: by a factor of 1032.
_MAX_COMPRESSION = 1032
#: Suffixes of VTK files.
VTK_SUFFIXES = (".vtk", ".vtp", ".fib")
#: Suffixes of tractogram files.
SUFFIXES = (".trx", ".trk", ".tck", *VTK_SUFFIXES, ".dpy")


# How files begin that stand for content that was not fetched.
_POINTERS = {
    b"/annex/objects/": "datalad get or git annex get",
    b"version https://git-lfs": "git lfs pull",
}
# Files of DSI Studio. Files .fib are of DSI Studio, or in VTK format.
_DSI_STUDIO = (".fib.gz", ".fz", ".src.gz", ".sz", ".tt.gz")
GZIP = b"\x1f\x8b"  # how files begin that gzip compressed
_LENGTH_OF_START = max(map(len, _POINTERS))


def check_is_file(path: Path) -> None:
    """Raise ValueError if a path is not a regular file.

    A folder cannot be read, and a pipe can be read only once.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ValueError
        If the path is not a file, is a pointer of git-annex or Git LFS in place of the
        content, is a compressed file with the suffix of a tractogram, or
        :func:`check_input` refuses it.
    FileNotFoundError
        If it is a link to a file that does not exist.
    """
    check_input(path)
    if not path.is_file():
        raise ValueError(
            f"{shown(path)} is not a file; a folder or a pipe cannot be read."
        )
    if os.access(path, os.R_OK):
        with path.open("rb") as file:
            start = file.read(_LENGTH_OF_START)
        if start.startswith(GZIP) and path.suffix.lower() in SUFFIXES:
            raise ValueError(
                f"{shown(path)} is compressed by gzip; rename it to {shown(path)}.gz, "
                "and decompress it with gunzip."
            )
        for begin, remedy in _POINTERS.items():
            if start.startswith(begin):
                raise ValueError(
                    f"{shown(path)} holds the name of the content, not the content; "
                    f"get it with {remedy}."
                )


def check_input(path: Path) -> None:
    """Raise an error for a file that no reader can read, and say what to do.

    Parameters
    ----------
    path : Path

    Raises
    ------
    FileNotFoundError
        If it is a link to a file that does not exist. The error names both.
    ValueError
        If it is an image of MRtrix3, a file of DSI Studio, or a compressed tractogram.

    Examples
    --------
    >>> check_input(Path("fa.nii.gz"))
    >>> check_input(Path("wm.mif"))
    Traceback (most recent call last):
    ValueError: wm.mif is an image of MRtrix3; convert it with mrconvert wm.mif ...
    """
    name, lower = shown(path), path.name.lower()
    if lower.endswith((".mif", ".mif.gz", ".mih")):
        raise ValueError(
            f"{name} is an image of MRtrix3; convert it with mrconvert {name} "
            f"{name[: lower.rindex('.mi') - len(lower)]}.nii.gz"
        )
    if lower.endswith(_DSI_STUDIO):
        raise ValueError(
            f"{name} is a file of DSI Studio; export it there as NIfTI (images) or "
            ".trk (tractograms)."
        )
    if lower.endswith(tuple(f"{suffix}.gz" for suffix in SUFFIXES)):
        raise ValueError(
            f"{name} is a compressed tractogram; decompress it with gunzip {name}"
        )
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(
            f"{shown(path)} is a link to {shown(os.readlink(path))}, which does not "
            "exist; get that file (with datalad get or git annex get, if it is in an "
            "annex), or correct the link."
        )


def is_trx_folder(path: AnyPath) -> bool:
    """Tell whether a path is a folder with the content of a TRX file.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    is_folder : bool

    Examples
    --------
    >>> is_trx_folder("no_folder")
    False
    """
    return Path(path, "header.json").is_file()


def is_tractogram(path: Path) -> bool:
    """Tell whether a path is a tractogram, by its suffix, or as a TRX folder.

    Parameters
    ----------
    path : Path

    Returns
    -------
    is_tractogram : bool

    Examples
    --------
    >>> is_tractogram(Path("lines.TRK")), is_tractogram(Path("labels.nii.gz"))
    (True, False)
    """
    return path.suffix.lower() in SUFFIXES or is_trx_folder(path)


def check_size(
    path: AnyPath, n_bytes: int, is_compressed: bool, what: str = "the data"
) -> None:
    """Raise ValueError if a file is too short for the data that its header announces.

    Call this before memory is allocated: a damaged header may announce terabytes.

    Parameters
    ----------
    path : str or Path
    n_bytes : int
        Size of the uncompressed data.
    is_compressed : bool
        Whether the file holds the data compressed by deflate (gzip, zip, HDF5). Then
        the file may be up to 1032 times smaller than the data.
    what : str, optional
        Name of the data in the error message.

    Raises
    ------
    ValueError
        If the file is too short.
    """
    factor = _MAX_COMPRESSION if is_compressed else 1
    if n_bytes > os.path.getsize(path) * factor:
        raise ValueError(f"{what} should take {n_bytes} bytes; the file is too short")


def shown(path: AnyPath) -> str:
    """Escape the characters of a path, or of a text, that cannot be printed.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    text : str
        One line that any terminal can show.

    Examples
    --------
    >>> shown("a\\nb.trk")
    'a\\\\nb.trk'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))


def one_line(error: BaseException) -> str:
    """Return the message of an error as one line.

    Parameters
    ----------
    error : BaseException

    Returns
    -------
    line : str
        The name of the error class if the message is empty.

    Examples
    --------
    >>> one_line(ValueError("a\\nb"))
    'a b'
    >>> one_line(MemoryError())
    'MemoryError'
    """
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of the message of an error.

    Parameters
    ----------
    error : BaseException

    Returns
    -------
    line : str
        The name of the error class if the message is empty.

    Examples
    --------
    >>> first_line(ValueError("a\\nb"))
    'a'
    """
    return shown((str(error).strip() or type(error).__name__).splitlines()[0])


def check_distance(points_mm: AnyArray) -> AnyArray:
    """Return points (M, 3). Raise ValueError if one is not finite, or too far away.

    Examples
    --------
    >>> check_distance(np.array([[0.0, np.inf, 0]]))
    Traceback (most recent call last):
    ValueError: a point is not finite, or farther than 1e+06 mm from the origin
    """
    # "not <=" instead of ">", because comparisons with NaN are False.
    # "float", because the limit is infinite in float16.
    if len(points_mm) and not float(np.abs(points_mm).max()) <= FARTHEST_MM:
        raise ValueError(
            f"a point is not finite, or farther than {FARTHEST_MM:g} mm from the origin"
        )
    return points_mm
