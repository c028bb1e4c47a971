"""Model files: a TorchScript archive that says itself what it is.

The archive holds the network, so that it runs without our Python classes, and
``metadata.json``, so that it cannot be misused: what features it wants, in which
frame it answers, for which steps it was trained, where it comes from. All of the file
but its code is read and checked before any of its code is loaded.

.. warning:: A TorchScript archive is a program. Load only ones you trust
   (``doc/model_file.md`` tells what it can do).

The contract of the network, all tensors float32 (``doc/model_file.md``)::

    init_state(n: int) -> state                          (layers, n, hidden), zeros
    forward(features, direction, state) -> (direction, state)
            (n, C)    (n, 3)               (n, 3)

Row ``i`` of the answer may depend on row ``i`` of the input alone. A direction of
length zero means stop.

Every call of ``torch.jit`` in the package is in this module.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
import hashlib
from importlib import resources
import io
from itertools import chain
import json
import math
from pathlib import Path
import pickle
import pickletools
from typing import Any, Self
import warnings
import zipfile

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from dipy_rnn import interpolate, sh
from dipy_rnn._atomic import atomic_write
from dipy_rnn._network import CompiledPropagator
from dipy_rnn._typing import AnyArray, AnyPath, Float32Array
from dipy_rnn.model import ARCHITECTURES, Compasses

FORMAT = "dipy_rnn model"
FORMAT_VERSION = 1

#: A TorchScript is given whole blocks of rows: the rest of a block is summed in
#: another order, and a row's answer would depend, in its last digit, on how many rows
#: there are. Some streamlines make millimetres of it.
ROWS_IN_A_BLOCK = 32

#: What a file may be. The largest network of ours, cai2023, has 17 MB of parameters
#: in some 60 entries, and a state of 1024 floats for each streamline.
FILE_LIMIT = 1 << 28
ENTRIES_LIMIT = 1 << 12
STATE_LIMIT = 1 << 14

#: Beside the models that ship, as ``sha256sum --check`` reads it.
CHECKSUMS = "SHA256SUMS"

_METADATA_NAME = "metadata.json"
_METADATA_LIMIT = 1 << 20
_REMEDY = "doc/model_file.md tells how to write the metadata of a foreign model"


class ModelFileError(ValueError):
    """A file that is no model, or a model that does not fit its use."""


@dataclass(frozen=True)
class ModelMetadata:
    """What a model is, in the words of its file.

    Parameters
    ----------
    kind : str
        ``"sh"``: fODF coefficients in ``tournier07``, not legacy; ``"raw"``: the
        features as they are given.
    channels : int
        Number of features.
    frame : str
        ``"local"``: features (spherical harmonics) and directions are in the moving
        frame of the streamline; ``"voxel"``: along the voxel axes.
    layers, hidden : int
        Shape of the state: (layers, n, hidden).
    orders : tuple of int, optional
        For ``"sh"``: orders of data that it was trained for; lower ones than its own
        are padded with zeros.
    normalisation : str, optional
        ``"power"``: the features at a point are divided by the root of their summed
        squares, which makes them independent of the fODF's scale; ``"none"``.
    step_mm : tuple of float, optional
        Smallest and largest step that it was trained for.
    architecture : str, optional
        Name among :data:`dipy_rnn.model.ARCHITECTURES`, ``""`` for a foreign network.
        The network of ``"moving_frame"`` is run compiled on the CPU, any other as the
        TorchScript it is.
    replay_points : int, optional
        How many points of the forward half are shown to the network in reverse before
        the backward half, from the seed; all if None.
    provenance : dict, optional
        Where it comes from: data, recipe, versions, metrics.

    Raises
    ------
    ModelFileError
        If an entry is not one of the above.

    Examples
    --------
    >>> ModelMetadata("raw", 3, "voxel", 1, 1).step_mm
    (0.0, inf)
    """

    kind: str
    channels: int
    frame: str
    layers: int
    hidden: int
    orders: tuple[int, ...] = ()
    normalisation: str = "none"
    step_mm: tuple[float, float] = (0.0, float("inf"))
    architecture: str = ""
    replay_points: int | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, allowed in (
            ("kind", ("sh", "raw")),
            ("frame", ("local", "voxel")),
            ("normalisation", ("power", "none")),
            ("architecture", (*ARCHITECTURES, "")),
        ):
            if getattr(self, name) not in allowed:
                raise ModelFileError(
                    f"{name} is {getattr(self, name)!r}; "
                    f"{' or '.join(map(repr, allowed))} is allowed"
                )
        for name in ("channels", "layers", "hidden"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ModelFileError(f"{name} is {value!r}; give an integer from 1 up")
            if value > 1 << 20:
                raise ModelFileError(f"{name} is {value}; that is no model for a CPU")
        if self.layers * self.hidden > STATE_LIMIT:
            raise ModelFileError(
                f"layers and hidden are {self.layers} and {self.hidden}; "
                f"{STATE_LIMIT} floats of state for a streamline are allowed"
            )
        if self.kind == "sh":
            try:
                order = interpolate.sh_order(self.channels)
            except ValueError as error:
                raise ModelFileError(f"channels: {error}") from None
            orders = self.orders or (order,)
            if not isinstance(orders, (tuple, list)) or any(
                type(o) is not int or o not in range(4, order + 1, 2) for o in orders
            ):
                raise ModelFileError(
                    f"orders is {orders!r}; even orders from 4 to {order} are allowed"
                )
            object.__setattr__(self, "orders", tuple(sorted(orders)))
        elif self.frame == "local":
            raise ModelFileError(
                "frame is 'local', which only features of kind 'sh' can be turned into"
            )
        seen = self.kind, self.frame, self.normalisation
        if self.architecture == "moving_frame" and seen != ("sh", "local", "power"):
            raise ModelFileError(
                "architecture is 'moving_frame', whose features are of kind 'sh' in "
                "the frame 'local' with the normalisation 'power'"
            )
        replayed = self.replay_points
        if replayed is not None and (type(replayed) is not int or replayed < 0):
            raise ModelFileError(
                f"replay_points is {replayed!r}; give an integer from 0 up, or null"
            )
        try:
            low, high = map(float, self.step_mm)
        except (TypeError, ValueError, OverflowError):
            low, high = np.nan, np.nan
        if not 0 <= low <= high:
            raise ModelFileError(
                f"step_mm is {self.step_mm!r}; give the smallest and largest"
            )
        object.__setattr__(self, "step_mm", (low, high))

    @property
    def order(self) -> int:
        """Spherical harmonic order of the features; for ``"sh"`` alone."""
        return interpolate.sh_order(self.channels)

    def to_json(self) -> str:
        """Return the text that goes into the archive."""
        entries = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        if self.kind == "sh":
            entries |= {"basis": "tournier07", "legacy": False}
        return json.dumps(entries, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the text of :meth:`to_json` and check every entry of it."""
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError):
            raise ModelFileError("its metadata is not JSON") from None
        if not isinstance(entries, dict) or entries.pop("format", None) != FORMAT:
            raise ModelFileError(f"its metadata is not that of a {FORMAT}")
        version = entries.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ModelFileError(
                f"its format version is {version!r} and this dipy_rnn reads "
                f"{FORMAT_VERSION}: update dipy_rnn, or train the model again"
            )
        basis = (entries.pop("basis", "tournier07"), entries.pop("legacy", False))
        if basis != ("tournier07", False):
            raise ModelFileError(
                f"its basis is {basis!r}; models take ('tournier07', False), so "
                "permute the coefficients inside the network"
            )
        known = cls.__dataclass_fields__.keys()
        required = {"kind", "channels", "frame", "layers", "hidden"}
        if unknown := sorted(entries.keys() - known):
            raise ModelFileError(f"its metadata has unknown entries: {unknown}")
        if missing := sorted(required - entries.keys()):
            raise ModelFileError(f"its metadata lacks {missing}")
        if not isinstance(entries.get("orders", []), list):
            raise ModelFileError(f"orders is {entries['orders']!r}; give a list")
        if not isinstance(entries.get("provenance", {}), dict):
            raise ModelFileError("provenance is not a JSON object")
        entries["orders"] = tuple(entries.get("orders", ()))
        return cls(**entries)


class Model:
    """A network ready to track, and its metadata.

    Use :func:`load_model`; the class has no state of its own.

    Parameters
    ----------
    module : torch.jit.ScriptModule
        Follows the contract above.
    metadata : ModelMetadata
    device : torch.device
    name : str
        What errors call it.

    Examples
    --------
    >>> model = load_model("default")
    >>> direction, state = model.step(
    ...     np.zeros((2, 45), np.float32), np.array([[0, 0, 1]] * 2),
    ...     model.init_state(2))
    >>> direction.shape
    (2, 3)
    """

    def __init__(
        self,
        module: torch.jit.ScriptModule,
        metadata: ModelMetadata,
        device: torch.device,
        name: str,
    ) -> None:
        self._module = module
        self.metadata = metadata
        self.device = device
        self.name = name
        #: The network compiled, where it has an architecture of ours and the device is
        #: the CPU; else None.
        self.compiled: CompiledPropagator | None = None
        if metadata.architecture == "moving_frame" and device.type == "cpu":
            self.compiled = _compiled(module, metadata)

    def init_state(self, n: int) -> Tensor:
        """Return fresh states of shape (layers, n, hidden) on the device."""
        state: Tensor = self._module.init_state(n)
        return state.to(self.device).clone()

    def step(
        self, features: Float32Array, direction: AnyArray, state: Tensor
    ) -> tuple[Float32Array, Tensor]:
        """Ask the network once for n streamlines.

        Parameters
        ----------
        features : ndarray of shape (n, C)
            float32.
        direction : ndarray of shape (n, 3)
            Incoming unit directions in the model's frame.
        state : torch.Tensor of shape (layers, n, hidden)

        Returns
        -------
        direction : ndarray of shape (n, 3)
            float32, as the network gave it.
        state : torch.Tensor of shape (layers, n, hidden)
        """
        n = len(features)
        padding = (0, 0, 0, -n % ROWS_IN_A_BLOCK)
        seen = torch.from_numpy(features).to(self.device)
        incoming = torch.from_numpy(direction.astype(np.float32)).to(self.device)
        answer, state = self.propagate(
            pad(seen, padding), pad(incoming, padding), pad(state, padding)
        )
        return answer[:n].cpu().numpy(), state[:, :n]

    def propagate(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Call the network as it is, with float32 tensors on its device.

        Parameters
        ----------
        features : torch.Tensor of shape (n, C)
        direction : torch.Tensor of shape (n, 3)
        state : torch.Tensor of shape (layers, n, hidden)

        Returns
        -------
        direction : torch.Tensor of shape (n, 3)
        state : torch.Tensor of shape (layers, n, hidden)
        """
        # Without the optimiser: it compiles anew for each batch size it meets.
        with (
            torch.no_grad(),
            torch.jit.optimized_execution(False),  # type: ignore[attr-defined]
            self._no_cudnn(),
        ):
            answer: tuple[Tensor, Tensor] = self._module(features, direction, state)
        return answer

    def _no_cudnn(self) -> AbstractContextManager[None]:
        # Its GRU is made for long sequences: at each step it would copy the weights
        # together, and it rounds products to TF32. The setting is global.
        if self.device.type == "cpu":
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=False)

    def features(self, volume: sh.FeatureVolume) -> Float32Array:
        """Bring a feature volume into the shape the network was trained for.

        Parameters
        ----------
        volume : dipy_rnn.sh.FeatureVolume

        Returns
        -------
        data : ndarray of shape (X, Y, Z, C)
            float32; the volume's own array where nothing had to be done. A lower order
            than the network's is padded with zeros, but not for a compiled network,
            which knows.

        Raises
        ------
        ModelFileError
            If the kind, the number of channels or the order does not fit.
        """
        if not isinstance(volume, sh.FeatureVolume):
            raise ModelFileError(
                f"features is of type {type(volume).__name__}; make them with "
                "dipy_rnn.fodf_features or raw_features, or pass a fODF as sh=... or "
                "to RNNDirectionGetter.from_shcoeff."
            )
        wanted, data = self.metadata, volume.data
        if volume.kind != wanted.kind:
            raise ModelFileError(
                f"{volume.name} is of kind {volume.kind!r}, but the model {self.name} "
                f"takes {wanted.kind!r}: "
                + (
                    "give it a fODF (sh=..., from_shcoeff)."
                    if wanted.kind == "sh"
                    else "pass its own features (dipy_rnn.sh.raw_features)."
                )
            )
        if wanted.kind == "raw":
            if data.shape[3] != wanted.channels:
                raise ModelFileError(
                    f"{volume.name} has {data.shape[3]} channels, but the model "
                    f"{self.name} takes {wanted.channels}."
                )
            return data
        order = interpolate.sh_order(data.shape[3])
        if min(order, wanted.order) not in wanted.orders:
            raise ModelFileError(
                f"{volume.name} is of order {order}, but the model {self.name} was "
                f"trained for {', '.join(map(str, wanted.orders))}: fit the fODF at "
                "one of these, or use another model."
            )
        if self.compiled is not None and order < wanted.order:
            return data
        return sh.with_order(data, wanted.order)

    def check_step(self, step_mm: float) -> None:
        """Refuse a step that the model was not trained for.

        Parameters
        ----------
        step_mm : float
            Step in mm.

        Raises
        ------
        ModelFileError
            If it is outside ``metadata.step_mm``.
        """
        low, high = self.metadata.step_mm
        # A hair of tolerance: 0.2 mm may arrive as 0.19999999.
        if not low * (1 - 1e-6) <= step_mm <= high * (1 + 1e-6):
            raise ModelFileError(
                f"step_size is {step_mm:g} mm, but the model {self.name} was trained "
                f"for {low:g} to {high:g} mm: choose a step in this range."
            )


def shipped_models() -> list[str]:
    """Return the names of the models in the package.

    Returns
    -------
    names : list of str

    Examples
    --------
    >>> "default" in shipped_models()
    True
    """
    folder = resources.files("dipy_rnn.models")
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".pt"))


def model_path(model: AnyPath | None = None) -> Path:
    """Find a model file.

    Parameters
    ----------
    model : str or Path, optional
        Name of a shipped model, or a file. None for ``"default"``.

    Returns
    -------
    path : Path

    Raises
    ------
    FileNotFoundError
        If there is neither a shipped model nor a file of that name.

    Examples
    --------
    >>> model_path().name
    'default.pt'
    """
    model = "default" if model is None else model
    if str(model) in shipped_models():
        return Path(str(resources.files("dipy_rnn.models") / f"{model}.pt"))
    if not Path(model).is_file():
        raise FileNotFoundError(
            f"No model file {model}; give a file that exists, or one of the shipped "
            f"models: {', '.join(shipped_models())}."
        )
    return Path(model)


def read_metadata(path: AnyPath) -> ModelMetadata:
    """Read the metadata of a model file; no code of the archive runs.

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
        If it is no model file, or its metadata is wrong.

    Examples
    --------
    >>> read_metadata(model_path("default")).kind
    'sh'
    """
    return _read(_content(path), path)[1]


def load_model(
    model: AnyPath | Model | None = None, *, device: str | None = None
) -> Model:
    """Load a model, and refuse one that does not keep the contract.

    Parameters
    ----------
    model : str, Path or Model, optional
        Name of a shipped model (:func:`shipped_models`), or a file. None for
        ``"default"``. A loaded model is given back as it is.
    device : str, optional
        ``"cpu"`` (also for None) or a CUDA device, ``"cuda"``.

    Returns
    -------
    model : Model

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        If it is no model file, or the network does not do what its metadata says, or
        a model of the package is not the one that was shipped.
    ValueError
        If there is no such device.

    Examples
    --------
    >>> load_model("default").metadata.frame
    'local'
    """
    if isinstance(model, Model):
        if device is not None and check_device(device) != model.device:
            raise ValueError(
                f"device is '{device}', but the model was loaded on '{model.device}'; "
                "load it there, or leave device out."
            )
        return model
    checked = check_device("cpu" if device is None else device)
    path = model_path(model)
    content = _content(path)
    name = str(model or "default")
    if name in shipped_models():
        _check_checksum(content, path)
    return _load(content, path, checked, name)


def save_model(module: nn.Module, metadata: ModelMetadata, path: AnyPath) -> None:
    """Write a model file.

    Parameters
    ----------
    module : nn.Module or torch.jit.ScriptModule
        A network that follows the contract; it is put on the CPU, in evaluation mode.
    metadata : ModelMetadata
    path : str or Path
        Written under a temporary name and moved into place when complete.

    Raises
    ------
    ModelFileError
        If the network does not do what the metadata says.

    Examples
    --------
    >>> import tempfile
    >>> from dipy_rnn.model import RecurrentPropagator
    >>> network = RecurrentPropagator(order=4, hidden=8)
    >>> metadata = ModelMetadata("sh", 15, "local", layers=1, hidden=8)
    >>> path = Path(tempfile.mkdtemp()) / "small.pt"
    >>> save_model(network, metadata, path)
    >>> load_model(path).metadata.orders
    (4,)
    """
    archive = io.BytesIO()
    with _quiet_jit():
        if not isinstance(module, torch.jit.ScriptModule):
            module = torch.jit.script(module)
        torch.jit.save(
            module.cpu().eval(),
            archive,
            _extra_files={_METADATA_NAME: metadata.to_json()},
        )
    content = archive.getvalue()
    _load(content, path, torch.device("cpu"), str(path))
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def as_model(
    module: nn.Module, metadata: ModelMetadata, *, name: str = "module"
) -> Model:
    """Make a network ready to track, as it is, without a file.

    Parameters
    ----------
    module : nn.Module
        A network that follows the contract; it stays where it is.
    metadata : ModelMetadata
    name : str, optional
        What errors call it.

    Returns
    -------
    model : Model
        A compiled network has the weights of now; what is learned later is not in it.

    Raises
    ------
    ModelFileError
        If its architecture is said to be ``"moving_frame"``, and its parameters are
        others. That it keeps the contract is not tried out.

    Examples
    --------
    >>> from dipy_rnn.model import RecurrentPropagator
    >>> metadata = ModelMetadata("sh", 15, "local", layers=1, hidden=8)
    >>> as_model(RecurrentPropagator(order=4, hidden=8), metadata).metadata.order
    4
    """
    tensors = chain(module.parameters(), module.buffers())
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    with _quiet_jit():
        return Model(torch.jit.script(module).eval(), metadata, device, name)


def check_device(device: str | torch.device) -> torch.device:
    """Return a device that is there.

    Parameters
    ----------
    device : str or torch.device
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` ..

    Returns
    -------
    device : torch.device

    Raises
    ------
    ValueError
        If it is unknown or not there.

    Examples
    --------
    >>> check_device("cpu").type
    'cpu'
    """
    known: torch.device | None
    try:
        known = torch.device(device)
    except (RuntimeError, TypeError):
        known = None
    if known is None or known.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}; 'cpu', 'cuda' or 'cuda:N' is allowed.")
    if known.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (known.index or 0) >= count:
            raise ValueError(
                f"device is '{known}', but this machine shows {count} CUDA devices to "
                "torch; use device 'cpu'."
            )
    return known


def _content(path: AnyPath) -> bytes:
    """Read a file of bounded size."""
    with open(path, "rb") as file:
        content = file.read(FILE_LIMIT + 1)
    if len(content) > FILE_LIMIT:
        raise ModelFileError(
            f"{path} is no usable model: it is larger than {FILE_LIMIT >> 20} MiB."
        )
    return content


def _check_checksum(content: bytes, path: Path) -> None:
    """Compare a model of the package with what was shipped."""
    line = f"{hashlib.sha256(content).hexdigest()}  {path.name}"
    known = path.parent / CHECKSUMS
    if not known.is_file() or line not in known.read_text("utf-8").splitlines():
        raise ModelFileError(
            f"{path} is not the model that was shipped (its SHA-256 is another): the "
            "installation is damaged or the file was altered; install dipy_rnn again."
        )


def _read(content: bytes, path: AnyPath) -> tuple[dict[str, bytes], ModelMetadata]:
    """Read and check all of an archive but its code, which does not run.

    Returns the entries, and the metadata.
    """
    try:
        entries = _entries(content)
        text = entries.get(f"extra/{_METADATA_NAME}")
        if text is None:
            if "data.pkl" in entries and not any(
                name.endswith(".py") for name in entries
            ):
                raise ModelFileError(
                    "it holds weights without a network, as a checkpoint does; give "
                    "the model.pt that a training leaves"
                )
            raise ModelFileError(f"it has no metadata; {_REMEDY}")
        if len(text) > _METADATA_LIMIT:
            raise ModelFileError("its metadata is larger than 1 MiB")
        metadata = ModelMetadata.from_json(text.decode("utf-8"))
        for name in ("data", "constants"):
            if f"{name}.pkl" in entries:
                _Tensors(name, entries).check()
        return entries, metadata
    except ModelFileError as error:
        raise ModelFileError(f"{path} is no usable model: {error}.") from None
    except Exception:  # a dozen kinds, of zipfile and zlib
        raise ModelFileError(
            f"{path} is no model file: it is not a TorchScript archive, as "
            "dipy_rnn.model_file.save_model writes, or it is damaged."
        ) from None


def _entries(content: bytes) -> dict[str, bytes]:
    """Return what an archive holds, by the names within its only folder."""
    # Counted before they are listed: a list takes ten times their room.
    if content.count(b"PK\x01\x02") > ENTRIES_LIMIT:
        raise ModelFileError(f"it has more than {ENTRIES_LIMIT} entries")
    entries: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        listed = archive.infolist()
        if sum(entry.file_size for entry in listed) > FILE_LIMIT:
            raise ModelFileError(
                f"its entries are larger than {FILE_LIMIT >> 20} MiB together"
            )
        if len({entry.filename.partition("/")[0] for entry in listed}) > 1:
            raise ModelFileError("its entries do not lie in one folder")
        for entry in listed:
            name = entry.filename.partition("/")[2]
            if name in entries:
                raise ModelFileError(f"it has two entries {name!r}")
            with archive.open(entry) as file:
                # No more than said, whatever it inflates to; the checksum is compared.
                entries[name] = file.read(entry.file_size)
            if len(entries[name]) != entry.file_size:
                raise ModelFileError(f"its entry {name!r} is cut short")
    return entries


# What torch calls the kinds of numbers of an entry.
_DTYPES = {
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8,
    "QInt32Storage": torch.int32,
}


class _Tensors(pickle.Unpickler):
    """Checks the tensors that torch pickled; nothing is imported or called.

    torch does not: of a tensor whose entry is shorter than it says, the rest is
    whatever lies in memory behind it.
    """

    def __init__(self, folder: str, entries: dict[str, bytes]) -> None:
        self._text = entries[f"{folder}.pkl"]
        super().__init__(io.BytesIO(self._text))
        self._folder, self._entries = folder, entries

    def check(self) -> None:
        try:
            for opcode, argument, _ in pickletools.genops(self._text):
                # The place in a table that grows with it, not with the file.
                if (
                    "PUT" in opcode.name
                    and isinstance(argument, int)
                    and argument > len(self._text)
                ):
                    raise ValueError("more is remembered than there is")
            self.load()
        except ModelFileError:
            raise
        except Exception:  # a pickle can be wrong in any way
            raise ModelFileError(f"its {self._folder}.pkl cannot be read") from None

    def find_class(self, module: str, name: str) -> Callable[..., object] | torch.dtype:
        known: dict[str, Callable[..., object]] = {
            "torch._utils._rebuild_tensor_v2": self._rebuild,
            "torch._utils._rebuild_qtensor": self._rebuild,
            "collections.OrderedDict": dict,
        }
        if f"{module}.{name}" in known:
            return known[f"{module}.{name}"]
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch.jit._pickle":  # tells types of lists and the like
            return lambda value, *_: value
        if module.partition(".")[0] == "__torch__":

            class Part:
                """Of the network."""

                def __setstate__(self, state: object) -> None:
                    self.state = state

            return Part
        raise ModelFileError(f"its {self._folder}.pkl holds a {module}.{name}")

    def persistent_load(self, reference: tuple[str, torch.dtype, str, str, int]) -> int:
        _, dtype, key, _, n = reference
        name = f"{self._folder}/{key}"
        entry = self._entries.get(name, b"")
        if len(entry) != n * dtype.itemsize:
            raise ModelFileError(
                f"its entry {name!r} has {len(entry)} bytes, not {n * dtype.itemsize}"
            )
        return n

    def _rebuild(
        self, n: int, start: int, shape: Sequence[int], strides: Sequence[int], *_: Any
    ) -> None:
        if start < 0 or any(k < 0 for k in (*shape, *strides)) or math.prod(shape) > n:
            raise ModelFileError("a tensor is larger than its entry")
        last = start + sum((k - 1) * by for k, by in zip(shape, strides, strict=True))
        if math.prod(shape) and last >= n:
            raise ModelFileError("a tensor is larger than its entry")


def _load(content: bytes, path: AnyPath, device: torch.device, name: str) -> Model:
    """Make a model of what a file holds, and refuse one that breaks the contract."""
    entries, metadata = _read(content, path)
    # torch gets what was checked, not what else it might find in the file.
    checked = io.BytesIO()
    with zipfile.ZipFile(checked, "w") as archive:
        for entry, text in entries.items():
            archive.writestr(f"archive/{entry}", text)
    checked.seek(0)
    try:
        with _quiet_jit():
            module = torch.jit.load(checked, map_location=device)
            module.eval()
            if not hasattr(module, "init_state"):
                raise ModelFileError("it has no method init_state(n)")
        model = Model(module, metadata, device, name)
    except Exception as error:  # torch raises whatever Python knows
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFileError(f"{path} is no usable model: {reason}.") from None
    _check_contract(model, path)
    return model


def _compiled(
    module: torch.jit.ScriptModule, metadata: ModelMetadata
) -> CompiledPropagator:
    """Compile a network that says it is a RecurrentPropagator, if that is true."""
    try:
        weights = {
            name: _as_array(name, parameter)
            for name, parameter in module.state_dict().items()
        }
        depth = sum(name.startswith("deeper.") for name in weights) // 2
        return CompiledPropagator(
            weights,
            Compasses.of(metadata.order),
            depth,
            metadata.layers,
            metadata.hidden,
        )
    except (KeyError, ValueError) as error:
        raise ModelFileError(
            "its architecture is 'moving_frame', but its parameters are others "
            f"({error})"
        ) from None


def _as_array(name: str, parameter: Tensor) -> AnyArray:
    try:
        array = parameter.detach().numpy()
    except TypeError:  # one that numpy does not know
        raise ValueError(f"{name} is {parameter.dtype}, not float32") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite")
    return array


def _check_compiled(
    compiled: CompiledPropagator,
    model: Model,
    features: Float32Array,
    direction: AnyArray,
) -> None:
    """Compare a compiled network with the TorchScript that it stands for."""
    n, order = len(features), model.metadata.order
    answers, found = np.empty((n, 3), np.float32), np.empty(n, np.uint8)
    compiled_state, state = compiled.init_state(n), model.init_state(n)
    for _ in range(3):  # memory shows from the second on
        compiled.turn(
            np.ascontiguousarray(features[:, None, None]),
            order,
            interpolate.quarter_turns(order),
            np.eye(3)[:1] * np.arange(n)[:, None],
            np.tile(np.eye(3), (n, 1, 1)),
            1.0,
            compiled_state,
            answers,
            found,
        )
        expected, state = model.step(features, direction, state)
        if not np.allclose(answers, expected, atol=1e-4):
            raise ModelFileError(
                "its architecture is 'moving_frame', but its answers are others"
            )


def _check_contract(model: Model, path: AnyPath) -> None:
    """Run three made-up streamlines, together and alone."""
    metadata, n = model.metadata, 3
    generator = np.random.default_rng(0)
    features = generator.normal(size=(n, metadata.channels)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    direction = np.tile([0.0, 0.0, 1.0], (n, 1))
    shape = (metadata.layers, n, metadata.hidden)
    try:
        state = model.init_state(n)
        if tuple(state.shape) != shape:
            raise ModelFileError(
                f"init_state({n}) has the shape {tuple(state.shape)}, not {shape}"
            )
        if state.dtype != torch.float32 or state.any():
            raise ModelFileError(f"init_state({n}) is not all float32 zeros")
        together, after = model.step(features, direction, state)
        if together.shape != (n, 3) or tuple(after.shape) != shape:
            raise ModelFileError(
                f"forward answers shapes {together.shape} and {tuple(after.shape)}, "
                f"not {(n, 3)} and {shape}"
            )
        if together.dtype != np.float32 or after.dtype != torch.float32:
            raise ModelFileError(
                f"forward answers {together.dtype} and {after.dtype}, not float32"
            )
        for i in range(n):
            row = slice(i, i + 1)
            alone, _ = model.step(features[row], direction[row], model.init_state(1))
            if not np.allclose(alone, together[row], atol=1e-3, equal_nan=True):
                raise ModelFileError(
                    "a row of its answer depends on the other rows (batch statistics?)"
                )
        if model.compiled is not None:
            _check_compiled(model.compiled, model, features, direction)
    except ModelFileError as error:
        raise ModelFileError(f"{path} breaks the contract: {error}.") from None
    except Exception as error:  # the program that an archive is may raise any
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ModelFileError(f"{path} breaks the contract: {reason}.") from None


@contextmanager
def _quiet_jit() -> Iterator[None]:
    """Keep torch's deprecation of TorchScript, known and waited for, from users."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        yield
