"""
Many subjects, on a cluster
===========================

One command tracks a cohort, with several processes on one machine or with the workers
of a dask scheduler. If one subject fails, the others are still tracked. After an
interruption, the same command tracks the remaining subjects.
"""

# %%
# Three subjects
# --------------
#
# Each subject has an fODF, a stopping image and a seeding image. The stopping image of
# the third subject is damaged.

import csv
from pathlib import Path
import shlex
import subprocess
import tempfile

from dipy.io.image import save_nifti
import numpy as np

from dipy_rnn.phantom import crossing_phantom

folder = Path(tempfile.mkdtemp())
for number, angle in enumerate((60, 75, 90), start=1):
    phantom = crossing_phantom(angle, shape=(20, 20, 8))
    subject = folder / f"sub-{number}"
    subject.mkdir()
    mask = np.float32(phantom.mask())
    save_nifti(subject / "fodf.nii.gz", phantom.fodf(noise=0.05), phantom.affine)
    save_nifti(subject / "fa.nii.gz", mask, phantom.affine)
    save_nifti(subject / "seeds.nii.gz", mask, phantom.affine)
(subject / "fa.nii.gz").write_bytes(b"half a download")

# %%
# A cluster
# ---------
#
# The commands need the address of a dask scheduler. Here, the scheduler and its worker
# run in a thread of this program. On a cluster, `distributed.LocalCluster` or
# `dask_jobqueue`'s `SLURMCluster` starts the workers. Both show such an address.

from distributed import LocalCluster

cluster = LocalCluster(
    n_workers=1,
    threads_per_worker=1,
    processes=False,
    protocol="tcp",
    dashboard_address=None,
)
print(cluster.scheduler_address.split(":")[0])

# %%
# Tracking
# --------
#
# Files are paired if their wildcards match the same words, such as sub-01.
# `--out_strat append` writes each tractogram beside its fODF. All workers must have
# access to the same files.


def run(command):
    """Run a command in the folder, as in a terminal, and print its output."""
    print("$", command.replace(cluster.scheduler_address, "tcp://host:8786"))
    done = subprocess.run(
        shlex.split(command), cwd=folder, text=True, capture_output=True, check=False
    )
    said = (done.stdout + done.stderr).replace(f"{folder}/", "")
    for line in said.splitlines():
        print(line.split("[dipy] ")[-1])  # without the time of day
    return done.returncode


command = (
    'dipy_track_rnn "sub-*/fodf.nii.gz" "sub-*/fa.nii.gz" "sub-*/seeds.nii.gz" '
    "--step_size 1 --seed_count 100 --out_strat append --out_dir tracked "
    "--skip_existing"
)
status = run(f"{command} --scheduler {cluster.scheduler_address}")
print("exit status", status)

# %%
# The command writes a table with the result of each subject, also of the failed one:

with open(folder / "track_rnn_summary.csv", newline="") as file:
    for row in csv.DictReader(file):
        name = Path(row["fodf"]).parent.name
        print(
            name,
            row["status"],
            row["streamlines"],
            row["error"].replace(f"{folder}/", ""),
        )

cluster.close()

# %%
# The tractograms of the subjects that were tracked:

from dipy.io.streamline import load_tractogram

from dipy_rnn.report import draw_tractograms

tractograms = {
    path.parts[-3]: load_tractogram(str(path), str(path.parents[1] / "fa.nii.gz"))
    for path in sorted(folder.glob("sub-*/tracked/*.trx"))
}
figure = draw_tractograms(
    {name: tractogram.streamlines for name, tractogram in tractograms.items()},
    mask,
    phantom.affine,
)

# %%
# On your own data
# ----------------
#
# - On one machine, use `--engine joblib --num_processes 8` in place of `--scheduler`.
# - `--skip_existing` leaves out subjects that have a tractogram. Run the same command
#   again to track the remaining subjects.
# - For one large subject, `--nbr_parts 16` splits its seeds. The streamlines are the
#   same.
# - For Slurm's job arrays and all other options, see :doc:`/cohorts`.
