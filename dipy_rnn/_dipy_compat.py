"""Differences between versions of DIPY."""

import dipy


def dipy_version() -> tuple[int, ...]:
    """Return the major and the minor version of the installed DIPY.

    Returns
    -------
    version : tuple of 2 int

    Examples
    --------
    >>> dipy_version() > (1, 10)
    True
    """
    return tuple(map(int, dipy.__version__.split(".")[:2]))


def dipy_is_at_least(major: int, minor: int) -> bool:
    """Tell whether the installed DIPY has this version or a newer one.

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
    return dipy_version() >= (major, minor)
