"""How a network is trained, in words and numbers."""

from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any, Self

import numpy as np

from dipy_rnn.model import Network, architecture_of
from dipy_rnn.model_file import ModelMetadata
from dipy_rnn.spaces import check_numbers
from dipy_rnn.training import target_rules as teachers
from dipy_rnn.training.sequences import Blur, Teacher

#: Rules for what the network should answer, by name.
TEACHERS: dict[str, Teacher | None] = {
    "streamline": None,
    "peak_along": teachers.peak_along,
    "between": teachers.between,
    "largest_ahead": teachers.largest_ahead,
}
#: What counts alike in the loss.
WEIGHTS = ("point", "streamline")

_LARGEST_SEED = (1 << 31) - 2  # DIPY's trackers take 32 bits, and one more than it


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Parameters
    ----------
    n_updates : int, optional
        Optimiser steps.
    max_minutes : float, optional
        A training ends, its schedule run through, after this time if it comes before
        ``n_updates``; 0 for no limit. What is trained then depends on the machine.
    step_mm : tuple of float, optional
        Each update draws its step from this range, log-uniformly.
    n_references, n_sequences : int, optional
        References in a batch, and sequences from each.
    max_points : int, optional
        Longest sequence.
    learning_rate : float, optional
        Of Adam, at the start; it falls to zero as half a cosine.
    width_deg : tuple of float, optional
        Of :func:`dipy_rnn.training.losses.cosine_loss`, at the start and at the end;
        None for the plain loss. For a network that answers well already, as an
        untrained ``RecurrentPropagator`` does: large errors teach it nothing.
    teacher : str, optional
        One of ``TEACHERS``.
    weight : str, optional
        One of ``WEIGHTS``: each point counts alike, or each streamline.
    blur : Blur, optional
        How far batches stray from the reference streamlines.
    validate_every : int, optional
        Updates from one validation, and one checkpoint, to the next.
    patience : int, optional
        Stop after this many validations of which no more is followed than before; 0
        never.
    replay_points : int, optional
        How many points of a forward half the model will be shown before the backward
        one; 0 for all. It changes nothing in the training.
    random_seed : int, optional
        The same seed gives the same weights on the same machine and threads.

    Raises
    ------
    ValueError
        If an entry is not as said.

    Examples
    --------
    >>> Recipe(n_updates=100).learning_rate
    0.002
    """

    n_updates: int = 4000
    max_minutes: float = 0.0
    step_mm: tuple[float, float] = (0.2, 1.5)
    n_references: int = 8
    n_sequences: int = 32
    max_points: int = 48
    learning_rate: float = 2e-3
    width_deg: tuple[float, float] | None = (40.0, 12.0)
    teacher: str = "streamline"
    weight: str = "point"
    blur: Blur = field(default_factory=Blur)
    validate_every: int = 250
    patience: int = 0
    replay_points: int = 0
    random_seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("n_updates", 1),
            ("n_references", 1),
            ("n_sequences", 1),
            ("max_points", 2),
            ("validate_every", 1),
            ("patience", 0),
            ("replay_points", 0),
            ("random_seed", 0),
            ("max_minutes", 0),
        ):
            if not getattr(self, name) >= least:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; {least} or more is needed."
                )
        if self.random_seed > _LARGEST_SEED:
            raise ValueError(
                f"random_seed is {self.random_seed}; {_LARGEST_SEED} or less is needed."
            )
        steps = check_numbers(self.step_mm, "step_mm")
        if steps.shape != (2,) or not 0 < steps[0] <= steps[1] < np.inf:
            raise ValueError(
                f"step_mm is {' to '.join(f'{step:g}' for step in steps.ravel())}; two "
                "lengths above 0 mm are needed, the smaller one first."
            )
        if self.width_deg is not None:
            widths = check_numbers(self.width_deg, "width_deg")
            if widths.shape != (2,) or not ((0 < widths) & (widths < np.inf)).all():
                raise ValueError(
                    f"width_deg is {self.width_deg}; two angles above 0 degrees are "
                    "needed, or None for the plain loss."
                )
        if not 0 < self.learning_rate < np.inf:
            raise ValueError(
                f"learning_rate is {self.learning_rate}; a number above 0 is needed."
            )
        for name, allowed in (("teacher", tuple(TEACHERS)), ("weight", WEIGHTS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; {', '.join(allowed)} are "
                    "allowed."
                )

    @classmethod
    def of(cls, architecture: str, **changes: Any) -> Self:
        """Return the recipe that suits an architecture, with changes.

        Parameters
        ----------
        architecture : str
            One of :data:`dipy_rnn.model.ARCHITECTURES`.
        **changes
            Entries that are to be others.

        Returns
        -------
        recipe : Recipe

        Examples
        --------
        >>> Recipe.of("cai2023", n_updates=10).width_deg is None
        True
        """
        return cls(**(_SUITABLE[architecture] | changes))


# What differs from the defaults of a Recipe. The network of the paper begins far from
# any answer, where a loss that ceases to count large errors teaches nothing.
_SUITABLE: dict[str, dict[str, Any]] = {
    "moving_frame": {},
    "cai2023": {"learning_rate": 3e-4, "width_deg": None},
}


def describe(
    module: Network, recipe: Recipe, *, orders: tuple[int, ...], data: str
) -> ModelMetadata:
    """Return the metadata of a network that a recipe trains.

    Parameters
    ----------
    module : nn.Module
        One of :data:`dipy_rnn.model.ARCHITECTURES`.
    recipe : Recipe
    orders : tuple of int
        Spherical harmonic orders of the data.
    data : str
        What it is trained on.

    Returns
    -------
    metadata : dipy_rnn.model_file.ModelMetadata

    Examples
    --------
    >>> from dipy_rnn.model import RecurrentPropagator
    >>> network = RecurrentPropagator(order=4, hidden=8)
    >>> describe(network, Recipe(), orders=(4,), data="one subject").channels
    15
    """
    return ModelMetadata(
        kind="sh",
        channels=(module.order + 1) * (module.order + 2) // 2,
        frame=module.frame,
        layers=module.layers,
        hidden=module.hidden,
        orders=orders,
        normalisation="power",
        step_mm=recipe.step_mm,
        architecture=architecture_of(module),
        replay_points=recipe.replay_points or None,
        provenance={
            "sh_order": module.order,
            "parameters": sum(p.numel() for p in module.parameters()),
            "data": data,
            "recipe": asdict(recipe),
            "versions": {
                name: metadata.version(name)
                for name in ("dipy_rnn", "torch", "dipy", "numpy")
            },
        },
    )
