"""A simulated brain, and oracles that track it with its true directions."""

from dipy_rnn.phantom.brain.draw import brain_world
from dipy_rnn.phantom.brain.oracle import KNOWLEDGE, oracle_seeds, oracle_streamlines
from dipy_rnn.phantom.brain.world import BrainWorld

__all__ = [
    "KNOWLEDGE",
    "BrainWorld",
    "brain_world",
    "oracle_seeds",
    "oracle_streamlines",
]
