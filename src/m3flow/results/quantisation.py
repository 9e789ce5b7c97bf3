"""Displacements as 8-bit levels and back; the quantisation is defined here and nowhere else.

Convention
----------
level = round(255 (v + bound) / (2 bound)), saturated to 0..255, for a displacement v in pixels.
Zero lies half-way between levels 127 and 128, so neither stands for it exactly. Both are read back as
exactly 0: a still pixel stays still, and a motion to the left is treated like one to the right. Every
other level is read back as level · 2 bound / 255 − bound, within bound / 255 of what was written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from m3flow.flow.base import is_tensor

if TYPE_CHECKING:
    from m3flow.flow.base import Array


@dataclass(frozen=True)
class Piece:
    """The quantised motion of some consecutive frame pairs of a video.

    Attributes
    ----------
    levels: uint8 [n, 2, H, W].
    homographies: float32 [n, 3, 3], the camera's motion taken out of the levels; None without compensation.
    """

    levels: np.ndarray
    homographies: np.ndarray | None = None


def quantise(flow: Array, bound: float) -> Array:
    """float32 [T, ...] in pixels -> uint8 [T, ...] levels; of the kind (NumPy, torch) of `flow`, on its device."""
    scale = 255 / (2 * bound)
    if is_tensor(flow):
        import torch

        scaled: Any = flow * scale + 127.5
        return scaled.round_().clamp_(0, 255).to(torch.uint8)
    levels = np.empty(flow.shape, np.uint8)
    # Frame by frame in one buffer, so that the intermediate values stay in the cache.
    values = np.empty(flow.shape[1:], np.float32)
    for frame, target in zip(np.asarray(flow), levels, strict=True):
        np.multiply(frame, np.float32(scale), out=values)
        values += np.float32(127.5)
        np.rint(values, out=values)
        np.clip(values, 0, 255, out=values)
        target[...] = values
    return levels


def table(bound: float) -> np.ndarray:
    """float32 [256]: the displacement in pixels that each level stands for."""
    values = (np.arange(256) * (2 * bound / 255) - bound).astype(np.float32)
    values[127:129] = 0
    return values


def restore(levels: np.ndarray, bound: float) -> np.ndarray:
    """uint8 [...] levels -> float32 [...] in pixels."""
    return table(bound)[levels]
