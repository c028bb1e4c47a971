"""Where streamlines end: reasons, and stopping criteria for many points at a time."""

from dipy_rnn.stopping.criteria import (
    ActStoppingCriterion,
    BatchedStoppingCriterion,
    BinaryStoppingCriterion,
    CmcStoppingCriterion,
    StoppingCriterion,
    ThresholdStoppingCriterion,
    decompose,
    evaluate_criterion,
    is_stateless,
    seed_keys,
)
from dipy_rnn.stopping.reasons import StopReason, format_fates, format_tally

__all__ = [
    "ActStoppingCriterion",
    "BatchedStoppingCriterion",
    "BinaryStoppingCriterion",
    "CmcStoppingCriterion",
    "StopReason",
    "StoppingCriterion",
    "ThresholdStoppingCriterion",
    "decompose",
    "evaluate_criterion",
    "format_fates",
    "format_tally",
    "is_stateless",
    "seed_keys",
]
