"""The architectures, by their names in commands and model files.

This folder describes architectures and makes their kernels (compiled functions). It
does not import torch. The networks themselves are in :mod:`dipy_rnn.model.networks`.
"""

from dipy_rnn.model.architectures.architecture import Architecture
from dipy_rnn.model.architectures.context import CONTEXT
from dipy_rnn.model.architectures.moving_frame import MOVING_FRAME, FrameConstants

__all__ = ["ARCHITECTURES", "Architecture", "FrameConstants"]

#: Architectures by their names in commands and model files.
ARCHITECTURES: dict[str, Architecture] = {
    "moving_frame": MOVING_FRAME,
    "context": CONTEXT,
    "cai2023": Architecture({"inputs": (), "outputs": (), "context": None}),
}
