"""Feature volumes: interpolation at points, rotation into frames, first directions."""

from dipy_rnn.sampling.cone import Cone, cone_of, into_cone
from dipy_rnn.sampling.features import (
    BASES,
    SH_FRAMES,
    FeatureVolume,
    fodf_features,
    looks_like_fodf,
    pam_basis,
    pam_features,
    peaks_features,
    raw_features,
)
from dipy_rnn.sampling.interpolate import (
    DATA,
    EMPTY,
    NOTHING_AHEAD,
    OUTSIDE,
    local_maxima,
    sample,
)
from dipy_rnn.sampling.lobes import lobes
from dipy_rnn.sampling.peaks import MAX_PEAKS, first_directions
from dipy_rnn.sampling.rotation import (
    MAX_ORDER,
    Turns,
    quarter_turns,
    rotate,
    rotate_all,
    sh_order,
    with_order,
)

__all__ = [
    "BASES",
    "DATA",
    "EMPTY",
    "MAX_ORDER",
    "MAX_PEAKS",
    "NOTHING_AHEAD",
    "OUTSIDE",
    "SH_FRAMES",
    "Cone",
    "FeatureVolume",
    "Turns",
    "cone_of",
    "first_directions",
    "fodf_features",
    "into_cone",
    "lobes",
    "local_maxima",
    "looks_like_fodf",
    "pam_basis",
    "pam_features",
    "peaks_features",
    "quarter_turns",
    "raw_features",
    "rotate",
    "rotate_all",
    "sample",
    "sh_order",
    "with_order",
]
