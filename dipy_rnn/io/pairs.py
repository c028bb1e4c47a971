"""Finding the files of an argument, and pairing the files of each subject.

Files of one subject are found by their wildcards, not by their order: the wildcards of
each argument must match the same words, such as ``sub-01`` and ``ses-2``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from glob import escape, glob
import logging
import os
from pathlib import Path
import re
from typing import TypeAlias

from dipy_rnn.io.files import check_input, is_trx_folder, shown

logger = logging.getLogger("dipy")  # DIPY's commands show and save its messages

#: Files of an argument: a path, a pattern, or a list of these.
Files: TypeAlias = str | Path | list[str]

_WILDCARD = re.compile(r"\[!?.[^]]*\]|[*?]")
_EXTENSIONS = re.compile(r"(\.[A-Za-z]\w{0,3})+$")
_WORD = re.compile(r"[^_.]+")
_MAX_SHOWN = 5  # problems in one error message


@dataclass(frozen=True)
class _Found:
    """A file, and the words that the wildcards of its pattern match."""

    path: Path
    words: tuple[str, ...] | None  # None if it was named without a wildcard

    def __str__(self) -> str:
        matched = ", ".join(self.words or ()) or "nothing"
        return shown(f"{self.path} (the wildcards match {matched})")


def find_files(files: Files, name: str) -> list[Path]:
    """Find the files of an argument.

    Parameters
    ----------
    files : str or Path, or list of str
        A file, or a TRX folder; another folder, for all files in it; or a pattern with
        wildcards.
    name : str
        Name of the argument, for errors.

    Returns
    -------
    paths : list of Path
        Sorted by the parts of the paths, as DIPY does since 1.12.

    Raises
    ------
    FileNotFoundError
        If there is no file, or one is a link to a file that does not exist.
    ValueError
        If a file cannot be read (:func:`dipy_rnn.io.files.check_input`), or a pattern
        has ``**`` in place of a folder.

    Examples
    --------
    >>> find_files("nothing-*.pam5", "pam_files")
    Traceback (most recent call last):
    FileNotFoundError: pam_files is nothing-*.pam5, which matches no file.
    """
    return [each.path for each in _find(files, name)]


def _find(files: Files, name: str) -> list[_Found]:
    if isinstance(files, list):
        return [found for each in files for found in _find(each, name)]
    if os.path.isfile(files) or is_trx_folder(files):
        check_input(Path(files))
        return [_Found(Path(files), None)]
    pattern = str(files)
    if os.path.isdir(files):
        pattern = os.path.join(escape(pattern), "*")
    if "**" in Path(pattern).parts:
        raise ValueError(
            f"{name} is {shown(files)}; ** is not read as any number of folders: write "
            "one * for each folder."
        )
    paths = sorted(map(Path, glob(pattern)))
    if not paths:
        raise FileNotFoundError(
            f"{name} is {shown(files)}, which "
            + ("is an empty folder." if os.path.isdir(files) else "matches no file.")
        )
    for path in paths:
        check_input(path)
    return [_Found(path, _matched_words(Path(pattern), path)) for path in paths]


def _matched_words(pattern: Path, path: Path) -> tuple[str, ...]:
    """Return the words of a path that wildcards match at least in part.

    A word ends at ``/``, ``_`` or ``.``; the extension of a file is no word.
    """
    words: list[str] = []
    for part, name in zip(pattern.parts, path.parts):
        spans = _wildcard_spans(part, name)
        words += [
            word[0]
            for word in _WORD.finditer(_EXTENSIONS.sub("", name))
            if any(_overlap(span, word.span()) for span in spans)
        ]
    return tuple(words)


def _overlap(matched: tuple[int, int], word: tuple[int, int]) -> bool:
    """Tell whether a wildcard matches a part of a word, or nothing beside it."""
    if matched[0] == matched[1]:  # sub-1* matches the whole word sub-1
        return word[0] <= matched[0] <= word[1]
    return matched[0] < word[1] and word[0] < matched[1]


def _wildcard_spans(pattern: str, name: str) -> list[tuple[int, int]]:
    """Return the spans of a name that the wildcards of its pattern match."""
    expression, end = "", 0
    for wildcard in _WILDCARD.finditer(pattern):
        expression += re.escape(pattern[end : wildcard.start()])
        end = wildcard.end()
        if wildcard[0] == "*":
            expression += "(.*)"
        elif len(wildcard[0]) == 3:  # a character that is escaped, as in [*]
            expression += "."
        else:
            expression += "(.)"
    match = re.fullmatch(expression + re.escape(pattern[end:]), name, re.S)
    if not match:  # fnmatch reads some unusual brackets differently
        return [(0, len(name))]
    return [match.span(i + 1) for i in range(len(match.groups()))]


def pair_files(**inputs: Files) -> list[list[Path]]:
    """Find the files of all subjects, and pair those of each subject.

    Parameters
    ----------
    **inputs : str or Path, or list of str
        Files of each argument: patterns with wildcards, or folders. A file that is
        named without a wildcard is used for all subjects. Lists of files without
        wildcards are paired by their order.

    Returns
    -------
    files : list of list of Path
        For each argument, one file per subject, in the order of the first argument
        with wildcards.

    Raises
    ------
    ValueError
        If a file has no partner or several possible partners, or lists differ in their
        number of files. The error names the files.
    FileNotFoundError
        If an argument matches no file, or a link leads to none.

    Notes
    -----
    The wildcards of an argument match words of a path, which end at ``/``, ``_`` or
    ``.``. If ``sub-*/fa.nii.gz`` matches ``sub-01/fa.nii.gz``, the word is ``sub-01``.
    Files are paired if these words are equal, in the same order. If there is no such
    file, repeated words are counted once, and an argument may have further words at
    the end: ``sub-*/csd.pam5`` is paired with ``sub-*/fa_*.nii.gz`` if there is one
    such image for each subject.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("sub-1_fa.nii", "sub-2_csd.pam5", "sub-2_fa.nii"):
    ...     (folder / name).touch()
    >>> pairs = pair_files(
    ...     pam_files=folder / "sub-*_csd.pam5", stopping_files=folder / "*-2_fa.nii")
    >>> [path.name for paths in pairs for path in paths]
    ['sub-2_csd.pam5', 'sub-2_fa.nii']
    >>> pair_files(
    ...     pam_files=folder / "sub-*_csd.pam5", stopping_files=folder / "*_fa.nii")
    Traceback (most recent call last):
    ValueError: pam_files: no file for ...
    """
    found = {name: _find(files, name) for name, files in inputs.items()}
    n_subjects = max(map(len, found.values()))
    shared, listed, matched = {}, {}, {}
    for name, files in found.items():
        if all(file.words is not None for file in files):
            matched[name] = files
        elif len(files) == 1:
            shared[name] = files
        else:
            listed[name] = files
    if listed and matched:
        raise ValueError(
            f"{next(iter(listed))} is a list of files and {next(iter(matched))} has "
            "wildcards; give lists of files, or wildcards, for all arguments."
        )
    if any(len(files) != n_subjects for files in listed.values()):
        counts = ", ".join(f"{name} {len(files)}" for name, files in found.items())
        raise ValueError(
            f"The arguments are lists of different numbers of files ({counts}); give "
            "one file for each subject."
        )
    paired = listed | _pair_by_words(matched)
    for name, files in shared.items():
        paired[name] = files * n_subjects
        if n_subjects > 1:
            logger.warning(f"{name} is {files[0].path} for all {n_subjects} subjects")
    columns = [[file.path for file in paired[name]] for name in inputs]
    if n_subjects > 1:
        for row in zip(*columns):
            logger.info(f"Paired: {', '.join(map(shown, row))}")
    return columns


def _pair_by_words(found: Mapping[str, Sequence[_Found]]) -> dict[str, list[_Found]]:
    """Pair the files of arguments with wildcards."""
    if len(found) < 2:
        return {name: list(files) for name, files in found.items()}
    # The argument with the most words tells subjects, sessions and runs apart.
    main = max(
        found, key=lambda name: sum(len(file.words or ()) for file in found[name])
    )
    partners = {main: list(found[main])}
    problems: list[str] = []
    for name in found:
        if name != main:
            partners[name] = _find_partners(found, main, name, problems)
    if problems:
        more = len(problems) - _MAX_SHOWN
        raise ValueError(
            "; ".join(problems[:_MAX_SHOWN])
            + (f"; and {more} more such files" if more > 0 else "")
            + ". Files belong together if their wildcards match the same words, such "
            "as sub-01: complete or remove these files, or write without a wildcard "
            "what differs within a subject."
        )
    first = next(iter(found))
    place = {file.path: i for i, file in enumerate(found[first])}
    order = sorted(
        range(len(found[main])), key=lambda i: place[partners[first][i].path]
    )
    return {name: [files[i] for i in order] for name, files in partners.items()}


def _find_partners(
    found: Mapping[str, Sequence[_Found]], main: str, name: str, problems: list[str]
) -> list[_Found]:
    """Return the partner of each file of `main`; append what has none to `problems`."""
    by_words: dict[tuple[str, ...], list[_Found]] = {}
    by_unique: dict[tuple[str, ...], list[_Found]] = {}
    for file in found[name]:
        by_words.setdefault(file.words or (), []).append(file)
        by_unique.setdefault(_unique(file.words or ()), []).append(file)
    partners: list[_Found] = []
    taken: dict[_Found, _Found] = {}
    for file in found[main]:
        unique = _unique(file.words or ())
        fitting = by_words.get(file.words or ())
        for n in range(len(unique), -1, -1):
            fitting = fitting or by_unique.get(unique[:n])
        if not fitting:
            problems.append(f"{name}: no file for {file}")
        elif len(fitting) > 1:
            problems.append(
                f"{name}: {fitting[0]} and {fitting[1]} fit the same file, {file}"
            )
        elif fitting[0] in taken:
            problems.append(
                f"{name}: {fitting[0]} fits two files, {taken[fitting[0]]} and {file}"
            )
        else:
            taken[fitting[0]] = file
            partners.append(fitting[0])
    if not any(" fit" in problem for problem in problems):
        unused = (file for file in found[name] if file not in taken)
        problems += [f"{main}: no file for {file}" for file in unused]
    return partners


def _unique(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))
