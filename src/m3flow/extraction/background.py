"""A background thread with a bounded task queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Runs tasks one after another in a thread; at most `ahead` tasks are queued.

    An error in a task is raised by the next call or by `finish`. Use as a context manager: leaving it by an
    exception discards the queued tasks.
    """

    def __init__(self, ahead: int = 2) -> None:
        self._ahead = ahead
        self._pending: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1)

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __call__(self, task: Callable[[], None]) -> None:
        while len(self._pending) > self._ahead:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(task))

    def finish(self) -> None:
        """Wait until all tasks are done."""
        while self._pending:
            self._pending.popleft().result()
