"""Recipes: the options of a training, and the metadata of the model it makes."""

from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any, Self

import numpy as np

from dipy_rnn._checks import check_numbers
from dipy_rnn._moved import find_moved
from dipy_rnn.model import (
    ARCHITECTURES,
    NETWORKS,
    ModelMetadata,
    Network,
    architecture_of,
)
from dipy_rnn.training.free_running.fit import FreeRunningRecipe
from dipy_rnn.training.sequences import InputNoise, TargetRule
from dipy_rnn.training.target_rules import blend, largest_ahead, peak_along

#: Rules for the target of the network, by name; None: the streamline's direction.
TARGET_RULES: dict[str, TargetRule | None] = {
    "streamline": None,
    "peak_along": peak_along,
    "between": blend,
    "largest_ahead": largest_ahead,
}
#: What has the same weight in the loss.
WEIGHTS = ("point", "streamline")

# Angles of cones are multiples of this. The tables of each angle are made once.
_ANGLE_DEG = 5.0
_LARGEST_SEED = (1 << 31) - 2  # DIPY's trackers get this seed plus 1, in 32 bits


@dataclass(frozen=True)
class Recipe:
    """Options of a training.

    The fields ``n_references``, ``blur`` and ``teacher`` have the names under which
    checkpoints and model files store them.

    Parameters
    ----------
    n_updates : int, optional
        Number of optimiser steps.
    max_minutes : float, optional
        Time budget in minutes; 0 for no limit. The training ends after this time or
        after ``n_updates``, whichever comes first. The schedules of the learning rate
        and of ``width_deg`` are shortened, so that both have their final values at the
        end. If the time ends the training, the weights depend on the speed of the
        machine.
    step_vox : tuple of float, optional
        Range in edges of a voxel from which each part of a batch draws its step size,
        log-uniformly.
    max_angle_deg : tuple of float, optional
        Range in degrees from which each part of a batch draws the angle of the cone in
        which the target may lie, in multiples of 5 degrees.
    n_references, n_sequences : int, optional
        Number of subjects in a batch, and number of sequences from each of them.
    max_points : int, optional
        Number of points of the longest sequence.
    learning_rate : float, optional
        Learning rate of Adam at the start; it falls to zero as half a cosine.
    width_deg : tuple of float, optional
        Width in degrees of the robust loss
        (:func:`dipy_rnn.training.state.cosine_loss`), at the start and at the end of
        the training; None for the plain loss. The robust loss needs a network whose
        errors are small before training, such as ``MovingFrameGRU``.
    teacher : str, optional
        Target rule, one of ``TARGET_RULES``.
    weight : str, optional
        What has the same weight in the loss: each ``"point"`` or each ``"streamline"``.
    blur : InputNoise, optional
        Noise on the inputs of the network.
    validate_every : int, optional
        Number of updates between validations, each of which saves a checkpoint.
    patience : int, optional
        Stop early after this many validations without a larger share of followed
        streamlines; 0 for never.
    random_seed : int, optional
        The same seed gives the same weights on the same machine with the same number
        of threads.

    Raises
    ------
    ValueError
        If an option is out of range.

    Examples
    --------
    >>> Recipe(n_updates=100).learning_rate
    0.002
    """

    n_updates: int = 4000
    max_minutes: float = 0.0
    step_vox: tuple[float, float] = (0.05, 1.0)
    max_angle_deg: tuple[float, float] = (15.0, 90.0)
    n_references: int = 8
    n_sequences: int = 32
    max_points: int = 48
    learning_rate: float = 2e-3
    width_deg: tuple[float, float] | None = (40.0, 12.0)
    teacher: str = "streamline"
    weight: str = "point"
    blur: InputNoise = field(default_factory=InputNoise)
    validate_every: int = 250
    patience: int = 0
    random_seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("n_updates", 1),
            ("n_references", 1),
            ("n_sequences", 1),
            ("max_points", 2),
            ("validate_every", 1),
            ("patience", 0),
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
        for name, most, kind in (
            ("step_vox", np.inf, "lengths above 0 voxel edges"),
            ("max_angle_deg", 90, "angles above 0 and up to 90 degrees"),
        ):
            values = check_numbers(getattr(self, name), name)
            if (
                values.shape != (2,)
                or not 0 < values[0] <= values[1] <= most
                or values[1] == np.inf
            ):
                raise ValueError(
                    f"{name} is {' to '.join(f'{v:g}' for v in values.ravel())}; two "
                    f"{kind} are needed, the smaller one first."
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
        for name, allowed in (("teacher", tuple(TARGET_RULES)), ("weight", WEIGHTS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; {', '.join(allowed)} are "
                    "allowed."
                )

    def draw_max_angle(self, rng: np.random.Generator) -> float:
        """Draw the angle of a cone in degrees.

        Parameters
        ----------
        rng : numpy.random.Generator

        Returns
        -------
        max_angle_deg : float

        Examples
        --------
        >>> Recipe(max_angle_deg=(30, 30)).draw_max_angle(np.random.default_rng(0))
        30.0
        """
        drawn = _ANGLE_DEG * round(rng.uniform(*self.max_angle_deg) / _ANGLE_DEG)
        return float(np.clip(drawn, *self.max_angle_deg))

    @classmethod
    def of(cls, architecture: str, **changes: Any) -> Self:
        """Return the default recipe of an architecture, with changes.

        Parameters
        ----------
        architecture : str
            One of :data:`dipy_rnn.model.ARCHITECTURES`.
        **changes
            Options that differ from the default.

        Returns
        -------
        recipe : Recipe

        Raises
        ------
        ValueError
            If the architecture is unknown, or an option is out of range.

        Examples
        --------
        >>> Recipe.of("cai2023", n_updates=10).width_deg is None
        True
        """
        if architecture not in ARCHITECTURES:
            raise ValueError(
                f"architecture is {architecture}; {' or '.join(ARCHITECTURES)} is "
                "allowed."
            )
        return cls(**(NETWORKS[architecture].recipe | changes))


def describe(
    module: Network,
    recipe: Recipe | FreeRunningRecipe,
    *,
    orders: tuple[int, ...],
    data: str,
) -> ModelMetadata:
    """Return the metadata of a network that is trained with a recipe.

    Parameters
    ----------
    module : nn.Module
        One of :data:`dipy_rnn.model.NETWORKS`.
    recipe : Recipe or dipy_rnn.training.free_running.fit.FreeRunningRecipe
    orders : tuple of int
        Spherical harmonic orders of the training data.
    data : str
        Description of the training data.

    Returns
    -------
    metadata : dipy_rnn.model.ModelMetadata

    Examples
    --------
    >>> from dipy_rnn.model import MovingFrameGRU
    >>> network = MovingFrameGRU(order=4, hidden=8)
    >>> describe(network, Recipe(), orders=(4,), data="one subject").channels
    15
    """
    layers, _, hidden = module.init_state(1).shape
    return ModelMetadata(
        kind="sh",
        channels=(module.order + 1) * (module.order + 2) // 2,
        frame=module.frame,
        layers=layers,
        hidden=hidden,
        orders=orders,
        normalisation="power",
        inputs=module.inputs,
        outputs=module.outputs,
        context=module.context,
        step_vox=recipe.step_vox,
        architecture=architecture_of(module),
        replay_points=module.replay_points,
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


def __getattr__(name: str) -> object:
    return find_moved(__name__, name)
