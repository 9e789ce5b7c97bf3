"""The fused kernels of the evidence for a camera: in Triton's interpreter, and their code from its compiler."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from m3flow.camera import candidates_torch, evidence_torch
from m3flow.camera.geometry import transform
from m3flow.scoring.camera_pairs import camera_pair
from support.triton_compiler import TARGETS, compiled, interpreted

EVIDENCE = """
import cv2, numpy as np, torch
from m3flow.camera import evidence_torch as eager, evidence_triton as kernels, photometric_triton
from m3flow.camera.candidates import SMALL
from m3flow.camera.geometry import transform
from m3flow.camera.homography_torch import centre_and_scale, centred
from m3flow.flow import farneback_pyramid_triton
from m3flow.scoring.camera_pairs import random_homography

kernels.try_out("cpu")
# The interpreter's time goes by programs, whatever their size.
photometric_triton.BLOCK = farneback_pyramid_triton.BLOCK = 8192
random = np.random.default_rng(0)
# 35 of 300 are too few, 37 are not; 9 always are. The last pair's second homography mirrors the frame.
inliers = torch.tensor([[300, 60, 35], [300, 60, 37], [9, 9, 11], [40, 300, 30]])
for height, width in ((240, 320), (135, 242), (48, 70)):
    cameras = np.stack([random_homography(random, height, width, reach) for reach in (3, 5, 8) * 4])
    cameras[10] = cameras[10] @ np.diag([-1, 1, 1])
    texture = cv2.GaussianBlur(random.uniform(0, 255, (height, width)), (0, 0), width / 60)
    frame = np.clip((texture - texture.mean()) * 9 + 128, 0, 255).astype(np.float32)
    frames = torch.from_numpy(np.stack([frame] * 4))
    of_pairs, how = cameras[::3], {"borderMode": cv2.BORDER_REFLECT}
    moved = [cv2.warpPerspective(frame, camera, (width, height), **how) for camera in of_pairs]
    start = random.integers((0, 0), (width, height), (4, 512, 2)).astype(np.float32)
    end = np.stack([transform(camera, at) for camera, at in zip(of_pairs, start)])
    end += random.normal(0, 0.4, start.shape)
    points, matches = torch.from_numpy(start), torch.from_numpy(end.astype(np.float32))
    valid = torch.from_numpy(random.random((4, 512)) < 0.9)
    matches[~valid] = torch.nan
    bars = torch.tensor([[0, 0, 0, 0], [height // 7, 3, 0, 0], [0, 0, width // 9, width // 5], [5, 0, 2, 0]])
    (x, y), scale = centre_and_scale(height, width)
    to_centred = np.array([[1 / scale, 0, -x / scale], [0, 1 / scale, -y / scale], [0, 0, 1]])
    fitted = torch.from_numpy(to_centred @ cameras @ np.linalg.inv(to_centred)).float().view(4, 3, 3, 3)
    start, end = centred(points, height, width), centred(matches, height, width)
    results = []
    for made in (eager, kernels):
        previous, current = made.shrunk(frames, SMALL), made.shrunk(torch.from_numpy(np.stack(moved)), SMALL)
        homographies, both, exists = made.with_identity(fitted, inliers, height, width)
        known = torch.where(valid[..., None], end, 0) if made is eager else end
        sums = made.sums_over_grid(points, start, known, valid, both, bars, height, width)
        shares = made.photometric_support(previous, current, homographies, exists, bars, height, width)
        results.append([previous, current, homographies, both, exists, *sums, shares])
    print(results[0][4].sum(1).tolist(), float(results[0][-1].mean()), float(results[0][6].mean()))
    print(*(float((one.float() - other.float()).abs().max()) for one, other in zip(*results)))
"""


@pytest.mark.slow
def test_interpreted_evidence_equals_eager():
    lines = interpreted(EVIDENCE)
    assert len(lines) == 6
    for seen, differences in zip(lines[::2], lines[1::2], strict=True):
        assert seen.startswith("[3, 4, 2, 2] "), "candidates that exist"
        assert min(map(float, seen.split("]")[1].split())) > 0.1, "shares of pixels, and matches in support"
        grey, other, camera, fitted, exists, count, support, still, shares = map(float, differences.split())
        assert grey < 1e-3 and other < 1e-3
        assert camera < 1e-3 and fitted < 1e-5 and exists == count == 0
        assert support < 1e-3 and still < 1e-4
        assert shares < 0.025, "two of a cell's hundred pixels"


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_evidence_compiles_for_gpus_that_are_not_here(target, tmp_path):
    from m3flow.camera import evidence_triton, photometric_triton

    grid = {"CANDIDATES": 4, "ROUNDED": 4, "ROWS": 6, "COLUMNS": 8, "bars": "*i64"}
    small = {"HEIGHT": 60, "WIDTH": 80, "largest": "fp32"}
    names = (
        "right",
        "bottom",
        "scale",
        "share",
        "factor",
        "still_factor",
        "down",
        "across",
        "margin",
        "least",
    )
    numbers = dict.fromkeys(names, "fp32") | {
        "number": "i32",
        "exists": "*u8",
        "valid": "*u8",
        "inliers": "*i64",
    }

    def made(kernel, warps=4, **constants):
        known = {name: value for name, value in numbers.items() if name in kernel.arg_names}
        return compiled(kernel, target, tmp_path, warps, **known, **constants)

    results = [
        made(evidence_triton.choose_plausible, warps=1, COUNT=3, LANES=4),
        made(evidence_triton.sum_in_cells, LANES=512, **grid),
        made(photometric_triton.compare_greys, BLOCK=photometric_triton.BLOCK, **small),
        made(photometric_triton.share_of_wins, PIXELS=128, **grid, **small),
    ]
    assert all(result.binary for result in results)
    if target[0] == "cuda":
        # Six programs of four warps run on a multiprocessor at a time, or more.
        assert all(result.registers <= 80 and not result.spilled for result in results)
        assert results[2].vector_loads == results[2].vector_stores == 1


def test_evidence_is_fused_where_kernels_work(monkeypatch):
    used = []

    def noted(name):
        def operation(*arguments):
            used.append(name)
            return getattr(evidence_torch, name)(*arguments)

        return operation

    names = ("shrunk", "with_identity", "sums_over_grid", "photometric_support")
    modules = {"evidence_triton": SimpleNamespace(**{name: noted(name) for name in names})}
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 40, 50), np.uint8))
    expected = candidates_torch.find_candidates(frames, 1)
    monkeypatch.setattr(candidates_torch, "kernels", lambda name, _device, _package: modules.get(name))
    found = candidates_torch.find_candidates(frames, 1)
    assert used == ["shrunk", "shrunk", *names[1:]]
    np.testing.assert_array_equal(found.support, expected.support)


@pytest.mark.gpu
def test_a_gpu_finds_the_candidates_of_the_cpu():
    frames = np.concatenate(
        [camera_pair(seed, reach).frames for seed, reach in enumerate((1.0, 3.0, 8.0, 20.0))]
    )
    on_cpu, on_gpu = (
        candidates_torch.find_candidates(torch.from_numpy(frames).to(device), 1)
        for device in ("cpu", "cuda:0")
    )
    # Every other pair is of two scenes, with homographies by chance.
    one, other = on_cpu[::2], on_gpu[::2]
    assert one.valid.sum() >= 8
    np.testing.assert_array_equal(other.valid, one.valid)
    corners = np.array([(0, 0), (319, 0), (319, 239), (0, 239)], float)
    for pair, candidate in np.argwhere(one.valid):
        places = (transform(found.homographies[pair, candidate], corners) for found in (one, other))
        # Those of some thirty chance matches are hardly determined, and rounding moves them.
        assert np.abs(np.subtract(*places)).max() < (0.01 if candidate < 2 else 0.5)
    np.testing.assert_allclose(other.support[:, :2], one.support[:, :2], atol=0.05)
    np.testing.assert_allclose(other.photometric, one.photometric, atol=0.1)
