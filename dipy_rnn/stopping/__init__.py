"""Where streamlines end: reasons, stopping criteria, and tissues."""

from dipy_rnn._moved import find_moved
from dipy_rnn.stopping.criteria import (
    ActStoppingCriterion,
    BinaryStoppingCriterion,
    CmcStoppingCriterion,
    ThresholdStoppingCriterion,
    decompose,
    make_criterion,
    warn_of_threshold,
)
from dipy_rnn.stopping.evaluate import (
    BatchedStoppingCriterion,
    StoppingCriterion,
    compiled_decision,
    evaluate_criterion,
    is_stateless,
)
from dipy_rnn.stopping.grid import check_criterion_grid
from dipy_rnn.stopping.reasons import (
    NOT_INCLUDED,
    StopReason,
    format_fates,
    format_tally,
)
from dipy_rnn.stopping.regions import MaskRegion, Region, Sphere
from dipy_rnn.stopping.tissues import Tissues
from dipy_rnn.stopping.wrappers import ExclusionCriterion, OwnGridCriterion

__all__ = [
    "NOT_INCLUDED",
    "ActStoppingCriterion",
    "BatchedStoppingCriterion",
    "BinaryStoppingCriterion",
    "CmcStoppingCriterion",
    "ExclusionCriterion",
    "MaskRegion",
    "OwnGridCriterion",
    "Region",
    "Sphere",
    "StopReason",
    "StoppingCriterion",
    "ThresholdStoppingCriterion",
    "Tissues",
    "check_criterion_grid",
    "compiled_decision",
    "decompose",
    "evaluate_criterion",
    "format_fates",
    "format_tally",
    "is_stateless",
    "make_criterion",
    "seed_keys",
    "warn_of_threshold",
]


def __getattr__(name: str) -> object:
    return find_moved(__name__, name)
