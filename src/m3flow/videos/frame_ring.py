"""Decoded frames in memory that a decoding process shares with its parent: a ring of a few blocks.

The child announces each block on its output; the parent copies the block and frees its slot by a byte on a pipe. The
memory has no name: it belongs to an open file that the child inherits, so that nothing is left behind, however the
processes end. It can only grow, so that reading it is safe whatever a damaged video does to the child.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

SLOTS = 4
SLOT_BYTES = 4 * 2**20
BLOCK_FRAMES = 8


def block_frames(shape: Sequence[int]) -> int:
    """The most frames of a block, for frames uint8 of this shape: fewer if they are large."""
    return max(1, min(BLOCK_FRAMES, SLOT_BYTES // math.prod(shape)))


class _Ring:
    """The slots, used one after the other."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._map: mmap.mmap | None = None
        self._shape: tuple[int, ...] = ()
        self._next = 0

    def _begin(self, shape: Sequence[int]) -> None:
        self._shape, self._next = tuple(shape), 0
        needed = SLOTS * self._slot_bytes
        if os.fstat(self._memory).st_size < needed:
            os.ftruncate(self._memory, needed)
        if self._map is None or len(self._map) < needed:
            self._map = mmap.mmap(self._memory, needed)

    @property
    def _slot_bytes(self) -> int:
        return block_frames(self._shape) * math.prod(self._shape)

    def _slot(self, count: int) -> np.ndarray:
        """The next slot, for `count` frames."""
        start = self._next % SLOTS * self._slot_bytes
        self._next += 1
        return np.ndarray((count, *self._shape), np.uint8, self._map, start)


class FrameReader(_Ring):
    """The parent's end.

    Attributes
    ----------
    inherited: the descriptors that the child inherits, see `FrameWriter`.
    """

    def __init__(self) -> None:
        super().__init__(os.memfd_create("m3flow-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        fcntl.fcntl(self._memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        its_end, self._freed = os.pipe()
        self.inherited = (self._memory, its_end)

    def started(self) -> None:
        """The child has its descriptors."""
        os.close(self.inherited[1])

    def close(self) -> None:
        self._map = None
        os.close(self._memory)
        os.close(self._freed)

    def begin(self, shape: Sequence[int]) -> None:
        """Begin a video with frames uint8 of this shape, all frames of those before being read."""
        self._begin(shape)

    def take(self, count: int) -> np.ndarray:
        """A copy of the next block, which the child has announced: uint8 [count, …]."""
        block = self._slot(count).copy()
        with suppress(BrokenPipeError):  # the child has died; reading its next announcement says so
            os.write(self._freed, b"\0")
        return block


class FrameWriter(_Ring):
    """The child's end, of the descriptors that it inherits: of the memory, and of the pipe with freed slots."""

    def __init__(self, memory: int, freed: int) -> None:
        super().__init__(memory)
        self._freed = freed
        self._unread = 0

    def begin(self, shape: Sequence[int]) -> None:
        """Begin a video with frames uint8 of this shape; waits until those before are read."""
        self._wait(0)
        self._begin(shape)

    def put(self, frames: Sequence[np.ndarray]) -> None:
        """Write a block of at most `block_frames` frames; waits for a free slot."""
        self._wait(SLOTS - 1)
        self._unread += 1
        np.stack(frames, out=self._slot(len(frames)))

    def _wait(self, unread: int) -> None:
        while self._unread > unread:
            freed = len(os.read(self._freed, SLOTS))
            if not freed:
                raise BrokenPipeError("the parent has closed the ring of frames")
            self._unread -= freed
