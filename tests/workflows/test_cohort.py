"""Many subjects: engines, failures, interruptions and existing tractograms."""

from collections import Counter
import csv
from functools import partial
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

from commands import Subject, command, load, refusal
from jobs import double
import numpy as np
import pytest

from dipy_rnn._atomic import save_table
from dipy_rnn.pipeline import TrackingCounts, run_jobs
from dipy_rnn.workflows.cohort import COLUMNS, Outcome
from dipy_rnn.workflows.cohort import Subject as Files

PROGRAM = Path(sys.executable).parent / "dipy_track_rnn"
STEP = ("--step_size", "1")


class Cohort:
    """Some subjects, of which one may have a broken stopping image."""

    def __init__(self, folder, n=3, broken=None):
        self.folder = folder
        for i in range(1, n + 1):
            path = folder / f"sub-{i}"
            path.mkdir(parents=True)
            subject = Subject(path)
            if i == broken:
                subject.stopping.write_text("FA")
        self.inputs = [
            folder / "sub-*" / path.name
            for path in (subject.pam, subject.stopping, subject.seeding)
        ]
        self.summary = folder / "summary.csv"

    def arguments(self, *options, out_dir):
        return [
            *self.inputs,
            *("--out_strat", "append", "--out_dir", out_dir),
            *("--summary_file", self.summary),
            *STEP,
            *options,
        ]

    def saved(self, out_dir):
        return {
            path.parent.parent.name: path.read_bytes()
            for path in sorted(self.folder.glob(f"sub-*/{out_dir}/*.trx"))
        }

    def rows(self):
        with open(self.summary, newline="") as file:
            return list(csv.DictReader(file))


@pytest.mark.parametrize("engine", ["serial", "joblib", "ray"])
def test_an_exception_is_the_outcome_of_its_job_and_does_not_stop_others(
    engine, monkeypatch
):
    if engine != "serial":
        pytest.importorskip(engine)
    # DIPY 2 may not have paramap, or not with joblib.
    monkeypatch.setitem(sys.modules, "dipy.utils.parallel", None)
    outcomes = dict(run_jobs([1, "wrong", 3], double, engine=engine, num_processes=2))
    assert (outcomes[1], outcomes[3]) == (2, 6)
    assert isinstance(outcomes["wrong"], ValueError)
    assert str(outcomes["wrong"]) == "it is wrong"


@pytest.mark.parametrize("engine", ["joblib", "ray"])
def test_a_process_that_dies_fails_only_its_own_job(engine):
    pytest.importorskip(engine)
    jobs = [1, 2, "deadly", 4, 5]
    outcomes = dict(run_jobs(jobs, double, engine=engine, num_processes=2))
    assert [outcomes[job] for job in (1, 2, 4, 5)] == [2, 4, 8, 10]
    assert isinstance(outcomes["deadly"], RuntimeError)
    assert "its process died" in str(outcomes["deadly"])


def test_counts_of_parts_are_added():
    parts = [
        TrackingCounts(0.5, 4, n, steps, Counter({"end": n}), 3 - n, 1)
        for n, steps in ((0, 0), (1, 20), (3, 12))
    ]
    whole = sum(parts, TrackingCounts(0.5))
    assert (whole.seeds, whole.streamlines, whole.mean_length_mm) == (12, 4, 4.0)
    assert (whole.ends["end"], whole.without_direction, whole.outside) == (4, 5, 3)


def test_the_table_has_a_row_for_each_subject(tmp_path):
    path = tmp_path / "summary.csv"
    failed = Outcome(
        Files(Path("a, b"), Path("fa"), Path("seeds"), Path("c")),
        "failed",
        error=ValueError('"no"'),
    )
    save_table(path, COLUMNS, [failed.row()])
    with open(path, newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["fodf"], row["status"], row["error"]) == ("a, b", "failed", '"no"')
    assert (row["streamlines"], row["mean_length_mm"]) == ("0", "0.00")


def test_a_summary_that_cannot_be_written_is_refused_before_tracking(tmp_path):
    cohort = Cohort(tmp_path, n=2)
    cohort.summary = tmp_path / "sub-1"
    assert "sub-1 is a folder" in refusal(*cohort.arguments(out_dir="tracked"))
    assert not cohort.saved("tracked")
    cohort.summary = tmp_path / "tables" / "new" / "summary.csv"
    command(*cohort.arguments(out_dir="tracked"))
    assert [row["status"] for row in cohort.rows()] == ["tracked", "tracked"]


def test_if_a_subject_fails_it_is_named_and_the_others_are_tracked(tmp_path, capsys):
    cohort = Cohort(tmp_path, broken=2)
    line = refusal(*cohort.arguments(out_dir="tracked"))
    assert "1 of 3 subjects failed" in line and "sub-2" in line
    assert cohort.saved("tracked").keys() == {"sub-1", "sub-3"}
    assert [row["status"] for row in cohort.rows()] == ["tracked", "failed", "tracked"]
    assert "fa.nii.gz is not compressed by gzip" in cohort.rows()[1]["error"]
    assert int(cohort.rows()[0]["streamlines"]) > 0
    # The next run tracks only the missing subject.
    shutil.copy(tmp_path / "sub-1" / "fa.nii.gz", tmp_path / "sub-2" / "fa.nii.gz")
    before = (tmp_path / "sub-1" / "tracked" / "out_tractogram.trx").stat().st_mtime_ns
    command(*cohort.arguments("--skip_existing", out_dir="tracked"))
    after = (tmp_path / "sub-1" / "tracked" / "out_tractogram.trx").stat().st_mtime_ns
    assert before == after
    assert cohort.saved("tracked").keys() == {"sub-1", "sub-2", "sub-3"}
    assert [row["status"] for row in cohort.rows()] == ["skipped", "tracked", "skipped"]
    assert [bool(row["streamlines"]) for row in cohort.rows()] == [False, True, False]


def test_a_single_file_for_all_subjects_is_a_warning(tmp_path, messages):
    cohort = Cohort(tmp_path, n=2)
    cohort.inputs[2] = tmp_path / "sub-1" / cohort.inputs[2].name
    command(*cohort.arguments(out_dir="tracked"))
    assert f"seeding_files is {cohort.inputs[2]} for all 2 subjects" in messages.text
    assert len(cohort.saved("tracked")) == 2


@pytest.mark.parametrize("engine", ["joblib", "ray"])
def test_engines_give_the_same_streamlines_as_serial(tmp_path, engine):
    pytest.importorskip(engine)
    cohort = Cohort(tmp_path)
    command(*cohort.arguments(out_dir="serial"))
    command(*cohort.arguments("--engine", engine, "--num_processes", 2, out_dir=engine))
    assert len(cohort.saved("serial")) == 3
    assert cohort.saved("serial") == cohort.saved(engine)


def until(found, what):
    """Wait until a function returns True, for 5 minutes at most."""
    for _ in range(3000):
        if found():
            return
        time.sleep(0.1)
    raise AssertionError(f"not found in 5 minutes: {what}")


@pytest.fixture
def scheduler(tmp_path):
    """Start a dask scheduler and two workers, each in its own process."""
    pytest.importorskip("distributed")
    dask = [sys.executable, "-m", "dask"]
    log = tmp_path / "scheduler.log"
    with log.open("w") as file:
        processes = [
            subprocess.Popen(
                [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0"]
                + ["--no-dashboard"],
                stderr=file,
            )
        ]
        address = partial(_address_in, log)
        until(address, "a scheduler")
        for _ in range(2):
            processes.append(
                subprocess.Popen(
                    [*dask, "worker", address(), "--nthreads", "1", "--no-dashboard"]
                    + ["--local-directory", tmp_path / "dask"],
                    stderr=file,
                )
            )
        until(lambda: log.read_text().count("Registered to:") >= 2, "two workers")
        yield address()
        for process in processes[::-1]:
            process.terminate()
        for process in processes:
            process.wait(timeout=60)


def _address_in(log):
    for line in log.read_text().splitlines():
        if "Scheduler at:" in line:
            return line.split()[-1]
    return None


def test_dask_gives_the_same_streamlines_and_names_the_subject_that_fails(
    tmp_path, scheduler
):
    cohort = Cohort(tmp_path / "all", n=8, broken=5)
    drawn = ("--tracking_method", "probabilistic", "--save_metrics")
    refusal(*cohort.arguments(*drawn, out_dir="serial"))
    line = refusal(*cohort.arguments(*drawn, "--scheduler", scheduler, out_dir="dask"))
    assert "1 of 8 subjects failed" in line and "sub-5" in line
    assert len(cohort.saved("dask")) == 7
    assert cohort.saved("serial") == cohort.saved("dask")
    statuses = [row["status"] for row in cohort.rows()]
    assert statuses == ["tracked"] * 4 + ["failed"] + ["tracked"] * 3


def test_without_a_scheduler_the_error_is_one_line(tmp_path):
    pytest.importorskip("distributed")
    subject = Subject(tmp_path)
    line = refusal(
        *subject.inputs,
        *("--scheduler", "nonsense://there"),
        *("--out_dir", tmp_path / "out"),
    )
    assert "scheduler is nonsense://there" in line


@pytest.mark.parametrize(
    "options",
    [
        ("--save_seeds", "--save_stops"),
        ("--save_metrics", "--downsample", 2),
        ("--downsample", 3, "--float16"),
        ("--compress", 0.2),
    ],
)
def test_parts_give_the_same_file(tmp_path, options):
    subject = Subject(tmp_path)
    out = ("--out_dir", tmp_path / "out", *STEP, *options)
    command(*subject.inputs, *out, "--out_tractogram", "whole.trx")
    parts = ("--nbr_parts", 3, "--engine", "joblib", "--num_processes", 2)
    command(*subject.inputs, *out, "--out_tractogram", "parts.trx", *parts)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["parts.trx", "whole.trx"]
    whole, parts = ((tmp_path / "out" / name).read_bytes() for name in names[::-1])
    assert whole == parts


@pytest.fixture
def started():
    """Return a function that starts the command; the fixture kills it at the end."""
    processes = []

    def start(arguments, limit=None):
        def prepare():
            # A shell makes its background processes ignore SIGINT.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if limit:
                import resource

                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        process = subprocess.Popen(
            [PROGRAM, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=prepare,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def children(process):
    pattern = ["pgrep", "-P", str(process.pid)]
    return subprocess.run(pattern, capture_output=True, text=True).stdout.split()


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def writing(folder):
    """Return the folders of tractograms that are being written."""
    return [path for path in folder.rglob("*.partial") if any(path.iterdir())]


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").exists() or shutil.which("pgrep") is None,
    reason="needs /proc and pgrep",
)


@needs_proc
@pytest.mark.parametrize("engine", ["serial", "joblib"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_partial_file(tmp_path, started, number, engine):
    cohort = Cohort(tmp_path)
    arguments = cohort.arguments(
        *("--seed_count", 20_000, "--step_size", 0.2),
        *("--engine", engine, "--num_processes", 2, "--nbr_threads", 1),
        out_dir="out",
    )
    process = started(arguments)
    until(lambda: writing(tmp_path) or process.poll() is not None, "a partial file")
    workers = children(process)
    assert bool(workers) == (engine == "joblib")
    process.send_signal(number)
    _, error = process.communicate(timeout=300)
    until(lambda: not any(map(is_running, workers)), "the end of the workers")
    assert not cohort.saved("out")
    if number != signal.SIGKILL:
        assert process.returncode != 0
        word = "interrupted" if number == signal.SIGINT else "terminated"
        assert f"dipy_track_rnn: {word}" in error.splitlines()
        assert "Traceback" not in error
        if engine == "serial":
            assert not writing(tmp_path)
    # The next run succeeds, and removes what a killed process left.
    command(*cohort.arguments("--seed_count", 5, out_dir="out"))
    assert len(cohort.saved("out")) == 3
    assert not list(tmp_path.rglob("*.partial"))


@needs_proc
def test_a_full_disk_is_an_error_of_one_line_and_leaves_no_file(tmp_path, started):
    subject = Subject(tmp_path)
    out = tmp_path / "out"
    process = started([*subject.inputs, "--out_dir", out, *STEP], limit=2048)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1
    # DIPY 1.11 also prints log messages to stderr.
    (line,) = [each for each in error.splitlines() if not each.startswith("INFO:")]
    assert line.startswith("dipy_track_rnn: error: ")
    assert "File too large" in line and "out_tractogram.trx" in line
    assert not list(out.iterdir())


def test_all_formats_contain_the_same_streamlines(
    tmp_path,
):
    subject = Subject(tmp_path)
    lines = {
        suffix: subject.run("--step_size", 1.0, out=f"lines.{suffix}")
        for suffix in ("trx", "trk", "tck")
    }
    for suffix in ("trk", "tck"):
        assert len(lines[suffix]) == len(lines["trx"]) == subject.n_seeds
        for one, other in zip(lines["trx"], lines[suffix]):
            np.testing.assert_allclose(one, other, atol=1e-4)
    assert load(tmp_path / "out" / "lines.trk", subject.stopping)
