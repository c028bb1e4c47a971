"""The moving frame of a streamline.

A frame has three orthonormal rows ``e1, e2, e3``, in components along the voxel axes.
``e3`` is the incoming direction of the streamline (its tangent). In its own frame a
streamline always runs along z, wherever it is in the head. A network then learns small
deviations from "straight on", and a rotation of the head has no effect.

From step to step the frame follows by parallel transport: it is rotated by the smallest
rotation that takes the old tangent to the new one. The *roll* is the angle of ``e1``
about the tangent. At the seed it is arbitrary, and :func:`from_tangents` chooses it by
a convention in RAS+. The directions of a model should not depend on the roll. Those of
:class:`dipy_rnn.model.MovingFrameGRU` do not, by construction.

Frames are right-handed *in RAS+*. If the voxel axes are left-handed (a brain stored as
LAS), the determinant of a frame is therefore -1. The network sees the same brain, and
not its mirror image, for both ways of storing it.

``tracking/slots/`` has its own implementations of :func:`transport` and
:func:`reverse`. The tests compare them with those of this module.
"""

import numpy as np

from dipy_rnn._typing import FloatArray
from dipy_rnn.spatial.affine import handedness as handedness_of


def from_tangents(tangents: FloatArray, axes: FloatArray) -> FloatArray:
    """Make the first frames of streamlines.

    Parameters
    ----------
    tangents : ndarray of shape (N, 3)
        Unit vectors, in components along the voxel axes: each frame's ``e3``.
    axes : ndarray of shape (3, 3)
        The voxel axes in RAS+ (:func:`dipy_rnn.spatial.axes`).

    Returns
    -------
    frames : ndarray of shape (N, 3, 3)
        Rows ``e1, e2, e3``. ``e1`` is the RAS+ axis that is nearest to a right angle
        with the tangent, made perpendicular to the tangent and of unit length.

    Examples
    --------
    >>> from_tangents(np.array([[0.0, 0.0, 1.0]]), np.eye(3))[0].tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    e3 = np.asarray(tangents, dtype=np.float64)
    # Without rounding, the choice between axes at equal angles would depend on rounding
    # errors, and so on the orientation of the grid.
    furthest = np.argmin(np.round(np.abs(e3 @ axes.T), 6), axis=1)
    return _complete(axes[furthest], e3, handedness_of(axes))


def transport(frames: FloatArray, tangents: FloatArray) -> FloatArray:
    """Rotate frames to new tangents by the smallest rotation.

    Parameters
    ----------
    frames : ndarray of shape (N, 3, 3)
        Rows ``e1, e2, e3``.
    tangents : ndarray of shape (N, 3)
        Unit vectors, in components along the voxel axes: the new ``e3``.

    Returns
    -------
    frames : ndarray of shape (N, 3, 3)

    Notes
    -----
    Let a be the old tangent and b the new one. The smallest rotation from a to b adds
    -(a + b) (b.x) / (1 + a.b) to a vector x that is perpendicular to a. At a U-turn
    (b = -a) this rotation is not defined, and ``e1`` is kept.

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
    """Convert components in frames to components along the voxel axes.

    Parameters
    ----------
    local : ndarray of shape (N, 3)
        Components along ``e1, e2, e3``.
    frames : ndarray of shape (N, 3, 3)
        Rows ``e1, e2, e3``.

    Returns
    -------
    vectors : ndarray of shape (N, 3)
        Components along the voxel axes.

    Examples
    --------
    >>> frame = np.array([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]])
    >>> to_axes(np.array([[0.0, 0.0, 2.0]]), frame).tolist()
    [[2.0, 0.0, 0.0]]
    """
    vectors: FloatArray = np.einsum("ni,nij->nj", local, frames)
    return vectors


def to_local(vectors: FloatArray, frames: FloatArray) -> FloatArray:
    """Convert components along the voxel axes to components in frames.

    Parameters
    ----------
    vectors : ndarray of shape (N, 3)
        Components along the voxel axes.
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
    """Make e1 perpendicular to e3 and of unit length, and compute e2.

    This also removes the rounding errors of earlier steps.
    """
    e1 = e1 - _dot(e1, e3) * e3
    e1 = e1 / np.sqrt(_dot(e1, e1))
    return np.stack([e1, handedness * _cross(e3, e1), e3], axis=1)


def _dot(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return dot products (n, 1). A row does not depend on the other rows."""
    return (a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2])[:, None]


def _cross(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return cross products. For one row, numpy.cross takes ten times as long."""
    following, last = [1, 2, 0], [2, 0, 1]
    return a[:, following] * b[:, last] - a[:, last] * b[:, following]
