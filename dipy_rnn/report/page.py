"""The HTML page of a comparison of two tractograms: metrics, plots, a 3D view.

:func:`write_report` writes one HTML file without external resources: it opens from
disk, makes no network requests, and can be printed. The metrics come from
metrics.json; the plots are drawn here.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from math import floor, inf, isfinite, log10, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from dipy_rnn._atomic import atomic_write
from dipy_rnn._typing import AnyArray, ArrayLike, FloatArray
from dipy_rnn.evaluation import Estimate
from dipy_rnn.evaluation.definitions import Metric
from dipy_rnn.report.charts import draw_distances, draw_lengths, draw_shares_within
from dipy_rnn.report.difference import Difference
from dipy_rnn.report.panels import COLOURS
from dipy_rnn.report.plots import SLAB_MM, choose, draw_pairs, draw_tractograms, png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_IN_3D = 1000  # streamlines of each tractogram
CSS_PIXELS_PER_INCH = 100  # of the plots
_KEYS = ("candidate", "reference", "yardstick")
# Name, label, unit and meaning.
_TRACKER_METRICS = (
    ("n_seeds", "Seeds", "", "Points where tracking started."),
    ("n_streamlines", "Streamlines", "", "Streamlines that were kept."),
    ("n_points", "Points", "", "Points of all streamlines."),
    ("seconds", "Time", "s", "Duration of tracking."),
    ("steps_per_second", "Steps per second", "", "Tracking steps of all threads."),
)
_BUNDLE_METRICS = (
    ("n_valid", "Valid", ""),
    ("overlap", "Overlap", "%"),
    ("overreach", "Overreach", "%"),
    ("f1", "F1", ""),
    ("shape_similarity", "Shape similarity", ""),
)


class _Cell(TypedDict):
    """The text of a metric for one tracker."""

    value: str
    interval: str


class _Row(TypedDict):
    """The text of a metric for all trackers."""

    label: str
    cells: list[_Cell]
    meaning: str
    better: str
    source: str


def write_report(
    path: Path,
    metrics: Mapping[str, Any],
    streamlines: Mapping[str, Sequence[AnyArray]],
    image: ArrayLike,
    affine: ArrayLike,
    distances: Mapping[str, FloatArray],
    pairs: ArrayLike | None = None,
) -> None:
    """Write the HTML page of a comparison of two tractograms.

    Parameters
    ----------
    path : Path
        HTML file to write. If writing fails, what was at the path stays as it was.
    metrics : dict
        The sections of metrics.json. ``title``, ``trackers``, ``between`` and ``each``
        are required. ``between`` and ``each`` are lists of
        :class:`dipy_rnn.evaluation.definitions.Metric`. ``date``, ``command``,
        ``versions``, ``machine``, ``inputs``, ``options``, ``model`` and ``bundles``
        are optional. None and NaN are shown as a dash.
    streamlines : dict of str to sequence of ndarrays of shape (M, 3)
        In mm, of ``"candidate"``, ``"reference"`` and optionally ``"yardstick"``, the
        self-agreement baseline. A seed without a streamline has an empty array.
    image : array_like of shape (X, Y, Z)
        Drawn below the streamlines, such as the image of the stopping criterion.
    affine : array_like of shape (4, 4)
        Voxel to mm.
    distances : dict of str to ndarray of shape (N,)
        Distances from streamlines to their partners in mm, of ``"candidate"`` and
        optionally of ``"yardstick"``. Infinite if one of the two streamlines is
        missing, NaN if both are.
    pairs : array_like of shape (N,), int, optional
        Index of each candidate streamline's partner in the reference, -1 for no
        partner. By default, streamlines with the same index are partners.

    Raises
    ------
    ValueError
        If the numbers of streamlines, distances and pairs differ, if `pairs` holds
        invalid indices, if `image` or `affine` has another shape, or if the affine
        is invalid.
    ImportError
        If jinja2, matplotlib or plotly is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> line = np.array([[0.0, 2, 2], [4, 2, 2]])
    >>> streamlines = {"candidate": [line], "reference": [line + [0, 1, 0]]}
    >>> trackers = {key: {"label": key, "n_streamlines": 1} for key in streamlines}
    >>> metrics = {"title": "A line", "trackers": trackers, "between": [], "each": []}
    >>> path = Path(tempfile.mkdtemp()) / "report.html"
    >>> image, distances = np.ones((5, 5, 5)), {"candidate": np.array([1.0])}
    >>> write_report(path, metrics, streamlines, image, np.eye(4), distances)
    >>> "<h1>A line</h1>" in path.read_text(encoding="utf-8")
    True
    """
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError(
            "A report needs jinja2, matplotlib and plotly. "
            "Install them with: pip install dipy_rnn[viz]"
        ) from error
    partners = _partners(streamlines, distances, pairs)
    candidate, reference = streamlines["candidate"], streamlines["reference"]
    trackers = metrics["trackers"]
    keys = [key for key in _KEYS if key in trackers]
    labels = {key: trackers[key]["label"] for key in keys}
    difference = Difference(candidate, reference, image, affine)
    plots = {
        "map": difference.draw_map(),
        "tractograms": draw_tractograms(
            {labels[key]: streamlines[key] for key in _KEYS[:2]}, image, affine
        ),
        "densities": difference.draw(labels),
        "distances": draw_distances(distances, labels),
        "within": draw_shares_within(distances, labels),
        "lengths": draw_lengths(streamlines, labels),
    }
    if np.isfinite(distances["candidate"]).any():
        plots["pairs"] = draw_pairs(
            candidate, partners, distances["candidate"], image, affine
        )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dipy_rnn.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    page = environment.get_template("page.html.jinja").render(
        metrics=metrics,
        keys=keys,
        labels=labels,
        colours=COLOURS,
        close=_how_close(metrics["between"], keys),
        fast=_how_fast(trackers),
        difference={
            "sign": difference.sign,
            "position": _position(difference.point_mm),
        },
        between=_rows(metrics["between"], [key for key in keys if key != "reference"]),
        each=_tracker_rows(trackers, keys) + _rows(metrics["each"], keys),
        bundles=_bundle_rows(metrics.get("bundles", ()), keys),
        bundle_metrics=[label for _, label, _ in _BUNDLE_METRICS],
        facts={
            name: _facts(metrics.get(name, {}))
            for name in ("inputs", "options", "model", "versions", "machine")
        },
        plots={name: _embed(figure) for name, figure in plots.items()},
        slab_mm=SLAB_MM,
        n_in_3d=N_IN_3D,
        view=_view(streamlines),
        plotly=get_plotlyjs(),
    )
    with atomic_write(path) as partial:
        partial.write_bytes(page.encode())


def _partners(
    streamlines: Mapping[str, Sequence[AnyArray]],
    distances: Mapping[str, FloatArray],
    pairs: ArrayLike | None,
) -> list[AnyArray]:
    """Check the numbers of streamlines and pairs; return each candidate's partner."""
    reference, n = streamlines["reference"], len(streamlines["candidate"])
    if pairs is None:
        if len(reference) != n:
            raise ValueError(
                f"The candidate has {n} streamlines and the reference has "
                f"{len(reference)}; pairs is needed to tell which are partners."
            )
        pairs = np.arange(n)
    indices = np.asarray(pairs)
    if len(indices) != n or len(distances["candidate"]) != n:
        raise ValueError(
            f"The candidate has {n} streamlines, {len(indices)} pairs and "
            f"{len(distances['candidate'])} distances; the numbers must be equal."
        )
    if n and not (-1 <= indices.min() and indices.max() < len(reference)):
        raise ValueError(
            f"pairs holds {indices.min()} to {indices.max()}; -1 (no partner) to "
            f"{len(reference) - 1} is allowed."
        )
    return [reference[i] if i >= 0 else np.empty((0, 3)) for i in indices]


def _estimate(value: float | None) -> Estimate:
    """Return a value without standard error as an estimate."""
    return Estimate(nan if value is None else value)


def _decimals(value: float, unit: str, error: float) -> int:
    """Return the number of decimals to show.

    One unit of the last decimal is at most half of the standard error. If there is no
    standard error, whole numbers without a unit have no decimals, and other numbers
    have three significant digits. There are at most four decimals, and per cents have
    at least one.
    """
    if error:
        decimals = -floor(log10(error / 2))
    elif not unit and value == int(value):
        decimals = 0
    else:
        decimals = 2 - floor(log10(abs(value) or 1))
    return min(max(decimals, 1 if unit == "%" else 0), 4)


def _cells(estimates: Iterable[Estimate | None], unit: str) -> list[_Cell]:
    """Format the values and intervals of a row. A missing value is a dash."""
    scale = 100 if unit == "%" else 1
    suffix = {"": "", "deg": "°"}.get(unit, f"\N{NO-BREAK SPACE}{unit}")
    known = [estimate or Estimate(nan) for estimate in estimates]
    # All numbers of a row have the same decimals, so that columns can be compared.
    errors = [scale * estimate.standard_error for estimate in known]
    error = max(filter(isfinite, errors), default=0)

    def write(value: float) -> str:
        if not isfinite(value):
            return ""
        text = f"{scale * value:,.{_decimals(scale * value, unit, error)}f}"
        return text.replace("-", "\N{MINUS SIGN}")

    cells: list[_Cell] = []
    for estimate in known:
        value, low, high = map(write, (estimate.value, estimate.low, estimate.high))
        cells.append(
            {
                "value": value + suffix if value else "\N{EN DASH}",
                "interval": f"{low} to {high}" if low and high else "",
            }
        )
    return cells


def _rows(metrics: Iterable[Metric], keys: Sequence[str]) -> list[_Row]:
    """Return the rows of a table of metrics."""
    better = {"higher": "Higher is better.", "lower": "Lower is better."}
    return [
        {
            "label": metric.label,
            "cells": _cells([metric.estimates.get(key) for key in keys], metric.unit),
            "meaning": metric.definition,
            "better": better.get(metric.better, ""),
            "source": metric.source,
        }
        for metric in metrics
    ]


def _tracker_rows(
    trackers: Mapping[str, Mapping[str, Any]], keys: Sequence[str]
) -> list[_Row]:
    """Return the rows of counts and times that at least one tracker has."""
    rows: list[_Row] = []
    for name, label, unit, meaning in _TRACKER_METRICS:
        counts = [_estimate(trackers[key].get(name)) for key in keys]
        if any(isfinite(count.value) for count in counts):
            rows.append(
                {
                    "label": label,
                    "cells": _cells(counts, unit),
                    "meaning": meaning,
                    "better": "",
                    "source": "",
                }
            )
    return rows


def _bundle_rows(
    bundles: Iterable[Mapping[str, Any]], keys: Sequence[str]
) -> dict[str, dict[str, list[str]]]:
    """Return the rows of each bundle, one for each tracker."""
    return {
        bundle["label"]: {
            key: [
                _cells([_estimate(bundle[key].get(name))], unit)[0]["value"]
                for name, _, unit in _BUNDLE_METRICS
            ]
            for key in keys
            if bundle.get(key)
        }
        for bundle in bundles
    }


def _how_close(between: Sequence[Metric], keys: Sequence[str]) -> dict[str, Any] | None:
    """Return the content of the card on agreement, a box at the top of the page.

    The card shows the agreement within 2 mm or, if that is missing, the first metric.
    Return None if there is no metric, or if the candidate has no value.
    """
    if not between:
        return None
    metric = next((m for m in between if m.name == "alike"), between[0])
    estimates = metric.estimates
    known = [key for key in keys if key in estimates and isfinite(estimates[key].value)]
    if "candidate" not in known:
        return None
    cells = _cells([estimates[key] for key in known], metric.unit)
    percents = {key: 100 * estimates[key].value for key in known if metric.unit == "%"}
    return {
        "metric": metric,
        "texts": {key: cell["value"] for key, cell in zip(known, cells)},
        "percents": percents,
    }


def _how_fast(trackers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the content of the card on speed; None if a time is unknown."""
    for name, measure, unit in (
        ("seconds", "Time", "s"),
        ("steps_per_second", "Speed", "steps/s"),
    ):
        values: list[float] = [trackers[key].get(name) or 0 for key in _KEYS[:2]]
        if all(0 < value < inf for value in values):
            ratio = (
                values[0] / values[1] if unit == "steps/s" else values[1] / values[0]
            )
            cells = _cells([Estimate(value) for value in values], unit)
            n_seeds = trackers["candidate"].get("n_seeds")
            return {
                "ratio": f"{ratio:.{max(0, 1 - floor(log10(ratio)))}f}",
                "measure": measure,
                "n_seeds": f"{n_seeds:,}" if n_seeds else "",
                "texts": dict(zip(_KEYS, (cell["value"] for cell in cells))),
                "percents": dict(zip(_KEYS, (100 * v / max(values) for v in values))),
            }
    return None


def _facts(facts: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return (name, text) of all entries that are not None."""
    return [
        (name, f"{value:g}" if isinstance(value, float) else str(value))
        for name, value in facts.items()
        if value is not None
    ]


def _position(point_mm: FloatArray) -> str:
    """Format a point, such as R 14, A 12, S 7."""
    return ", ".join(
        f"{sides[int(value >= 0)]}\N{NO-BREAK SPACE}{abs(value):.0f}"
        for sides, value in zip(("LR", "PA", "IS"), point_mm)
    )


def _embed(figure: Figure) -> dict[str, str | int]:
    """Return a plot as a data URL, and its width in CSS pixels."""
    content = b64encode(png(figure)).decode()
    width = round(CSS_PIXELS_PER_INCH * figure.get_figwidth())
    return {"source": f"data:image/png;base64,{content}", "width": width}


def _view(streamlines: Mapping[str, Sequence[AnyArray]]) -> dict[str, Any]:
    """Return the data of the 3D view: both tractograms and the corners around them.

    A point is stored as three 16-bit integers: its coordinates relative to the lowest
    corner, in units of `unit_mm`. The point (65535, 65535, 65535) ends a streamline. In
    base 64, this takes a third of the bytes of JSON.
    """
    chosen = {key: choose(streamlines[key], N_IN_3D) for key in _KEYS[:2]}
    points_mm = np.concatenate(
        [*chosen["candidate"], *chosen["reference"]] or [np.zeros((1, 3), np.float32)]
    ).astype(np.float64)
    low, high = points_mm.min(axis=0) - 1, points_mm.max(axis=0) + 1
    end = np.iinfo(np.uint16).max
    # A unit of 0.1 mm is fine enough to draw a head. With it, 16 bits reach 6.5 m. If
    # the box is larger, the unit is larger.
    unit_mm = max(0.1, float(np.max(high - low)) / (end - 1))
    packed = {}
    for key, lines in chosen.items():
        rows = [np.empty((0, 3))]
        for line in lines:
            rows += [np.rint((line - low) / unit_mm), np.full((1, 3), end)]
        packed[key] = b64encode(np.concatenate(rows).astype("<u2").tobytes()).decode()
    return {
        "packed": packed,
        "unit_mm": unit_mm,
        "low": low.tolist(),
        "high": high.tolist(),
    }
