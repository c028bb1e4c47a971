# Vectors and moving frames, in double precision, for kernels.

from libc.math cimport fmax, sqrt


cdef inline double dot(const double* a, const double* b) noexcept nogil:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


cdef inline void transport(
    double* frame, const double* tangent, double handedness
) noexcept nogil:
    """Rotate a frame to a new tangent: ``spatial.frames.transport``.

    Numbers are copied first. Otherwise vectors would be loaded that overlap with stores
    before them, which processors delay (a store that is not forwarded).
    """
    cdef:
        double x = frame[0], y = frame[1], z = frame[2]
        double tx = tangent[0], ty = tangent[1], tz = tangent[2]
        double sx = frame[6] + tx, sy = frame[7] + ty, sz = frame[8] + tz
        double towards = frame[6] * tx + frame[7] * ty + frame[8] * tz
        double along = (x * tx + y * ty + z * tz) / fmax(1.0 + towards, 1e-9)
        double scale

    x -= along * sx
    y -= along * sy
    z -= along * sz
    along = x * tx + y * ty + z * tz
    x -= along * tx
    y -= along * ty
    z -= along * tz
    scale = 1.0 / sqrt(x * x + y * y + z * z)
    x *= scale
    y *= scale
    z *= scale
    frame[0], frame[1], frame[2] = x, y, z
    frame[3] = handedness * (ty * z - tz * y)
    frame[4] = handedness * (tz * x - tx * z)
    frame[5] = handedness * (tx * y - ty * x)
    frame[6], frame[7], frame[8] = tx, ty, tz


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
