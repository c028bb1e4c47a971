"""A single step of the algorithm, by hand."""

import numpy as np
import numpy.testing as npt
import pytest
from worlds import STEPS

from dipy_rnn.sampling import DATA
from dipy_rnn.stopping import StopReason
from dipy_rnn.tracking.reference import classify_step, next_direction

# The rows e1, e2 and e3 along z, x and y.
FRAME = np.eye(3)[[2, 0, 1]]


def test_an_answer_in_the_moving_frame_is_turned_to_the_voxel_axes():
    answer = np.float32([1.0, 2.0, 3.0])
    direction = next_direction(answer, FRAME, in_frame=True)
    npt.assert_array_equal(direction, [2.0, 3.0, 1.0])  # 1 z + 2 x + 3 y
    assert direction.dtype == np.float64


def test_an_answer_along_the_voxel_axes_stays_as_it_is():
    answer = np.float32([1.0, 2.0, 3.0])
    direction = next_direction(answer, FRAME, in_frame=False)
    npt.assert_array_equal(direction, [1.0, 2.0, 3.0])
    assert direction.dtype == np.float64


@pytest.mark.parametrize(("direction", "status", "reason"), STEPS)
def test_each_reason_why_a_streamline_cannot_take_a_step(direction, status, reason):
    found = classify_step(np.array(direction), np.eye(3), status, 0.5)
    assert found is reason


def test_the_table_of_steps_has_every_reason_of_a_step():
    reasons = {reason for *_, reason in STEPS}
    not_of_a_step = {
        StopReason.ENDPOINT,
        StopReason.INVALID_POINT,
        StopReason.MAX_LENGTH,
        StopReason.EXCLUDE_REGION,
        StopReason.ALL_INCLUDED,
        StopReason.FIBRE_END,
        StopReason.LOST,
    }
    assert reasons == set(StopReason) - not_of_a_step


def test_the_angle_is_that_to_the_incoming_direction():
    along_y = np.array([0.0, 5.0, 0.0])
    assert classify_step(along_y, FRAME, DATA, 0.99) is StopReason.RUNNING
    assert classify_step(along_y, np.eye(3), DATA, 0.99) is StopReason.NOTHING_AHEAD


@pytest.mark.parametrize("length", [1e-6, 1.0, 1e6])
def test_the_largest_angle_itself_is_allowed(length):
    across = np.array([length, 0.0, 0.0])
    assert classify_step(across, np.eye(3), DATA, 0.0) is StopReason.RUNNING
    assert classify_step(across, np.eye(3), DATA, 1e-9) is StopReason.NOTHING_AHEAD
