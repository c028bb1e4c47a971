"""The batched engine, and its face in the manner of DIPY's newer trackers.

Many streamlines advance together, each in a slot of its own: position, frame, hidden
state and the points so far. A slot runs through three phases:

1. *forward* from the seed, with a fresh hidden state;
2. *replay*: the points of the forward half are shown to the network in reverse,
   from the far end back to the seed, which prepares the hidden state;
3. *backward* from the seed, free again.

Then it hands its streamline over and takes the next seed. What happens in a slot
depends on nothing but its seed, its first direction, the data and the model: not on
the other slots, nor on how many there are. (Unless the stopping criterion draws at
random, as DIPY's CMC does: all slots share its generator.)
"""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from dipy_rnn import frames, interpolate, peaks, sh, spaces, stopping
from dipy_rnn.model_file import load_model
from dipy_rnn.stopping import StopReason

DEFAULT_BATCH_SIZE = 1024

_FORWARD, _REPLAY, _BACKWARD, _IDLE = range(4)


class Propagator:
    """A model and the volume it looks at: asks for the next directions of many.

    It holds nothing that belongs to a streamline.

    Parameters
    ----------
    features : dipy_rnn.sh.FeatureVolume
    model : dipy_rnn.model_file.Model
    axes : ndarray of shape (3, 3)
        The voxel axes in RAS+ (:func:`dipy_rnn.spaces.axes`).
    max_angle_deg : float
        Largest turn of one step.
    nbr_threads : int
        0 for every core.

    Raises
    ------
    ModelFileError
        If the features do not fit the model.
    ValueError
        If ``max_angle_deg`` is not above 0 and at most 180.

    Examples
    --------
    >>> fodf = np.zeros((3, 3, 3, 15)); fodf[..., 0] = 1; fodf[..., [3, 10]] = 2, 2.5
    >>> propagator = Propagator(sh.fodf_features(fodf), load_model(), np.eye(3), 60, 1)
    >>> frame = frames.from_tangents(np.array([[0.0, 0.0, 1.0]]), np.eye(3))
    >>> tangents, reasons, state = propagator.turn(
    ...     np.ones((1, 3)), frame, propagator.model.init_state(1))
    >>> tangents.round(3).tolist(), StopReason(reasons[0]).name
    ([[0.0, 0.0, 1.0]], 'RUNNING')
    """

    def __init__(self, features, model, axes, max_angle_deg, nbr_threads):
        if not 0 < max_angle_deg <= 180:
            raise ValueError(
                f"max_angle is {max_angle_deg}; an angle above 0 and up to 180 degrees "
                "is allowed."
            )
        self.model = model
        self.axes = axes
        self.data = model.features(features)
        self.has_peaks = features.kind == "sh"
        self.nbr_threads = interpolate.count_threads(nbr_threads)
        self._handedness = spaces.handedness(axes)
        self._min_cosine = np.cos(np.deg2rad(max_angle_deg))
        self._in_frame = model.metadata.frame == "local"
        self._normalise = model.metadata.normalisation == "power"

    def first_directions(self, points_vox, max_peaks):
        """Find the directions in which streamlines may start.

        Parameters
        ----------
        points_vox : ndarray of shape (N, 3)
            Seeds.
        max_peaks : int
            At most this many for a seed.

        Returns
        -------
        directions : ndarray of shape (N, K, 3)
            Unit vectors along the voxel axes, zeros where there is none. The peaks of
            a fODF; for other features, which have none, what the model answers to an
            incoming direction of length zero.
        """
        if self.has_peaks:
            return peaks.first_directions(
                self.data,
                points_vox,
                self.axes,
                max_peaks=max_peaks,
                nbr_threads=self.nbr_threads,
            )
        features, _ = interpolate.sample(
            self.data,
            points_vox,
            normalise=self._normalise,
            nbr_threads=self.nbr_threads,
        )
        with torch_threads(self.nbr_threads):
            answer, _ = self.model.step(
                features,
                np.zeros((len(features), 3)),
                self.model.init_state(len(features)),
            )
        length = np.linalg.norm(answer, axis=1, keepdims=True)
        found = np.isfinite(length) & (length > 0) & features.any(axis=1)[:, None]
        return np.where(found, answer / np.where(found, length, 1.0), 0.0)[:, None]

    def turn(self, points_vox, frame, state):
        """Ask the model for the next directions.

        Parameters
        ----------
        points_vox : ndarray of shape (N, 3)
        frame : ndarray of shape (N, 3, 3)
            The moving frames; ``e3`` is the incoming direction.
        state : torch.Tensor of shape (layers, N, hidden)

        Returns
        -------
        tangents : ndarray of shape (N, 3)
            Unit vectors along the voxel axes; the incoming one where there is none.
        reasons : ndarray of shape (N,)
            int64 values of :class:`dipy_rnn.stopping.StopReason`, RUNNING or why the
            streamline cannot go on.
        state : torch.Tensor of shape (layers, N, hidden)
        """
        features, inside = interpolate.sample(
            self.data,
            points_vox,
            frame if self._in_frame else None,
            handedness=self._handedness,
            normalise=self._normalise,
            nbr_threads=self.nbr_threads,
        )
        if self._in_frame:
            ahead = np.broadcast_to([0.0, 0.0, 1.0], points_vox.shape)
            answer, state = self.model.step(features, ahead, state)
            answer = frames.to_axes(answer, frame)
        else:
            answer, state = self.model.step(features, frame[:, 2], state)

        length = np.linalg.norm(answer, axis=1)
        finite = np.isfinite(length)
        found = finite & (length > 0)
        tangents = np.where(
            found[:, None], answer / np.where(found, length, 1.0)[:, None], frame[:, 2]
        )
        cosine = np.einsum("ni,ni->n", tangents, frame[:, 2])
        # The first that is true, from the last line up.
        reasons = np.where(cosine < self._min_cosine, StopReason.SHARP_TURN, 0)
        reasons[finite & ~found] = StopReason.NO_DIRECTION
        reasons[~finite] = StopReason.NOT_FINITE
        reasons[~features.any(axis=1)] = StopReason.NO_DATA
        reasons[~inside] = StopReason.OUTSIDE_IMAGE
        return tangents, reasons, state


@dataclass(frozen=True, eq=False)
class Streamline:
    """A tracked streamline, and why it ended.

    Parameters
    ----------
    points_mm : ndarray of shape (M, 3)
        From the backward end over the seed to the forward end.
    seed_index : int
        Place of the seed among those given.
    seed_mm : ndarray of shape (3,)
    forward_stop, backward_stop : StopReason

    Examples
    --------
    >>> line = Streamline(np.zeros((1, 3)), 0, np.zeros(3), StopReason.ENDPOINT,
    ...                   StopReason.SHARP_TURN)
    >>> line.has_valid_ends
    False
    """

    points_mm: np.ndarray
    seed_index: int
    seed_mm: np.ndarray
    forward_stop: StopReason
    backward_stop: StopReason

    @property
    def has_valid_ends(self):
        """Whether both ends are end points or leave the image."""
        return self.forward_stop.is_valid_end and self.backward_stop.is_valid_end


def rnn_tracking(
    seeds,
    stopping_criterion,
    affine,
    *,
    seed_directions=None,
    sh=None,
    pam=None,
    features=None,
    model=None,
    min_len=2,
    max_len=500,
    step_size=0.2,
    max_angle=60.0,
    basis_type=None,
    legacy=True,
    nbr_threads=0,
    random_seed=0,
    seed_buffer_fraction=1.0,
    return_all=True,
    save_seeds=False,
    batch_size=DEFAULT_BATCH_SIZE,
    device=None,
):
    """Track streamlines with a recurrent network.

    The keywords are those of :func:`dipy.tracking.tracker.deterministic_tracking`.

    Parameters
    ----------
    seeds : array_like of shape (N, 3)
        Seed points in mm.
    stopping_criterion : dipy.tracking.stopping_criterion.StoppingCriterion
        Says where tracking ends.
    affine : array_like of shape (4, 4)
        Voxel to mm, without shear.
    seed_directions : array_like of shape (N, 3), optional
        First directions along the voxel axes. If None, the largest peak of the fODF
        at each seed (:meth:`Propagator.first_directions`). Seeds outside the image,
        without a peak or with a direction of length zero give no streamline.
    sh : array_like of shape (X, Y, Z, C), optional
        Spherical harmonics of the fODF, along the voxel axes. Exactly one of ``sh``,
        ``pam`` and ``features`` must be given.
    pam : dipy.direction.peaks.PeaksAndMetrics, optional
        Whose ``shm_coeff`` is used; the basis is found out.
    features : dipy_rnn.sh.FeatureVolume, optional
        For models that take something else, or SH in scanner axes.
    model : str, Path or dipy_rnn.model_file.Model, optional
        Name of a shipped model or a model file; ``"default"`` if None.
    min_len, max_len : float, optional
        Streamlines shorter or longer than this (mm, both halves) are discarded.
    step_size : float, optional
        Step in mm.
    max_angle : float, optional
        A streamline ends where a step would turn by more (degrees).
    basis_type : str, optional
        Basis of ``sh``: ``"descoteaux07"`` (also for None) or ``"tournier07"``.
    legacy : bool, optional
        Whether the basis is DIPY's legacy one.
    nbr_threads : int, optional
        0 for every core. The streamlines do not depend on it.
    random_seed : int, optional
        For stopping criteria that draw at random (CMC); 0 leaves their generator
        as it is. They draw in the order in which points come up, so with such a
        criterion streamlines do depend on ``batch_size`` and on the other seeds.
        Nothing else is random.
    seed_buffer_fraction : float, optional
        Share of the seeds whose first directions are found, and held, at a time.
    return_all : bool, optional
        False keeps the streamlines alone whose ends both met the stopping criterion
        as end points or left the image.
    save_seeds : bool, optional
        Yield (streamline, seed) instead of the streamline.
    batch_size : int, optional
        How many streamlines advance together. They do not depend on it.
    device : str, optional
        Where the network runs: ``"cpu"`` (also for None) or ``"cuda"``. A loaded
        ``model`` stays where it is.

    Returns
    -------
    streamlines : generator
        Of ndarrays of shape (M, 3) in mm, in the order of the seeds; or of tuples
        with the seed in mm.

    Raises
    ------
    ValueError
        If an argument is not as said; before anything is tracked.

    Examples
    --------
    >>> from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> phantom = crossing_phantom(90)
    >>> streamlines = rnn_tracking(
    ...     phantom.streamlines(2)[0][0][50:52],
    ...     BinaryStoppingCriterion(phantom.mask()),
    ...     phantom.affine,
    ...     sh=phantom.fodf(),
    ...     step_size=1.0)
    >>> len(list(streamlines))
    2
    """
    tracked = track(
        seeds,
        stopping_criterion,
        affine,
        seed_directions=seed_directions,
        features=_one_of(sh, pam, features, basis_type, legacy, affine),
        model=model,
        max_len=max_len,
        step_size=step_size,
        max_angle=max_angle,
        nbr_threads=nbr_threads,
        random_seed=random_seed,
        seed_buffer_fraction=seed_buffer_fraction,
        batch_size=batch_size,
        device=device,
    )
    min_points, max_points = length_limits(min_len, max_len, step_size)
    return (
        (line.points_mm, line.seed_mm) if save_seeds else line.points_mm
        for line in tracked
        if min_points <= len(line.points_mm) <= max_points
        and (return_all or line.has_valid_ends)
    )


def track(
    seeds,
    stopping_criterion,
    affine,
    *,
    features,
    seed_directions=None,
    model=None,
    max_len=500,
    step_size=0.2,
    max_angle=60.0,
    nbr_threads=0,
    random_seed=0,
    seed_buffer_fraction=1.0,
    batch_size=DEFAULT_BATCH_SIZE,
    device=None,
):
    """Track streamlines and tell why each ended; nothing is discarded.

    :func:`rnn_tracking` with the records behind its streamlines. Parameters are
    those of the same names there.

    Parameters
    ----------
    seeds, stopping_criterion, affine, features, seed_directions, model, max_len,
    step_size, max_angle, nbr_threads, random_seed, seed_buffer_fraction, batch_size,
    device
        See :func:`rnn_tracking`. A streamline longer than ``max_len`` is cut off
        one point beyond it.

    Returns
    -------
    streamlines : generator of Streamline
        In the order of the seeds.

    Raises
    ------
    ValueError
        If an argument is not as said; before anything is tracked.

    Examples
    --------
    >>> from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.sh import fodf_features
    >>> phantom = crossing_phantom(90)
    >>> line = next(track(
    ...     phantom.streamlines(1)[0][0][50:51],
    ...     BinaryStoppingCriterion(phantom.mask()),
    ...     phantom.affine,
    ...     features=fodf_features(phantom.fodf()),
    ...     step_size=1.0))
    >>> line.forward_stop.name
    'ENDPOINT'
    """
    affine = spaces.check_affine(affine)
    seeds = _points(seeds, "seeds")
    if seed_directions is not None:
        seed_directions = _points(seed_directions, "seed_directions")
        if len(seed_directions) != len(seeds):
            raise ValueError(
                f"seed_directions has {len(seed_directions)} rows and seeds "
                f"{len(seeds)}: give one direction for each seed."
            )
    if not callable(getattr(stopping_criterion, "check_point", None)):
        raise ValueError(
            f"stopping_criterion is of type {type(stopping_criterion).__name__}; one "
            "of DIPY's criteria is needed (dipy.tracking.stopping_criterion)."
        )
    _, max_points = length_limits(0, max_len, step_size)
    if max_points < 1:
        raise ValueError(f"max_len is {max_len}; it must be at least step_size (mm).")
    if not 0 < seed_buffer_fraction <= 1:
        raise ValueError(
            f"seed_buffer_fraction is {seed_buffer_fraction}; a share above 0 and up "
            "to 1 is allowed."
        )
    if batch_size < 1 or int(batch_size) != batch_size:
        raise ValueError(
            f"batch_size is {batch_size}; a whole number from 1 is needed."
        )
    if random_seed < 0:
        raise ValueError(f"random_seed is {random_seed}; 0 or more is needed.")
    nbr_threads = interpolate.count_threads(nbr_threads)
    model = load_model(model, device=device)
    model.check_step(step_size)
    propagator = Propagator(
        features, model, spaces.axes(affine), max_angle, nbr_threads
    )
    return _track(
        propagator,
        stopping_criterion,
        seeds,
        seed_directions,
        affine,
        step_mm=float(step_size),
        max_points=max_points,
        random_seed=random_seed,
        portion=max(1, int(np.ceil(seed_buffer_fraction * len(seeds)))),
        n_slots=int(batch_size),
    )


def length_limits(min_len, max_len, step_size):
    """Turn lengths in mm into numbers of points, as DIPY's newer trackers do.

    Parameters
    ----------
    min_len, max_len : float
        Length of a streamline in mm.
    step_size : float
        Step in mm.

    Returns
    -------
    min_points, max_points : int

    Raises
    ------
    ValueError
        If ``step_size`` is not above 0, ``min_len`` negative or above ``max_len``, or
        one of them not finite.

    Notes
    -----
    What is counted are points, one more than steps: a streamline of n points is kept
    by ``min_len = n * step_size``, though it is one step shorter.

    Examples
    --------
    >>> length_limits(2, 500, 0.5)
    (4, 1000)
    """
    if not 0 < step_size < np.inf:
        raise ValueError(f"step_size is {step_size}; a step above 0 mm is needed.")
    if not 0 <= min_len <= max_len < np.inf:
        raise ValueError(
            f"min_len is {min_len} and max_len {max_len}; 0 <= min_len <= max_len is "
            "needed (mm)."
        )
    return int(min_len / step_size), int(max_len / step_size)


def _one_of(shcoeff, pam, features, basis_type, legacy, affine):
    """Make a feature volume of the one that is given."""
    given = [
        n
        for n, v in (("sh", shcoeff), ("pam", pam), ("features", features))
        if v is not None
    ]
    if len(given) != 1:
        raise ValueError(
            f"Exactly one of sh, pam and features is needed; "
            f"given: {', '.join(given) or 'none'}."
        )
    if shcoeff is not None:
        return sh.fodf_features(shcoeff, basis_type=basis_type, legacy=legacy)
    if pam is not None:
        theirs = getattr(pam, "affine", None)
        if theirs is not None and not np.allclose(theirs, affine, atol=1e-3):
            raise ValueError(
                "pam.affine and affine differ; resample the fODF, or the images of the "
                "stopping criterion and of the seeds, onto one grid."
            )
        return sh.pam_features(pam)
    return features


def _points(points, name):
    points = np.array(points, dtype=np.float64)
    if points.size == 0:
        points = points.reshape(-1, 3)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"{name} has the shape {points.shape}; (N, 3) is needed.")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} holds NaN or infinity.")
    return points


def _track(
    propagator,
    stopping_criterion,
    seeds_mm,
    directions,
    affine,
    *,
    step_mm,
    max_points,
    random_seed,
    portion,
    n_slots,
):
    """Track portion by portion, in the order of the seeds."""
    if random_seed:
        from dipy.utils import fast_numpy  # criteria draw from this generator

        fast_numpy.seed(random_seed)
    for start in range(0, len(seeds_mm), portion):
        seeds_vox = spaces.to_voxels(seeds_mm[start : start + portion], affine)
        if directions is None:
            first = propagator.first_directions(seeds_vox, 1)[:, 0]
        else:
            first = directions[start : start + portion]
        length = np.linalg.norm(first, axis=1)
        limits = np.array(propagator.data.shape[:3]) - 0.5
        inside = ((seeds_vox >= -0.5) & (seeds_vox < limits)).all(axis=1)
        kept = np.flatnonzero(inside & (length > 0))
        slots = _Slots(
            propagator,
            stopping_criterion,
            np.ascontiguousarray(seeds_vox[kept]),
            first[kept] / length[kept, None],
            step_mm / spaces.voxel_sizes(affine),
            max_points,
            n_slots,
        )
        for index, points_vox, forward_stop, backward_stop in slots.run():
            seed_index = int(start + kept[index])
            yield Streamline(
                spaces.to_mm(points_vox, affine),
                seed_index,
                seeds_mm[seed_index],
                forward_stop,
                backward_stop,
            )


class _Slots:
    """The streamlines that are on their way, one row of every array each."""

    def __init__(
        self,
        propagator,
        criterion,
        seeds_vox,
        directions,
        step_vox,
        max_points,
        n_slots,
    ):
        n = min(n_slots, len(seeds_vox))
        self.propagator = propagator
        self.criterion = criterion
        self.seeds_vox = seeds_vox
        self.directions = directions
        self.step_vox = step_vox
        self.max_points = max_points
        self.next_seed = 0
        self.index = np.zeros(n, dtype=int)
        self.phase = np.full(n, _IDLE)
        self.position = np.zeros((n, 3))
        self.frame = np.zeros((n, 3, 3))
        self.state = propagator.model.init_state(n)
        # A streamline's points: the seed, its forward half, then its backward half.
        self.points = np.empty((n, min(256, max_points + 2), 3))
        self.n_points = np.zeros(n, dtype=int)
        self.n_forward = np.zeros(n, dtype=int)
        self.replayed = np.zeros(n, dtype=int)
        self.forward_stop = np.zeros(n, dtype=int)

    def run(self):
        """Yield (index, points_vox, forward_stop, backward_stop) by index."""
        waiting, due = {}, 0
        self._refill(np.arange(len(self.phase)))
        while due < len(self.seeds_vox):
            with torch_threads(self.propagator.nbr_threads):
                while due not in waiting:
                    for finished in self._step():
                        waiting[finished[0]] = finished
            while due in waiting:
                yield waiting.pop(due)
                due += 1

    def _step(self):
        """Advance every slot by one point; return the streamlines that are done."""
        tangents, reasons, self.state = self.propagator.turn(
            self.position, self.frame, self.state
        )
        replay = np.flatnonzero(self.phase == _REPLAY)
        if len(replay):
            here = self.points[replay, self.replayed[replay]]
            before = self.points[replay, self.replayed[replay] - 1]
            tangents[replay] = _unit((before - here) / self.step_vox)
            reasons[replay] = StopReason.RUNNING

        position = self.position + tangents * self.step_vox
        free = (self.phase == _FORWARD) | (self.phase == _BACKWARD)
        going = np.flatnonzero((reasons == StopReason.RUNNING) & free)
        reasons[going] = stopping.check_points(self.criterion, position[going])

        # Those that go on: a frame at the new point, and the point itself.
        move = np.flatnonzero((reasons == StopReason.RUNNING) & (self.phase != _IDLE))
        self.frame[move] = frames.transport(self.frame[move], tangents[move])
        self.position[move] = position[move]
        if len(replay):
            self.replayed[replay] -= 1
            self.position[replay] = self.points[replay, self.replayed[replay]]
            self.phase[replay[self.replayed[replay] == 0]] = _BACKWARD
        grown = move[free[move]]
        self._append(grown)
        reasons[grown[self.n_points[grown] > self.max_points]] = StopReason.MAX_LENGTH

        stopped = np.flatnonzero(free & (reasons != StopReason.RUNNING))
        forward = stopped[self.phase[stopped] == _FORWARD]
        self.forward_stop[forward] = reasons[forward]
        self.n_forward[forward] = self.n_points[forward]
        done = (self.phase[stopped] == _BACKWARD) | (
            reasons[stopped] == StopReason.MAX_LENGTH
        )
        self._turn_back(stopped[~done])
        finished = [self._collect(row, reasons[row]) for row in stopped[done]]
        self._refill(stopped[done])
        return finished

    def _append(self, rows):
        if len(rows) and self.n_points[rows].max() >= self.points.shape[1]:
            more = min(self.points.shape[1], self.max_points + 2 - self.points.shape[1])
            self.points = np.concatenate(
                [self.points, np.empty((len(self.points), more, 3))], axis=1
            )
        self.points[rows, self.n_points[rows]] = self.position[rows]
        self.n_points[rows] += 1

    def _turn_back(self, rows):
        """From the forward half to the replay of it, with a fresh state."""
        self.frame[rows] = frames.turned_round(self.frame[rows])
        self.replayed[rows] = self.n_forward[rows] - 1
        self.position[rows] = self.points[rows, self.replayed[rows]]
        self.phase[rows] = np.where(self.replayed[rows] > 0, _REPLAY, _BACKWARD)
        self._reset_state(rows)

    def _collect(self, row, reason):
        n_forward, n_points = self.n_forward[row], self.n_points[row]
        backward = self.points[row, n_forward:n_points][::-1]
        points_vox = np.concatenate([backward, self.points[row, :n_forward]])
        return (
            int(self.index[row]),
            points_vox,
            StopReason(self.forward_stop[row]),
            StopReason(reason),
        )

    def _refill(self, rows):
        """Give the next seeds to free slots, and drop slots for which none is left."""
        taken = rows[: len(self.seeds_vox) - self.next_seed]
        index = self.next_seed + np.arange(len(taken))
        self.next_seed += len(taken)
        self.index[taken] = index
        self.phase[taken] = _FORWARD
        self.position[taken] = self.points[taken, 0] = self.seeds_vox[index]
        self.n_points[taken] = 1
        self.frame[taken] = frames.from_tangents(
            self.directions[index], self.propagator.axes
        )
        self._reset_state(taken)
        self.phase[rows[len(taken) :]] = _IDLE
        busy = np.flatnonzero(self.phase != _IDLE)
        if len(busy) < 0.75 * len(self.phase):
            for name in (
                "index",
                "phase",
                "position",
                "frame",
                "points",
                "n_points",
                "n_forward",
                "replayed",
                "forward_stop",
            ):
                setattr(self, name, getattr(self, name)[busy])
            self.state = self.state[:, torch.from_numpy(busy)]

    def _reset_state(self, rows):
        if len(rows):
            self.state[:, torch.from_numpy(rows)] = 0.0


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@contextmanager
def torch_threads(nbr_threads):
    """Let torch use so many threads; its setting is global, so it is put back.

    Parameters
    ----------
    nbr_threads : int
        1 or more.

    Examples
    --------
    >>> before = torch.get_num_threads()
    >>> with torch_threads(1):
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    before = torch.get_num_threads()
    torch.set_num_threads(nbr_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
