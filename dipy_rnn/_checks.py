"""Checks of options and of optional packages; each raises ValueError."""

from collections.abc import Sequence
from importlib.util import find_spec
import math


def check_least(name: str, value: float, least: float) -> None:
    """Raise ValueError if a number is below a limit, infinite or NaN.

    Parameters
    ----------
    name : str
        Name of the option.
    value, least : float

    Raises
    ------
    ValueError

    Examples
    --------
    >>> check_least("seed_count", 3, 0)
    >>> check_least("seed_count", -3, 0)
    Traceback (most recent call last):
    ValueError: seed_count is -3; 0 or more is needed.
    """
    if not least <= value < math.inf:  # False for NaN
        raise ValueError(f"{name} is {value}; {least} or more is needed.")


def check_installed(packages: Sequence[str], what: str, extra: str) -> None:
    """Raise ValueError if a package is not installed.

    Parameters
    ----------
    packages : sequence of str
        Names of modules.
    what : str
        Option or output that needs them.
    extra : str
        Extra of dipy_rnn that installs them.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> check_installed(["numpy"], "The table", "viz")
    >>> check_installed(["no_such_package"], "The table", "viz")
    Traceback (most recent call last):
    ValueError: The table needs no_such_package; install it with pip install ...
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{what} needs {', '.join(missing)}; install it with "
            f'pip install "dipy_rnn[{extra}]".'
        )
