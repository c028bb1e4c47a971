"""The kernel of the moving-frame network, against its module in torch."""

from itertools import product

from archives import assert_refused, write
from networks import COEFFS, SHAPE, metadata_of, network, random_path, random_volume
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
)
from dipy_rnn.model._moving_frame import CompiledMovingFrameGRU
from dipy_rnn.model.moving_frame import FrameConstants
from dipy_rnn.sampling import DATA, EMPTY, OUTSIDE

HANDEDNESS = [1.0, -1.0]


def compiled(module):
    weights = {name: w.numpy() for name, w in module.state_dict().items()}
    return CompiledMovingFrameGRU(
        weights,
        FrameConstants.of(module.order),
        len(module.deeper),
        module.layers,
        module.hidden,
    )


def step(kernel, volume, points, frames, state, handedness=1.0):
    """Run a kernel for one step; return its directions and the status of the points."""
    order = sampling.sh_order(volume.shape[3])
    directions = np.full((len(points), 3), np.nan, np.float32)
    status = np.full(len(points), 9, np.uint8)
    kernel.next_directions(
        volume,
        order,
        sampling.quarter_turns(order),
        points,
        frames,
        handedness,
        state,
        directions,
        status,
    )
    return directions, status


def walk(kernel, volume, points, frames, handedness=1.0):
    """Run a kernel for T steps of n streamlines, from fresh states.

    Return directions (T, n, 3), status (T, n), and the last state (L, n, H).
    """
    n = points.shape[1]
    state = kernel.init_state(n)
    steps = [
        step(kernel, volume, here, frame, state, handedness)
        for here, frame in zip(points, frames, strict=True)
    ]
    directions, status = map(np.array, zip(*steps))
    rows = state.transpose(1, 0, 3, 2).reshape(kernel.layers, -1, kernel.hidden)
    return directions, status, rows[:, :n]


@torch.no_grad()
def expected_walk(module, volume, points, frames, handedness=1.0):
    """As :func:`walk`, with the module in torch and sampling.sample."""
    state, directions, status = module.init_state(points.shape[1]), [], []
    for here, frame in zip(points, frames, strict=True):
        features, inside = sampling.sample(
            volume, here, frame, handedness=handedness, normalise=True
        )
        filled = features.any(axis=1)
        ahead = torch.tensor([[0.0, 0.0, 1.0]]).repeat(len(here), 1)
        direction, state = module(torch.from_numpy(features), ahead, state)
        directions.append(direction.numpy())
        status.append(np.where(inside, np.where(filled, DATA, EMPTY), OUTSIDE))
    return np.array(directions), np.array(status), state.numpy()


# Against the module


@pytest.mark.parametrize("handedness", HANDEDNESS)
@pytest.mark.parametrize("order", COEFFS)
def test_directions_and_states_are_those_of_the_module(
    random_frames, order, handedness
):
    volume = random_volume(order)
    points, frames = random_path(random_frames, 21, handedness=handedness)
    points[1, 3], points[2, 20] = 99.0, -0.2  # outside, and in an empty voxel
    for hidden, layers, depth in product((8, 12, 33), (1, 2, 3), (0, 1, 2, 3)):
        module = network(order, hidden, layers, depth)
        arguments = volume, points, frames, handedness
        directions, status, state = walk(compiled(module), *arguments)
        expected, expected_status, expected_state = expected_walk(module, *arguments)
        assert_allclose(directions, expected, atol=1e-5)
        assert_allclose(state, expected_state, atol=1e-5)
        assert_array_equal(status, expected_status)
        assert status[1, 3] == OUTSIDE and status[2, 20] == EMPTY
        # States and directions vary, so that the comparison means something.
        assert np.ptp(state, axis=1).min() > 1e-3
        assert np.ptp(directions[..., 2]) > 0.05


def test_with_a_head_of_zeros_the_direction_is_newtons_step(lobes):
    # Lobes of the width that the slopes assume, at 0 and at 1 degree from straight on.
    module = MovingFrameGRU(8, hidden=8)
    peaks = np.array([[np.sin(a), 0.0, np.cos(a)] for a in np.deg2rad([0.0, 1.0])])
    volume = lobes(peaks).astype(np.float32).reshape(2, 1, 1, 45)
    points, frames = np.eye(3)[:1] * np.arange(2.0)[:, None], np.tile(np.eye(3), (2, 1))
    kernel = compiled(module)
    directions, _ = step(
        kernel, volume, points, frames.reshape(2, 3, 3), kernel.init_state(2)
    )
    assert_array_equal(directions[0], [0.0, 0.0, 1.0])
    assert_allclose(directions[1], peaks[1], atol=1e-4)


def test_saturated_gates_stay_finite(random_frames):
    module = network(8, 33, 3, 2, gain=100.0)
    volume, (points, frames) = random_volume(), random_path(random_frames, 40)
    directions, _, state = walk(compiled(module), volume, points, frames)
    assert_allclose(np.linalg.norm(directions, axis=2), 1, rtol=1e-6)
    assert np.abs(state).max() <= 1
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
    whole = walk(kernel, volume, points, frames)
    directions, status, state = whole
    assert (status == DATA).all()
    assert np.isnan(directions[1:, 5]).all() and np.isnan(state[:, 5]).all()
    rest = np.arange(18) != 5
    assert np.isfinite(directions[:, rest]).all() and np.isfinite(state[:, rest]).all()
    points[1, 5] = 1.0
    for with_it, without_it in zip(
        whole, walk(kernel, volume, points, frames), strict=True
    ):
        assert_array_equal(with_it[:, rest], without_it[:, rest])


def test_the_status_says_whether_a_point_is_outside_empty_or_data(random_frames):
    kernel, volume = compiled(network()), random_volume()
    points = np.array(
        [[0, 0, 0], [0, 0, 0.5], [-0.51, 0, 0], [3.5, 0, 0], [np.nan, 0, 0], [3, 2, 4]]
    )
    _, frames = random_path(random_frames, 6, 1)
    directions, status = step(kernel, volume, points, frames[0], kernel.init_state(6))
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
    for n, n_blocks in ((0, 0), (1, 1), (16, 1), (17, 2)):
        state = kernel.init_state(n)
        assert state.shape == (n_blocks, 2, 12, 16) and state.dtype == np.float32
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


def test_only_networks_of_the_moving_frame_run_as_kernels(
    tmp_path,
):
    for name in shipped_models():
        model = load_model(name)
        has_kernel = model.metadata.architecture == "moving_frame"
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
    for device, channels in (("cpu", 15), ("cuda", 45)):
        # The module stays on the CPU, as it is not called.
        model = Model(module, metadata_of(module), torch.device(device), "model")
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
def test_parameters_of_another_network_are_refused_by_name(
    tmp_path, module, changes, named
):
    metadata = metadata_of(module, **changes)
    assert_file_refused(tmp_path / "model.pt", module, metadata, named)


class Backwards(MovingFrameGRU):
    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        invariants, vectors = self.invariants(features)
        factors, state = self.core(invariants, state)
        return -self.to_direction(factors, vectors), state


class Rectified(MovingFrameGRU):
    def embed(self, invariants: Tensor) -> Tensor:
        return torch.relu(self.input(invariants))


class Forgetful(MovingFrameGRU):
    def forward(
        self, features: Tensor, direction: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        invariants, vectors = self.invariants(features)
        factors, state = self.core(invariants, 0.0 * state)
        return self.to_direction(factors, vectors), state


@pytest.mark.parametrize("kind", [Backwards, Rectified, Forgetful])
def test_directions_of_another_network_are_refused(tmp_path, kind):
    module = network(4, 8, kind=kind)
    path = tmp_path / "model.pt"
    assert_file_refused(path, module, metadata_of(module), "directions differ")
    # Without the name of the architecture it is a valid model.
    save_model(module, metadata_of(module, ""), path)
    assert load_model(path).compiled is None
