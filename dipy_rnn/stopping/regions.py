"""Regions in mm: masks on any grid, and spheres.

:class:`dipy_rnn.stopping.ExclusionCriterion` ends streamlines that step into a region.
:class:`dipy_rnn.pipeline.Regions` selects streamlines by regions.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dipy_rnn import _checks, spatial
from dipy_rnn._typing import AnyArray, ArrayLike, BoolArray, FloatArray


class Region(Protocol):
    """A part of space: a `Sphere`, a `MaskRegion`, or an object with the same method.

    Examples
    --------
    >>> class LeftHalf:
    ...     def contains(self, points_mm):
    ...         return points_mm[:, 0] < 0
    >>> LeftHalf().contains(np.array([[-1.0, 0, 0], [1, 0, 0]])).tolist()
    [True, False]
    """

    def contains(self, points_mm: FloatArray) -> BoolArray:
        """Tell which points are in the region.

        Parameters
        ----------
        points_mm : ndarray of shape (N, 3)
            RAS+.

        Returns
        -------
        contained : ndarray of shape (N,), bool
        """


@dataclass(frozen=True)
class Sphere:
    """The points up to a distance from a centre.

    Parameters
    ----------
    centre_mm : tuple of 3 float
        RAS+.
    radius_mm : float

    Raises
    ------
    ValueError
        If a number is not finite, or the radius is not above 0.

    Examples
    --------
    >>> Sphere((10, 0, 0), 2).contains(np.array([[12.0, 0, 0], [12.1, 0, 0]])).tolist()
    [True, False]
    """

    centre_mm: tuple[float, float, float]
    radius_mm: float

    def __post_init__(self) -> None:
        _checks.as_points([self.centre_mm], "centre_mm")
        if not 0 < _checks.check_number(self.radius_mm, "radius_mm") < np.inf:
            raise ValueError(
                f"radius_mm is {self.radius_mm}; a radius above 0 mm is needed."
            )

    def contains(self, points_mm: FloatArray) -> BoolArray:
        """As :meth:`Region.contains`."""
        squares = (points_mm - self.centre_mm) ** 2
        contained: BoolArray = squares.sum(axis=1) <= self.radius_mm**2
        return contained


class MaskRegion:
    """The voxels of a mask, on any grid.

    Parameters
    ----------
    mask : array_like of shape (X, Y, Z)
        A voxel is in the region if its value is above zero. Voxel ``i`` covers
        ``[i - 0.5, i + 0.5)``.
    affine : array_like of shape (4, 4)
        Voxel to mm.

    Raises
    ------
    ValueError
        If the mask has another number of axes or no voxel above zero, or the affine is
        invalid.

    Examples
    --------
    >>> region = MaskRegion(np.array([[[0]], [[1]]]), np.diag([2, 2, 2, 1]))
    >>> region.contains(np.array([[0.9, 0, 0], [1.1, 0, 0], [9, 0, 0]])).tolist()
    [False, True, False]
    """

    def __init__(self, mask: ArrayLike, affine: ArrayLike) -> None:
        mask = _checks.check_numbers(mask, "mask")
        if mask.ndim != 3:
            raise ValueError(f"mask has the shape {mask.shape}; (X, Y, Z) is needed.")
        self.mask: BoolArray = mask > 0
        if not self.mask.any():
            raise ValueError("mask is an empty region; it needs voxels above 0.")
        self.affine = spatial.check_affine(affine)
        self._to_voxels: AnyArray = np.linalg.inv(self.affine)

    def contains(self, points_mm: FloatArray) -> BoolArray:
        """As :meth:`Region.contains`."""
        points_vox = spatial.map_points(points_mm, self._to_voxels)
        contained = spatial.is_inside(points_vox, self.mask.shape)
        voxels = np.floor(points_vox[contained] + 0.5).astype(int)
        contained[contained] = self.mask[*voxels.T]
        return contained
