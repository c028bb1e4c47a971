"""The criteria as torch operations, on CPU tensors: the decisions of the kernels."""

from dipy.tracking import stopping_criterion as dipy_criteria
import numpy as np
import numpy.testing as npt
import pytest
import torch
from worlds import border_points

from dipy_rnn import stopping
from dipy_rnn.draws.draws_torch import draw, mix
from dipy_rnn.stopping import StopReason
from dipy_rnn.stopping.criteria_torch import criterion_on

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "kind",
    [
        "threshold",
        "binary",
        "act",
        "cmc",
        "two-grids",
        "own-grid",
        "own-cmc",
        "exclude",
    ],
)
@pytest.mark.parametrize("with_nan", [False, True])
def test_criteria_decide_as_the_kernels(kind, with_nan):
    shape, rng = (5, 6, 4), np.random.default_rng(0)
    one, two = np.round(rng.random((2, *shape)) * 8) / 16  # sums are exact
    fodf_affine = np.diag([0.75, 0.75, 1.5, 1])  # points of both grids are exact
    fodf_affine[:3, 3] = 0.25, 1, -0.5
    if with_nan:
        one[2, 2, 2] = two[3, 3, 1] = np.nan
    criterion = {
        "threshold": lambda: stopping.ThresholdStoppingCriterion(one, 0.25),
        "binary": lambda: stopping.BinaryStoppingCriterion(one > 0.2),
        "act": lambda: stopping.ActStoppingCriterion(2 * one, 2 * two),
        "cmc": lambda: stopping.CmcStoppingCriterion(one, two, 0.5, 1.0),
        "two-grids": lambda: stopping.ActStoppingCriterion(2 * one, 2 * two[:4]),
        "own-grid": lambda: stopping.OwnGridCriterion(
            stopping.ActStoppingCriterion(2 * one, 2 * two),
            np.eye(4),
            fodf_affine,
            shape,
        ),
        "own-cmc": lambda: stopping.OwnGridCriterion(
            stopping.CmcStoppingCriterion(one, two, 0.5, 1.0),
            *(np.eye(4), fodf_affine, shape),
        ),
        "exclude": lambda: stopping.ExclusionCriterion(
            stopping.BinaryStoppingCriterion(one > 0.2),
            *([stopping.Sphere((2, 2, 2), 1)], np.eye(4)),
        ),
    }[kind]()
    points = border_points(shape)
    keys = rng.integers(2**64, size=len(points), dtype=np.uint64)
    numbers = rng.integers(-300, 300, len(points))
    expected = np.zeros(len(points), dtype=np.int64)
    stopping.evaluate_criterion(criterion, points, expected, keys, numbers)
    reasons = criterion_on(CPU, criterion)(
        torch.from_numpy(points),
        torch.ones(len(points), dtype=torch.bool),
        torch.from_numpy(keys.view(np.int64)),
        torch.from_numpy(numbers),
    )
    npt.assert_array_equal(reasons, expected)
    assert len(set(expected)) >= 3


def evaluate_two(criterion):
    """Evaluate a criterion at the second of two points. Return both reasons."""
    evaluate = criterion_on(CPU, criterion)
    numbers = torch.zeros(2, dtype=torch.int64)
    points = torch.tensor([[-1.0, 0, 0], [1.0, 0, 0]], dtype=torch.float64)
    return evaluate(points, torch.tensor([False, True]), numbers, numbers)


def test_a_subclass_with_its_own_decisions_is_not_evaluated_as_its_parent():
    class Mine(stopping.BinaryStoppingCriterion):
        def check_points(self, points_vox, reasons):
            reasons[reasons == StopReason.RUNNING] = StopReason.INVALID_POINT

    reasons = evaluate_two(Mine(np.ones((3, 3, 3))))
    assert reasons[1] == StopReason.INVALID_POINT


def test_another_criterion_is_evaluated_on_the_host_only_where_it_is_needed():
    class Mine(stopping.BinaryStoppingCriterion):
        def check_point(self, point):
            assert point[0] > 0
            return dipy_criteria.StreamlineStatus.INVALIDPOINT

    reasons = evaluate_two(Mine(np.ones((3, 3, 3))))
    assert reasons[1] == StopReason.INVALID_POINT


def test_a_batched_criterion_of_a_user_is_called_once_on_the_host():
    calls = []

    class Mine:
        draws_at_random = False

        def check_points(self, points_vox, reasons):
            running = reasons == StopReason.RUNNING
            calls.append(points_vox[running].tolist())
            reasons[running] = StopReason.INVALID_POINT

    reasons = evaluate_two(Mine())
    assert calls == [[[1.0, 0.0, 0.0]]]
    assert reasons[1] == StopReason.INVALID_POINT


def test_int64_draws_the_bits_of_splitmix64():
    # The first three numbers of Vigna's splitmix64.c for the seed 1234567.
    state, golden = 1234567, 0x9E3779B97F4A7C15
    states = [(state + golden * i) % 2**64 for i in (1, 2, 3)]
    states = torch.from_numpy(np.array(states, dtype=np.uint64).view(np.int64))
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert mix(states).numpy().view(np.uint64).tolist() == expected
    assert draw(states).tolist() == [(bits >> 11) * 2.0**-53 for bits in expected]
