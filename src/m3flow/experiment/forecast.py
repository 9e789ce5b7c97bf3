"""Forecast of a run's work and cost, from the plan, the results so far and the calibration."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from m3flow.experiment.calibration import calibration_of
from m3flow.experiment.config import Experiment
from m3flow.experiment.cost import hours_of_starts, jobs_of, video_class
from m3flow.experiment.sample import Sample, sample
from m3flow.experiment.shards import Plan, plan_of, shard_name
from m3flow.experiment.status import MANY_VIDEOS, TO_DO, status_of
from m3flow.system import available_cores


@dataclass(frozen=True)
class Forecast:
    """The work of a run and its cost.

    Attributes
    ----------
    videos: number by state (see `m3flow.experiment.status`) and in total; left: those that a run would process.
    frames: of the whole list, and of the videos left; from the records of videos that have one, from the headers
        of a sample otherwise.
    shards, size: number of shards, and videos per shard; open: shards with videos left.
    longest: the longest shard, with its videos left and its hours (None without a calibration).
    hours: by kind of job, the total time of its jobs; None without a calibration.
    gpu_hours, cpu_hours: hours times the GPUs and cores of a job.
    flow_bytes, trajectory_bytes: disk space for the videos left.
    classes: by class, number of videos and of videos left.
    start_hours: the startup time of single-video jobs that shards save on this machine; None if it is small.
    calibrated: the source of the figures of time and bytes; "" without a calibration.
    """

    videos: dict[str, int]
    left: int
    frames: int
    frames_left: int
    sample: Sample
    shards: int
    size: int
    open: int
    longest: dict[str, Any]
    hours: dict[str, float] | None = None
    gpu_hours: float | None = None
    cpu_hours: float | None = None
    flow_bytes: int | None = None
    trajectory_bytes: int | None = None
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    start_hours: float | None = None
    calibrated: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def forecast(experiment: Experiment) -> Forecast:
    """Forecast a run from the list, the results so far and the calibration; nothing is run.

    Raises UsageError for an unusable list.
    """
    videos = experiment.videos.read()
    plan = plan_of(experiment)
    status = status_of(experiment, videos)
    seen = sample(experiment)
    left = [video for video in videos if status.states[video.name] in TO_DO]
    mean = seen.frames * (1 - seen.missing)
    unknown = len(videos) - len(status.frames)
    unknown_left = sum(video.name not in status.frames for video in left)
    frames_left = sum(status.frames.get(video.name, 0) for video in left) + unknown_left * mean
    starts = [shard.line for shard in plan.shards]
    in_shard = Counter(bisect_right(starts, video.line) - 1 for video in left)
    classes: dict[str, dict[str, int]] = {}
    for video in videos:
        row = classes.setdefault(video_class(video), {"videos": 0, "left": 0})
        row["videos"] += 1
        row["left"] += status.states[video.name] in TO_DO
    fullest, most = in_shard.most_common(1)[0] if in_shard else (0, 0)
    found = Forecast(
        videos={**{str(state): count for state, count in status.counts.items()}, "all": len(videos)},
        left=len(left),
        frames=round(sum(status.frames.values()) + unknown * mean),
        frames_left=round(frames_left),
        sample=seen,
        shards=len(plan.names),
        size=plan.size,
        open=len(in_shard),
        longest={"shard": shard_name(fullest), "videos": most, "hours": _hours(plan, experiment, most)},
        start_hours=hours_of_starts(experiment, len(left), available_cores())
        if len(left) > MANY_VIDEOS
        else None,
        classes=classes,
    )
    return _costs(found, experiment, plan, in_shard)


def _hours(plan: Plan, experiment: Experiment, videos: int) -> dict[str, float] | None:
    """By kind of job, the hours of one with `videos` videos."""
    minutes = {kind: plan.minutes(kind, videos) for kind in jobs_of(experiment)}
    return {kind: value / 60 for kind, value in minutes.items() if value is not None} or None


def _costs(found: Forecast, experiment: Experiment, plan: Plan, in_shard: Counter[int]) -> Forecast:
    calibration = calibration_of(experiment)
    if calibration is None:
        return found
    hours: Counter[str] = Counter()
    for videos in in_shard.values():
        hours.update(_hours(plan, experiment, videos) or {})
    seen = found.sample
    flow_bytes, trajectory_bytes = calibration.bytes_per_frame(seen.width, seen.height)
    # Trajectories from stored flow need no GPU.
    on_gpu = sum(value for kind, value in hours.items() if kind != "trajectories")
    made = calibration.made
    return replace(
        found,
        hours=dict(hours),
        gpu_hours=on_gpu * calibration.gpus,
        cpu_hours=sum(hours.values()) * calibration.cores,
        flow_bytes=round(flow_bytes * found.frames_left)
        if experiment.wants_flow and experiment.keep_flow
        else 0,
        trajectory_bytes=round(trajectory_bytes * found.frames_left),
        calibrated=f"{experiment.shard.calibration}, measured on {made['host']} ({made['cluster']}) {made['time']}",
    )
