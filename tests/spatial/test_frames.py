"""Moving frames, against rotations that can be done by hand."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest

from dipy_rnn import spatial
from dipy_rnn.spatial import frames

X, Y, Z = np.eye(3)
LAS = np.diag([-1.0, 1, 1])


def random_units(n, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def transported(first, tangents):
    """Return the frame at the end of a curve of unit tangents (N, 3)."""
    frame = first
    for tangent in tangents:
        frame = frames.transport(frame, tangent[None])
    return frame


def arc(start, end, n=40):
    """Return unit vectors along the great circle between two orthogonal ones."""
    angle = np.linspace(0, np.pi / 2, n)[:, None]
    return np.cos(angle) * start + np.sin(angle) * end


def assert_frames(rows, handedness=1.0):
    products = rows @ np.swapaxes(rows, 1, 2)
    assert_allclose(products, np.broadcast_to(np.eye(3), rows.shape), atol=1e-12)
    assert_allclose(np.linalg.det(rows), handedness)


# First frames


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_frames_are_orthonormal_and_right_handed_in_ras(oblique_affine, handedness):
    axes = spatial.axes(oblique_affine(handedness))
    tangents = np.concatenate([random_units(200), np.eye(3), -np.eye(3)])
    rows = frames.from_tangents(tangents, axes)
    assert_allclose(rows[:, 2], tangents)
    assert_frames(rows, handedness)
    assert_frames(rows @ axes.T, 1.0)


def test_the_first_row_is_made_of_the_ras_axis_furthest_from_the_tangent():
    tangent = np.array([[0.6, 0.8, 0.0]])
    assert_allclose(
        frames.from_tangents(tangent, np.eye(3))[0],
        [[0, 0, 1], [0.8, -0.6, 0], [0.6, 0.8, 0]],
        atol=1e-12,
    )


@pytest.mark.parametrize(("difference", "first"), [(4e-7, X), (6e-6, Y)])
def test_of_axes_that_are_equally_far_to_1e_6_the_first_is_taken(difference, first):
    # The tangent is at almost the same angle to x and to y.
    tangent = np.array([[0.5 + difference, 0.5, np.sqrt(0.5)]])
    e1 = frames.from_tangents(tangent / np.linalg.norm(tangent), np.eye(3))[0, 0]
    assert np.argmax(e1) == np.argmax(first)


def test_the_frames_of_a_brain_do_not_depend_on_its_storage(
    oblique_affine, cube_rotations
):
    tangents = np.concatenate([random_units(50), np.eye(3), arc(X, Y, 9)])
    expected = frames.from_tangents(tangents, np.eye(3))
    storages = [*cube_rotations, *(cube_rotations @ LAS)]
    storages += [spatial.axes(oblique_affine(h)) for h in (1.0, -1.0)]
    for axes in storages:
        rows = frames.from_tangents(tangents @ axes, axes)
        assert_allclose(rows @ axes.T, expected, atol=1e-12)


# Transport


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_a_straight_step_keeps_the_frame(random_frames, handedness):
    rows = random_frames(50, handedness)
    assert_allclose(frames.transport(rows, rows[:, 2]), rows, atol=1e-12)


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_a_quarter_turn_equals_the_one_done_by_hand(handedness):
    rows = np.array([[X, handedness * Y, Z]])
    to_x = frames.transport(rows, X[None])[0]
    assert_allclose(to_x, [-Z, handedness * Y, X], atol=1e-12)
    to_minus_y = frames.transport(rows, -Y[None])[0]
    assert_allclose(to_minus_y, [X, handedness * Z, -Y], atol=1e-12)


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_transport_is_the_smallest_rotation(random_frames, handedness):
    rows, tangents = random_frames(100, handedness), random_units(100)
    turned = frames.transport(rows, tangents)
    assert_frames(turned, handedness)
    assert_allclose(turned[:, 2], tangents)
    # The rotation from the old to the new frame is about e3 x tangent, so it keeps
    # that axis.
    rotation = np.swapaxes(turned, 1, 2) @ rows
    axis = np.cross(rows[:, 2], tangents)
    assert_allclose(np.einsum("nij,nj->ni", rotation, axis), axis, atol=1e-12)


def test_a_plane_curve_keeps_the_normal_and_a_closed_one_has_no_roll():
    angle = np.cumsum(np.random.default_rng(0).uniform(-0.5, 1.0, 300))
    angle = np.append(angle, 2 * np.pi * np.ceil(angle[-1] / (2 * np.pi)))
    plane, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    e1, e3, normal = plane.T
    tangents = np.cos(angle)[:, None] * e3 + np.sin(angle)[:, None] * e1
    first = np.array([[e1, np.cross(e3, e1), e3]])
    halfway = transported(first, tangents[:150])
    assert_allclose(halfway[0, 1], first[0, 1], atol=1e-12)
    assert abs(halfway[0, 1] @ normal) > 1 - 1e-12
    assert_allclose(transported(first, tangents), first, atol=1e-12)


def test_around_an_octant_of_the_sphere_the_frame_rolls_by_its_area():
    # From z to x to y to z. The area is pi / 2, so the roll is 90 degrees, as the
    # theorem of Gauss and Bonnet says.
    loop = np.concatenate([arc(Z, X), arc(X, Y), arc(Y, Z)])
    assert_allclose(transported(np.eye(3)[None], loop)[0], [Y, -X, Z], atol=1e-12)


def test_transport_to_a_tangent_and_back_is_the_identity(random_frames):
    rows, tangents = random_frames(50), random_units(50)
    back = frames.transport(frames.transport(rows, tangents), rows[:, 2])
    assert_allclose(back, rows, atol=1e-9)


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_a_u_turn_gives_a_frame(random_frames, handedness):
    rows = random_frames(60, handedness)
    turned = frames.transport(rows, -rows[:, 2])
    assert_frames(turned, handedness)
    assert_allclose(turned[:, 0], rows[:, 0], atol=1e-6)
    for rest in np.geomspace(1e-12, 1e-1, 60):
        for aside in (rows[:, 0], rows[:, 1], random_units(60)):
            tangents = -rows[:, 2] + rest * aside
            tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
            assert_frames(frames.transport(rows, tangents), handedness)


def test_errors_do_not_grow_over_many_steps(random_frames):
    rng = np.random.default_rng(0)
    rows = random_frames(20)
    for _ in range(1000):
        tangents = rows[:, 2] + rng.normal(scale=0.3, size=(20, 3))
        tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
        rows = frames.transport(rows, tangents)
    assert_frames(rows)


# Reversal, and vectors


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_reversed_frames_look_back_and_reversing_twice_is_the_identity(
    random_frames, handedness
):
    rows = random_frames(20, handedness)
    turned = frames.reverse(rows)
    assert_array_equal(turned, np.stack([rows[:, 0], -rows[:, 1], -rows[:, 2]], axis=1))
    assert_frames(turned, handedness)
    assert_array_equal(frames.reverse(turned), rows)


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_to_a_frame_and_back_to_the_axes_is_the_identity(random_frames, handedness):
    rows, vectors = random_frames(40, handedness), 3 * random_units(40)
    local = frames.to_local(vectors, rows)
    assert_allclose(local[:, 2], np.sum(rows[:, 2] * vectors, axis=1))
    assert_allclose(frames.to_axes(local, rows), vectors, atol=1e-12)
    assert_allclose(
        frames.to_local(frames.to_axes(vectors, rows), rows), vectors, atol=1e-12
    )
