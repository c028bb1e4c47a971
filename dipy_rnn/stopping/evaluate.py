"""Evaluate a stopping criterion at many points at a time.

If you write a criterion of your own, give it the methods of :class:`StoppingCriterion`,
or, to make it faster, those of :class:`BatchedStoppingCriterion`.
"""

from functools import cache
from typing import Protocol, TypeGuard

from dipy.tracking import stopping_criterion as dipy_criteria
from dipy.tracking.stopping_criterion import StreamlineStatus
import numpy as np

from dipy_rnn._dipy_compat import dipy_version
from dipy_rnn._typing import AnyArray, FloatArray, IntArray, KeyArray
from dipy_rnn.stopping import _criteria
from dipy_rnn.stopping.reasons import REASON_OF_STATUS, StopReason

#: Criteria of DIPY whose decision at a point depends on the point only.
FIXED_CRITERIA = (
    dipy_criteria.ThresholdStoppingCriterion,
    dipy_criteria.BinaryStoppingCriterion,
    dipy_criteria.ActStoppingCriterion,
)

# Versions of DIPY with the methods that the kernel expects. In DIPY 1.11 the methods
# are the same, but a criterion interpolates into a buffer of its own: two threads would
# overwrite each other's values.
_KNOWN_VERSIONS = ((1, 12),)

_STATUSES = " or ".join(
    f"{status} ({StreamlineStatus(status).name})" for status in REASON_OF_STATUS
)


class StoppingCriterion(Protocol):
    """A stopping criterion: any of DIPY's, or an object with the same method.

    Examples
    --------
    >>> class AboveTheFloor:
    ...     def check_point(self, point):
    ...         return 1 if point[2] > 0 else 2  # StreamlineStatus
    >>> points, reasons = np.array([[0, 0, 1.0], [0, 0, -1.0]]), np.zeros(2, np.int64)
    >>> evaluate_criterion(AboveTheFloor(), points, reasons)
    >>> [StopReason(reason).name for reason in reasons]
    ['RUNNING', 'ENDPOINT']
    """

    def check_point(self, point: FloatArray) -> int:
        """Return a value of ``StreamlineStatus`` for a point in voxel coordinates."""


class BatchedStoppingCriterion(StoppingCriterion, Protocol):
    """A stopping criterion that can be evaluated at many points at a time.

    Several threads call it at the same time. Its decision at a point must therefore not
    depend on earlier calls.

    Examples
    --------
    >>> class AboveTheFloor:
    ...     draws_at_random = False
    ...     def check_point(self, point):
    ...         return 1 if point[2] > 0 else 2  # StreamlineStatus
    ...     def check_points(self, points_vox, reasons):
    ...         running = reasons == StopReason.RUNNING
    ...         reasons[running & ~(points_vox[:, 2] > 0)] = StopReason.ENDPOINT
    >>> points, reasons = np.array([[0, 0, 1.0], [0, 0, -1.0]]), np.zeros(2, np.int64)
    >>> evaluate_criterion(AboveTheFloor(), points, reasons)
    >>> [StopReason(reason).name for reason in reasons]
    ['RUNNING', 'ENDPOINT']
    """

    #: Whether it draws at random. If True, ``check_points`` also gets ``seed_keys`` and
    #: ``point_numbers`` (:func:`evaluate_criterion`).
    draws_at_random: bool

    def check_points(
        self, points_vox: FloatArray, reasons: IntArray, *draws: AnyArray
    ) -> None:
        """Evaluate the criterion at points, in place.

        Parameters
        ----------
        points_vox : ndarray of shape (N, 3)
            Voxel coordinates.
        reasons : ndarray of shape (N,)
            int64 values of :class:`StopReason`. Where the value is RUNNING and tracking
            ends at the point, write the reason. Leave all other values unchanged.
        *draws : ndarray of shape (N,)
            ``seed_keys`` and ``point_numbers``, if ``draws_at_random`` is True.
        """


def deciding_class(criterion: StoppingCriterion) -> type | None:
    """Return the class whose ``check_points`` decides for a criterion.

    Parameters
    ----------
    criterion : StoppingCriterion

    Returns
    -------
    kind : type or None
        None if the criterion has no such method. None also if a subclass, or the object
        itself, overrides ``check_point`` without ``check_points``: the two methods
        could then decide differently.

    Examples
    --------
    >>> from dipy_rnn.stopping import BinaryStoppingCriterion
    >>> deciding_class(BinaryStoppingCriterion(np.ones((2, 2, 2)))).__name__
    'BinaryStoppingCriterion'
    """
    if "check_point" in getattr(criterion, "__dict__", ()):
        return None
    for kind in type(criterion).__mro__:
        if "check_points" in vars(kind):
            return kind
        if "check_point" in vars(kind):
            return None
    return None


def is_batched(criterion: StoppingCriterion) -> TypeGuard[BatchedStoppingCriterion]:
    """Tell whether a criterion is to be evaluated by its ``check_points``.

    Parameters
    ----------
    criterion : StoppingCriterion

    Returns
    -------
    answer : bool
        Whether there is a :func:`deciding_class`.

    Examples
    --------
    >>> from dipy_rnn.stopping import BinaryStoppingCriterion
    >>> is_batched(BinaryStoppingCriterion(np.ones((2, 2, 2))))
    True
    """
    return deciding_class(criterion) is not None


def is_stateless(stopping_criterion: StoppingCriterion) -> bool:
    """Tell whether a criterion's decisions do not depend on the order of the points.

    This is true for any batched criterion, and for those of DIPY that do not draw at
    random. Any other criterion may hold a state, so only one thread evaluates it.

    Parameters
    ----------
    stopping_criterion : dipy_rnn.stopping.StoppingCriterion

    Returns
    -------
    answer : bool

    Examples
    --------
    >>> from dipy_rnn.stopping import BinaryStoppingCriterion
    >>> is_stateless(BinaryStoppingCriterion(np.ones((2, 2, 2))))
    True
    """
    return is_batched(stopping_criterion) or type(stopping_criterion) in FIXED_CRITERIA


def has_compiled_method(criterion: object) -> bool:
    """Tell whether the compiled method of a criterion of DIPY can be called.

    Parameters
    ----------
    criterion : object

    Returns
    -------
    answer : bool
        True for the three criteria of DIPY that do not draw at random, if the methods
        of the installed DIPY are known. False for subclasses: they may override
        ``check_point``.

    Examples
    --------
    >>> has_compiled_method(dipy_criteria.StoppingCriterion())
    False
    """
    return type(criterion) in FIXED_CRITERIA and _methods_are_known()


@cache
def _methods_are_known() -> bool:
    """Check the version of DIPY, and the tables of the methods of its classes."""
    if dipy_version() not in _KNOWN_VERSIONS:
        return False
    ones = np.ones((1, 1, 1))
    criteria = [
        dipy_criteria.ThresholdStoppingCriterion(ones, 0.5),
        dipy_criteria.BinaryStoppingCriterion(ones),
        dipy_criteria.ActStoppingCriterion(ones, ones),
    ]

    def table(kind: type) -> object:
        return vars(kind).get("__pyx_vtable__")

    return _criteria.has_known_methods(
        table(dipy_criteria.StoppingCriterion),
        [(criterion, table(type(criterion))) for criterion in criteria],
    )


def compiled_decision(
    stopping_criterion: StoppingCriterion,
) -> _criteria.Decision | None:
    """Return a criterion as a kernel (a compiled function), if there is one.

    Parameters
    ----------
    stopping_criterion : dipy_rnn.stopping.StoppingCriterion

    Returns
    -------
    decision : Decision or None
        For the criteria of ``criteria.py``, and those of DIPY whose compiled method can
        be called (:func:`has_compiled_method`). None for all others: Python is needed
        to evaluate them.

    Examples
    --------
    >>> from dipy_rnn.stopping import BinaryStoppingCriterion
    >>> decision = compiled_decision(BinaryStoppingCriterion(np.ones((2, 2, 2))))
    >>> points, reasons = np.array([[0, 0, 5.0]]), np.zeros(1, np.int64)
    >>> decision(points, reasons)
    >>> StopReason(reasons[0]).name
    'OUTSIDE_IMAGE'
    """
    kind = deciding_class(stopping_criterion)
    if kind is not None and kind.__module__ == "dipy_rnn.stopping.criteria":
        decision: _criteria.Decision = stopping_criterion.decision  # type: ignore[attr-defined]
        return decision
    if has_compiled_method(stopping_criterion):
        return _criteria.DipyDecision(stopping_criterion)
    return None


def evaluate_criterion(
    stopping_criterion: StoppingCriterion,
    points_vox: FloatArray,
    reasons: IntArray,
    seed_keys: KeyArray | None = None,
    point_numbers: IntArray | None = None,
) -> None:
    """Evaluate a criterion at many points, in place.

    A batched criterion (:func:`is_batched`), such as those of ``criteria.py``, gets all
    points in one call. The kernels of ``criteria.py`` release Python's GIL, so other
    threads can run at the same time. So does the kernel that calls the compiled method
    of those criteria of DIPY that do not draw at random. Any
    other criterion is evaluated point by point.

    Parameters
    ----------
    stopping_criterion : dipy_rnn.stopping.StoppingCriterion
        Any criterion of DIPY's or of this package, or an object with the same method.
    points_vox : ndarray of shape (N, 3)
        Voxel coordinates: float64, C-contiguous.
    reasons : ndarray of shape (N,)
        int64 values of :class:`StopReason`, changed in place. Only rows that are
        RUNNING are evaluated. They stay RUNNING where tracking continues.
    seed_keys : ndarray of shape (N,), optional
        uint64, from :func:`dipy_rnn.draws.seed_keys`: the key of each point's seed,
        for a criterion that draws at random (``draws_at_random``). Without keys such a
        criterion is evaluated point by point. Those of DIPY and of this package then
        draw from DIPY's random generator.
    point_numbers : ndarray of shape (N,), optional
        int64, together with ``seed_keys``. Points are counted from the seed, which has
        the number 0: 1, 2, 3 .. in the forward half and -1, -2 .. in the backward half.

    Raises
    ------
    ValueError
        If shapes or types of the arrays differ from the above, or ``reasons`` is
        read-only. Also if the criterion returns an invalid status or reason.

    Examples
    --------
    >>> from dipy_rnn.stopping import BinaryStoppingCriterion
    >>> criterion = BinaryStoppingCriterion(np.array([[[1]], [[0]]]))
    >>> points = np.array([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]])
    >>> reasons = np.full(3, StopReason.RUNNING, dtype=np.int64)
    >>> evaluate_criterion(criterion, points, reasons)
    >>> [StopReason(r).name for r in reasons]
    ['RUNNING', 'ENDPOINT', 'OUTSIDE_IMAGE']
    """
    _check_type(points_vox, "points_vox", "double")
    _check_type(reasons, "reasons", "int64")
    if points_vox.shape != (*reasons.shape, 3):
        raise ValueError(
            f"points_vox is of shape {points_vox.shape} and reasons of "
            f"{reasons.shape}; give (N, 3) and (N,)."
        )
    if not reasons.flags.writeable:
        raise ValueError("reasons is read-only; the results are written into it.")
    if is_batched(stopping_criterion):
        if not getattr(stopping_criterion, "draws_at_random", False):
            _evaluate_batch(stopping_criterion, points_vox, reasons)
            return
        if seed_keys is not None:
            shapes = [getattr(a, "shape", None) for a in (seed_keys, point_numbers)]
            if shapes != [reasons.shape] * 2:
                raise ValueError(
                    f"seed_keys and point_numbers are of shapes {shapes[0]} and "
                    f"{shapes[1]}; give both, of shape {reasons.shape}."
                )
            _check_type(seed_keys, "seed_keys", "uint64")
            _check_type(point_numbers, "point_numbers", "int64")
            assert point_numbers is not None
            _evaluate_batch(
                stopping_criterion, points_vox, reasons, seed_keys, point_numbers
            )
            return
    if has_compiled_method(stopping_criterion):
        _criteria.DipyDecision(stopping_criterion)(points_vox, reasons)
        return
    check = stopping_criterion.check_point
    for row in np.flatnonzero(reasons == StopReason.RUNNING):
        status = check(points_vox[row])
        try:
            reasons[row] = REASON_OF_STATUS[int(status)]
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{type(stopping_criterion).__name__}.check_point returned {status!r} "
                f"at {points_vox[row].tolist()} (voxels); {_STATUSES} is needed."
            ) from None


def _evaluate_batch(
    criterion: BatchedStoppingCriterion,
    points_vox: FloatArray,
    reasons: IntArray,
    *draws: AnyArray,
) -> None:
    """Evaluate a batched criterion, and refuse values that are not in StopReason.

    A user's criterion could write a status of DIPY, which may be negative. The criteria
    of the package are not checked, as the check would cost more than they do.
    """
    if type(criterion).__module__.startswith("dipy_rnn.stopping."):
        criterion.check_points(points_vox, reasons, *draws)
        return
    running = reasons == StopReason.RUNNING
    criterion.check_points(points_vox, reasons, *draws)
    written = reasons[running]
    if len(written) and not 0 <= written.min() <= written.max() < len(StopReason):
        raise ValueError(
            f"{type(criterion).__name__}.check_points wrote values from "
            f"{written.min()} to {written.max()}; those of "
            "dipy_rnn.stopping.StopReason are needed."
        )


def _check_type(array: object, name: str, dtype: str) -> None:
    if (
        not isinstance(array, np.ndarray)
        or array.dtype != dtype
        or not array.flags.c_contiguous
    ):
        raise ValueError(
            f"{name} is not a C-contiguous array of type {dtype}; convert it."
        )
