"""Motion not explained by the camera, from frames: every scheme, both backends."""

from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from m3flow.camera import put_camera_back
from m3flow.camera.compensation import MotionEstimator
from m3flow.errors import UsageError
from m3flow.flow import estimator
from m3flow.scoring.camera_pairs import camera_pair

CONFIGURATIONS = [
    ("opencv", "auto"),
    ("opencv", "two-pass"),
    ("torch", "auto"),
    ("torch", "two-pass"),
]
# Limits on the background error in px, with a margin for the few scenes of a test.
BACKGROUND_LIMIT = {3.0: 0.1, 8.0: 0.13, 20.0: 0.5}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pairs():
    """Three scenes for each size of camera motion: {reach: [Scene]}."""
    return {reach: [camera_pair(seed, reach) for seed in (1, 2, 5)] for reach in BACKGROUND_LIMIT}


def motion(frames, backend="opencv", scheme="auto", name="farneback", **options):
    return MotionEstimator(estimator(name, backend=backend), scheme=scheme, **options)(frames)


def errors(result, scene):
    """Mean error on the background, away from the object, and on the object, in px."""
    error = np.linalg.norm(result.flow[0] - scene.residual[0], axis=0)
    near = cv2.dilate(scene.mask[0].astype(np.uint8), np.ones((25, 25))).astype(bool)
    return error[~near].mean(), error[scene.mask[0]].mean()


def mean_background(scenes, **options):
    return np.mean([errors(motion(scene.frames, **options), scene)[0] for scene in scenes])


@pytest.mark.parametrize("reach", BACKGROUND_LIMIT)
@pytest.mark.parametrize(("backend", "scheme"), CONFIGURATIONS)
def test_background_stands_still(pairs, reach, backend, scheme):
    background = mean_background(pairs[reach], backend=backend, scheme=scheme)
    whole = np.mean([errors(motion(s.frames, camera="none"), s)[0] for s in pairs[reach]])
    assert background < BACKGROUND_LIMIT[reach]
    assert background < whole / 5


@pytest.mark.slow
@pytest.mark.parametrize("reach", [3.0, 8.0])
@pytest.mark.parametrize("backend", ["opencv", "torch"])
def test_default_is_as_good_as_two_passes(pairs, reach, backend):
    default = mean_background(pairs[reach], backend=backend)
    two_passes = mean_background(pairs[reach], backend=backend, scheme="two-pass")
    assert default < two_passes + 0.05


def test_torch_estimator_other_than_farneback_runs_once_on_resampled_frames(pairs):
    scene = pairs[8.0][0]
    runs = []
    tvl1 = estimator("tvl1", backend="torch", device="cpu", warps=1, inner=5)
    flow = tvl1.flow
    tvl1.flow = lambda previous, current: runs.append(len(previous)) or flow(previous, current)
    result = MotionEstimator(tvl1)(scene.frames)
    assert result.schemes == ["one-pass"]
    assert runs == [1]
    assert errors(result, scene)[0] < 0.3


@pytest.mark.parametrize(("backend", "scheme"), CONFIGURATIONS)
def test_residual_and_homography_give_the_whole_flow_back(pairs, backend, scheme):
    scene = pairs[8.0][1]
    result = motion(scene.frames, backend, scheme)
    assert result.accepted.all()
    back = put_camera_back(result.flow, result.homographies)
    seen = scene.visible[0] & ~cv2.dilate(scene.mask[0].astype(np.uint8), np.ones((25, 25))).astype(bool)
    assert np.linalg.norm(back - scene.flow, axis=1)[0, seen].mean() < 0.2


@pytest.mark.parametrize("content", ["texture", "flat"])
@pytest.mark.parametrize("camera", ["warp", "none"])
@pytest.mark.parametrize(
    ("name", "backend"), [("farneback", "opencv"), ("farneback", "torch"), ("dis", "opencv")]
)
def test_still_video_has_exactly_no_motion(content, camera, name, backend):
    frame = camera_pair(3, 3.0).frames[0] if content == "texture" else np.full((240, 320), 70, np.uint8)
    result = motion(np.stack([frame] * 3), backend, name=name, camera=camera)
    assert result.flow.shape == (2, 2, 240, 320)
    assert not result.flow.any()
    if camera == "warp":
        assert result.schemes == ["still", "still"]
        np.testing.assert_array_equal(result.homographies, np.stack([np.eye(3)] * 2))
    else:
        assert result.homographies is None and result.accepted is None and result.schemes == ["", ""]


@pytest.mark.parametrize("backend", ["opencv", "torch"])
def test_camera_that_stands_still_is_not_compensated(backend):
    scene = camera_pair(4, 0.0, noise=0.5)
    result = motion(scene.frames, backend)
    assert result.schemes == ["still"] and result.accepted.all()
    np.testing.assert_array_equal(result.homographies[0], np.eye(3))
    np.testing.assert_array_equal(result.flow, motion(scene.frames, backend, camera="none").flow)


@pytest.mark.parametrize("backend", ["opencv", "torch"])
def test_refused_homography_leaves_the_whole_flow(backend):
    frames = np.zeros((2, 100, 120), np.uint8)
    frames[0, 40:50, 40:50] = frames[1, 42:52, 43:53] = 200
    result = motion(frames, backend)
    assert result.schemes == [""] and not result.accepted.any()
    np.testing.assert_array_equal(result.homographies[0], np.eye(3))
    np.testing.assert_array_equal(result.flow, motion(frames, backend, camera="none").flow)
    assert result.flow.any()


@pytest.mark.parametrize("backend", ["opencv", "torch"])
def test_result_is_of_the_kind_that_the_estimator_gives(pairs, backend):
    result = motion(pairs[3.0][0].frames, backend)
    assert result.flow.dtype == np.float32 and result.flow.shape == (1, 2, 240, 320)
    assert result.homographies.dtype == np.float32 and result.homographies.shape == (1, 3, 3)
    assert result.accepted.dtype == bool and result.accepted.tolist() == [True]


def test_step_pairs_frames_that_far_apart(pairs):
    frames = np.concatenate([scene.frames for scene in pairs[3.0][:2]])[:, :96, :128]
    result = MotionEstimator(estimator("farneback", backend="opencv"))(frames, step=2)
    assert len(result.flow) == len(result.schemes) == 2
    np.testing.assert_array_equal(result.flow[:1], motion(frames[::2]).flow)


def test_wrong_settings_and_frames_are_refused(pairs):
    farneback = estimator("farneback", backend="opencv")
    with pytest.raises(UsageError, match="unknown camera 'wrap'; choose from warp, none"):
        MotionEstimator(farneback, camera="wrap")
    with pytest.raises(UsageError, match="unknown scheme 'three-pass'; choose from auto, one-pass"):
        MotionEstimator(farneback, scheme="three-pass")
    with pytest.raises(ValueError, match="F > step >= 1"):
        MotionEstimator(farneback)(pairs[3.0][0].frames, step=2)


@pytest.mark.parametrize("camera", ["warp", "none"])
def test_description_is_json_and_names_the_settings(camera):
    described = MotionEstimator(estimator("farneback", backend="opencv"), camera=camera, seed=7).describe()
    assert json.loads(json.dumps(described)) == described
    assert described["camera"] == camera
    assert camera == "none" or (described["scheme"], described["seed"]) == ("one-pass", 7)


def test_opencv_backend_does_not_import_torch():
    code = (
        "import sys, numpy as np; from m3flow.flow import estimator;"
        "from m3flow.camera.compensation import MotionEstimator;"
        "f = np.random.default_rng(0).integers(0, 256, (2, 64, 64)).astype(np.uint8);"
        "MotionEstimator(estimator('farneback', backend='opencv'))(f); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
