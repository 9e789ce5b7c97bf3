"""Jobs of the workflow: those that are due, and the work of one, on a shard or a single video."""

from __future__ import annotations

import json
import socket
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from m3flow.atomic import write_text
from m3flow.errors import UsageError
from m3flow.experiment.calibration import calibration_of
from m3flow.experiment.config import Experiment
from m3flow.experiment.cost import jobs_of
from m3flow.experiment.gpus import free_gpu
from m3flow.experiment.packs import shards_to_pack
from m3flow.experiment.remaining import Remaining
from m3flow.experiment.shards import cut_list, plan_of, shard_name, shard_videos
from m3flow.experiment.status import nothing_made, status_of, summary, tried
from m3flow.extraction.dispatch import CORES_PER_GPU_WORKER, devices_of
from m3flow.extraction.run import ALL_DONE, FAILED, SOME_REJECTED, execute, execute_one
from m3flow.extraction.work import Work
from m3flow.results.records import STATUSES, Record, read_records
from m3flow.settings import BACKWARD
from m3flow.system import available_cores
from m3flow.videos.videolist import Video

# More processes per GPU do not raise the throughput: they take turns, and each has the libraries in its memory.
MOST_JOBS_PER_GPU = 4


@dataclass(frozen=True)
class Due:
    """The jobs that a run of the workflow has to do.

    Attributes
    ----------
    summary: how far the list is, a few lines.
    units: by kind of job, the names of the videos or of the shards, in the order of the list.
    videos: number of videos processed by these jobs.
    """

    summary: list[str]
    units: dict[str, list[str]]
    videos: int


def due(experiment: Experiment, granularity: str) -> Due:
    """The jobs that are due: one per video ("video") or shard ("shard") with missing outputs.

    Raises UsageError for an unusable list.
    """
    if experiment.wants_flow and experiment.flow.step < 0:
        raise UsageError(f"{BACKWARD.format(experiment.flow.step)}; `m3flow flow` alone makes backward flow")
    plan = plan_of(experiment) if granularity == "shard" else None
    if plan is not None and nothing_made(experiment.outputs):
        # A long list need not be read again.
        text = f"m3flow: {plan.videos:,} missing of {plan.videos:,} videos"
        kinds = (*jobs_of(experiment), *(("pack",) if experiment.shard.pack else ()))
        return Due([text], dict.fromkeys(kinds, plan.names), plan.videos)
    starts = [shard.line for shard in plan.shards] if plan is not None else []
    videos = (cut_list(experiment) if starts else experiment.videos).read()
    status = status_of(experiment, videos, every_file=granularity == "video")
    left = [video for video in videos if video.name in status.remaining]
    units: dict[str, list[str]] = {}

    def shard_of(video: Video) -> str:
        return shard_name(bisect_right(starts, video.line) - 1)

    for kind in jobs_of(experiment):
        mine = [video for video in left if _is_due(kind, status.remaining[video.name])]
        if granularity == "video":
            units[kind] = [video.name for video in mine]
        else:
            units[kind] = sorted({shard_of(video) for video in mine})
    if experiment.shard.pack and granularity == "shard":
        units["pack"] = shards_to_pack(experiment, videos, status.remaining, shard_of)
    return Due(summary(experiment, status), units, len(left))


def _is_due(kind: str, left: Remaining) -> bool:
    if kind == "motion":
        return left.due
    return bool(left.flow if kind == "flow" else left.trajectories)


def threads_of_a_job(experiment: Experiment, kind: str, cores: int) -> int:
    """CPU threads of a single-video job, so that as many run at a time as the GPUs can serve; 1 without GPUs."""
    devices = _devices(experiment, kind)
    if not devices[0].startswith("cuda"):
        return 1
    jobs = len(devices) * max(1, min(MOST_JOBS_PER_GPU, cores // CORES_PER_GPU_WORKER // len(devices)))
    return max(1, cores // jobs)


def _devices(experiment: Experiment, kind: str) -> tuple[str, ...]:
    return devices_of(work_of(experiment, kind), experiment.run.gpus if kind != "trajectories" else 0)


def run_video(
    experiment: Experiment,
    kind: str,
    video: Video,
    *,
    threads: int,
    log_file: Path | str,
    outcome: Path,
    before: Sequence[Path] = (),
) -> int:
    """Make the missing outputs of one video in this process, as a separate job.

    Parameters
    ----------
    outcome: the file to write at the end, with the video's status; not written if the video failed.
    before: the outcomes of preceding jobs.

    Returns the exit status of the job: 0 done or rejected, 1 failed.
    """
    if any(json.loads(path.read_text())["status"] == "rejected" for path in before):
        # There is no flow to track, and the reason is in the records.
        write_text(outcome, json.dumps({"status": "rejected"}) + "\n")
        return 0
    work = replace(work_of(experiment, kind), threads=threads)
    with free_gpu(_devices(experiment, kind), MOST_JOBS_PER_GPU) as device:
        work = replace(work, device=device, sharing=MOST_JOBS_PER_GPU)
        status = execute_one(kind, video, work, log_file)
    if status == FAILED:
        return 1
    words = {ALL_DONE: "done", SOME_REJECTED: "rejected"}
    write_text(outcome, json.dumps({"status": words[status]}) + "\n")
    return 0


def run_shard(experiment: Experiment, kind: str, name: str, log_file: Path | str, outcome: Path) -> int:
    """Make the missing outputs of one shard ("flow", "trajectories", or "motion": both in one pass).

    Each video's record is appended to the shard's records when it is done. The `outcome`, a JSON file with a
    summary, is written last, and only if no video failed: rejected ones do not count. Everything else that the
    job has made is kept when it is killed, and the next attempt continues from there.

    Returns the exit status of the job: 0 done, 1 not.
    """
    videos = tried(experiment, shard_videos(experiment, plan_of(experiment, renew=False)[name]))
    records = experiment.outputs.shard_records(experiment.videos.name, kind, name)
    status = execute(
        f"{kind} of shard {name}",
        videos,
        work_of(experiment, kind),
        records=records,
        log_file=Path(log_file),
        workers=experiment.run.workers or _calibrated_workers(experiment, kind),
        gpus=experiment.run.gpus if kind != "trajectories" else 0,
    )
    if status not in (ALL_DONE, SOME_REJECTED):
        return 1
    last = {record.video: record for record in read_records([records])}
    summary = _summary([last[video.name] for video in videos if video.name in last])
    write_text(outcome, json.dumps({"videos": len(videos), **summary}) + "\n")
    return 0


def work_of(experiment: Experiment, kind: str) -> Work:
    """The outputs that a job of this kind makes for each video."""
    run = experiment.run
    if kind == "trajectories":
        return Work(
            outputs=experiment.outputs,
            trajectories=experiment.trajectories,
            existing=experiment.existing,
            limits=experiment.limits,
        )
    if kind not in ("flow", "motion"):
        raise UsageError(f"unknown kind of shard job {kind!r}; choose from flow, trajectories, motion")
    return Work(
        outputs=experiment.outputs,
        flow=experiment.flow,
        trajectories=experiment.trajectories if kind == "motion" else None,
        keep_flow=kind == "flow" or experiment.keep_flow,
        backend=run.backend,
        device=run.device,
        batch=run.batch,
        limits=experiment.limits,
    )


def _calibrated_workers(experiment: Experiment, kind: str) -> int:
    """The best number of workers, if a job with as many cores was calibrated; else 0, for the default."""
    calibration = calibration_of(experiment)
    if calibration is None or kind == "trajectories" or calibration.cores != available_cores():
        return 0
    return calibration.workers


def _summary(records: list[Record]) -> dict[str, object]:
    counts = Counter(record.status for record in records)
    return {
        **{status: counts[status] for status in STATUSES},
        "frames": sum(record.frames for record in records),
        "host": socket.gethostname(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
