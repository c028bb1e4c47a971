"""Means, differences and other values with their standard errors.

Three functions return an :class:`Estimate`: :func:`estimated_mean` for a mean over
streamlines, :func:`paired_difference` for the difference of two means over the same
seeds, and :func:`bootstrapped` for any value that depends on what all streamlines
visit or connect.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
import warnings

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import DegenerateDataWarning, bootstrap, sem

from dipy_rnn import _checks
from dipy_rnn._typing import AnyArray, ArrayLike, IntArray

#: Values must be below this, so that their squares and sums are finite.
LARGEST = 1e15


def check_same_shape(**arrays: ArrayLike) -> tuple[AnyArray, AnyArray]:
    """Return two arrays after checking that they have one shape and finite values.

    Parameters
    ----------
    **arrays : array_like
        Two arrays, by the names that errors use for them.

    Returns
    -------
    first, second : ndarrays of one shape

    Raises
    ------
    ValueError
        If an array is not numeric, the shapes differ, or a value is NaN, infinite or
        1e15 or more.

    Examples
    --------
    >>> check_same_shape(mask=[True], other=[1, 2])
    Traceback (most recent call last):
    ValueError: mask has the shape (1,) and other (2,); one shape is needed.
    """
    checked = {name: _checks.check_numbers(each, name) for name, each in arrays.items()}
    (name, first), (other_name, second) = checked.items()
    if first.shape != second.shape:
        raise ValueError(
            f"{name} has the shape {first.shape} and {other_name} {second.shape}; one "
            "shape is needed."
        )
    for name, each in checked.items():
        with np.errstate(over="ignore"):
            is_allowed = (np.abs(each.astype(float)) < LARGEST).all()
        if not is_allowed:
            raise ValueError(
                f"{name} holds NaN, infinity or a value of {LARGEST:g} or more; finite "
                "values below that are needed."
            )
    return first, second


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error.

    Parameters
    ----------
    value : float
        Computed from all streamlines.
    standard_error : float
        Estimated standard deviation of the value if tracking were repeated with new
        seeds; NaN if it is unknown.

    Examples
    --------
    >>> estimate = Estimate(0.5, 0.01)
    >>> print(round(estimate.low, 4), round(estimate.high, 4))
    0.4804 0.5196
    """

    value: float
    standard_error: float = np.nan

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval: 1.96 standard errors below the value."""
        return self.value - 1.96 * self.standard_error

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval: 1.96 standard errors above the value."""
        return self.value + 1.96 * self.standard_error

    def to_json(self) -> dict[str, float | None]:
        """Return value, standard error and interval. NaN and infinity become None."""
        numbers = {
            "value": self.value,
            "standard_error": self.standard_error,
            "low": self.low,
            "high": self.high,
        }
        return {name: x if isfinite(x) else None for name, x in numbers.items()}


def estimated_mean(values: ArrayLike) -> Estimate:
    """Compute the mean over streamlines or seeds, with its standard error.

    Parameters
    ----------
    values : array_like of shape (N,)
        One value for each streamline or seed. Booleans count as 0 and 1, so that
        their mean is a share. Values that are not finite are left out, such as the
        distance of a streamline without points.

    Returns
    -------
    mean : Estimate
        NaN if no value is left. The standard error is NaN for a single value.

    Notes
    -----
    The standard error is the standard deviation over the square root of N. For a mean,
    a bootstrap with many resamples tends to the same number times
    sqrt((N - 1) / N) [1]_, so no resample is drawn.

    References
    ----------
    .. [1] Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman and Hall,
       1993, chapter 5.

    Examples
    --------
    >>> estimated_mean([1, 2, 3, np.inf])
    Estimate(value=2.0, standard_error=0.5773502691896258)
    """
    finite = _checks.check_numbers(values, "values").astype(float)
    finite = finite[np.isfinite(finite)]
    with np.errstate(over="ignore"):  # a standard error may overflow to infinity
        return Estimate(
            float(finite.mean()) if len(finite) else np.nan,
            float(sem(finite)) if len(finite) > 1 else np.nan,
        )


def paired_difference(values: ArrayLike, others: ArrayLike) -> Estimate:
    """Compute the difference of two means over the same seeds, with standard error.

    Parameters
    ----------
    values, others : array_like of shape (N,)
        For each seed the value of one tracker and that of the other. Booleans count
        as 0 and 1, so that their means are shares.

    Returns
    -------
    difference : Estimate
        Mean of `values` minus mean of `others`. The standard error is the standard
        deviation of the N differences over the square root of N, as in the paired
        t-test: seeds count as independent. Both are NaN for no seed; the standard
        error is NaN for one seed.

    Raises
    ------
    ValueError
        If the shapes differ, or a value is not numeric, NaN, infinite or 1e15 or more.

    Examples
    --------
    >>> difference = paired_difference([True, True, False], [True, False, False])
    >>> print(round(difference.value, 3), round(difference.standard_error, 3))
    0.333 0.333
    """
    minuend, subtrahend = check_same_shape(values=values, others=others)
    return estimated_mean(minuend.astype(float) - subtrahend.astype(float))


def bootstrapped(
    metric: Callable[..., float],
    *matrices: csr_array,
    paired: bool = True,
    n_resamples: int = 200,
    random_seed: int = 0,
) -> Estimate:
    """Compute a metric of whole tractograms, with a standard error by resampling.

    Parameters
    ----------
    metric : callable
        Takes one ndarray of shape (V,) for each tractogram, which is the sum of the
        rows of its matrix, and returns a float. Examples are :func:`weighted_dice` and
        ``lambda visits, other: dice(visits > 0, other > 0)``.
    *matrices : scipy.sparse.csr_arrays of shape (N, V)
        For each tractogram, what its streamlines visit (:func:`visited_voxels`) or
        connect (:func:`connections`).
    paired : bool, optional
        Whether streamlines of equal index were tracked from the same seed. If True, a
        resample draws seeds, each with the streamlines of all trackers. If False, N
        may differ between tractograms.
    n_resamples : int, optional
        Number of resamples. Each draws N of the N streamlines, with replacement.
    random_seed : int, optional
        Seed of the random draws.

    Returns
    -------
    estimate : Estimate
        The metric of all streamlines. The standard error is the standard deviation of
        the metric over the resamples [1]_. It is NaN for less than two streamlines, or
        if the metric of a resample is NaN.

    Notes
    -----
    The interval of the estimate comes from the spread of the resamples, not from their
    percentiles. A resample contains only a share of 1 - 1/e (63 %) of the different
    streamlines, so it visits fewer voxels: its overlap and coverage are systematically
    lower than those of all streamlines. An interval of percentiles may therefore miss
    the value of all streamlines.

    The standard error is approximate if many voxels contain few streamlines. On a
    phantom with 500 and 2000 pairs it was 0.6 to 0.9 times the standard deviation over
    new seeds for :func:`dice`, and 1.0 to 1.7 times for :func:`weighted_dice`,
    :func:`coverage` and :func:`density_correlation`.

    References
    ----------
    .. [1] Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman and Hall,
       1993, chapter 6.

    Examples
    --------
    >>> from dipy_rnn.evaluation import coverage, visited_voxels
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> visited = visited_voxels([line, line[:2], line[:1]], np.eye(4), (3, 1, 1))
    >>> mask = np.array([True, True, True])
    >>> estimate = bootstrapped(lambda visits: coverage(visits, mask), visited)
    >>> print(estimate.value, round(estimate.standard_error, 1))
    1.0 0.2
    """

    def of_resample(*chosen: IntArray) -> float:
        return metric(
            *(
                np.bincount(rows, minlength=matrix.shape[0]) @ matrix
                for rows, matrix in zip(chosen, matrices)
            )
        )

    everything = [np.arange(matrix.shape[0]) for matrix in matrices]
    value = float(of_resample(*everything))
    if min(map(len, everything)) < 2:
        return Estimate(value, np.nan)
    with warnings.catch_warnings():
        # SciPy warns that a constant metric has no interval of percentiles, which is
        # not used here.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        resampled = bootstrap(
            everything,
            of_resample,
            n_resamples=n_resamples,
            batch=1,  # one resample in memory at a time
            vectorized=False,
            paired=paired,
            method="percentile",
            random_state=np.random.default_rng(random_seed),
        )
    return Estimate(value, float(resampled.standard_error))
