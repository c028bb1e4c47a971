"""Why a streamline stopped, and asking a criterion about many points at once.

DIPY's criteria decide; here are the reasons of the tracker itself beside theirs, in
one enumeration, with what each implies in one table and one report at the end.
"""

from enum import IntEnum

from dipy.tracking.stopping_criterion import StreamlineStatus
import numpy as np


class StopReason(IntEnum):
    """Why a half of a streamline ended; the value is its place in a tally.

    Examples
    --------
    >>> StopReason.SHARP_TURN.message
    'a step would turn by more than max_angle'
    """

    RUNNING = 0
    ENDPOINT = 1
    OUTSIDE_IMAGE = 2
    INVALID_POINT = 3
    SHARP_TURN = 4
    MAX_LENGTH = 5
    NO_DIRECTION = 6
    NO_DATA = 7
    NOT_FINITE = 8

    @property
    def message(self):
        """What a user reads."""
        return _TABLE[self][0]

    @property
    def status(self):
        """The status that DIPY's trackers know it by."""
        return _TABLE[self][1]

    @property
    def is_valid_end(self):
        """Whether a streamline that ends so is kept where ``return_all`` is False."""
        return self in (StopReason.ENDPOINT, StopReason.OUTSIDE_IMAGE)


_TRACKPOINT = StreamlineStatus.TRACKPOINT
_TABLE = {
    StopReason.RUNNING: ("it has not stopped", _TRACKPOINT),
    StopReason.ENDPOINT: (
        "the stopping criterion was met",
        StreamlineStatus.ENDPOINT,
    ),
    StopReason.OUTSIDE_IMAGE: ("it left the image", StreamlineStatus.OUTSIDEIMAGE),
    StopReason.INVALID_POINT: (
        "it came into tissue that the criterion excludes",
        StreamlineStatus.INVALIDPOINT,
    ),
    StopReason.SHARP_TURN: ("a step would turn by more than max_angle", _TRACKPOINT),
    StopReason.MAX_LENGTH: ("it would be longer than max_len", _TRACKPOINT),
    StopReason.NO_DIRECTION: ("the model gave no direction", _TRACKPOINT),
    StopReason.NO_DATA: ("the features are zero there", _TRACKPOINT),
    StopReason.NOT_FINITE: ("the model answered NaN or infinity", _TRACKPOINT),
}
_REASON_OF_STATUS = {
    int(StreamlineStatus.TRACKPOINT): StopReason.RUNNING,
    int(StreamlineStatus.ENDPOINT): StopReason.ENDPOINT,
    int(StreamlineStatus.OUTSIDEIMAGE): StopReason.OUTSIDE_IMAGE,
    int(StreamlineStatus.INVALIDPOINT): StopReason.INVALID_POINT,
}


def check_points(stopping_criterion, points_vox):
    """Ask a criterion about many points.

    Parameters
    ----------
    stopping_criterion : dipy.tracking.stopping_criterion.StoppingCriterion
        Any of DIPY's, or one that follows it.
    points_vox : ndarray of shape (N, 3)
        float64, C-contiguous.

    Returns
    -------
    reasons : ndarray of shape (N,)
        int64 values of :class:`StopReason`; RUNNING where tracking goes on.

    Examples
    --------
    >>> from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
    >>> criterion = BinaryStoppingCriterion(np.array([[[1]], [[0]]]))
    >>> points = np.array([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]])
    >>> [StopReason(r).name for r in check_points(criterion, points)]
    ['RUNNING', 'ENDPOINT', 'OUTSIDE_IMAGE']
    """
    check = stopping_criterion.check_point
    return np.fromiter(
        (_REASON_OF_STATUS[int(check(point))] for point in points_vox),
        dtype=np.int64,
        count=len(points_vox),
    )


def format_tally(counts):
    """Lay out how often each reason ended a half of a streamline.

    Parameters
    ----------
    counts : mapping of StopReason to int

    Returns
    -------
    table : str
        A line for each reason that occurred, the commonest first.

    Examples
    --------
    >>> print(format_tally({StopReason.ENDPOINT: 3, StopReason.SHARP_TURN: 1}))
     75.0 %         3  the stopping criterion was met
     25.0 %         1  a step would turn by more than max_angle
    """
    total = sum(counts.values())
    lines = [
        f"{100 * n / total:5.1f} % {n:9d}  {StopReason(reason).message}"
        for reason, n in sorted(counts.items(), key=lambda item: -item[1])
        if n
    ]
    return "\n".join(lines) or "no streamline was tracked"
