"""Simulated bundles whose true streamlines, peaks, fODF and signal are known."""

from dipy_rnn._moved import find_moved
from dipy_rnn.phantom.brain import (
    BrainWorld,
    brain_world,
    oracle_seeds,
    oracle_streamlines,
)
from dipy_rnn.phantom.bundles import Ball, Bundle
from dipy_rnn.phantom.phantom import Phantom
from dipy_rnn.phantom.worlds import (
    circle_phantom,
    crossing_phantom,
    random_phantom,
)

__all__ = [
    "Ball",
    "BrainWorld",
    "Bundle",
    "Phantom",
    "brain_world",
    "circle_phantom",
    "crossing_phantom",
    "oracle_seeds",
    "oracle_streamlines",
    "random_phantom",
]


def __getattr__(name: str) -> object:
    return find_moved(__name__, name)
