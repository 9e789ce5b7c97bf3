"""Corners to track and bars at the edges of many frames at once, in torch.

The same as those of `m3flow.camera.candidates_opencv` and `m3flow.camera.geometry`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from m3flow.camera import thresholds
from m3flow.camera.candidates import COLUMNS, ROWS
from m3flow.camera.geometry import DARK, UNIFORM
from m3flow.flow.image_ops import correlate


def dark_bars(frames: Tensor) -> Tensor:
    """Uniform dark rows and columns at the frames' edges: uint8 [F, H, W] -> int64 [F, 4], as in `geometry`."""
    counts = []
    for axis in (2, 1):
        brightest, darkest = frames.amax(axis), frames.amin(axis)
        bar = ((brightest <= DARK) & (brightest - darkest <= UNIFORM)).long()
        counts += [bar.cumprod(1).sum(1), bar.flip(1).cumprod(1).sum(1)]
    return torch.stack(counts, 1)


def corners(frames: Tensor, bars: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Each frame's best corners, at most one per cell, spread over the grid.

    [B, H, W], bars [B, 4] -> (float32 [B, N, 2] as (x, y), bool [B, N] which of them are corners). As in
    `m3flow.camera.candidates_opencv`: the best of every grid cell first, then every second best, and so on.
    """
    batch, height, width = frames.shape
    border, size = thresholds.CORNER_BORDER, thresholds.cell_size(height, width)
    if min(height, width) <= 2 * border:
        return no_corners(frames)
    strength = smaller_eigenvalue(frames.to(torch.float32))
    if bars is not None:
        strength = strength * _picture(bars, height, width)
    strength = strength[:, border : height - border, border : width - border]
    rows, columns = -(-strength.shape[1] // size), -(-strength.shape[2] // size)
    below, right = rows * size - strength.shape[1], columns * size - strength.shape[2]
    cells = functional.pad(strength, (0, right, 0, below)).view(batch, rows, size, columns, size)
    value, place = cells.transpose(2, 3).reshape(batch, rows * columns, -1).max(2)
    cell = _spread_over_grid(value, rows, columns)
    best, place = value.gather(1, cell), place.gather(1, cell)
    x = cell % columns * size + place % size + border
    y = cell // columns * size + place // size + border
    strong = best > thresholds.CORNER_QUALITY * value.amax(1, keepdim=True)
    return torch.stack([x, y], 2).to(torch.float32), strong


def no_corners(frames: Tensor) -> tuple[Tensor, Tensor]:
    """The result of `corners` for frames [B, H, W] too small to have any."""
    places = frames.new_zeros(len(frames), 1, 2, dtype=torch.float32)
    return places, torch.zeros_like(places[..., 0], dtype=torch.bool)


def _picture(bars: Tensor, height: int, width: int) -> Tensor:
    """1 in the picture, 0 in and near its bars: float32 [B, H, W]."""
    hidden = (bars + torch.where(bars > 0, thresholds.BAR_MARGIN, 0))[:, :, None]
    row, column = torch.arange(height, device=bars.device), torch.arange(width, device=bars.device)
    inside_y = (row >= hidden[:, 0]) & (row < height - hidden[:, 1])
    inside_x = (column >= hidden[:, 2]) & (column < width - hidden[:, 3])
    return (inside_y[:, :, None] & inside_x[:, None]).float()


def _spread_over_grid(value: Tensor, rows: int, columns: int) -> Tensor:
    """The corners to track: indices of up to `CORNERS` of [B, rows * columns], int64 [B, N]."""
    group, rank = groups(rows, columns, value.device)
    by_value = value.sort(dim=1, descending=True, stable=True).indices
    in_group = group[by_value].sort(dim=1, stable=True).indices
    cell = by_value.gather(1, in_group)
    relative = value.gather(1, cell) / value.amax(1, keepdim=True).clamp_min(1e-20)
    order = (rank - 0.5 * relative).sort(dim=1, stable=True).indices[:, : thresholds.CORNERS]
    return cell.gather(1, order)


@lru_cache(maxsize=8)
def groups(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The grid cell of each corner cell, and the rank in its group of each after sorting by group."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    group = row * ROWS // rows * COLUMNS + column * COLUMNS // columns
    ordered = np.sort(group)
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    return torch.from_numpy(group.astype(np.int32)).to(device), torch.from_numpy(rank.astype(np.float32)).to(
        device
    )


def smaller_eigenvalue(frames: Tensor) -> Tensor:
    """The smaller eigenvalue of the structure tensor over 3x3 pixels, up to a factor: float32 [B, H, W]."""
    smooth, slope = [1.0, 2.0, 1.0], [-1.0, 0.0, 1.0]
    in_x = correlate(correlate(frames, slope, -1, "reflect"), smooth, -2, "reflect")
    in_y = correlate(correlate(frames, smooth, -1, "reflect"), slope, -2, "reflect")
    products = torch.stack([in_x * in_x, in_y * in_y, in_x * in_y])
    box = [1.0, 1.0, 1.0]
    xx, yy, xy = correlate(correlate(products, box, -1, "reflect"), box, -2, "reflect")
    half_difference = (xx - yy) / 2
    return (xx + yy) / 2 - (half_difference * half_difference + xy * xy).sqrt()
