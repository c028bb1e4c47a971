"""Learned streamline tractography for DIPY.

The public names are loaded when they are first used, so that importing the package
(and the help of a command) does not wait for torch.
"""

from importlib import import_module, metadata

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


def __getattr__(name):
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'dipy_rnn' has no attribute {name!r}")


def __dir__():
    return __all__
