"""GPU errors: out of memory, which a smaller batch avoids, and errors that make the GPU unusable to the process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from m3flow.errors import BadInput, Interrupted
from m3flow.flow.out_of_memory import free_locals, is_out_of_memory


class DeviceLost(Interrupted):
    """Every further CUDA call of this process fails; a new process can use the GPU again."""


@contextmanager
def detecting_lost_device(device: str) -> Iterator[None]:
    """Raises DeviceLost for an error in the block that makes the GPU `device` unusable to this process."""
    try:
        yield
    except Exception as error:
        raise_if_lost(device, error)
        raise


def raise_if_lost(device: str, error: Exception) -> None:
    """Raises DeviceLost if `error` has made the GPU `device` unusable to this process."""
    explained = isinstance(error, Interrupted | BadInput) or is_out_of_memory(error)
    if device.startswith("cuda") and not explained and not is_usable(device):
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DeviceLost(f"{device} cannot be used any more: {first_line}") from error


def is_usable(device: str) -> bool:
    """Whether the GPU still works in this process; found by trying, because its errors do not say."""
    import torch

    try:
        torch.zeros(1, device=device).add_(1).cpu()
    except RuntimeError as error:
        return is_out_of_memory(error)
    return True


def free_memory_of(error: BaseException) -> None:
    """Free the tensors of a computation that ran out of memory, and the memory of CUDA graphs."""
    graphs = sys.modules.get("m3flow.flow.graphs")
    if graphs is not None:
        graphs.release()
    free_locals(error)
