# cython: language_level=3
"""Declarations of ``_interp.pyx`` for other kernels."""

cdef enum:
    BLOCK = 32  # LANES in _lanes.h
    MAX_ORDER = 16
    MAX_COEFFS = 153  # (MAX_ORDER + 1) * (MAX_ORDER + 2) / 2

# The status of a point.
cdef enum:
    OUTSIDE = 0
    EMPTY = 1
    DATA = 2
    NOTHING_AHEAD = 3

# The eight voxels around each point of a block: offsets in floats, and weights. Whether
# each point is inside the volume.
cdef struct Neighbours:
    Py_ssize_t offset[8][BLOCK]
    float weight[8][BLOCK]
    unsigned char inside[BLOCK]

# The quarter turns about x, as sparse matrices in CSR form.
cdef struct Turns:
    const int* down_starts
    const int* down_columns
    const float* down_values
    const int* up_starts
    const int* up_columns
    const float* up_values

# Multiples of the three angles of the frames of a block.
cdef struct Angles:
    float cosines[3][(MAX_ORDER + 1) * BLOCK]
    float sines[3][(MAX_ORDER + 1) * BLOCK]

cdef Turns turns_of(tuple tables)

cdef void find_points(
    const float[:, :, :, ::1] volume, Py_ssize_t n_coeffs, const double* points,
    Py_ssize_t n_points, Neighbours* near
) noexcept nogil

cdef void sample_points(
    const float[:, :, :, ::1] volume, Py_ssize_t n_coeffs, const Neighbours* near,
    Py_ssize_t n_points, bint normalise, float* rows, unsigned char* status
) noexcept nogil

cdef void angles_of(
    const double* frames, Py_ssize_t n_points, Py_ssize_t order, double handedness,
    Angles* angles
) noexcept nogil

cdef void rotate_points(
    const float* rows, Py_ssize_t row_size, Py_ssize_t n_points, Py_ssize_t n_coeffs,
    Py_ssize_t order, const Angles* angles, const Turns* turns, float* block
) noexcept nogil


cdef inline void multiples(
    const double* cosine, const double* sine, Py_ssize_t order,
    float* cosines, float* sines
) noexcept nogil:
    """Write cos and sin of 1, 2 .. order times the angles of a block."""
    cdef:
        double c[BLOCK]
        double s[BLOCK]
        double previous
        Py_ssize_t m, p

    for p in range(BLOCK):
        c[p] = cosine[p]
        s[p] = sine[p]
    for m in range(1, order + 1):
        for p in range(BLOCK):
            cosines[m * BLOCK + p] = <float>c[p]
            sines[m * BLOCK + p] = <float>s[p]
            previous = c[p]
            c[p] = c[p] * cosine[p] - s[p] * sine[p]
            s[p] = s[p] * cosine[p] + previous * sine[p]


cdef inline void to_block(
    const float* rows, Py_ssize_t row_size, Py_ssize_t n_points, Py_ssize_t n_coeffs,
    float* block
) noexcept nogil:
    """Transpose rows into a block. Unused places repeat the last row."""
    cdef Py_ssize_t p, c

    for p in range(BLOCK):
        for c in range(n_coeffs):
            block[c * BLOCK + p] = rows[
                (p if p < n_points else n_points - 1) * row_size + c]
