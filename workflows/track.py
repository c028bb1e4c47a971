"""The workflow behind ``dipy_track_rnn``.

Torch is imported when tracking starts, so that the help does not wait for it.
"""

from collections import Counter
from pathlib import Path
import sys

from dipy.utils.logging import logger
from dipy.workflows.workflow import Workflow
import numpy as np

from dipy_rnn.workflows.inputs import (
    SUFFIXES,
    check_sh_format,
    load_subject,
    make_criterion,
    place_seeds,
)
from dipy_rnn.workflows.outputs import (
    WholeOutputs,
    check_installed,
    save_streamlines,
)


class RNNTrackingFlow(WholeOutputs, Workflow):
    """Track the streamlines of one subject or many with a recurrent network."""

    @classmethod
    def get_short_name(cls):
        return "track_rnn"

    def run(
        self,
        pam_files,
        stopping_files,
        seeding_files,
        use_binary_mask=False,
        stopping_thr=0.2,
        seed_density=1,
        seed_count=0,
        minlen=2,
        maxlen=500,
        step_size=0.5,
        max_angle=30.0,
        model_file="default",
        sh_basis=None,
        sh_frame="voxel",
        save_seeds=False,
        save_picture=False,
        nbr_threads=0,
        device="cpu",
        batch_size=0,
        random_seed=1,
        seed_buffer_fraction=1.0,
        out_dir="",
        out_tractogram="out_tractogram.trx",
    ):
        """Workflow for tracking with a recurrent network.

        Takes what dipy_track takes: a fibre orientation distribution (fODF), an image
        that says where to stop and one that says where to start. The network that
        comes with dipy_rnn needs neither training nor registration.

        Parameters
        ----------
        pam_files : string or Path
            Path to the peaks and metrics files of dipy_fit_csd, or to NIfTI files with
            the spherical harmonics of a fODF (see sh_basis). This path may contain
            wildcards to track many subjects; files are paired in sorted order.
        stopping_files : string or Path
            Path to images (e.g. FA) used for the stopping criterion.
        seeding_files : string or Path
            A binary image showing where to seed.
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
            instead of seed_density.
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
        save_picture : bool, optional
            If True, save a picture of the tractogram over the stopping image beside
            it, as .png.
        nbr_threads : int, optional
            Number of threads to use for the processing. By default, all available
            threads will be used. The streamlines do not depend on it.
        device : string, optional
            Where the network runs: cpu or cuda.
        batch_size : int, optional
            How many streamlines advance together, 0 for what suits the device. They
            do not depend on it.
        random_seed : int, optional
            Seed for the places of seed_count, must be >= 0; with 0 they vary.
            Nothing else is random.
        seed_buffer_fraction : float, optional
            Share of the seeds to prepare at a time. With less than 1.0 less memory is
            used and tracking starts sooner.
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
        if Path(out_tractogram).suffix not in SUFFIXES:
            raise ValueError(
                f"out_tractogram is {out_tractogram}; a name that ends in "
                f"{', '.join(SUFFIXES)} is needed."
            )
        check_sh_format(sh_basis, sh_frame)
        if save_seeds and Path(out_tractogram).suffix == ".tck":
            raise ValueError(
                f"out_tractogram is {out_tractogram}: a .tck file cannot hold seeds; "
                "name a .trx or .trk file, or leave out --save_seeds."
            )
        for name, value, least in (
            ("seed_density", seed_density, 1),
            ("seed_count", seed_count, 0),
            ("random_seed", random_seed, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}; {least} or more is needed.")
        try:
            io_it = self.get_io_iterator()
        except ImportError:  # DIPY's word for lists of unequal length
            raise ValueError(
                "pam_files, stopping_files and seeding_files match different numbers "
                "of files; give one of each for every subject."
            ) from None
        if save_picture:
            check_installed(("matplotlib",), "save_picture")
            self.refuse_existing(Path(out).with_suffix(".png") for *_, out in io_it)

        from dipy_rnn.model_file import load_model

        model = load_model(model_file, device=device)
        model.check_step(step_size)
        for pam_path, stopping_path, seeding_path, out_path in io_it:
            logger.info(f"Tracking on {pam_path} with the model {model_file}")
            self._track_subject(
                Path(pam_path),
                Path(stopping_path),
                Path(seeding_path),
                Path(out_path),
                criterion=(use_binary_mask, stopping_thr),
                seeding=(seed_density, seed_count, random_seed),
                sh_format=(sh_basis, sh_frame),
                lengths_mm=(minlen, maxlen),
                save_seeds=save_seeds,
                save_picture=save_picture,
                model=model,
                step_size=step_size,
                max_angle=max_angle,
                nbr_threads=nbr_threads,
                random_seed=random_seed,
                seed_buffer_fraction=seed_buffer_fraction,
                batch_size=batch_size,
            )

    def _track_subject(
        self,
        pam_path,
        stopping_path,
        seeding_path,
        out_path,
        *,
        criterion,
        seeding,
        sh_format,
        lengths_mm,
        save_seeds,
        save_picture,
        **tracking,
    ):
        from dipy_rnn.stopping import format_tally
        from dipy_rnn.tracking import length_limits, track

        features, stopping, mask, affine = load_subject(
            pam_path,
            stopping_path,
            seeding_path,
            tracking["model"].metadata.kind,
            sh_format,
        )
        seeds = place_seeds(mask, affine, seeding_path, *seeding)
        min_points, max_points = length_limits(*lengths_mm, tracking["step_size"])

        stops, streamlines, kept_seeds = Counter(), [], []
        records = track(
            seeds,
            make_criterion(stopping, *criterion),
            affine,
            features=features,
            max_len=lengths_mm[1],
            **tracking,
        )
        for line in show_progress(records, len(seeds)):
            stops.update((line.forward_stop, line.backward_stop))
            if min_points <= len(line.points_mm) <= max_points:
                streamlines.append(line.points_mm.astype(np.float32))
                kept_seeds.append(line.seed_mm)

        n_tracked = sum(stops.values()) // 2
        logger.info(
            f"{len(seeds)} seeds, {len(seeds) - n_tracked} without a fibre direction, "
            f"{len(streamlines)} streamlines of {lengths_mm[0]} to {lengths_mm[1]} mm. "
            "Why their ends stopped:"
        )
        for row in format_tally(stops).splitlines():
            logger.info(row)
        save_streamlines(
            out_path, streamlines, seeding_path, kept_seeds if save_seeds else None
        )
        logger.info(f"Saved {out_path}")
        if save_picture:
            from dipy_rnn.pictures import save_picture as save

            picture_path = out_path.with_suffix(".png")
            save(picture_path, streamlines, stopping, affine)
            logger.info(f"Saved {picture_path}")


def show_progress(records, n_seeds):
    """Pass streamlines on, and show how many seeds are done.

    Parameters
    ----------
    records : iterable of dipy_rnn.tracking.Streamline
        In the order of the seeds.
    n_seeds : int

    Yields
    ------
    record : dipy_rnn.tracking.Streamline
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=n_seeds, unit=" seeds") as bar:
            for record in records:
                yield record
                bar.update(record.seed_index + 1 - bar.n)
            bar.update(n_seeds - bar.n)
        return
    tenth = 0
    for record in records:
        yield record
        if 10 * (record.seed_index + 1) // n_seeds > tenth:
            tenth = 10 * (record.seed_index + 1) // n_seeds
            logger.info(f"{record.seed_index + 1} of {n_seeds} seeds")
