"""Streamlines follow a rotation of the data, and do not depend on its storage."""

from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
import numpy as np
import pytest
from worlds import (
    OBLIQUE_ROTATION,
    NoisyWorld,
    affine_of,
    index_map,
    reorient,
    reorient_sh,
    share_within,
    signed_permutations,
)

from dipy_rnn import rnn_tracking, sampling, spatial


@pytest.fixture(scope="module")
def noisy():
    return NoisyWorld()


@pytest.mark.parametrize("model", ["newton", "default", "deterministic"])
def test_a_rotation_of_the_volume_rotates_the_streamlines(noisy, newton, model):
    model = newton if model == "newton" else model
    features, affine = noisy.features, np.diag([3.0, 3.0, 3.0, 1.0])
    seeds = (
        (noisy.seeds - noisy.affine[:3, 3])
        @ np.linalg.inv(noisy.affine[:3, :3]).T
        * 3.0
    )
    options = {"model": model, "step_size": 1.0, "min_len": 0}
    directions = first_directions(features, seeds, affine)
    found = directions.any(axis=1)
    seeds, directions = seeds[found], directions[found]
    lines = list(
        rnn_tracking(
            seeds,
            noisy.criterion,
            affine,
            features=features,
            seed_directions=directions,
            **options,
        )
    )
    given, free = [], []
    for turn in signed_permutations():
        if np.linalg.det(turn) < 0:
            continue
        # The same grid in mm: voxel i is at 3 i mm, so the index map is scaled by 3.
        moved = index_map(features.data.shape[:3], turn)
        shift = moved[:3, 3] * 3.0
        turned = sampling.FeatureVolume(reorient_sh(features.data, turn), "sh")
        mask = BinaryStoppingCriterion(reorient(noisy.mask, turn))
        there = {"features": turned, **options}
        turned_seeds = seeds @ turn.T + shift
        expected = [line @ turn.T + shift for line in lines]
        given.append(
            share_within(
                expected,
                list(
                    rnn_tracking(
                        turned_seeds,
                        mask,
                        affine,
                        seed_directions=directions @ turn.T,
                        **there,
                    )
                ),
                0.5,
            )
        )
        free.append(
            share_within(
                expected, list(rnn_tracking(turned_seeds, mask, affine, **there)), 0.5
            )
        )
    assert len(given) == 24
    assert np.mean(given) >= 0.99
    assert np.mean(free) >= 0.95


def first_directions(features, seeds, affine):
    return sampling.first_directions(
        features.data,
        spatial.to_voxels(seeds, affine),
        spatial.axes(affine),
        max_peaks=1,
    )[:, 0]


@pytest.mark.parametrize("model", ["newton", "default", "deterministic"])
@pytest.mark.parametrize(
    "affine",
    [affine_of((3.0, 3.0, 3.0)), affine_of((2.0, 3.0, 4.0), OBLIQUE_ROTATION)],
    ids=["isotropic", "oblique-anisotropic"],
)
def test_another_order_of_storage_gives_the_same_streamlines(affine, newton, model):
    world = NoisyWorld(affine, n_seeds=40)
    options = {
        "model": newton if model == "newton" else model,
        "step_size": 1.0,
        "min_len": 0,
    }
    lines = list(
        rnn_tracking(
            world.seeds,
            world.criterion,
            world.affine,
            features=world.features,
            **options,
        )
    )
    shares = []
    for axes in signed_permutations()[::5]:  # ten, with and without a mirror
        stored = world.affine @ np.linalg.inv(index_map(world.mask.shape, axes))
        others = list(
            rnn_tracking(
                world.seeds,
                BinaryStoppingCriterion(reorient(world.mask, axes)),
                stored,
                features=sampling.FeatureVolume(
                    reorient_sh(world.features.data, axes), "sh"
                ),
                **options,
            )
        )
        shares.append(share_within(lines, others, 0.5))
    assert np.mean(shares) >= 0.99
