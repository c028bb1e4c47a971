# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Layers of networks, and the conditions of a run, for the kernels of networks."""

from libc.math cimport log

import numpy as np


cdef object in_panels(weight, bias, layer* target):
    """Store a layer in panels (``_lanes.h``). Rows of zeros fill the last panel.

    Return the arrays, which keep the memory alive.
    """
    n_out, n_in = weight.shape
    padding = -n_out % PANEL
    weight = np.pad(weight, ((0, padding), (0, 0)))
    weight = np.ascontiguousarray(weight.reshape(-1, PANEL, n_in).transpose(0, 2, 1))
    bias = np.pad(bias, (0, padding))
    cdef:
        float[:, :, ::1] weight_view = weight
        float[::1] bias_view = bias
    target.weights = &weight_view[0, 0, 0]
    target.bias = &bias_view[0]
    target.n_in = n_in
    target.n_out = n_out + padding
    return weight, bias


cdef tuple layer_of(weights, name, n_out, n_in):
    """Return weights and bias of a layer, and check their shapes and types."""
    arrays = ()
    for kind, shape in (("weight", (n_out, n_in)), ("bias", (n_out,))):
        array = weights[f"{name}.{kind}"]
        if array.shape != shape or array.dtype != np.float32:
            raise ValueError(
                f"{name}.{kind} is {array.dtype} of shape {array.shape}, not float32 of "
                f"shape {shape}")
        arrays += (array,)
    return arrays


cdef class CompiledRun:
    """The conditions of a run, and the tables of its cone.

    Parameters
    ----------
    cone : dipy_rnn.sampling.Cone
    n_coeffs : int
        Number of coefficients of the volume.
    step_vox : float
        Step size in edges of a voxel.
    max_angle_deg : float
        Angle of the cone.
    pmf_threshold : float
    edge_vox : sequence of 3 floats
        An edge of a voxel along each axis, in voxel coordinates.
    """

    def __cinit__(self, cone, n_coeffs, step_vox, max_angle_deg, pmf_threshold, edge_vox):
        self.cone = CompiledCone(cone, n_coeffs)
        self.conditions.step = step_vox
        self.conditions.log_step = log(step_vox)
        self.conditions.angle = np.deg2rad(max_angle_deg)
        self.conditions.pmf_threshold = pmf_threshold
        for axis in range(3):
            self.conditions.edge[axis] = edge_vox[axis]
