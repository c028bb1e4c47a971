"""Differences between versions of DIPY."""

import dipy


def dipy_is_at_least(major: int, minor: int) -> bool:
    """Tell whether the installed DIPY is of a version or newer.

    Parameters
    ----------
    major, minor : int

    Returns
    -------
    answer : bool

    Examples
    --------
    >>> dipy_is_at_least(1, 11)
    True
    """
    return tuple(map(int, dipy.__version__.split(".")[:2])) >= (major, minor)
