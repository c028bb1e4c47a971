"""Paths of a workflow: inputs for DIPY's iterator, and the check of outputs."""

from collections import Counter
from collections.abc import Iterable
from glob import escape
from pathlib import Path

from dipy_rnn._typing import AnyPath


def as_patterns(paths: Iterable[Path]) -> list[str]:
    """Write paths as the patterns that DIPY's iterator reads.

    It replaces a folder by the files in it, but not a pattern that matches a folder.
    """
    return [
        escape(str(path)[:-1]) + f"[{path.name[-1]}]"
        if path.is_dir()
        else escape(str(path))
        for path in paths
    ]


class CheckedOutputs:
    """Mixin of a DIPY workflow: raise an error if an output cannot be written.

    DIPY's own workflows log a message instead, and end with exit status 0.
    """

    # Attributes of dipy.workflows.workflow.Workflow, the other base class.
    flat_outputs: list[Path]
    _force_overwrite: bool
    _mix_names: bool
    _skip: bool

    def manage_output_overwrite(self) -> bool:
        """Raise an error if two outputs have one path, or an output exists."""
        outputs = [str(output) for output in self.flat_outputs]
        twice = [output for output, n in Counter(outputs).items() if n > 1]
        if twice:
            mixed = "" if self._mix_names else "--mix_names, or "
            raise ValueError(
                f"{outputs.count(twice[0])} subjects would write {twice[0]}; add "
                f"{mixed}--out_strat append with a relative --out_dir, to give each "
                "subject its own file."
            )
        self.refuse_existing(outputs)
        return True

    def refuse_existing(self, paths: Iterable[AnyPath]) -> None:
        """Raise an error if a path cannot be written, or is not to be overwritten.

        With --force or --skip_existing, existing files are not an error. Folders are.
        """
        outputs = list(map(Path, paths))
        refuse_folders(outputs)
        existing = [path for path in outputs if path.exists()]
        if existing and not (self._force_overwrite or self._skip):
            raise FileExistsError(
                f"{existing[0]} exists already; add --force to overwrite it."
            )


def refuse_folders(paths: Iterable[Path]) -> None:
    """Raise an error if an output is a folder, or a file is in place of its folder."""
    for path in paths:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; give another output.")
        for parent in path.parents:
            if parent.exists() and not parent.is_dir():
                raise NotADirectoryError(
                    f"{path} cannot be written: {parent} is a file, not a folder."
                )
