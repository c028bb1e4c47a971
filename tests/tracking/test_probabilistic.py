"""Probabilistic tracking: directions are drawn, and draws depend on the seeds only.

``test_backends.py`` compares the ways to track with the reference.
"""

from dataclasses import replace
import pickle

from dipy.tracking.local_tracking import LocalTracking
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
import torch
from worlds import OBLIQUE_ROTATION, NoisyWorld, affine_of, everywhere

from dipy_rnn import RNNDirectionGetter, load_model, rnn_tracking
from dipy_rnn.draws import CORRELATION_EDGES, count_equal
from dipy_rnn.draws.errors import FREEDOM
from dipy_rnn.model import ModelFileError, ModelMetadata, as_model
from dipy_rnn.sampling import fodf_features
from dipy_rnn.stopping import BinaryStoppingCriterion
from dipy_rnn.tracking import track

SPREAD = 0.005


class Straight(torch.nn.Module):
    """Goes straight on, and predicts the same spread everywhere."""

    @torch.jit.export
    def init_state(self, n: int):
        return torch.zeros(1, n, 1)

    def forward(self, features, direction, state, inputs):
        spread = torch.full_like(direction[:, :1], 0.005)
        return torch.cat([direction, spread], dim=1), state


def straight_model(**changes):
    module = Straight()
    metadata = ModelMetadata("sh", 15, "local", 1, 1, inputs=(), outputs=("spread",))
    return as_model(module, replace(metadata, **changes))


@pytest.fixture(scope="module")
def noisy():
    """Return a world whose seeds have streamlines of some length."""
    world = NoisyWorld(affine_of((2.0, 2.5, 3.0), OBLIQUE_ROTATION), n_seeds=60)
    pairs = tracked(world, tracking_method="deterministic", save_seeds=True)
    world.seeds = np.array([seed for line, seed in pairs if len(line) > 15])
    assert len(world.seeds) > 15
    return world


def tracked(world, seeds=None, **options):
    options = {"step_size": 1.0, "tracking_method": "probabilistic"} | options
    return list(
        rnn_tracking(
            world.seeds if seeds is None else seeds,
            BinaryStoppingCriterion(world.mask),
            world.affine,
            features=world.features,
            **options,
        )
    )


def assert_same(lines, others):
    assert len(lines) == len(others)
    for line, other in zip(lines, others, strict=True):
        assert_array_equal(line, other)


# The distribution


def test_many_streamlines_of_one_seed_spread_as_predicted():
    """The variance of the place after some steps can be computed from the errors."""
    shape, n, step, n_steps = (61, 61, 61), 1500, 0.5, 40
    fodf = np.zeros((*shape, 15))
    fodf[..., 0], fodf[..., [3, 10]] = 1.0, [2.0, 2.5]
    lines = list(
        rnn_tracking(
            np.full((n, 3), 30.0),
            everywhere(shape),
            np.eye(4),
            seed_directions=np.tile([0, 0, 1.0], (n, 1)),
            features=fodf_features(fodf, basis_type="tournier07", legacy=False),
            model=straight_model(),
            step_size=step,
            max_len=40,
            unidirectional=True,
            tracking_method="probabilistic",
            random_seed=3,
        )
    )
    ends = np.array([line[n_steps] for line in lines])[:, :2] - 30.0
    # The network goes straight on, so errors add up to the direction, and directions to
    # the place. Errors at k and l are correlated as the weights of their knots say.
    arc = np.arange(n_steps) * step / CORRELATION_EDGES
    weights = np.zeros((n_steps, 30))
    knots = np.floor(arc).astype(int)
    weights[range(n_steps), knots] = np.cos(np.pi / 2 * (arc - knots))
    weights[range(n_steps), knots + 1] += np.sin(np.pi / 2 * (arc - knots))
    moved = step * np.cumsum(np.cumsum(weights, axis=0), axis=0)[-1]
    expected = SPREAD * np.linalg.norm(moved) * (FREEDOM / (FREEDOM - 2)) ** 0.5
    assert_allclose(ends.std(axis=0), expected, rtol=0.1)
    assert_allclose(ends.mean(axis=0), 0, atol=4 * expected / n**0.5)


def test_a_small_temperature_is_nearly_deterministic_and_a_large_one_spreads(noisy):
    deterministic = tracked(noisy, tracking_method="deterministic")
    distances = []
    for temperature in (1e-6, 0.3, 2.0):
        lines = tracked(noisy, temperature=temperature)
        distances.append(
            np.median(
                [
                    np.linalg.norm(line[: len(other)][-1] - other[: len(line)][-1])
                    for line, other in zip(lines, deterministic, strict=True)
                ]
            )
        )
    assert distances[0] < 1e-3 < distances[1] < distances[2]


def test_the_scale_of_a_model_multiplies_the_temperature():
    model = straight_model(spread_scale=0.5)
    assert model.spread_scale("probabilistic", 3.0) == 1.5
    assert model.spread_scale("deterministic", 3.0) == 0.0


# Draws depend on the seed, and on nothing else


def test_threads_batches_and_the_order_of_the_seeds_change_nothing(noisy):
    seeds = noisy.seeds[[*range(len(noisy.seeds)), 3, 3, 7]]
    expected = tracked(noisy, seeds, random_seed=4)
    for options in (
        {"nbr_threads": 2},
        {"batch_size": 3},
        {"seed_buffer_fraction": 0.1},
    ):
        assert_same(tracked(noisy, seeds, random_seed=4, **options), expected)
    # Equal seeds keep their order, so the same streamlines come out.
    order = np.argsort(count_equal(seeds), kind="stable")[::1]
    order = np.concatenate([order[: len(noisy.seeds)][::-1], order[len(noisy.seeds) :]])
    pairs = tracked(noisy, seeds[order], random_seed=4, save_seeds=True)
    originals = tracked(noisy, seeds, random_seed=4, save_seeds=True)
    key = lambda pair: (*pair[1], *pair[0].ravel()[:3], len(pair[0]))  # noqa: E731
    assert_same(
        [line for line, _ in sorted(pairs, key=key)],
        [line for line, _ in sorted(originals, key=key)],
    )


def test_another_random_seed_and_an_equal_seed_have_other_streamlines(noisy):
    seeds = np.repeat(noisy.seeds[:1], 20, axis=0)
    lines = tracked(noisy, seeds)
    assert len({line.tobytes() for line in lines}) == len(lines) == 20
    others = tracked(noisy, seeds, random_seed=1)
    assert not {line.tobytes() for line in others} & {line.tobytes() for line in lines}
    # A seed is the same with and without its equals.
    assert_same(tracked(noisy, seeds[:1]), lines[:1])


def test_parts_of_equal_seeds_are_the_whole(noisy):
    seeds = np.repeat(noisy.seeds[:2], 4, axis=0)[[0, 5, 1, 4, 7, 2, 3, 6]]
    options = {"step_size": 1.0, "tracking_method": "probabilistic"}
    arguments = BinaryStoppingCriterion(noisy.mask), noisy.affine
    whole = track(seeds, *arguments, features=noisy.features, **options)
    numbers = count_equal(seeds)
    parts = [
        line
        for part in (slice(0, 3), slice(3, 8))
        for line in track(
            seeds[part],
            *arguments,
            features=noisy.features,
            seed_numbers=numbers[part],
            **options,
        )
    ]
    assert_same([line.points_mm for line in whole], [line.points_mm for line in parts])


@pytest.mark.parametrize("look_ahead", [False, True])
def test_local_tracking_gives_the_streamlines_of_rnn_tracking(noisy, look_ahead):
    seeds = noisy.seeds[[0, 1, 0, 2, 0, 1]]
    getter = RNNDirectionGetter(
        noisy.features,
        affine=noisy.affine,
        tracking_method="probabilistic",
        temperature=0.8,
        seeds=seeds if look_ahead else None,
    )
    tracker = LocalTracking(
        getter,
        BinaryStoppingCriterion(noisy.mask),
        seeds,
        noisy.affine,
        step_size=1.0,
        max_cross=1,
        random_seed=9,
    )
    expected = tracked(noisy, seeds, temperature=0.8, random_seed=9)
    lines = list(tracker)
    assert len({line.tobytes() for line in lines}) == 6
    for _ in range(2):  # a second run gives the same streamlines
        for line, other in zip(lines, expected, strict=True):
            assert_allclose(line, other, atol=1e-6)
        lines = list(tracker)
    twin = pickle.loads(pickle.dumps(getter))
    assert twin._spread_scale == getter._spread_scale == 0.8 * load_scale()


def load_scale():
    return load_model().metadata.spread_scale


# Errors


def test_a_model_without_a_spread_is_refused(noisy):
    message = "the model deterministic predicts no spread"
    with pytest.raises(ModelFileError, match=message):
        tracked(noisy, model="deterministic")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tracking_method": "eudx"}, "tracking_method is 'eudx'; 'deterministic' or"),
        ({"temperature": 0}, "temperature is 0; a finite number above 0"),
        ({"temperature": np.inf}, "temperature is inf"),
        ({"temperature": "hot"}, "temperature is of type str"),
    ],
)
def test_wrong_options_are_refused_before_tracking(noisy, options, message):
    with pytest.raises(ValueError, match=message):
        tracked(noisy, **options)
    with pytest.raises(ValueError, match=message):
        RNNDirectionGetter(noisy.features, **options)
