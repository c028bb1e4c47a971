"""Tracking with a recurrent network. The interface is like dipy.tracking.tracker."""

from collections.abc import Iterable, Iterator
from typing import Any
import warnings

import numpy as np

from dipy_rnn import draws, sampling, spatial
from dipy_rnn._checks import as_points, check_count, check_number
from dipy_rnn._threads import count_threads
from dipy_rnn._typing import AnyPath, ArrayLike, FloatArray
from dipy_rnn.model import Model, load_model
from dipy_rnn.sampling import FeatureVolume
from dipy_rnn.stopping import StoppingCriterion, check_criterion_grid
from dipy_rnn.tracking import engine
from dipy_rnn.tracking.config import (
    PMF_THRESHOLD,
    TrackingConfig,
    check_cone,
    length_limits,
)
from dipy_rnn.tracking.predictor import Predictor
from dipy_rnn.tracking.records import FinishedStreamlines, Streamline
from dipy_rnn.tracking.seed_queue import SeedQueue


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
    pmf_threshold: float = PMF_THRESHOLD,
    max_cross: int = 1,
    unidirectional: bool = False,
    tracking_method: str = "deterministic",
    temperature: float = 1.0,
    ended_thr: float = 1.0,
    lost_thr: float = 1.0,
    basis_type: str | None = None,
    legacy: bool = True,
    nbr_threads: int = 0,
    random_seed: int = 0,
    seed_buffer_fraction: float = 1.0,
    return_all: bool = True,
    save_seeds: bool = False,
    batch_size: int = 0,
    device: str | None = None,
    progress: bool = False,
) -> Iterator[FloatArray | tuple[FloatArray, FloatArray]]:
    """Track streamlines with a recurrent network.

    Keywords that :func:`dipy.tracking.tracker.deterministic_tracking` also has mean the
    same. Their defaults are equal, except for ``max_angle``: 60 degrees here, 20 there.

    Parameters
    ----------
    seeds : array_like of shape (N, 3)
        Seed points in mm.
    stopping_criterion : dipy_rnn.stopping.StoppingCriterion
        Where streamlines end. It must be on the grid of the fODF, or in
        :class:`dipy_rnn.stopping.OwnGridCriterion`. This is checked for DIPY's criteria
        and those of this package (the shape), and for others with attributes ``shape``
        or ``affine``. It cannot be checked for a function of coordinates without these
        attributes.
    affine : array_like of shape (4, 4)
        Voxel to mm, with up to 0.1 degrees of shear.
    seed_directions : array_like of shape (N, 3), optional
        First directions, in components along the voxel axes, of any length. If None,
        the largest peaks of the fODF at each seed (see ``max_cross``, and
        ``Predictor.first_directions`` in ``predictor.py``). A seed gives no streamline
        if it is outside the image, if it has no peak, or if its direction has length
        zero.
    sh : array_like of shape (X, Y, Z, C), optional
        Spherical harmonics of the fODF, with the voxel axes as x, y and z. Give exactly
        one of ``sh``, ``pam`` and ``features``.
    pam : dipy.direction.peaks.PeaksAndMetrics, optional
        Its ``shm_coeff`` is used. The basis is determined from its matrix ``B``, or
        given as ``basis_type`` and ``legacy``.
        Without ``shm_coeff``, its peaks are used (:func:`dipy_rnn.peaks_features`).
    features : dipy_rnn.sampling.FeatureVolume, optional
        Use it for spherical harmonics with the scanner axes as x, y and z
        (:func:`dipy_rnn.fodf_features`), and for models that take other features
        (:func:`dipy_rnn.raw_features`).
    model : str, Path or dipy_rnn.model.Model, optional
        Name of a shipped model, or a model file. ``"default"`` if None.
    min_len, max_len : float, optional
        Smallest and largest length of a streamline (both halves together) in mm. Others
        are discarded.
    step_size : float, optional
        Step in mm.
    max_angle : float, optional
        Angle in degrees of the cone around the incoming direction in which the next
        direction is sought.
    pmf_threshold : float, optional
        A streamline ends where the largest value of the fODF in the cone is below this
        share of the largest value in any direction.
    max_cross : int, optional
        Largest number of peaks of the fODF that are tracked from each seed. Each peak
        gives a streamline. If 0 or -1, all peaks are tracked (5 at most). Features
        that are not an fODF have one first direction at each seed. It cannot be given
        together with ``seed_directions``.
    unidirectional : bool, optional
        If True, track only from the seed along the first direction. The seed is then
        the first point of each streamline. Of the two directions of a peak, the one
        that points up is tracked (:mod:`dipy_rnn.sampling.peaks`). Give
        ``seed_directions`` to choose the direction.
    tracking_method : str, optional
        ``"deterministic"``: follow the direction that the network predicts.
        ``"probabilistic"``: draw directions from the distribution that it predicts
        (:func:`dipy_rnn.draws.add_errors`). The model must predict a spread, such as
        ``"default"``.
    temperature : float, optional
        Factor of the spread of probabilistic tracking, above 0. With 1, directions are
        drawn as predicted.
    ended_thr, lost_thr : float, optional
        End a streamline where the model predicts with a probability above this that the
        fibre has ended (a valid end), or that the streamline has left its bundle. 1 is
        never.
    basis_type : str, optional
        Basis of ``sh`` or ``pam``: ``"descoteaux07"`` or ``"tournier07"``. If None,
        ``"descoteaux07"`` for ``sh``, and the one of the matrix ``B`` for ``pam``.
    legacy : bool, optional
        Whether the basis is DIPY's legacy one.
    nbr_threads : int, optional
        0 for every core that this process may use: its affinity, ``OMP_NUM_THREADS``,
        ``SLURM_CPUS_PER_TASK`` and the quota of a container are honoured. In a process
        that was forked after tracking with several threads, one thread is used. The
        streamlines do not depend on it.
    random_seed : int, optional
        Seed of the random numbers of probabilistic tracking and of the stopping
        criterion. Nothing else is random. Draws of probabilistic tracking depend only
        on this number, on the seed of the streamline (and its number among equal seeds)
        and on the place along the streamline. Draws of
        :class:`dipy_rnn.stopping.CmcStoppingCriterion` depend on the same, and on the
        number of the point. DIPY's own
        CMC criterion takes its draws one after another from DIPY's generator, which is
        not seeded if this number is 0. Streamlines then also depend on ``batch_size``
        and on the other seeds.
    seed_buffer_fraction : float, optional
        Fraction of the seeds whose first directions are computed at a time, and held in
        memory. There are never more than 1024 of them.
    return_all : bool, optional
        If False, keep a streamline only if each half was ended by the stopping
        criterion (at a valid end), or left the image.
    save_seeds : bool, optional
        If True, yield (streamline, seed) instead of the streamline.
    batch_size : int, optional
        Number of streamlines that advance together. If 0, 2048 on the CPU and 65536 on
        a GPU. The streamlines do not depend on it (exception: ``random_seed``).
    device : str, optional
        Where the network runs: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``. If None, the CPU,
        or the device of a loaded ``model``.
    progress : bool, optional
        If True, show a progress bar of the seeds (tqdm) while streamlines are taken
        from the generator: on stderr, or as a widget in a notebook.

    Returns
    -------
    streamlines : generator
        Yields ndarrays of shape (M, 3) in mm, in the order of the seeds. Streamlines of
        one seed are in the order of its peaks, the largest first. With ``save_seeds``,
        yields tuples of a streamline and its seed in mm.

    Raises
    ------
    ValueError
        If an argument is invalid. It is raised before tracking starts.
    FileNotFoundError
        If the model does not exist.

    Warns
    -----
    UserWarning
        If seeds are outside the image.

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
    affine = spatial.check_affine(affine)
    seeds = as_points(seeds, "seeds")
    features = _one_of(sh, pam, features, basis_type, legacy, affine, nbr_threads)
    n_outside, text = spatial.describe_outside(seeds, affine, features.data.shape[:3])
    if n_outside:
        warnings.warn(f"Of the seeds, {text}", stacklevel=2)
    blocks = track_blocks(
        seeds,
        stopping_criterion,
        affine,
        seed_directions=seed_directions,
        features=features,
        model=model,
        max_len=max_len,
        step_size=step_size,
        max_angle=max_angle,
        pmf_threshold=pmf_threshold,
        max_cross=max_cross,
        unidirectional=unidirectional,
        tracking_method=tracking_method,
        temperature=temperature,
        ended_thr=ended_thr,
        lost_thr=lost_thr,
        nbr_threads=nbr_threads,
        random_seed=random_seed,
        seed_buffer_fraction=seed_buffer_fraction,
        batch_size=batch_size,
        device=device,
    )
    min_points, max_points = length_limits(min_len, max_len, step_size)
    if progress:
        blocks = _show_progress(blocks, len(seeds))
    return (
        (points_mm, seed_mm) if save_seeds else points_mm
        for block in blocks
        for points_mm, seed_mm, has_valid_ends in zip(
            block.each(), seeds[block.index], block.has_valid_ends
        )
        if min_points <= len(points_mm) <= max_points and (return_all or has_valid_ends)
    )


def track(
    seeds: ArrayLike,
    stopping_criterion: StoppingCriterion,
    affine: ArrayLike,
    **options: Any,
) -> Iterator[Streamline]:
    """Track streamlines, and return a record of each, with the reasons for its ends.

    No streamline is discarded.

    Parameters
    ----------
    seeds, stopping_criterion, affine, **options
        See :func:`track_blocks`.

    Returns
    -------
    streamlines : generator of Streamline
        In the order of the seeds, and of their peaks.

    Raises
    ------
    ValueError, FileNotFoundError
        As :func:`track_blocks`, before tracking starts.

    Examples
    --------
    >>> from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn import fodf_features
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
    seeds = as_points(seeds, "seeds")
    blocks = track_blocks(seeds, stopping_criterion, affine, **options)
    return (line for block in blocks for line in block.split(seeds))


def track_blocks(
    seeds: ArrayLike,
    stopping_criterion: StoppingCriterion,
    affine: ArrayLike,
    *,
    features: FeatureVolume,
    seed_directions: ArrayLike | None = None,
    seed_numbers: ArrayLike | None = None,
    model: AnyPath | Model | None = None,
    max_len: float = 500,
    step_size: float = 0.2,
    max_angle: float = 60.0,
    pmf_threshold: float = PMF_THRESHOLD,
    max_cross: int = 1,
    unidirectional: bool = False,
    tracking_method: str = "deterministic",
    temperature: float = 1.0,
    ended_thr: float = 1.0,
    lost_thr: float = 1.0,
    nbr_threads: int = 0,
    random_seed: int = 0,
    seed_buffer_fraction: float = 1.0,
    batch_size: int = 0,
    device: str | None = None,
) -> Iterator[FinishedStreamlines]:
    """Track streamlines, and return many of them at a time, in arrays.

    No streamline is discarded.

    Parameters
    ----------
    seeds, stopping_criterion, affine, features, seed_directions, model, max_len,
    step_size, max_angle, pmf_threshold, max_cross, unidirectional, tracking_method,
    temperature, ended_thr, lost_thr, nbr_threads, random_seed, seed_buffer_fraction,
    batch_size, device
        See :func:`rnn_tracking`. A streamline that would be longer than ``max_len``
        ends with the first point that is too many. ``rnn_tracking`` discards it.
    seed_numbers : array_like of shape (N,), optional
        Numbers of the seeds among equal ones, for draws at random. If None, they are
        counted among ``seeds`` (:func:`dipy_rnn.draws.count_equal`).

    Returns
    -------
    blocks : generator of FinishedStreamlines
        Streamlines in the order of the seeds, and of their peaks.

    Raises
    ------
    ValueError
        If an argument is invalid. It is raised before tracking starts.
    FileNotFoundError
        If the model does not exist.

    Examples
    --------
    >>> from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn import fodf_features
    >>> phantom = crossing_phantom(90)
    >>> block = next(track_blocks(
    ...     phantom.streamlines(1)[0][0][50:51],
    ...     BinaryStoppingCriterion(phantom.mask()),
    ...     phantom.affine,
    ...     features=fodf_features(phantom.fodf()),
    ...     step_size=1.0))
    >>> block.index.tolist(), block.has_valid_ends.tolist()
    ([0], [True])
    """
    affine = spatial.check_affine(affine)
    seeds = as_points(seeds, "seeds")
    if seed_directions is not None:
        seed_directions = as_points(seed_directions, "seed_directions")
        if len(seed_directions) != len(seeds):
            raise ValueError(
                f"seed_directions has {len(seed_directions)} rows and seeds "
                f"{len(seeds)}: give one direction for each seed."
            )
    max_peaks = _count_peaks(max_cross, seed_directions is not None)
    if not callable(getattr(stopping_criterion, "check_point", None)):
        raise ValueError(
            f"stopping_criterion is of type {type(stopping_criterion).__name__}; one "
            "of DIPY's criteria is needed (dipy.tracking.stopping_criterion)."
        )
    check_criterion_grid(stopping_criterion, features.data.shape[:3], affine)
    _, max_points = length_limits(0, max_len, step_size)
    if max_points < 1:
        raise ValueError(f"max_len is {max_len}; it must be at least step_size (mm).")
    if not 0 < check_number(seed_buffer_fraction, "seed_buffer_fraction") <= 1:
        raise ValueError(
            f"seed_buffer_fraction is {seed_buffer_fraction}; a fraction above 0 and "
            "up to 1 is allowed."
        )
    n_slots = check_count(batch_size, "batch_size")
    random_seed = check_count(random_seed, "random_seed", 0, 2**32 - 1)
    nbr_threads = count_threads(nbr_threads)
    check_cone(max_angle, pmf_threshold)
    model = load_model(model, device=device)
    model.check_step(step_size)
    model.warn_of_step(step_size, step_size / spatial.voxel_edge(affine))
    spread_scale = model.spread_scale(tracking_method, temperature)
    model.check_thresholds(ended_thr, lost_thr)
    keys = None
    if spread_scale or getattr(stopping_criterion, "draws_at_random", False):
        numbers = draws.count_equal(seeds) if seed_numbers is None else seed_numbers
        keys = draws.seed_keys(random_seed, spatial.to_voxels(seeds, affine), numbers)
    config = TrackingConfig.of(
        affine,
        step_size=step_size,
        max_angle=max_angle,
        pmf_threshold=pmf_threshold,
        max_points=max_points,
        warm_up_points=model.metadata.replay_points,
        unidirectional=unidirectional,
        random_seed=random_seed,
        spread_scale=spread_scale,
        ended_thr=ended_thr,
        lost_thr=lost_thr,
    )
    predictor = Predictor(features, model, spatial.axes(affine), nbr_threads)
    queue = SeedQueue(
        predictor,
        seeds,
        affine,
        seed_directions,
        seed_keys=keys,
        max_peaks=max_peaks,
        n_ahead=max(1, int(np.ceil(seed_buffer_fraction * len(seeds)))),
    )
    blocks = engine.run(
        predictor,
        stopping_criterion,
        queue,
        config,
        n_slots=n_slots,
        nbr_threads=nbr_threads,
    )
    return _seeded(blocks, random_seed)


def _one_of(
    shcoeff: ArrayLike | None,
    pam: Any,
    features: FeatureVolume | None,
    basis_type: str | None,
    legacy: bool,
    affine: FloatArray,
    nbr_threads: int,
) -> FeatureVolume:
    """Make a feature volume from sh, pam or features. Exactly one must be given."""
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
        return sampling.fodf_features(
            shcoeff, basis_type=basis_type, legacy=legacy, nbr_threads=nbr_threads
        )
    if pam is not None:
        theirs = getattr(pam, "affine", None)
        if theirs is not None and not spatial.is_same_grid(
            spatial.check_affine(theirs, "pam.affine"), affine
        ):
            raise ValueError(
                "pam.affine and affine differ; give pam.affine as affine. Seeds are in "
                "mm, and a stopping criterion on another grid is given in "
                "dipy_rnn.stopping.OwnGridCriterion."
            )
        return sampling.pam_features(pam, basis_type=basis_type, legacy=legacy)
    assert features is not None
    return features


def _count_peaks(max_cross: int, has_directions: bool) -> int:
    """Return the largest number of first directions of a seed."""
    n = check_count(max_cross, "max_cross", -1)
    if has_directions and n != 1:
        raise ValueError(
            f"max_cross is {n}, but seed_directions gives one direction for each seed; "
            "leave one of them out."
        )
    return min(n, sampling.MAX_PEAKS) if n > 0 else sampling.MAX_PEAKS


def _show_progress(
    blocks: Iterable[FinishedStreamlines], n_seeds: int
) -> Iterator[FinishedStreamlines]:
    """Yield blocks, and show the share of the seeds that is done."""
    from tqdm.auto import tqdm

    with tqdm(total=n_seeds, unit=" seeds") as bar:
        for block in blocks:
            bar.update(int(block.index[-1]) + 1 - bar.n)
            yield block
        bar.update(n_seeds - bar.n)


def _seeded(
    blocks: Iterable[FinishedStreamlines], random_seed: int
) -> Iterator[FinishedStreamlines]:
    """Seed DIPY's random generator when tracking starts. DIPY's own CMC uses it."""
    if random_seed:
        from dipy.utils import fast_numpy

        fast_numpy.seed(random_seed)
    yield from blocks
