"""Phantoms, against results that can be computed by hand."""

import re

from dipy.core.gradients import gradient_table
from dipy.data import get_sphere
from dipy.reconst.shm import sh_to_sf
from dipy.sims.voxel import multi_tensor
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest

from dipy_rnn.phantom import (
    Ball,
    Bundle,
    Phantom,
    circle_phantom,
    crossing_phantom,
    random_phantom,
)

# DIPY's sh_to_sf warns that its default basis may change in a future release.
legacy_basis = pytest.mark.filterwarnings("ignore:The legacy descoteaux07")


def line(start, end, spacing_mm=0.5):
    start, end = np.array(start, float), np.array(end, float)
    n = 1 + round(np.linalg.norm(end - start) / spacing_mm)
    return start + np.linspace(0, 1, n)[:, None] * (end - start)


def helix(radius_mm=15.0, pitch_mm=20.0):
    angle = np.linspace(0, 3 * np.pi, 400)
    return np.column_stack(
        [
            radius_mm * np.cos(angle),
            radius_mm * np.sin(angle),
            pitch_mm * angle / (2 * np.pi),
        ]
    )


def angles_deg(a, b):
    """Return the angles between the axes a and b; small angles are exact, too."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    across = np.linalg.norm(np.cross(a, b), axis=-1)
    return np.degrees(np.arctan2(across, np.abs(np.sum(a * b, axis=-1))))


def fractions_sum(phantom):
    return phantom.peaks()[0].sum(axis=-1)


def oblique_affine(seed=5):
    """Return an affine: rotated, flipped, permuted, with voxels of 1.5 x 2 x 3 mm."""
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    if np.linalg.det(rotation) > 0:
        rotation[:, 0] *= -1
    affine = np.eye(4)
    affine[:3, :3] = rotation[:, [2, 0, 1]] * [1.5, 2.0, 3.0]
    affine[:3, 3] = -affine[:3, :3] @ [16, 12, 8]
    return affine


@pytest.fixture
def gtab():
    """Return b = 0, then b = 1000 s/mm^2 along x, y, z and six other directions."""
    others = np.random.default_rng(0).normal(size=(6, 3))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    bvecs = np.vstack([np.zeros(3), np.eye(3), others])
    return gradient_table(np.array([0.0] + [1000.0] * 9), bvecs=bvecs)


# Directions


def test_a_straight_tube_runs_along_its_centreline_and_ends_at_its_end_discs():
    bundle = Bundle(line([0, 0, 0], [0, 20, 0]), 5.0)
    inside = [[0, 10, 0], [3, 10, -2], [4.5, 10, 0]]
    outside = [[5.1, 10, 0], [0, -0.1, 0], [1, 20.1, 0]]
    points_mm = np.array(inside + outside)
    directions, fraction = bundle.directions(points_mm)
    assert_allclose(directions[:3], [[0, 1, 0]] * 3, atol=1e-12)
    assert_array_equal(directions[3:], 0)
    # 4.5 mm is in the middle of the outer fifth.
    assert_allclose(fraction, [1, 1, 0.5, 0, 0, 0], atol=1e-12)


def test_fraction_falls_steadily_over_the_outer_fifth_of_the_radius():
    bundle = Bundle(line([0, 0, 0], [20, 0, 0]), 5.0)
    radii = np.linspace(0, 6, 61)
    points_mm = np.column_stack([np.full(61, 10.0), radii, np.zeros(61)])
    _, fraction = bundle.directions(points_mm)
    assert_array_equal(fraction[radii < 4], 1)
    assert_array_equal(fraction[radii > 5], 0)
    between = (radii > 4.05) & (radii < 4.95)
    assert np.all(np.diff(fraction[between]) < 0)


def test_direction_in_a_circle_is_perpendicular_to_the_radius():
    (bundle,) = circle_phantom(20.0, tube_mm=6.0).bundles
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 500)
    distance = rng.uniform(15.5, 24.5, 500)
    points_mm = np.column_stack(
        [distance * np.cos(angle), distance * np.sin(angle), rng.uniform(-2, 2, 500)]
    )
    directions, fraction = bundle.directions(points_mm)
    assert np.all(fraction > 0)
    tangents = np.column_stack([-np.sin(angle), np.cos(angle), np.zeros(500)])
    assert_allclose(directions, tangents, atol=1e-5)


def test_fibres_of_a_cone_diverge_from_its_apex():
    # The radius grows by 0.1 mm per mm from 2 mm, so all lines meet at x = -20 mm.
    centreline_mm = line([0, 0, 0], [40, 0, 0])
    bundle = Bundle(centreline_mm, 2 + 0.1 * centreline_mm[:, 0])
    points_mm = np.array([[10.0, 1, 1], [30, 0, -4], [40, 3, 3], [0, 0.5, 0]])
    directions, _ = bundle.directions(points_mm)
    assert_allclose(angles_deg(directions, points_mm - [-20, 0, 0]), 0, atol=1e-6)


def test_directions_change_smoothly_between_the_samples_of_the_centreline():
    bundle = Bundle(helix(), 5.0)
    path_mm = helix()[100:200] + [1.0, -1, 2]
    fine_mm = np.repeat(path_mm[:-1], 20, axis=0) + np.tile(
        np.linspace(0, 1, 20, endpoint=False)[:, None], (99, 1)
    ) * np.repeat(np.diff(path_mm, axis=0), 20, axis=0)
    directions, fraction = bundle.directions(fine_mm)
    assert np.all(fraction > 0)
    turns = angles_deg(directions[:-1], directions[1:])
    assert turns.max() < 1.5 * turns.mean()


# Sheets


SHEET = {"radius_mm": 3.0, "flatness": 4.0, "wide_along": (0, 0, 1)}  # 6 x 1.5 mm


def test_a_sheet_is_an_ellipse_with_its_half_axes():
    sheet = Bundle(line([0, 0, 0], [20, 0, 0]), **SHEET)
    inside = [[10, 0, 0], [10, 0, 4.7], [10, -1.1, 0], [10, 0.7, -3]]
    # At 90 % of each half-axis the fraction is one half.
    halfway = [[10, 0, 5.4], [10, 1.35, 0]]
    outside = [[10, 0, 6.1], [10, -1.6, 0], [10, 1.2, 4.8], [-0.1, 0, 0]]
    points_mm = np.array(inside + halfway + outside)
    directions, fraction = sheet.directions(points_mm)
    assert_allclose(fraction, [1] * 4 + [0.5] * 2 + [0] * 4, atol=1e-9)
    assert_allclose(directions[:6], [[1, 0, 0]] * 6, atol=1e-12)
    assert_array_equal(directions[6:], 0)


def test_only_the_part_of_wide_along_across_the_centreline_counts():
    sheet = Bundle(line([0, 0, 0], [20, 0, 0]), 3.0, flatness=4.0, wide_along=(9, 3, 4))
    wide_mm = 4.7 * np.array([0, 0.6, 0.8])
    thin_mm = 1.6 * np.array([0, 0.8, -0.6])
    _, fraction = sheet.directions(np.array([wide_mm, thin_mm]) + [10.0, 0, 0])
    assert_allclose(fraction, [1, 0])


def test_a_closed_sheet_is_a_ring():
    angle = np.linspace(0, 2 * np.pi, 400)
    circle = np.column_stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)])
    ring = Bundle(20 * circle, **SHEET)
    points_mm = np.array([[20.0, 0, 4.7], [0, -20, -4.7], [21.6, 0, 0], [0, 18.4, 0]])
    directions, fraction = ring.directions(points_mm)
    assert_allclose(fraction, [1, 1, 0, 0])
    assert_allclose(directions[:2], [[0, 1, 0], [1, 0, 0]], atol=1e-4)


def test_fibres_of_a_sheet_stay_inside_and_follow_the_directions():
    centreline_mm = helix()
    radius_mm = np.linspace(2, 4, len(centreline_mm))
    sheet = Bundle(centreline_mm, radius_mm, flatness=4.0)
    fibres = sheet.streamlines(20, step_mm=0.4, rng=np.random.default_rng(0))
    for fibre in fibres:
        directions, fraction = sheet.directions((fibre[:-1] + fibre[1:]) / 2)
        assert fraction.min() > 0.49
        assert angles_deg(np.diff(fibre, axis=0), directions).max() < 0.01
    # The outer fibres lie beyond the radius, within the width.
    starts = np.array([fibre[0] for fibre in fibres]) - centreline_mm[0]
    assert np.linalg.norm(starts, axis=1).max() > 1.5 * radius_mm[0]


def test_the_volume_of_a_sheet_is_that_of_a_round_tube():
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = -12
    centreline_mm = line([-9, 0.3, -0.4], [9, 0.3, -0.4])
    sheet, tube = (
        Phantom([Bundle(centreline_mm, 5.0, flatness=f)], affine, (25, 25, 25))
        for f in (3.0, 1.0)
    )
    assert_allclose(sheet.peaks()[0].sum(), tube.peaks()[0].sum(), rtol=0.01)


# Streamlines


@pytest.mark.parametrize("seed", range(3))
def test_streamlines_are_equally_spaced_and_follow_the_directions(seed):
    phantom = random_phantom(seed, shape=(24, 24, 24), n_bundles=4)
    streamlines, bundle_ids = phantom.streamlines(5, step_mm=0.5, random_seed=seed)
    assert_array_equal(bundle_ids, np.repeat(range(4), 5))
    for streamline, b in zip(streamlines, bundle_ids, strict=True):
        assert streamline.dtype == np.float64
        steps = np.diff(streamline, axis=0)
        lengths = np.linalg.norm(steps, axis=1)
        # In a bend of 4 mm radius, a chord is a bit shorter than 0.5 mm of fibre, and
        # not exactly along its tangent.
        assert_allclose(lengths, lengths.mean(), rtol=3e-3)
        assert abs(lengths.mean() - 0.5) < 0.01
        directions, fraction = phantom.bundles[b].directions(
            (streamline[:-1] + streamline[1:]) / 2
        )
        assert fraction.min() >= 0.49
        assert angles_deg(steps, directions).max() < 0.5
        assert np.all(np.sum(steps * directions, axis=1) > 0)


def test_streamlines_of_a_helix_that_fans_out_follow_the_directions():
    centreline_mm = helix()
    bundle = Bundle(centreline_mm, np.linspace(2, 5, len(centreline_mm)))
    rng = np.random.default_rng(0)
    for streamline in bundle.streamlines(10, step_mm=0.4, rng=rng):
        directions, _ = bundle.directions((streamline[:-1] + streamline[1:]) / 2)
        assert angles_deg(np.diff(streamline, axis=0), directions).max() < 0.005


def test_streamlines_go_from_end_to_end():
    bundle = Bundle(line([0, 0, 0], [20, 0, 0]), 5.0)
    for streamline in bundle.streamlines(5, step_mm=0.3, rng=np.random.default_rng(0)):
        assert_allclose(streamline[[0, -1], 0], [0, 20], atol=1e-9)
        assert len(streamline) == 68  # 67 steps: the nearest number to 20 / 0.3


def test_streamlines_fill_the_tube_evenly():
    bundle = Bundle(line([0, 0, 0], [20, 0, 0]), 5.0)
    rng = np.random.default_rng(0)
    ends = np.array([s[0] for s in bundle.streamlines(2000, step_mm=5.0, rng=rng)])
    distance = np.hypot(ends[:, 1], ends[:, 2])
    assert distance.max() <= 4.5
    # Half of the area lies within 1 / sqrt(2) of the radius.
    assert abs(np.mean(distance < 4.5 / np.sqrt(2)) - 0.5) < 0.04


def test_streamlines_of_a_circle_close():
    for streamline in circle_phantom(20.0, tube_mm=6.0).streamlines(5)[0]:
        assert_allclose(streamline[0], streamline[-1], atol=1e-9)
        distance = np.hypot(streamline[:, 0], streamline[:, 1])
        assert_allclose(distance, distance[0], atol=1e-3)


# Seeds


def test_the_same_seed_gives_the_same_phantom_and_another_seed_another():
    def world(seed):
        phantom = random_phantom(seed, shape=(12, 12, 12), voxel_size_mm=4, n_bundles=3)
        sh = phantom.fodf(4, noise=0.1, random_seed=seed)
        return sh, phantom.streamlines(2)[0], phantom.csf_fraction()

    sh, streamlines, csf = world(1)
    same_sh, same_streamlines, same_csf = world(1)
    assert_array_equal(sh, same_sh)
    assert_array_equal(csf, same_csf)
    for a, b in zip(streamlines, same_streamlines, strict=True):
        assert_array_equal(a, b)
    assert not np.allclose(sh, world(2)[0])
    assert not np.allclose(streamlines[0][0], world(2)[1][0][0])


def test_another_seed_draws_other_noise_and_other_streamlines():
    phantom = crossing_phantom(shape=(10, 10, 6))
    sh, other_sh = (phantom.fodf(4, noise=0.1, random_seed=s) for s in (0, 1))
    assert not np.allclose(sh, other_sh)
    first, other = (phantom.streamlines(1, random_seed=s)[0][0] for s in (0, 1))
    assert not np.allclose(first[0], other[0])


@pytest.mark.parametrize("shape", [(32, 32, 32), (8, 8, 8), (40, 12, 20)])
def test_random_bundles_stay_in_the_field_of_view_and_within_their_limits(shape):
    half_mm = 0.9 * np.array(shape) + 1e-9
    for bundle in random_phantom(3, shape=shape, n_bundles=40).bundles:
        assert np.all(np.abs(bundle.centreline_mm) < half_mm)
        assert bundle.radius_mm.max() <= 8
        assert bundle.radius_mm.max() / bundle.radius_mm.min() <= 2.5 + 1e-9
        assert 0.2 <= bundle.weight <= 1


def test_random_bundles_include_sheets_fans_and_tight_bends():
    bundles = [b for seed in range(8) for b in random_phantom(seed).bundles]
    flatness = np.array([b.flatness for b in bundles])
    assert 0.2 < np.mean(flatness > 1) < 0.5
    assert 2.5 < flatness.max() <= 4
    thinnest_mm = [b.radius_mm.min() / np.sqrt(b.flatness) for b in bundles]
    assert min(thinnest_mm) > 1.2 - 1e-9
    assert 0.3 < np.mean([np.ptp(b.radius_mm) > 0.1 for b in bundles]) < 0.7
    # In a bend of less than 8 mm radius, a tube is thinner than 80 % of that.
    assert (
        np.mean([b.radius_mm.max() * np.sqrt(b.flatness) < 6.4 for b in bundles]) > 0.3
    )


def test_random_water_is_small_and_off_the_centrelines():
    balls = []
    for seed in range(12):
        phantom = random_phantom(seed, n_bundles=5)
        for ball in phantom.csf:
            assert 3 <= ball.radius_mm <= 10
            for bundle in phantom.bundles:
                assert not np.any(ball.fraction(bundle.centreline_mm) > 1e-3)
        balls.append(len(phantom.csf))
    assert set(balls) == {0, 1, 2, 3}


RIM = [(np.cos(a), np.sin(a)) for a in np.arange(0, 2 * np.pi, np.pi / 12)]


def test_in_about_half_of_the_worlds_the_last_bundle_kisses_another():
    kisses = 0
    for seed in range(20):
        *others, last = random_phantom(seed, n_bundles=4).bundles
        rim = [last.fibre(0.85 * c, 0.85 * s) for c, s in RIM]
        outer = np.concatenate([last.fibre(1.2 * c, 1.2 * s) for c, s in RIM])
        for other in others:
            inside = [other.directions(fibre)[1] > 0 for fibre in rim]
            if np.any(inside):
                continue
            # The two do not overlap. Count them if they touch over at least 8 mm.
            touching = other.directions(outer)[1].reshape(len(RIM), -1) > 0
            length_mm = 0.25 * np.any(touching, axis=0).sum()
            parted = not touching[:, :8].any() and not touching[:, -8:].any()
            kisses += parted and length_mm >= 8
    assert 5 <= kisses <= 15


def test_random_bundles_cross_often():
    n_populations = [
        (random_phantom(seed).peaks()[0] > 0.1).sum(axis=-1) for seed in range(4)
    ]
    filled = np.sum(np.array(n_populations) >= 1)
    assert np.sum(np.array(n_populations) >= 2) > 0.1 * filled
    assert np.sum(np.array(n_populations) >= 3) > 0.03 * filled


# Grids


def test_directions_on_an_oblique_flipped_grid_agree_in_world_space():
    world = random_phantom(4, n_bundles=4)
    affine = oblique_affine()
    phantom = world.on_grid(affine, (33, 25, 17))
    fractions, directions = phantom.peaks()
    axes = affine[:3, :3] / [1.5, 2.0, 3.0]
    weights = np.array([bundle.weight for bundle in world.bundles])
    seen = np.argwhere(fractions > 0.9 * weights)
    assert len(seen) > 50
    for b in np.unique(seen[:, 3]):
        voxels = seen[seen[:, 3] == b, :3]
        points_mm = voxels @ affine[:3, :3].T + affine[:3, 3]
        expected, _ = world.bundles[b].directions(points_mm)
        turned_back = directions[(*voxels.T, b)] @ axes.T
        # The mean over a voxel of 3 mm differs from the direction at its centre.
        assert angles_deg(turned_back, expected).max() < 2
        assert np.all(np.sum(turned_back * expected, axis=1) > 0)


def test_permuted_and_flipped_axes_permute_and_flip_the_volume():
    world = random_phantom(6, shape=(12, 14, 16), voxel_size_mm=3, n_bundles=3)
    # New axes: old z, old x backwards, old y.
    affine = np.eye(4)
    affine[:3, :3] = world.affine[:3, :3] @ [[0, -1, 0], [0, 0, 1], [1, 0, 0]]
    affine[:3, 3] = (world.affine @ [11, 0, 0, 1])[:3]
    fractions, directions = world.peaks()
    other_fractions, other_directions = world.on_grid(affine, (16, 12, 14)).peaks()
    assert fractions.max() > 0.5

    def move(volume):
        return np.moveaxis(volume, 2, 0)[:, ::-1]

    assert_allclose(other_fractions, move(fractions), atol=1e-6)
    expected = move(directions)[..., [2, 0, 1]] * [1, -1, 1]
    assert_allclose(other_directions, expected, atol=1e-5)


@pytest.mark.parametrize(
    "phantom",
    [circle_phantom(12.0, voxel_size_mm=(2.0, 3.0, 2.5)), crossing_phantom(90.0)],
)
def test_worlds_are_centred_in_their_field_of_view(phantom):
    fractions = fractions_sum(phantom)
    assert fractions.max() > 0.9
    for axis in range(3):
        assert_allclose(fractions, np.flip(fractions, axis), atol=1e-6)


# Peaks and masks


def test_crossing_bundles_share_the_voxel_and_the_total_never_exceeds_one():
    phantom = crossing_phantom(60.0, shape=(25, 25, 13))
    fractions, directions = phantom.peaks()
    assert_allclose(fractions[12, 12, 6], [0.5, 0.5])
    assert_allclose(angles_deg(*directions[12, 12, 6]), 60, atol=1e-4)
    for world in (phantom, random_phantom(0)):
        assert world.peaks()[0].sum(axis=-1).max() <= 1 + 1e-6


def test_fractions_are_weighted_by_the_bundles_weights():
    ends = [0, 8, 8], [16, 8, 8]
    bundles = [Bundle(line(*ends), 5.0, 0.6), Bundle(line(*ends), 5.0, 0.9)]
    alone = Phantom(bundles[:1], np.diag([2.0, 2, 2, 1]), (9, 9, 9))
    both = Phantom(bundles, np.diag([2.0, 2, 2, 1]), (9, 9, 9))
    assert_allclose(alone.peaks()[0][4, 4, 4], [0.6], rtol=1e-6)
    assert_allclose(both.peaks()[0][4, 4, 4], [0.4, 0.6], rtol=1e-6)


def test_fractions_add_up_to_the_volume_of_the_tube():
    bundle = Bundle(line([-15, 0.3, -0.4], [15, 0.3, -0.4]), 6.0)
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = -20
    fractions, _ = Phantom([bundle], affine, (21, 21, 21)).peaks()
    # The integral of the profile over the disc: with q = r / rho from 0.8 to 1,
    # 2 pi rho^2 int f(q) q dq, which is 0.8114 of the full disc.
    q = np.linspace(0, 1, 100001)
    ramp = np.clip((1 - q) / 0.2, 0, 1)
    profile = ramp**2 * (3 - 2 * ramp)
    share = 2 * np.mean(profile * q)
    expected = 30 * np.pi * 36 * share
    assert_allclose(fractions.sum() * 8, expected, rtol=0.01)


def test_directions_are_units_where_there_are_fibres_and_zero_elsewhere():
    fractions, directions = random_phantom(2, n_bundles=3).peaks()
    assert fractions.dtype == directions.dtype == np.float32
    lengths = np.linalg.norm(directions, axis=-1)
    assert_allclose(lengths[fractions > 0], 1, rtol=1e-5)
    assert_array_equal(lengths[fractions == 0], 0)


def test_mask_of_a_straight_tube_holds_its_streamlines():
    phantom = Phantom(
        [Bundle(line([0, 10, 10], [38, 10, 10]), 6.0)],
        np.diag([2.0, 2, 2, 1]),
        (20, 11, 11),
    )
    mask = phantom.mask()
    assert mask.dtype == bool
    assert mask[10, 5, 5] and not mask[10, 0, 5]
    for streamline in phantom.streamlines(20)[0]:
        # The voxels at the ends are only half full.
        inside = streamline[5:-5]
        # A point within half a voxel of the tube's rim may be rounded outwards.
        inside = inside[np.hypot(inside[:, 1] - 10, inside[:, 2] - 10) < 4]
        assert np.all(mask[tuple(np.rint(inside / 2).astype(int).T)])


# Free water


def bundle_with_water(ball, weight=1.0):
    """Return a thick bundle along x in voxels of 2 mm, with water."""
    bundle = Bundle(line([0, 20, 20], [40, 20, 20]), 8.0, weight)
    return Phantom([bundle], np.diag([2.0, 2, 2, 1]), (21, 21, 21), csf=[ball])


def test_water_replaces_fibres(gtab):
    phantom = bundle_with_water(Ball((20, 20, 20), 5.0))
    fractions, directions = phantom.peaks()
    assert_array_equal(fractions[10, 10, 10], 0)
    assert_array_equal(directions[10, 10, 10], 0)
    assert_array_equal(phantom.csf_fraction()[10, 10, 10], 1)
    assert not phantom.mask()[10, 10, 10]
    expected = 100 * np.exp(-gtab.bvals * 3e-3)
    assert_allclose(phantom.dwi(gtab)[10, 10, 10], expected, rtol=1e-5)
    # Away from the water nothing has changed.
    assert_allclose(fractions[3, 10, 10], 1)
    assert phantom.csf_fraction()[3, 10, 10] == 0


@pytest.mark.parametrize("weight", [1.0, 0.6])
def test_water_replaces_fibres_and_grey_matter_in_proportion(gtab, weight):
    # The fraction of water is one half 90 mm from its centre. This surface is almost
    # plane: the eight points of the voxel are 0.5 mm on either side of it.
    phantom = bundle_with_water(Ball((20, 20, -70), 100.0), weight)
    fractions, _ = phantom.peaks()
    csf = phantom.csf_fraction()[10, 10, 10]
    assert abs(csf - 0.5) < 1e-3
    assert_allclose(fractions[10, 10, 10], weight * (1 - csf), rtol=1e-6)
    # Along x: the signals of water, of fibres, and of grey matter in the rest.
    shares = [csf, weight * (1 - csf), (1 - weight) * (1 - csf)]
    expected = 100 * np.dot(shares, np.exp([-3.0, -1.7, -0.7]))
    assert_allclose(phantom.dwi(gtab)[10, 10, 10, 1], expected, rtol=1e-5)


def test_water_and_overlapping_bundles_never_exceed_one():
    bundles = [Bundle(line([0, 20, 20], [40, 20, 20]), 8.0, w) for w in (0.9, 0.6)]
    ball = Ball((20, 20, 13), 8.0)
    phantom = Phantom(bundles, np.diag([2.0, 2, 2, 1]), (21, 21, 21), csf=[ball])
    fractions, csf = phantom.peaks()[0], phantom.csf_fraction()
    share = csf[10, 10, 10]
    assert 0.1 < share < 0.9
    assert_allclose(fractions[10, 10, 10], (1 - share) * np.array([0.6, 0.4]))
    assert (fractions.sum(axis=-1) + csf).max() <= 1 + 1e-6


def test_water_is_the_same_on_another_grid():
    world = bundle_with_water(Ball((20, 20, 14), 7.0))
    affine = world.affine @ np.diag([-1.0, 1, 1, 1])
    affine[0, 3] = 40
    other = world.on_grid(affine, world.shape)
    assert other.csf == world.csf
    assert_allclose(other.csf_fraction(), world.csf_fraction()[::-1], atol=1e-6)


def test_overlapping_balls_do_not_add_up():
    ball = Ball((20, 20, 20), 5.0)
    twice = bundle_with_water(ball).on_grid(np.diag([2.0, 2, 2, 1]), (21, 21, 21))
    twice.csf *= 2
    assert_array_equal(twice.csf_fraction(), bundle_with_water(ball).csf_fraction())


# fODFs


@legacy_basis
def test_fodf_of_a_straight_bundle_peaks_along_it_in_every_voxel():
    sphere = get_sphere(name="repulsion724")
    direction = sphere.vertices[100]
    bundle = Bundle(line(-15 * direction, 15 * direction), 6.0)
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = -15
    phantom = Phantom([bundle], affine, (16, 16, 16))
    odf = sh_to_sf(phantom.fodf(8), sphere, sh_order_max=8, legacy=True)
    odf = odf[phantom.mask()]
    assert len(odf) > 200
    peaks = sphere.vertices[odf.argmax(axis=-1)]
    assert angles_deg(peaks, direction).max() < 1e-3


@legacy_basis
def test_fodf_of_a_bent_bundle_peaks_along_its_directions():
    sphere = get_sphere(name="repulsion724")
    phantom = circle_phantom(20.0, tube_mm=5.0)
    odf = sh_to_sf(phantom.fodf(8), sphere, sh_order_max=8, legacy=True)
    fractions, directions = phantom.peaks()
    full = fractions[..., 0] > 0.5
    peaks = sphere.vertices[odf[full].argmax(axis=-1)]
    # Vertices are about 7 degrees apart; the nearest one is within 5 degrees.
    assert angles_deg(peaks, directions[full][:, 0]).max() < 6


def test_fodf_integrates_to_the_total_fraction():
    phantom = random_phantom(1, n_bundles=3)
    integral = phantom.fodf(4)[..., 0] * np.sqrt(4 * np.pi)
    assert_allclose(integral, fractions_sum(phantom), atol=1e-5)


def test_coefficients_of_a_low_order_do_not_depend_on_the_highest_order():
    phantom = crossing_phantom(70.0, shape=(9, 9, 5))
    assert_allclose(phantom.fodf(4), phantom.fodf(8)[..., :15], atol=1e-6)


def test_wider_lobes_are_lower():
    phantom = crossing_phantom(70.0, shape=(9, 9, 5))
    narrow, wide = (phantom.fodf(lobe_deg=d)[4, 4, 2] for d in (0.0, 20.0))
    # At order 8 the smoothing is exp(-sigma^2 8 9 / 2).
    factor = np.exp(-(np.radians(20) ** 2) * 36)
    assert_allclose(wide[28:], narrow[28:] * factor, atol=1e-6)


def test_fodf_noise_is_relative_to_the_coefficients_of_one_bundle():
    phantom = Phantom(
        [Bundle(line([0, 20, 20], [40, 20, 20]), 4.0)],
        np.diag([2.0, 2, 2, 1]),
        (20, 20, 20),
    )
    clean, noisy = (phantom.fodf(4, lobe_deg=20, noise=n) for n in (0, 0.3))
    assert_array_equal(noisy[..., 0], clean[..., 0])
    noise = (noisy - clean)[..., 1:]
    unit = np.sqrt(np.mean(clean[10, 10, 10, 1:] ** 2))
    assert_allclose(noise.std(), 0.3 * unit, rtol=0.02)
    assert noise[0, 0, 0].any()


# Diffusion-weighted series


def test_dwi_of_a_straight_bundle_is_lowest_along_it(gtab):
    bundle = Bundle(line([10, 0, 10], [10, 20, 10]), 6.0)
    phantom = Phantom([bundle], np.diag([2.0, 2, 2, 1]), (11, 11, 11))
    dwi = phantom.dwi(gtab)
    assert dwi.dtype == np.float32
    assert_allclose(dwi[..., 0], 100, rtol=1e-6)
    # Along y: exp(-1.7), across: exp(-0.3); outside: exp(-0.7) everywhere.
    assert_allclose(dwi[5, 5, 5, 1:4], 100 * np.exp([-0.3, -1.7, -0.3]), rtol=1e-5)
    assert_allclose(dwi[0, 5, 0, 1:], 100 * np.exp(-0.7), rtol=1e-5)


def test_dwi_is_dipys_multi_tensor_with_an_isotropic_remainder(gtab):
    world = random_phantom(5, n_bundles=5)
    ball = Ball((0, 0, 0), 12.0)
    phantom = Phantom(world.bundles, world.affine, world.shape, csf=[ball])
    dwi = phantom.dwi(gtab, s0=50)
    fractions, directions = phantom.peaks()
    n_populations = (fractions > 0).sum(axis=-1)
    csf = phantom.csf_fraction()
    partial = (fractions.sum(axis=-1) < 0.95) & (csf < 0.95)
    for n, wet in ((1, False), (2, False), (1, True), (2, True)):
        voxels = np.argwhere((n_populations == n) & partial & ((csf > 0.05) == wet))
        assert len(voxels) > 0
        for voxel in voxels[:: len(voxels) // 5]:
            inside = fractions[tuple(voxel)] > 0
            shares = [*fractions[tuple(voxel)][inside], csf[tuple(voxel)]]
            shares = np.array(shares, dtype=float)
            expected, _ = multi_tensor(
                gtab,
                [[1.7e-3, 3e-4, 3e-4]] * n + [[3e-3] * 3, [0.7e-3] * 3],
                S0=50,
                angles=np.vstack([directions[tuple(voxel)][inside], np.eye(3)[:2]]),
                fractions=100 * np.append(shares, 1 - shares.sum()),
                snr=None,
            )
            assert_allclose(dwi[tuple(voxel)], expected, rtol=1e-4)


def test_noise_raises_the_background(gtab):
    phantom = crossing_phantom(shape=(20, 20, 10))
    background = fractions_sum(phantom) == 0
    clean, noisy = phantom.dwi(gtab), phantom.dwi(gtab, snr=2)
    assert noisy[background][:, 1:].std() > 10
    assert noisy[background][:, 1:].mean() > 1.1 * clean[background][:, 1:].mean()


# Invalid arguments


LINE = line([0, 0, 0], [10, 0, 0])
ARC = 5 * np.column_stack([np.cos(t := np.linspace(0, 3, 60)), np.sin(t), 0 * t])
CIRCLE = 9 * np.column_stack(
    [np.cos(t := np.linspace(0, 2 * np.pi, 200)), np.sin(t), 0 * t]
)
# Closed, but not planar: normals transported along it come back rotated.
KNOT = CIRCLE + np.column_stack([0 * t, 0 * t, np.sin(2 * t) + 2 * np.cos(3 * t)])


def test_counts_may_be_floats_with_integer_values():
    phantom = crossing_phantom(shape=(4.0, 4.0, 4.0))
    streamlines, bundle_ids = phantom.streamlines(2.0)
    assert len(streamlines) == 4 and bundle_ids.tolist() == [0, 0, 1, 1]
    rng = np.random.default_rng(0)
    assert len(Bundle(LINE, 1.0).streamlines(3.0, step_mm=1.0, rng=rng)) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Bundle(np.zeros((4, 2)), 1.0), "centreline_mm has the shape (4, 2)"),
        (lambda: Bundle(np.zeros((4, 3)), 1.0), "centreline_mm has a repeated"),
        (lambda: Bundle(LINE * np.nan, 1.0), "centreline_mm has a repeated or inf"),
        (lambda: Bundle(LINE, [1.0, 2.0]), "radius_mm has the shape (2,)"),
        (lambda: Bundle(LINE, -1.0), "radius_mm is -1.0"),
        (lambda: Bundle(LINE, 1.0, 1.5), "weight is 1.5"),
        (lambda: Bundle(ARC, 6.0), "must not fold"),
        (lambda: Bundle(ARC, 4.0, flatness=2.0), "must not fold"),
        (lambda: Bundle(LINE, 1.0, flatness=0.0), "flatness is 0.0"),
        (lambda: Bundle(KNOT, 0.5, flatness=2.0), "unless the centreline is planar"),
        (
            lambda: Bundle(LINE, 1.0, wide_along=(1, 0, 0)),
            "is parallel to the",
        ),
        (lambda: Bundle(LINE, 1.0, wide_along=(1, 0)), "three finite numbers"),
        (lambda: Ball((0, 0), 1.0), "centre_mm is (0, 0)"),
        (lambda: Ball((0, 0, 0), -1.0), "radius_mm is -1.0"),
        (lambda: Ball((0, 0, 0), 1.0).fraction(np.zeros(3)), "points_mm has the shape"),
        (lambda: Bundle(CIRCLE, np.linspace(1, 2, 200)), "the same radius at both"),
        (
            lambda: Bundle(LINE, 1.0).directions(np.zeros(3)),
            "the shape (3,)",
        ),
        (
            lambda: Bundle(LINE, 1.0).streamlines(
                1, step_mm=0.0, rng=np.random.default_rng(0)
            ),
            "step_mm is 0.0",
        ),
        (lambda: Phantom([], np.eye(4), (2, 2, 2)), "bundles is empty"),
        (lambda: Phantom([Bundle(LINE, 1.0)], np.eye(3), (2, 2, 2)), "affine has"),
        (lambda: crossing_phantom().on_grid(np.eye(4), (2, 2)), "shape is (2, 2)"),
        (
            lambda: crossing_phantom().on_grid(np.eye(4), (2, 0, 2)),
            "shape along an axis is 0",
        ),
        (lambda: crossing_phantom().fodf(7), "sh_order_max is 7"),
        (lambda: crossing_phantom().fodf(lobe_deg=-1.0), "lobe_deg is -1.0"),
        (lambda: crossing_phantom().fodf(noise=-1.0), "noise is -1.0"),
        (lambda: crossing_phantom().fodf(100), "an even number from 2 to 98"),
        (lambda: crossing_phantom().streamlines(-1), "n_per_bundle is -1"),
        (lambda: crossing_phantom().streamlines(1.5), "n_per_bundle is 1.5"),
        (lambda: crossing_phantom().streamlines(np.nan), "n_per_bundle is nan"),
        (lambda: crossing_phantom().streamlines("2"), "n_per_bundle is of type str"),
        (lambda: crossing_phantom().dwi(None, snr=0), "snr is 0"),
        (lambda: crossing_phantom().dwi(None, evals=(3, 2, 1)), "evals is (3, 2, 1)"),
        (lambda: crossing_phantom(180.0), "angle_deg is 180.0"),
        (lambda: circle_phantom(5.0, tube_mm=5.0), "tube_mm is 5.0"),
        (lambda: random_phantom(0, n_bundles=0), "n_bundles is 0"),
        (lambda: random_phantom(0, n_bundles=np.inf), "n_bundles is inf"),
        (lambda: random_phantom(0, voxel_size_mm=0), "voxel_size_mm is 0"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        call()
    assert "\n" not in str(refusal.value)
