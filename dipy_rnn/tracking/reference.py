"""The tracking algorithm for one streamline, in plain NumPy. Read this file first.

A streamline is tracked in three passes:

1. Forward half. It starts at the seed, along the first direction. Each step does this:

   a. The network gets the features at the last point, and returns a direction. It also
      updates its hidden state. The direction is called the *answer* of the model.
      Probabilistic tracking adds a random error to it.
   b. If there are no data at this point, if the fODF has no value above the threshold
      in the cone ahead, or if the answer is not a direction, the half ends. It also
      ends if the network predicts that the fibre has ended, or that the streamline is
      lost, and a threshold asks for it. An answer outside the cone is moved to its
      border.
   c. A step of fixed length in mm along the direction gives the next point. If the
      stopping criterion ends tracking there, the half ends without this point.
   d. The moving frame follows by parallel transport. If there are too many points, the
      half ends.

2. Warm-up pass, if the model declares one. With a fresh hidden state, the network sees
   points of the forward half in reverse, towards the seed. Its answers are ignored.
   Only its hidden state is kept.
3. Backward half. It starts at the seed, with that hidden state (fresh without a warm-up
   pass) and with the frame in which the warm-up pass ends. The steps are those of the
   forward half.

This file is written to be read, and it is slow. ``slots/compiled.py``,
``slots/device.py`` and ``direction_getter.py`` must give the same streamlines.
``tests/tracking/test_backends.py`` compares all of them.
"""

from __future__ import annotations

import numpy as np

from dipy_rnn import draws, spatial, stopping
from dipy_rnn._typing import AnyArray, FloatArray
from dipy_rnn.sampling import EMPTY, NOTHING_AHEAD, OUTSIDE, into_cone
from dipy_rnn.spatial import frames
from dipy_rnn.stopping import StoppingCriterion, StopReason
from dipy_rnn.tracking.config import TrackingConfig
from dipy_rnn.tracking.predictor import HiddenStates, Predictor
from dipy_rnn.tracking.records import Streamline


def track_streamline(
    predictor: Predictor,
    criterion: StoppingCriterion,
    config: TrackingConfig,
    seed_mm: FloatArray,
    first_direction: FloatArray,
    seed_number: int = 0,
) -> Streamline:
    """Track the streamline of a seed: forward half, warm-up pass, backward half.

    Parameters
    ----------
    predictor : dipy_rnn.tracking.predictor.Predictor
    criterion : dipy_rnn.stopping.StoppingCriterion
    config : TrackingConfig
    seed_mm : ndarray of shape (3,)
        Inside the image.
    first_direction : ndarray of shape (3,)
        Unit vector, in components along the voxel axes.
    seed_number : int, optional
        Number of the seed among equal ones (:func:`dipy_rnn.draws.count_equal`).

    Returns
    -------
    streamline : Streamline
        Its ``seed_index`` is 0.

    Examples
    --------
    >>> from dipy_rnn import fodf_features, load_model
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> phantom = crossing_phantom(90)
    >>> predictor = Predictor(fodf_features(phantom.fodf()), load_model(), np.eye(3), 1)
    >>> line = track_streamline(
    ...     predictor,
    ...     stopping.BinaryStoppingCriterion(phantom.mask()),
    ...     TrackingConfig.of(np.eye(4), step_size=1, max_angle=60, max_points=100),
    ...     np.array([11.5, 11.5, 5.5]), np.array([1.0, 0, 0]))
    >>> line.forward_stop.name, len(line.forward_half), len(line.backward_half)
    ('OUTSIDE_IMAGE', 12, 11)
    """
    half = _Half(predictor, criterion, config, seed_mm, seed_number)
    states = predictor.states(1, config)
    frame = frames.from_tangents(first_direction[None], predictor.axes)
    forward, forward_frames, forward_stop = half.track(
        states, frame, n_before=0, sign=1
    )
    backward, backward_stop = [half.seed_vox], forward_stop
    if not config.unidirectional and len(forward) <= config.max_points:
        states = predictor.states(1, config)
        frame = _warm_up(states, forward, forward_frames, config)
        backward, _, backward_stop = half.track(
            states, frame, n_before=len(forward) - 1, sign=-1
        )
    points_vox = np.array([*backward[:0:-1], *forward])  # the seed once
    points_mm = spatial.to_mm(points_vox, config.affine)
    return Streamline(points_mm, 0, seed_mm, forward_stop, backward_stop, len(forward))


class _Half:
    """Tracks one half of a streamline at a time, starting at the seed.

    A frame has the shape (1, 3, 3), as in arrays of many frames.
    """

    def __init__(
        self,
        predictor: Predictor,
        criterion: StoppingCriterion,
        config: TrackingConfig,
        seed_mm: FloatArray,
        seed_number: int,
    ) -> None:
        self.predictor = predictor
        self.criterion = criterion
        self.config = config
        self.seed_vox = spatial.to_voxels(seed_mm, config.affine)
        self.errors = predictor.errors(config)
        self.seed_key = draws.seed_keys(
            config.random_seed, self.seed_vox[None], [seed_number]
        )

    def track(
        self, states: HiddenStates, frame: FloatArray, *, n_before: int, sign: int
    ) -> tuple[list[FloatArray], list[FloatArray], StopReason]:
        """Return the points in voxels, the frame at each, and why the half ended.

        ``n_before`` is the number of points of the other half, without the seed.
        ``sign`` is 1 for the forward half and -1 for the backward half.
        """
        config = self.config
        points, point_frames = [self.seed_vox], [frame]
        while True:
            answers, status = states.predict(points[-1][None], frame)
            number = sign * len(points)
            if self.errors:
                self.errors.add(answers, self.seed_key, np.array([number]))
            direction, reason = choose_step(
                self.predictor, config, answers[0], frame[0], status[0]
            )
            if reason is StopReason.RUNNING:
                tangent = direction / np.linalg.norm(direction)
                point = points[-1] + tangent * config.step_vox
                reason = self._evaluate(point, number)
            if reason is not StopReason.RUNNING:
                return points, point_frames, reason
            frame = frames.transport(frame, tangent[None])
            points.append(point)
            point_frames.append(frame)
            too_long = n_before + len(points) > config.max_points
            if too_long or len(points) >= config.max_half_points:
                return points, point_frames, StopReason.MAX_LENGTH

    def _evaluate(self, point: FloatArray, number: int) -> StopReason:
        """Return the decision of the stopping criterion at a point.

        ``number`` is 1, 2 .. in the forward half and -1, -2 .. in the backward half. A
        criterion that draws at random uses it.
        """
        reasons = np.array([StopReason.RUNNING], dtype=np.int64)
        numbers = np.array([number], dtype=np.int64)
        stopping.evaluate_criterion(
            self.criterion, point[None], reasons, self.seed_key, numbers
        )
        return StopReason(reasons[0])


def _warm_up(
    states: HiddenStates,
    forward: list[FloatArray],
    forward_frames: list[FloatArray],
    config: TrackingConfig,
) -> FloatArray:
    """Show the forward half in reverse, and return the frame at the seed.

    The network sees the ``warm_up_points`` points that follow the seed, the last one
    first. It does not see the seed, where the backward half starts.
    """
    n = min(len(forward) - 1, config.warm_up_points)
    frame = frames.reverse(forward_frames[n])
    for k in range(n, 0, -1):
        states.predict(forward[k][None], frame)
        step = (forward[k - 1] - forward[k]) / config.step_vox
        frame = frames.transport(frame, step[None] / np.linalg.norm(step))
    return frame


def choose_step(
    predictor: Predictor,
    config: TrackingConfig,
    answer: AnyArray,
    frame: FloatArray,
    status: int,
) -> tuple[FloatArray, StopReason]:
    """Return the direction of a step, and whether the step can be taken.

    With a model of format 2, an answer outside the cone is moved to its border. With a
    model of format 1, it is a reason to end.

    Parameters
    ----------
    predictor : dipy_rnn.tracking.predictor.Predictor
    config : TrackingConfig
    answer : ndarray of shape (C,)
        See :func:`next_direction`.
    frame : ndarray of shape (3, 3)
        The moving frame.
    status : int
        See :func:`classify_step`.

    Returns
    -------
    direction : ndarray of shape (3,)
        In components along the voxel axes, of any length.
    reason : StopReason
        RUNNING, or the reason why the streamline cannot take the step.

    Examples
    --------
    >>> from dipy_rnn import fodf_features, load_model
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.sampling import DATA
    >>> features = fodf_features(crossing_phantom(90).fodf())
    >>> predictor = Predictor(features, load_model(), np.eye(3), 1)
    >>> config = TrackingConfig.of(np.eye(4), step_size=1, max_angle=60, max_points=100)
    >>> direction, reason = choose_step(
    ...     predictor, config, np.array([1.0, 0, 0]), np.eye(3), DATA)
    >>> direction.round(3).tolist(), reason.name
    ([0.866, 0.0, 0.5], 'RUNNING')
    """
    direction = next_direction(answer, frame, in_frame=predictor.in_frame)
    min_cosine = config.min_cosine
    if predictor.has_cone:
        direction = bend(direction, frame, config.cone_deg)
        min_cosine = -np.inf
    reason = classify_step(direction, frame, status, min_cosine)
    for column, threshold, why in predictor.ends(config):
        if reason is StopReason.RUNNING and answer[column] > threshold:
            reason = why
    return direction, reason


def next_direction(
    answer: AnyArray, frame: FloatArray, *, in_frame: bool
) -> FloatArray:
    """Return a model's answer in components along the voxel axes.

    Parameters
    ----------
    answer : ndarray of shape (C,)
        What the network returns. The first three numbers are a direction of any length.
        Its components are along the rows of the moving frame, or along the voxel axes.
    frame : ndarray of shape (3, 3)
        The moving frame: rows ``e1, e2, e3``.
    in_frame : bool
        Whether the components of the answer are along the rows of the moving frame.

    Returns
    -------
    direction : ndarray of shape (3,)
        Of the same length as the answer.

    Examples
    --------
    >>> next_direction(np.array([0.0, 0, 2]), np.eye(3)[::-1], in_frame=True).tolist()
    [2.0, 0.0, 0.0]
    """
    answer = answer[:3].astype(np.float64)
    return answer @ frame if in_frame else answer


def bend(direction: FloatArray, frame: FloatArray, cone_deg: float) -> FloatArray:
    """Move a direction outside the cone to its border.

    Parameters
    ----------
    direction : ndarray of shape (3,)
        In components along the voxel axes, of any length.
    frame : ndarray of shape (3, 3)
        The moving frame. ``e3`` is the axis of the cone.
    cone_deg : float
        Angle of the cone in degrees.

    Returns
    -------
    direction : ndarray of shape (3,)
        Of length 1 if it was moved, otherwise unchanged. A direction opposite to the
        axis becomes the axis.

    Examples
    --------
    >>> bend(np.array([2.0, 0, 0]), np.eye(3), 45.0).round(3).tolist()
    [0.707, 0.0, 0.707]
    """
    cosine, sine = np.cos(np.deg2rad(cone_deg)), np.sin(np.deg2rad(cone_deg))
    length = np.linalg.norm(direction)
    if not np.isfinite(length) or direction @ frame[2] >= cosine * length:
        return direction
    (moved,) = into_cone((frame @ direction / length)[None], cosine, sine)
    return next_direction(moved, frame, in_frame=True)


def classify_step(
    direction: FloatArray, frame: FloatArray, status: int, min_cosine: float
) -> StopReason:
    """Return RUNNING, or the reason why a streamline cannot take a step.

    Parameters
    ----------
    direction : ndarray of shape (3,)
        In components along the voxel axes, of any length.
    frame : ndarray of shape (3, 3)
        The moving frame. ``e3`` is the incoming direction.
    status : int
        What was found at the point (:meth:`HiddenStates.predict`):
        :data:`dipy_rnn.sampling.OUTSIDE`, ``EMPTY``, ``NOTHING_AHEAD`` or ``DATA``.
    min_cosine : float
        The smallest cosine of the angle between the direction and the tangent.

    Returns
    -------
    reason : StopReason

    Examples
    --------
    >>> from dipy_rnn.sampling import DATA
    >>> classify_step(np.array([1.0, 0, 0]), np.eye(3), DATA, 0.5).name
    'NOTHING_AHEAD'
    """
    if status == OUTSIDE:
        return StopReason.OUTSIDE_IMAGE
    if status == EMPTY:
        return StopReason.NO_DATA
    if status == NOTHING_AHEAD:
        return StopReason.NOTHING_AHEAD
    length = np.linalg.norm(direction)
    if not np.isfinite(length):
        return StopReason.NOT_FINITE
    if length == 0:
        return StopReason.NO_DIRECTION
    if direction / length @ frame[2] < min_cosine:
        return StopReason.NOTHING_AHEAD
    return StopReason.RUNNING
