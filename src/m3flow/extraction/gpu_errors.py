"""GPU errors: out of memory, which a smaller batch avoids, and errors that make the GPU unusable to the process."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from m3flow.errors import Interrupted

# From cuBLAS, cuDNN and cuSOLVER (..._STATUS_ALLOC_FAILED), the CUDA driver and OpenCV.
ALLOCATION_FAILED = ("ALLOC_FAILED", "out of memory", "Insufficient memory")


class DeviceLost(Interrupted):
    """Every further CUDA call of this process fails; a new process can use the GPU again."""


@contextmanager
def detecting_lost_device(device: str) -> Iterator[None]:
    """Raises DeviceLost for an error in the block that makes the GPU `device` unusable to this process."""
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
    """Whether the GPU still works in this process; found by trying, because its errors do not say."""
    import torch

    try:
        torch.zeros(1, device=device).add_(1).cpu()
    except RuntimeError as error:
        return is_out_of_memory(error)
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that device memory, or a kernel's on-chip memory, was exhausted."""
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
    """Free the tensors of a failed computation: local variables referenced by the error's traceback."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
