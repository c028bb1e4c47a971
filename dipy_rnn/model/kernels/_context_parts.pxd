# Context, and the parts of features that turn alike, for the kernel of ContextGRU.

from dipy_rnn._interp cimport Angles, Turns

cdef struct sizes:
    # Numbers of coefficients, places, parts, vectors, and widths of layers.
    Py_ssize_t order, own_coeffs
    Py_ssize_t places, ahead, rings, around, context_order, context_coeffs
    Py_ssize_t vector_parts  # there are as many double vectors
    Py_ssize_t vectors, twofold, remembered, every  # every vector: mixed and remembered
    Py_ssize_t scalars, invariants, hidden, memory
    float rate_limit, short_square, largest, steady, least_spread, spread_range

cdef struct places:
    const double* offsets
    const float* roll_cosines
    const float* roll_sines
    const float* first  # Fourier factors of order 1, and of order 2
    const float* second

cdef void sample_around(
    const sizes* n, const places* at, const double* edge, const float* own,
    const float[:, :, :, ::1] volume, const double* points, const double* frames,
    Py_ssize_t n_points, const Angles* angles, const Turns* turns, double* compass,
    float* around
) noexcept nogil

cdef void split(
    const sizes* n, const places* at, const double* compass, float* own, float* around,
    float* scalars, float** parts
) noexcept nogil

cdef void multiply(
    const sizes* n, const float** mixed, float** short, float* out
) noexcept nogil
