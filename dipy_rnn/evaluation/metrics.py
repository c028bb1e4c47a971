"""The metrics of a comparison of two tractograms.

:func:`measure` computes them for the tractograms of
:func:`dipy_rnn.evaluation.comparison.track_beside`, or for two existing ones. Each
metric is a :class:`dipy_rnn.evaluation.definitions.Metric`.

Trackers are known by three keys: ``"candidate"`` is compared with ``"reference"``, and
``"yardstick"``, if there is one, is the self-agreement baseline: the algorithm of the
reference on another sphere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dipy.tracking.streamline import length
import numpy as np
from scipy.sparse import csr_array

from dipy_rnn._typing import AnyArray, BoolArray, FloatArray, IntArray
from dipy_rnn.evaluation.bundles import KnownBundle, shape_similarity
from dipy_rnn.evaluation.definitions import AGREEMENT_MM, Metric, define
from dipy_rnn.evaluation.distances import (
    angular_difference_deg,
    end_point_mm,
    hausdorff_mm,
    mean_closest_point_mm,
    mean_curvature_per_mm,
)
from dipy_rnn.evaluation.scores import (
    INVALID_CONNECTION,
    NO_CONNECTION,
    BundleVolumes,
    Scores,
    score,
)
from dipy_rnn.evaluation.statistics import Estimate, bootstrapped, estimated_mean
from dipy_rnn.evaluation.volumes import (
    connections,
    coverage,
    density_correlation,
    dice,
    visited_voxels,
    weighted_dice,
)

if TYPE_CHECKING:
    from dipy_rnn.evaluation.comparison import Tracked


def partner_distances(
    tracked: Mapping[str, Tracked], pairs: IntArray | None = None
) -> dict[str, FloatArray]:
    """Compute the Hausdorff distance of each streamline from its partner.

    Parameters
    ----------
    tracked : dict of str to Tracked
        Result of :func:`dipy_rnn.evaluation.comparison.track_beside`.
    pairs : ndarray of shape (N,), int, optional
        Index of each candidate's partner in the reference, -1 for none
        (:func:`dipy_rnn.evaluation.find_partners`). By default streamlines of equal
        index are partners.

    Returns
    -------
    distances_mm : dict of str to ndarray of shape (N,)
        ``"candidate"``: distances of the candidate from the reference;
        ``"yardstick"``: distances of the self-agreement baseline from the reference,
        if there is a baseline. Infinite if one of the partners has no points, NaN if
        both have none.

    Examples
    --------
    >>> from dipy_rnn.evaluation.comparison import Tracked
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> one, other = Tracked("one", [line]), Tracked("other", [line + 1])
    >>> tracked = {"candidate": one, "reference": other}
    >>> partner_distances(tracked)["candidate"].round(2).tolist()
    [1.73]
    """
    return {
        key: np.array(
            [
                hausdorff_mm(line, partner) if len(line) or len(partner) else np.nan
                for line, partner in partners
            ]
        )
        for key, partners in _partners(tracked, pairs).items()
    }


def _partners(
    tracked: Mapping[str, Tracked], pairs: IntArray | None
) -> dict[str, list[tuple[AnyArray, AnyArray]]]:
    """Return (streamline, partner in the reference) of candidate and baseline."""
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
    regions: tuple[AnyArray, FloatArray] | None = None,
    random_seed: int = 0,
) -> dict[str, Any]:
    """Compute the metrics of a comparison.

    Parameters
    ----------
    tracked : dict of str to Tracked
        Result of :func:`dipy_rnn.evaluation.comparison.track_beside`.
    distances : dict of str to ndarray of shape (N,)
        Result of :func:`partner_distances`.
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    mask : ndarray of shape (X, Y, Z), bool
        Voxels in which tracking may continue; the metric ``"coverage"`` is their
        visited share.
    pairs : ndarray of shape (N,), int, optional
        As for :func:`partner_distances`.
    bundles : dict of str to dipy_rnn.evaluation.KnownBundle, optional
        Known bundles by name.
    regions : tuple of ndarray of int and ndarray of shape (4, 4), optional
        Labels of the regions that streamlines connect, on any grid, and the affine of
        this grid.
    random_seed : int, optional
        Seed of the resamples for standard errors.

    Returns
    -------
    metrics : dict
        The sections of metrics.json: ``"trackers"``, the counts and times of each
        tracker (:meth:`Tracked.facts`); ``"between"``, a list of :class:`Metric` that
        compare candidate and baseline with the reference; ``"each"``, a list of
        :class:`Metric` of each tractogram; ``"bundles"``, the scores of each known
        bundle and tracker, if there are known bundles.

    Examples
    --------
    >>> from dipy_rnn.evaluation.comparison import Tracked
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> one, other = Tracked("one", [line]), Tracked("other", [line])
    >>> tracked = {"candidate": one, "reference": other}
    >>> metrics = measure(
    ...     tracked, partner_distances(tracked), np.eye(4), np.ones((3, 1, 1), bool))
    >>> share = metrics["between"][0]
    >>> share.label, share.estimates["candidate"].value
    ('Agreement within 2 mm', 1.0)
    """
    visited = {
        key: visited_voxels(by.streamlines, affine, mask.shape)
        for key, by in tracked.items()
    }
    compare = partial(_with_reference, is_paired=pairs is None, random_seed=random_seed)
    between = [
        *_of_pairs(_partners(tracked, pairs), distances),
        compare("dice", lambda visits, other: dice(visits > 0, other > 0), visited),
        compare("weighted_dice", weighted_dice, visited),
        compare("density_correlation", density_correlation, visited),
    ]
    each = _of_each(tracked, visited, mask, random_seed)
    metrics: dict[str, Any] = {
        "trackers": {key: by.facts() for key, by in tracked.items()},
        "between": between,
        "each": each,
    }
    if regions is not None:
        labels, own_affine = regions
        connected = {
            key: connections(by.streamlines, own_affine, labels)
            for key, by in tracked.items()
        }
        between.append(
            compare("connectivity_correlation", density_correlation, connected)
        )
    if bundles:
        known = list(bundles.values())
        scores = {
            key: score(by.streamlines, known, affine) for key, by in tracked.items()
        }
        each += _of_scores(scores, visited, known, random_seed)
        metrics["bundles"] = _of_bundles(scores, tracked, bundles, random_seed)
    return metrics


def _of_pairs(
    partners: Mapping[str, list[tuple[AnyArray, AnyArray]]],
    distances: Mapping[str, FloatArray],
) -> list[Metric]:
    """Return the metrics of pairs of streamlines."""
    agreements = {
        key: distances[key][~np.isnan(distances[key])] <= AGREEMENT_MM
        for key in partners
    }
    values: dict[str, Mapping[str, Any]] = {
        "alike": agreements,
        "hausdorff": {key: distances[key] for key in partners},
    }
    for name, distance in (
        ("mean_closest_point", mean_closest_point_mm),
        ("end_point", end_point_mm),
        ("angular_difference", angular_difference_deg),
    ):
        values[name] = {
            key: [distance(*pair) for pair in pairs] for key, pairs in partners.items()
        }
    return [
        define(name, {key: estimated_mean(x) for key, x in by_key.items()})
        for name, by_key in values.items()
    ]


def _with_reference(
    name: str,
    compute: Callable[..., float],
    matrices: Mapping[str, csr_array],
    *,
    is_paired: bool,
    random_seed: int,
) -> Metric:
    """Return a metric of candidate and baseline, each with the reference."""
    reference = matrices["reference"]
    return define(
        name,
        {
            key: bootstrapped(
                compute,
                matrices[key],
                reference,
                paired=is_paired or key == "yardstick",
                random_seed=random_seed,
            )
            for key in ("candidate", "yardstick")
            if key in matrices
        },
    )


def _of_each(
    tracked: Mapping[str, Tracked],
    visited: Mapping[str, csr_array],
    mask: BoolArray,
    random_seed: int,
) -> list[Metric]:
    """Return the metrics that are computed from each tractogram alone."""

    def means(measured: Callable[[AnyArray], float]) -> dict[str, Estimate]:
        return {
            key: estimated_mean(
                [measured(line) for line in by.streamlines if len(line)]
            )
            for key, by in tracked.items()
        }

    inside = mask.ravel()
    covered = {
        key: bootstrapped(
            lambda visits: coverage(visits, inside), matrix, random_seed=random_seed
        )
        for key, matrix in visited.items()
    }
    return [
        define("length", means(length)),
        define("curvature", means(mean_curvature_per_mm)),
        define("coverage", covered),
    ]


def _of_scores(
    scores: Mapping[str, Scores],
    visited: Mapping[str, csr_array],
    bundles: Sequence[KnownBundle],
    random_seed: int,
) -> list[Metric]:
    """Return the scores of each tractogram, with standard errors."""
    chosen: dict[str, Callable[[IntArray], BoolArray]] = {
        "valid": lambda labels: labels >= 0,
        "invalid": lambda labels: labels == INVALID_CONNECTION,
        "none": lambda labels: labels == NO_CONNECTION,
    }
    shares = [
        define(
            name, {key: estimated_mean(choose(of.labels)) for key, of in scores.items()}
        )
        for name, choose in chosen.items()
    ]
    volumes = {
        key: BundleVolumes(of.labels, visited[key], bundles)
        for key, of in scores.items()
    }
    means = [
        define(
            name,
            {
                key: bootstrapped(
                    getattr(volume, name), volume.visited, random_seed=random_seed
                )
                for key, volume in volumes.items()
            },
            n_bundles=len(bundles),
        )
        for name in ("valid_bundles", "overlap", "overreach", "f1")
    ]
    return shares + means


def _of_bundles(
    scores: Mapping[str, Scores],
    tracked: Mapping[str, Tracked],
    bundles: Iterable[str],
    random_seed: int,
) -> list[dict[str, Any]]:
    """Return the scores of each bundle by tracker, in the form of metrics.json."""

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
            found["shape_similarity"] = shape_similarity(
                lines, valid("reference", number), random_seed=random_seed
            )
        return found

    return [
        {"name": name, "label": name} | {key: entry(key, number) for key in tracked}
        for number, name in enumerate(bundles)
    ]
