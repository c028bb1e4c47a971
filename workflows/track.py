"""The workflow of ``dipy_track_rnn``."""

from __future__ import annotations

from collections.abc import Sequence
import logging
from pathlib import Path

from dipy.workflows.workflow import Workflow

from dipy_rnn import io
from dipy_rnn._atomic import save_table
from dipy_rnn._checks import check_installed
from dipy_rnn.workflows.cohort import COLUMNS, Outcome, find_subjects, track_subjects
from dipy_rnn.workflows.outputs import CheckedOutputs, as_patterns, refuse_folders
from dipy_rnn.workflows.track_options import STEP_SIZE, TrackingOptions

logger = logging.getLogger("dipy")  # DIPY's commands show and save its messages


class RNNTrackingFlow(
    CheckedOutputs,
    Workflow,  # type: ignore[misc]  # DIPY has no types
):
    """Track streamlines with a recurrent network, for one or many subjects."""

    @classmethod
    def get_short_name(cls) -> str:
        return "track_rnn"

    def run(
        self,
        pam_files: io.Files,
        stopping_files: io.Files,
        seeding_files: io.Files,
        use_binary_mask: bool = False,
        stopping_thr: float = 0.2,
        act: bool = False,
        cmc: bool = False,
        gm_files: io.Files = "",
        csf_files: io.Files = "",
        keep_rejected: bool = False,
        seed_density: int = 1,
        seed_count: int = 0,
        seeds_per_voxel: int = 0,
        seeds_per_mm3: float = 0.0,
        seed_at_interface: bool = False,
        select: int = 0,
        minlen: float = 2.0,
        maxlen: float = 500.0,
        step_size: float = STEP_SIZE,
        step_vox: float = 0.0,
        max_angle: float = 30.0,
        pmf_threshold: float = 0.1,
        max_cross: int = 1,
        unidirectional: bool = False,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        stop_at_include: bool = False,
        tracking_method: str = "deterministic",
        temperature: float = 1.0,
        ended_thr: float = 1.0,
        lost_thr: float = 1.0,
        model_file: str = "default",
        sh_basis: str | None = None,
        sh_frame: str = "voxel",
        save_seeds: bool = False,
        save_stops: bool = False,
        save_metrics: bool = False,
        save_density: bool = False,
        save_picture: bool = False,
        downsample: int = 1,
        compress: float = 0.0,
        float16: bool = False,
        nbr_threads: int = 0,
        device: str = "cpu",
        batch_size: int = 0,
        random_seed: int = 1,
        seed_buffer_fraction: float = 1.0,
        engine: str = "serial",
        num_processes: int = -1,
        scheduler: str = "",
        nbr_parts: int = 1,
        skip_existing: bool = False,
        summary_file: str | Path = "track_rnn_summary.csv",
        out_dir: str | Path = "",
        out_tractogram: str = "out_tractogram.trx",
    ) -> None:
        """Workflow for tracking with a recurrent network.

        Takes the inputs of dipy_track: a fibre orientation distribution (fODF), a
        stopping image and a seeding image. The trained network is part of dipy_rnn.
        Images need no registration to a template.

        Parameters
        ----------
        pam_files : string or Path
            Path to peaks and metrics files (of dipy_fit_csd), or to NIfTI files with
            the spherical harmonics of an fODF or with peaks (see sh_basis). This path
            may contain wildcards (in quotes) to process many subjects. The files of a
            subject are those whose wildcards match the same words (such as sub-01).
        stopping_files : string or Path
            Path to images (e.g. FA) used for the stopping criterion.
        seeding_files : string or Path
            Path to binary images that show where to seed, or to lists of seeds: files
            (.txt, .csv, .tsv, .npy) with x, y and z in mm in each row.
        use_binary_mask : bool, optional
            If True, uses a binary stopping criterion. If the provided
            `stopping_files` are not binary, `stopping_thr` will be used to
            binarize the images.
        stopping_thr : float, optional
            Threshold applied to the stopping image: tracking stops where the image is
            not above it.
        act : bool, optional
            If True, anatomically constrained tracking (ACT). The `stopping_files` are
            then tissue images: 5TT images of MRtrix3, or images with three partial
            volumes in the order of dipy_classify_tissue and FSL FAST (cerebrospinal
            fluid, grey matter, white matter). Streamlines are rejected unless both ends
            are in grey matter or at the border of the image. Ends that ended_thr or
            stop_at_include makes are valid anywhere.
        cmc : bool, optional
            If True, as act, but with the continuous map criterion (CMC): at each point,
            the streamline ends at random, with probabilities from the partial volumes.
        gm_files : string or Path, optional
            Path to partial volume maps of grey matter, for act or cmc. The
            `stopping_files` are then maps of white matter, and csf_files are needed.
        csf_files : string or Path, optional
            Path to partial volume maps of cerebrospinal fluid, for gm_files.
        keep_rejected : bool, optional
            If True, also save the streamlines that act or cmc rejects. Use save_stops
            to tell them apart.
        seed_density : int, optional
            Number of seeds per dimension inside a voxel: 1 places a seed at its centre,
            2 places 8 seeds on a regular grid.
        seed_count : int, optional
            If above 0, places this number of seeds at random in the seeding mask,
            instead of seed_density.
        seeds_per_voxel : int, optional
            If above 0, places this number of seeds at random in each voxel of the
            seeding mask.
        seeds_per_mm3 : float, optional
            If above 0, places on average this number of seeds per cubic millimetre at
            random in the seeding mask.
        seed_at_interface : bool, optional
            If True, places the seeds of seed_count or select on the interface of grey
            and white matter inside the seeding mask. It needs act or cmc.
        select : int, optional
            If above 0, tracking ends when this number of streamlines is selected. Seeds
            are placed at random. At most as many seeds are tracked as seed_count,
            seeds_per_voxel or seeds_per_mm3 sets, by default 100 per streamline.
        minlen : float, optional
            Minimum length (mm) of the streamlines.
        maxlen : float, optional
            Maximum length (mm) of the streamlines.
        step_size : float, optional
            Step size (in mm) used for tracking.
        step_vox : float, optional
            If above 0, step size in voxels, instead of step_size: 0.5 is half the edge
            of a voxel. The edge is the cube root of the volume of the voxel.
        max_angle : float, optional
            Maximum angle (degrees) between consecutive segments of a streamline: the
            cone in which the next direction is sought.
        pmf_threshold : float, optional
            Tracking stops where the largest value of the fODF within max_angle is below
            this share of its largest value in any direction.
        max_cross : int, optional
            Maximum number of peaks of the fODF to track from each seed, the largest
            first; 0 or -1 tracks all peaks.
        unidirectional : bool, optional
            If True, track only to one side of the seed: along the direction of the peak
            that points up (superior).
        include : variable string, optional
            Regions that each streamline must enter, all of them: masks on any grid, or
            spheres given as x,y,z,radius in mm. Paths to masks may contain wildcards
            (in quotes) for many subjects.
        exclude : variable string, optional
            Regions that no streamline may enter, given as for include. Tracking stops
            where it enters one.
        stop_at_include : bool, optional
            If True, tracking stops where a streamline has entered all regions of
            include.
        tracking_method : string, optional
            deterministic (det) follows the direction that the network predicts.
            probabilistic (prob) draws directions from the distribution that it
            predicts: seeds at the same place have different streamlines.
        temperature : float, optional
            For probabilistic tracking: factor of the predicted spread of directions,
            above 0.
        ended_thr : float, optional
            Tracking stops where the network predicts with a probability above this
            that the fibre has ended; it counts as a valid end. With 0.2, a mask of the
            brain can be the stopping file. 1 is never.
        lost_thr : float, optional
            Tracking stops where the network predicts with a probability above this
            that the streamline has left its bundle; 0.6 removes some invalid
            connections, and a few valid ones. 1 is never.
        model_file : string, optional
            Name of a model that comes with dipy_rnn, or path to a model file.
        sh_basis : string, optional
            Basis of the spherical harmonics: descoteaux07_legacy (default for NIfTI
            files), descoteaux07, tournier07_legacy or tournier07 (MRtrix3); it is
            detected for peaks and metrics files. Or peaks, to track on peaks. They are
            detected in files without spherical harmonics, but not in images of 6, 15 or
            45 volumes.
        sh_frame : string, optional
            Axes of the spherical harmonics or peaks of a NIfTI file: voxel (DIPY) or
            scanner (MRtrix3). Peaks and metrics files always use the voxel axes.
        save_seeds : bool, optional
            If True, save the seeds associated to their streamline
            in the 'data_per_streamline' Tractogram dictionary using
            'seeds' as the key.
        save_stops : bool, optional
            If True, save why tracking stopped in both directions from the seed, as
            'forward_stop' and 'backward_stop' in 'data_per_streamline' (1 stopping
            criterion, 2 outside of the image, 3 excluded tissue, 4 nothing ahead, 5 too
            long, 6 no direction, 7 no data, 8 not finite, 9 exclude region, 10 last
            include region, 11 end of the fibre, 12 lost).
        save_metrics : bool, optional
            If True, save metrics of each streamline as it was tracked, and why tracking
            stopped (as save_stops), in 'data_per_streamline': 'length_mm', 'turn_deg',
            and how well it follows the fODF, as 'mean_amplitude', 'least_amplitude' and
            'sum_log_amplitude'. It needs an fODF and a .trx or .trk file.
        save_density : bool, optional
            If True, save a density map (_density.nii.gz) in the folder of the
            tractogram: the number of streamlines that visit each voxel. Streamlines are
            counted one by one, also those points that downsample and compress remove.
        save_picture : bool, optional
            If True, save a picture (.png) of the streamlines over the stopping image,
            in the folder of the tractogram. It needs matplotlib: pip install
            "dipy_rnn[viz]".
        downsample : int, optional
            Save every n-th point of each streamline, and its first and last point.
        compress : float, optional
            If above 0, remove points that are within this distance (mm) of the lines
            between the remaining points; 0.1 is a common value.
        float16 : bool, optional
            If True, save coordinates in half precision (only .trx): at 100 mm from the
            origin they are off by up to 0.06 mm.
        nbr_threads : int, optional
            Number of threads to use for the processing. By default, all available
            threads will be used, divided among the processes of the engine; if
            scheduler is given, each subject has one thread. The streamlines do not
            depend on it.
        device : string, optional
            Device of the network: cpu or cuda.
        batch_size : int, optional
            Number of streamlines that are tracked together; 0 uses the default of the
            device. The streamlines do not depend on it.
        random_seed : int, optional
            Seed of the random numbers for the positions of seeds, for probabilistic
            tracking and for cmc, must be >= 0. With 0, they differ from run to run.
            Nothing else is random.
        seed_buffer_fraction : float, optional
            Fraction of the seeds to prepare at a time. Below 1.0 tracking uses less
            memory and starts sooner.
        engine : string, optional
            How to process many subjects: serial (one after the other), or joblib or ray
            (several at a time on this machine).
        num_processes : int, optional
            Number of processes of joblib or ray. If < 0, it is the number of cores + 1
            + num_processes: -1 uses all cores.
        scheduler : string, optional
            Address of a running dask scheduler, such as tcp://host:8786. Its workers
            track the subjects. They need access to the same files.
        nbr_parts : int, optional
            Split the seeds of each subject into this number of parts, which the engine
            or the scheduler tracks at the same time. The streamlines do not depend on
            it.
        skip_existing : bool, optional
            If True, skip subjects whose tractogram exists.
        summary_file : string or Path, optional
            Name of the table (.csv) with a row for each subject, written if there is
            more than one subject. It is saved in out_dir or, with --out_strat append,
            in the working directory.
        out_dir : string or Path, optional
            Output directory.
        out_tractogram : string, optional
            Name of the tractogram file: .trx, .trk, .tck, .vtk, .vtp, .fib or .dpy.

        References
        ----------
        Cai, L. Y., H. H. Lee, N. R. Newlin, M. E. Kim, D. Moyer, F. Rheault, K. G.
        Schilling, and B. A. Landman. Implementation considerations for deep learning
        with diffusion MRI streamline tractography. MIDL, 2023.
        """
        options = TrackingOptions.from_arguments(locals()).resolve()
        io.check_format(
            out_tractogram,
            data_types=options.data_types,
            dtype=options.dtype,
            name="out_tractogram",
        )
        self._skip = skip_existing
        inputs = io.pair_files(
            pam_files=pam_files,
            stopping_files=stopping_files,
            seeding_files=seeding_files,
            **options.tissue_files,
            **io.region_files(options.regions),
        )
        # DIPY looks up these variables, by name, in this function.
        pam_files, stopping_files, seeding_files = map(as_patterns, inputs[:3])
        io_it = self.get_io_iterator()
        subjects = find_subjects(io_it, inputs[3:], options)
        outcomes = {
            subject: Outcome(subject, "skipped")
            for subject in subjects
            if skip_existing and subject.tractogram.exists()
        }
        if outcomes:
            logger.info(f"{len(outcomes)} of {len(subjects)} tractograms exist already")
        due = [subject for subject in subjects if subject not in outcomes]
        if save_picture:
            check_installed(("matplotlib",), "save_picture", "viz")
            self.refuse_existing(each.tractogram.with_suffix(".png") for each in due)
        if save_density:
            self.refuse_existing(each.density for each in due)
        folder = Path() if self._output_strategy == "append" else Path(out_dir)
        summary = folder / summary_file
        if len(subjects) > 1:
            refuse_folders([summary])

        from dipy_rnn.model import load_model

        model = load_model(model_file, device=device)
        model.spread_scale(options.tracking_method, temperature)
        model.check_thresholds(ended_thr, lost_thr)
        if not step_vox:  # otherwise the step is known when the images are loaded
            model.check_step(step_size)
        if save_metrics and model.metadata.kind != "sh":
            raise ValueError(
                f"save_metrics is given, but {model_file} tracks features that are no "
                "fODF and have no amplitudes; use save_stops instead."
            )
        errors: list[Exception] = []
        try:
            for outcome in track_subjects(due, options):
                outcomes[outcome.subject] = outcome
                if outcome.error:
                    errors.append(outcome.error)
                if len(subjects) > 1 or not outcome.error:
                    _log(outcome, options)
        finally:
            if len(subjects) > 1:
                rows = [outcomes[each].row() for each in subjects if each in outcomes]
                summary.parent.mkdir(parents=True, exist_ok=True)
                save_table(summary, COLUMNS, rows)
                logger.info(f"Saved {summary}")
        if len(subjects) == len(errors) == 1:
            raise errors[0]
        if errors:
            raise ValueError(
                f"{len(errors)} of {len(due)} subjects failed, the first one: "
                f"{io.one_line(errors[0])}"
            )


def _log(outcome: Outcome, options: TrackingOptions) -> None:
    """Log the result for a subject that was tracked, or failed."""
    counts, subject = outcome.counts, outcome.subject
    if outcome.error or counts is None:
        logger.error(f"{subject.fodf}: {outcome.row()['error']}")
        return
    outside = f"{counts.outside} outside the image, " if counts.outside else ""
    logger.info(
        f"{subject.fodf}: {counts.seeds} seeds, {outside}"
        f"{counts.without_direction} without a fibre direction, "
        f"{counts.streamlines} streamlines of {options.minlen:g} to "
        f"{options.maxlen:g} mm, with steps of {counts.step_mm:g} mm. "
        + ("All streamlines:" if options.is_constrained else "Why tracking stopped:")
    )
    table = counts.table(
        by_streamline=options.is_constrained, n_ends=2 - options.unidirectional
    )
    for row in table.splitlines():
        logger.info(row)
    if not counts.streamlines:
        logger.warning(
            "No streamline was selected; check stopping_thr, minlen and regions, and "
            "the stopping and seeding images."
        )
    logger.info(f"Saved {subject.tractogram}")
    if options.save_density:
        logger.info(f"Saved {subject.density}")
    if options.save_picture:
        logger.info(f"Saved {subject.tractogram.with_suffix('.png')}")
