"""Tissue maps, and the stopping criteria of anatomically constrained tracking.

White matter streamlines start and end in grey matter, and do not cross cerebrospinal
fluid [1]_. `Tissues` holds the partial volume maps of the three tissues, from DIPY's
``dipy_classify_tissue``, FSL's FAST or MRtrix3's ``5ttgen``. It makes two stopping
criteria: ACT, which applies thresholds, and CMC, which draws at random [2]_.

References
----------
.. [1] Smith RE, Tournier JD, Calamante F, Connelly A. Anatomically-constrained
   tractography: improved diffusion MRI streamlines tractography through effective use
   of anatomical information. NeuroImage 62(3), 2012.
.. [2] Girard G, Whittingstall K, Deriche R, Descoteaux M. Towards quantitative
   connectivity analysis: reducing tractography biases. NeuroImage 98, 2014.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from dipy_rnn import _checks
from dipy_rnn._typing import AnyArray, ArrayLike, Float32Array, FloatArray
from dipy_rnn.stopping.criteria import ActStoppingCriterion, CmcStoppingCriterion

# Partial volumes may have rounding errors: files store them as bytes or half precision.
_TOLERANCE = 0.02
# A voxel in which the partial volumes add up to less is background.
_MIN_SUM = 0.01


@dataclass(frozen=True, eq=False, init=False)
class Tissues:
    """Partial volume maps of white matter, grey matter and cerebrospinal fluid.

    Parameters
    ----------
    wm, gm, csf : array_like of shape (X, Y, Z)
        Partial volumes from 0 to 1. In each voxel the three add up to 1 at most. Values
        that are below 0 or above 1 by up to 0.02 are clipped. Voxels in which they add
        up to less than 0.01 are background, and are set to 0. (In the background of
        ``dipy_classify_tissue`` they are about 1e-11.) The maps are stored as float32,
        read-only.

    Raises
    ------
    ValueError
        If the shapes differ, if a map does not contain partial volumes, if they add up
        to more than 1.06 in a voxel, or if all voxels are background.

    Examples
    --------
    >>> wm, gm = np.array([[[1.0]], [[0.2]]]), np.array([[[0]], [[0.8]]])
    >>> tissues = Tissues(wm, gm, 0 * wm)
    >>> tissues.act_criterion().check_point(np.array([1.0, 0, 0])).name
    'ENDPOINT'
    """

    wm: Float32Array
    gm: Float32Array
    csf: Float32Array

    def __init__(self, wm: ArrayLike, gm: ArrayLike, csf: ArrayLike) -> None:
        given = {"wm": wm, "gm": gm, "csf": csf}
        maps = {name: _checks.check_numbers(each, name) for name, each in given.items()}
        shapes = [volumes.shape for volumes in maps.values()]
        if len(set(shapes)) > 1 or len(shapes[0]) != 3 or 0 in shapes[0]:
            raise ValueError(
                "wm, gm and csf have the shapes "
                f"{', '.join(map(str, shapes))}; three maps of one shape (X, Y, Z) "
                "with at least one voxel are needed."
            )
        for name, volumes in maps.items():
            maps[name] = _check_partial_volumes(volumes, name)
        total = maps["wm"] + maps["gm"] + maps["csf"]
        _check_sum(total, "wm, gm and csf")
        for name, volumes in maps.items():
            volumes[total < _MIN_SUM] = 0
            volumes.setflags(write=False)
            object.__setattr__(self, name, volumes)

    @classmethod
    def from_5tt(cls, image: ArrayLike, *, name: str = "image") -> Self:
        """Make tissues from a five-tissue-type (5TT) image of MRtrix3's ``5ttgen``.

        Parameters
        ----------
        image : array_like of shape (X, Y, Z, 5)
            Partial volumes of cortical grey matter, sub-cortical grey matter, white
            matter, cerebrospinal fluid and pathological tissue.
        name : str, optional
            Name of the image in error messages.

        Returns
        -------
        tissues : Tissues
            The two kinds of grey matter are added. Pathological tissue is added to
            white matter, so that streamlines may cross a lesion. The anatomy of a
            lesion is not known.

        Raises
        ------
        ValueError
            If the image has another shape, or as for :class:`Tissues`.

        Examples
        --------
        >>> tissues = Tissues.from_5tt([[[[0.25, 0.125, 0.5, 0.0, 0.125]]]])
        >>> print(tissues.wm, tissues.gm)
        [[[0.625]]] [[[0.375]]]
        """
        cortical, subcortical, wm, csf, pathological = _split(image, (5,), name)
        # Rounding may make the sum of two partial volumes larger than 1.
        gm = np.minimum(cortical + subcortical, 1)
        return cls(np.minimum(wm + pathological, 1), gm, csf)

    @classmethod
    def from_image(cls, image: ArrayLike, *, name: str = "image") -> Self:
        """Make tissues from an image with three or five tissue types.

        Parameters
        ----------
        image : array_like of shape (X, Y, Z, 3) or (X, Y, Z, 5)
            Three volumes: cerebrospinal fluid, grey matter, white matter. This is the
            order of ``dipy_classify_tissue --method hmrf --nclass 3`` and of FSL's
            FAST for T1-weighted images (from dark to bright). Five volumes: see
            :meth:`from_5tt`.
        name : str, optional
            Name of the image in error messages.

        Returns
        -------
        tissues : Tissues

        Raises
        ------
        ValueError
            If the image has another shape, or as for :class:`Tissues`.

        Examples
        --------
        >>> tissues = Tissues.from_image([[[[0.1, 0.3, 0.6]]]])
        >>> print(tissues.csf, tissues.gm, tissues.wm)
        [[[0.1]]] [[[0.3]]] [[[0.6]]]
        """
        image = _checks.check_numbers(image, name)
        if image.shape[3:] == (5,):
            return cls.from_5tt(image, name=name)
        csf, gm, wm = _split(image, (3, 5), name)
        return cls(wm, gm, csf)

    def act_criterion(self) -> ActStoppingCriterion:
        """Make the criterion of anatomically constrained tracking (ACT).

        Returns
        -------
        criterion : dipy_rnn.stopping.ActStoppingCriterion
            A point is a valid end point if the interpolated (trilinear) partial volume
            of grey matter is above 0.5. It is invalid if that of cerebrospinal fluid
            is above 0.5. Background counts as grey matter, as in DIPY's ``from_pve``
            (:class:`~dipy.tracking.stopping_criterion.AnatomicalStoppingCriterion`). A
            streamline that leaves the brain, for example through the brain stem,
            therefore has a valid end.

        Examples
        --------
        >>> wm = np.array([[[1.0]], [[0]]])
        >>> criterion = Tissues(wm, 0 * wm, 0 * wm).act_criterion()
        >>> [criterion.check_point(np.array([x, 0, 0])).name for x in (0.5, 0.6)]
        ['TRACKPOINT', 'ENDPOINT']
        """
        criterion: ActStoppingCriterion = ActStoppingCriterion.from_pve(
            *self._in_double()
        )
        return criterion

    def cmc_criterion(
        self, step_mm: float, voxel_sizes_mm: Sequence[float] | FloatArray
    ) -> CmcStoppingCriterion:
        """Make the continuous map criterion (CMC).

        Parameters
        ----------
        step_mm : float
            Step size of the tracker in mm.
        voxel_sizes_mm : sequence of 3 floats
            Voxel sizes in mm. The criterion uses the ratio of the step to their mean.

        Returns
        -------
        criterion : dipy_rnn.stopping.CmcStoppingCriterion
            At each point it draws at random whether tracking continues. The larger the
            partial volumes of grey matter and cerebrospinal fluid are, the more likely
            tracking ends. The end is more likely valid if there is more grey matter,
            and more likely invalid if there is more fluid. Background counts as grey
            matter, as for ACT.

        Examples
        --------
        >>> wm = np.array([[[1.0]], [[0]]])
        >>> criterion = Tissues(wm, 0 * wm, 0 * wm).cmc_criterion(0.5, (2, 2, 2))
        >>> [criterion.check_point(np.array([x, 0, 0])).name for x in (0.0, 1.0)]
        ['TRACKPOINT', 'ENDPOINT']
        """
        criterion: CmcStoppingCriterion = CmcStoppingCriterion.from_pve(
            *self._in_double(),
            step_size=step_mm,
            average_voxel_size=float(np.mean(voxel_sizes_mm)),
        )
        return criterion

    def _in_double(self) -> Iterator[FloatArray]:
        """Yield the three maps as float64, for DIPY's ``from_pve``."""
        return (volumes.astype(np.float64) for volumes in (self.wm, self.gm, self.csf))


def _split(image: ArrayLike, allowed: tuple[int, ...], name: str) -> Float32Array:
    """Check an image and return its volumes, (volumes, X, Y, Z)."""
    image = _checks.check_numbers(image, name)
    if image.ndim != 4 or image.shape[3] not in allowed or not image.size:
        meaning = {3: "3 volumes (csf, gm, wm)", 5: "5 volumes (MRtrix3's 5TT)"}
        raise ValueError(
            f"{name} has the shape {image.shape}; an image of shape (X, Y, Z, volumes) "
            "with at least one voxel is needed, with "
            f"{' or '.join(meaning[n] for n in allowed)}."
        )
    volumes = _check_partial_volumes(image, name)
    _check_sum(volumes.sum(axis=3), name)
    return np.moveaxis(volumes, 3, 0)


def _check_sum(total: Float32Array, name: str) -> None:
    """Raise ValueError if the sum of the partial volumes of a voxel is invalid."""
    if total.max() < _MIN_SUM:
        raise ValueError(
            f"{name}: partial volumes are zero everywhere; give maps of tissue."
        )
    if total.max() > 1 + 3 * _TOLERANCE:
        raise ValueError(
            f"{name}: partial volumes add up to {total.max():.3g} in a voxel; they "
            "must add up to 1 at most, so masks must not overlap."
        )


def _check_partial_volumes(volumes: AnyArray, name: str) -> Float32Array:
    """Return partial volumes clipped to 0 to 1, as float32 in C order."""
    if not np.isfinite(volumes).all():
        raise ValueError(
            f"{name} contains NaN or infinity; set these to zero with numpy.nan_to_num."
        )
    least, most = (float(each) for each in (volumes.min(), volumes.max()))
    if most > 1 + _TOLERANCE or least < -_TOLERANCE:
        raise ValueError(
            f"{name} contains values from {least:.3g} to {most:.3g}; partial volumes "
            "from 0 to 1 are needed: divide percentages by 100, make a map of each "
            "label, and resample with linear interpolation."
        )
    checked: Float32Array = np.clip(volumes, 0, 1, dtype=np.float32, order="C")
    return checked
