"""Random odd arguments: each is accepted, or refused in one line that names it."""

from fuzzing import LIBRARY, world
from hypothesis import HealthCheck, given, settings, strategies
import numpy as np
import pytest

from dipy_rnn import rnn_tracking, stopping
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
def test_an_odd_argument_is_accepted_or_refused_in_one_line(kind, r):
    LIBRARY[kind](r)


# Arguments that once caused errors


@pytest.mark.parametrize("random_seed", [2**32, 0.5, -1, np.nan])
def test_a_random_seed_that_dipy_refuses_is_refused_before_tracking(random_seed):
    with pytest.raises(ValueError, match=r"random_seed is .*a whole number from 0"):
        rnn_tracking(
            world().seeds,
            stopping.BinaryStoppingCriterion(world().mask),
            world().affine,
            sh=world().fodf,
            random_seed=random_seed,
        )


def test_lengths_of_more_points_than_an_array_can_have_are_refused():
    assert length_limits(0, 1e6, 1.0) == (0, 10**6)
    with pytest.raises(ValueError, match="max_len is 1000000000000"):
        length_limits(0, 1e12, 1.0)
    with pytest.raises(ValueError, match="max_len is 500"):
        length_limits(0, 500, 1e-300)


@pytest.mark.parametrize("shape", [(3,), (3, 3), (3, 3, 3, 1)])
def test_maps_of_other_shapes_are_refused_by_name(shape):
    for make, name in (
        (lambda a: stopping.ThresholdStoppingCriterion(a, 0.2), "metric_map"),
        (stopping.BinaryStoppingCriterion, "mask"),
        (lambda a: stopping.ActStoppingCriterion(a, a), "include_map"),
    ):
        with pytest.raises(ValueError, match=f"{name} has the shape"):
            make(np.ones(shape))


def test_criteria_with_nan_or_zero_settings_are_refused():
    ones = np.ones((2, 2, 2))
    with pytest.raises(ValueError, match="threshold is nan"):
        stopping.ThresholdStoppingCriterion(ones, np.nan)
    with pytest.raises(ValueError, match="average_voxel_size is 0"):
        stopping.CmcStoppingCriterion(ones, ones, 1.0, 0)


def test_labels_whose_matrix_exceeds_memory_are_refused():
    labels = np.zeros((2, 2, 2), int)
    labels[0, 0, 0] = 2**31
    with pytest.raises(ValueError, match=r"labels .* goes up to 2147483648"):
        connections(world().lines, np.eye(4), labels)
