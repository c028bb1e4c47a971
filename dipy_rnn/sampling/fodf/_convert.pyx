# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""The kernel that converts coefficients to the package's basis.

``sampling/fodf/convert.py`` checks its arguments.
"""

from libc.stdint cimport int64_t
from libc.string cimport memset

cdef extern from "_lanes.h":
    ctypedef void wide_void

ctypedef fused number:
    float
    double

cdef struct Counts:
    int64_t positive, filled, not_finite


def convert(
    const number[:, ::1] rows, const int[::1] places, const float[::1] factors,
    float[:, ::1] out
):
    """Convert rows of coefficients.

    Parameters
    ----------
    rows : array of shape (N, C)
        They are used as float32.
    places, factors : arrays of shape (C,)
        As :func:`dipy_rnn.sampling.rotation.to_package_basis` returns.
    out : array of shape (N, C)
        Output.

    Returns
    -------
    n_positive, n_filled : int
        Number of values above 0, and of rows that are not zero.
    is_finite : bool
        Whether all values are finite as float32. If not, the other results are
        undefined.
    """
    cdef:
        Counts counts = Counts(0, 0, 0)

    with nogil:
        if rows.shape[0]:
            convert_rows(
                &rows[0, 0], rows.shape[0], rows.shape[1], &places[0], &factors[0],
                &out[0, 0], &counts)
    return counts.positive, counts.filled, counts.not_finite == 0


cdef wide_void convert_rows(
    const number* rows, Py_ssize_t n_rows, Py_ssize_t n_coeffs, const int* places,
    const float* factors, float* out, Counts* counts
) noexcept nogil:
    cdef:
        int n_positive, n_other, n_bad
        float value
        Py_ssize_t row, c

    for row in range(n_rows):
        n_positive = n_other = n_bad = 0
        for c in range(n_coeffs):
            value = <float>rows[c]
            n_positive += value > 0.0
            n_other += value != 0.0
            n_bad += value - value != 0.0
        if n_other == 0:  # most voxels are background
            memset(out, 0, n_coeffs * sizeof(float))
        else:
            counts.filled += 1
            counts.positive += n_positive
            counts.not_finite += n_bad
            for c in range(n_coeffs):
                out[c] = <float>rows[places[c]] * factors[c]
        rows += n_coeffs
        out += n_coeffs
