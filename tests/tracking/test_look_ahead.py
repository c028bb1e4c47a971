"""RNNDirectionGetter with seeds given in advance: the same streamlines, but faster."""

from types import SimpleNamespace

from dipy.tracking.local_tracking import LocalTracking
from dipy.tracking.stopping_criterion import (
    BinaryStoppingCriterion,
    CmcStoppingCriterion,
)
import numpy as np
import numpy.testing as npt
import pytest
from worlds import OBLIQUE_ROTATION, NoisyWorld, affine_of, everywhere, share_identical

from dipy_rnn import RNNDirectionGetter, rnn_tracking, sampling, stopping
from dipy_rnn.phantom import crossing_phantom
from dipy_rnn.tracking import direction_getter, look_ahead


@pytest.fixture(scope="module")
def oblique():
    return NoisyWorld(affine_of((2.0, 3.0, 4.0), OBLIQUE_ROTATION), n_seeds=12)


@pytest.fixture(scope="module")
def crossing():
    """Return a world of ten seeds. The fifth has no first direction, the others two."""
    phantom = crossing_phantom(90.0)
    voxels = np.random.default_rng(0).uniform(-1.0, 1.0, (10, 3)) + [11.5, 11.5, 5.5]
    voxels[4] = 1.0  # outside of the bundles
    return SimpleNamespace(
        affine=phantom.affine,
        features=sampling.fodf_features(phantom.fodf()),
        criterion=BinaryStoppingCriterion(phantom.mask()),
        seeds=voxels @ phantom.affine[:3, :3].T + phantom.affine[:3, 3],
    )


@pytest.fixture
def n_tracked(monkeypatch):
    """Return a list of the numbers of streamlines that are tracked together."""
    counts = []

    def track(predictor, seeds_vox, *others):
        counts.append(len(seeds_vox))
        return original(predictor, seeds_vox, *others)

    original = look_ahead.track_task
    for module in (look_ahead, direction_getter):
        monkeypatch.setattr(module, "track_task", track)
    return counts


def getter_of(world, **options):
    return RNNDirectionGetter(world.features, affine=world.affine, **options)


def tracking(getter, world, seeds=None, criterion=None, step_size=1.0, **options):
    return LocalTracking(
        getter,
        world.criterion if criterion is None else criterion,
        world.seeds if seeds is None else seeds,
        world.affine,
        step_size,
        **options,
    )


def assert_same(ours, theirs):
    """Compare streamlines, or pairs of a streamline and a seed, bit for bit."""
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs):
        for a, b in zip(one, other) if isinstance(one, tuple) else [(one, other)]:
            npt.assert_array_equal(a, b)


@pytest.mark.parametrize("model", ["default", "deterministic"])
def test_seeds_given_in_advance_change_no_streamline_nor_does_the_engine(
    oblique, n_tracked, model
):
    options = {"max_cross": 1, "maxlen": 1000}
    expected = list(tracking(getter_of(oblique, model=model), oblique, **options))
    assert n_tracked == [1] * 12
    getter = getter_of(oblique, model=model, seeds=oblique.seeds)
    assert_same(tracking(getter, oblique, **options), expected)
    assert n_tracked[12:] == [12]
    of_the_engine = rnn_tracking(
        oblique.seeds,
        oblique.criterion,
        oblique.affine,
        features=oblique.features,
        model=model,
        step_size=1.0,
        min_len=0,
    )
    for ours, theirs in zip(expected, of_the_engine, strict=True):
        npt.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_cross": 1},
        {"max_cross": 2, "save_seeds": True},
        {"return_all": False, "minlen": 20, "maxlen": 60},
        {"maxlen": 7},
        {"unidirectional": True, "randomize_forward_direction": True, "random_seed": 1},
        {"randomize_forward_direction": True, "random_seed": 2},
    ],
    ids=str,
)
def test_seeds_given_in_advance_change_nothing_for_any_option_of_local_tracking(
    crossing, n_tracked, options
):
    expected = list(tracking(getter_of(crossing), crossing, **options))
    if options.get("return_all", True):
        assert len(expected) == 10 if options.get("max_cross") == 1 else 19
    n_single = len(n_tracked)
    getter = getter_of(crossing, seeds=crossing.seeds, nbr_threads=2)
    assert_same(tracking(getter, crossing, **options), expected)
    assert n_tracked[n_single] == 9 if options.get("max_cross") == 1 else 18
    # Directions that are reversed at random were not foreseen.
    turned = "randomize_forward_direction" in options
    assert len(n_tracked) < 2 * n_single if turned else len(n_tracked) == n_single + 1


@pytest.mark.filterwarnings("ignore:Unidirectional")
def test_forward_halves_alone_can_be_tracked_in_advance(crossing, n_tracked):
    options = {"unidirectional": True}
    expected = list(tracking(getter_of(crossing), crossing, **options))
    del n_tracked[:]
    getter = getter_of(crossing, seeds=crossing.seeds)
    assert_same(tracking(getter, crossing, **options), expected)
    assert n_tracked == [18]
    # With both halves the same seeds are tracked again.
    both = list(tracking(getter_of(crossing), crossing))
    assert_same(tracking(getter, crossing), both)
    assert sum(map(len, both)) > sum(map(len, expected))


@pytest.mark.parametrize("ahead", [1, 3, 9, 10])
def test_any_number_of_seeds_can_be_tracked_in_advance(
    crossing, n_tracked, monkeypatch, ahead
):
    expected = list(tracking(getter_of(crossing), crossing))
    monkeypatch.setattr(look_ahead, "_AHEAD", ahead)
    del n_tracked[:]
    getter = getter_of(crossing, seeds=crossing.seeds)
    assert_same(tracking(getter, crossing), expected)
    # Each seed has two directions, but the fifth has none.
    portions = [range(i, min(i + ahead, 10)) for i in range(0, 10, ahead)]
    assert n_tracked == [2 * sum(i != 4 for i in p) for p in portions if list(p) != [4]]


@pytest.mark.parametrize("ahead", [2, 5, 100])
def test_equal_seeds_have_equal_streamlines(crossing, monkeypatch, ahead):
    seeds = crossing.seeds[[0, 0, 1, 0, 2, 2, 2, 1, 4, 4, 0]]
    expected = list(tracking(getter_of(crossing), crossing, seeds))
    monkeypatch.setattr(look_ahead, "_AHEAD", ahead)
    getter = getter_of(crossing, seeds=seeds)
    assert_same(tracking(getter, crossing, seeds), expected)
    assert_same(expected[0:2], expected[2:4])


@pytest.mark.parametrize("ahead", [3, 100])
def test_a_second_iteration_gives_the_same_streamlines(
    crossing, n_tracked, monkeypatch, ahead
):
    monkeypatch.setattr(look_ahead, "_AHEAD", ahead)
    getter = getter_of(crossing, seeds=crossing.seeds)
    twice = tracking(getter, crossing)
    assert_same(list(twice), list(twice))
    if ahead == 100:
        assert n_tracked == [18]
    half = iter(twice)
    some = [next(half) for _ in range(7)]
    assert_same(twice, twice)
    assert_same(some, list(twice)[:7])


@pytest.mark.parametrize(
    "foreseen",
    [
        np.arange(10)[::-1],
        np.random.default_rng(1).permutation(10),
        [0, 1, 2],
        [7, 8, 9],
        [0, 5, 9],
        [3],
        [4],
    ],
    ids=str,
)
@pytest.mark.parametrize("ahead", [2, 100])
def test_seeds_that_were_not_foreseen_are_tracked_on_demand(
    crossing, monkeypatch, foreseen, ahead
):
    expected = list(tracking(getter_of(crossing), crossing))
    monkeypatch.setattr(look_ahead, "_AHEAD", ahead)
    getter = getter_of(crossing, seeds=crossing.seeds[foreseen])
    assert_same(tracking(getter, crossing), expected)
    # Conversely, some seeds that were foreseen are never requested.
    some = crossing.seeds[foreseen]
    expected = list(tracking(getter_of(crossing), crossing, some))
    getter = getter_of(crossing, seeds=crossing.seeds)
    assert_same(tracking(getter, crossing, some), expected)


def test_seeds_that_differ_by_1e_9_mm_were_not_foreseen(crossing, n_tracked):
    moved = crossing.seeds + 1e-9
    expected = list(tracking(getter_of(crossing), crossing, moved))
    del n_tracked[:]
    getter = getter_of(crossing, seeds=crossing.seeds)
    assert_same(tracking(getter, crossing, moved), expected)
    assert n_tracked == [1] * 18


def test_initial_directions_of_local_tracking_were_not_foreseen(crossing, n_tracked):
    ways = np.random.default_rng(0).normal(size=(10, 2, 3))
    options = {"initial_directions": ways}
    expected = list(tracking(getter_of(crossing), crossing, **options))
    assert len(expected) == 20
    del n_tracked[:]
    getter = getter_of(crossing, seeds=crossing.seeds)
    assert_same(tracking(getter, crossing, **options), expected)
    assert n_tracked == [1] * 20
    # The same holds after LocalTracking has requested the getter's own directions.
    own = list(tracking(getter_of(crossing), crossing))
    assert_same(tracking(getter, crossing), own)
    assert_same(tracking(getter, crossing, **options), expected)


def test_streamlines_are_tracked_again_for_another_criterion_step_or_limit(crossing):
    getter = getter_of(crossing, seeds=crossing.seeds)
    narrow = BinaryStoppingCriterion(
        np.indices(crossing.features.data.shape[:3])[0] < 12
    )
    changes = [
        {},
        {"criterion": narrow},
        {"step_size": 0.7},
        {"maxlen": 9},
        {"max_cross": 1},
        {},
    ]
    kinds = []
    for options in changes:
        expected = list(tracking(getter_of(crossing), crossing, **options))
        assert_same(tracking(getter, crossing, **options), expected)
        kinds.append(sum(map(len, expected)))
    assert len(set(kinds)) == 5
    # Two trackers in turns.
    together = zip(
        tracking(getter, crossing), tracking(getter, crossing, criterion=narrow)
    )
    ours, theirs = zip(*together)
    assert_same(ours, tracking(getter_of(crossing), crossing))
    assert_same(theirs, tracking(getter_of(crossing), crossing, criterion=narrow))


@pytest.mark.parametrize(
    "kind",
    [
        stopping.CmcStoppingCriterion,
        CmcStoppingCriterion,
    ],
    ids=["ours", "dipys"],
)
def test_draws_of_a_criterion_do_not_depend_on_seeds_given_in_advance(oblique, kind):
    half = oblique.mask * 0.5
    criterion = kind.from_pve(
        half, half * 0.5, half * 0.1, step_size=1.0, average_voxel_size=3.0
    )
    options = {"criterion": criterion, "max_cross": 1}
    lines = [
        list(tracking(getter, oblique, random_seed=random_seed, **options))
        for random_seed in (3, 4)
        for getter in (
            getter_of(oblique),
            getter_of(oblique),
            getter_of(oblique, seeds=oblique.seeds),
        )
    ]
    assert_same(lines[0], lines[1])
    assert share_identical(lines[0], lines[3], 0) < 1
    assert_same(lines[0], lines[2])
    assert_same(lines[3], lines[5])


def test_streamlines_of_a_vector_field_can_be_tracked_in_advance(follower, n_tracked):
    field = np.random.default_rng(0).normal(size=(12, 9, 10, 3))
    seeds = np.random.default_rng(1).uniform(1, 8, (40, 3))
    world = SimpleNamespace(
        affine=affine_of((1.0, 1.5, 0.5), OBLIQUE_ROTATION),
        features=sampling.raw_features(field),
        criterion=everywhere(field.shape[:3]),
    )
    world.seeds = seeds @ world.affine[:3, :3].T + world.affine[:3, 3]
    options = {"model": follower, "max_angle": 180.0}
    expected = list(tracking(getter_of(world, **options), world, maxlen=50))
    del n_tracked[:]
    getter = getter_of(world, seeds=world.seeds, **options)
    assert_same(tracking(getter, world, maxlen=50), expected)
    assert n_tracked == [40]


def test_peaks_do_not_depend_on_how_many_seeds_are_searched_together(oblique):
    # For this low order a seed often has a single maximum.
    data = np.ascontiguousarray(oblique.features.data[..., :15])
    world = SimpleNamespace(**vars(oblique))
    world.features = sampling.FeatureVolume(data, "sh")
    world.seeds = np.concatenate([oblique.seeds + shift for shift in (0, 0.1, 0.2)])
    ways = [
        [getter.initial_direction(seed) for seed in seeds_as_local_tracking(world)]
        for getter in (getter_of(world), getter_of(world, seeds=world.seeds))
    ]
    npt.assert_allclose(*map(np.concatenate, ways), atol=1e-12)
    assert_same(*ways)


def seeds_as_local_tracking(world):
    inverse = np.linalg.inv(world.affine)
    return [np.dot(inverse[:3, :3], seed) + inverse[:3, 3] for seed in world.seeds]


def test_first_directions_are_copies(crossing):
    seed = seeds_as_local_tracking(crossing)[0]
    getter = getter_of(crossing, seeds=crossing.seeds)
    found = getter.initial_direction(seed)
    expected = found.copy()
    found[:] = 9.0
    npt.assert_array_equal(getter.initial_direction(seed), expected)
    npt.assert_array_equal(getter_of(crossing).initial_direction(seed), expected)


def test_seeds_are_copied_and_not_changed(crossing):
    seeds = crossing.seeds.copy()
    getter = RNNDirectionGetter.from_shcoeff(
        crossing_phantom(90.0).fodf(), affine=crossing.affine, seeds=seeds
    )
    expected = list(tracking(getter_of(crossing), crossing))
    npt.assert_array_equal(seeds, crossing.seeds)
    seeds[:] = 0.0
    assert_same(tracking(getter, crossing), expected)


@pytest.mark.parametrize(
    "seeds", [[1.0, 2.0, 3.0], [[1.0, 2.0]], [[[1.0, 2.0, 3.0]]], [[0, 0, np.nan]], 7]
)
def test_invalid_seeds_are_refused_in_one_line(crossing, seeds):
    with pytest.raises(ValueError, match=r"^seeds ") as refusal:
        getter_of(crossing, seeds=seeds)
    assert "\n" not in str(refusal.value)


def test_an_empty_array_of_seeds_has_no_effect(crossing):
    getter = getter_of(crossing, seeds=np.empty((0, 3)))
    expected = tracking(getter_of(crossing), crossing, max_cross=1)
    assert_same(tracking(getter, crossing, max_cross=1), expected)


def test_a_seed_without_a_peak_can_get_an_initial_direction(crossing):
    seeds = crossing.seeds[4:5]
    getter = getter_of(crossing, seeds=seeds)
    assert [len(line) for line in tracking(getter, crossing, seeds)] == [1]
    ways = {"initial_directions": np.array([[[1.0, 0, 0]]])}
    expected = list(tracking(getter_of(crossing), crossing, seeds, **ways))
    assert_same(tracking(getter, crossing, seeds, **ways), expected)
