"""Corners to track and bars at the frames' edges as four fused Triton kernels, for GPUs that Triton supports.

A program finds the best corner of one cell from the frame's grey levels, without a map of the corners' strength in
memory. The best ones, spread over the grid, are then found by counting how many come before each one, in place of three
sorts. The results are those of `m3flow.camera.corners_torch`, to the bit.

With TRITON_INTERPRET=1 set before the import, the kernels run (slowly) on CPU tensors, for tests.
"""

# Triton's kernel arguments (pointers, scalars, constants) have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from m3flow.camera import corners_torch, thresholds
from m3flow.camera.geometry import DARK, UNIFORM
from m3flow.flow import fused

CELLS, PIXELS = 4, 64  # cells per program, one a warp, and pixels of each at a time
BLOCK, OTHERS = 32, 32  # cells per program that are sorted, and those that they are compared with at a time
LINES, LENGTH = 16, 64  # lines at a frame's edge at a time, and pixels of each


def dark_bars(frames: Tensor) -> Tensor:
    """As `m3flow.camera.corners_torch.dark_bars`."""
    frames = frames.contiguous()
    count, height, width = frames.shape
    bars = torch.empty(count, 4, dtype=torch.int64, device=frames.device)
    with torch.cuda.device_of(frames):
        count_dark_lines[(4, count)](frames, bars, height, width, DARK, UNIFORM, LINES=LINES, LENGTH=LENGTH)
    return bars


def corners(frames: Tensor, bars: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As `m3flow.camera.corners_torch.corners`, for frames of whole grey levels."""
    frames = frames.contiguous()
    batch, height, width = frames.shape
    border, side = thresholds.CORNER_BORDER, thresholds.cell_size(height, width)
    if min(height, width) <= 2 * border:
        return corners_torch.no_corners(frames)
    rows, columns = (triton.cdiv(length - 2 * border, side) for length in (height, width))
    count = rows * columns
    groups = corners_torch.groups(rows, columns, frames.device)[0]
    found = min(count, thresholds.CORNERS)
    values, keys = (torch.empty(batch, count, device=frames.device) for _ in range(2))
    places, listed = (torch.empty(batch, count, dtype=torch.int32, device=frames.device) for _ in range(2))
    points = torch.empty(batch, found, 2, device=frames.device)
    strong = torch.empty(batch, found, dtype=torch.bool, device=frames.device)
    blocks = triton.cdiv(count, BLOCK)
    with torch.cuda.device_of(frames):
        best_of_cells[(triton.cdiv(count, CELLS), batch)](
            frames,
            None if bars is None else bars.contiguous(),
            values,
            places,
            height,
            width,
            columns,
            side,
            border,
            thresholds.BAR_MARGIN,
            count,
            CELLS=CELLS,
            PIXELS=PIXELS,
            num_warps=4,
            enable_fp_fusion=False,
        )
        rank_in_groups[(blocks, batch)](
            values, groups, keys, listed, count, BLOCK=BLOCK, OTHERS=OTHERS, enable_fp_fusion=False
        )
        take_in_order[(blocks, batch)](
            values,
            places,
            keys,
            listed,
            points,
            strong,
            columns,
            side,
            border,
            count,
            found,
            thresholds.CORNER_QUALITY,
            BLOCK=BLOCK,
            OTHERS=OTHERS,
        )
    return points, strong


def try_out(device: str) -> None:
    """Raises an exception if the kernels do not give the results of torch operations on a small example."""
    y, x = torch.meshgrid(torch.arange(70.0), torch.arange(83.0), indexing="ij")
    frames = torch.stack(
        [128 + 60 * (x * 0.3 + n).sin() + 50 * (y * 0.2 + x * y / 90).cos() for n in range(2)]
    )
    frames[:, :5] = 10
    frames = frames.round().to(torch.uint8).to(device)
    bars = corners_torch.dark_bars(frames)
    fused.compare(dark_bars(frames), bars, tolerance=0)
    (points, strong), (expected, also) = corners(frames, bars), corners_torch.corners(frames, bars)
    fused.compare(strong.float(), also.float(), tolerance=0)
    # Which of equally weak pixels torch takes may depend on the device.
    fused.compare(points * strong[..., None], expected * also[..., None], tolerance=0)


@triton.jit
def count_dark_lines(frames, bars, height, width, dark, uniform, LINES: tl.constexpr, LENGTH: tl.constexpr):
    """The uniform dark lines from one side inwards; bars int64 [F, 4]. Grid: (sides, frames).

    dark: the brightest level of a bar; uniform: the largest range of a line's levels.
    """
    side, frame = tl.program_id(0), tl.program_id(1).to(tl.int64)
    frames += frame * height * width
    upright = side >= 2
    lines, length = tl.where(upright, width, height), tl.where(upright, height, width)
    to_next, along = tl.where(upright, 1, width), tl.where(upright, width, 1)
    count = 0
    go_on = True
    while go_on:
        place = tl.arange(0, LINES)
        line = tl.minimum(count + place, lines - 1)
        line = tl.where(side % 2 == 1, lines - 1 - line, line)[:, None] * to_next
        brightest = tl.zeros([LINES, LENGTH], tl.int32)
        darkest = tl.full([LINES, LENGTH], 255, tl.int32)
        for start in range(0, length, LENGTH):
            # The last pixel again in place of those beyond the end.
            pixel = tl.minimum(start + tl.arange(0, LENGTH), length - 1)[None]
            level = tl.load(frames + line + pixel * along).to(tl.int32)
            brightest, darkest = tl.maximum(brightest, level), tl.minimum(darkest, level)
        most = tl.max(brightest, 1)
        is_dark = (most <= dark) & (most - tl.min(darkest, 1) <= uniform) & (count + place < lines)
        leading = tl.min(tl.where(is_dark, LINES, place), 0)
        count += leading
        go_on = leading == LINES
    tl.store(bars + frame * 4 + side, count)


@triton.jit
def column(at, width):
    """The smoothed levels and the slopes in y of the inner three of five pixels above each other."""
    a, b = tl.load(at).to(tl.float32), tl.load(at + width).to(tl.float32)
    c, d = tl.load(at + 2 * width).to(tl.float32), tl.load(at + 3 * width).to(tl.float32)
    e = tl.load(at + 4 * width).to(tl.float32)
    return (a + 2 * b + c, b + 2 * c + d, c + 2 * d + e), (c - a, d - b, e - c)


@triton.jit
def smaller_eigenvalue(middle, width):
    """The smaller eigenvalue of the structure tensor around the pixels that `middle` points to.

    Sums of whole numbers below 2^24: their order does not matter.
    """
    xx, yy, xy = 0.0, 0.0, 0.0
    top = middle - 2 * width
    smooth_0, slope_0 = column(top - 2, width)
    smooth_1, slope_1 = column(top - 1, width)
    for place in tl.static_range(3):
        smooth_2, slope_2 = column(top + place, width)
        for row in tl.static_range(3):
            in_x = smooth_2[row] - smooth_0[row]
            in_y = slope_0[row] + 2 * slope_1[row] + slope_2[row]
            xx += in_x * in_x
            yy += in_y * in_y
            xy += in_x * in_y
        smooth_0, slope_0, smooth_1, slope_1 = smooth_1, slope_1, smooth_2, slope_2
    # Not divided by 2, which Triton only approximates.
    half = 0.5 * (xx - yy)
    return 0.5 * (xx + yy) - tl.sqrt_rn(half * half + xy * xy)


@triton.jit
def best_of_cells(
    frames,
    bars,
    values,
    places,
    height,
    width,
    columns,
    side,
    border,
    bar_margin,
    count,
    CELLS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """The strength of the best corner of each cell, and its place in the cell. Grid: (blocks of cells, frames).

    The `count` cells of side x side pixels lie row by row inside the border. bars: int64 [F, 4] or None.
    """
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    live = cell < count
    frame = tl.program_id(1).to(tl.int64)
    frames += frame * height * width
    first_x, first_y = border + cell % columns * side, border + cell // columns * side
    top, bottom, left, right = 0, height, 0, width
    if bars is not None:
        bar = bars + frame * 4
        above, below = tl.load(bar).to(tl.int32), tl.load(bar + 1).to(tl.int32)
        before, behind = tl.load(bar + 2).to(tl.int32), tl.load(bar + 3).to(tl.int32)
        top += above + tl.where(above > 0, bar_margin, 0)
        bottom -= below + tl.where(below > 0, bar_margin, 0)
        left += before + tl.where(before > 0, bar_margin, 0)
        right -= behind + tl.where(behind > 0, bar_margin, 0)
    best = tl.full([CELLS, PIXELS], float("-inf"), tl.float32)
    best_place = tl.zeros([CELLS, PIXELS], tl.int32)
    for start in range(0, side * side, PIXELS):
        place = start + tl.arange(0, PIXELS)[None]
        x, y = first_x[:, None] + place % side, first_y[:, None] + place // side
        # Beyond the border a pixel within it is read in place of one outside the frame.
        within = (x < width - border) & (y < height - border)
        pixel = tl.where(within, y * width + x, border * width + border)
        shown = within & (y >= top) & (y < bottom) & (x >= left) & (x < right)
        strength = tl.where(shown, smaller_eigenvalue(frames + pixel, width), 0.0)
        better = (strength > best) & (place < side * side)
        best, best_place = tl.where(better, strength, best), tl.where(better, place, best_place)
    value = tl.max(best, 1)
    tl.store(values + frame * count + cell, value, mask=live)
    # The first of equally good ones.
    place = tl.min(tl.where(best == value[:, None], best_place, side * side), 1)
    tl.store(places + frame * count + cell, place, mask=live)


@triton.jit
def rank_in_groups(values, groups, keys, listed, count, BLOCK: tl.constexpr, OTHERS: tl.constexpr):
    """The keys by which cells are taken: the rank in their group, and of one rank the strongest first.

    values: float32 [B, cells]; groups: int32 [cells]; listed: int32 [B, cells], the place of each when sorted by
    group and rank. Grid: (blocks of cells, frames).
    """
    cell = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = cell < count
    frame = tl.program_id(1).to(tl.int64) * count
    value = tl.load(values + frame + cell, mask=live, other=0.0)
    group = tl.load(groups + cell, mask=live, other=0)
    rank = tl.zeros([BLOCK], tl.int32)
    place = tl.zeros([BLOCK], tl.int32)
    strongest = tl.full([OTHERS], float("-inf"), tl.float32)
    for start in range(0, count, OTHERS):
        other = start + tl.arange(0, OTHERS)
        there = other < count
        their_value = tl.load(values + frame + other, mask=there, other=float("-inf"))
        their_group = tl.load(groups + other, mask=there, other=count)
        strongest = tl.maximum(strongest, their_value)
        stronger = their_value[None] > value[:, None]
        stronger |= (their_value[None] == value[:, None]) & (other[None] < cell[:, None])
        before = stronger & (their_group[None] == group[:, None])
        rank += tl.sum(before.to(tl.int32), 1)
        place += tl.sum((before | (their_group[None] < group[:, None])).to(tl.int32), 1)
    relative = tl.div_rn(value, tl.maximum(tl.max(strongest, 0), 1e-20))
    tl.store(keys + frame + cell, rank.to(tl.float32) - 0.5 * relative, mask=live)
    tl.store(listed + frame + cell, place, mask=live)


@triton.jit
def take_in_order(
    values,
    places,
    keys,
    listed,
    points,
    strong,
    columns,
    side,
    border,
    count,
    found,
    quality,
    BLOCK: tl.constexpr,
    OTHERS: tl.constexpr,
):
    """The corners of the cells with the smallest keys, in their order: points [B, found, 2], strong [B, found].

    quality: the strength of a corner, relative to the frame's best one. Grid: (blocks of cells, frames).
    """
    cell = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = cell < count
    pair = tl.program_id(1).to(tl.int64)
    frame = pair * count
    value = tl.load(values + frame + cell, mask=live, other=0.0)
    key = tl.load(keys + frame + cell, mask=live, other=0.0)
    in_list = tl.load(listed + frame + cell, mask=live, other=0)
    order = tl.zeros([BLOCK], tl.int32)
    strongest = tl.full([OTHERS], float("-inf"), tl.float32)
    for start in range(0, count, OTHERS):
        other = start + tl.arange(0, OTHERS)
        there = other < count
        strongest = tl.maximum(strongest, tl.load(values + frame + other, mask=there, other=float("-inf")))
        their_key = tl.load(keys + frame + other, mask=there, other=float("inf"))
        their_place = tl.load(listed + frame + other, mask=there, other=count)
        before = their_key[None] < key[:, None]
        before |= (their_key[None] == key[:, None]) & (their_place[None] < in_list[:, None])
        order += tl.sum(before.to(tl.int32), 1)
    taken = live & (order < found)
    place = tl.load(places + frame + cell, mask=live, other=0)
    point = points + (pair * found + order) * 2
    tl.store(point, (cell % columns * side + place % side + border).to(tl.float32), mask=taken)
    tl.store(point + 1, (cell // columns * side + place // side + border).to(tl.float32), mask=taken)
    tl.store(strong + pair * found + order, value > quality * tl.max(strongest, 0), mask=taken)
