"""CUDA graphs: the launches of a function, recorded with one batch and replayed with others of the same size.

Each launch costs the host some microseconds, so a function of thousands of small kernels leaves a GPU idle.

A graph reads and writes the same memory in every replay. Its inputs are tensors of its own, into which a batch is
copied; its intermediate results lie in a memory pool of its own; its result is copied before the next replay. A batch
may be shorter: the result of a pair does not depend on the others.

Off by default: no GPU has run it yet. M3FLOW_CUDA_GRAPHS=1 switches it on.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from m3flow.errors import Interrupted, UsageError
from m3flow.flow.constants import collected
from m3flow.flow.out_of_memory import free_locals, is_out_of_memory

VARIABLE = "M3FLOW_CUDA_GRAPHS"
# Graphs that an estimator keeps, each with the memory of a batch: two frame sizes, with and without a moving camera.
KEPT = 4

log = logging.getLogger("m3flow")


def wanted(device: str) -> bool:
    """Whether estimators on the device try CUDA graphs.

    Raises UsageError for a value of the environment variable that is neither 0 nor 1.
    """
    value = os.environ.get(VARIABLE) or "0"
    if value not in ("0", "1"):
        raise UsageError(f"the environment variable {VARIABLE} is {value!r}; choose 0 or 1")
    return value == "1" and torch.device(device).type == "cuda"


class Recording:
    """The launches of a function without arguments, on a GPU. None of them runs before the first replay.

    Attributes
    ----------
    result: the function's result; each replay overwrites it.
    """

    def __init__(self, function: Callable[[], Tensor], device: torch.device) -> None:
        self._device = device
        self._last: Any = None
        self._graph = torch.cuda.CUDAGraph()
        pool = torch.cuda.graph_pool_handle()
        # `torch.cuda.graph` does not go back to the current stream after an error in the recording.
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)):
            # Threads that download results go on calling CUDA.
            recorded = torch.cuda.graph(
                self._graph, pool, stream=_recording_stream(device), capture_error_mode="thread_local"
            )
            try:
                with recorded:
                    self.result = function()
            except BaseException:
                _leave(pool, device)
                raise

    def replay(self) -> None:
        """Launch it all on the current stream."""
        self._graph.replay()

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """A block that uses the recording's memory on the current stream, after the earlier blocks on any stream."""
        stream = torch.cuda.current_stream(self._device)
        if self._last is not None:
            stream.wait_event(self._last)
        yield
        self._last = stream.record_event()


def _leave(pool: Any, device: torch.device) -> None:
    """Take torch's allocator out of a recording that failed, if it is still in it: it would never free memory again.

    Otherwise the first call raises an error, and the graph itself releases its pool.
    """
    with suppress(Exception):
        torch._C._cuda_endAllocateToPool(device.index or 0, pool)
        torch._C._cuda_releasePool(device.index or 0, pool)


@lru_cache
def _recording_stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device)


def timed(call: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float]:
    """The result of a call and the seconds from its first launch to its end on the GPU, which is waited for."""
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    stream = torch.cuda.current_stream(device)
    stream.synchronize()
    began.record(stream)
    result = call()
    ended.record(stream)
    ended.synchronize()
    return result, began.elapsed_time(ended) / 1000


class Graph:
    """A function on inputs of a fixed size, as a recording.

    function: takes tensors, each with the batch as its first axis, and returns one whose first axis is a fixed number
        shorter: pairs from frames. It waits for nothing, and reads nothing else that changes between calls.
    """

    def __init__(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
        self.length = len(inputs[0])
        self._inputs = [values.clone(memory_format=torch.contiguous_format) for values in inputs]
        with collected() as self._constants:
            self._recording = Recording(lambda: function(*self._inputs), inputs[0].device)
        self._fewer = self.length - len(self._recording.result)

    def replay(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The function's result for at most as many frames, in memory of its own."""
        count = len(inputs[0])
        with self._recording.in_turn():
            for mine, values in zip(self._inputs, inputs, strict=True):
                mine[:count].copy_(values)
            self._recording.replay()
            return self._recording.result[: count - self._fewer].clone()


@dataclass
class _Case:
    """What is known of a function and the size of its frames.

    Attributes
    ----------
    batches: batches since the last recording that no graph computed.
    due: the number of them with which the next recording is made. Doubled each time, so that frame sizes that
        alternate are not recorded again and again.
    refused: whether it is not recorded again, after a failure or for lack of a gain.
    """

    batches: int = 0
    due: int = 2
    refused: bool = False


class Graphs:
    """The graphs of an estimator: the first batch of a size runs as it is, which compiles kernels and makes constants.

    The second is recorded. The graph is kept if it gives the same result in less time.
    """

    def __init__(self) -> None:
        self._cases: dict[Hashable, _Case] = {}
        self._graphs: OrderedDict[Hashable, Graph] = OrderedDict()  # the one used last at the end
        self._released = False
        _all.add(self)

    def __call__(self, function: Callable[..., Tensor], *inputs: Tensor, **settings: Hashable) -> Tensor:
        """function(*inputs, **settings); the settings belong to the graph."""
        call = partial(function, **settings)
        if torch.cuda.is_current_stream_capturing():
            return call(*inputs)  # the caller makes a graph of it
        sizes = tuple((values.shape[1:], values.dtype, values.device) for values in inputs)
        key = (function.__name__, sizes, *settings.items())
        with _one_thread:
            count, graph = len(inputs[0]), self._graphs.get(key)
            if graph is not None and count <= graph.length:
                self._graphs.move_to_end(key)
                # A graph takes as long for a short batch as for a whole one.
                return graph.replay(inputs) if 2 * count >= graph.length else call(*inputs)
            case = self._cases.setdefault(key, _Case())
            case.batches += 1
            if self._released or case.refused or case.batches < case.due:
                return call(*inputs)
            case.batches, case.due = 0, 2 * case.due
            return self._record(key, case, call, inputs)

    def _record(
        self, key: Hashable, case: _Case, call: Callable[..., Tensor], inputs: tuple[Tensor, ...]
    ) -> Tensor:
        """The result of a call, after which there is a graph of it if that is right and faster."""
        device = inputs[0].device
        self._graphs.pop(key, None)
        expected, seconds = timed(lambda: call(*inputs), device)
        while len(self._graphs) >= KEPT:
            self._graphs.popitem(last=False)
        about = f"{device}: batches of {' and '.join(str(tuple(values.shape)) for values in inputs)}"
        try:
            graph = Graph(call, inputs)
            found = [graph.replay(inputs)]
            again, replayed = timed(lambda: graph.replay(inputs), device)
            found.append(again)
            right = all(_same(one, expected) for one in found)
        except Interrupted:
            raise
        except Exception as error:
            free_locals(error)
            first_line = (str(error).splitlines() or [""])[0]
            log.warning("%s: no CUDA graph: %s: %s", about, type(error).__name__, first_line)
            case.refused = True
            # The allocator of torch may not recover from an invalid recording: there must not be many.
            self._released = self._released or not is_out_of_memory(error)
            return expected
        if right and replayed < seconds:
            self._graphs[key] = graph
            log.info("%s: CUDA graph, %.2f ms instead of %.2f", about, 1e3 * replayed, 1e3 * seconds)
            return expected
        case.refused = True
        if right:
            log.info("%s: no CUDA graph: %.2f ms, %.2f without", about, 1e3 * replayed, 1e3 * seconds)
        else:
            log.warning("%s: no CUDA graph: its result differs", about)
        return expected

    def release(self) -> None:
        """Free the graphs' memory, and make no more."""
        with _one_thread:  # another thread may be about to replay one
            if self._graphs:
                log.info("out of memory: no CUDA graphs any more")
            self._graphs.clear()
            self._released = True


# torch records in one thread at a time, and two must not use a graph's memory at once.
_one_thread = threading.RLock()
_all: WeakSet[Graphs] = WeakSet()


def release() -> None:
    """Free the memory of all graphs of this process, which makes no more of them."""
    for graphs in list(_all):
        graphs.release()


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether float32 tensors are equal to the bit, also where they are not a number."""
    return torch.equal(one.view(torch.int32), other.view(torch.int32))
