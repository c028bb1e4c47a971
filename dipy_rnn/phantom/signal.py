"""The fODF and the diffusion-weighted signal of fibre populations on a grid."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dipy_rnn import _checks, sampling
from dipy_rnn._typing import AnyArray, Float32Array, FloatArray
from dipy_rnn.phantom.geometry import check_positive, unit

REMAINDER_DIFFUSIVITY = 0.7e-3  # mm^2/s, isotropic, about that of grey matter
CSF_DIFFUSIVITY = 3.0e-3  # mm^2/s, isotropic, that of water at 37 degrees Celsius


def fodf_of_peaks(
    fractions: AnyArray,
    directions: AnyArray,
    sh_order_max: int,
    *,
    lobe_deg: float,
    noise: float,
    random_seed: int,
) -> Float32Array:
    """Return the fibre orientation distribution of fibre populations.

    Parameters
    ----------
    fractions : ndarray of shape (X, Y, Z, K)
        Volume fraction of each population.
    directions : ndarray of shape (X, Y, Z, K, 3)
        Their unit vectors along the voxel axes.
    sh_order_max, lobe_deg, noise, random_seed
        As for :meth:`dipy_rnn.phantom.Phantom.fodf`.

    Returns
    -------
    sh : ndarray of shape (X, Y, Z, C), float32

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> directions = np.zeros((1, 1, 1, 1, 3)) + [0, 0, 1]
    >>> fodf_of_peaks(np.ones((1, 1, 1, 1)), directions, 4,
    ...               lobe_deg=9.0, noise=0.0, random_seed=0).shape
    (1, 1, 1, 15)
    """
    if sh_order_max not in range(2, 100, 2):
        raise ValueError(
            f"sh_order_max is {sh_order_max}; an even number from 2 to 98 is needed."
        )
    if not (np.isfinite(lobe_deg) and lobe_deg >= 0):
        raise ValueError(f"lobe_deg is {lobe_deg}; 0 or more is needed.")
    if not (np.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise is {noise}; 0 or more is needed.")
    fibres = fractions > 0
    of_fibres = sampling.lobes(
        directions[fibres].astype(np.float64), sh_order_max, lobe_deg=lobe_deg
    )
    sh = np.zeros((*fractions.shape[:3], of_fibres.shape[1]), dtype=np.float32)
    where = np.nonzero(fibres)[:3]
    np.add.at(sh, where, fractions[fibres][:, None] * of_fibres)
    if noise > 0:
        # The mean square of the coefficients of a lobe is the same for each
        # direction.
        of_z = sampling.lobes(np.eye(3)[2:], sh_order_max, lobe_deg=lobe_deg)
        mean_square = np.mean(of_z[0, 1:] ** 2)
        rng = np.random.default_rng(random_seed)
        scale = noise * np.sqrt(mean_square)
        sh[..., 1:] += scale * rng.standard_normal(sh[..., 1:].shape)
    return sh


def simulate_dwi(
    gtab: Any,
    fractions: AnyArray,
    directions: AnyArray,
    isotropic: Sequence[tuple[AnyArray, float]],
    *,
    snr: float | None,
    evals: tuple[float, float, float],
    s0: float,
    random_seed: int,
    dispersion_deg: float = 0.0,
) -> Float32Array:
    """Simulate a diffusion-weighted series of fibre populations and isotropic tissue.

    Parameters
    ----------
    gtab : dipy.core.gradients.GradientTable
        N b-values (s/mm^2) with directions along the voxel axes, or N b-tensors.
    fractions : ndarray of shape (X, Y, Z, K)
        Share of the signal without diffusion weighting of each population.
    directions : ndarray of shape (X, Y, Z, K, 3)
        Their unit vectors along the voxel axes.
    isotropic : sequence of tuples (ndarray of shape (X, Y, Z), float)
        Share of the signal of each isotropic tissue, and its diffusivity in mm^2/s.
    snr, evals, s0, random_seed
        As for :meth:`dipy_rnn.phantom.Phantom.dwi`.
    dispersion_deg : float, optional
        Standard deviation of the directions of a population, in degrees in each of two
        perpendicular planes. Five tensors stand for a population.

    Returns
    -------
    dwi : ndarray of shape (X, Y, Z, N), float32

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from dipy.core.gradients import gradient_table
    >>> gtab = gradient_table(np.array([0, 1000.0]), bvecs=np.eye(3)[:2])
    >>> ones = np.ones((1, 1, 1))
    >>> dwi = simulate_dwi(gtab, ones[..., None], ones[..., None, None] * [0, 1, 0], [],
    ...     snr=None, evals=(1.7e-3, 3e-4, 3e-4), s0=100, random_seed=0)
    >>> print((-np.log(dwi[0, 0, 0] / 100) / 1000 + 0.0).round(4))
    [0.     0.0017]
    """
    # dipy.sims imports dipy.direction, which DIPY 2 may remove.
    from dipy.sims.voxel import add_noise

    if len(evals) != 3 or evals[1] != evals[2]:
        raise ValueError(
            f"evals is {evals}; three diffusivities are needed, the last two equal, "
            "since a fibre has rotational symmetry."
        )
    check_positive("evals", evals)
    check_positive("s0", s0)
    if snr is not None:
        check_positive("snr", snr)
    _checks.check_least("dispersion_deg", dispersion_deg, 0)

    # The tensor D of a fibre is evals[1] I + (evals[0] - evals[1]) v v^T.  The
    # signal is s0 exp(-B : D), with B = b g g^T unless b-tensors are given.
    b_tensors = gtab.btens
    if b_tensors is None:
        b_tensors = np.einsum("n,ni,nj->nij", gtab.bvals, gtab.bvecs, gtab.bvecs)
    traces = np.trace(b_tensors, axis1=1, axis2=2)

    signal = np.zeros((*fractions.shape[:3], len(traces)))
    for share, diffusivity in isotropic:
        signal += s0 * share[..., None] * np.exp(-traces * diffusivity)
    for k in range(fractions.shape[-1]):
        inside = fractions[..., k] > 0
        fibres = _dispersed(directions[inside, k].astype(np.float64), dispersion_deg)
        for along in fibres:
            dyadic = along[:, :, None] * along[:, None, :]
            weighting = np.einsum("vij,nij->vn", dyadic, b_tensors, optimize=True)
            attenuation = evals[1] * traces + (evals[0] - evals[1]) * weighting
            share = s0 / len(fibres) * fractions[inside, k, None]
            signal[inside] += share * np.exp(-attenuation)
    rng = np.random.default_rng(random_seed)
    dwi: Float32Array = add_noise(signal, snr, s0, rng=rng).astype(np.float32)
    return dwi


def _dispersed(directions: FloatArray, dispersion_deg: float) -> list[FloatArray]:
    """Return unit vectors around each direction (V, 3) that stand for a population.

    The vectors are the direction itself and four that are tilted from it. Their
    variance in each of two perpendicular planes is that of the population.
    """
    if dispersion_deg == 0:
        return [directions]
    # Of the five, two are tilted in each plane: 2 / 5 sin^2(tilt) = sin^2(dispersion).
    sine = min(np.sqrt(2.5) * np.sin(np.radians(dispersion_deg)), 1.0)
    helper = np.eye(3)[np.abs(directions).argmin(axis=1)]
    first = unit(np.cross(directions, helper))
    second = np.cross(directions, first)
    cosine = np.sqrt(1 - sine**2)
    return [directions] + [
        cosine * directions + sign * sine * normal
        for normal in (first, second)
        for sign in (-1, 1)
    ]
