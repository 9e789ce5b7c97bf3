"""Grey from the luma plane against OpenCV's grey: their difference, its effect on the flow, and the time saved.

    python benchmarks/grey.py [CLIPS…] [--output FILE]

Without CLIPS, those of `make demo` are used. OpenCV converts through colour (luma and chroma to BGR, then to grey);
the luma plane, stretched from limited range, would save the conversion.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange

import machine
from m3flow.flow import estimator
from m3flow.videos.frames import Frames
from real_clips import add_clips, chosen_clips

RESULTS = Path(__file__).parent / "results"
PAIRS = 20
ROUNDS = 5


def luma(clip: Path) -> np.ndarray:
    """uint8 [F, H, W]: the luma plane, in full range."""
    frames = []
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            plane = frame.planes[0]
            pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
            frames.append(_full(pixels[:, : frame.width], frame.color_range))
    return np.stack(frames)


def _full(pixels: np.ndarray, colour_range: ColorRange) -> np.ndarray:
    if colour_range == ColorRange.JPEG:
        return pixels
    levels = np.clip(np.rint((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)
    return cv2.LUT(pixels, levels)


def seconds(work: Any) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def measured(clip: Path) -> dict[str, Any]:
    ours, plane = np.stack(list(Frames(clip))), luma(clip)
    frames = min(len(ours), len(plane))
    ours, plane = ours[:frames], plane[:frames]
    difference = np.abs(ours.astype(np.int16) - plane)
    row: dict[str, Any] = {
        "size": f"{ours.shape[2]}x{ours.shape[1]}",
        "frames": frames,
        "mean_levels": float(difference.mean()),
        "largest_levels": int(difference.max()),
        "share_within_rounding": float((difference <= 1).mean()),
        "ms_a_frame_opencv": 1000 * seconds(lambda: list(Frames(clip))) / frames,
        "ms_a_frame_luma": 1000 * seconds(lambda: luma(clip)) / frames,
    }
    for name in ("farneback", "dis"):
        chosen = estimator(name, backend="opencv")
        one, two = (chosen.sequence(video[: PAIRS + 1]) for video in (ours, plane))
        distance = np.hypot(*(one - two).transpose(1, 0, 2, 3))
        row[f"{name}_mean_px"] = float(distance.mean())
        row[f"{name}_p99_px"] = float(np.percentile(distance, 99))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_clips(parser)
    parser.add_argument("--output", type=Path, default=RESULTS / "grey.json")
    options = parser.parse_args()
    clips = chosen_clips(parser, options)
    cv2.setNumThreads(1)
    rows = [measured(clip) for clip in clips]
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps({"machine": machine.describe(), "rows": rows}, indent=1) + "\n")
    for row in rows:
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})


if __name__ == "__main__":
    main()
