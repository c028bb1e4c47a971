"""Rotation of spherical harmonics, against the rotated function itself."""

import tracemalloc

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest

from dipy_rnn import sampling, spatial

HANDEDNESS = [1.0, -1.0]


def random_coeffs(shape, order, seed=0):
    """Return float32 coefficients (*shape, C)."""
    shape = (*shape, (order + 1) * (order + 2) // 2)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Orders


@pytest.mark.parametrize("order", range(0, sampling.MAX_ORDER + 1, 2))
def test_the_order_follows_from_the_number_of_coefficients(order):
    assert sampling.sh_order(sum(range(1, 2 * order + 2, 4))) == order


def test_a_lower_order_is_padded_and_a_higher_one_is_cut():
    coeffs = random_coeffs((2, 1, 3), 6)
    assert sampling.with_order(coeffs, 6) is coeffs
    padded = sampling.with_order(coeffs, 8)
    assert padded.shape == (2, 1, 3, 45) and padded.flags.c_contiguous
    assert_array_equal(padded[..., :28], coeffs)
    assert_array_equal(padded[..., 28:], 0)
    cut = sampling.with_order(coeffs, 4)
    assert cut.flags.c_contiguous
    assert_array_equal(cut, coeffs[..., :15])


# One frame for each row


@pytest.mark.parametrize("handedness", HANDEDNESS)
@pytest.mark.parametrize("order", range(2, 13, 2))
def test_the_rotated_function_at_y_is_the_function_at_ry(
    harmonics, random_frames, cube_rotations, order, handedness
):
    # The frames of the cube have tangents along +-x, +-y and +-z, four rolls each.
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
def test_tangents_very_near_the_poles_are_exact(harmonics, tilt, handedness):
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
def test_rotation_keeps_the_power_of_every_l(random_frames, order):
    coeffs = random_coeffs((200,), order)
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


def test_the_given_coefficients_are_not_changed(random_frames):
    coeffs = random_coeffs((5,), 4)
    before = coeffs.copy()
    sampling.rotate(coeffs, random_frames(5))
    assert_array_equal(coeffs, before)


# One rotation for all


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_a_volume_is_rotated_like_its_rows(oblique_affine, handedness):
    rotation = spatial.axes(oblique_affine(handedness))
    coeffs = random_coeffs((2, 1, 3), 8)
    rotated = sampling.rotate_all(coeffs, rotation)
    assert rotated.dtype == np.float32 and rotated.flags.c_contiguous
    rows = coeffs.reshape(-1, 45)
    expected = sampling.rotate(
        rows, np.broadcast_to(rotation, (len(rows), 3, 3)), handedness=handedness
    )
    assert_allclose(rotated.reshape(-1, 45), expected, atol=2e-6)


def test_rotating_a_volume_needs_no_more_memory_than_the_result(oblique_affine):
    coeffs = np.ones((20, 20, 20, 15), np.float32)
    rotation = spatial.axes(oblique_affine(-1.0)).T
    sampling.rotate_all(coeffs[:1], rotation)
    tracemalloc.start()
    rotated = sampling.rotate_all(coeffs, rotation)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A frame for each voxel would take 72 bytes beside 60 bytes of coefficients.
    assert rotated.nbytes <= most < rotated.nbytes + 50_000


# Arguments that are refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sampling.rotate(np.zeros(15), np.eye(3)[None]), "coeffs has the"),
        (lambda: sampling.rotate(np.zeros((1, 15)), np.eye(3)), "frames has the"),
        (lambda: sampling.rotate(np.zeros((1, 16)), np.eye(3)), "16 coefficients"),
        (lambda: sampling.sh_order(190), "190 coefficients belong to no even order"),
        (lambda: sampling.rotate("no", np.eye(3)[None]), "coeffs is of type"),
        (
            lambda: sampling.rotate([[0.0]], np.eye(3)[None], handedness=2),
            "handedness is 2; 1 or -1",
        ),
        (
            lambda: sampling.rotate(np.ones((1, 6)), np.eye(3)[None], nbr_threads=2.5),
            "nbr_threads is 2.5",
        ),
        (lambda: sampling.rotate_all(np.zeros((2, 9)), np.eye(3)), "9 coefficients"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refusal:
        call()
    assert "\n" not in str(refusal.value)
