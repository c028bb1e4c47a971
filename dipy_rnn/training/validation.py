"""Validation by tracking freely: next-step errors stop telling early."""

from typing import NamedTuple

from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
from dipy.tracking.streamline import set_number_of_points
import numpy as np
from scipy.ndimage import binary_dilation
import torch

from dipy_rnn import evaluation, spaces
from dipy_rnn._typing import BoolArray, FloatArray
from dipy_rnn.model import Network
from dipy_rnn.model_file import Model, ModelMetadata, as_model
from dipy_rnn.sh import FeatureVolume
from dipy_rnn.stopping import StoppingCriterion
from dipy_rnn.tracking import track
from dipy_rnn.training.loop import predict
from dipy_rnn.training.recipe import TEACHERS, Recipe
from dipy_rnn.training.subjects import Reference
from dipy_rnn.training.sequences import draw, pack

_N_SEQUENCES = 100
_N_REFERENCES = 16  # at most
_N_VISITING = 20_000
_SPACING_MM = 0.5  # tractograms may be compressed to a few points


class _World(NamedTuple):
    """Held-out streamlines of a reference, and where and whither to start on each."""

    reference: Reference
    criterion: StoppingCriterion
    lines_mm: list[FloatArray]
    seeds_mm: FloatArray  # (N, 3)
    directions: FloatArray  # (N, 3), along the voxel axes


class FreeRunning:
    """Follow held-out streamlines with a network, freely.

    From the middle of each streamline, in its direction there, the network tracks
    through the voxels that the streamlines of the reference visit, and their
    neighbours. The streamline is *followed* if all of it lies within a distance of
    what was tracked. That this runs on beyond the ends of the streamline is not
    counted: ends are the matter of the stopping criterion.

    Parameters
    ----------
    references : list of dipy_rnn.training.subjects.Reference
        Not ones that it is trained on.
    metadata : dipy_rnn.model_file.ModelMetadata
        Of the network.
    recipe : dipy_rnn.training.recipe.Recipe
        For the error of the next step.
    n_streamlines : int, optional
        At most so many are followed in all.
    step_mm : float, optional
        Step of tracking; put into the range that the network is trained for.
    max_angle_deg : float, optional
        Largest turn of one step.
    limit_mm : float, optional
        Distance within which a streamline is followed.
    nbr_threads : int, optional
        0 for every core.
    random_seed : int, optional
        Chooses the streamlines.

    Examples
    --------
    >>> from dipy_rnn.model import RecurrentPropagator
    >>> from dipy_rnn.model_file import ModelMetadata
    >>> from dipy_rnn.phantom import crossing_phantom
    >>> from dipy_rnn.sh import fodf_features
    >>> from dipy_rnn.training.recipe import Recipe
    >>> from dipy_rnn.training.subjects import Reference
    >>> phantom = crossing_phantom(90)
    >>> reference = Reference.of(fodf_features(phantom.fodf(4)).data, phantom.affine,
    ...                          phantom.streamlines(5)[0])
    >>> validate = FreeRunning([reference], ModelMetadata("sh", 15, "local", 1, 8,
    ...                        normalisation="power"), Recipe())
    >>> validate(RecurrentPropagator(4, 8))["followed"]
    1.0
    """

    def __init__(
        self,
        references: list[Reference],
        metadata: ModelMetadata,
        recipe: Recipe,
        *,
        n_streamlines: int = 200,
        step_mm: float = 1.0,
        max_angle_deg: float = 60.0,
        limit_mm: float = 2.0,
        nbr_threads: int = 1,
        random_seed: int = 0,
    ) -> None:
        self._metadata = metadata
        self._step_mm = float(np.clip(step_mm, *recipe.step_mm))
        self._max_angle_deg = max_angle_deg
        self._limit_mm = limit_mm
        self._nbr_threads = nbr_threads
        rng = np.random.default_rng(random_seed)
        if len(references) > _N_REFERENCES:
            chosen = rng.choice(len(references), _N_REFERENCES, replace=False)
            references = [references[i] for i in chosen]
        n_each = [
            len(part) for part in np.array_split(range(n_streamlines), len(references))
        ]
        self._worlds = [self._world(r, n, rng) for r, n in zip(references, n_each) if n]
        self._batch = pack(
            [
                draw(
                    reference,
                    int(np.ceil(_N_SEQUENCES / len(references))),
                    frame=metadata.frame,
                    step_mm=self._step_mm,
                    max_points=recipe.max_points,
                    rng=rng,
                    blur=recipe.blur,
                    teacher=TEACHERS[recipe.teacher],
                )
                for reference in references
            ]
        )

    def __call__(self, module: Network) -> dict[str, float]:
        """Return the error of the next step, and the share that is followed.

        Parameters
        ----------
        module : nn.Module
            The network; left in evaluation mode.

        Returns
        -------
        figures : dict
            ``held_out_error_deg``: mean angle to the answer of the teacher;
            ``followed`` and ``followed_se``: share of held-out streamlines that are
            followed, and its standard error.
        """
        module.eval()
        batch = self._batch.to(next(module.parameters()).device)
        with torch.no_grad():
            cosine = (predict(module, batch) * batch.target).sum(dim=1).clamp(-1, 1)
        model = as_model(module, self._metadata)
        followed = np.concatenate(
            [self._follow(model, world) for world in self._worlds]
        )
        return {
            "held_out_error_deg": float(torch.rad2deg(torch.arccos(cosine)).mean()),
            "followed": float(followed.mean()),
            "followed_se": float(followed.std() / np.sqrt(len(followed))),
        }

    def _world(self, reference: Reference, n: int, rng: np.random.Generator) -> _World:
        """Choose streamlines of a reference."""
        chosen = rng.permutation(len(reference))[:n]
        lines = [_dense(reference, i) for i in chosen]
        middle = [min(len(line) // 2, len(line) - 2) for line in lines]
        ahead = [line[i + 1] - line[i] for line, i in zip(lines, middle)]
        seeds_mm = np.array([line[i] for line, i in zip(lines, middle)])
        directions = np.array(ahead) @ spaces.axes(reference.affine)
        some = rng.permutation(len(reference))[:_N_VISITING]
        visited = evaluation.visits(
            (_dense(reference, i) for i in some),
            reference.affine,
            reference.data.shape[:3],
        )
        criterion = BinaryStoppingCriterion(binary_dilation(visited > 0))
        return _World(reference, criterion, lines, seeds_mm, directions)

    def _follow(self, model: Model, world: _World) -> BoolArray:
        reference = world.reference
        # The forward half must not use up what the backward one needs.
        longest_mm = 3 * reference.lengths_mm.max()
        tracked = [np.empty((0, 3))] * len(world.seeds_mm)
        for line in track(
            world.seeds_mm,
            stopping_criterion=world.criterion,
            affine=reference.affine,
            features=FeatureVolume(reference.data, self._metadata.kind),
            seed_directions=world.directions,
            model=model,
            max_len=longest_mm,
            step_size=self._step_mm,
            max_angle=self._max_angle_deg,
            nbr_threads=self._nbr_threads,
        ):
            tracked[line.seed_index] = line.points_mm
        return evaluation.followed(world.lines_mm, tracked, self._limit_mm)


def _dense(reference: Reference, index: int) -> FloatArray:
    """Return a streamline by points that are near to each other."""
    line = np.asarray(reference.streamline(index), dtype=np.float64)
    n_points = 1 + int(np.ceil(reference.lengths_mm[index] / _SPACING_MM))
    dense: FloatArray = set_number_of_points(line, max(n_points, 3))
    return dense
