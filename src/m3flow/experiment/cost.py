"""The cost of a list: jobs, shard size and run times, from a sample of its videos and a calibration."""

from __future__ import annotations

import math

from m3flow.errors import UsageError
from m3flow.experiment.calibration import Calibration, calibration_of
from m3flow.experiment.config import Experiment
from m3flow.experiment.sample import Sample, sample
from m3flow.videos.videolist import Video

# A job's time limit relative to its expected time: videos differ, and a busy file system is slower.
TIME_LIMIT_FACTOR, TIME_LIMIT_MINUTES = 1.5, 10.0

# Startup of a single-video job in core-seconds: 0.33 measured on a quiet CPU machine (benchmarks/planning.py starts);
# loading CUDA or a network file system takes longer.
START_SECONDS = 0.33


def jobs_of(experiment: Experiment) -> tuple[str, ...]:
    """The kinds of shard jobs of an experiment, in order."""
    if not experiment.wants_flow:
        return ("trajectories",)
    if experiment.shard.one_pass or not experiment.keep_flow:
        return ("motion",)
    return ("flow", "trajectories")


def shard_size(experiment: Experiment) -> int:
    """The number of videos that a shard's longest job processes in `shard.minutes`, rounded down to a power of two.

    Rounded, so that a slightly different calibration changes nothing.

    Raises UsageError without a calibration for the experiment's settings.
    """
    calibration = calibration_of(experiment)
    if calibration is None:
        raise UsageError(
            f"shard.videos is auto, but {experiment.shard.calibration} is not there or was measured with other "
            "settings; run m3flow calibrate, or set a number"
        )
    seconds = max(seconds_per_video(calibration, sample(experiment), kind) for kind in jobs_of(experiment))
    if not seconds:
        return 256
    fitting = (experiment.shard.minutes * 60 - calibration.start) / seconds
    return 2 ** max(0, math.floor(math.log2(max(1.0, fitting))))


def seconds_per_video(calibration: Calibration, seen: Sample, kind: str) -> float:
    """Mean seconds of a shard job per video of the list."""
    return (1 - seen.missing) * seen.frames * calibration.seconds_per_frame(kind, seen.width, seen.height)


def time_limit(minutes: float, attempt: int) -> int:
    """The run time in minutes to request for a job that should take `minutes`; more at each new attempt."""
    return math.ceil((minutes * TIME_LIMIT_FACTOR + TIME_LIMIT_MINUTES) * attempt)


def hours_of_starts(experiment: Experiment, videos: int, cores: int) -> float:
    """The approximate startup time of single-video jobs on `cores` cores, in hours."""
    return videos * len(jobs_of(experiment)) * START_SECONDS / max(1, cores) / 3600


def video_class(video: Video) -> str:
    """The video's folder, which in these data sets is its class."""
    return video.name.rpartition("/")[0].rpartition("/")[2]
