"""Random seeds in a mask are at the places of DIPY's function."""

from dipy.tracking import utils
import numpy as np
import pytest

from dipy_rnn.pipeline.random_seeds import _first_three, random_seeds_from_mask

SHEARED = np.array([[1.7, 0.2, 0, -90], [-0.1, 2.1, 0.3, -126], [0, 0.2, -1.9, 72.0]])
SHEARED = np.vstack([SHEARED, [0, 0, 0, 1]])


@pytest.mark.parametrize("random_seed", [0, 1, 2**31 - 1, 2**40 + 5, 2**62])
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 3, 2), (13, 9, 7)])
@pytest.mark.parametrize(
    ("seeds_count", "seed_count_per_voxel"),
    [(1, True), (3, True), (1, False), (7, False), (40, False)],
)
def test_places_are_those_of_dipy_bit_for_bit(
    seeds_count, seed_count_per_voxel, shape, random_seed
):
    mask = np.random.default_rng(5).random(shape) < 0.2
    mask[0, 0, 0] = True
    options = {
        "seeds_count": seeds_count,
        "seed_count_per_voxel": seed_count_per_voxel,
        "random_seed": random_seed,
    }
    for affine in (np.eye(4), SHEARED):
        ours = random_seeds_from_mask(mask, affine, **options)
        theirs = utils.random_seeds_from_mask(mask, affine, **options)
        assert ours.shape == theirs.shape
        assert ours.tobytes() == theirs.tobytes()


def test_numbers_are_those_of_numpys_generators():
    edges = [0, 1, 2**16, 2**31, 2**32 - 1]
    random_seeds = np.append(edges, np.random.default_rng(0).integers(0, 2**32, 200))
    expected = [np.random.default_rng(int(seed)).random(3) for seed in random_seeds]
    assert _first_three(random_seeds).tolist() == np.array(expected).tolist()
