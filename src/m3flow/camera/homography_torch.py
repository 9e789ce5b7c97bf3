"""The camera's motion of many frame pairs at once, in torch: corners, tracked both ways, and a robust fit.

Corners are the best pixel of each cell by the smaller eigenvalue of the structure tensor (Shi and Tomasi
1994), followed by pyramidal Lucas-Kanade and kept if following them back arrives where they started: the
matches of `homography_opencv`. They need no flow, and where the frames have little contrast they hold when
the flow does not. Hypotheses from four matches each are scored by truncated squared error (MSAC,
Torr and Zisserman 2000); the best is refined by reweighted least squares, and the refinement is always
taken. Elementwise operations throughout: nothing depends on the other pairs, or on TF32.

Convention
----------
As in `m3flow.camera.geometry`: a homography maps (x, y, 1) of the previous frame, in pixels, to the current
frame. Inside the fit points are centred on the frame and divided by half its longer side.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from m3flow.camera import lucas_kanade, thresholds
from m3flow.flow.image_ops import correlate

HYPOTHESES = 128  # 64 do while objects are small; a large moving object asks for more
REFINEMENTS = 6


def find_homographies(previous: Tensor, current: Tensor, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The homography that explains the motion of each pair's background.

    Parameters
    ----------
    previous, current: uint8 or float32 [B, H, W].
    seed: of the hypotheses; the same for every pair, so that a pair's result is its own.

    Returns
    -------
    (float32 [B, 3, 3], bool [B] whether it was accepted): the identity where it was refused (more than 50
    matches and 25 inliers are needed, and a frame that is not turned inside out), and exactly the identity
    where the camera stands still (`m3flow.camera.thresholds`).
    """
    height, width = previous.shape[1:]
    points, valid = corners(previous)
    matches, returned = track(previous, current, points)
    valid = valid & returned
    scale = max(height, width) / 2
    centre = points.new_tensor([(width - 1) / 2, (height - 1) / 2])
    start, end = (points - centre) / scale, (matches - centre) / scale
    fitted, inliers = fit(start, end, valid, thresholds.INLIER_DISTANCE / scale, seed)
    homographies = in_pixels(fitted, centre, scale)

    motion, in_front = frame_motion(homographies, height, width)
    accepted = (valid.sum(1) > thresholds.MATCHES_NEEDED) & (inliers > thresholds.INLIERS_NEEDED) & in_front
    limit = (thresholds.INLIER_DISTANCE / scale) ** 2
    still = cost((start - end).square().sum(-1), valid, limit)
    moving = still > thresholds.STILL_COST * cost(_squared_error(fitted, start, end), valid, limit)
    kept = accepted & (motion >= thresholds.STILL) & moving
    identity = torch.eye(3, device=previous.device)
    return torch.where(kept[:, None, None], homographies, identity), accepted


def corners(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Each frame's best corners, at most one a cell, best first.

    [B, H, W] -> (float32 [B, N, 2] as (x, y), bool [B, N] which of them are corners).
    """
    batch, height, width = frames.shape
    border, size = thresholds.CORNER_BORDER, thresholds.cell_size(height, width)
    if min(height, width) <= 2 * border:
        return frames.new_zeros(batch, 1, 2, dtype=torch.float32), frames.new_zeros(batch, 1).bool()
    strength = smaller_eigenvalue(frames.to(torch.float32))
    strength = strength[:, border : height - border, border : width - border]
    rows, columns = -(-strength.shape[1] // size), -(-strength.shape[2] // size)
    below, right = rows * size - strength.shape[1], columns * size - strength.shape[2]
    cells = functional.pad(strength, (0, right, 0, below)).view(batch, rows, size, columns, size)
    value, place = cells.transpose(2, 3).reshape(batch, rows * columns, -1).max(2)
    best, cell = value.sort(dim=1, descending=True, stable=True)
    best, cell = best[:, : thresholds.CORNERS], cell[:, : thresholds.CORNERS]
    place = place.gather(1, cell)
    x = cell % columns * size + place % size + border
    y = cell // columns * size + place // size + border
    return torch.stack([x, y], 2).to(torch.float32), best > thresholds.CORNER_QUALITY * best[:, :1]


def smaller_eigenvalue(frames: Tensor) -> Tensor:
    """The smaller eigenvalue of the structure tensor over 3x3 pixels, up to a factor: float32 [B, H, W]."""
    smooth, slope = [1.0, 2.0, 1.0], [-1.0, 0.0, 1.0]
    in_x = correlate(correlate(frames, slope, -1, "reflect"), smooth, -2, "reflect")
    in_y = correlate(correlate(frames, smooth, -1, "reflect"), slope, -2, "reflect")
    products = torch.stack([in_x * in_x, in_y * in_y, in_x * in_y])
    box = [1.0, 1.0, 1.0]
    xx, yy, xy = correlate(correlate(products, box, -1, "reflect"), box, -2, "reflect")
    half_difference = (xx - yy) / 2
    return (xx + yy) / 2 - (half_difference * half_difference + xy * xy).sqrt()


def track(previous: Tensor, current: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Where points [B, N, 2] are in the current frames, and whether that can be trusted: bool [B, N].

    They can if they come back to within 0.5 px when followed backwards, stay in the frame, and moved 25 px
    at most.
    """
    one, two = lucas_kanade.pyramid(previous.float()), lucas_kanade.pyramid(current.float())
    end = lucas_kanade.follow(one, two, points)
    back = lucas_kanade.follow(two, one, end)
    height, width = previous.shape[1:]
    last = end.new_tensor([width - 1, height - 1])
    good = ((end >= 0) & (end <= last)).all(2)
    good &= (back - points).square().sum(2) < thresholds.RETURN_DISTANCE**2
    good &= (end - points).square().sum(2) <= thresholds.MATCH_RADIUS**2
    return end, good


def fit(start: Tensor, end: Tensor, valid: Tensor, threshold: float, seed: int) -> tuple[Tensor, Tensor]:
    """A robust homography for each pair from matches in centred coordinates.

    start, end: float32 [B, N, 2]; valid: bool [B, N]; threshold: the inliers' largest error.
    Returns (float32 [B, 3, 3], the number of inliers [B]).
    """
    batch = len(start)
    count = valid.sum(1)
    in_order = valid.to(torch.int8).sort(dim=1, descending=True, stable=True).indices
    places = draws(seed).to(start.device)
    chosen = (places * count[:, None, None]).long().clamp_(max=start.shape[1] - 1).view(batch, -1)
    index = in_order.gather(1, chosen)[..., None].expand(-1, -1, 2)
    quads = [points.gather(1, index).view(batch, HYPOTHESES, 4, 2) for points in (start, end)]
    hypotheses = through_four(*quads)

    squared = _squared_error(hypotheses, start[:, None], end[:, None])
    limit = threshold * threshold
    best = cost(squared, valid[:, None], limit).argmin(1)
    homography = hypotheses[torch.arange(batch, device=start.device), best]
    for _ in range(REFINEMENTS):
        homography = _refine(homography, start, end, valid, limit)
    inliers = ((_squared_error(homography, start, end) <= limit) & valid).sum(1)
    return homography, inliers


def cost(squared_errors: Tensor, valid: Tensor, limit: float) -> Tensor:
    """The sum over the matches of their squared errors, each counted up to `limit`."""
    return (squared_errors.clamp(max=limit) * valid).sum(-1)


@lru_cache(maxsize=16)
def draws(seed: int) -> Tensor:
    """Four places in the list of matches for each hypothesis, in [0, 1): float64 [HYPOTHESES, 4].

    Drawn on the CPU: a GPU's generator gives other numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(HYPOTHESES, 4, generator=generator, dtype=torch.float64).to(torch.float32)


def through_four(start: Tensor, end: Tensor) -> Tensor:
    """The homographies that take four points to four others: [..., 4, 2] twice -> [..., 3, 3].

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
    """Points [..., N, 2] through homographies [..., 3, 3]; far away where they are behind the camera."""
    x, y = points.unbind(-1)
    h = homographies[..., None]
    scale = h[..., 2, 0, :] * x + h[..., 2, 1, :] * y + h[..., 2, 2, :]
    scale = torch.where(scale > 1e-6, scale, 1e-6)
    moved_x = h[..., 0, 0, :] * x + h[..., 0, 1, :] * y + h[..., 0, 2, :]
    moved_y = h[..., 1, 0, :] * x + h[..., 1, 1, :] * y + h[..., 1, 2, :]
    return torch.stack([moved_x / scale, moved_y / scale], -1)


def _squared_error(homographies: Tensor, start: Tensor, end: Tensor) -> Tensor:
    return (transform(homographies, start) - end).square().sum(-1)


def _refine(homography: Tensor, start: Tensor, end: Tensor, valid: Tensor, limit: float) -> Tensor:
    """One Gauss-Newton step on the error of the matches, weighted by Tukey's biweight.

    A match counts nothing beyond twice the inliers' distance.
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
    # Keeps pairs without enough matches solvable; far below what any real match weighs.
    normal = normal + 1e-6 * torch.eye(8, device=normal.device)
    change = torch.linalg.solve_ex(normal, right).result
    return homography + functional.pad(change, (0, 1)).view(-1, 3, 3)


def _not_zero(values: Tensor) -> Tensor:
    return torch.where(values.abs() < 1e-6, 1e-6, values)


def in_pixels(fitted: Tensor, centre: Tensor, scale: float) -> Tensor:
    """Homographies of centred coordinates as homographies of pixels, the last element 1."""
    x, y = centre.tolist()
    to_centred = fitted.new_tensor([[1 / scale, 0, -x / scale], [0, 1 / scale, -y / scale], [0, 0, 1]])
    to_pixels = fitted.new_tensor([[scale, 0, x], [0, scale, y], [0, 0, 1]])
    result = multiply(multiply(to_pixels, fitted), to_centred)
    return result / _not_zero(result[:, 2:, 2:])


def frame_motion(homographies: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """How far each homography moves the frame's corners at most, and whether the frame stays right side out.

    [B, 3, 3] -> (float32 [B] px, bool [B]).
    """
    right, bottom = width - 1.0, height - 1.0
    points = homographies.new_tensor([[0, 0], [right, 0], [right, bottom], [0, bottom]])
    moved = transform(homographies, points)
    along, back = moved.roll(-1, 1) - moved, moved.roll(1, 1) - moved
    turned = along[..., 0] * back[..., 1] - along[..., 1] * back[..., 0]
    scale = (homographies[:, 2, None] * functional.pad(points, (0, 1), value=1.0)).sum(2)
    in_front = (turned > 0).all(1) & (scale > 0).all(1) & homographies.isfinite().all(2).all(1)
    return (moved - points).square().sum(2).sqrt().amax(1), in_front
