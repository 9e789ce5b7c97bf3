"""The levels and expansions of Farnebäck's pyramid as two fused Triton kernels, for GPUs that Triton supports.

A level is read once from the frames and its expansion written once, instead of some ten passes over memory each. The
results equal those of `m3flow.flow.farneback.shrink` and `expand` up to the order of the additions.

With TRITON_INTERPRET=1 set before the import, the kernels run (slowly) on CPU tensors, for tests.
"""

# Triton's kernel arguments (pointers, scalars, constants) have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from m3flow.flow import farneback, fused
from m3flow.flow.constants import constants
from m3flow.flow.image_ops import reflected, resize_plan
from m3flow.flow.transfer import constant

BLOCK = 128  # pixels per program
Plan = tuple[Tensor, Tensor]


def shrink(images: Tensor, scale: float, height: int, width: int) -> Tensor:
    """`m3flow.flow.farneback.shrink`: the pyramid level [F, height, width] of full-size frames, float32 [F, H, W]."""
    _, full_height, full_width = images.shape
    taps = tuple(farneback.blur_taps(scale))
    rows = separable_plan(full_height, height, taps, images.device)
    return weighted_sums(images, rows, separable_plan(full_width, width, taps, images.device))


def weighted_sums(images: Tensor, rows: Plan, columns: Plan) -> Tensor:
    """Images each of whose pixels is a sum over pixels of float32 [F, H, W]: [F, new rows, new columns].

    rows, columns: the samples that each new one reads along either side, and their weights; int32 and float32
    [new length, taps].
    """
    images = images.contiguous()
    frames, full_height, full_width = images.shape
    (height, taps), (width, _) = rows[0].shape, columns[0].shape
    result = images.new_empty(frames, height, width)
    with torch.cuda.device_of(images):
        weighted_reads[(triton.cdiv(height * width, BLOCK), frames)](
            images,
            *rows,
            *columns,
            result,
            height,
            width,
            full_height * full_width,
            full_width,
            TAPS=taps,
            BLOCK=BLOCK,
        )
    return result


def expand(images: Tensor, n: int, sigma: float) -> Tensor:
    """`m3flow.flow.farneback.expand`: the expansion [F, 5, H, W] of float32 images [F, H, W]."""
    images = images.contiguous()
    frames, height, width = images.shape
    weights = constant(tuple(map(tuple, farneback.expansion_kernels(n, sigma))), images.device)
    result = images.new_empty(frames, 5, height, width)
    with torch.cuda.device_of(images):
        fit_polynomials[(triton.cdiv(height * width, BLOCK), frames)](
            images, weights, result, height, width, TAPS=2 * n + 1, BLOCK=BLOCK
        )
    return result


@constants(maxsize=64)
def separable_plan(length: int, new_length: int, taps: tuple[float, ...], device: torch.device) -> Plan:
    """For each new sample, the old samples that it is a weighted sum of: int32 and float32 [new_length, taps + 1].

    Blurred by the taps with a reflected border, then resized bilinearly.
    """
    cpu = torch.device("cpu")
    radius = len(taps) // 2
    index = reflected(length, radius, cpu) if length > 1 else torch.zeros(2 * radius + 1, dtype=torch.int64)
    blurred = index.unfold(0, len(taps), 1)  # [length, taps], what each blurred sample reads
    first, second, share = resize_plan(length, new_length, length / new_length, cpu)
    weights = torch.tensor(taps)
    # The second sample is the first one's neighbour, so that all but one of their reads are shared.
    same = (first == second)[:, None]
    reads = torch.cat([blurred[first], blurred[second][:, -1:]], 1)
    of_first = torch.cat([weights, torch.zeros(1)]) * (1 - share)[:, None]
    of_second = torch.where(same, torch.cat([weights, torch.zeros(1)]), torch.cat([torch.zeros(1), weights]))
    total = of_first + of_second * share[:, None]
    return reads.to(torch.int32).to(device), total.to(device)


def try_out(device: str) -> None:
    """Raises an exception if the kernels do not give the results of torch operations on a small example."""
    y, x = torch.meshgrid(torch.arange(36.0), torch.arange(41.0), indexing="ij")
    images = (128 + 60 * (x * 0.7).sin() + 50 * (y * 0.6 + x * y / 90).cos())[None].to(device)
    for scale, height, width in ((1.0, 36, 41), (0.5, 18, 20)):
        fused.compare(
            shrink(images, scale, height, width), farneback.shrink(images, scale, height, width), 1e-2
        )
    fused.compare(expand(images, 2, 1.1), farneback.expand(images, 2, 1.1), 1e-2)


@triton.jit
def weighted_reads(
    images,
    rows,
    row_weights,
    columns,
    column_weights,
    result,
    height,
    width,
    full_size,
    full_width,
    TAPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each pixel of the result is a sum over TAPS rows and columns of its image. Grid: (blocks of pixels, images)."""
    size = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = pixel < size
    x = pixel % width
    y = tl.where(live, pixel // width, 0)
    images += tl.program_id(1).to(tl.int64) * full_size
    total = tl.zeros([BLOCK], tl.float32)
    for across in range(TAPS):
        column = tl.load(columns + x * TAPS + across)
        line = tl.zeros([BLOCK], tl.float32)
        for down in range(TAPS):
            row = tl.load(rows + y * TAPS + down)
            line += tl.load(row_weights + y * TAPS + down) * tl.load(images + row * full_width + column)
        total += tl.load(column_weights + x * TAPS + across) * line
    tl.store(result + tl.program_id(1).to(tl.int64) * size + pixel, total, mask=live)


@triton.jit
def fit_polynomials(images, weights, result, height, width, TAPS: tl.constexpr, BLOCK: tl.constexpr):
    """The five coefficients of each pixel's fit, border replicated. Grid: (blocks of pixels, images).

    weights: [3, TAPS], those of `Kernels`.
    """
    size = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = pixel < size
    x = pixel % width
    y = tl.where(live, pixel // width, 0)
    image = tl.program_id(1).to(tl.int64)
    images += image * size
    in_x = tl.zeros([BLOCK], tl.float32)
    in_y = tl.zeros([BLOCK], tl.float32)
    in_xx = tl.zeros([BLOCK], tl.float32)
    in_yy = tl.zeros([BLOCK], tl.float32)
    in_xy = tl.zeros([BLOCK], tl.float32)
    for across in range(TAPS):
        column = tl.minimum(tl.maximum(x + across - TAPS // 2, 0), width - 1)
        smooth = tl.zeros([BLOCK], tl.float32)
        slope = tl.zeros([BLOCK], tl.float32)
        curvature = tl.zeros([BLOCK], tl.float32)
        for down in range(TAPS):
            row = tl.minimum(tl.maximum(y + down - TAPS // 2, 0), height - 1)
            value = tl.load(images + row * width + column)
            smooth += tl.load(weights + down) * value
            slope += tl.load(weights + TAPS + down) * value
            curvature += tl.load(weights + 2 * TAPS + down) * value
        weight = tl.load(weights + across)
        in_x += tl.load(weights + TAPS + across) * smooth
        in_y += weight * slope
        in_xx += tl.load(weights + 2 * TAPS + across) * smooth
        in_yy += weight * curvature
        in_xy += tl.load(weights + TAPS + across) * slope
    result += image * 5 * size + pixel
    tl.store(result, in_x, mask=live)
    tl.store(result + size, in_y, mask=live)
    tl.store(result + 2 * size, in_xx, mask=live)
    tl.store(result + 3 * size, in_yy, mask=live)
    tl.store(result + 4 * size, in_xy, mask=live)
