"""Training: subjects, training sequences, target rules, the loop and its validation."""

from dipy_rnn.training.loop import Interrupted, fit, train_network
from dipy_rnn.training.recipe import TARGET_RULES, Recipe, describe
from dipy_rnn.training.selection import (
    SubjectData,
    clean_streamlines,
    hold_out,
    prepare_subject,
)
from dipy_rnn.training.sequences import InputNoise
from dipy_rnn.training.state import best_row, cosine_loss
from dipy_rnn.training.subjects import TrainingSubject, load_subject, save_subject
from dipy_rnn.training.target_rules import deterministic_streamlines
from dipy_rnn.training.validation import FreeRunning

__all__ = [
    "TARGET_RULES",
    "FreeRunning",
    "InputNoise",
    "Interrupted",
    "Recipe",
    "SubjectData",
    "TrainingSubject",
    "best_row",
    "clean_streamlines",
    "cosine_loss",
    "describe",
    "deterministic_streamlines",
    "fit",
    "hold_out",
    "load_subject",
    "prepare_subject",
    "save_subject",
    "train_network",
]
