"""The workflow of ``dipy_compare_rnn``.

Torch is imported when tracking starts, so that the help does not wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
import json
import logging
from pathlib import Path
import shlex
import sys
from typing import TYPE_CHECKING, Any

from dipy.workflows.workflow import Workflow
import numpy as np

from dipy_rnn._checks import check_installed, check_least
from dipy_rnn.io import (
    Files,
    check_sh_format,
    find_files,
    is_tractogram,
    load_pam,
    load_subject,
    load_volume,
    pair_files,
)
from dipy_rnn.pipeline import Seeding
from dipy_rnn.workflows.outputs import CheckedOutputs, as_patterns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dipy_rnn._typing import AnyArray, BoolArray, FloatArray, IntArray
    from dipy_rnn.evaluation import KnownBundle
    from dipy_rnn.evaluation.comparison import Tracked
    from dipy_rnn.io import TrackingInputs
    from dipy_rnn.model import Model

logger = logging.getLogger("dipy")  # DIPY's commands show and save its messages

_TRACTOGRAMS = ("out_candidate", "out_reference", "out_yardstick")
_OUTPUTS = ("out_report", "out_metrics", *_TRACTOGRAMS)  # in the order of run
# Options of tracking, in the order in which the page lists them.
_OPTIONS = (
    *("model_file", "tracking_method", "use_binary_mask", "stopping_thr"),
    *("seed_density", "seed_count", "minlen", "maxlen", "step_size", "pmf_threshold"),
    *("max_angle", "random_seed"),
)
_OF_TRACKERS = ("step_size", "max_angle", "pmf_threshold", "random_seed")


@dataclass(frozen=True, eq=False)
class _Comparison:
    """The tractograms of one subject, and what is needed to compare them."""

    title: str  # of the page
    tracked: dict[str, Tracked]
    image: AnyArray  # (X, Y, Z), background of the plots
    affine: FloatArray  # (4, 4), voxel to mm
    mask: BoolArray  # (X, Y, Z), voxels in which tracking may continue
    inputs: dict[str, str]  # path of each input, by its name on the page
    options: Mapping[str, Any]  # those that the metrics depend on
    model: dict[str, str | int | None] | None = None
    # Index of each candidate's partner in the reference, -1 for none. None if
    # streamlines of equal index are partners.
    pairs: IntArray | None = None


class RNNComparisonFlow(
    CheckedOutputs,
    Workflow,  # type: ignore[misc]  # DIPY has no types
):
    """Compare a recurrent network with an algorithm of DIPY."""

    @classmethod
    def get_short_name(cls) -> str:
        return "compare_rnn"

    def manage_output_overwrite(self) -> bool:
        """Refuse to write one file twice, or to overwrite a file."""
        if self._compares_existing:  # then no tractogram is written
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
        minlen: float = 2.0,
        maxlen: float = 500.0,
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

        Tracks the same seeds (some thousands are enough) from the same first directions
        with the network, with DIPY's deterministic tracking (see tracking_method), and
        with that algorithm on another sphere of directions (or, if it draws at random,
        with another random seed). The last tractogram is the
        baseline: it tells how much two runs of one algorithm differ. All three use the
        same options. Writes an HTML page, a file with its metrics, and the tractograms.

        If two tractograms and an image are given in place of the three files
        (dipy_compare_rnn candidate.trk reference.trk fa.nii.gz), these tractograms are
        compared. Nothing is tracked, and there is no baseline. If both files contain
        seeds, streamlines of the same seed are compared, otherwise each with the
        nearest one.

        Parameters
        ----------
        pam_files : string or Path
            Path to peaks and metrics files (of dipy_fit_csd), or to NIfTI files with
            the spherical harmonics of an fODF or with peaks (see sh_basis). This path
            may contain wildcards (in quotes) to process many subjects. The files of a
            subject are those whose wildcards match the same words (such as sub-01).
        stopping_files : string or Path
            Path to images (e.g. FA) used for the stopping criterion. An image on
            another grid is sampled at the voxel centres of the fODF, for all trackers.
        seeding_files : string or Path
            Path to binary images that show where to seed, or to lists of seeds: files
            (.txt, .csv, .tsv, .npy) with x, y and z in mm in each row.
        tracking_method : string, optional
            Algorithm of DIPY that the network is compared with: deterministic,
            probabilistic, ptt or eudx (which follows the peaks saved in the pam_files).
            Beside probabilistic and ptt, the network tracks probabilistically.
        use_binary_mask : bool, optional
            If True, uses a binary stopping criterion. If the provided
            `stopping_files` are not binary, `stopping_thr` will be used to
            binarize the images.
        stopping_thr : float, optional
            Threshold applied to the stopping image: tracking stops where the image is
            not above it.
        seed_density : int, optional
            Number of seeds per dimension inside a voxel: 1 places a seed at its centre,
            2 places 8 seeds on a regular grid.
        seed_count : int, optional
            If above 0, places this number of seeds at random in the seeding mask,
            instead of seed_density.
        minlen : float, optional
            Minimum length (mm) of the streamlines.
        maxlen : float, optional
            Maximum length (mm) of the streamlines.
        step_size : float, optional
            Step size (in mm) used for tracking.
        pmf_threshold : float, optional
            Tracking stops where the largest value of the fODF within max_angle is below
            this share of its largest value in any direction.
        max_angle : float, optional
            Maximum angle (degrees) between consecutive segments of a streamline: the
            cone in which the next direction is sought.
        model_file : string, optional
            Name of a model that comes with dipy_rnn, or path to a model file.
        bundle_files : string or Path, optional
            Path to known bundles, one file for each bundle; wildcards are allowed. A
            file is a tractogram (.trx, .trk, .tck, .vtk, .vtp, .fib, .dpy), or a NIfTI
            image that is 1 inside the bundle and 2 and 3 in its two end regions.
            Streamlines are scored against the bundles. A bundle is named after its
            file; if names are equal, after its folder and file.
        bundle_radius : float, optional
            If a bundle is a tractogram, voxels up to this distance (mm) from its
            streamlines belong to it: 0 if the streamlines fill the bundle, half of the
            width of the bundle if it is one centreline.
        bundle_end : float, optional
            If a bundle is a tractogram, voxels up to this distance (mm) from the end
            points of its streamlines belong to its end regions.
        label_file : string or Path, optional
            Path to an image with labels of grey matter regions, to compare the
            connectivity of the tractograms. With several subjects, all must be in its
            space.
        sh_basis : string, optional
            Basis of the spherical harmonics: descoteaux07_legacy (default for NIfTI
            files), descoteaux07, tournier07_legacy or tournier07 (MRtrix3); it is
            detected for peaks and metrics files. Or peaks, to track on peaks. They are
            detected in files without spherical harmonics, but not in images of 6, 15 or
            45 volumes.
        sh_frame : string, optional
            Axes of the spherical harmonics or peaks of a NIfTI file: voxel (DIPY) or
            scanner (MRtrix3). Peaks and metrics files always use the voxel axes.
        nbr_threads : int, optional
            Number of threads to use for the processing. By default, all available
            threads will be used.
        device : string, optional
            Device of the network: cpu or cuda.
        batch_size : int, optional
            Number of streamlines that are tracked together; 0 uses the default of the
            device. The streamlines do not depend on it.
        random_seed : int, optional
            Seed of the random numbers for the positions of seeds, for probabilistic
            tracking and for the resamples of standard errors, must be >= 1.
        out_dir : string or Path, optional
            Output directory.
        out_report : string, optional
            Name of the HTML page to be saved (.html).
        out_metrics : string, optional
            Name of the file with the metrics to be saved (.json).
        out_candidate : string, optional
            Tractogram of the network: .trx, .trk, .tck, .vtk, .vtp, .fib or .dpy.
        out_reference : string, optional
            Name of the tractogram of DIPY's algorithm to be saved.
        out_yardstick : string, optional
            Name of the tractogram of the baseline to be saved: DIPY's algorithm on
            another sphere.
        """
        from dipy_rnn.evaluation.load_bundles import load_truth, name_bundles
        from dipy_rnn.io import check_format, write_tractogram

        for name, path in zip(
            _TRACTOGRAMS, (out_candidate, out_reference, out_yardstick)
        ):
            check_format(path, name=name)
        check_sh_format(sh_basis, sh_frame)
        check_least("random_seed", random_seed, 1)
        check_least("bundle_radius", bundle_radius, 0)
        check_least("bundle_end", bundle_end, 0)
        seeding = Seeding(
            seed_density=seed_density, seed_count=seed_count, random_seed=random_seed
        )
        bundle_paths = {}
        if bundle_files:
            bundle_paths = name_bundles(find_files(bundle_files, "bundle_files"))
        label_path = Path(label_file) if label_file else None
        inputs = pair_files(
            pam_files=pam_files,
            stopping_files=stopping_files,
            seeding_files=seeding_files,
        )
        # DIPY looks up these variables, by name, in this function.
        pam_files, stopping_files, seeding_files = map(as_patterns, inputs)
        self._compares_existing = is_tractogram(inputs[0][0])
        io_it = self.get_io_iterator()

        check_installed(("jinja2", "matplotlib", "plotly"), "The report", "viz")
        arguments = locals()
        options = {name: arguments[name] for name in _OPTIONS}
        if not self._compares_existing:
            from dipy_rnn.model import load_model

            model = load_model(model_file, device=device)
            model.check_step(step_size)
        for first, second, third, report_path, metrics_path, *tractograms in io_it:
            paths = Path(first), Path(second), Path(third)
            if self._compares_existing:
                image_path = paths[2]
                image, affine = load_volume(image_path)
            else:
                subject_inputs = load_subject(*paths, "sh", (sh_basis, sh_frame))
                image_path, affine = paths[1], subject_inputs.affine
                image = subject_inputs.stopping_on_fodf_grid(is_nearest=use_binary_mask)
            truth = load_truth(
                bundle_paths,
                label_path,
                image_path,
                image,
                affine,
                radius_mm=bundle_radius,
                end_mm=bundle_end,
            )
            if self._compares_existing:
                subject = _load_existing(*paths, image, affine, random_seed)
            else:
                subject = _track(
                    *paths,
                    inputs=subject_inputs,
                    stopping=image,
                    options=options,
                    seeding=seeding,
                    model=model,
                    nbr_threads=nbr_threads,
                    batch_size=batch_size,
                )
                for tracked, path in zip(subject.tracked.values(), tractograms):
                    write_tractogram(
                        Path(path),
                        ((line, {}) for line in tracked.streamlines if len(line)),
                        subject.affine,
                        subject.image.shape,
                    )
                    logger.info(f"Saved {path}")
            if bundle_paths:
                known = ", ".join(map(str, bundle_paths.values()))
                subject.inputs["known bundles"] = known
            saved = Path(report_path), Path(metrics_path)
            _report(subject, truth, nbr_threads, *saved)


def _track(
    pam_path: Path,
    stopping_path: Path,
    seeding_path: Path,
    *,
    inputs: TrackingInputs,
    stopping: AnyArray,
    options: Mapping[str, Any],
    seeding: Seeding,
    model: Model,
    nbr_threads: int,
    batch_size: int,
) -> _Comparison:
    """Track a subject with all trackers; `stopping` is on the grid of the fODF."""
    from dipy_rnn.evaluation.comparison import track_beside
    from dipy_rnn.report.facts import model_facts
    from dipy_rnn.stopping import make_criterion

    affine = inputs.affine
    _, batches = seeding.place(inputs.seeding, inputs.seeding_affine, seeding_path)
    seeds = np.concatenate(list(batches))
    method = options["tracking_method"]
    pam = None
    if pam_path.suffix.lower() == ".pam5":  # for the sphere, and the peaks of EuDX
        peaks = ("peak_indices", "peak_values") if method == "eudx" else ()
        pam = load_pam(pam_path, *peaks)
    logger.info(
        f"Tracking {len(seeds)} seeds on {pam_path} with the model {model.name}, with "
        f"{method} tracking, and again with {method} tracking as a baseline"
    )
    tracked = track_beside(
        seeds,
        make_criterion(stopping, options["use_binary_mask"], options["stopping_thr"]),
        affine,
        features=inputs.features,
        method=method,
        pam=pam,
        model=model,
        min_len=options["minlen"],
        max_len=options["maxlen"],
        nbr_threads=nbr_threads,
        batch_size=batch_size,
        **{name: options[name] for name in _OF_TRACKERS},
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
        options=options,
        model=model_facts(model),
    )


def _load_existing(
    candidate_path: Path,
    reference_path: Path,
    image_path: Path,
    image: AnyArray,
    affine: FloatArray,
    random_seed: int,
) -> _Comparison:
    """Load two existing tractograms and find which streamlines are partners."""
    from dipy_rnn.evaluation.comparison import load_beside

    tracked, pairs = load_beside(
        candidate_path, reference_path, image_path, image, affine
    )
    return _Comparison(
        title=" beside ".join(by.label for by in tracked.values()),
        tracked=tracked,
        image=image,
        affine=affine,
        mask=image > 0,
        inputs={
            "candidate": str(candidate_path),
            "reference": str(reference_path),
            "image": str(image_path),
        },
        options={"random_seed": random_seed},
        pairs=pairs,
    )


def _report(
    subject: _Comparison,
    truth: tuple[Mapping[str, KnownBundle], tuple[IntArray, FloatArray] | None],
    nbr_threads: int,
    report_path: Path,
    metrics_path: Path,
) -> None:
    """Compute the metrics, and save them and the page."""
    from dipy_rnn._atomic import atomic_write
    from dipy_rnn.evaluation.definitions import Metric
    from dipy_rnn.evaluation.metrics import measure, partner_distances
    from dipy_rnn.report import write_report
    from dipy_rnn.report.facts import machine_facts

    logger.info("Computing the metrics")
    bundles, regions = truth
    distances = partner_distances(subject.tracked, subject.pairs)
    measured = measure(
        subject.tracked,
        distances,
        subject.affine,
        subject.mask,
        pairs=subject.pairs,
        bundles=bundles,
        regions=regions,
        random_seed=subject.options["random_seed"],
    )
    metrics: dict[str, Any] = {
        "title": subject.title,
        "date": date.today().isoformat(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        **machine_facts(nbr_threads),
        "inputs": subject.inputs,
        "options": subject.options,
    }
    if subject.model:
        metrics["model"] = subject.model
    metrics |= measured
    content = json.dumps(metrics, indent=2, allow_nan=False, default=Metric.to_json)
    with atomic_write(metrics_path) as partial:
        partial.write_bytes(content.encode())
    logger.info(f"Saved {metrics_path}")
    write_report(
        report_path,
        metrics,
        {key: by.streamlines for key, by in subject.tracked.items()},
        subject.image,
        subject.affine,
        distances,
        subject.pairs,
    )
    logger.info(f"Saved {report_path}")
    agreement = measured["between"][0]
    values = [
        f"{subject.tracked[key].label} {estimate.value:.3f}"
        for key, estimate in agreement.estimates.items()
        if np.isfinite(estimate.value)
    ]
    logger.info(f"{agreement.label}: {', '.join(values)}")
