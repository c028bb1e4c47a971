"""A queue of seeds with first directions, from which free slots take the next starts.

A *start* is a seed with one of its first directions. Each start gives a streamline.
"""

from __future__ import annotations

from threading import Lock
from typing import TypeAlias

import numpy as np

from dipy_rnn import spatial
from dipy_rnn._typing import FloatArray, IntArray, KeyArray
from dipy_rnn.spatial import frames
from dipy_rnn.tracking.predictor import Predictor

# First directions are computed for this many seeds at a time. It is large enough to be
# efficient, and small enough to limit memory and to give every thread some work.
_SEEDS_AHEAD = 1024

# Start indices, seeds in voxels, first frames, keys of the seeds.
_Starts: TypeAlias = tuple[IntArray, FloatArray, FloatArray, KeyArray]


class SeedQueue:
    """The seeds of a run in their order, with their first directions.

    The first direction number k of the seed number i is the start number
    ``i * max_peaks + k``. A start is skipped if the seed is outside the image, or has
    fewer first directions.

    Parameters
    ----------
    predictor : dipy_rnn.tracking.predictor.Predictor
    seeds_mm : ndarray of shape (N, 3)
        float64.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    directions : ndarray of shape (N, 3), optional
        First directions, in components along the voxel axes, of any length. A seed
        whose direction has length zero is skipped. If None, the predictor computes
        them.
    seed_keys : ndarray of shape (N,), optional
        uint64, for draws at random (:func:`dipy_rnn.draws.seed_keys`). Zeros if None.
    max_peaks : int, optional
        Largest number of first directions of a seed.
    n_ahead : int, optional
        Number of seeds whose first directions are computed at a time.

    Examples
    --------
    >>> from dipy_rnn import fodf_features
    >>> from dipy_rnn.model import load_model
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> features = fodf_features(crossing_phantom(90).fodf())
    >>> predictor = Predictor(features, load_model(), np.eye(3), 1)
    >>> seeds = np.array([[-9.0, 0, 0], [11.5, 11.5, 5.5]])
    >>> queue = SeedQueue(predictor, seeds, np.eye(4))
    >>> index, seeds_vox, first_frames, seed_keys = queue.take(5)
    >>> index.tolist(), first_frames.shape, queue.first_left
    ([1], (1, 3, 3), 2)
    """

    def __init__(
        self,
        predictor: Predictor,
        seeds_mm: FloatArray,
        affine: FloatArray,
        directions: FloatArray | None = None,
        *,
        seed_keys: KeyArray | None = None,
        max_peaks: int = 1,
        n_ahead: int = _SEEDS_AHEAD,
    ) -> None:
        #: All seeds of the run, of shape (N, 3).
        self.seeds_mm = seeds_mm
        #: Largest number of starts of a seed.
        self.max_peaks = max_peaks
        self._predictor = predictor
        self._affine = affine
        self._directions = directions
        if seed_keys is None:
            seed_keys = np.zeros(len(seeds_mm), np.uint64)
        self._seed_keys = seed_keys
        self._n_ahead = min(n_ahead, _SEEDS_AHEAD)
        self._lock = Lock()
        self._next = 0
        self._ready: _Starts = (
            np.empty(0, np.int64),
            np.empty((0, 3)),
            np.empty((0, 3, 3)),
            np.empty(0, np.uint64),
        )

    def __len__(self) -> int:
        """Return the number of starts left, including those that will be skipped."""
        n_seeds = len(self.seeds_mm) - self._next
        return n_seeds * self.max_peaks + len(self._ready[0])

    @property
    def first_left(self) -> int:
        """The smallest start index that may still be taken.

        It is meant for moments in which no thread takes starts.
        """
        (ready, *_), start = self._ready, self._next * self.max_peaks
        return int(ready.min(initial=start))

    def take(self, n: int) -> _Starts:
        """Take the next starts. Several threads may call this.

        Parameters
        ----------
        n : int

        Returns
        -------
        index : ndarray of shape (k,)
            Start indices. If k is below n, no further starts are left, or another
            thread is preparing the last ones.
        seeds_vox : ndarray of shape (k, 3)
            Seeds in voxel coordinates.
        first_frames : ndarray of shape (k, 3, 3)
            Moving frames at the seeds. ``e3`` is the first direction.
        seed_keys : ndarray of shape (k,)
        """
        while True:
            with self._lock:
                start = self._next
                index, seeds_vox, first_frames, keys = self._ready
                if n <= len(index) or start == len(self.seeds_mm):
                    self._ready = index[n:], seeds_vox[n:], first_frames[n:], keys[n:]
                    return index[:n], seeds_vox[:n], first_frames[:n], keys[:n]
                self._next = stop = min(start + self._n_ahead, len(self.seeds_mm))
            # A thread that finds too few starts prepares more, without the lock. Other
            # threads can prepare the next ones at the same time.
            prepared = self._prepare(start, stop)
            with self._lock:
                index, seeds_vox, first_frames, keys = self._ready
                self._ready = (
                    np.concatenate([index, prepared[0]]),
                    np.concatenate([seeds_vox, prepared[1]]),
                    np.concatenate([first_frames, prepared[2]]),
                    np.concatenate([keys, prepared[3]]),
                )

    def _prepare(self, start: int, stop: int) -> _Starts:
        """Return the starts of a range of seeds, except those that are skipped."""
        seeds_vox = spatial.to_voxels(self.seeds_mm[start:stop], self._affine)
        predictor = self._predictor
        if self._directions is None:
            first = predictor.first_directions(seeds_vox, self.max_peaks)
        else:
            first = self._directions[start:stop, None]
        length = np.linalg.norm(first, axis=2)
        inside = spatial.is_inside(seeds_vox, predictor.data.shape)
        good = inside[:, None] & (length > 0)
        seed, peak = np.nonzero(good)
        index = (start + seed) * self.max_peaks + peak
        first_frames = frames.from_tangents(
            first[good] / length[good][:, None], predictor.axes
        )
        return index, seeds_vox[seed], first_frames, self._seed_keys[start + seed]
