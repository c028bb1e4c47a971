"""Old paths and names of the public API. They work, and warn with the new ones."""

from importlib import import_module
import sys
from types import ModuleType
from typing import Any
import warnings

# For each old module: the modules that hold its names now, and the names that changed.
_MODULES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "anatomy": (("stopping", "pipeline"), {}),
    "comparison": (
        ("evaluation.comparison", "evaluation.metrics"),
        {"ALIKE_MM": "AGREEMENT_MM"},
    ),
    "direction_getter": (("tracking.direction_getter",), {}),
    "evaluation": (("evaluation",), {"alike": "agreement"}),
    "frames": (("spatial.frames",), {"turned_round": "reverse"}),
    "gradients": (("gradient_check",), {"LEAST_SEEDS": "MIN_SEEDS"}),
    "interpolate": (("sampling", "_threads"), {}),
    "model": (
        ("model", "model.networks", "model.architectures.moving_frame"),
        {
            "CaiPropagator": "Cai2023",
            "Compasses": "FrameConstants",
            "RecurrentPropagator": "MovingFrameGRU",
        },
    ),
    "model_file": (
        ("model", "model.metadata", "model.archive", "model.torchscript"),
        {},
    ),
    "phantom": (
        ("phantom", "phantom.bundles", "phantom.phantom", "phantom.geometry"),
        {},
    ),
    "pictures": (("report", "report.plots"), {}),
    "report": (("report", "report.page"), {}),
    "sh": (("sampling",), {"turned": "rotate_all"}),
    "spaces": (("spatial", "_checks"), {"check_points": "as_points"}),
    "stopping": (
        ("stopping", "draws"),
        {
            "asks_in_any_order": "is_stateless",
            "check_points": "evaluate_criterion",
            "taken_apart": "decompose",
        },
    ),
    "tracking": (("tracking", "_dipy_compat"), {}),
    "tractogram_file": (("io",), {"thinned": "downsample"}),
    "training.checkpoint": (("training.state",), {}),
    "training.fit": (("training.loop", "training.state"), {}),
    "training.losses": (("training.state",), {}),
    "training.recipe": (("training.recipe",), {"TEACHERS": "TARGET_RULES"}),
    "training.references": (
        ("training.subjects", "training.selection"),
        {
            "Reference": "TrainingSubject",
            "clean": "clean_streamlines",
            "load": "load_subject",
            "store": "save_subject",
        },
    ),
    "training.sequences": (
        ("training.sequences",),
        {"Blur": "InputNoise", "Teacher": "TargetRule", "draw": "draw_sequences"},
    ),
    "training.teachers": (("training.target_rules",), {"between": "blend"}),
}


class _OldModule(ModuleType):
    """A module that has moved."""

    def __getattr__(self, name: str) -> Any:
        return find_moved(self.__name__, name)


def find_moved(module: str, name: str) -> Any:
    """Return the object that an old path and name refer to, and warn.

    Parameters
    ----------
    module : str
        Its old module, for example ``"dipy_rnn.frames"``.
    name : str
        Its old name in this module.

    Returns
    -------
    found : object
        The function, class or constant.

    Raises
    ------
    AttributeError
        If the old module had no such name.

    Warns
    -----
    DeprecationWarning
        The message contains the new path and name.

    Examples
    --------
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     reverse = find_moved("dipy_rnn.frames", "turned_round")
    >>> print(caught[0].message)
    dipy_rnn.frames.turned_round is now dipy_rnn.spatial.frames.reverse
    """
    homes, renamed = _MODULES[module.removeprefix("dipy_rnn.")]
    if not name.startswith("_"):
        new_name = renamed.get(name, name)
        for home in homes:
            found = vars(import_module(f"dipy_rnn.{home}")).get(new_name)
            if found is not None:
                warnings.warn(
                    f"{module}.{name} is now dipy_rnn.{home}.{new_name}",
                    DeprecationWarning,
                    stacklevel=3,
                )
                return found
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def install() -> None:
    """Make the old modules importable. Their names are looked up at the first use.

    Examples
    --------
    >>> install()
    >>> import dipy_rnn.sh
    """
    for name, (homes, _) in _MODULES.items():
        if name not in homes:
            path = f"dipy_rnn.{name}"
            sys.modules.setdefault(path, _OldModule(path, "This module has moved."))
