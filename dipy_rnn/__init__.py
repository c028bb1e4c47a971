"""Learned streamline tractography for DIPY.

Public names are imported at their first use. The import of the package, and the help of
a command, are therefore quick and do not import torch.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING

from dipy_rnn import _moved

if TYPE_CHECKING:  # the same names as in _HOME_OF, for type checkers and editors
    from dipy_rnn.model import load_model as load_model
    from dipy_rnn.model import shipped_models as shipped_models
    from dipy_rnn.sampling import fodf_features as fodf_features
    from dipy_rnn.sampling import pam_features as pam_features
    from dipy_rnn.sampling import peaks_features as peaks_features
    from dipy_rnn.sampling import raw_features as raw_features
    from dipy_rnn.tracking import RNNDirectionGetter as RNNDirectionGetter
    from dipy_rnn.tracking import rnn_tracking as rnn_tracking

__version__ = metadata.version("dipy_rnn")

_HOME_OF = {
    "RNNDirectionGetter": "dipy_rnn.tracking",
    "rnn_tracking": "dipy_rnn.tracking",
    "load_model": "dipy_rnn.model",
    "shipped_models": "dipy_rnn.model",
    "fodf_features": "dipy_rnn.sampling",
    "pam_features": "dipy_rnn.sampling",
    "peaks_features": "dipy_rnn.sampling",
    "raw_features": "dipy_rnn.sampling",
}

__all__ = ["__version__", *_HOME_OF]

_moved.install()


def __getattr__(name: str) -> object:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'dipy_rnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
