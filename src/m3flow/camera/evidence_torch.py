"""The evidence for each candidate of the camera motion on a coarse grid, many frame pairs at once, in torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from m3flow.camera import thresholds
from m3flow.camera.candidates import COLUMNS, LARGEST_DIFFERENCE, PHOTOMETRIC_MARGIN, ROWS, SMALL
from m3flow.camera.homography_torch import (
    centre_and_scale,
    frame_motion,
    in_pixels,
    squared_transfer_error,
    transform,
)
from m3flow.flow.image_ops import correlate, pixel_grid, resize, resize_area, sample

STILL_FACTOR = (thresholds.INLIER_DISTANCE / thresholds.STILL_DISTANCE) ** 2


def shrunk(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images float32 [F, H, W] of another size, for comparisons."""
    larger = images.shape[1] >= size[0] and images.shape[2] >= size[1]
    return resize_area(images, *size) if larger else resize(images, *size)


def with_identity(fitted: Tensor, inliers: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The candidates of each pair: the identity, then the homographies that a camera may have.

    Parameters
    ----------
    fitted: float32 [B, n, 3, 3] in the coordinates of `m3flow.camera.homography_torch.centred`.
    inliers: int64 [B, n], of each.

    Returns
    -------
    The candidates in pixels and in the coordinates of `centred`, float32 [B, 1 + n, 3, 3] each, and which of them
    exist, bool [B, 1 + n]; those that do not are the identity.
    """
    batch = len(fitted)
    homographies = in_pixels(fitted.flatten(0, 1), *centre_and_scale(height, width))
    _, in_front = frame_motion(homographies, height, width)
    needed = (thresholds.INLIERS_SHARE * inliers.cummax(1).values).clamp_min(thresholds.INLIERS_NEEDED)
    exists = (inliers > needed) & in_front.view_as(inliers)
    identity = torch.eye(3, device=fitted.device)
    homographies = torch.where(exists[..., None, None], homographies.view_as(fitted), identity)
    fitted = torch.where(exists[..., None, None], fitted, identity)
    first = identity.expand(batch, 1, 3, 3)
    homographies, fitted = torch.cat([first, homographies], 1), torch.cat([first, fitted], 1)
    return homographies, fitted, functional.pad(exists, (1, 0), value=True)


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
    """`matches`, `support` and `still` of `m3flow.camera.candidates.Candidates`.

    points: float32 [B, N, 2] in pixels; start, end: the matches in the coordinates of `fitted`; valid: bool [B, N];
    fitted: from `with_identity`; bars: int64 [B, 4].
    """
    inlier = thresholds.INLIER_DISTANCE / centre_and_scale(height, width)[1]
    squared = squared_transfer_error(fitted, start[:, None], end[:, None]) / (inlier * inlier)
    on_grid = _grid_cells(points, height, width, bars) * valid[..., None]
    still = (1 - squared[:, 0] * STILL_FACTOR).clamp_min(0)
    return (
        on_grid.sum(1).view(-1, ROWS, COLUMNS),
        _sums((1 - squared).clamp_min(0), on_grid),
        _sums(still[:, None], on_grid)[:, 0],
    )


def _grid_cells(points: Tensor, height: int, width: int, bars: Tensor) -> Tensor:
    """1 for the grid cell of each point in the picture, else 0: float32 [B, N, R * C]."""
    top, bottom, left, right = bars[:, :, None].unbind(1)
    column = ((points[..., 0] - left) * COLUMNS / (width - left - right)).long()
    row = ((points[..., 1] - top) * ROWS / (height - top - bottom)).long()
    cells = torch.arange(ROWS * COLUMNS, device=points.device)
    return ((row * COLUMNS + column)[..., None] == cells).float()


def _sums(weights: Tensor, on_grid: Tensor) -> Tensor:
    """Sums of weights [B, K, N] over the points of each cell: float32 [B, K, R, C]; without a matrix product."""
    sums = [(one[..., None] * on_grid).sum(1) for one in weights.unbind(1)]
    return torch.stack(sums, 1).view(*weights.shape[:2], ROWS, COLUMNS)


def photometric_support(
    previous: Tensor,
    current: Tensor,
    homographies: Tensor,
    exists: Tensor,
    bars: Tensor,
    height: int,
    width: int,
) -> Tensor:
    """The share of each cell's pixels at which each candidate fits the grey levels best: float32 [B, K, R, C].

    previous, current: `shrunk` to `SMALL`; homographies: in pixels, from `with_identity`, as `exists`.
    """
    batch, count = exists.shape
    rows, columns = SMALL
    down, across = height / rows, width / columns
    grid_x, grid_y = pixel_grid(rows, columns, previous.device)
    x = ((grid_x + 0.5) * across - 0.5).expand(rows, columns).flatten()
    y = ((grid_y + 0.5) * down - 0.5).expand(rows, columns).flatten()
    moved = transform(homographies.flatten(0, 1), torch.stack([x, y], 1)[None])
    moved = moved.view(batch * count, rows, columns, 2)
    images = current[:, None].expand(-1, count, -1, -1).reshape(batch * count, 1, rows, columns)
    seen = sample(images, (moved[..., 0] + 0.5) / across - 0.5, (moved[..., 1] + 0.5) / down - 0.5)
    error = (seen[:, 0].view(batch, count, rows, columns) - previous[:, None]).abs()
    third = [1 / 3] * 3
    error = correlate(error.clamp_max(LARGEST_DIFFERENCE), third, -1, "reflect")
    error = correlate(error, third, -2, "reflect")
    error = torch.where(exists[:, :, None, None], error, LARGEST_DIFFERENCE)
    best = error.topk(2, dim=1, largest=False, sorted=True).values
    clear = best[:, 1] - best[:, 0] > PHOTOMETRIC_MARGIN
    alone = exists.sum(1) < 2
    wins = (error == best[:, :1]) & clear[:, None] & ~alone[:, None, None, None]
    row = _within(bars[:, :2], height, rows)[:, None, :, None]
    column = _within(bars[:, 2:], width, columns)[:, None, None, :]
    wins = wins.gather(2, row.expand(-1, count, -1, columns)).gather(3, column.expand(-1, count, rows, -1))
    cells = wins.view(batch, count, ROWS, rows // ROWS, COLUMNS, columns // COLUMNS)
    return cells.float().mean((3, 5))


def _within(bars: Tensor, length: int, count: int) -> Tensor:
    """`count` places spread over a side between its two bars, in frames of `count` rows or columns: int64 [B, n]."""
    start, end = bars[:, :, None].unbind(1)
    middles = torch.arange(1, 2 * count, 2, device=bars.device)
    return (2 * count * start + middles * (length - start - end)) // (2 * length)
