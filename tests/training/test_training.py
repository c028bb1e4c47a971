"""Subjects, sequences, losses and the loop, on straight lines and tiny phantoms."""

from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import cos, pi
import pickle
import signal
import sys
import types

from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
import distributed_worker
from distributed_worker import interrupt_after, small_recipe, small_subject
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence

from dipy_rnn import rnn_tracking, sampling, spatial
from dipy_rnn.model import Cai2023, ModelMetadata, MovingFrameGRU, save_model
from dipy_rnn.phantom import circle_phantom, crossing_phantom
from dipy_rnn.training import (
    FreeRunning,
    InputNoise,
    Interrupted,
    Recipe,
    TrainingSubject,
    best_row,
    clean_streamlines,
    cosine_loss,
    deterministic_streamlines,
    fit,
    hold_out,
    load_subject,
    log,
    save_subject,
    state,
)
from dipy_rnn.training.log import TrainingLog, draw_curves
from dipy_rnn.training.selection import SubjectData, prepare_subject
from dipy_rnn.training.sequences import LEAST_STEPS, Sequences, draw_sequences, pack
from dipy_rnn.training.state import load_checkpoint, predict, save_checkpoint
from dipy_rnn.training.target_rules import largest_ahead, peak_along

NO_NOISE = InputNoise(position_vox=0.0, direction_deg=(0.0, 0.0))
DIRECTION = np.array([0.36, 0.48, 0.8])
KINDS = pytest.mark.parametrize("kind", [MovingFrameGRU, Cai2023])


def line_mm(n_steps, start=(2.0, 2.0, 2.0)):
    """Return points along DIRECTION, 0.5 mm apart."""
    return np.array(start) + 0.5 * np.arange(2 * n_steps + 1)[:, None] * DIRECTION


def coordinates(shape, affine):
    """Return a volume whose features are their coordinates: x, y, z in mm, and 1."""
    vox = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    mm = spatial.to_mm(vox, affine)
    return np.concatenate([mm, np.ones((*shape, 1))], axis=-1).astype(np.float32)


def sampled_mm(sequences):
    """Return where a volume of coordinates was sampled; features are normalised."""
    return sequences.features[:, :3] / sequences.features[:, 3:]


def uniform(lines, affine=None, shape=(9, 9, 9)):
    """Return a subject with the same features in all voxels."""
    affine = np.eye(4) if affine is None else affine
    return TrainingSubject.of(np.ones((*shape, 15), np.float32), affine, lines)


@pytest.fixture(scope="module")
def crossing():
    return small_subject()


def drawn(
    subject,
    n_sequences=4,
    *,
    frame="local",
    step_vox=1.0,
    max_points=20,
    seed=0,
    noise=NO_NOISE,
    inputs=(),
    target_rule=None,
):
    return draw_sequences(
        subject,
        n_sequences,
        frame=frame,
        inputs=inputs,
        step_vox=step_vox,
        max_points=max_points,
        rng=np.random.default_rng(seed),
        noise=noise,
        target_rule=target_rule,
    )


def each(sequences, rows):
    """Return the rows of each sequence."""
    return np.split(rows, np.cumsum(sequences.lengths)[:-1])


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(weights, others):
    return all(torch.equal(weights[name], others[name]) for name in weights)


def untrained(kind=MovingFrameGRU, hidden=8):
    torch.manual_seed(7)
    return kind(order=4, hidden=hidden)


def angles_deg(directions, others):
    return np.rad2deg(np.arccos(np.clip(np.sum(directions * others, axis=-1), -1, 1)))


def metadata(module):
    return ModelMetadata(
        "sh",
        15,
        module.frame,
        module.layers,
        module.hidden,
        normalisation="power",
        inputs=module.inputs,
    )


# Losses


def test_cosine_loss_is_the_mean_of_one_minus_the_cosines():
    x, y = torch.eye(3)[:2]
    oblique = torch.tensor([cos(pi / 3), 3**0.5 / 2, 0.0])
    predicted, target = torch.stack([x, x, x, x]), torch.stack([x, y, -x, oblique])
    assert_allclose(cosine_loss(predicted, target), (0 + 1 + 2 + 0.5) / 4, rtol=1e-6)
    weight = torch.tensor([1.0, 3.0, 0.0, 2.0])
    assert_allclose(cosine_loss(predicted, target, weight), (3 + 1) / 6, rtol=1e-6)


def test_a_width_limits_the_loss_of_large_errors_and_keeps_that_of_small_ones():
    ahead = torch.tensor([[0.0, 0.0, 1.0]])
    losses = []
    for degrees in (1.0, 90.0, 180.0):
        turn = np.deg2rad(degrees)
        aside = torch.tensor([[np.sin(turn), 0.0, np.cos(turn)]], dtype=torch.float32)
        losses.append(cosine_loss(aside, ahead, width_deg=10.0).item())
    assert_allclose(losses[0], 1 - cos(np.deg2rad(1)), rtol=0.01)
    assert_allclose(losses[1:], np.deg2rad(10) ** 2, rtol=1e-3)


# Subjects

NAN = [np.nan] * 3
# x of points on an axis through 6 voxels of 1 mm: what is kept, and what is counted.
BAD_LINES = {
    "nothing wrong": ([0, 1, 2.5], [0, 1, 2.5], {}),
    "out at the end": ([3, 4, 5.4, 5.6], [3, 4, 5.4], {"outside the image": 1}),
    "in at the start": ([-0.6, -0.4, 2], [-0.4, 2], {"outside the image": 1}),
    "the longest run": (
        [0, 1, 9, 1, 2, 3, 9, 4],
        [1, 2, 3],
        {"outside the image": 1},
    ),
    "NaN": ([0, 1, np.nan, 2, 3, 4], [2, 3, 4], {"not finite": 1}),
    "infinity": ([np.inf, 2, 4], [2, 4], {"not finite": 1}),
    "repeated": ([0, 1, 1, 1.0005, 2], [0, 1, 2], {"with repeated points": 1}),
    "all at once": (
        [9, np.nan, 0, 0, 2],
        [0, 2],
        {"outside the image": 1, "not finite": 1, "with repeated points": 1},
    ),
    "too short": ([0, 0.5, 1], None, {"too short": 1}),
    "one point": ([1], None, {"too short": 1}),
    "no point": ([], None, {"too short": 1}),
    "nothing inside": ([7, 8, 9], None, {"outside the image": 1, "too short": 1}),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_streamlines_are_cleaned_and_counted(case, oblique_affine):
    xs, left, reasons = BAD_LINES[case]
    affine = oblique_affine()
    affine[:3, :3] /= np.linalg.norm(affine[:3, :3], axis=0)
    xs = np.array(xs, float)
    finite = np.isfinite(xs)
    line = spatial.to_mm(np.where(finite, xs, 0)[:, None] * [1.0, 0, 0], affine)
    line[~finite, 1] = xs[~finite]
    counts = Counter()
    found = list(clean_streamlines([line], affine, (6, 1, 1), 1.0, counts))
    kept = {} if left is None else {"kept": 1}
    assert dict(counts) == {"read": 1} | kept | reasons
    if left is None:
        assert found == []
    else:
        expected = spatial.to_mm(np.array(left)[:, None] * [1.0, 0, 0], affine)
        assert_allclose(found[0], expected, atol=1e-5)
        assert found[0].dtype == np.float32


def test_cleaning_reads_one_streamline_at_a_time():
    def endless():
        while True:
            yield line_mm(3)

    counts = Counter()
    lines = clean_streamlines(endless(), np.eye(4), (9, 9, 9), 1.0, counts)
    assert_allclose(next(lines), line_mm(3), atol=1e-6)
    assert counts["kept"] == 1


def test_a_saved_subject_is_loaded_and_its_coordinates_are_stored_once(
    tmp_path, crossing
):
    lines = [line_mm(n).astype(np.float32) for n in (3, 8, 5)]
    saved = save_subject(tmp_path / "s", crossing.data, crossing.affine, iter(lines))
    for subject in (saved, load_subject(tmp_path / "s")):
        assert_array_equal(subject.data, crossing.data)
        assert_array_equal(subject.affine, crossing.affine)
        assert_allclose(subject.lengths_mm, [3, 8, 5], rtol=1e-6)
        assert len(subject) == 3
        for i, line in enumerate(lines):
            assert_array_equal(subject.streamline(i), line)
        # Memory-mapped, not read.
        assert isinstance(subject.data, np.memmap)
        assert isinstance(subject.points_mm.base, np.memmap)
    points = (7 + 17 + 11) * 3 * 4
    sizes = {p.name: p.stat().st_size for p in (tmp_path / "s").iterdir()}
    assert sizes["points_mm.float32"] == points
    assert sum(sizes.values()) < points + crossing.data.nbytes + 2000


def test_a_subject_without_streamlines_is_refused(tmp_path, crossing):
    with pytest.raises(ValueError, match="no streamline is left"):
        save_subject(tmp_path / "s", crossing.data, crossing.affine, iter([]))


def test_some_streamlines_of_a_subject_are_selected_without_a_copy():
    lines = [line_mm(n).astype(np.float32) for n in (3, 8, 5)]
    subject = uniform(lines)
    some = subject.select(np.array([2, 0]))
    assert len(some) == 2 and len(subject) == 3
    assert_array_equal(some.streamline(0), lines[2])
    assert_array_equal(some.streamline(1), lines[0])
    assert_allclose(some.lengths_mm, [5, 3], rtol=1e-6)
    assert some.points_mm is subject.points_mm and some.data is subject.data


def test_a_fraction_of_each_subject_is_held_out_but_never_all_streamlines():
    subjects = [uniform([line_mm(3)] * n) for n in (8, 1, 2)]
    training, validation = hold_out(subjects, 0, fraction=0.3)
    assert [len(subject) for subject in training] == [5, 1, 1]
    assert [len(subject) for subject in validation] == [3, 1]
    starts = [set(part.spans[:, 0]) for part in (training[0], validation[0])]
    assert not starts[0] & starts[1]
    training, validation = hold_out(subjects, 0, n_subjects=2)
    assert training == subjects[:1] and validation == subjects[1:]


# Sequences


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_the_target_on_a_straight_line_is_its_direction(oblique_affine, handedness):
    affine = oblique_affine(handedness)
    sequences = drawn(uniform([line_mm(10)], affine, (2, 2, 2)), 20, frame="voxel")
    along_axes = DIRECTION @ spatial.axes(affine)
    forward = np.sign(sequences.target @ along_axes)
    assert_allclose(sequences.target, forward[:, None] * along_axes, atol=1e-6)
    assert_allclose(sequences.incoming, sequences.target, atol=1e-6)
    assert set(forward) == {1, -1}  # streamlines are drawn in both directions


def test_without_noise_the_target_on_a_straight_line_is_straight_ahead():
    for seed in range(4):  # half of the draws are mirrored
        sequences = drawn(uniform([line_mm(8)]), 10, seed=seed)
        ahead = [[0, 0, 1]] * sequences.lengths.sum()
        assert_allclose(sequences.target, ahead, atol=1e-6)
        assert_array_equal(sequences.incoming, ahead)


def test_points_lie_on_the_streamline_at_equal_steps():
    affine = np.diag([2.0, 2, 2, 1])
    world = coordinates((10, 10, 10), affine)
    # The points are uneven. The length is divided into equal steps of about 0.3 mm.
    uneven = line_mm(10, start=(3.0, 2, 4))[[0, 1, 2, 6, 7, 13, 20]]
    subject = TrainingSubject.of(world, affine, [uneven])
    for asked_mm, step_mm in ((0.3, 10 / 33), (0.999, 1.0)):
        sequences = drawn(subject, 20, frame="voxel", step_vox=asked_mm / 2)
        points_mm = sampled_mm(sequences)
        across = np.cross(points_mm - [3.0, 2, 4], DIRECTION)
        assert_allclose(across, 0, atol=1e-4)
        for points, targets in zip(
            each(sequences, points_mm), each(sequences, sequences.target)
        ):
            assert 2 <= len(points) <= 20
            steps = np.diff(points, axis=0)
            assert_allclose(steps, step_mm * targets[:-1], atol=1e-4)


def test_sequences_start_at_all_points_but_the_last_two():
    subject = TrainingSubject.of(
        coordinates((12, 12, 12), np.eye(4)), np.eye(4), [line_mm(8)]
    )
    sequences = drawn(subject, 200, frame="voxel", step_vox=0.999)
    starts = np.array([points[0] for points in each(sequences, sampled_mm(sequences))])
    along = np.round((starts - 2.0) @ DIRECTION, 3)
    # Sequences are drawn in both directions, and do not start where only one step is
    # left.
    assert_allclose(np.unique(along), np.arange(9), atol=1e-3)
    assert set(sequences.lengths) == set(range(2, 9))


def test_sequences_are_packed_longest_first_and_cut_to_max_points():
    parts = [
        drawn(
            uniform([line_mm(3), line_mm(9)]), 20, max_points=5, seed=s, frame="voxel"
        )
        for s in (0, 1)
    ]
    batch = pack(parts)
    sizes = batch.batch_sizes.tolist()
    assert sizes[0] == 40 and len(sizes) == 5
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == len(batch.features) == len(batch.target)
    assert batch.batch_sizes.dtype == torch.int64
    assert {len(rows) for part in parts for rows in each(part, part.target)} == {
        2, 3, 4, 5
    }  # fmt: skip


def test_packing_keeps_the_order_of_points_in_each_sequence():
    lengths = np.array([2, 4, 1, 4])
    rows = np.arange(33.0).reshape(11, 3)
    sequences = Sequences(lengths, rows, rows + 100, rows + 300, rows + 200)
    batch = pack([sequences])
    padded, out_lengths = torch.nn.utils.rnn.pad_packed_sequence(
        PackedSequence(batch.features, batch.batch_sizes), batch_first=True
    )
    assert out_lengths.tolist() == [4, 4, 2, 1]
    for found, i in zip(padded, (1, 3, 0, 2)):  # longest first
        assert_array_equal(found[: lengths[i]], each(sequences, rows)[i])
    assert_array_equal(batch.incoming, batch.features + 100)
    assert_array_equal(batch.target, batch.features + 200)
    assert_array_equal(batch.inputs, batch.features + 300)
    # Each point has the length of its sequence.
    assert_array_equal(batch.lengths, [4, 4, 2, 1, 4, 4, 2, 4, 4, 4, 4])


def test_in_a_frame_a_lobe_along_the_line_points_ahead(lobes, oblique_affine):
    expected = lobes([[0, 0, 1.0]], 4)
    expected /= np.linalg.norm(expected)
    for handedness in (1.0, -1.0):
        affine = oblique_affine(handedness)
        lobe = lobes([DIRECTION @ spatial.axes(affine)], 4).astype(np.float32)
        data = np.ascontiguousarray(np.broadcast_to(lobe, (3, 3, 3, 15)))
        features = drawn(TrainingSubject.of(data, affine, [line_mm(8)])).features
        assert_allclose(features, expected.repeat(len(features), 0), atol=1e-5)


def test_in_a_frame_features_and_target_agree(lobes):
    # The lobe of each voxel is along the circle. So in the frame, mirrored or not, the
    # lobe is along the target.
    phantom = circle_phantom(12.0, voxel_size_mm=1.0, tube_mm=3.0)
    data = sampling.fodf_features(phantom.fodf(8)).data
    subject = TrainingSubject.of(data, phantom.affine, phantom.streamlines(4)[0])
    noise = InputNoise(position_vox=0.0, direction_deg=(0.0, 10.0))
    for seed in range(4):
        sequences = drawn(subject, 4, seed=seed, step_vox=0.2, noise=noise)
        expected = lobes(sequences.target.astype(float), 8)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        assert np.mean(np.sum(sequences.features * expected, axis=1)) > 0.97
        assert sequences.target[:, 2].min() < 0.999


def test_positions_have_the_noise_that_is_given():
    affine = np.eye(4)
    subject = TrainingSubject.of(
        coordinates((40, 40, 40), affine), affine, [line_mm(20, start=(12.0, 12, 12))]
    )
    sequences = drawn(
        subject,
        300,
        frame="voxel",
        noise=InputNoise(position_vox=0.7, direction_deg=(0.0, 0.0)),
    )
    across = sampled_mm(sequences) - 12.0
    across -= np.outer(across @ DIRECTION, DIRECTION)
    # Two of three dimensions are perpendicular to the line. The noise of a single point
    # is 0.3 times that of the whole sequence.
    expected = 0.7 * np.sqrt(2 / 3 * (1 + 0.3**2))
    assert_allclose(np.sqrt(np.mean(np.sum(across**2, axis=1))), expected, rtol=0.1)
    assert_allclose(np.abs(sequences.incoming @ DIRECTION), 1, rtol=1e-5)


def test_points_outside_the_image_are_moved_to_its_border():
    affine = np.eye(4)
    subject = TrainingSubject.of(
        coordinates((12, 12, 12), affine), affine, [line_mm(11, start=(0.0, 0, 0))]
    )
    noise = InputNoise(position_vox=8.0, direction_deg=(0.0, 0.0))
    points_mm = sampled_mm(drawn(subject, 100, frame="voxel", noise=noise))
    assert np.isfinite(points_mm).all()
    assert points_mm.min() >= -0.5 and points_mm.max() <= 11.5


def test_incoming_directions_have_the_noise_and_correlation_that_are_given():
    sequences = drawn(
        uniform([line_mm(20)]),
        300,
        frame="voxel",
        step_vox=0.5,
        noise=InputNoise(0.0, direction_deg=(2.0, 6.0), memory_vox=2.0),
    )
    error = np.cross(sequences.incoming, sequences.target)
    turn_deg = np.rad2deg(np.arcsin(np.linalg.norm(error, axis=1)))
    # Two dimensions are perpendicular to the line. The mean square of a uniform number
    # in the range is (4 + 12 + 36) / 3.
    assert_allclose(np.sqrt(np.mean(turn_deg**2)), np.sqrt(2 * 52 / 3), rtol=0.1)
    pairs = [pair for one in each(sequences, error) for pair in pairwise(one)]
    before, after = np.moveaxis(np.array(pairs), 1, 0)
    correlation = np.sum(before * after) / np.sum(before**2)
    assert_allclose(correlation, np.exp(-0.5 / 2), atol=0.06)


def test_features_have_the_noise_and_correlation_that_are_given():
    clear = np.zeros(15, np.float32)
    clear[:10] = 10**-0.5
    data = np.ascontiguousarray(np.broadcast_to(7 * clear, (9, 9, 9, 15)))
    sequences = drawn(
        TrainingSubject.of(data, np.eye(4), [line_mm(20)]),
        300,
        frame="voxel",
        step_vox=0.5,
        noise=replace(NO_NOISE, features=(0.1, 0.3), memory_vox=2.0),
    )
    features = sequences.features
    assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    # Features that are zero stay zero, such as orders that were not fitted.
    assert_array_equal(features[:, 10:], 0)
    # Nine of 15 dimensions are across. The mean square of the range is 0.13 / 3.
    across = features / (features @ clear)[:, None] - clear
    expected = np.sqrt(9 / 15 * 0.13 / 3)
    assert_allclose(np.sqrt(np.mean(np.sum(across**2, 1))), expected, rtol=0.1)
    pairs = [pair for one in each(sequences, across) for pair in pairwise(one)]
    before, after = np.moveaxis(np.array(pairs), 1, 0)
    correlation = np.sum(before * after) / np.sum(before**2)
    assert_allclose(correlation, np.exp(-0.5 / 2), atol=0.06)


def test_the_same_generator_draws_the_same_sequences(crossing):
    one, again, other = (drawn(crossing, noise=None, seed=s) for s in (1, 1, 2))
    for name in ("lengths", "features", "incoming", "target"):
        assert_array_equal(getattr(one, name), getattr(again, name))
    assert not np.array_equal(one.features[:2], other.features[:2])


def test_streamlines_too_short_for_a_step_are_refused():
    line = np.array([[4.0, 4, 4], [5.0, 4, 4]])
    with pytest.raises(ValueError, match=r"two steps of 1\.5 mm"):
        drawn(uniform([line]), 2, step_vox=1.5)


def test_a_streamline_of_two_steps_and_a_margin_is_long_enough():
    line = np.array([[2.0, 4, 4], [4.001, 4, 4]])
    with pytest.raises(ValueError, match="two steps of 1 mm"):
        drawn(uniform([line]), 2)
    line[1, 0] = 2 + LEAST_STEPS + 1e-3
    assert set(drawn(uniform([line]), 2).lengths) == {2}


@pytest.mark.parametrize("frame", ["local", "voxel"])
@pytest.mark.parametrize("target_rule", [None, peak_along])
def test_all_directions_at_a_fold_are_finite(frame, target_rule):
    # First line: the fourth of seven steps of 8/7 mm starts and ends 3.43 mm from the
    # first point. Second line: each step of 8 mm ends where it started.
    for xs, step_vox in (([1, 5, 1], 1.1), ([1, 5, 1, 5, 1, 5, 1], 7.9)):
        line = np.array([[x, 5.0, 5.0] for x in xs])
        sequences = drawn(
            uniform([line]), 40, frame=frame, step_vox=step_vox, target_rule=target_rule
        )
        for values in (sequences.features, sequences.incoming, sequences.target):
            assert np.isfinite(values).all()
        assert_allclose(np.linalg.norm(sequences.incoming, axis=1), 1, atol=1e-6)


# Target rules


def test_the_largest_value_ahead_is_at_a_vertex_of_a_rotated_sphere(lobes):
    peaks = np.concatenate([aside(20)] * 400)
    rng = np.random.default_rng(0)
    found = largest_ahead(lobes(peaks), peaks, 45.0, rng)
    away = angles_deg(found, peaks)
    assert away.max() < 7  # vertices are 8 degrees apart
    assert len(np.unique(found.round(6), axis=0)) == 8  # one vertex for each rotation
    everywhere = largest_ahead(lobes(peaks), peaks, 45.0, np.random.default_rng(1))
    assert not np.array_equal(found, everywhere)


def test_without_a_vertex_in_the_cone_the_target_is_the_tangent(lobes):
    rng = np.random.default_rng(0)
    found = largest_ahead(lobes(aside(20)), aside(20), 1e-3, rng)
    assert_array_equal(found, [[0, 0, 1]])


def aside(degrees):
    """Return a unit vector (1, 3) at an angle to the third axis."""
    turn = np.deg2rad(degrees)
    return np.array([[np.sin(turn), 0.0, np.cos(turn)]])


def test_the_peak_is_found_within_the_spacing_of_directions(lobes):
    rng = np.random.default_rng(0)
    turn, azimuth = np.deg2rad(rng.uniform(0, 60, 40)), rng.uniform(0, 2 * pi, 40)
    sine = np.sin(turn)
    peaks = np.column_stack(
        [sine * np.cos(azimuth), sine * np.sin(azimuth), np.cos(turn)]
    )
    near = peaks + rng.normal(scale=0.1, size=peaks.shape)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    found = peak_along(lobes(peaks), near, 70.0)
    assert angles_deg(found, peaks).max() < 3


def test_of_two_peaks_the_one_nearer_to_the_streamline_is_chosen(lobes):
    find = partial(peak_along, max_angle_deg=70.0)
    both = lobes(aside(-35)) + lobes(aside(35))
    for side in (-1, 1):
        (found,) = find(both, aside(10 * side))
        assert angles_deg(found, aside(35 * side)[0]) < 3
    # A larger, more distant peak is chosen only if the weight of the angle is low.
    unequal = lobes(aside(0)) + 2 * lobes(aside(60))
    assert angles_deg(find(unequal, aside(0)), aside(0)) < 3
    largest = find(unequal, aside(0), straightness=0.5)
    assert angles_deg(largest, aside(60)) < 3


def test_the_target_stays_in_the_cone_and_on_the_side_of_the_peak(lobes):
    target = peak_along(lobes(aside(40)), aside(20), 28.0)
    assert angles_deg(target, aside(28)) < 2
    rng = np.random.default_rng(0)
    target = largest_ahead(lobes(aside(40)), aside(20), 28.0, rng)
    assert angles_deg(target, [0.0, 0, 1]) < 28
    assert angles_deg(target, aside(24)) < 9


# Vertices of DIPY's sphere are 8 degrees apart.
@pytest.mark.parametrize(
    ("target_rule", "limit_deg"), [(largest_ahead, 7), (peak_along, 3)]
)
@pytest.mark.parametrize("frame", ["local", "voxel"])
def test_a_target_rule_returns_the_peak_not_the_streamline(
    target_rule, limit_deg, frame, lobes, oblique_affine
):
    # All peaks of the volume are along x; the streamline is not.
    affine = oblique_affine()
    axis = spatial.axes(affine).T @ [1.0, 0, 0]
    data = np.broadcast_to(lobes([axis])[0], (9, 9, 9, 45)).astype(np.float32)
    line = spatial.to_mm([[4.0, 4, 4]], affine) + np.linspace(0, 5, 20)[:, None] * [
        cos(0.3),
        np.sin(0.3),
        0,
    ]
    target = drawn(
        TrainingSubject.of(data.copy(), affine, [line]),
        20,
        frame=frame,
        step_vox=0.5,
        max_points=9,
        target_rule=target_rule,
    ).target
    if frame == "voxel":
        assert np.abs(target @ axis).min() > cos(np.deg2rad(limit_deg))
    else:
        assert_allclose(target[:, 2], cos(0.3), atol=0.3 * np.deg2rad(limit_deg))


def test_deterministic_streamlines_depend_on_the_seed_only(crossing):
    make = partial(deterministic_streamlines, crossing.data, crossing.affine, 8)
    one, again, other = (list(make(random_seed=s)) for s in (0, 0, 1))
    assert len(one) == len(again) == 8
    for a, b in zip(one, again):
        assert_array_equal(a, b)
    assert not all(np.array_equal(a, b) for a, b in zip(one, other))
    # Both bundles of the phantom are in the x-y plane.
    along = np.concatenate([np.diff(line, axis=0) for line in one if len(line) > 5])
    assert np.abs(along[:, 2]).mean() < 0.2 * np.linalg.norm(along, axis=1).mean()


def test_deterministic_streamlines_stay_above_the_threshold(crossing):
    image = np.zeros(crossing.data.shape[:3])
    image[:5] = 1.0
    lines = list(
        deterministic_streamlines(crossing.data, crossing.affine, 8, above=(image, 0.5))
    )
    vox = spatial.to_voxels(np.concatenate(lines), crossing.affine)
    assert vox[:, 0].max() < 4.8
    with pytest.raises(ValueError, match=r"no voxel above 1\.5"):
        deterministic_streamlines(crossing.data, crossing.affine, 8, above=(image, 1.5))


# Recipes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_updates", 0),
        ("max_points", 1),
        ("patience", -1),
        ("max_minutes", float("nan")),
        ("random_seed", -1),
        ("step_vox", (1.0, 0.5)),
        ("step_vox", (0.0, 0.5)),
        ("step_vox", (0.5,)),
        ("step_vox", 0.5),
        ("max_angle_deg", (0.0, 45.0)),
        ("max_angle_deg", (15.0, 91.0)),
        ("max_angle_deg", (45.0, 15.0)),
        ("width_deg", (0.0, 0.0)),
        ("width_deg", (40.0,)),
        ("width_deg", (-40.0, -12.0)),
        ("width_deg", (40.0, float("inf"))),
        ("width_deg", 40.0),
        ("width_deg", "ab"),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("teacher", "nobody"),
        ("weight", "voxel"),
    ],
)
def test_a_recipe_with_an_option_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is "):
        Recipe(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("position_vox", -0.7),
        ("position_vox", float("inf")),
        ("memory_vox", -2.0),
        ("memory_vox", float("nan")),
        ("direction_deg", (15.0, 4.0)),
        ("direction_deg", (-4.0, 15.0)),
        ("direction_deg", (4.0,)),
        ("direction_deg", 4.0),
        ("features", (0.3, 0.1)),
        ("features", (0.0, float("nan"))),
        ("features", None),
    ],
)
def test_input_noise_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is "):
        InputNoise(**{name: value})


# The loop


@KINDS
def test_packed_sequences_give_the_same_directions_as_single_steps(kind, crossing):
    module = untrained(kind).eval()
    for value in module.parameters():  # an untrained network does not use its state
        torch.nn.init.normal_(value, std=0.3)
    sequences = drawn(crossing, 6, frame=module.frame, inputs=kind.inputs, noise=None)
    with torch.no_grad():
        packed = pack([sequences])
        predicted, _ = torch.nn.utils.rnn.pad_packed_sequence(
            PackedSequence(predict(module, packed), packed.batch_sizes),
            batch_first=True,
        )
        longest_first = np.argsort(-sequences.lengths, kind="stable")
        for directions, i in zip(predicted, longest_first):
            state = module.init_state(1)
            steps = zip(
                each(sequences, sequences.features)[i],
                each(sequences, sequences.incoming)[i],
                each(sequences, sequences.inputs)[i],
            )
            for t, (features, incoming, inputs) in enumerate(steps):
                expected, state = module(
                    torch.from_numpy(features[None]).float(),
                    torch.from_numpy(np.array(incoming)[None]).float(),
                    state,
                    torch.from_numpy(inputs[None]),
                )
                assert_allclose(directions[t], expected[0], atol=1e-5)


@pytest.mark.parametrize(
    ("weight", "loss", "error_deg"), [("point", 1 / 4, 22.5), ("streamline", 1 / 2, 45)]
)
def test_each_point_or_each_streamline_has_the_same_weight(
    weight, loss, error_deg, crossing, monkeypatch
):
    # An untrained network predicts the direction ahead of its inputs. The target of the
    # first sequence is across that, the three targets of the second one are along it.
    ahead, across = np.array([[0.0, 0, 1]]), np.array([[1.0, 0, 0]])
    two = Sequences(
        np.array([1, 3]),
        np.eye(1, 15).repeat(4, 0),
        ahead.repeat(4, 0),
        np.array([[0.5, 60.0, 0, 0, 1]]).repeat(4, 0),
        np.concatenate([across, ahead, ahead, ahead]),
    )
    monkeypatch.setattr(state, "draw_sequences", lambda *_, **__: two)
    recipe = small_recipe(n_updates=1, n_references=1, weight=weight, width_deg=None)
    (row,) = fit(untrained(), [crossing], recipe)
    assert_allclose(row["loss"], loss, atol=1e-6)
    assert_allclose(row["error_deg"], error_deg, atol=0.05)


@KINDS
def test_the_same_seed_gives_the_same_weights_with_any_number_of_threads(
    kind, crossing
):
    def trained(random_seed, nbr_threads=1):
        module = untrained(kind)
        recipe = small_recipe(n_updates=4, random_seed=random_seed)
        history = fit(module, [crossing], recipe, nbr_threads=nbr_threads)
        return weights(module), [without_minutes(row) for row in history]

    (one, history), (again, same_history), (threads, _), (other, _) = (
        trained(*arguments) for arguments in ((1,), (1,), (1, 3), (2,))
    )
    assert history == same_history
    assert same(one, again) and same(one, threads) and not same(one, other)


def without_minutes(row):
    return {name: value for name, value in row.items() if name != "minutes"}


@KINDS
def test_the_loss_falls_on_a_tiny_phantom(kind, crossing):
    module = untrained(kind, hidden=16)
    # The noise shifts the peaks, which an untrained MovingFrameGRU follows.
    noise = InputNoise(features=(0.6, 0.6))
    drawn_sequences = drawn(
        crossing, 40, frame=module.frame, inputs=kind.inputs, seed=99, noise=noise
    )
    batch = pack([drawn_sequences])

    @torch.no_grad()
    def loss():
        return cosine_loss(predict(module, batch), batch.target).item()

    before = loss()
    recipe = Recipe(
        n_updates=40,
        n_references=1,
        n_sequences=16,
        max_points=10,
        learning_rate=5e-3,
        validate_every=20,
        width_deg=None,
        blur=noise,
    )
    history = fit(module, [crossing], recipe)
    assert [row["update"] for row in history] == [20, 40]
    assert 0 < history[-1]["error_deg"] < 90
    assert history[-1]["learning_rate"] < 1e-9 < history[0]["learning_rate"]
    assert not module.training
    assert loss() < 0.8 * before


def test_batches_vary_and_have_all_subjects_before_one_occurs_twice(
    crossing, monkeypatch
):
    subjects = [crossing.select(np.arange(n)) for n in (1, 2, 3, 4, 5)]
    calls = []

    def recording(subject, *arguments, step_vox, rng, **options):
        dice = np.random.default_rng()
        dice.bit_generator.state = rng.bit_generator.state
        calls.append((len(subject), step_vox, dice.random()))
        return draw_sequences(
            subject, *arguments, step_vox=step_vox, rng=rng, **options
        )

    monkeypatch.setattr(state, "draw_sequences", recording)
    fit(untrained(), subjects, small_recipe(n_updates=3, n_references=7))
    who, steps, dice = map(np.array, zip(*calls[: 3 * 7]))
    for batch in who.reshape(3, 7):
        assert sorted(batch[:5]) == [1, 2, 3, 4, 5]
        assert len(set(batch[5:])) == 2
    assert len({tuple(batch) for batch in who.reshape(3, 7)}) == 3
    # One step size and one random generator for each part of a batch.
    assert len(set(steps)) == 3 * 7
    assert (steps > 0.05).all() and (steps < 1.0).all()
    assert len(set(dice)) == 3 * 7


# The signal is sent during the update before. Updates 4 and 6 are validated.
@pytest.mark.parametrize("stopped_at", [3, 4, 6])
def test_an_interrupted_and_resumed_training_equals_an_uninterrupted_one(
    stopped_at, crossing, tmp_path
):
    def validate(module):  # best in the middle
        return {"followed": [0.2, 0.8, 0.5][len(validated.append(1) or validated) - 1]}

    recipe, path = small_recipe(n_updates=6), tmp_path / "checkpoint.pt"
    whole, cut, resumed = untrained(), untrained(), untrained()
    validated = []
    history = fit(whole, [crossing], recipe, validate=validate)
    assert len(history) == 3 and best_row(history)["update"] == 4

    validated = []
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with (
        interrupt_after(stopped_at - 1),
        pytest.raises(Interrupted, match=f"update {stopped_at} of 6"),
    ):
        fit(cut, [crossing], recipe, validate=validate, checkpoint=path)
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]

    torch.manual_seed(99)  # the result does not depend on global generators
    for value in resumed.parameters():
        torch.nn.init.normal_(value)
    reported = []
    resumed_history = fit(
        resumed,
        [crossing],
        recipe,
        validate=validate,
        checkpoint=path,
        resume=True,
        report=lambda history: reported.append(history[-1]["update"]),
    )
    assert list(map(without_minutes, resumed_history)) == list(
        map(without_minutes, history)
    )
    assert same(weights(resumed), weights(whole))
    assert reported == [u for u in (2, 4, 6) if u >= stopped_at]
    # Minutes continue from those before the interruption.
    minutes = [row["minutes"] for row in resumed_history]
    assert minutes == sorted(minutes)


def test_resuming_a_finished_training_returns_its_weights(crossing, tmp_path):
    recipe, path = small_recipe(n_updates=2), tmp_path / "checkpoint.pt"
    one, again = untrained(), untrained()
    history = fit(one, [crossing], recipe, checkpoint=path)
    assert history == fit(again, [crossing], recipe, checkpoint=path, resume=True)
    assert same(weights(one), weights(again))


def test_patience_stops_the_training_and_the_best_weights_are_kept(crossing):
    shares, seen = iter([0.5, 0.9, 0.3, 0.2, 0.1, 0.0]), []

    def validate(module):
        seen.append(weights(module))
        return {"followed": next(shares)}

    module = untrained()
    recipe = small_recipe(n_updates=50, validate_every=1, patience=2)
    history = fit(module, [crossing], recipe, validate=validate)
    assert [row["followed"] for row in history] == [0.5, 0.9, 0.3, 0.2]
    assert same(weights(module), seen[1])
    assert not same(seen[1], seen[3])


def test_a_time_budget_completes_the_schedule(crossing):
    recipe = small_recipe(n_updates=10**9, validate_every=10**9, max_minutes=0.6 / 60)
    (row,) = fit(untrained(), [crossing], recipe)
    assert row["learning_rate"] == 0 and row["update"] > 1
    assert 0.6 / 60 <= row["minutes"] < 5 / 60


def test_a_loss_that_is_not_finite_leaves_weights_and_checkpoint_unchanged(
    crossing, tmp_path, monkeypatch
):
    module, path = untrained(), tmp_path / "checkpoint.pt"
    recipe = small_recipe(n_updates=6)
    with interrupt_after(2), pytest.raises(Interrupted):
        fit(module, [crossing], recipe, checkpoint=path)
    before, good = path.read_bytes(), weights(module)
    monkeypatch.setattr(
        "dipy_rnn.training.state.cosine_loss",
        lambda *given, **named: cosine_loss(*given, **named) * np.nan,
    )
    with pytest.raises(FloatingPointError, match=r"The loss is nan .* at update 4"):
        fit(module, [crossing], recipe, checkpoint=path, resume=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert same(good, weights(module))


def test_a_checkpoint_of_other_data_is_refused(checkpoint, crossing):
    other = replace(crossing, data=crossing.data + np.float32(1e-3))
    with pytest.raises(ValueError, match=r"checksums\) is \[\d+\], here it is"):
        fit(
            untrained(),
            [other],
            small_recipe(n_updates=2),
            checkpoint=checkpoint,
            resume=True,
        )


def test_patience_needs_a_validation(crossing):
    with pytest.raises(ValueError, match="patience is 2, but nothing is held out"):
        fit(untrained(), [crossing], small_recipe(patience=2))


def test_a_training_needs_a_subject():
    with pytest.raises(ValueError, match="subjects is empty; at least one"):
        fit(untrained(), [], small_recipe())


@pytest.mark.parametrize("validated_first", [True, False])
def test_a_training_is_resumed_with_a_validation_or_without_one(
    validated_first, crossing, tmp_path
):
    def run(validated, **options):
        return fit(
            untrained(),
            [crossing],
            small_recipe(n_updates=4),
            validate=(lambda module: {"followed": 0.5}) if validated else None,
            checkpoint=tmp_path / "checkpoint.pt",
            report=TrainingLog(tmp_path),
            **options,
        )

    with interrupt_after(2), pytest.raises(Interrupted):
        run(validated_first)
    history = run(not validated_first, resume=True)
    assert ["followed" in row for row in history] == [
        validated_first,
        not validated_first,
    ]
    first, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert first == "update,minutes,learning_rate,loss,error_deg,followed"
    ends = ["0.5" if "followed" in row else "" for row in history]
    assert [row.split(",")[-1] for row in rows] == ends


# Checkpoints


@pytest.fixture
def checkpoint(crossing, tmp_path):
    path = tmp_path / "checkpoint.pt"
    fit(untrained(), [crossing], small_recipe(n_updates=2), checkpoint=path)
    return path


@pytest.mark.parametrize(
    ("changes", "hidden", "n_lines", "named"),
    [
        ({"learning_rate": 1e-3}, 8, 8, "learning_rate is 0.002, here it is 0.001"),
        ({"n_updates": 3}, 8, 8, "n_updates is 2, here it is 3"),
        ({"weight": "streamline"}, 8, 8, "weight is point"),
        ({"step_vox": (0.5, 1.0)}, 8, 8, "step_vox is"),
        (
            {"blur": InputNoise(position_vox=0.1)},
            8,
            8,
            "position_vox is 0.35, here it is 0.1",
        ),
        ({}, 9, 8, "hidden is 8, here it is 9"),
        ({}, 8, 7, r"streamlines is \[8\], here it is \[7\]"),
    ],
)
def test_the_error_for_a_checkpoint_of_another_training_names_the_difference(
    changes, hidden, n_lines, named, checkpoint, crossing
):
    recipe = replace(small_recipe(n_updates=2), **changes)
    subject = crossing.select(np.arange(n_lines))
    with pytest.raises(ValueError, match=named):
        fit(
            untrained(hidden=hidden),
            [subject],
            recipe,
            checkpoint=checkpoint,
            resume=True,
        )


def test_a_file_of_torch_that_is_not_a_checkpoint_is_refused(checkpoint, crossing):
    torch.save({"weights": torch.zeros(3)}, checkpoint)
    with pytest.raises(ValueError, match="belongs to another training"):
        fit(untrained(), [crossing], small_recipe(), checkpoint=checkpoint, resume=True)


def write_pickle(thing, path):
    path.write_bytes(pickle.dumps(thing, protocol=2))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("write", [torch.save, write_pickle])
def test_a_checkpoint_runs_no_code(write, tmp_path):
    path, made = tmp_path / "checkpoint.pt", tmp_path / "made"
    write({"what": Malicious(made)}, path)
    with pytest.raises(ValueError, match="is not a valid checkpoint"):
        load_checkpoint(path)
    assert not made.exists()


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04 half of it"])
def test_an_invalid_checkpoint_is_refused_in_one_line(content, tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(ValueError, match="There is no checkpoint"):
        load_checkpoint(path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a valid checkpoint") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_earlier_checkpoint(checkpoint):
    snapshot, before = load_checkpoint(checkpoint), checkpoint.read_bytes()
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r"checkpoint\.pt cannot be written"
        ) as caught:
            save_checkpoint(snapshot, checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert checkpoint.read_bytes() == before
    assert [p.name for p in checkpoint.parent.iterdir()] == [checkpoint.name]


# Several processes


needs_gloo = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch was built without gloo",
)


@needs_gloo
def test_two_processes_give_the_weights_of_one(tmp_path):
    alone, alone_history = distributed_worker.train(tmp_path / "alone")
    worker = [sys.executable, distributed_worker.__file__, tmp_path / "both"]
    ends = distributed_worker.distributed(worker)
    assert [code for code, _, _ in ends] == [0, 0], ends
    results = [
        torch.load(tmp_path / "both" / f"{rank}.pt", weights_only=True)
        for rank in (0, 1)
    ]
    for result in results:
        # One process received the signal, and both stopped after the same update.
        assert result["interrupted"] == "update 5 of 8"
        for name, value in alone.items():
            assert_allclose(result["weights"][name], value, atol=1e-5)
        assert len(result["history"]) == len(alone_history) == 4
        for row, expected in zip(result["history"], alone_history):
            for name in ("update", "learning_rate", "loss", "error_deg", "followed"):
                assert_allclose(row[name], expected[name], rtol=1e-3, atol=1e-6)
    assert same(results[0]["weights"], results[1]["weights"])
    # Only the first process reported.
    assert [result["reports"] for result in results] == [4, 0]


SENDING = """
import torch
from dipy_rnn.training.processes import from_first, process_group, rank

class Unsent(Exception):
    def __init__(self, what, why):
        super().__init__(what)
        self.why = why

def fail(error):
    raise error

with process_group(torch.device("cpu")):
    for make in (
        lambda: fail(ValueError("plain")),
        lambda: fail(Unsent("not written", lambda: None)),
        lambda: fail(Unsent("not read", 3)),
        lambda: open(__import__("os").devnull),
        lambda: "a value",
    ):
        try:
            print(from_first(make))
        except Exception as error:
            print(type(error).__name__, error)
"""


@needs_gloo
def test_an_error_in_the_first_process_is_raised_in_all():
    ends = distributed_worker.distributed([sys.executable, "-c", SENDING])
    assert [code for code, _, _ in ends] == [0, 0], ends
    (first, other) = (out.splitlines() for _, out, _ in ends)
    assert first[0] == other[0] == "ValueError plain"
    # The first process raises the error itself.
    assert first[1:3] == ["Unsent not written", "Unsent not read"]
    assert other[1:3] == [
        "RuntimeError Unsent('not written')",
        "RuntimeError Unsent('not read')",
    ]
    # A value that cannot be pickled is an error, too. Later calls still agree.
    assert "cannot" in first[3] and "TextIOWrapper" in first[3]
    assert other[3] == first[3]
    assert first[4] == other[4] == "a value"


# Validation


@pytest.fixture(scope="module")
def straight(lobes):
    """Return a straight bundle along x, in 12 x 7 x 7 voxels of 2 mm."""
    data = np.zeros((12, 7, 7, 15), np.float32)
    data[:, 2:5, 2:5] = lobes([[1.0, 0, 0]], 4)[0]
    xs = np.arange(2.0, 20.1, 0.5)
    lines = [
        np.column_stack([xs, np.full_like(xs, y), np.full_like(xs, 6)])
        for y in (5.0, 6.0, 7.0)
    ]
    return TrainingSubject.of(data, np.diag([2.0, 2, 2, 1]), lines)


def test_an_untrained_network_follows_a_straight_bundle_from_end_to_end(straight):
    module = untrained().train()
    metrics = FreeRunning([straight], metadata(module), Recipe())(module)
    assert metrics.keys() == {"held_out_error_deg", "followed", "followed_se"}
    assert metrics["followed"] == 1.0
    assert metrics["followed_se"] == 0.0
    assert not module.training


def test_a_streamline_of_few_points_is_followed_too(straight):
    sparse = TrainingSubject.of(
        straight.data,
        straight.affine,
        [straight.streamline(i)[[0, 10, -1]] for i in range(3)],
    )
    module = untrained()
    assert FreeRunning([sparse], metadata(module), Recipe())(module)["followed"] == 1.0


def test_a_bend_is_not_followed_without_a_fodf():
    phantom = circle_phantom(12.0, voxel_size_mm=2.0, tube_mm=3.0)
    lines = [line[: len(line) // 3] for line in phantom.streamlines(6)[0]]
    data = sampling.fodf_features(phantom.fodf(4)).data
    isotropic = np.zeros_like(data)
    isotropic[..., 0] = 1.0
    module = untrained()
    for volume, share in ((data, 1.0), (isotropic, 0.0)):
        subject = TrainingSubject.of(volume, phantom.affine, lines)
        validate = FreeRunning([subject], metadata(module), Recipe())
        assert validate(module)["followed"] == share


def test_validation_gives_the_same_metrics_each_time(straight):
    module = untrained()
    validate = FreeRunning(
        [straight, replace(straight, data=np.zeros_like(straight.data))],
        metadata(module),
        Recipe(),
        n_streamlines=4,
    )
    assert validate(module) == validate(module)


# The log


HISTORY = [
    {"update": 5, "minutes": 0.1, "loss": 0.5, "error_deg": 20.0, "followed": 0.25},
    {"update": 10, "minutes": 0.2, "loss": 0.25, "error_deg": 10.0, "followed": 0.75},
]


def test_the_log_is_a_table_and_a_plot(tmp_path):
    from matplotlib.image import imread

    log = TrainingLog(tmp_path)
    for n in (1, 2):
        log(HISTORY[:n])
    assert (tmp_path / "log.csv").read_text().splitlines() == [
        "update,minutes,loss,error_deg,followed",
        "5,0.1,0.5,20.0,0.25",
        "10,0.2,0.25,10.0,0.75",
    ]
    picture = imread(tmp_path / "curves.png")[..., :3]
    assert min(picture.shape[:2]) > 200
    colours = np.unique((255 * picture).astype(int).reshape(-1, 3), axis=0)
    assert len(colours) > 10
    for colour in ([31, 119, 180], [255, 127, 14]):  # both curves
        assert (np.abs(colours - colour).max(axis=1) < 3).any()
    left = {path.name for path in tmp_path.iterdir()}
    assert {"log.csv", "curves.png"} <= left
    assert all(name.startswith("events") for name in left - {"log.csv", "curves.png"})


def test_tensorboard_gets_each_row_once(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            assert folder == tmp_path

        def add_scalar(self, name, value, update):
            written.append((update, name, value))

        def flush(self):
            written.append("flushed")

    module = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(log, "draw_curves", lambda *_: None)
    write = TrainingLog(tmp_path)
    for n in (1, 2):
        write(HISTORY[:n])
    assert written.pop() == "flushed"
    rows = [row for row in written if row != "flushed"]
    assert sorted(rows) == sorted(
        (row["update"], name, value)
        for row in HISTORY
        for name, value in row.items()
        if name != "update"
    )


def test_a_log_without_a_row_leaves_no_file(tmp_path):
    TrainingLog(tmp_path).close()
    assert not list(tmp_path.iterdir())


def test_curves_need_no_validation(tmp_path):
    rows = [{"update": 1, "loss": 0.5, "error_deg": 3.0}]
    draw_curves(rows, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize("order", [1, -1])
def test_a_missing_value_is_blank_in_the_table(order, tmp_path):
    rows = [{"update": 1, "loss": 1.0, "followed": 0.5}, {"update": 2, "loss": 1.0}]
    TrainingLog(tmp_path)(rows[::order])
    lines = ["update,loss,followed", *["1,1.0,0.5", "2,1.0,"][::order]]
    assert (tmp_path / "log.csv").read_text().splitlines() == lines


@pytest.mark.parametrize("order", [1, -1])
def test_a_curve_has_a_gap_at_a_missing_value(order, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    plotted, plot = {}, Axes.plot

    def recording(self, updates, values, *style, **options):
        plotted[options["label"]] = list(values)
        return plot(self, updates, values, *style, **options)

    monkeypatch.setattr(Axes, "plot", recording)
    rows = [{"update": 1, "followed": 0.5}, {"update": 2, "error_deg": 3.0}]
    draw_curves(rows[::order], tmp_path / "curves.png")
    assert_array_equal(plotted["held out"], [0.5, np.nan][::order])
    assert_array_equal(plotted["training"], [np.nan, 3.0][::order])


# Training and tracking


@KINDS
def test_both_architectures_train_and_then_track(kind, tmp_path):
    phantom = crossing_phantom(90.0, shape=(16, 16, 8))
    features = sampling.fodf_features(phantom.fodf(4))
    streamlines, _ = phantom.streamlines(20)
    torch.manual_seed(0)
    module = kind(4, hidden=32, layers=1)
    recipe = Recipe(
        n_updates=150,
        n_references=1,
        n_sequences=48,
        learning_rate=5e-3,
        width_deg=None,
        max_points=16,
    )
    subject = TrainingSubject.of(features.data, phantom.affine, streamlines)
    fit(module, [subject], recipe)
    path = tmp_path / "trained.pt"
    save_model(module, metadata(module), path)
    seeds = [line[len(line) // 3] for line in streamlines]
    lines = list(
        rnn_tracking(
            seeds,
            BinaryStoppingCriterion(phantom.mask()),
            phantom.affine,
            features=features,
            model=path,
            step_size=0.5,
            min_len=0,
        )
    )
    # The bundles are 29 mm long.
    lengths = np.array([0.5 * (len(line) - 1) for line in lines])
    assert len(lines) == len(seeds) and np.median(lengths) > 20


def test_if_streamlines_fit_in_another_space_the_error_says_so(tmp_path):
    phantom = crossing_phantom(90)
    affine = phantom.affine.copy()
    affine[:3, 3] += 200
    lines = [(line + 200) * [-1, -1, 1] for line in phantom.streamlines(5)[0]]
    data = sampling.fodf_features(phantom.fodf(4)).data
    source = SubjectData("fODF", "bundles", data, affine, lines)
    with pytest.raises(ValueError, match=r"in the space of fODF\? They fit in LPS"):
        prepare_subject(source, tmp_path, max_step_vox=1.0)
