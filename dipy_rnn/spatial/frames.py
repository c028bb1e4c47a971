"""The moving frame of a streamline.

A frame is three orthonormal rows ``e1, e2, e3`` along the voxel axes; ``e3`` is the
direction in which the streamline arrived. Seen in its frame, every streamline runs
along z, wherever it goes in the head: a network only has to learn small deviations
from "straight on", and turning the head changes nothing.

From step to step the frame is carried by parallel transport, the smallest rotation
that takes the old tangent to the new one. What is left open is the roll about the
tangent at the seed; it is a convention fixed in RAS+, on which a model should not
depend (:class:`dipy_rnn.model.RecurrentPropagator` does not, by construction).

Frames are right-handed *in RAS+*. Along left-handed voxel axes (a brain stored as
LAS) their determinant is therefore -1, so that one brain stored in two ways is seen
by the network in the same way, not as its mirror image.

Trackers carry and turn frames on their own, in the kernels of ``_slots.pyx`` and in
:mod:`dipy_rnn.device_slots`. `transport` and `turned_round` are the reference that the
tests hold the kernels against.
"""

import numpy as np

from dipy_rnn import spaces
from dipy_rnn._typing import FloatArray


def from_tangents(tangents: FloatArray, axes: FloatArray) -> FloatArray:
    """Build first frames around directions.

    Parameters
    ----------
    tangents : ndarray of shape (N, 3)
        Unit vectors along the voxel axes: each frame's ``e3``.
    axes : ndarray of shape (3, 3)
        The voxel axes in RAS+ (:func:`dipy_rnn.spaces.axes`).

    Returns
    -------
    frames : ndarray of shape (N, 3, 3)
        Rows ``e1, e2, e3``. ``e1`` is the part across the tangent of the RAS+ axis
        that is furthest from it.

    Examples
    --------
    >>> from_tangents(np.array([[0.0, 0.0, 1.0]]), np.eye(3))[0].tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    e3 = np.asarray(tangents, dtype=np.float64)
    # Rounded, so that ties fall alike in every orientation of the grid.
    furthest = np.argmin(np.round(np.abs(e3 @ axes.T), 6), axis=1)
    return _complete(axes[furthest], e3, spaces.handedness(axes))


def transport(frames: FloatArray, tangents: FloatArray) -> FloatArray:
    """Carry frames to new tangents by the smallest rotation.

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
    The rotation that takes a unit vector a to b moves an x across a by
    -(a + b) (b.x) / (1 + a.b). At a U-turn (b = -a) it is not defined; there
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


def turned_round(frames: FloatArray) -> FloatArray:
    """Turn frames to look back the way they came.

    Parameters
    ----------
    frames : ndarray of shape (N, 3, 3)
        Rows ``e1, e2, e3``.

    Returns
    -------
    frames : ndarray of shape (N, 3, 3)
        Rows ``e1, -e2, -e3``: half a turn about ``e1``.

    Examples
    --------
    >>> turned_round(np.eye(3)[None])[0, 2].tolist()
    [-0.0, -0.0, -1.0]
    """
    signs: FloatArray = np.array([[1.0], [-1.0], [-1.0]])
    return frames * signs


def to_axes(local: FloatArray, frames: FloatArray) -> FloatArray:
    """Turn vectors from their frames to the voxel axes.

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
    """Turn vectors from the voxel axes into their frames.

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
    """Make e1 a unit vector across e3, against rounding too, and add e2."""
    e1 = e1 - _dot(e1, e3) * e3
    e1 = e1 / np.sqrt(_dot(e1, e1))
    return np.stack([e1, handedness * _cross(e3, e1), e3], axis=1)


def _dot(a: FloatArray, b: FloatArray) -> FloatArray:
    dots: FloatArray = np.einsum("ni,ni->n", a, b)[:, None]
    return dots


def _cross(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return the cross product; numpy's takes ten times as long for one row."""
    following, last = [1, 2, 0], [2, 0, 1]
    return a[:, following] * b[:, last] - a[:, last] * b[:, following]
