"""Tracking: the algorithm, the engine that runs it, and the interfaces to DIPY."""

from dipy_rnn._moved import find_moved
from dipy_rnn.tracking.config import TrackingConfig, length_limits, lengths_for_dipy
from dipy_rnn.tracking.direction_getter import RNNDirectionGetter
from dipy_rnn.tracking.records import Streamline
from dipy_rnn.tracking.tracker import rnn_tracking, track

__all__ = [
    "RNNDirectionGetter",
    "Streamline",
    "TrackingConfig",
    "length_limits",
    "lengths_for_dipy",
    "rnn_tracking",
    "track",
]


def __getattr__(name: str) -> object:
    return find_moved(__name__, name)
