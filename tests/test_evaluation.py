"""Scores of streamlines, against values counted on paper."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
from scipy.spatial.distance import directed_hausdorff

from dipy_rnn.evaluation import (
    INVALID_CONNECTION,
    NO_CONNECTION,
    KnownBundle,
    alike,
    density_correlation,
    dice,
    followed,
    hausdorff_mm,
    known_bundles,
    paired_difference,
    score,
    visits,
)
from dipy_rnn.phantom import crossing_phantom

LINE = np.arange(11.0)[:, None] * [1, 0, 0]  # 0 to 10 mm along x
NOTHING = np.empty((0, 3))


def path(*corners, spacing=0.5):
    """Walk from corner to corner."""
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


# Distances


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


def test_streamlines_are_alike_up_to_the_limit():
    others = [LINE + [0, 1.9, 0], LINE + [0, 2, 0], LINE + [0, 2.1, 0], LINE[::-1]]
    assert_array_equal(alike([LINE] * 4, others), [True, True, False, True])
    assert_array_equal(alike([LINE], [LINE + [0, 2.1, 0]], limit_mm=2.2), [True])


def test_half_a_streamline_is_not_like_the_whole_of_it():
    assert_array_equal(alike([LINE, LINE[:6]], [LINE[:6], LINE]), [False, False])


def test_a_streamline_without_points_is_like_none():
    assert_array_equal(alike([NOTHING, LINE, NOTHING], [LINE, NOTHING, NOTHING]), False)
    assert alike([], []).shape == (0,)


def test_each_streamline_needs_a_partner():
    with pytest.raises(ValueError, match="shorter"):
        alike([LINE, LINE], [LINE])


def test_a_reference_is_followed_if_all_of_it_was_tracked():
    onward = np.arange(-5.0, 16)[:, None] * [1, 0, 0]
    tracked = [LINE, onward + [0, 1.9, 0], onward + [0, 2.1, 0], LINE[::-1], LINE[:6]]
    assert_array_equal(followed([LINE] * 5, tracked), [True, True, False, True, False])
    # The first 8 of 10 mm, and a limit of 2 mm.
    assert_array_equal(followed([LINE, LINE], [LINE[:9], LINE[:8]]), [True, False])
    assert_array_equal(followed([LINE, NOTHING], [NOTHING, LINE]), [False, False])


def test_a_paired_difference_comes_with_its_standard_error():
    # Differences 1, 0, 0, -1: mean 0, variance 2 / 3, standard error sqrt(2 / 3 / 4).
    difference, error = paired_difference([1, 1, 0, 0], [0, 1, 0, 1])
    assert_allclose((difference, error), (0, np.sqrt(1 / 6)))
    # Where both agree in every seed, nothing is left to chance.
    assert paired_difference([True, False], [True, False]) == (0.0, 0.0)
    assert paired_difference([True, True, True], [False, False, False])[0] == 1.0


# Volumes


def test_a_streamline_visits_a_voxel_once():
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = 10, 0, 0
    # Voxel 0 owns 9 to 11 mm, so 11 mm is the first point of voxel 1.
    line = np.array([[10.0, 0, 0], [10.9, 0, 0], [11, 0, 0], [10, 0, 0]])
    assert_array_equal(visits([line, line[:2]], affine, (3, 1, 1)).ravel(), [2, 1, 0])


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


def test_voxels_that_nobody_visits_do_not_correlate():
    # Without the many zeros: (1, 2, 3) and (2, 1, 3), each of variance 2 / 3.
    first, second = np.zeros((2, 10, 10, 10))
    first[:3, 0, 0], second[:3, 0, 0] = (1, 2, 3), (2, 1, 3)
    assert_allclose(density_correlation(first, second), 0.5)
    assert_allclose(density_correlation(first, 4 * first), 1)
    assert np.isnan(density_correlation(first, np.sign(first)))
    assert np.isnan(density_correlation(0 * first, 0 * first))


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
# One voxel over, for the voxels x = 2 to 4.
DETOUR = path((0, 0, 0), (2, 0, 0), (2, 1, 0), (4, 1, 0), (4, 0, 0), (6, 0, 0))
ACROSS = path((0, 0, 0), (0, 3, 0))  # from an end of one to an end of the other
SHORT = path((0, 0, 0), (5, 0, 0))
BACK = path((0, 0, 0), (6, 0, 0), (0, 0, 0))  # to where it came from


def test_connections_are_valid_or_invalid_or_none():
    scores = score([STRAIGHT[::-1], ACROSS, SHORT, BACK], ROWS, np.eye(4))
    assert_array_equal(
        scores.labels, [0, INVALID_CONNECTION, NO_CONNECTION, NO_CONNECTION]
    )
    assert scores.valid_connections == 1 / 4
    assert scores.invalid_connections == 1 / 4
    assert scores.no_connections == 2 / 4
    assert (scores.valid_bundles, scores.n_bundles) == (1, 2)


def test_overlap_overreach_and_f1_count_voxels():
    # Off the row are (2, 1), (3, 1) and (4, 1); of its 7 voxels only (3, 0) is missed.
    scores = score([DETOUR], ROWS, np.eye(4))
    assert_allclose(scores.overlaps, [6 / 7, 0])
    assert_allclose(scores.overreaches, [3 / 7, 0])
    # 9 voxels, 6 of which are right, beside 7.
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


def test_of_bundles_with_the_same_ends_the_one_with_most_points_wins():
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
        path((6, 0, 0), (6, 3, 0)),  # from branch to branch
    ]
    assert_array_equal(score(lines, fork, np.eye(4)).labels, [0, 1, INVALID_CONNECTION])


def test_streamlines_may_be_missing_or_have_one_point_or_leave_the_grid():
    lines = [NOTHING, STRAIGHT[:1], path((-3, 0, 0), (6, 0, 0)), STRAIGHT]
    scores = score(lines, ROWS, np.eye(4))
    assert_array_equal(scores.labels, [NO_CONNECTION] * 3 + [0])
    for lines in ([], [NOTHING]):
        scores = score(lines, ROWS, np.eye(4))
        assert scores.valid_connections == scores.f1 == scores.valid_bundles == 0
        assert scores.no_connections == len(lines)


def test_scores_do_not_depend_on_where_the_grid_lies():
    affine = np.array([[0, -2.0, 0, 5], [2, 0, 0, -7], [0, 0, 2, 3], [0, 0, 0, 1]])
    lines = [line @ affine[:3, :3].T + affine[:3, 3] for line in (STRAIGHT, ACROSS)]
    assert_array_equal(score(lines, ROWS, affine).labels, [0, INVALID_CONNECTION])


def test_a_known_bundle_is_checked():
    mask, (first, last) = ROWS[0].mask, ROWS[0].ends
    with pytest.raises(ValueError, match=r"mask has the shape \(7, 4, 1\)"):
        KnownBundle(mask, (first, last[:6]))
    with pytest.raises(ValueError, match="mask is empty"):
        KnownBundle(mask & ~mask, (first, last))
    with pytest.raises(ValueError, match="ends share 1 voxels"):
        KnownBundle(mask, (first, first))


def test_a_bundle_is_known_by_its_streamlines():
    (bundle,) = known_bundles([[STRAIGHT, DETOUR]], np.eye(4), SHAPE, end_mm=1.0)
    expected = voxels(SHAPE, np.s_[:, 0], np.s_[2:5, 1])
    assert_array_equal(bundle.mask, expected)
    for end, x in zip(bundle.ends, (0, 6)):
        # The end, and its neighbours on the grid.
        near = voxels(SHAPE, (x, 0), (x, 1), (1 if x == 0 else 5, 0))
        assert_array_equal(end, near)


def test_a_bundle_is_known_by_its_centreline_radius_and_mask():
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
