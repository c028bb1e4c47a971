"""First directions and maxima, against lobes and values that are known."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest

from dipy_rnn import sampling, spatial
from dipy_rnn.sampling import first_directions
from dipy_rnn.sampling.peaks import at_seeds, refine_maxima
from dipy_rnn.spatial import frames

ORIGIN = np.zeros((1, 3))
X, Y, Z = np.eye(3)
# Up in RAS+, far from all vertices of DIPY's spheres and from all axes.
OBLIQUE = np.array([0.31, -0.57, 0.76]) / np.linalg.norm([0.31, -0.57, 0.76])


def voxels_of(coeffs):
    """Return a volume with one voxel along x for each row, and their centres."""
    centres = np.column_stack([np.arange(len(coeffs)), *np.zeros((2, len(coeffs)))])
    volume = np.asarray(coeffs, np.float32)[:, None, None]
    return np.ascontiguousarray(volume), centres.astype(float)


def peaks_of(coeffs, axes=None, **kwargs):
    """Return the peaks of each row of coefficients (N, 5, 3)."""
    axes = np.eye(3) if axes is None else axes
    return first_directions(*voxels_of(coeffs), axes, **kwargs)


def count(directions):
    """Return the number of directions that are not zero."""
    return int((np.linalg.norm(directions, axis=-1) > 0).sum())


def angles_deg(a, b):
    """Return angles between axes, exact also for small angles."""
    across = np.linalg.norm(np.cross(a, b), axis=-1)
    return np.degrees(np.arctan2(across, np.abs(np.sum(a * b, axis=-1))))


def pair(angle_deg):
    """Return two directions at an angle, in an oblique plane."""
    e1, e2, e3 = frames.from_tangents(OBLIQUE[None], np.eye(3))[0]
    angle = np.deg2rad(angle_deg)
    across = 0.6 * e1 + 0.8 * e2
    return np.array([e3, np.cos(angle) * e3 + np.sin(angle) * across])


# Directions


@pytest.mark.parametrize("order", [4, 6, 8])
def test_a_lobe_between_vertices_is_found_exactly(lobes, order):
    directions = np.random.default_rng(0).normal(size=(200, 3))
    directions = np.vstack([directions, OBLIQUE, X, Y, Z])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found = peaks_of(lobes(directions, order))
    assert angles_deg(found[:, 0], directions).max() < 0.05
    assert_allclose(np.linalg.norm(found[:, 0], axis=1), 1, rtol=1e-12)
    assert_array_equal(found[:, 1:], 0)


@pytest.mark.parametrize("angle_deg", [90, 60])
def test_two_lobes_far_apart_are_both_found(lobes, angle_deg):
    directions = pair(angle_deg)
    # Narrow lobes of a high order hardly move each other's maximum.
    found = peaks_of(lobes(directions, 12, 8.0).sum(axis=0, keepdims=True))
    assert count(found) == 2
    for direction in directions:
        assert angles_deg(found[0, :2], direction).min() < 0.5


def test_lobes_at_a_right_angle_are_found_exactly(lobes):
    # By symmetry, neither lobe moves the other's maximum.
    directions = pair(90)
    found = peaks_of(lobes(directions, 8).sum(axis=0, keepdims=True))
    assert count(found) == 2
    for direction in directions:
        assert angles_deg(found[0, :2], direction).min() < 0.05


def test_lobes_at_45_degrees_are_found_at_the_maxima_of_their_sum(lobes, harmonics):
    coeffs = lobes(pair(45), 8).sum(axis=0, keepdims=True)
    found = peaks_of(coeffs)
    assert count(found) == 2
    for direction in found[0, :2]:
        assert angles_deg(direction, pair(45)).min() < 5
        top = harmonics(direction, 8) @ coeffs[0]
        e1, e2, _ = frames.from_tangents(direction[None], np.eye(3))[0]
        azimuth = np.linspace(0, 2 * np.pi, 24, endpoint=False)[:, None]
        ring = direction + np.deg2rad(0.1) * (
            np.cos(azimuth) * e1 + np.sin(azimuth) * e2
        )
        assert np.all(harmonics(ring, 8) @ coeffs[0] < top)


def test_two_lobes_too_close_to_separate_give_one_peak_half_way(lobes, random_frames):
    # Their sum is a ridge. There Newton's method needs the full curvature matrix.
    e1, e2, _ = np.moveaxis(random_frames(100), 1, 0)
    half = np.deg2rad(14)
    sums = sum(lobes(np.cos(half) * e1 + side * np.sin(half) * e2) for side in (1, -1))
    found = peaks_of(sums)
    assert count(found) == 100
    assert angles_deg(found[:, 0], e1).max() < 0.05


# Selection and order


def test_the_largest_peak_comes_first(lobes):
    directions = np.array([X, Z, Y])
    coeffs = lobes(directions) * [[0.7], [1.0], [0.85]]
    found = peaks_of(coeffs.sum(axis=0, keepdims=True))[0]
    assert_allclose(found[:4], [Z, Y, X, 0 * X], atol=1e-3)


def test_peaks_below_the_relative_threshold_are_left_out(lobes, harmonics):
    coeffs = (lobes([X, Z]) * [[0.7], [1.0]]).sum(axis=0, keepdims=True)
    small, large = harmonics([X, Z], 8) @ coeffs[0]
    for nudge, expected in ((-0.01, 2), (0.01, 1)):
        threshold = small / large + nudge
        assert count(peaks_of(coeffs, relative_peak_threshold=threshold)) == expected


def test_peaks_closer_than_the_separation_are_left_out(lobes):
    coeffs = (lobes(pair(60)) * [[1.0], [0.9]]).sum(axis=0, keepdims=True)
    assert count(peaks_of(coeffs, min_separation_angle=50.0)) == 2
    (found,) = peaks_of(coeffs, min_separation_angle=70.0)
    assert count(found) == 1
    assert angles_deg(found[0], pair(60)[0]) < 5


def test_no_more_than_max_peaks_are_returned(lobes):
    coeffs = (lobes([X, Z, Y]) * [[0.7], [1.0], [0.85]]).sum(axis=0, keepdims=True)
    assert_array_equal(peaks_of(coeffs, max_peaks=2), peaks_of(coeffs)[:, :2])
    assert peaks_of(coeffs, max_peaks=2).shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("order", "lobe_deg"),
    [
        (4, 0.0),
        (8, 0.0),
        (8, 9.0),
        (12, 9.0),
        (16, 0.0),
    ],
)
def test_the_first_of_many_peaks_equals_the_only_one(lobes, order, lobe_deg):
    # Up to three sharp lobes of nearly equal height, and noise.
    rng, n = np.random.default_rng(order), 1500
    coeffs = rng.normal(scale=0.01, size=(n, (order + 1) * (order + 2) // 2))
    for share in (1.0, 0.7, 0.5):
        heights = rng.uniform(0.95, 1.0, n) * (rng.random(n) < share)
        coeffs += lobes(rng.normal(size=(n, 3)), order, lobe_deg) * heights[:, None]
    alone, many = peaks_of(coeffs, max_peaks=1), peaks_of(coeffs)
    assert count(alone) == n < count(many)
    assert_allclose(alone[:, 0], many[:, 0], atol=1e-6)


# Signs and storage


def test_signs_point_up_else_forward_else_right(lobes):
    directions = np.array([-OBLIQUE, -Z, -Y, -X, [-0.6, -0.8, 0], [-0.6, 0.8, 0]])
    expected = [OBLIQUE, Z, Y, X, [0.6, 0.8, 0], [-0.6, 0.8, 0]]
    assert_allclose(peaks_of(lobes(directions))[:, 0], expected, atol=1e-3)


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_signs_are_determined_in_ras_for_any_storage(
    lobes, oblique_affine, cube_rotations, handedness
):
    directions_ras = np.random.default_rng(0).normal(size=(20, 3))
    directions_ras /= np.linalg.norm(directions_ras, axis=1, keepdims=True)
    flip = np.diag([handedness, 1.0, 1])
    for axes in (*(cube_rotations @ flip), spatial.axes(oblique_affine(handedness))):
        found = peaks_of(lobes(directions_ras @ axes), axes)[:, 0] @ axes.T
        assert np.all(found[:, 2] > 0)
        assert angles_deg(found, directions_ras).max() < 0.05


def test_rotating_the_fodf_rotates_the_directions(lobes, cube_rotations):
    directions = pair(70)
    weights = [[1.0], [0.8]]
    expected = peaks_of((lobes(directions) * weights).sum(axis=0, keepdims=True))[0]
    assert count(expected) == 2
    rotated = [(lobes(directions @ r.T) * weights).sum(axis=0) for r in cube_rotations]
    for r, found in zip(cube_rotations, peaks_of(rotated), strict=True):
        assert count(found) == 2
        assert angles_deg(found[:2], expected[:2] @ r.T).max() < 0.01


# No direction


def test_empty_voxels_and_seeds_outside_have_no_direction(lobes):
    isotropic = np.zeros(45)
    isotropic[0] = 1.0
    volume, centres = voxels_of([np.zeros(45), isotropic, *lobes([OBLIQUE])])
    outside = [[3.0, 0, 0], [0, -0.6, 0], [np.nan, 0, 0]]
    found = first_directions(volume, np.vstack([centres, outside]), np.eye(3))
    assert count(found) == 1
    assert angles_deg(found[2, 0], OBLIQUE) < 0.05
    assert first_directions(volume, np.zeros((0, 3)), np.eye(3)).shape == (0, 5, 3)
    assert_array_equal(first_directions(volume, centres[:1], np.eye(3)), 0)


# Many seeds


def test_many_seeds_together_give_the_same_as_each_alone(lobes):
    rng = np.random.default_rng(0)
    volume = rng.normal(scale=0.05, size=(4, 4, 4, 45))
    volume += lobes(rng.normal(size=(64, 3))).reshape(volume.shape)
    volume[0] = 0
    volume = volume.astype(np.float32)
    points = rng.uniform(-1, 4, (60, 3))
    together = first_directions(volume, points, np.eye(3), nbr_threads=2)
    alone = [first_directions(volume, p[None], np.eye(3))[0] for p in points]
    assert count(together) > 40
    assert_allclose(together, alone, atol=1e-6)


def test_blocks_of_seeds_give_the_same_as_all_at_once(monkeypatch, lobes):
    rng = np.random.default_rng(4)
    volume = lobes(rng.normal(size=(5, 3))).astype(np.float32).reshape(5, 1, 1, -1)
    points = np.column_stack([np.arange(5.0), np.zeros(5), np.zeros(5)])
    whole = first_directions(volume, points, np.eye(3))
    monkeypatch.setattr(at_seeds, "_BLOCK", 2)
    parts = first_directions(volume, points, np.eye(3))
    assert whole[:, 0].any(axis=1).all()
    assert_array_equal(whole, parts)


def test_a_peak_does_not_depend_on_the_other_points():
    rng = np.random.default_rng(0)
    volume = rng.normal(scale=0.05, size=(4, 4, 4, 45)).astype(np.float32)
    volume[..., [0, 3, 10]] += 1.0, 1.5, 1.5  # one lobe near z
    points = rng.uniform(0, 3, (20, 3))
    together = first_directions(volume, points, np.eye(3), max_peaks=1)
    alone = [first_directions(volume, p[None], np.eye(3), max_peaks=1) for p in points]
    assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize("axes", [np.eye(3), np.diag([-1.0, 1, 1])])
def test_a_refined_maximum_does_not_depend_on_the_others(lobes, random_frames, axes):
    e1, e2, _ = np.moveaxis(random_frames(70), 1, 0)
    near = np.cos(np.deg2rad(5)) * e1 + np.sin(np.deg2rad(5)) * e2
    coeffs = lobes(e1).astype(np.float32)
    values, refined = refine_maxima(coeffs, near, axes, nbr_threads=2)
    assert angles_deg(refined, e1).max() < 0.01
    alone = [refine_maxima(coeffs[i : i + 1], near[i : i + 1], axes) for i in range(70)]
    assert_array_equal(values, np.concatenate([each for each, _ in alone]))
    assert_array_equal(refined, np.concatenate([each for _, each in alone]))


def test_a_direction_that_is_not_near_a_maximum_stays(lobes):
    coeffs = lobes(Z[None]).astype(np.float32)
    values, refined = refine_maxima(-coeffs, Z[None], np.eye(3))
    assert_array_equal(refined, Z[None])
    assert values[0] < 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"directions": np.eye(3)[:1]},
            r"directions has the shape \(1, 3\); \(64, 3\)",
        ),
        ({"directions": np.ones((64, 2))}, r"directions has the shape \(64, 2\)"),
        ({"coeffs": np.ones((64, 15))}, "coeffs must be an array of float32"),
        ({"coeffs": np.ones((64, 16), np.float32)}, "16"),
    ],
)
def test_directions_that_do_not_fit_the_functions_are_refused(change, message):
    arguments = {
        "coeffs": np.ones((64, 15), np.float32),
        "directions": np.tile(Z, (64, 1)),
        "axes": np.eye(3),
    }
    with pytest.raises(ValueError, match=message):
        refine_maxima(**arguments | change)


# Local maxima


def ring(n):
    """Return the neighbours of n vertices in a ring."""
    vertices = np.arange(n)
    return np.column_stack([vertices - 1, vertices + 1]).astype(np.int32) % n


def maxima(values, neighbours, most, least_share):
    """Find the maxima of functions that are given by their values."""
    units = np.eye(values.shape[1], dtype=np.float32)
    return sampling.local_maxima(values, units, neighbours, most, least_share)[0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 0, 3, 2, 0, 2], [2, 5]),  # the largest value first
        ([2, 0, 2, 0, 3, 0], [4, 0, 2]),  # of equal values the first vertex first
        (
            [3, 3, 0, 1, 1, 2],
            [0, 1, 3],
        ),  # a plateau, except where it rises
        ([1, 1, 1, 1, 1, 1], [0, 1, 2, 3, 4, 5]),
        ([-1, -3, -2, -3, -2, -3], []),  # none is positive
        ([-1, 2, -1, -5, 1, -5], [1, 4]),
        ([0, 0, 0, 0, 0, 0], []),
        ([5, 4, 3, 2, 1, 0], [0]),  # around the ends of the ring
        ([0, 1e-30, 0, 0, 0, 0], [1]),
    ],
)
def test_maxima_of_a_ring_are_sorted_by_value(values, expected):
    for most in (1, 2, 6, 9):
        found = maxima(np.float32([values]), ring(6), most, 0.0)
        assert found.shape == (1, most) and found.dtype == np.int32
        padded = expected[:most] + [-1] * (most - len(expected))
        assert found[0].tolist() == padded


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, [6, 0, 2, 4]), (0.25, [6, 0, 2, 4]), (0.26, [6, 0, 2]), (0.5, [6, 0, 2])]
    + [(0.51, [6, 0]), (0.75, [6, 0]), (0.76, [6]), (1.0, [6])],
)
def test_maxima_below_a_share_of_the_largest_value_are_left_out(share, expected):
    values = np.float32([[3, 0, 2, 0, 1, 0, 4, -9]])
    for scale in (1, 1024):
        found = maxima(values * scale, ring(8), 4, share)
        assert found[0].tolist() == expected + [-1] * (4 - len(expected))


def test_maxima_of_many_functions_equal_those_of_each_alone():
    rng = np.random.default_rng(0)
    values = np.round(4 * rng.normal(size=(200, 30))).astype(np.float32)
    neighbours = rng.integers(30, size=(30, 5)).astype(np.int32)
    found = maxima(values, neighbours, 4, 0.3)
    for row, vertices in zip(values, found, strict=True):
        tops = np.flatnonzero(
            (row >= row[neighbours].max(axis=1))
            & (row > 0)
            & (row >= np.float32(0.3) * row.max())
        )
        by_size = tops[np.argsort(-row[tops], kind="stable")].tolist()
        assert vertices.tolist() == (by_size + [-1] * 4)[:4]
    assert_array_equal(maxima(values[3:4], neighbours, 4, 0.3), found[3:4])
    assert maxima(values[:0], neighbours, 4, 0.3).shape == (0, 4)


def test_maxima_are_those_of_the_sum_of_basis_functions():
    rng = np.random.default_rng(1)
    coeffs = rng.normal(size=(50, 6)).astype(np.float32)
    harmonics = rng.normal(size=(6, 20)).astype(np.float32)
    neighbours = rng.integers(20, size=(20, 4)).astype(np.int32)
    found, least = sampling.local_maxima(coeffs, harmonics, neighbours, 3, 0.1)
    values = coeffs @ harmonics
    assert_array_equal(found, maxima(values, neighbours, 3, 0.1))
    assert_allclose(least, values.min(axis=1), rtol=1e-5)


VALUES, UNITS, RING = np.ones((1, 4), np.float32), np.eye(4, dtype=np.float32), ring(4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coeffs": np.ones((1, 400), np.float32)}, r"\(1, 400\), \(4, 4\) and \(4, 2"),
        ({"harmonics": np.ones((4, 5), np.float32)}, r"\(1, 4\), \(4, 5\) and \(4, 2"),
        ({"neighbours": RING[:3]}, r"\(1, 4\), \(4, 4\) and \(3, 2\); \(N, C\)"),
        ({"harmonics": UNITS[:, :0], "neighbours": RING[:0]}, "V above 0"),
        ({"coeffs": VALUES[:, :0], "harmonics": UNITS[:0]}, "C and V above 0"),
        ({"neighbours": RING + np.int32(1)}, "neighbours holds 1 to 4; .* 0 to 3"),
        ({"neighbours": RING - np.int32(1)}, "neighbours holds -1 to 2; .* 0 to 3"),
        ({"coeffs": VALUES[0]}, "coeffs must be an array of float32 with two axes"),
        ({"coeffs": VALUES.tolist()}, "coeffs must be an array of float32"),
        ({"harmonics": np.eye(4)}, "harmonics must be an array of float32"),
        ({"neighbours": RING.astype(np.int64)}, "neighbours must be an array of int32"),
        ({"most": 0}, "most is 0; a whole number from 1"),
        ({"most": 1.5}, r"most is 1\.5; a whole number from 1"),
        ({"most": np.nan}, "most is nan"),
        ({"least_share": "half"}, "least_share is of type str"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(change, message):
    arguments = {"coeffs": VALUES, "harmonics": UNITS, "neighbours": RING} | {
        "most": 2,
        "least_share": 0.0,
    }
    with pytest.raises(ValueError, match=message) as refusal:
        sampling.local_maxima(**arguments | change)
    assert "\n" not in str(refusal.value)


def test_a_value_that_overflows_is_the_largest_and_hides_no_other():
    values = np.float32([[0, 3e38, 0, 1, 0, 0]])
    found, _ = sampling.local_maxima(
        values, 2 * np.eye(6, dtype=np.float32), ring(6), 3, 0.0
    )
    assert found.tolist() == [[1, 3, -1]]


def test_arrays_may_have_any_memory_layout():
    values = np.asfortranarray(np.float32([[1, 0, 3, 2], [0, 4, 0, 0]]))
    found, _ = sampling.local_maxima(
        values, np.asfortranarray(UNITS), np.asfortranarray(RING), 2.0, 0.0
    )
    assert found.tolist() == [[2, -1], [1, -1]]
