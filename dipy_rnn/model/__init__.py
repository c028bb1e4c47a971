"""Models: networks and their files."""

from dipy_rnn._moved import find_moved
from dipy_rnn.model.architectures import (
    ARCHITECTURES,
    Network,
    architecture_of,
    untrained,
)
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
from dipy_rnn.model.model import ROWS_IN_A_BLOCK, Model, as_model, check_device
from dipy_rnn.model.networks.cai2023 import Cai2023
from dipy_rnn.model.networks.context_gru import ContextGRU
from dipy_rnn.model.networks.moving_frame import MovingFrameGRU

__all__ = [
    "ARCHITECTURES",
    "CHECKSUMS",
    "INPUT_SIZES",
    "ROWS_IN_A_BLOCK",
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
    return find_moved(__name__, name)
