"""RNNDirectionGetter in plain LocalTracking."""

from types import SimpleNamespace
import warnings

from dipy.direction import peak_directions
from dipy.tracking.local_tracking import LocalTracking, ParticleFilteringTracking
from dipy.tracking.stopping_criterion import (
    ActStoppingCriterion,
    BinaryStoppingCriterion,
    CmcStoppingCriterion,
)
import numpy as np
import numpy.testing as npt
import pytest
from worlds import OBLIQUE_ROTATION, NoisyWorld, affine_of, everywhere, share_identical

from dipy_rnn import RNNDirectionGetter, rnn_tracking, sampling, stopping
from dipy_rnn.phantom import crossing_phantom
from dipy_rnn.tracking import direction_getter


def test_a_straight_field_on_anisotropic_voxels_gives_the_hand_computed_line(follower):
    affine = affine_of((1.0, 2.0, 4.0), OBLIQUE_ROTATION)
    field = np.broadcast_to([0.6, 0.0, 0.8], (30, 6, 12, 3))
    seed = affine[:3, :3] @ [2, 3, 2] + affine[:3, 3]
    getter = RNNDirectionGetter(
        sampling.raw_features(field), affine=affine, model=follower
    )
    (line,) = LocalTracking(
        getter, everywhere(field.shape[:3]), np.array([seed]), affine, 0.5
    )
    along = OBLIQUE_ROTATION @ [0.6, 0.0, 0.8]
    npt.assert_allclose(line, seed + 0.5 * np.arange(92)[:, None] * along, atol=1e-5)


def test_a_turn_on_a_circle_ends_at_the_radius_euler_steps_have(follower):
    radius, step = 6.0, 0.25
    affine = affine_of((0.5, 1.5, 1.0), offset_mm=(-10.0, -10.0, 0.0))
    shape = (40, 14, 2)
    grid = np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    field = np.column_stack([-grid[:, 1], grid[:, 0], 0 * grid[:, 0]])
    getter = RNNDirectionGetter(
        sampling.raw_features(field.reshape(*shape, 3)), affine=affine, model=follower
    )
    n_steps = round(2 * np.pi * radius / step)
    (line,) = LocalTracking(
        getter,
        everywhere(shape),
        np.array([[radius, 0.0, 0.0]]),
        affine,
        step,
        maxlen=n_steps,
    )
    assert len(line) == n_steps + 1
    npt.assert_allclose(
        np.linalg.norm(line[-1, :2]),
        np.sqrt(radius**2 + 2 * np.pi * radius * step),
        atol=0.01,
    )


@pytest.mark.parametrize("sizes", [(3.0, 3.0, 3.0), (1.0, 2.0, 4.0)])
def test_local_tracking_and_the_engine_give_the_same_streamlines(newton, sizes):
    world = NoisyWorld(affine_of(sizes, OBLIQUE_ROTATION), n_seeds=25)
    getter = RNNDirectionGetter(world.features, affine=world.affine, model=newton)
    theirs = list(
        LocalTracking(
            getter,
            world.criterion,
            world.seeds,
            world.affine,
            1.0,
            max_cross=1,
            maxlen=1000,
            minlen=1,
            return_all=False,
        )
    )
    ours = list(
        rnn_tracking(
            world.seeds,
            world.criterion,
            world.affine,
            features=world.features,
            model=newton,
            step_size=1.0,
            min_len=0,
            return_all=False,
        )
    )
    assert share_identical(theirs, ours) >= 0.995


def test_the_shipped_model_gives_the_same_streamlines_through_both_doors():
    world = NoisyWorld(n_seeds=25)
    directions = np.random.default_rng(0).normal(size=(25, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    getter = RNNDirectionGetter(world.features, affine=world.affine)
    theirs = list(
        LocalTracking(
            getter,
            world.criterion,
            world.seeds,
            world.affine,
            0.7,
            maxlen=1000,
            initial_directions=directions[:, None],
        )
    )
    ours = list(
        rnn_tracking(
            world.seeds,
            world.criterion,
            world.affine,
            features=world.features,
            seed_directions=directions,
            step_size=0.7,
            min_len=0,
        )
    )
    assert share_identical(theirs, ours) >= 0.995


@pytest.mark.parametrize("step_size", [1.0, 0.25])
def test_the_backward_half_is_recognised_on_anisotropic_voxels(counter, step_size):
    # DIPY gives it the direction F[0] - F[1] in voxels, 28 degrees off here. As in the
    # engine: 4 points forward, the mask ends; 9 - 4 are left backward.
    sizes = np.array([1.0, 2.0, 4.0]) * step_size
    direction = np.array([1.0, 1.0, 1.0]) / np.sqrt(3)
    step_vox = step_size * direction / sizes
    seed = np.array([20.0, 20.0, 20.0])
    planes = np.indices((40, 40, 40))[0] <= np.floor(20 + 4.4 * step_vox[0] + 0.5)
    getter = RNNDirectionGetter(
        sampling.raw_features(np.full((40, 40, 40, 3), 9.0)),
        affine=np.diag([*sizes, 1.0]),
        model=counter,
    )
    (line,) = LocalTracking(
        getter,
        BinaryStoppingCriterion(planes),
        np.array([seed * sizes]),
        np.diag([*sizes, 1.0]),
        step_size,
        initial_directions=direction[None, None],
    )
    n_forward = int(np.round((line[-1, 0] / sizes[0] - 20) / step_vox[0]))
    assert n_forward >= 4
    assert len(line) == n_forward + 1 + (9 - n_forward)


def test_unidirectional_tracking_both_ways_starts_afresh_each_time(counter):
    getter = RNNDirectionGetter(
        sampling.raw_features(np.full((40, 3, 3, 3), 5.0)), model=counter
    )
    ways = np.array([[[1.0, 0, 0], [-1.0, 0, 0]]])
    lines = list(
        LocalTracking(
            getter,
            everywhere((40, 3, 3)),
            np.array([[20.0, 1, 1]]),
            np.eye(4),
            1.0,
            unidirectional=True,
            initial_directions=ways,
        )
    )
    npt.assert_allclose(lines[0][:, 0], np.arange(20, 26))
    npt.assert_allclose(lines[1][:, 0], np.arange(20, 14, -1))


def test_a_second_tracker_does_not_go_on_with_a_streamline_of_the_first(counter):
    # The same seed and the opposite direction, but another LocalTracking: its forward
    # half has all five steps before it.
    getter = RNNDirectionGetter(
        sampling.raw_features(np.full((40, 3, 3, 3), 5.0)), model=counter
    )
    arguments = (getter, everywhere((40, 3, 3)), np.array([[20.0, 1, 1]]), np.eye(4))
    for unidirectional in (True, False):
        for direction in (1.0, -1.0):
            (line,) = LocalTracking(
                *arguments,
                1.0,
                unidirectional=unidirectional,
                initial_directions=np.array([[[direction, 0, 0]]]),
            )
            ends = line[[0, -1], 0] if unidirectional else line[[-1], 0]
            assert ends[-1] == 20 + 5 * direction


def test_a_half_that_was_dropped_is_no_half_of_another_trackers_streamline(counter):
    # return_all=False drops the first tracker's forward half, which ends for want of a
    # direction, so that its backward half is never asked for.
    getter = RNNDirectionGetter(
        sampling.raw_features(np.full((40, 3, 3, 3), 5.0)), model=counter
    )
    arguments = (getter, everywhere((40, 3, 3)), np.array([[20.0, 1, 1]]), np.eye(4))
    ahead = np.array([[[1.0, 0, 0]]])
    dropped = LocalTracking(*arguments, 1.0, return_all=False, initial_directions=ahead)
    assert list(dropped) == []
    (line,) = LocalTracking(*arguments, 1.0, initial_directions=-ahead)
    npt.assert_allclose(line[:, 0], np.arange(20, 14, -1))


def test_threads_can_be_left_to_the_machine(newton):
    world = NoisyWorld(n_seeds=1)
    getter = RNNDirectionGetter(
        world.features, affine=world.affine, model=newton, nbr_threads=0
    )
    arguments = (world.criterion, world.seeds, world.affine, 1.0)
    assert len(list(LocalTracking(getter, *arguments, max_cross=1))) == 1


def test_nothing_leaks_from_one_streamline_to_the_next(newton):
    world = NoisyWorld(n_seeds=6)
    getter = RNNDirectionGetter(world.features, affine=world.affine, model=newton)

    def lines(seeds):
        return list(
            LocalTracking(
                getter, world.criterion, seeds, world.affine, 1.0, max_cross=1
            )
        )

    together = lines(world.seeds)
    alone = [lines(world.seeds[i : i + 1])[0] for i in (5, 2, 0)]
    assert share_identical([together[i] for i in (5, 2, 0)], alone, 0) == 1


def test_crossing_fibres_start_one_streamline_each_unless_max_cross_says_one(newton):
    phantom = crossing_phantom(90.0)
    middle = np.array(phantom.shape) // 2
    seeds = (phantom.affine[:3, :3] @ middle + phantom.affine[:3, 3])[None]
    getter = RNNDirectionGetter.from_shcoeff(
        phantom.fodf(), affine=phantom.affine, model=newton
    )
    arguments = (getter, BinaryStoppingCriterion(phantom.mask()), seeds, phantom.affine)
    assert len(list(LocalTracking(*arguments, 1.0))) == 2
    assert len(list(LocalTracking(*arguments, 1.0, max_cross=1))) == 1


def test_saved_seeds_are_the_seeds(newton):
    world = NoisyWorld(n_seeds=4)
    getter = RNNDirectionGetter(world.features, affine=world.affine, model=newton)
    tracked = LocalTracking(
        getter,
        world.criterion,
        world.seeds,
        world.affine,
        1.0,
        max_cross=1,
        save_seeds=True,
    )
    npt.assert_allclose([seed for _, seed in tracked], world.seeds)


def test_return_all_false_drops_streamlines_that_end_for_want_of_a_direction(counter):
    getter = RNNDirectionGetter(
        sampling.raw_features(np.full((40, 3, 3, 3), 5.0)), model=counter
    )
    arguments = (getter, everywhere((40, 3, 3)), np.array([[20.0, 1, 1]]), np.eye(4))
    ahead = {"initial_directions": np.array([[[1.0, 0, 0]]])}
    assert len(list(LocalTracking(*arguments, 1.0, **ahead))) == 1
    assert list(LocalTracking(*arguments, 1.0, return_all=False, **ahead)) == []


def test_first_directions_are_dipys_peaks_but_for_the_sphere(newton):
    from dipy.data import get_sphere
    from dipy.reconst.shm import sh_to_sf

    phantom = crossing_phantom(90.0)
    fodf = phantom.fodf()
    getter = RNNDirectionGetter.from_shcoeff(fodf, affine=phantom.affine, model=newton)
    middle = np.array(phantom.shape) // 2
    found = getter.initial_direction(middle.astype(float))
    sphere = get_sphere(name="repulsion724")
    with warnings.catch_warnings():  # DIPY warns of its own default basis
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        values = sh_to_sf(fodf[tuple(middle)], sphere, sh_order_max=8)
    theirs = peak_directions(values, sphere)[0]
    assert len(found) == len(theirs) == 2
    cosines = np.abs(found @ theirs.T).max(axis=1)
    assert (cosines > np.cos(np.deg2rad(5))).all()
    npt.assert_allclose(np.linalg.norm(found, axis=1), 1)


def test_get_direction_answers_a_caller_in_python(follower):
    field = np.broadcast_to([0.6, 0.0, 0.8], (5, 5, 5, 3))
    getter = RNNDirectionGetter(sampling.raw_features(field), model=follower)
    direction = np.array([0.0, 0.0, 1.0])
    assert getter.get_direction(np.array([2.0, 2.0, 2.0]), direction) == 0
    npt.assert_allclose(direction, [0.6, 0.0, 0.8], atol=1e-6)
    assert getter.get_direction(np.array([9.0, 2.0, 2.0]), direction) == 1
    npt.assert_allclose(direction, [0.6, 0.0, 0.8], atol=1e-6)  # left alone


def test_get_direction_refuses_what_it_cannot_write_into(follower):
    getter = RNNDirectionGetter(
        sampling.raw_features(np.ones((5, 5, 5, 3))), model=follower
    )
    for direction in ([0.0, 0.0, 1.0], np.array([0, 0, 1])):
        with pytest.raises(ValueError, match="ndarray of floats"):
            getter.get_direction(np.array([2.0, 2, 2]), direction)


def test_particle_filtering_tracking_is_told_that_it_cannot_work(newton):
    phantom = crossing_phantom(90.0)
    getter = RNNDirectionGetter.from_shcoeff(
        phantom.fodf(), affine=phantom.affine, model=newton
    )
    white = phantom.mask().astype(float)
    criterion = CmcStoppingCriterion.from_pve(
        white, 1 - white, 0 * white, step_size=1.0, average_voxel_size=2.0
    )
    seeds = (phantom.affine[:3, :3] @ [12, 12, 6] + phantom.affine[:3, 3])[None]
    tracking = ParticleFilteringTracking(getter, criterion, seeds, phantom.affine, 1.0)
    with pytest.raises(TypeError, match="ParticleFilteringTracking"):
        list(tracking)
    assert "ParticleFilteringTracking" in RNNDirectionGetter.__doc__


def test_anatomical_criteria_end_streamlines_where_dipys_do(newton):
    phantom = crossing_phantom(90.0)
    getter = RNNDirectionGetter.from_shcoeff(
        phantom.fodf(), affine=phantom.affine, model=newton
    )
    white = phantom.mask().astype(float)
    criterion = ActStoppingCriterion.from_pve(white, 1 - white, 0 * white)
    seeds = (phantom.affine[:3, :3] @ [12, 12, 6] + phantom.affine[:3, 3])[None]
    lines = list(
        LocalTracking(getter, criterion, seeds, phantom.affine, 1.0, return_all=False)
    )
    assert lines
    inverse = np.linalg.inv(phantom.affine)
    for line in lines:
        for point in line @ inverse[:3, :3].T + inverse[:3, 3]:
            assert criterion.check_point(np.ascontiguousarray(point)) == 1


def test_what_cannot_work_is_refused_with_a_reason(newton, follower):
    fodf = crossing_phantom(90.0).fodf()
    with pytest.raises(ValueError, match="sh_frame='scanner' needs the affine"):
        RNNDirectionGetter.from_shcoeff(fodf, model=newton, sh_frame="scanner")
    with pytest.raises(ValueError, match="kind 'sh'"):
        RNNDirectionGetter.from_shcoeff(fodf, model=follower)
    with pytest.raises(ValueError, match="max_angle"):
        RNNDirectionGetter.from_shcoeff(fodf, model=newton, max_angle=-1)
    getter = RNNDirectionGetter.from_shcoeff(fodf, model=newton)
    tracking = LocalTracking(
        getter,
        everywhere(fodf.shape[:3]),
        np.array([[12.0, 12, 6]]),
        np.eye(4),
        1.0,
        fixedstep=False,
    )
    with pytest.raises(ValueError, match="fixedstep"):
        list(tracking)
    getter = RNNDirectionGetter.from_shcoeff(fodf)
    with pytest.raises(ValueError, match=r"step_size is 3 mm"):
        list(
            LocalTracking(
                getter,
                everywhere(fodf.shape[:3]),
                np.array([[12.0, 12, 6]]),
                np.eye(4),
                3.0,
            )
        )


# Looking ahead


@pytest.fixture(scope="module")
def oblique():
    return NoisyWorld(affine_of((2.0, 3.0, 4.0), OBLIQUE_ROTATION), n_seeds=12)


@pytest.fixture(scope="module")
def crossing():
    """Return a world with ten seeds of two first directions, but the fifth of none."""
    phantom = crossing_phantom(90.0)
    voxels = np.random.default_rng(0).uniform(-1.0, 1.0, (10, 3)) + [11.5, 11.5, 5.5]
    voxels[4] = 1.0  # empty
    return SimpleNamespace(
        affine=phantom.affine,
        features=sampling.fodf_features(phantom.fodf()),
        criterion=BinaryStoppingCriterion(phantom.mask()),
        seeds=voxels @ phantom.affine[:3, :3].T + phantom.affine[:3, 3],
    )


@pytest.fixture
def looks(monkeypatch):
    """Return a list: of each look ahead, and of each streamline, how many at once."""
    counts = []

    def track(propagator, seeds_vox, *others):
        counts.append(len(seeds_vox))
        return original(propagator, seeds_vox, *others)

    original = direction_getter._track
    monkeypatch.setattr(direction_getter, "_track", track)
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
    """Compare streamlines, or what is saved of seeds, bit for bit."""
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs):
        for a, b in zip(one, other) if isinstance(one, tuple) else [(one, other)]:
            npt.assert_array_equal(a, b)


@pytest.mark.parametrize("model", ["default", "deterministic"])
def test_looking_ahead_changes_no_streamline_nor_does_the_engine(oblique, looks, model):
    options = {"max_cross": 1, "maxlen": 1000}
    expected = list(tracking(getter_of(oblique, model=model), oblique, **options))
    assert looks == [1] * 12
    getter = getter_of(oblique, model=model, seeds=oblique.seeds)
    assert_same(tracking(getter, oblique, **options), expected)
    assert looks[12:] == [12]
    engines = rnn_tracking(
        oblique.seeds,
        oblique.criterion,
        oblique.affine,
        features=oblique.features,
        model=model,
        step_size=1.0,
        min_len=0,
    )
    for ours, theirs in zip(expected, engines, strict=True):
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
def test_looking_ahead_changes_nothing_of_what_local_tracking_does(
    crossing, looks, options
):
    expected = list(tracking(getter_of(crossing), crossing, **options))
    if options.get("return_all", True):
        assert len(expected) == 10 if options.get("max_cross") == 1 else 19
    n_single = len(looks)
    getter = getter_of(crossing, seeds=crossing.seeds, nbr_threads=2)
    assert_same(tracking(getter, crossing, **options), expected)
    assert looks[n_single] == 9 if options.get("max_cross") == 1 else 18
    # Those that are turned round at random were not foreseen.
    turned = "randomize_forward_direction" in options
    assert len(looks) < 2 * n_single if turned else len(looks) == n_single + 1


@pytest.mark.filterwarnings("ignore:Unidirectional")
def test_one_half_alone_can_be_looked_ahead(crossing, looks):
    options = {"unidirectional": True}
    expected = list(tracking(getter_of(crossing), crossing, **options))
    del looks[:]
    getter = getter_of(crossing, seeds=crossing.seeds)
    assert_same(tracking(getter, crossing, **options), expected)
    assert looks == [18]
    # The same seeds both ways: they are tracked again.
    both = list(tracking(getter_of(crossing), crossing))
    assert_same(tracking(getter, crossing), both)
    assert sum(map(len, both)) > sum(map(len, expected))


@pytest.mark.parametrize("ahead", [1, 3, 9, 10])
def test_any_number_may_be_looked_ahead_at_a_time(crossing, looks, monkeypatch, ahead):
    expected = list(tracking(getter_of(crossing), crossing))
    monkeypatch.setattr(direction_getter, "_AHEAD", ahead)
    del looks[:]
    getter = getter_of(crossing, seeds=crossing.seeds)
    assert_same(tracking(getter, crossing), expected)
    # Two directions for each seed, none for the fifth.
    portions = [range(i, min(i + ahead, 10)) for i in range(0, 10, ahead)]
    assert looks == [2 * sum(i != 4 for i in p) for p in portions if list(p) != [4]]


@pytest.mark.parametrize("ahead", [2, 5, 100])
def test_seeds_at_the_same_place_have_the_same_streamlines(
    crossing, monkeypatch, ahead
):
    seeds = crossing.seeds[[0, 0, 1, 0, 2, 2, 2, 1, 4, 4, 0]]
    expected = list(tracking(getter_of(crossing), crossing, seeds))
    monkeypatch.setattr(direction_getter, "_AHEAD", ahead)
    getter = getter_of(crossing, seeds=seeds)
    assert_same(tracking(getter, crossing, seeds), expected)
    assert_same(expected[0:2], expected[2:4])


@pytest.mark.parametrize("ahead", [3, 100])
def test_a_second_pass_gives_the_same(crossing, looks, monkeypatch, ahead):
    monkeypatch.setattr(direction_getter, "_AHEAD", ahead)
    getter = getter_of(crossing, seeds=crossing.seeds)
    twice = tracking(getter, crossing)
    assert_same(list(twice), list(twice))
    if ahead == 100:
        assert looks == [18]
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
def test_other_seeds_than_foreseen_are_tracked_all_the_same(
    crossing, monkeypatch, foreseen, ahead
):
    expected = list(tracking(getter_of(crossing), crossing))
    monkeypatch.setattr(direction_getter, "_AHEAD", ahead)
    getter = getter_of(crossing, seeds=crossing.seeds[foreseen])
    assert_same(tracking(getter, crossing), expected)
    # And the other way round: some that were foreseen never come.
    some = crossing.seeds[foreseen]
    expected = list(tracking(getter_of(crossing), crossing, some))
    getter = getter_of(crossing, seeds=crossing.seeds)
    assert_same(tracking(getter, crossing, some), expected)


def test_seeds_a_hair_off_those_foreseen_are_others(crossing, looks):
    moved = crossing.seeds + 1e-9
    expected = list(tracking(getter_of(crossing), crossing, moved))
    del looks[:]
    getter = getter_of(crossing, seeds=crossing.seeds)
    assert_same(tracking(getter, crossing, moved), expected)
    assert looks == [1] * 18


def test_first_directions_that_are_given_were_not_foreseen(crossing, looks):
    ways = np.random.default_rng(0).normal(size=(10, 2, 3))
    options = {"initial_directions": ways}
    expected = list(tracking(getter_of(crossing), crossing, **options))
    assert len(expected) == 20
    del looks[:]
    getter = getter_of(crossing, seeds=crossing.seeds)
    assert_same(tracking(getter, crossing, **options), expected)
    assert looks == [1] * 20
    # Nor are they after a pass in which the getter was asked for its own.
    own = list(tracking(getter_of(crossing), crossing))
    assert_same(tracking(getter, crossing), own)
    assert_same(tracking(getter, crossing, **options), expected)


def test_another_criterion_step_or_limit_is_another_task(crossing):
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
    # Two at once, in turns.
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
        pytest.param(
            CmcStoppingCriterion,
        ),
    ],
    ids=["ours", "dipys"],
)
def test_what_is_drawn_at_random_is_the_same_looked_ahead_or_not(oblique, kind):
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


def test_features_that_are_no_fodf_can_be_looked_ahead(counter, follower, looks):
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
    del looks[:]
    getter = getter_of(world, seeds=world.seeds, **options)
    assert_same(tracking(getter, world, maxlen=50), expected)
    assert looks == [40]


def test_a_peak_found_alone_is_that_found_among_others_to_the_last_digit(oblique):
    # Of so low an order that a seed often has a single maximum to look at.
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


def test_the_first_directions_handed_out_are_copies(crossing):
    seed = seeds_as_local_tracking(crossing)[0]
    getter = getter_of(crossing, seeds=crossing.seeds)
    found = getter.initial_direction(seed)
    expected = found.copy()
    found[:] = 9.0
    npt.assert_array_equal(getter.initial_direction(seed), expected)
    npt.assert_array_equal(getter_of(crossing).initial_direction(seed), expected)


def test_the_seeds_given_are_left_as_they_were_and_may_change_later(crossing):
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
def test_seeds_that_are_none_are_refused_in_one_line(crossing, seeds):
    with pytest.raises(ValueError, match=r"^seeds ") as refusal:
        getter_of(crossing, seeds=seeds)
    assert "\n" not in str(refusal.value)


def test_no_seeds_to_look_ahead_are_as_none(crossing):
    getter = getter_of(crossing, seeds=np.empty((0, 3)))
    expected = tracking(getter_of(crossing), crossing, max_cross=1)
    assert_same(tracking(getter, crossing, max_cross=1), expected)


def test_a_seed_without_a_peak_can_be_given_a_direction_later(crossing):
    seeds = crossing.seeds[4:5]
    getter = getter_of(crossing, seeds=seeds)
    assert [len(line) for line in tracking(getter, crossing, seeds)] == [1]
    ways = {"initial_directions": np.array([[[1.0, 0, 0]]])}
    expected = list(tracking(getter_of(crossing), crossing, seeds, **ways))
    assert_same(tracking(getter, crossing, seeds, **ways), expected)
