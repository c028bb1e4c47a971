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


cdef inline Map map_of(const double[:, :, ::1] values) noexcept:
    """Point to the values of a map, which the caller keeps alive."""
    cdef Map volume

    volume.values = &values[0, 0, 0]
    volume.size[0] = values.shape[0]
    volume.size[1] = values.shape[1]
    volume.size[2] = values.shape[2]
    return volume


cdef inline void fetch_around(const Map* volume, const double* point) noexcept nogil:
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
    """The decisions of a criterion at many points. Subclasses decide at one."""

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
        cdef:
            uint64_t key = 0
            int64_t number = 0
            Py_ssize_t p

        for p in range(n):
            if p + AHEAD < n:
                self.fetch(points + 3 * (p + AHEAD))
            if reasons[p] != RUNNING:
                continue
            if seed_keys != NULL:
                key, number = seed_keys[p], point_numbers[p]
            reasons[p] = self.reason_at(points + 3 * p, key, number)

    cdef void fetch(self, const double* point) noexcept nogil:
        """Start to fetch what :meth:`reason_at` needs from memory."""

    cdef int64_t reason_at(
        self, const double* point, uint64_t key, int64_t number
    ) noexcept nogil:
        """Return the reason to end at a point, or RUNNING."""
        return RUNNING


cdef class ThresholdDecision(Decision):
    """Ends where the map is not above the threshold."""

    cdef:
        object arrays
        Map volume
        double threshold

    def __cinit__(self, metric_map, threshold):
        self.arrays = metric_map  # keeps the memory alive
        self.volume, self.threshold = map_of(metric_map), threshold

    cdef void fetch(self, const double* point) noexcept nogil:
        fetch_around(&self.volume, point)

    cdef int64_t reason_at(
        self, const double* point, uint64_t key, int64_t number
    ) noexcept nogil:
        cdef double value

        if not interpolate(&self.volume, point, &value):
            return OUTSIDE_IMAGE
        return RUNNING if value > self.threshold else ENDPOINT  # also for NaN


cdef class BinaryDecision(Decision):
    """Ends where the nearest voxel (halves to even) is not in the mask."""

    cdef const unsigned char[:, :, ::1] mask

    def __cinit__(self, mask):
        self.mask = mask

    cdef int64_t reason_at(
        self, const double* point, uint64_t key, int64_t number
    ) noexcept nogil:
        cdef double x = rint(point[0]), y = rint(point[1]), z = rint(point[2])

        # Compared as doubles, as they may be too large for an integer.
        if not (0 <= x < self.mask.shape[0] and 0 <= y < self.mask.shape[1]
                and 0 <= z < self.mask.shape[2]):
            return OUTSIDE_IMAGE
        if self.mask[<Py_ssize_t>x, <Py_ssize_t>y, <Py_ssize_t>z]:
            return RUNNING
        return ENDPOINT


cdef class ActDecision(Decision):
    """Ends where one of the maps is above 0.5."""

    cdef:
        object arrays
        Map include_volume, exclude_volume

    def __cinit__(self, include_map, exclude_map, *parameters):
        self.arrays = include_map, exclude_map  # keeps the memory alive
        self.include_volume = map_of(include_map)
        self.exclude_volume = map_of(exclude_map)

    cdef void fetch(self, const double* point) noexcept nogil:
        fetch_around(&self.include_volume, point)
        fetch_around(&self.exclude_volume, point)

    cdef int64_t reason_at(
        self, const double* point, uint64_t key, int64_t number
    ) noexcept nogil:
        cdef double included, excluded

        if not (interpolate(&self.include_volume, point, &included)
                and interpolate(&self.exclude_volume, point, &excluded)):
            return OUTSIDE_IMAGE
        return self.reason_of(included, excluded, key, number)

    cdef int64_t reason_of(
        self, double included, double excluded, uint64_t key, int64_t number
    ) noexcept nogil:
        """Return the reason to end at a point with these values of the maps."""
        if included > 0.5:
            return ENDPOINT
        return INVALID_POINT if excluded > 0.5 else RUNNING


cdef class CmcDecision(ActDecision):
    """Draws whether tracking continues. If not, draws whether the end is valid."""

    cdef double exponent

    def __cinit__(self, include_map, exclude_map, exponent):
        self.exponent = exponent

    cdef int64_t reason_of(
        self, double included, double excluded, uint64_t key, int64_t number
    ) noexcept nogil:
        cdef:
            double rest
            uint64_t state

        if included + excluded <= 0:
            return RUNNING
        rest = max(1 - included - excluded, 0.0)
        state = mix(key + golden() * <uint64_t>number)
        # A comparison with NaN is false, so such a point becomes invalid.
        if draw(&state) < pow(rest / (rest + included + excluded), self.exponent):
            return RUNNING
        return ENDPOINT if draw(&state) < included / (included + excluded) \
            else INVALID_POINT


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

    cdef int64_t reason_at(
        self, const double* point, uint64_t key, int64_t number
    ) noexcept nogil:
        cdef:
            PyObject* subject = <PyObject*>self.criterion
            double copied[3]
            int status
            Py_ssize_t k

        for k in range(3):
            copied[k] = point[k]
        # DIPY's criteria read invalid memory at NaN.
        if isnan(copied[0]) or isnan(copied[1]) or isnan(copied[2]):
            return OUTSIDE_IMAGE
        status = (<dipy_criterion*>subject).methods.check_point_c(subject, copied, NULL)
        if status == STATUS_OUTSIDEIMAGE:
            return OUTSIDE_IMAGE
        if status == STATUS_ENDPOINT:
            return ENDPOINT
        return RUNNING if status == STATUS_TRACKPOINT else INVALID_POINT
