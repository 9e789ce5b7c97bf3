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


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random texture, uint8 [height, width], with enough contrast for flow to hold on to."""
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def moving(
    frames: int = 12, height: int = 64, width: int = 64, dx: float = 1.0, dy: float = 0.0, seed: int = 0
) -> np.ndarray:
    """Frames uint8 [frames, height, width] of a texture that moves by (dx, dy) pixels a frame."""
    margin = int(np.ceil(max(abs(dx), abs(dy)) * frames)) + 4
    large = texture(height + 2 * margin, width + 2 * margin, seed)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return np.stack(
        [
            cv2.remap(large, columns + margin - dx * t, rows + margin - dy * t, cv2.INTER_CUBIC)
            for t in range(frames)
        ]
    )


def write_clip(path: Path, frames: np.ndarray, codec: str = "mpeg4", rate: int = 25) -> Path:
    """A video file of grey frames uint8 [F, H, W], as cameras write them: lossy, with colour planes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.qmin = stream.codec_context.qmax = 3
        for frame in frames:
            grey = av.VideoFrame.from_ndarray(frame, format="gray")
            container.mux(stream.encode(grey.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def write_list(path: Path, names: list[str]) -> Path:
    """A list file of these paths, labelled by their place."""
    path.write_text("".join(f"{name} {index}\n" for index, name in enumerate(names)), encoding="utf-8")
    return path
