"""What a training leaves to look at: a table, curves, TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dipy_rnn._atomic import atomic_write, save_table

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TrainingLog:
    """Write the history of a training into a folder, anew at each validation.

    ``log.csv`` always; ``curves.png`` where matplotlib is installed, and events for
    TensorBoard where that is.

    Parameters
    ----------
    folder : Path
        That is there.

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
        """Close what TensorBoard reads."""
        if self._events:
            self._events.close()

    def __call__(self, history: list[dict[str, float]]) -> None:
        """Write all rows, blank where one has no such figure; the last one is new."""
        # A training that is resumed may validate where it did not before.
        columns = dict.fromkeys(name for row in history for name in row)
        save_table(self._folder / "log.csv", columns, history)
        # Not before there is a row: a training that fails leaves no file of events.
        self._events = self._events or _open_events(self._folder)
        if self._events:
            row = history[-1]
            for name in row.keys() - {"update"}:
                self._events.add_scalar(name, row[name], row["update"])
            self._events.flush()
        draw_curves(history, self._folder / "curves.png")


def _open_events(folder: Path) -> SummaryWriter | None:
    """Return what writes for TensorBoard; None where that is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder)


def draw_curves(history: list[dict[str, float]], path: Path) -> None:
    """Draw loss, errors and the share that is followed over the updates.

    Parameters
    ----------
    history : list of dict
        As :func:`dipy_rnn.training.fit.fit` returns it; a curve has a gap where a row
        has no such figure.
    path : Path
        A picture; nothing is drawn where matplotlib is not installed.
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
