"""How well the candidates of the camera motion predict grey levels, as two fused Triton kernels.

For GPUs that Triton supports. The results equal those of `m3flow.camera.evidence_torch` up to the order of the
additions.

With TRITON_INTERPRET=1 set before the import, the kernels run (slowly) on CPU tensors, for tests.
"""

# Triton's kernel arguments (pointers, scalars, constants) have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from m3flow.camera.candidates import COLUMNS, LARGEST_DIFFERENCE, PHOTOMETRIC_MARGIN, ROWS, SMALL
from m3flow.camera.refinement_triton import moved, numbers
from m3flow.flow.farneback_pyramid_triton import Plan, weighted_sums
from m3flow.flow.image_ops import area_plan, resize_plan
from m3flow.flow.sampling_triton import bilinear, reflect

BLOCK = 512  # pixels per program


def shrunk(images: Tensor, size: tuple[int, int]) -> Tensor:
    """As `m3flow.camera.evidence_torch.shrunk`."""
    return weighted_sums(images, *plans(images.shape[1], images.shape[2], size, images.device))


@lru_cache(maxsize=64)
def plans(height: int, width: int, size: tuple[int, int], device: torch.device) -> tuple[Plan, Plan]:
    """The samples that each new row and column reads, and their weights, for `weighted_sums`."""
    cpu = torch.device("cpu")
    lengths = (height, size[0]), (width, size[1])
    if all(length >= new for length, new in lengths):
        reads = [area_plan(length, new, cpu) for length, new in lengths]
    else:
        reads = []
        for length, new in lengths:
            first, second, share = resize_plan(length, new, length / new, cpu)
            reads.append([(first, 1 - share), (second, share)])
    most = max(map(len, reads))
    padded = [taps + [(taps[0][0], torch.zeros_like(taps[0][1]))] * (most - len(taps)) for taps in reads]
    rows, columns = (
        (torch.stack(places, 1).to(torch.int32).to(device), torch.stack(weights, 1).to(device))
        for places, weights in (zip(*taps, strict=True) for taps in padded)
    )
    return rows, columns


def photometric_support(
    previous: Tensor,
    current: Tensor,
    homographies: Tensor,
    exists: Tensor,
    bars: Tensor,
    height: int,
    width: int,
) -> Tensor:
    """As `m3flow.camera.evidence_torch.photometric_support`."""
    batch, candidates = exists.shape
    rows, columns = SMALL
    errors = previous.new_empty(batch, candidates, rows, columns)
    shares = previous.new_empty(batch, candidates, ROWS, COLUMNS)
    with torch.cuda.device_of(previous):
        compare_greys[(triton.cdiv(rows * columns, BLOCK), candidates, batch)](
            previous.contiguous(),
            current.contiguous(),
            homographies.contiguous(),
            errors,
            height / rows,
            width / columns,
            LARGEST_DIFFERENCE,
            HEIGHT=rows,
            WIDTH=columns,
            BLOCK=BLOCK,
        )
        share_of_wins[(ROWS * COLUMNS, batch)](
            errors,
            exists.contiguous().view(torch.uint8),
            bars.contiguous(),
            shares,
            height,
            width,
            LARGEST_DIFFERENCE,
            PHOTOMETRIC_MARGIN,
            HEIGHT=rows,
            WIDTH=columns,
            CANDIDATES=candidates,
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            PIXELS=triton.next_power_of_2(rows // ROWS * (columns // COLUMNS)),
            ROUNDED=triton.next_power_of_2(candidates),
        )
    return shares


@triton.jit
def compare_greys(
    previous,
    current,
    homographies,
    errors,
    down,
    across,
    largest,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The difference of the grey levels at each pixel that a candidate predicts. Grid: (blocks, candidates, pairs).

    previous, current: [B, HEIGHT, WIDTH]; homographies: of the larger frames, `down` and `across` times their size.
    """
    size: tl.constexpr = HEIGHT * WIDTH
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = pixel < size
    pair = tl.program_id(2).to(tl.int64)
    candidate = pair * tl.num_programs(1) + tl.program_id(1)
    h00, h01, h02, h10, h11, h12, h20, h21, h22 = numbers(homographies + candidate * 9)
    x, y = (pixel % WIDTH + 0.5) * across - 0.5, (pixel // WIDTH + 0.5) * down - 0.5
    x, y, _ = moved(h00, h01, h02, h10, h11, h12, h20, h21, h22, x, y)
    x, y = tl.div_rn(x + 0.5, across) - 0.5, tl.div_rn(y + 0.5, down) - 0.5
    seen = bilinear(current + pair * size, x, y, HEIGHT, WIDTH)
    error = tl.abs(seen - tl.load(previous + pair * size + pixel, mask=live, other=0))
    tl.store(errors + candidate * size + pixel, tl.minimum(error, largest), mask=live)


@triton.jit
def share_of_wins(
    errors,
    exists,
    bars,
    shares,
    height,
    width,
    largest,
    margin,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CANDIDATES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PIXELS: tl.constexpr,
    ROUNDED: tl.constexpr,
):
    """The share of a cell's pixels whose error, over 3x3 pixels, is a candidate's least. Grid: (cells, pairs).

    errors: [B, CANDIDATES, HEIGHT, WIDTH]; exists: uint8 [B, CANDIDATES]; bars: int64 [B, 4], of frames of height x
    width; largest: the error of a candidate that does not exist; margin: by which all others' must exceed it.
    """
    cell = tl.program_id(0)
    pair = tl.program_id(1).to(tl.int64)
    rows: tl.constexpr = HEIGHT // ROWS
    columns: tl.constexpr = WIDTH // COLUMNS
    pixel = tl.arange(0, PIXELS)[None]
    live = pixel < rows * columns
    top, bottom = tl.load(bars + 4 * pair).to(tl.int32), tl.load(bars + 4 * pair + 1).to(tl.int32)
    left, right = tl.load(bars + 4 * pair + 2).to(tl.int32), tl.load(bars + 4 * pair + 3).to(tl.int32)
    row, column = cell // COLUMNS * rows + pixel // columns, cell % COLUMNS * columns + pixel % columns
    row = (2 * HEIGHT * top + (2 * row + 1) * (height - top - bottom)) // (2 * height)
    column = (2 * WIDTH * left + (2 * column + 1) * (width - left - right)) // (2 * width)
    each = tl.arange(0, ROUNDED)[:, None]
    candidate = pair * CANDIDATES + tl.minimum(each, CANDIDATES - 1)
    there = (tl.load(exists + candidate) > 0) & (each < CANDIDATES)
    error = tl.zeros([ROUNDED, PIXELS], tl.float32)
    for neighbour in range(9):
        over, beside = reflect(row + neighbour // 3 - 1, HEIGHT), reflect(column + neighbour % 3 - 1, WIDTH)
        error += tl.load(errors + (candidate * HEIGHT + over) * WIDTH + beside, mask=live, other=0)
    error = tl.where(there, error / 9, largest)
    least = tl.min(error, 0)[None]
    best = error == least
    second = tl.min(tl.where(best, float("inf"), error), 0)[None]
    alone = (tl.sum(best.to(tl.int32), 0)[None] == 1) & (second - least > margin)
    wins = best & alone & live & (tl.sum(there.to(tl.int32)) > 1)
    share = tl.sum(wins.to(tl.float32), 1) / (rows * columns)
    place = tl.arange(0, ROUNDED)
    tl.store(shares + (pair * CANDIDATES + place) * ROWS * COLUMNS + cell, share, mask=place < CANDIDATES)
