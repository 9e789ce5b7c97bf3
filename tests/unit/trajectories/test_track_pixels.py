"""Tracking along the pixels of the video while storing the motion without the camera's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from m3flow import load_trajectories
from m3flow.errors import UsageError
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.scoring.scenes import make_scene
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.trajectories.tracking import Tracker, track
from m3flow.videos.videolist import Video
from support.clips import write_lossy_video

LENGTH = 6


def bilinear(field: np.ndarray, x: float, y: float) -> np.ndarray:
    """The vector [2] of a field [2, H, W] at a position inside."""
    _, height, width = field.shape
    left, top = min(int(x), width - 2), min(int(y), height - 2)
    right, below = x - left, y - top
    upper = field[:, top, left] * (1 - right) + field[:, top, left + 1] * right
    lower = field[:, top + 1, left] * (1 - right) + field[:, top + 1, left + 1] * right
    return upper * (1 - below) + lower * below


def plain(flow: np.ndarray, homographies: np.ndarray, start: int, x: float, y: float) -> np.ndarray:
    """The displacements [2L] of one point, step by step, following the Convention of `track`."""
    height, width = flow.shape[2:]
    walked = np.array([x, y])
    steps = []
    for step in range(LENGTH):
        x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
        moved = bilinear(flow[start + step], x, y)
        steps.append(np.floor(walked + moved + 0.5) - np.floor(walked + 0.5))
        walked = walked + moved
        carried = homographies[start + step] @ np.array([x + moved[0], y + moved[1], 1])
        x, y = carried[:2] / carried[2]
    return np.array(steps).T.reshape(-1)


@pytest.fixture(scope="module")
def scene():
    return make_scene("object_moving_camera", frames=10, height=96, width=128)


def test_every_point_goes_as_a_plain_loop_says(scene) -> None:
    flow, homographies = scene.residual.astype(np.float32), scene.homographies.astype(np.float32)
    features, _ = track(flow, length=LENGTH, homographies=homographies)
    differing = 0
    for start in (0, 3):
        for row in range(features.shape[2]):
            for column in range(features.shape[3]):
                expected = plain(flow, homographies, start, 4 + 8 * column, 4 + 8 * row)
                differing += not np.array_equal(features[:, start, row, column], expected)
    # Float32 against float64: a position halfway between pixels may round to either side.
    assert differing <= 0.01 * 2 * features[0, 0].size


def test_torch_and_pieces_give_the_same(scene) -> None:
    flow, homographies = scene.residual.astype(np.float32), scene.homographies.astype(np.float32)
    whole = track(flow, length=LENGTH, homographies=homographies)
    tensors = track(torch.from_numpy(flow), length=LENGTH, homographies=torch.from_numpy(homographies))
    tracker = Tracker(length=LENGTH, job="trajs_dense", tracking="subpixel")
    pieces = [tracker.push(flow[i : i + 4], homographies[i : i + 4]) for i in range(0, len(flow), 4)]
    for index in (0, 1):
        assert np.array_equal(whole[index], tensors[index].numpy())
        arrays = [(piece.traj_feat, piece.traj_type)[index] for piece in pieces]
        assert np.array_equal(whole[index], np.concatenate(arrays, 1 - index))


def test_without_camera_motion_it_is_the_usual_tracking(scene) -> None:
    flow = scene.residual.astype(np.float32)
    still = np.repeat(np.eye(3, dtype=np.float32)[None], len(flow), 0)
    for usual, pixels in zip(track(flow), track(flow, homographies=still), strict=True):
        assert np.array_equal(usual, pixels)


def test_it_is_nearer_the_truth_on_an_object_before_a_moving_camera(scene) -> None:
    """The truth: the residual motion of a point that stays on its pixel's object."""
    flow, homographies = scene.residual.astype(np.float32), scene.homographies.astype(np.float32)
    rows, columns = flow.shape[2] // 8, flow.shape[3] // 8
    starts = np.stack(np.meshgrid(4.0 + 8 * np.arange(columns), 4.0 + 8 * np.arange(rows)), -1).reshape(-1, 2)
    video = scene.tracks(starts, 0, LENGTH)
    truth = np.zeros_like(starts)
    for step in range(LENGTH):
        back = np.c_[video[step + 1], np.ones(len(starts))] @ np.linalg.inv(scene.homographies[step]).T
        truth += back[:, :2] / back[:, 2:] - video[step]
    seen = scene.tracks_visible(video, 0).all(0)

    def error(features: np.ndarray) -> float:
        ends = features[:, 0].reshape(2, LENGTH, -1).sum(1).T
        return float(np.linalg.norm(ends - truth, axis=1)[seen].mean())

    following_pixels = error(track(flow, length=LENGTH, homographies=homographies)[0])
    following_motion = error(track(flow, length=LENGTH)[0])
    print(f"distance after {LENGTH} steps: pixels {following_pixels:.2f}, motion {following_motion:.2f} px")
    assert following_pixels < 0.75 * following_motion


def test_the_setting_reaches_the_file_and_one_pass_equals_two_steps(scene, tmp_path: Path) -> None:
    video = Video(str(write_lossy_video(tmp_path / "clip.mp4", scene.frames)), "set/clip.mp4")
    flow = FlowSettings(estimator="dis", codec="h264-lossless")
    settings = TrajectorySettings(track="pixels")
    for name, works in {
        "one": [Work(outputs=Outputs(tmp_path / "one"), flow=flow, trajectories=settings)],
        "two": [
            Work(outputs=Outputs(tmp_path / "two"), flow=flow),
            Work(outputs=Outputs(tmp_path / "two"), trajectories=settings),
        ],
        "motion": [
            Work(outputs=Outputs(tmp_path / "motion"), flow=flow, trajectories=TrajectorySettings()),
        ],
    }.items():
        for work in works:
            with Extractor(work) as extractor:
                assert extractor(video).status == "done", name
    one, two, motion = (
        load_trajectories(Outputs(tmp_path / name).trajectories(video.name, LENGTH))
        for name in ("one", "two", "motion")
    )
    assert one.made["settings"]["track"] == "pixels"
    assert np.array_equal(one.traj_feat, two.traj_feat)
    assert np.array_equal(one.traj_type, two.traj_type)
    assert not np.array_equal(one.traj_feat, motion.traj_feat)


def test_what_cannot_follow_pixels_is_refused() -> None:
    with pytest.raises(UsageError, match="subpixel"):
        TrajectorySettings(track="pixels", tracking="integer")
    with pytest.raises(UsageError, match="mvs"):
        TrajectorySettings(track="pixels", job="mvs")
    with pytest.raises(UsageError, match="motion, pixels"):
        TrajectorySettings(track="neither")  # type: ignore[arg-type]
