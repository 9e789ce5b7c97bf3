"""The fused kernel for changes of exposure: its results in Triton's interpreter, its code in Triton's compiler."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from support.triton_compiler import TARGETS, compiled, interpreted

COMPARED = """
import numpy as np, torch
from m3flow.camera import brightness_torch as eager, brightness_triton as kernels
from m3flow.scoring.camera_pairs import camera_pair

kernels.try_out("cpu")
one, two = camera_pair(0, 3.0).frames.astype(np.float32)
other = np.random.default_rng(0).integers(0, 256, one.shape)
# Changes: none, contrast and light four times (the last just enough), a line explains noise too, not a uniform frame.
frames = [one, two, 0.7 * one + 20, 1.1 * two - 9, two, two + 2, other, np.full_like(one, 90), np.full_like(one, 90)]
frames = torch.from_numpy(np.clip(np.round(np.stack(frames)), 0, 255).astype(np.uint8))
for step in (1, 2):
    for image in (frames, frames[:, :37, :51]):
        (found, differs), (expected, also) = (module.brightness_change(image, step) for module in (kernels, eager))
        gain, offset = (found - expected).abs().amax(1)
        print(float(gain), float(offset), torch.equal(differs, also), differs.int().tolist())
"""


def test_interpreted_comparison_of_brightness_equals_eager():
    lines = interpreted(COMPARED)
    assert len(lines) == 4
    for line in lines:
        gain, offset, same, _ = line.split(maxsplit=3)
        assert float(gain) < 1e-5 and float(offset) < 1e-3 and same == "True"
    assert lines[0].endswith("[0, 1, 1, 1, 1, 1, 0, 0]")


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_comparison_of_brightness_compiles_for_gpus_that_are_not_here(target, tmp_path):
    from m3flow.camera import brightness_triton as kernels

    types = {"levels": "*u8", "differs": "*u8", "least": "fp32", "left": "fp32"}
    types |= dict.fromkeys(("number", "cut", "step"), "i32")
    compared = compiled(kernels.compare_levels, target, tmp_path, **types, BLOCK=kernels.BLOCK)
    assert compared.binary
    if target[0] == "cuda":
        assert compared.registers <= 64 and not compared.spilled
