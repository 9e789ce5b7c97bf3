"""Red-black successive over-relaxation for the linear systems of variational optical flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass
class System:
    """A 2 x 2 system for the increment (du, dv) at every pixel, coupled to its four neighbours:

        a11 du + a12 dv + sum over neighbours of link · (du - du of the neighbour) = right u
        a12 du + a22 dv + sum over neighbours of link · (dv - dv of the neighbour) = right v

    Attributes
    ----------
    a11, a12, a22: [B, H, W]; the data term, a positive semidefinite matrix.
    right: [B, 2, H, W].
    link_x: [B, H, W - 1], nonnegative; between (x, y) and (x + 1, y).
    link_y: [B, H - 1, W], nonnegative; between (x, y) and (x, y + 1).
    """

    a11: Tensor
    a12: Tensor
    a22: Tensor
    right: Tensor
    link_x: Tensor
    link_y: Tensor


def solve(system: System, increment: Tensor, *, omega: float, iterations: int) -> Tensor:
    """`increment` [B, 2, H, W] after `iterations` of red-black SOR.

    Pixels with even x + y are updated first, then the others from the new values, so the result does not
    depend on the number of threads. Each half-sweep computes the whole image and multiplies the step by the
    mask of its colour: twice the arithmetic, but contiguous memory access.
    """
    height, width = increment.shape[-2:]
    left, right = pad(system.link_x, (1, 0))[:, None], pad(system.link_x, (0, 1))[:, None]
    up, down = pad(system.link_y, (0, 0, 1, 0))[:, None], pad(system.link_y, (0, 0, 0, 1))[:, None]
    links = (left + right + up + down)[:, 0]
    diagonals = (system.a11 + links, system.a22 + links)
    colour = torch.arange(height, device=increment.device)[:, None] + torch.arange(
        width, device=increment.device
    )
    steps = [
        [torch.where(colour % 2 == parity, omega / diagonal, 0) for diagonal in diagonals]
        for parity in (0, 1)
    ]
    # Padded with zeros, every neighbour is a view; the links across the border are zero.
    framed = pad(increment, (1, 1, 1, 1))
    inner = framed[..., 1:-1, 1:-1]
    u, v = inner[:, 0], inner[:, 1]
    west, east = framed[..., 1:-1, :-2], framed[..., 1:-1, 2:]
    north, south = framed[..., :-2, 1:-1], framed[..., 2:, 1:-1]
    for _ in range(iterations):
        for step_u, step_v in steps:
            total = torch.addcmul(system.right, left, west)
            total.addcmul_(right, east).addcmul_(up, north).addcmul_(down, south)
            residual_u, residual_v = total[:, 0], total[:, 1]
            residual_u.addcmul_(system.a12, v, value=-1).addcmul_(diagonals[0], u, value=-1)
            u.addcmul_(step_u, residual_u)
            residual_v.addcmul_(system.a12, u, value=-1).addcmul_(diagonals[1], v, value=-1)
            v.addcmul_(step_v, residual_v)
    return inner.contiguous()


def divergence(flow: Tensor, link_x: Tensor, link_y: Tensor) -> Tensor:
    """The sum over the neighbours of link · (flow of the neighbour - flow); no flux across the border."""
    stream_x = link_x[:, None] * (flow[..., :, 1:] - flow[..., :, :-1])
    stream_y = link_y[:, None] * (flow[..., 1:, :] - flow[..., :-1, :])
    result = pad(stream_x, (0, 1)) - pad(stream_x, (1, 0))
    return result + pad(stream_y, (0, 0, 0, 1)) - pad(stream_y, (0, 0, 1, 0))
