"""A check of the gradient table, and of the basis and axes of an fODF."""

from dipy_rnn.gradient_check.cases import AXIS_CASES, GIVEN, reoriented
from dipy_rnn.gradient_check.check import MIN_SEEDS, check_gradients
from dipy_rnn.gradient_check.result import CaseLength, GradientCheck

__all__ = [
    "AXIS_CASES",
    "GIVEN",
    "MIN_SEEDS",
    "CaseLength",
    "GradientCheck",
    "check_gradients",
    "reoriented",
]
