"""The check that a tractogram lies in an image."""

from __future__ import annotations

from collections.abc import Sequence
import logging

import numpy as np

from dipy_rnn._typing import AnyArray, FloatArray
from dipy_rnn.spatial import Placement, is_inside, to_voxels, voxel_sizes

logger = logging.getLogger("dipy")  # DIPY's commands show and save its messages

_LEAST_INSIDE = 0.5  # share of the points of a tractogram
_MAX_POINTS = 1_000_000  # used for the check


def check_placement(
    streamlines: Sequence[AnyArray],
    affine: FloatArray,
    image: AnyArray,
    *,
    name: str,
    image_name: str,
) -> None:
    """Raise ValueError if a tractogram does not lie in an image; warn if parts do not.

    Parameters
    ----------
    streamlines : sequence of ndarray of shape (M, 3)
        In mm (RAS+).
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    image : ndarray of shape (X, Y, Z)
        Points are expected in voxels above 0.
    name, image_name : str
        Names of the tractogram and of the image, for messages.

    Raises
    ------
    ValueError
        If there is no streamline, if no streamline has two different points, or if more
        than half of the points are outside the image.

    Examples
    --------
    >>> line = np.array([[1.0, 1, 1], [2, 2, 2]])
    >>> image = np.ones((5, 5, 5))
    >>> check_placement([line], np.eye(4), image, name="a.trk", image_name="fa.nii.gz")
    >>> check_placement([-line], np.eye(4), image, name="a.trk", image_name="fa.nii.gz")
    Traceback (most recent call last):
    ValueError: 2 of 2 points of a.trk lie outside the image fa.nii.gz. Points in mm ...
    """
    streamlines = [line for line in streamlines if len(line)]
    if not streamlines:
        raise ValueError(f"{name} holds no streamline.")
    points_mm = np.concatenate(streamlines).astype(np.float64, copy=False)
    n_outside = int((~is_inside(to_voxels(points_mm, affine), image.shape)).sum())
    sample = points_mm[:: len(points_mm) // _MAX_POINTS + 1]
    text = (
        f"{n_outside} of {len(points_mm)} points of {name} lie outside the image "
        f"{image_name}."
    )
    if n_outside > (1 - _LEAST_INSIDE) * len(points_mm):
        advice = Placement.of(sample, affine, np.ones(image.shape, bool)).advice()
        raise ValueError(f"{text} {advice}")
    n_single = sum(bool((line == line[0]).all()) for line in streamlines)
    if n_single == len(streamlines):
        raise ValueError(
            f"{name} holds only single points; streamlines of two or more different "
            "points are needed."
        )
    if n_single:
        logger.warning(
            f"{n_single} of {len(streamlines)} streamlines of {name} are single points."
        )
    if n_outside:
        logger.warning(text)
    extent_mm = float(np.ptp(sample, axis=0).max())
    if extent_mm < voxel_sizes(affine).min():
        logger.warning(
            f"All points of {name} lie within {extent_mm:.2g} mm, less than a voxel of "
            f"{image_name}. Points in mm are needed; are these in metres?"
        )
    placed = Placement.of(sample, affine, image > 0)
    if placed.is_better_elsewhere:
        logger.warning(
            f"Only {100 * placed.ras:.0f} % of the points of {name} lie where "
            f"{image_name} is above 0. {placed.advice()}"
        )
