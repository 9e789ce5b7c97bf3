"""Videos through an estimator in batches that fit the device's memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from m3flow.flow.base import Array

Owner = TypeVar("Owner")
Result = TypeVar("Result")

# About what the greediest estimator holds at its peak, for each pixel of each pair, in bytes. Halving on
# out-of-memory makes up for an estimate that is too low.
BYTES_PER_PIXEL = 1000
# Of the memory that is free now, what one process takes: others may be starting on the same GPU.
SHARE_OF_FREE = 0.5
# More pixels than this at a time keep a GPU no busier: 100 pairs of 320x240, 4 of 1920x1080.
PIXELS_ENOUGH = 8_000_000
# On a CPU small batches stay nearer to the cache.
BATCH_ON_CPU = 8


class TooLarge(RuntimeError):
    """Not even one pair of frames fits the device's memory."""


def batch_size(device: str, height: int, width: int, *, setting: int | None = None) -> int:
    """How many pairs of frames to compute at a time on `device`; `setting`, if given, is taken as it is."""
    if setting is not None:
        return setting
    if not device.startswith("cuda"):
        return BATCH_ON_CPU
    pixels = min(PIXELS_ENOUGH, SHARE_OF_FREE * free_memory(device) / BYTES_PER_PIXEL)
    return max(1, int(pixels / (height * width)))


def free_memory(device: str) -> int:
    """Bytes of a GPU's memory that this process can still have, torch's own unused cache included."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


@dataclass
class Part(Generic[Owner, Result]):
    """What came of some frame pairs of one owner.

    Attributes
    ----------
    owner: whose they are.
    result: what `call` returned for them; None where there are none, or an error.
    seconds: the time that took.
    last: whether the owner has no more pairs.
    error: what went wrong; there will be no more parts of this owner.
    """

    owner: Owner
    result: Result | None = None
    seconds: float = 0.0
    last: bool = False
    error: Exception | None = None


@dataclass
class _Held(Generic[Owner]):
    """Frames of an owner that are not done with: those of pairs still to come."""

    owner: Owner
    frames: Array
    complete: bool = False

    def pairs(self, step: int) -> int:
        return max(0, len(self.frames) - step)


class Batches(Generic[Owner, Result]):
    """`call` on stretches of videos that together make every pair of frames t, t + step exactly once.

    The videos come one after the other, each as `add`, as often as it has frames, and `end`. Where `shared`,
    what is left of a video at its end waits for the next, and both go through in one batch if their frames are
    of one size; the pairs across the seam are computed and thrown away. `flush` ends the waiting.

    Where the device's memory runs out, the stretch is halved and tried again, and later ones are as long.

    Parameters
    ----------
    call: takes frames [n + step, H, W] and returns what belongs to their n pairs; a slice of that must be what
        belongs to those pairs, e.g. `lambda frames: estimator.sequence(frames, step)`.
    step: the distance of a pair's frames.
    shared: whether videos share batches.

    All methods yield `Part`s, those of one owner in order. An error of `call` is a part's `error` (TooLarge where
    a single pair does not fit the device's memory), and the owner's alone: a batch that was shared is tried
    again for each of its owners.
    """

    def __init__(self, call: Callable[[Array], Any], *, step: int = 1, shared: bool = False) -> None:
        self._call, self._step, self._shared = call, step, shared
        self._held: list[_Held[Owner]] = []
        self._batch = 1

    def add(self, owner: Owner, frames: Array, batch: int) -> Iterator[Part[Owner, Result]]:
        """The next frames of a video, uint8 [any number, H, W], with at most `batch` pairs at a time."""
        if self._held and self._held[0].frames.shape[1:] != frames.shape[1:]:
            yield from self.flush()
        if not self._held:
            self._batch = batch
        if self._held and self._held[-1].owner is owner:
            self._held[-1].frames = _join([self._held[-1].frames, frames])
        else:
            self._held.append(_Held(owner, frames))
        while self._pairs() >= self._batch:
            yield from self._run()

    def end(self, owner: Owner) -> Iterator[Part[Owner, Result]]:
        """The video has no more frames."""
        held = next((held for held in self._held if held.owner is owner), None)
        if held is not None and held.pairs(self._step):
            held.complete = True
        else:
            self.drop(owner)
            yield Part(owner, last=True)
        if not self._shared:
            yield from self.flush()

    def flush(self) -> Iterator[Part[Owner, Result]]:
        """Whatever waits for more."""
        while self._pairs():
            yield from self._run()

    def drop(self, owner: Owner) -> None:
        """Forget a video that came to nothing."""
        self._held = [held for held in self._held if held.owner is not owner]

    def _pairs(self) -> int:
        return sum(held.pairs(self._step) for held in self._held)

    def _run(self) -> Iterator[Part[Owner, Result]]:
        """The first pairs of what is held: a batch, or all where there are fewer."""
        left, chosen = self._batch, []
        for held in self._held:
            count = min(left, held.pairs(self._step))
            if count:
                chosen.append((held, count))
                left -= count
        yield from self._together(chosen)

    def _together(self, chosen: list[tuple[_Held[Owner], int]]) -> Iterator[Part[Owner, Result]]:
        pairs = sum(count for _, count in chosen)
        began = time.perf_counter()
        try:
            result = self._call(_join([held.frames[: count + self._step] for held, count in chosen]))
        except Exception as error:
            short_of_memory = _out_of_memory(error)
            failure = _too_large(error, chosen[0][0].frames) if short_of_memory and pairs == 1 else error
        else:
            seconds = (time.perf_counter() - began) / pairs
            start = 0
            for held, count in chosen:
                part = result if len(chosen) == 1 else result[start : start + count]
                start += count + self._step
                held.frames = held.frames[count:]
                last = held.complete and not held.pairs(self._step)
                if last:
                    self.drop(held.owner)
                yield Part(held.owner, part, seconds * count, last)
            return
        # Only now, with the error gone, are the tensors free that its traceback kept.
        if short_of_memory and pairs > 1:
            self._batch = pairs // 2
            _release_cache()
        elif len(chosen) > 1:
            for one in chosen:
                yield from self._together([one])
        else:
            self.drop(chosen[0][0].owner)
            yield Part(chosen[0][0].owner, last=True, error=failure)


def _too_large(error: Exception, frames: Array) -> TooLarge:
    height, width = frames.shape[1:]
    return TooLarge(
        f"a pair of {width}x{height} frames does not fit the device's memory: {str(error).splitlines()[0]}"
    )


def _out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _release_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _join(pieces: list[Array]) -> Array:
    if len(pieces) == 1:
        return pieces[0]
    if all(isinstance(piece, np.ndarray) for piece in pieces):
        return np.concatenate(pieces)
    import torch

    return torch.cat([torch.as_tensor(piece) for piece in pieces])
