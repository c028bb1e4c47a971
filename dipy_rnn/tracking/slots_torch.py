"""The slots of the batched engine on a device of torch's, which may be a GPU.

Volume, hidden states, positions and frames stay on the device. A step is arithmetic
on whole tensors, the same for every slot whatever phase it is in, and what does not
concern a slot is masked out. The host never waits for a step: it looks every few of
them (a *harvest*) for slots that are done, fetches their streamlines in one piece and
gives the slots the next seeds.

So that nothing in a step makes the host wait, there is no indexing by a mask and no
number read from a tensor in there.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from dipy_rnn import interpolate, sh, spaces, stopping
from dipy_rnn._typing import AnyArray, ArrayLike, FloatArray, IntArray
from dipy_rnn.engine import Collected, Finished, SeedQueue
from dipy_rnn.model_file import ROWS_IN_A_BLOCK
from dipy_rnn.propagator import Propagator
from dipy_rnn.stopping import StoppingCriterion, StopReason

# A criterion on the device: points (n, 3), which of them are to be asked, seed keys and
# numbers of the points (n,) -> reasons (n,).
_Criterion: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

# In the last two a slot waits: for a seed, or for its streamline to be fetched.
_FORWARD, _REPLAY, _BACKWARD, _IDLE, _DONE = range(5)

# A slot that is done waits for half as many steps; the host waits once in as many.
_STEPS_PER_HARVEST = 16
# Points that a slot has room for at first.
_FIRST_CAPACITY = 256
# Idle slots are dropped, once no seeds are left, when fewer than this share are busy.
_LEAST_BUSY = 0.75


class DeviceSlots:
    """A group of slots on the device of the model: :class:`dipy_rnn.engine.Slots`.

    Parameters
    ----------
    propagator : dipy_rnn.propagator.Propagator
    criterion : dipy_rnn.stopping.StoppingCriterion
        Those of :mod:`dipy_rnn.stopping` are asked on the device. For any other the
        points come to the host at each step, which is slow.
    queue : dipy_rnn.engine.SeedQueue
    step_vox, to_mm, max_points, max_half, n_slots, unidirectional, random_seed
        See :class:`dipy_rnn.engine.Slots`.

    Notes
    -----
    Products of float32 matrices must not be rounded to TF32: torch does not, unless
    it was told to (``torch.set_float32_matmul_precision``).

    Examples
    --------
    >>> from dipy_rnn.engine import SeedQueue
    >>> from dipy_rnn.model_file import load_model
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.propagator import Propagator
    >>> phantom = crossing_phantom(90)
    >>> propagator = Propagator(
    ...     sh.fodf_features(phantom.fodf()), load_model(), np.eye(3), 60, 1)
    >>> slots = DeviceSlots(
    ...     propagator,
    ...     stopping.BinaryStoppingCriterion(phantom.mask()),
    ...     SeedQueue(propagator, np.array([[11.5, 11.5, 5.5]]), np.eye(4)),
    ...     step_vox=np.ones(3), to_mm=phantom.affine, max_points=100, max_half=100,
    ...     n_slots=8)
    >>> while slots.busy:
    ...     for number in slots.advance(100).index:
    ...         print(number)
    0
    """

    # What there is of a slot, but the hidden state, whose rows are its second axis.
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
        "replayed",
        "forward_stop",
        "backward_stop",
    )

    index: Tensor
    seed_key: Tensor
    n_points: Tensor
    n_forward: Tensor
    replayed: Tensor
    forward_stop: Tensor
    backward_stop: Tensor

    def __init__(
        self,
        propagator: Propagator,
        criterion: StoppingCriterion,
        queue: SeedQueue,
        *,
        step_vox: FloatArray,
        to_mm: FloatArray,
        max_points: int,
        max_half: int,
        n_slots: int,
        unidirectional: bool = False,
        random_seed: int = 0,
    ) -> None:
        self.model = propagator.model
        self.device = device = self.model.device
        self.queue = queue
        self.to_mm = to_mm
        self.max_points = max_points
        self.max_half = max_half
        self.n_slots = n_slots
        self.unidirectional = unidirectional
        self.random_seed = random_seed
        metadata = self.model.metadata
        replay_points = metadata.replay_points
        self.replay_points = (
            max_half if replay_points is None else min(replay_points, max_half)
        )
        self.normalise = propagator.normalise
        self.handedness = propagator.handedness
        self.min_cosine = propagator.min_cosine
        data = propagator.data
        if metadata.kind == "sh":
            data = sh.with_order(data, metadata.order)
        self.volume = _Volume(data, device)
        self.rotation: _Rotation | None = None
        if propagator.in_frame:
            self.rotation = _Rotation(metadata.order, self.handedness, device)
        self.criterion = _criterion_on(device, criterion)

        def constant(values: ArrayLike, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        self.step_vox = constant(step_vox)
        self.round = constant([[1.0], [-1.0], [-1.0]])  # frames.turned_round
        self.ahead = constant([0.0, 0.0, 1.0], torch.float32)

        n = n_slots + -n_slots % ROWS_IN_A_BLOCK
        self.rows = torch.arange(n, device=device)
        self.phase = torch.full((n,), _IDLE, device=device)
        for name in (
            "index",
            "seed_key",
            "n_points",
            "n_forward",
            "replayed",
            "forward_stop",
            "backward_stop",
        ):
            setattr(self, name, torch.zeros_like(self.phase))
        self.position = torch.zeros(n, 3, dtype=torch.float64, device=device)
        self.frame = torch.eye(3, dtype=torch.float64, device=device).repeat(n, 1, 1)
        # The frame at the point of the forward half where the replay begins.
        self.far_frame = self.frame.clone()
        # A streamline's points: the seed, its forward half, then its backward half.
        self.points = self.position.new_empty(
            n, min(_FIRST_CAPACITY, max_points + 2), 3
        )
        self.state = self.model.init_state(n)
        self._longest = 1
        self._n_busy = 0
        self._refill(np.arange(n, dtype=np.int64))

    @property
    def busy(self) -> bool:
        """Whether there is anything left to do."""
        return self._n_busy > 0

    def advance(self, n_steps: int) -> Finished:
        """Advance every slot, and give those that are done the next seeds.

        Parameters
        ----------
        n_steps : int
            By at most so many steps.

        Returns
        -------
        finished : Finished
        """
        parts: list[Collected] = []
        with torch.no_grad():
            while n_steps > 0 and self.busy:
                n = min(n_steps, _STEPS_PER_HARVEST)
                self._reserve(n)
                for _ in range(n):
                    self._step()
                n_steps -= n
                parts += self._harvest()
        return Finished.of(parts)

    # On the device: nothing in these makes the host wait.

    def _step(self) -> None:
        """Advance every slot by one point."""
        tangents, reasons = self._turn()
        forward, backward = self.phase == _FORWARD, self.phase == _BACKWARD
        replay = self.phase == _REPLAY
        free = forward | backward

        before = self.points[self.rows, (self.replayed - 1).clamp(min=0)]
        back = _unit((before - self.position) / self.step_vox)
        tangents = torch.where(replay[:, None], back, tangents)
        n_half = self.n_points - (self.n_forward - 1) * backward
        full = free & (n_half >= self.max_half)
        reasons = reasons.masked_fill(full, StopReason.MAX_LENGTH)

        position = self.position + tangents * self.step_vox
        going = free & (reasons == StopReason.RUNNING)
        number = torch.where(backward, -n_half, n_half)
        asked = self.criterion(position, going, self.seed_key, number)
        reasons = torch.where(going, asked, reasons)

        # Those that go on: a frame at the new point, and the point itself.
        grown = free & (reasons == StopReason.RUNNING)
        moved = _transport(self.frame, tangents, self.handedness)
        self.frame = torch.where((grown | replay)[:, None, None], moved, self.frame)
        self.position = torch.where(replay[:, None], before, self.position)
        self.position = torch.where(grown[:, None], position, self.position)
        self.replayed = self.replayed - replay.long()
        self.phase = self.phase.masked_fill(replay & (self.replayed == 0), _BACKWARD)
        # In a slot that has not grown it lies beyond the end, and counts for nothing.
        self.points[self.rows, self.n_points] = self.position
        self.n_points = self.n_points + grown
        near = forward & (self.n_points - 1 <= self.replay_points)
        self.far_frame = torch.where(near[:, None, None], self.frame, self.far_frame)

        over = grown & (self.n_points > self.max_points)
        reasons = reasons.masked_fill(over, StopReason.MAX_LENGTH)
        stopped = free & (reasons != StopReason.RUNNING)
        forward_end = stopped & forward
        self.forward_stop = torch.where(forward_end, reasons, self.forward_stop)
        self.n_forward = torch.where(forward_end, self.n_points, self.n_forward)
        done = stopped & (backward | over)
        if self.unidirectional:
            done = stopped
        self.backward_stop = torch.where(done, reasons, self.backward_stop)
        self.phase = self.phase.masked_fill(done, _DONE)
        self._turn_back(forward_end & ~done)

    def _turn(self) -> tuple[Tensor, Tensor]:
        """As :meth:`dipy_rnn.propagator.Propagator.turn`, but the state is kept."""
        features, inside = self.volume.sample(self.position)
        power = torch.linalg.vector_norm(features, dim=1, dtype=torch.float64)
        no_data = power == 0
        if self.normalise:
            scale = (1.0 / power).masked_fill(no_data, 0.0)
            features = features * scale.float()[:, None]
        incoming = self.frame[:, 2]
        if self.rotation is None:
            direction = incoming.float()
        else:
            features = self.rotation(features, self.frame)
            direction = self.ahead.expand(len(features), 3)
        answer, self.state = self.model.propagate(features, direction, self.state)
        answer = answer.double()
        if self.rotation is not None:
            answer = (answer[:, :, None] * self.frame).sum(dim=1)

        length = torch.linalg.vector_norm(answer, dim=1)
        finite = torch.isfinite(length)
        found = finite & (length > 0)
        tangents = torch.where(found[:, None], answer / length[:, None], incoming)
        cosine = (tangents * incoming).sum(dim=1)
        # The first that is true, from the last line up.
        reasons = torch.zeros_like(self.phase)
        for holds, reason in (
            (cosine < self.min_cosine, StopReason.SHARP_TURN),
            (finite & ~found, StopReason.NO_DIRECTION),
            (~finite, StopReason.NOT_FINITE),
            (no_data, StopReason.NO_DATA),
            (~inside, StopReason.OUTSIDE_IMAGE),
        ):
            reasons = reasons.masked_fill(holds, reason)
        return tangents, reasons

    def _turn_back(self, turned: Tensor) -> None:
        """From the forward half to the replay of it, with a fresh state."""
        first = (self.n_forward - 1).clamp(min=0, max=self.replay_points)
        self.frame = torch.where(
            turned[:, None, None], self.far_frame * self.round, self.frame
        )
        self.position = torch.where(
            turned[:, None], self.points[self.rows, first], self.position
        )
        self.replayed = torch.where(turned, first, self.replayed)
        self.phase = self.phase.masked_fill(turned & (first > 0), _REPLAY)
        self.phase = self.phase.masked_fill(turned & (first == 0), _BACKWARD)
        self.state = self.state.masked_fill(turned[:, None], 0.0)

    # Between the device and the host.

    def _reserve(self, n_steps: int) -> None:
        """Make room for as many points, and one that counts for nothing."""
        n, capacity, _ = self.points.shape
        needed = min(self._longest + n_steps + 1, self.max_points + 2)
        if needed > capacity:
            capacity = min(max(needed, 2 * capacity), self.max_points + 2)
            points = self.points.new_empty(n, capacity, 3)
            points[:, : self.points.shape[1]] = self.points
            self.points = points

    def _harvest(self) -> list[Collected]:
        """Fetch the streamlines that are done, and refill their slots."""
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

    def _collect(self, done: IntArray) -> Collected:
        """Fetch the streamlines in some slots."""
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
        # For each point its slot, and its place in the streamline, from which follows
        # its place in the slot: there the forward half comes first.
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
        return (
            index,
            n_points,
            n_forward,
            spaces.to_mm(points_vox, self.to_mm),
            forward_stop,
            backward_stop,
        )

    def _refill(self, idle: IntArray) -> None:
        """Give the next seeds to idle slots; drop some when no seed is left."""
        wanted = min(self.n_slots - self._n_busy, len(idle))
        index, seeds_vox, first_frames = self.queue.take(wanted)
        n = len(index)
        if n:
            keys = stopping.seed_keys(self.random_seed, seeds_vox)
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
        """Drop idle slots if they are many."""
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


class _Volume:
    """A volume on the device; :mod:`dipy_rnn.interpolate` draws its border rule."""

    def __init__(self, values: AnyArray, device: torch.device) -> None:
        _, ny, nz, _ = values.shape
        self.size = torch.tensor(values.shape[:3], dtype=torch.float64, device=device)
        self.stride = torch.tensor([ny * nz, nz, 1], device=device)
        self.values = torch.tensor(values, device=device).flatten(0, 2)

    def sample(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return values (n, C), zeros outside, and which points are inside (n,)."""
        inside = ((points >= -0.5) & (points < self.size - 0.5)).all(dim=1)
        low = points.floor()
        part = points - low
        # Both ends of the cell on every axis, and their weights: (n, 2, 3).
        ends = torch.stack([low, low + 1.0], dim=1).masked_fill(
            ~inside[:, None, None], 0
        )
        ends = ends.clamp(min=0).minimum(self.size - 1).long() * self.stride
        weights = torch.stack([1.0 - part, part], dim=1)
        weights = weights * inside[:, None, None]
        x, y, z = ends.unbind(2)
        corners = x[:, :, None, None] + y[:, None, :, None] + z[:, None, None, :]
        x, y, z = weights.unbind(2)
        weights = x[:, :, None, None] * y[:, None, :, None] * z[:, None, None, :]
        # A weighted sum of rows of a table is what it calls an embedding.
        values = embedding_bag(
            corners.flatten(1),
            self.values,
            per_sample_weights=weights.flatten(1).to(self.values.dtype),
            mode="sum",
        )
        return values, inside

    def nearest(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return values (n, C) of the nearest voxels, and which points are inside."""
        voxel = points.round()  # halves to even
        inside = ((voxel >= 0) & (voxel < self.size)).all(dim=1)
        voxel = voxel.masked_fill(~inside[:, None], 0).long()
        return self.values[(voxel * self.stride).sum(dim=1)], inside


class _Rotation:
    """Rotation of spherical harmonics into frames: Z X Z X Z, as in ``_interp.pyx``.

    The coefficients of +m and -m are the real and the imaginary part of a number,
    which a turn about z multiplies by exp(-i m angle). A quarter turn about x is a
    product with a matrix.
    """

    def __init__(self, order: int, handedness: float, device: torch.device) -> None:
        pairs = [
            (ell * (ell + 1) // 2, m)
            for ell in range(0, order + 1, 2)
            for m in range(ell + 1)
        ]
        centre, m = np.array(pairs).T
        # Where m is 0 the imaginary part is a copy; the matrices drop it.
        parts = np.column_stack([centre + m, centre - m]).ravel()
        is_copy = np.column_stack([m < 0, m == 0]).ravel()
        tables = interpolate.quarter_turns(order)
        n_coeffs = (order + 1) * (order + 2) // 2
        self.turns_about_x: list[Tensor] = []
        for starts, columns, values in (tables[:3], tables[3:]):
            matrix = np.zeros((n_coeffs, n_coeffs), np.float32)
            matrix[np.repeat(np.arange(n_coeffs), np.diff(starts)), columns] = values
            matrix = matrix[parts][:, parts] * ~is_copy
            self.turns_about_x.append(torch.tensor(matrix.T.copy(), device=device))
        self.order = order
        self.handedness = handedness
        self.m = torch.tensor(m, device=device)
        self.parts = torch.tensor(parts, device=device)
        # The first place of each coefficient among the parts: never a copy.
        self.back = torch.tensor(np.unique(parts, return_index=True)[1], device=device)

    def __call__(self, coeffs: Tensor, frame: Tensor) -> Tensor:
        """Return coefficients (n, C) in their frames (n, 3, 3)."""
        about_z = self._turns_about_z(frame)
        down, up = self.turns_about_x
        turned = _as_complex(coeffs.index_select(1, self.parts)) * about_z[0]
        turned = _as_complex(_as_real(turned) @ down) * about_z[1]
        turned = _as_complex(_as_real(turned) @ up) * about_z[2]
        return _as_real(turned).index_select(1, self.back)

    def _turns_about_z(self, frame: Tensor) -> Tensor:
        """Return exp(-i m angle) for the three turns: (3, n, pairs of +m and -m)."""
        e1, e3 = self.handedness * frame[:, 0], self.handedness * frame[:, 2]
        across = torch.hypot(e3[:, 0], e3[:, 1])
        along_z = across == 0
        cos_a = (e3[:, 0] / across).masked_fill(along_z, self.handedness)
        sin_a = (e3[:, 1] / across).masked_fill(along_z, 0.0)
        cos_b, sin_b = e3[:, 2], across
        # e1 turned back by a, then by b, lies in the x-y plane at the angle c.
        cos_c = cos_b * (cos_a * e1[:, 0] + sin_a * e1[:, 1]) - sin_b * e1[:, 2]
        sin_c = cos_a * e1[:, 1] - sin_a * e1[:, 0]
        cosine = torch.stack([cos_a, cos_b, cos_c])
        sine = torch.stack([sin_a, sin_b, sin_c])
        length = torch.hypot(cosine, sine)
        turns = torch.complex(cosine / length, -sine / length)
        powers = turns[:, :, None].expand(-1, -1, self.order).cumprod(dim=2)
        powers = torch.cat([torch.ones_like(turns)[:, :, None], powers], dim=2)
        return powers.to(torch.complex64).index_select(2, self.m)


def _as_real(numbers: Tensor) -> Tensor:
    return torch.view_as_real(numbers).flatten(1)


def _as_complex(parts: Tensor) -> Tensor:
    return torch.view_as_complex(torch.unflatten(parts, 1, (-1, 2)))


# Criteria: what each decides by, then the arguments of a _Criterion.


def _criterion_on(device: torch.device, criterion: StoppingCriterion) -> _Criterion:
    """Put a criterion on the device, if it is one that can be."""
    kind, maps, numbers = stopping.taken_apart(criterion)
    if kind is not None and all(each.shape == maps[0].shape for each in maps):
        volume = _Volume(np.stack(maps, axis=3), device)
        return partial(_CHECKS[kind], volume, *numbers)
    return partial(_check_on_host, criterion)


def _check_threshold(
    volume: _Volume,
    threshold: float,
    points: Tensor,
    asked: Tensor,
    seed_keys: Tensor,
    numbers: Tensor,
) -> Tensor:
    value, inside = volume.sample(points)
    ends = ~(value[:, 0] > threshold)  # NaN ends, too
    return ends.long().masked_fill(~inside, StopReason.OUTSIDE_IMAGE)


def _check_binary(
    volume: _Volume, points: Tensor, asked: Tensor, seed_keys: Tensor, numbers: Tensor
) -> Tensor:
    value, inside = volume.nearest(points)
    return (value[:, 0] == 0).long().masked_fill(~inside, StopReason.OUTSIDE_IMAGE)


def _check_act(
    volume: _Volume, points: Tensor, asked: Tensor, seed_keys: Tensor, numbers: Tensor
) -> Tensor:
    shares, inside = volume.sample(points)
    include, exclude = (shares > 0.5).unbind(1)
    reasons = torch.zeros_like(numbers)
    reasons = reasons.masked_fill(exclude, StopReason.INVALID_POINT)
    reasons = reasons.masked_fill(include, StopReason.ENDPOINT)
    return reasons.masked_fill(~inside, StopReason.OUTSIDE_IMAGE)


def _check_cmc(
    volume: _Volume,
    exponent: float,
    points: Tensor,
    asked: Tensor,
    seed_keys: Tensor,
    numbers: Tensor,
) -> Tensor:
    shares, inside = volume.sample(points)
    include, exclude = shares.unbind(1)
    tissue = include + exclude
    rest = (1.0 - include - exclude).clamp(min=0)
    state = _mix(seed_keys + _GOLDEN * numbers)
    first, second = _draw(state + _GOLDEN), _draw(state + _GOLDEN + _GOLDEN)
    # Chances that are NaN are never met: such a point is invalid.
    goes_on = (tissue <= 0) | (first < (rest / (rest + include + exclude)) ** exponent)
    reasons = torch.full_like(numbers, StopReason.INVALID_POINT)
    reasons = reasons.masked_fill(second < include / tissue, StopReason.ENDPOINT)
    reasons = reasons.masked_fill(goes_on, StopReason.RUNNING)
    return reasons.masked_fill(~inside, StopReason.OUTSIDE_IMAGE)


def _check_on_host(
    criterion: StoppingCriterion,
    points: Tensor,
    asked: Tensor,
    seed_keys: Tensor,
    numbers: Tensor,
) -> Tensor:
    reasons = (~asked).long().cpu().numpy()
    stopping.check_points(
        criterion,
        points.cpu().numpy(),
        reasons,
        seed_keys.cpu().numpy().view(np.uint64),
        numbers.cpu().numpy(),
    )
    return torch.from_numpy(reasons).to(points.device)


_CHECKS: dict[type[StoppingCriterion], Callable[..., Tensor]] = {
    stopping.ThresholdStoppingCriterion: _check_threshold,
    stopping.BinaryStoppingCriterion: _check_binary,
    stopping.ActStoppingCriterion: _check_act,
    stopping.CmcStoppingCriterion: _check_cmc,
}

# SplitMix64 as in _stopping.pyx. torch has no arithmetic of uint64; that of int64 wraps
# round and gives the same bits.


def _signed(bits: int) -> int:
    """Return the int64 of the same 64 bits."""
    return (bits + 2**63) % 2**64 - 2**63


_GOLDEN = _signed(0x9E3779B97F4A7C15)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shift(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shift(bits, 27)) * _signed(0x94D049BB133111EB)
    return bits ^ _shift(bits, 31)


def _draw(state: Tensor) -> Tensor:
    return _shift(_mix(state), 11).double() * 2.0**-53


def _shift(bits: Tensor, n: int) -> Tensor:
    """Shift to the right, zeros coming in."""
    return (bits >> n) & ((1 << (64 - n)) - 1)


# Frames, as in frames.py.


def _transport(frame: Tensor, tangents: Tensor, handedness: float) -> Tensor:
    e1, _, e3 = frame.unbind(1)
    closeness = (1.0 + _dot(e3, tangents)).clamp(min=1e-9)
    e1 = e1 - _dot(e1, tangents) / closeness * (e3 + tangents)
    e1 = _unit(e1 - _dot(e1, tangents) * tangents)
    e2 = handedness * torch.linalg.cross(tangents, e1)
    return torch.stack([e1, e2, tangents], dim=1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=1, keepdim=True)


def _unit(vectors: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / length
