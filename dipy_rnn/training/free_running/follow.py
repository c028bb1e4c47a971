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
    """

    step_vox: float
    max_angle_deg: float


@dataclass(frozen=True)
class Followed:
    """Outputs of a network at N points, and what it should have returned.

    Parameters
    ----------
    directions : torch.Tensor of shape (N, 3)
    beliefs : torch.Tensor of shape (N, 3)
        As :meth:`dipy_rnn.model.ContextGRU.believe`.
    targets : torch.Tensor of shape (N, 3)
        Directions of steps along the bundles, in the moving frames.
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


class Group:
    """Streamlines in one world, which a network tracks under the same conditions.

    Parameters
    ----------
    world : KnownWorld
    conditions : Conditions
    n : int
        Number of streamlines. One that is over is replaced by a new start.
    module : dipy_rnn.model.ContextGRU
        It gives the fresh states, and the order of the fODF.
    rng : numpy.random.Generator

    Examples
    --------
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> phantom = crossing_phantom(90)
    >>> data = sampling.with_order(sampling.fodf_features(phantom.fodf()).data, 8)
    >>> world = KnownWorld.of_phantom(phantom, data, 50, random_seed=0)
    >>> rng = np.random.default_rng(0)
    >>> Group(world, Conditions(0.5, 60.0), 8, ContextGRU(), rng).points.shape
    (8, 3)
    """

    def __init__(
        self,
        world: KnownWorld,
        conditions: Conditions,
        n: int,
        module: ContextGRU,
        rng: np.random.Generator,
    ) -> None:
        self.world = world
        self.step = conditions.step_vox
        self.context = module.context
        self.cone = cone_of(module.order, conditions.max_angle_deg)
        self.rng = rng
        edge_mm = spatial.voxel_edge(world.affine)
        self.step_mm = self.step * edge_mm
        self.edge_vox = edge_mm / spatial.voxel_sizes(world.affine)
        self.run = np.array([self.step, conditions.max_angle_deg])
        self.points: FloatArray = np.zeros((n, 3))
        self.frames: FloatArray = np.zeros((n, 3, 3))
        self.bundle: IntArray = np.zeros(n, dtype=np.int64)
        self.sign: FloatArray = np.zeros(n)
        #: Hidden states of the network.
        self.state = module.init_state(n)
        # Whether there is an fODF. Distances since a streamline was lost, or its bundle
        # ended.
        self.found: BoolArray = np.ones(n, dtype=bool)
        self.beyond: FloatArray = np.zeros((2, n))
        self.disturb = _Disturbance(n, self.step, rng)
        self.start(np.ones(n, dtype=bool))

    def start(self, over: BoolArray) -> None:
        """Give new starts to some streamlines."""
        world, n = self.world, np.count_nonzero(over)
        drawn = self.rng.integers(len(world.starts_mm), size=n)
        flip = self.rng.choice([-1.0, 1.0], n)
        error = np.deg2rad(self.rng.uniform(*_START_DEG, n))
        first = world.directions[drawn] * flip[:, None]
        first = unit(first + error[:, None] * self.rng.normal(size=first.shape))
        self.points[over] = world.starts_mm[drawn]
        self.frames[over] = moving.from_tangents(first, np.eye(3))
        self.bundle[over] = world.bundle_ids[drawn]
        self.sign[over] = world.signs[drawn] * flip
        self.beyond[:, over] = 0.0
        self.state = self.state * torch.from_numpy(~over)[None, :, None]

    def see(self) -> tuple[AnyArray, FloatArray]:
        """Return the features of the network at each point, and its inputs."""
        data = self.world.data
        here = spatial.to_voxels(self.points, self.world.affine)
        own, _ = sampling.sample(data, here, self.frames)
        around = sampling.sample_context(
            self.context, data, here, self.frames, self.edge_vox, own
        )
        features = sampling.join_context(own, around)
        self.found = np.asarray(features.any(axis=1))
        ahead, _ = self.cone.largest(own, 0.0)
        run = np.broadcast_to(self.run, (len(own), 2))
        return features, np.column_stack([run, ahead])

    def truth(self) -> tuple[FloatArray, BoolArray, BoolArray]:
        """Return the step along each bundle in the frames, if it ended, or was left.

        Returns
        -------
        targets : ndarray of shape (n, 3)
        ended, lost : ndarray of shape (n,), bool
        """
        along, occupancy, share = self.world.fields.at(self.bundle, self.points)
        along *= self.sign[:, None]
        # A step is a chord of the bundle's curve. Its direction is that of the bundle
        # half a step ahead, so steps of any size follow the same curve.
        ahead = self.points + self.step_mm / 2 * along
        direction, dense, _ = self.world.fields.at(self.bundle, ahead)
        direction *= self.sign[:, None]
        along = np.where(dense[:, None] > _LOST, direction, along)
        rim = np.flatnonzero((occupancy > 0) & (occupancy < _RIM))
        if len(rim):
            along[rim] = _led_back(
                self.world,
                self.bundle[rim],
                self.points[rim],
                along[rim],
                occupancy[rim],
            )
        left = np.where(self.sign > 0, 1 - share, share)
        ended = (left < _WAY_LEFT) & (occupancy > _LOST)
        targets = moving.to_local(along, self.frames)
        lost = (occupancy < _LOST) | (targets[:, 2] < np.cos(np.deg2rad(_LOST_DEG)))
        return targets, ended, lost & ~ended

    def advance(self, directions: FloatArray, spread: FloatArray) -> list[AnyArray]:
        """Take a step along disturbed directions, and replace what is over.

        Parameters
        ----------
        directions : ndarray of shape (n, 3)
            What the network returned: unit vectors in the moving frames.
        spread : ndarray of shape (n,)
            The predicted spread in radians.

        Returns
        -------
        known : list of ndarray
            ``targets``, ``on_bundle``, ``ended``, ``lost`` and ``with_data`` of
            :class:`Followed`, at the points before the step.
        """
        targets, ended, lost = self.truth()
        found = self.found
        self.move(self.disturb(directions, spread))
        self.beyond = np.where([lost, ended], self.beyond + self.step, 0.0)
        over = (self.beyond > _BEYOND).any(axis=0) | ~found
        over |= self.world.tissue_at(self.points) <= _LEAST_TISSUE
        if over.any():
            self.start(over)
        return [targets, ~ended & ~lost & found, ended, lost, found]

    def move(self, directions: FloatArray) -> None:
        """Take a step along unit directions in the moving frames."""
        directions = into_cone(directions, self.cone.cosine, self.cone.sine)
        tangents = unit(moving.to_axes(directions, self.frames))
        self.frames = moving.transport(self.frames, tangents)
        self.points = self.points + self.step_mm * tangents


def follow(module: ContextGRU, groups: Sequence[Group], n_points: int) -> Followed:
    """Let a network track some groups of streamlines for a number of steps.

    Parameters
    ----------
    module : dipy_rnn.model.ContextGRU
    groups : sequence of Group
        They move on. Their states keep no gradients.
    n_points : int
        Number of steps.

    Returns
    -------
    followed : Followed
        With gradients.

    Examples
    --------
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> phantom = crossing_phantom(90)
    >>> data = sampling.with_order(sampling.fodf_features(phantom.fodf()).data, 8)
    >>> world = KnownWorld.of_phantom(phantom, data, 50, random_seed=0)
    >>> module, rng = ContextGRU(), np.random.default_rng(0)
    >>> group = Group(world, Conditions(0.5, 60.0), 8, module, rng)
    >>> followed = follow(module, [group], 4)
    >>> followed.directions.shape, bool(followed.with_data.all())
    (torch.Size([32, 3]), True)
    """
    sizes = [len(group.points) for group in groups]
    state = torch.cat([group.state for group in groups], dim=1)
    outputs: list[tuple[Tensor, Tensor]] = []
    known: list[list[AnyArray]] = []
    for _ in range(n_points):
        seen = zip(*(group.see() for group in groups), strict=True)
        features, inputs = (
            torch.from_numpy(np.concatenate(parts).astype(np.float32)) for parts in seen
        )
        direction, beliefs, state = module.believe(features, state, inputs)
        outputs.append((direction, beliefs))
        for group, answers, believed, part in zip(
            groups,
            torch.split(direction.detach(), sizes),
            torch.split(beliefs.detach(), sizes),
            torch.split(state, sizes, dim=1),
            strict=True,
        ):
            group.state = part
            spread = believed[:, 0].numpy()
            known.append(group.advance(answers.double().numpy(), spread))
        state = torch.cat([group.state for group in groups], dim=1)
    for group in groups:
        group.state = group.state.detach()
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
        taken = directions.copy()
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
