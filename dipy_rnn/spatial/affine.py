"""Affines: points and directions between voxel and millimetre coordinates.

There are three spaces:

``mm``
    RAS+ scanner coordinates in mm. ``affine`` maps voxel coordinates to them. Seeds and
    streamlines are given and returned in this space.
``vox``
    Voxel coordinates. Voxel ``i`` is centred on coordinate ``i`` and covers
    ``[i - 0.5, i + 0.5)``. Tracking is done in this space.
``axes``
    Directions, in components along the voxel axes. The components are in mm, so a
    direction of unit length is 1 mm long for any voxel size. DIPY's spherical harmonics
    and directions are in this space. It differs from RAS+ by a rotation, or by a
    rotation and a mirror. There is no offset and no scale. In all docstrings "along the
    voxel axes" means: in this space.

Headers store affines with few digits. The voxel axes of such an affine are not exactly
perpendicular: it has a small shear. Up to 0.1 degrees of shear are accepted. Positions
are converted with the affine itself. Directions are converted with the rotation (or the
rotation and mirror) that is nearest to it (:func:`axes`).

Other modules convert coordinates with these functions. There are two exceptions, which
contain the same arithmetic. ``tracking/slots/_compiled.pyx`` converts finished
streamlines in its kernel. ``tracking/look_ahead.py`` adds numbers in the order of
LocalTracking, so that its seeds are equal to LocalTracking's.
"""

import numpy as np

from dipy_rnn._checks import FARTHEST_MM, as_float64
from dipy_rnn._typing import AnyArray, ArrayLike, BoolArray, FloatArray

_MOST_SHEAR_DEG = 0.1
# The tolerance of dipy.io.utils.is_header_compatible, relative and absolute.
_GRID_TOLERANCE = 1e-3
_SMALLEST_VOXEL_MM = 1e-6


def check_affine(affine: ArrayLike, name: str = "affine") -> FloatArray:
    """Return an affine as float64.

    Parameters
    ----------
    affine : array_like of shape (4, 4)
        Voxel to mm: rotation, mirror, scale and translation. Up to 0.1 degrees of
        shear are accepted.
    name : str, optional
        Its name in error messages: an argument or a file.

    Returns
    -------
    affine : ndarray of shape (4, 4)

    Raises
    ------
    ValueError
        If it is not a finite, invertible 4 x 4 matrix. If two voxel axes are more than
        0.1 degrees from perpendicular. Also if voxels are smaller than 1e-6 mm, or an
        entry is above 1e6 or below -1e6.

    Examples
    --------
    >>> check_affine([[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]).dtype
    dtype('float64')
    """
    affine = as_float64(affine, name)
    if affine.shape != (4, 4):
        raise ValueError(f"{name} has the shape {affine.shape}; (4, 4) is needed.")
    if not np.isfinite(affine).all():
        raise ValueError(f"{name} holds NaN or infinity; correct the image's header.")
    if not np.allclose(affine[3], [0, 0, 0, 1]):
        raise ValueError(f"{name} ends in the row {affine[3]}; 0 0 0 1 is needed.")
    if np.abs(affine).max() > FARTHEST_MM:
        raise ValueError(
            f"{name} holds {np.abs(affine).max():g}; up to {FARTHEST_MM:g} mm is "
            "allowed, check its units."
        )
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not sizes.all() or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
        raise ValueError(
            f"{name} is singular: its voxel axes lie in a plane or on a line."
        )
    if sizes.min() < _SMALLEST_VOXEL_MM:
        raise ValueError(
            f"{name} has voxels of {sizes.min():g} mm; {_SMALLEST_VOXEL_MM:g} mm or "
            "more is needed, check its units."
        )
    shear_deg = _shear_deg(affine)
    if shear_deg > _MOST_SHEAR_DEG:
        raise ValueError(
            f"{name} contains {shear_deg:.4g} degrees of shear; up to "
            f"{_MOST_SHEAR_DEG:g} degrees are allowed, resample the data onto a grid "
            "of right angles."
        )
    return affine


def _shear_deg(affine: FloatArray) -> float:
    """Return the largest deviation from a right angle between two voxel axes."""
    units = affine[:3, :3] / voxel_sizes(affine)
    cosines = np.triu(units.T @ units, 1)
    return float(np.rad2deg(np.arcsin(min(np.abs(cosines).max(), 1.0))))


def voxel_sizes(affine: FloatArray) -> FloatArray:
    """Return the edge lengths of a voxel.

    Parameters
    ----------
    affine : ndarray of shape (4, 4)
        Voxel to mm.

    Returns
    -------
    sizes_mm : ndarray of shape (3,)

    Examples
    --------
    >>> voxel_sizes(np.diag([-2.0, 2.0, 3.0, 1.0])).tolist()
    [2.0, 2.0, 3.0]
    """
    sizes_mm: FloatArray = np.linalg.norm(affine[:3, :3], axis=0)
    return sizes_mm


def voxel_edge(affine: FloatArray) -> float:
    """Return the edge length of a cube that has the volume of a voxel.

    Parameters
    ----------
    affine : ndarray of shape (4, 4)
        Voxel to mm.

    Returns
    -------
    edge_mm : float

    Examples
    --------
    >>> voxel_edge(np.diag([-1.0, 2.0, 4.0, 1.0]))
    2.0
    """
    return float(np.cbrt(np.prod(voxel_sizes(affine))))


def axes(affine: FloatArray) -> FloatArray:
    """Return the voxel axes as unit vectors in RAS+.

    Parameters
    ----------
    affine : ndarray of shape (4, 4)
        Voxel to mm.

    Returns
    -------
    axes : ndarray of shape (3, 3)
        Orthonormal. Column ``i`` is voxel axis ``i``. If ``d`` is a direction in
        components along the voxel axes, ``axes @ d`` is the same direction in RAS+.
        ``axes.T`` is the inverse.

    Notes
    -----
    If the affine has a small shear, this is the orthogonal matrix that is nearest to
    the normalised columns of the affine, in the Frobenius norm: the orthogonal factor
    of their polar decomposition. It has the handedness of the affine.

    Examples
    --------
    >>> axes(np.diag([-2.0, 2.0, 3.0, 1.0])) @ [1.0, 0.0, 0.0]
    array([-1.,  0.,  0.])
    """
    left, _, right = np.linalg.svd(affine[:3, :3] / voxel_sizes(affine))
    nearest: FloatArray = left @ right
    return nearest


def without_shear(affine: ArrayLike) -> FloatArray:
    """Return the affine of the same voxels, with axes that are exactly perpendicular.

    Use it for DIPY's :class:`~dipy.tracking.local_tracking.LocalTracking`, which
    refuses most affines that were rounded. Convert the seeds with the same affine.

    Parameters
    ----------
    affine : array_like of shape (4, 4)
        Voxel to mm, with up to 0.1 degrees of shear.

    Returns
    -------
    affine : ndarray of shape (4, 4)
        Voxel to mm. The origin and the voxel sizes are those of the given affine. The
        axes are the nearest ones without shear (:func:`axes`).

    Raises
    ------
    ValueError
        As :func:`check_affine`.

    Examples
    --------
    >>> rounded = np.diag([2.0, 2.0, 2.0, 1.0])
    >>> rounded[0, 1] = 1e-4
    >>> grid = without_shear(rounded)
    >>> [round(abs(float(a[:, 0] @ a[:, 1])), 5) for a in (rounded, grid)]
    [0.0002, 0.0]
    """
    affine = check_affine(affine)
    grid = affine.copy()
    grid[:3, :3] = axes(affine) * voxel_sizes(affine)
    return grid


def is_same_grid(affine: FloatArray, other: FloatArray) -> bool:
    """Tell whether the affines of two images of one shape describe the same grid.

    Parameters
    ----------
    affine, other : ndarray of shape (4, 4)
        Voxel to mm.

    Returns
    -------
    is_same : bool
        Whether no element differs by more than 0.001 plus 0.1 % of its value in
        `other`. This is the tolerance for affines of
        :func:`dipy.io.utils.is_header_compatible`.

    Examples
    --------
    >>> rounded = np.diag([1.9999, 2.0, 2.0001, 1.0])
    >>> is_same_grid(np.diag([2.0, 2.0, 2.0, 1.0]), rounded)
    True
    >>> is_same_grid(np.diag([-2.0, 2.0, 2.0, 1.0]), rounded)
    False
    """
    return np.allclose(affine, other, rtol=_GRID_TOLERANCE, atol=_GRID_TOLERANCE)


def handedness(affine: FloatArray) -> float:
    """Return the handedness of the voxel axes.

    Parameters
    ----------
    affine : ndarray of shape (4, 4) or (3, 3)
        Voxel to mm, or the axes alone (:func:`axes`).

    Returns
    -------
    sign : float
        1.0 for right-handed axes (such as RAS or LPS), -1.0 for left-handed ones
        (such as LAS).

    Examples
    --------
    >>> handedness(np.diag([-2.0, 2.0, 2.0, 1.0]))
    -1.0
    """
    return 1.0 if np.linalg.det(affine[:3, :3]) > 0 else -1.0


def to_voxels(points_mm: ArrayLike, affine: FloatArray) -> FloatArray:
    """Convert points from mm to voxel coordinates.

    Parameters
    ----------
    points_mm : array_like of shape (..., 3)
        RAS+ points.
    affine : ndarray of shape (4, 4)
        Voxel to mm.

    Returns
    -------
    points_vox : ndarray of shape (..., 3)
        float64.

    Examples
    --------
    >>> to_voxels([4.0, 4.0, 4.0], np.diag([2.0, 2.0, 4.0, 1.0])).tolist()
    [2.0, 2.0, 1.0]
    """
    return map_points(points_mm, np.linalg.inv(affine))


def is_inside(points_vox: ArrayLike, shape: tuple[int, ...]) -> BoolArray:
    """Tell which points are inside an image: in a voxel, from border to border.

    Parameters
    ----------
    points_vox : array_like of shape (N, 3)
        Voxel coordinates; the centre of the first voxel is (0, 0, 0).
    shape : tuple of int
        Shape of the image. Only its first three numbers are used.

    Returns
    -------
    inside : ndarray of shape (N,), bool
        False for NaN.

    Examples
    --------
    >>> is_inside([[-0.5, 0, 0], [2.5, 0, 0]], (3, 1, 1)).tolist()
    [True, False]
    """
    points_vox = np.asarray(points_vox)
    inside: BoolArray = np.all(
        (points_vox >= -0.5) & (points_vox < np.array(shape[:3]) - 0.5), axis=-1
    )
    return inside


def to_mm(points_vox: ArrayLike, affine: FloatArray) -> FloatArray:
    """Convert points from voxel coordinates to mm.

    Parameters
    ----------
    points_vox : array_like of shape (..., 3)
        Voxel coordinates, voxel ``i`` centred on ``i``.
    affine : ndarray of shape (4, 4)
        Voxel to mm.

    Returns
    -------
    points_mm : ndarray of shape (..., 3)
        float64, RAS+.

    Examples
    --------
    >>> to_mm([2.0, 2.0, 1.0], np.diag([2.0, 2.0, 4.0, 1.0])).tolist()
    [4.0, 4.0, 4.0]
    """
    return map_points(points_vox, affine)


def map_points(points: ArrayLike, matrix: AnyArray) -> FloatArray:
    """Apply an affine matrix to points.

    A product of matrices may round differently if there are more points. These sums do
    not, so a decision about a point does not depend on the other points.

    Parameters
    ----------
    points : array_like of shape (..., 3)
    matrix : ndarray of shape (4, 4)

    Returns
    -------
    mapped : ndarray of shape (..., 3)
        float64, C-contiguous. NaN for points that are not finite.

    Examples
    --------
    >>> map_points(np.array([[1.0, 2, 3]]), np.diag([2.0, 2, 2, 1])).tolist()
    [[2.0, 4.0, 6.0]]
    """
    x, y, z = np.moveaxis(np.asarray(points, np.float64), -1, 0)
    with np.errstate(invalid="ignore"):  # infinity times zero
        columns = [a * x + b * y + c * z + d for a, b, c, d in matrix[:3]]
    return np.stack(columns, axis=-1)
