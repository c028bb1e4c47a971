"""The network with context: its symmetries, and its kernel against its module."""

from itertools import product

from networks import COEFFS, metadata_of, random_path, random_volume
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
import torch

from dipy_rnn import sampling
from dipy_rnn.model import ContextGRU, ModelFileError, as_model, load_model, save_model
from dipy_rnn.model.torchscript import ROWS_IN_A_BLOCK
from dipy_rnn.sampling import (
    DATA,
    EMPTY,
    NOTHING_AHEAD,
    OUTSIDE,
    Context,
    cone_of,
    join_context,
    sample_context,
)

CONTEXTS = [
    Context((1.5,), ((0.0, 1.0),), 6, 4),
    Context((1.0, 2.0), ((0.0, 1.0), (1.5, 0.7)), 7, 4),
    Context((), ((0.5, 0.8),), 5, 2),
    Context((0.7,), (), 3, 4),
    None,
]
# Conditions of runs: step in voxel edges, angle of the cone, pmf_threshold.
RUNS = [(0.2, 15.0, 0.0), (0.25, 30.0, 0.1), (1.0, 60.0, 0.5), (0.5, 90.0, 0.9)]
EDGE_VOX = np.array([0.4, 0.5, 0.35])


def network(order=8, context=CONTEXTS[0], hidden=12, memory=7):
    """Return a module in which no weight is zero."""
    module = ContextGRU(order, context, hidden, memory, 5, 3, 2)
    generator = torch.Generator().manual_seed(order + hidden)
    with torch.no_grad():
        for parameter in module.parameters():
            size = parameter.shape[1] if parameter.ndim == 2 else 16
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            parameter /= size**0.5
    return module.eval()


def model_of(module, architecture="context"):
    """Return a model, with the kernel if the architecture is named."""
    metadata = metadata_of(
        module, architecture, hidden=module.n_state, context=module.context
    )
    return as_model(module, metadata)


def features_at(context, volume, points, frames, handedness, run):
    """Return features, ``ahead`` and status, by the functions of ``sampling``."""
    own, inside = sampling.sample(
        volume, points, frames, handedness=handedness, normalise=context is None
    )
    features = own
    if context is not None:
        around = sample_context(
            context, volume, points, frames, EDGE_VOX, own, handedness=handedness
        )
        features = join_context(own, around)
    ahead, found = cone_of(sampling.sh_order(volume.shape[3]), run[1]).largest(
        own, run[2]
    )
    status = np.where(found, DATA, NOTHING_AHEAD)
    status[~own.any(axis=1)] = EMPTY
    status[~inside] = OUTSIDE
    return features, ahead, status


@torch.no_grad()
def walk_of_module(module, volume, points, frames, handedness, run):
    """Return directions (T, n, 3), status (T, n) and the last state (n, H)."""
    state, directions, every_status = module.init_state(points.shape[1]), [], []
    for here, frame in zip(points, frames, strict=True):
        features, ahead, status = features_at(
            module.context, volume, here, frame, handedness, run
        )
        conditions = np.broadcast_to(run[:2], (len(here), 2))
        inputs = np.column_stack([conditions, ahead]).astype(np.float32)
        direction, state = module(
            *(torch.from_numpy(features), torch.zeros(len(here), 3)),
            *(state, torch.from_numpy(inputs)),
        )
        directions.append(direction.numpy())
        every_status.append(status)
    return np.array(directions), np.array(every_status), state[0].numpy()


def walk(kernel, volume, points, frames, handedness=1.0, run=RUNS[1]):
    """As :func:`walk_of_module`, with the kernel."""
    n_steps, n = points.shape[:2]
    order = sampling.sh_order(volume.shape[3])
    prepared = kernel.prepare(
        volume, handedness, cone_of(order, run[1]), *run, tuple(EDGE_VOX.tolist())
    )
    state = kernel.init_state(n)
    directions = np.full((n_steps, n, 3), np.nan, np.float32)
    status = np.full((n_steps, n), 9, np.uint8)
    for t in range(n_steps):
        kernel.next_directions(
            *(prepared, points[t], frames[t]),
            *(state, directions[t], status[t]),
        )
    rows = state[:, 0].transpose(0, 2, 1).reshape(-1, state.shape[2])
    return directions, status, rows[:n]


# The kernel


@pytest.mark.parametrize("handedness", [1.0, -1.0])
@pytest.mark.parametrize("order", COEFFS)
def test_the_kernel_returns_what_the_module_returns(random_frames, order, handedness):
    volume = random_volume(order)
    points, frames = random_path(random_frames, 21, handedness=handedness)
    points[1, 3], points[2, 20] = 99.0, -0.2  # outside, and in an empty voxel
    for context, run in product(CONTEXTS, RUNS):
        module = network(order, context)
        arguments = volume, points, frames, handedness, run
        directions, status, state = walk(model_of(module).compiled, *arguments)
        expected, expected_status, expected_state = walk_of_module(module, *arguments)
        assert_allclose(directions, expected, atol=2e-5)
        assert_allclose(state, expected_state, atol=2e-5)
        assert_array_equal(status, expected_status)
        assert status[1, 3] == OUTSIDE and status[2, 20] == EMPTY
        # States and directions vary, so that the comparison means something.
        assert np.ptp(state, axis=0).min() > 1e-3
        assert np.ptp(directions[..., 0]) > 0.1
        if context:
            assert np.ptp(directions[..., 2]) > 0.05


def test_a_streamline_is_the_same_in_any_lane_and_among_any_number(random_frames):
    kernel, volume = model_of(network()).compiled, random_volume()
    points, frames = random_path(random_frames, 50)
    expected = walk(kernel, volume, points, frames)
    rng = np.random.default_rng(0)
    for n in (1, 2, 15, 16, 17, 33, 50):
        rows = rng.permutation(50)[:n]
        here = np.ascontiguousarray(points[:, rows])
        some = walk(kernel, volume, here, np.ascontiguousarray(frames[:, rows]))
        assert_array_equal(some[0], expected[0][:, rows])
        assert_array_equal(some[1], expected[1][:, rows])
        assert_array_equal(some[2], expected[2][rows])


def test_a_volume_of_a_lower_order_acts_like_one_padded_with_zeros(random_frames):
    points, frames = random_path(random_frames, 40)
    for order, low in ((8, 4), (8, 6), (6, 4)):
        kernel, volume = model_of(network(order)).compiled, random_volume(low)
        padded = sampling.with_order(volume, order)
        results = [walk(kernel, data, points, frames) for data in (volume, padded)]
        for of_low, of_padded in zip(*results, strict=True):
            assert_allclose(of_low, of_padded, atol=2e-5)


def test_the_scale_of_the_volume_has_no_effect(random_frames):
    kernel, volume = model_of(network()).compiled, random_volume()
    points, frames = random_path(random_frames, 30)
    expected, _, _ = walk(kernel, volume, points, frames)
    for scale in (1e-6, 1e6):
        scaled = (volume * scale).astype(np.float32)
        directions, _, _ = walk(kernel, scaled, points, frames)
        assert_allclose(directions, expected, atol=1e-4)


# Symmetries


def steps(module, features, ahead):
    """Return the directions of two steps with the same features."""
    inputs = np.column_stack([np.full((len(ahead), 2), (0.3, 40.0)), ahead])
    seen = torch.from_numpy(features)
    state = module.init_state(len(seen))
    found = []
    with torch.no_grad():
        for _ in range(2):
            direction, state = module(
                *(seen, torch.zeros(len(seen), 3), state),
                torch.from_numpy(inputs.astype(np.float32)),
            )
            found.append(direction.numpy())
    return np.array(found)


@pytest.mark.parametrize("context", CONTEXTS)
def test_directions_do_not_depend_on_the_roll_of_the_frame(random_frames, context):
    module = network(context=context)
    volume, (points, frames) = random_volume(), random_path(random_frames, 30)
    c, s = np.cos(0.7), np.sin(0.7)
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    here, results = (points[0], frames[0]), []
    _, ahead, _ = features_at(context, volume, *here, 1.0, RUNS[3])
    for of_frame in (np.eye(3), turn):
        turned = np.ascontiguousarray(of_frame @ frames[0])
        features, _, _ = features_at(context, volume, points[0], turned, 1.0, RUNS[3])
        results.append(steps(module, features, ahead @ of_frame.T) @ of_frame)
    assert_allclose(results[1], results[0], atol=3e-4)
    assert np.abs(results[0][..., :2]).max() > 0.1


@pytest.mark.parametrize("context", CONTEXTS)
def test_the_mirror_image_of_a_world_has_mirrored_directions(random_frames, context):
    module = network(context=context)
    points, frames = random_path(random_frames, 30, n_steps=1)
    # The mirror image about the plane of e1 and e3: y changes its sign, and so does
    # each coefficient of m < 0.
    features, ahead, _ = features_at(
        context, random_volume(), points[0], frames[0], 1.0, RUNS[3]
    )
    mirrored = features.copy()
    start, signs = 0, []
    around = [context.order] * context.n_places if context else []
    for order in [module.order, *around]:
        signs += [
            -1.0 if m < 0 else 1.0
            for ell in range(0, order + 1, 2)
            for m in range(-ell, ell + 1)
        ]
    mirrored *= np.array(signs, np.float32)
    if context:
        start = COEFFS[module.order] + len(context.ahead) * context.n_coeffs
    for ring in range(module.n_rings):
        n = context.n_around * context.n_coeffs
        part = mirrored[:, start + ring * n : start + (ring + 1) * n]
        around = part.reshape(len(part), context.n_around, -1)
        opposite = -np.arange(context.n_around) % context.n_around
        part[:] = around[:, opposite].reshape(len(part), -1)
    flip = np.array([1.0, -1.0, 1.0])
    expected = steps(module, features, ahead) * flip
    assert_allclose(steps(module, mirrored, ahead * flip), expected, atol=1e-5)


def test_a_straight_bundle_is_tracked_without_drift(lobes):
    module = network()
    lobe = lobes(np.array([[0.0, 0.0, 1.0]])).astype(np.float32)
    volume = np.broadcast_to(lobe.reshape(1, 1, 1, -1), (5, 5, 5, lobe.size)).copy()
    points, frames = np.full((4, 1, 3), 2.2), np.tile(np.eye(3), (4, 1, 1, 1))
    directions, _, _ = walk(model_of(module).compiled, volume, points, frames)
    assert_allclose(directions[:, 0], np.tile([0, 0, 1.0], (4, 1)), atol=1e-5)


# Metadata and files


@pytest.mark.parametrize(("context", "n"), [(CONTEXTS[1], 45 + 16 * 15), (None, 45)])
def test_a_model_is_written_and_read_with_its_context(tmp_path, context, n):
    module, path = network(context=context), tmp_path / "model.pt"
    metadata = metadata_of(
        module, "context", hidden=module.n_state, context=module.context
    )
    save_model(module, metadata, path)
    loaded = load_model(path).metadata
    assert loaded == metadata and loaded.context == context
    assert loaded.n_features == n


@pytest.mark.parametrize(
    ("context", "changes", "message"),
    [
        (None, {}, "to_vectors is float32"),
        (Context((1.0,), (), 6, 4), {}, "to_vectors is float32"),
        (CONTEXTS[0], {"frame": "voxel", "architecture": ""}, "the frame 'local'"),
        (CONTEXTS[0], {"normalisation": "none", "architecture": ""}, "'none'"),
        (Context((1.0,), (), 6, 6), {"architecture": ""}, "order 6"),
        (CONTEXTS[0], {"architecture": "moving_frame"}, "context is"),
    ],
    ids=["none", "another", "frame", "normalisation", "order", "architecture"],
)
def test_a_context_that_does_not_fit_is_refused(context, changes, message):
    module = network()
    with pytest.raises(ModelFileError, match=message):
        as_model(
            module,
            metadata_of(
                module,
                **{"architecture": "context", "hidden": module.n_state}
                | {"context": context}
                | changes,
            ),
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": 3}, "order is 3; even orders"),
        ({"order": 4.0}, "order is 4.0; an integer"),
        ({"n_around": 2}, "n_around is 2; 3 to 64"),
        ({"n_around": True}, "n_around is True; an integer"),
        ({"ahead": (9.0,)}, r"ahead is \(9.0,\); lengths up to 8"),
        ({"ahead": "1"}, "ahead is '1'"),
        ({"ahead": (float("nan"),)}, "ahead is"),
        ({"rings": (1.0,)}, "rings is .*; pairs of lengths"),
        ({"ahead": (), "rings": ()}, "There are 0 places"),
        ({"rings": ((0.0, 1.0),) * 12}, "There are 73 places"),
    ],
)
def test_wrong_contexts_are_refused(changes, message):
    entries = {"ahead": (1.5,), "rings": ((0.0, 1.0),), "n_around": 6, "order": 4}
    with pytest.raises(ValueError, match=message):
        Context(**entries | changes)
    if "ahead" not in changes or isinstance(changes["ahead"], tuple):
        with pytest.raises(ValueError, match=message):
            Context.from_dict(entries | changes)


def test_a_context_with_other_entries_is_refused():
    entries = {"ahead": [1.5], "rings": [], "n_around": 6, "order": 4}
    assert Context.from_dict(entries) == Context((1.5,), (), 6, 4)
    for wrong in ({}, entries | {"reach": 1}, None, [entries]):
        with pytest.raises(ValueError, match="give ahead, n_around, order, rings"):
            Context.from_dict(wrong)
    with pytest.raises(ValueError, match="ahead is 1; a list"):
        Context.from_dict(entries | {"ahead": 1})


def test_places_outside_of_the_image_are_zero():
    volume = np.ones((3, 3, 3, 15), np.float32)
    context = Context((1.0, -1.0), ((0.0, 1.0),), 4, 4)
    values = sample_context(
        *(context, volume, np.array([[2.0, 1.0, 2.0]]), np.eye(3)[None], np.ones(3)),
        np.zeros((1, 15), np.float32),
    )
    # Ahead is outside, behind is inside. The ring is at +x, +y, -x, -y.
    assert values[0, :, 0].tolist() == [0.0, 1.0, 0.0, 1.0, 1.0, 1.0]


def test_rows_of_a_block_do_not_depend_on_each_other(random_frames):
    assert ROWS_IN_A_BLOCK % 16 == 0
    volume, (points, frames) = random_volume(), random_path(random_frames, 20)
    context = CONTEXTS[1]
    whole, _, _ = features_at(context, volume, points[0], frames[0], 1.0, RUNS[0])
    for i in range(20):
        alone, _, _ = features_at(
            context, volume, points[0][i : i + 1], frames[0][i : i + 1], 1.0, RUNS[0]
        )
        assert_array_equal(alone[0], whole[i])
