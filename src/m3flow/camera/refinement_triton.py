"""A Gauss-Newton step on a homography in Triton, for GPUs that Triton supports.

Convention
----------
Homographies and points as in `m3flow.camera.homography_torch`; a homography is nine numbers h00 to h22, by rows.
"""

# Triton's kernel arguments (pointers, scalars, constants) have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from m3flow.camera import homography_torch

RIDGE = tl.constexpr(homography_torch.RIDGE)
SMALLEST = tl.constexpr(homography_torch.SMALLEST)


@triton.jit
def numbers(homography):
    """The numbers of a homography in memory."""
    h = homography
    return (
        tl.load(h), tl.load(h + 1), tl.load(h + 2),
        tl.load(h + 3), tl.load(h + 4), tl.load(h + 5),
        tl.load(h + 6), tl.load(h + 7), tl.load(h + 8),
    )  # fmt: skip


@triton.jit
def keep(homography, h00, h01, h02, h10, h11, h12, h20, h21, h22):
    """Store a homography's nine numbers, for all threads to read."""
    tl.store(homography, h00)
    tl.store(homography + 1, h01)
    tl.store(homography + 2, h02)
    tl.store(homography + 3, h10)
    tl.store(homography + 4, h11)
    tl.store(homography + 5, h12)
    tl.store(homography + 6, h20)
    tl.store(homography + 7, h21)
    tl.store(homography + 8, h22)
    tl.debug_barrier()


@triton.jit
def normalised(h00, h01, h02, h10, h11, h12, h20, h21, h22):
    """With last element 1."""
    factor = 1 / tl.where(tl.abs(h22) < SMALLEST, SMALLEST, h22)
    return (
        h00 * factor, h01 * factor, h02 * factor,
        h10 * factor, h11 * factor, h12 * factor,
        h20 * factor, h21 * factor, h22 * factor,
    )  # fmt: skip


@triton.jit
def moved(h00, h01, h02, h10, h11, h12, h20, h21, h22, x, y):
    """Points mapped by homographies as `transform` does, and the reciprocal of their scale."""
    scale = h20 * x + h21 * y + h22
    inverse = 1 / tl.where(scale > SMALLEST, scale, SMALLEST)
    return (h00 * x + h01 * y + h02) * inverse, (h10 * x + h11 * y + h12) * inverse, inverse


@triton.jit
def squared_error(h00, h01, h02, h10, h11, h12, h20, h21, h22, start, end, match, live):
    """The squared transfer error of matches."""
    x, y = tl.load(start + 2 * match, mask=live, other=0), tl.load(start + 2 * match + 1, mask=live, other=0)
    to_x, to_y, _ = moved(h00, h01, h02, h10, h11, h12, h20, h21, h22, x, y)
    to_x -= tl.load(end + 2 * match, mask=live, other=0)
    to_y -= tl.load(end + 2 * match + 1, mask=live, other=0)
    return to_x * to_x + to_y * to_y


@triton.jit
def factorised(xx, xy, x, yy, y, one):
    """L D L^T of a symmetric 3x3 matrix: the diagonal of D and the entries of L.

    With the ridge that keeps too few matches solvable. Without rounding, no element of D would be below it.
    """
    first = tl.maximum(xx + RIDGE, RIDGE)
    a, b = xy / first, x / first
    second = tl.maximum(yy + RIDGE - a * xy, RIDGE)
    c = (y - a * x) / second
    third = tl.maximum(one + RIDGE - b * x - c * (y - a * x), RIDGE)
    return first, second, third, a, b, c


@triton.jit
def solution(first, second, third, a, b, c, x, y, z):
    """The solution of a factorised 3x3 system for the right side (x, y, z)."""
    y -= a * x
    z = (z - b * x - c * y) / third
    y = y / second - c * z
    return x / first - a * y - b * z, y, z


@triton.jit
def solution_of_two(xx, xy, yy, x, y):
    """The solution of a symmetric 2x2 system for the right side (x, y), with the ridge."""
    xx = tl.maximum(xx + RIDGE, RIDGE)
    factor = xy / xx
    y = (y - factor * x) / tl.maximum(yy + RIDGE - factor * xy, RIDGE)
    return x / xx - factor * y, y


@triton.jit
def products(xx, xy, yy, x, y, moved):
    """The sums over the matches of products with a moved coordinate."""
    return tl.sum(xx * moved), tl.sum(xy * moved), tl.sum(yy * moved), tl.sum(x * moved), tl.sum(y * moved)


@triton.jit
def eliminated(first, second, third, a, b, c, xx, xy, yy, x, y, right_x, right_y, right):
    """What eliminating a row of the homography takes from the equations of h20 and h21.

    xx to y: the row's `products`, which connect it with h20 and h21; right_x to right: its right side.
    """
    p0, p1, p2 = solution(first, second, third, a, b, c, xx, xy, x)
    q0, q1, q2 = solution(first, second, third, a, b, c, xy, yy, y)
    r0, r1, r2 = solution(first, second, third, a, b, c, right_x, right_y, right)
    pp, qq, pq = xx * p0 + xy * p1 + x * p2, xy * q0 + yy * q1 + y * q2, xx * q0 + xy * q1 + x * q2
    return pp, pq, qq, xx * r0 + xy * r1 + x * r2, xy * r0 + yy * r1 + y * r2


@triton.jit
def refine(homography, start, end, valid, number, limit, LANES: tl.constexpr):
    """One Gauss-Newton step on the error of the matches, weighted by Tukey's biweight, in place.

    As `m3flow.camera.homography_torch.gauss_newton_step`. In the normal equations the first two rows of the homography
    have the same 3x3 block and are connected only through h20 and h21, so that they are eliminated first.
    """
    h00, h01, h02, h10, h11, h12, h20, h21, h22 = numbers(homography)
    h00, h01, h02, h10, h11, h12, h20, h21, h22 = normalised(h00, h01, h02, h10, h11, h12, h20, h21, h22)
    lane = tl.arange(0, LANES)
    counts = tl.load(valid + lane, mask=lane < number, other=0) > 0
    x = tl.load(start + 2 * lane, mask=counts, other=0)
    y = tl.load(start + 2 * lane + 1, mask=counts, other=0)
    to_x, to_y, inverse = moved(h00, h01, h02, h10, h11, h12, h20, h21, h22, x, y)
    off_x = tl.load(end + 2 * lane, mask=counts, other=0) - to_x
    off_y = tl.load(end + 2 * lane + 1, mask=counts, other=0) - to_y
    weight = tl.maximum(1 - (off_x * off_x + off_y * off_y) / (4 * limit), 0.0)
    weight = tl.where(counts, weight * weight * inverse, 0.0)
    off_x, off_y = off_x * weight, off_y * weight
    off = off_x * to_x + off_y * to_y
    right_x, right_y, right = tl.sum(off_x * x), tl.sum(off_x * y), tl.sum(off_x)
    down_x, down_y, down = tl.sum(off_y * x), tl.sum(off_y * y), tl.sum(off_y)

    weight *= inverse
    wx, wy, xx, xy, yy = weight * x, weight * y, weight * x * x, weight * x * y, weight * y * y
    first, second, third, a, b, c = factorised(
        tl.sum(xx), tl.sum(xy), tl.sum(wx), tl.sum(yy), tl.sum(wy), tl.sum(weight)
    )
    x_xx, x_xy, x_yy, x_x, x_y = products(xx, xy, yy, wx, wy, to_x)
    y_xx, y_xy, y_yy, y_x, y_y = products(xx, xy, yy, wx, wy, to_y)
    pp, pq, qq, p, q = eliminated(
        first, second, third, a, b, c, x_xx, x_xy, x_yy, x_x, x_y, right_x, right_y, right
    )
    y_pp, y_pq, y_qq, y_p, y_q = eliminated(
        first, second, third, a, b, c, y_xx, y_xy, y_yy, y_x, y_y, down_x, down_y, down
    )
    # h20 and h21 enter with the opposite sign.
    length = to_x * to_x + to_y * to_y
    pp, pq, qq = (
        tl.sum(xx * length) - pp - y_pp,
        tl.sum(xy * length) - pq - y_pq,
        tl.sum(yy * length) - qq - y_qq,
    )
    p, q = solution_of_two(pp, pq, qq, tl.sum(off * x) - p - y_p, tl.sum(off * y) - q - y_q)
    right_x, right_y, right = (
        right_x - x_xx * p - x_xy * q,
        right_y - x_xy * p - x_yy * q,
        right - x_x * p - x_y * q,
    )
    down_x, down_y, down = (
        down_x - y_xx * p - y_xy * q,
        down_y - y_xy * p - y_yy * q,
        down - y_x * p - y_y * q,
    )
    d00, d01, d02 = solution(first, second, third, a, b, c, right_x, right_y, right)
    d10, d11, d12 = solution(first, second, third, a, b, c, down_x, down_y, down)
    keep(homography, h00 + d00, h01 + d01, h02 + d02, h10 + d10, h11 + d11, h12 + d12, h20 - p, h21 - q, h22)
