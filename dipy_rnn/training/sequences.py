"""Training sequences: inputs and targets of a network along streamlines.

At each point of a streamline, the inputs are the features and the incoming direction
that a tracker would have there, and the target is the direction to predict. Noise is
added to the inputs, because a tracker is slightly off the true streamline and its
incoming direction has an error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dipy.tracking.streamline import set_number_of_points
import numpy as np
import torch

from dipy_rnn import _checks, sampling, spatial
from dipy_rnn._moved import find_moved
from dipy_rnn._typing import Float32Array, FloatArray, IntArray
from dipy_rnn.model import stack_inputs
from dipy_rnn.spatial import frames
from dipy_rnn.training.subjects import TrainingSubject

#: Only streamlines longer than this many steps are drawn: two, with a margin for
#: rounding.
LEAST_STEPS = 2.001

# Least noise of incoming directions, in radians. After an exact fold the incoming
# direction has length 0; noise makes it a random unit vector.
_LEAST_SPREAD = 1e-9

#: Returns target directions (N, 3), given the coefficients (N, C) in the frames of the
#: streamlines, the streamlines' directions (N, 3) in these frames, the angle of the
#: cone in which the target may lie (degrees), and a random generator.
TargetRule: TypeAlias = Callable[
    [Float32Array, FloatArray, float, np.random.Generator], FloatArray
]


@dataclass(frozen=True)
class InputNoise:
    """Noise on the inputs of the network during training.

    Along a streamline the incoming direction almost equals the target. A network that
    is trained with exact incoming directions learns to repeat them. When it tracks, it
    goes straight on in bends. Therefore errors are added to the incoming directions. As
    in tracking, the errors are correlated along the streamline. So the network cannot
    remove them by averaging over previous points.

    Two quantities need no noise: the scale of the fODF, which is normalised, and the
    rotation of the moving frame about the incoming direction, on which the predicted
    direction does not depend.

    Parameters
    ----------
    position_vox : float, optional
        Standard deviation of the distance from the streamline, in edges of a voxel.
    direction_deg : tuple of float, optional
        Range in degrees from which each sequence draws the standard deviation of its
        incoming directions.
    memory_vox : float, optional
        Correlation length of the errors of directions and features, in edges of a
        voxel.
    features : tuple of float, optional
        Range from which each sequence draws the size of the noise on its features, as a
        share of their norm. No noise is added to features that are zero, such as orders
        that were not fitted.

    Raises
    ------
    ValueError
        If a number is negative, or a range is not two numbers in ascending order.

    Examples
    --------
    >>> InputNoise().position_vox
    0.35
    """

    position_vox: float = 0.35
    direction_deg: tuple[float, float] = (4.0, 15.0)
    memory_vox: float = 1.0
    features: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if not 0 <= self.position_vox < np.inf:
            raise ValueError(
                f"position_vox is {self.position_vox}; a distance of 0 voxel edges or "
                "more is needed."
            )
        if not self.memory_vox >= 0:
            raise ValueError(
                f"memory_vox is {self.memory_vox}; a length of 0 voxel edges or more "
                "is needed."
            )
        for name in ("direction_deg", "features"):
            values = getattr(self, name)
            ends = _checks.check_numbers(values, name)
            if ends.shape != (2,) or not 0 <= ends[0] <= ends[1] < np.inf:
                raise ValueError(
                    f"{name} is {values}; two numbers of 0 or more are needed, the "
                    "smaller one first."
                )


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences of points, concatenated.

    Parameters
    ----------
    lengths : ndarray of shape (S,)
        Number of points of each sequence.
    features : ndarray of shape (N, C)
        Features at the points, float32.
    incoming : ndarray of shape (N, 3)
        Unit directions in the frame of the model.
    inputs : ndarray of shape (N, W)
        Declared inputs of the model, float32.
    target : ndarray of shape (N, 3)
        Unit directions in the frame of the model.

    Examples
    --------
    >>> x = np.zeros((3, 3))
    >>> Sequences(np.array([2, 1]), x, x, x, x).lengths.tolist()
    [2, 1]
    """

    lengths: IntArray
    features: Float32Array
    incoming: FloatArray
    inputs: Float32Array
    target: FloatArray


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences of unequal length, packed without padding.

    Parameters
    ----------
    features : torch.Tensor of shape (N, C)
    incoming : torch.Tensor of shape (N, 3)
        Unit directions in the frame of the model.
    inputs : torch.Tensor of shape (N, W)
        Declared inputs of the model.
    target : torch.Tensor of shape (N, 3)
        Unit directions in the frame of the model.
    lengths : torch.Tensor of shape (N,)
        For each point, the number of points of its sequence.
    batch_sizes : torch.Tensor of shape (T,)
        Number of sequences that have a t-th point (see
        :class:`torch.nn.utils.rnn.PackedSequence`).

    Examples
    --------
    >>> x = torch.zeros(3, 3)
    >>> batch = Batch(x, x, x, x, torch.tensor([2, 2, 1]), torch.tensor([2, 1]))
    >>> batch.to(torch.device("cpu")).batch_sizes.tolist()
    [2, 1]
    """

    features: torch.Tensor
    incoming: torch.Tensor
    inputs: torch.Tensor
    target: torch.Tensor
    lengths: torch.Tensor
    batch_sizes: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device; torch needs the batch sizes on the CPU."""
        return Batch(
            self.features.to(device),
            self.incoming.to(device),
            self.inputs.to(device),
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
    >>> pack([Sequences(np.array([1, 2]), x, x, x, x)]).features[:, 0].tolist()
    [3.0, 0.0, 6.0]
    """
    lengths = np.concatenate([part.lengths for part in parts])
    # Packed order: the first points of all sequences, then the second points, and so
    # on. Longer sequences come first.
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
        rows("inputs"),
        rows("target"),
        torch.from_numpy(np.broadcast_to(lengths, alive.shape)[alive]),
        torch.from_numpy(alive.sum(axis=1)),
    )


def draw_sequences(
    subject: TrainingSubject,
    n_sequences: int,
    *,
    frame: str,
    inputs: Sequence[str] = (),
    context: sampling.Context | None = None,
    step_vox: float,
    max_angle_deg: float = 90.0,
    max_points: int,
    rng: np.random.Generator,
    noise: InputNoise | None = None,
    target_rule: TargetRule | None = None,
) -> Sequences:
    """Draw training sequences from the streamlines of a subject.

    Parameters
    ----------
    subject : dipy_rnn.training.subjects.TrainingSubject
    n_sequences : int
    frame : str
        Frame of the model's inputs: ``"local"``, the moving frame whose third axis is
        the incoming direction, or ``"voxel"``, the voxel axes.
    inputs : sequence of str, optional
        Declared inputs of the model (:data:`dipy_rnn.model.metadata.INPUT_SIZES`).
    context : dipy_rnn.sampling.Context, optional
        Places around a point at which the model gets the fODF. Only with the frame
        ``"local"``.
    step_vox : float
        Approximate distance between points, in edges of a voxel. Each streamline is
        divided into equal steps of about this length.
    max_angle_deg : float, optional
        Angle of the cone in which the target of a rule may lie.
    max_points : int
        Largest number of points of a sequence.
    rng : numpy.random.Generator
    noise : InputNoise, optional
    target_rule : TargetRule, optional
        One of :mod:`dipy_rnn.training.target_rules`. None: the targets are the
        directions of the streamlines.

    Returns
    -------
    sequences : Sequences

    Raises
    ------
    ValueError
        If no streamline of the subject is longer than two steps.

    Examples
    --------
    >>> line = np.column_stack([np.linspace(1, 9, 30), np.full(30, 5), np.full(30, 5)])
    >>> subject = TrainingSubject.of(np.ones((10, 10, 10, 15), np.float32), np.eye(4),
    ...                              [line])
    >>> sequences = draw_sequences(
    ...     subject, 2, frame="voxel", step_vox=1.0, max_points=5,
    ...     rng=np.random.default_rng(0))
    >>> sequences.features.shape[1]
    15
    """
    noise = noise or InputNoise()
    edge_mm = spatial.voxel_edge(subject.affine)
    step_mm = step_vox * edge_mm
    points_mm, lengths = _draw_points(subject, n_sequences, step_mm, max_points, rng)
    axes = spatial.axes(subject.affine)
    steps = np.diff(points_mm, axis=0) @ axes  # along the voxel axes
    last = np.cumsum(lengths) - 1
    inner = np.delete(np.arange(len(points_mm)), last)
    target = steps[inner]
    # A step across an exact fold has length 0. Its target is then 0, which gives no
    # gradient.
    target /= np.maximum(np.linalg.norm(target, axis=1, keepdims=True), 1e-9)
    points_mm = points_mm[inner]
    lengths = lengths - 1
    first = np.cumsum(lengths) - lengths
    kept = np.exp(-step_vox / noise.memory_vox) if noise.memory_vox else 0.0

    # Incoming directions: those of the streamline, with correlated errors.
    incoming = np.roll(target, 1, axis=0)
    incoming[first] = target[first]
    spread = np.deg2rad(rng.uniform(*noise.direction_deg, size=len(lengths)))
    spread = np.maximum(spread, _LEAST_SPREAD)
    incoming += np.repeat(spread, lengths)[:, None] * _correlated_noise(
        rng, lengths, 3, kept
    )
    incoming /= np.linalg.norm(incoming, axis=1, keepdims=True)
    # Offset from the streamline: one part is the same for the whole sequence, and a
    # smaller part differs from point to point.
    spread_mm = noise.position_vox * edge_mm
    aside = spread_mm * (
        np.repeat(rng.normal(size=(len(lengths), 3)), lengths, axis=0)
        + 0.3 * rng.normal(size=points_mm.shape)
    )
    points_vox = spatial.to_voxels(points_mm + aside / np.sqrt(3), subject.affine)
    limit = np.array(subject.data.shape[:3]) - 0.5
    points_vox = np.clip(points_vox, -0.5, np.nextafter(limit, 0))

    # Mirror half of the draws, since fibres have no handedness.
    axes = axes @ np.diag([rng.choice([-1.0, 1.0]), 1.0, 1.0])
    features, _ = sampling.sample(subject.data, points_vox, normalise=True)
    if max(noise.features) > 0:
        features = _with_noise(features, lengths, noise.features, kept, rng)
    values: dict[str, float | FloatArray] = {
        "step_vox": step_vox,
        "step_mm": step_mm,
        "max_angle_deg": max_angle_deg,
    }
    in_frames = frame == "local"
    if in_frames or target_rule is not None or "ahead" in inputs:
        local = frames.from_tangents(incoming, axes)
        features_local = sampling.rotate(
            features, local, handedness=spatial.handedness(axes)
        )
        target_local = frames.to_local(target, local)
        if target_rule is not None:
            target_local = target_rule(features_local, target_local, max_angle_deg, rng)
        target = target_local if in_frames else frames.to_axes(target_local, local)
        if "ahead" in inputs:
            order = sampling.sh_order(features.shape[1])
            ahead, _ = sampling.cone_of(order, max_angle_deg).largest(features_local, 0)
            values["ahead"] = ahead if in_frames else frames.to_axes(ahead, local)
        if context is not None:
            around = sampling.sample_context(
                context,
                subject.data,
                points_vox,
                local,
                edge_mm / spatial.voxel_sizes(subject.affine),
                features_local,
                handedness=spatial.handedness(axes),
            )
            raw, _ = sampling.sample(subject.data, points_vox)
            power = np.linalg.norm(raw, axis=1, keepdims=True)
            features_local = sampling.join_context(features_local * power, around)
        if in_frames:
            features = features_local
            incoming = np.broadcast_to([0.0, 0.0, 1.0], target.shape)
    stacked = stack_inputs(inputs, values, len(features))
    return Sequences(lengths, features, incoming, stacked, target)


def _draw_points(
    subject: TrainingSubject,
    n_sequences: int,
    step_mm: float,
    max_points: int,
    rng: np.random.Generator,
) -> tuple[FloatArray, IntArray]:
    """Return the points of random pieces, and the number of points of each piece."""
    long_enough = np.flatnonzero(subject.lengths_mm > LEAST_STEPS * step_mm)
    if not len(long_enough):
        raise ValueError(
            f"No streamline of the subject has two steps of {step_mm:.3g} mm; give "
            "longer streamlines, or train for shorter steps."
        )
    pieces = []
    for chosen in rng.choice(long_enough, n_sequences):
        streamline = np.asarray(subject.streamline(chosen))
        if rng.random() < 0.5:
            streamline = streamline[::-1]
        n_steps = int(subject.lengths_mm[chosen] / step_mm)
        points = set_number_of_points(streamline.astype(np.float64), n_steps + 1)
        # Sequences start anywhere, since tracking starts anywhere along a bundle.
        start = rng.integers(n_steps - 1)
        pieces.append(points[start : start + max_points + 1])
    return np.concatenate(pieces), np.array([len(piece) for piece in pieces])


def _with_noise(
    features: Float32Array,
    lengths: IntArray,
    shares: tuple[float, float],
    kept: float,
    rng: np.random.Generator,
) -> Float32Array:
    """Add noise to features of unit norm, and normalise them again."""
    share = np.repeat(rng.uniform(*shares, size=len(lengths)), lengths)[:, None]
    noise = (
        share
        / np.sqrt(features.shape[1])
        * _correlated_noise(rng, lengths, features.shape[1], kept)
    )
    noisy = np.where(features != 0, features + noise, 0.0).astype(np.float32)
    norm = np.linalg.norm(noisy, axis=1, keepdims=True)
    np.divide(noisy, norm, out=noisy, where=norm > 0)
    return noisy


def _correlated_noise(
    rng: np.random.Generator, lengths: IntArray, n_channels: int, kept: float
) -> FloatArray:
    """Return noise (N, channels) of variance 1.

    ``kept`` is the correlation between successive points of a sequence.
    """
    noise = rng.normal(size=(lengths.max(), len(lengths), n_channels))
    for i in range(1, len(noise)):
        noise[i] = kept * noise[i - 1] + np.sqrt(1 - kept**2) * noise[i]
    exists = np.arange(len(noise)) < lengths[:, None]
    return noise.transpose(1, 0, 2)[exists]


def __getattr__(name: str) -> object:
    return find_moved(__name__, name)
