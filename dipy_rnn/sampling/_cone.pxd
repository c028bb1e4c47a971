# The kernel of a cone, for other kernels.

cdef extern from "_lanes.h":
    enum:
        CACHE_LINE
        PANEL
    ctypedef void wide_void
    ctypedef float aligned_float
    float* aligned(void* memory) noexcept nogil
    void weighted_sums(
        const float* weights, const float* bias, Py_ssize_t n_in, Py_ssize_t n_out,
        const float* x, Py_ssize_t stride, float* out) noexcept nogil
    void raise_to(const float* rows, Py_ssize_t n, float* height) noexcept nogil
    void add_and_raise(
        const float* even, const float* odd, Py_ssize_t n, float* rows, float* height
    ) noexcept nogil
    void first_from(
        const float* rows, Py_ssize_t n, const float* least, int* first) noexcept nogil

cdef struct cone_tables:
    const int* ring_sizes
    const float* polar  # for each phase factor, in panels of rings
    const float* azimuthal
    const float* vertices  # direction, then two tangents, of each vertex in the cone
    const float* parabola
    const int* near
    # n_needed rings hold the vertices in the cone, and their neighbours.
    Py_ssize_t n_rings, n_needed, n_vertices, n_inside, order
    float cosine, sine, reach

cdef class CompiledCone:
    cdef:
        cone_tables tables
        object arrays

cdef object panels_of(weights)

cdef Py_ssize_t room_for_values(const cone_tables* cone) noexcept nogil

cdef void largest_ahead(
    const float* block, const cone_tables* cone, float pmf_threshold, float* values,
    float* ahead, unsigned char* found) noexcept nogil
