# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""The recurrent propagator in compiled code, from the points to the directions.

The twin of :class:`dipy_rnn.model.RecurrentPropagator`, with its weights, for the
engine: a block of ``BLOCK`` streamlines goes through sampling, rotation, compasses,
layers and answer while all of it lies in the cache. Nothing in a block depends on
what else is in it, so that a streamline's answer is the same, bit for bit, however
many there are and wherever it lies among them.
"""

from libc.math cimport sqrtf
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

import numpy as np

from dipy_rnn._interp cimport BLOCK, Turns, see, turns_of

cdef extern from "_lanes.h":
    enum:
        PANEL
    ctypedef void wide_void
    struct layer:
        const float* weights
        const float* bias
        Py_ssize_t n_in
        Py_ssize_t n_out
    void dense(const layer* weights, const float* x, float* out) noexcept nogil
    void gru_gates(
        const float* gates, const float* seen, const float* remembered,
        Py_ssize_t n, float* state) noexcept nogil
    void leaky(Py_ssize_t n, float* x) noexcept nogil

cdef enum:
    # The layers lie in a list: the input, those deeper, these three for each layer of
    # the GRU, then where both join and the head.
    GATES = 0
    SEEN = 1
    REMEMBERED = 2
    PER_LAYER = 3


cdef wide_void think(
    const layer* layers, Py_ssize_t depth, Py_ssize_t n_layers, Py_ssize_t hidden,
    const float* seen, float* state, float* work, float* factors
) noexcept nogil:
    """Take a block from what is seen to factors, and its state along."""
    cdef:
        Py_ssize_t rows = hidden * BLOCK
        # A layer may write up to PANEL rows more than it has.
        Py_ssize_t room = (hidden + PANEL) * BLOCK
        float* x = work
        float* pair = x + room  # what is seen, and what is remembered
        float* other = pair + 2 * room
        float* gates = other + room
        float* candidate = gates + 2 * room
        float* remembered = candidate + room
        const layer* gru
        Py_ssize_t i, k

    dense(&layers[0], seen, x)
    leaky(hidden, x)
    for k in range(depth):
        dense(&layers[1 + k], x, other)
        leaky(hidden, other)
        for i in range(rows):
            x[i] += other[i]
    layers += 1 + depth
    memcpy(pair, x, rows * sizeof(float))
    for k in range(n_layers):
        gru = layers + PER_LAYER * k
        memcpy(pair + rows, state + k * rows, rows * sizeof(float))
        dense(&gru[GATES], pair, gates)
        dense(&gru[SEEN], pair, candidate)
        dense(&gru[REMEMBERED], pair + rows, remembered)
        gru_gates(gates, candidate, remembered, hidden, state + k * rows)
        memcpy(pair, state + k * rows, rows * sizeof(float))
    layers += PER_LAYER * n_layers
    memcpy(pair + rows, pair, rows * sizeof(float))
    memcpy(pair, x, rows * sizeof(float))
    dense(&layers[0], pair, other)
    leaky(hidden, other)
    dense(&layers[1], other, factors)


cdef wide_void steer(
    const float* factors, const float* vectors, Py_ssize_t n_vectors,
    Py_ssize_t n_points, float* directions
) noexcept nogil:
    """Write unit directions in the frames, point by point."""
    cdef:
        float x[BLOCK]
        float y[BLOCK]
        const float* along
        const float* across
        const float* vx
        const float* vy
        float length
        Py_ssize_t k, p

    for p in range(BLOCK):
        x[p] = 0.0
        y[p] = 0.0
    for k in range(n_vectors):
        along = factors + k * BLOCK
        across = factors + (n_vectors + k) * BLOCK
        vx = vectors + k * BLOCK
        vy = vectors + (n_vectors + k) * BLOCK
        for p in range(BLOCK):
            x[p] += along[p] * vx[p] - across[p] * vy[p]
            y[p] += along[p] * vy[p] + across[p] * vx[p]
        if k < n_vectors - 2:  # the compasses are no slopes
            for p in range(BLOCK):
                x[p] += vx[p]
                y[p] += vy[p]
    for p in range(n_points):
        length = sqrtf(x[p] * x[p] + y[p] * y[p] + 1.0)
        directions[3 * p] = x[p] / length
        directions[3 * p + 1] = y[p] / length
        directions[3 * p + 2] = 1.0 / length


cdef class CompiledPropagator:
    """A RecurrentPropagator with the weights it has now.

    Parameters
    ----------
    weights : mapping of str to ndarray
        The module's parameters by name.
    compasses : dipy_rnn.model.Compasses
    depth, layers, hidden : int

    Raises
    ------
    KeyError, ValueError
        If a parameter is missing, or has another shape or type.
    """

    cdef readonly Py_ssize_t depth, layers, hidden
    cdef Py_ssize_t order, n_seen, n_vectors
    cdef float coarse, fade
    cdef float[::1] slope
    cdef layer* network
    cdef object arrays

    def __cinit__(self, weights, compasses, depth, layers, hidden):
        self.depth, self.layers, self.hidden = depth, layers, hidden
        self.order, self.n_seen = compasses.order, compasses.n_seen
        self.n_vectors = compasses.n_vectors
        self.slope, self.coarse = compasses.slope, compasses.coarse
        self.fade = compasses.fade
        self.arrays = []
        self.network = <layer*>malloc(
            (3 + depth + PER_LAYER * layers) * sizeof(layer))
        if self.network == NULL:
            raise MemoryError
        n_factors = 2 * compasses.n_vectors
        self._lay_out(*self._get(weights, "input", "", hidden, compasses.n_seen))
        for k in range(depth):
            self._lay_out(*self._get(weights, f"deeper.{k}", "", hidden, hidden))
        for k in range(layers):
            seen, seen_bias = self._get(weights, "gru", f"_ih_l{k}", 3 * hidden, hidden)
            remembered, remembered_bias = self._get(
                weights, "gru", f"_hh_l{k}", 3 * hidden, hidden)
            gates = slice(0, 2 * hidden)  # PyTorch's order: reset, update, candidate
            candidate = slice(2 * hidden, 3 * hidden)
            self._lay_out(
                np.hstack([seen[gates], remembered[gates]]),
                seen_bias[gates] + remembered_bias[gates])
            self._lay_out(seen[candidate], seen_bias[candidate])
            self._lay_out(remembered[candidate], remembered_bias[candidate])
        self._lay_out(*self._get(weights, "joined", "", hidden, 2 * hidden))
        self._lay_out(*self._get(weights, "head", "", n_factors, hidden))

    def __dealloc__(self):
        free(self.network)

    def _get(self, weights, layer, which, n_out, n_in):
        arrays = ()
        for name, shape in (("weight", (n_out, n_in)), ("bias", (n_out,))):
            name = f"{layer}.{name}{which}"
            array = weights[name]
            if array.shape != shape or array.dtype != np.float32:
                raise ValueError(
                    f"{name} is {array.dtype} of shape {array.shape}, not float32 of "
                    f"shape {shape}")
            arrays += (array,)
        return arrays

    def _lay_out(self, weight, bias):
        """Lay a layer out in panels; rows that fill the last one are zero."""
        n_out, n_in = weight.shape
        padding = -n_out % PANEL
        weight = np.pad(weight, ((0, padding), (0, 0)))
        weight = np.ascontiguousarray(
            weight.reshape(-1, PANEL, n_in).transpose(0, 2, 1))
        bias = np.pad(bias, (0, padding))
        cdef:
            float[:, :, ::1] weight_view = weight
            float[::1] bias_view = bias
            layer* added = self.network + len(self.arrays)
        added.weights = &weight_view[0, 0, 0]
        added.bias = &bias_view[0]
        added.n_in = n_in
        added.n_out = n_out + padding
        self.arrays.append((weight, bias))  # keeps the memory

    def init_state(self, n):
        """Return fresh states: whole blocks of streamlines, side by side."""
        return np.zeros((-(-n // BLOCK), self.layers, self.hidden, BLOCK), np.float32)

    def turn(
        self, const float[:, :, :, ::1] volume, Py_ssize_t volume_order, tuple turns,
        const double[:, ::1] points, const double[:, :, ::1] frames, double handedness,
        float[:, :, :, ::1] state, float[:, ::1] directions, unsigned char[::1] found
    ):
        """Write the next unit directions of many, in their frames; take states along.

        Parameters
        ----------
        volume : array of shape (X, Y, Z, C)
            Coefficients in ``tournier07``, not legacy, of ``volume_order``.
        volume_order : int
            At most that of the network.
        turns : tuple
            :func:`dipy_rnn.interpolate.quarter_turns` of that order.
        points : array of shape (n, 3)
            Voxel coordinates.
        frames : array of shape (n, 3, 3)
        handedness : float
        state : array of shape (n_blocks, layers, hidden, BLOCK)
            Changed in place.
        directions : array of shape (n, 3)
            Written.
        found : array of shape (n,)
            Written: OUTSIDE, EMPTY or DATA.
        """
        cdef:
            Py_ssize_t n_points = points.shape[0]
            Py_ssize_t n_blocks = (n_points + BLOCK - 1) // BLOCK
            Py_ssize_t block, start, n
            Turns tables = turns_of(turns)
            Py_ssize_t n_factors = (2 * self.n_vectors + PANEL) * BLOCK
            Py_ssize_t n_work = 8 * (self.hidden + PANEL) * BLOCK
            float* seen
            float* vectors
            float* factors
            float* work

        seen = <float*>malloc(
            (self.n_seen * BLOCK + 2 * n_factors + n_work) * sizeof(float))
        if seen == NULL:
            raise MemoryError
        with nogil:
            vectors = seen + self.n_seen * BLOCK
            factors = vectors + n_factors
            work = factors + n_factors
            for block in range(n_blocks):
                start = block * BLOCK
                n = min(BLOCK, n_points - start)
                see(
                    volume, &points[start, 0], &frames[start, 0, 0], n, handedness,
                    volume_order, &tables, self.order, &self.slope[0], self.coarse,
                    self.fade, seen, vectors, &found[start])
                think(
                    self.network, self.depth, self.layers, self.hidden, seen,
                    &state[block, 0, 0, 0], work, factors)
                steer(factors, vectors, self.n_vectors, n, &directions[start, 0])
            free(seen)
