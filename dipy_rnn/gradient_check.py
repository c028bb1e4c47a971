"""Whether the gradients of a scan lie along the axes that its images lie along.

Where an axis of the gradients is flipped, or two are swapped, fibres point the wrong
way and streamlines soon leave the white matter. So seeds are tracked with each of the
24 orders and signs of the axes: with the right ones streamlines are longest [1]_. The
fit is not repeated for that. Gradients that are turned give the same fODF, turned in
every voxel.

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

from dipy_rnn import spaces
from dipy_rnn._typing import AnyPath, ArrayLike, FloatArray
from dipy_rnn.evaluation import paired_difference
from dipy_rnn.model_file import Model, load_model
from dipy_rnn.sh import FeatureVolume, turned
from dipy_rnn.stopping import StoppingCriterion
from dipy_rnn.tracking import track

#: The case in which the gradients stay as they are.
GIVEN = "x y z"

#: With fewer seeds a standard error says little.
LEAST_SEEDS = 30

# A case is told from the longest one if that is longer by this factor and by this many
# standard errors: alone, one would trust few seeds, the other many seeds in one bundle.
_LEAST_RATIO = 1.1
_LEAST_ERRORS = 4.0
# As many cases are named in a verdict.
_MOST_NAMED = 4


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


#: Matrices that turn the gradients, by names that say what becomes of the rows of a
#: bvec file: ``"y x -z"`` swaps the first two and negates the third. The other 24
#: differ from these by the sign of all gradients, which has no effect.
AXIS_CASES = _axis_cases()


def reoriented(features: FeatureVolume, case: str) -> FeatureVolume:
    """Return the fODF that gradients with other axes would have given.

    Parameters
    ----------
    features : dipy_rnn.sh.FeatureVolume
        Of kind ``"sh"``, along the voxel axes.
    case : str
        One of ``AXIS_CASES``.

    Returns
    -------
    features : dipy_rnn.sh.FeatureVolume
        In each voxel ``g`` where there was ``f``, with ``g(A u) = f(u)`` for all
        directions ``u`` and ``A = AXIS_CASES[case]``.

    Raises
    ------
    ValueError
        If there is no such case, or the features are no spherical harmonics.

    Notes
    -----
    A fit sees a direction only through its angles with the gradients, so it gives
    ``g`` for ``A`` times the gradients where it gives ``f`` for these.

    Examples
    --------
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.sh import fodf_features
    >>> features = fodf_features(crossing_phantom(90).fodf())
    >>> there = reoriented(features, "-x y z")
    >>> bool(np.allclose(reoriented(there, "-x y z").data, features.data, atol=1e-6))
    True
    """
    if case not in AXIS_CASES:
        raise ValueError(f"case is {case!r}; one of {', '.join(AXIS_CASES)} is needed.")
    if features.kind != "sh":
        raise ValueError(
            f"{features.name} is of kind {features.kind!r}; spherical harmonics are "
            "needed, nothing else can be turned without a new fit."
        )
    return replace(features, data=turned(features.data, AXIS_CASES[case]))


@dataclass(frozen=True)
class CaseLength:
    """How long streamlines are with one order and one choice of signs of the axes.

    Parameters
    ----------
    case : str
        One of ``AXIS_CASES``.
    mean_length_mm : float
        Over all seeds; a seed without a streamline counts as 0.
    ratio : float
        To the mean length with the gradients as they are; infinity if that is 0.
    shortfall_mm : float
        By how much the mean is below the one of the longest case.
    standard_error_mm : float
        Of the shortfall (:func:`dipy_rnn.evaluation.paired_difference`).
    is_candidate : bool
        Whether it is the longest case, or cannot be told from it.

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
    """With which axes of the gradients streamlines are longest.

    Parameters
    ----------
    rows : tuple of CaseLength
        Of all cases, the longest first.

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
        """Compare how long the streamlines of the same seeds are in each case.

        Parameters
        ----------
        lengths_mm : dict of str to ndarray of shape (N,)
            For each of ``AXIS_CASES``, 0 where a seed has no streamline.

        Returns
        -------
        check : GradientCheck

        Notes
        -----
        A case is no candidate if the longest one is longer by a tenth and by four
        standard errors of the paired difference. The seeds count as independent of
        each other, which those in one bundle are not; hence the tenth.

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
                means_mm[longest] > _LEAST_RATIO * mean_mm
                and shortfall_mm.value > _LEAST_ERRORS * shortfall_mm.standard_error
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
        """The cases that may be right: one if the answer is clear."""
        return tuple(row.case for row in self.rows if row.is_candidate)

    def table(self) -> str:
        """Lay out how long streamlines are in each case.

        Returns
        -------
        table : str
            A line for each case: mean length, ratio to the gradients as they are, name.

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
        """What the check found, in one line."""
        candidates = self.candidates
        longest = self.rows[0]
        if candidates == (GIVEN,):
            others_ratio = max((row.ratio for row in self.rows[1:]), default=0.0)
            if not others_ratio:
                return (
                    "The gradients look right: with axes flipped or swapped there are "
                    "no streamlines"
                )
            return (
                "The gradients look right: streamlines are "
                f"{1 / others_ratio:.1f} times as long as with axes flipped or swapped"
            )
        gain = f"streamlines are {longest.ratio:.1f} times as long with"
        if longest.ratio == np.inf:
            gain = (
                "there are no streamlines with the gradients as they are, unlike with"
            )
        if len(candidates) == 1:
            return _advice(longest.case, gain)
        others = [f"({case})" for case in candidates if case != GIVEN]
        named = ", ".join(others[:_MOST_NAMED])
        if len(others) > _MOST_NAMED:
            named += f" and {len(others) - _MOST_NAMED} more"
        if GIVEN in candidates:
            return (
                f"No clear answer: with {named} streamlines are about as long as with "
                "the gradients as they are"
            )
        return f"The gradients look wrong, but it is not clear how: {gain} {named}"


def _advice(case: str, gain: str) -> str:
    """Say what is wrong with the gradients if a case is right."""
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
    """Track with all orders and signs of the gradients' axes.

    Parameters
    ----------
    features : dipy_rnn.sh.FeatureVolume
        Of kind ``"sh"``, fitted with the gradients to check.
    stopping_criterion : dipy_rnn.stopping.StoppingCriterion
        Says where tracking ends. It must not depend on directions, as a threshold of
        FA does not.
    seeds : array_like of shape (N, 3)
        In mm, at random places of the white matter; 30 or more, better 1000. All
        cases have the same ones, and begin along the largest peaks of their own fODFs.
    affine : array_like of shape (4, 4)
        Voxel to mm, without shear.
    model : str, Path or dipy_rnn.model_file.Model, optional
        Name of a shipped model or a model file; ``"default"`` if None.
    step_size : float, optional
        Step in mm.
    max_angle : float, optional
        A streamline ends where a step would turn by more (degrees).
    nbr_threads : int, optional
        0 for every core.

    Returns
    -------
    check : GradientCheck

    Raises
    ------
    ValueError
        If there are too few seeds, or an argument is not as said here or at
        :func:`dipy_rnn.tracking.track`.

    Examples
    --------
    >>> from dipy.tracking.utils import random_seeds_from_mask
    >>> from dipy_rnn.phantom import random_phantom
    >>> from dipy_rnn.sh import fodf_features
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
    seeds = spaces.check_points(seeds, "seeds")
    if len(seeds) < LEAST_SEEDS:
        raise ValueError(
            f"seeds has {len(seeds)} rows; {LEAST_SEEDS} or more are needed to tell "
            "lengths apart."
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
