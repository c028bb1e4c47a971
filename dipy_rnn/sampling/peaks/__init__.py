"""First directions of streamlines, and the maxima of spherical functions."""

from dipy_rnn.sampling.peaks.at_seeds import MAX_PEAKS, first_directions
from dipy_rnn.sampling.peaks.maxima import local_maxima, refine_maxima

__all__ = ["MAX_PEAKS", "first_directions", "local_maxima", "refine_maxima"]
