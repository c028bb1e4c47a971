"""Stopping criteria, compared with those of DIPY."""

from concurrent.futures import ThreadPoolExecutor
import copy
from itertools import product
import pickle

from criteria_cases import (
    ARGUMENTS,
    edge_points,
    evaluate,
    evaluate_dipy,
    every_criterion,
    every_fixed_criterion,
    make,
    random_maps,
    random_points,
    read_only,
)
from dipy.core.interpolation import trilinear_interpolate4d
from dipy.data import default_sphere
from dipy.direction import DeterministicMaximumDirectionGetter
from dipy.tracking import stopping_criterion as dipys
from dipy.tracking.local_tracking import LocalTracking
import numpy as np
from numpy.testing import assert_array_equal
import pytest

from dipy_rnn import stopping
from dipy_rnn.draws import seed_keys
from dipy_rnn.stopping import StopReason, evaluate_criterion

SHAPES = [(4, 5, 3), (1, 1, 1), (1, 5, 2), (3, 1, 4), (2, 6, 1)]


# The criteria of the package


@pytest.mark.parametrize("module", [stopping, dipys], ids=["ours", "dipys"])
def test_a_row_of_voxels_by_hand(module):
    # Tissue in voxels 1 and 2 of four.
    mask = np.array([0, 1, 1, 0]).reshape(4, 1, 1)
    x = [-0.6, -0.5, 0.0, 0.6, 1.0, 2.4, 2.6, 3.4, 3.6]
    points = np.column_stack([x, np.zeros((9, 2))])
    reasons = evaluate(module.BinaryStoppingCriterion(mask), points)
    assert [StopReason(r).name for r in reasons] == (
        ["OUTSIDE_IMAGE"]
        + 2 * ["ENDPOINT"]
        + 3 * ["RUNNING"]
        + 2 * ["ENDPOINT"]
        + ["OUTSIDE_IMAGE"]
    )


@every_fixed_criterion
@pytest.mark.parametrize("shape", SHAPES)
def test_decisions_are_those_of_dipy_on_every_edge(name, shape):
    maps = random_maps(shape)
    points = np.concatenate([edge_points(shape), random_points(shape)])
    expected = evaluate_dipy(make(name, maps, dipys), points)
    assert len(set(expected)) >= 2
    assert_array_equal(evaluate(make(name, maps), points), expected)


@every_fixed_criterion
@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, -np.inf])
def test_decisions_are_those_of_dipy_for_nan_and_infinity_in_a_map(name, value):
    maps = random_maps()
    maps[np.random.default_rng(2).random(maps.shape) < 0.2] = value
    points = np.concatenate([edge_points((4, 5, 3))[::7], random_points()])
    expected = evaluate_dipy(make(name, maps, dipys), points)
    assert_array_equal(evaluate(make(name, maps), points), expected)


def test_interpolated_values_are_those_of_dipy_to_the_last_digit():
    image = random_maps()[0]
    points = random_points(n=500)
    points = points[
        evaluate(stopping.ThresholdStoppingCriterion(image, -1), points) == 0
    ]
    assert len(points) > 100
    for point in points:
        value = trilinear_interpolate4d(image[..., None], point)[0]
        at = stopping.ThresholdStoppingCriterion(image, value)
        below = stopping.ThresholdStoppingCriterion(image, np.nextafter(value, -1))
        assert evaluate(at, point[None]) == StopReason.ENDPOINT
        assert evaluate(below, point[None]) == StopReason.RUNNING


@pytest.mark.parametrize("name", ["ThresholdStoppingCriterion", "ActStoppingCriterion"])
def test_a_constant_map_at_its_own_threshold_is_decided_by_the_last_digit_as_in_dipy(
    name,
):
    maps = np.full((2, 4, 5, 3), 0.5)
    points = random_points(n=3000)
    expected = evaluate_dipy(make(name, maps, dipys), points)
    assert len(set(expected)) == 3  # outside, not above, and above by a rounding error
    assert_array_equal(evaluate(make(name, maps), points), expected)


@every_criterion
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -1e300])
def test_points_at_nan_infinity_and_far_away_are_outside(name, value):
    # DIPY's criteria are not evaluated: with NaN they read beyond their maps.
    points = np.ones((7, 3))
    for row, axes in enumerate(product([False, True], repeat=3)):
        points[row - 1, list(axes)] = value
    keys = np.arange(7, dtype=np.uint64), np.arange(7)
    reasons = evaluate(make(name, random_maps()), points, *keys)
    assert_array_equal(reasons, StopReason.OUTSIDE_IMAGE)


def test_two_maps_may_have_different_sizes():
    maps = random_maps((4, 5, 3))[0], random_maps((3, 6, 1))[1]
    points = random_points(n=1000)
    expected = evaluate_dipy(dipys.ActStoppingCriterion(*maps), points)
    assert len(set(expected)) == 4
    assert_array_equal(evaluate(stopping.ActStoppingCriterion(*maps), points), expected)


@every_criterion
def test_a_map_without_voxels_is_outside_everywhere(name):
    points = edge_points((1, 1, 1))
    keys = np.zeros(len(points), dtype=np.uint64), np.zeros(len(points), dtype=np.int64)
    reasons = evaluate(make(name, np.ones((2, 0, 3, 3))), points, *keys)
    assert_array_equal(reasons, StopReason.OUTSIDE_IMAGE)


@every_fixed_criterion
@pytest.mark.parametrize(
    "layout",
    [
        lambda maps: maps.astype(np.float32),
        lambda maps: [np.asfortranarray(m) for m in maps],
        lambda maps: np.repeat(maps, 2, axis=-1)[..., ::2],
        lambda maps: maps.astype(">f8"),
        lambda maps: (10 * maps).astype(np.int16),
        read_only,
    ],
    ids=["float32", "Fortran", "strided", "big-endian", "int16", "read-only"],
)
def test_maps_may_have_any_layout(name, layout):
    maps = layout(random_maps())
    plain = [np.array(m, dtype=np.float64, order="C") for m in maps]
    points = random_points()
    expected = evaluate_dipy(make(name, plain, dipys), points)
    assert_array_equal(evaluate(make(name, maps), points), expected)


@every_criterion
def test_maps_are_copied(name):
    maps = np.zeros((2, 2, 2, 2))
    arguments = ARGUMENTS[name](*maps)
    criterion = getattr(stopping, name)(*arguments)
    before = criterion.check_point(np.ones(3)), *evaluate(criterion, np.ones((1, 3)))
    for argument in arguments[:2]:
        if isinstance(argument, np.ndarray):
            argument[:] = 1
    after = criterion.check_point(np.ones(3)), *evaluate(criterion, np.ones((1, 3)))
    assert before == after


@every_criterion
def test_only_running_points_are_evaluated(name):
    points = random_points()
    keys = seed_keys(0, points), np.arange(len(points))
    criterion = make(name, random_maps())
    all_evaluated = evaluate(criterion, points, *keys)
    reasons = np.arange(len(points)) % len(StopReason)
    expected = np.where(reasons == StopReason.RUNNING, all_evaluated, reasons)
    evaluate_criterion(criterion, points, reasons, *keys)
    assert_array_equal(reasons, expected)


@every_criterion
def test_no_points_give_no_reasons(name):
    keys = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    assert evaluate(make(name, random_maps()), np.zeros((0, 3)), *keys).shape == (0,)


@every_criterion
def test_threads_can_share_a_criterion(name):
    points = random_points(n=4000)
    keys = seed_keys(0, points), np.arange(len(points))
    criterion = make(name, random_maps())
    parts = [slice(start, start + 500) for start in range(0, 4000, 500)]
    with ThreadPoolExecutor(4) as pool:
        reasons = pool.map(
            lambda part: evaluate(
                criterion, points[part], *(key[part] for key in keys)
            ),
            20 * parts,
        )
    expected = evaluate(criterion, points, *keys)
    assert_array_equal(np.concatenate(list(reasons)), np.tile(expected, 20))


@pytest.mark.parametrize(
    ("points", "reasons", "message"),
    [
        (np.zeros((3, 3)), np.zeros(2, dtype=np.int64), r"\(3, 3\).*\(2,\)"),
        (np.zeros((3, 2)), np.zeros(3, dtype=np.int64), r"\(3, 2\)"),
        (np.zeros(3), np.zeros(1, dtype=np.int64), r"\(3,\)"),
        (np.zeros((3, 3), dtype=np.float32), np.zeros(3, dtype=np.int64), "double"),
        (np.zeros((3, 3)), np.zeros(3, dtype=np.int32), "int64"),
        (np.zeros((3, 6))[:, ::2], np.zeros(3, dtype=np.int64), "contiguous"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(points, reasons, message):
    criterion = make("BinaryStoppingCriterion", random_maps())
    with pytest.raises(ValueError, match=message):
        evaluate_criterion(criterion, points, reasons)


@pytest.mark.parametrize("module", [stopping, dipys], ids=["ours", "dipys"])
def test_the_kernels_give_the_numbers_of_the_enumeration(module):
    # Three voxels: grey matter, white matter, cerebrospinal fluid.
    grey, fluid = np.array([[1.0, 0, 0], [0, 0, 1]]).reshape(2, 3, 1, 1)
    points = np.column_stack([np.arange(4.0), np.zeros((4, 2))])
    reasons = evaluate(module.ActStoppingCriterion(grey, fluid), points)
    assert [StopReason(reason) for reason in reasons] == [
        StopReason.ENDPOINT,
        StopReason.RUNNING,
        StopReason.INVALID_POINT,
        StopReason.OUTSIDE_IMAGE,
    ]


# The criteria of the package in DIPY


@every_criterion
def test_dipy_tracks_the_same_streamlines_with_criteria_of_the_package(name):
    rng = np.random.default_rng(5)
    pmf = rng.random((6, 6, 6, len(default_sphere.vertices))) ** 8
    getter = DeterministicMaximumDirectionGetter.from_pmf(
        pmf, max_angle=80.0, sphere=default_sphere
    )
    seeds = rng.uniform(0, 5, (40, 3))
    maps = random_maps((6, 6, 6))
    one, other = (
        list(
            LocalTracking(
                getter,
                make(name, maps, module),
                seeds,
                np.eye(4),
                0.4,
                max_cross=1,
                random_seed=7,
            )
        )
        for module in (stopping, dipys)
    )
    assert len(one) == len(other) == 40
    assert len({len(line) for line in one}) > 3
    for line, same in zip(one, other):
        assert_array_equal(line, same)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("ActStoppingCriterion", {}),
        ("CmcStoppingCriterion", {"step_size": 0.5, "average_voxel_size": 2.0}),
    ],
)
def test_tissue_maps_make_the_same_criterion_as_in_dipy(name, more):
    white, grey, fluid = np.random.default_rng(3).dirichlet((1, 1, 1), (4, 5, 3)).T
    shares = [np.where(white > 0.5, 0, m).T.copy() for m in (white, grey, fluid)]
    ours = getattr(stopping, name).from_pve(*shares, **more)
    theirs = getattr(dipys, name).from_pve(*shares, **more)
    assert type(ours) is getattr(stopping, name)
    points = random_points()
    for point in points:
        assert ours.get_include(point) == theirs.get_include(point)
        assert ours.get_exclude(point) == theirs.get_exclude(point)
    if not ours.draws_at_random:
        assert_array_equal(evaluate(ours, points), evaluate_dipy(theirs, points))


def test_arguments_have_the_names_of_dipys():
    maps = dict(zip(["include_map", "exclude_map"], random_maps()))
    stopping.ThresholdStoppingCriterion(metric_map=maps["include_map"], threshold=0.1)
    stopping.BinaryStoppingCriterion(mask=maps["include_map"])
    stopping.ActStoppingCriterion(**maps)
    stopping.CmcStoppingCriterion(**maps, step_size=1, average_voxel_size=2)


@pytest.mark.parametrize("use_binary_mask", [False, True])
def test_a_threshold_in_another_unit_than_the_map_is_a_warning(use_binary_mask):
    fa = np.random.default_rng(0).uniform(0.001, 0.9, (9, 9, 9))
    fa[:3] = 0
    scaled = (1000 * fa).astype(np.int16)
    text = r"from 1 to 8\d\d\. .* stopping_thr must be, too: 200"
    with pytest.warns(UserWarning, match=text):
        stopping.make_criterion(scaled, use_binary_mask, 0.2)
    for image, threshold in (
        (fa, 0.2),
        (fa, 0.0005),  # a low threshold, but in the unit of the map
        (scaled, 200),
        ((fa > 0.2).astype(np.uint8), 0.2),
        (255 * (fa > 0.2).astype(np.uint8), 0.2),
    ):
        stopping.make_criterion(image, use_binary_mask, threshold)


@pytest.mark.parametrize("use_binary_mask", [False, True])
@pytest.mark.parametrize(
    ("value", "largest"), [(0, "0"), (0.2, "0.2"), (-3, "-3"), (np.nan, "nan")]
)
def test_a_map_that_is_nowhere_above_the_threshold_is_an_error(
    use_binary_mask, value, largest
):
    image = np.full((2, 2, 2), value)
    with pytest.raises(ValueError, match=f"above stopping_thr 0.2; .* is {largest}\\."):
        stopping.make_criterion(image, use_binary_mask, 0.2)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, "pickle"])
@pytest.mark.parametrize("kind", ["threshold", "binary", "act", "cmc"])
def test_criteria_are_pickled_and_copied_with_the_same_decisions(kind, duplicate):
    image = np.random.default_rng(0).random((5, 6, 7))
    criterion = {
        "threshold": lambda: stopping.ThresholdStoppingCriterion(image, 0.3),
        "binary": lambda: stopping.BinaryStoppingCriterion(image > 0.5),
        "act": lambda: stopping.ActStoppingCriterion(image, 1 - image),
        "cmc": lambda: stopping.CmcStoppingCriterion(image, (1 - image) / 2, 0.3, 1.7),
    }[kind]()
    criterion.note = "mine"
    if duplicate == "pickle":
        twin = pickle.loads(pickle.dumps(criterion))
    else:
        twin = duplicate(criterion)
    assert type(twin) is type(criterion) and twin is not criterion
    assert twin.note == "mine" and twin.parameters == criterion.parameters
    points = np.random.default_rng(1).uniform(-1, 7, (300, 3))
    keys = seed_keys(1, points) if kind == "cmc" else None
    reasons = []
    for each in (criterion, twin):
        reasons.append(np.full(300, StopReason.RUNNING, dtype=np.int64))
        numbers = None if keys is None else np.arange(300)
        evaluate_criterion(each, points, reasons[-1], keys, numbers)
    assert_array_equal(*reasons)
    assert len(set(reasons[0].tolist())) > 1
    if kind != "cmc":
        assert [*map(criterion.check_point, points)] == [*map(twin.check_point, points)]
