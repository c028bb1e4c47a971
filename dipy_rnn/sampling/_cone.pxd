# The kernel of a cone, for other kernels.

cdef extern from "_lanes.h":
    enum:
        HALF_PANEL
    ctypedef void wide_void
    void add_multiples(
        const float* weights, Py_ssize_t n, const float* x, float* rows) noexcept nogil
    void ring_values(
        const float* weights, const float* sums, Py_ssize_t stride, Py_ssize_t order,
        Py_ssize_t half, float* out) noexcept nogil
    void raise_to(const float* rows, Py_ssize_t n, float* height) noexcept nogil
    void first_from(
        const float* rows, Py_ssize_t n, const float* least, int* first) noexcept nogil

cdef struct cone_tables:
    const int* ring_sizes
    const float* polar
    const float* azimuthal
    const float* directions
    const float* parabola
    const float* tangents
    const int* near
    Py_ssize_t n_rings, n_vertices, n_inside, order
    float cosine, sine, reach

cdef class CompiledCone:
    cdef:
        cone_tables tables
        object arrays

cdef Py_ssize_t room_for_values(const cone_tables* cone) noexcept nogil

cdef void largest_ahead(
    const float* block, const cone_tables* cone, float pmf_threshold, float* values,
    float* ahead, unsigned char* found) noexcept nogil
