"""Many videos over worker processes and GPUs: each video's record comes back, whatever happens to a worker."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from m3flow.errors import Interrupted, UsageError
from m3flow.extraction.extractor import Extractor, Queue
from m3flow.extraction.gpu_errors import DeviceLost
from m3flow.extraction.process_pool import UNRESPONSIVE, Channel, Workers
from m3flow.extraction.work import Work, limit_threads
from m3flow.flow.device import gpu_count
from m3flow.results.records import Record
from m3flow.system import available_cores, exit_with_parent
from m3flow.videos.decoder import CRASHES
from m3flow.videos.identity import file_size
from m3flow.videos.videolist import Video

POLL_SECONDS = 0.2
# Asked to stop, a worker may finish the video in hand for so long; then it is dropped.
GRACE_SECONDS = 20.0
CORES_PER_GPU_WORKER = 2
# Of more the last one hardly matters, and looking at each file of a network file system takes long.
SORTED_VIDEOS = 2000


@dataclass(frozen=True)
class WorkerConfig:
    """The number of worker processes, the threads of each, and the devices they are spread over."""

    workers: int
    threads: int
    devices: tuple[str, ...]

    @property
    def sharing(self) -> int:
        """The most workers that share one device."""
        return -(-self.workers // len(self.devices))


def worker_config(work: Work, videos: int, workers: int = 0, gpus: int = 0) -> WorkerConfig:
    """The processes for a run; 0 workers or GPUs means what the cores and GPUs given to this job suggest.

    On a CPU a worker per core; on GPUs a worker for every two cores (it decodes and encodes), at least one per
    GPU. Never more workers than videos, nor more GPUs than workers.

    Raises UsageError for more GPUs than there are, or GPUs for a device that is no GPU.
    """
    cores = available_cores()
    devices = devices_of(work, gpus)
    if not workers:
        workers = max(len(devices), cores // CORES_PER_GPU_WORKER) if devices[0].startswith("cuda") else cores
    workers = max(1, min(workers, videos))
    return WorkerConfig(workers, max(1, cores // workers), devices[:workers])


def devices_of(work: Work, gpus: int = 0) -> tuple[str, ...]:
    """The devices of a run: GPUs where they are asked for or, for flow, where there are any; 0 GPUs means all.

    Raises UsageError for more GPUs than there are, or GPUs for a device that is no GPU.
    """
    if work.reads_codec:
        if gpus or work.device.startswith("cuda"):
            raise UsageError(
                "job mvs reads the codec's motion vectors on the CPU; leave out --gpus and --device"
            )
        return ("cpu",)
    if work.backend == "opencv" or work.device not in ("auto", "cuda"):
        if gpus:
            raise UsageError(
                f"--gpus {gpus} needs device auto or cuda, not {work.device!r} with {work.backend}"
            )
        return (work.device,)
    if work.flow is None and work.device == "auto" and not gpus:
        # Reading the stored flow is the larger part of the work, and that is the CPU's.
        return ("cpu",)
    count = gpu_count()
    if gpus > count:
        raise UsageError(f"--gpus {gpus}: torch sees {count} GPU(s) here")
    if count == 0:
        return (work.device,)
    return tuple(f"cuda:{index}" for index in range(gpus or count))


def run(
    videos: Sequence[Video],
    work: Work,
    config: WorkerConfig,
    on_record: Callable[[Record], None],
    on_frames: Callable[[int], None] = lambda count: None,
) -> None:
    """Do the work for every video; `on_record` gets each one's record as it is done, in any order.

    A worker that dies costs the video in its hands, which is recorded as failed. SIGTERM and SIGUSR1 stop
    the run: videos in hand are finished, or dropped after a while, and nothing new is begun.

    Raises
    ------
    Interrupted: the run was stopped, or cannot go on; all records so far were delivered.
    UsageError: the estimator cannot be set up as asked (found before any video is begun).
    """
    work = replace(work, threads=config.threads, device=config.devices[0], sharing=config.sharing)
    if config.workers > 1 and len(videos) <= SORTED_VIDEOS:
        # The largest first: what is begun last is what the others wait for in the end.
        videos = sorted(videos, key=lambda video: file_size(video.source), reverse=True)
    # A process of its own can be replaced where a GPU, or a damaged file, has ruined it.
    replaceable = work.reads_codec or config.devices[0].startswith("cuda")
    if config.workers == 1 and len(config.devices) == 1 and not replaceable:
        _run_here(videos, work, on_record, on_frames)
    else:
        _run_in_processes(videos, work, config, on_record, on_frames)


def _run_here(
    videos: Sequence[Video],
    work: Work,
    on_record: Callable[[Record], None],
    on_frames: Callable[[int], None],
) -> None:
    with _stop_signals() as stopped, Extractor(work, on_frames) as extractor:
        # Asked to stop, it takes no more.
        begun = itertools.takewhile(lambda video: not stopped(), videos)
        extractor.run(Queue(begun), _stop_on_fatal(on_record))
        if stopped():
            raise Interrupted("by a signal")


def _run_in_processes(
    videos: Sequence[Video],
    work: Work,
    config: WorkerConfig,
    on_record: Callable[[Record], None],
    on_frames: Callable[[int], None],
) -> None:
    deadline = 0.0
    take = _stop_on_fatal(on_record)
    with (
        _stop_signals() as stopped,
        Workers(videos, config.workers, _serve, (work, config.devices)) as workers,
    ):
        while workers.left:
            for event in workers.events(POLL_SECONDS):
                if event.death:
                    on_record(lost_record(event.item, event.death, work))
                elif event.last:
                    take(event.message)
                else:
                    on_frames(event.message)
            if work.reads_codec:
                workers.kill_unresponsive(work.limits.seconds)
            if stopped() and not deadline:
                deadline = time.monotonic() + GRACE_SECONDS
                workers.drain()
            if deadline and time.monotonic() > deadline:
                break
        if deadline:
            raise Interrupted("by a signal")


def lost_record(video: Video, death: str, work: Work) -> Record:
    """The record of a video whose worker died, for the reason `death`, with no other video in its hands."""
    status, reason = "failed", f"the worker died ({death})"
    if death == UNRESPONSIVE:
        status, reason = "rejected", f"the decoder hangs: nothing for {work.limits.seconds:g} s"
    elif work.reads_codec and death in {number.name for number in CRASHES}:
        status, reason = "rejected", f"the decoder crashed ({death})"
    return Record(
        video=video.name,
        status=status,
        reason=reason,
        host=socket.gethostname(),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _stop_on_fatal(on_record: Callable[[Record], None]) -> Callable[[Record], None]:
    """`on_record`, and the end of the run where a failure would meet every other video too."""

    def take(record: Record) -> None:
        on_record(record)
        if record.ends_run:
            raise Interrupted(record.reason)

    return take


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM and SIGUSR1 only set a flag, which the returned function tells."""
    seen: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, lambda received, _: seen.append(received)) for number in numbers}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve(channel: Channel, slot: int, work: Work, devices: tuple[str, ...]) -> None:
    """What a worker process does."""
    # The parent decides when to stop; an interrupt of the terminal reaches the workers too.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    exit_with_parent()
    work = replace(work, device=devices[slot % len(devices)])
    limit_threads(work.threads)
    os.environ["OMP_NUM_THREADS"] = str(work.threads)
    try:
        extractor = Extractor(work, channel.note)
    except UsageError as error:
        return channel.unusable(str(error))

    channel.ready()
    with extractor:
        try:
            extractor.run(channel, channel.done)
        except DeviceLost as lost:
            # A new process begins afresh, with each video in hand alone: the one that did it fails again.
            channel.lost(str(lost))
