"""Homographies from matches as two fused Triton kernels, for GPUs that Triton supports.

One program per pair draws, scores and refines the hypotheses of all successive fits, and one per homography refines it
further, instead of a thousand small kernels. The results equal those of `m3flow.camera.homography_torch` up to the
order of the additions.

With TRITON_INTERPRET=1 set before the import, the kernels run (slowly) on CPU tensors, for tests.
"""

# Triton's kernel arguments (pointers, scalars, constants) have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from m3flow.camera import homography_torch
from m3flow.camera.homography_torch import (
    FIRST_REFINEMENTS,
    HYPOTHESES,
    REFINEMENTS,
    centre_and_scale,
    centred,
    in_pixels,
    sample_positions,
    transform,
)
from m3flow.camera.refinement_triton import keep, numbers, refine, squared_error
from m3flow.flow import fused

TILE = 8  # matches that each hypothesis is compared with at a time
WARPS = 8  # of a pair's program


def fit_successively(
    start: Tensor, end: Tensor, valid: Tensor, *, count: int, inlier: float, outlier: float, seed: int
) -> tuple[Tensor, Tensor]:
    """As `m3flow.camera.homography_torch.fit_successively`."""
    start, end = start.contiguous(), end.contiguous()
    batch, number, _ = start.shape
    lanes = triton.next_power_of_2(number)
    matches = valid.new_empty(batch, count, number)
    matches[:, 0] = valid
    matches = matches.view(torch.uint8)
    order = torch.empty(batch, number, dtype=torch.int32, device=start.device)
    fitted = start.new_empty(batch, count, 3, 3)
    inliers = torch.empty(batch, count, dtype=torch.int64, device=start.device)
    with torch.cuda.device_of(start):
        fit_pairs[(batch,)](
            start,
            end,
            matches,
            order,
            sample_positions(seed, start.device),
            fitted,
            number,
            inlier * inlier,
            outlier * outlier,
            COUNT=count,
            STEPS=FIRST_REFINEMENTS,
            HYPOTHESES=HYPOTHESES,
            LANES=lanes,
            TILE=TILE,
            num_warps=WARPS,
        )
        refine_last[(count, batch)](
            start,
            end,
            matches,
            fitted,
            inliers,
            number,
            inlier * inlier,
            STEPS=REFINEMENTS,
            LANES=lanes,
        )
    return fitted, inliers


def try_out(device: str) -> None:
    """Raises an exception if the kernels do not give the results of torch operations on an example.

    With as many matches as a pair has, so that nothing is compiled twice.
    """
    height, width, count = 96, 160, 3
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(32.0), indexing="ij")
    start = torch.stack([x * 5 + (y * 5).sin(), y * 6 + (x * 3).cos()], -1).view(1, -1, 2)
    cameras = torch.eye(3).repeat(count, 1, 1)
    cameras[:, :2, 2] = torch.tensor([[2.0, 1.0], [-6.0, 2.0], [7.0, -9.0]])
    cameras[0, 0, 1], cameras[0, 2, 0] = 0.01, 2e-4
    # Half of the matches have the first camera's motion, a third the second's.
    of_camera = torch.tensor([0, 0, 0, 1, 1, 2]).repeat(1 + start.shape[1] // 6)[: start.shape[1]]
    end = transform(cameras[of_camera], start[0][:, None])[None, :, 0]
    centre, scale = centre_and_scale(height, width)
    results = []
    for fit in (fit_successively, homography_torch.fit_successively):
        fitted, inliers = fit(
            centred(start.to(device), height, width),
            centred(end.to(device), height, width),
            torch.ones(1, start.shape[1], dtype=torch.bool, device=device),
            count=count,
            inlier=1 / scale,
            outlier=1.5 / scale,
            seed=0,
        )
        results.append(torch.cat([in_pixels(fitted[0], centre, scale).flatten(), inliers[0].float()]))
    found, expected = results
    fused.compare(found, expected, tolerance=1e-2)


@triton.jit
def determinant(ax, ay, bx, by, cx, cy):
    """Of three points as (x, y, 1)."""
    return (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)


@triton.jit
def basis(ax, ay, bx, by, cx, cy, dx, dy):
    """The factors with which the first three points, as (x, y, 1), add up to a multiple of the fourth."""
    of_a, of_b = determinant(dx, dy, bx, by, cx, cy), determinant(ax, ay, dx, dy, cx, cy)
    return of_a, of_b, determinant(ax, ay, bx, by, dx, dy)


@triton.jit
def drawn(start, end, order, number_valid, place):
    """The start and the end of the valid matches at relative positions `place`."""
    chosen = tl.minimum((place * number_valid).to(tl.int32), tl.maximum(number_valid - 1, 0))
    match = 2 * tl.load(order + chosen, mask=chosen < number_valid, other=0)
    return tl.load(start + match), tl.load(start + match + 1), tl.load(end + match), tl.load(end + match + 1)


@triton.jit
def hypothesis(start, end, order, number_valid, places):
    """The homographies through four matches each, as `homography_from_four_points`: nine numbers of each."""
    ax, ay, to_ax, to_ay = drawn(start, end, order, number_valid, tl.load(places))
    bx, by, to_bx, to_by = drawn(start, end, order, number_valid, tl.load(places + 1))
    cx, cy, to_cx, to_cy = drawn(start, end, order, number_valid, tl.load(places + 2))
    dx, dy, to_dx, to_dy = drawn(start, end, order, number_valid, tl.load(places + 3))
    a, b, c = basis(ax, ay, bx, by, cx, cy, dx, dy)
    to_a, to_b, to_c = basis(to_ax, to_ay, to_bx, to_by, to_cx, to_cy, to_dx, to_dy)
    # The adjugate's rows are the cross products of two points, with the factors of both.
    a, b, c = to_a * (b * c), to_b * (c * a), to_c * (a * b)
    a0, a1, a2 = a * (by - cy), a * (cx - bx), a * (bx * cy - by * cx)
    b0, b1, b2 = b * (cy - ay), b * (ax - cx), b * (cx * ay - cy * ax)
    c0, c1, c2 = c * (ay - by), c * (bx - ax), c * (ax * by - ay * bx)
    h00, h10, h20 = to_ax * a0 + to_bx * b0 + to_cx * c0, to_ay * a0 + to_by * b0 + to_cy * c0, a0 + b0 + c0
    h01, h11, h21 = to_ax * a1 + to_bx * b1 + to_cx * c1, to_ay * a1 + to_by * b1 + to_cy * c1, a1 + b1 + c1
    h02, h12, h22 = to_ax * a2 + to_bx * b2 + to_cx * c2, to_ay * a2 + to_by * b2 + to_cy * c2, a2 + b2 + c2
    largest = tl.maximum(tl.maximum(tl.abs(h00), tl.abs(h01)), tl.maximum(tl.abs(h02), tl.abs(h10)))
    largest = tl.maximum(largest, tl.maximum(tl.abs(h11), tl.abs(h12)))
    largest = tl.maximum(largest, tl.maximum(tl.abs(h20), tl.maximum(tl.abs(h21), tl.abs(h22))))
    factor = tl.where(h22 < 0, -1.0, 1.0) / tl.maximum(largest, 1e-30)
    return (
        h00 * factor, h01 * factor, h02 * factor,
        h10 * factor, h11 * factor, h12 * factor,
        h20 * factor, h21 * factor, h22 * factor,
    )  # fmt: skip


@triton.jit
def choose(
    homography,
    start,
    end,
    valid,
    order,
    places,
    number,
    limit,
    HYPOTHESES: tl.constexpr,
    LANES: tl.constexpr,
    TILE: tl.constexpr,
):
    """Store the hypothesis with the least truncated squared transfer error."""
    lane = tl.arange(0, LANES)
    counts = tl.load(valid + lane, mask=lane < number, other=0).to(tl.int32)
    tl.store(order + tl.cumsum(counts, 0) - 1, lane, mask=counts > 0)
    number_valid = tl.sum(counts)
    tl.debug_barrier()  # other threads have stored part of the order
    each = places + 4 * tl.arange(0, HYPOTHESES)[:, None]
    h00, h01, h02, h10, h11, h12, h20, h21, h22 = hypothesis(start, end, order, number_valid, each)
    costs = tl.zeros([HYPOTHESES, TILE], tl.float32)
    for first in range(0, number, TILE):
        match = first + tl.arange(0, TILE)[None]
        live = match < number
        squared = squared_error(h00, h01, h02, h10, h11, h12, h20, h21, h22, start, end, match, live)
        takes_part = tl.load(valid + match, mask=live, other=0) > 0
        costs += tl.where(takes_part, tl.minimum(squared, limit), 0.0)
    best = places + 4 * tl.argmin(tl.sum(costs, 1), 0)
    h00, h01, h02, h10, h11, h12, h20, h21, h22 = hypothesis(start, end, order, number_valid, best)
    keep(homography, h00, h01, h02, h10, h11, h12, h20, h21, h22)


@triton.jit
def fit_pairs(
    start,
    end,
    matches,
    order,
    places,
    fitted,
    number,
    limit,
    outlier,
    COUNT: tl.constexpr,
    STEPS: tl.constexpr,
    HYPOTHESES: tl.constexpr,
    LANES: tl.constexpr,
    TILE: tl.constexpr,
):
    """Homographies [B, COUNT, 3, 3], each fitted to the matches that those before do not explain. Grid: (pairs,).

    start, end: [B, number, 2]; matches: uint8 [B, COUNT, number], which matches each is fitted to, filled in from the
    second; order: int32 [B, number], for the indices of these matches; limit, outlier: squared distances.
    """
    pair = tl.program_id(0).to(tl.int64)
    start += pair * 2 * number
    end += pair * 2 * number
    order += pair * number
    matches += pair * COUNT * number
    fitted += pair * COUNT * 9
    lane = tl.arange(0, LANES)
    for each in range(COUNT):
        valid, homography = matches + each * number, fitted + each * 9
        choose(homography, start, end, valid, order, places, number, limit, HYPOTHESES, LANES, TILE)
        for _ in range(STEPS):
            refine(homography, start, end, valid, number, limit, LANES)
        if each + 1 < COUNT:
            h00, h01, h02, h10, h11, h12, h20, h21, h22 = numbers(homography)
            counts = tl.load(valid + lane, mask=lane < number, other=0)
            squared = squared_error(h00, h01, h02, h10, h11, h12, h20, h21, h22, start, end, lane, counts > 0)
            tl.store(valid + number + lane, tl.where(squared > outlier, counts, 0), mask=lane < number)
            tl.debug_barrier()


@triton.jit
def refine_last(
    start, end, matches, fitted, inliers, number, limit, STEPS: tl.constexpr, LANES: tl.constexpr
):
    """Refine the homographies in place and count the inliers of each. Grid: (homographies of a pair, pairs)."""
    pair = tl.program_id(1).to(tl.int64)
    each = pair * tl.num_programs(0) + tl.program_id(0)
    start += pair * 2 * number
    end += pair * 2 * number
    valid, homography = matches + each * number, fitted + each * 9
    for _ in range(STEPS):
        refine(homography, start, end, valid, number, limit, LANES)
    h00, h01, h02, h10, h11, h12, h20, h21, h22 = numbers(homography)
    lane = tl.arange(0, LANES)
    counts = tl.load(valid + lane, mask=lane < number, other=0) > 0
    squared = squared_error(h00, h01, h02, h10, h11, h12, h20, h21, h22, start, end, lane, counts)
    tl.store(inliers + each, tl.sum(((squared <= limit) & counts).to(tl.int32)))
