"""A pool of worker processes, each with its own pipe: a worker that dies loses only its own item.

Workers share no lock and no queue, so that a process killed at any point (by the out-of-memory killer, by an
operator) cannot block the others.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from m3flow.errors import Interrupted, UsageError

Item = TypeVar("Item")

# A worker that dies during startup loses no item; after this many in a row no more are started.
FAILED_STARTS = 3
LEAVE_SECONDS = 10.0
UNRESPONSIVE = "unresponsive"


class WorkersDie(Interrupted):
    """Workers die one after the other during startup."""


@dataclass(frozen=True)
class Event(Generic[Item]):
    """An event of an item.

    Attributes
    ----------
    item: the item.
    message: the message of its worker.
    last: whether the item is finished.
    death: why the worker died while processing the item; "" if it did not.
    """

    item: Item
    message: Any = None
    last: bool = False
    death: str = ""


@dataclass(eq=False)
class _Worker(Generic[Item]):
    process: Any
    connection: Connection
    slot: int
    ready: bool = False
    items: deque[Item] = field(default_factory=deque)
    heard: float = 0.0
    alone: bool = False
    killed_for: str = ""


class Workers(Generic[Item]):
    """Processes items in worker processes; iterate over `events`.

    Parameters
    ----------
    items: the items, in the order in which they are started.
    count: the number of processes.
    serve: called in each process as `serve(channel, slot, *arguments)` with its `Channel` and the number of the
        process, from 0; it must be importable and the arguments picklable.

    Use as a context manager: leaving it ends the processes, whatever they are doing.
    """

    def __init__(
        self, items: Sequence[Item], count: int, serve: Callable[..., None], arguments: tuple[Any, ...]
    ) -> None:
        # A fresh interpreter for each worker: a GPU cannot be used in a forked process.
        self._context = multiprocessing.get_context("spawn")
        self._waiting = deque(items)
        # Items that were in flight together when a worker died; each is retried alone to find the culprit.
        self._suspects: deque[Item] = deque()
        self._count = min(count, len(self._waiting))
        self._serve, self._arguments = serve, arguments
        self._workers: list[_Worker[Item]] = []
        self._failed_starts = 0

    def __enter__(self) -> Workers[Item]:
        for slot in range(self._count):
            self._start(slot)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            idle = worker.ready and not worker.items
            worker.connection.close()
            if not idle:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join(LEAVE_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    @property
    def busy(self) -> bool:
        return any(worker.items for worker in self._workers)

    @property
    def left(self) -> bool:
        """Whether any items are in flight or waiting."""
        return bool(self._waiting or self._suspects) or self.busy

    def kill_unresponsive(self, seconds: float) -> None:
        """Kill each worker without a message about its item for `seconds`; the cause of death is `UNRESPONSIVE`."""
        for worker in self._workers:
            if worker.items and time.monotonic() - worker.heard > seconds:
                worker.killed_for = UNRESPONSIVE
                worker.process.kill()

    def drain(self) -> None:
        """Discard the waiting items; those in flight continue."""
        self._waiting.clear()
        self._suspects.clear()

    def events(self, timeout: float) -> Iterator[Event[Item]]:
        """The events since the last call; waits up to `timeout` seconds for one.

        Raises
        ------
        UsageError: a worker reports that it cannot be set up as requested.
        WorkersDie: workers die during startup.
        """
        ready: list[Any] = wait([worker.connection for worker in self._workers], timeout)
        for worker in [worker for worker in self._workers if worker.connection in ready]:
            try:
                kind, message = worker.connection.recv()
            except (EOFError, OSError):
                yield from self._died(worker)
                continue
            worker.heard = time.monotonic()
            if kind == "unusable":
                raise UsageError(message)
            if kind == "ready":
                worker.ready, self._failed_starts = True, 0
            elif kind == "ask":
                self._answer(worker, wait=message)
            elif kind == "lost":
                worker.killed_for = message
            elif kind == "done":
                yield Event(worker.items.popleft(), message, last=True)
            else:
                yield Event(worker.items[0], message)

    def _start(self, slot: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_begin, args=(theirs, self._serve, slot, self._arguments), daemon=True
        )
        process.start()
        # Close our copy of their end, so that their death ends the stream.
        theirs.close()
        self._workers.append(_Worker(process, ours, slot))

    def _answer(self, worker: _Worker[Item], *, wait: bool) -> None:
        """Send a worker the next item as (item,), or () if there is none for it."""
        items: deque[Item] = deque()
        if wait:
            items = self._suspects or self._waiting
            worker.alone = items is self._suspects
        elif not worker.alone and len(self._waiting) >= self._count:
            # A worker may prefetch an item only if enough are left for all idle workers.
            items = self._waiting
        answer = (items.popleft(),) if items else ()
        worker.items.extend(answer)
        worker.heard = time.monotonic()
        with suppress(OSError):  # the worker has died; the next read reports it
            worker.connection.send(answer)

    def _died(self, worker: _Worker[Item]) -> Iterator[Event[Item]]:
        worker.connection.close()
        worker.process.join()
        self._workers.remove(worker)
        cause = worker.killed_for or _cause(worker.process.exitcode)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS:
                raise WorkersDie(f"the workers die during startup ({cause})")
        if len(worker.items) > 1:
            self._suspects.extend(worker.items)
            worker.items.clear()
        if self._waiting or self._suspects:
            self._start(worker.slot)
        for item in worker.items:
            yield Event(item, last=True, death=cause)


class Channel:
    """A worker's end of its pipe: takes items and sends their results, in the same order."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # Results and progress messages come from different threads.
        self._lock = threading.Lock()

    def unusable(self, reason: str) -> None:
        """Report that this worker, and so any other, cannot be set up as requested."""
        self._send("unusable", reason)

    def note(self, message: Any) -> None:
        """Send a message about the current item."""
        self._send("note", message)

    def take(self, *, wait: bool) -> Any | None:
        """The next item. None if there are no more or, without `wait`, if none is available yet."""
        self._send("ask", wait)
        answer = self._connection.recv()
        return answer[0] if answer else None

    def ready(self) -> None:
        """Report that the worker has started."""
        self._send("ready")

    def done(self, result: Any) -> None:
        """Send the result of the oldest item in flight."""
        self._send("done", result)

    def lost(self, reason: str) -> None:
        """Report why this worker is about to exit with items in flight; they are handled as after its death."""
        self._send("lost", reason)

    def _send(self, kind: str, message: Any = None) -> None:
        with self._lock:
            self._connection.send((kind, message))


def _begin(connection: Connection, serve: Callable[..., None], slot: int, arguments: tuple[Any, ...]) -> None:
    # If the other end of the pipe is closed, the run is over.
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        serve(Channel(connection), slot, *arguments)


def _cause(status: int | None) -> str:
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        return f"{name}; out of memory?" if name == "SIGKILL" else name
    return f"status {status}"
