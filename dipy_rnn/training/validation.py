"""Validation by tracking from held-out streamlines.

The error of the next step alone is not sufficient: tracked streamlines continue to
improve long after it has stopped falling.
"""

from typing import NamedTuple

from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
from dipy.tracking.streamline import set_number_of_points
import numpy as np
from scipy.ndimage import binary_dilation
import torch

from dipy_rnn import evaluation, spatial
from dipy_rnn._typing import BoolArray, FloatArray
from dipy_rnn.model import Model, ModelMetadata, Network, as_model
from dipy_rnn.sampling import FeatureVolume
from dipy_rnn.stopping import StoppingCriterion
from dipy_rnn.tracking import track
from dipy_rnn.training.recipe import TARGET_RULES, Recipe
from dipy_rnn.training.sequences import draw_sequences, pack
from dipy_rnn.training.state import predict
from dipy_rnn.training.subjects import TrainingSubject

_N_SEQUENCES = 100  # for the error of the next step
_MOST_SUBJECTS = 16
_MOST_VISITING = 20_000  # maximum number of streamlines that define where to track
_SPACING_MM = 0.5  # points are added because compressed tractograms have few


class _Task(NamedTuple):
    """Held-out streamlines of a subject, and where to start on each."""

    subject: TrainingSubject
    criterion: StoppingCriterion
    lines_mm: list[FloatArray]
    seeds_mm: FloatArray  # (N, 3)
    directions: FloatArray  # (N, 3), along the voxel axes


class FreeRunning:
    """Track from held-out streamlines with a network, and count those it follows.

    The network starts in the middle of each held-out streamline, in the direction of
    the streamline there. It tracks in the voxels that the subject's streamlines visit,
    and in neighbouring voxels. A held-out streamline is *followed* if all of its points
    are within `limit_mm` of the tracked streamline. The tracked streamline may continue
    beyond its ends, because the stopping criterion and not the network determines where
    a streamline ends.

    Parameters
    ----------
    subjects : list of dipy_rnn.training.subjects.TrainingSubject
        Held out from the training; at most 16 of them are used.
    metadata : dipy_rnn.model.ModelMetadata
        Metadata of the network.
    recipe : dipy_rnn.training.recipe.Recipe
        Input noise and target rule for the error of the next step.
    n_streamlines : int, optional
        Largest number of streamlines, over all subjects.
    step_vox : float, optional
        Step size of tracking in edges of a voxel, clipped to the range of the recipe.
    max_angle_deg : float, optional
        ``max_angle`` of tracking, clipped to the range of the recipe.
    limit_mm : float, optional
        Distance in mm within which a streamline counts as followed.
    nbr_threads : int, optional
        Number of threads; 0 for all cores.
    random_seed : int, optional
        Seed that selects subjects and streamlines.

    Examples
    --------
    >>> from dipy_rnn.model import MovingFrameGRU
    >>> from dipy_rnn.model import ModelMetadata
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.sampling import fodf_features
    >>> from dipy_rnn.training.recipe import Recipe
    >>> from dipy_rnn.training.subjects import TrainingSubject
    >>> phantom = crossing_phantom(90)
    >>> subject = TrainingSubject.of(fodf_features(phantom.fodf(4)).data,
    ...                              phantom.affine, phantom.streamlines(5)[0])
    >>> metadata = ModelMetadata("sh", 15, "local", 1, 8, normalisation="power",
    ...                          inputs=MovingFrameGRU.inputs)
    >>> validate = FreeRunning([subject], metadata, Recipe())
    >>> validate(MovingFrameGRU(4, 8))["followed"]
    1.0
    """

    def __init__(
        self,
        subjects: list[TrainingSubject],
        metadata: ModelMetadata,
        recipe: Recipe,
        *,
        n_streamlines: int = 200,
        step_vox: float = 0.5,
        max_angle_deg: float = 60.0,
        limit_mm: float = 2.0,
        nbr_threads: int = 1,
        random_seed: int = 0,
    ) -> None:
        self._metadata = metadata
        self._step_vox = float(np.clip(step_vox, *recipe.step_vox))
        self._max_angle_deg = float(np.clip(max_angle_deg, *recipe.max_angle_deg))
        self._limit_mm = limit_mm
        self._nbr_threads = nbr_threads
        rng = np.random.default_rng(random_seed)
        if len(subjects) > _MOST_SUBJECTS:
            chosen = rng.choice(len(subjects), _MOST_SUBJECTS, replace=False)
            subjects = [subjects[i] for i in chosen]
        n_each = [
            len(part) for part in np.array_split(range(n_streamlines), len(subjects))
        ]
        self._tasks = [_make_task(s, n, rng) for s, n in zip(subjects, n_each) if n]
        self._batch = pack(
            [
                draw_sequences(
                    subject,
                    int(np.ceil(_N_SEQUENCES / len(subjects))),
                    frame=metadata.frame,
                    inputs=metadata.inputs or (),
                    context=metadata.context,
                    step_vox=self._step_vox,
                    max_angle_deg=self._max_angle_deg,
                    max_points=recipe.max_points,
                    rng=rng,
                    noise=recipe.blur,
                    target_rule=TARGET_RULES[recipe.teacher],
                )
                for subject in subjects
            ]
        )

    def __call__(self, module: Network) -> dict[str, float]:
        """Return the error of the next step and the share of followed streamlines.

        Parameters
        ----------
        module : nn.Module
            The network; put into evaluation mode.

        Returns
        -------
        metrics : dict
            ``held_out_error_deg``: mean angle to the targets in degrees; ``followed``:
            share of held-out streamlines that are followed; ``followed_se``: its
            standard error.
        """
        module.eval()
        batch = self._batch.to(next(module.parameters()).device)
        with torch.no_grad():
            cosine = (predict(module, batch) * batch.target).sum(dim=1).clamp(-1, 1)
        model = as_model(module, self._metadata)
        followed = np.concatenate([self._follow(model, task) for task in self._tasks])
        return {
            "held_out_error_deg": float(torch.rad2deg(torch.arccos(cosine)).mean()),
            "followed": float(followed.mean()),
            "followed_se": float(followed.std() / np.sqrt(len(followed))),
        }

    def _follow(self, model: Model, task: _Task) -> BoolArray:
        """Return for each streamline of a task whether it is followed."""
        subject = task.subject
        # Long enough that the forward half leaves some of it for the backward half.
        longest_mm = 3 * subject.lengths_mm.max()
        tracked = [np.empty((0, 3))] * len(task.seeds_mm)
        for line in track(
            task.seeds_mm,
            stopping_criterion=task.criterion,
            affine=subject.affine,
            features=FeatureVolume(subject.data, self._metadata.kind),
            seed_directions=task.directions,
            model=model,
            max_len=longest_mm,
            step_size=self._step_vox * spatial.voxel_edge(subject.affine),
            max_angle=self._max_angle_deg,
            nbr_threads=self._nbr_threads,
        ):
            tracked[line.seed_index] = line.points_mm
        return evaluation.followed(task.lines_mm, tracked, self._limit_mm)


def _make_task(subject: TrainingSubject, n: int, rng: np.random.Generator) -> _Task:
    """Select n streamlines of a subject, and the voxels to track in."""
    chosen = rng.permutation(len(subject))[:n]
    lines = [_resample(subject, i) for i in chosen]
    middle = [min(len(line) // 2, len(line) - 2) for line in lines]
    ahead = [line[i + 1] - line[i] for line, i in zip(lines, middle)]
    seeds_mm = np.array([line[i] for line, i in zip(lines, middle)])
    directions = np.array(ahead) @ spatial.axes(subject.affine)
    some = rng.permutation(len(subject))[:_MOST_VISITING]
    visited = evaluation.visits(
        (_resample(subject, i) for i in some),
        subject.affine,
        subject.data.shape[:3],
    )
    criterion = BinaryStoppingCriterion(binary_dilation(visited > 0))
    return _Task(subject, criterion, lines, seeds_mm, directions)


def _resample(subject: TrainingSubject, index: int) -> FloatArray:
    """Return a streamline with points at most 0.5 mm apart."""
    line = np.asarray(subject.streamline(index), dtype=np.float64)
    n_points = 1 + int(np.ceil(subject.lengths_mm[index] / _SPACING_MM))
    resampled: FloatArray = set_number_of_points(line, max(n_points, 3))
    return resampled
