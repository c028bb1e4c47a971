"""Checking whether axes of the diffusion gradients are flipped or swapped.

If an axis of the gradients is flipped, or two are swapped, fibre directions are wrong
and streamlines soon leave the white matter. So the same seeds are tracked with each
possible order and sign of the axes: with the correct one, streamlines are longest [1]_.
There are 24 cases, because a change of the sign of all gradients has no effect.

Coefficients that are read in a wrong basis, or along wrong axes, look the same as wrong
gradients. So the basis is tested first, by the negative values of the fODF, and the
cases are also tracked along the other axes (voxel or scanner), unless the file itself
tells its basis. If an option explains the lengths, the verdict names it and does not
blame the gradients alone.

References
----------
.. [1] Jeurissen B, Leemans A, Sijbers J. Automated correction of improperly rotated
   diffusion gradient orientations in diffusion weighted MRI. Medical Image Analysis
   18(7), 2014.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from dipy_rnn import _checks
from dipy_rnn._typing import AnyPath, ArrayLike, FloatArray
from dipy_rnn.gradient_check.cases import (
    AXIS_CASES,
    GIVEN,
    flags_of,
    other_frame,
    reoriented,
    reread,
    same_case,
)
from dipy_rnn.gradient_check.result import GradientCheck, is_clearly_shorter
from dipy_rnn.model import Model, load_model
from dipy_rnn.sampling import (
    PEAKS,
    SH_FRAMES,
    FeatureVolume,
    SHFormat,
    better_basis,
    is_clear_basis,
    negative_shares,
    rotate_all,
)
from dipy_rnn.spatial import axes, check_affine
from dipy_rnn.stopping import StoppingCriterion
from dipy_rnn.tracking import track

#: With fewer seeds, standard errors are not reliable.
MIN_SEEDS = 30

# Number of seeds from which the cases of the other axes are tracked first.
_FIRST_SEEDS = 200


def check_gradients(
    features: FeatureVolume,
    stopping_criterion: StoppingCriterion,
    seeds: ArrayLike,
    affine: ArrayLike,
    *,
    model: AnyPath | Model | None = None,
    step_size: float = 0.5,
    max_angle: float = 30.0,
    nbr_threads: int = 0,
) -> GradientCheck:
    """Track seeds with all orders and signs of the gradient axes.

    Parameters
    ----------
    features : dipy_rnn.sampling.FeatureVolume
        Spherical harmonics (kind ``"sh"``), fitted with the gradients to check. Their
        ``sh_format`` tells how they were given. If it is None, or is known from the
        file, only the gradients are checked.
    stopping_criterion : dipy_rnn.stopping.StoppingCriterion
        It must not depend on the directions of the gradients or the fibres. For
        example, a threshold of FA is allowed.
    seeds : array_like of shape (N, 3)
        Seeds in mm at random positions in the white matter: at least 30, better 1000.
        The same seeds are used in all cases. In each case, a streamline starts along
        the largest peak of the rotated fODF.
    affine : array_like of shape (4, 4)
        Voxel to mm, with up to 0.1 degrees of shear.
    model : str, Path or dipy_rnn.model.Model, optional
        Name of a shipped model or a model file; ``"default"`` if None.
    step_size : float, optional
        Step size in mm.
    max_angle : float, optional
        Maximum angle (degrees): a streamline ends where a step would turn by more.
    nbr_threads : int, optional
        Number of threads; 0 for all cores.

    Returns
    -------
    check : GradientCheck

    Raises
    ------
    ValueError
        If there are too few seeds, or another argument is invalid, as for
        :func:`dipy_rnn.tracking.track`.

    Examples
    --------
    >>> from dipy.tracking.utils import random_seeds_from_mask
    >>> from dipy_rnn.phantom import random_phantom
    >>> from dipy_rnn.sampling import fodf_features
    >>> from dipy_rnn.stopping import BinaryStoppingCriterion
    >>> phantom = random_phantom(3, shape=(20, 20, 20))
    >>> wrong = reoriented(fodf_features(phantom.fodf()), "x -y z")
    >>> seeds = random_seeds_from_mask(phantom.mask(), phantom.affine, seeds_count=200,
    ...                                seed_count_per_voxel=False, random_seed=1)
    >>> check = check_gradients(
    ...     wrong, BinaryStoppingCriterion(phantom.mask()), seeds, phantom.affine,
    ...     step_size=1.0)
    >>> check.verdict.split(":")[0]
    'y looks flipped'
    """
    seeds = _checks.as_points(seeds, "seeds")
    if len(seeds) < MIN_SEEDS:
        raise ValueError(
            f"seeds has {len(seeds)} rows; {MIN_SEEDS} or more are needed to compare "
            "lengths."
        )
    affine = check_affine(affine)
    model = load_model(model)

    def lengths_of(volume: FeatureVolume, seeds: FloatArray) -> FloatArray:
        lengths_mm = np.zeros(len(seeds))
        for line in track(
            seeds,
            stopping_criterion,
            affine,
            features=volume,
            model=model,
            step_size=step_size,
            max_angle=max_angle,
            nbr_threads=nbr_threads,
        ):
            lengths_mm[line.seed_index] = step_size * (len(line.points_mm) - 1)
        return lengths_mm

    fitting, is_clear = _in_fitting_basis(features, affine)
    flags = ""
    if fitting is not features:
        assert features.sh_format and fitting.sh_format
        flags = flags_of(fitting.sh_format, features.sh_format)
    of_cases = {
        case: lengths_of(reoriented(fitting, case), seeds) for case in AXIS_CASES
    }
    lengths_mm = {flags: of_cases}
    if flags:
        lengths_mm[""] = {GIVEN: lengths_of(features, seeds)}
    if fitting.sh_format and not fitting.sh_format.is_known:
        other = other_frame(fitting.sh_format)
        rotation = axes(affine).T if other.frame == SH_FRAMES[1] else axes(affine)
        if same_case(rotation) != GIVEN:
            assert features.sh_format
            lengths_mm[flags_of(other, features.sh_format)] = _lengths_in_frame(
                reread(fitting, other, affine), rotation, of_cases, lengths_of, seeds
            )
    return GradientCheck.from_lengths(lengths_mm, is_basis_clear=is_clear)


def _in_fitting_basis(
    features: FeatureVolume, affine: FloatArray
) -> tuple[FeatureVolume, bool]:
    """Return the features in the basis that fits, and whether the basis is clear."""
    given = features.sh_format
    if given is None or given.basis == PEAKS:
        return features, True
    # The basis can be told only along the axes in which the coefficients were given.
    stored = features
    if given.frame == SH_FRAMES[1]:
        stored = replace(features, data=rotate_all(features.data, axes(affine)))
    shares = negative_shares(stored.data, given.basis)
    better = better_basis(shares, given.basis)
    if better:
        fitting = SHFormat(better, given.frame)
        return reread(features, fitting, affine), True
    return features, given.is_known or is_clear_basis(shares, given.basis)


def _lengths_in_frame(
    features: FeatureVolume,
    rotation: FloatArray,
    of_cases: Mapping[str, FloatArray],
    lengths_of: Callable[[FeatureVolume, FloatArray], FloatArray],
    seeds: FloatArray,
) -> dict[str, FloatArray]:
    """Return the lengths of the cases that may be right along the other axes.

    `features` are those of `of_cases`, rotated by `rotation`. A case that equals one of
    `of_cases` is not tracked again. Any other is tracked from some seeds first, and
    from all of them if it is not clearly shorter.
    """
    longest = max(of_cases.values(), key=np.mean)
    step = max(1, len(seeds) // _FIRST_SEEDS)
    plausible = {}
    for case, matrix in AXIS_CASES.items():
        same = same_case(matrix @ rotation)
        if same:
            lengths_mm = of_cases[same]
            is_shorter = is_clearly_shorter(lengths_mm, longest)
        else:
            volume = reoriented(features, case)
            lengths_mm = lengths_of(volume, seeds[::step])
            is_shorter = is_clearly_shorter(lengths_mm, longest[::step])
            if step > 1 and (case == GIVEN or not is_shorter):
                lengths_mm = lengths_of(volume, seeds)
        if case == GIVEN or not is_shorter:
            plausible[case] = lengths_mm
    return plausible
