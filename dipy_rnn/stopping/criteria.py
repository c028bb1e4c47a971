"""DIPY's stopping criteria, for many points at a time.

The four criteria of this module are subclasses of DIPY's, so DIPY's trackers accept
them as well. :func:`dipy_rnn.stopping.evaluate_criterion` evaluates them at many points
at a time, by the kernels (compiled functions) in ``_criteria.pyx``. Decisions are those
of DIPY. On an axis of n voxels a map or a mask has these values:

==================  ==============================  =================================
coordinate          interpolated maps               masks
==================  ==============================  =================================
below -0.5          outside                         outside
-0.5 up to 0        voxel 0 (clamped)               voxel 0
0 up to n - 1       linear between two voxels       nearest voxel (halfway: even one)
n - 1 up to n - .5  voxel n - 1 (clamped)           voxel n - 1
n - 0.5             outside                         voxel n - 1 if that is even, else
                                                    outside
above n - 0.5       outside                         outside
NaN                 outside (DIPY's criteria read   outside
                    invalid memory)
==================  ==============================  =================================

NaN in a map affects every point for which one of the eight surrounding voxels is NaN.
The threshold criterion ends tracking there, as NaN is not above any threshold. ACT
decides by its other map alone. In CMC the point is invalid. In a mask NaN counts as
outside of the tissue.
"""

from typing import Any, Self
import warnings

from dipy.tracking import stopping_criterion as dipy_criteria
import numpy as np

from dipy_rnn._checks import check_number, check_numbers
from dipy_rnn._typing import AnyArray, ArrayLike, FloatArray, IntArray, KeyArray
from dipy_rnn.stopping import _criteria
from dipy_rnn.stopping.evaluate import StoppingCriterion, deciding_class

# If this share of the values above 0 is above the threshold, and one by this factor,
# the threshold is probably not in the unit of the map.
_MOST_ABOVE, _MOST_RATIO = 0.99, 10


class ThresholdStoppingCriterion(
    dipy_criteria.ThresholdStoppingCriterion  # type: ignore[misc]  # DIPY has no types
):
    """Tracking continues where a map is above a threshold.

    Parameters
    ----------
    metric_map : array_like of shape (X, Y, Z)
        For example FA. It is copied.
    threshold : float
        Tracking ends where the interpolated map is not above this value.

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

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments of the constructor, and other attributes."""
        return _rebuild, (type(self), (*self.maps, *self.parameters), vars(self))

    @property
    def decision(self) -> _criteria.Decision:
        """The criterion as a kernel (a compiled function)."""
        (metric_map,), (threshold,) = self.maps, self.parameters
        return _criteria.ThresholdDecision(metric_map, threshold)

    def check_points(self, points_vox: FloatArray, reasons: IntArray) -> None:
        """As :meth:`dipy_rnn.stopping.BatchedStoppingCriterion.check_points`."""
        self.decision(points_vox, reasons)


class BinaryStoppingCriterion(
    dipy_criteria.BinaryStoppingCriterion  # type: ignore[misc]  # DIPY has no types
):
    """Tracking continues while the nearest voxel is in a mask.

    Parameters
    ----------
    mask : array_like of shape (X, Y, Z)
        A voxel is in the mask if its value is above zero. The mask is copied.

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

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments of the constructor, and other attributes."""
        return _rebuild, (type(self), (*self.maps, *self.parameters), vars(self))

    @property
    def decision(self) -> _criteria.Decision:
        """The criterion as a kernel (a compiled function)."""
        return _criteria.BinaryDecision(*self.maps)

    def check_points(self, points_vox: FloatArray, reasons: IntArray) -> None:
        """As :meth:`dipy_rnn.stopping.BatchedStoppingCriterion.check_points`."""
        self.decision(points_vox, reasons)


class ActStoppingCriterion(
    dipy_criteria.ActStoppingCriterion  # type: ignore[misc]  # DIPY has no types
):
    """Anatomically constrained tractography (ACT).

    A point is a valid end (``ENDPOINT``) if the interpolated ``include_map`` is above
    0.5. Otherwise it is invalid (``INVALIDPOINT``) if the ``exclude_map`` is above 0.5.
    Elsewhere tracking continues.

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

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments of the constructor, and other attributes."""
        return _rebuild, (type(self), (*self.maps, *self.parameters), vars(self))

    @property
    def decision(self) -> _criteria.Decision:
        """The criterion as a kernel (a compiled function)."""
        include_map, exclude_map = self.maps
        return _criteria.ActDecision(include_map, exclude_map)

    def check_points(self, points_vox: FloatArray, reasons: IntArray) -> None:
        """As :meth:`dipy_rnn.stopping.BatchedStoppingCriterion.check_points`."""
        self.decision(points_vox, reasons)


class CmcStoppingCriterion(
    dipy_criteria.CmcStoppingCriterion  # type: ignore[misc]  # DIPY has no types
):
    """The continuous map criterion (CMC).

    It draws at random whether tracking ends. Let i and e be the interpolated include
    and exclude maps, and r = max(1 - i - e, 0). Tracking continues with the probability
    (r / (r + i + e)) ** (step_size / average_voxel_size). If it ends, the point is a
    valid end (``ENDPOINT``) with the probability i / (i + e), otherwise invalid
    (``INVALIDPOINT``).

    If :func:`dipy_rnn.stopping.evaluate_criterion` gets ``seed_keys``, a draw depends
    only on the key of the seed and on the number of the point. A streamline then does
    not depend on the other streamlines or on their order. In DIPY's trackers the draws
    come from DIPY's random generator, one after another.

    ``from_pve(wm_map, gm_map, csf_map, step_size=.., average_voxel_size=..)`` makes one
    from tissue maps.

    Parameters
    ----------
    include_map, exclude_map : array_like of shape (X, Y, Z)
        Where streamlines may end, and where they must not be. For example the
        fractions of grey matter and of cerebrospinal fluid. They are copied.
    step_size : float
        Step of the tracker in mm.
    average_voxel_size : float
        Mean of the three voxel sizes in mm.

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

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments of the constructor, and other attributes."""
        # The exponent is step_size / average_voxel_size, which are not stored.
        arguments = *self.maps, *self.parameters, 1.0
        return _rebuild, (type(self), arguments, vars(self))

    @property
    def decision(self) -> _criteria.Decision:
        """The criterion as a kernel (a compiled function)."""
        (include_map, exclude_map), (exponent,) = self.maps, self.parameters
        return _criteria.CmcDecision(include_map, exclude_map, exponent)

    def check_points(
        self,
        points_vox: FloatArray,
        reasons: IntArray,
        seed_keys: KeyArray,
        point_numbers: IntArray,
    ) -> None:
        """As :meth:`dipy_rnn.stopping.BatchedStoppingCriterion.check_points`."""
        self.decision(points_vox, reasons, seed_keys, point_numbers)


def _rebuild(
    kind: type[Any], arguments: tuple[Any, ...], attributes: dict[str, Any]
) -> Any:
    """Make a criterion from what was pickled. DIPY's classes refuse __setstate__."""
    criterion = kind(*arguments)
    vars(criterion).update(attributes)
    return criterion


def make_criterion(
    image: AnyArray, use_binary_mask: bool, stopping_thr: float
) -> StoppingCriterion:
    """Make the stopping criterion that dipy_track makes from the same options.

    Parameters
    ----------
    image : ndarray of shape (X, Y, Z)
    use_binary_mask : bool
        If True, the image is compared with the threshold voxel by voxel
        (:class:`BinaryStoppingCriterion`). If False, it is interpolated first
        (:class:`ThresholdStoppingCriterion`).
    stopping_thr : float
        The threshold. Tracking ends where the image is not above it.

    Returns
    -------
    criterion : dipy_rnn.stopping.StoppingCriterion

    Raises
    ------
    ValueError
        If no voxel is above the threshold: no streamline could start.

    Warns
    -----
    UserWarning
        As :func:`warn_of_threshold`.

    Examples
    --------
    >>> criterion = make_criterion(np.full((2, 2, 2), 0.3), False, 0.2)
    >>> criterion.check_point(np.zeros(3)).name
    'TRACKPOINT'
    """
    if not (image > stopping_thr).any():
        raise ValueError(
            f"No voxel of the stopping image is above stopping_thr {stopping_thr:g}; "
            f"its largest value is {np.fmax.reduce(image, axis=None):g}. Lower the "
            "threshold, or give another image."
        )
    warn_of_threshold(image, stopping_thr)
    if use_binary_mask:
        return BinaryStoppingCriterion(image > stopping_thr)
    return ThresholdStoppingCriterion(image, stopping_thr)


def warn_of_threshold(image: AnyArray, stopping_thr: float) -> None:
    """Warn if a threshold is probably not in the unit of an image.

    Parameters
    ----------
    image : ndarray of shape (X, Y, Z)
    stopping_thr : float

    Warns
    -----
    UserWarning
        If the image is not binary, nearly all its values above 0 are above the
        threshold, and one is more than ten times as large. Tracking then does not stop
        at low values, for example of FA that is stored times 1000.

    Examples
    --------
    >>> warn_of_threshold(np.array([0.0, 0.1, 0.3, 0.9]), 0.2)
    """
    positive = image[image > 0]
    if not positive.size:
        return
    low, high = positive.min(), positive.max()
    if (
        low < high
        and high > max(1, _MOST_RATIO * stopping_thr)
        and np.mean(positive > stopping_thr) > _MOST_ABOVE
    ):
        warnings.warn(
            f"Nearly all values above 0 of the stopping image are above stopping_thr "
            f"{stopping_thr:g}: they are from {low:g} to {high:g}. Streamlines do not "
            "stop at low values. If FA is stored times 1000, stopping_thr must be, "
            f"too: {1000 * stopping_thr:g}.",
            stacklevel=3,
        )


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
        The class in this module whose ``check_points`` decides. None for any other
        criterion, and for a subclass with its own ``check_point`` or ``check_points``.
    maps : tuple of ndarray
        In the order of the constructor. Empty if ``kind`` is None.
    parameters : tuple of float
        The threshold. For CMC the exponent, ``step_size / average_voxel_size``. Empty
        for the others.

    Examples
    --------
    >>> criterion = ThresholdStoppingCriterion(np.ones((2, 2, 2)), 0.2)
    >>> kind, maps, parameters = decompose(criterion)
    >>> kind.__name__, len(maps), parameters
    ('ThresholdStoppingCriterion', 1, (0.2,))
    """
    kind = deciding_class(stopping_criterion)
    if kind is None or kind.__module__ != __name__:
        return None, (), ()
    known: Any = stopping_criterion  # all criteria of this module have these attributes
    return kind, known.maps, known.parameters


def _check_map(image: ArrayLike, name: str) -> AnyArray:
    image = check_numbers(image, name)
    if image.ndim != 3:
        raise ValueError(f"{name} has the shape {image.shape}; (X, Y, Z) is needed.")
    return image


def _own_map(image: ArrayLike, name: str) -> FloatArray:
    # DIPY's criteria give no access to their maps, and accept no read-only ones. The
    # base class of a criterion and the methods of this module use the same copy.
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
