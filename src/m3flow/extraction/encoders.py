"""Writers of output files in this process or in an encoding process, which costs its video if it dies."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np

from m3flow.extraction.shared_memory import SharedMemory


class Writer(Protocol):
    """A file in the making: final after `close`, gone if its context is left without."""

    def write(self, *arrays: Any) -> None: ...

    def close(self, made: dict[str, Any], /) -> None: ...

    def __exit__(self, *_: object) -> None: ...


# Called as `writers(make, *arguments, **named)`: the writer that `make` returns for these arguments, or one that
# acts like it. `make` is importable and the arguments picklable.
Writers = Callable[..., Writer]


def in_this_process(make: Callable[..., Writer], *arguments: Any, **named: Any) -> Writer:
    return make(*arguments, **named)


class Encoder:
    """An encoding process for many videos, started when it is needed, and again after it has died.

    One thread at a time may use its writers. Arrays reach it through shared memory, one call at a time.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._memory = SharedMemory()
        self._numbers = itertools.count()

    def close(self) -> None:
        """Kill the process, whatever it is doing."""
        if self._child is not None:
            self._child.kill()
            self._ended()
        self._memory.close()

    def writer(self, make: Callable[..., Writer], *arguments: Any, **named: Any) -> Writer:
        """See `Writers`; the process makes the writer at its first use, and errors are raised then."""
        return _RemoteWriter(self, next(self._numbers), (make, arguments, named))

    def start(self) -> None:
        if self._child is not None:
            return
        self._connection, theirs = multiprocessing.Pipe()
        inherited = (theirs.fileno(), self._memory.descriptor)
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "m3flow.extraction.encoder_process", *map(str, inherited)],
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            # Ctrl-C is for the parent alone; the process ends when the parent closes it or exits.
            start_new_session=True,
        )
        theirs.close()

    @property
    def child(self) -> subprocess.Popen[bytes] | None:
        return self._child

    def call(self, name: str, *arguments: Any) -> None:
        """Have the process do something; raises the error that it meets, RuntimeError if it dies."""
        assert self._connection is not None
        try:
            self._connection.send((name, *arguments))
            error = self._connection.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError(f"the encoding process ended ({self._ended()})") from None
        if error is not None:
            raise error

    def write(self, number: int, arrays: tuple[np.ndarray | None, ...]) -> None:
        places = iter(self._memory.put([array for array in arrays if array is not None]))
        self.call("write", number, [None if array is None else next(places) for array in arrays])

    def _ended(self) -> str:
        """Wait for the end of the process, whose connection is closed or about to be; returns what ended it."""
        assert self._child is not None and self._connection is not None
        self._connection.close()
        status = self._child.wait()
        self._child = None
        return signal.Signals(-status).name if status < 0 else f"status {status}"


class _RemoteWriter:
    def __init__(self, encoder: Encoder, number: int, maker: tuple[Any, ...]) -> None:
        self._encoder, self._number, self._maker = encoder, number, maker
        self._in: subprocess.Popen[bytes] | None = None

    def write(self, *arrays: np.ndarray | None) -> None:
        self._begin()
        self._encoder.write(self._number, arrays)

    def close(self, made: dict[str, Any], /) -> None:
        self._begin()
        self._encoder.call("close", self._number, made)

    def __exit__(self, *_: object) -> None:
        if self._in is not None and self._in is self._encoder.child:
            with suppress(RuntimeError):  # it has died, and its unfinished files with it
                self._encoder.call("discard", self._number)
        self._in = None

    def _begin(self) -> None:
        if self._in is None:
            self._encoder.start()
            self._in = self._encoder.child
            self._encoder.call("begin", self._number, *self._maker)
        elif self._in is not self._encoder.child:
            raise RuntimeError("the encoding process ended")
