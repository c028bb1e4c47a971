"""Criteria that draw at random: draws, keys, and arguments."""

from itertools import product
import math

from criteria_cases import (
    ARGUMENTS,
    evaluate,
    evaluate_dipy,
    make,
    random_maps,
    random_points,
    read_only,
)
from dipy.tracking import stopping_criterion as dipys
from dipy.utils import fast_numpy
import numpy as np
from numpy.testing import assert_array_equal
import pytest

from dipy_rnn import stopping
from dipy_rnn.draws import seed_keys
from dipy_rnn.stopping import StopReason, evaluate_criterion

# Draws


def flat_cmc(include, exclude, step_size=0.5):
    maps = np.full((2, 3, 3, 3), [[[[include]]], [[[exclude]]]])
    return stopping.CmcStoppingCriterion(*maps, step_size, 2.0)


def draw_cmc(criterion, keys, numbers, point=(1.3, 0.8, 1.1)):
    points = np.tile(np.array(point), (len(keys), 1))
    return evaluate(criterion, points, keys, numbers)


def test_only_cmc_draws_at_random():
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
        # Seeds at short distances, points in order.
        (
            seed_keys(0, np.pad(np.arange(MANY)[:, None] / 2**10, [(0, 0), (0, 2)])),
            np.arange(MANY),
        ),
        (np.full(MANY, seed_keys(0, [[1, 2, 3]])), np.arange(MANY) - MANY // 2),
        (np.arange(MANY, dtype=np.uint64), np.full(MANY, -1)),
    ],
    ids=["many seeds", "neighbours", "one seed", "poor keys"],
)
def test_cmc_ends_as_often_as_by_the_formula_of_dipy(keys, numbers):
    include, exclude = random_maps() * 0.5
    criterion = stopping.CmcStoppingCriterion(include, exclude, 0.7, 2.0)
    point = np.array([1.3, 0.8, 1.1])
    inside = criterion.get_include(point)
    both = inside + criterion.get_exclude(point)
    runs = (1 - both) ** (0.7 / 2.0)
    ends = (1 - runs) * inside / both

    counts = np.bincount(draw_cmc(criterion, keys, numbers, point), minlength=4)
    for reason, chance in [
        (StopReason.RUNNING, runs),
        (StopReason.ENDPOINT, ends),
        (StopReason.INVALID_POINT, 1 - runs - ends),
        (StopReason.OUTSIDE_IMAGE, 0),
    ]:
        spread = math.sqrt(MANY * chance * (1 - chance))
        assert abs(counts[reason] - MANY * chance) <= 4.5 * spread


def test_draws_at_neighbouring_points_are_not_correlated():
    keys = np.full(MANY, seed_keys(0, [[1, 2, 3]]))
    runs = draw_cmc(flat_cmc(0.3, 0.3, 2.0), keys, np.arange(1, MANY + 1)) == 0
    back = draw_cmc(flat_cmc(0.3, 0.3, 2.0), keys, -np.arange(1, MANY + 1)) == 0
    for one, other in [(runs[1:], runs[:-1]), (runs, back)]:
        assert abs(np.corrcoef(one, other)[0, 1]) < 4.5 / math.sqrt(MANY)


def test_draws_do_not_depend_on_the_other_points():
    points = random_points(n=1000)
    keys = seed_keys(5, points), np.arange(1000) % 40 - 20
    criterion = make("CmcStoppingCriterion", random_maps())
    reasons = evaluate(criterion, points, *keys)
    assert set(reasons) == {0, 1, 2, 3}
    order = np.random.default_rng(0).permutation(1000)
    shuffled = evaluate(criterion, points[order], *(key[order] for key in keys))
    assert_array_equal(shuffled, reasons[order])
    alone = [
        evaluate(criterion, points[p : p + 1], *(key[p : p + 1] for key in keys))[0]
        for p in range(1000)
    ]
    assert_array_equal(alone, reasons)


def test_another_random_seed_gives_other_draws():
    criterion = flat_cmc(0.3, 0.3, 2.0)
    numbers = np.ones(1000, dtype=np.int64)
    seeds = random_points(n=1000)
    one, same, other = (
        draw_cmc(criterion, seed_keys(s, seeds), numbers) for s in (1, 1, 2)
    )
    assert_array_equal(one, same)
    assert 0.4 < np.mean(one != other) < 0.8  # 0.66 is expected


@pytest.mark.parametrize(
    ("include", "exclude"),
    [(0, 1), (1, 0), (0, 0), (-1, 0.5), (np.nan, 0.2), (0.2, np.nan), (np.inf, 0)],
)
def test_where_chances_are_zero_or_one_cmc_decides_as_dipys(include, exclude):
    maps = np.full((2, 3, 3, 3), [[[[include]]], [[[exclude]]]])
    # At multiples of a quarter the weights add up to exactly one.
    points = np.round(4 * random_points((3, 3, 3))) / 4
    keys = seed_keys(0, points), np.ones(len(points), dtype=np.int64)
    expected = evaluate_dipy(dipys.CmcStoppingCriterion(*maps, 0.5, 2.0), points)
    assert len(set(expected)) == 2
    assert_array_equal(evaluate(flat_cmc(include, exclude), points, *keys), expected)


def test_without_keys_cmc_draws_as_dipys_does():
    points = random_points()
    maps = random_maps()
    fast_numpy.seed(4)
    expected = evaluate_dipy(make("CmcStoppingCriterion", maps, dipys), points)
    fast_numpy.seed(4)
    assert_array_equal(evaluate(make("CmcStoppingCriterion", maps), points), expected)


@pytest.mark.parametrize("numbers", [None, np.zeros(2, dtype=np.int64)])
def test_keys_without_as_many_numbers_are_refused(numbers):
    keys = np.zeros(3, dtype=np.uint64)
    with pytest.raises(ValueError, match="give both"):
        evaluate(flat_cmc(0.1, 0.1), np.zeros((3, 3)), keys, numbers)


# Keys


def mix(bits):
    """Mix 64 bits as the finaliser of SplitMix64, with Python's integers."""
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % 2**64
    return bits ^ (bits >> 31)


GOLDEN = 0x9E3779B97F4A7C15


@pytest.mark.parametrize("random_seed", [0, 1, -1, 2**64 + 5, np.int32(7)])
def test_keys_and_draws_are_those_of_splitmix64(random_seed):
    # The first number of the generator for the seed 0, as published.
    assert mix(GOLDEN) == 0xE220A8397B1DCDAF
    seeds = np.round(random_points(n=20) * 2**20) / 2**20
    runs = []
    keys = seed_keys(random_seed, seeds)
    for key, seed in zip(keys.tolist(), seeds):
        expected = mix((int(random_seed) + GOLDEN) % 2**64)
        for coordinate in (seed * 2**20 + 0.0).view(np.uint64).tolist():
            expected = mix(expected ^ coordinate)
        assert key == expected
        state = mix((key - 3 * GOLDEN) % 2**64)
        runs.append(mix((state + GOLDEN) % 2**64) / 2**64 < 0.4)
    reasons = draw_cmc(flat_cmc(0.3, 0.3, 2.0), keys, np.full(20, -3))
    assert_array_equal(reasons == StopReason.RUNNING, runs)


def test_the_last_digits_of_a_seed_have_no_effect():
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


def test_seeds_may_have_any_layout():
    seeds = random_points(n=10)
    expected = seed_keys(0, seeds)
    for layout in (np.asfortranarray(seeds), seeds.tolist(), read_only(seeds)):
        assert_array_equal(seed_keys(0, layout), expected)
    assert seed_keys(0, np.zeros((0, 3))).shape == (0,)


# Arguments


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
def test_invalid_arguments_of_criteria_and_keys_are_refused(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


@pytest.mark.parametrize("change", ["list", "other type", "other order"])
@pytest.mark.parametrize("name", ["points_vox", "reasons", "seed_keys"])
def test_arrays_of_another_kind_are_refused_by_name(name, change):
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


def test_point_numbers_of_another_kind_are_refused_by_name():
    keys = np.zeros(4, dtype=np.uint64)
    with pytest.raises(ValueError, match=r"^point_numbers is not .* int64"):
        evaluate(flat_cmc(0.1, 0.1), np.zeros((4, 3)), keys, np.zeros(4))


def test_read_only_reasons_are_refused():
    reasons = np.zeros(1, dtype=np.int64)
    reasons.flags.writeable = False
    with pytest.raises(ValueError, match=r"^reasons is read-only"):
        evaluate_criterion(flat_cmc(0.1, 0.1), np.zeros((1, 3)), reasons)


@pytest.mark.parametrize("shape", [(3,), (2, 2), (1, 2, 3)])
def test_seeds_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="seeds_vox is of shape"):
        seed_keys(0, np.zeros(shape))
