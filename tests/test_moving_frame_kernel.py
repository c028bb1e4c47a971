"""The compiled network is the twin of the module, and tells when it cannot be."""

from itertools import product

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
import torch
from torch import Tensor, nn

from dipy_rnn import sampling
from dipy_rnn.model import (
    Cai2023,
    Model,
    ModelFileError,
    ModelMetadata,
    MovingFrameGRU,
    Predictor,
    as_model,
    load_model,
    save_model,
    shipped_models,
)
from dipy_rnn.model._moving_frame import CompiledMovingFrameGRU
from dipy_rnn.model.moving_frame import FrameConstants
from dipy_rnn.model.predictor import CompiledStates, ScriptedStates
from dipy_rnn.sampling import DATA, EMPTY, OUTSIDE

HANDEDNESS = [1.0, -1.0]
SHAPE = (4, 3, 5)
COEFFS = {4: 15, 6: 28, 8: 45}


def network(order=8, hidden=12, layers=1, depth=2, gain=1.0, kind=MovingFrameGRU):
    """Return a module none of whose weights is zero."""
    module = kind(order, hidden, layers, depth)
    generator = torch.Generator().manual_seed(order + hidden + layers + depth)
    with torch.no_grad():
        for parameter in module.parameters():
            size = parameter.shape[1] if parameter.ndim == 2 else 16
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(gain * drawn / size**0.5)
        module.head.weight *= 5.0
    return module.eval()


def metadata_of(module, architecture="moving_frame", **changes):
    entries = {
        "kind": "sh",
        "channels": COEFFS[module.order],
        "frame": "local",
        "layers": module.layers,
        "hidden": module.hidden,
        "orders": tuple(range(4, module.order + 1, 2)),
        "normalisation": "power",
        "architecture": architecture,
    }
    return ModelMetadata(**entries | changes)


def compiled(module):
    weights = {name: w.numpy() for name, w in module.state_dict().items()}
    return CompiledMovingFrameGRU(
        weights,
        FrameConstants.of(module.order),
        len(module.deeper),
        module.layers,
        module.hidden,
    )


def random_volume(order=8, seed=0):
    """Return a volume of lobes and noise in which one corner is empty."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(*SHAPE, COEFFS[order])).astype(np.float32)
    values[0, 0, 0] = 0.0
    return values


def random_points(n, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, np.array(SHAPE) - 0.5, (n, 3))


def turn(network, volume, points, frames, state, handedness=1.0):
    """Take a compiled network one step; return its answers and what it found."""
    order = sampling.sh_order(volume.shape[3])
    answers = np.full((len(points), 3), np.nan, np.float32)
    found = np.full(len(points), 9, np.uint8)
    network.turn(
        volume,
        order,
        sampling.quarter_turns(order),
        points,
        frames,
        handedness,
        state,
        answers,
        found,
    )
    return answers, found


def walk(network, volume, points, frames, handedness=1.0):
    """Take steps (T, n, ..) with a state carried along.

    Return answers (T, n, 3), what was found (T, n), and the last state (L, n, H).
    """
    n = points.shape[1]
    state = network.init_state(n)
    steps = [
        turn(network, volume, here, frame, state, handedness)
        for here, frame in zip(points, frames, strict=True)
    ]
    answers, found = map(np.array, zip(*steps))
    rows = state.transpose(1, 0, 3, 2).reshape(network.layers, -1, network.hidden)
    return answers, found, rows[:, :n]


@torch.no_grad()
def expected_walk(module, volume, points, frames, handedness=1.0):
    """As :func:`walk`, by torch on what interpolate samples."""
    state, answers, found = module.init_state(points.shape[1]), [], []
    for here, frame in zip(points, frames, strict=True):
        seen, inside = sampling.sample(
            volume, here, frame, handedness=handedness, normalise=True
        )
        ahead = torch.tensor([[0.0, 0.0, 1.0]]).repeat(len(here), 1)
        answer, state = module(torch.from_numpy(seen), ahead, state)
        answers.append(answer.numpy())
        found.append(np.where(inside, np.where(seen.any(axis=1), DATA, EMPTY), OUTSIDE))
    return np.array(answers), np.array(found), state.numpy()


@pytest.fixture
def way(random_frames):
    """Return a function: points (T, n, 3) and frames (T, n, 3, 3) of a handedness."""

    def draw(n, n_steps=4, handedness=1.0):
        points = random_points(n_steps * n).reshape(n_steps, n, 3)
        frames = random_frames(n_steps * n, handedness).reshape(n_steps, n, 3, 3)
        return points, frames

    return draw


# The twin of the module


@pytest.mark.parametrize("handedness", HANDEDNESS)
@pytest.mark.parametrize("order", COEFFS)
def test_answers_and_states_are_those_of_the_module(way, order, handedness):
    volume, (points, frames) = random_volume(order), way(21, handedness=handedness)
    points[1, 3], points[2, 20] = 99.0, -0.2  # outside, and where nothing is
    for hidden, layers, depth in product((8, 12, 33), (1, 2, 3), (0, 1, 2, 3)):
        module = network(order, hidden, layers, depth)
        arguments = volume, points, frames, handedness
        answers, found, state = walk(compiled(module), *arguments)
        expected, expected_found, expected_state = expected_walk(module, *arguments)
        assert_allclose(answers, expected, atol=1e-5)
        assert_allclose(state, expected_state, atol=1e-5)
        assert_array_equal(found, expected_found)
        assert found[1, 3] == OUTSIDE and found[2, 20] == EMPTY
        # It was worth comparing.
        assert np.ptp(state, axis=1).min() > 1e-3
        assert np.ptp(answers[..., 2]) > 0.05


def test_with_a_head_of_zeros_the_answer_is_newtons_step(lobes):
    # A lobe of the width that the slopes are made for, one degree off straight ahead.
    module = MovingFrameGRU(8, hidden=8)
    ways = np.array([[np.sin(a), 0.0, np.cos(a)] for a in np.deg2rad([0.0, 1.0])])
    volume = lobes(ways).astype(np.float32).reshape(2, 1, 1, 45)
    points, frames = np.eye(3)[:1] * np.arange(2.0)[:, None], np.tile(np.eye(3), (2, 1))
    network = compiled(module)
    answers, _ = turn(
        network, volume, points, frames.reshape(2, 3, 3), network.init_state(2)
    )
    assert_array_equal(answers[0], [0.0, 0.0, 1.0])
    assert_allclose(answers[1], ways[1], atol=1e-4)


def test_saturated_gates_stay_finite(way):
    module = network(8, 33, 3, 2, gain=100.0)
    volume, (points, frames) = random_volume(), way(40)
    answers, _, state = walk(compiled(module), volume, points, frames)
    assert_allclose(np.linalg.norm(answers, axis=2), 1, rtol=1e-6)
    assert np.abs(state).max() <= 1
    _, _, expected_state = expected_walk(module, volume, points, frames)
    # Almost all gates are shut or open, as torch's are; a few stand in between.
    assert np.mean(np.abs(state - expected_state) < 1e-3) > 0.95
    for gain in (1e6, 1e9):
        answers, _, state = walk(
            compiled(network(8, 33, 3, 2, gain=gain)), volume, points, frames
        )
        assert not np.isnan(state).any()


def test_a_volume_of_a_lower_order_is_one_whose_high_orders_are_zero(way):
    points, frames = way(40)
    for order, low in ((8, 4), (8, 6), (6, 4)):
        network_, volume = compiled(network(order)), random_volume(low)
        padded = sampling.with_order(volume, order)
        answers, found, state = walk(network_, volume, points, frames)
        expected, expected_found, expected_state = walk(
            network_, padded, points, frames
        )
        assert_allclose(answers, expected, atol=2e-6)
        assert_allclose(state, expected_state, atol=2e-6)
        assert_array_equal(found, expected_found)


# Rows


def test_a_row_is_the_same_alone_in_any_lane_and_among_any_number(way):
    network_, volume = compiled(network(8, 33, 2)), random_volume()
    points, frames = way(50)
    points[1, 7], points[2, 40] = 99.0, -0.2
    expected = walk(network_, volume, points, frames)
    rng = np.random.default_rng(0)
    for n in (1, 1, 2, 15, 16, 17, 31, 32, 33, 50):
        rows = rng.permutation(50)[:n]
        some = walk(
            network_,
            volume,
            np.ascontiguousarray(points[:, rows]),
            np.ascontiguousarray(frames[:, rows]),
        )
        for whole, part in zip(expected, some, strict=True):
            assert_array_equal(part, whole[:, rows])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_lane(way, bad):
    network_, volume = compiled(network(8, 12, 2)), random_volume()
    volume[3, 2, 4, 7] = bad
    points, frames = way(18)
    # Away from that voxel, but for one row in one step.
    points *= 0.5
    points[1, 5] = 3.2, 1.9, 4.1
    whole = walk(network_, volume, points, frames)
    answers, found, state = whole
    assert (found == DATA).all()
    assert np.isnan(answers[1:, 5]).all() and np.isnan(state[:, 5]).all()
    rest = np.arange(18) != 5
    assert np.isfinite(answers[:, rest]).all() and np.isfinite(state[:, rest]).all()
    points[1, 5] = 1.0
    for with_it, without_it in zip(
        whole, walk(network_, volume, points, frames), strict=True
    ):
        assert_array_equal(with_it[:, rest], without_it[:, rest])


def test_what_there_is_at_a_point_is_told(way):
    network_, volume = compiled(network()), random_volume()
    points = np.array(
        [[0, 0, 0], [0, 0, 0.5], [-0.51, 0, 0], [3.5, 0, 0], [np.nan, 0, 0], [3, 2, 4]]
    )
    _, frames = way(6, 1)
    answers, found = turn(network_, volume, points, frames[0], network_.init_state(6))
    assert found.tolist() == [EMPTY, DATA, OUTSIDE, OUTSIDE, OUTSIDE, DATA]
    assert_allclose(np.linalg.norm(answers, axis=1), 1, rtol=1e-6)
    # Nothing is what zeros are, wherever they come from.
    assert_array_equal(answers[[0, 0, 0]], answers[2:5])


def test_the_scale_of_the_data_does_not_matter(way):
    network_, volume = compiled(network()), random_volume()
    points, frames = way(30)
    expected, _, _ = walk(network_, volume, points, frames)
    for scale in (1e-6, 1e6):
        scaled = (volume * scale).astype(np.float32)
        answers, _, _ = walk(network_, scaled, points, frames)
        assert_allclose(answers, expected, atol=1e-5)


# States


def test_fresh_states_are_zeros_in_whole_blocks():
    network_ = compiled(network(8, 12, 2))
    for n, n_blocks in ((0, 0), (1, 1), (16, 1), (17, 2)):
        state = network_.init_state(n)
        assert state.shape == (n_blocks, 2, 12, 16) and state.dtype == np.float32
        assert not state.any()
    assert (network_.depth, network_.layers, network_.hidden) == (2, 2, 12)


@pytest.fixture
def propagators(tmp_path):
    """Return a function: of one network, compiled and as TorchScript."""

    def make(module, volume, axes):
        features = sampling.FeatureVolume(volume, "sh")
        for architecture in ("moving_frame", ""):
            metadata = metadata_of(module, architecture)
            yield Predictor(features, as_model(module, metadata), axes, 60.0, 1)

    return make


@pytest.mark.parametrize("axis", HANDEDNESS)
def test_the_engine_gets_the_same_of_both_kinds_of_states(way, propagators, axis):
    points, frames = way(40, 6, axis)
    points[1, 7], points[2, 30] = 99.0, -0.2
    volume = random_volume(4)
    pair = propagators(network(8, 12, 2), volume, np.diag([axis, 1.0, 1.0]))
    states = [propagator.states(40) for propagator in pair]
    assert list(map(type, states)) == [CompiledStates, ScriptedStates]
    rng = np.random.default_rng(0)
    for step in range(6):
        n = points.shape[1]
        (answers, found), (expected, expected_found) = (
            each.answer(points[step], frames[step]) for each in states
        )
        assert_allclose(answers, expected, atol=1e-5)
        assert_array_equal(found, expected_found)
        fresh = np.sort(rng.permutation(n)[: n // 4])
        kept = np.sort(rng.permutation(n)[: 3 * n // 4]) if step in (1, 3) else None
        for each in states:
            each.reset(fresh)
            if kept is not None:
                each.keep(kept)
        if kept is not None:
            points = np.ascontiguousarray(points[:, kept])
            frames = np.ascontiguousarray(frames[:, kept])


def test_reset_makes_some_states_fresh_and_keep_drops_the_others(way, propagators):
    points, frames = way(36, 2)
    volume = random_volume()
    propagator, _ = propagators(network(8, 12, 2), volume, np.eye(3))

    def second(change):
        states = propagator.states(36)
        states.answer(points[0], frames[0])
        rows = change(states)
        answers, _ = states.answer(
            np.ascontiguousarray(points[1, rows]),
            np.ascontiguousarray(frames[1, rows]),
        )
        return answers.copy()

    every, rows = np.arange(36), np.array([1, 15, 16, 35])
    carried = second(lambda states: every)
    fresh, _ = propagator.states(36).answer(points[1], frames[1])
    assert (carried != fresh).any(axis=1).all()
    reset = second(lambda states: (states.reset(rows), every)[1])
    assert_array_equal(reset[rows], fresh[rows])
    others = np.setdiff1d(every, rows)
    assert_array_equal(reset[others], carried[others])
    kept = second(lambda states: (states.keep(rows), rows)[1])
    assert_array_equal(kept, carried[rows])
    # The other lanes of a block that is kept are fresh.
    dropped = propagator.states(36)
    dropped.answer(points[0], frames[0])
    dropped.keep(every[:0])
    assert dropped.answer(points[1, :0], frames[1, :0])[0].shape == (0, 3)


# Models


def test_what_is_learned_after_compiling_is_not_in_it(way):
    module = network()
    model = as_model(module, metadata_of(module))
    volume, (points, frames) = random_volume(), way(5)
    before = walk(model.compiled, volume, points, frames)[0]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert_array_equal(walk(model.compiled, volume, points, frames)[0], before)


def test_networks_of_ours_are_compiled_on_the_cpu_and_others_are_not(tmp_path):
    for name in shipped_models():
        model = load_model(name)
        ours = model.metadata.architecture == "moving_frame"
        assert (model.compiled is not None) == ours
    module = network(8, 12, 2, 3)
    path = tmp_path / "model.pt"
    for architecture in ("moving_frame", ""):
        save_model(module, metadata_of(module, architecture), path)
        assert (load_model(path).compiled is None) == (architecture == "")
    cai = Cai2023(4, hidden=8)
    save_model(cai, metadata_of(cai, "cai2023", frame="voxel"), path)
    assert load_model(path).compiled is None


def test_nothing_is_compiled_for_another_device_and_its_features_are_padded():
    module = network()
    volume = sampling.FeatureVolume(random_volume(4), "sh")
    for device, channels in (("cpu", 15), ("cuda", 45)):
        # The module stays on the CPU: nobody asks it anything.
        model = Model(module, metadata_of(module), torch.device(device), "model")
        assert (model.compiled is None) == (device == "cuda")
        assert model.features(volume).shape == (*SHAPE, channels)


# Archives that say what is not true


def write(path, module, metadata):
    """Write an archive as torch does, without the checks of save_model."""
    torch.jit.save(
        torch.jit.script(module),
        str(path),
        _extra_files={"metadata.json": metadata.to_json()},
    )
    return path


def assert_refused(path, module, metadata, message):
    write(path, module, metadata)
    with pytest.raises(ModelFileError, match=message) as refusal:
        load_model(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)
    assert "moving_frame" in str(refusal.value)


class AnotherHead(MovingFrameGRU):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.head = nn.Linear(self.hidden, 2 * self.n_slopes + 5)


class NoBias(MovingFrameGRU):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.gru = nn.GRU(self.hidden, self.hidden, self.layers, bias=False)


@pytest.mark.parametrize(
    ("module", "changes", "named"),
    [
        (network(4, 8), {"hidden": 9}, "input.weight is float32 of shape"),
        (network(4, 8), {"channels": 28}, "input.weight is float32 of shape"),
        (network(4, 8), {"layers": 2}, "gru.weight_ih_l1"),
        (network(4, 8, kind=AnotherHead), {}, "head.weight is .* float32 of shape"),
        (network(4, 8, kind=NoBias), {}, "gru.bias_ih_l0"),
        (network(4, 8).double(), {}, "input.weight is float64"),
        (network(4, 8).half(), {}, "input.weight is float16"),
        (network(4, 8).bfloat16(), {}, "is torch.bfloat16"),
        (Cai2023(4, 8), {}, "input.weight"),
    ],
    ids=[
        "width",
        "order",
        "layers",
        "head",
        "no-bias",
        "double",
        "half",
        "bfloat16",
        "another-architecture",
    ],
)
def test_other_parameters_than_said_are_refused_by_name(
    tmp_path, module, changes, named
):
    metadata = metadata_of(module, **changes)
    assert_refused(tmp_path / "model.pt", module, metadata, named)


class Backwards(MovingFrameGRU):
    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        seen, vectors = self.look(features)
        factors, state = self.think(seen, state)
        return -self.steer(factors, vectors), state


class Rectified(MovingFrameGRU):
    def embed(self, seen: Tensor) -> Tensor:
        return torch.relu(self.input(seen))


class Forgetful(MovingFrameGRU):
    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        seen, vectors = self.look(features)
        factors, state = self.think(seen, 0.0 * state)
        return self.steer(factors, vectors), state


@pytest.mark.parametrize(
    "kind",
    [
        Backwards,
        Rectified,
        pytest.param(
            Forgetful,
        ),
    ],
)
def test_other_answers_than_those_of_the_parameters_are_refused(tmp_path, kind):
    module = network(4, 8, kind=kind)
    path = tmp_path / "model.pt"
    assert_refused(path, module, metadata_of(module), "answers are others")
    # It is a network like any other, if it says so.
    save_model(module, metadata_of(module, ""), path)
    assert load_model(path).compiled is None


@pytest.mark.parametrize(
    "changes",
    [
        {"frame": "voxel"},
        {"normalisation": "none"},
        {"kind": "raw", "frame": "voxel", "orders": ()},
    ],
    ids=["frame", "normalisation", "kind"],
)
def test_the_architecture_fixes_what_it_sees(changes):
    with pytest.raises(ModelFileError, match="architecture is 'moving_frame'"):
        metadata_of(network(4, 8), **changes)
    assert metadata_of(network(4, 8), "", **changes).architecture == ""


def test_an_unknown_architecture_is_refused():
    with pytest.raises(ModelFileError, match="architecture is 'lstm'; 'moving_frame'"):
        metadata_of(network(4, 8), "lstm")


@pytest.mark.parametrize("bad", [-1, 2.0, "5", True, [1]])
def test_points_to_replay_are_counted_from_zero_up(bad):
    metadata = metadata_of(network(4, 8))
    text = metadata.to_json()
    assert '"replay_points": null' in text
    for good in (0, 7, None):
        known = ModelMetadata.from_json(
            metadata_of(network(4, 8), replay_points=good).to_json()
        )
        assert known.replay_points == good
    with pytest.raises(
        ModelFileError, match=f"replay_points is {bad!r}; give".replace("[", r"\[")
    ):
        metadata_of(network(4, 8), replay_points=bad)


# Networks of others


class Transposed(nn.Module):
    """Straight on, laid out in memory by components."""

    @torch.jit.export
    def init_state(self, n: int) -> Tensor:
        return torch.zeros(1, n, 1)

    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return direction.t().contiguous().t(), state


class Double(Transposed):
    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return direction.double(), state


def test_answers_may_lie_in_memory_as_they_like(tmp_path, random_frames):
    path = tmp_path / "model.pt"
    save_model(Transposed(), ModelMetadata("raw", 3, "voxel", 1, 1), path)
    features = sampling.raw_features(np.ones((*SHAPE, 3)))
    propagator = Predictor(features, load_model(path), np.eye(3), 60.0, 1)
    given = random_frames(20)
    tangents, reasons = propagator.turn(np.ones((20, 3)), given, propagator.states(20))
    assert_allclose(tangents, given[:, 2], atol=1e-6)
    assert not reasons.any()


def test_answers_of_another_type_break_the_contract(tmp_path):
    with pytest.raises(ModelFileError, match="float64"):
        save_model(
            Double(), ModelMetadata("raw", 3, "voxel", 1, 1), tmp_path / "model.pt"
        )
