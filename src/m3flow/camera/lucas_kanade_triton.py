"""Lucas-Kanade tracking as fused Triton kernels, for GPUs that Triton supports.

Each program tracks one point through one level of the pyramid, with all iterations. The results equal those of
`m3flow.camera.lucas_kanade` up to the order of the additions.

With TRITON_INTERPRET=1 set before the import, the kernels run (slowly) on CPU tensors, for tests.
"""

# Triton's kernel arguments (pointers, scalars, constants) have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import sys
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from m3flow.camera import lucas_kanade, thresholds
from m3flow.camera.lucas_kanade import ITERATIONS, LEVELS, RADIUS, SMALLEST_SIDE, WEAKEST
from m3flow.flow import fused
from m3flow.flow.farneback_pyramid_triton import Plan, weighted_sums
from m3flow.flow.image_ops import reflected
from m3flow.flow.sampling_triton import derivatives

BLOCK = 512  # points per program of `judge`
SCHARR = 0.09375, 0.3125
SIDE = 2 * RADIUS + 1  # of a window
LANES = triton.next_power_of_2(SIDE * SIDE)


def there_and_back(previous: Tensor, current: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """As `m3flow.camera.lucas_kanade.there_and_back`."""
    one, two = pyramid(previous), pyramid(current)
    end = follow(one, two, points)
    return end, follow(two, one, end)


def reliable(points: Tensor, end: Tensor, back: Tensor, height: int, width: int) -> Tensor:
    """As `m3flow.camera.lucas_kanade.reliable`."""
    good = torch.empty(points.shape[:2], dtype=torch.bool, device=points.device)
    number = good.numel()
    with torch.cuda.device_of(points):
        judge[(triton.cdiv(number, BLOCK),)](
            points.contiguous(),
            end.contiguous(),
            back.contiguous(),
            good.view(torch.uint8),
            number,
            width - 1,
            height - 1,
            thresholds.RETURN_DISTANCE**2,
            thresholds.MATCH_RADIUS**2,
            BLOCK=BLOCK,
        )
    return good


def follow(previous: list[Tensor], current: list[Tensor], points: Tensor) -> Tensor:
    """As `m3flow.camera.lucas_kanade.follow`."""
    points = points.contiguous()
    batch, count, _ = points.shape
    motion = torch.zeros_like(points)
    with torch.cuda.device_of(points):
        for level in reversed(range(len(previous))):
            _, height, width = previous[level].shape
            track_level[(count, batch)](
                previous[level],
                derivatives(previous[level], *SCHARR),
                current[level],
                points,
                motion,
                height,
                width,
                2.0**-level,
                WEAKEST * SIDE * SIDE,
                STEPS=ITERATIONS,
                SIDE=SIDE,
                LANES=LANES,
                num_warps=1,
            )
    return points + motion


def pyramid(frames: Tensor) -> list[Tensor]:
    """As `m3flow.camera.lucas_kanade.pyramid`."""
    levels = [frames.contiguous()]
    while len(levels) < LEVELS and min(levels[-1].shape[1:]) >= 2 * SMALLEST_SIDE:
        levels.append(halved(levels[-1]))
    return levels


def halved(frames: Tensor) -> Tensor:
    """The next level of the pyramid of float32 [B, H, W]."""
    _, height, width = frames.shape
    return weighted_sums(frames, *(halving_plan(length, frames.device) for length in (height, width)))


@lru_cache(maxsize=64)
def halving_plan(length: int, device: torch.device) -> Plan:
    """The samples of which each of the half as many is a weighted sum, and their weights."""
    taps = lucas_kanade.PYRAMID_TAPS
    reads = reflected(length, len(taps) // 2, torch.device("cpu")).unfold(0, len(taps), 2)
    weights = torch.tensor(taps).repeat(len(reads), 1)
    return reads.to(torch.int32).contiguous().to(device), weights.to(device)


def try_out(device: str) -> None:
    """Raises an exception if the kernels do not give the results of torch operations on a small example."""
    y, x = torch.meshgrid(torch.arange(36.0), torch.arange(41.0), indexing="ij")
    previous, current = (
        (128 + 60 * (x * 0.7 + shift).sin() + 50 * (y * 0.6 + x * y / 90).cos())[None].to(device)
        for shift in (0, 0.3)
    )
    points = torch.tensor([[[12.0, 13.0], [20.0, 22.0], [30.0, 18.0]]]).to(device)
    found = there_and_back(previous, current, points)
    expected = lucas_kanade.there_and_back(previous, current, points)
    fused.compare(torch.cat(found), torch.cat(expected), tolerance=1e-3)
    good, also = (
        module.reliable(points, *expected, 25, 30) for module in (sys.modules[__name__], lucas_kanade)
    )
    fused.compare(good.float(), also.float(), tolerance=0)


@triton.jit
def window_places(x, y, height, width, SIDE: tl.constexpr, LANES: tl.constexpr):
    """Where the four neighbours of each pixel of a window around a point are, border replicated."""
    lane = tl.arange(0, LANES)
    # Clamped as whole numbers too: where a coordinate is not a number, it still is a pixel of the frame.
    left = tl.minimum(tl.maximum(tl.floor(x), -SIDE * 1.0), width + SIDE * 1.0).to(tl.int32)
    top = tl.minimum(tl.maximum(tl.floor(y), -SIDE * 1.0), height + SIDE * 1.0).to(tl.int32)
    column = left + lane % SIDE - SIDE // 2
    row = top + lane // SIDE - SIDE // 2
    column_0 = tl.minimum(tl.maximum(column, 0), width - 1)
    column_1 = tl.minimum(tl.maximum(column + 1, 0), width - 1)
    row_0 = tl.minimum(tl.maximum(row, 0), height - 1) * width
    row_1 = tl.minimum(tl.maximum(row + 1, 0), height - 1) * width
    return row_0 + column_0, row_0 + column_1, row_1 + column_0, row_1 + column_1


@triton.jit
def blend(image, a, b, c, d, along, down, live):
    """Bilinear samples between four neighbours each."""
    upper, right = tl.load(image + a, mask=live, other=0.0), tl.load(image + b, mask=live, other=0.0)
    lower, opposite = tl.load(image + c, mask=live, other=0.0), tl.load(image + d, mask=live, other=0.0)
    upper += along * (right - upper)
    lower += along * (opposite - lower)
    return upper + down * (lower - upper)


@triton.jit
def track_level(
    previous,
    gradient,
    current,
    points,
    motion,
    height,
    width,
    scale,
    weakest,
    STEPS: tl.constexpr,
    SIDE: tl.constexpr,
    LANES: tl.constexpr,
):
    """The motion [B, N, 2] at this level from that of the coarser one, in place. Grid: (points, pairs).

    gradient: [B, 2, H, W] of `previous`; scale: the size of the level's frames; weakest: the least eigenvalue of a
    window that moves.
    """
    size = height * width
    pair = tl.program_id(1).to(tl.int64)
    point = 2 * (pair * tl.num_programs(0) + tl.program_id(0))
    previous += pair * size
    current += pair * size
    gradient += pair * 2 * size
    live = tl.arange(0, LANES) < SIDE * SIDE
    at_x, at_y = tl.load(points + point) * scale, tl.load(points + point + 1) * scale
    along, down = at_x - tl.floor(at_x), at_y - tl.floor(at_y)
    a, b, c, d = window_places(at_x, at_y, height, width, SIDE, LANES)
    patch = blend(previous, a, b, c, d, along, down, live)
    in_x = blend(gradient, a, b, c, d, along, down, live)
    in_y = blend(gradient + size, a, b, c, d, along, down, live)
    xx, yy, xy = tl.sum(in_x * in_x), tl.sum(in_y * in_y), tl.sum(in_x * in_y)
    half = (xx - yy) / 2
    strong = (xx + yy) / 2 - tl.sqrt(half * half + xy * xy) > weakest
    inverse = tl.where(strong, 1 / tl.where(strong, xx * yy - xy * xy, 1.0), 0.0)

    dx, dy = 2 * tl.load(motion + point), 2 * tl.load(motion + point + 1)
    for _ in range(STEPS):
        x, y = at_x + dx, at_y + dy
        along, down = x - tl.floor(x), y - tl.floor(y)
        a, b, c, d = window_places(x, y, height, width, SIDE, LANES)
        difference = patch - blend(current, a, b, c, d, along, down, live)
        by_x, by_y = tl.sum(difference * in_x), tl.sum(difference * in_y)
        dx += (yy * by_x - xy * by_y) * inverse
        dy += (xx * by_y - xy * by_x) * inverse
    tl.store(motion + point, dx)
    tl.store(motion + point + 1, dy)


@triton.jit
def judge(points, end, back, good, number, right, bottom, back_limit, limit, BLOCK: tl.constexpr):
    """Whether each point is tracked. Grid: (blocks of points,).

    right, bottom: the last pixel; back_limit, limit: the squared distances up to which it returned and moved.
    """
    point = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = point < number
    x, y = tl.load(points + 2 * point, mask=live), tl.load(points + 2 * point + 1, mask=live)
    end_x, end_y = tl.load(end + 2 * point, mask=live), tl.load(end + 2 * point + 1, mask=live)
    back_x, back_y = tl.load(back + 2 * point, mask=live) - x, tl.load(back + 2 * point + 1, mask=live) - y
    result = (end_x >= 0) & (end_x <= right) & (end_y >= 0) & (end_y <= bottom)
    result &= back_x * back_x + back_y * back_y < back_limit
    result &= (end_x - x) * (end_x - x) + (end_y - y) * (end_y - y) <= limit
    tl.store(good + point, result.to(tl.uint8), mask=live)
