# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Kernels: a step of every slot, as in ``reference.py``.

A slot goes through three phases: *forward* from the seed, *warm-up* over the reversed
forward half back to the seed, *backward* from the seed. In each step,
:meth:`SlotArrays.advance` calls the network, computes the next point, calls the
stopping criterion, and takes the step or ends the half.
"""

from libc.math cimport isfinite, sqrt
from libc.stdint cimport int64_t, uint64_t

import numpy as np

from dipy_rnn._interp cimport BLOCK, EMPTY, OUTSIDE
from dipy_rnn._interp cimport NOTHING_AHEAD as STATUS_NOTHING_AHEAD
from dipy_rnn.draws._draws cimport add_all_errors, knots
from dipy_rnn.model.kernels._layers cimport CompiledNetwork, CompiledRun
from dipy_rnn.stopping._criteria cimport Decision
from dipy_rnn._vectors cimport bend, dot, transport

from dipy_rnn.stopping.reasons import StopReason as _StopReason

cdef enum:
    FORWARD = 0
    WARM_UP = 1
    BACKWARD = 2
    IDLE = 3

cdef:
    int64_t RUNNING = _StopReason.RUNNING
    int64_t OUTSIDE_IMAGE = _StopReason.OUTSIDE_IMAGE
    int64_t NOTHING_AHEAD = _StopReason.NOTHING_AHEAD
    int64_t MAX_LENGTH = _StopReason.MAX_LENGTH
    int64_t NO_DIRECTION = _StopReason.NO_DIRECTION
    int64_t NO_DATA = _StopReason.NO_DATA
    int64_t NOT_FINITE = _StopReason.NOT_FINITE
    int64_t NO_PROPOSAL = -1  # the slot is new, or in the warm-up pass


cdef inline int64_t classify_step(
    const float* answer, const double* frame, unsigned char status, bint in_frame,
    double min_cosine, bint has_cone, double* tangent
) noexcept nogil:
    """Write the unit tangent of a model's answer, in components along the voxel axes.

    Return RUNNING, or the reason why the streamline cannot take the step. If the answer
    has no direction, the tangent is the incoming one. With a cone, a tangent outside of
    it is moved to its border. Without a cone, it is a reason to end.
    """
    cdef:
        double length
        Py_ssize_t i, k

    for k in range(3):
        tangent[k] = 0.0 if in_frame else answer[k]
        if in_frame:
            for i in range(3):
                tangent[k] += answer[i] * frame[3 * i + k]
    length = sqrt(dot(tangent, tangent))
    if isfinite(length) and length > 0.0:
        for k in range(3):
            tangent[k] /= length
    else:
        for k in range(3):
            tangent[k] = frame[6 + k]
    if status == OUTSIDE:
        return OUTSIDE_IMAGE
    if status == EMPTY:
        return NO_DATA
    if status == STATUS_NOTHING_AHEAD:
        return NOTHING_AHEAD
    if not isfinite(length):
        return NOT_FINITE
    if length == 0.0:
        return NO_DIRECTION
    if dot(tangent, frame + 6) < min_cosine:
        if not has_cone:
            return NOTHING_AHEAD
        bend(tangent, frame + 6, min_cosine)
    return RUNNING


cdef inline void reset_state(float[:, :, :, ::1] state, Py_ssize_t n) noexcept nogil:
    """Set the state of a streamline to zero."""
    cdef Py_ssize_t layer, i

    for layer in range(state.shape[1]):
        for i in range(state.shape[2]):
            state[n // BLOCK, layer, i, n % BLOCK] = 0.0


cdef class SlotArrays:
    """The slots of a group. Every array has one row for each slot.

    Parameters
    ----------
    n_slots : int
        More than 0.
    config : dipy_rnn.tracking.config.TrackingConfig
    has_cone : bool
        Whether directions outside of the cone are moved to its border.
    """

    cdef:
        const double[::1] step_vox
        const double[:, ::1] affine
        double min_cosine, handedness
        Py_ssize_t max_points, max_half_points, warm_up_points
        bint unidirectional, has_cone
        unsigned char[:, ::1] drawn  # knots of the errors of directions

    cdef public:
        double[:, ::1] position
        double[:, :, ::1] frame
        # The proposed next point. Why the half ends before it, or RUNNING. Its number
        # for draws at random: 1, 2 .. in the forward half, -1, -2 .. in the backward
        # half.
        double[:, ::1] proposal
        int64_t[::1] reasons, numbers
        uint64_t[::1] seed_keys
        int64_t[::1] index, n_points, n_forward, warm_up_left, forward_stop
        unsigned char[::1] phase
        double[:, ::1] tangent
        # The frame at the point where the warm-up pass begins.
        double[:, :, ::1] far_frame
        # The seed, the forward half, then the backward half. The points of the slot n
        # are points[places[n]]: they do not move if slots are dropped.
        double[:, :, ::1] points
        int64_t[::1] places

    def __init__(self, n_slots, config, has_cone):
        self.step_vox, self.affine = config.step_vox, config.affine
        self.has_cone = has_cone
        self.min_cosine = config.min_cosine
        if has_cone:
            self.min_cosine = np.cos(np.deg2rad(config.cone_deg))
        self.max_points = config.max_points
        self.max_half_points = config.max_half_points
        self.warm_up_points = config.warm_up_points
        self.unidirectional = config.unidirectional
        self.position = np.zeros((n_slots, 3))
        self.proposal = np.zeros((n_slots, 3))
        self.tangent = np.zeros((n_slots, 3))
        self.frame = np.tile(np.eye(3), (n_slots, 1, 1))
        self.far_frame = np.tile(np.eye(3), (n_slots, 1, 1))
        self.points = np.empty((n_slots, min(256, self.max_points + 2), 3))
        self.places = np.arange(n_slots, dtype=np.int64)
        self.reasons = np.full(n_slots, NO_PROPOSAL, np.int64)
        self.numbers = np.zeros(n_slots, np.int64)
        self.seed_keys = np.zeros(n_slots, np.uint64)
        self.drawn = np.zeros((n_slots, sizeof(knots)), np.uint8)
        self.index = np.zeros(n_slots, np.int64)
        self.n_points = np.zeros(n_slots, np.int64)
        self.n_forward = np.zeros(n_slots, np.int64)
        self.warm_up_left = np.zeros(n_slots, np.int64)
        self.forward_stop = np.zeros(n_slots, np.int64)
        self.phase = np.full(n_slots, IDLE, np.uint8)

    def __len__(self):
        return self.phase.shape[0]

    def busy(self):
        """Return the slots that hold a streamline."""
        return np.flatnonzero(np.asarray(self.phase) != IDLE)

    def keep(self, rows):
        """Keep some slots, in this order, and drop all others."""
        for name in (
            "position", "proposal", "tangent", "frame", "far_frame", "places",
            "reasons", "numbers", "seed_keys", "index", "n_points", "n_forward",
            "warm_up_left", "forward_stop", "phase",
        ):
            setattr(self, name, np.asarray(getattr(self, name))[rows])

    def admit(
        self, const int64_t[::1] rows, const int64_t[::1] index,
        const double[:, ::1] seeds, const double[:, :, ::1] frames,
        const uint64_t[::1] seed_keys
    ):
        """Start a streamline in some slots.

        Parameters
        ----------
        rows : array of shape (k,)
            The slots.
        index : array of shape (k,)
            Seed indices.
        seeds : array of shape (k, 3)
            Voxel coordinates.
        frames : array of shape (k, 3, 3)
            Moving frames. ``e3`` is the first direction. They have the same handedness
            in all calls.
        seed_keys : array of shape (k,)
            For draws at random.
        """
        cdef:
            Py_ssize_t k
            int64_t row

        if rows.shape[0] and self.handedness == 0.0:
            self.handedness = np.sign(np.linalg.det(frames[0]))
        for k in range(rows.shape[0]):
            row = rows[k]
            self.phase[row] = FORWARD
            self.index[row] = index[k]
            self.seed_keys[row] = seed_keys[k]
            self.position[row] = seeds[k]
            self.points[self.places[row], 0] = seeds[k]
            self.n_points[row] = 1
            self.frame[row] = frames[k]
            self.far_frame[row] = frames[k]

    def advance(
        self, states, decision, evaluate, errors, ends, bint in_frame,
        Py_ssize_t n_steps, Py_ssize_t enough, int64_t[::1] finished
    ):
        """Advance all slots, for some steps or until enough streamlines are finished.

        Other threads can run, except while Python evaluates a network or a criterion.

        Parameters
        ----------
        states : dipy_rnn.tracking.predictor.HiddenStates
            Those with an attribute ``network`` run as a kernel.
        decision : dipy_rnn.stopping._criteria.Decision or None
            The criterion as a kernel.
        evaluate : callable
            Used if there is no ``decision``. It gets proposed points, reasons, keys of
            seeds and numbers of points. It writes the reasons.
        errors : dipy_rnn.draws.DirectionErrors or None
        ends : list of tuple of (int, float, int)
            A column of the answers, its largest value at which streamlines go on, and
            the reason otherwise. Two at most.
        in_frame : bool
            Whether answers are in the moving frames.
        n_steps, enough : int
            Largest numbers of steps and of finished streamlines. (More can finish in
            the same step.) A network that is not a kernel stops at the first one.
        finished : array of shape (n_slots,)
            Output: slots whose streamline is finished, for :meth:`collect`.

        Returns
        -------
        n_done, n_finished : int
            Numbers of steps, and of finished streamlines.
        """
        cdef:
            Py_ssize_t n_slots = self.phase.shape[0], n_ends = len(ends)
            Py_ssize_t n_done = 0, n_finished = 0, n_reset, k, n
            CompiledNetwork network = getattr(states, "network", None)
            CompiledRun run = None
            Decision decide = decision
            bint has_network = network is not None
            bint has_decision = decide is not None
            bint has_errors = errors is not None
            int64_t[::1] reset = np.empty(n_slots, np.int64)
            float[:, :, :, ::1] state
            float[:, ::1] answers
            unsigned char[::1] status
            Py_ssize_t spread = 0
            double scale = 0.0, step = 0.0
            Py_ssize_t columns[2]
            float limits[2]
            int64_t why[2]

        # An idle slot of a network in Python would keep a state that is not zero.
        enough = min(enough, len(self.busy())) if has_network else 1
        if has_network:
            run, state = states.run, states.state
            answers, status = states.answers, states.status
        if has_errors:
            spread, scale = errors.column, errors.scale
            step = errors.step_knots
        for k, (column, limit, reason) in enumerate(ends):
            columns[k], limits[k], why[k] = column, limit, reason
        with nogil:
            while n_done < n_steps and n_finished < enough:
                if not has_network:
                    with gil:
                        answers, status = states.predict(self.position, self.frame)
                elif network.advance(
                        run, &self.position[0, 0], &self.frame[0, 0, 0], n_slots,
                        &state[0, 0, 0, 0], &answers[0, 0], answers.shape[1],
                        &status[0]):
                    with gil:
                        raise MemoryError
                for n in range(n_slots):
                    self._number(n)
                if has_errors:
                    add_all_errors(
                        &answers[0, 0], n_slots, answers.shape[1], spread, scale,
                        &self.seed_keys[0], &self.numbers[0], step,
                        <knots*>&self.drawn[0, 0])
                for n in range(n_slots):
                    self._propose(n, &answers[n, 0], status[n], in_frame)
                    for k in range(n_ends):
                        if (self.reasons[n] == RUNNING
                                and answers[n, columns[k]] > limits[k]):
                            self.reasons[n] = why[k]
                if has_decision:
                    decide.decide(
                        &self.proposal[0, 0], &self.reasons[0], &self.seed_keys[0],
                        &self.numbers[0], n_slots)
                else:
                    with gil:
                        evaluate(
                            np.asarray(self.proposal), np.asarray(self.reasons),
                            np.asarray(self.seed_keys), np.asarray(self.numbers))
                if self._is_full():
                    with gil:
                        self._grow()
                n_reset = 0
                for n in range(n_slots):
                    if self.phase[n] == IDLE:
                        # The network has changed its state. It must be zero when the
                        # next streamline starts.
                        if has_network:
                            reset_state(state, n)
                    elif self._settle(n):
                        reset[n_reset] = n
                        n_reset += 1
                        if self.phase[n] == IDLE:
                            finished[n_finished] = n
                            n_finished += 1
                if has_network:
                    for k in range(n_reset):
                        reset_state(state, reset[k])
                elif n_reset:
                    with gil:
                        states.reset(np.asarray(reset)[:n_reset])
                n_done += 1
        return n_done, n_finished

    cdef void _number(self, Py_ssize_t n) noexcept nogil:
        """Write the number of the next point of a slot."""
        self.numbers[n] = (
            self.n_points[n] if self.phase[n] == FORWARD
            else self.n_forward[n] - self.n_points[n] - 1)

    cdef void _propose(
        self, Py_ssize_t n, const float* answer, unsigned char status, bint in_frame
    ) noexcept nogil:
        """Write the proposed next point of a slot.

        Its reason becomes RUNNING if the criterion has to evaluate this point.
        """
        cdef Py_ssize_t k

        if self.phase[n] == IDLE:
            return  # until it is collected, it keeps the reason of its last half
        if self.phase[n] == WARM_UP:
            self.reasons[n] = NO_PROPOSAL
            return
        self.reasons[n] = classify_step(
            answer, &self.frame[n, 0, 0], status, in_frame, self.min_cosine,
            self.has_cone, &self.tangent[n, 0])
        for k in range(3):
            self.proposal[n, k] = (
                self.position[n, k] + self.tangent[n, k] * self.step_vox[k])

    cdef bint _settle(self, Py_ssize_t n) noexcept nogil:
        """Take the step of a busy slot if it is allowed. Otherwise finish its phase.

        A slot in the warm-up pass goes one point back towards the seed. Return whether
        the hidden state must be reset: at the end of a half.
        """
        cdef bint too_long = False

        if self.phase[n] == WARM_UP:
            self._warm_up(n)
            return False
        if self.reasons[n] == RUNNING:
            self._append(n)
            too_long = self.n_points[n] > self.max_points
            if too_long or self._half(n) >= self.max_half_points:
                self.reasons[n] = MAX_LENGTH
        if self.reasons[n] == RUNNING:
            return False
        if self.phase[n] == FORWARD:
            self.forward_stop[n] = self.reasons[n]
            self.n_forward[n] = self.n_points[n]
        if self.phase[n] == BACKWARD or too_long or self.unidirectional:
            self.phase[n] = IDLE
        else:
            self._turn_back(n)
        return True

    cdef bint _is_full(self) noexcept nogil:
        """Tell whether a slot has no room for its next point."""
        cdef Py_ssize_t n

        for n in range(self.n_points.shape[0]):
            if self.n_points[n] >= self.points.shape[1]:
                return True
        return False

    cdef _grow(self):
        more = min(self.points.shape[1], self.max_points + 2 - self.points.shape[1])
        room = np.empty((self.points.shape[0], more, 3))
        self.points = np.concatenate([self.points, room], axis=1)

    cdef Py_ssize_t _half(self, Py_ssize_t n) noexcept nogil:
        """Return the number of points of the present half, the seed included."""
        if self.phase[n] == FORWARD:
            return self.n_points[n]
        return self.n_points[n] - self.n_forward[n] + 1

    cdef void _append(self, Py_ssize_t n) noexcept nogil:
        cdef Py_ssize_t k

        transport(&self.frame[n, 0, 0], &self.tangent[n, 0], self.handedness)
        for k in range(3):
            self.position[n, k] = self.proposal[n, k]
            self.points[self.places[n], self.n_points[n], k] = self.proposal[n, k]
        if self.phase[n] == FORWARD and self.n_points[n] == self.warm_up_points:
            self._copy_frame(&self.frame[n, 0, 0], &self.far_frame[n, 0, 0])
        self.n_points[n] += 1

    cdef void _copy_frame(self, const double* source, double* target) noexcept nogil:
        cdef Py_ssize_t k

        for k in range(9):
            target[k] = source[k]

    cdef void _turn_back(self, Py_ssize_t n) noexcept nogil:
        """Go to the first point of the warm-up pass, with the reversed frame there."""
        cdef Py_ssize_t k

        self.warm_up_left[n] = self.n_forward[n] - 1
        if self.warm_up_left[n] > self.warm_up_points:
            self.warm_up_left[n] = self.warm_up_points
            self._copy_frame(&self.far_frame[n, 0, 0], &self.frame[n, 0, 0])
        for k in range(3):
            self.frame[n, 1, k] = -self.frame[n, 1, k]
            self.frame[n, 2, k] = -self.frame[n, 2, k]
            self.position[n, k] = self.points[self.places[n], self.warm_up_left[n], k]
        self.phase[n] = WARM_UP if self.warm_up_left[n] > 0 else BACKWARD

    cdef void _warm_up(self, Py_ssize_t n) noexcept nogil:
        """Go one point back towards the seed."""
        cdef:
            double length, point
            Py_ssize_t k

        self.warm_up_left[n] -= 1
        for k in range(3):
            point = self.points[self.places[n], self.warm_up_left[n], k]
            self.tangent[n, k] = (point - self.position[n, k]) / self.step_vox[k]
            self.position[n, k] = point
        length = sqrt(dot(&self.tangent[n, 0], &self.tangent[n, 0]))
        for k in range(3):
            self.tangent[n, k] /= length
        transport(&self.frame[n, 0, 0], &self.tangent[n, 0], self.handedness)
        if self.warm_up_left[n] == 0:
            self.phase[n] = BACKWARD

    def collect(self, const int64_t[::1] rows):
        """Return finished streamlines, each from its backward end to its forward end.

        Parameters
        ----------
        rows : array of shape (k,)
            Finished slots.

        Returns
        -------
        arrays : tuple of ndarray
            The fields of :class:`dipy_rnn.tracking.records.FinishedStreamlines`.
        """
        n_points = np.asarray(self.n_points)[rows]
        points_mm = np.empty((n_points.sum(), 3))
        cdef:
            double[:, ::1] out = points_mm
            Py_ssize_t n, k, i, at = 0

        with nogil:
            for k in range(rows.shape[0]):
                n = rows[k]
                for i in range(self.n_points[n] - 1, self.n_forward[n] - 1, -1):
                    self._write(n, i, &out[at, 0])
                    at += 1
                for i in range(self.n_forward[n]):
                    self._write(n, i, &out[at, 0])
                    at += 1
        return (
            np.asarray(self.index)[rows], n_points, np.asarray(self.n_forward)[rows],
            points_mm, np.asarray(self.forward_stop)[rows],
            np.asarray(self.reasons)[rows])

    cdef void _write(self, Py_ssize_t n, Py_ssize_t i, double* out) noexcept nogil:
        cdef:
            const double* point = &self.points[self.places[n], i, 0]
            Py_ssize_t k

        for k in range(3):
            out[k] = dot(&self.affine[k, 0], point) + self.affine[k, 3]
