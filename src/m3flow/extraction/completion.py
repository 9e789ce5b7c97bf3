"""Storing and completing videos in background threads; records in the order of the videos."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from m3flow.extraction.background import Background
from m3flow.extraction.encoders import Encoder
from m3flow.extraction.gpu_errors import raise_if_lost
from m3flow.extraction.tasks import VideoTask
from m3flow.results.records import Record

Progress = Callable[[int], None]

# Pieces of motion that wait for a thread. A piece is a batch, and the videos of most data sets are a few.
AHEAD, AHEAD_OF_SEVERAL = 2, 4


class Completion:
    """Stores videos, each in one thread, and delivers their records in the order in which they were begun.

    Parameters
    ----------
    device: the device that computes the videos.
    encoders: one thread for each; without any, a single thread that encodes in this process.
    on_record, on_frames: called by the threads, one at a time; an error in them ends the run.

    Use as a context manager: leaving it by an exception discards what is not complete.
    """

    def __init__(
        self,
        device: str,
        encoders: Sequence[Encoder],
        on_record: Callable[[Record], None],
        on_frames: Progress,
    ) -> None:
        self._device = device
        self._threads = [Background(AHEAD_OF_SEVERAL, encoder) for encoder in encoders] or [Background(AHEAD)]
        self._on_record, self._on_frames = on_record, on_frames
        self._in_progress: deque[VideoTask] = deque()
        self._lock = threading.Lock()
        self._open = ExitStack()

    def __enter__(self) -> Completion:
        self._open.callback(self._drop)
        for thread in self._threads:
            self._open.enter_context(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def begin(self, task: VideoTask) -> None:
        """Take a video in; the thread with the fewest videos stores it."""
        self._in_progress.append(task)
        task.thread = min(self._threads, key=lambda thread: len(thread.videos))
        task.thread.videos.add(task)

    def background(self, task: VideoTask, call: Callable[[], None]) -> None:
        """Run `call` in the thread of a video, after those before."""
        for thread in self._threads:
            thread.raise_errors()
        assert task.thread is not None
        task.thread(call)

    def complete(self, task: VideoTask) -> None:
        """Complete a task once all of its motion is stored; it may have failed in several places."""
        if not task.completing:
            task.completing = True
            self.background(task, partial(self._complete, task))

    def report(self, frames: int) -> None:
        with self._lock:
            self._on_frames(frames)

    def finish(self) -> None:
        """Wait until everything handed over is done."""
        for thread in self._threads:
            thread.finish()

    def _complete(self, task: VideoTask) -> None:
        if task.error is not None:
            raise_if_lost(self._device, task.error)
        task.complete()
        assert task.thread is not None
        task.thread.videos.discard(task)
        # Progress is reported in frame pairs during computation; a finished video counts its frames, a failed one none.
        frames = task.record.frames if task.record.status == "done" else 0
        with self._lock:
            # Before the record, which another thread may deliver as soon as the task is finished.
            self._on_frames(frames - task.reported)
            task.finished = True
            while self._in_progress and self._in_progress[0].finished:
                self._on_record(self._in_progress.popleft().record)

    def _drop(self) -> None:
        for left in self._in_progress:
            left.drop()
