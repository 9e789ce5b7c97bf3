"""Copies between the host and a device that the host does not wait for, or as late as possible.

Waiting drains the queue of launched work: the device then idles until the host has launched more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m3flow.flow.constants import constants
from m3flow.flow.out_of_memory import is_out_of_memory

# By how many iterations of a loop the host learns of its results late, by type of device.
LATE = {"cpu": 0, "cuda": 2}


def to_device(array: np.ndarray, device: torch.device | str) -> Tensor:
    """A NumPy array as a tensor on a torch device; a copy to a GPU is asynchronous."""
    source = torch.from_numpy(array)
    if torch.device(device).type == "cpu":
        return source
    target = torch.empty(source.shape, dtype=source.dtype, device=device)
    upload(source, target)
    return target


def upload(array: np.ndarray | Tensor, target: Tensor) -> None:
    """Copy an array into a tensor; a copy to a GPU is asynchronous, and made while the GPU computes."""
    source = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
    if target.device.type != "cuda" or source.device.type != "cpu":
        target.copy_(source, non_blocking=True)
        return
    computing, copying = torch.cuda.current_stream(target.device), _upload_stream(target.device)
    with torch.cuda.stream(copying):
        # Not into the target itself: work that was launched before may still read it.
        arrived = torch.empty_like(source, device=target.device)
        # torch caches page-locked memory and does not reuse it before this copy is done.
        arrived.copy_(_in_page_locked(source), non_blocking=True)
    computing.wait_stream(copying)
    # The allocator must not reuse its memory before it has been read.
    arrived.record_stream(computing)
    target.copy_(arrived)


@lru_cache
def _upload_stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device)


def _in_page_locked(source: Tensor) -> Tensor:
    """A copy that a GPU reads by itself; where no more memory can be locked, the tensor, and the host waits."""
    try:
        return source.pin_memory()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return source


@constants(maxsize=256)
def constant(values: tuple[Any, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """A small constant, nested tuples of numbers, copied to the device at its first use."""
    return torch.tensor(values, dtype=dtype).to(device)


class Readback:
    """Copies of tensors to the host, started when it is made and waited for when they are needed."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._copies, self._copied = list(tensors), None
        if tensors and tensors[0].device.type == "cuda":
            self._copies = [page_locked(tensor).copy_(tensor, non_blocking=True) for tensor in tensors]
            self._copied = torch.cuda.current_stream(tensors[0].device).record_event()

    def arrays(self) -> list[np.ndarray]:
        """The copies; waits for the work that was launched before they were started, and for no later work."""
        if self._copied is not None:
            self._copied.synchronize()
        return [copy.cpu().numpy() for copy in self._copies]


class LateReadback:
    """The values of a tensor that changes in a loop, as they were some iterations ago.

    The device always has the work of `late` iterations left, so it does not idle while the host waits. On a CPU the
    values are those of now.

    Attributes
    ----------
    late: the number of iterations; None on a device without asynchronous copies, where the host reads nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self.late = LATE.get(device.type)
        self._copies: deque[Readback] = deque()

    def read(self, tensor: Tensor) -> np.ndarray | None:
        """The values `late` calls ago; None if there have been fewer since the last `forget`."""
        if self.late is None:
            return None
        if self.late == 0:
            return tensor.numpy()
        self._copies.append(Readback([tensor]))
        return self._copies.popleft().arrays()[0] if len(self._copies) > self.late else None

    def forget(self) -> None:
        """Drop the copies that were not read."""
        self._copies.clear()


def page_locked(like: Tensor) -> Tensor:
    """Host memory for a tensor: page-locked, which a GPU writes by itself, or else ordinary, and the host waits."""
    try:
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return torch.empty(like.shape, dtype=like.dtype)
