"""The fused kernels: their results in Triton's interpreter, their code in its compiler."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from m3flow.flow.farneback import Farneback
from m3flow.flow.parameters import FarnebackParameters

INTERPRETED = """
import numpy as np, sys, torch
from m3flow.flow.farneback import Farneback
from m3flow.flow.parameters import FarnebackParameters

previous, current = map(torch.from_numpy, np.random.default_rng(0).integers(0, 255, (2, 2, 33, 40), np.uint8))
camera = torch.tensor([[1.01, 0.01, 1.4], [-0.01, 0.99, -1.2], [2e-5, -1e-5, 1.0]]).expand(2, 3, 3)
for window, gaussian in ((7, False), (9, True)):
    parameters = FarnebackParameters(levels=0, iterations=2, window=window, gaussian=gaussian)
    eager = Farneback(parameters, device="cpu")
    fused = Farneback(parameters, device="cpu", iteration="triton")
    initial = 3 * torch.randn(2, 2, 33, 40)
    initial[0, 0, 5, 5], initial[1, 1, 6, 6] = 1e12, -1e12  # beyond any frame, and any int32
    for arguments in ({}, {"homographies": camera}, {"homographies": camera, "initial": initial}):
        call = "with_prior" if arguments else "__call__"
        first = getattr(eager, call)(previous, current, **arguments)
        second = getattr(fused, call)(previous, current, **arguments)
        print(float(first.abs().mean()), float((first - second).abs().max() / first.abs().max()))
"""


@pytest.mark.slow
def test_interpreted_kernels_equal_eager():
    """In a separate process, since Triton selects its interpreter at import."""
    result = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    sizes, differences = np.array([line.split() for line in result.stdout.splitlines()], float).T
    assert len(sizes) == 6 and (sizes > 0.1).all(), "the flows should not vanish"
    assert (differences < 1e-5).all(), differences


@pytest.mark.parametrize("target", [("cuda", 75, 32), ("cuda", 90, 32), ("hip", "gfx942", 64)], ids=str)
def test_kernels_compile_for_gpus_that_are_not_here(target):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from m3flow.flow import farneback_triton as kernels

    def compiled(kernel, **constants):
        signature = {name: "constexpr" if name in constants else "*fp32" for name in kernel.arg_names}
        signature.update(height="i32", width="i32")
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        return triton.compile(source, target=GPUTarget(*target))

    binary = "cubin" if target[0] == "cuda" else "hsaco"
    assert compiled(kernels.first_equations, BLOCK=512).asm[binary]
    assert compiled(kernels.sum_columns, TAPS=13, BLOCK=512).asm[binary]
    for last, prior in ((True, True), (False, False)):
        constants = {"TAPS": 13, "HAS_PRIOR": prior, "LAST": last, "BLOCK": 512}
        assert compiled(kernels.sum_rows_and_solve, **constants).asm[binary]


@pytest.mark.skipif(torch.cuda.device_count() == 0, reason="torch sees no GPU")
@pytest.mark.parametrize("iteration", ["eager", "compiled", "triton"])
def test_a_gpu_gives_the_cpus_numbers(iteration):
    from test_farneback import assert_agrees, difference, textured_pair

    pair = textured_pair(240, 320)
    on_gpu = Farneback(FarnebackParameters(), device="cuda:0", iteration=iteration)(*pair)
    assert_agrees(difference(on_gpu, Farneback(FarnebackParameters(), device="cpu")(*pair)))
