# Vectors and moving frames, in double precision, for _compiled.pyx.

from libc.math cimport fmax, sqrt


cdef inline double dot(const double* a, const double* b) noexcept nogil:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


cdef inline void transport(
    double* frame, const double* tangent, double handedness
) noexcept nogil:
    """Rotate a frame to a new tangent: ``spatial.frames.transport``."""
    cdef:
        double* e1 = frame
        double* e2 = frame + 3
        double* e3 = frame + 6
        double along, scale
        Py_ssize_t i

    along = dot(e1, tangent) / fmax(1.0 + dot(e3, tangent), 1e-9)
    for i in range(3):
        e1[i] -= along * (e3[i] + tangent[i])
    along = dot(e1, tangent)
    for i in range(3):
        e1[i] -= along * tangent[i]
        e3[i] = tangent[i]
    scale = 1.0 / sqrt(dot(e1, e1))
    for i in range(3):
        e1[i] *= scale
    e2[0] = handedness * (e3[1] * e1[2] - e3[2] * e1[1])
    e2[1] = handedness * (e3[2] * e1[0] - e3[0] * e1[2])
    e2[2] = handedness * (e3[0] * e1[1] - e3[1] * e1[0])


cdef inline void bend(
    double* tangent, const double* axis, double cosine
) noexcept nogil:
    """Move a tangent to the border of the cone: ``bend`` in ``reference.py``."""
    cdef:
        double across[3]
        double along = dot(tangent, axis)
        double scale = 0.0
        Py_ssize_t k

    for k in range(3):
        across[k] = tangent[k] - along * axis[k]
    along = sqrt(dot(across, across))
    if along > 0.0:
        scale = sqrt(1.0 - cosine * cosine) / along
    else:
        cosine = 1.0
    for k in range(3):
        tangent[k] = cosine * axis[k] + scale * across[k]
