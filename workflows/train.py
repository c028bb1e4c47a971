"""The workflow behind ``dipy_train_rnn``.

Torch is imported when training starts, so that the help does not wait for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
import logging
from pathlib import Path
import shutil
from typing import TYPE_CHECKING

from dipy.workflows.workflow import Workflow
import numpy as np

from dipy_rnn._checks import check_least
from dipy_rnn.io import (
    SUFFIXES,
    check_same_grid,
    check_sh_format,
    first_line,
    load_features,
    load_volume,
    read_tractogram,
)
from dipy_rnn.workflows.inputs import Files, find_files

if TYPE_CHECKING:
    from dipy_rnn._typing import AnyArray
    from dipy_rnn.model import Network
    from dipy_rnn.training.recipe import Recipe
    from dipy_rnn.training.references import Reference

logger = logging.getLogger("dipy")  # whose messages DIPY shows and files

#: In place of tractograms: track them with DIPY's deterministic tracking.
DETERMINISTIC = "deterministic"

CHECKPOINT = "checkpoint.pt"

_LEFT = (CHECKPOINT, "log.csv", "curves.png", "events.out.tfevents.*")
_N_REFERENCES = 8  # parts of a batch
_N_LOOKED_AT = 500  # streamlines by which a tractogram is held against the fODF
# Share of points at which the fODF must be above its mean: 0.8 to 0.95 for tractograms
# of their own head, about 0.3 for others.
_LEAST_FITTING = 0.5


class RNNTrainingFlow(Workflow):  # type: ignore[misc]  # DIPY has no types
    """Train a recurrent network on the tractograms of one subject or many."""

    @classmethod
    def get_short_name(cls) -> str:
        return "train_rnn"

    def run(
        self,
        pam_files: Files,
        tractogram_files: Files,
        architecture: str = "moving_frame",
        hidden: int = 0,
        layers: int = 0,
        teacher: str = "auto",
        min_step: float = 0.2,
        max_step: float = 1.5,
        n_updates: int = 4000,
        max_minutes: float = 0.0,
        batch_size: int = 256,
        max_points: int = 48,
        learning_rate: float = 0.0,
        weight: str = "point",
        validation_subjects: int = 0,
        validation_fraction: float = 0.1,
        validate_every: int = 250,
        patience: int = 0,
        resume: bool = False,
        stopping_files: Files = "",
        stopping_thr: float = 0.2,
        n_streamlines: int = 5000,
        sh_basis: str | None = None,
        sh_frame: str = "voxel",
        nbr_threads: int = 0,
        device: str = "cpu",
        random_seed: int = 1,
        out_dir: str | Path = "",
        out_model: str = "model.pt",
    ) -> None:
        """Workflow for training a recurrent network for tracking.

        Takes the fibre orientation distributions (fODF) of one subject or many and a
        reference tractogram of each, and writes a model file for dipy_track_rnn. Beside
        it, in a folder of its name and _training, are the log, its curves and a
        checkpoint, from which --resume goes on.

        Parameters
        ----------
        pam_files : string or Path
            Path to the peaks and metrics files of dipy_fit_csd, or to NIfTI files with
            the spherical harmonics of a fODF (see sh_basis). This path may contain
            wildcards, in quotes, for many subjects; files are paired in sorted order.
        tractogram_files : string or Path
            Path to the tractograms to learn from (.trx, .trk, .tck), one for each
            subject. Or the word deterministic: they are then tracked with DIPY's
            deterministic tracking, from all over the fODF.
        architecture : string, optional
            moving_frame, or cai2023 for the network of the paper.
        hidden : int, optional
            Width of the network; 0 for the architecture's own (64; cai2023: 512).
        layers : int, optional
            Recurrent layers; 0 for the architecture's own (1; cai2023: 2).
        teacher : string, optional
            What the network should answer: streamline, the direction of the
            tractogram; peak_along, the peak of the fODF nearest to it; between, 0.15 of
            the way from the latter to the former; largest_ahead, the largest value of
            the fODF ahead, as deterministic tracking does. With auto it is peak_along
            for tractograms and largest_ahead for the deterministic ones.
        min_step : float, optional
            Smallest step size (mm) to train for.
        max_step : float, optional
            Largest step size (mm) to train for.
        n_updates : int, optional
            Number of updates of the weights.
        max_minutes : float, optional
            Time budget: training ends after so many minutes if that comes before
            n_updates. 0 for none.
        batch_size : int, optional
            Pieces of streamlines in a batch; rounded up to a multiple of 8.
        max_points : int, optional
            Points of the longest piece.
        learning_rate : float, optional
            Learning rate at the start, falling to zero; 0 for the architecture's own
            (0.002; cai2023: 0.0003).
        weight : string, optional
            What counts alike in the loss: each point, or each streamline.
        validation_subjects : int, optional
            Number of subjects, the last ones, that are held out for validation.
        validation_fraction : float, optional
            Without validation_subjects, share of each subject's streamlines that is
            held out.
        validate_every : int, optional
            Number of updates from one validation and checkpoint to the next.
        patience : int, optional
            Stop early after so many validations of which no more is followed than
            before. 0 for never.
        resume : bool, optional
            If True, go on from the checkpoint of a training with the same files and
            options that was interrupted.
        stopping_files : string or Path, optional
            For deterministic tractograms: path to images (e.g. FA) of each subject;
            streamlines start and stop where they are above stopping_thr. Without it
            the density of fibres in the fODF decides.
        stopping_thr : float, optional
            Threshold applied to the stopping image.
        n_streamlines : int, optional
            Number of seeds of deterministic tractograms.
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
            Where the network is trained: cpu or cuda.
        random_seed : int, optional
            Seed for weights, batches and validation; with the same seed the same
            model comes out on the same machine, unless max_minutes ends it.
        out_dir : string or Path, optional
            Output directory.
        out_model : string, optional
            Name of the model file to be saved.

        References
        ----------
        Cai, L. Y., H. H. Lee, N. R. Newlin, M. E. Kim, D. Moyer, F. Rheault, K. G.
        Schilling, and B. A. Landman. Implementation considerations for deep learning
        with diffusion MRI streamline tractography. MIDL, 2023.
        """
        check_sh_format(sh_basis, sh_frame)
        for name, value, least in (
            ("hidden", hidden, 0),
            ("layers", layers, 0),
            ("batch_size", batch_size, 1),
            ("learning_rate", learning_rate, 0),
            ("n_streamlines", n_streamlines, 1),
            ("validation_subjects", validation_subjects, 0),
        ):
            check_least(name, value, least)
        if not 0 <= validation_fraction < 1:
            raise ValueError(
                f"validation_fraction is {validation_fraction}; a share from 0 to "
                "below 1 is needed."
            )
        own_teacher = str(tractogram_files) == DETERMINISTIC
        subjects = _pair_subjects(
            pam_files, "" if own_teacher else tractogram_files, stopping_files
        )
        if validation_subjects >= len(subjects):
            raise ValueError(
                f"validation_subjects is {validation_subjects}, but there are "
                f"{len(subjects)} subjects, and one at least must be trained on."
            )
        model_path = Path(out_dir) / out_model
        folder = model_path.with_name(f"{model_path.stem}_training")
        self._check_outputs(model_path, folder, resume)

        from dipy_rnn.interpolate import count_threads
        from dipy_rnn.model import ARCHITECTURES, untrained
        from dipy_rnn.model_file import check_device
        from dipy_rnn.propagator import torch_threads
        from dipy_rnn.training.processes import (
            from_first,
            process_group,
            rank,
            share_of_threads,
            wait_for_all,
        )
        from dipy_rnn.training.recipe import Recipe
        from dipy_rnn.training.references import load
        from dipy_rnn.training.sequences import LEAST_STEPS

        if architecture not in ARCHITECTURES:
            raise ValueError(
                f"architecture is {architecture}; {' or '.join(ARCHITECTURES)} is "
                "allowed."
            )
        if teacher == "auto":
            teacher = "largest_ahead" if own_teacher else "peak_along"
        recipe = Recipe.of(
            architecture,
            n_updates=n_updates,
            max_minutes=max_minutes,
            step_mm=(min_step, max_step),
            n_references=_N_REFERENCES,
            n_sequences=int(np.ceil(batch_size / _N_REFERENCES)),
            max_points=max_points,
            teacher=teacher,
            weight=weight,
            validate_every=validate_every,
            patience=patience,
            random_seed=random_seed,
            **({"learning_rate": learning_rate} if learning_rate else {}),
        )
        shape = {"hidden": hidden, "layers": layers}
        shape = {name: value for name, value in shape.items() if value}
        every_core = nbr_threads == 0
        nbr_threads = count_threads(nbr_threads)
        if every_core:
            nbr_threads = share_of_threads(nbr_threads)
        stores = [folder / f"subject_{i:04d}" for i in range(len(subjects))]

        def prepare() -> int:
            """Write what training reads; return the SH order of all subjects."""
            folder.mkdir(parents=True, exist_ok=True)
            if not resume:
                for pattern in _LEFT:  # by another training
                    for path in folder.glob(pattern):
                        path.unlink()
            orders: list[int] = []
            for subject, store in zip(subjects, stores):
                order = _prepare_subject(
                    *subject,
                    store,
                    sh_format=(sh_basis, sh_frame),
                    least_mm=LEAST_STEPS * max_step,
                    stopping_thr=stopping_thr,
                    n_streamlines=n_streamlines,
                    random_seed=random_seed,
                )
                orders.append(order)
                if order != orders[0]:
                    raise ValueError(
                        f"{subject[0]} is of spherical harmonic order {order}, but "
                        f"{subjects[0][0]} of {orders[0]}; fit all subjects at one "
                        "order."
                    )
            return orders[0]

        with (
            process_group(check_device(device)) as own_device,
            torch_threads(nbr_threads - nbr_threads // 2),
        ):
            try:
                order = from_first(prepare)
                module = untrained(architecture, order, random_seed, **shape)
                _train(
                    module.to(own_device),
                    [load(store) for store in stores],
                    recipe,
                    held_out=(validation_subjects, validation_fraction),
                    resume=resume,
                    nbr_threads=nbr_threads,
                    model_path=model_path,
                    folder=folder,
                )
                wait_for_all()
            finally:
                # They are as large as the data, and made again to resume.
                if rank() == 0:
                    for store in stores:
                        shutil.rmtree(store, ignore_errors=True)
                    with suppress(OSError):  # nothing came of it
                        folder.rmdir()

    def _check_outputs(self, model_path: Path, folder: Path, resume: bool) -> None:
        """Refuse to write over a model or a training that is there."""
        if model_path.suffix != ".pt":
            raise ValueError(
                f"out_model is {model_path.name}; a name that ends in .pt is needed."
            )
        checkpoint = folder / CHECKPOINT
        if resume and not checkpoint.is_file():
            raise FileNotFoundError(f"There is no {checkpoint}; leave out --resume.")
        if resume or self._force_overwrite:
            return
        for path, what in (
            (model_path, "add --force to overwrite it"),
            (
                checkpoint,
                "add --resume to go on from it, or --force to start anew",
            ),
        ):
            if path.exists():
                raise FileExistsError(f"{path} exists already; {what}.")


def _train(
    module: Network,
    references: list[Reference],
    recipe: Recipe,
    *,
    held_out: tuple[int, float],
    resume: bool,
    nbr_threads: int,
    model_path: Path,
    folder: Path,
) -> None:
    """Train a network on references, and write the model and the log."""
    from dipy_rnn.model_file import save_model
    from dipy_rnn.training.fit import Interrupted, best_row, fit
    from dipy_rnn.training.log import TrainingLog
    from dipy_rnn.training.processes import rank
    from dipy_rnn.training.recipe import describe
    from dipy_rnn.training.validation import FreeRunning

    facts = describe(
        module,
        recipe,
        orders=(module.order,),
        data=f"{sum(map(len, references))} streamlines of {len(references)} subjects",
    )
    training, validation = _hold_out(references, *held_out, recipe.random_seed)
    validate = None
    if validation:
        validate = FreeRunning(validation, facts, recipe, nbr_threads=nbr_threads)
    log = TrainingLog(folder) if rank() == 0 else None

    def report(history: list[dict[str, float]]) -> None:
        assert log is not None  # the first process alone reports
        log(history)
        row = history[-1]
        figures = f"loss {row['loss']:.4f}, error {row['error_deg']:.2f} degrees"
        if validation:
            figures += (
                f"; held out: error {row['held_out_error_deg']:.2f} degrees, "
                f"{row['followed']:.3f} followed"
            )
        logger.info(f"update {row['update']}, {row['minutes']:.1f} min: {figures}")

    checkpoint = folder / CHECKPOINT
    try:
        history = fit(
            module,
            training,
            recipe,
            validate=validate,
            checkpoint=checkpoint,
            resume=resume,
            report=report,
            nbr_threads=max(1, nbr_threads // 2),
        )
    except Interrupted as where:
        raise KeyboardInterrupt(
            f"interrupted at {where}; {checkpoint} is saved, add --resume to go on"
        ) from None
    finally:
        if log:
            log.close()
    if log:
        facts.provenance["training"] = best_row(history)
        save_model(module, facts, model_path)
        logger.info(f"Saved {model_path}; log and curves are in {folder}")


def _pair_subjects(
    pam_files: Files, tractogram_files: Files, stopping_files: Files
) -> list[tuple[Path, Path | None, Path | None]]:
    """Return (fODF, tractogram or None, stopping image or None) of each subject."""
    pams = find_files(pam_files, "pam_files")
    tractograms, stoppings = (
        find_files(files, name) if files else []
        for name, files in (
            ("tractogram_files", tractogram_files),
            ("stopping_files", stopping_files),
        )
    )
    if tractogram_files and stopping_files:
        raise ValueError(
            "stopping_files are for deterministic tractograms; leave them out, or give "
            f"{DETERMINISTIC} in place of tractogram_files."
        )
    for name, paths in (
        ("tractogram_files", tractograms),
        ("stopping_files", stoppings),
    ):
        if paths and len(paths) != len(pams):
            raise ValueError(
                f"pam_files match {len(pams)} files and {name} {len(paths)}; give one "
                "of each for every subject."
            )
    for path in tractograms:
        if path.suffix.lower() not in SUFFIXES:
            raise ValueError(
                f"{path} is no tractogram: one that ends in {', '.join(SUFFIXES)} is "
                "needed."
            )
    nothing = [None] * len(pams)
    return list(zip(pams, tractograms or nothing, stoppings or nothing))


def _prepare_subject(
    pam_path: Path,
    tractogram_path: Path | None,
    stopping_path: Path | None,
    store_path: Path,
    *,
    sh_format: tuple[str | None, str],
    least_mm: float,
    stopping_thr: float,
    n_streamlines: int,
    random_seed: int,
) -> int:
    """Write what training needs of a subject into a folder; return its SH order."""
    from dipy_rnn.interpolate import sh_order
    from dipy_rnn.training.references import clean, store
    from dipy_rnn.training.teachers import deterministic_streamlines

    features, affine = load_features(pam_path, "sh", *sh_format)
    if affine is None:
        raise ValueError(
            f"{pam_path} has no affine, so nothing says where its voxels are in mm; "
            "make it again with dipy_fit_csd."
        )
    shape = features.data.shape[:3]
    streamlines: Iterable[AnyArray]
    if tractogram_path is not None:
        # Bad ones are counted and left out.
        lines = read_tractogram(tractogram_path, check_points=False)
        streamlines = (line for line, _ in lines)
    else:
        above = None
        if stopping_path is not None:
            image, image_affine = load_volume(stopping_path)
            check_same_grid(
                pam_path, shape, affine, stopping_path, image.shape, image_affine
            )
            above = (image, stopping_thr)
        try:
            streamlines = deterministic_streamlines(
                features.data,
                affine,
                n_streamlines,
                above=above,
                random_seed=random_seed,
            )
        except ValueError as error:
            raise ValueError(f"{stopping_path or pam_path}: {error}") from None
    name = tractogram_path or f"the deterministic tractogram of {pam_path}"
    counts: Counter[str] = Counter()
    kept = clean(streamlines, affine, shape, least_mm, counts)
    first = next(kept, None)
    if first is None:
        raise ValueError(
            f"{name}: no streamline is left to learn from ({_tally(counts) or 'empty'}"
            f"; more than {least_mm:.3g} mm, two steps, are needed). Is it in the "
            f"space of {pam_path}?"
        )
    try:
        reference = store(store_path, features.data, affine, chain([first], kept))
    except OSError as error:
        raise OSError(
            f"{store_path} cannot be written ({error.strerror or first_line(error)})."
        ) from None
    logger.info(f"{name}: {_tally(counts)}")
    _check_fit(reference, name, pam_path)
    return sh_order(features.data.shape[3])


def _tally(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in counts.items())


def _check_fit(reference: Reference, name: str | Path, pam_path: Path) -> None:
    """Refuse streamlines that do not go where the fODF points."""
    from dipy_rnn.interpolate import sh_order
    from dipy_rnn.training.sequences import Blur, draw

    seen = draw(
        reference,
        _N_LOOKED_AT,
        frame="local",
        step_mm=float(min(1.0, reference.lengths_mm.max() / 2.01)),
        max_points=10,
        rng=np.random.default_rng(0),
        blur=Blur(position_mm=0.0, direction_deg=(0.0, 0.0)),
    ).features
    ls = np.arange(0, sh_order(seen.shape[1]) + 1, 2)
    # A function is sum_l c_l0 sqrt((2 l + 1) / 4 pi) along the third axis of the
    # frame; its mean over the sphere is the term of l = 0.
    values = seen[:, ls * (ls + 1) // 2] * np.sqrt(2 * ls + 1)
    share = np.mean(values.sum(axis=1) > values[:, 0])
    if share < _LEAST_FITTING:
        raise ValueError(
            f"{name} does not fit {pam_path}: only at {100 * share:.0f} % of its "
            "points does it go where the fODF is above its mean. Are both of one "
            "subject and in one space, and the gradients of the fODF not flipped?"
        )


def _hold_out(
    references: list[Reference], n_subjects: int, fraction: float, random_seed: int
) -> tuple[list[Reference], list[Reference]]:
    """Return references to train on, and others to validate on."""
    if n_subjects:
        return references[:-n_subjects], references[-n_subjects:]
    training: list[Reference] = []
    validation: list[Reference] = []
    rng = np.random.default_rng(random_seed)
    for reference in references:
        order = rng.permutation(len(reference))
        n = min(int(np.ceil(fraction * len(reference))), len(reference) - 1)
        training.append(reference.select(np.sort(order[n:])))
        if n:
            validation.append(reference.select(np.sort(order[:n])))
    return training, validation
