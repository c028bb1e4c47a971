# Errors of directions, and SplitMix64, a random generator, for other kernels.
#
# G. L. Steele, D. Lea, C. H. Flood: Fast splittable pseudorandom number generators,
# OOPSLA 2014, https://doi.org/10.1145/2660193.2660195. The constants are those of
# https://prng.di.unimi.it/splitmix64.c (S. Vigna).

from libc.stdint cimport int64_t, uint64_t


cdef inline uint64_t golden() noexcept nogil:
    """Return its increment: 2**64 divided by the golden ratio, rounded to odd."""
    return 0x9E3779B97F4A7C15ULL


cdef inline uint64_t mix(uint64_t bits) noexcept nogil:
    """Mix 64 bits by a bijection."""
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9ULL
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBULL
    return bits ^ (bits >> 31)


cdef inline double draw(uint64_t* state) noexcept nogil:
    """Draw from [0, 1): the top 53 bits of a step."""
    state[0] += golden()
    return (mix(state[0]) >> 11) * (1.0 / 9007199254740992.0)


cdef struct knots:
    # Draws at the last knot of a streamline and at the next one, which are kept until
    # the streamline has passed the next one. The place is 0 if there are no draws.
    uint64_t key
    int64_t place
    double last[2]
    double next[2]


cdef void add_all_errors(
    float* answers, Py_ssize_t n, Py_ssize_t width, Py_ssize_t column, double scale,
    const uint64_t* keys, const int64_t* numbers, double step, knots* drawn
) noexcept nogil
