"""Training in which the network tracks a world itself, on a straight bundle along x."""

from dataclasses import replace
from functools import partial
from math import exp, log, pi

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
import torch

from dipy_rnn import sampling, spatial
from dipy_rnn.model import ContextGRU, untrained
from dipy_rnn.phantom import Bundle, Phantom, brain_world, crossing_phantom
from dipy_rnn.phantom.fibre_fields import FibreFields
from dipy_rnn.training import Recipe, TrainingSubject
from dipy_rnn.training.free_running.fit import (
    FreeRunningRecipe,
    fit_free_running,
    loss_of,
)
from dipy_rnn.training.free_running.follow import (
    Conditions,
    Followed,
    Streamlines,
    _led_back,
    follow,
)
from dipy_rnn.training.free_running.world import KnownWorld, KnownWorlds
from dipy_rnn.training.loop import train_network
from dipy_rnn.training.selection import SubjectData
from dipy_rnn.training.sequences import draw_sequences, pack
from dipy_rnn.training.state import predict

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
RADIUS_MM = 6.0
SHAPE = (30, 14, 14)
CENTRE_MM = 13.0  # of the bundle, in y and z


@pytest.fixture(scope="module")
def world():
    line = np.array([[4.0, CENTRE_MM, CENTRE_MM], [54.0, CENTRE_MM, CENTRE_MM]])
    phantom = Phantom([Bundle(line, RADIUS_MM)], AFFINE, SHAPE)
    data = sampling.with_order(sampling.fodf_features(phantom.fodf()).data, 8)
    return KnownWorld.of_phantom(phantom, data, 400, random_seed=0)


def streamlines_in(worlds, module, seed=0, n=24, step_vox=0.5):
    """Streamlines of one group in each world."""
    rng = np.random.default_rng(seed)
    streamlines = Streamlines(KnownWorlds(worlds), module, len(worlds), n, rng)
    for number in range(len(worlds)):
        streamlines.enter(number, number, Conditions(step_vox, 60.0))
    return streamlines


@pytest.fixture(scope="module")
def followed(world):
    torch.manual_seed(0)
    module = ContextGRU()
    return follow(module, streamlines_in([world, world], module), 20)


# Worlds


def test_starts_are_along_the_bundle_and_know_where_they_lead(world):
    assert len(world.starts_mm) > 300
    assert_allclose(np.abs(world.directions[:, 0]), 1, atol=0.02)
    assert_array_equal(world.signs, np.sign(world.directions[:, 0]))
    assert_array_equal(world.bundle_ids, 0)
    assert np.all(world.tissue_at(world.starts_mm) > 0)


def test_tissue_ends_at_the_bundle_and_at_the_image(world):
    inside, beside, outside = [29.0, 13, 13], [29.0, 13, 24], [29.0, 13, 99]
    assert_array_equal(world.tissue_at(np.array([inside, beside, outside])), [1, 0, 0])


def test_starts_of_a_brain_belong_to_bundles_near_their_peaks():
    brain = brain_world(0, shape=(16, 18, 16), voxel_size_mm=3, n_bundles=12)
    data = sampling.fodf_features(brain.fodf()).data
    world = KnownWorld.of_brain(brain, data, 200, random_seed=0)
    along, occupancy, _ = world.fields.at(world.bundle_ids, world.starts_mm)
    cosine = (along * world.directions).sum(axis=1)
    assert_array_equal(np.sign(cosine), world.signs)
    assert np.median(np.abs(cosine)) > np.cos(np.deg2rad(12))
    assert len(world.starts_mm) > 100 and occupancy.min() > 0.05


def test_the_same_seed_gives_the_same_starts():
    brain = brain_world(0, shape=(16, 18, 16), voxel_size_mm=3, n_bundles=12)
    data = sampling.fodf_features(brain.fodf()).data
    one, same, other = (
        KnownWorld.of_brain(brain, data, 50, random_seed=seed) for seed in (1, 1, 2)
    )
    assert_array_equal(one.starts_mm, same.starts_mm)
    assert not np.array_equal(one.starts_mm[:20], other.starts_mm[:20])


@pytest.fixture(scope="module")
def finer_world():
    phantom = crossing_phantom(70, voxel_size_mm=1.5)
    data = sampling.with_order(sampling.fodf_features(phantom.fodf()).data, 8)
    return KnownWorld.of_phantom(phantom, data, 100, random_seed=0)


def test_bundles_of_several_worlds_are_those_of_each_alone(world, finer_world):
    joined = FibreFields.joined([world.fields, finer_world.fields])
    assert joined.n_bundles == 3
    for first, one in ((0, world), (1, finer_world)):
        points = one.starts_mm + np.random.default_rng(0).normal(
            0, 4, one.starts_mm.shape
        )
        alone = one.fields.at(one.bundle_ids, points)
        assert 0 < np.count_nonzero(alone.occupancy) < len(points)
        together = joined.at(one.bundle_ids + first, points)
        for expected, found in zip(alone, together, strict=True):
            assert_array_equal(found, expected)
        for bundle in range(one.fields.n_bundles):
            assert_array_equal(
                joined.cells_mm(first + bundle), one.fields.cells_mm(bundle)
            )


def test_streamlines_start_in_the_world_of_their_group(world, finer_world):
    module = ContextGRU()
    streamlines = streamlines_in([world, finer_world], module, n=30)
    for rows, one, first in zip(
        streamlines.rows, (world, finer_world), (0, 1), strict=True
    ):
        for point, bundle in zip(
            streamlines.points[rows], streamlines.bundle[rows], strict=True
        ):
            number = np.flatnonzero((one.starts_mm == point).all(axis=1))
            assert bundle - first in one.bundle_ids[number]


def test_streamlines_of_two_worlds_see_what_they_see_in_each_alone(world, finer_world):
    module = ContextGRU()
    both = streamlines_in([world, finer_world], module, n=30)
    features, inputs = both.see()
    truths = both.truth()
    for rows, one in zip(both.rows, (world, finer_world), strict=True):
        alone = streamlines_in([one], module, n=30)
        alone.points, alone.frames = both.points[rows], both.frames[rows]
        alone.bundle = both.bundle[rows] - (one is finer_world)
        alone.sign = both.sign[rows]
        seen, given = alone.see()
        assert_allclose(features[rows], seen, atol=1e-6)
        assert_allclose(inputs[rows], given, atol=1e-5)
        for together, expected in zip(truths, alone.truth(), strict=True):
            assert_allclose(together[rows], expected, atol=1e-12)
        # The same as sampling outside the training.
        edge = spatial.voxel_edge(one.affine) / spatial.voxel_sizes(one.affine)
        here = spatial.to_voxels(alone.points, one.affine)
        own, _ = sampling.sample(one.data, here, alone.frames)
        around = sampling.sample_context(
            module.context, one.data, here, alone.frames, edge, own
        )
        assert_allclose(features[rows], sampling.join_context(own, around), atol=1e-6)


# Following


def test_targets_are_the_direction_of_the_bundle_in_the_moving_frame(followed):
    on = followed.on_bundle
    assert on.float().mean() > 0.5
    # The largest value ahead is the bundle, so an untrained network follows it.
    difference = (followed.directions - followed.targets)[on]
    assert difference.norm(dim=1).median() < 0.1
    assert_allclose(followed.targets[on].norm(dim=1), 1, atol=1e-5)
    assert followed.directions.requires_grad and not followed.targets.requires_grad


def test_no_point_is_followed_and_ended_or_lost_at_once(followed):
    kinds = followed.on_bundle.int() + followed.ended.int() + followed.lost.int()
    assert kinds.max() == 1
    # Streamlines of this world reach the ends of the bundle.
    assert followed.ended.any()


def test_a_batch_depends_on_its_generator_only(world, followed):
    torch.manual_seed(0)
    module = ContextGRU()
    for seed, same in ((0, True), (1, False)):
        again = follow(module, streamlines_in([world, world], module, seed), 20)
        assert torch.equal(again.targets, followed.targets) == same


def test_a_new_start_is_near_its_direction_and_has_its_bundle(world):
    new = streamlines_in([world], ContextGRU(), n=200)
    along, _, _ = world.fields.at(new.bundle, new.points)
    cosine = (along * new.sign[:, None] * new.frames[:, 2]).sum(axis=1)
    assert np.all(cosine > np.cos(np.deg2rad(30)))
    assert {-1.0, 1.0} == set(new.sign)


@pytest.mark.parametrize("step_vox", [0.1, 1.0, 2.0])
def test_a_target_is_a_chord_of_the_bundle(world, step_vox):
    # A bundle on a circle of 20 mm around the origin. From a point on it, a step of h
    # turns by half the angle h / 20 mm.
    radius = 20.0
    angle = np.linspace(-1, 1, 80)
    circle = radius * np.stack([np.sin(angle), np.cos(angle), 0 * angle], axis=1)
    offsets = np.random.default_rng(0).normal(0, 0.7, (40, 1, 3))
    offsets = np.concatenate([offsets, -offsets])
    curved = replace(
        world,
        fields=FibreFields((circle + offsets)[None], np.eye(4)),
        starts_mm=np.array([[0.0, radius, 0.0]]),
        directions=np.array([[1.0, 0, 0]]),
        bundle_ids=np.array([0]),
        signs=np.array([1.0]),
    )
    for sign in (1.0, -1.0):
        one = streamlines_in([curved], ContextGRU(), n=1, step_vox=step_vox)
        one.sign[:] = sign
        one.frames[:] = [[[0, 0, 1.0], [0, 1, 0], [sign, 0, 0]]]
        target, _, lost = one.truth()
        turn = 2.0 * step_vox / radius / 2
        assert_allclose(target, [[0, -np.sin(turn), np.cos(turn)]], atol=0.005)
        assert not lost


def test_directions_at_the_rim_lead_back_and_to_the_end_of_the_bundle(world):
    points = np.array([[29.0, CENTRE_MM + r, CENTRE_MM] for r in np.arange(0, 9, 0.5)])
    ids = np.zeros(len(points), dtype=np.int64)
    along, occupancy, _ = world.fields.at(ids, points)
    rim = (occupancy > 0.05) & (occupancy < 0.35)
    assert rim.any()
    back = _led_back(world.fields, ids[rim], points[rim], along[rim], occupancy[rim])
    assert np.all(back[:, 1] < -0.02) and np.all(back[:, 0] > 0.8)
    assert_allclose(np.linalg.norm(back, axis=1), 1)


def test_a_streamline_beside_its_bundle_is_lost_and_gets_a_new_start(world):
    # The bundle that is known is 12 mm beside the one that the fODF shows.
    lines = world.starts_mm[None, :, None] * [0, 0, 0] + np.linspace(4, 54, 40)[
        None, None, :, None
    ] * [1.0, 0, 0]
    shifted = lines[:, :30] + [0.0, CENTRE_MM + 12, CENTRE_MM]
    shifted = shifted + np.random.default_rng(0).normal(0, 1, (1, 30, 1, 3)) * [0, 1, 1]
    elsewhere = KnownWorld(
        world.data,
        world.affine,
        world.tissue,
        FibreFields(shifted, np.eye(4)),
        world.starts_mm,
        world.directions,
        world.bundle_ids,
        world.signs,
    )
    module = ContextGRU()
    result = follow(module, streamlines_in([elsewhere], module, n=16), 10)
    assert result.lost.float().mean() > 0.95


def test_streamlines_go_on_in_the_next_batch_and_new_ones_have_fresh_states(world):
    torch.manual_seed(0)
    module = ContextGRU()
    streamlines = streamlines_in([world], module)
    follow(module, streamlines, 3)
    points, state = streamlines.points.copy(), streamlines.state
    assert state.abs().sum(dim=2).gt(0).all() and not state.requires_grad
    streamlines.start(np.arange(24) < 5)
    assert not streamlines.state[0, :5].any()
    assert torch.equal(streamlines.state[0, 5:], state[0, 5:])
    assert_array_equal(streamlines.points[5:], points[5:])
    # One batch of two steps is two batches of one step.
    one, two = (streamlines_in([world], module) for _ in range(2))
    together = follow(module, one, 2)
    parts = [follow(module, two, 1) for _ in range(2)]
    assert torch.equal(torch.cat([p.directions for p in parts]), together.directions)


# The loss


def beliefs_of(spread, ended, lost):
    return torch.tensor([[spread, ended, lost]])


def test_the_loss_of_one_point_can_be_computed_by_hand():
    z, yes, no = (
        torch.tensor([[0.0, 0, 1]]),
        torch.ones(1).bool(),
        torch.zeros(1).bool(),
    )
    turned = torch.tensor([[0.0, np.sin(0.2), np.cos(0.2)]]).float()
    square = 2 - 2 * np.cos(0.2)
    for spread, logit in ((0.2, 0.0), (0.3, 2.0)):
        point = Followed(
            turned, beliefs_of(spread, logit, -logit), z, yes, no, yes, yes
        )
        # Student's distribution in two dimensions, with four degrees of freedom.
        density = (1 + square / (4 * spread**2)) ** -3 / (2 * pi * spread**2)
        expected = -log(density)
        expected += 2 * 0.5 * log(1 + exp(logit))  # not ended, and lost
        assert loss_of(point).item() == pytest.approx(expected, rel=1e-5)


def test_directions_count_only_where_the_bundle_is_followed():
    z, flags = torch.eye(3)[[2, 2]], torch.tensor([True, False])
    beliefs = beliefs_of(0.1, 0.0, 0.0).repeat(2, 1)
    losses = []
    for second in (z[1], -z[1]):
        directions = torch.stack([z[0], second])
        no = torch.zeros(2).bool()
        losses.append(loss_of(Followed(directions, beliefs, z, flags, no, ~flags, ~no)))
    assert losses[0] == losses[1]


# Training


def test_training_is_reproducible_and_lowers_the_loss(world):
    recipe = FreeRunningRecipe(
        n_updates=60, n_worlds=2, n_each=16, n_points=12, random_seed=3
    )
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        module, rows = ContextGRU(hidden=16, memory=8), []
        last = fit_free_running(
            module, [world], np.ones(1), recipe, report=rows.append, report_every=10
        )
        results.append((module.state_dict(), rows))
        assert last == rows[-1] and last["update"] == 60
        assert not module.training
    (weights, rows), (others, _) = results
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.1


def test_a_loss_that_is_not_finite_is_an_error(world):
    module = ContextGRU(hidden=8, memory=4)
    with torch.no_grad():
        module.head.bias[0] = float("nan")
    recipe = FreeRunningRecipe(n_updates=1, n_worlds=1, n_each=4, n_points=2)
    with pytest.raises(FloatingPointError, match="update 1 is not finite"):
        fit_free_running(module, [world], np.ones(1), recipe)


def test_frames_stay_right_handed_along_a_streamline(world):
    streamlines = streamlines_in([world], ContextGRU(), n=20)
    turn = np.tile([0.3, -0.2, np.sqrt(1 - 0.13)], (20, 1))
    before = streamlines.points.copy()
    streamlines.move(turn)
    assert_allclose(np.linalg.det(streamlines.frames), 1)
    steps = np.linalg.norm(streamlines.points - before, axis=1)
    assert_allclose(steps, 0.5 * spatial.voxel_edge(AFFINE))


# Training on streamlines


def subject_of(phantom):
    features = sampling.fodf_features(phantom.fodf(4))
    return SubjectData(
        "fODF", "bundles", features.data, phantom.affine, phantom.streamlines(30)[0]
    )


def test_a_network_with_context_is_trained_on_streamlines_and_tracks(tmp_path):
    phantom = crossing_phantom(90, shape=(12, 12, 6))
    module, metadata = train_network(
        [partial(subject_of, phantom)],
        Recipe.of("context", n_updates=3, validate_every=3),
        tmp_path / "checkpoint.pt",
        architecture="context",
        hidden=8,
    )
    assert metadata.context == module.context
    assert metadata.hidden == module.n_state
    # The validation tracked with the network, too.
    assert 0 <= metadata.provenance["training"]["followed"] <= 1


def test_a_network_with_context_has_no_option_for_layers():
    with pytest.raises(ValueError, match="layers is 2, but the architecture context"):
        untrained("context", 4, 0, layers=2)


def test_directions_along_packed_sequences_are_those_of_each_sequence_alone(world):
    rng = np.random.default_rng(0)
    points = np.array([[0.0, 0, 0], [9, 0, 0]]) + [20.0, CENTRE_MM, CENTRE_MM]
    subject = TrainingSubject.of(
        world.data, AFFINE, [np.linspace(*points, 20), np.linspace(*points, 9)]
    )
    module = ContextGRU(hidden=8, memory=4)
    options = {"frame": "local", "inputs": module.inputs, "context": module.context}
    parts = [
        draw_sequences(subject, 3, step_vox=0.4, max_points=8, rng=rng, **options)
        for _ in range(2)
    ]
    with torch.no_grad():
        for one in parts:
            alone = predict(module, pack([one]))
            together = predict(module, pack(parts))
            # Longer sequences come first, so rows are found by their features.
            rows = {
                tuple(f): d
                for f, d in zip(
                    pack(parts).features.numpy(), together.numpy(), strict=True
                )
            }
            for f, d in zip(pack([one]).features.numpy(), alone.numpy(), strict=True):
                assert_allclose(rows[tuple(f)], d, atol=1e-5)
