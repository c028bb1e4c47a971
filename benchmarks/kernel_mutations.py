"""Change one token at a time in the kernels, and run their tests.

This is what mutmut does for Python (`make mutation`). A mutant for which all tests pass
is printed. Either it is equivalent to the original, or a test is missing. Compiling a
mutant takes about 20 s, so mutants are drawn at random.

    python benchmarks/kernel_mutations.py --mutants 100
"""

import argparse
from collections import Counter
import io
from pathlib import Path
import random
import shutil
import subprocess
import sys
import tempfile
import tokenize

ROOT = Path(__file__).parents[1]
# Names of test files, in any folder of tests, by kernel.
TESTS = {
    "_interp": (
        "test_interpolate.py",
        "test_rotation.py",
        "test_peaks.py",
        "test_moving_frame_kernel.py",
    ),
    "model/kernels/_moving_frame": ("test_moving_frame_kernel.py",),
    "model/kernels/_context_gru": ("test_context_gru.py",),
    "model/kernels/_context_parts": ("test_context_gru.py",),
    "stopping/_criteria": ("test_criteria.py", "test_criteria_random.py"),
    "tracking/slots/_compiled": ("test_slots_compiled.py", "test_engine.py"),
}
OTHER_OPERATORS = {
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "!=",
    "!=": "==",
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
    "+=": "-=",
    "-=": "+=",
    "*=": "/=",
    "/=": "*=",
    "^": "|",
    "and": "or",
    "or": "and",
    "min": "max",
    "max": "min",
    "True": "False",
    "False": "True",
    "continue": "break",
    "break": "continue",
}


def replacement(token):
    """Return the text that replaces a token, or None."""
    if token.type == tokenize.NUMBER:
        if token.string.isdecimal():
            return str(int(token.string) + 1)
        try:
            return str(2 * float(token.string) or 1.0)
        except ValueError:  # a hexadecimal constant
            return None
    return OTHER_OPERATORS.get(token.string)


def mutants_of(source):
    """Return (line number, line before and after, whole source) of every mutant."""
    lines = source.splitlines(keepends=True)
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        instead = replacement(token)
        if instead is None:
            continue
        row, start = token.start
        line = lines[row - 1]
        # Declarations are left out, as the * of a pointer is not a product.
        if line.lstrip().startswith(("cdef", "ctypedef", "const")):
            continue
        changed = line[:start] + instead + line[token.end[1] :]
        whole = "".join([*lines[: row - 1], changed, *lines[row:]])
        found.append((row, line.strip(), changed.strip(), whole))
    return found


def tests_of(kernel, folder):
    """Return the paths of the test files of a kernel."""
    names = TESTS[kernel]
    return [str(path) for name in names for path in (folder / "tests").rglob(name)]


def run(command, folder, timeout_s):
    """Run a command in a folder. Return True if it succeeds in time."""
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            timeout=timeout_s,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder)},
        )
    except subprocess.TimeoutExpired:
        return False
    return result.returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=100, help="number of mutants")
    parser.add_argument("--random_seed", type=int, default=1)
    parser.add_argument("--kernels", nargs="+", default=[*TESTS], choices=[*TESTS])
    arguments = parser.parse_args()

    drawn = [
        (kernel, *mutant)
        for kernel in arguments.kernels
        for mutant in mutants_of((ROOT / "dipy_rnn" / f"{kernel}.pyx").read_text())
    ]
    random.Random(arguments.random_seed).shuffle(drawn)
    tally = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        left_out = shutil.ignore_patterns("__pycache__", "*.c")
        shutil.copytree(ROOT / "dipy_rnn", folder / "dipy_rnn", ignore=left_out)
        shutil.copytree(ROOT / "tests", folder / "tests", ignore=left_out)
        for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy2(ROOT / file, folder)
        shutil.copytree(ROOT / "workflows", folder / "workflows", ignore=left_out)
        setup = (folder / "setup.py").read_text()
        (folder / "setup.py").write_text(setup.replace("-O3", "-O1"))
        build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        if not run(build, folder, 600):
            raise SystemExit("The kernels cannot be compiled.")
        shutil.copytree(folder / "dipy_rnn", folder / "original")
        pytest = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        for kernel in arguments.kernels:
            if not run(pytest + tests_of(kernel, folder), folder, 600):
                raise SystemExit(f"The tests of {kernel} fail without a mutation.")
        for kernel, row, before, after, source in drawn:
            if tally.total() - tally["not compiled"] == arguments.mutants:
                break
            # Restore files and their times, so that only the mutant is compiled.
            shutil.copytree(
                folder / "original", folder / "dipy_rnn", dirs_exist_ok=True
            )
            (folder / "dipy_rnn" / f"{kernel}.pyx").write_text(source)
            test = pytest + tests_of(kernel, folder)
            if not run(build, folder, 600):
                fate = "not compiled"
            elif run(test, folder, 600):
                fate = "survived"
                print(f"{kernel}.pyx:{row}\n- {before}\n+ {after}", flush=True)
            else:
                fate = "killed"
            tally[fate] += 1
    print(", ".join(f"{n} {fate}" for fate, n in tally.items()))


if __name__ == "__main__":
    main()
