"""Several decoding processes, each ahead with a video of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from queue import SimpleQueue
from typing import Any

import numpy as np

from m3flow.videos.decoder import Decoded, Decoder
from m3flow.videos.frames import Picture
from m3flow.videos.limits import Limits
from m3flow.videos.resize import KEPT, Resize

# Decoded frames of one video that wait to be read.
AHEAD_BYTES = 32 * 2**20


class Decoders:
    """Decodes the videos that are expected at the same time; they are opened one after another.

    Parameters
    ----------
    count: of the processes. limits, indexed: see `Decoder`.
    """

    def __init__(self, count: int, limits: Limits, *, indexed: bool = False) -> None:
        self._all = [Decoder(limits, indexed=indexed) for _ in range(count)]
        # For a video that is opened although another one is expected.
        self._unexpected = Decoder(limits, indexed=indexed)
        self._idle: SimpleQueue[Decoder] = SimpleQueue()
        for decoder in self._all:
            self._idle.put(decoder)
        self._threads = ThreadPoolExecutor(count)
        self._expected: deque[_Ahead] = deque()
        self._opened: _Ahead | None = None

    def start(self) -> None:
        """Start the processes now, so that the first videos do not wait for them."""
        for decoder in self._all:
            decoder.start()

    def close(self) -> None:
        """Kill the processes, whatever they are doing."""
        for ahead in (*self._expected, self._opened):
            if ahead is not None:
                ahead.cancel()
        for decoder in self._all:
            decoder.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for decoder in (*self._all, self._unexpected):
            decoder.close()

    def expect(self, path: str, resize: Resize = KEPT, *, picture: Picture = "grey", rate: float = 0) -> None:
        """Begin to decode a video, to be opened after those expected before."""
        ahead = _Ahead(path, resize, picture, rate)
        self._expected.append(ahead)
        self._threads.submit(ahead.read, self._idle)

    def open(
        self, path: str, resize: Resize = KEPT, *, picture: Picture = "grey", rate: float = 0
    ) -> Decoded:
        """See `Decoder.open`."""
        if not self._expected or self._expected[0].request != (path, resize, picture, rate):
            return self._unexpected.open(path, resize, picture=picture, rate=rate)
        if self._opened is not None:
            self._opened.cancel()  # abandoned, if it was not read to its end
        self._opened = self._expected.popleft()
        return self._opened.open()


class _Ahead:
    """A video that a thread reads from a decoder, up to `AHEAD_BYTES` ahead of its reader."""

    def __init__(self, *request: Any) -> None:
        self.request = request
        self._source: Future[Decoded] = Future()
        self._blocks: deque[np.ndarray] = deque()
        self._bytes = 0
        self._ended = self._cancelled = False
        self._error: Exception | None = None
        self._changed = threading.Condition()

    def cancel(self) -> None:
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def read(self, idle: SimpleQueue[Decoder]) -> None:
        """Decode with an idle decoder; in a thread."""
        decoder = idle.get()
        try:
            self._read(decoder)
        finally:
            idle.put(decoder)

    def _read(self, decoder: Decoder) -> None:
        if self._cancelled:
            return
        path, resize, picture, rate = self.request
        try:
            source = decoder.open(path, resize, picture=picture, rate=rate)
        except Exception as error:
            self._source.set_exception(error)
            return
        self._source.set_result(source)
        try:
            with closing(source.blocks) as blocks:
                for block in blocks:
                    if not self._put(block):
                        return
        except Exception as error:
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _put(self, block: np.ndarray) -> bool:
        """Hand over a block, waiting for room; False if nobody reads any more."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._cancelled or not self._blocks or self._bytes + block.nbytes <= AHEAD_BYTES
            )
            self._blocks.append(block)
            self._bytes += block.nbytes
            self._changed.notify_all()
            return not self._cancelled

    def open(self) -> Decoded:
        source = self._source.result()
        decoded = Decoded(source.info, source.picture)
        decoded.blocks = self._taken(decoded, source)
        return decoded

    def _taken(self, decoded: Decoded, source: Decoded) -> Generator[np.ndarray]:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._blocks or self._ended or self._cancelled)
                    if self._cancelled:
                        raise RuntimeError("another video was opened before this one was read to its end")
                    if not self._blocks:
                        break
                    block = self._blocks.popleft()
                    self._bytes -= block.nbytes
                    self._changed.notify_all()
                decoded.frames += len(block)
                yield block
        finally:
            self.cancel()
        if self._error is not None:
            raise self._error
        decoded.seconds, decoded.key_frames = source.seconds, source.key_frames
