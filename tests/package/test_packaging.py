"""The contents of the source archive and of a wheel, and the stubs of the kernels."""

import ast
import importlib
import inspect
from pathlib import Path
import shutil
import subprocess
import sys
import tarfile

import pytest

import dipy_rnn

ROOT = Path(__file__).parents[2]
KERNELS = [
    "_interp",
    "model.kernels._context_gru",
    "model.kernels._layers",
    "model.kernels._moving_frame",
    "sampling._cone",
    "stopping._criteria",
    "draws._draws",
    "tracking.slots._compiled",
]
PACKAGE = {"dipy_rnn": "dipy_rnn", "workflows": "dipy_rnn/workflows"}
SHIPPED = {".py", ".pyi", ".typed", ".pt", ".md", ".jinja"}
SOURCES = SHIPPED | {".pyx", ".pxd", ".h"}


def files_below(folder, kinds):
    """Return the paths of files below a folder, with one of the suffixes or none."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in kinds | {""}
    }


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the sources with file times, so that kernels are not rebuilt."""
    folder = tmp_path_factory.mktemp("sources")
    made = ("__pycache__", "_build", "generated", "*.so", "*.pyd")
    left_out = shutil.ignore_patterns(*made)
    for path in ROOT.iterdir():
        if path.name in ("dipy_rnn", "workflows", "tests", "benchmarks", "doc"):
            shutil.copytree(path, folder / path.name, ignore=left_out)
        elif path.is_file():
            shutil.copy2(path, folder)
    return folder


def run_setup(folder, *arguments):
    command = [sys.executable, "setup.py", "-q", *map(str, arguments)]
    result = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr


def test_the_source_archive_has_all_files_of_build_tests_and_documentation(copied):
    run_setup(copied, "sdist", "--formats=tar", "--dist-dir", "dist")
    (archive,) = (copied / "dist").iterdir()
    with tarfile.open(archive) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
    for folder, kinds in (
        ("dipy_rnn", SOURCES),
        ("workflows", {".py"}),
        ("tests", {".py", ".c"}),
        ("benchmarks", {".py"}),
        ("doc", {".md", ".rst", ".py", ".png", ".bib"}),
    ):
        wanted = {f"{folder}/{path}" for path in files_below(copied / folder, kinds)}
        assert wanted <= packed, f"{sorted(wanted - packed)} of {folder} are missing"
        assert wanted
    assert {
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "CITATION.cff",
        "CONTRIBUTING.md",
        "Makefile",
        "constraints.txt",
        "pyproject.toml",
        "setup.py",
        "tests/openmp_of_threads.c",
        "dipy_rnn/model/shipped/SHA256SUMS",
    } <= packed
    assert not [path for path in packed if path.endswith((".so", ".pyc"))]
    assert not [path for path in packed if Path(path).match("dipy_rnn/*.c")]


def test_a_wheel_has_models_types_and_commands_but_neither_sources_nor_tests(copied):
    run_setup(copied, "build_py", "--build-lib", "built")
    wanted = {
        f"{installed}/{path}"
        for folder, installed in PACKAGE.items()
        for path in files_below(copied / folder, SHIPPED)
    }
    packed = {
        path.relative_to(copied / "built").as_posix()
        for path in (copied / "built").rglob("*")
        if path.is_file()
    }
    assert packed == wanted
    assert {f"dipy_rnn/{kernel.replace('.', '/')}.pyi" for kernel in KERNELS} <= packed
    assert {
        "dipy_rnn/py.typed",
        "dipy_rnn/report/page.html.jinja",
        "dipy_rnn/model/shipped/default.pt",
        "dipy_rnn/model/shipped/SHA256SUMS",
        "dipy_rnn/workflows/cli.py",
    } <= packed


def names_of_stub(body):
    """Return public names of a stub: functions with their parameters, and classes."""
    names = {}
    for node in body:
        if isinstance(node, ast.ClassDef):
            names[node.name] = names_of_stub(node.body)
        elif isinstance(node, ast.AnnAssign):
            names[node.target.id] = None
        elif isinstance(node, ast.FunctionDef):
            is_property = bool(node.decorator_list)
            names[node.name] = None if is_property else [a.arg for a in node.args.args]
    return {name: what for name, what in names.items() if not name.startswith("_")}


def names_of_kernel(there):
    """Return the same of a compiled module or class."""
    names = {}
    for name, value in vars(there).items():
        if name.startswith("_") or inspect.ismodule(value):
            continue
        if inspect.isclass(value):
            names[name] = names_of_kernel(value)
        else:
            is_called = callable(value)
            names[name] = (
                list(inspect.signature(value).parameters) if is_called else None
            )
    return names


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_stub_has_the_names_and_parameters_of_its_kernel(kernel):
    module = importlib.import_module(f"dipy_rnn.{kernel}")
    folder = Path(dipy_rnn.__file__).parent
    stub = ast.parse((folder / f"{kernel.replace('.', '/')}.pyi").read_text())
    told = names_of_stub(stub.body)
    assert told == names_of_kernel(module)
    assert told
