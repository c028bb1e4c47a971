# Decisions of stopping criteria, for other kernels.

from libc.stdint cimport int64_t, uint64_t


cdef class Decision:
    cdef void decide(
        self, const double* points, int64_t* reasons, const uint64_t* seed_keys,
        const int64_t* point_numbers, Py_ssize_t n
    ) noexcept nogil
    cdef void fetch(self, const double* point) noexcept nogil
    cdef int64_t reason_at(
        self, const double* point, uint64_t key, int64_t number
    ) noexcept nogil
