"""Background threads with bounded task queues."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from m3flow.extraction.encoders import Encoder, Writers, in_this_process


class Background:
    """Runs tasks one after another in a thread; at most `ahead` tasks are queued.

    An error in a task is raised by the next call or by `finish`. Use as a context manager: leaving it by an
    exception discards the queued tasks.

    Attributes
    ----------
    writers: makes the writers of the videos stored by this thread, in this process or in its encoding process.
    videos: those that this thread has yet to complete.
    """

    def __init__(self, ahead: int = 2, encoder: Encoder | None = None) -> None:
        self._ahead = ahead
        self._pending: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1)
        self.writers: Writers = in_this_process if encoder is None else encoder.writer
        self.videos: set[object] = set()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __call__(self, task: Callable[[], None]) -> None:
        while len(self._pending) > self._ahead:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(task))

    def raise_errors(self) -> None:
        """Raise the error of a finished task."""
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()

    def finish(self) -> None:
        """Wait until all tasks are done."""
        while self._pending:
            self._pending.popleft().result()
