"""Worlds whose bundles are known at any point."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from dipy.tracking.streamline import set_number_of_points
import numpy as np

from dipy_rnn import sampling, spatial
from dipy_rnn._typing import AnyArray, Float32Array, FloatArray, IntArray
from dipy_rnn.phantom import BrainWorld, Phantom
from dipy_rnn.phantom.fibre_fields import FibreFields
from dipy_rnn.phantom.geometry import dot

# Points and number of the streamlines that define a bundle of a phantom, and the cells
# of its field, in voxel edges.
_N_POINTS, _N_STREAMLINES, _CELL = 100, 80, 0.6
# Streamlines run where more than this share of a voxel has fibres.
_MIN_FRACTION = 0.1
# How likely a start takes the second or the third peak.
_P_SECOND, _P_THIRD = 0.3, 0.08
# A start belongs to the bundle with the largest product of its occupancy and a Gaussian
# of the angle between bundle and peak.
_NEAR_DEG, _LEAST_MATCH = 12.0, 0.05


@dataclass(frozen=True, eq=False)
class KnownWorld:
    """An fODF, and the bundles known in it.

    :meth:`of_phantom` and :meth:`of_brain` make one.

    Parameters
    ----------
    data : ndarray of shape (X, Y, Z, C)
        float32. The fODF in the package's basis, along the voxel axes.
    affine : ndarray of shape (4, 4)
        Voxel to mm. The voxel axes must be those of RAS.
    tissue : ndarray of shape (X, Y, Z, 1)
        float32. Share of each voxel in which streamlines run.
    fields : dipy_rnn.phantom.fibre_fields.FibreFields
        The bundles.
    starts_mm : ndarray of shape (S, 3)
        Where streamlines may start.
    directions : ndarray of shape (S, 3)
        The first direction of each start: a peak of the fODF.
    bundle_ids : ndarray of shape (S,), int
        The bundle that is nearest to this direction there.
    signs : ndarray of shape (S,)
        1 if the direction leads to the last point of the bundle's streamlines, else -1.
    """

    data: Float32Array
    affine: FloatArray
    tissue: Float32Array
    fields: FibreFields
    starts_mm: FloatArray
    directions: FloatArray
    bundle_ids: IntArray
    signs: FloatArray

    @classmethod
    def of_phantom(
        cls, phantom: Phantom, data: Float32Array, n_starts: int, *, random_seed: int
    ) -> Self:
        """Make one of a phantom and its fODF.

        Parameters
        ----------
        phantom : dipy_rnn.phantom.Phantom
        data : ndarray of shape (X, Y, Z, C)
        n_starts : int
            Number of starts to draw. Those without a bundle near the peak are dropped.
        random_seed : int

        Returns
        -------
        world : KnownWorld

        Examples
        --------
        >>> from dipy_rnn.phantom import crossing_phantom
        >>> phantom = crossing_phantom(90)
        >>> data = sampling.fodf_features(phantom.fodf()).data
        >>> world = KnownWorld.of_phantom(phantom, data, 50, random_seed=0)
        >>> world.fields.n_bundles, len(world.starts_mm) > 25
        (2, True)
        """
        streamlines, ids = phantom.streamlines(_N_STREAMLINES, random_seed=random_seed)
        equal = np.array([set_number_of_points(s, _N_POINTS) for s in streamlines])
        cells = phantom.affine.copy()
        cells[:3, :3] = _CELL * spatial.voxel_edge(phantom.affine) * np.eye(3)
        fields = FibreFields([equal[ids == b] for b in range(ids.max() + 1)], cells)
        inside = phantom.peaks()[0].sum(axis=-1) > _MIN_FRACTION
        return cls._with_starts(
            data, phantom.affine, inside, fields, n_starts, random_seed
        )

    @classmethod
    def of_brain(
        cls, brain: BrainWorld, data: Float32Array, n_starts: int, *, random_seed: int
    ) -> Self:
        """Make one of a simulated brain and its fODF. As :meth:`of_phantom`.

        Examples
        --------
        >>> from dipy_rnn.phantom import brain_world
        >>> brain = brain_world(0, shape=(16, 18, 16), voxel_size_mm=3, n_bundles=12)
        >>> data = sampling.fodf_features(brain.fodf()).data
        >>> world = KnownWorld.of_brain(brain, data, 50, random_seed=0)
        >>> world.fields.n_bundles == brain.n_bundles
        True
        """
        white: AnyArray = brain.tissues()[..., [2, 4]].sum(axis=-1)
        return cls._with_starts(
            data, brain.affine, white, brain.fields, n_starts, random_seed
        )

    @classmethod
    def _with_starts(
        cls,
        data: Float32Array,
        affine: FloatArray,
        tissue: AnyArray,
        fields: FibreFields,
        n_starts: int,
        random_seed: int,
    ) -> Self:
        rng = np.random.default_rng(random_seed)
        voxels = np.argwhere(tissue > 0.5)
        drawn = voxels[rng.integers(len(voxels), size=n_starts)]
        points_vox = drawn + rng.uniform(-0.5, 0.5, drawn.shape)
        points_mm = spatial.to_mm(points_vox, affine)
        peaks = sampling.first_directions(
            data, points_vox, spatial.axes(affine), max_peaks=3
        )
        which = np.searchsorted([_P_THIRD, _P_SECOND], rng.random(n_starts))
        each = np.arange(n_starts)
        chosen = peaks[each, 2 - which]
        missing = ~chosen.any(axis=1)
        chosen[missing] = peaks[missing, 0]
        ids, signs, match = _nearest_bundles(fields, points_mm, chosen)
        found = (match > _LEAST_MATCH) & chosen.any(axis=1)
        return cls(
            np.ascontiguousarray(data, dtype=np.float32),
            affine,
            np.ascontiguousarray(tissue[..., None], dtype=np.float32),
            fields,
            points_mm[found],
            chosen[found],
            ids[found],
            signs[found],
        )

    def tissue_at(self, points_mm: FloatArray) -> Float32Array:
        """Return the share of tissue at points (N, 3); 0 outside the image."""
        points_vox = spatial.to_voxels(points_mm, self.affine)
        share: Float32Array = sampling.sample(self.tissue, points_vox)[0][:, 0]
        return share


class KnownWorlds:
    """Several worlds, with one list of bundles and one list of starts.

    Parameters
    ----------
    worlds : sequence of W KnownWorld

    Examples
    --------
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> phantom = crossing_phantom(90)
    >>> data = sampling.fodf_features(phantom.fodf()).data
    >>> world = KnownWorld.of_phantom(phantom, data, 50, random_seed=0)
    >>> worlds = KnownWorlds([world, world])
    >>> worlds.fields.n_bundles, len(worlds.starts_mm) == 2 * len(world.starts_mm)
    (4, True)
    """

    def __init__(self, worlds: Sequence[KnownWorld]) -> None:
        self.worlds = worlds
        #: The bundles of all worlds.
        self.fields = FibreFields.joined([world.fields for world in worlds])
        #: Where the starts of each world begin (W + 1,).
        self.first_start: IntArray = np.cumsum([0] + [len(w.signs) for w in worlds])
        first_bundle = np.cumsum([0] + [w.fields.n_bundles for w in worlds])
        self.starts_mm: FloatArray = np.concatenate([w.starts_mm for w in worlds])
        self.directions: FloatArray = np.concatenate([w.directions for w in worlds])
        self.bundle_ids: IntArray = np.concatenate(
            [w.bundle_ids + n for w, n in zip(worlds, first_bundle, strict=False)]
        )
        self.signs: FloatArray = np.concatenate([w.signs for w in worlds])


def _nearest_bundles(
    fields: FibreFields, points_mm: FloatArray, directions: FloatArray
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Return the bundle nearest to a direction at each point, its sign and its match.

    The match is from 0 to 1.
    """
    n = len(points_mm)
    ids, signs, best = np.zeros(n, dtype=np.int64), np.zeros(n), np.zeros(n)
    for b in range(fields.n_bundles):
        along, occupancy, _ = fields.at(np.full(n, b), points_mm)
        cosine = dot(along, directions)
        angle = np.degrees(np.arccos(np.clip(np.abs(cosine), 0, 1)))
        match = occupancy * np.exp(-((angle / _NEAR_DEG) ** 2))
        better = (match > best) & (occupancy > _MIN_FRACTION)
        ids[better], best[better] = b, match[better]
        signs[better] = np.sign(cosine[better])
    return ids, signs, best
