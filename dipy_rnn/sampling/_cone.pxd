# The kernel of a cone, and layers of a network, for other kernels.

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

cdef struct cone_tables:
    layer matrix
    const float* directions
    const float* parabola
    const float* tangents
    const int* near
    Py_ssize_t n_inside
    float cosine, sine, reach

cdef class CompiledCone:
    cdef:
        cone_tables tables
        object arrays

cdef object in_panels(object weight, object bias, layer* target)

cdef void largest_ahead(
    const float* block, const cone_tables* cone, float pmf_threshold, float* values,
    float* ahead, unsigned char* found) noexcept nogil
