"""The metadata of a model file: what the network takes, and how it was trained."""

from dataclasses import asdict, dataclass, field
import json
from typing import Any, Self

import numpy as np

from dipy_rnn.model.architectures import ARCHITECTURES
from dipy_rnn.sampling import Context, sh_order

FORMAT = "dipy_rnn model"
FORMAT_VERSION = 2  # version 1 has no declared inputs

#: What a network may declare as inputs, and how many numbers each of them has.
INPUT_SIZES = {"step_vox": 1, "step_mm": 1, "max_angle_deg": 1, "ahead": 3}

#: What a network may declare as outputs beside the direction: one number each.
OUTPUTS = ("spread", "ended", "lost")

#: Largest number of floats in the state of a streamline; cai2023 has 1024.
STATE_LIMIT = 1 << 14
_SIZE_LIMIT = 1 << 20


class ModelFileError(ValueError):
    """A file is not a valid model, or a model does not fit the data or the settings."""


@dataclass(frozen=True)
class ModelMetadata:
    """The metadata of a model.

    Parameters
    ----------
    kind : str
        ``"sh"``: fODF coefficients in ``tournier07``, not legacy. ``"raw"``: any other
        features, without conversion.
    channels : int
        Number of features.
    frame : str
        ``"local"``: features (spherical harmonics) and directions are in the moving
        frame of the streamline. ``"voxel"``: they are along the voxel axes.
    layers, hidden : int
        Shape of the hidden states of n streamlines: (layers, n, hidden).
    orders : tuple of int, optional
        For ``"sh"``: the spherical harmonic orders of the training data. If empty, the
        order that belongs to ``channels``. Coefficients of a lower order are padded
        with zeros for the network.
    normalisation : str, optional
        ``"power"``: the features at a point are divided by the root of their summed
        squares, so that the scale of the fODF has no effect. ``"none"``: they are not
        changed.
    inputs : tuple of str, optional
        Declared inputs: what the network gets in addition to features and incoming
        direction, in this order. ``"step_vox"``: the step size divided by the edge of
        a voxel (:func:`dipy_rnn.spatial.voxel_edge`). ``"step_mm"``: the step size in
        mm. ``"max_angle_deg"``: the angle of the cone in which the next direction may
        lie, in degrees. ``"ahead"``: the direction of the fODF's largest value in this
        cone, a unit vector in the frame of the features (only for ``"sh"``). None is
        format 1: the network has no such argument, and a streamline ends where its
        direction is not in the cone.
    outputs : tuple of str, optional
        Declared outputs: what the network returns in addition to a direction, in this
        order, in further columns. ``"spread"``: the scale in radians of the
        errors of the direction (:class:`dipy_rnn.draws.DirectionErrors`). Probabilistic
        tracking needs it. ``"ended"``: the probability that the fibre has ended.
        ``"lost"``: the probability that the streamline has left its bundle. Only for
        ``"local"`` and format 2.
    spread_scale : float, optional
        Factor of the spread, from a calibration after the training.
    context : dipy_rnn.sampling.Context, optional
        Places around the point at which the network gets the fODF, too. Their
        coefficients follow those of the point. All are divided by one number
        (:func:`dipy_rnn.sampling.join_context`). Only for ``"sh"``, ``"local"`` and
        ``"power"``.
    step_vox : tuple of float, optional
        Smallest and largest step for which the network was trained, divided by the
        edge of a voxel. A network that gets ``"step_vox"`` gets the nearest value in
        this range.
    step_mm : tuple of float, optional
        Smallest and largest step in mm. Others are refused. Models of format 1 have it.
    architecture : str, optional
        Name among :data:`dipy_rnn.model.ARCHITECTURES`, or ``""`` for any other
        network. On the CPU ``"moving_frame"`` runs as a kernel (a compiled function of
        this package). All others run as TorchScript. It is ``""`` for files of format
        1, whose architectures had no declared inputs.
    replay_points : int, optional
        Length of the warm-up pass. Before the backward half, the network sees this many
        points of the forward half in reverse: those nearest to the seed, or all if
        None.
    provenance : dict, optional
        Origin of the model: data, recipe, versions, metrics.

    Raises
    ------
    ModelFileError
        If an entry differs from the above.

    Examples
    --------
    >>> ModelMetadata("raw", 3, "voxel", 1, 1).step_mm
    (0.0, inf)
    """

    kind: str
    channels: int
    frame: str
    layers: int
    hidden: int
    orders: tuple[int, ...] = ()
    normalisation: str = "none"
    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] = ()
    spread_scale: float = 1.0
    context: Context | None = None
    step_vox: tuple[float, float] = (0.0, float("inf"))
    step_mm: tuple[float, float] = (0.0, float("inf"))
    architecture: str = ""
    replay_points: int | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, allowed in (
            ("kind", ("sh", "raw")),
            ("frame", ("local", "voxel")),
            ("normalisation", ("power", "none")),
            ("architecture", (*ARCHITECTURES, "")),
        ):
            if getattr(self, name) not in allowed:
                raise ModelFileError(
                    f"{name} is {getattr(self, name)!r}; "
                    f"{' or '.join(map(repr, allowed))} is allowed"
                )
        for name in ("channels", "layers", "hidden"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ModelFileError(f"{name} is {value!r}; give an integer from 1 up")
            if value > _SIZE_LIMIT:
                raise ModelFileError(
                    f"{name} is {value}; up to {_SIZE_LIMIT} is allowed"
                )
        if self.layers * self.hidden > STATE_LIMIT:
            raise ModelFileError(
                f"layers and hidden are {self.layers} and {self.hidden}; "
                f"up to {STATE_LIMIT} floats of state for a streamline are allowed"
            )
        if self.kind == "sh":
            try:
                order = sh_order(self.channels)
            except ValueError as error:
                raise ModelFileError(f"channels: {error}") from None
            orders = self.orders or (order,)
            if not isinstance(orders, (tuple, list)) or any(
                type(o) is not int or o not in range(4, order + 1, 2) for o in orders
            ):
                raise ModelFileError(
                    f"orders is {orders!r}; even orders from 4 to {order} are allowed"
                )
            object.__setattr__(self, "orders", tuple(sorted(orders)))
        elif self.frame == "local":
            raise ModelFileError(
                "frame is 'local'; features of kind 'sh' are needed, as no others can "
                "be rotated"
            )
        if self.inputs is not None:
            if not isinstance(self.inputs, (tuple, list)) or any(
                name not in tuple(INPUT_SIZES) for name in self.inputs
            ):
                raise ModelFileError(
                    f"inputs is {self.inputs!r}; {', '.join(INPUT_SIZES)} are allowed"
                )
            if self.kind != "sh" and "ahead" in self.inputs:
                raise ModelFileError(
                    "inputs has 'ahead', which features of kind 'sh' have; leave it out"
                )
            object.__setattr__(self, "inputs", tuple(self.inputs))
        self._check_outputs()
        if self.context is not None:
            self._check_context(self.context)
        if self.architecture:
            for name, needed in ARCHITECTURES[self.architecture].required.items():
                if getattr(self, name) != needed:
                    raise ModelFileError(
                        f"{name} is {getattr(self, name)!r}, but the architecture "
                        f"{self.architecture!r} needs {needed!r}"
                    )
        warm_up = self.replay_points
        if warm_up is not None and (type(warm_up) is not int or warm_up < 0):
            raise ModelFileError(
                f"replay_points is {warm_up!r}; give an integer from 0 up, or null"
            )
        for name in ("step_vox", "step_mm"):
            try:
                low, high = map(float, getattr(self, name))
            except (TypeError, ValueError, OverflowError):
                low, high = np.nan, np.nan
            if not (0 <= low <= high and low < np.inf and high > 0):
                raise ModelFileError(
                    f"{name} is {getattr(self, name)!r}; give the smallest and largest "
                    "step"
                )
            object.__setattr__(self, name, (low, high))

    def _check_outputs(self) -> None:
        """Raise ModelFileError if the declared outputs are invalid."""
        names = self.outputs
        if not isinstance(names, (tuple, list)) or any(n not in OUTPUTS for n in names):
            raise ModelFileError(
                f"outputs is {names!r}; {', '.join(OUTPUTS)} are allowed"
            )
        if names and (self.frame != "local" or self.inputs is None):
            raise ModelFileError(
                f"outputs is {names!r}, which needs the frame 'local' and inputs"
            )
        object.__setattr__(self, "outputs", tuple(names))
        scale = self.spread_scale
        if type(scale) not in (int, float) or not 0 < scale < np.inf:
            raise ModelFileError(
                f"spread_scale is {scale!r}; give a finite number above 0"
            )

    def _check_context(self, context: Context) -> None:
        """Raise ModelFileError if this metadata cannot have a context."""
        if (self.frame, self.normalisation) != ("local", "power"):
            raise ModelFileError(
                f"context needs the frame 'local' and the normalisation 'power', not "
                f"{self.frame!r} and {self.normalisation!r}"
            )
        if self.inputs is None or context.order > min(self.orders):
            raise ModelFileError(
                f"context has the order {context.order}; it needs declared inputs, and "
                f"an order up to the least of orders, {min(self.orders)}"
            )

    @property
    def order(self) -> int:
        """Spherical harmonic order of the features. Only for ``"sh"``."""
        return sh_order(self.channels)

    @property
    def n_answers(self) -> int:
        """Number of columns of the network's answer: a direction, then the outputs."""
        return 3 + len(self.outputs)

    @property
    def n_features(self) -> int:
        """Number of features that the network gets: at the point, and around it."""
        return self.channels + (self.context.n_values if self.context else 0)

    def to_json(self) -> str:
        """Return the text of ``metadata.json`` in the archive."""
        version = 1 if self.inputs is None else FORMAT_VERSION
        entries = {"format": FORMAT, "format_version": version, **asdict(self)}
        if version == 1:
            del entries["inputs"], entries["step_vox"]
        if not self.outputs:
            del entries["outputs"], entries["spread_scale"]
        if self.context is None:
            del entries["context"]
        if self.kind == "sh":
            entries |= {"basis": "tournier07", "legacy": False}
        return json.dumps(entries, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the text that :meth:`to_json` returns, and check every entry."""
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError):
            raise ModelFileError("its metadata is not JSON") from None
        if not isinstance(entries, dict) or entries.pop("format", None) != FORMAT:
            raise ModelFileError(f"its metadata is not that of a {FORMAT}")
        version = entries.pop("format_version", None)
        if version not in (1, FORMAT_VERSION):
            raise ModelFileError(
                f"its format version is {version!r} and this dipy_rnn reads 1 and "
                f"{FORMAT_VERSION}: update dipy_rnn, or train the model again"
            )
        basis = (entries.pop("basis", "tournier07"), entries.pop("legacy", False))
        if basis != ("tournier07", False):
            raise ModelFileError(
                f"its basis is {basis!r}; models take ('tournier07', False), so "
                "permute the coefficients inside the network"
            )
        known = set(cls.__dataclass_fields__)
        required = {"kind", "channels", "frame", "layers", "hidden"}
        if version == 1:
            known = known - {"inputs", "outputs", "spread_scale", "step_vox", "context"}
            # The architectures of format 1 had no declared inputs.
            entries["architecture"] = ""
        else:
            required |= {"inputs"}
        if unknown := sorted(entries.keys() - known):
            raise ModelFileError(f"its metadata has unknown entries: {unknown}")
        if missing := sorted(required - entries.keys()):
            raise ModelFileError(f"its metadata lacks {missing}")
        for name in ("orders", "inputs", "outputs"):
            if not isinstance(entries.get(name, []), list):
                raise ModelFileError(f"{name} is {entries[name]!r}; give a list")
        if not isinstance(entries.get("provenance", {}), dict):
            raise ModelFileError("provenance is not a JSON object")
        entries["orders"] = tuple(entries.get("orders", ()))
        if "context" in entries:
            try:
                entries["context"] = Context.from_dict(entries["context"])
            except ValueError as error:
                raise ModelFileError(f"context: {error}") from None
        return cls(**entries)
