"""Plots of tractograms over an image, and of pairs of streamlines.

Every plot is a :class:`matplotlib.figure.Figure` of its own: it needs no screen, and
the matplotlib backend of the program stays as it is. matplotlib comes with
``pip install dipy_rnn[viz]``.

Planes are sagittal, coronal and axial in mm (RAS+), whatever the grid of the image.
Left is drawn on the left, and each panel names its sides. A streamline is drawn where
it is within 3 mm of the plane, so that each piece is drawn over the part of the image
that it passes through, and the image stays visible.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipy.tracking.distances import bundles_distances_mdf
from dipy.tracking.streamlinespeed import compress_streamlines
import numpy as np

from dipy_rnn._atomic import atomic_write
from dipy_rnn._typing import AnyArray, ArrayLike, Float32Array, FloatArray
from dipy_rnn.io import read_tractogram
from dipy_rnn.report.panels import (
    COLOURS,
    MARGIN_MM,
    PLANES,
    SHEET_COLOUR,
    SHEET_INCHES,
    TEXT_COLOUR,
    TITLE_INCHES,
    BackgroundImage,
    Plane,
    Sheet,
    all_points,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SLAB_MM = 3.0  # to either side of a plane
N_DRAWN = 5000  # streamlines
N_PAIRS = 8
DPI = 150

_DIRECTIONS = "red: left-right, green: front-back, blue: up-down"
_SEGMENT_MM = 2.0  # short, because a segment is drawn completely or not at all
_SIMILAR_MM, _N_COMPARED = 10.0, 20  # points of a streamline


def png(figure: Figure) -> bytes:
    """Convert a figure to a PNG file of 256 colours.

    Parameters
    ----------
    figure : matplotlib.figure.Figure

    Returns
    -------
    content : bytes

    Examples
    --------
    >>> png(draw_tractograms({"mine": []}, np.ones((5, 5, 5)), np.eye(4)))[1:4]
    b'PNG'
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(DPI)
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib has no types for it
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    file = BytesIO()
    # With a palette, the file is a third as large.
    picture.quantize(256).save(file, format="png")
    return file.getvalue()


def direction_colours(vectors: AnyArray) -> AnyArray:
    """Compute colours of directions: red left-right, green front-back, blue up-down.

    Parameters
    ----------
    vectors : ndarray of shape (N, 3)
        In RAS+, of any length.

    Returns
    -------
    colours : ndarray of shape (N, 3)
        Red, green and blue: absolute values of the unit vectors [1]_. A vector of
        length 0 is black.

    References
    ----------
    .. [1] Pajevic S, Pierpaoli C. Color schemes to represent the orientation of
       anisotropic tissues from diffusion tensor data: application to white matter
       fiber tract mapping in the human brain. Magnetic Resonance in Medicine 42(3),
       1999.

    Examples
    --------
    >>> direction_colours(np.array([[-2.0, 0, 0], [0, 3, 4]])).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]]
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.abs(vectors) / np.where(lengths > 0, lengths, 1)


def choose(
    streamlines: Iterable[AnyArray], n: int, longest_mm: float = 10.0
) -> list[Float32Array]:
    """Select streamlines to draw, and remove points of them.

    Parameters
    ----------
    streamlines : iterable of ndarrays of shape (M, 3)
        In mm. Streamlines of less than two points are left out.
    n : int
        Maximum number of streamlines. If there are more, `n` of them are selected at
        random with a fixed seed, so that each call selects the same ones.
    longest_mm : float, optional
        Maximum distance between consecutive points after points are removed.

    Returns
    -------
    chosen : list of ndarrays of shape (K, 3), float32
        At most 0.1 mm from the streamlines
        (:func:`dipy.tracking.streamlinespeed.compress_streamlines`).

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [2, 1, 0]])
    >>> [points.tolist() for points in choose([line, line[:1]], 5)]
    [[[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [2.0, 1.0, 0.0]]]
    """
    lines = [line for line in streamlines if len(line) > 1]
    order = np.sort(np.random.default_rng(0).permutation(len(lines))[:n])
    chosen: list[Float32Array] = compress_streamlines(
        [np.asarray(lines[i], np.float32) for i in order],
        tol_error=0.1,
        max_segment_length=longest_mm,
    )
    return chosen


def save_picture(
    path: Path,
    streamlines: Sequence[AnyArray],
    image: ArrayLike,
    affine: ArrayLike,
    title: str = "",
) -> None:
    """Save a plot of a tractogram in three planes over an image.

    Parameters
    ----------
    path : Path
        PNG file to write. If writing fails, what was at the path stays as it was.
    streamlines : sequence of ndarrays of shape (M, 3)
        In mm.
    image : array_like of shape (X, Y, Z)
        Drawn below the streamlines, such as the image of the stopping criterion.
    affine : array_like of shape (4, 4)
        Voxel to mm.
    title : str, optional

    Raises
    ------
    ValueError
        If `image` or `affine` has another shape, or the affine is invalid.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> phantom = crossing_phantom()
    >>> path = Path(tempfile.mkdtemp()) / "phantom.png"
    >>> streamlines, _ = phantom.streamlines(20)
    >>> save_picture(path, streamlines, phantom.mask(), phantom.affine)
    >>> path.read_bytes()[1:4]
    b'PNG'
    """
    content = png(draw_tractograms({title: streamlines}, image, affine))
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def save_picture_of(
    tractogram: Path, n_streamlines: int, image: AnyArray, affine: FloatArray
) -> None:
    """Save a plot of a tractogram file beside the file, as PNG.

    Parameters
    ----------
    tractogram : Path
        Tractogram file. The plot has the same name, with the suffix ``.png``.
    n_streamlines : int
        Number of streamlines in the file. If it is large, every n-th of them is drawn.
    image : ndarray of shape (X, Y, Z) or (X, Y, Z, T)
        Drawn below the streamlines. Of an image of T tissues, white matter is drawn.
    affine : ndarray of shape (4, 4)
        Voxel to mm.

    Raises
    ------
    ValueError, ImportError
        As :func:`save_picture`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from dipy_rnn.io import write_tractogram
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> phantom = crossing_phantom()
    >>> path = Path(tempfile.mkdtemp()) / "phantom.trk"
    >>> lines = ((line, {}) for line in phantom.streamlines(20)[0])
    >>> n = write_tractogram(path, lines, phantom.affine, phantom.shape)
    >>> save_picture_of(path, n, phantom.mask(), phantom.affine)
    >>> path.with_suffix(".png").exists()
    True
    """
    every = -(-max(n_streamlines, 1) // N_DRAWN)
    lines = [line for line, _ in islice(read_tractogram(tractogram), 0, None, every)]
    if image.ndim == 4:
        image = image[..., 2]  # white matter, in images of three and of five tissues
    title = f"every {every}th of {n_streamlines}" if every > 1 else ""
    save_picture(tractogram.with_suffix(".png"), lines, image, affine, title=title)


def draw_tractograms(
    tractograms: Mapping[str, Sequence[AnyArray]], image: ArrayLike, affine: ArrayLike
) -> Figure:
    """Draw tractograms over an image: a row for each, with three planes.

    The planes go through the median of all points. If there are no points, they go
    through the middle of the image.

    Parameters
    ----------
    tractograms : dict of str to sequence of ndarrays of shape (M, 3)
        Title of each row, and its streamlines in mm. At most `N_DRAWN` (5000) of them
        are drawn.
    image : array_like of shape (X, Y, Z)
    affine : array_like of shape (4, 4)
        Voxel to mm.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If `image` or `affine` has another shape, or the affine is invalid.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> line = np.array([[0.0, 2, 2], [4, 2, 2]])
    >>> figure = draw_tractograms({"one": [line]}, np.ones((5, 5, 5)), np.eye(4))
    >>> [text.get_text() for text in figure.texts][0]
    'one: 1 streamline'
    """
    points_mm = all_points(line for lines in tractograms.values() for line in lines)
    background = BackgroundImage(image, affine, points_mm)
    at_mm = np.median(points_mm, axis=0) if len(points_mm) else background.middle_mm
    sheet = Sheet(background.box_mm, len(tractograms))
    for row, (name, streamlines) in enumerate(tractograms.items()):
        n = sum(len(line) > 0 for line in streamlines)
        title = f"{n} streamline{'' if n == 1 else 's'}"
        if n > N_DRAWN:
            title += f", {N_DRAWN} of them drawn"
        sheet.title(row, f"{name}: {title}" if name else title)
        lines = choose(streamlines, N_DRAWN, _SEGMENT_MM)
        segments = np.concatenate(
            [np.empty((0, 2, 3))]
            + [np.stack([line[:-1], line[1:]], axis=1) for line in lines]
        )
        for plane, axes in sheet.panels(row):
            background.draw(axes, plane, at_mm, sheet.box_mm)
            _draw_slab(axes, plane, at_mm, segments)
    sheet.remark(0, _DIRECTIONS)
    return sheet.figure


def _draw_slab(
    axes: Axes, plane: Plane, at_mm: FloatArray, segments: FloatArray
) -> None:
    """Draw those of the segments (N, 2, 3) whose middle is near a plane."""
    from matplotlib.collections import LineCollection

    depths_mm = segments[:, :, plane.through].mean(axis=1) - at_mm[plane.through]
    near = segments[np.abs(depths_mm) <= SLAB_MM]
    axes.add_collection(
        LineCollection(
            near[:, :, [plane.right, plane.up]],
            colors=direction_colours(near[:, 1] - near[:, 0]),
            linewidths=0.7,
        ),
        autolim=False,
    )


def draw_pairs(
    candidate: Sequence[AnyArray],
    reference: Sequence[AnyArray],
    distances: FloatArray,
    image: ArrayLike,
    affine: ArrayLike,
) -> Figure:
    """Draw the pairs of streamlines that differ most, each in a panel.

    Parameters
    ----------
    candidate, reference : sequences of N ndarrays of shape (M, 3)
        In mm. Streamlines with the same index are partners.
    distances : ndarray of shape (N,)
        Distance from partner to partner in mm. The `N_PAIRS` (8) pairs of the largest
        finite distances are drawn. Two pairs are similar if both their candidates and
        their references are within 10 mm of each other
        (:func:`dipy.tracking.distances.bundles_distances_mdf`). Of similar pairs, only
        the one with the largest distance is drawn.
    image : array_like of shape (X, Y, Z)
        Shown in a plane through the middle of each pair. The plane is perpendicular to
        the axis along which the pair extends least.
    affine : array_like of shape (4, 4)
        Voxel to mm.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If `image` or `affine` has another shape, or the affine is invalid.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> line = np.array([[0.0, 2, 2], [4, 2, 2]])
    >>> figure = draw_pairs(
    ...     [line + [0, 1, 0]], [line], np.ones(1), np.ones((5, 5, 5)), np.eye(4))
    >>> figure.texts[0].get_text()
    '1.0 mm'
    """
    background = BackgroundImage(image, affine, np.empty((0, 3)))
    shown = _most_different(candidate, reference, np.asarray(distances))
    n_columns, n_rows = N_PAIRS // 2, max(1, -(-2 * len(shown) // N_PAIRS))
    side = SHEET_INCHES / n_columns
    height = n_rows * (side + TITLE_INCHES)
    figure = new_figure(SHEET_INCHES, height, facecolor=SHEET_COLOUR)
    for place, i in enumerate(shown):
        pair = {"reference": reference[i], "candidate": candidate[i]}
        points_mm = all_points(pair.values())
        through = int(np.argmin(np.ptp(points_mm, axis=0)))
        plane = next(plane for plane in PLANES if plane.through == through)
        middle_mm = (points_mm.min(axis=0) + points_mm.max(axis=0)) / 2
        half_mm = np.ptp(points_mm, axis=0).max() / 2 + 2 * MARGIN_MM
        box_mm = middle_mm + half_mm * np.array([[-1], [1]])
        row, column = divmod(place, n_columns)
        top = 1 - (row * (side + TITLE_INCHES) + TITLE_INCHES) / height
        axes = figure.add_axes(
            (column / n_columns, top - side / height, 0.98 / n_columns, side / height)
        )
        background.draw(axes, plane, middle_mm, box_mm, brightness=0.5)
        for key, points in pair.items():
            axes.plot(
                points[:, plane.right],
                points[:, plane.up],
                color=COLOURS[key],
                linewidth=3.2 if key == "reference" else 1.6,
                solid_capstyle="round",
            )
        figure.text(
            (column + 0.5) / n_columns,
            top + 0.08 / height,
            f"{distances[i]:.1f} mm",
            color=TEXT_COLOUR,
            fontsize=10,
            ha="center",
        )
    return figure


def _most_different(
    candidate: Sequence[AnyArray], reference: Sequence[AnyArray], distances: FloatArray
) -> list[int]:
    """Return the indices of pairs to draw: by decreasing distance, no two similar."""
    finite = np.flatnonzero(np.isfinite(distances))
    sides = [
        [
            lines[i][np.linspace(0, len(lines[i]) - 1, _N_COMPARED).round().astype(int)]
            for i in finite.tolist()
        ]
        for lines in (candidate, reference)
    ]
    left = distances[finite]
    shown: list[int] = []
    while len(shown) < N_PAIRS and np.any(left >= 0):
        farthest = np.argmax(left)
        shown.append(int(finite[farthest]))
        apart_mm = [bundles_distances_mdf([side[farthest]], side)[0] for side in sides]
        left = np.where(np.max(apart_mm, axis=0) <= _SIMILAR_MM, -1, left)
    return shown
