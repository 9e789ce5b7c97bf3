"""Fused Triton kernels where they work, found out by trying them."""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from typing import Any

import torch

from m3flow.flow.out_of_memory import exceeds_chip, is_out_of_memory

log = logging.getLogger("m3flow")


@cache
def kernels(module: str, device: str, package: str = "m3flow.flow") -> Any | None:
    """The module `<package>.<module>` of Triton kernels if they work on the device; None for torch operations.

    Tried at the first call: the module's `try_out` compiles and runs them on a small example and compares the result
    with that of torch operations. Where that fails (no Triton, an unsupported GPU, no compiler), the log says why.
    """
    if torch.device(device).type != "cuda":
        return None
    try:
        found = import_module(f"{package}.{module}")
        found.try_out(device)
    except Exception as error:
        # A kernel that exceeds the on-chip memory does so with any batch.
        if is_out_of_memory(error) and not exceeds_chip(error):
            raise  # for a smaller batch; tried again with the next one
        first_line = (str(error).splitlines() or [""])[0]
        log.warning(
            "%s: no fused kernels, torch operations take several times longer: %s: %s",
            device,
            type(error).__name__,
            first_line,
        )
        return None
    log.info("%s: fused kernels of %s", device, module)
    return found


def compare(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Raises RuntimeError if results differ by more than rounding."""
    worst = float((found - expected).abs().max())
    if not worst <= tolerance:
        raise RuntimeError(f"the results differ from those of torch operations by {worst:.2g}")
