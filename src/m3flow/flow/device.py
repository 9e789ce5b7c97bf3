"""The choice of backend and device. Imports torch only if a GPU may be present or is requested."""

from __future__ import annotations

from pathlib import Path

from m3flow.errors import UsageError

BACKENDS = ("auto", "torch", "opencv")

# Device files of NVIDIA, NVIDIA under WSL, and AMD. Importing torch only to find no GPU would cost every
# CPU job two seconds.
GPU_DEVICE_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def gpu_may_be_there() -> bool:
    """Whether the machine has a GPU device file; torch may still be unable to use the GPU."""
    return any(Path(name).exists() for name in GPU_DEVICE_FILES)


def gpu_count() -> int:
    """Number of GPUs that torch sees; does not import torch if there is no GPU device file."""
    if not gpu_may_be_there():
        return 0
    import torch

    return torch.cuda.device_count()


def choose(name: str, available: tuple[str, ...], backend: str, device: str) -> tuple[str, str]:
    """The backend and device for estimator `name`, which has the backends `available`.

    Raises UsageError for an unknown or unavailable backend or device.
    """
    if backend not in BACKENDS:
        raise UsageError(f"unknown backend {backend!r}; choose from {', '.join(BACKENDS)}")
    if backend != "auto" and backend not in available:
        raise UsageError(f"estimator {name!r} has no {backend} backend; it has: {', '.join(available)}")
    if backend == "opencv":
        if device not in ("auto", "cpu"):
            raise UsageError(f"device {device!r} needs backend torch; the opencv backend runs on the cpu")
        return "opencv", "cpu"
    if backend == "auto" and "opencv" in available:
        on_cpu = device == "cpu" or (device == "auto" and gpu_count() == 0)
        if on_cpu or "torch" not in available:
            return choose(name, available, "opencv", device)
    return "torch", torch_device(device)


def torch_device(device: str) -> str:
    """`device` if torch has it; "auto" becomes the first GPU, or the CPU if there is none.

    Raises UsageError for an unknown device, or a GPU that torch does not see.
    """
    import torch

    if device == "auto":
        return "cuda:0" if gpu_count() else "cpu"
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"unknown device {device!r}; choose from auto, cpu, cuda, cuda:N") from error
    if wanted.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            raise UsageError(f"device {device!r}: torch {torch.__version__} sees no GPU; {_why_no_gpu()}")
        if (wanted.index or 0) >= count:
            raise UsageError(f"device {device!r}: torch sees {count} GPU(s), cuda:0 to cuda:{count - 1}")
        return f"cuda:{wanted.index or 0}"
    return device


def _why_no_gpu() -> str:
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return "it is a CPU-only build; install a CUDA build, or use --device cpu"
    if not gpu_may_be_there():
        return "this machine has no GPU device file; use --device cpu"
    return "check the driver with nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu"
