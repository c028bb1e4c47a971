"""Numbers of threads."""

import os

import pytest
import torch

from dipy_rnn._threads import count_threads, torch_threads


def test_zero_threads_means_every_core():
    assert count_threads(3) == 3
    assert 1 <= count_threads(0) <= os.cpu_count()


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
