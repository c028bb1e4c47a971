"""Model files: TorchScript archives with metadata.

The archive holds the network, so that it runs without the package's Python classes. Its
entry ``metadata.json`` gives the features that the network takes, the frame of its
directions, the steps for which it was trained, and its origin. ``archive.py`` verifies
an archive before anything is read from it.

If the network has a kernel (a compiled function), the archive holds its weights also as
plain arrays (``weights.py``). On the CPU, such a file is loaded without torch, and no
code of the archive runs.

.. warning:: A TorchScript archive is a program. Load only archives that you trust
   (``doc/model_file.md`` describes what an archive can do).

The contract of the network, with float32 tensors (``doc/model_file.md``)::

    init_state(n: int) -> state                          (layers, n, hidden), zeros
    forward(features, direction, state, inputs) -> (direction, state)
            (n, C)    (n, 3)            (n, W)      (n, 3)

Each of the n rows is a streamline. C is the number of features (``n_features`` of the
metadata). ``direction`` is the incoming direction in the input, and the next direction
in the output. ``inputs`` are the declared inputs (``inputs`` of
:class:`dipy_rnn.model.ModelMetadata`). A network of format 1 declares none and has no
such argument. Row ``i`` of the output must depend only on row ``i`` of the input. An
output direction of length zero ends the streamline.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from dipy_rnn._atomic import atomic_write
from dipy_rnn._typing import AnyPath
from dipy_rnn.model.archive import METADATA_NAME, read_archive, read_content
from dipy_rnn.model.device import check_device
from dipy_rnn.model.metadata import ModelFileError, ModelMetadata
from dipy_rnn.model.model import Model
from dipy_rnn.model.weights import has_kernel, weight_entries

if TYPE_CHECKING:
    from torch import nn

#: The checksums of the shipped models, in the format of ``sha256sum --check``.
CHECKSUMS = "SHA256SUMS"

_SHIPPED = "dipy_rnn.model.shipped"


def shipped_models() -> list[str]:
    """Return the names of the models that come with the package.

    Returns
    -------
    names : list of str

    Examples
    --------
    >>> "default" in shipped_models()
    True
    """
    folder = resources.files(_SHIPPED)
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".pt"))


def model_path(model: AnyPath | None = None) -> Path:
    """Find a model file.

    Parameters
    ----------
    model : str or Path, optional
        Name of a shipped model, or a file. ``"default"`` if None.

    Returns
    -------
    path : Path

    Raises
    ------
    FileNotFoundError
        If no shipped model and no file has that name.

    Examples
    --------
    >>> model_path().name
    'default.pt'
    """
    model = "default" if model is None else model
    if str(model) in shipped_models():
        return Path(str(resources.files(_SHIPPED) / f"{model}.pt"))
    if not Path(model).is_file():
        raise FileNotFoundError(
            f"No model file {model}; give a file that exists, or one of the shipped "
            f"models: {', '.join(shipped_models())}."
        )
    return Path(model)


def read_metadata(path: AnyPath) -> ModelMetadata:
    """Read the metadata of a model file. No code of the archive runs.

    Parameters
    ----------
    path : str or Path
        A model file.

    Returns
    -------
    metadata : ModelMetadata

    Raises
    ------
    ModelFileError
        If it is not a model file, or its metadata is invalid.

    Examples
    --------
    >>> read_metadata(model_path("default")).kind
    'sh'
    """
    return read_archive(read_content(path), path)[1]


def load_model(
    model: AnyPath | Model | None = None, *, device: str | None = None
) -> Model:
    """Load a model. A TorchScript is checked when it is loaded.

    Parameters
    ----------
    model : str, Path or Model, optional
        Name of a shipped model (:func:`shipped_models`), or a file. ``"default"`` if
        None. A loaded model is returned as it is.
    device : str, optional
        ``"cpu"``, ``"cuda"`` or ``"cuda:N"``. If None, the CPU, or the device of a
        loaded model.

    Returns
    -------
    model : Model

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        If it is not a model file, the network does not agree with its metadata, or a
        shipped model differs from its checksum.
    ValueError
        If the device does not exist, or a loaded model is on another device.

    Examples
    --------
    >>> load_model("default").metadata.frame
    'local'
    """
    if isinstance(model, Model):
        if device is not None and check_device(device) != model.device:
            raise ValueError(
                f"device is '{device}', but the model was loaded on '{model.device}'; "
                f"load the model with device='{device}', or leave device out."
            )
        return model
    checked = check_device("cpu" if device is None else device)
    path = model_path(model)
    content = read_content(path)
    name = str(model or "default")
    if name in shipped_models():
        _check_checksum(content, path)
    entries, metadata = read_archive(content, path)
    return Model(metadata, name, entries, checked)


def save_model(module: nn.Module, metadata: ModelMetadata, path: AnyPath) -> None:
    """Write a model file. If the network has a kernel, it holds the weights twice.

    Parameters
    ----------
    module : nn.Module or torch.jit.ScriptModule
        A network that follows the contract. It is moved to the CPU and set to
        evaluation mode.
    metadata : ModelMetadata
    path : str or Path
        The file is written under a temporary name, and renamed when it is complete.

    Raises
    ------
    ModelFileError
        If the network does not agree with its metadata, breaks the contract, or has a
        kernel that gives other directions.

    Examples
    --------
    >>> import tempfile
    >>> from dipy_rnn.model import MovingFrameGRU
    >>> network = MovingFrameGRU(order=4, hidden=8)
    >>> metadata = ModelMetadata("sh", 15, "local", layers=1, hidden=8,
    ...                          inputs=network.inputs)
    >>> path = Path(tempfile.mkdtemp()) / "small.pt"
    >>> save_model(network, metadata, path)
    >>> load_model(path).metadata.orders
    (4,)
    """
    from dipy_rnn.model.torchscript import ScriptedNetwork

    script = ScriptedNetwork.of(module.cpu())
    extra = {METADATA_NAME: metadata.to_json().encode()}
    if has_kernel(metadata):
        extra |= weight_entries(script.parameters)
    content = script.to_archive(extra)
    entries, metadata = read_archive(content, path)
    Model(metadata, str(path), entries, "cpu").load_script()
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def _check_checksum(content: bytes, path: Path) -> None:
    """Raise ModelFileError if the checksum of a shipped model differs."""
    line = f"{hashlib.sha256(content).hexdigest()}  {path.name}"
    known = path.parent / CHECKSUMS
    if not known.is_file() or line not in known.read_text("utf-8").splitlines():
        raise ModelFileError(
            f"{path} is not the model that was shipped (its SHA-256 differs): the "
            "installation is damaged or the file was altered; install dipy_rnn again."
        )
