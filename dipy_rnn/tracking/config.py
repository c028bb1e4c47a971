"""The settings of a run: steps in voxels, angles as cosines, lengths as points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from dipy_rnn._checks import check_number
from dipy_rnn._dipy_compat import dipy_is_at_least
from dipy_rnn._typing import FloatArray
from dipy_rnn.spatial import voxel_sizes

#: DIPY's default of ``pmf_threshold``.
PMF_THRESHOLD = 0.1

_MOST_POINTS = 2**31
_ROUNDING = 1e-8  # share of the angle of a cone


@dataclass(frozen=True, eq=False)
class TrackingConfig:
    """The settings of a run, which all streamlines share.

    :meth:`of` makes them from the arguments of a tracker.

    Parameters
    ----------
    affine : ndarray of shape (4, 4)
        Voxel to mm. It converts finished streamlines to mm.
    step_vox : ndarray of shape (3,)
        Step size divided by the size of a voxel along each axis. A step is the unit
        direction (along the voxel axes) times this vector, in voxel coordinates.
    step_mm : float
        Step size in mm.
    max_angle_deg : float
        Angle in degrees of the cone in which the next direction may lie.
    pmf_threshold : float
        A streamline ends if the largest value of the fODF in the cone is below this
        share of the largest value in any direction.
    max_points : int
        A streamline ends when it has one point more than this, in both halves together.
        This point is not removed. A caller can therefore recognise the streamline, and
        discard it.
    max_half_points : int
        Largest number of points of one half, the seed included. 2 or more.
    warm_up_points : int
        Length of the warm-up pass. Before the backward half, the network sees up to
        this many points of the forward half in reverse: those nearest to the seed.
    unidirectional : bool, optional
        Omit the backward half.
    random_seed : int, optional
        For draws at random (:func:`dipy_rnn.draws.seed_keys`).
    spread_scale : float, optional
        For probabilistic tracking: the factor of the predicted spread, with which
        errors are drawn (:func:`dipy_rnn.draws.add_errors`). If 0, tracking is
        deterministic.
    ended_thr, lost_thr : float, optional
        A streamline ends where the model predicts with a probability above this that
        the fibre has ended, or that the streamline has left its bundle. 1 is never.

    Examples
    --------
    >>> config = TrackingConfig.of(
    ...     np.diag([2.0, 2, 4, 1]), step_size=1.0, max_angle=60, max_points=100)
    >>> config.step_vox.tolist(), round(config.min_cosine, 3)
    ([0.5, 0.5, 0.25], 0.5)
    """

    affine: FloatArray
    step_vox: FloatArray
    step_mm: float
    max_angle_deg: float
    pmf_threshold: float
    max_points: int
    max_half_points: int
    warm_up_points: int
    unidirectional: bool = False
    random_seed: int = 0
    spread_scale: float = 0.0
    ended_thr: float = 1.0
    lost_thr: float = 1.0

    @classmethod
    def of(
        cls,
        affine: FloatArray,
        *,
        step_size: float,
        max_angle: float,
        pmf_threshold: float = PMF_THRESHOLD,
        max_points: int,
        max_half_points: int | None = None,
        warm_up_points: int | None = None,
        unidirectional: bool = False,
        random_seed: int = 0,
        spread_scale: float = 0.0,
        ended_thr: float = 1.0,
        lost_thr: float = 1.0,
    ) -> Self:
        """Convert the arguments of a tracker.

        Parameters
        ----------
        affine : ndarray of shape (4, 4)
            Voxel to mm.
        step_size : float
            Step in mm.
        max_angle : float
            See ``max_angle_deg`` of :class:`TrackingConfig`.
        pmf_threshold : float, optional
        max_points : int
            See :class:`TrackingConfig`.
        max_half_points : int, optional
            If None, a half is limited only by ``max_points``.
        warm_up_points : int, optional
            ``replay_points`` of a model's metadata. If None, all points of the half.
        unidirectional, random_seed, spread_scale, ended_thr, lost_thr
            See :class:`TrackingConfig`.

        Returns
        -------
        config : TrackingConfig

        Raises
        ------
        ValueError
            If ``max_angle`` is not a number above 0 and up to 180 degrees, or
            ``pmf_threshold`` is not a number from 0 to 1.
        """
        check_cone(max_angle, pmf_threshold)
        if max_half_points is None:
            max_half_points = max_points + 2
        if warm_up_points is None or warm_up_points > max_half_points:
            warm_up_points = max_half_points
        return cls(
            affine=np.ascontiguousarray(affine, dtype=np.float64),
            step_vox=step_size / voxel_sizes(affine),
            step_mm=float(step_size),
            max_angle_deg=float(max_angle),
            pmf_threshold=float(pmf_threshold),
            max_points=max_points,
            max_half_points=max_half_points,
            warm_up_points=warm_up_points,
            unidirectional=unidirectional,
            random_seed=random_seed,
            spread_scale=spread_scale,
            ended_thr=ended_thr,
            lost_thr=lost_thr,
        )

    @property
    def step_edges(self) -> float:
        """Step size divided by :func:`dipy_rnn.spatial.voxel_edge`."""
        return float(np.cbrt(np.prod(self.step_vox)))

    @property
    def edge_vox(self) -> FloatArray:
        """A voxel edge (:func:`dipy_rnn.spatial.voxel_edge`) in voxel coordinates."""
        return self.step_vox / self.step_edges

    @property
    def cone_deg(self) -> float:
        """Angle of the cone for an fODF, which is the same in opposite directions.

        The angle between two steps on its border is not above ``max_angle_deg`` by a
        rounding error.
        """
        return min(self.max_angle_deg, 90.0) * (1.0 - _ROUNDING)

    @property
    def min_cosine(self) -> float:
        """Cosine of ``max_angle_deg``."""
        return float(np.cos(np.deg2rad(self.max_angle_deg)))


def check_cone(max_angle: float, pmf_threshold: float) -> None:
    """Raise ValueError if an angle or a threshold of the fODF is out of range.

    Parameters
    ----------
    max_angle : float
        Above 0 and up to 180 degrees.
    pmf_threshold : float
        From 0 to 1.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> check_cone(30, 0.1)
    """
    if not 0 <= check_number(pmf_threshold, "pmf_threshold") <= 1:
        raise ValueError(
            f"pmf_threshold is {pmf_threshold}; a number from 0 to 1 is allowed."
        )
    if not 0 < check_number(max_angle, "max_angle") <= 180:
        raise ValueError(
            f"max_angle is {max_angle}; an angle above 0 and up to 180 degrees "
            "is allowed."
        )


def length_limits(min_len: float, max_len: float, step_size: float) -> tuple[int, int]:
    """Convert lengths in mm to numbers of points, as :mod:`dipy.tracking.tracker` does.

    Parameters
    ----------
    min_len, max_len : float
        Length of a streamline in mm.
    step_size : float
        Step in mm.

    Returns
    -------
    min_points, max_points : int

    Raises
    ------
    ValueError
        If ``step_size`` is not above 0, if ``min_len`` is negative or above
        ``max_len``, if one of them is not finite, or if there would be more than 2**31
        points.

    Notes
    -----
    The number of points is the length divided by the step size, rounded down. But a
    streamline of n points has only n - 1 steps. With ``min_len = n * step_size``, a
    streamline of n points is therefore kept, although it is one step shorter than
    ``min_len``.

    Examples
    --------
    >>> length_limits(2, 500, 0.5)
    (4, 1000)
    """
    step_size = check_number(step_size, "step_size")
    min_len = check_number(min_len, "min_len")
    max_len = check_number(max_len, "max_len")
    if not 0 < step_size < np.inf:
        raise ValueError(f"step_size is {step_size}; a step above 0 mm is needed.")
    if not 0 <= min_len <= max_len < np.inf:
        raise ValueError(
            f"min_len is {min_len} and max_len {max_len}; 0 <= min_len <= max_len is "
            "needed (mm)."
        )
    if max_len > _MOST_POINTS * step_size:
        raise ValueError(
            f"max_len is {max_len}; up to {_MOST_POINTS} steps of {step_size} mm are "
            "allowed."
        )
    return int(min_len / step_size), int(max_len / step_size)


def lengths_for_dipy(
    min_len: float, max_len: float, step_size: float
) -> dict[str, float]:
    """Convert lengths to the units of the installed DIPY's trackers.

    Parameters
    ----------
    min_len, max_len : float
        Length of a streamline in mm.
    step_size : float
        Step in mm.

    Returns
    -------
    lengths : dict of str to float
        ``min_len`` and ``max_len``. They are in mm from DIPY 1.12 on, and numbers of
        points in older versions.

    Raises
    ------
    ValueError
        As :func:`length_limits`.

    Examples
    --------
    >>> sorted(lengths_for_dipy(2, 500, 0.5))
    ['max_len', 'min_len']
    """
    points = length_limits(min_len, max_len, step_size)
    lengths = (min_len, max_len) if dipy_is_at_least(1, 12) else points
    return dict(zip(("min_len", "max_len"), lengths))
