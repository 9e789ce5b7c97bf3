"""Candidates for the camera motion of many frame pairs at once, in torch.

The torch counterpart of `m3flow.camera.candidates_opencv`: the same corners, tracked forward and backward, the
same successive fits and the same evidence. Nothing depends on the other pairs of a batch. The evidence stays on
the device until a single copy at the end.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from m3flow.camera import corners_torch, cuts, homography_torch, lucas_kanade, thresholds
from m3flow.camera.candidates import (
    COLUMNS,
    LARGEST_DIFFERENCE,
    PHOTOMETRIC_MARGIN,
    ROWS,
    SMALL,
    THUMBNAIL,
    Candidates,
)
from m3flow.camera.homography_torch import frame_motion, in_pixels, squared_transfer_error
from m3flow.flow.fused import kernels
from m3flow.flow.image_ops import correlate, pixel_grid, resize, resize_area, sample
from m3flow.flow.transfer import Readback, constant, to_device


@torch.no_grad()
def find_candidates(frames: Tensor, step: int, *, camera: bool = True, seed: int = 0) -> Candidates:
    """The candidates and their evidence for each pair of frames t, t + step: uint8 [F, H, W] -> F - step pairs.

    camera: whether to search for the camera; otherwise only for cuts.
    seed: of the hypotheses; the same for every pair, so that a pair's candidates depend on its frames alone.
    """
    images = frames.float()
    small = _shrunk(images, SMALL)
    thumbnails = _shrunk(small, THUMBNAIL)
    if not camera:
        (tiny,) = Readback([thumbnails]).arrays()
        change = cuts.change(tiny, step)
        return Candidates.empty(len(change)).with_change(change)
    search = kernels("corners_triton", str(frames.device), "m3flow.camera") or corners_torch
    bars = search.dark_bars(frames)
    of_both = torch.minimum(bars[:-step], bars[step:])
    bars = _within_half(of_both, frames.shape[1], frames.shape[2])
    previous, current = images[:-step], images[step:]
    brightness, differs = brightness_change(frames, step)
    # Read while the device tracks; few pairs differ.
    differing = Readback([differs])
    points, valid = search.corners(frames[:-step], bars)
    matches, returned = track(previous, current, points)
    current, matches, returned = _at_one_brightness(
        previous,
        current,
        brightness,
        np.flatnonzero(*differing.arrays()),
        points,
        valid,
        matches,
        valid & returned,
    )
    evidence = _evidence(previous, current, points, matches, returned, bars, seed)
    identical = (frames[:-step] == frames[step:]).flatten(1).all(1)
    on_host = Readback([*evidence, of_both, thumbnails, identical]).arrays()
    homographies, exists, count, support, still, photometric, of_bars, tiny, same = on_host
    homographies = homographies.astype(np.float64)
    return Candidates(
        np.where(exists[..., None, None], homographies, np.eye(3)),
        exists,
        count,
        support,
        still,
        photometric,
        of_bars.astype(np.int32),
        cuts.change(tiny, step),
        same,
    )


def _evidence(
    previous: Tensor,
    current: Tensor,
    points: Tensor,
    matches: Tensor,
    valid: Tensor,
    bars: Tensor,
    seed: int,
) -> tuple[Tensor, ...]:
    """The first six fields of `Candidates`, on the device."""
    batch, height, width = previous.shape
    scale = max(height, width) / 2
    centre = (width - 1) / 2, (height - 1) / 2
    middle = torch.stack([torch.full_like(points[..., 0], value) for value in centre], -1)
    start, end = (points - middle) / scale, (matches - middle) / scale
    inlier = thresholds.INLIER_DISTANCE / scale
    fused = kernels("homography_triton", str(points.device), "m3flow.camera")
    fit_successively = homography_torch.fit_successively if fused is None else fused.fit_successively
    fitted, inliers = fit_successively(
        start,
        end,
        valid,
        count=thresholds.HYPOTHESES,
        inlier=inlier,
        outlier=thresholds.OUTLIER_DISTANCE / scale,
        seed=seed,
    )
    homographies = in_pixels(fitted.flatten(0, 1), centre, scale)
    _, in_front = frame_motion(homographies, height, width)
    needed = (thresholds.INLIERS_SHARE * inliers.cummax(1).values).clamp_min(thresholds.INLIERS_NEEDED)
    exists = (inliers > needed) & in_front.view_as(inliers)
    identity = torch.eye(3, device=previous.device)
    homographies = torch.where(exists[..., None, None], homographies.view_as(fitted), identity)
    fitted = torch.where(exists[..., None, None], fitted, identity)
    first = identity.expand(batch, 1, 3, 3)
    homographies, fitted = torch.cat([first, homographies], 1), torch.cat([first, fitted], 1)
    exists = functional.pad(exists, (1, 0), value=True)
    squared = squared_transfer_error(fitted, start[:, None], end[:, None]) / (inlier * inlier)
    on_grid = _grid_cells(points, height, width, bars) * valid[..., None]
    still = (1 - squared[:, 0] * (thresholds.INLIER_DISTANCE / thresholds.STILL_DISTANCE) ** 2).clamp_min(0)
    return (
        homographies,
        exists,
        on_grid.sum(1).view(batch, ROWS, COLUMNS),
        _sums((1 - squared).clamp_min(0), on_grid),
        _sums(still[:, None], on_grid)[:, 0],
        photometric_support(previous, current, homographies, exists, bars),
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


def _at_one_brightness(
    previous: Tensor,
    current: Tensor,
    brightness: Tensor,
    differing: np.ndarray,
    points: Tensor,
    valid: Tensor,
    matches: Tensor,
    tracked: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The current frames, the matches and which are tracked; in the `differing` pairs with matched brightness where
    that tracks most corners, or more than without: new content may look like a change of exposure.

    brightness: the gain and offset of each pair, from `brightness_change`.
    """
    if not len(differing):
        return current, matches, tracked
    pairs = to_device(differing, current.device)
    gain, offset = brightness[:, pairs, None, None]
    matched = (gain * current[pairs] + offset).round().clamp(0, 255)
    others, returned = track(previous[pairs], matched, points[pairs])
    returned &= valid[pairs]
    most = returned.sum(1) >= thresholds.MOST_TRACKED * valid[pairs].sum(1)
    better = (most | (returned.sum(1) > tracked[pairs].sum(1)))[:, None]

    def replaced(values: Tensor, new: Tensor) -> Tensor:
        chosen = better if values.ndim == 2 else better[..., None]
        return values.index_copy(0, pairs, torch.where(chosen, new, values[pairs]))

    return replaced(current, matched), replaced(matches, others), replaced(tracked, returned)


def brightness_change(frames: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """The gains and offsets that give the current frames the previous ones' brightness, and which pairs differ.

    uint8 [F, H, W] -> float32 [2, B], bool [B]. As `m3flow.camera.candidates_opencv`.
    """
    levels = _quantiles(frames)
    x, y = levels[step:], levels[:-step]
    x_mean, y_mean = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    spread = (x - x_mean).square().sum(1, keepdim=True).clamp_min(1e-6)
    gain = (((x - x_mean) * (y - y_mean)).sum(1, keepdim=True) / spread).clamp(0.5, 2)
    offset = y_mean - gain * x_mean
    before, after = (y - x).abs().mean(1), (gain * x + offset - y).abs().mean(1)
    differs = before >= thresholds.BRIGHTNESS_DIFFERENCE
    differs &= after <= thresholds.BRIGHTNESS_LEFT * before
    return torch.stack([gain[:, 0], offset[:, 0]]), differs


def _quantiles(frames: Tensor) -> Tensor:
    """The 5th to the 95th percentile of the grey levels, evenly spaced: float32 [F, n]."""
    levels = frames[:, 2::6, 2::6].flatten(1).sort(1).values
    cut = levels.shape[1] // 20
    return levels[:, cut : max(levels.shape[1] - cut, 1)].float()


def photometric_support(
    previous: Tensor, current: Tensor, homographies: Tensor, exists: Tensor, bars: Tensor
) -> Tensor:
    """The share of each cell's pixels at which each candidate fits the grey levels best: float32 [B, K, R, C]."""
    batch, count = exists.shape
    one, two = _shrunk(previous, SMALL), _shrunk(current, SMALL)
    height, width = SMALL
    down, across = previous.shape[1] / height, previous.shape[2] / width
    grid_x, grid_y = pixel_grid(height, width, previous.device)
    x = ((grid_x + 0.5) * across - 0.5).expand(height, width).flatten()
    y = ((grid_y + 0.5) * down - 0.5).expand(height, width).flatten()
    moved = homography_torch.transform(homographies.flatten(0, 1), torch.stack([x, y], 1)[None])
    moved = moved.view(batch * count, height, width, 2)
    images = two[:, None].expand(-1, count, -1, -1).reshape(batch * count, 1, height, width)
    seen = sample(images, (moved[..., 0] + 0.5) / across - 0.5, (moved[..., 1] + 0.5) / down - 0.5)
    error = (seen[:, 0].view(batch, count, height, width) - one[:, None]).abs().clamp_max(LARGEST_DIFFERENCE)
    third = [1 / 3] * 3
    error = correlate(correlate(error, third, -1, "reflect"), third, -2, "reflect")
    error = torch.where(exists[:, :, None, None], error, LARGEST_DIFFERENCE)
    best = error.topk(2, dim=1, largest=False, sorted=True).values
    clear = best[:, 1] - best[:, 0] > PHOTOMETRIC_MARGIN
    alone = exists.sum(1) < 2
    wins = (error == best[:, :1]) & clear[:, None] & ~alone[:, None, None, None]
    rows = _within(bars[:, :2], previous.shape[1], height)[:, None, :, None]
    columns = _within(bars[:, 2:], previous.shape[2], width)[:, None, None, :]
    wins = wins.gather(2, rows.expand(-1, count, -1, width)).gather(3, columns.expand(-1, count, height, -1))
    cells = wins.view(batch, count, ROWS, height // ROWS, COLUMNS, width // COLUMNS)
    return cells.float().mean((3, 5))


def _within(bars: Tensor, length: int, count: int) -> Tensor:
    """`count` places spread over a side between its two bars, in frames of `count` rows or columns: int64 [B, n]."""
    start, end = (bars.double() * count / length)[:, :, None].unbind(1)
    steps = torch.arange(count, dtype=torch.float64, device=bars.device) + 0.5
    return (start + steps * (count - start - end) / count).long()


def _within_half(bars: Tensor, height: int, width: int) -> Tensor:
    """As `m3flow.camera.geometry.within_half`."""
    pairs = bars.view(-1, 2, 2)
    lengths = constant(((height,), (width,)), bars.device, bars.dtype)
    return torch.where(pairs.sum(2, keepdim=True) * 2 > lengths, 0, pairs).view(-1, 4)


def _shrunk(images: Tensor, size: tuple[int, int]) -> Tensor:
    larger = images.shape[1] >= size[0] and images.shape[2] >= size[1]
    return resize_area(images, *size) if larger else resize(images, *size)


def track(previous: Tensor, current: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The positions of points [B, N, 2] in the current frames, and which are reliable: bool [B, N].

    Those with a forward-backward error below 0.5 px that stay in the frame and moved 25 px at most.
    """
    fused = kernels("lucas_kanade_triton", str(points.device), "m3flow.camera")
    there_and_back = lucas_kanade.there_and_back if fused is None else fused.there_and_back
    end, back = there_and_back(previous.float(), current.float(), points)
    height, width = previous.shape[1:]
    x, y = end.unbind(2)
    good = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    good &= (back - points).square().sum(2) < thresholds.RETURN_DISTANCE**2
    good &= (end - points).square().sum(2) <= thresholds.MATCH_RADIUS**2
    return end, good
