# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""The largest value of an fODF in a cone as a kernel: ``Cone.largest`` of ``cone.py``."""

from libc.math cimport fabsf, sqrtf

import numpy as np

from dipy_rnn._interp cimport BLOCK

from dipy_rnn.sampling.cone import ROUNDING as _ROUNDING

cdef float ROUNDING = _ROUNDING

cdef enum:
    # Neighbours of a vertex, and rows of the matrix of its parabola.
    NEAR = 8
    TERMS = 5


cdef object in_panels(weight, bias, layer* target):
    """Store a layer in panels (``_lanes.h``). Rows of zeros fill the last panel.

    Return the arrays, which keep the memory alive.
    """
    n_out, n_in = weight.shape
    padding = -n_out % PANEL
    weight = np.pad(weight, ((0, padding), (0, 0)))
    weight = np.ascontiguousarray(weight.reshape(-1, PANEL, n_in).transpose(0, 2, 1))
    bias = np.pad(bias, (0, padding))
    cdef:
        float[:, :, ::1] weight_view = weight
        float[::1] bias_view = bias
    target.weights = &weight_view[0, 0, 0]
    target.bias = &bias_view[0]
    target.n_in = n_in
    target.n_out = n_out + padding
    return weight, bias


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
        matrix = np.ascontiguousarray(cone.matrix[:n_coeffs].T)
        zeros = np.zeros(len(matrix), np.float32)
        # The arrays keep the memory alive.
        self.arrays = cone, in_panels(matrix, zeros, &self.tables.matrix)
        self.tables.directions = &directions[0, 0]
        self.tables.parabola = &parabola[0, 0, 0]
        self.tables.tangents = &tangents[0, 0, 0]
        self.tables.near = &near[0, 0]
        self.tables.n_inside = directions.shape[0]
        self.tables.cosine, self.tables.sine = cone.cosine, cone.sine
        self.tables.reach = cone.reach


cdef wide_void largest(
    const float* block, const cone_tables* cone, float pmf_threshold, float* values,
    float* ahead, unsigned char* found
) noexcept nogil:
    """Write the direction of the largest value in the cone: ``Cone.largest``.

    ``values`` is room for the values at the vertices. ``ahead`` holds x, then y, then z
    of all points.
    """
    cdef:
        float height[BLOCK]
        float highest[BLOCK]
        int vertex[BLOCK]
        float least[BLOCK]
        float terms[TERMS]
        float rise, slope, determinant, along, across, length, sign
        const float* row
        const float* parabola
        const float* tangents
        const int* near
        Py_ssize_t p, v, i, k

    dense(&cone.matrix, block, values)
    for p in range(BLOCK):
        height[p] = values[p]
        highest[p] = values[p]
        vertex[p] = 0
    for v in range(1, cone.n_inside):
        row = values + v * BLOCK
        for p in range(BLOCK):
            height[p] = row[p] if row[p] > height[p] else height[p]
    for p in range(BLOCK):
        least[p] = height[p] - ROUNDING * fabsf(height[p])
    for v in range(cone.n_inside - 1, -1, -1):
        row = values + v * BLOCK
        for p in range(BLOCK):
            vertex[p] = <int>v if row[p] >= least[p] else vertex[p]
    for v in range(cone.matrix.n_out):
        row = values + v * BLOCK
        for p in range(BLOCK):
            highest[p] = row[p] if row[p] > highest[p] else highest[p]
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
