"""Filters, resizing and sampling of image batches in torch: gathers and sums, never a convolution.

Convention
----------
Images are [..., H, W] with any leading dimensions. The centre of the top left pixel is at x = 0, y = 0.
Borders as OpenCV names them: "replicate" aaa|abcd|ddd, "reflect" (101) dcb|abcd|cba.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Border = Literal["replicate", "reflect"]


def pad(images: Tensor, amount: int, dim: int, border: Border = "replicate") -> Tensor:
    """`images` with `amount` more samples at both ends of `dim`."""
    length = images.shape[dim]
    if border == "replicate" or length == 1:
        shape = list(images.shape)
        shape[dim] = amount
        first, last = images.narrow(dim, 0, 1), images.narrow(dim, length - 1, 1)
        return torch.cat([first.expand(shape), images, last.expand(shape)], dim)
    return images.index_select(dim, _reflected(length, amount, images.device))


@lru_cache(maxsize=256)
def _reflected(length: int, amount: int, device: torch.device) -> Tensor:
    """Which of `length` samples stands at each place of the padded line."""
    period = 2 * (length - 1)
    index = torch.arange(-amount, length + amount).remainder(period)
    return torch.minimum(index, period - index).to(device)


def correlate(images: Tensor, taps: Sequence[float], dim: int, border: Border = "replicate") -> Tensor:
    """Each pixel replaced by the sum of taps · its neighbours along `dim`; an odd number of taps, centred."""
    return filter_bank(images, [taps], dim, border)[0]


def filter_bank(
    images: Tensor, kernels: Sequence[Sequence[float]], dim: int, border: Border = "replicate"
) -> list[Tensor]:
    """`correlate` with several kernels of the same odd length, each symmetric or antisymmetric.

    Neighbours at the same distance are added (or subtracted) once for all kernels.
    """
    radius, length = len(kernels[0]) // 2, images.shape[dim]
    padded = pad(images, radius, dim, border)
    results = [padded.narrow(dim, radius, length) * kernel[radius] for kernel in kernels]
    for offset in range(1, radius + 1):
        before = padded.narrow(dim, radius - offset, length)
        after = padded.narrow(dim, radius + offset, length)
        total = difference = None
        for kernel, result in zip(kernels, results, strict=True):
            tap = kernel[radius + offset]
            if kernel[radius - offset] == tap:
                total = before + after if total is None else total
                result.add_(total, alpha=tap)
            else:
                difference = after - before if difference is None else difference
                result.add_(difference, alpha=tap)
    return results


@lru_cache(maxsize=256)
def _resize_plan(
    length: int, new_length: int, ratio: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """For each new sample: the two old ones it lies between, and how far it is towards the second."""
    position = (torch.arange(new_length, dtype=torch.float64) + 0.5) * ratio - 0.5
    low = position.floor()
    weight = (position - low).to(torch.float32)
    first, second = low.long().clamp(0, length - 1), (low.long() + 1).clamp(0, length - 1)
    return first.to(device), second.to(device), weight.to(device)


def resize(images: Tensor, height: int, width: int, *, ratio: float | None = None) -> Tensor:
    """Bilinear, half-pixel centres, no antialiasing: `cv2.resize` with INTER_LINEAR on float images.

    ratio: the distance of two new samples in old pixels, where it is not old size / new size (a pyramid
    whose sizes are rounded but whose scale is exact).
    """
    for dim, new_length in ((-2, height), (-1, width)):
        length = images.shape[dim]
        if length == new_length and ratio is None:
            continue
        step = length / new_length if ratio is None else ratio
        first, second, weight = _resize_plan(length, new_length, step, images.device)
        if dim == -2:
            weight = weight[:, None]
        images = torch.lerp(images.index_select(dim, first), images.index_select(dim, second), weight)
    return images


@lru_cache(maxsize=64)
def pixel_grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The pixels' own coordinates: x [W] and y [H, 1], float32, which broadcast to [H, W]."""
    x = torch.arange(width, dtype=torch.float32, device=device)
    return x, torch.arange(height, dtype=torch.float32, device=device)[:, None]


def inside(x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
    """Where all four pixels around (x, y) exist: floor(x) in [0, W - 2], floor(y) in [0, H - 2]."""
    return (x >= 0) & (x < width - 1) & (y >= 0) & (y < height - 1)


def sample(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear reads of float32 [B, C, H, W] at x, y [B, h, w] -> [B, C, h, w]; replicates the border.

    A gather of the four neighbours: `grid_sample` works in normalised coordinates, which moves the
    points by up to 1e-4 px in a wide image.
    """
    _, channels, height, width = images.shape
    left, top = x.floor().clamp_(0, max(width - 2, 0)), y.floor().clamp_(0, max(height - 2, 0))
    along, down = (x - left).clamp_(0, 1)[:, None], (y - top).clamp_(0, 1)[:, None]
    index = (top.long() * width + left.long()).flatten(1)[:, None]
    right, below = min(width - 1, 1), min(height - 1, 1) * width
    flat = images.flatten(2)

    def corner(offset: int) -> Tensor:
        place = (index + offset).expand(-1, channels, -1)
        return flat.gather(2, place).unflatten(2, x.shape[1:])

    upper = corner(0).lerp_(corner(right), along)
    lower = corner(below).lerp_(corner(below + right), along)
    return upper.lerp_(lower, down)
