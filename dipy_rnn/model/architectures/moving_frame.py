"""The architecture ``moving_frame``: its description, constants and kernel.

:class:`dipy_rnn.model.networks.moving_frame.MovingFrameGRU` is its network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math
from typing import TYPE_CHECKING, Self

import numpy as np

from dipy_rnn._typing import AnyArray, Float32Array, FloatArray
from dipy_rnn.model.architectures.architecture import Architecture
from dipy_rnn.model.kernels._moving_frame import CompiledMovingFrameGRU

if TYPE_CHECKING:
    from dipy_rnn.model.metadata import ModelMetadata

#: Logarithm of the largest rate at which the state of a
#: :class:`dipy_rnn.model.networks.distance_gru.DistanceGRU` decays, in 1 / voxel edge.
RATE_LIMIT = 10.0
# Width of the fODF's lobe for which the sum of the slopes is Newton's step exactly.
_LOBE_DEG = 9.0
# If the peak is nearer than this, the direction of a reference axis is mostly noise.
_FADE_DEG = 3.0


@dataclass(frozen=True, eq=False)
class FrameConstants:
    """Constants of the invariants and vectors of a MovingFrameGRU.

    Parameters
    ----------
    order : int
        Even spherical harmonic order.
    slope : ndarray of shape (order / 2,)
        float32. Factors that scale pairs of m = 1 to slopes (:func:`newton_slopes`).
    coarse : float
        Factor for the slope of l = 2, from which the second reference axis is made. The
        product is Newton's step for the part l = 2 alone.
    fade : float
        Square of an angle in radians. If the vector from which a reference axis is made
        has this squared length, the axis and its pairs are scaled by one half.
    rate_limit : float, optional
        Logarithm of the largest rate of a :class:`DistanceGRU`.

    Examples
    --------
    >>> FrameConstants.of(8).n_invariants
    113
    """

    order: int
    slope: Float32Array
    coarse: float
    fade: float
    rate_limit: float = RATE_LIMIT

    @classmethod
    def of(cls, order: int) -> Self:
        """Return the constants for an order."""
        slope, coarse = newton_slopes(order), newton_slopes(2)
        return cls(
            order,
            slope.astype(np.float32),
            float(coarse[0] / slope[0]),
            math.radians(_FADE_DEG) ** 2,
        )

    @property
    def n_vectors(self) -> int:
        """Number of slopes, and of other vectors: two axes, ``ahead``, the tangent."""
        return self.order // 2 + 4

    @property
    def n_factors(self) -> int:
        """Number of factors: along each vector, and across each but the last."""
        return 2 * self.n_vectors - 1

    @property
    def n_invariants(self) -> int:
        """Number of invariants.

        One for each coefficient of m = 0. Five for each pair of +m and -m: its power,
        and two components along each of the two reference axes. Two conditions of the
        run. Six components of ``ahead``.
        """
        n_pairs = (self.order // 2) * (self.order // 2 + 1)
        return self.order // 2 + 1 + 5 * n_pairs + 2 + 6


def newton_slopes(order: int) -> FloatArray:
    """Return the factors that make slopes of the pairs of m = 1.

    The sum of the slopes is Newton's step towards the peak of a lobe.

    Parameters
    ----------
    order : int
        Even spherical harmonic order.

    Returns
    -------
    factors : ndarray of shape (order / 2,)
        One for each of l = 2, 4 .. Take a lobe of unit power whose peak is at a small
        angle from z. Multiply its coefficients of m = 1 by the factors. The sum is that
        angle in radians.

    Notes
    -----
    Newton's step is the slope at z, divided by the negative curvature there. Near z,
    the harmonic of (l, +1) is -sqrt((2l + 1) l (l + 1) / 8 pi) times the sine of the
    colatitude times the cosine of the azimuth. For (l, -1) it is the sine of the
    azimuth. At z, the curvature of the harmonic of (l, 0) is
    -sqrt((2l + 1) / 4 pi) l (l + 1) / 2.

    Examples
    --------
    >>> newton_slopes(4).round(2)
    array([-0.15, -0.37])
    """
    ls = np.arange(2, order + 1, 2)
    ladder = ls * (ls + 1)
    damping = np.exp(-(np.deg2rad(_LOBE_DEG) ** 2) * ladder / 2)
    lobe = np.sqrt((2 * ls + 1) / (4 * np.pi)) * damping
    unit = lobe / np.sqrt(1 / (4 * np.pi) + np.sum(lobe**2))
    curvature = np.sum(np.sqrt((2 * ls + 1) / (4 * np.pi)) * ladder / 2 * unit)
    factors: FloatArray = -np.sqrt((2 * ls + 1) * ladder / (8 * np.pi)) / curvature
    return factors


def compile_moving_frame(
    weights: Mapping[str, AnyArray], metadata: ModelMetadata
) -> CompiledMovingFrameGRU:
    """Make the kernel of a MovingFrameGRU with given weights.

    Parameters
    ----------
    weights : mapping of str to ndarray
        Parameters of the network by name.
    metadata : dipy_rnn.model.ModelMetadata

    Returns
    -------
    kernel : CompiledMovingFrameGRU

    Raises
    ------
    KeyError, ValueError
        If a parameter is missing, or its shape or type differs.
    """
    deeper = {name.split(".")[1] for name in weights if name.startswith("deeper.")}
    return CompiledMovingFrameGRU(
        weights,
        FrameConstants.of(metadata.order),
        len(deeper),
        metadata.layers,
        metadata.hidden,
    )


#: The architecture ``moving_frame``.
MOVING_FRAME = Architecture(
    required={
        "kind": "sh",
        "frame": "local",
        "normalisation": "power",
        "inputs": ("step_vox", "max_angle_deg", "ahead"),
        "outputs": (),
        "context": None,
    },
    kernel=compile_moving_frame,
)
