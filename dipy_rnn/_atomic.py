"""Writing a file completely or not at all."""

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

# Errors of a full or broken disk; they often do not name the file.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@contextmanager
def atomic_write(path: AnyPath) -> Iterator[Path]:
    """Write a file in a temporary folder, and move it to its place when complete.

    Parameters
    ----------
    path : str or Path
        Final path of the file. An existing file stays until it is replaced. If it is a
        symbolic link, the file that it leads to is written, and the link stays.

    Yields
    ------
    partial : Path
        Path to write to: the same name, in a hidden folder beside the file. Other
        temporary files may be put into that folder.

    Raises
    ------
    OSError
        If the file cannot be written, or another process on this host is writing it.
        The error names `path`.

    Notes
    -----
    The file is flushed to the disk (:func:`os.fsync`) before it is moved. The folder
    is removed when the block ends, also after an error or Ctrl-C.

    A process that is killed cannot remove its folder. The name of the folder contains
    the number of that process. The next process that writes `path` on the same host
    removes the folder if no process with that number is running. On Windows this cannot
    be tested safely, so the folder stays.

    Examples
    --------
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_write(path) as partial:
    ...     _ = partial.write_text("complete")
    ...     path.exists()
    False
    >>> path.read_text()
    'complete'
    """
    path = Path(path)
    target = path.resolve() if path.is_symlink() else path
    try:
        _remove_leftovers(target)
        prefix = f"{_folder_prefix(target)}{os.getpid()}."
        folder = Path(tempfile.mkdtemp(".partial", prefix, target.parent))
    except OSError as error:
        raise _naming(path, error) from None
    try:
        partial = folder / target.name
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError as error:
        if str(folder) in str(error.filename) or (
            error.filename is None and error.errno in _DISK_ERRORS
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
        An existing file is replaced when the table is complete.
    columns : collection of str
    rows : iterable of dict of str to object
        Values by column. A missing value leaves its cell empty.

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
    """Return the same error, with `path` as the name of the file."""
    return OSError(error.errno, error.strerror, str(path))


def _folder_prefix(path: Path) -> str:
    """Return the prefix of the folders for `path` that this host makes."""
    return f".{path.name}.{socket.gethostname()}."


def _remove_leftovers(path: Path) -> None:
    """Remove the folders for `path` of processes on this host that were killed.

    Raise OSError if another process is writing `path`.
    """
    pattern = re.compile(re.escape(_folder_prefix(path)) + r"(\d+)\.\w+\.partial")
    for name in os.listdir(path.parent):
        leftover = pattern.fullmatch(name)
        if not leftover or int(leftover[1]) == os.getpid():
            continue
        is_running = _is_running(int(leftover[1]))
        if is_running:
            raise OSError(
                errno.EBUSY,
                f"process {leftover[1]} is writing this file; wait for it, or write "
                f"another file (if it is not writing, delete the folder {name})",
            )
        if is_running is False:
            shutil.rmtree(path.parent / name, ignore_errors=True)


def _is_running(process: int) -> bool | None:
    """Tell whether a process of this user is running; None if that is not certain."""
    if os.name != "posix":
        return None  # on Windows os.kill would end the process
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's, or too large a number
        return None
    # In a container whose first process does not wait for its children, a killed
    # process stays as a zombie (Z), to which os.kill can send signals.
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # not Linux
        return True
    return state != "Z"
