# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Kernels: trilinear sampling and the rotation of spherical harmonics.

No checks and no exceptions in here: ``interpolate.py`` is the face that checks,
allocates and explains, and draws the border rule.

Points are worked on in blocks of ``BLOCK``. Within a block the coefficients lie
coefficient by coefficient, the points side by side, so that every inner loop of
the rotation runs over ``BLOCK`` neighbouring floats and the compiler can use the
full width of the machine.
"""

from cython.parallel cimport prange
from libc.math cimport floor, sqrt

cdef enum:
    BLOCK = 16
    MAX_ORDER = 16
    MAX_COEFFS = 153  # (MAX_ORDER + 1) * (MAX_ORDER + 2) / 2

cdef struct Corners:
    Py_ssize_t offset[8]
    double weight[8]


cdef inline bint find_corners(
    const double* point, Py_ssize_t nx, Py_ssize_t ny, Py_ssize_t nz,
    Py_ssize_t channels, Corners* corners
) noexcept nogil:
    """Find the eight voxels around a point and their weights; False: outside."""
    cdef:
        Py_ssize_t size[3]
        Py_ssize_t low[3]
        Py_ssize_t high[3]
        double weight_low[3]
        double weight_high[3]
        double whole
        Py_ssize_t axis, i, j, k, corner

    size[0] = nx
    size[1] = ny
    size[2] = nz
    for axis in range(3):
        # Written so that NaN is outside.
        if not (point[axis] >= -0.5 and point[axis] < size[axis] - 0.5):
            return False
        whole = floor(point[axis])
        low[axis] = <Py_ssize_t>whole
        high[axis] = low[axis] + 1
        weight_high[axis] = point[axis] - whole
        weight_low[axis] = 1.0 - weight_high[axis]
        if low[axis] < 0:
            low[axis] = 0
        if high[axis] > size[axis] - 1:
            high[axis] = size[axis] - 1

    for i in range(2):
        for j in range(2):
            for k in range(2):
                corner = 4 * i + 2 * j + k
                corners.offset[corner] = channels * (
                    ((high[0] if i else low[0]) * ny + (high[1] if j else low[1])) * nz
                    + (high[2] if k else low[2])
                )
                corners.weight[corner] = (
                    (weight_high[0] if i else weight_low[0])
                    * (weight_high[1] if j else weight_low[1])
                    * (weight_high[2] if k else weight_low[2])
                )
    return True


cdef inline void blend(
    const float* volume, const Corners* corners, Py_ssize_t channels, float* out
) noexcept nogil:
    """Write the weighted sum of eight voxels."""
    cdef:
        const float* v0 = volume + corners.offset[0]
        const float* v1 = volume + corners.offset[1]
        const float* v2 = volume + corners.offset[2]
        const float* v3 = volume + corners.offset[3]
        const float* v4 = volume + corners.offset[4]
        const float* v5 = volume + corners.offset[5]
        const float* v6 = volume + corners.offset[6]
        const float* v7 = volume + corners.offset[7]
        float w0 = <float>corners.weight[0]
        float w1 = <float>corners.weight[1]
        float w2 = <float>corners.weight[2]
        float w3 = <float>corners.weight[3]
        float w4 = <float>corners.weight[4]
        float w5 = <float>corners.weight[5]
        float w6 = <float>corners.weight[6]
        float w7 = <float>corners.weight[7]
        Py_ssize_t c

    for c in range(channels):
        out[c] = (
            (w0 * v0[c] + w1 * v1[c]) + (w2 * v2[c] + w3 * v3[c])
            + (w4 * v4[c] + w5 * v5[c]) + (w6 * v6[c] + w7 * v7[c])
        )


cdef inline void normalise_row(float* row, Py_ssize_t channels) noexcept nogil:
    """Divide a row by the root of its summed squares; zero stays zero."""
    cdef:
        double power = 0.0
        float scale
        Py_ssize_t c

    for c in range(channels):
        power += <double>row[c] * row[c]
    if power > 0.0:
        scale = <float>(1.0 / sqrt(power))
        for c in range(channels):
            row[c] *= scale


cdef inline void multiples(
    double cosine, double sine, Py_ssize_t order, Py_ssize_t p,
    float* cosines, float* sines
) noexcept nogil:
    """Write cos and sin of 1, 2 .. order times an angle into column p."""
    cdef:
        double c = cosine
        double s = sine
        double previous
        Py_ssize_t m

    for m in range(1, order + 1):
        cosines[m * BLOCK + p] = <float>c
        sines[m * BLOCK + p] = <float>s
        previous = c
        c = c * cosine - s * sine
        s = s * cosine + previous * sine


cdef inline void turn_about_z(
    float* coeffs, Py_ssize_t order, const float* cosines, const float* sines
) noexcept nogil:
    """Turn a block about z: +m and -m mix by cos and sin of m times the angle."""
    cdef:
        Py_ssize_t ell, m, p, middle
        float* plus
        float* minus
        const float* c
        const float* s
        float a

    for ell in range(2, order + 1, 2):
        middle = ell * (ell + 1) // 2
        for m in range(1, ell + 1):
            plus = coeffs + (middle + m) * BLOCK
            minus = coeffs + (middle - m) * BLOCK
            c = cosines + m * BLOCK
            s = sines + m * BLOCK
            for p in range(BLOCK):
                a = plus[p]
                plus[p] = a * c[p] + minus[p] * s[p]
                minus[p] = minus[p] * c[p] - a * s[p]


cdef inline void turn_about_x(
    const float* coeffs, Py_ssize_t n_coeffs, const int* starts, const int* columns,
    const float* values, float* out
) noexcept nogil:
    """Multiply a block by a sparse matrix in CSR form."""
    cdef:
        Py_ssize_t row, entry, p
        const float* source
        float* target
        float value

    for row in range(n_coeffs):
        target = out + row * BLOCK
        for p in range(BLOCK):
            target[p] = 0.0
        for entry in range(starts[row], starts[row + 1]):
            source = coeffs + <Py_ssize_t>columns[entry] * BLOCK
            value = values[entry]
            for p in range(BLOCK):
                target[p] += value * source[p]


cdef inline void rotate_block(
    float* rows, Py_ssize_t n_points, Py_ssize_t n_coeffs, Py_ssize_t order,
    const double* frames, double handedness,
    const int* down_starts, const int* down_columns, const float* down_values,
    const int* up_starts, const int* up_columns, const float* up_values
) noexcept nogil:
    """Rotate up to BLOCK rows of coefficients into their frames, in place.

    With R = [e1 e2 e3] = Z(a) Y(b) Z(c) and Y(b) = X(-90) Z(b) X(90), the function
    f(R y) of the local coordinates y has the coefficients
    Z(c) X(90) Z(b) X(-90) Z(a) times those of f.
    """
    cdef:
        float here[MAX_COEFFS * BLOCK]
        float there[MAX_COEFFS * BLOCK]
        float cos_a[(MAX_ORDER + 1) * BLOCK]
        float sin_a[(MAX_ORDER + 1) * BLOCK]
        float cos_b[(MAX_ORDER + 1) * BLOCK]
        float sin_b[(MAX_ORDER + 1) * BLOCK]
        float cos_c[(MAX_ORDER + 1) * BLOCK]
        float sin_c[(MAX_ORDER + 1) * BLOCK]
        const double* e1
        const double* e3
        double across, length, ca, sa, cb, sb, x, y
        Py_ssize_t p, c

    for p in range(BLOCK):
        # Rows beyond the last point repeat it: defined values, thrown away.
        e1 = frames + 9 * (p if p < n_points else n_points - 1)
        e3 = e1 + 6
        across = sqrt(e3[0] * e3[0] + e3[1] * e3[1])
        length = sqrt(across * across + e3[2] * e3[2])
        ca = handedness
        sa = 0.0
        if across > 0.0:
            ca = handedness * e3[0] / across
            sa = handedness * e3[1] / across
        cb = handedness * e3[2] / length
        sb = across / length
        # e1 turned back by a, then by b, lies in the x-y plane at the angle c.
        x = handedness * (cb * (ca * e1[0] + sa * e1[1]) - sb * e1[2])
        y = handedness * (ca * e1[1] - sa * e1[0])
        length = sqrt(x * x + y * y)
        multiples(ca, sa, order, p, cos_a, sin_a)
        multiples(cb, sb, order, p, cos_b, sin_b)
        multiples(x / length, y / length, order, p, cos_c, sin_c)

    for p in range(BLOCK):
        for c in range(n_coeffs):
            here[c * BLOCK + p] = rows[
                (p if p < n_points else n_points - 1) * n_coeffs + c]

    turn_about_z(here, order, cos_a, sin_a)
    turn_about_x(here, n_coeffs, down_starts, down_columns, down_values, there)
    turn_about_z(there, order, cos_b, sin_b)
    turn_about_x(there, n_coeffs, up_starts, up_columns, up_values, here)
    turn_about_z(here, order, cos_c, sin_c)

    for p in range(n_points):
        for c in range(n_coeffs):
            rows[p * n_coeffs + c] = here[c * BLOCK + p]


def sample(
    const float[:, :, :, ::1] volume, const double[:, ::1] points,
    const double[:, :, ::1] frames, double handedness, Py_ssize_t order,
    const int[::1] down_starts, const int[::1] down_columns,
    const float[::1] down_values, const int[::1] up_starts,
    const int[::1] up_columns, const float[::1] up_values,
    bint normalise, float[:, ::1] out, unsigned char[::1] inside, int nbr_threads
):
    """Sample a volume, turn the rows into frames (order > 0) and normalise them."""
    cdef:
        Py_ssize_t nx = volume.shape[0]
        Py_ssize_t ny = volume.shape[1]
        Py_ssize_t nz = volume.shape[2]
        Py_ssize_t channels = volume.shape[3]
        Py_ssize_t n_points = points.shape[0]
        Py_ssize_t n_blocks = (n_points + BLOCK - 1) // BLOCK
        Py_ssize_t block

    for block in prange(n_blocks, nogil=True, num_threads=nbr_threads,
                        schedule="static"):
        sample_block(
            &volume[0, 0, 0, 0], nx, ny, nz, channels, &points[block * BLOCK, 0],
            min(BLOCK, n_points - block * BLOCK),
            &frames[block * BLOCK, 0, 0] if order > 0 else NULL, handedness, order,
            &down_starts[0], &down_columns[0], &down_values[0],
            &up_starts[0], &up_columns[0], &up_values[0],
            normalise, &out[block * BLOCK, 0], &inside[block * BLOCK])


cdef void sample_block(
    const float* volume, Py_ssize_t nx, Py_ssize_t ny, Py_ssize_t nz,
    Py_ssize_t channels, const double* points, Py_ssize_t n_points,
    const double* frames, double handedness, Py_ssize_t order,
    const int* down_starts, const int* down_columns, const float* down_values,
    const int* up_starts, const int* up_columns, const float* up_values,
    bint normalise, float* out, unsigned char* inside
) noexcept nogil:
    cdef:
        Corners corners
        Py_ssize_t p, c

    for p in range(n_points):
        inside[p] = find_corners(points + 3 * p, nx, ny, nz, channels, &corners)
        if inside[p]:
            blend(volume, &corners, channels, out + p * channels)
            if normalise:
                normalise_row(out + p * channels, channels)
        else:
            for c in range(channels):
                out[p * channels + c] = 0.0
    if order > 0:
        rotate_block(
            out, n_points, channels, order, frames, handedness,
            down_starts, down_columns, down_values,
            up_starts, up_columns, up_values)


def rotate(
    float[:, ::1] coeffs, const double[:, :, ::1] frames, double handedness,
    Py_ssize_t order, const int[::1] down_starts, const int[::1] down_columns,
    const float[::1] down_values, const int[::1] up_starts,
    const int[::1] up_columns, const float[::1] up_values, int nbr_threads
):
    """Turn rows of coefficients into frames, in place."""
    cdef:
        Py_ssize_t n_points = coeffs.shape[0]
        Py_ssize_t n_blocks = (n_points + BLOCK - 1) // BLOCK
        Py_ssize_t block

    for block in prange(n_blocks, nogil=True, num_threads=nbr_threads,
                        schedule="static"):
        rotate_block(
            &coeffs[block * BLOCK, 0], min(BLOCK, n_points - block * BLOCK),
            coeffs.shape[1], order, &frames[block * BLOCK, 0, 0], handedness,
            &down_starts[0], &down_columns[0], &down_values[0],
            &up_starts[0], &up_columns[0], &up_values[0])
