"""Dispatch of videos to worker processes and GPUs: every video gets a record, whatever happens to a worker."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from m3flow.errors import Interrupted, UsageError
from m3flow.extraction.gpu_errors import DeviceLost
from m3flow.extraction.process_pool import UNRESPONSIVE, Channel, Workers
from m3flow.extraction.work import Work, limit_threads
from m3flow.flow.device import gpu_count
from m3flow.flow.speed import faster_on_gpu
from m3flow.results.records import Record, timestamp
from m3flow.system import available_cores, exit_with_parent
from m3flow.videos.decoder import CRASHES
from m3flow.videos.identity import file_size
from m3flow.videos.videolist import Video

POLL_SECONDS = 0.2
# After a stop signal, workers have this long to finish their current videos; then these are discarded.
GRACE_SECONDS = 20.0
CORES_PER_GPU_WORKER = 2
# With fewer cores than this, a worker on a GPU has one decoder and encodes in a thread, like a worker on a CPU.
CORES_FOR_ENCODERS = 4
# In longer lists the last video hardly matters, and a stat of each file takes long on a network file system.
SORTED_VIDEOS = 2000


@dataclass(frozen=True)
class WorkerConfig:
    """The number of worker processes, the threads of each, and the devices to distribute them over."""

    workers: int
    threads: int
    devices: tuple[str, ...]

    @property
    def sharing(self) -> int:
        """The maximum number of workers per device."""
        return -(-self.workers // len(self.devices))

    @property
    def decoders(self) -> int:
        """Decoding processes of each worker."""
        return self.threads // 2 if self._feeds_gpu else 1

    @property
    def encoders(self) -> int:
        """Encoding processes of each worker; 0: a thread of its own.

        Encoding takes about twice the time of decoding. Together they are more than the cores, because a process
        waits while others have nothing for it.
        """
        return self.threads - self.threads // 3 if self._feeds_gpu else 0

    @property
    def _feeds_gpu(self) -> bool:
        return self.devices[0].startswith("cuda") and self.threads >= CORES_FOR_ENCODERS


def worker_config(work: Work, videos: int, workers: int = 0, gpus: int = 0) -> WorkerConfig:
    """The worker processes of a run; 0 workers or GPUs derives the number from this job's cores and GPUs.

    On a CPU one worker per core. On GPUs one worker per GPU, with decoding and encoding processes for its share of
    the cores; if it computes no flow, one per two cores (it reads the stored flow itself), at least one per GPU.
    Never more workers than videos, nor more GPUs than workers.

    Raises UsageError for more GPUs than available, or for GPUs together with a device that is not a GPU.
    """
    cores = available_cores()
    devices = devices_of(work, gpus)
    if not workers:
        workers = cores
        if devices[0].startswith("cuda"):
            readers = 0 if work.flow is not None else cores // CORES_PER_GPU_WORKER
            workers = max(len(devices), readers)
    workers = max(1, min(workers, videos))
    return WorkerConfig(workers, max(1, cores // workers), devices[:workers])


def devices_of(work: Work, gpus: int = 0) -> tuple[str, ...]:
    """The devices of a run: GPUs if requested or, for flow, if faster than the cores; 0 GPUs means all.

    Raises UsageError for more GPUs than available, or GPUs for a device that is not a GPU.
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
        # Most of the time goes into reading the stored flow, on the CPU.
        return ("cpu",)
    count = gpu_count()
    if gpus > count:
        raise UsageError(f"--gpus {gpus}: torch sees {count} GPU(s) here")
    if count == 0:
        return (work.device,)
    if not gpus and _cores_are_faster(work, count):
        return ("cpu",)
    return tuple(f"cuda:{index}" for index in range(gpus or count))


def _cores_are_faster(work: Work, gpus: int) -> bool:
    """Whether the choice is open and this job's cores with OpenCV are faster than its GPUs."""
    if work.flow is None or (work.backend, work.device) != ("auto", "auto"):
        return False
    from m3flow.flow import ESTIMATORS

    if not {"opencv", "torch"} <= ESTIMATORS[work.flow.estimator].backends.keys():
        return False
    return not faster_on_gpu(work.flow.estimator, work.flow.parameters, gpus=gpus, cores=available_cores())


def run(
    videos: Sequence[Video],
    work: Work,
    config: WorkerConfig,
    on_record: Callable[[Record], None],
    on_frames: Callable[[int], None] = lambda count: None,
    on_stop: Callable[[float], None] = lambda seconds: None,
) -> None:
    """Process every video; `on_record` gets each record when its video is done, in any order.

    `on_stop` is called once if a signal stops the run, with the grace period in seconds.

    If a worker dies, its current video is recorded as failed. SIGTERM and SIGUSR1 stop the run: videos in
    progress are finished, or discarded after a grace period, and no others are started.

    Raises
    ------
    Interrupted: the run was stopped or cannot continue; all records so far were delivered.
    UsageError: the estimator cannot be set up as requested (raised before any video is started).
    """
    work = replace(work, threads=config.threads, device=config.devices[0], sharing=config.sharing)
    if work.flow is not None:
        work = replace(work, decoders=config.decoders, encoders=config.encoders)
    if config.workers > 1 and len(videos) <= SORTED_VIDEOS:
        # Largest first: otherwise a long video started last would keep all other workers waiting at the end.
        videos = sorted(videos, key=lambda video: file_size(video.source), reverse=True)
    # A separate process can be replaced after a GPU error or a damaged file has broken it.
    replaceable = work.reads_codec or config.devices[0].startswith("cuda")
    if config.workers == 1 and len(config.devices) == 1 and not replaceable:
        _run_here(videos, work, on_record, on_frames, on_stop)
    else:
        _run_in_processes(videos, work, config, on_record, on_frames, on_stop)


def _run_here(
    videos: Sequence[Video],
    work: Work,
    on_record: Callable[[Record], None],
    on_frames: Callable[[int], None],
    on_stop: Callable[[float], None],
) -> None:
    from m3flow.extraction.extractor import Extractor, Queue

    at_alarm = signal.getsignal(signal.SIGALRM)

    def begin_grace() -> None:
        on_stop(GRACE_SECONDS)
        # At the end of the grace period the video in progress is discarded as by Ctrl-C.
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)

    with _stop_signals(begin_grace) as stopped:
        try:
            with Extractor(work, on_frames) as extractor:
                # Take no more videos after a stop signal.
                begun = itertools.takewhile(lambda video: not stopped(), videos)
                extractor.run(Queue(begun), _stop_on_fatal(on_record))
                if stopped():
                    raise Interrupted("by a signal")
        except KeyboardInterrupt:
            if stopped():
                raise Interrupted("by a signal") from None
            raise
        finally:
            if stopped():
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, at_alarm)


def _run_in_processes(
    videos: Sequence[Video],
    work: Work,
    config: WorkerConfig,
    on_record: Callable[[Record], None],
    on_frames: Callable[[int], None],
    on_stop: Callable[[float], None],
) -> None:
    deadline = 0.0
    take = _stop_on_fatal(on_record)
    with (
        _stop_signals(lambda: on_stop(GRACE_SECONDS)) as stopped,
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
    """The record of the only video in progress in a worker that died for the reason `death`."""
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
        time=timestamp(),
    )


def _stop_on_fatal(on_record: Callable[[Record], None]) -> Callable[[Record], None]:
    """`on_record`, ending the run after a failure that every other video would meet too."""

    def take(record: Record) -> None:
        on_record(record)
        if record.ends_run:
            raise Interrupted(record.reason)

    return take


@contextmanager
def _stop_signals(on_first: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM and SIGUSR1 only set a flag; yields a function that returns it.

    `on_first` is called at the first one.
    """
    seen: list[int] = []

    def handle(received: int, _: object) -> None:
        seen.append(received)
        if len(seen) == 1:
            on_first()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve(channel: Channel, slot: int, work: Work, devices: tuple[str, ...]) -> None:
    """The main function of a worker process."""
    # A parent that only distributes videos does without it, and starts sooner.
    from m3flow.extraction.extractor import Extractor

    # The parent decides when to stop; Ctrl-C reaches the workers too.
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
            # A new process retries each video in progress alone: the one at fault fails again.
            channel.lost(str(lost))
