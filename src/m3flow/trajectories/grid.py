"""The grid of starting points, and helpers that let NumPy and torch share one tracker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from m3flow.flow.base import is_tensor

if TYPE_CHECKING:
    from m3flow.flow.base import Array

GRID = 8
OFFSET = 4


def namespace(array: Array) -> Any:
    """NumPy or torch: NumPy 2 and torch have the same names for everything used here, so one tracker serves both."""
    if is_tensor(array):
        import torch

        return torch
    return np


def beside(flow: Array, array: Array | None) -> Array | None:
    """`array` on the device of `flow`: as NumPy, or as a tensor."""
    if array is None or not is_tensor(flow):
        return array
    import torch

    return torch.as_tensor(array, device=flow.device)


def carried(homographies: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """The points [N, h, w] moved by the camera [N, 3, 3] of their window."""
    m = homographies[:, :, :, None, None]
    scale = m[:, 2, 0] * x + m[:, 2, 1] * y + m[:, 2, 2]
    carried_x = (m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2]) / scale
    carried_y = (m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]) / scale
    return carried_x, carried_y
