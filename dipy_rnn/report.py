"""The page of a comparison of two tractograms: figures, pictures, a view in 3D.

:func:`write_report` makes one HTML file that holds all it needs: it opens from disk,
asks nothing of a network, and prints. Its figures are those of metrics.json; only the
pictures are made here. It needs ``pip install dipy_rnn[viz]``.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from math import floor, inf, isfinite, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeGuard

import numpy as np

from dipy_rnn import pictures
from dipy_rnn._atomic import atomic_write
from dipy_rnn._typing import AnyArray, ArrayLike, FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_IN_3D = 1000  # streamlines of each tractogram
CSS_PIXELS_PER_INCH = 100  # of the pictures
_KEYS = ("candidate", "reference", "yardstick")
# Name, label, unit and meaning.
_TRACKER_FIGURES = (
    ("n_seeds", "Seeds", "", "Points where tracking started."),
    ("n_streamlines", "Streamlines", "", "Those that were kept."),
    ("n_points", "Points", "", "Of all streamlines together."),
    ("seconds", "Time", "s", "That tracking took."),
    ("steps_per_second", "Steps per second", "", "Of all threads together."),
)
_BUNDLE_FIGURES = (
    ("n_valid", "Valid", ""),
    ("overlap", "Overlap", "%"),
    ("overreach", "Overreach", "%"),
    ("f1", "F1", ""),
    ("shape_similarity", "Shape similarity", ""),
)


class _Cell(TypedDict):
    """A figure of one tracker, as text."""

    value: str
    interval: str


class _Row(TypedDict):
    """A figure of all trackers, as text."""

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
    """Write the page of a comparison of two tractograms.

    Parameters
    ----------
    path : Path
        Of the HTML file; it is there when it is complete.
    metrics : dict
        The content of metrics.json. ``title``, ``trackers``, ``between`` and ``each``
        are needed; ``date``, ``command``, ``versions``, ``machine``, ``inputs``,
        ``options``, ``model`` and ``bundles`` are shown if they are there. None and
        NaN are shown as a dash.
    streamlines : dict of str to sequence of ndarrays of shape (M, 3)
        In mm, of ``"candidate"``, ``"reference"`` and perhaps ``"yardstick"``; empty
        arrays where a seed gave none.
    image : array_like of shape (X, Y, Z)
        What lies below the streamlines in the pictures, such as the image that stops
        them.
    affine : array_like of shape (4, 4)
        Voxel to mm.
    distances : dict of str to ndarray of shape (N,)
        How far partners are apart in mm, of ``"candidate"`` and perhaps of
        ``"yardstick"``. Infinite where there is no partner; NaN where there is
        neither.
    pairs : array_like of shape (N,), int, optional
        Place of each candidate's partner in the reference, -1 for none. Without it,
        partners have the same place.

    Raises
    ------
    ValueError
        If streamlines, distances and pairs do not fit each other, or `image` or
        `affine` has another shape.
    ImportError
        If jinja2, matplotlib or plotly is not there.

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
        raise ImportError("A report needs pip install dipy_rnn[viz]") from error
    partners = _partners(streamlines, distances, pairs)
    candidate, reference = streamlines["candidate"], streamlines["reference"]
    trackers = metrics["trackers"]
    keys = [key for key in _KEYS if key in trackers]
    labels = {key: trackers[key]["label"] for key in keys}
    where = pictures.Difference(candidate, reference, image, affine)
    figures = {
        "map": where.draw_map(),
        "tractograms": pictures.draw_tractograms(
            {labels[key]: streamlines[key] for key in _KEYS[:2]}, image, affine
        ),
        "densities": where.draw(labels),
        "distances": pictures.draw_distances(distances, labels),
        "within": pictures.draw_shares_within(distances, labels),
        "lengths": pictures.draw_lengths(streamlines, labels),
    }
    if np.isfinite(distances["candidate"]).any():
        figures["pairs"] = pictures.draw_pairs(
            candidate, partners, distances["candidate"], image, affine
        )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dipy_rnn", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    page = environment.get_template("report.html.jinja").render(
        metrics=metrics,
        keys=keys,
        labels=labels,
        colours=pictures.COLOURS,
        close=_how_close(metrics["between"], keys),
        fast=_how_fast(trackers),
        where={"sign": where.sign, "place": _place(where.point_mm)},
        between=_rows(metrics["between"], [key for key in keys if key != "reference"]),
        each=_tracker_rows(trackers, keys) + _rows(metrics["each"], keys),
        bundles=_bundle_rows(metrics.get("bundles", ()), keys),
        bundle_figures=[label for _, label, _ in _BUNDLE_FIGURES],
        facts={
            name: _facts(metrics.get(name, {}))
            for name in ("inputs", "options", "model", "versions", "machine")
        },
        pictures={name: _embed(figure) for name, figure in figures.items()},
        slab_mm=pictures.SLAB_MM,
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
    """Check what belongs together; return the partner of each candidate."""
    reference, n = streamlines["reference"], len(streamlines["candidate"])
    if pairs is None:
        if len(reference) != n:
            raise ValueError(
                f"There are {n} streamlines of the candidate and {len(reference)} of "
                "the reference; pairs is needed to tell which belong together."
            )
        pairs = np.arange(n)
    places = np.asarray(pairs)
    if len(places) != n or len(distances["candidate"]) != n:
        raise ValueError(
            f"The candidate has {n} streamlines, {len(places)} pairs and "
            f"{len(distances['candidate'])} distances; one of each is needed."
        )
    if n and not (-1 <= places.min() and places.max() < len(reference)):
        raise ValueError(
            f"pairs holds {places.min()} to {places.max()}; -1 to {len(reference) - 1} "
            "is allowed, the places of the reference's streamlines."
        )
    return [reference[i] if i >= 0 else np.empty((0, 3)) for i in places]


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and isfinite(value)


def _decimals(value: float, unit: str, error: float) -> int:
    """Return how many decimals tell something.

    Steps of at most half the standard error; three digits where there is none.
    """
    if error:
        decimals = -floor(log10(error / 2))
    elif not unit and value == int(value):
        decimals = 0
    else:
        decimals = 2 - floor(log10(abs(value) or 1))
    return min(max(decimals, 1 if unit == "%" else 0), 4)


def _cells(
    figures: Iterable[Mapping[str, float | None] | None], unit: str
) -> list[_Cell]:
    """Write a row's values and intervals; shares as per cent, what is not as a dash."""
    scale = 100 if unit == "%" else 1
    suffix = {"": "", "deg": "°"}.get(unit, f"\N{NO-BREAK SPACE}{unit}")
    known = [figure or {} for figure in figures]
    # The largest error decides for all, so that columns can be compared.
    errors = [scale * (figure.get("standard_error") or 0) for figure in known]
    error = max(filter(isfinite, errors), default=0)

    def write(value: float | None) -> str:
        if not _is_number(value):
            return ""
        text = f"{scale * value:,.{_decimals(scale * value, unit, error)}f}"
        return text.replace("-", "\N{MINUS SIGN}")

    cells: list[_Cell] = []
    for figure in known:
        value, low, high = (write(figure.get(k)) for k in ("value", "low", "high"))
        cells.append(
            {
                "value": value + suffix if value else "\N{EN DASH}",
                "interval": f"{low} to {high}" if low and high else "",
            }
        )
    return cells


def _rows(figures: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> list[_Row]:
    """Return the rows of a table of figures."""
    better = {"higher": "Higher is better.", "lower": "Lower is better."}
    return [
        {
            "label": figure["label"],
            "cells": _cells([figure.get(key) for key in keys], figure["unit"]),
            "meaning": figure["definition"],
            "better": better.get(figure["better"], ""),
            "source": figure["source"],
        }
        for figure in figures
    ]


def _tracker_rows(
    trackers: Mapping[str, Mapping[str, Any]], keys: Sequence[str]
) -> list[_Row]:
    """Return the rows of what was counted and timed, where that is known."""
    rows: list[_Row] = []
    for name, label, unit, meaning in _TRACKER_FIGURES:
        figures = [{"value": trackers[key].get(name)} for key in keys]
        if any(_is_number(figure["value"]) for figure in figures):
            rows.append(
                {
                    "label": label,
                    "cells": _cells(figures, unit),
                    "meaning": meaning,
                    "better": "",
                    "source": "",
                }
            )
    return rows


def _bundle_rows(
    bundles: Iterable[Mapping[str, Any]], keys: Sequence[str]
) -> dict[str, dict[str, list[str]]]:
    """Return the rows of each bundle: one for each tracker."""
    return {
        bundle["label"]: {
            key: [
                _cells([{"value": bundle[key].get(name)}], unit)[0]["value"]
                for name, _, unit in _BUNDLE_FIGURES
            ]
            for key in keys
            if bundle.get(key)
        }
        for bundle in bundles
    }


def _how_close(
    between: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> dict[str, Any] | None:
    """Return what the first card tells: the share alike, or else the first figure.

    None if there is no figure, or it is not known of the candidate.
    """
    if not between:
        return None
    figure = next((f for f in between if f["name"] == "alike"), between[0])
    values: dict[str, Any] = {key: (figure.get(key) or {}).get("value") for key in keys}
    known = [key for key in keys if _is_number(values[key])]
    if "candidate" not in known:
        return None
    cells = _cells([figure[key] for key in known], figure["unit"])
    return {
        "figure": figure,
        "texts": {key: cell["value"] for key, cell in zip(known, cells)},
        "percents": {key: 100 * values[key] for key in known if figure["unit"] == "%"},
    }


def _how_fast(trackers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return what the second card tells, or None if nothing was timed."""
    for name, measure, unit in (
        ("seconds", "Time", "s"),
        ("steps_per_second", "Speed", "steps/s"),
    ):
        values: list[float] = [trackers[key].get(name) or 0 for key in _KEYS[:2]]
        if all(0 < value < inf for value in values):
            ratio = (
                values[0] / values[1] if unit == "steps/s" else values[1] / values[0]
            )
            cells = _cells([{"value": value} for value in values], unit)
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
    """Return (name, text) of what is known."""
    return [
        (name, f"{value:g}" if isinstance(value, float) else str(value))
        for name, value in facts.items()
        if value is not None
    ]


def _place(point_mm: FloatArray) -> str:
    """Write a point as it is read out in front of a scan."""
    return ", ".join(
        f"{sides[int(value >= 0)]}\N{NO-BREAK SPACE}{abs(value):.0f}"
        for sides, value in zip(("LR", "PA", "IS"), point_mm)
    )


def _embed(figure: Figure) -> dict[str, str | int]:
    """Return a picture as a page holds it, and its width there."""
    content = b64encode(pictures.png(figure)).decode()
    width = round(CSS_PIXELS_PER_INCH * figure.get_figwidth())
    return {"source": f"data:image/png;base64,{content}", "width": width}


def _view(streamlines: Mapping[str, Sequence[AnyArray]]) -> dict[str, Any]:
    """Return both tractograms, and the lowest and highest corner around them.

    Points are 16-bit integers in base 64, a third of what JSON would need: how many
    units they are from the lowest corner. The largest integer, three times, ends a
    streamline.
    """
    chosen = {key: pictures.choose(streamlines[key], N_IN_3D) for key in _KEYS[:2]}
    points_mm = np.concatenate(
        [*chosen["candidate"], *chosen["reference"]] or [np.zeros((1, 3), np.float32)]
    ).astype(np.float64)
    low, high = points_mm.min(axis=0) - 1, points_mm.max(axis=0) + 1
    end = np.iinfo(np.uint16).max
    # Of what is larger than any head nobody sees a smaller unit.
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
