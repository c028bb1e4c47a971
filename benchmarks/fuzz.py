"""Test the package with thousands of random and damaged inputs.

Run it by ``python benchmarks/fuzz.py --inputs 10000``. The script draws random inputs
of the kinds in ``tests/fuzzing.py`` and ``tests/fuzzing_commands.py``. Worker processes
pass each input to the library or, as files, to a command. Two outcomes are right:

- The input is accepted. All streamlines are inside the image, and DIPY loads the file
  with its default checks. A head that is stored in another way has the same
  streamlines. Files of different subjects are not mixed.
- The input is refused in one line that names the argument or the file.

All other outcomes are wrong: a worker that dies or does not answer for `--timeout`
seconds, a traceback, a message of more than one line, output files of a refused input,
a changed input, or more than `--memory` GB of memory. Inputs with a wrong outcome are
kept in `--keep`. ``--only KIND NUMBER`` repeats one input in this process.

Prints a table of the numbers of inputs, accepted, refused and wrong, for each kind. If
it is interrupted (SIGINT, SIGTERM), the table has the inputs until then.
"""

import argparse
from collections import Counter
import json
import os
from pathlib import Path
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent.parent / "tests"))

# Relative number of inputs of each kind. An input of "processes" takes seconds.
SHARES = {
    "damaged NIfTI": 18,
    "images": 18,
    "damaged PAM5": 16,
    "PAM5": 10,
    "other kinds of files": 6,
    "names": 6,
    "options": 6,
    "damaged tractograms": 8,
    "rnn_tracking": 3,
    "track": 3,
    "direction getter": 2,
    "features": 1,
    "interpolate": 1,
    "stopping": 1,
    "spaces": 1,
    "evaluation": 1,
    "lists of seeds": 2,
    "subjects": 8,
    "other storage": 8,
    "comparisons": 5,
    "trainings": 2,
    "metrics": 1,
    "processes": 0.5,
}


def installed(arguments):
    """Run the installed command, and return its status and its output."""
    done = subprocess.run(
        [Path(sys.executable).parent / "dipy_track_rnn", *arguments],
        capture_output=True,
        text=True,
        errors="backslashreplace",
    )
    if done.returncode in (1, 2) and "error: " in done.stderr:
        return done.stderr.removesuffix("\n").splitlines()[-1], done.stdout
    return done.returncode or None, done.stdout + done.stderr


def one(kind, number, random_seed, folder):
    """Draw an input, run it, and return the outcome."""
    import fuzzing
    from fuzzing_commands import COMMANDS

    if kind in fuzzing.LIBRARY:
        return fuzzing.LIBRARY[kind](random.Random(f"{random_seed} {kind} {number}"))
    r = random.Random(f"{random_seed} {kind} {number}")
    if kind == "processes":
        fuzzing.run_command = installed
        kind = r.choice(
            ("damaged NIfTI", "images", "damaged PAM5", "PAM5", "other kinds of files")
        )
    os.chdir(folder)
    return (fuzzing.FILES | COMMANDS)[kind](r, folder)


def work(folder, memory_gb):
    """Run the inputs that the parent process names, one after the other."""
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_gb * 2**30),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # DIPY logs to stdout
    for task in sys.stdin:
        kind, number, random_seed = json.loads(task)
        here = Path(folder) / "input"
        here.mkdir()
        import fuzzing

        run_command = fuzzing.run_command
        try:
            answer = one(kind, number, random_seed, here), ""
        except AssertionError as error:
            answer = "wrong", str(error)
        except BaseException:
            answer = "wrong", traceback.format_exc()[-1500:]
        finally:
            fuzzing.run_command = run_command
        os.chdir(folder)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if sys.stdin.readline() != "next\n":
            return


class Worker:
    """A process that runs inputs, replaced by a new one if it dies."""

    def __init__(self, arguments):
        self._arguments = arguments
        self._process = None

    def _start(self):
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz"))
        self._process = subprocess.Popen(
            [
                *(sys.executable, HERE, "--worker", self.folder),
                *("--memory", str(self._arguments.memory)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
            start_new_session=True,
            bufsize=0,
        )
        self._n = 0

    def judge(self, kind, number):
        """Run an input, and return its outcome and a message."""
        if self._process is None:
            self._start()
        # The first input also waits for the imports.
        patience = self._arguments.timeout + (60 if not self._n else 0)
        if kind == "processes":
            patience *= 5
        self._n += 1
        task = json.dumps([kind, number, self._arguments.random_seed])
        self._process.stdin.write(f"{task}\n".encode())
        ready, _, _ = select.select([self._process.stdout], [], [], patience)
        line = self._process.stdout.readline() if ready else b""
        if line:
            outcome, word = json.loads(line)
        else:
            outcome = "wrong"
            word = f"no answer for {patience} s"
            if ready:
                word = f"the process ended with {self._process.wait()}"
        if outcome == "wrong":
            kept = self._arguments.keep / f"{kind} {number}".replace(" ", "_")
            shutil.rmtree(kept, ignore_errors=True)
            if (self.folder / "input").exists():
                kept.mkdir(parents=True)
                subprocess.run(["cp", "-a", self.folder / "input", kept], check=False)
                (kept / "why.txt").write_text(word, errors="backslashreplace")
        if not line:
            self.end()
            return outcome, word
        shutil.rmtree(self.folder / "input", ignore_errors=True)
        self._process.stdin.write(b"next\n")
        return outcome, word

    def end(self):
        """Kill the process and its children."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait()
            shutil.rmtree(self.folder, ignore_errors=True)
            self._process = None


def drawn(kinds, n_inputs):
    """Return (kind, number) of all inputs, with the kinds mixed by their shares."""
    total = sum(SHARES[kind] for kind in kinds)
    counts = {kind: max(1, round(n_inputs * SHARES[kind] / total)) for kind in kinds}
    inputs = [(kind, number) for kind in kinds for number in range(counts[kind])]
    return sorted(inputs, key=lambda each: (each[1] + 0.5) / counts[each[0]])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--random_seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", choices=SHARES, default=list(SHARES))
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds")
    parser.add_argument("--memory", type=float, default=8.0, help="address space in GB")
    parser.add_argument("--keep", type=Path, default=Path("fuzz_wrong"))
    parser.add_argument("--only", nargs=2, metavar=("KIND", "NUMBER"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments.worker, arguments.memory)
    if arguments.only:
        kind, number = arguments.only
        with tempfile.TemporaryDirectory() as folder:
            print(one(kind, int(number), arguments.random_seed, Path(folder)))
        return None
    # A shell makes its background processes ignore SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    counts, start = {kind: Counter() for kind in arguments.kinds}, time.monotonic()
    worker = Worker(arguments)
    try:
        for kind, number in drawn(arguments.kinds, arguments.inputs):
            outcome, word = worker.judge(kind, number)
            counts[kind][outcome] += 1
            if outcome == "wrong":
                print(f"{kind} {number}: {word}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    finally:
        worker.end()
    columns = ("inputs", "accepted", "refused", "wrong")
    print(f"{'kind':22s}" + "".join(f"{name:>10s}" for name in columns))
    counts["all"] = sum(counts.values(), Counter())
    for kind, count in counts.items():
        numbers = (sum(count.values()), *(count[name] for name in columns[1:]))
        print(f"{kind:22s}" + "".join(f"{n:10d}" for n in numbers))
    print(f"{time.monotonic() - start:.0f} s, random seed {arguments.random_seed}")
    return 1 if counts["all"]["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
