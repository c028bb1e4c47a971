"""Bundles and free water, sampled on a voxel grid.

A `Phantom` gives the true streamlines (in mm), and three volumes: the true peaks, an
fODF as spherical harmonics, and a diffusion-weighted series.  Directions in the volumes
are along the voxel axes, as everywhere in DIPY.

Bundles and balls are defined in mm (RAS), without a grid.  `Phantom.on_grid` samples
the same bundles and balls on any other grid: oblique, flipped or anisotropic.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from dipy_rnn import _checks, spatial
from dipy_rnn._typing import BoolArray, Float32Array, FloatArray, IntArray
from dipy_rnn.phantom.bundles import Ball, Bundle
from dipy_rnn.phantom.geometry import unit
from dipy_rnn.phantom.signal import (
    CSF_DIFFUSIVITY,
    REMAINDER_DIFFUSIVITY,
    fodf_of_peaks,
    simulate_dwi,
)

# Eight points of a voxel, in voxel coordinates from its centre.
SUBVOXELS: FloatArray = np.array(list(product((-0.25, 0.25), repeat=3)))


def centres_vox(shape: tuple[int, int, int]) -> FloatArray:
    """Return the voxel coordinates of the centres of all voxels: (V, 3)."""
    return np.indices(shape, dtype=np.float64).reshape(3, -1).T


def subvoxels_mm(voxels: FloatArray, affine: FloatArray) -> FloatArray:
    """Return eight points in mm of each of n voxels: (8 n, 3)."""
    points_vox = voxels[:, None] + SUBVOXELS
    return spatial.to_mm(points_vox.reshape(-1, 3), affine)


class Phantom:
    """Bundles and free water on a voxel grid.

    Parameters
    ----------
    bundles : sequence of Bundle
        B bundles, at least one.
    affine : ndarray of shape (4, 4)
        Voxel to mm (RAS), with up to 0.1 degrees of shear; voxel i is centred on
        coordinate i.
    shape : tuple of 3 ints
        Number of voxels along each axis, (X, Y, Z).
    csf : sequence of Ball, optional
        Free water.  It replaces fibres and grey matter in proportion to their
        fractions.

    Raises
    ------
    ValueError
        If there is no bundle, or if the affine or the shape is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from dipy_rnn.phantom import Bundle, Phantom
    >>> bundle = Bundle(np.array([[0.0, 4, 4], [8, 4, 4]]), 3.0)
    >>> phantom = Phantom([bundle], np.diag([2.0, 2, 2, 1]), (5, 5, 5))
    >>> fractions, directions = phantom.peaks()
    >>> print(fractions[2, 2, 2], directions[2, 2, 2])
    [1.] [[1. 0. 0.]]
    """

    def __init__(
        self,
        bundles: Sequence[Bundle],
        affine: FloatArray,
        shape: tuple[int, int, int],
        *,
        csf: Sequence[Ball] = (),
    ) -> None:
        self.bundles = tuple(bundles)
        self.csf = tuple(csf)
        if not self.bundles:
            raise ValueError("bundles is empty; at least one bundle is needed.")
        self.affine = spatial.check_affine(affine).copy()
        self.shape = _checks.check_shape(shape)

    def on_grid(self, affine: FloatArray, shape: tuple[int, int, int]) -> "Phantom":
        """Return the same bundles and balls on another grid.

        Parameters
        ----------
        affine : ndarray of shape (4, 4)
            Voxel to mm (RAS).
        shape : tuple of 3 ints
            Number of voxels along each axis.

        Returns
        -------
        Phantom

        Examples
        --------
        >>> import numpy as np
        >>> from dipy_rnn.phantom import circle_phantom
        >>> circle = circle_phantom()
        >>> circle.on_grid(np.diag([-1.0, 1, 3, 1]), (10, 10, 4)).shape
        (10, 10, 4)
        """
        return Phantom(self.bundles, affine, shape, csf=self.csf)

    def _near(
        self, part: Bundle | Ball, voxels: FloatArray
    ) -> tuple[IntArray, FloatArray]:
        """Return the voxels that a bundle or ball may reach; their subvoxels in mm."""
        margin_mm = float(np.linalg.norm(spatial.voxel_sizes(self.affine))) / 2
        centres_mm = spatial.to_mm(voxels, self.affine)
        near = np.flatnonzero(part.is_near(centres_mm, margin_mm))
        return near, subvoxels_mm(voxels[near], self.affine)

    def _csf_of_subvoxels(self) -> FloatArray:
        """Return the fraction of free water of each subvoxel: (voxels, 8)."""
        voxels = centres_vox(self.shape)
        csf = np.zeros((len(voxels), len(SUBVOXELS)))
        for ball in self.csf:
            near, points_mm = self._near(ball, voxels)
            water = ball.fraction(points_mm).reshape(-1, len(SUBVOXELS))
            csf[near] = np.maximum(csf[near], water)
        return csf

    def peaks(self) -> tuple[Float32Array, Float32Array]:
        """Return the fraction and the direction of each bundle in each voxel.

        Returns
        -------
        fractions : ndarray of shape (X, Y, Z, B), float32
            Volume fractions, averaged over eight points of the voxel.  If the fractions
            of all bundles and of free water add up to more than 1, those of the bundles
            are scaled down.
        directions : ndarray of shape (X, Y, Z, B, 3), float32
            Mean directions of the fibres: unit vectors along the voxel axes, zero
            where the fraction is zero.

        Examples
        --------
        >>> from dipy_rnn.phantom import crossing_phantom
        >>> fractions, _ = crossing_phantom(90, shape=(15, 15, 9)).peaks()
        >>> print(fractions[7, 7, 4])
        [0.5 0.5]
        """
        voxels, csf = centres_vox(self.shape), self._csf_of_subvoxels()
        axes = spatial.axes(self.affine)
        fractions = np.zeros((len(voxels), len(self.bundles)))
        directions = np.zeros((*fractions.shape, 3), dtype=np.float32)
        for b, bundle in enumerate(self.bundles):
            near, points_mm = self._near(bundle, voxels)
            along, fraction = bundle.directions(points_mm)
            fraction = fraction.reshape(-1, len(SUBVOXELS)) * (1 - csf[near])
            # All fibres of a bundle run the same way, so their vectors can be added.
            along = along.reshape(*fraction.shape, 3)
            mean = np.einsum("np,npi->ni", fraction, along)
            fractions[near, b] = bundle.weight * fraction.mean(axis=1)
            directions[near, b] = unit(mean) @ axes
        available = 1 - csf.mean(axis=1)
        total = fractions.sum(axis=1)
        overfull = total > available
        fractions[overfull] *= (available[overfull] / total[overfull])[:, None]
        return (
            fractions.astype(np.float32).reshape(*self.shape, -1),
            directions.reshape(*self.shape, -1, 3),
        )

    def csf_fraction(self) -> Float32Array:
        """Return the volume fraction of free water.

        Returns
        -------
        fraction : ndarray of shape (X, Y, Z), float32
            Averaged over eight points of the voxel.

        Examples
        --------
        >>> import numpy as np
        >>> from dipy_rnn.phantom import Ball, Bundle, Phantom
        >>> bundle = Bundle(np.array([[0.0, 4, 4], [8, 4, 4]]), 3.0)
        >>> ball = Ball((4, 4, 4), 3.0)
        >>> phantom = Phantom([bundle], np.eye(4), (9, 9, 9), csf=[ball])
        >>> print(phantom.csf_fraction()[4, 4, [0, 4]], phantom.peaks()[0][4, 4, 4])
        [0. 1.] [0.]
        """
        fraction: FloatArray = self._csf_of_subvoxels().mean(axis=1)
        return fraction.astype(np.float32).reshape(self.shape)

    def mask(self) -> BoolArray:
        """Return the voxels of which more than half is fibres.

        Returns
        -------
        mask : ndarray of shape (X, Y, Z), bool

        Notes
        -----
        A bundle with a `weight` of 0.5 or less is in the mask only where other bundles
        overlap it.

        Examples
        --------
        >>> from dipy_rnn.phantom import crossing_phantom
        >>> mask = crossing_phantom(90, shape=(15, 15, 9)).mask()
        >>> print(mask[7, 7, 4], mask[0, 0, 0])
        True False
        """
        fractions, _ = self.peaks()
        mask: BoolArray = fractions.sum(axis=-1) > 0.5
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

        Each fibre is a lobe (`dipy_rnn.sampling.lobes`).

        Parameters
        ----------
        sh_order_max : int, optional
            Highest order: an even number from 2 to 98 (4950 coefficients a voxel).
        lobe_deg : float, optional
            Width sigma of the lobe of a fibre in degrees, before truncation to
            `sh_order_max`.
        noise : float, optional
            Standard deviation of Gaussian noise on the coefficients of l >= 2, as a
            multiple of their root mean square in a voxel filled by one bundle.
        random_seed : int, optional
            Seed of the noise.

        Returns
        -------
        sh : ndarray of shape (X, Y, Z, C), float32
            Coefficients in the default basis of DIPY 1 (``descoteaux07`` [1]_,
            legacy), along the voxel axes.  The integral over the sphere is the total
            fraction of fibres.

        Raises
        ------
        ValueError
            If an argument is out of range.

        References
        ----------
        .. [1] Descoteaux M, Angelino E, Fitzgibbons S, Deriche R. Regularized,
           fast, and robust analytical Q-ball imaging. Magnetic Resonance in
           Medicine 58(3), 2007.

        Examples
        --------
        >>> from dipy_rnn.phantom import crossing_phantom
        >>> crossing_phantom(90, shape=(15, 15, 9)).fodf(6).shape
        (15, 15, 9, 28)
        """
        fractions, directions = self.peaks()
        return fodf_of_peaks(
            fractions,
            directions,
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
        random_seed: int = 0,
    ) -> Float32Array:
        """Simulate a diffusion-weighted series, with one tensor per bundle and voxel.

        Without noise this is `dipy.sims.voxel.multi_tensor` in every voxel.  There are
        two more tensors, both isotropic: free water (3.0e-3 mm^2/s), and grey matter
        (0.7e-3 mm^2/s), which fills the rest of the voxel.

        Parameters
        ----------
        gtab : dipy.core.gradients.GradientTable
            N b-values (s/mm^2) with directions along the voxel axes, or N b-tensors.
        snr : float, optional
            Rician noise: `s0` divided by the standard deviation of the real and of the
            imaginary part.  None for no noise.
        evals : tuple of 3 floats, optional
            Diffusivities of a fibre in mm^2/s: along it, and the two across it, which
            must be equal.
        s0 : float, optional
            Signal without diffusion weighting.
        random_seed : int, optional
            Seed of the noise.

        Returns
        -------
        dwi : ndarray of shape (X, Y, Z, N), float32

        Raises
        ------
        ValueError
            If `evals`, `s0` or `snr` is invalid.

        Examples
        --------
        >>> import numpy as np
        >>> from dipy.core.gradients import gradient_table
        >>> from dipy_rnn.phantom import crossing_phantom
        >>> gtab = gradient_table(np.array([0, 1000.0]), bvecs=np.eye(3)[:2])
        >>> crossing_phantom(90, shape=(15, 15, 9)).dwi(gtab, snr=20).shape
        (15, 15, 9, 2)
        """
        fractions, directions = self.peaks()
        csf = self.csf_fraction().astype(np.float64)
        rest = np.maximum(1 - csf - fractions.sum(axis=-1, dtype=np.float64), 0)
        return simulate_dwi(
            gtab,
            fractions,
            directions,
            [(csf, CSF_DIFFUSIVITY), (rest, REMAINDER_DIFFUSIVITY)],
            snr=snr,
            evals=evals,
            s0=s0,
            random_seed=random_seed,
        )

    def streamlines(
        self, n_per_bundle: int, *, step_mm: float = 0.5, random_seed: int = 0
    ) -> tuple[list[FloatArray], IntArray]:
        """Draw true streamlines, bundle after bundle.

        Parameters
        ----------
        n_per_bundle : int
            Number of streamlines of each bundle.
        step_mm : float, optional
            Distance between neighbouring points in mm.
        random_seed : int, optional
            Seed of their positions in the cross-section.

        Returns
        -------
        streamlines : list of ndarrays of shape (M, 3)
            In mm (RAS), float64, from end to end of the bundle, even if the grid is
            smaller.
        bundle_ids : ndarray of ints, one per streamline
            Index of the bundle in `bundles`.

        Examples
        --------
        >>> from dipy_rnn.phantom import crossing_phantom
        >>> streamlines, bundle_ids = crossing_phantom().streamlines(2)
        >>> print(len(streamlines), bundle_ids)
        4 [0 0 1 1]
        """
        n_per_bundle = _checks.check_count(n_per_bundle, "n_per_bundle")
        rng = np.random.default_rng(random_seed)
        streamlines: list[FloatArray] = []
        for bundle in self.bundles:
            streamlines += bundle.streamlines(n_per_bundle, step_mm=step_mm, rng=rng)
        return streamlines, np.repeat(np.arange(len(self.bundles)), n_per_bundle)
