"""Frames of consecutive videos in one contiguous array on the computing device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from m3flow.flow.base import Array


class FrameBuffer:
    """A queue of frames of one size: appended at the end, read anywhere, dropped mostly from the front.

    Each frame is copied to the device once, and the frames are contiguous, so that any range of them is a view.

    Parameters
    ----------
    device: the torch device of the frames; None keeps them as NumPy arrays.
    """

    def __init__(self, device: str | None = None) -> None:
        self._device = device
        self._array: Any = None
        self._start = self._end = 0

    def __len__(self) -> int:
        return self._end - self._start

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frames, (0, 0) before the first."""
        return (0, 0) if self._array is None else tuple(self._array.shape[1:3])

    def append(self, frames: np.ndarray, room: int = 0) -> None:
        """Add frames uint8 [n, H, W] or [n, H, W, 3], of the size of those held.

        room: how many will be held at a time.
        """
        self._make_room(frames, room)
        target = self._array[self._end : self._end + len(frames)]
        if self._device is None:
            target[...] = frames
        else:
            from m3flow.flow import transfer

            transfer.upload(frames, target)
        self._end += len(frames)

    def stretch(self, start: int, stop: int) -> Array:
        """The frames `start` to `stop`, counted from the first in the buffer: a view, valid until the next call."""
        return self._held()[start:stop]

    def drop(self, start: int, stop: int) -> None:
        """Remove the frames `start` to `stop`."""
        if start == 0:
            self._start += stop
            return
        after = self._held()[stop:]
        # Source and target may overlap.
        self._held()[start : start + len(after)] = after.copy() if self._device is None else after.clone()
        self._end -= stop - start

    def _held(self) -> Any:
        return np.empty((0, 0, 0), np.uint8) if self._array is None else self._array[self._start : self._end]

    def _make_room(self, frames: np.ndarray, room: int) -> None:
        held = len(self)
        if held == 0:
            self._start = self._end = 0
            if self._array is not None and self._array.shape[1:] != frames.shape[1:]:
                self._array = None
        needed = held + len(frames)
        if self._array is not None and self._end + len(frames) <= len(self._array):
            return
        old = self._held()
        # At least half the array stays free, so that frames are moved rarely and source and target never overlap.
        if self._array is None or 2 * needed > len(self._array):
            self._array = self._allocate(2 * max(needed, room), *frames.shape[1:])
        if held:
            self._array[:held] = old
        self._start, self._end = 0, held

    def _allocate(self, *shape: int) -> Any:
        if self._device is None:
            return np.empty(shape, np.uint8)
        import torch

        return torch.empty(shape, dtype=torch.uint8, device=self._device)


def to_device(array: np.ndarray, device: str) -> Array:
    """A NumPy array as a tensor on a torch device; on the CPU, the array itself, without torch."""
    if device == "cpu":
        return array
    from m3flow.flow import transfer

    return transfer.to_device(array, device)
