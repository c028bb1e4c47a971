# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""The streamlines that are on their way: what a step does to each, in compiled code.

A slot runs through three phases: *forward* from the seed, *replay* of the forward
half from its far end back to the seed, *backward* from the seed. ``engine.py`` is the
face that says what is called when.
"""

from libc.math cimport fmax, isfinite, sqrt
from libc.stdint cimport int64_t, uint64_t

import numpy as np

from dipy_rnn._interp cimport DATA, OUTSIDE

cdef enum:
    FORWARD = 0
    REPLAY = 1
    BACKWARD = 2
    IDLE = 3

cdef enum:  # of dipy_rnn.stopping.StopReason
    RUNNING = 0
    OUTSIDE_IMAGE = 2
    SHARP_TURN = 4
    MAX_LENGTH = 5
    NO_DIRECTION = 6
    NO_DATA = 7
    NOT_FINITE = 8
    NOT_ASKED = -1  # a slot that has nothing to propose


cdef inline double dot(const double* a, const double* b) noexcept nogil:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


cdef inline void carry(double* frame, const double* tangent) noexcept nogil:
    """Carry a frame to a new tangent: :func:`dipy_rnn.frames.transport`."""
    cdef:
        double* e1 = frame
        double* e2 = frame + 3
        double* e3 = frame + 6
        double handedness, along, length
        Py_ssize_t i

    handedness = (
        e2[0] * (e3[1] * e1[2] - e3[2] * e1[1])
        + e2[1] * (e3[2] * e1[0] - e3[0] * e1[2])
        + e2[2] * (e3[0] * e1[1] - e3[1] * e1[0])
    )
    handedness = 1.0 if handedness > 0.0 else -1.0
    along = dot(e1, tangent) / fmax(1.0 + dot(e3, tangent), 1e-9)
    for i in range(3):
        e1[i] -= along * (e3[i] + tangent[i])
    along = dot(e1, tangent)
    for i in range(3):
        e1[i] -= along * tangent[i]
        e3[i] = tangent[i]
    length = sqrt(dot(e1, e1))
    for i in range(3):
        e1[i] /= length
    e2[0] = handedness * (e3[1] * e1[2] - e3[2] * e1[1])
    e2[1] = handedness * (e3[2] * e1[0] - e3[0] * e1[2])
    e2[2] = handedness * (e3[0] * e1[1] - e3[1] * e1[0])


cdef inline int64_t judge(
    const float* answer, const double* frame, unsigned char found, bint in_frame,
    double min_cosine, double* tangent
) noexcept nogil:
    """Turn a network's answer into a unit tangent along the voxel axes, or a reason.

    The incoming tangent stays where there is no new one.
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
    if found == OUTSIDE:
        return OUTSIDE_IMAGE
    if found != DATA:
        return NO_DATA
    if not isfinite(length):
        return NOT_FINITE
    if length == 0.0:
        return NO_DIRECTION
    if dot(tangent, frame + 6) < min_cosine:
        return SHARP_TURN
    return RUNNING


def judge_all(
    const float[:, ::1] answers, const double[:, :, ::1] frames,
    const unsigned char[::1] found, bint in_frame, double min_cosine,
    double[:, ::1] tangents, int64_t[::1] reasons
):
    """Write unit tangents along the voxel axes and reasons of many answers."""
    cdef Py_ssize_t n

    with nogil:
        for n in range(answers.shape[0]):
            reasons[n] = judge(
                &answers[n, 0], &frames[n, 0, 0], found[n], in_frame, min_cosine,
                &tangents[n, 0])


cdef class SlotArrays:
    """A row for each slot in every array; most slots work on a streamline each.

    Parameters
    ----------
    n_slots : int
        More than 0.
    step_vox : array of shape (3,)
        The step along each voxel axis, in voxels.
    to_mm : array of shape (4, 4)
        Applied to the points that are handed over.
    max_points : int
        A streamline of more points is ended.
    max_half : int
        As many points may a half have, the seed included.
    replay_points : int
        At most so many points of the forward half are replayed.
    unidirectional : bool
        Whether there is no backward half.
    """

    cdef:
        const double[::1] step_vox
        const double[:, ::1] to_mm
        Py_ssize_t max_points, max_half, replay_points
        bint unidirectional

    cdef public:
        double[:, ::1] position
        double[:, :, ::1] frame
        # The next point of a slot, why it cannot be one, and its number for criteria
        # that draw at random: 1, 2 .. forward, -1, -2 .. backward.
        double[:, ::1] proposal
        int64_t[::1] reasons, numbers
        uint64_t[::1] seed_keys
        int64_t[::1] index, n_points, n_forward, replayed, forward_stop
        unsigned char[::1] phase
        double[:, ::1] tangent
        # The frame at the point from which the forward half is replayed.
        double[:, :, ::1] far_frame
        # The seed, the forward half, then the backward half.
        double[:, :, ::1] points

    def __init__(
        self, n_slots, step_vox, to_mm, max_points, max_half, replay_points,
        unidirectional
    ):
        self.step_vox, self.to_mm = step_vox, to_mm
        self.max_points, self.max_half = max_points, max_half
        self.replay_points = replay_points
        self.unidirectional = unidirectional
        self.position = np.zeros((n_slots, 3))
        self.proposal = np.zeros((n_slots, 3))
        self.tangent = np.zeros((n_slots, 3))
        self.frame = np.tile(np.eye(3), (n_slots, 1, 1))
        self.far_frame = np.tile(np.eye(3), (n_slots, 1, 1))
        self.points = np.empty((n_slots, min(256, max_points + 2), 3))
        self.reasons = np.full(n_slots, NOT_ASKED, np.int64)
        self.numbers = np.zeros(n_slots, np.int64)
        self.seed_keys = np.zeros(n_slots, np.uint64)
        self.index = np.zeros(n_slots, np.int64)
        self.n_points = np.zeros(n_slots, np.int64)
        self.n_forward = np.zeros(n_slots, np.int64)
        self.replayed = np.zeros(n_slots, np.int64)
        self.forward_stop = np.zeros(n_slots, np.int64)
        self.phase = np.full(n_slots, IDLE, np.uint8)

    def __len__(self):
        return self.phase.shape[0]

    def busy(self):
        """Return the slots that have a streamline."""
        return np.flatnonzero(np.asarray(self.phase) != IDLE)

    def keep(self, rows):
        """Drop all slots but these."""
        for name in (
            "position", "proposal", "tangent", "frame", "far_frame", "points",
            "reasons", "numbers", "seed_keys", "index", "n_points", "n_forward",
            "replayed", "forward_stop", "phase",
        ):
            setattr(self, name, np.asarray(getattr(self, name))[rows])

    def admit(
        self, const int64_t[::1] rows, const int64_t[::1] index,
        const double[:, ::1] seeds, const double[:, :, ::1] frames,
        const uint64_t[::1] seed_keys
    ):
        """Begin a streamline in each of some slots.

        Parameters
        ----------
        rows : array of shape (k,)
            The slots.
        index : array of shape (k,)
            The place of each one's seed among those given.
        seeds : array of shape (k, 3)
            Voxel coordinates.
        frames : array of shape (k, 3, 3)
            Around the first directions.
        seed_keys : array of shape (k,)
            For criteria that draw at random.
        """
        cdef:
            Py_ssize_t k
            int64_t row

        for k in range(rows.shape[0]):
            row = rows[k]
            self.phase[row] = FORWARD
            self.index[row] = index[k]
            self.seed_keys[row] = seed_keys[k]
            self.position[row] = seeds[k]
            self.points[row, 0] = seeds[k]
            self.n_points[row] = 1
            self.frame[row] = frames[k]
            self.far_frame[row] = frames[k]

    def propose(
        self, const float[:, ::1] answers, const unsigned char[::1] found,
        bint in_frame, double min_cosine
    ):
        """Find where every slot would go next, from the network's answers.

        ``reasons`` is RUNNING where a criterion has to be asked about ``proposal``.
        """
        cdef Py_ssize_t n

        with nogil:
            for n in range(self.phase.shape[0]):
                if self.phase[n] == IDLE or self.phase[n] == REPLAY:
                    self.reasons[n] = NOT_ASKED
                    continue
                self.reasons[n] = judge(
                    &answers[n, 0], &self.frame[n, 0, 0], found[n], in_frame,
                    min_cosine, &self.tangent[n, 0])
                self._step(n)

    cdef void _step(self, Py_ssize_t n) noexcept nogil:
        cdef Py_ssize_t k

        for k in range(3):
            self.proposal[n, k] = (
                self.position[n, k] + self.tangent[n, k] * self.step_vox[k])
        self.numbers[n] = (
            self.n_points[n] if self.phase[n] == FORWARD
            else self.n_forward[n] - self.n_points[n] - 1)

    def settle(self, int64_t[::1] reset, int64_t[::1] finished):
        """Take the steps that are allowed, and turn to the next phase where not.

        Parameters
        ----------
        reset : array of shape (n_slots,)
            Written: slots whose hidden state has to become fresh.
        finished : array of shape (n_slots,)
            Written: slots whose streamline is complete, for :meth:`collect`.

        Returns
        -------
        n_reset, n_finished : int
        """
        cdef:
            Py_ssize_t n, n_reset = 0, n_finished = 0
            bint ended, too_long

        for n in range(self.n_points.shape[0]):
            if self.n_points[n] >= self.points.shape[1]:
                self._grow()
        with nogil:
            for n in range(self.phase.shape[0]):
                if self.phase[n] == IDLE:
                    continue
                if self.phase[n] == REPLAY:
                    self._replay(n)
                    continue
                too_long = False
                if self.reasons[n] == RUNNING:
                    self._append(n)
                    too_long = self.n_points[n] > self.max_points
                    if too_long or self._half(n) >= self.max_half:
                        self.reasons[n] = MAX_LENGTH
                if self.reasons[n] == RUNNING:
                    continue
                ended = self.phase[n] == BACKWARD or too_long or self.unidirectional
                if self.phase[n] == FORWARD:
                    self.forward_stop[n] = self.reasons[n]
                    self.n_forward[n] = self.n_points[n]
                if ended:
                    self.phase[n] = IDLE
                    finished[n_finished] = n
                    n_finished += 1
                else:
                    self._turn_back(n)
                reset[n_reset] = n
                n_reset += 1
        return n_reset, n_finished

    cdef _grow(self):
        more = min(self.points.shape[1], self.max_points + 2 - self.points.shape[1])
        room = np.empty((len(self), more, 3))
        self.points = np.concatenate([self.points, room], axis=1)

    cdef Py_ssize_t _half(self, Py_ssize_t n) noexcept nogil:
        """Count the points of the half that is on its way, its seed included."""
        if self.phase[n] == FORWARD:
            return self.n_points[n]
        return self.n_points[n] - self.n_forward[n] + 1

    cdef void _append(self, Py_ssize_t n) noexcept nogil:
        cdef Py_ssize_t k

        carry(&self.frame[n, 0, 0], &self.tangent[n, 0])
        for k in range(3):
            self.position[n, k] = self.proposal[n, k]
            self.points[n, self.n_points[n], k] = self.proposal[n, k]
        if self.phase[n] == FORWARD and self.n_points[n] == self.replay_points:
            self._copy_frame(&self.frame[n, 0, 0], &self.far_frame[n, 0, 0])
        self.n_points[n] += 1

    cdef void _copy_frame(self, const double* source, double* target) noexcept nogil:
        cdef Py_ssize_t k

        for k in range(9):
            target[k] = source[k]

    cdef void _turn_back(self, Py_ssize_t n) noexcept nogil:
        """From the forward half to the replay of it: :func:`frames.turned_round`."""
        cdef Py_ssize_t k

        self.replayed[n] = self.n_forward[n] - 1
        if self.replayed[n] > self.replay_points:
            self.replayed[n] = self.replay_points
            self._copy_frame(&self.far_frame[n, 0, 0], &self.frame[n, 0, 0])
        for k in range(3):
            self.frame[n, 1, k] = -self.frame[n, 1, k]
            self.frame[n, 2, k] = -self.frame[n, 2, k]
            self.position[n, k] = self.points[n, self.replayed[n], k]
        self.phase[n] = REPLAY if self.replayed[n] > 0 else BACKWARD

    cdef void _replay(self, Py_ssize_t n) noexcept nogil:
        """One point back towards the seed."""
        cdef:
            double length
            Py_ssize_t k

        self.replayed[n] -= 1
        for k in range(3):
            self.tangent[n, k] = (
                self.points[n, self.replayed[n], k] - self.position[n, k]
            ) / self.step_vox[k]
            self.position[n, k] = self.points[n, self.replayed[n], k]
        length = sqrt(dot(&self.tangent[n, 0], &self.tangent[n, 0]))
        for k in range(3):
            self.tangent[n, k] /= length
        carry(&self.frame[n, 0, 0], &self.tangent[n, 0])
        if self.replayed[n] == 0:
            self.phase[n] = BACKWARD

    def collect(self, const int64_t[::1] rows):
        """Hand streamlines over, each from its backward end to its forward end.

        Parameters
        ----------
        rows : array of shape (k,)
            Of finished slots.

        Returns
        -------
        index, n_points, n_forward : ndarray of shape (k,)
        points_mm : ndarray of shape (sum of n_points, 3)
        forward_stop, backward_stop : ndarray of shape (k,)
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
        cdef Py_ssize_t k

        for k in range(3):
            out[k] = dot(&self.to_mm[k, 0], &self.points[n, i, 0]) + self.to_mm[k, 3]
