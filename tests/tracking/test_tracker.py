"""track and rnn_tracking: streamlines by hand, and what they do not depend on."""

from collections import Counter

from dipy.direction.peaks import PeaksAndMetrics
from dipy.tracking.stopping_criterion import (
    BinaryStoppingCriterion,
    CmcStoppingCriterion,
    ThresholdStoppingCriterion,
)
import numpy as np
import numpy.testing as npt
import pytest
from stubs import TurnsToNan, save_stub
import torch
from worlds import (
    OBLIQUE_ROTATION,
    NoisyWorld,
    affine_of,
    everywhere,
    share_identical,
)

from dipy_rnn import rnn_tracking, sampling, spatial, stopping
from dipy_rnn.model import load_model
from dipy_rnn.phantom import circle_phantom, crossing_phantom
from dipy_rnn.stopping import StopReason
from dipy_rnn.tracking import track
from dipy_rnn.tracking.predictor import Predictor


@pytest.fixture(scope="module")
def noisy():
    return NoisyWorld()


def test_a_straight_field_on_anisotropic_voxels_gives_the_hand_computed_line(follower):
    affine = affine_of((1.0, 2.0, 4.0))
    field = np.broadcast_to([3.0, 0.0, 4.0], (30, 6, 12, 3))  # of length 5
    seed = affine[:3, :3] @ [2, 3, 2] + affine[:3, 3]
    (line,) = rnn_tracking(
        [seed],
        everywhere(field.shape[:3]),
        affine,
        features=sampling.raw_features(field),
        seed_directions=[[0.6, 0.0, 0.8]],
        model=follower,
        step_size=0.5,
        min_len=0,
    )
    # From x = 2 to 29.5 voxels of 1 mm the line is 45.8 mm long. From z = 2 to 11.5
    # voxels of 4 mm it is 47.5 mm long. It ends after 45.8 mm, that is 91 steps.
    expected = seed + 0.5 * np.arange(92)[:, None] * [0.6, 0.0, 0.8]
    npt.assert_allclose(line, expected, atol=1e-5)


@pytest.mark.parametrize("sizes", [(1.0, 1.0, 1.0), (0.5, 1.5, 1.0)])
def test_a_turn_on_a_circle_ends_at_the_radius_of_euler_steps(follower, sizes):
    radius, step = 6.0, 0.25
    affine = affine_of(sizes, offset_mm=(-10.0, -10.0, 0.0))
    shape = tuple(np.ceil(np.array([20, 20, 2]) / sizes).astype(int))
    grid = np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    # The field is linear, so interpolation is exact.
    field = np.column_stack([-grid[:, 1], grid[:, 0], 0 * grid[:, 0]])
    n_steps = round(2 * np.pi * radius / step)
    (line,) = track(
        [[radius, 0.0, 0.0]],
        everywhere(shape),
        affine,
        features=sampling.raw_features(field.reshape(*shape, 3)),
        model=follower,
        step_size=step,
        max_len=n_steps * step,
    )
    assert line.forward_stop == StopReason.MAX_LENGTH
    radii = np.linalg.norm(line.points_mm[:, :2], axis=1)
    steps = np.arange(len(radii))
    npt.assert_allclose(radii, np.sqrt(radius**2 + steps * step**2), atol=1e-4)
    npt.assert_allclose(
        radii[n_steps], np.sqrt(radius**2 + 2 * np.pi * radius * step), atol=0.01
    )


def test_the_backward_half_starts_with_the_hidden_state_of_the_warm_up_pass(counter):
    # The network stops when it has seen `limit` points. The mask ends the forward half
    # after 4 steps. The warm-up pass shows 4 points, p_4 .. p_1. The backward half
    # therefore has limit - 4 steps.
    limit, n_forward = 9, 4
    mask = np.zeros((40, 3, 3))
    mask[: 20 + n_forward + 1] = 1
    lines = list(
        track(
            [[20.0, 1.0, 1.0]],
            BinaryStoppingCriterion(mask),
            np.eye(4),
            features=sampling.raw_features(np.full((40, 3, 3, 3), float(limit))),
            seed_directions=[[1.0, 0.0, 0.0]],
            model=counter,
            step_size=1.0,
        )
    )
    xs = lines[0].points_mm[:, 0]
    npt.assert_allclose(xs, np.arange(20 - (limit - n_forward), 20 + n_forward + 1))
    assert lines[0].forward_stop == StopReason.ENDPOINT
    assert lines[0].backward_stop == StopReason.NO_DIRECTION


@pytest.mark.parametrize("batch_size", [0, 1, 7, 64, 4096])
def test_streamlines_do_not_depend_on_the_batch_size(noisy, newton, batch_size):
    def lines(**options):
        return list(
            rnn_tracking(
                noisy.seeds,
                noisy.criterion,
                noisy.affine,
                features=noisy.features,
                model=newton,
                step_size=1.0,
                min_len=0,
                **options,
            )
        )

    expected = lines(batch_size=13, nbr_threads=1)
    assert share_identical(lines(batch_size=batch_size), expected) >= 0.995


def test_streamlines_do_not_depend_on_the_order_of_seeds_or_on_threads(noisy, newton):
    def by_seed(seeds, **options):
        tracked = track(
            seeds,
            noisy.criterion,
            noisy.affine,
            features=noisy.features,
            model=newton,
            step_size=1.0,
            **options,
        )
        return {tuple(line.seed_mm): line.points_mm for line in tracked}

    expected = by_seed(noisy.seeds, nbr_threads=1)
    shuffled = np.random.default_rng(0).permutation(noisy.seeds)
    other = by_seed(shuffled, nbr_threads=2, seed_buffer_fraction=0.3)
    assert expected.keys() == other.keys()
    pairs = [(expected[seed], other[seed]) for seed in expected]
    assert share_identical(*zip(*pairs)) >= 0.995


def test_streamlines_come_in_the_order_of_their_seeds(noisy, newton):
    lines = list(
        track(
            noisy.seeds,
            noisy.criterion,
            noisy.affine,
            features=noisy.features,
            model=newton,
            step_size=1.0,
            batch_size=5,
        )
    )
    indices = [line.seed_index for line in lines]
    assert indices == sorted(indices) and len(set(indices)) == len(indices)
    for line in lines:
        npt.assert_array_equal(line.seed_mm, noisy.seeds[line.seed_index])
        assert np.abs(line.points_mm - line.seed_mm).max(axis=1).min() < 1e-9


def test_every_step_has_the_given_length_in_mm(newton):
    world = NoisyWorld(affine_of((2.0, 3.0, 4.0), OBLIQUE_ROTATION), n_seeds=20)
    for line in rnn_tracking(
        world.seeds,
        world.criterion,
        world.affine,
        features=world.features,
        model=newton,
        step_size=0.7,
    ):
        steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
        npt.assert_allclose(steps, 0.7, atol=1e-9)


def test_lengths_are_in_mm_over_both_halves_and_longer_ones_are_discarded(follower):
    field = np.broadcast_to([1.0, 0.0, 0.0], (30, 3, 3, 3))
    seeds = [[9.5, 1, 1], [19.5, 1, 1]]  # 20 and 10 points to the border, x = 29.5

    def n_points(**options):
        return [
            len(line)
            for line in rnn_tracking(
                seeds,
                everywhere(field.shape[:3]),
                np.eye(4),
                features=sampling.raw_features(field),
                model=follower,
                step_size=1.0,
                **options,
            )
        ]

    assert n_points(min_len=0) == [20, 10]
    assert n_points(min_len=0, max_len=15) == [10]
    assert n_points(min_len=15) == [20]
    assert n_points(min_len=0, max_len=20) == [20, 10]
    assert n_points(min_len=0, max_len=19) == [10]


def test_return_all_false_keeps_streamlines_with_two_valid_ends(follower):
    # The forward half leaves the image. The backward half would turn by 180 degrees,
    # so its end is not valid.
    field = np.broadcast_to([1.0, 0.0, 0.0], (9, 3, 3, 3))
    arguments = ([[4.0, 1, 1]], everywhere((9, 3, 3)), np.eye(4))
    options = {
        "features": sampling.raw_features(field),
        "model": follower,
        "step_size": 1.0,
        "min_len": 0,
    }
    assert len(list(rnn_tracking(*arguments, **options))) == 1
    assert list(rnn_tracking(*arguments, return_all=False, **options)) == []
    (line,) = track(
        *arguments, features=options["features"], model=follower, step_size=1.0
    )
    assert line.forward_stop == StopReason.OUTSIDE_IMAGE
    assert line.backward_stop == StopReason.NOTHING_AHEAD
    assert not line.has_valid_ends


def test_the_reason_of_each_end_is_returned(follower):
    field = np.zeros((9, 3, 3, 3))
    field[:, :, :, 0] = 1.0
    field[7:] = 0.0
    reasons = Counter()
    for direction, criterion in (
        ([1, 0, 0], everywhere((9, 3, 3))),
        ([0, 1, 0], everywhere((9, 3, 3))),
        (
            [1, 0, 0],
            BinaryStoppingCriterion(np.arange(9)[:, None, None] < [[5] * 3] * 3),
        ),
    ):
        (line,) = track(
            [[4.0, 1, 1]],
            criterion,
            np.eye(4),
            features=sampling.raw_features(field),
            seed_directions=[direction],
            model=follower,
            step_size=1.0,
        )
        reasons[line.forward_stop] += 1
    assert reasons == {
        StopReason.NO_DATA: 1,
        StopReason.NOTHING_AHEAD: 1,
        StopReason.ENDPOINT: 1,
    }


def test_nan_from_a_model_ends_a_streamline_and_never_becomes_a_point(tmp_path):
    model = save_stub(TurnsToNan(), tmp_path / "nan.pt")
    (line,) = track(
        [[4.0, 1, 1]],
        everywhere((20, 3, 3)),
        np.eye(4),
        features=sampling.raw_features(np.full((20, 3, 3, 3), 3.0)),
        seed_directions=[[1.0, 0, 0]],
        model=model,
        step_size=1.0,
    )
    assert line.forward_stop == StopReason.NOT_FINITE
    assert np.isfinite(line.points_mm).all() and len(line.points_mm) == 4


def test_seeds_outside_or_without_a_peak_give_no_streamline(noisy, newton):
    outside = noisy.affine[:3, 3] - 1000.0
    empty = np.argwhere(~noisy.features.data.any(axis=3))
    seeds = [outside, noisy.seeds[0]]
    if len(empty):
        seeds.append(noisy.affine[:3, :3] @ empty[0] + noisy.affine[:3, 3])
    lines = list(
        track(
            seeds,
            noisy.criterion,
            noisy.affine,
            features=noisy.features,
            model=newton,
            step_size=1.0,
        )
    )
    assert [line.seed_index for line in lines] == [1]


def test_a_seed_outside_or_a_direction_of_length_zero_gives_no_streamline(follower):
    field = np.broadcast_to([1.0, 0.0, 0.0], (9, 3, 3, 3))
    lines = track(
        [[4.0, 1, 1], [-0.51, 1, 1], [4.0, 1, 1], [8.5, 1, 1]],
        everywhere((9, 3, 3)),
        np.eye(4),
        features=sampling.raw_features(field),
        seed_directions=[[1.0, 0, 0], [1.0, 0, 0], [0.0, 0, 0], [1.0, 0, 0]],
        model=follower,
        step_size=1.0,
    )
    assert [line.seed_index for line in lines] == [0]


def test_a_pam_of_another_grid_is_refused(noisy):
    pam = PeaksAndMetrics()
    pam.shm_coeff, pam.B, pam.affine = noisy.features.data, None, np.eye(4)
    with pytest.raises(ValueError, match=r"pam\.affine"):
        rnn_tracking(noisy.seeds, noisy.criterion, noisy.affine, pam=pam)


def test_the_affine_of_a_pam_may_differ_by_a_rounding_error(noisy, newton):
    pam = PeaksAndMetrics()
    pam.shm_coeff, pam.B = noisy.features.data, None
    options = {"model": newton, "step_size": 1.0}
    options |= {"basis_type": "tournier07", "legacy": False}
    arguments = noisy.seeds, noisy.criterion, noisy.affine
    lines = []
    for pam.affine in (noisy.affine, noisy.affine + 9e-4):
        pam.affine[3] = [0, 0, 0, 1]
        lines.append(list(rnn_tracking(*arguments, pam=pam, **options)))
    assert share_identical(*lines, 0.0) == 1


@pytest.mark.parametrize("max_cross", [2, -1])
def test_two_bundles_that_cross_at_a_seed_give_a_streamline_each(max_cross):
    phantom = crossing_phantom(90)  # both bundles go 21.6 mm from 0 to either side
    seed = np.zeros(3)
    with pytest.warns(UserWarning, match="Of the seeds, 1 of 3 lie outside the image"):
        tracked = rnn_tracking(
            [seed, [1e3, 0, 0], [-15.0, 0, 0]],
            BinaryStoppingCriterion(phantom.mask()),
            phantom.affine,
            sh=phantom.fodf(),
            step_size=1.0,
            max_cross=max_cross,
            save_seeds=True,
        )
    lines, seeds = zip(*tracked)
    npt.assert_allclose(seeds, [seed, seed, [-15.0, 0, 0]], atol=1e-12)
    for line in lines:
        # Straight along one of the axes, through the seed, from end to end.
        extent = np.sort(np.ptp(line, axis=0))
        npt.assert_allclose(extent, [0, 0, 2 * 21.6], atol=2.5)
    axes = [int(np.argmax(np.ptp(line, axis=0))) for line in lines]
    assert sorted(axes[:2]) == [0, 1] and axes[2] == 0


def test_streamlines_of_a_seed_come_in_the_order_of_its_peaks(noisy, newton):
    options = {"features": noisy.features, "model": newton, "step_size": 1.0}
    arguments = noisy.criterion, noisy.affine
    axes = spatial.axes(noisy.affine)
    predictor = Predictor(noisy.features, load_model(newton), axes, 1)
    seeds_vox = spatial.to_voxels(noisy.seeds, noisy.affine)
    peaks = predictor.first_directions(seeds_vox, 3)
    assert 3 > (n_peaks := peaks.any(axis=2).sum(axis=1)).min() and n_peaks.max() > 1
    alone = [
        list(track(noisy.seeds, *arguments, seed_directions=peaks[:, k], **options))
        for k in range(3)
    ]
    expected = sorted(
        ((line.seed_index, k, line) for k in range(3) for line in alone[k]),
        key=lambda each: each[:2],
    )
    for way in ({"batch_size": 5}, {"nbr_threads": 2, "seed_buffer_fraction": 0.1}):
        lines = list(track(noisy.seeds, *arguments, max_cross=3, **options, **way))
        assert [line.seed_index for line in lines] == [i for i, _, _ in expected]
        for line in lines:
            npt.assert_array_equal(line.seed_mm, noisy.seeds[line.seed_index])
        points = [line.points_mm for line in lines]
        assert share_identical(points, [e.points_mm for _, _, e in expected]) >= 0.99


def test_features_without_peaks_have_one_first_direction_for_any_max_cross(follower):
    lines = list(
        track(
            [[4.0, 1, 1], [5.0, 1, 1]],
            everywhere((9, 3, 3)),
            np.eye(4),
            features=sampling.raw_features(np.full((9, 3, 3, 3), 1.0)),
            model=follower,
            step_size=1.0,
            max_cross=4,
        )
    )
    assert [line.seed_index for line in lines] == [0, 1]


def test_unidirectional_streamlines_start_at_the_seed(follower):
    field = np.broadcast_to([1.0, 0.0, 0.0], (30, 3, 3, 3))

    def lines(**options):
        return list(
            rnn_tracking(
                [[20.0, 1, 1], [9.0, 1, 1]],
                everywhere(field.shape[:3]),
                np.eye(4),
                features=sampling.raw_features(field),
                seed_directions=[[1.0, 0, 0], [0.9, 0, 0]],
                model=follower,
                step_size=1.0,
                min_len=0,
                unidirectional=True,
                **options,
            )
        )

    both = lines(return_all=False)  # the image has 30 voxels along x
    npt.assert_allclose(both[0], np.column_stack([np.arange(20, 30), *[[1] * 10] * 2]))
    npt.assert_allclose(both[1][:, 0], np.arange(9, 30))
    assert [len(line) for line in lines(max_len=15)] == [10]


def test_the_basis_of_a_pam_without_its_matrix_is_given(noisy):
    from dipy.direction.peaks import PeaksAndMetrics

    pam = PeaksAndMetrics()
    pam.shm_coeff, pam.B = noisy.features.data, None
    world = (noisy.seeds, noisy.criterion, noisy.affine)
    with pytest.raises(ValueError, match="pam has no matrix B"):
        rnn_tracking(*world, pam=pam)
    lines = rnn_tracking(*world, pam=pam, basis_type="tournier07", legacy=False)
    expected = rnn_tracking(*world, features=noisy.features)
    for line, other in zip(lines, expected, strict=True):
        npt.assert_array_equal(line, other)


def test_no_seeds_give_no_streamlines(noisy, newton):
    assert (
        list(
            rnn_tracking(
                np.empty((0, 3)),
                noisy.criterion,
                noisy.affine,
                features=noisy.features,
                model=newton,
                step_size=1.0,
            )
        )
        == []
    )


def lines_of_random_criterion(kind, noisy, model, random_seed, **options):
    half = noisy.mask * 0.5
    criterion = kind.from_pve(
        half, half * 0.5, half * 0.1, step_size=1.0, average_voxel_size=3.0
    )
    return list(
        rnn_tracking(
            noisy.seeds,
            criterion,
            noisy.affine,
            features=noisy.features,
            model=model,
            step_size=1.0,
            min_len=0,
            random_seed=random_seed,
            **options,
        )
    )


def test_draws_of_a_criterion_depend_only_on_the_seed_and_the_point(noisy):
    kind = stopping.CmcStoppingCriterion
    # A kernel. Torch may round a product differently if there are other rows.
    first = lines_of_random_criterion(kind, noisy, "fast", 3)
    for options in ({"nbr_threads": 1}, {"nbr_threads": 3, "batch_size": 7}):
        again = lines_of_random_criterion(kind, noisy, "fast", 3, **options)
        assert share_identical(first, again, 0) == 1
    other = lines_of_random_criterion(kind, noisy, "fast", 4)
    assert share_identical(first, other) < 1


def test_draws_of_dipys_own_cmc_are_repeated_by_random_seed(noisy, newton):
    first, second, other = (
        lines_of_random_criterion(CmcStoppingCriterion, noisy, newton, seed)
        for seed in (3, 3, 4)
    )
    assert share_identical(first, second, 0) == 1
    assert share_identical(first, other) < 1


def test_torch_has_its_number_of_threads_while_the_caller_processes_a_streamline(
    noisy, newton
):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in rnn_tracking(
            noisy.seeds,
            noisy.criterion,
            noisy.affine,
            features=noisy.features,
            model=newton,
            step_size=1.0,
            nbr_threads=2,
        ):
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_arguments_are_not_changed(noisy, newton):
    seeds, data = noisy.seeds.copy(), noisy.features.data.copy()
    directions = np.tile([0.0, 0.0, 2.0], (len(seeds), 1))
    given = directions.copy()
    list(
        rnn_tracking(
            seeds,
            noisy.criterion,
            noisy.affine,
            features=noisy.features,
            seed_directions=directions,
            model=newton,
            step_size=1.0,
        )
    )
    npt.assert_array_equal(seeds, noisy.seeds)
    npt.assert_array_equal(data, noisy.features.data)
    npt.assert_array_equal(directions, given)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"step_size": 0.0}, "step_size"),
        ({"step_size": np.nan}, "step_size"),
        ({"max_len": 0.1}, "max_len"),
        ({"max_len": np.inf}, "max_len"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"min_len": 9, "max_len": 8}, "min_len"),
        ({"max_angle": 0}, "max_angle"),
        ({"batch_size": -1}, "batch_size"),
        ({"nbr_threads": -1}, "nbr_threads"),
        ({"random_seed": -1}, "random_seed"),
        ({"seed_buffer_fraction": 0}, "seed_buffer_fraction"),
        ({"seed_directions": [[1.0, 0, 0]]}, "seed_directions"),
        ({"seed_directions": np.ones((60, 3)), "max_cross": 2}, "seed_directions"),
        ({"max_cross": -2}, "max_cross"),
        ({"max_cross": 1.5}, "max_cross"),
        ({"max_cross": None}, "max_cross"),
        ({"affine": np.zeros((4, 4))}, "affine"),
        ({"affine": np.eye(3)}, "affine"),
        ({"stopping_criterion": None}, "stopping_criterion"),
        ({"seeds": [[np.nan, 0, 0]]}, "seeds"),
        ({"seeds": [[0, 0]]}, "seeds"),
        ({"features": None}, "sh, pam and features"),
        ({"model": "no-such-model"}, "no-such-model"),
        ({"device": "abacus"}, "device"),
    ],
)
def test_wrong_arguments_are_refused_before_tracking(noisy, options, named):
    arguments = {
        "seeds": noisy.seeds,
        "stopping_criterion": noisy.criterion,
        "affine": noisy.affine,
        "features": noisy.features,
        "model": "default",
        "step_size": 1.0,
    } | options
    with pytest.raises((ValueError, OSError), match=named) as caught:
        rnn_tracking(**arguments)  # without iterating
    assert "\n" not in str(caught.value)


def test_the_shipped_model_closes_a_circle():
    phantom = circle_phantom(20.0)  # around the origin
    seed = np.array([20.0, 0.0, 0.0])
    circle_mm = 2 * np.pi * 20.0
    (line,) = track(
        [seed],
        ThresholdStoppingCriterion(phantom.peaks()[0].sum(axis=-1), 0.1),
        phantom.affine,
        features=sampling.fodf_features(phantom.fodf()),
        seed_directions=[[0.0, 1.0, 0.0]],
        step_size=0.2,
        max_len=1.1 * circle_mm,
    )
    assert line.forward_stop == StopReason.MAX_LENGTH  # it did not leave the tube
    npt.assert_array_equal(line.points_mm[0], line.seed_mm)
    # With Euler's method alone the radius would grow to 20.6 mm.
    end_of_turn = line.points_mm[int(0.9 * circle_mm / 0.2) :]
    assert np.linalg.norm(end_of_turn - seed, axis=1).min() < 2.0


def test_progress_is_shown_if_it_is_asked_for(capsys):
    phantom = crossing_phantom(90)
    seeds = np.array([[0.0, 0, 0], [-15, 0, 0], [15, 15, 0]])  # the last has no fibre
    arguments = seeds, BinaryStoppingCriterion(phantom.mask()), phantom.affine
    options = {"sh": phantom.fodf(), "step_size": 1.0, "max_cross": 2}
    lines = list(rnn_tracking(*arguments, **options))
    assert not capsys.readouterr().err
    shown = list(rnn_tracking(*arguments, **options, progress=True))
    assert "100%" in (bar := capsys.readouterr().err) and "3/3" in bar
    assert share_identical(lines, shown, 0.0) == 1 and len(shown) == 3
    tracked = rnn_tracking(*arguments, **options, progress=True)
    next(tracked)
    tracked.close()
    # The streamlines of the first two seeds left the engine together.
    assert "2/3" in (bar := capsys.readouterr().err) and "100%" not in bar
