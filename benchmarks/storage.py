"""Size, time and error of the flow codecs, with OpenCV's "mp4v" writer as the baseline.

    python benchmarks/storage.py [CLIPS…] [--output FILE]      # about 8 minutes of one core

Size and times: DIS flow of real clips (without CLIPS, those of `make demo`). Error: the mean distance in pixels from
the true position of a point after 6 and after 15 steps, along stored DIS flow of the scenes of
`m3flow.scoring.scenes`; the scenes show other parts of their textures than those of `accuracy.py`, and most of their
cameras move. The flow includes camera motion.

OpenCV's writer is read back in three ways, and the best one counts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np

import machine
from m3flow.flow import estimator
from m3flow.results.forms import Stream, form_of, quantisation_of
from m3flow.results.forms.mp4 import CODECS
from m3flow.results.quantisation import quantise, restore
from m3flow.results.stored_flow import load_flow
from m3flow.scoring.judge import Judge, rounded
from m3flow.scoring.scenes import make_scene
from m3flow.settings import FlowSettings
from m3flow.trajectories.tracking import track
from m3flow.videos.frames import Frames
from m3flow.videos.resize import Resize
from real_clips import add_clips, chosen_clips

RESULTS = Path(__file__).parent / "results"
FRAMES = 60
BOUND = 20.0
REPEATS = 3
SEED = 3
LENGTHS = (6, 15)
SCENES = (
    "translation",
    "rotation",
    "zoom",
    "affine",
    "perspective",
    "slow",
    "object",
    "object_moving_camera",
    "object_turning_camera",
)
PREDICTED = "mpeg4, predicted frames"
WAYS: dict[str, dict[str, Any]] = {
    PREDICTED: {"codec": "mpeg4", "dither": False},
    "mpeg4, not dithered": {"codec": "mpeg4", "dither": False},
    "mpeg4": {"codec": "mpeg4"},
    "fine": {"codec": "fine"},
    "h264": {"codec": "h264"},
    "h264-lossless": {"codec": "h264-lossless"},
    "jpg": {"store": "jpg"},
    "jpg, zip": {"store": "jpg", "zip": True},
    "png, zip": {"store": "png", "zip": True},
    "npz, float16": {"store": "npz"},
    "npz, uint8": {"store": "npz", "values": "uint8"},
    "h5, float16": {"store": "h5"},
    "h5, uint8": {"store": "h5", "values": "uint8"},
    "flo": {"store": "flo"},
    "flo, zip": {"store": "flo", "zip": True},
}


class Stored(NamedTuple):
    """The flow as read back, its bytes on disk, and the seconds of one core to write and to read it."""

    flow: np.ndarray
    size: int
    writing: float
    reading: float


Storing = Callable[[np.ndarray, Path], Stored]


def real_flow(clip: Path) -> np.ndarray:
    """float32 [T, 2, H, W] of the first frames."""
    frames = [frame for frame, _ in zip(Frames(clip, Resize(240)), range(FRAMES), strict=False)]
    return np.asarray(estimator("dis", backend="opencv").sequence(np.stack(frames)))


def stored(way: dict[str, Any]) -> Storing:
    """Flow through files of ours."""
    identity = FlowSettings(bound=BOUND, **way).identity()

    def through(flow: np.ndarray, folder: Path) -> Stored:
        height, width = flow.shape[2:]
        values = np.asarray(quantisation_of(identity).stored(flow.copy()))
        stream = Stream(width=width, height=height, rate=Fraction(25))
        began = time.process_time()
        with form_of(identity).writer(folder, identity, stream) as writer:
            writer.write(values)
            writer.close({"settings": identity})
        written = time.process_time()
        read = load_flow(folder)
        ended = time.process_time()
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return Stored(read, size, written - began, ended - written)

    return through


def by_opencv(flow: np.ndarray, folder: Path) -> Stored:
    """Flow through OpenCV's writer."""
    levels = np.asarray(quantise(flow.copy(), BOUND))
    height, width = levels.shape[2:]
    folder.mkdir()
    back, size, writing, reading = [], 0, 0.0, 0.0
    for component in range(2):
        path = folder / f"{component}.mp4"
        began = time.process_time()
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (width, height))
        for plane in levels[:, component]:
            writer.write(cv2.cvtColor(plane, cv2.COLOR_GRAY2BGR))
        writer.release()
        written = time.process_time()
        readings = [opencv_blue(path)]
        writing, reading = writing + written - began, reading + time.process_time() - written
        readings += [opencv_grey(path), pyav_grey(path)]
        size += path.stat().st_size
        # OpenCV's writer crops odd sizes to even ones.
        rows, columns = readings[0].shape[1:]
        truth = levels[:, component, :rows, :columns].astype(int)
        best = min(readings, key=lambda reading: float(np.abs(reading - truth).mean()))
        padded = levels[:, component].copy()
        padded[:, :rows, :columns] = best
        back.append(padded)
    return Stored(restore(np.stack(back, 1), BOUND), size, writing, reading)


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


def size_and_time(videos: list[np.ndarray], storing: Storing) -> dict[str, float]:
    """Bytes and times per frame and component of real flow, and the mean error of a displacement in pixels.

    The time is the shortest of several runs.
    """
    rows = []
    for flow in videos:
        runs = []
        for _ in range(REPEATS):
            with tempfile.TemporaryDirectory() as folder:
                runs.append(storing(flow, Path(folder) / "flow"))
        count, back = 2 * len(flow), runs[0].flow
        # Levels saturate at the bound, pixels do not.
        meant = flow.clip(-BOUND, BOUND) if np.abs(back).max() <= BOUND else flow
        times = [1000 * min(times) / count for times in zip(*(run[2:] for run in runs), strict=True)]
        rows.append((runs[0].size / count, *times, float(np.abs(back - meant).mean())))
    size, writing, reading, error = (float(value) for value in np.mean(rows, axis=0))
    return {
        "bytes_per_frame": round(size),
        "cpu_ms_per_frame": round(writing, 2),
        "cpu_ms_to_read": round(reading, 2),
        "mean_error_px": round(error, 4),
    }


def scene_errors(scenes: list[Any], storing: Storing | None) -> dict[str, dict[str, float]]:
    """The mean error of trajectories by length and scene, in pixels."""
    errors: dict[str, dict[str, float]] = {str(length): {} for length in LENGTHS}
    for scene, flow, judges in scenes:
        read = flow
        if storing is not None:
            with tempfile.TemporaryDirectory() as folder:
                read = storing(flow, Path(folder) / "flow").flow
        for judge in judges:
            found = judge.errors(np.asarray(track(read, length=judge.length)[0]))
            errors[str(judge.length)][scene.name] = rounded(found[judge.seen].mean())
    return errors


def measured(videos: list[np.ndarray], scenes: list[Any], storing: Storing) -> dict[str, Any]:
    row = size_and_time(videos, storing) | {"error_px": scene_errors(scenes, storing)}
    print(row, flush=True)
    return row


@contextmanager
def predicted_frames() -> Iterator[None]:
    """The codec mpeg4 before every frame became a key frame."""
    now = CODECS["mpeg4"]
    CODECS["mpeg4"] = replace(now, key_frames=None)
    try:
        yield
    finally:
        CODECS["mpeg4"] = now


def prepared(name: str) -> tuple[Any, np.ndarray, list[Judge]]:
    """A scene, its DIS flow, and a judge for each length."""
    scene = make_scene(name, frames=22, seed=SEED)
    flow = np.asarray(estimator("dis", backend="opencv").sequence(scene.frames))
    return scene, flow, [Judge(scene, length) for length in LENGTHS]


def prepared_scenes() -> list[Any]:
    return [prepared(name) for name in SCENES]


def run(description: str | None, output: str, ways: Callable[[], Iterator[tuple[str, Storing]]]) -> None:
    """The command line of a comparison: measure no storage and each of the ways, and write the JSON.

    ways: yields the name of a way and the function that stores flow that way; it may set up the way before it
        yields, and undo that afterwards.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_clips(parser)
    parser.add_argument("--output", type=Path, default=RESULTS / output)
    options = parser.parse_args()
    clips = chosen_clips(parser, options)
    cv2.setNumThreads(1)
    videos, scenes = [real_flow(clip) for clip in clips], prepared_scenes()
    result: dict[str, Any] = {"machine": machine.describe(), "clips": len(clips), "ways": {}}
    result["ways"]["not stored"] = {"error_px": scene_errors(scenes, None)}
    for name, way in ways():
        result["ways"][name] = measured(videos, scenes, way)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {options.output}")


def compared() -> Iterator[tuple[str, Storing]]:
    yield "OpenCV's mp4v", by_opencv
    for name, way in WAYS.items():
        with predicted_frames() if name == PREDICTED else nullcontext():
            yield name, stored(way)


if __name__ == "__main__":
    run(__doc__, "storage.json", compared)
