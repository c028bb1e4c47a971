"""Trilinear sampling, against linear fields and DIPY."""

from dipy.core.interpolation import trilinear_interpolate4d
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest

from dipy_rnn import sampling

SHAPES = [(4, 5, 6), (1, 5, 1), (2, 1, 3), (1, 1, 1)]
COUNTS = [0, 1, 15, 16, 17, 100]
HANDEDNESS = [1.0, -1.0]


def random_volume(shape, channels=15, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(*shape, channels)).astype(np.float32)


def random_points(n, shape, seed=1):
    return np.random.default_rng(seed).uniform(-0.5, np.array(shape) - 0.5, (n, 3))


def border_points(shape):
    """Return points at borders of the image, at centres and between voxels."""
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


def test_up_to_half_a_voxel_beyond_the_last_centre_the_border_voxel_is_used():
    volume = np.array([1.0, 2, 4, 8], np.float32).reshape(4, 1, 1, 1)
    for x, expected in [(-0.5, 1), (-0.2, 1), (0, 1), (3, 8), (3.2, 8), (3.4999, 8)]:
        values, inside = sampling.sample(volume, [[x, 0, 0]])
        assert inside[0]
        assert_allclose(values[0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_sampling_equals_dipys_everywhere_inside(shape):
    volume = random_volume(shape, channels=3)
    points = np.concatenate([random_points(200, shape), border_points(shape)])
    values, inside = sampling.sample(volume, points)
    assert inside.all()
    theirs = [trilinear_interpolate4d(volume.astype(float), p) for p in points]
    assert_allclose(values, np.array(theirs), atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_outside_and_nan_points_give_zeros_and_are_not_inside(shape):
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


# Sampling in frames


@pytest.mark.parametrize("handedness", HANDEDNESS)
@pytest.mark.parametrize("normalise", [False, True])
def test_sampling_in_frames_equals_sampling_and_then_rotating(
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


# Threads and blocks


@pytest.mark.parametrize("n", COUNTS)
def test_threads_and_other_rows_do_not_change_a_row(random_frames, n):
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


# Arguments that are refused

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
        (lambda: sampling.sample(VOLUME, "no"), "points_vox is of type"),
        (lambda: sampling.sample(VOLUME, POINT, handedness=2), "handedness is 2; 1 or"),
        (lambda: sampling.sample(VOLUME, POINT, nbr_threads=-2), "nbr_threads is"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refusal:
        call()
    assert "\n" not in str(refusal.value)
