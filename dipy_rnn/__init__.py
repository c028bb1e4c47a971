"""Learned streamline tractography for DIPY.

The public names are loaded when they are first used, so that importing the package
(and the help of a command) does not wait for torch.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what _HOME_OF says, for type checkers and editors
    from dipy_rnn.direction_getter import RNNDirectionGetter as RNNDirectionGetter
    from dipy_rnn.model_file import load_model as load_model
    from dipy_rnn.model_file import shipped_models as shipped_models
    from dipy_rnn.sh import fodf_features as fodf_features
    from dipy_rnn.sh import pam_features as pam_features
    from dipy_rnn.sh import raw_features as raw_features
    from dipy_rnn.tracking import rnn_tracking as rnn_tracking

__version__ = metadata.version("dipy_rnn")

_HOME_OF = {
    "RNNDirectionGetter": "dipy_rnn.direction_getter",
    "rnn_tracking": "dipy_rnn.tracking",
    "load_model": "dipy_rnn.model_file",
    "shipped_models": "dipy_rnn.model_file",
    "fodf_features": "dipy_rnn.sh",
    "pam_features": "dipy_rnn.sh",
    "raw_features": "dipy_rnn.sh",
}

__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> object:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'dipy_rnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
