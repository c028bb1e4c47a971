"""DIPY's own tests of LocalTracking, run with RNNDirectionGetter.

The functions are those of ``dipy/tracking/tests/test_tracking.py`` in the installed
DIPY. The classes of direction getters in that module are replaced, so that its calls of
``from_pmf`` make an RNNDirectionGetter. Its network is deterministic tracking.
"""

import inspect
from types import SimpleNamespace

from dipy.direction import ProbabilisticDirectionGetter
from dipy.tracking.local_tracking import ParticleFilteringTracking
from networks import deterministic
import numpy as np
import pytest

from dipy_rnn import RNNDirectionGetter
from dipy_rnn.sampling import FeatureVolume

theirs = pytest.importorskip(
    "dipy.tracking.tests.test_tracking",
    reason="the installed DIPY comes without its tests",
)

GETTERS = (
    "ProbabilisticDirectionGetter",
    "DeterministicMaximumDirectionGetter",
    "ClosestPeakDirectionGetter",
)
# Two more tests make their getter in another way: test_bootstap_peak_tracker from
# signals and a model, test_eudx_tracker by setting attributes of PeaksAndMetrics.
AS_A_WHOLE = (
    "test_stop_conditions",
    "test_maximum_deterministic_tracker",
    "test_closest_peak_tracker",
    "test_affine_transformations",
    "test_random_seed_initialization",
)
# They also call ParticleFilteringTracking, which cannot call a getter in Python.
WITH_PARTICLES = (
    "test_save_seeds",
    "test_tracking_max_angle",
    "test_particle_filtering_tractography",
)
WHY_NOT = {
    "test_probabilistic_odf_weighted_tracker": (
        "must find two paths from one seed, but the network draws nothing at random; "
        "and it needs one first direction in a crossing, where we return both peaks"
    ),
    "test_tracking_with_initial_directions": (
        "starts 7 degrees beside a peak and needs the next direction to 0.001 degrees; "
        "the direction of the largest value is exact to about 0.5 degrees"
    ),
}


def fodf_of(pmf, directions, lobes):
    """Return an fODF with one lobe along each direction, from the values of a PMF.

    A lobe is a delta function of order 8 minus a constant, so that it is zero at 90
    degrees from its peak. The weights of the lobes are those with which the fODF has
    the values of the PMF in these directions: exactly up to 45 of them, for more by
    least squares.
    """
    values = lobes(directions, lobe_deg=0)  # deltas, and the harmonics there
    x, y = lobes(np.eye(3)[:2], lobe_deg=0)
    without = values.copy()
    without[:, 0] -= x @ y / values[0, 0]
    return pmf @ np.linalg.pinv(without @ values.T, rcond=1e-6) @ without


@pytest.fixture
def replaced(lobes, monkeypatch):
    """Replace the direction getters in DIPY's module of tests by ours."""
    model = deterministic()

    def from_pmf(pmf, max_angle, sphere, *, pmf_threshold=0.1):
        # fodf_features would refuse a PMF of zeros, and warn of a PMF of noise.
        fodf = fodf_of(pmf, sphere.vertices, lobes).astype(np.float32)
        return RNNDirectionGetter(
            FeatureVolume(fodf, "sh"),
            model=model,
            max_angle=max_angle,
            pmf_threshold=pmf_threshold,
        )

    for name in GETTERS:
        monkeypatch.setattr(theirs, name, SimpleNamespace(from_pmf=from_pmf))


@pytest.fixture
def particles_of_dipy(replaced, monkeypatch):
    """Let ParticleFilteringTracking use DIPY's getter, and LocalTracking use ours."""
    ours = theirs.ProbabilisticDirectionGetter.from_pmf
    dipys = {}

    def from_pmf(pmf, max_angle, sphere, *, pmf_threshold=0.1):
        getter = ours(pmf, max_angle, sphere, pmf_threshold=pmf_threshold)
        dipys[getter] = ProbabilisticDirectionGetter.from_pmf(
            pmf, max_angle, sphere, pmf_threshold=pmf_threshold
        )
        return getter

    def particle_filtering(direction_getter, *args, **kwargs):
        getter = dipys.get(direction_getter, direction_getter)
        return ParticleFilteringTracking(getter, *args, **kwargs)

    monkeypatch.setattr(
        theirs, "ProbabilisticDirectionGetter", SimpleNamespace(from_pmf=from_pmf)
    )
    monkeypatch.setattr(theirs, "ParticleFilteringTracking", particle_filtering)


def run(name, pytestconfig):
    test = getattr(theirs, name, None)
    if test is None:
        pytest.skip(f"the installed DIPY has no test {name}")
    # DIPY's decorator for random numbers takes the fixture of this name.
    test(*([pytestconfig] if inspect.signature(test).parameters else []))


@pytest.mark.parametrize("name", AS_A_WHOLE)
def test_a_test_of_dipy_passes(replaced, name, pytestconfig):
    run(name, pytestconfig)


@pytest.mark.parametrize("name", WITH_PARTICLES)
def test_a_test_of_dipy_with_particle_filtering_is_refused(
    replaced, name, pytestconfig
):
    with pytest.raises(TypeError, match="ParticleFilteringTracking"):
        run(name, pytestconfig)


@pytest.mark.parametrize("name", WITH_PARTICLES)
def test_a_test_of_dipy_passes_if_particle_filtering_uses_dipys_getter(
    particles_of_dipy, name, pytestconfig
):
    run(name, pytestconfig)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.xfail(raises=AssertionError, reason=why, strict=True),
        )
        for name, why in WHY_NOT.items()
    ],
)
def test_a_test_of_dipy_that_cannot_pass(particles_of_dipy, name, pytestconfig):
    run(name, pytestconfig)
