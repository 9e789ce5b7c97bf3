"""A run over many videos: worker processes, records, log, progress and exit status."""

from __future__ import annotations

import logging
import os
import platform
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from m3flow.errors import Interrupted
from m3flow.extraction import dispatch
from m3flow.extraction.gpu_errors import DeviceLost
from m3flow.extraction.progress import Display
from m3flow.extraction.work import Work
from m3flow.results.records import STATUSES, Record, RecordFile
from m3flow.text import one_line
from m3flow.version import __version__
from m3flow.videos.videolist import Video

log = logging.getLogger("m3flow")

ALL_DONE, FAILED, SOME_REJECTED = 0, 1, 3


def execute(
    title: str,
    videos: Sequence[Video],
    work: Work,
    *,
    records: Path,
    log_file: Path | None = None,
    workers: int = 0,
    gpus: int = 0,
    console: Console | None = None,
) -> int:
    """Process every video, write records and log, and print a summary.

    Returns the exit status: 0 if every video has its outputs, 3 if some were rejected for bad input, 1 if some
    failed for another reason or the run was stopped.

    Raises UsageError if the work cannot be set up at all.
    """
    console = console or Console(stderr=True)
    config = dispatch.worker_config(work, len(videos), workers, gpus)
    if log_file is not None:
        log_to(log_file)
    describe_run(title, work, config, len(videos))
    counts: Counter[str] = Counter()
    frames = 0
    began = time.monotonic()

    def on_record(record: Record) -> None:
        nonlocal frames
        counts[record.status] += 1
        frames += record.frames if record.status == "done" else 0
        record_file.append(record)
        _log_record(record)
        display.on_record(record)

    stopped = ""
    with RecordFile(records) as record_file, Display(title, videos, console) as display:
        try:
            dispatch.run(videos, work, config, on_record, display.on_frames, display.on_stop)
        except KeyboardInterrupt:
            stopped = "by the keyboard"
        except Interrupted as reason:
            stopped = str(reason)
    seconds = time.monotonic() - began
    if counts.total() == len(videos):
        stopped = ""  # too late: everything was done
    summary = _summary(title, counts, len(videos), frames, seconds, stopped)
    log.info("%s", summary)
    console.print(summary, markup=False, soft_wrap=True)
    if counts["rejected"] or counts["failed"]:
        console.print(f"reasons are in {records}", markup=False, soft_wrap=True)
    if stopped or counts["failed"]:
        return FAILED
    return SOME_REJECTED if counts["rejected"] else ALL_DONE


def _summary(title: str, counts: Counter[str], videos: int, frames: int, seconds: float, stopped: str) -> str:
    parts = [f"{counts[status]} {status}" for status in STATUSES if counts[status]]
    left = videos - counts.total()
    if left:
        parts.append(f"{left} not begun")
    text = f"{title}: {', '.join(parts) or 'nothing'} of {videos} videos"
    if frames:
        text += f"; {frames} frames in {seconds:.1f} s ({frames / max(seconds, 1e-9):.0f} frames/s)"
    return text + (f"; stopped before the end ({stopped}), run again to continue" if stopped else "")


def describe_run(title: str, work: Work, config: dispatch.WorkerConfig, videos: int) -> None:
    """Log the context of a run: settings, host, devices, versions."""
    import cv2
    import numpy as np

    log.info("%s of %d videos by m3flow %s on %s", title, videos, __version__, socket.gethostname())
    for name, settings in (("flow", work.flow), ("trajectories", work.trajectories)):
        if settings is not None:
            log.info("%s settings: %s", name, settings.identity())
    log.info(
        "%d workers of %d threads on %s, backend %s, limits %s",
        config.workers,
        config.threads,
        ", ".join(config.devices),
        work.backend,
        work.limits,
    )
    log.info(
        "python %s, numpy %s, opencv %s%s; CUDA_VISIBLE_DEVICES=%s, Slurm job %s on node %s",
        platform.python_version(),
        np.__version__,
        cv2.__version__,
        _torch_version(),
        os.environ.get("CUDA_VISIBLE_DEVICES", "(not set)"),
        os.environ.get("SLURM_JOB_ID", "(none)"),
        os.environ.get("SLURMD_NODENAME", "(none)"),
    )


def _torch_version() -> str:
    torch = sys.modules.get("torch")
    if torch is None:
        return ""
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f", torch {torch.__version__} ({', '.join(names) or 'no GPU'})"


class _LogFile(logging.FileHandler):
    """Stops logging at its first error (a full disk): the run continues, and the terminal is not flooded."""

    def handleError(self, _: logging.LogRecord) -> None:
        log.removeHandler(self)


def log_to(path: Path) -> None:
    """Append the package's log to a file, one line per event."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path, encoding="utf-8", errors="surrogateescape")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False


def execute_one(title: str, video: Video, work: Work, log_file: Path | str) -> int:
    """Process one video in this process, as a separate job; see `execute`.

    The outcome goes to the log and to the records of the output folder; returns the exit status.
    """
    from m3flow.extraction.extractor import Extractor

    log_to(Path(log_file))
    describe_run(title, work, dispatch.WorkerConfig(1, work.threads, (work.device,)), 1)
    try:
        with Extractor(work) as extractor:
            record = extractor(video)
    except DeviceLost as lost:
        record = dispatch.lost_record(video, str(lost), work)
    _log_record(record)
    # Many such jobs append to one file; a line is a single write.
    with RecordFile(work.outputs.job_records(title)) as records:
        records.append(record)
    if record.status in ("done", "kept"):
        return ALL_DONE
    return SOME_REJECTED if record.status == "rejected" else FAILED


def _log_record(record: Record) -> None:
    log.info(
        "%s %s: %d frames in %.1f s%s",
        record.status,
        one_line(record.video),
        record.frames,
        record.seconds,
        f" ({record.reason})" if record.reason else "",
    )
    if record.traceback:
        # In the log only: on the terminal, the one-line reason is enough.
        log.debug("%s", record.traceback.rstrip())
