"""A video through an estimator in batches that fit the device's memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from m3flow.flow.base import Array

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


def run_in_batches(
    call: Callable[[Array], Result], chunks: Iterable[Array], *, step: int = 1, batch: int
) -> Iterator[Result]:
    """`call` on stretches of a video that together make every pair of frames t, t + step exactly once.

    Where the device's memory runs out, the stretch is halved and tried again, and all later ones of this
    video are of that length too.

    Parameters
    ----------
    call: takes frames [n + step, H, W] and returns what belongs to their n pairs, e.g.
        `lambda frames: estimator.sequence(frames, step)`.
    chunks: the video's frames in order, uint8 [any number, H, W] each.
    step: the distance of a pair's frames.
    batch: pairs at a time; the last stretch may be shorter.

    Yields
    ------
    What `call` returns, in order; nothing for a video of `step` frames or fewer.

    Raises
    ------
    TooLarge: a single pair does not fit the device's memory.
    """
    held: Array | None = None
    for chunk in chunks:
        held = chunk if held is None else _join(held, chunk)
        while len(held) - step >= batch:
            result, batch = _halving(call, held, step, batch)
            yield result
            held = held[batch:]
    while held is not None and len(held) > step:
        result, batch = _halving(call, held, step, min(batch, len(held) - step))
        yield result
        held = held[batch:]


def _halving(call: Callable[[Array], Result], frames: Array, step: int, batch: int) -> tuple[Result, int]:
    """`call` on the first `batch` pairs, or on as many as fit; and how many that were."""
    while True:
        try:
            return call(frames[: batch + step]), batch
        except Exception as error:
            if not _out_of_memory(error):
                raise
            if batch == 1:
                height, width = frames.shape[1:]
                raise TooLarge(
                    f"a pair of {width}x{height} frames does not fit the device's memory: "
                    f"{str(error).splitlines()[0]}"
                ) from error
        # Only now, with the error gone, are the tensors free that its traceback kept.
        batch = max(1, batch // 2)
        _release_cache()


def _out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _release_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _join(first: Array, second: Array) -> Array:
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second])
    import torch

    return torch.cat([first, torch.as_tensor(second)])
