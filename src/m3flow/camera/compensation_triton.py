"""Resampling of frames into their predecessors' view as one fused Triton kernel, for GPUs that Triton supports.

Each pixel is computed in one go, from the homography to the rounded grey level, where torch operations pass over
memory some sixty times. The results are those of `m3flow.camera.compensation_torch`, to the bit: every operation is
rounded as torch rounds it. Only Triton's interpreter rounds an interpolation twice, which moves a level that is
nearly halfway between two to the other one.

With TRITON_INTERPRET=1 set before the import, the kernel runs (slowly) on CPU tensors, for tests.
"""

# Triton's kernel arguments (pointers, scalars, constants) have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from m3flow.camera import compensation_torch, thresholds
from m3flow.flow import fused

BLOCK = 512  # grey levels per program: four neighbours a thread, which are read and written together
HALF_TO_EVEN = tl.constexpr(1.5 * 2**23)  # so large that the sum with a small number has no fraction


def stabilised(
    current: Tensor, homographies: Tensor, previous: Tensor, moving: Tensor, bars: Tensor | None = None
) -> Tensor:
    """As `m3flow.camera.compensation_torch.stabilised`."""
    current, previous = current.contiguous(), previous.contiguous()
    batch, height, width = current.shape[:3]
    levels = current[0].numel()
    result = torch.empty_like(current)
    with torch.cuda.device_of(current):
        resample_levels[(triton.cdiv(levels, BLOCK), batch)](
            current,
            previous,
            homographies.contiguous(),
            moving.contiguous(),
            None if bars is None else bars.contiguous(),
            result,
            height,
            width,
            thresholds.MARGIN,
            CHANNELS=levels // (height * width),
            BLOCK=BLOCK,
            enable_fp_fusion=False,
        )
    return result


def try_out(device: str) -> None:
    """Raises an exception if the kernel does not give the results of torch operations on a small example."""
    y, x = torch.meshgrid(torch.arange(36.0), torch.arange(41.0), indexing="ij")
    frames = torch.stack(
        [128 + 60 * (x * 0.3 + n).sin() + 50 * (y * 0.2 + x * y / 200).cos() for n in range(4)]
    )
    frames = frames.round().to(torch.uint8).to(device)
    homographies = torch.tensor([[[1.01, 0.02, 1.3], [-0.01, 0.98, 2.4], [1e-4, -2e-4, 1]]] * 2).to(device)
    moving = torch.tensor([True, False]).to(device)
    bars = torch.tensor([[3, 0, 0, 2]] * 2, dtype=torch.int32).to(device)
    for images in (frames, torch.stack([frames, 255 - frames, frames // 2], -1)):
        given = images[:2], homographies, images[2:], moving, bars
        expected = compensation_torch.eager_stabilised(*given)
        fused.compare(stabilised(*given).float(), expected.float(), tolerance=1)


@triton.jit
def lerp(start, end, weight):
    """As `torch.lerp`: one rounding after the difference, and exact at both ends."""
    near = weight < 0.5
    return tl.fma(tl.where(near, weight, weight - 1), end - start, tl.where(near, start, end))


@triton.jit
def resample_levels(
    current,
    previous,
    homographies,
    moving,
    bars,
    result,
    height,
    width,
    margin,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The current frames [B, H, W, channels] in the previous ones' view. Grid: (blocks of grey levels, pairs).

    Frames with a camera that is not `moving` [B] are copied. bars: int32 [B, 4] or None; margin: in pixels.
    """
    size = height * width * CHANNELS
    pair = tl.program_id(1).to(tl.int64)
    level = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = level < size
    current += pair * size
    previous += pair * size
    result += pair * size + level
    if tl.load(moving + pair):
        pixel, channel = level // CHANNELS, level % CHANNELS
        x, y = (pixel % width).to(tl.float32), (pixel // width).to(tl.float32)
        # As in `displace`: differences before products.
        matrix = homographies + pair * 9
        a, b, c = tl.load(matrix), tl.load(matrix + 1), tl.load(matrix + 2)
        d, e, f = tl.load(matrix + 3), tl.load(matrix + 4), tl.load(matrix + 5)
        g, h, i = tl.load(matrix + 6), tl.load(matrix + 7), tl.load(matrix + 8)
        bend = g * x + h * y
        across = tl.div_rn((a - i) * x + b * y + c - bend * x, bend + i)
        down = tl.div_rn(d * x + (e - i) * y + f - bend * y, bend + i)
        # 0 where it is not a number or infinite.
        x += tl.where(tl.abs(across) < float("inf"), across, 0.0)
        y += tl.where(tl.abs(down) < float("inf"), down, 0.0)

        left = tl.minimum(tl.maximum(tl.floor(x), 0.0), tl.maximum(width - 2, 0).to(tl.float32))
        top = tl.minimum(tl.maximum(tl.floor(y), 0.0), tl.maximum(height - 2, 0).to(tl.float32))
        to_right = tl.minimum(tl.maximum(x - left, 0.0), 1.0)
        to_below = tl.minimum(tl.maximum(y - top, 0.0), 1.0)
        corner = current + (top.to(tl.int32) * width + left.to(tl.int32)) * CHANNELS + channel
        right, below = tl.minimum(width - 1, 1) * CHANNELS, tl.minimum(height - 1, 1) * width * CHANNELS
        first, second = tl.load(corner).to(tl.float32), tl.load(corner + right).to(tl.float32)
        third, fourth = tl.load(corner + below).to(tl.float32), tl.load(corner + below + right).to(tl.float32)
        grey = lerp(lerp(first, second, to_right), lerp(third, fourth, to_right), to_below)
        grey = tl.minimum(tl.maximum((grey + HALF_TO_EVEN) - HALF_TO_EVEN, 0.0), 255.0)

        upper, lower, left_side, right_side = margin, margin, margin, margin
        if bars is not None:
            bar = bars + pair * 4
            upper += tl.load(bar).to(tl.float32)
            lower += tl.load(bar + 1).to(tl.float32)
            left_side += tl.load(bar + 2).to(tl.float32)
            right_side += tl.load(bar + 3).to(tl.float32)
        shown = (x >= left_side) & (x <= width - 1 - right_side) & (y >= upper) & (y <= height - 1 - lower)
        before = tl.load(previous + level, mask=live)
        tl.store(result, tl.where(shown, grey.to(tl.int32).to(tl.uint8), before), mask=live)
    else:
        tl.store(result, tl.load(current + level, mask=live), mask=live)
