# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""The largest value of an fODF in a cone as a kernel: ``Cone.largest``."""

from libc.math cimport fabsf, sqrtf
from libc.string cimport memcpy, memset

import numpy as np

from dipy_rnn._interp cimport BLOCK

from dipy_rnn.sampling.cone import ROUNDING as _ROUNDING
from dipy_rnn.sampling.rotation import sh_order as _sh_order

cdef float ROUNDING = _ROUNDING

cdef enum:
    # Neighbours of a vertex, and rows of the matrix of its parabola.
    NEAR = 8
    TERMS = 5


cdef object azimuthal_in_panels(cone, order):
    """Return the azimuthal factors of an order, for ``ring_values`` of ``_lanes.h``.

    Only the first half of each ring is kept.
    """
    skipped = len(cone.azimuthal) // 2 - order
    rows = cone.azimuthal[skipped:len(cone.azimuthal) - skipped]
    rows = np.concatenate([rows[0::2], rows[1::2]])
    panels = []
    for start, size in zip(np.cumsum(cone.ring_sizes), cone.ring_sizes[1:]):
        for first in range(start, start + size // 2, HALF_PANEL):
            panels.append(rows[:, first:first + HALF_PANEL].ravel())
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
        cdef:
            float[:, ::1] directions = cone.directions
            float[:, :, ::1] parabola = cone.parabola
            float[:, :, ::1] tangents = cone.tangents
            int[:, ::1] near = cone.near
            int[::1] ring_sizes = cone.ring_sizes
            float[:, ::1] polar = cone.polar
            float[::1] azimuthal
        order = _sh_order(n_coeffs)
        panels = azimuthal = azimuthal_in_panels(cone, order)
        self.arrays = cone, panels  # keeps the memory alive
        self.tables.ring_sizes = &ring_sizes[0]
        self.tables.polar = &polar[0, 0]
        self.tables.azimuthal = &azimuthal[0]
        self.tables.n_rings = polar.shape[1]
        self.tables.n_vertices = cone.azimuthal.shape[1]
        self.tables.order = order
        self.tables.directions = &directions[0, 0]
        self.tables.parabola = &parabola[0, 0, 0]
        self.tables.tangents = &tangents[0, 0, 0]
        self.tables.near = &near[0, 0]
        self.tables.n_inside = directions.shape[0]
        self.tables.cosine, self.tables.sine = cone.cosine, cone.sine
        self.tables.reach = cone.reach


cdef Py_ssize_t room_for_values(const cone_tables* cone) noexcept nogil:
    """Return how many floats ``values`` of :func:`largest_ahead` has."""
    return (cone.n_vertices + (2 * cone.order + 1) * cone.n_rings) * BLOCK


cdef inline void values_at_vertices(
    const float* block, const cone_tables* cone, float* values
) noexcept nogil:
    """Write the values of the fODFs at all vertices, then the sums over the orders."""
    cdef:
        Py_ssize_t stride = cone.n_rings * BLOCK, n_factors = 2 * cone.order + 1
        float* sums = values + cone.n_vertices * BLOCK
        const float* weights = cone.azimuthal
        Py_ssize_t order, m, ring, half, i

    # Over the orders: a row for each phase factor m and ring.
    memset(sums, 0, n_factors * stride * sizeof(float))
    i = 0
    for order in range(0, cone.order + 1, 2):
        for m in range(cone.order - order, cone.order + order + 1):
            add_multiples(
                cone.polar + i * cone.n_rings, cone.n_rings, block + i * BLOCK,
                sums + m * stride)
            i += 1
    # Over the phase factors. On the axis, only that of 0 is not zero.
    memcpy(values, sums + cone.order * stride, BLOCK * sizeof(float))
    values += BLOCK
    for ring in range(1, cone.n_rings):
        half = cone.ring_sizes[ring] // 2
        ring_values(
            weights, sums + ring * BLOCK, stride, cone.order, half, values)
        weights += half * n_factors
        values += 2 * half * BLOCK


cdef wide_void largest(
    const float* block, const cone_tables* cone, float pmf_threshold, float* values,
    float* ahead, unsigned char* found
) noexcept nogil:
    """Write the direction of the largest value in the cone: ``Cone.largest``.

    ``values`` is room for ``room_for_values`` floats. ``ahead`` holds x, then y, then z
    of all points.
    """
    cdef:
        float height[BLOCK]
        float highest[BLOCK]
        int vertex[BLOCK]
        float least[BLOCK]
        float terms[TERMS]
        float rise, slope, determinant, along, across, length, sign
        const float* parabola
        const float* tangents
        const int* near
        Py_ssize_t p, i, k

    values_at_vertices(block, cone, values)
    memcpy(height, values, BLOCK * sizeof(float))
    raise_to(values + BLOCK, cone.n_inside - 1, height)
    memcpy(highest, height, BLOCK * sizeof(float))
    raise_to(
        values + cone.n_inside * BLOCK, cone.n_vertices - cone.n_inside, highest)
    for p in range(BLOCK):
        least[p] = height[p] - ROUNDING * fabsf(height[p])
    first_from(values, cone.n_inside, least, vertex)
    for p in range(BLOCK):
        found[p] = height[p] > 0.0 and height[p] >= pmf_threshold * highest[p]
        near = cone.near + vertex[p] * NEAR
        parabola = cone.parabola + vertex[p] * NEAR * TERMS
        tangents = cone.tangents + vertex[p] * 6
        for i in range(TERMS):
            terms[i] = 0.0
        for k in range(NEAR):
            rise = values[near[k] * BLOCK + p] - values[vertex[p] * BLOCK + p]
            for i in range(TERMS):
                terms[i] += parabola[i * NEAR + k] * rise
        determinant = terms[2] * terms[4] - terms[3] * terms[3]
        if determinant > 0.0 and terms[2] < 0.0:
            along = (terms[3] * terms[1] - terms[4] * terms[0]) / determinant
            across = (terms[3] * terms[0] - terms[2] * terms[1]) / determinant
        else:
            slope = sqrtf(terms[0] * terms[0] + terms[1] * terms[1])
            slope = slope if slope > 0.0 else 1.0
            along = terms[0] * cone.reach / slope
            across = terms[1] * cone.reach / slope
        length = sqrtf(along * along + across * across)
        if length > cone.reach:
            along *= cone.reach / length
            across *= cone.reach / length
        elif length < ROUNDING:
            along = 0.0
            across = 0.0
        for k in range(3):
            ahead[k * BLOCK + p] = (
                cone.directions[3 * vertex[p] + k]
                + along * tangents[k] + across * tangents[3 + k])
        length = sqrtf(
            ahead[p] * ahead[p] + ahead[BLOCK + p] * ahead[BLOCK + p]
            + ahead[2 * BLOCK + p] * ahead[2 * BLOCK + p])
        sign = 1.0
        if cone.cosine < ROUNDING and ahead[2 * BLOCK + p] < -ROUNDING * length:
            sign = -1.0
        for k in range(3):
            ahead[k * BLOCK + p] *= sign / length
        if ahead[2 * BLOCK + p] < cone.cosine:
            length = sqrtf(
                ahead[p] * ahead[p] + ahead[BLOCK + p] * ahead[BLOCK + p])
            ahead[2 * BLOCK + p] = cone.cosine if length > 0.0 else 1.0
            for k in range(2):
                ahead[k * BLOCK + p] *= cone.sine / length if length > 0.0 else 0.0


cdef void largest_ahead(
    const float* block, const cone_tables* cone, float pmf_threshold, float* values,
    float* ahead, unsigned char* found
) noexcept nogil:
    """Call :func:`largest`. A function for several vector widths cannot be exported."""
    largest(block, cone, pmf_threshold, values, ahead, found)
