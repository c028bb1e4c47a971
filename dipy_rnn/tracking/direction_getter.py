"""The adapter to :class:`dipy.tracking.local_tracking.LocalTracking`.

LocalTracking requests one half of a streamline at a time. The engine tracks both
halves. If the seeds are known in advance, it tracks the streamlines of many seeds
together. This module stores the backward half until LocalTracking requests it, and
``look_ahead.py`` stores the streamlines of the next seeds. Both are separate from the
engine because DIPY plans to remove this interface.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from dipy.tracking.direction_getter import DirectionGetter
from dipy.tracking.local_tracking import ParticleFilteringTracking
import numpy as np

from dipy_rnn import sampling, spatial
from dipy_rnn._checks import as_points
from dipy_rnn._typing import AnyPath, ArrayLike, FloatArray
from dipy_rnn.model import Model, load_model
from dipy_rnn.sampling import FeatureVolume
from dipy_rnn.spatial import frames
from dipy_rnn.stopping import StoppingCriterion, StopReason
from dipy_rnn.tracking.caller import SeedCounter, seed_index_of_call, tracker_of_call
from dipy_rnn.tracking.config import PMF_THRESHOLD, TrackingConfig, check_cone
from dipy_rnn.tracking.look_ahead import LookAhead, Task, track_task, unit_direction
from dipy_rnn.tracking.predictor import Predictor
from dipy_rnn.tracking.records import Streamline
from dipy_rnn.tracking.reference import choose_step

if TYPE_CHECKING:
    from dipy.tracking.stopping_criterion import StreamlineStatus

_NO_PARTICLES = (
    "RNNDirectionGetter cannot be used with ParticleFilteringTracking: DIPY does not "
    "call Python code for directions there, and streamlines would be straight. Use "
    "LocalTracking with an ActStoppingCriterion or CmcStoppingCriterion."
)


class RNNDirectionGetter(DirectionGetter):  # type: ignore[misc]  # DIPY has no types
    """A direction getter for DIPY's ``LocalTracking`` with a recurrent network.

    Parameters
    ----------
    features : dipy_rnn.sampling.FeatureVolume
        The input of the network. To give an fODF instead, use :meth:`from_shcoeff`.
    affine : array_like of shape (4, 4), optional
        Voxel to mm, the same as for LocalTracking. The identity if None. It is used for
        the directions of the voxel axes in RAS+. LocalTracking itself refuses most
        rounded affines: see :func:`dipy_rnn.spatial.without_shear`.
    model : str, Path or dipy_rnn.model.Model, optional
        Name of a shipped model, or a model file. ``"default"`` if None.
    max_angle : float, optional
        Angle in degrees of the cone around the incoming direction in which the next
        direction is sought.
    pmf_threshold : float, optional
        A streamline ends where the largest value of the fODF in the cone is below this
        share of the largest value in any direction.
    tracking_method : str, optional
        ``"deterministic"`` or ``"probabilistic"``: see :func:`dipy_rnn.rnn_tracking`.
        LocalTracking's ``random_seed`` is the seed of the draws.
    temperature : float, optional
        Factor of the spread of probabilistic tracking, above 0.
    ended_thr, lost_thr : float, optional
        Probabilities above which the model ends a streamline: see
        :func:`dipy_rnn.rnn_tracking`.
    seeds : array_like of shape (N, 3), optional
        The seeds in mm that LocalTracking gets, in the same order. The streamlines of
        4096 seeds are then tracked together, before LocalTracking requests them. The
        streamlines are the same, and tracking is much faster. Tracking is not faster
        if LocalTracking gets ``initial_directions``, if it randomises the sign of first
        directions, or if its criterion is one for which
        :func:`dipy_rnn.stopping.is_stateless` is False.
    nbr_threads : int, optional
        0 for every core. More than one is useful only together with ``seeds``.
    device : str, optional
        Where the network runs: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``. If None, the CPU,
        or the device of a loaded ``model``.

    Raises
    ------
    ValueError
        If an argument is invalid, or the features do not fit the model.
    FileNotFoundError
        If the model does not exist.

    Notes
    -----
    If the model declares a warm-up pass, the network sees the forward half in reverse
    before the backward half. Both halves are tracked when LocalTracking requests the
    forward half. The backward half is stored until the next request.

    **Not for** ``ParticleFilteringTracking``. It calls a C method that Python cannot
    override, and its streamlines would be straight lines. When it requests first
    directions, TypeError is raised. If it gets ``initial_directions``, it does not
    request them, and the wrong use is not detected.

    LocalTracking requests one streamline at a time, which is slow.
    :func:`dipy_rnn.rnn_tracking` tracks many streamlines at a time. With ``seeds``, the
    direction getter does so, too.

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
        features: FeatureVolume,
        *,
        affine: ArrayLike | None = None,
        model: AnyPath | Model | None = None,
        max_angle: float = 60.0,
        pmf_threshold: float = PMF_THRESHOLD,
        tracking_method: str = "deterministic",
        temperature: float = 1.0,
        ended_thr: float = 1.0,
        lost_thr: float = 1.0,
        seeds: ArrayLike | None = None,
        nbr_threads: int = 1,
        device: str | None = None,
    ) -> None:
        affine = np.eye(4) if affine is None else spatial.check_affine(affine)
        check_cone(max_angle, pmf_threshold)
        self._max_angle = float(max_angle)
        self._pmf_threshold = float(pmf_threshold)
        self._affine = affine
        self._features = features
        self._nbr_threads = nbr_threads
        self._seeds = None if seeds is None else as_points(seeds, "seeds")
        self._predictor = Predictor(
            features,
            load_model(model, device=device),
            spatial.axes(affine),
            nbr_threads,
        )
        self._drawn = tracking_method, temperature
        self._thresholds = ended_thr, lost_thr
        self._spread_scale = self._predictor.model.spread_scale(*self._drawn)
        self._predictor.model.check_thresholds(*self._thresholds)
        self._counter = SeedCounter()
        self._settings: tuple[Any, ...] = ()
        self._task: Task
        self._forward_half: tuple[_Request, Streamline] | None = None
        self._ahead: LookAhead | None = None
        if self._seeds is not None:
            self._ahead = LookAhead(self._predictor, self._seeds, affine)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments. A streamline that is half requested is not kept."""
        make = partial(
            type(self),
            self._features,
            affine=self._affine,
            model=self._predictor.model,
            max_angle=self._max_angle,
            pmf_threshold=self._pmf_threshold,
            tracking_method=self._drawn[0],
            temperature=self._drawn[1],
            ended_thr=self._thresholds[0],
            lost_thr=self._thresholds[1],
            seeds=self._seeds,
            nbr_threads=self._nbr_threads,
        )
        return make, ()

    @classmethod
    def from_shcoeff(
        cls,
        shcoeff: ArrayLike,
        *,
        affine: ArrayLike | None = None,
        basis_type: str | None = None,
        legacy: bool = True,
        sh_frame: str = "voxel",
        **options: Any,
    ) -> Self:
        """Make a direction getter from the spherical harmonics of an fODF.

        Parameters
        ----------
        shcoeff : array_like of shape (X, Y, Z, C)
            Of an even order, 4 or higher.
        affine
            See :class:`RNNDirectionGetter`.
        basis_type : str, optional
            ``"descoteaux07"`` (also if None) or ``"tournier07"``.
        legacy : bool, optional
            Whether the basis is DIPY's legacy one.
        sh_frame : str, optional
            Axes of the coefficients: ``"voxel"`` (DIPY) or ``"scanner"`` (MRtrix3).
        **options
            All other arguments of :class:`RNNDirectionGetter`.

        Returns
        -------
        getter : RNNDirectionGetter

        Raises
        ------
        ValueError
            If an argument is invalid, or the order does not fit the model.
        FileNotFoundError
            If the model does not exist.

        Examples
        --------
        >>> from dipy_rnn.phantom import crossing_phantom
        >>> phantom = crossing_phantom(90)
        >>> getter = RNNDirectionGetter.from_shcoeff(phantom.fodf())
        >>> getter.initial_direction(np.array([11.5, 11.5, 5.5])).shape
        (2, 3)
        """
        features = sampling.fodf_features(
            shcoeff,
            basis_type=basis_type,
            legacy=legacy,
            sh_frame=sh_frame,
            affine=affine,
            name="shcoeff",
        )
        return cls(features, affine=affine, **options)

    def initial_direction(self, point: FloatArray) -> FloatArray:
        """Return the directions in which a streamline may start at a point.

        Parameters
        ----------
        point : ndarray of shape (3,)
            Voxel coordinates.

        Returns
        -------
        directions : ndarray of shape (K, 3)
            Unit vectors, in components along the voxel axes. For an fODF they are its
            peaks, the largest first. For other features see
            ``Predictor.first_directions`` in ``predictor.py``. K is 0 if there is no
            direction, or if the point is outside the image.

        Raises
        ------
        TypeError
            If ParticleFilteringTracking calls it.
        """
        # This is ParticleFilteringTracking's only call of a Python method.
        caller = tracker_of_call()
        if isinstance(caller, ParticleFilteringTracking):
            raise TypeError(_NO_PARTICLES)
        point = np.array(point, dtype=float)
        if self._ahead is not None:
            directions = self._ahead.first_directions(point)
            if directions is not None:
                return directions.copy()
        found = self._predictor.first_directions(point[None], sampling.MAX_PEAKS)[0]
        return np.asarray(found[found.any(axis=1)])

    def get_direction(self, point: FloatArray, direction: FloatArray) -> int:
        """Replace a direction by the next one, predicted with a fresh hidden state.

        Parameters
        ----------
        point : ndarray of shape (3,)
            Voxel coordinates.
        direction : ndarray of shape (3,)
            Incoming direction, in components along the voxel axes. The next direction
            is written into it, with length 1.

        Returns
        -------
        failed : int
            0, or 1 if a step is not possible (no data, or no direction within
            ``max_angle``). In this case ``direction`` does not change.

        Raises
        ------
        ValueError
            If ``direction`` is not an array of floats, is not finite, or has length
            zero.

        Notes
        -----
        This method is for callers in Python. DIPY's trackers do not call it. As it gets
        no step size, the network gets a step of half the edge of a voxel. It draws
        nothing at random.
        LocalTracking calls :meth:`generate_streamline`. ParticleFilteringTracking calls
        neither.
        """
        if not isinstance(direction, np.ndarray) or direction.dtype.kind != "f":
            raise ValueError(
                "direction must be an ndarray of floats: the next direction is written "
                "into it."
            )
        tangent = unit_direction(direction)
        frame = frames.from_tangents(tangent[None], self._predictor.axes)
        predictor = self._predictor
        config = TrackingConfig.of(
            self._affine,
            step_size=0.5 * spatial.voxel_edge(self._affine),
            max_angle=self._max_angle,
            pmf_threshold=self._pmf_threshold,
            max_points=2,
        )
        answers, status = predictor.states(1, config).predict(
            np.array(point, dtype=float)[None], frame
        )
        following, reason = choose_step(
            predictor, config, answers[0], frame[0], status[0]
        )
        if reason is not StopReason.RUNNING:
            return 1
        direction[:] = following / np.linalg.norm(following)
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
        """Track one half of a streamline. LocalTracking calls it.

        Parameters
        ----------
        seed : ndarray of shape (3,)
            Voxel coordinates.
        direction : ndarray of shape (3,)
            First direction, in components along the voxel axes.
        voxel_size : ndarray of shape (3,)
            In mm.
        step_size : float
            In mm.
        stopping_criterion : dipy_rnn.stopping.StoppingCriterion
        streamline : ndarray of shape (M, 3)
            Output: points in voxel coordinates, the seed first. M is the largest number
            of points of a half.
        stream_status : StreamlineStatus
            Ignored.
        fixedstep : int
            Must be true: steps have a fixed length. If it is false, LocalTracking
            expects steps to the next border of a voxel.

        Returns
        -------
        n_points : int
        status : StreamlineStatus
            Why it ended (:attr:`dipy_rnn.stopping.StopReason.status`). TRACKPOINT if
            neither the stopping criterion nor the border of the image ended it.

        Raises
        ------
        ValueError
            If ``fixedstep`` is false, if the model was not trained for the step size,
            or if ``direction`` is not finite or has length zero.
        """
        if not fixedstep:
            raise ValueError(
                "fixedstep=False is not possible with RNNDirectionGetter; its model "
                "takes steps of a fixed length in mm."
            )
        # The seed is in memory of DIPY that is valid only during the call: copy it.
        seed, points = np.array(seed), np.asarray(streamline)
        tangent, caller = unit_direction(direction), tracker_of_call()
        task = self._task_of(
            stopping_criterion,
            step_size,
            *voxel_size,
            len(points),
            getattr(caller, "unidirectional", False),
            getattr(caller, "random_seed", None) or 0,
        )
        number = 0
        if task.draws_at_random:
            number = self._counter.number(seed, caller, seed_index_of_call())
        request = _Request(seed, tangent, number, points, caller, task)
        before, self._forward_half = self._forward_half, None
        if before is not None and request.is_other_half_of(*before):
            half, reason = before[1].backward_half, before[1].backward_stop
        else:
            line = self._streamline(request)
            half, reason = line.forward_half, line.forward_stop
            if not task.unidirectional:
                self._forward_half = request, line
        points[: len(half)] = half
        return len(half), reason.status

    def _task_of(self, *settings: Any) -> Task:
        """Return a task. It is the last one if the settings did not change."""
        if settings != self._settings:
            criterion, step_size, *size = settings[:5]
            n_points, unidirectional, random_seed = settings[5:]
            step_vox = step_size / np.array(size)
            model = self._predictor.model
            model.check_step(step_size)
            model.warn_of_step(step_size, float(np.cbrt(np.prod(step_vox))))
            self._task = Task(
                criterion,
                float(step_size),
                tuple(step_vox),
                self._max_angle,
                self._pmf_threshold,
                n_points,
                unidirectional,
                random_seed,
                self._spread_scale,
                *self._thresholds,
            )
            self._settings = settings
        return self._task

    def _streamline(self, request: _Request) -> Streamline:
        """Return the streamline of a seed and a first direction.

        Its points are in voxel coordinates.
        """
        seed, tangent, number = request.seed, request.tangent, request.number
        task = request.task
        if self._ahead is not None:
            line = self._ahead.streamline(seed, tangent, number, task, request.tracker)
            if line is not None:
                return line
        (line,) = track_task(self._predictor, seed[None], tangent[None], [number], task)
        return line


class _Request(NamedTuple):
    """One request of LocalTracking: half a streamline."""

    seed: FloatArray
    tangent: FloatArray
    number: int
    points: FloatArray
    tracker: object
    task: Task

    def is_other_half_of(self, first: _Request, line: Streamline) -> bool:
        """Tell whether this request is for the backward half of the last streamline.

        DIPY does not tell which half it requests. The result is True if three
        conditions hold. The tracker, its settings and the seed are the same. The buffer
        for points is another one, as LocalTracking has one for each half. The direction
        is opposite to the first direction, or to the first step *in voxel coordinates*.

        Parameters
        ----------
        first : _Request
            The previous request.
        line : Streamline
            The streamline that was tracked for it, in voxel coordinates.

        Returns
        -------
        answer : bool
        """
        if self.tracker is not first.tracker or self.task is not first.task:
            return False
        if self.number != first.number or self.seed.tobytes() != first.seed.tobytes():
            return False
        if np.may_share_memory(self.points, first.points):
            return False
        if line.n_forward > 1:
            step = unit_direction(line.forward_half[0] - line.forward_half[1])
            if _are_near(self.tangent, step):
                return True
        return _are_near(self.tangent, -first.tangent)


def _are_near(direction: FloatArray, other: FloatArray) -> bool:
    """Tell whether two directions are equal up to rounding errors."""
    difference = direction - other
    return bool(difference.dot(difference) <= 1e-18)
