"""The settings of a run: units, limits, and what is refused."""

from dataclasses import FrozenInstanceError

import dipy
import numpy as np
import numpy.testing as npt
import pytest
from worlds import OBLIQUE_ROTATION, affine_of

from dipy_rnn._dipy_compat import dipy_is_at_least
from dipy_rnn.tracking import TrackingConfig, length_limits, lengths_for_dipy


def config_of(affine=None, **settings):
    affine = np.eye(4) if affine is None else affine
    defaults = {"step_size": 1.0, "max_angle": 60.0, "max_points": 100}
    return TrackingConfig.of(affine, **defaults | settings)


def test_a_step_in_mm_becomes_a_step_in_voxels_along_each_axis():
    affine = affine_of((0.5, 2.0, 4.0), OBLIQUE_ROTATION)
    config = config_of(affine, step_size=1.5)
    npt.assert_allclose(config.step_vox, [3.0, 0.75, 0.375], rtol=1e-12)
    npt.assert_array_equal(config.affine, affine)


@pytest.mark.parametrize(
    ("max_angle", "min_cosine"),
    [(60, 0.5), (90, 0.0), (180, -1.0), (45.0, np.sqrt(0.5))],
)
def test_an_angle_in_degrees_becomes_a_cosine(max_angle, min_cosine):
    config = config_of(max_angle=max_angle)
    npt.assert_allclose(config.min_cosine, min_cosine, atol=1e-15)


@pytest.mark.parametrize("max_angle", [0, -1e-9, 180.1, np.nan, np.inf, "60", None])
def test_any_other_angle_is_refused(max_angle):
    with pytest.raises(ValueError, match=r"^max_angle is ") as caught:
        config_of(max_angle=max_angle)
    assert "\n" not in str(caught.value)


def test_without_a_limit_a_half_is_as_long_as_a_streamline_may_become():
    # A streamline that is too long has one point more than max_points.
    assert config_of(max_points=100).max_half_points >= 100 + 1
    assert config_of(max_points=100, max_half_points=7).max_half_points == 7


@pytest.mark.parametrize(
    ("warm_up_points", "expected"),
    [(None, 20), (0, 0), (19, 19), (20, 20), (2**70, 20)],
)
def test_the_warm_up_pass_is_no_longer_than_a_half(warm_up_points, expected):
    config = config_of(max_half_points=20, warm_up_points=warm_up_points)
    assert config.warm_up_points == expected


def test_settings_do_not_change_during_a_run():
    config = config_of()
    assert (config.unidirectional, config.random_seed) == (False, 0)
    with pytest.raises(FrozenInstanceError):
        config.max_points = 1


def test_an_affine_in_another_layout_is_converted():
    affine = affine_of((1.0, 2.0, 4.0), OBLIQUE_ROTATION)
    for layout in (np.asfortranarray(affine), affine.astype(np.float32)):
        converted = config_of(layout).affine
        assert converted.flags.c_contiguous and converted.dtype == np.float64
        npt.assert_array_equal(converted, layout)


def test_lengths_become_points_as_in_dipy():
    from dipy.tracking.tracker_parameters import generate_tracking_parameters

    for step in (0.2, 0.5, 0.6, 1.0):
        theirs = generate_tracking_parameters(
            "det",
            min_len=2,
            max_len=250,
            step_size=step,
            voxel_size=np.ones(3),
            max_angle=30.0,
            pmf_threshold=0.1,
            random_seed=0,
            return_all=True,
        )
        if not dipy_is_at_least(1, 12):
            pytest.skip("before 1.12 the lengths of DIPY's trackers are in points")
        assert length_limits(2, 250, step) == (theirs.min_nbr_pts, theirs.max_nbr_pts)


@pytest.mark.parametrize(
    ("version", "lengths"), [("1.11.0", (10, 500)), ("1.12.0", (5, 250))]
)
def test_dipy_gets_lengths_in_its_own_unit(monkeypatch, version, lengths):
    monkeypatch.setattr(dipy, "__version__", version)
    assert tuple(lengths_for_dipy(5, 250, 0.5).values()) == lengths
