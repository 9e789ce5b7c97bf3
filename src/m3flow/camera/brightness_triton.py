"""Changes of exposure between the frames of many pairs as a fused Triton kernel, for GPUs that Triton supports.

The results equal those of `m3flow.camera.brightness_torch` up to the order of the additions.

With TRITON_INTERPRET=1 set before the import, the kernel runs (slowly) on CPU tensors, for tests.
"""

# Triton's kernel arguments (pointers, scalars, constants) have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from m3flow.camera import brightness_torch, thresholds
from m3flow.flow import fused

BLOCK = 1024  # levels at a time


def brightness_change(frames: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """As `m3flow.camera.brightness_torch.brightness_change`."""
    levels, cut = brightness_torch.sorted_levels(frames)
    pairs, number = len(frames) - step, levels.shape[1]
    brightness = torch.empty(2, pairs, device=frames.device)
    differs = torch.empty(pairs, dtype=torch.bool, device=frames.device)
    with torch.cuda.device_of(frames):
        compare_levels[(pairs,)](
            levels,
            brightness,
            differs.view(torch.uint8),
            number,
            cut,
            step,
            thresholds.BRIGHTNESS_DIFFERENCE,
            thresholds.BRIGHTNESS_LEFT,
            BLOCK=BLOCK,
        )
    return brightness, differs


def try_out(device: str) -> None:
    """Raises an exception if the kernel does not give the results of torch operations on a small example."""
    y, x = torch.meshgrid(torch.arange(300.0), torch.arange(330.0), indexing="ij")
    first = 128 + 60 * (x * 0.3).sin() + 50 * (y * 0.2).cos()
    frames = torch.stack([first, 0.8 * first + 12, first.flip(0) + 1]).round().to(torch.uint8).to(device)
    for found, expected in zip(
        brightness_change(frames, 1), brightness_torch.brightness_change(frames, 1), strict=True
    ):
        fused.compare(found.float(), expected.float(), tolerance=1e-3)


@triton.jit
def compare_levels(levels, brightness, differs, number, cut, step, least, left, BLOCK: tl.constexpr):
    """The gain and offset that explain a pair's change, [2, pairs], and whether it changes. Grid: (pairs,).

    levels: uint8 [F, number], in order; cut: how many to leave out at both ends; least: the mean difference of pairs
    that differ; left: the share of it that gain and offset may leave.
    """
    pair = tl.program_id(0).to(tl.int64)
    now, before = levels + (pair + step) * number, levels + pair * number
    taken = number - 2 * cut
    # The differences are summed in whole numbers, as the means: exactly, in any order.
    sum_x, sum_y, changed = (
        tl.zeros([BLOCK], tl.int32),
        tl.zeros([BLOCK], tl.int32),
        tl.zeros([BLOCK], tl.int32),
    )
    for first in range(0, taken, BLOCK):
        place = first + tl.arange(0, BLOCK)
        x = tl.load(now + cut + place, mask=place < taken, other=0).to(tl.int32)
        y = tl.load(before + cut + place, mask=place < taken, other=0).to(tl.int32)
        sum_x, sum_y, changed = sum_x + x, sum_y + y, changed + tl.abs(y - x)
    mean_x, mean_y = tl.sum(sum_x).to(tl.float32) / taken, tl.sum(sum_y).to(tl.float32) / taken
    squares, products = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for first in range(0, taken, BLOCK):
        place = first + tl.arange(0, BLOCK)
        live = place < taken
        off_x = tl.load(now + cut + place, mask=live, other=0).to(tl.float32) - mean_x
        off_y = tl.load(before + cut + place, mask=live, other=0).to(tl.float32) - mean_y
        squares += tl.where(live, off_x * off_x, 0.0)
        products += tl.where(live, off_x * off_y, 0.0)
    gain = tl.sum(products) / tl.maximum(tl.sum(squares), 1e-6)
    gain = tl.minimum(tl.maximum(gain, 0.5), 2.0)
    offset = mean_y - gain * mean_x
    unexplained = tl.zeros([BLOCK], tl.float32)
    for first in range(0, taken, BLOCK):
        place = first + tl.arange(0, BLOCK)
        live = place < taken
        x = tl.load(now + cut + place, mask=live, other=0).to(tl.float32)
        y = tl.load(before + cut + place, mask=live, other=0).to(tl.float32)
        unexplained += tl.where(live, tl.abs(gain * x + offset - y), 0.0)
    difference, rest = tl.sum(changed).to(tl.float32) / taken, tl.sum(unexplained) / taken
    tl.store(brightness + pair, gain)
    tl.store(brightness + tl.num_programs(0) + pair, offset)
    tl.store(differs + pair, ((difference >= least) & (rest <= left * difference)).to(tl.uint8))
