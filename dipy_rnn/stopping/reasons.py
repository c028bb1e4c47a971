"""Why a streamline stopped.

DIPY's stopping criteria give some of the reasons, and the tracker gives the others. One
enumeration contains them all. Each has a message and a status of DIPY. The kernels use
the numbers of the enumeration.
"""

from collections import Counter
from collections.abc import Mapping
from enum import IntEnum

from dipy.tracking.stopping_criterion import StreamlineStatus


class StopReason(IntEnum):
    """Why one half of a streamline ended. RUNNING means that it has not ended.

    Examples
    --------
    >>> StopReason.NOTHING_AHEAD.message
    'there is no direction within max_angle'
    """

    RUNNING = 0
    ENDPOINT = 1
    OUTSIDE_IMAGE = 2
    INVALID_POINT = 3
    NOTHING_AHEAD = 4
    SHARP_TURN = 4  # former name of NOTHING_AHEAD
    MAX_LENGTH = 5
    NO_DIRECTION = 6
    NO_DATA = 7
    NOT_FINITE = 8
    EXCLUDE_REGION = 9
    ALL_INCLUDED = 10
    FIBRE_END = 11
    LOST = 12

    @property
    def message(self) -> str:
        """The reason as text for users."""
        return _TABLE[self][0]

    @property
    def status(self) -> StreamlineStatus:
        """The status that DIPY's trackers use for this reason."""
        return _TABLE[self][1]

    @property
    def is_valid_end(self) -> bool:
        """Whether ``return_all=False`` keeps a streamline that ends for this reason."""
        return self in _VALID_ENDS


_TRACKPOINT = StreamlineStatus.TRACKPOINT
_TABLE: dict[StopReason, tuple[str, StreamlineStatus]] = {
    StopReason.RUNNING: ("it has not stopped", _TRACKPOINT),
    StopReason.ENDPOINT: (
        "the stopping criterion was met",
        StreamlineStatus.ENDPOINT,
    ),
    StopReason.OUTSIDE_IMAGE: ("it left the image", StreamlineStatus.OUTSIDEIMAGE),
    StopReason.INVALID_POINT: (
        "it entered tissue that the criterion excludes",
        StreamlineStatus.INVALIDPOINT,
    ),
    StopReason.NOTHING_AHEAD: ("there is no direction within max_angle", _TRACKPOINT),
    StopReason.MAX_LENGTH: ("it would be longer than max_len", _TRACKPOINT),
    StopReason.NO_DIRECTION: ("the model gave no direction", _TRACKPOINT),
    StopReason.NO_DATA: ("the features are zero there", _TRACKPOINT),
    StopReason.NOT_FINITE: ("the model returned NaN or infinity", _TRACKPOINT),
    StopReason.EXCLUDE_REGION: (
        "it entered an exclude region",
        StreamlineStatus.INVALIDPOINT,
    ),
    StopReason.ALL_INCLUDED: (
        "it entered the last include region",
        StreamlineStatus.ENDPOINT,
    ),
    StopReason.FIBRE_END: (
        "the model predicts that the fibre has ended",
        StreamlineStatus.ENDPOINT,
    ),
    StopReason.LOST: ("the model predicts that it left its bundle", _TRACKPOINT),
}
_VALID_ENDS = (
    StopReason.ENDPOINT,
    StopReason.OUTSIDE_IMAGE,
    StopReason.ALL_INCLUDED,
    StopReason.FIBRE_END,
)
#: Why a streamline is rejected that did not enter all include regions.
NOT_INCLUDED = "it did not enter all include regions"
#: The reason that belongs to each of DIPY's statuses.
REASON_OF_STATUS = {
    int(StreamlineStatus.TRACKPOINT): StopReason.RUNNING,
    int(StreamlineStatus.ENDPOINT): StopReason.ENDPOINT,
    int(StreamlineStatus.OUTSIDEIMAGE): StopReason.OUTSIDE_IMAGE,
    int(StreamlineStatus.INVALIDPOINT): StopReason.INVALID_POINT,
}


def format_tally(counts: Mapping[StopReason, int]) -> str:
    """Format a table: how often each reason ended one half of a streamline.

    Parameters
    ----------
    counts : mapping of StopReason to int

    Returns
    -------
    table : str
        One line for each reason that occurred, the most frequent first.

    Examples
    --------
    >>> print(format_tally({StopReason.ENDPOINT: 3, StopReason.NOTHING_AHEAD: 1}))
     75.0 %         3  the stopping criterion was met
     25.0 %         1  there is no direction within max_angle
    """
    total = sum(counts.values())
    lines = [
        f"{100 * n / total:5.1f} % {n:9d}  {StopReason(reason).message}"
        for reason, n in sorted(counts.items(), key=lambda item: -item[1])
        if n
    ]
    return "\n".join(lines) or "no streamline was tracked"


def format_fates(
    counts: Mapping[tuple[StopReason, StopReason], int],
    not_included: Mapping[tuple[StopReason, StopReason], int] | None = None,
) -> str:
    """Format a table: how many streamlines have two valid ends, and why others do not.

    Parameters
    ----------
    counts : mapping of tuple of 2 StopReason to int
        Number of streamlines for each pair of reasons, of the forward and of the
        backward half.
    not_included : mapping of tuple of 2 StopReason to int, optional
        How many of them did not enter all include regions. If their ends are valid,
        they are counted as rejected.

    Returns
    -------
    table : str
        One line for the streamlines that ``return_all=False`` keeps. Then one line for
        each reason for which others are rejected, the most frequent first. A streamline
        with two invalid ends is counted once, for the reason that comes first in
        :class:`StopReason`. INVALID_POINT (excluded tissue) comes before all others.

    Examples
    --------
    >>> end, fluid = StopReason.ENDPOINT, StopReason.INVALID_POINT
    >>> print(format_fates({(end, end): 6, (end, fluid): 1, (fluid, fluid): 1}))
    kept      75.0 %         6  both ends are valid
    rejected  25.0 %         2  it entered tissue that the criterion excludes
    """
    total = sum(counts.values())
    if not total:
        return "no streamline was tracked"
    kept = n_missed = 0
    rejected: Counter[StopReason] = Counter()
    for reasons, n in counts.items():
        bad = [reason for reason in map(StopReason, reasons) if not reason.is_valid_end]
        if bad:
            rejected[min(bad)] += n
        else:
            kept += n
            n_missed += (not_included or {}).get(reasons, 0)
    rows = [("kept", kept - n_missed, "both ends are valid")]
    rows += [("rejected", n, why.message) for why, n in rejected.most_common() if n]
    if n_missed:
        rows.append(("rejected", n_missed, NOT_INCLUDED))
    return "\n".join(
        f"{fate:8s} {100 * n / total:5.1f} % {n:9d}  {why}" for fate, n, why in rows
    )
