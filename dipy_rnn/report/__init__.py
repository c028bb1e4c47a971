"""Plots of tractograms, and the HTML page of a comparison.

Drawing needs ``pip install dipy_rnn[viz]``. Without it this package can be imported,
and each function raises ImportError when it is called.
"""

from dipy_rnn.report.page import write_report
from dipy_rnn.report.plots import (
    COLOURS,
    N_DRAWN,
    N_PAIRS,
    SLAB_MM,
    Difference,
    choose,
    direction_colours,
    draw_distances,
    draw_lengths,
    draw_pairs,
    draw_shares_within,
    draw_tractograms,
    png,
    save_picture,
)

__all__ = [
    "COLOURS",
    "N_DRAWN",
    "N_PAIRS",
    "SLAB_MM",
    "Difference",
    "choose",
    "direction_colours",
    "draw_distances",
    "draw_lengths",
    "draw_pairs",
    "draw_shares_within",
    "draw_tractograms",
    "png",
    "save_picture",
    "write_report",
]
