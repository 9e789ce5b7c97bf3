"""The memory of a batch, from which the batch size is derived, against the live tensors."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from m3flow.flow import estimator

FEW_ITERATIONS = {
    "farneback": {"iterations": 1},
    "tvl1": {"scales": 1, "warps": 1, "inner": 2, "outer": 1},
    "dis": {},
    "brox": {"outer": 1, "inner": 2, "solver": 1},
}


class LiveBytes(TorchDispatchMode):
    """Bytes of all live storages returned by operations, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@pytest.mark.parametrize("name", FEW_ITERATIONS)
def test_bytes_per_pixel_is_the_peak_of_a_batch(name):
    pairs, height, width = 8, 120, 160
    frames = torch.randint(0, 255, (pairs + 1, height, width), dtype=torch.uint8)
    chosen = estimator(name, backend="torch", device="cpu", **FEW_ITERATIONS[name])
    with LiveBytes() as live:
        chosen.sequence(frames)
    peak = live.peak / (pairs * height * width)
    assert 0.7 * chosen.bytes_per_pixel < peak < 1.05 * chosen.bytes_per_pixel
