"""RNNDirectionGetter in DIPY's LocalTracking, without seeds given in advance."""

import copy
import pickle
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

from dipy_rnn import RNNDirectionGetter, rnn_tracking, sampling
from dipy_rnn.phantom import crossing_phantom


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


def test_a_turn_on_a_circle_ends_at_the_radius_of_euler_steps(follower):
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


@pytest.mark.parametrize("n_peaks", [1, 2, None])
@pytest.mark.parametrize("unidirectional", [False, True])
def test_local_tracking_and_the_engine_track_the_same_peaks(
    newton, n_peaks, unidirectional
):
    world = NoisyWorld(n_seeds=25)
    getter = RNNDirectionGetter(world.features, affine=world.affine, model=newton)
    with warnings.catch_warnings():  # DIPY warns of unidirectional tracking
        warnings.simplefilter("ignore", UserWarning)
        tracker = LocalTracking(
            getter,
            world.criterion,
            world.seeds,
            world.affine,
            1.0,
            max_cross=n_peaks,
            maxlen=1000,
            minlen=1,
            unidirectional=unidirectional,
            save_seeds=True,
            return_all=False,
        )
    theirs, their_seeds = zip(*tracker)
    ours, our_seeds = zip(
        *rnn_tracking(
            world.seeds,
            world.criterion,
            world.affine,
            features=world.features,
            model=newton,
            step_size=1.0,
            max_cross=n_peaks or -1,
            unidirectional=unidirectional,
            save_seeds=True,
            min_len=0,
            return_all=False,
        )
    )
    npt.assert_allclose(our_seeds, their_seeds, atol=1e-9)
    assert share_identical(theirs, ours) >= 0.99
    if n_peaks != 1:
        assert len(ours) > len({tuple(seed) for seed in our_seeds})


def test_the_shipped_model_gives_the_same_streamlines_through_both_interfaces():
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
def test_a_request_for_the_backward_half_is_recognised_on_anisotropic_voxels(
    counter, step_size
):
    # For the backward half DIPY passes the direction F[0] - F[1] in voxels, which is 28
    # degrees off here. As in the engine the mask ends the forward half after 4 points,
    # so the backward half has 9 - 4.
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


def test_unidirectional_tracking_in_two_directions_starts_with_a_fresh_state(counter):
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


def test_a_second_tracker_does_not_continue_a_streamline_of_the_first(counter):
    # The seed is the same and the direction opposite, but LocalTracking is another one.
    # Its forward half therefore has five steps.
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


def test_a_half_that_was_discarded_is_not_continued_by_another_tracker(counter):
    # The forward half of the first tracker ends without a direction. With
    # return_all=False it is discarded, and the backward half is never requested.
    getter = RNNDirectionGetter(
        sampling.raw_features(np.full((40, 3, 3, 3), 5.0)), model=counter
    )
    arguments = (getter, everywhere((40, 3, 3)), np.array([[20.0, 1, 1]]), np.eye(4))
    ahead = np.array([[[1.0, 0, 0]]])
    discarded = LocalTracking(
        *arguments, 1.0, return_all=False, initial_directions=ahead
    )
    assert list(discarded) == []
    (line,) = LocalTracking(*arguments, 1.0, initial_directions=-ahead)
    npt.assert_allclose(line[:, 0], np.arange(20, 14, -1))


def test_zero_threads_stand_for_every_core(newton):
    world = NoisyWorld(n_seeds=1)
    getter = RNNDirectionGetter(
        world.features, affine=world.affine, model=newton, nbr_threads=0
    )
    arguments = (world.criterion, world.seeds, world.affine, 1.0)
    assert len(list(LocalTracking(getter, *arguments, max_cross=1))) == 1


def test_a_streamline_does_not_depend_on_the_one_before(newton):
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


def test_each_crossing_fibre_starts_a_streamline_unless_max_cross_is_one(newton):
    phantom = crossing_phantom(90.0)
    middle = np.array(phantom.shape) // 2
    seeds = (phantom.affine[:3, :3] @ middle + phantom.affine[:3, 3])[None]
    getter = RNNDirectionGetter.from_shcoeff(
        phantom.fodf(), affine=phantom.affine, model=newton
    )
    arguments = (getter, BinaryStoppingCriterion(phantom.mask()), seeds, phantom.affine)
    assert len(list(LocalTracking(*arguments, 1.0))) == 2
    assert len(list(LocalTracking(*arguments, 1.0, max_cross=1))) == 1


def test_seeds_can_be_saved(newton):
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


def test_return_all_false_discards_streamlines_that_end_without_a_direction(counter):
    getter = RNNDirectionGetter(
        sampling.raw_features(np.full((40, 3, 3, 3), 5.0)), model=counter
    )
    arguments = (getter, everywhere((40, 3, 3)), np.array([[20.0, 1, 1]]), np.eye(4))
    ahead = {"initial_directions": np.array([[[1.0, 0, 0]]])}
    assert len(list(LocalTracking(*arguments, 1.0, **ahead))) == 1
    assert list(LocalTracking(*arguments, 1.0, return_all=False, **ahead)) == []


def test_first_directions_are_the_peaks_of_dipy_up_to_the_grid_of_its_sphere(newton):
    from dipy.data import get_sphere
    from dipy.reconst.shm import sh_to_sf

    phantom = crossing_phantom(90.0)
    fodf = phantom.fodf()
    getter = RNNDirectionGetter.from_shcoeff(fodf, affine=phantom.affine, model=newton)
    middle = np.array(phantom.shape) // 2
    found = getter.initial_direction(middle.astype(float))
    sphere = get_sphere(name="repulsion724")
    with warnings.catch_warnings():  # DIPY warns of legacy bases
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        values = sh_to_sf(fodf[tuple(middle)], sphere, sh_order_max=8, legacy=True)
    theirs = peak_directions(values, sphere)[0]
    assert len(found) == len(theirs) == 2
    cosines = np.abs(found @ theirs.T).max(axis=1)
    assert (cosines > np.cos(np.deg2rad(5))).all()
    npt.assert_allclose(np.linalg.norm(found, axis=1), 1)


def test_get_direction_can_be_called_from_python(follower):
    field = np.broadcast_to([0.6, 0.0, 0.8], (5, 5, 5, 3))
    getter = RNNDirectionGetter(sampling.raw_features(field), model=follower)
    direction = np.array([0.0, 0.0, 1.0])
    assert getter.get_direction(np.array([2.0, 2.0, 2.0]), direction) == 0
    npt.assert_allclose(direction, [0.6, 0.0, 0.8], atol=1e-6)
    assert getter.get_direction(np.array([9.0, 2.0, 2.0]), direction) == 1
    npt.assert_allclose(direction, [0.6, 0.0, 0.8], atol=1e-6)  # not changed


def test_get_direction_refuses_a_direction_that_it_cannot_write_into(follower):
    getter = RNNDirectionGetter(
        sampling.raw_features(np.ones((5, 5, 5, 3))), model=follower
    )
    for direction in ([0.0, 0.0, 1.0], np.array([0, 0, 1])):
        with pytest.raises(ValueError, match="ndarray of floats"):
            getter.get_direction(np.array([2.0, 2, 2]), direction)


def test_particle_filtering_tracking_is_refused(newton):
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


def test_no_point_of_a_streamline_is_excluded_by_an_anatomical_criterion(newton):
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


def test_invalid_arguments_are_refused(newton, follower):
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
    with pytest.warns(UserWarning, match=r"step_size is 3 mm, 3 edges of a voxel"):
        list(
            LocalTracking(
                getter,
                everywhere(fodf.shape[:3]),
                np.array([[12.0, 12, 6]]),
                np.eye(4),
                3.0,
            )
        )


@pytest.mark.parametrize("duplicate", [copy.deepcopy, "pickle"])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_getter_is_pickled_and_copied_with_the_same_streamlines(duplicate, ahead):
    world = NoisyWorld(affine_of((1.0, 2.0, 3.0), OBLIQUE_ROTATION), n_seeds=6)
    getter = RNNDirectionGetter(
        world.features,
        affine=world.affine,
        max_angle=35.0,
        pmf_threshold=0.2,
        seeds=world.seeds if ahead else None,
    )

    def track(getter):
        lines = LocalTracking(
            getter, world.criterion, world.seeds, world.affine, 1.0, max_cross=1
        )
        return list(lines)

    expected = track(getter)
    if duplicate == "pickle":
        twin = pickle.loads(pickle.dumps(getter))
    else:
        twin = duplicate(getter)
    assert type(twin) is RNNDirectionGetter
    found = track(twin)
    assert len(found) == len(expected) > 0
    for line, other in zip(expected, found):
        npt.assert_array_equal(line, other)
