"""The workflow behind ``dipy_check_gradients_rnn``.

Torch is imported when tracking starts, so that the help does not wait for it.
"""

from dataclasses import asdict
import logging
from pathlib import Path

from dipy.workflows.workflow import Workflow
import numpy as np

from dipy_rnn._atomic import save_table
from dipy_rnn.io.images import (
    Files,
    check_least,
    check_sh_format,
    load_subject,
    make_criterion,
    pair_files,
)
from dipy_rnn.seeding import Seeding
from dipy_rnn.workflows.outputs import WholeOutputs

logger = logging.getLogger("dipy")  # whose messages DIPY shows and files


class RNNGradientCheckFlow(
    WholeOutputs,
    Workflow,  # type: ignore[misc]  # DIPY has no types
):
    """Tell whether the axes of the gradients are flipped or swapped."""

    @classmethod
    def get_short_name(cls) -> str:
        return "check_gradients_rnn"

    def run(
        self,
        pam_files: Files,
        stopping_files: Files,
        seeding_files: Files,
        use_binary_mask: bool = False,
        stopping_thr: float = 0.2,
        seed_count: int = 1000,
        step_size: float = 0.5,
        max_angle: float = 30.0,
        model_file: str = "default",
        sh_basis: str | None = None,
        sh_frame: str = "voxel",
        nbr_threads: int = 0,
        random_seed: int = 1,
        out_dir: str | Path = "",
        out_table: str = "gradients.csv",
    ) -> None:
        """Workflow for telling whether axes of the gradients are flipped or swapped.

        Tracks the same seeds with each of the 24 orders and signs of the axes: with
        the right ones streamlines are longest. Takes what dipy_track_rnn takes, and
        needs no new fit. Prints a table and what it found in one line; the exit status
        says nothing of the gradients, the table to be saved does.

        Parameters
        ----------
        pam_files : string or Path
            Path to the peaks and metrics files of dipy_fit_csd, or to NIfTI files with
            the spherical harmonics of a fODF (see sh_basis). This path may contain
            wildcards to check many subjects; files are paired in sorted order.
        stopping_files : string or Path
            Path to images (e.g. FA) used for the stopping criterion.
        seeding_files : string or Path
            A binary image showing where to seed: the white matter. Or a list of seeds
            there: a file (.txt, .csv, .tsv, .npy) with x, y and z in mm in each row.
        use_binary_mask : bool, optional
            If True, uses a binary stopping criterion. If the provided
            `stopping_files` are not binary, `stopping_thr` will be used to
            binarize the images.
        stopping_thr : float, optional
            Threshold applied to the stopping image: tracking ends where it is not
            above.
        seed_count : int, optional
            Number of seeds at random places in the seeding mask, 30 or more; of a list
            all are taken.
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
        nbr_threads : int, optional
            Number of threads to use for the processing. By default, all available
            threads will be used. The table does not depend on it.
        random_seed : int, optional
            Seed for the places of the seeds, must be >= 0; with 0 they vary.
        out_dir : string or Path, optional
            Output directory.
        out_table : string, optional
            Name of the table to be saved (.csv): a row for each case, the longest
            first. is_candidate is True for what may be right: a script that finds it
            in the row of "x y z" alone knows that the gradients are right.

        References
        ----------
        Jeurissen, B., A. Leemans, and J. Sijbers. Automated correction of improperly
        rotated diffusion gradient orientations in diffusion weighted MRI. Medical
        Image Analysis, 2014.
        """
        from dipy_rnn.gradient_check import LEAST_SEEDS, check_gradients
        from dipy_rnn.model_file import load_model

        check_sh_format(sh_basis, sh_frame)
        check_least("seed_count", seed_count, LEAST_SEEDS)
        in_mask = Seeding(seed_count=seed_count, random_seed=random_seed)
        # DIPY reads these variables of this very function.
        pam_files, stopping_files, seeding_files = pair_files(
            pam_files=pam_files,
            stopping_files=stopping_files,
            seeding_files=seeding_files,
        )
        io_it = self.get_io_iterator()

        model = load_model(model_file)
        model.check_step(step_size)
        for pam_path, stopping_path, seeding_path, table_path in io_it:
            features, stopping, mask, affine = load_subject(
                Path(pam_path),
                Path(stopping_path),
                Path(seeding_path),
                model.metadata.kind,
                (sh_basis, sh_frame),
            )
            seeding = Seeding() if mask.ndim == 2 else in_mask  # a list of seeds
            _, batches = seeding.place(mask, affine, seeding_path)
            seeds = np.concatenate(list(batches))
            if len(seeds) < LEAST_SEEDS:
                raise ValueError(
                    f"{seeding_path} holds {len(seeds)} seeds; {LEAST_SEEDS} or more "
                    "are needed."
                )
            logger.info(f"Checking the gradients of {pam_path} with {len(seeds)} seeds")
            check = check_gradients(
                features,
                make_criterion(stopping, use_binary_mask, stopping_thr),
                seeds,
                affine,
                model=model,
                step_size=step_size,
                max_angle=max_angle,
                nbr_threads=nbr_threads,
            )
            for line in (*check.table().splitlines(), check.verdict):
                logger.info(line)
            rows = [asdict(row) for row in check.rows]
            save_table(Path(table_path), rows[0], rows)
            logger.info(f"Saved {table_path}")
