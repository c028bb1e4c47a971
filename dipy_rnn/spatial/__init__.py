"""Coordinate spaces: affines, and the frame that moves with a streamline."""

from dipy_rnn.spatial import frames
from dipy_rnn.spatial.affine import (
    axes,
    check_affine,
    handedness,
    is_inside,
    is_same_grid,
    map_points,
    to_mm,
    to_voxels,
    voxel_edge,
    voxel_sizes,
    without_shear,
)
from dipy_rnn.spatial.extent import corners_mm, describe_apart, do_overlap
from dipy_rnn.spatial.placement import Placement, describe_outside

__all__ = [
    "Placement",
    "axes",
    "check_affine",
    "corners_mm",
    "describe_apart",
    "describe_outside",
    "do_overlap",
    "frames",
    "handedness",
    "is_inside",
    "is_same_grid",
    "map_points",
    "to_mm",
    "to_voxels",
    "voxel_edge",
    "voxel_sizes",
    "without_shear",
]
