"""Errors of directions, which last along a streamline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dipy_rnn._typing import Float32Array, IntArray, KeyArray
from dipy_rnn.draws import _draws

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Errors last for this distance in voxel edges.
CORRELATION_EDGES = 5.0
#: Degrees of freedom of their distribution, also in the kernel. Large errors are more
#: frequent than those of a Gaussian.
FREEDOM = 4.0


@dataclass(frozen=True)
class DirectionErrors:
    """Random errors for directions in the moving frames.

    An error across the tangent is a draw from a two-dimensional Student distribution
    with ``FREEDOM`` degrees of freedom, times the predicted spread of the direction.
    (A radius above r has the probability ``(1 + r**2 / FREEDOM) ** (-FREEDOM / 2)``.)
    Each streamline has independent draws at *knots*, which are ``CORRELATION_EDGES``
    apart along it. Between two knots, an error is the sum of theirs, weighted by the
    cosine and the sine of a quarter turn. So its variance is the same at each point,
    and errors do not depend on the step size.

    Parameters
    ----------
    column : int
        Column of the spread (in radians) in the answers of a network.
    scale : float
        Factor of the spread.
    step_edges : float
        Step size in voxel edges.

    Examples
    --------
    >>> import numpy as np
    >>> answers = np.tile(np.float32([0, 0, 1, 0.1]), (2, 1))
    >>> keys = np.array([1, 2], dtype=np.uint64)
    >>> DirectionErrors(3, 1.0, 0.5).add(answers, keys, np.array([1, 1]))
    >>> bool((abs(answers[:, :2]) < 0.5).all()), bool((answers[0] == answers[1]).all())
    (True, False)
    """

    column: int
    scale: float
    step_edges: float

    @property
    def step_knots(self) -> float:
        """Step size in distances between knots."""
        return self.step_edges / CORRELATION_EDGES

    def add(
        self, answers: Float32Array, keys: KeyArray | Buffer, numbers: IntArray | Buffer
    ) -> None:
        """Add errors to directions, in place.

        Parameters
        ----------
        answers : ndarray of shape (N, C)
            float32, C-contiguous. The first two columns are changed.
        keys : array of shape (N,)
            uint64, from :func:`dipy_rnn.draws.seed_keys`.
        numbers : array of shape (N,)
            int64. The number of the next point: 1, 2 .. in the forward half and -1,
            -2 .. in the backward half.
        """
        _draws.add_errors(
            answers,
            self.column,
            self.scale,
            keys,
            numbers,
            self.step_knots,
        )
