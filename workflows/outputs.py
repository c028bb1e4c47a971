"""What the commands write: nothing by halves, and nothing over what is there."""

from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from dipy_rnn._typing import AnyPath


class WholeOutputs:
    """A workflow that refuses to begin what it could not write."""

    # DIPY's Workflow, which comes after this one, has them.
    flat_outputs: list[Path]
    _force_overwrite: bool
    _skip: bool

    def manage_output_overwrite(self) -> bool:
        """Refuse to write one file twice, or over one that exists."""
        outputs = [str(output) for output in self.flat_outputs]
        twice = [output for output, n in Counter(outputs).items() if n > 1]
        if twice:
            raise ValueError(
                f"{outputs.count(twice[0])} subjects would write {twice[0]}; add "
                "--mix_names, or --out_strat append with a relative --out_dir, to give "
                "each its own."
            )
        self.refuse_existing(outputs)
        return True

    def refuse_existing(self, paths: Iterable[AnyPath]) -> None:
        """Refuse to write over a file, unless it was asked for or is to be skipped.

        Parameters
        ----------
        paths : iterable of str or Path

        Raises
        ------
        FileExistsError
        """
        existing = [path for path in paths if Path(path).exists()]
        if existing and not (self._force_overwrite or self._skip):
            raise FileExistsError(
                f"{existing[0]} exists already; add --force to overwrite it."
            )


def check_installed(packages: Sequence[str], what: str, extra: str) -> None:
    """Refuse to begin what would end for want of a package.

    Parameters
    ----------
    packages : sequence of str
    what : str
        What needs them.
    extra : str
        That of this package which installs them.

    Raises
    ------
    ValueError
        If one is not installed.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{what} needs {', '.join(missing)}; install it with "
            f'pip install "dipy_rnn[{extra}]".'
        )
