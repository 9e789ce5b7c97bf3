"""Backward flow, from each pair's later frame to its earlier one, in the same view as the forward flow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from m3flow.flow.base import Estimator, is_tensor

if TYPE_CHECKING:
    from m3flow.flow.base import Array


SHORT_SIDE = 64
"""Frames with a shorter short side are not halved."""


def backward_flow(estimator: Estimator, frames: Array, step: int, homographies: Array | None) -> Array:
    """The flow from frame t + step to frame t for all t: uint8 [F, H, W] -> float32 [F - step, 2, H, W].

    It is computed at half the resolution, at a quarter of the cost: it is only compared with the forward flow, and
    detects errors as well as at full resolution (benchmarks/leaderboard.py).

    Parameters
    ----------
    homographies: float32 [F - step, 3, 3], the camera motion removed from the forward flow: the later frame is
        then resampled into the earlier one's view, as for the forward flow. None: the frames as they are.
    """
    previous, current = frames[:-step], frames[step:]
    if homographies is not None:
        current = _resampled(current, homographies, previous)
    height, width = (int(side) for side in frames.shape[1:3])
    if min(height, width) < SHORT_SIDE:
        return estimator(current, previous)
    half = (height + 1) // 2, (width + 1) // 2
    return _enlarged(estimator(_shrunk(current, *half), _shrunk(previous, *half)), height, width)


def _shrunk(frames: Array, height: int, width: int) -> Array:
    """Frames uint8 [F, H, W] or [F, H, W, 3] at a smaller size: each pixel the mean over its area, rounded."""
    if is_tensor(frames):
        import torch

        from m3flow.flow.image_ops import resize_area

        images = torch.as_tensor(frames).to(torch.float32)
        if images.ndim == 3:
            return resize_area(images, height, width).round().to(torch.uint8)
        channels = [resize_area(channel, height, width) for channel in images.unbind(-1)]
        return torch.stack(channels, -1).round().to(torch.uint8)
    return np.stack(
        [cv2.resize(np.asarray(frame), (width, height), interpolation=cv2.INTER_AREA) for frame in frames]
    )


def _enlarged(flow: Array, height: int, width: int) -> Array:
    """Flow float32 [B, 2, h, w] at a larger size, in the pixels of that size."""
    scales = np.array([width / flow.shape[3], height / flow.shape[2]], np.float32)
    if is_tensor(flow):
        import torch

        from m3flow.flow.image_ops import resize
        from m3flow.flow.transfer import constant

        larger = resize(torch.as_tensor(flow), height, width)
        return larger * constant(tuple(scales.tolist()), larger.device)[:, None, None]
    return np.stack(
        [
            np.stack([cv2.resize(channel, (width, height)) for channel in np.asarray(pair)])
            * scales[:, None, None]
            for pair in flow
        ]
    )


def _resampled(current: Array, homographies: Array, previous: Array) -> Array:
    """The later frames, resampled into the earlier ones' view if the camera moves."""
    if is_tensor(current):
        import torch

        from m3flow.camera import compensation_torch
        from m3flow.flow.transfer import to_device

        if not is_tensor(homographies):
            homographies = to_device(np.asarray(homographies), current.device)
        matrices = torch.as_tensor(homographies)
        moving = (matrices != torch.eye(3, device=current.device)).flatten(1).any(1)
        later, earlier = torch.as_tensor(current), torch.as_tensor(previous)
        return compensation_torch.stabilised(later, matrices, earlier, moving)
    from m3flow.camera.compensation_opencv import resample

    return np.stack(
        [
            np.asarray(later) if (matrix == np.eye(3)).all() else resample(later, matrix, earlier)
            for later, matrix, earlier in zip(current, homographies, previous, strict=True)
        ]
    )
