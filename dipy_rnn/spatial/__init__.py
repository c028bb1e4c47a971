"""Coordinate spaces: affines, and the frame that moves with a streamline."""

from dipy_rnn.spatial import frames
from dipy_rnn.spatial.affine import (
    axes,
    check_affine,
    handedness,
    to_mm,
    to_voxels,
    voxel_sizes,
    without_shear,
)

__all__ = [
    "axes",
    "check_affine",
    "frames",
    "handedness",
    "to_mm",
    "to_voxels",
    "voxel_sizes",
    "without_shear",
]
