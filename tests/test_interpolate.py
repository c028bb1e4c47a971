"""Sampling and rotation, against linear fields, DIPY and the function itself."""

import os

from dipy.core.interpolation import trilinear_interpolate4d
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest

from dipy_rnn import _threads, sampling

SHAPES = [(4, 5, 6), (1, 5, 1), (2, 1, 3), (1, 1, 1)]
COUNTS = [0, 1, 15, 16, 17, 100]
HANDEDNESS = [1.0, -1.0]


def random_volume(shape, channels=15, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(*shape, channels)).astype(np.float32)


def random_points(n, shape, seed=1):
    return np.random.default_rng(seed).uniform(-0.5, np.array(shape) - 0.5, (n, 3))


def border_points(shape):
    """Return points on all borders, centres and boundaries of voxels."""
    along = [
        [-0.5, -0.25, 0.0, (n - 1) / 2, n - 1, n - 0.75, np.nextafter(n - 0.5, 0)]
        for n in shape
    ]
    return np.stack(np.meshgrid(*along), axis=-1).reshape(-1, 3)


# Sampling


def test_a_linear_field_is_sampled_exactly():
    x, y, z = np.meshgrid(*map(np.arange, (5, 6, 7)), indexing="ij")
    volume = np.stack([2 * x - y + 3, z + 0.5 * x], axis=-1).astype(np.float32)
    points = np.random.default_rng(0).uniform(0, [4, 5, 6], (200, 3))
    values, inside = sampling.sample(volume, points)
    assert inside.all() and values.dtype == np.float32
    x, y, z = points.T
    expected = np.stack([2 * x - y + 3, z + 0.5 * x], axis=-1)
    assert_allclose(values, expected, atol=1e-5)


def test_half_a_voxel_beyond_the_last_centre_the_border_voxel_goes_on():
    volume = np.array([1.0, 2, 4, 8], np.float32).reshape(4, 1, 1, 1)
    for x, expected in [(-0.5, 1), (-0.2, 1), (0, 1), (3, 8), (3.2, 8), (3.4999, 8)]:
        values, inside = sampling.sample(volume, [[x, 0, 0]])
        assert inside[0]
        assert_allclose(values[0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_sampling_is_dipys_everywhere_inside(shape):
    volume = random_volume(shape, channels=3)
    points = np.concatenate([random_points(200, shape), border_points(shape)])
    values, inside = sampling.sample(volume, points)
    assert inside.all()
    theirs = [trilinear_interpolate4d(volume.astype(float), p) for p in points]
    assert_allclose(values, np.array(theirs), atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_outside_and_nan_give_zeros_and_say_so(shape):
    volume = random_volume(shape) + 10
    centre = (np.array(shape) - 1) / 2
    points = []
    for axis, n in enumerate(shape):
        for x in (np.nextafter(-0.5, -1), n - 0.5, -1e300, np.inf, -np.inf, np.nan):
            points.append(centre.copy())
            points[-1][axis] = x
    for kwargs in ({}, {"normalise": True}, {"frames": np.array([np.eye(3)] * 18)}):
        values, inside = sampling.sample(volume, points, **kwargs)
        assert inside.dtype == bool and not inside.any()
        assert_array_equal(values, 0)


def test_normalised_rows_are_unit_vectors_and_zeros_stay_zero():
    volume = random_volume((3, 3, 3)) * 1e4
    volume[0, 0, 0] = 0
    points = np.concatenate([random_points(50, (3, 3, 3)), [[-0.1, 0, 0], [9, 9, 9]]])
    values, _ = sampling.sample(volume, points, normalise=True)
    plain, _ = sampling.sample(volume, points)
    norms = np.linalg.norm(plain, axis=1, keepdims=True)
    assert_allclose(np.linalg.norm(values[:-2], axis=1), 1, rtol=1e-6)
    assert_allclose(values[:-2], (plain / np.maximum(norms, 1e-9))[:-2], atol=1e-6)
    assert_array_equal(values[-2:], 0)


# Rotation


@pytest.mark.parametrize("handedness", HANDEDNESS)
@pytest.mark.parametrize("order", range(2, 13, 2))
def test_rotated_coefficients_at_y_are_the_function_at_ry(
    harmonics, random_frames, cube_rotations, order, handedness
):
    # The cube's frames have tangents along +-x, +-y and +-z with four rolls each.
    frames = np.concatenate(
        [random_frames(20, handedness), handedness * cube_rotations]
    )
    rng = np.random.default_rng(order)
    coeffs = rng.normal(size=(len(frames), (order + 1) * (order + 2) // 2))
    y = rng.normal(size=(30, 3))
    rotated = sampling.rotate(coeffs, frames, handedness=handedness)
    here = rotated @ harmonics(y, order).T
    for i, frame in enumerate(frames):
        there = harmonics(y @ frame, order) @ coeffs[i]
        assert_allclose(here[i], there, atol=2e-5 * np.linalg.norm(coeffs[i]))


@pytest.mark.parametrize("handedness", HANDEDNESS)
@pytest.mark.parametrize("tilt", [1e-3, 1e-6, 1e-9, 1e-12, 1e-160])
def test_tangents_a_hair_off_the_poles_rotate_as_well(harmonics, tilt, handedness):
    rng = np.random.default_rng(0)
    y = rng.normal(size=(30, 3))
    for up in (1.0, -1.0):
        e3 = np.array([tilt * 0.6, tilt * 0.8, up])
        e1 = np.cross(e3, [0.8, -0.6, 0.0]) + np.array([0.8, -0.6, 0.0])
        e1 /= np.linalg.norm(e1)
        frame = np.array([e1, handedness * np.cross(e3, e1), e3])
        coeffs = rng.normal(size=(1, 45))
        rotated = sampling.rotate(coeffs, frame[None], handedness=handedness)
        here = rotated[0] @ harmonics(y, 8).T
        there = harmonics(y @ frame, 8) @ coeffs[0]
        assert_allclose(here, there, atol=1e-4)


@pytest.mark.parametrize("order", [4, 8, 12])
def test_rotation_keeps_the_norm_of_every_l(random_frames, order):
    coeffs = random_volume((200,), (order + 1) * (order + 2) // 2)
    rotated = sampling.rotate(coeffs, random_frames(200))
    start = 0
    for ll in range(0, order + 1, 2):
        part = slice(start, start + 2 * ll + 1)
        assert_allclose(
            np.linalg.norm(rotated[:, part], axis=1),
            np.linalg.norm(coeffs[:, part], axis=1),
            rtol=1e-5,
        )
        start += 2 * ll + 1


def test_rotation_leaves_its_argument_alone(random_frames):
    coeffs = random_volume((5,))
    before = coeffs.copy()
    sampling.rotate(coeffs, random_frames(5))
    assert_array_equal(coeffs, before)


@pytest.mark.parametrize("handedness", HANDEDNESS)
@pytest.mark.parametrize("normalise", [False, True])
def test_sampling_in_frames_is_sampling_then_rotating(
    random_frames, handedness, normalise
):
    volume, frames = random_volume((4, 5, 6), 45), random_frames(100, handedness)
    points = random_points(100, (4, 5, 6))
    fused, inside = sampling.sample(
        volume, points, frames, handedness=handedness, normalise=normalise
    )
    plain, _ = sampling.sample(volume, points, normalise=normalise)
    assert inside.all()
    rotated = sampling.rotate(plain, frames, handedness=handedness)
    assert_allclose(fused, rotated, atol=1e-6)


# Local maxima


def ring(n):
    """Return the neighbours of n vertices in a ring."""
    vertices = np.arange(n)
    return np.column_stack([vertices - 1, vertices + 1]).astype(np.int32) % n


def maxima(values, neighbours, most, least_share):
    """Find the maxima of functions given by their values."""
    units = np.eye(values.shape[1], dtype=np.float32)
    return sampling.local_maxima(values, units, neighbours, most, least_share)[0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 0, 3, 2, 0, 2], [2, 5]),  # the largest first
        ([2, 0, 2, 0, 3, 0], [4, 0, 2]),  # of equals, the first first
        ([3, 3, 0, 1, 1, 2], [0, 1, 3]),  # all of a plateau but where it goes on up
        ([1, 1, 1, 1, 1, 1], [0, 1, 2, 3, 4, 5]),
        ([-1, -3, -2, -3, -2, -3], []),  # none is positive
        ([-1, 2, -1, -5, 1, -5], [1, 4]),
        ([0, 0, 0, 0, 0, 0], []),
        ([5, 4, 3, 2, 1, 0], [0]),  # over the ends of the ring
        ([0, 1e-30, 0, 0, 0, 0], [1]),
    ],
)
def test_maxima_of_a_ring_are_found_by_size(values, expected):
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


def test_maxima_of_many_functions_are_those_of_each():
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


def test_maxima_are_of_the_function_that_the_coefficients_are_of():
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
def test_maxima_of_arrays_that_do_not_fit_are_refused(change, message):
    arguments = {"coeffs": VALUES, "harmonics": UNITS, "neighbours": RING} | {
        "most": 2,
        "least_share": 0.0,
    }
    with pytest.raises(ValueError, match=message) as refusal:
        sampling.local_maxima(**arguments | change)
    assert "\n" not in str(refusal.value)


def test_maxima_are_found_in_arrays_of_any_layout():
    values = np.asfortranarray(np.float32([[1, 0, 3, 2], [0, 4, 0, 0]]))
    found, _ = sampling.local_maxima(
        values, np.asfortranarray(UNITS), np.asfortranarray(RING), 2.0, 0.0
    )
    assert found.tolist() == [[2, -1], [1, -1]]


# Threads and blocks


@pytest.mark.parametrize("n", COUNTS)
def test_neither_threads_nor_neighbours_change_a_row(random_frames, n):
    volume, frames = random_volume((4, 5, 6)), random_frames(100)
    points = random_points(100, (4, 5, 6))
    points[::7, 1] = 99.0  # some are outside
    values, inside = sampling.sample(volume, points, frames, normalise=True)
    rotated = sampling.rotate(values, frames)
    for nbr_threads in (1, 2, 4):
        some, some_inside = sampling.sample(
            volume, points[:n], frames[:n], normalise=True, nbr_threads=nbr_threads
        )
        assert some.shape == (n, 15) and some_inside.shape == (n,)
        assert_array_equal(some, values[:n])
        assert_array_equal(some_inside, inside[:n])
        some = sampling.rotate(values[:n], frames[:n], nbr_threads=nbr_threads)
        assert_array_equal(some, rotated[:n])


def test_no_threads_asked_for_means_every_core():
    assert _threads.count_threads(3) == 3
    assert 1 <= _threads.count_threads(0) <= os.cpu_count()


@pytest.mark.parametrize(("n_cores", "n_threads"), [(7, 7), (None, 1)])
def test_every_core_is_what_the_system_tells(monkeypatch, n_cores, n_threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    assert _threads.count_threads(0) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: n_cores)
    assert _threads.count_threads(0) == n_threads


# Orders


@pytest.mark.parametrize("order", range(0, sampling.MAX_ORDER + 1, 2))
def test_an_order_is_known_by_its_number_of_coefficients(order):
    assert sampling.sh_order(sum(range(1, 2 * order + 2, 4))) == order


# What is refused

VOLUME = np.zeros((2, 2, 2, 15), np.float32)
POINT = np.zeros((1, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sampling.sample(VOLUME.tolist(), POINT), "volume must be"),
        (lambda: sampling.sample(VOLUME.astype(float), POINT), "volume must be"),
        (lambda: sampling.sample(VOLUME[0], POINT), "volume must be"),
        (lambda: sampling.sample(VOLUME[:0], POINT), "volume must be"),
        (lambda: sampling.sample(VOLUME[:, ::2], POINT), "volume must be"),
        (lambda: sampling.sample(VOLUME, POINT[0]), r"points_vox has the shape"),
        (lambda: sampling.sample(VOLUME, np.zeros((4, 2))), "points_vox has the"),
        (lambda: sampling.sample(VOLUME, POINT, np.eye(3)), "frames has the shape"),
        (
            lambda: sampling.sample(VOLUME, POINT, np.zeros((2, 3, 3))),
            r"\(1, 3, 3\) is needed",
        ),
        (
            lambda: sampling.sample(
                np.ascontiguousarray(VOLUME[..., :14]), POINT, np.eye(3)[None]
            ),
            "14 coefficients belong to no even order",
        ),
        (lambda: sampling.rotate(np.zeros(15), np.eye(3)[None]), "coeffs has the"),
        (lambda: sampling.rotate(np.zeros((1, 15)), np.eye(3)), "frames has the"),
        (lambda: sampling.rotate(np.zeros((1, 16)), np.eye(3)), "16 coefficients"),
        (lambda: sampling.sh_order(190), "190 coefficients belong to no even order"),
        (lambda: _threads.count_threads(-1), "nbr_threads is -1"),
        (lambda: _threads.count_threads(1025), "nbr_threads is 1025"),
        (lambda: sampling.sample(VOLUME, "no"), "points_vox is of type"),
        (lambda: sampling.rotate("no", np.eye(3)[None]), "coeffs is of type"),
        (
            lambda: sampling.rotate([[0.0]], np.eye(3)[None], handedness=2),
            "handedness is 2; 1 or -1",
        ),
        (lambda: sampling.sample(VOLUME, POINT, nbr_threads=-2), "nbr_threads is"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refusal:
        call()
    assert "\n" not in str(refusal.value)
