"""The rule of imports: they go down, and never in a circle.

``ROWS`` lists the folders from the top of the package to the bottom. A module imports
from its own folder or from a row further down. There is no circle between modules, nor
between folders. DIPY's trackers, torch and the kernels are known only where they are
needed.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
import re
import subprocess
import sys

from commands import Subject
import pytest

import dipy_rnn
from dipy_rnn import shipped_models, workflows

ROWS = [
    {"workflows"},
    {"training", "report", "gradient_check", "pipeline", "connectivity"},
    {"evaluation"},
    {"io", "tracking"},
    {"phantom"},
    {"stopping", "model"},
    {"sampling"},
    {"draws", "spatial"},
    {"_atomic", "_checks", "_dipy_compat", "_interp", "_moved", "_threads", "_typing"},
]
ROW_OF = {folder: row for row, folders in enumerate(ROWS) for folder in folders}

# For each kernel, the modules that may import it. They check its arguments.
KERNELS = {
    "_interp": {
        "model.kernels._context_parts",
        "sampling.interpolate",
        "sampling.rotation",
        "model.kernels._context_gru",
        "model.kernels._layers",
        "model.kernels._moving_frame",
        "tracking.slots._compiled",
        "sampling._cone",
        "sampling.peaks._maxima",
    },
    "sampling.fodf._convert": {"sampling.fodf.convert"},
    "sampling.peaks._maxima": {"sampling.peaks.maxima"},
    "sampling._cone": {
        "sampling.peaks._maxima",
        "model.kernels._context_gru",
        "model.kernels._layers",
        "model.kernels._moving_frame",
    },
    "model.kernels._layers": {
        "model.kernels._context_gru",
        "model.kernels._moving_frame",
        "tracking.slots._compiled",
    },
    "model.kernels._context_parts": {"model.kernels._context_gru"},
    "model.kernels._context_gru": {"model.architectures.context"},
    "model.kernels._moving_frame": {"model.architectures.moving_frame"},
    "stopping._criteria": {
        "stopping.criteria",
        "stopping.evaluate",
        "tracking.slots._compiled",
    },
    "draws._draws": {
        "draws.errors",
        "draws.keys",
        "stopping._criteria",
        "tracking.slots._compiled",
    },
    "tracking.slots._compiled": {"tracking.slots.compiled"},
}
KNOWS_DIPYS_TRACKERS = {
    "evaluation.comparison",
    "stopping",
    "tracking.direction_getter",
    "training",
    "workflows",
}
KNOWS_DIPYS_STREAMLINES = {"evaluation", "io", "pipeline.seeding", "report", "training"}
STREAMLINES = {
    "distances",
    "metrics",
    "streamline",
    "streamlinespeed",
    "utils",
    "vox2track",
}
# Code that hides modules which DIPY 2 may remove.
WITHOUT_DIPYS_TRACKERS = """
import sys
for module in ("tracker", "local_tracking", "direction_getter"):
    sys.modules["dipy.tracking." + module] = None
sys.modules["dipy.direction"] = None
"""
KNOWS_TORCH = {
    "_threads",
    "draws.draws_torch",
    "model.contract",
    "model.device",
    "model.networks",
    "model.torchscript",
    "sampling.interpolate_torch",
    "spatial.frames_torch",
    "stopping.criteria_torch",
    "tracking.slots.device",
    "training",
}
# A phantom whose streamlines can be tracked in a fresh Python.
PHANTOM = """
from dipy_rnn.model import load_model, shipped_models
from dipy_rnn.phantom import crossing_phantom
from dipy_rnn.stopping import BinaryStoppingCriterion
phantom = crossing_phantom(90)
seed = phantom.streamlines(1)[0][0][50:51]
criterion = BinaryStoppingCriterion(phantom.mask())
"""


def sources():
    """Yield (module below dipy_rnn, path) of every source file."""
    for package, prefix in ((dipy_rnn, ()), (workflows, ("workflows",))):
        root = Path(package.__file__).parent
        for path in sorted([*root.rglob("*.py"), *root.rglob("*.pyx")]):
            parts = path.relative_to(root).with_suffix("").parts
            yield ".".join((*prefix, *parts)).removesuffix("__init__").rstrip("."), path


def imported(path):
    """Return the full names that a file imports at run time, anywhere in it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".pyx":
        found = re.findall(r"^\s*from (\S+) c?import (\([^)]*\)|[\w, ]+)", text, re.M)
        return {f"{module}.{name}" for module, names in found for name in names.split()}
    names = set()
    nodes = [ast.parse(text)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


PATHS = dict(sources())
IMPORTS = {module: imported(path) for module, path in PATHS.items()}


def module_of(name):
    """Return the module of the package that a full name is in, or None."""
    parts = name.split(".")
    if parts[0] != "dipy_rnn":
        return None
    for length in range(len(parts), 0, -1):
        if ".".join(parts[1:length]) in IMPORTS:
            return ".".join(parts[1:length])
    return None


GRAPH = {
    module: {module_of(name) for name in names} - {None, "", module}
    for module, names in IMPORTS.items()
    if module
}


def folder_of(module):
    return module.split(".")[0]


def is_known_to(module, names):
    """Tell whether a module, or a folder around it, is among names."""
    return any(module == name or module.startswith(name + ".") for name in names)


def circle_in(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " -> ".join(error.args[1])
    return None


def test_every_module_has_a_row():
    assert {
        "workflows.track",
        "tracking.reference",
        "model.kernels._moving_frame",
    } <= set(GRAPH)
    assert {folder_of(module) for module in GRAPH} == set(ROW_OF)


def test_a_module_imports_from_its_folder_or_further_down():
    wrong = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if folder_of(other) != folder_of(module)
        and ROW_OF[folder_of(other)] <= ROW_OF[folder_of(module)]
        and ROW_OF[folder_of(module)] != len(ROWS) - 1
    ]
    assert not wrong


def test_there_is_no_circle_between_modules():
    assert circle_in(GRAPH) is None


def test_there_is_no_circle_between_folders():
    folders = {}
    for module, others in GRAPH.items():
        found = {folder_of(other) for other in others} - {folder_of(module)}
        folders.setdefault(folder_of(module), set()).update(found)
    assert circle_in(folders) is None


def test_a_circle_is_found():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    assert circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_siblings_are_imported_by_their_own_path():
    wrong = [
        module
        for module, others in GRAPH.items()
        if "." in module and folder_of(module) in others
    ]
    assert not wrong


def test_folders_and_modules_stay_small():
    for module, path in PATHS.items():
        n_lines = len(path.read_text(encoding="utf-8").splitlines())
        assert n_lines < 500, f"{module} has {n_lines} lines"
    kinds = {".py", ".pyx", ".pxd", ".pyi", ".h", ".typed", ".jinja"}
    for folder in {path.parent for path in PATHS.values()}:
        files = [path for path in folder.iterdir() if path.suffix in kinds]
        assert len(files) <= 12, f"{folder.name} has {len(files)} files"


def test_commands_are_thin():
    n_lines = sum(
        len(path.read_text(encoding="utf-8").splitlines())
        for module, path in PATHS.items()
        if folder_of(module) == "workflows"
    )
    assert n_lines < 2500  # 500 for each of the five commands


def users_of(package):
    return {
        module
        for module, names in IMPORTS.items()
        if any(name == package or name.startswith(package + ".") for name in names)
    }


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("dipy.tracking", KNOWS_DIPYS_TRACKERS | KNOWS_DIPYS_STREAMLINES),
        ("dipy.workflows", {"workflows"}),
        ("torch", KNOWS_TORCH),
    ],
)
def test_a_dependency_stays_where_it_belongs(package, allowed):
    users = users_of(package)
    assert users
    assert not [module for module in users if not is_known_to(module, allowed)]


def test_only_some_modules_know_dipys_trackers():
    used = {
        name.split(".")[2]
        for module in users_of("dipy.tracking")
        if not is_known_to(module, KNOWS_DIPYS_TRACKERS)
        for name in IMPORTS[module]
        if name.startswith("dipy.tracking.")
    }
    assert used
    assert used <= STREAMLINES


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_is_called_only_by_the_modules_that_check_its_arguments(kernel):
    assert users_of(f"dipy_rnn.{kernel}") == KERNELS[kernel]


def in_a_fresh_python(code):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "module",
    [
        *("", ".spatial", ".sampling", ".stopping", ".model", ".io", ".tracking"),
        *(".evaluation", ".pipeline", ".connectivity", ".report"),
    ],
)
def test_an_import_does_not_import_torch(module):
    code = f"import sys, dipy_rnn{module}; print('torch' in sys.modules)"
    assert in_a_fresh_python(code).strip() == "False"


def test_shipped_models_track_without_torch():
    code = f"""
import pickle, sys
{PHANTOM}
from dipy.tracking.local_tracking import LocalTracking
from dipy_rnn import RNNDirectionGetter, rnn_tracking
fodf, affine = phantom.fodf(), phantom.affine
for name in shipped_models():
    model = pickle.loads(pickle.dumps(load_model(name)))
    lines = list(rnn_tracking(seed, criterion, affine, sh=fodf, model=model))
    getter = RNNDirectionGetter.from_shcoeff(fodf, affine=affine, model=name)
    local = LocalTracking(
        pickle.loads(pickle.dumps(getter)), criterion, seed, affine, step_size=0.2
    )
    print(len(lines[0]) > 50, len(next(iter(local))) > 50, "torch" in sys.modules)
"""
    lines = in_a_fresh_python(code).splitlines()
    assert lines == ["True True False"] * len(shipped_models())


def test_the_command_tracks_with_shipped_models_without_torch(tmp_path):
    subject = Subject(tmp_path)
    inputs = [str(path) for path in subject.inputs]
    code = f"""
import sys
from dipy_rnn.model import shipped_models
from dipy_rnn.workflows.cli import track
for name in shipped_models():
    sys.argv = ["dipy_track_rnn", *{inputs}, "--model_file", name, "--out_dir",
                {str(tmp_path)!r}, "--out_tractogram", name + ".trx"]
    track()
print("torch" in sys.modules)
"""
    assert in_a_fresh_python(code).splitlines()[-1] == "False"
    for name in shipped_models():
        assert (tmp_path / f"{name}.trx").stat().st_size > 1000


def test_the_core_tracks_without_dipys_trackers():
    code = f"""
{WITHOUT_DIPYS_TRACKERS}
import dipy_rnn.io, dipy_rnn.pipeline, dipy_rnn.tracking, dipy_rnn.workflows.track
{PHANTOM}
lines = dipy_rnn.rnn_tracking(
    seed, criterion, phantom.affine, sh=phantom.fodf(), step_size=1.0
)
print(len(next(lines)) > 10)
try:
    dipy_rnn.RNNDirectionGetter
except ImportError as error:
    print(error)
"""
    tracked, error = in_a_fresh_python(code).splitlines()
    assert tracked == "True"
    assert "dipy.tracking.direction_getter" in error


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("track", "--step_size"),
        ("train", "--learning_rate"),
        ("compare", "--out_report"),
        ("check_gradients", "--seed_count"),
    ],
)
def test_the_help_of_a_command_does_not_import_torch(command, option):
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


def test_public_names_exist():
    for name in dipy_rnn.__all__:
        assert getattr(dipy_rnn, name) is not None
    assert set(dir(dipy_rnn)) == set(dipy_rnn.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'track'"):
        dipy_rnn.track  # noqa: B018


def test_type_checkers_see_the_public_names():
    tree = ast.parse(PATHS[""].read_text(encoding="utf-8"))
    seen = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("dipy_rnn.")
        for alias in node.names
    }
    assert seen == {f"{home}.{name}" for name, home in dipy_rnn._HOME_OF.items()}
