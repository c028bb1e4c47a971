"""Model files: what is saved is loaded, and broken contracts are refused."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
import pickle
import shutil
import warnings

from archives import (
    FORMAT_1,
    LOCAL,
    RAW,
    Straight,
    assert_refused,
    assert_refused_unloaded,
    volume,
    write,
)
from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
from stubs import StepCounter, save_stub
import torch
from torch import Tensor, nn

from dipy_rnn import rnn_tracking, sampling
from dipy_rnn.model import (
    ARCHITECTURES,
    NETWORKS,
    Architecture,
    Cai2023,
    ModelFileError,
    ModelMetadata,
    MovingFrameGRU,
    architecture_of,
    as_model,
    check_device,
    file,
    load_model,
    model_path,
    read_metadata,
    save_model,
    shipped_models,
    stack_inputs,
)
from dipy_rnn.tracking import TrackingConfig
from dipy_rnn.tracking.predictor import Predictor, ScriptedStates
from dipy_rnn.training.shipped_models import write_checksums


class NoInitState(nn.Module):
    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return direction, state


class WideState(Straight):
    @torch.jit.export
    def init_state(self, n: int) -> Tensor:
        return torch.zeros(1, n, 3)


class GrowingState(Straight):
    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return direction, torch.cat([state, state], dim=0)


class FlatDirections(Straight):
    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return direction[:, :2], state


class NoState(Straight):
    def forward(self, features: Tensor, direction: Tensor, state: Tensor) -> Tensor:
        return direction


class BatchMean(Straight):
    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return direction + features - features.mean(0, keepdim=True), state


class BatchStatistics(Straight):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, track_running_stats=False)

    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return direction + self.norm(features), state


class RunningStatistics(Straight):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return direction + self.norm(features), state


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "small.pt"
    save_model(MovingFrameGRU(order=4, hidden=8), LOCAL, path)
    return path


# Saving and loading


@pytest.mark.parametrize(
    "network",
    [MovingFrameGRU(order=4, hidden=8), Cai2023(order=4, hidden=8)],
    ids=["moving_frame", "cai2023"],
)
def test_a_loaded_network_returns_what_the_saved_one_did(tmp_path, network):
    with torch.no_grad():
        network.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    path = tmp_path / "model.pt"
    metadata = ModelMetadata(
        "sh", 15, network.frame, network.layers, 8, inputs=network.inputs
    )
    save_model(network, metadata, path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]
    model = load_model(path)
    features = np.random.default_rng(0).normal(size=(4, 15)).astype(np.float32)
    up = np.tile([0.0, 0.0, 1.0], (4, 1))
    values = {"step_vox": 0.5, "max_angle_deg": 30.0, "ahead": [0.28, 0.0, 0.96]}
    inputs = stack_inputs(network.inputs, values, 4)
    state, expected_state = model.init_state(4), network.init_state(4)
    for _ in range(3):
        direction, state = model.step(features, up, state, inputs)
        with torch.no_grad():
            expected, expected_state = network(
                *map(torch.from_numpy, (features, up.astype(np.float32))),
                expected_state,
                torch.from_numpy(inputs),
            )
        assert direction.dtype == np.float32 and direction.shape == (4, 3)
        assert_allclose(direction, expected.numpy(), atol=1e-5)
    assert_allclose(state, expected_state, atol=1e-5)


def test_an_archive_made_elsewhere_is_a_model_if_it_follows_the_contract(tmp_path):
    for module in (Straight(), RunningStatistics()):
        model = load_model(write(tmp_path / "other.pt", module, RAW))
        assert model.init_state(5).shape == (1, 5, 2)


# What torch warns of, before and from 2.14 on, and with Python 3.14.
@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning])
@pytest.mark.parametrize("text", ["is deprecated.", "is not supported in Python 3.14+"])
def test_no_warning_of_torchscript_reaches_a_user(
    tmp_path, monkeypatch, category, text
):
    called = set()

    def warning_first(name, function):
        def call(*arguments, **options):
            called.add(name)
            warnings.warn(f"`torch.jit.{name}` {text}", category, stacklevel=2)
            return function(*arguments, **options)

        return call

    for name in ("script", "save", "load"):
        function = warning_first(name, getattr(torch.jit, name))
        monkeypatch.setattr(torch.jit, name, function)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_model(Straight(), RAW, tmp_path / "straight.pt")
        model = load_model(tmp_path / "straight.pt")
        as_model(Straight(), RAW)
        field = sampling.raw_features(np.full((9, 3, 3, 3), [1.0, 0, 0]))
        lines = rnn_tracking(
            *([[4.0, 1, 1]], BinaryStoppingCriterion(np.ones((9, 3, 3))), np.eye(4)),
            features=field,
            seed_directions=[[1.0, 0, 0]],
            model=model,
            step_size=1.0,
        )
        assert len(next(lines)) > 5
    assert called == {"script", "save", "load"}


def test_a_loaded_model_is_returned_unchanged(saved):
    model = load_model(saved)
    assert load_model(model) is model
    assert model.name == str(saved)


def test_the_same_network_gives_the_same_file(tmp_path):
    contents = []
    for name in ("one.pt", "other.pt"):
        torch.manual_seed(0)
        save_model(MovingFrameGRU(order=4, hidden=8), LOCAL, tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize("before", [None, b"an older model"])
def test_a_failed_save_leaves_everything_as_it_was(tmp_path, before):
    path = tmp_path / "model.pt"
    if before:
        path.write_bytes(before)
    assert_refused(lambda: save_model(WideState(), RAW, path), "model.pt")
    assert [p.name for p in tmp_path.iterdir()] == (["model.pt"] if before else [])
    assert before is None or path.read_bytes() == before


class Shaky(Straight):
    """A network without a kernel, whose directions depend on its state."""

    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor, inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        state = state + 1.0
        return features * self.weight + 0.1 * state[0, :, :1], state


def test_an_architecture_without_a_kernel_runs_as_torchscript(tmp_path, monkeypatch):
    path = tmp_path / "shaky.pt"
    raw = replace(RAW, inputs=())
    with pytest.raises(ModelFileError, match="architecture is 'shaky'; 'moving_frame'"):
        replace(raw, architecture="shaky")
    described = Architecture({"kind": "raw", "channels": 3})
    monkeypatch.setitem(ARCHITECTURES, "shaky", described)
    monkeypatch.setitem(NETWORKS, "shaky", Shaky)
    assert architecture_of(Shaky()) == "shaky"
    save_model(Shaky(), replace(raw, architecture="shaky"), path)
    model = load_model(path)
    assert model.metadata.architecture == "shaky" and model.compiled is None

    data = np.random.default_rng(0).normal(size=(3, 3, 3, 3)).astype(np.float32)
    predictor = Predictor(sampling.raw_features(data), model, np.eye(3), 1)
    config = TrackingConfig.of(np.eye(4), step_size=1, max_angle=60, max_points=9)
    states = predictor.states(2, config)
    assert isinstance(states, ScriptedStates)
    points, frames = np.array([[0.0, 1.0, 2.0], [2.0, 2.0, 9.0]]), np.zeros((2, 3, 3))
    for step in (1, 2):
        answers, status = states.predict(points, frames)
        assert_allclose(answers[0], data[0, 1, 2] + 0.1 * step, rtol=1e-6)
        assert_allclose(answers[1], 0.1 * step, rtol=1e-6)
        assert status.tolist() == [sampling.DATA, sampling.OUTSIDE]
    # The file names an architecture that this package does not have.
    monkeypatch.delitem(ARCHITECTURES, "shaky")
    assert_refused_unloaded(path, "architecture is 'shaky'; 'moving_frame' or")


# Format 1


class OfFormat1(Straight):
    """The contract of format 1: its forward has three arguments."""

    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return features[:, 1:4] + 0.5 * state[0, :, :1], state + 1.0


@pytest.fixture
def of_format_1(tmp_path):
    return write(tmp_path / "old.pt", OfFormat1(), FORMAT_1)


def test_a_file_of_format_1_loads_and_runs_with_three_arguments(of_format_1):
    model = load_model(of_format_1)
    assert model.metadata == read_metadata(of_format_1)
    assert model.metadata.architecture == "" and model.metadata.inputs is None
    assert model.compiled is None
    features = np.random.default_rng(0).normal(size=(5, 15)).astype(np.float32)
    up, state = np.tile([0.0, 0.0, 1.0], (5, 1)), model.init_state(5)
    for k in range(3):
        direction, state = model.step(features, up, state)
        assert_allclose(direction, features[:, 1:4] + 0.5 * k, rtol=1e-6)
    assert_array_equal(state, torch.full((1, 5, 2), 3.0))


def test_a_network_of_format_1_is_saved_in_format_1(tmp_path, of_format_1):
    metadata, path = read_metadata(of_format_1), tmp_path / "again.pt"
    save_model(OfFormat1(), metadata, path)
    assert read_metadata(path) == metadata
    features, up = np.ones((2, 15), np.float32), np.tile([0.0, 0.0, 1.0], (2, 1))
    one, other = (
        model.step(features, up, model.init_state(2))[0]
        for model in map(load_model, (of_format_1, path))
    )
    assert_array_equal(one, other)


def test_format_1_refuses_steps_in_mm_outside_its_range(of_format_1):
    model = load_model(of_format_1)
    model.check_step(0.5)
    assert_refused(lambda: model.check_step(2.0), "for 0.2 to 1.5 mm", of_format_1)


def test_the_number_of_arguments_must_be_that_of_the_format(tmp_path):
    path = tmp_path / "model.pt"
    for module, metadata in (
        (OfFormat1(), replace(LOCAL, hidden=2)),  # three arguments in format 2
        (MovingFrameGRU(4, 2), FORMAT_1),  # four arguments in format 1
    ):
        write(path, module, metadata)
        assert_refused(lambda: load_model(path), "breaks the contract", path)


def test_the_network_gets_its_declared_inputs_in_their_order(tmp_path):
    class Echo(Straight):
        def forward(
            self, features: Tensor, direction: Tensor, state: Tensor, inputs: Tensor
        ) -> tuple[Tensor, Tensor]:
            return torch.stack([inputs[:, 0], inputs[:, 1], inputs[:, 4]], 1), state

    path = tmp_path / "echo.pt"
    metadata = replace(LOCAL, hidden=2, inputs=("step_mm", "ahead", "max_angle_deg"))
    save_model(Echo(), metadata, path)
    model = load_model(path)
    values = {"step_mm": 0.5, "max_angle_deg": 30.0, "ahead": [0.6, 0.0, 0.8]}
    inputs = stack_inputs(metadata.inputs, values, 3)
    for n in (1, 3):
        direction, _ = model.step(
            *(np.zeros((n, 15), np.float32), np.zeros((n, 3)), model.init_state(n)),
            inputs[:n],
        )
        assert_array_equal(direction, np.float32([[0.5, 0.6, 30.0]] * n))
    # A network that takes more inputs than it declares is refused.
    metadata = replace(metadata, inputs=("step_mm", "ahead"))
    assert_refused(lambda: save_model(Echo(), metadata, path), "contract", path)


# Shipped models


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Return a copy of the folder of shipped models. Models are loaded from it."""
    folder = Path(file.__file__).parent / "shipped"
    copy = Path(shutil.copytree(folder, tmp_path / "shipped"))
    monkeypatch.setattr(file, "model_path", lambda name: copy / f"{name}.pt")
    return copy


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_with_one_bit_flipped_is_refused(shipped, name):
    path = shipped / f"{name}.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert_refused_unloaded(path, "not the model that was shipped .* install", name)


def test_a_shipped_model_without_a_checksum_is_refused(shipped):
    path = shipped / "default.pt"
    for spoil in (lambda sums: sums.write_text(""), Path.unlink):
        spoil(shipped / "SHA256SUMS")
        assert_refused_unloaded(path, "not the model that was shipped", "default")


def test_the_checksums_are_those_of_the_models(shipped):
    before = (shipped / "SHA256SUMS").read_text()
    for line, name in zip(before.splitlines(), shipped_models(), strict=True):
        digest = sha256((shipped / f"{name}.pt").read_bytes()).hexdigest()
        assert line == f"{digest}  {name}.pt"
    write_checksums(shipped)
    assert (shipped / "SHA256SUMS").read_text() == before


def test_an_unknown_name_is_refused_and_the_shipped_models_are_named(monkeypatch):
    monkeypatch.setattr(file, "shipped_models", lambda: ["default", "tiny"])
    with pytest.raises(FileNotFoundError, match=r"defaut-model.*: default, tiny\."):
        model_path("defaut-model")


def test_a_shipped_model_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr(file, "shipped_models", lambda: ["default"])
    for path in (model_path(), model_path("default")):
        assert path == Path(file.__file__).parent / "shipped" / "default.pt"


# Networks that break the contract


@pytest.mark.parametrize(
    ("module", "metadata", "message"),
    [
        (NoInitState, RAW, "no method init_state"),
        (WideState, RAW, r"init_state\(3\) has the shape \(1, 3, 3\), not \(1, 3, 2\)"),
        (GrowingState, RAW, r"\(2, 3, 2\), not \(3, 3\) and \(1, 3, 2\)"),
        (FlatDirections, RAW, r"forward returns shapes \(3, 2\)"),
        (NoState, RAW, "breaks the contract"),
        (BatchMean, RAW, "depends on the other rows"),
        (BatchStatistics, RAW, "breaks the contract"),
        (
            MovingFrameGRU,
            # The network is of order 8.
            ModelMetadata("sh", 15, "local", 1, 64, inputs=MovingFrameGRU.inputs),
            "breaks the contract",
        ),
    ],
)
def test_networks_that_break_the_contract_are_refused(
    tmp_path, module, metadata, message
):
    path = write(tmp_path / "broken.pt", module(), metadata)
    assert_refused(lambda: load_model(path), message, path)


def test_directions_that_are_not_float32_are_refused(tmp_path):
    class Double(Straight):
        def forward(
            self, features: Tensor, direction: Tensor, state: Tensor
        ) -> tuple[Tensor, Tensor]:
            return direction.double(), state

    path = tmp_path / "model.pt"
    message = "forward returns float64 and torch.float32, not float32"
    assert_refused(lambda: save_model(Double(), RAW, path), message, path)


def test_a_spread_needs_directions_of_length_1(tmp_path):
    class WithSpread(Straight):
        length: float

        def forward(
            self, features: Tensor, direction: Tensor, state: Tensor, inputs: Tensor
        ) -> tuple[Tensor, Tensor]:
            spread = torch.full([direction.shape[0], 1], 0.1)
            return torch.cat([self.length * direction, spread], 1), state

    path = tmp_path / "model.pt"
    metadata = replace(LOCAL, hidden=2, inputs=("ahead",), outputs=("spread",))
    module = WithSpread()
    module.length = 1.0
    save_model(module, metadata, path)
    module.length = 10.0
    message = "declares a spread, .* lengths from 10 to 10, not 1"
    assert_refused(lambda: save_model(module, metadata, path), message, path)


def test_a_state_that_does_not_begin_with_zeros_is_refused(tmp_path):
    class BeginsWithOnes(StepCounter):
        @torch.jit.export
        def init_state(self, n: int) -> Tensor:
            return torch.ones(1, n, 1)

    with pytest.raises(ModelFileError, match="not all float32 zeros"):
        save_stub(BeginsWithOnes(), tmp_path / "ones.pt")


def test_parameters_that_are_not_finite_are_refused_by_name(tmp_path):
    network = MovingFrameGRU(order=4, hidden=8)
    with torch.no_grad():
        network.joined.bias[3] = float("nan")
    metadata = replace(LOCAL, architecture="moving_frame")
    path = tmp_path / "nan.pt"
    assert_refused(
        lambda: save_model(network, metadata, path), "joined.bias is not finite", path
    )


# Features and steps


def test_features_are_padded_or_cut_to_the_models_order(tmp_path):
    metadata = replace(LOCAL, channels=28, orders=(4, 6))
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
    metadata = replace(LOCAL, channels=28, orders=(6,))
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


def test_raw_features_with_another_number_of_channels_are_refused(tmp_path):
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


def test_an_array_is_not_taken_for_a_feature_volume(saved):
    with pytest.raises(ModelFileError, match="features is of type ndarray"):
        load_model(saved).features(np.zeros((2, 2, 2, 15), np.float32))


def test_steps_in_mm_outside_the_range_of_the_model_are_refused(saved):
    model = load_model(saved)
    for step_mm in (0.2, 0.5, 1.5, np.float32(0.2), 0.19999999):
        model.check_step(step_mm)
    for step_mm in (0.19, 1.51, 0.0, float("nan")):
        assert_refused(
            lambda step_mm=step_mm: model.check_step(step_mm),
            "was trained for 0.2 to 1.5 mm",
            saved,
        )


def test_steps_in_voxel_edges_outside_the_range_of_the_training_give_a_warning(saved):
    model = load_model(saved)
    for step_vox in (0.1, 0.5, 1.0, np.float32(0.1), 0.09999999):
        model.warn_of_step(0.5, step_vox)
    for step_vox in (0.09, 1.01, 0.0, float("nan")):
        with pytest.warns(UserWarning, match=r"0\.1 to 1 edges") as warned:
            model.warn_of_step(0.5, step_vox)
        assert f"0.5 mm, {step_vox:.3g} edges of a voxel" in str(warned[0].message)
        assert "\n" not in str(warned[0].message)


def test_a_model_of_format_1_gives_no_warning_of_a_step(of_format_1):
    load_model(of_format_1).warn_of_step(0.5, 1000.0)


# Devices


def test_a_loaded_model_stays_on_its_device(monkeypatch, saved):
    model = load_model(saved)
    assert load_model(model) is model and load_model(model, device="cpu") is model
    with pytest.raises(ValueError, match="'abacus'"):
        load_model(model, device="abacus")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    with pytest.raises(ValueError, match="loaded on 'cpu'"):
        load_model(model, device="cuda")
    # The name is that of the parameters of a network.
    assert [check_device(name) for name in ("cuda", "cuda:0")] == ["cuda:1", "cuda:0"]


def test_an_unknown_or_absent_device_is_refused(monkeypatch, saved):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=r"finds 0 CUDA devices.*use device 'cpu'"):
            load_model(saved, device=device)
    for device in ("gpu", "mps", "", "cuda:-1"):
        with pytest.raises(ValueError, match=r"device is .*'cpu', 'cuda'"):
            check_device(device)
    assert check_device("cpu") == check_device(torch.device("cpu"))


def test_a_model_is_pickled_with_its_weights_its_kernel_and_its_metadata():
    module = MovingFrameGRU(order=4, hidden=8)
    nn.init.normal_(module.head.weight)
    metadata = ModelMetadata(
        "sh", 15, "local", 1, 8, normalisation="power", inputs=module.inputs
    )
    for model in (
        load_model("deterministic"),
        as_model(module, replace(metadata, architecture="moving_frame")),
        as_model(module, metadata),  # without a kernel
    ):
        twin = pickle.loads(pickle.dumps(model))
        assert twin.metadata == model.metadata and twin.name == model.name
        assert (twin.compiled is None) == (model.compiled is None)
        features = np.ones((2, model.metadata.channels), np.float32)
        direction, inputs = np.eye(3)[1:], np.ones((2, 5), np.float32)
        expected, _ = model.step(features, direction, model.init_state(2), inputs)
        found, _ = twin.step(features, direction, twin.init_state(2), inputs)
        assert_array_equal(found, expected)
