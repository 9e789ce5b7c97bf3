"""Memory that a process shares with its child, for arrays that are handed over without a pipe.

It has no name: it belongs to an open file that the child inherits, so that nothing is left behind, however the
processes end.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ALIGNMENT = 64


class Place(NamedTuple):
    """An array in shared memory: its position in bytes, its type and its shape."""

    start: int
    dtype: str
    shape: tuple[int, ...]


class SharedMemory:
    """Arrays of one message at a time; it grows to the size of the largest.

    Parameters
    ----------
    descriptor: of the memory, inherited from the parent; None creates new memory.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = os.memfd_create("m3flow") if descriptor is None else descriptor
        self._map: mmap.mmap | None = None

    def close(self) -> None:
        self._map = None
        os.close(self.descriptor)

    def put(self, arrays: Sequence[np.ndarray]) -> list[Place]:
        """Copy arrays into the memory, over those before."""
        places: list[Place] = []
        size = 1  # a map cannot be empty
        for array in arrays:
            start = -(-size // ALIGNMENT) * ALIGNMENT
            places.append(Place(start, array.dtype.str, array.shape))
            size = start + array.nbytes
        if size > os.fstat(self.descriptor).st_size:
            os.ftruncate(self.descriptor, size)
        for array, view in zip(arrays, self.views(places), strict=True):
            view[...] = array
        return places

    def views(self, places: Sequence[Place]) -> list[np.ndarray]:
        """The arrays at these places, valid until the next `put`."""
        size = os.fstat(self.descriptor).st_size
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self.descriptor, size)
        return [np.ndarray(place.shape, place.dtype, self._map, place.start) for place in places]
