"""Selection of training data: clean streamlines, and held-out data for validation."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from dipy_rnn import spatial
from dipy_rnn._typing import AnyArray, BoolArray, Float32Array, FloatArray
from dipy_rnn.sampling import sh_order
from dipy_rnn.training.sequences import LEAST_STEPS, InputNoise, draw_sequences
from dipy_rnn.training.subjects import TrainingSubject, length_mm, save_subject

# Points closer to each other than this count as one point.
_REPEATED_MM = 1e-3
# A streamline folds back where the cosine between two successive steps is below this.
_FOLD_COSINE = -0.9
_N_CHECKED = 500  # streamlines of a tractogram that are compared with the fODF
# Smallest allowed share of points at which the fODF along the streamline is above its
# mean. The share is 0.8 to 0.95 for a tractogram of the same subject, and about 0.3 for
# a tractogram of another subject.
_LEAST_FITTING = 0.5


@dataclass(frozen=True, eq=False)
class SubjectData:
    """A subject as it is read from files.

    Parameters
    ----------
    fodf_name, tractogram_name : str
        Names of the files, for errors and the log.
    data : ndarray of shape (X, Y, Z, C)
        The fODF in the package's basis (:mod:`dipy_rnn.sampling.features`).
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    streamlines : iterable of ndarray of shape (M, 3)
        In mm; read once, one by one.

    Examples
    --------
    >>> SubjectData("csd.pam5", "bundles.trk", np.zeros((2, 2, 2, 15)), np.eye(4),
    ...             []).fodf_name
    'csd.pam5'
    """

    fodf_name: str
    tractogram_name: str
    data: Float32Array
    affine: FloatArray
    streamlines: Iterable[AnyArray]


def prepare_subject(
    source: SubjectData,
    folder: Path,
    *,
    max_step_vox: float,
    notify: Callable[[str], object] | None = None,
) -> TrainingSubject:
    """Clean and check a subject, and write it to disk for training.

    Parameters
    ----------
    source : SubjectData
    folder : Path
        Created if it does not exist.
    max_step_vox : float
        Largest step size to train for, in edges of a voxel. Streamlines shorter than
        two steps of this size are dropped.
    notify : callable, optional
        Called with one line of text: how many streamlines were kept, and how many had
        which problem.

    Returns
    -------
    subject : TrainingSubject
        Memory-mapped.

    Raises
    ------
    ValueError
        If no streamline is left, or the streamlines do not fit the fODF.
    OSError
        If the folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.sampling import fodf_features
    >>> phantom = crossing_phantom(90)
    >>> source = SubjectData("fODF", "bundles", fodf_features(phantom.fodf(4)).data,
    ...                      phantom.affine, phantom.streamlines(5)[0])
    >>> subject = prepare_subject(source, Path(tempfile.mkdtemp()), max_step_vox=1.0,
    ...                           notify=print)
    bundles: 10 read, 10 kept
    """
    name = source.tractogram_name
    least_mm = LEAST_STEPS * max_step_vox * spatial.voxel_edge(source.affine)
    shape = source.data.shape[:3]
    counts: Counter[str] = Counter()
    first_lines: list[AnyArray] = []
    lines = _remember(source.streamlines, first_lines)
    kept = clean_streamlines(lines, source.affine, shape, least_mm, counts)
    first = next(kept, None)
    if first is None:
        raise ValueError(
            f"{name}: no streamline is left to learn from ({_tally(counts) or 'empty'}"
            f"; more than {least_mm:.3g} mm, two steps, are needed). Is it in the "
            f"space of {source.fodf_name}?{_advice(first_lines, source)}"
        )
    try:
        subject = save_subject(folder, source.data, source.affine, chain([first], kept))
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0]
        raise OSError(f"{folder} cannot be written ({reason}).") from None
    if notify:
        notify(f"{name}: {_tally(counts)}")
    share = share_along_fodf(subject)
    if share < _LEAST_FITTING:
        raise ValueError(
            f"{name} does not fit {source.fodf_name}: the fODF is above its mean along "
            f"the streamlines at only {100 * share:.0f} % of the points. Check that "
            "both are of one subject and in one space, and that the gradients of the "
            f"fODF are not flipped.{_advice(first_lines, source)}"
        )
    return subject


def _remember(
    lines: Iterable[AnyArray], first_lines: list[AnyArray]
) -> Iterator[AnyArray]:
    """Yield streamlines, and append the first ones to a list."""
    for line in lines:
        if len(first_lines) < _N_CHECKED:
            first_lines.append(line)
        yield line


def _advice(lines: list[AnyArray], source: SubjectData) -> str:
    """Say in which space streamlines fit the fODF clearly better, if there is one."""
    points_mm = np.concatenate([np.empty((0, 3)), *lines])
    points_mm = points_mm[np.isfinite(points_mm).all(axis=1)]
    if not len(points_mm):
        return ""
    has_fodf = np.asarray(source.data.any(axis=3))
    placed = spatial.Placement.of(points_mm, source.affine, has_fodf)
    return f" {placed.advice()}" if placed.is_better_elsewhere else ""


def clean_streamlines(
    streamlines: Iterable[AnyArray],
    affine: FloatArray,
    shape: tuple[int, ...],
    least_mm: float,
    counts: Counter[str] | None = None,
) -> Iterator[Float32Array]:
    """Clean streamlines for training, one by one.

    Of each streamline, this keeps the longest run of points that are finite and inside
    the image. Repeated points become one point. Of a streamline that folds back on
    itself, the longest part between folds is kept. Streamlines that are then too short
    are dropped.

    Parameters
    ----------
    streamlines : iterable of ndarray of shape (M, 3)
        In mm.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    shape : tuple of 3 ints
        Number of voxels of the image along each axis.
    least_mm : float
        Streamlines must be longer than this.
    counts : collections.Counter, optional
        Receives the numbers of streamlines: "read", "kept", and those with a problem:
        "not finite", "outside the image", "with repeated points", "folding back",
        "too short".

    Yields
    ------
    points_mm : ndarray of shape (M, 3)
        float32.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [1, 0, 0], [2, 0, 0], [9, 0, 0]])
    >>> counts = Counter()
    >>> cleaned = clean_streamlines([line], np.eye(4), (3, 1, 1), 1.0, counts)
    >>> [kept.tolist() for kept in cleaned]
    [[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.0, 0.0, 0.0]]]
    >>> dict(counts)
    {'read': 1, 'outside the image': 1, 'with repeated points': 1, 'kept': 1}
    """
    counts = Counter() if counts is None else counts
    for line in streamlines:
        counts["read"] += 1
        line = np.asarray(line, dtype=np.float64).reshape(-1, 3)
        finite = np.all(np.isfinite(line), axis=1)
        points_vox = spatial.to_voxels(np.where(finite[:, None], line, 0.0), affine)
        inside = spatial.is_inside(points_vox, shape)
        counts["not finite"] += bool((~finite).any())
        counts["outside the image"] += bool((finite & ~inside).any())
        line = line[_longest_run(finite & inside)]
        far = np.linalg.norm(np.diff(line, axis=0), axis=1) > _REPEATED_MM
        counts["with repeated points"] += bool((~far).any())
        line = line[np.concatenate([[True], far])[: len(line)]]
        steps = np.diff(line, axis=0)
        steps /= np.linalg.norm(steps, axis=1, keepdims=True)
        cosines = (steps[1:] * steps[:-1]).sum(axis=1)
        folds = np.flatnonzero(cosines < _FOLD_COSINE) + 1
        counts["folding back"] += bool(len(folds))
        if len(folds):
            ends = np.concatenate([[0], folds, [len(line) - 1]])
            longest = np.argmax(np.diff(ends))
            line = line[ends[longest] : ends[longest + 1] + 1]
        line = line.astype(np.float32)
        if length_mm(line) <= least_mm:
            counts["too short"] += 1
            continue
        counts["kept"] += 1
        yield line
    for reason in [reason for reason, n in counts.items() if not n]:
        del counts[reason]


def share_along_fodf(subject: TrainingSubject) -> float:
    """Return the share of points at which the fODF is above its mean.

    At each point, the value of the fODF in the direction of the streamline is compared
    with the mean of the fODF over the sphere.

    Parameters
    ----------
    subject : TrainingSubject

    Returns
    -------
    share : float
        From 0 to 1. It is computed at points of 500 streamlines, which are the same in
        each call.

    Examples
    --------
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.sampling import fodf_features
    >>> phantom = crossing_phantom(90)
    >>> subject = TrainingSubject.of(fodf_features(phantom.fodf(4)).data,
    ...                              phantom.affine, phantom.streamlines(5)[0])
    >>> share_along_fodf(subject)
    1.0
    """
    longest_vox = subject.lengths_mm.max() / spatial.voxel_edge(subject.affine)
    features = draw_sequences(
        subject,
        _N_CHECKED,
        frame="local",
        step_vox=float(min(0.5, longest_vox / 2.01)),
        max_points=10,
        rng=np.random.default_rng(0),
        noise=InputNoise(position_vox=0.0, direction_deg=(0.0, 0.0)),
    ).features
    ls = np.arange(0, sh_order(features.shape[1]) + 1, 2)
    # Along the third axis of the frame a function is sum_l c_l0 sqrt((2 l + 1) / 4 pi).
    # Its mean over the sphere is the term of l = 0.
    values = features[:, ls * (ls + 1) // 2] * np.sqrt(2 * ls + 1)
    return float(np.mean(values.sum(axis=1) > values[:, 0]))


def hold_out(
    subjects: list[TrainingSubject],
    random_seed: int,
    *,
    n_subjects: int = 0,
    fraction: float = 0.1,
) -> tuple[list[TrainingSubject], list[TrainingSubject]]:
    """Split subjects, or the streamlines of each, into training and validation.

    Parameters
    ----------
    subjects : list of TrainingSubject
    random_seed : int
        Seed of the random selection of streamlines.
    n_subjects : int, optional
        Number of subjects to hold out: the last ones. If 0, streamlines of each subject
        are held out.
    fraction : float, optional
        Share of the streamlines of each subject to hold out, rounded up. At least one
        streamline of each subject is left for training. Not used with ``n_subjects``.

    Returns
    -------
    training, validation : list of TrainingSubject
        The latter is empty if nothing is held out.

    Examples
    --------
    >>> lines = [np.array([[0.0, 0, 0], [1, 0, 0]])] * 9
    >>> subject = TrainingSubject.of(np.zeros((2, 2, 2, 15)), np.eye(4), lines)
    >>> [len(part) for (part,) in hold_out([subject], 0, fraction=0.25)]
    [6, 3]
    """
    if n_subjects:
        return subjects[:-n_subjects], subjects[-n_subjects:]
    training: list[TrainingSubject] = []
    validation: list[TrainingSubject] = []
    rng = np.random.default_rng(random_seed)
    for subject in subjects:
        order = rng.permutation(len(subject))
        n = min(int(np.ceil(fraction * len(subject))), len(subject) - 1)
        training.append(subject.select(np.sort(order[n:])))
        if n:
            validation.append(subject.select(np.sort(order[:n])))
    return training, validation


def _longest_run(good: BoolArray) -> slice:
    """Return the longest run of successive True values, as a slice."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], good, [0]]).astype(np.int8)))
    if not len(edges):
        return slice(0, 0)
    longest = np.argmax(edges[1::2] - edges[::2])
    return slice(edges[2 * longest], edges[2 * longest + 1])


def _tally(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in counts.items())
