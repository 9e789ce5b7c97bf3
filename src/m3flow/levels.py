"""Displacements as 8-bit levels and back; the only place where the quantisation is written down.

Convention
----------
level = round(255 (v + bound) / (2 bound)), saturated to 0..255, for a displacement v in pixels.
Zero lies half-way between levels 127 and 128, so neither stands for it exactly. Both are read back as
exactly 0: a still pixel stays still, and a motion to the left is treated like one to the right. Every
other level is read back as level · 2 bound / 255 − bound, within bound / 255 of what was written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from m3flow.flow.base import is_tensor

if TYPE_CHECKING:
    from m3flow.flow.base import Array


def quantise(flow: Array, bound: float) -> Array:
    """float32 [...] in pixels -> uint8 [...] levels; of the kind (NumPy, torch) of `flow`, on its device."""
    scaled = flow * (255 / (2 * bound)) + 127.5
    if is_tensor(scaled):
        import torch

        return scaled.round_().clamp_(0, 255).to(torch.uint8)
    np.rint(scaled, out=scaled)
    np.clip(scaled, 0, 255, out=scaled)
    return scaled.astype(np.uint8)


def table(bound: float) -> np.ndarray:
    """float32 [256]: the displacement in pixels that each level stands for."""
    values = (np.arange(256) * (2 * bound / 255) - bound).astype(np.float32)
    values[127:129] = 0
    return values


def restore(levels: np.ndarray, bound: float) -> np.ndarray:
    """uint8 [...] levels -> float32 [...] in pixels."""
    return table(bound)[levels]
