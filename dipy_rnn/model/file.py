"""Model files: TorchScript archives with metadata.

The archive holds the network, so that it runs without the package's Python classes. Its
entry ``metadata.json`` gives the features that the network takes, the frame of its
directions, the steps for which it was trained, and its origin. ``archive.py`` verifies
an archive before torch loads code from it.

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

import hashlib
from importlib import resources
import io
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dipy_rnn._atomic import atomic_write
from dipy_rnn._typing import AnyArray, AnyPath, Float32Array
from dipy_rnn.model.archive import METADATA_NAME, packed, read_archive, read_content
from dipy_rnn.model.inputs import stack_inputs
from dipy_rnn.model.metadata import INPUT_SIZES, ModelFileError, ModelMetadata
from dipy_rnn.model.model import CompiledNetwork, Model, check_device, quiet_jit
from dipy_rnn.sampling import cone_of, join_context, quarter_turns, sample_context

#: The checksums of the shipped models, in the format of ``sha256sum --check``.
CHECKSUMS = "SHA256SUMS"

_SHIPPED = "dipy_rnn.model.shipped"
# The conditions under which a kernel is compared with the TorchScript.
_STEP_VOX, _ANGLE_DEG = 0.5, 60.0
_EDGE_VOX = (0.3, 0.3, 0.3)  # places around a voxel of the row are still inside


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
    """Load a model, and check that it follows the contract.

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
    return _load(content, path, checked, name)


def save_model(module: nn.Module, metadata: ModelMetadata, path: AnyPath) -> None:
    """Write a model file.

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
        If the network does not agree with its metadata.

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
    archive = io.BytesIO()
    with quiet_jit():
        if not isinstance(module, torch.jit.ScriptModule):
            module = torch.jit.script(module)
        torch.jit.save(
            module.cpu().eval(),
            archive,
            _extra_files={METADATA_NAME: metadata.to_json()},
        )
    content = archive.getvalue()
    _load(content, path, torch.device("cpu"), str(path))
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


def _load(content: bytes, path: AnyPath, device: torch.device, name: str) -> Model:
    """Make a model from the content of a file, and check the contract."""
    entries, metadata = read_archive(content, path)
    try:
        with quiet_jit():
            # Only verified entries reach torch.
            module = torch.jit.load(packed(entries), map_location=device)
            module.eval()
            if not hasattr(module, "init_state"):
                raise ModelFileError("it has no method init_state(n)")
        model = Model(module, metadata, device, name)
    except Exception as error:  # torch may raise any type
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFileError(f"{path} is not a usable model: {reason}.") from None
    _check_contract(model, path)
    return model


def _check_compiled(
    compiled: CompiledNetwork,
    model: Model,
    features: Float32Array,
    direction: AnyArray,
) -> None:
    """Raise ModelFileError if a kernel differs from the TorchScript it replaces.

    The points are the voxels of a volume with one row of voxels, which has ``features``
    (n, C) as coefficients.
    """
    n, order, context = len(features), model.metadata.order, model.metadata.context
    volume = np.ascontiguousarray(features[:, None, None])
    points, frames = (
        np.eye(3)[:1] * np.arange(n)[:, None],
        np.tile(np.eye(3), (n, 1, 1)),
    )
    answers = np.empty((n, model.metadata.n_answers), np.float32)
    status = np.empty(n, np.uint8)
    compiled_state, state = compiled.init_state(n), model.init_state(n)
    cone = cone_of(order, _ANGLE_DEG)
    run = compiled.prepare(
        cone, features.shape[1], _STEP_VOX, _ANGLE_DEG, 0.0, _EDGE_VOX
    )
    values = {"step_vox": _STEP_VOX, "max_angle_deg": _ANGLE_DEG}
    ahead, _ = cone.largest(features, 0.0)
    inputs = stack_inputs(model.metadata.inputs or (), values | {"ahead": ahead}, n)
    if context is not None:
        around = sample_context(context, volume, points, frames, _EDGE_VOX, features)
        features = join_context(features, around)
    for _ in range(3):  # in the first step the state is zero
        compiled.next_directions(
            run,
            volume,
            order,
            quarter_turns(order),
            points,
            frames,
            1.0,
            compiled_state,
            answers,
            status,
        )
        expected, state = model.step(features, direction, state, inputs)
        if not np.allclose(answers, expected, atol=1e-4):
            raise ModelFileError(
                f"its architecture is {model.metadata.architecture!r}, but its "
                "directions differ from those of this architecture"
            )


def _check_contract(model: Model, path: AnyPath) -> None:
    """Raise ModelFileError if a network does not follow the contract.

    It runs on three random inputs, together and one by one.
    """
    metadata, n = model.metadata, 3
    generator = np.random.default_rng(0)
    features = generator.normal(size=(n, metadata.n_features)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    direction = np.tile([0.0, 0.0, 1.0], (n, 1))
    shape = (metadata.layers, n, metadata.hidden)
    inputs = None
    if metadata.inputs is not None:
        values = dict.fromkeys(INPUT_SIZES, 1.0)
        inputs = stack_inputs(metadata.inputs, values, n)
    try:
        state = model.init_state(n)
        if tuple(state.shape) != shape:
            raise ModelFileError(
                f"init_state({n}) has the shape {tuple(state.shape)}, not {shape}"
            )
        if state.dtype != torch.float32 or state.any():
            raise ModelFileError(f"init_state({n}) is not all float32 zeros")
        together, after = model.step(features, direction, state, inputs)
        answers = (n, metadata.n_answers)
        if together.shape != answers or tuple(after.shape) != shape:
            raise ModelFileError(
                f"forward returns shapes {together.shape} and {tuple(after.shape)}, "
                f"not {answers} and {shape}"
            )
        if together.dtype != np.float32 or after.dtype != torch.float32:
            raise ModelFileError(
                f"forward returns {together.dtype} and {after.dtype}, not float32"
            )
        for i in range(n):
            row = slice(i, i + 1)
            alone, _ = model.step(
                features[row],
                direction[row],
                model.init_state(1),
                None if inputs is None else inputs[row],
            )
            if not np.allclose(alone, together[row], atol=1e-3, equal_nan=True):
                raise ModelFileError(
                    "a row of its output depends on the other rows (batch statistics?)"
                )
        if model.compiled is not None:
            own = features[:, : metadata.channels]
            _check_compiled(model.compiled, model, own, direction)
    except ModelFileError as error:
        raise ModelFileError(f"{path} breaks the contract: {error}.") from None
    except Exception as error:  # the code of an archive may raise any type
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ModelFileError(f"{path} breaks the contract: {reason}.") from None
