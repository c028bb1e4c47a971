"""Small images and phantoms for tests of tracking, and comparison of streamlines."""

from itertools import permutations, product

from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
import numpy as np

from dipy_rnn import draws, sampling, spatial
from dipy_rnn.phantom import random_phantom
from dipy_rnn.sampling import DATA, EMPTY, NOTHING_AHEAD, OUTSIDE
from dipy_rnn.stopping import StopReason
from dipy_rnn.tracking import TrackingConfig, engine
from dipy_rnn.tracking.seed_queue import SeedQueue

OBLIQUE_ROTATION = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]


def affine_of(voxel_sizes_mm, rotation=None, offset_mm=(-30.0, 12.0, 5.0)):
    """Return an affine with given voxel sizes and axes."""
    affine = np.eye(4)
    rotation = np.eye(3) if rotation is None else rotation
    affine[:3, :3] = rotation * np.asarray(voxel_sizes_mm)
    affine[:3, 3] = offset_mm
    return affine


def signed_permutations():
    """Return the 48 ways to store the axes of an image; half of them are rotations."""
    matrices = []
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), order] = signs
            matrices.append(matrix)
    return matrices


def reorient(volume, axes):
    """Store a volume along other axes: index ``i`` becomes ``axes @ i``."""
    order = np.argmax(np.abs(axes), axis=1)
    flipped = [i for i in range(3) if axes[i, order[i]] < 0]
    return np.ascontiguousarray(
        np.flip(volume.transpose(*order, *range(3, volume.ndim)), flipped)
    )


def reorient_sh(coeffs, axes):
    """Store coefficients (package basis) along other axes, and rotate them as well."""
    moved = reorient(coeffs, axes)
    rows = moved.reshape(-1, coeffs.shape[3])
    turned = sampling.rotate(
        rows,
        np.broadcast_to(axes, (len(rows), 3, 3)),
        handedness=np.linalg.det(axes),
    )
    return turned.reshape(moved.shape)


def index_map(shape, axes):
    """Return the affine from old to new voxel coordinates of :func:`reorient`."""
    matrix = np.eye(4)
    matrix[:3, :3] = axes
    # A flipped axis counts from the far end.
    matrix[:3, 3] = (np.abs(axes) @ (np.asarray(shape) - 1)) * (axes.sum(axis=1) < 0)
    return matrix


def everywhere(shape):
    """Return a criterion by which no streamline ends inside the image."""
    return BinaryStoppingCriterion(np.ones(shape))


def border_points(shape, n=4000):
    """Return random points around an image. Half of them are multiples of 0.5."""
    points = np.random.default_rng(1).uniform(-1.5, np.array(shape) + 0.5, (n, 3))
    # These lie on borders, and between two voxels that are equally near.
    points[::2] = np.round(2 * points[::2]) / 2
    return points


def ends_beyond(x, shape=(2000, 3, 3)):
    """Return a criterion by which streamlines end beyond voxel x of the first axis."""
    mask = np.zeros(shape)
    mask[: x + 1] = 1
    return BinaryStoppingCriterion(mask)


def row_of_points(first, last, y=1.0):
    """Return points at first, first + 1 .. last along x."""
    xs = np.arange(first, last + 1.0)
    return np.column_stack([xs, np.full((len(xs), 2), [y, 1.0])])


def run_engine(predictor, criterion, queue, *, n_slots=1, nbr_threads=1, **settings):
    """Run the engine, by default on a grid of 1 mm with steps of 1 mm."""
    defaults = {"affine": np.eye(4), "step_size": 1.0, "max_angle": 180.0}
    config = TrackingConfig.of(**defaults | {"max_points": 5000} | settings)
    blocks = engine.run(
        predictor, criterion, queue, config, n_slots=n_slots, nbr_threads=nbr_threads
    )
    return (line for block in blocks for line in block.split(queue.seeds_mm))


def track_from(predictor, criterion, seeds_vox, directions=None, **settings):
    """Return the streamlines of seeds. A single direction is used for all seeds."""
    if directions is not None:
        directions = np.broadcast_to(directions, np.shape(seeds_vox)).astype(float)
    affine = settings.get("affine", np.eye(4))
    seeds_mm = spatial.to_mm(seeds_vox, affine)
    keys = None
    if np.isfinite(seeds_vox).all():
        keys = draws.seed_keys(settings.get("random_seed", 0), seeds_vox)
    queue = SeedQueue(predictor, seeds_mm, affine, directions, seed_keys=keys)
    return list(run_engine(predictor, criterion, queue, **settings))


class NoisyWorld:
    """A random phantom with noise, seeds on its bundles, and a stopping criterion."""

    def __init__(self, affine=None, n_seeds=60, random_seed=1):
        phantom = random_phantom(random_seed, shape=(20, 20, 20), voxel_size_mm=3.0)
        if affine is not None:
            # The same bundles, in the middle of another grid.
            middle = phantom.affine[:3, :3] @ np.full(3, 9.5) + phantom.affine[:3, 3]
            affine = affine.copy()
            shape = np.ceil(57 / np.linalg.norm(affine[:3, :3], axis=0)).astype(int)
            affine[:3, 3] = middle - affine[:3, :3] @ ((shape - 1) / 2)
            phantom = phantom.on_grid(affine, tuple(int(n) for n in shape))
        self.affine = phantom.affine
        self.features = sampling.fodf_features(phantom.fodf(noise=0.1, random_seed=5))
        self.mask = phantom.peaks()[0].sum(axis=-1) > 0.2
        self.criterion = BinaryStoppingCriterion(self.mask)
        lines = phantom.streamlines(10, random_seed=random_seed)[0]
        rng = np.random.default_rng(random_seed)
        self.seeds = np.array(
            [
                line[rng.integers(len(line) // 4, 3 * len(line) // 4)]
                for line in (lines[i % len(lines)] for i in range(n_seeds))
            ]
        )


def hausdorff(a, b):
    """Return the Hausdorff distance of two streamlines in mm."""
    distances = np.linalg.norm(a[:, None] - b[None], axis=2)
    return max(distances.min(axis=0).max(), distances.min(axis=1).max())


def share_within(lines, others, limit_mm):
    """Return the share of pairs whose Hausdorff distance is within a limit."""
    assert len(lines) == len(others) > 0
    return np.mean([hausdorff(a, b) <= limit_mm for a, b in zip(lines, others)])


def share_identical(lines, others, limit_mm=1e-3):
    """Return the share of pairs with every point within a limit."""
    assert len(lines) == len(others) > 0
    return np.mean(
        [
            len(a) == len(b) and np.abs(a - b).max() <= limit_mm
            for a, b in zip(lines, others)
        ]
    )


# Steps, and why a streamline cannot take them, at a largest angle of 60 degrees: the
# answer of a model in the moving frame, the status of the point, the reason.
STEPS = [
    ([0.0, 0.0, 1.0], DATA, StopReason.RUNNING),
    ([0.0, 0.0, 1e-12], DATA, StopReason.RUNNING),
    ([1.7, 0.0, 1.0], DATA, StopReason.RUNNING),  # 59.5 degrees
    ([1.8, 0.0, 1.0], DATA, StopReason.NOTHING_AHEAD),  # 60.9 degrees
    ([0.0, 0.0, -1.0], DATA, StopReason.NOTHING_AHEAD),
    ([0.0, 0.0, 0.0], DATA, StopReason.NO_DIRECTION),
    ([np.nan, 0.0, 1.0], DATA, StopReason.NOT_FINITE),
    ([0.0, -np.inf, 1.0], DATA, StopReason.NOT_FINITE),
    ([0.0, 0.0, 1.0], EMPTY, StopReason.NO_DATA),
    ([np.nan, 0.0, 0.0], EMPTY, StopReason.NO_DATA),
    ([0.0, 0.0, 1.0], NOTHING_AHEAD, StopReason.NOTHING_AHEAD),
    ([np.nan, 0.0, 1.0], NOTHING_AHEAD, StopReason.NOTHING_AHEAD),
    ([0.0, 0.0, 1.0], OUTSIDE, StopReason.OUTSIDE_IMAGE),
    ([0.0, 0.0, 0.0], OUTSIDE, StopReason.OUTSIDE_IMAGE),
]
