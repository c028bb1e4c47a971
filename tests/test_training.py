"""Sequences, losses and the loop, on straight lines and tiny phantoms."""

from itertools import pairwise
from math import cos, pi

from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
import torch

from dipy_rnn import rnn_tracking, sh, spaces
from dipy_rnn.model import CaiPropagator, RecurrentPropagator
from dipy_rnn.model_file import ModelMetadata, save_model
from dipy_rnn.phantom import circle_phantom, crossing_phantom
from dipy_rnn.training.fit import fit, predict
from dipy_rnn.training.losses import cosine_loss
from dipy_rnn.training.sequences import Blur, Reference, draw_batch
from dipy_rnn.training.teachers import peak_ahead

NO_BLUR = Blur(position_mm=0.0, direction_deg=(0.0, 0.0))
DIRECTION = np.array([0.36, 0.48, 0.8])


def line_mm(n_steps, start=(2.0, 2.0, 2.0)):
    """Points half a mm apart along DIRECTION."""
    return np.array(start) + 0.5 * np.arange(2 * n_steps + 1)[:, None] * DIRECTION


def coordinates(shape, affine):
    """A world that shows where it is asked: x, y, z in mm, and one."""
    vox = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    mm = spaces.to_mm(vox, affine)
    return np.concatenate([mm, np.ones((*shape, 1))], axis=-1).astype(np.float32)


@pytest.fixture(scope="module")
def crossing():
    phantom = crossing_phantom(60.0, shape=(10, 10, 6))
    data = sh.fodf_features(phantom.fodf(4, noise=0.1)).data
    return Reference(data, phantom.affine, phantom.streamlines(4)[0])


def draw(
    reference,
    n_sequences=4,
    *,
    frame="local",
    step_mm=1.0,
    max_points=20,
    seed=0,
    blur=NO_BLUR,
):
    return draw_batch(
        [reference],
        n_sequences,
        frame=frame,
        step_mm=step_mm,
        max_points=max_points,
        rng=np.random.default_rng(seed),
        blur=blur,
    )


def sequences(batch, rows):
    """Undo the packing: rows of each sequence in its order of time."""
    starts = np.concatenate([[0], np.cumsum(batch.batch_sizes.numpy())])
    return [
        [rows[a + i] for a, b in pairwise(starts) if i < b - a]
        for i in range(int(batch.batch_sizes[0]))
    ]


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


# Losses


def test_cosine_loss_is_the_mean_of_one_minus_the_cosines():
    x, y = torch.eye(3)[:2]
    between = torch.tensor([cos(pi / 3), 3**0.5 / 2, 0.0])
    predicted, target = torch.stack([x, x, x, x]), torch.stack([x, y, -x, between])
    assert_allclose(cosine_loss(predicted, target), (0 + 1 + 2 + 0.5) / 4, rtol=1e-6)
    weight = torch.tensor([1.0, 3.0, 0.0, 2.0])
    assert_allclose(cosine_loss(predicted, target, weight), (3 + 1) / 6, rtol=1e-6)


def test_with_a_width_large_errors_count_alike_and_small_ones_as_before():
    ahead = torch.tensor([[0.0, 0.0, 1.0]])
    losses = []
    for degrees in (1.0, 90.0, 180.0):
        turn = np.deg2rad(degrees)
        aside = torch.tensor([[np.sin(turn), 0.0, np.cos(turn)]], dtype=torch.float32)
        losses.append(cosine_loss(aside, ahead, width_deg=10.0).item())
    assert_allclose(losses[0], 1 - cos(np.deg2rad(1)), rtol=0.01)
    assert_allclose(losses[1:], np.deg2rad(10) ** 2, rtol=1e-3)


# Sequences


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_the_target_on_a_straight_line_is_its_direction(oblique_affine, handedness):
    affine = oblique_affine(handedness)
    reference = Reference(np.ones((2, 2, 2, 15), np.float32), affine, [line_mm(10)])
    batch = draw(reference, 20, frame="voxel")
    along_axes = DIRECTION @ spaces.axes(affine)
    forward = np.sign(batch.target.numpy() @ along_axes)
    assert_allclose(batch.target, forward[:, None] * along_axes, atol=1e-6)
    assert_allclose(batch.incoming, batch.target, atol=1e-6)
    assert set(forward) == {1, -1}  # streamlines have no direction of their own


def test_without_blur_a_straight_line_is_straight_on():
    reference = Reference(np.ones((9, 9, 9, 15), np.float32), np.eye(4), [line_mm(8)])
    for seed in range(4):  # half of the batches are mirrored
        batch = draw(reference, 10, seed=seed)
        assert_allclose(batch.target, [[0, 0, 1]] * len(batch.target), atol=1e-6)
        assert_array_equal(batch.incoming, [[0, 0, 1]] * len(batch.incoming))


def test_points_lie_on_the_streamline_at_equal_steps():
    affine = np.diag([2.0, 2, 2, 1])
    world = coordinates((10, 10, 10), affine)
    reference = Reference(world, affine, [line_mm(10, start=(3.0, 2, 4))])
    for step_mm in (0.3, 1.0):
        batch = draw(reference, 20, frame="voxel", step_mm=step_mm)
        # Features are divided by their norm; the last channel was one.
        seen_mm = (batch.features[:, :3] / batch.features[:, 3:]).numpy()
        across = np.cross(seen_mm - [3.0, 2, 4], DIRECTION)
        assert_allclose(across, 0, atol=1e-4)
        for points_mm, targets in zip(
            sequences(batch, seen_mm),
            sequences(batch, batch.target.numpy()),
            strict=True,
        ):
            assert 2 <= len(points_mm) <= 20
            steps = np.diff(points_mm, axis=0)
            assert_allclose(steps, step_mm * np.array(targets)[:-1], atol=1e-4)


def test_lengths_are_packed_longest_first_and_cut_to_max_points():
    reference = Reference(
        np.ones((9, 9, 9, 15), np.float32), np.eye(4), [line_mm(3), line_mm(9)]
    )
    batch = draw(reference, 40, max_points=5)
    sizes = batch.batch_sizes.tolist()
    assert sizes[0] == 40 and len(sizes) == 5
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == len(batch.features) == len(batch.target)
    assert batch.batch_sizes.dtype == torch.int64
    lengths = {len(s) for s in sequences(batch, batch.target)}
    assert lengths == {2, 3, 4, 5}


def test_every_reference_gives_its_sequences():
    references = [
        Reference(np.full((9, 9, 9, 15), v, np.float32), np.eye(4), [line_mm(5)])
        for v in (1.0, -1.0)
    ]
    batch = draw_batch(
        references,
        3,
        frame="voxel",
        step_mm=1.0,
        max_points=9,
        rng=np.random.default_rng(0),
        blur=NO_BLUR,
    )
    first = batch.features[: batch.batch_sizes[0], 0]
    assert sorted(np.sign(first.numpy())) == [-1] * 3 + [1] * 3


def test_in_a_frame_a_lobe_along_the_line_points_ahead(lobes, oblique_affine):
    for handedness in (1.0, -1.0):
        affine = oblique_affine(handedness)
        seen = lobes([DIRECTION @ spaces.axes(affine)], 4).astype(np.float32)
        data = np.ascontiguousarray(np.broadcast_to(seen, (3, 3, 3, 15)))
        batch = draw(Reference(data, affine, [line_mm(8)]))
        expected = lobes([[0, 0, 1.0]], 4)
        expected /= np.linalg.norm(expected)
        assert_allclose(
            batch.features, expected.repeat(len(batch.features), 0), atol=1e-5
        )


def test_in_a_frame_what_is_seen_and_the_target_belong_together(lobes):
    # The next direction is written into the world: each voxel's lobe is along the
    # circle, so the lobe seen in the frame is along the target, mirrored or not.
    phantom = circle_phantom(12.0, voxel_size_mm=1.0, tube_mm=3.0)
    data = sh.fodf_features(phantom.fodf(8)).data
    reference = Reference(data, phantom.affine, phantom.streamlines(4)[0])
    blur = Blur(position_mm=0.0, direction_deg=(0.0, 10.0))
    for seed in range(4):
        batch = draw(reference, 4, seed=seed, step_mm=0.2, blur=blur)
        towards = lobes(batch.target.numpy().astype(float), 8)
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        assert np.mean(np.sum(batch.features.numpy() * towards, axis=1)) > 0.97
        assert batch.target[:, 2].min() < 0.999


def test_positions_stray_as_far_as_the_blur_says():
    affine = np.eye(4)
    reference = Reference(
        coordinates((40, 40, 40), affine), affine, [line_mm(20, start=(12.0, 12, 12))]
    )
    batch = draw(
        reference,
        300,
        frame="voxel",
        blur=Blur(position_mm=0.7, direction_deg=(0.0, 0.0)),
    )
    seen_mm = (batch.features[:, :3] / batch.features[:, 3:]).numpy()
    across = seen_mm - 12.0
    across -= np.outer(across @ DIRECTION, DIRECTION)
    # Two of the three dimensions are across the line; 0.3 more for each point alone.
    expected = 0.7 * np.sqrt(2 / 3 * (1 + 0.3**2))
    assert_allclose(np.sqrt(np.mean(np.sum(across**2, axis=1))), expected, rtol=0.1)
    assert_allclose(np.abs(batch.incoming.numpy() @ DIRECTION), 1, rtol=1e-5)


def test_incoming_directions_are_as_wrong_and_for_as_long_as_the_blur_says():
    reference = Reference(np.ones((9, 9, 9, 15), np.float32), np.eye(4), [line_mm(20)])
    batch = draw(
        reference,
        300,
        frame="voxel",
        step_mm=0.5,
        blur=Blur(0.0, direction_deg=(2.0, 6.0), memory_mm=2.0),
    )
    error = np.cross(batch.incoming.numpy(), batch.target.numpy())
    turn_deg = np.rad2deg(np.arcsin(np.linalg.norm(error, axis=1)))
    # Two dimensions are across; the mean square of the range is (4 + 12 + 36) / 3.
    assert_allclose(np.sqrt(np.mean(turn_deg**2)), np.sqrt(2 * 52 / 3), rtol=0.1)
    pairs = [pair for one in sequences(batch, error) for pair in pairwise(one)]
    before, after = np.moveaxis(np.array(pairs), 1, 0)
    lasting = np.sum(before * after) / np.sum(before**2)
    assert_allclose(lasting, np.exp(-0.5 / 2), atol=0.06)


def test_the_same_generator_draws_the_same_batch(crossing):
    one, same, other = (draw(crossing, blur=None, seed=s) for s in (1, 1, 2))
    assert_array_equal(one.features, same.features)
    assert_array_equal(one.target, same.target)
    assert one.features.shape != other.features.shape or not torch.equal(
        one.features, other.features
    )


# The loop


@pytest.mark.parametrize("kind", [RecurrentPropagator, CaiPropagator])
def test_the_same_seed_gives_the_same_weights(kind, crossing):
    def trained(random_seed):
        torch.manual_seed(7)
        module = kind(order=4, hidden=8)
        error_deg = fit(
            module, [crossing], n_updates=3, n_sequences=4, random_seed=random_seed
        )
        return weights(module), error_deg

    (one, error), (same, same_error), (other, _) = map(trained, (1, 1, 2))
    assert error == same_error
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", [RecurrentPropagator, CaiPropagator])
def test_the_loss_falls_on_a_tiny_phantom(kind, crossing):
    torch.manual_seed(0)
    module = kind(order=4, hidden=16)
    batch = draw(crossing, 40, frame=module.frame, seed=99, blur=None)

    @torch.no_grad()
    def loss():
        return cosine_loss(predict(module, batch), batch.target).item()

    before = loss()
    error_deg = fit(module, [crossing], n_updates=40, n_sequences=16, max_points=10)
    assert 0 < error_deg < 90
    assert not module.training
    assert loss() < 0.8 * before


def test_streamlines_too_short_for_a_step_are_refused():
    line = np.array([[4.0, 4, 4], [5.0, 4, 4]])
    reference = Reference(np.ones((9, 9, 9, 15), np.float32), np.eye(4), [line])
    with pytest.raises(ValueError, match=r"two steps of 1\.5 mm"):
        draw_batch(
            [reference],
            2,
            frame="voxel",
            step_mm=1.5,
            max_points=9,
            rng=np.random.default_rng(0),
        )


def test_features_that_are_not_finite_stop_training_before_they_do_harm(crossing):
    bad = Reference(
        np.full_like(crossing.data, np.nan), crossing.affine, crossing.streamlines
    )
    module = RecurrentPropagator(order=4, hidden=8)
    before = weights(module)
    with pytest.raises(FloatingPointError, match="at update 1"):
        fit(module, [bad], n_updates=2, n_sequences=4)
    after = weights(module)
    assert all(torch.equal(before[name], after[name]) for name in before)


# The teacher that reads the fODF


def test_the_peak_ahead_is_found_within_the_distance_of_its_directions(lobes):
    rng = np.random.default_rng(0)
    aside = np.deg2rad(rng.uniform(0, 25, 40))
    azimuth = rng.uniform(0, 2 * pi, 40)
    peaks = np.column_stack(
        [
            np.sin(aside) * np.cos(azimuth),
            np.sin(aside) * np.sin(azimuth),
            np.cos(aside),
        ]
    )
    found = peak_ahead(lobes(peaks), straightness=0)
    angles = np.rad2deg(np.arccos(np.clip((found * peaks).sum(axis=1), -1, 1)))
    assert angles.max() < 3


def test_a_larger_peak_aside_wins_only_where_straightness_is_small(lobes):
    turn = np.deg2rad(60)
    both = lobes([[0.0, 0, 1]]) + 2 * lobes([[np.sin(turn), 0, np.cos(turn)]])
    # 2 cos(60 deg) ** k against 1: they are even at k = 1.
    assert peak_ahead(both, straightness=0)[0, 2] < 0.6
    assert peak_ahead(both, straightness=2)[0, 2] > 0.98
    assert peak_ahead(both)[0, 2] > 0.98


def test_a_turn_is_no_wider_than_allowed_and_goes_the_right_way(lobes):
    turn = np.deg2rad(40)
    aside = lobes([[np.sin(turn), 0.0, np.cos(turn)]])
    (found,) = peak_ahead(aside, straightness=0, widest_deg=28.0)
    assert_allclose(np.rad2deg(np.arccos(found[2])), 28, atol=1.5)
    assert found[0] > 0.4 and abs(found[1]) < 0.1


@pytest.mark.parametrize("frame", ["local", "voxel"])
def test_a_teacher_answers_where_the_streamline_strays(frame, lobes, oblique_affine):
    # The volume says "along x" everywhere, whatever the streamline does.
    affine = oblique_affine()
    axis = spaces.axes(affine).T @ [1.0, 0, 0]
    data = np.broadcast_to(lobes([axis])[0], (9, 9, 9, 45)).astype(np.float32)
    line = spaces.to_mm([[4.0, 4, 4]], affine) + np.linspace(0, 5, 20)[:, None] * [
        cos(0.3),
        np.sin(0.3),
        0,
    ]
    batch = draw_batch(
        [Reference(data.copy(), affine, [line])],
        20,
        frame=frame,
        step_mm=0.5,
        max_points=9,
        rng=np.random.default_rng(0),
        blur=Blur(0.0, (0.0, 0.0)),
        teacher=peak_ahead,
    )
    target = batch.target.numpy()
    if frame == "voxel":
        assert np.abs(target @ axis).min() > cos(np.deg2rad(3))
    else:
        assert_allclose(target[:, 2], cos(0.3), atol=0.03)


@pytest.mark.parametrize("kind", [RecurrentPropagator, CaiPropagator])
def test_both_architectures_train_and_then_track(kind, tmp_path):
    phantom = crossing_phantom(90.0, shape=(16, 16, 8))
    features = sh.fodf_features(phantom.fodf(4))
    streamlines, _ = phantom.streamlines(20)
    torch.manual_seed(0)
    module = kind(4, hidden=32, layers=1)
    fit(
        module,
        [Reference(features.data, phantom.affine, streamlines)],
        n_updates=400,
        n_sequences=48,
        learning_rate=5e-3,
    )
    path = tmp_path / "trained.pt"
    save_model(
        module,
        ModelMetadata("sh", 15, module.frame, 1, 32, normalisation="power"),
        path,
    )
    seeds = [line[len(line) // 3] for line in streamlines]
    lines = list(
        rnn_tracking(
            seeds,
            BinaryStoppingCriterion(phantom.mask()),
            phantom.affine,
            features=features,
            model=path,
            step_size=0.5,
            min_len=0,
        )
    )
    # The bundles are 29 mm long.
    lengths = np.array([0.5 * (len(line) - 1) for line in lines])
    assert len(lines) == len(seeds) and np.median(lengths) > 20
