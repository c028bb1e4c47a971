"""Pictures of tractograms: over an image, beside each other, and where they differ.

Every picture is a :class:`matplotlib.figure.Figure` of its own, so that no screen is
needed and the backend that a program chose stays as it is. matplotlib comes with
``pip install dipy_rnn[viz]``; without it this module can be imported, but not draw.

Planes are sagittal, coronal and axial in mm (RAS+), whatever the grid of the image.
Left is on the left, and each panel says so. Streamlines are drawn where they are within
`SLAB_MM` of the plane, so that each piece is in its place and the image stays visible.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from pathlib import Path
import textwrap
from typing import TYPE_CHECKING, Any, Literal

from dipy.tracking.distances import bundles_distances_mdf
from dipy.tracking.streamlinespeed import compress_streamlines, length
import numpy as np
from scipy.ndimage import find_objects, gaussian_filter, map_coordinates

from dipy_rnn import spaces
from dipy_rnn._atomic import atomic_write
from dipy_rnn._typing import AnyArray, ArrayLike, Float32Array, FloatArray
from dipy_rnn.evaluation import visits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# Told apart by colour-blind eyes, on black, on white and in grey.
COLOURS = {"candidate": "#E98300", "reference": "#1F78B4", "yardstick": "#8C8C8C"}
SLAB_MM = 3.0
N_DRAWN = 5000  # streamlines
N_PAIRS = 8
DPI = 150

_INK, _BACKGROUND = "#DDDDDD", "black"
_DIRECTIONS = "red: left-right, green: front-back, blue: up-down"
_SIDES = (("L", "R"), ("P", "A"), ("I", "S"))
_WIDTH_INCHES, _MOST_PANEL_INCHES, _CHART_INCHES = 10.8, 4.2, (3.55, 2.9)
_TITLE_INCHES, _BAR_INCHES = 0.36, 0.85
_LONGEST = 80  # letters of a title
_MARGIN_MM = 5.0
_STRETCH_MM = 2.0  # longest piece of a streamline that is in a slab or not
_SMOOTHING_MM = 4.0
_BESIDE_MM, _N_COMPARED = 10.0, 20  # points of a streamline
_NEAREST_MM = 0.01  # smaller distances are drawn here: the axis is logarithmic
_PIXELS = 500  # of the longest side of a section


@dataclass(frozen=True)
class _Plane:
    """Which of the axes x, y, z run to the right, up, and through a picture."""

    right: int
    up: int
    through: int


_PLANES = (_Plane(1, 2, 0), _Plane(0, 2, 1), _Plane(0, 1, 2))


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file of 256 colours.

    Parameters
    ----------
    figure : matplotlib.figure.Figure

    Returns
    -------
    content : bytes

    Examples
    --------
    >>> png(draw_lengths({"candidate": []}, {"candidate": "mine"}))[1:4]
    b'PNG'
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(DPI)
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib has no types for it
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    file = BytesIO()
    # A palette makes the file a third as large.
    picture.quantize(256).save(file, format="png")
    return file.getvalue()


def direction_colours(vectors: AnyArray) -> AnyArray:
    """Colour directions: red from left to right, green front to back, blue up.

    Parameters
    ----------
    vectors : ndarray of shape (N, 3)
        In RAS+, of any length.

    Returns
    -------
    colours : ndarray of shape (N, 3)
        Red, green and blue: absolute values of the unit vectors [1]_. Black for a
        vector without length.

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
    """Choose streamlines to draw, without the points that make no difference.

    Parameters
    ----------
    streamlines : iterable of ndarrays of shape (M, 3)
        In mm.
    n : int
        How many at most: of more, the same ones each time.
    longest_mm : float, optional
        How far neighbouring points may be apart, where they were closer.

    Returns
    -------
    chosen : list of ndarrays of shape (K, 3), float32
        At most 0.1 mm from the streamlines, as
        :func:`dipy.tracking.streamlinespeed.compress_streamlines` makes them. What
        has less than two points is left out.

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
    """Write a picture of a tractogram in three planes over an image.

    Parameters
    ----------
    path : Path
        Of the PNG file; it is there when it is complete.
    streamlines : sequence of ndarrays of shape (M, 3)
        In mm.
    image : array_like of shape (X, Y, Z)
        Such as the one that stops streamlines.
    affine : array_like of shape (4, 4)
        Voxel to mm.
    title : str, optional

    Raises
    ------
    ValueError
        If `image` or `affine` has another shape, or the affine shears.
    ImportError
        If matplotlib is not there.

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


def draw_tractograms(
    tractograms: Mapping[str, Sequence[AnyArray]], image: ArrayLike, affine: ArrayLike
) -> Figure:
    """Draw tractograms in three planes each, over an image and below each other.

    The planes go through the median of all points, or through the middle of the image
    if there are none.

    Parameters
    ----------
    tractograms : dict of str to sequence of ndarrays of shape (M, 3)
        Streamlines in mm, by the title of their row. At most `N_DRAWN` of each are
        drawn.
    image : array_like of shape (X, Y, Z)
    affine : array_like of shape (4, 4)
        Voxel to mm.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Examples
    --------
    >>> line = np.array([[0.0, 2, 2], [4, 2, 2]])
    >>> figure = draw_tractograms({"one": [line]}, np.ones((5, 5, 5)), np.eye(4))
    >>> [text.get_text() for text in figure.texts][0]
    'one: 1 streamline'
    """
    points_mm = _points(line for lines in tractograms.values() for line in lines)
    anatomy = _Anatomy(image, affine, points_mm)
    at_mm = np.median(points_mm, axis=0) if len(points_mm) else anatomy.middle_mm
    sheet = _Sheet(anatomy.box_mm, len(tractograms))
    for row, (name, streamlines) in enumerate(tractograms.items()):
        n = sum(len(line) > 0 for line in streamlines)
        title = f"{n} streamline{'' if n == 1 else 's'}"
        if n > N_DRAWN:
            title += f", {N_DRAWN} of them drawn"
        sheet.title(row, f"{name}: {title}" if name else title)
        lines = choose(streamlines, N_DRAWN, _STRETCH_MM)
        segments = np.concatenate(
            [np.empty((0, 2, 3))]
            + [np.stack([line[:-1], line[1:]], axis=1) for line in lines]
        )
        for axes, plane in zip(sheet.panels(row), _PLANES):
            anatomy.show(axes, plane, at_mm, sheet.box_mm)
            _draw_slab(axes, plane, at_mm, segments)
    sheet.remark(0, _DIRECTIONS)
    return sheet.figure


def _draw_slab(
    axes: Axes, plane: _Plane, at_mm: FloatArray, segments: FloatArray
) -> None:
    """Draw the segments (N, 2, 3) that are near a plane."""
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


class Difference:
    """Where two tractograms differ: how many streamlines go through each voxel.

    Parameters
    ----------
    candidate, reference : sequence of ndarrays of shape (M, 3)
        Streamlines in mm.
    image : array_like of shape (X, Y, Z)
        What is drawn below, and whose voxels count.
    affine : array_like of shape (4, 4)
        Voxel to mm.

    Attributes
    ----------
    densities : dict of str to ndarray of shape (X, Y, Z)
        Of ``"candidate"`` and ``"reference"``: how many of 1000 streamlines go through
        a voxel; those without points count among the 1000.
    difference : ndarray of shape (X, Y, Z)
        Candidate less reference.
    point_mm : ndarray of shape (3,)
        Where it is largest, smoothed by a Gaussian with a standard deviation of 4 mm;
        the middle of the image if it is 0 everywhere.
    sign : int
        1 if more of the candidate's streamlines go there, -1 if more of the
        reference's, 0 if the densities are the same everywhere.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> there = Difference([line], [line[:2]], np.ones((3, 1, 1)), np.eye(4))
    >>> there.difference.ravel().tolist(), there.point_mm.tolist(), there.sign
    ([0.0, 0.0, 1000.0], [2.0, 0.0, 0.0], 1)
    """

    def __init__(
        self,
        candidate: Sequence[AnyArray],
        reference: Sequence[AnyArray],
        image: ArrayLike,
        affine: ArrayLike,
    ) -> None:
        both = {"candidate": candidate, "reference": reference}
        points_mm = _points(line for lines in both.values() for line in lines)
        self._anatomy = anatomy = _Anatomy(image, affine, points_mm)
        shape = anatomy.image.shape
        self.densities: dict[str, FloatArray] = {
            key: 1000 * visits(lines, anatomy.affine, shape) / max(len(lines), 1)
            for key, lines in both.items()
        }
        self.difference = self.densities["candidate"] - self.densities["reference"]
        smooth = gaussian_filter(
            self.difference, _SMOOTHING_MM / spaces.voxel_sizes(anatomy.affine)
        )
        voxel = np.unravel_index(np.argmax(np.abs(smooth)), shape)
        self.sign = int(np.sign(smooth[voxel]))
        self.point_mm = anatomy.middle_mm
        if self.sign:
            self.point_mm = spaces.to_mm(voxel, anatomy.affine)

    def draw(self, labels: Mapping[str, str]) -> Figure:
        """Draw both densities and their difference in three planes.

        Parameters
        ----------
        labels : dict of str to str
            What ``"candidate"`` and ``"reference"`` are called.

        Returns
        -------
        figure : matplotlib.figure.Figure
        """
        sheet = _Sheet(self._anatomy.box_mm, 3, bars=True)
        most = max(_upper(density) for density in self.densities.values())
        for row, (key, density) in enumerate(self.densities.items()):
            sheet.title(row, f"Density: {labels[key]}")
            for axes, plane in zip(sheet.panels(row), _PLANES):
                drawn = self._draw(
                    axes, plane, sheet.box_mm, density, "viridis", 0, most
                )
            sheet.bar(row, drawn)
        sheet.title(2, "Difference: the first less the second")
        for axes, plane in zip(sheet.panels(2), _PLANES):
            drawn = self._draw_difference(axes, plane, sheet.box_mm)
        sheet.bar(2, drawn)
        return sheet.figure

    def draw_map(self) -> Figure:
        """Draw the difference in the one of the three planes that shows most of it.

        Returns
        -------
        figure : matplotlib.figure.Figure
        """
        box_mm = self._anatomy.box_mm
        plane = max(_PLANES, key=lambda plane: np.nansum(np.abs(self._cut(plane))))
        width, height = np.ptp(box_mm, axis=0)[[plane.right, plane.up]]
        inches = _CHART_INCHES[0] / max(width, height)
        figure = _new_figure(width * inches, height * inches, facecolor=_BACKGROUND)
        axes = figure.add_axes((0, 0, 1, 1))
        self._draw_difference(axes, plane, box_mm)
        return figure

    def _cut(self, plane: _Plane) -> FloatArray:
        box_mm = self._anatomy.box_mm
        return self._anatomy.section(self.difference, plane, self.point_mm, box_mm, 0)

    def _draw(
        self,
        axes: Axes,
        plane: _Plane,
        box_mm: FloatArray,
        volume: FloatArray,
        cmap: str | Colormap,
        vmin: float,
        vmax: float,
    ) -> AxesImage:
        """Lay a volume over the anatomy, and mark the point."""
        anatomy, at_mm = self._anatomy, self.point_mm
        anatomy.show(axes, plane, at_mm, box_mm, brightness=0.5)
        section = anatomy.section(volume, plane, at_mm, box_mm, order=0)
        section[section == 0] = np.nan
        drawn = _lay(axes, plane, box_mm, section, cmap, vmin, vmax)
        if self.sign:
            x, y = at_mm[[plane.right, plane.up]]
            axes.plot(x, y, "+", color="white", markersize=11, markeredgewidth=1)
        return drawn

    def _draw_difference(
        self, axes: Axes, plane: _Plane, box_mm: FloatArray
    ) -> AxesImage:
        from matplotlib.colors import LinearSegmentedColormap, to_rgb

        # As transparent as the difference is small.
        blue, orange = (to_rgb(COLOURS[key]) for key in ("reference", "candidate"))
        stops = [(0.0, blue, 1.0), (0.3, blue, 0.7), (0.5, blue, 0.0)]
        stops += [(1 - at, orange, alpha) for at, _, alpha in stops[::-1]]
        cmap = LinearSegmentedColormap.from_list(
            "difference", [(at, (*colour, alpha)) for at, colour, alpha in stops]
        )
        most = _upper(np.abs(self.difference))
        return self._draw(axes, plane, box_mm, self.difference, cmap, -most, most)


def draw_distances(
    distances: Mapping[str, FloatArray], labels: Mapping[str, str]
) -> Figure:
    """Draw how far streamlines are from their partners.

    Parameters
    ----------
    distances : dict of str to ndarray of shape (N,)
        In mm, of ``"candidate"`` and perhaps ``"yardstick"``. Infinite where a
        streamline has no partner; NaN where there is neither, which does not count.
    labels : dict of str to str
        What they are called.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Examples
    --------
    >>> distances = {"candidate": np.array([1.0, 2])}
    >>> draw_distances(distances, {"candidate": "mine"}).axes[0].get_xlabel()
    'distance from the partner (mm)'
    """
    figure, axes = _chart("distance from the partner (mm)", "streamlines (%)")
    edges = np.geomspace(_NEAREST_MM, _farthest(distances), 41)
    for key, values in distances.items():
        counts, _ = np.histogram(_drawn(values), edges)
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
        As :func:`draw_distances` takes them; what has no partner is within none.
    labels : dict of str to str

    Returns
    -------
    figure : matplotlib.figure.Figure

    Examples
    --------
    >>> distances = {"candidate": np.array([1.0, np.inf])}
    >>> figure = draw_shares_within(distances, {"candidate": "mine"})
    >>> print(figure.axes[0].lines[0].get_ydata().max())
    50.0
    """
    figure, axes = _chart("distance (mm)", "streamlines within it (%)")
    most = _farthest(distances)
    for key, values in distances.items():
        finite = np.sort(_drawn(values))
        n = int(np.count_nonzero(~np.isnan(values)))
        shares = 100 * np.arange(len(finite) + 1) / max(n, 1)
        axes.step(
            [_NEAREST_MM, *finite, most],
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
    """Draw how long streamlines are.

    Parameters
    ----------
    streamlines : dict of str to iterable of ndarrays of shape (M, 3)
        In mm, of any of ``"candidate"``, ``"reference"`` and ``"yardstick"``. What has
        no point has no length.
    labels : dict of str to str
        What they are called.

    Returns
    -------
    figure : matplotlib.figure.Figure

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


def draw_pairs(
    candidate: Sequence[AnyArray],
    reference: Sequence[AnyArray],
    distances: FloatArray,
    image: ArrayLike,
    affine: ArrayLike,
) -> Figure:
    """Draw the streamlines that are farthest from their partners, pair by pair.

    Parameters
    ----------
    candidate, reference : sequences of N ndarrays of shape (M, 3)
        In mm; partners have the same place.
    distances : ndarray of shape (N,)
        From partner to partner in mm. The `N_PAIRS` largest finite ones are shown, but
        of pairs beside each other, within 10 mm on average
        (:func:`dipy.tracking.distances.bundles_distances_mdf`), only the first.
    image : array_like of shape (X, Y, Z)
        Cut where the two streamlines are, across the direction in which they extend
        least.
    affine : array_like of shape (4, 4)
        Voxel to mm.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Examples
    --------
    >>> line = np.array([[0.0, 2, 2], [4, 2, 2]])
    >>> figure = draw_pairs(
    ...     [line + [0, 1, 0]], [line], np.ones(1), np.ones((5, 5, 5)), np.eye(4))
    >>> figure.texts[0].get_text()
    '1.0 mm'
    """
    anatomy = _Anatomy(image, affine, np.empty((0, 3)))
    shown = _most_different(candidate, reference, np.asarray(distances))
    n_columns, n_rows = N_PAIRS // 2, max(1, -(-2 * len(shown) // N_PAIRS))
    side = _WIDTH_INCHES / n_columns
    height = n_rows * (side + _TITLE_INCHES)
    figure = _new_figure(_WIDTH_INCHES, height, facecolor=_BACKGROUND)
    for place, i in enumerate(shown):
        pair = {"reference": reference[i], "candidate": candidate[i]}
        points_mm = _points(pair.values())
        through = int(np.argmin(np.ptp(points_mm, axis=0)))
        plane = next(plane for plane in _PLANES if plane.through == through)
        middle_mm = (points_mm.min(axis=0) + points_mm.max(axis=0)) / 2
        half_mm = np.ptp(points_mm, axis=0).max() / 2 + 2 * _MARGIN_MM
        box_mm = middle_mm + half_mm * np.array([[-1], [1]])
        row, column = divmod(place, n_columns)
        top = 1 - (row * (side + _TITLE_INCHES) + _TITLE_INCHES) / height
        axes = figure.add_axes(
            (column / n_columns, top - side / height, 0.98 / n_columns, side / height)
        )
        anatomy.show(axes, plane, middle_mm, box_mm, brightness=0.5)
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
            color=_INK,
            fontsize=10,
            ha="center",
        )
    return figure


def _most_different(
    candidate: Sequence[AnyArray], reference: Sequence[AnyArray], distances: FloatArray
) -> list[int]:
    """Choose the pairs that are farthest apart and not beside each other."""
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
        left = np.where(np.max(apart_mm, axis=0) <= _BESIDE_MM, -1, left)
    return shown


def _new_figure(
    width: float,
    height: float,
    *,
    facecolor: str | None = None,
    layout: Literal["constrained"] | None = None,
) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib: pip install dipy_rnn[viz]"
        ) from error
    return Figure(figsize=(width, height), facecolor=facecolor, layout=layout)


def _points(streamlines: Iterable[AnyArray]) -> FloatArray:
    """Return the points (N, 3) of all streamlines."""
    return np.concatenate([np.empty((0, 3)), *streamlines])


def _upper(values: FloatArray) -> float:
    """Return where colours end: most of what is not 0 is below."""
    values = values[values > 0]
    return float(np.percentile(values, 99.5)) if len(values) else 1.0


def _plain(text: str) -> str:
    """Keep dollars from becoming formulas."""
    return text.replace("$", r"\$")


class _Anatomy:
    """An image that something is drawn over, and the box of it that is shown."""

    def __init__(
        self, image: ArrayLike, affine: ArrayLike, points_mm: FloatArray
    ) -> None:
        volume = np.asarray(image, np.float64)
        if volume.ndim != 3:
            raise ValueError(
                f"image has the shape {volume.shape}; (X, Y, Z) is needed."
            )
        self.image: FloatArray = np.nan_to_num(volume, posinf=0, neginf=0)
        self.affine = spaces.check_affine(affine)
        seen = self.image[self.image != 0]
        low, high = np.percentile(seen, (1, 99.5)) if len(seen) else (0.0, 1.0)
        self._black, self._white = min(float(low), 0.0), float(high)
        self.box_mm = self._box(points_mm)
        self.middle_mm: FloatArray = self.box_mm.mean(axis=0)

    def _corners_mm(self, slices: Iterable[slice]) -> FloatArray:
        edges = [(axis.start - 0.5, axis.stop - 0.5) for axis in slices]
        return spaces.to_mm(list(product(*edges)), self.affine)

    def _box(self, points_mm: FloatArray) -> FloatArray:
        """Return (2, 3): around the image's voxels that are not 0, and the points."""
        grid_mm = self._corners_mm([slice(0, n) for n in self.image.shape])
        found = find_objects((self.image != 0).astype(int))
        seen_mm = self._corners_mm(found[0]) if found else grid_mm
        points_mm = np.clip(points_mm, grid_mm.min(axis=0), grid_mm.max(axis=0))
        seen_mm = np.concatenate([seen_mm, points_mm])
        low, high = seen_mm.min(axis=0), seen_mm.max(axis=0)
        half = (high - low) / 2 + _MARGIN_MM
        # The panel of a single slice still has room for its labels.
        half = np.maximum(half, half.max() / 4)
        box_mm: FloatArray = (low + high) / 2 + half * np.array([[-1], [1]])
        return box_mm

    def section(
        self,
        volume: FloatArray,
        plane: _Plane,
        at_mm: FloatArray,
        box_mm: FloatArray,
        order: int,
    ) -> FloatArray:
        """Cut a volume on the image's grid: rows go up, NaN is outside."""
        sizes_mm = np.ptp(box_mm, axis=0)
        grid = []
        for axis in (plane.right, plane.up):
            n = int(np.ceil(_PIXELS * sizes_mm[axis] / sizes_mm.max()))
            grid.append(box_mm[0, axis] + sizes_mm[axis] * (np.arange(n) + 0.5) / n)
        points_mm = np.full((len(grid[1]), len(grid[0]), 3), at_mm, float)
        points_mm[..., plane.right], points_mm[..., plane.up] = np.meshgrid(*grid)
        voxels = spaces.to_voxels(points_mm, self.affine)
        inside = np.all((voxels >= -0.5) & (voxels < np.array(volume.shape) - 0.5), -1)
        values = map_coordinates(
            volume, np.moveaxis(voxels, -1, 0), order=order, mode="nearest"
        )
        return np.where(inside, values, np.nan)

    def show(
        self,
        axes: Axes,
        plane: _Plane,
        at_mm: FloatArray,
        box_mm: FloatArray,
        brightness: float = 1.0,
    ) -> None:
        """Draw a section, and say where it is and which side is which."""
        section = self.section(self.image, plane, at_mm, box_mm, order=1)
        white = self._black + (self._white - self._black) / brightness
        _lay(axes, plane, box_mm, section, "gray", self._black, white)
        axes.set_axis_off()
        # Figures of other boxes than the image's own: nothing may stretch the axes.
        axes.autoscale(False)
        text: dict[str, Any] = {
            "transform": axes.transAxes,
            "color": _INK,
            "fontsize": 8.5,
        }
        (left, right), (down, up) = _SIDES[plane.right], _SIDES[plane.up]
        axes.text(0.015, 0.5, left, ha="left", va="center", **text)
        axes.text(0.985, 0.5, right, ha="right", va="center", **text)
        axes.text(0.5, 0.015, down, ha="center", va="bottom", **text)
        axes.text(0.5, 0.985, up, ha="center", va="top", **text)
        value = f"{round(at_mm[plane.through])}".replace("-", "\N{MINUS SIGN}")
        place = f"{'xyz'[plane.through]} = {value} mm"
        axes.text(0.015, 0.015, place, ha="left", va="bottom", **text)


def _lay(
    axes: Axes,
    plane: _Plane,
    box_mm: FloatArray,
    section: FloatArray,
    cmap: str | Colormap,
    vmin: float,
    vmax: float,
) -> AxesImage:
    """Lay a section of a box on top of what is drawn."""
    low, high = box_mm[:, [plane.right, plane.up]]
    extent = (low[0], high[0], low[1], high[1])
    return axes.imshow(
        section,
        origin="lower",
        extent=extent,
        interpolation="nearest",
        cmap=cmap,
        vmin=vmin,
        vmax=vmax,
    )


class _Sheet:
    """Rows of three panels, one for each plane, all at the same scale."""

    def __init__(self, box_mm: FloatArray, n_rows: int, bars: bool = False) -> None:
        # Two heights, that of a head from the side and from above, would not line up.
        half = np.ptp(box_mm, axis=0) / 2
        half[1:] = half[1:].max()
        self.box_mm = box_mm.mean(axis=0) + half * np.array([[-1], [1]])
        sizes_mm = 2 * half[[plane.right for plane in _PLANES]]
        room = _WIDTH_INCHES - bars * _BAR_INCHES
        inches = min(room / sizes_mm.sum(), _MOST_PANEL_INCHES / (2 * half[2]))
        self._widths, self._height = sizes_mm * inches, 2 * half[2] * inches
        self._left = (room - self._widths.sum()) / 2
        self._pitch = self._height + _TITLE_INCHES
        self._size = np.array([_WIDTH_INCHES, n_rows * self._pitch])
        self.figure = _new_figure(*self._size, facecolor=_BACKGROUND)

    def _bottom(self, row: int) -> float:
        return float(self._size[1] - (row + 1) * self._pitch)

    def _add_axes(
        self, left: float, bottom: float, width: float, height: float
    ) -> Axes:
        place = np.array([left, bottom, width, height]) / np.tile(self._size, 2)
        return self.figure.add_axes(tuple(place))

    def panels(self, row: int) -> Iterator[Axes]:
        """Yield the axes of a row."""
        left = self._left
        for width in self._widths:
            yield self._add_axes(left, self._bottom(row), width - 0.03, self._height)
            left += width

    def title(self, row: int, text: str) -> None:
        """Write above a row, on the left."""
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 2 :]}"
        self._write(row, 0.08, text, "left", 10.5, "white")

    def remark(self, row: int, text: str) -> None:
        """Write above a row, on the right."""
        self._write(row, _WIDTH_INCHES - 0.08, text, "right", 8.5, _INK)

    def _write(
        self, row: int, at: float, text: str, ha: str, fontsize: float, color: str
    ) -> None:
        x, y = [at, self._bottom(row) + self._height + 0.11] / self._size
        self.figure.text(x, y, _plain(text), ha=ha, fontsize=fontsize, color=color)

    def bar(self, row: int, drawn: AxesImage) -> None:
        """Draw the scale of colours beside a row."""
        left = _WIDTH_INCHES - _BAR_INCHES + 0.1
        bottom, height = self._bottom(row) + 0.1 * self._height, 0.8 * self._height
        axes = self._add_axes(left, bottom, 0.12, height)
        axes.set_facecolor(_BACKGROUND)
        bar = self.figure.colorbar(drawn, cax=axes)
        bar.set_label("of 1000 streamlines", color=_INK, fontsize=8.5)
        bar.ax.tick_params(colors=_INK, labelsize=8.5)
        bar.outline.set_edgecolor(_INK)


def _chart(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = _new_figure(*_CHART_INCHES, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(xlabel, fontsize=9)
    axes.set_ylabel(ylabel, fontsize=9)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _style(key: str, labels: Mapping[str, str]) -> dict[str, Any]:
    dashed = key == "yardstick"
    return {
        "label": _plain(textwrap.fill(labels[key], 45)),
        "color": COLOURS[key],
        "linewidth": 1.6,
        "linestyle": "--" if dashed else "-",
        "zorder": 2.5 if dashed else 3,
    }


def _drawn(distances_mm: FloatArray) -> FloatArray:
    """Return the finite ones, on the axis."""
    return np.maximum(distances_mm[np.isfinite(distances_mm)], _NEAREST_MM)


def _farthest(distances: Mapping[str, FloatArray]) -> float:
    values = np.concatenate(list(distances.values()))
    return float(np.max(values[np.isfinite(values)], initial=10.0))


def _finish(figure: Figure, axes: Axes, logarithmic: bool = False) -> None:
    """Scale the axes, and put the legend above them."""
    from matplotlib.ticker import StrMethodFormatter

    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(left=_NEAREST_MM)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper left", frameon=False, fontsize=8.5)
