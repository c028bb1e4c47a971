"""Let a network track worlds, and compare it with the bundles that it follows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dipy_rnn import sampling, spatial
from dipy_rnn._typing import AnyArray, BoolArray, FloatArray, IntArray
from dipy_rnn.model import ContextGRU
from dipy_rnn.phantom.geometry import dot, unit
from dipy_rnn.sampling import cone_of, into_cone
from dipy_rnn.spatial import frames as moving
from dipy_rnn.training.free_running.world import KnownWorld

# Occupancy of a bundle below which a streamline has left it, and below which the
# direction to learn leads back to the bundle, at most by the slope.
_LOST, _RIM, _BACK = 0.05, 0.4, 0.5
# Distance over which the slope of the occupancy is measured, in cells of the field.
_NEAR_CELLS = 0.6
# A bundle ends where this share of its way is left.
_WAY_LEFT = 0.04
# Beyond this angle from its bundle a streamline is lost.
_LOST_DEG = 60.0
# It then goes on for this distance in voxel edges, until the slot gets a new start.
_BEYOND = 2.5
# Where it goes out of tissue, it gets a new start at once.
_LEAST_TISSUE = 0.1
# A first direction has an error up to this one.
_START_DEG = (0.5, 6.0)
# So that places beside the bundle are seen, the network is disturbed. A part of the
# streamlines draws directions with the predicted spread times this factor, the others
# have an error up to this angle. Errors are correlated over this many voxel edges.
_P_DRAWN, _OF_SPREAD, _ERROR_DEG, _CORRELATED = 0.4, 0.7, 4.0, 1.0


@dataclass(frozen=True)
class Conditions:
    """Conditions of a run.

    Parameters
    ----------
    step_vox : float
        Step in voxel edges.
    max_angle_deg : float
        Angle of the cone.
    n_points : int
        Number of steps.
    """

    step_vox: float
    max_angle_deg: float
    n_points: int


@dataclass(frozen=True)
class Followed:
    """Outputs of a network at N points, and what it should have returned.

    Parameters
    ----------
    directions : torch.Tensor of shape (N, 3)
    beliefs : torch.Tensor of shape (N, 3)
        As :meth:`dipy_rnn.model.ContextGRU.outputs`.
    targets : torch.Tensor of shape (N, 3)
        Directions of the bundles in the moving frames.
    on_bundle, ended, lost, with_data : torch.Tensor of shape (N,), bool
        Whether the streamline follows its bundle, its bundle has ended, it has left its
        bundle, and there is an fODF at the point.
    """

    directions: Tensor
    beliefs: Tensor
    targets: Tensor
    on_bundle: Tensor
    ended: Tensor
    lost: Tensor
    with_data: Tensor


class _Slots:
    """The streamlines of a batch: some in each of several worlds."""

    def __init__(
        self, worlds: Sequence[KnownWorld], n_each: int, rng: np.random.Generator
    ) -> None:
        self.worlds = worlds
        self.rng = rng
        self.rows = [slice(i * n_each, (i + 1) * n_each) for i in range(len(worlds))]
        n = n_each * len(worlds)
        edges = [spatial.voxel_edge(world.affine) for world in worlds]
        self.edge_mm: FloatArray = np.repeat(edges, n_each)
        self.points: FloatArray = np.zeros((n, 3))
        self.frames: FloatArray = np.zeros((n, 3, 3))
        self.bundle: IntArray = np.zeros(n, dtype=np.int64)
        self.sign: FloatArray = np.zeros(n)
        self.start(np.ones(n, dtype=bool))

    def start(self, over: BoolArray) -> None:
        """Give new starts to some slots."""
        for world, rows in zip(self.worlds, self.rows, strict=True):
            places = rows.start + np.flatnonzero(over[rows])
            drawn = self.rng.integers(len(world.starts_mm), size=len(places))
            flip = self.rng.choice([-1.0, 1.0], len(places))
            error = np.deg2rad(self.rng.uniform(*_START_DEG, len(places)))
            first = world.directions[drawn] * flip[:, None]
            first = unit(first + error[:, None] * self.rng.normal(size=first.shape))
            self.points[places] = world.starts_mm[drawn]
            self.frames[places] = moving.from_tangents(first, np.eye(3))
            self.bundle[places] = world.bundle_ids[drawn]
            self.sign[places] = world.signs[drawn] * flip

    def features(self, context: sampling.Context) -> tuple[FloatArray, FloatArray]:
        """Return the fODF at each point in its frame, and the joined features."""
        own, joined = [], []
        for world, rows in zip(self.worlds, self.rows, strict=True):
            here = spatial.to_voxels(self.points[rows], world.affine)
            frames = self.frames[rows]
            values, _ = sampling.sample(world.data, here, frames)
            edge_vox = self.edge_mm[rows.start] / spatial.voxel_sizes(world.affine)
            around = sampling.sample_context(
                context, world.data, here, frames, edge_vox, values
            )
            own.append(values)
            joined.append(sampling.join_context(values, around))
        return np.concatenate(own), np.concatenate(joined)

    def truth(self) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Return the direction of each bundle, its occupancy, and whether it ended."""
        directions, occupancy, ended = [], [], []
        for world, rows in zip(self.worlds, self.rows, strict=True):
            points, ids = self.points[rows], self.bundle[rows]
            along, occupied, share = world.fields.at(ids, points)
            along *= self.sign[rows, None]
            rim = np.flatnonzero((occupied > 0) & (occupied < _RIM))
            if len(rim):
                along[rim] = _led_back(
                    world, ids[rim], points[rim], along[rim], occupied[rim]
                )
            left = np.where(self.sign[rows] > 0, 1 - share, share)
            directions.append(along)
            occupancy.append(occupied)
            ended.append((left < _WAY_LEFT) & (occupied > _LOST))
        return (
            np.concatenate(directions),
            np.concatenate(occupancy),
            np.concatenate(ended),
        )

    def move(self, directions: FloatArray, step_vox: float) -> None:
        """Take a step along directions in the moving frames."""
        tangents = unit(moving.to_axes(directions, self.frames))
        self.frames = moving.transport(self.frames, tangents)
        self.points = self.points + (step_vox * self.edge_mm)[:, None] * tangents

    def in_tissue(self) -> BoolArray:
        """Tell which streamlines are in tissue."""
        return np.concatenate(
            [
                world.tissue_at(self.points[rows]) > _LEAST_TISSUE
                for world, rows in zip(self.worlds, self.rows, strict=True)
            ]
        )


def follow(
    module: ContextGRU,
    worlds: Sequence[KnownWorld],
    conditions: Conditions,
    n_each: int,
    rng: np.random.Generator,
) -> Followed:
    """Let a network track some worlds for a number of steps, from fresh states.

    Parameters
    ----------
    module : dipy_rnn.model.ContextGRU
    worlds : sequence of KnownWorld
    conditions : Conditions
    n_each : int
        Number of streamlines in each world.
    rng : numpy.random.Generator

    Returns
    -------
    followed : Followed
        With gradients. A streamline that is over is replaced by another one.

    Examples
    --------
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> phantom = crossing_phantom(90)
    >>> data = sampling.with_order(sampling.fodf_features(phantom.fodf()).data, 8)
    >>> world = KnownWorld.of_phantom(phantom, data, 50, random_seed=0)
    >>> followed = follow(ContextGRU(), [world], Conditions(0.5, 60.0, 4), 8,
    ...                   np.random.default_rng(0))
    >>> followed.directions.shape, bool(followed.with_data.all())
    (torch.Size([32, 3]), True)
    """
    slots = _Slots(worlds, n_each, rng)
    n = len(slots.points)
    cone = cone_of(module.order, conditions.max_angle_deg)
    step = conditions.step_vox
    state = module.init_state(n)
    disturb = _Disturbance(n, step, rng)
    # Distances since a streamline was lost, or its bundle ended.
    beyond: FloatArray = np.zeros((2, n))
    outputs: list[tuple[Tensor, ...]] = []
    known: list[tuple[AnyArray, ...]] = []
    for _ in range(conditions.n_points):
        own, features = slots.features(module.context)
        found: BoolArray = np.asarray(features.any(axis=1))
        ahead, _ = cone.largest(own.astype(np.float32), 0.0)
        run = np.broadcast_to([step, conditions.max_angle_deg], (n, 2))
        inputs = np.column_stack([run, ahead]).astype(np.float32)
        direction, beliefs, state = module.outputs(
            torch.from_numpy(features), state, torch.from_numpy(inputs)
        )
        along, occupancy, ended = slots.truth()
        target = moving.to_local(along, slots.frames)
        lost = (occupancy < _LOST) | (target[:, 2] < np.cos(np.deg2rad(_LOST_DEG)))
        lost &= ~ended
        outputs.append((direction, beliefs))
        known.append((target, ~ended & ~lost & found, ended, lost, found))

        taken = disturb(direction.detach().numpy(), beliefs.detach().numpy()[:, 0])
        slots.move(into_cone(taken, cone.cosine, cone.sine).astype(np.float64), step)
        beyond = np.where([lost, ended], beyond + step, 0.0)
        over = (beyond > _BEYOND).any(axis=0) | ~slots.in_tissue() | ~found
        if over.any():
            slots.start(over)
            beyond[:, over] = 0.0
            state = state * torch.from_numpy(~over)[None, :, None]
    directions, beliefs = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    targets, *flags = (np.concatenate(parts) for parts in zip(*known, strict=True))
    return Followed(
        directions,
        beliefs,
        torch.from_numpy(targets.astype(np.float32)),
        *(torch.from_numpy(flag) for flag in flags),
    )


class _Disturbance:
    """Errors of the directions taken, which last for some voxel edges."""

    def __init__(self, n: int, step: float, rng: np.random.Generator) -> None:
        self.rng = rng
        self.kept = np.exp(-step / _CORRELATED)
        self.error = rng.normal(size=(n, 2))
        self.drawn = rng.random(n) < _P_DRAWN
        self.spread = np.deg2rad(rng.uniform(0, _ERROR_DEG, n))

    def __call__(self, directions: FloatArray, spread: FloatArray) -> FloatArray:
        """Return disturbed unit directions (n, 3) in the moving frames."""
        fresh = np.sqrt(1 - self.kept**2)
        self.error = self.kept * self.error
        self.error += fresh * self.rng.normal(size=self.error.shape)
        size = np.where(self.drawn, _OF_SPREAD * spread, self.spread)
        taken = directions.astype(np.float64)
        taken[:, :2] += size[:, None] * self.error
        return unit(taken)


def _led_back(
    world: KnownWorld,
    ids: IntArray,
    points: FloatArray,
    along: FloatArray,
    occupancy: FloatArray,
) -> FloatArray:
    """Bend directions at the rim of a bundle towards where it is dense."""
    near = points + _NEAR_CELLS * world.fields.cell_mm * np.eye(3)[:, None]
    rise = world.fields.at(np.tile(ids, 3), near.reshape(-1, 3)).occupancy
    uphill = unit((rise.reshape(3, -1) - occupancy).T)
    uphill -= dot(uphill, along)[:, None] * along
    slope = _BACK * (_RIM - occupancy) / _RIM
    return unit(along + slope[:, None] * uphill)
