"""Numbers of threads."""

import os
import subprocess
import sys

import pytest
import torch

from dipy_rnn import _threads
from dipy_rnn._threads import count_cores, count_threads, torch_threads
from dipy_rnn.pipeline import plan_workers


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch, tmp_path):
    """Pretend that this process may use eight cores, without any other limit."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_threads, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(_threads, "_LIMITS", tmp_path / "limits")


@pytest.fixture
def groups(tmp_path):
    """Return a function that writes the control groups of this process."""

    def write(lines, **limits):
        (tmp_path / "groups").write_text(lines)
        for path, text in limits.items():
            file = tmp_path / "limits" / path.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    return write


def test_zero_threads_means_every_core():
    assert count_threads(3) == 3
    assert count_threads(0) == count_cores() == 8


@pytest.mark.parametrize(
    ("variables", "n_cores", "n_threads"),
    [
        ({"OMP_NUM_THREADS": "3"}, 8, 3),
        ({"OMP_NUM_THREADS": " 2,4"}, 8, 2),
        ({"OMP_NUM_THREADS": "64"}, 8, 8),
        ({"SLURM_CPUS_PER_TASK": "5"}, 5, 5),
        ({"SLURM_CPUS_PER_TASK": "5", "OMP_NUM_THREADS": "1"}, 5, 1),
        ({"OMP_NUM_THREADS": "many", "SLURM_CPUS_PER_TASK": "0"}, 8, 8),
        ({"OMP_NUM_THREADS": "", "SLURM_CPUS_PER_TASK": "-2"}, 8, 8),
    ],
)
def test_variables_of_openmp_and_slurm_limit_the_threads(
    monkeypatch, variables, n_cores, n_threads
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (count_cores(), count_threads(0)) == (n_cores, n_threads)
    assert count_threads(6) == 6  # as the user says


def test_the_quota_of_a_container_limits_the_threads(groups):
    groups("0::/\n", **{"cpu.max": "250000 100000\n"})  # version 2
    assert count_threads(0) == 3


def test_the_smallest_quota_of_all_groups_around_the_process_counts(groups):
    limits = {"cpu.max": "max 100000", "a__cpu.max": "200000 100000"}
    groups("0::/a/b\n", **limits, **{"a__b__cpu.max": "700000 100000"})
    assert count_threads(0) == 2


@pytest.mark.parametrize(("quota", "n"), [("150000", 2), ("-1", 8), ("50000", 1)])
def test_a_quota_of_version_1_limits_the_threads(groups, quota, n):
    # A container sees the path of the host, and its own limits at the root.
    lines = "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/docker/x\n"
    root = "cpu,cpuacct__cpu.cfs_"
    groups(lines, **{f"{root}quota_us": quota, f"{root}period_us": "100000\n"})
    assert count_threads(0) == n


def test_processes_share_the_cores_that_may_be_used(monkeypatch):
    pytest.importorskip("joblib")
    assert plan_workers("joblib", -1, "", 0) == (8, 1)
    assert plan_workers("joblib", 2, "", 0) == (2, 4)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    assert plan_workers("joblib", -1, "", 0) == (4, 1)
    assert plan_workers("joblib", -2, "", 2) == (3, 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert plan_workers("joblib", -1, "", 0) == (4, 1)
    assert plan_workers("serial", -1, "", 0) == (1, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_is_forked_after_tracking_can_track(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        """
import multiprocessing
from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
import numpy as np
from dipy_rnn import rnn_tracking
from dipy_rnn._threads import count_threads
from dipy_rnn.phantom import crossing_phantom

phantom = crossing_phantom(90, shape=(20, 20, 10))
seeds = phantom.streamlines(2)[0][0][20:40]


def lines(nbr_threads):
    tracked = rnn_tracking(
        seeds,
        BinaryStoppingCriterion(phantom.mask()),
        phantom.affine,
        sh=phantom.fodf(),
        step_size=1.0,
        nbr_threads=nbr_threads,
    )
    return list(tracked), count_threads(nbr_threads)


def rest(_):
    try:
        return [len(line) for line in begun]
    except RuntimeError as error:
        return str(error)


if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    with fork.Pool(1) as pool:  # no thread was started
        early, n = pool.map_async(lines, [3]).get(timeout=60)[0]
        assert n == 3
    here, _ = lines(4)
    with fork.Pool(2) as pool:
        there = pool.map_async(lines, [4, 1]).get(timeout=60)
    for of_child, n in (*there, (early, 1)):
        assert n == 1 and len(of_child) == len(here) == 20
        for one, other in zip(here, of_child):
            np.testing.assert_allclose(one, other, atol=1e-4)
    # Tracking that began with threads before the fork cannot go on in the child.
    begun = rnn_tracking(
        seeds,
        BinaryStoppingCriterion(phantom.mask()),
        phantom.affine,
        sh=phantom.fodf(),
        step_size=1.0,
        nbr_threads=2,
        batch_size=2,
    )
    first = len(next(begun))
    with fork.Pool(1) as pool:
        there = pool.map_async(rest, [0]).get(timeout=60)[0]
    assert "forked while streamlines were tracked" in there
    assert [first, *rest(0)] == [len(line) for line in here]
    print("done")
"""
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", script],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.stdout.strip() == "done", done.stderr


@pytest.mark.parametrize(("n_cores", "n_threads"), [(7, 7), (None, 1)])
def test_every_core_is_one_that_this_process_may_use(monkeypatch, n_cores, n_threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    assert count_threads(0) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: n_cores)
    assert count_threads(0) == n_threads


@pytest.mark.parametrize(
    "nbr_threads", [-1, -2, 1025, 2**40, float("inf"), float("nan"), 0.5, "2", None]
)
def test_numbers_of_threads_that_a_system_cannot_start_are_refused(nbr_threads):
    # With too many, OpenMP would end the process.
    with pytest.raises(ValueError, match="nbr_threads is") as refusal:
        count_threads(nbr_threads)
    assert "\n" not in str(refusal.value)


def test_the_threads_of_torch_are_restored_even_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), torch_threads(3):
        assert torch.get_num_threads() == 3
        raise KeyError
    assert torch.get_num_threads() == before


def test_the_threads_of_torch_do_not_import_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    with torch_threads(1):
        assert "torch" not in sys.modules
