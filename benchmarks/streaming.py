"""The cost of writing tractograms: ``python benchmarks/streaming.py --data FOLDER``.

FOLDER contains the head (``--head``) as for real_data.py. ``--work`` is the folder of
its fODF, of the tractograms while they are measured, and of streaming.json with all
results so far. The default model tracks ``--seeds`` random seeds where FA is above 0.3,
as in speed.py. The streamlines are

* counted and dropped (the engine alone);
* kept in memory (the reference of the ratios);
* written to a file, in each format, and once with seeds and stop reasons.

Each row is measured in its own process, one after the other, and all rows are repeated
``--repeats`` times. Seconds are from the first call to the last streamline, or until
the file is flushed to the disk. CPU seconds are the sum over all threads; they depend
less on other programs. Memory is that of the whole process, with fODF and FA: the
maximum resident memory (Linux: VmHWM), and the maximum without pages of files
(RssAnon, measured 10 times per second). The table shows medians over the repeats; the
ratio of streamlines/s is computed in each repeat.
"""

import argparse
import json
from pathlib import Path
import subprocess
import sys
from threading import Event, Thread
import time

from dipy.io.image import load_nifti
from dipy.io.peaks import load_pam
from dipy.tracking.utils import random_seeds_from_mask
import numpy as np
from real_data import SEED_THR, STOPPING_THR, prepare
from speed import MAX_LEN, MIN_LEN, STEP_MM, machine, number, print_markdown

from dipy_rnn import load_model, pam_features, stopping
from dipy_rnn.io import downsample, join_streamlines, split_batches, write_batches
from dipy_rnn.pipeline import TrackingCounts, select_blocks

MAX_ANGLE_DEG = 45.0
DATA_TYPES = {
    "seeds": (3, np.float32),
    "forward_stop": (1, np.uint8),
    "backward_stop": (1, np.uint8),
}
# For each row that writes a file: its suffix, and options of write_batches.
FORMATS = {
    "trx": (".trx", {}),
    "trx16": (".trx", {"dtype": np.float16}),
    "trx_values": (".trx", {"data_types": DATA_TYPES}),
    "trx_every_2": (".trx", {}),
    "trx_tolerance": (".trx", {}),
    "trk": (".trk", {}),
    "tck": (".tck", {}),
}
DOWNSAMPLING = {"trx_every_2": {"every": 2}, "trx_tolerance": {"tolerance_mm": 0.1}}
LABELS = {
    "alone": "engine alone",
    "memory": "kept in memory",
    "trx": ".trx, float32",
    "trx16": ".trx, float16",
    "trx_values": ".trx, float32, with seeds and stop reasons",
    "trx_every_2": ".trx, float32, every second point",
    "trx_tolerance": ".trx, float32, compressed to 0.1 mm",
    "trk": ".trk",
    "tck": ".tck",
}


def status_mb(name):
    """Return an entry of /proc/self/status, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(name)


class Watch:
    """The maximum anonymous memory during a block."""

    def __enter__(self):
        self.most_mb, self._end = 0.0, Event()
        self._thread = Thread(target=self._measure)
        self._thread.start()
        return self

    def _measure(self):
        while not self._end.wait(0.1):
            self.most_mb = max(self.most_mb, status_mb("RssAnon"))

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()
        self.most_mb = max(self.most_mb, status_mb("RssAnon"))


def measure(key, arguments):
    """Measure a row in this process."""
    work = arguments.work / arguments.head
    fa, affine = load_nifti(arguments.data / arguments.head / "fa.nii.gz")
    features = pam_features(load_pam(work / "peaks.pam5"))
    seeds = random_seeds_from_mask(
        fa > SEED_THR,
        affine,
        seeds_count=arguments.seeds,
        seed_count_per_voxel=False,
        random_seed=1,
    )
    model = load_model("default")

    def batches(seeds):
        for block, seeds_mm in select_blocks(
            [seeds],
            stopping.ThresholdStoppingCriterion(fa, STOPPING_THR),
            affine,
            TrackingCounts(STEP_MM),
            min_len=MIN_LEN,
            max_len=MAX_LEN,
            step_size=STEP_MM,
            max_angle=MAX_ANGLE_DEG,
            features=features,
            model=model,
            nbr_threads=arguments.threads,
        ):
            values = {
                "seeds": seeds_mm[block.index],
                "forward_stop": block.forward_stop[:, None],
                "backward_stop": block.backward_stop[:, None],
            }
            yield block.points_mm, block.n_points, values

    sum(1 for _ in batches(seeds[:100]))
    row = {"key": key, "start_mb": status_mb("VmRSS")}
    path = None
    with Watch() as watch:
        began, began_cpu = time.perf_counter(), time.process_time()
        if key == "alone":
            n_streamlines = sum(len(lengths) for _, lengths, _ in batches(seeds))
        elif key == "memory":
            kept = [line for line, _ in split_batches(batches(seeds))]
            n_streamlines = len(kept)
        else:
            suffix, options = FORMATS[key]
            path = work / f"streaming{suffix}"
            options = {"data_types": {}} | options
            found = batches(seeds)
            if key in DOWNSAMPLING:
                lines = downsample(split_batches(found), **DOWNSAMPLING[key])
                found = join_streamlines(lines, options["data_types"])
            n_streamlines = write_batches(path, found, affine, fa.shape, **options)
        row["seconds"] = time.perf_counter() - began
        row["cpu_seconds"] = time.process_time() - began_cpu
    row |= {"streamlines": n_streamlines, "anonymous_mb": watch.most_mb}
    row["peak_mb"] = status_mb("VmHWM")
    if path:
        row["file_mb"] = path.stat().st_size / 2**20
        path.unlink()
    return row


def print_rows(rows):
    """Print the table of medians."""

    def of(key, name):
        return [row[name] for row in rows if row["key"] == key and name in row]

    def median(key, name):
        values = of(key, name)
        return number(np.median(values)) if values else ""

    def rates(key):
        return np.divide(of(key, "streamlines"), of(key, "seconds"))

    def ratio(key):
        ratios = [a / b for a, b in zip(rates(key), rates("memory"))]
        return number(np.median(ratios)) if ratios else ""

    names = ("start_mb", "peak_mb", "anonymous_mb", "file_mb")
    print_markdown(
        ("", "streamlines", "seconds", "streamlines/s", "ratio", "CPU seconds")
        + ("memory before, MB", "peak, MB", "without files, MB", "file, MB"),
        [
            (
                LABELS[key],
                of(key, "streamlines")[0],
                median(key, "seconds"),
                number(np.median(rates(key))),
                ratio(key),
                median(key, "cpu_seconds"),
                *(median(key, name) for name in names),
            )
            for key in dict.fromkeys(row["key"] for row in rows)
        ],
    )


def main():
    """Measure all rows, or the one of --row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--head", default="siemens2mm", help="a folder in it")
    parser.add_argument("--work", type=Path, default=Path("real_data"))
    parser.add_argument("--seeds", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=LABELS, default=list(LABELS))
    parser.add_argument("--row", choices=LABELS, help="only this row, in this process")
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(arguments.row, arguments)))
        return
    title = machine()
    print(f"{title}; {arguments.head}, {arguments.seeds} seeds")
    prepare(arguments.data / arguments.head, arguments.work / arguments.head)
    rows = []
    for _ in range(arguments.repeats):
        for key in arguments.only:
            found = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--row", key],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout
            rows.append(json.loads(found.splitlines()[-1]))
            print(rows[-1], file=sys.stderr)
            found = {"machine": title, "seeds": arguments.seeds, "rows": rows}
            path = arguments.work / arguments.head / "streaming.json"
            path.write_text(json.dumps(found, indent=1))
    print_rows(rows)


if __name__ == "__main__":
    main()
