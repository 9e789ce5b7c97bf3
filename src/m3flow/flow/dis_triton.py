"""The patch search of DIS, and the dense flow from it, as fused Triton kernels, for GPUs that Triton supports.

Each program searches one stripe of patches of one pair, in OpenCV's order, forth and back: a patch needs the results of
its neighbours, so that torch operations could only do one diagonal after the other, with thousands of small
kernels. The results equal those of `m3flow.flow.dis` up to the order of the additions.

With TRITON_INTERPRET=1 set before the import, the kernels run (slowly) on CPU tensors, for tests.
"""

# Triton's kernel arguments (pointers, scalars, constants) have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from m3flow.flow import fused
from m3flow.flow.dis import PATCH, STRIPES, eager_densify, eager_search
from m3flow.flow.sampling_triton import bilinear, derivatives

BLOCK = 256  # pixels per program of the dense flow
SOBEL = 1.0, 2.0


def search(one: Tensor, two: Tensor, flow: Tensor, stride: int, steps: int) -> Tensor:
    """As `m3flow.flow.dis.eager_search`."""
    batch, height, width = one.shape
    rows, columns = 1 + (height - PATCH) // stride, 1 + (width - PATCH) // stride
    middle = PATCH // 2
    found = flow[:, :, middle::stride, middle::stride][:, :, :rows, :columns].contiguous()
    in_stripe = triton.cdiv(rows, STRIPES)
    with torch.cuda.device_of(one):
        search_stripes[(triton.cdiv(rows, in_stripe), batch)](
            one.contiguous(),
            two.contiguous(),
            derivatives(one, *SOBEL),
            found,
            height,
            width,
            rows,
            columns,
            stride,
            steps,
            in_stripe,
            num_warps=1,
        )
    return found


def densify(one: Tensor, two: Tensor, sparse: Tensor, stride: int) -> Tensor:
    """As `m3flow.flow.dis.eager_densify`."""
    batch, height, width = one.shape
    rows, columns = sparse.shape[2:]
    flow = one.new_empty(batch, 2, height, width)
    with torch.cuda.device_of(one):
        average_patches[(triton.cdiv(height * width, BLOCK), batch)](
            one.contiguous(),
            two.contiguous(),
            sparse.contiguous(),
            flow,
            height,
            width,
            rows,
            columns,
            stride,
            PATCH=PATCH,
            COVER=triton.cdiv(PATCH, stride),
            BLOCK=BLOCK,
        )
    return flow


def try_out(device: str) -> None:
    """Raises an exception if the kernels do not give the results of torch operations on a small example."""
    y, x = torch.meshgrid(torch.arange(41.0), torch.arange(17.0), indexing="ij")
    frames = torch.stack(
        [128 + 60 * (x * 0.7 + shift).sin() + 50 * (y * 0.6 + x * y / 90).cos() for shift in (0, 0.5)]
    )
    one, two = frames.round().to(device)[:, None].unbind()
    flow = torch.zeros(1, 2, *one.shape[1:], device=device)
    found, expected = search(one, two, flow, 4, 3), eager_search(one, two, flow, 4, 3)
    fused.compare(found, expected, tolerance=1e-3)
    fused.compare(densify(one, two, expected, 4), eager_densify(one, two, expected, 4), tolerance=1e-3)


@triton.jit
def differences(two, grey, x, y, height, width):
    """The second frame at a patch whose first pixel is at (x, y), less the patch: [64]; borders replicated."""
    x = tl.minimum(tl.maximum(x, -7.0), width - 1.0)
    y = tl.minimum(tl.maximum(y, -7.0), height - 1.0)
    left, top = tl.floor(x), tl.floor(y)
    right_share, lower_share = x - left, y - top
    pixel = tl.arange(0, 64)
    column = left.to(tl.int32) + pixel % 8
    row = top.to(tl.int32) + pixel // 8
    # Clamped even if x or y is not a number, so that nothing outside the frame is read.
    column_0 = tl.minimum(tl.maximum(column, 0), width - 1)
    column_1 = tl.minimum(tl.maximum(column + 1, 0), width - 1)
    row_0 = tl.minimum(tl.maximum(row, 0), height - 1) * width
    row_1 = tl.minimum(tl.maximum(row + 1, 0), height - 1) * width
    a, b = tl.load(two + row_0 + column_0), tl.load(two + row_0 + column_1)
    c, d = tl.load(two + row_1 + column_0), tl.load(two + row_1 + column_1)
    upper = a + right_share * (b - a)
    lower = c + right_share * (d - c)
    return upper + lower_share * (lower - upper) - grey


@triton.jit
def residual(difference):
    """The squared difference of a patch after subtracting its mean."""
    total = tl.sum(difference)
    return tl.sum(difference * difference) - total * total / 64


@triton.jit
def search_stripes(one, two, gradient, found, height, width, rows, columns, stride, steps, in_stripe):
    """Both sweeps over a stripe of patches; `found` holds the starts and gets the results.

    Grid: (stripes, pairs).
    """
    size = height * width
    first = tl.program_id(0) * in_stripe
    last = tl.minimum(first + in_stripe, rows) - 1
    pair = tl.program_id(1).to(tl.int64)
    one += pair * size
    two += pair * size
    gradient += pair * 2 * size
    found_x = found + pair * 2 * rows * columns
    found_y = found_x + rows * columns
    pixel = tl.arange(0, 64)
    inside = pixel // 8 * width + pixel % 8
    count = (last - first + 1) * columns
    for number in range(2 * count):
        backward = number >= count
        place = tl.where(backward, 2 * count - 1 - number, number)
        back = tl.where(backward, -1, 1)
        row = first + place // columns
        column = place % columns
        corner = row * stride * width + column * stride
        left, top = (column * stride).to(tl.float32), (row * stride).to(tl.float32)
        grey = tl.load(one + corner + inside)
        in_x, in_y = tl.load(gradient + corner + inside), tl.load(gradient + size + corner + inside)
        xx, yy, xy = tl.sum(in_x * in_x), tl.sum(in_y * in_y), tl.sum(in_x * in_y)
        in_x -= tl.sum(in_x) / 64
        in_y -= tl.sum(in_y) / 64
        determinant = xx * yy - xy * xy
        determinant = tl.where(tl.abs(determinant) < 1e-3, 1e-3, determinant)

        # The best of the own start and the two neighbours just searched. Another thread has stored theirs.
        tl.debug_barrier()
        patch = row * columns + column
        start_x = tl.load(found_x + patch, volatile=True)
        start_y = tl.load(found_y + patch, volatile=True)
        least = residual(differences(two, grey, left + start_x, top + start_y, height, width))
        beside = column - back
        has_beside = (beside >= 0) & (beside < columns)
        x = tl.load(found_x + patch - back, mask=has_beside, other=0.0, volatile=True)
        y = tl.load(found_y + patch - back, mask=has_beside, other=0.0, volatile=True)
        cost = residual(differences(two, grey, left + x, top + y, height, width))
        better = has_beside & (cost < least)
        start_x, start_y, least = (
            tl.where(better, x, start_x),
            tl.where(better, y, start_y),
            tl.where(better, cost, least),
        )
        over = row - back
        has_over = (over >= first) & (over <= last)
        x = tl.load(found_x + patch - back * columns, mask=has_over, other=0.0, volatile=True)
        y = tl.load(found_y + patch - back * columns, mask=has_over, other=0.0, volatile=True)
        cost = residual(differences(two, grey, left + x, top + y, height, width))
        better = has_over & (cost < least)
        start_x, start_y = tl.where(better, x, start_x), tl.where(better, y, start_y)

        # Descent until the residual no longer falls.
        x, y = start_x, start_y
        before = float("inf")
        step = 0
        while step < steps:
            difference = differences(two, grey, left + x, top + y, height, width)
            slope_x, slope_y = tl.sum(in_x * difference), tl.sum(in_y * difference)
            x -= (yy * slope_x - xy * slope_y) / determinant
            y -= (xx * slope_y - xy * slope_x) / determinant
            now = residual(difference)
            step = tl.where(now < before, step + 1, steps)
            before = now
        # A patch that moved further than its own size has diverged.
        moved_x, moved_y = x - start_x, y - start_y
        near = moved_x * moved_x + moved_y * moved_y <= 64
        tl.store(found_x + patch, tl.where(near, x, start_x))
        tl.store(found_y + patch, tl.where(near, y, start_y))


@triton.jit
def average_patches(
    one,
    two,
    sparse,
    flow,
    height,
    width,
    rows,
    columns,
    stride,
    PATCH: tl.constexpr,
    COVER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """At each pixel the mean over the patches that cover it, by how well they match. Grid: (blocks of pixels, pairs).

    sparse: [B, 2, rows, columns]; flow: [B, 2, H, W]; COVER: the most patches that cover a pixel along a side.
    """
    size, patches = height * width, rows * columns
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = pixel < size
    x, y = pixel % width, pixel // width
    pair = tl.program_id(1).to(tl.int64)
    grey = tl.load(one + pair * size + pixel, mask=live, other=0.0)
    two += pair * size
    sparse += pair * 2 * patches
    last_row, last_column = tl.minimum(y // stride, rows - 1), tl.minimum(x // stride, columns - 1)
    # Rounded towards zero, but what is negative is clamped.
    first_row = tl.minimum(tl.maximum((y - PATCH + stride) // stride, 0), rows - 1)
    first_column = tl.minimum(tl.maximum((x - PATCH + stride) // stride, 0), columns - 1)
    sum_u, sum_v = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for back in range(COVER * COVER):
        row, column = last_row - back // COVER, last_column - back % COVER
        covers = live & (row >= first_row) & (column >= first_column)
        patch = sparse + tl.maximum(row, 0) * columns + tl.maximum(column, 0)
        u, v = tl.load(patch, mask=covers, other=0.0), tl.load(patch + patches, mask=covers, other=0.0)
        seen = bilinear(two, x.to(tl.float32) + u, y.to(tl.float32) + v, height, width)
        weight = tl.where(covers, 1 / tl.maximum(tl.abs(seen - grey), 1.0), 0.0)
        sum_u += weight * u
        sum_v += weight * v
        total += weight
    flow += pair * 2 * size + pixel
    tl.store(flow, sum_u / total, mask=live)
    tl.store(flow + size, sum_v / total, mask=live)
