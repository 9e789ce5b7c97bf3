"""Error and size of the flow codecs on real flow, with OpenCV's own "mp4v" writer as the yardstick.

    python benchmarks/codecs.py [CLIPS…] [--output FILE]

Without CLIPS those of `make demo` are taken. Errors are in levels (0.157 px at the default bound of 20 px).
OpenCV's writer is read back in three ways and judged by the best of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

import machine
from m3flow.flow import estimator
from m3flow.results.flowfile import CODECS, FlowWriter, read_levels
from m3flow.results.quantisation import quantise
from m3flow.videos.frames import Frames
from real_clips import add_clips, chosen_clips

RESULTS = Path(__file__).parent / "results"
FRAMES = 60


def real_flow(clip: Path) -> np.ndarray:
    """uint8 [T, 2, H, W] levels of the first frames' Farnebäck flow."""
    frames = [frame for frame, _ in zip(Frames(clip, short_side=240), range(FRAMES), strict=False)]
    return quantise(estimator("farneback", backend="opencv").sequence(np.stack(frames)), 20)


def opencv_writer(levels: np.ndarray, folder: Path) -> tuple[np.ndarray, float, float]:
    """What comes back, bytes and milliseconds for a frame and component."""
    height, width = levels.shape[2:]
    back, size, seconds = [], 0, 0.0
    for component in range(2):
        path = folder / f"{component}.mp4"
        began = time.process_time()
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (width, height))
        for plane in levels[:, component]:
            writer.write(cv2.cvtColor(plane, cv2.COLOR_GRAY2BGR))
        writer.release()
        seconds += time.process_time() - began
        size += path.stat().st_size
        readings = [opencv_blue(path), opencv_grey(path), pyav_grey(path)]
        # OpenCV's writer cuts odd sizes to even ones.
        rows, columns = readings[0].shape[1:]
        truth = levels[:, component, :rows, :columns].astype(int)
        best = min(readings, key=lambda reading: float(np.abs(reading - truth).mean()))
        padded = levels[:, component].copy()
        padded[:, :rows, :columns] = best
        back.append(padded)
    return np.stack(back, 1), size / levels.shape[0] / 2, 1000 * seconds / levels.shape[0] / 2


def opencv_blue(path: Path) -> np.ndarray:
    return np.stack([frame[..., 0] for frame in opencv_frames(path)])


def opencv_grey(path: Path) -> np.ndarray:
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in opencv_frames(path)])


def opencv_frames(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        ok, frame = capture.read()
        if not ok:
            return frames
        frames.append(frame)


def pyav_grey(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])


def our_writer(levels: np.ndarray, folder: Path, codec: str) -> tuple[np.ndarray, float, float]:
    height, width = levels.shape[2:]
    began = time.process_time()
    with FlowWriter(folder, codec=codec, rate=Fraction(25), width=width, height=height) as writer:
        writer.write(levels)
        writer.close({})
    seconds = time.process_time() - began
    paths = [folder / "x.mp4", folder / "y.mp4"]
    back = np.stack([np.stack(list(read_levels(path))) for path in paths], 1)
    size = sum(path.stat().st_size for path in paths)
    return back, size / levels.shape[0] / 2, 1000 * seconds / levels.shape[0] / 2


def measure(videos: list[np.ndarray], write: Any) -> dict[str, float]:
    errors, sizes, times, largest = [], [], [], 0
    for levels in videos:
        with tempfile.TemporaryDirectory() as folder:
            back, size, milliseconds = write(levels, Path(folder))
        error = np.abs(back.astype(int) - levels)
        errors.append(error.mean())
        largest = max(largest, int(error.max()))
        sizes.append(size)
        times.append(milliseconds)
    return {
        "mean_error_levels": float(np.mean(errors)),
        "max_error_levels": largest,
        "bytes_per_frame": float(np.mean(sizes)),
        "cpu_ms_a_frame": float(np.mean(times)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_clips(parser)
    parser.add_argument("--output", type=Path, default=RESULTS / "codecs.json")
    options = parser.parse_args()
    clips = chosen_clips(parser, options)
    cv2.setNumThreads(1)
    videos = [real_flow(clip) for clip in clips]
    codecs = {"OpenCV's mp4v": measure(videos, opencv_writer)}
    default = CODECS["mpeg4"]["quantiser"]
    for quantiser in (2, 3, 4, 5):
        CODECS["mpeg4"]["quantiser"] = quantiser
        name = "mpeg4" if quantiser == default else f"mpeg4, quantiser {quantiser}"
        codecs[name] = measure(videos, lambda levels, folder: our_writer(levels, folder, "mpeg4"))
    codecs["h264-lossless"] = measure(
        videos, lambda levels, folder: our_writer(levels, folder, "h264-lossless")
    )
    result = {"machine": machine.describe(), "clips": len(clips), "codecs": codecs}
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in codecs.items():
        print(
            f"{name:22} {row['mean_error_levels']:6.3f} {row['max_error_levels']:4d} {row['bytes_per_frame']:8.0f}"
        )


if __name__ == "__main__":
    main()
