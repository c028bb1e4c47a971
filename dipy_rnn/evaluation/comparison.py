"""Track the same seeds with a recurrent network and with an algorithm of DIPY.

:func:`track_beside` tracks the same seeds from the same first directions with the
network, with the algorithm of DIPY, and with the same algorithm on another sphere:
DIPY's algorithms choose each direction from the vertices of a sphere. The third
tractogram is the self-agreement baseline: it tells how much two runs of one algorithm
differ. :func:`dipy_rnn.evaluation.metrics.measure` computes the metrics of the result.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
import logging
from pathlib import Path
import time
from types import SimpleNamespace
from typing import Any

from dipy.data import default_sphere, get_sphere
from dipy.reconst.shm import sh_to_sf_matrix
from dipy.tracking.tracker import (
    deterministic_tracking,
    eudx_tracking,
    probabilistic_tracking,
    ptt_tracking,
)
import numpy as np

from dipy_rnn import _checks, sampling, spatial
from dipy_rnn._dipy_compat import dipy_is_at_least
from dipy_rnn._typing import AnyArray, AnyPath, ArrayLike, FloatArray, IntArray
from dipy_rnn.evaluation.partners import find_partners
from dipy_rnn.io import check_placement, read_tractogram, shown
from dipy_rnn.model import Model
from dipy_rnn.sampling import FeatureVolume, sh_order
from dipy_rnn.stopping import StoppingCriterion
from dipy_rnn.tracking import lengths_for_dipy, rnn_tracking

logger = logging.getLogger("dipy")  # DIPY's commands show and save its messages

_TRACKERS = {
    "deterministic": deterministic_tracking,
    "probabilistic": probabilistic_tracking,
    "ptt": ptt_tracking,
    "eudx": eudx_tracking,
}
#: Algorithms of DIPY, by their names in dipy_track.
METHODS = tuple(_TRACKERS)
#: Algorithms that draw at random.
DRAWING_METHODS = ("probabilistic", "ptt")

_VOXELS_AT_A_TIME = 10_000  # 0.3 GB of cosines to the vertices
_SPHERES = ("repulsion724", "symmetric724")


@dataclass(frozen=True, eq=False)
class Tracked:
    """The streamlines of a tracker.

    Parameters
    ----------
    label : str
        Name of the tracker on the page and in the log.
    streamlines : list of N ndarrays of shape (M, 3)
        In mm. If trackers started from the same seeds, streamlines of equal index have
        the same seed, and a seed without a streamline has an empty array.
    seconds : float, optional
        Time of tracking.

    Examples
    --------
    >>> Tracked("deterministic", [np.zeros((5, 3)), np.empty((0, 3))], 0.5).facts()
    {'label': 'deterministic', 'n_seeds': 2, 'n_streamlines': 1, 'n_points': 5, \
'seconds': 0.5, 'steps_per_second': 10.0}
    """

    label: str
    streamlines: list[AnyArray]
    seconds: float | None = None

    def facts(self) -> dict[str, str | float]:
        """Return the label, the counts and, if they are known, time and speed."""
        n_points = sum(map(len, self.streamlines))
        facts: dict[str, str | float] = {"label": self.label}
        if self.seconds is not None:
            facts["n_seeds"] = len(self.streamlines)
        facts["n_streamlines"] = sum(len(line) > 0 for line in self.streamlines)
        facts["n_points"] = n_points
        if self.seconds is not None:
            facts["seconds"] = self.seconds
            facts["steps_per_second"] = n_points / self.seconds
        return facts


def by_seed(
    tracked: Iterable[tuple[AnyArray, AnyArray]], seeds: AnyArray
) -> list[AnyArray]:
    """Arrange the streamlines of a tracker by seed.

    Parameters
    ----------
    tracked : iterable of tuple of (ndarray of shape (M, 3), ndarray of shape (3,))
        Streamlines with their seeds, in the order of the seeds, as trackers yield them
        with ``save_seeds``.
    seeds : ndarray of shape (N, 3)

    Returns
    -------
    streamlines : list of N ndarrays
        An empty array for each seed without a streamline.

    Raises
    ------
    ValueError
        If the seed of a streamline does not follow in `seeds`.

    Examples
    --------
    >>> seeds = np.array([[0.0, 0, 0], [1, 0, 0]])
    >>> [len(line) for line in by_seed([(np.zeros((5, 3)), seeds[1])], seeds)]
    [0, 5]
    """
    streamlines = [np.empty((0, 3))] * len(seeds)
    index = 0
    for line, seed in tracked:
        while index < len(seeds) and not np.allclose(
            seed, seeds[index], rtol=0, atol=1e-6
        ):
            index += 1
        if index == len(seeds):
            raise ValueError(f"No seed is left for a streamline from {seed}.")
        streamlines[index] = line
        index += 1
    return streamlines


def track_beside(
    seeds: ArrayLike,
    stopping_criterion: StoppingCriterion,
    affine: ArrayLike,
    *,
    features: FeatureVolume,
    method: str = "deterministic",
    pam: Any = None,
    model: Model | AnyPath | None = None,
    min_len: float = 2,
    max_len: float = 500,
    step_size: float = 0.5,
    max_angle: float = 30.0,
    pmf_threshold: float = 0.1,
    nbr_threads: int = 0,
    random_seed: int = 1,
    batch_size: int = 0,
) -> dict[str, Tracked]:
    """Track the same seeds with a network and with an algorithm of DIPY.

    At each seed, all trackers start along the largest peak of the fODF. Seeds at which
    the fODF has no peak are left out.

    Parameters
    ----------
    seeds : array_like of shape (N, 3)
        Seed points in mm.
    stopping_criterion : dipy_rnn.stopping.StoppingCriterion
        Any stopping criterion of DIPY.
    affine : array_like of shape (4, 4)
        Voxel to mm, with up to 0.1 degrees of shear.
    features : dipy_rnn.sampling.FeatureVolume
        The fODF.
    method : str, optional
        Algorithm of DIPY: ``"deterministic"``, ``"probabilistic"``, ``"ptt"`` or
        ``"eudx"``. With ``"probabilistic"`` and ``"ptt"``, which draw at random, the
        network tracks probabilistically, too.
    pam : dipy.direction.peaks.PeaksAndMetrics, optional
        Peaks that ``"eudx"`` follows, on its sphere. The other methods use its sphere
        only; without it, they use DIPY's default sphere.
    model, min_len, max_len, step_size, max_angle, pmf_threshold
        As for :func:`dipy_rnn.rnn_tracking`. All trackers get the same.
    nbr_threads : int, optional
        0 for every core.
    random_seed : int, optional
        Seed of algorithms that draw at random, 1 or more. The baseline uses the next
        integer.
    batch_size : int, optional
        As for :func:`dipy_rnn.rnn_tracking`.

    Returns
    -------
    tracked : dict of str to Tracked
        ``"candidate"``: the network; ``"reference"``: the algorithm of DIPY;
        ``"yardstick"``: the self-agreement baseline, the same algorithm with other
        random numbers, or, if it draws nothing, on another sphere. For EuDX, the
        baseline follows peaks found on another sphere.

    Raises
    ------
    ValueError
        If seeds or affine are invalid, the features are not an fODF, the method is
        unknown, ``"eudx"`` has no valid peaks, the fODF has no peak at any seed, or no
        tracker finds a streamline.

    Examples
    --------
    >>> from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.sampling import fodf_features
    >>> phantom = crossing_phantom(90)
    >>> tracked = track_beside(
    ...     phantom.streamlines(1)[0][0][40:50:5],
    ...     BinaryStoppingCriterion(phantom.mask()),
    ...     phantom.affine,
    ...     features=fodf_features(phantom.fodf()))
    >>> [(key, by.label, len(by.streamlines)) for key, by in tracked.items()]
    ... # doctest: +NORMALIZE_WHITESPACE
    [('candidate', 'dipy_rnn', 2), ('reference', 'deterministic', 2),
     ('yardstick', 'deterministic, symmetric724', 2)]
    """
    _check_method(method, features, pam)
    if random_seed < 1:
        raise ValueError(f"random_seed is {random_seed}; 1 or more is needed.")
    affine = spatial.check_affine(affine)
    seeds_mm, directions = _with_first_direction(
        _checks.as_points(seeds, "seeds"), affine, features, nbr_threads
    )

    def timed(label: str, tracker: Callable[..., Any], **options: Any) -> Tracked:
        start = time.perf_counter()
        streamlines = by_seed(
            tracker(
                seeds_mm,
                stopping_criterion,
                affine,
                seed_directions=directions,
                step_size=step_size,
                max_angle=max_angle,
                pmf_threshold=pmf_threshold,
                nbr_threads=nbr_threads,
                save_seeds=True,
                **options,
            ),
            seeds_mm,
        )
        return Tracked(label, streamlines, time.perf_counter() - start)

    sphere = getattr(pam, "sphere", None) or default_sphere
    other_name, other = _other_sphere(sphere)
    of_dipy = lengths_for_dipy(min_len, max_len, step_size)
    if method == "eudx":
        of_reference = {"pam": pam, "sphere": sphere, "random_seed": random_seed}
        of_baseline = of_reference | {
            "pam": _peaks_on(features.data, spatial.axes(affine), other, nbr_threads)
        }
    else:
        # The basis of FeatureVolume, along the voxel axes.
        fodf = {"sh": features.data, "basis_type": "tournier07", "legacy": False}
        of_reference = fodf | {"sphere": sphere, "random_seed": random_seed}
        of_baseline = of_reference | {"sphere": other}
        if method in DRAWING_METHODS:
            other_name = f"random seed {random_seed + 1}"
            of_baseline = of_reference | {"random_seed": random_seed + 1}
    tracked = {
        "candidate": timed(
            "dipy_rnn",
            rnn_tracking,
            features=features,
            model=model,
            batch_size=batch_size,
            min_len=min_len,
            max_len=max_len,
            random_seed=random_seed,
            tracking_method=(
                "probabilistic" if method in DRAWING_METHODS else "deterministic"
            ),
        ),
        "reference": timed(method, _TRACKERS[method], **of_dipy, **of_reference),
        "yardstick": timed(
            f"{method}, {other_name}", _TRACKERS[method], **of_dipy, **of_baseline
        ),
    }
    empty = [by.label for by in tracked.values() if not any(map(len, by.streamlines))]
    if len(empty) == len(tracked):
        raise ValueError(
            f"No tracker found a streamline of {min_len:g} to {max_len:g} mm from "
            f"{len(seeds_mm)} seeds; check the stopping image and its threshold, and "
            "the lengths."
        )
    for label in empty:
        logger.warning(f"{label} found no streamline of {min_len:g} to {max_len:g} mm.")
    return tracked


def _check_method(method: str, features: FeatureVolume, pam: Any) -> None:
    """Raise ValueError if a method cannot track these features and peaks."""
    if features.kind != "sh":
        raise ValueError(
            f"{features.name} holds no fODF, which {method} tracking needs; compare "
            "two tractograms instead."
        )
    if method not in METHODS:
        raise ValueError(f"method is {method}; {', '.join(METHODS)} are allowed.")
    if method != "eudx":
        return
    if pam is None:
        raise ValueError(
            f"eudx follows peaks, but {features.name} holds none; give a peaks and "
            "metrics file."
        )
    if not dipy_is_at_least(1, 12):
        raise ValueError(
            "eudx takes no first directions in this version of DIPY; install DIPY 1.12 "
            "or later, or choose another method."
        )
    indices, values = (
        getattr(pam, name, None) for name in ("peak_indices", "peak_values")
    )
    # DIPY does not check that an index is within the sphere.
    if (
        pam.sphere is None
        or indices is None
        or values is None
        or indices.ndim != 4
        or indices.shape[:3] != features.data.shape[:3]
        or indices.shape != values.shape
        or not ((indices >= -1) & (indices < len(pam.sphere.vertices))).all()
    ):
        raise ValueError(
            f"{features.name} holds no peaks that eudx can follow (peak_indices, "
            "peak_values and sphere_vertices that fit each other); make it with "
            "dipy_fit_csd, or choose another tracking_method."
        )


def _with_first_direction(
    seeds_mm: FloatArray,
    affine: FloatArray,
    features: FeatureVolume,
    nbr_threads: int,
) -> tuple[FloatArray, FloatArray]:
    """Return the seeds that have a peak, and the direction of their largest peak."""
    directions = sampling.first_directions(
        features.data,
        spatial.to_voxels(seeds_mm, affine),
        spatial.axes(affine),
        max_peaks=1,
        nbr_threads=nbr_threads,
    )[:, 0]
    has_peak = directions.any(axis=1)
    if not has_peak.any():
        raise ValueError(
            f"The fODF of {features.name} has no peak at any seed; check that file and "
            "the seeding image."
        )
    return seeds_mm[has_peak], directions[has_peak]


def _other_sphere(sphere: Any) -> tuple[str, Any]:
    """Return another sphere of 724 vertices, after its name.

    It is repulsion724, or symmetric724 if the given sphere is repulsion724 or half of
    it, such as DIPY's default sphere. Both are equally dense.
    """
    for name in _SPHERES:
        other = get_sphere(name=name)
        cosines = np.abs(sphere.vertices @ other.vertices.T)
        if cosines.max(axis=1).min() < np.cos(np.deg2rad(0.1)):
            break
    return name, other


def _peaks_on(
    volume: AnyArray, axes: FloatArray, sphere: Any, nbr_threads: int
) -> SimpleNamespace:
    """Find the peaks of all voxels, and the vertices of a sphere nearest to them."""
    shape = volume.shape[:3]
    voxels = np.argwhere(volume.any(axis=3))
    directions = sampling.first_directions(
        volume, voxels.astype(float), axes, nbr_threads=nbr_threads
    )
    matrix = sh_to_sf_matrix(
        sphere,
        sh_order_max=sh_order(volume.shape[3]),
        basis_type="tournier07",
        legacy=False,
        return_inv=False,
    )
    nearest = np.empty(directions.shape[:2], dtype=np.int64)
    at_peaks = np.empty(directions.shape[:2])
    for start in range(0, len(voxels), _VOXELS_AT_A_TIME):
        part = slice(start, start + _VOXELS_AT_A_TIME)
        nearest[part] = np.argmax(directions[part] @ sphere.vertices.T, axis=2)
        coeffs = volume[*voxels[part].T]
        at_peaks[part] = np.einsum("nc,cnk->nk", coeffs, matrix[:, nearest[part]])
    is_peak = directions.any(axis=2)
    indices = np.full((*shape, directions.shape[1]), -1, np.int32)
    values = np.zeros(indices.shape)
    indices[*voxels.T] = np.where(is_peak, nearest, -1)
    values[*voxels.T] = np.where(is_peak, at_peaks, 0.0)
    return SimpleNamespace(
        peak_indices=indices, peak_values=values, odf_vertices=sphere.vertices
    )


def load_beside(
    candidate: Path,
    reference: Path,
    image_path: Path,
    image: AnyArray,
    affine: FloatArray,
) -> tuple[dict[str, Tracked], IntArray]:
    """Load two tractogram files, and find which streamlines are partners.

    Partners are streamlines of the same seed if both files contain seeds, otherwise
    nearest streamlines (:func:`dipy_rnn.evaluation.find_partners`).

    Parameters
    ----------
    candidate, reference : Path
        Tractogram files.
    image_path, image, affine : Path, ndarray of (X, Y, Z), ndarray of shape (4, 4)
        The image in which they lie.

    Returns
    -------
    tracked : dict of str to Tracked
        ``"candidate"`` and ``"reference"``. The labels are the names of the files, or
        their paths if the names are equal.
    partners : ndarray of shape (N,), int
        For each streamline of the candidate, the index of its partner in the reference;
        -1 without a partner.

    Raises
    ------
    ValueError, OSError
        If a file cannot be read, or does not lie in the image
        (:func:`dipy_rnn.io.check_placement`).

    Examples
    --------
    >>> import tempfile
    >>> from dipy_rnn.io import write_tractogram
    >>> path = Path(tempfile.mkdtemp()) / "one.trk"
    >>> write_tractogram(path, [(np.eye(2, 3), {})], np.eye(4), (3, 3, 3))
    1
    >>> image = np.ones((3, 3, 3))
    >>> tracked, partners = load_beside(path, path, Path("fa.nii.gz"), image, np.eye(4))
    >>> list(tracked), len(tracked["candidate"].streamlines)
    (['candidate', 'reference'], 1)
    """
    paths = {"candidate": candidate, "reference": reference}
    is_same_name = candidate.name == reference.name
    tracked, seeds = {}, []
    for key, path in paths.items():
        loaded = list(read_tractogram(path))
        label = str(path) if is_same_name else path.name
        tracked[key] = Tracked(label, [line for line, _ in loaded])
        check_placement(
            tracked[key].streamlines,
            affine,
            image,
            name=shown(path),
            image_name=shown(image_path),
        )
        has_seeds = all("seeds" in values for _, values in loaded)
        seeds.append([values["seeds"] for _, values in loaded] if has_seeds else None)
    if None in seeds:
        logger.info("A file contains no seeds, so partners are nearest streamlines")
    else:
        logger.info("Partners are streamlines of the same seed")
    return tracked, find_partners(*(by.streamlines for by in tracked.values()), *seeds)
