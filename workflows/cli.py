"""Entry points of the commands."""

from importlib import metadata
import sys
import warnings

from dipy.utils.logging import logger
from dipy.workflows.flow_runner import run_flow

from dipy_rnn.workflows.track import RNNTrackingFlow


def track():
    """Run ``dipy_track_rnn``."""
    _run("dipy_track_rnn", RNNTrackingFlow())


def _run(command, flow):
    """Run a flow: errors as one line and a non-zero exit, warnings as a line."""
    warnings.showwarning = lambda message, *_, **__: logger.warning(str(message))
    versions = ", ".join(
        f"{name} {metadata.version(package)}"
        for name, package in (("dipy_rnn", "dipy_rnn"), ("DIPY", "dipy"),
                              ("torch", "torch"))
    )
    version = {"action": "version", "version": f"{command}: {versions}"}
    try:
        run_flow(flow, extra_args={"version": version})
    except KeyboardInterrupt:
        sys.exit(f"{command}: interrupted")
    except (OSError, ValueError) as error:
        sys.exit(f"{command}: error: {_one_line(error)}")
    except Exception as error:
        sys.exit(
            f"{command}: error: {type(error).__name__}: {_one_line(error)} (this should "
            "have been caught earlier; please report it)"
        )


def _one_line(error):
    return " ".join(str(error).split())
