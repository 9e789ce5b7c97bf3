"""Farneback's iterations as two fused Triton kernels each, for GPUs that Triton supports.

An iteration is bound by memory traffic, not arithmetic. Torch operations write every intermediate value to
memory; here an iteration makes two passes over memory: sums along the columns, then, in one kernel, sums
along the rows, the solution, and the equations of the next iteration. The results equal those of
`m3flow.flow.farneback_iteration.iterate` up to the order of the additions.

With TRITON_INTERPRET=1 set before the import, the kernels run (slowly) on CPU tensors, for tests.
"""

# Triton's kernel arguments (pointers, scalars, constants) have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from m3flow.flow import farneback_iteration, fused
from m3flow.flow.farneback_iteration import Level
from m3flow.flow.transfer import constant

# Pixels per program. Where sums along the rows are followed by the solution and the next equations, one pixel a
# thread needs fewer registers, and more programs run at a time.
BLOCK = 512
ROW_BLOCK = 128


def refine(
    one: Tensor,
    two: Tensor,
    flow: Tensor,
    level: Level,
    window: int,
    taps: list[float] | None,
    iterations: int,
) -> Tensor:
    """The flow after `iterations`; arguments as in `m3flow.flow.farneback_iteration.iterate`."""
    if iterations == 0:
        return flow
    batch, _, height, width = flow.shape
    weights = constant(tuple(taps or [1.0] * (2 * (window // 2) + 1)), flow.device)
    one, two, trust = one.contiguous(), two.contiguous(), level.trust.contiguous()
    flow = flow.contiguous().clone()
    equations = torch.empty_like(one)
    sums = torch.empty_like(one)
    blocks = triton.cdiv(height * width, BLOCK)
    with torch.cuda.device_of(flow):
        first_equations[(blocks, batch)](one, two, flow, trust, equations, height, width, BLOCK=BLOCK)
        for iteration in range(iterations):
            sum_columns[(blocks, 5 * batch)](
                equations, weights, sums, height, width, TAPS=len(weights), BLOCK=BLOCK
            )
            sum_rows_and_solve[(triton.cdiv(height * width, ROW_BLOCK), batch)](
                sums,
                weights,
                flow,
                one,
                two,
                trust,
                equations,
                height,
                width,
                TAPS=len(weights),
                LAST=iteration == iterations - 1,
                BLOCK=ROW_BLOCK,
            )
    return flow


def try_out(device: str) -> None:
    """Raises an exception if the kernels do not give the results of torch operations on a small example."""
    height, width, window = 13, 17, 5
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    planes = torch.stack([(x * (plane + 2) / 7 + y * (plane + 3) / 5).sin() for plane in range(10)])
    one, two = (3 * planes).to(device).view(2, 1, 5, height, width).unbind()
    level = farneback_iteration.make_level(height, width, window**2, one.device)
    start = torch.zeros(1, 2, height, width, device=device)
    rest = (level, window, None, 2)
    expected = farneback_iteration.refine(farneback_iteration.iterate, one, two, start, *rest)
    fused.compare(refine(one, two, start, *rest), expected, tolerance=1e-3)


@triton.jit
def bilinear(plane, corner, along, down, width, known):
    """Bilinear interpolation between the pixel `corner` of a plane and its right and lower neighbours."""
    a = tl.load(plane + corner, mask=known, other=0.0)
    b = tl.load(plane + corner + 1, mask=known, other=0.0)
    c = tl.load(plane + corner + width, mask=known, other=0.0)
    d = tl.load(plane + corner + width + 1, mask=known, other=0.0)
    upper = a + along * (b - a)
    lower = c + along * (d - c)
    return upper + down * (lower - upper)


@triton.jit
def write_equations(one, two, trust, equations, pixel, dx, dy, live, height, width):
    """Stores the equations of the pixels, linearised at (dx, dy); the pointers are this pair's planes."""
    size = height * width
    x = (pixel % width).to(tl.float32) + dx
    y = (pixel // width).to(tl.float32) + dy
    known = live & (x >= 0) & (x < width - 1) & (y >= 0) & (y < height - 1)
    # Outside the frame nothing is read, and the coordinates may exceed the range of an integer.
    x = tl.where(known, x, 0.0)
    y = tl.where(known, y, 0.0)
    left = tl.floor(x)
    top = tl.floor(y)
    along = x - left
    down = y - top
    corner = top.to(tl.int32) * width + left.to(tl.int32)

    slope_x = tl.load(one + pixel, mask=live) - bilinear(two, corner, along, down, width, known)
    slope_y = tl.load(one + size + pixel, mask=live)
    slope_y -= bilinear(two + size, corner, along, down, width, known)
    own_xx = tl.load(one + 2 * size + pixel, mask=live)
    own_yy = tl.load(one + 3 * size + pixel, mask=live)
    own_xy = tl.load(one + 4 * size + pixel, mask=live)
    # Where a pixel leaves the frame only the first frame's curvature is known.
    xx = own_xx + tl.where(known, bilinear(two + 2 * size, corner, along, down, width, known), own_xx)
    yy = own_yy + tl.where(known, bilinear(two + 3 * size, corner, along, down, width, known), own_yy)
    xy = own_xy + tl.where(known, bilinear(two + 4 * size, corner, along, down, width, known), own_xy)

    right_x = slope_x + xx * dx + xy * dy
    right_y = slope_y + xy * dx + yy * dy
    weight = tl.load(trust + pixel, mask=live)
    tl.store(equations + pixel, (xx * xx + xy * xy) * weight, mask=live)
    tl.store(equations + size + pixel, (yy * yy + xy * xy) * weight, mask=live)
    tl.store(equations + 2 * size + pixel, (xx + yy) * xy * weight, mask=live)
    tl.store(equations + 3 * size + pixel, (xx * right_x + xy * right_y) * weight, mask=live)
    tl.store(equations + 4 * size + pixel, (xy * right_x + yy * right_y) * weight, mask=live)


@triton.jit
def first_equations(one, two, flow, trust, equations, height, width, BLOCK: tl.constexpr):
    """Equations [B, 5, H, W] at the flow [B, 2, H, W]. Grid: (blocks of pixels, pairs)."""
    size = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = pixel < size
    pair = tl.program_id(1).to(tl.int64)
    dx = tl.load(flow + pair * 2 * size + pixel, mask=live)
    dy = tl.load(flow + pair * 2 * size + size + pixel, mask=live)
    start = pair * 5 * size
    write_equations(one + start, two + start, trust, equations + start, pixel, dx, dy, live, height, width)


@triton.jit
def sum_columns(values, weights, sums, height, width, TAPS: tl.constexpr, BLOCK: tl.constexpr):
    """Weighted sums along y, border replicated. Grid: (blocks of pixels, planes)."""
    size = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = pixel < size
    x = pixel % width
    y = pixel // width
    values += tl.program_id(1).to(tl.int64) * size
    total = tl.zeros([BLOCK], tl.float32)
    for tap in range(TAPS):
        row = tl.minimum(tl.maximum(y + tap - TAPS // 2, 0), height - 1)
        total += tl.load(weights + tap) * tl.load(values + row * width + x, mask=live)
    tl.store(sums + tl.program_id(1).to(tl.int64) * size + pixel, total, mask=live)


@triton.jit
def sum_rows_and_solve(
    sums,
    weights,
    flow,
    one,
    two,
    trust,
    equations,
    height,
    width,
    TAPS: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Weighted sums along x and their solution; stores the flow if LAST, else the next equations.

    Grid: (blocks of pixels, pairs).
    """
    size = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = pixel < size
    x = pixel % width
    pair = tl.program_id(1).to(tl.int64)
    start = pair * 5 * size
    row = sums + start + pixel - x
    xx = tl.zeros([BLOCK], tl.float32)
    yy = tl.zeros([BLOCK], tl.float32)
    xy = tl.zeros([BLOCK], tl.float32)
    right_x = tl.zeros([BLOCK], tl.float32)
    right_y = tl.zeros([BLOCK], tl.float32)
    for tap in range(TAPS):
        column = tl.minimum(tl.maximum(x + tap - TAPS // 2, 0), width - 1)
        weight = tl.load(weights + tap)
        xx += weight * tl.load(row + column, mask=live)
        yy += weight * tl.load(row + size + column, mask=live)
        xy += weight * tl.load(row + 2 * size + column, mask=live)
        right_x += weight * tl.load(row + 3 * size + column, mask=live)
        right_y += weight * tl.load(row + 4 * size + column, mask=live)

    inverse = 1.0 / (xx * yy - xy * xy + 1e-3)
    dx = (yy * right_x - xy * right_y) * inverse
    dy = (xx * right_y - xy * right_x) * inverse
    if LAST:
        tl.store(flow + pair * 2 * size + pixel, dx, mask=live)
        tl.store(flow + pair * 2 * size + size + pixel, dy, mask=live)
    else:
        write_equations(
            one + start, two + start, trust, equations + start, pixel, dx, dy, live, height, width
        )
