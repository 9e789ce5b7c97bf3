"""The fused kernels: their results in Triton's interpreter, their code in its compiler."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from m3flow.flow.farneback import Farneback
from m3flow.flow.parameters import FarnebackParameters
from support.triton_compiler import TARGETS, compiled, interpreted

INTERPRETED = """
import cv2, numpy as np, torch
from m3flow.flow import farneback, farneback_iteration, farneback_pyramid_triton as pyramid, farneback_triton
from m3flow.flow.farneback import Farneback
from m3flow.flow.parameters import FarnebackParameters

# The interpreter's time goes by programs, whatever their size.
pyramid.BLOCK = farneback_triton.BLOCK = farneback_triton.ROW_BLOCK = 4096
random = np.random.default_rng(0)

def compare(previous, current, **parameters):
    parameters = FarnebackParameters(levels=0, iterations=2, **parameters)
    eager, fused = (
        Farneback(parameters, device="cpu", iteration=how)(previous, current) for how in ("eager", "triton")
    )
    print(float(eager.abs().mean()), float((eager - fused).abs().max() / eager.abs().max()))

noise = torch.from_numpy(random.integers(0, 255, (2, 2, 33, 40), np.uint8))
for window, gaussian in ((7, False), (9, True)):
    compare(*noise, window=window, gaussian=gaussian)
# The default window at a usual size.
texture = cv2.GaussianBlur(random.uniform(0, 255, (250, 330)), (0, 0), 2)
texture = np.clip((texture - texture.mean()) * 6 + 128, 0, 255).astype(np.uint8)
compare(torch.from_numpy(texture[None, :240, :320].copy()), torch.from_numpy(texture[None, 2:242, 3:323].copy()))

pyramid.try_out("cpu")
images = torch.rand(2, 97, 130) * 255
for scale, height, width in ((1.0, 97, 130), (0.5, 48, 65), (0.25, 24, 32), (0.7, 68, 91)):
    level = farneback.shrink(images, scale, height, width)
    found = pyramid.shrink(images, scale, height, width)
    print(float(level.mean()), float((found - level).abs().max() / 255))
for n, sigma in ((5, 1.1), (7, 1.5)):
    expansion = farneback.expand(images, n, sigma)
    found = pyramid.expand(images, n, sigma)
    print(float(expansion.abs().max()), float((found - expansion).abs().max() / expansion.abs().max()))

farneback_triton.try_out("cpu")
farneback_iteration.REGULARISATION = 1.0
try:
    farneback_triton.try_out("cpu")
except RuntimeError as error:
    print(str(error))
"""


@pytest.mark.slow
def test_interpreted_kernels_equal_eager():
    *lines, error = interpreted(INTERPRETED)
    sizes, differences = np.array([line.split() for line in lines], float).T
    assert len(sizes) == 3 + 4 + 2 and (sizes > 0.1).all(), "the flows should not vanish"
    assert (differences < 1e-5).all(), differences
    assert error.startswith("the results differ from those of torch operations by")


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_kernels_compile_for_gpus_that_are_not_here(target, tmp_path):
    from m3flow.flow import farneback_pyramid_triton as pyramid
    from m3flow.flow import farneback_triton as kernels

    block, rows = kernels.BLOCK, kernels.ROW_BLOCK
    built = {
        "first equations": compiled(kernels.first_equations, target, tmp_path, BLOCK=block),
        "columns": compiled(kernels.sum_columns, target, tmp_path, TAPS=13, BLOCK=block),
        "rows": compiled(kernels.sum_rows_and_solve, target, tmp_path, TAPS=13, LAST=False, BLOCK=rows),
        "last": compiled(kernels.sum_rows_and_solve, target, tmp_path, TAPS=13, LAST=True, BLOCK=rows),
    }
    for taps in (4, 8):
        name, constants = f"shrink by {taps} taps", {"TAPS": taps, "BLOCK": pyramid.BLOCK}
        built[name] = compiled(
            pyramid.weighted_reads, target, tmp_path, rows="*i32", columns="*i32", **constants
        )
    built["expand"] = compiled(pyramid.fit_polynomials, target, tmp_path, TAPS=11, BLOCK=pyramid.BLOCK)
    assert all(kernel.binary for kernel in built.values())
    if target[0] == "cuda":
        # 64 registers let 1024 threads run on a multiprocessor of any of them; more would be spilled or idle.
        in_each_iteration = ("columns", "rows", "last")
        assert max(built[name].registers for name in in_each_iteration) <= 64
        assert max(kernel.registers for kernel in built.values()) <= 80  # once per level
        assert not any(kernel.spilled for kernel in built.values())
        assert built["columns"].vector_loads >= 1 and built["first equations"].vector_loads >= 1


@pytest.mark.skipif(torch.cuda.device_count() == 0, reason="torch sees no GPU")
@pytest.mark.parametrize("iteration", ["auto", "eager", "compiled", "triton"])
def test_a_gpu_gives_the_cpus_numbers(iteration):
    from test_farneback import assert_agrees, difference, textured_pair

    pair = textured_pair(240, 320)
    on_gpu = Farneback(FarnebackParameters(), device="cuda:0", iteration=iteration)(*pair)
    assert_agrees(difference(on_gpu, Farneback(FarnebackParameters(), device="cpu")(*pair)))
