"""Log of a training: a table, a plot of its curves, and events for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dipy_rnn._atomic import atomic_write, save_table

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_TABLE = "log.csv"
_CURVES = "curves.png"
_EVENTS = "events.out.tfevents.*"


class TrainingLog:
    """Write the history of a training into a folder, at each validation.

    The folder receives ``log.csv``, ``curves.png`` if matplotlib is installed, and an
    events file if TensorBoard is installed.

    Parameters
    ----------
    folder : Path
        An existing folder.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> TrainingLog(folder)([{"update": 1, "loss": 0.5}])
    >>> (folder / "log.csv").read_text().split()
    ['update,loss', '1,0.5']
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._events: SummaryWriter | None = None

    def close(self) -> None:
        """Close the events file."""
        if self._events:
            self._events.close()

    def __call__(self, history: list[dict[str, float]]) -> None:
        """Write all rows; only the last one is new. Missing values are left blank."""
        # Rows may have different columns: a resumed training may validate although it
        # did not before the interruption.
        columns = dict.fromkeys(name for row in history for name in row)
        save_table(self._folder / _TABLE, columns, history)
        # Opened when the first row is written, so that a training that fails earlier
        # leaves no events file.
        self._events = self._events or _open_events(self._folder)
        if self._events:
            row = history[-1]
            for name in row.keys() - {"update"}:
                self._events.add_scalar(name, row[name], row["update"])
            self._events.flush()
        draw_curves(history, self._folder / _CURVES)


def _open_events(folder: Path) -> SummaryWriter | None:
    """Return a writer of TensorBoard events; None if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder)


def remove_log(folder: Path) -> None:
    """Remove the files that a `TrainingLog` wrote into a folder.

    Parameters
    ----------
    folder : Path
    """
    for pattern in (_TABLE, _CURVES, _EVENTS):
        for path in folder.glob(pattern):
            path.unlink()


def row_text(row: dict[str, float]) -> str:
    """Return a row of the history as a line of text.

    Parameters
    ----------
    row : dict
        As :func:`dipy_rnn.training.loop.fit` makes it.

    Returns
    -------
    text : str

    Examples
    --------
    >>> row_text({"update": 2, "minutes": 0.1, "loss": 0.5, "error_deg": 9})
    'update 2, 0.1 min: loss 0.5000, error 9.00 degrees'
    """
    text = (
        f"update {row['update']}, {row['minutes']:.1f} min: loss {row['loss']:.4f}, "
        f"error {row['error_deg']:.2f} degrees"
    )
    if "followed" in row:
        text += (
            f"; held out: error {row['held_out_error_deg']:.2f} degrees, "
            f"{row['followed']:.3f} followed"
        )
    return text


def draw_curves(history: list[dict[str, float]], path: Path) -> None:
    """Plot the loss, the errors and the share of followed streamlines.

    Parameters
    ----------
    history : list of dict
        As :func:`dipy_rnn.training.loop.fit` returns it. A curve has a gap where a row
        lacks its value.
    path : Path
        PNG file. If matplotlib is not installed, nothing is written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return
    panels = [
        ("Loss", {"loss": "training"}),
        (
            "Error of the next step (degrees)",
            {"error_deg": "training", "held_out_error_deg": "held out"},
        ),
        ("Held-out streamlines followed (share)", {"followed": "held out"}),
    ]
    known = {name for row in history for name in row}
    panels = [panel for panel in panels if panel[1].keys() & known]
    figure = Figure(figsize=(4 * len(panels), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    updates = [row["update"] for row in history]
    for axes, (title, curves) in zip(
        np.atleast_1d(figure.subplots(1, len(panels))), panels
    ):
        for name, label in curves.items():
            if name in known:
                colour = "tab:blue" if label == "training" else "tab:orange"
                values = [row.get(name, np.nan) for row in history]
                axes.plot(updates, values, ".-", color=colour, label=label)
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("Update")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
