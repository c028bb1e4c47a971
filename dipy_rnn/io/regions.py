"""Regions as options give them: files of masks, and spheres as ``x,y,z,radius``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
import re
from typing import TYPE_CHECKING

import numpy as np

from dipy_rnn.io.files import shown
from dipy_rnn.io.images import load_mask
from dipy_rnn.io.subject import check_inside
from dipy_rnn.spatial import corners_mm, describe_apart, to_mm, to_voxels

if TYPE_CHECKING:
    from dipy_rnn._typing import FloatArray
    from dipy_rnn.stopping import MaskRegion, Region, Sphere

# What a sphere looks like, with mistakes: other separators, brackets or a unit.
_LIKE_SPHERE = re.compile(r"[\s\d.,;:()\[\]+-]+(mm)?[\s)\]]*")
_NEGATIVE = re.compile(r"-[\d.][^,]*,")  # the first number of a sphere


def region_files(regions: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return which of some regions are files, for :func:`dipy_rnn.io.pair_files`.

    Parameters
    ----------
    regions : mapping of str to sequence of str
        For the name of each option, its values: files, patterns with wildcards, and
        spheres.

    Returns
    -------
    files : dict of str to str
        Files and patterns, by the name of the option and the position of the value.

    Raises
    ------
    ValueError
        If a sphere is invalid.

    Examples
    --------
    >>> region_files({"include": ["a.nii", "1,2,3,4", "b.nii"], "exclude": ["c.nii"]})
    {'include 1': 'a.nii', 'include 3': 'b.nii', 'exclude 1': 'c.nii'}
    """
    return {
        f"{name} {i}": value
        for name, values in regions.items()
        for i, value in enumerate(values, 1)
        if parse_sphere(value, name) is None
    }


def parse_sphere(text: str, name: str) -> Sphere | None:
    """Read a sphere.

    Parameters
    ----------
    text : str
        Its centre and radius in mm: ``x,y,z,radius``. Or the name of a file.
    name : str
        Name of the option, for errors.

    Returns
    -------
    sphere : dipy_rnn.stopping.Sphere or None
        None if `text` does not consist of numbers.

    Raises
    ------
    ValueError
        If there are not four numbers, separated by commas, if one is not finite, or if
        the radius is not above 0.

    Examples
    --------
    >>> parse_sphere("-12.5,30,8,5", "include")
    Sphere(centre_mm=(-12.5, 30.0, 8.0), radius_mm=5.0)
    """
    from dipy_rnn.stopping import Sphere

    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        if not _LIKE_SPHERE.fullmatch(text) or Path(text).exists():
            return None
        numbers = []
    if len(numbers) != 4 or not np.isfinite(numbers).all() or not numbers[3] > 0:
        raise ValueError(
            f"{name} is {text.strip()}; a sphere is x,y,z,radius in mm, with a radius "
            "above 0."
        )
    x, y, z, radius = numbers
    return Sphere((x, y, z), radius)


def load_regions(
    regions: Mapping[str, Sequence[str]],
    paths: Sequence[Path],
    shape: tuple[int, ...],
    affine: FloatArray,
) -> dict[str, list[Region]]:
    """Load regions, and check that each reaches into the image of the fODF.

    Parameters
    ----------
    regions : mapping of str to sequence of str
        As for :func:`region_files`.
    paths : sequence of Path
        The files of one subject, in the order of :func:`region_files`.
    shape, affine : tuple of 3 int, ndarray of shape (4, 4)
        Of the fODF. Masks may be on other grids.

    Returns
    -------
    loaded : dict of str to list of dipy_rnn.stopping.Region
        By the name of the option.

    Raises
    ------
    ValueError
        If a file cannot be read, if a mask is empty, or if a region is outside of the
        image of the fODF.

    Examples
    --------
    >>> load_regions({"include": ["1,1,1,2"]}, [], (9, 9, 9), np.eye(4))
    {'include': [Sphere(centre_mm=(1.0, 1.0, 1.0), radius_mm=2.0)]}
    """
    remaining = iter(paths)

    def load(value: str, name: str) -> Region:
        sphere = parse_sphere(value, name)
        if sphere is None:
            return _load_mask(next(remaining), shape, affine)
        _check_sphere(sphere, value, name, shape, affine)
        return sphere

    return {
        name: [load(value, name) for value in values]
        for name, values in regions.items()
    }


def prepare_arguments(arguments: Sequence[str]) -> list[str]:
    """Prepare the arguments of a command that takes regions, for argparse.

    Parameters
    ----------
    arguments : sequence of str
        As the shell gives them.

    Returns
    -------
    arguments : list of str
        A sphere with a negative x coordinate begins with a space. Argparse would take
        it for a flag.

    Raises
    ------
    ValueError
        If a flag of regions is given twice, as for MRtrix3: argparse would ignore the
        first one. If no region follows a flag, as from an empty variable of a script.

    Examples
    --------
    >>> prepare_arguments(["--include", "-10,2,3,5"])
    ['--include', ' -10,2,3,5']
    """
    for flag in ("--include", "--exclude"):
        # Argparse accepts flags that are cut short, such as --inc.
        places = [
            i
            for i, each in enumerate(arguments)
            if len(each) > 2 and flag.startswith(each.partition("=")[0])
        ]
        if len(places) > 1:
            raise ValueError(
                f"{flag} is given {len(places)} times; give all regions "
                f"after one flag: {flag} a.nii.gz b.nii.gz."
            )
        for i in places:
            _, has_value, values = arguments[i].partition("=")
            following = [values] if has_value else arguments[i + 1 : i + 2]
            if not following or not following[0] or following[0].startswith("--"):
                raise ValueError(f"{flag} is given without a region; add one.")
    return [f" {each}" if _NEGATIVE.match(each) else each for each in arguments]


def _load_mask(path: Path, shape: tuple[int, ...], affine: FloatArray) -> MaskRegion:
    from dipy_rnn.stopping import MaskRegion

    mask, mask_affine = load_mask(path, "in the region")
    if not (mask > 0).any():
        raise ValueError(f"{shown(path)} is an empty region; it needs voxels above 0.")
    check_inside(path, mask, mask_affine, shape, affine)
    return MaskRegion(mask, mask_affine)


def _check_sphere(
    sphere: Sphere, text: str, name: str, shape: tuple[int, ...], affine: FloatArray
) -> None:
    """Raise ValueError if a sphere does not reach into the image of the fODF."""
    centre_mm = np.array(sphere.centre_mm)
    last = np.array(shape) - 0.5
    nearest_mm = to_mm(np.clip(to_voxels(centre_mm, affine), -0.5, last), affine)
    if np.linalg.norm(nearest_mm - centre_mm) >= sphere.radius_mm:
        ends_mm = centre_mm + np.array([[-1], [1]]) * sphere.radius_mm
        apart = describe_apart(ends_mm, corners_mm(shape, affine))
        raise ValueError(
            f"{name} is the sphere {text.strip()}, which is outside of the image of "
            f"the fODF: it reaches over {apart}"
        )
