"""Metrics of single streamlines: length, turn, and how well they follow the fODF.

The *relative amplitude* of a step is the value of the fODF along the step, divided by
the largest value of the fODF in any direction. Both values are at the middle of the
step. It is 1 if the step is along the largest peak, and near 0 if the fODF does not
support the step. It does not depend on the scale of the fODF, nor on the direction in
which the streamline runs.
"""

from collections.abc import Iterable

import numpy as np

from dipy_rnn._typing import AnyArray, ArrayLike, FloatArray
from dipy_rnn.evaluation.distances import as_streamlines
from dipy_rnn.sampling import FeatureVolume, first_directions, sample, sh_order
from dipy_rnn.spatial import axes, check_affine, frames, handedness, to_voxels

#: Names of the metrics. :func:`streamline_metrics` defines them.
METRICS = (
    "length_mm",
    "turn_deg",
    "mean_amplitude",
    "least_amplitude",
    "sum_log_amplitude",
)

_LEAST_IN_LOG = 0.01  # smaller relative amplitudes count as this in the logarithm
_BLOCK = 1 << 16  # steps at a time: each needs about 1 kB


def streamline_metrics(
    streamlines: Iterable[AnyArray],
    features: FeatureVolume,
    affine: ArrayLike,
    *,
    nbr_threads: int = 1,
) -> dict[str, FloatArray]:
    """Compute the metrics of each streamline.

    Parameters
    ----------
    streamlines : iterable of N ndarrays of shape (M, 3)
        In mm (RAS+). M may differ.
    features : dipy_rnn.sampling.FeatureVolume
        The fODF in which they were tracked.
    affine : array_like of shape (4, 4)
        Voxel to mm.
    nbr_threads : int, optional
        0 for every core.

    Returns
    -------
    metrics : dict of str to ndarray of shape (N,)
        By the names in ``METRICS``:

        - ``length_mm``: sum of the lengths of the steps.
        - ``turn_deg``: sum of the angles between successive steps.
        - ``mean_amplitude``: mean relative amplitude, weighted by the lengths of the
          steps.
        - ``least_amplitude``: smallest relative amplitude of a step.
        - ``sum_log_amplitude``: sum over the steps of the natural logarithm of the
          relative amplitude. Amplitudes below 0.01 count as 0.01. The sum is 0 or
          negative. With half the step size it is about twice as large.

        A relative amplitude is 0 if the fODF along the step is 0 or negative, or if the
        step is outside the image. Without a step, the mean and the least amplitude are
        NaN, and the other metrics are 0.

    Raises
    ------
    ValueError
        If the features are not an fODF, or an argument is invalid.

    Examples
    --------
    >>> from dipy_rnn.sampling import peaks_features
    >>> along_x = np.zeros((9, 1, 1, 1, 3)); along_x[..., 0] = 1
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> metrics = streamline_metrics([line], peaks_features(along_x), np.eye(4))
    >>> {name: round(float(values[0]), 3) for name, values in metrics.items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'length_mm': 2.0, 'turn_deg': 0.0, 'mean_amplitude': 1.0, 'least_amplitude': 1.0,
     'sum_log_amplitude': 0.0}
    """
    if features.kind != "sh":
        raise ValueError(
            f"{features.name} is of the kind {features.kind!r}, but the amplitudes of "
            "metrics need an fODF; give spherical harmonics or peaks, or leave the "
            "metrics out."
        )
    affine = check_affine(affine)
    lines = as_streamlines(streamlines, "streamlines")
    points_mm = np.concatenate([np.empty((0, 3)), *lines])
    rows = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    steps_mm = np.diff(points_mm, axis=0)
    lengths_mm = np.linalg.norm(steps_mm, axis=1)
    is_step = (rows[1:] == rows[:-1]) & (lengths_mm > 0)
    rows, lengths_mm = rows[1:][is_step], lengths_mm[is_step]
    directions = steps_mm[is_step] / lengths_mm[:, None]
    middles_mm = ((points_mm[1:] + points_mm[:-1]) / 2)[is_step]
    follows = rows[1:] == rows[:-1]
    turns_deg = _angles_deg(directions[:-1], directions[1:])[follows]
    amplitudes = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        amplitudes[block] = _relative_amplitudes(
            features, middles_mm[block], directions[block], affine, nbr_threads
        )

    def total(values: FloatArray, of_rows: AnyArray = rows) -> FloatArray:
        sums = np.zeros(len(lines))
        np.add.at(sums, of_rows, values)
        return sums

    length_mm = total(lengths_mm)
    least = np.full(len(lines), np.nan)
    np.fmin.at(least, rows, amplitudes)
    with np.errstate(invalid="ignore"):  # no step: 0 / 0
        mean = total(amplitudes * lengths_mm) / length_mm
    logs = total(np.log(np.maximum(amplitudes, _LEAST_IN_LOG)))
    turn_deg = total(turns_deg, rows[1:][follows])
    return dict(zip(METRICS, (length_mm, turn_deg, mean, least, logs), strict=True))


def _angles_deg(directions: FloatArray, others: FloatArray) -> FloatArray:
    """Return angles from 0 to 180. arctan2 is exact for small angles."""
    sines = np.linalg.norm(np.cross(directions, others), axis=1)
    cosines = np.einsum("ni,ni->n", directions, others)
    angles_deg: FloatArray = np.rad2deg(np.arctan2(sines, cosines))
    return angles_deg


def _relative_amplitudes(
    features: FeatureVolume,
    points_mm: FloatArray,
    directions: FloatArray,
    affine: FloatArray,
    nbr_threads: int,
) -> FloatArray:
    """Return the fODF along directions (RAS+), divided by its largest value there."""
    points_vox = to_voxels(points_mm, affine)
    axes_ras = axes(affine)
    largest_at = first_directions(
        features.data, points_vox, axes_ras, max_peaks=1, nbr_threads=nbr_threads
    )[:, 0]

    def amplitudes(along: FloatArray) -> FloatArray:
        """Return the fODF at the points, along directions in voxel axes."""
        coeffs, _ = sample(
            features.data,
            points_vox,
            frames.from_tangents(along, axes_ras),
            handedness=handedness(axes_ras),
            nbr_threads=nbr_threads,
        )
        # Along the third axis of a frame, only the harmonics of m = 0 are not zero.
        ls = np.arange(0, sh_order(coeffs.shape[1]) + 1, 2)
        values: FloatArray = np.einsum(
            "nl,l->n", coeffs[:, ls * (ls + 1) // 2], np.sqrt((2 * ls + 1) / 4 / np.pi)
        )
        return np.maximum(values, 0.0)

    along_steps = amplitudes(directions @ axes_ras)
    has_peak = largest_at.any(axis=1)
    largest_at[~has_peak] = 1.0, 0.0, 0.0  # any direction: the value is not used
    along_peaks = np.where(has_peak, amplitudes(largest_at), 0.0)
    largest = np.maximum(along_steps, along_peaks)
    return along_steps / np.where(largest > 0, largest, 1.0)
