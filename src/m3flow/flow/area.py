"""Shrinking image batches by exact area averages, as `cv2.resize` with INTER_AREA does."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=256)
def _plan(length: int, new_length: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """For each tap: which old sample it reads for each new one, and with what weight."""
    ratio = length / new_length
    start = torch.arange(new_length, dtype=torch.float64) * ratio
    end = (start + ratio).clamp_max(length)
    first = start.floor()
    taps = []
    # No new sample is wider than this many old ones, beginning anywhere.
    for tap in range(int(ratio) + 2):
        left = first + tap
        overlap = (torch.minimum(end, left + 1) - torch.maximum(start, left)).clamp_min(0) / ratio
        # Sizes divide up to rounding: what is left of a sample there is no sample.
        overlap[overlap < 1e-9] = 0
        if overlap.any():
            taps.append((left.long().clamp_max(length - 1).to(device), overlap.float().to(device)))
    return taps


def resize_area(images: Tensor, height: int, width: int) -> Tensor:
    """float32 [..., H, W] -> [..., height, width], not larger: the mean over the area of each new pixel."""
    for dim, new_length in ((-2, height), (-1, width)):
        if images.shape[dim] == new_length:
            continue
        total: Tensor | None = None
        for index, weight in _plan(images.shape[dim], new_length, images.device):
            weight = weight[:, None] if dim == -2 else weight
            term = images.index_select(dim, index).mul_(weight)
            total = term if total is None else total.add_(term)
        assert total is not None
        images = total
    return images
