"""Filtering, resizing and sampling of image batches in torch: gathers and sums, never a convolution.

Convention
----------
Images are [..., H, W] with any leading dimensions. The centre of the top left pixel is at x = 0, y = 0.
Borders as OpenCV names them: "replicate" aaa|abcd|ddd, "reflect" (101) dcb|abcd|cba.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from m3flow.flow.constants import constants

Border = Literal["replicate", "reflect"]
CUBIC = -0.75  # the parameter of Keys' family of cubic kernels (1981) that OpenCV uses
CUBIC_MARGIN = 4  # pixels around the image that a cubic read may touch


def pad(images: Tensor, amount: int, dim: int, border: Border = "replicate") -> Tensor:
    """`images` extended by `amount` samples at both ends of `dim`."""
    length = images.shape[dim]
    if border == "replicate" or length == 1:
        shape = list(images.shape)
        shape[dim] = amount
        first, last = images.narrow(dim, 0, 1), images.narrow(dim, length - 1, 1)
        return torch.cat([first.expand(shape), images, last.expand(shape)], dim)
    return images.index_select(dim, reflected(length, amount, images.device))


@constants(maxsize=256)
def reflected(length: int, amount: int, device: torch.device) -> Tensor:
    """The index, among `length` samples, of each sample of the padded line."""
    period = 2 * (length - 1)
    index = torch.arange(-amount, length + amount).remainder(period)
    return torch.minimum(index, period - index).to(device)


def correlate(images: Tensor, taps: Sequence[float], dim: int, border: Border = "replicate") -> Tensor:
    """The correlation of `images` with an odd number of centred `taps` along `dim`."""
    return filter_bank(images, [taps], dim, border)[0]


def filter_bank(
    images: Tensor, kernels: Sequence[Sequence[float]], dim: int, border: Border = "replicate"
) -> list[Tensor]:
    """`correlate` with several kernels of the same odd length, each symmetric or antisymmetric.

    Sums and differences of neighbours at the same distance are computed once for all kernels.
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


@constants(maxsize=256)
def resize_plan(
    length: int, new_length: int, ratio: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """For each new sample: the two old samples around it and the weight of the second."""
    position = (torch.arange(new_length, dtype=torch.float64) + 0.5) * ratio - 0.5
    low = position.floor()
    weight = (position - low).to(torch.float32)
    first, second = low.long().clamp(0, length - 1), (low.long() + 1).clamp(0, length - 1)
    return first.to(device), second.to(device), weight.to(device)


def resize(images: Tensor, height: int, width: int, *, ratio: float | None = None) -> Tensor:
    """Bilinear, half-pixel centres, no antialiasing: `cv2.resize` with INTER_LINEAR on float images.

    ratio: the distance between new samples in old pixels; by default old size / new size. Pyramids with an
    exact scale but rounded sizes set it.
    """
    for dim, new_length in ((-2, height), (-1, width)):
        length = images.shape[dim]
        if length == new_length and ratio is None:
            continue
        step = length / new_length if ratio is None else ratio
        first, second, weight = resize_plan(length, new_length, step, images.device)
        if dim == -2:
            weight = weight[:, None]
        images = torch.lerp(images.index_select(dim, first), images.index_select(dim, second), weight)
    return images


@constants(maxsize=256)
def area_plan(length: int, new_length: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """For each tap: the index of the old sample read for each new sample, and its weight."""
    ratio = length / new_length
    start = torch.arange(new_length, dtype=torch.float64) * ratio
    end = (start + ratio).clamp_max(length)
    first = start.floor()
    taps = []
    # A new sample overlaps at most this many old ones.
    for tap in range(int(ratio) + 2):
        left = first + tap
        overlap = (torch.minimum(end, left + 1) - torch.maximum(start, left)).clamp_min(0) / ratio
        # Rounding leaves overlaps of nearly 0 where sizes divide evenly.
        overlap[overlap < 1e-9] = 0
        if overlap.any():
            taps.append((left.long().clamp_max(length - 1).to(device), overlap.float().to(device)))
    return taps


def resize_area(images: Tensor, height: int, width: int) -> Tensor:
    """Area averages, as `cv2.resize` with INTER_AREA: float32 [..., H, W] -> [..., height, width].

    `height` and `width` must not exceed H and W.
    """
    for dim, new_length in ((-2, height), (-1, width)):
        if images.shape[dim] == new_length:
            continue
        total: Tensor | None = None
        for index, weight in area_plan(images.shape[dim], new_length, images.device):
            weight = weight[:, None] if dim == -2 else weight
            term = images.index_select(dim, index).mul_(weight)
            total = term if total is None else total.add_(term)
        assert total is not None
        images = total
    return images


@constants(maxsize=64)
def pixel_grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The coordinates of the pixels: x [W] and y [H, 1], float32; they broadcast to [H, W]."""
    x = torch.arange(width, dtype=torch.float32, device=device)
    return x, torch.arange(height, dtype=torch.float32, device=device)[:, None]


def inside(x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
    """Whether all four pixels around (x, y) exist: floor(x) in [0, W - 2], floor(y) in [0, H - 2]."""
    return (x >= 0) & (x < width - 1) & (y >= 0) & (y < height - 1)


def _pixels(coordinates: Tensor) -> Tensor:
    """The whole pixels below coordinates; 0 where a coordinate is not a number.

    As an index it would be anywhere: an error on a CPU, the end of the process's CUDA context on a GPU.
    """
    return coordinates.floor().nan_to_num_(0)


def sample(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear samples of float32 [B, C, H, W] at x, y [B, h, w] -> [B, C, h, w]; replicated border.

    Gathers the four neighbours: the normalised coordinates of `grid_sample` displace points by up to
    1e-4 px in a wide image. Where a coordinate is not a number, so is the sample.
    """
    _, channels, height, width = images.shape
    left = _pixels(x).clamp_(0, max(width - 2, 0))
    top = _pixels(y).clamp_(0, max(height - 2, 0))
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


def sample_bicubic(images: Tensor, x: Tensor, y: Tensor, border: Literal["replicate", "zero"]) -> Tensor:
    """Bicubic samples of float32 [B, C, H, W] at x, y [B, h, w] -> [B, C, h, w], as `cv2.remap` INTER_CUBIC.

    Exact at integer coordinates. The normalised coordinates of `grid_sample` miss them by 1e-5 px, which
    gives still frames some motion, and TV-L1's warps amplify it where the image falls to zero at its border.
    """
    batch, channels, height, width = images.shape
    mode, reach = ("constant", 2) if border == "zero" else ("replicate", 0)
    framed = functional.pad(
        images, (CUBIC_MARGIN, CUBIC_MARGIN, CUBIC_MARGIN, CUBIC_MARGIN), mode=mode
    ).flatten(2)
    # Positions beyond `reach` read the same values as those at `reach`.
    x, y = x.clamp(-reach, width - 1 + reach), y.clamp(-reach, height - 1 + reach)
    left, top = _pixels(x), _pixels(y)
    weights_x, weights_y = _cubic_weights(x - left), _cubic_weights(y - top)
    stride = width + 2 * CUBIC_MARGIN
    first = ((top.long() + CUBIC_MARGIN - 1) * stride + left.long() + CUBIC_MARGIN - 1).view(batch, 1, -1)
    result = torch.zeros_like(x)[:, None].repeat(1, channels, 1, 1)
    for row, weight_y in enumerate(weights_y):
        line = torch.zeros_like(result)
        for column, weight_x in enumerate(weights_x):
            place = (first + (row * stride + column)).expand(-1, channels, -1)
            line.addcmul_(weight_x[:, None], framed.gather(2, place).view_as(line))
        result.addcmul_(weight_y[:, None], line)
    return result


def _cubic_weights(offset: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of the pixels at -1, 0, 1 and 2 for a point at `offset` in [0, 1)."""

    def near(distance: Tensor) -> Tensor:
        return ((CUBIC + 2) * distance - (CUBIC + 3)) * distance * distance + 1

    def far(distance: Tensor) -> Tensor:
        return ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC

    return far(offset + 1), near(offset), near(1 - offset), far(2 - offset)
