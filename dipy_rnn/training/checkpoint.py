"""Checkpoints: what a training has come to, complete or not at all."""

import os
from pathlib import Path
import pickle

import torch


def save_checkpoint(snapshot, path):
    """Write a snapshot of a training.

    Parameters
    ----------
    snapshot : dict
        Tensors and plain values.
    path : Path
        Written under a temporary name and moved into place when complete.

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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(snapshot, temporary)
        os.replace(temporary, path)
    except RuntimeError as error:  # torch's word for a disk that is full
        reason = str(error).splitlines()[0]
        raise OSError(
            f"{path} cannot be written ({reason}); is the disk full?"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path):
    """Read a snapshot; nothing is unpickled but tensors and plain values.

    Parameters
    ----------
    path : Path

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
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        reason = (str(error) or "it is empty").splitlines()[0]
        raise ValueError(
            f"{path} is no checkpoint ({reason}); start without resume."
        ) from None
