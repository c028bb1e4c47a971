"""Weights as plain arrays: in a model file, and in a kernel.

A file of a network that has a kernel (a compiled function) holds its parameters beside
the TorchScript, one ``.npy`` entry for each. They are read without torch, and without
code of the file. The archive's checksums detect damage, as for any entry
(``archive.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
import io
from typing import TYPE_CHECKING

import numpy as np

from dipy_rnn._typing import AnyArray
from dipy_rnn.model.architectures import ARCHITECTURES
from dipy_rnn.model.metadata import ModelFileError, ModelMetadata

if TYPE_CHECKING:
    from dipy_rnn.model.kernels._layers import CompiledNetwork

_FOLDER, _SUFFIX = "weights/", ".npy"


def has_kernel(metadata: ModelMetadata) -> bool:
    """Return whether the architecture of a network has a kernel.

    Parameters
    ----------
    metadata : ModelMetadata

    Returns
    -------
    has_kernel : bool

    Examples
    --------
    >>> has_kernel(ModelMetadata("raw", 3, "voxel", layers=1, hidden=1))
    False
    """
    known = ARCHITECTURES.get(metadata.architecture)
    return known is not None and known.kernel is not None


def weight_entries(weights: Mapping[str, AnyArray]) -> dict[str, bytes]:
    """Return the entries of an archive that hold weights as plain arrays.

    Parameters
    ----------
    weights : mapping of str to ndarray
        Parameters by name.

    Returns
    -------
    entries : dict of str to bytes
        Contents of ``.npy`` files, by their names in the folder ``extra``.

    Examples
    --------
    >>> list(weight_entries({"head.bias": np.zeros(3, np.float32)}))
    ['weights/head.bias.npy']
    """
    entries = {}
    for name, array in weights.items():
        content = io.BytesIO()
        np.lib.format.write_array(content, array, allow_pickle=False)
        entries[f"{_FOLDER}{name}{_SUFFIX}"] = content.getvalue()
    return entries


def read_weights(entries: Mapping[str, bytes], name: str) -> dict[str, AnyArray]:
    """Read the weights that an archive holds as plain arrays.

    Parameters
    ----------
    entries : mapping of str to bytes
        From :func:`dipy_rnn.model.archive.read_archive`.
    name : str
        Name of the model in error messages.

    Returns
    -------
    weights : dict of str to ndarray
        Parameters by name. Empty if the archive holds none.

    Raises
    ------
    ModelFileError
        If an entry is not a ``.npy`` file, or holds Python objects.

    Examples
    --------
    >>> entries = weight_entries({"head.bias": np.ones(2, np.float32)})
    >>> held = {f"extra/{name}": content for name, content in entries.items()}
    >>> read_weights(held, "model")
    {'head.bias': array([1., 1.], dtype=float32)}
    """
    weights = {}
    folder = f"extra/{_FOLDER}"
    for entry, content in entries.items():
        if not (entry.startswith(folder) and entry.endswith(_SUFFIX)):
            continue
        stream = io.BytesIO(content)
        try:
            array = np.lib.format.read_array(stream, allow_pickle=False)
        except Exception:  # NumPy's reader raises many types
            array = None
        if array is None or stream.read(1):
            raise ModelFileError(
                f"{name} is not a usable model: its entry {entry!r} is not a .npy file "
                "of numbers."
            )
        weights[entry.removeprefix(folder).removesuffix(_SUFFIX)] = array
    return weights


def compile_network(
    weights: Mapping[str, AnyArray], metadata: ModelMetadata, name: str
) -> CompiledNetwork:
    """Return a network as a kernel.

    Parameters
    ----------
    weights : mapping of str to ndarray
        Parameters by name. The kernel copies them.
    metadata : ModelMetadata
        Its architecture has a kernel.
    name : str
        Name of the model in error messages.

    Returns
    -------
    network : CompiledContextGRU or CompiledMovingFrameGRU

    Raises
    ------
    ModelFileError
        If the parameters are not finite, or not those of the architecture.
    """
    kernel = ARCHITECTURES[metadata.architecture].kernel
    assert kernel is not None
    try:
        for parameter, array in weights.items():
            if not np.isfinite(array).all():
                raise ValueError(f"{parameter} is not finite")
        return kernel(weights, metadata)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{name} is not a usable model: its architecture is "
            f"{metadata.architecture!r}, but its parameters differ ({error})."
        ) from None
