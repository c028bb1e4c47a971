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
        What the metric measures, in one or two sentences.
    source : str
        Publication or function that defines or computes the metric.
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
        """Return the metric in the form of metrics.json, with one entry per tracker."""
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
            "Share of the pairs of partners whose Hausdorff distance is at most "
            f"{AGREEMENT_MM:g} mm. If one partner is missing, the pair does not agree.",
            "Hausdorff distance, scipy.spatial.cKDTree",
        ),
        Metric(
            "hausdorff",
            "Hausdorff distance",
            "mm",
            "lower",
            "Largest distance from a point of one partner to the nearest point of the "
            "other.",
            "scipy.spatial.cKDTree",
        ),
        Metric(
            "mean_closest_point",
            "Mean closest-point distance",
            "mm",
            "lower",
            "Mean distance from the points of one partner to the nearest point of the "
            "other, averaged over both directions.",
            "Corouge 2004; dipy.tracking.distances.mam_distances",
        ),
        Metric(
            "end_point",
            "End-point distance",
            "mm",
            "lower",
            "Mean distance of the two pairs of end points, in the order that makes it "
            "smallest.",
            "Garyfallidis 2012; dipy.segment.metric.mdf",
        ),
        Metric(
            "angular_difference",
            "Angular difference",
            "deg",
            "lower",
            "Mean angle between each step and the nearest step of the partner.",
            "dipy_rnn.evaluation.angular_difference_deg",
        ),
        Metric(
            "dice",
            "Dice of visited voxels",
            "",
            "higher",
            "2 |A and B| / (|A| + |B|), with A and B the voxels that each tractogram "
            "visits.",
            "Dice 1945",
        ),
        Metric(
            "weighted_dice",
            "Weighted Dice",
            "",
            "higher",
            "Dice coefficient in which a voxel has the weight of its share of the "
            "visits.",
            "Cousineau 2017",
        ),
        Metric(
            "density_correlation",
            "Correlation of densities",
            "",
            "higher",
            "Pearson's correlation of the numbers of streamlines in each voxel that "
            "either tractogram visits.",
            "numpy.corrcoef",
        ),
        Metric(
            "connectivity_correlation",
            "Correlation of connectivity",
            "",
            "higher",
            "Pearson's correlation of the numbers of streamlines between each pair of "
            "regions that either tractogram connects.",
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
            "Share of the mask that streamlines visit. The mask is where tracking may "
            "continue or, for existing tractograms, where the image is above 0.",
            "dipy_rnn.evaluation.coverage",
        ),
        Metric(
            "valid",
            "Valid connections",
            "%",
            "higher",
            "Share of the streamlines that connect the two end regions of one bundle.",
            _TRACTOMETER,
        ),
        Metric(
            "invalid",
            "Invalid connections",
            "%",
            "lower",
            "Share of the streamlines that connect end regions of different bundles.",
            _TRACTOMETER,
        ),
        Metric(
            "none",
            "No connection",
            "%",
            "lower",
            "Share of all other streamlines, and of seeds without a streamline.",
            _TRACTOMETER,
        ),
        Metric(
            "valid_bundles",
            "Valid bundles",
            "",
            "higher",
            "Number of the {n_bundles} bundles that have a valid connection.",
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
            "Number of voxels outside a bundle that its valid connections visit, "
            "divided by the number of its voxels; mean of the bundles.",
            _TRACTOMETER,
        ),
        Metric(
            "f1",
            "F1",
            "",
            "higher",
            "Dice coefficient of the voxels that valid connections visit and the "
            "voxels of the bundle; mean of the bundles.",
            _TRACTOMETER,
        ),
    )
}


def define(name: str, estimates: Mapping[str, Estimate], **values: object) -> Metric:
    """Make a metric from its definition and its estimates.

    Parameters
    ----------
    name : str
        Name of a metric, such as ``"dice"``: the key of its definition in this module.
    estimates : dict of str to Estimate
        By the key of the tracker.
    **values : object
        Values of the placeholders in the definition, such as ``n_bundles``.

    Returns
    -------
    metric : Metric

    Examples
    --------
    >>> define("valid_bundles", {}, n_bundles=3).definition
    'Number of the 3 bundles that have a valid connection.'
    """
    metric = _METRICS[name]
    definition = metric.definition.format(**values)
    return replace(metric, definition=definition, estimates=estimates)
