"""Worlds of crossing, bending and fanning bundles whose streamlines are known.

A `Bundle` is a tube of fibres around a centreline, given in millimetres (RAS);
a `Phantom` is some bundles seen on a voxel grid.  The bundles do not know the
grid: `Phantom.on_grid` shows the same world to an oblique, flipped or
anisotropic scanner.  From one world come the true streamlines (in mm), the true
peaks, an fODF as spherical harmonics and a diffusion-weighted series; these
three are along the voxel axes, as everywhere in DIPY.

Inside a tube the fibres are the curves ::

    p(s; u) = c(s) + rho(s) (u1 n1(s) + u2 n2(s)),    |(u1, u2)| <= 1

where c is the centreline, rho the radius, and n1 and n2 are normals carried
along c without turning about it [1]_.  As n_i' = -(kappa . n_i) t, the fibre
through the point x = c(s) + r runs along ::

    p'(s) = t (1 - kappa . r) + (rho' / rho) r

with the unit tangent t and the curvature vector kappa of the centreline.

All randomness comes from a `random_seed`: the same seed, the same world.

References
----------
.. [1] Bishop RL. There is more than one way to frame a curve. The American
   Mathematical Monthly 82(3), 1975.
"""

from dataclasses import dataclass, field
from itertools import product
import warnings

from dipy.reconst.shm import real_sh_descoteaux
from dipy.sims.voxel import add_noise
import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

from dipy_rnn import spaces

__all__ = ["Bundle", "Phantom", "circle_phantom", "crossing_phantom", "random_phantom"]

EDGE = 0.2  # the outer share of the radius over which the fraction falls to 0
SAMPLE_MM = 0.25  # spacing at which a centreline is searched and fibres are drawn
REACH_SAMPLE_MM = 1.0  # spacing at which a centreline is searched for folds
REMAINDER_DIFFUSIVITY = 0.7e-3  # mm^2/s, isotropic, about that of grey matter
SUBVOXELS = np.array(list(product((-0.25, 0.25), repeat=3)))  # in voxels


def _check_positive(name, values):
    for value in np.ravel(values):
        if not 0 < value < np.inf:
            raise ValueError(f"{name} is {value}: it must be positive and finite")


def _check_count(name, value, least):
    if int(value) != value or value < least:
        raise ValueError(f"{name} is {value}: it must be a whole number from {least}")


def _check_shape(shape):
    if np.ndim(shape) != 1 or len(shape) != 3:
        raise ValueError(f"shape is {shape}: it must be three whole numbers")
    for length in shape:
        _check_count("shape", length, 1)
    return tuple(int(length) for length in shape)


def _unit(vectors):
    """Scale to length one; a vector of length zero stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def _dot(a, b):
    return np.einsum("...i,...i->...", a, b)


def _arc_lengths(points):
    """Distance along a polyline from its first point to each of its points."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _reach(points, tangents):
    """Radius up to which a tube around a curve neither folds nor meets itself.

    This is Federer's reach, at each point p the smallest |q - p|^2 / (2 d) over
    the other points q, with d the distance of q from the tangent line at p: the
    radius of the circle that touches the curve in p and goes through q.
    """
    chords = points[None] - points[:, None]
    squared = _dot(chords, chords)
    along = np.einsum("pqi,pi->pq", chords, tangents)
    aside = np.sqrt(np.maximum(squared - along**2, 0))
    # Neighbours on a straight line are aside by rounding alone.
    bent = aside > 1e-6 * np.sqrt(squared)
    return np.divide(
        squared, 2 * aside, out=np.full_like(squared, np.inf), where=bent
    ).min(axis=1)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A tube of fibres around a centreline.

    Parameters
    ----------
    centreline_mm : ndarray of shape (K, 3)
        Points along a smooth curve in mm (RAS); about 0.25 to 0.5 mm apart where
        it bends.  If the last point is the first, the tube is closed.
    radius_mm : float or ndarray of shape (K,)
        Radius of the tube at these points in mm.  Where it grows, fibres fan out.
    weight : float, optional
        Volume fraction in (0, 1] that the bundle claims in its inside.

    Notes
    -----
    The tube must not fold or meet itself: its radius has to stay below the radius
    of curvature of the centreline and below half of the gap to its other parts.

    Examples
    --------
    >>> import numpy as np
    >>> from dipy_rnn.phantom import Bundle
    >>> bundle = Bundle(np.array([[0.0, 0, 0], [20, 0, 0]]), 3.0)
    >>> directions, fraction = bundle.directions(np.array([[10.0, 1, 0], [10, 4, 0]]))
    >>> print(directions.round(3))
    [[1. 0. 0.]
     [0. 0. 0.]]
    >>> print(fraction)
    [1. 0.]
    """

    centreline_mm: np.ndarray
    radius_mm: np.ndarray
    weight: float = 1.0
    # c and rho as one spline of the arc length, where it was sampled, and a tree
    # of these samples.
    _curve: CubicSpline = field(init=False, repr=False)
    _arc_mm: np.ndarray = field(init=False, repr=False)
    _tree: cKDTree = field(init=False, repr=False)

    def __post_init__(self):
        centreline = np.array(self.centreline_mm, dtype=np.float64)
        if centreline.ndim != 2 or centreline.shape[1] != 3 or len(centreline) < 2:
            raise ValueError(
                f"centreline_mm has shape {centreline.shape}: it must be (K, 3), K > 1"
            )
        if np.ndim(self.radius_mm) and np.shape(self.radius_mm) != centreline.shape[:1]:
            raise ValueError(
                f"radius_mm has shape {np.shape(self.radius_mm)}: it must be a number "
                f"or one per point of the centreline, ({len(centreline)},)"
            )
        _check_positive("radius_mm", self.radius_mm)
        radius = np.full(len(centreline), self.radius_mm, dtype=np.float64)
        if not 0 < self.weight <= 1:
            raise ValueError(f"weight is {self.weight}: it must be in (0, 1]")

        arc = _arc_lengths(centreline)
        if not np.all(np.diff(arc) > 0):
            raise ValueError(
                "centreline_mm has a repeated or infinite point: all steps must be "
                "finite and longer than 0"
            )
        closed = np.allclose(centreline[0], centreline[-1], rtol=0, atol=1e-6)
        if closed:
            if not np.isclose(radius[0], radius[-1]):
                raise ValueError(
                    f"radius_mm of a closed tube goes from {radius[0]} to "
                    f"{radius[-1]}: it must be the same at both ends"
                )
            centreline[-1], radius[-1] = centreline[0], radius[0]

        curve = CubicSpline(
            arc,
            np.column_stack([centreline, radius]),
            bc_type="periodic" if closed else "not-a-knot",
        )
        coarse = np.linspace(0, arc[-1], 2 + int(arc[-1] / REACH_SAMPLE_MM))[:-1]
        reach = _reach(curve(coarse)[:, :3], _unit(curve(coarse, 1)[:, :3]))
        if np.any(curve(coarse)[:, 3] >= reach):
            raise ValueError(
                f"radius_mm is up to {radius.max():.3g} where the centreline leaves "
                f"{reach.min():.3g} mm: a tube must not fold or meet itself"
            )
        fine = np.linspace(0, arc[-1], 2 + int(arc[-1] / SAMPLE_MM))
        centreline.setflags(write=False)
        radius.setflags(write=False)
        for name, value in (
            ("centreline_mm", centreline),
            ("radius_mm", radius),
            ("_curve", curve),
            ("_arc_mm", fine),
            ("_tree", cKDTree(curve(fine)[:, :3])),
        ):
            object.__setattr__(self, name, value)

    @property
    def _is_closed(self):
        return self._curve.extrapolate == "periodic"

    def _is_near(self, points_mm, margin_mm):
        """Whether points could be within a margin of the tube (never a false no)."""
        bound = self.radius_mm.max() + SAMPLE_MM + margin_mm
        distance, _ = self._tree.query(points_mm, distance_upper_bound=bound)
        return np.isfinite(distance)

    def _foot(self, points_mm, nearest):
        """Arc length of the centreline's points nearest to given points.

        Newton's method on (x - c(s)) . c'(s) = 0 from the nearest sample, within
        one sample of it; beyond the end of an open tube it stays beyond.
        """
        start = self._arc_mm[nearest]
        spacing = self._arc_mm[1]
        foot = start.copy()
        for _ in range(3):
            offset = points_mm - self._curve(foot)[:, :3]
            velocity = self._curve(foot, 1)[:, :3]
            bend = self._curve(foot, 2)[:, :3]
            slope = _dot(velocity, velocity) - _dot(offset, bend)
            foot += _dot(offset, velocity) / np.maximum(slope, 0.01)
            foot = np.clip(foot, start - spacing, start + spacing)
        return foot

    def directions(self, points_mm):
        """Directions of the fibres at points, and how full of fibres these are.

        Parameters
        ----------
        points_mm : ndarray of shape (N, 3)
            In mm (RAS).

        Returns
        -------
        directions : ndarray of shape (N, 3)
            Unit vectors in world axes, from the first to the last point of the
            centreline; zero outside the tube.
        fraction : ndarray of shape (N,)
            1 inside, falling smoothly to 0 over the outer fifth of the radius, and
            0 outside.  `weight` is not part of it.

        Examples
        --------
        >>> import numpy as np
        >>> from dipy_rnn.phantom import Bundle
        >>> fan = Bundle(np.array([[0.0, 0, 0], [20, 0, 0]]), np.array([2.0, 4]))
        >>> print(fan.directions(np.array([[20.0, 2, 0]]))[0].round(3))
        [[0.999 0.05  0.   ]]
        """
        points_mm = np.asarray(points_mm, dtype=np.float64)
        if points_mm.ndim != 2 or points_mm.shape[1] != 3:
            raise ValueError(
                f"points_mm has shape {points_mm.shape}: it must be (N, 3)"
            )
        directions = np.zeros(points_mm.shape)
        fraction = np.zeros(len(points_mm))

        _, nearest = self._tree.query(
            points_mm, distance_upper_bound=self.radius_mm.max() + SAMPLE_MM
        )
        near = np.flatnonzero(nearest < self._tree.n)
        foot = self._foot(points_mm[near], nearest[near])
        if not self._is_closed:
            rounding = 1e-9 * self._arc_mm[-1]
            within = (foot >= -rounding) & (foot <= self._arc_mm[-1] + rounding)
            near, foot = near[within], foot[within]

        centre, radius = np.split(self._curve(foot), [3], axis=1)
        velocity, growth = np.split(self._curve(foot, 1), [3], axis=1)
        bend = self._curve(foot, 2)[:, :3]
        # The parameter is the arc length only nearly, so the speed is kept:
        # p' = c' - (t' . r) t + (rho' / rho) r, where t' . r = c'' . r / |c'|.
        offset = points_mm[near] - centre
        speed = np.linalg.norm(velocity, axis=1, keepdims=True)
        turn = _dot(bend, offset)[:, None] / speed
        along = velocity * (1 - turn / speed) + growth / radius * offset

        depth = 1 - np.linalg.norm(offset, axis=1) / radius[:, 0]
        ramp = np.clip(depth / EDGE, 0, 1)
        fraction[near] = ramp * ramp * (3 - 2 * ramp)
        directions[near] = _unit(along) * (ramp > 0)[:, None]
        return directions, fraction

    def streamlines(self, n, *, step_mm, rng):
        """Draw fibres from one end of the tube to the other.

        They are spread evenly over that part of each cross-section in which the
        fraction is above one half.

        Parameters
        ----------
        n : int
            How many.
        step_mm : float
            Distance of neighbouring points along the fibre in mm, up to what makes
            the steps of one fibre equal.
        rng : numpy.random.Generator
            Where the fibres' places in the cross-section come from.

        Returns
        -------
        streamlines : list of n ndarrays of shape (M, 3)
            In mm (RAS), float64, along the centreline.

        Notes
        -----
        In a closed tube each fibre makes one turn.  It comes back to where it
        started if the centreline is planar; else it arrives turned about the
        centreline by the curve's holonomy, as the directions require.

        Examples
        --------
        >>> import numpy as np
        >>> from dipy_rnn.phantom import Bundle
        >>> bundle = Bundle(np.array([[0.0, 0, 0], [20, 0, 0]]), 3.0)
        >>> rng = np.random.default_rng(0)
        >>> [fibre.shape for fibre in bundle.streamlines(2, step_mm=0.5, rng=rng)]
        [(41, 3), (41, 3)]
        """
        _check_count("n", n, 0)
        _check_positive("step_mm", step_mm)
        centre, radius = np.split(self._curve(self._arc_mm), [3], axis=1)
        tangents = _unit(self._curve(self._arc_mm, 1)[:, :3])

        # Normals go along by the smallest rotation from tangent to tangent.
        old = tangents[0]
        normal = np.eye(3)[np.argmin(np.abs(old))]
        normals = [_unit(normal - _dot(normal, old) * old)]
        for new in tangents[1:]:
            turn = _dot(normals[-1], new) / (1 + _dot(old, new))
            normals.append(_unit(normals[-1] - turn * (old + new)))
            old = new
        normals = np.array(normals)
        binormals = np.cross(tangents, normals)

        place = (1 - EDGE / 2) * np.sqrt(rng.random(n))
        angle = 2 * np.pi * rng.random(n)
        streamlines = []
        for u1, u2 in zip(place * np.cos(angle), place * np.sin(angle), strict=True):
            fibre = centre + radius * (u1 * normals + u2 * binormals)
            arc = _arc_lengths(fibre)
            n_steps = max(1, round(arc[-1] / step_mm))
            equal = np.linspace(0, arc[-1], n_steps + 1)
            streamlines.append(CubicSpline(arc, fibre)(equal))
        return streamlines


class Phantom:
    """Bundles on a voxel grid.

    Parameters
    ----------
    bundles : sequence of Bundle
        At least one; B of them.
    affine : ndarray of shape (4, 4)
        Voxels to mm (RAS); voxel i is centred on coordinate i.  No shear.
    shape : tuple of 3 ints
        Voxels along each axis, (X, Y, Z).

    Examples
    --------
    >>> import numpy as np
    >>> from dipy_rnn.phantom import Bundle, Phantom
    >>> bundle = Bundle(np.array([[0.0, 4, 4], [8, 4, 4]]), 3.0)
    >>> phantom = Phantom([bundle], np.diag([2.0, 2, 2, 1]), (5, 5, 5))
    >>> fractions, directions = phantom.peaks()
    >>> print(fractions[2, 2, 2], directions[2, 2, 2])
    [1.] [[1. 0. 0.]]
    """

    def __init__(self, bundles, affine, shape):
        self.bundles = tuple(bundles)
        if not self.bundles:
            raise ValueError("bundles is empty: a phantom has at least one bundle")
        self.affine = spaces.check_affine(affine).copy()
        self.shape = _check_shape(shape)

    def on_grid(self, affine, shape):
        """Return the same bundles on another grid.

        Parameters
        ----------
        affine : ndarray of shape (4, 4)
            Voxels to mm (RAS).
        shape : tuple of 3 ints
            Voxels along each axis.

        Returns
        -------
        Phantom

        Examples
        --------
        >>> import numpy as np
        >>> from dipy_rnn.phantom import circle_phantom
        >>> circle = circle_phantom()
        >>> circle.on_grid(np.diag([-1.0, 1, 3, 1]), (10, 10, 4)).shape
        (10, 10, 4)
        """
        return Phantom(self.bundles, affine, shape)

    def peaks(self):
        """Fraction and direction of each bundle in each voxel.

        Returns
        -------
        fractions : ndarray of shape (X, Y, Z, B), float32
            Volume fractions, averaged over eight points of the voxel.  Where the
            bundles together claim more than 1, they share it.
        directions : ndarray of shape (X, Y, Z, B, 3), float32
            The fibres' mean directions, unit vectors along the voxel axes; zero
            where the fraction is.

        Examples
        --------
        >>> from dipy_rnn.phantom import crossing_phantom
        >>> fractions, _ = crossing_phantom(90, shape=(15, 15, 9)).peaks()
        >>> print(fractions[7, 7, 4])
        [0.5 0.5]
        """
        centres_vox = np.indices(self.shape, dtype=np.float64).reshape(3, -1).T
        centres_mm = spaces.to_mm(centres_vox, self.affine)
        axes = spaces.axes(self.affine)
        margin_mm = np.linalg.norm(spaces.voxel_sizes(self.affine)) / 2
        fractions = np.zeros((len(centres_vox), len(self.bundles)))
        directions = np.zeros((*fractions.shape, 3), dtype=np.float32)
        for b, bundle in enumerate(self.bundles):
            near = np.flatnonzero(bundle._is_near(centres_mm, margin_mm))
            points_vox = (centres_vox[near, None] + SUBVOXELS).reshape(-1, 3)
            along, fraction = bundle.directions(spaces.to_mm(points_vox, self.affine))
            fraction = fraction.reshape(-1, len(SUBVOXELS))
            # Fibres of one bundle agree about the sign, so vectors can be added.
            along = along.reshape(*fraction.shape, 3)
            mean = np.einsum("np,npi->ni", fraction, along)
            fractions[near, b] = bundle.weight * fraction.mean(axis=1)
            directions[near, b] = _unit(mean) @ axes
        fractions /= np.maximum(fractions.sum(axis=1, keepdims=True), 1)
        return (
            fractions.astype(np.float32).reshape(*self.shape, -1),
            directions.reshape(*self.shape, -1, 3),
        )

    def mask(self):
        """Voxels of which more than half is fibres.

        Returns
        -------
        mask : ndarray of shape (X, Y, Z), bool

        Notes
        -----
        A bundle of `weight` up to 0.5 is in it only where others join it.

        Examples
        --------
        >>> from dipy_rnn.phantom import crossing_phantom
        >>> mask = crossing_phantom(90, shape=(15, 15, 9)).mask()
        >>> print(mask[7, 7, 4], mask[0, 0, 0])
        True False
        """
        fractions, _ = self.peaks()
        return fractions.sum(axis=-1) > 0.5

    def fodf(self, sh_order_max=8, *, lobe_deg=9.0, noise=0.0, random_seed=0):
        r"""Fibre orientation distribution as spherical harmonics.

        A fibre along v is a delta function smoothed on the sphere [1]_: its
        coefficients are :math:`e^{-\sigma^2 l (l + 1) / 2}\, Y_l^m(v)`.

        Parameters
        ----------
        sh_order_max : int, optional
            Highest order, even, from 2.
        lobe_deg : float, optional
            Width sigma of a fibre's lobe in degrees, before the truncation.
        noise : float, optional
            Standard deviation of Gaussian noise on the coefficients of l >= 2, in
            units of their root mean square in a voxel full of one fibre.
        random_seed : int, optional
            Seed of the noise.

        Returns
        -------
        sh : ndarray of shape (X, Y, Z, C), float32
            Coefficients in DIPY's default basis (``descoteaux07`` [2]_, legacy),
            along the voxel axes.  The integral over the sphere is the sum of the
            fractions.

        References
        ----------
        .. [1] Bulow T. Spherical diffusion for 3D surface smoothing. IEEE
           Transactions on Pattern Analysis and Machine Intelligence 26(12), 2004.
        .. [2] Descoteaux M, Angelino E, Fitzgibbons S, Deriche R. Regularized,
           fast, and robust analytical Q-ball imaging. Magnetic Resonance in
           Medicine 58(3), 2007.

        Examples
        --------
        >>> from dipy_rnn.phantom import crossing_phantom
        >>> crossing_phantom(90, shape=(15, 15, 9)).fodf(6).shape
        (15, 15, 9, 28)
        """
        if sh_order_max not in range(2, 100, 2):
            raise ValueError(f"sh_order_max is {sh_order_max}: it must be even, from 2")
        if not (np.isfinite(lobe_deg) and lobe_deg >= 0):
            raise ValueError(f"lobe_deg is {lobe_deg}: it must be 0 or more")
        if not (np.isfinite(noise) and noise >= 0):
            raise ValueError(f"noise is {noise}: it must be 0 or more")
        fractions, directions = self.peaks()
        fibres = fractions > 0
        x, y, z = directions[fibres].astype(np.float64).T
        with warnings.catch_warnings():
            # DIPY announces that its default basis may change one day.
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            deltas, _, orders = real_sh_descoteaux(
                sh_order_max, np.arctan2(np.hypot(x, y), z), np.arctan2(y, x)
            )
        smoothing = np.exp(-(np.radians(lobe_deg) ** 2) * orders * (orders + 1) / 2)

        sh = np.zeros((*self.shape, len(orders)), dtype=np.float32)
        where = np.nonzero(fibres)[:3]
        np.add.at(sh, where, fractions[fibres][:, None] * (deltas * smoothing))
        if noise > 0:
            # Each order's sum of squares of Y_l^m(v) over m is (2 l + 1) / (4 pi),
            # so each coefficient's mean square is 1 / (4 pi), times the smoothing's.
            mean_square = np.mean(smoothing[1:] ** 2) / (4 * np.pi)
            rng = np.random.default_rng(random_seed)
            scale = noise * np.sqrt(mean_square)
            sh[..., 1:] += scale * rng.standard_normal(sh[..., 1:].shape)
        return sh

    def dwi(self, gtab, *, snr=None, evals=(1.7e-3, 3e-4, 3e-4), s0=100, random_seed=0):
        """Diffusion-weighted series, one tensor per bundle in each voxel.

        Without noise this is `dipy.sims.voxel.multi_tensor` in every voxel, with
        one more, isotropic tensor (0.7e-3 mm^2/s) where fibres leave some room.

        Parameters
        ----------
        gtab : dipy.core.gradients.GradientTable
            N b-values (s/mm^2) with directions along the voxel axes, or b-tensors.
        snr : float, optional
            `s0` over the standard deviation of the noise in each channel of the
            Rician noise; None for no noise.
        evals : tuple of 3 floats, optional
            Diffusivities of a fibre in mm^2/s, along it and twice across it.
        s0 : float, optional
            Signal without diffusion weighting.
        random_seed : int, optional
            Seed of the noise.

        Returns
        -------
        dwi : ndarray of shape (X, Y, Z, N), float32

        Examples
        --------
        >>> import numpy as np
        >>> from dipy.core.gradients import gradient_table
        >>> from dipy_rnn.phantom import crossing_phantom
        >>> gtab = gradient_table(np.array([0, 1000.0]), bvecs=np.eye(3)[:2])
        >>> crossing_phantom(90, shape=(15, 15, 9)).dwi(gtab, snr=20).shape
        (15, 15, 9, 2)
        """
        if len(evals) != 3 or evals[1] != evals[2]:
            raise ValueError(
                f"evals is {evals}: it must be three, the last two equal, as a fibre "
                "is the same all around"
            )
        _check_positive("evals", evals)
        _check_positive("s0", s0)
        if snr is not None:
            _check_positive("snr", snr)

        # A fibre's tensor D is evals[1] I + (evals[0] - evals[1]) v v^T; the signal
        # is s0 exp(-B : D), and B = b g g^T unless the b-tensors are given.
        b_tensors = gtab.btens
        if b_tensors is None:
            b_tensors = np.einsum("n,ni,nj->nij", gtab.bvals, gtab.bvecs, gtab.bvecs)
        isotropic = np.trace(b_tensors, axis1=1, axis2=2)

        fractions, directions = self.peaks()
        rest = 1 - fractions.sum(axis=-1, keepdims=True, dtype=np.float64)
        signal = s0 * np.maximum(rest, 0) * np.exp(-isotropic * REMAINDER_DIFFUSIVITY)
        for b in range(len(self.bundles)):
            inside = fractions[..., b] > 0
            along = directions[inside, b].astype(np.float64)
            dyadic = along[:, :, None] * along[:, None, :]
            weighting = np.einsum("vij,nij->vn", dyadic, b_tensors, optimize=True)
            attenuation = evals[1] * isotropic + (evals[0] - evals[1]) * weighting
            signal[inside] += s0 * fractions[inside, b, None] * np.exp(-attenuation)
        rng = np.random.default_rng(random_seed)
        return add_noise(signal, snr, s0, rng=rng).astype(np.float32)

    def streamlines(self, n_per_bundle, *, step_mm=0.5, random_seed=0):
        """Draw the true streamlines, those of the first bundle first.

        Parameters
        ----------
        n_per_bundle : int
            How many of each bundle.
        step_mm : float, optional
            Distance of neighbouring points in mm.
        random_seed : int, optional
            Seed of their places in the bundle.

        Returns
        -------
        streamlines : list of ndarrays of shape (M, 3)
            In mm (RAS), float64, end to end, also where the grid is smaller.
        bundle_ids : ndarray of ints, one per streamline
            Which of `bundles` each belongs to.

        Examples
        --------
        >>> from dipy_rnn.phantom import crossing_phantom
        >>> streamlines, bundle_ids = crossing_phantom().streamlines(2)
        >>> print(len(streamlines), bundle_ids)
        4 [0 0 1 1]
        """
        rng = np.random.default_rng(random_seed)
        streamlines = []
        for bundle in self.bundles:
            streamlines += bundle.streamlines(n_per_bundle, step_mm=step_mm, rng=rng)
        return streamlines, np.repeat(np.arange(len(self.bundles)), n_per_bundle)


def _centred_affine(shape, voxel_size_mm):
    """Affine of a straight grid whose centre is at 0 mm."""
    sizes = np.full(3, voxel_size_mm, dtype=np.float64)
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = -sizes * (np.asarray(shape) - 1) / 2
    return affine


def _field_of_view_mm(shape, voxel_size_mm):
    """Check a grid and return the lengths of its sides."""
    _check_positive("voxel_size_mm", voxel_size_mm)
    return np.array(_check_shape(shape)) * np.full(3, voxel_size_mm, dtype=np.float64)


def _random_centreline(rng, half_mm, least_reach_mm):
    """Draw a smooth curve in the box from -half_mm to half_mm.

    A spline from end to far end, by way of one or two points in the inner half of
    the box, where curves meet; it is straightened little by little until it stays in
    the box and has the reach asked for.
    """
    while True:
        start, end = rng.uniform(-half_mm, half_mm, (2, 3))
        if np.linalg.norm(end - start) >= 1.4 * half_mm.max():
            break
    n_between = rng.integers(1, 3)
    along = np.arange(1, n_between + 1)[:, None] / (n_between + 1)
    straight = start + along * (end - start)
    deviation = rng.uniform(-half_mm / 2, half_mm / 2, (n_between, 3)) - straight
    while True:
        controls = np.vstack([start, straight + deviation, end])
        arc = _arc_lengths(controls)
        curve = CubicSpline(arc, controls, bc_type="natural")
        samples = np.linspace(0, arc[-1], 2 + int(arc[-1] / REACH_SAMPLE_MM))
        points = curve(samples)
        reach_mm = _reach(points, _unit(curve(samples, 1))).min()
        if reach_mm >= least_reach_mm and np.all(np.abs(points) <= half_mm):
            fine = np.linspace(0, arc[-1], 2 + int(arc[-1] / SAMPLE_MM))
            return curve(fine), reach_mm
        deviation *= 0.85


def random_phantom(random_seed, *, shape=(32, 32, 32), voxel_size_mm=2.0, n_bundles=8):
    """Draw a world of bundles that bend, cross, touch and fan out.

    Centrelines are smooth curves from somewhere to somewhere far in the field of
    view, bending with a radius of 8 mm at the least; tubes have a radius of 2 to
    8 mm, thinner where the curve is tight, and half of them fan out (or in) by a
    factor of up to 2.5; weights are from 0.3 to 1.  A field of view of less than
    40 mm makes all of it smaller.

    Parameters
    ----------
    random_seed : int
        The same seed and arguments, the same world.
    shape : tuple of 3 ints, optional
        Voxels along each axis.
    voxel_size_mm : float or sequence of 3 floats, optional
        Voxel size in mm.
    n_bundles : int, optional
        How many bundles.

    Returns
    -------
    phantom : Phantom
        Its field of view is centred at 0 mm.

    Examples
    --------
    >>> from dipy_rnn.phantom import random_phantom
    >>> phantom = random_phantom(0, shape=(16, 16, 16), voxel_size_mm=3, n_bundles=2)
    >>> phantom.fodf(4).shape
    (16, 16, 16, 15)
    """
    field_of_view_mm = _field_of_view_mm(shape, voxel_size_mm)
    _check_count("n_bundles", n_bundles, 1)
    rng = np.random.default_rng(random_seed)
    scale = min(1.0, field_of_view_mm.min() / 40)
    bundles = []
    for _ in range(int(n_bundles)):
        centreline_mm, reach_mm = _random_centreline(
            rng, 0.45 * field_of_view_mm, 8 * scale
        )
        ratio = 2.5 ** rng.uniform(-1, 1) if rng.random() < 0.5 else 1.0
        # The wider end has between 2 and 8 mm, and the narrower one 2 or more.
        widest = scale * rng.uniform(2 * max(ratio, 1 / ratio), 8)
        progress = np.linspace(0, 1, len(centreline_mm))
        profile = ratio ** (progress * progress * (3 - 2 * progress))
        radius_mm = profile / profile.max() * min(widest, 0.8 * reach_mm)
        bundles.append(Bundle(centreline_mm, radius_mm, rng.uniform(0.3, 1.0)))
    return Phantom(bundles, _centred_affine(shape, voxel_size_mm), shape)


def crossing_phantom(angle_deg=60.0, *, shape=(24, 24, 12), voxel_size_mm=2.0):
    """Let two straight bundles cross in the middle of the field of view.

    Both lie in the x-y plane, the first along x; they are as long as the shorter
    side of the field of view in this plane, less a tenth, and their radius is a
    quarter of its shortest side.

    Parameters
    ----------
    angle_deg : float, optional
        Angle from the first to the second bundle in degrees, above 0 to below 180.
    shape : tuple of 3 ints, optional
        Voxels along each axis.
    voxel_size_mm : float or sequence of 3 floats, optional
        Voxel size in mm.

    Returns
    -------
    phantom : Phantom
        Its field of view is centred at 0 mm, where the bundles cross.

    Examples
    --------
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> len(crossing_phantom(45).bundles)
    2
    """
    field_of_view_mm = _field_of_view_mm(shape, voxel_size_mm)
    if not 0 < angle_deg < 180:
        raise ValueError(f"angle_deg is {angle_deg}: it must be between 0 and 180")
    half_mm = 0.45 * field_of_view_mm[:2].min()
    along_mm = np.linspace(-half_mm, half_mm, 2 + int(2 * half_mm / SAMPLE_MM))
    bundles = []
    for angle in (0.0, np.radians(angle_deg)):
        direction = np.array([np.cos(angle), np.sin(angle), 0.0])
        bundles.append(
            Bundle(along_mm[:, None] * direction, field_of_view_mm.min() / 4)
        )
    return Phantom(bundles, _centred_affine(shape, voxel_size_mm), shape)


def circle_phantom(radius_mm=20.0, *, voxel_size_mm=2.0, tube_mm=6.0):
    """Close one bundle to a circle in the x-y plane.

    Parameters
    ----------
    radius_mm : float, optional
        Radius of the circle in mm.
    voxel_size_mm : float or sequence of 3 floats, optional
        Voxel size in mm.
    tube_mm : float, optional
        Radius of the tube in mm, below `radius_mm`.

    Returns
    -------
    phantom : Phantom
        Its field of view is centred at 0 mm, as is the circle, and ends a voxel or
        more outside the tube.

    Examples
    --------
    >>> from dipy_rnn.phantom import circle_phantom
    >>> circle_phantom(10, tube_mm=3).shape
    (15, 15, 5)
    """
    _check_positive("radius_mm", radius_mm)
    _check_positive("voxel_size_mm", voxel_size_mm)
    _check_positive("tube_mm", tube_mm)
    if tube_mm >= radius_mm:
        raise ValueError(
            f"tube_mm is {tube_mm}: it must be below radius_mm, {radius_mm}"
        )
    angle = np.linspace(0, 2 * np.pi, 8 + int(2 * np.pi * radius_mm / SAMPLE_MM))
    circle = np.column_stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)])
    extent_mm = 2 * np.array([radius_mm + tube_mm, radius_mm + tube_mm, tube_mm])
    shape = tuple(int(n) for n in np.ceil(extent_mm / voxel_size_mm) + 2)
    bundle = Bundle(radius_mm * circle, tube_mm)
    return Phantom([bundle], _centred_affine(shape, voxel_size_mm), shape)
