"""What is shipped: the archive of the sources, the wheel's files, the kernels' stubs."""

import ast
import importlib
import inspect
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tarfile

import pytest

ROOT = Path(__file__).parents[1]
KERNELS = ["_interp", "_network", "_slots", "_stopping"]
PACKAGE = {"dipy_rnn": "dipy_rnn", "workflows": "dipy_rnn/workflows"}
SHIPPED = {".py", ".pyi", ".typed", ".pt", ".md", ".jinja"}
SOURCES = SHIPPED | {".pyx", ".pxd", ".h"}


def files_below(folder, kinds):
    """Return the files of some kinds, or without one, as paths below the folder."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in kinds | {""}
    }


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of what packages are made of; kernels that are up to date stay so."""
    folder = tmp_path_factory.mktemp("sources")
    left_out = shutil.ignore_patterns("__pycache__", "_build", "*.so", "*.pyd")
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


def test_the_archive_of_sources_has_all_that_builds_tests_and_explains(copied):
    pytest.importorskip("Cython")
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
        "dipy_rnn/models/SHA256SUMS",
    } <= packed
    assert not [path for path in packed if path.endswith((".so", ".pyc"))]
    assert not [path for path in packed if Path(path).match("dipy_rnn/*.c")]


def test_a_wheel_has_models_types_and_commands_but_neither_sources_nor_tests(copied):
    pytest.importorskip("Cython")
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
    assert {f"dipy_rnn/{kernel}.pyi" for kernel in KERNELS} <= packed
    assert {
        "dipy_rnn/py.typed",
        "dipy_rnn/report.html.jinja",
        "dipy_rnn/models/default.pt",
        "dipy_rnn/models/SHA256SUMS",
        "dipy_rnn/workflows/cli.py",
    } <= packed


def described(body):
    """Yield (name, parameters) for each function and class that a stub describes.

    Parameters of a class are None, and those of a method come without its instance.
    """
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield node.name, None
            for name, parameters in described(node.body):
                yield f"{node.name}.{name}", parameters and parameters[1:]
        elif isinstance(node, ast.FunctionDef):
            yield node.name, [argument.arg for argument in node.args.args]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_stub_has_the_names_and_the_parameters_of_its_kernel(kernel):
    module = importlib.import_module(f"dipy_rnn.{kernel}")
    stub = ast.parse((ROOT / "dipy_rnn" / f"{kernel}.pyi").read_text())
    told = dict(described(stub.body))
    for name, parameters in told.items():
        owner, _, method = name.rpartition(".")
        there = getattr(getattr(module, owner) if owner else module, method)
        if method in ("__init__", "__new__", "__len__"):
            continue  # of classes in C no signature can be asked for
        if parameters is not None:
            assert list(inspect.signature(there).parameters)[bool(owner) :] == parameters
    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    }
    assert public == {name for name in told if "." not in name}
