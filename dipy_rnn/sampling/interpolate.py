"""Trilinear sampling of a volume. Spherical harmonics can be rotated into local frames.

This module checks arguments and allocates results. The kernels (compiled functions) in
``_interp.pyx`` compute them.

The border rule, on an axis of four voxels (DIPY's ``trilinear_interpolate4d`` follows
the same rule):

==================  ==========================================================
coordinate          value
==================  ==========================================================
below -0.5          outside: zeros, and ``inside`` is False
-0.5 up to 0        voxel 0 (clamped)
0 up to 3           linear between the two nearest voxels
3 up to 3.5         voxel 3 (clamped)
3.5 and above, NaN  outside: zeros, and ``inside`` is False
==================  ==========================================================
"""

import numpy as np

from dipy_rnn import _interp
from dipy_rnn._checks import as_contiguous
from dipy_rnn._threads import count_threads
from dipy_rnn._typing import ArrayLike, BoolArray, Float32Array
from dipy_rnn.sampling.rotation import (
    Turns,
    check_frames,
    check_handedness,
    order_of,
    quarter_turns,
)

#: The status of a point: outside of the image, inside with all features zero, inside
#: with data, or inside with data but without a value in the cone ahead.
OUTSIDE, EMPTY, DATA, NOTHING_AHEAD = range(4)

_NO_FRAMES = np.empty((0, 3, 3))

_NO_TABLE = np.zeros(1, np.int32), np.zeros(1, np.int32), np.zeros(1, np.float32)

_NO_TABLES: Turns = (*_NO_TABLE, *_NO_TABLE)


def sample(
    volume: Float32Array,
    points_vox: ArrayLike,
    frames: ArrayLike | None = None,
    *,
    handedness: float = 1.0,
    normalise: bool = False,
    nbr_threads: int = 1,
) -> tuple[Float32Array, BoolArray]:
    """Interpolate a volume at points, and optionally rotate the values into frames.

    Parameters
    ----------
    volume : ndarray of shape (X, Y, Z, C)
        float32, C-contiguous. If ``frames`` are given, it holds spherical harmonics in
        MRtrix3's basis (``tournier07``, not legacy), along the voxel axes.
    points_vox : array_like of shape (N, 3)
        Voxel coordinates, voxel ``i`` centred on ``i``.
    frames : array_like of shape (N, 3, 3), optional
        One frame for each point: rows ``e1, e2, e3``, in components along the voxel
        axes (:mod:`dipy_rnn.spatial.frames`). The values are then the coefficients in
        these frames (:func:`dipy_rnn.sampling.rotate`).
    handedness : float, optional
        Handedness of the voxel axes (:func:`dipy_rnn.spatial.handedness`).
    normalise : bool, optional
        Whether to divide the values at each point by the root of their summed squares.
    nbr_threads : int, optional
        0 for every core.

    Returns
    -------
    values : ndarray of shape (N, C)
        float32. Zeros outside the volume.
    inside : ndarray of shape (N,)
        bool, by the border rule of this module.

    Raises
    ------
    ValueError
        If a shape or the type of the volume differs from the above, or ``handedness``
        is neither 1 nor -1.

    Examples
    --------
    >>> volume = np.arange(2, dtype=np.float32).reshape(2, 1, 1, 1)
    >>> values, inside = sample(volume, [[0.25, 0, 0], [1.5, 0, 0]])
    >>> values.tolist(), inside.tolist()
    ([[0.25], [0.0]], [True, False])
    """
    if (
        not isinstance(volume, np.ndarray)
        or volume.dtype != np.float32
        or volume.ndim != 4
        or not volume.size
        or not volume.flags.c_contiguous
    ):
        raise ValueError(
            "volume must be a C-contiguous float32 array of shape (X, Y, Z, C), "
            "without empty axes."
        )
    points_vox = as_contiguous(points_vox, "points_vox", np.float64)
    if points_vox.ndim != 2 or points_vox.shape[1] != 3:
        raise ValueError(f"points_vox has the shape {points_vox.shape}; give (N, 3).")
    check_handedness(handedness)
    n_points = len(points_vox)
    order, tables = 0, _NO_TABLES
    if frames is None:
        frames = _NO_FRAMES
    else:
        order = order_of(volume, "volume")
        tables = quarter_turns(order)
        frames = check_frames(frames, n_points)
    values = np.empty((n_points, volume.shape[3]), np.float32)
    status = np.empty(n_points, np.uint8)
    if n_points:
        _interp.sample(
            volume,
            points_vox,
            frames,
            handedness,
            order,
            tables,
            normalise,
            values,
            status,
            count_threads(nbr_threads),
        )
    return values, status != OUTSIDE
