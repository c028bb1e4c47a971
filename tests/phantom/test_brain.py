"""Simulated brains: small ones, with properties that hold for all."""

from dipy.core.gradients import gradient_table
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest

from dipy_rnn.evaluation import KnownBundle, score
from dipy_rnn.phantom import Ball, BrainWorld, brain_world
from dipy_rnn.phantom.brain import KNOWLEDGE, oracle_seeds, oracle_streamlines
from dipy_rnn.phantom.brain.anatomy import (
    CORTEX,
    FINE_MM,
    FLUID,
    LESION,
    NUCLEUS,
    OUTSIDE,
    WHITE,
    _solve_laplace,
)
from dipy_rnn.phantom.brain.populations import FIBRE_SHARE
from dipy_rnn.phantom.fibre_fields import FibreFields
from dipy_rnn.phantom.signal import _dispersed
from dipy_rnn.spatial import to_voxels

SMALL = {"shape": (20, 24, 20), "voxel_size_mm": 2.5, "n_bundles": 16}


@pytest.fixture(scope="module")
def world():
    return brain_world(3, n_streamlines=120, **SMALL)


def with_lesions(world, lesions):
    return BrainWorld(
        world.anatomy,
        world.plans,
        world.lines,
        world.fields,
        world.affine,
        world.shape,
        lesions=lesions,
    )


def tangents_at(lines, i):
    steps = (lines[:, :, i + 1] - lines[:, :, i - 1]).reshape(-1, 3).astype(float)
    return steps / np.linalg.norm(steps, axis=1, keepdims=True)


# Anatomy


def test_the_same_seed_gives_the_same_brain():
    first, second = (brain_world(5, n_streamlines=20, **SMALL) for _ in range(2))
    other = brain_world(6, n_streamlines=20, **SMALL)
    assert_array_equal(first.lines, second.lines)
    assert_array_equal(first.peaks()[0], second.peaks()[0])
    assert_array_equal(first.tissues(), second.tissues())
    assert not np.array_equal(first.anatomy.tissue, other.anatomy.tissue)


def test_the_head_has_all_tissues_and_white_matter_is_enclosed_by_cortex(world):
    tissue = world.anatomy.tissue
    assert set(np.unique(tissue)) == {CORTEX, NUCLEUS, WHITE, FLUID, OUTSIDE}
    white, bare = tissue == WHITE, tissue == OUTSIDE
    white[:, :, : tissue.shape[2] // 2] = False  # the stem has no cortex
    for axis in range(3):
        for shift in (-1, 1):
            assert not np.any(white & np.roll(bare, shift, axis))


def test_tissues_fill_each_voxel_of_the_head_and_nothing_else(world):
    total = world.tissues().sum(axis=-1)
    assert np.all(total <= 1 + 1e-5)
    in_cerebrum = world.mask()[:, :, 8:]
    assert_allclose(total[:, :, 8:][in_cerebrum], 1, atol=1e-5)
    assert total[0, 0, -1] == 0


def test_a_harmonic_function_between_two_planes_is_linear():
    values = np.array([0, 0, 0, 0, 1.0]).reshape(5, 1, 1)
    free = np.array([0, 1, 1, 1, 0], dtype=bool).reshape(5, 1, 1)
    assert_allclose(_solve_laplace(free, values), [0.25, 0.5, 0.75], atol=0.01)


def test_labels_number_patches_nuclei_and_the_stem(world):
    labels = world.anatomy.regions
    assert set(np.unique(labels)) == set(range(world.anatomy.stem + 1))
    x = np.indices(labels.shape)[0] - (labels.shape[0] - 1) / 2
    half = world.anatomy.n_patches // 2
    assert np.all(x[(labels > 0) & (labels <= half)] <= 0)
    assert np.all(x[(labels > half) & (labels <= 2 * half)] >= 0)


# Bundles


def test_streamlines_end_beside_the_regions_of_their_bundle(world):
    anatomy = world.anatomy
    for lines, regions in zip(world.lines, world.regions, strict=True):
        for points, region in zip((lines[:, 0], lines[:, -1]), regions, strict=True):
            place = anatomy.interface_mm(region)
            apart = np.linalg.norm(points[:, None] - place[None], axis=2).min(axis=1)
            assert apart.max() < 3 * FINE_MM


def test_streamlines_stay_in_white_matter(world):
    clearance = world.anatomy.sample(
        world.anatomy.clearance_mm, world.lines[:, :, 4:-4].astype(float)
    )
    assert np.mean(clearance < -FINE_MM) < 0.03


def test_bundles_of_all_kinds_fill_white_matter(world):
    assert set(world.kinds) == {"association", "commissural", "projection", "u"}
    fractions = world.peaks()[0][world.mask()]
    n_populations = (fractions > 0).sum(axis=-1)
    assert np.mean(n_populations > 0) > 0.95
    assert np.mean(n_populations > 1) > 0.4


def test_populations_are_sorted_units_and_fill_a_voxel_at_most(world):
    fractions, directions = world.peaks()
    assert np.all(np.diff(fractions, axis=-1) <= 0)
    assert fractions.sum(axis=-1).max() <= FIBRE_SHARE + 1e-5
    norms = np.linalg.norm(directions, axis=-1)
    assert_allclose(norms, fractions > 0, atol=1e-5)
    assert_array_equal(world.bundle_ids() >= 0, fractions > 0)


def test_a_flipped_grid_has_the_same_fibres_along_its_own_axes(world):
    flipped = world.affine @ np.diag([-1.0, 1, 1, 1])
    flipped[:3, 3] = world.affine[:3, 3] + world.affine[:3, 0] * (world.shape[0] - 1)
    there = world.on_grid(flipped, world.shape)
    fractions, directions = world.peaks()
    assert_allclose(there.peaks()[0][::-1], fractions, atol=1e-5)
    same = fractions[..., 0] > 1.1 * fractions[..., 1]
    assert_allclose(
        there.peaks()[1][::-1][same][:, 0] * [-1, 1, 1],
        directions[same][:, 0],
        atol=1e-4,
    )


# Directions of a bundle


def test_a_query_returns_the_tangents_of_the_bundle(world):
    n_bundles, n_lines = world.lines.shape[:2]
    ids = np.repeat(np.arange(n_bundles), n_lines)
    directions, inside = world.bundle_directions(
        ids, world.lines[:, :, 32].reshape(-1, 3)
    )
    cosines = np.sum(directions * tangents_at(world.lines, 32), axis=1)
    assert np.mean(inside) > 0.97
    assert np.median(cosines) > np.cos(np.radians(12))
    assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-6)


def test_a_query_does_not_depend_on_the_other_points(world):
    points_mm = world.lines[2, :9, 20]
    together, _ = world.bundle_directions(np.full(9, 2), points_mm)
    alone = [world.bundle_directions([2], point[None])[0][0] for point in points_mm]
    assert_array_equal(together, alone)


def test_a_point_far_from_a_bundle_has_no_direction(world):
    directions, inside = world.bundle_directions([0, 0], [[1e4, 0, 0], [0, 0, 24.0]])
    assert_array_equal(directions[0], 0)
    assert not inside[0]


def test_a_field_of_two_opposite_halves_keeps_their_directions():
    # A bundle that turns back 20 mm aside of itself.
    angle = np.linspace(0, np.pi, 80)
    arc = np.column_stack([10 * np.cos(angle), 10 * np.sin(angle), 0 * angle])
    rng = np.random.default_rng(0)
    lines = arc + rng.normal(0, 0.7, (1, 60, 1, 3))
    directions, occupancy, share = FibreFields(lines, np.eye(4)).at(
        np.array([0, 0, 0]), np.array([[0.0, 10, 0], [7.07, 7.07, 0], [-7.07, 7.07, 0]])
    )
    h = np.sqrt(0.5)
    assert_allclose(directions, [[-1, 0, 0], [-h, h, 0], [-h, -h, 0]], atol=0.05)
    assert np.all(occupancy > 0.8)
    assert_allclose(share, [0.5, 0.25, 0.75], atol=0.02)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0.0], "the type float64"),
        ([0, 1], "one integer for each of 1 points"),
        ([-1], "holds -1 to -1"),
        ([10**6], "numbers from 0 to"),
    ],
)
def test_a_query_of_unknown_bundles_raises(world, ids, message):
    with pytest.raises(ValueError, match=message):
        world.bundle_directions(ids, [[0.0, 0, 0]])


# Signal and lesions


def test_signal_without_weighting_is_that_of_the_tissues(world):
    gtab = gradient_table(np.array([0, 1000.0]), bvecs=np.eye(3)[:2])
    healthy = with_lesions(world, [])
    tissues = healthy.tissues()
    dwi = healthy.dwi(gtab, s0=50)
    expected = 50 * (tissues[..., :3].sum(axis=-1) + 2 * tissues[..., FLUID])
    assert_allclose(dwi[..., 0], expected, atol=1e-3)
    assert np.all(dwi[..., 1] <= dwi[..., 0] + 1e-4)


def test_a_lesion_replaces_sixty_percent_of_the_fibres(world):
    healthy = with_lesions(world, [])
    voxel = np.array([(world.shape[0] - 1) // 2 + 4, 12, 11])
    assert healthy.mask()[tuple(voxel)]
    centre_mm = (world.affine @ [*voxel, 1])[:3]
    ill = with_lesions(world, [Ball(centre_mm, 6.0)])
    here = tuple(voxel)
    before, after = (w.peaks()[0][here].sum() for w in (healthy, ill))
    assert_allclose(after, 0.4 * before, rtol=1e-4)
    assert_allclose(ill.tissues()[here][LESION], healthy.tissues()[here][WHITE])
    assert ill.tissues()[here][WHITE] == 0


def test_dispersed_directions_have_the_given_variance():
    fibres = np.array(_dispersed(np.array([[0.0, 0, 1], [0.6, 0, 0.8]]), 12.0))
    assert_allclose(np.linalg.norm(fibres, axis=-1), 1)
    moment = np.einsum("kvi,kvj->vij", fibres, fibres) / len(fibres)
    variance = np.sin(np.radians(12.0)) ** 2
    assert_allclose(
        np.linalg.eigvalsh(moment), [[variance, variance, 1 - 2 * variance]] * 2
    )


def test_dispersion_lowers_the_anisotropy_of_the_signal(world):
    gtab = gradient_table(np.array([0, 1e3, 1e3, 1e3]), bvecs=np.eye(4)[:, 1:])
    contrast = [
        np.ptp(world.dwi(gtab, dispersion_deg=deg)[world.mask()][:, 1:], axis=1).mean()
        for deg in (0.0, 25.0)
    ]
    assert contrast[1] < 0.9 * contrast[0]


# Evaluation and oracles


@pytest.fixture(scope="module")
def bundles(world):
    return [KnownBundle(*volumes) for volumes in world.bundle_volumes()]


def test_true_streamlines_are_valid_connections(world, bundles):
    streamlines, ids = world.streamlines(20)
    scores = score(streamlines, bundles, world.affine)
    assert scores.valid_connections > 0.9
    assert np.mean(scores.labels == ids) > 0.75


def test_streamlines_have_the_given_step_and_ends(world):
    streamlines, ids = world.streamlines(3, step_mm=1.0)
    assert_array_equal(np.bincount(ids), 3)
    for line, b in zip(streamlines, ids, strict=True):
        steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
        assert abs(np.median(steps) - 1) < 0.05
        assert np.linalg.norm(world.lines[b, :, 0] - line[0], axis=1).min() < 1e-4


def test_an_oracle_that_knows_its_bundle_connects_its_ends_most_often(world, bundles):
    seeds_mm, ids = oracle_seeds(world, 300)
    valid = {}
    for knows in ("local", "memory", "bundle"):
        lines = oracle_streamlines(world, seeds_mm, ids, knows=knows)
        valid[knows] = score(lines, bundles, world.affine).valid_connections
    assert valid["bundle"] > max(valid["local"], valid["memory"])


@pytest.mark.parametrize("knows", KNOWLEDGE)
def test_an_oracle_ends_where_trackers_end(world, knows):
    seeds_mm, ids = oracle_seeds(world, 50)
    lines = oracle_streamlines(
        world, seeds_mm, ids, knows=knows, step_mm=1.0, max_angle_deg=20.0
    )
    for line, seed in zip(lines, seeds_mm, strict=True):
        assert np.any(np.all(line == seed, axis=1))
        steps = np.diff(line, axis=0)
        assert_allclose(np.linalg.norm(steps, axis=1), 1)
        voxels = np.round(to_voxels(line, world.affine)).astype(int)
        assert np.all(world.mask()[tuple(voxels.T)])
        cosines = np.sum(steps[1:] * steps[:-1], axis=1)
        assert np.all(cosines > np.cos(np.radians(20)) - 1e-9)


def test_an_oracle_with_unknown_knowledge_raises(world):
    with pytest.raises(ValueError, match="knows is 'all'"):
        oracle_streamlines(world, [[0.0, 0, 0]], [0], knows="all")


@pytest.mark.parametrize("option", ["step_mm", "max_len_mm", "max_angle_deg"])
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_an_oracle_refuses_options_out_of_range(world, option, value):
    options = {"knows": "bundle", option: value}
    with pytest.raises(ValueError, match=f"{option} is {value}; a positive"):
        oracle_streamlines(world, [[0.0, 0, 0]], [0], **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (10, 10, 10)}, "40 mm or more"),
        ({"n_bundles": 3}, "n_bundles"),
        ({"n_streamlines": 1}, "n_streamlines"),
        ({"voxel_size_mm": -1.0}, "voxel_size_mm"),
    ],
)
def test_a_brain_of_invalid_size_raises(arguments, message):
    with pytest.raises(ValueError, match=message):
        brain_world(0, **arguments)
