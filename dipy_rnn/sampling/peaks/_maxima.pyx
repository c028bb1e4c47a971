# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Kernels: maxima of spherical functions, on vertices and refined.

Functions are processed in blocks of ``BLOCK``, as in ``_interp.pyx``. The kernels do
not check their arguments. ``sampling/peaks/maxima.py`` checks them.
"""

from cython.parallel cimport prange
from libc.math cimport hypot, sqrt
from libc.stdlib cimport free, malloc

import numpy as np

from dipy_rnn._interp cimport (
    BLOCK, MAX_COEFFS, Angles, Turns, angles_of, rotate_points, to_block, turns_of,
)
from dipy_rnn._vectors cimport transport
from dipy_rnn.sampling._cone cimport (
    CACHE_LINE, PANEL, aligned, aligned_float, panels_of, raise_to, weighted_sums,
    wide_void,
)


def local_maxima(
    const float[:, ::1] coeffs, const float[:, ::1] harmonics,
    const int[:, ::1] neighbours, float least_share, int[:, ::1] found,
    float[::1] least
):
    """Find the vertices at which functions are larger than at all neighbours.

    Parameters
    ----------
    coeffs : array of shape (N, C)
        N functions.
    harmonics : array of shape (C, V)
        Basis functions at V vertices.
    neighbours : array of shape (V, K)
        Neighbours of each vertex.
    least_share : float
        Maxima below this share of the function's largest value are not returned.
    found : array of shape (N, most)
        Output: vertices, the largest value first. Unused places are -1.
    least : array of shape (N,)
        Output: the smallest value.
    """
    cdef:
        const float[::1] panels = panels_of(np.asarray(harmonics))
        Py_ssize_t n_coeffs = coeffs.shape[1]
        Py_ssize_t n_vertices = harmonics.shape[1]
        Py_ssize_t n_rows = (n_vertices + PANEL - 1) // PANEL * PANEL
        Py_ssize_t n_blocks = (coeffs.shape[0] + BLOCK - 1) // BLOCK
        Py_ssize_t i, first, n_points
        float* block
        float* values
        void* memory = malloc(
            (n_coeffs + n_rows) * BLOCK * sizeof(float) + CACHE_LINE)

    if memory == NULL:
        raise MemoryError
    block = aligned(memory)
    values = block + n_coeffs * BLOCK
    with nogil:
        for i in range(n_blocks):
            first = i * BLOCK
            n_points = min(BLOCK, coeffs.shape[0] - first)
            to_block(&coeffs[first, 0], n_coeffs, n_points, n_coeffs, block)
            weighted_sums(&panels[0], NULL, n_coeffs, n_rows, block, BLOCK, values)
            find_maxima(
                values, n_vertices, &neighbours[0, 0], neighbours.shape[1], least_share,
                n_points, found.shape[1], &found[first, 0], &least[first])
        free(memory)


cdef wide_void find_maxima(
    const float* values, Py_ssize_t n_vertices, const int* neighbours,
    Py_ssize_t n_neighbours, float least_share, Py_ssize_t n_points, Py_ssize_t most,
    int* found, float* least
) noexcept nogil:
    """Find the maxima of a block of functions. ``values`` has a row for each vertex."""
    cdef:
        aligned_float lowest[BLOCK]
        aligned_float limit[BLOCK]
        aligned_float highest[BLOCK]
        int is_peak[BLOCK]
        int any_peak
        const float* here
        Py_ssize_t v, k, p

    for p in range(BLOCK):
        lowest[p] = values[p]
        limit[p] = 0.0
    for v in range(n_vertices):
        here = values + v * BLOCK
        for p in range(BLOCK):
            lowest[p] = here[p] if here[p] < lowest[p] else lowest[p]
    raise_to(values, n_vertices, limit)
    for p in range(BLOCK):
        # Infinity times zero is not a number.
        limit[p] = limit[p] * least_share if least_share > 0.0 else 0.0
    for p in range(n_points):
        least[p] = lowest[p]
        for k in range(most):
            found[p * most + k] = -1
    for v in range(n_vertices):
        here = values + v * BLOCK
        for p in range(BLOCK):
            highest[p] = limit[p]
        for k in range(n_neighbours):
            raise_to(values + neighbours[v * n_neighbours + k] * BLOCK, 1, highest)
        any_peak = 0
        for p in range(BLOCK):
            is_peak[p] = <int>(here[p] > 0.0) & <int>(here[p] >= highest[p])
            any_peak |= is_peak[p]
        if any_peak:
            for p in range(n_points):
                if is_peak[p]:
                    insert(<int>v, values + p, most, found + p * most)


cdef inline void insert(
    int vertex, const float* values, Py_ssize_t most, int* found
) noexcept nogil:
    """Insert a vertex by its value. If there is no room, the smallest is dropped."""
    cdef:
        float value = values[vertex * BLOCK]
        Py_ssize_t at = most
        Py_ssize_t k

    while at > 0 and (found[at - 1] < 0 or values[found[at - 1] * BLOCK] < value):
        at -= 1
    for k in range(most - 1, at, -1):
        found[k] = found[k - 1]
    if at < most:
        found[at] = vertex


def refine(
    const float[:, ::1] coeffs, double[:, :, ::1] frames, double handedness,
    Py_ssize_t order, tuple tables, const double[:, ::1] weights, int n_steps,
    double last_step, double max_turn, double[::1] values, int nbr_threads
):
    """Move to maxima by Newton's method.

    Parameters
    ----------
    coeffs : array of shape (N, C)
        N functions of spherical harmonics.
    frames : array of shape (N, 3, 3)
        Their last rows are directions near maxima. In place.
    handedness, order, tables
        As for ``_interp.rotate``.
    weights : array of shape (4, L)
        For each order l: factors of the coefficients of m = 0 for the value and the
        curvature, of m = 1 and -1 for the slope, and of m = 2 and -2 for the curvature.
    n_steps : int
        Largest number of steps.
    last_step : float
        No step follows one that is shorter (the tangent of an angle).
    max_turn : float
        Longest step.
    values : array of shape (N,)
        Output: the value of each function before its last step.
    nbr_threads : int
    """
    cdef:
        Py_ssize_t n_blocks = (coeffs.shape[0] + BLOCK - 1) // BLOCK
        Py_ssize_t block
        Turns turns = turns_of(tables)

    for block in prange(n_blocks, nogil=True, num_threads=nbr_threads,
                        schedule="static"):
        refine_block(
            &coeffs[block * BLOCK, 0], min(BLOCK, coeffs.shape[0] - block * BLOCK),
            coeffs.shape[1], order, &turns, handedness, &weights[0, 0],
            weights.shape[1], n_steps, last_step, max_turn,
            &frames[block * BLOCK, 0, 0], &values[block * BLOCK])


cdef void refine_block(
    const float* coeffs, Py_ssize_t n_points, Py_ssize_t n_coeffs, Py_ssize_t order,
    const Turns* turns, double handedness, const double* weights, Py_ssize_t n_orders,
    int n_steps, double last_step, double max_turn, double* frames, double* values
) noexcept nogil:
    """Refine up to BLOCK maxima. A maximum that moves no more is left as it is."""
    cdef:
        aligned_float local[MAX_COEFFS * BLOCK]
        Angles angles
        unsigned char moving[BLOCK]
        Py_ssize_t n_moving = n_points
        Py_ssize_t step, p

    for p in range(n_points):
        moving[p] = 1
    for step in range(n_steps):
        if n_moving == 0:
            break
        angles_of(frames, n_points, order, handedness, &angles)
        rotate_points(
            coeffs, n_coeffs, n_points, n_coeffs, order, &angles, turns, local)
        n_moving = 0
        for p in range(n_points):
            if moving[p]:
                moving[p] = newton(
                    local + p, weights, n_orders, handedness, max_turn, frames + 9 * p,
                    values + p) > last_step
                n_moving += moving[p]


cdef inline double newton(
    const float* local, const double* weights, Py_ssize_t n_orders, double handedness,
    double max_turn, double* frame, double* value
) noexcept nogil:
    """Take a step from the z axis of a frame, and turn the frame.

    The step is in the plane perpendicular to z. Return its length before it is limited.
    """
    cdef:
        const double* of_value = weights
        const double* of_curvature = weights + n_orders
        const double* of_slope = weights + 2 * n_orders
        const double* of_m_2 = weights + 3 * n_orders
        # Slopes, the mean of the curvatures along x and y, half of their difference,
        # and the mixed derivative.
        double gx = 0.0, gy = 0.0, mean = 0.0, half = 0.0, xy = 0.0
        double x = 0.0, y = 0.0
        double xx, yy, determinant, length, scale
        double tangent[3]
        const float* middle
        Py_ssize_t i, k

    value[0] = 0.0
    for i in range(n_orders):
        middle = local + i * (2 * i + 1) * BLOCK  # l = 2 i, m = 0
        value[0] += of_value[i] * middle[0]
        mean += of_curvature[i] * middle[0]
        if i:
            gx += of_slope[i] * middle[BLOCK]
            gy += of_slope[i] * middle[-BLOCK]
            half += of_m_2[i] * middle[2 * BLOCK]
            xy += of_m_2[i] * middle[-2 * BLOCK]
    xx = mean + half
    yy = mean - half
    determinant = xx * yy - xy * xy
    if determinant > 0.0 and mean < 0.0:
        x = (xy * gy - yy * gx) / determinant
        y = (xy * gx - xx * gy) / determinant
    length = hypot(x, y)
    scale = min(1.0, max_turn / max(length, 1e-12))
    for k in range(3):
        tangent[k] = scale * (x * frame[k] + y * frame[3 + k]) + frame[6 + k]
    scale = 1.0 / sqrt(
        tangent[0] * tangent[0] + tangent[1] * tangent[1] + tangent[2] * tangent[2])
    for k in range(3):
        tangent[k] *= scale
    transport(frame, tangent, handedness)
    return length
