"""References: a volume and the streamlines known in it, in memory or on disk.

On disk a reference is a folder of plain arrays that are mapped, not read: the
coordinates once in single precision, the features once. So a training takes what its
batches touch, however many subjects there are.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
import zlib

import numpy as np

from dipy_rnn import spaces
from dipy_rnn._typing import AnyArray, BoolArray, Float32Array, FloatArray, IntArray

# Points nearer to each other than this are one point.
_REPEATED_MM = 1e-3
# Cosine of the sharpest turn from step to step; a sharper one folds back.
_FOLD = -0.9

_SLABS = 8  # of the volume, every eighth slab goes into its checksum
_ARRAYS = ("data", "affine", "spans", "lengths_mm")
_POINTS = "points_mm.float32"


@dataclass(frozen=True, eq=False)
class Reference:
    """One volume and the streamlines known in it.

    Parameters
    ----------
    data : ndarray of shape (X, Y, Z, C)
        Features as the model takes them (:meth:`dipy_rnn.model_file.Model.features`).
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    points_mm : ndarray of shape (P, 3)
        Points of all streamlines, one after the other.
    spans : ndarray of shape (S, 2)
        Where each streamline begins and ends in ``points_mm``.
    lengths_mm : ndarray of shape (S,)
        Lengths of the streamlines.

    Examples
    --------
    >>> reference = Reference.of(np.zeros((2, 2, 2, 15), np.float32), np.eye(4),
    ...                          [np.array([[0.0, 0, 0], [1, 0, 0]])])
    >>> len(reference), reference.streamline(0).shape, reference.lengths_mm.tolist()
    (1, (2, 3), [1.0])
    """

    data: Float32Array
    affine: FloatArray
    points_mm: Float32Array
    spans: IntArray
    lengths_mm: FloatArray

    @classmethod
    def of(
        cls, data: Float32Array, affine: FloatArray, streamlines: Iterable[AnyArray]
    ) -> Self:
        """Make a reference of streamlines in mm, which must be clean."""
        points = [np.asarray(line, dtype=np.float32) for line in streamlines]
        return cls(
            data,
            affine,
            np.concatenate([np.empty((0, 3), np.float32), *points]),
            _spans([len(line) for line in points]),
            np.array([_length(line) for line in points]),
        )

    def __len__(self) -> int:
        return len(self.lengths_mm)

    def checksum(self) -> int:
        """Return a number that other streamlines, or another volume, would change."""
        number = 0
        for array in (self.spans, self.points_mm, self.data[::_SLABS], self.affine):
            number = zlib.crc32(np.ascontiguousarray(array).data, number)
        return number

    def streamline(self, index: int) -> Float32Array:
        """Return the points (M, 3) of a streamline, float32, in mm."""
        return self.points_mm[slice(*self.spans[index])]

    def select(self, index: IntArray) -> Self:
        """Return a reference of some of the streamlines, in the same volume."""
        return replace(self, spans=self.spans[index], lengths_mm=self.lengths_mm[index])


def clean(
    streamlines: Iterable[AnyArray],
    affine: FloatArray,
    shape: tuple[int, ...],
    least_mm: float,
    counts: Counter[str] | None = None,
) -> Iterator[Float32Array]:
    """Make streamlines fit to learn from, one by one.

    Of each the longest run of points is kept that are finite and in the image;
    repeated points become one; of what folds back on itself the longest part is kept;
    what is then too short is dropped.

    Parameters
    ----------
    streamlines : iterable of ndarray of shape (M, 3)
        In mm.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    shape : tuple of 3 ints
        Voxels of the image.
    least_mm : float
        Streamlines must be longer than this.
    counts : collections.Counter, optional
        Counts the streamlines ("read", "kept") and what was wrong with them: "not
        finite", "outside the image", "with repeated points", "folding back", "too
        short".

    Yields
    ------
    points_mm : ndarray of shape (M, 3)
        float32.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [1, 0, 0], [2, 0, 0], [9, 0, 0]])
    >>> counts = Counter()
    >>> [kept.tolist() for kept in clean([line], np.eye(4), (3, 1, 1), 1.0, counts)]
    [[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.0, 0.0, 0.0]]]
    >>> dict(counts)
    {'read': 1, 'outside the image': 1, 'with repeated points': 1, 'kept': 1}
    """
    counts = Counter() if counts is None else counts
    limits = np.array(shape) - 0.5
    for line in streamlines:
        counts["read"] += 1
        line = np.asarray(line, dtype=np.float64).reshape(-1, 3)
        finite = np.all(np.isfinite(line), axis=1)
        points_vox = spaces.to_voxels(np.where(finite[:, None], line, 0.0), affine)
        inside = np.all((points_vox >= -0.5) & (points_vox < limits), axis=1)
        counts["not finite"] += bool((~finite).any())
        counts["outside the image"] += bool((finite & ~inside).any())
        line = line[_longest_run(finite & inside)]
        far = np.linalg.norm(np.diff(line, axis=0), axis=1) > _REPEATED_MM
        counts["with repeated points"] += bool((~far).any())
        line = line[np.concatenate([[True], far])[: len(line)]]
        steps = np.diff(line, axis=0)
        steps /= np.linalg.norm(steps, axis=1, keepdims=True)
        folds = np.flatnonzero((steps[1:] * steps[:-1]).sum(axis=1) < _FOLD) + 1
        counts["folding back"] += bool(len(folds))
        if len(folds):
            ends = np.concatenate([[0], folds, [len(line) - 1]])
            longest = np.argmax(np.diff(ends))
            line = line[ends[longest] : ends[longest + 1] + 1]
        line = line.astype(np.float32)
        if _length(line) <= least_mm:
            counts["too short"] += 1
            continue
        counts["kept"] += 1
        yield line
    for reason in [reason for reason, n in counts.items() if not n]:
        del counts[reason]


def store(
    folder: Path,
    data: Float32Array,
    affine: FloatArray,
    streamlines: Iterable[AnyArray],
) -> Reference:
    """Write a reference to disk; the streamlines may come one by one.

    Parameters
    ----------
    folder : Path
        Made where it is not.
    data, affine
        As for :class:`Reference`.
    streamlines : iterable of ndarray of shape (M, 3)
        Clean, in mm.

    Returns
    -------
    reference : Reference
        As :func:`load` gives it.

    Raises
    ------
    ValueError
        If there is no streamline.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0]])
    >>> data = np.zeros((2, 2, 2, 15), np.float32)
    >>> reference = store(folder, data, np.eye(4), [line])
    >>> load(folder).streamline(0).tolist()
    [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts, lengths_mm = [], []
    with open(folder / _POINTS, "wb") as file:
        for line in streamlines:
            line = np.ascontiguousarray(line, dtype="<f4")
            file.write(line.tobytes())
            counts.append(len(line))
            lengths_mm.append(_length(line))
    if not lengths_mm:
        raise ValueError("no streamline is left to learn from")
    arrays: tuple[AnyArray, ...] = (data, affine, _spans(counts), np.array(lengths_mm))
    for name, array in zip(_ARRAYS, arrays):
        np.save(folder / f"{name}.npy", array)
    return load(folder)


def load(folder: Path) -> Reference:
    """Open a reference on disk.

    Parameters
    ----------
    folder : Path
        Written by :func:`store`.

    Returns
    -------
    reference : Reference
        Its features and points are mapped: they are read as they are touched.
    """
    data, affine, spans, lengths_mm = (
        np.load(folder / f"{name}.npy", mmap_mode="r" if name == "data" else None)
        for name in _ARRAYS
    )
    points_mm = np.memmap(folder / _POINTS, dtype="<f4", mode="r").reshape(-1, 3)
    return Reference(data, affine, points_mm, spans, lengths_mm)


def _spans(counts: Sequence[int]) -> IntArray:
    sizes = np.array(counts, dtype=np.int64)
    ends = np.cumsum(sizes)
    return np.stack([ends - sizes, ends], axis=1)


def _length(line: AnyArray) -> float:
    return float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())


def _longest_run(good: BoolArray) -> slice:
    """Return the slice of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], good, [0]]).astype(np.int8)))
    if not len(edges):
        return slice(0, 0)
    longest = np.argmax(edges[1::2] - edges[::2])
    return slice(edges[2 * longest], edges[2 * longest + 1])
