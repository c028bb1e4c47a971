"""Train the shipped models: ``python -m dipy_rnn.training.shipped_models``.

Phantoms, recipes and numbers of updates are fixed, so on the same machine the command
gives the same weights each time. The files may differ in a few bytes, because torch
writes constants in the order of their hashes, which Python randomises (PYTHONHASHSEED).
``dipy_rnn/model/shipped`` contains the models, their cards, and their checksums, which
are verified when a model is loaded.
"""

import argparse
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from functools import cache, partial
import hashlib
from multiprocessing import get_context
from pathlib import Path
import tempfile
import time
from typing import Any
import warnings

from dipy.core.gradients import gradient_table
from dipy.core.sphere import HemiSphere, disperse_charges
from dipy.reconst.csdeconv import ConstrainedSphericalDeconvModel
import numpy as np
from scipy.ndimage import binary_dilation
import torch

from dipy_rnn import sampling
from dipy_rnn._typing import AnyArray, Float32Array, FloatArray
from dipy_rnn.model import (
    CHECKSUMS,
    ContextGRU,
    ModelMetadata,
    Network,
    save_model,
    untrained,
)
from dipy_rnn.phantom import BrainWorld, Phantom, brain_world, random_phantom
from dipy_rnn.training.free_running.fit import FreeRunningRecipe, fit_free_running
from dipy_rnn.training.free_running.world import KnownWorld
from dipy_rnn.training.loop import fit
from dipy_rnn.training.recipe import Recipe, describe
from dipy_rnn.training.sequences import InputNoise
from dipy_rnn.training.state import best_row
from dipy_rnn.training.subjects import load_subject, save_subject
from dipy_rnn.training.target_rules import deterministic_streamlines
from dipy_rnn.training.validation import FreeRunning

ORDERS = (4, 6, 8)
RECIPES: dict[str, Recipe | FreeRunningRecipe] = {
    # Sees the fODF around its point. It tracks phantoms and simulated brains itself.
    "default": FreeRunningRecipe(n_updates=10000, random_seed=2028),
    # Imitates deterministic tracking. It is trained on deterministic streamlines, since
    # trackers also reach places where there are no true streamlines.
    "deterministic": Recipe(
        n_updates=1500,
        teacher="largest_ahead",
        blur=InputNoise(
            position_vox=0.5, direction_deg=(4.0, 30.0), features=(0.0, 0.4)
        ),
        random_seed=2026,
    ),
    # As default, but it sees one point.
    "fast": FreeRunningRecipe(n_updates=4000, random_seed=2028),
}
# Widths of their layers, their architectures and other sizes. doc/design.md compares
# them with others.
HIDDEN = {"default": 64, "deterministic": 16, "fast": 16}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("context", {"declared": True}),
    "deterministic": ("moving_frame", {}),
    "fast": (
        "context",
        {
            "context": None,
            "memory": 16,
            "n_vectors": 5,
            "n_double": 3,
            "n_remembered": 2,
            "declared": True,
        },
    ),
}
# Factor of the spreads that they predict, from a calibration on phantoms and a
# simulated brain (doc/probabilistic.md).
SPREAD_SCALE = 1.1
N_PHANTOMS = 120
N_HELD_OUT = 6
N_BRAINS = 24
_P_BRAIN = 0.6  # of the worlds in a batch

_ORDER = max(ORDERS)
_N_STREAMLINES = 300
# The fODF is fitted where the fraction of fibres is above this, and in a rim of voxels
# around it, where the fit finds false fibres in noise.
_MIN_FRACTION = 0.05
_RIM_VOXELS = 1
_BRAIN_MM = (120, 140, 120)
_N_STARTS = {"phantom": 3000, "brain": 16000}


def make_world(random_seed: int, *, through_dwi: bool) -> tuple[Phantom, Float32Array]:
    """Make one phantom and its fODF.

    Parameters
    ----------
    random_seed : int
        Seed of the phantom, the acquisition and the noise.
    through_dwi : bool
        If True, the fODF is fitted to a simulated acquisition by constrained spherical
        deconvolution. If False, it is the true fODF plus noise.

    Returns
    -------
    phantom : dipy_rnn.phantom.Phantom
    data : ndarray of shape (X, Y, Z, 45)
        The fODF in the package's basis.

    Examples
    --------
    >>> make_world(0, through_dwi=False)[1].shape
    (32, 32, 32, 45)
    """
    rng = np.random.default_rng(random_seed)
    phantom = random_phantom(
        random_seed,
        voxel_size_mm=rng.uniform(1.2, 3.0),
        n_bundles=int(rng.integers(6, 14)),
    )
    coeffs: AnyArray
    if through_dwi:
        coeffs = _fitted_fodf(phantom, rng)
    else:
        coeffs = phantom.fodf(
            int(rng.choice(ORDERS)),
            lobe_deg=rng.uniform(6.0, 14.0),
            noise=rng.uniform(0.0, 0.35),
            random_seed=random_seed,
        )
    return phantom, _as_features(coeffs)


def make_brain(random_seed: int) -> tuple[BrainWorld, Float32Array]:
    """Make one simulated brain, and the fODF fitted to a simulated scan of it.

    Parameters
    ----------
    random_seed : int
        Seed of the brain, the acquisition and the noise.

    Returns
    -------
    brain : dipy_rnn.phantom.BrainWorld
    data : ndarray of shape (X, Y, Z, 45)
        The fODF in the package's basis.
    """
    rng = np.random.default_rng(random_seed)
    voxel_mm = rng.uniform(1.9, 3.0)
    x, y, z = (round(side / voxel_mm) for side in _BRAIN_MM)
    brain = brain_world(
        random_seed,
        shape=(x, y, z),
        voxel_size_mm=voxel_mm,
        n_bundles=int(rng.integers(80, 140)),
    )
    return brain, _as_features(_fitted_fodf(brain, rng))


def _as_features(coeffs: AnyArray) -> Float32Array:
    """Return coefficients in the package's basis, and of the largest order."""
    with warnings.catch_warnings():
        # For very noisy coefficients, a warning says that they may not be an fODF.
        warnings.simplefilter("ignore", UserWarning)
        return sampling.with_order(sampling.fodf_features(coeffs).data, _ORDER)


def _fitted_fodf(phantom: Phantom | BrainWorld, rng: np.random.Generator) -> FloatArray:
    """Simulate a scan of a phantom, and fit its fODF as dipy_fit_csd does."""
    order = int(rng.choice(ORDERS))
    n_directions = int(rng.integers(max(20, _n_coefficients(order)), 121))
    anywhere = rng.normal(size=(n_directions, 3))
    anywhere /= np.linalg.norm(anywhere, axis=1, keepdims=True)
    bvecs = disperse_charges(HemiSphere(xyz=anywhere), 500)[0].vertices
    bvals = np.r_[0, np.full(n_directions, rng.uniform(700, 3000))]
    gtab = gradient_table(bvals, bvecs=np.r_[np.zeros((1, 3)), bvecs])
    along = rng.uniform(1.4e-3, 1.9e-3)
    across = rng.uniform(2e-4, 4e-4)
    dwi = phantom.dwi(
        gtab,
        snr=rng.uniform(8, 50),
        evals=(along, across, across),
        random_seed=int(rng.integers(1 << 31)),
    )
    # The response function differs from the true one: it is sharper or blunter.
    across *= rng.uniform(0.7, 1.5)
    # It has no option for the basis, which is the default of DIPY 1.
    model = ConstrainedSphericalDeconvModel(
        gtab, (np.array([along, across, across]), 100.0), sh_order_max=order
    )
    fibres = phantom.peaks()[0].sum(axis=-1) > _MIN_FRACTION
    mask = binary_dilation(fibres, iterations=_RIM_VOXELS)
    coeffs: FloatArray = model.fit(dwi, mask=mask).shm_coeff
    return coeffs


def _n_coefficients(order: int) -> int:
    return (order + 1) * (order + 2) // 2


def _save_phantom(index: int, *, folder: Path) -> None:
    """Make a phantom with deterministic streamlines, and save it."""
    random_seed = 1000 * RECIPES["deterministic"].random_seed + index
    # Every second phantom is scanned and fitted.
    phantom, data = make_world(random_seed, through_dwi=index % 2 == 0)
    rng = np.random.default_rng(random_seed)
    streamlines = deterministic_streamlines(
        data,
        phantom.affine,
        _N_STREAMLINES,
        step_vox=rng.uniform(0.1, 0.6),
        max_angle_deg=Recipe().draw_max_angle(rng),
        random_seed=random_seed,
    )
    save_subject(folder / str(index), data, phantom.affine, streamlines)


def _known_world(number: int, *, random_seed: int) -> KnownWorld:
    """Make a phantom, or after the last one a brain, whose bundles are known."""
    seed = 1000 * random_seed + number
    if number < N_PHANTOMS:
        phantom, data = make_world(seed, through_dwi=number % 2 == 0)
        return KnownWorld.of_phantom(
            phantom, data, _N_STARTS["phantom"], random_seed=seed
        )
    brain, data = make_brain(seed)
    return KnownWorld.of_brain(brain, data, _N_STARTS["brain"], random_seed=seed)


@cache
def _known_worlds(random_seed: int) -> list[KnownWorld]:
    """Make all worlds in which networks are trained."""
    with _processes() as pool:
        make = partial(_known_world, random_seed=random_seed)
        return list(pool.map(make, range(N_PHANTOMS + N_BRAINS)))


def _processes() -> Executor:
    """Return processes that are spawned: a fork copies locks, but not threads."""
    return ProcessPoolExecutor(mp_context=get_context("spawn"))


def make_model(name: str, path: Path) -> None:
    """Train a model on phantoms, and write it with its metadata.

    Parameters
    ----------
    name : str
        One of ``RECIPES``.
    path : Path
    """
    recipe = RECIPES[name]
    start = time.perf_counter()

    def say(values: Mapping[str, float]) -> None:
        print(
            f"{name}, {time.perf_counter() - start:.0f} s: "
            + ", ".join(f"{key} {value:.4g}" for key, value in values.items()),
            flush=True,
        )

    torch.set_num_threads(1)  # the order of sums depends on the number of threads
    architecture, shape = SHAPES[name]
    module = untrained(
        architecture, _ORDER, recipe.random_seed, hidden=HIDDEN[name], **shape
    )
    if isinstance(recipe, FreeRunningRecipe):
        assert isinstance(module, ContextGRU)
        trained = _train_free_running(module, recipe, say)
    else:
        trained = _train_on_streamlines(module, recipe, say)
    metadata, last = trained
    metadata.provenance["training"] = {
        key: round(value, 4) for key, value in last.items() if "minutes" not in key
    }
    save_model(module, metadata, path)
    say({})


def _train_free_running(
    module: ContextGRU,
    recipe: FreeRunningRecipe,
    say: Callable[[Mapping[str, float]], None],
) -> tuple[ModelMetadata, dict[str, float]]:
    """Train a network that tracks phantoms and brains itself."""
    worlds = _known_worlds(recipe.random_seed)
    say({"worlds": len(worlds)})
    chances = np.r_[
        np.full(N_PHANTOMS, (1 - _P_BRAIN) / N_PHANTOMS),
        np.full(N_BRAINS, _P_BRAIN / N_BRAINS),
    ]
    last = fit_free_running(module, worlds, chances, recipe, report=say)
    metadata = describe(
        module,
        recipe,
        orders=ORDERS,
        data=f"{N_PHANTOMS} random phantoms, every second through a simulated scan and "
        f"CSD, and {N_BRAINS} simulated brains through a simulated scan and CSD",
    )
    return replace(metadata, spread_scale=SPREAD_SCALE), last


def _train_on_streamlines(
    module: Network, recipe: Recipe, say: Callable[[Mapping[str, float]], None]
) -> tuple[ModelMetadata, dict[str, float]]:
    """Train a network on the streamlines of phantoms."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        numbers = range(N_PHANTOMS + N_HELD_OUT)
        with _processes() as pool:
            list(pool.map(partial(_save_phantom, folder=folder), numbers))
        say({"phantoms": len(numbers)})
        subjects = [load_subject(folder / str(number)) for number in numbers]
        subjects, held_out = subjects[:-N_HELD_OUT], subjects[-N_HELD_OUT:]
        metadata = describe(
            module,
            recipe,
            orders=ORDERS,
            data=f"{N_PHANTOMS} random phantoms, every second through a simulated scan "
            "and CSD",
        )
        history = fit(
            module,
            subjects,
            recipe,
            validate=FreeRunning(held_out, metadata, recipe, n_streamlines=600),
            report=lambda history: say(history[-1]),
        )
    return metadata, best_row(history)


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of each model of a folder, for ``sha256sum --check``.

    Parameters
    ----------
    folder : Path

    Examples
    --------
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "empty.pt").write_bytes(b"")
    >>> write_checksums(folder)
    >>> (folder / CHECKSUMS).read_text()[:12], (folder / CHECKSUMS).read_text()[-9:-1]
    ('e3b0c44298fc', 'empty.pt')
    """
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.glob("*.pt"))
    ]
    (folder / CHECKSUMS).write_text("".join(lines), "utf-8", newline="\n")


def main() -> None:
    """Train the models named on the command line, or all; write all checksums."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--out_dir", default="dipy_rnn/model/shipped", type=Path)
    arguments = parser.parse_args()
    for name in arguments.names:
        make_model(name, arguments.out_dir / f"{name}.pt")
        write_checksums(arguments.out_dir)


if __name__ == "__main__":
    main()
