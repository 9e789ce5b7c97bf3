"""Reading image batches between their pixels by cubic convolution."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

# Of Keys' family (1981), the member that OpenCV uses.
A = -0.75
MARGIN = 4


def sample_bicubic(images: Tensor, x: Tensor, y: Tensor, border: Literal["replicate", "zero"]) -> Tensor:
    """Reads of float32 [B, C, H, W] at x, y [B, h, w] -> [B, C, h, w]: `cv2.remap` with INTER_CUBIC.

    Whole coordinates are read exactly. `grid_sample`, in normalised coordinates, misses them by 1e-5 px;
    where frames do not move that is the difference between no motion and some, and TV-L1's warps multiply
    it wherever the image falls to zero at its border.
    """
    batch, channels, height, width = images.shape
    mode, reach = ("constant", 2) if border == "zero" else ("replicate", 0)
    framed = pad(images, (MARGIN, MARGIN, MARGIN, MARGIN), mode=mode).flatten(2)
    # Positions further outside than `reach` read the same as those there.
    x, y = x.clamp(-reach, width - 1 + reach), y.clamp(-reach, height - 1 + reach)
    left, top = x.floor(), y.floor()
    weights_x, weights_y = _weights(x - left), _weights(y - top)
    stride = width + 2 * MARGIN
    first = ((top.long() + MARGIN - 1) * stride + left.long() + MARGIN - 1).view(batch, 1, -1)
    result = torch.zeros_like(x)[:, None].repeat(1, channels, 1, 1)
    for row, weight_y in enumerate(weights_y):
        line = torch.zeros_like(result)
        for column, weight_x in enumerate(weights_x):
            place = (first + (row * stride + column)).expand(-1, channels, -1)
            line.addcmul_(weight_x[:, None], framed.gather(2, place).view_as(line))
        result.addcmul_(weight_y[:, None], line)
    return result


def _weights(offset: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For the pixels at -1, 0, 1 and 2 of a point that lies `offset` in [0, 1) after pixel 0."""

    def near(distance: Tensor) -> Tensor:
        return ((A + 2) * distance - (A + 3)) * distance * distance + 1

    def far(distance: Tensor) -> Tensor:
        return ((A * distance - 5 * A) * distance + 8 * A) * distance - 4 * A

    return far(offset + 1), near(offset), near(1 - offset), far(2 - offset)
