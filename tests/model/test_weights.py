"""Weights as plain arrays: a file that holds them tracks without its TorchScript."""

from dataclasses import replace
import io
from unittest import mock

from archives import (
    LOCAL,
    RAW,
    Straight,
    assert_refused,
    assert_refused_unloaded,
    entry,
    rewrite,
)
from networks import metadata_of, network
import numpy as np
from numpy.testing import assert_array_equal
import pytest
import torch

from dipy_rnn.model import (
    Cai2023,
    ContextGRU,
    MovingFrameGRU,
    as_model,
    load_model,
    model_path,
    read_metadata,
    save_model,
    shipped_models,
)
from dipy_rnn.model.archive import read_archive, read_content
from dipy_rnn.model.weights import read_weights, weight_entries
from dipy_rnn.sampling import FeatureVolume
from dipy_rnn.tracking import TrackingConfig
from dipy_rnn.tracking.predictor import Predictor

MOVING = replace(LOCAL, architecture="moving_frame")


def context_gru():
    """Return a small ContextGRU with outputs, and its metadata."""
    torch.manual_seed(0)
    module = ContextGRU(4, hidden=8, memory=4, declared=True)
    return module, metadata_of(
        module,
        "context",
        hidden=module.n_state,
        outputs=module.outputs,
        context=module.context,
    )


def save(path, kind):
    """Save a small network of an architecture."""
    module, metadata = (
        (network(4, 8), MOVING) if kind == "moving_frame" else context_gru()
    )
    save_model(module, metadata, path)
    return path


@pytest.fixture(params=["moving_frame", "context"])
def saved(request, tmp_path):
    return save(tmp_path / "small.pt", request.param)


@pytest.fixture
def moving(tmp_path):
    return save(tmp_path / "small.pt", "moving_frame")


@pytest.fixture
def with_context(tmp_path):
    return save(tmp_path / "small.pt", "context")


def weights_in(path):
    return read_weights(read_archive(read_content(path), path)[0], "model")


def without_weights(path):
    """Make a file as older versions wrote it."""

    def remove(held):
        for name in [each for each in held if each.endswith(".npy")]:
            del held[name]

    rewrite(path, remove)


def npy(array):
    """Return the content of a .npy file."""
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def replaced(path, name, content):
    """Replace the entry of a parameter."""
    rewrite(path, lambda held: held.update({entry(held, f"/{name}.npy"): content}))


def answers(model):
    """Return what a model answers at the voxels of a random volume."""
    n_coeffs = model.metadata.channels
    values = np.random.default_rng(0).normal(size=(3, 3, 3, n_coeffs))
    volume = FeatureVolume(values.astype(np.float32), "sh")
    config = TrackingConfig.of(np.eye(4), step_size=0.5, max_angle=60, max_points=9)
    states = Predictor(volume, model, np.eye(3), 1).states(4, config)
    points = np.random.default_rng(1).uniform(0, 2, (4, 3))
    return np.array(
        [states.predict(points, np.tile(np.eye(3), (4, 1, 1)))[0] for _ in range(3)]
    )


# What a file holds


def test_a_saved_file_holds_the_parameters_as_plain_arrays(saved):
    parameters = dict(torch.jit.load(saved).named_parameters())
    held = weights_in(saved)
    assert held.keys() == parameters.keys()
    for name, array in held.items():
        assert array.dtype == np.float32
        assert_array_equal(array, parameters[name].detach().numpy())


def test_a_network_without_a_kernel_is_saved_without_plain_arrays(tmp_path):
    cai, path = Cai2023(4, hidden=8), tmp_path / "model.pt"
    for module, metadata in (
        (cai, metadata_of(cai, "cai2023", frame="voxel")),
        (network(4, 8), LOCAL),
        (Straight(), RAW),
    ):
        save_model(module, metadata, path)
        assert weights_in(path) == {}
        assert load_model(path).compiled is None


@pytest.mark.parametrize("name", shipped_models())
def test_the_weights_of_a_shipped_model_are_those_of_its_torchscript(name):
    path = model_path(name)
    parameters = load_model(name).load_script().parameters
    held = weights_in(path)
    assert held.keys() == parameters.keys()
    for parameter, array in held.items():
        assert_array_equal(array, parameters[parameter])


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_one_line_saves_a_file_again_with_weights(saved, tmp_path):
    expected, path = weights_in(saved), tmp_path / "again.pt"
    without_weights(saved)
    save_model(torch.jit.load(saved), read_metadata(saved), path)
    assert read_metadata(path) == read_metadata(saved)
    found = weights_in(path)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert_array_equal(found[name], array)


# What is loaded


def test_a_file_with_weights_answers_as_before_and_its_code_does_not_run(saved):
    with mock.patch.object(torch.jit, "load") as load:
        fresh = answers(load_model(saved))
    load.assert_not_called()
    without_weights(saved)
    with mock.patch.object(torch.jit, "load", wraps=torch.jit.load) as load:
        old = load_model(saved)
    load.assert_called_once()
    assert old.compiled is not None
    assert_array_equal(answers(old), fresh)


def test_the_torchscript_is_loaded_once_when_it_is_needed(saved):
    model = load_model(saved)
    with mock.patch.object(torch.jit, "load", wraps=torch.jit.load) as load:
        assert model.init_state(2).shape[1] == 2
        assert model.load_script() is model.load_script()
    load.assert_called_once()


def test_a_network_that_differs_from_its_kernel_is_not_saved(tmp_path):
    class Backwards(MovingFrameGRU):
        def forward(
            self,
            features: torch.Tensor,
            direction: torch.Tensor,
            state: torch.Tensor,
            inputs: torch.Tensor,
        ) -> tuple[torch.Tensor, torch.Tensor]:
            return -direction, state

    path = tmp_path / "model.pt"
    assert_refused(
        lambda: save_model(Backwards(4, 8), MOVING, path), "directions differ", path
    )
    assert not path.exists()


def test_weights_that_differ_from_the_torchscript_are_refused_when_it_is_loaded(moving):
    bias = weights_in(moving)["joined.bias"]
    bias[3] += np.float32(1e-6)
    replaced(moving, "joined.bias", npy(bias))
    model = load_model(moving)
    assert_refused(
        lambda: model.init_state(1), "its weights differ from the parameters", moving
    )


# Damaged weights


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a .npy file"),
        (b"hello", "not a .npy file"),
        (npy(np.zeros(8, np.float32))[:-1], "not a .npy file"),
        (npy(np.zeros(8, np.float32)) + b"x", "not a .npy file"),
        (npy(np.array([None] * 8)), "not a .npy file"),
        (
            npy(np.zeros(8, np.float32)).replace(b"(8,), }     ", b"(1<<40,), } "),
            "not a .npy file",
        ),
        (
            npy(np.zeros(8, np.float32)).replace(
                b"(8,), }             ", b"(99999999999999,), }"
            ),
            "not a .npy file",
        ),
        (npy(np.zeros(9, np.float32)), r"joined.bias is float32 of shape \(9,\)"),
        (npy(np.zeros(8)), "joined.bias is float64"),
        (npy(np.zeros(8, ">f4")), "joined.bias is >f4"),
        (npy(np.full(8, np.nan, np.float32)), "joined.bias is not finite"),
        (npy(np.array(["a"] * 8)), "its parameters differ"),
    ],
)
def test_a_damaged_parameter_is_refused_by_name(moving, content, message):
    replaced(moving, "joined.bias", content)
    assert_refused_unloaded(moving, message)


@pytest.mark.parametrize(
    "name", ["deeper.1.weight", "head.weight", "gru.0.from_state.bias"]
)
def test_a_missing_parameter_is_refused_by_name(moving, name):
    def remove(held):
        del held[entry(held, f"/{name}.npy")]

    rewrite(moving, remove)
    assert_refused_unloaded(moving, "its parameters differ")


@pytest.mark.parametrize(
    "name", ["to_vectors", "to_remembered", "gru.from_state.weight"]
)
def test_a_parameter_of_another_shape_is_refused(with_context, name):
    for shape in ((), (3,), (3, 3), (3, 3, 3)):
        replaced(with_context, name, npy(np.zeros(shape, np.float32)))
        assert_refused_unloaded(with_context, "its parameters differ")


# A kernel writes as many numbers as the metadata of its file say.
@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (b'"lost"', b'"ended"', "outputs is"),
        (b',\n  "ended",\n  "lost"', b"", r"outputs is \('spread',\), not"),
        (b'"hidden": 14', b'"hidden": 15', "hidden are 1 and 15, not 1 and 14"),
        (b'"layers": 1', b'"layers": 2', "hidden are 2 and 14, not 1 and 14"),
    ],
)
def test_metadata_that_do_not_fit_the_weights_are_refused(
    with_context, before, after, message
):
    def change(held):
        name = entry(held, "metadata.json")
        assert before in held[name]
        held[name] = held[name].replace(before, after)

    rewrite(with_context, change)
    assert_refused_unloaded(with_context, message)


def test_a_network_is_refused_for_its_weights_without_a_file():
    module = network(4, 8)
    with torch.no_grad():
        module.joined.bias[0] = np.inf
    assert_refused(
        lambda: as_model(module, MOVING), r"module is .*\(joined.bias is not finite"
    )


def test_weights_are_read_as_they_were_written():
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in (("a.weight", (2, 3)), ("b", ()), ("c", (0,)))
    }
    held = {f"extra/{name}": each for name, each in weight_entries(weights).items()}
    found = read_weights(held | {"data/0": b"", "extra/notes.npy": b""}, "model")
    assert found.keys() == weights.keys()
    for name in weights:
        assert_array_equal(found[name], weights[name])
