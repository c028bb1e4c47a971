"""The networks by the names of their architectures in commands and model files."""

from collections.abc import Callable
from inspect import signature
from typing import Any, TypeAlias

import torch
from torch import nn

from dipy_rnn.model.networks.cai2023 import Cai2023
from dipy_rnn.model.networks.context_gru import ContextGRU
from dipy_rnn.model.networks.moving_frame import MovingFrameGRU

#: A network of one of the architectures.
Network: TypeAlias = ContextGRU | MovingFrameGRU | Cai2023

#: The networks by the names of their architectures.
NETWORKS: dict[str, type[Network]] = {
    "moving_frame": MovingFrameGRU,
    "context": ContextGRU,
    "cai2023": Cai2023,
}


def untrained(architecture: str, order: int, random_seed: int, **shape: Any) -> Network:
    """Make a network with random weights. This seeds torch's global generator.

    Parameters
    ----------
    architecture : str
        One of :data:`dipy_rnn.model.ARCHITECTURES`.
    order : int
        Spherical harmonic order of the features.
    random_seed : int
        Seed of torch's generator. It determines the weights.
    **shape
        Further arguments of the class of the network, such as ``hidden``, the width of
        its layers. If they are not given, the defaults of the class.

    Returns
    -------
    module : nn.Module

    Raises
    ------
    ValueError
        If the architecture has no such size.

    Examples
    --------
    >>> untrained("moving_frame", 4, random_seed=1, hidden=8).hidden
    8
    """
    make: Callable[..., Network] = NETWORKS[architecture]
    for name in shape.keys() - signature(make).parameters.keys():
        raise ValueError(
            f"{name} is {shape[name]}, but the architecture {architecture} has no such "
            "option; leave it out."
        )
    torch.manual_seed(random_seed)
    return make(order, **shape)


def architecture_of(module: nn.Module) -> str:
    """Return the name of a module's architecture.

    Parameters
    ----------
    module : nn.Module
        An instance of a class in ``NETWORKS``.

    Returns
    -------
    name : str

    Examples
    --------
    >>> architecture_of(MovingFrameGRU(order=4, hidden=8))
    'moving_frame'
    """
    return next(n for n, kind in NETWORKS.items() if isinstance(module, kind))
