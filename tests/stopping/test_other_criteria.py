"""Criteria of DIPY and of users: their evaluation, state and parts."""

from criteria_cases import (
    ARGUMENTS,
    evaluate,
    evaluate_dipy,
    every_criterion,
    make,
    random_maps,
    random_points,
)
from dipy.tracking import stopping_criterion as dipys
from dipy.tracking.stopping_criterion import StreamlineStatus
from dipy.utils import fast_numpy
import numpy as np
from numpy.testing import assert_array_equal
import pytest

from dipy_rnn import stopping
from dipy_rnn.draws import seed_keys
from dipy_rnn.stopping import (
    StopReason,
    decompose,
    evaluate_criterion,
    is_stateless,
)

# Evaluation


def test_dipys_own_criteria_decide_as_by_their_check_point():
    points = random_points()
    for name in ARGUMENTS:
        criterion = make(name, random_maps(), dipys)
        fast_numpy.seed(1)
        expected = evaluate_dipy(criterion, points)
        fast_numpy.seed(1)
        assert_array_equal(evaluate(criterion, points), expected)


def test_any_object_with_check_point_is_a_criterion():
    class Excludes:
        def check_point(self, point):
            return StreamlineStatus.INVALIDPOINT

    assert_array_equal(evaluate(Excludes(), np.zeros((2, 3))), [3, 3])


@pytest.mark.parametrize(
    ("status", "shown"), [(7, "7"), (-2, "-2"), (None, "None"), ("END", "'END'")]
)
def test_a_value_that_is_no_status_is_refused_with_its_criterion_and_point(
    status, shown
):
    class Mine:
        def check_point(self, point):
            return status if point[0] else 1

    with pytest.raises(ValueError) as caught:
        evaluate(Mine(), np.array([[0.0, 0, 0], [1.5, 0, 0]]))
    assert str(caught.value) == (
        f"Mine.check_point returned {shown} at [1.5, 0.0, 0.0] (voxels); 1 (TRACKPOINT)"
        " or 2 (ENDPOINT) or -1 (OUTSIDEIMAGE) or 0 (INVALIDPOINT) is needed."
    )


def test_an_error_of_a_criterion_is_passed_on():
    class Broken:
        def check_point(self, point):
            return {}["map"]

    with pytest.raises(KeyError, match="map"):
        evaluate(Broken(), np.zeros((1, 3)))


@every_criterion
def test_a_subclass_that_overrides_only_check_point_is_evaluated_point_by_point(name):
    class Mine(getattr(stopping, name)):
        def check_point(self, point):
            evaluated.append(point[0])
            return StreamlineStatus.ENDPOINT

    evaluated = []
    points = np.arange(9.0).reshape(3, 3)
    reasons = np.array([0, 4, 0])
    keys = np.zeros(3, dtype=np.uint64), np.zeros(3, dtype=np.int64)
    mine = Mine(*ARGUMENTS[name](*random_maps()))
    evaluate_criterion(mine, points, reasons, *keys)
    assert_array_equal(reasons, [StopReason.ENDPOINT, 4, StopReason.ENDPOINT])
    assert evaluated == [0, 6]

    patched = make(name, random_maps())
    patched.check_point = mine.check_point
    assert_array_equal(evaluate(patched, points, *keys), StopReason.ENDPOINT)


@every_criterion
def test_a_subclass_that_overrides_neither_is_evaluated_as_its_parent(name):
    class Mine(getattr(stopping, name)):
        def more(self):
            return "more"

    points = random_points()
    keys = seed_keys(0, points), np.arange(len(points))
    mine = Mine(*ARGUMENTS[name](*random_maps()))
    expected = evaluate(make(name, random_maps()), points, *keys)
    assert_array_equal(evaluate(mine, points, *keys), expected)


class Floor:
    """A batched criterion of a user: streamlines end where z is below 0."""

    draws_at_random = False

    def __init__(self):
        self.calls = []

    def check_point(self, point):
        raise AssertionError("check_points is to be called")

    def check_points(self, points_vox, reasons):
        self.calls.append((points_vox, reasons))
        below = points_vox[:, 2] < 0
        reasons[(reasons == StopReason.RUNNING) & below] = StopReason.ENDPOINT


def test_a_batched_criterion_is_called_once_with_all_points():
    criterion, points = Floor(), random_points()
    reasons = np.arange(300) % len(StopReason)
    expected = reasons.copy()
    expected[(reasons == 0) & (points[:, 2] < 0)] = StopReason.ENDPOINT
    evaluate_criterion(criterion, points, reasons)
    ((given_points, given_reasons),) = criterion.calls
    assert given_points is points and given_reasons is reasons
    assert_array_equal(reasons, expected)
    assert (expected != np.arange(300) % len(StopReason)).any()


def test_a_batched_criterion_that_does_not_draw_gets_no_keys():
    points = random_points()
    keys = seed_keys(0, points), np.arange(len(points))
    expected = evaluate(Floor(), points)
    assert_array_equal(evaluate(Floor(), points, *keys), expected)


class Lottery:
    """A batched criterion of a user that draws.

    Streamlines end where the key and the number of the point are even.
    """

    draws_at_random = True

    def check_point(self, point):
        return StreamlineStatus.INVALIDPOINT

    def check_points(self, points_vox, reasons, seed_keys, point_numbers):
        ends = (seed_keys % 2 == 0) & (point_numbers % 2 == 0)
        reasons[(reasons == StopReason.RUNNING) & ends] = StopReason.ENDPOINT


def test_a_batched_criterion_that_draws_gets_keys_and_numbers():
    keys, numbers = np.arange(4, dtype=np.uint64), np.array([2, 2, 1, -2])
    points = np.zeros((4, 3))
    assert_array_equal(evaluate(Lottery(), points, keys, numbers), [1, 0, 0, 0])


def test_without_keys_a_batched_criterion_that_draws_is_evaluated_point_by_point():
    reasons = evaluate(Lottery(), np.zeros((2, 3)))
    assert_array_equal(reasons, StopReason.INVALID_POINT)


def test_the_most_derived_of_both_checks_decides():
    class OnlyCheckPoint(Floor):
        def check_point(self, point):
            return StreamlineStatus.OUTSIDEIMAGE

    class BothAgain(OnlyCheckPoint):
        def check_points(self, points_vox, reasons):
            reasons[:] = StopReason.INVALID_POINT

    points = np.ones((2, 3))
    assert_array_equal(evaluate(Floor(), points), StopReason.RUNNING)
    single = OnlyCheckPoint()
    assert_array_equal(evaluate(single, points), StopReason.OUTSIDE_IMAGE)
    assert single.calls == []
    assert_array_equal(evaluate(BothAgain(), points), StopReason.INVALID_POINT)
    # A method of the object precedes those of its class.
    patched = Floor()
    patched.check_point = single.check_point
    assert_array_equal(evaluate(patched, points), StopReason.OUTSIDE_IMAGE)


# State, and parts


@pytest.mark.parametrize("kind", ["Threshold", "Binary", "Act"])
def test_criteria_of_dipy_that_do_not_draw_are_stateless(kind):
    n_maps = 2 if kind == "Act" else 1
    maps = [np.ones((2, 2, 2))] * n_maps
    options = (0.5,) if kind == "Threshold" else ()
    criterion = getattr(dipys, f"{kind}StoppingCriterion")(*maps, *options)
    assert is_stateless(criterion)


def test_criteria_that_draw_from_dipys_generator_or_are_not_known_are_not_stateless():
    class Derived(dipys.BinaryStoppingCriterion):
        pass

    maps = np.ones((2, 2, 2)), np.ones((2, 2, 2))
    for criterion in (
        dipys.CmcStoppingCriterion(*maps, 1.0, 1.0),
        Derived(maps[0]),
    ):
        assert not is_stateless(criterion)


@every_criterion
def test_criteria_of_the_package_are_stateless(name):
    class Mine(getattr(stopping, name)):
        def check_point(self, point):
            return StreamlineStatus.TRACKPOINT

    arguments = ARGUMENTS[name](*random_maps())
    assert is_stateless(make(name, random_maps()))
    assert not is_stateless(Mine(*arguments))


def test_a_batched_criterion_must_be_stateless_and_any_other_may_hold_a_state():
    class Counts:
        n_points = 0

        def check_point(self, point):
            self.n_points += 1
            return StreamlineStatus.TRACKPOINT

    assert is_stateless(Floor()) and is_stateless(Lottery())
    assert not is_stateless(Counts())


@every_criterion
def test_a_criterion_is_decomposed_into_the_arguments_of_its_kernel(name):
    arguments = ARGUMENTS[name](*random_maps())
    criterion = getattr(stopping, name)(*arguments)
    kind, maps, parameters = decompose(criterion)
    assert kind is getattr(stopping, name)
    assert maps is criterion.maps and parameters is criterion.parameters
    expected = {"Threshold": (0.5,), "Cmc": (0.5 / 2.0,)}
    assert parameters == expected.get(name.removesuffix("StoppingCriterion"), ())
    given = [each for each in arguments if isinstance(each, np.ndarray)]
    if "Binary" in name:
        given = [given[0] > 0]
    for ours, theirs in zip(maps, given, strict=True):
        assert_array_equal(ours, theirs)
        assert not np.shares_memory(ours, theirs)


def test_other_criteria_are_not_decomposed():
    class Mine(stopping.BinaryStoppingCriterion):
        def check_point(self, point):
            return StreamlineStatus.TRACKPOINT

    class MyBatched(stopping.BinaryStoppingCriterion):
        def check_points(self, points_vox, reasons):
            reasons[reasons == StopReason.RUNNING] = StopReason.INVALID_POINT

    mask = np.ones((2, 2, 2), np.uint8)
    mine = (Mine(mask), MyBatched(mask))
    for criterion in (Floor(), *mine, dipys.BinaryStoppingCriterion(mask)):
        assert decompose(criterion) == (None, (), ())


@pytest.mark.parametrize("written", [-1, 99])
def test_a_batch_of_values_that_are_not_reasons_is_refused(written):
    class Wrong:
        draws_at_random = False

        def check_point(self, point):
            return 1

        def check_points(self, points_vox, reasons):
            reasons[reasons == StopReason.RUNNING] = written

    reasons = np.array([StopReason.RUNNING, StopReason.ENDPOINT], dtype=np.int64)
    message = f"Wrong.check_points wrote values from {written} to {written}; "
    with pytest.raises(ValueError, match=message):
        stopping.evaluate_criterion(Wrong(), np.zeros((2, 3)), reasons)
