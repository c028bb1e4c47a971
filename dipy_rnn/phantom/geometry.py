"""Geometry of curves that bundles and phantoms use: arc length, normals, reach."""

import numpy as np

from dipy_rnn._typing import ArrayLike, FloatArray

SAMPLE_MM = 0.25  # spacing at which a centreline is searched and fibres are drawn
REACH_SAMPLE_MM = 1.0  # spacing at which the reach of a centreline is computed


def check_positive(name: str, values: ArrayLike) -> None:
    """Raise ValueError unless all values are positive and finite.

    Parameters
    ----------
    name : str
        Name of the argument, for the error.
    values : array_like
    """
    for value in np.ravel(values):
        if not 0 < value < np.inf:
            raise ValueError(f"{name} is {value}; a positive, finite number is needed.")


def unit(vectors: FloatArray) -> FloatArray:
    """Scale vectors to length 1; vectors of length 0 are kept."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units = np.zeros_like(vectors)
    np.divide(vectors, lengths, out=units, where=lengths > 0)
    return units


def dot(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return the dot products along the last axis."""
    products: FloatArray = np.einsum("...i,...i->...", a, b)
    return products


def arc_lengths(points: FloatArray) -> FloatArray:
    """Return the distance along a polyline from its first point to each point."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def ramp(x: FloatArray) -> FloatArray:
    """Return a smooth step: 0 for x <= 0, 1 for x >= 1."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def parallel_transport(normal: FloatArray, tangents: FloatArray) -> FloatArray:
    """Transport a normal along a curve without rotation about its tangents.

    The smallest rotation takes each tangent to the next one, and the normal with it.

    Parameters
    ----------
    normal : ndarray of shape (3,)
        Vector at the start. Its component perpendicular to the first tangent is used,
        scaled to length 1.
    tangents : ndarray of shape (N, 3)
        Unit tangents of the curve.

    Returns
    -------
    normals : ndarray of shape (N, 3)
        Unit vectors perpendicular to the tangents.

    Examples
    --------
    >>> tangents = np.array([[1.0, 0, 0], [0, 1, 0]])
    >>> print(parallel_transport(np.array([0.0, 2, 0]), tangents))
    [[ 0.  1.  0.]
     [-1.  0.  0.]]
    """
    rotations = (tangents[:-1] + tangents[1:]) / (
        1 + dot(tangents[:-1], tangents[1:])[:, None]
    )
    normals = [unit(normal - (normal @ tangents[0]) * tangents[0])]
    for tangent, rotation in zip(tangents[1:], rotations, strict=True):
        normals.append(normals[-1] - (normals[-1] @ tangent) * rotation)
    return np.array(normals)


def reach(points: FloatArray, tangents: FloatArray) -> FloatArray:
    """Return the radius up to which a tube around a curve does not touch itself.

    This is Federer's reach. At a point p it is the smallest ``|q - p|^2 / (2 d)``
    over all other points q. d is the distance of q from the tangent line at p. This is
    the radius of the circle that is tangent to the curve at p and passes through q.

    Parameters
    ----------
    points : ndarray of shape (N, 3)
        Points of the curve in mm.
    tangents : ndarray of shape (N, 3)
        Unit tangents there.

    Returns
    -------
    reach : ndarray of shape (N,)
        In mm; infinite for a straight line.
    """
    chords = points[None] - points[:, None]
    squared = dot(chords, chords)
    along = np.einsum("pqi,pi->pq", chords, tangents)
    aside = np.sqrt(np.maximum(squared - along**2, 0))
    # On a straight line the distance d is only a rounding error.
    bent = aside > 1e-6 * np.sqrt(squared)
    radii = np.full_like(squared, np.inf)
    smallest: FloatArray = np.divide(squared, 2 * aside, out=radii, where=bent).min(
        axis=1
    )
    return smallest
