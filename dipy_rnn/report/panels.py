"""Parts that the plots share: planes, sections of an image, and sheets of panels.

Planes are sagittal, coronal and axial in mm (RAS+), whatever the grid of the image.
Left is drawn on the left, and each panel names its sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.ndimage import find_objects, map_coordinates

from dipy_rnn import spatial
from dipy_rnn._typing import AnyArray, ArrayLike, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# Colour-blind readers can distinguish these, on black, on white and in greyscale.
COLOURS = {"candidate": "#E98300", "reference": "#1F78B4", "yardstick": "#8C8C8C"}
TEXT_COLOUR, SHEET_COLOUR = "#DDDDDD", "black"
SHEET_INCHES = 10.8  # width
TITLE_INCHES = 0.36  # height
MARGIN_MM = 5.0

_BAR_INCHES, _MAX_PANEL_INCHES = 0.85, 4.2
_MAX_TITLE_LETTERS = 80
_SECTION_PIXELS = 500  # along the longest side of a section
_SIDES = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True)
class Plane:
    """A plane of the anatomy, and how it is drawn.

    Parameters
    ----------
    right, up, through : int
        Axis (0 for x, 1 for y, 2 for z) that runs to the right of a panel, up, and
        through it.
    """

    right: int
    up: int
    through: int


PLANES = (Plane(1, 2, 0), Plane(0, 2, 1), Plane(0, 1, 2))


def new_figure(
    width: float,
    height: float,
    *,
    facecolor: str | None = None,
    layout: Literal["constrained"] | None = None,
) -> Figure:
    """Make a figure without matplotlib.pyplot, which would keep it in memory.

    Parameters
    ----------
    width, height : float
        In inches.
    facecolor : str, optional
    layout : str, optional

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Plots need matplotlib. Install it with: pip install dipy_rnn[viz]"
        ) from error
    return Figure(figsize=(width, height), facecolor=facecolor, layout=layout)


def all_points(streamlines: Iterable[AnyArray]) -> FloatArray:
    """Concatenate the points of streamlines.

    Parameters
    ----------
    streamlines : iterable of ndarrays of shape (M, 3)

    Returns
    -------
    points : ndarray of shape (N, 3)
    """
    return np.concatenate([np.empty((0, 3)), *streamlines])


def escape_dollars(text: str) -> str:
    """Escape dollar signs, which matplotlib would read as the start of a formula.

    Parameters
    ----------
    text : str

    Returns
    -------
    escaped : str
    """
    return text.replace("$", r"\$")


class BackgroundImage:
    """An image that is drawn below streamlines, and the box that is shown.

    Parameters
    ----------
    image : array_like of shape (X, Y, Z)
        NaN and infinite values are drawn as 0.
    affine : array_like of shape (4, 4)
        Voxel to mm.
    points_mm : ndarray of shape (N, 3)
        Points that the box includes if they are inside the image.

    Attributes
    ----------
    box_mm : ndarray of shape (2, 3)
        Lowest and highest corner of the box: around the voxels that are not 0 and the
        points, with a margin of 5 mm.
    middle_mm : ndarray of shape (3,)
        Middle of the box.

    Raises
    ------
    ValueError
        If `image` or `affine` has another shape, or the affine is invalid.
    """

    def __init__(
        self, image: ArrayLike, affine: ArrayLike, points_mm: FloatArray
    ) -> None:
        volume = np.asarray(image, np.float64)
        if volume.ndim != 3:
            raise ValueError(
                f"image has the shape {volume.shape}; (X, Y, Z) is needed."
            )
        self.image: FloatArray = np.nan_to_num(volume, posinf=0, neginf=0)
        self.affine = spatial.check_affine(affine)
        nonzero = self.image[self.image != 0]
        low, high = np.percentile(nonzero, (1, 99.5)) if len(nonzero) else (0.0, 1.0)
        self._black, self._white = min(float(low), 0.0), float(high)
        self.box_mm = self._box(points_mm)
        self.middle_mm: FloatArray = self.box_mm.mean(axis=0)

    def _corners_mm(self, slices: Iterable[slice]) -> FloatArray:
        edges = [(axis.start - 0.5, axis.stop - 0.5) for axis in slices]
        return spatial.to_mm(list(product(*edges)), self.affine)

    def _box(self, points_mm: FloatArray) -> FloatArray:
        grid_mm = self._corners_mm([slice(0, n) for n in self.image.shape])
        nonzero = find_objects((self.image != 0).astype(int))
        corners_mm = self._corners_mm(nonzero[0]) if nonzero else grid_mm
        points_mm = np.clip(points_mm, grid_mm.min(axis=0), grid_mm.max(axis=0))
        corners_mm = np.concatenate([corners_mm, points_mm])
        low, high = corners_mm.min(axis=0), corners_mm.max(axis=0)
        half = (high - low) / 2 + MARGIN_MM
        # If the box is one slice thick, its panels still need room for their labels.
        half = np.maximum(half, half.max() / 4)
        box_mm: FloatArray = (low + high) / 2 + half * np.array([[-1], [1]])
        return box_mm

    def section(
        self,
        volume: FloatArray,
        plane: Plane,
        at_mm: FloatArray,
        box_mm: FloatArray,
        order: int,
    ) -> FloatArray:
        """Sample a volume on the image's grid in a plane.

        Parameters
        ----------
        volume : ndarray of shape (X, Y, Z)
        plane : Plane
        at_mm : ndarray of shape (3,)
            A point in the plane.
        box_mm : ndarray of shape (2, 3)
            Lowest and highest corner of what is sampled.
        order : int
            Of interpolation: 0 for the nearest voxel, 1 for trilinear.

        Returns
        -------
        section : ndarray of shape (rows, columns)
            The first row is the lowest. NaN outside the volume.
        """
        sizes_mm = np.ptp(box_mm, axis=0)
        grid = []
        for axis in (plane.right, plane.up):
            n = int(np.ceil(_SECTION_PIXELS * sizes_mm[axis] / sizes_mm.max()))
            grid.append(box_mm[0, axis] + sizes_mm[axis] * (np.arange(n) + 0.5) / n)
        points_mm = np.full((len(grid[1]), len(grid[0]), 3), at_mm, float)
        points_mm[..., plane.right], points_mm[..., plane.up] = np.meshgrid(*grid)
        voxels = spatial.to_voxels(points_mm, self.affine)
        inside = np.all((voxels >= -0.5) & (voxels < np.array(volume.shape) - 0.5), -1)
        values = map_coordinates(
            volume, np.moveaxis(voxels, -1, 0), order=order, mode="nearest"
        )
        return np.where(inside, values, np.nan)

    def draw(
        self,
        axes: Axes,
        plane: Plane,
        at_mm: FloatArray,
        box_mm: FloatArray,
        brightness: float = 1.0,
    ) -> None:
        """Draw a section in grey, with its position in mm and the names of its sides.

        Parameters
        ----------
        axes : matplotlib.axes.Axes
        plane : Plane
        at_mm : ndarray of shape (3,)
            A point in the plane.
        box_mm : ndarray of shape (2, 3)
            Lowest and highest corner of what is drawn.
        brightness : float, optional
            Grey level of the image's highest values: 1 for white.
        """
        section = self.section(self.image, plane, at_mm, box_mm, order=1)
        white = self._black + (self._white - self._black) / brightness
        draw_section(axes, plane, box_mm, section, "gray", self._black, white)
        axes.set_axis_off()
        # Without this, streamlines that leave the box would change the limits of the
        # axes.
        axes.autoscale(False)
        text: dict[str, Any] = {
            "transform": axes.transAxes,
            "color": TEXT_COLOUR,
            "fontsize": 8.5,
        }
        (left, right), (down, up) = _SIDES[plane.right], _SIDES[plane.up]
        axes.text(0.015, 0.5, left, ha="left", va="center", **text)
        axes.text(0.985, 0.5, right, ha="right", va="center", **text)
        axes.text(0.5, 0.015, down, ha="center", va="bottom", **text)
        axes.text(0.5, 0.985, up, ha="center", va="top", **text)
        value = f"{round(at_mm[plane.through])}".replace("-", "\N{MINUS SIGN}")
        position = f"{'xyz'[plane.through]} = {value} mm"
        axes.text(0.015, 0.015, position, ha="left", va="bottom", **text)


def draw_section(
    axes: Axes,
    plane: Plane,
    box_mm: FloatArray,
    section: FloatArray,
    cmap: str | Colormap,
    vmin: float,
    vmax: float,
) -> AxesImage:
    """Draw a section on top of the content of a panel.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    plane : Plane
    box_mm : ndarray of shape (2, 3)
        Lowest and highest corner of the section.
    section : ndarray of shape (rows, columns)
        The first row is the lowest. NaN is transparent.
    cmap : str or matplotlib.colors.Colormap
    vmin, vmax : float
        Values of the first and the last colour.

    Returns
    -------
    drawn : matplotlib.image.AxesImage
    """
    low, high = box_mm[:, [plane.right, plane.up]]
    return axes.imshow(
        section,
        origin="lower",
        extent=(low[0], high[0], low[1], high[1]),
        interpolation="nearest",
        cmap=cmap,
        vmin=vmin,
        vmax=vmax,
    )


class Sheet:
    """A figure with rows of three panels, one for each plane, all at one scale.

    Parameters
    ----------
    box_mm : ndarray of shape (2, 3)
        Lowest and highest corner of what the panels show.
    n_rows : int
    colour_bars : bool, optional
        Leave room for a colour bar beside each row.

    Attributes
    ----------
    box_mm : ndarray of shape (2, 3)
        The same box, made larger so that all panels have the same height.
    figure : matplotlib.figure.Figure
    """

    def __init__(
        self, box_mm: FloatArray, n_rows: int, colour_bars: bool = False
    ) -> None:
        # One height for all panels: sizes along y and z are made equal.
        half = np.ptp(box_mm, axis=0) / 2
        half[1:] = half[1:].max()
        self.box_mm = box_mm.mean(axis=0) + half * np.array([[-1], [1]])
        sizes_mm = 2 * half[[plane.right for plane in PLANES]]
        room = SHEET_INCHES - colour_bars * _BAR_INCHES
        inches = min(room / sizes_mm.sum(), _MAX_PANEL_INCHES / (2 * half[2]))
        self._widths, self._height = sizes_mm * inches, 2 * half[2] * inches
        self._left = (room - self._widths.sum()) / 2
        self._pitch = self._height + TITLE_INCHES
        self._size = np.array([SHEET_INCHES, n_rows * self._pitch])
        self.figure = new_figure(*self._size, facecolor=SHEET_COLOUR)

    def _bottom(self, row: int) -> float:
        return float(self._size[1] - (row + 1) * self._pitch)

    def _add_axes(
        self, left: float, bottom: float, width: float, height: float
    ) -> Axes:
        place = np.array([left, bottom, width, height]) / np.tile(self._size, 2)
        return self.figure.add_axes(tuple(place))

    def panels(self, row: int) -> Iterator[tuple[Plane, Axes]]:
        """Add the panels of a row.

        Parameters
        ----------
        row : int

        Yields
        ------
        plane : Plane
        axes : matplotlib.axes.Axes
        """
        left = self._left
        for plane, width in zip(PLANES, self._widths):
            yield (
                plane,
                self._add_axes(left, self._bottom(row), width - 0.03, self._height),
            )
            left += width

    def title(self, row: int, text: str) -> None:
        """Write above a row, on the left.

        Parameters
        ----------
        row : int
        text : str
            If it has more than 80 letters, its middle is left out.
        """
        if len(text) > _MAX_TITLE_LETTERS:
            half = _MAX_TITLE_LETTERS // 2
            text = f"{text[:half]}...{text[-half:]}"
        self._write(row, 0.08, text, "left", 10.5, "white")

    def remark(self, row: int, text: str) -> None:
        """Write above a row, on the right.

        Parameters
        ----------
        row : int
        text : str
        """
        self._write(row, SHEET_INCHES - 0.08, text, "right", 8.5, TEXT_COLOUR)

    def _write(
        self, row: int, at: float, text: str, ha: str, fontsize: float, color: str
    ) -> None:
        x, y = [at, self._bottom(row) + self._height + 0.11] / self._size
        self.figure.text(
            x, y, escape_dollars(text), ha=ha, fontsize=fontsize, color=color
        )

    def colour_bar(self, row: int, drawn: AxesImage, label: str) -> None:
        """Draw a colour bar beside a row.

        Parameters
        ----------
        row : int
        drawn : matplotlib.image.AxesImage
            The image whose colours the bar explains.
        label : str
        """
        left = SHEET_INCHES - _BAR_INCHES + 0.1
        bottom, height = self._bottom(row) + 0.1 * self._height, 0.8 * self._height
        axes = self._add_axes(left, bottom, 0.12, height)
        axes.set_facecolor(SHEET_COLOUR)
        bar = self.figure.colorbar(drawn, cax=axes)
        bar.set_label(label, color=TEXT_COLOUR, fontsize=8.5)
        bar.ax.tick_params(colors=TEXT_COLOUR, labelsize=8.5)
        bar.outline.set_edgecolor(TEXT_COLOUR)
