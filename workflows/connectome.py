"""The workflow of ``dipy_connectome_rnn``."""

import logging
from pathlib import Path

from dipy.workflows.workflow import Workflow
import numpy as np

from dipy_rnn import io
from dipy_rnn._atomic import save_table
from dipy_rnn._checks import check_least
from dipy_rnn.workflows.outputs import CheckedOutputs, as_patterns

logger = logging.getLogger("dipy")  # DIPY's commands show and save its messages


class RNNConnectomeFlow(
    CheckedOutputs,
    Workflow,  # type: ignore[misc]  # DIPY has no types
):
    """Count the streamlines between regions."""

    @classmethod
    def get_short_name(cls) -> str:
        return "connectome_rnn"

    def run(
        self,
        tractogram_files: io.Files,
        label_files: io.Files,
        n_resamples: int = 1000,
        random_seed: int = 1,
        out_dir: str | Path = "",
        out_matrix: str = "connectome.csv",
        out_pairs: str = "connections.csv",
    ) -> None:
        """Workflow for a connectome: the streamlines between pairs of regions.

        A streamline connects the two regions in which it begins and ends. Writes the
        matrix of the numbers of streamlines, and a table with the number, the mean
        length and their 95 % intervals for each pair. Intervals come from resampling
        seeds. They tell how much the result depends on the choice of the seeds. They do
        not tell whether a connection exists.

        Parameters
        ----------
        tractogram_files : string or Path
            Path to tractograms. This path may contain wildcards (in quotes) to process
            many subjects. The files of a subject are those whose wildcards match the
            same words (such as sub-01). If a file has the seeds of its streamlines
            (dipy_track_rnn --save_seeds), streamlines of equal seeds are resampled
            together. Otherwise each streamline counts as one seed.
        label_files : string or Path
            Path to images of labels in the same space, with whole numbers above 0 for
            regions.
        n_resamples : int, optional
            Number of resamples for the intervals.
        random_seed : int, optional
            Seed of the random numbers of the resamples.
        out_dir : string or Path, optional
            Output directory.
        out_matrix : string, optional
            Name of the matrix to be saved (.csv). Its first row and its first column
            are the labels.
        out_pairs : string, optional
            Name of the table to be saved (.csv), with a row for each pair of regions
            that a streamline connects.
        """
        check_least("n_resamples", n_resamples, 1)
        inputs = io.pair_files(
            tractogram_files=tractogram_files, label_files=label_files
        )
        # DIPY looks up these variables, by name, in this function.
        tractogram_files, label_files = map(as_patterns, inputs)
        io_it = self.get_io_iterator()

        from dipy_rnn.connectivity import Connectome, connectome
        from dipy_rnn.evaluation import round_labels

        for tractogram_path, label_path, matrix_path, pairs_path in io_it:
            names = [io.shown(Path(path)) for path in (tractogram_path, label_path)]
            image, affine = io.load_volume(Path(label_path))
            labels = round_labels(image, names[1])
            pairs = list(io.read_tractogram(Path(tractogram_path)))
            lines = [line for line, _ in pairs]
            io.check_placement(
                lines, affine, np.ones(labels.shape), name=names[0], image_name=names[1]
            )
            seeds = None
            if all("seeds" in values for _, values in pairs):
                seeds = [values["seeds"] for _, values in pairs]
            found = connectome(
                lines,
                affine,
                labels,
                seeds=seeds,
                n_resamples=n_resamples,
                random_seed=random_seed,
            )
            logger.info(
                f"{tractogram_path}: {len(lines)} streamlines of {found.n_seeds} "
                f"seeds, {found.counts.sum()} of them connect {len(found.pairs)} pairs "
                f"of {len(found.regions)} regions"
            )
            regions = [str(region) for region in found.regions]
            matrix = [
                {"region": region, **dict(zip(regions, row.tolist()))}
                for region, row in zip(regions, found.matrix)
            ]
            save_table(Path(matrix_path), ["region", *regions], matrix)
            save_table(Path(pairs_path), Connectome.columns, found.rows())
            for path in (matrix_path, pairs_path):
                logger.info(f"Saved {path}")
