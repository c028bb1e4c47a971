"""Networks, against steps computed by hand and turns that must not matter."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
import torch

from dipy_rnn import sampling
from dipy_rnn.model import ARCHITECTURES, Cai2023, MovingFrameGRU, architecture_of
from dipy_rnn.model.moving_frame import newton_slopes
from dipy_rnn.training.sequences import Batch
from dipy_rnn.training.state import predict

both = pytest.mark.parametrize(
    "build",
    [
        lambda: MovingFrameGRU(order=4, hidden=8),
        lambda: MovingFrameGRU(order=4, hidden=8, layers=2),
        lambda: Cai2023(order=4, hidden=16),
    ],
    ids=["moving_frame", "moving_frame, 2 layers", "cai2023"],
)


def randomised(module, seed=0):
    """Give every weight of a module a value that is not zero."""
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
    return torch.tensor([[0.0, 0.0, 1.0]]).repeat(n, 1)


def normalised(coeffs):
    coeffs = np.asarray(coeffs, np.float32)
    return torch.from_numpy(coeffs / np.linalg.norm(coeffs, axis=1, keepdims=True))


@torch.no_grad()
def walk(module, features, directions):
    """Step through sequences (T, n, C) one point at a time; answers (T, n, 3)."""
    state, answers = module.init_state(features.shape[1]), []
    for seen, incoming in zip(features, directions, strict=True):
        answer, state = module(seen, incoming, state)
        answers.append(answer)
    return torch.stack(answers)


# The contract


@both
def test_a_fresh_state_is_zeros_and_answers_are_unit_vectors(build):
    module = randomised(build())
    state = module.init_state(5)
    assert state.shape == (module.layers, 5, module.hidden)
    assert not state.any()
    with torch.no_grad():
        answer, after = module(*random_inputs(5), state)
    assert answer.shape == (5, 3) and answer.dtype == torch.float32
    assert after.shape == state.shape and after.abs().min() > 0
    assert_allclose(answer.norm(dim=1), 1, rtol=1e-5)


@both
def test_a_state_goes_in_and_is_not_written_on(build):
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


@both
def test_a_row_does_not_know_its_neighbours(build):
    module = randomised(build())
    features = torch.stack([random_inputs(6, seed=t)[0] for t in range(4)])
    directions = torch.stack([random_inputs(6, seed=t)[1] for t in range(4)])
    together = walk(module, features, directions)
    for i in range(6):
        alone = walk(module, features[:, i : i + 1], directions[:, i : i + 1])
        assert_allclose(alone[:, 0], together[:, i], atol=1e-5)


@both
def test_packed_sequences_are_stepped_through_point_by_point(build):
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


@both
def test_a_scripted_network_is_the_same_network(build):
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


def test_answers_turn_with_the_roll_of_the_frame_at_every_step():
    module = randomised(MovingFrameGRU(order=8, hidden=16, layers=2))
    rng = np.random.default_rng(0)
    n, n_steps = 20, 5
    coeffs = rng.normal(size=(n_steps * n, 45))
    roll = rng.uniform(0, 2 * np.pi, n_steps * n)
    c, s, zero = np.cos(roll), np.sin(roll), np.zeros_like(roll)
    frames = np.array([[c, s, zero], [-s, c, zero], [zero, zero, zero + 1]])
    frames = np.ascontiguousarray(np.moveaxis(frames, 2, 0))
    seen = normalised(coeffs).reshape(n_steps, n, 45)
    rolled = normalised(sampling.rotate(coeffs, frames)).reshape(n_steps, n, 45)
    up = ahead(n).expand(n_steps, n, 3)
    expected = np.einsum(
        "nij,nj->ni", frames, walk(module, seen, up).reshape(-1, 3).numpy()
    )
    answers = walk(module, rolled, up).reshape(-1, 3).numpy()
    assert np.abs(expected[:, :2]).max() > 0.1
    assert_allclose(answers, expected, atol=1e-4)


@pytest.mark.parametrize("order", [4, 6, 8])
@pytest.mark.parametrize("off_deg", [0.1, 1.0])
def test_an_untrained_network_steps_to_the_peak_as_newton_does(lobes, order, off_deg):
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
        answers, _ = module(
            normalised(lobes(peaks, order)), ahead(n), module.init_state(n)
        )
    answers = answers.numpy()
    turn_deg = np.rad2deg(np.hypot(answers[:, 0], answers[:, 1]))
    assert_allclose(turn_deg, off_deg, rtol=0.05)
    assert_allclose(
        np.exp(1j * np.arctan2(answers[:, 1], answers[:, 0])),
        np.exp(1j * azimuth),
        atol=1e-3,
    )


def test_newton_slopes_add_up_the_slopes_of_a_bent_lobe_to_its_angle(lobes):
    # The coefficients of m = 1 (along x) of a lobe of unit power.
    for order in (4, 8):
        bent = normalised(lobes([[np.sin(0.001), 0, np.cos(0.001)]], order))[0].numpy()
        ls = np.arange(2, order + 1, 2)
        slopes = bent[ls * (ls + 1) // 2 + 1]
        assert_allclose(slopes @ newton_slopes(order), 0.001, rtol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_a_straight_bundle_is_tracked_straight_whatever_the_weights(seed):
    module = randomised(MovingFrameGRU(order=8, hidden=16), seed)
    # What is even about the tangent: no coefficient of m = +-1.
    seen = random_inputs(40, 45, seed)[0].reshape(4, 10, 45).clone()
    for ll in (2, 4, 6, 8):
        middle = ll * (ll + 1) // 2
        seen[..., [middle - 1, middle + 1]] = 0
    answers = walk(module, seen, ahead(10).expand(4, 10, 3))
    assert_array_equal(answers, ahead(10).expand(4, 10, 3))


def test_rounding_does_not_decide_what_is_seen_at_a_peak():
    # There the direction in which the fODF rises is one of rounding.
    module = randomised(MovingFrameGRU(order=8, hidden=16))
    seen = random_inputs(1, 45)[0].repeat(8, 1)
    turn = torch.arange(8) * np.pi / 4
    for ll in (2, 4, 6, 8):
        middle = ll * (ll + 1) // 2
        seen[:, middle + 1] = 1e-5 * torch.cos(turn)
        seen[:, middle - 1] = 1e-5 * torch.sin(turn)
    with torch.no_grad():
        answers, state = module(seen, ahead(8), module.init_state(8))
    assert_allclose(answers, ahead(8), atol=1e-4)
    assert_allclose(state, state[:, :1].expand(state.shape), atol=1e-5)


def test_the_moving_frame_needs_no_incoming_direction():
    module = randomised(MovingFrameGRU(order=4, hidden=8))
    features, directions = random_inputs(4)
    with torch.no_grad():
        one, _ = module(features, directions, module.init_state(4))
        other, _ = module(features, ahead(4), module.init_state(4))
    assert_array_equal(one, other)


def test_features_of_nothing_but_zeros_give_a_finite_answer():
    module = randomised(MovingFrameGRU(order=4, hidden=8))
    with torch.no_grad():
        answer, state = module(torch.zeros(1, 15), ahead(1), module.init_state(1))
    assert_array_equal(answer, ahead(1))
    assert torch.isfinite(state).all()


# Cai et al.


def test_the_published_network_has_its_published_size():
    module = Cai2023()
    n_parameters = sum(p.numel() for p in module.parameters())
    assert abs(n_parameters - 4.2e6) < 0.1e6


def test_the_published_network_sees_where_it_comes_from():
    module = randomised(Cai2023(order=4, hidden=16))
    features, directions = random_inputs(4)
    with torch.no_grad():
        one, _ = module(features, directions, module.init_state(4))
        other, _ = module(features, -directions, module.init_state(4))
    assert not np.allclose(one, other, atol=1e-3)


def test_the_published_network_reaches_all_of_the_sphere():
    module = Cai2023(order=4, hidden=16)
    answers = []
    for azimuth in np.linspace(-3, 3, 9):
        for elevation in np.linspace(-5, 5, 9):
            with torch.no_grad():
                module.head.weight.zero_()
                module.head.bias.copy_(torch.tensor([azimuth, elevation]))
                answers.append(
                    module(*random_inputs(1), module.init_state(1))[0][0].numpy()
                )
    assert_allclose(np.linalg.norm(answers, axis=1), 1, rtol=1e-5)
    assert np.all(np.max(answers, axis=0) > 0.9)
    assert np.all(np.min(answers, axis=0) < -0.9)


# Names


def test_a_module_knows_its_architecture_and_order():
    for name, kind in ARCHITECTURES.items():
        for order in (4, 8):
            module = kind(order=order, hidden=8)
            assert architecture_of(module) == name
            assert module.order == order
    assert MovingFrameGRU.frame == "local" and Cai2023.frame == "voxel"
