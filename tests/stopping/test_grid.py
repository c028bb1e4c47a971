"""A criterion must be on the grid of the fODF, as far as that can be known."""

from dipy.tracking import stopping_criterion as dipys
import numpy as np
import pytest

from dipy_rnn import rnn_tracking, stopping
from dipy_rnn.phantom import crossing_phantom
from dipy_rnn.stopping import check_criterion_grid

SHAPE = (6, 7, 8)
OTHERS = [(18, 21, 24), (7, 7, 8), (6, 6, 8), (6, 7, 9), (6, 7, 7), (8, 7, 6)]


def make(module, kind, shape):
    image = np.random.default_rng(0).random(shape)
    if kind == "threshold":
        return module.ThresholdStoppingCriterion(image, 0.2)
    if kind == "binary":
        return module.BinaryStoppingCriterion(image > 0.5)
    if kind == "act":
        return module.ActStoppingCriterion(image, 1 - image)
    return module.CmcStoppingCriterion(image, 1 - image, 0.5, 2.0)


@pytest.mark.parametrize("module", [dipys, stopping])
@pytest.mark.parametrize("kind", ["threshold", "binary", "act", "cmc"])
def test_criteria_of_another_shape_are_refused(module, kind):
    check_criterion_grid(make(module, kind, SHAPE), SHAPE, np.eye(4))
    for other in OTHERS:
        with pytest.raises(ValueError, match="OwnGridCriterion, with the affine"):
            check_criterion_grid(make(module, kind, other), SHAPE, np.eye(4))


@pytest.mark.parametrize("kind", ["Act", "Cmc"])
@pytest.mark.parametrize("other", OTHERS)
def test_each_of_two_maps_is_compared(kind, other):
    options = () if kind == "Act" else (0.5, 2.0)
    make_ours = getattr(stopping, f"{kind}StoppingCriterion")
    make_dipys = getattr(dipys, f"{kind}StoppingCriterion")
    is_smaller = any(theirs < n for theirs, n in zip(other, SHAPE))
    for shapes in ((SHAPE, other), (other, SHAPE)):
        maps = [np.zeros(shape) for shape in shapes]
        criteria = [make_ours(*maps, *options)]
        if is_smaller:  # a larger map of DIPY's criteria cannot be detected
            criteria.append(make_dipys(*maps, *options))
        for criterion in criteria:
            with pytest.raises(ValueError, match="OwnGridCriterion, with the affine"):
                check_criterion_grid(criterion, SHAPE, np.eye(4))


class OfAUser:
    def __init__(self, **attributes):
        vars(self).update(attributes)

    def check_point(self, point):
        raise AssertionError("a criterion of a user is not called before tracking")


def test_shape_and_affine_of_other_criteria_are_compared_if_they_have_them():
    affine = np.diag([2.0, 2, 2, 1])
    check_criterion_grid(OfAUser(), SHAPE, affine)
    check_criterion_grid(OfAUser(shape=SHAPE, affine=affine), SHAPE, affine)
    with pytest.raises(ValueError, match=r"grid of \(6, 7, 9\) voxels and the fODF"):
        check_criterion_grid(OfAUser(shape=(6, 7, 9)), SHAPE, affine)
    with pytest.raises(ValueError, match=r"stopping_criterion\.affine differs"):
        check_criterion_grid(OfAUser(affine=np.eye(4)), SHAPE, affine)


@pytest.mark.parametrize("module", [dipys, stopping])
def test_rnn_tracking_refuses_a_criterion_on_another_grid(module):
    phantom = crossing_phantom(90, shape=(20, 20, 10))
    fine = np.kron(phantom.mask(), np.ones((3, 3, 3)))
    criterion = module.BinaryStoppingCriterion(fine > 0)
    with pytest.raises(ValueError, match="stopping_criterion"):
        rnn_tracking(np.zeros((1, 3)), criterion, phantom.affine, sh=phantom.fodf())
