"""Fixtures that several test modules use: DIPY's harmonics, lobes, frames, grids."""

from itertools import permutations, product
import logging
import sys

from dipy.core.sphere import Sphere
from dipy.reconst.shm import real_sh_tournier
import numpy as np
import pytest
from stubs import FieldFollower, StepCounter, save_stub, save_untrained

DIPY = logging.getLogger("dipy")  # the commands log to it


@pytest.fixture(autouse=True)
def leave_logging_and_arguments_as_they_were(monkeypatch):
    root = logging.getLogger()
    before = DIPY.level, root.level, root.handlers[:]
    monkeypatch.setattr(sys, "argv", sys.argv)
    yield
    DIPY.setLevel(before[0])
    root.setLevel(before[1])
    for handler in set(root.handlers) - set(before[2]):
        handler.close()
    root.handlers[:] = before[2]


@pytest.fixture
def messages(caplog):
    """Return the messages that commands log, as ``caplog``."""
    DIPY.addHandler(caplog.handler)
    yield caplog
    DIPY.removeHandler(caplog.handler)


def _harmonics(directions, order):
    directions = np.reshape(directions, (-1, 3))
    sphere = Sphere(xyz=directions / np.linalg.norm(directions, axis=1, keepdims=True))
    return real_sh_tournier(order, sphere.theta, sphere.phi, legacy=False)[0]


@pytest.fixture(scope="session")
def harmonics():
    """Return a function: DIPY's harmonics (D, C) in the package's basis."""
    return _harmonics


@pytest.fixture(scope="session")
def lobes():
    """Return a function: coefficients (D, C) of a lobe along each direction.

    The lobe around d is a Gaussian of width lobe_deg. By the addition theorem its
    coefficients are Y_lm(d) exp(-lobe_deg^2 l (l + 1) / 2), with lobe_deg in radians.
    """

    def coefficients(directions, order=8, lobe_deg=9.0):
        ls = np.repeat(np.arange(0, order + 1, 2), np.arange(1, 2 * order + 2, 4))
        damping = np.exp(-(np.deg2rad(lobe_deg) ** 2) * ls * (ls + 1) / 2)
        return _harmonics(directions, order) * damping

    return coefficients


@pytest.fixture(scope="session")
def random_frames():
    """Return a function: random frames (n, 3, 3) of a given handedness."""

    def draw(n, handedness=1.0, seed=0):
        frames, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, 3, 3)))
        frames[:, 0] *= (handedness * np.linalg.det(frames))[:, None]
        return frames

    return draw


@pytest.fixture(scope="session")
def cube_rotations():
    """Return the 24 rotations of a cube (24, 3, 3). They are exact."""
    every = [
        np.eye(3)[list(order)] * np.array(signs)[:, None]
        for order in permutations(range(3))
        for signs in product([1.0, -1.0], repeat=3)
    ]
    return np.array([r for r in every if np.linalg.det(r) > 0])


@pytest.fixture(scope="session")
def oblique_affine():
    """Return a function: a rotated affine of 1.5 x 2 x 3 mm, of a given handedness."""

    def affine(handedness=1.0, seed=5):
        rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
        rotation[:, 0] *= handedness * np.linalg.det(rotation)
        affine = np.eye(4)
        affine[:3, :3] = rotation * [1.5, 2.0, 3.0]
        affine[:3, 3] = [-16.0, 12, 8]
        return affine

    return affine


@pytest.fixture(scope="session")
def follower(tmp_path_factory):
    """Return the model file of a network that follows its features."""
    return save_stub(FieldFollower(), tmp_path_factory.mktemp("models") / "follower.pt")


@pytest.fixture(scope="session")
def counter(tmp_path_factory):
    """Return the model file of a network that counts its steps."""
    return save_stub(StepCounter(), tmp_path_factory.mktemp("models") / "counter.pt")


@pytest.fixture(scope="session")
def newton(tmp_path_factory):
    """Return the model file of an untrained network (:func:`stubs.save_untrained`)."""
    return save_untrained(tmp_path_factory.mktemp("models") / "newton.pt")
