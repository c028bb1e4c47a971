"""Distances, volumes, scores and standard errors, against values computed by hand."""

from inspect import signature
import shutil
import subprocess

from dipy.tracking.metrics import mean_curvature
from dipy.tracking.streamline import length, set_number_of_points
from dipy.tracking.utils import connectivity_matrix, density_map
import nibabel as nib
from nibabel.streamlines import Tractogram
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
from scipy.spatial.distance import cdist, directed_hausdorff
from scipy.spatial.transform import Rotation
from scipy.stats import sem

from dipy_rnn.evaluation import (
    INVALID_CONNECTION,
    NO_CONNECTION,
    Estimate,
    KnownBundle,
    agreement,
    angular_difference_deg,
    bootstrapped,
    connections,
    coverage,
    density_correlation,
    dice,
    end_point_mm,
    estimated_mean,
    find_partners,
    followed,
    hausdorff_mm,
    known_bundles,
    mean_closest_point_mm,
    mean_curvature_per_mm,
    nearest_streamlines,
    paired_difference,
    round_labels,
    score,
    shape_similarity,
    visited_voxels,
    visits,
    weighted_dice,
)
from dipy_rnn.phantom import crossing_phantom

LINE = np.arange(11.0)[:, None] * [1, 0, 0]  # 0 to 10 mm along x
NOTHING = np.empty((0, 3))


def path(*corners, spacing=0.5):
    """Return points at equal spacing from corner to corner."""
    points = [np.array(corners[:1], dtype=float)]
    for start, end in zip(np.array(corners[:-1], float), np.array(corners[1:], float)):
        n = round(np.linalg.norm(end - start) / spacing)
        points.append(start + np.arange(1, n + 1)[:, None] / n * (end - start))
    return np.concatenate(points)


def voxels(shape, *where):
    mask = np.zeros(shape, dtype=bool)
    for voxel in where:
        mask[voxel] = True
    return mask


def wander(rng, n_points):
    """Return a smooth random streamline."""
    return rng.normal(scale=0.5, size=(n_points, 3)).cumsum(axis=0).cumsum(axis=0)


# Streamlines

DISTANCES = [hausdorff_mm, mean_closest_point_mm, end_point_mm, angular_difference_deg]


@pytest.mark.parametrize(
    ("other", "distance_mm"),
    [
        (LINE, 0),
        (LINE[::-1], 0),
        (LINE + [0, 2, 0], 2),
        (LINE + [0, 0, 1.9], 1.9),
        (LINE[:6], 5),  # x = 10 to x = 5
        (LINE[4:5], 6),  # one point
        (NOTHING, np.inf),
    ],
)
def test_the_hausdorff_distance_is_that_of_the_farthest_point(other, distance_mm):
    assert hausdorff_mm(LINE, other) == pytest.approx(distance_mm)
    assert hausdorff_mm(other, LINE) == pytest.approx(distance_mm)


def test_the_hausdorff_distance_is_scipys():
    rng = np.random.default_rng(0)
    for n, m in ((1, 1), (1, 30), (40, 50)):
        a, b = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
        theirs = max(directed_hausdorff(a, b)[0], directed_hausdorff(b, a)[0])
        assert_allclose(hausdorff_mm(a, b), theirs)


@pytest.mark.parametrize(
    ("other", "closest_mm", "ends_mm", "angle_deg"),
    [
        (LINE, 0, 0, 0),
        (LINE[::-1], 0, 0, 0),
        (LINE + [0, 2, 0], 2, 2, 0),
        (LINE[::-1] + [0, 0, 2], 2, 2, 0),
        # Shifted by 2 mm along the line: of 11 points, two are 1 and 2 mm beyond the
        # end of the other line.
        (LINE + [2, 0, 0], (1 + 2) / 11, 2, 0),
        # Its first half: the 5 points of the second half are 1 to 5 mm away.
        (LINE[:6], (1 + 2 + 3 + 4 + 5) / 11 / 2, 5 / 2, 0),
        # One point at 4 mm: 4 + 3 + 2 + 1 + 0 + 1 + ... + 6; ends 4 and 6 mm away.
        (LINE[4:5], (10 + 21) / 11 / 2, (4 + 6) / 2, np.nan),
        # Its first half, then 5 mm to the side: the points 6 to 10 of both are 1 to 5
        # mm from the corner, and the last points are 5 sqrt(2) mm apart.
        (
            path((0, 0, 0), (5, 0, 0), (5, 5, 0), spacing=1),
            (1 + 2 + 3 + 4 + 5) / 11,
            5 * np.sqrt(2) / 2,
            90 * 5 / 10,
        ),
        (NOTHING, np.inf, np.inf, np.nan),
    ],
)
def test_distances_are_those_computed_by_hand(other, closest_mm, ends_mm, angle_deg):
    for pair in ((LINE, other), (other, LINE)):
        assert mean_closest_point_mm(*pair) == pytest.approx(closest_mm)
        assert end_point_mm(*pair) == pytest.approx(ends_mm)
        assert angular_difference_deg(*pair) == pytest.approx(angle_deg, nan_ok=True)


def test_two_empty_streamlines_have_no_finite_distance():
    for distance, expected in zip(DISTANCES, [np.inf, np.inf, np.inf, np.nan]):
        assert_array_equal(distance(NOTHING, NOTHING), expected)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_distance_is_symmetric_and_independent_of_direction_and_position(distance):
    rng = np.random.default_rng(1)
    a, b = wander(rng, 20), wander(rng, 30)
    rotation = Rotation.from_euler("xyz", [20, 130, -75], degrees=True)
    moved = [rotation.apply(line) + [3, -20, 9] for line in (a, b)]
    value = distance(a, b)
    assert value > 1
    for pair in ((b, a), (a[::-1], b), (a, b[::-1]), moved):
        assert_allclose(distance(*pair), value, rtol=1e-5)
    assert distance(a, a) == distance(a, a[::-1]) == 0


def test_streamlines_agree_up_to_the_limit():
    others = [LINE + [0, 1.9, 0], LINE + [0, 2, 0], LINE + [0, 2.1, 0], LINE[::-1]]
    assert_array_equal(agreement([LINE] * 4, others), [True, True, False, True])
    assert_array_equal(agreement([LINE], [LINE + [0, 2.1, 0]], limit_mm=2.2), [True])


def test_half_of_a_streamline_does_not_agree_with_the_whole():
    assert_array_equal(agreement([LINE, LINE[:6]], [LINE[:6], LINE]), [False, False])


def test_a_streamline_without_points_agrees_with_none():
    others = [LINE, NOTHING, NOTHING]
    assert_array_equal(agreement([NOTHING, LINE, NOTHING], others), False)
    assert agreement([], []).shape == (0,)


def test_each_streamline_needs_a_partner():
    with pytest.raises(ValueError, match="holds 2 streamlines and others holds 1; "):
        agreement([LINE, LINE], [LINE])


def test_a_reference_is_followed_if_all_of_it_was_tracked():
    onward = np.arange(-5.0, 16)[:, None] * [1, 0, 0]
    tracked = [LINE, onward + [0, 1.9, 0], onward + [0, 2.1, 0], LINE[::-1], LINE[:6]]
    assert_array_equal(followed([LINE] * 5, tracked), [True, True, False, True, False])
    # The last 2 and 3 of 10 mm are missing; the limit is 2 mm.
    assert_array_equal(followed([LINE, LINE], [LINE[:9], LINE[:8]]), [True, False])
    assert_array_equal(followed([LINE, NOTHING], [NOTHING, LINE]), [False, False])


def test_the_nearest_streamline_is_the_partner():
    lines = [LINE + [0, 10 * i, 0] for i in range(4)]
    shifted = [line + [0, 2, 0] for line in lines]
    for others in (lines, shifted, [line[::-1] for line in shifted]):
        assert_array_equal(nearest_streamlines(lines, others), [range(4), range(4)])
        assert_array_equal(
            nearest_streamlines(lines, others[::-1]), [range(4), range(4)[::-1]]
        )
    # Half of the others, at 2 and 22 mm; the line at 30 mm is nearest to 22 mm.
    assert_array_equal(
        nearest_streamlines(lines, shifted[::2]), [[0, 1, 2, 3], [0, 0, 1, 1]]
    )


def test_the_direction_of_a_streamline_does_not_change_its_partner():
    others = [LINE + [0, 2, 0], LINE[::-1] + [0, 1, 0]]
    assert_array_equal(nearest_streamlines([LINE], others), [[0], [1]])
    assert_array_equal(nearest_streamlines([LINE[::-1]], others), [[0], [1]])


def test_a_streamline_without_length_has_no_partner():
    spot = np.zeros((3, 3))
    lines = [NOTHING, LINE, LINE[:1], spot]
    assert_array_equal(nearest_streamlines(lines, [spot, NOTHING, LINE]), [[1], [2]])
    for pair in ((lines, []), ([], lines), ([], []), (lines, [spot])):
        indices, partners = nearest_streamlines(*pair)
        assert indices.shape == partners.shape == (0,)


def test_partners_have_the_same_seed_if_the_seeds_are_known():
    lines = [LINE, LINE + [0, 5, 0], LINE + [0, 9, 0]]
    seeds = [[1.0, 0, 0], [2.0, 0, 0], [3.0, 0, 0]]
    others = lines[::-1]
    assert_array_equal(find_partners(lines, others), [2, 1, 0])
    assert_array_equal(find_partners(lines, others, seeds, None), [2, 1, 0])
    # Single precision, as in a file; the third seed is not among them.
    other_seeds = np.array([[2.004, 0, 0], [1, 0, 0], [8, 0, 0]], np.float32)
    assert_array_equal(find_partners(lines, others, seeds, other_seeds), [1, 0, -1])
    assert_array_equal(find_partners([LINE, NOTHING], [LINE]), [0, -1])
    assert find_partners([], [], [], []).shape == (0,)


def test_of_several_streamlines_of_a_seed_the_partner_is_the_nearest():
    lines = [LINE, LINE + [0, 5, 0], NOTHING]
    others = [LINE, LINE + [0, 6, 0], LINE + [0, 1, 0], LINE + [0, 5, 0]]
    seeds = [[1.0, 0, 0]] * 3
    other_seeds = [[2.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]]
    assert_array_equal(find_partners(lines, others, seeds, other_seeds), [2, 1, -1])


def test_the_nearest_streamline_is_that_of_an_exhaustive_search():
    rng = np.random.default_rng(2)
    lines, others = (
        [wander(rng, n) for n in rng.integers(5, 40, size=n_lines)]
        for n_lines in (30, 50)
    )
    shapes, theirs, backwards = (
        np.reshape(set_number_of_points(some, 24), (len(some), -1))
        for some in (lines, others, [line[::-1] for line in others])
    )
    distances = np.minimum(cdist(shapes, theirs), cdist(shapes, backwards))
    indices, partners = nearest_streamlines(lines, others)
    assert_array_equal(indices, range(30))
    assert_array_equal(partners, distances.argmin(axis=1))


# Steps


def test_the_angular_difference_of_straight_lines_is_their_angle():
    line = LINE - [5, 0, 0]
    for turn_deg, angle_deg in ((30, 30), (90, 90), (120, 60), (180, 0), (1e-6, 1e-6)):
        turned = Rotation.from_euler("z", turn_deg, degrees=True).apply(line)
        assert_allclose(angular_difference_deg(line, turned), angle_deg, atol=1e-12)


def test_a_step_without_length_has_no_direction():
    twice = np.repeat(LINE, 2, axis=0)
    assert angular_difference_deg(LINE, twice) == 0
    assert mean_curvature_per_mm(twice) == 0
    assert np.isnan(angular_difference_deg(LINE, LINE[[3, 3]]))
    assert np.isnan(mean_curvature_per_mm(LINE[[3, 3, 3]]))


@pytest.mark.parametrize("n_points", [3, 4, 10, 200])
def test_a_circle_has_the_curvature_of_its_radius(n_points):
    turn = 0.2 * np.arange(n_points)
    circle = 25 * np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)
    rotation = Rotation.from_euler("xyz", [20, 130, -75], degrees=True)
    for line in (circle, circle[::-1], rotation.apply(circle) + [3, -20, 9]):
        assert_allclose(mean_curvature_per_mm(line), 1 / 25)
    assert_allclose(mean_curvature_per_mm(2 * circle), 1 / 50)
    # DIPY's curvature is 1 / 2 and 3 / 4 of 1 / R at the first two and last two points.
    if n_points > 3:
        ends = 2 * (1 / 2 + 1 / 4) / n_points
        assert_allclose(mean_curvature(circle), (1 - ends) / 25, rtol=0.01)


def test_a_helix_has_its_curvature():
    turn = 0.01 * np.arange(1000)
    helix = np.stack([4 * np.cos(turn), 4 * np.sin(turn), 3 * turn], axis=1)
    assert_allclose(mean_curvature_per_mm(helix), 4 / (4**2 + 3**2), rtol=1e-4)


def test_a_straight_line_has_no_curvature_and_a_corner_has_one():
    assert mean_curvature_per_mm(LINE) == 0
    # Steps of 1 mm at a right angle: |dT| = sqrt(2) over 1 mm. Reversal: 2 over 1 mm.
    corner = path((0, 0, 0), (1, 0, 0), (1, 1, 0), spacing=1)
    assert_allclose(mean_curvature_per_mm(corner), np.sqrt(2))
    assert_allclose(mean_curvature_per_mm(LINE[[0, 1, 0]]), 2)
    # Two right angles between steps of 2, 3 and 1 mm: mid-points at 1, 3.5, 5.5 mm.
    corners = np.array([[0, 0, 0], [2, 0, 0], [2, 3, 0], [3, 3, 0]])
    assert_allclose(mean_curvature_per_mm(corners), 2 * np.sqrt(2) / 4.5)
    for line in (NOTHING, LINE[:1], LINE[:2]):
        assert np.isnan(mean_curvature_per_mm(line))


# Volumes
#
# TRACTS has four streamlines: three in the row y = 0, one of which is half as long, and
# one in the row y = 4. Each case compares another tractogram on the same grid with it.

GRID = (np.eye(4), (11, 8, 1))
TRACTS = [LINE, LINE, LINE[:6], LINE + [0, 4, 0]]
MASK = voxels(GRID[1], np.s_[:, 0], np.s_[:, 2])
# 6, 5 and 11 voxels have 3, 2 and 1 visits, 39 visits together.
MEAN, VARIANCE = 39 / 22, (6 * 9 + 5 * 4 + 11 * 1) / 22 - (39 / 22) ** 2
WIDE_MEAN, WIDE_VARIANCE = 39 / 44, 85 / 44 - (39 / 44) ** 2


@pytest.mark.parametrize(
    ("others", "dice_", "weighted", "correlation", "covered"),
    [
        (TRACTS, 1, 1, 1, 11 / 22),
        (TRACTS[::-1], 1, 1, 1, 11 / 22),
        ([line[::-1] for line in TRACTS], 1, 1, 1, 11 / 22),
        (TRACTS * 2, 1, 1, 1, 11 / 22),
        # No common voxel: the mean of the product over 2 x 22 voxels is 0.
        (
            [line + [0, 2, 0] for line in TRACTS],
            0,
            0,
            -(WIDE_MEAN**2) / WIDE_VARIANCE,
            11 / 22,
        ),
        # Two of the four: 2 visits in each of the 11 voxels of the row y = 0. Common
        # voxels contain 28 of the 39 visits, and all visits of the other tractogram;
        # the mean of the product is 56 / 22.
        (
            TRACTS[:2],
            2 * 11 / (22 + 11),
            (28 / 39 + 1) / 2,
            (56 / 22 - MEAN * 1) / np.sqrt(VARIANCE * 1),
            11 / 22,
        ),
        # One map is constant in the voxels of both, so it has no correlation there.
        (TRACTS[2:3], 2 * 6 / (22 + 6), (18 / 39 + 1) / 2, None, 6 / 22),
        ([], 0, 0, np.nan, 0),
        ([NOTHING], 0, 0, np.nan, 0),
    ],
)
def test_overlap_of_volumes_is_that_counted_by_hand(
    others, dice_, weighted, correlation, covered
):
    maps = visits(TRACTS, *GRID), visits(others, *GRID)
    for a, b in (maps, maps[::-1]):
        assert_allclose(dice(a > 0, b > 0), dice_)
        assert_allclose(weighted_dice(a, b), weighted)
        if correlation is not None:
            assert_allclose(density_correlation(a, b), correlation)
    assert_allclose(coverage(maps[1], MASK), covered)


def test_two_empty_maps_are_equal_and_cover_nothing():
    nothing = visits([], *GRID)
    assert weighted_dice(nothing, nothing) == dice(nothing > 0, nothing > 0) == 1
    assert coverage(nothing, MASK) == 0
    assert np.isnan(coverage(visits(TRACTS, *GRID), MASK & ~MASK))


def test_weighted_dice_does_not_depend_on_the_number_of_streamlines():
    first, second = np.array([3, 1, 0]), np.array([1, 0, 1])
    assert_allclose(weighted_dice(first, second), (3 / 4 + 1 / 2) / 2)
    assert_allclose(weighted_dice(first, 100 * second), (3 / 4 + 1 / 2) / 2)
    # The formula: w_a + w_b of the shared voxels over that of all voxels.
    shares = np.array([first / 4, second / 2])
    assert_allclose(weighted_dice(first, second), shares[:, 0].sum() / shares.sum())


def test_a_streamline_visits_a_voxel_once():
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = 10, 0, 0
    # Voxel 0 owns 9 to 11 mm, so 11 mm is the first point of voxel 1.
    line = np.array([[10.0, 0, 0], [10.9, 0, 0], [11, 0, 0], [10, 0, 0]])
    assert_array_equal(visits([line, line[:2]], affine, (3, 1, 1)).ravel(), [2, 1, 0])


def test_visits_are_dipys_density_map():
    rng = np.random.default_rng(3)
    affine = np.array([[0, -2.0, 0, 5], [2, 0, 0, -7], [0, 0, 2, 3], [0, 0, 0, 1]])
    lines = [
        rng.uniform(0, 5, size=(n, 3)) @ affine[:3, :3].T + affine[:3, 3]
        for n in range(1, 20)
    ]
    assert_array_equal(
        visits(lines, affine, (6, 6, 6)), density_map(lines, affine, (6, 6, 6))
    )


def test_visited_voxels_has_one_row_for_each_streamline():
    visited = visited_voxels([NOTHING, *TRACTS, LINE[[0, 0, 0]]], *GRID)
    assert visited.shape == (6, 11 * 8)
    assert_array_equal(visited.sum(axis=1), [0, 11, 11, 6, 11, 1])
    maps = visited.toarray().reshape(6, *GRID[1])
    assert_array_equal(maps[4], voxels(GRID[1], np.s_[:, 4]))
    assert_array_equal(maps.sum(axis=0), visits([*TRACTS, LINE[:1]], *GRID))
    assert visited_voxels([], *GRID).shape == (0, 11 * 8)


def test_points_outside_the_grid_are_left_out():
    line = path((-3, 0, 0), (6, 0, 0), spacing=0.25)
    assert_array_equal(visits([line], np.eye(4), (3, 1, 1)).ravel(), [1, 1, 1])
    far = [LINE + [0, 0, 0.6], LINE - [0, 0.6, 0], NOTHING]
    assert not visits(far, np.eye(4), (3, 1, 1)).any()
    assert not visits([], np.eye(4), (3, 1, 1)).any()


def test_dice_counts_shared_voxels_twice():
    mask = np.array([True, True, True, False])
    assert dice(mask, mask) == 1
    assert dice(mask, ~mask) == 0
    assert dice(mask, np.array([False, False, True, True])) == 2 * 1 / (3 + 2)
    assert dice(mask & ~mask, mask & ~mask) == 1


def test_voxels_without_visits_do_not_count_in_the_correlation():
    # Without the many zeros: (1, 2, 3) and (2, 1, 3), each of variance 2 / 3.
    first, second = np.zeros((2, 10, 10, 10))
    first[:3, 0, 0], second[:3, 0, 0] = (1, 2, 3), (2, 1, 3)
    assert_allclose(density_correlation(first, second), 0.5)
    assert_allclose(density_correlation(first, 4 * first), 1)
    assert np.isnan(density_correlation(first, np.sign(first)))
    assert np.isnan(density_correlation(0 * first, 0 * first))


@pytest.mark.skipif(not shutil.which("tckmap"), reason="needs MRtrix3")
def test_mrtrix_counts_the_same_visits_and_lengths(tmp_path):
    phantom = crossing_phantom(60)
    lines = [line.astype(np.float32) for line in phantom.streamlines(50)[0]]
    tracks, image = str(tmp_path / "a.tck"), str(tmp_path / "a.nii")
    nib.streamlines.save(Tractogram(lines, affine_to_rasmm=np.eye(4)), tracks)
    nib.save(nib.Nifti1Image(np.zeros(phantom.shape), phantom.affine), image)
    # -upsample 1: tckmap adds no points between those of the file.
    counts = str(tmp_path / "counts.nii")
    options = ("-template", image, "-upsample", "1", "-quiet")
    subprocess.run(["tckmap", tracks, counts, *options], check=True)
    expected = visits(lines, phantom.affine, phantom.shape)
    assert_array_equal(nib.load(counts).get_fdata(), expected)

    lengths = str(tmp_path / "lengths.txt")
    subprocess.run(["tckstats", tracks, "-dump", lengths, "-quiet"], check=True)
    assert_allclose(np.loadtxt(lengths), length(lines), rtol=1e-5)


# Tractograms

# Regions 1 to 5: the ends of the rows and the middle of the first.
REGIONS = np.zeros(GRID[1], dtype=np.int16)
REGIONS[[0, 10, 5, 0, 10], [0, 0, 0, 4, 4], 0] = range(1, 6)


def connectivity(streamlines):
    return connections(streamlines, np.eye(4), REGIONS).sum(axis=0)


def test_streamlines_connect_the_regions_of_their_ends():
    expected = np.zeros((5, 5))
    expected[0, 1], expected[0, 2], expected[3, 4] = 2, 1, 1
    for lines in (TRACTS, TRACTS[::-1], [line[::-1] for line in TRACTS]):
        assert_array_equal(connectivity(lines).reshape(5, 5), expected)
    assert connections(TRACTS, np.eye(4), REGIONS).indices.tolist() == [1, 1, 2, 19]
    # An end in no region, an end outside the grid, both ends in one region, one point,
    # no points.
    lines = [LINE[:8], LINE + [1, 0, 0], LINE[[0, 3, 0]], LINE[:1], NOTHING]
    assert not connectivity(lines).any()
    assert connectivity([]).shape == (25,)


@pytest.mark.parametrize(
    ("others", "correlation"),
    [
        (TRACTS, 1),
        (TRACTS * 3, 1),
        ([line[::-1] for line in TRACTS[::-1]], 1),
        # (2, 1, 1) beside (1, 0, 1): covariance 1 - 8 / 9, both of variance 2 / 9.
        (TRACTS[::3], 1 / 2),
        ([line + [0, 2, 0] for line in TRACTS], np.nan),
        ([], np.nan),
    ],
)
def test_connectivity_matrices_are_correlated(others, correlation):
    pair = connectivity(TRACTS), connectivity(others)
    assert_allclose(density_correlation(*pair), correlation)
    assert_allclose(density_correlation(*pair[::-1]), correlation)


def test_connections_are_dipys_connectivity_matrix():
    rng = np.random.default_rng(4)
    lines = list(rng.uniform(0, 5, size=(200, 3, 3)))
    labels = rng.integers(5, size=(6, 6, 6))
    matrix = connectivity_matrix(lines, np.eye(4), labels)
    counts = connections(lines, np.eye(4), labels).sum(axis=0).reshape(4, 4)
    assert_array_equal(counts, np.triu(matrix[1:, 1:], k=1))


def test_shape_similarity_counts_clusters_within_6_mm():
    first = [LINE + [0, i, 0] for i in range(4)]
    both = first + [line + [0, 100, 0] for line in first]
    for others, similarity in (
        (both, 1),
        (both[::-1], 1),
        ([line[::-1] for line in both], 1),
        ([line + [0, 0, 2] for line in both], 1),
        ([line + [0, 0, 20] for line in both], 0),
        # Half of the clusters of one, and all clusters of the other.
        (first, (1 / 2 + 1) / 2),
        (both[::2], 1),
        ([*both, NOTHING, LINE[:1], np.zeros((3, 3))], 1),
        ([NOTHING], 0),
        ([], 0),
    ):
        assert shape_similarity(both, others) == similarity
        assert shape_similarity(others, both) == similarity
    rng = np.random.default_rng(5)
    one, other = (
        [LINE + at for at in rng.normal(centre, 3, size=(50, 3))] for centre in (0, 4)
    )
    found = {shape_similarity(one, other, random_seed=seed) for seed in range(5)}
    assert len(found) > 1
    assert shape_similarity(one, other) == shape_similarity(one, other) in found


# Known bundles
#
# A grid of 7 x 4 x 1 voxels of 1 mm. Bundle 0 is the row y = 0, bundle 1 the row
# y = 3; each ends in its first and last voxel.

SHAPE = (7, 4, 1)
ROWS = [
    KnownBundle(
        voxels(SHAPE, np.s_[:, y]), (voxels(SHAPE, (0, y)), voxels(SHAPE, (6, y)))
    )
    for y in (0, 3)
]
STRAIGHT = path((0, 0, 0), (6, 0, 0))
# In the row y = 1 for the voxels x = 2 to 4.
DETOUR = path((0, 0, 0), (2, 0, 0), (2, 1, 0), (4, 1, 0), (4, 0, 0), (6, 0, 0))
ACROSS = path((0, 0, 0), (0, 3, 0))  # from an end of one to an end of the other
SHORT = path((0, 0, 0), (5, 0, 0))
BACK = path((0, 0, 0), (6, 0, 0), (0, 0, 0))  # both ends in one region


def test_a_connection_is_valid_invalid_or_missing():
    scores = score([STRAIGHT[::-1], ACROSS, SHORT, BACK], ROWS, np.eye(4))
    assert_array_equal(
        scores.labels, [0, INVALID_CONNECTION, NO_CONNECTION, NO_CONNECTION]
    )
    assert scores.valid_connections == 1 / 4
    assert scores.invalid_connections == 1 / 4
    assert scores.no_connections == 2 / 4
    assert (scores.valid_bundles, scores.n_bundles) == (1, 2)


def test_overlap_overreach_and_f1_count_voxels():
    # Outside the row are (2, 1), (3, 1) and (4, 1). Of its 7 voxels, (3, 0) is missed.
    scores = score([DETOUR], ROWS, np.eye(4))
    assert_allclose(scores.overlaps, [6 / 7, 0])
    assert_allclose(scores.overreaches, [3 / 7, 0])
    # 9 voxels visited, 6 of them in the bundle of 7.
    assert_allclose(scores.f1s, [2 * 6 / (9 + 7), 0])
    assert_allclose(
        (scores.overlap, scores.overreach, scores.f1), (3 / 7, 3 / 14, 3 / 8)
    )
    precision, recall = 6 / 9, 6 / 7
    assert_allclose(scores.f1s[0], 2 / (1 / precision + 1 / recall))

    both = score([DETOUR, STRAIGHT, STRAIGHT + [0, 3, 0]], ROWS, np.eye(4))
    assert_allclose(both.overlaps, [1, 1])
    assert_allclose(both.overreaches, [3 / 7, 0])
    assert_allclose(both.f1s, [14 / 17, 1])


def test_only_valid_connections_cover_a_bundle():
    scores = score([SHORT, BACK, ACROSS, STRAIGHT + [0, 3, 0]], ROWS, np.eye(4))
    assert_allclose(scores.overlaps, [0, 1])
    assert_allclose(scores.f1s, [0, 1])
    assert_allclose(scores.overreaches, [0, 0])


def test_of_bundles_with_the_same_ends_the_one_with_most_points_counts():
    round_about = voxels(
        SHAPE, np.s_[:2, 0], (2, 0), np.s_[2:5, 1], (4, 0), np.s_[5:, 0]
    )
    both = [ROWS[0], KnownBundle(round_about, ROWS[0].ends)]
    assert_array_equal(score([STRAIGHT, DETOUR], both, np.eye(4)).labels, [0, 1])
    assert_array_equal(score([STRAIGHT, DETOUR], both[::-1], np.eye(4)).labels, [1, 0])


def test_bundles_may_share_an_end_region():
    # A fork: from (0, 0) to (6, 0) and to (6, 3).
    fork = [
        ROWS[0],
        KnownBundle(ROWS[1].mask, (ROWS[0].ends[0], ROWS[1].ends[1])),
    ]
    lines = [
        STRAIGHT,
        path((0, 0, 0), (0, 3, 0), (6, 3, 0)),
        path((6, 0, 0), (6, 3, 0)),  # from the end of one branch to that of the other
    ]
    assert_array_equal(score(lines, fork, np.eye(4)).labels, [0, 1, INVALID_CONNECTION])


def test_streamlines_may_be_empty_or_have_one_point_or_leave_the_grid():
    lines = [NOTHING, STRAIGHT[:1], path((-3, 0, 0), (6, 0, 0)), STRAIGHT]
    scores = score(lines, ROWS, np.eye(4))
    assert_array_equal(scores.labels, [NO_CONNECTION] * 3 + [0])
    for lines in ([], [NOTHING]):
        scores = score(lines, ROWS, np.eye(4))
        assert scores.valid_connections == scores.f1 == scores.valid_bundles == 0
        assert scores.no_connections == len(lines)


def test_scores_do_not_depend_on_the_position_of_the_grid():
    affine = np.array([[0, -2.0, 0, 5], [2, 0, 0, -7], [0, 0, 2, 3], [0, 0, 0, 1]])
    lines = [line @ affine[:3, :3].T + affine[:3, 3] for line in (STRAIGHT, ACROSS)]
    assert_array_equal(score(lines, ROWS, affine).labels, [0, INVALID_CONNECTION])


def test_the_score_of_a_streamline_does_not_depend_on_the_others():
    # Three bundles: two connect the same end regions, the third connects one of these
    # and another end region.
    round_about = voxels(
        SHAPE, np.s_[:2, 0], (2, 0), np.s_[2:5, 1], (4, 0), np.s_[5:, 0]
    )
    bundles = [
        ROWS[0],
        KnownBundle(round_about, ROWS[0].ends),
        KnownBundle(ROWS[1].mask, (ROWS[0].ends[0], ROWS[1].ends[1])),
    ]
    lines = [STRAIGHT, DETOUR, ACROSS, path((0, 0, 0), (0, 3, 0), (6, 3, 0)), NOTHING]
    lines += [line[::-1] for line in lines]
    labels = score(lines, bundles, np.eye(4)).labels
    assert_array_equal(labels, 2 * [0, 1, NO_CONNECTION, 2, NO_CONNECTION])
    alone = [score([line], bundles, np.eye(4)).labels[0] for line in lines]
    assert_array_equal(labels, alone)


def test_no_bundle_and_bundles_on_different_grids_are_refused():
    smaller = KnownBundle(ROWS[0].mask[:, :3], tuple(e[:, :3] for e in ROWS[0].ends))
    with pytest.raises(ValueError, match=r"holds 2 bundles .*\(7, 3, 1\), \(7, 4, 1\)"):
        score([STRAIGHT], [ROWS[0], smaller], np.eye(4))
    with pytest.raises(ValueError, match=r"holds 0 bundles .* one or more on one grid"):
        score([STRAIGHT], [], np.eye(4))


def test_an_invalid_affine_or_streamline_is_refused():
    with pytest.raises(ValueError, match="affine holds NaN"):
        score([STRAIGHT], ROWS, np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match=r"streamlines has the shape \(13, 2\)"):
        score([STRAIGHT[:, :2]], ROWS, np.eye(4))


WHERE = np.eye(4), (3, 3, 3)
GIVEN = {
    hausdorff_mm: (LINE, LINE),
    mean_closest_point_mm: (LINE, LINE),
    end_point_mm: (LINE, LINE),
    agreement: ([LINE], [LINE], 1.0),
    followed: ([LINE], [LINE], 1.0),
    nearest_streamlines: ([LINE], [LINE]),
    angular_difference_deg: (LINE, LINE),
    mean_curvature_per_mm: (LINE,),
    visited_voxels: ([LINE], *WHERE),
    visits: ([LINE], *WHERE),
    dice: (np.ones(3, bool), np.ones(3, bool)),
    weighted_dice: (np.ones(3), np.ones(3)),
    density_correlation: (np.ones(3), np.ones(3)),
    coverage: (np.ones(3), np.ones(3, bool)),
    connections: ([LINE], np.eye(4), np.ones((3, 3, 3), int)),
    shape_similarity: ([LINE], [LINE]),
    known_bundles: ([[LINE]], *WHERE),
    estimated_mean: ([1.0],),
    paired_difference: ([1.0], [0.0]),
}


@pytest.mark.parametrize(
    ("function", "place"),
    [(function, i) for function, given in GIVEN.items() for i in range(len(given))],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_an_argument_that_is_not_numeric_is_refused_by_name(function, place):
    arguments = list(GIVEN[function])
    arguments[place] = [["no number"]]
    name = list(signature(function).parameters)[place]
    with pytest.raises(ValueError, match=rf"^{name} "):
        function(*arguments)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.ones((3, 3), int), r"has the shape \(3, 3\) and goes up to 1; a 3D image"),
        (np.ones((3, 0, 3), int), r"has the shape \(3, 0, 3\) and goes up to 0; "),
        (np.full((3, 3, 3), 2**15 + 1), ".* goes up to 32769; .* at most 32768"),
        (np.full((3, 3, 3), 1.5), "holds other values than whole numbers"),
        (np.full((3, 3, 3), np.nan), "holds other values than whole numbers"),
        (np.full((3, 3, 3), np.inf), "holds other values than whole numbers"),
        (np.full((3, 3, 3), 1e15), "holds other values than whole numbers"),
    ],
)
def test_invalid_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=f"^labels {message}"):
        connections([LINE], np.eye(4), labels)


@pytest.mark.parametrize("label", [1.4, -1, np.nan, np.inf, 2.0**31])
def test_labels_that_are_not_nearly_whole_are_refused(label):
    with pytest.raises(ValueError, match=r"^a\.nii holds .*; labels are whole numbers"):
        round_labels(np.array([1.0, label]), "a.nii")
    assert_array_equal(round_labels(np.array([0, 0.992, 2.008])), [0, 1, 2])


def test_labels_may_be_whole_floats_and_go_up_to_32768():
    labels = np.zeros((11, 1, 1), np.float16)
    labels[0], labels[10] = 2, 3
    connected = connections([LINE], np.eye(4), labels)
    assert connected.sum(axis=0).reshape(3, 3)[1, 2] == 1
    labels = labels.astype(int)
    labels[10] = 2**15
    assert connections([LINE], np.eye(4), labels).shape == (1, 2**30)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e15])
def test_images_whose_sums_are_not_finite_are_refused_by_name(value):
    with pytest.raises(
        ValueError, match=r"^other holds NaN, infinity or a value of 1e\+15"
    ):
        weighted_dice(np.ones(3), np.full(3, value))
    assert weighted_dice(np.ones(3), np.full(3, 9e14)) == 1


def test_images_of_two_shapes_are_refused_by_name():
    message = r"^mask has the shape \(3,\) and other \(4,\); one shape is needed"
    with pytest.raises(ValueError, match=message):
        dice(np.ones(3, bool), np.ones(4, bool))


def test_a_streamline_shorter_than_a_millimetre_has_a_shape():
    short = LINE * 0.01
    assert shape_similarity([short], [short]) == 1
    indices, others = nearest_streamlines([short, LINE], [LINE, short])
    assert_array_equal(others[np.argsort(indices)], [1, 0])


def test_a_known_bundle_is_checked():
    mask, (first, last) = ROWS[0].mask, ROWS[0].ends
    with pytest.raises(ValueError, match=r"mask has the shape \(7, 4, 1\)"):
        KnownBundle(mask, (first, last[:6]))
    with pytest.raises(ValueError, match="mask is empty"):
        KnownBundle(mask & ~mask, (first, last))
    with pytest.raises(ValueError, match="ends share 1 voxels"):
        KnownBundle(mask, (first, first))


def test_a_known_bundle_is_made_from_a_label_image():
    labels = np.zeros(SHAPE)
    labels[1:6, 0], labels[0, 0], labels[6, 0] = 1, 2, 3
    bundle = KnownBundle.from_labels(labels)
    assert_array_equal(bundle.mask, ROWS[0].mask)
    assert_array_equal(bundle.ends, ROWS[0].ends)
    scores = score([STRAIGHT, SHORT], [bundle], np.eye(4))
    assert_array_equal(scores.labels, [0, NO_CONNECTION])
    # A bundle may consist of its end regions alone.
    assert KnownBundle.from_labels(np.arange(2, 4).reshape(1, 1, 2)).mask.all()
    without_an_end = labels * (labels != 2)
    for wrong in (
        labels % 3,
        labels * 2,
        labels + 1,
        labels / 2,
        0 * labels,
        without_an_end,
    ):
        with pytest.raises(ValueError, match=r"labels holds \[.*1 is needed inside"):
            KnownBundle.from_labels(wrong)


def test_a_known_bundle_is_made_from_its_streamlines():
    (bundle,) = known_bundles([[STRAIGHT, DETOUR]], np.eye(4), SHAPE, end_mm=1.0)
    expected = voxels(SHAPE, np.s_[:, 0], np.s_[2:5, 1])
    assert_array_equal(bundle.mask, expected)
    for end, x in zip(bundle.ends, (0, 6)):
        # The end voxel and its neighbours on the grid.
        near = voxels(SHAPE, (x, 0), (x, 1), (1 if x == 0 else 5, 0))
        assert_array_equal(end, near)


def test_streamlines_of_a_known_bundle_may_have_any_direction():
    (expected,) = known_bundles([[STRAIGHT, DETOUR]], np.eye(4), SHAPE, end_mm=1.0)
    lines = [STRAIGHT, DETOUR[::-1]]
    bundle = KnownBundle.from_streamlines(lines, np.eye(4), SHAPE, end_mm=1.0)
    assert_array_equal(bundle.mask, expected.mask)
    assert_array_equal(bundle.ends, expected.ends)
    with pytest.raises(ValueError, match="streamlines is empty"):
        KnownBundle.from_streamlines([], np.eye(4), SHAPE)


def test_a_known_bundle_is_made_from_a_centreline_a_radius_and_a_mask():
    white = voxels(SHAPE, np.s_[:6, :])
    (bundle,) = known_bundles(
        [[STRAIGHT]], np.eye(4), SHAPE, radius_mm=2.0, end_mm=0.5, mask=white
    )
    assert_array_equal(bundle.mask, voxels(SHAPE, np.s_[:6, :3]))
    assert_array_equal(bundle.ends[1], voxels(SHAPE, (6, 0)))


def test_true_streamlines_connect_their_own_bundle():
    phantom = crossing_phantom(60)
    known, _ = phantom.streamlines(300)
    bundles = known_bundles(
        [known[:300], known[300:]], phantom.affine, phantom.shape, end_mm=4.0
    )
    scores = score(known, bundles, phantom.affine)
    assert_array_equal(scores.labels, np.repeat([0, 1], 300))
    assert (scores.overlap, scores.overreach, scores.f1) == (1, 0, 1)
    others, ids = phantom.streamlines(20, random_seed=1)
    assert_array_equal(score(others, bundles, phantom.affine).labels, ids)


# Uncertainty


def test_an_interval_is_1_96_standard_errors_wide_on_either_side():
    estimate = Estimate(0.5, 0.1)
    assert_allclose((estimate.low, estimate.high), (0.304, 0.696))


def test_a_mean_comes_with_its_standard_error():
    # Deviations -2, 0, 0, 2: variance 8 / 3, standard error sqrt(8 / 3 / 4).
    for values in ([1, 3, 3, 5], [5, 3, np.nan, 3, 1, np.inf]):
        estimate = estimated_mean(values)
        assert_allclose((estimate.value, estimate.standard_error), (3, np.sqrt(2 / 3)))
    share = estimated_mean([True, False])
    assert_allclose((share.value, share.standard_error), (0.5, 0.5))
    assert estimated_mean([2, 2, 2]) == Estimate(2, 0)
    assert_array_equal(estimated_mean([7]).standard_error, np.nan)
    assert_array_equal(estimated_mean([7]).value, 7)
    for values in ([], [np.inf]):
        assert np.isnan(estimated_mean(values).value)
        assert np.isnan(estimated_mean(values).standard_error)


def test_a_paired_difference_comes_with_its_standard_error():
    # Differences 1, 0, 0, -1: mean 0, variance 2 / 3, standard error sqrt(2 / 3 / 4).
    difference = paired_difference([1, 1, 0, 0], [0, 1, 0, 1])
    assert_allclose((difference.value, difference.standard_error), (0, np.sqrt(1 / 6)))
    # If all differences are equal, the standard error is 0.
    assert paired_difference([True, False], [True, False]) == Estimate(0, 0)
    assert paired_difference([True, True, True], [False, False, False]).value == 1.0


def test_a_paired_difference_of_one_seed_has_no_standard_error():
    one, none = paired_difference([3], [1]), paired_difference([], [])
    assert one.value == 2 and np.isnan(one.standard_error)
    assert np.isnan(none.value) and np.isnan(none.standard_error)


def covers_all(visits):
    return coverage(visits, np.ones(visits.shape, dtype=bool))


def masks_dice(visits, other):
    return dice(visits > 0, other > 0)


def test_half_of_the_resamples_of_two_streamlines_contain_only_one():
    # Two streamlines with one voxel each: a resample draws both, or one of them twice.
    visited = visited_voxels([LINE[:1], LINE[1:2]], np.eye(4), (2, 1, 1))
    estimate = bootstrapped(covers_all, visited, n_resamples=2000)
    assert estimate.value == 1
    assert estimate.standard_error == pytest.approx(1 / 4, abs=0.002)


def test_the_bootstrap_of_a_mean_is_its_standard_error():
    visited = visited_voxels([LINE[:n] for n in range(1, 12)] * 3, *GRID)
    estimate = bootstrapped(lambda visits: visits.sum() / 33, visited, n_resamples=4000)
    assert_allclose(estimate.value, 6)
    expected = sem(visited.sum(axis=1)) * np.sqrt(32 / 33)
    assert estimate.standard_error == pytest.approx(expected, rel=0.04)


def test_partners_are_resampled_together_and_other_streamlines_are_not():
    rows = [LINE + [0, y, 0] for y in range(8)]
    visited = visited_voxels(rows, *GRID)
    same = bootstrapped(masks_dice, visited, visited)
    assert same == Estimate(1, 0)
    # Partners have equal indices, whatever voxels they visit.
    swapped = visited_voxels(rows[::-1], *GRID)
    assert bootstrapped(masks_dice, visited, swapped).standard_error > 0.02
    apart = bootstrapped(masks_dice, visited, visited, paired=False)
    assert apart.value == 1
    assert apart.standard_error > 0.02


def test_the_numbers_of_streamlines_may_differ_only_if_they_are_not_paired():
    one, other = visited_voxels(TRACTS, *GRID), visited_voxels(TRACTS[:2], *GRID)
    estimate = bootstrapped(weighted_dice, one, other, paired=False)
    assert_allclose(estimate.value, (28 / 39 + 1) / 2)
    assert estimate.standard_error > 0
    with pytest.raises(ValueError, match="same length"):
        bootstrapped(weighted_dice, one, other)


def test_a_bootstrap_is_reproducible_and_nearly_independent_of_seed_and_order():
    rng = np.random.default_rng(6)
    lines = [wander(rng, 10) for _ in range(100)]
    one, other = (
        visited_voxels([line + shift for line in lines], np.eye(4), (20, 20, 20))
        for shift in (10, 10.5)
    )
    estimate = bootstrapped(weighted_dice, one, other)
    assert estimate == bootstrapped(weighted_dice, one, other)
    another = bootstrapped(weighted_dice, one, other, random_seed=1)
    shuffled = rng.permutation(100)
    mixed = bootstrapped(weighted_dice, one[shuffled], other[shuffled])
    for again in (another, mixed):
        assert_allclose(again.value, estimate.value)
        assert again.standard_error != estimate.standard_error
        assert again.standard_error == pytest.approx(estimate.standard_error, rel=0.3)


def test_less_than_two_streamlines_have_no_standard_error():
    for lines in ([LINE], []):
        visited = visited_voxels(lines, *GRID)
        estimate = bootstrapped(masks_dice, visited, visited)
        assert estimate.value == 1
        assert np.isnan(estimate.standard_error)


def test_a_correlation_of_connections_has_a_standard_error():
    connected = connections(TRACTS * 20, np.eye(4), REGIONS)
    other = connections(TRACTS[:2] * 20 + TRACTS[::3] * 20, np.eye(4), REGIONS)
    # Visits of the three connected pairs of regions.
    estimate = bootstrapped(density_correlation, connected, other)
    assert_allclose(estimate.value, np.corrcoef([40, 20, 20], [60, 0, 20])[0, 1])
    rng = np.random.default_rng(7)
    drawn = rng.multinomial(80, np.full(80, 1 / 80), size=500)
    pairs = (drawn @ connected, drawn @ other)
    resampled = [density_correlation(*maps) for maps in zip(*pairs)]
    assert estimate.standard_error == pytest.approx(np.std(resampled), rel=0.2)
