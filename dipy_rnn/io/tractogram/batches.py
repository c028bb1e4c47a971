"""Streamlines one by one, and in batches of arrays; removing points of streamlines."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import DTypeLike

from dipy_rnn import _checks
from dipy_rnn._typing import AnyArray, ArrayLike
from dipy_rnn.io.tractogram.trx import Batch, DataTypes

# Streamlines per batch: enough that the cost of Python calls per batch is negligible.
_BATCH_SIZE = 1024

_Values = TypeVar("_Values")


def join_streamlines(
    streamlines: Iterable[tuple[AnyArray, Mapping[str, ArrayLike]]],
    data_types: DataTypes,
) -> Iterator[Batch]:
    """Join streamlines into batches, for :func:`write_batches`.

    Parameters
    ----------
    streamlines, data_types
        See :func:`write_tractogram`.

    Yields
    ------
    batch : Batch

    Raises
    ------
    ValueError
        If a streamline is invalid.
    """
    streamlines = (line for line in streamlines if len(line[0]))
    while batch := list(islice(streamlines, _BATCH_SIZE)):
        points, values = zip(*batch)
        yield (
            _join_points(points),
            np.fromiter(map(len, points), np.int64, len(points)),
            {
                name: _join_values(values, name, *data_type)
                for name, data_type in data_types.items()
            },
        )


def split_batches(
    batches: Iterable[Batch],
) -> Iterator[tuple[AnyArray, dict[str, AnyArray]]]:
    """Yield the streamlines of batches, each with its values."""
    for points_mm, lengths, values in batches:
        lines = np.split(points_mm, np.cumsum(lengths)[:-1])
        for line, *of_line in zip(lines, *values.values()):
            yield line, dict(zip(values, of_line))


def _join_points(streamlines: Sequence[AnyArray]) -> AnyArray:
    """Return the points of all streamlines of a batch, (sum of lengths, 3)."""
    try:
        points_mm = np.concatenate(streamlines)
        fits = points_mm.shape[1:] == (3,) and points_mm.dtype.kind in "biuf"
    except (TypeError, ValueError):
        fits = False
    if fits:
        return points_mm
    # Each streamline is checked only after an error: nearly all batches are valid.
    shapes = (_checks.check_numbers(line, "a streamline").shape for line in streamlines)
    wrong = next(shape for shape in shapes if len(shape) != 2 or shape[1] != 3)
    raise ValueError(f"a streamline has the shape {wrong}; (M, 3) is needed.")


def _join_values(
    values: Sequence[Mapping[str, ArrayLike]], name: str, width: int, dtype: DTypeLike
) -> AnyArray:
    """Return the values of all streamlines of a batch under one name, (N, W)."""
    dtype = np.dtype(dtype)
    try:
        rows = [of_line[name] for of_line in values]
    except (KeyError, TypeError):
        raise ValueError(
            f"a streamline has no {name}, which data_types names; give each "
            f"streamline a value, or remove {name} from data_types."
        ) from None
    try:
        table = np.array(rows, dtype=dtype.newbyteorder("<"))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{name} of a streamline is not {width} of {dtype}, as data_types says."
        ) from None
    if table.shape != (len(rows), width):
        raise ValueError(
            f"{name} has the shape {table.shape[1:]}; data_types says ({width},)."
        )
    return table


def downsample(
    streamlines: Iterable[tuple[AnyArray, _Values]],
    *,
    every: int = 1,
    tolerance_mm: float = 0.0,
) -> Iterator[tuple[AnyArray, _Values]]:
    """Remove points of streamlines.

    Parameters
    ----------
    streamlines : iterable of (ndarray of shape (M, 3), object)
        Points in mm, and an object that is passed on unchanged.
    every : int, optional
        If n, keep the first point, every n-th point after it, and the last point.
        ``tckgen -downsample`` counts differently: from the seed in both directions.
    tolerance_mm : float, optional
        If above 0, a second pass removes points that are within this distance of the
        remaining streamline, with
        :func:`dipy.tracking.streamlinespeed.compress_streamlines`. 0.1 mm removes most
        points. Consecutive points may then be up to 10 mm apart, so a streamline may
        cross a voxel without a point in it.

    Returns
    -------
    streamlines : iterator of (ndarray of shape (K, 3), object)

    Raises
    ------
    ValueError
        If an argument is invalid; this is checked before the first streamline is taken.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [2, 1, 0]])
    >>> [points.tolist() for points, _ in downsample([(line, None)], every=2)]
    [[[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [2.0, 1.0, 0.0]]]
    >>> [len(points) for points, _ in downsample([(line, None)], every=3)]
    [2]
    >>> [len(points) for points, _ in downsample([(line, None)], tolerance_mm=0.1)]
    [3]
    """
    step = _checks.check_count(every, "every", 1)
    if not 0 <= _checks.check_number(tolerance_mm, "tolerance_mm") < np.inf:
        raise ValueError(f"tolerance_mm is {tolerance_mm}; 0 mm or more is needed.")
    if step > 1:
        streamlines = (
            (np.concatenate([points[:-1:step], points[-1:]]), values)
            for points, values in streamlines
        )
    return _compress(streamlines, tolerance_mm) if tolerance_mm else iter(streamlines)


def _compress(
    streamlines: Iterable[tuple[AnyArray, _Values]], tolerance_mm: float
) -> Iterator[tuple[AnyArray, _Values]]:
    from dipy.tracking.streamlinespeed import compress_streamlines

    streamlines = iter(streamlines)
    while batch := list(islice(streamlines, _BATCH_SIZE)):
        lines = [np.asarray(points, np.float64) for points, _ in batch]
        compressed = compress_streamlines(lines, tol_error=tolerance_mm)
        yield from zip(compressed, (values for _, values in batch))
