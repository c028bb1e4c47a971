# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Kernels: keys of seeds, and errors of directions.

They do not check their arguments. ``keys.py`` and ``errors.py`` do.
"""

from libc.math cimport cos, floor, sin, sqrt
from libc.stdint cimport int64_t, uint64_t

cdef double PI = 3.141592653589793


def hash_rows(
    uint64_t random_seed, const uint64_t[:, ::1] rows, uint64_t[::1] keys
):
    """Hash a number and each row into 64 bits."""
    cdef:
        uint64_t key
        Py_ssize_t row, column

    with nogil:
        for row in range(rows.shape[0]):
            key = mix(random_seed + golden())
            for column in range(rows.shape[1]):
                key = mix(key ^ rows[row, column])
            keys[row] = key


cdef inline void draw_knot(
    uint64_t base, int64_t knot, bint is_backward, double* error
) noexcept nogil:
    """Write the draw of a knot."""
    cdef:
        uint64_t state = mix(base + golden() * <uint64_t>(2 * knot + is_backward))
        # (1 - draw) ** (-2 / FREEDOM), which is a root, as FREEDOM is 4.
        double power = 1.0 / sqrt(1.0 - draw(&state))
        double radius = sqrt(4.0 * (power - 1.0))
        double angle = 2.0 * PI * draw(&state)

    error[0] = radius * cos(angle)
    error[1] = radius * sin(angle)


cdef inline void draw_knots(
    uint64_t key, int64_t knot, bint is_backward, knots* drawn
) noexcept nogil:
    """Write the draws of two knots, unless they are there already."""
    cdef:
        int64_t place = 2 * knot + is_backward + 1
        uint64_t base

    if drawn.place == place and drawn.key == key:
        return
    base = mix(key + 1)
    draw_knot(base, knot, is_backward, drawn.last)
    draw_knot(base, knot + 1, is_backward, drawn.next)
    drawn.key, drawn.place = key, place


def add_errors(
    float[:, ::1] answers, Py_ssize_t column, double scale,
    const uint64_t[::1] keys, const int64_t[::1] numbers, double step
):
    """Add errors to directions, in place (``errors.py``)."""
    with nogil:
        add_all_errors(
            &answers[0, 0], answers.shape[0], answers.shape[1], column, scale, &keys[0],
            &numbers[0], step, NULL)


cdef void add_all_errors(
    float* answers, Py_ssize_t n, Py_ssize_t width, Py_ssize_t column, double scale,
    const uint64_t* keys, const int64_t* numbers, double step, knots* drawn
) noexcept nogil:
    """Do what :func:`add_errors` does, for other kernels.

    ``drawn`` keeps the draws of each streamline for the next call. If it is NULL, all
    draws are made anew.
    """
    cdef:
        knots fresh
        knots* here
        double arc, part, before, after, size
        int64_t number, knot
        bint is_backward
        Py_ssize_t p, k

    for p in range(n):
        is_backward = numbers[p] < 0
        number = -numbers[p] if is_backward else numbers[p]
        arc = (number - 1) * step
        knot = <int64_t>floor(arc)
        part = 0.5 * PI * (arc - knot)
        fresh.place = 0
        here = &fresh if drawn == NULL else drawn + p
        draw_knots(keys[p], knot, is_backward, here)
        before, after = cos(part), sin(part)
        size = scale * answers[p * width + column]
        for k in range(2):
            answers[p * width + k] += <float>(
                size * (before * here.last[k] + after * here.next[k]))
