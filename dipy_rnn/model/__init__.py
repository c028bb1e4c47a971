"""Models: networks and their files.

Names that need torch are imported at their first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from dipy_rnn._moved import find_moved
from dipy_rnn.model.architectures import ARCHITECTURES, Architecture
from dipy_rnn.model.device import check_device
from dipy_rnn.model.file import (
    CHECKSUMS,
    load_model,
    model_path,
    read_metadata,
    save_model,
    shipped_models,
)
from dipy_rnn.model.inputs import stack_inputs
from dipy_rnn.model.metadata import INPUT_SIZES, ModelFileError, ModelMetadata
from dipy_rnn.model.model import Model, as_model

if TYPE_CHECKING:  # the same names as in _HOME_OF
    from dipy_rnn.model.networks import NETWORKS as NETWORKS
    from dipy_rnn.model.networks import Cai2023 as Cai2023
    from dipy_rnn.model.networks import ContextGRU as ContextGRU
    from dipy_rnn.model.networks import MovingFrameGRU as MovingFrameGRU
    from dipy_rnn.model.networks import Network as Network
    from dipy_rnn.model.networks import architecture_of as architecture_of
    from dipy_rnn.model.networks import untrained as untrained
    from dipy_rnn.model.torchscript import ROWS_IN_A_BLOCK as ROWS_IN_A_BLOCK

_HOME_OF = {
    "Cai2023": "dipy_rnn.model.networks",
    "ContextGRU": "dipy_rnn.model.networks",
    "MovingFrameGRU": "dipy_rnn.model.networks",
    "NETWORKS": "dipy_rnn.model.networks",
    "Network": "dipy_rnn.model.networks",
    "ROWS_IN_A_BLOCK": "dipy_rnn.model.torchscript",
    "architecture_of": "dipy_rnn.model.networks",
    "untrained": "dipy_rnn.model.networks",
}

__all__ = [
    "ARCHITECTURES",
    "CHECKSUMS",
    "INPUT_SIZES",
    "NETWORKS",
    "ROWS_IN_A_BLOCK",
    "Architecture",
    "Cai2023",
    "ContextGRU",
    "Model",
    "ModelFileError",
    "ModelMetadata",
    "MovingFrameGRU",
    "Network",
    "architecture_of",
    "as_model",
    "check_device",
    "load_model",
    "model_path",
    "read_metadata",
    "save_model",
    "shipped_models",
    "stack_inputs",
    "untrained",
]


def __getattr__(name: str) -> object:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    return find_moved(__name__, name)
