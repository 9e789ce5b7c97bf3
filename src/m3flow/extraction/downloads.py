"""Asynchronous copies of results from the device to the host, overlapping the next computation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from m3flow.flow.base import is_tensor
from m3flow.results.quantisation import Piece

if TYPE_CHECKING:
    from m3flow.flow.base import Array


class Stopwatch:
    """The duration of a computation."""

    def __init__(self) -> None:
        self._began = self._ended = 0.0

    def start(self) -> None:
        self._began = time.perf_counter()

    def stop(self) -> None:
        self._ended = time.perf_counter()

    def seconds(self) -> float:
        """Seconds between start and stop; call it after waiting for the results."""
        return self._ended - self._began


class Downloads:
    """Downloads on the CPU: the results are in host memory already, so nothing is copied or waited for."""

    def start(self, piece: Piece) -> Callable[[], Piece]:
        """Start copying a piece; the returned function waits for the copy, in any thread."""
        arrays = piece.map(_as_numpy)
        return lambda: arrays

    @contextmanager
    def timed(self) -> Iterator[Stopwatch]:
        """Measure the computation launched by the block."""
        watch = self._stopwatch()
        watch.start()
        yield watch
        watch.stop()

    def _stopwatch(self) -> Stopwatch:
        return Stopwatch()


class CudaDownloads(Downloads):
    """Copies into page-locked memory on a separate stream, each ordered after all work launched before it.

    Only the function returned by `start` waits for the GPU: the next batch is launched and computed while the
    results of this one are copied. torch reuses page-locked memory once the array of a copy is freed.
    """

    def __init__(self, device: str) -> None:
        import torch

        self._cuda: Any = torch.cuda
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def start(self, piece: Piece) -> Callable[[], Piece]:
        computed = self._cuda.current_stream(self._device).record_event()
        with self._cuda.stream(self._stream):
            self._stream.wait_event(computed)
            copies = piece.map(self._copy)
            # A waiting thread sleeps, leaving its core to decode and encode.
            done = self._cuda.Event(blocking=True)
            done.record(self._stream)

        def wait() -> Piece:
            done.synchronize()
            return copies.map(_as_numpy)

        return wait

    def _copy(self, array: Array) -> Array:
        if not is_tensor(array):
            return array
        tensor: Any = array
        # The allocator must not reuse its memory before the copy is done.
        tensor.record_stream(self._stream)
        from m3flow.flow.transfer import page_locked

        return page_locked(tensor).copy_(tensor, non_blocking=True)

    def _stopwatch(self) -> Stopwatch:
        return _CudaStopwatch(self._cuda, self._device)


class _CudaStopwatch(Stopwatch):
    """Duration on the GPU, measured by events: the host does not wait for the work that it launches."""

    def __init__(self, cuda: Any, device: str) -> None:
        self._cuda, self._device = cuda, device
        self._marks: list[Any] = []

    def start(self) -> None:
        event = self._cuda.Event(enable_timing=True)
        event.record(self._cuda.current_stream(self._device))
        self._marks.append(event)

    stop = start

    def seconds(self) -> float:
        began, ended = self._marks
        return began.elapsed_time(ended) / 1000


def downloads_from(device: str) -> Downloads:
    """The `Downloads` for a torch device, or for NumPy on the CPU."""
    return CudaDownloads(device) if device.startswith("cuda") else Downloads()


def _as_numpy(array: Array) -> np.ndarray:
    return array.numpy() if is_tensor(array) else np.asarray(array)  # type: ignore[union-attr]
