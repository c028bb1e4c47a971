"""Tracking in the manner of DIPY's newer trackers; ``engine.py`` does the work."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import dipy
import numpy as np

from dipy_rnn import engine, interpolate, spaces
from dipy_rnn import sh as harmonics
from dipy_rnn._typing import AnyPath, ArrayLike, FloatArray
from dipy_rnn.model_file import Model, load_model
from dipy_rnn.propagator import Propagator
from dipy_rnn.sh import FeatureVolume
from dipy_rnn.stopping import StoppingCriterion, StopReason

_MOST_POINTS = 2**31


@dataclass(frozen=True, eq=False)
class Streamline:
    """A tracked streamline, and why it ended.

    Parameters
    ----------
    points_mm : ndarray of shape (M, 3)
        From the backward end over the seed to the forward end.
    seed_index : int
        Place of the seed among those given.
    seed_mm : ndarray of shape (3,)
    forward_stop, backward_stop : StopReason

    Examples
    --------
    >>> line = Streamline(np.zeros((1, 3)), 0, np.zeros(3), StopReason.ENDPOINT,
    ...                   StopReason.SHARP_TURN)
    >>> line.has_valid_ends
    False
    """

    points_mm: FloatArray
    seed_index: int
    seed_mm: FloatArray
    forward_stop: StopReason
    backward_stop: StopReason

    @property
    def has_valid_ends(self) -> bool:
        """Whether both ends are end points or leave the image."""
        return self.forward_stop.is_valid_end and self.backward_stop.is_valid_end


def rnn_tracking(
    seeds: ArrayLike,
    stopping_criterion: StoppingCriterion,
    affine: ArrayLike,
    *,
    seed_directions: ArrayLike | None = None,
    sh: ArrayLike | None = None,
    pam: Any = None,
    features: FeatureVolume | None = None,
    model: AnyPath | Model | None = None,
    min_len: float = 2,
    max_len: float = 500,
    step_size: float = 0.2,
    max_angle: float = 60.0,
    basis_type: str | None = None,
    legacy: bool = True,
    nbr_threads: int = 0,
    random_seed: int = 0,
    seed_buffer_fraction: float = 1.0,
    return_all: bool = True,
    save_seeds: bool = False,
    batch_size: int = 0,
    device: str | None = None,
) -> Iterator[FloatArray | tuple[FloatArray, FloatArray]]:
    """Track streamlines with a recurrent network.

    The keywords are those of :func:`dipy.tracking.tracker.deterministic_tracking`.

    Parameters
    ----------
    seeds : array_like of shape (N, 3)
        Seed points in mm.
    stopping_criterion : dipy_rnn.stopping.StoppingCriterion
        Says where tracking ends.
    affine : array_like of shape (4, 4)
        Voxel to mm, without shear.
    seed_directions : array_like of shape (N, 3), optional
        First directions along the voxel axes. If None, the largest peak of the fODF
        at each seed (:meth:`dipy_rnn.propagator.Propagator.first_directions`). Seeds
        outside the image, without a peak or with a direction of length zero give no
        streamline.
    sh : array_like of shape (X, Y, Z, C), optional
        Spherical harmonics of the fODF, along the voxel axes. Exactly one of ``sh``,
        ``pam`` and ``features`` must be given.
    pam : dipy.direction.peaks.PeaksAndMetrics, optional
        Whose ``shm_coeff`` is used; the basis is found out.
    features : dipy_rnn.sh.FeatureVolume, optional
        For models that take something else, or SH in scanner axes.
    model : str, Path or dipy_rnn.model_file.Model, optional
        Name of a shipped model or a model file; ``"default"`` if None.
    min_len, max_len : float, optional
        Streamlines shorter or longer than this (mm, both halves) are discarded.
    step_size : float, optional
        Step in mm.
    max_angle : float, optional
        A streamline ends where a step would turn by more (degrees).
    basis_type : str, optional
        Basis of ``sh``: ``"descoteaux07"`` (also for None) or ``"tournier07"``.
    legacy : bool, optional
        Whether the basis is DIPY's legacy one.
    nbr_threads : int, optional
        0 for every core. The streamlines do not depend on it.
    random_seed : int, optional
        For :class:`dipy_rnn.stopping.CmcStoppingCriterion`, which draws at random:
        what it draws depends on this, the seed and the point alone. DIPY's own CMC
        draws in the order in which points come up, so with it streamlines do depend on
        ``batch_size``, threads and the other seeds. Nothing else is random.
    seed_buffer_fraction : float, optional
        Share of the seeds whose first directions are found, and held, at a time; some
        thousands at most.
    return_all : bool, optional
        False keeps the streamlines alone whose ends both met the stopping criterion
        as end points or left the image.
    save_seeds : bool, optional
        Yield (streamline, seed) instead of the streamline.
    batch_size : int, optional
        How many streamlines advance together, 0 for what suits the device. They do
        not depend on it.
    device : str, optional
        Where the network runs: ``"cpu"`` (also for None) or ``"cuda"``. A loaded
        ``model`` stays where it is.

    Returns
    -------
    streamlines : generator
        Of ndarrays of shape (M, 3) in mm, in the order of the seeds; or of tuples
        with the seed in mm.

    Raises
    ------
    ValueError
        If an argument is not as said; before anything is tracked.
    FileNotFoundError
        If there is no such model.

    Examples
    --------
    >>> from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> phantom = crossing_phantom(90)
    >>> streamlines = rnn_tracking(
    ...     phantom.streamlines(2)[0][0][50:52],
    ...     BinaryStoppingCriterion(phantom.mask()),
    ...     phantom.affine,
    ...     sh=phantom.fodf(),
    ...     step_size=1.0)
    >>> len(list(streamlines))
    2
    """
    affine = spaces.check_affine(affine)
    tracked = track(
        seeds,
        stopping_criterion,
        affine,
        seed_directions=seed_directions,
        features=_one_of(sh, pam, features, basis_type, legacy, affine),
        model=model,
        max_len=max_len,
        step_size=step_size,
        max_angle=max_angle,
        nbr_threads=nbr_threads,
        random_seed=random_seed,
        seed_buffer_fraction=seed_buffer_fraction,
        batch_size=batch_size,
        device=device,
    )
    min_points, max_points = length_limits(min_len, max_len, step_size)
    return (
        (line.points_mm, line.seed_mm) if save_seeds else line.points_mm
        for line in tracked
        if min_points <= len(line.points_mm) <= max_points
        and (return_all or line.has_valid_ends)
    )


def track(
    seeds: ArrayLike,
    stopping_criterion: StoppingCriterion,
    affine: ArrayLike,
    *,
    features: FeatureVolume,
    seed_directions: ArrayLike | None = None,
    model: AnyPath | Model | None = None,
    max_len: float = 500,
    step_size: float = 0.2,
    max_angle: float = 60.0,
    nbr_threads: int = 0,
    random_seed: int = 0,
    seed_buffer_fraction: float = 1.0,
    batch_size: int = 0,
    device: str | None = None,
) -> Iterator[Streamline]:
    """Track streamlines and tell why each ended; nothing is discarded.

    :func:`rnn_tracking` with the records behind its streamlines. Parameters are
    those of the same names there.

    Parameters
    ----------
    seeds, stopping_criterion, affine, features, seed_directions, model, max_len,
    step_size, max_angle, nbr_threads, random_seed, seed_buffer_fraction, batch_size,
    device
        See :func:`rnn_tracking`. A streamline longer than ``max_len`` is cut off
        one point beyond it.

    Returns
    -------
    streamlines : generator of Streamline
        In the order of the seeds.

    Raises
    ------
    ValueError
        If an argument is not as said; before anything is tracked.
    FileNotFoundError
        If there is no such model.

    Examples
    --------
    >>> from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.sh import fodf_features
    >>> phantom = crossing_phantom(90)
    >>> line = next(track(
    ...     phantom.streamlines(1)[0][0][50:51],
    ...     BinaryStoppingCriterion(phantom.mask()),
    ...     phantom.affine,
    ...     features=fodf_features(phantom.fodf()),
    ...     step_size=1.0))
    >>> line.forward_stop.name
    'ENDPOINT'
    """
    affine = spaces.check_affine(affine)
    seeds = spaces.check_points(seeds, "seeds")
    if seed_directions is not None:
        seed_directions = spaces.check_points(seed_directions, "seed_directions")
        if len(seed_directions) != len(seeds):
            raise ValueError(
                f"seed_directions has {len(seed_directions)} rows and seeds "
                f"{len(seeds)}: give one direction for each seed."
            )
    if not callable(getattr(stopping_criterion, "check_point", None)):
        raise ValueError(
            f"stopping_criterion is of type {type(stopping_criterion).__name__}; one "
            "of DIPY's criteria is needed (dipy.tracking.stopping_criterion)."
        )
    _, max_points = length_limits(0, max_len, step_size)
    if max_points < 1:
        raise ValueError(f"max_len is {max_len}; it must be at least step_size (mm).")
    spaces.check_number(max_angle, "max_angle")
    if not 0 < spaces.check_number(seed_buffer_fraction, "seed_buffer_fraction") <= 1:
        raise ValueError(
            f"seed_buffer_fraction is {seed_buffer_fraction}; a share above 0 and up "
            "to 1 is allowed."
        )
    n_slots = spaces.check_count(batch_size, "batch_size")
    random_seed = spaces.check_count(random_seed, "random_seed", 0, 2**32 - 1)
    nbr_threads = interpolate.count_threads(nbr_threads)
    model = load_model(model, device=device)
    model.check_step(step_size)
    propagator = Propagator(
        features, model, spaces.axes(affine), max_angle, nbr_threads
    )
    queue = engine.SeedQueue(
        propagator,
        seeds,
        affine,
        seed_directions,
        n_ahead=max(1, int(np.ceil(seed_buffer_fraction * len(seeds)))),
    )
    tracked = engine.run(
        propagator,
        stopping_criterion,
        queue,
        step_vox=step_size / spaces.voxel_sizes(affine),
        to_mm=affine,
        max_points=max_points,
        max_half=max_points + 2,  # no limit of its own
        n_slots=n_slots,
        nbr_threads=nbr_threads,
        random_seed=random_seed,
    )
    return _streamlines(tracked, seeds, random_seed)


def length_limits(min_len: float, max_len: float, step_size: float) -> tuple[int, int]:
    """Turn lengths in mm into numbers of points, as DIPY's newer trackers do.

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
        If ``step_size`` is not above 0, ``min_len`` negative or above ``max_len``, or
        one of them not finite; or for more than 2**31 points.

    Notes
    -----
    What is counted are points, one more than steps: a streamline of n points is kept
    by ``min_len = n * step_size``, though it is one step shorter.

    Examples
    --------
    >>> length_limits(2, 500, 0.5)
    (4, 1000)
    """
    step_size = spaces.check_number(step_size, "step_size")
    min_len = spaces.check_number(min_len, "min_len")
    max_len = spaces.check_number(max_len, "max_len")
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
    """Return lengths as the installed DIPY's trackers take them.

    Parameters
    ----------
    min_len, max_len : float
        Length of a streamline in mm.
    step_size : float
        Step in mm.

    Returns
    -------
    lengths : dict of str to float
        ``min_len`` and ``max_len``: in mm since DIPY 1.12, numbers of points before.

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


def dipy_is_at_least(major: int, minor: int) -> bool:
    """Tell whether the installed DIPY is of a version or later.

    Parameters
    ----------
    major, minor : int

    Returns
    -------
    answer : bool

    Examples
    --------
    >>> dipy_is_at_least(1, 11)
    True
    """
    return tuple(map(int, dipy.__version__.split(".")[:2])) >= (major, minor)


def _one_of(
    shcoeff: ArrayLike | None,
    pam: Any,
    features: FeatureVolume | None,
    basis_type: str | None,
    legacy: bool,
    affine: FloatArray,
) -> FeatureVolume:
    """Make a feature volume of the one that is given."""
    given = [
        n
        for n, v in (("sh", shcoeff), ("pam", pam), ("features", features))
        if v is not None
    ]
    if len(given) != 1:
        raise ValueError(
            f"Exactly one of sh, pam and features is needed; "
            f"given: {', '.join(given) or 'none'}."
        )
    if shcoeff is not None:
        return harmonics.fodf_features(shcoeff, basis_type=basis_type, legacy=legacy)
    if pam is not None:
        theirs = getattr(pam, "affine", None)
        if theirs is not None and not np.allclose(
            spaces.check_affine(theirs, "pam.affine"), affine, atol=1e-3
        ):
            raise ValueError(
                "pam.affine and affine differ; resample the fODF, or the images of the "
                "stopping criterion and of the seeds, onto one grid."
            )
        return harmonics.pam_features(pam)
    assert features is not None
    return features


def _streamlines(
    tracked: Iterable[tuple[int, FloatArray, int, StopReason, StopReason]],
    seeds: FloatArray,
    random_seed: int,
) -> Iterator[Streamline]:
    if random_seed:
        from dipy.utils import fast_numpy  # DIPY's own CMC draws from this generator

        fast_numpy.seed(random_seed)
    for index, points_mm, _, forward_stop, backward_stop in tracked:
        yield Streamline(points_mm, index, seeds[index], forward_stop, backward_stop)
