"""Where images lie in mm, and whether two images overlap."""

from itertools import product

import numpy as np

from dipy_rnn._typing import FloatArray
from dipy_rnn.spatial.affine import to_mm, to_voxels


def corners_mm(shape: tuple[int, ...], affine: FloatArray) -> FloatArray:
    """Return the corners of an image, at the borders of its voxels.

    Parameters
    ----------
    shape : tuple of int
        Of the image. Only its first three numbers are used.
    affine : ndarray of shape (4, 4)
        Voxel to mm.

    Returns
    -------
    corners_mm : ndarray of shape (8, 3)

    Examples
    --------
    >>> corners_mm((3, 1, 1), np.diag([2.0, 2, 2, 1])).max(axis=0).tolist()
    [5.0, 1.0, 1.0]
    """
    ends = [(-0.5, n - 0.5) for n in shape[:3]]
    return to_mm(list(product(*ends)), affine)


def do_overlap(
    shape: tuple[int, ...],
    affine: FloatArray,
    other_shape: tuple[int, ...],
    other_affine: FloatArray,
) -> bool:
    """Tell whether two images overlap in mm.

    Parameters
    ----------
    shape, affine : tuple of int, ndarray of shape (4, 4)
        Of one image.
    other_shape, other_affine : tuple of int, ndarray of shape (4, 4)
        Of the other image.

    Returns
    -------
    do_overlap : bool
        False if one image lies wholly on one side of the other, along a voxel axis of
        either of them.

    Examples
    --------
    >>> beside = np.eye(4)
    >>> beside[0, 3] = 3
    >>> do_overlap((3, 3, 3), np.eye(4), (3, 3, 3), beside)
    False
    >>> do_overlap((4, 3, 3), np.eye(4), (3, 3, 3), beside)
    True
    """
    for own, corners in (
        ((shape, affine), corners_mm(other_shape, other_affine)),
        ((other_shape, other_affine), corners_mm(shape, affine)),
    ):
        corners_vox = to_voxels(corners, own[1])
        if (corners_vox.max(axis=0) <= -0.5).any():
            return False
        if (corners_vox.min(axis=0) >= np.array(own[0][:3]) - 0.5).any():
            return False
    return True


def describe_apart(
    points_mm: FloatArray, other_mm: FloatArray, other_name: str = "the fODF"
) -> str:
    """Say where two things lie that should overlap, and what is probably wrong.

    Parameters
    ----------
    points_mm, other_mm : ndarray of shape (N, 3), ndarray of shape (M, 3)
        Corners, or other points, of what should overlap, and of the other image.
    other_name : str, optional
        Name of the other image.

    Returns
    -------
    text : str
        Both ranges in mm, and an advice, for a message.

    Examples
    --------
    >>> points_mm = np.array([[1.0, 2, 3], [4, 5, 6]])
    >>> print(describe_apart(points_mm, np.array([[7.0, 8, 9]])))
    x, y, z from 1, 2, 3 to 4, 5, 6 mm, and the fODF from 7, 8, 9 to 7, 8, 9 mm. ...
    """
    mine, other = (
        " to ".join(
            ", ".join(f"{value:.4g}" for value in ends)
            for ends in (points.min(axis=0), points.max(axis=0))
        )
        for points in (points_mm, other_mm)
    )
    return (
        f"x, y, z from {mine} mm, and {other_name} from {other} mm. Probably they are "
        "of different subjects or spaces, or a header has lost its affine: register "
        "them, or correct the header."
    )
