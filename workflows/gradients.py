"""The workflow of ``dipy_check_gradients_rnn``."""

from dataclasses import asdict
import logging
from pathlib import Path

from dipy.workflows.workflow import Workflow
import numpy as np

from dipy_rnn import io
from dipy_rnn._atomic import save_table
from dipy_rnn._checks import check_least
from dipy_rnn.pipeline import Seeding
from dipy_rnn.workflows.outputs import CheckedOutputs, as_patterns

logger = logging.getLogger("dipy")  # DIPY's commands show and save its messages


class RNNGradientCheckFlow(
    CheckedOutputs,
    Workflow,  # type: ignore[misc]  # DIPY has no types
):
    """Check whether axes of the gradients are flipped or swapped."""

    @classmethod
    def get_short_name(cls) -> str:
        return "check_gradients_rnn"

    def run(
        self,
        pam_files: io.Files,
        stopping_files: io.Files,
        seeding_files: io.Files,
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
        """Workflow for checking whether gradient axes are flipped or swapped.

        Tracks the same seeds with each possible order and sign of the axes (24 cases):
        with the correct one, streamlines are longest. Takes the inputs of
        dipy_track_rnn; the fODF is not fitted again. Prints a table and the result in
        one line, and saves the table. The exit status does not depend on the result.

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
            Path to binary images of the white matter, where to seed, or to lists of
            seeds: files (.txt, .csv, .tsv, .npy) with x, y and z in mm in each row.
        use_binary_mask : bool, optional
            If True, uses a binary stopping criterion. If the provided
            `stopping_files` are not binary, `stopping_thr` will be used to
            binarize the images.
        stopping_thr : float, optional
            Threshold applied to the stopping image: tracking stops where the image is
            not above it.
        seed_count : int, optional
            Number of seeds placed at random in the seeding mask, 30 or more. All seeds
            of a list are used.
        step_size : float, optional
            Step size (in mm) used for tracking.
        max_angle : float, optional
            Maximum angle (degrees) between consecutive segments of a streamline: the
            cone in which the next direction is sought.
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
        nbr_threads : int, optional
            Number of threads to use for the processing. By default, all available
            threads will be used. The table does not depend on it.
        random_seed : int, optional
            Seed of the random numbers for the positions of seeds, must be >= 0. With 0,
            the positions differ from run to run.
        out_dir : string or Path, optional
            Output directory.
        out_table : string, optional
            Name of the table to be saved (.csv). It has a row for each case, the
            longest streamlines first. is_candidate is True if the case may be correct.
            If it is True only in the row "x y z", the gradients are correct.

        References
        ----------
        Jeurissen, B., A. Leemans, and J. Sijbers. Automated correction of improperly
        rotated diffusion gradient orientations in diffusion weighted MRI. Medical
        Image Analysis, 2014.
        """
        from dipy_rnn.gradient_check import MIN_SEEDS, check_gradients
        from dipy_rnn.model import load_model
        from dipy_rnn.stopping import make_criterion

        io.check_sh_format(sh_basis, sh_frame)
        check_least("seed_count", seed_count, MIN_SEEDS)
        in_mask = Seeding(seed_count=seed_count, random_seed=random_seed)
        inputs = io.pair_files(
            pam_files=pam_files,
            stopping_files=stopping_files,
            seeding_files=seeding_files,
        )
        # DIPY looks up these variables, by name, in this function.
        pam_files, stopping_files, seeding_files = map(as_patterns, inputs)
        io_it = self.get_io_iterator()

        model = load_model(model_file)
        model.check_step(step_size)
        for pam_path, stopping_path, seeding_path, table_path in io_it:
            images = io.load_subject(
                Path(pam_path),
                Path(stopping_path),
                Path(seeding_path),
                model.metadata.kind,
                (sh_basis, sh_frame),
            )
            mask = images.seeding
            seeding = Seeding() if mask.ndim == 2 else in_mask  # a list of seeds
            _, batches = seeding.place(mask, images.seeding_affine, seeding_path)
            seeds = np.concatenate(list(batches))
            if len(seeds) < MIN_SEEDS:
                raise ValueError(
                    f"{seeding_path} contains {len(seeds)} seeds; {MIN_SEEDS} or more "
                    "are needed."
                )
            logger.info(f"Checking the gradients of {pam_path} with {len(seeds)} seeds")
            criterion = make_criterion(images.stopping, use_binary_mask, stopping_thr)
            check = check_gradients(
                images.features,
                images.on_fodf_grid(criterion),
                seeds,
                images.affine,
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
