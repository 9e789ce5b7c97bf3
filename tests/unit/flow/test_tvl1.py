"""TV-L1 in torch against OpenCV's, against known motion, and against itself in other batches."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from m3flow.flow import estimator
from m3flow.flow.median import median_filter
from m3flow.flow.tvl1 import _iterate
from support.flow_cases import (
    DEMO_CLIPS,
    SHARED_CLIPS,
    TRANSLATION,
    ZOOM,
    clip_frames,
    endpoint_distance,
    ground_truth,
    moved_texture,
)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ours(**parameters):
    return estimator("tvl1", backend="torch", device="cpu", **parameters)


def opencv(**parameters):
    return estimator("tvl1", backend="opencv", **parameters)


@pytest.mark.slow
def test_agrees_with_opencv_on_clips_of_data_sets(shared_data):
    assert_agrees([clip_frames(shared_data / "videos", clip, start=20, count=2) for clip in SHARED_CLIPS])


@pytest.mark.slow
def test_agrees_with_opencv_on_the_demo_clips(demo_clips):
    assert_agrees([clip_frames(demo_clips, clip, start=115, count=2) for clip in DEMO_CLIPS[:1]], median=3e-3)


def assert_agrees(clips, median=5e-4):
    distances = []
    for frames in clips:
        pair = frames[:1], frames[1:]
        distances.append(endpoint_distance(ours()(*pair), opencv()(*pair)).ravel())
        # A single pair can be worse than all together: a rounding error decides which iteration is the last.
        assert np.median(distances[-1]) < 1e-2
    together = np.concatenate(distances)
    assert together.mean() < 1e-2
    assert np.median(together) < median


def test_error_against_ground_truth_is_opencvs(shared_data):
    pair = ground_truth(shared_data, "rubberwhale").crop(slice(100, 300), slice(150, 450))
    error = pair.error(ours()(pair.previous, pair.current))
    assert error == pytest.approx(pair.error(opencv()(pair.previous, pair.current)), abs=2e-3)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"median": 3, "outer": 3, "inner": 10},
        {"median": 1, "outer": 1, "inner": 50},
        {"scales": 2, "scale_step": 0.5, "warps": 2, "outer": 3},
        {"tau": 0.2, "lambda_": 0.05, "theta": 0.2, "outer": 3},
    ],
    ids=lambda parameters: "-".join(parameters) or "defaults",
)
@pytest.mark.slow
def test_agrees_with_opencv_to_rounding_where_nothing_stops_early(parameters):
    """With epsilon 0 no rounding error can decide which iteration is the last."""
    pair = moved_texture(64, 80, ZOOM)
    first, second = (
        method(**parameters, epsilon=0.0)(pair.previous, pair.current) for method in (ours, opencv)
    )
    distance = endpoint_distance(first, second)
    assert np.median(distance) < 1e-4
    assert np.percentile(distance, 99) < 2e-2


@pytest.mark.parametrize("size", [(64, 64), (161, 91), (47, 77), (33, 17), (20, 15)], ids=str)
def test_agrees_with_opencv_at_every_size(size):
    pair = moved_texture(*size, TRANSLATION, margin=4)
    flow, reference = (method()(pair.previous, pair.current) for method in (ours, opencv))
    assert flow.shape == (1, 2, *size)
    distance = endpoint_distance(flow, reference)
    assert np.median(distance) < 3e-3
    assert distance.mean() < 1e-2


@pytest.mark.parametrize("matrix", [TRANSLATION, ZOOM], ids=["translation", "zoom"])
def test_finds_known_motion(matrix):
    pair = moved_texture(120, 160, matrix)
    assert pair.error(ours()(pair.previous, pair.current)) < 0.03


def different_pairs(count):
    """Pairs that need very different numbers of iterations: uint8 [count, 64, 64] twice."""
    pairs = [
        moved_texture(64, 64, ((1.0, 0.002 * i, 0.15 * i), (0.0, 1.0 + 0.001 * i, -0.1 * i)))
        for i in range(count)
    ]
    return tuple(np.concatenate([getattr(pair, name) for pair in pairs]) for name in ("previous", "current"))


@pytest.mark.slow
def test_a_result_depends_on_its_pair_alone():
    previous, current = different_pairs(32)
    batch = ours(warps=2)(previous, current)
    for i in (0, 7, 31):
        alone = ours(warps=2)(previous[i : i + 1], current[i : i + 1])
        np.testing.assert_allclose(batch[i], alone[0], atol=1e-5)


@pytest.mark.parametrize("late", [1, 2, 7, None], ids=str)
@pytest.mark.slow
def test_a_host_that_knows_later_who_stopped_gets_the_same_result(monkeypatch, late):
    """As on a GPU, where pairs that have stopped stay in the batch until their number has been copied."""
    previous, current = different_pairs(20)
    at_once = ours(scales=2, warps=2, outer=3)
    expected = at_once(previous, current)
    computed = []

    def iterate(flow, *rest):
        computed.append(len(flow))
        return _iterate(flow, *rest)

    monkeypatch.setattr("m3flow.flow.tvl1._iterate", iterate)
    monkeypatch.setattr("m3flow.flow.transfer.LATE", {} if late is None else {"cpu": late})
    np.testing.assert_array_equal(ours(scales=2, warps=2, outer=3)(previous, current), expected)
    # The batch shrinks and ends early if the host ever knows.
    assert (set(computed) == {20} and len(computed) == 4 * 90) == (late is None)


def test_two_runs_are_equal():
    previous, current = different_pairs(3)
    np.testing.assert_array_equal(ours()(previous, current), ours()(previous, current))


def test_no_motion_is_exactly_zero():
    frame = moved_texture(64, 80, TRANSLATION).previous
    flat = np.full_like(frame, 200)
    both = np.concatenate((frame, flat))
    assert not ours()(both, both).any()


def test_tensors_come_back_as_tensors():
    pair = moved_texture(32, 40, ZOOM)
    flow = ours()(torch.from_numpy(pair.previous), torch.from_numpy(pair.current))
    assert isinstance(flow, torch.Tensor)
    assert flow.dtype == torch.float32
    np.testing.assert_array_equal(flow.numpy(), ours()(pair.previous, pair.current))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_median_is_opencvs(size):
    images = np.random.default_rng(0).normal(size=(2, 21, 34)).astype(np.float32)
    reference = [cv2.medianBlur(image, size) for image in images]
    np.testing.assert_array_equal(median_filter(torch.from_numpy(images), size).numpy(), reference)
