"""Many videos over worker processes and GPUs: each video's record comes back, whatever happens to a worker."""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pebble import ProcessExpired, ProcessPool

from m3flow.dataset import Video
from m3flow.errors import Interrupted, UsageError
from m3flow.flow.device import gpu_count
from m3flow.pipeline import Extractor, Work, limit_threads
from m3flow.processes import available_cores, exit_with_parent
from m3flow.records import Record

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

log = logging.getLogger("m3flow")

POLL_SECONDS = 0.2
# Asked to stop, a worker may finish the video in hand for so long; then it is dropped.
GRACE_SECONDS = 20.0
CORES_PER_GPU_WORKER = 2


@dataclass(frozen=True)
class Crew:
    """How many processes work, with how many threads each, on which devices."""

    workers: int
    threads: int
    devices: tuple[str, ...]


def crew(work: Work, videos: int, workers: int = 0, gpus: int = 0) -> Crew:
    """The processes for a run; 0 workers or GPUs means what the cores and GPUs given to this job suggest.

    On a CPU a worker a core; on GPUs a worker for every two cores (it decodes and encodes), at least one for
    each GPU. Never more workers than videos.

    Raises UsageError for more GPUs than there are, or GPUs for a device that is no GPU.
    """
    cores = available_cores()
    devices = _devices(work, gpus)
    if not workers:
        workers = max(len(devices), cores // CORES_PER_GPU_WORKER) if devices[0].startswith("cuda") else cores
    workers = max(1, min(workers, videos))
    return Crew(workers, max(1, cores // workers), devices)


def _devices(work: Work, gpus: int) -> tuple[str, ...]:
    on_gpu = work.flow is not None and (work.device.startswith("cuda") or work.device == "auto")
    if not on_gpu or work.backend == "opencv" or ":" in work.device:
        if gpus:
            raise UsageError(
                f"--gpus {gpus} needs device auto or cuda, not {work.device!r} with {work.backend}"
            )
        return (work.device,)
    count = gpu_count()
    if gpus > count:
        raise UsageError(f"--gpus {gpus}: torch sees {count} GPU(s) here")
    if count == 0:
        return (work.device,)
    return tuple(f"cuda:{index}" for index in range(gpus or count))


def run(
    videos: Sequence[Video],
    work: Work,
    team: Crew,
    on_record: Callable[[Record], None],
    on_frames: Callable[[int], None] = lambda count: None,
) -> None:
    """Do the work for every video; `on_record` gets each one's record as it is done, in any order.

    A worker that dies costs the video in its hands, which is recorded as failed. SIGTERM and SIGUSR1 stop
    the run: videos in hand are finished, or dropped after a while, and nothing new is begun.

    Raises
    ------
    Interrupted: the run was stopped; all records so far were delivered.
    UsageError: the estimator cannot be set up as asked (found before any video is begun).
    """
    work = replace(work, threads=team.threads, device=team.devices[0])
    if team.workers == 1 and len(team.devices) == 1:
        _run_here(videos, work, on_record, on_frames)
    else:
        _run_in_processes(videos, work, team, on_record, on_frames)


def _run_here(
    videos: Sequence[Video],
    work: Work,
    on_record: Callable[[Record], None],
    on_frames: Callable[[int], None],
) -> None:
    with _stop_signals() as stopped, Extractor(work, on_frames) as extractor:
        for video in videos:
            on_record(extractor(video))
            if stopped():
                raise Interrupted("stopped by a signal")


def _run_in_processes(
    videos: Sequence[Video],
    work: Work,
    team: Crew,
    on_record: Callable[[Record], None],
    on_frames: Callable[[int], None],
) -> None:
    # A fresh interpreter for each worker: a GPU cannot be used in a forked process.
    context = multiprocessing.get_context("spawn")
    frames = context.Value("q", 0)
    turn = context.Value("i", 0)
    finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with _stop_signals() as stopped:
        pool = ProcessPool(
            max_workers=team.workers,
            context=context,
            initializer=_start_worker,
            initargs=(work, team.devices, turn, frames),
        )
        with pool:
            waiting = {}
            for video in videos:
                future = pool.schedule(_extract, args=(video,))
                waiting[future] = video
                future.add_done_callback(finished.put)
            counted = 0
            deadline = 0.0
            while waiting:
                try:
                    future = finished.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    future = None
                counted, new = frames.value, frames.value - counted
                if new:
                    on_frames(new)
                if future is not None and (video := waiting.pop(future, None)) is not None:
                    record = _outcome(future, video)
                    if record is not None:
                        on_record(record)
                if stopped() and not deadline:
                    deadline = time.monotonic() + GRACE_SECONDS
                    for future in list(waiting):
                        if not future.running():
                            waiting.pop(future)
                            future.cancel()
                if deadline and time.monotonic() > deadline:
                    break
            if deadline:
                pool.stop()
                pool.join()
                raise Interrupted("stopped by a signal")


def _outcome(future: Any, video: Video) -> Record | None:
    """The record of a finished future; None for a video that was not begun."""
    try:
        return future.result()
    except CancelledError:
        return None
    except ProcessExpired as error:
        reason = f"the worker died ({_cause(error.exitcode)})"
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Record(video=video.name, status="failed", reason=reason, host=socket.gethostname())


def _cause(status: int | None) -> str:
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        return f"{name}; out of memory?" if name == "SIGKILL" else name
    return f"status {status}"


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


_extractor: Extractor | None = None


def _start_worker(
    work: Work, devices: tuple[str, ...], turn: Synchronized[int], frames: Synchronized[int]
) -> None:
    global _extractor
    # The parent decides when to stop; an interrupt of the terminal reaches the workers too.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    exit_with_parent()
    with turn.get_lock():
        device = devices[turn.value % len(devices)]
        turn.value += 1

    def count(done: int) -> None:
        with frames.get_lock():
            frames.value += done

    limit_threads(work.threads)
    os.environ["OMP_NUM_THREADS"] = str(work.threads)
    _extractor = Extractor(replace(work, device=device), count)
    _extractor.__enter__()


def _extract(video: Video) -> Record:
    assert _extractor is not None
    return _extractor(video)
