"""Who imports whom: one way, and torch only where it is needed."""

import ast
from pathlib import Path
import subprocess
import sys

import pytest

import dipy_rnn
from dipy_rnn import workflows

# A module imports from its own layer or from one further down.
LAYERS = [
    ["workflows"],
    [
        "direction_getter",
        "tracking",
        "training",
        "anatomy",
        "comparison",
        "evaluation",
        "gradients",
        "pictures",
        "report",
        "phantom",
        "tractogram_file",
    ],
    ["engine", "device_slots"],
    ["propagator"],
    ["model_file", "peaks"],
    ["model", "frames", "sh", "spaces", "stopping", "interpolate", "whole_file"],
    ["_typing", "_interp", "_network", "_slots", "_stopping"],
]
# Each kernel has one face that checks what goes in, but for the engine's own.
MAY_IMPORT_KERNELS = {
    "_interp": {"interpolate"},
    "_network": {"model_file"},
    "_slots": {"engine", "propagator"},
    "_stopping": {"stopping"},
}
LAYER_OF = {name: depth for depth, layer in enumerate(LAYERS) for name in layer}
# Training: deterministic tracking is the teacher.
MAY_IMPORT_DIPYS_TRACKING = {
    "comparison",
    "direction_getter",
    "stopping",
    "training",
    "workflows",
}
MAY_IMPORT_DIPYS_STREAMLINE_FUNCTIONS = {"evaluation", "pictures", "tractogram_file"}
STREAMLINE_FUNCTIONS = {
    "distances",
    "metrics",
    "streamline",
    "streamlinespeed",
    "utils",
    "vox2track",
}
MAY_IMPORT_TORCH = {"device_slots", "model", "model_file", "propagator", "training"}


def sources():
    """Yield (module below dipy_rnn, path) for every source file."""
    for package, prefix in ((dipy_rnn, ()), (workflows, ("workflows",))):
        root = Path(package.__file__).parent
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            yield ".".join(prefix + parts), path


def imported(path):
    """Return the full names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


IMPORTS = {module: imported(path) for module, path in sources()}


def below(names, package):
    """Return the parts that follow a package in names, where they are in it."""
    return {
        name.removeprefix(package).lstrip(".")
        for name in names
        if name == package or name.startswith(package + ".")
    }


def layer_of(module):
    return LAYER_OF[module.split(".")[0]]


def test_every_module_is_seen_and_has_its_layer():
    assert {"workflows.track", "training.fit", "engine", "model", ""} <= IMPORTS.keys()
    for module in IMPORTS.keys() - {"", "models"}:
        assert module.split(".")[0] in LAYER_OF, f"{module} has no layer"


def test_imports_go_one_way():
    wrong = [
        f"{module} imports dipy_rnn.{name}"
        for module, names in IMPORTS.items()
        if module not in ("", "models")
        for name in below(names, "dipy_rnn")
        if name.split(".")[0] in LAYER_OF and layer_of(name) < layer_of(module)
    ]
    assert not wrong


def test_the_library_never_imports_its_commands():
    wrong = [
        module
        for module, names in IMPORTS.items()
        if not module.startswith("workflows")
        and (below(names, "dipy_rnn.workflows") or below(names, "workflows"))
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        (
            "dipy.tracking",
            MAY_IMPORT_DIPYS_TRACKING | MAY_IMPORT_DIPYS_STREAMLINE_FUNCTIONS,
        ),
        ("dipy.workflows", {"workflows"}),
        ("torch", MAY_IMPORT_TORCH),
    ],
)
def test_a_dependency_stays_where_it_belongs(package, allowed):
    users = {m.split(".")[0] for m, names in IMPORTS.items() if below(names, package)}
    assert users <= allowed
    assert users


def test_evaluation_knows_dipys_streamlines_but_not_its_trackers():
    used = {
        name.split(".")[0]
        for module, names in IMPORTS.items()
        if module.split(".")[0] in MAY_IMPORT_DIPYS_STREAMLINE_FUNCTIONS
        for name in below(names, "dipy.tracking")
    }
    assert used <= STREAMLINE_FUNCTIONS
    assert used


@pytest.mark.parametrize("kernel", MAY_IMPORT_KERNELS)
def test_only_the_face_touches_a_kernel(kernel):
    users = {m for m, names in IMPORTS.items() if below(names, f"dipy_rnn.{kernel}")}
    assert users == MAY_IMPORT_KERNELS[kernel]


def in_a_fresh_python(code):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_the_package_does_not_import_torch():
    code = "import sys, dipy_rnn; dir(dipy_rnn); print('torch' in sys.modules)"
    assert in_a_fresh_python(code).strip() == "False"


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("track", "--step_size"),
        ("train", "--learning_rate"),
        ("check_gradients", "--seed_count"),
    ],
)
def test_the_help_of_a_command_does_not_wait_for_torch(command, option):
    code = f"""
import sys
sys.argv = ["dipy_{command}_rnn", "--help"]
from dipy_rnn.workflows.cli import {command}
try:
    {command}()
except SystemExit as end:
    assert not end.code
print("torch" in sys.modules)
"""
    output = in_a_fresh_python(code)
    assert option in output
    assert output.splitlines()[-1] == "False"


def test_public_names_are_there_when_asked_for():
    for name in dipy_rnn.__all__:
        assert getattr(dipy_rnn, name) is not None
    assert set(dir(dipy_rnn)) == set(dipy_rnn.__all__)
    # Type checkers and editors are told the same.
    homes = {f"{home}.{name}" for name, home in dipy_rnn._HOME_OF.items()}
    assert below(IMPORTS[""], "dipy_rnn") == below(homes, "dipy_rnn")
    with pytest.raises(AttributeError, match="has no attribute 'track'"):
        dipy_rnn.track  # noqa: B018
