"""True tracks of the exact scenes, and the scenes as files for other programs."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from m3flow.atomic import complete_or_absent
from m3flow.scoring.scenes import SCENES, Scene, apply, make_scene
from m3flow.scoring.tracks import Tracks
from m3flow.trajectories.grid import GRID, OFFSET


def true_tracks(scene: Scene, length: int, *, without_camera: bool = False) -> Tracks:
    """The exact tracks of all grid points from every start frame, for `length` steps.

    without_camera: accumulate the motion not explained by the camera, as in compensated flow, instead of the
        positions in the video.
    """
    frames, height, width = scene.frames.shape
    columns, rows = OFFSET + GRID * np.arange(width // GRID), OFFSET + GRID * np.arange(height // GRID)
    grid = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2).astype(float)
    starts = range(frames - length)
    tracks = [scene.tracks(grid, start, length) for start in starts]
    visible = [scene.tracks_visible(points, start) for start, points in zip(starts, tracks, strict=True)]
    on_object = [scene.on_object(grid, start) for start in starts]
    if without_camera:
        tracks = [_own_motion(scene, points, start) for start, points in zip(starts, tracks, strict=True)]
    return Tracks(
        np.repeat(np.arange(len(tracks)), len(grid)),
        np.concatenate([points.transpose(1, 0, 2) for points in tracks]),
        np.concatenate([shown.T for shown in visible]),
        background=~np.concatenate(on_object),
    )


def _own_motion(scene: Scene, points: np.ndarray, start: int) -> np.ndarray:
    """Points [L+1, P, 2] of the video -> their start plus the accumulated motion without the camera's."""
    result = np.empty_like(points)
    result[0] = points[0]
    for step in range(len(points) - 1):
        in_view = apply(np.linalg.inv(scene.homographies[start + step]), points[step + 1])
        result[step + 1] = result[step] + in_view - points[step]
    return result


def write_scenes(folder: Path, length: int = 6, names: list[str] | None = None) -> list[Path]:
    """Write each scene as a lossless video with its ground truth: `<name>.mkv` and `<name>.npz`.

    The truth is a TAP-Vid style archive for `m3flow.scoring.tracks.tracks_of_archive`: `points` [P, T, 2] normalised
    by the frame size, `occluded` [P, T] (also before a point's start and after its last step), `size` and
    `background`. Returns the videos.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in names or list(SCENES):
        scene = make_scene(name)
        video = folder / f"{name}.mkv"
        with complete_or_absent(video) as (temporary,):
            _write_video(temporary, scene.frames)
        with complete_or_absent(folder / f"{name}.npz") as (temporary,), temporary.open("wb") as file:
            arrays: dict[str, Any] = archive_of(true_tracks(scene, length), scene.frames.shape)
            np.savez_compressed(file, **arrays)
        written.append(video)
    return written


def archive_of(truth: Tracks, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Tracks as the arrays of a TAP-Vid style archive, for frames of the shape [T, H, W]."""
    frames, height, width = shape
    points = np.zeros((len(truth), frames, 2))
    occluded = np.ones(points.shape[:2], bool)
    for step in range(truth.steps + 1):
        now = truth.start + step
        points[np.arange(len(truth)), now] = (truth.positions[:, step] + 0.5) / (width, height)
        occluded[np.arange(len(truth)), now] = ~truth.visible[:, step]
    background = np.zeros(len(truth), bool) if truth.background is None else truth.background
    return {
        "points": points.clip(0, 1).astype(np.float32),
        "occluded": occluded,
        "size": np.array([height, width]),
        "background": background,
    }


def _write_video(path: Path, frames: np.ndarray) -> None:
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=Fraction(25))
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "gray"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        container.mux(stream.encode(None))
