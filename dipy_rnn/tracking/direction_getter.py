"""The adapter to :class:`dipy.tracking.local_tracking.LocalTracking`.

Thin on purpose: DIPY plans to remove this interface, and the engine knows nothing of
it. LocalTracking asks for one half of a streamline at a time. The engine tracks both,
and those of many seeds where they are known beforehand; what was not asked for yet
waits here.
"""

from __future__ import annotations

from dataclasses import dataclass
import sys
from typing import TYPE_CHECKING, Self

from dipy.tracking.direction_getter import DirectionGetter
from dipy.tracking.local_tracking import ParticleFilteringTracking
import numpy as np

from dipy_rnn import engine, frames, peaks, sh, spaces, stopping
from dipy_rnn._typing import AnyPath, ArrayLike, FloatArray
from dipy_rnn.model_file import Model, load_model
from dipy_rnn.propagator import Propagator
from dipy_rnn.stopping import StoppingCriterion, StopReason

if TYPE_CHECKING:
    from dipy.tracking.stopping_criterion import StreamlineStatus

# Seeds that are looked ahead at a time.
_AHEAD = 4096

_NO_PARTICLES = (
    "RNNDirectionGetter cannot be used with ParticleFilteringTracking: DIPY asks for "
    "directions there in a way that Python code never sees, and would draw straight "
    "lines. Use LocalTracking with an ActStoppingCriterion or CmcStoppingCriterion."
)


class RNNDirectionGetter(DirectionGetter):  # type: ignore[misc]  # DIPY has no types
    """Let a recurrent network lead DIPY's ``LocalTracking``.

    Parameters
    ----------
    features : dipy_rnn.sh.FeatureVolume
        What the network looks at; see :meth:`from_shcoeff` for a fODF.
    affine : array_like of shape (4, 4), optional
        Voxel to mm, the one LocalTracking gets. It tells how the voxel axes lie in
        RAS+; the identity if None.
    model : str, Path or dipy_rnn.model_file.Model, optional
        Name of a shipped model or a model file; ``"default"`` if None.
    max_angle : float, optional
        A streamline ends where a step would turn by more (degrees).
    seeds : array_like of shape (N, 3), optional
        The seeds in mm that LocalTracking is given, in the same order. The streamlines
        of some thousands are then tracked at once, before they are asked for, and come
        out as they would without, but much faster. Where LocalTracking is given
        ``initial_directions``, turns directions round at random, or has a criterion
        that draws at random in the order of points, it is as if there were no seeds.
    nbr_threads : int, optional
        0 for every core. A single streamline gains nothing from more than one.
    device : str, optional
        Where the network runs.

    Raises
    ------
    ValueError
        If an argument is not as said, or the features do not fit the model.
    FileNotFoundError
        If there is no such model.

    Notes
    -----
    The backward half of a streamline goes on with the hidden state that the forward
    half, shown to the network in reverse, leaves behind. Both are tracked when
    LocalTracking asks for the forward one, and the other waits until the next call.

    **Not for** ``ParticleFilteringTracking``: it goes through a C method that Python
    cannot override, and draws straight lines. It is refused where it asks for first
    directions; given ``initial_directions`` it asks for nothing, and nobody can tell.

    LocalTracking takes one streamline at a time. :func:`dipy_rnn.rnn_tracking` tracks
    the same streamlines many at a time, and faster; so does ``seeds``.

    Examples
    --------
    >>> from dipy.tracking.local_tracking import LocalTracking
    >>> from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> phantom = crossing_phantom(90)
    >>> getter = RNNDirectionGetter.from_shcoeff(phantom.fodf(), affine=phantom.affine)
    >>> streamlines = LocalTracking(
    ...     getter, BinaryStoppingCriterion(phantom.mask()),
    ...     phantom.streamlines(1)[0][0][50:51], phantom.affine, step_size=1.0)
    >>> len(list(streamlines)) > 0
    True
    """

    def __init__(
        self,
        features: sh.FeatureVolume,
        *,
        affine: ArrayLike | None = None,
        model: AnyPath | Model | None = None,
        max_angle: float = 60.0,
        seeds: ArrayLike | None = None,
        nbr_threads: int = 1,
        device: str | None = None,
    ) -> None:
        affine = np.eye(4) if affine is None else spaces.check_affine(affine)
        spaces.check_number(max_angle, "max_angle")
        self._propagator = Propagator(
            features,
            load_model(model, device=device),
            spaces.axes(affine),
            max_angle,
            nbr_threads,
        )
        self._forward_half: tuple[_Asked, _Tracked] | None = None
        self._ahead: _LookAhead | None = None
        if seeds is not None:
            seeds = spaces.check_points(seeds, "seeds")
            self._ahead = _LookAhead(self._propagator, seeds, affine)

    @classmethod
    def from_shcoeff(
        cls,
        shcoeff: ArrayLike,
        *,
        affine: ArrayLike | None = None,
        model: AnyPath | Model | None = None,
        max_angle: float = 60.0,
        basis_type: str | None = None,
        legacy: bool = True,
        sh_frame: str = "voxel",
        seeds: ArrayLike | None = None,
        nbr_threads: int = 1,
        device: str | None = None,
    ) -> Self:
        """Make a direction getter from the spherical harmonics of a fODF.

        Parameters
        ----------
        shcoeff : array_like of shape (X, Y, Z, C)
            Even order, 4 or more.
        affine, model, max_angle
            See :class:`RNNDirectionGetter`.
        basis_type : str, optional
            ``"descoteaux07"`` (also for None) or ``"tournier07"``.
        legacy : bool, optional
            Whether the basis is DIPY's legacy one.
        sh_frame : str, optional
            Axes of the coefficients: ``"voxel"`` (DIPY) or ``"scanner"`` (MRtrix3).
        seeds, nbr_threads, device
            See :class:`RNNDirectionGetter`.

        Returns
        -------
        getter : RNNDirectionGetter

        Raises
        ------
        ValueError
            If an argument is not as said, or the order does not fit the model.
        FileNotFoundError
            If there is no such model.

        Examples
        --------
        >>> from dipy_rnn.phantom import crossing_phantom
        >>> phantom = crossing_phantom(90)
        >>> getter = RNNDirectionGetter.from_shcoeff(phantom.fodf())
        >>> getter.initial_direction(np.array([11.5, 11.5, 5.5])).shape
        (2, 3)
        """
        features = sh.fodf_features(
            shcoeff,
            basis_type=basis_type,
            legacy=legacy,
            sh_frame=sh_frame,
            affine=affine,
            name="shcoeff",
        )
        return cls(
            features,
            affine=affine,
            model=model,
            max_angle=max_angle,
            seeds=seeds,
            nbr_threads=nbr_threads,
            device=device,
        )

    def initial_direction(self, point: FloatArray) -> FloatArray:
        """Return the directions in which a streamline may start at a point.

        Parameters
        ----------
        point : ndarray of shape (3,)
            Voxel coordinates.

        Returns
        -------
        directions : ndarray of shape (K, 3)
            Unit vectors along the voxel axes: the peaks of the fODF, the largest
            first; for other features
            :meth:`dipy_rnn.propagator.Propagator.first_directions`.

        Raises
        ------
        TypeError
            If ParticleFilteringTracking asks.
        """
        # Its own calls would never reach Python; this one is the only chance to tell.
        caller = _caller()
        if isinstance(caller, ParticleFilteringTracking):
            raise TypeError(_NO_PARTICLES)
        point = np.array(point, dtype=float)
        if self._ahead is not None:
            directions = self._ahead.first_directions(point)
            if directions is not None:
                return directions.copy()
        directions = self._propagator.first_directions(point[None], peaks.MAX_PEAKS)[0]
        return _without_zeros(directions)

    def get_direction(self, point: FloatArray, direction: FloatArray) -> int:
        """Ask for the next direction with a fresh hidden state.

        Parameters
        ----------
        point : ndarray of shape (3,)
            Voxel coordinates.
        direction : ndarray of shape (3,)
            Incoming unit direction along the voxel axes; overwritten with the answer.

        Returns
        -------
        failed : int
            0, or 1 where there is no direction; ``direction`` is left alone then.

        Raises
        ------
        ValueError
            If ``direction`` is no array of floats, not finite or of length zero.

        Notes
        -----
        For callers in Python. No tracker of DIPY calls it: LocalTracking goes through
        :meth:`generate_streamline`, and ParticleFilteringTracking past both.
        """
        if not isinstance(direction, np.ndarray) or direction.dtype.kind != "f":
            raise ValueError(
                "direction must be an ndarray of floats: the answer is written into it."
            )
        tangent = _unit_direction(direction)
        frame = frames.from_tangents(tangent[None], self._propagator.axes)
        answer, reasons = self._propagator.turn(
            np.array(point, dtype=float)[None], frame, self._propagator.states(1)
        )
        if reasons[0] != StopReason.RUNNING:
            return 1
        direction[:] = answer[0]
        return 0

    def generate_streamline(
        self,
        seed: FloatArray,
        direction: FloatArray,
        voxel_size: FloatArray,
        step_size: float,
        stopping_criterion: StoppingCriterion,
        streamline: FloatArray,
        stream_status: StreamlineStatus,
        fixedstep: int,
    ) -> tuple[int, StreamlineStatus]:
        """Track one half of a streamline; called by LocalTracking.

        Parameters
        ----------
        seed : ndarray of shape (3,)
            Voxel coordinates.
        direction : ndarray of shape (3,)
            First direction along the voxel axes.
        voxel_size : ndarray of shape (3,)
            mm.
        step_size : float
            mm.
        stopping_criterion : dipy_rnn.stopping.StoppingCriterion
        streamline : ndarray of shape (M, 3)
            Where the points go, in voxel coordinates, the seed first.
        stream_status : StreamlineStatus
            Ignored.
        fixedstep : int
            Must be true: a step to the next voxel border is none the network knows.

        Returns
        -------
        n_points : int
        status : StreamlineStatus
            TRACKPOINT where it ended for want of a direction or of room.

        Raises
        ------
        ValueError
            If ``fixedstep`` is false, or the model was not trained for the step.
        """
        if not fixedstep:
            raise ValueError(
                "fixedstep=False is not possible with RNNDirectionGetter; its model "
                "knows steps of a fixed length in mm."
            )
        self._propagator.model.check_step(step_size)
        # The arguments are on DIPY's stack: copies alone outlive the call.
        seed, points = np.array(seed), np.asarray(streamline)
        tangent, caller = _unit_direction(direction), _caller()
        task = _Task(
            stopping_criterion,
            tuple(step_size / np.array(voxel_size)),
            len(points),
            getattr(caller, "unidirectional", False),
            getattr(caller, "random_seed", None) or 0,
        )
        asked = _Asked(seed, tangent, _address(points), caller, task)
        before, self._forward_half = self._forward_half, None
        if before is not None and asked.is_other_half_of(*before):
            half, reason = before[1].backward, before[1].backward_stop
        else:
            tracked = self._tracked(seed, tangent, task, caller)
            half, reason = tracked.forward, tracked.forward_stop
            if not task.unidirectional:
                self._forward_half = asked, tracked
        points[: len(half)] = half
        return len(half), reason.status

    def _tracked(
        self, seed: FloatArray, tangent: FloatArray, task: _Task, caller: object
    ) -> _Tracked:
        """Return the streamline of a seed and a first direction."""
        if self._ahead is not None:
            tracked = self._ahead.streamline(seed, tangent, task, caller)
            if tracked is not None:
                return tracked
        (tracked,) = _track(self._propagator, seed[None], tangent[None], task)
        return tracked


class _LookAhead:
    """First directions and streamlines of the seeds that come next.

    They are found when LocalTracking asks for the first directions of a seed, and
    tracked when it asks for the first streamline among them; a seed or a direction
    that was not foreseen is nobody's loss but time's.
    """

    def __init__(
        self, propagator: Propagator, seeds_mm: FloatArray, affine: FloatArray
    ) -> None:
        # As LocalTracking does it, to the last digit.
        inverse = np.linalg.inv(affine)
        linear, offset = inverse[:3, :3], inverse[:3, 3]
        self._propagator = propagator
        self._seeds_vox = np.array(
            [np.dot(linear, s) + offset for s in seeds_mm]
        ).reshape(-1, 3)
        self._next = 0
        # By seed, by seed and tangent: their bytes.
        self._directions: dict[bytes, FloatArray] = {}
        self._streamlines: dict[tuple[bytes, bytes], _Tracked] = {}
        self._task: _Task | None = None

    def first_directions(self, seed: FloatArray) -> FloatArray | None:
        """Return the first directions of a seed, None if it was not foreseen."""
        if seed.tobytes() not in self._directions:
            self._find(seed)
        return self._directions.get(seed.tobytes())

    def _find(self, seed: FloatArray) -> None:
        """Find the first directions of this seed and of those that come next."""
        (places,) = np.nonzero((self._seeds_vox == seed).all(axis=1))
        if len(places):
            # The next one, or from the beginning where LocalTracking begins again.
            later = places[places >= self._next]
            start = later[0] if len(later) else places[0]
            self._next = start + _AHEAD
            seeds_vox = self._seeds_vox[start : self._next]
            found = self._propagator.first_directions(seeds_vox, peaks.MAX_PEAKS)
            self._directions = {
                seed.tobytes(): _without_zeros(directions)
                for seed, directions in zip(seeds_vox, found)
            }
            self._task = None

    def streamline(
        self, seed: FloatArray, tangent: FloatArray, task: _Task, caller: object
    ) -> _Tracked | None:
        """Return the streamline of a seed, None if it was not foreseen."""
        if seed.tobytes() not in self._directions:
            return None
        if not stopping.asks_in_any_order(task.stopping_criterion):
            return None
        if task != self._task:
            self._task = task
            max_cross = getattr(caller, "max_cross", None)
            starts = [
                (np.frombuffer(seed), _unit_direction(direction))
                for seed, directions in self._directions.items()
                for direction in directions[:max_cross]
            ]
            keys = [(seed.tobytes(), tangent.tobytes()) for seed, tangent in starts]
            seeds_vox, tangents = np.array(starts).reshape(-1, 2, 3).swapaxes(0, 1)
            tracked = _track(self._propagator, seeds_vox, tangents, task)
            self._streamlines = dict(zip(keys, tracked))
        return self._streamlines.get((seed.tobytes(), tangent.tobytes()))


def _track(
    propagator: Propagator, seeds_vox: FloatArray, tangents: FloatArray, task: _Task
) -> list[_Tracked]:
    """Track streamlines, for each a place in a list."""
    queue = engine.SeedQueue(propagator, seeds_vox, np.eye(4), tangents)
    # A seed outside the image is not tracked.
    tracked = [
        _Tracked(seed[None], StopReason.OUTSIDE_IMAGE, seed[None], StopReason.RUNNING)
        for seed in seeds_vox
    ]
    for index, points, n_forward, forward_stop, backward_stop in engine.run(
        propagator,
        task.stopping_criterion,
        queue,
        step_vox=np.array(task.step_vox),
        to_mm=np.eye(4),
        max_points=2 * task.max_half,
        max_half=task.max_half,
        unidirectional=task.unidirectional,
        random_seed=task.random_seed,
        n_slots=0,
        nbr_threads=propagator.nbr_threads,
    ):
        seed_at = len(points) - n_forward
        tracked[index] = _Tracked(
            points[seed_at:], forward_stop, points[seed_at::-1], backward_stop
        )
    return tracked


@dataclass(frozen=True)
class _Task:
    """What LocalTracking wants of every streamline."""

    stopping_criterion: StoppingCriterion
    step_vox: tuple[float, ...]
    max_half: int
    unidirectional: bool
    random_seed: int


@dataclass(frozen=True, eq=False)
class _Tracked:
    """The halves of a streamline, each from the seed on, in voxels."""

    forward: FloatArray
    forward_stop: StopReason
    backward: FloatArray
    backward_stop: StopReason


@dataclass(frozen=True, eq=False)
class _Asked:
    """What LocalTracking asked for in a call."""

    seed: FloatArray
    tangent: FloatArray
    buffer: int
    tracker: object
    task: _Task

    def is_other_half_of(self, first: _Asked, tracked: _Tracked) -> bool:
        """Tell whether a call goes on with the streamline of the one before, backward.

        DIPY does not say so. It is if the same tracker asks for the same, the seed is
        the same, the buffer is another one (LocalTracking has one for each half), and
        the direction is the opposite of the first one, or of the first step *in
        voxels*.
        """
        if self.tracker is not first.tracker or self.task != first.task:
            return False
        if self.buffer == first.buffer or (self.seed != first.seed).any():
            return False
        opposites = [-first.tangent]
        if len(tracked.forward) > 1:
            step = tracked.forward[0] - tracked.forward[1]
            opposites.append(step / np.linalg.norm(step))
        return any(np.abs(self.tangent - o).max() <= 1e-9 for o in opposites)


def _without_zeros(directions: FloatArray) -> FloatArray:
    """Drop the rows that stand for no direction."""
    kept: FloatArray = directions[directions.any(axis=1)]
    return kept


def _unit_direction(direction: FloatArray) -> FloatArray:
    direction = np.array(direction, dtype=float)
    length = np.linalg.norm(direction)
    if not (np.isfinite(length) and length > 0):
        raise ValueError(
            f"direction is {direction}; a finite one of length 1 is needed."
        )
    return direction / length


def _caller() -> object:
    """Return the tracker that called the method that calls this, if it is one.

    DIPY passes no word of itself on; the calls come from its compiled code, which has
    no frame of its own, so the frame below is a method of the tracker.
    """
    return sys._getframe(2).f_locals.get("self")


def _address(array: FloatArray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
