"""Files that are complete under their name, or not there at all."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
import csv
import errno
import os
from pathlib import Path
import re
import shutil
import socket
import tempfile

from dipy_rnn._typing import AnyPath

# There is no more room; such errors often do not say where.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@contextmanager
def atomic_write(path: AnyPath) -> Iterator[Path]:
    """Write a file elsewhere, and move it into place when it is complete.

    Parameters
    ----------
    path : str or Path
        Of the file; one that is there stays until the new one takes its place.

    Yields
    ------
    partial : Path
        To be written, under the same name in a hidden folder beside `path`, where
        there is room for other files as long as this one is written.

    Raises
    ------
    OSError
        If it cannot be written; it names `path`.

    Notes
    -----
    The file is on the disk (:func:`os.fsync`) before it is moved. Whatever ends the
    block, Ctrl-C too, nothing else is left. Only a process that is killed cannot clean
    up: the next one that writes `path` on the same host does so, and knows by the
    process number in the folder's name whether that process still lives. On Windows,
    where this cannot be asked safely, the folder stays.

    Examples
    --------
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_write(path) as partial:
    ...     _ = partial.write_text("all of it")
    ...     path.exists()
    False
    >>> path.read_text()
    'all of it'
    """
    path = Path(path)
    try:
        _sweep(path)
        prefix = f"{_prefix(path)}{os.getpid()}."
        folder = Path(tempfile.mkdtemp(".partial", prefix, path.parent))
    except OSError as error:
        raise _naming(path, error) from None
    try:
        partial = folder / path.name
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if str(folder) in str(error.filename) or (
            error.filename is None and error.errno in _NO_ROOM
        ):
            raise _naming(path, error) from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def save_table(
    path: Path, columns: Collection[str], rows: Iterable[Mapping[str, object]]
) -> None:
    """Write a table as a CSV file.

    Parameters
    ----------
    path : Path
        It is replaced, when the table is complete.
    columns : collection of str
    rows : iterable of dict of str to object
        Values by column; blank where a row has none.

    Examples
    --------
    >>> path = Path(tempfile.mkdtemp()) / "table.csv"
    >>> save_table(path, ("a", "b"), [{"a": 1, "b": 2}, {"b": 3}])
    >>> path.read_text().split()
    ['a,b', '1,2', ',3']
    """
    with (
        atomic_write(path) as partial,
        open(partial, "w", newline="", encoding="utf-8") as file,
    ):
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)


def _naming(path: Path, error: OSError) -> OSError:
    return OSError(error.errno, error.strerror, str(path))


def _prefix(path: Path) -> str:
    """Return how the names of the folders begin that this host makes for a file."""
    return f".{path.name}.{socket.gethostname()}."


def _sweep(path: Path) -> None:
    """Remove what processes of this host left that were killed."""
    pattern = re.compile(re.escape(_prefix(path)) + r"(\d+)\.\w+\.partial")
    for name in os.listdir(path.parent):
        leftover = pattern.fullmatch(name)
        if leftover and not _lives(int(leftover[1])):
            shutil.rmtree(path.parent / name, ignore_errors=True)


def _lives(process: int) -> bool:
    if os.name != "posix":
        return True  # os.kill would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's; no number of a process
        return True
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # no Linux
        return True
    return state != "Z"  # ended, and nobody asked how: so it stays in some containers
