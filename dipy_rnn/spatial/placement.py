"""Points that do not fit an image: how many fit it, and in which other space they do.

Points in mm are often wrong in one of two ways: they are voxel coordinates, or x and y
have the other sign (LPS+, the convention of ITK and DICOM).
"""

from dataclasses import dataclass

import numpy as np

from dipy_rnn._typing import BoolArray, FloatArray
from dipy_rnn.spatial.affine import is_inside, to_voxels

_LPS = np.array([-1.0, -1.0, 1.0])
# In another space, points fit clearly better if this share more of them fit.
_CLEARLY = 0.1


@dataclass(frozen=True)
class Placement:
    """Shares of points that fit an image, for three meanings of their coordinates.

    Parameters
    ----------
    ras : float
        Share in mm in RAS+, as the package reads them.
    lps : float
        Share in mm in LPS+.
    voxels : float
        Share in voxel coordinates.

    Examples
    --------
    >>> affine = np.diag([2.0, 2, 2, 1])
    >>> affine[:3, 3] = -100
    >>> points = np.array([[5.0, 6, 7], [8, 8, 8]])
    >>> placed = Placement.of(points, affine, np.ones((10, 10, 10), bool))
    >>> placed.ras, placed.voxels
    (0.0, 1.0)
    >>> placed.advice()
    'They fit as voxel coordinates: convert them to mm with the affine (...).'
    """

    ras: float
    lps: float
    voxels: float

    @classmethod
    def of(
        cls, points_mm: FloatArray, affine: FloatArray, fitting: BoolArray
    ) -> "Placement":
        """Count the points that fit an image.

        Parameters
        ----------
        points_mm : ndarray of shape (N, 3)
            N must be above 0.
        affine : ndarray of shape (4, 4)
            Voxel to mm.
        fitting : ndarray of shape (X, Y, Z), bool
            Voxels in which points are expected; all True to expect them anywhere in the
            image.

        Returns
        -------
        placement : Placement
        """

        def share(points_vox: FloatArray) -> float:
            inside = is_inside(points_vox, fitting.shape)
            voxels = np.floor(points_vox[inside] + 0.5).astype(int)
            return float(np.count_nonzero(fitting[*voxels.T]) / len(points_vox))

        return cls(
            share(to_voxels(points_mm, affine)),
            share(to_voxels(points_mm * _LPS, affine)),
            share(points_mm),
        )

    @property
    def is_better_elsewhere(self) -> bool:
        """Whether clearly more points fit in another space."""
        return max(self.lps, self.voxels) > self.ras + _CLEARLY

    def advice(self) -> str:
        """Return a sentence that says what the coordinates may be."""
        if self.is_better_elsewhere and self.voxels > self.lps:
            return (
                "They fit as voxel coordinates: convert them to mm with the affine "
                "(nibabel.affines.apply_affine)."
            )
        if self.is_better_elsewhere:
            return "They fit in LPS+: negate x and y, because RAS+ is needed."
        return (
            "Points in mm in the scanner space (RAS+) of the image are needed; these "
            "may be of another subject or space."
        )


def describe_outside(
    points_mm: FloatArray, affine: FloatArray, shape: tuple[int, ...]
) -> tuple[int, str]:
    """Count the points outside an image, and say what their coordinates may be.

    Parameters
    ----------
    points_mm : ndarray of shape (N, 3)
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    shape : tuple of 3 int

    Returns
    -------
    n_outside : int
    text : str
        The numbers and an advice, for a message. Empty if no point is outside.

    Examples
    --------
    >>> describe_outside(np.array([[0.0, 0, 0], [-1, -1, 0]]), np.eye(4), (3, 3, 3))
    (1, '1 of 2 lie outside the image. They fit in LPS+: negate x and y, because ...')
    """
    outside = points_mm[~is_inside(to_voxels(points_mm, affine), shape)]
    if not len(outside):
        return 0, ""
    advice = Placement.of(outside, affine, np.ones(shape, bool)).advice()
    text = f"{len(outside)} of {len(points_mm)} lie outside the image. {advice}"
    return len(outside), text
