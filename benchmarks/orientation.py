"""Streamlines of a head that is stored in other orientations, and with rolled frames.

    python benchmarks/orientation.py FOLDER/canon61

The folder is the same as for speed.py. The table gives the share of streamlines that
are the same within 2 mm, for the same seeds and first directions:

* in the 23 other orientations in which voxels can be stored (rotations by 90 degrees);
* if the first frames are rolled about the first directions by random angles, six times.
"""

import argparse
from itertools import permutations, product
from pathlib import Path
from unittest.mock import patch

from dipy.tracking.stopping_criterion import ThresholdStoppingCriterion
import numpy as np
from real_data import STOPPING_THR
from speed import Case

from dipy_rnn import rnn_tracking, sampling, spatial
from dipy_rnn.evaluation import agreement
from dipy_rnn.sampling.features import FeatureVolume
from dipy_rnn.spatial import frames

N_ROLLS = 6
FROM_TANGENTS = frames.from_tangents


class Head:
    """A head whose voxel axes are those of RAS, with its seeds and first directions."""

    def __init__(self, case):
        self.data, self.fa = case.features.data, case.fa
        self.voxel_mm = spatial.voxel_sizes(case.affine)
        seeds_vox = spatial.to_voxels(case.seeds, case.affine)
        self.seeds_mm = seeds_vox * self.voxel_mm
        self.directions = sampling.first_directions(
            self.data, seeds_vox, np.eye(3), max_peaks=1
        )[:, 0]
        self.max_angle = case.max_angle

    def track(self, model, rotation):
        """Track the rotated head. Return streamlines of the head that is not rotated.

        Rows of the rotation are the new voxel axes, each along an old one.
        """
        axes = np.argmax(np.abs(rotation), axis=1)
        flipped = [i for i in range(3) if rotation[i].sum() < 0]
        data = np.flip(self.data.transpose(*axes, 3), flipped)
        fa = np.flip(self.fa.transpose(axes), flipped)
        rows = np.ascontiguousarray(data).reshape(-1, data.shape[3])
        turned = np.zeros_like(rows)
        filled = rows.any(axis=1)
        turned[filled] = sampling.rotate(
            rows[filled], np.tile(rotation, (np.count_nonzero(filled), 1, 1))
        )
        origin = np.zeros(3)
        extent = (np.array(fa.shape) - 1) * self.voxel_mm[axes]
        origin[flipped] = extent[flipped]
        lines = rnn_tracking(
            self.seeds_mm @ rotation.T + origin,
            ThresholdStoppingCriterion(np.ascontiguousarray(fa), STOPPING_THR),
            np.diag([*self.voxel_mm[axes], 1.0]),
            features=FeatureVolume(turned.reshape(data.shape), "sh"),
            seed_directions=self.directions @ rotation.T,
            model=model,
            step_size=1.0,
            max_angle=self.max_angle,
            min_len=0,
        )
        return [(line - origin) @ rotation for line in lines]


def rotations():
    """Yield the rotations of a cube, except that by zero degrees."""
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        rotation = np.eye(3)[list(order)] * np.array(signs)[:, None]
        if np.linalg.det(rotation) > 0 and not np.array_equal(rotation, np.eye(3)):
            yield rotation


def rolled(rng):
    """Return a function as `frames.from_tangents`, with frames that are rolled."""

    def from_tangents(tangents, axes):
        found = FROM_TANGENTS(tangents, axes).copy()
        angles = rng.uniform(0, 2 * np.pi, len(found))[:, None]
        x, y = found[:, 0].copy(), found[:, 1].copy()
        found[:, 0] = np.cos(angles) * x + np.sin(angles) * y
        found[:, 1] = np.cos(angles) * y - np.sin(angles) * x
        return found

    return from_tangents


def main():
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("head", type=Path)
    parser.add_argument("--work", type=Path, default=Path("real_data"))
    parser.add_argument("--models", nargs="+", default=["default", "fast"])
    parser.add_argument("--n_seeds", type=int, default=500)
    parser.add_argument("--max_angle", type=float, default=45.0)
    arguments = parser.parse_args()
    head = Head(Case(arguments))
    print("| model | orientations | rolled frames |\n|---|---|---|")
    for model in arguments.models:
        lines = head.track(model, np.eye(3))
        same = [agreement(lines, head.track(model, r)).mean() for r in rotations()]
        of_rolls = []
        for number in range(N_ROLLS):
            roll = rolled(np.random.default_rng(number))
            with patch("dipy_rnn.tracking.seed_queue.frames.from_tangents", roll):
                of_rolls.append(agreement(lines, head.track(model, np.eye(3))).mean())
        print(f"| `{model}` | {np.mean(same):.3f} | {np.mean(of_rolls):.3f} |")


if __name__ == "__main__":
    main()
