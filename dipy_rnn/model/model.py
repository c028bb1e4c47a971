"""A network that is ready to track, with its metadata.

Except for decorators, ``torch.jit`` is called only in this module and in ``file.py``.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
import io
from itertools import chain
from typing import Any, TypeAlias
import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from dipy_rnn._checks import check_number
from dipy_rnn._typing import AnyArray, Float32Array
from dipy_rnn.model.architectures import ARCHITECTURES
from dipy_rnn.model.kernels._context_gru import CompiledContextGRU
from dipy_rnn.model.kernels._moving_frame import CompiledMovingFrameGRU
from dipy_rnn.model.metadata import ModelFileError, ModelMetadata
from dipy_rnn.sampling import FeatureVolume, sh_order, with_order

#: A network as a kernel (a compiled function).
CompiledNetwork: TypeAlias = CompiledContextGRU | CompiledMovingFrameGRU

#: Methods of tracking, with DIPY's names.
TRACKING_METHODS = ("deterministic", "probabilistic")

#: A TorchScript network gets whole blocks of rows. In an incomplete block torch adds
#: numbers in another order. The last digit of a result would then depend on the number
#: of rows, and such differences can grow to millimetres along a streamline.
ROWS_IN_A_BLOCK = 32


class Model:
    """A network that is ready to track, and its metadata.

    :func:`dipy_rnn.model.load_model` makes one. It holds no hidden states.

    Parameters
    ----------
    module : torch.jit.ScriptModule
        The network. It follows the contract of a model file
        (:mod:`dipy_rnn.model.file`).
    metadata : ModelMetadata
    device : torch.device
    name : str
        Its name in error messages.

    Examples
    --------
    >>> from dipy_rnn.model import load_model
    >>> model = load_model("fast")
    >>> direction, state = model.step(
    ...     np.zeros((2, 45), np.float32), np.array([[0, 0, 1]] * 2),
    ...     model.init_state(2), np.ones((2, 5), np.float32))
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
        #: The network as a kernel (a compiled function), if its architecture has one
        #: and the device is the CPU. Otherwise None.
        self.compiled: CompiledNetwork | None = None
        if device.type == "cpu":
            self.compiled = _compiled(module, metadata)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the network as its archive, since TorchScript cannot be pickled."""
        archive = io.BytesIO()
        with quiet_jit():
            torch.jit.save(self._module, archive)
        content = archive.getvalue()
        return _from_archive, (content, self.metadata, str(self.device), self.name)

    def init_state(self, n: int) -> Tensor:
        """Return the hidden states of n new streamlines: (layers, n, hidden), zeros."""
        state: Tensor = self._module.init_state(n)
        return state.to(self.device).clone()

    def step(
        self,
        features: Float32Array,
        direction: AnyArray,
        state: Tensor,
        inputs: Float32Array | None = None,
    ) -> tuple[Float32Array, Tensor]:
        """Return the next directions of n streamlines, and their new hidden states.

        Parameters
        ----------
        features : ndarray of shape (n, C)
            float32.
        direction : ndarray of shape (n, 3)
            Incoming unit directions, in the moving frames or along the voxel axes
            (``metadata.frame``).
        state : torch.Tensor of shape (layers, n, hidden)
        inputs : ndarray of shape (n, W), optional
            Declared inputs, float32 (:func:`dipy_rnn.model.stack_inputs`). None for a
            model of format 1.

        Returns
        -------
        answers : ndarray of shape (n, 3 + number of declared outputs)
            float32. Directions along the same axes, of any length, then the declared
            outputs.
        state : torch.Tensor of shape (layers, n, hidden)
        """
        n = len(features)
        padding = (0, 0, 0, -n % ROWS_IN_A_BLOCK)
        seen = torch.from_numpy(features).to(self.device)
        incoming = torch.from_numpy(direction.astype(np.float32)).to(self.device)
        declared = None
        if inputs is not None:
            declared = pad(torch.from_numpy(inputs).to(self.device), padding, value=1.0)
        answer, state = self.propagate(
            pad(seen, padding), pad(incoming, padding), pad(state, padding), declared
        )
        return answer[:n].cpu().numpy(), state[:, :n]

    def propagate(
        self,
        features: Tensor,
        direction: Tensor,
        state: Tensor,
        inputs: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Call the network with tensors. :meth:`step` does the same for arrays.

        Parameters
        ----------
        features : torch.Tensor of shape (n, C)
            float32 on the device of the model, as the others. n should be a multiple
            of ``ROWS_IN_A_BLOCK``. Otherwise the last digits of a row depend on n.
        direction : torch.Tensor of shape (n, 3)
        state : torch.Tensor of shape (layers, n, hidden)
        inputs : torch.Tensor of shape (n, W), optional
            None for a model of format 1.

        Returns
        -------
        answers : torch.Tensor of shape (n, 3 + number of declared outputs)
        state : torch.Tensor of shape (layers, n, hidden)
        """
        # TorchScript's optimiser is off, as it compiles again for each new batch size.
        with (
            torch.no_grad(),
            torch.jit.optimized_execution(False),  # type: ignore[attr-defined]
            self._no_cudnn(),
        ):
            answer: tuple[Tensor, Tensor]
            if inputs is None:
                answer = self._module(features, direction, state)
            else:
                answer = self._module(features, direction, state, inputs)
        return answer

    def _no_cudnn(self) -> AbstractContextManager[None]:
        # cuDNN's GRU is made for long sequences. It would copy the weights at each
        # step, and round products to TF32. The setting is global in torch.
        if self.device.type == "cpu":
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=False)

    def features(self, volume: FeatureVolume) -> Float32Array:
        """Return the data of a feature volume in the form that the network takes.

        Parameters
        ----------
        volume : dipy_rnn.sampling.FeatureVolume

        Returns
        -------
        data : ndarray of shape (X, Y, Z, C)
            float32. The array of the volume if it already fits. Coefficients of higher
            l than the order of the network are dropped. If the order of the volume is
            lower, the data are padded with zeros, except for a kernel. The kernel
            pads them itself.

        Raises
        ------
        ModelFileError
            If the volume is of another kind, or has another number of channels or
            another order than those of the training.
        """
        if not isinstance(volume, FeatureVolume):
            raise ModelFileError(
                f"features is of type {type(volume).__name__}; make them with "
                "dipy_rnn.fodf_features or raw_features, or pass an fODF as sh=... or "
                "to RNNDirectionGetter.from_shcoeff."
            )
        wanted, data = self.metadata, volume.data
        if volume.kind != wanted.kind:
            raise ModelFileError(
                f"{volume.name} is of kind {volume.kind!r}, but the model {self.name} "
                f"takes {wanted.kind!r}: "
                + (
                    "give the model an fODF (sh=..., from_shcoeff)."
                    if wanted.kind == "sh"
                    else "give the features of the model (dipy_rnn.raw_features)."
                )
            )
        if wanted.kind == "raw":
            if data.shape[3] != wanted.channels:
                raise ModelFileError(
                    f"{volume.name} has {data.shape[3]} channels, but the model "
                    f"{self.name} takes {wanted.channels}."
                )
            return data
        order = sh_order(data.shape[3])
        if min(order, wanted.order) not in wanted.orders:
            raise ModelFileError(
                f"{volume.name} is of order {order}, but the model {self.name} was "
                f"trained for {', '.join(map(str, wanted.orders))}: fit the fODF at "
                "one of these, or use another model."
            )
        if self.compiled is not None and order < wanted.order:
            return data
        return with_order(data, wanted.order)

    def check_step(self, step_mm: float) -> None:
        """Raise ModelFileError if a step in mm is outside the range of the model.

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
        # The tolerance is for rounding errors: 0.2 mm may be given as 0.19999999.
        if not low * (1 - 1e-6) <= step_mm <= high * (1 + 1e-6):
            raise ModelFileError(
                f"step_size is {step_mm:g} mm, but the model {self.name} was trained "
                f"for {low:g} to {high:g} mm: choose a step in this range."
            )

    def spread_scale(self, tracking_method: str, temperature: float) -> float:
        """Return the factor of the predicted spread with which errors are drawn.

        Parameters
        ----------
        tracking_method : str
            ``"deterministic"`` or ``"probabilistic"``.
        temperature : float

        Returns
        -------
        scale : float
            0 for deterministic tracking.

        Raises
        ------
        ValueError
            If the method is unknown, or the temperature is not above 0.
        ModelFileError
            If the method is probabilistic, but the model predicts no spread.
        """
        if tracking_method not in TRACKING_METHODS:
            raise ValueError(
                f"tracking_method is {tracking_method!r}; "
                f"{' or '.join(map(repr, TRACKING_METHODS))} is allowed."
            )
        temperature = check_number(temperature, "temperature")
        if not 0 < temperature < np.inf:
            raise ValueError(
                f"temperature is {temperature}; a finite number above 0 is allowed."
            )
        if tracking_method == "deterministic":
            return 0.0
        if "spread" not in self.metadata.outputs:
            raise ModelFileError(
                f"tracking_method is 'probabilistic', but the model {self.name} "
                "predicts no spread; use a model that does, such as 'default'."
            )
        return temperature * self.metadata.spread_scale

    def check_thresholds(self, ended_thr: float, lost_thr: float) -> None:
        """Raise an error if streamlines cannot be ended by outputs of the network.

        Parameters
        ----------
        ended_thr, lost_thr : float
            See :class:`dipy_rnn.tracking.TrackingConfig`.

        Raises
        ------
        ValueError
            If a threshold is not a number from 0 to 1.
        ModelFileError
            If a threshold is below 1, but the model does not predict this probability.
        """
        for output, threshold in (("ended", ended_thr), ("lost", lost_thr)):
            name = f"{output}_thr"
            if not 0 <= check_number(threshold, name) <= 1:
                raise ValueError(
                    f"{name} is {threshold}; a probability from 0 to 1 is allowed."
                )
            if threshold < 1 and output not in self.metadata.outputs:
                raise ModelFileError(
                    f"{name} is {threshold:g}, but the model {self.name} does not "
                    "predict this probability; use a model that does, such as "
                    "'default', or leave it out."
                )

    def warn_of_step(self, step_mm: float, step_vox: float) -> None:
        """Warn if a step relative to the voxels is outside the range of the training.

        Parameters
        ----------
        step_mm : float
            Step in mm.
        step_vox : float
            Step divided by the edge of a voxel.

        Warns
        -----
        UserWarning
            If ``step_vox`` is outside ``metadata.step_vox``.
        """
        low, high = self.metadata.step_vox
        if not low * (1 - 1e-6) <= step_vox <= high * (1 + 1e-6):
            warnings.warn(
                f"step_size is {step_mm:g} mm, {step_vox:.3g} edges of a voxel; the "
                f"model {self.name} was trained for {low:g} to {high:g} edges. It "
                "tracks, but results with such steps were not tested.",
                stacklevel=3,
            )


def as_model(
    module: nn.Module, metadata: ModelMetadata, *, name: str = "module"
) -> Model:
    """Make a model from a network, without a file.

    Parameters
    ----------
    module : nn.Module
        A network that follows the contract. It stays on its device.
    metadata : ModelMetadata
    name : str, optional
        Its name in error messages.

    Returns
    -------
    model : Model
        If the network runs as a kernel, the model holds a copy of the weights.
        Otherwise it shares them, and further training changes the model, too.

    Raises
    ------
    ModelFileError
        If the parameters of the network are not those of the architecture in the
        metadata. Whether the network follows the contract is not tested.

    Examples
    --------
    >>> from dipy_rnn.model import MovingFrameGRU
    >>> metadata = ModelMetadata("sh", 15, "local", layers=1, hidden=8,
    ...                          inputs=MovingFrameGRU.inputs)
    >>> as_model(MovingFrameGRU(order=4, hidden=8), metadata).metadata.order
    4
    """
    tensors = chain(module.parameters(), module.buffers())
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    with quiet_jit():
        return Model(torch.jit.script(module).eval(), metadata, device, name)


def _from_archive(
    content: bytes, metadata: ModelMetadata, device: str, name: str
) -> Model:
    """Make a model from what :meth:`Model.__reduce__` pickles.

    Raises
    ------
    ValueError
        If this machine does not have the device.
    """
    checked = check_device(device)
    with quiet_jit():
        module = torch.jit.load(io.BytesIO(content), map_location=checked)
    return Model(module.eval(), metadata, checked, name)


def check_device(device: str | torch.device) -> torch.device:
    """Return a device that exists on this machine.

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
        If the device is unknown, or this machine does not have it.

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
                f"device is '{known}', but torch finds {count} CUDA devices on this "
                "machine; use device 'cpu'."
            )
    return known


def _compiled(
    module: torch.jit.ScriptModule, metadata: ModelMetadata
) -> CompiledNetwork | None:
    """Return a network as a kernel, or None if its architecture has no kernel."""
    network = ARCHITECTURES.get(metadata.architecture)
    if network is None or network.compiled is None:
        return None
    try:
        weights = {
            name: _as_array(name, parameter)
            for name, parameter in module.state_dict().items()
        }
        return network.compiled(weights, metadata)
    except (KeyError, ValueError) as error:
        raise ModelFileError(
            f"its architecture is {metadata.architecture!r}, but its parameters "
            f"differ ({error})"
        ) from None


def _as_array(name: str, parameter: Tensor) -> AnyArray:
    try:
        array = parameter.detach().numpy()
    except TypeError:  # NumPy has no such type
        raise ValueError(f"{name} is {parameter.dtype}, not float32") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite")
    return array


@contextmanager
def quiet_jit() -> Iterator[None]:
    """Suppress torch's warnings that TorchScript is deprecated or not supported.

    Their category and their text depend on the versions of torch and of Python.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.")
        yield
