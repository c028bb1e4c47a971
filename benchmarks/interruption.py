"""Kill dipy_track_rnn at random times, and check which files and processes remain.

Each run tracks a small phantom. SIGKILL ends it at a random time between its start and
1.1 times its usual duration. After that, the output path must hold no file, the file
that was there before, or the complete new file, byte for byte, and no process may
remain. At the end, a run without a kill must complete and remove all partial files.
VTK files need fury (pip install "dipy_rnn[vtk]").

    python benchmarks/interruption.py --kills 200
"""

import argparse
from collections import Counter
from multiprocessing import get_context
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time

from dipy.io.image import save_nifti
import numpy as np

from dipy_rnn import io, model_file, stopping, tracking  # noqa: F401
from dipy_rnn.io import SUFFIXES
from dipy_rnn.phantom import crossing_phantom
from dipy_rnn.workflows import cli

PROGRAM = Path(sys.executable).parent / "dipy_track_rnn"

ENGINES = ("serial", "joblib")


def make_subject(folder):
    """Write a phantom, and return the input files of the command."""
    phantom = crossing_phantom(90.0, shape=(20, 20, 10))
    images = {
        "sh": phantom.fodf(noise=0.05).astype(np.float32),
        "fa": phantom.mask().astype(np.float32),
        "seeds": phantom.mask().astype(np.uint8),
    }
    for name, image in images.items():
        save_nifti(folder / f"{name}.nii.gz", image, phantom.affine)
    return [folder / f"{name}.nii.gz" for name in images]


def start(inputs, out, suffix, engine, n_seeds):
    """Start the command.

    With joblib, two processes track one part of the seeds each. Otherwise, the command
    runs in a fork of this process. Its imports are done, so that most of the run time
    is tracking and writing.
    """
    options = ("--seed_count", n_seeds, "--engine", engine, "--nbr_threads", 1)
    where = ("--force", "--out_dir", out, "--out_tractogram", f"lines{suffix}")
    arguments = [str(each) for each in (PROGRAM, *inputs, *options, *where)]
    if engine == "serial":
        process = get_context("fork").Process(target=run, args=(arguments,))
        process.start()
        return process
    arguments += ["--nbr_parts", "2", "--num_processes", "2"]
    return subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def run(arguments):
    """Run the command in this process, without output."""
    with open(os.devnull, "w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    sys.argv = arguments
    cli.track()


def ended(process):
    """Wait for a process to end, and return its exit status."""
    if isinstance(process, subprocess.Popen):
        return process.wait()
    process.join()
    return process.exitcode


def orphans():
    """Return the processes of the command whose parent process has ended."""
    listed = subprocess.run(
        ["pgrep", "-P", "1", "-f", "interruption.py|dipy_track_rnn|LokyProcess"],
        capture_output=True,
        text=True,
    )
    return [pid for pid in listed.stdout.split() if int(pid) != os.getpid()]


def main():
    """Run the benchmark, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--random_seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.random_seed)
    found, wrong = Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        inputs = make_subject(folder)
        whole, seconds = {}, {}
        for suffix in SUFFIXES:
            for engine in ENGINES:
                begin = time.monotonic()
                process = start(inputs, folder, suffix, engine, arguments.seeds)
                assert ended(process) == 0
                seconds[suffix, engine] = time.monotonic() - begin
            whole[suffix] = (folder / f"lines{suffix}").read_bytes()
            (folder / f"lines{suffix}").unlink()
        print({" ".join(k): f"{v:.1f} s" for k, v in seconds.items()}, flush=True)
        for kill in range(arguments.kills):
            suffix = SUFFIXES[kill % len(SUFFIXES)]
            engine = "joblib" if kill // len(SUFFIXES) % 5 == 4 else "serial"
            path = folder / f"lines{suffix}"
            before = (None, b"an older one")[int(rng.integers(2))]
            if before is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(before)
            process = start(inputs, folder, suffix, engine, arguments.seeds)
            time.sleep(rng.uniform(0, 1.1) * seconds[suffix, engine])
            process.kill()
            ended(process)
            now = path.read_bytes() if path.exists() else None
            if now == whole[suffix]:
                left = "the complete new file"
            elif now == before:
                left = "no file" if now is None else "the older file"
            else:
                left, wrong = "WRONG: incomplete file", wrong + 1
            for _ in range(100):
                if not orphans():
                    break
                time.sleep(0.1)
            else:
                left, wrong = "WRONG: running process", wrong + 1
            partial = any(folder.glob(f".lines{suffix}.*.partial"))
            found[engine, left, "a .partial folder" if partial else ""] += 1
            print(f"{kill + 1} {suffix} {engine}: {left}", flush=True)
        for suffix in SUFFIXES:
            process = start(inputs, folder, suffix, "serial", arguments.seeds)
            complete = ended(process) == 0
            complete &= (folder / f"lines{suffix}").read_bytes() == whole[suffix]
            wrong += not complete
        leftovers = list(folder.glob("*.partial")) + list(folder.glob(".*.partial"))
        wrong += len(leftovers)
    print(
        f"\n{arguments.kills} kills, {wrong} wrong. Partial files after the last run: "
        f"{len(leftovers)}.\nFiles after a kill:\n"
    )
    print("| Engine | Output path | Beside it | Times |\n|---|---|---|---|")
    for (engine, left, partial), n in sorted(found.items()):
        print(f"| {engine} | {left} | {partial} | {n} |")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
