"""Teachers: what a propagator should answer, read from what it sees.

The true streamlines of a phantom are one teacher: they say where the bundle goes. The
fODF itself is another, as it is for deterministic tracking. It is asked where a
streamline that strays would be, so that the network learns to find its way back.
"""

from functools import cache

import numpy as np

from dipy_rnn.interpolate import sh_order

_N_DIRECTIONS = 1500  # about 3 degrees apart within 70
_N_NEAR = 20  # as far as 7 degrees
_CLIMB = 3


def peak_ahead(coeffs, *, straightness=8, widest_deg=70.0):
    """Return the peak of the fODF to go on along: ahead before aside.

    Parameters
    ----------
    coeffs : ndarray of shape (N, C)
        The fODF in the frame of each streamline (:func:`dipy_rnn.interpolate.rotate`).
    straightness : float, optional
        The peak is chosen by the fODF times the cosine of the turn to this power.
        With 0 the largest peak wins, whatever the turn; the larger, the more a
        streamline keeps to its bundle where others cross.
    widest_deg : float, optional
        Largest turn. Where no peak is within it, the answer is the way to the fODF's
        largest value at its rim.

    Returns
    -------
    directions : ndarray of shape (N, 3)
        Unit vectors in the frames.

    Notes
    -----
    DIPY's deterministic tracking weighs by one within ``max_angle`` and by zero
    outside: ``straightness=0, widest_deg=max_angle``.

    Examples
    --------
    >>> lobe = np.zeros((1, 15)); lobe[0, [3, 10]] = 2.0, 2.5  # straight ahead
    >>> peak_ahead(lobe)[0, 2] > 0.99
    np.True_
    """
    directions, harmonics, near = _directions_ahead(
        sh_order(coeffs.shape[1]), widest_deg
    )
    values = np.maximum(coeffs.astype(np.float32) @ harmonics, 0)
    weight = (directions[:, 2] ** straightness).astype(np.float32)
    best = np.argmax(values * weight, axis=1)
    # The weight chooses the peak, but it is the fODF's own peak that is answered.
    rows = np.arange(len(values))
    for _ in range(_CLIMB):
        around = near[best]
        best = around[rows, np.argmax(values[rows[:, None], around], axis=1)]
    return directions[best]


@cache
def _directions_ahead(order, widest_deg):
    """Return directions on a spiral around z, harmonics (C, D), and who is near."""
    from dipy.reconst.shm import real_sh_tournier

    turn = np.arange(_N_DIRECTIONS)
    z = 1 - (1 - np.cos(np.deg2rad(widest_deg))) * turn / (_N_DIRECTIONS - 1)
    azimuth = np.pi * (3 - np.sqrt(5)) * turn
    across = np.sqrt(1 - z**2)
    directions = np.stack([across * np.cos(azimuth), across * np.sin(azimuth), z], 1)
    harmonics = real_sh_tournier(order, np.arccos(z), azimuth, legacy=False)[0]
    near = np.argsort(-directions @ directions.T, axis=1)[:, :_N_NEAR]
    return directions, harmonics.T.astype(np.float32), near
