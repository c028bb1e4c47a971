"""The networks that can be trained: a torch module for each architecture.

:mod:`dipy_rnn.model.architectures` describes them without torch.
"""

from dipy_rnn.model.networks.by_name import (
    NETWORKS,
    Network,
    architecture_of,
    untrained,
)
from dipy_rnn.model.networks.cai2023 import Cai2023
from dipy_rnn.model.networks.context_gru import ContextGRU
from dipy_rnn.model.networks.moving_frame import MovingFrameGRU

__all__ = [
    "NETWORKS",
    "Cai2023",
    "ContextGRU",
    "MovingFrameGRU",
    "Network",
    "architecture_of",
    "untrained",
]
