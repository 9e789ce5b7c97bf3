"""The fused kernel that resamples frames: its results in Triton's interpreter, its code in its compiler."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from m3flow.camera import compensation_torch
from m3flow.camera.backward import backward_flow
from m3flow.flow import estimator
from support.triton_compiler import TARGETS, compiled, interpreted

RESAMPLED = """
from types import SimpleNamespace
import numpy as np, torch
from m3flow.camera import compensation_torch as eager, compensation_triton as kernels
from m3flow.scoring.camera_pairs import random_homography

kernels.try_out("cpu")
kernels.BLOCK = 8192  # the interpreter's time goes by programs
random = np.random.default_rng(0)

def compare(homographies, height, width, *channels, bars=None):
    shape = (len(homographies), height, width, *channels)
    current, previous = (torch.from_numpy(random.integers(0, 256, shape, np.uint8)) for _ in range(2))
    matrices = torch.from_numpy(np.asarray(homographies, np.float32))
    moving = torch.from_numpy((np.asarray(homographies) != np.eye(3)).any((1, 2)))
    given = current, matrices, previous, moving, bars
    found, expected = kernels.stabilised(*given), eager.eager_stabilised(*given)
    difference = (found.int() - expected.int()).abs()
    print(int(difference.max()), int((difference > 0).sum()), float((expected != previous).float().mean()))

cameras = [random_homography(random, 240, 320, reach) for reach in (1, 5, 25)] + [np.eye(3)]
bars = torch.tensor([[0, 0, 0, 0], [30, 31, 0, 0], [0, 0, 17, 0], [9, 9, 9, 9]], dtype=torch.int32)
compare(cameras, 240, 320, bars=bars)
compare(cameras[:2], 240, 320)
compare(cameras[1:], 240, 320, 3, bars=bars[1:])
# Shifts by whole pixels, also onto the margin, and by halves: a level is halfway between two others.
compare([[[1, 0, x], [0, 1, y], [0, 0, 1]] for x, y in ((3, -2), (0.5, 0), (0, 0.5), (5.5, 0.5))], 240, 320)
none = np.full((3, 3), np.nan), np.zeros((3, 3)), np.full((3, 3), np.inf), -np.eye(3), 1e38 * cameras[0]
for height, width in ((32, 33), (1, 17), (17, 1)):
    compare(none, height, width)

kernels.thresholds = SimpleNamespace(MARGIN=9.0)
try:
    kernels.try_out("cpu")
except RuntimeError as error:
    print(error)
"""


@pytest.mark.slow
def test_interpreted_resampling_equals_eager():
    *lines, error = interpreted(RESAMPLED)
    largest, differing, changed = np.array([line.split() for line in lines], float).T
    assert len(lines) == 7 and (changed[:4] > 0.6).all(), "the frames should be resampled"
    # The interpreter rounds an interpolation twice, but no level of these.
    assert not largest.any() and not differing.any()
    assert error.startswith("the results differ from those of torch operations by")


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_resampling_compiles_for_gpus_that_are_not_here(target, channels, tmp_path):
    from m3flow.camera import compensation_triton as kernels

    types = {"current": "*u8", "previous": "*u8", "result": "*u8", "moving": "*i1", "margin": "fp32"}
    constants = {"CHANNELS": channels, "BLOCK": kernels.BLOCK, "enable_fp_fusion": False}
    with_bars, without = (
        compiled(kernels.resample_levels, target, tmp_path, **types, **constants, bars=bars)
        for bars in ("*i32", None)
    )
    assert with_bars.binary and without.binary
    if target[0] == "cuda":
        for kernel in (with_bars, without):
            # 64 let 1024 threads run on a multiprocessor of any of them, 72 let 896.
            assert kernel.registers <= (64 if channels == 1 else 72) and not kernel.spilled
            # Four levels a thread: each from its four neighbours; the rest is read and written together.
            assert kernel.byte_loads == 4 * 4 + 1 and kernel.byte_stores == 0


def test_resampling_is_fused_where_kernels_work(monkeypatch):
    asked = []

    def kernels(name, device, package):
        asked.append((name, device, package))
        return SimpleNamespace(stabilised=lambda current, *_: current + 1)

    monkeypatch.setattr(compensation_torch, "kernels", kernels)
    frames = torch.zeros(2, 8, 9, dtype=torch.uint8)
    given = frames, torch.eye(3).expand(2, 3, 3), frames, torch.ones(2, dtype=torch.bool)
    assert (compensation_torch.stabilised(*given) == 1).all()
    homographies = np.tile(np.eye(3, dtype=np.float32), (1, 1, 1))
    back = backward_flow(estimator("farneback", backend="torch", device="cpu"), frames, 1, homographies)
    assert back.shape == (1, 2, 8, 9)
    assert asked == [("compensation_triton", "cpu", "m3flow.camera")] * 2
