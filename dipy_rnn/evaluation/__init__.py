"""Compare streamlines with those of another tracker, or with known bundles.

========================================  =============================================
``distances``                             distances and angles between two streamlines
``partners``                              which streamlines are compared with each other
``volumes``                               voxels visited, regions connected
``bundles``, ``scores``                   known bundles, and scores against them
``per_streamline``                        length, turn and amplitudes of each streamline
``statistics``                            standard errors
``metrics``                               all metrics of a comparison
``comparison``                            track the same seeds with several trackers
========================================  =============================================

This package exports the public names of all but the last two, which are imported by
their own paths: tracking needs torch.

Streamlines are arrays of shape (M, 3) in mm (RAS+).
"""

from dipy_rnn._moved import find_moved
from dipy_rnn.evaluation.bundles import KnownBundle, known_bundles, shape_similarity
from dipy_rnn.evaluation.distances import (
    agreement,
    angular_difference_deg,
    end_point_mm,
    followed,
    hausdorff_mm,
    mean_closest_point_mm,
    mean_curvature_per_mm,
)
from dipy_rnn.evaluation.partners import find_partners, nearest_streamlines
from dipy_rnn.evaluation.per_streamline import METRICS, streamline_metrics
from dipy_rnn.evaluation.scores import (
    INVALID_CONNECTION,
    NO_CONNECTION,
    Scores,
    score,
)
from dipy_rnn.evaluation.statistics import (
    Estimate,
    bootstrapped,
    estimated_mean,
    paired_difference,
)
from dipy_rnn.evaluation.volumes import (
    connections,
    coverage,
    density_correlation,
    dice,
    round_labels,
    visited_voxels,
    visits,
    weighted_dice,
)

__all__ = [
    "INVALID_CONNECTION",
    "METRICS",
    "NO_CONNECTION",
    "Estimate",
    "KnownBundle",
    "Scores",
    "agreement",
    "angular_difference_deg",
    "bootstrapped",
    "connections",
    "coverage",
    "density_correlation",
    "dice",
    "end_point_mm",
    "estimated_mean",
    "find_partners",
    "followed",
    "hausdorff_mm",
    "known_bundles",
    "mean_closest_point_mm",
    "mean_curvature_per_mm",
    "nearest_streamlines",
    "paired_difference",
    "round_labels",
    "score",
    "shape_similarity",
    "streamline_metrics",
    "visited_voxels",
    "visits",
    "weighted_dice",
]


def __getattr__(name: str) -> object:
    return find_moved(__name__, name)
