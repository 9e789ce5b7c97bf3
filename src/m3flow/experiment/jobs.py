"""The jobs of the workflow: one shard with worker processes that stay warm, or one video."""

from __future__ import annotations

import json
import socket
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from m3flow.atomic import write_text
from m3flow.errors import UsageError
from m3flow.experiment.calibration import calibration_of
from m3flow.experiment.config import Experiment
from m3flow.experiment.shards import plan_of, shard_videos
from m3flow.extraction.run import ALL_DONE, SOME_REJECTED, execute, execute_one
from m3flow.extraction.work import Work
from m3flow.results.records import STATUSES, Record, read_records
from m3flow.system import available_cores
from m3flow.videos.videolist import Video


def run_shard(experiment: Experiment, kind: str, name: str, log_file: Path | str) -> int:
    """Do what is missing of one shard ("flow", "trajectories", or "motion": both in one pass).

    Each video's record is appended to the shard's records as it ends. The one file that says that the shard
    is done is written last, and only when no video failed: rejected ones are no failure. Everything else that
    the job makes stays when it is killed, and the next attempt goes on from there.

    Returns the exit status of the job: 0 done, 1 not.
    """
    plan = plan_of(experiment, renew=False)
    shard = plan[name]
    videos = shard_videos(experiment, shard)
    outputs, list_name = experiment.outputs, experiment.videos.name
    records = outputs.shard_records(list_name, kind, name)
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
    done = outputs.shard_done(list_name, kind, name)
    write_text(done, json.dumps({"videos": len(videos), **summary}) + "\n")
    return 0


def run_video(experiment: Experiment, kind: str, video: Video, threads: int, log_file: Path | str) -> int:
    """Make the missing "flow" or "trajectories" of one video, in this process.

    Returns the exit status of the job, see `m3flow.extraction.run.execute`.
    """
    work = replace(work_of(experiment, kind), threads=threads)
    return execute_one(kind, video, work, log_file)


def work_of(experiment: Experiment, kind: str) -> Work:
    """What a job of this kind makes of each video."""
    run = experiment.run
    if kind == "trajectories":
        return Work(
            outputs=experiment.outputs, trajectories=experiment.trajectories, limits=experiment.limits
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
    """The best number of workers, where a job with as many cores was calibrated; else 0, for the usual one."""
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
