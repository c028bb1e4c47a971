"""DIPY's own criteria, evaluated by their compiled method."""

from concurrent.futures import ThreadPoolExecutor

from criteria_cases import (
    ARGUMENTS,
    edge_points,
    evaluate,
    evaluate_dipy,
    every_fixed_criterion,
    make,
    random_maps,
    random_points,
)
from dipy.tracking import stopping_criterion as dipys
import numpy as np
from numpy.testing import assert_array_equal
import pytest

from dipy_rnn import fodf_features, rnn_tracking, stopping
from dipy_rnn._dipy_compat import dipy_is_at_least
from dipy_rnn.phantom import crossing_phantom
from dipy_rnn.stopping import StopReason, _criteria
from dipy_rnn.stopping import evaluate as evaluation

needs_method = pytest.mark.skipif(
    not dipy_is_at_least(1, 12), reason="criteria of DIPY 1.11 are for one thread"
)


def table(kind):
    return vars(kind)["__pyx_vtable__"]


def count_points(monkeypatch):
    """Return a list of the numbers of points that the kernel gets."""
    counts, kernel = [], _criteria.DipyDecision

    def counted(criterion):
        def decide(points, reasons):
            counts.append(len(points))
            kernel(criterion)(points, reasons)

        return decide

    monkeypatch.setattr(_criteria, "DipyDecision", counted)
    return counts


@needs_method
@every_fixed_criterion
def test_the_compiled_method_decides_as_check_point(name, monkeypatch):
    counts = count_points(monkeypatch)
    maps = random_maps()
    maps[0, 1, 2, 1] = maps[1, 3, 0, 2] = np.nan
    for points in (random_points(), edge_points((4, 5, 3))):
        criterion = make(name, maps, dipys)
        assert_array_equal(
            evaluate(criterion, points), evaluate_dipy(criterion, points)
        )
        assert counts.pop() == len(points)


@needs_method
@every_fixed_criterion
def test_points_of_ended_streamlines_are_not_evaluated_and_nan_is_outside(name):
    criterion = make(name, np.zeros((2, 2, 2, 2)), dipys)
    reasons = np.array([StopReason.NO_DATA, StopReason.RUNNING, StopReason.RUNNING])
    points = np.array([[9.0, 0, 0], [0, np.nan, 0], [9.0, 0, 0]])
    stopping.evaluate_criterion(criterion, points, reasons)
    outside = StopReason.OUTSIDE_IMAGE
    assert_array_equal(reasons, [StopReason.NO_DATA, outside, outside])


@needs_method
@every_fixed_criterion
def test_many_threads_can_evaluate_one_criterion(name):
    criterion, points = make(name, random_maps(), dipys), random_points(n=20_000)
    expected = evaluate_dipy(criterion, points)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: evaluate(criterion, points), range(16)):
            assert_array_equal(found, expected)


@every_fixed_criterion
def test_without_known_methods_dipys_criteria_are_evaluated_point_by_point(
    name, monkeypatch
):
    counts = count_points(monkeypatch)
    monkeypatch.setattr(evaluation, "_methods_are_known", lambda: False)
    criterion, points = make(name, random_maps(), dipys), random_points()
    assert_array_equal(evaluate(criterion, points), evaluate_dipy(criterion, points))
    assert not counts


@every_fixed_criterion
def test_a_subclass_of_dipys_criterion_is_asked_in_python(name):
    class Mine(getattr(dipys, name)):
        def check_point(self, point):
            return dipys.StreamlineStatus.INVALIDPOINT

    mine = Mine(*ARGUMENTS[name](*random_maps()))
    assert not evaluation.has_compiled_method(mine)
    assert_array_equal(evaluate(mine, np.ones((2, 3))), StopReason.INVALID_POINT)


def test_a_criterion_that_draws_at_random_is_evaluated_point_by_point():
    cmc = make("CmcStoppingCriterion", random_maps(), dipys)
    assert not evaluation.has_compiled_method(cmc)


@needs_method
def test_the_methods_of_the_installed_dipy_are_known():
    # If this fails for a new version of DIPY: compare its stopping_criterion.pxd with
    # the declarations in _criteria.pyx, and add the version to _KNOWN_VERSIONS.
    criterion = make("BinaryStoppingCriterion", random_maps(), dipys)
    assert evaluation.has_compiled_method(criterion)


@pytest.mark.parametrize("version", ["1.11.0", "1.13.0.dev0", "2.0.0"])
def test_the_methods_of_other_versions_are_not_called(version, monkeypatch):
    monkeypatch.setattr("dipy.__version__", version)
    assert not evaluation._methods_are_known.__wrapped__()


@needs_method
def test_tables_of_methods_in_another_order_are_not_known():
    base = table(dipys.StoppingCriterion)
    one = make("BinaryStoppingCriterion", random_maps(), dipys)
    other = make("ActStoppingCriterion", random_maps(), dipys)
    known = _criteria.has_known_methods
    pairs = [(one, table(type(one))), (other, table(type(other)))]
    assert known(base, pairs)
    assert not known(None, pairs)
    assert not known(base, [(one, None)])
    # An object without the table of its class, and classes with one method for both.
    assert not known(base, [(one, table(type(other))), pairs[1]])
    assert not known(base, [pairs[0], pairs[0]])
    assert not known(table(type(one)), pairs)


@pytest.mark.parametrize("nbr_threads", [1, 3])
def test_streamlines_are_the_same_with_dipys_criterion_and_the_packages(nbr_threads):
    phantom = crossing_phantom(90)
    features = fodf_features(phantom.fodf())
    weights = phantom.mask().astype(float)
    tracked = [
        [
            line.tobytes()
            for line in rnn_tracking(
                np.repeat([[-9.0, 0, 0], [0, -9, 0], [3, 3, 0]], 40, axis=0)
                + np.random.default_rng(0).uniform(-2, 2, (120, 3)),
                module.ThresholdStoppingCriterion(weights, 0.5),
                phantom.affine,
                features=features,
                step_size=0.5,
                nbr_threads=nbr_threads,
                batch_size=16,
            )
        ]
        for module in (dipys, stopping)
    ]
    assert tracked[0] == tracked[1]
    assert len(tracked[0]) > 50
