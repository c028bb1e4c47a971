"""Context: the fODF at places around a point, in the moving frame of a streamline."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from dipy_rnn._typing import AnyArray, ArrayLike, Float32Array, FloatArray
from dipy_rnn.sampling.interpolate import sample
from dipy_rnn.sampling.rotation import MAX_ORDER, rotate

# Largest distance of a place from the point, in voxel edges, and number of places.
_REACH = 8.0
_MOST_PLACES = 64
#: Coefficients of the context are clipped at this multiple of the scale.
LARGEST = 4.0
#: Length of the vector that is added to the compass, as a share of the power.
STEADY = 1e-4


@dataclass(frozen=True)
class Context:
    """Places around a point at which a network gets the fODF, too.

    Lengths are in voxel edges (:func:`dipy_rnn.spatial.voxel_edge`). Some places are
    ahead, on the tangent. The others are on rings around the tangent. The first place
    of a ring is in the direction of the *compass*, a vector across the tangent that the
    fODF at the point determines (:func:`compass`). So the places do not depend on the
    roll of the frame. At a place on a ring, the fODF is rotated into the moving frame
    rolled by the angle of the place.

    Parameters
    ----------
    ahead : tuple of float
        Distances of the places on the tangent.
    rings : tuple of (float, float)
        Distance along the tangent, and radius, of each ring.
    n_around : int
        Number of places on a ring.
    order : int
        Spherical harmonic order of the context.

    Raises
    ------
    ValueError
        If a value is out of range.

    Examples
    --------
    >>> context = Context(ahead=(1.5,), rings=((0.0, 1.0),), n_around=6, order=4)
    >>> context.n_places, context.n_values
    (7, 105)
    """

    ahead: tuple[float, ...]
    rings: tuple[tuple[float, float], ...]
    n_around: int
    order: int

    def __post_init__(self) -> None:
        for name in ("n_around", "order"):
            value = getattr(self, name)
            if type(value) is not int:
                raise ValueError(f"{name} is {value!r}; an integer is needed.")
        if not 3 <= self.n_around <= _MOST_PLACES:
            raise ValueError(
                f"n_around is {self.n_around}; 3 to {_MOST_PLACES} places are allowed."
            )
        if self.order not in range(2, MAX_ORDER + 1, 2):
            raise ValueError(
                f"order is {self.order}; even orders from 2 to {MAX_ORDER} are allowed."
            )
        for name, shape in (("ahead", (-1,)), ("rings", (-1, 2))):
            given = getattr(self, name)
            if not isinstance(given, (tuple, list)):
                raise ValueError(f"{name} is {given!r}; a list is needed.")
            try:
                lengths = np.array(given, dtype=np.float64)
                lengths = lengths.reshape((0,) + shape[1:] if not len(given) else shape)
            except (TypeError, ValueError):
                lengths = np.array([np.nan])
            if len(lengths) != len(given) or not (np.abs(lengths) <= _REACH).all():
                raise ValueError(
                    f"{name} is {given!r}; "
                    f"{'pairs of lengths' if name == 'rings' else 'lengths'} up to "
                    f"{_REACH:g} voxel edges are needed."
                )
            values = tuple(
                tuple(row) if name == "rings" else row for row in lengths.tolist()
            )
            object.__setattr__(self, name, values)
        if not 1 <= self.n_places <= _MOST_PLACES:
            raise ValueError(
                f"There are {self.n_places} places around a point; 1 to {_MOST_PLACES} "
                "are allowed."
            )

    @classmethod
    def from_dict(cls, entries: object) -> Self:
        """Make it from the entries that :func:`dataclasses.asdict` returns.

        Raises
        ------
        ValueError
            If an entry is missing, unknown or out of range.
        """
        fields = set(cls.__dataclass_fields__)
        if not isinstance(entries, dict) or set(entries) != fields:
            raise ValueError(f"It is {entries!r}; give {', '.join(sorted(fields))}.")
        return cls(**entries)

    @property
    def n_places(self) -> int:
        """Number of places."""
        return len(self.ahead) + self.n_around * len(self.rings)

    @property
    def n_coeffs(self) -> int:
        """Number of coefficients at a place."""
        return (self.order + 1) * (self.order + 2) // 2

    @property
    def n_values(self) -> int:
        """Number of coefficients at all places."""
        return self.n_places * self.n_coeffs

    @property
    def angles(self) -> FloatArray:
        """Angles (n_around,) of the places on a ring, in radians."""
        return 2 * np.pi * np.arange(self.n_around) / self.n_around

    @property
    def offsets(self) -> FloatArray:
        """Offsets (n_places, 3) from the point in the moving frame, in voxel edges.

        The places ahead come first, then ring after ring. The compass is along x.
        """
        along = [(0.0, 0.0, z) for z in self.ahead]
        around = [
            (radius * np.cos(angle), radius * np.sin(angle), z)
            for z, radius in self.rings
            for angle in self.angles
        ]
        return np.array(along + around)

    @property
    def rolls(self) -> FloatArray:
        """Angles (n_places,) in radians from the compass to each place; 0 ahead."""
        return np.concatenate(
            [np.zeros(len(self.ahead)), np.tile(self.angles, len(self.rings))]
        )


def compass(own: Float32Array) -> FloatArray:
    """Return the direction across the tangent in which the fODF increases.

    Parameters
    ----------
    own : ndarray of shape (N, C)
        Coefficients at each point in its moving frame, of any scale.

    Returns
    -------
    compass : ndarray of shape (N, 2)
        Cosine and sine of its angle in the frame. The direction is that of the pair of
        l = 2, m = 1. A small vector along x is added to it. Where the pair is zero,
        rounding errors would otherwise decide.

    Examples
    --------
    >>> own = np.zeros((2, 15), np.float32); own[0, 2] = 1.0; own[1, 0] = 1.0
    >>> compass(own).round(3).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    pair = own[:, [4, 2]].astype(np.float64)
    pair[:, 0] += STEADY * _root_of_power(own)
    length = np.linalg.norm(pair, axis=1, keepdims=True)
    found = length > 0
    return np.where(found, pair / np.where(found, length, 1.0), [1.0, 0.0])


def context_places(
    context: Context, frames: FloatArray, own: Float32Array
) -> tuple[FloatArray, FloatArray]:
    """Return the places around each point, and their rolled frames.

    Parameters
    ----------
    context : Context
    frames : ndarray of shape (N, 3, 3)
        Moving frames.
    own : ndarray of shape (N, C)
        Coefficients at the points in their frames, of any scale.

    Returns
    -------
    offsets : ndarray of shape (N, n_places, 3)
        From the point, in voxel edges along the voxel axes.
    rolled : ndarray of shape (N, n_places, 3, 3)
        Frames rolled by the angle of each place.

    Examples
    --------
    >>> context = Context(ahead=(1.5,), rings=((0.0, 1.0),), n_around=4, order=4)
    >>> own = np.ones((1, 15), np.float32)
    >>> offsets, rolled = context_places(context, np.eye(3)[None], own)
    >>> offsets[0, 0].tolist(), rolled.shape
    ([0.0, 0.0, 1.5], (1, 5, 3, 3))
    """
    n_ahead = len(context.ahead)
    e1, e2, e3 = (frames[:, None, i] for i in range(3))
    cosine, sine = compass(own).T[:, :, None, None]
    # The axes of a frame whose x is along the compass.
    x, y = cosine * e1 + sine * e2, cosine * e2 - sine * e1
    offset = context.offsets[:, :, None]
    # Products of offsets and axes, without BLAS: its sums depend on n.
    offsets: FloatArray = offset[:, 0] * x + offset[:, 1] * y + offset[:, 2] * e3
    rolled = np.repeat(frames[:, None], context.n_places, axis=1)
    cosine, sine = np.cos(context.rolls)[:, None], np.sin(context.rolls)[:, None]
    rolled[:, n_ahead:, 0] = (cosine * x + sine * y)[:, n_ahead:]
    rolled[:, n_ahead:, 1] = (cosine * y - sine * x)[:, n_ahead:]
    return offsets, rolled


def sample_context(
    context: Context,
    volume: Float32Array,
    points_vox: FloatArray,
    frames: FloatArray,
    edge_vox: ArrayLike,
    own: Float32Array,
    *,
    handedness: float = 1.0,
) -> Float32Array:
    """Return the fODF at the places around each point, in the rolled frames.

    Parameters
    ----------
    context : Context
    volume : ndarray of shape (X, Y, Z, C)
        float32, C-contiguous. It has at least the coefficients of the context. Those of
        higher orders are not used.
    points_vox : ndarray of shape (N, 3)
        Voxel coordinates.
    frames : ndarray of shape (N, 3, 3)
        Moving frames.
    edge_vox : array_like of shape (3,)
        A voxel edge along each voxel axis, in voxel coordinates.
    own : ndarray of shape (N, C)
        Coefficients at the points in their frames, of any scale.
    handedness : float, optional
        Handedness of the voxel axes.

    Returns
    -------
    values : ndarray of shape (N, n_places, n_coeffs)
        float32. Zeros at places outside the image.

    Examples
    --------
    >>> context = Context(ahead=(1.0,), rings=(), n_around=6, order=4)
    >>> volume = np.zeros((2, 2, 4, 15), np.float32); volume[..., 0] = np.arange(4)
    >>> values = sample_context(
    ...     context, volume, np.array([[0, 0, 1.5]]), np.eye(3)[None], np.ones(3),
    ...     np.ones((1, 15), np.float32))
    >>> values.shape, values[0, 0, 0]
    ((1, 1, 15), np.float32(2.5))
    """
    offsets, rolled = context_places(context, frames, own)
    places = points_vox[:, None] + offsets * np.asarray(edge_vox)
    values, _ = sample(volume, places.reshape(-1, 3))
    values = np.ascontiguousarray(values[:, : context.n_coeffs])
    values = rotate(values, rolled.reshape(-1, 3, 3), handedness=handedness)
    return values.reshape(len(points_vox), context.n_places, context.n_coeffs)


def join_context(own: Float32Array, around: Float32Array) -> Float32Array:
    """Scale the fODF of a point and of its context by one number, and join them.

    The number is the larger of the power of the point and half the mean power of the
    context. A place beside a bundle has thus small coefficients, and a point beside a
    bundle does not have large ones.

    Parameters
    ----------
    own : ndarray of shape (N, C)
        Coefficients at each point in its frame, not normalised.
    around : ndarray of shape (N, n_places, n_coeffs)
        The result of :func:`sample_context`.

    Returns
    -------
    features : ndarray of shape (N, C + n_values)
        float32. Zeros where ``own`` is zero.

    Examples
    --------
    >>> join_context(np.array([[2.0, 0]]), np.array([[[1.0], [3.0]]])).tolist()
    [[1.0, 0.0, 0.5, 1.5]]
    """
    power = _root_of_power(own)
    scale = np.maximum(power, 0.5 * _root_of_power(around).mean(axis=1))
    scale[power == 0] = np.inf
    divisor = scale[:, None].astype(np.float32)
    flat = np.clip(around.reshape(len(own), -1) / divisor, -LARGEST, LARGEST)
    return np.concatenate([own / divisor, flat], axis=1).astype(np.float32)


def _root_of_power(values: AnyArray) -> FloatArray:
    root: FloatArray = np.sqrt((values.astype(np.float64) ** 2).sum(axis=-1))
    return root
