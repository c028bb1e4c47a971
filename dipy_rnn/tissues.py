"""Tissue maps: criteria for anatomically constrained tracking, and where to start.

Streamlines of white matter begin and end in grey matter, and none goes through
cerebrospinal fluid [1]_. `Tissues` holds the partial volumes of the three, from
DIPY's ``dipy_classify_tissue``, FSL's FAST or MRtrix3's ``5ttgen``, and makes the
stopping criteria of them: ACT, by thresholds, and CMC, which draws at random [2]_.
:func:`interface_seeds` puts seeds on the border between white and grey matter.

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
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, maximum_filter, minimum_filter

from dipy_rnn import interpolate, spaces
from dipy_rnn._typing import AnyArray, ArrayLike, Float32Array, FloatArray
from dipy_rnn.stopping import ActStoppingCriterion, CmcStoppingCriterion

# Shares come as integers of a byte, or from files of half precision.
_TOLERANCE = 0.02
_LEAST_SHARE = 0.01
# Below this sum of the shares a point is outside of the head, as for MRtrix3's ACT.
_LEAST_TISSUE = 0.5
_NEIGHBOURHOOD = np.ones((3, 3, 3), dtype=bool)
# By that much more white matter a seed is on its side, whatever is rounded.
_MARGIN = 1e-6
_N_BISECTIONS = 20
_BATCH = 100_000  # line segments at a time
_MOST_EMPTY_BATCHES = 20


@dataclass(frozen=True, eq=False, init=False)
class Tissues:
    """Partial volumes of white matter, grey matter and cerebrospinal fluid.

    Parameters
    ----------
    wm, gm, csf : array_like of shape (X, Y, Z)
        Shares of a voxel from 0 to 1 that add up to 1 at most. What is below 0 or
        above 1 by up to 0.02 is cut off. Where they add up to less than 0.01 is
        background, which becomes 0: ``dipy_classify_tissue`` leaves 1e-11 there.
        Kept as float32, read-only.

    Raises
    ------
    ValueError
        If the shapes differ, a map holds something else than shares, or there is no
        tissue at all.

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
        maps = {name: spaces.check_numbers(each, name) for name, each in given.items()}
        shapes = [shares.shape for shares in maps.values()]
        if len(set(shapes)) > 1 or len(shapes[0]) != 3 or 0 in shapes[0]:
            raise ValueError(
                "wm, gm and csf have the shapes "
                f"{', '.join(map(str, shapes))}; three maps of one shape (X, Y, Z) "
                "are needed, no axis empty."
            )
        for name, shares in maps.items():
            maps[name] = _checked_shares(shares, name)
        together = maps["wm"] + maps["gm"] + maps["csf"]
        _check_sum(together, "wm, gm and csf")
        for name, shares in maps.items():
            shares[together < _LEAST_SHARE] = 0
            shares.setflags(write=False)
            object.__setattr__(self, name, shares)

    @classmethod
    def from_5tt(cls, image: ArrayLike, *, name: str = "image") -> Self:
        """Take the five tissue types of MRtrix3's ``5ttgen``.

        Parameters
        ----------
        image : array_like of shape (X, Y, Z, 5)
            Shares of cortical grey matter, sub-cortical grey matter, white matter,
            cerebrospinal fluid and pathological tissue.
        name : str, optional
            How errors call it.

        Returns
        -------
        tissues : Tissues
            Both kinds of grey matter as one. Pathological tissue counts as white
            matter: fibres go through a lesion, whose anatomy nobody knows, and
            neither criterion may end or exclude them there.

        Raises
        ------
        ValueError
            If it has another shape, or see :class:`Tissues`.

        Examples
        --------
        >>> tissues = Tissues.from_5tt([[[[0.25, 0.125, 0.5, 0.0, 0.125]]]])
        >>> print(tissues.wm, tissues.gm)
        [[[0.625]]] [[[0.375]]]
        """
        cortical, subcortical, wm, csf, pathological = _volumes(image, (5,), name)
        # Shares of one voxel, but for rounding.
        gm = np.minimum(cortical + subcortical, 1)
        return cls(np.minimum(wm + pathological, 1), gm, csf)

    @classmethod
    def from_image(cls, image: ArrayLike, *, name: str = "image") -> Self:
        """Take an image of three or of five tissue types.

        Parameters
        ----------
        image : array_like of shape (X, Y, Z, 3) or (X, Y, Z, 5)
            Three: cerebrospinal fluid, grey matter, white matter, which is the order
            of ``dipy_classify_tissue --method hmrf --nclass 3`` and of FSL's FAST on
            T1-weighted images, from dark to bright. Five: see :meth:`from_5tt`.
        name : str, optional
            How errors call it.

        Returns
        -------
        tissues : Tissues

        Raises
        ------
        ValueError
            If it has another shape, or see :class:`Tissues`.

        Examples
        --------
        >>> tissues = Tissues.from_image([[[[0.1, 0.3, 0.6]]]])
        >>> print(tissues.csf, tissues.gm, tissues.wm)
        [[[0.1]]] [[[0.3]]] [[[0.6]]]
        """
        image = spaces.check_numbers(image, name)
        if image.shape[3:] == (5,):
            return cls.from_5tt(image, name=name)
        csf, gm, wm = _volumes(image, (3, 5), name)
        return cls(wm, gm, csf)

    def act_criterion(self) -> ActStoppingCriterion:
        """Make the criterion of anatomically constrained tracking (ACT).

        Returns
        -------
        criterion : dipy_rnn.stopping.ActStoppingCriterion
            A streamline ends well where the trilinear share of grey matter is above a
            half, and has come where it must not be where that of cerebrospinal fluid
            is. Voxels whose three shares are all zero count as grey matter, so that
            streamlines that leave the head, through the brain stem for one, end well
            (``from_pve`` of DIPY's
            :class:`~dipy.tracking.stopping_criterion.AnatomicalStoppingCriterion`).

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
            The tracker's step.
        voxel_sizes_mm : sequence of 3 floats
            Their mean is what the step is held against.

        Returns
        -------
        criterion : dipy_rnn.stopping.CmcStoppingCriterion
            Tracking goes on by chance, the more likely the smaller the shares of
            grey matter and of fluid are together, and else ends well or badly in
            proportion to them. The background counts as grey matter, as for ACT.

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
        return (shares.astype(np.float64) for shares in (self.wm, self.gm, self.csf))


def _volumes(image: ArrayLike, allowed: tuple[int, ...], name: str) -> Float32Array:
    """Return the shares of each volume, (volumes, X, Y, Z), checked by their name."""
    image = spaces.check_numbers(image, name)
    if image.ndim != 4 or image.shape[3] not in allowed or not image.size:
        meaning = {3: "3 (csf, gm, wm)", 5: "5 (MRtrix3's 5TT)"}
        raise ValueError(
            f"{name} has the shape {image.shape}; an image (X, Y, Z, volumes), no axis "
            "empty, is needed whose volumes are "
            f"{' or '.join(meaning[n] for n in allowed)}."
        )
    shares = _checked_shares(image, name)
    _check_sum(shares.sum(axis=3), name)
    return np.moveaxis(shares, 3, 0)


def _check_sum(together: Float32Array, name: str) -> None:
    """Refuse what the shares of voxels cannot add up to."""
    if together.max() < _LEAST_SHARE:
        raise ValueError(f"{name}: shares are zero everywhere; give maps of tissue.")
    if together.max() > 1 + 3 * _TOLERANCE:
        raise ValueError(
            f"{name}: shares add up to {together.max():.3g} in a voxel; those of one "
            "voxel are needed, no masks that overlap."
        )


def _checked_shares(shares: AnyArray, name: str) -> Float32Array:
    if not np.isfinite(shares).all():
        raise ValueError(
            f"{name} holds NaN or infinity; set those to zero with numpy.nan_to_num."
        )
    least, most = (float(each) for each in (shares.min(), shares.max()))
    if most > 1 + _TOLERANCE or least < -_TOLERANCE:
        raise ValueError(
            f"{name} holds values from {least:.3g} to {most:.3g}; shares from 0 to 1 "
            "are needed: divide percent by 100, take one label at a time, and resample "
            "with linear interpolation."
        )
    checked: Float32Array = np.clip(shares, 0, 1, dtype=np.float32, order="C")
    return checked


def interface_seeds(
    tissues: Tissues,
    affine: ArrayLike,
    n_seeds: int,
    *,
    mask: ArrayLike | None = None,
    random_seed: int = 0,
) -> FloatArray:
    """Place seeds at random on the interface of grey and white matter.

    Parameters
    ----------
    tissues : Tissues
    affine : array_like of shape (4, 4)
        Voxel to mm, without shear.
    n_seeds : int
    mask : array_like of shape (X, Y, Z), optional
        Only on the part of the interface that lies in voxels where it is above 0.
    random_seed : int, optional
        The same one, the same seeds.

    Returns
    -------
    seeds_mm : ndarray of shape (n_seeds, 3)

    Raises
    ------
    ValueError
        If an argument is not as said, or no interface is found.

    Notes
    -----
    The interface is where the trilinear shares of grey and white matter are equal,
    there is as much of either as of fluid at least, and the three make up half of the
    volume. Sub-cortical grey matter is grey matter here, as it is for MRtrix3's
    ``5tt2gmwmi`` and ``-seed_gmwmi``: fibres end in the thalamus, too, and the maps of
    three tissues do not tell the two apart. A seed lies on the side of white matter,
    by about a millionth of a voxel.

    Seeds are spread evenly over the area of the interface. They are its crossings with
    line segments, as long as a voxel's shortest side, that start anywhere and point
    anywhere with equal chance: how many of them cross a piece of a surface depends on
    its area alone, not on its place or on how it is turned [1]_. The crossing on
    such a segment is found by bisection. Within a voxel of the image's border there
    are fewer, as none comes from outside.

    References
    ----------
    .. [1] Santalo LA. Integral geometry and geometric probability. Addison-Wesley,
       1976, chapter 14.

    Examples
    --------
    >>> wm = np.zeros((6, 5, 5))
    >>> wm[:3] = 1
    >>> tissues = Tissues(wm, 1 - wm, 0 * wm)
    >>> seeds_mm = interface_seeds(tissues, np.diag([2.0, 2, 2, 1]), 100)
    >>> print(seeds_mm.shape, np.abs(seeds_mm[:, 0] - 5).max() < 1e-5)
    (100, 3) True
    """
    affine = spaces.check_affine(affine)
    n_seeds = spaces.check_count(n_seeds, "n_seeds", 1)
    random_seed = spaces.check_count(random_seed, "random_seed")
    where = np.ones(tissues.wm.shape, dtype=bool)
    if mask is not None:
        where = spaces.check_numbers(mask, "mask") > 0
        if where.shape != tissues.wm.shape:
            raise ValueError(
                f"mask has the shape {where.shape} and the tissues "
                f"{tissues.wm.shape}; resample one onto the other's grid."
            )
    maps = np.stack([tissues.wm, tissues.gm, tissues.csf], axis=-1)
    more_grey = tissues.gm - tissues.wm
    touching = where & (minimum_filter(more_grey, 3, mode="nearest") < 0)
    touching &= maximum_filter(more_grey, 3, mode="nearest") > 0
    # A segment is no longer than a voxel, so it starts next to where it crosses.
    starts = np.argwhere(binary_dilation(touching, _NEIGHBOURHOOD))
    length_mm = spaces.voxel_sizes(affine).min()
    rng = np.random.default_rng(random_seed)
    found: list[FloatArray] = []
    n_found = 0
    while n_found < n_seeds:
        if not len(starts) or (not n_found and len(found) == _MOST_EMPTY_BATCHES):
            raise ValueError(
                "there is no interface of grey and white matter"
                f"{'' if mask is None else ' inside the mask'}; look at the maps, and "
                "whether they are in the right order."
            )
        one, other = _segments(starts, length_mm, affine, rng)
        crossings = _crossings(maps, one, other)
        crossings = crossings[where[*np.floor(crossings + 0.5).astype(int).T]]
        found.append(crossings)
        n_found += len(crossings)
    return spaces.to_mm(np.concatenate(found)[:n_seeds], affine)


def _segments(
    starts: NDArray[np.intp],
    length_mm: float,
    affine: FloatArray,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """Draw line segments (N, 3) that start in voxels and point anywhere."""
    voxels = starts[rng.integers(len(starts), size=_BATCH)]
    one = voxels + rng.uniform(-0.5, 0.5, voxels.shape)
    segments_mm = rng.standard_normal(one.shape)
    segments_mm *= length_mm / np.linalg.norm(segments_mm, axis=1, keepdims=True)
    other = spaces.to_voxels(spaces.to_mm(one, affine) + segments_mm, affine)
    return one, other


def _crossings(maps: Float32Array, one: FloatArray, other: FloatArray) -> FloatArray:
    """Return where segments in voxels cross the interface, on the white side."""
    excess, other_excess = _excess(maps, one), _excess(maps, other)
    forth = (excess > _MARGIN) & (other_excess < 0)
    back = (excess < 0) & (other_excess > _MARGIN)
    white = np.concatenate([one[forth], other[back]])
    rest = np.concatenate([other[forth], one[back]])
    for _ in range(_N_BISECTIONS):
        middle = (white + rest) / 2
        is_white = _excess(maps, middle) > _MARGIN
        white[is_white], rest[~is_white] = middle[is_white], middle[~is_white]
    wm, gm, csf = interpolate.sample(maps, white)[0].T
    crossings: FloatArray = white[(csf <= gm) & (wm + gm + csf >= _LEAST_TISSUE)]
    return crossings


def _excess(maps: Float32Array, points_vox: FloatArray) -> Float32Array:
    """Return how much more white than grey matter there is; 0 outside."""
    wm, gm, _ = interpolate.sample(maps, points_vox)[0].T
    excess: Float32Array = wm - gm
    return excess
