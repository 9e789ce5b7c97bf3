"""Results copied from the device to the host while the device computes on."""

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
    """The seconds that a computation takes."""

    def __init__(self) -> None:
        self._began = self._ended = 0.0

    def start(self) -> None:
        self._began = time.perf_counter()

    def stop(self) -> None:
        self._ended = time.perf_counter()

    def seconds(self) -> float:
        """The time between start and stop, once the results have been waited for."""
        return self._ended - self._began


class Downloads:
    """Where the results are in the host's memory already: there is nothing to copy and nothing to wait for."""

    def start(self, piece: Piece) -> Callable[[], Piece]:
        """Begin to copy what the device computes; the returned function waits for it, in any thread."""
        arrays = piece.map(_as_numpy)
        return lambda: arrays

    @contextmanager
    def timed(self) -> Iterator[Stopwatch]:
        """Measure the computation that the block launches."""
        watch = self._stopwatch()
        watch.start()
        yield watch
        watch.stop()

    def _stopwatch(self) -> Stopwatch:
        return Stopwatch()


class CudaDownloads(Downloads):
    """Copies into page-locked memory on a stream of their own, each after what was launched before it began.

    Nothing here waits for the GPU but the function that `start` returns: the next batch is launched, and
    computed, while this one's results are on their way. torch hands page-locked memory out again once a copy's
    array is gone.
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
            # A thread that waits sleeps: its core decodes and encodes.
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
        # Its memory is not to be given to another computation before it has been copied.
        tensor.record_stream(self._stream)
        return page_locked(tensor).copy_(tensor, non_blocking=True)

    def _stopwatch(self) -> Stopwatch:
        return _CudaStopwatch(self._cuda, self._device)


class _CudaStopwatch(Stopwatch):
    """Times on the GPU: the host launches and goes on."""

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


def page_locked(like: Any) -> Any:
    """Page-locked host memory for a tensor: the GPU reads and writes it by itself."""
    import torch

    return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)


def downloads_from(device: str) -> Downloads:
    """The `Downloads` for a torch device, or for NumPy on the CPU."""
    return CudaDownloads(device) if device.startswith("cuda") else Downloads()


def _as_numpy(array: Array) -> np.ndarray:
    return array.numpy() if is_tensor(array) else np.asarray(array)  # type: ignore[union-attr]
