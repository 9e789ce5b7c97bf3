"""Work done in a thread behind the main one, with a bound on how much may wait for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """Calls `work` on one item after the other in a thread; at most `ahead` items wait.

    An error of `work` is raised by the next call or by `finish`. Use as a context manager.
    """

    def __init__(self, work: Callable[[Any], None], ahead: int = 2) -> None:
        self._work = work
        self._ahead = ahead
        self._pending: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1)

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __call__(self, item: Any) -> None:
        while len(self._pending) > self._ahead:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._work, item))

    def finish(self) -> None:
        """Wait until everything is done."""
        while self._pending:
            self._pending.popleft().result()
