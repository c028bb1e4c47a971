"""DIPY's stopping criteria, for many points at a time.

The four criteria of this module are DIPY's own, as subclasses, so DIPY's trackers take
them as well. :func:`evaluate_criterion` evaluates them at many points at a time, by the
kernels in ``_criteria.pyx``. On an axis of n voxels they decide as DIPY's do:

==================  ==============================  =================================
coordinate          interpolated maps               masks
==================  ==============================  =================================
below -0.5          outside                         outside
-0.5 up to 0        voxel 0 (clamped)               voxel 0
0 up to n - 1       linear between two voxels       the nearest; halves to the even
n - 1 up to n - .5  voxel n - 1 (clamped)           voxel n - 1
n - 0.5             outside                         voxel n - 1 if that is even, else
                                                    outside
above n - 0.5       outside                         outside
NaN                 outside (DIPY's own reads       outside
                    beyond its map)
==================  ==============================  =================================

NaN in a map affects every point for which one of the eight surrounding voxels is NaN.
NaN is above no threshold: the threshold criterion ends tracking there. ACT continues
unless its other map decides otherwise. CMC excludes such points. In a mask NaN counts
as outside of the tissue.

A criterion of your own can be evaluated in the same way: see
:class:`BatchedStoppingCriterion`.
"""

from typing import Protocol, Self, TypeGuard

from dipy.tracking import stopping_criterion as dipy_criteria
from dipy.tracking.stopping_criterion import StreamlineStatus
import numpy as np

from dipy_rnn._checks import as_points, check_number, check_numbers
from dipy_rnn._typing import AnyArray, ArrayLike, FloatArray, IntArray, KeyArray
from dipy_rnn.stopping import _criteria
from dipy_rnn.stopping.reasons import REASON_OF_STATUS, StopReason

# Coordinates of seeds are hashed in this many steps per voxel. It is fine enough to
# distinguish seeds, and coarse enough to ignore rounding errors of the affine.
_STEPS_PER_VOXEL = 2.0**20

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

    Several threads call it at the same time, so it must not hold a state.

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

    #: Whether it draws at random. ``check_points`` then takes ``seed_keys`` and
    #: ``point_numbers`` as well (:func:`evaluate_criterion`).
    draws_at_random: bool

    def check_points(
        self, points_vox: FloatArray, reasons: IntArray, *draws: AnyArray
    ) -> None:
        """Replace RUNNING in ``reasons`` (N,) at the points (N, 3) where it ends."""



def _check_map(image: ArrayLike, name: str) -> AnyArray:
    image = check_numbers(image, name)
    if image.ndim != 3:
        raise ValueError(f"{name} has the shape {image.shape}; (X, Y, Z) is needed.")
    return image


def _own_map(image: ArrayLike, name: str) -> FloatArray:
    # DIPY hides its maps and refuses read-only ones. It shares this copy.
    with np.errstate(over="ignore"):  # a value that is too large becomes infinite
        return np.array(_check_map(image, name), dtype=np.float64, order="C")


def _own_maps(
    include_map: ArrayLike, exclude_map: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    return _own_map(include_map, "include_map"), _own_map(exclude_map, "exclude_map")


def _above_zero(length_mm: float, name: str) -> float:
    length_mm = check_number(length_mm, name)
    if not 0 < length_mm < np.inf:
        raise ValueError(f"{name} is {length_mm}; a length above 0 mm is needed.")
    return length_mm


class ThresholdStoppingCriterion(
    dipy_criteria.ThresholdStoppingCriterion  # type: ignore[misc]  # DIPY has no types
):
    """Tracking continues where a map is above a threshold.

    Parameters
    ----------
    metric_map : array_like of shape (X, Y, Z)
        For example FA. It is copied.
    threshold : float

    Examples
    --------
    >>> criterion = ThresholdStoppingCriterion(np.array([[[0.3]], [[0.1]]]), 0.2)
    >>> criterion.check_point(np.array([0.4, 0, 0])).name
    'TRACKPOINT'
    """

    draws_at_random = False
    maps: tuple[AnyArray, ...]
    parameters: tuple[float, ...]

    def __new__(cls, metric_map: ArrayLike, threshold: float) -> Self:
        metric_map = _own_map(metric_map, "metric_map")
        threshold = float(check_number(threshold, "threshold"))
        if np.isnan(threshold):
            raise ValueError("threshold is nan; a number is needed.")
        criterion: Self = super().__new__(cls, metric_map, threshold)
        criterion.maps, criterion.parameters = (metric_map,), (threshold,)
        return criterion

    def check_points(self, points_vox: FloatArray, reasons: IntArray) -> None:
        """As :meth:`BatchedStoppingCriterion.check_points`."""
        _criteria.check_threshold(*self.maps, *self.parameters, points_vox, reasons)


class BinaryStoppingCriterion(
    dipy_criteria.BinaryStoppingCriterion  # type: ignore[misc]  # DIPY has no types
):
    """Tracking continues in the voxels of a mask.

    Parameters
    ----------
    mask : array_like of shape (X, Y, Z)
        Tissue where it is above zero. It is copied.

    Examples
    --------
    >>> criterion = BinaryStoppingCriterion(np.array([[[1]], [[0]]]))
    >>> criterion.check_point(np.array([0.4, 0, 0])).name
    'TRACKPOINT'
    """

    draws_at_random = False
    maps: tuple[AnyArray, ...]
    parameters: tuple[float, ...]

    def __new__(cls, mask: ArrayLike) -> Self:
        mask = (_check_map(mask, "mask") > 0).astype(np.uint8, order="C")
        criterion: Self = super().__new__(cls, mask)
        criterion.maps, criterion.parameters = (mask,), ()
        return criterion

    def check_points(self, points_vox: FloatArray, reasons: IntArray) -> None:
        """As :meth:`BatchedStoppingCriterion.check_points`."""
        _criteria.check_binary(*self.maps, points_vox, reasons)


class ActStoppingCriterion(
    dipy_criteria.ActStoppingCriterion  # type: ignore[misc]  # DIPY has no types
):
    """Anatomically constrained tractography (ACT).

    ``from_pve(wm_map, gm_map, csf_map)`` makes one from tissue maps.

    Parameters
    ----------
    include_map, exclude_map : array_like of shape (X, Y, Z)
        Where streamlines may end, and where they must not be. For example the
        fractions of grey matter and of cerebrospinal fluid. They are copied.

    Examples
    --------
    >>> grey, fluid = np.array([[[0.7]], [[0]]]), np.array([[[0.2]], [[1]]])
    >>> criterion = ActStoppingCriterion(grey, fluid)
    >>> criterion.check_point(np.array([1.0, 0, 0])).name
    'INVALIDPOINT'
    """

    draws_at_random = False
    maps: tuple[AnyArray, ...]
    parameters: tuple[float, ...]

    def __new__(cls, include_map: ArrayLike, exclude_map: ArrayLike) -> Self:
        maps = _own_maps(include_map, exclude_map)
        criterion: Self = super().__new__(cls, *maps)
        criterion.maps, criterion.parameters = maps, ()
        return criterion

    def check_points(self, points_vox: FloatArray, reasons: IntArray) -> None:
        """As :meth:`BatchedStoppingCriterion.check_points`."""
        _criteria.check_act(*self.maps, points_vox, reasons)


class CmcStoppingCriterion(
    dipy_criteria.CmcStoppingCriterion  # type: ignore[misc]  # DIPY has no types
):
    """The continuous map criterion (CMC).

    ``from_pve(wm_map, gm_map, csf_map, step_size=.., average_voxel_size=..)`` makes one
    from tissue maps.

    It draws at random whether tracking ends. In :func:`evaluate_criterion` a draw
    depends only on the key of the seed and on the number of the point. A streamline
    then does not depend on the other streamlines or on their order. DIPY's trackers
    draw from generators of their own.

    Parameters
    ----------
    include_map, exclude_map : array_like of shape (X, Y, Z)
        Where streamlines may end, and where they must not be. For example the
        fractions of grey matter and of cerebrospinal fluid. They are copied.
    step_size : float
        Step of the tracker in mm.
    average_voxel_size : float
        In mm.

    Examples
    --------
    >>> grey, fluid = np.array([[[0.7]], [[0]]]), np.array([[[0.2]], [[1]]])
    >>> criterion = CmcStoppingCriterion(grey, fluid, 0.5, 2.0)
    >>> criterion.check_point(np.array([1.0, 0, 0])).name
    'INVALIDPOINT'
    """

    draws_at_random = True
    maps: tuple[AnyArray, ...]
    parameters: tuple[float, ...]

    def __new__(
        cls,
        include_map: ArrayLike,
        exclude_map: ArrayLike,
        step_size: float,
        average_voxel_size: float,
    ) -> Self:
        maps = _own_maps(include_map, exclude_map)
        step_size = _above_zero(step_size, "step_size")
        average_voxel_size = _above_zero(average_voxel_size, "average_voxel_size")
        criterion: Self = super().__new__(cls, *maps, step_size, average_voxel_size)
        exponent = step_size / average_voxel_size
        criterion.maps, criterion.parameters = maps, (exponent,)
        return criterion

    def check_points(
        self,
        points_vox: FloatArray,
        reasons: IntArray,
        seed_keys: KeyArray,
        point_numbers: IntArray,
    ) -> None:
        """As :meth:`BatchedStoppingCriterion.check_points`."""
        _criteria.check_cmc(
            *self.maps, *self.parameters, points_vox, reasons, seed_keys, point_numbers
        )


def _is_batched(criterion: StoppingCriterion) -> TypeGuard[BatchedStoppingCriterion]:
    """Tell whether ``check_points`` decides as ``check_point`` does.

    It does not if a subclass, or the object itself, overrides only ``check_point``.
    """
    if "check_point" in getattr(criterion, "__dict__", ()):
        return False
    for kind in type(criterion).__mro__:
        if "check_points" in vars(kind):
            return True
        if "check_point" in vars(kind):
            return False
    return False


def decompose(
    stopping_criterion: StoppingCriterion,
) -> tuple[type[StoppingCriterion] | None, tuple[AnyArray, ...], tuple[float, ...]]:
    """Return the class, the maps and the parameters of a criterion.

    Parameters
    ----------
    stopping_criterion : dipy_rnn.stopping.StoppingCriterion

    Returns
    -------
    kind : type or None
        Its class in this module. None for any other criterion, and for one with its
        own ``check_point``.
    maps : tuple of ndarray
        In the order of the constructor.
    parameters : tuple of float
        The threshold. For CMC the exponent, ``step_size / average_voxel_size``.

    Examples
    --------
    >>> criterion = ThresholdStoppingCriterion(np.ones((2, 2, 2)), 0.2)
    >>> kind, maps, parameters = decompose(criterion)
    >>> kind.__name__, len(maps), parameters
    ('ThresholdStoppingCriterion', 1, (0.2,))
    """
    if _is_batched(stopping_criterion):
        for kind in (
            ThresholdStoppingCriterion,
            BinaryStoppingCriterion,
            ActStoppingCriterion,
            CmcStoppingCriterion,
        ):
            if isinstance(stopping_criterion, kind):
                return kind, stopping_criterion.maps, stopping_criterion.parameters
    return None, (), ()


def is_stateless(stopping_criterion: StoppingCriterion) -> bool:
    """Tell whether a criterion's decisions do not depend on the order of the points.

    This is true for the criteria of this module, for any other batched criterion, and
    for those of DIPY that do not draw at random. Another criterion may hold a state, so
    it is evaluated by one thread.

    Parameters
    ----------
    stopping_criterion : dipy_rnn.stopping.StoppingCriterion

    Returns
    -------
    answer : bool

    Examples
    --------
    >>> is_stateless(BinaryStoppingCriterion(np.ones((2, 2, 2))))
    True
    """
    return _is_batched(stopping_criterion) or type(stopping_criterion) in (
        dipy_criteria.ThresholdStoppingCriterion,
        dipy_criteria.BinaryStoppingCriterion,
        dipy_criteria.ActStoppingCriterion,
    )


def evaluate_criterion(
    stopping_criterion: StoppingCriterion,
    points_vox: FloatArray,
    reasons: IntArray,
    seed_keys: KeyArray | None = None,
    point_numbers: IntArray | None = None,
) -> None:
    """Evaluate a criterion at many points, in place.

    A batched criterion, such as those of this module, gets all points in one call. The
    kernels of this module let other threads run meanwhile. Any other criterion, also a
    subclass with its own ``check_point``, is evaluated point by point.

    Parameters
    ----------
    stopping_criterion : dipy_rnn.stopping.StoppingCriterion
        Any criterion of DIPY's or of this module, or an object with the same method.
    points_vox : ndarray of shape (N, 3)
        float64, C-contiguous.
    reasons : ndarray of shape (N,)
        int64 values of :class:`StopReason`. Only rows that are RUNNING are evaluated.
        They stay RUNNING where tracking continues.
    seed_keys : ndarray of shape (N,), optional
        uint64, from :func:`seed_keys`: the key of each point's seed, for a criterion
        that draws at random (``draws_at_random``). Without keys such a criterion is
        evaluated point by point, and draws from DIPY's generator.
    point_numbers : ndarray of shape (N,), optional
        int64, together with ``seed_keys``: 1, 2, 3 .. in the forward half and
        -1, -2 .. in the backward half.

    Raises
    ------
    ValueError
        If shapes or types of the arrays differ from the above, or the criterion
        returns a value that is not a status of a point.

    Examples
    --------
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
    if _is_batched(stopping_criterion):
        if not stopping_criterion.draws_at_random:
            stopping_criterion.check_points(points_vox, reasons)
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
            stopping_criterion.check_points(
                points_vox, reasons, seed_keys, point_numbers
            )
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


def _check_type(array: object, name: str, dtype: str) -> None:
    if (
        not isinstance(array, np.ndarray)
        or array.dtype != dtype
        or not array.flags.c_contiguous
    ):
        raise ValueError(
            f"{name} is no C-contiguous array of type {dtype}; convert it."
        )


def seed_keys(random_seed: int, seeds_vox: ArrayLike) -> KeyArray:
    """Hash seeds into keys, for criteria that draw at random.

    Parameters
    ----------
    random_seed : int
        Another number gives other keys.
    seeds_vox : array_like of shape (N, 3)
        Seeds are rounded to 2**-20 voxels, so that rounding errors have no effect.

    Returns
    -------
    keys : ndarray of shape (N,)
        uint64. They are the same on every machine.

    Raises
    ------
    ValueError
        If ``seeds_vox`` has another shape or is not finite, or ``random_seed`` is not a
        whole number.

    Examples
    --------
    >>> keys = seed_keys(1, [[0.1, 2, 3], [0.1 + 1e-15, 2, 3], [0.2, 2, 3]])
    >>> len(set(keys.tolist()))
    2
    """
    shape = check_numbers(seeds_vox, "seeds_vox").shape
    if len(shape) != 2 or shape[1] != 3:
        raise ValueError(f"seeds_vox is of shape {shape}; give (N, 3).")
    seeds_vox = np.ascontiguousarray(as_points(seeds_vox, "seeds_vox"))
    number = check_number(random_seed, "random_seed")
    if not isinstance(number, int):
        raise ValueError(f"random_seed is {number}; a whole number is needed.")
    # Adding zero turns -0.0 into 0.0, as the bits are hashed.
    rounded = np.rint(seeds_vox * _STEPS_PER_VOXEL) + 0.0
    keys = np.empty(len(seeds_vox), dtype=np.uint64)
    _criteria.hash_rows(number % 2**64, rounded.view(np.uint64), keys)
    return keys
