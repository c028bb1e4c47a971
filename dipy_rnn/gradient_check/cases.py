"""The 24 cases of gradient axes, and other ways to read the same coefficients.

The fODF is not fitted again: if the gradients are rotated or mirrored, the fODF in each
voxel is rotated or mirrored in the same way. Coefficients that were read in a wrong
basis, or along wrong axes, are converted.
"""

from dataclasses import replace
from itertools import permutations

import numpy as np

from dipy_rnn._typing import FloatArray
from dipy_rnn.sampling import (
    PEAKS,
    SH_FRAMES,
    FeatureVolume,
    SHFormat,
    rotate_all,
    sh_order,
    to_package_basis,
)
from dipy_rnn.spatial import axes

#: The case of unchanged gradients.
GIVEN = "x y z"

# Two sets of axes are the same up to a signed permutation if no axis is further away.
_SAME_DEG = 0.5


def _axis_cases() -> dict[str, FloatArray]:
    cases = {}
    for order in permutations(range(3)):
        for flipped in (None, 0, 1, 2):
            matrix = np.eye(3)[list(order)]
            names = ["xyz"[axis] for axis in order]
            if flipped is not None:
                matrix[flipped] *= -1
                names[flipped] = "-" + names[flipped]
            matrix.flags.writeable = False
            cases[" ".join(names)] = matrix
    return cases


#: Matrices that multiply the gradients, by name. A name says what the rows of a bvec
#: file become: ``"y x -z"`` swaps the first two rows and negates the third. The other
#: 24 signed permutations differ from these in the sign of all gradients, which has no
#: effect.
AXIS_CASES = _axis_cases()


def reoriented(features: FeatureVolume, case: str) -> FeatureVolume:
    """Return the fODF that a fit with other gradient axes would give.

    Parameters
    ----------
    features : dipy_rnn.sampling.FeatureVolume
        Spherical harmonics (kind ``"sh"``) along the voxel axes.
    case : str
        One of ``AXIS_CASES``. Its name says what the rows of the bvec file become:
        ``"y x -z"`` swaps the first two rows and negates the third.

    Returns
    -------
    features : dipy_rnn.sampling.FeatureVolume
        In each voxel the fODF ``f`` is replaced by ``g``, with ``g(A u) = f(u)`` for
        all directions ``u`` and ``A = AXIS_CASES[case]``.

    Raises
    ------
    ValueError
        If the case is unknown, or the features are not spherical harmonics.

    Notes
    -----
    A fit depends on a direction only by its angles with the gradients. So if it gives
    ``f`` for some gradients, it gives ``g`` for ``A`` times these gradients.

    Examples
    --------
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.sampling import fodf_features
    >>> features = fodf_features(crossing_phantom(90).fodf())
    >>> flipped = reoriented(features, "-x y z")
    >>> bool(np.allclose(reoriented(flipped, "-x y z").data, features.data, atol=1e-6))
    True
    """
    if case not in AXIS_CASES:
        raise ValueError(f"case is {case!r}; one of {', '.join(AXIS_CASES)} is needed.")
    if features.kind != "sh":
        raise ValueError(
            f"{features.name} is of kind {features.kind!r}; spherical harmonics are "
            "needed, because other features cannot be rotated without a new fit."
        )
    return replace(features, data=rotate_all(features.data, AXIS_CASES[case]))


def reread(
    features: FeatureVolume, sh_format: SHFormat, affine: FloatArray
) -> FeatureVolume:
    """Return what the same coefficients are in another basis, or along other axes.

    Parameters
    ----------
    features : dipy_rnn.sampling.FeatureVolume
        With the format in which they were given (``sh_format``).
    sh_format : dipy_rnn.sampling.SHFormat
        The format in which they are to be read.
    affine : ndarray of shape (4, 4)
        Voxel to mm.

    Returns
    -------
    features : dipy_rnn.sampling.FeatureVolume
        As if they had been read in this format.

    Examples
    --------
    >>> from dipy_rnn.sampling import fodf_features
    >>> fodf = np.float32(np.random.default_rng(0).normal(size=(1, 1, 1, 15)))
    >>> right = fodf_features(fodf, basis_type="tournier07", legacy=False)
    >>> wrong = fodf_features(fodf)
    >>> again = reread(wrong, right.sh_format, np.eye(4))
    >>> np.array_equal(again.data, right.data), again.sh_format.basis
    (True, 'tournier07')
    """
    given, data = features.sh_format, features.data
    assert given is not None, "features without sh_format cannot be read again"
    scanner = SH_FRAMES[1]
    if given.frame == scanner:
        data = rotate_all(data, axes(affine))
    if sh_format.basis != given.basis and PEAKS not in (sh_format.basis, given.basis):
        order = sh_order(data.shape[3])
        places, factors = to_package_basis(order, given.basis)
        stored = np.empty_like(data)
        stored[..., places] = data / factors
        places, factors = to_package_basis(order, sh_format.basis)
        data = stored[..., places] * factors
    if sh_format.frame == scanner:
        data = rotate_all(data, axes(affine).T)
    return replace(features, data=np.ascontiguousarray(data), sh_format=sh_format)


def other_frame(sh_format: SHFormat) -> SHFormat:
    """Return the same format along the other axes: voxel or scanner.

    Parameters
    ----------
    sh_format : dipy_rnn.sampling.SHFormat

    Returns
    -------
    sh_format : dipy_rnn.sampling.SHFormat

    Examples
    --------
    >>> other_frame(SHFormat("tournier07", "voxel")).frame
    'scanner'
    """
    first, second = SH_FRAMES
    return replace(sh_format, frame=second if sh_format.frame == first else first)


def flags_of(sh_format: SHFormat, given: SHFormat) -> str:
    """Return the options of the commands that change one format into another.

    Parameters
    ----------
    sh_format : dipy_rnn.sampling.SHFormat
        The format that the options are to say.
    given : dipy_rnn.sampling.SHFormat
        The format that was given.

    Returns
    -------
    flags : str
        Empty if the formats are equal.

    Examples
    --------
    >>> flags_of(SHFormat("tournier07", "scanner"), SHFormat("tournier07", "voxel"))
    '--sh_frame scanner'
    """
    flags = []
    if sh_format.basis != given.basis:
        flags.append(f"--sh_basis {sh_format.basis}")
    if sh_format.frame != given.frame:
        flags.append(f"--sh_frame {sh_format.frame}")
    return " ".join(flags)


def same_case(rotation: FloatArray) -> str | None:
    """Return the case that equals a rotation of the fODF.

    Parameters
    ----------
    rotation : ndarray of shape (3, 3)
        Orthogonal.

    Returns
    -------
    case : str or None
        One of ``AXIS_CASES``. None if each of them moves an axis by 0.5 degrees or more
        from the rotation or from its negative, which has the same effect.

    Examples
    --------
    >>> same_case(np.diag([1.0, -1.0, -1.0])), same_case(np.roll(np.eye(3), 1, 0))
    ('-x y z', 'z x y')
    """
    for case, matrix in AXIS_CASES.items():
        cosines = np.einsum("ij,ij->j", matrix, rotation)
        if abs(cosines.sum()) > 2 and np.abs(cosines).min() > np.cos(
            np.radians(_SAME_DEG)
        ):
            return case
    return None
