"""The slots of torch, on CPU tensors: the streamlines of the compiled slots."""

from functools import partial
from types import SimpleNamespace

from dipy.tracking import stopping_criterion as dipy_criteria
import numpy as np
import numpy.testing as npt
import pytest
from stubs import TurnsToNan, save_stub
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from worlds import OBLIQUE_ROTATION, NoisyWorld, affine_of, ends_beyond, everywhere

from dipy_rnn import draws, sampling, spatial, stopping
from dipy_rnn.model import ModelMetadata, load_model, save_model, untrained
from dipy_rnn.sampling.interpolate_torch import (
    TorchCone,
    TorchContext,
    TorchRotation,
    TorchVolume,
)
from dipy_rnn.stopping import StopReason
from dipy_rnn.tracking import TrackingConfig, track
from dipy_rnn.tracking.predictor import Predictor
from dipy_rnn.tracking.seed_queue import SeedQueue
from dipy_rnn.tracking.slots.compiled import CompiledSlots
from dipy_rnn.tracking.slots.device import TorchSlots

GRIDS = {
    "isotropic": None,
    "oblique-anisotropic": affine_of((2.0, 3.0, 4.0), OBLIQUE_ROTATION),
    "left-handed": affine_of((3.0, 2.0, 3.0), np.diag([-1.0, 1.0, 1.0])),
}
NETWORKS = {
    "moving-frame": ("moving_frame", "local"),
    "voxel-frame": ("cai2023", "voxel"),
    # Unlike moving_frame it depends on the rotation of the frame about its tangent.
    "rolling": ("cai2023", "local"),
}
# The answers of an untrained network hardly depend on its input, and turn a lot. In its
# own frame its streamlines coil, and rounding errors grow.
OPTIONS = {
    "voxel-frame": {"max_angle": 180.0},
    "rolling": {"max_angle": 180.0, "max_points": 20},
}


def slots_of(
    kind,
    seeds,
    criterion,
    affine,
    *,
    features,
    model="default",
    directions=None,
    n_slots=64,
    n_ahead=1000,
    device=None,
    **settings,
):
    """Make slots of a kind for seeds in mm."""
    model = load_model(model, device=device)
    predictor = Predictor(features, model, spatial.axes(affine), 1)
    if directions is not None:
        directions = np.array(directions, dtype=float)
    defaults = {
        "step_size": 1.0,
        "max_angle": 60.0,
        "max_points": 500,
        "max_half_points": 500,
        "warm_up_points": model.metadata.replay_points,
    }
    seeds_vox = spatial.to_voxels(np.array(seeds), affine)
    keys = draws.seed_keys(settings.get("random_seed", 0), seeds_vox)
    return kind(
        predictor,
        criterion,
        SeedQueue(
            predictor,
            np.array(seeds),
            affine,
            directions,
            seed_keys=keys,
            n_ahead=n_ahead,
        ),
        TrackingConfig.of(affine, **defaults | settings),
        n_slots=n_slots,
    )


def run(kind, seeds, *arguments, n_steps=100, **options):
    """Return all streamlines of slots of a kind, in the order of the seeds."""
    slots = slots_of(kind, seeds, *arguments, **options)
    lines = []
    while slots.busy:
        for finished in slots.advance(n_steps):
            assert len(finished.points_mm) == finished.n_points.sum()
            lines += finished.split(seeds)
    return sorted(lines, key=lambda line: line.seed_index)


def share_same(lines, others, limit_mm=0.01):
    """Return the share of streamlines with the same reasons, halves and points."""
    assert [line.seed_index for line in lines] == [line.seed_index for line in others]
    assert lines
    return np.mean(
        [
            ours.forward_stop is theirs.forward_stop
            and ours.backward_stop is theirs.backward_stop
            and ours.n_forward == theirs.n_forward
            and len(ours.points_mm) == len(theirs.points_mm)
            and np.abs(ours.points_mm - theirs.points_mm).max() <= limit_mm
            for ours, theirs in zip(lines, others)
        ]
    )


def both(*arguments, **options):
    """Return the streamlines of the slots of torch, and of the compiled ones."""
    return tuple(
        run(kind, *arguments, **options) for kind in (TorchSlots, CompiledSlots)
    )


@pytest.fixture(scope="module")
def worlds():
    worlds = {name: NoisyWorld(affine, n_seeds=30) for name, affine in GRIDS.items()}
    for world in worlds.values():
        world.criterion = stopping.BinaryStoppingCriterion(world.mask)
        world.tracking = world.seeds, world.criterion, world.affine
    return worlds


@pytest.fixture(scope="module")
def networks(tmp_path_factory, newton):
    """Return model files of untrained networks whose answers depend on their state."""
    folder = tmp_path_factory.mktemp("networks")
    paths = {"default": "default", "newton": newton}
    for name, (architecture, frame) in NETWORKS.items():
        network = untrained(architecture, 8, random_seed=3, hidden=16)
        if architecture == "moving_frame":
            torch.nn.init.normal_(network.head.weight, std=0.3)
        metadata = ModelMetadata(
            "sh",
            45,
            frame,
            network.layers,
            16,
            (4, 8),
            normalisation="power",
            inputs=network.inputs,
        )
        paths[name] = folder / f"{name}.pt"
        save_model(network, metadata, paths[name])
    return paths


# The same streamlines


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("model", ["default", "newton", *NETWORKS])
def test_streamlines_are_those_of_the_compiled_slots(worlds, networks, grid, model):
    world = worlds[grid]
    ours, theirs = both(
        *world.tracking,
        features=world.features,
        model=networks[model],
        step_size=0.7,
        **{"max_points": 100} | OPTIONS.get(model, {}),
    )
    assert len(ours) == len(world.seeds)
    assert share_same(ours, theirs) >= 0.99


def test_streamlines_are_those_of_track(worlds):
    world = worlds["oblique-anisotropic"]
    expected = track(
        *world.tracking, features=world.features, step_size=1.0, nbr_threads=1
    )
    ours = run(TorchSlots, *world.tracking, features=world.features)
    assert share_same(ours, list(expected)) == 1


@pytest.mark.parametrize("model", ["default", "moving-frame"])
def test_features_of_a_lower_order_are_padded(worlds, networks, model):
    world = worlds["isotropic"]
    features = sampling.FeatureVolume(sampling.with_order(world.features.data, 4), "sh")
    ours, theirs = both(*world.tracking, features=features, model=networks[model])
    assert share_same(ours, theirs) >= 0.99


def test_a_vector_field_is_followed(follower):
    shape = (20, 20, 3)
    grid = np.indices(shape).transpose(1, 2, 3, 0) - [9.5, 9.5, 1.0]
    field = np.stack([-grid[..., 1], grid[..., 0], 0 * grid[..., 0]], axis=-1)
    affine, rng = affine_of((0.5, 1.5, 1.0)), np.random.default_rng(0)
    seeds = spatial.to_mm(rng.uniform(-0.5, [19.5, 19.5, 2.5], (100, 3)), affine)
    ours, theirs = both(
        seeds,
        stopping.BinaryStoppingCriterion(np.ones(shape)),
        affine,
        features=sampling.raw_features(field),
        directions=rng.normal(size=(100, 3)),
        model=follower,
        step_size=0.25,
        max_points=160,
        max_angle=120.0,
    )
    assert len({line.forward_stop for line in theirs}) >= 3
    assert share_same(ours, theirs, 1e-4) >= 0.99


class InTheMask:
    """A criterion of a user, without an operation on the device."""

    draws_at_random = False

    def __init__(self, mask):
        self.criterion = stopping.BinaryStoppingCriterion(mask)

    def check_point(self, point):
        raise AssertionError("check_points is to be called")

    def check_points(self, points_vox, reasons):
        self.criterion.check_points(points_vox, reasons)


@pytest.mark.parametrize("kind", ["threshold", "act", "cmc", "dipys", "batched"])
def test_criteria_end_streamlines_as_in_the_compiled_slots(worlds, newton, kind):
    world = worlds["oblique-anisotropic"]
    white = world.mask * np.random.default_rng(2).uniform(0.6, 1.0, world.mask.shape)
    grey, fluid = (1 - white) * 0.7, (1 - white) * 0.6
    criterion = {
        "threshold": lambda: stopping.ThresholdStoppingCriterion(white, 0.4),
        "act": lambda: stopping.ActStoppingCriterion(grey, fluid),
        "cmc": lambda: stopping.CmcStoppingCriterion(grey / 3, fluid / 3, 1.0, 3.0),
        "dipys": lambda: dipy_criteria.ThresholdStoppingCriterion(white, 0.4),
        "batched": lambda: InTheMask(world.mask),
    }[kind]()
    arguments = world.seeds, criterion, world.affine
    options = {"features": world.features, "model": newton}
    ours, theirs = both(*arguments, random_seed=5, **options)
    assert share_same(ours, theirs) >= 0.99
    other = run(TorchSlots, *arguments, random_seed=6, **options)
    assert (share_same(ours, other) < 1) == (kind == "cmc")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("model", ["default", "newton", *NETWORKS])
@pytest.mark.parametrize("kind", ["binary", "cmc"])
def test_streamlines_are_the_same_on_a_gpu(worlds, networks, model, kind):
    world = worlds["oblique-anisotropic"]
    criterion, share = world.criterion, world.mask * 0.4
    if kind == "cmc":
        criterion = stopping.CmcStoppingCriterion(0.5 - share, 0.45 - share, 1.0, 3.0)
    arguments = world.seeds, criterion, world.affine
    options = {"features": world.features, "model": networks[model]}
    options |= {"max_points": 100} | OPTIONS.get(model, {})
    ours = run(TorchSlots, *arguments, device="cuda", **options)
    assert share_same(ours, run(CompiledSlots, *arguments, **options)) >= 0.95


# Limits


@pytest.mark.parametrize("max_points", [1, 7, 25, 40])
def test_a_streamline_with_too_many_points_ends_one_point_later(
    worlds, newton, max_points
):
    world = worlds["isotropic"]
    ours, theirs = both(
        *world.tracking,
        features=world.features,
        model=newton,
        max_points=max_points,
        n_steps=7,
    )
    assert share_same(ours, theirs) >= 0.99
    over = [line for line in ours if len(line.points_mm) > max_points]
    assert over
    assert all(len(line.points_mm) == max_points + 1 for line in over)
    assert all(line.backward_stop is StopReason.MAX_LENGTH for line in over)


@pytest.mark.parametrize("max_half_points", [2, 9, 30])
def test_a_half_ends_when_it_has_the_largest_number_of_points(
    worlds, newton, max_half_points
):
    world = worlds["isotropic"]
    ours, theirs = both(
        *world.tracking,
        features=world.features,
        model=newton,
        max_half_points=max_half_points,
    )
    assert share_same(ours, theirs) >= 0.99
    full = [line for line in ours if line.n_forward == max_half_points]
    assert full
    assert all(line.forward_stop is StopReason.MAX_LENGTH for line in full)
    assert all(len(line.points_mm) < 2 * max_half_points for line in ours)


@pytest.mark.parametrize("warm_up_points", [0, 1, 5, 2**70])
@pytest.mark.parametrize("model", ["voxel-frame", "rolling"])
def test_the_warm_up_pass_has_the_given_length(worlds, networks, model, warm_up_points):
    world = worlds["oblique-anisotropic"]
    ours, theirs = both(
        *world.tracking,
        features=world.features,
        model=networks[model],
        max_half_points=14,
        warm_up_points=warm_up_points,
        **OPTIONS[model] | {"max_points": 50},
    )
    assert share_same(ours, theirs) == 1


def test_the_backward_half_can_be_omitted(worlds, newton):
    world = worlds["isotropic"]
    ours, theirs = both(
        *world.tracking, features=world.features, model=newton, unidirectional=True
    )
    assert share_same(ours, theirs) == 1
    assert all(len(line.points_mm) == line.n_forward for line in ours)


def test_the_backward_half_starts_with_the_hidden_state_of_the_warm_up_pass(counter):
    # As in test_tracker.py: the network stops when it has seen 9 points. The forward
    # half has 4 steps, and the warm-up pass shows 4 points.
    limit, n_forward = 9, 4
    (line,) = run(
        TorchSlots,
        np.array([[20.0, 1.0, 1.0]]),
        ends_beyond(20 + n_forward, (40, 3, 3)),
        np.eye(4),
        features=sampling.raw_features(np.full((40, 3, 3, 3), float(limit))),
        directions=[[1.0, 0.0, 0.0]],
        model=counter,
    )
    expected = np.arange(20 - (limit - n_forward), 25)
    npt.assert_allclose(line.points_mm[:, 0], expected)
    assert line.forward_stop is StopReason.ENDPOINT
    assert line.backward_stop is StopReason.NO_DIRECTION


def test_the_reason_of_each_end_is_returned(follower):
    field = np.zeros((9, 3, 3, 3))
    field[:, :, :, 0] = 1.0
    field[7:] = 0.0
    ours, theirs = both(
        np.array(
            [[4.0, 1, 1], [4.0, 1, 1], [-0.5, 1, 1], [8.49, 1, 1], [4.0, 2.49, 1]]
        ),
        everywhere((9, 3, 3)),
        np.eye(4),
        features=sampling.raw_features(field),
        directions=[[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0], [0.1, 0, 0]],
        model=follower,
    )
    assert share_same(ours, theirs, 0) == 1
    reasons = [line.forward_stop.name for line in ours]
    assert reasons == ["NO_DATA", "NOTHING_AHEAD", "NO_DATA", "NO_DATA", "NO_DATA"]


def test_nan_from_a_model_ends_a_streamline_and_never_becomes_a_point(tmp_path):
    lines = run(
        TorchSlots,
        np.array([[10.0, 1, 1]] * 5),
        everywhere((20, 3, 3)),
        np.eye(4),
        features=sampling.raw_features(np.full((20, 3, 3, 3), 5.0)),
        directions=[[1.0, 0, 0]] * 5,
        model=save_stub(TurnsToNan(), tmp_path / "nan.pt"),
        n_slots=1,
    )
    for line in lines:
        # 5 steps forward. The warm-up pass shows 5 points, so no step is left.
        npt.assert_array_equal(line.points_mm[:, 0], np.arange(10, 16))
        assert line.forward_stop is line.backward_stop is StopReason.NOT_FINITE


# What streamlines do not depend on


@pytest.mark.parametrize(
    "options",
    [
        {"n_slots": 1, "n_steps": 1000},
        {"n_slots": 7, "n_steps": 1, "n_ahead": 3},
        {"n_slots": 33, "n_steps": 5},
        {"n_slots": 4096, "n_steps": 50},
    ],
    ids=str,
)
def test_streamlines_do_not_depend_on_the_numbers_of_slots_steps_and_seeds_ahead(
    worlds, newton, options
):
    world = worlds["isotropic"]
    arguments = world.seeds[:12], world.criterion, world.affine
    given = {"features": world.features, "model": newton}
    expected = run(TorchSlots, *arguments, **given)
    assert len(expected) == 12
    assert share_same(run(TorchSlots, *arguments, **given, **options), expected) == 1


def test_no_more_slots_are_busy_than_wanted(worlds, newton):
    world = worlds["isotropic"]
    options = {"features": world.features, "model": newton, "n_slots": 5}
    slots = slots_of(TorchSlots, *world.tracking, **options)
    n_finished = 0
    while slots.busy:
        assert (slots.phase < 3).sum() <= 5
        assert len(slots.phase) % 32 == 0
        n_finished += sum(len(block.index) for block in slots.advance(3))
    assert n_finished == len(world.seeds)


def test_there_is_room_for_long_streamlines(follower):
    n = 1200
    field = np.zeros((n, 1, 1, 3))
    field[..., 0] = np.sign(np.arange(n) - n // 2 + 0.5)[:, None, None]
    lines = run(
        TorchSlots,
        np.array([[n // 2, 0, 0], [n // 2 - 1, 0, 0], [n - 2, 0, 0], [4.0, 0, 0]]),
        everywhere((n, 1, 1)),
        np.eye(4),
        features=sampling.raw_features(field),
        directions=[[1.0, 0, 0], [-1, 0, 0], [1, 0, 0], [-1, 0, 0]],
        model=follower,
        max_points=10**4,
        max_half_points=10**4,
    )
    ends = [line.points_mm[[0, -1], 0].tolist() for line in lines]
    assert ends == [[600, 1199], [599, 0], [1198, 1199], [4, 0]]
    for line in lines:
        npt.assert_allclose(np.abs(np.diff(line.points_mm[:, 0])), 1.0)


# Speed


def to_meta(thing):
    """Move tensors to torch's meta device, where they have a shape and no values."""
    if isinstance(thing, torch.Tensor):
        return thing.to("meta")
    if isinstance(thing, list):
        return [to_meta(each) for each in thing]
    if isinstance(thing, partial):
        return partial(thing.func, *map(to_meta, thing.args))
    if isinstance(
        thing, (TorchCone, TorchContext, TorchRotation, TorchSlots, TorchVolume)
    ):
        for name, value in vars(thing).items():
            setattr(thing, name, to_meta(value))
    return thing


class NothingElsewhere(TorchDispatchMode):
    """Refuses tensors that are not on the meta device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for each in tree_leaves((args, kwargs)):
            if isinstance(each, torch.Tensor) and each.device.type != "meta":
                raise RuntimeError(f"{function} would copy from the host")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["threshold", "binary", "act", "cmc"])
def test_a_step_never_makes_the_host_wait(worlds, kind):
    world = worlds["isotropic"]
    share = world.mask * 0.5
    criterion = {
        "threshold": lambda: stopping.ThresholdStoppingCriterion(share, 0.2),
        "binary": lambda: stopping.BinaryStoppingCriterion(share),
        "act": lambda: stopping.ActStoppingCriterion(share, share),
        "cmc": lambda: stopping.CmcStoppingCriterion(share, share, 1.0, 3.0),
    }[kind]()
    slots = slots_of(
        TorchSlots, world.seeds, criterion, world.affine, features=world.features
    )
    to_meta(slots)
    slots.model = SimpleNamespace(
        propagate=lambda seen, direction, state, inputs: (inputs[:, 2:5], state)
    )
    with torch.no_grad(), NothingElsewhere():
        slots._step()
    mask = slots.phase == 0
    for waits in (
        slots._harvest,
        lambda: slots.position[mask],
        lambda: slots.n_points.max().item(),
        lambda: slots.position + torch.ones(3),
    ):
        with pytest.raises((RuntimeError, NotImplementedError)), NothingElsewhere():
            waits()


def test_settings_of_torch_do_not_change(worlds, newton):
    world, before = worlds["isotropic"], torch.backends.cudnn.enabled
    run(TorchSlots, *world.tracking, features=world.features, model=newton)
    assert torch.backends.cudnn.enabled == before
    assert torch.is_grad_enabled()


def test_slots_without_a_seed_are_not_busy(worlds, newton):
    world = worlds["isotropic"]
    slots = slots_of(
        TorchSlots,
        np.empty((0, 3)),
        world.criterion,
        world.affine,
        features=world.features,
        model=newton,
    )
    assert not slots.busy
    assert slots.advance(10) == []
