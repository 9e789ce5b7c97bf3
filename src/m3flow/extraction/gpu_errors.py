"""Errors of a GPU: out of memory, which a smaller batch gets over, and those that end its use to this process."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from m3flow.errors import Interrupted

# Of cuBLAS, cuDNN and cuSOLVER (..._STATUS_ALLOC_FAILED), of the CUDA driver and of OpenCV.
ALLOCATION_FAILED = ("ALLOC_FAILED", "out of memory", "Insufficient memory")


class DeviceLost(Interrupted):
    """Every further CUDA call of this process fails, whatever it asks for; a new process can use the GPU again."""


@contextmanager
def detecting_lost_device(device: str) -> Iterator[None]:
    """Raises DeviceLost for an error of the block after which this process cannot use the GPU `device`."""
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        if device.startswith("cuda") and not is_out_of_memory(error) and not is_usable(device):
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            raise DeviceLost(f"{device} cannot be used any more: {first_line}") from error
        raise


def is_usable(device: str) -> bool:
    """Whether a GPU still computes for this process; tried, as its errors do not tell."""
    import torch

    try:
        torch.zeros(1, device=device).add_(1).cpu()
    except RuntimeError as error:
        return is_out_of_memory(error)
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, or a kernel's on-chip memory, did not suffice."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    # Triton's error is matched by its name, so that Triton need not be installed.
    if type(error).__name__ == "OutOfResources":
        return True
    cv2 = sys.modules.get("cv2")
    kinds = (RuntimeError, cv2.error) if cv2 else (RuntimeError,)
    return isinstance(error, kinds) and any(words in str(error) for words in ALLOCATION_FAILED)


def free_memory_of(error: BaseException) -> None:
    """Free the tensors of a failed computation: the local variables that the error's traceback holds."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
