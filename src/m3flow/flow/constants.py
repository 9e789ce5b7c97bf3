"""Constants on a device, computed once; those that a CUDA graph reads live as long as the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any, TypeVar

Constant = TypeVar("Constant")

_collections: list[list[Any]] = []


def constants(maxsize: int) -> Callable[[Callable[..., Constant]], Callable[..., Constant]]:
    """Decorator: `lru_cache` for functions that return tensors."""

    def decorate(function: Callable[..., Constant]) -> Callable[..., Constant]:
        cached = lru_cache(maxsize)(function)

        @wraps(function)
        def wrapper(*args: Any) -> Constant:
            found: Constant = cached(*args)
            for collection in _collections:
                collection.append(found)
            return found

        wrapper.cache_clear = cached.cache_clear  # type: ignore[attr-defined]
        return wrapper

    return decorate


@contextmanager
def collected() -> Iterator[list[Any]]:
    """The constants that are used in the block, as a list that grows.

    The cache forgets those not used for long; a recorded launch would then read memory that is something else's.
    """
    collection: list[Any] = []
    _collections.append(collection)
    try:
        yield collection
    finally:
        _collections[:] = [other for other in _collections if other is not collection]
