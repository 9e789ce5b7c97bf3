"""A pretended CUDA graph on the CPU: it records the operations of a function, and repeats them on the same memory.

As on a GPU, nothing is computed while it records, so that the recorded memory holds no values before the first replay;
numbers of Python are recorded as they were; reading a value is an error; and memory that the graph does not own may be
freed before a replay, which here is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from m3flow.flow import graphs

# Reading a value or a length that depends on values, and copies from ordinary host memory.
WAITS = set("_local_scalar_dense nonzero is_nonzero equal masked_select unique lift_fresh lift".split())


class NotPermitted(RuntimeError):
    """An operation that CUDA does not permit while a stream is recorded, or whose replay would be undefined."""


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: its storage is kept alive if it belongs to the graph."""

    storage: Any
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def tensor(self) -> Tensor:
        storage = self.storage
        if isinstance(storage, StorageWeakRef):
            if storage.expired():
                raise NotPermitted("a replay reads memory that has been freed")
            storage = torch.UntypedStorage._new_with_weak_ptr(storage.cdata)
        return torch.empty(0, dtype=self.dtype).set_(storage, self.offset, self.size, self.stride)


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.own: dict[int, Any] = {}  # storages by address of their object

    def place(self, tensor: Tensor) -> Place:
        storage = tensor.untyped_storage()
        key = storage._cdata
        where = self.own[key] if key in self.own else StorageWeakRef(storage)
        return Place(where, tensor.dtype, tensor.size(), tensor.stride(), tensor.storage_offset())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.__name__.partition(".")[0]
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in WAITS or any(one is not None and one.dtype == torch.bool for one in indices):
            raise NotPermitted(f"operation not permitted when stream is capturing: {name}")
        taken = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if _is_tensor(leaf)}
        for argument, value in zip(func._schema.arguments, args, strict=False):
            self._check_owned(name, argument, value)
        for argument in func._schema.arguments:
            if argument.name in kwargs:
                self._check_owned(name, argument, kwargs[argument.name])
        result = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if _is_tensor(leaf)]
        for tensor in made:
            storage = tensor.untyped_storage()
            if storage._cdata not in taken:
                self.own[storage._cdata] = storage
        recorded = tree_map_only(Tensor, self.place, (args, kwargs, result))
        self.operations.append((func, *recorded))
        return result

    def _check_owned(self, name: str, argument: Any, value: Any) -> None:
        writes = argument.alias_info is not None and argument.alias_info.is_write
        if writes and value.untyped_storage()._cdata not in self.own:
            raise NotPermitted(f"{name} writes into memory that the graph does not own")


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


class PretendedRecording:
    """`m3flow.flow.graphs.Recording` on the CPU."""

    made: int = 0
    replays: int = 0

    def __init__(self, function: Callable[[], Tensor], device: torch.device) -> None:  # noqa: ARG002
        recorder = _Recorder()
        with recorder:
            self.result = function()
        self._operations = recorder.operations
        self._own = recorder.own
        for storage in self._own.values():
            torch.empty(0, dtype=torch.uint8).set_(storage).fill_(0xFF)  # not a number
        PretendedRecording.made += 1

    def replay(self) -> None:
        PretendedRecording.replays += 1
        for func, args, kwargs, results in self._operations:
            args, kwargs = tree_map_only(Place, lambda place: place.tensor(), (args, kwargs))
            again = func(*args, **kwargs)
            pairs = zip(tree_leaves(results), tree_leaves(again), strict=True)
            for place, tensor in pairs:
                if isinstance(place, Place) and not _same_memory(place, tensor):
                    place.tensor().copy_(tensor)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        yield


def _same_memory(place: Place, tensor: Tensor) -> bool:
    return place.tensor().data_ptr() == tensor.data_ptr()


def pretended_graphs(
    monkeypatch: pytest.MonkeyPatch, seconds: Callable[[], float] = lambda: 0.0
) -> type[PretendedRecording]:
    """Have estimators on the CPU use pretended graphs; each is as fast as `seconds` says, without graphs 1 s."""
    PretendedRecording.made = PretendedRecording.replays = 0

    def timed(call: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float]:  # noqa: ARG001
        before = PretendedRecording.replays
        result = call()
        return result, 1.0 if PretendedRecording.replays == before else seconds()

    monkeypatch.setattr(graphs, "Recording", PretendedRecording)
    monkeypatch.setattr(graphs, "timed", timed)
    monkeypatch.setattr(graphs, "wanted", lambda device: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return PretendedRecording
