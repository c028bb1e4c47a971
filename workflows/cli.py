"""Entry points of the commands."""

from functools import wraps
from importlib import metadata
import inspect
import logging
import signal
import sys
from types import FrameType
from typing import Any, NoReturn
import warnings

from dipy.workflows.flow_runner import run_flow
from dipy.workflows.workflow import Workflow

from dipy_rnn.io import one_line, prepare_arguments
from dipy_rnn.workflows.compare import RNNComparisonFlow
from dipy_rnn.workflows.connectome import RNNConnectomeFlow
from dipy_rnn.workflows.gradients import RNNGradientCheckFlow
from dipy_rnn.workflows.track import RNNTrackingFlow
from dipy_rnn.workflows.train import RNNTrainingFlow

logger = logging.getLogger("dipy")  # DIPY's commands show and save its messages


def track() -> None:
    """Run ``dipy_track_rnn``."""
    _run("dipy_track_rnn", RNNTrackingFlow())


def train() -> None:
    """Run ``dipy_train_rnn``."""
    _run("dipy_train_rnn", RNNTrainingFlow())


def compare() -> None:
    """Run ``dipy_compare_rnn``."""
    _run("dipy_compare_rnn", RNNComparisonFlow())


def connectome() -> None:
    """Run ``dipy_connectome_rnn``."""
    _run("dipy_connectome_rnn", RNNConnectomeFlow())


def check_gradients() -> None:
    """Run ``dipy_check_gradients_rnn``."""
    _run("dipy_check_gradients_rnn", RNNGradientCheckFlow())


def _run(command: str, flow: Workflow) -> None:
    """Run a workflow; report an error in one line, with exit status 1."""
    versions = ", ".join(
        f"{name} {metadata.version(name.lower())}"
        for name in ("dipy_rnn", "DIPY", "torch")
    )

    def level(name: str) -> str:
        logger.setLevel(name.upper())
        return name.upper()

    extra_args = {
        "version": {"action": "version", "version": f"{command}: {versions}"},
        # DIPY parses its own --log_level but does not apply it.
        "log_level": {
            "default": "INFO",
            "choices": ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
            "type": level,
            "help": "Lowest level of the log messages to show. (default: INFO)",
        },
    }

    run = flow.run

    @wraps(run)  # DIPY reads the signature and the docstring of flow.run
    def run_with_given(**arguments: Any) -> None:
        run(**_without_none(arguments, inspect.signature(run)))

    flow.run = run_with_given

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt("terminated")

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = lambda message, *_: logger.warning(str(message))
            sys.argv[1:] = prepare_arguments(sys.argv[1:])
            run_flow(flow, extra_args=extra_args)
    except KeyboardInterrupt as interruption:
        sys.exit(f"{command}: {str(interruption) or 'interrupted'}")
    except (OSError, ValueError, FloatingPointError) as error:
        sys.exit(f"{command}: error: {one_line(error)}")
    except Exception as error:
        sys.exit(
            f"{command}: error: {type(error).__name__}: {one_line(error)} (this is a "
            "bug in dipy_rnn; please report it)"
        )
    finally:
        signal.signal(signal.SIGTERM, before)


def _without_none(
    arguments: dict[str, Any], signature: inspect.Signature
) -> dict[str, Any]:
    """Remove arguments whose value is None: DIPY turns the word None into it."""
    for name, value in arguments.items():
        parameter = signature.parameters[name]
        if value is None and parameter.default is parameter.empty:
            raise ValueError(
                f"{name} is None, which means that it is not given; write ./None for a "
                "file of that name."
            )
    return {name: value for name, value in arguments.items() if value is not None}
