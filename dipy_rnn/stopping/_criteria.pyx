# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Kernels: the decisions of DIPY's stopping criteria, at many points at a time.

The kernels do not check their arguments and raise no exceptions. ``criteria.py`` and
``evaluate.py`` check them. Decisions are equal to DIPY's, without rounding differences:
sums are in double precision and in DIPY's order. ``setup.py`` prevents the compiler
from rearranging them.

:class:`DipyDecision` calls the compiled method of one of DIPY's own criteria instead.
DIPY's wheels have no ``.pxd`` files, so this file repeats the beginning of
``dipy/tracking/stopping_criterion.pxd``. Cython stores a pointer to the table of the
methods behind the header of each object, and a capsule with the same table in the
class. ``evaluate.py`` decides for which versions of DIPY the method is called. No
attribute of a criterion is read: the criterion itself decides.
"""

from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from libc.math cimport floor, isnan, pow, rint
from libc.stdint cimport int64_t, uint64_t

from dipy_rnn.draws._draws cimport draw, golden, mix

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

cdef extern from "_lanes.h":
    void prefetch(const void* address) noexcept nogil

cdef enum:
    AHEAD = 8  # points between the one whose voxels are fetched, and the one decided

cdef enum:  # dipy.tracking.stopping_criterion.StreamlineStatus
    STATUS_OUTSIDEIMAGE = -1
    STATUS_TRACKPOINT = 1
    STATUS_ENDPOINT = 2

cdef struct Map:
    const double* values
    Py_ssize_t size[3]


cdef inline Map map_of(const double[:, :, ::1] values) noexcept nogil:
    cdef Map volume

    volume.values = &values[0, 0, 0]
    volume.size[0] = values.shape[0]
    volume.size[1] = values.shape[1]
    volume.size[2] = values.shape[2]
    return volume


cdef inline void fetch(const Map* volume, const double* point) noexcept nogil:
    """Start to fetch the voxels around a point from memory."""
    cdef Py_ssize_t x, y, z, i, j

    # Comparisons with NaN are false.
    if not (0.0 <= point[0] < volume.size[0] - 1 and 0.0 <= point[1] < volume.size[1] - 1
            and 0.0 <= point[2] < volume.size[2] - 1):
        return
    x, y, z = <Py_ssize_t>point[0], <Py_ssize_t>point[1], <Py_ssize_t>point[2]
    for i in range(2):
        for j in range(2):
            prefetch(volume.values + ((x + i) * volume.size[1] + y + j)
                     * volume.size[2] + z)


cdef inline bint interpolate(
    const Map* volume, const double* point, double* value
) noexcept nogil:
    """Interpolate at a point. Return False if it is outside."""
    cdef:
        Py_ssize_t index[3][2]
        double weight[3][2]
        double share
        Py_ssize_t axis, low, i, j, k

    for axis in range(3):
        # Written so that NaN counts as outside.
        if not (point[axis] >= -0.5 and point[axis] < volume.size[axis] - 0.5):
            return False
        low = <Py_ssize_t>floor(point[axis])
        weight[axis][1] = point[axis] - low
        weight[axis][0] = 1 - weight[axis][1]
        index[axis][0] = max(low, 0)
        index[axis][1] = min(low + 1, volume.size[axis] - 1)

    value[0] = 0.0
    for i in range(2):
        for j in range(2):
            for k in range(2):
                # Voxels with weight zero are added, too: 0 times NaN is NaN in DIPY.
                share = weight[0][i] * weight[1][j] * weight[2][k]
                value[0] += share * volume.values[
                    (index[0][i] * volume.size[1] + index[1][j]) * volume.size[2]
                    + index[2][k]]
    return True


cdef class Decision:
    """The decisions of a criterion at many points. Subclasses decide."""

    def __call__(
        self, const double[:, ::1] points, int64_t[::1] reasons,
        const uint64_t[::1] seed_keys=None, const int64_t[::1] point_numbers=None
    ):
        """Decide at points, in place (``evaluate.py``)."""
        cdef:
            Py_ssize_t n = points.shape[0]
            const uint64_t* keys = NULL
            const int64_t* numbers = NULL

        if n and seed_keys is not None:
            keys, numbers = &seed_keys[0], &point_numbers[0]
        if n:
            with nogil:
                self.decide(&points[0, 0], &reasons[0], keys, numbers, n)

    cdef void decide(
        self, const double* points, int64_t* reasons, const uint64_t* seed_keys,
        const int64_t* point_numbers, Py_ssize_t n
    ) noexcept nogil:
        """Do what calling it does. A criterion that draws at random needs the keys."""


cdef class ThresholdDecision(Decision):
    """Ends where the map is not above the threshold."""

    cdef:
        const double[:, :, ::1] metric_map
        double threshold

    def __cinit__(self, metric_map, threshold):
        self.metric_map, self.threshold = metric_map, threshold

    cdef void decide(
        self, const double* points, int64_t* reasons, const uint64_t* seed_keys,
        const int64_t* point_numbers, Py_ssize_t n
    ) noexcept nogil:
        cdef:
            Map volume = map_of(self.metric_map)
            double value
            Py_ssize_t p

        for p in range(n):
            if p + AHEAD < n:
                fetch(&volume, points + 3 * (p + AHEAD))
            if reasons[p] != RUNNING:
                continue
            if not interpolate(&volume, points + 3 * p, &value):
                reasons[p] = OUTSIDE_IMAGE
            elif not value > self.threshold:  # also for NaN
                reasons[p] = ENDPOINT


cdef class BinaryDecision(Decision):
    """Ends where the nearest voxel (halves to even) is not in the mask."""

    cdef const unsigned char[:, :, ::1] mask

    def __cinit__(self, mask):
        self.mask = mask

    cdef void decide(
        self, const double* points, int64_t* reasons, const uint64_t* seed_keys,
        const int64_t* point_numbers, Py_ssize_t n
    ) noexcept nogil:
        cdef:
            double x, y, z
            Py_ssize_t p

        for p in range(n):
            if reasons[p] != RUNNING:
                continue
            x = rint(points[3 * p])
            y = rint(points[3 * p + 1])
            z = rint(points[3 * p + 2])
            # Compared as doubles, as they may be too large for an integer.
            if not (0 <= x < self.mask.shape[0] and 0 <= y < self.mask.shape[1]
                    and 0 <= z < self.mask.shape[2]):
                reasons[p] = OUTSIDE_IMAGE
            elif not self.mask[<Py_ssize_t>x, <Py_ssize_t>y, <Py_ssize_t>z]:
                reasons[p] = ENDPOINT


cdef class ActDecision(Decision):
    """Ends where one of the maps is above 0.5."""

    cdef const double[:, :, ::1] include_map, exclude_map

    def __cinit__(self, include_map, exclude_map):
        self.include_map, self.exclude_map = include_map, exclude_map

    cdef void decide(
        self, const double* points, int64_t* reasons, const uint64_t* seed_keys,
        const int64_t* point_numbers, Py_ssize_t n
    ) noexcept nogil:
        cdef:
            Map include_volume = map_of(self.include_map)
            Map exclude_volume = map_of(self.exclude_map)
            double included, excluded
            Py_ssize_t p

        for p in range(n):
            if p + AHEAD < n:
                fetch(&include_volume, points + 3 * (p + AHEAD))
                fetch(&exclude_volume, points + 3 * (p + AHEAD))
            if reasons[p] != RUNNING:
                continue
            if not (interpolate(&include_volume, points + 3 * p, &included)
                    and interpolate(&exclude_volume, points + 3 * p, &excluded)):
                reasons[p] = OUTSIDE_IMAGE
            elif included > 0.5:
                reasons[p] = ENDPOINT
            elif excluded > 0.5:
                reasons[p] = INVALID_POINT


cdef class CmcDecision(Decision):
    """Draws whether tracking continues. If not, draws whether the end is valid."""

    cdef:
        const double[:, :, ::1] include_map, exclude_map
        double exponent

    def __cinit__(self, include_map, exclude_map, exponent):
        self.include_map, self.exclude_map = include_map, exclude_map
        self.exponent = exponent

    cdef void decide(
        self, const double* points, int64_t* reasons, const uint64_t* seed_keys,
        const int64_t* point_numbers, Py_ssize_t n
    ) noexcept nogil:
        cdef:
            Map include_volume = map_of(self.include_map)
            Map exclude_volume = map_of(self.exclude_map)
            double included, excluded, rest
            uint64_t state
            Py_ssize_t p

        for p in range(n):
            if p + AHEAD < n:
                fetch(&include_volume, points + 3 * (p + AHEAD))
                fetch(&exclude_volume, points + 3 * (p + AHEAD))
            if reasons[p] != RUNNING:
                continue
            if not (interpolate(&include_volume, points + 3 * p, &included)
                    and interpolate(&exclude_volume, points + 3 * p, &excluded)):
                reasons[p] = OUTSIDE_IMAGE
                continue
            if included + excluded <= 0:
                continue
            rest = max(1 - included - excluded, 0.0)
            state = mix(seed_keys[p] + golden() * <uint64_t>point_numbers[p])
            # A comparison with NaN is false, so such a point becomes invalid.
            if draw(&state) < pow(rest / (rest + included + excluded), self.exponent):
                continue
            if draw(&state) < included / (included + excluded):
                reasons[p] = ENDPOINT
            else:
                reasons[p] = INVALID_POINT


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


cdef class DipyDecision(Decision):
    """The decision of a criterion of DIPY. NaN is outside of the image."""

    cdef object criterion

    def __cinit__(self, criterion):
        self.criterion = criterion

    cdef void decide(
        self, const double* points, int64_t* reasons, const uint64_t* seed_keys,
        const int64_t* point_numbers, Py_ssize_t n
    ) noexcept nogil:
        cdef:
            PyObject* subject = <PyObject*>self.criterion
            dipy_check check = (<dipy_criterion*>subject).methods.check_point_c
            double point[3]
            Py_ssize_t p, k
            int status

        for p in range(n):
            if reasons[p] != RUNNING:
                continue
            for k in range(3):
                point[k] = points[3 * p + k]
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
