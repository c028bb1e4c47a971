# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Layers of networks, and the conditions of a run, for the kernels of networks."""

from libc.math cimport log

import numpy as np

from dipy_rnn._interp cimport BLOCK, find_points, turns_of
from dipy_rnn.sampling._cone cimport CACHE_LINE, panels_of

from dipy_rnn.sampling.rotation import quarter_turns as _quarter_turns
from dipy_rnn.sampling.rotation import sh_order as _sh_order


cdef object in_panels(weight, bias, layer* target):
    """Store a layer in panels (``_lanes.h``). Rows of zeros fill the last panel.

    Return the arrays, which keep the memory alive.
    """
    n_out, n_in = weight.shape
    panels = panels_of(weight.T)
    bias = np.pad(bias, (0, -n_out % PANEL))
    cdef:
        float[::1] weight_view = panels
        float[::1] bias_view = bias
    target.weights = &weight_view[0]
    target.bias = &bias_view[0]
    target.n_in = n_in
    target.n_out = bias_view.shape[0]
    return panels, bias


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
    """What does not change during a run: the volume, the conditions, the cone.

    Parameters
    ----------
    volume : array of shape (X, Y, Z, C)
        Coefficients in ``tournier07``, not legacy.
    handedness : float
        Handedness of the voxel axes.
    cone : dipy_rnn.sampling.Cone
    step_vox : float
        Step size in edges of a voxel.
    max_angle_deg : float
        Angle of the cone.
    pmf_threshold : float
    edge_vox : sequence of 3 floats
        An edge of a voxel along each axis, in voxel coordinates.
    context_order : int or None
        Highest order of the coefficients that are sampled around the points.
    """

    def __cinit__(
        self, volume, handedness, cone, step_vox, max_angle_deg, pmf_threshold,
        edge_vox, context_order
    ):
        self.volume = volume
        self.order = _sh_order(volume.shape[3])
        self.handedness = handedness
        self.tables = _quarter_turns(self.order)
        self.turns = turns_of(self.tables)
        self.cone = CompiledCone(cone, volume.shape[3])
        self.conditions.step = step_vox
        self.conditions.log_step = log(step_vox)
        self.conditions.angle = np.deg2rad(max_angle_deg)
        self.conditions.pmf_threshold = pmf_threshold
        for axis in range(3):
            self.conditions.edge[axis] = edge_vox[axis]
        if context_order is not None:
            self.context = _lower_orders(volume, context_order)


cdef void find_block(
    CompiledRun run, const double* points, Py_ssize_t n_points, Py_ssize_t block,
    Neighbours* near
) noexcept nogil:
    """Find the voxels around the points of a block, if there is such a block.

    ``near`` has room for two blocks: while one is computed, the voxels of the next one
    are fetched from memory.
    """
    cdef Py_ssize_t start = block * BLOCK

    if start < n_points:
        find_points(run.volume, run.volume.shape[3], points + 3 * start,
                    min(BLOCK, n_points - start), &near[block % 2])


def _lower_orders(volume, order):
    """Return the coefficients up to an order. Each voxel begins with a cache line.

    Zeros fill the last line of a voxel. A voxel is fetched and sampled faster than from
    the whole volume, whose voxels begin anywhere in a line.
    """
    n_coeffs = (order + 1) * (order + 2) // 2
    line = CACHE_LINE // sizeof(float)
    shape = *volume.shape[:3], -(-n_coeffs // line) * line
    memory = np.empty(np.prod(shape) + line, np.float32)
    start = -memory.ctypes.data % CACHE_LINE // sizeof(float)
    lower = memory[start:len(memory) - line + start].reshape(shape)
    n_coeffs = min(n_coeffs, volume.shape[3])
    lower[..., :n_coeffs] = volume[..., :n_coeffs]
    lower[..., n_coeffs:] = 0
    return lower


cdef class CompiledNetwork:
    """A network as a kernel, from points to directions. Subclasses compute."""

    def prepare(
        self, volume, handedness, cone, step_vox, max_angle_deg, pmf_threshold, edge_vox
    ):
        """Return the :class:`CompiledRun` of these arguments.

        The order of ``volume`` is not above that of the network.
        """
        return CompiledRun(volume, handedness, cone, step_vox, max_angle_deg,
                           pmf_threshold, edge_vox, self.context_order)

    def init_state(self, n):
        """Return fresh states (zeros) for whole blocks of streamlines."""
        return np.zeros((-(-n // BLOCK), *self.state_shape, BLOCK), np.float32)

    def next_directions(
        self, CompiledRun run, const double[:, ::1] points,
        const double[:, :, ::1] frames, float[:, :, :, ::1] state,
        float[:, ::1] answers, unsigned char[::1] status
    ):
        """Write the next unit directions of streamlines. Update their states.

        Parameters
        ----------
        run : CompiledRun
            Made by :meth:`prepare`.
        points : array of shape (n, 3)
            Voxel coordinates.
        frames : array of shape (n, 3, 3)
            Moving frames.
        state : array of shape (n_blocks, layers, width, BLOCK)
            Updated in place.
        answers : array of shape (n, 3 + number of declared outputs)
            Output: directions in the moving frames, then the declared outputs. If
            there are three columns, only directions.
        status : array of shape (n,)
            Output: OUTSIDE, EMPTY, NOTHING_AHEAD or DATA.

        Raises
        ------
        MemoryError
        """
        cdef int failed = 0

        if points.shape[0]:
            with nogil:
                failed = self.advance(
                    run, &points[0, 0], &frames[0, 0, 0], points.shape[0],
                    &state[0, 0, 0, 0], &answers[0, 0], answers.shape[1], &status[0])
        if failed:
            raise MemoryError

    cdef int advance(
        self, CompiledRun run, const double* points, const double* frames,
        Py_ssize_t n_points, float* state, float* answers, Py_ssize_t width,
        unsigned char* status
    ) noexcept nogil:
        """Do what :meth:`next_directions` does. Return -1 if there is no memory."""
        return -1
