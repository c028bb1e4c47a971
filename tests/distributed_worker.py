"""A tiny training, in one process or as one of several."""

from contextlib import contextmanager
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
from unittest import mock

import torch
from torch import nn

from dipy_rnn import sampling
from dipy_rnn.model import MovingFrameGRU
from dipy_rnn.phantom import crossing_phantom
from dipy_rnn.training import Interrupted, Recipe, TrainingSubject, fit
from dipy_rnn.training.processes import process_group, rank


def small_subject():
    """Return a subject with eight streamlines of two crossing bundles of 18 mm."""
    phantom = crossing_phantom(60.0, shape=(10, 10, 6))
    data = sampling.fodf_features(phantom.fodf(4, noise=0.1)).data
    return TrainingSubject.of(data, phantom.affine, phantom.streamlines(4)[0])


def small_recipe(**changes):
    """Return a recipe with a validation at every second update."""
    small = {
        "n_references": 2,
        "n_sequences": 4,
        "max_points": 8,
        "validate_every": 2,
    }
    return Recipe(**(small | changes))


@contextmanager
def interrupt_after(n_updates):
    """Send SIGTERM to this process during its n-th update."""
    clip, calls = nn.utils.clip_grad_norm_, []

    def clip_and_kill(*arguments, **options):
        calls.append(1)
        if len(calls) == n_updates:
            os.kill(os.getpid(), signal.SIGTERM)
        return clip(*arguments, **options)

    with mock.patch.object(nn.utils, "clip_grad_norm_", clip_and_kill):
        yield


def distributed(command, n=2):
    """Run a command in n processes, and return (code, stdout, stderr) of each.

    This does what torchrun does, on the loopback interface only, and starts faster.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = os.environ | {
        "WORLD_SIZE": str(n),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    running = [
        subprocess.Popen(
            [str(word) for word in command],
            env=environment | {"RANK": str(i), "LOCAL_RANK": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(n)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, *out) for process, out in zip(running, outputs)]


def train(folder, *, interrupt=False):
    """Train, and save the results of this process; optionally with an interruption."""
    folder.mkdir(exist_ok=True)
    reports, interrupted = [], None
    # Each process starts with other weights; those of the first process are used.
    torch.manual_seed(rank())
    module = MovingFrameGRU(4, 8)

    def run(**options):
        return fit(
            module,
            [small_subject()],
            small_recipe(n_updates=8, n_references=4),
            validate=lambda module: {"followed": module.head.weight.sum().item()},
            checkpoint=folder / "checkpoint.pt",
            report=reports.append,
            **options,
        )

    if interrupt:
        try:
            with interrupt_after(4 if rank() == 1 else -1):
                run()
        except Interrupted as where:
            interrupted = str(where)
        # Wait until the first process has saved the checkpoint.
        torch.distributed.barrier()
    history = run(resume=interrupt)
    weights = module.state_dict()
    torch.save(
        {
            "weights": weights,
            "history": history,
            "interrupted": interrupted,
            "reports": len(reports),
        },
        folder / f"{rank()}.pt",
    )
    return weights, history


if __name__ == "__main__":
    torch.set_num_threads(1)
    with process_group(torch.device("cpu")):
        train(Path(sys.argv[1]), interrupt=True)
