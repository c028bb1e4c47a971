"""The largest value of an fODF in a cone, against a much finer search."""

from itertools import product

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
import torch

from dipy_rnn.sampling import cone_of, into_cone
from dipy_rnn.sampling.interpolate_torch import TorchCone
from dipy_rnn.sampling.interpolate_torch import into_cone as torch_into_cone

AXIS = np.array([0.0, 0.0, 1.0])
ORDERS = [4, 6, 8]
ANGLES = [15.0, 30.0, 60.0, 90.0]
COEFFS = {4: 15, 6: 28, 8: 45}


def aside(degrees, azimuth_deg=0.0):
    """Return unit vectors at angles to the third axis."""
    turn, azimuth = np.broadcast_arrays(np.deg2rad(degrees), np.deg2rad(azimuth_deg))
    sine = np.sin(turn)
    return np.stack([sine * np.cos(azimuth), sine * np.sin(azimuth), np.cos(turn)], -1)


def angles_deg(one, other):
    """Return the angles between unit vectors, exact also if they are small."""
    across = np.linalg.norm(np.cross(one, other), axis=-1)
    return np.rad2deg(np.arctan2(across, np.sum(one * other, axis=-1)))


def fine_grid(angle_deg, n=60_000):
    """Return directions in a cone, evenly spaced on a spiral."""
    k = np.arange(n)
    z = 1 - (k + 0.5) / n * (1 - np.cos(np.deg2rad(angle_deg)))
    azimuth = k * np.pi * (3 - np.sqrt(5))
    across = np.sqrt(1 - z * z)
    return np.stack([across * np.cos(azimuth), across * np.sin(azimuth), z], axis=1)


def random_coeffs(order, n=60, seed=0):
    return np.random.default_rng(seed).normal(size=(n, COEFFS[order]))


# The direction


@pytest.mark.parametrize(("order", "angle_deg"), list(product(ORDERS, ANGLES)))
def test_the_largest_value_is_the_one_that_a_much_finer_search_finds(
    harmonics, order, angle_deg
):
    coeffs = random_coeffs(order, 300)
    found, _ = cone_of(order, angle_deg).largest(coeffs, 0.0)
    grid = fine_grid(angle_deg, 20_000)
    values = coeffs @ harmonics(grid, order).T
    height = np.sum(coeffs * harmonics(found, order), axis=1)
    spread = np.abs(coeffs @ harmonics(fine_grid(90.0, 4000), order).T).max(axis=1)
    loss = (values.max(axis=1) - height) / spread
    assert np.max(loss) < 0.06
    best = grid[np.argmax(values, axis=1)]
    away = angles_deg(found, best)
    away = np.minimum(away, 180 - away)  # at 90 degrees both directions are in the cone
    at_border = angles_deg(best, AXIS) > angle_deg - 1
    assert np.sum(~at_border) > 0
    assert np.median(away[~at_border]) < 0.5
    # The others have two maxima of almost the same value.
    assert np.mean(away[~at_border] < 2) > 0.9
    # On the border the value still rises, and there is no maximum for the parabola.
    assert angle_deg == 90 or np.mean(away[at_border] < 4) > 0.9


@pytest.mark.parametrize("order", ORDERS)
def test_a_peak_in_the_cone_is_found_to_a_quarter_of_a_degree(lobes, order):
    rng = np.random.default_rng(1)
    peaks = aside(rng.uniform(0, 50, 200), rng.uniform(0, 360, 200))
    for angle_deg in (60.0, 90.0):
        found, counts = cone_of(order, angle_deg).largest(lobes(peaks, order), 0.5)
        assert angles_deg(found, peaks).max() < 0.25
        assert counts.all()


@pytest.mark.parametrize("angle_deg", [0.5, *ANGLES])
@pytest.mark.parametrize("order", ORDERS)
def test_a_lobe_along_the_axis_is_found_exactly_along_the_axis(lobes, order, angle_deg):
    coeffs = lobes(AXIS, order) + 0.3 * lobes(AXIS, order, lobe_deg=20.0)
    found, counts = cone_of(order, angle_deg).largest(coeffs, 0.9)
    assert_allclose(found, [AXIS], atol=1e-6)
    assert counts.all()


@pytest.mark.parametrize("angle_deg", [1e-300, 1e-6, 0.01, 1.0, *ANGLES, 120.0, 180.0])
def test_directions_are_unit_vectors_in_the_cone(angle_deg):
    for order in ORDERS:
        cone = cone_of(order, angle_deg)
        found, _ = cone.largest(random_coeffs(order, 300), 0.0)
        assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-7)
        border_deg = np.clip(angle_deg, 1e-3, 90.0)
        assert angles_deg(found, AXIS).max() <= border_deg * (1 + 1e-6)
        assert angles_deg(cone.directions, AXIS).max() <= border_deg * (1 + 1e-4)


@pytest.mark.parametrize("angle_deg", [15.0, 30.0, 45.0])
def test_a_lobe_outside_the_cone_gives_the_border_at_the_azimuth_of_the_lobe(
    lobes, angle_deg
):
    azimuth_deg = np.arange(0.0, 360.0, 7.0)
    peaks = aside(angle_deg + 12, azimuth_deg)
    found, _ = cone_of(8, angle_deg).largest(lobes(peaks), 0.0)
    assert_allclose(angles_deg(found, AXIS), angle_deg, rtol=1e-3)
    assert angles_deg(found, aside(angle_deg, azimuth_deg)).max() < 2.5


@pytest.mark.parametrize("order", ORDERS)
def test_in_a_very_small_cone_the_direction_is_where_the_fodf_rises(lobes, order):
    azimuth_deg = np.arange(0.0, 360.0, 20.0)
    coeffs = lobes(aside(15.0, azimuth_deg), order)
    found, counts = cone_of(order, 0.5).largest(coeffs, 0.0)
    assert_allclose(angles_deg(found, AXIS), 0.5, rtol=1e-3)
    assert angles_deg(found, aside(0.5, azimuth_deg)).max() < 0.15
    assert counts.all()


@pytest.mark.parametrize("order", ORDERS)
def test_from_90_degrees_on_all_cones_are_the_same(order):
    coeffs = random_coeffs(order)
    expected, counts = cone_of(order, 90.0).largest(coeffs, 0.5)
    for angle_deg in (90.001, 120.0, 180.0):
        found, again = cone_of(order, angle_deg).largest(coeffs, 0.5)
        assert_array_equal(found, expected)
        assert_array_equal(again, counts)
    # In opposite directions an fODF has the same value; the one ahead is returned.
    assert expected[:, 2].min() >= 0


def test_a_value_that_is_the_same_everywhere_counts():
    for order, angle_deg in product(ORDERS, ANGLES):
        coeffs = np.zeros((1, COEFFS[order]))
        coeffs[:, 0] = 1.0
        assert cone_of(order, angle_deg).largest(coeffs, 0.999)[1].all()


# The vertices


@pytest.mark.parametrize("angle_deg", [1.0, *ANGLES])
@pytest.mark.parametrize("order", ORDERS)
def test_the_matrix_holds_the_spherical_harmonics_at_the_vertices(
    harmonics, order, angle_deg
):
    cone = cone_of(order, angle_deg)
    expected = harmonics(cone.directions, order).T
    # The directions are float32, so that their angles have an error of about 1e-5.
    assert_allclose(cone.matrix[:, : len(cone.directions)], expected, atol=5e-5)


@pytest.mark.parametrize("angle_deg", [1.0, *ANGLES])
def test_half_a_turn_later_on_a_ring_odd_phase_factors_change_sign(angle_deg):
    cone = cone_of(8, angle_deg)
    assert cone.ring_sizes.sum() == cone.matrix.shape[1]
    odd = np.arange(-8, 9) % 2 == 1
    for last, size in zip(np.cumsum(cone.ring_sizes)[1:], cone.ring_sizes[1:]):
        ring = cone.azimuthal[:, last - size : last]
        first, second = ring[:, : size // 2], ring[:, size // 2 :]
        assert_allclose(second[odd], -first[odd], atol=1e-6)
        assert_allclose(second[~odd], first[~odd], atol=1e-6)


# The threshold


def test_the_largest_value_in_the_cone_must_reach_its_share_of_the_largest_anywhere(
    harmonics, lobes
):
    # Lobes of heights 0.4 and 1, ahead and at 90 degrees. Each is small at the other.
    coeffs = 0.4 * lobes(AXIS) + lobes(aside(90.0))
    at = coeffs @ harmonics([AXIS, aside(90.0)], 8).T
    (share,) = at[:, 0] / at[:, 1]
    assert 0.3 < share < 0.5
    cone = cone_of(8, 30.0)
    for pmf_threshold in (0.0, 0.1, share - 0.02):
        assert cone.largest(coeffs, pmf_threshold)[1].tolist() == [True]
    for pmf_threshold in (share + 0.02, 0.9, 1.0):
        assert cone.largest(coeffs, pmf_threshold)[1].tolist() == [False]
    # In a cone that holds the larger lobe, the largest value is always reached.
    assert cone_of(8, 90.0).largest(coeffs, 1.0)[1].tolist() == [True]


def test_the_scale_of_the_fodf_has_no_effect_on_the_threshold():
    coeffs = random_coeffs(8, 200)
    cone = cone_of(8, 20.0)
    expected, counts = cone.largest(coeffs, 0.3)
    assert 20 < counts.sum() < 180
    for scale in (2.0**-40, 2.0**40):  # exact in float32
        found, again = cone.largest(coeffs * scale, 0.3)
        assert_allclose(found, expected, atol=1e-6)
        assert_array_equal(again, counts)


def test_a_value_that_is_not_above_zero_does_not_count(lobes):
    empty, nan = np.zeros((1, 45)), np.full((1, 45), np.nan)
    for angle_deg in ANGLES:
        cone = cone_of(8, angle_deg)
        for coeffs in (empty, -lobes(AXIS, lobe_deg=40.0), nan):
            assert cone.largest(coeffs, 0.0)[1].tolist() == [False]
        assert_array_equal(cone.largest(empty, 0.0)[0], [AXIS])


@pytest.mark.parametrize("order", ORDERS)
def test_the_decision_agrees_with_a_much_finer_search(harmonics, order):
    coeffs = random_coeffs(order, 300, seed=2)
    everywhere = (coeffs @ harmonics(fine_grid(90.0, 20_000), order).T).max(axis=1)
    for angle_deg, pmf_threshold in product((15.0, 30.0, 60.0), (0.1, 0.5)):
        inside = coeffs @ harmonics(fine_grid(angle_deg, 20_000), order).T
        share = inside.max(axis=1) / everywhere
        _, counts = cone_of(order, angle_deg).largest(coeffs, pmf_threshold)
        # The vertices around the cone are 12 degrees apart, and may miss a fifth of the
        # largest value anywhere.
        near = np.abs(share - pmf_threshold) < 0.25 * pmf_threshold
        assert near.mean() < 0.5
        assert_array_equal(counts[~near], share[~near] > pmf_threshold)


# Into the cone


def test_directions_outside_a_cone_move_to_its_border_and_keep_their_azimuth():
    cosine, sine = 0.8, 0.6
    before = np.array(
        [
            [0.0, 0.0, 1.0],
            [0.6, 0.0, 0.8],  # on the border
            [0.0, -0.28, 0.96],  # inside
            [0.8, 0.0, 0.6],
            [0.0, -1.0, 0.0],
            [0.48, 0.64, -0.6],
            [0.0, 0.0, -1.0],  # opposite to the axis
        ]
    )
    after = [
        [0.0, 0.0, 1.0],
        [0.6, 0.0, 0.8],
        [0.0, -0.28, 0.96],
        [0.6, 0.0, 0.8],
        [0.0, -0.6, 0.8],
        [0.36, 0.48, 0.8],
        [0.0, 0.0, 1.0],
    ]
    given = before.copy()
    assert_allclose(into_cone(given, cosine, sine), after, atol=1e-12)
    assert_array_equal(given, before)
    moved = torch_into_cone(torch.from_numpy(before), cosine, sine)
    assert_allclose(moved, after, atol=1e-12)


# The same with torch


@pytest.mark.parametrize("order", ORDERS)
def test_the_cone_of_torch_is_the_same(order):
    coeffs = np.concatenate([random_coeffs(order, 400), np.zeros((1, COEFFS[order]))])
    for angle_deg, pmf_threshold in product([1.0, *ANGLES, 180.0], (0.0, 0.1, 0.9)):
        cone = cone_of(order, angle_deg)
        found, counts = cone.largest(coeffs, pmf_threshold)
        on_device = TorchCone(cone, torch.device("cpu"))
        seen = torch.from_numpy(coeffs.astype(np.float32))
        torch_found, torch_counts = on_device.largest(seen, pmf_threshold)
        assert torch_found.dtype == torch.float32
        assert_allclose(torch_found, found, atol=1e-4)
        assert_array_equal(torch_counts, counts)
        assert pmf_threshold == 0.0 or angle_deg >= 90 or 0 < counts.mean() < 1


def test_nan_stays_in_its_row_with_torch_and_without():
    coeffs = random_coeffs(8, 3)
    cone = cone_of(8, 30.0)
    expected, counts = cone.largest(coeffs, 0.1)
    coeffs[1, 7] = np.nan
    seen = torch.from_numpy(coeffs.astype(np.float32))
    for found, again in (
        cone.largest(coeffs, 0.1),
        TorchCone(cone, torch.device("cpu")).largest(seen, 0.1),
    ):
        assert_allclose(found[[0, 2]], expected[[0, 2]], atol=1e-5)
        assert np.isnan(np.asarray(found[1])).any()
        assert np.asarray(again).tolist() == [counts[0], False, counts[2]]
