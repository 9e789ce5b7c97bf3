"""The variational refinement of DIS as fused Triton kernels, for GPUs that Triton supports.

A fixed-point iteration is a launch for its linear system, a copy of the increment and a launch for each half-sweep of
the solver, instead of about 170. The results equal those of `m3flow.flow.dis_refinement` up to the order of the
additions.

With TRITON_INTERPRET=1 set before the import, the kernels run (slowly) on CPU tensors, for tests.
"""

# Triton's kernel arguments (pointers, scalars, constants) have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from m3flow.flow import dis_refinement, fused, sor_triton
from m3flow.flow.dis_refinement import ALPHA, DELTA, GAMMA, OMEGA, SOR_ITERATIONS, ZETA
from m3flow.flow.sampling_triton import bilinear
from m3flow.flow.sor import System

BLOCK = 128  # pixels per program
DERIVATIVES = 7
UNKNOWNS = 6  # planes of a system


def refine(previous: Tensor, current: Tensor, flow: Tensor, iterations: int, epsilon: float) -> Tensor:
    """As `m3flow.flow.dis_refinement.refine`."""
    flow = flow.contiguous()
    batch, _, height, width = flow.shape
    images = flow.new_empty(batch, 2, height, width)
    derivatives = flow.new_empty(batch, DERIVATIVES, height, width)
    planes = flow.new_empty(batch, UNKNOWNS, height, width)
    a11, a12, a22, _, _, link = planes.unbind(1)
    system = System(a11, a12, a22, planes[:, 3:5], link[:, :, :-1], link[:, :-1])
    increment = torch.zeros_like(flow)
    grid = triton.cdiv(height * width, BLOCK), batch
    with torch.cuda.device_of(flow):
        warp[grid](previous.contiguous(), current.contiguous(), flow, images, height, width, BLOCK=BLOCK)
        differentiate[grid](images, derivatives, height, width, PLANES=DERIVATIVES, BLOCK=BLOCK)
        for _ in range(iterations):
            linearise[grid](
                images,
                derivatives,
                flow,
                increment,
                planes,
                height,
                width,
                ALPHA / 2,
                GAMMA / 2,
                DELTA / 2,
                ZETA**2,
                epsilon**2,
                DERIVATIVES=DERIVATIVES,
                UNKNOWNS=UNKNOWNS,
                BLOCK=BLOCK,
            )
            increment = sor_triton.solve(system, increment, omega=OMEGA, iterations=SOR_ITERATIONS)
    return flow + increment


def try_out(device: str) -> None:
    """Raises an exception if the kernels do not give the results of torch operations on a small example."""
    y, x = torch.meshgrid(torch.arange(19.0), torch.arange(26.0), indexing="ij")
    one, two = (
        (128 + 60 * ((x + shift) * 0.5).sin() + 50 * (y * 0.4 + x * y / 90).cos())[None].to(device)
        for shift in (0, 0.7)
    )
    flow = torch.zeros(1, 2, *one.shape[1:], device=device)
    flow[:, 0] = -0.4
    found, expected = (one_of(one, two, flow, 2, 0.01) for one_of in (refine, dis_refinement.refine))
    fused.compare(found, expected, tolerance=1e-3)


@triton.jit
def warp(previous, current, flow, images, height, width, BLOCK: tl.constexpr):
    """The mean of the previous and the warped current frame, and their difference. Grid: (blocks of pixels, pairs).

    images: [B, 2, H, W], these two.
    """
    size = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = pixel < size
    pair = tl.program_id(1).to(tl.int64)
    flow += pair * 2 * size + pixel
    x = (pixel % width).to(tl.float32) + tl.load(flow, mask=live, other=0.0)
    y = (pixel // width).to(tl.float32) + tl.load(flow + size, mask=live, other=0.0)
    warped = bilinear(current + pair * size, x, y, height, width)
    before = tl.load(previous + pair * size + pixel, mask=live)
    images += pair * 2 * size + pixel
    tl.store(images, (before + warped) / 2, mask=live)
    tl.store(images + size, warped - before, mask=live)


@triton.jit
def differentiate(images, derivatives, height, width, PLANES: tl.constexpr, BLOCK: tl.constexpr):
    """Central differences, not halved, border replicated. Grid: (blocks of pixels, pairs).

    images: see `warp`. derivatives: [B, PLANES, H, W]: ix, iy, ixz, iyz, ixx, ixy and iyy.
    """
    size = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = pixel < size
    x, y = pixel % width, pixel // width
    pair = tl.program_id(1).to(tl.int64)
    mean = images + pair * 2 * size
    change = mean + size
    left, right = tl.maximum(x - 1, 0), tl.minimum(x + 1, width - 1)
    up, down = tl.maximum(y - 1, 0), tl.minimum(y + 1, height - 1)
    upper, middle, lower = up * width, y * width, down * width
    west, east = tl.load(mean + middle + left, mask=live), tl.load(mean + middle + right, mask=live)
    north, south = tl.load(mean + upper + x, mask=live), tl.load(mean + lower + x, mask=live)
    # The derivatives of derivatives have a replicated border of their own.
    far_east = tl.load(mean + middle + tl.minimum(right + 1, width - 1), mask=live)
    of_east = far_east - tl.load(mean + middle + tl.maximum(right - 1, 0), mask=live)
    far_west = tl.load(mean + middle + tl.maximum(left - 1, 0), mask=live)
    of_west = tl.load(mean + middle + tl.minimum(left + 1, width - 1), mask=live) - far_west
    far_south = tl.load(mean + tl.minimum(down + 1, height - 1) * width + x, mask=live)
    of_south = far_south - tl.load(mean + tl.maximum(down - 1, 0) * width + x, mask=live)
    far_north = tl.load(mean + tl.maximum(up - 1, 0) * width + x, mask=live)
    of_north = tl.load(mean + tl.minimum(up + 1, height - 1) * width + x, mask=live) - far_north
    above = tl.load(mean + upper + right, mask=live) - tl.load(mean + upper + left, mask=live)
    below = tl.load(mean + lower + right, mask=live) - tl.load(mean + lower + left, mask=live)
    in_x = tl.load(change + middle + right, mask=live) - tl.load(change + middle + left, mask=live)
    in_y = tl.load(change + lower + x, mask=live) - tl.load(change + upper + x, mask=live)
    derivatives += pair * PLANES * size + pixel
    tl.store(derivatives, east - west, mask=live)
    tl.store(derivatives + size, south - north, mask=live)
    tl.store(derivatives + 2 * size, in_x, mask=live)
    tl.store(derivatives + 3 * size, in_y, mask=live)
    tl.store(derivatives + 4 * size, of_east - of_west, mask=live)
    tl.store(derivatives + 5 * size, below - above, mask=live)
    tl.store(derivatives + 6 * size, of_south - of_north, mask=live)


@triton.jit
def slope(flow, increment, live, beside, size):
    """The squared difference of the whole flow between pixels and those `beside` them; 0 where not live."""
    in_u = tl.load(flow + beside, mask=live, other=0.0) - tl.load(flow, mask=live, other=0.0)
    in_u += tl.load(increment + beside, mask=live, other=0.0) - tl.load(increment, mask=live, other=0.0)
    flow += size
    increment += size
    in_v = tl.load(flow + beside, mask=live, other=0.0) - tl.load(flow, mask=live, other=0.0)
    in_v += tl.load(increment + beside, mask=live, other=0.0) - tl.load(increment, mask=live, other=0.0)
    return in_u * in_u + in_v * in_v


@triton.jit
def smoothness(flow, increment, x, y, live, height, width, alpha, epsilon):
    """The weight of the links of pixels to their right and lower neighbours; 0 where not live."""
    size = height * width
    pixel = y * width + x
    flow += pixel
    increment += pixel
    slopes = slope(flow, increment, live & (x < width - 1), 1, size)
    slopes += slope(flow, increment, live & (y < height - 1), width, size)
    return tl.where(live, alpha / tl.sqrt(slopes + epsilon), 0.0)


@triton.jit
def divergence(values, west, east, north, south, x, y, live, height, width):
    """The sum over the four neighbours of link times difference, as `m3flow.flow.sor.divergence`."""
    here = tl.load(values, mask=live, other=0.0)
    result = east * (tl.load(values + 1, mask=live & (x < width - 1), other=0.0) - here)
    result -= west * (here - tl.load(values - 1, mask=live & (x > 0), other=0.0))
    result += south * (tl.load(values + width, mask=live & (y < height - 1), other=0.0) - here)
    return result - north * (here - tl.load(values - width, mask=live & (y > 0), other=0.0))


@triton.jit
def linearise(
    images,
    derivatives,
    flow,
    increment,
    planes,
    height,
    width,
    alpha,
    gamma,
    delta,
    zeta,
    epsilon,
    DERIVATIVES: tl.constexpr,
    UNKNOWNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The linear system for the next increment. Grid: (blocks of pixels, pairs).

    planes: [B, UNKNOWNS, H, W]: a11, a12, a22, both right sides, and the link to the right and lower neighbour; zeta,
    epsilon: squared.
    """
    size = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = pixel < size
    x, y = pixel % width, pixel // width
    pair = tl.program_id(1).to(tl.int64)
    flow += pair * 2 * size
    increment += pair * 2 * size
    here = smoothness(flow, increment, x, y, live, height, width, alpha, epsilon)
    west = smoothness(flow, increment, x - 1, y, live & (x > 0), height, width, alpha, epsilon)
    north = smoothness(flow, increment, x, y - 1, live & (y > 0), height, width, alpha, epsilon)
    east, south = tl.where(x < width - 1, here, 0.0), tl.where(y < height - 1, here, 0.0)

    flow += pixel
    right_u = divergence(flow, west, east, north, south, x, y, live, height, width)
    right_v = divergence(flow + size, west, east, north, south, x, y, live, height, width)

    increment += pixel
    du, dv = tl.load(increment, mask=live, other=0.0), tl.load(increment + size, mask=live, other=0.0)
    iz = tl.load(images + (2 * pair + 1) * size + pixel, mask=live, other=0.0)
    derivatives += pair * DERIVATIVES * size + pixel
    ix, iy = tl.load(derivatives, mask=live, other=0.0), tl.load(derivatives + size, mask=live, other=0.0)
    ixz = tl.load(derivatives + 2 * size, mask=live, other=0.0)
    iyz = tl.load(derivatives + 3 * size, mask=live, other=0.0)
    ixx = tl.load(derivatives + 4 * size, mask=live, other=0.0)
    ixy = tl.load(derivatives + 5 * size, mask=live, other=0.0)
    iyy = tl.load(derivatives + 6 * size, mask=live, other=0.0)
    norm = 1 / (ix * ix + iy * iy + zeta)
    norm_x, norm_y = 1 / (ixx * ixx + ixy * ixy + zeta), 1 / (iyy * iyy + ixy * ixy + zeta)
    grey = iz + ix * du + iy * dv
    weight = delta * norm / tl.sqrt(grey * grey * norm + epsilon)
    in_x, in_y = ixz + ixx * du + ixy * dv, iyz + ixy * du + iyy * dv
    edges = gamma / tl.sqrt(in_x * in_x * norm_x + in_y * in_y * norm_y + epsilon)
    weight_x, weight_y = edges * norm_x, edges * norm_y

    planes += pair * UNKNOWNS * size + pixel
    a11 = weight * ix * ix + weight_x * ixx * ixx + weight_y * ixy * ixy + zeta
    a12 = weight * ix * iy + weight_x * ixx * ixy + weight_y * ixy * iyy
    a22 = weight * iy * iy + weight_x * ixy * ixy + weight_y * iyy * iyy + zeta
    tl.store(planes, a11, mask=live)
    tl.store(planes + size, a12, mask=live)
    tl.store(planes + 2 * size, a22, mask=live)
    right_u -= weight * ix * iz + weight_x * ixx * ixz + weight_y * ixy * iyz
    right_v -= weight * iy * iz + weight_x * ixy * ixz + weight_y * iyy * iyz
    tl.store(planes + 3 * size, right_u, mask=live)
    tl.store(planes + 4 * size, right_v, mask=live)
    tl.store(planes + 5 * size, here, mask=live)
