"""A model and the volume it looks at: where many streamlines would go next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from dipy_rnn import _slots, interpolate, peaks, spaces
from dipy_rnn._typing import ByteArray, Float32Array, FloatArray, IntArray

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from dipy_rnn.model_file import Model
    from dipy_rnn.sh import FeatureVolume


class Propagator:
    """A model and the volume it looks at: asks for the next directions of many.

    It holds nothing that belongs to a streamline.

    Parameters
    ----------
    features : dipy_rnn.sh.FeatureVolume
    model : dipy_rnn.model_file.Model
    axes : ndarray of shape (3, 3)
        The voxel axes in RAS+ (:func:`dipy_rnn.spaces.axes`).
    max_angle_deg : float
        Largest turn of one step.
    nbr_threads : int
        0 for every core.

    Raises
    ------
    ModelFileError
        If the features do not fit the model.
    ValueError
        If ``max_angle_deg`` is not above 0 and at most 180.

    Examples
    --------
    >>> from dipy_rnn import frames, sh
    >>> from dipy_rnn.model_file import load_model
    >>> from dipy_rnn.stopping import StopReason
    >>> fodf = np.zeros((3, 3, 3, 15)); fodf[..., 0] = 1; fodf[..., [3, 10]] = 2, 2.5
    >>> propagator = Propagator(sh.fodf_features(fodf), load_model(), np.eye(3), 60, 1)
    >>> frame = frames.from_tangents(np.array([[0.0, 0.0, 1.0]]), np.eye(3))
    >>> tangents, reasons = propagator.turn(
    ...     np.ones((1, 3)), frame, propagator.states(1))
    >>> tangents.round(3).tolist(), StopReason(reasons[0]).name
    ([[0.0, 0.0, 1.0]], 'RUNNING')
    """

    def __init__(
        self,
        features: FeatureVolume,
        model: Model,
        axes: FloatArray,
        max_angle_deg: float,
        nbr_threads: int,
    ) -> None:
        if not 0 < max_angle_deg <= 180:
            raise ValueError(
                f"max_angle is {max_angle_deg}; an angle above 0 and up to 180 degrees "
                "is allowed."
            )
        self.model = model
        self.axes = axes
        self.data = model.features(features)
        self.has_peaks = features.kind == "sh"
        self.nbr_threads = interpolate.count_threads(nbr_threads)
        self.handedness = spaces.handedness(axes)
        self.min_cosine = float(np.cos(np.deg2rad(max_angle_deg)))
        self.in_frame = model.metadata.frame == "local"
        self.normalise = model.metadata.normalisation == "power"

    def first_directions(self, points_vox: FloatArray, max_peaks: int) -> FloatArray:
        """Find the directions in which streamlines may start.

        Parameters
        ----------
        points_vox : ndarray of shape (N, 3)
            Seeds.
        max_peaks : int
            At most this many for a seed.

        Returns
        -------
        directions : ndarray of shape (N, K, 3)
            Unit vectors along the voxel axes, zeros where there is none. The peaks of
            a fODF; for other features, which have none, what the model answers to an
            incoming direction of length zero.
        """
        if self.has_peaks:
            return peaks.first_directions(
                self.data,
                points_vox,
                self.axes,
                max_peaks=max_peaks,
                nbr_threads=self.nbr_threads,
            )
        features, _ = interpolate.sample(
            self.data,
            points_vox,
            normalise=self.normalise,
            nbr_threads=self.nbr_threads,
        )
        with torch_threads(self.nbr_threads):
            answers, _ = self.model.step(
                features,
                np.zeros((len(features), 3)),
                self.model.init_state(len(features)),
            )
        answer = answers.astype(np.float64)
        length = np.linalg.norm(answer, axis=1, keepdims=True)
        found = np.isfinite(length) & (length > 0) & features.any(axis=1, keepdims=True)
        return np.where(found, answer / np.where(found, length, 1.0), 0.0)[:, None]

    def states(self, n: int) -> CompiledStates | ScriptedStates:
        """Return fresh hidden states for n streamlines.

        Returns
        -------
        states : CompiledStates or ScriptedStates
            Whose ``answer`` takes them along.
        """
        if self.model.compiled is None:
            return ScriptedStates(self, n)
        return CompiledStates(self, n)

    def turn(
        self,
        points_vox: FloatArray,
        frame: FloatArray,
        states: CompiledStates | ScriptedStates,
    ) -> tuple[FloatArray, IntArray]:
        """Ask the model for the next directions.

        Parameters
        ----------
        points_vox : ndarray of shape (N, 3)
        frame : ndarray of shape (N, 3, 3)
            The moving frames; ``e3`` is the incoming direction.
        states : CompiledStates or ScriptedStates
            Of N streamlines; taken along.

        Returns
        -------
        tangents : ndarray of shape (N, 3)
            Unit vectors along the voxel axes; the incoming one where there is none.
        reasons : ndarray of shape (N,)
            int64 values of :class:`dipy_rnn.stopping.StopReason`, RUNNING or why the
            streamline cannot go on.
        """
        n = len(points_vox)
        answers, found = states.answer(points_vox, frame)
        tangents, reasons = np.empty((n, 3)), np.empty(n, np.int64)
        _slots.judge_all(
            answers,
            np.ascontiguousarray(frame),
            found,
            self.in_frame,
            self.min_cosine,
            tangents,
            reasons,
        )
        return tangents, reasons


class CompiledStates:
    """Hidden states of streamlines that a compiled network propagates.

    Parameters
    ----------
    propagator : Propagator
        Of a model that is compiled.
    n : int
    """

    def __init__(self, propagator: Propagator, n: int) -> None:
        network = propagator.model.compiled
        assert network is not None
        self._network = network
        self._volume = propagator.data
        self._order = interpolate.sh_order(propagator.data.shape[3])
        self._turns = interpolate.quarter_turns(self._order)
        self._handedness = propagator.handedness
        self._states = self._network.init_state(n)
        self._answers = np.zeros((n, 3), np.float32)
        self._found = np.zeros(n, np.uint8)

    def answer(
        self, points_vox: FloatArray | Buffer, frames: FloatArray | Buffer
    ) -> tuple[Float32Array, ByteArray]:
        """Propagate all by one step.

        Parameters
        ----------
        points_vox : array of shape (n, 3)
        frames : array of shape (n, 3, 3)

        Returns
        -------
        answers : ndarray of shape (n, 3)
            float32, in the frame of the model. Overwritten by the next call.
        found : ndarray of shape (n,)
            uint8: :data:`dipy_rnn.interpolate.OUTSIDE`, ``EMPTY`` or ``DATA``.
        """
        self._network.turn(
            self._volume,
            self._order,
            self._turns,
            points_vox,
            frames,
            self._handedness,
            self._states,
            self._answers,
            self._found,
        )
        return self._answers, self._found

    def reset(self, rows: IntArray) -> None:
        """Make some states fresh."""
        block, lane = np.divmod(rows, self._states.shape[3])
        self._states[block, :, :, lane] = 0.0

    def keep(self, rows: IntArray) -> None:
        """Drop all states but these."""
        block, lane = np.divmod(rows, self._states.shape[3])
        kept = self._network.init_state(len(rows))
        new_block, new_lane = np.divmod(np.arange(len(rows)), kept.shape[3])
        kept[new_block, :, :, new_lane] = self._states[block, :, :, lane]
        self._states = kept
        self._answers = self._answers[: len(rows)]
        self._found = self._found[: len(rows)]


class ScriptedStates:
    """Hidden states of streamlines that a TorchScript network propagates.

    Parameters
    ----------
    propagator : Propagator
    n : int
    """

    def __init__(self, propagator: Propagator, n: int) -> None:
        self._propagator = propagator
        self._states = propagator.model.init_state(n)

    def answer(
        self, points_vox: FloatArray | Buffer, frames: FloatArray | Buffer
    ) -> tuple[Float32Array, ByteArray]:
        """Propagate all by one step: :meth:`CompiledStates.answer`."""
        asked, seen_from = self._propagator, np.asarray(frames)
        if asked.in_frame:
            direction = np.broadcast_to([0.0, 0.0, 1.0], (len(seen_from), 3))
        else:
            direction = seen_from[:, 2]
        features, inside = interpolate.sample(
            asked.data,
            points_vox,
            seen_from if asked.in_frame else None,
            handedness=asked.handedness,
            normalise=asked.normalise,
        )
        answers, self._states = asked.model.step(features, direction, self._states)
        found = np.where(features.any(axis=1), interpolate.DATA, interpolate.EMPTY)
        found[~inside] = interpolate.OUTSIDE
        return np.ascontiguousarray(answers), found.astype(np.uint8)

    def reset(self, rows: IntArray) -> None:
        """Make some states fresh."""
        self._states[:, torch.from_numpy(rows)] = 0.0

    def keep(self, rows: IntArray) -> None:
        """Drop all states but these."""
        self._states = self._states[:, torch.from_numpy(rows)]


@contextmanager
def torch_threads(nbr_threads: int) -> Iterator[None]:
    """Let torch use so many threads; its setting is global, so it is put back.

    Parameters
    ----------
    nbr_threads : int
        1 or more.

    Examples
    --------
    >>> before = torch.get_num_threads()
    >>> with torch_threads(1):
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    before = torch.get_num_threads()
    torch.set_num_threads(nbr_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
