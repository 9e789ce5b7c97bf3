"""Flow levels for tests, and flow videos as written by the original extractor."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from m3flow.results.quantisation import quantise
from m3flow.scoring.scenes import make_scene


def soft_levels(height: int, width: int, frames: int = 6) -> np.ndarray:
    """Levels of realistic motion: smooth, with edges."""
    flow = make_scene("object_moving_camera", frames=frames + 1, height=height, width=width).flow
    return quantise(flow, 20.0)


def opencv_video(path: Path, frames: np.ndarray) -> Path:
    """A file as written by the original extractor: OpenCV's writer with mp4v."""
    height, width = frames.shape[1:]
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (width, height))
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
    writer.release()
    return path
