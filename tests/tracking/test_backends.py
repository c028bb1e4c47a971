"""Every backend gives the streamlines of ``tracking/reference.py``.

One test body runs on all backends: the compiled slots in several threads, the torch
slots, and DIPY's LocalTracking with and without look-ahead.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from dipy.tracking.local_tracking import LocalTracking
import numpy as np
import numpy.testing as npt
import pytest
from worlds import OBLIQUE_ROTATION, NoisyWorld, affine_of

from dipy_rnn import (
    RNNDirectionGetter,
    draws,
    load_model,
    raw_features,
    spatial,
    stopping,
)
from dipy_rnn.sampling import FeatureVolume
from dipy_rnn.stopping import StopReason
from dipy_rnn.tracking import TrackingConfig, engine
from dipy_rnn.tracking.predictor import Predictor
from dipy_rnn.tracking.records import FinishedStreamlines
from dipy_rnn.tracking.reference import track_streamline
from dipy_rnn.tracking.seed_queue import SeedQueue
from dipy_rnn.tracking.slots.device import TorchSlots

ANISOTROPIC = affine_of((0.5, 1.5, 1.0), OBLIQUE_ROTATION)


@dataclass(frozen=True)
class World:
    """What is tracked, and by which settings."""

    features: FeatureVolume
    model: Any
    criterion: Any
    seeds_mm: np.ndarray
    directions: np.ndarray
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    step_size: float = 1.0
    max_angle: float = 60.0
    max_points: int = 500
    max_half_points: int = 251
    unidirectional: bool = False
    random_seed: int = 0
    tracking_method: str = "deterministic"
    ended_thr: float = 1.0
    lost_thr: float = 1.0

    @property
    def predictor(self):
        return Predictor(self.features, self.model, spatial.axes(self.affine), 1)

    @property
    def config(self):
        return TrackingConfig.of(
            self.affine,
            step_size=self.step_size,
            max_angle=self.max_angle,
            max_points=self.max_points,
            max_half_points=self.max_half_points,
            warm_up_points=self.model.metadata.replay_points,
            unidirectional=self.unidirectional,
            random_seed=self.random_seed,
            spread_scale=self.model.spread_scale(self.tracking_method, 1.0),
            ended_thr=self.ended_thr,
            lost_thr=self.lost_thr,
        )

    @property
    def numbers(self):
        return draws.count_equal(self.seeds_mm)

    @property
    def queue(self):
        seeds_vox = spatial.to_voxels(self.seeds_mm, self.affine)
        return SeedQueue(
            self.predictor,
            self.seeds_mm,
            self.affine,
            self.directions,
            seed_keys=draws.seed_keys(self.random_seed, seeds_vox, self.numbers),
        )


def by_reference(world):
    return [
        track_streamline(
            world.predictor, world.criterion, world.config, seed, direction, number
        )
        for seed, direction, number in zip(
            world.seeds_mm, world.directions, world.numbers
        )
    ]


# Backends: each returns (points in mm, forward and backward stop) of each seed.


def by_compiled_slots(world):
    return [
        (line.points_mm, line.forward_stop, line.backward_stop)
        for block in engine.run(
            world.predictor,
            world.criterion,
            world.queue,
            world.config,
            n_slots=7,
            nbr_threads=2,
        )
        for line in block.split(world.seeds_mm)
    ]


def by_torch_slots(world):
    slots = TorchSlots(
        world.predictor, world.criterion, world.queue, world.config, n_slots=7
    )
    blocks = []
    while slots.busy:
        blocks += slots.advance(30)
    lines = FinishedStreamlines.joined(blocks).split(world.seeds_mm)
    return [
        (line.points_mm, line.forward_stop, line.backward_stop)
        for line in sorted(lines, key=lambda line: line.seed_index)
    ]


def by_local_tracking(world, *, look_ahead=False):
    getter = RNNDirectionGetter(
        world.features,
        affine=world.affine,
        model=world.model,
        max_angle=world.max_angle,
        tracking_method=world.tracking_method,
        ended_thr=world.ended_thr,
        lost_thr=world.lost_thr,
        seeds=world.seeds_mm if look_ahead else None,
    )
    stops = []

    class Recording(LocalTracking):
        """Keeps the statuses, which LocalTracking itself does not return."""

        def _tracker(self, *arguments):
            n_points, status = super()._tracker(*arguments)
            stops.append(status)
            return n_points, status

    lines = Recording(
        getter,
        world.criterion,
        world.seeds_mm,
        world.affine,
        world.step_size,
        maxlen=world.max_half_points - 1,
        unidirectional=world.unidirectional,
        random_seed=world.random_seed,
        # Look-ahead needs first directions of its own: the largest peak.
        initial_directions=None if look_ahead else world.directions[:, None],
        max_cross=1,
    )
    lines = list(lines)
    forward, backward = stops[::2], stops[1::2]
    if world.unidirectional:
        forward = backward = stops
    return list(zip(lines, forward, backward, strict=True))


BACKENDS = {
    "compiled": by_compiled_slots,
    "torch": by_torch_slots,
    "LocalTracking": by_local_tracking,
    "look-ahead": lambda world: by_local_tracking(world, look_ahead=True),
}


# Worlds


def straight(counter, limit=9.0, replay_points=None, **changes):
    """A line of voxels. The network goes straight on for ``limit`` points in all."""
    model = load_model(counter)
    model.metadata = replace(model.metadata, replay_points=replay_points)
    mask = np.zeros((40, 3, 3))
    mask[:25] = 1
    world = World(
        features=raw_features(np.full((40, 3, 3, 3), limit)),
        model=model,
        criterion=stopping.BinaryStoppingCriterion(mask),
        seeds_mm=np.array([[20.0, 1, 1], [12.0, 2, 1], [24.0, 1, 0]]),
        directions=np.array([[1.0, 0, 0], [-1.0, 0, 0], [1.0, 0, 0]]),
    )
    return replace(world, **changes)


def circles(follower, **changes):
    """A field of circles on oblique, anisotropic voxels."""
    shape = (20, 20, 3)
    grid = np.indices(shape).transpose(1, 2, 3, 0) - [9.5, 9.5, 1.0]
    axial = np.stack([-grid[..., 1], grid[..., 0], 0 * grid[..., 0]], axis=-1)
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(40, 3))
    world = World(
        features=raw_features(axial),
        model=load_model(follower),
        criterion=stopping.BinaryStoppingCriterion(np.ones(shape)),
        seeds_mm=spatial.to_mm(rng.uniform(0, [19, 19, 2], (40, 3)), ANISOTROPIC),
        directions=directions / np.linalg.norm(directions, axis=1, keepdims=True),
        affine=ANISOTROPIC,
        step_size=0.25,
        max_angle=120.0,
        max_points=160,
        max_half_points=81,
    )
    return replace(world, **changes)


def bundles(kind, **changes):
    """Crossing bundles of a noisy phantom, tracked by the default model."""
    noisy = NoisyWorld(affine_of((2.0, 3.0, 4.0), OBLIQUE_ROTATION), n_seeds=12)
    white = noisy.mask * np.random.default_rng(2).uniform(0.6, 1.0, noisy.mask.shape)
    grey, fluid = (1 - white) * 0.7, (1 - white) * 0.6
    criterion = {
        "binary": lambda: stopping.BinaryStoppingCriterion(noisy.mask),
        "threshold": lambda: stopping.ThresholdStoppingCriterion(white, 0.4),
        "act": lambda: stopping.ActStoppingCriterion(grey, fluid),
        "cmc": lambda: stopping.CmcStoppingCriterion(grey / 3, fluid / 3, 1.0, 3.0),
        "own grid": lambda: on_own_grid(noisy, white),
        "exclude": lambda: stopping.ExclusionCriterion(
            stopping.BinaryStoppingCriterion(noisy.mask),
            [stopping.Sphere(tuple(noisy.seeds.mean(axis=0)), 9.0)],
            noisy.affine,
        ),
    }[kind]()
    model = load_model()
    predictor = Predictor(noisy.features, model, spatial.axes(noisy.affine), 1)
    seeds_vox = spatial.to_voxels(noisy.seeds, noisy.affine)
    directions = predictor.first_directions(seeds_vox, 1)[:, 0]
    found = directions.any(axis=1)
    world = World(
        features=noisy.features,
        model=model,
        criterion=criterion,
        seeds_mm=noisy.seeds[found],
        directions=directions[found],
        affine=noisy.affine,
        random_seed=5,
    )
    return replace(world, **changes)


def equal_seeds(world):
    """Return a world in which some seeds are equal."""
    rows = [0, 1, 0, 2, 1, 0, *range(3, len(world.seeds_mm))]
    return replace(
        world, seeds_mm=world.seeds_mm[rows], directions=world.directions[rows]
    )


def on_own_grid(noisy, white):
    """The threshold criterion, with an image of finer voxels along other axes."""
    shape = tuple(3 * n for n in white.shape)
    affine = affine_of((1.1, 1.2, 1.3), OBLIQUE_ROTATION.T)
    middle = spatial.to_mm((np.array(white.shape) - 1) / 2, noisy.affine)
    affine[:3, 3] += middle - spatial.to_mm((np.array(shape) - 1) / 2, affine)
    points_mm = spatial.to_mm(np.argwhere(np.ones(shape)), affine)
    nearest = np.rint(spatial.to_voxels(points_mm, noisy.affine)).astype(int)
    image = white[*np.clip(nearest, 0, np.array(white.shape) - 1).T].reshape(shape)
    return stopping.OwnGridCriterion(
        stopping.ThresholdStoppingCriterion(image, 0.4),
        *(affine, noisy.affine, white.shape),
    )


@pytest.fixture(scope="module")
def world(request, counter, follower):
    """Return the world of a name."""
    return {
        "the criterion ends both halves": lambda: straight(counter, limit=60.0),
        "the warm-up pass uses up points": lambda: straight(counter),
        "a short warm-up pass": lambda: straight(counter, replay_points=2),
        "no warm-up pass": lambda: straight(counter, replay_points=0),
        "no backward half": lambda: straight(counter, unidirectional=True),
        "a half is full": lambda: straight(counter, limit=60.0, max_half_points=4),
        "circles": lambda: circles(follower),
        "circles with sharp turns": lambda: circles(follower, max_angle=15.0),
        "binary criterion": lambda: bundles("binary"),
        "threshold criterion": lambda: bundles("threshold"),
        "act criterion": lambda: bundles("act"),
        "cmc criterion": lambda: bundles("cmc"),
        "own grid criterion": lambda: bundles("own grid"),
        "exclude region criterion": lambda: bundles("exclude"),
        "small angle, small step": lambda: bundles(
            "binary", max_angle=12.0, step_size=0.5
        ),
        "probabilistic, binary criterion": lambda: equal_seeds(
            bundles("binary", tracking_method="probabilistic", max_half_points=30)
        ),
        "probabilistic, cmc criterion": lambda: equal_seeds(
            bundles(
                "cmc",
                tracking_method="probabilistic",
                step_size=0.5,
                max_half_points=30,
            )
        ),
        "lost, binary criterion": lambda: bundles("binary", lost_thr=0.015),
        "end of the fibre, binary criterion": lambda: bundles("binary", ended_thr=0.1),
        "a streamline is too long": lambda: straight(counter, limit=60.0, max_points=7),
    }[request.param]()


WORLDS = {
    "the criterion ends both halves": {"ENDPOINT", "OUTSIDE_IMAGE"},
    "the warm-up pass uses up points": {"ENDPOINT", "NO_DIRECTION"},
    "a short warm-up pass": {"ENDPOINT", "NO_DIRECTION"},
    "no warm-up pass": {"ENDPOINT", "NO_DIRECTION"},
    "no backward half": {"ENDPOINT", "NO_DIRECTION"},
    "a half is full": {"ENDPOINT", "MAX_LENGTH"},
    "circles": {"NOTHING_AHEAD", "MAX_LENGTH"},
    "circles with sharp turns": {"NOTHING_AHEAD"},
    "binary criterion": {"ENDPOINT"},
    "threshold criterion": {"ENDPOINT"},
    "act criterion": {"ENDPOINT"},
    "cmc criterion": {"ENDPOINT", "INVALID_POINT"},
    "own grid criterion": {"ENDPOINT"},
    "exclude region criterion": {"ENDPOINT", "EXCLUDE_REGION"},
    "small angle, small step": {"ENDPOINT"},
    "probabilistic, binary criterion": {"ENDPOINT", "MAX_LENGTH"},
    "probabilistic, cmc criterion": {"ENDPOINT", "INVALID_POINT"},
    "lost, binary criterion": {"ENDPOINT", "LOST"},
    "end of the fibre, binary criterion": {"ENDPOINT", "FIBRE_END"},
    "a streamline is too long": {"MAX_LENGTH"},
}


@pytest.fixture(scope="module")
def expected(world, request):
    lines = by_reference(world)
    stops = {line.forward_stop.name for line in lines}
    stops |= {line.backward_stop.name for line in lines}
    return lines, stops


@pytest.mark.parametrize("world", WORLDS, indirect=True)
def test_the_reference_meets_the_reasons_of_each_world(world, expected, request):
    lines, stops = expected
    assert WORLDS[request.node.callspec.params["world"]] <= stops
    for line, seed in zip(lines, world.seeds_mm, strict=True):
        npt.assert_allclose(line.forward_half[0], seed, atol=1e-9)
        npt.assert_allclose(line.backward_half[0], seed, atol=1e-9)
        steps = np.linalg.norm(np.diff(line.points_mm, axis=0), axis=1)
        npt.assert_allclose(steps, world.step_size, atol=1e-9)


SLOTS = ("compiled", "torch")
PAIRS = [
    (backend, name)
    for name in WORLDS
    for backend in BACKENDS
    # LocalTracking limits each half, not the whole streamline.
    if (backend in SLOTS or name != "a streamline is too long")
    # Look-ahead starts along the peaks of an fODF.
    and (backend != "look-ahead" or name.endswith(("criterion", "small step")))
]


@pytest.mark.parametrize(("backend", "world"), PAIRS, indirect=["world"])
def test_every_backend_gives_the_streamlines_of_the_reference(backend, world, expected):
    lines, _ = expected
    others = BACKENDS[backend](world)
    for line, (points_mm, forward_stop, backward_stop) in zip(
        lines, others, strict=True
    ):
        assert len(points_mm) == len(line.points_mm)
        # torch adds the float32 terms of the network in another order.
        atol = 2e-5 if backend == "torch" else 1e-6
        npt.assert_allclose(points_mm, line.points_mm, atol=atol)
        stops = line.forward_stop, line.backward_stop
        if isinstance(forward_stop, StopReason):
            assert (forward_stop, backward_stop) == stops
        else:
            assert (forward_stop, backward_stop) == tuple(r.status for r in stops)
