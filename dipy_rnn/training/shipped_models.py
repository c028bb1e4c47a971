"""Make the default model: ``python -m dipy_rnn.training.default_model``.

Seeded phantoms, the shipped architecture, a fixed number of updates: the same
command gives the same model. About twenty minutes on two cores.
"""

import argparse
from functools import partial
from importlib import metadata
from pathlib import Path
import time
import warnings

import numpy as np
import torch

from dipy_rnn import sh
from dipy_rnn.model import RecurrentPropagator, architecture_of
from dipy_rnn.model_file import ModelMetadata, save_model
from dipy_rnn.phantom import random_phantom
from dipy_rnn.training.fit import fit, predict
from dipy_rnn.training.sequences import Reference, draw_batch
from dipy_rnn.training.teachers import peak_ahead

STEP_RANGE_MM = (0.2, 1.5)
ORDERS = (4, 6, 8)

# The teacher turns by less than the 30 degrees at which dipy_track_rnn and dipy_track
# draw the line; before, the network has learned of peaks further aside.
CYCLES = (
    {"n_updates": 4000, "widest_deg": 70.0},
    {"n_updates": 2500, "widest_deg": 28.0},
)
WIDTH_DEG = (40.0, 12.0)  # of the loss, at the start and at the end of a cycle

_ORDER = max(ORDERS)
_MIN_FRACTION = 0.05  # voxels with less fibre than this are not fitted


def make_reference(random_seed, *, through_dwi):
    """Make one phantom, its fODF and its true streamlines.

    Parameters
    ----------
    random_seed : int
        Draws the world, the acquisition and the noise.
    through_dwi : bool
        Whether the fODF is fitted by constrained spherical deconvolution to a
        simulated acquisition, or is the true one plus noise.

    Returns
    -------
    reference : Reference

    Examples
    --------
    >>> make_reference(0, through_dwi=False).data.shape
    (32, 32, 32, 45)
    """
    rng = np.random.default_rng(random_seed)
    phantom = random_phantom(
        random_seed,
        voxel_size_mm=rng.uniform(1.2, 3.0),
        n_bundles=int(rng.integers(6, 14)),
    )
    if through_dwi:
        coeffs = _fitted_fodf(phantom, rng)
    else:
        coeffs = phantom.fodf(
            int(rng.choice(ORDERS)),
            lobe_deg=rng.uniform(6.0, 14.0),
            noise=rng.uniform(0.0, 0.35),
            random_seed=random_seed,
        )
    with warnings.catch_warnings():
        # The noisiest phantoms do not look like fODFs, and that is their purpose.
        warnings.simplefilter("ignore", UserWarning)
        data = sh.with_order(sh.fodf_features(coeffs).data, _ORDER)
    streamlines, _ = phantom.streamlines(25, random_seed=random_seed)
    return Reference(data, phantom.affine, streamlines)


def _fitted_fodf(phantom, rng):
    """Simulate a scan of a phantom and fit it as dipy_fit_csd would."""
    from dipy.core.gradients import gradient_table
    from dipy.core.sphere import HemiSphere, disperse_charges
    from dipy.reconst.csdeconv import ConstrainedSphericalDeconvModel

    n_directions = int(rng.integers(20, 91))
    order = 8 if n_directions >= 45 else 6 if n_directions >= 28 else 4
    anywhere = rng.normal(size=(n_directions, 3))
    anywhere /= np.linalg.norm(anywhere, axis=1, keepdims=True)
    bvecs = disperse_charges(HemiSphere(xyz=anywhere), 500)[0].vertices
    bvals = np.r_[0, np.full(n_directions, rng.uniform(700, 3000))]
    gtab = gradient_table(bvals, bvecs=np.r_[np.zeros((1, 3)), bvecs])
    along = rng.uniform(1.4e-3, 1.9e-3)
    across = rng.uniform(2e-4, 4e-4)
    dwi = phantom.dwi(
        gtab,
        snr=rng.uniform(8, 40),
        evals=(along, across, across),
        random_seed=int(rng.integers(1 << 31)),
    )
    # A response that is somewhat sharper or blunter than the truth.
    across *= rng.uniform(0.7, 1.5)
    model = ConstrainedSphericalDeconvModel(
        gtab, (np.array([along, across, across]), 100.0), sh_order_max=order
    )
    mask = phantom.peaks()[0].sum(axis=-1) > _MIN_FRACTION
    return model.fit(dwi, mask=mask).shm_coeff


def main():
    """Train the default model and write it with its metadata."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="dipy_rnn/models/default.pt", type=Path)
    parser.add_argument("--hidden", default=64, type=int)
    parser.add_argument("--n_phantoms", default=96, type=int)
    parser.add_argument("--random_seed", default=2026, type=int)
    arguments = parser.parse_args()
    start = time.perf_counter()

    torch.set_num_threads(1)  # sums of another order would give other weights
    # Every second through a simulated scan; the last six are held out.
    references = []
    for i in range(arguments.n_phantoms + 6):
        references.append(
            make_reference(1000 * arguments.random_seed + i, through_dwi=i % 2 == 0)
        )
        print(f"phantom {i + 1}: {time.perf_counter() - start:.0f} s", flush=True)
    references, held_out = references[:-6], references[-6:]

    torch.manual_seed(arguments.random_seed)
    module = RecurrentPropagator(_ORDER, arguments.hidden)
    for cycle, chosen in enumerate(CYCLES):
        teacher = partial(peak_ahead, widest_deg=chosen["widest_deg"])
        trained_deg = fit(
            module,
            references,
            n_updates=chosen["n_updates"],
            step_range_mm=STEP_RANGE_MM,
            width_deg=WIDTH_DEG,
            teacher=teacher,
            random_seed=arguments.random_seed + cycle,
            report=lambda line: print(line, flush=True),
        )
    batch = draw_batch(
        held_out,
        200,
        frame=module.frame,
        step_mm=1.0,
        max_points=48,
        rng=np.random.default_rng(0),
        teacher=teacher,
    )
    with torch.no_grad():
        cosine = (predict(module, batch) * batch.target).sum(dim=1).clamp(-1, 1)
    held_out_deg = float(torch.rad2deg(torch.arccos(cosine)).mean())
    print(f"held-out error {held_out_deg:.2f} degrees")

    save_model(
        module,
        ModelMetadata(
            kind="sh",
            channels=references[0].data.shape[3],
            frame=module.frame,
            layers=module.layers,
            hidden=module.hidden,
            orders=ORDERS,
            normalisation="power",
            step_mm=STEP_RANGE_MM,
            provenance={
                "architecture": architecture_of(module),
                "sh_order": module.order,
                "parameters": sum(p.numel() for p in module.parameters()),
                "data": f"{arguments.n_phantoms} random phantoms, every second through "
                "a simulated scan and CSD",
                "teacher": "the peak of the fODF ahead (training.teachers)",
                "cycles": list(CYCLES),
                "random_seed": arguments.random_seed,
                "next_step_error_deg": {
                    "trained": round(trained_deg, 3),
                    "held_out": round(held_out_deg, 3),
                },
                "versions": {
                    name: metadata.version(name) for name in ("torch", "dipy", "numpy")
                },
            },
        ),
        arguments.out,
    )
    print(f"{arguments.out}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
