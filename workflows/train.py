"""The workflow of ``dipy_train_rnn``.

Torch is imported when training starts, so that the help does not wait for it.
"""

from __future__ import annotations

from functools import partial
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from dipy.workflows.workflow import Workflow
import numpy as np

from dipy_rnn._checks import check_least
from dipy_rnn.io import (
    SUFFIXES,
    Files,
    check_sh_format,
    is_tractogram,
    load_features,
    load_on_grid,
    pair_files,
    read_tractogram,
)

if TYPE_CHECKING:
    from dipy_rnn.training import SubjectData

logger = logging.getLogger("dipy")  # DIPY's commands show and save its messages

#: In place of tractograms: make them with DIPY's deterministic tracking.
DETERMINISTIC = "deterministic"

CHECKPOINT = "checkpoint.pt"

_N_PARTS = 8  # of a batch, each from one subject


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
        min_step: float = 0.05,
        max_step: float = 1.0,
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
        tractogram of each, and writes a model file for dipy_track_rnn. The log, its
        curves and a checkpoint are saved in a folder beside the model file: that of
        model.pt is model_training. --resume continues from the checkpoint.

        Parameters
        ----------
        pam_files : string or Path
            Path to peaks and metrics files (of dipy_fit_csd), or to NIfTI files with
            the spherical harmonics of an fODF or with peaks (see sh_basis). This path
            may contain wildcards (in quotes) to process many subjects. The files of a
            subject are those whose wildcards match the same words (such as sub-01).
        tractogram_files : string or Path
            Path to the tractograms to learn from (.trx, .trk, .tck, .vtk, .vtp, .fib,
            .dpy), one for each subject. Or the word deterministic: the tractograms are
            then made with DIPY's deterministic tracking, with seeds in the whole fODF.
        architecture : string, optional
            Architecture of the network: moving_frame, context (which also sees the fODF
            around its point), or cai2023 (Cai et al. 2023).
        hidden : int, optional
            Width of the network. 0 for the default of the architecture (moving_frame:
            64; context: 48; cai2023: 512).
        layers : int, optional
            Number of recurrent layers. 0 for the default of the architecture
            (moving_frame: 1; cai2023: 2). The architecture context has no such option.
        teacher : string, optional
            Target rule: which direction the network learns to predict. streamline: the
            direction of the streamline. peak_along: the peak of the fODF that the
            streamline follows. between: the direction halfway between these two.
            largest_ahead: the largest value of the fODF ahead, as in deterministic
            tracking. auto: largest_ahead for deterministic tractograms, otherwise
            peak_along.
        min_step : float, optional
            Smallest step size to train for, in edges of a voxel (0.5 is half a voxel).
        max_step : float, optional
            Largest step size to train for, in edges of a voxel.
        n_updates : int, optional
            Number of updates of the weights.
        max_minutes : float, optional
            Time limit in minutes; 0 for no limit. Training ends after this time, or
            earlier when it reaches n_updates.
        batch_size : int, optional
            Number of streamline pieces in a batch, rounded up to a multiple of 8.
        max_points : int, optional
            Number of points of the longest piece.
        learning_rate : float, optional
            Learning rate at the start. It falls to zero. 0 for the default of the
            architecture (moving_frame: 0.002; context: 0.003; cai2023: 0.0003).
        weight : string, optional
            What has the same weight in the loss: each point, or each streamline.
        validation_subjects : int, optional
            Number of subjects that are held out for validation, the last ones.
        validation_fraction : float, optional
            Share of the streamlines of each subject that is held out for validation.
            Not used with validation_subjects.
        validate_every : int, optional
            Number of updates between validations. Each one saves a checkpoint.
        patience : int, optional
            Stop early if this number of validations in sequence did not increase the
            share of followed streamlines; 0 to never stop early.
        resume : bool, optional
            If True, continue an interrupted training from its checkpoint. Files and
            options must be the same.
        stopping_files : string or Path, optional
            For deterministic tractograms: path to an image (e.g. FA) of each subject.
            Streamlines start and stay where it is above stopping_thr. An image on
            another grid is sampled at the voxel centres of the fODF. By default, the
            image is the fibre density of the fODF.
        stopping_thr : float, optional
            Threshold applied to the stopping image: tracking stops where the image is
            not above it.
        n_streamlines : int, optional
            Number of seeds of a deterministic tractogram.
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
        random_seed : int, optional
            Seed for weights, batches and validation. The same seed gives the same model
            on the same machine, unless max_minutes ends the training.
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
        check_least("batch_size", batch_size, 1)
        check_least("n_streamlines", n_streamlines, 1)
        is_deterministic = str(tractogram_files) == DETERMINISTIC
        files = _pair_subjects(
            pam_files, "" if is_deterministic else tractogram_files, stopping_files
        )
        model_path = Path(out_dir) / out_model
        folder = model_path.with_name(f"{model_path.stem}_training")
        checkpoint = folder / CHECKPOINT
        self._check_outputs(model_path, checkpoint, resume)

        from dipy_rnn._threads import count_threads
        from dipy_rnn.model import check_device, save_model
        from dipy_rnn.training import Interrupted, Recipe, train_network
        from dipy_rnn.training.processes import share_of_threads

        if teacher == "auto":
            teacher = "largest_ahead" if is_deterministic else "peak_along"
        recipe = Recipe.of(
            architecture,
            n_updates=n_updates,
            max_minutes=max_minutes,
            step_vox=(min_step, max_step),
            n_references=_N_PARTS,
            n_sequences=int(np.ceil(batch_size / _N_PARTS)),
            max_points=max_points,
            teacher=teacher,
            weight=weight,
            validate_every=validate_every,
            patience=patience,
            random_seed=random_seed,
            **({"learning_rate": learning_rate} if learning_rate else {}),
        )
        n_threads = count_threads(nbr_threads)
        if nbr_threads == 0:
            n_threads = share_of_threads(n_threads)
        load = partial(
            _load_subject,
            sh_format=(sh_basis, sh_frame),
            stopping_thr=stopping_thr,
            n_streamlines=n_streamlines,
            random_seed=random_seed,
        )
        try:
            trained = train_network(
                [partial(load, *paths) for paths in files],
                recipe,
                checkpoint,
                architecture=architecture,
                hidden=hidden,
                layers=layers,
                validation_subjects=validation_subjects,
                validation_fraction=validation_fraction,
                resume=resume,
                device=check_device(device),
                nbr_threads=n_threads,
                notify=logger.info,
            )
        except Interrupted as where:
            raise KeyboardInterrupt(
                f"interrupted at {where}; {checkpoint} is saved, add --resume to "
                "continue"
            ) from None
        if trained:  # None in all processes but the first
            save_model(*trained, model_path)
            logger.info(f"Saved {model_path}; log and curves are in {folder}")

    def _check_outputs(self, model_path: Path, checkpoint: Path, resume: bool) -> None:
        """Raise an error if files would be overwritten without --force or --resume."""
        if model_path.suffix != ".pt":
            raise ValueError(
                f"out_model is {model_path.name}; a name that ends in .pt is needed."
            )
        if resume and not checkpoint.is_file():
            raise FileNotFoundError(f"There is no {checkpoint}; leave out --resume.")
        if resume or self._force_overwrite:
            return
        for path, advice in (
            (model_path, "add --force to overwrite it"),
            (checkpoint, "add --resume to continue from it, or --force to start anew"),
        ):
            if path.exists():
                raise FileExistsError(f"{path} exists already; {advice}.")


def _pair_subjects(
    pam_files: Files, tractogram_files: Files, stopping_files: Files
) -> list[tuple[Path, Path | None, Path | None]]:
    """Return (fODF, tractogram or None, stopping image or None) of each subject."""
    if tractogram_files and stopping_files:
        raise ValueError(
            "stopping_files are for deterministic tractograms; leave them out, or give "
            f"{DETERMINISTIC} in place of tractogram_files."
        )
    inputs = {
        "pam_files": pam_files,
        "tractogram_files": tractogram_files,
        "stopping_files": stopping_files,
    }
    paths = pair_files(**{name: files for name, files in inputs.items() if files})
    pams, columns = paths[0], dict(zip(filter(inputs.get, inputs), paths))
    for name, column in columns.items():
        if len(set(column)) < len(pams):
            raise ValueError(
                f"{name} is {column[0]} for all {len(pams)} subjects; give one file "
                "for each subject."
            )
    nothing: list[None] = [None] * len(pams)
    tractograms = columns.get("tractogram_files", nothing)
    for path in tractograms:
        if path and not is_tractogram(path):
            raise ValueError(
                f"{path} is not a tractogram; a name that ends in "
                f"{', '.join(SUFFIXES)} is needed."
            )
    return list(zip(pams, tractograms, columns.get("stopping_files", nothing)))


def _load_subject(
    pam_path: Path,
    tractogram_path: Path | None,
    stopping_path: Path | None,
    *,
    sh_format: tuple[str | None, str],
    stopping_thr: float,
    n_streamlines: int,
    random_seed: int,
) -> SubjectData:
    """Load the fODF of a subject, and load its tractogram or start to make one."""
    from dipy_rnn.training import SubjectData, deterministic_streamlines

    features, affine = load_features(pam_path, "sh", *sh_format)
    if affine is None:
        raise ValueError(
            f"{pam_path} has no affine, so the positions of its voxels in mm are "
            "unknown; make it again with dipy_fit_csd."
        )
    if tractogram_path is not None:
        # Points are not checked here, because training cleans and counts streamlines.
        lines = read_tractogram(tractogram_path, check_points=False)
        streamlines = (line for line, _ in lines)
        name = str(tractogram_path)
        return SubjectData(str(pam_path), name, features.data, affine, streamlines)
    above = None
    if stopping_path is not None:
        shape = features.data.shape[:3]
        image = load_on_grid(stopping_path, pam_path, shape, affine)
        above = (image, stopping_thr)
    try:
        tracked = deterministic_streamlines(
            features.data, affine, n_streamlines, above=above, random_seed=random_seed
        )
    except ValueError as error:
        raise ValueError(f"{stopping_path or pam_path}: {error}") from None
    name = f"the deterministic tractogram of {pam_path}"
    return SubjectData(str(pam_path), name, features.data, affine, tracked)
