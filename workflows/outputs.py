"""What the commands write: nothing by halves, and nothing over what is there."""

from collections import Counter
from importlib.util import find_spec
import os
from pathlib import Path


class WholeOutputs:
    """A workflow that refuses to begin what it could not write."""

    def manage_output_overwrite(self):
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

    def refuse_existing(self, paths):
        """Refuse to write over a file, unless it was asked for.

        Parameters
        ----------
        paths : iterable of str or Path

        Raises
        ------
        FileExistsError
        """
        existing = [path for path in paths if Path(path).exists()]
        if existing and not self._force_overwrite:
            raise FileExistsError(
                f"{existing[0]} exists already; add --force to overwrite it."
            )


def save_streamlines(path, streamlines, reference, seeds=None):
    """Write a tractogram under a temporary name and move it into place.

    Parameters
    ----------
    path : Path
        Ends in ``.trx``, ``.trk`` or ``.tck``.
    streamlines : list of ndarray of shape (M, 3)
        In mm.
    reference : Path
        Image whose space the tractogram is in.
    seeds : list of ndarray of shape (3,), optional
        One for each streamline, in mm.
    """
    from dipy.io.stateful_tractogram import Space, StatefulTractogram
    from dipy.io.streamline import save_tractogram

    tractogram = StatefulTractogram(
        streamlines,
        str(reference),
        Space.RASMM,
        data_per_streamline={} if seeds is None else {"seeds": seeds},
    )
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        save_tractogram(tractogram, str(partial), bbox_valid_check=False)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def check_installed(packages, what):
    """Refuse to begin what would end for want of a package.

    Parameters
    ----------
    packages : sequence of str
        Of the extra ``viz``.
    what : str
        What needs them.

    Raises
    ------
    ValueError
        If one is not installed.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{what} needs {', '.join(missing)}; install it with "
            'pip install "dipy_rnn[viz]".'
        )
