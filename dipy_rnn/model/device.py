"""The device on which a network runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def check_device(device: str | torch.device) -> str:
    """Return the name of a device that exists on this machine.

    Parameters
    ----------
    device : str or torch.device
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` ..

    Returns
    -------
    device : str
        Its name in torch. For the CPU it is ``"cpu"``, and torch is not imported.

    Raises
    ------
    ValueError
        If the device is unknown, or this machine does not have it.

    Examples
    --------
    >>> check_device("cpu")
    'cpu'
    """
    if str(device) == "cpu":
        return "cpu"
    import torch

    known: torch.device | None
    try:
        known = torch.device(device)
    except (RuntimeError, TypeError):
        known = None
    if known is None or known.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}; 'cpu', 'cuda' or 'cuda:N' is allowed.")
    if known.type == "cpu":
        return "cpu"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (known.index or 0) >= count:
        raise ValueError(
            f"device is '{known}', but torch finds {count} CUDA devices on this "
            "machine; use device 'cpu'."
        )
    # ``cuda`` is the current device. A network on it names its number.
    index = torch.cuda.current_device() if known.index is None else known.index
    return f"cuda:{index}"
