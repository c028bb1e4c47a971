"""The step counts in voxels: a smaller head gives the same streamlines, smaller."""

from dipy.tracking.local_tracking import LocalTracking
import numpy as np
import numpy.testing as npt
import pytest
from worlds import NoisyWorld, affine_of

from dipy_rnn import RNNDirectionGetter, rnn_tracking

MOUSE = 0.05  # 3 mm become 0.15 mm


@pytest.fixture(scope="module")
def noisy():
    return NoisyWorld(affine_of((2.0, 3.0, 4.0)), n_seeds=30)


def scaled(affine, scale):
    return np.diag([scale, scale, scale, 1.0]) @ affine


def by_rnn_tracking(noisy, model, scale, **options):
    return rnn_tracking(
        noisy.seeds * scale,
        noisy.criterion,
        scaled(noisy.affine, scale),
        features=noisy.features,
        model=model,
        step_size=0.7 * scale,
        min_len=6 * scale,
        max_len=60 * scale,
        **options,
    )


def by_local_tracking(noisy, model, scale, *, look_ahead=False):
    affine, seeds = scaled(noisy.affine, scale), noisy.seeds * scale
    getter = RNNDirectionGetter(
        noisy.features,
        affine=affine,
        model=model,
        max_angle=60,
        seeds=seeds if look_ahead else None,
    )
    return LocalTracking(getter, noisy.criterion, seeds, affine, 0.7 * scale)


@pytest.mark.parametrize("model", ["default", "deterministic"])
@pytest.mark.parametrize(
    "track",
    [
        by_rnn_tracking,
        by_local_tracking,
        lambda *arguments: by_local_tracking(*arguments, look_ahead=True),
    ],
    ids=["rnn_tracking", "LocalTracking", "look-ahead"],
)
def test_a_smaller_head_gives_the_same_streamlines_smaller(noisy, model, track):
    large = list(track(noisy, model, 1.0))
    small = list(track(noisy, model, MOUSE))
    assert len(large) == len(small) > 20
    for line, other in zip(large, small):
        npt.assert_allclose(other / MOUSE, line, atol=1e-3)
