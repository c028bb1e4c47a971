"""Networks, against steps computed by hand and rotations that must have no effect."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
import torch

from dipy_rnn import sampling
from dipy_rnn.model import (
    ARCHITECTURES,
    NETWORKS,
    Cai2023,
    ModelMetadata,
    MovingFrameGRU,
    architecture_of,
    stack_inputs,
    untrained,
)
from dipy_rnn.model.architectures.moving_frame import RATE_LIMIT, newton_slopes
from dipy_rnn.model.networks.distance_gru import DistanceGRU
from dipy_rnn.training.sequences import Batch
from dipy_rnn.training.state import predict

every_network = pytest.mark.parametrize(
    "build",
    [
        lambda: MovingFrameGRU(order=4, hidden=8),
        lambda: MovingFrameGRU(order=4, hidden=8, layers=2),
        lambda: Cai2023(order=4, hidden=16),
    ],
    ids=["moving_frame", "moving_frame, 2 layers", "cai2023"],
)


def randomised(module, seed=0):
    """Set every weight of a module to a random value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def random_rows(n, channels=15, seed=0):
    """Return unit features and unit directions."""
    generator = torch.Generator().manual_seed(seed)
    rows = (torch.randn(n, c, generator=generator) for c in (channels, 3))
    return tuple(torch.nn.functional.normalize(r, dim=1) for r in rows)


def tangents(n):
    """Return n directions straight ahead."""
    return torch.tensor([[0.0, 0.0, 1.0]]).repeat(n, 1)


def declared(module, ahead, step_vox=0.5, max_angle_deg=60.0):
    """Return the declared inputs of a module for directions ``ahead`` (n, 3)."""
    values = {
        "step_vox": step_vox,
        "max_angle_deg": max_angle_deg,
        "ahead": np.asarray(ahead),
    }
    return torch.from_numpy(stack_inputs(module.inputs, values, len(ahead)))


def random_step(module, n, seed=0):
    """Return random features, directions and declared inputs of a module."""
    channels = (module.order + 1) * (module.order + 2) // 2
    features, directions = random_rows(n, channels, seed)
    # Directions ahead are in a cone of 60 degrees, and differ from the incoming ones.
    ahead = random_rows(n, 1, seed + 100)[1] + 2 * tangents(n)
    steps = 0.1 + random_rows(n, 1, seed + 200)[1][:, :1].abs()
    ahead = torch.nn.functional.normalize(ahead, dim=1)
    return features, directions, declared(module, ahead, steps)


def random_walk(module, n, n_steps=4):
    """As :func:`random_step`, for sequences: (T, n, C), (T, n, 3) and (T, n, W)."""
    steps = [random_step(module, n, seed) for seed in range(n_steps)]
    return tuple(map(torch.stack, zip(*steps, strict=True)))


def normalised(coeffs):
    """Return rows of unit power as a tensor."""
    coeffs = np.asarray(coeffs, np.float32)
    return torch.from_numpy(coeffs / np.linalg.norm(coeffs, axis=1, keepdims=True))


@torch.no_grad()
def walk(module, features, directions, inputs):
    """Step through sequences (T, n, C) point by point; return directions (T, n, 3)."""
    state, returned = module.init_state(features.shape[1]), []
    for row, incoming, of_run in zip(features, directions, inputs, strict=True):
        direction, state = module(row, incoming, state, of_run)
        returned.append(direction)
    return torch.stack(returned)


# The contract


@every_network
def test_a_fresh_state_is_zeros_and_directions_are_unit_vectors(build):
    module = randomised(build())
    state = module.init_state(5)
    assert state.shape == (module.layers, 5, module.hidden)
    assert not state.any()
    with torch.no_grad():
        features, directions, inputs = random_step(module, 5)
        direction, after = module(features, directions, state, inputs)
    assert direction.shape == (5, 3) and direction.dtype == torch.float32
    assert after.shape == state.shape and after.abs().min() > 0
    assert_allclose(direction.norm(dim=1), 1, rtol=1e-5)


@every_network
def test_the_state_that_is_given_is_used_and_not_changed(build):
    module = randomised(build())
    state = torch.rand_like(module.init_state(3))
    before = state.clone()
    features, directions, inputs = random_step(module, 3)
    with torch.no_grad():
        first, _ = module(features, directions, state, inputs)
        again, _ = module(features, directions, state, inputs)
        other, _ = module(features, directions, module.init_state(3), inputs)
    assert_array_equal(state, before)
    assert_array_equal(first, again)
    assert not np.allclose(first, other, atol=1e-3)


@every_network
def test_a_row_does_not_depend_on_the_other_rows(build):
    module = randomised(build())
    steps = random_walk(module, 6)
    together = walk(module, *steps)
    for i in range(6):
        alone = walk(module, *(values[:, i : i + 1] for values in steps))
        assert_allclose(alone[:, 0], together[:, i], atol=1e-5)


@every_network
def test_packed_sequences_give_the_same_directions_as_point_by_point(build):
    module = randomised(build())
    lengths = [4, 3, 1]
    features, directions, inputs = random_walk(module, 3)
    alive = torch.tensor([[t < n for n in lengths] for t in range(4)])
    batch = Batch(
        features[alive],
        directions[alive],
        inputs[alive],
        directions[alive],
        torch.tensor([lengths] * 4)[alive],
        alive.sum(dim=1),
    )
    assert batch.batch_sizes.tolist() == [3, 2, 2, 1]
    with torch.no_grad():
        packed = predict(module, batch)
    expected = walk(module, features, directions, inputs)[alive]
    assert_allclose(packed, expected, atol=1e-5)


@every_network
def test_a_scripted_network_gives_the_same_directions(build):
    module = randomised(build())
    scripted = torch.jit.script(module)
    steps = random_walk(module, 3)
    assert_allclose(walk(scripted, *steps), walk(module, *steps), atol=1e-6)


# The moving frame


def test_directions_rotate_with_the_roll_of_the_frame_at_every_step():
    module = randomised(MovingFrameGRU(order=8, hidden=16, layers=2))
    rng = np.random.default_rng(0)
    n, n_steps = 20, 5
    coeffs = rng.normal(size=(n_steps * n, 45))
    roll = rng.uniform(0, 2 * np.pi, n_steps * n)
    c, s, zero = np.cos(roll), np.sin(roll), np.zeros_like(roll)
    frames = np.array([[c, s, zero], [-s, c, zero], [zero, zero, zero + 1]])
    frames = np.ascontiguousarray(np.moveaxis(frames, 2, 0))
    features = normalised(coeffs).reshape(n_steps, n, 45)
    rolled = normalised(sampling.rotate(coeffs, frames)).reshape(n_steps, n, 45)
    up = tangents(n).expand(n_steps, n, 3)
    ahead = random_walk(module, n, n_steps)[2][..., 2:].reshape(-1, 3)
    turned = np.einsum("nij,nj->ni", frames, ahead)
    inputs, of_rolled = (
        declared(module, rows).reshape(n_steps, n, 5) for rows in (ahead, turned)
    )
    answers = walk(module, features, up, inputs).reshape(-1, 3).numpy()
    expected = np.einsum("nij,nj->ni", frames, answers)
    directions = walk(module, rolled, up, of_rolled).reshape(-1, 3).numpy()
    assert np.abs(expected[:, :2]).max() > 0.1
    assert_allclose(directions, expected, atol=1e-4)


def test_ahead_alone_turns_the_direction_with_it():
    # The same features, symmetric about the tangent: only ``ahead`` has an azimuth.
    module = randomised(MovingFrameGRU(order=4, hidden=16))
    n = 12
    features = torch.zeros(n, 15)
    features[:, [0, 3, 10]] = torch.tensor([0.4, 0.6, 0.7])
    turn = torch.arange(n) * 2 * np.pi / n
    ahead = torch.stack([0.6 * turn.cos(), 0.6 * turn.sin(), 0.8 + 0 * turn], dim=1)
    with torch.no_grad():
        directions, _ = module(
            features, tangents(n), module.init_state(n), declared(module, ahead)
        )
    x, y, z = directions.double()[:, :3].T
    assert_allclose(z, z[:1].expand(n), atol=1e-6)
    pointing = torch.complex(x, y) * torch.exp(-1j * turn.double())
    assert_allclose(pointing, pointing[:1].expand(n), atol=1e-6)
    assert abs(pointing[0]) > 0.05


@pytest.mark.parametrize("order", [4, 6, 8])
@pytest.mark.parametrize("layers", [1, 2])
def test_an_untrained_network_returns_ahead_for_any_features(order, layers):
    module = MovingFrameGRU(order=order, hidden=8, layers=layers)
    features, directions, inputs = random_walk(module, 30)
    features = 100.0 * features
    answers = walk(module, features, directions, inputs)
    assert_allclose(answers, inputs[..., 2:], atol=1e-6)
    inputs[..., 2:] = tangents(30)
    assert_array_equal(walk(module, features, directions, inputs), inputs[..., 2:])


def test_newton_slopes_turn_the_coefficients_of_a_tilted_lobe_into_its_angle(lobes):
    # The coefficients of m = 1 (along x) of a lobe of unit power.
    for order in (4, 8):
        peak = [np.sin(0.001), 0, np.cos(0.001)]
        tilted = normalised(lobes([peak], order))[0].numpy()
        ls = np.arange(2, order + 1, 2)
        slopes = tilted[ls * (ls + 1) // 2 + 1]
        assert_allclose(slopes @ newton_slopes(order), 0.001, rtol=1e-3)


@pytest.mark.parametrize("seed", range(8))
def test_a_straight_bundle_is_tracked_straight_for_any_weights(seed):
    module = randomised(MovingFrameGRU(order=8, hidden=16), seed)
    # Symmetric about the tangent: the coefficients of m = +-1 are zero, and the largest
    # value is along the tangent.
    features = random_rows(40, 45, seed)[0].reshape(4, 10, 45).clone()
    for ll in (2, 4, 6, 8):
        middle = ll * (ll + 1) // 2
        features[..., [middle - 1, middle + 1]] = 0
    up = tangents(10).expand(4, 10, 3)
    inputs = declared(module, tangents(10)).expand(4, 10, 5)
    directions = walk(module, features, up, inputs)
    assert_array_equal(directions[..., :2], torch.zeros(4, 10, 2))
    # A direction straight back is moved into the cone.
    moved = sampling.into_cone(
        directions.reshape(-1, 3).double().numpy(), 0.5, 0.75**0.5
    )
    assert_array_equal(moved, up.reshape(-1, 3))


def test_a_lobe_along_the_tangent_is_tracked_straight_with_the_ahead_that_is_found(
    lobes,
):
    coeffs = normalised(lobes([0.0, 0.0, 1.0]).repeat(4, axis=0))
    for seed, angle_deg in enumerate((15.0, 30.0, 60.0, 90.0)):
        module = randomised(MovingFrameGRU(order=8, hidden=16), seed)
        ahead, found = sampling.cone_of(8, angle_deg).largest(coeffs.numpy(), 0.1)
        assert found.all()
        with torch.no_grad():
            directions, _ = module(
                *(coeffs, tangents(4), module.init_state(4)),
                declared(module, ahead, max_angle_deg=angle_deg),
            )
        assert_allclose(directions[:, :2], torch.zeros(4, 2), atol=1e-5)


def test_rounding_errors_at_a_peak_have_almost_no_effect():
    # At a peak, rounding errors determine the direction in which the fODF rises.
    module = randomised(MovingFrameGRU(order=8, hidden=16))
    features = random_rows(1, 45)[0].repeat(8, 1)
    turn = torch.arange(8) * np.pi / 4
    for ll in (2, 4, 6, 8):
        middle = ll * (ll + 1) // 2
        features[:, middle + 1] = 1e-5 * torch.cos(turn)
        features[:, middle - 1] = 1e-5 * torch.sin(turn)
    inputs = declared(module, tangents(8))
    with torch.no_grad():
        directions, state = module(features, tangents(8), module.init_state(8), inputs)
    assert_allclose(directions[:, :2], torch.zeros(8, 2), atol=1e-4)
    assert_allclose(state, state[:, :1].expand(state.shape), atol=1e-5)


def test_the_moving_frame_network_ignores_the_incoming_direction():
    module = randomised(MovingFrameGRU(order=4, hidden=8))
    features, directions, inputs = random_step(module, 4)
    with torch.no_grad():
        one, _ = module(features, directions, module.init_state(4), inputs)
        other, _ = module(features, tangents(4), module.init_state(4), inputs)
    assert_array_equal(one, other)


@pytest.mark.parametrize("column", range(5))
def test_every_declared_input_changes_the_direction(column):
    module = randomised(MovingFrameGRU(order=4, hidden=8))
    features, directions, inputs = random_walk(module, 4)
    before = walk(module, features, directions, inputs)
    inputs[..., column] *= 0.7
    assert not np.allclose(
        walk(module, features, directions, inputs), before, atol=1e-3
    )


def test_zero_features_with_ahead_along_the_tangent_give_a_straight_direction():
    module = randomised(MovingFrameGRU(order=4, hidden=8))
    inputs = declared(module, tangents(1))
    with torch.no_grad():
        direction, state = module(
            torch.zeros(1, 15), tangents(1), module.init_state(1), inputs
        )
    assert_array_equal(direction[:, :2], torch.zeros(1, 2))
    assert torch.isfinite(state).all()


# The memory


def cell_of(rate, candidate, hidden=4):
    """Return a cell whose rate and candidate are the same for any input and state."""
    cell = DistanceGRU(hidden)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.from_input.bias[hidden : 2 * hidden] = np.log(rate)
        cell.from_input.bias[2 * hidden :] = np.arctanh(candidate)
    return cell


@torch.no_grad()
def after_steps(cell, steps, state, seen=None):
    """Return the state of a cell after steps of given sizes with the same input."""
    seen = torch.zeros_like(state) if seen is None else seen
    for step in steps:
        state = cell(cell.from_input(seen), state, torch.full((len(state), 1), step))
    return state


def test_the_state_decays_towards_the_candidate_with_the_distance():
    # exp(-0.5 * 2 ln 2) = 1 / 2: half of the way from 1 to 0.2, then half of the rest.
    cell, state = cell_of(2 * np.log(2.0), 0.2), torch.ones(3, 4)
    for steps, expected in (
        ([0.5], 0.6),
        ([0.5, 0.5], 0.4),
        ([0.0], 1.0),
        ([50.0], 0.2),
    ):
        after = after_steps(cell, steps, state)
        assert_allclose(after, torch.full((3, 4), expected), rtol=1e-5)


@pytest.mark.parametrize("step", [0.1, 0.5, 2.0])
def test_two_half_steps_are_one_step_while_rate_and_candidate_are_constant(step):
    # The weights of the state are zero; rate and candidate follow from the input.
    cell = randomised(DistanceGRU(8))
    with torch.no_grad():
        cell.from_state.weight.zero_()
    state, seen = torch.rand(5, 8), random_rows(5, 8)[0]
    whole = after_steps(cell, [step], state, seen)
    assert not np.allclose(whole, state, atol=1e-2)
    assert_allclose(after_steps(cell, [step / 2] * 2, state, seen), whole, atol=1e-6)
    assert_allclose(after_steps(cell, [step / 8] * 8, state, seen), whole, atol=1e-6)


def test_gates_and_candidate_are_those_of_torchs_cell():
    # With log(rate * step) = log(-log(z)) the share z is that of torch's update gate.
    hidden, step = 6, 0.25
    cell, torchs = randomised(DistanceGRU(hidden)), torch.nn.GRUCell(hidden, hidden)
    with torch.no_grad():
        torchs.weight_ih.copy_(cell.from_input.weight)
        torchs.weight_hh.copy_(cell.from_state.weight)
        torchs.bias_ih.copy_(cell.from_input.bias)
        torchs.bias_hh.copy_(cell.from_state.bias)
        seen, state = random_rows(5, hidden)[0], torch.rand(5, hidden)
        sums = cell.from_input(seen) + cell.from_state(state)
        expected = torchs(seen, state)
        of_torch = torch.sigmoid(sums[:, hidden : 2 * hidden])
        candidate = (expected - of_torch * state) / (1 - of_torch)
        kept = torch.exp(-step * torch.exp(sums[:, hidden : 2 * hidden]))
    after = after_steps(cell, [step], state, seen)
    assert_allclose(after, candidate + kept * (state - candidate), atol=1e-5)


def test_a_rate_above_the_limit_forgets_all_and_stays_finite():
    assert RATE_LIMIT == 10.0
    with torch.no_grad():
        for size in (20.0, 1e4, 1e30):
            cell = cell_of(1.0, 0.2)
            cell.from_input.bias[4:8] = size
            state = torch.ones(1, 4).requires_grad_()
            after = cell(cell.from_input(state), state, torch.tensor([[1e-3]]))
            assert_allclose(after, torch.full((1, 4), 0.2), atol=1e-6)
            # exp(10) * 1e-5 = 0.22: the rate is limited.
            after = cell(cell.from_input(state), state, torch.tensor([[1e-5]]))
            share = np.exp(-1e-5 * np.exp(10.0))
            assert_allclose(after, torch.full((1, 4), 0.2 + 0.8 * share), rtol=1e-5)


def test_the_memory_of_the_network_depends_on_the_distance_and_not_on_the_steps():
    # Weights of the state are zero: along a straight, uniform bundle, the state after
    # 2 edges is the same for any step size.
    module = randomised(MovingFrameGRU(order=4, hidden=8, layers=2))
    with torch.no_grad():
        for cell in module.gru:
            cell.from_state.weight.zero_()
        module.input.weight[:, -8] = 0.0  # the step size is an invariant, too
        module.gru[1].from_input.weight.zero_()
        features, _, _ = random_step(module, 3)
        states = []
        for n_steps in (2, 4, 20):
            state = module.init_state(3)
            inputs = declared(module, tangents(3), step_vox=2.0 / n_steps)
            for _ in range(n_steps):
                _, state = module(features, tangents(3), state, inputs)
            states.append(state)
    assert_allclose(states[1], states[0], atol=1e-5)
    assert_allclose(states[2], states[0], atol=1e-5)


# Cai et al.


def test_cai2023_has_the_published_number_of_parameters():
    module = Cai2023()
    n_parameters = sum(p.numel() for p in module.parameters())
    assert abs(n_parameters - 4.2e6) < 0.1e6


def test_cai2023_depends_on_the_incoming_direction():
    module = randomised(Cai2023(order=4, hidden=16))
    features, directions, inputs = random_step(module, 4)
    assert inputs.shape == (4, 0)
    with torch.no_grad():
        one, _ = module(features, directions, module.init_state(4), inputs)
        other, _ = module(features, -directions, module.init_state(4), inputs)
    assert not np.allclose(one, other, atol=1e-3)


def test_cai2023_can_return_every_direction():
    module = Cai2023(order=4, hidden=16)
    features, incoming, inputs = random_step(module, 1)
    state, directions = module.init_state(1), []
    for azimuth in np.linspace(-3, 3, 9):
        for elevation in np.linspace(-5, 5, 9):
            with torch.no_grad():
                module.head.weight.zero_()
                module.head.bias.copy_(torch.tensor([azimuth, elevation]))
                direction, _ = module(features, incoming, state, inputs)
                directions.append(direction[0].numpy())
    assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-5)
    assert np.all(np.max(directions, axis=0) > 0.9)
    assert np.all(np.min(directions, axis=0) < -0.9)


# Names


def test_a_module_has_a_name_an_order_and_what_it_requires():
    assert list(NETWORKS) == list(ARCHITECTURES)
    for name, kind in NETWORKS.items():
        for order in (4, 8):
            module = kind(order=order, hidden=8)
            assert architecture_of(module) == name
            assert module.order == order
        required = ARCHITECTURES[name].required
        assert required.keys() <= ModelMetadata.__dataclass_fields__.keys()
        for entry in required.keys() & {"frame", "inputs", "outputs", "context"}:
            assert required[entry] == getattr(kind, entry)
    assert MovingFrameGRU.frame == "local" and Cai2023.frame == "voxel"
    assert Cai2023.inputs == ()


def test_the_random_seed_determines_an_untrained_network():
    for name in ARCHITECTURES:
        one, same, other = (
            torch.nn.utils.parameters_to_vector(
                untrained(name, 4, random_seed=seed, hidden=8).parameters()
            )
            for seed in (1, 1, 2)
        )
        assert torch.equal(one, same) and not torch.equal(one, other)
