# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""The network of ``moving_frame.py`` as a kernel, from points to directions.

It computes the same as :class:`dipy_rnn.model.MovingFrameGRU`, with the same weights. A
block of ``BLOCK`` streamlines goes through sampling, rotation, invariants, layers and
direction while its values stay in the cache. Each streamline has a place (a lane) in a
block, and lanes never mix. The result of a streamline is therefore the same, bit for
bit, for any number of streamlines and any place among them.
"""

from libc.math cimport fmaxf, sqrt, sqrtf
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

import numpy as np

from dipy_rnn._interp cimport (
    BLOCK, DATA, MAX_COEFFS, MAX_ORDER, NOTHING_AHEAD, Angles, Neighbours, angles_of,
    multiples, rotate_points, sample_points,
)
from dipy_rnn.model.kernels._layers cimport (
    CompiledNetwork, CompiledRun, PANEL, dense, find_block, gru_gates, in_panels, layer,
    layer_of, leaky, run_conditions,
)
from dipy_rnn.sampling._cone cimport (
    CACHE_LINE, aligned, aligned_float, largest_ahead, room_for_values, wide_void,
)

cdef enum:
    # Layers are stored in this sequence: the input layer, the deeper layers, these
    # three for each GRU layer, the layer that joins the input and output of the GRU,
    # the head.
    GATES = 0
    FROM_INPUT = 1
    FROM_STATE = 2
    PER_LAYER = 3
    # Invariants of the conditions of the run, and of the direction ahead.
    CONDITIONS = 2
    OF_AHEAD = 6


cdef wide_void core(
    const layer* layers, Py_ssize_t depth, Py_ssize_t n_layers, Py_ssize_t hidden,
    const float* invariants, float step, float rate_limit, float* state, float* work,
    float* factors
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
        gru_gates(gates, candidate, from_state, hidden, step, rate_limit,
                  state + k * rows)
        memcpy(pair, state + k * rows, rows * sizeof(float))
    layers += PER_LAYER * n_layers
    memcpy(pair + rows, pair, rows * sizeof(float))
    memcpy(pair, x, rows * sizeof(float))
    dense(&layers[0], pair, other)
    leaky(hidden, other)
    dense(&layers[1], other, factors)


cdef wide_void to_direction(
    const float* factors, const float* vectors, const float* ahead,
    Py_ssize_t n_vectors, Py_ssize_t n_points, float* answers, Py_ssize_t width
) noexcept nogil:
    """Write unit directions in the moving frames, point by point.

    ``vectors`` are those across the tangent: slopes and reference axes. ``n_vectors``
    counts ``ahead`` and the tangent, too.
    """
    cdef:
        float x[BLOCK]
        float y[BLOCK]
        float z[BLOCK]
        const float* along
        const float* across
        const float* vx
        const float* vy
        float length
        Py_ssize_t flat = n_vectors - 2
        Py_ssize_t k, p

    for p in range(BLOCK):
        x[p] = ahead[p]
        y[p] = ahead[BLOCK + p]
    for k in range(flat + 1):
        along = factors + k * BLOCK
        across = factors + (n_vectors + k) * BLOCK
        vx = vectors + k * BLOCK if k < flat else ahead
        vy = vectors + (flat + k) * BLOCK if k < flat else ahead + BLOCK
        for p in range(BLOCK):
            x[p] += along[p] * vx[p] - across[p] * vy[p]
            y[p] += along[p] * vy[p] + across[p] * vx[p]
    along = factors + flat * BLOCK
    for p in range(BLOCK):
        z[p] = ahead[2 * BLOCK + p] * (1.0 + along[p]) + along[BLOCK + p]
    for p in range(n_points):
        length = sqrtf(x[p] * x[p] + y[p] * y[p] + z[p] * z[p])
        length = fmaxf(length, 1e-12)
        answers[width * p] = x[p] / length
        answers[width * p + 1] = y[p] / length
        answers[width * p + 2] = z[p] / length


cdef wide_void conditions_of(
    const float* ahead, const float* vectors, Py_ssize_t n_flat,
    const run_conditions* run, float* invariants
) noexcept nogil:
    """Write the invariants of the run and of ``ahead``.

    The reference axes are the last two of the ``n_flat`` vectors.
    """
    cdef:
        const float* x = ahead
        const float* y = ahead + BLOCK
        const float* ax
        const float* ay
        Py_ssize_t p, k

    for p in range(BLOCK):
        invariants[p] = run.log_step
        invariants[BLOCK + p] = run.angle
        invariants[2 * BLOCK + p] = ahead[2 * BLOCK + p]
        invariants[3 * BLOCK + p] = sqrtf(x[p] * x[p] + y[p] * y[p])
    for k in range(2):
        ax = vectors + (n_flat - 2 + k) * BLOCK
        ay = vectors + (2 * n_flat - 2 + k) * BLOCK
        for p in range(BLOCK):
            invariants[(4 + k) * BLOCK + p] = x[p] * ax[p] + y[p] * ay[p]
            invariants[(6 + k) * BLOCK + p] = y[p] * ax[p] - x[p] * ay[p]


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
        aligned_float cosines[2 * (MAX_ORDER + 1) * BLOCK]
        aligned_float sines[2 * (MAX_ORDER + 1) * BLOCK]
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
    CompiledRun run, const Neighbours* near, const double* frames, Py_ssize_t n_points,
    Py_ssize_t order, Py_ssize_t n_invariants, const float* slope, float coarse,
    float fade, float* values, float* invariants, float* vectors, float* ahead,
    unsigned char* status
) noexcept nogil:
    """Sample up to BLOCK points and write their invariants, vectors and ``ahead``.

    ``near`` are the voxels around the points.
    """
    cdef:
        aligned_float rows[MAX_COEFFS * BLOCK]
        aligned_float block[MAX_COEFFS * BLOCK]
        unsigned char found[BLOCK]
        Angles angles
        Py_ssize_t n_coeffs = run.volume.shape[3]
        Py_ssize_t p

    sample_points(run.volume, n_coeffs, near, n_points, True, rows, status)
    angles_of(frames, n_points, run.order, run.handedness, &angles)
    rotate_points(
        rows, n_coeffs, n_points, n_coeffs, run.order, &angles, &run.turns, block)
    largest_ahead(
        block, &run.cone.tables, run.conditions.pmf_threshold, values, ahead, found)
    for p in range(n_points):
        if status[p] == DATA and not found[p]:
            status[p] = NOTHING_AHEAD
    invariants_of(block, n_coeffs, order, slope, coarse, fade, invariants, vectors)
    conditions_of(
        ahead, vectors, order // 2 + 2, &run.conditions,
        invariants + (n_invariants - CONDITIONS - OF_AHEAD) * BLOCK)


cdef class CompiledMovingFrameGRU(CompiledNetwork):
    """A MovingFrameGRU as a kernel, with a copy of its weights.

    Parameters
    ----------
    weights : mapping of str to ndarray
        The parameters of the module by name.
    constants : dipy_rnn.model.architectures.FrameConstants
    depth, layers, hidden : int

    Raises
    ------
    KeyError, ValueError
        If a parameter is missing, or its shape or type differs.
    """

    cdef readonly Py_ssize_t depth, layers, hidden
    cdef Py_ssize_t order, n_invariants, n_vectors
    cdef float coarse, fade, rate_limit
    cdef float[::1] slope
    cdef layer* network
    cdef object arrays

    def __cinit__(self, weights, constants, depth, layers, hidden):
        self.depth, self.layers, self.hidden = depth, layers, hidden
        self.order, self.n_invariants = constants.order, constants.n_invariants
        self.n_vectors = constants.n_vectors
        self.slope, self.coarse = constants.slope, constants.coarse
        self.fade, self.rate_limit = constants.fade, constants.rate_limit
        self.context_order = None
        self.state_shape = layers, hidden
        self.arrays = []
        self.network = <layer*>malloc(
            (3 + depth + PER_LAYER * layers) * sizeof(layer))
        if self.network == NULL:
            raise MemoryError
        self._lay_out(*layer_of(weights, "input", hidden, constants.n_invariants))
        for k in range(depth):
            self._lay_out(*layer_of(weights, f"deeper.{k}", hidden, hidden))
        for k in range(layers):
            w_input, b_input = layer_of(
                weights, f"gru.{k}.from_input", 3 * hidden, hidden)
            w_state, b_state = layer_of(
                weights, f"gru.{k}.from_state", 3 * hidden, hidden)
            gates = slice(0, 2 * hidden)  # reset gate, rate, candidate
            candidate = slice(2 * hidden, 3 * hidden)
            self._lay_out(
                np.hstack([w_input[gates], w_state[gates]]),
                b_input[gates] + b_state[gates])
            self._lay_out(w_input[candidate], b_input[candidate])
            self._lay_out(w_state[candidate], b_state[candidate])
        self._lay_out(*layer_of(weights, "joined", hidden, 2 * hidden))
        self._lay_out(*layer_of(weights, "head", constants.n_factors, hidden))

    def __dealloc__(self):
        free(self.network)

    def _lay_out(self, weight, bias):
        """Add a layer."""
        self.arrays.append(
            in_panels(weight, bias, self.network + len(self.arrays)))

    cdef int advance(
        self, CompiledRun run, const double* points, const double* frames,
        Py_ssize_t n_points, float* state, float* answers, Py_ssize_t width,
        unsigned char* status
    ) noexcept nogil:
        """As :meth:`CompiledNetwork.advance`."""
        cdef:
            Py_ssize_t n_values = room_for_values(&run.cone.tables)
            Py_ssize_t n_factors = (2 * self.n_vectors + PANEL) * BLOCK
            Py_ssize_t n_work = 8 * (self.hidden + PANEL) * BLOCK
            Py_ssize_t n_state = self.layers * self.hidden  # floats of a streamline
            Py_ssize_t block, start, n
            aligned_float ahead[3 * BLOCK]
            Neighbours near[2]  # of this block, and of the next one
            void* memory
            float* values
            float* invariants
            float* vectors
            float* factors
            float* work

        memory = malloc(
            (n_values + self.n_invariants * BLOCK + 2 * n_factors + n_work)
            * sizeof(float) + CACHE_LINE)
        if memory == NULL:
            return -1
        values = aligned(memory)
        invariants = values + n_values
        vectors = invariants + self.n_invariants * BLOCK
        factors = vectors + n_factors
        work = factors + n_factors
        find_block(run, points, n_points, 0, near)
        for block in range((n_points + BLOCK - 1) // BLOCK):
            start = block * BLOCK
            n = min(BLOCK, n_points - start)
            find_block(run, points, n_points, block + 1, near)
            sample_invariants(
                run, &near[block % 2], frames + 9 * start, n, self.order,
                self.n_invariants, &self.slope[0], self.coarse, self.fade, values,
                invariants, vectors, ahead, status + start)
            core(
                self.network, self.depth, self.layers, self.hidden, invariants,
                run.conditions.step, self.rate_limit, state + start * n_state, work,
                factors)
            to_direction(
                factors, vectors, ahead, self.n_vectors, n, answers + width * start,
                width)
        free(memory)
        return 0
