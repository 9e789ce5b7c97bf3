"""What a list will cost: frames from a sample of its videos, time and bytes from a calibration."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3flow.atomic import write_text
from m3flow.errors import BadInput, UsageError
from m3flow.experiment.config import Experiment
from m3flow.videos.listfile import sample_entries
from m3flow.videos.videolist import Video

SAMPLE = 64
SECONDS_A_HEADER = 20.0
# A job's time limit over what it should take: videos differ, and a busy file system is slower.
TIME_LIMIT_FACTOR, TIME_LIMIT_MINUTES = 1.5, 10.0
KINDS = ("flow", "trajectories", "motion")


@dataclass(frozen=True)
class Sample:
    """What a sample of a list's videos says of the list, by their headers.

    Attributes
    ----------
    videos: how many were looked at; missing: the share of them that could not be opened.
    frames: the mean of those that could be; width, height: their medians, in pixels.
    """

    videos: int
    missing: float
    frames: float
    width: float
    height: float


@dataclass(frozen=True)
class Throughput:
    """What one job did at one frame size.

    Attributes
    ----------
    width, height: in pixels.
    flow, trajectories, motion: seconds a frame of a whole job of that kind, with the best number of workers;
        `motion` is both in one pass.
    stages: frames a second of each stage in one worker: decode, flow, encode, track.
    flow_bytes, trajectory_bytes: a frame.
    """

    width: int
    height: int
    flow: float
    trajectories: float
    motion: float
    stages: dict[str, float]
    flow_bytes: float
    trajectory_bytes: float


@dataclass(frozen=True)
class Calibration:
    """What `m3flow calibrate` measured, where and with which settings.

    Attributes
    ----------
    made: m3flow's version, time, host, cluster, partition.
    settings: the identities of `flow` and `trajectories`.
    cores, gpus, device, backend: what the measuring job had.
    workers: the best number of worker processes on that; rates: frames a second of each number tried.
    start: seconds from a job's beginning to its first video.
    sizes: by frame size.
    """

    made: dict[str, str]
    settings: dict[str, Any]
    cores: int
    gpus: int
    device: str
    backend: str
    workers: int
    rates: dict[str, float]
    start: float
    sizes: tuple[Throughput, ...]

    def seconds_a_frame(self, kind: str, width: float, height: float) -> float:
        """Seconds of a job of this kind for a frame of this size, interpolated between the sizes measured."""
        return self._at([getattr(size, kind) for size in self.sizes], width * height)

    def bytes_a_frame(self, width: float, height: float) -> tuple[float, float]:
        """Bytes of flow and of trajectories for a frame of this size."""
        pixels = width * height
        return (
            self._at([size.flow_bytes for size in self.sizes], pixels),
            self._at([size.trajectory_bytes for size in self.sizes], pixels),
        )

    def _at(self, values: Sequence[float], pixels: float) -> float:
        known = [size.width * size.height for size in self.sizes]
        if pixels > known[-1]:
            return values[-1] * pixels / known[-1]
        return float(np.interp(pixels, known, values))

    def write(self, path: Path) -> None:
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Raises UsageError for a file that is no calibration."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            values["sizes"] = tuple(Throughput(**size) for size in values["sizes"])
            return cls(**values)
        except OSError as error:
            raise UsageError(f"{path}: cannot read the calibration: {error.strerror}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path}: not a calibration; make it again with m3flow calibrate") from error


def calibration_of(experiment: Experiment) -> Calibration | None:
    """The calibration that the experiment names, if it is there and was measured with its settings."""
    path = Path(experiment.shard.calibration)
    if not path.is_file():
        return None
    calibration = Calibration.read(path)
    return calibration if calibration.settings == settings_of(experiment) else None


def settings_of(experiment: Experiment) -> dict[str, Any]:
    """What of an experiment decides how fast it goes, as plain JSON values."""
    return {
        "flow": json.loads(json.dumps(experiment.flow.identity())) if experiment.wants_flow else {},
        "trajectories": experiment.trajectories.identity(),
    }


def sample(experiment: Experiment, count: int = SAMPLE) -> Sample:
    """Look into the headers of a few videos, spread over the list."""
    sources = [
        os.path.join(experiment.videos.root, entry.path)  # noqa: PTH118
        for entry in sample_entries(experiment.videos.location, count)
    ]
    return of_headers(headers(sources), experiment.flow.short_side)


def headers(sources: Sequence[str]) -> list[tuple[int, int, int] | None]:
    """(frames, width, height) of each video by its header, None where it cannot be opened.

    In a process of its own: a damaged file may kill the library that opens it.
    """
    import multiprocessing
    from concurrent.futures import TimeoutError as TimedOut

    from pebble import ProcessExpired, ProcessPool

    found: list[tuple[int, int, int] | None] = []
    with ProcessPool(max_workers=1, context=multiprocessing.get_context("spawn")) as pool:
        for future in [pool.schedule(_header, [source], timeout=SECONDS_A_HEADER) for source in sources]:
            try:
                found.append(future.result())
            except (ProcessExpired, TimedOut):
                found.append(None)
    return found


def _header(source: str) -> tuple[int, int, int] | None:
    from m3flow.videos.frames import Frames

    try:
        info = Frames(source).info
    except BadInput:
        return None
    return info.claimed, info.width, info.height


def of_headers(found: Sequence[tuple[int, int, int] | None], short_side: int = 0) -> Sample:
    """The sample that the headers of some videos make; sizes are those after the resize to `short_side`."""
    usable = np.array([header for header in found if header], np.float64).reshape(-1, 3)
    if not len(usable):
        return Sample(len(found), 1.0 if found else 0.0, 0.0, 0.0, 0.0)
    frames, (width, height) = usable[:, 0].mean(), np.median(usable[:, 1:], axis=0)
    if short_side:
        scale = short_side / min(width, height)
        width, height = width * scale, height * scale
    return Sample(len(found), 1 - len(usable) / len(found), float(frames), float(width), float(height))


def jobs_of(experiment: Experiment) -> tuple[str, ...]:
    """The kinds of shard jobs that an experiment has, in their order."""
    if not experiment.wants_flow:
        return ("trajectories",)
    if experiment.shard.one_pass or not experiment.keep_flow:
        return ("motion",)
    return ("flow", "trajectories")


def shard_size(experiment: Experiment) -> int:
    """How many videos the longest job of a shard does in `shard.minutes`, rounded down to a power of two.

    Rounded, so that a calibration that comes out a little different changes nothing.

    Raises UsageError without a calibration for the experiment's settings.
    """
    calibration = calibration_of(experiment)
    if calibration is None:
        raise UsageError(
            f"shard.videos is auto, but {experiment.shard.calibration} is not there or was measured with other "
            "settings; run m3flow calibrate, or set a number"
        )
    seconds = max(seconds_a_video(calibration, sample(experiment), kind) for kind in jobs_of(experiment))
    if not seconds:
        return 256
    fitting = (experiment.shard.minutes * 60 - calibration.start) / seconds
    return 2 ** max(0, math.floor(math.log2(max(1.0, fitting))))


def seconds_a_video(calibration: Calibration, seen: Sample, kind: str) -> float:
    """Seconds of a shard job for a video of the list, on average."""
    return (1 - seen.missing) * seen.frames * calibration.seconds_a_frame(kind, seen.width, seen.height)


def time_limit(minutes: float, attempt: int) -> int:
    """The run time in minutes to ask for where a job should take `minutes`; more at each new attempt."""
    return math.ceil((minutes * TIME_LIMIT_FACTOR + TIME_LIMIT_MINUTES) * attempt)


def video_class(video: Video) -> str:
    """The folder that a video lies in, which in these data sets is its class."""
    return video.name.rpartition("/")[0].rpartition("/")[2]
