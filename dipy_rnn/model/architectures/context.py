"""The architecture ``context``: its description, constants and kernel.

:class:`dipy_rnn.model.networks.context_gru.ContextGRU` is its network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dipy_rnn._typing import AnyArray
from dipy_rnn.model.architectures.architecture import Architecture
from dipy_rnn.model.architectures.moving_frame import RATE_LIMIT
from dipy_rnn.model.kernels._context_gru import CompiledContextGRU
from dipy_rnn.sampling.context import LARGEST, STEADY

if TYPE_CHECKING:
    from dipy_rnn.model.metadata import ModelMetadata

#: Added to the squared length of a vector before it is scaled.
SHORT = 1e-3
#: Spread of the predicted direction: smallest and largest, in radians.
SPREAD = 0.015, 0.615
#: What the network returns beside a direction, if it declares outputs.
OUTPUTS = ("spread", "ended", "lost")


def compile_context(
    weights: Mapping[str, AnyArray], metadata: ModelMetadata
) -> CompiledContextGRU:
    """Make the kernel of a ContextGRU with given weights.

    Parameters
    ----------
    weights : mapping of str to ndarray
        Parameters of the network by name.
    metadata : dipy_rnn.model.ModelMetadata

    Returns
    -------
    kernel : CompiledContextGRU

    Raises
    ------
    KeyError, ValueError
        If a parameter is missing, its shape or type differs, or the metadata declare
        other outputs or another size of the state.
    """
    if metadata.outputs not in ((), OUTPUTS):
        raise ValueError(f"outputs is {metadata.outputs}, not {OUTPUTS} or ()")
    n_remembered = weights["to_remembered"].shape[1]
    n_state = weights["gru.from_state.weight"].shape[1] + 2 * n_remembered
    if (metadata.layers, metadata.hidden) != (1, n_state):
        raise ValueError(
            f"layers and hidden are {metadata.layers} and {metadata.hidden}, not 1 and "
            f"{n_state}"
        )
    return CompiledContextGRU(
        weights,
        metadata.order,
        metadata.context,
        {
            "rate_limit": RATE_LIMIT,
            "short_square": SHORT,
            "largest": LARGEST,
            "steady": STEADY,
            "least_spread": SPREAD[0],
            "spread_range": SPREAD[1] - SPREAD[0],
        },
    )


#: The architecture ``context``.
CONTEXT = Architecture(
    required={
        "kind": "sh",
        "frame": "local",
        "normalisation": "power",
        "inputs": ("step_vox", "max_angle_deg", "ahead"),
    },
    kernel=compile_context,
)
