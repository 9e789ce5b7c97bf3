"""One iteration of Farnebäck's flow at one pyramid level, as torch operations.

For the layout of expansions and equations see `m3flow.flow.farneback`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from m3flow.flow.constants import constants
from m3flow.flow.image_ops import correlate, inside, pad, sample

BORDER_TRUST = (0.14, 0.14, 0.4472, 0.4472, 0.4472)  # weight of the pixels at distance 0..4 from a border
REGULARISATION = 1e-3  # added to the determinant of G


class Level(NamedTuple):
    """Constants of a pyramid level."""

    x: Tensor  # [W], the column of each pixel
    y: Tensor  # [H, 1], the row of each pixel
    trust: Tensor  # [H, W], the weight of each pixel's equations


@constants(maxsize=32)
def make_level(height: int, width: int, count: int, device: torch.device) -> Level:
    """The constants of a level; `count` divides the equations (the number of pixels of a box window)."""

    def line(length: int) -> Tensor:
        trust = torch.ones(length)
        for distance, weight in enumerate(BORDER_TRUST[:length]):
            trust[distance] *= weight
            trust[length - 1 - distance] *= weight
        return trust

    # The weights apply to the coefficients; the equations are products of two coefficients.
    trust = (line(height)[:, None] * line(width)).square() / count
    x = torch.arange(width, dtype=torch.float32, device=device)
    y = torch.arange(height, dtype=torch.float32, device=device)
    return Level(x, y[:, None], trust.to(device))


def refine(iterate: Callable[..., Tensor], one: Tensor, two: Tensor, flow: Tensor, *rest: Any) -> Tensor:
    """The flow after several iterations; `rest` holds the last arguments of `iterate` and their number."""
    *constants, iterations = rest
    for _ in range(iterations):
        flow = iterate(one, two, flow, *constants)
    return flow


def iterate(
    one: Tensor,
    two: Tensor,
    flow: Tensor,
    level: Level,
    window: int,
    taps: list[float] | None,
) -> Tensor:
    """The flow [B, 2, H, W] after one more iteration, from the expansions [B, 5, H, W] of both frames.

    taps: the weights of a Gaussian window; None: a box of `window` x `window` pixels.
    """
    equations = linear_equations(one, two, flow, level)
    if taps is None:
        equations = box_sum(box_sum(equations, window // 2, 2), window // 2, 3)
    else:
        equations = correlate(correlate(equations, taps, 2), taps, 3)
    return solve(equations)


def linear_equations(one: Tensor, two: Tensor, flow: Tensor, level: Level) -> Tensor:
    """The equations Gxx, Gyy, Gxy, hx, hy [B, 5, H, W] of each pixel, linearised at the current flow."""
    dx, dy = flow[:, 0], flow[:, 1]
    x, y = level.x + dx, level.y + dy
    moved = sample(two, x, y)
    # Where a pixel leaves the frame only the first frame's curvature is known.
    known = inside(x, y, *one.shape[2:])[:, None]
    slope_x, slope_y = (one[:, :2] - moved[:, :2].mul_(known)).unbind(1)
    xx, yy, xy = torch.where(known, moved[:, 2:], one[:, 2:]).add_(one[:, 2:]).unbind(1)
    right_x = slope_x + xx * dx + xy * dy
    right_y = slope_y + xy * dx + yy * dy
    mixed = xy * xy
    equations = torch.stack(
        [
            xx * xx + mixed,
            yy * yy + mixed,
            (xx + yy) * xy,
            xx * right_x + xy * right_y,
            xy * right_x + yy * right_y,
        ],
        1,
    )
    return equations.mul_(level.trust)


def box_sum(values: Tensor, radius: int, dim: int) -> Tensor:
    """The sum of 2 · radius + 1 neighbours along `dim`, borders replicated.

    Computed by doubling: from sums of 2, 4, 8 … neighbours, selected by the bits of 2 · radius + 1.
    """
    length, count = values.shape[dim], 2 * radius + 1
    block, size = pad(values, radius, dim), 1
    total, done = block.narrow(dim, 0, length), 1
    while 2 * size <= count:
        room = block.shape[dim] - size
        block = block.narrow(dim, 0, room) + block.narrow(dim, size, room)
        size *= 2
        if count & size:
            total = total + block.narrow(dim, done, length)
            done += size
    return total


def solve(equations: Tensor) -> Tensor:
    """The solution d [B, 2, H, W] of G d = h, regularised towards 0."""
    xx, yy, xy, right_x, right_y = equations.unbind(1)
    inverse = (xx * yy - xy * xy).add_(REGULARISATION).reciprocal_()
    solution = torch.stack([yy * right_x - xy * right_y, xx * right_y - xy * right_x], 1)
    return solution.mul_(inverse[:, None])
