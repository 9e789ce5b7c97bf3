"""Work done in a thread behind the main one, with a bound on how much may wait for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Does one task after the other in a thread; at most `ahead` tasks wait.

    An error of a task is raised by the next call or by `finish`. Use as a context manager: what still waits
    when it is left by an exception is dropped.
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
        """Wait until everything is done."""
        while self._pending:
            self._pending.popleft().result()
