"""Pyramidal Lucas-Kanade point tracking in torch, all points of all pairs at once.

J.-Y. Bouguet, Pyramidal implementation of the Lucas Kanade feature tracker, Intel 2001. As in
`cv2.calcOpticalFlowPyrLK`, but with a fixed number of iterations, so that no point waits for another.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m3flow.camera import thresholds
from m3flow.flow.image_ops import correlate

RADIUS = 4  # of the square window around a point
LEVELS = 4  # including the full size: covers motion of about 30 px
SMALLEST_SIDE = 16  # no level is smaller
ITERATIONS = 5  # per level
PYRAMID_TAPS = [1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16]  # of `cv2.pyrDown`
WEAKEST = 1e-4  # of a window's smaller eigenvalue, per pixel and squared grey level: below, the point stays


def there_and_back(previous: Tensor, current: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The positions of points [B, N, 2] in the current frames, and of those in the previous: float32 [B, H, W] each."""
    one, two = pyramid(previous), pyramid(current)
    end = follow(one, two, points)
    return end, follow(two, one, end)


def reliable(points: Tensor, end: Tensor, back: Tensor, height: int, width: int) -> Tensor:
    """Which points [B, N, 2] are tracked, from the results of `there_and_back`: bool [B, N].

    Those with a forward-backward error below 0.5 px that stay in the frame and moved 25 px at most.
    """
    x, y = end.unbind(2)
    good = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    good &= (back - points).square().sum(2) < thresholds.RETURN_DISTANCE**2
    good &= (end - points).square().sum(2) <= thresholds.MATCH_RADIUS**2
    return good


def follow(previous: list[Tensor], current: list[Tensor], points: Tensor) -> Tensor:
    """The positions in the current frames of points of the previous ones.

    Parameters
    ----------
    previous, current: pyramids from `pyramid`.
    points: float32 [B, N, 2] as (x, y) in pixels.

    Returns
    -------
    float32 [B, N, 2]: an estimate for every point; track it back to check its reliability.
    """
    motion = torch.zeros_like(points)
    for level in reversed(range(len(previous))):
        motion = motion * 2 if level + 1 < len(previous) else motion
        at = points / 2**level
        patch, in_x, in_y = _read(_with_slopes(previous[level]), at).unbind(1)
        xx, yy, xy = (in_x * in_x).sum(-1), (in_y * in_y).sum(-1), (in_x * in_y).sum(-1)
        half = (xx - yy) / 2
        weakest = (xx + yy) / 2 - (half * half + xy * xy).sqrt()
        strong = weakest > WEAKEST * patch.shape[-1]
        inverse = torch.where(strong, 1 / (xx * yy - xy * xy), 0)
        target = current[level][:, None]
        for _ in range(ITERATIONS):
            difference = patch - _read(target, at + motion)[:, 0]
            by_x, by_y = (difference * in_x).sum(-1), (difference * in_y).sum(-1)
            step = torch.stack([yy * by_x - xy * by_y, xx * by_y - xy * by_x], -1)
            motion = motion + step * inverse[..., None]
    return points + motion


def pyramid(frames: Tensor) -> list[Tensor]:
    """The pyramid of float32 [B, H, W], full size first, with the filter of `cv2.pyrDown`."""
    levels = [frames]
    while len(levels) < LEVELS and min(levels[-1].shape[1:]) >= 2 * SMALLEST_SIDE:
        smooth = correlate(correlate(levels[-1], PYRAMID_TAPS, -1, "reflect"), PYRAMID_TAPS, -2, "reflect")
        levels.append(smooth[:, ::2, ::2])
    return levels


def _with_slopes(frames: Tensor) -> Tensor:
    """The frames and their derivatives in x and in y (Scharr): [B, 3, H, W]."""
    slope, smooth = [-0.5, 0.0, 0.5], [3 / 16, 10 / 16, 3 / 16]
    in_x = correlate(correlate(frames, slope, -1, "reflect"), smooth, -2, "reflect")
    in_y = correlate(correlate(frames, smooth, -1, "reflect"), slope, -2, "reflect")
    return torch.stack([frames, in_x, in_y], 1)


def _read(images: Tensor, points: Tensor) -> Tensor:
    """The windows around points [B, N, 2] of images [B, C, H, W]: [B, C, N, 81], borders replicated.

    All pixels of a window have the same fractional offset, so that each neighbour is read once.
    """
    batch, channels, height, width = images.shape
    offsets = torch.arange(-RADIUS, RADIUS + 2, device=points.device)
    corner = points.floor()
    x = (corner[..., :1].long() + offsets).clamp_(0, width - 1)
    y = (corner[..., 1:].long() + offsets).clamp_(0, height - 1)
    index = (y[..., :, None] * width + x[..., None, :]).view(batch, 1, -1)
    pixels = images.flatten(2).gather(2, index.expand(-1, channels, -1))
    pixels = pixels.view(batch, channels, -1, len(offsets), len(offsets))
    along, down = (points - corner)[:, None, :, :, None, None].unbind(3)
    rows = torch.lerp(pixels[..., :-1], pixels[..., 1:], along)
    return torch.lerp(rows[..., :-1, :], rows[..., 1:, :], down).flatten(3)
