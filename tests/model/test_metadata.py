"""Metadata of model files: what is written, what is read, what is refused."""

from dataclasses import replace
import json
import re
import zipfile

from archives import (
    FORMAT_1,
    LOCAL,
    RAW,
    assert_refused,
    assert_refused_unloaded,
    entries,
    entry,
    write_text,
)
import numpy as np
from numpy.testing import assert_array_equal
import pytest

from dipy_rnn.model import (
    ARCHITECTURES,
    Architecture,
    ModelFileError,
    ModelMetadata,
    MovingFrameGRU,
    load_model,
    read_metadata,
    save_model,
    stack_inputs,
)

REQUIRED = ["kind", "channels", "frame", "layers", "hidden"]

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
        "format_version": 2,
        "kind": "sh",
        "channels": 15,
        "frame": "local",
        "layers": 1,
        "hidden": 8,
        "orders": [4],
        "normalisation": "power",
        "inputs": ["step_vox", "max_angle_deg", "ahead"],
        "step_vox": [0.1, 1.0],
        "step_mm": [0.2, 1.5],
        "architecture": "",
        "replay_points": None,
        "provenance": {"data": "none", "random_seed": 3},
        "basis": "tournier07",
        "legacy": False,
    }


def test_five_entries_and_the_format_are_enough_and_inputs_in_format_2():
    names = [*REQUIRED, "format", "format_version"]
    minimal = {name: entries(RAW)[name] for name in names}
    assert minimal["format_version"] == 1
    assert ModelMetadata.from_json(json.dumps(minimal)) == RAW
    minimal |= {"format_version": 2, "inputs": []}
    assert ModelMetadata.from_json(json.dumps(minimal)) == replace(RAW, inputs=())


def test_metadata_of_format_1_are_read_without_inputs_and_architecture():
    metadata = ModelMetadata.from_json(json.dumps(FORMAT_1))
    assert metadata.inputs is None and metadata.architecture == ""
    assert metadata.step_vox == (0.0, float("inf"))
    assert json.loads(metadata.to_json()) == FORMAT_1 | {"architecture": ""}
    assert ModelMetadata.from_json(metadata.to_json()) == metadata
    # An architecture that this package does not have is ignored as well.
    other = FORMAT_1 | {"architecture": "lstm"}
    assert ModelMetadata.from_json(json.dumps(other)) == metadata


@pytest.mark.parametrize("name", ["inputs", "step_vox"])
def test_entries_of_format_2_in_format_1_are_refused(tmp_path, name):
    wrong = FORMAT_1 | {name: entries()[name]}
    path = write_text(tmp_path / "wrong.pt", json.dumps(wrong))
    assert_refused_unloaded(path, rf"unknown entries: \['{name}'\]")


@pytest.mark.parametrize(
    "inputs", [[], ["step_mm"], ["ahead"], ["ahead", "step_vox", "max_angle_deg"]]
)
def test_inputs_are_read_in_their_order(inputs):
    metadata = ModelMetadata.from_json(json.dumps(entries(inputs=inputs)))
    assert metadata.inputs == tuple(inputs)
    assert ModelMetadata.from_json(metadata.to_json()) == metadata


def test_inputs_are_stacked_in_the_order_of_the_metadata():
    values = {
        "step_vox": 0.25,
        "step_mm": 0.5,
        "max_angle_deg": 30.0,
        "ahead": np.array([[0.0, 0.6, 0.8], [0.0, 0.0, 1.0]]),
    }
    for names, row in (
        (("step_vox", "max_angle_deg", "ahead"), [0.25, 30.0, 0.0, 0.6, 0.8]),
        (("ahead", "step_mm"), [0.0, 0.6, 0.8, 0.5]),
        ((), []),
    ):
        stacked = stack_inputs(names, values, 2)
        assert stacked.shape == (2, len(row)) and stacked.dtype == np.float32
        assert_array_equal(stacked[0], np.float32(row))
    assert_array_equal(
        stack_inputs(("step_vox",), {"step_vox": 0.0}, 3), np.zeros((3, 1))
    )


@pytest.mark.parametrize("name", ["step_vox", "step_mm"])
@pytest.mark.parametrize("given", [(0, 2), [0.5, 0.5], (0.0, float("inf"))])
def test_a_range_of_steps_is_kept_as_two_numbers(name, given):
    metadata = replace(LOCAL, **{name: given})
    assert getattr(metadata, name) == tuple(map(float, given))
    assert ModelMetadata.from_json(metadata.to_json()) == metadata


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
        (
            {"format_version": 3},
            "format version is 3 .* reads 1 and 2: update dipy_rnn",
        ),
        ({"format_version": "2"}, "format version is '2'"),
        ({"format_version": [2]}, r"format version is \[2\]"),
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
        ({"inputs": None}, "inputs is None; give a list"),
        ({"inputs": "ahead"}, "inputs is 'ahead'; give a list"),
        ({"inputs": {"ahead": 3}}, r"inputs is \{'ahead': 3\}; give a list"),
        (
            {"inputs": ["tilt"]},
            r"inputs is \['tilt'\]; step_vox, step_mm, .* ahead are",
        ),
        ({"inputs": [3]}, r"inputs is \[3\]; step_vox"),
        ({"inputs": [["ahead"]]}, r"inputs is \[\['ahead'\]\]; step_vox"),
        (
            {"kind": "raw", "frame": "voxel", "orders": []},
            "inputs has 'ahead', which features of kind 'sh' have; leave it out",
        ),
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
        ({"step_mm": [0, 0]}, "step_mm is "),
        ({"step_vox": 0.5}, "step_vox is 0.5; give the smallest and largest"),
        ({"step_vox": None}, "step_vox is None"),
        ({"step_vox": [0.5]}, "step_vox is "),
        ({"step_vox": [1.0, 0.1]}, "step_vox is "),
        ({"step_vox": [-0.1, 1.0]}, "step_vox is "),
        ({"step_vox": [float("nan"), 1.0]}, "step_vox is "),
        ({"step_vox": [0, 0]}, "step_vox is "),
        ({"step_vox": [float("inf"), float("inf")]}, "step_vox is "),
        ({"step_vox": [0.1, 0.5, 1.0]}, "step_vox is "),
        ({"provenance": "a phantom"}, "provenance is not a JSON object"),
    ],
)
def test_wrong_entries_are_refused_by_name_and_value(tmp_path, changes, message):
    path = write_text(tmp_path / "wrong.pt", json.dumps(entries(**changes)))
    assert_refused_unloaded(path, message)


@pytest.mark.parametrize("name", [*REQUIRED, "inputs"])
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
        ({"kind": "raw", "frame": "voxel", "orders": [], "inputs": []}, "kind", "raw"),
        ({"inputs": []}, "inputs", ()),
        (
            {"inputs": ["ahead", "step_vox", "max_angle_deg"]},
            "inputs",
            ("ahead", "step_vox", "max_angle_deg"),
        ),
    ],
    ids=["frame", "normalisation", "kind", "no inputs", "order of inputs"],
)
def test_what_differs_from_the_architectures_requirement_is_refused_by_name_and_value(
    tmp_path, changes, name, value
):
    changes = changes | {"architecture": "moving_frame"}
    needed = ARCHITECTURES["moving_frame"].required[name]
    message = re.escape(
        f"{name} is {value!r}, but the architecture 'moving_frame' needs "
    ) + re.escape(repr(needed))
    path = write_text(tmp_path / "wrong.pt", json.dumps(entries(**changes)))
    assert_refused_unloaded(path, message)
    changes["architecture"] = ""  # any other network may have it
    assert (
        getattr(ModelMetadata.from_json(json.dumps(entries(**changes))), name) == value
    )


def test_the_metadata_that_an_architecture_requires_are_its_own(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "narrow", Architecture({"hidden": 8}))
    assert ModelMetadata("sh", 15, "local", 1, 8, architecture="narrow").hidden == 8
    assert_refused(
        lambda: ModelMetadata("sh", 15, "local", 1, 9, architecture="narrow"),
        "hidden is 9, but the architecture 'narrow' needs 8",
    )


def test_an_architecture_needs_its_inputs():
    for name, changes in (
        ("moving_frame", {"inputs": None}),
        ("cai2023", {"inputs": None}),
        ("cai2023", {"inputs": ("step_mm",)}),
    ):
        assert_refused(
            lambda name=name, changes=changes: replace(
                LOCAL, architecture=name, **changes
            ),
            re.escape(
                f"inputs is {changes['inputs']!r}, but the architecture '{name}'"
            ),
        )


def test_the_order_is_only_known_for_spherical_harmonics():
    with pytest.raises(ValueError, match="3 coefficients belong to no even order"):
        RAW.order  # noqa: B018
    assert issubclass(ModelFileError, ValueError)
