"""The slots of torch, on CPU tensors: the same streamlines as the compiled ones."""

from functools import partial
from types import SimpleNamespace

from dipy.tracking import stopping_criterion as dipy_criteria
import numpy as np
import numpy.testing as npt
import pytest
from stubs import StepCounter, save_stub
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from worlds import OBLIQUE_ROTATION, NoisyWorld, affine_of, everywhere

from dipy_rnn import sampling, spatial, stopping
from dipy_rnn.tracking.slots_torch import TorchSlots
from dipy_rnn.sampling.interpolate_torch import TorchRotation, TorchVolume
from dipy_rnn.stopping.criteria_torch import _draw, _mix, criterion_on
from dipy_rnn.tracking.seed_queue import SeedQueue
from dipy_rnn.tracking.slots_compiled import CompiledSlots
from dipy_rnn.model import untrained
from dipy_rnn.model import ModelMetadata, load_model, save_model
from dipy_rnn.model import Predictor
from dipy_rnn.stopping import StopReason
from dipy_rnn.tracking import track

CPU = torch.device("cpu")
GRIDS = {
    "isotropic": None,
    "oblique-anisotropic": affine_of((2.0, 3.0, 4.0), OBLIQUE_ROTATION),
    "left-handed": affine_of((3.0, 2.0, 3.0), np.diag([-1.0, 1.0, 1.0])),
}
NETWORKS = {
    "moving-frame": ("moving_frame", "local"),
    "voxel-frame": ("cai2023", "voxel"),
    "rolling": ("cai2023", "local"),  # unlike moving_frame it sees the frame's roll
}
# What an untrained one answers hardly depends on what it sees, and turns a lot. In its
# own frame it winds up, and differences of rounding grow.
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
    step_mm=1.0,
    max_angle=60.0,
    n_ahead=1000,
    device=None,
    **options,
):
    """Make slots of a kind for seeds in mm."""
    propagator = Predictor(
        features, load_model(model, device=device), spatial.axes(affine), max_angle, 1
    )
    if directions is not None:
        directions = np.array(directions, dtype=float)
    seeds_vox = spatial.to_voxels(seeds, affine)
    return kind(
        propagator,
        criterion,
        SeedQueue(propagator, seeds_vox, np.eye(4), directions, n_ahead=n_ahead),
        step_vox=step_mm / spatial.voxel_sizes(affine),
        to_mm=affine,
        **{"n_slots": 64, "max_points": 500, "max_half": 500} | options,
    )


def run(slots, n_steps=100):
    """Let slots run dry; return (number, points, n_forward, both stops) by number."""
    records = []
    while slots.busy:
        finished = slots.advance(n_steps)
        lines = np.split(finished.points_mm, np.cumsum(finished.n_points)[:-1])
        assert len(finished.points_mm) == finished.n_points.sum()
        records += zip(
            finished.index,
            lines,
            finished.n_forward,
            finished.forward_stop,
            finished.backward_stop,
        )
    return sorted(records, key=lambda record: record[0])


def share_same(records, others, limit_mm=0.01):
    """Return the share of streamlines with the same ends and points."""
    assert [record[0] for record in records] == [other[0] for other in others]
    assert records
    return np.mean(
        [
            ours[2:] == theirs[2:]
            and len(ours[1]) == len(theirs[1])
            and np.abs(ours[1] - theirs[1]).max() <= limit_mm
            for ours, theirs in zip(records, others)
        ]
    )


def both(*arguments, n_steps=100, **options):
    """Run both kinds of slots; return the records of DeviceSlots, then of Slots."""
    return tuple(
        run(slots_of(kind, *arguments, **options), n_steps)
        for kind in (TorchSlots, CompiledSlots)
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
            "sh", 45, frame, network.layers, 16, (4, 8), normalisation="power"
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
        step_mm=0.7,
        **{"max_points": 100} | OPTIONS.get(model, {}),
    )
    assert len(ours) == len(world.seeds)
    assert share_same(ours, theirs) >= 0.99


def test_streamlines_are_those_of_the_door(worlds):
    world = worlds["oblique-anisotropic"]
    expected = track(
        *world.tracking, features=world.features, step_size=1.0, nbr_threads=1
    )
    ours = run(slots_of(TorchSlots, *world.tracking, features=world.features))
    for record, line in zip(ours, expected, strict=True):
        npt.assert_allclose(record[1], line.points_mm, atol=0.01)
        assert record[3:] == (line.forward_stop, line.backward_stop)


@pytest.mark.parametrize("model", ["default", "moving-frame"])
def test_data_of_a_lower_order_are_padded(worlds, networks, model):
    world = worlds["isotropic"]
    features = sampling.FeatureVolume(sampling.with_order(world.features.data, 4), "sh")
    ours, theirs = both(*world.tracking, features=features, model=networks[model])
    assert share_same(ours, theirs) >= 0.99


def test_any_features_are_followed(follower):
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
        step_mm=0.25,
        max_points=160,
        max_angle=120.0,
    )
    assert len({record[3] for record in theirs}) >= 3  # reasons
    assert share_same(ours, theirs, 1e-4) >= 0.99


@pytest.mark.parametrize("kind", ["threshold", "act", "cmc", "dipys-own"])
def test_criteria_end_streamlines_as_on_the_host(worlds, newton, kind):
    world = worlds["oblique-anisotropic"]
    white = world.mask * np.random.default_rng(2).uniform(0.6, 1.0, world.mask.shape)
    grey, fluid = (1 - white) * 0.7, (1 - white) * 0.6
    criterion = {
        "threshold": lambda: stopping.ThresholdStoppingCriterion(white, 0.4),
        "act": lambda: stopping.ActStoppingCriterion(grey, fluid),
        "cmc": lambda: stopping.CmcStoppingCriterion(grey / 3, fluid / 3, 1.0, 3.0),
        "dipys-own": lambda: dipy_criteria.ThresholdStoppingCriterion(white, 0.4),
    }[kind]()
    arguments = world.seeds, criterion, world.affine
    options = {"features": world.features, "model": newton}
    ours, theirs = both(*arguments, random_seed=5, **options)
    assert share_same(ours, theirs) >= 0.99
    other = run(slots_of(TorchSlots, *arguments, random_seed=6, **options))
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
    ours = run(slots_of(TorchSlots, *arguments, device="cuda", **options))
    assert share_same(ours, run(slots_of(CompiledSlots, *arguments, **options))) >= 0.95


# Decisions of criteria


def hard_points(shape, n=4000):
    points = np.random.default_rng(1).uniform(-1.5, np.array(shape) + 0.5, (n, 3))
    # Ties of rounding and the very borders, too.
    points[::2] = np.round(2 * points[::2]) / 2
    return points


@pytest.mark.parametrize("kind", ["threshold", "binary", "act", "cmc", "two-grids"])
@pytest.mark.parametrize("with_nan", [False, True])
def test_criteria_decide_as_on_the_host(kind, with_nan):
    shape, rng = (5, 6, 4), np.random.default_rng(0)
    one, two = np.round(rng.random((2, *shape)) * 8) / 16  # sums without rounding
    if with_nan:
        one[2, 2, 2] = two[3, 3, 1] = np.nan
    criterion = {
        "threshold": lambda: stopping.ThresholdStoppingCriterion(one, 0.25),
        "binary": lambda: stopping.BinaryStoppingCriterion(one > 0.2),
        "act": lambda: stopping.ActStoppingCriterion(2 * one, 2 * two),
        "cmc": lambda: stopping.CmcStoppingCriterion(one, two, 0.5, 1.0),
        "two-grids": lambda: stopping.ActStoppingCriterion(2 * one, 2 * two[:4]),
    }[kind]()
    points = hard_points(shape)
    keys = rng.integers(2**64, size=len(points), dtype=np.uint64)
    numbers = rng.integers(-300, 300, len(points))
    expected = np.zeros(len(points), dtype=np.int64)
    stopping.evaluate_criterion(criterion, points, expected, keys, numbers)
    reasons = criterion_on(CPU, criterion)(
        torch.from_numpy(points),
        torch.ones(len(points), dtype=torch.bool),
        torch.from_numpy(keys.view(np.int64)),
        torch.from_numpy(numbers),
    )
    npt.assert_array_equal(reasons, expected)
    assert len(set(expected)) >= 3


def test_a_criterion_of_somebody_else_is_asked_where_it_is_needed_alone():
    class Mine(stopping.BinaryStoppingCriterion):
        def check_point(self, point):
            assert point[0] > 0
            return dipy_criteria.StreamlineStatus.INVALIDPOINT

    check = criterion_on(CPU, Mine(np.ones((3, 3, 3))))
    numbers = torch.zeros(2, dtype=torch.int64)
    points = torch.tensor([[-1.0, 0, 0], [1.0, 0, 0]], dtype=torch.float64)
    reasons = check(points, torch.tensor([False, True]), numbers, numbers)
    assert reasons[1] == StopReason.INVALID_POINT


def test_int64_draws_the_bits_of_splitmix64():
    # The first numbers that Vigna's splitmix64.c makes of the seed 1234567.
    state, golden = 1234567, 0x9E3779B97F4A7C15
    states = [(state + golden * i) % 2**64 for i in (1, 2, 3)]
    states = torch.from_numpy(np.array(states, dtype=np.uint64).view(np.int64))
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert _mix(states).numpy().view(np.uint64).tolist() == expected
    assert _draw(states).tolist() == [(bits >> 11) * 2.0**-53 for bits in expected]


# What a slot sees


def test_a_volume_is_sampled_as_by_the_kernel():
    values = np.random.default_rng(0).normal(size=(5, 1, 4, 15)).astype(np.float32)
    points = hard_points(values.shape[:3])
    expected, inside = sampling.sample(values, points)
    sampled, found = TorchVolume(values, CPU).sample(torch.from_numpy(points))
    npt.assert_array_equal(found, inside)
    npt.assert_allclose(sampled, expected, atol=1e-6)
    assert not sampled[~found].any()


@pytest.mark.parametrize("order", [2, 4, 8, 16])
@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_harmonics_are_rotated_as_by_the_kernel(
    random_frames, cube_rotations, order, handedness
):
    given = np.concatenate(
        [random_frames(200, handedness), cube_rotations * handedness]
    )
    n_coeffs = (order + 1) * (order + 2) // 2
    coeffs = np.random.default_rng(0).normal(size=(len(given), n_coeffs))
    coeffs = coeffs.astype(np.float32)
    expected = sampling.rotate(coeffs, given, handedness=handedness)
    rotated = TorchRotation(order, handedness, CPU)(
        torch.from_numpy(coeffs), torch.from_numpy(given)
    )
    npt.assert_allclose(rotated, expected, atol=2e-5)


# Limits


@pytest.mark.parametrize("max_points", [1, 7, 25, 40])
def test_a_streamline_with_too_many_points_ends_at_once(worlds, newton, max_points):
    world = worlds["isotropic"]
    ours, theirs = both(
        *world.tracking,
        features=world.features,
        model=newton,
        max_points=max_points,
        n_steps=7,
    )
    assert share_same(ours, theirs) >= 0.99
    over = [record for record in ours if len(record[1]) > max_points]
    assert over
    assert all(len(record[1]) == max_points + 1 for record in over)
    assert all(record[4] == StopReason.MAX_LENGTH for record in over)


@pytest.mark.parametrize("max_half", [2, 9, 30])
def test_a_half_ends_where_it_is_full(worlds, newton, max_half):
    world = worlds["isotropic"]
    ours, theirs = both(
        *world.tracking, features=world.features, model=newton, max_half=max_half
    )
    assert share_same(ours, theirs) >= 0.99
    full = [record for record in ours if record[2] == max_half]
    assert full
    assert all(record[3] == StopReason.MAX_LENGTH for record in full)
    assert all(len(record[1]) < 2 * max_half for record in ours)


@pytest.mark.parametrize("replay_points", [0, 1, 5, 2**70])
@pytest.mark.parametrize("model", ["voxel-frame", "rolling"])
def test_the_replay_begins_a_given_way_off(worlds, networks, model, replay_points):
    world, options = worlds["oblique-anisotropic"], OPTIONS[model] | {"max_points": 50}
    model = load_model(networks[model])
    object.__setattr__(model.metadata, "replay_points", replay_points)
    ours, theirs = both(
        *world.tracking,
        features=world.features,
        model=model,
        max_half=14,
        **options,
    )
    assert share_same(ours, theirs) == 1


def test_the_backward_half_can_be_left_out(worlds, newton):
    world = worlds["isotropic"]
    ours, theirs = both(
        *world.tracking, features=world.features, model=newton, unidirectional=True
    )
    assert share_same(ours, theirs) == 1
    assert all(len(record[1]) == record[2] for record in ours)


def test_the_backward_half_goes_on_with_the_state_the_replay_leaves(counter):
    # As in test_tracking.py: 9 points shown, 4 steps forward, 4 points replayed.
    limit, n_forward = 9, 4
    mask = np.zeros((40, 3, 3))
    mask[: 20 + n_forward + 1] = 1
    slots = slots_of(
        TorchSlots,
        [[20.0, 1.0, 1.0]],
        stopping.BinaryStoppingCriterion(mask),
        np.eye(4),
        features=sampling.raw_features(np.full((40, 3, 3, 3), float(limit))),
        directions=[[1.0, 0.0, 0.0]],
        model=counter,
    )
    ((_, line, _, forward_stop, backward_stop),) = run(slots)
    npt.assert_allclose(line[:, 0], np.arange(20 - (limit - n_forward), 25))
    assert forward_stop == StopReason.ENDPOINT
    assert backward_stop == StopReason.NO_DIRECTION


def test_each_reason_to_stop_is_told(follower):
    field = np.zeros((9, 3, 3, 3))
    field[:, :, :, 0] = 1.0
    field[7:] = 0.0
    ours, theirs = both(
        [[4.0, 1, 1], [4.0, 1, 1], [-0.5, 1, 1], [8.49, 1, 1], [4.0, 2.49, 1]],
        everywhere((9, 3, 3)),
        np.eye(4),
        features=sampling.raw_features(field),
        directions=[[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0], [0.1, 0, 0]],
        model=follower,
    )
    assert share_same(ours, theirs, 0) == 1
    assert [StopReason(record[3]).name for record in ours] == [
        "NO_DATA",
        "SHARP_TURN",
        "NO_DATA",
        "NO_DATA",
        "NO_DATA",
    ]


def test_nan_from_a_model_stops_and_never_becomes_a_point(tmp_path):
    class TurnsToNan(StepCounter):
        def forward(
            self,
            features: torch.Tensor,
            direction: torch.Tensor,
            state: torch.Tensor,
        ) -> tuple[torch.Tensor, torch.Tensor]:
            bad = state[0, :, :1] >= features[:, :1]
            nan = torch.full_like(direction, float("nan"))
            # The state is lost for good, unless it is made anew.
            return torch.where(bad, nan, direction), torch.where(
                bad.unsqueeze(0), nan[:, :1].unsqueeze(0), state + 1.0
            )

    slots = slots_of(
        TorchSlots,
        [[10.0, 1, 1]] * 5,
        everywhere((20, 3, 3)),
        np.eye(4),
        features=sampling.raw_features(np.full((20, 3, 3, 3), 5.0)),
        directions=[[1.0, 0, 0]] * 5,
        model=save_stub(TurnsToNan(), tmp_path / "nan.pt"),
        n_slots=1,
    )
    for _, line, _, forward_stop, backward_stop in run(slots):
        # 5 steps forward; 5 points replayed, and then none is left.
        npt.assert_array_equal(line[:, 0], np.arange(10, 16))
        assert forward_stop == backward_stop == StopReason.NOT_FINITE


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
def test_streamlines_do_not_depend_on_slots_steps_or_portions(worlds, newton, options):
    world = worlds["isotropic"]
    arguments = world.seeds[:12], world.criterion, world.affine
    given = {"features": world.features, "model": newton}
    expected = run(slots_of(TorchSlots, *arguments, **given))
    assert len(expected) == 12
    n_steps = options.pop("n_steps")
    slots = slots_of(TorchSlots, *arguments, **given, **options)
    assert share_same(run(slots, n_steps), expected) == 1


def test_no_more_slots_are_busy_than_wanted(worlds, newton):
    world = worlds["isotropic"]
    slots = slots_of(
        TorchSlots,
        *world.tracking,
        features=world.features,
        model=newton,
        n_slots=5,
    )
    handed_over = 0
    while slots.busy:
        assert (slots.phase < 3).sum() <= 5
        assert len(slots.phase) % 32 == 0
        handed_over += len(slots.advance(3).index)
    assert handed_over == len(world.seeds)


def test_long_streamlines_find_room(follower):
    n = 1200
    field = np.zeros((n, 1, 1, 3))
    field[..., 0] = np.sign(np.arange(n) - n // 2 + 0.5)[:, None, None]
    slots = slots_of(
        TorchSlots,
        [[n // 2, 0, 0], [n // 2 - 1, 0, 0], [n - 2, 0, 0], [4, 0, 0]],
        everywhere((n, 1, 1)),
        np.eye(4),
        features=sampling.raw_features(field),
        directions=[[1.0, 0, 0], [-1, 0, 0], [1, 0, 0], [-1, 0, 0]],
        model=follower,
        max_points=10**4,
        max_half=10**4,
    )
    records = run(slots)
    ends = [record[1][[0, -1], 0].tolist() for record in records]
    assert ends == [[600, 1199], [599, 0], [1198, 1199], [4, 0]]
    for record in records:
        npt.assert_allclose(np.abs(np.diff(record[1][:, 0])), 1.0)


# What it takes to be fast


def to_meta(thing):
    """Move tensors to the device where there are no numbers, only shapes."""
    if isinstance(thing, torch.Tensor):
        return thing.to("meta")
    if isinstance(thing, list):
        return [to_meta(each) for each in thing]
    if isinstance(thing, partial):
        return partial(thing.func, *map(to_meta, thing.args))
    if isinstance(thing, (TorchSlots, TorchRotation, TorchVolume)):
        for name, value in vars(thing).items():
            setattr(thing, name, to_meta(value))
    return thing


class NothingElsewhere(TorchDispatchMode):
    """Refuses tensors that are not there."""

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
    slots.model = SimpleNamespace(propagate=lambda seen, _, state: (seen[:, :3], state))
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


def test_torch_is_left_as_it_was(worlds, newton):
    world, before = worlds["isotropic"], torch.backends.cudnn.enabled
    run(slots_of(TorchSlots, *world.tracking, features=world.features, model=newton))
    assert torch.backends.cudnn.enabled == before
    assert torch.is_grad_enabled()


def test_without_seeds_there_is_nothing_to_do(worlds, newton):
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
    assert slots.advance(10).points_mm.shape == (0, 3)
