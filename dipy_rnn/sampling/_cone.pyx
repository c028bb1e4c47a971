# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""The largest value of an fODF in a cone as a kernel: ``Cone.largest``."""

from libc.math cimport fabsf, sqrtf
from libc.string cimport memcpy

import numpy as np

from dipy_rnn._interp cimport BLOCK

from dipy_rnn.sampling.cone import ROUNDING as _ROUNDING
from dipy_rnn.sampling.rotation import sh_order as _sh_order

cdef float ROUNDING = _ROUNDING

cdef enum:
    # Neighbours of a vertex, and rows of the matrix of its parabola.
    NEAR = 8
    TERMS = 5
    # Terms are stored in rows of 8 numbers, which fit vector registers.
    ROW = 8


cdef object panels_of(weights):
    """Return a matrix (inputs, outputs) in panels, for ``weighted_sums`` of ``_lanes.h``.

    Outputs of zeros fill the last panel.
    """
    n_in, n_out = weights.shape
    weights = np.pad(weights, ((0, 0), (0, -n_out % PANEL)))
    return weights.reshape(n_in, -1, PANEL).transpose(1, 0, 2).ravel()


cdef object azimuthal_in_panels(cone, order):
    """Return the azimuthal factors of an order: even phase factors, then odd ones.

    Only the first half of each ring is kept. Half a turn further, terms of even phase
    factors are the same, and odd ones change sign.
    """
    skipped = len(cone.azimuthal) // 2 - order
    rows = cone.azimuthal[skipped:len(cone.azimuthal) - skipped]
    panels = []
    for start, size in zip(np.cumsum(cone.ring_sizes), cone.ring_sizes[1:]):
        half = rows[:, start:start + size // 2]
        panels += [panels_of(half[0::2]), panels_of(half[1::2])]
    return np.concatenate(panels)


cdef object polar_in_panels(cone, order):
    """Return the polar factors: for each phase factor, those of its orders."""
    panels = []
    for m in range(-order, order + 1):
        ells = np.arange(abs(m) + m % 2, order + 1, 2)
        panels.append(panels_of(cone.polar[ells * (ells + 1) // 2 + m]))
    return np.concatenate(panels)


cdef class CompiledCone:
    """A cone as a kernel.

    Parameters
    ----------
    cone : dipy_rnn.sampling.Cone
    n_coeffs : int
        Number of coefficients of the volume.
    """

    def __cinit__(self, cone, n_coeffs):
        order = _sh_order(n_coeffs)
        n_inside = len(cone.directions)
        parabola = np.zeros((n_inside, NEAR, ROW), np.float32)
        parabola[:, :, :TERMS] = cone.parabola.transpose(0, 2, 1)
        vertices = np.concatenate(
            [cone.directions, cone.tangents.reshape(n_inside, 6)], axis=1)
        cdef:
            const float[:, :, ::1] parabola_view = parabola
            const float[:, ::1] vertices_view = vertices
            const int[:, ::1] near = cone.near
            const int[::1] ring_sizes = cone.ring_sizes
            const float[::1] polar = polar_in_panels(cone, order)
            const float[::1] azimuthal = azimuthal_in_panels(cone, order)
        # They keep the memory alive.
        self.arrays = cone, parabola_view, vertices_view, polar, azimuthal
        self.tables.ring_sizes = &ring_sizes[0]
        self.tables.polar = &polar[0]
        self.tables.azimuthal = &azimuthal[0]
        self.tables.n_rings = ring_sizes.shape[0]
        self.tables.n_needed = cone.n_needed
        self.tables.n_vertices = cone.azimuthal.shape[1]
        self.tables.order = order
        self.tables.vertices = &vertices_view[0, 0]
        self.tables.parabola = &parabola_view[0, 0, 0]
        self.tables.near = &near[0, 0]
        self.tables.n_inside = n_inside
        self.tables.cosine, self.tables.sine = cone.cosine, cone.sine
        self.tables.reach = cone.reach


cdef inline Py_ssize_t filled_up(Py_ssize_t n) noexcept nogil:
    """Return n, or the next multiple of PANEL: outputs that fill panels."""
    return (n + PANEL - 1) // PANEL * PANEL


cdef Py_ssize_t room_for_values(const cone_tables* cone) noexcept nogil:
    """Return how many floats ``values`` of :func:`largest_ahead` has."""
    cdef Py_ssize_t ring, half = 0

    for ring in range(1, cone.n_rings):
        half = max(half, filled_up(cone.ring_sizes[ring] // 2))
    return (cone.n_vertices + (2 * cone.order + 1) * filled_up(cone.n_rings)
            + 2 * half + cone.order // 2 + 1) * BLOCK


cdef inline void sum_over_orders(
    const float* block, const cone_tables* cone, Py_ssize_t begin, Py_ssize_t end,
    float* orders, float* sums
) noexcept nogil:
    """Write sums over the orders: a row for each phase factor m and ring.

    Rings are those from ``begin`` to ``end``, in whole panels. ``orders`` is room.
    """
    cdef:
        Py_ssize_t n_rings = filled_up(cone.n_rings)
        const float* weights = cone.polar
        Py_ssize_t ell, lowest, m, n

    for m in range(-cone.order, cone.order + 1):
        n = 0
        lowest = m if m > 0 else -m
        for ell in range(lowest + lowest % 2, cone.order + 1, 2):
            memcpy(orders + n * BLOCK, block + (ell * (ell + 1) // 2 + m) * BLOCK,
                   BLOCK * sizeof(float))
            n += 1
        weighted_sums(weights + n * begin, NULL, n, end - begin, orders, BLOCK,
                      sums + ((cone.order + m) * n_rings + begin) * BLOCK)
        weights += n * n_rings


cdef inline bint may_not_count(
    const float* block, const cone_tables* cone, float pmf_threshold,
    const float* height
) noexcept nogil:
    """Tell if a largest value in the cone may be below its threshold.

    It is not if it is above the threshold for the bound of any value: the root of the
    coefficients' power, times that of the harmonics, which is C / 4 pi in any
    direction.
    """
    cdef:
        aligned_float power[BLOCK]
        Py_ssize_t n_coeffs = (cone.order + 1) * (cone.order + 2) // 2
        float share = pmf_threshold * sqrtf(n_coeffs / <float>12.566) * (1 + ROUNDING)
        bint may = False
        Py_ssize_t c, p

    for p in range(BLOCK):
        power[p] = 0.0
    for c in range(n_coeffs):
        for p in range(BLOCK):
            power[p] += block[c * BLOCK + p] * block[c * BLOCK + p]
    for p in range(BLOCK):
        # Also if the power overflows, or underflows to zero.
        may |= height[p] > 0.0 and not (
            power[p] > 0.0 and height[p] >= share * sqrtf(power[p]))
    return may


cdef inline void values_at_vertices(
    const float* block, const cone_tables* cone, float pmf_threshold, float* values,
    float* height, float* highest
) noexcept nogil:
    """Write the values of the fODFs at the vertices. The rest of the room is used.

    ``height`` is the largest value in the cone, ``highest`` that of all vertices. If
    all largest values count, vertices far from the cone are left out.
    """
    cdef:
        Py_ssize_t stride = filled_up(cone.n_rings) * BLOCK
        Py_ssize_t n_even = cone.order + 1, needed = filled_up(cone.n_needed)
        float* sums = values + cone.n_vertices * BLOCK
        float* orders = sums + (2 * cone.order + 1) * stride
        float* even = orders + (cone.order // 2 + 1) * BLOCK
        float* odd
        const float* inside = values + cone.n_inside * BLOCK
        const float* weights = cone.azimuthal
        Py_ssize_t n, ring, half

    sum_over_orders(block, cone, 0, needed, orders, sums)
    # Over the phase factors. On the axis, only that of 0 is not zero.
    memcpy(values, sums + cone.order * stride, BLOCK * sizeof(float))
    memcpy(height, values, BLOCK * sizeof(float))
    memcpy(highest, values, BLOCK * sizeof(float))
    values += BLOCK
    for ring in range(1, cone.n_rings):
        if ring == cone.n_needed:
            if not may_not_count(block, cone, pmf_threshold, height):
                break
            sum_over_orders(block, cone, needed, stride // BLOCK, orders, sums)
        half = cone.ring_sizes[ring] // 2
        n = filled_up(half)
        odd = even + n * BLOCK
        weighted_sums(
            weights, NULL, n_even, n, sums + ring * BLOCK, 2 * stride, even)
        weights += n_even * n
        weighted_sums(
            weights, NULL, n_even - 1, n, sums + stride + ring * BLOCK, 2 * stride, odd)
        weights += (n_even - 1) * n
        # The rings in the cone come first. Of a ring at 90 degrees only the first half is
        # in the cone. The values of the other half are the same.
        add_and_raise(even, odd, half, values, height if values < inside else highest)
        values += 2 * half * BLOCK
    raise_to(height, 1, highest)


cdef wide_void largest(
    const float* block, const cone_tables* cone, float pmf_threshold, float* values,
    float* ahead, unsigned char* found
) noexcept nogil:
    """Write the direction of the largest value in the cone: ``Cone.largest``.

    ``values`` is room for ``room_for_values`` floats. ``ahead`` holds x, then y, then z
    of all points.
    """
    cdef:
        aligned_float height[BLOCK]
        aligned_float highest[BLOCK]
        aligned_float least[BLOCK]
        int vertex[BLOCK]
        float terms[ROW]
        # Of each streamline: the terms, then the vertex and its two tangents.
        aligned_float fitted[TERMS * BLOCK]
        aligned_float here[9 * BLOCK]
        float rise, slope, determinant, along, across, length, scale, x, y, z
        bint is_maximum
        const float* parabola
        const int* near
        Py_ssize_t p, i, k

    values_at_vertices(block, cone, pmf_threshold, values, height, highest)
    for p in range(BLOCK):
        least[p] = height[p] - ROUNDING * fabsf(height[p])
    first_from(values, cone.n_inside, least, vertex)
    for p in range(BLOCK):
        found[p] = height[p] > 0.0 and height[p] >= pmf_threshold * highest[p]
        near = cone.near + vertex[p] * NEAR
        parabola = cone.parabola + vertex[p] * NEAR * ROW
        for i in range(ROW):
            terms[i] = 0.0
        for k in range(NEAR):
            rise = values[near[k] * BLOCK + p] - values[vertex[p] * BLOCK + p]
            for i in range(ROW):
                terms[i] += parabola[k * ROW + i] * rise
        for i in range(TERMS):
            fitted[i * BLOCK + p] = terms[i]
        for i in range(9):
            here[i * BLOCK + p] = cone.vertices[vertex[p] * 9 + i]
    for p in range(BLOCK):
        # The maximum of the parabola, or uphill if it has none.
        slope = sqrtf(fitted[p] * fitted[p] + fitted[BLOCK + p] * fitted[BLOCK + p])
        scale = cone.reach / (slope if slope > 0.0 else 1.0)
        along, across = fitted[p] * scale, fitted[BLOCK + p] * scale
        determinant = (fitted[2 * BLOCK + p] * fitted[4 * BLOCK + p]
                       - fitted[3 * BLOCK + p] * fitted[3 * BLOCK + p])
        is_maximum = determinant > 0.0 and fitted[2 * BLOCK + p] < 0.0
        scale = 1.0 / (determinant if is_maximum else 1.0)
        x = fitted[3 * BLOCK + p] * fitted[BLOCK + p] - fitted[4 * BLOCK + p] * fitted[p]
        y = fitted[3 * BLOCK + p] * fitted[p] - fitted[2 * BLOCK + p] * fitted[BLOCK + p]
        along = x * scale if is_maximum else along
        across = y * scale if is_maximum else across
        length = sqrtf(along * along + across * across)
        scale = cone.reach / length if length > cone.reach else 1.0
        scale = scale if length >= ROUNDING else 0.0
        along *= scale
        across *= scale
        x = here[p] + along * here[3 * BLOCK + p] + across * here[6 * BLOCK + p]
        y = (here[BLOCK + p] + along * here[4 * BLOCK + p]
             + across * here[7 * BLOCK + p])
        z = (here[2 * BLOCK + p] + along * here[5 * BLOCK + p]
             + across * here[8 * BLOCK + p])
        length = sqrtf(x * x + y * y + z * z)
        scale = 1.0 / length
        scale = -scale if cone.cosine < ROUNDING and z < -ROUNDING * length else scale
        x *= scale
        y *= scale
        z *= scale
        # A direction outside the cone is moved to its border.
        length = sqrtf(x * x + y * y)
        scale = cone.sine / (length if length > 0.0 else 1.0)
        scale = scale if z < cone.cosine else 1.0
        ahead[p] = x * scale
        ahead[BLOCK + p] = y * scale
        ahead[2 * BLOCK + p] = (
            z if z >= cone.cosine else cone.cosine if length > 0.0 else 1.0)


cdef void largest_ahead(
    const float* block, const cone_tables* cone, float pmf_threshold, float* values,
    float* ahead, unsigned char* found
) noexcept nogil:
    """Call :func:`largest`. A function for several vector widths cannot be exported."""
    largest(block, cone, pmf_threshold, values, ahead, found)
