"""Change one thing at a time in the kernels, and see whether their tests notice.

What mutmut does for Python (`make mutation`). A mutant that no test notices is printed:
it says the same in other words, or a test is missing. Mutants are drawn at random, for
each one has to be compiled: some 20 s a mutant.

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
TESTS = {
    "_interp": ("test_interpolate.py", "test_peaks.py", "test_network.py"),
    "_network": ("test_network.py",),
    "_slots": ("test_engine.py",),
    "_stopping": ("test_stopping.py",),
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


def other(token):
    """Return what stands there instead, or None."""
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
        instead = other(token)
        if instead is None:
            continue
        row, start = token.start
        line = lines[row - 1]
        # Declarations: a pointer is no product.
        if line.lstrip().startswith(("cdef", "ctypedef", "const")):
            continue
        changed = line[:start] + instead + line[token.end[1] :]
        whole = "".join([*lines[: row - 1], changed, *lines[row:]])
        found.append((row, line.strip(), changed.strip(), whole))
    return found


def run(command, folder, timeout_s):
    """Run a command in a folder; True if it succeeds in time."""
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
    parser.add_argument("--mutants", type=int, default=100, help="how many")
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
        shutil.copytree(folder / "dipy_rnn", folder / "whole")
        pytest = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        for kernel, row, before, after, source in drawn:
            if tally.total() - tally["not compiled"] == arguments.mutants:
                break
            # All as it was, times as well: only the mutant is compiled.
            shutil.copytree(folder / "whole", folder / "dipy_rnn", dirs_exist_ok=True)
            (folder / "dipy_rnn" / f"{kernel}.pyx").write_text(source)
            test = pytest + [f"tests/{name}" for name in TESTS[kernel]]
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
