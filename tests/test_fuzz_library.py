"""Odd arguments: they are taken, or refused in one line that names them."""

from fuzzing import LIBRARY, world
from hypothesis import HealthCheck, given, settings, strategies
import numpy as np
import pytest

from dipy_rnn import _checks, _threads, fodf_features, rnn_tracking, spatial, stopping
from dipy_rnn.evaluation import connections
from dipy_rnn.tracking import length_limits

few = settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("kind", LIBRARY)
@few
@given(r=strategies.randoms(use_true_random=False))
def test_an_odd_argument_is_taken_or_refused_in_one_line(kind, r):
    LIBRARY[kind](r)


# What was found so


@pytest.mark.parametrize("value", [None, "0.5", [1.0], 1j, {}, np.ones(1), object()])
def test_what_is_no_number_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^step_size is of type .*a number is needed"):
        _checks.check_number(value, "step_size")


def test_numbers_stay_what_they_are():
    assert _checks.check_number(np.int8(3), "n") == 3
    assert isinstance(_checks.check_number(np.int8(3), "n"), int)
    assert isinstance(_checks.check_number(np.float16(0.5), "n"), float)
    with pytest.raises(ValueError, match="n is too large"):
        _checks.check_number(10**400, "n")


@pytest.mark.parametrize(
    "values", [[[0, 1], [2]], ["a"], [None], [1j], np.zeros(2, "M8[s]"), object()]
)
def test_what_are_no_real_numbers_is_refused_by_name(values):
    for check in (_checks.check_numbers, _checks.as_points, spatial.check_affine):
        with pytest.raises(ValueError, match=r"^seeds is .*real numbers"):
            check(values, "seeds")


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (1e-7, "voxels of 1e-07 mm"),
        (1e7, r"holds 1e\+07; up to 1e\+06 mm is allowed"),
        (1e200, "up to 1e"),
    ],
)
def test_voxels_of_no_brain_are_refused(scale, message):
    with pytest.raises(ValueError, match=f"fa.nii.*{message}"):
        spatial.check_affine(np.diag([scale, scale, scale, 1.0]), "fa.nii")


def test_shear_of_small_voxels_is_shear():
    sheared = np.eye(4)
    sheared[0, 1] = 0.5
    for size in (1.0, 1e-3, 1e-5):
        with pytest.raises(ValueError, match="shear"):
            spatial.check_affine(sheared * [size, size, size, 1])


@pytest.mark.parametrize("far", [1e7, 1e300, -1e300])
def test_seeds_a_world_away_are_refused(far):
    with pytest.raises(ValueError, match=r"seeds holds .*check the units"):
        _checks.as_points([[0, far, 0]], "seeds")


@pytest.mark.parametrize("threads", [1025, 2**40, np.inf, np.nan, 0.5])
def test_more_threads_than_a_system_has_room_for_are_refused(threads):
    # OpenMP ends the process.
    with pytest.raises(ValueError, match="nbr_threads is"):
        _threads.count_threads(threads)


@pytest.mark.parametrize("random_seed", [2**32, 0.5, -1, np.nan])
def test_a_random_seed_that_dipy_does_not_take_is_refused_at_once(random_seed):
    with pytest.raises(ValueError, match=r"random_seed is .*a whole number from 0"):
        rnn_tracking(
            world().seeds,
            stopping.BinaryStoppingCriterion(world().mask),
            world().affine,
            sh=world().fodf,
            random_seed=random_seed,
        )


def test_more_points_than_can_be_counted_are_refused():
    assert length_limits(0, 1e6, 1.0) == (0, 10**6)
    with pytest.raises(ValueError, match="max_len is 1000000000000"):
        length_limits(0, 1e12, 1.0)
    with pytest.raises(ValueError, match="max_len is 500"):
        length_limits(0, 500, 1e-300)


def test_a_large_fodf_is_taken_and_one_beyond_single_precision_refused():
    features = fodf_features(world().fodf * 1e30)
    assert np.isfinite(features.data).all()
    with pytest.raises(ValueError, match=r"sh holds .* NaN or infinite"):
        fodf_features(world().fodf.astype(float) * 1e300)


@pytest.mark.parametrize("shape", [(3,), (3, 3), (3, 3, 3, 1)])
def test_maps_of_other_shapes_are_refused_by_name(shape):
    for make, name in (
        (lambda a: stopping.ThresholdStoppingCriterion(a, 0.2), "metric_map"),
        (stopping.BinaryStoppingCriterion, "mask"),
        (lambda a: stopping.ActStoppingCriterion(a, a), "include_map"),
    ):
        with pytest.raises(ValueError, match=f"{name} has the shape"):
            make(np.ones(shape))


def test_a_criterion_that_decides_nothing_is_refused():
    ones = np.ones((2, 2, 2))
    with pytest.raises(ValueError, match="threshold is nan"):
        stopping.ThresholdStoppingCriterion(ones, np.nan)
    with pytest.raises(ValueError, match="average_voxel_size is 0"):
        stopping.CmcStoppingCriterion(ones, ones, 1.0, 0)


def test_regions_that_make_a_matrix_larger_than_memory_are_refused():
    labels = np.zeros((2, 2, 2), int)
    labels[0, 0, 0] = 2**31
    with pytest.raises(ValueError, match=r"labels .* goes up to 2147483648"):
        connections(world().lines, np.eye(4), labels)
