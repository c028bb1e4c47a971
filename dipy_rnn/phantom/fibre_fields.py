"""Directions of many bundles at any point, from their streamlines.

The streamlines of each bundle are averaged on a grid: their density, their mean tangent
and their mean place along the bundle. Only the box of a bundle has a table of cells,
and only cells near streamlines have values. So a query of thousands of points, each
with the number of its bundle, takes milliseconds.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple, Self

import numpy as np
from scipy.ndimage import gaussian_filter

from dipy_rnn import spatial
from dipy_rnn._typing import (
    AnyArray,
    BoolArray,
    Float32Array,
    FloatArray,
    Int32Array,
    IntArray,
)
from dipy_rnn.phantom.geometry import unit

INSIDE = 0.2  # least occupancy inside a bundle

_SMOOTHING_VOX = 0.8
_PAD = 3  # cells around the streamlines of a bundle
_CORNERS: IntArray = np.array(list(product((0, 1), repeat=3)))


class FibresAt(NamedTuple):
    """The fibres of one bundle at each of N points.

    Parameters
    ----------
    directions : ndarray of shape (N, 3)
        Unit vectors in world axes, from the first to the last point of the streamlines;
        zero where the occupancy is zero.
    occupancy : ndarray of shape (N,)
        From 0 far from the streamlines to 1 where they are dense.
    share : ndarray of shape (N,)
        The share of the way from the first (0) to the last point (1) of the
        streamlines; 0 where the occupancy is zero.
    """

    directions: FloatArray
    occupancy: FloatArray
    share: FloatArray


class FibreFields:
    """The occupancy and the mean tangent of each of B bundles on a grid.

    Parameters
    ----------
    streamlines : sequence of B ndarrays of shape (N, M, 3)
        In mm. All streamlines of a bundle have the same direction, and M equally spaced
        points.
    affine : ndarray of shape (4, 4)
        Voxel to mm of an isotropic grid. Its cells are averages.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(0, 20, 30)
    >>> lines = np.zeros((1, 9, 30, 3))
    >>> lines[..., 0] = x
    >>> fields = FibreFields(lines, np.eye(4))
    >>> tangents, occupancy, share = fields.at(
    ...     np.array([0, 0]), np.array([[10.0, 0.2, 0], [10, 9, 0]]))
    >>> print(tangents.round(3), occupancy.round(1), share.round(2))
    [[1. 0. 0.]
     [0. 0. 0.]] [0.9 0. ] [0.5 0. ]
    """

    def __init__(
        self, streamlines: Sequence[AnyArray] | AnyArray, affine: FloatArray
    ) -> None:
        self.n_bundles = len(streamlines)
        self._affines: FloatArray = np.tile(affine, (self.n_bundles, 1, 1))
        self._to_vox = np.linalg.inv(self._affines[:, :3, :3])
        #: Edge (B,) of the cells of each bundle in mm.
        self.edges_mm: FloatArray = np.full(self.n_bundles, spatial.voxel_edge(affine))
        lowest, sizes, tables, rows = [], [], [], [np.zeros((1, 5), np.float32)]
        n_rows = 1
        for lines in streamlines:
            lines = np.asarray(lines, dtype=np.float64)
            low, values, used = _average(lines, affine)
            table = np.zeros(used.shape, dtype=np.int32)
            table[used] = n_rows + np.arange(np.count_nonzero(used))
            n_rows += int(np.count_nonzero(used))
            lowest.append(low)
            sizes.append(used.shape)
            tables.append(table.ravel())
            rows.append(values)
        self._lowest: IntArray = np.array(lowest)
        self._sizes: IntArray = np.array(sizes)
        self._start: IntArray = np.cumsum([0] + [len(table) for table in tables[:-1]])
        self._table: Int32Array = np.concatenate(tables)
        # Tangent times occupancy, occupancy, share times occupancy. Row 0 is empty.
        self._rows: Float32Array = np.concatenate(rows)

    @classmethod
    def joined(cls, parts: Sequence["FibreFields"]) -> Self:
        """Join the bundles of several worlds, which may have different grids.

        Parameters
        ----------
        parts : sequence of FibreFields

        Returns
        -------
        fields : FibreFields
            With the bundles of the first part, then those of the second ..

        Examples
        --------
        >>> import numpy as np
        >>> lines = np.zeros((1, 2, 9, 3)); lines[..., 0] = np.linspace(0, 20, 9)
        >>> parts = FibreFields(lines, np.eye(4)), FibreFields(-lines, 2 * np.eye(4))
        >>> fields = FibreFields.joined(parts)
        >>> at = fields.at(np.array([0, 1]), np.array([[9.0, 0, 0], [-9, 0, 0]]))
        >>> at.share.round(2)
        array([0.45, 0.45])
        """
        joined = cls.__new__(cls)
        joined.n_bundles = sum(part.n_bundles for part in parts)
        for name in ("_affines", "_to_vox", "edges_mm", "_lowest", "_sizes"):
            setattr(
                joined, name, np.concatenate([getattr(each, name) for each in parts])
            )
        tables: list[Int32Array] = []
        starts: list[IntArray] = []
        n_cells, n_rows = 0, 0
        for part in parts:
            starts.append(part._start + n_cells)
            tables.append(np.where(part._table > 0, part._table + n_rows, 0))
            n_cells += len(part._table)
            n_rows += len(part._rows) - 1
        joined._start = np.concatenate(starts)
        joined._table = np.concatenate(tables).astype(np.int32)
        # The empty row is needed once.
        rows = [parts[0]._rows[:1], *(part._rows[1:] for part in parts)]
        joined._rows = np.concatenate(rows)
        return joined

    def cells_mm(self, bundle_id: int) -> FloatArray:
        """Return the centres (n, 3) of the cells near a bundle's streamlines."""
        start, size = self._start[bundle_id], self._sizes[bundle_id]
        table = self._table[start : start + np.prod(size)].reshape(size)
        cells = np.argwhere(table > 0) + self._lowest[bundle_id]
        return spatial.to_mm(cells.astype(np.float64), self._affines[bundle_id])

    def at(self, bundle_ids: IntArray, points_mm: FloatArray) -> FibresAt:
        """Return the fibres of one bundle at each point.

        Parameters
        ----------
        bundle_ids : ndarray of shape (N,), int
        points_mm : ndarray of shape (N, 3)

        Returns
        -------
        fibres : FibresAt
        """
        from_origin = points_mm - self._affines[bundle_ids, :3, 3]
        places = np.einsum("ni,nji->nj", from_origin, self._to_vox[bundle_ids])
        places -= self._lowest[bundle_ids]
        sizes = self._sizes[bundle_ids]
        near = np.flatnonzero(np.all((places >= 0) & (places < sizes - 1), axis=1))
        places, sizes = places[near], sizes[near]
        cells = places.astype(np.int64)
        share = places - cells
        start = self._start[bundle_ids[near]]
        weights = np.stack([1 - share, share])  # (2, n, 3)
        first = start + (cells[:, 0] * sizes[:, 1] + cells[:, 1]) * sizes[:, 2]
        first += cells[:, 2]
        total = np.zeros((len(near), 5))
        for i, j, k in _CORNERS:
            corner = first + (i * sizes[:, 1] + j) * sizes[:, 2] + k
            weight = weights[i, :, 0] * weights[j, :, 1] * weights[k, :, 2]
            total += weight[:, None] * self._rows[self._table[corner]]
        values = np.zeros((len(points_mm), 5))
        values[near] = total
        occupancy = values[:, 3]
        along: FloatArray = np.zeros(len(values))
        np.divide(values[:, 4], occupancy, out=along, where=occupancy > 0)
        return FibresAt(unit(values[:, :3]), occupancy, along)


def _average(
    lines: FloatArray, affine: FloatArray
) -> tuple[IntArray, Float32Array, BoolArray]:
    """Average the streamlines (N, M, 3) of a bundle on a grid.

    Returns
    -------
    lowest : ndarray of shape (3,)
        First cell of the bundle's box.
    values : ndarray of shape (n, 5), float32
        For each used cell.
    used : ndarray of shape (I, J, K), bool
    """
    points = (lines - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    steps = np.diff(lines, axis=1)
    n_parts = max(1, int(np.ceil(2 * np.abs(np.diff(points, axis=1)).max())))
    shares = (np.arange(n_parts) + 0.5) / n_parts
    points = np.concatenate(
        [
            (points[:, :-1] * (1 - share) + points[:, 1:] * share).reshape(-1, 3)
            for share in shares
        ]
    )
    tangents = np.tile(steps.reshape(-1, 3) / n_parts, (n_parts, 1))
    lengths = np.linalg.norm(tangents, axis=1)
    n_steps = lines.shape[1] - 1
    along = (np.arange(n_steps) + shares[:, None]) / n_steps  # (n_parts, M - 1)
    along = np.repeat(along[:, None], len(lines), axis=1).ravel()
    cells = np.round(points).astype(np.int64)
    lowest = cells.min(axis=0) - _PAD
    shape = tuple(int(n) for n in cells.max(axis=0) - lowest + _PAD + 1)
    flat = np.ravel_multi_index(tuple((cells - lowest).T), shape)
    sums = [
        gaussian_filter(
            np.bincount(flat, weights, minlength=np.prod(shape)).reshape(shape),
            _SMOOTHING_VOX,
            truncate=2.5,
        )
        for weights in (*tangents.T, lengths, lengths * along)
    ]
    density = sums[3]
    # Half of the fibres' length is where the occupancy is above 0.95.
    usual = np.median(density.ravel()[flat])
    occupancy = 1 - np.exp(-3 * density / usual)
    used = occupancy > 0.02
    tangent = unit(np.stack([each[used] for each in sums[:3]], axis=1))
    share = sums[4][used] / density[used]
    values = np.column_stack([tangent, np.ones_like(share), share])
    values = (values * occupancy[used, None]).astype(np.float32)
    return lowest, values, used
