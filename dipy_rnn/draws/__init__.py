"""Random numbers that depend on a seed and on a place along its streamline only.

They do not depend on other streamlines, threads or batches.
"""

from dipy_rnn.draws.errors import CORRELATION_EDGES, FREEDOM, DirectionErrors
from dipy_rnn.draws.keys import count_equal, seed_keys

__all__ = [
    "CORRELATION_EDGES",
    "FREEDOM",
    "DirectionErrors",
    "count_equal",
    "seed_keys",
]
