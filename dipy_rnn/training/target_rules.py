"""Target rules: the direction that the network learns to predict at a point.

The simplest target is the direction of the streamline. It is correct for a tracker on
the streamline, but not for a tracker beside it. The rules here take the target from the
fODF at the point itself; where the fODF has several peaks, the rule chooses one. In the
rules, all directions are in the moving frame, whose third axis is the incoming
direction.
"""

from collections.abc import Iterator
from functools import cache

from dipy.data import default_sphere, get_sphere
from dipy.tracking.stopping_criterion import ThresholdStoppingCriterion
from dipy.tracking.tracker import deterministic_tracking
import numpy as np
from scipy.spatial.transform import Rotation

from dipy_rnn import spatial
from dipy_rnn._typing import AnyArray, Float32Array, FloatArray, IntArray
from dipy_rnn.sampling import cone_of, sh_order
from dipy_rnn.stopping import warn_of_threshold
from dipy_rnn.tracking import lengths_for_dipy

_N_CLIMBS = 6  # from vertex to vertex of a cone, towards a peak
_LEAST_COSINE = 1e-3  # smaller ones have a logarithm that is too large
_N_SPHERES = 256  # rotations to draw from
_N_ROTATIONS = 8  # of the sphere, for the points of one subject in a batch
_MIN_LEN_VOX, _MAX_LEN_VOX = 3.0, 250.0  # limits of deterministic streamlines


def largest_ahead(
    coeffs: AnyArray,
    along: FloatArray,
    max_angle_deg: float,
    rng: np.random.Generator,
) -> FloatArray:
    """Return the direction of the fODF's largest value in the cone, as DIPY finds it.

    This is the rule of deterministic tracking. DIPY takes the direction from the
    vertices of its default sphere. Here the sphere is rotated at random, so that the
    network learns the mean over all rotations.

    Parameters
    ----------
    coeffs : ndarray of shape (N, C)
        The fODF in the frame of each streamline (:func:`dipy_rnn.sampling.rotate`).
    along : ndarray of shape (N, 3)
        Directions of the streamlines in the frames; not used.
    max_angle_deg : float
        Angle of the cone around the third axis. If the largest value is on its border,
        that direction is returned although it may not be a peak.
    rng : numpy.random.Generator

    Returns
    -------
    directions : ndarray of shape (N, 3)
        Unit vectors in the frames. The third axis if there is no vertex in the cone.

    Examples
    --------
    >>> lobe = np.zeros((1, 15)); lobe[0, [3, 10]] = 2.0, 2.5  # straight ahead
    >>> ahead = largest_ahead(lobe, None, 45.0, np.random.default_rng(0))
    >>> bool(ahead[0, 2] > 0.99)
    True
    """
    order = sh_order(coeffs.shape[1])
    directions = np.tile([0.0, 0.0, 1.0], (len(coeffs), 1))
    least_cosine = np.cos(np.deg2rad(max_angle_deg))
    # A rotation for each part of the points.
    parts = np.array_split(np.arange(len(coeffs)), _N_ROTATIONS)
    for part, rotation in zip(parts, rng.integers(_N_SPHERES, size=_N_ROTATIONS)):
        vertices, harmonics = _rotated_sphere(order, int(rotation))
        inside = vertices[:, 2] > least_cosine
        if not inside.any():
            continue
        values = coeffs[part].astype(np.float32) @ harmonics[:, inside]
        vertices = vertices[inside]
        directions[part] = vertices[np.argmax(values, axis=1)]
    return directions


@cache
def _rotated_sphere(order: int, number: int) -> tuple[FloatArray, Float32Array]:
    """Return the upper vertices of a rotated sphere, and the harmonics there (C, V)."""
    from dipy.reconst.shm import real_sh_tournier

    rotation = Rotation.random(random_state=number).as_matrix()
    vertices = default_sphere.vertices @ rotation
    vertices = vertices * np.where(vertices[:, 2:] < 0, -1.0, 1.0)
    colatitude = np.arccos(vertices[:, 2])
    azimuth = np.arctan2(vertices[:, 1], vertices[:, 0])
    harmonics = real_sh_tournier(order, colatitude, azimuth, legacy=False)[0]
    return vertices, np.ascontiguousarray(harmonics.T, dtype=np.float32)


def peak_along(
    coeffs: AnyArray,
    along: FloatArray,
    max_angle_deg: float = 90.0,
    rng: np.random.Generator | None = None,
    *,
    straightness: float = 8,
) -> FloatArray:
    """Return the peak of the fODF that the streamline follows.

    Parameters
    ----------
    coeffs : ndarray of shape (N, C)
        The fODF in the frame of each streamline.
    along : ndarray of shape (N, 3)
        Directions of the streamlines in the frames.
    max_angle_deg : float, optional
        Angle of the cone around the third axis. If no peak is in this cone, a direction
        on its border is returned.
    rng : numpy.random.Generator, optional
        Not used.
    straightness : float, optional
        Exponent n of the choice of the peak. The search starts where f cos^n is
        largest, with f the fODF and cos the cosine of the angle to ``along``, and
        climbs to the next peak of f. A larger n prefers peaks close to ``along``, a
        smaller n prefers large peaks.

    Returns
    -------
    directions : ndarray of shape (N, 3)
        Unit vectors in the frames, exact to about half a degree.

    Examples
    --------
    >>> lobe = np.zeros((1, 15)); lobe[0, [3, 10]] = 2.0, 2.5  # straight ahead
    >>> bool(peak_along(lobe, np.array([[0.0, 0.28, 0.96]]))[0, 2] > 0.99)
    True
    """
    cone = cone_of(sh_order(coeffs.shape[1]), max_angle_deg)
    n_inside = len(cone.directions)
    values = coeffs.astype(np.float32) @ cone.matrix
    inside = np.maximum(values[:, :n_inside], 0)
    cosine = np.maximum(along.astype(np.float32) @ cone.directions.T, 0)
    weight = np.exp(straightness * np.log(np.maximum(cosine, _LEAST_COSINE)))
    vertex: IntArray = np.argmax(inside * weight, axis=1)
    rows = np.arange(len(values))
    for _ in range(_N_CLIMBS):
        around = cone.near[vertex]
        # A neighbour may be outside the cone, or stand for the opposite direction.
        there = cone.directions[np.minimum(around, n_inside - 1)]
        towards = np.einsum("nj,nkj->nk", cone.directions[vertex], there)
        can_climb = (around < n_inside) & (towards > 0)
        heights = np.where(can_climb, values[rows[:, None], around], -np.inf)
        best = np.argmax(heights, axis=1)
        higher = heights[rows, best] > values[rows, vertex]
        vertex = np.where(higher, around[rows, best], vertex)
    return cone.peak_near(values, vertex)


def blend(
    coeffs: AnyArray,
    along: FloatArray,
    max_angle_deg: float = 90.0,
    rng: np.random.Generator | None = None,
    *,
    share: float = 0.5,
) -> FloatArray:
    """Return a direction between the peak and the streamline's direction.

    Peaks are noisy, but the streamlines of a phantom are exact. Because of the share of
    the streamline, the network learns to average over the points it has passed. Because
    of the share of the peak, its output stays close to the fODF at the point.

    Parameters
    ----------
    coeffs : ndarray of shape (N, C)
        The fODF in the frame of each streamline.
    along : ndarray of shape (N, 3)
        Directions of the streamlines in the frames.
    max_angle_deg, rng
        As for :func:`peak_along`.
    share : float, optional
        Weight of the streamline's direction; the peak has the rest.

    Returns
    -------
    directions : ndarray of shape (N, 3)
        Unit vectors in the frames.

    Examples
    --------
    >>> lobe = np.zeros((1, 15)); lobe[0, [3, 10]] = 2.0, 2.5  # straight ahead
    >>> blend(lobe, np.array([[0.0, 0.28, 0.96]]), share=0.5)[0, 1:].round(1)
    array([0.1, 1. ])
    """
    peaks = peak_along(coeffs, along, max_angle_deg, rng)
    directions = (1 - share) * peaks + share * along
    norm: FloatArray = np.linalg.norm(directions, axis=1, keepdims=True)
    return directions / norm


def deterministic_streamlines(
    data: AnyArray,
    affine: FloatArray,
    n_seeds: int,
    *,
    above: tuple[AnyArray, float] | None = None,
    step_vox: float = 0.25,
    max_angle_deg: float = 45.0,
    random_seed: int = 0,
) -> Iterator[FloatArray]:
    """Make a training tractogram with DIPY's deterministic tracking.

    Parameters
    ----------
    data : ndarray of shape (X, Y, Z, C)
        The fODF in the package's basis (:mod:`dipy_rnn.sampling.features`).
    affine : ndarray of shape (4, 4)
        Voxel to mm.
    n_seeds : int
        Number of seeds, at random points.
    above : tuple of (ndarray of shape (X, Y, Z), float), optional
        Image and threshold. Streamlines start and stay where the image is above the
        threshold. If None, the image is the fibre density (the integral of the fODF
        over the sphere) divided by its 95th percentile; streamlines start above 0.3 and
        stay above 0.1.
    step_vox : float, optional
        Step size in edges of a voxel.
    max_angle_deg : float, optional
        ``max_angle`` of DIPY's tracking.
    random_seed : int, optional

    Returns
    -------
    streamlines : generator of ndarray of shape (M, 3)
        In mm.

    Raises
    ------
    ValueError
        If there is no voxel for seeds.

    Examples
    --------
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.sampling import fodf_features
    >>> phantom = crossing_phantom(90)
    >>> data = fodf_features(phantom.fodf()).data
    >>> len(list(deterministic_streamlines(data, phantom.affine, 5)))
    5
    """
    if above is None:
        image = data[..., 0]
        fullest = np.percentile(image[image > 0], 95) if (image > 0).any() else 1.0
        image = image / fullest
        seed_thr, stopping_thr = 0.3, 0.1
    else:
        image, seed_thr = above
        stopping_thr = seed_thr
        warn_of_threshold(image, stopping_thr)
    voxels = np.argwhere((image > seed_thr) & data.any(axis=3))
    if not len(voxels):
        raise ValueError(f"There is no voxel above {seed_thr:g} for seeds.")
    rng = np.random.default_rng(random_seed)
    chosen = voxels[rng.integers(len(voxels), size=n_seeds)]
    seeds_vox = chosen + rng.uniform(-0.5, 0.5, chosen.shape)
    edge_mm = spatial.voxel_edge(affine)
    step_mm = step_vox * edge_mm
    streamlines: Iterator[FloatArray] = deterministic_tracking(
        spatial.to_mm(seeds_vox, affine),
        ThresholdStoppingCriterion(np.array(image, dtype=np.float64), stopping_thr),
        affine,
        sh=data.astype(np.float64),
        basis_type="tournier07",
        legacy=False,
        sphere=get_sphere(name="symmetric724"),
        max_angle=max_angle_deg,
        step_size=step_mm,
        **lengths_for_dipy(_MIN_LEN_VOX * edge_mm, _MAX_LEN_VOX * edge_mm, step_mm),
        random_seed=random_seed + 1,  # for 0 DIPY takes the seed from the clock
    )
    return streamlines
