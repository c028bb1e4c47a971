"""Checkpoints: what a training has come to, complete or not at all."""

from collections.abc import Mapping
import io
from pathlib import Path
from typing import Any

import torch

from dipy_rnn._atomic import atomic_write
from dipy_rnn._typing import AnyPath


def save_checkpoint(snapshot: Mapping[str, Any], path: AnyPath) -> None:
    """Write a snapshot of a training.

    Parameters
    ----------
    snapshot : dict
        Tensors and plain values.
    path : str or Path
        It is there when it is complete.

    Raises
    ------
    OSError
        If it cannot be written; a checkpoint that was there stays.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "checkpoint.pt"
    >>> save_checkpoint({"update": 1}, path)
    >>> load_checkpoint(path)
    {'update': 1}
    """
    try:
        with atomic_write(path) as partial:
            torch.save(snapshot, partial)
    except RuntimeError as error:  # torch's word for a disk that is full
        reason = str(error).splitlines()[0]
        raise OSError(
            f"{path} cannot be written ({reason}); is the disk full?"
        ) from None


def load_checkpoint(path: AnyPath) -> dict[str, Any]:
    """Read a snapshot; nothing is unpickled but tensors and plain values.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    snapshot : dict

    Raises
    ------
    ValueError
        If there is no checkpoint, or it cannot be read.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no checkpoint {path}; start without resume.")
    content = io.BytesIO(Path(path).read_bytes())
    try:
        snapshot: dict[str, Any] = torch.load(
            content, weights_only=True, map_location="cpu"
        )
    except Exception as error:  # torch raises a dozen kinds
        reason = (str(error) or "it is empty").splitlines()[0]
        raise ValueError(
            f"{path} is no checkpoint ({reason}); start without resume."
        ) from None
    return snapshot
