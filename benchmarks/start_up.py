"""Start-up of the commands: ``python benchmarks/start_up.py``.

``dipy_track_rnn`` with each shipped model, and ``dipy_track``, track five seeds on the
same files: a small simulated fODF with two crossing bundles. Measured is the whole
process, from its start to its end:

seconds
    On the clock. They depend on other programs.
CPU seconds
    Of the process and its threads, in user mode and in the kernel.
ratio
    CPU seconds divided by those of ``dipy_track``, the median over the rounds.

Two more rows are Python alone, and Python with the modules of DIPY that
``dipy_track_rnn`` needs. Each round runs every row once. The first round does not
count. The table has medians.

``--older FOLDER`` adds rows of another version of the package: FOLDER/dipy_rnn, with
its commands in FOLDER/dipy_rnn/workflows and its kernels built.
"""

import argparse
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time
import warnings

from dipy.data import default_sphere
from dipy.direction.peaks import PeaksAndMetrics
from dipy.io.image import save_nifti
from dipy.io.peaks import save_pam
from dipy.reconst.shm import sh_to_sf_matrix
import numpy as np

from dipy_rnn.model import shipped_models
from dipy_rnn.phantom import crossing_phantom
from dipy_rnn.sampling import sh_order

N_SEEDS = 5
OPTIONS = ("--step_size", "1", "--max_angle", "30", "--force")
MODULES = (
    "dipy.workflows.flow_runner",
    "dipy.workflows.workflow",
    "dipy.tracking.stopping_criterion",
    "dipy.io.streamline",
    "dipy.reconst.shm",
)
# What the commands in pyproject.toml run.
ENTRY = "import sys; from dipy_rnn.workflows.cli import track; sys.exit(track())"


def write_subject(folder):
    """Write the fODF with its peaks, the stopping image and the seeds; return paths."""
    phantom = crossing_phantom(90)
    fodf, mask = phantom.fodf(), phantom.mask()
    fractions, directions = phantom.peaks()
    n_peaks = fractions.shape[-1]
    pam = PeaksAndMetrics()
    pam.affine, pam.sphere, pam.shm_coeff = phantom.affine, default_sphere, fodf
    with warnings.catch_warnings():  # DIPY warns of its legacy basis
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        pam.B = sh_to_sf_matrix(
            default_sphere,
            sh_order_max=sh_order(fodf.shape[3]),
            basis_type="descoteaux07",
            legacy=True,
            return_inv=False,
        )
    pam.peak_dirs, pam.peak_values = directions, fractions
    pam.peak_indices = np.zeros((*mask.shape, n_peaks), np.int32)
    pam.gfa, pam.qa, pam.odf = np.zeros(mask.shape), fractions, None
    pam.total_weight, pam.ang_thr = 0.5, 60
    seeds = np.zeros(mask.shape, np.uint8)
    inside = np.argwhere(mask)
    seeds[tuple(inside[:: len(inside) // N_SEEDS][:N_SEEDS].T)] = 1
    paths = [folder / name for name in ("peaks.pam5", "fa.nii.gz", "seeds.nii.gz")]
    save_pam(str(paths[0]), pam)
    save_nifti(str(paths[1]), mask.astype(np.float32), phantom.affine)
    save_nifti(str(paths[2]), seeds, phantom.affine)
    return paths


def rows(folder, older):
    """Return the command and the environment of each row, by its label."""
    inputs = [str(path) for path in write_subject(folder)]
    output = ["--out_dir", str(folder), *OPTIONS]
    python = sys.executable
    imports = "; ".join(f"import {name}" for name in MODULES)
    found = {
        "Python alone": ([python, "-c", ""], {}),
        "Python and DIPY's modules": ([python, "-c", imports], {}),
        "dipy_track": (
            [str(Path(python).parent / "dipy_track"), *inputs, *output],
            {},
        ),
    }
    versions = {"": {}} | ({" (older)": {"PYTHONPATH": str(older)}} if older else {})
    for version, environment in versions.items():
        for model in shipped_models():
            options = ["--model_file", model, "--nbr_threads", "1"]
            found[f"dipy_track_rnn, {model}{version}"] = (
                [python, "-P", "-c", ENTRY, *inputs, *output, *options],
                environment,
            )
    return found


def measure(command, environment):
    """Run a process; return its seconds and its CPU seconds."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds, usage.ru_utime + usage.ru_stime


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--older", type=Path, help="a folder that holds dipy_rnn")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = rows(Path(folder), arguments.older)
        rounds = [
            {label: measure(*case) for label, case in cases.items()}
            for _ in range(arguments.repeats + 1)
        ][1:]
    print("| | seconds | CPU seconds | ratio |\n|---|---|---|---|")
    for label in cases:
        seconds, cpu = np.median([each[label] for each in rounds], axis=0)
        ratio = np.median([each[label][1] / each["dipy_track"][1] for each in rounds])
        print(f"| {label} | {seconds:.2f} | {cpu:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
