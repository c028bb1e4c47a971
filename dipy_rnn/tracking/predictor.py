"""Next directions of streamlines, from a model and a feature volume."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dipy_rnn import sampling, spatial
from dipy_rnn._threads import count_threads, torch_threads
from dipy_rnn._typing import ByteArray, Float32Array, FloatArray, IntArray
from dipy_rnn.draws import DirectionErrors
from dipy_rnn.model import INPUT_SIZES, stack_inputs
from dipy_rnn.stopping import StopReason

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from dipy_rnn.model.model import Model
    from dipy_rnn.sampling import Cone, FeatureVolume
    from dipy_rnn.tracking.config import TrackingConfig


class Predictor:
    """Predicts the next directions of streamlines from a model and a feature volume.

    It holds no hidden states. :meth:`states` makes them, and they predict
    (:meth:`HiddenStates.predict`).

    Parameters
    ----------
    features : dipy_rnn.sampling.FeatureVolume
    model : dipy_rnn.model.Model
    axes : ndarray of shape (3, 3)
        The voxel axes in RAS+ (:func:`dipy_rnn.spatial.axes`).
    nbr_threads : int
        Threads that compute first directions. 0 for every core.

    Raises
    ------
    ModelFileError
        If the features do not fit the model.

    Examples
    --------
    >>> from dipy_rnn import fodf_features
    >>> from dipy_rnn.model import load_model
    >>> fodf = np.zeros((3, 3, 3, 15)); fodf[..., 0] = 1; fodf[..., [3, 10]] = 2, 2.5
    >>> model = load_model("deterministic")
    >>> predictor = Predictor(fodf_features(fodf), model, np.eye(3), 1)
    >>> from dipy_rnn.tracking.config import TrackingConfig
    >>> config = TrackingConfig.of(np.eye(4), step_size=1, max_angle=60, max_points=100)
    >>> states = predictor.states(1, config)
    >>> answers, status = states.predict(np.ones((1, 3)), np.eye(3)[None])
    >>> answers.round(3).tolist(), bool(status[0] == sampling.DATA)
    ([[0.0, 0.0, 1.0]], True)
    """

    def __init__(
        self,
        features: FeatureVolume,
        model: Model,
        axes: FloatArray,
        nbr_threads: int,
    ) -> None:
        self.model = model
        self.axes = axes
        self.data = model.features(features)
        self.has_peaks = features.kind == "sh"
        self.nbr_threads = count_threads(nbr_threads)
        self.handedness = spatial.handedness(axes)
        self.in_frame = model.metadata.frame == "local"
        self.normalise = model.metadata.normalisation == "power"
        # Models of format 1 know no cone.
        self.has_cone = model.metadata.inputs is not None
        # Whether the largest value of an fODF in the cone is sought.
        self.seeks_ahead = self.has_cone and self.has_peaks
        if model.compiled is not None:
            # LocalTracking asks for many states of one run: its tables are made once.
            # They may hold a copy of a part of the volume, so only the last are kept.
            self.prepare = lru_cache(maxsize=1)(
                partial(model.compiled.prepare, self.data, self.handedness)
            )

    def first_directions(
        self, points_vox: FloatArray, max_peaks: int, *, nbr_threads: int = 1
    ) -> FloatArray:
        """Return the directions in which streamlines may start.

        Parameters
        ----------
        points_vox : ndarray of shape (N, 3)
            Seeds in voxel coordinates.
        max_peaks : int
            Largest number of directions for a seed.
        nbr_threads : int, optional

        Returns
        -------
        directions : ndarray of shape (N, K, 3)
            Unit vectors, in components along the voxel axes. For an fODF they are its
            peaks, the largest first, and K is ``max_peaks``. For other features K is 1:
            the direction that the network returns if the incoming direction and the
            declared inputs are zeros. Rows are zero if a seed has fewer directions.
        """
        if self.has_peaks:
            return sampling.first_directions(
                self.data,
                points_vox,
                self.axes,
                max_peaks=max_peaks,
                nbr_threads=nbr_threads,
            )
        features, _ = sampling.sample(
            self.data,
            points_vox,
            normalise=self.normalise,
            nbr_threads=nbr_threads,
        )
        with torch_threads(nbr_threads):
            answers, _ = self.model.step(
                features,
                np.zeros((len(features), 3)),
                self.model.init_state(len(features)),
                self._no_inputs(len(features)),
            )
        answer = answers[:, :3].astype(np.float64)
        length = np.linalg.norm(answer, axis=1, keepdims=True)
        found = np.isfinite(length) & (length > 0) & features.any(axis=1, keepdims=True)
        return np.where(found, answer / np.where(found, length, 1.0), 0.0)[:, None]

    def _no_inputs(self, n: int) -> Float32Array | None:
        """Return declared inputs (n, W) that are zeros, or None in format 1."""
        names = self.model.metadata.inputs
        if names is None:
            return None
        return stack_inputs(names, dict.fromkeys(INPUT_SIZES, 0.0), n)

    def conditions(self, config: TrackingConfig) -> dict[str, float]:
        """Return the declared inputs that are the same for all points of a run.

        Parameters
        ----------
        config : TrackingConfig

        Returns
        -------
        conditions : dict of str to float
            ``step_vox`` is the nearest value for which the model was trained.
        """
        step_vox = np.clip(config.step_edges, *self.model.metadata.step_vox)
        return {
            "step_vox": float(step_vox),
            "step_mm": config.step_mm,
            "max_angle_deg": config.cone_deg,
        }

    def errors(self, config: TrackingConfig) -> DirectionErrors | None:
        """Return the errors of directions for a run. None if it is deterministic.

        Parameters
        ----------
        config : TrackingConfig
            If its ``spread_scale`` is not 0, the network must declare a spread.
        """
        if not config.spread_scale:
            return None
        column = 3 + self.model.metadata.outputs.index("spread")
        return DirectionErrors(column, config.spread_scale, config.step_edges)

    def ends(self, config: TrackingConfig) -> list[tuple[int, float, StopReason]]:
        """Return by which of its outputs a network ends streamlines.

        Parameters
        ----------
        config : TrackingConfig
            If a threshold is below 1, the network must declare that output.

        Returns
        -------
        ends : list of tuple of (int, float, StopReason)
            A column of the answers of the network, its largest value at which
            streamlines go on, and the reason if it is above this value.
        """
        outputs = self.model.metadata.outputs
        return [
            (3 + outputs.index(name), threshold, reason)
            for name, threshold, reason in (
                ("ended", config.ended_thr, StopReason.FIBRE_END),
                ("lost", config.lost_thr, StopReason.LOST),
            )
            if threshold < 1
        ]

    def states(self, n: int, config: TrackingConfig) -> HiddenStates:
        """Return the hidden states of n new streamlines, which are zeros.

        Parameters
        ----------
        n : int
        config : TrackingConfig
            Its step size, ``max_angle`` and ``pmf_threshold`` are inputs of the
            network, or determine them.

        Returns
        -------
        states : HiddenStates
        """
        if self.model.compiled is None:
            return ScriptedStates(self, n, config)
        return CompiledStates(self, n, config)


class HiddenStates(Protocol):
    """The hidden states of a group of streamlines, one row for each."""

    def predict(
        self, points_vox: FloatArray | Buffer, frames: FloatArray | Buffer
    ) -> tuple[Float32Array, ByteArray]:
        """Return the next directions of all streamlines, and update the states.

        Parameters
        ----------
        points_vox : array of shape (n, 3)
            The last point of each streamline, in voxel coordinates.
        frames : array of shape (n, 3, 3)
            Moving frames. ``e3`` is the incoming direction.

        Returns
        -------
        answers : ndarray of shape (n, 3 + number of declared outputs)
            float32. The first columns are the directions that the network returns, of
            any length. Their components are along ``e1, e2, e3`` if the frame in the
            metadata of the model is ``"local"``, otherwise along the voxel axes. The
            declared outputs follow. The next call may overwrite them.
        status : ndarray of shape (n,)
            uint8. What was found at a point. :data:`dipy_rnn.sampling.OUTSIDE`: it is
            outside of the image. ``EMPTY``: all features are zero. ``NOTHING_AHEAD``:
            the fODF has no value above the threshold in the cone ahead (only with a
            model of format 2). ``DATA``: otherwise.
        """

    def reset(self, rows: IntArray) -> None:
        """Set the states of some rows to zero."""

    def keep(self, rows: IntArray) -> None:
        """Keep the states of some rows, in this order, and drop all others."""


class CompiledStates:
    """Hidden states of a network that runs as a kernel.

    Parameters
    ----------
    predictor : Predictor
        Its model has a kernel.
    n : int
    config : TrackingConfig
    """

    def __init__(self, predictor: Predictor, n: int, config: TrackingConfig) -> None:
        network = predictor.model.compiled
        assert network is not None
        self.network = network
        conditions = predictor.conditions(config)
        self.run = predictor.prepare(
            sampling.cone_of(
                sampling.sh_order(predictor.data.shape[3]), config.cone_deg
            ),
            conditions["step_vox"],
            conditions["max_angle_deg"],
            config.pmf_threshold,
            tuple(config.edge_vox.tolist()),
        )
        self.state = self.network.init_state(n)
        n_answers = predictor.model.metadata.n_answers
        self.answers = np.zeros((n, n_answers), np.float32)
        self.status = np.zeros(n, np.uint8)

    def predict(
        self, points_vox: FloatArray | Buffer, frames: FloatArray | Buffer
    ) -> tuple[Float32Array, ByteArray]:
        """As :meth:`HiddenStates.predict`."""
        self.network.next_directions(
            self.run, points_vox, frames, self.state, self.answers, self.status
        )
        return self.answers, self.status

    def reset(self, rows: IntArray) -> None:
        """Set the states of some rows to zero."""
        block, lane = np.divmod(rows, self.state.shape[3])
        self.state[block, :, :, lane] = 0.0

    def keep(self, rows: IntArray) -> None:
        """Keep the states of some rows, in this order, and drop all others."""
        block, lane = np.divmod(rows, self.state.shape[3])
        kept = self.network.init_state(len(rows))
        new_block, new_lane = np.divmod(np.arange(len(rows)), kept.shape[3])
        kept[new_block, :, :, new_lane] = self.state[block, :, :, lane]
        self.state = kept
        self.answers = self.answers[: len(rows)]
        self.status = self.status[: len(rows)]


class ScriptedStates:
    """Hidden states of a network that runs as TorchScript.

    Parameters
    ----------
    predictor : Predictor
    n : int
    config : TrackingConfig
    """

    def __init__(self, predictor: Predictor, n: int, config: TrackingConfig) -> None:
        self._predictor = predictor
        self._states = predictor.model.init_state(n)
        self._inputs = predictor.model.metadata.inputs
        self._conditions = predictor.conditions(config)
        self._pmf_threshold = config.pmf_threshold
        self._context = predictor.model.metadata.context
        self._edge_vox = config.edge_vox
        self._cone: Cone | None = None
        if predictor.seeks_ahead:
            order = sampling.sh_order(predictor.data.shape[3])
            self._cone = sampling.cone_of(order, config.cone_deg)

    def predict(
        self, points_vox: FloatArray | Buffer, frames: FloatArray | Buffer
    ) -> tuple[Float32Array, ByteArray]:
        """As :meth:`HiddenStates.predict`."""
        predictor, rows = self._predictor, np.asarray(frames)
        features, inside = sampling.sample(
            predictor.data,
            points_vox,
            handedness=predictor.handedness,
            normalise=predictor.normalise and self._context is None,
        )
        status = np.where(features.any(axis=1), sampling.DATA, sampling.EMPTY)
        status[~inside] = sampling.OUTSIDE
        in_frames = features
        if predictor.in_frame or self._cone is not None:
            in_frames = sampling.rotate(features, rows, handedness=predictor.handedness)
        direction = rows[:, 2]
        if predictor.in_frame:
            features = in_frames
            direction = np.broadcast_to([0.0, 0.0, 1.0], (len(rows), 3))
        if self._context is not None:
            around = sampling.sample_context(
                self._context,
                predictor.data,
                np.asarray(points_vox),
                rows,
                self._edge_vox,
                features,
                handedness=predictor.handedness,
            )
            features = sampling.join_context(features, around)
        values: dict[str, float | FloatArray] = dict(self._conditions)
        if self._cone is not None:
            ahead, found = self._cone.largest(in_frames, self._pmf_threshold)
            status[(status == sampling.DATA) & ~found] = sampling.NOTHING_AHEAD
            values["ahead"] = (
                ahead if predictor.in_frame else spatial.frames.to_axes(ahead, rows)
            )
        inputs = None
        if self._inputs is not None:
            inputs = stack_inputs(self._inputs, values, len(rows))
        answers, self._states = predictor.model.step(
            features, direction, self._states, inputs
        )
        return np.ascontiguousarray(answers), status.astype(np.uint8)

    def reset(self, rows: IntArray) -> None:
        """Set the states of some rows to zero."""
        self._states[:, rows] = 0.0

    def keep(self, rows: IntArray) -> None:
        """Keep the states of some rows, in this order, and drop all others."""
        self._states = self._states[:, rows]
