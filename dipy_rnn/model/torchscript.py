"""Networks as TorchScript.

Except for decorators, ``torch.jit`` is called only in this module.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
import io
from itertools import chain
from typing import Any, Self
import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from dipy_rnn._typing import AnyArray, Float32Array
from dipy_rnn.model.device import check_device
from dipy_rnn.model.metadata import ModelFileError

#: A network gets whole blocks of rows. In an incomplete block torch adds numbers in
#: another order. The last digit of a result would then depend on the number of rows,
#: and such differences can grow to millimetres along a streamline.
ROWS_IN_A_BLOCK = 32


class ScriptedNetwork:
    """A network as TorchScript, on a device.

    It follows the contract of a model file (:mod:`dipy_rnn.model.file`). It holds no
    hidden states.

    Parameters
    ----------
    module : torch.jit.ScriptModule
    device : torch.device

    Examples
    --------
    >>> from dipy_rnn.model import MovingFrameGRU
    >>> network = ScriptedNetwork.of(MovingFrameGRU(order=4, hidden=8))
    >>> network.init_state(5).shape
    torch.Size([1, 5, 8])
    """

    def __init__(self, module: torch.jit.ScriptModule, device: torch.device) -> None:
        self._module = module
        self.device = device

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Make it from a module, which it shares. The module stays on its device.

        Parameters
        ----------
        module : nn.Module or torch.jit.ScriptModule

        Returns
        -------
        network : ScriptedNetwork
            In evaluation mode.
        """
        tensors = chain(module.parameters(), module.buffers())
        device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        if not isinstance(module, torch.jit.ScriptModule):
            with _quiet_jit():
                module = torch.jit.script(module)
        return cls(module.eval(), device)

    @classmethod
    def load(cls, archive: bytes, device: str = "cpu") -> Self:
        """Load it from an archive. This runs code of the archive.

        Parameters
        ----------
        archive : bytes
        device : str, optional

        Returns
        -------
        network : ScriptedNetwork
            In evaluation mode.

        Raises
        ------
        ValueError
            If this machine does not have the device, or the network has no method
            ``init_state``.
        Exception
            Of any type, if torch cannot load the archive.
        """
        on = torch.device(check_device(device))
        with _quiet_jit():
            module = torch.jit.load(io.BytesIO(archive), map_location=on)
        if not hasattr(module, "init_state"):
            raise ValueError("it has no method init_state(n)")
        return cls(module.eval(), on)

    def to_archive(self, extra: Mapping[str, bytes] | None = None) -> bytes:
        """Return the network as an archive.

        Parameters
        ----------
        extra : mapping of str to bytes, optional
            Further entries by name, for the folder ``extra`` of the archive.

        Returns
        -------
        archive : bytes
        """
        archive = io.BytesIO()
        with _quiet_jit():
            torch.jit.save(self._module, archive, _extra_files=dict(extra or {}))
        return archive.getvalue()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the network as an archive, since TorchScript cannot be pickled."""
        return type(self).load, (self.to_archive(), str(self.device))

    @property
    def parameters(self) -> dict[str, AnyArray]:
        """Copies of the parameters by name.

        Raises
        ------
        ModelFileError
            If NumPy has no such type.
        """
        arrays = {}
        for name, parameter in self._module.named_parameters():
            try:
                arrays[name] = parameter.detach().cpu().numpy().copy()
            except TypeError:
                raise ModelFileError(
                    f"{name} is {parameter.dtype}, not float32"
                ) from None
        return arrays

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
            float32 on the device of the network, as the others. n should be a multiple
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


@contextmanager
def _quiet_jit() -> Iterator[None]:
    """Suppress torch's warnings that TorchScript is deprecated or not supported.

    Their category and their text depend on the versions of torch and of Python.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.")
        yield
