"""Entry points of the commands."""

from importlib import metadata
import signal
import sys
import warnings

from dipy.utils.logging import logger
from dipy.workflows.flow_runner import run_flow

from dipy_rnn.workflows.compare import RNNComparisonFlow
from dipy_rnn.workflows.gradients import RNNGradientCheckFlow
from dipy_rnn.workflows.track import RNNTrackingFlow
from dipy_rnn.workflows.train import RNNTrainingFlow


def track():
    """Run ``dipy_track_rnn``."""
    _run("dipy_track_rnn", RNNTrackingFlow())


def train():
    """Run ``dipy_train_rnn``."""
    _run("dipy_train_rnn", RNNTrainingFlow())


def compare():
    """Run ``dipy_compare_rnn``."""
    _run("dipy_compare_rnn", RNNComparisonFlow())


def check_gradients():
    """Run ``dipy_check_gradients_rnn``."""
    _run("dipy_check_gradients_rnn", RNNGradientCheckFlow())


def _run(command, flow):
    """Run a flow: an error is one line and a non-zero exit, a warning one line."""
    versions = ", ".join(
        f"{name} {metadata.version(name.lower())}"
        for name in ("dipy_rnn", "DIPY", "torch")
    )

    def level(name):
        logger.setLevel(name.upper())
        return name.upper()

    extra_args = {
        "version": {"action": "version", "version": f"{command}: {versions}"},
        # DIPY takes the level and does nothing with it.
        "log_level": {
            "default": "INFO",
            "choices": ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
            "type": level,
            "help": "Least important log messages to show. (default: INFO)",
        },
    }

    def end(number, frame):
        raise KeyboardInterrupt("terminated")

    before = signal.signal(signal.SIGTERM, end)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = lambda message, *_: logger.warning(str(message))
            run_flow(flow, extra_args=extra_args)
    except KeyboardInterrupt as interruption:
        sys.exit(f"{command}: {str(interruption) or 'interrupted'}")
    except (OSError, ValueError, FloatingPointError) as error:
        sys.exit(f"{command}: error: {_one_line(error)}")
    except Exception as error:
        sys.exit(
            f"{command}: error: {type(error).__name__}: {_one_line(error)} (this "
            "should have been caught earlier; please report it)"
        )
    finally:
        signal.signal(signal.SIGTERM, before)


def _one_line(error):
    return " ".join(str(error).split())
