# Layers of networks, and the conditions of a run, for the kernels of networks.

from dipy_rnn._interp cimport Neighbours, Turns
from dipy_rnn.sampling._cone cimport CompiledCone

cdef extern from "_lanes.h":
    enum:
        PANEL
    struct layer:
        const float* weights
        const float* bias
        Py_ssize_t n_in
        Py_ssize_t n_out
    void dense(const layer* weights, const float* x, float* out) noexcept nogil
    void gru_gates(
        const float* gates, const float* from_input, const float* from_state,
        Py_ssize_t n, float step, float rate_limit, float* state) noexcept nogil
    void leaky(Py_ssize_t n, float* x) noexcept nogil

cdef struct run_conditions:
    float log_step  # the step size in edges of a voxel
    float step
    float angle  # of the cone, in radians
    float pmf_threshold
    double edge[3]  # an edge of a voxel along each axis, in voxel coordinates

cdef class CompiledRun:
    cdef:
        const float[:, :, :, ::1] volume
        const float[:, :, :, ::1] context  # its lower orders, around the points
        Py_ssize_t order
        double handedness
        Turns turns
        tuple tables  # of the turns
        CompiledCone cone
        run_conditions conditions

cdef void find_block(
    CompiledRun run, const double* points, Py_ssize_t n_points, Py_ssize_t block,
    Neighbours* near
) noexcept nogil

cdef object in_panels(weight, bias, layer* target)

cdef tuple layer_of(weights, name, n_out, n_in)

cdef class CompiledNetwork:
    cdef:
        object context_order  # of what it samples around a point, or None
        tuple state_shape  # of a streamline: layers, width

    cdef int advance(
        self, CompiledRun run, const double* points, const double* frames,
        Py_ssize_t n_points, float* state, float* answers, Py_ssize_t width,
        unsigned char* status
    ) noexcept nogil
