"""What a metric is, and the definition of each metric of a comparison."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dipy_rnn.evaluation.statistics import Estimate

#: Largest Hausdorff distance of two streamlines that agree.
AGREEMENT_MM = 2.0

_TRACTOMETER = "Cote 2013; Maier-Hein 2017"


@dataclass(frozen=True)
class Metric:
    """A metric and its estimates for some trackers.

    Parameters
    ----------
    name : str
        Key of the metric in metrics.json.
    label : str
        Name shown to readers.
    unit : str
        ``"mm"``, ``"deg"``, ``"1/mm"``, ``"%"`` for a share from 0 to 1 that is shown
        in per cent, or ``""``.
    better : str
        ``"higher"`` or ``"lower"``; ``""`` if neither is better.
    definition : str
        One sentence.
    source : str
        Publication or function.
    estimates : dict of str to Estimate, optional
        By the key of the tracker.

    Examples
    --------
    >>> metric = Metric("length", "Length", "mm", "", "Mean length.", "DIPY",
    ...                 {"candidate": Estimate(40.0, 1.0)})
    >>> list(metric.to_json())  # doctest: +NORMALIZE_WHITESPACE
    ['name', 'label', 'unit', 'better', 'definition', 'source', 'candidate']
    """

    name: str
    label: str
    unit: str
    better: str
    definition: str
    source: str
    estimates: Mapping[str, Estimate] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the metric as metrics.json holds it, with one entry per tracker."""
        entry: dict[str, Any] = {
            "name": self.name,
            "label": self.label,
            "unit": self.unit,
            "better": self.better,
            "definition": self.definition,
            "source": self.source,
        }
        return entry | {key: each.to_json() for key, each in self.estimates.items()}


_METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "alike",
            f"Agreement within {AGREEMENT_MM:g} mm",
            "%",
            "higher",
            "Share of the seeds whose two streamlines are nowhere more than "
            f"{AGREEMENT_MM:g} mm apart.",
            "Hausdorff distance, scipy.spatial.cKDTree",
        ),
        Metric(
            "hausdorff",
            "Hausdorff distance",
            "mm",
            "lower",
            "How far apart partners are where they are farthest apart.",
            "scipy.spatial.cKDTree",
        ),
        Metric(
            "mean_closest_point",
            "Mean closest-point distance",
            "mm",
            "lower",
            "Mean distance of the points of one to the nearest of the other, both "
            "ways.",
            "Corouge 2004; dipy.tracking.distances.mam_distances",
        ),
        Metric(
            "end_point",
            "End-point distance",
            "mm",
            "lower",
            "Mean distance of the end points, paired in the better way.",
            "Garyfallidis 2012; dipy.segment.metric.mdf",
        ),
        Metric(
            "angular_difference",
            "Angular difference",
            "deg",
            "lower",
            "Mean angle from each step to the nearest step of the partner.",
            "dipy_rnn.evaluation.angular_difference_deg",
        ),
        Metric(
            "dice",
            "Dice of visited voxels",
            "",
            "higher",
            "2 |A and B| / (|A| + |B|) of the voxels with a streamline.",
            "Dice 1945",
        ),
        Metric(
            "weighted_dice",
            "Weighted Dice",
            "",
            "higher",
            "Dice in which a voxel counts by its share of the streamlines.",
            "Cousineau 2017",
        ),
        Metric(
            "density_correlation",
            "Correlation of densities",
            "",
            "higher",
            "Pearson's, of the streamlines through each voxel that either visits.",
            "numpy.corrcoef",
        ),
        Metric(
            "connectivity_correlation",
            "Correlation of connectivity",
            "",
            "higher",
            "Pearson's, of the streamlines between each pair of regions that either "
            "connects.",
            "dipy.tracking.utils.connectivity_matrix",
        ),
        Metric(
            "length",
            "Length",
            "mm",
            "",
            "Mean length of a streamline.",
            "dipy.tracking.streamline.length",
        ),
        Metric(
            "curvature",
            "Curvature",
            "1/mm",
            "",
            "Mean curvature along a streamline: 1 / R on a circle of radius R.",
            "dipy_rnn.evaluation.mean_curvature_per_mm",
        ),
        Metric(
            "coverage",
            "Coverage",
            "%",
            "higher",
            "Share of the voxels in which tracking may go on that a streamline visits.",
            "dipy_rnn.evaluation.coverage",
        ),
        Metric(
            "valid",
            "Valid connections",
            "%",
            "higher",
            "Share of the seeds whose streamline connects both ends of one bundle.",
            _TRACTOMETER,
        ),
        Metric(
            "invalid",
            "Invalid connections",
            "%",
            "lower",
            "Share that connects ends that belong together in no bundle.",
            _TRACTOMETER,
        ),
        Metric(
            "none",
            "No connection",
            "%",
            "lower",
            "Share of all others.",
            _TRACTOMETER,
        ),
        Metric(
            "valid_bundles",
            "Valid bundles",
            "",
            "higher",
            "How many of the {n_bundles} bundles have a valid connection.",
            _TRACTOMETER,
        ),
        Metric(
            "overlap",
            "Overlap",
            "%",
            "higher",
            "Share of a bundle's voxels that its valid connections visit; mean of "
            "the bundles.",
            _TRACTOMETER,
        ),
        Metric(
            "overreach",
            "Overreach",
            "%",
            "lower",
            "Voxels that they visit beside the bundle, by those in it; mean of the "
            "bundles.",
            _TRACTOMETER,
        ),
        Metric(
            "f1",
            "F1",
            "",
            "higher",
            "Dice of the voxels they visit and the bundle's; mean of the bundles.",
            _TRACTOMETER,
        ),
    )
}


def define(name: str, estimates: Mapping[str, Estimate], **values: object) -> Metric:
    """Make a metric from its definition and its estimates.

    Parameters
    ----------
    name : str
        One of the metrics above.
    estimates : dict of str to Estimate
        By the key of the tracker.
    **values : object
        Values of the placeholders in its definition.

    Returns
    -------
    metric : Metric

    Examples
    --------
    >>> define("valid_bundles", {}, n_bundles=3).definition
    'How many of the 3 bundles have a valid connection.'
    """
    metric = _METRICS[name]
    definition = metric.definition.format(**values)
    return replace(metric, definition=definition, estimates=estimates)
