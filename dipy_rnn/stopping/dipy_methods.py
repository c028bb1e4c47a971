"""Whether the compiled method of DIPY's criteria can be called (``_criteria``)."""

from functools import cache

from dipy.tracking import stopping_criterion as dipy_criteria
import numpy as np

from dipy_rnn._dipy_compat import dipy_version
from dipy_rnn.stopping import _criteria

#: Criteria of DIPY whose decision at a point depends on the point only.
FIXED_CRITERIA = (
    dipy_criteria.ThresholdStoppingCriterion,
    dipy_criteria.BinaryStoppingCriterion,
    dipy_criteria.ActStoppingCriterion,
)

# Versions of DIPY with the methods that the kernel expects. In DIPY 1.11 the methods
# are the same, but a criterion interpolates into a buffer of its own: two threads would
# overwrite each other's values.
_KNOWN_VERSIONS = ((1, 12),)


def has_compiled_method(criterion: object) -> bool:
    """Tell whether ``_criteria.check_dipy`` may evaluate a criterion.

    Parameters
    ----------
    criterion : object

    Returns
    -------
    answer : bool
        True for the three criteria of DIPY that do not draw at random, if the methods
        of the installed DIPY are known. False for subclasses: they may override
        ``check_point``.

    Examples
    --------
    >>> has_compiled_method(dipy_criteria.StoppingCriterion())
    False
    """
    return type(criterion) in FIXED_CRITERIA and _methods_are_known()


@cache
def _methods_are_known() -> bool:
    """Check the version of DIPY, and the tables of the methods of its classes."""
    if dipy_version() not in _KNOWN_VERSIONS:
        return False
    ones = np.ones((1, 1, 1))
    criteria = [
        dipy_criteria.ThresholdStoppingCriterion(ones, 0.5),
        dipy_criteria.BinaryStoppingCriterion(ones),
        dipy_criteria.ActStoppingCriterion(ones, ones),
    ]

    def table(kind: type) -> object:
        return vars(kind).get("__pyx_vtable__")

    return _criteria.has_known_methods(
        table(dipy_criteria.StoppingCriterion),
        [(criterion, table(type(criterion))) for criterion in criteria],
    )
