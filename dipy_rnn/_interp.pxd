"""What other kernels use of ``_interp.pyx``."""

cdef enum:
    BLOCK = 16  # LANES of _lanes.h

# What there is at a point.
cdef enum:
    OUTSIDE = 0
    EMPTY = 1
    DATA = 2

# The quarter turns about x, as sparse matrices in CSR form.
cdef struct Turns:
    const int* down_starts
    const int* down_columns
    const float* down_values
    const int* up_starts
    const int* up_columns
    const float* up_values

cdef Turns turns_of(tuple tables)

cdef void see(
    const float[:, :, :, ::1] volume, const double* points, const double* frames,
    Py_ssize_t n_points, double handedness, Py_ssize_t volume_order,
    const Turns* turns, Py_ssize_t order, const float* slope, float coarse, float fade,
    float* seen, float* vectors, unsigned char* found
) noexcept nogil
