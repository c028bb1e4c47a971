# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""The network of ``moving_frame.py`` as a kernel, from points to directions.

It computes the same as :class:`dipy_rnn.model.MovingFrameGRU`, with the same weights. A
block of ``BLOCK`` streamlines goes through sampling, rotation, invariants, layers and
direction while its values stay in the cache. Each streamline has a place (a lane) in a
block, and lanes never mix. The result of a streamline is therefore the same, bit for
bit, for any number of streamlines and any place among them.
"""

from libc.math cimport sqrt, sqrtf
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

import numpy as np

from dipy_rnn._interp cimport (
    BLOCK, MAX_COEFFS, MAX_ORDER, Turns, multiples, rotate_points, sample_points,
    turns_of,
)

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
        const float* gates, const float* from_input, const float* from_state,
        Py_ssize_t n, float* state) noexcept nogil
    void leaky(Py_ssize_t n, float* x) noexcept nogil

cdef enum:
    # Layers are stored in this sequence: the input layer, the deeper layers, these
    # three for each GRU layer, the layer that joins the input and output of the GRU,
    # the head.
    GATES = 0
    FROM_INPUT = 1
    FROM_STATE = 2
    PER_LAYER = 3


cdef wide_void core(
    const layer* layers, Py_ssize_t depth, Py_ssize_t n_layers, Py_ssize_t hidden,
    const float* invariants, float* state, float* work, float* factors
) noexcept nogil:
    """Compute the factors of a block from its invariants, and update its state."""
    cdef:
        Py_ssize_t rows = hidden * BLOCK
        # A layer may write up to PANEL rows beyond its last one.
        Py_ssize_t room = (hidden + PANEL) * BLOCK
        float* x = work
        float* pair = x + room  # the input of a layer, and its state
        float* other = pair + 2 * room
        float* gates = other + room
        float* candidate = gates + 2 * room
        float* from_state = candidate + room
        const layer* gru
        Py_ssize_t i, k

    dense(&layers[0], invariants, x)
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
        dense(&gru[FROM_INPUT], pair, candidate)
        dense(&gru[FROM_STATE], pair + rows, from_state)
        gru_gates(gates, candidate, from_state, hidden, state + k * rows)
        memcpy(pair, state + k * rows, rows * sizeof(float))
    layers += PER_LAYER * n_layers
    memcpy(pair + rows, pair, rows * sizeof(float))
    memcpy(pair, x, rows * sizeof(float))
    dense(&layers[0], pair, other)
    leaky(hidden, other)
    dense(&layers[1], other, factors)


cdef wide_void to_direction(
    const float* factors, const float* vectors, Py_ssize_t n_vectors,
    Py_ssize_t n_points, float* directions
) noexcept nogil:
    """Write unit directions in the moving frames, point by point."""
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
        if k < n_vectors - 2:  # the last two are reference axes, not slopes
            for p in range(BLOCK):
                x[p] += vx[p]
                y[p] += vy[p]
    for p in range(n_points):
        length = sqrtf(x[p] * x[p] + y[p] * y[p] + 1.0)
        directions[3 * p] = x[p] / length
        directions[3 * p + 1] = y[p] / length
        directions[3 * p + 2] = 1.0 / length


cdef wide_void invariants_of(
    float* block, Py_ssize_t n_coeffs, Py_ssize_t order, const float* slope,
    float coarse, float fade, float* invariants, float* vectors
) noexcept nogil:
    """Write the invariants and vectors of a block: ``MovingFrameGRU.invariants``.

    ``block`` holds the coefficients in the moving frame, and is padded with zeros to
    ``order``. The invariants are the coefficients of m = 0, then the power of each pair
    of +m and -m, then the pairs rotated to the two reference axes.
    """
    cdef:
        float cosines[2 * (MAX_ORDER + 1) * BLOCK]
        float sines[2 * (MAX_ORDER + 1) * BLOCK]
        double cosine[BLOCK]
        double sine[BLOCK]
        float faded[2 * BLOCK]
        float x[2 * BLOCK]
        float y[2 * BLOCK]
        float* plus
        float* minus
        float* out
        const float* c
        const float* s
        double length
        float square
        Py_ssize_t n_slopes = order // 2
        Py_ssize_t n_pairs = 0
        Py_ssize_t p, k, m, ell, middle, pair

    for k in range(n_coeffs * BLOCK, (order + 1) * (order + 2) // 2 * BLOCK):
        block[k] = 0.0

    # The slopes of l = 2, 4 .., and Newton's step along each of the two reference axes.
    for p in range(2 * BLOCK):
        x[p] = 0.0
        y[p] = 0.0
    for k in range(n_slopes):
        middle = (k + 1) * (2 * k + 3)
        plus = block + (middle + 1) * BLOCK
        minus = block + (middle - 1) * BLOCK
        for p in range(BLOCK):
            vectors[k * BLOCK + p] = plus[p] * slope[k]
            vectors[(n_slopes + 2 + k) * BLOCK + p] = minus[p] * slope[k]
            x[p] += plus[p] * slope[k]
            y[p] += minus[p] * slope[k]
    for p in range(BLOCK):
        x[BLOCK + p] = vectors[p] * coarse
        y[BLOCK + p] = vectors[(n_slopes + 2) * BLOCK + p] * coarse
    for k in range(2):
        for p in range(BLOCK):
            square = x[k * BLOCK + p] * x[k * BLOCK + p] \
                + y[k * BLOCK + p] * y[k * BLOCK + p]
            faded[k * BLOCK + p] = square / (square + fade)
            length = sqrt(<double>x[k * BLOCK + p] * x[k * BLOCK + p]
                          + <double>y[k * BLOCK + p] * y[k * BLOCK + p])
            cosine[p] = x[k * BLOCK + p] / length if length > 0.0 else 1.0
            sine[p] = y[k * BLOCK + p] / length if length > 0.0 else 0.0
            vectors[(n_slopes + k) * BLOCK + p] = (
                <float>cosine[p] * faded[k * BLOCK + p])
            vectors[(2 * n_slopes + 2 + k) * BLOCK + p] = (
                <float>sine[p] * faded[k * BLOCK + p])
        multiples(cosine, sine, order, cosines + k * (MAX_ORDER + 1) * BLOCK,
                  sines + k * (MAX_ORDER + 1) * BLOCK)
        for m in range(1, order + 1):
            for p in range(BLOCK):
                cosines[(k * (MAX_ORDER + 1) + m) * BLOCK + p] *= faded[k * BLOCK + p]
                sines[(k * (MAX_ORDER + 1) + m) * BLOCK + p] *= faded[k * BLOCK + p]

    for k in range(n_slopes + 1):
        middle = k * (2 * k + 1)
        for p in range(BLOCK):
            invariants[k * BLOCK + p] = block[middle * BLOCK + p]
    invariants += (n_slopes + 1) * BLOCK
    for m in range(1, order + 1):
        n_pairs += n_slopes - (m + 1) // 2 + 1
    pair = 0
    for m in range(1, order + 1):
        for ell in range(m + m % 2, order + 1, 2):
            middle = ell * (ell + 1) // 2
            plus = block + (middle + m) * BLOCK
            minus = block + (middle - m) * BLOCK
            out = invariants + pair * BLOCK
            for p in range(BLOCK):
                out[p] = plus[p] * plus[p] + minus[p] * minus[p]
            for k in range(2):
                c = cosines + (k * (MAX_ORDER + 1) + m) * BLOCK
                s = sines + (k * (MAX_ORDER + 1) + m) * BLOCK
                out = invariants + ((1 + k) * n_pairs + pair) * BLOCK
                for p in range(BLOCK):
                    out[p] = plus[p] * c[p] + minus[p] * s[p]
                out = invariants + ((3 + k) * n_pairs + pair) * BLOCK
                for p in range(BLOCK):
                    out[p] = minus[p] * c[p] - plus[p] * s[p]
            pair += 1


cdef void sample_invariants(
    const float[:, :, :, ::1] volume, const double* points, const double* frames,
    Py_ssize_t n_points, double handedness, Py_ssize_t volume_order,
    const Turns* turns, Py_ssize_t order, const float* slope, float coarse, float fade,
    float* invariants, float* vectors, unsigned char* status
) noexcept nogil:
    """Sample up to BLOCK points and write their invariants and vectors."""
    cdef:
        float rows[MAX_COEFFS * BLOCK]
        float block[MAX_COEFFS * BLOCK]

    sample_points(volume, points, n_points, True, rows, status)
    rotate_points(
        rows, n_points, volume.shape[3], volume_order, frames, handedness, turns, block)
    invariants_of(
        block, volume.shape[3], order, slope, coarse, fade, invariants, vectors)


cdef class CompiledMovingFrameGRU:
    """A MovingFrameGRU as a kernel, with a copy of its weights.

    Parameters
    ----------
    weights : mapping of str to ndarray
        The parameters of the module by name.
    constants : dipy_rnn.model.moving_frame.FrameConstants
    depth, layers, hidden : int

    Raises
    ------
    KeyError, ValueError
        If a parameter is missing, or its shape or type differs.
    """

    cdef readonly Py_ssize_t depth, layers, hidden
    cdef Py_ssize_t order, n_invariants, n_vectors
    cdef float coarse, fade
    cdef float[::1] slope
    cdef layer* network
    cdef object arrays

    def __cinit__(self, weights, constants, depth, layers, hidden):
        self.depth, self.layers, self.hidden = depth, layers, hidden
        self.order, self.n_invariants = constants.order, constants.n_invariants
        self.n_vectors = constants.n_vectors
        self.slope, self.coarse = constants.slope, constants.coarse
        self.fade = constants.fade
        self.arrays = []
        self.network = <layer*>malloc(
            (3 + depth + PER_LAYER * layers) * sizeof(layer))
        if self.network == NULL:
            raise MemoryError
        n_factors = 2 * constants.n_vectors
        self._lay_out(*self._get(weights, "input", "", hidden, constants.n_invariants))
        for k in range(depth):
            self._lay_out(*self._get(weights, f"deeper.{k}", "", hidden, hidden))
        for k in range(layers):
            w_input, b_input = self._get(
                weights, "gru", f"_ih_l{k}", 3 * hidden, hidden)
            w_state, b_state = self._get(
                weights, "gru", f"_hh_l{k}", 3 * hidden, hidden)
            gates = slice(0, 2 * hidden)  # PyTorch's order: reset, update, candidate
            candidate = slice(2 * hidden, 3 * hidden)
            self._lay_out(
                np.hstack([w_input[gates], w_state[gates]]),
                b_input[gates] + b_state[gates])
            self._lay_out(w_input[candidate], b_input[candidate])
            self._lay_out(w_state[candidate], b_state[candidate])
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
        """Store a layer in panels (``_lanes.h``). Rows of zeros fill the last panel."""
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
        self.arrays.append((weight, bias))  # keeps the memory alive

    def init_state(self, n):
        """Return fresh states (zeros) for whole blocks of streamlines."""
        return np.zeros((-(-n // BLOCK), self.layers, self.hidden, BLOCK), np.float32)

    def next_directions(
        self, const float[:, :, :, ::1] volume, Py_ssize_t volume_order, tuple turns,
        const double[:, ::1] points, const double[:, :, ::1] frames, double handedness,
        float[:, :, :, ::1] state, float[:, ::1] directions, unsigned char[::1] status
    ):
        """Write the next unit directions of streamlines. Update their states.

        Parameters
        ----------
        volume : array of shape (X, Y, Z, C)
            Coefficients in ``tournier07``, not legacy, of ``volume_order``.
        volume_order : int
            Not above the order of the network.
        turns : tuple
            :func:`dipy_rnn.sampling.quarter_turns` of that order.
        points : array of shape (n, 3)
            Voxel coordinates.
        frames : array of shape (n, 3, 3)
            Moving frames.
        handedness : float
            Handedness of the voxel axes.
        state : array of shape (n_blocks, layers, hidden, BLOCK)
            Updated in place.
        directions : array of shape (n, 3)
            Output, in the moving frames.
        status : array of shape (n,)
            Output: OUTSIDE, EMPTY or DATA.
        """
        cdef:
            Py_ssize_t n_points = points.shape[0]
            Py_ssize_t n_blocks = (n_points + BLOCK - 1) // BLOCK
            Py_ssize_t block, start, n
            Turns tables = turns_of(turns)
            Py_ssize_t n_factors = (2 * self.n_vectors + PANEL) * BLOCK
            Py_ssize_t n_work = 8 * (self.hidden + PANEL) * BLOCK
            float* invariants
            float* vectors
            float* factors
            float* work

        invariants = <float*>malloc(
            (self.n_invariants * BLOCK + 2 * n_factors + n_work) * sizeof(float))
        if invariants == NULL:
            raise MemoryError
        with nogil:
            vectors = invariants + self.n_invariants * BLOCK
            factors = vectors + n_factors
            work = factors + n_factors
            for block in range(n_blocks):
                start = block * BLOCK
                n = min(BLOCK, n_points - start)
                sample_invariants(
                    volume, &points[start, 0], &frames[start, 0, 0], n, handedness,
                    volume_order, &tables, self.order, &self.slope[0], self.coarse,
                    self.fade, invariants, vectors, &status[start])
                core(
                    self.network, self.depth, self.layers, self.hidden, invariants,
                    &state[block, 0, 0, 0], work, factors)
                to_direction(
                    factors, vectors, self.n_vectors, n, &directions[start, 0])
            free(invariants)
