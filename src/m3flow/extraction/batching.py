"""Batches of frame pairs, across videos, that fit the device's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from m3flow.errors import Interrupted
from m3flow.extraction.frame_buffer import FrameBuffer
from m3flow.extraction.gpu_errors import free_memory_of
from m3flow.flow.out_of_memory import is_out_of_memory

Owner = TypeVar("Owner")
Result = TypeVar("Result")

# Of a process's part of the GPU's memory; the rest is for the CUDA context and for fragmentation. If memory
# use was underestimated, the batch is halved on out-of-memory.
SHARE_OF_MEMORY = 0.7
# Larger batches do not raise a GPU's throughput: 100 pairs of 320x240, 4 of 1920x1080.
PIXELS_ENOUGH = 8_000_000
# On a CPU small batches make better use of the cache.
BATCH_ON_CPU = 8


class TooLarge(RuntimeError):
    """A single pair of frames does not fit the device's memory."""


def batch_size(
    device: str,
    height: int,
    width: int,
    *,
    bytes_per_pixel: int,
    sharing: int = 1,
    setting: int | None = None,
) -> int:
    """The number of frame pairs per batch on `device`; `setting`, if given, is used unchanged.

    bytes_per_pixel: peak memory of the computation, per pixel of each pair.
    sharing: number of processes that compute on the device.
    """
    if setting is not None:
        return setting
    if not device.startswith("cuda"):
        return BATCH_ON_CPU
    pixels = min(PIXELS_ENOUGH, SHARE_OF_MEMORY * available_memory(device, sharing) / bytes_per_pixel)
    return max(1, int(pixels / (height * width)))


def available_memory(device: str, sharing: int = 1) -> int:
    """Bytes of a GPU's memory for one of the `sharing` processes that use it.

    An equal share of the total, since processes that start at the same time all see the same free memory; at
    most the memory free now, including torch's unused cache.
    """
    import torch

    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(free, total // sharing)


@dataclass
class Part(Generic[Owner, Result]):
    """The result of some frame pairs of one owner.

    Attributes
    ----------
    owner: the owner of the pairs.
    result: the return value of `call` for them; None without pairs or after an error.
    share: the owner's share of the pairs in the batch.
    last: whether the owner has no more pairs.
    error: the error that ended this owner; no more parts follow.
    """

    owner: Owner
    result: Result | None = None
    share: float = 0.0
    last: bool = False
    error: Exception | None = None


@dataclass(eq=False)
class _Held(Generic[Owner]):
    """The number of an owner's frames in the buffer, those of its pending pairs."""

    owner: Owner
    frames: int = 0
    complete: bool = False

    def pairs(self, step: int) -> int:
        return max(0, self.frames - step)


class Batches(Generic[Owner, Result]):
    """Applies `call` to runs of consecutive frames so that every pair t, t + step is computed exactly once.

    Videos come one after another: `add`, once for each block of frames, then `end`. If `shared`, the last
    frames of a video wait for the next one, and both go into one batch if their frames have the same size; the
    pairs across the seam are computed and discarded. `flush` computes waiting frames at once.

    On out-of-memory the batch is halved and retried; later batches keep the smaller size.

    Parameters
    ----------
    call: takes frames [n + step, H, W] and returns a result for their n pairs; slicing the result must select
        the pairs, e.g. `lambda frames: estimator.sequence(frames, step)`. The frames stay valid until it
        returns or, on a GPU, until the kernels that it launched are done. If items were added with the frames,
        it gets those of its frames as a second argument.
    step: the distance between the frames of a pair.
    shared: whether videos share batches.
    device: the torch device to which the frames are copied; None keeps them as NumPy arrays.
    fitting: the number of pairs that fitted the device's memory, by frame size, where it is smaller than
        requested; shared between the `Batches` of a process.

    All methods yield `Part`s, in order for each owner. An error in `call` becomes a part's `error` (TooLarge if a
    single pair does not fit the device's memory) and affects only its owner: a shared batch is retried for each
    owner alone. So does an error in copying frames to the device. `Interrupted` belongs to no owner and is raised.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        *,
        step: int = 1,
        shared: bool = False,
        device: str | None = None,
        fitting: MutableMapping[tuple[int, int], int] | None = None,
    ) -> None:
        self._call, self._step, self._shared = call, step, shared
        self._frames = FrameBuffer(device)
        self._items: list[Any] = []
        # In the order of their frames in the buffer; only the last one may get more frames.
        self._held: list[_Held[Owner]] = []
        self._batch = 1
        self._fitting = {} if fitting is None else fitting

    def add(
        self, owner: Owner, frames: np.ndarray, batch: int, items: Sequence[Any] | None = None
    ) -> Iterator[Part[Owner, Result]]:
        """Add frames of a video, uint8 [any number, H, W]; at most `batch` pairs are computed at a time.

        items: one item per frame, passed along with it; for all frames or for none.
        """
        size = frames.shape[1], frames.shape[2]
        if self._held and self._frames.frame_size != size:
            yield from self.flush()
        if not self._held:
            self._batch = batch
        # What fits may have been found elsewhere: in the camera search, in quantising.
        self._batch = min(self._batch, self._fitting.get(size, self._batch))
        if not self._held or self._held[-1].owner is not owner:
            self._held.append(_Held(owner))
        try:
            self._append(frames)
        except Interrupted:
            raise
        except Exception as error:
            self.drop(owner)
            yield Part(owner, last=True, error=error)
            return
        self._items.extend(items or ())
        self._held[-1].frames += len(frames)
        while self._pairs() >= self._batch:
            yield from self._run()

    def _append(self, frames: np.ndarray) -> None:
        others = self._step + len(frames)
        try:
            self._frames.append(frames, room=self._batch + others)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            free_memory_of(error)
            self._batch = self._fitting[frames.shape[1], frames.shape[2]] = max(1, self._batch // 2)
            self._frames.append(frames, room=self._batch + others)

    def end(self, owner: Owner) -> Iterator[Part[Owner, Result]]:
        """Mark the end of a video."""
        held = next((held for held in self._held if held.owner is owner), None)
        if held is not None and held.pairs(self._step):
            held.complete = True
        else:
            self.drop(owner)
            yield Part(owner, last=True)
        if not self._shared:
            yield from self.flush()

    def flush(self) -> Iterator[Part[Owner, Result]]:
        """Compute all waiting pairs."""
        while self._pairs():
            yield from self._run()

    def drop(self, owner: Owner) -> None:
        """Remove a video that failed."""
        for held in self._held:
            if held.owner is owner:
                start = self._start_of(held)
                self._forget(start, start + held.frames)
        self._held = [held for held in self._held if held.owner is not owner]

    def _forget(self, start: int, stop: int) -> None:
        self._frames.drop(start, stop)
        del self._items[start:stop]

    def _pairs(self) -> int:
        return sum(held.pairs(self._step) for held in self._held)

    def _start_of(self, target: _Held[Owner]) -> int:
        """The position of the owner's first frame in the buffer."""
        start = 0
        for held in self._held:
            if held is target:
                break
            start += held.frames
        return start

    def _run(self) -> Iterator[Part[Owner, Result]]:
        """Compute the first pairs in the buffer: a batch, or all if there are fewer."""
        left, chosen = self._batch, []
        for held in self._held:
            count = min(left, held.pairs(self._step))
            if count:
                chosen.append((held, count))
                left -= count
        yield from self._together(chosen)

    def _together(self, chosen: list[tuple[_Held[Owner], int]]) -> Iterator[Part[Owner, Result]]:
        """Compute the first pairs of consecutive owners in one call: all pairs of each but the last owner."""
        pairs = sum(count for _, count in chosen)
        first, last = chosen[0][0], chosen[-1][0]
        start, stop = self._start_of(first), self._start_of(last) + chosen[-1][1] + self._step
        items = [self._items[start:stop]] if self._items else []
        too_large, failure = "", None
        try:
            result = self._call(self._frames.stretch(start, stop), *items)
        except Interrupted:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                # Its traceback references the tensors of the failed call.
                free_memory_of(error)
                too_large = (str(error).splitlines() or [type(error).__name__])[0]
            else:
                failure = error
        else:
            yield from self._parts(chosen, result)
            return
        if too_large and pairs > 1:
            self._batch = self._fitting[self._frames.frame_size] = pairs // 2
        elif len(chosen) > 1:
            for one in chosen:
                yield from self._together([one])
        else:
            height, width = self._frames.frame_size
            self.drop(first.owner)
            yield Part(
                first.owner,
                last=True,
                error=failure
                or TooLarge(
                    f"a pair of {width}x{height} frames does not fit the device's memory: {too_large}"
                ),
            )

    def _parts(self, chosen: list[tuple[_Held[Owner], int]], result: Any) -> list[Part[Owner, Result]]:
        """The parts of a result that belong to each owner; their pairs are removed."""
        pairs = sum(count for _, count in chosen)
        parts: list[Part[Owner, Result]] = []
        start = 0
        for held, count in chosen:
            of_owner = result if len(chosen) == 1 else result[start : start + count]
            start += count + self._step
            begins = self._start_of(held)
            self._forget(begins, begins + count)
            held.frames -= count
            last = held.complete and not held.pairs(self._step)
            if last:
                self.drop(held.owner)
            parts.append(Part(held.owner, of_owner, count / pairs, last))
        return parts
