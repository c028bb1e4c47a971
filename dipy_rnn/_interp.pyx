# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Kernels: trilinear sampling, rotation of spherical harmonics.

The kernels do not check their arguments and raise no exceptions. The modules of
``dipy_rnn/sampling`` check arguments and allocate results. ``sampling/interpolate.py``
shows the border rule.

Points are processed in blocks of ``BLOCK``. A block holds its values coefficient by
coefficient, the points side by side. Every inner loop then runs over ``BLOCK``
neighbouring floats, and the compiler can use wide vector registers. If the C library
can choose a version of a function when it is loaded, there is one version for each
register width (``wide_void``).
"""

from cython.parallel cimport prange
from libc.math cimport floor, sqrt

cdef extern from "_lanes.h":
    ctypedef void wide_void
    void prefetch(const void* address) noexcept nogil
    ctypedef float aligned_float
    void blend(
        const float* volume, const Py_ssize_t* offsets, const float* weights,
        Py_ssize_t n_rows, Py_ssize_t n, float* out) noexcept nogil
    void sparse_sums(
        const int* starts, const int* columns, const float* values, Py_ssize_t n_rows,
        const float* x, float* out) noexcept nogil

cdef enum:
    LINE = 16  # floats in a cache line


cdef inline unsigned char finish(
    float* row, Py_ssize_t channels, bint normalise
) noexcept nogil:
    """Return the status of a row: EMPTY or DATA.

    If ``normalise`` is true, divide the row by the root of its power.
    """
    cdef:
        unsigned char status = EMPTY
        double power = 0.0
        double sums[4]  # independent sums are faster
        float scale
        Py_ssize_t c, k

    for c in range(channels):
        if row[c] != 0.0:  # NaN counts as data
            status = DATA
            break
    if normalise:
        for k in range(4):
            sums[k] = 0.0
        for c in range(0, channels - 3, 4):
            for k in range(4):
                sums[k] += <double>row[c + k] * row[c + k]
        for c in range(channels // 4 * 4, channels):
            power += <double>row[c] * row[c]
        power += (sums[0] + sums[1]) + (sums[2] + sums[3])
        if power > 0.0:
            scale = <float>(1.0 / sqrt(power))
            for c in range(channels):
                row[c] *= scale
    return status


cdef inline void turn_about_z(
    float* coeffs, Py_ssize_t order, const float* cosines, const float* sines
) noexcept nogil:
    """Rotate a block about z: +m and -m mix by cos and sin of m times the angle."""
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


cdef wide_void find_angles(
    const double* frames, Py_ssize_t n_points, Py_ssize_t order, double handedness,
    Angles* angles
) noexcept nogil:
    """Find the three angles of each frame of a block, and their multiples.

    With R = [e1 e2 e3] = Z(a) Y(b) Z(c) and Y(b) = X(-90) Z(b) X(90), the function
    f(R y) of the local coordinates y has the coefficients
    Z(c) X(90) Z(b) X(-90) Z(a) times those of f.
    """
    cdef:
        double ca[BLOCK]
        double sa[BLOCK]
        double cb[BLOCK]
        double sb[BLOCK]
        double cc[BLOCK]
        double sc[BLOCK]
        const double* e1
        const double* e3
        double across, length, x, y
        Py_ssize_t p

    for p in range(BLOCK):
        # Unused places repeat the last point, so their values are defined.
        e1 = frames + 9 * (p if p < n_points else n_points - 1)
        e3 = e1 + 6
        across = sqrt(e3[0] * e3[0] + e3[1] * e3[1])
        length = sqrt(across * across + e3[2] * e3[2])
        ca[p] = handedness
        sa[p] = 0.0
        if across > 0.0:
            ca[p] = handedness * e3[0] / across
            sa[p] = handedness * e3[1] / across
        cb[p] = handedness * e3[2] / length
        sb[p] = across / length
        # After rotations by -a and -b, e1 lies in the x-y plane at the angle c.
        x = handedness * (cb[p] * (ca[p] * e1[0] + sa[p] * e1[1]) - sb[p] * e1[2])
        y = handedness * (ca[p] * e1[1] - sa[p] * e1[0])
        length = sqrt(x * x + y * y)
        cc[p] = x / length
        sc[p] = y / length

    multiples(ca, sa, order, angles.cosines[0], angles.sines[0])
    multiples(cb, sb, order, angles.cosines[1], angles.sines[1])
    multiples(cc, sc, order, angles.cosines[2], angles.sines[2])


cdef wide_void rotate_block(
    float* here, Py_ssize_t n_coeffs, Py_ssize_t order, const Angles* angles,
    const Turns* turns
) noexcept nogil:
    """Rotate a block of coefficients by the angles of its frames, in place."""
    cdef aligned_float there[MAX_COEFFS * BLOCK]

    turn_about_z(here, order, angles.cosines[0], angles.sines[0])
    sparse_sums(turns.down_starts, turns.down_columns, turns.down_values, n_coeffs,
                here, there)
    turn_about_z(there, order, angles.cosines[1], angles.sines[1])
    sparse_sums(
        turns.up_starts, turns.up_columns, turns.up_values, n_coeffs, there, here)
    turn_about_z(here, order, angles.cosines[2], angles.sines[2])


cdef wide_void rotate_rows(
    float* rows, Py_ssize_t n_points, Py_ssize_t n_coeffs, Py_ssize_t order,
    const double* frames, double handedness, const Turns* turns
) noexcept nogil:
    """Rotate up to BLOCK rows of coefficients into their frames, in place."""
    cdef:
        aligned_float block[MAX_COEFFS * BLOCK]
        Angles angles
        Py_ssize_t p, c

    find_angles(frames, n_points, order, handedness, &angles)
    to_block(rows, n_coeffs, n_points, n_coeffs, block)
    rotate_block(block, n_coeffs, order, &angles, turns)
    for p in range(n_points):
        for c in range(n_coeffs):
            rows[p * n_coeffs + c] = block[c * BLOCK + p]


cdef wide_void find_rows(
    const float* volume, Py_ssize_t nx, Py_ssize_t ny, Py_ssize_t nz,
    Py_ssize_t voxel, Py_ssize_t channels, const double* points, Py_ssize_t n_points,
    Neighbours* near
) noexcept nogil:
    """Find the eight voxels around each point of a block, and their weights.

    Unused places repeat the last point. A point outside gets the voxels of 0, 0, 0. The
    voxels, which have ``voxel`` floats, are then fetched from memory.
    """
    cdef:
        double place[3][BLOCK]
        double weight[6][BLOCK]  # of the lower and the upper voxel, for each axis
        Py_ssize_t offset[6][BLOCK]
        Py_ssize_t size[3]
        Py_ssize_t stride[3]
        int is_inside[BLOCK]
        double point, limit
        int low, last
        Py_ssize_t axis, i, j, k, p, c, corner

    size[0], size[1], size[2] = nx, ny, nz
    stride[0], stride[1], stride[2] = ny * nz * voxel, nz * voxel, voxel
    for p in range(BLOCK):
        is_inside[p] = 1
        for axis in range(3):
            place[axis][p] = points[3 * (p if p < n_points else n_points - 1) + axis]
    # Without branches, so that the compiler can use vectors.
    for axis in range(3):
        limit = size[axis] - 0.5
        last = <int>size[axis] - 1
        for p in range(BLOCK):
            point = place[axis][p]
            # NaN counts as outside.
            is_inside[p] &= <int>(point >= -0.5) & <int>(point < limit)
        for p in range(BLOCK):
            point = place[axis][p] if is_inside[p] else 0.0
            low = <int>floor(point)
            weight[2 * axis + 1][p] = point - low
            weight[2 * axis][p] = 1.0 - weight[2 * axis + 1][p]
            offset[2 * axis][p] = <Py_ssize_t>(low if low > 0 else 0) * stride[axis]
            offset[2 * axis + 1][p] = (
                <Py_ssize_t>(low + 1 if low < last else last) * stride[axis])
    for p in range(BLOCK):
        near.inside[p] = <unsigned char>is_inside[p]
    for i in range(2):
        for j in range(2):
            for k in range(2):
                for p in range(BLOCK):
                    near.offset[4 * i + 2 * j + k][p] = (
                        offset[i][p] + offset[2 + j][p] + offset[4 + k][p])
                    near.weight[4 * i + 2 * j + k][p] = <float>(
                        weight[i][p] * weight[2 + j][p] * weight[4 + k][p])
    for p in range(n_points):
        for corner in range(8):
            for c in range((channels + LINE - 1) // LINE):
                prefetch(volume + near.offset[corner][p] + c * LINE)
            if voxel % LINE:  # voxels begin anywhere in a line
                prefetch(volume + near.offset[corner][p] + channels - 1)


cdef wide_void sample_rows(
    const float* volume, Py_ssize_t channels, const Neighbours* near,
    Py_ssize_t n_points, bint normalise, float* rows, unsigned char* status
) noexcept nogil:
    """Sample the first channels of a volume at BLOCK points."""
    cdef Py_ssize_t p, c

    blend(volume, near.offset[0], near.weight[0], n_points, channels, rows)
    for p in range(n_points):
        if near.inside[p]:
            status[p] = finish(rows + p * channels, channels, normalise)
        else:
            status[p] = OUTSIDE
            for c in range(channels):
                rows[p * channels + c] = 0.0


cdef void find_points(
    const float[:, :, :, ::1] volume, Py_ssize_t n_coeffs, const double* points,
    Py_ssize_t n_points, Neighbours* near
) noexcept nogil:
    """Find the voxels around up to BLOCK points, for other kernels.

    They are fetched from memory while other work is done, before they are sampled.
    """
    find_rows(
        &volume[0, 0, 0, 0], volume.shape[0], volume.shape[1], volume.shape[2],
        volume.shape[3], n_coeffs, points, n_points, near)


cdef void sample_points(
    const float[:, :, :, ::1] volume, Py_ssize_t n_coeffs, const Neighbours* near,
    Py_ssize_t n_points, bint normalise, float* rows, unsigned char* status
) noexcept nogil:
    """Sample the first coefficients at points that were found, for other kernels."""
    sample_rows(
        &volume[0, 0, 0, 0], n_coeffs, near, n_points, normalise, rows, status)


cdef void angles_of(
    const double* frames, Py_ssize_t n_points, Py_ssize_t order, double handedness,
    Angles* angles
) noexcept nogil:
    """Find the angles of up to BLOCK frames, for other kernels."""
    find_angles(frames, n_points, order, handedness, angles)


cdef void rotate_points(
    const float* rows, Py_ssize_t row_size, Py_ssize_t n_points, Py_ssize_t n_coeffs,
    Py_ssize_t order, const Angles* angles, const Turns* turns, float* block
) noexcept nogil:
    """Rotate up to BLOCK rows by the angles of their frames, for other kernels.

    ``block`` gets the result coefficient by coefficient, the points side by side.
    """
    to_block(rows, row_size, n_points, n_coeffs, block)
    rotate_block(block, n_coeffs, order, angles, turns)


cdef Turns turns_of(tuple tables):
    """Point to tables, which the caller keeps alive (``rotation.quarter_turns``)."""
    cdef:
        Turns turns
        const int[::1] down_starts = tables[0]
        const int[::1] down_columns = tables[1]
        const float[::1] down_values = tables[2]
        const int[::1] up_starts = tables[3]
        const int[::1] up_columns = tables[4]
        const float[::1] up_values = tables[5]

    turns.down_starts = &down_starts[0]
    turns.down_columns = &down_columns[0]
    turns.down_values = &down_values[0]
    turns.up_starts = &up_starts[0]
    turns.up_columns = &up_columns[0]
    turns.up_values = &up_values[0]
    return turns


cdef void sample_block(
    const float[:, :, :, ::1] volume, const double* points, Py_ssize_t n_points,
    bint normalise, float* rows, unsigned char* status
) noexcept nogil:
    """Find and sample up to BLOCK points."""
    cdef Neighbours near

    find_points(volume, volume.shape[3], points, n_points, &near)
    sample_points(
        volume, volume.shape[3], &near, n_points, normalise, rows, status)


def sample(
    const float[:, :, :, ::1] volume, const double[:, ::1] points,
    const double[:, :, ::1] frames, double handedness, Py_ssize_t order, tuple tables,
    bint normalise, float[:, ::1] out, unsigned char[::1] status, int nbr_threads
):
    """Sample a volume. Optionally rotate the rows (order > 0) and normalise them."""
    cdef:
        Py_ssize_t channels = volume.shape[3]
        Py_ssize_t n_points = points.shape[0]
        Py_ssize_t n_blocks = (n_points + BLOCK - 1) // BLOCK
        Py_ssize_t block
        Turns turns = turns_of(tables)

    for block in prange(n_blocks, nogil=True, num_threads=nbr_threads,
                        schedule="static"):
        sample_block(
            volume, &points[block * BLOCK, 0], min(BLOCK, n_points - block * BLOCK),
            normalise, &out[block * BLOCK, 0], &status[block * BLOCK])
        if order > 0:
            rotate_rows(
                &out[block * BLOCK, 0], min(BLOCK, n_points - block * BLOCK),
                channels, order, &frames[block * BLOCK, 0, 0], handedness, &turns)


def rotate(
    float[:, ::1] coeffs, const double[:, :, ::1] frames, double handedness,
    Py_ssize_t order, tuple tables, int nbr_threads
):
    """Rotate rows of coefficients into frames, in place."""
    cdef:
        Py_ssize_t n_points = coeffs.shape[0]
        Py_ssize_t n_blocks = (n_points + BLOCK - 1) // BLOCK
        Py_ssize_t block
        Turns turns = turns_of(tables)

    for block in prange(n_blocks, nogil=True, num_threads=nbr_threads,
                        schedule="static"):
        rotate_rows(
            &coeffs[block * BLOCK, 0], min(BLOCK, n_points - block * BLOCK),
            coeffs.shape[1], order, &frames[block * BLOCK, 0, 0], handedness, &turns)
