"""Small videos written on the spot, for tests that need no real footage."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np


def moving_frames(frames: int = 9, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Soft random texture that moves by (2, 1) px a frame: uint8 [F, H, W]."""
    noise = np.random.default_rng(seed).integers(0, 256, (height + frames, width + 2 * frames), np.uint8)
    soft = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)
    cut = [
        soft[frames - t : frames - t + height, 2 * (frames - t) : 2 * (frames - t) + width]
        for t in range(frames)
    ]
    return np.stack(cut)


def write_video(
    path: Path, frames: np.ndarray, rate: Fraction | int = 25, codec: str = "ffv1", pix_fmt: str = "gray"
) -> Path:
    """The frames [F, H, W] as a video file; FFV1 in Matroska comes back exactly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pix_fmt
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode(None))
    return path


def clip(path: Path, frames: int = 9, height: int = 48, width: int = 64, seed: int = 0) -> Path:
    """A small moving video at `path` (.mkv)."""
    return write_video(path, moving_frames(frames, height, width, seed))


def image_folder(folder: Path, frames: np.ndarray) -> Path:
    """The frames [F, H, W] as PNG files in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        (folder / f"frame_{number:05d}.png").write_bytes(cv2.imencode(".png", frame)[1].tobytes())
    return folder
