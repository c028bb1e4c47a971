"""Let a network track worlds, and compare it with the bundles that it follows."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dipy_rnn import sampling, spatial
from dipy_rnn._typing import (
    AnyArray,
    BoolArray,
    Float32Array,
    FloatArray,
    IntArray,
)
from dipy_rnn.model import ContextGRU
from dipy_rnn.phantom.fibre_fields import FibreFields
from dipy_rnn.phantom.geometry import dot, unit
from dipy_rnn.sampling import Cone, Context, cone_of, into_cone
from dipy_rnn.spatial import frames as moving
from dipy_rnn.training.free_running.world import KnownWorld, KnownWorlds

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


class Streamlines:
    """Streamlines that a network tracks in some worlds.

    They are in groups of equal size. The streamlines of a group are in one world, under
    the same conditions (:meth:`enter`). One that is over is replaced by a new start.

    Parameters
    ----------
    worlds : KnownWorlds
    module : dipy_rnn.model.ContextGRU
        It gives the fresh states, and the order of the fODF.
    n_groups, n_each : int
        Number of groups, and of streamlines in each.
    rng : numpy.random.Generator

    Examples
    --------
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> phantom = crossing_phantom(90)
    >>> data = sampling.with_order(sampling.fodf_features(phantom.fodf()).data, 8)
    >>> world = KnownWorld.of_phantom(phantom, data, 50, random_seed=0)
    >>> rng = np.random.default_rng(0)
    >>> streamlines = Streamlines(KnownWorlds([world]), ContextGRU(), 2, 8, rng)
    >>> for group in range(2):
    ...     streamlines.enter(group, 0, Conditions(0.5, 60.0))
    >>> streamlines.points.shape
    (16, 3)
    """

    def __init__(
        self,
        worlds: KnownWorlds,
        module: ContextGRU,
        n_groups: int,
        n_each: int,
        rng: np.random.Generator,
    ) -> None:
        n = n_groups * n_each
        self.worlds = worlds
        self.context = module.context
        self.order = module.order
        self.rng = rng
        self.rows = [slice(i * n_each, (i + 1) * n_each) for i in range(n_groups)]
        # Of each group.
        self.world: list[KnownWorld] = [worlds.worlds[0]] * n_groups
        self.cones: list[Cone] = [cone_of(module.order, 90.0)] * n_groups
        # Of each streamline: number of its world, step and cone, grid of its world.
        self.number: IntArray = np.zeros(n, dtype=np.int64)
        self.run: FloatArray = np.zeros((n, 2))
        self.cosine_sine: FloatArray = np.zeros((2, n))
        self.step_mm: FloatArray = np.zeros((n, 1))
        self.origin_mm: FloatArray = np.zeros((n, 3))
        self.voxel_mm: FloatArray = np.zeros((n, 3))
        self.edge_vox: FloatArray = np.zeros((n, 1, 3))
        # Its place and frame, its bundle, and the direction along it.
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
        self.disturbance = _Disturbance(n, rng)

    def enter(self, group: int, number: int, conditions: Conditions) -> None:
        """Replace the streamlines of a group by new ones in a world.

        Parameters
        ----------
        group : int
        number : int
            Number of the world.
        conditions : Conditions
        """
        rows, world = self.rows[group], self.worlds.worlds[number]
        cone = cone_of(self.order, conditions.max_angle_deg)
        self.world[group], self.cones[group] = world, cone
        edge_mm = spatial.voxel_edge(world.affine)
        self.number[rows] = number
        self.run[rows] = conditions.step_vox, conditions.max_angle_deg
        self.cosine_sine[:, rows] = [[cone.cosine], [cone.sine]]
        self.step_mm[rows] = conditions.step_vox * edge_mm
        # The voxel axes are those of RAS.
        self.origin_mm[rows] = world.affine[:3, 3]
        self.voxel_mm[rows] = np.diag(world.affine)[:3]
        self.edge_vox[rows] = edge_mm / self.voxel_mm[rows, None]
        self.disturbance.begin(rows, conditions.step_vox)
        over = np.zeros(len(self.points), dtype=bool)
        over[rows] = True
        self.start(over)

    def start(self, over: BoolArray) -> None:
        """Give new starts to some streamlines."""
        worlds, n = self.worlds, np.count_nonzero(over)
        numbers = self.number[over]
        drawn = self.rng.integers(
            worlds.first_start[numbers], worlds.first_start[numbers + 1]
        )
        flip = self.rng.choice([-1.0, 1.0], n)
        error = np.deg2rad(self.rng.uniform(*_START_DEG, n))
        first = worlds.directions[drawn] * flip[:, None]
        first = unit(first + error[:, None] * self.rng.normal(size=first.shape))
        self.points[over] = worlds.starts_mm[drawn]
        self.frames[over] = moving.from_tangents(first, np.eye(3))
        self.bundle[over] = worlds.bundle_ids[drawn]
        self.sign[over] = worlds.signs[drawn] * flip
        self.beyond[:, over] = 0.0
        self.state = self.state * torch.from_numpy(~over)[None, :, None]

    def see(self) -> tuple[Float32Array, FloatArray]:
        """Return the features of the network at each point, and its inputs."""
        here = (self.points - self.origin_mm) / self.voxel_mm
        own = self._sampled(here, self.frames)
        features = own
        if self.context is not None:
            features = sampling.join_context(own, self._around(self.context, here, own))
        self.found = np.asarray(features.any(axis=1))
        ahead = np.concatenate(
            [
                cone.largest(own[rows], 0.0)[0]
                for cone, rows in zip(self.cones, self.rows, strict=True)
            ]
        )
        return features, np.column_stack([self.run, ahead])

    def _around(
        self, context: Context, here: FloatArray, own: Float32Array
    ) -> Float32Array:
        """Return the coefficients at the places around each point."""
        offsets, rolled = sampling.context_places(context, self.frames, own)
        places = here[:, None] + offsets * self.edge_vox
        around = self._sampled(places)[..., : context.n_coeffs]
        return sampling.rotate(
            around.reshape(-1, context.n_coeffs), rolled.reshape(-1, 3, 3)
        ).reshape(around.shape)

    def _sampled(
        self, places_vox: FloatArray, frames: FloatArray | None = None
    ) -> Float32Array:
        """Return coefficients (n, .., C) at places (n, .., 3), each in its world.

        Without a context, they are normalised.
        """
        parts = [
            sampling.sample(
                world.data,
                places_vox[rows].reshape(-1, 3),
                None if frames is None else frames[rows],
                normalise=self.context is None,
            )[0]
            for world, rows in zip(self.world, self.rows, strict=True)
        ]
        return np.concatenate(parts).reshape(*places_vox.shape[:-1], -1)

    def truth(self) -> tuple[FloatArray, BoolArray, BoolArray]:
        """Return the step along each bundle in the frames, if it ended, or was left.

        Returns
        -------
        targets : ndarray of shape (n, 3)
        ended, lost : ndarray of shape (n,), bool
        """
        fields = self.worlds.fields
        along, occupancy, share = fields.at(self.bundle, self.points)
        along *= self.sign[:, None]
        # A step is a chord of the bundle's curve. Its direction is that of the bundle
        # half a step ahead, so steps of any size follow the same curve.
        ahead = self.points + self.step_mm / 2 * along
        direction, dense, _ = fields.at(self.bundle, ahead)
        direction *= self.sign[:, None]
        along = np.where(dense[:, None] > _LOST, direction, along)
        rim = np.flatnonzero((occupancy > 0) & (occupancy < _RIM))
        along[rim] = _led_back(
            fields, self.bundle[rim], self.points[rim], along[rim], occupancy[rim]
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
        self.move(self.disturbance(directions, spread))
        self.beyond = np.where([lost, ended], self.beyond + self.run[:, 0], 0.0)
        over = (self.beyond > _BEYOND).any(axis=0) | ~found | ~self._in_tissue()
        if over.any():
            self.start(over)
        return [targets, ~ended & ~lost & found, ended, lost, found]

    def _in_tissue(self) -> BoolArray:
        parts = [
            world.tissue_at(self.points[rows])
            for world, rows in zip(self.world, self.rows, strict=True)
        ]
        return np.asarray(np.concatenate(parts) > _LEAST_TISSUE)

    def move(self, directions: FloatArray) -> None:
        """Take a step along unit directions in the moving frames."""
        directions = into_cone(directions, *self.cosine_sine)
        tangents = unit(moving.to_axes(directions, self.frames))
        self.frames = moving.transport(self.frames, tangents)
        self.points = self.points + self.step_mm * tangents


def follow(module: ContextGRU, streamlines: Streamlines, n_points: int) -> Followed:
    """Let a network track streamlines for a number of steps.

    Parameters
    ----------
    module : dipy_rnn.model.ContextGRU
    streamlines : Streamlines
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
    >>> streamlines = Streamlines(KnownWorlds([world]), module, 1, 8, rng)
    >>> streamlines.enter(0, 0, Conditions(0.5, 60.0))
    >>> followed = follow(module, streamlines, 4)
    >>> followed.directions.shape, bool(followed.with_data.all())
    (torch.Size([32, 3]), True)
    """
    outputs: list[tuple[Tensor, Tensor]] = []
    known: list[list[AnyArray]] = []
    for _ in range(n_points):
        features, inputs = (
            torch.from_numpy(part.astype(np.float32)) for part in streamlines.see()
        )
        direction, beliefs, streamlines.state = module.believe(
            features, streamlines.state, inputs
        )
        outputs.append((direction, beliefs))
        known.append(
            streamlines.advance(
                direction.detach().double().numpy(), beliefs.detach()[:, 0].numpy()
            )
        )
    streamlines.state = streamlines.state.detach()
    directions, beliefs = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    targets, *flags = (np.concatenate(parts) for parts in zip(*known, strict=True))
    return Followed(
        directions,
        beliefs,
        torch.from_numpy(targets.astype(np.float32)),
        *(torch.from_numpy(flag) for flag in flags),
    )


class _Disturbance:
    """Errors of the directions taken by n streamlines, which last for some edges."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self.kept: FloatArray = np.zeros((n, 1))
        self.error: FloatArray = np.zeros((n, 2))
        self.drawn: BoolArray = np.zeros(n, dtype=bool)
        self.spread: FloatArray = np.zeros(n)

    def begin(self, rows: slice, step_vox: float) -> None:
        """Draw new errors for some streamlines."""
        n = rows.stop - rows.start
        self.kept[rows] = np.exp(-step_vox / _CORRELATED)
        self.error[rows] = self.rng.normal(size=(n, 2))
        self.drawn[rows] = self.rng.random(n) < _P_DRAWN
        self.spread[rows] = np.deg2rad(self.rng.uniform(0, _ERROR_DEG, n))

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
    fields: FibreFields,
    ids: IntArray,
    points: FloatArray,
    along: FloatArray,
    occupancy: FloatArray,
) -> FloatArray:
    """Bend directions at the rim of a bundle towards where it is dense."""
    aside = _NEAR_CELLS * fields.edges_mm[ids, None] * np.eye(3)[:, None]
    rise = fields.at(np.tile(ids, 3), (points + aside).reshape(-1, 3)).occupancy
    uphill = unit((rise.reshape(3, -1) - occupancy).T)
    uphill -= dot(uphill, along)[:, None] * along
    slope = _BACK * (_RIM - occupancy) / _RIM
    return unit(along + slope[:, None] * uphill)
