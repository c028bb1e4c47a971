"""Criteria on grids of their own, and with exclude regions, at points found by hand."""

import pickle

from criteria_cases import (
    evaluate,
    every_criterion,
    make,
    random_maps,
    random_points,
)
from dipy.tracking import stopping_criterion as dipys
from dipy.tracking.local_tracking import LocalTracking
import numpy as np
import numpy.testing as npt
import pytest
from worlds import OBLIQUE_ROTATION, affine_of

from dipy_rnn import RNNDirectionGetter, rnn_tracking, spatial, stopping
from dipy_rnn.draws import seed_keys
from dipy_rnn.phantom import crossing_phantom
from dipy_rnn.stopping import (
    BinaryStoppingCriterion,
    ExclusionCriterion,
    MaskRegion,
    OwnGridCriterion,
    Sphere,
    StopReason,
    check_criterion_grid,
    is_stateless,
)

# A voxel of the fODF is 2 mm, one of the image 1 mm: own voxel = 2 * voxel - 3. The
# numbers are exact, so decisions at borders are, too.
FODF_AFFINE, FODF_SHAPE = np.diag([2.0, 2, 2, 1]), (5, 6, 4)
OWN_AFFINE = np.eye(4)
OWN_AFFINE[:3, 3] = 3
OWN_SHAPE = (4, 5, 3)


def wrap(name, shape=OWN_SHAPE):
    inner = make(name, random_maps(shape))
    return inner, OwnGridCriterion(inner, OWN_AFFINE, FODF_AFFINE, FODF_SHAPE)


def points_and_keys():
    points = random_points(FODF_SHAPE, n=500)
    points[::2] = np.round(4 * points[::2]) / 4  # borders of voxels of either grid
    keys = seed_keys(3, points)
    return points, keys, np.arange(len(points))


@every_criterion
def test_points_are_looked_up_in_the_image_itself(name):
    inner, criterion = wrap(name)
    points, *keys = points_and_keys()
    inside = spatial.is_inside(points, FODF_SHAPE)
    expected = evaluate(inner, 2 * points - 3, *keys)
    expected[~inside] = StopReason.OUTSIDE_IMAGE
    npt.assert_array_equal(evaluate(criterion, points, *keys), expected)
    assert len(set(expected[inside])) >= 3


def test_a_point_outside_either_image_is_outside():
    large = np.ones((99, 99, 99))
    affine = np.eye(4)
    affine[:3, 3] = -20
    larger = OwnGridCriterion(
        BinaryStoppingCriterion(large), affine, FODF_AFFINE, FODF_SHAPE
    )
    _, smaller = wrap("BinaryStoppingCriterion")
    out = StopReason.OUTSIDE_IMAGE
    # Outside the fODF only, and outside the image only (it begins at 3 mm).
    assert evaluate(larger, np.array([[5.0, 1, 1], [4.0, 1, 1]])).tolist() == [out, 0]
    assert evaluate(smaller, np.array([[1.0, 2, 2]])).tolist() == [out]


@every_criterion
def test_a_point_alone_is_decided_as_many(name):
    _, criterion = wrap(name)
    points, *keys = points_and_keys()
    together = evaluate(criterion, points, *keys)
    for i in range(0, len(points), 7):
        one = slice(i, i + 1)
        alone = evaluate(criterion, points[one], *(key[one] for key in keys))
        assert alone == together[i]
        if not criterion.draws_at_random:
            assert criterion.check_point(points[i]) == StopReason(alone[0]).status


@pytest.mark.parametrize("wrapper", ["own grid", "exclusion"])
def test_decisions_do_not_depend_on_the_number_of_points(wrapper):
    # Each point is rounded as if it were alone: the matrix is oblique.
    affine = affine_of((1.1, 0.7, 2.3), OBLIQUE_ROTATION)
    middle = spatial.to_mm([20, 20, 10], affine)
    fodf_affine = affine_of((1.9, 2.1, 2.0), offset_mm=middle - 19)
    image = np.random.default_rng(0).random((40, 40, 20)) > 0.5
    mask = MaskRegion(image, affine)
    criterion = {
        "own grid": OwnGridCriterion(
            BinaryStoppingCriterion(image), affine, fodf_affine, (20, 20, 20)
        ),
        "exclusion": ExclusionCriterion(
            BinaryStoppingCriterion(np.ones((20, 20, 20))), [mask], fodf_affine
        ),
    }[wrapper]
    # Points near the borders between voxels of the image.
    corners = np.argwhere(image)[::5] + 0.5
    points = spatial.to_voxels(spatial.to_mm(corners, affine), fodf_affine)
    points = points[spatial.is_inside(points, (20, 20, 20))]
    together = evaluate(criterion, points)
    alone = [evaluate(criterion, point[None])[0] for point in points]
    npt.assert_array_equal(together, alone)
    assert len(set(alone)) > 1 and len(alone) > 500


def test_nan_is_outside():
    _, criterion = wrap("ThresholdStoppingCriterion")
    reasons = evaluate(criterion, np.array([[np.nan, 2, 2], [np.inf, 2, 2]]))
    assert reasons.tolist() == [StopReason.OUTSIDE_IMAGE] * 2


@every_criterion
def test_wrappers_pickle(name):
    _, criterion = wrap(name)
    excluding = ExclusionCriterion(criterion, [Sphere((5, 5, 5), 2)], FODF_AFFINE)
    points, *keys = points_and_keys()
    for each in (criterion, excluding):
        again = pickle.loads(pickle.dumps(each))
        npt.assert_array_equal(
            evaluate(again, points, *keys), evaluate(each, points, *keys)
        )


@pytest.mark.parametrize("kind", [OwnGridCriterion, ExclusionCriterion])
def test_a_criterion_with_a_state_is_refused(kind):
    maps = random_maps()
    cmc = make("CmcStoppingCriterion", maps, dipys)
    arguments = {
        OwnGridCriterion: (OWN_AFFINE, FODF_AFFINE, FODF_SHAPE),
        ExclusionCriterion: ([Sphere((0, 0, 0), 1)], FODF_AFFINE),
    }[kind]
    with pytest.raises(ValueError, match="may depend on earlier points"):
        kind(cmc, *arguments)
    # Any other criterion of DIPY is fixed.
    act = kind(make("ActStoppingCriterion", maps, dipys), *arguments)
    assert is_stateless(act)


def test_the_grid_of_wrappers_is_checked():
    _, criterion = wrap("ActStoppingCriterion")
    excluding = ExclusionCriterion(criterion, [], FODF_AFFINE)
    wrong = ExclusionCriterion(criterion.criterion, [], FODF_AFFINE)
    for each in (criterion, excluding):
        check_criterion_grid(each, FODF_SHAPE, FODF_AFFINE)
        with pytest.raises(ValueError, match="is on a grid of"):
            check_criterion_grid(each, OWN_SHAPE, FODF_AFFINE)
        with pytest.raises(ValueError, match="affine differs"):
            check_criterion_grid(each, FODF_SHAPE, OWN_AFFINE)
    with pytest.raises(ValueError, match="OwnGridCriterion"):
        check_criterion_grid(wrong, FODF_SHAPE, FODF_AFFINE)


def test_exclude_regions_come_before_the_criterion():
    # Voxels of 2 mm. The criterion ends tracking in voxel 3, at 6 mm.
    mask = np.ones((6, 1, 1))
    mask[3] = 0
    inner = BinaryStoppingCriterion(mask)
    first = np.zeros((20, 3, 3))
    first[2:5] = 1  # from 1.5 to 4.5 mm
    regions = [MaskRegion(first, np.eye(4)), Sphere((8, 0, 0), 2)]
    criterion = ExclusionCriterion(inner, regions, FODF_AFFINE)
    points = np.zeros((7, 3))
    points[:, 0] = [0, 0.5, 1, 2, 2.75, 3, 5]  # 0, 1, 2, 4, 5.5, 6, 10 mm
    run, out, end = StopReason.RUNNING, StopReason.EXCLUDE_REGION, StopReason.ENDPOINT
    assert evaluate(criterion, points).tolist() == [run, run, out, out, end, out, out]
    reasons = np.array([StopReason.NO_DATA])
    stopping.evaluate_criterion(criterion, points[2:3], reasons)
    assert reasons == [StopReason.NO_DATA]


def test_local_tracking_and_rnn_tracking_take_an_image_on_its_own_grid():
    phantom = crossing_phantom(90, shape=(20, 20, 10))
    half = np.diag([0.5, 0.5, 0.5, 1])
    half[:3, 3] = -0.25  # each voxel is split into eight
    fine = np.kron(phantom.mask(), np.ones((2, 2, 2)))
    sh, affine, seeds = phantom.fodf(), phantom.affine, [[-9.3, 0, 0], [0, 9.2, 0]]
    own = OwnGridCriterion(
        BinaryStoppingCriterion(fine), affine @ half, affine, phantom.shape
    )
    same = BinaryStoppingCriterion(phantom.mask())
    options = {"sh": sh, "step_size": 0.5, "max_angle": 30}
    lines, expected = (
        list(rnn_tracking(seeds, criterion, affine, **options))
        for criterion in (own, same)
    )
    getter = RNNDirectionGetter.from_shcoeff(sh, affine=affine, max_angle=30)
    local = list(LocalTracking(getter, own, seeds, affine, step_size=0.5, max_cross=1))
    for line, other, third in zip(lines, expected, local, strict=True):
        npt.assert_array_equal(line, other)
        npt.assert_allclose(third, other, atol=1e-6)
        assert len(line) > 20
