"""Where two tractograms differ: maps of streamline density and of the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from dipy_rnn import spatial
from dipy_rnn._typing import AnyArray, ArrayLike, FloatArray
from dipy_rnn.evaluation import visits
from dipy_rnn.report.panels import (
    COLOURS,
    PLANES,
    SHEET_COLOUR,
    BackgroundImage,
    Plane,
    Sheet,
    all_points,
    draw_section,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_SMOOTHING_MM = 4.0
_MAP_INCHES = 3.55  # longest side
_BAR_LABEL = "streamlines per 1000"


class Difference:
    """Difference of two tractograms in the density of their streamlines.

    Parameters
    ----------
    candidate, reference : sequence of ndarrays of shape (M, 3)
        Streamlines in mm.
    image : array_like of shape (X, Y, Z)
        Drawn below the maps; densities are computed in its voxels.
    affine : array_like of shape (4, 4)
        Voxel to mm.

    Attributes
    ----------
    densities : dict of str to ndarray of shape (X, Y, Z)
        Of ``"candidate"`` and ``"reference"``: number of streamlines through each
        voxel, per 1000 streamlines. Streamlines without points count among the 1000.
    difference : ndarray of shape (X, Y, Z)
        Density of the candidate minus density of the reference.
    point_mm : ndarray of shape (3,)
        Voxel centre where the difference has its largest absolute value, after
        smoothing with a Gaussian of 4 mm standard deviation. If the difference is 0
        everywhere, the middle of the image.
    sign : int
        Sign of the smoothed difference at `point_mm`: 1 if the candidate has more
        streamlines there, -1 if the reference has, 0 if the densities are equal
        everywhere.

    Raises
    ------
    ValueError
        If `image` or `affine` has another shape, or the affine is invalid.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> maps = Difference([line], [line[:2]], np.ones((3, 1, 1)), np.eye(4))
    >>> maps.difference.ravel().tolist(), maps.point_mm.tolist(), maps.sign
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
        points_mm = all_points(line for lines in both.values() for line in lines)
        self._background = BackgroundImage(image, affine, points_mm)
        affine, shape = self._background.affine, self._background.image.shape
        self.densities: dict[str, FloatArray] = {
            key: 1000 * visits(lines, affine, shape) / max(len(lines), 1)
            for key, lines in both.items()
        }
        self.difference = self.densities["candidate"] - self.densities["reference"]
        smooth = gaussian_filter(
            self.difference, _SMOOTHING_MM / spatial.voxel_sizes(affine)
        )
        voxel = np.unravel_index(np.argmax(np.abs(smooth)), shape)
        self.sign = int(np.sign(smooth[voxel]))
        self.point_mm = self._background.middle_mm
        if self.sign:
            self.point_mm = spatial.to_mm(voxel, affine)

    def draw(self, labels: Mapping[str, str]) -> Figure:
        """Draw both densities and their difference in three planes.

        Parameters
        ----------
        labels : dict of str to str
            Names of ``"candidate"`` and ``"reference"``.

        Returns
        -------
        figure : matplotlib.figure.Figure

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        sheet = Sheet(self._background.box_mm, 3, colour_bars=True)
        most = max(_colour_limit(density) for density in self.densities.values())
        for row, (key, density) in enumerate(self.densities.items()):
            sheet.title(row, f"Density: {labels[key]}")
            for plane, axes in sheet.panels(row):
                drawn = self._draw(
                    axes, plane, sheet.box_mm, density, "viridis", 0, most
                )
            sheet.colour_bar(row, drawn, _BAR_LABEL)
        sheet.title(2, "Difference: first minus second")
        for plane, axes in sheet.panels(2):
            drawn = self._draw_difference(axes, plane, sheet.box_mm)
        sheet.colour_bar(2, drawn, _BAR_LABEL)
        return sheet.figure

    def draw_map(self) -> Figure:
        """Draw the difference in the plane in which the sum of its absolute values is
        largest.

        Returns
        -------
        figure : matplotlib.figure.Figure

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        box_mm = self._background.box_mm

        def shown(plane: Plane) -> float:
            section = self._background.section(
                self.difference, plane, self.point_mm, box_mm, order=0
            )
            return float(np.nansum(np.abs(section)))

        plane = max(PLANES, key=shown)
        width, height = np.ptp(box_mm, axis=0)[[plane.right, plane.up]]
        inches = _MAP_INCHES / max(width, height)
        figure = new_figure(width * inches, height * inches, facecolor=SHEET_COLOUR)
        axes = figure.add_axes((0, 0, 1, 1))
        self._draw_difference(axes, plane, box_mm)
        return figure

    def _draw(
        self,
        axes: Axes,
        plane: Plane,
        box_mm: FloatArray,
        volume: FloatArray,
        cmap: str | Colormap,
        vmin: float,
        vmax: float,
    ) -> AxesImage:
        """Draw a section of a volume over the image, with a cross at the point."""
        background, at_mm = self._background, self.point_mm
        background.draw(axes, plane, at_mm, box_mm, brightness=0.5)
        section = background.section(volume, plane, at_mm, box_mm, order=0)
        section[section == 0] = np.nan
        drawn = draw_section(axes, plane, box_mm, section, cmap, vmin, vmax)
        if self.sign:
            x, y = at_mm[[plane.right, plane.up]]
            axes.plot(x, y, "+", color="white", markersize=11, markeredgewidth=1)
        return drawn

    def _draw_difference(
        self, axes: Axes, plane: Plane, box_mm: FloatArray
    ) -> AxesImage:
        from matplotlib.colors import LinearSegmentedColormap, to_rgb

        # Small differences are transparent, so that the image below stays visible.
        blue, orange = (to_rgb(COLOURS[key]) for key in ("reference", "candidate"))
        stops = [(0.0, blue, 1.0), (0.3, blue, 0.7), (0.5, blue, 0.0)]
        stops += [(1 - at, orange, alpha) for at, _, alpha in stops[::-1]]
        cmap = LinearSegmentedColormap.from_list(
            "difference", [(at, (*colour, alpha)) for at, colour, alpha in stops]
        )
        most = _colour_limit(np.abs(self.difference))
        return self._draw(axes, plane, box_mm, self.difference, cmap, -most, most)


def _colour_limit(values: FloatArray) -> float:
    """Return the 99.5th percentile of the values above 0, or 1 without such values."""
    values = values[values > 0]
    return float(np.percentile(values, 99.5)) if len(values) else 1.0
