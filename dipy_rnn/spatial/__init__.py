"""Coordinate spaces: affines, and the frame that moves with a streamline."""

from dipy_rnn.spatial import frames
from dipy_rnn.spatial.affine import (
    axes,
    check_affine,
    handedness,
    is_inside,
    is_same_grid,
    to_mm,
    to_voxels,
    voxel_edge,
    voxel_sizes,
    without_shear,
)
from dipy_rnn.spatial.placement import Placement, describe_outside

__all__ = [
    "Placement",
    "axes",
    "check_affine",
    "describe_outside",
    "frames",
    "handedness",
    "is_inside",
    "is_same_grid",
    "to_mm",
    "to_voxels",
    "voxel_edge",
    "voxel_sizes",
    "without_shear",
]
