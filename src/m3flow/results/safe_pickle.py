"""Safe reader for pickles of arrays, strings and numbers, which executes and builds nothing else."""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np

PLAIN_DTYPE = re.compile(r"[<>|=]?(?:[iu][1248]|f[248]|b1|u?int(?:8|16|32|64)|float(?:16|32|64)|bool)")
MOST_DIMENSIONS = 8


def load(data: bytes) -> Any:
    """The value in a pickle; NumPy arrays among the values of a dict or of nested dicts are assembled.

    NumPy's functions are not called with values from the file: the few names in pickles of NumPy 1 and 2 are
    mapped to functions of ours, which accept only plain numbers, and only as many as the file has.

    Raises
    ------
    pickle.UnpicklingError: it requests anything else. A damaged pickle can raise nearly any other error.
    """
    return _plain(_Unpickler(data).load())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.array if isinstance(value, _Array) else value


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy", "ndarray"): self._ndarray,
            ("numpy", "dtype"): self._dtype,
            ("_codecs", "encode"): self._encode,
        }
        for core in ("numpy.core", "numpy._core"):
            self._allowed[f"{core}.multiarray", "_reconstruct"] = self._reconstruct
            self._allowed[f"{core}.multiarray", "scalar"] = self._scalar
            self._allowed[f"{core}.numeric", "_frombuffer"] = self._frombuffer

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it requests {module}.{name}, which arrays do not need")
        return self._allowed[module, name]

    def _ndarray(self, shape: Any, dtype: Any, buffer: Any) -> np.ndarray:
        return _array(shape, dtype, buffer)

    def _frombuffer(self, buffer: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        return _array(shape, dtype, buffer, "F" if order == "F" else "C")

    def _reconstruct(self, *_: Any) -> _Array:
        return _Array()

    def _dtype(self, name: Any, *_: Any) -> _Dtype:
        return _Dtype(name)

    def _scalar(self, dtype: Any, buffer: Any) -> Any:
        return _array((), dtype, buffer)[()]

    def _encode(self, text: Any, _: Any) -> bytes:
        # The representation of bytes in the oldest pickles.
        return text.encode("latin-1")


class _Array:
    """An array whose shape and content follow later."""

    __slots__ = ("array",)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, buffer = state
        self.array = _array(shape, dtype, buffer, "F" if fortran else "C")


class _Dtype:
    """A type of plain numbers; its byte order follows later."""

    __slots__ = ("dtype",)

    def __init__(self, name: Any) -> None:
        if not (isinstance(name, str) and PLAIN_DTYPE.fullmatch(name)):
            raise pickle.UnpicklingError(f"it has {str(name)[:40]!r}, not plain numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def _array(shape: Any, dtype: Any, buffer: Any, order: Any = "C") -> np.ndarray:
    kind = (dtype if isinstance(dtype, _Dtype) else _Dtype(dtype)).dtype
    sizes = shape if isinstance(shape, tuple) else (None,)
    if len(sizes) > MOST_DIMENSIONS or not all(type(size) is int and size >= 0 for size in sizes):
        raise pickle.UnpicklingError(f"{str(shape)[:40]} is not the shape of an array")
    if not isinstance(buffer, bytes | bytearray) or len(buffer) != math.prod(sizes) * kind.itemsize:
        raise pickle.UnpicklingError(f"an array of shape {shape} has the wrong number of bytes")
    # A bytearray is not copied, and the array is writable, as usual for pickles.
    content = buffer if isinstance(buffer, bytearray) else bytearray(buffer)
    return np.ndarray(sizes, kind, content, order=order)
