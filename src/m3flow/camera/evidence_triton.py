"""The evidence for each candidate of the camera motion as fused Triton kernels, for GPUs that Triton supports.

Six launches instead of about three hundred. The results equal those of `m3flow.camera.evidence_torch` up to the order
of the additions.

With TRITON_INTERPRET=1 set before the import, the kernels run (slowly) on CPU tensors, for tests.
"""

# Triton's kernel arguments (pointers, scalars, constants) have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import sys
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from m3flow.camera import evidence_torch, thresholds
from m3flow.camera.candidates import COLUMNS, ROWS, SMALL
from m3flow.camera.homography_torch import centre_and_scale, centred
from m3flow.camera.homography_triton import determinant
from m3flow.camera.photometric_triton import photometric_support, shrunk
from m3flow.camera.refinement_triton import keep, moved, normalised, numbers, squared_error
from m3flow.flow import fused

__all__ = ["photometric_support", "shrunk", "sums_over_grid", "try_out", "with_identity"]


def with_identity(fitted: Tensor, inliers: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `m3flow.camera.evidence_torch.with_identity`."""
    batch, count = inliers.shape
    homographies = fitted.new_empty(batch, 1 + count, 3, 3)
    also_centred = torch.empty_like(homographies)
    exists = torch.empty(batch, 1 + count, dtype=torch.bool, device=fitted.device)
    with torch.cuda.device_of(fitted):
        choose_plausible[(batch,)](
            fitted.contiguous(),
            inliers.contiguous(),
            homographies,
            also_centred,
            exists.view(torch.uint8),
            width - 1.0,
            height - 1.0,
            centre_and_scale(height, width)[1],
            thresholds.INLIERS_SHARE,
            thresholds.INLIERS_NEEDED,
            COUNT=count,
            LANES=triton.next_power_of_2(1 + count),
            num_warps=1,
        )
    return homographies, also_centred, exists


def sums_over_grid(
    points: Tensor,
    start: Tensor,
    end: Tensor,
    valid: Tensor,
    fitted: Tensor,
    bars: Tensor,
    height: int,
    width: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `m3flow.camera.evidence_torch.sums_over_grid`."""
    batch, number = valid.shape
    candidates = fitted.shape[1]
    inlier = thresholds.INLIER_DISTANCE / centre_and_scale(height, width)[1]
    count, still = points.new_empty(2, batch, ROWS, COLUMNS).unbind()
    support = points.new_empty(batch, candidates, ROWS, COLUMNS)
    with torch.cuda.device_of(points):
        sum_in_cells[(ROWS * COLUMNS, batch)](
            points.contiguous(),
            start.contiguous(),
            end.contiguous(),
            valid.contiguous().view(torch.uint8),
            fitted.contiguous(),
            bars.contiguous(),
            count,
            support,
            still,
            number,
            height,
            width,
            1 / (inlier * inlier),
            evidence_torch.STILL_FACTOR,
            CANDIDATES=candidates,
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            LANES=triton.next_power_of_2(number),
            ROUNDED=triton.next_power_of_2(candidates),
        )
    return count, support, still


def try_out(device: str) -> None:
    """Raises an exception if the kernels do not give the results of torch operations on an example.

    With as many matches and candidates as a pair has, so that nothing is compiled twice.
    """
    height, width = 80, 96
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    frames = torch.stack([128 + 60 * ((x + shift) * 0.2).sin() + 50 * (y * 0.3).cos() for shift in (0, 3)])
    points = torch.stack([x, y], -1)[4:68:4, 4:68:2].reshape(1, -1, 2).float().to(device)
    shift, mirrored = torch.eye(3), torch.diag(torch.tensor([-1.0, 1, 1]))
    shift[0, 2] = -3 / centre_and_scale(height, width)[1]
    fitted = torch.stack([shift, mirrored, shift])[None].to(device)
    inliers = torch.tensor([[90, 40, 5]]).to(device)
    bars = torch.tensor([[4, 0, 0, 8]]).to(device)
    matches = points - torch.tensor([2.7, 0]).to(device)
    start, end = (centred(one, height, width) for one in (points, matches))
    valid = (torch.arange(points.shape[1]) % 7 > 0)[None].to(device)

    def evidence(operations: Any) -> tuple[Tensor, Tensor]:
        previous, current = operations.shrunk(frames.to(device), SMALL)[:, None]
        homographies, both, exists = operations.with_identity(fitted, inliers, height, width)
        sums = operations.sums_over_grid(points, start, end, valid, both, bars, height, width)
        shares = operations.photometric_support(previous, current, homographies, exists, bars, height, width)
        return torch.cat(
            [one.flatten().float() for one in (previous, homographies, both, exists, *sums)]
        ), shares

    (found, shares), (expected, also) = evidence(sys.modules[__name__]), evidence(evidence_torch)
    fused.compare(found, expected, tolerance=1e-2)
    # Rounding decides at which of a cell's hundred pixels a candidate is just clear enough.
    fused.compare(shares, also, tolerance=0.05)


@triton.jit
def or_identity(exists, h00, h01, h02, h10, h11, h12, h20, h21, h22):
    """Homographies where they exist, else the identity."""
    return (
        tl.where(exists, h00, 1.0), tl.where(exists, h01, 0.0), tl.where(exists, h02, 0.0),
        tl.where(exists, h10, 0.0), tl.where(exists, h11, 1.0), tl.where(exists, h12, 0.0),
        tl.where(exists, h20, 0.0), tl.where(exists, h21, 0.0), tl.where(exists, h22, 1.0),
    )  # fmt: skip


@triton.jit
def in_pixels(h00, h01, h02, h10, h11, h12, h20, h21, h22, x, y, scale):
    """Homographies in coordinates centred on (x, y), in units of `scale`, converted to pixels, with last element 1."""
    h00, h01, h02 = scale * h00 + x * h20, scale * h01 + x * h21, scale * h02 + x * h22
    h10, h11, h12 = scale * h10 + y * h20, scale * h11 + y * h21, scale * h12 + y * h22
    h00, h01, h10, h11, h20, h21 = (
        h00 / scale,
        h01 / scale,
        h10 / scale,
        h11 / scale,
        h20 / scale,
        h21 / scale,
    )
    h02, h12, h22 = h02 - x * h00 - y * h01, h12 - x * h10 - y * h11, h22 - x * h20 - y * h21
    return normalised(h00, h01, h02, h10, h11, h12, h20, h21, h22)


@triton.jit
def keeps_orientation(h00, h01, h02, h10, h11, h12, h20, h21, h22, right, bottom):
    """Whether the frame, its last pixel at (right, bottom), is in front of the camera and not mirrored."""
    ax, ay, _ = moved(h00, h01, h02, h10, h11, h12, h20, h21, h22, 0.0, 0.0)
    bx, by, _ = moved(h00, h01, h02, h10, h11, h12, h20, h21, h22, right, 0.0)
    cx, cy, _ = moved(h00, h01, h02, h10, h11, h12, h20, h21, h22, right, bottom)
    dx, dy, _ = moved(h00, h01, h02, h10, h11, h12, h20, h21, h22, 0.0, bottom)
    result = (determinant(ax, ay, bx, by, dx, dy) > 0) & (determinant(bx, by, cx, cy, ax, ay) > 0)
    result &= (determinant(cx, cy, dx, dy, bx, by) > 0) & (determinant(dx, dy, ax, ay, cx, cy) > 0)
    result &= (h22 > 0) & (h22 + h20 * right > 0)
    return result & (h22 + h20 * right + h21 * bottom > 0) & (h22 + h21 * bottom > 0)


@triton.jit
def choose_plausible(
    fitted,
    inliers,
    homographies,
    also_centred,
    exists,
    right,
    bottom,
    scale,
    share,
    least,
    COUNT: tl.constexpr,
    LANES: tl.constexpr,
):
    """The identity and COUNT homographies, which are the identity where no camera has them. Grid: (pairs,).

    fitted: [B, COUNT, 3, 3]; inliers: int64 [B, COUNT]; right, bottom: the last pixel; share, least: inliers needed.
    """
    pair = tl.program_id(0).to(tl.int64)
    candidate = tl.minimum(tl.arange(0, LANES), COUNT)
    fit = pair * COUNT + tl.maximum(candidate - 1, 0)
    h00, h01, h02, h10, h11, h12, h20, h21, h22 = numbers(fitted + fit * 9)
    p00, p01, p02, p10, p11, p12, p20, p21, p22 = in_pixels(
        h00, h01, h02, h10, h11, h12, h20, h21, h22, right / 2, bottom / 2, scale
    )
    number = tl.where(candidate > 0, tl.load(inliers + fit).to(tl.float32), 0.0)
    most = tl.max(tl.where(candidate[None] <= candidate[:, None], number[None], 0.0), 1)
    good = keeps_orientation(p00, p01, p02, p10, p11, p12, p20, p21, p22, right, bottom)
    good &= (number > tl.maximum(share * most, least)) & (candidate > 0)
    p00, p01, p02, p10, p11, p12, p20, p21, p22 = or_identity(
        good, p00, p01, p02, p10, p11, p12, p20, p21, p22
    )
    h00, h01, h02, h10, h11, h12, h20, h21, h22 = or_identity(
        good, h00, h01, h02, h10, h11, h12, h20, h21, h22
    )
    place = pair * (COUNT + 1) + candidate
    keep(homographies + place * 9, p00, p01, p02, p10, p11, p12, p20, p21, p22)
    keep(also_centred + place * 9, h00, h01, h02, h10, h11, h12, h20, h21, h22)
    tl.store(exists + place, (good | (candidate == 0)).to(tl.uint8))


@triton.jit
def sum_in_cells(
    points,
    start,
    end,
    valid,
    fitted,
    bars,
    count,
    support,
    still,
    number,
    height,
    width,
    factor,
    still_factor,
    CANDIDATES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
    ROUNDED: tl.constexpr,
):
    """Sums over the matches that start in a cell, weighted by 1 - factor * squared error. Grid: (cells, pairs).

    points, start, end: [B, number, 2]; fitted: [B, CANDIDATES, 3, 3]; bars: int64 [B, 4]; factor, still_factor: of the
    squared error, and once more for the identity.
    """
    cell, cells = tl.program_id(0), ROWS * COLUMNS
    pair = tl.program_id(1).to(tl.int64)
    points += pair * 2 * number
    top, bottom = tl.load(bars + 4 * pair).to(tl.float32), tl.load(bars + 4 * pair + 1).to(tl.float32)
    left, right = tl.load(bars + 4 * pair + 2).to(tl.float32), tl.load(bars + 4 * pair + 3).to(tl.float32)
    lane = tl.arange(0, LANES)[None]
    here = tl.load(valid + pair * number + lane, mask=lane < number, other=0) > 0
    x, y = tl.load(points + 2 * lane, mask=here, other=0), tl.load(points + 2 * lane + 1, mask=here, other=0)
    # Rounded as torch does: corners lie on whole pixels, as do the borders of many cells.
    column = tl.div_rn((x - left) * COLUMNS, width - left - right).to(tl.int32)
    row = tl.div_rn((y - top) * ROWS, height - top - bottom).to(tl.int32)
    here &= row * COLUMNS + column == cell
    tl.store(count + pair * cells + cell, tl.sum(here.to(tl.float32)))
    each = tl.arange(0, ROUNDED)
    candidate = pair * CANDIDATES + tl.minimum(each, CANDIDATES - 1)
    h00, h01, h02, h10, h11, h12, h20, h21, h22 = numbers(fitted + 9 * candidate[:, None])
    start += pair * 2 * number
    end += pair * 2 * number
    squared = squared_error(h00, h01, h02, h10, h11, h12, h20, h21, h22, start, end, lane, here) * factor
    tl.store(support + candidate * cells + cell, tl.sum(tl.where(here, tl.maximum(1 - squared, 0.0), 0.0), 1))
    static = tl.sum(tl.where(here, tl.maximum(1 - squared * still_factor, 0.0), 0.0), 1)
    tl.store(still + pair * cells + cell + each, static, mask=each == 0)
