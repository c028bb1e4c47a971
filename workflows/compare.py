"""The workflow behind ``dipy_compare_rnn``.

Torch is imported when tracking starts, so that the help does not wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from importlib import metadata
import json
import logging
import os
from pathlib import Path
import platform
import shlex
import sys
from typing import TYPE_CHECKING, Any

from dipy.workflows.workflow import Workflow
import numpy as np

from dipy_rnn._checks import check_installed, check_least
from dipy_rnn.io import (
    SUFFIXES,
    check_same_grid,
    check_sh_format,
    load_pam,
    load_subject,
    load_volume,
    read_tractogram,
    shown,
)
from dipy_rnn.seeding import Seeding
from dipy_rnn.workflows.inputs import Files, find_files, pair_files
from dipy_rnn.workflows.outputs import CheckedOutputs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dipy.direction.peaks import PeaksAndMetrics

    from dipy_rnn._typing import AnyArray, ArrayLike, BoolArray, FloatArray, IntArray
    from dipy_rnn.comparison import Tracked
    from dipy_rnn.evaluation import KnownBundle
    from dipy_rnn.model_file import Model

logger = logging.getLogger("dipy")  # whose messages DIPY shows and files

_TRACTOGRAMS = ("out_candidate", "out_reference", "out_yardstick")
_OUTPUTS = ("out_report", "out_metrics", *_TRACTOGRAMS)  # in the order of run
_PACKAGES = ("dipy_rnn", "dipy", "torch", "numpy", "scipy", "nibabel", "plotly")
# Labels in an image of integers with a scale of its own are a little off.
_LABEL_OFF = 0.01


@dataclass(frozen=True, eq=False)
class _Comparison:
    """What is compared of one subject.

    Parameters
    ----------
    title : str
        Of the page.
    tracked : dict of str to dipy_rnn.comparison.Tracked
    image : ndarray of shape (X, Y, Z)
        What lies below the streamlines in the pictures.
    affine : ndarray of shape (4, 4)
    mask : ndarray of shape (X, Y, Z), bool
        Where streamlines may be.
    inputs : dict of str to str
        Paths of what was read, by what they hold.
    model : dict, optional
        What is known of the network.
    pairs : ndarray of shape (N,), int, optional
        Place of each candidate's partner in the reference, -1 for none. By default
        partners have the same place.
    """

    title: str
    tracked: dict[str, Tracked]
    image: AnyArray
    affine: FloatArray
    mask: BoolArray
    inputs: dict[str, str]
    model: dict[str, str | int | None] | None = None
    pairs: IntArray | None = None


class RNNComparisonFlow(
    CheckedOutputs,
    Workflow,  # type: ignore[misc]  # DIPY has no types
):
    """Hold a recurrent network against an algorithm of DIPY."""

    @classmethod
    def get_short_name(cls) -> str:
        return "compare_rnn"

    def manage_output_overwrite(self) -> bool:
        """Refuse to write one file twice, or over one that exists."""
        if self._compares_existing:
            n = len(_OUTPUTS)
            self.flat_outputs = [
                path
                for place, path in enumerate(self.flat_outputs)
                if _OUTPUTS[place % n] not in _TRACTOGRAMS
            ]
        return super().manage_output_overwrite()

    def run(
        self,
        pam_files: Files,
        stopping_files: Files,
        seeding_files: Files,
        tracking_method: str = "deterministic",
        use_binary_mask: bool = False,
        stopping_thr: float = 0.2,
        seed_density: int = 1,
        seed_count: int = 0,
        minlen: int = 2,
        maxlen: int = 500,
        step_size: float = 0.5,
        pmf_threshold: float = 0.1,
        max_angle: float = 30.0,
        model_file: str = "default",
        bundle_files: Files = "",
        bundle_radius: float = 0.0,
        bundle_end: float = 4.0,
        label_file: str | Path = "",
        sh_basis: str | None = None,
        sh_frame: str = "voxel",
        nbr_threads: int = 0,
        device: str = "cpu",
        batch_size: int = 0,
        random_seed: int = 1,
        out_dir: str | Path = "",
        out_report: str = "report.html",
        out_metrics: str = "metrics.json",
        out_candidate: str = "candidate.trx",
        out_reference: str = "reference.trx",
        out_yardstick: str = "yardstick.trx",
    ) -> None:
        """Workflow for comparing a recurrent network with an algorithm of DIPY.

        Tracks the same seeds from the same first directions with the network, with
        DIPY's deterministic tracking (see tracking_method), and with that once more on
        another sphere: how far it is from itself is the yardstick. Writes a page to
        read and to send on, its figures, and the tractograms.

        With two tractograms and an image in place of the three files (dipy_compare_rnn
        candidate.trk reference.trk fa.nii.gz), these are compared instead: nothing is
        tracked, and there is no yardstick. Partners are streamlines of the same seed
        where both files hold seeds, else the nearest.

        Parameters
        ----------
        pam_files : string or Path
            Path to the peaks and metrics files of dipy_fit_csd, or to NIfTI files with
            the spherical harmonics of a fODF (see sh_basis). This path may contain
            wildcards, in quotes, for many subjects; files are paired in sorted order.
        stopping_files : string or Path
            Path to images (e.g. FA) used for the stopping criterion.
        seeding_files : string or Path
            A binary image showing where to seed, or a list of seeds: a file (.txt,
            .csv, .tsv, .npy) with x, y and z in mm in each row.
        tracking_method : string, optional
            What the network is held against: deterministic, probabilistic or eudx
            (which follows the peaks saved in the pam_files).
        use_binary_mask : bool, optional
            If True, uses a binary stopping criterion. If the provided
            `stopping_files` are not binary, `stopping_thr` will be used to
            binarize the images.
        stopping_thr : float, optional
            Threshold applied to the stopping image: tracking ends where it is not
            above.
        seed_density : int, optional
            Number of seeds per dimension inside a voxel: 2 means 8 regularly
            distributed points in the voxel, 1 its centre.
        seed_count : int, optional
            If above 0, this number of seeds at random places in the seeding mask,
            instead of seed_density. Some thousands are enough for a comparison.
        minlen : int, optional
            Minimum length (mm) of the streamlines.
        maxlen : int, optional
            Maximum length (mm) of the streamlines.
        step_size : float, optional
            Step size (in mm) used for tracking.
        pmf_threshold : float, optional
            Threshold for ODF functions, of DIPY's algorithm.
        max_angle : float, optional
            Maximum angle between streamline segments (degrees), of both.
        model_file : string, optional
            Name of a model that comes with dipy_rnn, or a model file.
        bundle_files : string or Path, optional
            Path to known bundles, wildcards allowed, one file for each: a tractogram
            (.trx, .trk, .tck), or a NIfTI image that is 1 inside the bundle and 2 and
            3 in its two end regions. Streamlines are then scored by them. Bundles are
            named by their files, and where those have the same name by folders too.
        bundle_radius : float, optional
            How far (mm) a bundle reaches around the streamlines of its file: 0 where
            these fill it, half of its width where there is a centreline alone.
        bundle_end : float, optional
            How far (mm) its end regions reach around their end points.
        label_file : string or Path, optional
            Path to an image with labels of grey matter regions, whose connectivity
            is then compared; with several subjects on one grid.
        sh_basis : string, optional
            Basis of the spherical harmonics: descoteaux07_legacy (DIPY's default),
            descoteaux07, tournier07_legacy or tournier07 (MRtrix3). By default it is
            found out for peaks and metrics files, and DIPY's for NIfTI.
        sh_frame : string, optional
            Axes of the spherical harmonics of a NIfTI file: voxel (DIPY) or scanner
            (MRtrix3). Those of peaks and metrics files are along the voxels.
        nbr_threads : int, optional
            Number of threads to use for the processing. By default, all available
            threads will be used.
        device : string, optional
            Where the network runs: cpu or cuda.
        batch_size : int, optional
            How many streamlines advance together, 0 for what suits the device.
        random_seed : int, optional
            Seed for the places of seed_count, for probabilistic tracking and for the
            resamples behind standard errors, must be >= 1.
        out_dir : string or Path, optional
            Output directory.
        out_report : string, optional
            Name of the page to be saved (.html).
        out_metrics : string, optional
            Name of the file with its figures to be saved (.json).
        out_candidate : string, optional
            Name of the tractogram of the network to be saved: .trx, .trk or .tck.
        out_reference : string, optional
            Name of that of DIPY's algorithm.
        out_yardstick : string, optional
            Name of that of the same on another sphere.

        References
        ----------
        Cai, L. Y., H. H. Lee, N. R. Newlin, M. E. Kim, D. Moyer, F. Rheault, K. G.
        Schilling, and B. A. Landman. Implementation considerations for deep learning
        with diffusion MRI streamline tractography. MIDL, 2023.
        """
        from dipy_rnn.io import check_format, write_tractogram

        for name, path in zip(
            _TRACTOGRAMS, (out_candidate, out_reference, out_yardstick)
        ):
            check_format(path, name=name)
        check_sh_format(sh_basis, sh_frame)
        for name, value, least in (
            ("seed_density", seed_density, 1),
            ("seed_count", seed_count, 0),
            ("random_seed", random_seed, 1),
            ("bundle_radius", bundle_radius, 0),
            ("bundle_end", bundle_end, 0),
        ):
            check_least(name, value, least)
        bundle_paths = {}
        if bundle_files:
            bundle_paths = _by_name(find_files(bundle_files, "bundle_files"))
        # DIPY reads these variables of this very function.
        pam_files, stopping_files, seeding_files = pair_files(
            pam_files=pam_files,
            stopping_files=stopping_files,
            seeding_files=seeding_files,
        )
        self._compares_existing = Path(pam_files[0]).suffix.lower() in SUFFIXES
        io_it = self.get_io_iterator()

        check_installed(("jinja2", "matplotlib", "plotly"), "The report", "viz")
        options: dict[str, Any] = {
            "model_file": model_file,
            "tracking_method": tracking_method,
            "use_binary_mask": use_binary_mask,
            "stopping_thr": stopping_thr,
            "seed_density": seed_density,
            "seed_count": seed_count,
            "minlen": minlen,
            "maxlen": maxlen,
            "step_size": step_size,
            "pmf_threshold": pmf_threshold,
            "max_angle": max_angle,
            "random_seed": random_seed,
        }
        label_path = Path(label_file) if label_file else None
        if not self._compares_existing:
            from dipy_rnn.model_file import load_model

            model = load_model(model_file, device=device)
            model.check_step(step_size)
        for first, second, third, report_path, metrics_path, *tractograms in io_it:
            paths = Path(first), Path(second), Path(third)
            truth = _load_truth(
                bundle_paths,
                label_path,
                paths[2 if self._compares_existing else 1],
                radius_mm=bundle_radius,
                end_mm=bundle_end,
            )
            if self._compares_existing:
                subject = _existing(*paths)
                settings = {"random_seed": random_seed}
            else:
                subject = _track(
                    *paths,
                    options=options,
                    sh_format=(sh_basis, sh_frame),
                    model=model,
                    nbr_threads=nbr_threads,
                    batch_size=batch_size,
                )
                settings = options
                for tracked, path in zip(subject.tracked.values(), tractograms):
                    write_tractogram(
                        Path(path),
                        ((line, {}) for line in tracked.streamlines if len(line)),
                        subject.affine,
                        subject.image.shape,
                    )
                    logger.info(f"Saved {path}")
            _report(
                subject,
                truth,
                settings,
                nbr_threads,
                Path(report_path),
                Path(metrics_path),
            )


def _track(
    pam_path: Path,
    stopping_path: Path,
    seeding_path: Path,
    *,
    options: Mapping[str, Any],
    sh_format: tuple[str | None, str],
    model: Model,
    nbr_threads: int,
    batch_size: int,
) -> _Comparison:
    """Track a subject with all trackers."""
    from dipy_rnn.comparison import track_beside
    from dipy_rnn.tissues import make_criterion

    features, stopping, mask, affine = load_subject(
        pam_path, stopping_path, seeding_path, "sh", sh_format
    )
    seeding = Seeding(
        **{
            name: options[name]
            for name in ("seed_density", "seed_count", "random_seed")
        }
    )
    _, batches = seeding.place(mask, affine, seeding_path)
    seeds = np.concatenate(list(batches))
    logger.info(
        f"Tracking {len(seeds)} seeds on {pam_path} with the model {model.name}, with "
        f"{options['tracking_method']} tracking, and with that on another sphere"
    )
    tracked = track_beside(
        seeds,
        make_criterion(stopping, options["use_binary_mask"], options["stopping_thr"]),
        affine,
        features=features,
        method=options["tracking_method"],
        pam=_load_peaks(pam_path, options["tracking_method"], stopping.shape),
        model=model,
        min_len=options["minlen"],
        max_len=options["maxlen"],
        step_size=options["step_size"],
        max_angle=options["max_angle"],
        pmf_threshold=options["pmf_threshold"],
        nbr_threads=nbr_threads,
        random_seed=options["random_seed"],
        batch_size=batch_size,
    )
    return _Comparison(
        title=pam_path.resolve().parent.name + ", " + pam_path.name,
        tracked=tracked,
        image=stopping,
        affine=affine,
        mask=stopping > options["stopping_thr"],
        inputs={
            "fODF": str(pam_path),
            "stopping image": str(stopping_path),
            "seeding image": str(seeding_path),
        },
        model=_model_facts(model),
    )


def _load_peaks(
    path: Path, method: str, shape: tuple[int, ...]
) -> PeaksAndMetrics | None:
    """Load what an algorithm of DIPY takes beside the fODF: a sphere, EuDX peaks."""
    if path.suffix.lower() != ".pam5":
        return None
    if method != "eudx":
        return load_pam(path)
    pam = load_pam(path, "peak_indices", "peak_values")
    indices, values = pam.peak_indices, pam.peak_values
    # DIPY follows an index without a look at where it leads.
    if (
        pam.sphere is None
        or indices is None
        or values is None
        or indices.ndim != 4
        or indices.shape[:3] != shape
        or indices.shape != values.shape
        or not ((indices >= -1) & (indices < len(pam.sphere.vertices))).all()
    ):
        raise ValueError(
            f"{shown(path)} holds no peaks that eudx can follow (peak_indices, "
            "peak_values and sphere_vertices that fit each other); make it with "
            "dipy_fit_csd, or choose another tracking_method."
        )
    return pam


def _model_facts(model: Model) -> dict[str, str | int | None]:
    """Return what is known of a model: the short form of its card."""
    from hashlib import sha256

    from dipy_rnn.model_file import model_path

    path = model_path(model.name)
    known = model.metadata
    provenance = known.provenance
    return {
        "name": model.name,
        "sha256": sha256(path.read_bytes()).hexdigest(),
        "architecture": known.architecture or "a network of its own",
        "parameters": provenance.get("parameters"),
        "frame": known.frame,
        "orders": ", ".join(map(str, known.orders)) or None,
        "steps": "{:g} to {:g} mm".format(*known.step_mm),
        "trained on": provenance.get("data"),
        "with": ", ".join(
            f"{name} {version}"
            for name, version in provenance.get("versions", {}).items()
        )
        or None,
    }


def _existing(
    candidate_path: Path, reference_path: Path, image_path: Path
) -> _Comparison:
    """Take two tractograms that are there."""
    from dipy_rnn.comparison import Tracked
    from dipy_rnn.evaluation import nearest_streamlines

    image, affine = load_volume(image_path)
    paths = {"candidate": candidate_path, "reference": reference_path}
    loaded = {key: list(read_tractogram(path)) for key, path in paths.items()}
    streamlines = {key: [line for line, _ in lines] for key, lines in loaded.items()}
    names = {key: path.name for key, path in paths.items()}
    if len(set(names.values())) == 1:
        names = {key: str(path) for key, path in paths.items()}
    pairs = np.full(len(loaded["candidate"]), -1)
    if all("seeds" in values for lines in loaded.values() for _, values in lines):
        logger.info("Partners are streamlines of the same seed")
        seeds = {key: [_key(v["seeds"]) for _, v in loaded[key]] for key in loaded}
        place = {seed: i for i, seed in enumerate(seeds["reference"])}
        pairs[:] = [place.get(seed, -1) for seed in seeds["candidate"]]
    else:
        logger.info("No seeds in both: the partner of a streamline is the nearest one")
        indices, partners = nearest_streamlines(*streamlines.values())
        pairs[indices] = partners
    return _Comparison(
        title=f"{names['candidate']} beside {names['reference']}",
        tracked={key: Tracked(names[key], streamlines[key]) for key in paths},
        image=image,
        affine=affine,
        mask=image > 0,
        inputs={
            "candidate": str(candidate_path),
            "reference": str(reference_path),
            "image": str(image_path),
        },
        pairs=pairs,
    )


def _key(seed_mm: ArrayLike) -> tuple[float, ...]:
    """Return what is the same for the same seed in two files."""
    return tuple(np.round(np.asarray(seed_mm, dtype=float), 2))


def _report(
    subject: _Comparison,
    truth: tuple[dict[str, KnownBundle], IntArray | None, str],
    settings: Mapping[str, Any],
    nbr_threads: int,
    report_path: Path,
    metrics_path: Path,
) -> None:
    """Measure, and write the figures and the page."""
    from dipy_rnn._atomic import atomic_write
    from dipy_rnn.comparison import measure, partner_distances
    from dipy_rnn.interpolate import count_threads
    from dipy_rnn.report import write_report

    tracked, affine = subject.tracked, subject.affine
    bundles, regions, known_paths = truth
    inputs = subject.inputs
    if bundles:
        inputs = inputs | {"known bundles": known_paths}
    logger.info("Measuring")
    distances = partner_distances(tracked, subject.pairs)
    figures = measure(
        tracked,
        distances,
        affine,
        subject.mask,
        pairs=subject.pairs,
        bundles=bundles,
        regions=regions,
        random_seed=settings["random_seed"],
    )
    metrics: dict[str, Any] = {
        "title": subject.title,
        "date": date.today().isoformat(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in _PACKAGES},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "threads": count_threads(nbr_threads),
        },
        "inputs": inputs,
        "options": settings,
    }
    if subject.model:
        metrics["model"] = subject.model
    metrics |= figures
    content = json.dumps(metrics, indent=2, allow_nan=False).encode()
    with atomic_write(metrics_path) as partial:
        partial.write_bytes(content)
    logger.info(f"Saved {metrics_path}")
    write_report(
        report_path,
        metrics,
        {key: by.streamlines for key, by in tracked.items()},
        subject.image,
        affine,
        distances,
        subject.pairs,
    )
    logger.info(f"Saved {report_path}")
    for figure in figures["between"][:1]:
        logger.info(
            f"{figure['label']}: "
            + ", ".join(
                f"{tracked[key].label} {figure[key]['value']:.3f}"
                for key in ("candidate", "yardstick")
                if key in figure and figure[key]["value"] is not None
            )
        )


def _by_name(paths: Sequence[Path]) -> dict[str, Path]:
    """Name bundles by their files, and if that does not do by their folders, too."""

    def named(path: Path) -> Path:
        bare = path.with_suffix("") if path.suffix.lower() == ".gz" else path
        return bare.with_suffix("")

    names = [named(path).name for path in paths]
    if len(set(names)) < len(names):
        common = os.path.commonpath([path.parent for path in paths])
        names = [named(path).relative_to(common).as_posix() for path in paths]
    by_name: dict[str, Path] = {}
    for name, path in zip(names, paths):
        if name in by_name:
            raise ValueError(
                f"bundle_files match {by_name[name]} and {path}, whose bundles would "
                f"both be called {name}; rename one of them."
            )
        by_name[name] = path
    return by_name


def _load_truth(
    bundle_paths: Mapping[str, Path],
    label_path: Path | None,
    image_path: Path,
    *,
    radius_mm: float,
    end_mm: float,
) -> tuple[dict[str, KnownBundle], IntArray | None, str]:
    """Load known bundles, by their names, and regions, on one grid."""
    from dipy_rnn.evaluation import KnownBundle, known_bundles

    if not bundle_paths and label_path is None:
        return {}, None, ""
    image, affine = load_volume(image_path)

    def load_labels(path: Path) -> IntArray:
        labels, labels_affine = load_volume(path)
        check_same_grid(
            image_path, image.shape, affine, path, labels.shape, labels_affine
        )
        labels = labels.astype(float)
        with np.errstate(invalid="ignore"):  # of infinity
            whole = np.rint(labels)
            is_off = np.abs(labels - whole)
        # Written so that NaN is wrong.
        wrong = ~((is_off <= _LABEL_OFF) & (whole >= 0) & (whole < 2**31))
        if wrong.any():
            raise ValueError(
                f"{shown(path)} holds {labels[wrong][0]:g}; labels are whole numbers "
                "of 0 or more."
            )
        return whole.astype(int)

    def load_bundle(path: Path) -> KnownBundle:
        if path.suffix.lower() not in SUFFIXES:
            return KnownBundle.from_labels(load_labels(path))
        streamlines = [line for line, _ in read_tractogram(path)]
        if not streamlines:
            raise ValueError("it holds no streamline of a bundle.")
        (bundle,) = known_bundles(
            [_one_way(streamlines)],
            affine,
            image.shape,
            radius_mm=radius_mm,
            end_mm=end_mm,
        )
        return bundle

    bundles = {}
    for name, path in bundle_paths.items():
        try:
            bundles[name] = load_bundle(path)
        except ValueError as error:
            text = str(error)
            raise ValueError(text if str(path) in text else f"{path}: {text}") from None
    regions = None if label_path is None else load_labels(label_path)
    return bundles, regions, ", ".join(map(str, bundle_paths.values()))


def _one_way(streamlines: list[AnyArray]) -> list[AnyArray]:
    """Turn streamlines round so that all run like the first one."""
    from dipy.tracking.streamline import orient_by_streamline

    return list(orient_by_streamline(streamlines, streamlines[0]))
