"""A GPU's memory: how much there is, whether an error says that it ran out, and giving it back."""

from __future__ import annotations

import sys
import traceback

# Of cuBLAS, cuDNN and cuSOLVER (..._STATUS_ALLOC_FAILED), of the CUDA driver and of OpenCV.
ALLOCATION_FAILED = ("ALLOC_FAILED", "out of memory", "Insufficient memory")


def available_memory(device: str, sharing: int = 1) -> int:
    """Bytes of a GPU's memory for one of the `sharing` processes that use it.

    An equal share of the whole, since those that start at the same time all see the same free memory; never
    more than is free now, torch's own unused cache included.
    """
    import torch

    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(free, total // sharing)


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
