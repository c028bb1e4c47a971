"""Sequences a propagator learns from: reference streamlines as tracking sees them.

A streamline becomes the sequence of what a tracker that follows it would be given
at each point and should answer. Both are blurred in the way in which free running
blurs them: the tracker is a little beside the streamline, and arrives in a direction
that is a little wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from dipy.tracking.streamline import set_number_of_points
import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from dipy_rnn import frames, interpolate, spaces
from dipy_rnn._typing import Float32Array, FloatArray, IntArray
from dipy_rnn.training.subjects import Reference

#: Streamlines of a reference are drawn from if they are longer than this many steps:
#: two, and a little for rounding.
LEAST_STEPS = 2.001

# So much at least, in radians, is each incoming direction off: one that has no length,
# after an exact fold, becomes any direction instead of none.
_LEAST_SPREAD = 1e-9

#: Answers (N, 3), from coefficients (N, C) in the frames of streamlines and the
#: directions (N, 3) of these in the frames.
Teacher: TypeAlias = Callable[[Float32Array, FloatArray], FloatArray]


@dataclass(frozen=True)
class Blur:
    """How far training strays from the streamlines it learns from.

    A network that is always shown the true incoming direction learns to repeat it:
    along a streamline it is nearly the answer. Tracking freely it would then run
    straight on out of every bend. So the incoming direction is never quite right, and
    its error lasts for some way, as that of a tracker does, so that no averaging over
    the past takes it out.

    Two things need no blur, since a network cannot see them: the scale of the fODF,
    which normalisation takes out, and, in the moving frame, the roll.

    Parameters
    ----------
    position_mm : float, optional
        Standard deviation of the distance from the streamline.
    direction_deg : tuple of float, optional
        Range from which each sequence draws the standard deviation of its incoming
        directions.
    memory_mm : float, optional
        Way along which errors of direction and features last.
    features : tuple of float, optional
        Range from which each sequence draws the size of the noise on its features, as a
        share of them. Features that are zero, as orders that were not fitted, stay so.

    Raises
    ------
    ValueError
        If a number is negative, or a range is not two numbers, the smaller one first.

    Examples
    --------
    >>> Blur().position_mm
    0.7
    """

    position_mm: float = 0.7
    direction_deg: tuple[float, float] = (4.0, 15.0)
    memory_mm: float = 2.0
    features: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if not 0 <= self.position_mm < np.inf:
            raise ValueError(
                f"position_mm is {self.position_mm}; a distance of 0 mm or more is "
                "needed."
            )
        if not self.memory_mm >= 0:
            raise ValueError(
                f"memory_mm is {self.memory_mm}; a way of 0 mm or more is needed."
            )
        for name in ("direction_deg", "features"):
            values = getattr(self, name)
            ends = spaces.check_numbers(values, name)
            if ends.shape != (2,) or not 0 <= ends[0] <= ends[1] < np.inf:
                raise ValueError(
                    f"{name} is {values}; two numbers of 0 or more are needed, the "
                    "smaller one first."
                )


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences of points, one after the other.

    Parameters
    ----------
    lengths : ndarray of shape (S,)
        Points of each sequence.
    features : ndarray of shape (N, C)
        float32, what the network sees at the points.
    incoming, target : ndarray of shape (N, 3)
        Unit directions in the frame of the model.

    Examples
    --------
    >>> x = np.zeros((3, 3))
    >>> Sequences(np.array([2, 1]), x, x, x).lengths.tolist()
    [2, 1]
    """

    lengths: IntArray
    features: Float32Array
    incoming: FloatArray
    target: FloatArray


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences of unequal length, packed: no work and no loss for padding.

    Parameters
    ----------
    features : torch.Tensor of shape (N, C)
    incoming, target : torch.Tensor of shape (N, 3)
        Unit directions in the frame of the model.
    lengths : torch.Tensor of shape (N,)
        Points of the sequence that each point belongs to.
    batch_sizes : torch.Tensor of shape (T,)
        Number of sequences that have a t-th point, as torch packs them.

    Examples
    --------
    >>> x = torch.zeros(3, 3)
    >>> batch = Batch(x, x, x, torch.tensor([2, 2, 1]), torch.tensor([2, 1]))
    >>> batch.pack(x).batch_sizes.tolist()
    [2, 1]
    """

    features: torch.Tensor
    incoming: torch.Tensor
    target: torch.Tensor
    lengths: torch.Tensor
    batch_sizes: torch.Tensor

    def pack(self, values: torch.Tensor) -> PackedSequence:
        """Wrap rows in the order of this batch for a GRU."""
        return PackedSequence(values, self.batch_sizes)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device; torch wants the sizes on the CPU."""
        return Batch(
            self.features.to(device),
            self.incoming.to(device),
            self.target.to(device),
            self.lengths.to(device),
            self.batch_sizes,
        )


def pack(parts: list[Sequences]) -> Batch:
    """Pack sequences into a batch.

    Parameters
    ----------
    parts : list of Sequences

    Returns
    -------
    batch : Batch

    Examples
    --------
    >>> x = np.arange(9.0).reshape(3, 3)
    >>> pack([Sequences(np.array([1, 2]), x, x, x)]).features[:, 0].tolist()
    [3.0, 0.0, 6.0]
    """
    lengths = np.concatenate([part.lengths for part in parts])
    # Packed order: by time, within it the longest sequence first.
    longest = np.argsort(-lengths, kind="stable")
    starts = (np.cumsum(lengths) - lengths)[longest]
    lengths = lengths[longest]
    time = np.arange(lengths[0])
    alive = lengths[None, :] > time[:, None]
    order = (starts[None, :] + time[:, None])[alive]

    def rows(name: str) -> torch.Tensor:
        values = np.concatenate([getattr(part, name) for part in parts])
        return torch.from_numpy(values[order].astype(np.float32))

    return Batch(
        rows("features"),
        rows("incoming"),
        rows("target"),
        torch.from_numpy(np.broadcast_to(lengths, alive.shape)[alive]),
        torch.from_numpy(alive.sum(axis=1)),
    )


def draw(
    reference: Reference,
    n_sequences: int,
    *,
    frame: str,
    step_mm: float,
    max_points: int,
    rng: np.random.Generator,
    blur: Blur | None = None,
    teacher: Teacher | None = None,
) -> Sequences:
    """Draw sequences from a reference.

    Parameters
    ----------
    reference : dipy_rnn.training.subjects.Reference
    n_sequences : int
    frame : str
        ``"local"`` or ``"voxel"``, as the model wants it.
    step_mm : float
        Distance of the points, nearly: each streamline is divided into equal steps.
    max_points : int
        Longer streamlines are cut to this many points.
    rng : numpy.random.Generator
    blur : Blur, optional
    teacher : callable, optional
        Takes coefficients (N, C) in the frames of the streamlines, and the directions
        (N, 3) of these in the frames; returns the directions (N, 3) to answer
        (:mod:`dipy_rnn.training.target_rules`). None: the streamlines themselves are the
        teacher.

    Returns
    -------
    sequences : Sequences

    Raises
    ------
    ValueError
        If the reference has no streamline of two steps.

    Examples
    --------
    >>> from dipy_rnn.training.subjects import Reference
    >>> line = np.column_stack([np.linspace(1, 9, 30), np.full(30, 5), np.full(30, 5)])
    >>> reference = Reference.of(np.ones((10, 10, 10, 15), np.float32), np.eye(4),
    ...                          [line])
    >>> sequences = draw(reference, 2, frame="voxel", step_mm=1.0, max_points=5,
    ...                  rng=np.random.default_rng(0))
    >>> sequences.features.shape[1]
    15
    """
    blur = blur or Blur()
    points_mm, lengths = _draw_points(reference, n_sequences, step_mm, max_points, rng)
    axes = spaces.axes(reference.affine)
    steps = np.diff(points_mm, axis=0) @ axes  # along the voxel axes
    last = np.cumsum(lengths) - 1
    inner = np.delete(np.arange(len(points_mm)), last)
    target = steps[inner]
    # A step across an exact fold has no direction; one of length zero teaches nothing.
    target /= np.maximum(np.linalg.norm(target, axis=1, keepdims=True), 1e-9)
    points_mm = points_mm[inner]
    lengths = lengths - 1
    first = np.cumsum(lengths) - lengths
    kept = np.exp(-step_mm / blur.memory_mm) if blur.memory_mm else 0.0

    # Arriving: as the streamline does, but for an error that lasts for a while.
    incoming = np.roll(target, 1, axis=0)
    incoming[first] = target[first]
    spread = np.deg2rad(rng.uniform(*blur.direction_deg, size=len(lengths)))
    spread = np.maximum(spread, _LEAST_SPREAD)
    incoming += np.repeat(spread, lengths)[:, None] * _lasting(rng, lengths, 3, kept)
    incoming /= np.linalg.norm(incoming, axis=1, keepdims=True)
    # Beside the streamline: a constant part and a part of each point's own.
    aside = blur.position_mm * (
        np.repeat(rng.normal(size=(len(lengths), 3)), lengths, axis=0)
        + 0.3 * rng.normal(size=points_mm.shape)
    )
    points_vox = spaces.to_voxels(points_mm + aside / np.sqrt(3), reference.affine)
    limit = np.array(reference.data.shape[:3]) - 0.5
    points_vox = np.clip(points_vox, -0.5, np.nextafter(limit, 0))

    # Mirror half of the draws: nothing in the world is left- or right-handed.
    axes = axes @ np.diag([rng.choice([-1.0, 1.0]), 1.0, 1.0])
    seen, _ = interpolate.sample(reference.data, points_vox, normalise=True)
    if max(blur.features) > 0:
        seen = _with_noise(seen, lengths, blur.features, kept, rng)
    if frame == "voxel" and teacher is None:
        return Sequences(lengths, seen, incoming, target)
    local = frames.from_tangents(incoming, axes)
    seen_local = interpolate.rotate(seen, local, handedness=spaces.handedness(axes))
    target_local = frames.to_local(target, local)
    if teacher is not None:
        target_local = teacher(seen_local, target_local)
    if frame == "voxel":
        return Sequences(lengths, seen, incoming, frames.to_axes(target_local, local))
    ahead = np.broadcast_to([0.0, 0.0, 1.0], target.shape)
    return Sequences(lengths, seen_local, ahead, target_local)


def _draw_points(
    reference: Reference,
    n_sequences: int,
    step_mm: float,
    max_points: int,
    rng: np.random.Generator,
) -> tuple[FloatArray, IntArray]:
    """Return points of drawn pieces at equal steps, and how many each has."""
    long_enough = np.flatnonzero(reference.lengths_mm > LEAST_STEPS * step_mm)
    if not len(long_enough):
        raise ValueError(
            f"No streamline of the reference has two steps of {step_mm:.3g} mm; give "
            "longer ones, or train for shorter steps."
        )
    pieces = []
    for chosen in rng.choice(long_enough, n_sequences):
        streamline = np.asarray(reference.streamline(chosen))
        if rng.random() < 0.5:
            streamline = streamline[::-1]
        n_steps = int(reference.lengths_mm[chosen] / step_mm)
        points = set_number_of_points(streamline.astype(np.float64), n_steps + 1)
        # Tracking starts anywhere along a bundle, so sequences do too.
        start = rng.integers(n_steps - 1)
        pieces.append(points[start : start + max_points + 1])
    return np.concatenate(pieces), np.array([len(piece) for piece in pieces])


def _with_noise(
    seen: Float32Array,
    lengths: IntArray,
    shares: tuple[float, float],
    kept: float,
    rng: np.random.Generator,
) -> Float32Array:
    """Add noise to features of unit norm, and bring them back to it."""
    share = np.repeat(rng.uniform(*shares, size=len(lengths)), lengths)[:, None]
    noise = share / np.sqrt(seen.shape[1]) * _lasting(rng, lengths, seen.shape[1], kept)
    noisy = np.where(seen != 0, seen + noise, 0.0).astype(np.float32)
    norm = np.linalg.norm(noisy, axis=1, keepdims=True)
    np.divide(noisy, norm, out=noisy, where=norm > 0)
    return noisy


def _lasting(
    rng: np.random.Generator, lengths: IntArray, n_channels: int, kept: float
) -> FloatArray:
    """Return unit noise (N, channels) of which a share is kept from point to point."""
    noise = rng.normal(size=(lengths.max(), len(lengths), n_channels))
    for i in range(1, len(noise)):
        noise[i] = kept * noise[i - 1] + np.sqrt(1 - kept**2) * noise[i]
    exists = np.arange(len(noise)) < lengths[:, None]
    return noise.transpose(1, 0, 2)[exists]
