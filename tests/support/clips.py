"""Small generated videos, for tests that need no real footage."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np


def moving_texture(
    frames: int = 9, height: int = 48, width: int = 64, dx: float = 2.0, dy: float = 1.0, seed: int = 0
) -> np.ndarray:
    """Frames uint8 [frames, height, width] of a soft random texture that moves by (dx, dy) px per frame."""
    margin = int(np.ceil(max(abs(dx), abs(dy)) * frames)) + 4
    noise = np.random.default_rng(seed).normal(size=(height + 2 * margin, width + 2 * margin))
    soft = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 2)
    texture = cv2.normalize(soft, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return np.stack(
        [
            cv2.remap(texture, columns + margin - dx * t, rows + margin - dy * t, cv2.INTER_CUBIC)
            for t in range(frames)
        ]
    )


def write_video(
    path: Path,
    frames: np.ndarray,
    rate: Fraction | int = 25,
    codec: str = "ffv1",
    pix_fmt: str = "gray",
    quantiser: int | None = None,
) -> Path:
    """Write grey frames [F, H, W] as a video file; FFV1 in Matroska is lossless."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pix_fmt
        if quantiser is not None:
            stream.codec_context.qmin = stream.codec_context.qmax = quantiser
        for frame in frames:
            grey = av.VideoFrame.from_ndarray(frame, format="gray")
            container.mux(stream.encode(grey.reformat(format=pix_fmt)))
        container.mux(stream.encode(None))
    return path


def write_lossy_video(path: Path, frames: np.ndarray) -> Path:
    """Write grey frames [F, H, W] as cameras do: lossy, with colour planes."""
    return write_video(path, frames, codec="mpeg4", pix_fmt="yuv420p", quantiser=3)


def clip(path: Path, frames: int = 9, height: int = 48, width: int = 64, seed: int = 0) -> Path:
    """A small moving video at `path` (.mkv)."""
    return write_video(path, moving_texture(frames, height, width, seed=seed))


def image_folder(folder: Path, frames: np.ndarray) -> Path:
    """The frames [F, H, W] as PNG files in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        (folder / f"frame_{number:05d}.png").write_bytes(cv2.imencode(".png", frame)[1].tobytes())
    return folder


def write_list(path: Path, names: list[str]) -> Path:
    """Write a list file of these paths, labelled by their index."""
    path.write_text("".join(f"{name} {index}\n" for index, name in enumerate(names)), encoding="utf-8")
    return path
