"""Criteria of random maps, points for them, and how to evaluate them."""

from itertools import product
import math

from dipy.tracking import stopping_criterion as dipys
import numpy as np
import pytest

from dipy_rnn import stopping
from dipy_rnn.stopping import StopReason, evaluate_criterion

# The arguments of each criterion, from two maps with values around a half.
ARGUMENTS = {
    "ThresholdStoppingCriterion": lambda one, other: (one, 0.5),
    "BinaryStoppingCriterion": lambda one, other: (one - 0.5,),
    "ActStoppingCriterion": lambda one, other: (one, other),
    "CmcStoppingCriterion": lambda one, other: (one / 2, other / 2, 0.5, 2.0),
}
every_criterion = pytest.mark.parametrize("name", ARGUMENTS)
every_fixed_criterion = pytest.mark.parametrize(
    "name", [name for name in ARGUMENTS if "Cmc" not in name]
)


def random_maps(shape=(4, 5, 3), seed=0):
    return np.random.default_rng(seed).random((2, *shape))


def make(name, maps, module=stopping):
    """Make a criterion of the package, or of DIPY."""
    return getattr(module, name)(*ARGUMENTS[name](*maps))


def random_points(shape=(4, 5, 3), n=300, seed=1):
    limits = np.array(shape) + 0.5
    return np.random.default_rng(seed).uniform(-1.5, limits, (n, 3))


def edge_points(shape):
    """Return all combinations of the coordinates at which a rule might change."""
    below, above = -math.inf, math.inf
    axes = []
    for n in shape:
        turns = [-1.0, -0.5, 0.0, 0.5, 1.0, n - 1.5, n - 1.0, n - 0.5, n]
        axis = [math.nextafter(x, way) for x in turns for way in (below, above)]
        axes.append(sorted({*turns, *axis, -1e9, 1e9}) + [-0.0])
    return np.array(list(product(*axes)))


def evaluate(criterion, points, *keys):
    """Return the reasons at points whose streamlines have not ended."""
    reasons = np.zeros(len(points), dtype=np.int64)
    assert evaluate_criterion(criterion, points, reasons, *keys) is None
    return reasons


def evaluate_dipy(criterion, points):
    """Return the reasons by one of DIPY's criteria, point by point."""
    assert type(criterion).__module__ == dipys.__name__
    reason_of = {StopReason(r).status: r for r in range(4)}
    return np.array([reason_of[criterion.check_point(p)] for p in points])


def read_only(maps):
    maps = maps.copy()
    maps.flags.writeable = False
    return maps
