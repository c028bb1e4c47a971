"""Streamlines for LocalTracking: of one seed on demand, or of many in advance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
import math

import numpy as np

from dipy_rnn import draws, sampling, stopping
from dipy_rnn._typing import ArrayLike, FloatArray, IntArray
from dipy_rnn.stopping import StoppingCriterion, StopReason
from dipy_rnn.tracking import engine
from dipy_rnn.tracking.config import TrackingConfig
from dipy_rnn.tracking.predictor import Predictor
from dipy_rnn.tracking.records import Streamline
from dipy_rnn.tracking.seed_queue import SeedQueue

# Number of seeds that are tracked in advance.
_AHEAD = 4096


@dataclass(frozen=True)
class Task:
    """The settings of a LocalTracking that determine its streamlines.

    If two tasks are equal, the same seed and first direction give the same streamline.

    Parameters
    ----------
    stopping_criterion : dipy_rnn.stopping.StoppingCriterion
    step_mm : float
        Step size in mm.
    step_vox : tuple of 3 float
        Step size divided by the size of a voxel along each axis.
    max_angle : float
        Angle of the cone in which the next direction is sought, in degrees.
    pmf_threshold : float
        See :class:`TrackingConfig`.
    max_half_points : int
        Largest number of points of one half, the seed included.
    unidirectional : bool
        Omit the backward half.
    random_seed : int
        For draws at random (:func:`dipy_rnn.draws.seed_keys`).
    spread_scale, ended_thr, lost_thr : float
        See :class:`TrackingConfig`.

    Examples
    --------
    >>> criterion = stopping.BinaryStoppingCriterion(np.ones((2, 2, 2)))
    >>> task = Task(criterion, 1.0, (0.5, 0.5, 0.5), 60, 0.1, 501, False, 0, 0.0)
    >>> task.config(None).max_points
    1002
    """

    stopping_criterion: StoppingCriterion
    step_mm: float
    step_vox: tuple[float, ...]
    max_angle: float
    pmf_threshold: float
    max_half_points: int
    unidirectional: bool
    random_seed: int
    spread_scale: float
    ended_thr: float = 1.0
    lost_thr: float = 1.0

    @property
    def draws_at_random(self) -> bool:
        """Whether equal seeds can have different streamlines."""
        criterion = self.stopping_criterion
        return self.spread_scale > 0 or getattr(criterion, "draws_at_random", False)

    def config(self, warm_up_points: int | None) -> TrackingConfig:
        """Return the settings for the engine, with streamlines in voxel coordinates.

        Parameters
        ----------
        warm_up_points : int or None
            ``replay_points`` of the model's metadata. If None, all points.

        Returns
        -------
        config : TrackingConfig
        """
        config = TrackingConfig.of(
            np.eye(4),
            step_size=self.step_mm,
            max_angle=self.max_angle,
            pmf_threshold=self.pmf_threshold,
            max_points=2 * self.max_half_points,
            max_half_points=self.max_half_points,
            warm_up_points=warm_up_points,
            unidirectional=self.unidirectional,
            random_seed=self.random_seed,
            spread_scale=self.spread_scale,
            ended_thr=self.ended_thr,
            lost_thr=self.lost_thr,
        )
        return replace(config, step_vox=np.array(self.step_vox))


class LookAhead:
    """First directions and streamlines of the next seeds, computed in advance.

    When LocalTracking requests the first directions of a seed, those of the next 4096
    seeds are computed. When it requests the first of their streamlines, all of them are
    tracked. The methods return None for a seed or a direction that is not among them.
    The caller then tracks this streamline alone.

    Parameters
    ----------
    predictor : dipy_rnn.tracking.predictor.Predictor
    seeds_mm : ndarray of shape (N, 3)
        In the order in which LocalTracking gets them.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    """

    def __init__(
        self,
        predictor: Predictor,
        seeds_mm: FloatArray,
        affine: FloatArray,
    ) -> None:
        # The arithmetic of LocalTracking, as its seeds are compared with these for
        # equality.
        inverse = np.linalg.inv(affine)
        linear, offset = inverse[:3, :3], inverse[:3, 3]
        self._predictor = predictor
        self._seeds_vox = np.array(
            [np.dot(linear, s) + offset for s in seeds_mm]
        ).reshape(-1, 3)
        self._block = slice(0, 0)
        # The keys are the bytes of a seed; or of a seed and a tangent, and the number
        # of the seed among equal ones.
        self._directions: dict[bytes, FloatArray] = {}
        self._streamlines: dict[tuple[bytes, bytes, int], Streamline] = {}
        self._task: Task | None = None

    @cached_property
    def _numbers(self) -> IntArray:
        """Numbers of the seeds among equal ones. Only random draws need them."""
        return draws.count_equal(self._seeds_vox)

    def first_directions(self, seed: FloatArray) -> FloatArray | None:
        """Return the first directions of a seed. None if it is not in ``seeds_mm``."""
        if seed.tobytes() not in self._directions:
            self._find(seed)
        return self._directions.get(seed.tobytes())

    def _find(self, seed: FloatArray) -> None:
        """Compute the first directions of this seed and of the next ones."""
        (places,) = np.nonzero((self._seeds_vox == seed).all(axis=1))
        if len(places):
            # Several seeds may be equal: take the next of them. After the last of them
            # LocalTracking has started again: take the first.
            later = places[places >= self._block.stop]
            start = later[0] if len(later) else places[0]
            self._block = slice(start, start + _AHEAD)
            seeds_vox = self._seeds_vox[self._block]
            found = self._predictor.first_directions(
                seeds_vox, sampling.MAX_PEAKS, nbr_threads=self._predictor.nbr_threads
            )
            # Rows of zeros, which mean that there is no direction, are the last ones.
            n_found = found.any(axis=2).sum(axis=1).tolist()
            self._directions = {
                seed.tobytes(): directions[:n]
                for seed, directions, n in zip(seeds_vox, found, n_found)
            }
            self._task = None

    def streamline(
        self,
        seed: FloatArray,
        tangent: FloatArray,
        number: int,
        task: Task,
        caller: object,
    ) -> Streamline | None:
        """Return the streamline of a seed and tangent, or None.

        ``number`` is that of the seed among equal ones. It is 0 if nothing is drawn at
        random. While the settings of the tracker do not change, ``task`` is the same
        object.

        None if it is not among those tracked in advance, or if the criterion may hold a
        state.
        """
        key = seed.tobytes()
        if key not in self._directions:
            return None
        if task is not self._task:
            self._task = task
            self._streamlines = {}
            if stopping.is_stateless(task.stopping_criterion):
                self._track(task, getattr(caller, "max_cross", None))
        return self._streamlines.get((key, tangent.tobytes(), number))

    def _track(self, task: Task, max_cross: int | None) -> None:
        """Track the streamlines of all seeds whose first directions are known."""
        numbers = self._numbers[self._block] if task.draws_at_random else [0] * _AHEAD
        seeds = {
            (each.tobytes(), int(n)): each
            for each, n in zip(self._seeds_vox[self._block], numbers)
        }
        starts = [
            (each, unit_direction(direction), n)
            for (key, n), each in seeds.items()
            for direction in self._directions[key][:max_cross]
        ]
        lines = track_task(
            self._predictor,
            np.array([each for each, _, _ in starts]).reshape(-1, 3),
            np.array([direction for _, direction, _ in starts]).reshape(-1, 3),
            [n for _, _, n in starts],
            task,
        )
        self._streamlines = {
            (each.tobytes(), direction.tobytes(), n): line
            for (each, direction, n), line in zip(starts, lines)
        }


def track_task(
    predictor: Predictor,
    seeds_vox: FloatArray,
    tangents: FloatArray,
    numbers: ArrayLike,
    task: Task,
) -> list[Streamline]:
    """Track one streamline for each seed.

    Parameters
    ----------
    predictor : dipy_rnn.tracking.predictor.Predictor
    seeds_vox : ndarray of shape (N, 3)
        Voxel coordinates.
    tangents : ndarray of shape (N, 3)
        First directions: unit vectors, in components along the voxel axes.
    numbers : array_like of shape (N,)
        Numbers of the seeds among equal ones (:func:`dipy_rnn.draws.count_equal`).
    task : Task

    Returns
    -------
    lines : list of Streamline
        Their points are in voxel coordinates. If a seed is outside of the image, its
        streamline is the seed alone.
    """
    config = task.config(predictor.model.metadata.replay_points)
    keys = None
    if task.draws_at_random:
        keys = draws.seed_keys(task.random_seed, seeds_vox, numbers)
    queue = SeedQueue(predictor, seeds_vox, config.affine, tangents, seed_keys=keys)
    blocks = engine.run(
        predictor,
        task.stopping_criterion,
        queue,
        config,
        nbr_threads=predictor.nbr_threads,
    )
    lines = {
        line.seed_index: line for block in blocks for line in block.split(seeds_vox)
    }
    outside, running = StopReason.OUTSIDE_IMAGE, StopReason.RUNNING
    return [
        lines[i] if i in lines else Streamline(seed[None], i, seed, outside, running)
        for i, seed in enumerate(seeds_vox)
    ]


def unit_direction(direction: FloatArray) -> FloatArray:
    """Return a direction with length 1.

    Parameters
    ----------
    direction : ndarray of shape (3,)

    Returns
    -------
    direction : ndarray of shape (3,)

    Raises
    ------
    ValueError
        If it is not finite, or has length zero.

    Examples
    --------
    >>> unit_direction(np.array([0.0, 0, 2])).tolist()
    [0.0, 0.0, 1.0]
    """
    direction = np.array(direction, dtype=float)
    # Twice as fast as NumPy's norm, with the same result.
    length = math.sqrt(direction.dot(direction))
    if not (math.isfinite(length) and length > 0):
        raise ValueError(
            f"direction is {direction}; a finite vector that is not zero is needed."
        )
    return direction / length
