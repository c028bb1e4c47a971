"""Feature volumes: interpolation at points, rotation into frames, first directions."""

from dipy_rnn.sampling.cone import Cone, cone_of, into_cone
from dipy_rnn.sampling.context import (
    Context,
    compass,
    context_places,
    join_context,
    sample_context,
)
from dipy_rnn.sampling.features import (
    PEAKS,
    SH_FRAMES,
    FeatureVolume,
    SHFormat,
    fodf_features,
    pam_features,
    peaks_features,
    raw_features,
)
from dipy_rnn.sampling.fodf.basis import (
    better_basis,
    is_clear_basis,
    looks_like_fodf,
    negative_shares,
    pam_basis,
)
from dipy_rnn.sampling.fodf.peaks_to_sh import lobes
from dipy_rnn.sampling.interpolate import (
    DATA,
    EMPTY,
    NOTHING_AHEAD,
    OUTSIDE,
    sample,
)
from dipy_rnn.sampling.peaks import MAX_PEAKS, first_directions, local_maxima
from dipy_rnn.sampling.rotation import (
    BASES,
    MAX_ORDER,
    SH_BASES,
    Turns,
    quarter_turns,
    rotate,
    rotate_all,
    sh_order,
    to_package_basis,
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
    "PEAKS",
    "SH_BASES",
    "SH_FRAMES",
    "Cone",
    "Context",
    "FeatureVolume",
    "SHFormat",
    "Turns",
    "better_basis",
    "compass",
    "cone_of",
    "context_places",
    "first_directions",
    "fodf_features",
    "into_cone",
    "is_clear_basis",
    "join_context",
    "lobes",
    "local_maxima",
    "looks_like_fodf",
    "negative_shares",
    "pam_basis",
    "pam_features",
    "peaks_features",
    "quarter_turns",
    "raw_features",
    "rotate",
    "rotate_all",
    "sample",
    "sample_context",
    "sh_order",
    "to_package_basis",
    "with_order",
]
