"""Distances, volumes, known bundles and statistics of streamlines."""

from dipy_rnn.evaluation.distances import *  # noqa: F403
from dipy_rnn.evaluation.distances import (
    INVALID_CONNECTION as INVALID_CONNECTION,
)
from dipy_rnn.evaluation.distances import NO_CONNECTION as NO_CONNECTION
