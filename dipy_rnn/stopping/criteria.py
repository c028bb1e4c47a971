"""Why a streamline stopped, and asking a criterion about many points at once.

DIPY's criteria decide; here are the reasons of the tracker itself beside theirs, in
one enumeration, with what each implies in one table and one report at the end.

The four criteria of this module are DIPY's own, for DIPY's trackers as well, that
:func:`check_points` asks about many points at once, through the kernels in
``_stopping.pyx``. They decide as DIPY's do, on an axis of n voxels:

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

A map's NaN spreads to wherever one of the eight voxels around a point has it, and is
above no threshold: tracking by threshold ends there, and ACT goes on unless its other
map says otherwise. CMC excludes such points. In a mask NaN is not tissue.
"""

from collections import Counter
from collections.abc import Mapping
from enum import IntEnum
from functools import partial
from typing import Protocol, Self, TypeGuard

from dipy.tracking import stopping_criterion as dipy_criteria
from dipy.tracking.stopping_criterion import StreamlineStatus
import numpy as np

from dipy_rnn import _stopping, spaces
from dipy_rnn._typing import AnyArray, ArrayLike, FloatArray, IntArray, KeyArray

# Coordinates of seeds are hashed in this many steps per voxel: enough to tell seeds
# apart, and too few for the last digits of a way through an affine to matter.
_STEPS_PER_VOXEL = 2.0**20


class StoppingCriterion(Protocol):
    """What may decide where a streamline ends: any of DIPY's, or anything like them.

    Examples
    --------
    >>> class AboveTheFloor:
    ...     def check_point(self, point):
    ...         return 1 if point[2] > 0 else 2  # StreamlineStatus
    >>> reasons = np.zeros(2, np.int64)
    >>> check_points(AboveTheFloor(), np.array([[0, 0, 1.0], [0, 0, -1.0]]), reasons)
    >>> [StopReason(reason).name for reason in reasons]
    ['RUNNING', 'ENDPOINT']
    """

    def check_point(self, point: FloatArray) -> int:
        """Return a value of ``StreamlineStatus`` for a point in voxel coordinates."""


class _Batched(StoppingCriterion, Protocol):
    """What the criteria of this module have besides, for :func:`check_points`."""

    draws_at_random: bool
    _kernel: partial[None]


class StopReason(IntEnum):
    """Why a half of a streamline ended; the value is its place in a tally.

    Examples
    --------
    >>> StopReason.SHARP_TURN.message
    'a step would turn by more than max_angle'
    """

    RUNNING = 0
    ENDPOINT = 1
    OUTSIDE_IMAGE = 2
    INVALID_POINT = 3
    SHARP_TURN = 4
    MAX_LENGTH = 5
    NO_DIRECTION = 6
    NO_DATA = 7
    NOT_FINITE = 8

    @property
    def message(self) -> str:
        """What a user reads."""
        return _TABLE[self][0]

    @property
    def status(self) -> StreamlineStatus:
        """The status that DIPY's trackers know it by."""
        return _TABLE[self][1]

    @property
    def is_valid_end(self) -> bool:
        """Whether a streamline that ends so is kept where ``return_all`` is False."""
        return self in (StopReason.ENDPOINT, StopReason.OUTSIDE_IMAGE)


_TRACKPOINT = StreamlineStatus.TRACKPOINT
_TABLE: dict[StopReason, tuple[str, StreamlineStatus]] = {
    StopReason.RUNNING: ("it has not stopped", _TRACKPOINT),
    StopReason.ENDPOINT: (
        "the stopping criterion was met",
        StreamlineStatus.ENDPOINT,
    ),
    StopReason.OUTSIDE_IMAGE: ("it left the image", StreamlineStatus.OUTSIDEIMAGE),
    StopReason.INVALID_POINT: (
        "it came into tissue that the criterion excludes",
        StreamlineStatus.INVALIDPOINT,
    ),
    StopReason.SHARP_TURN: ("a step would turn by more than max_angle", _TRACKPOINT),
    StopReason.MAX_LENGTH: ("it would be longer than max_len", _TRACKPOINT),
    StopReason.NO_DIRECTION: ("the model gave no direction", _TRACKPOINT),
    StopReason.NO_DATA: ("the features are zero there", _TRACKPOINT),
    StopReason.NOT_FINITE: ("the model answered NaN or infinity", _TRACKPOINT),
}
_REASON_OF_STATUS = {
    int(StreamlineStatus.TRACKPOINT): StopReason.RUNNING,
    int(StreamlineStatus.ENDPOINT): StopReason.ENDPOINT,
    int(StreamlineStatus.OUTSIDEIMAGE): StopReason.OUTSIDE_IMAGE,
    int(StreamlineStatus.INVALIDPOINT): StopReason.INVALID_POINT,
}
_STATUSES = " or ".join(
    f"{status} ({StreamlineStatus(status).name})" for status in _REASON_OF_STATUS
)


def _check_map(image: ArrayLike, name: str) -> AnyArray:
    image = spaces.check_numbers(image, name)
    if image.ndim != 3:
        raise ValueError(f"{name} has the shape {image.shape}; (X, Y, Z) is needed.")
    return image


def _own_map(image: ArrayLike, name: str) -> FloatArray:
    # DIPY hides its maps, and refuses read-only ones: both get the same copy.
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        return np.array(_check_map(image, name), dtype=np.float64, order="C")


def _own_maps(
    include_map: ArrayLike, exclude_map: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    return _own_map(include_map, "include_map"), _own_map(exclude_map, "exclude_map")


def _above_zero(length_mm: float, name: str) -> float:
    length_mm = spaces.check_number(length_mm, name)
    if not 0 < length_mm < np.inf:
        raise ValueError(f"{name} is {length_mm}; a length above 0 mm is needed.")
    return length_mm


class ThresholdStoppingCriterion(
    dipy_criteria.ThresholdStoppingCriterion  # type: ignore[misc]  # DIPY has no types
):
    """Tracking goes on where a map is above a threshold; DIPY's, for many points.

    Parameters
    ----------
    metric_map : array_like of shape (X, Y, Z)
        For example FA; copied.
    threshold : float

    Examples
    --------
    >>> criterion = ThresholdStoppingCriterion(np.array([[[0.3]], [[0.1]]]), 0.2)
    >>> criterion.check_point(np.array([0.4, 0, 0])).name
    'TRACKPOINT'
    """

    #: Whether :func:`check_points` needs keys for it.
    draws_at_random = False
    _kernel: partial[None]

    def __new__(cls, metric_map: ArrayLike, threshold: float) -> Self:
        metric_map = _own_map(metric_map, "metric_map")
        threshold = float(spaces.check_number(threshold, "threshold"))
        if np.isnan(threshold):
            raise ValueError("threshold is nan; a number is needed.")
        criterion: Self = super().__new__(cls, metric_map, threshold)
        criterion._kernel = partial(_stopping.check_threshold, metric_map, threshold)
        return criterion


class BinaryStoppingCriterion(
    dipy_criteria.BinaryStoppingCriterion  # type: ignore[misc]  # DIPY has no types
):
    """Tracking goes on in the voxels of a mask; DIPY's, for many points.

    Parameters
    ----------
    mask : array_like of shape (X, Y, Z)
        Tissue where it is above zero; copied.

    Examples
    --------
    >>> criterion = BinaryStoppingCriterion(np.array([[[1]], [[0]]]))
    >>> criterion.check_point(np.array([0.4, 0, 0])).name
    'TRACKPOINT'
    """

    #: Whether :func:`check_points` needs keys for it.
    draws_at_random = False
    _kernel: partial[None]

    def __new__(cls, mask: ArrayLike) -> Self:
        mask = (_check_map(mask, "mask") > 0).astype(np.uint8, order="C")
        criterion: Self = super().__new__(cls, mask)
        criterion._kernel = partial(_stopping.check_binary, mask)
        return criterion


class ActStoppingCriterion(
    dipy_criteria.ActStoppingCriterion  # type: ignore[misc]  # DIPY has no types
):
    """Anatomically constrained tractography (ACT); DIPY's, for many points.

    Also made by ``from_pve(wm_map, gm_map, csf_map)``.

    Parameters
    ----------
    include_map, exclude_map : array_like of shape (X, Y, Z)
        Where streamlines may end and where they must not be, such as the shares of
        grey matter and of fluid; copied.

    Examples
    --------
    >>> grey, fluid = np.array([[[0.7]], [[0]]]), np.array([[[0.2]], [[1]]])
    >>> criterion = ActStoppingCriterion(grey, fluid)
    >>> criterion.check_point(np.array([1.0, 0, 0])).name
    'INVALIDPOINT'
    """

    #: Whether :func:`check_points` needs keys for it.
    draws_at_random = False
    _kernel: partial[None]

    def __new__(cls, include_map: ArrayLike, exclude_map: ArrayLike) -> Self:
        maps = _own_maps(include_map, exclude_map)
        criterion: Self = super().__new__(cls, *maps)
        criterion._kernel = partial(_stopping.check_act, *maps)
        return criterion


class CmcStoppingCriterion(
    dipy_criteria.CmcStoppingCriterion  # type: ignore[misc]  # DIPY has no types
):
    """The continuous map criterion (CMC); DIPY's, for many points.

    Also made by ``from_pve(wm_map, gm_map, csf_map, step_size=..,
    average_voxel_size=..)``.

    It draws at random where tracking ends. :func:`check_points` draws from a seed's
    key and a point's number alone, so that a streamline does not depend on which
    others are tracked, nor in what order; DIPY's trackers draw from their own
    generators.

    Parameters
    ----------
    include_map, exclude_map : array_like of shape (X, Y, Z)
        Where streamlines may end and where they must not be, such as the shares of
        grey matter and of fluid; copied.
    step_size : float
        The tracker's step in mm.
    average_voxel_size : float
        In mm.

    Examples
    --------
    >>> grey, fluid = np.array([[[0.7]], [[0]]]), np.array([[[0.2]], [[1]]])
    >>> criterion = CmcStoppingCriterion(grey, fluid, 0.5, 2.0)
    >>> criterion.check_point(np.array([1.0, 0, 0])).name
    'INVALIDPOINT'
    """

    #: Whether :func:`check_points` needs keys for it.
    draws_at_random = True
    _kernel: partial[None]

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
        criterion._kernel = partial(
            _stopping.check_cmc, *maps, step_size / average_voxel_size
        )
        return criterion


_BATCHED = (
    ThresholdStoppingCriterion,
    BinaryStoppingCriterion,
    ActStoppingCriterion,
    CmcStoppingCriterion,
)


def _kernel_decides(criterion: StoppingCriterion) -> TypeGuard[_Batched]:
    """Whether it is one of ours, and nobody gave it a ``check_point`` of its own."""
    if not isinstance(criterion, _BATCHED):
        return False
    dipys = dipy_criteria.StoppingCriterion.check_point
    return bool(criterion.check_point == dipys.__get__(criterion))


def taken_apart(
    stopping_criterion: StoppingCriterion,
) -> tuple[type[StoppingCriterion] | None, tuple[AnyArray, ...], tuple[float, ...]]:
    """Return what a criterion of this module decides by.

    Parameters
    ----------
    stopping_criterion : dipy_rnn.stopping.StoppingCriterion

    Returns
    -------
    kind : type or None
        The class of this module that it is of; None for any other, and for one with
        its own ``check_point``, which cannot be taken apart.
    maps : tuple of ndarray
        In the order of the constructor.
    numbers : tuple of float
        The threshold; for CMC the exponent, ``step_size / average_voxel_size``.

    Examples
    --------
    >>> criterion = ThresholdStoppingCriterion(np.ones((2, 2, 2)), 0.2)
    >>> kind, maps, numbers = taken_apart(criterion)
    >>> kind.__name__, len(maps), numbers
    ('ThresholdStoppingCriterion', 1, (0.2,))
    """
    if not _kernel_decides(stopping_criterion):
        return None, (), ()
    kind = next(kind for kind in _BATCHED if isinstance(stopping_criterion, kind))
    given = stopping_criterion._kernel.args
    n_maps = sum(isinstance(each, np.ndarray) for each in given)
    return kind, given[:n_maps], given[n_maps:]


def asks_in_any_order(stopping_criterion: StoppingCriterion) -> bool:
    """Tell whether a criterion decides alike whoever asks first.

    True for the criteria of this module, and for those of DIPY that do not draw at
    random. Others may hold a state: they are to be asked from one thread.

    Parameters
    ----------
    stopping_criterion : dipy_rnn.stopping.StoppingCriterion

    Returns
    -------
    answer : bool

    Examples
    --------
    >>> asks_in_any_order(BinaryStoppingCriterion(np.ones((2, 2, 2))))
    True
    """
    return _kernel_decides(stopping_criterion) or type(stopping_criterion) in (
        dipy_criteria.ThresholdStoppingCriterion,
        dipy_criteria.BinaryStoppingCriterion,
        dipy_criteria.ActStoppingCriterion,
    )


def check_points(
    stopping_criterion: StoppingCriterion,
    points_vox: FloatArray,
    reasons: IntArray,
    seed_keys: KeyArray | None = None,
    point_numbers: IntArray | None = None,
) -> None:
    """Ask a criterion about many points, in place.

    The criteria of this module answer all at once and leave other threads running
    meanwhile; any other, a subclass with its own ``check_point`` among them, is asked
    point by point.

    Parameters
    ----------
    stopping_criterion : dipy_rnn.stopping.StoppingCriterion
        Any of DIPY's or of this module's, or one that follows them.
    points_vox : ndarray of shape (N, 3)
        float64, C-contiguous.
    reasons : ndarray of shape (N,)
        int64 values of :class:`StopReason`. Rows that are RUNNING are asked, and
        stay so where tracking goes on; the others are left as they are.
    seed_keys : ndarray of shape (N,), optional
        uint64, from :func:`seed_keys`: what each point's streamline draws from, for a
        criterion that draws at random (``draws_at_random``). Without them such a
        criterion draws as DIPY's does, in the order in which points come up.
    point_numbers : ndarray of shape (N,), optional
        int64, with ``seed_keys``: 1, 2, 3 .. forward of the seed and -1, -2 ..
        backward of it.

    Raises
    ------
    ValueError
        If the arrays do not fit each other, or are of another type; or the criterion
        returns a value that is no status of a point.

    Examples
    --------
    >>> criterion = BinaryStoppingCriterion(np.array([[[1]], [[0]]]))
    >>> points = np.array([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]])
    >>> reasons = np.full(3, StopReason.RUNNING, dtype=np.int64)
    >>> check_points(criterion, points, reasons)
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
        raise ValueError("reasons is read-only; the answers are written into it.")
    if _kernel_decides(stopping_criterion):
        if not stopping_criterion.draws_at_random:
            stopping_criterion._kernel(points_vox, reasons)
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
            stopping_criterion._kernel(points_vox, reasons, seed_keys, point_numbers)
            return
    check = stopping_criterion.check_point
    for row in np.flatnonzero(reasons == StopReason.RUNNING):
        status = check(points_vox[row])
        try:
            reasons[row] = _REASON_OF_STATUS[int(status)]
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
    """Hash seeds into the keys that random criteria draw from.

    Parameters
    ----------
    random_seed : int
        Another one gives other keys.
    seeds_vox : array_like of shape (N, 3)
        Seeds count as the same if they agree when rounded to 2**-20 of a voxel.

    Returns
    -------
    keys : ndarray of shape (N,)
        uint64, the same on every machine.

    Raises
    ------
    ValueError
        If ``seeds_vox`` is of another shape or not finite, or ``random_seed`` is no
        whole number.

    Examples
    --------
    >>> keys = seed_keys(1, [[0.1, 2, 3], [0.1 + 1e-15, 2, 3], [0.2, 2, 3]])
    >>> len(set(keys.tolist()))
    2
    """
    shape = spaces.check_numbers(seeds_vox, "seeds_vox").shape
    if len(shape) != 2 or shape[1] != 3:
        raise ValueError(f"seeds_vox is of shape {shape}; give (N, 3).")
    seeds_vox = np.ascontiguousarray(spaces.check_points(seeds_vox, "seeds_vox"))
    number = spaces.check_number(random_seed, "random_seed")
    if not isinstance(number, int):
        raise ValueError(f"random_seed is {number}; a whole number is needed.")
    # The zero that is added makes -0.0 a 0.0: what is hashed are the bits.
    rounded = np.rint(seeds_vox * _STEPS_PER_VOXEL) + 0.0
    keys = np.empty(len(seeds_vox), dtype=np.uint64)
    _stopping.hash_rows(number % 2**64, rounded.view(np.uint64), keys)
    return keys


def format_tally(counts: Mapping[StopReason, int]) -> str:
    """Lay out how often each reason ended a half of a streamline.

    Parameters
    ----------
    counts : mapping of StopReason to int

    Returns
    -------
    table : str
        A line for each reason that occurred, the commonest first.

    Examples
    --------
    >>> print(format_tally({StopReason.ENDPOINT: 3, StopReason.SHARP_TURN: 1}))
     75.0 %         3  the stopping criterion was met
     25.0 %         1  a step would turn by more than max_angle
    """
    total = sum(counts.values())
    lines = [
        f"{100 * n / total:5.1f} % {n:9d}  {StopReason(reason).message}"
        for reason, n in sorted(counts.items(), key=lambda item: -item[1])
        if n
    ]
    return "\n".join(lines) or "no streamline was tracked"


def format_fates(counts: Mapping[tuple[StopReason, StopReason], int]) -> str:
    """Lay out how many streamlines end well at both ends, and why the others do not.

    Parameters
    ----------
    counts : mapping of tuple of 2 StopReason to int
        How many streamlines stopped forward and backward of the seed for these
        reasons.

    Returns
    -------
    table : str
        A line for those that are kept where ``return_all`` is False, and one for each
        reason that rejects others, the commonest first. A streamline that ends badly
        twice counts for the reason that comes first in :class:`StopReason`, so that
        excluded tissue goes before everything else.

    Examples
    --------
    >>> end, fluid = StopReason.ENDPOINT, StopReason.INVALID_POINT
    >>> print(format_fates({(end, end): 6, (end, fluid): 1, (fluid, fluid): 1}))
    kept      75.0 %         6  both ends are valid
    rejected  25.0 %         2  it came into tissue that the criterion excludes
    """
    total = sum(counts.values())
    if not total:
        return "no streamline was tracked"
    kept = 0
    rejected: Counter[StopReason] = Counter()
    for reasons, n in counts.items():
        bad = [reason for reason in map(StopReason, reasons) if not reason.is_valid_end]
        if bad:
            rejected[min(bad)] += n
        else:
            kept += n
    rows = [("kept", kept, "both ends are valid")]
    rows += [("rejected", n, why.message) for why, n in rejected.most_common() if n]
    return "\n".join(
        f"{fate:8s} {100 * n / total:5.1f} % {n:9d}  {why}" for fate, n, why in rows
    )
