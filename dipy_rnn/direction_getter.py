"""The adapter to :class:`dipy.tracking.local_tracking.LocalTracking`.

Thin on purpose: DIPY plans to remove this interface, and the engine in
``tracking.py`` knows nothing of it.
"""

from dataclasses import dataclass
import sys

from dipy.tracking.direction_getter import DirectionGetter
from dipy.tracking.local_tracking import ParticleFilteringTracking
import numpy as np

from dipy_rnn import frames, peaks, sh, spaces, stopping
from dipy_rnn.model_file import load_model
from dipy_rnn.stopping import StopReason
from dipy_rnn.tracking import Propagator, torch_threads

_NO_PARTICLES = (
    "RNNDirectionGetter cannot be used with ParticleFilteringTracking: DIPY asks for "
    "directions there in a way that Python code never sees, and would draw straight "
    "lines. Use LocalTracking with an ActStoppingCriterion or CmcStoppingCriterion."
)


class RNNDirectionGetter(DirectionGetter):
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
    nbr_threads : int, optional
        For the sampling; a single streamline gains nothing from more than one.
    device : str, optional
        Where the network runs.

    Raises
    ------
    ValueError
        If an argument is not as said, or the features do not fit the model.

    Notes
    -----
    The backward half of a streamline goes on with the hidden state that the forward
    half, shown to the network in reverse, leaves behind; so the last forward half is
    remembered until the next call. Nothing else passes from call to call.

    **Not for** ``ParticleFilteringTracking``: it goes through a C method that Python
    cannot override, and draws straight lines. It is refused where it asks for first
    directions; given ``initial_directions`` it asks for nothing, and nobody can tell.

    LocalTracking takes one streamline at a time. :func:`dipy_rnn.rnn_tracking` tracks
    the same streamlines many at a time, and much faster.

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
        features,
        *,
        affine=None,
        model=None,
        max_angle=60.0,
        nbr_threads=1,
        device=None,
    ):
        affine = np.eye(4) if affine is None else spaces.check_affine(affine)
        self._propagator = Propagator(
            features,
            load_model(model, device=device),
            spaces.axes(affine),
            max_angle,
            nbr_threads,
        )
        self._forward_half = None

    @classmethod
    def from_shcoeff(
        cls,
        shcoeff,
        *,
        affine=None,
        model=None,
        max_angle=60.0,
        basis_type=None,
        legacy=True,
        sh_frame="voxel",
        nbr_threads=1,
        device=None,
    ):
        """Make a direction getter from the spherical harmonics of a fODF.

        Parameters
        ----------
        shcoeff : array_like of shape (X, Y, Z, C)
            Even order, 4 or more.
        basis_type : str, optional
            ``"descoteaux07"`` (also for None) or ``"tournier07"``.
        legacy : bool, optional
            Whether the basis is DIPY's legacy one.
        sh_frame : str, optional
            Axes of the coefficients: ``"voxel"`` (DIPY) or ``"scanner"`` (MRtrix3).
        affine, model, max_angle, nbr_threads, device
            See :class:`RNNDirectionGetter`.

        Returns
        -------
        getter : RNNDirectionGetter

        Raises
        ------
        ValueError
            If an argument is not as said, or the order does not fit the model.

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
            nbr_threads=nbr_threads,
            device=device,
        )

    def initial_direction(self, point):
        """Return the directions in which a streamline may start at a point.

        Parameters
        ----------
        point : ndarray of shape (3,)
            Voxel coordinates.

        Returns
        -------
        directions : ndarray of shape (K, 3)
            Unit vectors along the voxel axes: the peaks of the fODF, the largest
            first; for other features :meth:`Propagator.first_directions`.

        Raises
        ------
        TypeError
            If ParticleFilteringTracking asks.
        """
        # Its own calls would never reach Python; this one is the only chance to tell.
        caller = _caller()
        if isinstance(caller, ParticleFilteringTracking):
            raise TypeError(_NO_PARTICLES)
        directions = self._propagator.first_directions(
            np.array(point, dtype=float)[None], peaks.MAX_PEAKS
        )[0]
        return directions[directions.any(axis=1)]

    def get_direction(self, point, direction):
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
        answer, reasons, _ = self._propagator.turn(
            np.array(point, dtype=float)[None],
            frame,
            self._propagator.model.init_state(1),
        )
        if reasons[0] != StopReason.RUNNING:
            return 1
        direction[:] = answer[0]
        return 0

    def generate_streamline(
        self,
        seed,
        direction,
        voxel_size,
        step_size,
        stopping_criterion,
        streamline,
        stream_status,
        fixedstep,
    ):
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
        stopping_criterion : dipy.tracking.stopping_criterion.StoppingCriterion
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
        propagator = self._propagator
        propagator.model.check_step(step_size)
        # The arguments are on DIPY's stack: copies alone outlive the call.
        seed, points = np.array(seed), np.asarray(streamline)
        step_vox = step_size / np.array(voxel_size)
        tangent = _unit_direction(direction)
        before, self._forward_half = self._forward_half, None
        caller = _caller()
        if before is not None and before.is_other_half(seed, tangent, points, caller):
            frame, state = self._replay(before, np.array(voxel_size))
            is_forward = False
        else:
            frame = frames.from_tangents(tangent[None], propagator.axes)
            state = propagator.model.init_state(1)
            is_forward = True

        points[0] = seed
        with torch_threads(propagator.nbr_threads):
            n_points, frame, reason = self._run(
                points, frame, state, step_vox, stopping_criterion
            )
        if is_forward and not getattr(caller, "unidirectional", False):
            self._forward_half = _ForwardHalf(
                seed, tangent, points[:n_points].copy(), frame, _address(points), caller
            )
        return n_points, reason.status

    def _run(self, points, frame, state, step_vox, stopping_criterion):
        """Fill in points after the first; return how many there are, frame, reason."""
        propagator, n_points = self._propagator, 1
        while n_points < len(points):
            tangents, reasons, state = propagator.turn(
                points[n_points - 1 : n_points], frame, state
            )
            if reasons[0] != StopReason.RUNNING:
                return n_points, frame, StopReason(reasons[0])
            point = points[n_points - 1] + tangents[0] * step_vox
            (reason,) = stopping.check_points(stopping_criterion, point[None])
            if reason != StopReason.RUNNING:
                return n_points, frame, StopReason(reason)
            frame = frames.transport(frame, tangents)
            points[n_points] = point
            n_points += 1
        return n_points, frame, StopReason.RUNNING

    def _replay(self, half, voxel_size):
        """Show a forward half to the network in reverse, from its end to the seed."""
        propagator = self._propagator
        frame = frames.turned_round(half.frame)
        state = propagator.model.init_state(1)
        with torch_threads(propagator.nbr_threads):
            for here, before in zip(half.points[:0:-1], half.points[-2::-1]):
                _, _, state = propagator.turn(here[None], frame, state)
                back = (before - here) * voxel_size
                frame = frames.transport(frame, (back / np.linalg.norm(back))[None])
        return frame, state


@dataclass(frozen=True, eq=False)
class _ForwardHalf:
    """What the backward half of a streamline needs to know of the forward one."""

    seed: np.ndarray
    tangent: np.ndarray
    points: np.ndarray
    frame: np.ndarray
    buffer: int
    tracker: object

    def is_other_half(self, seed, tangent, points, tracker):
        """Tell whether a call goes on with this streamline, backward.

        DIPY does not say so. It is if the same tracker asks, the seed is the same, the
        buffer is another one (LocalTracking has one for each half), and the direction
        is the opposite of the first one, or of the first step *in voxels*.
        """
        if tracker is not self.tracker or _address(points) == self.buffer:
            return False
        if not np.array_equal(seed, self.seed):
            return False
        opposites = [-self.tangent]
        if len(self.points) > 1:
            step = self.points[0] - self.points[1]
            opposites.append(step / np.linalg.norm(step))
        return any(np.allclose(tangent, o, rtol=0, atol=1e-9) for o in opposites)


def _unit_direction(direction):
    direction = np.array(direction, dtype=float)
    length = np.linalg.norm(direction)
    if not (np.isfinite(length) and length > 0):
        raise ValueError(
            f"direction is {direction}; a finite one of length 1 is needed."
        )
    return direction / length


def _caller():
    """Return the tracker that called the method that calls this, if it is one.

    DIPY passes no word of itself on; the calls come from its compiled code, which has
    no frame of its own, so the frame below is a method of the tracker.
    """
    return sys._getframe(2).f_locals.get("self")


def _address(array):
    return array.__array_interface__["data"][0]
