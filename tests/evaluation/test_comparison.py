"""The metrics of a comparison against values computed by hand, and its trackers."""

import json
import warnings

import dipy
from dipy.data import get_sphere
from dipy.direction.peaks import PeaksAndMetrics
from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
from dipy.tracking.tracker import deterministic_tracking
import numpy as np
import numpy.testing as npt
import pytest

from dipy_rnn import evaluation, rnn_tracking, sampling, spatial
from dipy_rnn._dipy_compat import dipy_is_at_least
from dipy_rnn.evaluation import KnownBundle, comparison
from dipy_rnn.evaluation.comparison import Tracked, by_seed, track_beside
from dipy_rnn.evaluation.metrics import Metric, measure, partner_distances
from dipy_rnn.evaluation.scores import BundleVolumes
from dipy_rnn.phantom import crossing_phantom

SHAPE = (12, 8, 3)
LINE = np.arange(11.0)[:, None] * [1, 0, 0]  # 0 to 10 mm along x
NOTHING = np.empty((0, 3))
#: Five streamlines side by side, 1 mm apart.
SHEET = [LINE + [0, y, 1] for y in range(5)]
EVERYWHERE = np.ones(SHAPE, dtype=bool)


def beside(candidate, reference, **options):
    """Return the values of two tractograms by metric name, and all metrics."""
    tracked = {
        "candidate": Tracked("ours", candidate),
        "reference": Tracked("theirs", reference),
    }
    pairs = options.get("pairs")
    metrics = measure(
        tracked, partner_distances(tracked, pairs), np.eye(4), EVERYWHERE, **options
    )
    text = json.dumps(metrics, allow_nan=False, default=Metric.to_json)
    saved = json.loads(text)
    values = {
        metric["name"]: metric["candidate"]["value"] for metric in saved["between"]
    }
    values |= {
        (metric["name"], key): metric[key]["value"]
        for metric in saved["each"]
        for key in ("candidate", "reference")
    }
    return values, metrics


SAME = {
    "alike": 1,
    "hausdorff": 0,
    "mean_closest_point": 0,
    "end_point": 0,
    "angular_difference": 0,
    "dice": 1,
    "weighted_dice": 1,
    ("length", "candidate"): 10,
    ("curvature", "candidate"): 0,
    ("coverage", "candidate"): 55 / 288,
}
# Each of five rows of 11 voxels is visited by one streamline.
CASES = {
    "identical": (SHEET, SAME),
    "reversed": ([line[::-1] for line in SHEET], SAME),
    # Three of the five rows are visited by both tractograms.
    "shifted by 2 mm": (
        [line + [0, 2, 0] for line in SHEET],
        SAME
        | {
            "hausdorff": 2,
            "mean_closest_point": 2,
            "end_point": 2,
            "dice": 3 / 5,
            "weighted_dice": 3 / 5,
        },
    ),
    # Three of five streamlines are missing. A density map is divided by its sum: in the
    # common rows a voxel has the weights 1 / 22 and 1 / 55.
    "with two of five": (
        SHEET[:2] + [NOTHING] * 3,
        SAME
        | {
            "alike": 2 / 5,
            "dice": 2 * 22 / (22 + 55),
            "weighted_dice": (1 + 22 / 55) / 2,
            ("coverage", "candidate"): 22 / 288,
        },
    ),
    "cut in half": (
        [line[:6] for line in SHEET],
        SAME
        | {
            "alike": 0,
            "hausdorff": 5,
            # Of the 11 points of the whole line, 5 are 1 to 5 mm away; the 6 points of
            # the half are at 0 mm.
            "mean_closest_point": 15 / 11 / 2,
            "end_point": 5 / 2,
            "dice": 2 * 30 / (30 + 55),
            "weighted_dice": (1 + 30 / 55) / 2,
            ("length", "candidate"): 5,
            ("coverage", "candidate"): 30 / 288,
        },
    ),
    "empty": (
        [NOTHING] * 5,
        {
            "alike": 0,
            "hausdorff": None,
            "mean_closest_point": None,
            "end_point": None,
            "angular_difference": None,
            "dice": 0,
            ("length", "candidate"): None,
            ("curvature", "candidate"): None,
            ("coverage", "candidate"): 0,
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_metrics_are_those_computed_by_hand(name):
    candidate, expected = CASES[name]
    values, _ = beside(candidate, SHEET)
    for key, value in expected.items():
        if value is None:
            assert values[key] is None, key
        else:
            assert values[key] == pytest.approx(value, abs=1e-6), key
    assert values["length", "reference"] == 10


def test_the_correlation_of_densities_is_that_computed_by_hand():
    ours = [SHEET[0], SHEET[0], SHEET[1], SHEET[2]]
    theirs = [SHEET[0], SHEET[0], SHEET[0], SHEET[1]]
    values, _ = beside(ours, theirs)
    # Visits in the rows 0, 1 and 2: (2, 1, 1) and (3, 1, 0).
    expected = np.corrcoef([2, 1, 1], [3, 1, 0])[0, 1]
    assert values["density_correlation"] == pytest.approx(expected)


def test_the_baseline_has_the_same_metrics_as_the_candidate():
    tracked = {
        "candidate": Tracked("a", [line + [0, 3, 0] for line in SHEET], 2.0),
        "reference": Tracked("b", SHEET, 4.0),
        "yardstick": Tracked("c", [line + [0, 1, 0] for line in SHEET], 8.0),
    }
    distances = partner_distances(tracked)
    npt.assert_allclose(distances["candidate"], 3)
    npt.assert_allclose(distances["yardstick"], 1)
    metrics = measure(tracked, distances, np.eye(4), EVERYWHERE)
    for metric, expected in zip(metrics["between"], ((0, 1), (3, 1))):
        estimates = metric.estimates
        found = estimates["candidate"].value, estimates["yardstick"].value
        assert found == expected
    assert [f["n_points"] for f in metrics["trackers"].values()] == [55, 55, 55]
    assert metrics["trackers"]["candidate"]["steps_per_second"] == 55 / 2
    assert list(metrics["each"][0].estimates) == ["candidate", "reference", "yardstick"]


def test_seeds_without_a_streamline_of_either_tracker_do_not_count():
    values, metrics = beside([SHEET[0], NOTHING], [SHEET[0], NOTHING])
    assert values["alike"] == 1
    assert metrics["trackers"]["candidate"]["n_streamlines"] == 1


def test_pairs_says_which_streamlines_are_partners():
    values, _ = beside(SHEET, SHEET[::-1], pairs=np.array([4, 3, 2, 1, 0]))
    assert values["alike"] == 1 and values["hausdorff"] == 0
    # The last two have no partner.
    values, _ = beside(SHEET, SHEET[:3], pairs=np.array([0, 1, 2, -1, -1]))
    assert values["alike"] == 3 / 5


def test_standard_errors_are_those_of_the_mean_and_shrink_with_more_streamlines():
    rng = np.random.default_rng(0)
    errors = []
    for n in (20, 320):
        ours = [LINE + [0, rng.integers(5), 1] for _ in range(n)]
        theirs = [LINE + [0, rng.integers(5), 1] for _ in range(n)]
        _, metrics = beside(ours, theirs)
        by_name = {metric.name: metric.estimates for metric in metrics["between"]}
        agreement = by_name["alike"]["candidate"]
        share = agreement.value
        expected = np.sqrt(share * (1 - share) / (n - 1))
        assert agreement.standard_error == pytest.approx(expected)
        errors.append(by_name["weighted_dice"]["candidate"].standard_error)
    assert errors[1] < errors[0] / 2


# Known bundles and regions


def rows(*ys, ends=(0, 10)):
    """Return the known bundle of some rows of the sheet."""
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:11, list(ys), 1] = True
    regions = np.zeros((2, *SHAPE), dtype=bool)
    for region, x in zip(regions, ends):
        region[x, list(ys), 1] = True
    return KnownBundle(mask, tuple(regions))


def test_scores_of_known_bundles_are_those_computed_by_hand():
    bundles = {"low": rows(0, 1), "high": rows(3, 4)}
    ours = [SHEET[0], SHEET[1][:6], SHEET[3], SHEET[3], NOTHING]
    crossing = np.concatenate([SHEET[0][:6], SHEET[4][5:]])
    theirs = [SHEET[0], SHEET[1], crossing, NOTHING, NOTHING]
    values, metrics = beside(ours, theirs, bundles=bundles)
    expected = {
        "valid": (3 / 5, 2 / 5),
        "invalid": (0, 1 / 5),
        "none": (2 / 5, 2 / 5),
        "valid_bundles": (2, 1),
        "overlap": (1 / 2, 1 / 2),  # (1/2 + 1/2) / 2 and (1 + 0) / 2
        "overreach": (0, 0),
        "f1": (2 / 3, 1 / 2),
    }
    for name, (of_candidate, of_reference) in expected.items():
        assert values[name, "candidate"] == pytest.approx(of_candidate), name
        assert values[name, "reference"] == pytest.approx(of_reference), name
    low, high = metrics["bundles"]
    assert (low["name"], high["name"]) == ("low", "high")
    assert low["candidate"]["n_valid"] == 1 and low["reference"]["n_valid"] == 2
    assert high["reference"]["n_valid"] == 0 and high["reference"]["f1"] == 0
    assert "shape_similarity" not in low["reference"]
    assert high["candidate"]["shape_similarity"] == 0


def test_the_scores_for_resampling_are_those_of_score():
    phantom = crossing_phantom(60, shape=(20, 20, 8))
    lines, _ = phantom.streamlines(60)
    bundles = evaluation.known_bundles(
        [lines[:60], lines[60:]], phantom.affine, phantom.shape
    )
    rng = np.random.default_rng(1)
    strayed = [line + rng.normal(scale=1.5, size=3) for line in lines[::2]]
    scores = evaluation.score(strayed, bundles, phantom.affine)
    assert 0 < scores.overlap < 1 and scores.overreach > 0
    volumes = BundleVolumes(
        scores.labels,
        evaluation.visited_voxels(strayed, phantom.affine, phantom.shape),
        bundles,
    )
    visits = volumes.visited.sum(axis=0)
    for name in ("overlap", "overreach", "f1", "valid_bundles"):
        assert getattr(volumes, name)(visits) == pytest.approx(getattr(scores, name))


def test_the_correlation_of_connectivity_is_that_computed_by_hand():
    regions = np.zeros(SHAPE, dtype=int)
    regions[0, :2], regions[0, 2:], regions[10, :2], regions[10, 2:] = 1, 2, 3, 4
    values, _ = beside(
        SHEET, SHEET[:3], pairs=np.arange(5) % 3, regions=(regions, np.eye(4))
    )
    # The regions 1-3 and 2-4: two and three streamlines, compared with two and one.
    assert values["connectivity_correlation"] == pytest.approx(-1)


def test_a_metric_is_saved_with_an_entry_for_each_tracker():
    _, metrics = beside(SHEET, SHEET)
    saved = metrics["between"][1].to_json()
    assert list(saved) == [
        *("name", "label", "unit", "better", "definition", "source", "candidate")
    ]
    expected = {"value": 0, "standard_error": 0, "low": 0, "high": 0}
    assert saved["candidate"] == expected


# Trackers


@pytest.fixture(scope="module")
def world():
    phantom = crossing_phantom(90, shape=(20, 20, 10))
    lines, _ = phantom.streamlines(8)
    phantom.seeds = np.array([line[20] for line in lines])
    phantom.volume = phantom.fodf(noise=0.05)
    phantom.criterion = BinaryStoppingCriterion(phantom.mask())
    return phantom


def track(world, **options):
    defaults = {
        "features": sampling.fodf_features(world.volume),
        "step_size": 1.0,
        "max_angle": 45.0,
        "nbr_threads": 1,
    }
    return track_beside(
        world.seeds, world.criterion, world.affine, **defaults | options
    )


def test_both_trackers_start_from_the_same_seeds_and_directions(world):
    tracked = track(world, min_len=10)
    assert [by.label for by in tracked.values()] == [
        "dipy_rnn",
        "deterministic",
        "deterministic, symmetric724",
    ]
    options = {"step_size": 1.0, "max_angle": 45.0, "min_len": 10, "max_len": 500}
    ours = by_seed(
        rnn_tracking(
            world.seeds,
            world.criterion,
            world.affine,
            sh=world.volume,
            save_seeds=True,
            **options,
        ),
        world.seeds,
    )
    for line, expected in zip(tracked["candidate"].streamlines, ours, strict=True):
        npt.assert_array_equal(line, expected)
    for key in tracked:
        lines = tracked[key].streamlines
        assert len(lines) == len(world.seeds) and tracked[key].seconds > 0
        assert sum(len(line) > 10 for line in lines) >= len(lines) - 2
    # The reference is restricted to the vertices of a sphere, so distances are small
    # but not 0.
    distances = partner_distances(tracked)
    assert 0 < np.nanmedian(distances["candidate"]) < 3
    assert 0 < np.nanmedian(distances["yardstick"]) < 3
    for line, other, seed in zip(
        tracked["candidate"].streamlines, tracked["reference"].streamlines, world.seeds
    ):
        if not len(line) or not len(other):
            continue
        at, of_other = (
            np.argmin(np.linalg.norm(x - seed, axis=1)) for x in (line, other)
        )
        step, of_other = line[at + 1] - line[at], other[of_other + 1] - other[of_other]
        assert abs(step @ of_other) > 0.98


def test_the_reference_is_deterministic_tracking_of_dipy(world):
    tracked = track(world)
    first = sampling.first_directions(
        sampling.fodf_features(world.volume).data,
        spatial.to_voxels(world.seeds, world.affine),
        spatial.axes(world.affine),
        max_peaks=1,
    )[:, 0]
    with warnings.catch_warnings():  # DIPY warns of legacy bases
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        theirs = by_seed(
            deterministic_tracking(
                world.seeds,
                world.criterion,
                world.affine,
                seed_directions=first,
                sh=world.volume,
                legacy=True,
                step_size=1.0,
                max_angle=45.0,
                random_seed=1,
                save_seeds=True,
            ),
            world.seeds,
        )
    # The basis of the fODF differs, so streamlines are equal up to rounding.
    same = evaluation.agreement(tracked["reference"].streamlines, theirs, 0.01)
    assert same.mean() >= 0.85


@pytest.mark.parametrize("method", ["probabilistic", "ptt", "eudx"])
def test_other_algorithms_track_the_same_seeds(world, method):
    if method == "eudx" and not dipy_is_at_least(1, 12):
        pytest.skip("DIPY's eudx takes first directions since 1.12")
    pam = PeaksAndMetrics()
    pam.sphere = get_sphere(name="symmetric724")
    found = comparison._peaks_on(
        sampling.fodf_features(world.volume).data, np.eye(3), pam.sphere, 1
    )
    pam.peak_indices, pam.peak_values = found.peak_indices, found.peak_values
    pam.odf_vertices = pam.sphere.vertices
    tracked = track(world, method=method, pam=pam)
    assert [by.label for by in tracked.values()] == [
        "dipy_rnn",
        method,
        f"{method}, {'repulsion724' if method == 'eudx' else 'random seed 2'}",
    ]
    for by in tracked.values():
        # PTT ends near the border of the image.
        n_short = 6 if method == "ptt" else 2
        n_long = sum(len(line) > 5 for line in by.streamlines)
        assert n_long >= len(world.seeds) - n_short
    distances = partner_distances(tracked)
    assert np.nanmedian(distances["yardstick"]) > 0


def test_an_older_eudx_is_refused(world, monkeypatch):
    monkeypatch.setattr(dipy, "__version__", "1.11.0")
    with pytest.raises(ValueError, match=r"eudx .* install DIPY 1.12 or later"):
        track(world, method="eudx", pam=PeaksAndMetrics())


def test_peaks_on_a_sphere_are_those_of_the_phantom(world):
    sphere = get_sphere(name="symmetric724")
    volume = sampling.fodf_features(world.volume).data
    found = comparison._peaks_on(volume, np.eye(3), sphere, 1)
    fractions, directions = world.peaks()
    inside = fractions[..., 0] > 0.9
    vertices = found.odf_vertices[found.peak_indices[inside][:, 0]]
    cosines = np.abs(np.einsum("nk,nk->n", vertices, directions[inside][:, 0]))
    assert np.median(cosines) > np.cos(np.deg2rad(6))
    assert (found.peak_values[inside][:, 0] > 0).all()
    assert (found.peak_indices[~volume.any(axis=3)] == -1).all()


def test_peaks_that_do_not_fit_the_sphere_or_the_grid_are_refused(world):
    if not dipy_is_at_least(1, 12):
        pytest.skip("DIPY's eudx takes first directions since 1.12")
    pam = PeaksAndMetrics()
    pam.sphere = get_sphere(name="repulsion724")
    pam.peak_values = np.zeros((*world.shape, 5))
    valid = np.full((*world.shape, 5), -1)
    valid[0, 0, 0, 0] = 723
    too_large = valid + (valid == 723)
    for indices in (None, too_large, valid - 1, valid[:5], valid[..., 0]):
        pam.peak_indices = indices
        with pytest.raises(ValueError, match="holds no peaks that eudx can follow"):
            track(world, method="eudx", pam=pam)


def test_seeds_without_a_peak_are_left_out(world):
    world.seeds, before = np.concatenate([world.seeds, [[1e3, 0, 0]]]), world.seeds
    try:
        tracked = track(world)
    finally:
        world.seeds = before
    assert {len(by.streamlines) for by in tracked.values()} == {len(before)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "pft"}, "method is pft; deterministic, probabilistic, ptt, eudx"),
        ({"method": "eudx"}, "eudx follows peaks"),
        ({"random_seed": 0}, "random_seed is 0; 1 or more"),
        ({"features": sampling.raw_features(np.ones((2, 2, 2, 3)))}, "holds no fODF"),
    ],
)
def test_what_cannot_be_compared_is_refused(world, options, message):
    with pytest.raises(ValueError, match=message):
        track(world, **options)


def test_seeds_and_affine_may_be_lists(world):
    options = {"features": sampling.fodf_features(world.volume), "step_size": 1.0}
    one, same = (
        track_beside(seeds, world.criterion, affine, nbr_threads=1, **options)
        for seeds, affine in (
            (world.seeds[:3], world.affine),
            (world.seeds[:3].tolist(), world.affine.tolist()),
        )
    )
    for key in one:
        for line, other in zip(one[key].streamlines, same[key].streamlines):
            npt.assert_array_equal(line, other)


def test_invalid_seeds_or_affine_are_refused(world):
    options = {"features": sampling.fodf_features(world.volume)}
    with pytest.raises(ValueError, match=r"seeds has the shape \(3,\); \(N, 3\)"):
        track_beside([1, 2, 3], world.criterion, world.affine, **options)
    with pytest.raises(ValueError, match=r"affine has the shape \(3, 3\); \(4, 4\)"):
        track_beside(world.seeds, world.criterion, np.eye(3), **options)


def test_no_seed_with_a_peak_is_refused(world):
    world.seeds, before = np.full((1, 3), 1e3), world.seeds
    try:
        with pytest.raises(ValueError, match="has no peak at any seed"):
            track(world)
    finally:
        world.seeds = before


def test_streamlines_are_arranged_by_seed():
    seeds = np.array([[0.0, 0, 0], [1, 0, 0], [1, 0, 0], [2, 0, 0]])
    tracked = [(LINE, seeds[1] + 1e-8), (LINE[:2], seeds[2]), (LINE[:3], seeds[3])]
    assert [len(line) for line in by_seed(tracked, seeds)] == [0, 11, 2, 3]
    with pytest.raises(ValueError, match="No seed is left"):
        by_seed([(LINE, seeds[3]), (LINE, seeds[0])], seeds)
