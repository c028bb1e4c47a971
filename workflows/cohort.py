"""Tracking the subjects of ``dipy_track_rnn``, and the table of the results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
import time
from typing import TYPE_CHECKING, TypeAlias

from dipy_rnn import io
from dipy_rnn._atomic import atomic_write
from dipy_rnn.pipeline import (
    Regions,
    TrackingCounts,
    run_jobs,
    select_blocks,
    slice_batches,
)

if TYPE_CHECKING:
    from dipy_rnn._typing import FloatArray
    from dipy_rnn.connectivity import DensityMap
    from dipy_rnn.stopping import StoppingCriterion
    from dipy_rnn.workflows.track_options import TrackingOptions

    Grid: TypeAlias = tuple[tuple[int, int, int], FloatArray]

#: Columns of the table.
COLUMNS = (
    *("fodf", "stopping", "seeding", "gm", "csf", "regions", "tractogram", "status"),
    *("seeds", "streamlines", "mean_length_mm", "seconds", "error"),
)
_PATHS = ("fodf", "stopping", "seeding", "gm", "csf", "tractogram")


@dataclass(frozen=True)
class Subject:
    """The files of a subject, or of one part of its seeds.

    Parameters
    ----------
    fodf, stopping, seeding : Path
        Input files: the fODF, the stopping image, and the seeding mask or list of
        seeds.
    tractogram : Path
        Output file.
    gm, csf : Path, optional
        Tissue maps.
    regions : tuple of Path, optional
        Masks of regions, in the order of :func:`dipy_rnn.io.region_files`.
    part, n_parts : int, optional
        Index of the part, and number of parts.
    """

    fodf: Path
    stopping: Path
    seeding: Path
    tractogram: Path
    gm: Path | None = None
    csf: Path | None = None
    regions: tuple[Path, ...] = ()
    part: int = 0
    n_parts: int = 1

    @property
    def density(self) -> Path:
        """The density map of the tractogram."""
        return self.tractogram.with_name(f"{self.tractogram.stem}_density.nii.gz")

    def absolute(self) -> Subject:
        """Return the subject with absolute paths, for workers in other folders."""
        paths = {name: getattr(self, name) for name in _PATHS}
        paths = {k: p.absolute() for k, p in paths.items() if p}
        regions = tuple(path.absolute() for path in self.regions)
        return replace(self, **paths, regions=regions)


@dataclass(frozen=True)
class Outcome:
    """The result for one subject.

    Parameters
    ----------
    subject : Subject
    status : str
        ``"tracked"``, ``"skipped"`` (the tractogram existed) or ``"failed"``.
    counts : dipy_rnn.pipeline.TrackingCounts, optional
        Given if the subject was tracked.
    seconds : float, optional
        Time of tracking; the sum over all parts.
    grid : tuple of (tuple of 3 int, ndarray of shape (4, 4)), optional
        Shape and affine (voxel to mm) of the fODF, if the subject was tracked.
    error : Exception, optional
        Why it failed.
    """

    subject: Subject
    status: str
    counts: TrackingCounts | None = None
    seconds: float = 0.0
    grid: Grid | None = None
    error: Exception | None = None

    def row(self) -> dict[str, str | int]:
        """Return the row of the table, by ``COLUMNS``."""
        row: dict[str, str | int] = {
            **{name: str(getattr(self.subject, name) or "") for name in _PATHS},
            "regions": ", ".join(map(str, self.subject.regions)),
            "status": self.status,
            "seconds": f"{self.seconds:.1f}",
            "error": io.one_line(self.error) if self.error else "",
        }
        counts = TrackingCounts(0.0) if self.status == "failed" else self.counts
        if counts is not None:  # the streamlines of a skipped subject are not counted
            row["seeds"], row["streamlines"] = counts.seeds, counts.streamlines
            row["mean_length_mm"] = f"{counts.mean_length_mm:.2f}"
        return row


def find_subjects(
    paths: Iterable[Sequence[str | Path]],
    maps: Sequence[Sequence[Path]],
    options: TrackingOptions,
) -> list[Subject]:
    """Collect the files of each subject.

    Parameters
    ----------
    paths : iterable of sequence of str or Path
        fODF, stopping image, seeding file and tractogram of each subject, from DIPY's
        iterator (get_io_iterator).
    maps : sequence of sequence of Path
        For all subjects, the tissue maps, and then the masks of regions.
    options : TrackingOptions
    """
    subjects = [
        Subject(Path(fodf), Path(stopping), Path(seeding), Path(tractogram))
        for fodf, stopping, seeding, tractogram in paths
    ]
    n = len(options.tissue_files)
    for i, files in enumerate(zip(*maps)):
        tissues = dict(zip(("gm", "csf"), files[:n]))
        subjects[i] = replace(subjects[i], regions=files[n:], **tissues)
    if options.is_local:
        return subjects
    return [subject.absolute() for subject in subjects]


def track_subjects(
    subjects: Sequence[Subject], options: TrackingOptions
) -> Iterator[Outcome]:
    """Track subjects with the engine or the scheduler, and save their tractograms.

    Yields
    ------
    outcome : Outcome
        In the order in which subjects are finished.
    """
    if options.nbr_parts == 1:
        for subject, outcome in _run(subjects, options):
            if isinstance(outcome, Exception):
                outcome = Outcome(subject, "failed", error=outcome)
            yield outcome
        return
    for subject in subjects:
        try:
            outcome = _track_in_parts(subject, options)
        except Exception as error:
            outcome = Outcome(subject, "failed", error=error)
        yield outcome


def _run(
    subjects: Sequence[Subject], options: TrackingOptions
) -> Iterator[tuple[Subject, Outcome | Exception]]:
    return run_jobs(
        subjects,
        partial(track_subject, options),
        engine=options.engine,
        num_processes=options.num_processes,
        scheduler=options.scheduler,
    )


def _track_in_parts(subject: Subject, options: TrackingOptions) -> Outcome:
    """Track the parts of a subject at the same time, and join them in one file."""
    n, counts, seconds = options.nbr_parts, TrackingCounts(0.0), 0.0
    grid: Grid
    with atomic_write(subject.tractogram) as path:
        folder = path.parent / "parts"
        folder.mkdir()
        parts = [
            replace(subject, tractogram=folder / f"{i}.trx", part=i, n_parts=n)
            for i in range(n)
        ]
        for _, outcome in _run(parts, options.for_parts()):
            if isinstance(outcome, Exception):
                raise outcome
            assert outcome.counts is not None and outcome.grid is not None
            counts, grid = outcome.counts + counts, outcome.grid
            seconds += outcome.seconds
        lines = chain.from_iterable(
            io.read_tractogram(part.tractogram) for part in parts
        )
        batches = io.join_streamlines(lines, options.data_types)
        density = _write(path, batches, grid, options)
    _save_density(density, subject, grid[1])
    if options.save_picture:
        _save_picture(subject, counts, options)
    return Outcome(subject, "tracked", counts, seconds, grid)


def track_subject(options: TrackingOptions, subject: Subject) -> Outcome:
    """Track one subject, or one part of its seeds, and save the tractogram.

    Raises
    ------
    ValueError, OSError
        If a file cannot be read, or the tractogram cannot be written.
    """
    from dipy_rnn.draws import count_equal
    from dipy_rnn.model import load_model
    from dipy_rnn.spatial import voxel_sizes
    from dipy_rnn.stopping import make_criterion

    start = time.monotonic()
    model = load_model(options.model_file, device=options.device)
    inputs = io.load_subject(
        subject.fodf,
        subject.stopping,
        subject.seeding,
        model.metadata.kind,
        (options.sh_basis, options.sh_frame),
        n_stopping_axes=options.n_stopping_axes,
    )
    affine, image, own_affine = inputs.affine, inputs.stopping, inputs.stopping_affine
    step_size, tissues = options.step_mm(affine), None
    criterion: StoppingCriterion
    if options.is_constrained:
        tissues = io.load_tissues(
            subject.stopping, image, own_affine, subject.gm, subject.csf
        )
        if options.act:
            criterion = tissues.act_criterion()
        else:
            criterion = tissues.cmc_criterion(step_size, voxel_sizes(own_affine))
    else:
        criterion = make_criterion(image, options.use_binary_mask, options.stopping_thr)
    n_seeds, batches = options.seeding.place(
        inputs.seeding, inputs.seeding_affine, subject.seeding, tissues, own_affine
    )
    grid = inputs.shape, affine
    regions = io.load_regions(options.regions, subject.regions, *grid)
    begin = n_seeds * subject.part // subject.n_parts
    end = n_seeds * (subject.part + 1) // subject.n_parts
    # Seeds of a list may be equal. All of them are in the same batch.
    numbers = None
    if inputs.seeding.ndim == 2:
        numbers = count_equal(inputs.seeding)[begin:end]

    counts = TrackingCounts(step_size)
    blocks = select_blocks(
        slice_batches(batches, begin, end),
        inputs.on_fodf_grid(criterion),
        affine,
        counts,
        min_len=options.minlen,
        max_len=options.maxlen,
        step_size=step_size,
        only_valid_ends=options.is_constrained and not options.keep_rejected,
        regions=Regions(**regions, stop_at_include=options.stop_at_include),
        select=options.seeding.select,
        progress_of=end - begin if options.is_local else 0,
        features=inputs.features,
        model=model,
        max_angle=options.max_angle,
        pmf_threshold=options.pmf_threshold,
        max_cross=options.max_cross,
        unidirectional=options.unidirectional,
        tracking_method=options.tracking_method,
        temperature=options.temperature,
        ended_thr=options.ended_thr,
        lost_thr=options.lost_thr,
        seed_numbers=numbers,
        nbr_threads=options.nbr_threads,
        random_seed=options.seeding.seed_of_run,
        seed_buffer_fraction=options.seed_buffer_fraction,
        batch_size=options.batch_size,
    )
    with closing(blocks):
        batched = options.with_values(blocks, inputs.features, affine)
        density = _write(subject.tractogram, batched, grid, options)
    _save_density(density, subject, affine)
    if options.save_picture:
        _save_picture(subject, counts, options)
    return Outcome(subject, "tracked", counts, time.monotonic() - start, grid)


def _save_picture(
    subject: Subject, counts: TrackingCounts, options: TrackingOptions
) -> None:
    from dipy_rnn.report import save_picture_of

    image, affine = io.load_volume(subject.stopping, options.n_stopping_axes)
    save_picture_of(subject.tractogram, counts.streamlines, image, affine)


def _write(
    path: Path, batches: Iterable[io.Batch], grid: Grid, options: TrackingOptions
) -> DensityMap | None:
    """Write a tractogram. Return its density map if the options ask for one."""
    (shape, affine), density, types = grid, None, options.data_types
    if options.save_density:
        from dipy_rnn.connectivity import DensityMap

        density = DensityMap(affine, shape)
        batches = density.count(batches)
    if options.downsample > 1 or options.compress:
        lines = io.downsample(
            io.split_batches(batches),
            every=options.downsample,
            tolerance_mm=options.compress,
        )
        batches = io.join_streamlines(lines, types)
    io.write_batches(
        path, batches, affine, shape, data_types=types, dtype=options.dtype
    )
    return density


def _save_density(
    density: DensityMap | None, subject: Subject, affine: FloatArray
) -> None:
    if density is not None:
        io.save_volume(subject.density, density.counts, affine)
