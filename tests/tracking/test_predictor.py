"""Predictors: kernels and TorchScript give the same directions, states are kept."""

from functools import partial

from archives import volume
from networks import SHAPE, metadata_of, network, random_path, random_volume
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest
from stubs import FieldFollower, StepCounter
import torch
from torch import Tensor

from dipy_rnn import _threads, sampling
from dipy_rnn.model import (
    ModelFileError,
    ModelMetadata,
    as_model,
    load_model,
    save_model,
)
from dipy_rnn.tracking.config import TrackingConfig
from dipy_rnn.tracking.predictor import CompiledStates, Predictor, ScriptedStates

RAW = ModelMetadata("raw", 3, "voxel", 1, 1)


# With this threshold, some points of a random volume have nothing ahead.
CONFIG = TrackingConfig.of(
    np.eye(4), step_size=0.5, max_angle=60, pmf_threshold=0.7, max_points=9
)


def predictors(module, volume, axes):
    """Return predictors with the same network, as a kernel and as TorchScript."""
    features = sampling.FeatureVolume(volume, "sh")
    return [
        Predictor(features, as_model(module, metadata_of(module, name)), axes, 1)
        for name in ("moving_frame", "")
    ]


# States


@pytest.mark.parametrize("handedness", [1.0, -1.0])
def test_kernels_and_torchscript_give_the_same_directions_and_status(
    random_frames, handedness
):
    points, frames = random_path(random_frames, 40, 6, handedness)
    points[1, 7], points[2, 30] = 99.0, -0.2
    axes = np.diag([handedness, 1.0, 1.0])
    pair = predictors(network(8, 12, 2), random_volume(4), axes)
    states = [predictor.states(40, CONFIG) for predictor in pair]
    assert list(map(type, states)) == [CompiledStates, ScriptedStates]
    rng = np.random.default_rng(0)
    for step in range(6):
        n = points.shape[1]
        (answers, status), (expected, expected_status) = (
            each.predict(points[step], frames[step]) for each in states
        )
        assert answers.dtype == expected.dtype == np.float32
        assert status.dtype == expected_status.dtype == np.uint8
        assert_allclose(answers, expected, atol=1e-5)
        assert_array_equal(status, expected_status)
        assert {sampling.DATA, sampling.NOTHING_AHEAD} <= set(status.tolist())
        fresh = np.sort(rng.permutation(n)[: n // 4])
        kept = np.sort(rng.permutation(n)[: 3 * n // 4]) if step in (1, 3) else None
        for each in states:
            each.reset(fresh)
            if kept is not None:
                each.keep(kept)
        if kept is not None:
            points = np.ascontiguousarray(points[:, kept])
            frames = np.ascontiguousarray(frames[:, kept])


@pytest.mark.parametrize("kind", [0, 1], ids=["kernel", "TorchScript"])
def test_reset_makes_some_states_fresh_and_keep_drops_the_others(random_frames, kind):
    points, frames = random_path(random_frames, 36, 2)
    predictor = predictors(network(8, 12, 2), random_volume(), np.eye(3))[kind]

    def second_answers(change):
        """Change the states after the first step; return the answers of the second."""
        states = predictor.states(36, CONFIG)
        states.predict(points[0], frames[0])
        rows = change(states)
        answers, _ = states.predict(
            np.ascontiguousarray(points[1, rows]),
            np.ascontiguousarray(frames[1, rows]),
        )
        return answers.copy()

    every, rows = np.arange(36), np.array([1, 15, 16, 35])
    carried = second_answers(lambda states: every)
    fresh, _ = predictor.states(36, CONFIG).predict(points[1], frames[1])
    assert (carried != fresh).any(axis=1).all()
    # Torch may round a product differently if there are other rows.
    assert_same = partial(assert_allclose, atol=(0, 1e-6)[kind], rtol=0)
    reset = second_answers(lambda states: (states.reset(rows), every)[1])
    assert_same(reset[rows], fresh[rows])
    others = np.setdiff1d(every, rows)
    assert_same(reset[others], carried[others])
    kept = second_answers(lambda states: (states.keep(rows), rows)[1])
    assert_same(kept, carried[rows])


def test_keep_may_drop_all_states(random_frames):
    points, frames = random_path(random_frames, 36, 2)
    for predictor in predictors(network(8, 12, 2), random_volume(), np.eye(3)):
        states = predictor.states(36, CONFIG)
        states.predict(points[0], frames[0])
        states.keep(np.arange(0))
        assert states.predict(points[1, :0], frames[1, :0])[0].shape == (0, 3)


def test_answers_are_contiguous_for_any_layout_of_the_network(tmp_path, random_frames):
    class Transposed(FieldFollower):
        def forward(
            self, features: Tensor, direction: Tensor, state: Tensor
        ) -> tuple[Tensor, Tensor]:
            return direction.t().contiguous().t(), state

    path = tmp_path / "model.pt"
    save_model(Transposed(), RAW, path)
    features = sampling.raw_features(np.ones((*SHAPE, 3)))
    states = Predictor(features, load_model(path), np.eye(3), 1).states(20, CONFIG)
    frames = random_frames(20)
    answers, status = states.predict(np.ones((20, 3)), frames)
    assert answers.flags.c_contiguous
    assert_allclose(answers, frames[:, 2], atol=1e-6)
    assert (status == sampling.DATA).all()


def test_the_status_says_whether_a_point_is_outside_empty_or_data():
    data = np.ones((3, 1, 1, 3), np.float32)
    data[0] = 0.0
    predictor = Predictor(
        sampling.raw_features(data), as_model(StepCounter(), RAW), np.eye(3), 1
    )
    points = np.array([[0.0, 0, 0], [0.5, 0, 0], [2.5, 0, 0], [np.nan, 0, 0]])
    _, status = predictor.states(4, CONFIG).predict(
        points, np.tile(np.eye(3), (4, 1, 1))
    )
    expected = [sampling.EMPTY, sampling.DATA, sampling.OUTSIDE, sampling.OUTSIDE]
    assert status.tolist() == expected


def test_features_are_normalised_if_the_metadata_say_so():
    data = np.full((2, 2, 2, 3), 2.0)
    for normalisation, expected in (("none", 2.0), ("power", 1 / np.sqrt(3))):
        metadata = ModelMetadata("raw", 3, "voxel", 1, 1, normalisation=normalisation)
        model = as_model(FieldFollower(), metadata)
        predictor = Predictor(sampling.raw_features(data), model, np.eye(3), 1)
        answers, _ = predictor.states(1, CONFIG).predict(
            np.ones((1, 3)), np.eye(3)[None]
        )
        assert_allclose(answers, expected, rtol=1e-6)


# First directions


def test_the_first_directions_of_an_fodf_are_its_peaks(lobes):
    data = lobes([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]]).reshape(2, 1, 1, 45)
    seeds = np.array([[0.0, 0, 0], [1.0, 0, 0], [5.0, 0, 0]])
    pair = predictors(network(), data.astype(np.float32), np.eye(3))
    for predictor in pair:
        found = predictor.first_directions(seeds, 2)
        assert found.shape == (3, 2, 3)
        assert_allclose(found[:2, 0], [[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]], atol=1e-3)
        assert not found[2].any() and not found[:, 1].any()


def test_the_first_direction_of_other_features_is_the_answer_to_no_direction():
    class Upward(FieldFollower):
        def forward(
            self, features: Tensor, direction: Tensor, state: Tensor
        ) -> tuple[Tensor, Tensor]:
            return features * (direction == 0.0).all(), state

    data = np.zeros((5, 1, 1, 3), np.float32)
    data[:3, 0, 0] = [[0, 0, 2], [3, 4, 0], [0, 0, 0]]
    data[3, 0, 0] = 1e-30, 0, 0
    features = sampling.FeatureVolume(data, "raw")
    predictor = Predictor(features, as_model(Upward(), RAW), np.eye(3), 1)
    seeds = np.arange(6.0)[:, None] * [1, 0, 0]
    threads = torch.get_num_threads()
    found = predictor.first_directions(seeds, 4)
    assert torch.get_num_threads() == threads
    expected = [[0, 0, 1], [0.6, 0.8, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert_allclose(found[:, 0], expected, atol=1e-6)
    assert found.shape == (6, 1, 3)


def test_an_answer_that_is_not_finite_is_no_first_direction():
    class Broken(FieldFollower):
        def forward(
            self, features: Tensor, direction: Tensor, state: Tensor
        ) -> tuple[Tensor, Tensor]:
            return features / 0.0, state

    features = sampling.raw_features(np.ones((2, 2, 2, 3)))
    predictor = Predictor(features, as_model(Broken(), RAW), np.eye(3), 1)
    assert not predictor.first_directions(np.ones((3, 3)), 1).any()


# Arguments


def test_features_that_do_not_fit_the_model_are_refused():
    model = as_model(FieldFollower(), RAW)
    for features, message in (
        (volume(4, "raw"), "sub-1 has 4 channels, but the model module takes 3"),
        (volume(15), "sub-1 is of kind 'sh', but the model module takes 'raw'"),
    ):
        with pytest.raises(ModelFileError, match=message):
            Predictor(features, model, np.eye(3), 1)


def test_a_predictor_knows_threads_and_handedness():
    model, features = as_model(FieldFollower(), RAW), volume(3, "raw")
    predictor = Predictor(features, model, np.diag([-1.0, 1, 1]), 0)
    assert predictor.nbr_threads == _threads.count_threads(0)
    assert predictor.handedness == -1.0
    with pytest.raises(ValueError, match="nbr_threads is -1"):
        Predictor(features, model, np.eye(3), -1)
