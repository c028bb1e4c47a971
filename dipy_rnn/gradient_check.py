"""Checking whether axes of the diffusion gradients are flipped or swapped.

If an axis of the gradients is flipped, or two are swapped, fibre directions are wrong
and streamlines soon leave the white matter. So the same seeds are tracked with each
possible order and sign of the axes: with the correct one, streamlines are longest [1]_.
There are 24 cases, because a change of the sign of all gradients has no effect. The
fODF is not fitted again: if the gradients are rotated or mirrored, the fODF in each
voxel is rotated or mirrored in the same way.

References
----------
.. [1] Jeurissen B, Leemans A, Sijbers J. Automated correction of improperly rotated
   diffusion gradient orientations in diffusion weighted MRI. Medical Image Analysis
   18(7), 2014.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Self

import numpy as np

from dipy_rnn import _checks
from dipy_rnn._typing import AnyPath, ArrayLike, FloatArray
from dipy_rnn.evaluation import paired_difference
from dipy_rnn.model import Model, load_model
from dipy_rnn.sampling import FeatureVolume, rotate_all
from dipy_rnn.stopping import StoppingCriterion
from dipy_rnn.tracking import track

#: The case of unchanged gradients.
GIVEN = "x y z"

#: With fewer seeds, standard errors are not reliable.
MIN_SEEDS = 30

# A case is excluded only if the longest case exceeds it by this factor and by this many
# standard errors. With few seeds the factor can be exceeded by chance. With many seeds
# in one bundle, which are not independent, the standard errors are too small.
_MIN_RATIO = 1.1
_MIN_ERRORS = 4.0
# Largest number of cases that a verdict names.
_MAX_NAMED = 4


def _axis_cases() -> dict[str, FloatArray]:
    cases = {}
    for order in permutations(range(3)):
        for flipped in (None, 0, 1, 2):
            matrix = np.eye(3)[list(order)]
            names = ["xyz"[axis] for axis in order]
            if flipped is not None:
                matrix[flipped] *= -1
                names[flipped] = "-" + names[flipped]
            matrix.flags.writeable = False
            cases[" ".join(names)] = matrix
    return cases


#: Matrices that multiply the gradients, by name. A name says what the rows of a bvec
#: file become: ``"y x -z"`` swaps the first two rows and negates the third. The other
#: 24 signed permutations differ from these in the sign of all gradients, which has no
#: effect.
AXIS_CASES = _axis_cases()


def reoriented(features: FeatureVolume, case: str) -> FeatureVolume:
    """Return the fODF that a fit with other gradient axes would give.

    Parameters
    ----------
    features : dipy_rnn.sampling.FeatureVolume
        Spherical harmonics (kind ``"sh"``) along the voxel axes.
    case : str
        One of ``AXIS_CASES``. Its name says what the rows of the bvec file become:
        ``"y x -z"`` swaps the first two rows and negates the third.

    Returns
    -------
    features : dipy_rnn.sampling.FeatureVolume
        In each voxel the fODF ``f`` is replaced by ``g``, with ``g(A u) = f(u)`` for
        all directions ``u`` and ``A = AXIS_CASES[case]``.

    Raises
    ------
    ValueError
        If the case is unknown, or the features are not spherical harmonics.

    Notes
    -----
    A fit depends on a direction only by its angles with the gradients. So if it gives
    ``f`` for some gradients, it gives ``g`` for ``A`` times these gradients.

    Examples
    --------
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.sampling import fodf_features
    >>> features = fodf_features(crossing_phantom(90).fodf())
    >>> flipped = reoriented(features, "-x y z")
    >>> bool(np.allclose(reoriented(flipped, "-x y z").data, features.data, atol=1e-6))
    True
    """
    if case not in AXIS_CASES:
        raise ValueError(f"case is {case!r}; one of {', '.join(AXIS_CASES)} is needed.")
    if features.kind != "sh":
        raise ValueError(
            f"{features.name} is of kind {features.kind!r}; spherical harmonics are "
            "needed, because other features cannot be rotated without a new fit."
        )
    return replace(features, data=rotate_all(features.data, AXIS_CASES[case]))


@dataclass(frozen=True)
class CaseLength:
    """Length of the streamlines in one of the 24 cases.

    Parameters
    ----------
    case : str
        One of ``AXIS_CASES``.
    mean_length_mm : float
        Mean over all seeds; the length is 0 for a seed without a streamline.
    ratio : float
        Mean length divided by the mean length with unchanged gradients; infinity if
        the latter is 0.
    shortfall_mm : float
        Mean length in the case with the longest streamlines, minus the mean length in
        this case.
    standard_error_mm : float
        Standard error of the shortfall
        (:func:`dipy_rnn.evaluation.paired_difference`).
    is_candidate : bool
        Whether the case may be correct (:meth:`GradientCheck.from_lengths`).

    Examples
    --------
    >>> CaseLength("x y z", 64.3, 1.0, 0.0, 0.0, True).case
    'x y z'
    """

    case: str
    mean_length_mm: float
    ratio: float
    shortfall_mm: float
    standard_error_mm: float
    is_candidate: bool


@dataclass(frozen=True)
class GradientCheck:
    """The result of the check: the lengths of all cases.

    Parameters
    ----------
    rows : tuple of CaseLength
        One row for each case, the longest streamlines first.

    Examples
    --------
    >>> check = GradientCheck((
    ...     CaseLength("x -y z", 60.0, 2.0, 0.0, 0.0, True),
    ...     CaseLength("x y z", 30.0, 1.0, 30.0, 1.0, False)))
    >>> check.candidates
    ('x -y z',)
    >>> print(check.verdict)
    y looks flipped: streamlines are 2.0 times as long with y negated; negate row 2 \
of the bvec file and fit again
    """

    rows: tuple[CaseLength, ...]

    @classmethod
    def from_lengths(cls, lengths_mm: Mapping[str, FloatArray]) -> Self:
        """Compare the lengths of the streamlines of the same seeds in all cases.

        Parameters
        ----------
        lengths_mm : dict of str to ndarray of shape (N,)
            For each of ``AXIS_CASES`` the length for each seed; 0 without a streamline.

        Returns
        -------
        check : GradientCheck

        Notes
        -----
        A case is a candidate, which means that it may be correct, unless the mean
        length of the longest case exceeds its mean length by more than 10 percent and
        by more than four standard errors of the paired difference. The standard error
        assumes that seeds are independent. Seeds in the same bundle are not, so the
        standard error can be too small. Therefore the difference must also exceed 10
        percent.

        Examples
        --------
        >>> lengths_mm = {case: np.array([30.0, 40, 50]) for case in AXIS_CASES}
        >>> lengths_mm["y x z"] = np.array([60.0, 80, 100])
        >>> check = GradientCheck.from_lengths(lengths_mm)
        >>> check.rows[0]
        CaseLength(case='y x z', mean_length_mm=80.0, ratio=2.0, shortfall_mm=0.0, \
standard_error_mm=0.0, is_candidate=True)
        >>> check.rows[1].shortfall_mm, round(check.rows[1].standard_error_mm, 2)
        (40.0, 5.77)
        """
        means_mm = {case: float(each.mean()) for case, each in lengths_mm.items()}
        longest = max(means_mm, key=means_mm.__getitem__)
        rows = []
        for case, mean_mm in means_mm.items():
            shortfall_mm = paired_difference(lengths_mm[longest], lengths_mm[case])
            is_shorter = (
                means_mm[longest] > _MIN_RATIO * mean_mm
                and shortfall_mm.value > _MIN_ERRORS * shortfall_mm.standard_error
            )
            ratio = mean_mm / means_mm[GIVEN] if means_mm[GIVEN] else np.inf
            rows.append(
                CaseLength(
                    case,
                    mean_mm,
                    ratio,
                    shortfall_mm.value,
                    shortfall_mm.standard_error,
                    not is_shorter,
                )
            )
        return cls(tuple(sorted(rows, key=lambda row: -row.mean_length_mm)))

    @property
    def candidates(self) -> tuple[str, ...]:
        """The cases that may be correct; a single one if the result is clear."""
        return tuple(row.case for row in self.rows if row.is_candidate)

    def table(self) -> str:
        """Format the lengths of all cases as a table.

        Returns
        -------
        table : str
            One line for each case: mean length, ratio to unchanged gradients, name.

        Examples
        --------
        >>> print(GradientCheck((CaseLength("x y z", 64.3, 1, 0, 0, True),)).table())
          64.3 mm  1.00  x y z
        """
        return "\n".join(
            f"{row.mean_length_mm:6.1f} mm {row.ratio:5.2f}  {row.case}"
            for row in self.rows
        )

    @property
    def verdict(self) -> str:
        """The result in one line, with the correction to make."""
        candidates = self.candidates
        longest = self.rows[0]
        if candidates == (GIVEN,):
            others_ratio = max((row.ratio for row in self.rows[1:]), default=0.0)
            if not others_ratio:
                return (
                    "The gradients look right: with axes flipped or swapped there "
                    "are no streamlines"
                )
            return (
                "The gradients look right: streamlines are "
                f"{1 / others_ratio:.1f} times as long as with axes flipped or swapped"
            )
        gain = f"streamlines are {longest.ratio:.1f} times as long with"
        if longest.ratio == np.inf:
            gain = (
                "there are no streamlines with the unchanged gradients, but there are "
                "with"
            )
        if len(candidates) == 1:
            return _advice(longest.case, gain)
        others = [f"({case})" for case in candidates if case != GIVEN]
        named = ", ".join(others[:_MAX_NAMED])
        if len(others) > _MAX_NAMED:
            named += f" and {len(others) - _MAX_NAMED} more"
        if GIVEN in candidates:
            return (
                f"No clear answer: with {named} streamlines are about as long as with "
                "the unchanged gradients"
            )
        return f"The gradients look wrong, but it is not clear how: {gain} {named}"


def _advice(case: str, gain: str) -> str:
    """Return what is wrong with the gradients, and the correction, for a case."""
    axes = case.split()
    moved = [place for place in range(3) if axes[place].strip("-") != "xyz"[place]]
    if not moved:
        (row,) = (place for place in range(3) if axes[place].startswith("-"))
        axis = "xyz"[row]
        return (
            f"{axis} looks flipped: {gain} {axis} negated; negate row {row + 1} of the "
            "bvec file and fit again"
        )
    if len(moved) == 2 and "-" not in case:
        one, other = moved
        return (
            f"{'xyz'[one]} and {'xyz'[other]} look swapped: {gain} these swapped; swap "
            f"rows {one + 1} and {other + 1} of the bvec file and fit again"
        )
    rows = ", ".join(
        "minus " * axis.startswith("-") + f"row {'xyz'.index(axis[-1]) + 1}"
        for axis in axes
    )
    return (
        f"The axes look mixed up: {gain} ({case}); make {rows} the rows of the bvec "
        "file and fit again"
    )


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
        Spherical harmonics (kind ``"sh"``), fitted with the gradients to check.
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
    model = load_model(model)
    lengths_mm: dict[str, FloatArray] = {}
    for case in AXIS_CASES:
        of_case = lengths_mm[case] = np.zeros(len(seeds))
        for line in track(
            seeds,
            stopping_criterion,
            affine,
            features=reoriented(features, case),
            model=model,
            step_size=step_size,
            max_angle=max_angle,
            nbr_threads=nbr_threads,
        ):
            of_case[line.seed_index] = step_size * (len(line.points_mm) - 1)
    return GradientCheck.from_lengths(lengths_mm)
