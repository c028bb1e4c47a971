"""Anatomy of a simulated brain: a folded cortex, white matter, nuclei, fluid, a stem.

All of it is drawn at random. No data of a real head is used.

The outer surface is an ellipsoid with random harmonics. Sulci are the zero lines of a
random field on this surface. They are cut into the ellipsoid along its radii, which a
second field bends. A fissure separates the hemispheres. The cortex is a ribbon below
the surface, and white matter is below the cortex.

The anatomy is a label image on a fine grid, axis-aligned in mm (RAS). Lengths are
those of a field of view of 120 mm. For other fields of view they are scaled.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from scipy.ndimage import (
    binary_dilation,
    distance_transform_edt,
    gaussian_filter,
    label,
    map_coordinates,
)
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import cg
from scipy.spatial import cKDTree

from dipy_rnn import spatial
from dipy_rnn._typing import BoolArray, ByteArray, FloatArray, Int32Array, IntArray
from dipy_rnn.phantom.geometry import dot, unit

FINE_MM = 1.5  # voxel size of the fine grid
FIELD_OF_VIEW_MM = 120.0  # side for which the lengths below are given

# Tissues of the fine grid, and their order in a 5TT image.
CORTEX, NUCLEUS, WHITE, FLUID, LESION = range(5)
OUTSIDE = 255

N_NUCLEI = 6  # thalamus, putamen and caudate of both hemispheres

_HALF_AXES_MM = np.array([52.0, 63.0, 47.0])
_CENTRE_MM = np.array([0.0, 0.0, 9.0])
_SULCUS_SPACING_MM = 15.0
_SULCUS_MM = 14.0  # mean depth
_CORTEX_MM = 2.8
_FLUID_MM = 4.0  # between cortex and skull
# Centres and half-axes in mm, right side. The left side is the mirror image.
_NUCLEI_MM = np.array(
    [
        [[9.0, -8, 2], [5.5, 9, 5.5]],
        [[27, 4, 3], [4, 12, 8]],
        [[14, 19, 7], [3.5, 7, 5]],
    ]
)
_VENTRICLE_MM = np.array(
    [[7.0, 26, 11], [7, 10, 15], [9, -10, 16], [14, -25, 12], [22, -22, 0]]
)
_VENTRICLE_RADIUS_MM = 3.6
_THIRD_VENTRICLE_MM = np.array([[0.0, -2, -1], [1.6, 8, 6]])
_STEM_MM = np.array([[0.0, -7, 0], [0, -13, -25], [0, -17, -75]])
_STEM_RADIUS_MM = 7.5


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Tissues and end regions on the fine grid.

    Parameters
    ----------
    affine : ndarray of shape (4, 4)
        Voxel to mm of the fine grid.
    tissue : ndarray of shape (X, Y, Z), uint8
        `CORTEX`, `NUCLEUS`, `WHITE`, `FLUID` or `OUTSIDE`.
    regions : ndarray of shape (X, Y, Z), int32
        0, or the number of an end region: patches of cortex (1 to `n_patches`; the
        second half of them is the right hemisphere), then six nuclei, then the stem.
    n_patches : int
    scale : float
        Length of the field of view divided by `FIELD_OF_VIEW_MM`.

    Examples
    --------
    >>> import numpy as np
    >>> from dipy_rnn.phantom.brain.anatomy import WHITE, draw_anatomy
    >>> rng = np.random.default_rng(0)
    >>> anatomy = draw_anatomy(rng, np.full(3, 45.0), n_patches=8)
    >>> bool((anatomy.tissue == WHITE).any()), anatomy.regions.max()
    (True, np.int32(15))
    """

    affine: FloatArray
    tissue: ByteArray
    regions: Int32Array
    n_patches: int
    scale: float

    @property
    def stem(self) -> int:
        """Number of the region of the stem, which is the largest."""
        return self.n_patches + N_NUCLEI + 1

    @property
    def feature_scale(self) -> float:
        """Scale of cortex and sulci, which shrink less than the brain."""
        return float(np.sqrt(self.scale))

    @cached_property
    def clearance_mm(self) -> FloatArray:
        """Distance to the border of white matter in mm, negative outside."""
        return _signed_distance(self.tissue == WHITE)

    @cached_property
    def clearance_gradient(self) -> FloatArray:
        """Gradient (3, X, Y, Z) of the smoothed clearance."""
        smooth = gaussian_filter(self.clearance_mm, 0.8)
        return np.array(np.gradient(smooth, FINE_MM))

    @cached_property
    def inward(self) -> FloatArray:
        """Unit vectors (3, X, Y, Z) from the cortex to deep white matter.

        They are the gradient of a harmonic function in white matter. It is 0 in the
        cortex and 1 where the cortex is far. In a gyrus its field lines fan out from
        the stalk, and meet the cortex at right angles.
        """
        cortex_mm = _distance(self.tissue != CORTEX)
        inside = (self.tissue != CORTEX) & (self.tissue != OUTSIDE)
        # The stem and fluid outside are no way to the depth.
        inside &= _distance(self.tissue != OUTSIDE) > _FLUID_MM * self.scale
        deep = inside & (cortex_mm > 13 * self.scale)
        free = (self.tissue == WHITE) & ~deep
        potential = np.where(
            free, np.clip(cortex_mm / (13 * self.scale), 0, 1) ** 2, deep * 1.0
        )
        potential[free] = _solve_laplace(free, potential)
        # Towards the deep the function flattens: the distance decides there.
        height = np.log(0.003 + potential) + 0.02 * cortex_mm / self.scale
        height = gaussian_filter(height, 0.7)
        field: FloatArray = np.moveaxis(
            unit(np.moveaxis(np.array(np.gradient(height, FINE_MM)), 0, -1)), -1, 0
        )
        return field

    def sample(self, field: FloatArray, points_mm: FloatArray) -> FloatArray:
        """Interpolate a field (X, Y, Z) or (3, X, Y, Z) at points in mm."""
        places = ((points_mm - self.affine[:3, 3]) / FINE_MM).reshape(-1, 3).T
        fields = field if field.ndim == 4 else field[None]
        values = [map_coordinates(f, places, order=1, mode="nearest") for f in fields]
        if field.ndim == 3:
            return np.asarray(values[0]).reshape(points_mm.shape[:-1])
        return np.stack(values, axis=-1).reshape(points_mm.shape)

    def push_inside(
        self, points_mm: FloatArray, margin_mm: float | FloatArray
    ) -> FloatArray:
        """Move points towards the place that is a margin inside white matter."""
        lack = margin_mm - self.sample(self.clearance_mm, points_mm)
        near = lack > 0
        pushed = points_mm.copy()
        uphill = self.sample(self.clearance_gradient, points_mm[near])
        pushed[near] += 0.7 * lack[near, None] * uphill
        return pushed

    def interface_mm(self, region: int) -> FloatArray:
        """Return points (N, 3) in mm where white matter touches a region.

        For the stem, they are its voxels in the lowest plane.
        """
        return self._interfaces[region]

    @cached_property
    def _interfaces(self) -> list[FloatArray]:
        white = self.tissue == WHITE
        # The region that each voxel of white matter touches.
        touched = np.zeros(self.regions.shape, dtype=self.regions.dtype)
        solid = np.where(white, 0, self.regions)
        for axis in range(3):
            for shift in (-1, 1):
                neighbour = np.roll(solid, shift, axis)
                touched = np.where(touched > 0, touched, neighbour)
        touched[~white] = 0
        touched[white & (self.regions == self.stem)] = self.stem
        # The floor of the fissure between the hemispheres has no ends.
        x = spatial.to_mm(np.indices(white.shape).reshape(3, -1).T, self.affine)[:, 0]
        floor = (np.abs(x) < 5 * self.scale).reshape(white.shape)
        touched[floor & (touched <= self.n_patches)] = 0
        where = np.argwhere(touched > 0)
        of = touched[tuple(where.T)]
        points_mm = spatial.to_mm(where.astype(np.float64), self.affine)
        return [points_mm[of == region] for region in range(self.stem + 1)]


def _distance(mask: BoolArray) -> FloatArray:
    """Return the distance (mm) from each voxel of a mask to the mask's border."""
    distance: FloatArray = distance_transform_edt(mask, sampling=FINE_MM)
    return np.maximum(distance - FINE_MM / 2, 0)


def _signed_distance(mask: BoolArray) -> FloatArray:
    return _distance(mask) - _distance(~mask)


def _solve_laplace(free: BoolArray, values: FloatArray) -> FloatArray:
    """Return the harmonic function on the free voxels; other values are fixed.

    No voxel at the border of the grid is free.
    """
    number = np.full(free.shape, -1)
    number[free] = np.arange(np.count_nonzero(free))
    n = number.max() + 1
    rows, columns, right = [], [], np.zeros(n)
    for axis in range(3):
        for shift in (-1, 1):
            neighbour = np.roll(number, shift, axis)[free]
            is_free = neighbour >= 0
            rows.append(np.flatnonzero(is_free))
            columns.append(neighbour[is_free])
            right += np.where(is_free, 0, np.roll(values, shift, axis)[free])
    row, column = np.concatenate(rows), np.concatenate(columns)
    near = csr_array((np.ones(len(row)), (row, column)), shape=(n, n))
    solution, _ = cg(
        diags_array(np.full(n, 6.0)) - near, right, values[free], rtol=1e-2, maxiter=200
    )
    harmonic: FloatArray = np.clip(solution, 0, 1)
    return harmonic


def _random_field(
    rng: np.random.Generator, points: FloatArray, wavelength: float
) -> FloatArray:
    """Return a random field at points (N, 3), and its gradient: (4, N).

    The field is a sum of waves of random directions. Its mean is 0 and its variance 1.
    It is computed on a coarse grid and interpolated.
    """
    n_waves = 40
    waves = unit(rng.normal(size=(n_waves, 3))) * (2 * np.pi / wavelength)
    waves *= rng.uniform(0.8, 1.2, (n_waves, 1))
    spacing = wavelength / 9
    lowest = points.min(axis=0) - spacing
    lengths = np.ceil((points.max(axis=0) - lowest) / spacing).astype(int) + 2
    phases = rng.uniform(0, 2 * np.pi, n_waves)
    along = [
        np.exp(1j * np.outer(wave, start + spacing * np.arange(n)))
        for wave, start, n in zip(waves.T, lowest, lengths, strict=True)
    ]
    along[0] *= np.exp(1j * phases)[:, None]
    planes = (along[0][:, :, None] * along[1][:, None, :]).reshape(n_waves, -1)
    grid = (planes.T @ along[2]).real.reshape(lengths) * np.sqrt(2 / n_waves)
    places = ((points - lowest) / spacing).T
    fields = [grid, *np.gradient(grid, spacing)]
    return np.array([map_coordinates(f, places, order=1) for f in fields])


def _in_ellipsoid(points: FloatArray, ellipsoid: FloatArray) -> BoolArray:
    offset = (points - ellipsoid[0]) / ellipsoid[1]
    inside: BoolArray = dot(offset, offset) <= 1
    return inside


def _in_tube(points: FloatArray, corners: FloatArray, radius: float) -> BoolArray:
    """Return whether points are within a radius of a polyline."""
    parts = [
        first + np.linspace(0, 1, 60)[:, None] * (last - first)
        for first, last in pairwise(corners)
    ]
    distance, _ = cKDTree(np.concatenate(parts)).query(
        points, distance_upper_bound=radius
    )
    inside: BoolArray = np.isfinite(distance)
    return inside


def _in_cerebrum(
    rng: np.random.Generator, points: FloatArray, shape: tuple[int, ...], fold: float
) -> BoolArray:
    """Return whether points (N, 3), for a scale of 1, are below the folded surface.

    `fold` is the scale of the sulci.
    """
    half_axes = _HALF_AXES_MM * rng.uniform(0.95, 1.03, 3)
    offset = points - _CENTRE_MM
    relative = np.linalg.norm(offset / half_axes, axis=1)
    near = np.flatnonzero((relative > 0.45) & (relative < 1.15))
    inside = relative <= 0.45
    on_sphere = unit(offset[near] / half_axes) * 54.0
    # Bent radii: the fields are read at displaced places of the sphere.
    for axis in range(3):
        on_sphere[:, axis] += 4 * fold * _random_field(rng, offset[near], 38.0)[0]
    lobes = 1 + 0.045 * _random_field(rng, on_sphere, 90.0)[0]
    to_mm = np.linalg.norm(offset[near], axis=1) / relative[near]
    depth = (np.minimum(lobes, 1.08) - relative[near]) * to_mm

    wavelength = 2 * _SULCUS_SPACING_MM * fold
    field = _random_field(rng, on_sphere, wavelength)
    zero_lines, gradient = field[0], field[1:]
    # The slope along the sphere, not below half of its root mean square.
    normals = unit(on_sphere).T
    slope = np.sqrt(dot(gradient.T, gradient.T) - (normals * gradient).sum(axis=0) ** 2)
    slope = np.maximum(slope, np.pi / wavelength * np.sqrt(2 / 3))
    aside = np.abs(zero_lines) / slope / fold  # about mm from the sulcus
    deepest = _SULCUS_MM * fold * (1 + 0.35 * _random_field(rng, on_sphere, 40.0)[0])
    sulcus = deepest * np.sqrt(np.clip(1 - (aside / 1.7) ** 2, 0, 1))
    crown = 3.0 * fold * np.exp(-((aside / 3.5) ** 2))
    inside[near] = depth > np.maximum(sulcus, crown)

    # The fissure between the hemispheres: a slit around the corpus callosum.
    x, y, z = offset.T
    middle = (y / 36) ** 2 + ((z - 2) / 18) ** 2 < 1
    below = (np.abs(y + 6) < 22) & (z < 2)
    inside &= (np.abs(x) > 1.6 * fold) | middle | below
    cerebrum: BoolArray = inside.reshape(shape)
    return cerebrum


def _largest_part(mask: BoolArray) -> BoolArray:
    parts, n_parts = label(mask)
    if n_parts < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest: BoolArray = parts == sizes.argmax()
    return largest


def _spread(rng: np.random.Generator, points: FloatArray, n: int) -> FloatArray:
    """Choose n of the points, far from each other."""
    chosen = [points[rng.integers(len(points))]]
    distance = np.full(len(points), np.inf)
    for _ in range(n - 1):
        distance = np.minimum(distance, np.linalg.norm(points - chosen[-1], axis=1))
        chosen.append(points[distance.argmax()])
    return np.array(chosen)


def draw_anatomy(
    rng: np.random.Generator, field_of_view_mm: FloatArray, *, n_patches: int
) -> Anatomy:
    """Draw the tissues and the end regions of a brain.

    Parameters
    ----------
    rng : numpy.random.Generator
    field_of_view_mm : ndarray of shape (3,)
        Sides of the box around the head, centred at 0 mm.
    n_patches : int
        Number of patches of cortex, even.

    Returns
    -------
    anatomy : Anatomy
        Its grid exceeds the box by two voxels on each side.

    Examples
    --------
    >>> import numpy as np
    >>> from dipy_rnn.phantom.brain.anatomy import draw_anatomy
    >>> rng = np.random.default_rng(0)
    >>> draw_anatomy(rng, np.full(3, 45.0), n_patches=8).tissue.shape
    (34, 34, 34)
    """
    shape = tuple(int(n) for n in np.ceil(field_of_view_mm / FINE_MM) + 4)
    affine = np.diag([FINE_MM, FINE_MM, FINE_MM, 1.0])
    affine[:3, 3] = -FINE_MM * (np.array(shape) - 1) / 2
    scale = float(
        np.min(field_of_view_mm / (FIELD_OF_VIEW_MM * np.array([1, 7 / 6, 1])))
    )
    fold = float(np.sqrt(scale)) / scale  # in lengths of a scale of 1
    points = spatial.to_mm(np.indices(shape).reshape(3, -1).T, affine) / scale

    brain = _in_cerebrum(rng, points, shape, fold)
    brain = _largest_part(brain)
    bottom = np.array([0, 0, -field_of_view_mm[2] / 2 / scale + 1.5 * FINE_MM / scale])
    stem = _in_tube(points, _STEM_MM, _STEM_RADIUS_MM)
    stem = (stem & (points[:, 2] > bottom[2])).reshape(shape)

    tissue = np.full(shape, OUTSIDE, dtype=np.uint8)
    head = _distance(~(brain | stem)) <= _FLUID_MM * scale
    tissue[head] = FLUID
    tissue[brain] = CORTEX
    ribbon_mm = _CORTEX_MM * np.sqrt(scale)
    thickness = ribbon_mm * (1 + 0.12 * _random_field(rng, points, 45.0)[0])
    tissue[_largest_part(_distance(brain) > thickness.reshape(shape))] = WHITE
    tissue[stem] = WHITE

    regions = np.zeros(shape, dtype=np.int32)
    mirror = np.array([-1.0, 1, 1])
    moved = rng.normal(0, 1.0, (4, 3))
    for side, sign in enumerate((mirror, np.ones(3))):
        for n, (centre, half_axes) in enumerate(_NUCLEI_MM):
            nucleus = np.array([(centre + moved[n]) * sign, half_axes])
            where = _in_ellipsoid(points, nucleus).reshape(shape)
            where &= tissue == WHITE
            tissue[where] = NUCLEUS
            regions[where] = n_patches + 1 + 3 * side + n
        ventricle = _in_tube(
            points, (_VENTRICLE_MM + moved[3]) * sign, _VENTRICLE_RADIUS_MM
        ).reshape(shape)
        tissue[ventricle] = FLUID
    tissue[_in_ellipsoid(points, _THIRD_VENTRICLE_MM).reshape(shape)] = FLUID
    regions[tissue == FLUID] = 0

    _label_cortex(rng, points.reshape(*shape, 3), tissue, regions, n_patches)
    end = stem & (points[:, 2].reshape(shape) < bottom[2] + 2.5 * FINE_MM / scale)
    regions[end] = n_patches + N_NUCLEI + 1
    return Anatomy(affine, tissue, regions, n_patches, scale)


def _label_cortex(
    rng: np.random.Generator,
    points: FloatArray,
    tissue: ByteArray,
    regions: Int32Array,
    n_patches: int,
) -> None:
    """Divide the cortex into patches, in place: Voronoi cells of mirrored points."""
    white = tissue == WHITE
    border = (tissue == CORTEX) & binary_dilation(white)
    left = points[border & (points[..., 0] < 0)]
    seeds = _spread(rng, left, n_patches // 2)
    cortex = tissue == CORTEX
    for side, sign in enumerate((1.0, -1.0)):
        tree = cKDTree(seeds * [sign, 1, 1])
        where = cortex & (sign * points[..., 0] <= 0)
        numbers: IntArray = tree.query(points[where])[1]
        regions[where] = 1 + side * (n_patches // 2) + numbers
