"""Tracking: the algorithm, the engine that runs it, and the interfaces to DIPY."""

from typing import TYPE_CHECKING

from dipy_rnn._moved import find_moved
from dipy_rnn.tracking.config import TrackingConfig, length_limits, lengths_for_dipy
from dipy_rnn.tracking.records import FinishedStreamlines, Streamline
from dipy_rnn.tracking.tracker import rnn_tracking, track, track_blocks

if TYPE_CHECKING:
    from dipy_rnn.tracking.direction_getter import (
        RNNDirectionGetter as RNNDirectionGetter,
    )

__all__ = [
    "FinishedStreamlines",
    "RNNDirectionGetter",
    "Streamline",
    "TrackingConfig",
    "length_limits",
    "lengths_for_dipy",
    "rnn_tracking",
    "track",
    "track_blocks",
]


def __getattr__(name: str) -> object:
    if name == "RNNDirectionGetter":
        # It needs DIPY's LocalTracking, which DIPY 2 may remove.
        from dipy_rnn.tracking.direction_getter import RNNDirectionGetter

        return RNNDirectionGetter
    return find_moved(__name__, name)
