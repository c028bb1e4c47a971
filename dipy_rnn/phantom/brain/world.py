"""A simulated brain with known bundles, tissues, end regions and signal.

`dipy_rnn.phantom.brain.draw` draws one, and `dipy_rnn.phantom.brain.oracle` tracks it
with the true directions.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from dipy_rnn import _checks, spatial
from dipy_rnn._typing import (
    AnyArray,
    ArrayLike,
    BoolArray,
    Float32Array,
    FloatArray,
    Int32Array,
    IntArray,
)
from dipy_rnn.phantom.brain.anatomy import (
    CORTEX,
    FLUID,
    LESION,
    NUCLEUS,
    WHITE,
    Anatomy,
)
from dipy_rnn.phantom.brain.plans import Plan
from dipy_rnn.phantom.brain.populations import populations, voxels_near
from dipy_rnn.phantom.bundles import Ball
from dipy_rnn.phantom.fibre_fields import INSIDE, FibreFields
from dipy_rnn.phantom.geometry import arc_lengths, check_positive
from dipy_rnn.phantom.phantom import centres_vox, subvoxels_mm
from dipy_rnn.phantom.signal import (
    CSF_DIFFUSIVITY,
    REMAINDER_DIFFUSIVITY,
    fodf_of_peaks,
    simulate_dwi,
)

_LESION_LOSS = 0.6  # share of the fibres that a lesion replaces
_LESION_WATER = 0.5  # share of free water in the place of lost fibres
_FLUID_SIGNAL = 2.0  # without diffusion weighting, relative to white matter


class BrainWorld:
    """A simulated brain on a voxel grid, made by :func:`brain_world`.

    It has B bundles. Bundle b connects two end regions and is a set of N streamlines.

    Parameters
    ----------
    anatomy : Anatomy
        Tissues and end regions.
    plans : sequence of B Plan
        Kind, end regions and weight of each bundle.
    lines : ndarray of shape (B, N, M, 3), float32
        Streamlines of each bundle in mm.
    fields : FibreFields
        Directions of the bundles.
    affine : ndarray of shape (4, 4)
        Voxel to mm (RAS).
    shape : tuple of 3 ints
        Number of voxels along each axis, (X, Y, Z).
    lesions : sequence of Ball, optional
        Places where fibres are lost.

    Examples
    --------
    >>> from dipy_rnn.phantom import brain_world
    >>> world = brain_world(0, shape=(16, 18, 16), voxel_size_mm=3, n_bundles=12)
    >>> fractions, directions = world.peaks()
    >>> fractions.shape, directions.shape
    ((16, 18, 16, 5), (16, 18, 16, 5, 3))
    """

    def __init__(
        self,
        anatomy: Anatomy,
        plans: Sequence[Plan],
        lines: Float32Array,
        fields: FibreFields,
        affine: FloatArray,
        shape: tuple[int, int, int],
        *,
        lesions: Sequence[Ball] = (),
    ) -> None:
        self.anatomy = anatomy
        self.plans = tuple(plans)
        self.lines = lines
        self.fields = fields
        self.affine = spatial.check_affine(affine).copy()
        self.shape = _checks.check_shape(shape)
        self.lesions = tuple(lesions)

    @property
    def n_bundles(self) -> int:
        """Number of bundles, B."""
        return len(self.plans)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kind of each bundle: association, commissural, projection or u."""
        return tuple(plan.kind for plan in self.plans)

    @property
    def regions(self) -> IntArray:
        """Labels (B, 2) of the end regions of each bundle."""
        return np.array([plan.regions for plan in self.plans])

    def on_grid(self, affine: FloatArray, shape: tuple[int, int, int]) -> "BrainWorld":
        """Return the same brain on another grid.

        Parameters
        ----------
        affine : ndarray of shape (4, 4)
            Voxel to mm (RAS).
        shape : tuple of 3 ints
            Number of voxels along each axis.

        Returns
        -------
        BrainWorld

        Examples
        --------
        >>> from dipy_rnn.phantom import brain_world
        >>> world = brain_world(0, shape=(16, 18, 16), voxel_size_mm=3, n_bundles=12)
        >>> world.on_grid(np.diag([-2.0, 2, 3, 1]), (9, 9, 9)).shape
        (9, 9, 9)
        """
        return BrainWorld(
            self.anatomy,
            self.plans,
            self.lines,
            self.fields,
            affine,
            shape,
            lesions=self.lesions,
        )

    @cached_property
    def _of_subvoxels(self) -> tuple[Float32Array, Float32Array]:
        """Shares of four tissues and of lesions: (V, 8, 4) and (V, 8)."""
        points_mm = subvoxels_mm(centres_vox(self.shape), self.affine)
        places = spatial.to_voxels(points_mm, self.anatomy.affine).T
        shares = np.empty((len(points_mm), LESION), dtype=np.float32)
        for tissue in (CORTEX, NUCLEUS, WHITE, FLUID):
            is_tissue = (self.anatomy.tissue == tissue).astype(np.float32)
            map_coordinates(is_tissue, places, shares[:, tissue], order=1, cval=0.0)
        lesion = np.zeros(len(points_mm), dtype=np.float32)
        for ball in self.lesions:
            near = ball.is_near(points_mm, 0.0)
            lesion[near] = np.maximum(lesion[near], ball.fraction(points_mm[near]))
        return shares.reshape(-1, 8, LESION), lesion.reshape(-1, 8)

    def tissues(self) -> Float32Array:
        """Return the volume fractions of five tissues: a 5TT image.

        Returns
        -------
        tissues : ndarray of shape (X, Y, Z, 5), float32
            Cortical grey matter, deep grey matter, white matter, cerebrospinal fluid
            and lesions, averaged over eight points of the voxel. All are zero outside
            the head.

        Examples
        --------
        >>> from dipy_rnn.phantom import brain_world
        >>> world = brain_world(0, shape=(16, 18, 16), voxel_size_mm=3, n_bundles=12)
        >>> print(world.tissues()[8, 9, 9].argmax())  # white matter
        2
        """
        shares, lesion = self._of_subvoxels
        lesion = lesion * shares[..., WHITE]
        healthy = shares.mean(axis=1)
        healthy[:, WHITE] -= lesion.mean(axis=1)
        five = np.column_stack([healthy, lesion.mean(axis=1)])
        tissues: Float32Array = np.clip(five, 0, 1).reshape(*self.shape, 5)
        return tissues

    def labels(self) -> Int32Array:
        """Return the label of the end region at the centre of each voxel.

        Returns
        -------
        labels : ndarray of shape (X, Y, Z), int32
            0 elsewhere. Patches of cortex have the first labels (the second half of
            them is the right hemisphere), then come six nuclei, and then the end of the
            stem.

        Examples
        --------
        >>> from dipy_rnn.phantom import brain_world
        >>> world = brain_world(0, shape=(16, 18, 16), voxel_size_mm=3, n_bundles=12)
        >>> bool(world.labels().max() == world.regions.max())
        True
        """
        centres_mm = spatial.to_mm(centres_vox(self.shape), self.affine)
        places = spatial.to_voxels(centres_mm, self.anatomy.affine).T
        labels: Int32Array = map_coordinates(
            self.anatomy.regions, places, order=0, cval=0
        )
        return labels.reshape(self.shape)

    @cached_property
    def _populations(self) -> tuple[Float32Array, Float32Array, Int32Array]:
        shares, lesion = self._of_subvoxels
        white = shares[..., WHITE]
        return populations(
            self.fields,
            np.array([plan.weight for plan in self.plans]),
            white,
            (white * (1 - _LESION_LOSS * lesion)).mean(axis=1),
            self.affine,
            self.shape,
        )

    def peaks(self) -> tuple[Float32Array, Float32Array]:
        """Return the fraction and the direction of the fibres in each voxel.

        Returns
        -------
        fractions : ndarray of shape (X, Y, Z, 5), float32
            Volume fractions of the five heaviest populations, heaviest first. A
            population is the part of a bundle in the voxel.
        directions : ndarray of shape (X, Y, Z, 5, 3), float32
            Their mean directions: unit vectors along the voxel axes, zero where the
            fraction is zero.
        """
        return self._populations[0], self._populations[1]

    def bundle_ids(self) -> Int32Array:
        """Return the bundle of each population of :meth:`peaks`, or -1.

        Returns
        -------
        bundle_ids : ndarray of shape (X, Y, Z, 5), int32
        """
        return self._populations[2]

    def mask(self) -> BoolArray:
        """Return the voxels of which more than half is white matter or a lesion.

        Returns
        -------
        mask : ndarray of shape (X, Y, Z), bool
        """
        mask: BoolArray = self.tissues()[..., [WHITE, LESION]].sum(axis=-1) > 0.5
        return mask

    def fodf(
        self,
        sh_order_max: int = 8,
        *,
        lobe_deg: float = 9.0,
        noise: float = 0.0,
        random_seed: int = 0,
    ) -> Float32Array:
        """Return the fibre orientation distribution as spherical harmonics.

        Parameters
        ----------
        sh_order_max, lobe_deg, noise, random_seed
            As for :meth:`dipy_rnn.phantom.Phantom.fodf`.

        Returns
        -------
        sh : ndarray of shape (X, Y, Z, C), float32
        """
        return fodf_of_peaks(
            *self.peaks(),
            sh_order_max,
            lobe_deg=lobe_deg,
            noise=noise,
            random_seed=random_seed,
        )

    def dwi(
        self,
        gtab: Any,
        *,
        snr: float | None = None,
        evals: tuple[float, float, float] = (1.7e-3, 3e-4, 3e-4),
        s0: float = 100,
        dispersion_deg: float = 16.0,
        random_seed: int = 0,
    ) -> Float32Array:
        """Simulate a diffusion-weighted series.

        Each fibre population is a tensor, dispersed about its direction. Grey matter
        and the part of white matter without fibres are isotropic (0.7e-3 mm^2/s), and
        so is fluid (3.0e-3 mm^2/s). The signal of fluid without diffusion weighting is
        twice that of other tissue. There is only noise outside the head.

        Parameters
        ----------
        gtab : dipy.core.gradients.GradientTable
            N b-values (s/mm^2) with directions along the voxel axes, or N b-tensors.
        snr, evals, s0, random_seed
            As for :meth:`dipy_rnn.phantom.Phantom.dwi`. `s0` is the signal of white
            matter.
        dispersion_deg : float, optional
            Standard deviation of the directions of a population, in degrees in each of
            two perpendicular planes.

        Returns
        -------
        dwi : ndarray of shape (X, Y, Z, N), float32

        Raises
        ------
        ValueError
            If an argument is out of range.
        """
        fractions, directions = self.peaks()
        shares = self._of_subvoxels[0].mean(axis=1).reshape(*self.shape, -1)
        lesion = self.tissues()[..., LESION]
        water = _LESION_LOSS * _LESION_WATER * lesion
        grey = shares[..., [CORTEX, NUCLEUS, WHITE]].sum(axis=-1)
        rest = np.maximum(grey - water - fractions.sum(axis=-1), 0)
        fluid = _FLUID_SIGNAL * shares[..., FLUID] + water
        return simulate_dwi(
            gtab,
            fractions,
            directions,
            [(fluid, CSF_DIFFUSIVITY), (rest, REMAINDER_DIFFUSIVITY)],
            snr=snr,
            evals=evals,
            s0=s0,
            random_seed=random_seed,
            dispersion_deg=dispersion_deg,
        )

    def streamlines(
        self, n_per_bundle: int, *, step_mm: float = 0.5, random_seed: int = 0
    ) -> tuple[list[FloatArray], IntArray]:
        """Draw true streamlines, bundle after bundle.

        Parameters
        ----------
        n_per_bundle : int
            Number of streamlines of each bundle, at most N.
        step_mm : float, optional
            Distance between neighbouring points in mm, rounded so that all steps of a
            streamline are equal.
        random_seed : int, optional
            Seed of the choice.

        Returns
        -------
        streamlines : list of ndarrays of shape (M, 3)
            In mm (RAS), float64, from the first to the second region of the bundle.
        bundle_ids : ndarray of ints, one per streamline

        Raises
        ------
        ValueError
            If an argument is out of range.

        Examples
        --------
        >>> from dipy_rnn.phantom import brain_world
        >>> world = brain_world(0, shape=(16, 18, 16), voxel_size_mm=3, n_bundles=12)
        >>> len(world.streamlines(2)[0]) == 2 * world.n_bundles
        True
        """
        n_lines = self.lines.shape[1]
        n_per_bundle = _checks.check_count(n_per_bundle, "n_per_bundle", 0, n_lines)
        check_positive("step_mm", step_mm)
        rng = np.random.default_rng(random_seed)
        streamlines: list[FloatArray] = []
        for lines in self.lines:
            for i in rng.permutation(n_lines)[:n_per_bundle]:
                line = lines[i].astype(np.float64)
                arc = arc_lengths(line)
                equal = np.linspace(0, arc[-1], 1 + max(1, round(arc[-1] / step_mm)))
                streamlines.append(
                    np.column_stack([np.interp(equal, arc, x) for x in line.T])
                )
        return streamlines, np.repeat(np.arange(self.n_bundles), n_per_bundle)

    def bundle_directions(
        self, bundle_ids: ArrayLike, points_mm: ArrayLike
    ) -> tuple[FloatArray, BoolArray]:
        """Return the direction of one bundle at each point, and whether it is there.

        Parameters
        ----------
        bundle_ids : array_like of shape (N,), int
            The bundle of each point, from 0 to B - 1.
        points_mm : array_like of shape (N, 3)
            In mm (RAS).

        Returns
        -------
        directions : ndarray of shape (N, 3)
            Unit vectors in world axes, from the first to the second region of the
            bundle; zero far from the bundle.
        inside : ndarray of shape (N,), bool
            Whether the streamlines of the bundle are dense there.

        Raises
        ------
        ValueError
            If there is no such bundle, or the shapes differ.

        Examples
        --------
        >>> from dipy_rnn.phantom import brain_world
        >>> world = brain_world(0, shape=(16, 18, 16), voxel_size_mm=3, n_bundles=12)
        >>> directions, inside = world.bundle_directions([3], world.lines[3, :1, 32])
        >>> print(inside)
        [ True]
        """
        points_mm = _checks.as_points(points_mm, "points_mm")
        ids: AnyArray = np.asarray(bundle_ids)
        if ids.shape != (len(points_mm),) or ids.dtype.kind not in "iu":
            raise ValueError(
                f"bundle_ids has the shape {ids.shape} and the type {ids.dtype}; one "
                f"integer for each of {len(points_mm)} points is needed."
            )
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.n_bundles:
            raise ValueError(
                f"bundle_ids holds {ids.min()} to {ids.max()}; numbers from 0 to "
                f"{self.n_bundles - 1} are needed."
            )
        directions, occupancy, _ = self.fields.at(ids, points_mm)
        return directions, occupancy > INSIDE

    def bundle_volumes(
        self, *, end_mm: float = 4.0
    ) -> list[tuple[BoolArray, tuple[BoolArray, BoolArray]]]:
        """Return the voxels of each bundle and of its two ends.

        Parameters
        ----------
        end_mm : float, optional
            Distance from the end points of the streamlines up to which voxels belong to
            an end. Voxels near both ends belong to none.

        Returns
        -------
        volumes : list of B tuples
            The mask of the bundle and a tuple of its two ends: arrays of shape
            (X, Y, Z), bool. They are the arguments of
            :class:`dipy_rnn.evaluation.KnownBundle`.

        Examples
        --------
        >>> from dipy_rnn.evaluation import KnownBundle
        >>> from dipy_rnn.phantom import brain_world
        >>> world = brain_world(0, shape=(16, 18, 16), voxel_size_mm=3, n_bundles=12)
        >>> bundles = [KnownBundle(*volumes) for volumes in world.bundle_volumes()]
        >>> len(bundles) == world.n_bundles
        True
        """
        check_positive("end_mm", end_mm)
        centres_mm = spatial.to_mm(centres_vox(self.shape), self.affine)
        tree = cKDTree(centres_mm)
        volumes = []
        for b in range(self.n_bundles):
            near = voxels_near(self.fields, b, self.affine, self.shape)
            _, inside = self.bundle_directions(np.full(len(near), b), centres_mm[near])
            mask = np.zeros(len(centres_mm), dtype=bool)
            mask[near[inside]] = True
            ends = np.zeros((2, len(centres_mm)), dtype=bool)
            for end, points in zip(ends, (self.lines[b, :, 0], self.lines[b, :, -1])):
                for voxels in tree.query_ball_point(points, end_mm):
                    end[voxels] = True
            ends &= ~ends.all(axis=0)
            first, last = (end.reshape(self.shape) for end in ends)
            volumes.append((mask.reshape(self.shape), (first, last)))
        return volumes
