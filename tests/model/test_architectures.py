"""Networks, against steps computed by hand and rotations that must have no effect."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
import torch

from dipy_rnn import sampling
from dipy_rnn.model import (
    ARCHITECTURES,
    Cai2023,
    ModelMetadata,
    MovingFrameGRU,
    architecture_of,
    untrained,
)
from dipy_rnn.model.moving_frame import newton_slopes
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


def random_inputs(n, channels=15, seed=0):
    """Return unit features and unit directions."""
    generator = torch.Generator().manual_seed(seed)
    rows = (torch.randn(n, c, generator=generator) for c in (channels, 3))
    return tuple(torch.nn.functional.normalize(r, dim=1) for r in rows)


def ahead(n):
    """Return n directions straight ahead."""
    return torch.tensor([[0.0, 0.0, 1.0]]).repeat(n, 1)


def normalised(coeffs):
    """Return rows of unit power as a tensor."""
    coeffs = np.asarray(coeffs, np.float32)
    return torch.from_numpy(coeffs / np.linalg.norm(coeffs, axis=1, keepdims=True))


@torch.no_grad()
def walk(module, features, directions):
    """Step through sequences (T, n, C) point by point; return directions (T, n, 3)."""
    state, returned = module.init_state(features.shape[1]), []
    for row, incoming in zip(features, directions, strict=True):
        direction, state = module(row, incoming, state)
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
        direction, after = module(*random_inputs(5), state)
    assert direction.shape == (5, 3) and direction.dtype == torch.float32
    assert after.shape == state.shape and after.abs().min() > 0
    assert_allclose(direction.norm(dim=1), 1, rtol=1e-5)


@every_network
def test_the_state_that_is_given_is_used_and_not_changed(build):
    module = randomised(build())
    state = torch.rand_like(module.init_state(3))
    before = state.clone()
    with torch.no_grad():
        first, _ = module(*random_inputs(3), state)
        again, _ = module(*random_inputs(3), state)
        other, _ = module(*random_inputs(3), module.init_state(3))
    assert_array_equal(state, before)
    assert_array_equal(first, again)
    assert not np.allclose(first, other, atol=1e-3)


@every_network
def test_a_row_does_not_depend_on_the_other_rows(build):
    module = randomised(build())
    features = torch.stack([random_inputs(6, seed=t)[0] for t in range(4)])
    directions = torch.stack([random_inputs(6, seed=t)[1] for t in range(4)])
    together = walk(module, features, directions)
    for i in range(6):
        alone = walk(module, features[:, i : i + 1], directions[:, i : i + 1])
        assert_allclose(alone[:, 0], together[:, i], atol=1e-5)


@every_network
def test_packed_sequences_give_the_same_directions_as_point_by_point(build):
    module = randomised(build())
    lengths = [4, 3, 1]
    features = torch.stack([random_inputs(3, seed=t)[0] for t in range(4)])
    directions = torch.stack([random_inputs(3, seed=t)[1] for t in range(4)])
    alive = torch.tensor([[t < n for n in lengths] for t in range(4)])
    batch = Batch(
        features[alive],
        directions[alive],
        directions[alive],
        torch.tensor([lengths] * 4)[alive],
        alive.sum(dim=1),
    )
    assert batch.batch_sizes.tolist() == [3, 2, 2, 1]
    with torch.no_grad():
        packed = predict(module, batch)
    assert_allclose(packed, walk(module, features, directions)[alive], atol=1e-5)


@every_network
def test_a_scripted_network_gives_the_same_directions(build):
    module = randomised(build())
    scripted = torch.jit.script(module)
    features = torch.stack([random_inputs(3, seed=t)[0] for t in range(4)])
    directions = torch.stack([random_inputs(3, seed=t)[1] for t in range(4)])
    assert_allclose(
        walk(scripted, features, directions),
        walk(module, features, directions),
        atol=1e-6,
    )


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
    up = ahead(n).expand(n_steps, n, 3)
    expected = np.einsum(
        "nij,nj->ni", frames, walk(module, features, up).reshape(-1, 3).numpy()
    )
    directions = walk(module, rolled, up).reshape(-1, 3).numpy()
    assert np.abs(expected[:, :2]).max() > 0.1
    assert_allclose(directions, expected, atol=1e-4)


@pytest.mark.parametrize("order", [4, 6, 8])
@pytest.mark.parametrize("off_deg", [0.1, 1.0])
def test_an_untrained_network_makes_newtons_step_to_the_peak(lobes, order, off_deg):
    azimuth = np.arange(0, 2 * np.pi, 0.7)
    off = np.deg2rad(off_deg)
    peaks = np.column_stack(
        [
            np.sin(off) * np.cos(azimuth),
            np.sin(off) * np.sin(azimuth),
            np.full(len(azimuth), np.cos(off)),
        ]
    )
    n = len(peaks)
    module = MovingFrameGRU(order=order, hidden=8)
    with torch.no_grad():
        directions, _ = module(
            normalised(lobes(peaks, order)), ahead(n), module.init_state(n)
        )
    x, y, _ = directions.numpy().T
    assert_allclose(np.rad2deg(np.hypot(x, y)), off_deg, rtol=0.05)
    assert_allclose(np.exp(1j * np.arctan2(y, x)), np.exp(1j * azimuth), atol=1e-3)


def test_newton_slopes_turn_the_coefficients_of_a_tilted_lobe_into_its_angle(lobes):
    # The coefficients of m = 1 (along x) of a lobe of unit power.
    for order in (4, 8):
        peak = [np.sin(0.001), 0, np.cos(0.001)]
        tilted = normalised(lobes([peak], order))[0].numpy()
        ls = np.arange(2, order + 1, 2)
        slopes = tilted[ls * (ls + 1) // 2 + 1]
        assert_allclose(slopes @ newton_slopes(order), 0.001, rtol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_a_straight_bundle_is_tracked_straight_for_any_weights(seed):
    module = randomised(MovingFrameGRU(order=8, hidden=16), seed)
    # Symmetric about the tangent: the coefficients of m = +-1 are zero.
    features = random_inputs(40, 45, seed)[0].reshape(4, 10, 45).clone()
    for ll in (2, 4, 6, 8):
        middle = ll * (ll + 1) // 2
        features[..., [middle - 1, middle + 1]] = 0
    directions = walk(module, features, ahead(10).expand(4, 10, 3))
    assert_array_equal(directions, ahead(10).expand(4, 10, 3))


def test_rounding_errors_at_a_peak_have_almost_no_effect():
    # At a peak, rounding errors determine the direction in which the fODF rises.
    module = randomised(MovingFrameGRU(order=8, hidden=16))
    features = random_inputs(1, 45)[0].repeat(8, 1)
    turn = torch.arange(8) * np.pi / 4
    for ll in (2, 4, 6, 8):
        middle = ll * (ll + 1) // 2
        features[:, middle + 1] = 1e-5 * torch.cos(turn)
        features[:, middle - 1] = 1e-5 * torch.sin(turn)
    with torch.no_grad():
        directions, state = module(features, ahead(8), module.init_state(8))
    assert_allclose(directions, ahead(8), atol=1e-4)
    assert_allclose(state, state[:, :1].expand(state.shape), atol=1e-5)


def test_the_moving_frame_network_ignores_the_incoming_direction():
    module = randomised(MovingFrameGRU(order=4, hidden=8))
    features, directions = random_inputs(4)
    with torch.no_grad():
        one, _ = module(features, directions, module.init_state(4))
        other, _ = module(features, ahead(4), module.init_state(4))
    assert_array_equal(one, other)


def test_zero_features_give_a_direction_straight_ahead():
    module = randomised(MovingFrameGRU(order=4, hidden=8))
    with torch.no_grad():
        direction, state = module(torch.zeros(1, 15), ahead(1), module.init_state(1))
    assert_array_equal(direction, ahead(1))
    assert torch.isfinite(state).all()


# Cai et al.


def test_cai2023_has_the_published_number_of_parameters():
    module = Cai2023()
    n_parameters = sum(p.numel() for p in module.parameters())
    assert abs(n_parameters - 4.2e6) < 0.1e6


def test_cai2023_depends_on_the_incoming_direction():
    module = randomised(Cai2023(order=4, hidden=16))
    features, directions = random_inputs(4)
    with torch.no_grad():
        one, _ = module(features, directions, module.init_state(4))
        other, _ = module(features, -directions, module.init_state(4))
    assert not np.allclose(one, other, atol=1e-3)


def test_cai2023_can_return_every_direction():
    module = Cai2023(order=4, hidden=16)
    directions = []
    for azimuth in np.linspace(-3, 3, 9):
        for elevation in np.linspace(-5, 5, 9):
            with torch.no_grad():
                module.head.weight.zero_()
                module.head.bias.copy_(torch.tensor([azimuth, elevation]))
                directions.append(
                    module(*random_inputs(1), module.init_state(1))[0][0].numpy()
                )
    assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-5)
    assert np.all(np.max(directions, axis=0) > 0.9)
    assert np.all(np.min(directions, axis=0) < -0.9)


# Names


def test_a_module_has_a_name_an_order_and_what_it_requires():
    for name, kind in ARCHITECTURES.items():
        for order in (4, 8):
            module = kind(order=order, hidden=8)
            assert architecture_of(module) == name
            assert module.order == order
        assert kind.required.keys() <= ModelMetadata.__dataclass_fields__.keys()
        assert kind.compiled is None or callable(kind.compiled)
    assert MovingFrameGRU.frame == "local" and Cai2023.frame == "voxel"


def test_the_random_seed_determines_an_untrained_network():
    for name in ARCHITECTURES:
        one, same, other = (
            torch.nn.utils.parameters_to_vector(
                untrained(name, 4, random_seed=seed, hidden=8).parameters()
            )
            for seed in (1, 1, 2)
        )
        assert torch.equal(one, same) and not torch.equal(one, other)
