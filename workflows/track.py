"""The workflow behind ``dipy_track_rnn``.

Torch is imported when tracking starts, so that the help does not wait for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
import logging
import os
from pathlib import Path
import sys
import time
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from dipy.workflows.workflow import Workflow
import numpy as np

from dipy_rnn._atomic import save_table
from dipy_rnn.io.images import (
    Files,
    check_least,
    check_sh_format,
    load_subject,
    load_tissues,
    load_volume,
    make_criterion,
    match_files,
    one_line,
    pair_files,
    read_tractogram,
)
from dipy_rnn.seeding import Seeding
from dipy_rnn.workflows.cohort import (
    COLUMNS,
    ENGINES,
    Outcome,
    joined,
    work_on,
)
from dipy_rnn.workflows.outputs import WholeOutputs, check_installed

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from dipy_rnn._typing import AnyArray, ArrayLike, FloatArray
    from dipy_rnn.stopping import StoppingCriterion, StopReason
    from dipy_rnn.tracking import Streamline

    _Line: TypeAlias = tuple[AnyArray, Mapping[str, ArrayLike]]

_Item = TypeVar("_Item")

logger = logging.getLogger("dipy")  # whose messages DIPY shows and files


class RNNTrackingFlow(
    WholeOutputs,
    Workflow,  # type: ignore[misc]  # DIPY has no types
):
    """Track the streamlines of one subject or many with a recurrent network."""

    @classmethod
    def get_short_name(cls) -> str:
        return "track_rnn"

    def run(
        self,
        pam_files: Files,
        stopping_files: Files,
        seeding_files: Files,
        use_binary_mask: bool = False,
        stopping_thr: float = 0.2,
        act: bool = False,
        cmc: bool = False,
        gm_files: Files = "",
        csf_files: Files = "",
        keep_rejected: bool = False,
        seed_density: int = 1,
        seed_count: int = 0,
        seeds_per_voxel: int = 0,
        seeds_per_mm3: float = 0.0,
        seed_at_interface: bool = False,
        select: int = 0,
        minlen: int = 2,
        maxlen: int = 500,
        step_size: float = 0.5,
        max_angle: float = 30.0,
        model_file: str = "default",
        sh_basis: str | None = None,
        sh_frame: str = "voxel",
        save_seeds: bool = False,
        save_stops: bool = False,
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

        Takes what dipy_track takes: a fibre orientation distribution (fODF), an image
        that says where to stop and one that says where to start. The network that
        comes with dipy_rnn needs neither training nor registration.

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
        use_binary_mask : bool, optional
            If True, uses a binary stopping criterion. If the provided
            `stopping_files` are not binary, `stopping_thr` will be used to
            binarize the images.
        stopping_thr : float, optional
            Threshold applied to the stopping image: tracking ends where it is not
            above.
        act : bool, optional
            If True, anatomically constrained tracking: `stopping_files` are images of
            tissues, a 5TT image of MRtrix3 or one of the shares of cerebrospinal fluid,
            grey and white matter (in this order, as of dipy_classify_tissue and FAST).
            Streamlines that end elsewhere than in grey matter or at the border of the
            image are rejected.
        cmc : bool, optional
            If True, as act, but with the continuous map criterion, which draws at
            random where to end by the shares of tissues.
        gm_files : string or Path, optional
            Path to images of the share of grey matter, for act and cmc: then
            `stopping_files` are those of white matter, and csf_files are needed.
        csf_files : string or Path, optional
            Path to images of the share of cerebrospinal fluid.
        keep_rejected : bool, optional
            If True, act and cmc keep what they reject (save_stops tells which).
        seed_density : int, optional
            Number of seeds per dimension inside a voxel: 2 means 8 regularly
            distributed points in the voxel, 1 its centre.
        seed_count : int, optional
            If above 0, this number of seeds at random places in the seeding mask,
            instead of seed_density.
        seeds_per_voxel : int, optional
            If above 0, this number of seeds at random places in each voxel.
        seeds_per_mm3 : float, optional
            If above 0, this number of seeds at random places in a cubic millimetre of
            the seeding mask, on average.
        seed_at_interface : bool, optional
            If True, the seeds of seed_count or select are on the interface of grey and
            white matter inside the seeding mask; for act and cmc.
        select : int, optional
            If above 0, tracking ends when this number of streamlines is selected. Seeds
            are drawn at random, at most as many as seed_count, seeds_per_voxel or
            seeds_per_mm3 say, else 100 for each streamline.
        minlen : int, optional
            Minimum length (mm) of the streamlines.
        maxlen : int, optional
            Maximum length (mm) of the streamlines.
        step_size : float, optional
            Step size (in mm) used for tracking.
        max_angle : float, optional
            Maximum angle between streamline segments (degrees); a streamline ends
            where a step would turn by more.
        model_file : string, optional
            Name of a model that comes with dipy_rnn, or a model file.
        sh_basis : string, optional
            Basis of the spherical harmonics: descoteaux07_legacy (DIPY's default),
            descoteaux07, tournier07_legacy or tournier07 (MRtrix3). By default it is
            found out for peaks and metrics files, and DIPY's for NIfTI.
        sh_frame : string, optional
            Axes of the spherical harmonics of a NIfTI file: voxel (DIPY) or scanner
            (MRtrix3). Those of peaks and metrics files are along the voxels.
        save_seeds : bool, optional
            If True, save the seeds associated to their streamline
            in the 'data_per_streamline' Tractogram dictionary using
            'seeds' as the key.
        save_stops : bool, optional
            If True, save why the two halves of a streamline stopped as 'forward_stop'
            and 'backward_stop' beside the seeds (1 the criterion was met, 2 it left
            the image, 3 excluded tissue, 4 sharp turn, 5 too long, 6 no direction,
            7 no data, 8 not finite).
        save_picture : bool, optional
            If True, save a picture of the tractogram over the stopping image beside
            it, as .png. It needs matplotlib: pip install "dipy_rnn[viz]".
        downsample : int, optional
            Save every n-th point of a streamline, and both ends.
        compress : float, optional
            If above 0, leave out points that are within this distance (mm) of the
            lines between those that are saved; 0.1 is usual.
        float16 : bool, optional
            If True, save coordinates with half the digits (.trx alone): they are off
            by up to 0.06 mm at 100 mm from the origin.
        nbr_threads : int, optional
            Number of threads to use for the processing. By default, all available
            threads will be used, or the share of each process; with scheduler, one.
            The streamlines do not depend on it.
        device : string, optional
            Where the network runs: cpu or cuda.
        batch_size : int, optional
            How many streamlines advance together, 0 for what suits the device. They
            do not depend on it.
        random_seed : int, optional
            Seed for the places of seeds that are drawn, which vary with 0, and for cmc;
            must be >= 0. Nothing else is random.
        seed_buffer_fraction : float, optional
            Share of the seeds to prepare at a time. With less than 1.0 less memory is
            used and tracking starts sooner.
        engine : string, optional
            How many subjects are tracked: serial, one after the other, or with joblib
            or ray several at a time on this machine.
        num_processes : int, optional
            For joblib and ray. If < 0, the number of cores + 1 + num_processes; -1 for
            as many as there are cores.
        scheduler : string, optional
            Address of a running dask scheduler, such as tcp://host:8786: subjects are
            tracked by its workers, which see the same files.
        nbr_parts : int, optional
            Split the seeds of each subject into this number of parts, which are
            tracked by the engine or the scheduler beside each other. The streamlines
            do not depend on it.
        skip_existing : bool, optional
            If True, leave out subjects whose tractogram is there.
        summary_file : string or Path, optional
            Name of a table (.csv) of what became of each subject, in out_dir, or with
            --out_strat append where the command was started. It is written if there is
            more than one.
        out_dir : string or Path, optional
            Output directory.
        out_tractogram : string, optional
            Name of the tractogram file to be saved: .trx, .trk or .tck.

        References
        ----------
        Cai, L. Y., H. H. Lee, N. R. Newlin, M. E. Kim, D. Moyer, F. Rheault, K. G.
        Schilling, and B. A. Landman. Implementation considerations for deep learning
        with diffusion MRI streamline tractography. MIDL, 2023.
        """
        from dipy_rnn.io.tractogram import check_format

        options = TrackingOptions(
            seeding=Seeding(
                seed_density=seed_density,
                seed_count=seed_count,
                seeds_per_voxel=seeds_per_voxel,
                seeds_per_mm3=seeds_per_mm3,
                seed_at_interface=seed_at_interface,
                select=select,
                random_seed=random_seed,
            ),
            use_binary_mask=use_binary_mask,
            stopping_thr=stopping_thr,
            act=act,
            cmc=cmc,
            gm_files=gm_files,
            csf_files=csf_files,
            keep_rejected=keep_rejected,
            minlen=minlen,
            maxlen=maxlen,
            step_size=step_size,
            max_angle=max_angle,
            model_file=model_file,
            sh_basis=sh_basis,
            sh_frame=sh_frame,
            save_seeds=save_seeds,
            save_stops=save_stops,
            save_picture=save_picture,
            downsample=downsample,
            compress=compress,
            float16=float16,
            nbr_threads=nbr_threads,
            device=device,
            batch_size=batch_size,
            seed_buffer_fraction=seed_buffer_fraction,
            engine=engine,
            num_processes=num_processes,
            scheduler=scheduler,
            nbr_parts=nbr_parts,
        ).for_workers()
        check_format(
            out_tractogram,
            data_types=options.data_types,
            dtype=options.dtype,
            name="out_tractogram",
        )
        self._skip = skip_existing
        # DIPY reads these variables of this very function.
        pam_files, stopping_files, seeding_files = pair_files(
            pam_files=pam_files,
            stopping_files=stopping_files,
            seeding_files=seeding_files,
        )
        io_it = self.get_io_iterator()
        subjects = _subjects(io_it, options)
        there = {s for s in subjects if skip_existing and s.tractogram.exists()}
        due = [subject for subject in subjects if subject not in there]
        if save_picture:
            check_installed(("matplotlib",), "save_picture", "viz")
            self.refuse_existing(each.tractogram.with_suffix(".png") for each in due)

        from dipy_rnn.model_file import load_model

        load_model(model_file, device=device).check_step(step_size)
        outcomes = {
            each: Outcome(str(each.fodf), str(each.tractogram), "skipped")
            for each in there
        }
        if there:
            logger.info(f"{len(there)} of {len(subjects)} tractograms exist already")
        errors: list[Exception] = []
        try:
            for subject, outcome in _track_all(due, options):
                if isinstance(outcome, Exception):
                    errors.append(outcome)
                    outcome = Outcome(
                        str(subject.fodf),
                        str(subject.tractogram),
                        "failed",
                        error=one_line(outcome),
                    )
                outcomes[subject] = outcome
                if len(subjects) > 1 or outcome.status != "failed":
                    _report(outcome, options)
        finally:
            if len(subjects) > 1:
                folder = Path() if self._output_strategy == "append" else Path(out_dir)
                rows = [outcomes[each].row() for each in subjects if each in outcomes]
                save_table(folder / summary_file, COLUMNS, rows)
                logger.info(f"Saved {folder / summary_file}")
        if len(subjects) == len(errors) == 1:
            raise errors[0]
        if errors:
            raise ValueError(
                f"{len(errors)} of {len(due)} subjects failed, the first one: "
                f"{one_line(errors[0])}"
            )


@dataclass(frozen=True)
class TrackingOptions:
    """The options of the command that say how its subjects are tracked.

    Parameters
    ----------
    seeding : Seeding
    use_binary_mask, stopping_thr, act, cmc, gm_files, csf_files, keep_rejected, \
minlen, maxlen, step_size, max_angle, model_file, sh_basis, sh_frame, save_seeds, \
save_stops, save_picture, downsample, compress, float16, nbr_threads, device, \
batch_size, seed_buffer_fraction, engine, num_processes, scheduler, nbr_parts
        As for :meth:`RNNTrackingFlow.run`.

    Raises
    ------
    ValueError
        If one is wrong whatever the files are, or two do not go together.
    """

    seeding: Seeding
    use_binary_mask: bool
    stopping_thr: float
    act: bool
    cmc: bool
    gm_files: Files
    csf_files: Files
    keep_rejected: bool
    minlen: int
    maxlen: int
    step_size: float
    max_angle: float
    model_file: str
    sh_basis: str | None
    sh_frame: str
    save_seeds: bool
    save_stops: bool
    save_picture: bool
    downsample: int
    compress: float
    float16: bool
    nbr_threads: int
    device: str
    batch_size: int
    seed_buffer_fraction: float
    engine: str
    num_processes: int
    scheduler: str
    nbr_parts: int

    def __post_init__(self) -> None:
        check_sh_format(self.sh_basis, self.sh_frame)
        if self.act and self.cmc:
            raise ValueError("act and cmc are two criteria; give one of them.")
        for name, given in (
            ("gm_files", self.gm_files),
            ("csf_files", self.csf_files),
            ("keep_rejected", self.keep_rejected),
            ("seed_at_interface", self.seeding.seed_at_interface),
        ):
            if given and not self.constrained:
                raise ValueError(
                    f"{name} is for act or cmc; give one of these as well."
                )
        if self.constrained and self.use_binary_mask:
            raise ValueError(
                "use_binary_mask is for masks, and act and cmc take shares of tissues; "
                "leave it out."
            )
        if bool(self.gm_files) != bool(self.csf_files):
            raise ValueError(
                "gm_files and csf_files belong together; give both, or an image with "
                "all tissues as stopping_files."
            )
        check_least("downsample", self.downsample, 1)
        check_least("compress", self.compress, 0)
        check_least("nbr_parts", self.nbr_parts, 1)
        if self.nbr_parts > 1 and self.seeding.select:
            raise ValueError(
                "select ends tracking at a number of streamlines, which parts that are "
                "tracked beside each other cannot know; leave nbr_parts out."
            )
        if self.engine not in ENGINES:
            raise ValueError(
                f"engine is {self.engine}; {', '.join(ENGINES)} are allowed."
            )
        if self.num_processes == 0:
            raise ValueError(
                "num_processes is 0; give 1 or more, or -1 for every core."
            )

    @property
    def constrained(self) -> bool:
        """Whether tissues say where streamlines may end."""
        return self.act or self.cmc

    @property
    def has_one_image(self) -> bool:
        """Whether the stopping image holds all tissues."""
        return self.constrained and not self.gm_files

    @property
    def is_here(self) -> bool:
        """Whether this process tracks: one subject after the other."""
        return self.engine == "serial" and not self.scheduler

    @property
    def data_types(self) -> dict[str, tuple[int, DTypeLike]]:
        """What is saved of each streamline: how many numbers, and their type."""
        types: dict[str, tuple[int, DTypeLike]] = {}
        if self.save_seeds:
            types["seeds"] = 3, np.float32
        if self.save_stops:
            types |= {"forward_stop": (1, np.uint8), "backward_stop": (1, np.uint8)}
        return types

    @property
    def dtype(self) -> DTypeLike:
        """In what coordinates are saved."""
        return np.float16 if self.float16 else np.float32

    def for_workers(self) -> TrackingOptions:
        """Say how many processes and threads there are, and where the model is.

        Returns
        -------
        options : TrackingOptions

        Raises
        ------
        ValueError
            If the engine is not installed, or nbr_threads is out of range.
        """
        from dipy.utils.multiproc import determine_num_processes

        from dipy_rnn.interpolate import count_threads
        from dipy_rnn.model_file import shipped_models

        n_processes, n_threads = 1, count_threads(self.nbr_threads)
        if self.scheduler:
            check_installed(("distributed",), "scheduler", "dask")
            n_threads = self.nbr_threads or 1
        elif self.engine != "serial":
            check_installed((self.engine,), f"engine {self.engine}", self.engine)
            n_processes = determine_num_processes(self.num_processes)
            if not self.nbr_threads:
                n_threads = max(1, n_threads // n_processes)
        model_file = self.model_file
        if not self.is_here and model_file not in shipped_models():
            model_file = os.path.abspath(model_file)  # they may be in another folder
        return replace(
            self,
            num_processes=n_processes,
            nbr_threads=n_threads,
            model_file=model_file,
        )


@dataclass(frozen=True)
class Subject:
    """The files of a subject, or of a part of one.

    Parameters
    ----------
    fodf, stopping, seeding : Path
        What is read: the fODF, the image where to stop, and the mask or list of seeds.
    tractogram : Path
        What is written.
    gm, csf : Path, optional
        Maps of tissues.
    part, n_parts : int, optional
        Which share of the seeds is tracked.
    """

    fodf: Path
    stopping: Path
    seeding: Path
    tractogram: Path
    gm: Path | None = None
    csf: Path | None = None
    part: int = 0
    n_parts: int = 1

    @property
    def is_part(self) -> bool:
        """Whether it is not the whole subject."""
        return self.n_parts > 1


def _subjects(
    io_it: Iterable[Sequence[str | Path]], options: TrackingOptions
) -> list[Subject]:
    """Bring together the files of each subject."""
    subjects = [
        Subject(Path(fodf), Path(stopping), Path(seeding), Path(tractogram))
        for fodf, stopping, seeding, tractogram in io_it
    ]
    if options.gm_files:
        subjects = [
            replace(subject, gm=gm, csf=csf)
            for subject, gm, csf in zip(
                subjects,
                match_files(options.gm_files, len(subjects), "gm_files"),
                match_files(options.csf_files, len(subjects), "csf_files"),
            )
        ]
    if options.is_here:
        return subjects
    # Who tracks them may be in another folder.
    return [
        replace(
            subject,
            fodf=subject.fodf.absolute(),
            stopping=subject.stopping.absolute(),
            seeding=subject.seeding.absolute(),
            tractogram=subject.tractogram.absolute(),
            gm=subject.gm and subject.gm.absolute(),
            csf=subject.csf and subject.csf.absolute(),
        )
        for subject in subjects
    ]


def _track_all(
    subjects: Sequence[Subject], options: TrackingOptions
) -> Iterator[tuple[Subject, Outcome | Exception]]:
    """Track subjects with an engine; yield (subject, Outcome or exception)."""
    work = partial(
        work_on,
        function=partial(track_subject, options),
        engine=options.engine,
        num_processes=options.num_processes,
        scheduler=options.scheduler,
    )
    if options.nbr_parts == 1:
        yield from work(subjects)
        return
    from dipy_rnn._atomic import atomic_write

    outcome: Outcome | Exception
    for subject in subjects:
        try:
            with atomic_write(subject.tractogram) as path:
                outcome, image, affine = _track_parts(subject, path, options, work)
            if options.save_picture:
                _save_picture(subject.tractogram, outcome.streamlines, image, affine)
        except Exception as error:
            outcome = error
        yield subject, outcome


def _track_parts(
    subject: Subject,
    path: Path,
    options: TrackingOptions,
    work: Callable[[Sequence[Subject]], Iterator[tuple[Subject, Outcome | Exception]]],
) -> tuple[Outcome, AnyArray, FloatArray]:
    """Track the parts of a subject beside each other, and join them in a file."""
    folder, n = path.parent / "parts", options.nbr_parts
    folder.mkdir()
    parts = [
        replace(subject, tractogram=folder / f"{i}.trx", part=i, n_parts=n)
        for i in range(n)
    ]
    outcomes = {}
    for part, outcome in work(parts):
        if isinstance(outcome, Exception):
            raise outcome
        outcomes[part] = outcome
    n_axes = 4 if options.has_one_image else 3
    image, affine = load_volume(subject.stopping, n_axes)
    lines = chain.from_iterable(read_tractogram(part.tractogram) for part in parts)
    _write(replace(subject, tractogram=path), lines, image, affine, options)
    whole = joined([outcomes[part] for part in parts])
    return replace(whole, tractogram=str(subject.tractogram)), image, affine


@dataclass
class _Count:
    """How far the tracking of a subject is."""

    seeds: int = 0
    streamlines: int = 0
    steps: int = 0
    ends: Counter[tuple[StopReason, StopReason]] = field(default_factory=Counter)


def track_subject(options: TrackingOptions, subject: Subject) -> Outcome:
    """Track one subject, or a part of its seeds, and save its tractogram.

    Parameters
    ----------
    options : TrackingOptions
    subject : Subject

    Returns
    -------
    outcome : dipy_rnn.workflows.cohort.Outcome

    Raises
    ------
    ValueError, OSError
        If a file cannot be used, or the tractogram not be written.
    """
    from dipy_rnn.model_file import load_model
    from dipy_rnn.spaces import voxel_sizes
    from dipy_rnn.tracking import length_limits, track

    start = time.monotonic()
    model = load_model(options.model_file, device=options.device)
    features, image, seeding, affine = load_subject(
        subject.fodf,
        subject.stopping,
        subject.seeding,
        model.metadata.kind,
        (options.sh_basis, options.sh_frame),
        n_stopping_axes=4 if options.has_one_image else 3,
    )
    tissues = None
    criterion: StoppingCriterion
    if options.constrained:
        tissues = load_tissues(subject.stopping, image, affine, subject.gm, subject.csf)
        if options.act:
            criterion = tissues.act_criterion()
        else:
            criterion = tissues.cmc_criterion(options.step_size, voxel_sizes(affine))
    else:
        criterion = make_criterion(image, options.use_binary_mask, options.stopping_thr)
    n_seeds, batches = options.seeding.place(seeding, affine, subject.seeding, tissues)
    if subject.is_part:
        begin, end = (
            n_seeds * part // subject.n_parts
            for part in (subject.part, subject.part + 1)
        )
        n_seeds, batches = end - begin, between(batches, begin, end)

    count = _Count()
    min_points, max_points = length_limits(
        options.minlen, options.maxlen, options.step_size
    )

    def every() -> Generator[Streamline, None, None]:
        for seeds in batches:
            done = count.seeds
            for record in track(
                seeds,
                criterion,
                affine,
                features=features,
                model=model,
                max_len=options.maxlen,
                step_size=options.step_size,
                max_angle=options.max_angle,
                nbr_threads=options.nbr_threads,
                random_seed=options.seeding.random_seed,
                seed_buffer_fraction=options.seed_buffer_fraction,
                batch_size=options.batch_size,
            ):
                count.seeds = done + record.seed_index + 1
                yield record
            count.seeds = done + len(seeds)

    def selected(records: Iterable[Streamline]) -> Generator[_Line, None, None]:
        for record in records:
            count.ends[record.forward_stop, record.backward_stop] += 1
            if not min_points <= len(record.points_mm) <= max_points:
                continue
            if (
                options.constrained
                and not options.keep_rejected
                and not record.has_valid_ends
            ):
                continue
            count.streamlines += 1
            count.steps += len(record.points_mm) - 1
            values: dict[str, ArrayLike] = {}
            if options.save_seeds:
                values["seeds"] = record.seed_mm
            if options.save_stops:
                values["forward_stop"] = [record.forward_stop]
                values["backward_stop"] = [record.backward_stop]
            yield record.points_mm.astype(np.float32), values
            if count.streamlines == options.seeding.select:
                return

    with closing(every()) as records:
        select = options.seeding.select
        if options.is_here and not select:
            records = show_progress(records, n_seeds, "seeds", lambda: count.seeds)
        lines = selected(records)
        if options.is_here and select:
            lines = show_progress(
                lines, select, "streamlines", lambda: count.streamlines
            )
        _write(subject, lines, image, affine, options)
    if options.save_picture and not subject.is_part:
        _save_picture(subject.tractogram, count.streamlines, image, affine)
    return Outcome(
        str(subject.fodf),
        str(subject.tractogram),
        "tracked",
        seeds=count.seeds,
        streamlines=count.streamlines,
        mean_length_mm=count.steps * options.step_size / max(count.streamlines, 1),
        seconds=time.monotonic() - start,
        ends=count.ends,
    )


def between(
    batches: Iterable[FloatArray], begin: int, end: int
) -> Iterator[FloatArray]:
    """Take seeds from a place on and up to another.

    Parameters
    ----------
    batches : iterable of ndarray of shape (N, 3)
    begin, end : int

    Yields
    ------
    batch : ndarray of shape (M, 3)
    """
    for batch in batches:
        yield batch[max(begin, 0) : max(end, 0)]
        begin, end = begin - len(batch), end - len(batch)
        if end <= 0:
            return


def _write(
    subject: Subject,
    lines: Iterable[_Line],
    image: AnyArray,
    affine: FloatArray,
    options: TrackingOptions,
) -> None:
    """Write the tractogram of a subject or a part, which is as it was tracked."""
    from dipy_rnn.io.tractogram import thinned, write_tractogram

    dtype: DTypeLike = np.float32
    if not subject.is_part:
        lines = thinned(lines, every=options.downsample, tolerance_mm=options.compress)
        dtype = options.dtype
    write_tractogram(
        subject.tractogram,
        lines,
        affine,
        image.shape[:3],
        data_types=options.data_types,
        dtype=dtype,
    )


def _save_picture(
    path: Path, n_streamlines: int, image: AnyArray, affine: FloatArray
) -> None:
    """Draw a tractogram that was written, over the stopping image."""
    from dipy_rnn.pictures import N_DRAWN, save_picture

    every = -(-max(n_streamlines, 1) // N_DRAWN)
    lines = [line for line, _ in islice(read_tractogram(path), 0, None, every)]
    if image.ndim == 4:
        image = image[..., 2]  # white matter, in both kinds of images of tissues
    title = f"every {every}th of {n_streamlines}" if every > 1 else ""
    save_picture(path.with_suffix(".png"), lines, image, affine, title=title)


def show_progress(
    items: Iterable[_Item], total: int, unit: str, done: Callable[[], int]
) -> Generator[_Item, None, None]:
    """Pass items on, and show how much is done.

    Parameters
    ----------
    items : iterable
    total : int
        Of what is counted.
    unit : str
        Its name.
    done : callable
        Tells how many are done.

    Yields
    ------
    item : object
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, unit=f" {unit}") as bar:
            for item in items:
                yield item
                bar.update(done() - bar.n)
            bar.update(done() - bar.n)
        return
    tenth = 0
    for item in items:
        yield item
        if 10 * done() // total > tenth:
            tenth = 10 * done() // total
            logger.info(f"{done()} of {total} {unit}")


def _report(outcome: Outcome, options: TrackingOptions) -> None:
    """Log what became of a subject."""
    from dipy_rnn.stopping import format_fates, format_tally

    if outcome.status == "failed":
        logger.error(f"{outcome.fodf}: {outcome.error}")
        return
    n_tracked = sum(outcome.ends.values())
    logger.info(
        f"{outcome.fodf}: {outcome.seeds} seeds, {outcome.seeds - n_tracked} without a "
        f"fibre direction, {outcome.streamlines} streamlines of {options.minlen} to "
        f"{options.maxlen} mm. "
        + ("What became of all:" if options.constrained else "Why their ends stopped:")
    )
    if options.constrained:
        table = format_fates(outcome.ends)
    else:
        stops: Counter[StopReason] = Counter()
        for ends, n in outcome.ends.items():
            for stop in ends:
                stops[stop] += n
        table = format_tally(stops)
    for row in table.splitlines():
        logger.info(row)
    if not outcome.streamlines:
        logger.warning(
            "No streamline was selected; look at stopping_thr and minlen, and at the "
            "stopping and seeding images."
        )
    logger.info(f"Saved {outcome.tractogram}")
    if options.save_picture:
        logger.info(f"Saved {Path(outcome.tractogram).with_suffix('.png')}")
