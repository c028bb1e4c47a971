# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""The network of ``context_gru.py`` as a kernel, from points to directions.

It computes the same as :class:`dipy_rnn.model.ContextGRU`, with the same weights. As in
``_moving_frame.pyx``, a block of ``BLOCK`` streamlines goes through all stages while
its values stay in the cache, and the streamlines of a block never mix.

A row is a number of each streamline of a block: ``BLOCK`` floats.
"""

from libc.math cimport fmaxf, sqrtf
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

import numpy as np

from dipy_rnn._interp cimport (
    BLOCK, DATA, MAX_COEFFS, NOTHING_AHEAD, Angles, Neighbours, angles_of,
    rotate_points, sample_points,
)
from dipy_rnn.model.kernels._context_parts cimport (
    multiply, places, sample_around, sizes, split,
)
from dipy_rnn.model.kernels._layers cimport (
    CompiledNetwork, CompiledRun, PANEL, dense, find_block, gru_gates, in_panels, layer,
    layer_of, leaky,
)
from dipy_rnn.sampling._cone cimport (
    CACHE_LINE, aligned, aligned_float, cone_tables, largest_ahead, room_for_values,
    wide_void,
)

cdef extern from "_lanes.h":
    float exponential(float x) noexcept nogil

cdef enum:
    # Layers are stored in this sequence.
    TO_VECTORS = 0
    TO_TWOFOLD = 1
    INPUT = 2
    DEEPER = 3
    GATES = 4
    FROM_INPUT = 5
    FROM_STATE = 6
    TO_REMEMBERED = 7
    FORGETS = 8
    JOINED = 9
    HEAD = 10
    N_LAYERS = 11
    # Factors of the head after those of the vectors: the tangent, and three beliefs.
    OTHER_FACTORS = 4


cdef struct rooms:
    # Memory for a block: values at the cone's vertices, coefficients around the points,
    # parts, mixed vectors, shortened ones, invariants, layers, factors of the head.
    float* values
    float* around
    float* parts[4]  # x and y of vectors, x and y of double vectors
    float* mixed[4]
    float* short[4]
    float* invariants
    float* work
    float* factors


cdef wide_void mix(
    const layer* layers, const float** parts, float** mixed
) noexcept nogil:
    """Mix the vectors and the double vectors of a block."""
    cdef Py_ssize_t i

    for i in range(2):
        dense(&layers[TO_VECTORS], parts[i], mixed[i])
        dense(&layers[TO_TWOFOLD], parts[2 + i], mixed[2 + i])


cdef wide_void core(
    const sizes* n, const layer* layers, const float* invariants, float step,
    float* x, float* y, float* state, float* work, float* factors
) noexcept nogil:
    """Compute the factors of a block, and update its state.

    ``x`` and ``y`` hold the mixed vectors, then ``ahead``, then the remembered vectors,
    which are updated, too.
    """
    cdef:
        Py_ssize_t room = (n.hidden + n.memory + PANEL) * BLOCK
        Py_ssize_t of_memory = n.memory * BLOCK
        float* seen = work
        float* other = seen + room
        float* pair = other + room
        float* gates = pair + room  # two rows for each row of the state
        float* candidate = gates + 2 * room
        float* from_state = candidate + room
        float* new_x = from_state + room
        float* new_y = new_x + room
        float* remembered_x = x + (n.vectors + 1) * BLOCK
        float* remembered_y = y + (n.vectors + 1) * BLOCK
        float kept
        Py_ssize_t i

    dense(&layers[INPUT], invariants, seen)
    leaky(n.hidden, seen)
    dense(&layers[DEEPER], seen, other)
    leaky(n.hidden, other)
    for i in range(n.hidden * BLOCK):
        seen[i] += other[i]
    memcpy(pair, seen, n.hidden * BLOCK * sizeof(float))
    memcpy(pair + n.hidden * BLOCK, state, of_memory * sizeof(float))
    dense(&layers[GATES], pair, gates)
    dense(&layers[FROM_INPUT], seen, candidate)
    dense(&layers[FROM_STATE], state, from_state)
    gru_gates(gates, candidate, from_state, n.memory, step, n.rate_limit, state)

    dense(&layers[FORGETS], seen, other)
    dense(&layers[TO_REMEMBERED], x, new_x)
    dense(&layers[TO_REMEMBERED], y, new_y)
    for i in range(n.remembered * BLOCK):
        kept = other[i] if other[i] < n.rate_limit else n.rate_limit
        kept = exponential(-step * exponential(kept))
        remembered_x[i] = new_x[i] + kept * (remembered_x[i] - new_x[i])
        remembered_y[i] = new_y[i] + kept * (remembered_y[i] - new_y[i])
    memcpy(state + of_memory, remembered_x, n.remembered * BLOCK * sizeof(float))
    memcpy(state + of_memory + n.remembered * BLOCK, remembered_y,
           n.remembered * BLOCK * sizeof(float))

    memcpy(pair + n.hidden * BLOCK, state, of_memory * sizeof(float))
    dense(&layers[JOINED], pair, other)
    leaky(n.hidden, other)
    dense(&layers[HEAD], other, factors)


cdef wide_void to_answers(
    const sizes* n, const float* factors, const float* x, const float* y,
    const float* ahead, Py_ssize_t n_points, float* answers, Py_ssize_t width
) noexcept nogil:
    """Write unit directions in the moving frames, point by point.

    If there is room, the spread and the two probabilities follow.
    """
    cdef:
        aligned_float dx[BLOCK]
        aligned_float dy[BLOCK]
        aligned_float dz[BLOCK]
        float along, length
        float* answer
        const float* beliefs = factors + (n.every + 1) * BLOCK
        Py_ssize_t k, p

    memcpy(dx, ahead, BLOCK * sizeof(float))
    memcpy(dy, ahead + BLOCK, BLOCK * sizeof(float))
    for k in range(n.every):
        for p in range(BLOCK):
            dx[p] += factors[k * BLOCK + p] * x[k * BLOCK + p]
            dy[p] += factors[k * BLOCK + p] * y[k * BLOCK + p]
    for p in range(BLOCK):
        along = factors[n.every * BLOCK + p]
        along = along if along > -2.0 else -2.0
        along = along if along < 2.0 else 2.0
        dz[p] = ahead[2 * BLOCK + p] * exponential(along)
    for p in range(n_points):
        length = sqrtf(dx[p] * dx[p] + dy[p] * dy[p] + dz[p] * dz[p])
        length = fmaxf(length, 1e-12)
        answer = answers + width * p
        answer[0] = dx[p] / length
        answer[1] = dy[p] / length
        answer[2] = dz[p] / length
        if width > 3:
            answer[3] = n.least_spread + n.spread_range * sigmoid(beliefs[p])
            answer[4] = sigmoid(beliefs[BLOCK + p])
            answer[5] = sigmoid(beliefs[2 * BLOCK + p])


cdef inline float sigmoid(float x) noexcept nogil:
    return 1.0 / (1.0 + exponential(-x))


cdef void advance_block(
    const sizes* n, const places* at, const layer* layers, CompiledRun run,
    const Neighbours* near, const double* points, const double* frames,
    Py_ssize_t n_points, rooms* room, float* state, float* answers, Py_ssize_t width,
    unsigned char* status
) noexcept nogil:
    """Write the answers for up to BLOCK streamlines. Update their states.

    ``near`` are the voxels around the points.
    """
    cdef:
        aligned_float rows[MAX_COEFFS * BLOCK]
        aligned_float own[MAX_COEFFS * BLOCK]
        aligned_float ahead[3 * BLOCK]
        double compass[2 * BLOCK]
        unsigned char found[BLOCK]
        Angles angles
        float* conditions
        Py_ssize_t n_coeffs = run.volume.shape[3]
        Py_ssize_t of_memory = n.memory * BLOCK
        Py_ssize_t of_remembered = n.remembered * BLOCK
        Py_ssize_t i, p

    sample_points(run.volume, n_coeffs, near, n_points, False, rows, status)
    angles_of(frames, n_points, run.order, run.handedness, &angles)
    rotate_points(
        rows, n_coeffs, n_points, n_coeffs, run.order, &angles, &run.turns, own)
    largest_ahead(own, &run.cone.tables, run.conditions.pmf_threshold, room.values,
                  ahead, found)
    for p in range(n_points):
        if status[p] == DATA and not found[p]:
            status[p] = NOTHING_AHEAD
    for i in range(n_coeffs * BLOCK, n.own_coeffs * BLOCK):
        own[i] = 0.0
    if n.places:
        sample_around(n, at, run.conditions.edge, own, run.context, points, frames,
                      n_points, &angles, &run.turns, compass, room.around)
    split(n, at, compass, own, room.around, room.invariants, room.parts)

    mix(layers, <const float**>room.parts, room.mixed)
    for i in range(2):
        memcpy(room.mixed[i] + n.vectors * BLOCK, ahead + i * BLOCK,
               BLOCK * sizeof(float))
        memcpy(room.mixed[i] + (n.vectors + 1) * BLOCK,
               state + of_memory + i * of_remembered, of_remembered * sizeof(float))
    conditions = room.invariants + (n.scalars - 3) * BLOCK
    for p in range(BLOCK):
        conditions[p] = run.conditions.log_step
        conditions[BLOCK + p] = run.conditions.angle
        conditions[2 * BLOCK + p] = ahead[2 * BLOCK + p]
    multiply(n, <const float**>room.mixed, room.short, conditions + 3 * BLOCK)
    core(n, layers, room.invariants, run.conditions.step, room.mixed[0], room.mixed[1], state,
         room.work, room.factors)
    to_answers(n, room.factors, room.mixed[0], room.mixed[1], ahead, n_points,
               answers, width)


cdef class CompiledContextGRU(CompiledNetwork):
    """A ContextGRU as a kernel, with a copy of its weights.

    Parameters
    ----------
    weights : mapping of str to ndarray
        The parameters of the module by name.
    order : int
    context : dipy_rnn.sampling.Context or None
    constants : mapping of str to float
        ``rate_limit``, ``short_square``, ``largest``, ``steady``, ``least_spread`` and
        ``spread_range``.

    Raises
    ------
    KeyError, ValueError
        If a parameter is missing, or its shape or type differs.
    """

    cdef:
        sizes n
        places at
        layer network[N_LAYERS]
        object arrays
        double[:, ::1] offsets
        float[:, ::1] roll_cosines, roll_sines, first, second

    def __cinit__(self, weights, order, context, constants):
        n_parts, n_vectors = weights["to_vectors"].shape
        n_twofold = weights["to_twofold"].shape[1]
        n_remembered = weights["to_remembered"].shape[1]
        hidden = weights["deeper.bias"].shape[0]
        memory = weights["gru.from_state.weight"].shape[1]
        every = n_vectors + 1 + n_remembered
        self.state_shape = 1, memory + 2 * n_remembered
        self.n.order, self.n.own_coeffs = order, (order + 1) * (order + 2) // 2
        self.n.vector_parts = order // 2
        self.n.scalars = _scalars_of_point(order) + 3
        self.n.places = self.n.ahead = self.n.rings = 0
        self.n.around = self.n.context_coeffs = 0
        self.n.context_order = 0
        self.context_order = None
        if context is not None:
            self._lay_out_context(context)
        self.n.vectors, self.n.twofold = n_vectors, n_twofold
        self.n.remembered, self.n.every = n_remembered, every
        self.n.invariants = (
            self.n.scalars + every * (every + 1) // 2 + every * n_twofold + n_twofold)
        self.n.hidden, self.n.memory = hidden, memory
        self.n.rate_limit = constants["rate_limit"]
        self.n.short_square = constants["short_square"]
        self.n.largest, self.n.steady = constants["largest"], constants["steady"]
        self.n.least_spread = constants["least_spread"]
        self.n.spread_range = constants["spread_range"]
        self.arrays = [None] * N_LAYERS
        parts = self.n.vector_parts
        self._lay_out(TO_VECTORS, *_mixing(weights, "to_vectors", parts, n_vectors))
        self._lay_out(TO_TWOFOLD, *_mixing(weights, "to_twofold", parts, n_twofold))
        self._lay_out(TO_REMEMBERED, *_mixing(
            weights, "to_remembered", n_vectors + 1, n_remembered))
        self._lay_out(INPUT, *layer_of(weights, "input", hidden, self.n.invariants))
        self._lay_out(DEEPER, *layer_of(weights, "deeper", hidden, hidden))
        w_input, b_input = layer_of(weights, "gru.from_input", 3 * memory, hidden)
        w_state, b_state = layer_of(weights, "gru.from_state", 3 * memory, memory)
        gates = slice(0, 2 * memory)  # reset gate, rate
        candidate = slice(2 * memory, 3 * memory)
        self._lay_out(
            GATES, np.hstack([w_input[gates], w_state[gates]]),
            b_input[gates] + b_state[gates])
        self._lay_out(FROM_INPUT, w_input[candidate], b_input[candidate])
        self._lay_out(FROM_STATE, w_state[candidate], b_state[candidate])
        self._lay_out(FORGETS, *layer_of(weights, "forgets", n_remembered, hidden))
        self._lay_out(JOINED, *layer_of(weights, "joined", hidden, hidden + memory))
        self._lay_out(HEAD, *layer_of(weights, "head", every + OTHER_FACTORS, hidden))

    def _lay_out_context(self, context):
        """Store the places of the context, and count its parts."""
        n_ahead, n_rings = len(context.ahead), len(context.rings)
        self.context_order = self.n.context_order = context.order
        self.n.places, self.n.ahead, self.n.rings = context.n_places, n_ahead, n_rings
        self.n.around, self.n.context_coeffs = context.n_around, context.n_coeffs
        self.n.vector_parts += (
            n_ahead * (context.order // 2) + n_rings * context.n_coeffs)
        self.n.scalars += (
            n_ahead * _scalars_of_point(context.order)
            + n_rings * (context.order // 2 + 1) ** 2)
        self.offsets = np.ascontiguousarray(context.offsets)
        multiples = np.arange(context.order + 1) * context.rolls[:, None]
        self.roll_cosines = np.cos(multiples).astype(np.float32)
        self.roll_sines = np.sin(multiples).astype(np.float32)
        self.first, self.second = (
            (np.stack([np.cos(m * context.angles), np.sin(m * context.angles)])
             / context.n_around).astype(np.float32)
            for m in (1, 2))
        self.at.offsets = &self.offsets[0, 0]
        self.at.roll_cosines = &self.roll_cosines[0, 0]
        self.at.roll_sines = &self.roll_sines[0, 0]
        self.at.first = &self.first[0, 0]
        self.at.second = &self.second[0, 0]

    def _lay_out(self, place, weight, bias):
        """Store a layer."""
        cdef Py_ssize_t i = place
        self.arrays[i] = in_panels(weight, bias, &self.network[i])

    cdef int advance(
        self, CompiledRun run, const double* points, const double* frames,
        Py_ssize_t n_points, float* state, float* answers, Py_ssize_t width,
        unsigned char* status
    ) noexcept nogil:
        """As :meth:`CompiledNetwork.advance`."""
        cdef:
            Py_ssize_t n_state = self.n.memory + 2 * self.n.remembered
            Py_ssize_t of_values = room_for_values(&run.cone.tables)
            Py_ssize_t of_context = self.n.places * self.n.context_coeffs * BLOCK
            Py_ssize_t of_parts = self.n.vector_parts * BLOCK
            # A layer may write up to PANEL rows beyond its last one.
            Py_ssize_t of_mixed = (self.n.every + self.n.twofold + PANEL) * BLOCK
            Py_ssize_t of_factors = (self.n.every + OTHER_FACTORS + PANEL) * BLOCK
            Py_ssize_t of_layers = (self.n.hidden + self.n.memory + PANEL) * BLOCK
            Py_ssize_t block, start, n, i
            rooms room
            Neighbours near[2]  # of this block, and of the next one
            void* memory

        memory = malloc(
            (of_values + of_context + 4 * of_parts + 8 * of_mixed + of_factors
             + self.n.invariants * BLOCK + 9 * of_layers)
            * sizeof(float) + CACHE_LINE)
        if memory == NULL:
            return -1
        room.values = aligned(memory)
        room.around = room.values + of_values
        room.factors = room.around + of_context
        room.invariants = room.factors + of_factors
        room.work = room.invariants + self.n.invariants * BLOCK
        room.parts[0] = room.work + 9 * of_layers
        room.mixed[0] = room.parts[0] + 4 * of_parts
        room.short[0] = room.mixed[0] + 4 * of_mixed
        for i in range(1, 4):
            room.parts[i] = room.parts[i - 1] + of_parts
            room.mixed[i] = room.mixed[i - 1] + of_mixed
            room.short[i] = room.short[i - 1] + of_mixed
        find_block(run, points, n_points, 0, near)
        for block in range((n_points + BLOCK - 1) // BLOCK):
            start = block * BLOCK
            n = min(BLOCK, n_points - start)
            find_block(run, points, n_points, block + 1, near)
            advance_block(
                &self.n, &self.at, self.network, run, &near[block % 2],
                points + 3 * start, frames + 9 * start, n, &room,
                state + start * n_state, answers + width * start, width,
                status + start)
        free(memory)
        return 0


def _scalars_of_point(order):
    """Return the number of scalars of one point: those of m = 0, and from m = 3."""
    orders = np.arange(0, order + 1, 2)
    return len(orders) + int(np.maximum(orders - 2, 0).sum())


def _mixing(weights, name, n_in, n_out):
    """Return a matrix that mixes vectors as a layer without bias."""
    matrix = weights[name]
    if matrix.shape != (n_in, n_out) or matrix.dtype != np.float32:
        raise ValueError(
            f"{name} is {matrix.dtype} of shape {matrix.shape}, not float32 of shape "
            f"{n_in, n_out}")
    return matrix.T, np.zeros(n_out, np.float32)
