# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Kernels: call the compiled method of DIPY's criteria, without Python's lock (GIL).

DIPY's wheels have no ``.pxd`` files, so this file repeats the beginning of
``dipy/tracking/stopping_criterion.pxd``. Cython stores a pointer to the table of the
methods behind the header of each object, and a capsule with the same table in the
class. ``dipy_methods.py`` decides for which versions of DIPY the kernel is used. No
attribute of a criterion is read: the criterion itself decides.
"""

from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from libc.math cimport isnan
from libc.stdint cimport int64_t

from dipy_rnn.stopping.reasons import StopReason as _StopReason

cdef extern from *:
    """
    /* cdef StreamlineStatus check_point_c(
           self, double* point, RNGState* rng=*) noexcept nogil
       The last argument is NULL for the default. */
    typedef int (*dipy_check)(PyObject *, double *, void *);
    typedef struct {
        void *check_point; /* cpdef StreamlineStatus check_point(self, double[::1]) */
        dipy_check check_point_c;
    } dipy_methods;
    typedef struct { PyObject_HEAD dipy_methods *methods; } dipy_criterion;
    """
    ctypedef int (*dipy_check)(PyObject*, double*, void*) noexcept nogil
    ctypedef struct dipy_methods:
        void* check_point
        dipy_check check_point_c
    ctypedef struct dipy_criterion:
        dipy_methods* methods

cdef:
    int64_t RUNNING = _StopReason.RUNNING
    int64_t ENDPOINT = _StopReason.ENDPOINT
    int64_t OUTSIDE_IMAGE = _StopReason.OUTSIDE_IMAGE
    int64_t INVALID_POINT = _StopReason.INVALID_POINT

cdef enum:  # dipy.tracking.stopping_criterion.StreamlineStatus
    STATUS_OUTSIDEIMAGE = -1
    STATUS_TRACKPOINT = 1
    STATUS_ENDPOINT = 2


def has_known_methods(base, criteria):
    """Tell whether the methods of some criteria are where this kernel expects them.

    Parameters
    ----------
    base : object
        The capsule of the class StoppingCriterion.
    criteria : list of tuple of (object, object)
        Criteria of different subclasses, and the capsules of their classes.

    Returns
    -------
    answer : bool
        Whether each object points to the table of its class, all classes have the same
        ``check_point``, and each has a ``check_point_c`` of its own.
    """
    cdef:
        dipy_methods* table
        dipy_methods* of_base

    if not PyCapsule_IsValid(base, NULL):
        return False
    of_base = <dipy_methods*>PyCapsule_GetPointer(base, NULL)
    found = {<size_t><void*>of_base.check_point_c}
    for criterion, capsule in criteria:
        if not PyCapsule_IsValid(capsule, NULL):
            return False
        table = <dipy_methods*>PyCapsule_GetPointer(capsule, NULL)
        if (<dipy_criterion*><PyObject*>criterion).methods != table:
            return False
        if table.check_point != of_base.check_point:
            return False
        found.add(<size_t><void*>table.check_point_c)
    return len(found) == len(criteria) + 1


def check_dipy(criterion, const double[:, ::1] points, int64_t[::1] reasons):
    """Let a criterion of DIPY decide at points. NaN is outside of the image."""
    cdef:
        PyObject* subject = <PyObject*>criterion
        dipy_check check = (<dipy_criterion*>subject).methods.check_point_c
        double point[3]
        Py_ssize_t p, k
        int status

    with nogil:
        for p in range(points.shape[0]):
            if reasons[p] != RUNNING:
                continue
            for k in range(3):
                point[k] = points[p, k]
            # DIPY's criteria read invalid memory at NaN.
            if isnan(point[0]) or isnan(point[1]) or isnan(point[2]):
                reasons[p] = OUTSIDE_IMAGE
                continue
            status = check(subject, point, NULL)
            if status == STATUS_OUTSIDEIMAGE:
                reasons[p] = OUTSIDE_IMAGE
            elif status == STATUS_ENDPOINT:
                reasons[p] = ENDPOINT
            elif status != STATUS_TRACKPOINT:
                reasons[p] = INVALID_POINT
