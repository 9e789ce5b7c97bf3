"""Variational refinement of a dense flow, with the results of `cv2.VariationalRefinement`.

Brox and Malik, "Large displacement optical flow", PAMI 2011, without the matching term: constancy of grey
values and of gradients, each normalised by its derivatives, and smoothness of the flow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m3flow.flow.image_ops import correlate, pixel_grid, sample
from m3flow.flow.sor import System, divergence, solve

ALPHA, GAMMA, DELTA = 20.0, 10.0, 5.0
OMEGA, SOR_ITERATIONS = 1.6, 5
ZETA = 0.1
# Not halved, as in OpenCV; the weights above belong to these derivatives.
DIFFERENCE = [-1.0, 0.0, 1.0]


def refine(previous: Tensor, current: Tensor, flow: Tensor, iterations: int, epsilon: float) -> Tensor:
    """The flow float32 [B, 2, H, W] after `iterations` fixed-point iterations.

    previous, current: float32 [B, H, W], grey values from 0 to 255.
    epsilon: where a difference in the penalties begins to count as large: 0.001 in `cv2.VariationalRefinement`, 0.01
        in `cv2.DISOpticalFlow`.
    """
    x, y = pixel_grid(*previous.shape[-2:], previous.device)
    warped = sample(current[:, None], flow[:, 0] + x, flow[:, 1] + y)[:, 0]
    mean, iz = (previous + warped) / 2, warped - previous
    ix, iy = (correlate(mean, DIFFERENCE, dim) for dim in (-1, -2))
    ixz, iyz = (correlate(iz, DIFFERENCE, dim) for dim in (-1, -2))
    ixx, ixy = (correlate(ix, DIFFERENCE, dim) for dim in (-1, -2))
    iyy = correlate(iy, DIFFERENCE, -2)
    # Dividing a constraint by its derivatives turns a difference of grey values into a distance in pixels.
    norm = 1 / (ix * ix + iy * iy + ZETA**2)
    norm_x = 1 / (ixx * ixx + ixy * ixy + ZETA**2)
    norm_y = 1 / (iyy * iyy + ixy * ixy + ZETA**2)

    increment = torch.zeros_like(flow)
    for _ in range(iterations):
        u, v = increment.unbind(1)
        grey = (iz + ix * u + iy * v).square_() * norm
        weight = DELTA / 2 * norm / (grey + epsilon**2).sqrt_()
        edges = (ixz + ixx * u + ixy * v).square_() * norm_x + (iyz + ixy * u + iyy * v).square_() * norm_y
        weight_x = GAMMA / 2 / (edges + epsilon**2).sqrt_()
        weight_x, weight_y = weight_x * norm_x, weight_x * norm_y
        link_x, link_y = _links(flow + increment, epsilon)
        right = divergence(flow, link_x, link_y)
        right[:, 0] -= weight * ix * iz + weight_x * ixx * ixz + weight_y * ixy * iyz
        right[:, 1] -= weight * iy * iz + weight_x * ixy * ixz + weight_y * iyy * iyz
        system = System(
            # The constant bounds the increment where the data term vanishes.
            a11=weight * ix * ix + weight_x * ixx * ixx + weight_y * ixy * ixy + ZETA**2,
            a12=weight * ix * iy + weight_x * ixx * ixy + weight_y * ixy * iyy,
            a22=weight * iy * iy + weight_x * ixy * ixy + weight_y * iyy * iyy + ZETA**2,
            right=right,
            link_x=link_x,
            link_y=link_y,
        )
        increment = solve(system, increment, omega=OMEGA, iterations=SOR_ITERATIONS)
    return flow + increment


def _links(flow: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Smoothness weights to the right and the lower neighbour of each pixel, from forward differences.

    float32 [B, 2, H, W] -> [B, H, W - 1] and [B, H - 1, W].
    """
    slope = torch.zeros_like(flow[:, 0])
    slope[:, :, :-1] += (flow[..., :, 1:] - flow[..., :, :-1]).square_().sum(1)
    slope[:, :-1, :] += (flow[..., 1:, :] - flow[..., :-1, :]).square_().sum(1)
    weight = ALPHA / 2 / slope.add_(epsilon**2).sqrt_()
    return weight[:, :, :-1], weight[:, :-1, :]
