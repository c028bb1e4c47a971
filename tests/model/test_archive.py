"""Archives of model files: torch gets verified entries only."""

import json
from pathlib import Path
import random
import shutil
import zipfile

from archives import (
    LOCAL,
    RAW,
    Straight,
    assert_refused,
    assert_refused_unloaded,
    entries,
    entry,
    mutate,
    rewrite,
    write,
    write_text,
)
import pytest
import torch

from dipy_rnn.model import (
    ModelFileError,
    MovingFrameGRU,
    archive,
    load_model,
    read_metadata,
    save_model,
)
from dipy_rnn.model.archive import packed, read_archive, read_content


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("small") / "small.pt"
    save_model(MovingFrameGRU(order=4, hidden=8), LOCAL, path)
    return path


@pytest.fixture
def saved(tmp_path, small):
    return Path(shutil.copy(small, tmp_path / "small.pt"))


# What torch gets


def test_torch_gets_exactly_the_verified_entries(small):
    held, _ = read_archive(small.read_bytes(), small)
    with zipfile.ZipFile(small) as file:
        assert held == {
            name.partition("/")[2]: file.read(name) for name in file.namelist()
        }
    # Bytes around the archive and a comment are not entries.
    content = small.read_bytes()
    around = b"#!/bin/sh\n" + content[:-2] + b"\x05\x00hello"
    assert read_archive(around, small)[0] == held
    with zipfile.ZipFile(packed(held)) as file:
        assert sorted(file.namelist()) == sorted(f"archive/{name}" for name in held)
        assert {name: file.read(f"archive/{name}") for name in held} == held
        assert file.comment == b""
    assert b"hello" not in packed(held).getvalue()
    assert torch.jit.load(packed(held)).init_state(2).shape == (1, 2, 8)


def test_metadata_are_read_before_torch_loads_code(saved, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", None)
    assert read_metadata(saved).hidden == 8


def test_constants_other_types_and_views_are_loaded(tmp_path):
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
            # A constant that is a view of a longer tensor.
            return direction * self.weight * float(self.pair[1][0]), state

    path = write(tmp_path / "rich.pt", Rich(), RAW)
    assert load_model(path).metadata == RAW
    frozen = torch.jit.freeze(
        torch.jit.script(Straight().eval()), preserved_attrs=["init_state"]
    )
    extra = {"metadata.json": RAW.to_json()}
    torch.jit.save(frozen, str(path), _extra_files=extra)
    with zipfile.ZipFile(path) as file:
        assert entry(file.namelist(), "/constants/0")
    assert load_model(path).metadata == RAW


# Files that are not archives of models


def test_a_file_that_is_not_an_archive_is_refused(tmp_path):
    path = tmp_path / "notes.pt"
    for content in (b"", b"hello", b"PK\x03\x04" + bytes(50)):
        path.write_bytes(content)
        assert_refused_unloaded(path, "is not a model file")


def test_an_archive_cut_short_is_refused(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    assert_refused_unloaded(saved, "is not a model file")


def test_a_checkpoint_is_refused_and_the_model_to_give_is_named(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"weights": torch.ones(2)}, path)
    assert_refused_unloaded(path, r"weights without a network.* model\.pt")


def test_an_archive_without_metadata_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "foreign.pt"
    torch.jit.save(torch.jit.script(Straight()), str(path))
    assert_refused_unloaded(path, "no metadata; doc/model_file.md describes")


def test_metadata_without_a_network_are_refused(tmp_path):
    path = write_text(tmp_path / "hollow.pt", json.dumps(entries()))
    assert_refused(lambda: load_model(path), "not a usable model", path)


# Damaged, encrypted and ambiguous entries


def test_metadata_that_cannot_be_decompressed_are_refused(tmp_path):
    path = write_text(tmp_path / "spoilt.pt", json.dumps(entries()))
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(b ^ 0x5A for b in content[60:90])
    path.write_bytes(content)
    assert_refused_unloaded(path, "not a model file|not a usable model")


def test_encrypted_metadata_are_refused(tmp_path):
    path = write_text(tmp_path / "locked.pt", json.dumps(entries()))
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag in the local header and in the directory
    content[content.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert_refused_unloaded(path, "not a model file|not a usable model")


def test_an_archive_with_two_metadata_is_refused(tmp_path):
    path = write_text(tmp_path / "two.pt", json.dumps(entries()))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("other/extra/metadata.json", json.dumps(entries()))
    assert_refused_unloaded(path, "not a usable model")


def test_entries_in_several_folders_are_refused(saved):
    rewrite(saved, lambda held: held.update({"../elsewhere": b""}))
    assert_refused_unloaded(saved, "do not lie in one folder")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_entries_of_one_name_are_refused(saved):
    with zipfile.ZipFile(saved, "a") as file:
        file.writestr(entry(file.namelist(), "/version"), b"3")
    assert_refused_unloaded(saved, "two entries 'version'")


@pytest.mark.parametrize("size", [0, 1, 511, 513, 1 << 30])
def test_an_entry_whose_size_in_the_directory_is_wrong_is_refused(saved, size):
    content = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as file:
        of_512 = [i for i in file.infolist() if "/data/" in i.filename]
        (name,) = [i.filename for i in of_512 if i.file_size == 512]
    at = content.rfind(name.encode()) - 46  # the beginning of its directory entry
    assert content[at : at + 4] == b"PK\x01\x02"
    assert int.from_bytes(content[at + 24 : at + 28], "little") == 512
    content[at + 24 : at + 28] = size.to_bytes(4, "little")
    saved.write_bytes(content)
    assert_refused_unloaded(saved, "not a model file|not a usable model")


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_file_is_refused_in_one_line_or_loads_what_was_saved(
    saved, small, seed
):
    saved.write_bytes(mutate(saved.read_bytes(), random.Random(seed)))
    try:
        model = load_model(saved)
    except ModelFileError as error:
        assert str(saved) in str(error) and "\n" not in str(error)
    else:
        expected = load_model(small)
        features, up = torch.ones(3, 15), torch.tensor([[0.0, 0.0, 1.0]] * 3)
        inputs = torch.ones(3, 5).numpy()
        arguments = features.numpy(), up.numpy(), model.init_state(3), inputs
        assert model.metadata == expected.metadata
        assert (model.step(*arguments)[0] == expected.step(*arguments)[0]).all()


@pytest.mark.parametrize("seed", range(30))
def test_an_archive_whose_text_entries_are_damaged_is_refused_in_one_line_or_loads(
    saved, seed
):
    # The checksums are right, as if a program had written the damage.
    rng = random.Random(seed)

    def damage(held):
        of_text = (".py", ".json", "/version", "/byteorder")
        name = rng.choice(sorted(n for n in held if n.endswith(of_text)))
        held[name] = mutate(held[name], rng)

    rewrite(saved, damage)
    try:
        load_model(saved)
    except ModelFileError as error:
        assert str(saved) in str(error) and "\n" not in str(error)


# Size limits


def test_a_file_above_the_limit_is_not_read(tmp_path, monkeypatch):
    path = write_text(tmp_path / "large.pt", json.dumps(entries()))
    size = path.stat().st_size
    monkeypatch.setattr(archive, "FILE_LIMIT", size)
    assert len(read_content(path)) == size
    monkeypatch.setattr(archive, "FILE_LIMIT", size - 1)
    assert_refused_unloaded(path, "it is larger than 0 MiB")


def test_entries_above_the_limit_are_not_decompressed(saved, monkeypatch):
    monkeypatch.setattr(archive, "FILE_LIMIT", 1 << 20)

    def inflate(held):
        held[entry(held, "/data/0")] = bytes(1 << 20)

    rewrite(saved, inflate, zipfile.ZIP_DEFLATED)
    assert saved.stat().st_size < 1 << 15
    assert_refused_unloaded(saved, "larger than 1 MiB together")


def test_an_entry_that_decompresses_to_more_than_its_size_is_refused(tmp_path):
    path = write_text(tmp_path / "bomb.pt", json.dumps(entries()) + " " * 900_000)
    content = bytearray(path.read_bytes())
    directory = content.find(b"PK\x01\x02")
    for at in (22, directory + 24):  # the size in the local header and the directory
        content[at : at + 4] = (5000).to_bytes(4, "little")
    path.write_bytes(content)
    assert_refused_unloaded(path, "is not a model file")


def test_more_entries_than_the_limit_are_refused(saved):
    rewrite(saved, lambda held: held.update({f"small/{i}": b"" for i in range(4096)}))
    assert_refused_unloaded(saved, "more than 4096 entries")


def test_metadata_above_one_mebibyte_are_refused(tmp_path):
    path = write_text(tmp_path / "huge.pt", " " * (1 << 20) + "{}")
    assert_refused_unloaded(path, "larger than 1 MiB")
