"""Checks of files that all readers use, and text of paths and errors for messages."""

import os
from pathlib import Path

from dipy_rnn._typing import AnyPath

# Deflate compresses at most 258 bytes into 2 bits: by a factor of 1032.
_MAX_COMPRESSION = 1032


def check_is_file(path: Path) -> None:
    """Raise ValueError if a path is not a regular file.

    A folder cannot be read, and a pipe can be read only once.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ValueError
        If the path is not a file.
    FileNotFoundError
        If it is a link to a file that does not exist.
    """
    check_link(path)
    if not path.is_file():
        raise ValueError(
            f"{shown(path)} is not a file; a folder or a pipe cannot be read."
        )


def check_link(path: Path) -> None:
    """Raise FileNotFoundError if a path is a link to a file that does not exist.

    Parameters
    ----------
    path : Path

    Raises
    ------
    FileNotFoundError
        The error names the link and its target.

    Examples
    --------
    >>> check_link(Path("no_link.nii.gz"))
    """
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(
            f"{shown(path)} is a link to {shown(os.readlink(path))}, which does not "
            "exist; get that file (with datalad get or git annex get, if it is in an "
            "annex), or correct the link."
        )


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
