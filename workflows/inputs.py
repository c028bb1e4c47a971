"""The files of the arguments that several commands share."""

from glob import escape, glob
import logging
import os
from pathlib import Path
from typing import TypeAlias

logger = logging.getLogger("dipy")  # DIPY's commands show and save its messages

#: Files of an argument: a path, a pattern, or a list of these.
Files: TypeAlias = str | Path | list[str]


def find_files(files: Files, name: str) -> list[Path]:
    """Find the files of an argument.

    Parameters
    ----------
    files : str or Path, or list of str
        A file; a folder, for all files in it; or a pattern with wildcards.
    name : str
        Name of the argument, for errors.

    Returns
    -------
    paths : list of Path
        Sorted by the parts of the paths, as DIPY does since 1.12.

    Raises
    ------
    FileNotFoundError
        If there is no file.

    Examples
    --------
    >>> find_files("nothing-*.pam5", "pam_files")
    Traceback (most recent call last):
    FileNotFoundError: pam_files is nothing-*.pam5, which matches no file.
    """
    if isinstance(files, list):
        return [path for each in files for path in find_files(each, name)]
    if os.path.isfile(files):
        return [Path(files)]
    pattern = str(files)
    if os.path.isdir(files):
        pattern = os.path.join(escape(pattern), "*")
    paths = sorted(map(Path, glob(pattern)))
    if not paths:
        raise FileNotFoundError(f"{name} is {files}, which matches no file.")
    return paths


def pair_files(**inputs: Files) -> list[list[str]]:
    """Find the files of all subjects, in the same order for each argument.

    Parameters
    ----------
    **inputs : str or Path, or list of str
        Files of each argument. A single file is used for all subjects.

    Returns
    -------
    files : list of list of str
        For each argument, one file per subject. Paths are escaped: DIPY reads them as
        patterns, and sorts the files of a pattern differently in different versions.

    Raises
    ------
    ValueError, FileNotFoundError
        If an argument matches no file, or the numbers of files differ.
    """
    found = {name: find_files(files, name) for name, files in inputs.items()}
    n_subjects = max(map(len, found.values()))
    if any(len(paths) not in (1, n_subjects) for paths in found.values()):
        counts = ", ".join(f"{name} {len(paths)}" for name, paths in found.items())
        raise ValueError(
            f"The arguments match different numbers of files ({counts}); give one file "
            "for each subject."
        )
    for name, paths in found.items():
        if len(paths) < n_subjects:
            logger.warning(f"{name} is {paths[0]} for all {n_subjects} subjects")
    return [
        [escape(str(path)) for path in paths * (n_subjects // len(paths))]
        for paths in found.values()
    ]


def match_files(files: Files, n_subjects: int, name: str) -> list[Path]:
    """Find the files of an option that takes one file for each subject.

    As :func:`find_files`, in the order of :func:`pair_files`.

    Raises
    ------
    ValueError, FileNotFoundError
        If the number of files is not the number of subjects.
    """
    paths = find_files(files, name)
    if len(paths) != n_subjects:
        raise ValueError(
            f"{name} is {files}, which matches {len(paths)} files for {n_subjects} "
            "subjects; give one file for each subject."
        )
    return paths
