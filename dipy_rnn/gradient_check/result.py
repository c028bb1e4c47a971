"""The result of the check: lengths of all cases, candidates, and a verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from dipy_rnn._typing import FloatArray
from dipy_rnn.evaluation import paired_difference
from dipy_rnn.gradient_check.cases import GIVEN

# A case is excluded only if the longest case exceeds it by this factor and by this many
# standard errors. With few seeds the factor can be exceeded by chance. With many seeds
# in one bundle, which are not independent, the standard errors are too small.
_MIN_RATIO = 1.1
_MIN_ERRORS = 4.0
# Largest number of cases that a verdict names.
_MAX_NAMED = 4


@dataclass(frozen=True)
class CaseLength:
    """Length of the streamlines in one case.

    Parameters
    ----------
    case : str
        One of ``AXIS_CASES``: the change of the gradients.
    mean_length_mm : float
        Mean over all seeds; the length is 0 for a seed without a streamline.
    ratio : float
        Mean length divided by the mean length with unchanged gradients and options;
        infinity if the latter is 0.
    shortfall_mm : float
        Mean length in the case with the longest streamlines, minus the mean length in
        this case.
    standard_error_mm : float
        Standard error of the shortfall
        (:func:`dipy_rnn.evaluation.paired_difference`).
    is_candidate : bool
        Whether the case may be correct (:meth:`GradientCheck.from_lengths`).
    flags : str, optional
        Options with which the coefficients are read, such as ``"--sh_frame scanner"``;
        empty for the given ones.

    Examples
    --------
    >>> CaseLength("x y z", 64.3, 1.0, 0.0, 0.0, True).name
    'x y z'
    >>> CaseLength("x -y z", 64.3, 1.0, 0.0, 0.0, True, "--sh_frame scanner").name
    '--sh_frame scanner and (x -y z)'
    """

    case: str
    mean_length_mm: float
    ratio: float
    shortfall_mm: float
    standard_error_mm: float
    is_candidate: bool
    flags: str = ""

    @property
    def name(self) -> str:
        """The case, and the options if they differ from the given ones."""
        if not self.flags:
            return self.case
        return self.flags + (f" and ({self.case})" if self.case != GIVEN else "")


@dataclass(frozen=True)
class GradientCheck:
    """The result of the check: the lengths of all cases.

    Parameters
    ----------
    rows : tuple of CaseLength
        One row for each case, the longest streamlines first.
    is_basis_clear : bool, optional
        Whether the basis of the coefficients is beyond doubt.

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
    is_basis_clear: bool = True

    @classmethod
    def from_lengths(
        cls,
        lengths_mm: Mapping[str, Mapping[str, FloatArray]],
        *,
        is_basis_clear: bool = True,
    ) -> Self:
        """Compare the lengths of the streamlines of the same seeds in all cases.

        Parameters
        ----------
        lengths_mm : dict of str to dict of str to ndarray of shape (N,)
            For each set of options with which the coefficients are read, and for each
            case, the length for each seed; 0 without a streamline. The given options
            are an empty string, and have at least the case ``GIVEN``.
        is_basis_clear : bool, optional
            Whether the basis of the coefficients is beyond doubt.

        Returns
        -------
        check : GradientCheck

        Notes
        -----
        A case is a candidate, which means that it may be correct, unless it is clearly
        shorter than the longest case (:func:`is_clearly_shorter`).

        Examples
        --------
        >>> lengths_mm = {"x y z": np.array([30.0, 40, 50])}
        >>> lengths_mm["y x z"] = np.array([60.0, 80, 100])
        >>> check = GradientCheck.from_lengths({"": lengths_mm})
        >>> check.rows[0]
        CaseLength(case='y x z', mean_length_mm=80.0, ratio=2.0, shortfall_mm=0.0, \
standard_error_mm=0.0, is_candidate=True, flags='')
        >>> check.rows[1].shortfall_mm, round(check.rows[1].standard_error_mm, 2)
        (40.0, 5.77)
        """
        every = [
            of_cases for flags in lengths_mm.values() for of_cases in flags.values()
        ]
        longest = max(every, key=np.mean)
        given_mm = float(lengths_mm[""][GIVEN].mean())
        rows = []
        for flags, of_cases in lengths_mm.items():
            for case, of_seeds in of_cases.items():
                mean_mm = float(of_seeds.mean())
                shortfall_mm = paired_difference(longest, of_seeds)
                rows.append(
                    CaseLength(
                        case,
                        mean_mm,
                        mean_mm / given_mm if given_mm else np.inf,
                        shortfall_mm.value,
                        shortfall_mm.standard_error,
                        not is_clearly_shorter(of_seeds, longest),
                        flags,
                    )
                )
        rows.sort(key=lambda row: -row.mean_length_mm)
        return cls(tuple(rows), is_basis_clear)

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the cases that may be correct; a single one if this is clear."""
        return tuple(row.name for row in self.rows if row.is_candidate)

    def table(self) -> str:
        """Format the lengths of all cases as a table.

        Returns
        -------
        table : str
            One line for each case: mean length, ratio to unchanged gradients and
            options, case, and options that differ from the given ones.

        Examples
        --------
        >>> print(GradientCheck((CaseLength("x y z", 64.3, 1, 0, 0, True),)).table())
          64.3 mm  1.00  x y z
        """
        return "\n".join(
            f"{row.mean_length_mm:6.1f} mm {row.ratio:5.2f}  {row.case}"
            f"{'  ' * bool(row.flags)}{row.flags}"
            for row in self.rows
        )

    @property
    def verdict(self) -> str:
        """The result in one line, with the correction to make."""
        candidates = [row for row in self.rows if row.is_candidate]
        given = [row for row in candidates if not row.flags and row.case == GIVEN]
        if given and all(row.flags for row in candidates if row not in given):
            return self._praise(candidates)
        others = [_shown(row) for row in candidates if row not in given]
        named = ", ".join(others[:_MAX_NAMED])
        if len(others) > _MAX_NAMED:
            named += f" and {len(others) - _MAX_NAMED} more"
        if given:
            return (
                f"No clear answer: with {named} streamlines are about as long as with "
                "the unchanged gradients"
            )
        ratio = self.rows[0].ratio
        gain = f"streamlines are {ratio:.1f} times as long with"
        if ratio == np.inf:
            gain = (
                "there are no streamlines with the unchanged gradients, but there are "
                "with"
            )
        # A change of the options is harmless. So it is named first, and is tried first.
        candidates.sort(key=lambda row: (row.case != GIVEN, len(row.flags.split())))
        first, *rest = candidates
        if first.case == GIVEN and rest:
            return (
                "The options or the gradients are wrong, and it cannot be told which: "
                f"{gain} {named}; use {first.flags} if the fODF was written in this "
                "way, and change the bvec file only if it was not"
            )
        if first.case == GIVEN:
            return (
                f"The options are wrong, not the gradients: {gain} {first.flags}; use "
                f"{first.flags} and keep the bvec file"
            )
        if len({row.flags for row in candidates}) < len(candidates):
            verdict = (
                f"The gradients look wrong, but it is not clear how: {gain} {named}"
            )
        else:
            verdict = _advice(first, gain)
            for row in rest:
                if row.case != first.case:
                    verdict += f"; or, if {row.flags} is right, {_rows(row.case)}"
        if not self.is_basis_clear:
            verdict += (
                "; make sure of --sh_basis first, which could not be tested on this "
                "fODF"
            )
        return verdict

    def _praise(self, candidates: list[CaseLength]) -> str:
        """Return the verdict if the gradients and the options may be right."""
        others = [row for row in self.rows if row not in candidates]
        longest = max((row.ratio for row in others if row.case != GIVEN), default=0.0)
        verdict = (
            "The gradients look right: streamlines are "
            f"{1 / longest:.1f} times as long as with axes flipped or swapped"
            if longest
            else "The gradients look right: with axes flipped or swapped there are no "
            "streamlines"
        )
        for row in candidates:
            if row.flags:
                verdict += f"; {row.name} would look the same"
        return verdict


def is_clearly_shorter(lengths_mm: FloatArray, longest_mm: FloatArray) -> bool:
    """Tell whether streamlines are clearly shorter than other ones of the same seeds.

    Parameters
    ----------
    lengths_mm, longest_mm : ndarray of shape (N,)
        The length for each seed.

    Returns
    -------
    is_shorter : bool
        Whether the mean length is exceeded by more than 10 percent and by more than
        four standard errors of the paired difference.

    Notes
    -----
    The standard error assumes that seeds are independent. Seeds in the same bundle are
    not, so the standard error can be too small. Therefore the difference must also
    exceed 10 percent.

    Examples
    --------
    >>> is_clearly_shorter(np.full(50, 10.0), np.full(50, 12.0))
    True
    """
    shortfall_mm = paired_difference(longest_mm, lengths_mm)
    return bool(
        longest_mm.mean() > _MIN_RATIO * lengths_mm.mean()
        and shortfall_mm.value > _MIN_ERRORS * shortfall_mm.standard_error
    )


def _shown(row: CaseLength) -> str:
    return row.name if row.flags else f"({row.case})"


def _rows(case: str) -> str:
    """Return the change of a bvec file that a case means."""
    axes = case.split()
    moved = [place for place in range(3) if axes[place].strip("-") != "xyz"[place]]
    if not moved:
        (row,) = (place for place in range(3) if axes[place].startswith("-"))
        return f"negate row {row + 1} of the bvec file and fit again"
    if len(moved) == 2 and "-" not in case:
        one, other = moved
        return f"swap rows {one + 1} and {other + 1} of the bvec file and fit again"
    rows = ", ".join(
        "minus " * axis.startswith("-") + f"row {'xyz'.index(axis[-1]) + 1}"
        for axis in axes
    )
    return f"make {rows} the rows of the bvec file and fit again"


def _advice(row: CaseLength, gain: str) -> str:
    """Return what is wrong with the gradients, and the correction, for a case."""
    if row.flags:
        return (
            f"The options and the gradients are wrong: {gain} {row.name}; use "
            f"{row.flags}, and {_rows(row.case)}"
        )
    axes = row.case.split()
    moved = [place for place in range(3) if axes[place].strip("-") != "xyz"[place]]
    if not moved:
        axis = row.case[row.case.index("-") + 1]
        begin = f"{axis} looks flipped: {gain} {axis} negated"
    elif len(moved) == 2 and "-" not in row.case:
        one, other = ("xyz"[place] for place in moved)
        begin = f"{one} and {other} look swapped: {gain} these swapped"
    else:
        begin = f"The axes look mixed up: {gain} ({row.case})"
    return f"{begin}; {_rows(row.case)}"
