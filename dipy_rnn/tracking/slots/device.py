"""Slots on a device of torch, which may be a GPU.

Volume, hidden states, positions and frames stay on the device. A slot is in one of five
phases: forward half, warm-up pass, backward half, idle (without a streamline), or done
(with a finished streamline). A step consists of operations on whole tensors, with one
row for each slot. All operations are computed for every slot, in any phase. Masks
select the slots whose values change.

The host does not wait for single steps. Therefore a step does not index by a mask, and
does not read a number from a tensor. After every ``_STEPS_PER_HARVEST`` steps there is
a *harvest*: the host looks for finished slots, copies their streamlines in one
transfer, and gives the slots the next seeds.
"""

import math

import numpy as np
import torch
from torch import Tensor

from dipy_rnn import spatial
from dipy_rnn._typing import ArrayLike, IntArray
from dipy_rnn.draws.draws_torch import add_errors
from dipy_rnn.model import ROWS_IN_A_BLOCK
from dipy_rnn.sampling import cone_of, with_order
from dipy_rnn.sampling.interpolate_torch import (
    TorchCone,
    TorchContext,
    TorchRotation,
    TorchVolume,
)
from dipy_rnn.spatial.frames_torch import transport, unit
from dipy_rnn.stopping import StoppingCriterion, StopReason
from dipy_rnn.stopping.criteria_torch import criterion_on
from dipy_rnn.tracking.config import TrackingConfig
from dipy_rnn.tracking.predictor import Predictor
from dipy_rnn.tracking.records import FinishedStreamlines
from dipy_rnn.tracking.seed_queue import SeedQueue

# The phases of a slot. Idle slots wait for a seed, done ones for the next harvest.
_FORWARD, _WARM_UP, _BACKWARD, _IDLE, _DONE = range(5)

# Steps between two harvests. A finished slot waits for half of them on average.
_STEPS_PER_HARVEST = 16
# Initial room for the points of a slot.
_FIRST_CAPACITY = 256
# When no seeds are left, idle slots are dropped if a smaller share than this is busy.
_LEAST_BUSY = 0.75


class TorchSlots:
    """A group of slots on the device of the model.

    Parameters
    ----------
    predictor : dipy_rnn.tracking.predictor.Predictor
    criterion : dipy_rnn.stopping.StoppingCriterion
        The criteria of ``dipy_rnn.stopping`` are evaluated on the device. For any
        other criterion the points are copied to the host at each step, which is slow.
    queue : SeedQueue
    config : TrackingConfig
    n_slots : int
        Number of slots: streamlines that advance together.

    Notes
    -----
    Torch must not round products of float32 matrices to TF32. By default it does not.
    Do not change this by ``torch.set_float32_matmul_precision``.

    Examples
    --------
    >>> from dipy_rnn import fodf_features
    >>> from dipy_rnn.model import load_model
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.stopping import BinaryStoppingCriterion
    >>> phantom = crossing_phantom(90)
    >>> features = fodf_features(phantom.fodf())
    >>> predictor = Predictor(features, load_model(), np.eye(3), 1)
    >>> slots = TorchSlots(
    ...     predictor,
    ...     BinaryStoppingCriterion(phantom.mask()),
    ...     SeedQueue(predictor, np.array([[11.5, 11.5, 5.5]]), np.eye(4)),
    ...     TrackingConfig.of(np.eye(4), step_size=1, max_angle=60, max_points=100),
    ...     n_slots=8)
    >>> while slots.busy:
    ...     for block in slots.advance(100):
    ...         print(block.index)
    [0]
    """

    # The tensors with one row for each slot. (The hidden state has slots on its second
    # axis.)
    _PER_SLOT = (
        "index",
        "seed_key",
        "phase",
        "position",
        "frame",
        "far_frame",
        "points",
        "n_points",
        "n_forward",
        "warm_up_left",
        "forward_stop",
        "backward_stop",
    )

    index: Tensor
    seed_key: Tensor
    n_points: Tensor
    n_forward: Tensor
    warm_up_left: Tensor
    forward_stop: Tensor
    backward_stop: Tensor

    def __init__(
        self,
        predictor: Predictor,
        criterion: StoppingCriterion,
        queue: SeedQueue,
        config: TrackingConfig,
        *,
        n_slots: int,
    ) -> None:
        self.model = predictor.model
        self.device = device = torch.device(self.model.device)
        self.queue = queue
        self.config = config
        self.n_slots = n_slots
        self.normalise = predictor.normalise
        self.handedness = predictor.handedness
        metadata = self.model.metadata
        data = predictor.data
        if metadata.kind == "sh":
            data = with_order(data, metadata.order)
        self.volume = TorchVolume(data, device)
        self.context: TorchContext | None = None
        if metadata.context is not None:
            self.context = TorchContext(
                metadata.context,
                data,
                config.edge_vox,
                self.handedness,
                device,
            )
        self.cone: TorchCone | None = None
        if predictor.seeks_ahead:
            self.cone = TorchCone(cone_of(metadata.order, config.cone_deg), device)
        self.rotation: TorchRotation | None = None
        self.in_frame = predictor.in_frame
        if self.in_frame or predictor.seeks_ahead:
            self.rotation = TorchRotation(metadata.order, self.handedness, device)
        self.criterion = criterion_on(device, criterion)

        def constant(values: ArrayLike, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        self.conditions = predictor.conditions(config)
        self.has_cone = predictor.has_cone
        self.errors = predictor.errors(config)
        self.ends = predictor.ends(config)
        self.input_names = metadata.inputs
        self.step_vox = constant(config.step_vox)
        self.reverse = constant([[1.0], [-1.0], [-1.0]])  # spatial.frames.reverse
        self.ahead = constant([0.0, 0.0, 1.0], torch.float32)

        n = n_slots + -n_slots % ROWS_IN_A_BLOCK
        self.rows = torch.arange(n, device=device)
        self.phase = torch.full((n,), _IDLE, device=device)
        for name in (
            "index",
            "seed_key",
            "n_points",
            "n_forward",
            "warm_up_left",
            "forward_stop",
            "backward_stop",
        ):
            setattr(self, name, torch.zeros_like(self.phase))
        self.position = torch.zeros(n, 3, dtype=torch.float64, device=device)
        self.frame = torch.eye(3, dtype=torch.float64, device=device).repeat(n, 1, 1)
        # The frame at the point where the warm-up pass begins.
        self.far_frame = self.frame.clone()
        # The points of a streamline: the seed, the forward half, the backward half.
        self.points = self.position.new_empty(
            n, min(_FIRST_CAPACITY, config.max_points + 2), 3
        )
        self.state = self.model.init_state(n)
        self._longest = 1
        self._n_busy = 0
        self._refill(np.arange(n, dtype=np.int64))

    @property
    def busy(self) -> bool:
        """Whether any slot holds a streamline."""
        return self._n_busy > 0

    @property
    def first_start(self) -> int:
        """The smallest index of the starts in the slots. Not called if none is busy."""
        return int(self.index[self.phase < _IDLE].min())

    def advance(self, n_steps: int) -> list[FinishedStreamlines]:
        """Advance all slots, and give new seeds to those that finish.

        Parameters
        ----------
        n_steps : int
            Largest number of steps. There are fewer if all slots become idle.

        Returns
        -------
        blocks : list of FinishedStreamlines
            Those that finished, in any order.
        """
        blocks: list[FinishedStreamlines] = []
        with torch.no_grad():
            while n_steps > 0 and self.busy:
                n = min(n_steps, _STEPS_PER_HARVEST)
                self._reserve(n)
                for _ in range(n):
                    self._step()
                n_steps -= n
                blocks += self._harvest()
        return blocks

    # Operations on the device. None of them makes the host wait.

    def _step(self) -> None:
        """Advance every slot by one point."""
        forward, backward = self.phase == _FORWARD, self.phase == _BACKWARD
        warm_up = self.phase == _WARM_UP
        free = forward | backward
        n_half = self.n_points - (self.n_forward - 1) * backward
        number = torch.where(backward, -n_half, n_half)
        tangents, reasons = self._next_directions(number)

        before = self.points[self.rows, (self.warm_up_left - 1).clamp(min=0)]
        back = unit((before - self.position) / self.step_vox)
        tangents = torch.where(warm_up[:, None], back, tangents)
        full = free & (n_half >= self.config.max_half_points)
        reasons = reasons.masked_fill(full, StopReason.MAX_LENGTH)

        position = self.position + tangents * self.step_vox
        going = free & (reasons == StopReason.RUNNING)
        decided = self.criterion(position, going, self.seed_key, number)
        reasons = torch.where(going, decided, reasons)

        # Streamlines that continue get the new point, and a frame there.
        grown = free & (reasons == StopReason.RUNNING)
        moved = transport(self.frame, tangents, self.handedness)
        self.frame = torch.where((grown | warm_up)[:, None, None], moved, self.frame)
        self.position = torch.where(warm_up[:, None], before, self.position)
        self.position = torch.where(grown[:, None], position, self.position)
        self.warm_up_left = self.warm_up_left - warm_up.long()
        warmed_up = warm_up & (self.warm_up_left == 0)
        self.phase = self.phase.masked_fill(warmed_up, _BACKWARD)
        # In slots that get no point, this place is beyond the end of the streamline.
        self.points[self.rows, self.n_points] = self.position
        self.n_points = self.n_points + grown
        near = forward & (self.n_points - 1 <= self.config.warm_up_points)
        self.far_frame = torch.where(near[:, None, None], self.frame, self.far_frame)

        over = grown & (self.n_points > self.config.max_points)
        reasons = reasons.masked_fill(over, StopReason.MAX_LENGTH)
        stopped = free & (reasons != StopReason.RUNNING)
        forward_end = stopped & forward
        self.forward_stop = torch.where(forward_end, reasons, self.forward_stop)
        self.n_forward = torch.where(forward_end, self.n_points, self.n_forward)
        done = stopped & (backward | over)
        if self.config.unidirectional:
            done = stopped
        self.backward_stop = torch.where(done, reasons, self.backward_stop)
        self.phase = self.phase.masked_fill(done, _DONE)
        self._turn_back(forward_end & ~done)

    def _next_directions(self, number: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit tangents (n, 3), and why a slot cannot take a step (n,).

        ``number`` (n,) is that of the next point, for draws at random. Tangents have
        components along the voxel axes. A reason is RUNNING if the step is possible.
        """
        features, inside = self.volume.sample(self.position)
        power = torch.linalg.vector_norm(features, dim=1, dtype=torch.float64)
        no_data = power == 0
        if self.normalise and self.context is None:
            scale = (1.0 / power).masked_fill(no_data, 0.0)
            features = features * scale.float()[:, None]
        incoming = self.frame[:, 2]
        in_frames = features
        if self.rotation is not None:
            in_frames = self.rotation(features, self.frame)
        nothing_ahead = torch.zeros_like(inside)
        ahead: Tensor | None = None
        if self.cone is not None:
            ahead, found = self.cone.largest(in_frames, self.config.pmf_threshold)
            nothing_ahead = ~found
        if self.in_frame:
            features = in_frames
            direction = self.ahead.expand(len(features), 3)
        else:
            direction = incoming.float()
            if ahead is not None:
                ahead = self._along_axes(ahead).float()
        if self.context is not None:
            features = self.context.join(features, self.position, self.frame)
        answer, self.state = self.model.propagate(
            features, direction, self.state, self._inputs(ahead)
        )
        if self.errors:
            answer = add_errors(self.errors, answer, self.seed_key, number)
        believed = [
            (answer[:, column] > threshold, reason)
            for column, threshold, reason in reversed(self.ends)
        ]
        answer = answer[:, :3].double()
        if self.in_frame:
            answer = self._along_axes(answer)

        length = torch.linalg.vector_norm(answer, dim=1)
        finite = torch.isfinite(length)
        found = finite & (length > 0)
        tangents = torch.where(found[:, None], answer / length[:, None], incoming)
        sharp = torch.zeros_like(found)
        if self.has_cone:
            tangents = self._bend(tangents)
        else:
            cosine = (tangents * incoming).sum(dim=1)
            sharp = cosine < self.config.min_cosine
        # Later rows override earlier ones.
        reasons = torch.zeros_like(self.phase)
        for holds, reason in (
            *believed,
            (sharp, StopReason.NOTHING_AHEAD),
            (finite & ~found, StopReason.NO_DIRECTION),
            (~finite, StopReason.NOT_FINITE),
            (nothing_ahead, StopReason.NOTHING_AHEAD),
            (no_data, StopReason.NO_DATA),
            (~inside, StopReason.OUTSIDE_IMAGE),
        ):
            reasons = reasons.masked_fill(holds, reason)
        return tangents, reasons

    def _along_axes(self, directions: Tensor) -> Tensor:
        """Return directions (n, 3) of the moving frames along the voxel axes."""
        return (directions[:, :, None] * self.frame).sum(dim=1)

    def _inputs(self, ahead: Tensor | None) -> Tensor | None:
        """Return the declared inputs (n, W) of the model. None in format 1."""
        names = self.input_names
        if names is None:
            return None
        n = len(self.phase)
        columns = [self.position.new_empty(n, 0, dtype=torch.float32)]
        for name in names:
            if name == "ahead":
                assert ahead is not None
                columns.append(ahead)
            else:
                columns.append(columns[0].new_full((n, 1), self.conditions[name]))
        return torch.cat(columns, dim=1)

    def _bend(self, tangents: Tensor) -> Tensor:
        """Move tangents outside the cone to its border, as ``reference.bend``."""
        axis = self.frame[:, 2]
        along = (tangents * axis).sum(dim=1, keepdim=True)
        across = tangents - along * axis
        length = torch.linalg.vector_norm(across, dim=1, keepdim=True)
        angle = math.radians(self.config.cone_deg)
        cosine, sine = math.cos(angle), math.sin(angle)
        moved = cosine * axis + sine * across / length
        moved = torch.where(length > 0, moved, axis)
        return torch.where(along < cosine, moved, tangents)

    def _turn_back(self, turned: Tensor) -> None:
        """Start the warm-up pass of the slots in a mask (n,).

        The slot goes to the first point of the pass, with the reversed frame of this
        point and a fresh hidden state. If there is no such point, the backward half
        starts.
        """
        first = (self.n_forward - 1).clamp(min=0, max=self.config.warm_up_points)
        self.frame = torch.where(
            turned[:, None, None], self.far_frame * self.reverse, self.frame
        )
        self.position = torch.where(
            turned[:, None], self.points[self.rows, first], self.position
        )
        self.warm_up_left = torch.where(turned, first, self.warm_up_left)
        self.phase = self.phase.masked_fill(turned & (first > 0), _WARM_UP)
        self.phase = self.phase.masked_fill(turned & (first == 0), _BACKWARD)
        self.state = self.state.masked_fill(turned[:, None], 0.0)

    # Exchange between the device and the host.

    def _reserve(self, n_steps: int) -> None:
        """Make room for the points of ``n_steps`` steps, and for one unused point."""
        n, capacity, _ = self.points.shape
        most = self.config.max_points + 2
        needed = min(self._longest + n_steps + 1, most)
        if needed > capacity:
            capacity = min(max(needed, 2 * capacity), most)
            points = self.points.new_empty(n, capacity, 3)
            points[:, : self.points.shape[1]] = self.points
            self.points = points

    def _harvest(self) -> list[FinishedStreamlines]:
        """Copy finished streamlines to the host, and refill their slots."""
        table = torch.stack([self.phase, self.n_points]).int().cpu().numpy()
        phase, n_points = table
        self._longest = int(n_points[phase < _IDLE].max(initial=1))
        done = np.flatnonzero(phase == _DONE)
        if not len(done):
            return []
        finished = self._collect(done)
        self.phase = self.phase.masked_fill(self.phase == _DONE, _IDLE)
        self._n_busy -= len(done)
        self._refill(np.flatnonzero(phase >= _IDLE))
        return [finished]

    def _collect(self, done: IntArray) -> FinishedStreamlines:
        """Copy the streamlines of finished slots to the host."""
        rows = torch.from_numpy(done).to(self.device)
        table = torch.stack(
            [
                column[rows]
                for column in (
                    self.index,
                    self.n_points,
                    self.n_forward,
                    self.forward_stop,
                    self.backward_stop,
                )
            ]
        )
        index, n_points, n_forward, forward_stop, backward_stop = table.cpu().numpy()
        # For each point: its slot, its place in the streamline, and its column in the
        # slot. A slot holds the forward half first.
        total = int(n_points.sum())
        line = torch.arange(len(rows), device=self.device)
        line = torch.repeat_interleave(line, table[1], output_size=total)
        starts = (table[1].cumsum(0) - table[1])[line]
        place = torch.arange(total, device=self.device) - starts
        n_there, n_backward = table[1][line], (table[1] - table[2])[line]
        column = torch.where(
            place < n_backward, n_there - 1 - place, place - n_backward
        )
        points_vox = self.points[rows[line], column].cpu().numpy()
        return FinishedStreamlines(
            index,
            n_points,
            n_forward,
            spatial.to_mm(points_vox, self.config.affine),
            forward_stop,
            backward_stop,
        )

    def _refill(self, idle: IntArray) -> None:
        """Give the next seeds to idle slots. If no seed is left, drop idle slots."""
        wanted = min(self.n_slots - self._n_busy, len(idle))
        index, seeds_vox, first_frames, keys = self.queue.take(wanted)
        n = len(index)
        if n:
            rows = torch.from_numpy(idle[:n]).to(self.device)
            for name, values in (
                ("index", index),
                ("seed_key", keys.view(np.int64)),
                ("position", seeds_vox),
                ("frame", first_frames),
                ("far_frame", first_frames),
            ):
                getattr(self, name)[rows] = torch.tensor(values, device=self.device)
            self.points[rows, 0] = self.position[rows]
            self.n_points[rows] = 1
            self.phase[rows] = _FORWARD
            self.state[:, rows] = 0.0
            self._n_busy += n
        if n < wanted:
            self._compact(idle[n:])

    def _compact(self, idle: IntArray) -> None:
        """Drop idle slots if many are idle. Keep some, to fill a block of rows."""
        n = len(self.phase)
        if self._n_busy >= _LEAST_BUSY * n:
            return
        busy = np.setdiff1d(np.arange(n), idle)
        kept = np.concatenate([busy, idle[: -len(busy) % ROWS_IN_A_BLOCK]])
        rows = torch.from_numpy(kept).to(self.device)
        for name in self._PER_SLOT:
            setattr(self, name, getattr(self, name)[rows])
        self.state = self.state[:, rows]
        self.rows = torch.arange(len(kept), device=self.device)
