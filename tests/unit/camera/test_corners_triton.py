"""The fused kernels that find corners and bars: their results in Triton's interpreter, their code in its compiler."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from m3flow.camera import candidates_torch, corners_torch
from support.flow_cases import DEMO_CLIPS, clip_frames
from support.triton_compiler import TARGETS, compiled, interpreted

FOUND = """
import cv2, numpy as np, torch
from m3flow.camera import corners_torch as eager, corners_triton as kernels

kernels.try_out("cpu")
kernels.CELLS, kernels.BLOCK, kernels.OTHERS = 512, 1024, 1024  # the interpreter's time goes by programs
random = np.random.default_rng(0)

def texture(height, width, contrast):
    grey = cv2.GaussianBlur(random.uniform(0, 255, (height, width)), (0, 0), 2)
    return np.clip((grey - grey.mean()) * contrast + 128, 0, 255).astype(np.uint8)

def compare(*frames, bars=None):
    frames = torch.from_numpy(np.stack(frames))
    found, expected = kernels.dark_bars(frames), eager.dark_bars(frames)
    same = torch.equal(found, expected)
    for bars in (None, expected) if bars is None else (torch.tensor(bars),):
        results = [module.corners(frames, bars) for module in (kernels, eager)]
        same &= all(map(torch.equal, *results))
    print(same, int(expected.sum()), float(results[1][1].float().mean()))

barred = texture(240, 320, 6)
barred[:30], barred[-20:], barred[:, -3:] = 12, 9, 0
compare(texture(240, 320, 6), texture(240, 320, 1), barred)
compare(texture(360, 480, 6))  # 12 x 12 pixels a cell
# Equally good corners: an edge's corner, a board, noise of two levels; and none.
edges = np.full((120, 160), 100, np.uint8)
edges[60:, 80:] = 110
compare(edges, np.kron(np.indices((15, 20)).sum(0) % 2 * 90, np.ones((8, 8))).astype(np.uint8))
compare(random.integers(0, 2, (97, 131), np.uint8) * 3, bars=[[0, 5, 9, 0]])
compare(np.zeros((60, 80), np.uint8), bars=[[0, 0, 0, 0]])
compare(np.full((60, 80), 100, np.uint8))
# Bars that leave little or nothing; sides with few cells, or too few pixels for one.
compare(*random.integers(0, 256, (3, 97, 131), np.uint8), bars=[[40, 50, 0, 0], [0, 0, 60, 71], [0, 0, 1, 0]])
for shape in ((17, 18), (19, 400), (16, 90)):
    compare(texture(*shape, 6))

kernels.DARK = 5
try:
    kernels.try_out("cpu")
except RuntimeError as error:
    print(error)
"""


@pytest.mark.slow
def test_interpreted_corners_and_bars_are_eagers():
    *lines, error = interpreted(FOUND)
    same, bars, strong = zip(*(line.split() for line in lines), strict=True)
    assert same == ("True",) * 10
    assert int(bars[0]) == 30 + 20 + 3 and int(bars[4]) == 2 * (60 + 80)
    strong = np.array(strong, float)
    assert (strong[:2] > 0.9).all() and not strong[[4, 5, 9]].any()
    assert error.startswith("the results differ from those of torch operations by")


CLIP = """
import numpy as np, torch
from m3flow.camera import candidates_torch, compensation_torch, compensation_triton, corners_triton
from m3flow.camera.compensation import MotionEstimator
from m3flow.camera.selection import Selection
from m3flow.flow import estimator

corners_triton.CELLS, corners_triton.BLOCK, corners_triton.OTHERS = 512, 1024, 1024
compensation_triton.BLOCK = 8192
frames = torch.from_numpy(np.load({frames!r}))
motion = MotionEstimator(estimator("farneback", backend="torch", device="cpu", levels=2, iterations=1))


def computed():
    candidates = motion.candidates(frames)
    selector = motion.selector(tuple(frames.shape[1:]))
    selection = Selection.of(selector.push(candidates) + selector.finish())
    # With a camera whatever the clip's is: the first that was fitted.
    selection.homographies[:] = candidates.homographies[:, 1]
    selection.bars[0], selection.cut[1] = (8, 0, 0, 5), True
    return candidates, motion(frames, 1, selection).flow

expected, flow = computed()
modules = {{"corners_triton": corners_triton, "compensation_triton": compensation_triton}}
used = []
for module in (candidates_torch, compensation_torch):
    module.kernels = lambda name, *_: used.append(name) or modules.get(name)
found, also = computed()
print(all(np.array_equal(value, getattr(found, name)) for name, value in vars(expected).items()))
print(torch.equal(flow, also) and not flow[1].any(), set(modules) <= set(used))
print(int(expected.valid[:, 1].sum()), int(expected.matches.sum(axis=(1, 2)).min()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("clip", DEMO_CLIPS)
def test_a_real_clips_camera_and_flow_are_the_same_with_fused_kernels(demo_clips, clip, tmp_path):
    frames = tmp_path / "frames.npy"
    np.save(frames, clip_frames(demo_clips, clip, start=115, count=3))
    candidates, flow, numbers = interpreted(CLIP.format(frames=str(frames)))
    assert candidates == "True" and flow == "True True"
    cameras, matches = map(int, numbers.split())
    assert cameras == 2 and matches > 100


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_corners_compile_for_gpus_that_are_not_here(target, tmp_path):
    from m3flow.camera import corners_triton as kernels

    numbers = dict.fromkeys(("side", "border", "bar_margin", "count", "found", "dark", "uniform"), "i32")
    types = numbers | {"frames": "*u8", "places": "*i32", "groups": "*i32", "listed": "*i32", "strong": "*i1"}
    sizes = {
        "CELLS": kernels.CELLS,
        "PIXELS": kernels.PIXELS,
        "BLOCK": kernels.BLOCK,
        "OTHERS": kernels.OTHERS,
        "LINES": kernels.LINES,
        "LENGTH": kernels.LENGTH,
    }

    def built(kernel, **how):
        arguments = {name: value for name, value in (types | sizes).items() if name in kernel.arg_names}
        return compiled(kernel, target, tmp_path, **(arguments | how))

    bars = built(kernels.count_dark_lines, bars="*i64")
    cells, without_bars = (
        built(kernels.best_of_cells, bars=bars, enable_fp_fusion=False) for bars in ("*i64", None)
    )
    ranks = built(kernels.rank_in_groups, enable_fp_fusion=False)
    order = built(kernels.take_in_order, quality="fp32")
    each = bars, cells, without_bars, ranks, order
    assert all(kernel.binary for kernel in each)
    if target[0] == "cuda":
        # 64 registers let 1024 threads run on a multiprocessor of any of them.
        assert max(kernel.registers for kernel in each) <= 64
        assert not any(kernel.spilled for kernel in each)
        # Two pixels a thread, from 5 x 5 each.
        assert cells.byte_loads == without_bars.byte_loads == 2 * 25


def test_corners_are_fused_where_kernels_work(monkeypatch):
    calls = []

    class Fused:
        @staticmethod
        def dark_bars(frames):
            calls.append(("bars", frames.dtype, len(frames)))
            return corners_torch.dark_bars(frames)

        @staticmethod
        def corners(frames, bars):
            calls.append(("corners", frames.dtype, len(frames)))
            return corners_torch.corners(frames, bars)

    monkeypatch.setattr(
        candidates_torch, "kernels", lambda name, *_: Fused if name == "corners_triton" else None
    )
    candidates_torch.find_candidates(torch.zeros(4, 40, 50, dtype=torch.uint8), 1)
    assert calls == [("bars", torch.uint8, 4), ("corners", torch.uint8, 3)]
