"""Red-black successive over-relaxation as a fused Triton kernel, for GPUs that Triton supports.

A launch updates the pixels of one colour, in place. The results equal those of `m3flow.flow.sor` up to the order of the
additions.

With TRITON_INTERPRET=1 set before the import, the kernel runs (slowly) on CPU tensors, for tests.
"""

# Triton's kernel arguments (pointers, scalars, constants) have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from m3flow.flow import fused, sor
from m3flow.flow.sor import System

BLOCK = 128  # pixels per program


def solve(system: System, increment: Tensor, *, omega: float, iterations: int) -> Tensor:
    """As `m3flow.flow.sor.solve`. The system's tensors may be planes of larger ones, the links also parts of planes."""
    increment = increment.clone(memory_format=torch.contiguous_format)
    batch, _, height, width = increment.shape
    data = (system.a11, system.a12, system.a22)
    assert all(one.stride(1) == width and one.stride(0) == system.a11.stride(0) for one in data)
    assert system.right.stride()[1:] == (height * width, width, 1)
    with torch.cuda.device_of(increment):
        for parity in (0, 1) * iterations:
            half_sweep[(triton.cdiv(height * (-(-width // 2)), BLOCK), batch)](
                increment,
                *data,
                system.right,
                system.link_x,
                system.link_y,
                height,
                width,
                system.a11.stride(0),
                system.right.stride(0),
                *system.link_x.stride()[:2],
                *system.link_y.stride()[:2],
                parity,
                omega,
                BLOCK=BLOCK,
            )
    return increment


def try_out(device: str) -> None:
    """Raises an exception if the kernel does not give the results of torch operations on a small example."""
    random = torch.Generator().manual_seed(0)
    height, width = 19, 26

    def numbers(*shape: int) -> Tensor:
        return torch.rand(shape, generator=random).to(device)

    a11, a12, a22 = numbers(3, 2, height, width)
    right, increment = numbers(2, 2, 2, height, width)
    system = System(
        a11 + 1, a12, a22 + 1, right, numbers(2, height, width - 1), numbers(2, height - 1, width)
    )
    found, expected = (one(system, increment, omega=1.6, iterations=3) for one in (solve, sor.solve))
    fused.compare(found, expected, tolerance=1e-4)


@triton.jit
def weighted(values, width, west, east, north, south, has_west, has_east, has_north, has_south):
    """The sum over the four neighbours of link times value."""
    total = west * tl.load(values - 1, mask=has_west, other=0.0)
    total += east * tl.load(values + 1, mask=has_east, other=0.0)
    total += north * tl.load(values - width, mask=has_north, other=0.0)
    return total + south * tl.load(values + width, mask=has_south, other=0.0)


@triton.jit
def half_sweep(
    increment,
    a11,
    a12,
    a22,
    right,
    link_x,
    link_y,
    height,
    width,
    data_stride,
    right_stride,
    link_x_stride,
    link_x_row,
    link_y_stride,
    link_y_row,
    parity,
    omega,
    BLOCK: tl.constexpr,
):
    """Update the pixels with x + y of one parity, from their neighbours of the other. Grid: (blocks of them, pairs).

    The strides are those of pairs, and of rows.
    """
    size = height * width
    in_row = (width + 1) // 2
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = number // in_row
    x = 2 * (number % in_row) + (y + parity) % 2
    live = (y < height) & (x < width)
    pixel = y * width + x
    pair = tl.program_id(1).to(tl.int64)
    u = increment + pair * 2 * size + pixel
    v = u + size
    data = pair * data_stride + pixel
    right += pair * right_stride + pixel
    link_x += pair * link_x_stride + y * link_x_row + x
    link_y += pair * link_y_stride + y * link_y_row + x
    has_west, has_east = live & (x > 0), live & (x < width - 1)
    has_north, has_south = live & (y > 0), live & (y < height - 1)
    west, east = tl.load(link_x - 1, mask=has_west, other=0.0), tl.load(link_x, mask=has_east, other=0.0)
    north = tl.load(link_y - link_y_row, mask=has_north, other=0.0)
    south = tl.load(link_y, mask=has_south, other=0.0)
    links = west + east + north + south
    a = tl.load(a11 + data, mask=live, other=1.0) + links
    b = tl.load(a12 + data, mask=live, other=0.0)
    c = tl.load(a22 + data, mask=live, other=1.0) + links

    total_u = tl.load(right, mask=live, other=0.0)
    total_u += weighted(u, width, west, east, north, south, has_west, has_east, has_north, has_south)
    total_v = tl.load(right + size, mask=live, other=0.0)
    total_v += weighted(v, width, west, east, north, south, has_west, has_east, has_north, has_south)
    old_u, old_v = tl.load(u, mask=live, other=0.0), tl.load(v, mask=live, other=0.0)
    new_u = old_u + omega / a * (total_u - b * old_v - a * old_u)
    new_v = old_v + omega / c * (total_v - b * new_u - c * old_v)
    tl.store(u, new_u, mask=live)
    tl.store(v, new_v, mask=live)
