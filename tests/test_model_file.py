"""Model files: what comes back, and every way of being refused."""

import ast
from hashlib import sha256
import json
from pathlib import Path
import random
import re
import shutil
import zipfile

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
from stubs import StepCounter, save_stub
import torch
from torch import nn

import dipy_rnn
from dipy_rnn import model_file, sampling
from dipy_rnn.model import (
    Cai2023,
    ModelFileError,
    ModelMetadata,
    MovingFrameGRU,
    check_device,
    load_model,
    model_path,
    read_metadata,
    save_model,
    shipped_models,
)
from dipy_rnn.training.shipped_models import write_checksums
from dipy_rnn.training.state import load_checkpoint, save_checkpoint

LOCAL = ModelMetadata(
    "sh",
    15,
    "local",
    layers=1,
    hidden=8,
    orders=(4,),
    normalisation="power",
    step_mm=(0.2, 1.5),
    provenance={"data": "none", "random_seed": 3},
)
RAW = ModelMetadata("raw", 3, "voxel", layers=1, hidden=2)


class Straight(nn.Module):
    """The smallest network that keeps the contract of RAW: straight on."""

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


class Stateless(nn.Module):
    def forward(
        self, features: torch.Tensor, direction: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return direction, state


class WideState(Straight):
    @torch.jit.export
    def init_state(self, n: int) -> torch.Tensor:
        return torch.zeros(1, n, 3)


class GrowingState(Straight):
    def forward(
        self, features: torch.Tensor, direction: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return direction, torch.cat([state, state], dim=0)


class FlatDirections(Straight):
    def forward(
        self, features: torch.Tensor, direction: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return direction[:, :2], state


class OneAnswer(Straight):
    def forward(
        self, features: torch.Tensor, direction: torch.Tensor, state: torch.Tensor
    ) -> torch.Tensor:
        return direction


class BatchMean(Straight):
    def forward(
        self, features: torch.Tensor, direction: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return direction + features - features.mean(0, keepdim=True), state


class BatchStatistics(Straight):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, track_running_stats=False)

    def forward(
        self, features: torch.Tensor, direction: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return direction + self.norm(features), state


class RunningStatistics(Straight):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(
        self, features: torch.Tensor, direction: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return direction + self.norm(features), state


def write(path, module, metadata):
    """Write an archive as torch does, without the checks of save_model."""
    torch.jit.save(
        torch.jit.script(module),
        str(path),
        _extra_files={"metadata.json": metadata.to_json()},
    )
    return path


def write_text(path, text):
    """Write an archive that has metadata and nothing else."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/extra/metadata.json", text)
    return path


def rewrite(path, change, compression=zipfile.ZIP_STORED):
    """Write an archive again with what `change` makes of its entries, in place."""
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    change(held)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in held.items():
            archive.writestr(name, content)


def entry(held, end):
    """Return the only name among those of an archive that ends so."""
    (name,) = [name for name in held if name.endswith(end)]
    return name


def mutate(content, rng):
    """Change a few bytes, leave some out, or cut the rest off."""
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


def entries(metadata=LOCAL, **changes):
    return {**json.loads(metadata.to_json()), **changes}


def volume(channels, kind="sh"):
    return sampling.FeatureVolume(
        np.zeros((2, 2, 2, channels), np.float32), kind, "sub-1"
    )


def assert_refused(call, message, path=None):
    with pytest.raises(ModelFileError, match=message) as refusal:
        call()
    assert "\n" not in str(refusal.value)
    if path is not None:
        assert str(path) in str(refusal.value)


@pytest.fixture
def no_code_runs(monkeypatch):
    def load(*args, **kwargs):
        raise AssertionError("torch.jit.load was reached")

    monkeypatch.setattr(torch.jit, "load", load)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("small") / "small.pt"
    save_model(MovingFrameGRU(order=4, hidden=8), LOCAL, path)
    return path


@pytest.fixture
def saved(tmp_path, small):
    return Path(shutil.copy(small, tmp_path / "small.pt"))


# What comes back


@pytest.mark.parametrize(
    ("network", "frame", "layers"),
    [
        (MovingFrameGRU(order=4, hidden=8), "local", 1),
        (Cai2023(order=4, hidden=8), "voxel", 2),
    ],
    ids=["moving_frame", "cai2023"],
)
def test_a_saved_network_answers_as_before(tmp_path, network, frame, layers):
    with torch.no_grad():
        network.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    path = tmp_path / "model.pt"
    save_model(network, ModelMetadata("sh", 15, frame, layers, 8), path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]
    model = load_model(path)
    features = np.random.default_rng(0).normal(size=(4, 15)).astype(np.float32)
    up = np.tile([0.0, 0.0, 1.0], (4, 1))
    state, expected_state = model.init_state(4), network.init_state(4)
    for _ in range(3):
        answer, state = model.step(features, up, state)
        with torch.no_grad():
            expected, expected_state = network(
                torch.from_numpy(features), torch.from_numpy(up).float(), expected_state
            )
        assert answer.dtype == np.float32 and answer.shape == (4, 3)
        assert_allclose(answer, expected.numpy(), atol=1e-5)
    assert_allclose(state, expected_state, atol=1e-5)


def test_metadata_come_back_as_they_were_given(saved):
    assert read_metadata(saved) == LOCAL
    assert load_model(saved).metadata == LOCAL


def test_the_archive_says_in_json_what_it_is(saved):
    with zipfile.ZipFile(saved) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("metadata.json")]
        text = json.loads(archive.read(name))
    assert text == {
        "format": "dipy_rnn model",
        "format_version": 1,
        "kind": "sh",
        "channels": 15,
        "frame": "local",
        "layers": 1,
        "hidden": 8,
        "orders": [4],
        "normalisation": "power",
        "step_mm": [0.2, 1.5],
        "architecture": "",
        "replay_points": None,
        "provenance": {"data": "none", "random_seed": 3},
        "basis": "tournier07",
        "legacy": False,
    }


def test_a_checkpoint_is_refused_with_where_the_model_is(tmp_path):
    torch.save({"weights": torch.ones(2)}, tmp_path / "checkpoint.pt")
    with pytest.raises(ModelFileError, match=r"weights without a network.* model\.pt"):
        load_model(tmp_path / "checkpoint.pt")


def test_an_archive_made_elsewhere_is_a_model_if_it_keeps_the_contract(tmp_path):
    for module in (Straight(), RunningStatistics()):
        model = load_model(write(tmp_path / "other.pt", module, RAW))
        assert model.init_state(5).shape == (1, 5, 2)
    minimal = {
        name: entries(RAW)[name]
        for name in (
            "format",
            "format_version",
            "kind",
            "channels",
            "frame",
            "layers",
            "hidden",
        )
    }
    assert read_metadata(write_text(tmp_path / "m.pt", json.dumps(minimal))) == RAW


def test_a_loaded_model_is_given_back_as_it_is(saved):
    model = load_model(saved)
    assert load_model(model) is model
    assert model.name == str(saved)


def test_metadata_are_read_without_running_code(saved, no_code_runs):
    assert read_metadata(saved).hidden == 8


def test_a_lower_order_is_among_the_orders_only_if_said():
    assert ModelMetadata("sh", 45, "local", 1, 8).orders == (8,)
    assert ModelMetadata("sh", 45, "local", 1, 8, orders=(8, 4)).orders == (4, 8)
    assert ModelMetadata("sh", 45, "local", 1, 8).order == 8


# Files that are refused before their code is loaded


def test_a_file_that_is_no_archive_is_refused(tmp_path, no_code_runs):
    path = tmp_path / "notes.pt"
    for content in (b"", b"hello", b"PK\x03\x04" + bytes(50)):
        path.write_bytes(content)
        assert_refused(lambda: load_model(path), "is no model file", path)


def test_an_archive_cut_short_is_refused(saved, no_code_runs):
    saved.write_bytes(saved.read_bytes()[:-100])
    assert_refused(lambda: load_model(saved), "is no model file", saved)


def test_an_archive_without_metadata_is_refused_with_the_remedy(tmp_path, no_code_runs):
    path = tmp_path / "foreign.pt"
    torch.jit.save(torch.jit.script(Straight()), str(path))
    assert_refused(lambda: load_model(path), "no metadata; doc/model_file.md", path)


def test_metadata_that_cannot_be_unpacked_are_refused(tmp_path, no_code_runs):
    path = write_text(tmp_path / "spoilt.pt", json.dumps(entries()))
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(b ^ 0x5A for b in content[60:90])
    path.write_bytes(content)
    assert_refused(lambda: load_model(path), "no model file|no usable model", path)


def test_encrypted_metadata_are_refused(tmp_path, no_code_runs):
    path = write_text(tmp_path / "locked.pt", json.dumps(entries()))
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag in the local header and in the directory
    content[content.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert_refused(lambda: load_model(path), "no model file|no usable model", path)


def test_two_metadata_are_one_too_many(tmp_path, no_code_runs):
    path = write_text(tmp_path / "two.pt", json.dumps(entries()))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/extra/metadata.json", json.dumps(entries()))
    assert_refused(lambda: load_model(path), "no usable model", path)


def test_metadata_of_more_than_a_mebibyte_are_refused(tmp_path, no_code_runs):
    path = write_text(tmp_path / "huge.pt", " " * (1 << 20) + "{}")
    assert_refused(lambda: load_model(path), "larger than 1 MiB", path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100000, "not JSON"),
        ("[]", "not that of a dipy_rnn model"),
        ("{}", "not that of a dipy_rnn model"),
        (b"\xff\xfe", "no model file"),
    ],
    ids=["empty", "half", "deep", "list", "nothing", "no text"],
)
def test_metadata_that_are_no_metadata_are_refused(
    tmp_path, no_code_runs, text, message
):
    path = write_text(tmp_path / "wrong.pt", text)
    assert_refused(lambda: load_model(path), message, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "onnx"}, "not that of a dipy_rnn model"),
        ({"format_version": 2}, "format version is 2 .* update dipy_rnn"),
        ({"format_version": None}, "format version is None"),
        ({"colour": "blue", "age\n": 3}, r"unknown entries: \['age\\n', 'colour'\]"),
        ({"basis": "descoteaux07"}, r"its basis is \('descoteaux07', False\)"),
        ({"legacy": True}, r"its basis is \('tournier07', True\)"),
        ({"kind": "fodf"}, "kind is 'fodf'; 'sh' or 'raw'"),
        ({"kind": ["sh"]}, "kind is "),
        ({"frame": "ras"}, "frame is 'ras'; 'local' or 'voxel'"),
        ({"normalisation": "unit"}, "normalisation is 'unit'; 'power' or 'none'"),
        ({"kind": "raw"}, "frame is 'local', which only features of kind 'sh'"),
        ({"channels": "15"}, "channels is '15'"),
        ({"channels": 15.0}, "channels is 15.0"),
        ({"channels": 16}, "channels: 16 coefficients belong to no even order"),
        ({"layers": 0}, "layers is 0"),
        ({"layers": True}, "layers is True"),
        ({"hidden": None}, "hidden is None"),
        ({"hidden": 10**9}, "hidden is 1000000000"),
        ({"hidden": 1025, "layers": 16}, "16 and 1025; 16384 floats of state"),
        ({"orders": 4}, "orders is 4; give a list"),
        ({"orders": ["four"]}, "even orders from 4 to 4 are allowed"),
        ({"orders": [[4]]}, "even orders from 4 to 4 are allowed"),
        ({"orders": [2]}, "even orders from 4 to 4 are allowed"),
        ({"orders": [4, 6]}, "even orders from 4 to 4 are allowed"),
        ({"step_mm": 0.5}, "step_mm is 0.5; give the smallest and largest"),
        ({"step_mm": [0.5]}, "step_mm is "),
        ({"step_mm": "ab"}, "step_mm is 'ab'"),
        ({"step_mm": [1.5, 0.2]}, "step_mm is "),
        ({"step_mm": [-1, 1]}, "step_mm is "),
        ({"step_mm": [0.1, float("nan")]}, "step_mm is "),
        ({"step_mm": [0, 10**400]}, "step_mm is "),
        ({"provenance": "a phantom"}, "provenance is not a JSON object"),
    ],
)
def test_wrong_entries_are_refused_by_name(tmp_path, no_code_runs, changes, message):
    path = write_text(tmp_path / "wrong.pt", json.dumps(entries(**changes)))
    assert_refused(lambda: load_model(path), message, path)


@pytest.mark.parametrize("name", ["kind", "channels", "frame", "layers", "hidden"])
def test_missing_entries_are_named(tmp_path, no_code_runs, name):
    left = entries()
    del left[name]
    path = write_text(tmp_path / "less.pt", json.dumps(left))
    assert_refused(lambda: load_model(path), re.escape(f"lacks ['{name}']"), path)


# Files that are refused though zipfile opens them


def test_a_file_of_more_than_the_limit_is_not_read(tmp_path, no_code_runs, monkeypatch):
    path = write_text(tmp_path / "large.pt", json.dumps(entries()))
    size = path.stat().st_size
    monkeypatch.setattr(model_file, "FILE_LIMIT", size)
    assert read_metadata(path) == LOCAL
    monkeypatch.setattr(model_file, "FILE_LIMIT", size - 1)
    assert_refused(lambda: load_model(path), "it is larger than 0 MiB", path)


def test_what_inflates_to_more_than_the_limit_is_not_inflated(
    saved, no_code_runs, monkeypatch
):
    monkeypatch.setattr(model_file, "FILE_LIMIT", 1 << 20)

    def inflate(held):
        held[entry(held, "/data/0")] = bytes(1 << 20)

    rewrite(saved, inflate, zipfile.ZIP_DEFLATED)
    assert saved.stat().st_size < 1 << 15
    assert_refused(lambda: load_model(saved), "larger than 1 MiB together", saved)


def test_an_entry_that_says_less_than_it_inflates_to_is_refused(tmp_path, no_code_runs):
    path = write_text(tmp_path / "bomb.pt", json.dumps(entries()) + " " * 900_000)
    content = bytearray(path.read_bytes())
    directory = content.find(b"PK\x01\x02")
    for at in (22, directory + 24):  # the size in the local header and the directory
        content[at : at + 4] = (5000).to_bytes(4, "little")
    path.write_bytes(content)
    assert_refused(lambda: load_model(path), "is no model file", path)


def test_more_entries_than_the_limit_are_refused(saved, no_code_runs):
    rewrite(saved, lambda held: held.update({f"small/{i}": b"" for i in range(4096)}))
    assert_refused(lambda: load_model(saved), "more than 4096 entries", saved)


def test_entries_in_several_folders_are_refused(saved, no_code_runs):
    rewrite(saved, lambda held: held.update({"../elsewhere": b""}))
    assert_refused(lambda: load_model(saved), "do not lie in one folder", saved)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_an_entry_that_is_there_twice_is_refused(saved, no_code_runs):
    with zipfile.ZipFile(saved, "a") as archive:
        name = entry(archive.namelist(), "/version")
        archive.writestr(name, b"3")
    assert_refused(lambda: load_model(saved), "two entries 'version'", saved)


@pytest.mark.parametrize("length", [0, 4, 511, 513])
def test_a_tensor_is_as_long_as_it_says(saved, no_code_runs, length):
    # torch would show what lies in memory behind it.
    def shorten(held):
        # 8 x 16 floats
        (name,) = (n for n in held if "/data/" in n and len(held[n]) == 512)
        held[name] = bytes(length)

    rewrite(saved, shorten)
    assert_refused(lambda: load_model(saved), f"has {length} bytes, not 512", saved)


def test_a_tensor_does_not_reach_beyond_its_entry(saved, no_code_runs):
    def widen(held):
        name = entry(held, "data.pkl")
        shape = b"K\x08K\x08t"  # of a layer of 8 x 8
        assert shape in held[name]
        held[name] = held[name].replace(shape, b"K\x08K\x09t")

    rewrite(saved, widen)
    assert_refused(lambda: load_model(saved), "larger than its entry", saved)


@pytest.mark.parametrize("which", ["data.pkl", "constants.pkl"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"cbuiltins\nopen\n(V{made}\nVw\ntR.", "holds a builtins.open"),
        (b"\x80\x02cposix\nsystem\n(V{made}\ntR.", "holds a posix.system"),
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "cannot be read"),
        (b"\x80\x02", "cannot be read"),
    ],
    ids=["open", "system", "memo", "empty"],
)
def test_nothing_is_unpickled_but_tensors_and_plain_values(
    saved, no_code_runs, tmp_path, which, text, message
):
    made = tmp_path / "made"
    text = text.replace(b"{made}", str(made).encode())
    rewrite(saved, lambda held: held.update({entry(held, f"/{which}"): text}))
    assert_refused(lambda: load_model(saved), f"{which} {message}", saved)
    assert not made.exists()


def test_what_torch_may_pickle_is_let_through(tmp_path):
    class Rich(Straight):
        def __init__(self):
            super().__init__()
            self.numbers = [1, 2]
            self.names = {"a": 1.0}
            self.pair = (1, torch.ones(2, dtype=torch.float16)[1:])
            self.register_buffer("expanded", torch.ones(1, 2).t())
            self.register_buffer("nothing", torch.ones(0, dtype=torch.int64))

        def forward(
            self, features: torch.Tensor, direction: torch.Tensor, state: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            # A constant, and what is left of it.
            return direction * self.weight * float(self.pair[1][0]), state

    path = write(tmp_path / "rich.pt", Rich(), RAW)
    assert load_model(path).metadata == RAW
    frozen = torch.jit.freeze(
        torch.jit.script(Straight().eval()), preserved_attrs=["init_state"]
    )
    extra = {"metadata.json": RAW.to_json()}
    torch.jit.save(frozen, str(path), _extra_files=extra)
    with zipfile.ZipFile(path) as archive:
        assert entry(archive.namelist(), "/constants/0")
    assert load_model(path).metadata == RAW


def test_parameters_that_are_not_finite_are_refused_by_name(tmp_path):
    network = MovingFrameGRU(order=4, hidden=8)
    with torch.no_grad():
        network.joined.bias[3] = float("nan")
    metadata = ModelMetadata(
        "sh", 15, "local", 1, 8, normalisation="power", architecture="moving_frame"
    )
    path = tmp_path / "nan.pt"
    assert_refused(
        lambda: save_model(network, metadata, path), "joined.bias is not finite", path
    )


@pytest.mark.parametrize("inside", [True, False], ids=["entry", "file"])
@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_file_is_refused_in_one_line_or_is_none_the_worse(
    saved, seed, inside
):
    rng = random.Random(seed)
    if inside:  # with a checksum of its own: as a bad program would write it

        def damage(held):
            name = rng.choice(sorted(n for n in held if held[n]))
            held[name] = mutate(held[name], rng)

        rewrite(saved, damage)
    else:
        saved.write_bytes(mutate(saved.read_bytes(), rng))
    try:
        load_model(saved)
    except ModelFileError as error:
        assert str(saved) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_checkpoint_is_refused_in_one_line_or_is_none_the_worse(
    tmp_path, seed
):
    rng, path = random.Random(seed), tmp_path / "checkpoint.pt"
    save_checkpoint({"update": 3, "weights": torch.ones(20)}, path)
    rewrite(
        path,
        lambda held: held.update({n: mutate(held[n], rng) for n in held if held[n]}),
    )
    try:
        load_checkpoint(path)
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)


# The models that ship


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a copy of the folder of models, which is taken for the package's."""
    folder = Path(model_file.__file__).parent / "models"
    copy = Path(shutil.copytree(folder, tmp_path / "models"))
    monkeypatch.setattr(model_file, "model_path", lambda name: copy / f"{name}.pt")
    return copy


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_with_one_bit_flipped_is_refused(package, name, no_code_runs):
    path = package / f"{name}.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert_refused(
        lambda: load_model(name), "not the model that was shipped .* install", path
    )


def test_a_shipped_model_without_a_checksum_is_refused(package, no_code_runs):
    for spoil in (lambda sums: sums.write_text(""), Path.unlink):
        spoil(package / "SHA256SUMS")
        assert_refused(lambda: load_model("default"), "not the model that was shipped")


def test_the_checksums_are_those_of_the_models(package):
    before = (package / "SHA256SUMS").read_text()
    for line, name in zip(before.splitlines(), shipped_models(), strict=True):
        digest = sha256((package / f"{name}.pt").read_bytes()).hexdigest()
        assert line == f"{digest}  {name}.pt"
    write_checksums(package)
    assert (package / "SHA256SUMS").read_text() == before


def test_the_same_network_gives_the_same_file(tmp_path):
    contents = []
    for name in ("one.pt", "other.pt"):
        torch.manual_seed(0)
        save_model(MovingFrameGRU(order=4, hidden=8), LOCAL, tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]


# Everything else that is loaded


def unrestricted(tree):
    """Name the calls in a source that would unpickle, or run, whatever they are given.

    torch.load may be called with weights_only=True, np.load without allow_pickle.
    """
    for call in ast.walk(tree):
        if isinstance(call, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in call.names}
            if isinstance(call, ast.ImportFrom):
                names = {(call.module or "").split(".")[0]}
            if names & {"dill", "cloudpickle", "joblib", "marshal", "shelve"}:
                yield ast.unparse(call)
        if not isinstance(call, ast.Call):
            continue
        name = ast.unparse(call.func)
        options = {k.arg: ast.unparse(k.value) for k in call.keywords}
        if (
            name in ("eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler")
            or (name == "torch.load" and options.get("weights_only") != "True")
            or (name == "np.load" and options.get("allow_pickle", "False") != "False")
            or name.endswith("read_pickle")
        ):
            yield ast.unparse(call)


def test_nothing_is_unpickled_without_restriction():
    root = Path(dipy_rnn.__file__).parents[1]
    sources = [
        path
        for folder in ("dipy_rnn", "workflows", "benchmarks", "doc", "tests")
        for path in (root / folder).rglob("*.py")
    ]
    assert len(sources) > 20
    for path in sources:
        found = list(unrestricted(ast.parse(path.read_text("utf-8"))))
        assert not found, f"{path.name}: {found}"


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "pickle.loads(text)",
        "import joblib",
        "from dill import load",
        "eval(text)",
    ],
)
def test_that_test_finds_what_it_looks_for(source):
    assert list(unrestricted(ast.parse(source)))


# Networks that do not do what they say


@pytest.mark.parametrize(
    ("module", "metadata", "message"),
    [
        (Stateless, RAW, "no method init_state"),
        (WideState, RAW, r"init_state\(3\) has the shape \(1, 3, 3\), not \(1, 3, 2\)"),
        (GrowingState, RAW, r"\(2, 3, 2\), not \(3, 3\) and \(1, 3, 2\)"),
        (FlatDirections, RAW, r"forward answers shapes \(3, 2\)"),
        (OneAnswer, RAW, "breaks the contract"),
        (BatchMean, RAW, "depends on the other rows"),
        (BatchStatistics, RAW, "breaks the contract"),
        (
            MovingFrameGRU,
            ModelMetadata("sh", 15, "local", 1, 64),  # the network is of order 8
            "breaks the contract",
        ),
    ],
)
def test_networks_that_break_the_contract_are_refused(
    tmp_path, module, metadata, message
):
    path = write(tmp_path / "broken.pt", module(), metadata)
    assert_refused(lambda: load_model(path), message, path)


def test_metadata_without_a_network_are_refused(tmp_path):
    path = write_text(tmp_path / "hollow.pt", json.dumps(entries()))
    assert_refused(lambda: load_model(path), "no usable model", path)


@pytest.mark.parametrize("before", [None, b"an older model"])
def test_a_failed_save_leaves_everything_as_it_was(tmp_path, before):
    path = tmp_path / "model.pt"
    if before:
        path.write_bytes(before)
    assert_refused(lambda: save_model(WideState(), RAW, path), "model.pt")
    assert [p.name for p in tmp_path.iterdir()] == (["model.pt"] if before else [])
    assert before is None or path.read_bytes() == before


# Use


def test_features_are_brought_to_the_models_order(tmp_path):
    metadata = ModelMetadata("sh", 28, "local", 1, 8, orders=(4, 6))
    path = tmp_path / "six.pt"
    save_model(MovingFrameGRU(order=6, hidden=8), metadata, path)
    model = load_model(path)
    rng = np.random.default_rng(0)
    for channels in (15, 28, 45):
        data = rng.normal(size=(2, 2, 2, channels)).astype(np.float32)
        seen = model.features(sampling.FeatureVolume(data, "sh"))
        kept = min(channels, 28)
        assert seen.shape == (2, 2, 2, 28) and seen.flags.c_contiguous
        assert_array_equal(seen[..., :kept], data[..., :kept])
        assert_array_equal(seen[..., kept:], 0)


def test_features_of_another_order_or_kind_are_refused(tmp_path, saved):
    metadata = ModelMetadata("sh", 28, "local", 1, 8, orders=(6,))
    path = tmp_path / "six.pt"
    save_model(MovingFrameGRU(order=6, hidden=8), metadata, path)
    assert_refused(
        lambda: load_model(path).features(volume(15)),
        "sub-1 is of order 4, but the model .* was trained for 6",
        path,
    )
    assert_refused(
        lambda: load_model(saved).features(volume(15, "raw")),
        "sub-1 is of kind 'raw', but the model .* takes 'sh'",
        saved,
    )


def test_raw_features_have_the_models_channels(tmp_path):
    path = tmp_path / "raw.pt"
    save_model(Straight(), RAW, path)
    model, data = load_model(path), volume(3, "raw")
    assert model.features(data) is data.data
    assert_refused(
        lambda: model.features(volume(4, "raw")),
        "sub-1 has 4 channels, but the model .* takes 3",
        path,
    )
    assert_refused(lambda: model.features(volume(3)), "is of kind 'sh'", path)


def test_steps_outside_the_trained_range_are_refused(saved):
    model = load_model(saved)
    for step_mm in (0.2, 0.5, 1.5, np.float32(0.2), 0.19999999):
        model.check_step(step_mm)
    for step_mm in (0.19, 1.51, 0.0, float("nan")):
        assert_refused(
            lambda step_mm=step_mm: model.check_step(step_mm),
            "was trained for 0.2 to 1.5 mm",
            saved,
        )


def test_an_unknown_name_is_answered_with_the_shipped_ones(monkeypatch):
    monkeypatch.setattr(model_file, "shipped_models", lambda: ["default", "tiny"])
    with pytest.raises(FileNotFoundError, match=r"defaut-model.*: default, tiny\."):
        model_path("defaut-model")


def test_a_shipped_model_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr(model_file, "shipped_models", lambda: ["default"])
    for path in (model_path(), model_path("default")):
        assert path == Path(model_file.__file__).parent / "models" / "default.pt"


def test_a_loaded_model_stays_on_its_device(monkeypatch, saved):
    model = load_model(saved)
    assert load_model(model) is model and load_model(model, device="cpu") is model
    with pytest.raises(ValueError, match="'abacus'"):
        load_model(model, device="abacus")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="loaded on 'cpu'"):
        load_model(model, device="cuda")


def test_a_state_that_does_not_begin_with_zeros_is_refused(tmp_path):
    class BeginsWithOnes(StepCounter):
        @torch.jit.export
        def init_state(self, n: int) -> torch.Tensor:
            return torch.ones(1, n, 1)

    with pytest.raises(ModelFileError, match="not all float32 zeros"):
        save_stub(BeginsWithOnes(), tmp_path / "ones.pt")


def test_an_array_is_no_feature_volume(saved):
    with pytest.raises(ModelFileError, match="features is of type ndarray"):
        load_model(saved).features(np.zeros((2, 2, 2, 15), np.float32))


def test_a_device_that_is_not_there_is_refused(monkeypatch, saved):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=r"shows 0 CUDA devices.*use device 'cpu'"):
            load_model(saved, device=device)
    for device in ("gpu", "mps", "", "cuda:-1"):
        with pytest.raises(ValueError, match=r"device is .*'cpu', 'cuda'"):
            check_device(device)
    assert check_device("cpu") == check_device(torch.device("cpu"))
