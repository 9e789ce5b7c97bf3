"""The fused solver and refinement: their results in Triton's interpreter, and their code in its compiler."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from support.triton_compiler import TARGETS, compiled, interpreted

REFINED = """
import cv2, numpy as np, torch
from m3flow.flow import dis_refinement as eager, dis_refinement_triton as kernels, sor_triton

sor_triton.try_out("cpu")
kernels.try_out("cpu")
kernels.BLOCK = sor_triton.BLOCK = 8192  # the interpreter's time goes by programs
random = np.random.default_rng(0)
texture = cv2.GaussianBlur(random.uniform(0, 255, (130, 170)), (0, 0), 1.5)
texture = np.clip((texture - texture.mean()) * 4 + 128, 0, 255).round().astype(np.float32)
for height, width in ((120, 160), (31, 47), (2, 9), (8, 1)):
    one, two = (
        torch.from_numpy(np.stack([texture[y : y + height, x : x + width] for y, x in places]))
        for places in (((0, 0), (9, 8)), ((2, 3), (10, 6)))
    )
    flow = torch.from_numpy(random.normal(size=(2, 2, height, width)).astype(np.float32))
    found, expected = (one_of.refine(one, two, flow, 5, 0.01) for one_of in (kernels, eager))
    print(float((expected - flow).abs().mean()), float((found - expected).abs().max()))
flow[0, 0, 0, 0] = float("nan")
found = kernels.refine(one, two, flow, 5, 0.01)
print(float(found[1].isfinite().all()), float((found[1] - expected[1]).abs().max()))
"""


@pytest.mark.slow
def test_the_interpreted_refinement_equals_eager():
    lines = interpreted(REFINED)
    changes, differences = np.array([line.split() for line in lines], float).T
    assert len(lines) == 5 and (changes > 0.5).all(), "the flow should change"
    assert (differences < 1e-4).all(), differences


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_they_compile_for_gpus_that_are_not_here(target, tmp_path):
    from m3flow.flow import dis_refinement_triton as refinement
    from m3flow.flow import sor_triton

    strides = ("data_stride", "right_stride", "link_x_stride", "link_x_row", "link_y_stride", "link_y_row")
    integers = dict.fromkeys((*strides, "parity"), "i32")
    weights = dict.fromkeys(("alpha", "gamma", "delta", "zeta", "epsilon"), "fp32")
    block = {"BLOCK": refinement.BLOCK}
    kernels = [
        compiled(sor_triton.half_sweep, target, tmp_path, **integers, omega="fp32", BLOCK=sor_triton.BLOCK),
        compiled(refinement.warp, target, tmp_path, **block),
        compiled(refinement.differentiate, target, tmp_path, PLANES=refinement.DERIVATIVES, **block),
        compiled(
            *(refinement.linearise, target, tmp_path),
            **(weights | {"DERIVATIVES": refinement.DERIVATIVES, "UNKNOWNS": refinement.UNKNOWNS} | block),
        ),
    ]
    assert all(kernel.binary for kernel in kernels)
    if target[0] == "cuda":
        assert all(kernel.registers <= 72 and not kernel.spilled for kernel in kernels)
