# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Context, and the parts of features that turn alike, for the kernel of ContextGRU.

All arrays are in rows. A row is a number of each streamline of a block.
"""

from libc.math cimport sqrt, sqrtf
from libc.string cimport memcpy

from dipy_rnn._interp cimport (
    BLOCK, MAX_COEFFS, MAX_ORDER, Angles, Neighbours, Turns, find_points, multiples,
    rotate_points, sample_points,
)

cdef extern from "_lanes.h":
    ctypedef void wide_void
    ctypedef float aligned_float
    void fourier_parts(
        const float* values, Py_ssize_t stride, Py_ssize_t n, const float* first,
        const float* second, float* mean, float* cos_1, float* sin_1, float* cos_2,
        float* sin_2) noexcept nogil

cdef inline void power_of(
    const float* block, Py_ssize_t n_coeffs, float* power
) noexcept nogil:
    """Write the root of the summed squares of each streamline's coefficients."""
    cdef Py_ssize_t c, p

    for p in range(BLOCK):
        power[p] = 0.0
    for c in range(n_coeffs):
        for p in range(BLOCK):
            power[p] += block[c * BLOCK + p] * block[c * BLOCK + p]
    for p in range(BLOCK):
        power[p] = sqrtf(power[p])


cdef wide_void roll_block(
    float* block, Py_ssize_t order, const float* cosines, const float* sines
) noexcept nogil:
    """Roll the frame of a block about z. Row m of both tables is m times the angle."""
    cdef:
        float* plus
        float* minus
        float c, s, a
        Py_ssize_t ell, m, middle, p

    for ell in range(2, order + 1, 2):
        middle = ell * (ell + 1) // 2
        for m in range(1, ell + 1):
            c, s = cosines[m], sines[m]
            plus = block + (middle + m) * BLOCK
            minus = block + (middle - m) * BLOCK
            for p in range(BLOCK):
                a = plus[p]
                plus[p] = a * c + minus[p] * s
                minus[p] = minus[p] * c - a * s


cdef wide_void find_compass(
    const float* own, Py_ssize_t n_coeffs, float steady, double* cosine, double* sine
) noexcept nogil:
    """Write cosine and sine of the compass: ``sampling.compass``."""
    cdef:
        aligned_float power[BLOCK]
        double x, y, length
        Py_ssize_t p

    power_of(own, n_coeffs, power)
    for p in range(BLOCK):
        x = own[4 * BLOCK + p] + <double>steady * power[p]
        y = own[2 * BLOCK + p]
        length = sqrt(x * x + y * y)
        cosine[p] = x / length if length > 0.0 else 1.0
        sine[p] = y / length if length > 0.0 else 0.0


cdef wide_void roll_angles(
    const Angles* angles, const double* cosine, const double* sine, Py_ssize_t order,
    Angles* rolled
) noexcept nogil:
    """Add the angle of the compass to the third angle of the frames."""
    cdef:
        aligned_float c[(MAX_ORDER + 1) * BLOCK]
        aligned_float s[(MAX_ORDER + 1) * BLOCK]
        Py_ssize_t i

    rolled[0] = angles[0]
    multiples(cosine, sine, order, c, s)
    for i in range(BLOCK, (order + 1) * BLOCK):
        rolled.cosines[2][i] = (
            angles.cosines[2][i] * c[i] - angles.sines[2][i] * s[i])
        rolled.sines[2][i] = angles.sines[2][i] * c[i] + angles.cosines[2][i] * s[i]


cdef void sample_around(
    const sizes* n, const places* at, const double* edge, const float* own,
    const float[:, :, :, ::1] volume, const double* points, const double* frames,
    Py_ssize_t n_points, const Angles* angles, const Turns* turns, double* compass,
    float* around
) noexcept nogil:
    """Sample the context of a block, in the rolled frames: sample_context.

    ``compass`` gets its cosine, then its sine.
    """
    cdef:
        double* cosine = compass
        double* sine = compass + BLOCK
        double here[3 * BLOCK]
        aligned_float rows[MAX_COEFFS * BLOCK]
        unsigned char status[BLOCK]
        Angles rolled
        # Voxels of this place, and of the next one, which are being fetched.
        Neighbours near[2]
        float* target
        Py_ssize_t sampled = volume.shape[3]  # whole cache lines
        Py_ssize_t place, m = n.context_order + 1

    find_compass(own, n.own_coeffs, n.steady, cosine, sine)
    roll_angles(angles, cosine, sine, n.context_order, &rolled)
    for place in range(-1, n.places):
        if place + 1 < n.places:
            place_of(at.offsets + 3 * (place + 1), edge, cosine, sine, points, frames,
                     n_points, here)
            find_points(volume, sampled, here, n_points, &near[(place + 1) % 2])
        if place < 0:
            continue
        sample_points(
            volume, sampled, &near[place % 2], n_points, False, rows, status)
        target = around + place * n.context_coeffs * BLOCK
        rotate_points(rows, sampled, n_points, n.context_coeffs, n.context_order,
                      &rolled if place >= n.ahead else angles, turns, target)
        if place >= n.ahead:
            roll_block(target, n.context_order, at.roll_cosines + place * m,
                       at.roll_sines + place * m)


cdef wide_void place_of(
    const double* offset, const double* edge, const double* cosine, const double* sine,
    const double* points, const double* frames, Py_ssize_t n_points, double* here
) noexcept nogil:
    """Write one place of the context of each point, in voxel coordinates."""
    cdef:
        double x, y
        Py_ssize_t p, axis

    for p in range(n_points):
        x = offset[0] * cosine[p] - offset[1] * sine[p]
        y = offset[0] * sine[p] + offset[1] * cosine[p]
        for axis in range(3):
            here[3 * p + axis] = points[3 * p + axis] + edge[axis] * (
                x * frames[9 * p + axis] + y * frames[9 * p + 3 + axis]
                + offset[2] * frames[9 * p + 6 + axis])


cdef wide_void scale_all(const sizes* n, float* own, float* around) noexcept nogil:
    """Divide the coefficients at and around a point by one number: join_context."""
    cdef:
        aligned_float power[BLOCK]
        aligned_float scale[BLOCK]
        aligned_float beside[BLOCK]
        Py_ssize_t place, c, p
        float value

    power_of(own, n.own_coeffs, power)
    for p in range(BLOCK):
        beside[p] = 0.0
    for place in range(n.places):
        power_of(around + place * n.context_coeffs * BLOCK, n.context_coeffs, scale)
        for p in range(BLOCK):
            beside[p] += scale[p]
    for p in range(BLOCK):
        value = 0.5 * beside[p] / n.places if n.places > 0 else 0.0
        value = value if value > power[p] else power[p]
        scale[p] = 1.0 / value if power[p] > 0.0 else 0.0
    for c in range(n.own_coeffs):
        for p in range(BLOCK):
            own[c * BLOCK + p] *= scale[p]
    for c in range(n.places * n.context_coeffs):
        for p in range(BLOCK):
            value = around[c * BLOCK + p] * scale[p]
            value = value if value < n.largest else n.largest
            around[c * BLOCK + p] = value if value > -n.largest else -n.largest


cdef inline void parts_of_point(
    const float* block, Py_ssize_t order, float** scalars, float** higher,
    float** x, float** y, float** twofold_x, float** twofold_y
) noexcept nogil:
    """Add the parts of coefficients in the moving frame. Each pointer moves on."""
    cdef:
        const float* plus
        const float* minus
        Py_ssize_t ell, m, middle, p

    for ell in range(0, order + 1, 2):
        middle = ell * (ell + 1) // 2
        memcpy(scalars[0], block + middle * BLOCK, BLOCK * sizeof(float))
        scalars[0] += BLOCK
        for m in range(1, ell + 1):
            plus = block + (middle + m) * BLOCK
            minus = block + (middle - m) * BLOCK
            if m == 1:
                memcpy(x[0], plus, BLOCK * sizeof(float))
                memcpy(y[0], minus, BLOCK * sizeof(float))
                x[0] += BLOCK
                y[0] += BLOCK
            elif m == 2:
                memcpy(twofold_x[0], plus, BLOCK * sizeof(float))
                memcpy(twofold_y[0], minus, BLOCK * sizeof(float))
                twofold_x[0] += BLOCK
                twofold_y[0] += BLOCK
            else:
                for p in range(BLOCK):
                    higher[0][p] = sqrtf(
                        plus[p] * plus[p] + minus[p] * minus[p] + <float>1e-6)
                higher[0] += BLOCK


cdef inline void parts_of_ring(
    const float* ring, const sizes* n, const places* at, float* scalars,
    float* x, float* y, float* twofold_x, float* twofold_y
) noexcept nogil:
    """Write Fourier parts over a ring: first of coefficients of +m, then of -m.

    Those of -m are turned by a quarter, as in ``ContextGRU.split``. ``scalars`` gets
    the means of coefficients of +m.
    """
    cdef:
        aligned_float mean[BLOCK]
        Py_ssize_t ell, m, row, c = 0, even = 0, odd = 0

    for ell in range(0, n.context_order + 1, 2):
        odd += (ell + 1) * BLOCK
    for ell in range(0, n.context_order + 1, 2):
        for m in range(-ell, ell + 1):
            row = even if m >= 0 else odd
            fourier_parts(
                ring + c * BLOCK, n.context_coeffs * BLOCK, n.around, at.first,
                at.second, scalars + even if m >= 0 else mean, x + row, y + row,
                twofold_x + row, twofold_y + row)
            if m >= 0:
                even += BLOCK
            else:
                quarter_turn(x + row, y + row)
                quarter_turn(twofold_x + row, twofold_y + row)
                odd += BLOCK
            c += 1


cdef inline void quarter_turn(float* x, float* y) noexcept nogil:
    """Turn a vector of each streamline by a quarter."""
    cdef:
        float a
        Py_ssize_t p

    for p in range(BLOCK):
        a = x[p]
        x[p] = -y[p]
        y[p] = a


cdef inline void turn_parts(
    float* x, float* y, Py_ssize_t n_parts, const float* cosine, const float* sine
) noexcept nogil:
    """Turn vectors by an angle for each streamline."""
    cdef:
        float a
        Py_ssize_t i, p

    for i in range(n_parts):
        for p in range(BLOCK):
            a = x[i * BLOCK + p]
            x[i * BLOCK + p] = cosine[p] * a - sine[p] * y[i * BLOCK + p]
            y[i * BLOCK + p] = cosine[p] * y[i * BLOCK + p] + sine[p] * a


cdef wide_void split_block(
    const sizes* n, const places* at, const double* compass, const float* own,
    const float* around, float* scalars, float* x, float* y, float* twofold_x, float* twofold_y
) noexcept nogil:
    """Write scalars, vectors and double vectors: ``ContextGRU.split``.

    ``compass`` is only read if there are rings.
    """
    cdef:
        Py_ssize_t of_place = n.context_coeffs * BLOCK
        Py_ssize_t n_scalars = n.order // 2 + 1
        const float* ring
        float* higher
        aligned_float c1[BLOCK]
        aligned_float s1[BLOCK]
        aligned_float c2[BLOCK]
        aligned_float s2[BLOCK]
        Py_ssize_t i, p

    n_scalars += n.ahead * (n.context_order // 2 + 1)
    higher = scalars + n_scalars * BLOCK
    parts_of_point(own, n.order, &scalars, &higher, &x, &y, &twofold_x, &twofold_y)
    for i in range(n.ahead):
        parts_of_point(around + i * of_place, n.context_order, &scalars, &higher, &x,
                       &y, &twofold_x, &twofold_y)
    if n.rings == 0:
        return
    for p in range(BLOCK):
        c1[p], s1[p] = <float>compass[p], <float>compass[BLOCK + p]
        c2[p], s2[p] = c1[p] * c1[p] - s1[p] * s1[p], 2 * c1[p] * s1[p]
    scalars = higher
    for i in range(n.rings):
        ring = around + (n.ahead + i * n.around) * of_place
        parts_of_ring(ring, n, at, scalars, x, y, twofold_x, twofold_y)
        scalars += (n.context_order // 2 + 1) ** 2 * BLOCK
        # Parts over a ring have their angle from the compass.
        turn_parts(x, y, n.context_coeffs, c1, s1)
        turn_parts(twofold_x, twofold_y, n.context_coeffs, c2, s2)
        x += of_place
        y += of_place
        twofold_x += of_place
        twofold_y += of_place


cdef inline void shorten(
    const float* x, const float* y, Py_ssize_t n_vectors, float short_square,
    float* short_x, float* short_y
) noexcept nogil:
    """Replace lengths of vectors by their square roots, nearly."""
    cdef:
        float square, scale
        Py_ssize_t i

    for i in range(n_vectors * BLOCK):
        square = x[i] * x[i] + y[i] * y[i]
        scale = 1.0 / sqrtf(sqrtf(square + short_square))
        short_x[i] = x[i] * scale
        short_y[i] = y[i] * scale


cdef wide_void multiply_block(
    const sizes* n, const float** mixed, float** short, float* out
) noexcept nogil:
    """Write inner products of vectors, those with double vectors, and lengths.

    ``mixed`` and ``short`` are x and y of vectors, then those of double vectors.
    ``short`` gets the shortened vectors.
    """
    cdef:
        const float* x = short[0]
        const float* y = short[1]
        const float* twofold_x = short[2]
        const float* twofold_y = short[3]
        const float* ax
        const float* ay
        const float* bx
        const float* by
        aligned_float square_x[BLOCK]
        aligned_float square_y[BLOCK]
        Py_ssize_t a, b, p

    shorten(mixed[0], mixed[1], n.every, n.short_square, short[0], short[1])
    shorten(mixed[2], mixed[3], n.twofold, n.short_square, short[2], short[3])
    for a in range(n.every):
        ax, ay = x + a * BLOCK, y + a * BLOCK
        for b in range(a, n.every):
            bx, by = x + b * BLOCK, y + b * BLOCK
            for p in range(BLOCK):
                out[p] = ax[p] * bx[p] + ay[p] * by[p]
            out += BLOCK
    for a in range(n.every):
        ax, ay = x + a * BLOCK, y + a * BLOCK
        for p in range(BLOCK):
            square_x[p] = ax[p] * ax[p] - ay[p] * ay[p]
            square_y[p] = 2 * ax[p] * ay[p]
        for b in range(n.twofold):
            bx, by = twofold_x + b * BLOCK, twofold_y + b * BLOCK
            for p in range(BLOCK):
                out[p] = square_x[p] * bx[p] + square_y[p] * by[p]
            out += BLOCK
    for b in range(n.twofold):
        bx, by = twofold_x + b * BLOCK, twofold_y + b * BLOCK
        for p in range(BLOCK):
            out[p] = bx[p] * bx[p] + by[p] * by[p]
        out += BLOCK


# A function for several vector widths cannot be exported.


cdef void split(
    const sizes* n, const places* at, const double* compass, float* own, float* around,
    float* scalars, float** parts
) noexcept nogil:
    """Scale the coefficients (join_context), and split them: ``ContextGRU.split``.

    ``parts`` are x and y of vectors, then those of double vectors.
    """
    scale_all(n, own, around)
    split_block(n, at, compass, own, around, scalars, parts[0], parts[1], parts[2],
                parts[3])


cdef void multiply(
    const sizes* n, const float** mixed, float** short, float* out
) noexcept nogil:
    """Call :func:`multiply_block`."""
    multiply_block(n, mixed, short, out)
