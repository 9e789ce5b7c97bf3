"""Flow without the camera's motion in torch, all pairs of a batch together.

The schemes (benchmarks/camera.py measures them):

- one-pass: the camera is found from tracked corners, the current frame is resampled into the previous
  frame's view, and the estimator runs once, on the previous and the resampled frame.
- prior: the estimator runs on the frames as they are; then one more iteration at the finest level between
  the previous and the resampled frame starts from that flow, or from the camera's where that explains the
  frames better. Farneback alone can do that.
- pyramid-prior: the estimator runs on the frames as they are; then the whole pyramid again on the same
  frames, drawn to the camera's motion where it was drawn to stillness. Farneback alone can do that.
- two-pass: the estimator runs on the frames as they are, and again on the previous and the resampled frame
  (Wang and Schmid 2013). The second flow is the one kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from m3flow.camera import thresholds
from m3flow.camera.homography_torch import find_homographies
from m3flow.flow.base import Estimator, in_grey
from m3flow.flow.farneback import Farneback
from m3flow.flow.farneback_iteration import box_sum
from m3flow.flow.image_ops import pixel_grid, sample
from m3flow.flow.torch_base import TorchEstimator

if TYPE_CHECKING:
    from m3flow.flow.base import Array

RADIUS = 6  # of the window in which two explanations are compared: Farneback's default window


@torch.no_grad()
def compensated(
    estimator: Estimator, scheme: str, frames: Array, step: int, seed: int
) -> tuple[Array, np.ndarray, np.ndarray, list[str]]:
    """The flow of each pair without the camera's motion, by a scheme that the estimator can run.

    uint8 [F, H, W] -> (float32 [B, 2, H, W] of the kind of `frames`, homographies float32 [B, 3, 3],
    accepted bool [B], the scheme that ran for each pair: "still" where the camera does not move, "" where
    the homography was refused and the flow is whole).
    """
    assert isinstance(estimator, TorchEstimator)
    images = estimator.bring(frames)
    previous, current = images[:-step], images[step:]
    homographies, accepted = find_homographies(in_grey(previous), in_grey(current), seed=seed)
    identical = (previous == current).flatten(1).all(1)
    identity = torch.eye(3, device=images.device)
    homographies = torch.where(identical[:, None, None], identity, homographies)
    accepted = accepted | identical
    moving = (homographies != identity).flatten(1).any(1)

    if not moving.any():
        result = _tensor(estimator.sequence(images, step))
    elif scheme == "one-pass":
        resampled = resample(current, homographies, previous)
        result = _flow(estimator, previous, chosen(moving, resampled, current))
    else:
        result = _tensor(estimator.sequence(images, step))
        one, two, h = previous[moving], current[moving], homographies[moving]
        result[moving] = _second_look(estimator, scheme, one, two, h, result[moving])
    # No motion, and exactly none: Farneback sees up to 0.8 px at the right and lower edge.
    result[identical] = 0
    schemes = [
        scheme if moves else "still" if good else ""
        for moves, good in zip(moving.tolist(), accepted.tolist(), strict=True)
    ]
    return (
        estimator.give_back(result, like=frames),
        homographies.cpu().numpy(),
        accepted.cpu().numpy(),
        schemes,
    )


def _second_look(
    estimator: TorchEstimator,
    scheme: str,
    previous: Tensor,
    current: Tensor,
    homographies: Tensor,
    flow: Tensor,
) -> Tensor:
    """The residual of pairs whose whole flow is known."""
    if scheme == "pyramid-prior":
        assert isinstance(estimator, Farneback)
        whole = estimator.with_prior(previous, current, homographies)
        residual = remove_camera(whole, homographies)
        return residual * shown(homographies, *flow.shape[2:])[:, None]
    resampled = resample(current, homographies, previous)
    if scheme == "prior":
        assert isinstance(estimator, Farneback)
        start = better_start(previous, resampled, remove_camera(flow, homographies))
        # In the resampled frame the camera stands still.
        still = torch.eye(3, device=flow.device).expand_as(homographies)
        return estimator.with_prior(previous, resampled, still, initial=start)
    return _flow(estimator, previous, resampled)


def _flow(estimator: TorchEstimator, previous: Tensor, current: Tensor) -> Tensor:
    return _tensor(estimator(previous, current))


def _tensor(flow: Array) -> Tensor:
    assert isinstance(flow, Tensor)  # tensors in, tensors out
    return flow


def camera_flow(homographies: Tensor, height: int, width: int) -> Tensor:
    """The flow that the camera alone makes: [B, 3, 3] -> float32 [B, 2, H, W]."""
    return displace(homographies.new_zeros(len(homographies), 2, height, width), homographies)


def remove_camera(flow: Tensor, homographies: Tensor) -> Tensor:
    """The residual H^-1 (p + flow) - p: float32 [B, 2, H, W] and [B, 3, 3] -> float32 [B, 2, H, W]."""
    # Inverted on the CPU in float64: B small matrices, and float32 would cost up to 1e-4 px.
    inverse = torch.linalg.inv(homographies.cpu().double()).to(homographies)
    return displace(flow, inverse)


def displace(flow: Tensor, matrices: Tensor) -> Tensor:
    """M (p + flow(p)) - p for every pixel p: [B, 2, H, W], [B, 3, 3] -> [B, 2, H, W]."""
    x, y = pixel_grid(*flow.shape[2:], flow.device)
    dx, dy = flow.unbind(1)
    to_x, to_y = x + dx, y + dy
    m = matrices[:, :, :, None, None]
    # The motion M q - q of the point q, differences before products: M q and q are large and nearly equal.
    bend = m[:, 2, 0] * to_x + m[:, 2, 1] * to_y
    across = (m[:, 0, 0] - m[:, 2, 2]) * to_x + m[:, 0, 1] * to_y + m[:, 0, 2] - bend * to_x
    down = m[:, 1, 0] * to_x + (m[:, 1, 1] - m[:, 2, 2]) * to_y + m[:, 1, 2] - bend * to_y
    motion = torch.stack([across, down], 1) / (bend + m[:, 2, 2])[:, None]
    return flow + motion.nan_to_num(0, 0, 0)


def better_start(previous: Tensor, resampled: Tensor, residual: Tensor) -> Tensor:
    """The residual [B, 2, H, W] where it explains the frames better than no residual does; 0 elsewhere.

    Without texture the flow is 0 whatever the camera did, and its residual is wrong by the camera's whole
    motion: too far for one iteration to come back.
    """
    x, y = pixel_grid(*residual.shape[2:], residual.device)
    moved = sample(resampled[:, None].float(), x + residual[:, 0], y + residual[:, 1])[:, 0]
    gain = (resampled.float() - previous).abs_() - (moved - previous).abs_()
    gain = box_sum(box_sum(gain, RADIUS, 1), RADIUS, 2)
    return residual * (gain > 0)[:, None]


def shown(homographies: Tensor, height: int, width: int) -> Tensor:
    """Which pixels of the previous frame the current frame shows, 5 px inside its edge: bool [B, H, W]."""
    x, y = pixel_grid(height, width, homographies.device)
    motion = camera_flow(homographies, height, width)
    return _trusted(x + motion[:, 0], y + motion[:, 1], height, width)


def _trusted(x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
    margin = thresholds.MARGIN
    return (x >= margin) & (x <= width - 1 - margin) & (y >= margin) & (y <= height - 1 - margin)


def resample(current: Tensor, homographies: Tensor, previous: Tensor) -> Tensor:
    """The current frames seen from where the previous frames were filmed: uint8 [B, H, W] or [B, H, W, 3].

    Filled from the previous frame where the current one does not show the place, or only its outermost
    5 px: no motion is seen there.
    """
    height, width = current.shape[1:3]
    grid_x, grid_y = pixel_grid(height, width, current.device)
    motion = camera_flow(homographies, height, width)
    x, y = grid_x + motion[:, 0], grid_y + motion[:, 1]
    channels = current[:, None] if current.ndim == 3 else current.permute(0, 3, 1, 2)
    moved = sample(channels.float(), x, y).round().clamp(0, 255).to(torch.uint8)
    moved = moved[:, 0] if current.ndim == 3 else moved.permute(0, 2, 3, 1)
    shown_there = _trusted(x, y, height, width)
    return torch.where(shown_there if current.ndim == 3 else shown_there[..., None], moved, previous)


def chosen(which: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Of each pair the first where `which` [B], else the second: [B, ...]."""
    return torch.where(which.reshape(-1, *(1 for _ in one.shape[1:])), one, other)
