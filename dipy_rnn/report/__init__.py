"""Plots of tractograms, and the HTML page of a comparison.

Without matplotlib, jinja2 and plotly (``pip install dipy_rnn[viz]``) this package can
be imported. A function that needs one of them raises ImportError when it is called.
"""

from dipy_rnn._moved import find_moved
from dipy_rnn.report.charts import draw_distances, draw_lengths, draw_shares_within
from dipy_rnn.report.difference import Difference
from dipy_rnn.report.page import write_report
from dipy_rnn.report.panels import COLOURS
from dipy_rnn.report.plots import (
    N_DRAWN,
    choose,
    direction_colours,
    draw_pairs,
    draw_tractograms,
    png,
    save_picture,
    save_picture_of,
)

__all__ = [
    "COLOURS",
    "N_DRAWN",
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
    "save_picture_of",
    "write_report",
]


def __getattr__(name: str) -> object:
    return find_moved(__name__, name)
