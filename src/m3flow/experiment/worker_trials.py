"""Trials of different numbers of worker processes on this machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from m3flow.errors import BadInput
from m3flow.extraction import dispatch
from m3flow.extraction.process_pool import WorkersDie
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.results.records import Record
from m3flow.steps import StepCounter
from m3flow.system import available_cores
from m3flow.videos.videolist import Video

# Videos per decoder in a trial of a number of workers.
ROUNDS = 3
WORKERS_PER_GPU = (1, 2, 4, 8)

log = logging.getLogger("m3flow")


def workers_to_try(config: dispatch.WorkerConfig, cores: int) -> list[int]:
    """The numbers of workers to measure, in ascending order from 1.

    On a CPU up to one per core. Workers on a GPU share its time, and each takes memory: only a few per GPU.
    """
    if config.devices[0].startswith("cuda"):
        most = max(cores, len(config.devices))
        per_gpu = [len(config.devices) * each for each in WORKERS_PER_GPU]
        return sorted({1, config.workers, *(workers for workers in per_gpu if workers <= most)})
    return sorted({1, config.workers, cores, max(1, cores // 2)})


def try_workers(
    work: Work,
    config: dispatch.WorkerConfig,
    sources: Sequence[str],
    folder: Path,
    numbers: Sequence[int],
    steps: StepCounter,
) -> tuple[dict[int, float], float]:
    """Frames per second by number of workers, all of them busy; and the seconds until the first one starts.

    A number of workers that fails where fewer did not (out of memory, of the GPU or of the job) ends the trials.

    Raises BadInput if a video fails with the fewest workers, WorkersDie if these do not start.
    """
    rates: dict[int, float] = {}
    start = 0.0
    for workers in numbers:
        steps.begin(f"{workers} workers" if workers > 1 else "1 worker")
        one = replace(work, outputs=Outputs(folder / f"workers{workers}"))
        try:
            rates[workers], start = measured_rate(one, config.devices, workers, sources)
        except (BadInput, WorkersDie) as error:
            if not rates:
                raise
            log.info("%d workers are too many here: %s", workers, error)
            break
    return rates, start


def measured_rate(
    work: Work, devices: tuple[str, ...], workers: int, sources: Sequence[str]
) -> tuple[float, float]:
    """Frames per second of `workers` warm workers, and the seconds until the first of them starts."""
    threads = max(1, available_cores() // workers)
    config = dispatch.WorkerConfig(workers, threads, devices)
    # Each worker has as many videos in progress as decoders.
    busy = workers * config.decoders
    count = max(busy * (ROUNDS + 1), len(sources))
    videos = [Video(sources[i % len(sources)], f"try/{i:04d}") for i in range(count)]
    ends: list[tuple[float, int]] = []
    began = time.perf_counter()
    first = 0.0

    def on_record(record: Record) -> None:
        nonlocal first
        if record.status != "done":
            raise BadInput(f"{record.video}: {record.reason}")
        first = first or time.perf_counter() - record.seconds
        ends.append((time.perf_counter(), record.frames))

    dispatch.run(videos, work, config, on_record)
    # From the end of the first video of each decoder, when all are busy and warm.
    warm = ends[busy - 1][0]
    rate = sum(frames for _, frames in ends[busy:]) / max(ends[-1][0] - warm, 1e-9)
    return rate, max(0.0, first - began)
