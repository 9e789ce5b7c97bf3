"""Flow without the camera's motion in torch, all pairs of a batch together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from m3flow.camera import thresholds
from m3flow.camera.selection import Selection
from m3flow.flow.base import Estimator
from m3flow.flow.fused import kernels
from m3flow.flow.image_ops import pixel_grid, sample
from m3flow.flow.torch_base import TorchEstimator
from m3flow.flow.transfer import to_device

if TYPE_CHECKING:
    from m3flow.flow.base import Array


@torch.no_grad()
def compensated(estimator: Estimator, scheme: str, frames: Array, step: int, selection: Selection) -> Array:
    """The flow of each pair without the camera's motion.

    uint8 [F, H, W] -> float32 [B, 2, H, W] of the kind of `frames`: the whole flow where the homography is
    the identity, 0 across cuts and between identical frames. On a GPU everything is launched and nothing waited for.
    """
    assert isinstance(estimator, TorchEstimator)
    images = estimator.bring(frames)
    previous, current = images[:-step], images[step:]
    identical = (previous == current).flatten(1).all(1)
    moves = (selection.homographies != np.eye(3)).any(axis=(1, 2))
    if moves.any():
        homographies = to_device(selection.homographies.astype(np.float32), images.device)
        moving, bars = (to_device(array, images.device) for array in (moves, selection.bars))
        without_camera = stabilised(current, homographies, previous, moving, bars)
        if scheme == "two-pass":
            estimator.sequence(images, step)
        result = _tensor(estimator(previous, without_camera))
    else:
        result = _tensor(estimator.sequence(images, step))
    # Exactly zero motion: Farneback gives up to 0.8 px at the right and lower edge.
    none = identical | to_device(selection.cut, images.device)
    result = torch.where(none[:, None, None, None], 0, result)
    return estimator.give_back(result, like=frames)


def _tensor(flow: Array) -> Tensor:
    assert isinstance(flow, Tensor)  # tensors in, tensors out
    return flow


def stabilised(
    current: Tensor, homographies: Tensor, previous: Tensor, moving: Tensor, bars: Tensor | None = None
) -> Tensor:
    """The current frames, in pairs with a `moving` camera (bool [B]) `resample`d into the previous frames' view."""
    fused = kernels("compensation_triton", str(current.device), "m3flow.camera")
    chosen = eager_stabilised if fused is None else fused.stabilised
    return chosen(current, homographies, previous, moving, bars)


def eager_stabilised(
    current: Tensor, homographies: Tensor, previous: Tensor, moving: Tensor, bars: Tensor | None = None
) -> Tensor:
    """`stabilised` by torch operations."""
    resampled = resample(current, homographies, previous, bars)
    return torch.where(moving.reshape(-1, *(1 for _ in current.shape[1:])), resampled, current)


def camera_flow(homographies: Tensor, height: int, width: int) -> Tensor:
    """The flow of the camera motion alone: [B, 3, 3] -> float32 [B, 2, H, W]."""
    return displace(homographies.new_zeros(len(homographies), 2, height, width), homographies)


def displace(flow: Tensor, matrices: Tensor) -> Tensor:
    """M (p + flow(p)) - p for every pixel p: [B, 2, H, W], [B, 3, 3] -> [B, 2, H, W]."""
    x, y = pixel_grid(*flow.shape[2:], flow.device)
    dx, dy = flow.unbind(1)
    to_x, to_y = x + dx, y + dy
    m = matrices[:, :, :, None, None]
    # The motion M q - q of the point q, with differences before products: M q and q are large and nearly equal.
    bend = m[:, 2, 0] * to_x + m[:, 2, 1] * to_y
    across = (m[:, 0, 0] - m[:, 2, 2]) * to_x + m[:, 0, 1] * to_y + m[:, 0, 2] - bend * to_x
    down = m[:, 1, 0] * to_x + (m[:, 1, 1] - m[:, 2, 2]) * to_y + m[:, 1, 2] - bend * to_y
    motion = torch.stack([across, down], 1) / (bend + m[:, 2, 2])[:, None]
    return flow + motion.nan_to_num(0, 0, 0)


def _trusted(x: Tensor, y: Tensor, height: int, width: int, bars: Tensor | None) -> Tensor:
    """Whether places [B, H, W] lie inside the picture's margin, and not in its bars [B, 4]."""
    hidden = torch.zeros(1, 4, device=x.device) if bars is None else bars
    top, bottom, left, right = (hidden + thresholds.MARGIN)[:, :, None, None].unbind(1)
    return (x >= left) & (x <= width - 1 - right) & (y >= top) & (y <= height - 1 - bottom)


def resample(current: Tensor, homographies: Tensor, previous: Tensor, bars: Tensor | None = None) -> Tensor:
    """The current frames seen from where the previous frames were filmed: uint8 [B, H, W] or [B, H, W, 3].

    Filled from the previous frame where the current one does not show the place, or only its outermost
    5 px: no motion is seen there. Their bars int32 [B, 4] are no part of what they show.
    """
    height, width = current.shape[1:3]
    grid_x, grid_y = pixel_grid(height, width, current.device)
    motion = camera_flow(homographies, height, width)
    x, y = grid_x + motion[:, 0], grid_y + motion[:, 1]
    channels = current[:, None] if current.ndim == 3 else current.permute(0, 3, 1, 2)
    moved = sample(channels.float(), x, y).round().clamp(0, 255).to(torch.uint8)
    moved = moved[:, 0] if current.ndim == 3 else moved.permute(0, 2, 3, 1)
    shown_there = _trusted(x, y, height, width, bars)
    return torch.where(shown_there if current.ndim == 3 else shown_there[..., None], moved, previous)
