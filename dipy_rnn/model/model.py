"""A network that is ready to track, with its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
import warnings

import numpy as np

from dipy_rnn._checks import check_number
from dipy_rnn._typing import AnyArray, Float32Array
from dipy_rnn.model.device import check_device
from dipy_rnn.model.metadata import ModelFileError, ModelMetadata
from dipy_rnn.model.weights import compile_network, has_kernel, read_weights
from dipy_rnn.sampling import FeatureVolume, sh_order, with_order

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dipy_rnn.model.kernels._layers import CompiledNetwork
    from dipy_rnn.model.torchscript import ScriptedNetwork

#: Methods of tracking, with DIPY's names.
TRACKING_METHODS = ("deterministic", "probabilistic")


class Model:
    """A network that is ready to track, and its metadata.

    :func:`dipy_rnn.model.load_model` makes one. It holds no hidden states.

    On the CPU, a network whose file holds its weights as plain arrays runs as a kernel
    (a compiled function), without torch. Its TorchScript is loaded when it is needed:
    for :meth:`init_state`, :meth:`step` and :meth:`propagate`. Any other TorchScript is
    loaded at once.

    Parameters
    ----------
    metadata : ModelMetadata
    name : str
        Its name in error messages.
    network : mapping of str to bytes, or ScriptedNetwork
        The entries of a model file (:func:`dipy_rnn.model.archive.read_archive`), or
        the network as TorchScript.
    device : str
        Where the network runs, as :func:`dipy_rnn.model.check_device` returns it.

    Raises
    ------
    ModelFileError
        If the weights are not those of the architecture in the metadata, or if the
        TorchScript of a file is loaded and breaks the contract. Whether a
        ScriptedNetwork follows the contract is not tested.

    Examples
    --------
    >>> from dipy_rnn.model import load_model
    >>> model = load_model("deterministic")
    >>> direction, state = model.step(
    ...     np.zeros((2, 45), np.float32), np.array([[0, 0, 1]] * 2),
    ...     model.init_state(2), np.ones((2, 5), np.float32))
    >>> direction.shape
    (2, 3)
    """

    def __init__(
        self,
        metadata: ModelMetadata,
        name: str,
        network: Mapping[str, bytes] | ScriptedNetwork,
        device: str,
    ) -> None:
        self.metadata = metadata
        self.name = name
        self.device = device
        self._network = network
        self._script = None if isinstance(network, Mapping) else network
        #: The network as a kernel (a compiled function), if its architecture has one
        #: and the device is the CPU. Otherwise None.
        self.compiled: CompiledNetwork | None = None
        if device != "cpu" or not has_kernel(metadata):
            self.load_script()
            return
        weights: dict[str, AnyArray] = {}
        if isinstance(network, Mapping):
            weights = read_weights(network, name)
        weights = weights or self.load_script().parameters
        self.compiled = compile_network(weights, metadata, name)

    def load_script(self) -> ScriptedNetwork:
        """Load the TorchScript with torch, and check it, if this was not done before.

        Returns
        -------
        script : ScriptedNetwork

        Raises
        ------
        ModelFileError
            If it cannot be loaded, breaks the contract, or has other weights than those
            that the file holds as plain arrays.
        """
        if self._script is None:
            from dipy_rnn.model.contract import load_script

            assert isinstance(self._network, Mapping)
            self._script = load_script(
                self._network, self.metadata, self.name, self.device
            )
        return self._script

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what the model was made from, since kernels cannot be pickled."""
        return _restored, (self.metadata, self.name, self._network, self.device)

    def init_state(self, n: int) -> Tensor:
        """As :meth:`dipy_rnn.model.torchscript.ScriptedNetwork.init_state`."""
        return self.load_script().init_state(n)

    def step(
        self,
        features: Float32Array,
        direction: AnyArray,
        state: Tensor,
        inputs: Float32Array | None = None,
    ) -> tuple[Float32Array, Tensor]:
        """As :meth:`dipy_rnn.model.torchscript.ScriptedNetwork.step`."""
        return self.load_script().step(features, direction, state, inputs)

    def propagate(
        self,
        features: Tensor,
        direction: Tensor,
        state: Tensor,
        inputs: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`dipy_rnn.model.torchscript.ScriptedNetwork.propagate`."""
        return self.load_script().propagate(features, direction, state, inputs)

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
    ValueError
        If the network is neither on the CPU nor on a CUDA device.

    Examples
    --------
    >>> from dipy_rnn.model import MovingFrameGRU
    >>> metadata = ModelMetadata("sh", 15, "local", layers=1, hidden=8,
    ...                          inputs=MovingFrameGRU.inputs)
    >>> as_model(MovingFrameGRU(order=4, hidden=8), metadata).metadata.order
    4
    """
    from dipy_rnn.model.torchscript import ScriptedNetwork

    script = ScriptedNetwork.of(module)
    return Model(metadata, name, script, check_device(script.device))


def _restored(
    metadata: ModelMetadata,
    name: str,
    network: Mapping[str, bytes] | ScriptedNetwork,
    device: str,
) -> Model:
    """Make a model from what :meth:`Model.__reduce__` pickles.

    Raises
    ------
    ValueError
        If this machine does not have the device.
    """
    return Model(metadata, name, network, check_device(device))
