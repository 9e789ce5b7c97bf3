"""An encoding process: arrays in shared memory, commands on a connection, files on the disk.

Started by `m3flow.extraction.encoders.Encoder`. A command is (name, number of the writer, arguments); each is
answered by the error that it raised, or None.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from m3flow.extraction.shared_memory import Place, SharedMemory
from m3flow.system import exit_with_parent


def main() -> None:
    exit_with_parent()
    # Slurm sends these to every process of a job; the parent decides whether the current video is finished.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    import cv2

    cv2.setNumThreads(1)
    connection, memory = Connection(int(sys.argv[1])), SharedMemory(int(sys.argv[2]))
    commands = _Commands(memory)
    while True:
        try:
            name, *arguments = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        connection.send(_error_of(getattr(commands, name), arguments))


class _Commands:
    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._writers: dict[int, Any] = {}

    def begin(self, number: int, make: Callable[..., Any], arguments: Any, named: Any) -> None:
        self._writers[number] = make(*arguments, **named)

    def write(self, number: int, places: list[Place | None]) -> None:
        views = iter(self._memory.views([place for place in places if place is not None]))
        self._writers[number].write(*(None if place is None else next(views) for place in places))

    def close(self, number: int, made: dict[str, Any]) -> None:
        self._writers[number].close(made)

    def discard(self, number: int) -> None:
        self._writers.pop(number).__exit__(None, None, None)


def _error_of(command: Callable[..., None], arguments: list[Any]) -> Exception | None:
    """The error raised by a command, with the place where it was raised in its notes."""
    try:
        command(*arguments)
    except Exception as error:
        error.add_note(traceback.format_exc())
        return error
    return None


if __name__ == "__main__":
    main()
