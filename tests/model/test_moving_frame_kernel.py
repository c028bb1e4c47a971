"""The kernel of the moving-frame network, against its module in torch."""

from itertools import cycle, product

from archives import assert_refused, write
from networks import (
    COEFFS,
    SHAPE,
    metadata_of,
    network,
    random_path,
    random_points,
    random_volume,
)
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
import torch
from torch import Tensor, nn

from dipy_rnn import sampling
from dipy_rnn.model import (
    Cai2023,
    Model,
    MovingFrameGRU,
    as_model,
    load_model,
    save_model,
    shipped_models,
    stack_inputs,
)
from dipy_rnn.model.architectures import FrameConstants
from dipy_rnn.model.kernels._moving_frame import CompiledMovingFrameGRU
from dipy_rnn.model.torchscript import ScriptedNetwork
from dipy_rnn.sampling import DATA, EMPTY, NOTHING_AHEAD, OUTSIDE, cone_of

HANDEDNESS = [1.0, -1.0]
# Conditions of runs: step in voxel edges, angle of the cone, pmf_threshold.
RUN = 0.5, 60.0, 0.1
RUNS = [(0.2, 15.0, 0.0), (0.25, 30.0, 0.1), (1.0, 60.0, 0.5), (2.5, 90.0, 0.9)]


def compiled(module):
    weights = {name: w.numpy() for name, w in module.state_dict().items()}
    return CompiledMovingFrameGRU(
        weights,
        FrameConstants.of(module.order),
        len(module.deeper),
        module.layers,
        module.hidden,
    )


def step(kernel, volume, points, frames, state, handedness=1.0, run=RUN):
    """Run a kernel for one step; return its directions and the status of the points."""
    order = sampling.sh_order(volume.shape[3])
    step_vox, angle_deg, pmf_threshold = run
    cone = cone_of(order, angle_deg)
    directions = np.full((len(points), 3), np.nan, np.float32)
    status = np.full(len(points), 9, np.uint8)
    kernel.next_directions(
        kernel.prepare(
            *(volume, handedness, cone),
            *(step_vox, angle_deg, pmf_threshold, (1.0, 1.0, 1.0)),
        ),
        points,
        frames,
        state,
        directions,
        status,
    )
    return directions, status


def walk(kernel, volume, points, frames, handedness=1.0, run=RUN):
    """Run a kernel for T steps of n streamlines, from fresh states.

    Return directions (T, n, 3), status (T, n), and the last state (L, n, H).
    """
    n = points.shape[1]
    state = kernel.init_state(n)
    steps = [
        step(kernel, volume, here, frame, state, handedness, run)
        for here, frame in zip(points, frames, strict=True)
    ]
    directions, status = map(np.array, zip(*steps))
    rows = state.transpose(1, 0, 3, 2).reshape(kernel.layers, -1, kernel.hidden)
    return directions, status, rows[:, :n]


def seen_ahead(volume, points, frames, handedness=1.0, run=RUN):
    """Return features (n, C), ``ahead`` (n, 3) and status, as the reference does."""
    features, inside = sampling.sample(
        volume, points, frames, handedness=handedness, normalise=True
    )
    cone = cone_of(sampling.sh_order(volume.shape[3]), run[1])
    ahead, found = cone.largest(features, run[2])
    status = np.where(found, DATA, NOTHING_AHEAD)
    status[~features.any(axis=1)] = EMPTY
    status[~inside] = OUTSIDE
    return features, ahead, status


@torch.no_grad()
def expected_walk(module, volume, points, frames, handedness=1.0, run=RUN):
    """As :func:`walk`, with the module in torch, sampling.sample and Cone.largest."""
    state, directions, every_status = module.init_state(points.shape[1]), [], []
    tangents = torch.tensor([[0.0, 0.0, 1.0]]).repeat(points.shape[1], 1)
    for here, frame in zip(points, frames, strict=True):
        features, ahead, status = seen_ahead(volume, here, frame, handedness, run)
        values = {"step_vox": run[0], "max_angle_deg": run[1], "ahead": ahead}
        inputs = torch.from_numpy(stack_inputs(module.inputs, values, len(here)))
        seen = torch.from_numpy(features)
        direction, state = module(seen, tangents, state, inputs)
        directions.append(direction.numpy())
        every_status.append(status)
    return np.array(directions), np.array(every_status), state.numpy()


# Against the module


@pytest.mark.parametrize("handedness", HANDEDNESS)
@pytest.mark.parametrize("order", COEFFS)
def test_directions_and_states_are_those_of_the_module(
    random_frames, order, handedness
):
    volume = random_volume(order)
    points, frames = random_path(random_frames, 21, handedness=handedness)
    points[1, 3], points[2, 20] = 99.0, -0.2  # outside, and in an empty voxel
    runs = cycle(RUNS)
    for depth, layers, hidden in product((0, 1, 2, 3), (1, 2, 3), (8, 12, 33)):
        module = network(order, hidden, layers, depth)
        arguments = volume, points, frames, handedness, next(runs)
        directions, status, state = walk(compiled(module), *arguments)
        expected, expected_status, expected_state = expected_walk(module, *arguments)
        assert_allclose(directions, expected, atol=2e-5)
        assert_allclose(state, expected_state, atol=1e-5)
        assert_array_equal(status, expected_status)
        assert status[1, 3] == OUTSIDE and status[2, 20] == EMPTY
        # States and directions vary, so that the comparison means something.
        assert np.ptp(state, axis=1).min() > 1e-3
        assert np.ptp(directions[..., 2]) > 0.05


@pytest.mark.parametrize("handedness", HANDEDNESS)
@pytest.mark.parametrize("order", COEFFS)
def test_an_untrained_kernel_returns_the_direction_of_the_largest_value_in_the_cone(
    random_frames, order, handedness
):
    kernel, volume = compiled(MovingFrameGRU(order, hidden=8)), random_volume(order)
    points, frames = random_points(300), random_frames(300, handedness)
    points[3], points[20] = 99.0, -0.2
    kinds = set()
    for angle_deg, pmf_threshold in product(
        (1e-3, 1.0, 15.0, 30.0, 60.0, 90.0), (0.0, 0.1, 0.9)
    ):
        arguments = handedness, (0.5, angle_deg, pmf_threshold)
        directions, status = step(
            kernel, volume, points, frames, kernel.init_state(300), *arguments
        )
        _, ahead, expected = seen_ahead(volume, points, frames, *arguments)
        # Where two vertices have almost the same value, rounding decides.
        assert np.mean(np.abs(directions - ahead).max(axis=1) < 1e-4) > 0.99
        assert np.mean(status == expected) > 0.99
        assert status[3] == OUTSIDE and status[20] == EMPTY
        assert directions[:, 2].min() > np.cos(np.deg2rad(angle_deg)) - 1e-6
        kinds |= set(status)
    assert kinds == {OUTSIDE, EMPTY, NOTHING_AHEAD, DATA}


def test_nothing_is_ahead_if_the_lobe_is_not_in_the_cone(lobes):
    # Lobes at 0, 1, 40 and 90 degrees from the tangent.
    kernel = compiled(MovingFrameGRU(8, hidden=8))
    turns = np.deg2rad([0.0, 1.0, 40.0, 90.0])
    peaks = np.array([[np.sin(a), 0.0, np.cos(a)] for a in turns])
    volume = lobes(peaks).astype(np.float32).reshape(4, 1, 1, 45)
    points, frames = np.eye(3)[:1] * np.arange(4.0)[:, None], np.tile(np.eye(3), (4, 1))
    for angle_deg, pmf_threshold, found in (
        (15.0, 0.1, [True, True, False, False]),
        (30.0, 0.1, [True, True, True, False]),
        (30.0, 0.9, [True, True, False, False]),
        (60.0, 0.9, [True, True, True, False]),
        (90.0, 0.9, [True, True, True, True]),
    ):
        run = 0.5, angle_deg, pmf_threshold
        directions, status = step(
            *(kernel, volume, points, frames.reshape(4, 3, 3), kernel.init_state(4)),
            run=run,
        )
        assert status.tolist() == [DATA if f else NOTHING_AHEAD for f in found]
        assert_allclose(directions[0], [0.0, 0.0, 1.0], atol=1e-6)
        assert_allclose(directions[1], peaks[1], atol=2e-4)


def test_the_step_size_and_the_angle_change_directions_and_states(random_frames):
    kernel, volume = compiled(network()), random_volume()
    points, frames = random_path(random_frames, 20)
    results = []
    for run in (RUN, (0.25, *RUN[1:]), (RUN[0], 30.0, RUN[2])):
        directions, _, state = walk(kernel, volume, points, frames, run=run)
        results.append((directions, state))
    for one, other in ((0, 1), (0, 2)):
        for values, others in zip(results[one], results[other], strict=True):
            assert np.abs(values - others).max() > 1e-3
    # The threshold changes the status only.
    directions, _, state = walk(kernel, volume, points, frames, run=(*RUN[:2], 0.9))
    assert_array_equal(directions, results[0][0])
    assert_array_equal(state, results[0][1])


def test_saturated_gates_stay_finite(random_frames):
    module = network(8, 33, 3, 2, gain=100.0)
    volume, (points, frames) = random_volume(), random_path(random_frames, 40)
    directions, _, state = walk(compiled(module), volume, points, frames)
    assert_allclose(np.linalg.norm(directions, axis=2), 1, rtol=1e-6)
    assert np.abs(state).max() <= 1 + 1e-6
    _, _, expected_state = expected_walk(module, volume, points, frames)
    # Almost all gates are 0 or 1, as in torch. A few are in between, and differ.
    assert np.mean(np.abs(state - expected_state) < 1e-3) > 0.95
    for gain in (1e6, 1e9):
        directions, _, state = walk(
            compiled(network(8, 33, 3, 2, gain=gain)), volume, points, frames
        )
        assert not np.isnan(state).any()


def test_a_volume_of_a_lower_order_acts_like_one_padded_with_zeros(random_frames):
    points, frames = random_path(random_frames, 40)
    for order, low in ((8, 4), (8, 6), (6, 4)):
        kernel, volume = compiled(network(order)), random_volume(low)
        padded = sampling.with_order(volume, order)
        directions, status, state = walk(kernel, volume, points, frames)
        expected, expected_status, expected_state = walk(kernel, padded, points, frames)
        assert_allclose(directions, expected, atol=2e-6)
        assert_allclose(state, expected_state, atol=2e-6)
        assert_array_equal(status, expected_status)


# Lanes


def test_a_streamline_is_the_same_in_any_lane_and_among_any_number(random_frames):
    kernel, volume = compiled(network(8, 33, 2)), random_volume()
    points, frames = random_path(random_frames, 50)
    points[1, 7], points[2, 40] = 99.0, -0.2
    expected = walk(kernel, volume, points, frames)
    rng = np.random.default_rng(0)
    for n in (1, 1, 2, 15, 16, 17, 31, 32, 33, 50):
        rows = rng.permutation(50)[:n]
        some = walk(
            kernel,
            volume,
            np.ascontiguousarray(points[:, rows]),
            np.ascontiguousarray(frames[:, rows]),
        )
        for whole, part in zip(expected, some, strict=True):
            assert_array_equal(part, whole[:, rows])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_stay_in_their_lane(random_frames, bad):
    kernel, volume = compiled(network(8, 12, 2)), random_volume()
    volume[3, 2, 4, 7] = bad
    points, frames = random_path(random_frames, 18)
    # All points are away from that voxel, except for one row in one step.
    points *= 0.5
    points[1, 5] = 3.2, 1.9, 4.1
    whole = walk(kernel, volume, points, frames, run=(0.5, 90.0, 0.0))
    directions, status, state = whole
    # A value that is not a number is not above the threshold.
    assert status[1, 5] == NOTHING_AHEAD
    assert np.isnan(directions[1:, 5]).all() and np.isnan(state[:, 5]).all()
    rest = np.arange(18) != 5
    assert np.isfinite(directions[:, rest]).all() and np.isfinite(state[:, rest]).all()
    points[1, 5] = 1.0
    without = walk(kernel, volume, points, frames, run=(0.5, 90.0, 0.0))
    for with_it, without_it in zip(whole, without, strict=True):
        assert_array_equal(with_it[:, rest], without_it[:, rest])


def test_the_status_says_whether_a_point_is_outside_empty_or_data(random_frames):
    kernel, volume = compiled(network()), random_volume()
    points = np.array(
        [[0, 0, 0], [0, 0, 0.5], [-0.51, 0, 0], [3.5, 0, 0], [np.nan, 0, 0], [3, 2, 4]]
    )
    _, frames = random_path(random_frames, 6, 1)
    directions, status = step(
        *(kernel, volume, points, frames[0], kernel.init_state(6)), run=(0.5, 90.0, 0.0)
    )
    assert status.tolist() == [EMPTY, DATA, OUTSIDE, OUTSIDE, OUTSIDE, DATA]
    assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-6)
    # Outside points act like empty voxels: both give zeros.
    assert_array_equal(directions[[0, 0, 0]], directions[2:5])


def test_the_scale_of_the_volume_has_no_effect(random_frames):
    kernel, volume = compiled(network()), random_volume()
    points, frames = random_path(random_frames, 30)
    expected, _, _ = walk(kernel, volume, points, frames)
    for scale in (1e-6, 1e6):
        scaled = (volume * scale).astype(np.float32)
        directions, _, _ = walk(kernel, scaled, points, frames)
        assert_allclose(directions, expected, atol=1e-5)


# States and models


def test_fresh_states_are_zeros_in_whole_blocks():
    kernel = compiled(network(8, 12, 2))
    for n, n_blocks in ((0, 0), (1, 1), (32, 1), (33, 2)):
        state = kernel.init_state(n)
        assert state.shape == (n_blocks, 2, 12, 32) and state.dtype == np.float32
        assert not state.any()
    assert (kernel.depth, kernel.layers, kernel.hidden) == (2, 2, 12)


def test_training_after_compiling_does_not_change_the_kernel(random_frames):
    module = network()
    model = as_model(module, metadata_of(module))
    volume, (points, frames) = random_volume(), random_path(random_frames, 5)
    before = walk(model.compiled, volume, points, frames)[0]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert_array_equal(walk(model.compiled, volume, points, frames)[0], before)


def test_only_networks_in_the_moving_frame_run_as_kernels(
    tmp_path,
):
    for name in shipped_models():
        model = load_model(name)
        has_kernel = model.metadata.architecture in ("moving_frame", "context")
        assert (model.compiled is not None) == has_kernel
    module = network(8, 12, 2, 3)
    path = tmp_path / "model.pt"
    for architecture in ("moving_frame", ""):
        save_model(module, metadata_of(module, architecture), path)
        assert (load_model(path).compiled is None) == (architecture == "")
    cai = Cai2023(4, hidden=8)
    save_model(cai, metadata_of(cai, "cai2023", frame="voxel"), path)
    assert load_model(path).compiled is None


def test_on_another_device_there_is_no_kernel_and_features_are_padded():
    module = network()
    volume = sampling.FeatureVolume(random_volume(4), "sh")
    script = ScriptedNetwork.of(module)
    for device, channels in (("cpu", 15), ("cuda", 45)):
        # The module stays on the CPU, as it is not called.
        model = Model(metadata_of(module), "model", script, device)
        assert (model.compiled is None) == (device == "cuda")
        assert model.features(volume).shape == (*SHAPE, channels)


# Archives whose network is not the one that the metadata name


def assert_file_refused(path, module, metadata, message):
    """Check that an archive is refused, and that its architecture is named."""
    write(path, module, metadata)
    message = f"its architecture is 'moving_frame', but its .*{message}"
    assert_refused(lambda: load_model(path), message, path)


class AnotherHead(MovingFrameGRU):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.head = nn.Linear(self.hidden, 2 * self.n_vectors)


class NoBias(MovingFrameGRU):
    def __init__(self, *shape):
        super().__init__(*shape)
        for cell in self.gru:
            cell.from_state = nn.Linear(self.hidden, 3 * self.hidden, bias=False)


@pytest.mark.parametrize(
    ("module", "changes", "named"),
    [
        (network(4, 8), {"hidden": 9}, "input.weight is float32 of shape"),
        (network(4, 8), {"channels": 28}, "input.weight is float32 of shape"),
        (network(4, 8), {"layers": 2}, "gru.1.from_input.weight"),
        (network(4, 8, kind=AnotherHead), {}, "head.weight is .* float32 of shape"),
        (network(4, 8, kind=NoBias), {}, "gru.0.from_state.bias"),
        (network(4, 8).double(), {}, "input.weight is float64"),
        (network(4, 8).half(), {}, "input.weight is float16"),
        (Cai2023(4, 8), {"inputs": MovingFrameGRU.inputs}, "input.weight"),
    ],
    ids=[
        "width",
        "order",
        "layers",
        "head",
        "no-bias",
        "double",
        "half",
        "another-architecture",
    ],
)
def test_parameters_of_another_network_are_refused_by_name(
    tmp_path, module, changes, named
):
    metadata = metadata_of(module, **changes)
    assert_file_refused(tmp_path / "model.pt", module, metadata, named)


def test_parameters_of_a_type_that_numpy_does_not_have_are_refused_by_name(tmp_path):
    module = network(4, 8).bfloat16()
    metadata, message = metadata_of(module), "input.weight is torch.bfloat16, not float"
    path = write(tmp_path / "model.pt", module, metadata)
    assert_refused(lambda: load_model(path), message, path)
    assert_refused(lambda: as_model(module, metadata), message)


class Altered(MovingFrameGRU):
    """Its direction has a sign, and its state and its inputs have factors."""

    sign: float
    kept: float

    def __init__(self, *shape):
        super().__init__(*shape)
        self.sign, self.kept = 1.0, 1.0
        self.register_buffer("of_inputs", torch.ones(5), persistent=False)

    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor, inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        inputs = inputs * self.of_inputs
        encoded, vectors = self.encode(features, direction, inputs)
        states: list[Tensor] = []
        memory = encoded
        for k, layer in enumerate(self.gru):
            kept = self.kept * state[k]
            memory = layer(layer.from_input(memory), kept, inputs[:, :1])
            states.append(memory)
        answer = self.decode(encoded, memory, vectors)
        return self.sign * answer, torch.stack(states)


class Backwards(Altered):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.sign = -1.0


class Forgetful(Altered):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.kept = 0.0


class OfAnotherStep(Altered):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.of_inputs[0] = 0.5


class OfAnotherAngle(Altered):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.of_inputs[1] = 0.5


class OfAnotherDirectionAhead(Altered):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.of_inputs[2:4] = -1.0


class Rectified(MovingFrameGRU):
    def encode(
        self, features: Tensor, direction: Tensor, inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        invariants, vectors = self.invariants(features, inputs)
        return torch.relu(self.input(invariants)), vectors


def test_a_network_that_is_not_altered_is_accepted(tmp_path):
    module = network(4, 8, kind=Altered)
    path = write(tmp_path / "model.pt", module, metadata_of(module))
    assert load_model(path).compiled is not None


@pytest.mark.parametrize(
    "kind",
    [
        Backwards,
        Rectified,
        Forgetful,
        OfAnotherStep,
        OfAnotherAngle,
        OfAnotherDirectionAhead,
    ],
)
def test_directions_of_another_network_are_refused(tmp_path, kind):
    module = network(4, 8, kind=kind)
    path = tmp_path / "model.pt"
    assert_file_refused(path, module, metadata_of(module), "directions differ")
    # Without the name of the architecture it is a valid model.
    save_model(module, metadata_of(module, ""), path)
    assert load_model(path).compiled is None
