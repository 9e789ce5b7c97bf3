"""DIS in torch against OpenCV's, ground truth, known motion, plain loops, and itself in other batches."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from large_motion import error, moving_scene
from m3flow.errors import BadInput
from m3flow.flow import estimator
from m3flow.flow.dis import _Patches, _residual, eager_densify, make_order
from m3flow.flow.dis_refinement import refine
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

PRESETS = ["ultrafast", "fast", "medium"]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ours(preset="medium"):
    return estimator("dis", backend="torch", device="cpu", preset=preset)


def opencv(preset="medium"):
    return estimator("dis", backend="opencv", preset=preset)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["rubberwhale", "chairs", "sintel_alley_1"])
def test_error_against_ground_truth_is_opencvs(shared_data, name, preset):
    pair = ground_truth(shared_data, name)
    reference = pair.error(opencv(preset)(pair.previous, pair.current))
    assert pair.error(ours(preset)(pair.previous, pair.current)) == pytest.approx(reference, rel=0.005)


@pytest.mark.parametrize("preset", ["ultrafast", "medium"])
@pytest.mark.slow
def test_agrees_with_opencv_on_clips_of_data_sets(shared_data, preset):
    assert_agrees(
        [clip_frames(shared_data / "videos", clip, start=20, count=4) for clip in SHARED_CLIPS], preset
    )


@pytest.mark.parametrize("preset", ["ultrafast", "medium"])
def test_agrees_with_opencv_on_the_demo_clips(demo_clips, preset):
    assert_agrees([clip_frames(demo_clips, clip, start=115, count=3) for clip in DEMO_CLIPS], preset)


def assert_agrees(clips, preset):
    """To rounding, but for the few patches where rounding decides between two matches."""
    distance = np.concatenate(
        [
            endpoint_distance(*(method(preset)(frames[:-1], frames[1:]) for method in (ours, opencv))).ravel()
            for frames in clips
        ]
    )
    assert np.median(distance) < 1e-4
    assert np.percentile(distance, 99) < 0.02
    assert (distance > 0.1).mean() < 0.005


@pytest.mark.parametrize(("motions", "within"), [((4, 16), 0.01), ((24, 32, 52), 0.03)], ids=str)
@pytest.mark.parametrize("preset", ["fast", "medium"])
@pytest.mark.slow
def test_large_motion_is_opencvs(preset, motions, within):
    """From 24 px on, beyond the reach of the coarsest level, much of the flow is wrong: as wrong as OpenCV's. There
    rounding decides between distant matches, so that single pairs differ."""
    scenes = [moving_scene(motion, seed, 240, 320) for motion in motions for seed in range(6)]
    previous, current = (np.stack([scene.frames[t] for scene in scenes]) for t in (0, 1))
    mine, theirs = (
        np.mean([error(flow, scene) for flow, scene in zip(flows, scenes, strict=True)])
        for flows in (method(preset)(previous, current) for method in (ours, opencv))
    )
    assert theirs > 0.1
    assert mine == pytest.approx(theirs, rel=within)


@pytest.mark.parametrize("matrix", [TRANSLATION, ZOOM], ids=["translation", "zoom"])
@pytest.mark.parametrize("size", [(120, 160), (161, 91), (101, 147)], ids=str)
def test_finds_known_motion(size, matrix):
    pair = moved_texture(*size, matrix)
    assert pair.error(ours()(pair.previous, pair.current)) < 0.07


@pytest.mark.parametrize("size", [(8, 8), (20, 300), (300, 20), (33, 17), (47, 77), (64, 64)], ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_small_and_odd_sizes(size, preset):
    pair = moved_texture(*size, ((1.0, 0.0, 0.5), (0.0, 1.0, -0.5)), margin=3)
    flow = ours(preset)(pair.previous, pair.current)
    assert flow.shape == (1, 2, *size)
    assert flow.dtype == np.float32
    assert pair.error(flow) < 0.6 * pair.error(0 * flow)


def test_frames_smaller_than_a_patch_are_refused():
    frames = np.zeros((1, 7, 40), np.uint8)
    for method in (ours, opencv):
        with pytest.raises(BadInput, match="40x7 are too small"):
            method()(frames, frames)


def test_a_result_depends_on_its_pair_alone():
    pairs = [moved_texture(64, 80, ((1.0, 0.0, 0.2 * i), (0.0, 1.0, -0.1 * i))) for i in range(32)]
    previous, current = (
        np.concatenate([getattr(p, name) for p in pairs]) for name in ("previous", "current")
    )
    batch = ours()(previous, current)
    for i in (0, 9, 31):
        alone = ours()(previous[i : i + 1], current[i : i + 1])
        np.testing.assert_allclose(batch[i], alone[0], atol=1e-4)
    np.testing.assert_array_equal(batch, ours()(previous, current))


@pytest.mark.slow
def test_makes_every_tensor_on_its_device():
    """On torch's meta device an operation with a tensor left on the CPU is an error, as on a GPU."""
    frames = torch.zeros(2, 64, 81, dtype=torch.uint8, device="meta")
    flow = estimator("dis", backend="torch", device="meta")(frames, frames)
    assert flow.device.type == "meta"
    assert flow.shape == (2, 2, 64, 81)


def test_no_motion_is_exactly_zero():
    frame = moved_texture(64, 80, TRANSLATION).previous
    both = np.concatenate((frame, np.full_like(frame, 200)))
    assert not ours()(both, both).any()


def test_refinement_is_opencvs():
    pair = moved_texture(97, 130, ZOOM)
    start = cv2.calcOpticalFlowFarneback(pair.previous[0], pair.current[0], None, 0.5, 3, 15, 3, 5, 1.1, 0)
    reference = cv2.VariationalRefinement.create().calc(pair.previous[0], pair.current[0], start.copy())
    frames = [torch.from_numpy(frame).float() for frame in (pair.previous, pair.current)]
    flow = torch.from_numpy(start.transpose(2, 0, 1).copy())[None]
    refined = refine(*frames, flow, iterations=5, epsilon=0.001)
    assert np.abs(reference - start).mean() > 1e-2
    np.testing.assert_allclose(refined[0].numpy(), reference.transpose(2, 0, 1), atol=1e-4)


def test_patches_are_compared_free_of_their_means():
    """Against a plain loop that cuts each patch out with `cv2.remap`."""
    pair = moved_texture(30, 41, ZOOM)
    one, two = pair.previous[0].astype(np.float32), pair.current[0].astype(np.float32)
    order = make_order(30, 41, 3, torch.device("cpu"))
    patches = _Patches(torch.from_numpy(one)[None], torch.from_numpy(two)[None], order)
    flow = np.random.default_rng(0).normal(scale=3, size=(1, 2, 8, 12)).astype(np.float32)
    moved = torch.from_numpy(flow).flatten(2)[:, :, order.patches]
    found = _residual(patches.difference(moved, slice(None)))[:, order.places].unflatten(1, (8, 12))
    assert found.shape == (1, 8, 12)
    for row in range(8):
        for column in range(12):
            left = np.clip(3 * column + flow[0, 0, row, column], -7, 40)
            top = np.clip(3 * row + flow[0, 1, row, column], -7, 29)
            y, x = np.mgrid[:8, :8].astype(np.float32)
            moved = cv2.remap(two, x + left, y + top, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            difference = moved - one[3 * row : 3 * row + 8, 3 * column : 3 * column + 8]
            expected = ((difference - difference.mean()) ** 2).sum()
            assert float(found[0, row, column]) == pytest.approx(expected, rel=1e-3, abs=0.5)


@pytest.mark.parametrize("stride", [3, 4])
def test_dense_flow_is_the_weighted_mean_over_the_covering_patches(stride):
    pair = moved_texture(26, 31, ZOOM)
    one, two = pair.previous[0].astype(np.float32), pair.current[0].astype(np.float32)
    height, width = one.shape
    rows, columns = 1 + (height - 8) // stride, 1 + (width - 8) // stride
    sparse = np.random.default_rng(0).normal(size=(2, rows, columns)).astype(np.float32)
    dense = eager_densify(*(torch.from_numpy(array)[None] for array in (one, two, sparse)), stride)[0].numpy()
    for y in range(height):
        for x in range(width):
            # Pixels that no patch reaches belong to the last one.
            over_y = [r for r in range(rows) if r * stride <= y < r * stride + 8] or [rows - 1]
            over_x = [c for c in range(columns) if c * stride <= x < c * stride + 8] or [columns - 1]
            total, weights = np.zeros(2), 0.0
            for u, v in (sparse[:, r, c] for r in over_y for c in over_x):
                place = np.float32([[x + u]]), np.float32([[y + v]])
                read = cv2.remap(two, *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0, 0]
                weight = 1 / max(1.0, abs(read - one[y, x]))
                total, weights = total + weight * np.array([u, v]), weights + weight
            np.testing.assert_allclose(dense[:, y, x], total / weights, atol=1e-3)


def test_opencvs_result_does_not_depend_on_the_frames_before():
    """OpenCV's object lowers its finest level for small frames and keeps it lowered for large ones."""
    small, large = moved_texture(50, 50, ZOOM), moved_texture(120, 160, ZOOM)
    used = opencv("fast")
    used(small.previous, small.current)
    fresh = opencv("fast")(large.previous, large.current)
    np.testing.assert_array_equal(used(large.previous, large.current), fresh)


def test_frames_on_which_opencv_crashes_are_refused():
    low = np.zeros((1, 20, 300), np.uint8)
    with pytest.raises(BadInput, match="300x20"):
        opencv("fast")(low, low)
