"""Metadata of model files: what is written, what is read, what is refused."""

import json
import re
from typing import ClassVar
import zipfile

from archives import (
    LOCAL,
    RAW,
    assert_refused,
    assert_refused_unloaded,
    entries,
    entry,
    write_text,
)
import pytest

from dipy_rnn.model import (
    ARCHITECTURES,
    ModelFileError,
    ModelMetadata,
    MovingFrameGRU,
    load_model,
    read_metadata,
    save_model,
)

# What is written and read


def test_metadata_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "model.pt"
    save_model(MovingFrameGRU(order=4, hidden=8), LOCAL, path)
    assert read_metadata(path) == LOCAL
    assert load_model(path).metadata == LOCAL
    with zipfile.ZipFile(path) as archive:
        text = archive.read(entry(archive.namelist(), "metadata.json"))
    assert json.loads(text) == {
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


def test_five_entries_and_the_format_are_enough():
    names = (
        "format",
        "format_version",
        "kind",
        "channels",
        "frame",
        "layers",
        "hidden",
    )
    minimal = {name: entries(RAW)[name] for name in names}
    assert ModelMetadata.from_json(json.dumps(minimal)) == RAW


def test_the_only_order_of_training_is_that_of_the_network_unless_others_are_given():
    assert ModelMetadata("sh", 45, "local", 1, 8).orders == (8,)
    assert ModelMetadata("sh", 45, "local", 1, 8, orders=(8, 4)).orders == (4, 8)
    assert ModelMetadata("sh", 45, "local", 1, 8).order == 8


@pytest.mark.parametrize("n_points", [0, 7, None])
def test_the_number_of_warm_up_points_is_from_zero_up_or_null(n_points):
    text = json.dumps(entries(replay_points=n_points))
    metadata = ModelMetadata.from_json(text)
    assert metadata.replay_points == n_points
    assert ModelMetadata.from_json(metadata.to_json()) == metadata


# Text that is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100000, "not JSON"),
        ("[]", "not that of a dipy_rnn model"),
        ("{}", "not that of a dipy_rnn model"),
        (b"\xff\xfe", "not a model file"),
    ],
    ids=["empty", "half", "deep", "list", "no entries", "not UTF-8"],
)
def test_text_that_is_not_metadata_is_refused(tmp_path, text, message):
    assert_refused_unloaded(write_text(tmp_path / "wrong.pt", text), message)


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
        ({"kind": "raw"}, "frame is 'local'; features of kind 'sh' are needed"),
        ({"channels": "15"}, "channels is '15'"),
        ({"channels": 15.0}, "channels is 15.0"),
        ({"channels": 16}, "channels: 16 coefficients belong to no even order"),
        ({"layers": 0}, "layers is 0"),
        ({"layers": True}, "layers is True"),
        ({"hidden": None}, "hidden is None"),
        ({"hidden": 10**9}, "hidden is 1000000000"),
        ({"hidden": 1025, "layers": 16}, "16 and 1025; .*16384 floats"),
        ({"orders": 4}, "orders is 4; give a list"),
        ({"orders": ["four"]}, "even orders from 4 to 4 are allowed"),
        ({"orders": [[4]]}, "even orders from 4 to 4 are allowed"),
        ({"orders": [2]}, "even orders from 4 to 4 are allowed"),
        ({"orders": [4, 6]}, "even orders from 4 to 4 are allowed"),
        ({"architecture": "lstm"}, "architecture is 'lstm'; 'moving_frame' or"),
        ({"replay_points": -1}, "replay_points is -1; give an integer from 0"),
        ({"replay_points": 2.0}, r"replay_points is 2\.0; give"),
        ({"replay_points": "5"}, "replay_points is '5'; give"),
        ({"replay_points": True}, "replay_points is True; give"),
        ({"replay_points": [1]}, r"replay_points is \[1\]; give"),
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
def test_wrong_entries_are_refused_by_name_and_value(tmp_path, changes, message):
    path = write_text(tmp_path / "wrong.pt", json.dumps(entries(**changes)))
    assert_refused_unloaded(path, message)


@pytest.mark.parametrize("name", ["kind", "channels", "frame", "layers", "hidden"])
def test_missing_entries_are_named(tmp_path, name):
    left = entries()
    del left[name]
    path = write_text(tmp_path / "less.pt", json.dumps(left))
    assert_refused_unloaded(path, re.escape(f"lacks ['{name}']"))


# What an architecture requires


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"frame": "voxel"}, "frame", "voxel"),
        ({"normalisation": "none"}, "normalisation", "none"),
        ({"kind": "raw", "frame": "voxel", "orders": []}, "kind", "raw"),
    ],
    ids=["frame", "normalisation", "kind"],
)
def test_what_differs_from_the_architectures_requirement_is_refused_by_name_and_value(
    tmp_path, changes, name, value
):
    changes = changes | {"architecture": "moving_frame"}
    needed = MovingFrameGRU.required[name]
    message = f"{name} is '{value}', but .* 'moving_frame' needs '{needed}'"
    path = write_text(tmp_path / "wrong.pt", json.dumps(entries(**changes)))
    assert_refused_unloaded(path, message)
    changes["architecture"] = ""  # any other network may have it
    assert (
        getattr(ModelMetadata.from_json(json.dumps(entries(**changes))), name) == value
    )


def test_the_metadata_that_an_architecture_requires_are_its_own(monkeypatch):
    class Narrow(MovingFrameGRU):
        required: ClassVar[dict[str, int]] = {"hidden": 8}

    monkeypatch.setitem(ARCHITECTURES, "narrow", Narrow)
    assert ModelMetadata("sh", 15, "local", 1, 8, architecture="narrow").hidden == 8
    assert_refused(
        lambda: ModelMetadata("sh", 15, "local", 1, 9, architecture="narrow"),
        "hidden is 9, but the architecture 'narrow' needs 8",
    )


def test_the_order_is_only_known_for_spherical_harmonics():
    with pytest.raises(ValueError, match="3 coefficients belong to no even order"):
        RAW.order  # noqa: B018
    assert issubclass(ModelFileError, ValueError)
