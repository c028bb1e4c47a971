"""Training subjects: a volume and the streamlines known in it, in memory or on disk.

On disk a subject is a folder of plain arrays, with the coordinates in single precision.
Features and coordinates are memory-mapped, so a training reads only what its batches
need. Memory does not grow with the number of subjects.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
import zlib

import numpy as np

from dipy_rnn._typing import AnyArray, Float32Array, FloatArray, IntArray

_CHECKSUM_STRIDE = 8  # the checksum covers every eighth slab of the volume
_ARRAYS = ("data", "affine", "spans", "lengths_mm")
_POINTS = "points_mm.float32"


@dataclass(frozen=True, eq=False)
class TrainingSubject:
    """One volume and the streamlines known in it.

    Parameters
    ----------
    data : ndarray of shape (X, Y, Z, C)
        Features as the model takes them (:meth:`dipy_rnn.model.Model.features`).
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    points_mm : ndarray of shape (P, 3)
        Points of all streamlines, one streamline after the other.
    spans : ndarray of shape (S, 2)
        Start and end of each streamline in ``points_mm``.
    lengths_mm : ndarray of shape (S,)
        Lengths of the streamlines.

    Examples
    --------
    >>> subject = TrainingSubject.of(np.zeros((2, 2, 2, 15), np.float32), np.eye(4),
    ...                              [np.array([[0.0, 0, 0], [1, 0, 0]])])
    >>> len(subject), subject.streamline(0).shape, subject.lengths_mm.tolist()
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
        """Make a subject in memory, from clean streamlines in mm."""
        points = [np.asarray(line, dtype=np.float32) for line in streamlines]
        return cls(
            data,
            affine,
            np.concatenate([np.empty((0, 3), np.float32), *points]),
            _spans([len(line) for line in points]),
            np.array([length_mm(line) for line in points]),
        )

    def __len__(self) -> int:
        return len(self.lengths_mm)

    def checksum(self) -> int:
        """Return a checksum of the streamlines, the affine and parts of the volume."""
        number = 0
        slabs = self.data[::_CHECKSUM_STRIDE]
        for array in (self.spans, self.points_mm, slabs, self.affine):
            number = zlib.crc32(np.ascontiguousarray(array).data, number)
        return number

    def streamline(self, index: int) -> Float32Array:
        """Return the points (M, 3) of a streamline in mm, float32."""
        return self.points_mm[slice(*self.spans[index])]

    def select(self, index: IntArray) -> Self:
        """Return a subject with some of the streamlines and the same volume."""
        return replace(self, spans=self.spans[index], lengths_mm=self.lengths_mm[index])


def save_subject(
    folder: Path,
    data: Float32Array,
    affine: FloatArray,
    streamlines: Iterable[AnyArray],
) -> TrainingSubject:
    """Write a subject to disk; the streamlines may come from a generator.

    Parameters
    ----------
    folder : Path
        Created if it does not exist.
    data, affine
        As for :class:`TrainingSubject`.
    streamlines : iterable of ndarray of shape (M, 3)
        Clean, in mm (:func:`dipy_rnn.training.selection.clean_streamlines`).

    Returns
    -------
    subject : TrainingSubject
        As :func:`load_subject` returns it.

    Raises
    ------
    ValueError
        If there is no streamline.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0]])
    >>> data = np.zeros((2, 2, 2, 15), np.float32)
    >>> subject = save_subject(folder, data, np.eye(4), [line])
    >>> load_subject(folder).streamline(0).tolist()
    [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts, lengths_mm = [], []
    with open(folder / _POINTS, "wb") as file:
        for line in streamlines:
            line = np.ascontiguousarray(line, dtype="<f4")
            file.write(line.tobytes())
            counts.append(len(line))
            lengths_mm.append(length_mm(line))
    if not lengths_mm:
        raise ValueError("no streamline is left to learn from")
    arrays: tuple[AnyArray, ...] = (data, affine, _spans(counts), np.array(lengths_mm))
    for name, array in zip(_ARRAYS, arrays):
        np.save(folder / f"{name}.npy", array)
    return load_subject(folder)


def load_subject(folder: Path) -> TrainingSubject:
    """Open a subject on disk.

    Parameters
    ----------
    folder : Path
        Written by :func:`save_subject`.

    Returns
    -------
    subject : TrainingSubject
        With memory-mapped features and points.
    """
    data, affine, spans, lengths_mm = (
        np.load(folder / f"{name}.npy", mmap_mode="r" if name == "data" else None)
        for name in _ARRAYS
    )
    points_mm = np.memmap(folder / _POINTS, dtype="<f4", mode="r").reshape(-1, 3)
    return TrainingSubject(data, affine, points_mm, spans, lengths_mm)


def length_mm(line: AnyArray) -> float:
    """Return the length of a streamline (M, 3)."""
    return float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())


def _spans(counts: Sequence[int]) -> IntArray:
    sizes = np.array(counts, dtype=np.int64)
    ends = np.cumsum(sizes)
    return np.stack([ends - sizes, ends], axis=1)
