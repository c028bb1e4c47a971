"""Sequences a propagator learns from: reference streamlines as tracking sees them.

A streamline becomes the sequence of what a tracker that follows it would be given
at each point and should answer. Both are blurred in the way in which free running
blurs them: the tracker is a little beside the streamline, and arrives in a direction
that is a little wrong.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from dipy_rnn import frames, interpolate, spaces


@dataclass(frozen=True, eq=False)
class Reference:
    """One volume and the streamlines known in it.

    Parameters
    ----------
    data : ndarray of shape (X, Y, Z, C)
        Features as the model takes them (:meth:`dipy_rnn.model_file.Model.features`).
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    streamlines : sequence of ndarray of shape (M, 3)
        Points in mm.

    Examples
    --------
    >>> Reference(np.zeros((2, 2, 2, 15), np.float32), np.eye(4), []).affine.shape
    (4, 4)
    """

    data: np.ndarray
    affine: np.ndarray
    streamlines: list
    lengths_mm: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        lengths_mm = [
            np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
            for line in self.streamlines
        ]
        object.__setattr__(self, "lengths_mm", np.array(lengths_mm))


@dataclass(frozen=True)
class Blur:
    """How far training strays from the streamlines it learns from.

    A network that is always shown the true incoming direction learns to repeat it:
    along a streamline it is nearly the answer. Tracking freely it would then run
    straight on out of every bend. So the incoming direction is never quite right, and
    its error lasts for some way, as that of a tracker does, so that no averaging over
    the past takes it out.

    Parameters
    ----------
    position_mm : float, optional
        Standard deviation of the distance from the streamline.
    direction_deg : tuple of float, optional
        Range from which each sequence draws the standard deviation of its incoming
        directions.
    memory_mm : float, optional
        Way along which the error of the incoming direction lasts.

    Examples
    --------
    >>> Blur().position_mm
    0.7
    """

    position_mm: float = 0.7
    direction_deg: tuple = (4.0, 15.0)
    memory_mm: float = 2.0


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences of unequal length, packed: no work and no loss for padding.

    Parameters
    ----------
    features : torch.Tensor of shape (N, C)
    incoming, target : torch.Tensor of shape (N, 3)
        Unit directions in the frame of the model.
    batch_sizes : torch.Tensor of shape (T,)
        Number of sequences that have a t-th point, as torch packs them.

    Examples
    --------
    >>> x = torch.zeros(3, 3)
    >>> Batch(x, x, x, torch.tensor([2, 1])).pack(x).batch_sizes.tolist()
    [2, 1]
    """

    features: torch.Tensor
    incoming: torch.Tensor
    target: torch.Tensor
    batch_sizes: torch.Tensor

    def pack(self, values):
        """Wrap rows in the order of this batch for a GRU."""
        return PackedSequence(values, self.batch_sizes)


def draw_batch(
    references,
    n_sequences,
    *,
    frame,
    step_mm,
    max_points,
    rng,
    blur=None,
    teacher=None,
):
    """Draw a batch of sequences.

    Parameters
    ----------
    references : list of Reference
        Sequences are drawn from each alike.
    n_sequences : int
        From each reference.
    frame : str
        ``"local"`` or ``"voxel"``, as the model wants it.
    step_mm : float
        Distance of the points.
    max_points : int
        Longer streamlines are cut to this many points.
    rng : numpy.random.Generator
    blur : Blur, optional
    teacher : callable, optional
        Takes coefficients (N, C) in the frames of the streamlines and returns the
        directions (N, 3) to answer, as :func:`dipy_rnn.training.teachers.peak_ahead`
        does. None: the streamlines themselves are the teacher.

    Returns
    -------
    batch : Batch

    Raises
    ------
    ValueError
        If a reference has no streamline of two steps.

    Examples
    --------
    >>> line = np.column_stack([np.linspace(1, 9, 30), np.full(30, 5), np.full(30, 5)])
    >>> reference = Reference(np.ones((10, 10, 10, 15), np.float32), np.eye(4), [line])
    >>> batch = draw_batch([reference], 2, frame="voxel", step_mm=1.0, max_points=5,
    ...                    rng=np.random.default_rng(0))
    >>> batch.features.shape[1]
    15
    """
    blur = blur or Blur()
    parts = [
        _sequences(
            reference, n_sequences, frame, step_mm, max_points, rng, blur, teacher
        )
        for reference in references
    ]
    lengths = np.concatenate([part[0] for part in parts])
    rows = [np.concatenate([part[i] for part in parts]) for i in (1, 2, 3)]
    # Packed order: by time, within it the longest sequence first.
    longest = np.argsort(-lengths, kind="stable")
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])[longest]
    lengths = lengths[longest]
    time = np.arange(lengths[0])
    alive = lengths[None, :] > time[:, None]
    order = (starts[None, :] + time[:, None])[alive]
    features, incoming, target = (
        torch.from_numpy(r[order].astype(np.float32)) for r in rows
    )
    return Batch(features, incoming, target, torch.from_numpy(alive.sum(axis=1)))


def _sequences(reference, n_sequences, frame, step_mm, max_points, rng, blur, teacher):
    points_mm, lengths = _draw_points(reference, n_sequences, step_mm, max_points, rng)
    axes = spaces.axes(reference.affine)
    steps = np.diff(points_mm, axis=0) @ axes  # along the voxel axes
    last = np.cumsum(lengths) - 1
    inner = np.delete(np.arange(len(points_mm)), last)
    target = steps[inner]
    target /= np.linalg.norm(target, axis=1, keepdims=True)
    points_mm = points_mm[inner]
    lengths = lengths - 1
    first = np.cumsum(lengths) - lengths

    # Arriving: as the streamline does, but for an error that lasts for a while.
    incoming = np.roll(target, 1, axis=0)
    incoming[first] = target[first]
    error = rng.normal(size=(lengths.max(), len(lengths), 3))
    kept = np.exp(-step_mm / blur.memory_mm) if blur.memory_mm else 0.0
    for i in range(1, len(error)):
        error[i] = kept * error[i - 1] + np.sqrt(1 - kept**2) * error[i]
    exists = np.arange(len(error)) < lengths[:, None]
    error = error.transpose(1, 0, 2)[exists]
    spread = np.deg2rad(rng.uniform(*blur.direction_deg, size=len(lengths)))
    incoming = incoming + np.repeat(spread, lengths)[:, None] * error
    incoming /= np.linalg.norm(incoming, axis=1, keepdims=True)
    # Beside the streamline: a constant part and a part of each point's own.
    aside = blur.position_mm * (
        np.repeat(rng.normal(size=(len(lengths), 3)), lengths, axis=0)
        + 0.3 * rng.normal(size=points_mm.shape)
    )
    points_vox = spaces.to_voxels(points_mm + aside / np.sqrt(3), reference.affine)
    limit = np.array(reference.data.shape[:3]) - 0.5
    points_vox = np.clip(points_vox, -0.5, np.nextafter(limit, 0))

    # Mirror half of the batches: nothing in the world is left- or right-handed.
    axes = axes @ np.diag([rng.choice([-1.0, 1.0]), 1.0, 1.0])
    local = frames.from_tangents(incoming, axes)

    def look(frames_or_none):
        return interpolate.sample(
            reference.data,
            points_vox,
            frames_or_none,
            handedness=spaces.handedness(axes),
            normalise=True,
            nbr_threads=0,
        )[0]

    if teacher is not None:
        target = frames.to_axes(teacher(look(local)), local)
    if frame == "voxel":
        return lengths, look(None), incoming, target
    ahead = np.broadcast_to([0.0, 0.0, 1.0], target.shape)
    return lengths, look(local), ahead, frames.to_local(target, local)


def _draw_points(reference, n_sequences, step_mm, max_points, rng):
    """Return points of drawn pieces at equal steps, and how many each has."""
    long_enough = np.flatnonzero(reference.lengths_mm > 2.001 * step_mm)
    if not len(long_enough):
        raise ValueError(
            f"No streamline of the reference has two steps of {step_mm:.3g} mm; give "
            "longer ones, or train for shorter steps."
        )
    pieces = []
    for chosen in rng.choice(long_enough, n_sequences):
        streamline = reference.streamlines[chosen]
        if rng.random() < 0.5:
            streamline = streamline[::-1]
        arc = np.concatenate(
            [[0], np.cumsum(np.linalg.norm(np.diff(streamline, axis=0), axis=1))]
        )
        n_steps = int(arc[-1] / step_mm)
        # Tracking starts anywhere along a bundle, so sequences do too.
        start = rng.integers(n_steps - 1)
        at = step_mm * np.arange(start, min(n_steps, start + max_points) + 1)
        pieces.append(
            np.column_stack([np.interp(at, arc, streamline[:, i]) for i in range(3)])
        )
    return np.concatenate(pieces), np.array([len(piece) for piece in pieces])
