"""Charts of a comparison: distances between partners, and lengths of streamlines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import textwrap
from typing import TYPE_CHECKING, Any

from dipy.tracking.streamlinespeed import length
import numpy as np

from dipy_rnn._typing import AnyArray, FloatArray
from dipy_rnn.report.panels import COLOURS, escape_dollars, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CHART_INCHES = (3.55, 2.9)
_MIN_DISTANCE_MM = 0.01  # lower end of the logarithmic axis


def draw_distances(
    distances: Mapping[str, FloatArray], labels: Mapping[str, str]
) -> Figure:
    """Draw a histogram of the distances from streamlines to their partners.

    Parameters
    ----------
    distances : dict of str to ndarray of shape (N,)
        In mm, of ``"candidate"`` and optionally of ``"yardstick"``, the self-agreement
        baseline. Infinite if one of the two partners is missing; such streamlines count
        in the 100 % but are not drawn. NaN if both are missing; such pairs are not
        counted.
    labels : dict of str to str
        Name of each of them.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> distances = {"candidate": np.array([1.0, 2])}
    >>> draw_distances(distances, {"candidate": "mine"}).axes[0].get_xlabel()
    'distance to the partner (mm)'
    """
    figure, axes = _chart("distance to the partner (mm)", "streamlines (%)")
    edges = np.geomspace(_MIN_DISTANCE_MM, _max_distance(distances), 41)
    for key, values in distances.items():
        counts, _ = np.histogram(_finite_distances(values), edges)
        heights = 100 * counts / max(np.count_nonzero(~np.isnan(values)), 1)
        axes.stairs(heights, edges, **_style(key, labels))
    _finish(figure, axes, logarithmic=True)
    return figure


def draw_shares_within(
    distances: Mapping[str, FloatArray], labels: Mapping[str, str]
) -> Figure:
    """Draw the share of streamlines whose partner is within a distance.

    Parameters
    ----------
    distances : dict of str to ndarray of shape (N,)
        As for :func:`draw_distances`. An infinite distance is outside of every
        distance.
    labels : dict of str to str
        Name of each of them.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> distances = {"candidate": np.array([1.0, np.inf])}
    >>> figure = draw_shares_within(distances, {"candidate": "mine"})
    >>> print(figure.axes[0].lines[0].get_ydata().max())
    50.0
    """
    figure, axes = _chart("distance (mm)", "cumulative share (%)")
    most = _max_distance(distances)
    for key, values in distances.items():
        finite = np.sort(_finite_distances(values))
        n = int(np.count_nonzero(~np.isnan(values)))
        shares = 100 * np.arange(len(finite) + 1) / max(n, 1)
        axes.step(
            [_MIN_DISTANCE_MM, *finite, most],
            [*shares, shares[-1]],
            where="post",
            **_style(key, labels),
        )
    axes.set_ylim(0, 100)
    axes.grid(color="#E4E4E4")
    _finish(figure, axes, logarithmic=True)
    return figure


def draw_lengths(
    streamlines: Mapping[str, Iterable[AnyArray]], labels: Mapping[str, str]
) -> Figure:
    """Draw a histogram of the lengths of streamlines.

    Parameters
    ----------
    streamlines : dict of str to iterable of ndarrays of shape (M, 3)
        In mm, of any of ``"candidate"``, ``"reference"`` and ``"yardstick"``.
        Streamlines without points are not counted.
    labels : dict of str to str
        Name of each of them.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [30, 0, 0]])
    >>> figure = draw_lengths({"reference": [line]}, {"reference": "theirs"})
    >>> figure.axes[0].get_ylabel()
    'streamlines (%)'
    """
    figure, axes = _chart("length (mm)", "streamlines (%)")
    lengths = {
        key: np.array([length(line) for line in lines if len(line)])
        for key, lines in streamlines.items()
    }
    most = max([1.0, *np.concatenate([np.empty(0), *lengths.values()])])
    edges = np.linspace(0, most, 41)
    for key, values in lengths.items():
        counts, _ = np.histogram(values, edges)
        heights = 100 * counts / max(len(values), 1)
        axes.stairs(heights, edges, **_style(key, labels))
    axes.set_xlim(0, most)
    _finish(figure, axes)
    return figure


def _chart(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = new_figure(*_CHART_INCHES, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(xlabel, fontsize=9)
    axes.set_ylabel(ylabel, fontsize=9)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _style(key: str, labels: Mapping[str, str]) -> dict[str, Any]:
    dashed = key == "yardstick"
    return {
        "label": escape_dollars(textwrap.fill(labels[key], 45)),
        "color": COLOURS[key],
        "linewidth": 1.6,
        "linestyle": "--" if dashed else "-",
        "zorder": 2.5 if dashed else 3,
    }


def _finite_distances(distances_mm: FloatArray) -> FloatArray:
    """Return the finite distances; those below the axis become its lower end."""
    return np.maximum(distances_mm[np.isfinite(distances_mm)], _MIN_DISTANCE_MM)


def _max_distance(distances: Mapping[str, FloatArray]) -> float:
    """Return the largest finite distance, at least 10 mm."""
    values = np.concatenate(list(distances.values()))
    return float(np.max(values[np.isfinite(values)], initial=10.0))


def _finish(figure: Figure, axes: Axes, logarithmic: bool = False) -> None:
    """Scale the axes, and put the legend above them."""
    from matplotlib.ticker import StrMethodFormatter

    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(left=_MIN_DISTANCE_MM)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper left", frameon=False, fontsize=8.5)
