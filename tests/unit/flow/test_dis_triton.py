"""The fused kernels of DIS: their results in Triton's interpreter, their code in its compiler, when they are chosen."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from m3flow.flow import estimator, fused
from m3flow.flow.dis import PATCH, eager_densify
from support.triton_compiler import TARGETS, compiled, interpreted

INTERPRETED = """
import cv2, numpy as np, torch
from m3flow.flow import dis, dis_triton

random = np.random.default_rng(0)
texture = cv2.GaussianBlur(random.uniform(0, 255, (90, 90)), (0, 0), 1.5)
texture = np.clip((texture - texture.mean()) * 4 + 128, 0, 255).round().astype(np.float32)
for height, width, stride, steps in ((44, 40, 4, 3), (32, 21, 3, 6), (8, 30, 3, 4)):
    one, two = (
        torch.from_numpy(np.stack([texture[y : y + height, x : x + width] for y, x in places]))
        for places in (((0, 0), (9, 30)), ((2, 3), (10, 28)))
    )
    flow = torch.from_numpy(random.normal(size=(2, 2, height, width)).astype(np.float32))
    eager = dis.eager_search(one, two, flow, stride, steps)
    found = dis_triton.search(one, two, flow, stride, steps)
    assert found.shape == eager.shape
    distance = (found - eager).square().sum(1).sqrt()
    print(float(eager.abs().mean()), float(distance.median()), float((distance > 1e-3).float().mean()))
dis_triton.try_out("cpu")
"""


@pytest.mark.slow
def test_the_interpreted_kernel_equals_eager():
    lines = interpreted(INTERPRETED)
    sizes, medians, different = np.array([line.split() for line in lines], float).T
    assert len(lines) == 3 and (sizes > 0.3).all()
    assert (medians < 1e-5).all(), medians
    # Rounding decides for a few patches whether a residual has fallen.
    assert (different < 0.03).all(), different


# As large as the interpreter allows in a test; 120x160 takes eight minutes, with differences of at most 8e-6 px. Here
# the coarser level's flow is not everywhere a number.
LARGER = """
import cv2, numpy as np, torch
from m3flow.flow import dis, dis_triton

random = np.random.default_rng(0)
texture = cv2.GaussianBlur(random.uniform(0, 255, (74, 90)), (0, 0), 1.5)
texture = np.clip((texture - texture.mean()) * 4 + 128, 0, 255).round().astype(np.float32)
one, two = (torch.from_numpy(texture[None, y : y + 64, x : x + 80].copy()) for x, y in ((0, 0), (3, 2)))
flow = torch.from_numpy(random.normal(size=(1, 2, 64, 80)).astype(np.float32))
flow[:, :, 20:30, 20:40] = float("nan")
eager = dis.eager_search(one, two, flow, 4, 3)
found = dis_triton.search(one, two, flow, 4, 3)
print(float(eager.abs().mean()), float((found - eager).square().sum(1).sqrt().max()))
"""


@pytest.mark.slow
def test_the_interpreted_kernel_equals_eager_where_it_starts_from_no_number():
    (line,) = interpreted(LARGER)
    size, difference = map(float, line.split())
    assert size > 1 and difference < 1e-3


DENSE = """
import cv2, numpy as np, torch
from m3flow.flow import dis, dis_triton

dis_triton.BLOCK = 8192  # the interpreter's time goes by programs
random = np.random.default_rng(0)
texture = cv2.GaussianBlur(random.uniform(0, 255, (140, 180)), (0, 0), 1.5)
texture = np.clip((texture - texture.mean()) * 4 + 128, 0, 255).round().astype(np.float32)
for height, width, stride in ((120, 160, 3), (60, 80, 4), (17, 8, 3), (8, 31, 5)):
    one, two = (torch.from_numpy(texture[None, y : y + height, x : x + width].copy()) for x, y in ((0, 0), (3, 2)))
    rows, columns = 1 + (height - 8) // stride, 1 + (width - 8) // stride
    sparse = torch.from_numpy(random.normal(scale=4, size=(1, 2, rows, columns)).astype(np.float32))
    sparse[0, :, 0, 0] = 200  # outside the frame
    eager, found = (one_of(one, two, sparse, stride) for one_of in (dis.eager_densify, dis_triton.densify))
    print(float(eager.abs().mean()), float((found - eager).abs().max()))
sparse[0, 0, 0, 1] = float("nan")
eager, found = (one_of(one, two, sparse, stride) for one_of in (dis.eager_densify, dis_triton.densify))
# Torch operations also lose pixels next to what such a patch covers: 0 times its displacement.
print(int(found.isnan().sum()), float(int((found.isnan() & ~eager.isnan()).sum())))
"""


@pytest.mark.slow
def test_the_interpreted_dense_flow_equals_eager():
    lines = interpreted(DENSE)
    sizes, differences = np.array([line.split() for line in lines], float).T
    assert len(lines) == 5 and (sizes > 1).all()
    assert (differences < 1e-4).all(), differences


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_the_kernel_compiles_for_gpus_that_are_not_here(target, tmp_path):
    from m3flow.flow import dis_triton

    kernel = compiled(dis_triton.search_stripes, target, tmp_path, warps=1)
    assert kernel.binary
    constants = {"PATCH": PATCH, "COVER": 3, "BLOCK": dis_triton.BLOCK}
    dense = compiled(dis_triton.average_patches, target, tmp_path, **constants)
    assert dense.binary
    if target[0] == "cuda":
        assert dense.registers <= 64 and not dense.spilled
        # A program is one warp: 128 registers let 16 of them run on a multiprocessor, six per pair are needed.
        assert kernel.registers <= 128 and not kernel.spilled


@pytest.fixture(autouse=True)
def untried():
    fused.kernels.cache_clear()
    yield
    fused.kernels.cache_clear()


def test_the_cpu_has_no_kernels():
    assert fused.kernels("dis_triton", "cpu") is None


@pytest.mark.skipif(torch.cuda.device_count() > 0, reason="torch sees a GPU, where they work")
def test_kernels_that_do_not_work_are_left_alone_and_the_log_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert fused.kernels("dis_triton", "cuda:0") is None
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "cuda:0: no fused kernels, torch operations take several times longer: "
    )


def test_kernels_that_work_are_taken(monkeypatch):
    tried, searched = [], []

    def search(one, _two, flow, stride, steps):
        searched.append((one.shape[1:], stride, steps))
        return flow[:, :, 4::stride, 4::stride][
            :, :, : 1 + (one.shape[1] - 8) // stride, : 1 + (one.shape[2] - 8) // stride
        ]

    module = SimpleNamespace(try_out=tried.append, search=search, densify=eager_densify)
    monkeypatch.setitem(sys.modules, "m3flow.flow.dis_triton", module)
    dis = estimator("dis", backend="torch", device="cpu")
    monkeypatch.setattr("m3flow.flow.dis.kernels", lambda name, _device: fused.kernels(name, "cuda:0"))
    frames = torch.zeros(3, 64, 80, dtype=torch.uint8)
    assert not dis.sequence(frames).any() and not dis.sequence(frames).any()
    assert tried == ["cuda:0"]
    assert searched == [((32, 40), 3, 12)] * 2


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("Triton Error [CUDA]: out of memory")],
    ids=str,
)
def test_out_of_memory_is_not_a_kernel_that_does_not_work(monkeypatch, error):
    def try_out(_device):
        raise error

    monkeypatch.setitem(sys.modules, "m3flow.flow.dis_triton", SimpleNamespace(try_out=try_out))
    with pytest.raises(type(error)):
        fused.kernels("dis_triton", "cuda:0")
    monkeypatch.setitem(sys.modules, "m3flow.flow.dis_triton", SimpleNamespace(try_out=lambda _device: None))
    assert fused.kernels("dis_triton", "cuda:0") is not None


def test_a_kernel_too_large_for_the_chip_does_not_work(monkeypatch):
    class OutOfResources(Exception):
        """Named as Triton's."""

    def try_out(_device):
        raise OutOfResources("out of resource: shared memory, Required: 300000, Hardware limit: 232448")

    monkeypatch.setitem(sys.modules, "m3flow.flow.dis_triton", SimpleNamespace(try_out=try_out))
    assert fused.kernels("dis_triton", "cuda:0") is None
