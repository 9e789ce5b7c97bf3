"""Changes of exposure between the frames of many pairs at once, in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from m3flow.camera import thresholds


def brightness_change(frames: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """The gains and offsets that give the current frames the previous ones' brightness, and which pairs differ.

    uint8 [F, H, W] -> float32 [2, B], bool [B]. As `m3flow.camera.candidates_opencv`.
    """
    levels, cut = sorted_levels(frames)
    quantiles = levels[:, cut : levels.shape[1] - cut].float()
    x, y = quantiles[step:], quantiles[:-step]
    x_mean, y_mean = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    spread = (x - x_mean).square().sum(1, keepdim=True).clamp_min(1e-6)
    gain = (((x - x_mean) * (y - y_mean)).sum(1, keepdim=True) / spread).clamp(0.5, 2)
    offset = y_mean - gain * x_mean
    before, after = (y - x).abs().mean(1), (gain * x + offset - y).abs().mean(1)
    differs = before >= thresholds.BRIGHTNESS_DIFFERENCE
    differs &= after <= thresholds.BRIGHTNESS_LEFT * before
    return torch.stack([gain[:, 0], offset[:, 0]]), differs


def sorted_levels(frames: Tensor) -> tuple[Tensor, int]:
    """Grey levels of every sixth pixel in order, uint8 [F, n], and how many of them to leave out at both ends: 5 %."""
    levels = frames[:, 2::6, 2::6].flatten(1).sort(1).values
    return levels, levels.shape[1] // 20
