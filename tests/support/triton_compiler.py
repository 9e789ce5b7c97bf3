"""Triton kernels without a GPU: interpreted, and compiled as for one, with aligned pointers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGETS = [("cuda", 75, 32), ("cuda", 86, 32), ("cuda", 90, 32), ("hip", "gfx942", 64)]
INTEGERS = ("height", "width", "full_size", "full_width", "rows", "columns", "stride", "steps", "in_stripe")


def interpreted(code: str) -> list[str]:
    """The lines printed by a separate process, since Triton selects its interpreter at import."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@dataclass(frozen=True)
class Compiled:
    """The binary, and what its code does.

    binary: whether there is one; registers: of a thread; spilled: bytes of its stack; vector_…: of 4 values of 4 bytes;
    byte_…: of a single byte.
    """

    binary: bool
    registers: int
    spilled: int
    vector_loads: int
    vector_stores: int
    byte_loads: int
    byte_stores: int


def compiled(
    kernel: Any,
    target: tuple[str, Any, int],
    folder: Path,
    warps: int = 4,
    enable_fp_fusion: bool = True,
    **constants: Any,
) -> Compiled:
    """The kernel compiled for a target such as ("cuda", 90, 32): compute capability 9.0, warps of 32 threads.

    enable_fp_fusion: whether a product and a sum may be rounded once.
    constants: values of its compile-time constants, or types such as "*i32" of its other arguments.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {name: "constexpr" if name in constants else "*fp32" for name in kernel.arg_names}
    signature.update({name: "i32" for name in kernel.arg_names if name in INTEGERS})
    types = {name: value for name, value in constants.items() if isinstance(value, str)}
    signature.update(types)
    constants = {name: value for name, value in constants.items() if name not in types}
    # torch allocates at multiples of 16 bytes and more, and Triton specialises for sizes that are multiples of 16:
    # 320 and 240 are.
    aligned = [
        (position,)
        for position, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or name in ("height", "width")
    ]
    attributes = {place: [["tt.divisibility", 16]] for place in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": warps, "enable_fp_fusion": enable_fp_fusion}
    result = triton.compile(source, target=GPUTarget(*target), options=options)
    if target[0] != "cuda":
        return Compiled(bool(result.asm["hsaco"]), 0, 0, 0, 0, 0, 0)
    file = folder / "kernel.cubin"
    file.write_bytes(result.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run([tool, "--dump-resource-usage", file], capture_output=True, text=True, check=True)
    registers, stack = map(int, re.findall(r"REG:(\d+) STACK:(\d+)", usage.stdout)[0])
    accesses = (
        len(re.findall(rf"{what}\.global[.\w:]*\.{size}\b", result.asm["ptx"]))
        for size in ("v4", "b8")
        for what in ("ld", "st")
    )
    return Compiled(bool(result.asm["cubin"]), registers, stack, *accesses)
