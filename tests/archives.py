"""Model files for tests: small networks, and archives that are valid or not."""

import json
from unittest import mock
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from dipy_rnn import sampling
from dipy_rnn.model import ModelFileError, ModelMetadata, load_model

LOCAL = ModelMetadata(
    "sh",
    15,
    "local",
    layers=1,
    hidden=8,
    orders=(4,),
    normalisation="power",
    inputs=("step_vox", "max_angle_deg", "ahead"),
    step_vox=(0.1, 1.0),
    step_mm=(0.2, 1.5),
    provenance={"data": "none", "random_seed": 3},
)
#: Of format 1: without declared inputs.
RAW = ModelMetadata("raw", 3, "voxel", layers=1, hidden=2)
#: The entries of a file of format 1.
FORMAT_1 = {
    "format": "dipy_rnn model",
    "format_version": 1,
    "kind": "sh",
    "channels": 15,
    "frame": "local",
    "layers": 1,
    "hidden": 2,
    "orders": [4],
    "normalisation": "power",
    "step_mm": [0.2, 1.5],
    "architecture": "moving_frame",
    "replay_points": 128,
    "provenance": {"data": "none"},
    "basis": "tournier07",
    "legacy": False,
}


class Straight(nn.Module):
    """The smallest valid network for the metadata RAW. It goes straight on."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    @torch.jit.export
    def init_state(self, n: int) -> torch.Tensor:
        return torch.zeros(1, n, 2)

    def forward(
        self, features: torch.Tensor, direction: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return direction * self.weight, state


def write(path, module, metadata):
    """Write an archive as torch does, without the checks of save_model.

    ``metadata`` is a ModelMetadata, or a dict of the entries.
    """
    text = json.dumps(metadata) if isinstance(metadata, dict) else metadata.to_json()
    extra = {"metadata.json": text}
    torch.jit.save(torch.jit.script(module), str(path), _extra_files=extra)
    return path


def write_text(path, text):
    """Write an archive that has only metadata."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/extra/metadata.json", text)
    return path


def rewrite(path, change, compression=zipfile.ZIP_STORED):
    """Change the entries of an archive in place, and write new checksums.

    ``change`` gets a dict of names to contents.
    """
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    change(held)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in held.items():
            archive.writestr(name, content)


def mutate(content, rng):
    """Change a few bytes, remove some, or truncate the content."""
    content, at = bytearray(content), rng.randrange(len(content))
    which = rng.randrange(4)
    if which == 0:
        content[at] ^= 1 << rng.randrange(8)
    elif which == 1:
        content[at : at + 4] = b"\xff\xff\xff\x7f"
    elif which == 2:
        del content[at : at + rng.randrange(1, 40)]
    else:
        del content[at:]
    return bytes(content)


def entry(held, end):
    """Return the only name in an archive that ends with the given text."""
    (name,) = [name for name in held if name.endswith(end)]
    return name


def entries(metadata=LOCAL, **changes):
    """Return the JSON entries of metadata with some changes."""
    return {**json.loads(metadata.to_json()), **changes}


def volume(channels, kind="sh"):
    """Return a feature volume of zeros; errors about it contain its name, sub-1."""
    data = np.zeros((2, 2, 2, channels), np.float32)
    return sampling.FeatureVolume(data, kind, "sub-1")


def assert_refused(call, message, path=None):
    """Check that a call raises a ModelFileError of one line, which names the file."""
    with pytest.raises(ModelFileError, match=message) as refusal:
        call()
    assert "\n" not in str(refusal.value)
    if path is not None:
        assert str(path) in str(refusal.value)


def assert_refused_unloaded(path, message, model=None):
    """Check that a file is refused before torch loads code from it."""
    with mock.patch.object(torch.jit, "load") as load:
        assert_refused(
            lambda: load_model(path if model is None else model), message, path
        )
    load.assert_not_called()
