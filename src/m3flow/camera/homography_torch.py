"""Homographies from matches, many frame pairs at once, in torch.

Hypotheses from four matches each are scored by their truncated squared transfer error (MSAC, Torr and
Zisserman 2000) and the best is refined by reweighted least squares. Further homographies are fitted to the
outliers of those before. Elementwise operations throughout: no pair depends on another, or on TF32.

Convention
----------
As in `m3flow.camera.geometry`: a homography maps (x, y, 1) of the previous frame, in pixels, to the current
frame. The fit works in coordinates centred on the frame and divided by half its longer side.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from m3flow.flow.transfer import constant

HYPOTHESES = 128
FIRST_REFINEMENTS = 2  # before a homography's inliers are left out of the next fit
REFINEMENTS = 4  # of all homographies together
RIDGE = 1e-6  # keeps pairs without enough matches solvable; far below the weight of any real match
SMALLEST = 1e-6  # scale of a point in front of the camera


def fit_successively(
    start: Tensor, end: Tensor, valid: Tensor, *, count: int, inlier: float, outlier: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Robust homographies for each pair, each fitted to the matches not explained by the previous ones.

    start, end: float32 [B, N, 2] in centred coordinates; valid: bool [B, N].
    inlier, outlier: the distance up to which a match is explained, and from which it is left to the next fit.

    Returns (float32 [B, count, 3, 3], the number of inliers of each among its matches [B, count]).
    """
    found, matches, left = [], [], valid
    for _ in range(count):
        homography = fit(start, end, left, inlier, seed)
        found.append(homography)
        matches.append(left)
        left = left & (squared_transfer_error(homography, start, end) > outlier * outlier)
    refined, weights = torch.stack(found, 1).flatten(0, 1), torch.stack(matches, 1).flatten(0, 1)
    from_start, to_end = (points[:, None].expand(-1, count, -1, -1).flatten(0, 1) for points in (start, end))
    limit = inlier * inlier
    for _ in range(REFINEMENTS):
        refined = gauss_newton_step(refined, from_start, to_end, weights, limit)
    inliers = ((squared_transfer_error(refined, from_start, to_end) <= limit) & weights).sum(1)
    return refined.view(-1, count, 3, 3), inliers.view(-1, count)


def fit(start: Tensor, end: Tensor, valid: Tensor, inlier: float, seed: int) -> Tensor:
    """The homography with the least truncated squared transfer error for each pair: float32 [B, 3, 3]."""
    batch = len(start)
    count = valid.sum(1)
    in_order = valid.to(torch.int8).sort(dim=1, descending=True, stable=True).indices
    places = sample_positions(seed, start.device)
    chosen = (places * count[:, None, None]).long().clamp_(max=start.shape[1] - 1).view(batch, -1)
    index = in_order.gather(1, chosen)[..., None].expand(-1, -1, 2)
    quads = [points.gather(1, index).view(batch, HYPOTHESES, 4, 2) for points in (start, end)]
    hypotheses = homography_from_four_points(*quads)

    squared = squared_transfer_error(hypotheses, start[:, None], end[:, None])
    limit = inlier * inlier
    best = truncated_sum(squared, valid[:, None], limit).argmin(1)
    homography = hypotheses.gather(1, best[:, None, None, None].expand(-1, 1, 3, 3))[:, 0]
    for _ in range(FIRST_REFINEMENTS):
        homography = gauss_newton_step(homography, start, end, valid, limit)
    return homography


def truncated_sum(squared_errors: Tensor, valid: Tensor, limit: float) -> Tensor:
    """The sum over the matches of their squared errors, each truncated at `limit`."""
    return (squared_errors.clamp(max=limit) * valid).sum(-1)


@lru_cache(maxsize=16)
def sample_positions(seed: int, device: torch.device) -> Tensor:
    """Relative positions of four matches for each hypothesis, in [0, 1): float32 [HYPOTHESES, 4].

    Drawn on the CPU: a GPU's generator gives different numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(HYPOTHESES, 4, generator=generator, dtype=torch.float64).to(torch.float32).to(device)


def homography_from_four_points(start: Tensor, end: Tensor) -> Tensor:
    """The homographies that map four points to four others: [..., 4, 2] twice -> [..., 3, 3].

    In closed form, by way of the basis in which the four points are (1,0,0), (0,1,0), (0,0,1), (1,1,1).
    Degenerate points give some matrix that fits nothing, never a NaN.
    """
    result = multiply(_basis(end), _adjugate(_basis(start)))
    largest = result.abs().amax((-1, -2), keepdim=True).clamp_min(1e-30)
    sign = torch.where(result[..., 2:, 2:] < 0, -1.0, 1.0)
    return result / largest * sign


def _basis(points: Tensor) -> Tensor:
    """The matrix [a p1, b p2, c p3] whose columns add up to a multiple of p4."""
    one = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    p1, p2, p3, p4 = one.unbind(-2)
    a, b, c = _determinant(p4, p2, p3), _determinant(p1, p4, p3), _determinant(p1, p2, p4)
    return torch.stack([p1 * a[..., None], p2 * b[..., None], p3 * c[..., None]], -1)


def _determinant(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return (torch.linalg.cross(a, b) * c).sum(-1)


def _adjugate(matrix: Tensor) -> Tensor:
    a, b, c = matrix.unbind(-1)
    rows = [torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)]
    return torch.stack(rows, -2)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """The product of small matrices [..., n, k] and [..., k, m] without matrix units (TF32)."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def transform(homographies: Tensor, points: Tensor) -> Tensor:
    """Points [..., N, 2] mapped by homographies [..., 3, 3]; far away if behind the camera."""
    x, y = points.unbind(-1)
    h = homographies[..., None]
    scale = h[..., 2, 0, :] * x + h[..., 2, 1, :] * y + h[..., 2, 2, :]
    scale = torch.where(scale > SMALLEST, scale, SMALLEST)
    moved_x = h[..., 0, 0, :] * x + h[..., 0, 1, :] * y + h[..., 0, 2, :]
    moved_y = h[..., 1, 0, :] * x + h[..., 1, 1, :] * y + h[..., 1, 2, :]
    return torch.stack([moved_x / scale, moved_y / scale], -1)


def squared_transfer_error(homographies: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """The squared distance of the mapped start points from the end points."""
    return (transform(homographies, start) - end).square().sum(-1)


def gauss_newton_step(homography: Tensor, start: Tensor, end: Tensor, valid: Tensor, limit: float) -> Tensor:
    """One Gauss-Newton step on the error of the matches, weighted by Tukey's biweight.

    Matches beyond twice the inlier distance have zero weight.
    """
    homography = homography / _not_zero(homography[:, 2:, 2:])
    x, y = start.unbind(-1)
    h = homography[..., None]
    scale = _not_zero(h[:, 2, 0] * x + h[:, 2, 1] * y + h[:, 2, 2])
    moved = transform(homography, start)
    error = end - moved
    weight = (1 - error.square().sum(-1) / (4 * limit)).clamp_min(0).square() * valid
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    jacobian = (
        torch.stack(
            [
                torch.stack([x, y, one, zero, zero, zero, -moved[..., 0] * x, -moved[..., 0] * y], -1),
                torch.stack([zero, zero, zero, x, y, one, -moved[..., 1] * x, -moved[..., 1] * y], -1),
            ],
            -2,
        )
        / scale[..., None, None]
    )  # [B, N, 2, 8]
    weighted = jacobian * weight[..., None, None]
    normal = (weighted[..., :, None] * jacobian[..., None, :]).sum((1, 2))
    right = (weighted * error[..., None]).sum((1, 2))
    normal = normal + RIDGE * torch.eye(8, device=normal.device)
    change = torch.linalg.solve_ex(normal, right).result
    return homography + functional.pad(change, (0, 1)).view(-1, 3, 3)


def _not_zero(values: Tensor) -> Tensor:
    return torch.where(values.abs() < SMALLEST, SMALLEST, values)


def centre_and_scale(height: int, width: int) -> tuple[tuple[float, float], float]:
    """The origin of the centred coordinates, and the pixels in their unit."""
    return ((width - 1) / 2, (height - 1) / 2), max(height, width) / 2


def centred(points: Tensor, height: int, width: int) -> Tensor:
    """Points [..., 2] in pixels, in centred coordinates."""
    centre, scale = centre_and_scale(height, width)
    return (points - constant(centre, points.device)) / scale


def in_pixels(fitted: Tensor, centre: tuple[float, float], scale: float) -> Tensor:
    """Homographies in centred coordinates converted to pixels, with last element 1."""
    x, y = centre
    device = fitted.device
    to_centred = constant(((1 / scale, 0, -x / scale), (0, 1 / scale, -y / scale), (0, 0, 1)), device)
    to_pixels = constant(((scale, 0, x), (0, scale, y), (0, 0, 1)), device)
    result = multiply(multiply(to_pixels, fitted), to_centred)
    return result / _not_zero(result[:, 2:, 2:])


def frame_motion(homographies: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The largest displacement of the frame's corners, and whether the frame keeps its orientation.

    [B, 3, 3] -> (float32 [B] px, bool [B]).
    """
    right, bottom = width - 1.0, height - 1.0
    points = constant(((0, 0), (right, 0), (right, bottom), (0, bottom)), homographies.device)
    moved = transform(homographies, points)
    along, back = moved.roll(-1, 1) - moved, moved.roll(1, 1) - moved
    turned = along[..., 0] * back[..., 1] - along[..., 1] * back[..., 0]
    scale = (homographies[:, 2, None] * functional.pad(points, (0, 1), value=1.0)).sum(2)
    in_front = (turned > 0).all(1) & (scale > 0).all(1) & homographies.isfinite().all(2).all(1)
    return (moved - points).square().sum(2).sqrt().amax(1), in_front
