"""Reasons and criteria, against DIPY's own answers."""

from concurrent.futures import ThreadPoolExecutor
from itertools import product
import math

from dipy.core.interpolation import trilinear_interpolate4d
from dipy.data import default_sphere
from dipy.direction import DeterministicMaximumDirectionGetter
from dipy.tracking import stopping_criterion as dipys
from dipy.tracking.local_tracking import LocalTracking
from dipy.tracking.stopping_criterion import StreamlineStatus
from dipy.utils import fast_numpy
import numpy as np
from numpy.testing import assert_array_equal
import pytest

from dipy_rnn import stopping
from dipy_rnn.stopping import (
    StopReason,
    evaluate_criterion,
    is_stateless,
    seed_keys,
)

SHAPES = [(4, 5, 3), (1, 1, 1), (1, 5, 2), (3, 1, 4), (2, 6, 1)]
# What each criterion is made of, from two maps with values around a half.
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
    return getattr(module, name)(*ARGUMENTS[name](*maps))


def random_points(shape=(4, 5, 3), n=300, seed=1):
    limits = np.array(shape) + 0.5
    return np.random.default_rng(seed).uniform(-1.5, limits, (n, 3))


def edge_points(shape):
    """All combinations of the coordinates at which a rule might change."""
    below, above = -math.inf, math.inf
    axes = []
    for n in shape:
        turns = [-1.0, -0.5, 0.0, 0.5, 1.0, n - 1.5, n - 1.0, n - 0.5, n]
        axis = [math.nextafter(x, way) for x in turns for way in (below, above)]
        axes.append(sorted({*turns, *axis, -1e9, 1e9}) + [-0.0])
    return np.array(list(product(*axes)))


def ask(criterion, points, *keys):
    reasons = np.zeros(len(points), dtype=np.int64)
    assert evaluate_criterion(criterion, points, reasons, *keys) is None
    return reasons


def ask_dipy(criterion, points):
    """Ask one of DIPY's criteria about each point alone."""
    assert type(criterion).__module__ == dipys.__name__
    reason_of = {StopReason(r).status: r for r in range(4)}
    return np.array([reason_of[criterion.check_point(p)] for p in points])


# Many points at once


@pytest.mark.parametrize("module", [stopping, dipys], ids=["ours", "dipys"])
def test_a_drawn_row_of_voxels_stops_where_it_is_drawn(module):
    # Tissue in voxels 1 and 2 of four.
    mask = np.array([0, 1, 1, 0]).reshape(4, 1, 1)
    x = [-0.6, -0.5, 0.0, 0.6, 1.0, 2.4, 2.6, 3.4, 3.6]
    points = np.column_stack([x, np.zeros((9, 2))])
    reasons = ask(module.BinaryStoppingCriterion(mask), points)
    assert [StopReason(r).name for r in reasons] == (
        ["OUTSIDE_IMAGE"]
        + 2 * ["ENDPOINT"]
        + 3 * ["RUNNING"]
        + 2 * ["ENDPOINT"]
        + ["OUTSIDE_IMAGE"]
    )


@every_fixed_criterion
@pytest.mark.parametrize("shape", SHAPES)
def test_points_on_every_edge_are_decided_as_dipy_does(name, shape):
    maps = random_maps(shape)
    points = np.concatenate([edge_points(shape), random_points(shape)])
    expected = ask_dipy(make(name, maps, dipys), points)
    assert len(set(expected)) >= 2
    assert_array_equal(ask(make(name, maps), points), expected)


@every_fixed_criterion
@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, -np.inf])
def test_odd_values_in_a_map_are_taken_as_dipy_does(name, value):
    maps = random_maps()
    maps[np.random.default_rng(2).random(maps.shape) < 0.2] = value
    points = np.concatenate([edge_points((4, 5, 3))[::7], random_points()])
    expected = ask_dipy(make(name, maps, dipys), points)
    assert_array_equal(ask(make(name, maps), points), expected)


def test_values_are_dipys_to_the_last_digit():
    image = random_maps()[0]
    points = random_points(n=500)
    points = points[ask(stopping.ThresholdStoppingCriterion(image, -1), points) == 0]
    assert len(points) > 100
    for point in points:
        value = trilinear_interpolate4d(image[..., None], point)[0]
        at = stopping.ThresholdStoppingCriterion(image, value)
        below = stopping.ThresholdStoppingCriterion(image, np.nextafter(value, -1))
        assert ask(at, point[None]) == StopReason.ENDPOINT
        assert ask(below, point[None]) == StopReason.RUNNING


@pytest.mark.parametrize("name", ["ThresholdStoppingCriterion", "ActStoppingCriterion"])
def test_a_flat_map_at_its_own_threshold_is_decided_by_the_same_last_digit(name):
    maps = np.full((2, 4, 5, 3), 0.5)
    points = random_points(n=3000)
    expected = ask_dipy(make(name, maps, dipys), points)
    assert len(set(expected)) == 3  # outside, not above, and above by rounding alone
    assert_array_equal(ask(make(name, maps), points), expected)


@every_criterion
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -1e300])
def test_points_that_are_nowhere_are_outside(name, value):
    # DIPY itself is not asked: NaN makes it read beyond its map.
    points = np.ones((7, 3))
    for row, axes in enumerate(product([False, True], repeat=3)):
        points[row - 1, list(axes)] = value
    keys = np.arange(7, dtype=np.uint64), np.arange(7)
    reasons = ask(make(name, random_maps()), points, *keys)
    assert_array_equal(reasons, StopReason.OUTSIDE_IMAGE)


def test_two_maps_may_be_of_different_sizes():
    maps = random_maps((4, 5, 3))[0], random_maps((3, 6, 1))[1]
    points = random_points(n=1000)
    expected = ask_dipy(dipys.ActStoppingCriterion(*maps), points)
    assert len(set(expected)) == 4
    assert_array_equal(ask(stopping.ActStoppingCriterion(*maps), points), expected)


@every_criterion
def test_a_map_without_voxels_is_outside_everywhere(name):
    points = edge_points((1, 1, 1))
    keys = np.zeros(len(points), dtype=np.uint64), np.zeros(len(points), dtype=np.int64)
    reasons = ask(make(name, np.ones((2, 0, 3, 3))), points, *keys)
    assert_array_equal(reasons, StopReason.OUTSIDE_IMAGE)


def read_only(maps):
    maps = maps.copy()
    maps.flags.writeable = False
    return maps


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
def test_maps_come_in_any_layout(name, layout):
    maps = layout(random_maps())
    plain = [np.array(m, dtype=np.float64, order="C") for m in maps]
    points = random_points()
    expected = ask_dipy(make(name, plain, dipys), points)
    assert_array_equal(ask(make(name, maps), points), expected)


@every_criterion
def test_what_becomes_of_a_map_afterwards_does_not_matter(name):
    maps = np.zeros((2, 2, 2, 2))
    arguments = ARGUMENTS[name](*maps)
    criterion = getattr(stopping, name)(*arguments)
    before = criterion.check_point(np.ones(3)), *ask(criterion, np.ones((1, 3)))
    for argument in arguments[:2]:
        if isinstance(argument, np.ndarray):
            argument[:] = 1
    after = criterion.check_point(np.ones(3)), *ask(criterion, np.ones((1, 3)))
    assert before == after


@every_criterion
def test_only_what_still_runs_is_asked(name):
    points = random_points()
    keys = seed_keys(0, points), np.arange(len(points))
    criterion = make(name, random_maps())
    all_asked = ask(criterion, points, *keys)
    reasons = np.arange(len(points)) % len(StopReason)
    expected = np.where(reasons == StopReason.RUNNING, all_asked, reasons)
    evaluate_criterion(criterion, points, reasons, *keys)
    assert_array_equal(reasons, expected)


@every_criterion
def test_no_points_have_no_reasons(name):
    keys = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    assert ask(make(name, random_maps()), np.zeros((0, 3)), *keys).shape == (0,)


@every_criterion
def test_threads_share_a_criterion(name):
    points = random_points(n=4000)
    keys = seed_keys(0, points), np.arange(len(points))
    criterion = make(name, random_maps())
    parts = [slice(start, start + 500) for start in range(0, 4000, 500)]
    with ThreadPoolExecutor(4) as pool:
        reasons = pool.map(
            lambda part: ask(criterion, points[part], *(key[part] for key in keys)),
            20 * parts,
        )
    expected = ask(criterion, points, *keys)
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


# Other people's criteria


def test_dipys_own_criteria_are_asked_point_by_point():
    points = random_points()
    for name in ARGUMENTS:
        criterion = make(name, random_maps(), dipys)
        fast_numpy.seed(1)
        expected = ask_dipy(criterion, points)
        fast_numpy.seed(1)
        assert_array_equal(ask(criterion, points), expected)


def test_a_criterion_that_only_looks_like_dipys_is_asked():
    class EverythingIsExcluded:
        def check_point(self, point):
            return StreamlineStatus.INVALIDPOINT

    assert_array_equal(ask(EverythingIsExcluded(), np.zeros((2, 3))), [3, 3])


@pytest.mark.parametrize(
    ("status", "shown"), [(7, "7"), (-2, "-2"), (None, "None"), ("END", "'END'")]
)
def test_a_criterion_that_returns_no_status_is_named_with_what_it_returned(
    status, shown
):
    class Mine:
        def check_point(self, point):
            return status if point[0] else 1

    with pytest.raises(ValueError) as caught:
        ask(Mine(), np.array([[0.0, 0, 0], [1.5, 0, 0]]))
    assert str(caught.value) == (
        f"Mine.check_point returned {shown} at [1.5, 0.0, 0.0] (voxels); 1 (TRACKPOINT)"
        " or 2 (ENDPOINT) or -1 (OUTSIDEIMAGE) or 0 (INVALIDPOINT) is needed."
    )


def test_an_error_of_a_criterion_of_ones_own_is_passed_on():
    class Broken:
        def check_point(self, point):
            return {}["map"]

    with pytest.raises(KeyError, match="map"):
        ask(Broken(), np.zeros((1, 3)))


@every_criterion
def test_a_check_of_ones_own_is_what_counts(name):
    class Mine(getattr(stopping, name)):
        def check_point(self, point):
            asked.append(point[0])
            return StreamlineStatus.ENDPOINT

    asked = []
    points = np.arange(9.0).reshape(3, 3)
    reasons = np.array([0, 4, 0])
    keys = np.zeros(3, dtype=np.uint64), np.zeros(3, dtype=np.int64)
    mine = Mine(*ARGUMENTS[name](*random_maps()))
    evaluate_criterion(mine, points, reasons, *keys)
    assert_array_equal(reasons, [StopReason.ENDPOINT, 4, StopReason.ENDPOINT])
    assert asked == [0, 6]

    patched = make(name, random_maps())
    patched.check_point = mine.check_point
    assert_array_equal(ask(patched, points, *keys), StopReason.ENDPOINT)


@every_criterion
def test_a_subclass_without_one_is_as_its_parent(name):
    class Mine(getattr(stopping, name)):
        def shout(self):
            return "mine"

    points = random_points()
    keys = seed_keys(0, points), np.arange(len(points))
    mine = Mine(*ARGUMENTS[name](*random_maps()))
    expected = ask(make(name, random_maps()), points, *keys)
    assert_array_equal(ask(mine, points, *keys), expected)


# The same criteria in DIPY's hands


@every_criterion
def test_dipys_tracking_is_the_same_with_either(name):
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
def test_shares_of_tissue_make_the_same_criterion_as_in_dipy(name, more):
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
        assert_array_equal(ask(ours, points), ask_dipy(theirs, points))


def test_arguments_have_dipys_names():
    maps = dict(zip(["include_map", "exclude_map"], random_maps()))
    stopping.ThresholdStoppingCriterion(metric_map=maps["include_map"], threshold=0.1)
    stopping.BinaryStoppingCriterion(mask=maps["include_map"])
    stopping.ActStoppingCriterion(**maps)
    stopping.CmcStoppingCriterion(**maps, step_size=1, average_voxel_size=2)


# What is drawn at random


def flat_cmc(include, exclude, step_size=0.5):
    maps = np.full((2, 3, 3, 3), [[[[include]]], [[[exclude]]]])
    return stopping.CmcStoppingCriterion(*maps, step_size, 2.0)


def draw_cmc(criterion, keys, numbers, point=(1.3, 0.8, 1.1)):
    points = np.tile(np.array(point), (len(keys), 1))
    return ask(criterion, points, keys, numbers)


def test_only_cmc_says_that_it_draws():
    for name in ARGUMENTS:
        criterion = make(name, random_maps())
        assert criterion.draws_at_random == (name == "CmcStoppingCriterion")


MANY = 200_000


@pytest.mark.parametrize(
    ("keys", "numbers"),
    [
        (
            seed_keys(3, np.random.default_rng(0).random((MANY, 3))),
            np.ones(MANY, dtype=np.int64),
        ),
        # Seeds one beside the other, points one after the other.
        (
            seed_keys(0, np.pad(np.arange(MANY)[:, None] / 2**10, [(0, 0), (0, 2)])),
            np.arange(MANY),
        ),
        (np.full(MANY, seed_keys(0, [[1, 2, 3]])), np.arange(MANY) - MANY // 2),
        (np.arange(MANY, dtype=np.uint64), np.full(MANY, -1)),
    ],
    ids=["many seeds", "neighbours", "one seed", "poor keys"],
)
def test_cmc_ends_as_often_as_dipys_formula_says(keys, numbers):
    include, exclude = random_maps() * 0.5
    criterion = stopping.CmcStoppingCriterion(include, exclude, 0.7, 2.0)
    point = np.array([1.3, 0.8, 1.1])
    inside = criterion.get_include(point)
    both = inside + criterion.get_exclude(point)
    goes_on = (1 - both) ** (0.7 / 2.0)
    ends = (1 - goes_on) * inside / both

    counts = np.bincount(draw_cmc(criterion, keys, numbers, point), minlength=4)
    for reason, chance in [
        (StopReason.RUNNING, goes_on),
        (StopReason.ENDPOINT, ends),
        (StopReason.INVALID_POINT, 1 - goes_on - ends),
        (StopReason.OUTSIDE_IMAGE, 0),
    ]:
        spread = math.sqrt(MANY * chance * (1 - chance))
        assert abs(counts[reason] - MANY * chance) <= 4.5 * spread


def test_draws_at_neighbouring_points_have_nothing_to_do_with_each_other():
    keys = np.full(MANY, seed_keys(0, [[1, 2, 3]]))
    goes_on = draw_cmc(flat_cmc(0.3, 0.3, 2.0), keys, np.arange(1, MANY + 1)) == 0
    back = draw_cmc(flat_cmc(0.3, 0.3, 2.0), keys, -np.arange(1, MANY + 1)) == 0
    for one, other in [(goes_on[1:], goes_on[:-1]), (goes_on, back)]:
        assert abs(np.corrcoef(one, other)[0, 1]) < 4.5 / math.sqrt(MANY)


def test_what_cmc_draws_does_not_depend_on_who_else_is_asked():
    points = random_points(n=1000)
    keys = seed_keys(5, points), np.arange(1000) % 40 - 20
    criterion = make("CmcStoppingCriterion", random_maps())
    reasons = ask(criterion, points, *keys)
    assert set(reasons) == {0, 1, 2, 3}
    order = np.random.default_rng(0).permutation(1000)
    shuffled = ask(criterion, points[order], *(key[order] for key in keys))
    assert_array_equal(shuffled, reasons[order])
    alone = [
        ask(criterion, points[p : p + 1], *(key[p : p + 1] for key in keys))[0]
        for p in range(1000)
    ]
    assert_array_equal(alone, reasons)


def test_another_random_seed_draws_anew():
    criterion = flat_cmc(0.3, 0.3, 2.0)
    numbers = np.ones(1000, dtype=np.int64)
    seeds = random_points(n=1000)
    one, same, other = (
        draw_cmc(criterion, seed_keys(s, seeds), numbers) for s in (1, 1, 2)
    )
    assert_array_equal(one, same)
    assert 0.4 < np.mean(one != other) < 0.8  # 0.66: chances of 0.4, 0.3 and 0.3


@pytest.mark.parametrize(
    ("include", "exclude"),
    [(0, 1), (1, 0), (0, 0), (-1, 0.5), (np.nan, 0.2), (0.2, np.nan), (np.inf, 0)],
)
def test_where_nothing_is_left_to_chance_cmc_is_as_dipys(include, exclude):
    maps = np.full((2, 3, 3, 3), [[[[include]]], [[[exclude]]]])
    # At sums of quarters the weights add up to exactly one.
    points = np.round(4 * random_points((3, 3, 3))) / 4
    keys = seed_keys(0, points), np.ones(len(points), dtype=np.int64)
    expected = ask_dipy(dipys.CmcStoppingCriterion(*maps, 0.5, 2.0), points)
    assert len(set(expected)) == 2
    assert_array_equal(ask(flat_cmc(include, exclude), points, *keys), expected)


def test_without_keys_cmc_draws_as_dipys_does():
    points = random_points()
    maps = random_maps()
    fast_numpy.seed(4)
    expected = ask_dipy(make("CmcStoppingCriterion", maps, dipys), points)
    fast_numpy.seed(4)
    assert_array_equal(ask(make("CmcStoppingCriterion", maps), points), expected)


@pytest.mark.parametrize("numbers", [None, np.zeros(2, dtype=np.int64)])
def test_keys_come_with_as_many_numbers(numbers):
    keys = np.zeros(3, dtype=np.uint64)
    with pytest.raises(ValueError, match="give both"):
        ask(flat_cmc(0.1, 0.1), np.zeros((3, 3)), keys, numbers)


# Keys


def scatter(bits):
    """SplitMix64's finaliser in Python's own integers."""
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % 2**64
    return bits ^ (bits >> 31)


GOLDEN = 0x9E3779B97F4A7C15


@pytest.mark.parametrize("random_seed", [0, 1, -1, 2**64 + 5, np.int32(7)])
def test_keys_and_draws_are_splitmix64s(random_seed):
    # The first number from the generator's seed 0, as published.
    assert scatter(GOLDEN) == 0xE220A8397B1DCDAF
    seeds = np.round(random_points(n=20) * 2**20) / 2**20
    goes_on = []
    keys = seed_keys(random_seed, seeds)
    for key, seed in zip(keys.tolist(), seeds):
        expected = scatter((int(random_seed) + GOLDEN) % 2**64)
        for coordinate in (seed * 2**20 + 0.0).view(np.uint64).tolist():
            expected = scatter(expected ^ coordinate)
        assert key == expected
        state = scatter((key - 3 * GOLDEN) % 2**64)
        goes_on.append(scatter((state + GOLDEN) % 2**64) / 2**64 < 0.4)
    reasons = draw_cmc(flat_cmc(0.3, 0.3, 2.0), keys, np.full(20, -3))
    assert_array_equal(reasons == StopReason.RUNNING, goes_on)


def test_the_last_digits_of_a_seed_do_not_matter():
    seeds = np.array([[0.1, -0.0, 2.5], [1 / 3, 127.25, 1e4]])
    nudged = np.array([[0.1 + 1e-9, 0.0, 2.5 - 1e-9], [1 / 3, 127.25 + 1e-9, 1e4]])
    assert_array_equal(seed_keys(3, seeds), seed_keys(3, nudged))


def test_every_seed_has_its_own_key():
    seeds = np.array(list(product(np.arange(-3, 10, 0.5), repeat=3)))
    near = seeds + [2.0**-20, 0, 0]
    swapped = seeds + [1e-3, 0, 0]
    keys = [seed_keys(0, s) for s in (seeds, near, swapped, swapped[:, ::-1])]
    keys.append(seed_keys(1, seeds))
    keys = np.concatenate(keys)
    assert keys.dtype == np.uint64
    assert len(np.unique(keys)) == len(keys)


def test_a_key_is_in_a_seed_in_any_layout():
    seeds = random_points(n=10)
    expected = seed_keys(0, seeds)
    for layout in (np.asfortranarray(seeds), seeds.tolist(), read_only(seeds)):
        assert_array_equal(seed_keys(0, layout), expected)
    assert seed_keys(0, np.zeros((0, 3))).shape == (0,)


MAP = np.ones((2, 2, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: stopping.BinaryStoppingCriterion(MAP[0]),
            r"mask has the shape \(2, 2",
        ),
        (lambda: stopping.ActStoppingCriterion("no", MAP), "include_map is of type"),
        (lambda: stopping.ActStoppingCriterion(MAP, "no"), "exclude_map is of type"),
        (
            lambda: stopping.CmcStoppingCriterion(MAP, MAP, 0, 1),
            "step_size is 0; a length above 0 mm",
        ),
        (
            lambda: stopping.CmcStoppingCriterion(MAP, MAP, 1, np.inf),
            "average_voxel_size is inf; a length above 0 mm",
        ),
        (lambda: seed_keys(0, "no"), "seeds_vox is of type"),
        (lambda: seed_keys(0, [[np.nan, 0, 0]]), "seeds_vox holds NaN"),
        (lambda: seed_keys("no", np.zeros((1, 3))), "random_seed is of type"),
        (lambda: seed_keys(0.5, np.zeros((1, 3))), r"random_seed is 0\.5; a whole"),
    ],
)
def test_what_makes_no_criterion_and_no_key_is_refused(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


@pytest.mark.parametrize("change", ["list", "other type", "other order"])
@pytest.mark.parametrize("name", ["points_vox", "reasons", "seed_keys"])
def test_arrays_of_the_wrong_kind_are_refused_by_name(name, change):
    arrays = {
        "points_vox": np.zeros((4, 3)),
        "reasons": np.zeros(4, dtype=np.int64),
        "seed_keys": np.zeros(4, dtype=np.uint64),
        "point_numbers": np.zeros(4, dtype=np.int64),
    }
    array = arrays[name]
    arrays[name] = {
        "list": array.tolist(),
        "other type": array.astype(np.float32),
        "other order": np.repeat(array, 2, axis=-1)[..., ::2],
    }[change]
    said = "are of shapes None" if (name, change) == ("seed_keys", "list") else name
    with pytest.raises(ValueError, match=said):
        evaluate_criterion(flat_cmc(0.1, 0.1), *arrays.values())


def test_point_numbers_of_the_wrong_kind_are_refused_by_name():
    keys = np.zeros(4, dtype=np.uint64)
    with pytest.raises(ValueError, match=r"^point_numbers is no .* int64"):
        ask(flat_cmc(0.1, 0.1), np.zeros((4, 3)), keys, np.zeros(4))


def test_reasons_that_cannot_be_written_are_refused():
    reasons = np.zeros(1, dtype=np.int64)
    reasons.flags.writeable = False
    with pytest.raises(ValueError, match=r"^reasons is read-only"):
        evaluate_criterion(flat_cmc(0.1, 0.1), np.zeros((1, 3)), reasons)


@pytest.mark.parametrize("shape", [(3,), (2, 2), (1, 2, 3)])
def test_seeds_of_another_shape_have_no_keys(shape):
    with pytest.raises(ValueError, match="seeds_vox is of shape"):
        seed_keys(0, np.zeros(shape))


# Who may ask


@pytest.mark.parametrize("kind", ["Threshold", "Binary", "Act"])
def test_criteria_without_a_state_may_be_asked_in_any_order(kind):
    n_maps = 2 if kind == "Act" else 1
    maps = [np.ones((2, 2, 2))] * n_maps
    options = (0.5,) if kind == "Threshold" else ()
    criterion = getattr(dipys, f"{kind}StoppingCriterion")(*maps, *options)
    assert is_stateless(criterion)


def test_criteria_that_draw_at_random_or_are_not_known_are_asked_one_by_one():
    class Derived(dipys.BinaryStoppingCriterion):
        pass

    maps = np.ones((2, 2, 2)), np.ones((2, 2, 2))
    for criterion in (
        dipys.CmcStoppingCriterion(*maps, 1.0, 1.0),
        Derived(maps[0]),
    ):
        assert not is_stateless(criterion)
