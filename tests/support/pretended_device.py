"""A pretended GPU: torch's operations on shapes without data, and a list of the places where the host would wait.

Fake tensors on torch's placeholder device (`privateuse1`) mix with no CPU tensor, so that an operation between
both raises, as on a GPU.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

DEVICE = "pretended:0"
# One for the whole process: constants are cached, and tensors of two modes do not mix.
_mode: FakeTensorMode | None = None


class Waits(TorchDispatchMode):
    """Collects what the host would wait for: values of tensors, lengths that depend on values, copies.

    Copies of the numbers of a boolean index are replaced by an index of full length, so that the code goes on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def note(self, what: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if "/m3flow/" in frame.filename]
        place = f"{frames[-1].filename.rpartition('m3flow/')[2]}:{frames[-1].lineno}" if frames else "test"
        self.found.append(f"{what} at {place}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.__name__.partition(".")[0], kwargs or {}
        if name in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique"):
            self.note(name)
        if name in ("index", "index_put", "index_put_"):
            masks = [one for one in args[1] if one is not None and one.dtype == torch.bool]
            if masks:
                self.note("boolean index")
                full = [
                    torch.arange(one.shape[0], device=one.device) if one is not None and one in masks else one
                    for one in args[1]
                ]
                args = (args[0], full, *args[2:])
        result = func(*args, **kwargs)
        devices = {leaf.device.type for leaf in tree_leaves((args, result)) if isinstance(leaf, torch.Tensor)}
        if name in ("_to_copy", "copy_") and len(devices) > 1:
            self.note("copy between host and device")
        return result


@contextmanager
def pretended_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """Tensors made on `DEVICE` inside the block are pretended, and waits are collected."""
    global _mode
    if _mode is None:
        _setup_privateuseone_for_python_backend("pretended")
        _mode = FakeTensorMode(allow_non_fake_inputs=True)
    waits = Waits()

    def noting(what: str, value: Any) -> Any:
        def method(tensor: torch.Tensor, *_: Any) -> Any:
            waits.note(what)
            return value(tensor)

        return method

    monkeypatch.setattr(FakeTensor, "__bool__", noting("bool()", lambda tensor: True))
    monkeypatch.setattr(FakeTensor, "__int__", noting("int()", lambda tensor: 0))
    monkeypatch.setattr(FakeTensor, "__float__", noting("float()", lambda tensor: 0.0))
    monkeypatch.setattr(FakeTensor, "tolist", noting("tolist()", lambda tensor: _zeros(tensor).tolist()))
    monkeypatch.setattr(FakeTensor, "numpy", noting("numpy()", _zeros))
    monkeypatch.setattr(FakeTensor, "cpu", noting("cpu()", lambda tensor: torch.from_numpy(_zeros(tensor))))
    try:
        with _mode, waits:
            yield waits
    finally:
        _forget_constants()


def _forget_constants() -> None:
    """Clears the caches of the package: constants made inside the block are pretended, also those of the CPU."""
    modules = [module for name, module in sys.modules.items() if name.startswith("m3flow.")]
    for value in [value for module in modules for value in vars(module).values()]:
        clear = getattr(value, "cache_clear", None)
        if callable(clear):
            clear()


def pretended_copies(monkeypatch: pytest.MonkeyPatch, *uploading: str) -> list[int]:
    """Pretend copies between host and device: the modules `uploading` make tensors without data, and reads of the
    camera search give zeros. Returns how many tensors are read at a time, as a list that grows.
    """
    read: list[int] = []

    class Readback:
        def __init__(self, tensors: Any) -> None:
            self._tensors = tensors

        def arrays(self) -> list[np.ndarray]:
            read.append(len(self._tensors))
            return [_zeros(one) for one in self._tensors]

    def uploaded(array: np.ndarray, device: Any) -> torch.Tensor:
        return torch.empty(array.shape, dtype=torch.from_numpy(array).dtype, device=device)

    monkeypatch.setattr("m3flow.camera.candidates_torch.Readback", Readback)
    # A module that is imported after the first replacement would keep it.
    for module in uploading:
        import_module(f"m3flow.{module}")
    for module in uploading:
        monkeypatch.setattr(f"m3flow.{module}.to_device", uploaded)
    return read


def pretended_kernels(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The fused kernels are chosen and launched, and do nothing; a tensor that is not on `DEVICE` raises.

    Returns the names of those that were launched, as a set that grows.
    """
    jit = pytest.importorskip("triton.runtime.jit", reason="Triton is not installed")
    names: set[str] = set()

    def chosen(module: str, _device: str, package: str = "m3flow.flow") -> Any:
        return import_module(f"{package}.{module}")

    def run(kernel: Any, *args: Any, **options: Any) -> None:
        places = {leaf.device for leaf in tree_leaves((args, options)) if isinstance(leaf, torch.Tensor)}
        assert places == {torch.device(DEVICE)}, f"{kernel.__name__} gets tensors on {places}"
        names.add(kernel.__name__)

    monkeypatch.setattr(jit.JITFunction, "run", run)
    estimators = "flow.farneback", "flow.dis", "flow.brox"
    for module in (*estimators, "camera.candidates_torch", "camera.compensation_torch"):
        monkeypatch.setattr(f"m3flow.{module}.kernels", chosen)
    return names


def _zeros(tensor: torch.Tensor) -> np.ndarray:
    return np.zeros(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
