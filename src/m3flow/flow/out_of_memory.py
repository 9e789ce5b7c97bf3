"""Recognition of out of memory, which each library reports in its own way."""

from __future__ import annotations

import sys
import traceback

# From cuBLAS, cuFFT, cuSOLVER and cuDNN until 8 (..._ALLOC_FAILED), from cuDNN 9 (..._ALLOCATION_FAILED), from the CUDA
# driver, Triton's launcher and OpenCV; and from cuBLAS, which has no other word for the lack of a workspace.
WORDS = (
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "out of memory",
    "Insufficient memory",
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that host or device memory, or a kernel's on-chip memory, was exhausted."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    cv2 = sys.modules.get("cv2")
    kinds = (RuntimeError, cv2.error) if cv2 else (RuntimeError,)
    return exceeds_chip(error) or (isinstance(error, kinds) and any(words in str(error) for words in WORDS))


def exceeds_chip(error: BaseException) -> bool:
    """Whether a Triton kernel needs more on-chip memory than the GPU has, whatever the batch."""
    # Matched by its name, so that Triton need not be installed.
    return type(error).__name__ == "OutOfResources"


def free_locals(error: BaseException) -> None:
    """Free the tensors of a failed computation: local variables referenced by the error's traceback."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
