"""Hold a recurrent tracker against one of DIPY's: what is different, and how much.

:func:`track_beside` tracks the same seeds from the same first directions with a
network, with an algorithm of DIPY, and with that once more on another sphere: how far
this one is from itself is the yardstick for all figures. :func:`measure` takes these
figures, which are defined in :mod:`dipy_rnn.evaluation`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
import time
from types import SimpleNamespace
from typing import Any

from dipy.data import default_sphere, get_sphere
from dipy.reconst.shm import sh_to_sf_matrix
from dipy.tracking.streamline import length
from dipy.tracking.tracker import (
    deterministic_tracking,
    eudx_tracking,
    probabilistic_tracking,
)
import numpy as np
from scipy.sparse import csr_array

from dipy_rnn import evaluation, peaks, spaces
from dipy_rnn._typing import (
    AnyArray,
    AnyPath,
    ArrayLike,
    BoolArray,
    FloatArray,
    IntArray,
)
from dipy_rnn.evaluation import Estimate, KnownBundle, Scores
from dipy_rnn.interpolate import sh_order
from dipy_rnn.model_file import Model
from dipy_rnn.sh import FeatureVolume
from dipy_rnn.stopping import StoppingCriterion
from dipy_rnn.tracking import dipy_is_at_least, lengths_for_dipy, rnn_tracking

#: Algorithms of DIPY, by the names that dipy_track gives them.
METHODS = ("deterministic", "probabilistic", "eudx")

ALIKE_MM = 2.0

_SPHERES = ("repulsion724", "symmetric724")
_TRACKERS = {
    "deterministic": deterministic_tracking,
    "probabilistic": probabilistic_tracking,
    "eudx": eudx_tracking,
}


@dataclass(frozen=True, eq=False)
class Tracked:
    """The streamlines of a tracker.

    Parameters
    ----------
    label : str
        What the tracker is called.
    streamlines : list of N ndarrays of shape (M, 3)
        In mm; those of one seed have the same place for all trackers, and no points
        where there is none.
    seconds : float, optional
        What tracking took.

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
        """Return what can be counted."""
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
    """Put the streamlines of a tracker at the places of their seeds.

    Parameters
    ----------
    tracked : iterable of tuple of (ndarray of shape (M, 3), ndarray of shape (3,))
        Streamlines with their seeds in the order of these, as trackers yield them
        with ``save_seeds``.
    seeds : ndarray of shape (N, 3)

    Returns
    -------
    streamlines : list of N ndarrays
        Without points where a seed gave no streamline.

    Raises
    ------
    ValueError
        If a streamline's seed is none of those that are left.

    Examples
    --------
    >>> seeds = np.array([[0.0, 0, 0], [1, 0, 0]])
    >>> [len(line) for line in by_seed([(np.zeros((5, 3)), seeds[1])], seeds)]
    [0, 5]
    """
    streamlines = [np.empty((0, 3))] * len(seeds)
    place = 0
    for line, seed in tracked:
        while place < len(seeds) and not np.allclose(
            seed, seeds[place], rtol=0, atol=1e-6
        ):
            place += 1
        if place == len(seeds):
            raise ValueError(f"No seed is left for a streamline from {seed}.")
        streamlines[place] = line
        place += 1
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

    All start along the largest peak of the fODF at each seed; seeds without one are
    left out.

    Parameters
    ----------
    seeds : array_like of shape (N, 3)
        Seed points in mm.
    stopping_criterion : dipy_rnn.stopping.StoppingCriterion
        Any of DIPY's.
    affine : array_like of shape (4, 4)
        Voxel to mm, without shear.
    features : dipy_rnn.sh.FeatureVolume
        The fODF.
    method : str, optional
        One of ``METHODS``.
    pam : dipy.direction.peaks.PeaksAndMetrics, optional
        What ``"eudx"`` follows; the others take its sphere, or else DIPY's default.
    model, min_len, max_len, step_size, max_angle
        As for :func:`dipy_rnn.rnn_tracking`.
    pmf_threshold : float, optional
        Of DIPY's algorithms.
    nbr_threads : int, optional
        0 for every core.
    random_seed : int, optional
        Of probabilistic tracking, above 0. The yardstick takes the next one.
    batch_size : int, optional
        As for :func:`dipy_rnn.rnn_tracking`.

    Returns
    -------
    tracked : dict of str to Tracked
        ``"candidate"``, the network's; ``"reference"``, DIPY's; ``"yardstick"``, the
        same on another sphere (of EuDX, with peaks found on another one).

    Raises
    ------
    ValueError
        If seeds or affine are none, the features are no fODF, a method is not known or
        lacks its peaks, or no seed has a first direction.

    Examples
    --------
    >>> from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.sh import fodf_features
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
    if features.kind != "sh":
        raise ValueError(
            f"{features.name} holds no fODF, which {method} tracking needs; compare "
            "two tractograms instead."
        )
    if method not in METHODS:
        raise ValueError(f"method is {method}; {', '.join(METHODS)} are allowed.")
    if method == "eudx" and pam is None:
        raise ValueError(
            f"eudx follows peaks, and {features.name} holds none; give a peaks and "
            "metrics file."
        )
    if method == "eudx" and not dipy_is_at_least(1, 12):
        raise ValueError(
            "eudx takes no first directions in this version of DIPY; install DIPY 1.12 "
            "or later, or choose another method."
        )
    if random_seed < 1:
        raise ValueError(f"random_seed is {random_seed}; 1 or more is needed.")
    seeds_mm = spaces.check_points(seeds, "seeds")
    affine = spaces.check_affine(affine)
    directions = peaks.first_directions(
        features.data,
        spaces.to_voxels(seeds_mm, affine),
        spaces.axes(affine),
        max_peaks=1,
        nbr_threads=nbr_threads,
    )[:, 0]
    found = directions.any(axis=1)
    if not found.any():
        raise ValueError(
            "No seed is where the fODF has a peak; look at the seeding image and at "
            f"{features.name}."
        )
    seeds_mm, directions = seeds_mm[found], directions[found]

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
                nbr_threads=nbr_threads,
                save_seeds=True,
                **options,
            ),
            seeds_mm,
        )
        return Tracked(label, streamlines, time.perf_counter() - start)

    sphere = getattr(pam, "sphere", None) or default_sphere
    other_name, other = _other_sphere(sphere)
    theirs = {"pmf_threshold": pmf_threshold} | lengths_for_dipy(
        min_len, max_len, step_size
    )
    if method == "eudx":
        of_sphere = {"pam": pam, "sphere": sphere, "random_seed": random_seed}
        of_other = of_sphere | {
            "pam": _peaks_on(features.data, spaces.axes(affine), other, nbr_threads)
        }
    else:
        # The package's basis, along the voxel axes.
        fodf = {"sh": features.data, "basis_type": "tournier07", "legacy": False}
        of_sphere = fodf | {"sphere": sphere, "random_seed": random_seed}
        of_other = fodf | {"sphere": other, "random_seed": random_seed + 1}
    return {
        "candidate": timed(
            "dipy_rnn",
            rnn_tracking,
            features=features,
            model=model,
            batch_size=batch_size,
            min_len=min_len,
            max_len=max_len,
        ),
        "reference": timed(method, _TRACKERS[method], **theirs, **of_sphere),
        "yardstick": timed(
            f"{method}, {other_name}", _TRACKERS[method], **theirs, **of_other
        ),
    }


def _other_sphere(sphere: Any) -> tuple[str, Any]:
    """Return one of DIPY's spheres of 724 vertices that is not this one, and its name.

    Repulsion724, half of which is DIPY's default, and symmetric724 are equally dense.
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
    """Find peaks at all voxels and name the vertices of a sphere next to them."""
    shape = volume.shape[:3]
    voxels = np.argwhere(volume.any(axis=3))
    directions = peaks.first_directions(
        volume, voxels.astype(float), axes, nbr_threads=nbr_threads
    )
    nearest = np.argmax(directions @ sphere.vertices.T, axis=2)
    matrix = sh_to_sf_matrix(
        sphere,
        sh_order_max=sh_order(volume.shape[3]),
        basis_type="tournier07",
        legacy=False,
        return_inv=False,
    )
    at_peaks = np.einsum("nc,cnk->nk", volume[*voxels.T], matrix[:, nearest])
    found = directions.any(axis=2)
    indices = np.full((*shape, directions.shape[1]), -1, np.int32)
    values = np.zeros(indices.shape)
    indices[*voxels.T] = np.where(found, nearest, -1)
    values[*voxels.T] = np.where(found, at_peaks, 0.0)
    return SimpleNamespace(
        peak_indices=indices, peak_values=values, odf_vertices=sphere.vertices
    )


def partner_distances(
    tracked: Mapping[str, Tracked], pairs: IntArray | None = None
) -> dict[str, FloatArray]:
    """Measure how far apart partners are where they are farthest apart.

    Parameters
    ----------
    tracked : dict of str to Tracked
        :func:`track_beside`.
    pairs : ndarray of shape (N,), int, optional
        Place of each candidate's partner in the reference, -1 for none. By default
        partners have the same place.

    Returns
    -------
    distances_mm : dict of str to ndarray of shape (N,)
        Hausdorff distances: ``"candidate"``, of the candidate from the reference;
        ``"yardstick"``, of the yardstick from the reference, if there is one. Infinite
        where one of the two has no points, NaN where both have none.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> one, other = Tracked("one", [line]), Tracked("other", [line + 1])
    >>> tracked = {"candidate": one, "reference": other}
    >>> partner_distances(tracked)["candidate"].round(2).tolist()
    [1.73]
    """
    return {
        key: np.array(
            [
                evaluation.hausdorff_mm(line, partner)
                if len(line) or len(partner)
                else np.nan
                for line, partner in partners
            ]
        )
        for key, partners in _partners(tracked, pairs).items()
    }


def _partners(
    tracked: Mapping[str, Tracked], pairs: IntArray | None
) -> dict[str, list[tuple[AnyArray, AnyArray]]]:
    """Return (streamline, partner in the reference) of candidate and yardstick."""
    nothing = np.empty((0, 3))
    reference = tracked["reference"].streamlines
    partners = reference
    if pairs is not None:
        partners = [reference[i] if i >= 0 else nothing for i in pairs]
    found = {
        "candidate": list(zip(tracked["candidate"].streamlines, partners, strict=True))
    }
    if "yardstick" in tracked:
        found["yardstick"] = list(
            zip(tracked["yardstick"].streamlines, reference, strict=True)
        )
    return found


def measure(
    tracked: Mapping[str, Tracked],
    distances: Mapping[str, FloatArray],
    affine: FloatArray,
    mask: BoolArray,
    *,
    pairs: IntArray | None = None,
    bundles: Mapping[str, KnownBundle] | None = None,
    regions: AnyArray | None = None,
    random_seed: int = 0,
) -> dict[str, Any]:
    """Take the figures of a comparison.

    Parameters
    ----------
    tracked : dict of str to Tracked
        :func:`track_beside`.
    distances : dict of str to ndarray of shape (N,)
        :func:`partner_distances`.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    mask : ndarray of shape (X, Y, Z), bool
        Where streamlines may be.
    pairs : ndarray of shape (N,), int, optional
        As for :func:`partner_distances`.
    bundles : dict of str to dipy_rnn.evaluation.KnownBundle, optional
        By name.
    regions : ndarray of shape (X, Y, Z), int, optional
        Labels of regions that streamlines connect.
    random_seed : int, optional
        Of the resamples behind standard errors.

    Returns
    -------
    figures : dict
        ``"trackers"``, what was counted; ``"between"``, figures of two tractograms
        (those of the yardstick beside the reference next to those of the candidate);
        ``"each"``, figures of each tractogram; ``"bundles"``, if there are any. All of
        plain numbers, with None for what is not defined.

    Examples
    --------
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> one, other = Tracked("one", [line]), Tracked("other", [line])
    >>> tracked = {"candidate": one, "reference": other}
    >>> figures = measure(
    ...     tracked, partner_distances(tracked), np.eye(4), np.ones((3, 1, 1), bool))
    >>> figures["between"][0]["label"], figures["between"][0]["candidate"]["value"]
    ('Alike within 2 mm', 1.0)
    """
    resampling = _Resampling(pairs is None, random_seed)
    visited = {
        key: evaluation.visited_voxels(by.streamlines, affine, mask.shape)
        for key, by in tracked.items()
    }
    partners = _partners(tracked, pairs)
    figures: dict[str, Any] = {
        "trackers": {key: by.facts() for key, by in tracked.items()},
        "between": [
            *_of_pairs(partners, distances),
            *_of_volumes(visited, resampling),
        ],
        "each": _of_each(tracked, visited, mask, resampling),
    }
    if regions is not None:
        connected = {
            key: evaluation.connections(by.streamlines, affine, regions)
            for key, by in tracked.items()
        }
        figures["between"].append(_of_connections(connected, resampling))
    if bundles:
        scores = {
            key: evaluation.score(by.streamlines, list(bundles.values()), affine)
            for key, by in tracked.items()
        }
        figures["each"] += _of_truth(scores, visited, bundles, resampling)
        figures["bundles"] = _of_bundles(scores, tracked, bundles, random_seed)
    return figures


def _of_pairs(
    partners: Mapping[str, list[tuple[AnyArray, AnyArray]]],
    distances: Mapping[str, FloatArray],
) -> Iterator[dict[str, Any]]:
    def alike(key: str) -> ArrayLike:
        some = ~np.isnan(distances[key])
        return distances[key][some] <= ALIKE_MM

    def farthest(key: str) -> ArrayLike:
        return distances[key]

    def each(
        measured: Callable[[AnyArray, AnyArray], float],
    ) -> Callable[[str], ArrayLike]:
        return lambda key: [measured(*pair) for pair in partners[key]]

    for name, label, unit, better, values, definition, source in (
        (
            "alike",
            f"Alike within {ALIKE_MM:g} mm",
            "%",
            "higher",
            alike,
            f"Share of the seeds whose two streamlines are nowhere more than "
            f"{ALIKE_MM:g} mm apart.",
            "Hausdorff distance, scipy.spatial.cKDTree",
        ),
        (
            "hausdorff",
            "Hausdorff distance",
            "mm",
            "lower",
            farthest,
            "How far apart partners are where they are farthest apart.",
            "scipy.spatial.cKDTree",
        ),
        (
            "mean_closest_point",
            "Mean closest-point distance",
            "mm",
            "lower",
            each(evaluation.mean_closest_point_mm),
            "Mean distance of the points of one to the nearest of the other, both "
            "ways.",
            "Corouge 2004; dipy.tracking.distances.mam_distances",
        ),
        (
            "end_point",
            "End-point distance",
            "mm",
            "lower",
            each(evaluation.end_point_mm),
            "Mean distance of the end points, paired in the better way.",
            "Garyfallidis 2012; dipy.segment.metric.mdf",
        ),
        (
            "angular_difference",
            "Angular difference",
            "deg",
            "lower",
            each(evaluation.angular_difference_deg),
            "Mean angle from each step to the nearest step of the partner.",
            "dipy_rnn.evaluation.angular_difference_deg",
        ),
    ):
        yield _figure(name, label, unit, better, definition, source) | {
            key: _plain(evaluation.estimated_mean(values(key))) for key in partners
        }


@dataclass(frozen=True)
class _Resampling:
    """How streamlines are drawn anew."""

    paired: bool
    random_seed: int

    def __call__(
        self,
        figure: Callable[..., float],
        *matrices: csr_array,
        paired: bool | None = None,
    ) -> dict[str, float | None]:
        return _plain(
            evaluation.bootstrapped(
                figure,
                *matrices,
                paired=self.paired if paired is None else paired,
                random_seed=self.random_seed,
            )
        )

    def beside_reference(
        self, figure: Callable[..., float], matrices: Mapping[str, csr_array]
    ) -> dict[str, dict[str, float | None]]:
        """Take a figure of candidate and yardstick, each with the reference."""
        reference = matrices["reference"]
        found = {"candidate": self(figure, matrices["candidate"], reference)}
        if "yardstick" in matrices:
            found["yardstick"] = self(
                figure, matrices["yardstick"], reference, paired=True
            )
        return found


def _of_volumes(
    visited: Mapping[str, csr_array], resampling: _Resampling
) -> Iterator[dict[str, Any]]:
    def dice(visits: IntArray, other: IntArray) -> float:
        return evaluation.dice(visits > 0, other > 0)

    for name, label, better, figure, definition, source in (
        (
            "dice",
            "Dice of visited voxels",
            "higher",
            dice,
            "2 |A and B| / (|A| + |B|) of the voxels with a streamline.",
            "Dice 1945",
        ),
        (
            "weighted_dice",
            "Weighted Dice",
            "higher",
            evaluation.weighted_dice,
            "Dice in which a voxel counts by its share of the streamlines.",
            "Cousineau 2017",
        ),
        (
            "density_correlation",
            "Correlation of densities",
            "higher",
            evaluation.density_correlation,
            "Pearson's, of the streamlines through each voxel that either visits.",
            "numpy.corrcoef",
        ),
    ):
        yield _figure(name, label, "", better, definition, source) | (
            resampling.beside_reference(figure, visited)
        )


def _of_connections(
    connected: Mapping[str, csr_array], resampling: _Resampling
) -> dict[str, Any]:
    return _figure(
        "connectivity_correlation",
        "Correlation of connectivity",
        "",
        "higher",
        "Pearson's, of the streamlines between each pair of regions that either "
        "connects.",
        "dipy.tracking.utils.connectivity_matrix",
    ) | resampling.beside_reference(evaluation.density_correlation, connected)


def _of_each(
    tracked: Mapping[str, Tracked],
    visited: Mapping[str, csr_array],
    mask: BoolArray,
    resampling: _Resampling,
) -> list[dict[str, Any]]:
    def means(
        measured: Callable[[AnyArray], float],
    ) -> dict[str, dict[str, float | None]]:
        return {
            key: _plain(
                evaluation.estimated_mean(
                    [measured(line) for line in by.streamlines if len(line)]
                )
            )
            for key, by in tracked.items()
        }

    inside = mask.ravel()
    return [
        _figure(
            "length",
            "Length",
            "mm",
            "",
            "Mean length of a streamline.",
            "dipy.tracking.streamline.length",
        )
        | means(length),
        _figure(
            "curvature",
            "Curvature",
            "1/mm",
            "",
            "Mean curvature along a streamline: 1 / R on a circle of radius R.",
            "dipy_rnn.evaluation.mean_curvature_per_mm",
        )
        | means(evaluation.mean_curvature_per_mm),
        _figure(
            "coverage",
            "Coverage",
            "%",
            "higher",
            "Share of the voxels in which tracking may go on that a streamline visits.",
            "dipy_rnn.evaluation.coverage",
        )
        | {
            key: resampling(lambda visits: evaluation.coverage(visits, inside), matrix)
            for key, matrix in visited.items()
        },
    ]


def _of_truth(
    scores: Mapping[str, Scores],
    visited: Mapping[str, csr_array],
    bundles: Mapping[str, KnownBundle],
    resampling: _Resampling,
) -> Iterator[dict[str, Any]]:
    tractometer = "Cote 2013; Maier-Hein 2017"
    shares: tuple[tuple[str, str, str, Callable[[IntArray], BoolArray], str], ...] = (
        (
            "valid",
            "Valid connections",
            "higher",
            lambda labels: labels >= 0,
            "Share of the seeds whose streamline connects both ends of one bundle.",
        ),
        (
            "invalid",
            "Invalid connections",
            "lower",
            lambda labels: labels == evaluation.INVALID_CONNECTION,
            "Share that connects ends that belong together in no bundle.",
        ),
        (
            "none",
            "No connection",
            "lower",
            lambda labels: labels == evaluation.NO_CONNECTION,
            "Share of all others.",
        ),
    )
    for name, label, better, chosen, definition in shares:
        yield _figure(name, label, "%", better, definition, tractometer) | {
            key: _plain(evaluation.estimated_mean(chosen(of.labels)))
            for key, of in scores.items()
        }
    volumes = {
        key: _BundleVolumes(of.labels, visited[key], list(bundles.values()))
        for key, of in scores.items()
    }
    for name, label, unit, better, definition in (
        (
            "valid_bundles",
            "Valid bundles",
            "",
            "higher",
            f"How many of the {len(bundles)} bundles have a valid connection.",
        ),
        (
            "overlap",
            "Overlap",
            "%",
            "higher",
            "Share of a bundle's voxels that its valid connections visit; mean of "
            "the bundles.",
        ),
        (
            "overreach",
            "Overreach",
            "%",
            "lower",
            "Voxels that they visit beside the bundle, by those in it; mean of the "
            "bundles.",
        ),
        (
            "f1",
            "F1",
            "",
            "higher",
            "Dice of the voxels they visit and the bundle's; mean of the bundles.",
        ),
    ):
        yield _figure(name, label, unit, better, definition, tractometer) | {
            key: resampling(getattr(volume, name), volume.visited)
            for key, volume in volumes.items()
        }


class _BundleVolumes:
    """What the valid connections of each bundle visit, ready for resampling."""

    def __init__(
        self, labels: IntArray, visited: csr_array, bundles: Sequence[KnownBundle]
    ) -> None:
        masks = np.array([bundle.mask.ravel() for bundle in bundles])
        rows, voxels = visited.nonzero()
        valid = labels[rows] >= 0
        rows, voxels = rows[valid], voxels[valid]
        places, columns = np.unique(
            labels[rows] * visited.shape[1] + voxels, return_inverse=True
        )
        self.visited = csr_array(
            (np.ones(len(rows), dtype=int), (rows, columns)),
            shape=(len(labels), len(places)),
        )
        self._bundle, voxels = np.divmod(places, visited.shape[1])
        self._inside = masks[self._bundle, voxels]
        self._size = masks.sum(axis=1)

    def _n_voxels(self, chosen: BoolArray) -> IntArray:
        return np.bincount(self._bundle[chosen], minlength=len(self._size))

    def valid_bundles(self, visits: IntArray) -> float:
        return float(np.count_nonzero(self._n_voxels(visits > 0)))

    def overlap(self, visits: IntArray) -> float:
        return float(np.mean(self._n_voxels((visits > 0) & self._inside) / self._size))

    def overreach(self, visits: IntArray) -> float:
        return float(np.mean(self._n_voxels((visits > 0) & ~self._inside) / self._size))

    def f1(self, visits: IntArray) -> float:
        common = self._n_voxels((visits > 0) & self._inside)
        return float(np.mean(2 * common / (self._n_voxels(visits > 0) + self._size)))


def _of_bundles(
    scores: Mapping[str, Scores],
    tracked: Mapping[str, Tracked],
    bundles: Iterable[str],
    random_seed: int,
) -> list[dict[str, Any]]:
    def valid(key: str, number: int) -> list[AnyArray]:
        return [
            tracked[key].streamlines[i]
            for i in np.flatnonzero(scores[key].labels == number)
        ]

    def entry(key: str, number: int) -> dict[str, float]:
        lines = valid(key, number)
        found: dict[str, float] = {
            "n_valid": len(lines),
            "overlap": float(scores[key].overlaps[number]),
            "overreach": float(scores[key].overreaches[number]),
            "f1": float(scores[key].f1s[number]),
        }
        if key != "reference":
            found["shape_similarity"] = evaluation.shape_similarity(
                lines, valid("reference", number), random_seed=random_seed
            )
        return found

    return [
        {"name": name, "label": name} | {key: entry(key, number) for key in tracked}
        for number, name in enumerate(bundles)
    ]


def _figure(
    name: str, label: str, unit: str, better: str, definition: str, source: str
) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "unit": unit,
        "better": better,
        "definition": definition,
        "source": source,
    }


def _plain(estimate: Estimate) -> dict[str, float | None]:
    """Return an estimate as JSON knows it."""
    values = {
        "value": estimate.value,
        "standard_error": estimate.standard_error,
        "low": estimate.low,
        "high": estimate.high,
    }
    return {key: value if isfinite(value) else None for key, value in values.items()}
