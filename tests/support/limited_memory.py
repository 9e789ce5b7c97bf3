"""Simulated out-of-memory on the CPU: tensors count as long as they are referenced."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LimitedMemory(TorchDispatchMode):
    """Within its block, tensors of more than `limit` bytes in total raise `error`, by default torch's.

    Attributes
    ----------
    live, peak: current and maximum bytes of the live tensors made in the block.
    """

    def __init__(self, limit: float = float("inf"), error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.limit, self.error = limit, error
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, key, size)
        if self.live > self.limit:
            raise self.error(f"CUDA out of memory: {self.live} bytes are in use")

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
