"""Flow without the camera's motion in torch, all pairs of a batch together.

The schemes (benchmarks/camera.py measures them):

- prior: the estimator runs on the frames as they are; then one more iteration at the finest level between
  the previous and the resampled frame starts from that flow, or from the camera's where that explains the
  frames better. Farneback alone can do that.
- pyramid-prior: the estimator runs on the frames as they are; then the whole pyramid again on the same
  frames, drawn to the camera's motion where it was drawn to stillness. Farneback alone can do that.
- two-pass: the estimator runs on the frames as they are, and again on the previous frame and the current
  frame resampled into the previous one's view (Wang and Schmid 2013).
- one-pass: the camera is found from Farneback's flow, which costs little beside the other estimators', and
  the estimator runs once, on the previous and the resampled frame.

"auto" is one-pass where the estimator is not Farneback; with Farneback it is prior, and two-pass for the
pairs whose camera moves further than the prior reaches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from m3flow.camera import rules
from m3flow.camera.homography import find_homographies, frame_motion
from m3flow.flow.base import Estimator
from m3flow.flow.farneback import Farneback, box_sum
from m3flow.flow.parameters import FarnebackParameters
from m3flow.flow.resample import pixel_grid, sample
from m3flow.flow.torch_base import TorchEstimator

if TYPE_CHECKING:
    from m3flow.flow.base import Array

RADIUS = 6  # of the window in which two explanations are compared: Farneback's default window


def configured(scheme: str, estimator: Estimator) -> str:
    """What `scheme` comes to with this estimator: only Farneback can start from a prior."""
    if isinstance(estimator, Farneback):
        return "two-pass" if scheme == "one-pass" else scheme
    if scheme == "auto":
        return "one-pass"
    return "two-pass" if scheme in ("prior", "pyramid-prior") else scheme


@torch.no_grad()
def compensated(
    estimator: Estimator, scheme: str, frames: Array, step: int, seed: int
) -> tuple[Array, np.ndarray, np.ndarray, list[str]]:
    """The flow of each pair without the camera's motion, by a `configured` scheme.

    uint8 [F, H, W] -> (float32 [B, 2, H, W] of the kind of `frames`, homographies float32 [B, 3, 3],
    accepted bool [B], the scheme that ran for each pair: "still" where the camera does not move, "" where
    the homography was refused and the flow is whole).
    """
    assert isinstance(estimator, TorchEstimator)
    images = estimator.bring(frames)
    previous, current = images[:-step], images[step:]
    tracker = estimator if isinstance(estimator, Farneback) or scheme != "one-pass" else _farneback(estimator)
    flow = _tensor(tracker.sequence(images, step))
    homographies, accepted = find_homographies(previous, flow, seed=seed)
    identical = (previous == current).flatten(1).all(1)
    homographies = torch.where(identical[:, None, None], torch.eye(3, device=flow.device), homographies)
    accepted = accepted | identical
    motion, _ = frame_motion(homographies, *images.shape[1:])

    schemes = []
    for distance, good in zip(motion.tolist(), accepted.tolist(), strict=True):
        if not good or distance == 0:
            schemes.append("still" if good else "")
        elif scheme == "auto":
            schemes.append("prior" if distance <= rules.PRIOR_REACH else "two-pass")
        else:
            schemes.append(scheme)

    result = flow if tracker is estimator else torch.empty_like(flow)
    for name in sorted(set(schemes)):
        pairs = torch.tensor([i for i, taken in enumerate(schemes) if taken == name], device=flow.device)
        one, two, h = previous[pairs], current[pairs], homographies[pairs]
        if name in ("", "still"):
            if tracker is not estimator:
                result[pairs] = _flow(estimator, one, two)
        elif name == "prior":
            resampled = resample(two, h, one)
            start = better_start(one, resampled, remove_camera(flow[pairs], h))
            # In the resampled frame the camera stands still.
            result[pairs] = _with_prior(estimator, one, resampled, torch.eye(3).expand_as(h), start)
        elif name == "pyramid-prior":
            residual = remove_camera(_with_prior(estimator, one, two, h, None), h)
            result[pairs] = residual.mul_(shown(h, *images.shape[1:])[:, None])
        else:
            result[pairs] = _flow(estimator, one, resample(two, h, one))
    # No motion, and exactly none: Farneback sees up to 0.8 px at the right and lower edge.
    result[identical] = 0
    return (
        estimator.give_back(result, like=frames),
        homographies.cpu().numpy(),
        accepted.cpu().numpy(),
        schemes,
    )


def _flow(estimator: TorchEstimator, previous: Tensor, current: Tensor) -> Tensor:
    return _tensor(estimator(previous, current))


def _tensor(flow: Array) -> Tensor:
    assert isinstance(flow, Tensor)  # tensors in, tensors out
    return flow


def _farneback(estimator: TorchEstimator) -> Farneback:
    """The flow that finds the camera for an estimator of which one pass costs more."""
    return Farneback(FarnebackParameters(), device=estimator.device)


def _with_prior(
    estimator: Estimator, previous: Tensor, current: Tensor, homographies: Tensor, start: Tensor | None
) -> Tensor:
    assert isinstance(estimator, Farneback)
    return estimator.with_prior(previous, current, homographies, initial=start)


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
    margin = rules.MARGIN
    return (x >= margin) & (x <= width - 1 - margin) & (y >= margin) & (y <= height - 1 - margin)


def resample(current: Tensor, homographies: Tensor, previous: Tensor) -> Tensor:
    """The current frames seen from where the previous frames were filmed: uint8 [B, H, W].

    Filled from the previous frame where the current one does not show the place, or only its outermost
    5 px: no motion is seen there.
    """
    height, width = current.shape[1:]
    grid_x, grid_y = pixel_grid(height, width, current.device)
    motion = camera_flow(homographies, height, width)
    x, y = grid_x + motion[:, 0], grid_y + motion[:, 1]
    moved = sample(current[:, None].float(), x, y)[:, 0].round().clamp(0, 255).to(torch.uint8)
    return torch.where(_trusted(x, y, height, width), moved, previous)
