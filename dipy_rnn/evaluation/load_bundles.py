"""Load the known bundles and the regions that streamlines are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os
from pathlib import Path
from typing import TYPE_CHECKING

from dipy_rnn.io import (
    check_placement,
    is_on_grid,
    is_tractogram,
    load_on_grid,
    load_volume,
    read_tractogram,
    shown,
)

if TYPE_CHECKING:
    from dipy_rnn._typing import AnyArray, FloatArray, IntArray
    from dipy_rnn.evaluation.bundles import KnownBundle


def name_bundles(paths: Sequence[Path]) -> dict[str, Path]:
    """Name bundles after their files.

    Parameters
    ----------
    paths : sequence of Path

    Returns
    -------
    paths_by_name : dict of str to Path
        A name is that of the file without suffix. If two names are equal, each name
        also includes the path of the file below the folder that all files share.

    Raises
    ------
    ValueError
        If two names are still equal.

    Examples
    --------
    >>> list(name_bundles([Path("left/cst.trk"), Path("right/cst.trk")]))
    ['left/cst', 'right/cst']
    """

    def without_suffix(path: Path) -> Path:
        bare = path.with_suffix("") if path.suffix.lower() == ".gz" else path
        return bare.with_suffix("")

    names = [without_suffix(path).name for path in paths]
    if len(set(names)) < len(names):
        common = os.path.commonpath([path.parent for path in paths])
        names = [without_suffix(path).relative_to(common).as_posix() for path in paths]
    by_name: dict[str, Path] = {}
    for name, path in zip(names, paths):
        if name in by_name:
            raise ValueError(
                f"bundle_files match {by_name[name]} and {path}, whose bundles would "
                f"both be named {name}; rename one of them."
            )
        by_name[name] = path
    return by_name


def load_truth(
    bundle_paths: Mapping[str, Path],
    label_path: Path | None,
    image_path: Path,
    image: AnyArray,
    affine: FloatArray,
    *,
    radius_mm: float,
    end_mm: float,
) -> tuple[dict[str, KnownBundle], tuple[IntArray, FloatArray] | None]:
    """Load known bundles and an image of regions.

    Parameters
    ----------
    bundle_paths : dict of str to Path
        File of each bundle, by the name of the bundle: a tractogram, or a label image
        for :meth:`dipy_rnn.evaluation.KnownBundle.from_labels`.
    label_path : Path or None
        Image of regions.
    image_path, image, affine : Path, ndarray of (X, Y, Z), ndarray of shape (4, 4)
        Image of the subject. Bundles are volumes on its grid: label images on other
        grids are sampled there.
    radius_mm, end_mm : float
        As for :func:`dipy_rnn.evaluation.known_bundles`, for bundles from tractograms.

    Returns
    -------
    bundles : dict of str to dipy_rnn.evaluation.KnownBundle
    regions : tuple of ndarray of int and ndarray of shape (4, 4), or None
        The labels on their own grid, and their affine.

    Raises
    ------
    ValueError
        If a file cannot be read, does not overlap with the image or holds no valid
        labels, or a bundle has no voxel. The message names the file.
    """
    from dipy_rnn.evaluation.bundles import KnownBundle
    from dipy_rnn.evaluation.volumes import round_labels

    grid = image_path, image.shape, affine

    def load_bundle(path: Path) -> KnownBundle:
        if not is_tractogram(path):
            labels = load_on_grid(path, *grid, is_nearest=True)
            return KnownBundle.from_labels(round_labels(labels, shown(path)))
        streamlines = [line for line, _ in read_tractogram(path)]
        check_placement(
            streamlines, affine, image, name=shown(path), image_name=shown(image_path)
        )
        x, y, z = image.shape
        return KnownBundle.from_streamlines(
            streamlines, affine, (x, y, z), radius_mm=radius_mm, end_mm=end_mm
        )

    bundles = {}
    for name, path in bundle_paths.items():
        try:
            bundles[name] = load_bundle(path)
        except ValueError as error:
            text = str(error)
            raise ValueError(text if str(path) in text else f"{path}: {text}") from None
    if label_path is None:
        return bundles, None
    regions, own_affine = load_volume(label_path)
    is_on_grid(label_path, regions.shape, own_affine, *grid)
    return bundles, (round_labels(regions, shown(label_path)), own_affine)
