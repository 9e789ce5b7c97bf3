"""The fused kernels of the camera search: their results in Triton's interpreter, their code in its compiler."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from m3flow.camera import candidates_torch, homography_torch, lucas_kanade
from m3flow.flow import fused
from support.triton_compiler import TARGETS, compiled, interpreted

TEXTURE = """
import cv2, numpy as np, torch

random = np.random.default_rng(0)
texture = cv2.GaussianBlur(random.uniform(0, 255, (250, 330)), (0, 0), 2)
texture = np.clip((texture - texture.mean()) * 6 + 128, 0, 255).astype(np.uint8)
previous, current = (torch.from_numpy(np.stack([texture[y : y + 240, x : x + 320] for y, x in places]))
    for places in (((0, 0), (6, 2)), ((2, 3), (0, 9))))
"""
TRACKED = (
    TEXTURE
    + """
from m3flow.camera import lucas_kanade, lucas_kanade_triton as kernels
from m3flow.flow import farneback_pyramid_triton, sampling_triton

# The interpreter's time goes by programs, whatever their size.
sampling_triton.BLOCK = farneback_pyramid_triton.BLOCK = 8192
previous, current = previous.float(), current.float()
points = torch.from_numpy(random.uniform((0, 0), (319, 239), (2, 12, 2)).astype(np.float32))
points[:, 0], points[:, 1] = torch.tensor([319.0, 239.0]), torch.tensor([0.0, 0.0])
eager = lucas_kanade.there_and_back(previous, current, points)
found = kernels.there_and_back(previous, current, points)
for motion, other in zip(eager, found):
    print(float((motion - points).abs().median()), float((motion - other).abs().max()))
kernels.try_out("cpu")

# Coordinates that are no numbers, or no places: no index outside the frames, and the numbers of torch operations.
small, points = previous[:1, :17, :19], torch.tensor([[[9.0, 8.0], [np.nan, 8.0], [np.inf, 3.0], [-1e20, 1e20]]])
eager, found = (module.there_and_back(small, small, points)[1] for module in (lucas_kanade, kernels))
print(np.array_equal(eager, found, equal_nan=True))

# Which are reliable: at the limits, beyond them, and no number.
points = torch.from_numpy(random.integers((0, 0), (320, 240), (3, 700, 2)).astype(np.float32))
end = points + torch.from_numpy(random.integers(-20, 21, (3, 700, 2)).astype(np.float32))
back = points + torch.from_numpy(random.choice([0, 0.25, 0.5], (3, 700, 2)).astype(np.float32))
end[1, :9] = torch.nan
eager, found = (module.reliable(points, end, back, 240, 320) for module in (lucas_kanade, kernels))
print(torch.equal(eager, found) and 0.2 < float(eager.float().mean()) < 0.8)
"""
)
FITTED = """
import numpy as np, torch
from m3flow.camera import homography_torch as eager, homography_triton as kernels
from m3flow.camera.geometry import transform
from m3flow.scoring.camera_pairs import random_homography

kernels.TILE = 512  # the interpreter's time goes by programs and loops
kernels.try_out("cpu")
random, (height, width), count = np.random.default_rng(0), (240, 320), 512
start = random.uniform((0, 0), (width - 1, height - 1), (8, count, 2)).astype(np.float32)
cameras = [[random_homography(random, height, width, reach) for reach in (3, 8, 20)] for _ in range(3)]
end = start.copy()
for pair, of_pair in enumerate(cameras):
    for camera, first in zip(of_pair, (0, 260, 400)):
        end[pair, first:480] = transform(camera, start[pair, first:480])
    end[pair] += random.normal(0, 0.1, (count, 2))
    end[pair, 480:] += random.uniform(-20, 20, (32, 2))  # and no camera
valid = random.random((8, count)) < 0.9
# Without a match; with three; one point; a line; as the first, and no numbers where there is no match.
valid[3], valid[4] = False, np.arange(count) < 3
start[5] = end[5] = (12, 34)
start[6, :, 1] = end[6, :, 1] = 50
start[7], end[7], valid[7] = start[0], end[0], valid[0]
end[7][~valid[7]] = np.nan
scale, centre = width / 2, ((width - 1) / 2, (height - 1) / 2)
points = [torch.from_numpy((one - np.float32(centre)) / np.float32(scale)) for one in (start, end)]
how = {"count": 3, "inlier": 1 / scale, "outlier": 1.5 / scale, "seed": 0}
expected, inliers = eager.fit_successively(*points, torch.from_numpy(valid), **how)
found, also = kernels.fit_successively(*points, torch.from_numpy(valid), **how)
corners = np.array([(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)], np.float64)
for pair in range(3):
    for index in range(3):
        ours, theirs = (
            transform(eager.in_pixels(one[pair], centre, scale)[index].double().numpy(), corners)
            for one in (found, expected)
        )
        true = [np.linalg.norm(ours - transform(camera, corners), axis=1).max() for camera in cameras[pair]]
        print(np.linalg.norm(ours - theirs, axis=1).max(), min(true), *(int(n[pair, index]) for n in (also, inliers)))
print(bool(found.isfinite().all()), torch.equal(found[7], found[0]), int(also[3:5].max()) <= 3)
"""


@pytest.mark.slow
def test_interpreted_fit_equals_eager():
    *fits, degenerate = interpreted(FITTED)
    for fit in fits:
        difference, error, inliers, of_eager = map(float, fit.split())
        assert difference < 1e-3, "px at the frame's corners"
        assert error < 0.5 and inliers == of_eager > 50
    assert degenerate == "True True True"


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_fit_compiles_for_gpus_that_are_not_here(target, tmp_path):
    from m3flow.camera import homography_triton as kernels

    numbers = {"matches": "*u8", "number": "i32", "limit": "fp32"}
    constants = {"COUNT": 3, "STEPS": 2, "HYPOTHESES": 128, "LANES": 512, "TILE": kernels.TILE}
    of_fit = numbers | {"order": "*i32", "outlier": "fp32"}
    fit = compiled(kernels.fit_pairs, target, tmp_path, warps=kernels.WARPS, **of_fit, **constants)
    last = compiled(
        kernels.refine_last, target, tmp_path, **numbers, inliers="*i64", STEPS=kernels.REFINEMENTS, LANES=512
    )
    assert fit.binary and last.binary
    if target[0] == "cuda":
        # Two programs of eight warps run on a multiprocessor at a time.
        assert fit.registers <= 128 and last.registers <= 128
        assert not (fit.spilled or last.spilled)


@pytest.mark.slow
def test_interpreted_tracking_equals_eager():
    forward, back, others, reliable = interpreted(TRACKED)
    (moved, difference), (_, difference_back) = (map(float, line.split()) for line in (forward, back))
    assert moved > 1.5, "the points should move"
    assert difference < 1e-3 and difference_back < 1e-3
    assert others == "True" and reliable == "True"


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_tracking_compiles_for_gpus_that_are_not_here(target, tmp_path):
    from m3flow.camera import lucas_kanade_triton as kernels
    from m3flow.flow import farneback_pyramid_triton as pyramid
    from m3flow.flow import sampling_triton

    window = {"STEPS": kernels.ITERATIONS, "SIDE": kernels.SIDE, "LANES": kernels.LANES}
    numbers = {"scale": "fp32", "weakest": "fp32"}
    track = compiled(kernels.track_level, target, tmp_path, warps=1, **numbers, **window)
    slopes = compiled(
        sampling_triton.differentiate,
        target,
        tmp_path,
        corner="fp32",
        side="fp32",
        BLOCK=sampling_triton.BLOCK,
    )
    indices = {"rows": "*i32", "columns": "*i32"}
    halve = compiled(pyramid.weighted_reads, target, tmp_path, TAPS=5, BLOCK=pyramid.BLOCK, **indices)
    types = {"good": "*u8", **dict.fromkeys(("number", "right", "bottom"), "i32")}
    limits = {"back_limit": "fp32", "limit": "fp32"}
    judge = compiled(kernels.judge, target, tmp_path, **types, **limits, BLOCK=kernels.BLOCK)
    assert track.binary and slopes.binary and halve.binary and judge.binary
    if target[0] == "cuda":
        # A program is one warp; these let 16 of them run on a multiprocessor of the older ones, and 32 of the newest:
        # as many as each takes.
        assert track.registers <= (64 if target[1] == 90 else 128)
        assert slopes.registers <= 64 and halve.registers <= 64 and judge.registers <= 64
        assert not (track.spilled or slopes.spilled or halve.spilled or judge.spilled)
        assert slopes.vector_stores == 2


def test_tracking_is_fused_where_kernels_work(monkeypatch):
    tried, tracked = [], []

    def there_and_back(previous, _current, points):
        tracked.append(previous.dtype)
        return points + 1, points

    fused.kernels.cache_clear()
    module = SimpleNamespace(
        try_out=tried.append, there_and_back=there_and_back, reliable=lucas_kanade.reliable
    )
    monkeypatch.setitem(sys.modules, "m3flow.camera.lucas_kanade_triton", module)
    monkeypatch.setattr(
        candidates_torch, "kernels", lambda name, _device, package: fused.kernels(name, "cuda:0", package)
    )
    frames, points = torch.zeros(1, 40, 50, dtype=torch.uint8), torch.full((1, 2, 2), 20.0)
    end, good = candidates_torch.track(frames, frames, points)
    assert np.array_equal(end, points + 1) and good.all()
    assert tried == ["cuda:0"] and tracked == [torch.float32]
    fused.kernels.cache_clear()


def test_fits_are_fused_where_kernels_work(monkeypatch):
    batches = []

    def fit_successively(start, end, valid, **how):
        batches.append(len(start))
        return homography_torch.fit_successively(start, end, valid, **how)

    modules = {"homography_triton": SimpleNamespace(fit_successively=fit_successively)}
    monkeypatch.setattr(candidates_torch, "kernels", lambda name, _device, _package: modules.get(name))
    candidates_torch.find_candidates(torch.zeros(4, 40, 50, dtype=torch.uint8), 1)
    assert batches == [3]
