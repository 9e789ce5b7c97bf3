"""Which motion is the camera's: brightness, cuts, bars and what fills the frame, on scenes with known truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m3flow.camera import MotionEstimator, camera_flow
from m3flow.camera.candidates import COUNT, Candidates
from m3flow.camera.cuts import change, is_cut
from m3flow.camera.selection import Selection, Selector
from m3flow.camera.selection_of_clips import select_clips
from m3flow.flow import estimator
from m3flow.scoring.camera_pairs import camera_pair
from m3flow.scoring.scenes import SCENES, make_scene

BACKENDS = ("opencv", "torch")
TEXTURES = ("perspective", "rotation")  # of scenes that do not look alike


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def motion_estimator(backend, **options):
    return MotionEstimator(estimator("farneback", backend=backend, device="cpu"), **options)


def error(homography, true, height=240, width=320):
    """The mean distance of the frame's pixels under two homographies, in px."""
    return float(
        np.linalg.norm(
            camera_flow(homography, height, width) - camera_flow(true, height, width), axis=0
        ).mean()
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("gain", "offset"), [(1.25, -8), (0.8, 12), (1.0, 20)])
def test_exposure_does_not_hide_the_camera(backend, gain, offset):
    scene = camera_pair(3, 8.0)
    previous, current = scene.frames
    brighter = np.clip(np.rint(current * gain + offset), 0, 255).astype(np.uint8)
    found = motion_estimator(backend).select(np.stack([previous, brighter]))
    assert found.accepted.all()
    assert error(found.homographies[0], scene.homographies[0]) < 0.1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("camera", ["warp", "none"])
def test_no_flow_goes_across_a_cut(backend, camera):
    frames = np.concatenate([make_scene(name, frames=4).frames[:, :120, :160] for name in TEXTURES])
    found = motion_estimator(backend, camera=camera)(frames)
    assert found.cut.tolist() == [False] * 3 + [True] + [False] * 3
    assert found.schemes[3] == "cut"
    moves = np.asarray(found.flow).reshape(7, -1).any(1)
    assert moves.tolist() == [True] * 3 + [False] + [True] * 3
    if camera == "warp":
        assert not found.accepted[3] and found.confidence[3] == 0
    through = motion_estimator(backend, camera=camera, cuts=False)(frames)
    assert through.cut is None
    assert np.asarray(through.flow[3]).any()


def test_a_cut_lies_in_as_many_pairs_as_the_step():
    frames = np.concatenate([make_scene(name, frames=6).frames for name in TEXTURES])
    small = np.stack([frame[::10, ::10] for frame in frames]).astype(np.float32)
    changes = change(small, 2).tolist()
    assert [t for t in range(10) if is_cut(changes, t, 2)] == [4, 5]


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_has_the_cuts_that_it_was_rendered_with(name):
    scene = make_scene(name, frames=9, height=96, width=128)
    found = motion_estimator("opencv", camera="none").select(scene.frames)
    assert found.cut.sum() == (scene.cut is not None)


def test_brightness_and_steady_motion_are_no_cuts():
    frames = make_scene("perspective", frames=8).frames.astype(np.float32)[:, ::10, ::10]
    frames[4:] = frames[4:] * 0.6 + 50
    changes = change(frames, 1).tolist()
    assert not any(is_cut(changes, t, 1) for t in range(7))
    assert change(np.stack([np.full((6, 8), 9.0), np.full((6, 8), 200.0)]), 1) == pytest.approx(0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["perspective", "fast"])
def test_bars_stand_still_and_do_not_vote(backend, name):
    scene = make_scene(name, frames=4)
    frames = scene.frames.copy()
    frames[:, :30] = frames[:, -24:] = 17
    frames[:, :, :20] = 16
    found = motion_estimator(backend)(frames)
    assert found.bars.tolist() == [[30, 24, 20, 0]] * 3
    flow = np.asarray(found.flow)
    assert not flow[:, :, :30].any() and not flow[:, :, -24:].any() and not flow[:, :, :, :20].any()
    assert flow[:, :, 30:-24, 20:].any() and found.accepted.all()
    # Beside the bars, where a bar that moved with the camera would be seen, nothing moves either.
    assert np.hypot(flow[:, 0, 30:34, 40:-40], flow[:, 1, 30:34, 40:-40]).mean() < 0.3
    height, width = frames.shape[1:]
    for homography, true in zip(found.homographies, scene.homographies, strict=True):
        assert error(homography, true, height, width) < 0.3


@pytest.mark.parametrize("backend", BACKENDS)
def test_below_the_confidence_that_is_asked_for_the_flow_is_whole(backend):
    frames = camera_pair(1, 8.0).frames
    sure = motion_estimator(backend)(frames)
    assert sure.accepted.all() and 0.4 < sure.confidence[0] < 1
    refused = motion_estimator(backend, confidence=1.0)(frames)
    assert not refused.accepted.any() and refused.confidence == pytest.approx(sure.confidence)
    whole = motion_estimator(backend, camera="none")(frames)
    np.testing.assert_array_equal(np.asarray(refused.flow), np.asarray(whole.flow))


def random_candidates(pairs: int, seed: int) -> Candidates:
    """Evidence in which candidates compete, of shots with cuts, bars, still frames and pairs without matches."""
    random = np.random.default_rng(seed)
    found = Candidates.empty(pairs)
    moved = np.tile(np.eye(3), (pairs, COUNT, 1, 1))
    moved[:, 1:, :2, 2] = random.normal(0, 2, (pairs, COUNT - 1, 2)) * random.choice([0.02, 1], (pairs, 1, 1))
    valid = random.random((pairs, COUNT)) < 0.8
    valid[:, 0] = True
    matches = np.rint(random.uniform(0, 4, found.matches.shape) * random.choice([0.1, 1], (pairs, 1, 1)))
    share = random.random(found.support.shape) * valid[..., None, None]
    support = share * matches[:, None] * random.choice([0.3, 1], (pairs, COUNT, 1, 1))
    bars = random.choice([0, 6, 60], 4) + random.choice([0, 3], (pairs, 4))
    return Candidates(
        np.where(valid[..., None, None], moved, np.eye(3)),
        valid,
        matches.astype(np.float32),
        support.astype(np.float32),
        (support[:, 0] * random.random((pairs, 1, 1))).astype(np.float32),
        (random.random(found.photometric.shape) * valid[..., None, None]).astype(np.float32),
        bars.astype(np.int32),
        random.choice([0.01, 0.1, 0.9], pairs, p=[0.6, 0.3, 0.1]).astype(np.float32),
        random.random(pairs) < 0.1,
    )


@pytest.mark.parametrize("find_cuts", [True, False])
@pytest.mark.parametrize(("pairs", "step"), [(40, 1), (17, 3), (5, 1), (2, 2), (1, 1)])
def test_clips_are_decided_together_as_each_alone(pairs: int, step: int, find_cuts: bool) -> None:
    size, clips = (96, 128), 7
    every = [random_candidates(pairs, seed) for seed in range(clips)]
    expected = []
    for candidates in every:
        selector = Selector(size, step=step, find_cuts=find_cuts)
        expected.append(Selection.of(selector.push(candidates) + selector.finish()))
    in_turn = np.arange(clips * pairs).reshape(clips, pairs).T.ravel()
    found = select_clips(Candidates.joined(every)[in_turn], clips, size, step=step, find_cuts=find_cuts)
    for clip, alone in enumerate(expected):
        for name in ("homographies", "accepted", "confidence", "cut", "bars"):
            np.testing.assert_array_equal(getattr(found[clip::clips], name), getattr(alone, name), name)
    if pairs == 40:
        moves = (found.homographies != np.eye(3)).any(axis=(1, 2))
        assert 0.1 < moves.mean() < 0.9 and found.cut.any() == find_cuts and (found.bars > 0).any()
