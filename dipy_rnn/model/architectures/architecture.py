"""The description of an architecture: what is known without its network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from dipy_rnn._typing import AnyArray
    from dipy_rnn.model.kernels._layers import CompiledNetwork
    from dipy_rnn.model.metadata import ModelMetadata

    #: It gets parameters by name, and the metadata.
    KernelMaker: TypeAlias = Callable[
        [Mapping[str, AnyArray], ModelMetadata], CompiledNetwork
    ]


@dataclass(frozen=True)
class Architecture:
    """What is known of an architecture without its network, and without torch.

    Parameters
    ----------
    required : mapping of str to object
        Entries of the metadata that the architecture requires.
    kernel : callable, optional
        It gets the parameters of a network by name, and the metadata. It returns the
        network as a kernel (a compiled function). It raises KeyError or ValueError if
        a parameter is missing, or its shape or type differs, or if the metadata do not
        fit. If None, tracking runs the TorchScript.

    Examples
    --------
    >>> from dipy_rnn.model import ARCHITECTURES
    >>> ARCHITECTURES["cai2023"].required["inputs"]
    ()
    >>> ARCHITECTURES["cai2023"].kernel is None
    True
    """

    required: Mapping[str, Any]
    kernel: KernelMaker | None = None
