"""The moving frame of a streamline.

A frame is three orthonormal rows ``e1, e2, e3`` along the voxel axes. ``e3`` is the
incoming direction of the streamline. In its own frame a streamline always runs along z,
wherever it is in the head. A network then learns small deviations from "straight on",
and a rotation of the head has no effect.

From step to step the frame follows by parallel transport: by the smallest rotation that
takes the old tangent to the new one. The roll about the tangent at the seed is
arbitrary. :func:`from_tangents` chooses it by a convention in RAS+. A model should not
depend on it (:class:`dipy_rnn.model.MovingFrameGRU` does not, by construction).

Frames are right-handed *in RAS+*. Along left-handed voxel axes (a brain stored as LAS)
their determinant is therefore -1. The network then sees the same brain, and not its
mirror image, however the image is stored.

:func:`transport` and :func:`reverse` are the reference. ``tracking/slots/``
has implementations of its own, which the tests compare with them.
"""

import numpy as np

from dipy_rnn._typing import FloatArray
from dipy_rnn.spatial.affine import handedness as handedness_of


def from_tangents(tangents: FloatArray, axes: FloatArray) -> FloatArray:
    """Make the first frames of streamlines.

    Parameters
    ----------
    tangents : ndarray of shape (N, 3)
        Unit vectors along the voxel axes: each frame's ``e3``.
    axes : ndarray of shape (3, 3)
        The voxel axes in RAS+ (:func:`dipy_rnn.spatial.axes`).

    Returns
    -------
    frames : ndarray of shape (N, 3, 3)
        Rows ``e1, e2, e3``. The RAS+ axis at the largest angle to the tangent
        determines ``e1``, which is along its component across the tangent.

    Examples
    --------
    >>> from_tangents(np.array([[0.0, 0.0, 1.0]]), np.eye(3))[0].tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    e3 = np.asarray(tangents, dtype=np.float64)
    # Rounding breaks ties in the same way for every orientation of the grid.
    furthest = np.argmin(np.round(np.abs(e3 @ axes.T), 6), axis=1)
    return _complete(axes[furthest], e3, handedness_of(axes))


def transport(frames: FloatArray, tangents: FloatArray) -> FloatArray:
    """Rotate frames to new tangents by the smallest rotation.

    Parameters
    ----------
    frames : ndarray of shape (N, 3, 3)
        Rows ``e1, e2, e3``.
    tangents : ndarray of shape (N, 3)
        Unit vectors along the voxel axes: the new ``e3``.

    Returns
    -------
    frames : ndarray of shape (N, 3, 3)

    Notes
    -----
    The rotation that takes a unit vector a to b moves a vector x across a by
    -(a + b) (b.x) / (1 + a.b). At a U-turn (b = -a) it is not defined, and
    ``e1`` is kept.

    Examples
    --------
    >>> frames = from_tangents(np.array([[0.0, 0.0, 1.0]]), np.eye(3))
    >>> turned = transport(frames, np.array([[1.0, 0.0, 0.0]]))
    >>> turned[0].astype(int).tolist()
    [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
    """
    e1, e2, e3 = frames[:, 0], frames[:, 1], frames[:, 2]
    handedness = np.sign(_dot(_cross(e3, e1), e2))
    closeness = np.maximum(1.0 + _dot(e3, tangents), 1e-9)
    e1 = e1 - _dot(e1, tangents) / closeness * (e3 + tangents)
    return _complete(e1, tangents, handedness)


def reverse(frames: FloatArray) -> FloatArray:
    """Turn frames to the opposite direction of travel.

    Parameters
    ----------
    frames : ndarray of shape (N, 3, 3)
        Rows ``e1, e2, e3``.

    Returns
    -------
    frames : ndarray of shape (N, 3, 3)
        Rows ``e1, -e2, -e3``: a half turn about ``e1``.

    Examples
    --------
    >>> reverse(np.eye(3)[None])[0, 2].tolist()
    [-0.0, -0.0, -1.0]
    """
    signs: FloatArray = np.array([[1.0], [-1.0], [-1.0]])
    return frames * signs


def to_axes(local: FloatArray, frames: FloatArray) -> FloatArray:
    """Rotate vectors from their frames to the voxel axes.

    Parameters
    ----------
    local : ndarray of shape (N, 3)
        Components along ``e1, e2, e3``.
    frames : ndarray of shape (N, 3, 3)
        Rows ``e1, e2, e3``.

    Returns
    -------
    vectors : ndarray of shape (N, 3)
        Along the voxel axes.

    Examples
    --------
    >>> frame = np.array([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]])
    >>> to_axes(np.array([[0.0, 0.0, 2.0]]), frame).tolist()
    [[2.0, 0.0, 0.0]]
    """
    vectors: FloatArray = np.einsum("ni,nij->nj", local, frames)
    return vectors


def to_local(vectors: FloatArray, frames: FloatArray) -> FloatArray:
    """Rotate vectors from the voxel axes into their frames.

    Parameters
    ----------
    vectors : ndarray of shape (N, 3)
        Along the voxel axes.
    frames : ndarray of shape (N, 3, 3)
        Rows ``e1, e2, e3``.

    Returns
    -------
    local : ndarray of shape (N, 3)
        Components along ``e1, e2, e3``.

    Examples
    --------
    >>> frame = np.array([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]])
    >>> to_local(np.array([[2.0, 0.0, 0.0]]), frame).tolist()
    [[0.0, 0.0, 2.0]]
    """
    local: FloatArray = np.einsum("nj,nij->ni", vectors, frames)
    return local


def _complete(
    e1: FloatArray, e3: FloatArray, handedness: float | FloatArray
) -> FloatArray:
    """Make e1 a unit vector across e3, and add e2. This removes rounding errors."""
    e1 = e1 - _dot(e1, e3) * e3
    e1 = e1 / np.sqrt(_dot(e1, e1))
    return np.stack([e1, handedness * _cross(e3, e1), e3], axis=1)


def _dot(a: FloatArray, b: FloatArray) -> FloatArray:
    dots: FloatArray = np.einsum("ni,ni->n", a, b)[:, None]
    return dots


def _cross(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return the cross product. For one row, NumPy's takes ten times as long."""
    following, last = [1, 2, 0], [2, 0, 1]
    return a[:, following] * b[:, last] - a[:, last] * b[:, following]
